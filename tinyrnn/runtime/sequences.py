"""`Model.run`: whole sequences in the file's own shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import (
    Array,
    Port,
    as_dtype,
    batch_entry,
    check_file_shape,
    check_sizes,
    full_shape,
    match_inputs,
    put_batch_entry,
    rows_first,
)
from tinyrnn.runtime.memory import Context, Layout, all_states, state_rows
from tinyrnn.runtime.pool_driver import PoolDriver, parts_of, workers_for
from tinyrnn.runtime.pool_runner import INDEX, PoolCode, Work
from tinyrnn.runtime.prepared_call import KEPT_SHAPES, PreparedCall, Shapes

TICK_WORK = 1 << 27
"""multiply-adds of a batch from which its sequences go side by side, for which code is compiled once"""


def run_sequences(
    layout: Layout,
    code: Any,
    pooled: Callable[[int], PoolCode],
    prepared: dict[Shapes, list[PreparedCall]],
    answer: Any,
    inputs: Sequence[Any],
    named: Mapping[str, Any],
    threads: int = 1,
) -> Any:
    """Run every sequence of a batch from its initial state, as streams of one native call.

    inputs, named: arrays in the file's shapes, by position and by name
    pooled:        what a pool of so many streams runs on
    prepared:      the model's calls that are prepared, by the shapes of their inputs; more are added
    answer:        makes the result of several outputs; None where there is one, which is returned itself
    Raises `ShapeError` where the arrays do not fit the file or a sequence is too short.
    """
    if not isinstance(threads, (int, np.integer)) or isinstance(threads, bool) or threads < 1:
        raise ShapeError(f"{layout.name}: threads={threads!r}; it takes a number from 1 up")
    given = match_inputs(layout.name, layout.file_inputs, inputs, named)
    shapes = tuple([value.shape if type(value) is np.ndarray else (-1,) for value in given])
    made = _by_prepared_call(prepared.get(shapes), given, threads)
    if made is not None:
        return made[0] if answer is None else answer(*made)
    ports = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
    values = dict(zip(layout.file_inputs, given, strict=True))
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for name, value in values.items():
        arrays[name] = as_dtype(layout.name, ports[name], value)
        check_file_shape(layout.name, ports[name], arrays[name], sizes)
        check_sizes(layout.name, ports[name], arrays[name], layout.sizes)
    batch = sizes.get("batch", next((len(a) for a in layout.batches.values()), 1))
    for name, constant in layout.batches.items():
        if len(constant) != batch:
            raise ShapeError(f"{layout.name}: a batch of {batch}, but the file's constant {name!r} has {len(constant)} entries")
    frames = sizes.get("time", 1)
    if frames == 0:
        raise ShapeError(f"{layout.name}: a sequence of no frames")
    if any(clock.whole(frames) < 1 for clock in layout.clocks):
        least = next(n for n in count(frames + 1) if all(clock.whole(n) > 0 for clock in layout.clocks))
        raise ShapeError(f"{layout.name}: a sequence of {frames} frames is too short; it takes {least} or more")
    outputs = {p.name: p for p in (*layout.outputs, *layout.state_outputs)}
    results = {name: np.empty(full_shape(port, batch, frames), port.dtype) for name, port in outputs.items()}
    by_entry = all("batch" in p.roles and p.per_frame for p in (*layout.inputs, *layout.outputs)) and not layout.batches
    whole = _Whole(layout, code, arrays, results, frames)
    if layout.kind == "static" and by_entry and batch != 1:
        whole.as_frames(batch)
    else:
        enough = batch * frames * layout.multiply_adds >= TICK_WORK
        streams = pooled(batch if enough else 0) if batch > 1 else PoolCode(None, tick=False)
        if batch and not streams.tick and shapes not in prepared and (-1,) not in shapes:
            _prepare(prepared, shapes, PreparedCall.of(layout, code, streams, shapes, batch, frames))
        whole.as_streams(batch, streams, threads)
    final = [results[name] for name in layout.file_outputs]
    return final[0] if answer is None else answer(*final)


def _by_prepared_call(calls: list[PreparedCall] | None, given: list[Any], threads: int) -> list[Array] | None:
    """The outputs; None where no call is prepared, another thread has it, it does not take these arrays, or it can be divided."""
    try:
        call = calls.pop() if calls else None
    except IndexError:  # another thread was faster
        call = None
    if calls is None or call is None:
        return None
    made = None if threads > 1 and parts_of(call.work, call.batch, threads) > 1 else call(given)
    calls.append(call)
    return made


def _prepare(prepared: dict[Shapes, list[PreparedCall]], shapes: Shapes, call: PreparedCall | None) -> None:
    while len(prepared) >= KEPT_SHAPES:
        prepared.pop(next(iter(prepared)), None)
    prepared[shapes] = [] if call is None else [call]


@dataclass(frozen=True)
class _Whole:
    """Sequences of one length, in the file's shapes."""

    layout: Layout
    code: Any
    arrays: Mapping[str, Array]
    results: Mapping[str, Array]
    frames: int

    @property
    def _end(self) -> int:
        return self.frames if self.layout.waits else -1

    def _shape(self, port: Port) -> tuple[int, ...]:
        """What one sequence makes of an output."""
        timed = port.per_frame and self.layout.kind == "sequence"
        return (port.clock.whole(self.frames), *port.shape) if timed else port.shape

    def as_frames(self, batch: int) -> None:
        """Without state, batch entries are frames."""
        layout = self.layout
        given = [np.asarray(rows_first(self.arrays[p.name], p), order="C") for p in layout.inputs]
        made = [np.empty((batch, *p.shape), p.dtype) for p in layout.outputs]
        Context(layout).execute(self.code.run, [*given, *made], batch)
        for port, array in zip(layout.outputs, made, strict=True):
            target = rows_first(self.results[port.name], port)
            target[...] = array.reshape(target.shape)

    def as_streams(self, batch: int, made_for: PoolCode, threads: int) -> None:
        """Each a stream, in one native call."""
        layout, tick = self.layout, made_for.tick
        rows = state_rows(layout, batch)
        for port in layout.state_inputs:
            start = all_states(layout, port.name, rows)
            start[...] = self._of_all(self.arrays[port.name], port, batch).reshape(start.shape)
        timed = [p.per_frame for p in (*layout.inputs, *layout.outputs)]
        given = [self._of_all(self.arrays[p.name], p, batch) for p in layout.inputs]
        targets = [self._target(p) for p in layout.outputs]
        if tick:
            given = [np.ascontiguousarray(a.swapaxes(0, 1) if t else a) for a, t in zip(given, timed, strict=False)]
            targets = [
                t.swapaxes(0, 1) if t is not None and p.per_frame else t for p, t in zip(layout.outputs, targets, strict=True)
            ]
        else:
            given = [a if a.strides[0] == 0 else np.ascontiguousarray(a) for a in given]
        made = []
        for port, target in zip(layout.outputs, targets, strict=True):
            shape = (batch, *self._shape(port))
            if tick:
                shape = (*((self.frames,) if port.per_frame else ()), batch, *port.shape)
            into = target.reshape(shape) if target is not None and target.flags.c_contiguous else np.empty(shape, port.dtype)
            made.append(into)
        frames = self.frames if tick else layout.last(self.frames)
        lengths = None if tick else np.full(batch, frames, INDEX)
        workers = workers_for(threads)
        try:
            driver = PoolDriver(layout, self.code.run, made_for, None, rows, workers, threads)
            slots = np.arange(batch, dtype=INDEX)
            timed[len(given) : len(given)] = [False] * len(layout.batches)
            driver.run_native(Work(slots, [*given, *layout.batches.values(), *made], timed, frames, lengths, self._end))
        finally:
            if workers is not None:
                workers.shutdown()
        for port, target, array in zip(layout.outputs, targets, made, strict=True):
            if target is None:
                for entry in range(batch):
                    put_batch_entry(self.results[port.name], port, entry, array[:, entry] if tick else array[entry])
            elif not np.may_share_memory(target, array):
                target[...] = array.reshape(target.shape)
        for port, part in zip(layout.state_outputs, layout.state_parts, strict=False):
            target = rows_first(self.results[port.name], port)
            ends = all_states(layout, part[0], rows)
            target[...] = ends.reshape(target.shape) if "batch" in port.roles else ends[-1].reshape(target.shape)

    def _target(self, port: Port) -> Array | None:
        """The result of an output with batch, then time, first; None where both are one axis, or there is no batch."""
        return rows_first(self.results[port.name], port) if "batch" in port.roles else None

    def _of_all(self, array: Array, port: Port, batch: int) -> Array:
        """[batch, rows, *frame], or [batch, *shape] of what belongs to a call; what all sequences share lies once."""
        if "batch" in port.roles:
            entries = rows_first(array, port)
        else:
            one = batch_entry(array, port, 0)
            entries = np.broadcast_to(one, (batch, *one.shape))
        if port in self.layout.state_inputs:
            return entries
        lead = (batch, entries.shape[1] if self.layout.kind == "sequence" else 1) if port.per_frame else (batch,)
        return entries.reshape(*lead, *port.shape)
