"""Element-wise operators, with broadcasting; chains of them become one loop (`Fused`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Value, literal
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import OURS, REQUIRED, Array, Axis, Frames, Op, Refused, op_of, register
from tinyrnn.lanes import Vec, equal, kernel, less, select
from tinyrnn.ops.elementwise.scalars import KINDS, DType, conversion, pointer, scalar_literal

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
    result: ClassVar[DType | None] = None
    """dtype of the output, if it differs from that of the first input"""
    in_words: ClassVar[bool] = True
    """whether `expression` is defined, over Vec"""

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        """The operator in NumPy."""
        raise Refused("it has no reference")

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        """The operator as an expression over Vec in the kernel language; the operand of an absent input is empty."""
        raise Refused(f"{self.name} does not compute {FLOAT}")

    def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
        """The operator as an expression over scalars of the inputs' types, computed in 64 bits; operands are names."""
        raise Refused(f"{self.name} does not compute {env.specs[node.inputs[0]].dtype}; supported is {FLOAT}")

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
        with np.errstate(all="ignore"):
            made = np.asarray(self.evaluate(node, [a for a in arrays if a is not None]))
        dtype = self.infer(node, [None if a is None else Spec(a.dtype, a.shape) for a in arrays])[0].dtype
        return (made.astype(dtype, copy=False),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        return lower_chain([node], env)


def broadcast_frame(frames: Frames, name: str, output: str) -> tuple[int, ...]:
    """The frame shape of an operand, aligned with the frame axes of the output to which it is broadcast."""
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


def _nest(shape: Sequence[int], strides: Sequence[Sequence[int]], rows: Sequence[int] | None) -> list[_Loop]:
    """The loops, as few as possible and outermost first, over rows (if any) and `shape`, for the strides of each operand."""
    loops = [_Loop("rows", tuple(rows))] if rows is not None else []
    loops += [_Loop(size, tuple(s[axis] for s in strides)) for axis, size in enumerate(shape) if size != 1]
    loops = loops or [_Loop(1, (1,) * len(strides))]
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


def _is_literal(name: str, constants: dict[str, Array]) -> bool:
    return name in constants and constants[name].size == 1 and bool(np.isfinite(constants[name]).all())


def in_vectors(node: Node, specs: dict[str, Spec], constants: dict[str, Array]) -> bool:
    """Whether an element-wise node is computed over Vec, rather than over scalars."""
    op = op_of(node)
    names = [n for n in (*node.inputs, *node.outputs) if n and not _is_literal(n, constants)]
    return isinstance(op, Elementwise) and op.in_words and all(specs[n].dtype == FLOAT for n in names)


def lower_chain(nodes: Sequence[Node], env: Lowering) -> list[Call]:
    """One loop for a chain of element-wise nodes of which only the last one's output is kept."""
    vectors = all(in_vectors(node, env.specs, env.constants) for node in nodes)
    output = nodes[-1].outputs[0]
    inner = {n.outputs[0] for n in nodes}
    seen: dict[str, tuple[int, ...]] = {}
    for node in nodes:
        for name, shape in zip(node.inputs, node.shapes, strict=True):
            if name and name not in inner:
                seen.setdefault(name, shape)
    text: dict[str, str] = {"": ""}
    for name in seen:
        if _is_literal(name, env.constants):
            value = env.constants[name].ravel()[0]
            text[name] = literal(value) if vectors else scalar_literal(name, value, env.specs[name].dtype)
    operands = [n for n in seen if n not in text]
    words = [pointer(n, env.specs[n].dtype) for n in (*operands, output)]
    shape = env.specs[output].sizes
    rows = [env.row_stride(n) for n in (*operands, output)] if env.per_row(output) else None
    nest = _nest(shape, [_strides(s, shape) for s in (*(seen[n] for n in operands), shape)], rows)

    body = []
    text |= {name: f"v{index}" for index, name in enumerate(operands)}
    for index, node in enumerate(nodes):
        op = op_of(node)
        assert isinstance(op, Elementwise)
        given = [text[i] for i in node.inputs]
        if vectors:
            body.append(f"t{index} = {op.expression(node, given)}")
        else:
            body.append(f"t{index} = {conversion(env.specs[node.outputs[0]].dtype)}({op.scalar(node, given, env)})")
        text[node.outputs[0]] = f"t{index}"

    arguments = [f"p{i}" for i in range(len(operands))] + ["y"]
    lines = [f"def KERNEL({', '.join(arguments)}, rows):"]
    lines += [f"    {a} = {word}({a})" for a, word in zip(arguments, words, strict=True)]
    lines += (_vector_loops if vectors else _scalar_loops)(nest, body, text[output], env.lanes)
    note = f"{output} = {' → '.join(n.op for n in nodes)}"
    return [Call("\n".join(lines) + "\n", (*(Value(n) for n in operands), Value(output), Rows()), note)]


def _outer_loops(nest: Sequence[_Loop]) -> tuple[list[str], str]:
    """(lines that open all loops but the last, indentation inside)."""
    indent, lines = "    ", []
    for level, loop in enumerate(nest[:-1]):
        lines.append(f"{indent}for i{level} in range({loop.size}):")
        indent += "    "
    return [*lines, f"{indent}n = {nest[-1].size}"], indent


def _at(nest: Sequence[_Loop], which: int) -> str:
    """The text of an operand's offset at the loops' indices."""
    terms = [f"i{level} * {loop.strides[which]}" for level, loop in enumerate(nest[:-1]) if loop.strides[which]]
    return " + ".join([*terms, "i"] if nest[-1].strides[which] else terms) or "0"


def _scalar_loops(nest: Sequence[_Loop], body: Sequence[str], result: str, lanes: int) -> list[str]:
    lines, indent = _outer_loops(nest)
    count = len(nest[-1].strides) - 1
    inside = [f"v{which} = get(p{which}, {_at(nest, which)})" for which in range(count)]
    inside += [*body, f"put(y, {_at(nest, count)}, {result})"]
    return [*lines, f"{indent}for i in range(n):", *(f"{indent}    {line}" for line in inside)]


def _vector_loops(nest: Sequence[_Loop], body: Sequence[str], result: str, lanes: int) -> list[str]:
    lines, indent = _outer_loops(nest)
    last, count = nest[-1], len(nest[-1].strides) - 1

    def block(indent: str, part: bool) -> list[str]:
        words, end = (("load_part", "store_part"), ", n - i") if part else (("load", "store"), "")
        inside = [
            f"v{which} = {words[0]}(p{which}, {_at(nest, which)}{end})"
            if last.strides[which]
            else f"v{which} = splat(get(p{which}, {_at(nest, which)}))"
            for which in range(count)
        ]
        inside += [*body, f"{words[1]}(y, {_at(nest, count)}, {result}{end})"]
        return [indent + line for line in inside]

    if _divides(last.size, lanes):
        return [*lines, f"{indent}for i in range(0, n, lanes()):", *block(indent + "    ", False)]
    lines += [f"{indent}m = n - n % lanes()", f"{indent}for i in range(0, m, lanes()):", *block(indent + "    ", False)]
    return [*lines, f"{indent}if m < n:", f"{indent}    i = m", *block(indent + "    ", True)]


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


def define(
    name: str,
    inputs: tuple[str, ...],
    evaluate: Callable[..., Any],
    words: str | None = None,
    scalars: dict[str, str] | None = None,
    *,
    attributes: dict[str, Any] | None = None,
    result: Any = None,
    doc: str = "",
) -> None:
    """Define an operator by its NumPy function and its words over Vec; {name} stands for an attribute, {0}, {1} for operands.

    `scalars` maps kinds of the first input's type ("f" floating, "i" signed, "u" unsigned, "b" bool) to words over scalars.
    """
    folds = inputs[0].endswith("*")

    def filled(text: str, operands: Sequence[str], values: dict[str, str]) -> str:
        if not folds:
            return text.format(*operands, **values)
        total = operands[0]
        for operand in operands[1:]:
            total = text.format(total, operand)
        return total

    class Defined(Elementwise):
        __doc__ = doc or f"ONNX {name}."

        def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
            values = {key: self.attribute(node, key) for key in self.attributes}
            return np.asarray(evaluate(*arrays, **values))

        def expression(self, node: Node, operands: Sequence[str]) -> str:
            if words is None:
                return super().expression(node, operands)
            return filled(words, operands, {key: literal(self.attribute(node, key)) for key in self.attributes})

        def scalar(self, node: Node, operands: Sequence[str], env: Lowering) -> str:
            dtype = env.specs[node.inputs[0]].dtype
            for kinds, text in (scalars or {}).items():
                if dtype.kind in kinds:
                    return filled(text, operands, {key: repr(self.attribute(node, key)) for key in self.attributes})
            kinds = "".join(scalars or ()) + ("f" if words is not None and "f" not in "".join(scalars or ()) else "")
            if dtype == np.float64 and words is not None:
                raise Refused(f"{name} of float64; it is computed in float32: export the model in float32")
            raise Refused(f"{name} of {dtype}; supported are types of the kinds {', '.join(KINDS[k] for k in kinds)}")

    Defined.name = name
    Defined.in_words = words is not None
    Defined.inputs = inputs
    Defined.attributes = attributes or {}
    Defined.result = None if result is None else np.dtype(result)
    Defined.__name__ = Defined.__qualname__ = name
    register(Defined)
