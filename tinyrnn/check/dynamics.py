"""Whether errors die out: the recurrent weights' singular values and spectral radii, and the largest Lyapunov exponent.

A small error in the state of a stream, from rounding, quantisation or drift, is carried from frame to frame with the state.
Along given input it grows or shrinks, per frame and in the long run, by exp(the largest Lyapunov exponent).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tinyrnn.check.samples import Sample, given_sample, random_sample
from tinyrnn.errors import ShapeError, TinyRNNError
from tinyrnn.graph.arrays import Array
from tinyrnn.graph.op import op_of
from tinyrnn.ops.recurrent.kernel_text import KEPT
from tinyrnn.ops.recurrent.operators import Recurrent
from tinyrnn.runtime import Model, Progress, Stream
from tinyrnn.trace import computed_parts

DIRECTIONS = 3
"""random first errors, each followed on its own"""
FRAMES = 1000
"""of random input"""
WARM_UP = 4
"""one frame in so many is dropped, while the state settles and the error turns into the fastest growing direction"""
FEWEST = 16
UNIT = 2.0**-24
"""relative rounding of float32"""
EPSILON = UNIT**0.5
"""size of the error, in units of the state: half the digits of float32 lie above it and half below, so that neither what
bends (the second order, EPSILON) nor rounding (UNIT / EPSILON) moves a step's factor by more than about 2.4e-4"""
LARGEST = 1e30
"""magnitude of a state beyond which the run is abandoned"""


@dataclass(frozen=True)
class Gate:
    """One gate's square block of R, one direction of one layer."""

    layer: str
    op: str
    direction: str
    gate: str
    singular: float
    """the largest singular value: the largest factor by which one multiplication by the block lengthens a vector"""
    radius: float
    """the spectral radius: the factor for each of many multiplications, in the long run"""


@dataclass(frozen=True)
class Exponent:
    """The largest Lyapunov exponent of the state along some input."""

    mean: float
    """natural logarithm of the factor per frame; an upper bound where `bounded`"""
    least: float
    most: float
    """the largest over the random initial errors"""
    frames: int
    """measured"""
    dropped: int
    """before them"""
    bounded: bool
    """whether errors shrank below the resolution of float32"""

    @property
    def factor(self) -> float:
        """The factor of an error from one frame to the next."""
        return float(np.exp(min(self.mean, 700.0)))

    @property
    def margin(self) -> float:
        """The largest exponent that cannot be told from 0: a change by less than e over all frames, plus the spread."""
        return 1.0 / self.frames + self.most - self.least

    @property
    def verdict(self) -> str:
        if self.mean < -self.margin:
            return "errors die out: quantisation or rounding does not accumulate in a stream"
        if self.mean > self.margin:
            return "errors grow: two streams that differ a little drift apart, until they differ as much as any two do"
        return "errors persist: they neither die out nor grow, and what each frame adds accumulates"

    @property
    def halves(self) -> str:
        """A phrase: the number of frames in which an error halves or doubles."""
        if abs(self.mean) <= self.margin:
            return "keeps its size"
        frames = np.log(2) / abs(self.mean)
        what = "halves" if self.mean < 0 else "doubles"
        return f"{what} every {frames:.3g} frames" if frames > 1 else f"{what} within a frame"

    def __str__(self) -> str:
        sign = "at most " if self.bounded else ""
        return (
            f"{sign}{self.mean:+.4f} per frame ({self.least:+.4f} to {self.most:+.4f}): an error times {self.factor:.4g} from "
            f"frame to frame, it {self.halves}"
        )


@dataclass(frozen=True)
class Dynamics:
    """The result of `dynamics`."""

    model: str
    data: str
    gates: tuple[Gate, ...]
    exponent: Exponent | None
    reason: str
    """why there is no exponent"""

    def as_dict(self) -> dict[str, Any]:
        found = self.exponent
        measured = None
        if found is not None:
            measured = {
                **asdict(found),
                "factor": found.factor,
                "margin": found.margin,
                "verdict": found.verdict.partition(":")[0],
            }
        return {"data": self.data, "gates": [asdict(g) for g in self.gates], "exponent": measured, "reason": self.reason or None}

    def __str__(self) -> str:
        lines = [f"{self.model}: dynamics"]
        if self.gates:
            width = max(len(f"{g.op} {g.layer} {g.direction}".rstrip()) for g in self.gates)
            lines.append(f"  {'R of':{width}}  gate  largest singular value  spectral radius")
            seen = ""
            for gate in self.gates:
                name = f"{gate.op} {gate.layer} {gate.direction}".rstrip()
                lines.append(
                    f"  {'' if name == seen else name:{width}}  {gate.gate:4}  {gate.singular:22.4f}  {gate.radius:15.4f}"
                )
                seen = name
        else:
            lines.append("  no RNN, GRU or LSTM layer")
        if self.exponent is None:
            return "\n".join([*lines, f"  no Lyapunov exponent: {self.reason}"])
        found = self.exponent
        return "\n".join(
            [
                *lines,
                f"  largest Lyapunov exponent, {self.data}, {found.frames:,} frames after {found.dropped:,}:",
                f"  {found}",
                f"  {found.verdict}",
            ]
        )


def dynamics(
    model: Model,
    data: Mapping[str, Any] | None = None,
    *,
    frames: int = FRAMES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dynamics:
    """The singular values of every recurrent layer, and how an error in the state grows along input.

    data:   arrays by input name, frames [T, *frame] or in the file's shapes, states may be among them; by default
            `frames` frames of seeded random input of the right kind
    seed:   of the random input and of the first errors

    The exponent is that of Benettin et al. (1980, Meccanica 15, 9-20): beside a stream runs a second one whose state differs
    a little; after each frame the difference is brought back to its first size, and the logarithms of what it had become are
    averaged. Every part of the state is measured in units of its own root mean square along the run.

    Raises `ShapeError` where the data does not fit or has fewer than 16 frames.
    """
    gates = tuple(_gates(model))
    what = "given input" if data is not None else f"random input, seed {seed} (real input tells more)"

    def without(reason: str) -> Dynamics:
        return Dynamics(model.name, what, gates, None, reason)

    if model.kind == "whole" or model._layout.refuses_stream:
        return without("it runs whole sequences only, each from the same first state")
    if not computed_parts(model.stream()):
        return without("it has no state; every frame stands alone and no error is carried on")
    sample = given_sample(model, data) if data is not None else random_sample(model, frames, seed=seed)
    if sample.frames < FEWEST:
        raise ShapeError(f"{model.name}: {sample.frames} frames are too few to see an error grow; give {FEWEST} or more")
    return Dynamics(model.name, what, gates, _exponent(model, sample, seed, progress), "")


def _gates(model: Model) -> list[Gate]:
    found = []
    for node in model._source.program.graph.every_node():
        op = op_of(node)
        if not isinstance(op, Recurrent):
            continue
        R = op.attribute(node, "R").astype(np.float64)
        H = R.shape[-1]
        names = ("forward", "backward") if len(R) > 1 else ("backward" if op.attribute(node, "direction") == "reverse" else "",)
        kept = [name for name in KEPT[op.kind] if name not in ("Ct", "Ht")] or ["h"]
        for blocks, direction in zip(R.reshape(len(R), -1, H, H), names, strict=True):
            for gate, block in zip(kept, blocks, strict=True):
                singular = float(np.linalg.norm(block, 2))
                radius = float(np.abs(np.linalg.eigvals(block)).max())
                found.append(Gate(node.name, op.kind, direction, gate, singular, radius))
    return found


class _State:
    """The computed parts of a stream's state as one vector, each in units of its own."""

    def __init__(self, stream: Stream, units: Mapping[str, float]) -> None:
        self.parts, self.units = computed_parts(stream), units

    def get(self) -> Array:
        return np.concatenate([p.astype(np.float64).ravel() / self.units[n] for n, p in self.parts.items()])

    def set(self, vector: Array) -> None:
        start = 0
        for name, part in self.parts.items():
            part[...] = (vector[start : start + part.size] * self.units[name]).reshape(part.shape)
            start += part.size


def _exponent(model: Model, sample: Sample, seed: int, progress: Progress | None) -> Exponent:
    inputs = [
        {p.name: sample.inputs[p.name][0][t] if p.per_frame else sample.inputs[p.name][0] for p in model.inputs}
        for t in range(sample.frames)
    ]
    dropped, total = sample.frames // WARM_UP, 2 * sample.frames
    units = _units(model, sample, inputs)
    base = _started(model, sample)
    rng = np.random.default_rng(seed)
    others = [model.stream() for _ in range(DIRECTIONS)]
    here, beside = _State(base, units), [_State(stream, units) for stream in others]
    size = EPSILON * here.get().size ** 0.5
    directions = [_unit(rng, here.get().size) for _ in others]
    growth, bounded = np.zeros(DIRECTIONS), False
    for t, frame in enumerate(inputs):
        state, begun = here.get(), base.state.copy()
        lengths = np.zeros(DIRECTIONS)
        for number, (stream, vector) in enumerate(zip(others, beside, strict=True)):
            stream.state[...] = begun
            vector.set(state + size * directions[number])
            lengths[number] = np.linalg.norm(vector.get() - state)
            stream.step(frame)
        base.step(frame)
        after = here.get()
        floor = UNIT * float(np.linalg.norm(after)) + UNIT * size
        for number, vector in enumerate(beside):
            error = vector.get() - after
            length = float(np.linalg.norm(error))
            lost = length <= floor
            directions[number] = _unit(rng, error.size) if lost else error / length
            if t >= dropped:
                bounded |= lost
                growth[number] += np.log(max(length, floor) / lengths[number])
        if progress:
            progress(sample.frames + t + 1, total)
    each = growth / (sample.frames - dropped)
    return Exponent(float(each.mean()), float(each.min()), float(each.max()), sample.frames - dropped, dropped, bool(bounded))


def _started(model: Model, sample: Sample) -> Stream:
    stream = model.stream()
    for name, value in sample.states.items():
        stream.states[name][...] = value[0].reshape(stream.states[name].shape)
    return stream


def _units(model: Model, sample: Sample, inputs: list[dict[str, Array]]) -> dict[str, float]:
    """The root mean square of each part of the state along the input, or 1 where that is 0."""
    stream = _started(model, sample)
    sums = dict.fromkeys(computed_parts(stream), 0.0)
    for t, frame in enumerate(inputs):
        stream.step(frame)
        for name, part in computed_parts(stream).items():
            sums[name] += float(np.mean(part.astype(np.float64) ** 2))
            if not sums[name] < LARGEST**2:
                raise TinyRNNError(
                    f"{model.name}: its state {name!r} grows beyond {LARGEST:g} at frame {t} of this input, "
                    f"and is soon no number; give fewer frames, or smaller ones"
                )
    return {name: (value / len(inputs)) ** 0.5 or 1.0 for name, value in sums.items()}


def _unit(rng: np.random.Generator, size: int) -> Array:
    vector = rng.standard_normal(size)
    unit: Array = vector / np.linalg.norm(vector)
    return unit
