"""Casts between the types that a value can have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.arrays import is_floating, is_narrow
from tinyrnn.graph.call import Call, Lowering, Rows, Value
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Axis, Frames, Op, Refused, register
from tinyrnn.ops.elementwise.half_precision import HALVES
from tinyrnn.ops.elementwise.scalars import conversion, pointer
from tinyrnn.ops.movement.strided_copy import pass_through

DType = np.dtype[Any]

ONNX_DTYPES = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}
"""TensorProto.DataType → NumPy"""


BFLOAT16 = 16
"""TensorProto.DataType of bfloat16, a type of the package ml_dtypes"""


def dtype_of(code: Any) -> DType:
    """The type of a TensorProto.DataType. Raises `Refused`."""
    if code == BFLOAT16:
        return bfloat16()
    if code not in ONNX_DTYPES:
        raise Refused(f"to={code} is not a type tinyrnn knows")
    return np.dtype(ONNX_DTYPES[code])


def bfloat16() -> DType:
    try:
        import ml_dtypes
    except ImportError:
        raise Refused("bfloat16 is a type that NumPy lacks; install ml_dtypes") from None
    found: DType = np.dtype(ml_dtypes.bfloat16)
    return found


def cast_to(dtype: DType, source: str, output: str) -> Node:
    """A node that casts `source` to `dtype` as `output`."""
    code = BFLOAT16 if dtype.name == "bfloat16" else next(k for k, v in ONNX_DTYPES.items() if v == dtype)
    return Node("Cast", output, (source,), (output,), {"to": code}, version=19)


def _through(dtype: DType) -> DType:
    """The integer type whose range bounds a floating number before its cast, as in onnxruntime on most inputs."""
    return np.dtype(np.int32 if dtype.itemsize < 4 else np.int64 if dtype == np.uint32 else dtype)


def converted(x: Array, dtype: DType) -> Array:
    """An array cast to another type by the rules of `Cast`."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not is_floating(x.dtype) or dtype.kind not in "iu":
            return x.astype(dtype)
        whole = np.trunc(np.where(np.isnan(x), 0.0, x.astype(np.float64)))
        if dtype == np.uint64:
            negative, positive = (np.where(whole < 0, whole, 0.0), np.where(whole > 0, whole, 0.0))
            return np.asarray(converted(negative, np.dtype(np.int64)).astype(dtype) + _bounded(positive, dtype))
        return _bounded(whole, _through(dtype)).astype(dtype)


def _bounded(whole: Array, dtype: DType) -> Array:
    """Integers in float64 as an integer type, the nearest one outside its range."""
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    above, below = whole >= float(high + 1), whole < float(low)
    inside = np.where(above | below, 0.0, whole).astype(dtype)
    return np.asarray(np.where(above, np.array(high, dtype), np.where(below, np.array(low, dtype), inside)))


def cast_text(value: str, before: DType, after: DType) -> str:
    """The text of a scalar cast, in words of the kernel language."""
    if before.kind == "f" and after == np.uint64:
        return f"saturated_u64({value})"
    if before.kind == "f" and after.kind in "iu":
        bounds = np.iinfo(_through(after))
        low, high = int(bounds.min), int(bounds.max)
        return f"{conversion(after)}(saturated({value}, {float(low)!r}, {float(high + 1)!r}, {low}, {high}))"
    return f"{conversion(after)}({value})"


@register
class Cast(Op):
    """ONNX Cast.

    A floating number becomes an integer by losing its fraction. Outside the range of int32 (types below 32 bits and
    int32) or of 64 bits (the others) it becomes the nearest integer there, NaN becomes 0; what is then too large for
    the type wraps around. An integer wraps around, and anything but 0 is true.
    """

    name = "Cast"
    moves = True
    inputs: ClassVar[tuple[str, ...]] = ("input",)
    outputs = ("output",)
    attributes: ClassVar[dict[str, Any]] = {"to": REQUIRED, "saturate": 1, "round_mode": "up", "same": False}

    def to(self, node: Node, specs: Sequence[Spec | None]) -> DType:
        """The type of the output."""
        return dtype_of(self.attribute(node, "to"))

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [Spec(self.to(node, specs), specs[0].shape)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield from pass_through(
            node, specs, node.inputs[0], node.outputs[0], {a: a for a in range(len(specs[node.inputs[0]].shape))}
        )

    def frame(self, node: Node, frames: Frames) -> Node:
        return frames.node(node)

    def alias(self, node: Node) -> str | None:
        return node.inputs[0] if node.attributes.get("same") else None

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        node.attributes["same"] = specs[0].dtype == self.to(node, specs)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (converted(arrays[0], self.to(node, [None if a is None else Spec(a.dtype, a.shape) for a in arrays])),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        before, after = env.specs[source].dtype, env.specs[output].dtype
        operands = (Value(output), Value(source), Rows(times=env.specs[output].elements))
        if is_narrow(before) or is_narrow(after):
            kernel = HALVES.get((before.name, after.name))
            if kernel is None:
                raise Refused(f"{before} to {after}; half precision is converted from and to float32")
            return [Call(kernel, operands, f"{output} = {source} as {after}")]
        text = (
            f"def KERNEL(y, x, n):\n    y, x = {pointer(output, after)}(y), {pointer(source, before)}(x)\n"
            f"    for i in range(n):\n        put(y, i, {cast_text('get(x, i)', before, after)})\n"
        )
        return [Call(text, operands, f"{output} = {source} as {after}")]


@register
class CastLike(Cast):
    """ONNX CastLike: a cast to the type of the second input."""

    name = "CastLike"
    inputs = ("input", "target_type")
    attributes = {"saturate": 1, "round_mode": "up", "same": False}

    def to(self, node: Node, specs: Sequence[Spec | None]) -> DType:
        assert specs[1] is not None
        return specs[1].dtype

    def frame(self, node: Node, frames: Frames) -> Node:
        framed = frames.node(node)
        framed.inputs, framed.shapes = framed.inputs[:1], framed.shapes[:1]
        return framed
