"""One model over the states of a pool, driven: arrays checked on their way to compiled code, and work split over threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array, Port, as_dtype, describe, match_inputs, shape_without_ones
from tinyrnn.runtime.memory import Context, Layout, part_views
from tinyrnn.runtime.pool_runner import INDEX, PoolCode, Runner, Work
from tinyrnn.runtime.process_local import ProcessLocal

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

THREAD_WORK = 1 << 21
"""multiply-adds of a call from which each further thread is woken: below, waking costs more than it saves"""


def workers_for(threads: int, name: str = "") -> ThreadPoolExecutor | None:
    """Threads beside the caller's; None for none. Its module takes as long to import as all of a built model."""
    if threads < 2:
        return None
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads - 1, thread_name_prefix=name)


def parts_of(work: int, streams: int, threads: int) -> int:
    """How many threads share a call of so many multiply-adds."""
    return max(1, min(threads, streams, work // THREAD_WORK))


class PoolDriver(ProcessLocal):
    """Steps and runs any streams of a pool."""

    def __init__(
        self, layout: Layout, run: Any, made: PoolCode, named: Any, rows: Array, workers: ThreadPoolExecutor | None, threads: int
    ) -> None:
        """rows: the states, one a slot; workers: threads beside the caller's, None for none; named: makes the answer of several
        outputs, None for one."""
        self.layout, self.run_one, self.made, self.named = layout, run, made, named
        self.rows, self.states = rows, rows[:, : layout.initial_state.size]
        self.workers, self.threads = workers, threads
        self.late = bool(layout.waits)
        self.runners: list[Runner] = []
        self.start = rows.ctypes.data

    def quick(self, slots: Array, inputs: Sequence[Any], out: Any) -> Any:
        """One frame of each stream from arrays that are as compiled code takes them; None for all others, unchanged."""
        layout, count = self.layout, len(slots)
        if not self.made.tick or len(inputs) != len(layout.inputs) or not count:
            return None
        if self.workers is not None and count * layout.multiply_adds >= 2 * THREAD_WORK:
            return None
        outs = [np.empty((count, *p.shape), p.dtype) for p in layout.outputs] if out is None else self._outs(out)
        if len(outs) != len(layout.outputs):
            return None
        addresses: list[int] = []
        ranges = [(self.start, self.start + self.rows.nbytes)]
        for port, array in zip((*layout.inputs, *layout.outputs), (*inputs, *outs), strict=True):
            if type(array) is not np.ndarray or array.dtype != port.dtype or array.shape != (count, *port.shape):
                return None
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned and (flags.writeable or len(addresses) < len(inputs))):
                return None
            addresses.append(array.ctypes.data)
            ranges.append((addresses[-1], addresses[-1] + array.nbytes))
        made = ranges[len(inputs) + 1 :]
        for place, (start, end) in enumerate(made, len(inputs) + 1):
            if any(start < b and a < end for a, b in ranges[:place]):
                return None
        if not self.runners:
            self.runners.append(self._runner())
        if self.runners[0].one_frame(self.start, slots, addresses):
            return None
        return self._answer(outs) if self.named is not None or out is None else outs[0]

    def frames(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> int:
        values = match_inputs(self.layout.name, [p.name for p in self.layout.inputs], inputs, named)
        for port, value in zip(self.layout.inputs, values, strict=True):
            if port.per_frame and np.ndim(value):
                return len(value)
        raise ShapeError(f"{self.layout.name}: run needs at least one input with frames, [T, m, *frame]")

    def given(self, inputs: Sequence[Any], named: Mapping[str, Any], lead: tuple[int, ...], what: str) -> list[Array]:
        """The inputs, each with a frame for each stream (and time, where the frames have it, before)."""
        model, ports = self.layout.name, self.layout.inputs
        found = []
        for port, value in zip(ports, match_inputs(model, [p.name for p in ports], inputs, named), strict=True):
            array = as_dtype(model, port, value)
            shape = (*(lead if port.per_frame else lead[-1:]), *port.shape)
            if array.shape != shape:
                fits = array.size == prod(shape) and shape_without_ones(array.shape) == shape_without_ones(shape)
                if not fits or array.shape[: len(lead)] != shape[: len(lead)]:
                    raise ShapeError(f"{model}: input {port.name!r} has shape {list(array.shape)}; {what}: here {list(shape)}")
                array = array.reshape(shape)
            found.append(array)
        return found

    def lengths(self, lengths: Any, frames: int, count: int) -> Array | None:
        if lengths is None:
            return None
        given = np.asarray(lengths)
        if given.shape != (count,) or given.dtype.kind not in "iu":
            raise ShapeError(
                f"{self.layout.name}: lengths={describe(given)}; it takes {count} whole numbers, one for each stream"
            )
        if given.size and (given.min() < 0 or given.max() > frames):
            raise ShapeError(f"{self.layout.name}: lengths from {given.min()} to {given.max()}; they must be from 0 to {frames}")
        return np.asarray(given, INDEX)

    def call(self, slots: Array, arrays: list[Array], frames: int, lengths: Array | None, out: Any, single: bool) -> Any:
        if frames == 0 and not all(p.per_frame for p in self.layout.outputs):
            raise ShapeError(f"{self.layout.name}: a run over no frames has no value for the outputs that belong to a call")
        if self.made.tick:
            results = self._results(out, frames, len(slots), lengths is not None)
            self._tick(slots, arrays, results, frames, lengths)
            results = [r[0] if single and p.per_frame else r for p, r in zip(self.layout.outputs, results, strict=True)]
            return self._answer(results if out is None else self._outs(out))
        return self._each(slots, arrays, frames, lengths, out, single)

    def _outs(self, out: Any) -> list[Any]:
        return list(out) if isinstance(out, (tuple, list)) else [out]

    def _results(self, out: Any, frames: int, count: int, ragged: bool) -> list[Array]:
        """Arrays for the outputs, [frames, streams, *frame] or [streams, *shape]."""
        layout = self.layout
        shapes = [((frames, count) if p.per_frame else (count,)) + p.shape for p in layout.outputs]
        if out is None:
            make = np.zeros if ragged else np.empty
            return [make(shape, p.dtype) for shape, p in zip(shapes, layout.outputs, strict=True)]
        given = self._outs(out)
        if len(given) != len(shapes):
            raise ShapeError(f"{layout.name}: out has {len(given)} arrays for {len(shapes)} outputs")
        found = []
        for port, shape, result in zip(layout.outputs, shapes, given, strict=True):
            fits = type(result) is np.ndarray and result.dtype == port.dtype and result.flags.carray
            one = frames == 1 and port.per_frame
            if not fits or (result.shape != shape and not (one and result.shape == shape[1:])):
                wanted = list(shape[1:] if one else shape)
                raise ShapeError(
                    f"{layout.name}: out for {port.name!r} must be a writeable C-contiguous {port.dtype} array of shape "
                    f"{wanted}, not {describe(result)}"
                )
            if np.may_share_memory(result, self.rows):
                raise ShapeError(f"{layout.name}: out for {port.name!r} lies in the pool's own state")
            found.append(result.reshape(shape))
        for result in found if ragged else []:
            result[...] = 0
        return found

    def _tick(self, slots: Array, arrays: list[Array], results: list[Array], frames: int, lengths: Array | None) -> None:
        arrays = [a.copy() if any(np.may_share_memory(a, r) for r in (*results, self.rows)) else a for a in arrays]
        ports = [*self.layout.inputs, *self.layout.outputs]
        timed = [p.per_frame for p in ports]
        if lengths is None or not len(slots) or (np.diff(lengths) <= 0).all():
            self.run_native(Work(slots, [*arrays, *results], timed, frames, lengths))
            return
        order = np.argsort(-lengths, kind="stable")
        sorted_ones = [np.ascontiguousarray(a[:, order] if t else a[order]) for a, t in zip(arrays, timed, strict=False)]
        made = [np.zeros_like(r) for r in results]
        self.run_native(Work(slots[order], [*sorted_ones, *made], timed, frames, lengths[order]))
        for port, target, source in zip(self.layout.outputs, results, made, strict=True):
            if port.per_frame:
                target[:, order] = source
            else:
                target[order] = source

    def _each(self, slots: Array, arrays: list[Array], frames: int, lengths: Array | None, out: Any, single: bool) -> Any:
        """Stream by stream: every one has its own count of frames."""
        layout, count = self.layout, len(slots)
        each = np.full(count, frames, INDEX) if lengths is None else lengths
        counts = [part_views(layout, self.states[slot])["frames"][0] for slot in slots] if self.late else [0] * count
        made = [
            [p.clock.count(int(n + f)) - p.clock.count(int(n)) if p.per_frame else 1 for n, f in zip(counts, each, strict=True)]
            for p in layout.outputs
        ]
        inputs = [
            np.ascontiguousarray(a.swapaxes(0, 1)) if p.per_frame else a for p, a in zip(layout.inputs, arrays, strict=True)
        ]
        buffers = [
            np.zeros(
                (count, max(rows, default=0) if self.late else frames, *p.shape) if p.per_frame else (count, *p.shape), p.dtype
            )
            for p, rows in zip(layout.outputs, made, strict=True)
        ]
        regular = None if self.late else self._results(out, frames, count, lengths is not None)
        self.run_native(Work(slots, [*inputs, *buffers], [True] * (len(inputs) + len(buffers)), frames, each))
        if regular is not None:
            for port, target, source in zip(layout.outputs, regular, buffers, strict=True):
                target[...] = source.swapaxes(0, 1) if port.per_frame else source
            answers = [r[0] if single and p.per_frame else r for p, r in zip(layout.outputs, regular, strict=True)]
            return self._answer(answers if out is None else self._outs(out))
        if out is not None:
            raise ShapeError(f"{layout.name}: each stream makes rows of its own number, which no out= takes; they come in a list")
        return [
            self._answer(
                [self.rows_of(p, b[i], rows[i], single) for p, b, rows in zip(layout.outputs, buffers, made, strict=True)]
            )
            for i in range(count)
        ]

    @staticmethod
    def rows_of(port: Port, made: Array, rows: int, single: bool) -> Array | None:
        """What a stream's own step or run gives."""
        if not port.per_frame:
            return made
        if single and not port.several:
            return made[0] if rows else None
        return made[:rows]

    def run_native(self, work: Work) -> None:
        """Run, split over the threads where there is enough to do."""
        count = len(work.slots)
        if not count or not work.frames:
            return
        parts = parts_of(count * work.frames * max(self.layout.multiply_adds, 1), count, self.threads)
        while len(self.runners) < parts:
            self.runners.append(self._runner())
        size = -(-count // parts)
        pieces = [
            (runner, first, min(size, count - first)) for runner, first in zip(self.runners, range(0, count, size), strict=False)
        ]

        checked = len(pieces) == 1 and self.made.tick  # the indices, before anything is changed
        before = None if checked or not any(p.dtype.kind in "iu" for p in self.layout.inputs) else self.states[work.slots]

        def go(piece: tuple[Runner, int, int]) -> int:
            runner, first, many = piece
            return (runner.tick if self.made.tick else runner.one_by_one)(self.rows, work, first, many)

        if self.workers is None or len(pieces) == 1:
            statuses = [go(piece) for piece in pieces]
        else:
            waiting = [self.workers.submit(go, piece) for piece in pieces[1:]]
            statuses = [go(pieces[0]), *(each.result() for each in waiting)]
        if any(statuses):
            if before is not None:
                self.states[work.slots] = before
            port = self.layout.inputs[max(statuses) - 1]
            raise ShapeError(f"{self.layout.name}: input {port.name!r} holds an index that is out of range; nothing was changed")

    def _runner(self) -> Runner:
        runner = Runner(self.layout, self.made, len(self.rows))
        if not self.made.tick:
            runner.prepare_each(self.run_one, Context(self.layout))
        return runner

    def _answer(self, results: Sequence[Any]) -> Any:
        named = self.named
        return results[0] if named is None else named(*results)
