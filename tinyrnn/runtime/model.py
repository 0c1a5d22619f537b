"""`Model`: compiled code with its weights, for any number of streams; and whole sequences in the file's own shapes."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyrnn.arrays import (
    Array,
    Port,
    as_dtype,
    batch_entry,
    check_file_shape,
    full_shape,
    match_inputs,
    put_batch_entry,
    rows_first,
    shape_text,
)
from tinyrnn.errors import ShapeError, StreamError
from tinyrnn.runtime.memory import Context, Layout, part_views
from tinyrnn.runtime.stream import Stream


class Model:
    """A compiled model. Immutable; any number of streams and threads may share it.

    Made by `tinyrnn.load`. `inputs`, `outputs` and `states` describe one frame of a stream.
    """

    def __init__(self, layout: Layout, code: Any, source: Any = None, tracer: Callable[[], Any] | None = None) -> None:
        """`tracer` makes what `trace` uses, when that is first called."""
        self._layout, self._code = layout, code
        self._source, self._tracer = source, tracer
        self._result = _named(layout.name, [p.name for p in layout.outputs])
        self._file_result = _named(layout.name, list(layout.file_outputs))

    @property
    def name(self) -> str:
        return self._layout.name

    @property
    def kind(self) -> str:
        """'sequence' (walks time), 'step' (one frame at a time, states in and out) or 'static' (no state)."""
        return self._layout.kind

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self._layout.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self._layout.outputs

    @property
    def states(self) -> tuple[Port, ...]:
        """The parts of `Stream.state`, in order."""
        return tuple(Port(name, shape, dtype) for name, _, shape, dtype in self._layout.state_parts)

    @property
    def has_tail(self) -> bool:
        """Whether a sequence can have more rows than its frames alone give, which `Stream.flush` then makes."""
        return bool(self._layout.waits)

    @property
    def delay(self) -> int:
        """Frames by which the outputs of a stream are late, because the model looks ahead: the tail comes with `Stream.flush`."""
        return max((clock.delay for clock in self._layout.waits), default=0)

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself, as strings."""
        return dict(self._layout.metadata)

    def stream(self) -> Stream:
        """A new live input in its initial state.

        Raises `StreamError` with the node that forbids it where the model needs the whole sequence.
        """
        if self._layout.refuses_stream:
            raise StreamError(f"{self.name} cannot stream: {self._layout.refuses_stream}. Run whole sequences with model.run(x)")
        return Stream(self)

    def run(self, *inputs: Any, **named: Any) -> Any:
        """Every input in the file's own shape, every output in the file's own shape; nothing is remembered.

        Inputs are positional in the file's order, by keyword, or one dict. One output comes back as an array,
        several as a named tuple. Raises `ShapeError`.
        """
        return _run_file(self, inputs, named)

    def trace(self, *inputs: Any, entry: int = 0, **named: Any) -> Any:
        """As `run`, seen from inside: a `tinyrnn.trace.Trace` of one run, of a batch the sequence `entry`.

        The first trace of a model compiles it once more. Raises `ShapeError`.
        """
        return self.traced().whole(inputs, named, entry)

    def traced(self) -> Any:
        """The `tinyrnn.trace.Tracer` of this model. Raises `StreamError` where it cannot be made."""
        if self._tracer is None:
            raise StreamError(f"{self.name}: a model that was not made by tinyrnn.load has no trace")
        return self._tracer()

    def __str__(self) -> str:
        layout = self._layout
        lines = [
            f"{layout.name}: {layout.kind} model, {layout.multiply_adds:,} multiply-adds per frame, "
            f"{layout.weights.nbytes:,} bytes of weights"
        ]
        lines += [f"  input  {p}  (file {shape_text(p)})" for p in layout.inputs]
        lines += [f"  output {p}  (file {shape_text(p)})" for p in layout.outputs]
        lines += [f"  state  {p}" for p in self.states]
        if self.delay:
            lines.append(f"  delay  {self.delay} frames: it looks ahead")
        if layout.refuses_stream:
            lines.append(f"  cannot stream: {layout.refuses_stream}")
        return "\n".join(lines)

    __repr__ = __str__


def _named(name: str, fields: Sequence[str]) -> Any:
    """A named tuple for several outputs; None for one."""
    if len(fields) == 1:
        return None
    return namedtuple("Outputs", fields, rename=True)  # type: ignore[misc]


def _run_file(model: Model, inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """`Model.run`: the file's shapes, one batch entry after the other."""
    layout = model._layout
    ports = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
    values = dict(zip(layout.file_inputs, match_inputs(layout.name, layout.file_inputs, inputs, named), strict=True))
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for name, value in values.items():
        arrays[name] = as_dtype(layout.name, ports[name], value)
        check_file_shape(layout.name, ports[name], arrays[name], sizes)
    batch = sizes.get("batch", next((len(a) for a in layout.batches.values()), 1))
    for name, constant in layout.batches.items():
        if len(constant) != batch:
            raise ShapeError(f"{layout.name}: a batch of {batch}, but the file's constant {name!r} has {len(constant)} entries")
    frames = sizes.get("time", 1)
    if frames == 0:
        raise ShapeError(f"{layout.name}: a sequence of no frames")
    outputs = {p.name: p for p in (*layout.outputs, *layout.state_outputs)}
    results = {name: np.empty(full_shape(port, batch, frames), port.dtype) for name, port in outputs.items()}
    context = Context(layout)
    end = frames if layout.waits else -1
    ends = dict(zip([p.name for p in layout.state_outputs], [p[0] for p in layout.state_parts], strict=False))
    views = part_views(layout, context.state)
    if layout.kind == "static" and all("batch" in p.roles and p.per_frame for p in (*layout.inputs, *layout.outputs)):
        given = [np.asarray(rows_first(arrays[p.name], p), order="C") for p in layout.inputs]
        made = [np.empty((batch, *p.shape), p.dtype) for p in layout.outputs]
        context.execute(model._code.run, [*given, *made], batch)  # without state, batch entries are frames
        for port, array in zip(layout.outputs, made, strict=True):
            target = rows_first(results[port.name], port)
            target[...] = array.reshape(target.shape)
        batch = 0
    for entry in range(batch):
        context.reset()
        for port in layout.state_inputs:
            views[port.name][...] = batch_entry(arrays[port.name], port, entry).reshape(views[port.name].shape)
        given = [batch_entry(arrays[p.name], p, entry) for p in layout.inputs]
        made = [
            np.empty((p.clock.whole(frames), *p.shape) if p.per_frame and layout.kind == "sequence" else p.shape, p.dtype)
            for p in layout.outputs
        ]
        context.execute(
            model._code.run,
            [*given, *(np.ascontiguousarray(c[entry]) for c in layout.batches.values()), *made],
            layout.last(frames),
            end,
        )
        for port, array in zip(layout.outputs, made, strict=True):
            put_batch_entry(results[port.name], port, entry, array)
        for port in layout.state_outputs:
            put_batch_entry(results[port.name], port, entry, views[ends[port.name]])
    final = [results[name] for name in layout.file_outputs]
    return final[0] if model._file_result is None else model._file_result(*final)
