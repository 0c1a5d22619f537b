"""Value numbering of a graph: equal values get one name, and slices of an axis are recognised as its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from tinyrnn.graph.ir import Graph, Node, Spec, spec_of
from tinyrnn.graph.limits import check_time
from tinyrnn.graph.op import Array, op_of
from tinyrnn.ops.loops.control_flow import rename
from tinyrnn.ops.movement.concat import Split
from tinyrnn.ops.movement.operators import Slice
from tinyrnn.ops.random import Random

SYMMETRIC = ("Add", "Mul")

FIXED = -1
"""the step of values that do not depend on any slice"""


class Family(NamedTuple):
    """The slices of a value along one axis, with or without that axis."""

    source: str
    axis: int
    spec: Spec


class Values:
    """The value numbers of a graph's values and of its nodes."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes, self._held = graph, list[Node](), list(graph.nodes)
        self.names: dict[str, str] = {}
        self.makers: dict[str, Node] = {}
        self._arrays: dict[int, bytes] = {}
        self._kinds: dict[Any, int] = {}
        self._constants: dict[bytes, str] = {}
        self._made: dict[tuple[int, tuple[str, ...]], Node] = {}
        self._inputs: dict[int, tuple[str, ...]] = {}
        self._kind_of: dict[int, int] = {}
        for node in graph.nodes:
            self._add(node)

    def _add(self, node: Node) -> None:
        check_time()
        inputs = tuple(self.name(i) for i in node.inputs)
        kind = self.kind(node)
        equal = self._made.setdefault((kind, inputs), node)
        self._inputs[id(node)] = inputs
        if equal is not node and all(theirs for own, theirs in zip(node.outputs, equal.outputs, strict=False) if own):
            self.names.update((own, theirs) for own, theirs in zip(node.outputs, equal.outputs, strict=False) if own)
            return
        self.nodes.append(node)
        self.makers |= {name: node for name in node.outputs if name}

    def _digest(self, array: Array) -> bytes:
        if id(array) not in self._arrays:
            text = f"{array.dtype}{array.shape}".encode()
            self._arrays[id(array)] = sha256(text + np.ascontiguousarray(array).tobytes()).digest()
        return self._arrays[id(array)]

    def _find_kind(self, node: Node) -> int:
        own = isinstance(op_of(node), Random) or any(True for _ in node.nested())
        found = tuple(
            (key, self._digest(value) if isinstance(value, np.ndarray) else (type(value).__name__, repr(value)))
            for key, value in sorted(node.attributes.items())
            if not isinstance(value, Graph)
        )
        key = (node.op, node.domain, node.version, len(node.outputs), found, id(node) if own else 0)
        return self._kinds.setdefault(key, len(self._kinds))

    def name(self, name: str) -> str:
        """The representative name of a value."""
        found = self.names.get(name)
        if found is None:
            constant = self.graph.constants.get(name)
            found = name if constant is None else self._constants.setdefault(self._digest(constant), name)
            self.names[name] = found
        return found

    def kind(self, node: Node) -> int:
        """A number for a node's operator and attributes, the same for equal ones."""
        if id(node) not in self._kind_of:
            self._kind_of[id(node)] = self._find_kind(node)
        return self._kind_of[id(node)]

    def inputs(self, node: Node) -> tuple[str, ...]:
        """The inputs of a node by their representative names."""
        return self._inputs[id(node)]

    def like(self, node: Node, inputs: Sequence[str]) -> Node | None:
        """The node with the same operator and attributes as `node` on these inputs, or None."""
        found = self._made.get((self.kind(node), tuple(inputs)))
        if found is None and node.op in SYMMETRIC:
            found = self._made.get((self.kind(node), tuple(inputs[::-1])))
        return found

    def spec(self, name: str) -> Spec:
        return self.graph.specs.get(name) or spec_of(self.graph.constants[name])

    def merge(self) -> None:
        """Replace equal values in the graph by one (common subexpression elimination)."""
        graph, kept = self.graph, {id(node) for node in self.nodes}
        rename(self.nodes, {name: one for name, one in self.names.items() if name != one})
        wanted = {name for name in graph.outputs if self.names.get(name, name) != name}
        again = [
            Node("Identity", f"{name}.again", (self.names[name],), (name,), {}, node.version)
            for node in graph.nodes
            if id(node) not in kept
            for name in node.outputs
            if name in wanted
        ]
        graph.nodes = [*self.nodes, *again]

    def picks(self, node: Node) -> Iterator[tuple[str, int, int]]:
        """(output, axis, index) of outputs that are single slices of the node's first input."""
        op, source = op_of(node), node.inputs[0] if node.inputs else ""
        sizes = self.spec(source).sizes if source else ()
        if node.domain or not sizes:
            return
        if node.op == "Gather":
            index = self.graph.constants.get(node.inputs[1])
            axis = int(node.attributes.get("axis", 0)) % len(sizes)
            if index is not None and index.size == 1:
                yield node.outputs[0], axis, int(index.ravel()[0]) % sizes[axis]
        elif isinstance(op, Slice):
            taken = [(axis, r) for axis, r in enumerate(op.slices(node, sizes)) if r != range(sizes[axis])]
            if len(taken) == 1 and len(taken[0][1]) == 1:
                yield node.outputs[0], taken[0][0], taken[0][1][0]
        elif isinstance(op, Split):
            axis = int(op.attribute(node, "axis")) % len(sizes)
            parts = op.sizes(node, sizes[axis])
            for place, name in enumerate(node.outputs):
                if name and parts[place] == 1 and len(parts) > 1:
                    yield name, axis, sum(parts[:place])


@dataclass
class Levels:
    """The steps of a graph: slices of axes of one length, and what depends on them."""

    count: int
    level: dict[str, int]
    """value → the last step on whose slices it depends, or `FIXED`"""
    slices: dict[tuple[Family, int], str]
    family: dict[str, Family]
    nodes: list[list[Node]]
    """the nodes of each step, without those that make slices"""


def lengths(values: Values) -> list[int]:
    """The lengths of axes that are sliced step by step, the most frequent first."""
    found: dict[tuple[str, int], set[int]] = {}
    for node in values.nodes:
        for _, axis, index in values.picks(node):
            found.setdefault((values.inputs(node)[0], axis), set()).add(index)
    counts: dict[int, int] = {}
    for (source, axis), indices in found.items():
        n = values.spec(source).sizes[axis]
        if len(indices) >= max(n - 1, 2):
            counts[n] = counts.get(n, 0) + n
    return sorted(counts, key=lambda n: -counts[n])


def levels_of(values: Values, count: int, backwards: bool) -> Levels:
    """The steps of all values, where axes of length `count` are sliced."""
    complete: dict[tuple[str, int], set[int]] = {}
    for node in values.nodes:
        for _, axis, index in values.picks(node):
            complete.setdefault((values.inputs(node)[0], axis), set()).add(index)
    found = Levels(count, {}, {}, {}, [[] for _ in range(count)])
    for node in values.nodes:
        inputs = values.inputs(node)
        level = max((found.level.get(name, FIXED) for name in inputs if name), default=FIXED)
        picked = {name: (axis, index) for name, axis, index in values.picks(node)} if level == FIXED else {}
        taken = False
        for name in filter(None, node.outputs):
            axis, index = picked.get(name, (0, 0))
            whole = name in picked and values.spec(inputs[0]).sizes[axis] == count
            if whole and len(complete[inputs[0], axis]) >= count - 1:
                family, step = Family(inputs[0], axis, values.spec(name)), count - 1 - index if backwards else index
                found.level[name], found.family[name], taken = step, family, True
                found.slices.setdefault((family, step), name)
            else:
                found.level[name] = level
        if level != FIXED and not taken:
            found.nodes[level].append(node)
    return found
