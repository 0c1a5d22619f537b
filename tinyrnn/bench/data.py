"""Seeded input for measurements, and the models that `tinyrnn bench` measures without MODEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import Array, Port, full_shape
from tinyrnn.runtime import Model

POOL = 32
"""number of different frames, which the steps repeat: one pass"""
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}

Frame = tuple[Array, ...]


class Data:
    """Seeded random input: frames for a stream, and the same values in the file's shapes."""

    def __init__(self, model: Model, frames: int, seed: int, fixed: bool) -> None:
        """fixed: use the number of frames and of batch entries that the file fixes, if it does."""
        layout = model._layout
        self.model = model
        sizes = {r: n for p in layout.inputs for r, n in zip(p.roles, p.file_shape, strict=True) if r and isinstance(n, int)}
        self.batch = max([sizes.get("batch", 1), *(len(a) for a in layout.batches.values())])
        self.fixed_time = sizes.get("time")
        joint = sizes.get("batch+time", sizes.get("time+batch"))
        if joint:
            self.fixed_time = joint // self.batch
        self.timed = any(r and "time" in r for p in layout.inputs for r in p.roles)
        self.frames = self.fixed_time if self.fixed_time and (fixed or layout.refuses_stream) else frames
        self.streams = not layout.refuses_stream and any(p.per_frame for p in layout.inputs)
        self.by_file = fixed and self.batch > 1
        """whole runs are calls of `Model.run` on the file's batch, not runs of a stream"""
        random = np.random.default_rng(seed)
        bounds = bounds_of(model)
        count = max(self.frames, POOL)
        self.arrays = [
            drawn(p, (count, *p.shape) if p.per_frame else p.shape, bounds.get(i), random, self.frames)
            for i, p in enumerate(layout.inputs)
        ]
        self.pool: list[Frame] = [
            tuple(
                a[t] if p.per_frame and p.shape else (a[t : t + 1].reshape(()) if p.per_frame else a)
                for p, a in zip(layout.inputs, self.arrays, strict=True)
            )
            for t in range(POOL)
        ]
        self.whole = tuple(a[: self.frames] if p.per_frame else a for p, a in zip(layout.inputs, self.arrays, strict=True))
        self.states = {p.name: np.resize(_initial(model, p.name), full_shape(p, self.batch, 1)) for p in layout.state_inputs}

    def feed(self, start: int, count: int) -> dict[str, Array]:
        """`count` frames from `start` on in the file's shapes, with initial states."""
        return {
            p.name: self._to_file(p, a[start : start + count] if p.per_frame else a, count)
            for p, a in zip(self.model.inputs, self.arrays, strict=True)
        } | {n: a.copy() for n, a in self.states.items()}

    def _to_file(self, port: Port, array: Array, frames: int) -> Array:
        at = next((i for i, r in enumerate(port.roles) if r and "time" in r), None)
        if at is not None and port.per_frame:
            array = np.moveaxis(array, 0, at - sum(r == "batch" for r in port.roles[:at]))
        return np.resize(array, full_shape(port, self.batch, frames))


def bounds_of(model: Model) -> dict[int, tuple[int, int]]:
    """(lowest, highest) index that an input may hold, by its place, counted from the start of what it points into."""
    return {int(name[1:]): (max(low, 0), high) for name, low, high in model._source.plan.bounds} if model._source else {}


def drawn(port: Port, shape: tuple[int, ...], bounds: tuple[int, int] | None, random: np.random.Generator, length: int) -> Array:
    """Random values: indices within their bounds, `length` for other integers of a call, else 1; floats standard normal."""
    if bounds:
        return random.integers(bounds[0], bounds[1] + 1, shape).astype(port.dtype)
    if port.dtype.kind == "f":
        return random.standard_normal(shape).astype(port.dtype)
    return np.full(shape, 1 if port.per_frame or port.dtype.kind == "b" else length, port.dtype)


def _initial(model: Model, name: str) -> Array:
    layout = model._layout
    for part, offset, shape, _ in layout.state_parts:
        if part == name:
            return layout.initial_state[offset : offset + int(np.prod(shape))].reshape(shape)
    return np.zeros(1, np.float32)


def cell_model(cell: str, hidden: int, path: Path, seed: int = 0, batch: int | str = 1) -> None:
    """Write an .onnx file (opset 17) of one RNN, LSTM or GRU with `hidden` inputs and units and random weights.

    X [T, batch, hidden], initial_h and initial_c [1, batch, hidden] → Y [T, 1, batch, hidden], Y_h, Y_c.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random, gates = np.random.default_rng(seed), GATES[cell]
    shapes = {"W": (1, gates * hidden, hidden), "R": (1, gates * hidden, hidden), "B": (1, 2 * gates * hidden)}
    arrays = {name: (random.standard_normal(shape) / np.sqrt(hidden)).astype(np.float32) for name, shape in shapes.items()}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    carried = ["h", "c"] if cell == "LSTM" else ["h"]
    inputs, outputs = ["X", "W", "R", "B", "", *(f"initial_{s}" for s in carried)], ["Y", *(f"Y_{s}" for s in carried)]
    attributes: dict[str, Any] = {"linear_before_reset": 1} if cell == "GRU" else {}
    node = helper.make_node(cell, inputs, outputs, hidden_size=hidden, **attributes)

    def value(name: str, shape: list[int | str]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        f"{cell}_{hidden}",
        [value("X", ["T", batch, hidden]), *(value(f"initial_{s}", [1, batch, hidden]) for s in carried)],
        [value("Y", ["T", 1, batch, hidden]), *(value(f"Y_{s}", [1, batch, hidden]) for s in carried)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
