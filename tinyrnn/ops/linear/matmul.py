"""MatMul, Gemm, Einsum and FusedMatMul: each becomes `Product`, or `Linear` where its weights are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.limits import check_work
from tinyrnn.graph.op import MICROSOFT, OURS, REQUIRED, Array, Op, Refused, register, rewrite
from tinyrnn.ops.linear.product import Labels, Product, sizes_of


@register
class MatMul(Op):
    """ONNX MatMul."""

    name = "MatMul"
    inputs = ("A", "B")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        a, b = specs
        assert a is not None and b is not None
        left = (1, *a.sizes) if len(a.shape) == 1 else a.sizes
        right = (*b.sizes, 1) if len(b.shape) == 1 else b.sizes
        if left[-1] != right[-2]:
            raise Refused(f"{a} and {b} do not fit")
        shape = (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])
        shape = shape[:-2] + shape[-1:] if len(a.shape) == 1 else shape
        return [Spec(a.dtype, shape[:-1] if len(b.shape) == 1 else shape)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, b = arrays
        assert a is not None and b is not None
        return (np.matmul(a, b),)


@register
class FusedMatMul(MatMul):
    """MatMul with either operand's last two axes exchanged, times alpha."""

    name = "FusedMatMul"
    domain = MICROSOFT
    attributes = {"alpha": 1.0, "transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0}

    def turned(self, node: Node, place: int, rank: int) -> bool:
        """Whether an operand's last two axes are exchanged. Raises `Refused` where its first axis would move too."""
        side = "AB"[place]
        if self.attribute(node, f"transBatch{side}"):
            raise Refused(f"transBatch{side}={self.attribute(node, f'transBatch{side}')}; supported is 0")
        return bool(self.attribute(node, f"trans{side}")) and rank > 1

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        seen: list[Spec | None] = []
        for place, spec in enumerate(specs):
            assert spec is not None
            turned = self.turned(node, place, len(spec.shape))
            seen.append(Spec(spec.dtype, (*spec.shape[:-2], *spec.shape[:-3:-1])) if turned else spec)
        return super().infer(node, seen)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, b = arrays
        assert a is not None and b is not None
        left, right = (x.swapaxes(-1, -2) if self.turned(node, p, x.ndim) else x for p, x in enumerate((a, b)))
        return (np.asarray(self.attribute(node, "alpha") * np.matmul(left, right), a.dtype),)


@register
class Gemm(Op):
    """ONNX Gemm."""

    name = "Gemm"
    inputs = ("A", "B", "C?")
    attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, "broadcast": 0}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        a, b = specs[0], specs[1]
        assert a is not None and b is not None
        left = a.sizes[::-1] if self.attribute(node, "transA") else a.sizes
        right = b.sizes[::-1] if self.attribute(node, "transB") else b.sizes
        if left[-1] != right[0]:
            raise Refused(f"{a} and {b} do not fit")
        made, c = (left[0], right[1]), specs[2] if len(specs) > 2 else None
        if c is not None and np.broadcast_shapes(made, c.sizes) != made:
            raise Refused(f"C {c} does not fit the product {list(made)}")
        return [Spec(a.dtype, made)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, b = arrays[0], arrays[1]
        assert a is not None and b is not None
        product = (a.T if self.attribute(node, "transA") else a) @ (b.T if self.attribute(node, "transB") else b)
        total = self.attribute(node, "alpha") * product
        if len(arrays) > 2 and arrays[2] is not None:
            total = total + self.attribute(node, "beta") * arrays[2]
        return (total.astype(a.dtype),)


@register
class Einsum(Op):
    """ONNX Einsum of any number of operands, with repeated labels and "..."; operands are multiplied from the left."""

    name = "Einsum"
    inputs = ("Inputs*",)
    outputs = ("Output",)
    attributes = {"equation": REQUIRED}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        given = [s for s in specs if s is not None]
        *read, made = equation_labels(self.attribute(node, "equation"), [len(s.shape) for s in given])
        sizes = sizes_of(read, [s.sizes for s in given])
        return [Spec(given[0].dtype, tuple(sizes[label] for label in made))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        equation, given = self.attribute(node, "equation").replace(" ", ""), [a for a in arrays if a is not None]
        read = equation_labels(equation, [a.ndim for a in given])[:-1]
        check_work(prod(sizes_of(read, [a.shape for a in given]).values()))
        return (np.asarray(np.einsum(equation, *given)),)


def equation_labels(equation: str, ranks: Sequence[int]) -> list[Labels]:
    """The labels of every operand's axes, then of the result's. Raises `Refused` where the equation does not fit."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise Refused(f"equation={equation!r} has {len(terms)} operands, the node {len(ranks)}")
    read: list[Labels] = []
    for term, rank in zip(terms, ranks, strict=True):
        before, dots, behind = term.partition("...")
        more = rank - len(before) - len(behind)
        if more < 0 or (more and not dots) or not ("a" + before + behind).isalpha():
            raise Refused(f"equation={equation!r} does not fit an operand of {rank} axes")
        read.append((*before, *(f".{i}" for i in reversed(range(more))), *behind))
    letters = [label for labels in read for label in labels]
    spread = tuple(sorted({n for n in letters if n[0] == "."}, key=lambda n: -int(n[1:])))
    if arrow:
        before, dots, behind = right.partition("...")
        made = (*before, *(spread if dots else ()), *behind)
    else:
        made = (*spread, *sorted(n for n in set(letters) if n[0] != "." and letters.count(n) == 1))
    if len(set(made)) < len(made) or set(made) - set(letters):
        raise Refused(f"equation={equation!r}: its result has an axis twice, or one that no operand has")
    return [*read, made]


def _matmul_labels(ranks: Sequence[int]) -> list[Labels]:
    many = [tuple(f".{i}" for i in reversed(range(rank - 2))) for rank in ranks]
    left: Labels = ("k",) if ranks[0] == 1 else (*many[0], "m", "k")
    right: Labels = ("k",) if ranks[1] == 1 else (*many[1], "k", "n")
    longest = max(many, key=len)
    return [left, right, (*longest, *(("m",) if ranks[0] > 1 else ()), *(("n",) if ranks[1] > 1 else ()))]


@rewrite
def to_product(graph: Graph) -> None:
    """Rewrite MatMul, Gemm, Einsum and FusedMatMul of run-time operands as `Product`, Mul and Add."""
    nodes: list[Node] = []
    for node in graph.nodes:
        ranks = [len(graph.specs[name].shape) for name in node.inputs if name]
        if (node.domain, node.op) == (MICROSOFT, FusedMatMul.name):
            nodes += _fused(graph, node, ranks)
        elif node.domain or node.op not in (MatMul.name, Gemm.name, Einsum.name):
            nodes.append(node)
        elif node.op == MatMul.name:
            nodes.append(_made(graph, node, node.inputs, _matmul_labels(ranks), node.outputs[0]))
        elif node.op == Gemm.name:
            nodes += _gemm(graph, node)
        else:
            nodes += _chain(graph, node, equation_labels(node.attributes["equation"], ranks))
    graph.nodes = nodes


def _made(graph: Graph, node: Node, inputs: Sequence[str], labels: Sequence[Labels], output: str) -> Node:
    made = Node(Product.name, node.name, tuple(inputs), (output,), {"labels": tuple(labels)}, node.version, OURS)
    graph.specs[output] = Product().infer(made, [graph.specs[name] for name in inputs])[0]
    return made


def _chain(graph: Graph, node: Node, labels: list[Labels]) -> Iterator[Node]:
    """Products of the operands so far with the next; a label that no later operand and not the result has is summed at once."""
    names, (*read, made) = list(node.inputs), labels
    while len(names) > 2:
        later = {label for labels in (*read[2:], made) for label in labels}
        kept = tuple(dict.fromkeys(label for labels in read[:2] for label in labels if label in later))
        output = graph.fresh(f"{node.outputs[0]}.product")
        yield _made(graph, node, names[:2], [*read[:2], kept], output)
        names, read = [output, *names[2:]], [kept, *read[2:]]
    yield _made(graph, node, names, [*read, made], node.outputs[0])


def _scaled(graph: Graph, node: Node, key: str, name: str, factor: float, output: str = "") -> tuple[Node, str]:
    """A node that multiplies a value by a number, and its output."""
    number = graph.fresh(f"{node.outputs[0]}.{key}.factor")
    graph.constants[number] = np.asarray(factor, graph.specs[name].dtype)
    graph.specs[number] = Spec(graph.specs[name].dtype, ())
    made = output or graph.fresh(f"{node.outputs[0]}.{key}.scaled")
    graph.specs[made] = graph.specs[name]
    return Node("Mul", f"{node.name}.{key}", (name, number), (made,), {}, node.version), made


def _fused(graph: Graph, node: Node, ranks: Sequence[int]) -> Iterator[Node]:
    """alpha A B as a product and Mul."""
    *read, made = _matmul_labels(ranks)
    op = FusedMatMul()
    labels = [(*r[:-2], *r[:-3:-1]) if op.turned(node, place, len(r)) else r for place, r in enumerate(read)]
    alpha = op.attribute(node, "alpha")
    product = node.outputs[0] if alpha == 1 else graph.fresh(f"{node.outputs[0]}.product")
    yield _made(graph, node, node.inputs, [*labels, made], product)
    if alpha != 1:
        yield _scaled(graph, node, "product", product, alpha, node.outputs[0])[0]


def _gemm(graph: Graph, node: Node) -> Iterator[Node]:
    """alpha A B + beta C as a product, Mul and Add."""
    given = {**Gemm.attributes, **node.attributes}
    left: Labels = ("k", "m") if given["transA"] else ("m", "k")
    right: Labels = ("n", "k") if given["transB"] else ("k", "n")
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    scaled: dict[str, tuple[str, float]] = {"product": (graph.fresh(f"{node.outputs[0]}.product"), given["alpha"])}
    yield _made(graph, node, node.inputs[:2], [left, right, ("m", "n")], scaled["product"][0])
    if bias:
        scaled["bias"] = bias, given["beta"]
    done = []
    for key, (name, factor) in scaled.items():
        if factor != 1:
            multiplied, name = _scaled(graph, node, key, name, factor)
            yield multiplied
        done.append(name)
    if bias:
        yield Node("Add", node.name, tuple(done), node.outputs, {}, node.version)
    else:
        yield Node("Identity", node.name, tuple(done), node.outputs, {}, node.version)
