"""The progress of a long load on a terminal."""

from __future__ import annotations

import sys
import time

PATIENCE = 2.0
"""seconds before the first message"""


class Shown:
    """A listener that shows progress on stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._begun, self._written = 0.0, False
        self._terminal = sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        self._begun = self._begun or now
        if not self._terminal:
            return
        if not stage:
            self.end()
        elif now - self._begun >= PATIENCE:
            of = f", {done} of {total} done" if total else ""
            sys.stderr.write(f"\r\033[Kloading: {stage}{of}")
            sys.stderr.flush()
            self._written = True

    def end(self) -> None:
        """Erase the line."""
        if self._written:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        self._begun, self._written = 0.0, False
