"""If, and what all operators with nested graphs share. Loop and Scan are in `ops.loops.operators`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from tinyrnn.graph.call import Body, Call, Close, Lowering, Open, Rows, Value
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Axis, Frames, Op, Refused, RunGraph, op_of, register
from tinyrnn.ops.movement.strided_copy import strided_copy


def rename(nodes: Sequence[Node], names: Mapping[str, str]) -> None:
    """Rename values, in nested graphs too."""
    for node in nodes:
        node.inputs = tuple(names.get(name, name) for name in node.inputs)
        node.outputs = tuple(names.get(name, name) for name in node.outputs)
        for _, inner in node.nested():
            inner.inputs = [names.get(name, name) for name in inner.inputs]
            inner.outputs = [names.get(name, name) for name in inner.outputs]
            rename(inner.nodes, names)


def made_in(graph: Graph) -> set[str]:
    """The values that the nodes of a graph compute, without those of nested graphs."""
    return {name for node in graph.nodes for name in node.outputs if name}


def give_names(graph: Graph, outputs: Sequence[tuple[int, str]]) -> None:
    """Rename outputs of a nested graph to the names of its node's outputs: (index of the output, name).

    An output that the graph does not compute itself, or that appears twice, keeps its name.
    """
    made, names = made_in(graph), dict[str, str]()
    for place, name in outputs:
        if name and graph.outputs[place] in made and graph.outputs[place] not in names:
            names[graph.outputs[place]] = name
    rename(graph.nodes, names)
    graph.outputs = [names.get(name, name) for name in graph.outputs]


def copies(env: Lowering, pairs: Sequence[tuple[str, str]]) -> list[Call]:
    """Calls that copy whole values: output = source for each pair."""
    calls = []
    for output, source in pairs:
        if output and output != source:
            made = strided_copy(env, output, source, [env.specs[output].elements], [1], [1], note=f"{output} = {source}")
            calls += [over_rows(call, output) for call in made]
    return calls


def over_rows(call: Call, of: str) -> Call:
    """The call with the number of rows of the value `of`, instead of its node's first output."""
    return replace(call, operands=tuple(Rows(of=of) if operand == Rows() else operand for operand in call.operands))


def by_row(calls: Sequence[Call | Open | Close | Body], of: str, backwards: bool = False) -> list[Call | Open | Close | Body]:
    """The calls in a loop over the rows of a value."""
    head = "for ITERATION in range({} - 1, -1, -1):" if backwards else "for ITERATION in range({}):"
    return [Open(head, (Rows(of=of),), by_row=True), *calls, Close()]


class ControlFlow(Op):
    """An operator with nested graphs."""

    def body_nodes(self, node: Node) -> Iterator[Node]:
        for _, inner in node.nested():
            yield from inner.nodes

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for each in self.body_nodes(node):
            yield from op_of(each).links(each, specs)

    def merges(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[list[Axis], list[Axis]]]:
        for each in self.body_nodes(node):
            yield from op_of(each).merges(each, specs)

    def forbids_stream(self, node: Node) -> str | None:
        reasons = ((each, op_of(each).forbids_stream(each)) for each in self.body_nodes(node))
        return next((f"node {each.name!r} ({each.op}): {reason}" for each, reason in reasons if reason), None)

    def carried(self, node: Node) -> list[tuple[str, str]]:
        return [pair for each in self.body_nodes(node) for pair in op_of(each).carried(each)]

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        return max((sum(op_of(each).multiply_adds(each, specs) for each in inner.nodes) for _, inner in node.nested()), default=0)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        raise Refused("its graphs run only with the model around them")


def same_axes(specs: Mapping[str, Spec], a: str, b: str) -> Iterator[tuple[Axis, Axis]]:
    """Links between all axes of two values of one shape."""
    yield from (((a, axis), (b, axis)) for axis in range(len(specs[a].shape)))


def framed(graph: Graph, frames: Frames) -> Graph:
    """A nested graph over frames."""
    nodes: list[Node] = []
    for node in graph.nodes:
        try:
            made = op_of(node).frame(node, frames)
        except Refused as error:
            raise Refused(f"in it, node {node.name!r} ({node.op}): {error}") from None
        nodes += [made] if isinstance(made, Node) else made
    return Graph(graph.name, list(graph.inputs), list(graph.outputs), {}, {}, nodes)


def one_element(what: str, spec: Spec | None, dtype: np.dtype[np.generic]) -> None:
    if spec is not None and (spec.dtype != dtype or spec.elements != 1):
        raise Refused(f"its {what} is {spec}; it must be one {dtype}")


@register
class If(ControlFlow):
    """ONNX If: the branch that is known at load replaces it; otherwise both are compiled and one of them runs."""

    name = "If"
    inputs = ("cond", "captured*")
    outputs = ("outputs*",)
    attributes: ClassVar = {"then_branch": REQUIRED, "else_branch": REQUIRED}

    def branches(self, node: Node) -> tuple[Graph, Graph]:
        both = tuple(node.attributes.get(key) for key in self.attributes)
        if not all(isinstance(b, Graph) and not b.inputs and len(b.outputs) == len(node.outputs) for b in both):
            raise Refused(f"its branches must be graphs without inputs and with {len(node.outputs)} outputs")
        return both  # type: ignore[return-value]

    def arguments(self, node: Node) -> int:
        return 1

    def enter(self, node: Node, key: str, specs: Sequence[Spec | None]) -> list[Spec]:
        return []

    def choose(self, node: Node, constants: Mapping[str, Array]) -> str | None:
        condition = constants.get(node.inputs[0])
        if condition is None or condition.size != 1:
            return None
        return "then_branch" if condition.ravel()[0] else "else_branch"

    def inline(self, node: Node, key: str) -> list[Node]:
        self.branches(node)
        branch = node.copy().attributes[key]
        give_names(branch, list(enumerate(node.outputs)))
        passed = [
            Node("Identity", f"{node.name}.{name}", (made,), (name,), {}, node.version)
            for made, name in zip(branch.outputs, node.outputs, strict=True)
            if name and made != name
        ]
        return [*branch.nodes, *passed]

    def prune(self, node: Node) -> None:
        kept = [place for place, name in enumerate(node.outputs) if name]
        for branch in self.branches(node):
            branch.outputs = [branch.outputs[place] for place in kept]
        node.outputs = tuple(name for name in node.outputs if name)

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        self.branches(node)
        one_element("cond", specs[0], np.dtype(np.bool_))

    def learn(self, node: Node, constants: Mapping[str, Array]) -> None:
        if node.inputs[0] in constants:
            raise Refused(
                "which branch runs depends on the sizes that the file leaves open; fix them: bind={name of the size: number}"
            )

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        then_branch, else_branch = self.branches(node)
        pairs = [
            (then_branch.specs[a], else_branch.specs[b]) for a, b in zip(then_branch.outputs, else_branch.outputs, strict=True)
        ]
        for a, b in pairs:
            if a != b:
                raise Refused(f"its branches make {a} and {b}; supported are branches that make the same shape and type")
        return [a for a, _ in pairs]

    def compute(self, node: Node, arrays: Sequence[Array | None], run: RunGraph) -> tuple[Array, ...]:
        assert arrays[0] is not None
        then_branch, else_branch = self.branches(node)
        return tuple(run(then_branch if np.ravel(arrays[0])[0] else else_branch, []))

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield from super().links(node, specs)
        for branch in self.branches(node):
            for made, name in zip(branch.outputs, node.outputs, strict=True):
                yield from same_axes(specs, made, name)

    def frame(self, node: Node, frames: Frames) -> Node:
        bodies = {key: framed(inner, frames) for key, inner in node.nested()}
        for body in bodies.values():
            give_names(body, list(enumerate(node.outputs)))
        return frames.node(node, bodies)

    def row_by_row(self, node: Node, per_row: Callable[[str], bool]) -> bool:
        return per_row(node.inputs[0])

    def lower(self, node: Node, env: Lowering) -> list[Call | Open | Close | Body]:
        blocks: list[Call | Open | Close | Body] = []
        for head, branch in zip(("if get(u8({}), 0) != 0:", "else:"), self.branches(node), strict=True):
            operands = (Value(node.inputs[0]),) if "{}" in head else ()
            passed = copies(env, list(zip(node.outputs, branch.outputs, strict=True)))
            blocks += [Open(head, operands), Body(branch), *passed, Close()]
        return by_row(blocks, node.inputs[0]) if self.row_by_row(node, env.per_row) else blocks
