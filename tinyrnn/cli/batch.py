"""Files that one command takes: what each of them gave, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyrnn.errors import TinyRNNError

if TYPE_CHECKING:
    from tinyrnn.runtime import Progress

Figures = dict[str, Any]


class Batch:
    """Files that are run, one after the other or together: what they gave, and how far it is."""

    def __init__(self, places: Mapping[Path, Path], progress: Progress) -> None:
        self.places, self.progress = places, progress
        self.sizes = {path: path.stat().st_size if path.is_file() else 0 for path in places}
        self.total, self.done = sum(self.sizes.values()), 0
        self.figures: dict[Path, Figures] = {}
        self.remarks: dict[str, None] = {}

    def one(self, path: Path, run: Callable[[Progress], Figures]) -> None:
        """Run one file; where that fails, its error is kept."""

        def part(done: int, total: int) -> None:
            self.progress(self.done + self.sizes[path] * done // max(total, 1), self.total)

        try:
            self.finished(path, run(part))
        except TinyRNNError as error:
            text = str(error)
            self.finished(path, {"error": text if str(path) in text else f"{path}: {text}"})

    def finished(self, path: Path, figures: Figures) -> None:
        self.figures[path] = {"input": str(path), **figures}
        self.done += self.sizes[path]
        self.progress(self.done, self.total)
