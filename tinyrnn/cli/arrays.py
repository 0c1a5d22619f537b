"""`tinyrnn run` on frames: a file of arrays through a model, as a stream, whole, or window by window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyrnn.cli import feed
from tinyrnn.cli.feed import Feed
from tinyrnn.cli.options import ROWS
from tinyrnn.cli.windows import slide
from tinyrnn.data import files
from tinyrnn.errors import StreamError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model, Progress


@dataclass(frozen=True)
class ArrayRun:
    """A model, and how files of arrays go through it."""

    model: Model
    whole: bool
    window: str | None
    """rows of a window that slides over the rows of a file, or `ROWS`; None for none"""
    drop: tuple[str, ...]
    """columns of .csv to leave out"""
    rate: int | None
    bits: str

    @property
    def streams(self) -> bool:
        """Whether the frames of a file go through a stream."""
        return not self.whole and self.window is None

    def check_streams(self) -> None:
        """Raise `StreamError` where the model cannot do what is asked."""
        if self.streams and self.model._layout.refuses_stream:
            raise StreamError(
                f"{self.model.name} cannot stream: {self.model._layout.refuses_stream}. Run it over the whole file with --whole"
            )

    def read(self, path: Path) -> Feed:
        return feed.read_feed(self.model, path, not self.streams, self.drop)

    def remarks(self, path: Path, given: Feed) -> Iterator[str]:
        """What the user should know of how a file was read."""
        yield from given.notes
        for name in given.unused:
            yield f"{path}: array {name!r} is not used, {self.model.name} has no such input or state"

    def results(self, given: Feed, progress: Progress) -> tuple[dict[str, Array], int]:
        """(outputs by name, number of frames or positions of the window)."""
        if self.window is None:
            return feed.run(self.model, given, self.whole, progress)
        inputs = self.model.inputs
        rows = given.inputs[inputs[0].name] if len(inputs) == 1 else next(iter(given.inputs.values()))
        return slide(self.model, rows, None if self.window == ROWS else int(self.window), progress)

    def write(self, output: Path, given: Feed, results: Mapping[str, Array], frames: int, seconds: float) -> dict[str, Any]:
        """Write the outputs; returns the figures that the command prints."""
        kind = files.kind_of(output)
        if self.window is None:
            results = feed.shape_outputs(self.model, given, results, kind, self.whole)
        elif kind == ".csv":
            results = {name: array.reshape(frames, -1) for name, array in results.items()}
        clipped = files.write_arrays(output, results, given.rate or self.rate, self.bits)
        return {
            "model": self.model.name,
            "frames": frames,
            "seconds": seconds,
            "microseconds_per_frame": seconds * 1e6 / max(frames, 1),
            "output": str(output),
            "arrays": {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in results.items()},
            "clipped": clipped,
        }
