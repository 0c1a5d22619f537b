"""Many to many, frame by frame: a letter as it is being written, named in every frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyrnn.data import terminal as pictures
from tinyrnn.data.files import read_array
from tinyrnn.data.vocabulary import listed
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.drawing import arc
from tinyrnn.demo.images import as_dots
from tinyrnn.demo.replay import FRAMES, RATE, SIZE, Track, inked, replayed
from tinyrnn.demo.scores import softmax
from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model

ABOUT = About(
    "many to many, per frame",
    "letters named while they are being written",
    "a pen's track, .npy or .csv: columns x, y (downwards), seconds and, where the pen was lifted, the number of the stroke",
)
FILLED = 0.6
"""longer side of a letter, as a share of the square's side"""
SPEED, LIFTED = 0.5, 0.2
"""speed of the pen, in sides of the letter per second; seconds between two strokes"""
SHOWN = 6
"""frames in the terminal"""
SHARES = 4
"""letters whose shares are drawn"""

DRAWN: dict[str, list[Any]] = {
    "k": [[(0.25, 0.0), (0.25, 1.0)], [(0.7, 0.35), (0.27, 0.68), (0.75, 1.0)]],
    "m": [[(0, 0.2), (0, 1), *arc((0.25, 0.45), (0.25, 0.2), 0.5, 1), (0.5, 1), *arc((0.75, 0.45), (0.25, 0.2), 0.5, 1), (1, 1)]],
    "θ": [arc((0.5, 0.5), (0.35, 0.5), -0.25, 0.75, 32), [(0.17, 0.5), (0.83, 0.5)]],
    "d": [[*arc((0.4, 0.7), (0.3, 0.3), -0.08, -0.92, 20), (0.68, 0.85)], [(0.7, 0.0), (0.7, 1.0)]],
    "β": [[(0.2, 1.0), (0.2, 0.2), *arc((0.45, 0.22), (0.25, 0.2), 0.5, 1.2), *arc((0.45, 0.65), (0.3, 0.22), 0.8, 1.3)]],
    "ψ": [[(0.1, 0.2), *arc((0.5, 0.35), (0.4, 0.35), 0.5, 0, 20), (0.9, 0.2)], [(0.5, 0.0), (0.5, 1.0)]],
}
"""strokes of letters, in a unit square"""


def fitted(points: Array) -> Array:
    """Points [n, 2] in any unit, shifted and scaled to the position and size of the data set's letters."""
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


class Watched(NamedTuple):
    """A letter, frame by frame, and the model's answers."""

    video: Array
    """[FRAMES, 28, 28]"""
    finished: int
    """the first frame that shows all of it"""
    shares: Array
    """[FRAMES, labels]"""
    labels: list[str]

    @property
    def guesses(self) -> list[str]:
        """The likeliest letter after every frame."""
        return [self.labels[i] for i in self.shares.argmax(axis=1)]

    @property
    def settled(self) -> int:
        """The first frame from which on the likeliest letter stays."""
        guesses = self.guesses
        return max((i + 1 for i, guess in enumerate(guesses) if guess != guesses[-1]), default=0)


class Watcher:
    """Names the letter that is being written, at every frame."""

    def __init__(self, model: Model) -> None:
        self.labels = listed(model, "labels")
        self.stream = model.stream()

    def scores(self, video: Array) -> Array:
        """Logits [T, labels] after every frame of a letter [T, 28, 28], from its first frame."""
        self.stream.reset()
        found: Array = self.stream.run(video)
        return found

    def watch(self, track: Track) -> Watched:
        ink = inked(track)
        [video] = replayed([ink])
        return Watched(video, ink.finished, softmax(self.scores(video)), self.labels)


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Name letters while they are being written: those drawn above, or one from a file."""
    tracks = [written(strokes) for strokes in DRAWN.values()] if given is None else [_read(Path(given))]
    watcher = Watcher(models.load("video"))
    found = [watcher.watch(track) for track in tracks]
    for watched, letter in zip(found, DRAWN if given is None else [None], strict=True):
        _tell(watched, letter, say)
    if picture is not None:
        _draw(found, picture)
    return {
        "letters": [watched.guesses[-1] for watched in found],
        "probabilities": [float(watched.shares[-1].max()) for watched in found],
        "finished_at_frame": [watched.finished + 1 for watched in found],
        "settled_at_frame": [watched.settled + 1 for watched in found],
        "guesses": [watched.guesses for watched in found],
    } | ({"drawn": list(DRAWN)} if given is None else {})


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


def _tell(watched: Watched, letter: str | None, say: Say) -> None:
    shown = np.linspace(0, watched.finished, SHOWN + 1).astype(int)[1:]
    for lines in zip(*(as_dots(watched.video[frame]) for frame in shown), strict=True):
        say("  ".join(lines))
    for rank in range(2):
        best = [(frame, int(np.argsort(-watched.shares[frame])[rank])) for frame in shown]
        cells = [f"{watched.labels[label]} {watched.shares[frame, label]:.0%}" for frame, label in best]
        say("  ".join(cell.ljust(SIZE // 2) for cell in cells).rstrip())
    drawn = "" if letter is None else f"drawn: {letter}, "
    say(
        f"{drawn}named: {watched.guesses[-1]} ({watched.shares[-1].max():.0%}), for good from frame {watched.settled + 1} on; "
        f"finished in frame {watched.finished + 1} of {FRAMES}, {RATE} a second\n"
    )


def _draw(found: list[Watched], path: Path) -> None:
    figure = pictures.figure(FRAMES * 0.5, 1.6 * len(found))
    axes = figure.subplots(2 * len(found), 1, squeeze=False, height_ratios=[1, 1] * len(found))[:, 0]
    for number, watched in enumerate(found):
        film, chart = axes[2 * number : 2 * number + 2]
        strip = watched.video.transpose(1, 0, 2).reshape(SIZE, FRAMES * SIZE)
        film.imshow(strip, cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        film.set_xticks([SIZE * (i + 0.5) for i in range(FRAMES)], [guess.replace(" ", "\n") for guess in watched.guesses])
        film.set_yticks([])
        film.tick_params(length=0, labelsize=7)
        for edge in range(1, FRAMES):
            film.axvline(edge * SIZE - 0.5, color="0.8", linewidth=0.6)
        for label in np.argsort(-watched.shares.max(axis=0))[:SHARES]:
            chart.plot(np.arange(FRAMES) + 0.5, watched.shares[:, label], label=watched.labels[label])
        chart.axvspan(watched.settled, FRAMES, color="0.93", zorder=0)
        chart.axvline(watched.finished + 0.5, color="0.5", linewidth=0.8, linestyle=":")
        chart.set(xlim=(0, FRAMES), ylim=(0, 1.05), xticks=[], yticks=[0, 1])
        chart.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, handlelength=1, labelspacing=0.2)
    figure.supxlabel(f"{RATE} frames a second; grey: the guess no longer changes; dotted: the letter is finished", fontsize=9)
    pictures.save(figure, path)
