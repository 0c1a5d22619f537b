"""Many to many: text, character by character, each drawn from what the model says of the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.data.vocabulary import encode, vocabulary_of
from tinyrnn.decode import Decoder
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.scores import softmax
from tinyrnn.errors import TinyRNNError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model, Progress

if TYPE_CHECKING:
    from tinyrnn.check import Report

ABOUT = About("many to many", "text in the manner of Shakespeare, character by character", "text to continue")
START = "\n"
"""what the model reads first where there is no prompt"""
LENGTH, TEMPERATURE, SEED = 500, 0.7, 1
"""defaults: length in characters, temperature, seed"""


@dataclass
class Speed:
    """The speed of a generation."""

    characters: int = 0
    nanoseconds: int = 0

    def as_dict(self) -> dict[str, float]:
        each = self.nanoseconds / 1e3 / max(self.characters, 1)
        return {"characters": self.characters, "per_character": each, "characters_per_second": 1e6 / max(each, 1e-9)}

    def __str__(self) -> str:
        found = self.as_dict()
        return (
            f"{self.characters:,} characters, {found['per_character']:.1f} µs each, model and draw: "
            f"{found['characters_per_second']:,.0f} characters per second"
        )


def generate(model: Model, prompt: str, length: int, temperature: float, seed: int, speed: Speed) -> Iterator[str]:
    """`length` characters that continue the prompt, drawn natively in bursts; the same seed gives the same ones.

    Raises `TinyRNNError` before the first one.
    """
    if not 0 <= temperature < np.inf:
        raise TinyRNNError(f"a temperature of {temperature}; it is a number from 0 (always the likeliest character) upwards")
    vocabulary = vocabulary_of(model)
    read = encode(prompt or START, vocabulary)
    drawn = Decoder(model).tokens(read, length, method="sample", temperature=temperature, seed=seed)
    return _timed(drawn, vocabulary, speed)


def _timed(drawn: Iterator[int], vocabulary: str, speed: Speed) -> Iterator[str]:
    while True:
        begun = perf_counter_ns()
        token = next(drawn, None)
        speed.nanoseconds += perf_counter_ns() - begun
        if token is None:
            return
        speed.characters += 1
        yield vocabulary[token]


def likelihoods(model: Model, text: str) -> Array:
    """The probability [characters] that the model gave each character of a text, reading it from `START`."""
    codes = encode(START + text, vocabulary_of(model))
    logits = model.stream().run(codes[:-1]).astype(np.float64)
    found: Array = softmax(logits)[np.arange(len(text)), codes[1:]]
    return found


def draw(path: Path, model: Model, text: str) -> None:
    """Draw a text, each character on the colour of its likelihood."""
    from tinyrnn.trace.picture import draw_cell

    draw_cell(path, likelihoods(model, text), "how likely each character was", text)


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Write `LENGTH` characters that continue `given`."""
    model, speed = models.load("char_lm"), Speed()
    text = "".join(generate(model, given or "", LENGTH, TEMPERATURE, SEED, speed))
    for line in ((given or "") + text).splitlines():
        say(line)
    if picture is not None:
        draw(picture, model, (given or "") + text)
    return {"text": text, "microseconds": speed.as_dict()}


def compared(model: Model, path: Path, text: str, progress: Progress | None = None) -> Report:
    """The check against onnxruntime on a text that was generated."""
    from tinyrnn.check import check_model

    return check_model(model, path, data={model.inputs[0].name: encode(text, vocabulary_of(model))}, progress=progress)


def brief(report: Report) -> str:
    """A line of a check that passed, the whole of one that did not."""
    if not report.passed:
        return str(report)

    def largest(kind: str) -> float:
        return max((row.difference.absolute for row in report.rows if row.kind == kind), default=0.0)

    return (
        f"against {report.oracle} on the same {report.frames:,} characters: outputs within {largest('output'):.1e}, "
        f"states within {largest('state'):.1e}, the same bits in {len(report.invariance)} ways of running; passed"
    )
