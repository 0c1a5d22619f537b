"""What a load is doing, in place on a terminal, where it takes long."""

from __future__ import annotations

import sys
import time

PATIENCE = 2.0
"""seconds without a word"""


class Shown:
    """A listener that writes to the terminal's stderr, and nothing where that is no terminal."""

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
        """Take the line away."""
        if self._written:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        self._begun, self._written = 0.0, False
