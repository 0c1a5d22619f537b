"""Comparisons, logical operators, and Where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyrnn.graph.call import Lowering
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Refused, register
from tinyrnn.ops.elementwise.operators import Elementwise, define

define("Not", ("X",), np.logical_not, scalars={"b": "({0} == 0)"})
define("And", ("A", "B"), np.logical_and, scalars={"b": "({0} & {1})"})
define("Or", ("A", "B"), np.logical_or, scalars={"b": "({0} | {1})"})
define("Xor", ("A", "B"), np.logical_xor, scalars={"b": "({0} ^ {1})"})
define("BitwiseNot", ("X",), np.invert, scalars={"iu": "(~{0})"})
define("BitwiseAnd", ("A", "B"), np.bitwise_and, scalars={"iu": "({0} & {1})"})
define("BitwiseOr", ("A", "B"), np.bitwise_or, scalars={"iu": "({0} | {1})"})
define("BitwiseXor", ("A", "B"), np.bitwise_xor, scalars={"iu": "({0} ^ {1})"})
define("Equal", ("A", "B"), np.equal, scalars={"fiub": "({0} == {1})"}, result=bool)
define("Less", ("A", "B"), np.less, scalars={"fiu": "({0} < {1})"}, result=bool)
define("Greater", ("A", "B"), np.greater, scalars={"fiu": "({0} > {1})"}, result=bool)
define("LessOrEqual", ("A", "B"), np.less_equal, scalars={"fiu": "({0} <= {1})"}, result=bool)
define("GreaterOrEqual", ("A", "B"), np.greater_equal, scalars={"fiu": "({0} >= {1})"}, result=bool)
define("IsNaN", ("X",), np.isnan, scalars={"f": "({0} != {0})"}, result=bool)


def _is_infinite(x: Array, detect_negative: int, detect_positive: int) -> Array:
    return np.asarray((np.isposinf(x) & bool(detect_positive)) | (np.isneginf(x) & bool(detect_negative)))


define(
    "IsInf",
    ("X",),
    _is_infinite,
    scalars={"f": "(({0} == 1e999 and {detect_positive} != 0) or ({0} == -1e999 and {detect_negative} != 0))"},
    attributes={"detect_negative": 1, "detect_positive": 1},
    result=bool,
)


@register
class Where(Elementwise):
    """ONNX Where: X where the condition holds, else Y."""

    name = "Where"
    inputs = ("condition", "X", "Y")
    in_words = False

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        shape = super().infer(node, specs)[0].shape
        assert specs[1] is not None and specs[2] is not None
        if specs[1].dtype != specs[2].dtype:
            raise Refused(f"X is {specs[1].dtype} and Y is {specs[2].dtype}; ONNX has one type for both")
        return [Spec(specs[1].dtype, shape)]

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        return np.where(*arrays)

    def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
        condition, x, y = operands
        return f"({x} if {condition} else {y})"
