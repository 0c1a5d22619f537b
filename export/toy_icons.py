"""Icons and their names made from a few shapes, for the recipes of captions where there is no data set."""

from __future__ import annotations

import numpy as np

from tinyrnn.demo.drawing import Stroke, ink
from tinyrnn.demo.icons import CHECK, PEN, PLUS, SIZE, arrow, both, box, closed, disc, heart, small, solid, star, without

from .recipe import Array

OUTLINES: dict[str, Stroke] = {
    "heart": heart(),
    "star": star(),
    "circle": disc(0.5, 0.5, 0.4),
    "square": box(0.12, 0.12, 0.88, 0.88),
    "triangle": [(0.5, 0.12), (0.9, 0.85), (0.1, 0.85)],
}
SIGNS: dict[str, list[Stroke]] = {
    "check": [CHECK],
    "plus": PLUS,
    "minus": PLUS[1:],
    **{f"arrow {side}": arrow(turns) for turns, side in enumerate(("left", "up", "right", "down"))},
}
NOISE = 0.02
"""of a shape's place and scale, of the square's side"""


def icons(random: np.random.Generator, count: int) -> tuple[Array, list[str]]:
    """Images uint8 [count, 32, 32], and their names: a shape, full or its outline, alone or with a sign, or a sign alone."""
    images, names = [], []
    for _ in range(count):
        shape, sign = str(random.choice([*OUTLINES, ""])), str(random.choice([*SIGNS, ""]))
        if not shape and not sign:
            shape = "circle"
        outline = bool(random.integers(2)) and bool(shape)
        place, scale = 0.5 + random.normal(0, NOISE, 2), 0.9 + random.normal(0, NOISE)
        strokes = small(SIGNS[sign], place, scale * (0.42 if shape else 1.0)) if sign else []
        image = mark = ink(strokes, SIZE, PEN)
        if shape:
            (edge,) = small([OUTLINES[shape]], place, scale)
            image = both(closed(edge), mark) if outline else without(solid(edge), mark)
        images.append(np.round(255 * image).astype(np.uint8))
        names.append(" ".join(part for part in (shape, sign, "outline" if outline else "") if part))
    return np.stack(images), names
