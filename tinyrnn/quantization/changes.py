"""What a model gives on a sample, and how far that is from what it gives with float32 weights."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinyrnn.check.samples import Sample, from_file
from tinyrnn.check.tolerances import distance
from tinyrnn.graph.arrays import Array, Port, is_floating
from tinyrnn.runtime import Model

TENTHS = 10
ONE = 1e-3
"""how far from 1 the sum of probabilities may be"""
HALF = 0.5


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    outputs: dict[str, Array]
    """[batch, rows, *frame], or [batch, *frame] for what belongs to a call"""
    states: dict[str, Array]
    """[batch, tenths, elements]: after each tenth of the run"""


@dataclass(frozen=True)
class Change:
    """How far one output or state is from that with float32 weights."""

    name: str
    kind: str
    """'output' or 'state'"""
    unit: float
    """the root mean square of the float32 values, 1 where that is 0; of integers, 1"""
    largest: float
    """largest difference in that unit; of integers, the share of them that differ"""
    rms: float
    """root mean square of the differences in that unit"""
    drift: tuple[float, ...] = ()
    """largest difference in each tenth of the run, in that unit"""


@dataclass(frozen=True)
class Decisions:
    """How many of the decisions that an output stands for are others."""

    name: str
    rule: str
    changed: int
    total: int


def outcome(model: Model, sample: Sample) -> Outcome:
    """Run a sample: each sequence through a stream of its own, or whole where the model cannot stream."""
    if model.kind == "whole" or model._layout.refuses_stream:
        return _whole(model, sample)
    made = [_streamed(model, sample.entry(n)) for n in range(sample.batch)]
    return Outcome(
        {name: np.stack([one.outputs[name] for one in made]) for name in made[0].outputs},
        {name: np.stack([one.states[name] for one in made]) for name in made[0].states},
    )


def _whole(model: Model, sample: Sample) -> Outcome:
    made = model.run({**sample.feeds(model), **sample.state_feeds(model)})
    arrays = dict(zip(model._layout.file_outputs, made if isinstance(made, tuple) else (made,), strict=True))
    return Outcome({p.name: from_file(p, arrays[p.name], sample.batch, sample.frames) for p in model.outputs}, {})


def _streamed(model: Model, sample: Sample) -> Outcome:
    """One sequence in tenths: outputs [rows, *frame] or [*frame], states [tenths, elements]."""
    stream, ports = model.stream(), model.outputs
    for name, value in sample.states.items():
        stream.states[name][...] = value[0].reshape(stream.states[name].shape)
    timed = any(p.per_frame for p in model.inputs)
    cuts = np.linspace(0, sample.frames, min(TENTHS, sample.frames if timed else 1) + 1).astype(int)
    pieces: list[Sequence[Array | None]] = []
    states: dict[str, list[Array]] = {name: [] for name in stream.states}
    for start, end in itertools.pairwise(cuts):
        arrays = [sample.inputs[p.name][0][start:end] if p.per_frame else sample.inputs[p.name][0] for p in model.inputs]
        made = stream.run(*arrays) if timed else stream.step(*arrays)
        pieces.append(made if isinstance(made, tuple) else (made,))
        for name, value in stream.states.items():
            states[name].append(value.ravel().copy())
    if model.has_tail:
        tail = stream.flush()
        pieces.append(tail if isinstance(tail, tuple) else (tail,))
    outputs = {}
    for index, port in enumerate(ports):
        parts = [part for piece in pieces if (part := piece[index]) is not None]
        rows = [part.reshape(-1, *port.shape) for part in parts] if port.per_frame else parts
        outputs[port.name] = np.concatenate(rows) if port.per_frame else rows[-1]
    return Outcome(outputs, {name: np.stack(arrays) for name, arrays in states.items()})


def changes(ports: Sequence[Port], own: Outcome, wanted: Outcome, without: Collection[str] = ()) -> list[Change]:
    """The change of every output and state but those named."""
    timed = {p.name for p in ports if p.per_frame}
    found = [_change(n, "output", own.outputs[n], e, n in timed) for n, e in wanted.outputs.items() if n not in without]
    return found + [_change(n, "state", own.states[n], e, True) for n, e in wanted.states.items() if n not in without]


def _change(name: str, kind: str, own: Array, wanted: Array, timed: bool) -> Change:
    _, e, apart = distance(own, wanted)
    if is_floating(wanted.dtype):
        known = e[np.isfinite(e)]
        unit = float(np.sqrt(np.mean(known**2))) if known.size else 0.0
        apart /= unit or 1.0
        largest = float(apart.max(initial=0.0))
    else:
        unit = 1.0
        apart = (apart > 0).astype(np.float64)
        largest = float(apart.mean()) if apart.size else 0.0
    rms = float(np.sqrt(np.mean(apart**2))) if apart.size else 0.0
    drift: tuple[float, ...] = ()
    if timed and apart.ndim > 1 and apart.shape[1] > 1:
        rows = apart.max(axis=tuple(a for a in range(apart.ndim) if a != 1), initial=0.0)
        drift = tuple(float(part.max()) for part in np.array_split(rows, min(TENTHS, len(rows))))
    return Change(name, kind, unit or 1.0, largest, rms, drift)


def counted(ports: Sequence[Port], wanted: Outcome, without: Collection[str] = ()) -> set[str]:
    """The floating outputs that vary along the run, whose errors count; where there are none, the states; else all outputs."""
    outputs = {p.name for p in ports if p.name not in without}
    varies = {name for name in outputs if is_floating(wanted.outputs[name].dtype) and np.ptp(wanted.outputs[name]) > 0}
    return varies or wanted.states.keys() - set(without) or outputs


def error(found: Sequence[Change], names: Collection[str]) -> float:
    """The largest change of these outputs or states."""
    return max((c.largest for c in found if c.name in names), default=0.0)


def rms(found: Sequence[Change], names: Collection[str]) -> float:
    """The largest root mean square of the changes of these outputs or states."""
    return max((c.rms for c in found if c.name in names), default=0.0)


Rule = Callable[[Array], Array]
"""values [..., classes] → decisions"""


def rules(model: Model, wanted: Outcome, without: Collection[str] = ()) -> dict[str, tuple[str, Rule]]:
    """Output → (what is taken for its decisions, the function that takes them), for outputs that stand for decisions."""
    found = {}
    for port in model.outputs:
        if port.name not in without:
            rule = _rule(wanted.outputs[port.name], len(port.shape), model.metadata)
            if rule is not None:
                found[port.name] = rule
    return found


def _rule(values: Array, rank: int, metadata: Mapping[str, str]) -> tuple[str, Rule] | None:
    if not is_floating(values.dtype):
        return "the integers themselves", lambda array: array
    if not np.isfinite(values).all() or not values.size:
        return None
    classes = values.shape[-1] if rank else 1
    if classes > 1:
        chosen: Rule = lambda array: array.argmax(-1)  # noqa: E731
        if (values >= 0).all() and np.abs(values.sum(-1) - 1).max() < ONE:
            return "the largest of the probabilities", chosen
        if (values <= 0).all() and np.abs(np.exp(values.astype(np.float64)).sum(-1) - 1).max() < ONE:
            return "the largest of the logarithms of probabilities", chosen
        if classes in _lengths(metadata):
            return "the largest", chosen
    if values.min() >= 0 and values.max() <= 1 and np.ptp(values) > 0:
        return f"whether a value is {HALF} or more", lambda array: array >= HALF
    return None


def _lengths(metadata: Mapping[str, str]) -> set[int]:
    """The lengths of vocabularies and lists of labels in the metadata."""
    found = set()
    for text in metadata.values():
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, (str, list, dict)):
            found.add(len(value))
    return found - {0, 1}


def decisions(rule: Mapping[str, tuple[str, Rule]], own: Outcome, wanted: Outcome) -> list[Decisions]:
    """The decisions of each output that changed."""
    found = []
    for name, (text, take) in rule.items():
        mine, theirs = take(own.outputs[name]), take(wanted.outputs[name])
        found.append(Decisions(name, text, int((mine != theirs).sum()), int(mine.size)))
    return found
