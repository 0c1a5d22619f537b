"""Input for checks and measurements: given, or seeded random numbers, as frames and in the file's shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Port, as_dtype, frame_input, is_floating, shape_text
from tinyrnn.graph.op import op_of
from tinyrnn.runtime import Model

Array = np.ndarray[Any, Any]

LARGEST_FREE_INTEGER = 9
"""largest random integer, for integers that are no indices"""


@dataclass(frozen=True)
class Sample:
    """Input of `batch` sequences of `frames` frames, and the states before them."""

    batch: int
    frames: int
    inputs: dict[str, Array]
    """[batch, frames, *frame], or [batch, *frame] for an input with one value per call"""
    states: dict[str, Array]
    """explicit states by the name of their input, [batch, *frame]"""

    def first(self, model: Model, frames: int) -> Sample:
        """The first frames only; sequence lengths are limited to them."""
        lengths = length_inputs(model)
        inputs = {
            p.name: self.inputs[p.name][:, :frames]
            if p.per_frame
            else np.minimum(self.inputs[p.name], frames).astype(p.dtype)
            if p.name in lengths
            else self.inputs[p.name]
            for p in model.inputs
        }
        return replace(self, frames=frames, inputs=inputs)

    def entry(self, index: int) -> Sample:
        """One sequence alone."""
        one = slice(index, index + 1)
        inputs, states = ({n: a[one] for n, a in arrays.items()} for arrays in (self.inputs, self.states))
        return replace(self, batch=1, inputs=inputs, states=states)

    def feeds(self, model: Model, frame: int | None = None) -> dict[str, Array]:
        """The inputs other than states in the file's shapes: of all frames, or of one for a step model."""
        found = {}
        for port in model.inputs:
            array = self.inputs[port.name]
            if port.per_frame and frame is not None:
                array = array[:, frame]
            found[port.name] = to_file(port, array, ("batch", "time") if port.per_frame and frame is None else ("batch",))
        return found

    def state_feeds(self, model: Model) -> dict[str, Array]:
        """The states in the file's shapes."""
        return {p.name: to_file(p, self.states[p.name], ("batch",)) for p in model._layout.state_inputs}


def to_file(port: Port, array: Array, lead: Sequence[str]) -> Array:
    """An array [*lead, *frame] in the file's shape, without those axes of `lead` that the file does not have."""
    roles = _roles(port)
    kept = [name for name in lead if name in roles]
    array = array[tuple(slice(None) if name in kept else 0 for name in lead)]
    rest = [axis for axis, role in enumerate(roles) if role is None]
    array = array.reshape([*array.shape[: len(kept)], *(int(port.file_shape[axis]) for axis in rest)])
    order = [roles.index(name) for name in kept] + rest
    return np.asarray(array.transpose(np.argsort(order)) if order else array, order="C")  # of no axes too


def _roles(port: Port) -> list[str | None]:
    """The roles of an input's axes; an axis that joins batch and time counts as time of one sequence."""
    return ["time" if role and "+" in role else role for role in port.roles]


def from_file(port: Port, array: Array, batch: int, frames: int) -> Array:
    """An array in the file's shape as [batch, frames, *frame], or [batch, *frame] where it has no time axis.

    Raises `ShapeError` where its shape is another.
    """
    known = {"batch": batch, "time": port.clock.whole(frames)}
    axes: list[str | None] = [part for role in port.roles for part in (role.split("+") if role else [None])]
    split = [
        known[part] if part else int(size)
        for role, size in zip(port.roles, port.file_shape, strict=True)
        for part in (role.split("+") if role else [""])
    ]
    wanted = [
        prod(known[part] for part in role.split("+")) if role else int(size)
        for role, size in zip(port.roles, port.file_shape, strict=True)
    ]
    if list(array.shape) != wanted:
        raise ShapeError(
            f"{port.name!r} has shape {list(array.shape)}; the file's {shape_text(port)} with {batch} sequences of "
            f"{frames} frames is {wanted}"
        )
    lead = [name for name in ("batch", "time") if name in axes]
    moved = array.reshape(split).transpose(
        [axes.index(name) for name in lead] + [a for a, role in enumerate(axes) if role is None]
    )
    if "batch" not in lead:
        moved = np.broadcast_to(moved, (batch, *moved.shape))
    return moved.reshape(batch, *([known["time"]] if "time" in lead else []), *port.shape)


def fixed_sizes(model: Model) -> tuple[int | None, int | None]:
    """(frames, sequences) as the file fixes them; None where it leaves them open."""
    layout = model._layout
    ports = (*layout.inputs, *layout.state_inputs)
    opened = {rule.name: rule.number for rule in layout.sizes if rule.exact}
    found: dict[str, int | None] = {}
    for port in ports:
        for size, role in zip(port.file_shape, _roles(port), strict=True):
            if role is not None:
                number = opened.get(size) if isinstance(size, str) else size
                found[role] = found.get(role) or number
    if layout.batches:
        found["batch"] = len(next(iter(layout.batches.values())))
    if any(role and "+" in role for port in ports for role in port.roles):
        found["batch"] = 1
    return found.get("time"), found.get("batch", 1)


def index_ranges(model: Model) -> dict[str, tuple[int, int]]:
    """The range of each input that holds indices, from 0 up; negative indices, which count from the end, are not used."""
    found: dict[str, tuple[int, int]] = {}
    for memory, low, high in model._source.plan.bounds:
        number = int(memory[1:])
        if number < len(model.inputs):
            before = found.get(model.inputs[number].name, (0, high))
            found[model.inputs[number].name] = max(before[0], low), min(before[1], high)
    return found


def length_inputs(model: Model) -> set[str]:
    """Inputs that hold the lengths of sequences."""
    graph = model._source.program.graph
    producers, found = graph.producers(), set[str]()
    for node in graph.nodes:
        for name, what in zip(node.inputs, op_of(node).inputs, strict=False):
            if name and what.startswith("sequence_lens"):
                while name in producers and op_of(producers[name]).moves:
                    name = producers[name].inputs[0]
                found.add(name)
    return found & {p.name for p in model.inputs}


def random_sample(model: Model, frames: int, batch: int = 1, seed: int = 0, random_states: bool = False) -> Sample:
    """Seeded input of the right kind; states zero, or standard normal.

    Floating inputs are standard normal, booleans either, indices any entry of their table, lengths 1 to
    `frames` (one of several is `frames`), other integers 0 to 9.
    """
    rng = np.random.default_rng(seed)
    ranges, lengths = index_ranges(model), length_inputs(model)
    inputs = {}
    for port in model.inputs:
        shape = (batch, frames, *port.shape) if port.per_frame else (batch, *port.shape)
        array: Array
        if is_floating(port.dtype):
            array = rng.standard_normal(shape)
        elif port.dtype.kind == "b":
            array = rng.random(shape) < 0.5
        elif port.name in lengths:
            array = rng.integers(1, frames, shape, endpoint=True)
            array[1:2] = frames
        else:
            low, high = ranges.get(port.name, (0, LARGEST_FREE_INTEGER))
            array = rng.integers(low, high, shape, endpoint=True)
        inputs[port.name] = array.astype(port.dtype)
    states = {
        p.name: (rng.standard_normal((batch, *p.shape)) if random_states else np.zeros((batch, *p.shape))).astype(p.dtype)
        for p in model._layout.state_inputs
    }
    return Sample(batch, frames, inputs, states)


def given_sample(model: Model, data: Mapping[str, Any]) -> Sample:
    """The user's arrays by name: frames [T, *frame], or in the file's shapes; states may be among them.

    Raises `ShapeError` naming what there is.
    """
    layout = model._layout
    ports = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
    takes = f"it takes {'; '.join(map(str, layout.inputs)) or 'no inputs'}" + (
        f", and may be given the states {', '.join(p.name for p in layout.state_inputs)}" if layout.state_inputs else ""
    )
    unknown, missing = [n for n in data if n not in ports], [p.name for p in layout.inputs if p.name not in data]
    if unknown or missing:
        problem = f"has {', '.join(map(repr, unknown))}" if unknown else f"lacks {', '.join(map(repr, missing))}"
        raise ShapeError(f"{layout.name}: data {problem}; {takes}. Frames are [T, *frame]")
    sizes: dict[str, int] = {}
    found = {name: _given(model, ports[name], value, sizes) for name, value in data.items()}
    batch, frames = sizes.get("batch", 1), sizes.get("time", 1)
    if frames == 0 or batch == 0:
        raise ShapeError(f"{layout.name}: data has no frames; {takes}")
    inputs = {p.name: found[p.name] for p in layout.inputs}
    states = {p.name: found.get(p.name, np.zeros((batch, *p.shape), p.dtype)) for p in layout.state_inputs}
    return repeated(model, Sample(batch, frames, inputs, states), batch)


def _given(model: Model, port: Port, value: Any, sizes: dict[str, int]) -> Array:
    """[batch, T, *frame] or [batch, *frame]; what it tells of batch and time goes to `sizes`."""
    array, roles = as_dtype(model.name, port, value), _roles(port)
    in_file = array.ndim == len(roles) and all(
        role or size == n for role, size, n in zip(roles, port.file_shape, array.shape, strict=True)
    )
    as_frames = port.per_frame and array.shape[1:] == port.shape
    if in_file and not as_frames and (model.kind == "sequence" or not port.per_frame):
        mine = {role: n for role, n in zip(roles, array.shape, strict=True) if role}
        result = from_file(replace(port, roles=tuple(roles)), array, mine.get("batch", 1), mine.get("time", 1))
    elif in_file and not as_frames and model.kind == "static" and "batch" in roles:
        entries = np.moveaxis(array, roles.index("batch"), 0)
        mine = {"batch": len(entries), "time": 1}
        result = entries.reshape(len(entries), 1, *port.shape)
    else:
        frames, count = frame_input(model.name, port, array, port.per_frame)
        mine = {} if count is None else {"time": count}
        result = frames[None]
    for role, n in mine.items():
        if sizes.setdefault(role, n) != n:
            raise ShapeError(
                f"{model.name}: data gives {port.name!r} {n} {'frames' if role == 'time' else 'sequences'}, "
                f"but {sizes[role]} to the inputs before it"
            )
    return result


def repeated(model: Model, sample: Sample, batch: int) -> Sample:
    """The sample with `batch` sequences: missing ones are the first one, each rotated by one more frame."""
    timed = {p.name for p in model.inputs if p.per_frame}

    def widen(array: Array, name: str) -> Array:
        more = [np.roll(array[0], k, 0) if name in timed else array[0] for k in range(len(array), batch)]
        return np.concatenate([array, np.stack(more)]) if more else array

    return Sample(
        batch,
        sample.frames,
        {n: widen(a, n) for n, a in sample.inputs.items()},
        {n: widen(a, n) for n, a in sample.states.items()},
    )
