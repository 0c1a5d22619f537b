"""Files of frames as streams of one pool: one native call for a block of files, with the bits that each has alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tinyrnn.cli import feed
from tinyrnn.cli.arrays import ArrayRun
from tinyrnn.cli.batch import Batch, Figures
from tinyrnn.cli.feed import Feed
from tinyrnn.errors import ShapeError, TinyRNNError
from tinyrnn.graph.arrays import Array, frame_input
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.runtime import Model, Pool, Progress

BLOCK_BYTES = 1 << 27
"""most bytes of frames of a block, those that come in and those that go out"""
BLOCK_FILES = 1024
"""most files of a block"""


@dataclass(frozen=True)
class _Opened:
    """A file that was read."""

    path: Path
    given: Feed
    arrays: list[Array]
    """for each input [frames, *frame], or the value of the call"""
    frames: int
    state: Array | None
    """the state that the file names; None where it names none"""


def run_arrays(way: ArrayRun, batch: Batch) -> None:
    """Run every file of the batch: those of about one size go together, so that their frames fill the block."""
    together = way.streams and _shares_calls(way.model)
    block = _Block(way, batch)
    for path in sorted(batch.places, key=lambda path: batch.sizes[path]):
        try:
            given = way.read(path)
        except TinyRNNError as error:
            batch.one(path, _raises(error))
            continue
        batch.remarks |= dict.fromkeys(way.remarks(path, given))
        opened = _opened(way.model, path, given) if together else None
        if opened is None:
            batch.one(path, lambda part, path=path, given=given: _alone(way, batch, path, given, part))  # type: ignore[misc]
        else:
            block.add(opened)
    block.run()


def _shares_calls(model: Model) -> bool:
    """Whether files with different numbers of frames are streams of one call."""
    return any(p.per_frame for p in model.inputs) and not isinstance(model, DynamicShapeModel)


def _raises(error: TinyRNNError) -> Any:
    def run(progress: Progress) -> Figures:
        raise error

    return run


def _alone(way: ArrayRun, batch: Batch, path: Path, given: Feed, progress: Progress) -> Figures:
    """One file as it would be run on its own."""
    start = perf_counter()
    results, frames = way.results(given, progress)
    seconds = perf_counter() - start
    _remark(way, batch, frames)
    return way.write(batch.places[path], given, results, frames, seconds)


def _remark(way: ArrayRun, batch: Batch, frames: int) -> None:
    """The remark on outputs with one value for many frames, once."""
    if way.window is None and not any("frames gave one" in text for text in batch.remarks):
        batch.remarks |= dict.fromkeys(feed.singles(way.model, frames))


def _opened(model: Model, path: Path, given: Feed) -> _Opened | None:
    """A file for a pool; None for one that is run alone, for what it lacks too."""
    arrays: list[Array] = []
    counts = set()
    try:
        for port in model.inputs:
            array, count = frame_input(model.name, port, given.inputs[port.name], True)
            arrays.append(array)
            counts |= {count} - {None}
        state = feed.opened(model, given).state.copy() if given.states else None
    except ShapeError:
        return None
    frames = counts.pop() or 0
    return None if counts or not frames else _Opened(path, given, arrays, frames, state)


class _Block:
    """Files that are waiting for a call of the pool."""

    def __init__(self, way: ArrayRun, batch: Batch) -> None:
        self.way, self.batch = way, batch
        self.files: list[_Opened] = []
        self.pool: Pool | None = None
        inputs = sum(p.size * p.dtype.itemsize for p in way.model.inputs if p.per_frame)
        outputs = sum(p.size * p.dtype.itemsize * p.clock.most(1) for p in way.model.outputs if p.per_frame)
        self.frame_bytes = inputs + outputs

    def add(self, file: _Opened) -> None:
        """Put a file into the block, which is run before where it is full."""
        longest = max([file.frames, *(f.frames for f in self.files)])
        count = len(self.files) + 1
        if count > BLOCK_FILES or count * longest * self.frame_bytes > BLOCK_BYTES:
            self.run()
        self.files.append(file)

    def run(self) -> None:
        """Run the files of the block, in one call where there are several."""
        block, self.files = sorted(self.files, key=lambda file: -file.frames), []  # as the pool wants them: it copies nothing
        if len(block) > 1:
            try:
                self._together(block)
                return
            except ShapeError:  # an index out of range: nothing was written, and each file alone tells whose it is
                pass
        way, batch = self.way, self.batch
        for file in block:
            batch.one(file.path, lambda part, f=file: _alone(way, batch, f.path, f.given, part))  # type: ignore[misc]

    def _together(self, block: Sequence[_Opened]) -> None:
        """One call over all frames of these files. Raises `ShapeError` where one holds an index that is out of range."""
        model, count = self.way.model, len(block)
        if self.pool is None:
            self.pool = model.pool(min(len(self.batch.places), BLOCK_FILES))
            nothing = [np.zeros((*((1,) if p.per_frame else ()), 0, *p.shape), p.dtype) for p in model.inputs]
            self.pool.run(*nothing, which=[])  # its code is compiled before the clock starts
        slots, lengths = np.arange(count), np.array([file.frames for file in block])
        self.pool.reset(slots)
        for slot, file in enumerate(block):
            if file.state is not None:
                self.pool.state[slot] = file.state
        arrays = []
        for k, port in enumerate(model.inputs):
            if not port.per_frame:
                arrays.append(np.stack([file.arrays[k] for file in block]))
                continue
            array = np.zeros((int(lengths.max()), count, *port.shape), port.dtype)
            for slot, file in enumerate(block):
                array[: file.frames, slot] = file.arrays[k]
            arrays.append(array)
        start = perf_counter()
        made = self.pool.run(*arrays, which=slots, lengths=lengths)
        tails = self.pool.flush(slots) if model.has_tail else None
        each = (perf_counter() - start) / int(lengths.sum())
        for slot, file in enumerate(block):
            results = self._results(made, None if tails is None else tails[slot], slot, file.frames)
            place = self.batch.places[file.path]
            _remark(self.way, self.batch, file.frames)
            self.batch.one(
                file.path,
                lambda part, f=file, r=results, p=place: self.way.write(p, f.given, r, f.frames, each * f.frames),  # type: ignore[misc]
            )

    def _results(self, made: Any, tail: Any, slot: int, frames: int) -> dict[str, Array]:
        """What one file's stream made, as its own run and flush would give it."""
        outputs = self.way.model.outputs
        mine = made[slot] if isinstance(made, list) else made
        found = {}
        for port, array, last in zip(outputs, _several(mine), _several(tail, len(outputs)), strict=True):
            if not isinstance(made, list):
                array = array[:frames, slot] if port.per_frame else array[slot]
            if last is not None:
                array = np.concatenate([array, last]) if port.per_frame else last
            found[port.name] = np.ascontiguousarray(array)
        return found


def _several(made: Any, count: int = 1) -> Sequence[Any]:
    return made if isinstance(made, tuple) else (made,) * count
