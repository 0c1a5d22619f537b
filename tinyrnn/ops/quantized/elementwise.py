"""onnxruntime's operators between quantised values, element by element: each number is scaled, and the result rounded again.

Sums and products are rounded with the zero point added, as onnxruntime's x86 kernels do: at a tie the even one is chosen
of the integers with their zero point. Its sigmoid is another approximation, and its integers can differ by one at a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import MICROSOFT, OURS, REQUIRED, Array, Op, Refused, op_of, register
from tinyrnn.ops.quantized.integers import check_one, check_zero, checked_scale, dequantized, is_small, limits, rounded
from tinyrnn.ops.quantized.products import spec_at, specs_of
from tinyrnn.ops.quantized.written import Operand, Quantised, Written

NO_ZERO, ONE = np.zeros((), np.float32), np.ones((), np.float32)


def check_quantised(op: Quantised, specs: Sequence[Spec | None], value: int | None, scale: int, zero: int) -> None:
    """Raise `Refused` where a value has no small integers, or more than one scale or zero point, by their places."""
    if value is not None:
        spec = spec_at(specs, value)
        assert spec is not None
        if not is_small(spec.dtype):
            raise Refused(f"{op.inputs[value]} is {spec.dtype}; supported are int8 and uint8")
        check_zero(op.inputs[zero].rstrip("?"), spec_at(specs, zero), spec.dtype)
    for place in (scale, zero):
        check_one(op.inputs[place].rstrip("?"), spec_at(specs, place))


def real(made: Written, value: int, scale: int, zero: int) -> Operand:
    """A quantised input as numbers, (x - zero) scale."""
    offset = made.arithmetic("Sub", made.integers(value), made.zero(zero), "offset")
    return made.arithmetic("Mul", offset, made.scale(scale), "real")


class _Binary(Quantised):
    """Base of the operators of two quantised values."""

    domain = MICROSOFT
    inputs = ("A", "A_scale", "A_zero_point?", "B", "B_scale", "B_zero_point?", "C_scale", "C_zero_point?")
    outputs = ("C",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_quantised(self, specs, 0, 1, 2)
        check_quantised(self, specs, 3, 4, 5)
        check_quantised(self, specs, None, 6, 7)
        a, b = specs[0], specs[3]
        assert a is not None and b is not None
        if a.dtype != b.dtype:
            raise Refused(f"A is {a.dtype} and B {b.dtype}; supported are two of one type")
        check_zero("C_zero_point", spec_at(specs, 7), a.dtype)
        return [Spec(a.dtype, np.broadcast_shapes(a.sizes, b.sizes))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        self.infer(node, specs_of(arrays))
        known = [NO_ZERO if a is None else a.astype(np.float32) for a in (*arrays, None)[:8]]
        for place in (1, 4, 6):
            checked_scale(self.inputs[place], known[place])
        made = self.combined(node, known)
        assert arrays[0] is not None
        return (rounded(made, 0.0, arrays[0].dtype),)

    def combined(self, node: Node, known: Sequence[Array]) -> Array:
        """The result before it is rounded, zero point included, in float32."""
        raise NotImplementedError

    def finish(self, made: Written, value: Operand) -> None:
        made.quantize(value, ONE, NO_ZERO, made.node.outputs[0], "Requantize")


@register
class QLinearAdd(_Binary):
    """The sum of two quantised values."""

    name = "QLinearAdd"

    def combined(self, node: Node, known: Sequence[Array]) -> Array:
        a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero = known
        first, second = a_scale / c_scale, b_scale / c_scale
        return np.asarray(((c_zero - (first * a_zero + second * b_zero)) + a * first) + b * second)

    def write(self, node: Node, made: Written) -> None:
        first, second = (made.arithmetic("Div", made.scale(place), made.scale(6), "ratio") for place in (1, 4))
        a_zero, b_zero = (made.arithmetic("Mul", r, made.zero(place), "zero") for r, place in ((first, 2), (second, 5)))
        fixed = made.arithmetic("Sub", made.zero(7), made.arithmetic("Add", a_zero, b_zero, "zero"), "fixed")
        total = made.arithmetic("Add", fixed, made.arithmetic("Mul", made.integers(0), first, "a"), "sum")
        self.finish(made, made.arithmetic("Add", total, made.arithmetic("Mul", made.integers(3), second, "b"), "sum"))


@register
class QLinearMul(_Binary):
    """The product of two quantised values."""

    name = "QLinearMul"

    def combined(self, node: Node, known: Sequence[Array]) -> Array:
        a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero = known
        return np.asarray(((a - a_zero) * (b - b_zero)) * (a_scale * b_scale / c_scale) + c_zero)

    def write(self, node: Node, made: Written) -> None:
        a, b = (made.arithmetic("Sub", made.integers(v), made.zero(z), "offset") for v, z in ((0, 2), (3, 5)))
        ratio = made.arithmetic("Div", made.arithmetic("Mul", made.scale(1), made.scale(4), "ratio"), made.scale(6), "ratio")
        scaled = made.arithmetic("Mul", made.arithmetic("Mul", a, b, "product"), ratio, "scaled")
        self.finish(made, made.arithmetic("Add", scaled, made.zero(7), "sum"))


class _Function(Quantised):
    """Base of the operators that dequantise, compute what `float_op` does, and quantise."""

    domain = MICROSOFT
    inputs: ClassVar[tuple[str, ...]] = ("X", "X_scale", "X_zero_point?", "Y_scale", "Y_zero_point?")
    float_op: ClassVar[str]
    joined: ClassVar[bool] = False
    """whether the zero point is added before rounding, which decides ties"""

    def plain(self, node: Node) -> Node:
        """The operator over floating numbers."""
        op: Op = op_of(Node(self.float_op, node.name, (), ()))
        kept = {key: value for key, value in node.attributes.items() if key in op.attributes}
        return Node(self.float_op, node.name, (), (), kept, 21)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_quantised(self, specs, 0, 1, 2)
        check_quantised(self, specs, None, 3, 4)
        x = specs[0]
        assert x is not None
        check_zero("Y_zero_point", spec_at(specs, 4), x.dtype)
        plain, real_spec = self.plain(node), Spec(np.dtype(np.float32), x.shape)
        op_of(plain).normalize(plain, [real_spec])
        return [Spec(x.dtype, op_of(plain).infer(plain, [real_spec])[0].shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, x_scale, x_zero, y_scale, y_zero = (*arrays, None)[:5]
        assert x is not None and x_scale is not None and y_scale is not None
        self.infer(node, specs_of(arrays))
        plain = self.plain(node)
        given = dequantized(x, checked_scale("X_scale", x_scale), x_zero)
        op_of(plain).normalize(plain, specs_of([given]))
        value = op_of(plain).reference(plain, [given])[0].astype(np.float32) / checked_scale("Y_scale", y_scale)
        zero = NO_ZERO if y_zero is None else y_zero.astype(np.float32)
        return (rounded(value + zero, 0.0, x.dtype) if self.joined else rounded(value, zero, x.dtype),)

    def write(self, node: Node, made: Written) -> None:
        value = made.make(self.float_op, [real(made, 0, 1, 2)], "value", self.plain(node).attributes)
        if self.joined:
            total = made.arithmetic("Add", made.arithmetic("Div", value, made.scale(3), "scaled"), made.zero(4), "sum")
            made.quantize(total, ONE, NO_ZERO, node.outputs[0], "Requantize")
        else:
            made.quantize(value, made.scale(3), made.zero(4), node.outputs[0])


@register
class QLinearSigmoid(_Function):
    """The sigmoid of a quantised value."""

    name = "QLinearSigmoid"
    float_op = "Sigmoid"


@register
class QLinearLeakyRelu(_Function):
    """LeakyRelu of a quantised value."""

    name = "QLinearLeakyRelu"
    float_op = "LeakyRelu"
    attributes: ClassVar[dict[str, Any]] = {"alpha": 0.01}


@register
class QLinearSoftmax(_Function):
    """Softmax of a quantised value; `opset` is that of the Softmax meant. onnxruntime's integers can differ by one."""

    name = "QLinearSoftmax"
    float_op = "Softmax"
    inputs = ("X", "X_scale", "x_zero_point?", "y_scale", "y_zero_point")
    attributes: ClassVar[dict[str, Any]] = {"axis": -1, "opset": REQUIRED}

    def plain(self, node: Node) -> Node:
        return Node(self.float_op, node.name, (), (), {"axis": int(self.attribute(node, "axis"))}, 21)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        made = super().infer(node, specs)
        opset, axis, rank = self.attribute(node, "opset"), int(self.attribute(node, "axis")), len(made[0].shape)
        if opset is not None and opset < 13 and axis % rank != rank - 1:
            raise Refused(f"axis={axis} with opset={opset}; supported is the last axis")
        return made


@register
class QLinearConcat(Quantised):
    """Concat of quantised values with scales of their own: those that differ from the result's are rounded anew."""

    name = "QLinearConcat"
    domain = MICROSOFT
    inputs = ("Y_scale", "Y_zero_point", "inputs*")
    attributes: ClassVar[dict[str, Any]] = {"axis": REQUIRED}

    def _parts(self, specs: Sequence[Spec | None]) -> list[tuple[int, int, int]]:
        """The places of every value, its scale and its zero point."""
        if len(specs) < 5 or (len(specs) - 2) % 3:
            raise Refused(f"{len(specs) - 2} inputs after Y_zero_point; supported are values, each with scale and zero point")
        return [(place, place + 1, place + 2) for place in range(2, len(specs), 3)]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        y = specs[1]
        assert y is not None
        for place in (0, 1):
            check_one(self.inputs[place], specs[place])
        values = []
        for value, scale, zero in self._parts(specs):
            x = specs[value]
            assert x is not None
            if x.dtype != y.dtype:
                raise Refused(f"an input is {x.dtype} and Y_zero_point {y.dtype}; supported are values of one type")
            check_zero("a zero point", specs[zero], x.dtype)
            check_one("a scale", specs[scale])
            values.append(x)
        return op_of(self._plain(node)).infer(self._plain(node), values)

    def _plain(self, node: Node) -> Node:
        return Node("Concat", node.name, (), (), {"axis": self.attribute(node, "axis")}, 13)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        given = [np.asarray(a) for a in arrays]
        self.infer(node, specs_of(given))
        y_scale, dtype, parts = checked_scale("Y_scale", given[0]), given[1].dtype, []
        for value, scale, zero in self._parts(specs_of(given)):
            parts.append(rounded(dequantized(given[value], given[scale], given[zero]) / y_scale, given[1], dtype))
        return (np.concatenate(parts, self.attribute(node, "axis")),)

    def write(self, node: Node, made: Written) -> None:
        low, high = limits(made.spec(node.outputs[0]).dtype)
        bounds = {"low": float(low), "high": float(high)}
        parts: list[Operand] = []
        for value, scale, zero in self._parts([None] * len(node.inputs)):
            alike = [(made.known(a), made.known(b)) for a, b in ((scale, 0), (zero, 1))]
            if all(a is not None and b is not None and np.array_equal(a.ravel(), b.ravel()) for a, b in alike):
                parts.append(made.integers(value))
                continue
            given = [real(made, value, scale, zero), made.scale(0), made.zero(1)]
            parts.append(made.make("Quantize", given, "part", bounds, domain=OURS))
        made.whole(made.make("Concat", parts, "whole", {"axis": self.attribute(node, "axis")}), node.outputs[0])


@register
class QLinearWhere(Quantised):
    """Where of two quantised values with scales of their own, which are rounded to the result's."""

    name = "QLinearWhere"
    domain = MICROSOFT
    inputs = ("condition", "X", "x_scale", "x_zero_point", "Y", "y_scale", "y_zero_point", "z_scale", "z_zero_point")
    outputs = ("Z",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        check_quantised(self, specs, 1, 2, 3)
        check_quantised(self, specs, 4, 5, 6)
        condition, x, y, z = specs[0], specs[1], specs[4], specs[8]
        assert condition is not None and x is not None and y is not None and z is not None
        if not x.dtype == y.dtype == z.dtype:
            raise Refused(f"X is {x.dtype}, Y {y.dtype}, z_zero_point {z.dtype}; supported are values of one type")
        return [Spec(z.dtype, np.broadcast_shapes(condition.sizes, x.sizes, y.sizes))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = (np.asarray(a) for a in arrays)
        self.infer(node, specs_of(arrays))
        wanted = checked_scale("z_scale", z_scale)
        first = rounded(dequantized(x, x_scale, x_zero) / wanted, z_zero, z_zero.dtype)
        second = rounded(dequantized(y, y_scale, y_zero) / wanted, z_zero, z_zero.dtype)
        return (np.where(condition, first, second),)

    def write(self, node: Node, made: Written) -> None:
        low, high = limits(made.spec(node.outputs[0]).dtype)
        bounds = {"low": float(low), "high": float(high)}
        x, y = (
            made.make("Quantize", [real(made, *places), made.scale(7), made.zero(8)], "part", bounds, domain=OURS)
            for places in ((1, 2, 3), (4, 5, 6))
        )
        made.whole(made.make("Where", [node.inputs[0], x, y], "whole"), node.outputs[0])
