"""Products of quantised numbers by int8 weights, by what machines have for dot products of int8."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Value
from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import OURS, REQUIRED, Array, register
from tinyrnn.lanes.dots import LONGEST
from tinyrnn.ops.linear.integers import IntegerWeights
from tinyrnn.ops.linear.operators import Linear
from tinyrnn.ops.quantized.integers import EXACT
from tinyrnn.ops.quantized.written import Operand, Written

WARP = 32
"""lanes of a target that has no dot products of int8: there the product is one of float32, with the same bits"""
MIDDLE = 128
"""what is taken from uint8 to make it int8"""
LARGEST = 255
"""of the integers and of their zero points"""


@register
class WholeLinear(Linear):
    """Y = X W, exactly, for whole numbers in float32: X of int8 or uint8, W [K, M] of int8; made from products of integers."""

    name = "WholeLinear"
    attributes: ClassVar[dict[str, Any]] = {"W": REQUIRED, "B": None, "signed": REQUIRED}
    storages = ("int8",)

    def summed(self, node: Node) -> dict[str, tuple[int, ...]]:
        return {}

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        if env.lanes == WARP:
            plain = Node(
                Linear.name, node.name, node.inputs, node.outputs, dict(node.attributes), domain=OURS, shapes=node.shapes
            )
            return Linear().lower(plain, env)
        weights, signed = self.attribute(node, "W"), self.attribute(node, "signed")
        source, output, lead = node.inputs[0], node.outputs[0], prod(node.shapes[0][:-1])
        k, m = weights.shape
        bias = None if signed else MIDDLE * weights.sum(0)
        made = IntegerWeights(
            weights.astype(np.int8), np.ones(m, np.float32), bias, "quantise_whole" if signed else "quantise_bytes"
        )
        rows, stride = (Rows(), env.row_stride(source)) if lead == 1 else (Rows(times=lead), k)
        return [made.call(env, Value(output), Value(source), rows, stride, output, f"{output} = {source} · W[{k}, {m}]")]


def whole_product(made: Written, x: int | str, zero: Operand, weights: Array) -> str | None:
    """The exact product of integers, less their zero point, by weights [K, M]; None where the kernel cannot do it.

    x: the place of the input of int8 or uint8, or the name of uint8 as whole numbers in float32
    """
    one = zero.size == 1 if isinstance(zero, np.ndarray) else made.spec(zero).elements == 1
    sums = np.abs(weights).sum(0, dtype=np.float64).max(initial=0.0) if weights.ndim == 2 else EXACT
    if (isinstance(x, int) and made.known(x) is not None) or not one or len(weights) > LONGEST or sums * LARGEST > EXACT:
        return None
    if weights.min() < -MIDDLE or weights.max() >= MIDDLE:
        return None
    signed = isinstance(x, int) and made.spec(made.given(x)).dtype == np.int8
    source = made.as_float(made.given(x)) if isinstance(x, int) else x
    attributes = {"W": np.ascontiguousarray(weights, np.float32), "B": None, "signed": signed}
    total = made.make(WholeLinear.name, [source], "product", attributes, domain=OURS)
    factor = zero.reshape(()) if isinstance(zero, np.ndarray) else zero
    offset = made.arithmetic("Mul", factor, weights.sum(0), "offset")
    if isinstance(offset, np.ndarray) and not offset.any():
        return total
    return made.make("Sub", [total, offset], "product")
