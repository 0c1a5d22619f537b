"""Reductions over time: the last value, or the sum, mean or extreme of all values so far.

The result belongs to the call, not to a frame. In a stream it covers everything since the reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, State, Value
from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import OURS, REQUIRED, Op, Refused, register
from tinyrnn.lanes import Vec, f32, get, kernel, lanes, load_part, put, splat, store_part
from tinyrnn.ops.elementwise.operators import larger, smaller


@kernel
def last_f32(y: Any, x: Any, kept: Any, rows: int, n: int) -> None:
    """y = kept = the last of `rows` rows of x, n elements each; without rows kept stays."""
    y = f32(y)
    x = f32(x + 4 * (rows - 1) * n)
    kept = f32(kept)
    for i in range(0, n, lanes()):
        if rows > 0:
            store_part(kept, i, load_part(x, i, n - i), n - i)
        store_part(y, i, load_part(kept, i, n - i), n - i)


@kernel
def sum_over_time(y: Any, x: Any, total: Any, count: Any, rows: int, n: int) -> None:
    """total += every row of x in order, count += rows, y = total."""
    y = f32(y)
    x = f32(x)
    total = f32(total)
    count = f32(count)
    for r in range(rows):
        for i in range(0, n, lanes()):
            store_part(total, i, load_part(total, i, n - i) + load_part(x, r * n + i, n - i), n - i)
        put(count, 0, get(count, 0) + np.float32(1.0))
    for i in range(0, n, lanes()):
        store_part(y, i, load_part(total, i, n - i), n - i)


@kernel
def mean_over_time(y: Any, x: Any, total: Any, count: Any, rows: int, n: int) -> None:
    """As `sum_over_time`, divided by count."""
    sum_over_time(y, x, total, count, rows, n)
    y = f32(y)
    for i in range(0, n, lanes()):
        store_part(y, i, load_part(y, i, n - i) / splat(get(f32(count), 0)), n - i)


def _extreme(name: str, choose: Callable[[Vec, Vec], Vec]) -> Callable[..., None]:
    """The kernel below, for the larger or the smaller of two."""

    def extreme(y: Any, x: Any, total: Any, count: Any, rows: int, n: int) -> None:
        """y = total = the extreme of total and every row of x."""
        y = f32(y)
        x = f32(x)
        total = f32(total)
        for r in range(rows):
            for i in range(0, n, lanes()):
                store_part(total, i, choose(load_part(total, i, n - i), load_part(x, r * n + i, n - i)), n - i)
        for i in range(0, n, lanes()):
            store_part(y, i, load_part(total, i, n - i), n - i)

    extreme.__name__ = extreme.__qualname__ = name
    return kernel(extreme)


max_over_time = _extreme("max_over_time", larger)
min_over_time = _extreme("min_over_time", smaller)

KINDS: dict[str, tuple[Callable[..., Any], float]] = {
    "ReduceSum": (sum_over_time, 0.0),
    "ReduceMean": (mean_over_time, 0.0),
    "ReduceMax": (max_over_time, -np.inf),
    "ReduceMin": (min_over_time, np.inf),
}
"""the reduction over time → its kernel and the total before the first frame"""


def over_time(node: Node) -> Node:
    """The node of a reduction over the time axis, or of the last step."""
    if node.op in KINDS:
        return Node("OverTime", node.name, node.inputs[:1], node.outputs, {"kind": node.op}, domain=OURS)
    return Node("Last", node.name, node.inputs[:1], node.outputs, {}, domain=OURS)


def _check(node: Node, env: Lowering) -> int:
    spec = env.specs[node.inputs[0]]
    if spec.dtype != np.float32:
        raise Refused(f"{node.inputs[0]!r} is {spec.dtype}; reductions over time take float32")
    return spec.elements


@register
class Last(Op):
    """The value at the last time step; made from Slice and Gather along time."""

    name = "Last"
    inputs = ("X",)
    internal = True

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        n = _check(node, env)
        kept = State(f"{node.name}.last", np.zeros(n, np.float32))
        return [Call(last_f32, (Value(node.outputs[0]), Value(node.inputs[0]), kept, Rows(of=node.inputs[0]), n))]


@register
class OverTime(Op):
    """The sum, mean, largest or smallest over time; made from reductions over the time axis."""

    name = "OverTime"
    inputs = ("X",)
    internal = True
    attributes = {"kind": REQUIRED}

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        n = _check(node, env)
        function, first = KINDS[self.attribute(node, "kind")]
        total = State(f"{node.name}.total", np.full(n, first, np.float32))
        count = State(f"{node.name}.count", np.zeros(1, np.float32))
        return [Call(function, (Value(node.outputs[0]), Value(node.inputs[0]), total, count, Rows(of=node.inputs[0]), n))]
