"""Constants stored as integers with scales become floating numbers at load; quantised arithmetic is not supported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import ADVICE, Array, Op, Refused, register
from tinyrnn.ops.elementwise.cast import dtype_of

NOT_RUN = (
    "it takes what is known at load alone: weights stored as integers. Quantised arithmetic is not run; "
    "load the float model that this one was made from"
)

QUANTISED = (
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "QLinearAdd",
    "QLinearMul",
    "QLinearSigmoid",
    "QGemm",
    "QAttention",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulNBits",
)
ADVICE.update(dict.fromkeys(QUANTISED, "quantised arithmetic is not run: load the float model that this one was made from"))


def spread(scale: Array, shape: Sequence[int], axis: int, block: int) -> Array:
    """Scales or zero points, per tensor, per index of an axis or per block, broadcast to `shape`."""
    if scale.size == 1 and scale.ndim <= 1:
        return np.broadcast_to(scale.reshape(()), shape)
    if not -len(shape) <= axis < len(shape):
        raise Refused(f"axis={axis} of a value of shape {list(shape)}")
    axis %= len(shape)
    if block:
        if scale.ndim != len(shape):
            raise Refused(f"block_size={block} with scales of shape {list(scale.shape)} for {list(shape)}")
        scale = np.take(np.repeat(scale, block, axis), np.arange(shape[axis]), axis)
    elif scale.shape == (shape[axis],):
        scale = scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    if scale.ndim not in (1, len(shape)) or (block and scale.shape != tuple(shape)):
        raise Refused(f"scales of shape {list(scale.shape)} do not fit {list(shape)} along axis {axis}")
    return np.broadcast_to(scale, shape)


class _Scaled(Op):
    outputs = ("y",)
    known_only = True

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        raise Refused(NOT_RUN)

    def axes_of(self, node: Node, specs: Sequence[Spec | None]) -> int | None:
        return None

    def scales(self, node: Node, x: Array, scale: Array, zero: Array | None) -> tuple[Array, Array]:
        """The scale and the zero point of every element, in float32."""
        axis, block = int(self.attribute(node, "axis")), int(self.attribute(node, "block_size"))
        zeros = np.zeros(scale.shape, np.float32) if zero is None else zero.astype(np.float32)
        wide = scale.astype(np.float32 if scale.dtype.itemsize < 8 else scale.dtype)
        return spread(wide, x.shape, axis, block), spread(zeros, x.shape, axis, block)


@register
class DequantizeLinear(_Scaled):
    """ONNX DequantizeLinear: y = (x - x_zero_point) · x_scale."""

    name = "DequantizeLinear"
    scales_integers = True
    inputs = ("x", "x_scale", "x_zero_point?")
    attributes: ClassVar[dict[str, Any]] = {"axis": 1, "block_size": 0, "output_dtype": 0}

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, scale, zero = (*arrays, None)[:3]
        assert x is not None and scale is not None
        factor, offset = self.scales(node, x, scale, zero)
        wide = x.astype(np.float64) if x.dtype.kind in "iu" and x.dtype.itemsize >= 4 else x.astype(np.float32)
        code = self.attribute(node, "output_dtype")
        return (((wide - offset) * factor).astype(dtype_of(code) if code else scale.dtype),)


@register
class QuantizeLinear(_Scaled):
    """ONNX QuantizeLinear: y = round(x / y_scale) + y_zero_point, ties to even, within the range of the type."""

    name = "QuantizeLinear"
    inputs = ("x", "y_scale", "y_zero_point?")
    attributes: ClassVar[dict[str, Any]] = {"axis": 1, "block_size": 0, "output_dtype": 0, "precision": 0, "saturate": 1}

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, scale, zero = (*arrays, None)[:3]
        assert x is not None and scale is not None
        code = self.attribute(node, "output_dtype")
        dtype = zero.dtype if zero is not None else dtype_of(code) if code else np.dtype(np.uint8)
        if dtype.kind not in "iu":
            raise Refused(f"its output is {dtype}; supported are integers of 8 bits and more")
        factor, offset = self.scales(node, x, scale, zero)
        bounds = np.iinfo(dtype)
        return (np.clip(np.rint(x.astype(factor.dtype) / factor) + offset, bounds.min, bounds.max).astype(dtype),)
