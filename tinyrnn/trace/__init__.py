"""Traces: what the recurrent layers of a model compute, step by step.

A traced run has the same results; its kernels also store their gates. They are a second page of code, compiled
for the first trace only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array, Port, as_dtype, batch_entry, frame_input, match_inputs
from tinyrnn.graph.clock import FRAMES
from tinyrnn.runtime import Model, Stream
from tinyrnn.trace.program import Kept

__all__ = ["Layer", "Trace", "Tracer", "computed_parts"]

COUNTERS = ("frames", "started")
"""parts of a state that are counters, not results"""
BETWEEN = ("step", "direction", "batch")
"""possible axes of a layer between time and unit"""


@dataclass(frozen=True, eq=False)
class Layer:
    """The results of one recurrent node.

    Every array has the axes `axes`: 'time' first, 'unit' last, and between them those of 'step' (time within one
    frame), 'direction' (forward, backward) and 'batch' (sequences inside one frame) that have more than one entry.
    """

    op: str
    axes: tuple[str, ...]
    gates: dict[str, Array]
    """gates after their activations, by ONNX's names. LSTM: i, o, f and the candidate c; GRU: z, r and the candidate h"""
    h: Array
    """the hidden state Ht"""
    c: Array | None
    """the cell state Ct of LSTM"""

    @property
    def arrays(self) -> dict[str, Array]:
        """The gates, the cell state as Ct, and the hidden state as Ht."""
        return {**self.gates, **({} if self.c is None else {"Ct": self.c}), "Ht": self.h}

    @property
    def inside(self) -> bool:
        """Whether one frame holds the whole sequence."""
        return len(self.h) == 1 and "step" in self.axes

    def table(self, array: Array) -> Array:
        """One of the arrays as [time, cells]; if one frame holds the whole sequence, its steps are the time."""
        return array.reshape(array.shape[1] if self.inside else len(array), -1)

    @property
    def cells(self) -> int:
        """The number of cells: the units of every direction, sequence and step of one frame."""
        return int(self.table(self.h).shape[1])

    def cell(self, number: int) -> Array:
        """One cell over time, [T]: tanh(Ct) of LSTM, Ht of the others. Raises `ShapeError`."""
        if not 0 <= number < self.cells:
            raise ShapeError(f"there is no cell {number}; this {self.op} has {self.cells:,}: 0 to {self.cells - 1}")
        values: Array = self.table(self.h if self.c is None else np.tanh(self.c))[:, number]
        return values


@dataclass(frozen=True, eq=False)
class Trace:
    """The inputs, outputs and inner results of one run."""

    model: str
    frames: int
    inputs: dict[str, Array]
    """[T, *frame]; what belongs to a call, [*frame]"""
    outputs: dict[str, Array]
    """[rows, *frame]; what belongs to a call, [*frame]"""
    layers: dict[str, Layer]
    """layers by the name of the node, in the order of the model"""
    states: dict[str, Array] = field(default_factory=dict)
    """[T, *shape]: the state after each frame, of a stream whose model has no recurrent layer"""
    times: dict[str, tuple[float, float]] = field(default_factory=dict)
    """name of an array with rows → (frame of the first row, frames from one row to the next)"""

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays by name; those of a layer as "<node>.<name>" with the names of `Layer.arrays`."""
        inside = {f"{name}.{key}": array for name, layer in self.layers.items() for key, array in layer.arrays.items()}
        return {**self.inputs, **self.outputs, **self.states, **inside}

    def layer(self, name: str | None = None) -> Layer:
        """A layer by its name, or the last one. Raises `ShapeError`, listing the layers, for an unknown name."""
        if not self.layers:
            raise ShapeError(f"{self.model} has no RNN, GRU or LSTM layer")
        if name is not None and name not in self.layers:
            raise ShapeError(f"{self.model} has no recurrent layer {name!r}; it has {', '.join(map(repr, self.layers))}")
        return self.layers[list(self.layers)[-1] if name is None else name]

    def part(self, start: int, end: int) -> Trace:
        """The trace of frames `start` to `end - 1`, counted from 0, of a trace whose rows are time."""

        def cut(name: str, array: Array) -> Array:
            if name not in self.times:
                return array
            first, each = self.times[name]
            low, high = (max(round((frame - first) / each), 0) for frame in (start, end))
            return array[low:high]

        layers = {
            name: replace(
                layer,
                gates={key: cut(name, array) for key, array in layer.gates.items()},
                h=cut(name, layer.h),
                c=None if layer.c is None else cut(name, layer.c),
            )
            for name, layer in self.layers.items()
        }
        parts = ({name: cut(name, array) for name, array in group.items()} for group in (self.inputs, self.outputs, self.states))
        inputs, outputs, states = parts
        times = {n: (max(first - start, (first - start) % each), each) for n, (first, each) in self.times.items()}
        return Trace(self.model, end - start, inputs, outputs, layers, states, times)

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.frames:,} frame{'s'[: self.frames != 1]}"]
        for kind, group in (("input ", self.inputs), ("output", self.outputs), ("state ", self.states)):
            lines += [f"  {kind} {name}: {array.dtype}{list(array.shape)}" for name, array in group.items()]
        for name, layer in self.layers.items():
            lines.append(f"  {layer.op:6} {name}: [{', '.join(f'{n} {a}' for n, a in self._sizes(layer))}]")
            for key, array in layer.arrays.items():
                figures = f"{array.min():7.3f} to {array.max():6.3f}, mean {array.mean():6.3f}" if array.size else "no rows"
                lines.append(f"         {key:2}  {figures}")
        return "\n".join(lines)

    @staticmethod
    def _sizes(layer: Layer) -> list[tuple[int, str]]:
        return list(zip(layer.h.shape, layer.axes, strict=True))


def computed_parts(stream: Stream) -> dict[str, Array]:
    """Views of the floating parts of a stream's state, without counters."""
    return {name: part for name, part in stream.states.items() if part.dtype.kind == "f" and name not in COUNTERS}


class Tracer:
    """The second page of a model, and the conversion of its outputs to a `Trace`."""

    def __init__(self, model: Model, kept: Sequence[Kept]) -> None:
        self.model, self.kept = model, {k.port: k for k in kept}
        layout = model._layout
        self.ports = {p.name: p for p in (*layout.inputs, *layout.outputs)}

    def stream(self, stream: Stream, inputs: Sequence[Any], named: Mapping[str, Any], end: bool) -> Trace:
        """The trace of a stream's `run` and, with `end`, of its `flush`; the stream goes on in the same way."""
        layout = self.model._layout
        values = match_inputs(layout.name, [p.name for p in layout.inputs], inputs, named)
        given = [frame_input(layout.name, p, v, True) for p, v in zip(layout.inputs, values, strict=True)]
        arrays = {p.name: array for p, (array, _) in zip(layout.inputs, given, strict=True)}
        frames = max((count for _, count in given if count is not None), default=0)
        inner, before = Stream(self.model), stream._context.frames
        _carry_on(stream, inner)
        states: dict[str, list[Array]] = {}
        if self.kept or not computed_parts(inner) or not frames:
            pieces = [inner.run(arrays)]
        else:
            pieces = self._frame_by_frame(inner, arrays, frames, states)
        if end and self.model.has_tail:
            pieces.append(inner.flush())
        _carry_on(inner, stream)
        made = {}
        for index, port in enumerate(layout.outputs):
            rows = [part for piece in pieces if (part := _entries(piece, layout.outputs)[index]) is not None]
            made[port.name] = np.concatenate(rows) if port.per_frame else rows[-1]
        return self._trace(arrays, made, before, frames, {name: np.stack(parts) for name, parts in states.items()})

    def _frame_by_frame(
        self, inner: Stream, arrays: Mapping[str, Array], frames: int, states: dict[str, list[Array]]
    ) -> list[Any]:
        pieces = []
        for t in range(frames):
            frame = {name: a[t : t + 1] if self.ports[name].per_frame else a for name, a in arrays.items()}
            pieces.append(inner.run(frame))
            for name, part in computed_parts(inner).items():
                states.setdefault(name, []).append(part.copy())
        return pieces

    def whole(self, inputs: Sequence[Any], named: Mapping[str, Any], entry: int) -> Trace:
        """The trace of `Model.run` in the file's shapes, for the sequence `entry` of a batch."""
        layout = self.model._layout
        values = dict(zip(layout.file_inputs, match_inputs(layout.name, layout.file_inputs, inputs, named), strict=True))
        results = dict(zip(layout.file_outputs, _entries(self.model.run(values), layout.file_outputs), strict=True))
        arrays = {p.name: as_dtype(layout.name, p, values[p.name]) for p in layout.inputs}
        batch = max(
            (a.shape[p.roles.index("batch")] for p in layout.inputs if "batch" in p.roles for a in (arrays[p.name],)), default=1
        )
        if not 0 <= entry < batch:
            raise ShapeError(f"{layout.name}: there is no sequence {entry} in a batch of {batch}; they count from 0")
        inside = {p.name: _framed(p, _entry(p, arrays[p.name], entry, batch)) for p in layout.inputs}
        made = {p.name: _framed(p, _entry(p, results[p.name], entry, batch)) for p in layout.outputs}
        frames = max((len(inside[p.name]) for p in layout.inputs if p.per_frame), default=1)
        return self._trace(inside, made, 0, frames, {})

    def _trace(
        self, inputs: dict[str, Array], made: dict[str, Array], before: int, frames: int, states: dict[str, Array]
    ) -> Trace:
        names = {port: kept.node for port, kept in self.kept.items()}
        times = {names.get(n, n): _times(p, before) for n, p in self.ports.items() if p.per_frame}
        return Trace(
            self.model.name,
            frames,
            inputs,
            {name: array for name, array in made.items() if name not in self.kept},
            {kept.node: _layer(kept, made[port], self.ports[port]) for port, kept in self.kept.items()},
            states,
            times | dict.fromkeys(states, (0.0, 1.0)),
        )


def _carry_on(one: Stream, other: Stream) -> None:
    """Give one stream the state of another."""
    other.state = one.state
    other._context.ended, other._driver.per_call = one._context.ended, one._driver.per_call


def _entries(answer: Any, names: Sequence[Any]) -> Sequence[Any]:
    """The results of a call by name."""
    return [answer] if len(names) == 1 else list(answer)


def _entry(port: Port, array: Array, entry: int, batch: int) -> Array:
    """One sequence of a batch in the file's shape, time first."""
    joined = next((axis for axis, role in enumerate(port.roles) if role and "+" in role), None)
    if joined is None:
        return batch_entry(array, port, entry)
    frames = array.shape[joined] // batch
    batch_first = port.roles[joined] == "batch+time"
    taken: Array = np.moveaxis(array, joined, 0)[
        slice(entry * frames, (entry + 1) * frames) if batch_first else slice(entry, None, batch)
    ]
    return taken


def _framed(port: Port, array: Array) -> Array:
    return array.reshape(-1, *port.shape) if port.per_frame else array.reshape(port.shape)


def _times(port: Port, before: int) -> tuple[float, float]:
    """(frame of the first row after `before` frames, counted from there; frames from row to row)."""
    if port.clock == FRAMES:
        return 0.0, 1.0
    clock, far = port.clock, port.clock.delay + 8 * port.clock.stride
    each = port.clock.stride / (clock.count(far + clock.stride) - clock.count(far))
    return clock.count(before) * each - before, each


def _layer(kept: Kept, array: Array, port: Port) -> Layer:
    rows = array if port.per_frame else array[None]
    order = [kept.axes.index(axis) + 1 for axis in ("value", *BETWEEN, "unit")]
    moved = rows.transpose([order[0], 0, *order[1:]])
    sizes = dict(zip(BETWEEN, moved.shape[2:-1], strict=True))
    axes = tuple(axis for axis in BETWEEN if sizes[axis] > 1)
    shaped = np.ascontiguousarray(moved).reshape(len(moved), len(rows), *(sizes[axis] for axis in axes), moved.shape[-1])
    values = dict(zip(kept.values, shaped, strict=True))
    h, c = values.pop("Ht"), values.pop("Ct", None)
    return Layer(kept.op, ("time", *axes, "unit"), values, h, c)
