"""A pen's track as a video in which the ink appears, for the video demo and its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyrnn.graph.arrays import Array

FRAMES, RATE = 24, 3
"""frames of a video, and frames per second. A finished letter stays; a letter that took longer is replayed faster"""
SIZE = 28
"""pixels a side"""
PAUSE = 0.25
"""seconds: the pen is lifted no longer between two strokes (some writers paused for minutes)"""
SPACING = 0.5 / SIZE
"""distance of the points of ink along a line"""


class Track(NamedTuple):
    """The positions of a pen over time, in a unit square, y downwards."""

    points: Array
    """[n, 2]"""
    seconds: Array
    """[n], ascending"""
    strokes: Array
    """[n] from one number to the next the pen was lifted"""


class Ink(NamedTuple):
    """Points of ink, `SPACING` apart."""

    points: Array
    """float32 [m, 2]"""
    moments: Array
    """float32 [m] when each came, in parts of the time that the track took"""
    strokes: Array
    """[m] from 0"""
    duration: float
    """seconds that the track takes, at most those of a video"""

    @property
    def ends(self) -> Array:
        """[FRAMES] the moments of a video's frames; those above 1 come when the letter is finished."""
        return np.arange(1, FRAMES + 1) / (RATE * self.duration)

    @property
    def finished(self) -> int:
        """The first frame that shows the whole letter."""
        return int(np.argmax(self.ends >= 1))


def inked(track: Track) -> Ink:
    """The ink of a track, where it was and when it came."""
    most = np.where(np.diff(track.strokes.astype(np.int64)) != 0, PAUSE, np.inf)
    clock = np.concatenate([[0.0], np.cumsum(np.clip(np.diff(track.seconds), 0, most))])
    duration = max(clock[-1], 1e-9)
    moments = clock / duration
    parts = []
    for number, stroke in enumerate(dict.fromkeys(track.strokes.tolist())):
        at = track.strokes == stroke
        points = track.points[at]
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        count = max(int(np.ceil(along[-1] / SPACING)), 2) + 1
        places = np.linspace(0, along[-1], count)
        along = along + 1e-9 * np.arange(len(along))
        columns = [np.interp(places, along, values) for values in (*points.T, moments[at])]
        parts.append((np.stack(columns[:2], axis=1), columns[2], np.full(count, number)))
    points, when, strokes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Ink(points.astype(np.float32), when.astype(np.float32), strokes, min(duration, FRAMES / RATE))


def replay(points: Array, moments: Array, letters: Array, ends: Array, flow: float = 1.0) -> Array:
    """Frames of several letters at once, float32 [letters, frames, SIZE, SIZE] from 0 to 1.

    points   [m, 2], moments [m]: as `Ink` has them
    letters  [m] to which letter each belongs, from 0
    ends     [letters, frames] the moment of each frame, ascending: it shows all ink that there is by then
    flow     of ink: how dark a line is
    """
    count, frames = ends.shape
    frame = (moments[:, None] > ends[letters]).sum(axis=1)
    seen = frame < frames
    place = np.clip(points[seen] * SIZE - 0.5, 0, SIZE - 1.001)
    corner = place.astype(np.int64)
    x, y = (place - corner).T
    first = ((letters[seen] * frames + frame[seen]) * SIZE + corner[:, 1]) * SIZE + corner[:, 0]
    pixels = np.concatenate([first, first + 1, first + SIZE, first + SIZE + 1])
    weights = np.concatenate([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
    fresh = np.bincount(pixels, weights, count * frames * SIZE * SIZE).astype(np.float32).reshape(count, frames, SIZE, SIZE)
    found: Array = np.minimum(np.cumsum(fresh, axis=1) * np.float32(flow), 1)
    return found


def replayed(ink: Sequence[Ink]) -> Array:
    """Videos [letters, FRAMES, SIZE, SIZE]."""
    letters = np.repeat(np.arange(len(ink)), [len(i.points) for i in ink])
    points, moments = np.concatenate([i.points for i in ink]), np.concatenate([i.moments for i in ink])
    return replay(points, moments, letters, np.stack([i.ends for i in ink]))
