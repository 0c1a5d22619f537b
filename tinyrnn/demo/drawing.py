"""Strokes and filled shapes → small grey images, for the demos' own inputs and the recipes' made ones.

Coordinates are (x, y) in a unit square, y downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tinyrnn.graph.arrays import Array

Stroke = Sequence[tuple[float, float]] | Array
"""points (x, y) that a pen joins"""

SAMPLES = 4
"""samples along each side of a pixel, for filled shapes"""


def arc(centre: tuple[float, float], radius: tuple[float, float], start: float, end: float, points: int = 16) -> Array:
    """Points [points, 2] of an ellipse's arc, from angle `start` to `end` in turns, clockwise from the right."""
    turns = 2 * np.pi * np.linspace(start, end, points)
    return np.stack([centre[0] + radius[0] * np.cos(turns), centre[1] + radius[1] * np.sin(turns)], axis=1)


def ink(strokes: Iterable[Stroke], size: int, width: float) -> Array:
    """Coverage [size, size], float32 from 0 to 1, of strokes as wide as `width` of the square, with round ends."""
    centres = (np.arange(size) + 0.5) / size
    place = np.stack(np.meshgrid(centres, centres), axis=-1)
    nearest = np.full((size, size), np.inf)
    for stroke in strokes:
        points = np.asarray(stroke, np.float64)
        for a, b in zip(points, points[1:] if len(points) > 1 else points, strict=False):
            along = b - a
            length = float(along @ along)
            t = np.clip((place - a) @ along / length, 0, 1) if length else np.zeros((size, size))
            nearest = np.minimum(nearest, np.linalg.norm(place - a - t[..., None] * along, axis=-1))
    return np.clip((width / 2 - nearest) * size + 0.5, 0, 1).astype(np.float32)


def filled(outlines: Iterable[Stroke], size: int) -> Array:
    """Coverage [size, size], float32 from 0 to 1, of what is inside an odd number of closed outlines."""
    fine = size * SAMPLES
    centres = (np.arange(fine) + 0.5) / fine
    x, y = np.meshgrid(centres, centres)
    inside = np.zeros((fine, fine), bool)
    for outline in outlines:
        points = np.asarray(outline, np.float64)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if ay != by:
                inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    covered: Array = inside.reshape(size, SAMPLES, size, SAMPLES).mean(axis=(1, 3), dtype=np.float32)
    return covered
