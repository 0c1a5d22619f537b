"""What a load may cost before anything is compiled: seconds, and bytes of constants that it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic

from tinyrnn.errors import LoadError
from tinyrnn.ir import Graph

SECONDS = 9.0
"""for the passes over a small file, and so much more for each node and megabyte: the largest public models take a third"""
SECONDS_PER_NODE = 0.02
SECONDS_PER_MEGABYTE = 2.0
COMPUTED_BYTES = 1 << 27
"""of constants that one pass over the graph computes, and as much again as the file holds"""


@dataclass
class Budget:
    """What is left to one load."""

    model: str
    seconds: float
    bytes: int
    begun: float = field(default_factory=monotonic)

    def check_time(self) -> None:
        """Raise `LoadError` when the time is over."""
        if monotonic() - self.begun > self.seconds:
            raise LoadError(
                f"{self.model}: it is not prepared after {self.seconds:.0f} s, the limit for a file of its size: "
                f"it computes too much from constants, or is damaged. Fold its constants before it is exported"
            )

    def check_bytes(self, computed: int) -> None:
        """Raise `LoadError` where so many bytes of computed constants are too many."""
        if computed > self.bytes:
            raise LoadError(
                f"{self.model}: more than {self.bytes >> 20:,} MB of constants are computed from a few numbers, "
                f"the limit for a file of its size; the file is damaged, or hostile"
            )


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def current() -> Budget | None:
    """The budget of the load that is going on."""
    return _current.get()


@contextmanager
def budget_of(graph: Graph) -> Iterator[None]:
    """One budget for all that happens to a graph inside; an outer one stays in force."""
    if _current.get() is not None:
        yield
        return
    held = sum(array.nbytes for array in graph.constants.values())
    nodes = sum(1 for _ in graph.every_node())
    seconds = SECONDS + SECONDS_PER_NODE * nodes + SECONDS_PER_MEGABYTE * held / (1 << 20)
    token = _current.set(Budget(graph.name, seconds, COMPUTED_BYTES + held))
    try:
        yield
    finally:
        _current.reset(token)
