"""The memory of compiled code: the layout of a model, and the context of one live input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array, Port, SizeRule
from tinyrnn.graph.clock import Clock
from tinyrnn.runtime.process_local import ProcessLocal

ALIGNMENT = 64
"""bytes to which values are aligned, unless memory is scarce"""


@dataclass(frozen=True, eq=False, repr=False)
class Layout:
    """The description of a compiled model that is needed to run it."""

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
    """most rows of one pass; 0 if every call is one pass"""
    lead: int
    """rows of capacity more than a pass has frames"""
    waits: tuple[Clock, ...]
    """clocks that a flush has to complete, where a sequence has rows after its last frame"""
    refuses_stream: str
    batches: Mapping[str, Array]
    multiply_adds: int
    header: int
    """context entries before the addresses"""
    metadata: Mapping[str, str]
    sizes: tuple[SizeRule, ...] = ()
    """what open sizes can be"""
    table: Array | None = None
    """the table of parameters of a parametric page, before the weights in the same memory"""

    @property
    def clocks(self) -> set[Clock]:
        """The clocks of outputs and of values that have to be completed."""
        return {*self.waits, *(p.clock for p in (*self.inputs, *self.outputs) if p.per_frame)}

    def last(self, frames: int) -> int:
        """The number of frames to run, beyond the end if needed, until all rows of a sequence of `frames` frames are made."""
        late, beyond = frames, 1
        while any(clock.count(late, frames) < clock.whole(frames) for clock in self.waits):
            late, beyond = late + beyond, 2 * beyond
        while late > frames and all(clock.count(late - 1, frames) == clock.whole(frames) for clock in self.waits):
            late -= 1
        return late


def part_views(layout: Layout, state: Array) -> dict[str, Array]:
    """Views of the parts of a state by name, each in its shape and dtype."""
    return {
        name: state[offset : offset + -(-prod(shape) * dtype.itemsize // 4)].view(dtype)[: prod(shape)].reshape(shape)
        for name, offset, shape, dtype in layout.state_parts
    }


def aligned(count: int, dtype: Any = np.uint8) -> Array:
    """An uninitialised array aligned to 64 bytes: NumPy guarantees 16, and loads across cache lines are slow."""
    size = count * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype)


def state_stride(size: int) -> int:
    """float32 elements from one state of so many to the next, where several lie in one array: whole cache lines."""
    return -(-4 * size // ALIGNMENT) * ALIGNMENT // 4


def state_rows(layout: Layout, count: int) -> Array:
    """Many states in their first value, float32, one a row; a row begins on a boundary and may have room at its end."""
    stride = state_stride(layout.initial_state.size)
    rows = aligned(count * stride, np.float32).reshape(count, stride)
    rows[:, : layout.initial_state.size] = layout.initial_state
    return rows


def all_states(layout: Layout, name: str, rows: Array) -> Array:
    """One part of all states that lie in rows, [count, *shape]: a view."""
    offset, shape, dtype = next(part[1:] for part in layout.state_parts if part[0] == name)
    words = -(-prod(shape) * dtype.itemsize // 4)
    return rows[:, offset : offset + words].view(dtype)[:, : prod(shape)].reshape(len(rows), *shape)


class Context(ProcessLocal):
    """The memory of one live input: state, arena, and the addresses that compiled code takes."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.state = aligned(layout.initial_state.size, np.float32)
        ports = [*layout.inputs, *layout.batches, *layout.outputs]
        self.addresses = np.zeros(layout.header + 2 * len(ports) + len(layout.outputs), np.int64)
        self.pointer = self.addresses.ctypes.data
        self.addresses[0] = layout.weights.ctypes.data
        self.addresses[1] = self.state.ctypes.data
        self.counter = part_views(layout, self.state).get("frames")
        self.reserve(max(layout.chunk, 1) + layout.lead)
        self.reset()

    def share(self, state: Array) -> None:
        """Use the state array of another context."""
        self.state = state
        self.addresses[1] = state.ctypes.data
        self.counter = part_views(self.layout, state).get("frames")

    def reset(self) -> None:
        self.state[:] = self.layout.initial_state
        self.ended = False

    @property
    def ended(self) -> bool:
        """Whether the sequence is over: compiled code then takes no more frames."""
        return bool(self.addresses[4] >= 0)

    @ended.setter
    def ended(self, value: bool) -> None:
        self.addresses[4] = self.frames if value else -1

    @property
    def frames(self) -> int:
        """The number of frames since the reset, if the model counts them."""
        return 0 if self.counter is None else int(self.counter[0])

    def reserve(self, rows: int) -> None:
        """Allocate an arena for passes of `rows` rows and touch its pages."""
        self.capacity = rows
        self.arena = aligned(self.layout.arena_fixed + self.layout.arena_per_row * rows + ALIGNMENT)
        self.arena[:] = 0
        self.addresses[2] = self.arena.ctypes.data
        self.addresses[3] = rows

    def execute(self, run: Callable[[int, int], int], arrays: Sequence[Array], frames: int, end: int = -1) -> None:
        """Run compiled code over `frames` frames. arrays: inputs, batch constants and outputs, as the code expects them.

        If the sequence ends after `end` frames, later frames have no input: in them only delayed rows are made.
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
