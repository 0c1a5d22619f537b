"""One to one: an image of a digit in, its class out. No time, the case from which the others start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.data import terminal as pictures
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.drawing import arc, ink
from tinyrnn.demo.images import as_text, read_image
from tinyrnn.demo.scores import softmax
from tinyrnn.graph.arrays import Array

ABOUT = About("one to one", "handwritten digits", "an image of 8 x 8 pixels, 8-bit grey, bright on dark: .png or .npy")
SIZE, BRIGHTEST = 8, 16
"""pixels a side, and the largest value of the data set's pixels"""
PEN = 0.16
"""the width of a stroke, of the square's side"""

DRAWN: tuple[list[Any], ...] = (
    [arc((0.5, 0.5), (0.24, 0.4), 0, 1, 24)],
    [[(0.35, 0.25), (0.55, 0.1), (0.55, 0.9)]],
    [[*arc((0.48, 0.3), (0.22, 0.2), 0.5, 1.05), (0.28, 0.9), (0.75, 0.9)]],
    [[*arc((0.45, 0.28), (0.2, 0.18), 0.55, 1.2), *arc((0.45, 0.68), (0.24, 0.22), -0.2, 0.45)]],
    [[(0.5, 0.1), (0.22, 0.6), (0.78, 0.6)], [(0.6, 0.35), (0.55, 0.92)]],
    [[(0.72, 0.1), (0.35, 0.1), (0.32, 0.45), *arc((0.48, 0.65), (0.22, 0.24), -0.2, 0.4)]],
    [[(0.6, 0.08), (0.38, 0.4), *arc((0.5, 0.68), (0.2, 0.22), 0.5, 1.5)]],
    [[(0.25, 0.12), (0.75, 0.12), (0.45, 0.9)], [(0.35, 0.5), (0.68, 0.5)]],
    [arc((0.5, 0.28), (0.18, 0.19), 0, 1, 24), arc((0.5, 0.7), (0.21, 0.21), 0, 1, 24)],
    [[*arc((0.5, 0.32), (0.2, 0.22), 0, 1, 24), (0.66, 0.6), (0.45, 0.92)]],
)
"""strokes of the digits 0 to 9"""


def scaled(images: Array) -> Array:
    """The model's input: float32 [..., 64] from 0 to 1, for images [..., 8, 8] with pixels from 0 to 16."""
    return images.reshape(*images.shape[:-2], SIZE * SIZE).astype(np.float32) / BRIGHTEST


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Name digits: the ten drawn above, or one from a file."""
    if given is None:
        images = np.stack([ink(strokes, SIZE, PEN) * BRIGHTEST for strokes in DRAWN])
    else:
        images = read_image(Path(given), SIZE, SIZE, 1)[None] * (BRIGHTEST / 255)
    logits = models.load("digits").run(scaled(images))
    shares = softmax(logits)
    found = logits.argmax(axis=1)
    named = list(zip(found, shares, strict=True))
    lines = [as_text(image / BRIGHTEST) for image in images]
    for start in range(0, len(images), 5):
        for row in range(SIZE):
            say("  ".join(text[row].ljust(2 * SIZE) for text in lines[start : start + 5]).rstrip())
        say("  ".join(f"{d} ({s[d]:.0%})".center(2 * SIZE) for d, s in named[start : start + 5]).rstrip())
    if picture is not None:
        _draw(images, found, shares, picture)
    return {"digits": found.tolist(), "probabilities": [float(s[d]) for d, s in zip(found, shares, strict=True)]}


def _draw(images: Array, found: Array, shares: Array, path: Path) -> None:
    columns = min(len(images), 5)
    rows = -(-len(images) // columns)
    figure = pictures.figure(1.6 * columns, 2.9 * rows)
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2, 1] * rows)
    for place in axes.flat:
        place.set_axis_off()
    for i, (image, digit, share) in enumerate(zip(images, found, shares, strict=True)):
        top, bottom = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        top.imshow(image, cmap="gray_r")
        top.set_title(f"{digit}  ({share[digit]:.0%})")
        bottom.set_axis_on()
        bottom.bar(range(10), share)
        bottom.set(xticks=range(10), ylim=(0, 1), yticks=[])
        bottom.tick_params(labelsize=6, length=0)
    pictures.save(figure, path)
