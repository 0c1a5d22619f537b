"""Shape, Size, Constant, ConstantOfShape and Range, which are usually folded at load."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.limits import check_constant
from tinyrnn.graph.op import REQUIRED, Array, Op, Refused, register

INT64 = np.dtype(np.int64)


@register
class Shape(Op):
    """ONNX Shape: known once the sizes are known; the fold pass never runs it on data."""

    name = "Shape"
    inputs = ("data",)
    outputs = ("shape",)
    attributes = {"start": 0, "end": None}
    of_shape = True
    known_only = True

    def from_spec(self, node: Node, spec: Spec) -> Array:
        return np.array(spec.sizes[self.attribute(node, "start") : self.attribute(node, "end")], np.int64)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (self.from_spec(node, Spec(arrays[0].dtype, arrays[0].shape)),)


@register
class Size(Shape):
    """ONNX Size."""

    name = "Size"
    outputs = ("size",)
    attributes = {}

    def from_spec(self, node: Node, spec: Spec) -> Array:
        return np.array(spec.elements, np.int64)


@register
class Constant(Op):
    """ONNX Constant; the frontend has turned its value into the attribute `value`."""

    name = "Constant"
    known_only = True
    inputs = ()
    outputs = ("output",)
    attributes = {"value": REQUIRED}

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        return (np.asarray(self.attribute(node, "value")),)


@register
class ConstantOfShape(Op):
    """ONNX ConstantOfShape."""

    name = "ConstantOfShape"
    known_only = True
    inputs = ("input",)
    outputs = ("output",)
    attributes = {"value": None}

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        value = self.attribute(node, "value")
        fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
        shape = tuple(int(n) for n in np.ravel(arrays[0]))
        if any(n < 0 for n in shape):
            raise Refused(f"shape {list(shape)} is absurd")
        check_constant(prod(shape) * fill.dtype.itemsize, f"{fill.dtype}{list(shape)}")
        return (np.full(shape, fill.ravel()[0], fill.dtype),)


@register
class Range(Op):
    """ONNX Range."""

    name = "Range"
    known_only = True
    inputs = ("start", "limit", "delta")
    outputs = ("output",)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        start, limit, delta = (np.asarray(a).ravel()[0] for a in arrays)
        with np.errstate(all="ignore"):
            count = abs((float(limit) - float(start)) / float(delta)) if delta else np.inf
        if not np.isfinite(count):
            raise Refused(f"from {start} to {limit} in steps of {delta} is absurd")
        check_constant(int(count) * start.dtype.itemsize, f"from {start} to {limit} in steps of {delta}")
        return (np.arange(start, limit, delta, dtype=np.asarray(arrays[0]).dtype),)
