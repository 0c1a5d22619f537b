"""Arithmetic, element by element: on floating numbers as IEEE has it, on integers wrapping around (`scalars`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np

from tinyrnn.graph.call import Lowering, literal
from tinyrnn.graph.ir import Graph, Node, Spec, spec_of
from tinyrnn.graph.op import Array, Axis, Frames, Refused, register, rewrite
from tinyrnn.lanes.powers import power  # noqa: F401  (registers it)
from tinyrnn.ops.elementwise.operators import Elementwise, define


def _quotient(a: Array, b: Array) -> Array:
    """a / b, towards zero for integers, where n / 0 is 0."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    divisor = np.where(b == 0, np.ones_like(b), b)
    whole = np.floor_divide(a, divisor)
    rest = a - whole * divisor
    up = (rest != 0) & ((a < 0) != (divisor < 0))
    return np.where(b == 0, np.zeros_like(whole), whole + up.astype(whole.dtype))


def _rest(a: Array, b: Array, fmod: int) -> Array:
    """The remainder of a / b, with the sign of a (fmod) or of b; n % 0 is 0 for integers."""
    return np.asarray(np.fmod(a, b) if fmod else np.mod(a, b))


def _folded(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda *arrays: reduce(function, arrays)


define("Add", ("A", "B"), np.add, "({0} + {1})", {"fiu": "({0} + {1})"})
define("Sub", ("A", "B"), np.subtract, "({0} - {1})", {"fiu": "({0} - {1})"})
define("Mul", ("A", "B"), np.multiply, "({0} * {1})", {"fiu": "({0} * {1})"})
define(
    "Div",
    ("A", "B"),
    _quotient,
    "({0} / {1})",
    {"f": "({0} / {1})", "i": "quotient_i({0}, {1})", "u": "quotient_u({0}, {1})"},
)
define("Min", ("data_0*",), _folded(np.minimum), "smaller({0}, {1})", {"fiu": "smaller_of({0}, {1})"})
define("Max", ("data_0*",), _folded(np.maximum), "larger({0}, {1})", {"fiu": "larger_of({0}, {1})"})
define("Sum", ("data_0*",), _folded(np.add), "({0} + {1})", {"f": "({0} + {1})"})
define("Neg", ("X",), np.negative, "(-{0})", {"fi": "(-{0})"})
define("Abs", ("X",), np.abs, "absolute({0})", {"f": "abs({0})", "i": "({0} if {0} >= 0 else -{0})", "u": "{0}"})
define(
    "Sign",
    ("X",),
    np.sign,
    "select(less({0}, splat(0.0)), splat(-1.0), select(less(splat(0.0), {0}), splat(1.0), {0}))",
    {"f": "({0} if {0} == 0.0 or {0} != {0} else (1.0 if {0} > 0.0 else -1.0))", "iu": "({0} > 0) - ({0} < 0)"},
)


@register
class Mean(Elementwise):
    """ONNX Mean: the sum of all inputs, in order, divided by their number."""

    name = "Mean"
    inputs = ("data_0*",)

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        return np.asarray(reduce(np.add, arrays) / len(arrays))

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        return f"(({' + '.join(operands)}) / splat({len(operands)}))"

    def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
        if env.specs[node.inputs[0]].dtype.kind != "f":
            return super().scalar(node, operands, env)
        return f"(({' + '.join(operands)}) / {float(len(operands))})"


MOST_OPERANDS = 8
"""most operands of one expression"""


@rewrite
def many_operands(graph: Graph) -> None:
    """Rewrite an operator of many inputs as a chain of nodes, from the left, so that expressions stay short."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op not in ("Max", "Mean", "Min", "Sum") or node.domain or len(node.inputs) <= MOST_OPERANDS:
            nodes.append(node)
            continue
        names, count = list(node.inputs), len(node.inputs)
        total, spec = names.pop(0), graph.specs[node.inputs[0]]
        op = "Sum" if node.op == Mean.name else node.op
        while names:
            part, names = names[: MOST_OPERANDS - 1], names[MOST_OPERANDS - 1 :]
            last = not names and node.op != Mean.name
            made = node.outputs[0] if last else graph.fresh(f"{node.name}.part")
            spec = Spec(spec.dtype, np.broadcast_shapes(spec.sizes, *(graph.specs[name].sizes for name in part)))
            graph.specs[made] = spec
            nodes.append(Node(op, node.name if last else made, (total, *part), (made,), {}, node.version))
            total = made
        if node.op == Mean.name:
            divisor = graph.fresh(f"{node.name}.count")
            graph.constants[divisor] = np.array(count, spec.dtype)
            graph.specs[divisor] = spec_of(graph.constants[divisor])
            nodes.append(Node("Div", node.name, (total, divisor), node.outputs, {}, node.version))
    graph.nodes = nodes


@register
class Mod(Elementwise):
    """ONNX Mod: the remainder of a division, with the sign of the divisor, or of the dividend with fmod=1."""

    name = "Mod"
    inputs = ("A", "B")
    attributes = {"fmod": 0}
    in_words = False

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        return _rest(arrays[0], arrays[1], self.attribute(node, "fmod"))

    def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
        kind = env.specs[node.inputs[0]].dtype.kind
        if kind not in "fiu":
            return super().scalar(node, operands, env)
        word = "fmod" if self.attribute(node, "fmod") and kind != "u" else "mod"
        return f"{word}_{kind}({', '.join(operands)})"


@register
class Pow(Elementwise):
    """ONNX Pow: for an integer base the integer part, wrapped around; the exponent must be an integer or known to be one."""

    name = "Pow"
    inputs = ("X", "Y")

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        x, y = arrays
        if x.dtype.kind not in "iu":
            return np.power(x, y if y.dtype.kind == "f" else y.astype(np.float64))
        if y.dtype.kind == "f" and not (np.trunc(y) == y).all():
            return np.power(x.astype(np.float64), y)
        x, y = np.broadcast_arrays(x, y.astype(np.int64))
        one = np.abs(x) == 1
        inside = np.power(x, np.where(y < 0, y & 1, y).astype(x.dtype))
        return np.where((y >= 0) | one, inside, np.zeros_like(x))

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        known = {
            "splat(2.0)": "({0} * {0})",
            "splat(0.5)": "square_root({0})",
            "splat(1.0)": "{0}",
            "splat(3.0)": "({0} * {0} * {0})",
            "splat(-1.0)": "(splat(1.0) / {0})",
            "splat(4.0)": "(({0} * {0}) * ({0} * {0}))",
            "splat(-0.5)": "(splat(1.0) / square_root({0}))",
        }
        return known.get(operands[1], "power({0}, {1})").format(*operands)

    def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
        base, exponent = (env.specs[name].dtype for name in node.inputs)
        value = operands[1]
        if exponent.kind == "f":
            known = env.constants.get(node.inputs[1])
            if known is None or not (np.trunc(known) == known).all():
                raise Refused(f"{base} to the power of {exponent}; supported are integer exponents, or constants that are whole")
            value = f"as_i64({value})"
        if base.kind not in "fiu":
            return super().scalar(node, operands, env)
        return f"power_{base.kind}({operands[0]}, {value})"


@register
class Clip(Elementwise):
    """ONNX Clip: bounds are attributes (before opset 11) or inputs of one element; a missing bound is infinite."""

    name = "Clip"
    inputs = ("input", "min?", "max?")
    attributes = {"min": None, "max": None}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        for spec in specs[1:]:
            if spec is not None and spec.elements != 1:
                raise Refused(f"a bound of shape {list(spec.shape)}; supported is one number")
        return [specs[0]]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield from (((node.inputs[0], a), (node.outputs[0], a)) for a in range(len(specs[node.inputs[0]].shape)))

    def frame(self, node: Node, frames: Frames) -> Node:
        return frames.node(node, shapes=[frames.shape(node.inputs[0]), *[()] * (len(node.inputs) - 1)])

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        y = arrays[0]
        assert y is not None
        for place, (name, choose) in enumerate((("min", np.maximum), ("max", np.minimum)), 1):
            given = arrays[place] if place < len(arrays) else None
            bound = self.attribute(node, name) if given is None else given
            y = y if bound is None else choose(y, np.asarray(bound).reshape(()).astype(y.dtype))
        return (np.asarray(y),)

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        text = operands[0]
        for place, (name, word) in enumerate((("min", "at_least"), ("max", "at_most")), 1):
            bound = operands[place] if place < len(operands) else ""
            if not bound and self.attribute(node, name) is not None:
                bound = literal(self.attribute(node, name))
            text = f"{word}({text}, {bound})" if bound else text
        return text

    def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
        if env.specs[node.inputs[0]].dtype.kind not in "fiu":
            return super().scalar(node, operands, env)
        text = operands[0]
        for bound, word in zip(operands[1:], ("larger_of", "smaller_of"), strict=False):
            text = f"{word}({text}, {bound})" if bound else text
        return text


def _shifted(x: Array, n: Array, direction: str) -> Array:
    bits = 8 * x.dtype.itemsize
    far = (n < 0) | (n >= bits)
    inside = np.where(far, bits - 1, n).astype(x.dtype)
    return (
        x >> inside
        if direction == "RIGHT" and x.dtype.kind == "i"
        else np.where(far, 0, x << inside if direction == "LEFT" else x >> inside)
    )


@register
class BitShift(Elementwise):
    """ONNX BitShift: a right shift of signed integers keeps the sign; a shift by n < 0 or by all bits or more leaves none."""

    name = "BitShift"
    inputs = ("X", "Y")
    attributes = {"direction": "LEFT"}
    in_words = False

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if self.attribute(node, "direction") not in ("LEFT", "RIGHT"):
            raise Refused(f"direction={self.attribute(node, 'direction')!r}; supported are 'LEFT' and 'RIGHT'")

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        return _shifted(arrays[0], arrays[1], self.attribute(node, "direction"))

    def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
        dtype = env.specs[node.inputs[0]].dtype
        if dtype.kind not in "iu":
            raise Refused(f"BitShift of {dtype}; supported are integers")
        word = "shift_left" if self.attribute(node, "direction") == "LEFT" else f"shift_right_{dtype.kind}"
        return f"{word}({operands[0]}, {operands[1]}, {8 * dtype.itemsize})"
