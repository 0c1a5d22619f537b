"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear: from floating numbers to integers with scales, and back.

Each computes in float32 what the specification says; a graph of them is not fused into integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.arrays import is_floating
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import MICROSOFT, OURS, Array, Refused, register
from tinyrnn.ops.elementwise.cast import dtype_of
from tinyrnn.ops.quantized import rounding  # noqa: F401  (registers them)
from tinyrnn.ops.quantized.integers import (
    check_zero,
    checked_scale,
    dequantized,
    is_float8,
    is_small,
    limits,
    rounded,
    spread,
    type_of,
)
from tinyrnn.ops.quantized.written import Operand, Quantised, Written


class _Scaled(Quantised):
    """Base of the operators with scales per tensor, per index of an axis, or per block."""

    outputs = ("y",)
    attributes: ClassVar[dict[str, Any]] = {"axis": 1, "block_size": 0, "output_dtype": 0}

    def axes_of(self, node: Node, specs: Sequence[Spec | None]) -> int | None:
        return None

    def check_shapes(self, node: Node, specs: Sequence[Spec | None]) -> None:
        """Raise `Refused` where scales or zero points do not fit the input."""
        x, scale, zero = (*specs, None)[:3]
        assert x is not None and scale is not None
        self.fitted(node, np.empty(scale.sizes, np.int8), x.sizes)
        if zero is not None and zero.sizes != scale.sizes and not zero.elements == scale.elements == 1:
            raise Refused(f"{self.inputs[2].strip('?')} has the shape {list(zero.shape)}, its scales {list(scale.shape)}")

    def fitted(self, node: Node, values: Array, shape: Sequence[int]) -> Array:
        return spread(values, shape, int(self.attribute(node, "axis")), int(self.attribute(node, "block_size")))

    def operand(self, node: Node, made: Written, operand: Operand) -> Operand:
        """Scales or zero points, aligned with the input."""
        shape = made.spec(node.inputs[0]).sizes
        if isinstance(operand, np.ndarray):
            return self.fitted(node, operand, shape)
        if self.attribute(node, "block_size") and made.spec(operand).elements > 1:
            raise Refused(f"block_size={self.attribute(node, 'block_size')} with scales that the model computes")
        return made.along(operand, int(self.attribute(node, "axis")), len(shape))

    def scales(self, node: Node, made: Written) -> Operand:
        return self.operand(node, made, made.scale(1))


@register
class DequantizeLinear(_Scaled):
    """ONNX DequantizeLinear: y = (x - x_zero_point) · x_scale, float8 where it is known at load."""

    name = "DequantizeLinear"
    inputs = ("x", "x_scale", "x_zero_point?")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x, scale, zero = (*specs, None)[:3]
        assert x is not None and scale is not None
        self.check_shapes(node, specs)
        check_zero("x_zero_point", zero, x.dtype)
        if not is_float8(x.dtype):
            limits(x.dtype)
        return [Spec(self._dtype(node, scale.dtype), x.shape)]

    def _dtype(self, node: Node, scale: np.dtype[Any]) -> np.dtype[Any]:
        code = int(self.attribute(node, "output_dtype"))
        return dtype_of(code) if code else scale

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, scale, zero = (*arrays, None)[:3]
        assert x is not None and scale is not None
        self.infer(node, [None if a is None else Spec(a.dtype, a.shape) for a in (x, scale, zero)])
        factor = self.fitted(node, checked_scale("x_scale", scale), x.shape)
        if is_float8(x.dtype):
            y = x.astype(np.float32) * factor
        else:
            y = dequantized(x, factor, None if zero is None else self.fitted(node, zero, x.shape))
        return (y.astype(self._dtype(node, scale.dtype)),)

    def write(self, node: Node, made: Written) -> None:
        if is_float8(made.spec(node.inputs[0]).dtype):
            raise Refused(f"its input is {made.spec(node.inputs[0]).dtype}; of float8 supported is what is known at load")
        offset = made.arithmetic("Sub", made.integers(0), self.operand(node, made, made.zero(2)), "offset")
        made.make("Mul", [offset, self.scales(node, made)], output=node.outputs[0])


@register
class QuantizeLinear(_Scaled):
    """ONNX QuantizeLinear: y = round(x / y_scale) + y_zero_point, ties to even, in range; float8 where it is known at load."""

    name = "QuantizeLinear"
    inputs = ("x", "y_scale", "y_zero_point?")
    attributes: ClassVar[dict[str, Any]] = {"axis": 1, "block_size": 0, "output_dtype": 0, "precision": 0, "saturate": 1}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x, _, zero = (*specs, None)[:3]
        assert x is not None
        self.check_shapes(node, specs)
        code = int(self.attribute(node, "output_dtype"))
        dtype = type_of(code) if code else zero.dtype if zero is not None else np.dtype(np.uint8)
        check_zero("y_zero_point", zero, dtype)
        if not is_small(dtype) and not is_float8(dtype):
            raise Refused(f"its output is {dtype}; supported are integers of up to 16 bits")
        if not is_floating(x.dtype) and x.dtype != np.int32:
            raise Refused(f"its input is {x.dtype}; supported are floating numbers and int32")
        return [Spec(dtype, x.shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, scale, zero = (*arrays, None)[:3]
        assert x is not None and scale is not None
        dtype = self.infer(node, [None if a is None else Spec(a.dtype, a.shape) for a in (x, scale, zero)])[0].dtype
        value = x.astype(np.float32) / self.fitted(node, checked_scale("y_scale", scale), x.shape)
        if is_float8(dtype):
            most = float(np.finfo(np.float32).max) if not self.attribute(node, "saturate") else _largest(dtype)
            return (np.clip(value, -most, most).astype(dtype),)
        offset = 0.0 if zero is None else self.fitted(node, zero.astype(np.float32), x.shape)
        return (rounded(value, offset, dtype),)

    def write(self, node: Node, made: Written) -> None:
        if is_float8(made.spec(node.outputs[0]).dtype):
            raise Refused(f"its output is {made.spec(node.outputs[0]).dtype}; of float8 supported is what is known at load")
        made.quantize(made.integers(0), self.scales(node, made), self.operand(node, made, made.zero(2)), node.outputs[0])


def _largest(dtype: np.dtype[Any]) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).max)


@register
class MicrosoftDequantizeLinear(DequantizeLinear):
    """As ONNX's operator of the name."""

    domain = MICROSOFT


@register
class MicrosoftQuantizeLinear(QuantizeLinear):
    """As ONNX's operator of the name."""

    domain = MICROSOFT


@register
class DynamicQuantizeLinear(Quantised):
    """ONNX DynamicQuantizeLinear: uint8, whose scale the largest and the smallest number of the tensor give.

    A tensor of numbers that are all 0 has the scale 1, as in onnxruntime. Over time the scale belongs to the whole
    sequence, so that the model runs whole and does not stream; a step model has a scale in every frame.
    """

    name = "DynamicQuantizeLinear"
    inputs = ("x",)
    outputs = ("y", "y_scale?", "y_zero_point?")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        if specs[0].dtype != np.float32:
            raise Refused(f"its input is {specs[0].dtype}; supported is float32")
        return [Spec(np.dtype(np.uint8), specs[0].shape), Spec(np.dtype(np.float32), ()), Spec(np.dtype(np.uint8), ())]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        x = arrays[0].astype(np.float32)
        low, high = np.minimum(x.min(initial=0), np.float32(0)), np.maximum(x.max(initial=0), np.float32(0))
        scale = np.float32(1) if low == high else (high - low) / np.float32(255)
        zero = rounded(np.asarray(-low / scale), 0.0, np.dtype(np.uint8))
        return rounded(x / scale, zero, np.dtype(np.uint8)), np.asarray(scale), zero

    def write(self, node: Node, made: Written) -> None:
        scale, zero = dynamic(made, node.inputs[0], *node.outputs[1:2])
        if len(node.outputs) > 2 and node.outputs[2]:
            made.whole(zero, node.outputs[2])
        if node.outputs[0]:
            made.quantize(node.inputs[0], scale, zero, node.outputs[0])


def dynamic(made: Written, x: str, output: str = "") -> tuple[str, str]:
    """The names of the scale and the zero point of uint8 for all numbers of a value."""
    every = {"axes": list(range(len(made.spec(x).shape))), "keepdims": 0}
    low, high = made.make("ReduceMin", [x], "smallest", every), made.make("ReduceMax", [x], "largest", every)
    scale = made.make("DynamicScale", [low, high], "scale", output=output, domain=OURS)
    return scale, made.make("DynamicZero", [low, scale], "zero", domain=OURS)
