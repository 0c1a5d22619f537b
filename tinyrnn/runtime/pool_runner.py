"""One native call over many streams: a tick with a row for each, or the page for one stream in a loop."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import Array
from tinyrnn.runtime.memory import ALIGNMENT, Context, Layout, aligned
from tinyrnn.runtime.process_local import ProcessLocal

POOL_CONTEXT = ("weights", "states", "arena", "capacity", "which", "each", "lengths", "streams", "across")
"""which: the slot of each stream; each: 0, 1, 2 …; lengths: frames of each stream, descending, or no address where all have all;
streams: how many this call takes; across: how many one frame of the inputs and outputs has"""
EACH_TABLE = ("run", "context", "states", "stride", "which", "lengths", "streams", "first")
"""run, context: of the page for one stream, whose addresses start at `first`; stride: bytes from a state to the next"""
TICK_HEADER, EACH_HEADER = len(POOL_CONTEXT), len(EACH_TABLE)
"""entries before the addresses"""
INDEX = np.dtype(np.int64)


@dataclass(frozen=True, eq=False)
class PoolCode:
    """What a model's pools run on."""

    code: Any
    """a compiled page whose entry is `run`; None where the loop over streams is not compiled"""
    tick: bool
    """whether it takes all streams as rows; otherwise one after the other, through the page for one stream"""
    arena_fixed: int = 0
    arena_per_row: int = 0
    chunk: int = 1
    """streams of one pass"""
    weights: Array | None = None
    """where they are not the model's own"""


@dataclass(frozen=True)
class Work:
    """Frames of many streams: arrays [frames, streams, *frame] or [streams, ...] for what belongs to a call.

    Stream by stream they are [streams, rows, *frame] each.
    """

    slots: Array
    """int64, the slot of each stream"""
    arrays: Sequence[Array]
    timed: Sequence[bool]
    """of each array, whether it has frames"""
    frames: int
    lengths: Array | None
    """int64 frames of each stream, descending in a tick; None where all have all"""
    end: int = -1
    """stream by stream: after how many frames the sequences end, if they end in this call"""


class Runner(ProcessLocal):
    """The memory of one thread, and the calls that it makes."""

    def __init__(self, layout: Layout, made: PoolCode, most: int) -> None:
        """most: streams of one call at most."""
        self.layout, self.made = layout, made
        ports = len(layout.inputs) + len(layout.batches) + len(layout.outputs)
        if made.tick:
            self.capacity = min(most, made.chunk)
            self.arena = aligned(made.arena_fixed + made.arena_per_row * self.capacity + ALIGNMENT)
            self.arena[:] = 0
            self.each = np.arange(self.capacity, dtype=INDEX)
            self.table = np.zeros(TICK_HEADER + ports, INDEX)
            weights = layout.weights if made.weights is None else made.weights
            self.table[:6] = (weights.ctypes.data, 0, self.arena.ctypes.data, self.capacity, 0, self.each.ctypes.data)
        else:
            self.table = np.zeros(EACH_HEADER + 2 * ports, INDEX)
        self.pointer = self.table.ctypes.data

    def prepare_each(self, run: Any, context: Context) -> None:
        """Take the page for one stream, and the memory in which it works."""
        self.run, self.context = run, context
        entry = 0 if self.made.code is None else ctypes.cast(run, ctypes.c_void_p).value or 0
        self.table[:2] = entry, context.pointer
        self.table[7] = self.layout.header

    def entry(self, states: Array, which: Array, arrays: Sequence[Array]) -> tuple[int, int, int, int]:
        """What native code calls for one frame of some streams: (function, its two arguments, a place in the table at the first).

        which:  int64, the slots of at most so many streams; the place takes how many of them, the first ones, have a frame
        arrays: inputs and outputs, with a row for each stream
        """
        assert self.made.code is not None
        table, function = self.table, ctypes.cast(self.made.code.run, ctypes.c_void_p).value or 0
        addresses = [array.ctypes.data for array in arrays]
        if self.made.tick:
            table[1], table[4], table[6:TICK_HEADER] = states.ctypes.data, which.ctypes.data, (0, 0, len(which))
            table[TICK_HEADER:] = addresses
            return function, self.pointer, 1, 7
        self.ones = np.ones(len(which), INDEX)
        table[2:7] = states.ctypes.data, states.strides[0], which.ctypes.data, self.ones.ctypes.data, 0
        table[EACH_HEADER::2] = addresses
        table[EACH_HEADER + 1 :: 2] = [array.strides[0] for array in arrays]
        return function, self.pointer, len(arrays), 6

    def tick(self, states: Array, work: Work, first: int, count: int) -> int:
        """Run the streams from `first` on; 0, or 1 + the number of an input whose indices are out of range."""
        table, across = self.table, len(work.slots)
        lengths = 0 if work.lengths is None else work.lengths.ctypes.data + 8 * first
        table[1] = states.ctypes.data
        table[4] = work.slots.ctypes.data + 8 * first
        table[6:TICK_HEADER] = lengths, count, across
        for place, (array, timed) in enumerate(zip(work.arrays, work.timed, strict=True), TICK_HEADER):
            streams = array.shape[1] if timed else array.shape[0]
            assert streams == across
            table[place] = array.ctypes.data + first * array.strides[1 if timed else 0]
        return int(self.made.code.run(self.pointer, work.frames))

    def one_frame(self, states: int, slots: Array, addresses: Sequence[int]) -> int:
        """`tick` for one frame of each stream in `slots`, with arrays by their addresses."""
        table, count = self.table, len(slots)
        table[1], table[4] = states, slots.ctypes.data
        table[6:] = (0, count, count, *addresses)
        return int(self.made.code.run(self.pointer, 1))

    def one_by_one(self, states: Array, work: Work, first: int, count: int) -> int:
        """As `tick`, where each stream has rows of its own number."""
        self.place(states, work, first, count)
        return self.each_placed(states, work, first, count)

    def place(self, states: Array, work: Work, first: int, count: int) -> None:
        """Take memory and arrays for streams one by one."""
        assert work.lengths is not None
        table, context = self.table, self.context
        if self.layout.chunk == 0 and work.frames + self.layout.lead > context.capacity:
            context.reserve(work.frames + self.layout.lead)
        table[2:7] = (
            states.ctypes.data,
            states.strides[0],
            work.slots.ctypes.data + 8 * first,
            work.lengths.ctypes.data + 8 * first,
            count,
        )
        for place, array in enumerate(work.arrays):
            table[EACH_HEADER + 2 * place] = array.ctypes.data + first * array.strides[0]
            table[EACH_HEADER + 2 * place + 1] = array.strides[0]
        context.addresses[4] = work.end

    def each_placed(self, states: Array, work: Work, first: int, count: int) -> int:
        """Run what `place` has taken, with the arrays whose addresses are in the table."""
        table, addresses, ports = self.table, self.context.addresses, len(work.arrays)
        if self.made.code is not None:
            return int(self.made.code.run(self.pointer, ports))
        assert work.lengths is not None
        starts, steps = table[EACH_HEADER::2], table[EACH_HEADER + 1 :: 2]
        for i in range(count):
            addresses[1] = states.ctypes.data + int(work.slots[first + i]) * states.strides[0]
            addresses[self.layout.header :][:ports] = starts + i * steps
            frames = int(work.lengths[first + i])
            status = int(self.run(self.context.pointer, frames)) if frames else 0
            if status:
                return status
        return 0
