"""Shared by both demos of captions: icons, and a model that writes the name of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyrnn.data.vocabulary import Words, listed
from tinyrnn.decode import Decoder, Hypothesis, PoolDecoder, hand_over
from tinyrnn.demo import Models
from tinyrnn.demo.drawing import Stroke, arc, filled, ink
from tinyrnn.demo.images import read_image
from tinyrnn.graph.arrays import Array

TAKES = "an image of 32 x 32 pixels, 8-bit grey, bright on dark: .png or .npy"
SIZE = 32
END = "<end>"
"""the first word of the vocabulary: what the decoder reads first, and what ends a name"""
WIDTH, STEPS = 4, 9
"""width of the beam search, and most words of a name, its end included"""
SLOTS = 64
"""of the pool in which names are written: so many images at once, or a quarter of them by beam search"""
PEN = 2 / 24
"""the width of a stroke, of the square's side"""


def box(left: float, top: float, right: float, bottom: float) -> Stroke:
    """A rectangle's corners."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def disc(x: float, y: float, radius: float) -> Array:
    return arc((x, y), (radius, radius), 0, 1, 40)


def solid(*outlines: Stroke) -> Array:
    """[32, 32]: what is inside an odd number of outlines."""
    return filled(outlines, SIZE)


def line(*strokes: Stroke, width: float = PEN) -> Array:
    return ink(strokes, SIZE, width)


def closed(outline: Stroke, width: float = PEN) -> Array:
    """The outline itself, as a stroke."""
    return line([*outline, outline[0]], width=width)


def both(*images: Array) -> Array:
    joined: Array = np.maximum.reduce(images)
    return joined


def without(image: Array, hole: Array) -> Array:
    cut: Array = image * (1 - hole)
    return cut


def heart() -> Array:
    t = 2 * np.pi * np.linspace(0, 1, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([0.5 + 0.4 * np.sin(t) ** 3, 0.47 - 0.4 * y / 16], axis=1)


def star() -> Array:
    turns = 2 * np.pi * (np.arange(10) / 10 - 0.25)
    reach = np.where(np.arange(10) % 2, 0.18, 0.43)
    return np.stack([0.5 + reach * np.cos(turns), 0.52 + reach * np.sin(turns)], axis=1)


def arrow(turns: int) -> list[Stroke]:
    """The strokes of an arrow to the left, turned clockwise by so many quarters."""
    strokes = np.array([[(0.84, 0.5), (0.2, 0.5)], [(0.5, 0.2), (0.2, 0.5)], [(0.2, 0.5), (0.5, 0.8)]]) - 0.5
    for _ in range(turns % 4):
        strokes = np.stack([-strokes[..., 1], strokes[..., 0]], axis=-1)
    return list(strokes + 0.5)


CHECK: Stroke = [(0.17, 0.54), (0.4, 0.76), (0.84, 0.28)]
PLUS: list[Stroke] = [[(0.5, 0.2), (0.5, 0.8)], [(0.2, 0.5), (0.8, 0.5)]]


def small(strokes: Sequence[Stroke], centre: Array | tuple[float, float], scale: float) -> list[Stroke]:
    """Strokes smaller, round another centre."""
    return [(np.asarray(s, np.float64) - 0.5) * scale + centre for s in strokes]


def account() -> Array:
    body = [(0.17, 0.83), (0.17, 0.74), *arc((0.5, 0.74), (0.33, 0.17), 0.5, 1.0), (0.83, 0.83)]
    return both(solid(disc(0.5, 0.33, 0.165)), solid(body))


def drawn() -> dict[str, Array]:
    """Icons, float32 [32, 32] from 0 to 1, by what they show."""
    folder = [(0.08, 0.17), (0.4, 0.17), (0.5, 0.26), (0.92, 0.26), (0.92, 0.82), (0.08, 0.82)]
    shackle = line([(0.34, 0.4), (0.34, 0.28), *arc((0.5, 0.28), (0.16, 0.17), 0.5, 1.0), (0.66, 0.4)])
    return {
        "an arrow": line(*arrow(0)),
        "a tick": line(CHECK),
        "a plus in a disc": without(solid(disc(0.5, 0.5, 0.42)), line(*small(PLUS, (0.5, 0.5), 0.55))),
        "the outline of a heart": closed(heart()),
        "a person": account(),
        "a padlock": both(without(solid(box(0.18, 0.38, 0.82, 0.9)), solid(disc(0.5, 0.64, 0.08))), shackle),
        "a folder with a tick": without(solid(folder), line(*small([CHECK], (0.55, 0.56), 0.5))),
        "an arrow in a ring": both(closed(disc(0.5, 0.5, 0.38)), line(*small(arrow(1), (0.5, 0.5), 0.6))),
    }


def scaled(images: Array) -> Array:
    """The model's input: float32 from 0 to 1, for pixels from 0 to 255."""
    return images.astype(np.float32) / 255


def icons(given: str | None) -> dict[str, Array]:
    """Icons by name, float32 [32, 32]: those drawn above, or one from a file. Raises `TinyRNNError`."""
    return drawn() if given is None else {Path(given).name: scaled(read_image(Path(given), SIZE, SIZE, 1))}


class Seen(NamedTuple):
    """The encoder's result for an image."""

    states: dict[str, Array]
    """initial states of the decoder"""
    inputs: dict[str, Array]
    """constant inputs of the decoder, read for each word"""


class Captioner:
    """The encoder and the decoder of a folder, and their words. For one thread at a time."""

    def __init__(self, models: Models, name: str) -> None:
        self.encoder, self.decoder = models.load(f"{name}_encoder"), models.load(f"{name}_decoder")
        self.words = Words(listed(self.decoder, "words"))
        self.end = self.words.index[END]
        self.eye, self.stream = self.encoder.stream(), self.decoder.stream()
        self.states = [p.name for p in self.decoder.states]
        constant = {p.name: np.zeros(p.shape, p.dtype) for p in self.decoder.inputs if p.name != "token"}
        self.constant = list(constant)
        how: dict[str, Any] = {"output": "scores", "scores": "logits", "inputs": constant}
        self.spoken = Decoder(self.stream, **how)
        self.many = PoolDecoder(self.decoder.pool(SLOTS), **how)

    def see(self, image: Array) -> Seen:
        """Encode an image, float32 [32, 32] from 0 to 1. Raises `ShapeError`."""
        found = self.eye.step(image[None])._asdict()
        return Seen({n: found[n] for n in self.states}, {n: found[n] for n in self.constant})

    def greedy(self, seen: Seen) -> Array:
        """The likeliest word each time: tokens, the end included."""
        self._begin(seen)
        return self.spoken.generate(self.end, STEPS, stop=self.end, log_probabilities=False).tokens

    def beam(self, seen: Seen, n_best: int = 1) -> list[Hypothesis]:
        """The likeliest names, best first."""
        self._begin(seen)
        return self.spoken.beam(self.end, STEPS, width=WIDTH, stop=self.end, n_best=n_best)

    def greedies(self, seen: Sequence[Seen]) -> list[Array]:
        """As `greedy`, of many images at once."""
        states, inputs = [s.states for s in seen], [s.inputs for s in seen]
        made = self.many.generate(self.end, STEPS, states=states, inputs=inputs, stop=self.end, log_probabilities=False)
        return [g.tokens for g in made]

    def beams(self, seen: Sequence[Seen], n_best: int = 1) -> list[list[Hypothesis]]:
        """As `beam`, of many images at once."""
        states, inputs = [s.states for s in seen], [s.inputs for s in seen]
        return self.many.beam(self.end, STEPS, states=states, inputs=inputs, width=WIDTH, stop=self.end, n_best=n_best)

    def text(self, tokens: Sequence[int] | Array) -> str:
        return self.words.text(tokens, without=(END,))

    def _begin(self, seen: Seen) -> None:
        if self.constant:
            self.spoken.give(seen.inputs)
        hand_over(self.stream, seen.states)


class Named(NamedTuple):
    """An icon and the names that the model found for it."""

    icon: str
    image: Array
    seen: Seen
    greedy: str
    tokens: Array
    """tokens of the likeliest name, the end included"""
    names: list[tuple[str, float]]
    """the likeliest names, best first, and the probability of each"""

    def as_dict(self) -> dict[str, Any]:
        return {"icon": self.icon, "greedy": self.greedy, "beam": [{"name": n, "probability": p} for n, p in self.names]}

    def lines(self) -> list[str]:
        """Greedy, then the beam."""
        beam = [f"{probability:6.1%}  {name}" for name, probability in self.names]
        return [f"greedy  {self.greedy}", *(("beam" if not i else "    ") + text for i, text in enumerate(beam))]


def named(captioner: Captioner, images: Mapping[str, Array]) -> list[Named]:
    """Encode icons, and find the names of all of them at once, greedily and by beam search."""
    seen = [captioner.see(image) for image in images.values()]
    found = []
    for (icon, image), one, greedy, best in zip(
        images.items(), seen, captioner.greedies(seen), captioner.beams(seen, WIDTH), strict=True
    ):
        names = [(captioner.text(h.tokens), float(np.exp(h.log_probability))) for h in best]
        found.append(Named(icon, image, one, captioner.text(greedy), best[0].tokens, names))
    return found
