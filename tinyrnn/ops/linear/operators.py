"""Matrix products by constant weights: Gemm and MatMul become `Linear`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Value, Weight
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import OURS, REQUIRED, Array, Axis, Frames, Op, Refused, register, rewrite
from tinyrnn.lanes import at, f32, fma, get, kernel, lanes, load, splat, store, store_part
from tinyrnn.lanes.chains import CHAINS, chain12

GROUP = 4
"""panels of LANES outputs whose weights are interleaved"""


def pack(matrix: Array, bias: Array | None, lanes: int, group: int = GROUP) -> Array:
    """Pack weights [K, M] and bias [M]: the bias, then groups of `group` panels, each [k][panel][lane]; zero-padded."""
    k, m = matrix.shape
    panels = -(-m // lanes)
    wide = np.zeros((k, panels * lanes), np.float32)
    wide[:, :m] = matrix
    start = np.zeros(panels * lanes, np.float32)
    if bias is not None:
        start[:m] = bias
    groups = [wide[:, first * lanes : (first + group) * lanes].ravel() for first in range(0, panels, group)]
    return np.concatenate([start, *groups])


def _linear_text(name: str, heights: Sequence[int]) -> str:
    """The kernel below: whole groups in blocks of `heights` rows by GROUP panels, whose sums stay in registers; the
    panels of the last, smaller group one by one."""
    lines = [
        f"def {name}(y, x, w, rows, x_row, K, M):",
        '    """y[r, j] = b[j] + sum over k of x[r, k] W[k, j]: one chain of fma in the order of k; w from `pack`."""',
        "    y, x, w = f32(y), f32(x), f32(w)",
        "    L = lanes()",
        "    panels = (M + L - 1) // L",
        f"    whole = panels // {GROUP} * {GROUP}",
        f"    for j in range(0, whole, {GROUP}):",
        *_blocks(heights, GROUP, f"{GROUP} * L"),
        "    for j in range(whole, panels):",
        *_blocks(heights, 1, "(panels - whole) * L"),
    ]
    return "\n".join(lines) + "\n"


def _blocks(heights: Sequence[int], group: int, stride: str) -> list[str]:
    """Lines for all rows by `group` panels from panel j on; `stride` elements from one k to the next."""
    start = "panels * L + j * L * K" if group == GROUP else "panels * L + whole * L * K + (j - whole) * L"
    lines = [f"first = {start}", "left = M - j * L", "b = at(w, j * L)", "r = 0"]
    for height in heights:
        names = [[f"s{row}{panel}" for panel in range(group)] for row in range(height)]
        lines.append(f"while r + {height} <= rows:")
        body = [f"x{row} = at(x, (r + {row}) * x_row)" for row in range(height)]
        body += [f"{names[0][panel]} = load(b, {f'{panel} * L' if panel else 0})" for panel in range(group)]
        body += [f"{names[row][panel]} = {names[0][panel]}" for row in range(1, height) for panel in range(group)]
        body += ["here = at(w, first)", "for k in range(K):"]
        body += [f"    w{panel} = load(here, {f'{panel} * L' if panel else 0})" for panel in range(group)]
        for row in range(height):
            body.append(f"    v = splat(get(x{row}, k))")
            body += [f"    {names[row][panel]} = fma(v, w{panel}, {names[row][panel]})" for panel in range(group)]
        body.append(f"    here = at(here, {stride})")
        for row in range(height):
            body.append(f"to = at(y, (r + {row}) * M + j * L)")
            for panel in range(group):
                offset, value = f"{panel} * L", names[row][panel]
                last = panel == group - 1
                body.append(f"store_part(to, {offset}, {value}, left - {offset})" if last else f"store(to, {offset}, {value})")
        lines += ["    " + line for line in [*body, f"r += {height}"]]
    return ["        " + line for line in lines]


def _linear(name: str, text: str) -> Callable[..., Any]:
    words = {w.__name__: w for w in (at, chain12, f32, fma, get, lanes, load, splat, store, store_part)}
    exec(text, words)
    function: Callable[..., Any] = words[name]
    function.__module__ = __name__
    return kernel(function)


def _linear_1_text() -> str:
    """The text for LANES = 1: CHAINS sums of a row at once, and those of the last, smaller group one by one."""
    sums = [f"s{n}" for n in range(CHAINS)]
    return "\n".join(
        [
            "def linear_1(y, x, w, rows, x_row, K, M):",
            '    """As `linear_32`."""',
            "    y, x, w = f32(y), f32(x), f32(w)",
            f"    whole = M // {CHAINS} * {CHAINS}",
            "    for r in range(rows):",
            "        row, to = at(x, r * x_row), at(y, r * M)",
            f"        for j in range(0, whole, {CHAINS}):",
            *(f"            {name} = load(w, j + {n})" for n, name in enumerate(sums)),
            f"            {', '.join(sums)} = chain12(at(w, M + j * K), row, K, {', '.join(sums)})",
            *(f"            store(to, j + {n}, {name})" for n, name in enumerate(sums)),
            "        for j in range(whole, M):",
            "            s0 = load(w, j)",
            "            here = at(w, M + whole * K + j - whole)",
            "            for k in range(K):",
            "                s0 = fma(splat(get(row, k)), load(here, k * (M - whole)), s0)",
            "            store(to, j, s0)",
        ]
    )


linear_32 = _linear("linear_32", _linear_text("linear_32", (4, 1)))
linear_16 = _linear("linear_16", _linear_text("linear_16", (2, 1)))
linear_1 = _linear("linear_1", _linear_1_text())


def linear_weights(matrix: Array, bias: Array | None, env: Lowering) -> Weight:
    """Weights [K, M] and bias [M], packed for `linear`."""
    return Weight(pack(matrix, bias, env.lanes, CHAINS if env.lanes == 1 else GROUP))


def linear(env: Lowering) -> Callable[..., Any]:
    """The kernel whose blocks fit the vector registers of the machine."""
    if env.lanes == 1:
        return linear_1
    return linear_32 if env.registers >= 32 else linear_16


@register
class Linear(Op):
    """Y = X W + B over the last axis of X; made from Gemm, MatMul and Add by constants."""

    name = "Linear"
    internal = True
    inputs = ("X",)
    attributes = {"W": REQUIRED, "B": None}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        weights = self.attribute(node, "W")
        if specs[0].shape[-1] != len(weights):
            raise Refused(f"its input {specs[0]} does not fit weights {list(weights.shape)}")
        return [Spec(specs[0].dtype, (*specs[0].shape[:-1], weights.shape[1]))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis in range(len(specs[node.inputs[0]].shape) - 1):
            yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        if frames.role(source, len(frames.specs[source].shape) - 1) is not None:
            raise Refused("it sums over the time or batch axis")
        return frames.node(node)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, weights, bias = arrays[0], self.attribute(node, "W"), self.attribute(node, "B")
        assert x is not None
        return (x @ weights.astype(x.dtype) + (0 if bias is None else bias.astype(x.dtype)),)

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        return prod(node.shapes[0][:-1]) * int(self.attribute(node, "W").size)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        weights, bias = self.attribute(node, "W"), self.attribute(node, "B")
        for name in (node.inputs[0], node.outputs[0]):
            if env.specs[name].dtype != np.float32:
                raise Refused(f"{name!r} is {env.specs[name].dtype}; matrix products take float32")
        k, m = weights.shape
        lead = prod(node.shapes[0][:-1])
        calls = []
        stride = env.row_stride(node.inputs[0])
        if lead == 1:
            places = [(Value(node.outputs[0]), Value(node.inputs[0]), Rows(), stride)]
        else:
            places = [(Value(node.outputs[0]), Value(node.inputs[0]), Rows(times=lead), k)]
        packed = linear_weights(weights, bias, env)
        for y, x, rows, x_row in places:
            calls.append(
                Call(
                    linear(env),
                    (y, x, packed, rows, x_row, k, m),
                    f"{node.outputs[0]} = {node.inputs[0]} · W[{k}, {m}]{' + B' if bias is not None else ''}",
                )
            )
        return calls


@rewrite
def to_linear(graph: Graph) -> None:
    """Rewrite Gemm and MatMul by constants as Linear, with alpha, beta, transposition and a following Add folded in."""
    consumers = graph.consumers()
    constants = graph.constants
    gone: set[int] = set()
    for node in graph.nodes:
        if node.domain or node.op not in ("MatMul", "Gemm") or node.inputs[1] not in constants:
            continue
        weights, bias = constants[node.inputs[1]], None
        if weights.ndim < 2 or prod(weights.shape[:-2]) != 1 or weights.ndim > len(graph.specs[node.inputs[0]].shape):
            continue
        weights = weights.reshape(weights.shape[-2:])
        if weights.dtype != np.float32:
            continue
        if node.op == "Gemm":
            attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **node.attributes}
            if attributes["transA"] or (len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in constants):
                continue
            weights = (weights.T if attributes["transB"] else weights) * np.float32(attributes["alpha"])
            if len(node.inputs) > 2 and node.inputs[2]:
                given = constants[node.inputs[2]] * np.float32(attributes["beta"])
                if given.ndim > 1 and prod(given.shape[:-1]) != 1:
                    continue
                bias = np.broadcast_to(given.reshape(given.shape[-1:]), weights.shape[1:])
        node.op, node.domain, node.inputs = "Linear", OURS, node.inputs[:1]
        node.attributes = {"W": np.ascontiguousarray(weights, np.float32), "B": bias}
        following = consumers.get(node.outputs[0], [])
        if bias is None and len(following) == 1 and following[0].op == "Add" and node.outputs[0] not in graph.outputs:
            add = following[0]
            other = add.inputs[0] if add.inputs[1] == node.outputs[0] else add.inputs[1]
            value = constants.get(other)
            if (
                value is not None
                and value.dtype == np.float32
                and prod(value.shape[:-1]) == 1
                and len(value.shape) <= len(graph.specs[node.outputs[0]].shape)
                and value.shape[-1:] in ((), (1,), weights.shape[1:])
            ):
                node.attributes["B"] = np.broadcast_to(value.reshape(value.shape[-1:]), weights.shape[1:])
                node.outputs = add.outputs
                gone.add(id(add))
    graph.nodes = [n for n in graph.nodes if id(n) not in gone]
