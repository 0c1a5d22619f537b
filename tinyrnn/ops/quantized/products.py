"""Products of integers: matrix products and convolutions whose int32 sums are exact, and what is scaled from them.

What is rounded to integers again equals onnxruntime's to the last one: float32(sum) times one float32 factor, ties to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import MICROSOFT, OURS, Array, Refused, register
from tinyrnn.ops.convolution.operators import Conv
from tinyrnn.ops.linear.matmul import MatMul
from tinyrnn.ops.quantized.exact import Sum, bound, convolution, matrix_product
from tinyrnn.ops.quantized.integers import check_one, check_zero, checked_scale, limits, rounded, wide
from tinyrnn.ops.quantized.quantize import DynamicQuantizeLinear, dynamic
from tinyrnn.ops.quantized.written import INT32, Operand, Quantised, Written

FLOAT = np.dtype(np.float32)
BYTES = (np.dtype(np.uint8), np.dtype(np.int8))


def spec_at(specs: Sequence[Spec | None], place: int) -> Spec | None:
    return specs[place] if place < len(specs) else None


def specs_of(arrays: Sequence[Array | None]) -> list[Spec | None]:
    return [None if a is None else Spec(a.dtype, a.shape) for a in arrays]


def check_integers(op: Quantised, specs: Sequence[Spec | None], *pairs: tuple[int, int | None]) -> None:
    """Raise `Refused` for (place of integers, place of their zero point) of other types than bytes, or of two types."""
    for place, zero in pairs:
        spec = spec_at(specs, place)
        assert spec is not None
        if spec.dtype not in BYTES:
            raise Refused(f"{op.inputs[place]} is {spec.dtype}; supported are int8 and uint8")
        if zero is not None:
            check_zero(op.inputs[zero].rstrip("?"), spec_at(specs, zero), spec.dtype)


def check_along(op: Quantised, specs: Sequence[Spec | None], size: int, *places: int) -> None:
    """Raise `Refused` for scales and zero points that are neither one number nor one for each of `size` outputs."""
    for place in places:
        spec = spec_at(specs, place)
        if spec is not None and spec.elements != 1 and spec.sizes[-1:] != (size,):
            raise Refused(f"{op.inputs[place].rstrip('?')} has the shape {list(spec.shape)}; supported are one number or {size}")


def column(made: Written, operand: Operand) -> Operand:
    """Zero points of the rows of a matrix, [M], as a column."""
    shape = operand.shape if isinstance(operand, np.ndarray) else made.spec(operand).sizes
    return made.along(operand, 0, 2) if len(shape) == 1 else operand


def without_zero(made: Written, place: int, zero: Operand) -> tuple[Operand, int]:
    """(integers less their zero point, the largest magnitude of those)."""
    dtype = made.spec(made.given(place)).dtype
    return made.arithmetic("Sub", made.integers(place), zero, "offset"), bound(dtype, zero)


def product(made: Written, a: int, a_zero: int, b: int, b_zero: int) -> Sum:
    """A B, by the places of the inputs."""
    zero = made.zero(a_zero)
    left, most = without_zero(made, a, column(made, zero))
    right, other = without_zero(made, b, made.zero(b_zero))
    return matrix_product(made, left, right, (most, other), None, (a, zero))


def factor(made: Written, *places: int) -> Operand:
    """The product of the first scales over the last, as onnxruntime rounds it."""
    total = made.scale(places[0])
    for place in places[1:-1]:
        total = made.arithmetic("Mul", total, made.scale(place), "factor")
    return made.arithmetic("Div", total, made.scale(places[-1]), "factor")


def scaled_sum(total: Array, scales: Array, zero: Array, dtype: np.dtype[Any]) -> Array:
    """Integers [..., N] times float32 scales, rounded to a type."""
    return rounded(total.astype(np.int32).astype(np.float32) * scales.astype(np.float32), zero, dtype)


@register
class MatMulInteger(Quantised):
    """ONNX MatMulInteger: the exact int32 product of integers without their zero points."""

    name = "MatMulInteger"
    inputs = ("A", "B", "a_zero_point?", "b_zero_point?")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_integers(self, specs, (0, 2), (1, 3))
        made = MatMul().infer(node, specs[:2])[0]
        check_along(self, specs, specs[1].sizes[-1] if specs[1] else 1, 3)
        return [Spec(INT32, made.shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, b, a_zero, b_zero = (*arrays, None, None)[:4]
        assert a is not None and b is not None
        self.infer(node, specs_of(arrays))
        if a_zero is not None and a_zero.ndim == 1 and a_zero.size > 1:
            a_zero = a_zero[:, None]
        return (np.matmul(wide(a, a_zero), wide(b, b_zero)).astype(np.int32),)

    def write(self, node: Node, made: Written) -> None:
        product(made, 0, 2, 1, 3).put(node.outputs[0])


@register
class QLinearMatMul(Quantised):
    """ONNX QLinearMatMul: the exact product, scaled and rounded to integers."""

    name = "QLinearMatMul"
    inputs = ("a", "a_scale", "a_zero_point", "b", "b_scale", "b_zero_point", "y_scale", "y_zero_point")
    outputs = ("y",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_integers(self, specs, (0, 2), (3, 5))
        made, y = MatMul().infer(node, [specs[0], specs[3]])[0], specs[7]
        assert y is not None and specs[3] is not None
        check_along(self, specs, specs[3].sizes[-1], 4, 5)
        for place in (1, 2, 6, 7):
            check_one(self.inputs[place], specs[place])
        if y.dtype not in BYTES:
            raise Refused(f"y_zero_point is {y.dtype}; supported are int8 and uint8")
        return [Spec(y.dtype, made.shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (np.asarray(array) for array in arrays)
        self.infer(node, specs_of(arrays))
        scales = [checked_scale(n, s) for n, s in (("a_scale", a_scale), ("b_scale", b_scale), ("y_scale", y_scale))]
        total = np.matmul(wide(a, a_zero), wide(b, b_zero))
        return (scaled_sum(total, scales[0] * scales[1] / scales[2], y_zero, y_zero.dtype),)

    def write(self, node: Node, made: Written) -> None:
        total = product(made, 0, 2, 3, 5)
        made.quantize(total.as_float(), factor(made, 1, 4, 6), made.zero(7), node.outputs[0], "Requantize")


class _Convolution(Quantised):
    """Base of the convolutions of integers: the attributes of Conv."""

    attributes: ClassVar[dict[str, Any]] = Conv.attributes

    def convolved(self, node: Node, x: Spec | None, w: Spec | None) -> Spec:
        return Conv().infer(Node("Conv", node.name, (), (), self.plain(node)), [x, w])[0]

    def plain(self, node: Node) -> dict[str, Any]:
        """The attributes of the Conv inside."""
        return {key: value for key, value in node.attributes.items() if key in Conv.attributes}

    def exact(self, node: Node, x: Array, w: Array) -> Array:
        """The sums in int64, by the reference of Conv: exact in float64."""
        plain = Node("Conv", node.name, (), (), self.plain(node))
        return np.rint(Conv().reference(plain, [x.astype(np.float64), w.astype(np.float64)])[0]).astype(np.int64)

    def sums(self, node: Node, made: Written, places: Sequence[int], bias: Array | None = None) -> Sum:
        """The convolution, by the places of x, its zero point, w and its zero point."""
        x, x_zero, w, w_zero = places
        left, most = without_zero(made, x, made.zero(x_zero))
        weights, zero = made.integers(w), made.zero(w_zero)
        if not isinstance(weights, np.ndarray) or not isinstance(zero, np.ndarray):
            raise Refused("its weights depend on the input; supported are constant weights")
        if isinstance(left, np.ndarray):
            left = made.constant(left)
        offset = zero.reshape(-1, *[1] * (weights.ndim - 1)) if zero.size > 1 else zero.reshape(())
        return convolution(made, left, weights - offset, most, self.plain(node), bias)


def along_outputs(values: Array, rank: int) -> Array:
    """Numbers of the outputs of a convolution, [M], or one number, aligned with its result."""
    return values.reshape(()) if values.size == 1 else values.reshape(-1, *[1] * (rank - 2))


@register
class ConvInteger(_Convolution):
    """ONNX ConvInteger: the exact int32 convolution of integers without their zero points, padded with the zero point."""

    name = "ConvInteger"
    inputs = ("x", "w", "x_zero_point?", "w_zero_point?")
    outputs = ("y",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_integers(self, specs, (0, 2), (1, 3))
        check_one("x_zero_point", spec_at(specs, 2))
        check_along(self, specs, specs[1].sizes[0] if specs[1] else 1, 3)
        return [Spec(INT32, self.convolved(node, specs[0], specs[1]).shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, w, x_zero, w_zero = (*arrays, None, None)[:4]
        assert x is not None and w is not None
        if w_zero is not None and w_zero.size > 1:
            w_zero = w_zero.reshape(-1, *[1] * (w.ndim - 1))
        return (self.exact(node, wide(x, x_zero), wide(w, w_zero)).astype(np.int32),)

    def write(self, node: Node, made: Written) -> None:
        self.sums(node, made, (0, 2, 1, 3)).put(node.outputs[0])


@register
class QLinearConv(_Convolution):
    """ONNX QLinearConv: the exact convolution with an int32 bias, scaled and rounded to integers."""

    name = "QLinearConv"
    inputs = ("x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point", "y_scale", "y_zero_point", "B?")
    outputs = ("y",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_integers(self, specs, (0, 2), (3, 5))
        y, w, bias = specs[7], specs[3], spec_at(specs, 8)
        assert y is not None and w is not None
        for place in (1, 2, 6, 7):
            check_one(self.inputs[place], specs[place])
        check_along(self, specs, w.sizes[0], 4, 5)
        if bias is not None and (bias.dtype != INT32 or bias.sizes != w.sizes[:1]):
            raise Refused(f"B is {bias}; supported is int32[{w.sizes[0]}]")
        if y.dtype not in BYTES:
            raise Refused(f"y_zero_point is {y.dtype}; supported are int8 and uint8")
        return [Spec(y.dtype, self.convolved(node, specs[0], w).shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (np.asarray(a) for a in arrays[:8])
        bias = arrays[8] if len(arrays) > 8 else None
        self.infer(node, specs_of(arrays))
        offset = w_zero.reshape(-1, *[1] * (w.ndim - 1)) if w_zero.size > 1 else w_zero.reshape(())
        total = self.exact(node, wide(x, x_zero), wide(w, offset))
        if bias is not None:
            total = total + along_outputs(bias, total.ndim)
        scales = [checked_scale(n, s) for n, s in (("x_scale", x_scale), ("w_scale", w_scale), ("y_scale", y_scale))]
        return (scaled_sum(total, along_outputs(scales[0] * scales[1] / scales[2], total.ndim), y_zero, y_zero.dtype),)

    def write(self, node: Node, made: Written) -> None:
        bias = made.known(8)
        if made.given(8) and bias is None:
            raise Refused("B depends on the input; supported is a constant bias")
        total = self.sums(node, made, (0, 2, 3, 5), bias)
        scales = made.along(factor(made, 1, 4, 6), 1, len(made.spec(node.outputs[0]).shape))
        made.quantize(total.as_float(), scales, made.zero(7), node.outputs[0], "Requantize")


@register
class QGemm(Quantised):
    """The exact product of matrices with an int32 C, scaled and rounded to integers, or float32 without y_scale."""

    name = "QGemm"
    domain = MICROSOFT
    inputs = ("A", "a_scale", "a_zero_point", "B", "b_scale", "b_zero_point", "C?", "y_scale?", "y_zero_point?")
    attributes: ClassVar[dict[str, Any]] = {"alpha": 1.0, "transA": 0, "transB": 0}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_integers(self, specs, (0, 2), (3, 5))
        a, b, c, y = specs[0], specs[3], spec_at(specs, 6), spec_at(specs, 8)
        assert a is not None and b is not None
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise Refused(f"{a} and {b}; supported are matrices")
        rows, k = a.sizes[::-1] if self.attribute(node, "transA") else a.sizes
        other, columns = b.sizes[::-1] if self.attribute(node, "transB") else b.sizes
        if k != other:
            raise Refused(f"{a} and {b} do not fit")
        check_along(self, specs, columns, 4, 5)
        for place in (1, 2, 7, 8):
            check_one(self.inputs[place].rstrip("?"), spec_at(specs, place))
        if c is not None and (c.dtype != INT32 or np.broadcast_shapes(c.sizes, (rows, columns)) != (rows, columns)):
            raise Refused(f"C is {c}; supported is int32 that broadcasts to [{rows}, {columns}]")
        if y is not None and y.dtype not in BYTES:
            raise Refused(f"y_zero_point is {y.dtype}; supported are int8 and uint8")
        return [Spec(FLOAT if y is None else y.dtype, (rows, columns))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, a_scale, a_zero, b, b_scale, b_zero = (np.asarray(array) for array in arrays[:6])
        c, y_scale, y_zero = (*arrays[6:], None, None, None)[:3]
        self.infer(node, specs_of(arrays))
        left = (a.T if self.attribute(node, "transA") else a).astype(np.int64) - a_zero
        right = (b.T if self.attribute(node, "transB") else b).astype(np.int64) - b_zero
        total = left @ right + (0 if c is None else c)
        scales = np.float32(self.attribute(node, "alpha")) * checked_scale("a_scale", a_scale) * checked_scale("b_scale", b_scale)
        if y_zero is None or y_scale is None:
            return (total.astype(np.float32) * scales,)
        return (scaled_sum(total, scales / checked_scale("y_scale", y_scale), y_zero, y_zero.dtype),)

    def write(self, node: Node, made: Written) -> None:
        left, most = without_zero(made, 0, made.zero(2))
        right, other = made.integers(3), made.zero(5)
        if self.attribute(node, "transA"):
            left = left.T if isinstance(left, np.ndarray) else made.make("Transpose", [left], "turned", {"perm": [1, 0]})
        if self.attribute(node, "transB"):
            right = right.T if isinstance(right, np.ndarray) else made.make("Transpose", [right], "turned", {"perm": [1, 0]})
        right = made.arithmetic("Sub", right, other, "offset")
        c = made.known(6)
        if (c is None and made.given(6)) or (c is not None and c.ndim > 1 and c.shape[0] != 1):
            raise Refused("C depends on the input or differs from row to row; supported are constants of the columns")
        columns = made.spec(node.outputs[0]).sizes[1]
        bias = None if c is None else np.broadcast_to(c.reshape(-1), (columns,))
        dtype = made.spec(made.given(3)).dtype
        raw = None if self.attribute(node, "transA") else (0, made.zero(2))
        total = matrix_product(made, left, right, (most, bound(dtype, other)), bias, raw)
        scales = made.arithmetic("Mul", np.asarray(self.attribute(node, "alpha"), np.float32), made.scale(1), "factor")
        scales = made.arithmetic("Mul", scales, made.scale(4), "factor")
        if not made.given(8):
            made.make("Mul", [total.as_float(), scales], output=node.outputs[0])
            return
        scales = made.arithmetic("Div", scales, made.scale(7), "factor")
        made.quantize(total.as_float(), scales, made.zero(8), node.outputs[0], "Requantize")


class _ToFloat(Quantised):
    """Base of the products of integers whose result is scaled to float32."""

    domain = MICROSOFT

    def scaled(self, made: Written, total: Sum, scales: Operand, bias: str) -> None:
        last = made.node.outputs[0]
        product = made.make("Mul", [total.as_float(), scales], "scaled" if bias else "", output="" if bias else last)
        if bias:
            made.make("Add", [product, bias], output=last)


@register
class MatMulIntegerToFloat(_ToFloat):
    """The exact product of integers, scaled to float32, with a bias."""

    name = "MatMulIntegerToFloat"
    inputs = ("A", "B", "a_scale", "b_scale", "a_zero_point?", "b_zero_point?", "bias?")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_integers(self, specs, (0, 4), (1, 5))
        assert specs[1] is not None
        check_along(self, specs, specs[1].sizes[-1], 3, 5, 6)
        check_one("a_scale", specs[2])
        check_one("a_zero_point", spec_at(specs, 4))
        return [Spec(FLOAT, MatMul().infer(node, specs[:2])[0].shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, b, a_scale, b_scale, a_zero, b_zero, bias = (*arrays, None, None, None)[:7]
        assert a is not None and b is not None and a_scale is not None and b_scale is not None
        total = np.matmul(wide(a, a_zero), wide(b, b_zero)).astype(np.float32)
        scaled = total * (checked_scale("a_scale", a_scale) * checked_scale("b_scale", b_scale))
        return (scaled + (0 if bias is None else bias.astype(np.float32)),)

    def write(self, node: Node, made: Written) -> None:
        scales = made.arithmetic("Mul", made.scale(2), made.scale(3), "factor")
        self.scaled(made, product(made, 0, 4, 1, 5), scales, made.given(6))


@register
class DynamicQuantizeMatMul(_ToFloat):
    """A product by integers of a tensor that is quantised as by DynamicQuantizeLinear, scaled to float32, with a bias."""

    name = "DynamicQuantizeMatMul"
    inputs = ("A", "B", "b_scale", "b_zero_point?", "bias?")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_integers(self, specs, (1, 3))
        assert specs[0] is not None and specs[1] is not None
        if specs[0].dtype != FLOAT:
            raise Refused(f"A is {specs[0].dtype}; supported is float32")
        check_along(self, specs, specs[1].sizes[-1], 2, 3, 4)
        return [Spec(FLOAT, MatMul().infer(node, specs[:2])[0].shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, b, b_scale, b_zero, bias = (*arrays, None, None)[:5]
        y, scale, zero = DynamicQuantizeLinear().reference(node, [a])
        return MatMulIntegerToFloat().reference(node, [y, b, scale, b_scale, zero, b_zero, bias])

    def write(self, node: Node, made: Written) -> None:
        scale, zero = dynamic(made, node.inputs[0])
        low, high = limits(np.dtype(np.uint8))
        attributes = {"low": float(low), "high": float(high)}
        whole = made.make("Quantize", [node.inputs[0], scale, zero], "whole", attributes, domain=OURS)
        right, other = without_zero(made, 1, made.zero(3))
        left = made.make("Sub", [whole, zero], "offset")
        total = matrix_product(made, left, right, (high, other), None, (whole, zero))
        self.scaled(made, total, made.arithmetic("Mul", scale, made.scale(2), "factor"), made.given(4))
