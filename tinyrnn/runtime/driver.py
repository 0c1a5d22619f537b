"""The driver of one context: it checks and converts arrays for compiled code, or lets Python call that code directly."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError, StreamError
from tinyrnn.graph.arrays import Array, Port, describe, frame_input, match_inputs
from tinyrnn.runtime.crew import Crew
from tinyrnn.runtime.memory import Context, Layout
from tinyrnn.runtime.process_local import ProcessLocal

Progress = Callable[[int, int], None]
"""called with (frames done, total frames)"""

PROGRESS_FRAMES = 1 << 14


def _probe_headers() -> bool:
    """Whether array headers have the layout that the compiled `call` reads (CPython with NumPy's public layout)."""
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


def address_of(array: Array) -> int:
    """Where its elements begin: `array.ctypes.data`, which takes a microsecond."""
    return int(ctypes.c_int64.from_address(id(array) + 16).value if HEADERS_KNOWN else array.ctypes.data)


class _MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


METH_FASTCALL = 0x80


def _builtin(address: int, this: Any) -> tuple[Callable[..., Any], Any]:
    """(Python callable for compiled code with the signature METH_FASTCALL, object that must outlive it)."""
    method = _MethodDef(b"step", address, METH_FASTCALL, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return make(ctypes.addressof(method), this, None), method


class Driver(ProcessLocal):
    """Steps and runs one context. It holds all that a call needs, but no stream."""

    def __init__(self, layout: Layout, code: Any, named: Any, crew: Crew | None = None) -> None:
        """named: makes the result of several outputs; None for one. crew: the threads that share its calls."""
        self.layout, self.context = layout, Context(layout)
        self.crew = crew
        if crew is not None:
            self.context.addresses[layout.header - 1] = crew.pointer
        self.code = code  # owns the machine code, also where only `Stream.step` is kept
        self.run, self.named = code.run, named
        self.otherwise: Callable[..., Any] | None = None
        """called instead of `checked`, with the same arguments, for a frame that compiled code declined"""
        self.single: Callable[..., Any] | None = None
        self.many: Callable[..., Any] | None = None
        self.several = [p.per_frame and p.several for p in layout.outputs]
        self.one_each = not any(self.several)
        self.keeps = bool(layout.waits) and not all(p.per_frame for p in layout.inputs)  # a flush needs what a call gave
        self.per_call: list[Array | None] = [None] * len(self.layout.inputs)
        if HEADERS_KNOWN and code.calls:
            self._prepare_calls(code.calls)

    def _prepare_calls(self, functions: Sequence[int]) -> None:
        """Let Python call the compiled code directly; calls that it declines go through `checked`."""
        layout, addresses = self.layout, self.context.addresses
        ports = [*layout.inputs, *layout.outputs]
        api = ctypes.pythonapi
        threads = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in (api.PyEval_SaveThread, api.PyEval_RestoreThread)]
        counting = 0 if sys.version_info >= (3, 12) else 1
        addresses[5 : layout.header - 1] = np.array([id(np.ndarray), id(None), id(False), id(True), counting, *threads], np.int64)
        self._dtypes = [p.dtype for p in ports]
        addresses[layout.header + len(ports) :][: len(ports)] = np.array([id(dtype) for dtype in self._dtypes], np.int64)
        (self.single, first), (self.many, second) = (_builtin(address, addresses) for address in functions)
        self._keep = first, second
        addresses[layout.header + 2 * len(ports) :] = 1
        self.made = addresses.data[layout.header + 2 * len(ports) :]  # rows of each output in the last step
        self.steps = [(p.step_shape, p.dtype) for p in layout.outputs]

    def short_step(self) -> Callable[..., Any] | None:
        """`Stream.step` for one input and one output, as a closure without attribute lookups."""
        single, driver, layout = self.single, self, self.layout
        if single is None or len(layout.inputs) != 1 or len(layout.outputs) != 1 or self.keeps:
            return None
        ((shape, dtype),) = self.steps
        made, empty, array_type = self.made, np.empty, np.ndarray

        def step(frame: Any = None, /, *rest: Any, out: Any = None, **named: Any) -> Any:
            if out is None:
                if not rest and not named:
                    result = empty(shape, dtype)
                    answer = single(frame, result)
                    if answer is None:
                        return result
                    if answer:
                        return None
            elif type(out) is array_type and not named and not rest:
                answer = single(frame, out)
                if answer is None:
                    return out
                if answer:
                    return None
            return driver.checked(rest if frame is None else (frame, *rest), named, out, None, None)

        def step_of_several(frame: Any = None, /, *rest: Any, out: Any = None, **named: Any) -> Any:
            if not rest and not named and (out is None or type(out) is array_type):
                result = empty(shape, dtype) if out is None else out
                if single(frame, result) is not False:
                    return result[: made[0]]
            return driver.checked(rest if frame is None else (frame, *rest), named, out, None, None)

        return step_of_several if self.several[0] else step

    def step(self, inputs: tuple[Any, ...], out: Any, named: Mapping[str, Any]) -> Any:
        if self.single is not None and not named:
            results = [np.empty(shape, dtype) for shape, dtype in self.steps] if out is None else self._given(out)
            if results:
                answer = self.single(*inputs, *results)
                if answer is not False:
                    if self.keeps:
                        self._remember(inputs)
                    return self._answer(results if answer is None and self.one_each else self._cut(results, self.made))
        return (self.otherwise or self.checked)(inputs, named, out, None, None)

    def run_many(self, inputs: tuple[Any, ...], out: Any, named: Mapping[str, Any], progress: Progress | None) -> Any:
        if self.many is not None and not named and progress is None:
            if out is not None:
                results = self._given(out)
            elif inputs and type(inputs[0]) is np.ndarray and inputs[0].ndim:
                frames = len(inputs[0])
                if self.layout.waits:
                    results = self._results(None, self.rows(frames), False, frames)
                else:
                    results = [np.empty((frames, *p.shape) if p.per_frame else p.shape, p.dtype) for p in self.layout.outputs]
            else:
                results = []
            if results and self.many(*inputs, *results) is None:
                if self.keeps:
                    self._remember(inputs)
                return self._answer(results)
        return self.checked(inputs, named, out, -1, progress)

    def _given(self, out: Any) -> list[Any]:
        return [out] if type(out) is np.ndarray else list(out) if isinstance(out, (tuple, list)) else []

    def _remember(self, inputs: Sequence[Array]) -> None:
        """Keep the values of the last call that a flush needs."""
        self.per_call = [None if p.per_frame else a.copy() for p, a in zip(self.layout.inputs, inputs, strict=True)]

    def rows(self, frames: int) -> list[int]:
        """The number of rows of each output that the next frames make; `frames` for a value with one per call."""
        if not self.layout.waits:
            return [frames] * len(self.layout.outputs)
        before = self.context.frames
        return [p.clock.count(before + frames) - p.clock.count(before) if p.per_frame else frames for p in self.layout.outputs]

    def coming(self, frames: int) -> Any:
        """The result of `Stream.rows`."""
        if not isinstance(frames, (int, np.integer)) or frames < 0:
            raise ShapeError(f"{self.layout.name}: rows of {frames!r} frames: it takes a number from 0 up")
        self._open()
        pairs = zip(self.layout.outputs, self.rows(int(frames)), strict=True)
        return self._answer([n if p.per_frame else None for p, n in pairs])

    def _open(self) -> None:
        if self.context.ended:
            raise StreamError(f"{self.layout.name}: the sequence has ended with flush(); reset() begins another")

    def checked(
        self, inputs: Sequence[Any], named: Mapping[str, Any], out: Any, frames: int | None, progress: Progress | None
    ) -> Any:
        layout, single = self.layout, frames is None
        given = match_inputs(layout.name, [p.name for p in layout.inputs], inputs, named)
        arrays = []
        for port, value in zip(layout.inputs, given, strict=True):
            array, count = frame_input(layout.name, port, value, not single)
            if count is not None:
                if frames not in (None, -1, count):
                    raise ShapeError(f"{layout.name}: input {port.name!r} has {count} frames, the inputs before it {frames}")
                frames = count
            arrays.append(array)
        total = 1 if frames is None else frames
        if total < 0:
            raise ShapeError(f"{layout.name}: run needs at least one input with frames")
        self._open()
        rows = self.rows(total)
        results = self._results(out, rows, single, total)
        if total == 0 and not all(p.per_frame for p in layout.outputs):
            raise ShapeError(f"{layout.name}: a run over no frames has no value for the outputs that belong to a call")
        if total:
            arrays = [a.copy() if any(np.may_share_memory(a, r) for r in results) else a for a in arrays]
            self._execute(arrays, results, total, progress)
            if self.keeps:
                self._remember(arrays)
        return self._answer(self._cut(results, rows) if single else results)

    def _cut(self, results: Sequence[Array], rows: Sequence[int]) -> list[Array | None]:
        """The results of one step, cut to the rows made, from arrays of `step_shape`."""
        return [r[:n] if several else r if n else None for several, r, n in zip(self.several, results, rows, strict=True)]

    def flush(self) -> Any:
        """The rows that still wait for later frames, as if the sequence ended here."""
        context, layout = self.context, self.layout
        end = context.frames
        last = layout.last(end) if end and not context.ended else end
        rows = [p.clock.count(last, end) - p.clock.count(end) if last > end else 0 for p in layout.outputs]
        results = self._results(None, rows, False, last - end)
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

    def _results(self, out: Any, rows: Sequence[int], single: bool, frames: int) -> list[Array]:
        """Arrays for the outputs of one step (`single`), or with the given numbers of rows."""
        layout = self.layout
        if out is None:
            pairs = zip(layout.outputs, rows, strict=True)
            return [np.empty(p.step_shape if single else (n, *p.shape) if p.per_frame else p.shape, p.dtype) for p, n in pairs]
        results = [out] if len(layout.outputs) == 1 and not isinstance(out, (tuple, list)) else list(self._given(out))
        if len(results) != len(layout.outputs):
            raise ShapeError(f"{layout.name}: out has {len(results)} arrays for {len(layout.outputs)} outputs")
        for port, count, result in zip(layout.outputs, rows, results, strict=True):
            room = single and port.per_frame and port.several  # any number of rows that is enough
            shape = (count, *port.shape) if port.per_frame and (room or not single) else port.shape
            fits = type(result) is np.ndarray and result.dtype == port.dtype and result.flags.carray
            if fits and room:
                fits = result.ndim == len(shape) and result.shape[0] >= count and result.shape[1:] == port.shape
            if not fits or (not room and result.shape != shape):
                why = ""
                if room:
                    why = f", the rows of this frame, or more: {list(port.step_shape)} has room for any"
                elif shape[:1] != (frames,) and port.per_frame and not single:
                    why = f" now: stream.rows({frames}) tells the rows before a call"
                raise ShapeError(
                    f"{layout.name}: out for {port.name!r} must be a writeable C-contiguous {port.dtype} array of shape "
                    f"{list(shape)}{why}, not {describe(result)}"
                )
        return results

    def _answer(self, results: Sequence[Array | int | None]) -> Any:
        named = self.named
        return results[0] if named is None else named(*results)
