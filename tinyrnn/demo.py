"""Text from the character language model in the package, one character a step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.errors import LoadError, TinyRNNError
from tinyrnn.runtime import Model, Progress

if TYPE_CHECKING:
    from tinyrnn.check import Report

Array = np.ndarray[Any, Any]

START = "\n"
"""what the model reads first where there is no prompt"""
MODELS = Path(__file__).parent / "models"


def packaged(name: str) -> Path:
    """The path of a model that is part of the package. Raises `LoadError`."""
    path = MODELS / f"{name}.onnx"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in MODELS.glob("*.onnx"))) or "none; the installation is incomplete"
        raise LoadError(f"there is no packaged model {name!r}; there are: {there}")
    return path


def vocabulary_of(model: Model) -> str:
    """The characters a model knows, in the order of their indices. Raises `LoadError`."""
    try:
        return str(json.loads(model.metadata["vocabulary"]))
    except (KeyError, ValueError):
        raise LoadError(f"{model.name}: its metadata has no vocabulary, the characters in the order of their indices") from None


def encode(text: str, vocabulary: str) -> Array:
    """Indices [characters], int64. Raises `TinyRNNError` naming the characters that are not there."""
    unknown = "".join(dict.fromkeys(c for c in text if c not in vocabulary))
    if unknown:
        raise TinyRNNError(f"the model does not know {unknown!r}; its {len(vocabulary)} characters are {vocabulary!r}")
    return np.array([vocabulary.index(c) for c in text], np.int64)


def sample(logits: Array, temperature: float, random: np.random.Generator) -> int:
    """An index drawn from softmax(logits / temperature); the largest logit where the temperature is 0."""
    scores = logits.ravel().astype(np.float64)
    if temperature == 0:
        return int(np.argmax(scores))
    with np.errstate(over="ignore"):
        sums = np.cumsum(np.exp((scores - scores.max()) / temperature))
    return int(min(np.searchsorted(sums, random.random() * sums[-1], "right"), len(sums) - 1))


@dataclass
class Times:
    """Nanoseconds, one entry a character."""

    steps: list[int] = field(default_factory=list)
    """of the model's step"""
    choices: list[int] = field(default_factory=list)
    """of drawing a character from its output"""

    def as_dict(self) -> dict[str, float]:
        p50, p99 = np.percentile(self.steps, (50, 99)) / 1e3
        choice = float(np.median(self.choices)) / 1e3
        return {
            "steps": len(self.steps),
            "step_p50": float(p50),
            "step_p99": float(p99),
            "choice_p50": choice,
            "characters_per_second": 1e9 / (float(np.mean(self.steps)) + float(np.mean(self.choices))),
        }

    def __str__(self) -> str:
        found = self.as_dict()
        return (
            f"{found['steps']:,.0f} steps: p50 {found['step_p50']:.1f} µs, p99 {found['step_p99']:.1f} µs; "
            f"with {found['choice_p50']:.1f} µs to draw each character: "
            f"{found['characters_per_second']:,.0f} characters per second"
        )


def generate(model: Model, prompt: str, length: int, temperature: float, seed: int, times: Times) -> Iterator[str]:
    """`length` characters that continue the prompt, each as soon as it is there; the same seed gives the same ones.

    Raises `TinyRNNError` before the first one.
    """
    if not 0 <= temperature < np.inf:
        raise TinyRNNError(f"a temperature of {temperature}; it is a number from 0 (always the likeliest character) upwards")
    vocabulary = vocabulary_of(model)
    *before, index = encode(prompt or START, vocabulary).tolist()
    random = np.random.default_rng(seed)
    stream = model.stream()
    logits = np.empty(model.outputs[0].shape, model.outputs[0].dtype)
    x = np.zeros(model.inputs[0].shape, model.inputs[0].dtype)
    sample(model.stream().step(x), temperature, np.random.default_rng(seed))  # warms NumPy up
    for known in before:
        x[...] = known
        stream.step(x, out=logits)
    for _ in range(length):
        x[...] = index
        start = perf_counter_ns()
        stream.step(x, out=logits)
        middle = perf_counter_ns()
        index = sample(logits, temperature, random)
        times.choices.append(perf_counter_ns() - middle)
        times.steps.append(middle - start)
        yield vocabulary[index]


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
