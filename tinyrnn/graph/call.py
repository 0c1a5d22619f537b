"""What an operator is lowered to: calls of kernels, with operands that the plan replaces by addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.errors import Refused
from tinyrnn.graph.arrays import Array
from tinyrnn.graph.clock import Clock
from tinyrnn.graph.ir import Graph, Spec
from tinyrnn.lanes.dots import DOTS, Dot


@dataclass(frozen=True)
class Value:
    """The address of a value of the frame graph, `offset` elements on, and `iteration` more in each iteration of the loop."""

    name: str
    offset: int = 0
    iteration: int = 0


@dataclass(frozen=True, eq=False)
class Weight:
    """The address of packed constant data, `offset` elements on."""

    array: Array
    offset: int = 0


@dataclass(frozen=True)
class Scratch:
    """The address of float32 elements that live during one node's calls: `fixed`, or `per_row` times the rows of `of`."""

    key: str
    fixed: int = 0
    per_row: int = 0
    offset: int = 0
    of: str = ""
    lasting: bool = False
    """whether nothing else takes its place, so that a call finds what the last one left, unless the memory was made anew"""


@dataclass(frozen=True, eq=False)
class State:
    """The address of a part of the stream's state, float32, with its value after reset."""

    name: str
    initial: Array
    offset: int = 0


@dataclass(frozen=True)
class Rows:
    """The number of rows in this call of a value, by default the node's first output."""

    of: str = ""
    times: int = 1
    """rows of the kernel in one row of the value"""


@dataclass(frozen=True)
class Started:
    """0 in the first call after a reset, otherwise 1."""


@dataclass(frozen=True)
class Iteration:
    """The iteration number of the innermost loop: 0, 1, …"""


@dataclass(frozen=True)
class PastRows:
    """The number of rows of a value since the reset, before this call."""

    of: str


@dataclass(frozen=True)
class TotalRows:
    """The number of rows of a value in the whole sequence, or -1 while its end is not known."""

    of: str


Slotted = Value | State | Scratch | Weight
"""what has a row for each stream, or one for all"""


@dataclass(frozen=True)
class SlotIndex:
    """The address of int64, one for each stream of the call: where its row of the operand lies, in `SlotStride`."""

    of: Slotted


@dataclass(frozen=True)
class SlotStride:
    """Elements from one row of the operand to the next."""

    of: Slotted
    elements: int
    """where the operand is no state"""


Operand = (
    SlotIndex | SlotStride | Value | Weight | Scratch | State | Rows | Started | PastRows | TotalRows | Iteration | int | float
)


@dataclass(frozen=True)
class Call:
    """One kernel call of the step. `kernel` is registered, or `source` is the text of a function of its own."""

    kernel: Callable[..., Any] | str
    operands: tuple[Operand, ...]
    note: str = ""
    pieces: int = 0
    """equal pieces into which the work of a call splits that the threads of a crew share; its kernel then takes three more
    numbers: the first of its pieces, the one after its last, and how often the call was made before"""


@dataclass(frozen=True)
class Open:
    """The head of a block of calls: a line of the page with an operand for each `{}`; `ITERATION` is a loop's variable."""

    text: str
    operands: tuple[Operand, ...] = ()
    by_row: bool = False
    """a loop over the rows of a call, one of which the calls inside see"""


@dataclass(frozen=True)
class Close:
    """The end of the innermost open block; an empty block does what `otherwise` says."""

    otherwise: str = "pass"


@dataclass(frozen=True)
class Body:
    """The calls of a nested graph."""

    graph: Graph


@dataclass(frozen=True)
class Lowering:
    """The properties of a model and a machine that an operator needs for lowering."""

    specs: dict[str, Spec]
    constants: dict[str, Array]
    per_row: Callable[[str], bool]
    """whether a value has rows in a call, each of a frame or of a stream, rather than one value or being constant"""
    per_frame: Callable[[str], bool]
    """whether a stream has another value in every frame, rather than one for a call"""
    clock: Callable[[str], Clock]
    """the clock of a value with one row per frame"""
    carries: Callable[[str, str], bool]
    """True where the first value, a state of the graph, is carried over time and becomes the second at the end"""
    lanes: int
    registers: int
    narrow: bool = False
    """whether weights that are numbers of half precision are stored so"""
    small: bool = False
    """whether memory is scarce"""
    integers: bool = False
    """whether the file has weights as integers with scales"""
    dot: Dot = DOTS["widened"]
    """how the machine multiplies int8"""
    crew: bool = False
    """whether several threads share the large calls of one stream"""
    beyond: int = 0
    """bytes of the model's float32 weights that the second-level cache does not hold; below 0 where it holds more"""

    def row_stride(self, name: str) -> int:
        """Elements from one row of a value to the next: 0 for a value that all rows share."""
        return self.specs[name].elements if self.per_row(name) else 0


def literal(value: float) -> str:
    """A float32 as text of the kernel language. Raises `Refused` for NaN."""
    number = float(value)
    if number != number:
        raise Refused("one of its numbers is NaN")
    return f"splat({number!r})" if abs(number) < np.inf else f"splat({'-' if number < 0 else ''}1e999)"
