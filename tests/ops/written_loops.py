"""Loops over random cells, written out step by step as exporters do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17

UNARY = ("Tanh", "Sigmoid", "Relu", "Softsign", "Neg", "Abs", "LayerNormalization", "MatMul", "Scale")
BINARY = ("Add", "Mul", "Sub", "Max", "Min", "Joined")

Cell = Callable[["Page", str, list[str]], tuple[str, list[str]]]
"""(page, x of the step, states) → what the step gives, states after it"""


class Page:
    """A graph that grows node by node; weights of a key are drawn once."""

    def __init__(self, seed: int, hidden: int, batch: int) -> None:
        self.rng, self.hidden, self.batch = np.random.default_rng(seed), hidden, batch
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.step = 0

    def constant(self, key: str, array: np.ndarray | None = None, *shape: int) -> str:
        if key not in self.weights:
            drawn = self.rng.standard_normal(shape) / np.sqrt(shape[0]) if array is None else array
            kind = np.int64 if drawn.dtype.kind == "i" else np.float32
            self.weights[key] = numpy_helper.from_array(drawn.astype(kind), key)
        return key

    def add(self, op: str, inputs: list[str], count: int = 1, output: str = "", **attributes: object) -> str:
        name = output or f"v{len(self.nodes)}"
        names = [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{len(self.nodes)}", **attributes))
        return names[0]

    def linear(self, x: str, key: str, size: int) -> str:
        return self.add("MatMul", [x, self.constant(key, None, size, self.hidden)])

    def apply(self, op: str, values: list[str], key: str) -> str:
        """One of `UNARY` or `BINARY`."""
        H = self.hidden
        if op == "LayerNormalization":
            scale, bias = self.constant(f"{key}_scale", np.ones(H)), self.constant(f"{key}_bias", None, H)
            return self.add(op, [values[0], scale, bias], axis=-1)
        if op == "MatMul":
            return self.linear(values[0], f"{key}_W", H)
        if op == "Scale":
            return self.add("Mul", [values[0], self.constant(f"{key}_by", None, H)])
        if op == "Joined":
            return self.linear(self.add("Concat", values, axis=-1), f"{key}_W", 2 * H)
        return self.add(op, values)


def random_cell(seed: int, features: int, states: int, length: int) -> Cell:
    """A step of `length` random operators after the product by its input; its states stay within (-1, 1)."""
    rng = np.random.default_rng(seed)
    plan = [
        (op := str(rng.choice(BINARY if rng.random() < 0.5 else UNARY)), rng.integers(0, 1 << 30, 2 if op in BINARY else 1))
        for _ in range(length)
    ]
    ends = rng.integers(0, 1 << 30, states)
    given = int(rng.integers(0, 1 << 30))

    def cell(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
        pool = [page.linear(x, f"{seed}_in", features), *held]
        for i, (op, picks) in enumerate(plan):
            pool.append(page.apply(op, [pool[int(p) % len(pool)] for p in picks], f"{seed}_{i}"))
        mixed = pool[0]
        for value in pool[1:]:
            mixed = page.add("Add", [mixed, value])
        made = [*pool[1 + states :], mixed]
        sums = [page.add("Add", [made[int(e) % len(made)], mixed]) for e in ends]
        after = [page.add("Tanh", [page.apply("Scale", [value], f"{seed}_end{k}")]) for k, value in enumerate(sums)]
        return [*after, *made][given % (len(after) + len(made))], after

    return cell


def written_out(
    cells: list[Cell],
    T: int,
    features: int,
    hidden: int,
    states: int,
    *,
    batch: int = 1,
    seed: int = 0,
    picks: str = "gather",
    collect: str = "stack",
    starts: str = "zeros",
    backwards: bool = False,
    steps_first: bool = False,
    time_first: bool = False,
) -> onnx.ModelProto:
    """T copies of the steps of cells, one on top of the other.

    picks:    gather | squeeze | split, how steps are taken; collect: stack | concat | chain | write | last, of results
    starts:   zeros | ones | given; steps_first: all cells of a step before the next step
    """
    page, axis = Page(seed, hidden, batch), 0 if time_first else 1
    source = "x"
    shape = [T, batch, features] if time_first else [batch, T, features]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    held: list[list[str]] = []
    for n in range(len(cells)):
        if starts == "given":
            names = [f"s{n}_{k}" for k in range(states)]
            inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, hidden]) for name in names]
        else:
            number = np.full((batch, hidden), float(starts == "ones"))
            names = [page.constant(f"start{n}_{k}", number) for k in range(states)]
        held.append(names)
    order = range(T)[::-1] if backwards else range(T)
    rows = {t: _pick(page, source, t, T, axis, picks) for t in range(T)}
    if steps_first:
        for t in order:
            for n, cell in enumerate(cells):
                rows[t], held[n] = cell(page, rows[t], held[n])
    else:
        for n, cell in enumerate(cells):
            for t in order:
                rows[t], held[n] = cell(page, rows[t], held[n])
    y = _collected(page, [rows[t] for t in range(T)], axis, collect, hidden, batch, rows[order[-1]])
    page.add("Identity", [y], output="y")
    outputs = ["y"]
    if starts == "given":
        for n, names in enumerate(held):
            outputs += [page.add("Identity", [name], output=f"s{n}_{k}_out") for k, name in enumerate(names)]
    graph = helper.make_graph(
        page.nodes,
        "written_out",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(page.weights.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _pick(page: Page, source: str, t: int, T: int, axis: int, how: str) -> str:
    axes = page.constant(f"axes{axis}", np.array([axis]))
    if how == "gather":
        return page.add("Gather", [source, page.constant(f"at{t}", np.array(t))], axis=axis)
    if how == "split":
        if t == 0:
            page.split = page.add("Split", [source], T, axis=axis)[:-2]  # type: ignore[attr-defined]
        return page.add("Squeeze", [f"{page.split}_{t}", axes])  # type: ignore[attr-defined]
    start, end = page.constant(f"from{t}", np.array([t])), page.constant(f"from{t + 1}", np.array([t + 1]))
    return page.add("Squeeze", [page.add("Slice", [source, start, end, axes]), axes])


def _collected(page: Page, rows: list[str], axis: int, how: str, hidden: int, batch: int, last: str) -> str:
    if how == "last":
        return last
    axes = page.constant(f"axes{axis}", np.array([axis]))
    if how == "concat":
        shape = np.array([len(rows), batch, hidden] if axis == 0 else [batch, len(rows), hidden])
        joined = page.add("Concat", rows, axis=0 if axis == 0 else -1)
        return page.add("Reshape", [joined, page.constant("shape", shape)])
    wide = [page.add("Unsqueeze", [row, axes]) for row in rows]
    if how == "chain":
        so_far = wide[0]
        for row in wide[1:]:
            so_far = page.add("Concat", [so_far, row], axis=axis)
        return so_far
    if how == "write":
        so_far = page.constant("empty", np.zeros((len(rows), batch, hidden)))
        for t, row in enumerate(rows):
            at = page.constant(f"place{t}", np.array([[t]]))
            so_far = page.add("ScatterND", [so_far, at, page.add("Unsqueeze", [row, page.constant("axes0", np.array([0]))])])
        return so_far if axis == 0 else page.add("Transpose", [so_far], perm=[1, 0, 2])
    return page.add("Concat", wide, axis=axis)
