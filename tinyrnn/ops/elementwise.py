"""Element-wise operators, with broadcasting; chains of them become one loop (`Fused`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.ir import Node, Spec
from tinyrnn.lanes import Vec, equal, kernel, less, select
from tinyrnn.op import OURS, REQUIRED, Array, Axis, Call, Frames, Lowering, Op, Refused, Rows, Value, literal, op_of, register

FLOAT = np.dtype(np.float32)


@kernel
def larger(a: Vec, b: Vec) -> Vec:
    """The larger of a and b; NaN where either is NaN."""
    return select(less(a, b), b, select(equal(b, b), a, b))


@kernel
def smaller(a: Vec, b: Vec) -> Vec:
    """The smaller of a and b; NaN where either is NaN."""
    return select(less(b, a), b, select(equal(b, b), a, b))


class Elementwise(Op):
    """Y = f(A, B, …), element by element, operands broadcast as in NumPy."""

    inputs: ClassVar[tuple[str, ...]] = ("X",)
    elementwise = True
    result: ClassVar[np.dtype[Any] | None] = None
    """dtype of the output where it is not that of the first input"""

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        """The operator in NumPy."""
        raise Refused("it has no reference")

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        """The operator in words of the kernel language over Vec expressions."""
        raise Refused(f"it runs only on values known at load (supported on {FLOAT} streams: see the operator table)")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        given = [s for s in specs if s is not None]
        shape = np.broadcast_shapes(*(s.sizes for s in given))
        return [Spec(self.result or given[0].dtype, shape)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        output = node.outputs[0]
        shape = specs[output].sizes
        for name in filter(None, node.inputs):
            offset = len(shape) - len(specs[name].shape)
            for axis, size in enumerate(specs[name].sizes):
                if size == shape[axis + offset]:
                    yield (name, axis), (output, axis + offset)

    def frame(self, node: Node, frames: Frames) -> Node:
        return frames.node(node, shapes=[broadcast_frame(frames, name, node.outputs[0]) if name else () for name in node.inputs])

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        made = np.asarray(self.evaluate(node, [a for a in arrays if a is not None]))
        dtype = self.infer(node, [None if a is None else Spec(a.dtype, a.shape) for a in arrays])[0].dtype
        return (made.astype(dtype, copy=False),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        return lower_chain([node], env)


def broadcast_frame(frames: Frames, name: str, output: str) -> tuple[int, ...]:
    """The frame shape of an operand, aligned to the kept axes of the output it is broadcast to."""
    sizes, rank = frames.specs[name].sizes, len(frames.specs[output].shape)
    offset = rank - len(sizes)
    for axis in frames.rows(name):
        if frames.role(output, axis + offset) is None:
            raise Refused("a time or batch axis meets an ordinary one")
    return tuple(sizes[a - offset] for a in frames.kept(output) if a >= offset)


@dataclass(frozen=True)
class _Loop:
    """One loop of a nest: its size (an int, or text over `rows`) and each operand's stride."""

    size: int | str
    strides: tuple[int, ...]


def _nest(shape: Sequence[int], seen: Sequence[Sequence[int]], rows: Sequence[int]) -> list[_Loop]:
    """The smallest nest, outermost first, over rows and `shape` for operands seen in broadcast shapes."""
    loops = [_Loop("rows", tuple(rows))]
    strides = [_strides(s, shape) for s in seen]
    loops += [_Loop(size, tuple(s[axis] for s in strides)) for axis, size in enumerate(shape) if size != 1]
    merged = [loops[-1]]
    for outer in reversed(loops[:-1]):
        inner = merged[0]
        if isinstance(inner.size, int) and all(o == s * inner.size for o, s in zip(outer.strides, inner.strides, strict=True)):
            size = outer.size * inner.size if isinstance(outer.size, int) else f"{outer.size} * {inner.size}"
            merged[0] = _Loop(size, inner.strides)
        else:
            merged.insert(0, outer)
    return merged


def _strides(seen: Sequence[int], shape: Sequence[int]) -> list[int]:
    padded = [1] * (len(shape) - len(seen)) + list(seen)
    return [0 if size == 1 else prod(padded[axis + 1 :]) for axis, size in enumerate(padded)]


def _divides(size: int | str, lanes: int) -> bool:
    return (size if isinstance(size, int) else int(size.rpartition("* ")[2] or 1) if "*" in size else 1) % lanes == 0


def lower_chain(nodes: Sequence[Node], env: Lowering) -> list[Call]:
    """One loop for a chain of element-wise nodes of which only the last one's output is kept."""
    output = nodes[-1].outputs[0]
    inner = {n.outputs[0] for n in nodes}
    names: list[str] = []
    seen: dict[str, tuple[int, ...]] = {}
    for node in nodes:
        for name, shape in zip(node.inputs, node.shapes, strict=True):
            if name and name not in inner and name not in seen:
                names.append(name)
                seen[name] = shape
    literals = {
        n: literal(env.constants[n].ravel()[0])
        for n in names
        if n in env.constants and env.constants[n].size == 1 and np.isfinite(env.constants[n]).all()
    }
    for name in [*names, output]:
        if name not in literals and env.specs[name].dtype != FLOAT:
            raise Refused(
                f"{name!r} is {env.specs[name].dtype}; element-wise kernels take float32 "
                f"(other types only where they are known at load)"
            )
    operands = [n for n in names if n not in literals]
    arguments = [f"p{i}" for i in range(len(operands))] + ["y"]
    shape = env.specs[output].sizes
    nest = _nest(shape, [seen[n] for n in operands] + [shape], [env.row_stride(n) for n in operands] + [env.row_stride(output)])

    text: dict[str, str] = dict(literals)
    body = []
    for index, name in enumerate(operands):
        text[name] = f"v{index}"
    for index, node in enumerate(nodes):
        expression = op_of(node)
        assert isinstance(expression, Elementwise)
        body.append(f"t{index} = {expression.expression(node, [text[i] for i in node.inputs if i])}")
        text[node.outputs[0]] = f"t{index}"

    *outer, last = nest
    lines = [f"def KERNEL({', '.join(arguments)}, rows):"]
    lines += [f"    {a} = f32({a})" for a in arguments]
    depth = "    "
    for level, loop in enumerate(outer):
        lines.append(f"{depth}for i{level} in range({loop.size}):")
        depth += "    "

    def offset(which: int, along: str) -> str:
        terms = [f"i{level} * {loop.strides[which]}" for level, loop in enumerate(outer) if loop.strides[which]]
        if last.strides[which]:
            terms.append(along)
        return " + ".join(terms) or "0"

    def block(indent: str, part: bool) -> list[str]:
        out = []
        for which in range(len(operands)):
            at = offset(which, "i")
            if last.strides[which] == 0:
                out.append(f"{indent}v{which} = splat(get(p{which}, {at}))")
            else:
                out.append(
                    f"{indent}v{which} = load_part(p{which}, {at}, n - i)" if part else f"{indent}v{which} = load(p{which}, {at})"
                )
        out += [indent + line for line in body]
        at = offset(len(operands), "i")
        out.append(f"{indent}store_part(y, {at}, {text[output]}, n - i)" if part else f"{indent}store(y, {at}, {text[output]})")
        return out

    if any(s not in (0, 1) for s in last.strides) or last.strides[-1] != 1:
        raise Refused("an operand is broadcast in a way that element-wise kernels do not walk")
    lines.append(f"{depth}n = {last.size}")
    if _divides(last.size, env.lanes):
        lines += [f"{depth}for i in range(0, n, lanes()):", *block(depth + "    ", False)]
    else:
        lines += [f"{depth}m = n - n % lanes()", f"{depth}for i in range(0, m, lanes()):", *block(depth + "    ", False)]
        lines += [f"{depth}if m < n:", f"{depth}    i = m", *block(depth + "    ", True)]
    note = f"{output} = {' → '.join(n.op for n in nodes)}"
    return [Call("\n".join(lines) + "\n", (*(Value(n) for n in operands), Value(output), Rows()), note)]


@register
class Fused(Op):
    """A chain of element-wise nodes that runs as one loop; made by the fuse pass."""

    name = "Fused"
    inputs = ("X*",)
    internal = True
    attributes = {"chain": REQUIRED}

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        return lower_chain(self.attribute(node, "chain"), env)


def chain_node(chain: Sequence[Node]) -> Node:
    """The node that runs a chain of element-wise nodes as one loop."""
    inner = {n.outputs[0] for n in chain}
    names = tuple(dict.fromkeys(i for n in chain for i in n.inputs if i and i not in inner))
    seen = {i: s for n in chain for i, s in zip(n.inputs, n.shapes, strict=True)}
    shapes = tuple(seen[name] for name in names)
    return Node(Fused.name, chain[-1].name, names, chain[-1].outputs, {"chain": list(chain)}, domain=OURS, shapes=shapes)


def _define(
    name: str,
    inputs: tuple[str, ...],
    evaluate: Callable[..., Any],
    words: str | None = None,
    *,
    attributes: dict[str, Any] | None = None,
    result: Any = None,
    doc: str = "",
) -> None:
    """One operator from its NumPy function and its words; `{name}` stands for attributes, {0}, {1} for operands."""

    class Defined(Elementwise):
        __doc__ = doc or f"ONNX {name}."

        def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
            values = {key: self.attribute(node, key) for key in self.attributes}
            return np.asarray(evaluate(*arrays, **values))

        def expression(self, node: Node, operands: Sequence[str]) -> str:
            if words is None:
                return super().expression(node, operands)
            values = {key: literal(self.attribute(node, key)) for key in self.attributes}
            if len(operands) > 2 and inputs[0].endswith("*"):
                text = operands[0]
                for operand in operands[1:]:
                    text = words.format(text, operand)
                return text
            if len(operands) == 1 and inputs[0].endswith("*"):
                return operands[0]
            return words.format(*operands, **values)

    Defined.name = name
    Defined.known_only = words is None
    Defined.inputs = inputs
    Defined.attributes = attributes or {}
    Defined.result = None if result is None else np.dtype(result)
    Defined.__name__ = Defined.__qualname__ = name
    register(Defined)


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):
        return np.trunc(a / b).astype(a.dtype)
    with np.errstate(all="ignore"):
        return a / b


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _softsign(x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x)))


def _fold(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def many(*arrays: Array) -> Array:
        total = arrays[0]
        for array in arrays[1:]:
            total = function(total, array)
        return total

    return many


_define("Add", ("A", "B"), np.add, "({0} + {1})")
_define("Sub", ("A", "B"), np.subtract, "({0} - {1})")
_define("Mul", ("A", "B"), np.multiply, "({0} * {1})")
_define("Div", ("A", "B"), _divide, "({0} / {1})")
_define("Min", ("data_0*",), _fold(np.minimum), "smaller({0}, {1})")
_define("Max", ("data_0*",), _fold(np.maximum), "larger({0}, {1})")
_define("Sum", ("data_0*",), _fold(np.add), "({0} + {1})")
_define("Neg", ("X",), np.negative, "(-{0})")
_define("Abs", ("X",), np.abs, "absolute({0})")
_define("Sqrt", ("X",), np.sqrt, "square_root({0})")
_define("Reciprocal", ("X",), np.reciprocal, "(splat(1.0) / {0})")
_define("Floor", ("X",), np.floor, "floor({0})")
_define("Ceil", ("X",), np.ceil, "(-floor(-{0}))")
_define("Round", ("X",), np.rint, "round_even({0})")
_define("Exp", ("input",), np.exp, "exp({0})")
_define("Log", ("input",), np.log, "log({0})")
_define("Erf", ("input",), np.vectorize(math.erf, otypes=[float]), "erf({0})")
_define("Sigmoid", ("X",), _sigmoid, "sigmoid({0})")
_define("Tanh", ("input",), np.tanh, "tanh({0})")
_define("Relu", ("X",), lambda x: np.where(x < 0, np.zeros_like(x), x), "select(less({0}, splat(0.0)), splat(0.0), {0})")
_define("Softplus", ("X",), lambda x: np.logaddexp(x, 0.0), "softplus({0})")
_define("Softsign", ("input",), _softsign, "softsign({0})")
_define(
    "LeakyRelu",
    ("X",),
    lambda x, alpha: np.where(x < 0, alpha * x, x),
    "select(less({0}, splat(0.0)), {alpha} * {0}, {0})",
    attributes={"alpha": 0.01},
)
_define("Elu", ("X",), lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x), "elu({0}, {alpha})", attributes={"alpha": 1.0})
_define(
    "HardSwish",
    ("X",),
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    f"({{0}} * at_most(at_least(fma({{0}}, {literal(1 / 6)}, splat(0.5)), splat(0.0)), splat(1.0)))",
)
_define(
    "Selu",
    ("X",),
    lambda x, alpha, gamma: gamma * np.where(x < 0, alpha * np.expm1(x), x),
    "({gamma} * elu({0}, {alpha}))",
    attributes={"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
)
_define(
    "HardSigmoid",
    ("X",),
    lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "at_most(at_least({alpha} * {0} + {beta}, splat(0.0)), splat(1.0))",
    attributes={"alpha": 0.2, "beta": 0.5},
)
_define(
    "ThresholdedRelu",
    ("X",),
    lambda x, alpha: np.where(x > alpha, x, 0.0),
    "select(less({alpha}, {0}), {0}, splat(0.0))",
    attributes={"alpha": 1.0},
)
_define("PRelu", ("X", "slope"), lambda x, s: np.where(x < 0, s * x, x), "select(less({0}, splat(0.0)), {1} * {0}, {0})")
_define("Not", ("X",), np.logical_not)
_define("And", ("A", "B"), np.logical_and)
_define("Or", ("A", "B"), np.logical_or)
_define("Xor", ("A", "B"), np.logical_xor)
_define("Equal", ("A", "B"), np.equal, result=bool)
_define("Less", ("A", "B"), np.less, result=bool)
_define("Greater", ("A", "B"), np.greater, result=bool)
_define("LessOrEqual", ("A", "B"), np.less_equal, result=bool)
_define("GreaterOrEqual", ("A", "B"), np.greater_equal, result=bool)
_define("Mod", ("A", "B"), lambda a, b, fmod: np.fmod(a, b) if fmod else np.mod(a, b), attributes={"fmod": 0})


@register
class Where(Elementwise):
    """ONNX Where: X where the condition holds, else Y."""

    name = "Where"
    known_only = True
    inputs = ("condition", "X", "Y")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        shape = super().infer(node, specs)[0].shape
        assert specs[1] is not None
        return [Spec(specs[1].dtype, shape)]

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        return np.where(*arrays)


@register
class Pow(Elementwise):
    """ONNX Pow, for exponents that are known at load and small integers, ½ or their negatives."""

    name = "Pow"
    inputs = ("X", "Y")

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        return np.power(arrays[0], arrays[1])

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
        if operands[1] not in known:
            raise Refused("its exponent is not one of the constants -1, -0.5, 0.5, 1, 2, 3, 4")
        return known[operands[1]].format(operands[0])


@register
class Clip(Elementwise):
    """ONNX Clip: bounds are attributes (opset 6) or inputs known at load."""

    name = "Clip"
    inputs = ("input", "min?", "max?")
    attributes = {"min": None, "max": None}
    parameters = {"min": 1, "max": 2}

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        low, high = self.attribute(node, "min"), self.attribute(node, "max")
        return np.clip(
            arrays[0],
            None if low is None else np.asarray(low).reshape(()),
            None if high is None else np.asarray(high).reshape(()),
        )

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        bounds = [self.attribute(node, name) for name in ("min", "max")]
        text = operands[0]
        for bound, word in zip(bounds, ("at_least", "at_most"), strict=True):
            if bound is not None:
                text = f"{word}({text}, {literal(float(np.asarray(bound).reshape(())))})"
        return text


@register
class Gelu(Elementwise):
    """ONNX Gelu, exact or with approximate="tanh"."""

    name = "Gelu"
    attributes = {"approximate": "none"}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if self.attribute(node, "approximate") not in ("none", "tanh"):
            raise Refused(f"approximate={self.attribute(node, 'approximate')!r}; supported are 'none' and 'tanh'")

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        x = arrays[0]
        if self.attribute(node, "approximate") == "tanh":
            return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
        return np.asarray(0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))))

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        x = operands[0]
        if self.attribute(node, "approximate") == "tanh":
            inside = f"{literal(math.sqrt(2 / math.pi))} * fma({literal(0.044715)} * {x}, {x} * {x}, {x})"
            return f"(splat(0.5) * {x} * (splat(1.0) + tanh({inside})))"
        return f"(splat(0.5) * {x} * (splat(1.0) + erf({x} * {literal(math.sqrt(0.5))})))"
