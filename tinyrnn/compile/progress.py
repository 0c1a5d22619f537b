"""What a load is doing, told to whoever listens: stages in their order, and how much of a long one is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""is called with a stage, what is done of it, and of how much; 0, 0 where that is not known"""

READING, PASSES, PLAN, PAGE, KERNELS, LINKING = "reading", "passes", "plan", "page", "kernels", "linking"
"""the stages: of the file; of the graph; offsets; the source; compiling, where the cache has nothing; one object of all"""

DONE = ""
"""the stage after the last"""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_told: ContextVar[tuple[Listener, ...]] = ContextVar("told", default=())
"""the listeners to the load that is under way; none outside of one, where a new size may be made ready too"""


def tell(stage: str, done: int = 0, total: int = 0) -> None:
    """Say what is being done from now on."""
    for listener in _told.get():
        listener(stage, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of the loads of this thread meanwhile."""
    before = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(before)


@contextmanager
def loading(listener: Listener | None = None) -> Iterator[None]:
    """A load: what is done in it is told, and its end, whether it succeeds or not."""
    before = _told.set((*_listeners.get(), *([listener] if listener else [])))
    try:
        yield
    finally:
        tell(DONE)
        _told.reset(before)


class Stopwatch:
    """A listener that adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def __str__(self) -> str:
        lines = [f"{stage:<10}{seconds:8.3f} s" for stage, seconds in self.seconds.items()]
        return "\n".join([*lines, f"{'all':<10}{sum(self.seconds.values()):8.3f} s"])
