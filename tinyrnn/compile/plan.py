"""From a program to memory: what every kernel call reads and writes, and where it lies.

Four memories: `weights` (constant, packed for the machine, shared by all streams), `state` (one flat
float32 array per stream, owned by the user), `arena` (per stream, worthless between calls), and the
caller's own inputs and outputs. Arena offsets have a fixed part and a part per row of capacity, so one
program serves any number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrnn.graph.call import Close, Open
from tinyrnn.graph.clock import Clock
from tinyrnn.lanes.dots import DOTS, Dot
from tinyrnn.passes import Program
from tinyrnn.runtime.memory import state_stride


@dataclass(frozen=True)
class Place:
    """The place of a value: a memory, an offset in bytes, and further bytes per row of capacity."""

    memory: str
    """'weights', 'state', 'arena', or the name of an argument of the step"""
    offset: int = 0
    per_capacity: int = 0
    terms: tuple[tuple[str, int], ...] = ()
    """(variable of an enclosing loop, bytes for each iteration)"""


@dataclass(frozen=True)
class Part:
    """One named part of a stream's state."""

    name: str
    offset: int
    """float32 elements into the state"""
    shape: tuple[int, ...]
    initial: np.ndarray[Any, Any]
    """initial value, of any type; the state holds its bytes"""

    @property
    def size(self) -> int:
        """The number of float32 elements that it takes."""
        return -(-self.initial.nbytes // 4)


@dataclass(frozen=True)
class Region:
    """The part of the arena that a value or a scratch memory occupies during its lifetime."""

    name: str
    offset: int
    size: int
    """bytes, per row of capacity where `per_row`"""
    per_row: bool
    first: int
    last: int
    """the steps that use it first and last"""


@dataclass
class Step:
    """One kernel call, or the head or the end of a block, with all operands placed in memory."""

    kernel: Any
    operands: list[Place | int | float | str]
    note: str
    node: str
    pieces: int = 0
    """as of `tinyrnn.graph.call.Call`"""


@dataclass
class Plan:
    """A program with its memory laid out."""

    program: Program
    steps: list[Step] = field(default_factory=list)
    weights: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, np.uint8))
    packed: list[tuple[int, int]] = field(default_factory=list)
    """offset and bytes of each array in the weights"""
    parts: list[Part] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    arena_fixed: int = 0
    """bytes"""
    arena_per_row: int = 0
    """bytes per row of capacity"""
    chunk: int = 1
    """most rows of one pass over the program; 0 where every call is one pass"""
    bounds: list[tuple[str, int, int]] = field(default_factory=list)
    """(input, lowest, highest) of inputs that hold indices"""
    multiply_adds: int = 0
    """per frame"""
    clocks: list[Clock] = field(default_factory=list)
    """the clocks of the steps' rows, that of the input frames first"""
    lead: int = 0
    """rows of capacity beyond the frames of a pass: the first pass of a sequence can make more rows than it has frames"""
    narrow: bool = False
    """whether weights that are numbers of half precision are stored so"""
    beyond: int = 0
    """as of `tinyrnn.graph.call.Lowering`"""
    small: bool = False
    """whether memory is scarce"""
    dot: Dot = DOTS["widened"]
    """how the machine multiplies int8"""
    streams: bool = False
    """each row is one frame of another stream, see `tinyrnn.compile.stream_planner`"""

    @property
    def shared(self) -> list[Step]:
        """The steps that the threads of a crew share."""
        return [step for step in self.steps if step.pieces]

    @property
    def state_size(self) -> int:
        return max((p.offset + p.size for p in self.parts), default=0)

    @property
    def state_stride(self) -> int:
        """float32 elements from one stream's state to the next, where many lie in one array: whole cache lines."""
        return state_stride(self.state_size)

    def arena_bytes(self, capacity: int) -> int:
        return self.arena_fixed + self.arena_per_row * capacity

    def initial_state(self) -> np.ndarray[Any, Any]:
        state = np.zeros(self.state_size, np.float32)
        for part in self.parts:
            state[part.offset : part.offset + part.size].view(np.uint8)[: part.initial.nbytes] = np.frombuffer(
                part.initial.tobytes(), np.uint8
            )
        return state

    def __str__(self) -> str:
        lines = [
            f"plan of {self.program.graph.name}: weights {self.weights.nbytes} bytes, state {self.state_size} float32, "
            f"arena {self.arena_fixed} + {self.arena_per_row} bytes per row, {self.chunk or 'all'} rows at once, "
            f"{self.multiply_adds} multiply-adds per frame"
        ]
        lines += [f"  state {p.offset:6d}  {p.name} {list(p.shape)}" for p in self.parts]
        for step in self.steps:
            if isinstance(step.kernel, (Open, Close)):
                continue
            shown = ", ".join(
                f"{o.memory}+{o.offset}{f'+{o.per_capacity}·rows' if o.per_capacity else ''}" if isinstance(o, Place) else str(o)
                for o in step.operands
            )
            lines.append(f"  {step.note or step.node}: {shown}")
        return "\n".join(lines)
