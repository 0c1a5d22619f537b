"""The result of `quantize`: what each choice of storage costs and changes, as text, JSON and picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from tinyrnn.bench.report import Setting
from tinyrnn.data import terminal as picture
from tinyrnn.data.text import columns, plain
from tinyrnn.quantization.changes import Change, Decisions

FLOAT32 = "float32"
SHOWN = 5
"""layers that stay wide for which the reason is written out"""
GROWTH = 4.0
"""an error grows along a run whose last half has more than so many times that of its first half"""


@dataclass(frozen=True)
class Choice:
    """One storage of the weights, and what a model with it is against float32."""

    name: str
    weights: str | dict[str, str]
    """the option of `load`"""
    bytes: int
    """of all constants of the compiled model"""
    step: float
    """microseconds for a frame: a step, or a frame of a whole run where the model cannot stream"""
    error: float
    """the largest difference of an output from float32, over the root mean square of that output"""
    rms: float
    """the root mean square of the differences, in the same unit, of the output where it is largest"""
    changes: tuple[Change, ...]
    decisions: tuple[Decisions, ...]

    @property
    def states(self) -> float | None:
        """The largest difference of a state, in the same unit; None without states."""
        return max((c.largest for c in self.changes if c.kind == "state"), default=None)

    @property
    def drift(self) -> tuple[float, ...]:
        """The largest error of an output in each tenth of the run."""
        runs = [c.drift for c in self.changes if c.kind == "output" and c.drift]
        return tuple(max(parts) for parts in zip(*runs, strict=False))

    @property
    def grows(self) -> bool:
        half = len(self.drift) // 2
        return half > 0 and max(self.drift[half:]) > GROWTH * max(self.drift[:half])


@dataclass(frozen=True)
class LayerChoice:
    """The storage of one layer within a budget, and the error of each type there, all other layers in float32."""

    name: str
    op: str
    storage: str
    bytes: int
    alone: dict[str, float]

    @property
    def next(self) -> tuple[str, float] | None:
        """The smaller type with the smallest error, and that; None for the smallest type."""
        kinds = list(self.alone)
        smaller = kinds[: kinds.index(self.storage)]
        return min(((kind, self.alone[kind]) for kind in smaller), key=lambda pair: pair[1], default=None)


@dataclass(frozen=True)
class File:
    """The file that was written."""

    path: str
    bytes: int
    before: int | None
    """bytes of the file that it was made from"""
    weights: str | dict[str, str]
    wide: dict[str, str]
    """layers whose weights are as wide in the file as they were, though not in memory → why"""


@dataclass(frozen=True)
class Quantization:
    """The result of `quantize`."""

    model: str
    data: str
    frames: int
    choices: tuple[Choice, ...]
    unsupported: dict[str, str]
    """types that no layer has → why"""
    dynamics: str
    """whether errors accumulate"""
    setting: Setting
    budget: float | None = None
    kept_decisions: bool = False
    layers: tuple[LayerChoice, ...] = ()
    kinds: tuple[str, ...] = ()
    """the types that a layer can have within a budget, from small to wide"""
    file: File | None = None
    notes: list[str] = field(default_factory=list)

    def choice(self, name: str) -> Choice:
        """A choice by its name. Raises `KeyError`."""
        return {c.name: c for c in self.choices}[name]

    def as_dict(self) -> dict[str, Any]:
        """The result in types that JSON has."""
        found: dict[str, Any] = plain(self)
        return found

    def __str__(self) -> str:
        lines = [f"{self.model}: weights in small types, {_frames(self.frames)} of {self.data}", str(self.setting), ""]
        lines += columns(self._cells(), right=True)
        lines += [
            "max, rms: the largest difference of an output from float32, and the root mean square of all; in units of the "
            "output's root mean square"
        ]
        rules = {d.name: d.rule for c in self.choices for d in c.decisions}
        lines += [f"decisions: of {name}, {rule}" for name, rule in rules.items()]
        lines += [f"{name}: {reason}" for name, reason in self.unsupported.items()]
        if self.dynamics:
            lines.append(f"dynamics: {self.dynamics}")
        if self.layers:
            lines += ["", *self._layer_lines()]
        lines += [f"note: {note}" for note in self.notes]
        if self.file is not None:
            lines += ["", *self._file_lines()]
        return "\n".join(lines)

    def _cells(self) -> list[list[str]]:
        decided, states = any(c.decisions for c in self.choices), any(c.states is not None for c in self.choices)
        head = ["weights", "bytes", "µs", "max", "rms", *["max of states"] * states, *["decisions changed"] * decided]
        body = [[*head, "first → last tenth"]]
        for choice in self.choices:
            line = [choice.name, f"{choice.bytes:,}", f"{choice.step:.3g}"]
            if choice.name == FLOAT32:
                body.append([*line, *["-"] * (len(body[0]) - len(line))])
                continue
            line += [_short(choice.error), _short(choice.rms), *[_short(choice.states)] * states]
            changed, total = sum(d.changed for d in choice.decisions), sum(d.total for d in choice.decisions)
            line += [f"{changed:,} of {total:,}" if total else "-"] * decided
            drift = choice.drift
            line.append(f"{_short(drift[0])} → {_short(drift[-1])}{' grows' if choice.grows else ''}" if drift else "-")
            body.append(line)
        return body

    def _layer_lines(self) -> list[str]:
        kinds = [kind for kind in self.kinds if any(kind in layer.alone for layer in self.layers)]
        head = ["layer", "op", "stored as", "bytes", *(f"{kind} alone" for kind in kinds)]
        rows = [
            [layer.name, layer.op, layer.storage, f"{layer.bytes:,}", *(_short(layer.alone.get(kind)) for kind in kinds)]
            for layer in self.layers
        ]
        asked = [] if self.budget is None else [f"budget {self.budget:g}"]
        asked += ["the same decisions"] * self.kept_decisions
        lines = [f"{', '.join(asked)}: each layer, and the error of each type there with all other layers in float32"]
        lines += columns([head, *rows], right=True)
        wide = sorted(((*layer.next, layer) for layer in self.layers if layer.next), key=lambda each: -each[1])
        lines += [
            f"{layer.name} stays {layer.storage}: {kind} there changes outputs by {error:.1e}"
            for kind, error, layer in wide[:SHOWN]
        ]
        if len(wide) > SHOWN:
            lines.append(f"so do {len(wide) - SHOWN} more, whose errors are smaller; they add to those above")
        return lines

    def _file_lines(self) -> list[str]:
        file = self.file
        assert file is not None
        before = f" ({file.before:,} before)" if file.before else ""
        lines = [
            f"{file.path}: {file.bytes:,} bytes{before}; loads without options, the same bits as with {_option(file.weights)}"
        ]
        return lines + [f"  {layer} stays wide in the file: {reason}" for layer, reason in file.wide.items()]


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.1e}" if number else "0"


def _option(weights: str | dict[str, str]) -> str:
    return f"weights={weights!r}" if isinstance(weights, str) or len(weights) <= 4 else f"the weights of {len(weights)} layers"


def plot(result: Quantization, path: str | PathLike[str]) -> None:
    """Draw the error over the bytes, a point for each choice, into an image file. Needs matplotlib."""
    shown = [c for c in result.choices if c.name != FLOAT32]
    whole = result.choice(FLOAT32)
    figure = picture.figure(8, 4.5)
    axes = figure.subplots()
    floor = min((c.error for c in shown if 0 < c.error < np.inf), default=1e-6) / 10
    for place, choice in enumerate(sorted(shown, key=lambda c: c.bytes)):
        mixed, error = not isinstance(choice.weights, str), min(max(choice.error, floor), 1e3)
        axes.plot(choice.bytes / 1e3, error, "D" if mixed else "o", markersize=8, color=f"C{place}")
        left = mixed or place == 0  # one beside the other where two lie close
        axes.annotate(
            f"{choice.name}, {choice.step:.3g} µs" + ("" if choice.error else ", the same bits"),
            (choice.bytes / 1e3, error),
            xytext=(-9 if left else 9, -11 if mixed else 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=f"C{place}",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
    axes.axvline(whole.bytes / 1e3, color="grey", linestyle="--", label=f"float32, {whole.step:.3g} µs")
    if result.budget is not None:
        axes.axhline(result.budget, color="tab:red", linewidth=1, label=f"budget {result.budget:g}")
    axes.set(
        xlabel="weights (kB)", ylabel="largest error of an output / its RMS", yscale="log", xlim=(0, 1.08 * whole.bytes / 1e3)
    )
    axes.set_title(f"{result.model}: {_frames(result.frames)} of {result.data}", fontsize=10)
    axes.grid(alpha=0.25, which="both")
    axes.margins(y=0.2)
    axes.legend(loc="lower left")
    picture.save(figure, path)


def _frames(count: int) -> str:
    return f"{count:,} frame{'s'[: count != 1]}"
