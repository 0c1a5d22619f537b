"""The progress of a load, reported to listeners: its stages in order, and how much of a long stage is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""called with (stage, work done, total work); 0, 0 where these are not known"""

READING, PASSES, PLAN, PAGE, KERNELS, LINKING = "reading", "passes", "plan", "page", "kernels", "linking"
"""the stages: reading the file; passes over the graph; offsets; source; compiling what is not cached; linking"""

DONE = ""
"""the stage after the last"""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_told: ContextVar[tuple[Listener, ...]] = ContextVar("told", default=())
"""the listeners of the current load; none outside of a load, as when a new size is prepared"""


def tell(stage: str, done: int = 0, total: int = 0) -> None:
    """Report the stage that begins or goes on."""
    for listener in _told.get():
        listener(stage, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """A context in which a listener hears of the loads of this thread."""
    before = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(before)


@contextmanager
def loading(listener: Listener | None = None) -> Iterator[None]:
    """The context of one load: the listener hears of its stages and of its end, also when it fails."""
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
