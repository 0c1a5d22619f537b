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

from tinyrnn.errors import ShapeError, StreamError

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]
"""called with frames done and frames in all"""

ALIGNMENT = 64
PROGRESS_FRAMES = 1 << 14


@dataclass(frozen=True)
class Port:
    """An input, output or state as its user sees it."""

    name: str
    shape: tuple[int, ...]
    """of one frame (of one call, where `per_frame` is False)"""
    dtype: np.dtype[Any]
    per_frame: bool = True
    file_shape: tuple[int | str, ...] = ()
    roles: tuple[str | None, ...] = ()
    """of each axis of the file's shape: 'time', 'batch', 'batch+time', or None"""

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}{'' if self.per_frame else ' per call'}"

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
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
    state_parts: tuple[tuple[str, int, tuple[int, ...]], ...]
    """name, offset in elements, shape"""
    initial_state: Array
    weights: Array
    arena_fixed: int
    arena_per_row: int
    chunk: int
    """rows of one pass; 0: a call is one pass"""
    refuses_stream: str
    batches: Mapping[str, Array]
    multiply_adds: int
    header: int
    """context entries before the addresses"""
    metadata: Mapping[str, str]


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
        self.reserve(max(layout.chunk, 1))
        self.reset()

    def reset(self) -> None:
        self.state[:] = self.layout.initial_state

    def reserve(self, rows: int) -> None:
        """An arena for passes of `rows` rows, its pages touched."""
        self.capacity = rows
        self.arena = aligned(self.layout.arena_fixed + self.layout.arena_per_row * rows + ALIGNMENT)
        self.arena[:] = 0
        self.addresses[2] = self.arena.ctypes.data
        self.addresses[3] = rows

    def execute(self, run: Callable[[int, int], int], arrays: Sequence[Array], frames: int) -> None:
        """Run over `frames`; arrays are inputs, batch constants and outputs, each as compiled code expects them."""
        if self.layout.chunk == 0 and frames > self.capacity:
            self.reserve(frames)
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

    def __init__(self, layout: Layout, code: Any, source: Any = None) -> None:
        self._layout, self._code = layout, code
        self._source = source
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
        return tuple(Port(name, shape, np.dtype(np.float32)) for name, _, shape in self._layout.state_parts)

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

    def __str__(self) -> str:
        layout = self._layout
        lines = [
            f"{layout.name}: {layout.kind} model, {layout.multiply_adds:,} multiply-adds per frame, "
            f"{layout.weights.nbytes:,} bytes of weights"
        ]
        lines += [f"  input  {p}  (file {_shape_text(p)})" for p in layout.inputs]
        lines += [f"  output {p}  (file {_shape_text(p)})" for p in layout.outputs]
        lines += [f"  state  {p}" for p in self.states]
        if layout.refuses_stream:
            lines.append(f"  cannot stream: {layout.refuses_stream}")
        return "\n".join(lines)

    __repr__ = __str__


def _shape_text(port: Port) -> str:
    return (
        "["
        + ", ".join(
            f"{size}={role}" if role and isinstance(size, str) and size != role else str(size)
            for size, role in zip(port.file_shape, port.roles, strict=True)
        )
        + "]"
    )


def _named(name: str, fields: Sequence[str]) -> Any:
    """A named tuple for several outputs; None for one."""
    if len(fields) == 1:
        return None
    return namedtuple("Outputs", fields, rename=True)  # type: ignore[misc]


class Stream:
    """One live input of a model: its state, carried from frame to frame. For one thread at a time."""

    def __init__(self, model: Model) -> None:
        layout = model._layout
        self.model = model
        self._layout = layout
        self._context = Context(layout)
        self._run = model._code.run
        self._single: Callable[..., Any] | None = None
        self._many: Callable[..., Any] | None = None
        if HEADERS_KNOWN and model._code.calls:
            self._prepare_calls(model._code.calls)

    def _prepare_calls(self, functions: Sequence[int]) -> None:
        """Let Python call the compiled code with arrays as they are; what it declines goes the long way."""
        layout, addresses = self._layout, self._context.addresses
        ports = [*layout.inputs, *layout.outputs]
        self._dtypes = [p.dtype for p in ports]
        threads = [
            ctypes.cast(f, ctypes.c_void_p).value
            for f in (ctypes.pythonapi.PyEval_SaveThread, ctypes.pythonapi.PyEval_RestoreThread)
        ]
        addresses[4 : layout.header] = (id(np.ndarray), id(None), id(False), 0 if sys.version_info >= (3, 12) else 1, *threads)
        for index, dtype in enumerate(self._dtypes):
            addresses[layout.header + len(ports) + index] = id(dtype)
        (single, first), (many, second) = (_builtin(address, addresses) for address in functions)
        self._keep = first, second
        if len(layout.outputs) == 1:
            self._single, self._many = single, many
            if len(layout.inputs) == 1:
                self.step = self._short_step(single)  # type: ignore[method-assign]

    def _short_step(self, single: Callable[..., Any]) -> Callable[..., Any]:
        """`step` for one input and one output, with everything that it looks up at hand."""
        port, slow = self._layout.outputs[0], self._slow
        shape, dtype, empty, array_type = port.shape, port.dtype, np.empty, np.ndarray

        def step(frame: Any = None, /, *rest: Any, out: Any = None, **named: Any) -> Any:
            if out is None:
                result = empty(shape, dtype)
                if not rest and not named and single(frame, result) is None:
                    return result
            elif type(out) is array_type and not named and not rest and single(frame, out) is None:
                return out
            return slow(rest if frame is None else (frame, *rest), named, out, None, None)

        step.__doc__ = Stream.step.__doc__
        return step

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
        state = self._context.state
        return {name: state[offset : offset + prod(shape)].reshape(shape) for name, offset, shape in self._layout.state_parts}

    def reset(self) -> None:
        """Back to the initial state."""
        self._context.reset()

    def fork(self) -> Stream:
        """A new stream of the same model that continues from this one's state."""
        other = Stream(self.model)
        other._context.state[:] = self._context.state
        return other

    def step(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        """One frame: inputs of the shapes of `model.inputs`, in order or by name; the outputs of `model.outputs`.

        `out` is an array (several outputs: a sequence of arrays) to write into, C-contiguous and of the right
        dtype; without it new arrays come back. Raises `ShapeError`, with the state unchanged.
        """
        single = self._single
        if single is not None and not named:
            result = np.empty(self._layout.outputs[0].shape, self._layout.outputs[0].dtype) if out is None else out
            if type(result) is np.ndarray and single(*inputs, result) is None:
                return result
        return self._slow(inputs, named, out, None, None)

    def run(self, *inputs: Any, out: Any = None, progress: Progress | None = None, **named: Any) -> Any:
        """Many frames [T, *frame] in one native call, the GIL released; time first in every output.

        What belongs to a call, not to a frame (`per_frame` False), is given and comes back without the time axis.
        `progress(done, total)` is called between pieces. Raises `ShapeError`, with the state unchanged.
        """
        many = self._many
        if (
            many is not None
            and out is None
            and progress is None
            and not named
            and inputs
            and type(inputs[0]) is np.ndarray
            and inputs[0].ndim
        ):
            port = self._layout.outputs[0]
            result = np.empty((len(inputs[0]), *port.shape) if port.per_frame else port.shape, port.dtype)
            if many(*inputs, result) is None:
                return result
        elif many is not None and type(out) is np.ndarray and progress is None and not named and many(*inputs, out) is None:
            return out
        return self._slow(inputs, named, out, -1, progress)

    def _slow(
        self, inputs: Sequence[Any], named: Mapping[str, Any], out: Any, frames: int | None, progress: Progress | None
    ) -> Any:
        layout = self._layout
        given = _match(layout.name, [p.name for p in layout.inputs], inputs, named)
        arrays = []
        for port, value in zip(layout.inputs, given, strict=True):
            array, count = _frame_input(layout.name, port, value, frames is not None)
            if count is not None:
                if frames not in (None, -1, count):
                    raise ShapeError(f"{layout.name}: input {port.name!r} has {count} frames, the inputs before it {frames}")
                frames = count
            arrays.append(array)
        total = 1 if frames is None else frames
        if total < 0:
            raise ShapeError(f"{layout.name}: run needs at least one input with frames")
        results = self._results(out, None if frames is None else total)
        if total == 0:
            if not all(p.per_frame for p in layout.outputs):
                raise ShapeError(f"{layout.name}: a run over no frames has no value for the outputs that belong to a call")
            return self._answer(results)
        arrays = [a.copy() if any(np.may_share_memory(a, r) for r in results) else a for a in arrays]
        self._execute(arrays, results, total, progress)
        return self._answer(results)

    def _execute(self, arrays: list[Array], results: list[Array], total: int, progress: Progress | None) -> None:
        context, layout = self._context, self._layout
        if progress is None:
            context.execute(self._run, [*arrays, *results], total)
            return
        ports = [*layout.inputs, *layout.outputs]
        before = context.state.copy()
        for start in range(0, total, PROGRESS_FRAMES):
            count = min(PROGRESS_FRAMES, total - start)
            piece = [a[start : start + count] if p.per_frame else a for p, a in zip(ports, [*arrays, *results], strict=True)]
            try:
                context.execute(self._run, piece, count)
            except ShapeError:
                context.state[:] = before
                raise
            progress(start + count, total)

    def _results(self, out: Any, frames: int | None) -> list[Array]:
        layout = self._layout
        shapes = [p.shape if frames is None or not p.per_frame else (frames, *p.shape) for p in layout.outputs]
        if out is None:
            return [np.empty(shape, p.dtype) for p, shape in zip(layout.outputs, shapes, strict=True)]
        results = [out] if len(layout.outputs) == 1 and not isinstance(out, (tuple, list)) else list(out)
        if len(results) != len(shapes):
            raise ShapeError(f"{layout.name}: out has {len(results)} arrays for {len(shapes)} outputs")
        for port, shape, result in zip(layout.outputs, shapes, results, strict=True):
            if type(result) is not np.ndarray or result.shape != shape or result.dtype != port.dtype or not result.flags.carray:
                raise ShapeError(
                    f"{layout.name}: out for {port.name!r} must be a writeable C-contiguous {port.dtype} array of shape "
                    f"{list(shape)}, not {_describe(result)}"
                )
        return results

    def _answer(self, results: list[Array]) -> Any:
        named = self.model._result
        return results[0] if named is None else named(*results)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}{'' if value.flags.c_contiguous else ' (not contiguous)'}"
    return type(value).__name__


def _match(model: str, names: Sequence[str], inputs: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """Inputs in order, from positional and keyword arguments, or one dict."""
    if len(inputs) == 1 and isinstance(inputs[0], Mapping) and not named:
        inputs, named = (), inputs[0]
    if len(inputs) > len(names):
        raise ShapeError(f"{model}: {len(inputs)} inputs given; it takes {len(names)}: {', '.join(names)}")
    values = dict(zip(names, inputs, strict=False))
    for name, value in named.items():
        if name not in names:
            raise ShapeError(f"{model}: no input {name!r}; it takes {', '.join(names)}")
        if name in values:
            raise ShapeError(f"{model}: input {name!r} is given twice")
        values[name] = value
    missing = [name for name in names if name not in values]
    if missing:
        raise ShapeError(f"{model}: input {', '.join(map(repr, missing))} missing; it takes {', '.join(names)}")
    return [values[name] for name in names]


def _as_dtype(model: str, port: Port, value: Any) -> Array:
    """The value as an array of the port's dtype; only conversions that keep the values are made."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ShapeError(f"{model}: input {port.name!r} is no array ({error})") from None
    if array.dtype == port.dtype:
        return np.ascontiguousarray(array)
    floating = port.dtype.kind == "f" and array.dtype.kind in "fiub"
    whole = port.dtype.kind in "iu" and array.dtype.kind in "iub"
    if not floating and not whole and array.size:
        raise ShapeError(f"{model}: input {port.name!r} is {array.dtype}; it takes {port.dtype}")
    converted = array.astype(port.dtype)
    if whole and not np.array_equal(converted, array):
        raise ShapeError(f"{model}: input {port.name!r} has values that {port.dtype} cannot hold")
    return np.ascontiguousarray(converted)


def _frame_input(model: str, port: Port, value: Any, timed: bool) -> tuple[Array, int | None]:
    """One frame or [T, *frame]; leading axes of length 1 that the file has are accepted."""
    array = _as_dtype(model, port, value)
    count: int | None = None
    shape = array.shape
    if timed and port.per_frame:
        lead = len(shape) - len(port.shape)
        if lead >= 1 and shape[lead:] == port.shape and all(n == 1 for n in shape[1:lead]):
            count = shape[0]
        elif lead > 1 and shape[lead:] == port.shape and sum(n != 1 for n in shape[:lead]) == 1:
            count = max(shape[:lead])
        else:
            raise ShapeError(
                f"{model}: input {port.name!r} has shape {list(shape)}; run takes {['T', *port.shape]}: "
                f"T frames, time first".replace("'", "")
            )
        return array.reshape(count, *port.shape), count
    lead = len(shape) - len(port.shape)
    if lead >= 0 and shape[lead:] == port.shape and all(n == 1 for n in shape[:lead]):
        return array.reshape(port.shape), None
    more = "; run takes many frames" if lead == 1 and shape[1:] == port.shape else ""
    raise ShapeError(f"{model}: input {port.name!r} has shape {list(shape)}; one frame is {list(port.shape)}{more}")


def _run_file(model: Model, inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """`Model.run`: the file's shapes, one batch entry after the other."""
    layout = model._layout
    ports = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
    values = dict(zip(layout.file_inputs, _match(layout.name, layout.file_inputs, inputs, named), strict=True))
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for name, value in values.items():
        arrays[name] = _as_dtype(layout.name, ports[name], value)
        _check_file_shape(layout.name, ports[name], arrays[name], sizes)
    batch = sizes.get("batch", next((len(a) for a in layout.batches.values()), 1))
    for name, constant in layout.batches.items():
        if len(constant) != batch:
            raise ShapeError(f"{layout.name}: a batch of {batch}, but the file's constant {name!r} has {len(constant)} entries")
    frames = sizes.get("time", 1)
    if frames == 0:
        raise ShapeError(f"{layout.name}: a sequence of no frames")
    outputs = {p.name: p for p in (*layout.outputs, *layout.state_outputs)}
    results = {name: np.empty(_file_shape(port, batch, frames), port.dtype) for name, port in outputs.items()}
    context = Context(layout)
    ends = dict(zip([p.name for p in layout.state_outputs], [n for n, _, _ in layout.state_parts], strict=False))
    views = {name: context.state[offset : offset + prod(shape)] for name, offset, shape in layout.state_parts}
    for entry in range(batch):
        context.reset()
        for port in layout.state_inputs:
            views[port.name][:] = _entry(arrays[port.name], port, entry).ravel()
        given = [_entry(arrays[p.name], p, entry) for p in layout.inputs]
        made = [
            np.empty((frames, *p.shape) if p.per_frame and layout.kind == "sequence" else p.shape, p.dtype)
            for p in layout.outputs
        ]
        context.execute(
            model._code.run, [*given, *(np.ascontiguousarray(c[entry]) for c in layout.batches.values()), *made], frames
        )
        for port, array in zip(layout.outputs, made, strict=True):
            _put_entry(results[port.name], port, entry, array)
        for port in layout.state_outputs:
            _put_entry(results[port.name], port, entry, views[ends[port.name]])
    final = [results[name] for name in layout.file_outputs]
    return final[0] if model._file_result is None else model._file_result(*final)


def _check_file_shape(model: str, port: Port, array: Array, sizes: dict[str, int]) -> None:
    wanted = port.file_shape
    fits = array.ndim == len(wanted)
    if fits:
        for size, role, n in zip(wanted, port.roles, array.shape, strict=True):
            if role is not None:
                fits = fits and sizes.setdefault(role, n) == n
            else:
                fits = fits and n == size
    if not fits:
        known = f" with {', '.join(f'{role} = {n}' for role, n in sizes.items())}" if sizes else ""
        raise ShapeError(f"{model}: input {port.name!r} has shape {list(array.shape)}; the file says {_shape_text(port)}{known}")


def _file_shape(port: Port, batch: int, frames: int) -> tuple[int, ...]:
    known = {"batch": batch, "time": frames}
    shape = []
    for size, role in zip(port.file_shape, port.roles, strict=True):
        shape.append(int(size) if role is None else prod(known[r] for r in role.split("+")))
    return tuple(shape)


def _time_batch_first(array: Array, port: Port, batch: int) -> tuple[Array, list[int]]:
    """A view with batch, then time, then the frame's axes, and the axes in that order."""
    order = [a for a, r in enumerate(port.roles) if r == "batch"] + [a for a, r in enumerate(port.roles) if r == "time"]
    return array.transpose(order + [a for a in range(array.ndim) if a not in order]), order


def _entry(array: Array, port: Port, entry: int) -> Array:
    """One batch entry of an input: time first, then the frame."""
    moved, _ = _time_batch_first(array, port, 0)
    return np.ascontiguousarray(moved[entry] if "batch" in port.roles else moved)


def _put_entry(result: Array, port: Port, entry: int, value: Array) -> None:
    if any(r == "batch+time" or r == "time+batch" for r in port.roles):
        axis = next(a for a, r in enumerate(port.roles) if r and "+" in r)
        moved = np.moveaxis(result, axis, 0)
        frames = value.shape[0]
        first = port.roles[axis] == "batch+time"
        place = slice(entry * frames, (entry + 1) * frames) if first else slice(entry, None, len(moved) // frames)
        moved[place] = value.reshape(moved[place].shape)
        return
    moved, _ = _time_batch_first(result, port, 0)
    target = moved[entry] if "batch" in port.roles else moved
    target[...] = value.reshape(target.shape)
