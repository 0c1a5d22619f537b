"""onnxruntime's pools of quantised values: means, rounded to integers again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import MICROSOFT, REQUIRED, Array, Refused, register
from tinyrnn.ops.quantized.elementwise import _Function, check_quantised
from tinyrnn.ops.quantized.integers import EXACT, check_zero, checked_scale, rounded, wide
from tinyrnn.ops.quantized.products import spec_at, specs_of
from tinyrnn.ops.quantized.written import Quantised, Written

LONGEST = 126
"""sizes that no length left open in a file is taken for: over longer axes a mean is divided by a number known at run time"""


@register
class QLinearGlobalAveragePool(Quantised):
    """The mean of a quantised value over all axes behind the channels: an exact sum, scaled once.

    Over an axis of more than 126 numbers the mean itself is scaled, and can be another integer at a tie.
    """

    name = "QLinearGlobalAveragePool"
    domain = MICROSOFT
    inputs = ("X", "x_scale", "x_zero_point", "y_scale", "y_zero_point")
    attributes: ClassVar[dict[str, Any]] = {"channels_last": 0}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_quantised(self, specs, 0, 1, 2)
        check_quantised(self, specs, None, 3, 4)
        x = specs[0]
        assert x is not None
        if self.attribute(node, "channels_last"):
            raise Refused("channels_last=1; supported is 0")
        check_zero("y_zero_point", spec_at(specs, 4), x.dtype)
        return [Spec(x.dtype, (*x.sizes[:2], *[1] * (len(x.shape) - 2)))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, x_scale, x_zero, y_scale, y_zero = (np.asarray(a) for a in arrays)
        self.infer(node, specs_of(arrays))
        axes = tuple(range(2, x.ndim))
        total = wide(x, x_zero).sum(axes, keepdims=True).astype(np.float32)
        count = np.float32(prod(x.shape[2:]))
        factor = checked_scale("x_scale", x_scale) / (checked_scale("y_scale", y_scale) * count)
        return (rounded(total * factor, y_zero, x.dtype),)

    def write(self, node: Node, made: Written) -> None:
        sizes = made.spec(node.inputs[0]).sizes
        axes = {"axes": list(range(2, len(sizes))), "keepdims": 1}
        value = made.arithmetic("Sub", made.integers(0), made.zero(2), "offset")
        count = prod(sizes[2:])
        if max(sizes[2:], default=1) <= LONGEST and count * 255 <= EXACT:
            total = made.make("ReduceSum", [value], "total", axes)
            by = made.arithmetic("Mul", made.scale(3), np.asarray(count, np.float32), "count")
        else:
            total, by = made.make("ReduceMean", [value], "mean", axes), made.scale(3)
        factor = made.arithmetic("Div", made.scale(1), by, "factor")
        made.quantize(total, factor, made.zero(4), node.outputs[0], "Requantize")


@register
class QLinearAveragePool(_Function):
    """AveragePool of a quantised value."""

    name = "QLinearAveragePool"
    float_op = "AveragePool"
    joined = True
    inputs = ("X", "x_scale", "x_zero_point?", "y_scale", "y_zero_point?")
    attributes: ClassVar[dict[str, Any]] = {
        "auto_pad": "NOTSET",
        "ceil_mode": 0,
        "channels_last": 0,
        "count_include_pad": 0,
        "kernel_shape": REQUIRED,
        "pads": None,
        "strides": None,
    }

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        if self.attribute(node, "channels_last"):
            raise Refused("channels_last=1; supported is 0")
        return super().infer(node, specs)
