"""Many to many, per frame: the track of a fingertip in, what it is doing out, at every frame.

Positions are fractions of the picture's width and height, y downwards, as webcam hand trackers give them about 30
times a second. The model reads the steps from frame to frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.data import terminal as pictures
from tinyrnn.data.files import read_array
from tinyrnn.data.vocabulary import listed
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.scores import softmax
from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model

ABOUT = About(
    "many to many, per frame",
    "gestures in the track of a fingertip",
    "a track [T, 2] of positions (x, y), fractions of the picture's size, y downwards: .csv or .npy",
)

LABELS = ("stop", "clockwise", "counterclockwise", "move")
"""in the order of the data set's classes"""
SIGNS = dict(zip(LABELS, "·↻↺→", strict=True))
COLORS = dict(zip(LABELS, ("0.6", "C0", "C1", "C2"), strict=True))
STEP, LARGEST = 0.02, 5.0
"""the unit of a step, and how many units are the most that the model reads: more is a tracker that lost the finger"""
WIDEST = 2.0
"""pictures that a track may span"""
ASPECT = 16 / 9
"""width of the picture divided by its height, so that drawn circles are round"""
RADIUS, TREMBLE = 0.06, 0.0012
"""radius of the drawn circles, and movement of the hand at rest, in heights of the picture"""
LINE = 60
"""frames to a line of text"""


def steps(track: Array) -> Array:
    """The model's input: the step to each position from the one before, float32 [..., T, 2]; the first is zero."""
    moved = np.diff(track, axis=-2, prepend=track[..., :1, :]) / STEP
    return np.clip(moved, -LARGEST, LARGEST).astype(np.float32)


class Watcher:
    """Names what a track does at every frame."""

    def __init__(self, model: Model) -> None:
        self.labels = listed(model, "labels")
        self.stream = model.stream()

    def shares(self, track: Array) -> Array:
        """The probability of every label after every frame of a track [T, 2], as [T, labels]."""
        self.stream.reset()
        return softmax(self.stream.run(steps(track)))


def circle(frames: int, each: float, clockwise: bool, start: float = 0.0) -> Array:
    """The steps [frames, 2] of circles that take `each` frames, in heights of the picture."""
    angle = 2 * np.pi * (start + np.arange(frames + 1) / each) * (1 if clockwise else -1)
    return np.diff(RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1), axis=0)


def drawn() -> tuple[Array, list[str]]:
    """A track [T, 2] of a hand that rests, circles both ways, moves on and rests, and what it does at each frame."""
    parts = [
        ("stop", np.zeros((20, 2))),
        ("clockwise", circle(48, 16, True)),
        ("move", np.linspace((0.012, 0.004), (0.028, -0.006), 26)),
        ("counterclockwise", circle(48, 18, False, 0.25)),
        ("move", np.linspace((-0.018, 0.016), (-0.01, 0.008), 22)),
        ("stop", np.zeros((28, 2))),
    ]
    moved = np.concatenate([part for _, part in parts])
    trembling = np.random.default_rng(3).normal(0, TREMBLE, moved.shape)
    track = np.array([0.3, 0.5]) + (np.cumsum(moved, axis=0) + trembling) / (ASPECT, 1)
    return track, [name for name, part in parts for _ in part]


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Name the gestures of a track: the one drawn above, or one from a file."""
    track, truth = drawn() if given is None else (_read(Path(given)), None)
    watcher = Watcher(models.load("gesture"))
    shares = watcher.shares(track)
    found = [watcher.labels[i] for i in shares.argmax(axis=1)]
    say(f"  {len(track):,} frames:  " + "   ".join(f"{sign} {name}" for name, sign in SIGNS.items()) + "\n")
    for start in range(0, len(track), LINE):
        if truth is not None:
            say(f"  {'drawn':>6}  {''.join(SIGNS[name] for name in truth[start : start + LINE])}")
        say(f"  {start:6,}  {''.join(SIGNS[name] for name in found[start : start + LINE])}\n")
    for first, last in _runs(found):
        sure = shares[first : last + 1, watcher.labels.index(found[first])].mean()
        say(f"  frames {first:4,} to {last:4,}  {found[first]:16}  {sure:4.0%}")
    figures: dict[str, Any] = {"labels": found, "probabilities": shares.max(axis=1).tolist()}
    if truth is not None:
        figures["as_drawn"] = float(np.mean([a == b for a, b in zip(found, truth, strict=True)]))
        say(f"\n  {figures['as_drawn']:.0%} of the frames as drawn: after a change it takes some frames to be sure")
    if picture is not None:
        _draw(track, watcher.labels, found, shares, picture)
    return figures


def _read(path: Path) -> Array:
    """A track from a file. Raises `LoadError`, and `ShapeError` for another shape or other units."""
    track = np.asarray(read_array(path))
    if track.ndim != 2 or track.shape[1] != 2:
        raise ShapeError(f"{path}: shape {list(track.shape)}; a track is [T, 2]: a line x, y for each frame")
    if len(track) == 0:
        raise ShapeError(f"{path}: the track has no frame")
    track = track.astype(np.float64)
    if not np.isfinite(track).all():
        raise ShapeError(f"{path}: frame {int(np.argmin(np.isfinite(track).all(axis=1)))} is no position: NaN or infinite")
    span = float(np.ptp(track, axis=0).max())
    if span > WIDEST:
        raise ShapeError(
            f"{path}: the track spans {span:,.3g}; positions are fractions of the picture: divide x by its width, y by its height"
        )
    return track


def _runs(found: list[str]) -> list[tuple[int, int]]:
    """The first and the last frame of every run of one label."""
    starts = [0, *(i for i in range(1, len(found)) if found[i] != found[i - 1])]
    return list(zip(starts, [i - 1 for i in (*starts[1:], len(found))], strict=True))


def _draw(track: Array, labels: list[str], found: list[str], shares: Array, path: Path) -> None:
    figure = pictures.figure(8, 6.4)
    top, bottom = figure.subplots(2, height_ratios=[2.2, 1])
    top.plot(*track.T, color="0.85", linewidth=1, zorder=1)
    top.scatter(*track.T, s=16, c=[COLORS[name] for name in found], zorder=2)
    for name in labels:
        top.scatter([], [], s=16, color=COLORS[name], label=name)
    top.annotate("start", track[0], (8, 8), textcoords="offset points")
    top.set(aspect=1 / ASPECT, xlabel="x", ylabel="y")
    top.margins(0.08)
    top.invert_yaxis()
    top.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    bottom.stackplot(range(len(track)), shares.T, colors=[COLORS[name] for name in labels])
    bottom.set(xlim=(0, max(len(track) - 1, 1)), ylim=(0, 1), xlabel="frame", ylabel="probability")
    pictures.save(figure, path)
