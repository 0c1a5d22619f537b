"""Matrix products by constant weights: Gemm and MatMul become `Linear`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Value, Weight
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import OURS, REQUIRED, Array, Axis, Frames, Op, Refused, register, rewrite
from tinyrnn.graph.storage import cast, quantises, ratios
from tinyrnn.lanes.chains import CHAINS, chain_word
from tinyrnn.ops.linear.integers import IntegerWeights
from tinyrnn.ops.linear.texts import WORDS, chained, suffix, written, written_later

GROUP = 4
"""panels of LANES outputs whose weights are interleaved"""
SHARED_FROM = 1 << 16
"""multiply-adds of a row from which the threads of a crew share a product: below, waiting for each other costs more"""
HEIGHTS = {32: (4, 1), 16: (2, 1)}
"""rows in a block, by the number of vector registers"""


def pack(matrix: Array, lanes: int, group: int = GROUP) -> Array:
    """Weights [K, M] in groups of `group` panels, each [k][panel][lane]; zero-padded."""
    k, m = matrix.shape
    panels = -(-m // lanes)
    wide = np.zeros((k, panels * lanes), matrix.dtype)
    wide[:, :m] = matrix
    return np.concatenate([wide[:, first * lanes : (first + group) * lanes].ravel() for first in range(0, panels, group)])


def pack_rest(m: int, lanes: int, bias: Array | None = None, scale: Array | None = None, then: Array | None = None) -> Array:
    """What goes with weights [K, M]: where sums start, the bias [M] by the first scale; then the factors after each group of k.

    scale: [M, groups] of int8 weights
    then:  [M], the units in which sums are left; 1 by default
    """
    start = np.zeros(m, np.float32) if bias is None else bias
    rows = [start]
    if scale is not None:
        rows = [ratios(start, scale[:, 0])]
        following = [*scale.T[1:], np.ones(m, np.float32) if then is None else then]
        rows += [ratios(each, after) for each, after in zip(scale.T, following, strict=True)]
    padded = np.zeros((len(rows), -(-m // lanes) * lanes), np.float32)
    padded[:, :m] = rows
    return padded.ravel()


def _linear_text(name: str, word: str, heights: Sequence[int], shared: bool = False) -> str:
    """The kernel below: whole groups in blocks of `heights` rows by GROUP panels, whose sums stay in registers; the
    panels of the last, smaller group one by one. If `shared`, those of groups `low` to before `high`, the smaller one last."""
    each, pieces = ", each" if word == "i8" else "", ", low, high, turn" if shared else ""
    some = f"range(low * {GROUP}, min(whole, high * {GROUP}), {GROUP})" if shared else f"range(0, whole, {GROUP})"
    rest = f"range(whole, panels if high * {GROUP} > whole else whole)" if shared else "range(whole, panels)"
    lines = [
        f"def {name}(y, x, w, b, rows, x_row, K, M{each}{pieces}):",
        '    """y[r, j] = b[j] + sum over k of x[r, k] W[k, j]: one chain of fma in the order of k, which is multiplied by',
        '    a factor after `each` of int8 weights; w from `pack`, b from `pack_rest`."""',
        f"    y, x, w, b = f32(y), f32(x), {word}(w), f32(b)",
        "    L = lanes()",
        "    panels = (M + L - 1) // L",
        f"    whole = panels // {GROUP} * {GROUP}",
        f"    for j in {some}:",
        *_blocks(word, heights, GROUP, f"{GROUP} * L"),
        f"    for j in {rest}:",
        *_blocks(word, heights, 1, "(panels - whole) * L"),
    ]
    return "\n".join(lines) + "\n"


def _blocks(word: str, heights: Sequence[int], group: int, stride: str) -> list[str]:
    """Lines for all rows by `group` panels from panel j on; `stride` elements from one k to the next."""
    start = "j * L * K" if group == GROUP else "whole * L * K + (j - whole) * L"
    lines = [f"first = {start}", "left = M - j * L", "c = at(b, j * L)", "r = 0"]
    for height in heights:
        names = [[f"s{row}{panel}" for panel in range(group)] for row in range(height)]
        lines.append(f"while r + {height} <= rows:")
        body = [f"x{row} = at(x, (r + {row}) * x_row)" for row in range(height)]
        body += [f"{names[0][panel]} = load(c, {f'{panel} * L' if panel else 0})" for panel in range(group)]
        body += [f"{names[row][panel]} = {names[0][panel]}" for row in range(1, height) for panel in range(group)]
        body.append("here = at(w, first)")
        products = [f"w{panel} = load(here, {f'{panel} * L' if panel else 0})" for panel in range(group)]
        for row in range(height):
            products.append(f"v = splat(get(x{row}, k))")
            products += [f"{names[row][panel]} = fma(v, w{panel}, {names[row][panel]})" for panel in range(group)]
        products.append(f"here = at(here, {stride})")
        sums = [names[row][panel] for panel in range(group) for row in range(height)]
        factor = f"load(c, ((q + 1) * panels + {{n}} // {height}) * L)"
        body += chained(word, products, sums, "K", factor, "each")
        for row in range(height):
            body.append(f"to = at(y, (r + {row}) * M + j * L)")
            for panel in range(group):
                offset, value = f"{panel} * L", names[row][panel]
                last = panel == group - 1
                body.append(f"store_part(to, {offset}, {value}, left - {offset})" if last else f"store(to, {offset}, {value})")
        lines += ["    " + line for line in [*body, f"r += {height}"]]
    return ["        " + line for line in lines]


def _linear_1_text(name: str, word: str) -> str:
    """The text for LANES = 1: CHAINS sums of a row at once, and those of the last, smaller group one by one."""
    sums, chain = [f"s{n}" for n in range(CHAINS)], chain_word(word)
    count = "min(K, q * each + each) - q * each" if word == "i8" else "K"
    k = "q * each" if word == "i8" else "0"
    many = [f"{', '.join(sums)} = {chain}(at(w, j * K + {k} * {CHAINS}), at(row, {k}), {count}, {', '.join(sums)})"]
    if word == "i8":
        many = [
            "for q in range((K + each - 1) // each):",
            *("    " + line for line in many),
            *(f"    {name} = {name} * load(b, (q + 1) * M + j + {n})" for n, name in enumerate(sums)),
        ]
    one = ["s0 = fma(splat(get(row, k)), load(here, k * (M - whole)), s0)"]
    return "\n".join(
        [
            f"def {name}(y, x, w, b, rows, x_row, K, M{', each' if word == 'i8' else ''}):",
            '    """As `linear_32`."""',
            f"    y, x, w, b = f32(y), f32(x), {word}(w), f32(b)",
            f"    whole = M // {CHAINS} * {CHAINS}",
            "    for r in range(rows):",
            "        row, to = at(x, r * x_row), at(y, r * M)",
            f"        for j in range(0, whole, {CHAINS}):",
            *(f"            {name} = load(b, j + {n})" for n, name in enumerate(sums)),
            *("            " + line for line in many),
            *(f"            store(to, j + {n}, {name})" for n, name in enumerate(sums)),
            "        for j in range(whole, M):",
            "            s0 = load(b, j)",
            "            here = at(w, whole * K + j - whole)",
            *("            " + line for line in chained(word, one, ["s0"], "K", "load(b, (q + 1) * M + j)", "each")),
            "            store(to, j, s0)",
        ]
    )


TEXTS = {f"linear_{n}": partial(_linear_text, heights=heights) for n, heights in HEIGHTS.items()} | {"linear_1": _linear_1_text}
"""kernel for float32 → function of a name and a storage type that writes it"""
linear_32, linear_16, linear_1 = (written(__name__, name, text(name, "f32")) for name, text in TEXTS.items())


def __getattr__(name: str) -> Any:
    return written_later(__name__, name, TEXTS)


def linear_weights(
    env: Lowering, matrix: Array, word: str, bias: Array | None = None, scale: Array | None = None, then: Array | None = None
) -> tuple[Weight, Weight]:
    """Weights [K, M] in a storage type, and what goes with them as for `pack_rest`, packed for `linear`."""
    packed = pack(matrix, env.lanes, CHAINS if env.lanes == 1 else GROUP)
    return Weight(cast(word, packed)), Weight(pack_rest(matrix.shape[1], env.lanes, bias, scale, then))


def linear_call(env: Lowering, word: str, operands: tuple[Operand, ...], note: str) -> Call:
    """The call of `linear` with its operands, which a crew shares where it is large."""
    K, M = operands[6:8]
    assert isinstance(K, int) and isinstance(M, int)
    if not env.crew or env.lanes == 1 or word not in WORDS or K * M < SHARED_FROM:
        return Call(linear(env, word), operands, note)
    groups = -(-M // (env.lanes * GROUP))
    return Call(_linear_text("KERNEL", word, HEIGHTS[32 if env.registers >= 32 else 16], shared=True), operands, note, groups)


def linear(env: Lowering, word: str = "f32") -> Callable[..., Any]:
    """The kernel whose blocks fit the vector registers of the machine."""
    name = f"linear_{1 if env.lanes == 1 else 32 if env.registers >= 32 else 16}"
    kernel: Callable[..., Any] = getattr(sys.modules[__name__], name + suffix(word))
    return kernel


@register
class Linear(Op):
    """Y = X W + B over the last axis of X; made from Gemm, MatMul and Add by constants."""

    name = "Linear"
    internal = True
    inputs = ("X",)
    attributes = {"W": REQUIRED, "B": None}
    storages = (*Op.storages, "int8x8")

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

    def summed(self, node: Node) -> dict[str, tuple[int, ...]]:
        return {"W": (0,)}

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
        note = f"{node.outputs[0]} = {node.inputs[0]} · W[{k}, {m}]{' + B' if bias is not None else ''}"
        if lead == 1:
            places = [(Value(node.outputs[0]), Value(node.inputs[0]), Rows(), stride)]
        else:
            places = [(Value(node.outputs[0]), Value(node.inputs[0]), Rows(times=lead), k)]
        held = self.stored(node, env, {"W": weights})["W"]
        if quantises(node.attributes) and held.scale is not None:
            made = IntegerWeights(held.values.T, held.scale[:, 0], bias, "quantise_int8")
            return [made.call(env, *places[0], node.outputs[0], note)]
        packed, rest = linear_weights(env, held.values.T, held.word, bias, held.scale)
        each = () if held.scale is None else (held.group,)
        for y, x, rows, x_row in places:
            calls.append(
                linear_call(
                    env,
                    held.word,
                    (y, x, packed, rest, rows, x_row, k, m, *each),
                    note,
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
