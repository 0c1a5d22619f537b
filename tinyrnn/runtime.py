"""`Model` and `Stream`: arrays in, arrays out. Needs NumPy and compiled code, no compiler and no ONNX.

A Model is immutable and may be shared between threads. A Stream is the only mutable thing: one live
input, with its state, for one thread at a time.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.arrays import (
    Array,
    Port,
    as_dtype,
    batch_entry,
    check_file_shape,
    describe,
    frame_input,
    full_shape,
    match_inputs,
    put_batch_entry,
    rows_first,
    shape_text,
)
from tinyrnn.clock import Clock
from tinyrnn.errors import ShapeError, StreamError

Progress = Callable[[int, int], None]
"""called with frames done and frames in all"""

ALIGNMENT = 64
PROGRESS_FRAMES = 1 << 14


@dataclass(frozen=True, eq=False, repr=False)
class Layout:
    """What a compiled model needs to run."""

    name: str
    kind: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    state_inputs: tuple[Port, ...]
    state_outputs: tuple[Port, ...]
    file_inputs: tuple[str, ...]
    """all inputs, states too, in the file's order"""
    file_outputs: tuple[str, ...]
    state_parts: tuple[tuple[str, int, tuple[int, ...], np.dtype[Any]], ...]
    """name, offset in float32 elements, shape, dtype"""
    initial_state: Array
    weights: Array
    arena_fixed: int
    arena_per_row: int
    chunk: int
    """rows of one pass; 0: a call is one pass"""
    lead: int
    """rows of capacity more than a pass has frames"""
    waits: tuple[Clock, ...]
    """clocks that must come to their end before a sequence is done, where that takes more than its frames"""
    refuses_stream: str
    batches: Mapping[str, Array]
    multiply_adds: int
    header: int
    """context entries before the addresses"""
    metadata: Mapping[str, str]

    def last(self, frames: int) -> int:
        """After how many frames, the end being known, all rows of a sequence of so many are made."""
        late, beyond = frames, 1
        while any(clock.count(late, frames) < clock.whole(frames) for clock in self.waits):
            late, beyond = late + beyond, 2 * beyond
        while late > frames and all(clock.count(late - 1, frames) == clock.whole(frames) for clock in self.waits):
            late -= 1
        return late


def part_views(layout: Layout, state: Array) -> dict[str, Array]:
    """The parts of a state by name, each in its shape and dtype: views."""
    return {
        name: state[offset : offset + -(-prod(shape) * dtype.itemsize // 4)].view(dtype)[: prod(shape)].reshape(shape)
        for name, offset, shape, dtype in layout.state_parts
    }


def aligned(count: int, dtype: Any = np.uint8) -> Array:
    """An uninitialised array on a 64-byte boundary: NumPy promises 16, and loads that split cache lines are slow."""
    size = count * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype)


def _probe_headers() -> bool:
    """Whether array headers lie as the compiled `call` reads them (CPython with NumPy's public layout)."""
    if (
        platform.python_implementation() != "CPython"
        or ctypes.sizeof(ctypes.c_void_p) != 8
        or not getattr(sys, "_is_gil_enabled", lambda: True)()
    ):
        return False
    array = np.zeros((3, 5), np.float32)
    base = id(array)

    def word(at: int, kind: Any = ctypes.c_int64) -> int:
        return int(kind.from_address(base + at).value)

    return (
        word(8) == id(np.ndarray)
        and word(16) == array.ctypes.data
        and word(24, ctypes.c_int32) == 2
        and ctypes.c_int64.from_address(word(32)).value == 3
        and word(56) == id(array.dtype)
        and word(64, ctypes.c_int32) & 0x501 == 0x501
    )


HEADERS_KNOWN = _probe_headers()


class _MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


METH_FASTCALL = 0x80


def _builtin(address: int, this: Any) -> tuple[Callable[..., Any], Any]:
    """A Python callable for compiled code with the signature of METH_FASTCALL, and what must outlive it."""
    method = _MethodDef(b"step", address, METH_FASTCALL, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return make(ctypes.addressof(method), this, None), method


class Context:
    """The memory of one live input: state, arena, and the addresses that compiled code takes."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.state = aligned(layout.initial_state.size, np.float32)
        ports = [*layout.inputs, *layout.batches, *layout.outputs]
        self.addresses = np.zeros(layout.header + 2 * len(ports), np.int64)
        self.pointer = self.addresses.ctypes.data
        self.addresses[0] = layout.weights.ctypes.data
        self.addresses[1] = self.state.ctypes.data
        self.addresses[4] = -1
        self.counter = part_views(layout, self.state).get("frames")
        self.ended = False
        self.reserve(max(layout.chunk, 1) + layout.lead)
        self.reset()

    def reset(self) -> None:
        self.state[:] = self.layout.initial_state
        self.ended = False

    @property
    def frames(self) -> int:
        """Frames since the reset, where the model counts them."""
        return 0 if self.counter is None else int(self.counter[0])

    def reserve(self, rows: int) -> None:
        """An arena for passes of `rows` rows, its pages touched."""
        self.capacity = rows
        self.arena = aligned(self.layout.arena_fixed + self.layout.arena_per_row * rows + ALIGNMENT)
        self.arena[:] = 0
        self.addresses[2] = self.arena.ctypes.data
        self.addresses[3] = rows

    def execute(self, run: Callable[[int, int], int], arrays: Sequence[Array], frames: int, end: int = -1) -> None:
        """Run over `frames`; arrays are inputs, batch constants and outputs, each as compiled code expects them.

        Where the sequence ends after `end` frames, those beyond have no input: they only let late rows be made.
        """
        if self.layout.chunk == 0 and frames + self.layout.lead > self.capacity:
            self.reserve(frames + self.layout.lead)
        self.addresses[4] = end
        start = self.layout.header
        for index, array in enumerate(arrays):
            self.addresses[start + index] = array.ctypes.data
        status = run(self.pointer, frames)
        if status:
            port = self.layout.inputs[status - 1]
            raise ShapeError(f"{self.layout.name}: input {port.name!r} holds an index that is out of range; nothing was changed")


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


class _Driver:
    """Steps and runs one context; holds everything that a call looks up, and no stream."""

    def __init__(self, model: Model) -> None:
        self.layout, self.context = model._layout, Context(model._layout)
        self.code = model._code  # owns the machine code, also where only `Stream.step` is kept
        self.run, self.named = model._code.run, model._result
        self.single: Callable[..., Any] | None = None
        self.many: Callable[..., Any] | None = None
        self.per_call: list[Array | None] = [None] * len(self.layout.inputs)
        if HEADERS_KNOWN and model._code.calls:
            self._prepare_calls(model._code.calls)

    def _prepare_calls(self, functions: Sequence[int]) -> None:
        """Let Python call the compiled code with arrays as they are; what it declines goes the long way."""
        layout, addresses = self.layout, self.context.addresses
        ports = [*layout.inputs, *layout.outputs]
        api = ctypes.pythonapi
        threads = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in (api.PyEval_SaveThread, api.PyEval_RestoreThread)]
        counting = 0 if sys.version_info >= (3, 12) else 1
        addresses[5 : layout.header] = np.array([id(np.ndarray), id(None), id(False), counting, *threads], np.int64)
        self._dtypes = [p.dtype for p in ports]
        addresses[layout.header + len(ports) :] = np.array([id(dtype) for dtype in self._dtypes], np.int64)
        (self.single, first), (self.many, second) = (_builtin(address, addresses) for address in functions)
        self._keep = first, second

    def short_step(self) -> Callable[..., Any]:
        """`Stream.step` for one input and one output, with everything that it looks up at hand."""
        port, single, driver = self.layout.outputs[0], self.single, self
        shape, dtype, empty, array_type = port.shape, port.dtype, np.empty, np.ndarray
        assert single is not None

        def step(frame: Any = None, /, *rest: Any, out: Any = None, **named: Any) -> Any:
            if out is None:
                result = empty(shape, dtype)
                if not rest and not named and single(frame, result) is None:
                    return result
            elif type(out) is array_type and not named and not rest and single(frame, out) is None:
                return out
            return driver.checked(rest if frame is None else (frame, *rest), named, out, None, None)

        step.__doc__ = Stream.step.__doc__
        return step

    def step(self, inputs: tuple[Any, ...], out: Any, named: Mapping[str, Any]) -> Any:
        if self.single is not None and not named:
            results = [np.empty(p.shape, p.dtype) for p in self.layout.outputs] if out is None else self._given(out)
            if results and self.single(*inputs, *results) is None:
                return self._answer(results)
        return self.checked(inputs, named, out, None, None)

    def run_many(self, inputs: tuple[Any, ...], out: Any, named: Mapping[str, Any], progress: Progress | None) -> Any:
        if self.many is not None and not named and progress is None:
            if out is not None:
                results = self._given(out)
            elif inputs and type(inputs[0]) is np.ndarray and inputs[0].ndim:
                frames = len(inputs[0])
                results = [np.empty((frames, *p.shape) if p.per_frame else p.shape, p.dtype) for p in self.layout.outputs]
            else:
                results = []
            if results and self.many(*inputs, *results) is None:
                return self._answer(results)
        return self.checked(inputs, named, out, -1, progress)

    def _given(self, out: Any) -> list[Any]:
        return [out] if type(out) is np.ndarray else list(out) if isinstance(out, (tuple, list)) else []

    def checked(
        self, inputs: Sequence[Any], named: Mapping[str, Any], out: Any, frames: int | None, progress: Progress | None
    ) -> Any:
        layout = self.layout
        given = match_inputs(layout.name, [p.name for p in layout.inputs], inputs, named)
        arrays = []
        for port, value in zip(layout.inputs, given, strict=True):
            array, count = frame_input(layout.name, port, value, frames is not None)
            if count is not None:
                if frames not in (None, -1, count):
                    raise ShapeError(f"{layout.name}: input {port.name!r} has {count} frames, the inputs before it {frames}")
                frames = count
            arrays.append(array)
        total = 1 if frames is None else frames
        if total < 0:
            raise ShapeError(f"{layout.name}: run needs at least one input with frames")
        if layout.waits:
            return self._late(arrays, out, total, frames is None, progress)
        results = self._results(out, [total] * len(layout.outputs), frames is None)
        if total == 0:
            if not all(p.per_frame for p in layout.outputs):
                raise ShapeError(f"{layout.name}: a run over no frames has no value for the outputs that belong to a call")
            return self._answer(results)
        arrays = [a.copy() if any(np.may_share_memory(a, r) for r in results) else a for a in arrays]
        self._execute(arrays, results, total, progress)
        return self._answer(results)

    def _late(self, arrays: list[Array], out: Any, total: int, single: bool, progress: Progress | None) -> Any:
        """A call of a model whose outputs do not have one row for each frame."""
        context, layout = self.context, self.layout
        if context.ended:
            raise StreamError(f"{layout.name}: the sequence has ended with flush(); reset() begins another")
        rows = [p.clock.count(context.frames + total) - p.clock.count(context.frames) for p in layout.outputs]
        alone = single and not any(p.several for p in layout.outputs)
        if alone and out is not None:
            given = out if isinstance(out, (tuple, list)) else [out]
            out = [
                a[None] if n else np.empty((0, *p.shape), p.dtype) for p, a, n in zip(layout.outputs, given, rows, strict=False)
            ]
        results = self._results(out, rows, False)
        if total:
            self.per_call = [None if p.per_frame else a.copy() for p, a in zip(layout.inputs, arrays, strict=True)]
            self._execute(
                [a[None] if single and p.per_frame else a for p, a in zip(layout.inputs, arrays, strict=True)],
                results,
                total,
                progress,
            )
        if not alone:
            return self._answer(results)
        pairs = zip(layout.outputs, results, strict=True)
        return self._answer([r if not p.per_frame else r[0] if len(r) else None for p, r in pairs])

    def flush(self) -> Any:
        """The rows that still wait for frames, as if the sequence ended here."""
        context, layout = self.context, self.layout
        end = context.frames
        last = layout.last(end) if end and not context.ended else end
        rows = [p.clock.count(last, end) - p.clock.count(end) if last > end else 0 for p in layout.outputs]
        results = self._results(None, rows, False)
        if last == end:
            context.ended = context.ended or bool(layout.waits and end)
            return self._answer([r if p.per_frame else None for p, r in zip(layout.outputs, results, strict=True)])
        arrays = []
        for port, given in zip(layout.inputs, self.per_call, strict=True):
            if given is None and not port.per_frame:
                raise StreamError(f"{layout.name}: input {port.name!r} belongs to a call, and no call gave it before flush()")
            arrays.append(np.empty((0, *port.shape), port.dtype) if given is None else given)
        context.execute(self.run, [*arrays, *results], last - end, end)
        context.ended = True
        return self._answer(results)

    def _execute(self, arrays: list[Array], results: list[Array], total: int, progress: Progress | None) -> None:
        context, layout = self.context, self.layout
        if progress is None:
            context.execute(self.run, [*arrays, *results], total)
            return
        ports = [*layout.inputs, *layout.outputs]
        before, counted = context.state.copy(), context.frames

        def rows(port: Port, frame: int) -> int:
            return port.clock.count(counted + frame) - port.clock.count(counted)

        for start in range(0, total, PROGRESS_FRAMES):
            end = min(start + PROGRESS_FRAMES, total)
            piece = [
                a[rows(p, start) : rows(p, end)] if p.per_frame else a for p, a in zip(ports, [*arrays, *results], strict=True)
            ]
            try:
                context.execute(self.run, piece, end - start)
            except ShapeError:
                context.state[:] = before
                raise
            progress(end, total)

    def _results(self, out: Any, rows: Sequence[int], single: bool) -> list[Array]:
        """Arrays for the outputs: of one frame, or with so many rows each."""
        layout = self.layout
        shapes = [p.shape if single or not p.per_frame else (n, *p.shape) for p, n in zip(layout.outputs, rows, strict=True)]
        if out is None:
            return [np.empty(shape, p.dtype) for p, shape in zip(layout.outputs, shapes, strict=True)]
        results = [out] if len(layout.outputs) == 1 and not isinstance(out, (tuple, list)) else list(out)
        if len(results) != len(shapes):
            raise ShapeError(f"{layout.name}: out has {len(results)} arrays for {len(shapes)} outputs")
        for port, shape, result in zip(layout.outputs, shapes, results, strict=True):
            if type(result) is not np.ndarray or result.shape != shape or result.dtype != port.dtype or not result.flags.carray:
                raise ShapeError(
                    f"{layout.name}: out for {port.name!r} must be a writeable C-contiguous {port.dtype} array of shape "
                    f"{list(shape)}, not {describe(result)}"
                )
        return results

    def _answer(self, results: Sequence[Array | None]) -> Any:
        named = self.named
        return results[0] if named is None else named(*results)


class Stream:
    """One live input of a model: its state, carried from frame to frame. For one thread at a time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._driver = _Driver(model)
        self._context = self._driver.context
        if self._driver.single is not None and len(model.inputs) == len(model.outputs) == 1:
            self.step = self._driver.short_step()  # type: ignore[method-assign]

    @property
    def state(self) -> Array:
        """The whole state, one flat float32 array: copy it to save, assign `state[...]` to restore."""
        return self._context.state

    @state.setter
    def state(self, value: Any) -> None:
        given = np.asarray(value, np.float32)
        if given.shape != self._context.state.shape:
            raise ShapeError(f"{self.model.name}: the state has shape {list(self._context.state.shape)}, not {list(given.shape)}")
        self._context.state[:] = given

    @property
    def states(self) -> dict[str, Array]:
        """Views of the state by name, each in its shape."""
        return part_views(self.model._layout, self._context.state)

    def reset(self) -> None:
        """Back to the initial state."""
        self._context.reset()

    def fork(self) -> Stream:
        """A new stream of the same model that continues from this one's state."""
        other = Stream(self.model)
        other._context.state[:] = self._context.state
        other._context.ended = self._context.ended
        other._driver.per_call = self._driver.per_call
        return other

    def flush(self) -> Any:
        """The tail: the rows that wait for frames to come, as if the sequence ended here; time first, as from `run`.

        Until `reset` the stream of a model that `has_tail` then takes no more frames. Where nothing waits there are no
        rows, and what belongs to a call is None: its last value stands. Raises `StreamError` where an input that
        belongs to a call was never given.
        """
        return self._driver.flush()

    def step(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        """One frame: inputs of the shapes of `model.inputs`, in order or by name; the outputs of `model.outputs`.

        `out` is an array (several outputs: a sequence of arrays) to write into, C-contiguous and of the right
        dtype; without it new arrays come back. Raises `ShapeError`, with the state unchanged.

        Of a model that looks ahead or has strides over time, an output that has no row yet is None; where one frame
        can make several rows, they come back as [rows, *frame].
        """
        return self._driver.step(inputs, out, named)

    def run(self, *inputs: Any, out: Any = None, progress: Progress | None = None, **named: Any) -> Any:
        """Many frames [T, *frame] in one native call, the GIL released; time first in every output.

        What belongs to a call, not to a frame (`per_frame` False), is given and comes back without the time axis.
        `progress(done, total)` is called between pieces. Raises `ShapeError`, with the state unchanged.
        """
        return self._driver.run_many(inputs, out, named, progress)

    def trace(self, *inputs: Any, end: bool = False, **named: Any) -> Any:
        """As `run`, seen from inside: a `tinyrnn.trace.Trace` with gates, cell and hidden state of every recurrent layer.

        The stream goes on as from `run`, outputs and state the same bits; with `end`, as from `flush` after it, the tail in
        the trace. The first trace of a model compiles it once more. Raises `ShapeError`, with the state unchanged.
        """
        return self.model.traced().stream(self, inputs, named, end)


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
