"""One to many, with attention: an icon in, its name out, and for each word where in the image it was read."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.data import terminal as pictures
from tinyrnn.decode import hand_over
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.icons import SIZE, TAKES, Captioner, Named, icons, named
from tinyrnn.demo.images import SHADES, as_dots
from tinyrnn.graph.arrays import Array

ABOUT = About("one to many, with attention", "names of icons, and where each word was read", TAKES)
COLUMNS = 8
"""panels in a row of the picture, where no name needs more"""
DIMMED = 0.35
"""how bright the icon is under the attention"""


class Looker(Captioner):
    """A captioner that returns its attention."""

    def attention(self, one: Named) -> Array:
        """[words, g, g]: the attention weight of each place of the grid for each word of the likeliest name, its end included."""
        hand_over(self.stream, one.seen.states)
        fed = np.array([self.end, *one.tokens[:-1]])
        frames = {"token": fed[:, None]} | {n: np.stack([x] * len(fed)) for n, x in one.seen.inputs.items()}
        shares: Array = self.stream.run(frames).attention
        side = isqrt(shares.shape[1])
        return shares.reshape(-1, side, side)


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Name icons: those drawn by the demos, or one from a file; and show where each word was read."""
    looker = Looker(models, "caption_attention")
    found = []
    for one in named(looker, icons(given)):
        shares = looker.attention(one)
        found.append((one, words(looker, one), shares))
        for text in (f"{one.icon}:", *(f"  {row}" for row in one.lines())):
            say(text)
        for text in side_by_side(*found[-1]):
            say(f"    {text}".rstrip())
        say("")
    if picture is not None:
        draw(found, picture)
    return {"captions": [one.as_dict() | {"attention": s.tolist()} for one, _, s in found]}


def words(captioner: Captioner, one: Named) -> list[str]:
    """The words of the likeliest name, without its end."""
    return [captioner.words.words[t] for t in one.tokens if t != captioner.end]


def side_by_side(one: Named, said: list[str], shares: Array) -> list[str]:
    """The icon, and a map of each word's attention, darkest where most of it is."""
    maps = []
    for share in shares[: len(said)]:
        level = np.clip(share / share.max() * len(SHADES), 0, len(SHADES) - 1).astype(int)
        maps.append(["".join(2 * SHADES[v] for v in row) for row in level])
    width = 2 * shares.shape[2]
    heads = [" " * (SIZE // 2), *(f"{word:{width}.{width}}" for word in said)]
    return ["  ".join(heads), *("  ".join(cells) for cells in zip(as_dots(one.image), *maps, strict=True))]


def draw(found: list[tuple[Named, list[str], Array]], path: Path) -> None:
    """Each icon, dark on white, then once for each word, bright where the model looked for it; as many in a row as fit."""
    columns = max(COLUMNS, *(1 + len(said) for _, said, _ in found))
    places: list[tuple[int, int]] = []
    row = column = 0
    for _, said, _ in found:
        if column + 1 + len(said) > columns:
            row, column = row + 1, 0
        places.append((row, column))
        column += 1 + len(said)
    figure = pictures.figure(1.75 * columns, 1.95 * (row + 1))
    axes = figure.subplots(row + 1, columns, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for (row, column), (one, said, shares) in zip(places, found, strict=True):
        first, *others = axes[row, column : column + 1 + len(said)]
        first.imshow(one.image, cmap="gray_r", vmin=0, vmax=1)
        first.set_title(f"{one.names[0][1]:.0%}", fontsize=10, color="gray")
        for place, word, share in zip(others, said, shares, strict=False):
            place.imshow(DIMMED * one.image, cmap="gray", vmin=0, vmax=1)
            place.imshow(smooth(share), cmap="inferno", alpha=smooth(share), vmin=0, vmax=1)
            place.set_title(word, fontsize=12)
    pictures.save(figure, path)


def smooth(share: Array) -> Array:
    """[32, 32] from 0 to 1: a map of the grid, bilinear between the centres of its places."""
    centres = (np.arange(SIZE) + 0.5) * len(share) / SIZE - 0.5
    at = np.clip(centres, 0, len(share) - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(share))))
    spread = weights @ share @ weights.T
    scaled: Array = spread / spread.max()
    return scaled
