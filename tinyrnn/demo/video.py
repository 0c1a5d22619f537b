"""Many to many, frame by frame: a letter as it is being written, named in every frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn import picture as pictures
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.drawing import arc
from tinyrnn.demo.replay import FRAMES, SIZE, Array, Track, replayed
from tinyrnn.errors import ShapeError
from tinyrnn.files import read_array
from tinyrnn.runtime import Model
from tinyrnn.vocabulary import listed

ABOUT = About(
    "many to many, per frame",
    "letters named while they are being written",
    "a pen's track, .npy or .csv: columns x, y (downwards), seconds and, where the pen was lifted, the number of the stroke",
)
FILLED = 0.6
"""of the square's side: the longer side of a letter"""
SPEED, LIFTED = 1.0, 0.2
"""of the pen, in sides of the letter a second; seconds between two strokes"""
SHOWN = (1, 4, 7, 10, 13, 15)
"""frames in the terminal"""
LINES = 8
"""of the table: guesses over time, for a letter that settles late"""
DOTS = ((0, 3), (1, 4), (2, 5), (6, 7))
"""bits of a Braille character's dots, by row and column"""

DRAWN: dict[str, list[Any]] = {
    "k": [[(0.25, 0.0), (0.25, 1.0)], [(0.7, 0.35), (0.27, 0.68), (0.75, 1.0)]],
    "m": [[(0, 0.2), (0, 1), *arc((0.25, 0.45), (0.25, 0.2), 0.5, 1), (0.5, 1), *arc((0.75, 0.45), (0.25, 0.2), 0.5, 1), (1, 1)]],
    "z": [[(0.1, 0.1), (0.9, 0.1), (0.1, 0.95), (0.9, 0.95)]],
    "θ": [arc((0.5, 0.5), (0.35, 0.5), -0.25, 0.75, 32), [(0.17, 0.5), (0.83, 0.5)]],
    "π": [[(0.0, 0.25), (1.0, 0.2)], [(0.3, 0.25), (0.25, 1.0)], [(0.7, 0.25), (0.75, 1.0)]],
    "ψ": [[(0.1, 0.2), *arc((0.5, 0.35), (0.4, 0.35), 0.5, 0, 20), (0.9, 0.2)], [(0.5, 0.0), (0.5, 1.0)]],
}
"""strokes of letters, in a unit square"""


def fitted(points: Array) -> Array:
    """Points [n, 2] in any unit, moved and scaled to where the data set has its letters."""
    low, high = points.min(axis=0), points.max(axis=0)
    longer = max(float((high - low).max()), 1e-9)
    found: Array = 0.5 + (points - (low + high) / 2) * (FILLED / longer)
    return found


def written(strokes: list[Any]) -> Track:
    """The track of a pen that draws strokes at one speed."""
    points, seconds, numbers, now = [], [], [], 0.0
    for number, stroke in enumerate(strokes):
        places = np.asarray(stroke, np.float64)
        steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(places, axis=0).T))]) / SPEED
        points.append(places)
        seconds.append(now + steps)
        numbers.append(np.full(len(places), number))
        now += steps[-1] + LIFTED
    return Track(fitted(np.concatenate(points)), np.concatenate(seconds), np.concatenate(numbers))


class Watcher:
    """Names the letter that is being written, at every frame."""

    def __init__(self, model: Model) -> None:
        self.labels = listed(model, "labels")
        self.stream = model.stream()

    def scores(self, frames: Array) -> Array:
        """Logits [T, labels] after every frame of a letter [T, 28, 28], from its first frame."""
        self.stream.reset()
        found: Array = self.stream.run(frames)
        return found


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Name letters while they are being written: those drawn above, or one from a file."""
    tracks = [written(strokes) for strokes in DRAWN.values()] if given is None else [_read(Path(given))]
    watcher = Watcher(models.load("video"))
    videos = replayed(tracks)
    found = []
    for video, truth in zip(videos, list(DRAWN) if given is None else [None], strict=True):
        scores = watcher.scores(video)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        guesses = shares.argmax(axis=1)
        settled = int(np.max(np.flatnonzero(guesses != guesses[-1]), initial=-1)) + 1
        found.append((video, shares, settled))
        _tell(video, shares, settled, watcher.labels, truth, say)
    if picture is not None:
        _draw(found, watcher.labels, picture)
    return {
        "letters": [watcher.labels[s[-1].argmax()] for _, s, _ in found],
        "probabilities": [float(s[-1].max()) for _, s, _ in found],
        "settled_at_frame": [settled + 1 for _, _, settled in found],
        "guesses": [[watcher.labels[i] for i in s.argmax(axis=1)] for _, s, _ in found],
    } | ({} if given is not None else {"drawn": list(DRAWN)})


def _read(path: Path) -> Track:
    """A track from a file. Raises `LoadError`, and `ShapeError` for columns that are no track."""
    table = np.asarray(read_array(path))
    if table.ndim != 2 or table.shape[1] not in (3, 4):
        raise ShapeError(
            f"{path}: shape {list(table.shape)}; a track is [points, 3] or [points, 4]: x, y, seconds, stroke of each point"
        )
    if len(table) < 2:
        raise ShapeError(f"{path}: {len(table)} points; a track has at least 2")
    table = table.astype(np.float64)
    if not np.isfinite(table).all():
        raise ShapeError(f"{path}: point {int(np.argmin(np.isfinite(table).all(axis=1)))} is no place: NaN or infinite")
    late = np.flatnonzero(np.diff(table[:, 2]) < 0)
    if len(late):
        raise ShapeError(f"{path}: point {late[0] + 1} is earlier than the one before: seconds, the third column, must ascend")
    strokes = table[:, 3] if table.shape[1] == 4 else np.zeros(len(table))
    return Track(fitted(table[:, :2]), table[:, 2], strokes)


def as_dots(image: Array) -> list[str]:
    """Lines of a grey image, float from 0 to 1, as Braille characters of 2 x 4 pixels: a dot where it is above a half."""
    height, width = (-(-image.shape[0] // 4) * 4, -(-image.shape[1] // 2) * 2)
    dark = np.zeros((height, width), np.int64)
    dark[: image.shape[0], : image.shape[1]] = image > 0.5
    cells = dark.reshape(height // 4, 4, width // 2, 2).transpose(0, 2, 1, 3)
    codes = (cells << np.array(DOTS)).sum(axis=(2, 3))
    return ["".join(chr(0x2800 + code) for code in row) for row in codes]


def _tell(video: Array, shares: Array, settled: int, labels: list[str], truth: str | None, say: Say) -> None:
    strips = [as_dots(video[frame]) for frame in SHOWN]
    for lines in zip(*strips, strict=True):
        say("  ".join(lines))
    likely = [np.argsort(-shares[frame])[:2] for frame in SHOWN]
    for rank in range(2):
        cells = [f"{labels[best[rank]]} {shares[frame, best[rank]]:.0%}" for best, frame in zip(likely, SHOWN, strict=True)]
        say("  ".join(cell.ljust(SIZE // 2) for cell in cells).rstrip())
    last = labels[shares[-1].argmax()]
    drawn = "" if truth is None else f"drawn: {truth}, "
    say(f"{drawn}named: {last} ({shares[-1].max():.0%}), and no longer anything else from frame {settled + 1} of {FRAMES} on\n")


def _draw(found: list[tuple[Array, Array, int]], labels: list[str], path: Path) -> None:
    figure = pictures.figure(FRAMES * 0.62, 1.75 * len(found))
    axes = figure.subplots(2 * len(found), 1, squeeze=False, height_ratios=[1, 0.9] * len(found))[:, 0]
    for number, (video, shares, settled) in enumerate(found):
        film, chart = axes[2 * number : 2 * number + 2]
        film.imshow(video.transpose(1, 0, 2).reshape(SIZE, FRAMES * SIZE), cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        film.set_xticks([SIZE * (i + 0.5) for i in range(FRAMES)], [labels[i] for i in shares.argmax(axis=1)])
        film.set_yticks([])
        film.tick_params(length=0, labelsize=8)
        for edge in range(1, FRAMES):
            film.axvline(edge * SIZE - 0.5, color="0.8", linewidth=0.6)
        shown = np.argsort(-shares.max(axis=0))[:4]
        for label in shown:
            chart.plot(np.arange(FRAMES) + 0.5, shares[:, label], label=labels[label])
        chart.axvspan(settled, FRAMES, color="0.93", zorder=0)
        chart.set(xlim=(0, FRAMES), ylim=(0, 1.05), xticks=[], yticks=[0, 1])
        chart.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, handlelength=1)
    pictures.save(figure, path)
