"""Rounding of float32 to the integers of a type, which stay in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Value, literal
from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import REQUIRED, Array, register
from tinyrnn.lanes import Vec, equal, kernel, less, round_even, select, splat
from tinyrnn.lanes.functions import at_least, at_most
from tinyrnn.ops.elementwise.cast import Cast
from tinyrnn.ops.elementwise.operators import Elementwise
from tinyrnn.ops.elementwise.scalars import conversion, pointer


@kernel
def whole_number(x: Vec, zero: Vec, low: Vec, high: Vec) -> Vec:
    """The nearest integer, ties to even, plus `zero`, from `low` to `high`; NaN gives `low`, as in onnxruntime."""
    least = low - zero
    return round_even(at_most(select(less(least, x), x, least), high - zero)) + zero


@kernel
def dynamic_scale(low: Vec, high: Vec) -> Vec:
    """(high - low) / 255, 1 where that is 0."""
    width = at_least(high, splat(0.0)) - at_most(low, splat(0.0))
    return select(equal(width, splat(0.0)), splat(1.0), width / splat(255.0))


@register
class Quantize(Elementwise):
    """round(X / scale) + zero, ties to even, from `low` to `high`; made from operators that quantise."""

    name = "Quantize"
    internal = True
    inputs = ("X", "scale", "zero")
    attributes: ClassVar[dict[str, Any]] = {"low": REQUIRED, "high": REQUIRED}
    sign: ClassVar[str] = "/"

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        x, scale, zero = (a.astype(np.float32) for a in arrays)
        low, high = (np.float32(self.attribute(node, key)) for key in ("low", "high"))
        value = x / scale if self.sign == "/" else x * scale
        return np.asarray(np.rint(np.minimum(np.where(value > low - zero, value, low - zero), high - zero)) + zero)

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        x, scale, zero = operands
        bounds = f"{literal(self.attribute(node, 'low'))}, {literal(self.attribute(node, 'high'))}"
        return f"whole_number({x} {self.sign} {scale}, {zero}, {bounds})"


@register
class Requantize(Quantize):
    """round(X · factor) + zero, as `Quantize`; made from operators between quantised values."""

    name = "Requantize"
    inputs = ("X", "factor", "zero")
    sign = "*"


@register
class AsInteger(Cast):
    """Whole numbers in float32 as integers of a type that holds them: a cast that needs no bounds, nor 64 bits."""

    name = "AsInteger"
    internal = True

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        output, dtype = node.outputs[0], env.specs[node.outputs[0]].dtype
        text = (
            f"def KERNEL(y, x, n):\n    y, x = {pointer(output, dtype)}(y), f32(x)\n"
            f"    for i in range(n):\n        put(y, i, {conversion(dtype)}(as_i32(get(x, i))))\n"
        )
        return [Call(text, (Value(output), Value(node.inputs[0]), Rows(times=env.specs[output].elements)), f"{output} whole")]


@register
class DynamicScale(Elementwise):
    """The scale of uint8 for values from `low` to `high` and 0; made from DynamicQuantizeLinear."""

    name = "DynamicScale"
    internal = True
    inputs = ("low", "high")

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        low, high = np.minimum(arrays[0], 0), np.maximum(arrays[1], 0)
        return np.asarray(np.where(high == low, 1, (high - low) / 255))

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        return f"dynamic_scale({', '.join(operands)})"


@register
class DynamicZero(Elementwise):
    """The zero point of uint8 for values from `low` on, with a scale; made from DynamicQuantizeLinear."""

    name = "DynamicZero"
    internal = True
    inputs = ("low", "scale")

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        return np.asarray(np.rint(np.clip(-np.minimum(arrays[0], 0) / arrays[1], 0, 255)))

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        low, scale = operands
        return f"whole_number(splat(0.0) - at_most({low}, splat(0.0)) / {scale}, splat(0.0), splat(0.0), splat(255.0))"
