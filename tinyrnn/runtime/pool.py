"""`Pool`: many live inputs of one model, their states in one array, one native call over any of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tinyrnn.errors import ShapeError, StreamError
from tinyrnn.graph.arrays import Array, describe
from tinyrnn.runtime.memory import Layout, state_rows
from tinyrnn.runtime.pool_driver import PoolDriver, workers_for
from tinyrnn.runtime.pool_runner import INDEX, PoolCode
from tinyrnn.runtime.process_local import ProcessLocal

KEPT = 8
"""sizes whose memory is kept, of models with run-time sizes"""


class Pooled(Protocol):
    """What a pool needs of its `Model`."""

    _layout: Layout
    _code: Any
    _result: Any
    """makes the answer of several outputs; None for one"""
    _pooled: Callable[[int], PoolCode]

    @property
    def name(self) -> str: ...
    @property
    def delay(self) -> int: ...
    @property
    def has_tail(self) -> bool: ...
    def _at_frames(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Pooled: ...
    def _stream_over(self, state: Array, ended: bool, per_call: list[Array | None] | None) -> Any: ...


class _Call:
    """Entered by one thread at a time, while the pool is open."""

    def __init__(self, model: str) -> None:
        self.model, self.closed = model, False
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise StreamError(f"{self.model}: the pool is in use by another thread; one call at a time")
        if self.closed:
            self._lock.release()
            raise StreamError(f"{self.model}: the pool is closed")

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class Pool(ProcessLocal):
    """Many live inputs of a model: slots with a state each, any of which step together. For one thread at a time.

    A row of `state` lies as `Stream.state` does: copying it moves a stream into a pool, or out of one. Whatever streams
    step together, each has the bits that it would have alone.
    """

    instead = "another process loads the file itself and takes the states, an array: `pool.state.copy()`"

    def __init__(self, model: Pooled, slots: int, threads: int = 1) -> None:
        name = model.name
        for what, number in (("slots", slots), ("threads", threads)):
            if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 1:
                raise ShapeError(f"{name}: a pool of {what}={number!r}; it takes a number from 1 up")
        self.model, self.slots, self.threads = model, int(slots), int(threads)
        try:
            self._rows = state_rows(model._layout, self.slots)
        except (MemoryError, ValueError):  # NumPy's of a size that no address reaches
            raise ShapeError(
                f"{name}: there is no memory for the states of {self.slots:,} slots; make fewer, or several pools"
            ) from None
        self._state = self._rows[:, : model._layout.initial_state.size]
        self._seen = np.zeros(self.slots, np.bool_)
        self._ended = np.zeros(self.slots, np.bool_)
        self._all = np.arange(self.slots, dtype=INDEX)
        self._taken: set[int] = set()
        timed = [p.per_frame for p in model._layout.inputs]
        self._keeps = bool(model._layout.waits) and not all(timed)  # a flush needs what a call gave
        self._per_call: dict[int, list[Array | None]] = {}
        self._call = _Call(model.name)
        self._last: PoolDriver | None = None
        self._drivers: OrderedDict[Pooled, PoolDriver] = OrderedDict()
        self._workers = workers_for(self.threads, "tinyrnn-pool")

    # --- the state ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Array:
        """[slots, state_size] float32: copy rows to save them, assign to rows to restore."""
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        given = np.asarray(value, np.float32)
        if given.shape != self._state.shape:
            raise ShapeError(f"{self.model.name}: the states have shape {list(self._state.shape)}, not {list(given.shape)}")
        self._state[:] = given

    def __len__(self) -> int:
        return self.slots

    @property
    def delay(self) -> int:
        """Frames by which the outputs are late, see `Model.delay`."""
        return self.model.delay

    def reset(self, which: Any = None) -> None:
        """Back to the initial state, all slots or those named."""
        with self._call:
            self._begin(self._named(which))

    def join(self) -> int:
        """A slot that nobody has, in its initial state. Raises `StreamError` where all are taken."""
        with self._call:
            slot = next((i for i in range(self.slots) if i not in self._taken), None)
            if slot is None:
                raise StreamError(f"{self.model.name}: all {self.slots} slots of the pool are taken; leave() gives one back")
            self._taken.add(slot)
            self._begin(np.array([slot]))
            return slot

    def leave(self, slot: int) -> None:
        """Give back a slot that `join` handed out. Raises `StreamError` for one that is not taken."""
        with self._call:
            if slot not in self._taken:
                raise StreamError(f"{self.model.name}: slot {slot!r} was not handed out by join(), or was left already")
            self._taken.remove(slot)

    @property
    def joined(self) -> list[int]:
        """The slots that `join` handed out and nobody left, ascending."""
        return sorted(self._taken)

    def stream(self, slot: int) -> Any:
        """A `Stream` over one row: it and the pool carry the same state on. Not for use while the pool steps."""
        with self._call:
            (index,) = self._named([slot])
            return self.model._stream_over(self._state[index], bool(self._ended[index]), self._per_call.get(int(index)))

    # --- frames -------------------------------------------------------------------------------------------------------

    def step(self, *inputs: Any, which: Any = None, out: Any = None, **named: Any) -> Any:
        """One frame of each stream: inputs [m, *frame] for the m slots in `which`, in its order; outputs [m, *frame].

        which: different slots, any of them in any order; by default all, in order
        out:   an array for the output (several outputs: a sequence of arrays), C-contiguous, to write into

        Of a model that looks ahead or has strides over time each stream has its own count of frames: what comes back is a
        list with what each one's `Stream.step` would give. Raises `ShapeError`, and `StreamError` after `flush` or `close`;
        nothing is changed then.
        """
        with self._call:
            slots = self._named(which)
            self._check_open(slots)
            last = self._last
            if last is not None and not named and not self._keeps:
                made = last.quick(slots, inputs, out)
                if made is not None:
                    return made
            driver = self._driver(inputs, named)
            self._last = driver if driver.layout is self.model._layout else None
            arrays = driver.given(inputs, named, (len(slots),), "step takes one frame for each of m streams")
            arrays = [array[None] if port.per_frame else array for port, array in zip(driver.layout.inputs, arrays, strict=True)]
            made = driver.call(slots, arrays, 1, None, out, single=True)
            self._remember(driver, slots, arrays, None)
            return made

    def run(self, *inputs: Any, lengths: Any = None, which: Any = None, out: Any = None, **named: Any) -> Any:
        """Many frames of each stream in one native call: inputs [T, m, *frame], outputs [T, m, *frame].

        lengths: [m] whole numbers, the frames that each stream has, from 0 to T; by default all have T. Rows beyond a
        stream's own length are 0.
        What belongs to a call, not to a frame, is given and comes back as [m, *shape]. `which`, `out` and errors are as for
        `step`; a model that looks ahead or has strides gives a list with what each one's `Stream.run` would give.
        """
        with self._call:
            slots = self._named(which)
            self._check_open(slots)
            driver = self._driver(inputs, named)
            frames = driver.frames(inputs, named)
            arrays = driver.given(inputs, named, (frames, len(slots)), "run takes T frames for each of m streams, time first")
            each = driver.lengths(lengths, frames, len(slots))
            made = driver.call(slots, arrays, frames, each, out, single=False)
            self._remember(driver, slots, arrays, each)
            return made

    def flush(self, which: Any = None) -> Any:
        """The tails of streams, a list with what each one's `Stream.flush` would give; they then take no more frames until
        `reset`."""
        with self._call:
            slots = self._named(which)
            self._check_open(slots)
            given = [self._per_call.get(int(slot)) for slot in slots]
            tails = [self.model._stream_over(self._state[s], False, g).flush() for s, g in zip(slots, given, strict=True)]
            self._ended[slots] = bool(self.model._layout.waits)
            return tails

    def close(self) -> None:
        """End the threads of the pool; its state remains, and it takes no more frames. Closing it again does nothing."""
        if self._call.closed:
            return
        with self._call:
            self._call.closed = True
            self._last = None
            if self._workers is not None:
                self._workers.shutdown()
            self._drivers.clear()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    # --- the call -----------------------------------------------------------------------------------------------------

    def _driver(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> PoolDriver:
        """What drives the model at the sizes of these inputs."""
        model = self.model._at_frames(inputs, named)
        driver = self._drivers.pop(model, None)
        if driver is None:
            made = model._pooled(self.slots)
            driver = PoolDriver(model._layout, model._code.run, made, self.model._result, self._rows, self._workers, self.threads)
        self._drivers[model] = driver
        while len(self._drivers) > KEPT:
            self._drivers.popitem(last=False)
        return driver

    def _begin(self, slots: Array) -> None:
        """A new sequence in each of these slots, which knows nothing of the one before."""
        self._state[slots] = self.model._layout.initial_state
        self._ended[slots] = False
        for slot in slots if self._keeps else ():
            self._per_call.pop(int(slot), None)

    def _remember(self, driver: PoolDriver, slots: Array, arrays: Sequence[Array], lengths: Array | None) -> None:
        """Keep the values of the last call of each stream that a flush needs."""
        for place, slot in enumerate(slots) if self._keeps else ():
            if lengths is None or lengths[place]:
                kept = [None if p.per_frame else a[place].copy() for p, a in zip(driver.layout.inputs, arrays, strict=True)]
                self._per_call[int(slot)] = kept

    def _named(self, which: Any) -> Array:
        """The slots as int64. Raises `ShapeError` for what are no different slots of the pool."""
        if which is None:
            return self._all
        name, slots = self.model.name, np.asarray(which)
        if slots.ndim != 1 or (slots.dtype.kind not in "iu" and slots.size):
            raise ShapeError(f"{name}: which={describe(which)}; it takes different slots: whole numbers in one list or array")
        slots = np.asarray(slots, INDEX, order="C")
        if slots.size and (slots.min() < 0 or slots.max() >= self.slots):
            wrong = int(slots[(slots < 0) | (slots >= self.slots)][0])
            raise ShapeError(f"{name}: slot {wrong} is not in a pool of {self.slots}; which= takes 0 to {self.slots - 1}")
        self._seen[:] = False
        self._seen[slots] = True
        if np.count_nonzero(self._seen) != len(slots):
            twice = int(np.flatnonzero(np.bincount(slots) > 1)[0])
            raise ShapeError(f"{name}: slot {twice} is in which= more than once; a stream has one frame in a step")
        return slots

    def _check_open(self, slots: Array) -> None:
        if self.model.has_tail and self._ended[slots].any():
            slot = int(slots[self._ended[slots]][0])
            raise StreamError(
                f"{self.model.name}: the sequence in slot {slot} has ended with flush(); reset([{slot}]) begins another"
            )
