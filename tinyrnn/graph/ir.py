"""The graph between a file and a plan: values with a dtype and a shape, nodes in topological order.

Two stages share these types. A *file graph* has the file's own shapes, where a size left open is its
name (a `str`). A *frame graph*, which the time pass makes, has frame shapes: the time and the batch
axis are gone, every size is an int, and each node states the shape in which it sees each input.

A node may hold graphs of its own, as attributes. Names are unique in the whole model; constants and specs are kept
by the outermost graph (a nested one knows the specs of its own inputs and outputs). What a nested graph reads from
outside stands among the inputs of its node, after those of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.storage import Storage

Size = int | str


@dataclass(frozen=True)
class Spec:
    """Type and shape of a value; open sizes are names."""

    dtype: np.dtype[Any]
    shape: tuple[Size, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape, where all sizes are known."""
        if not all(isinstance(size, int) for size in self.shape):
            raise TypeError(f"the sizes of {self} are not all known")
        return self.shape  # type: ignore[return-value]

    @property
    def elements(self) -> int:
        return prod(self.sizes)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def spec_of(array: np.ndarray[Any, Any]) -> Spec:
    return Spec(array.dtype, tuple(array.shape))


@dataclass
class Node:
    """One operation. Names connect nodes; the empty name is an input or output that is absent."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    """opset version of the operator's domain"""
    domain: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    """frame graph: the shape in which the node sees each input"""

    def nested(self) -> Iterator[tuple[str, Graph]]:
        """The nested graphs of the node: (attribute, graph)."""
        yield from ((key, value) for key, value in self.attributes.items() if isinstance(value, Graph))

    def copy(self) -> Node:
        """A copy for rewriting, nested graphs included; arrays are shared."""
        attributes = {k: v.copy() if isinstance(v, Graph) else v for k, v in self.attributes.items()}
        return Node(self.op, self.name, self.inputs, self.outputs, attributes, self.version, self.domain, self.shapes)

    def __str__(self) -> str:
        shown = {
            k: f"<{v.dtype}{list(v.shape)}>"
            if isinstance(v, np.ndarray) and v.size > 8
            else f"<{len(v.nodes)} nodes>"
            if isinstance(v, Graph)
            else v
            for k, v in self.attributes.items()
        }
        attributes = ", ".join(f"{k}={v}" for k, v in shown.items())
        return (
            f"{', '.join(self.outputs)} = {self.op}({', '.join(i or '-' for i in self.inputs)}"
            f"{'; ' + attributes if attributes else ''})"
        )


@dataclass
class Graph:
    """A model: its inputs and outputs by name, the constants, and the nodes in topological order."""

    name: str
    inputs: list[str]
    outputs: list[str]
    specs: dict[str, Spec]
    constants: dict[str, np.ndarray[Any, Any]]
    nodes: list[Node]
    metadata: dict[str, str] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)
    """files in the model's folder with external data → time of their last change in ns"""
    storage: Mapping[str, Storage] = field(default_factory=dict)
    """layer, or "*" → how its weights are stored, as the user asked for"""
    integers: bool = False
    """whether constants were made from integers and scales"""

    @property
    def nbytes(self) -> int:
        """Total bytes of the constants."""
        return sum(array.nbytes for array in self.constants.values())

    def producers(self) -> dict[str, Node]:
        return {output: node for node in self.nodes for output in node.outputs if output}

    def consumers(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def every_node(self) -> Iterator[Node]:
        """All nodes; those of nested graphs follow the node that contains them."""
        for node in self.nodes:
            yield node
            for _, inner in node.nested():
                yield from inner.every_node()

    def every_name(self) -> set[str]:
        """The names of all inputs and outputs of nodes, nested ones included."""
        nodes = list(self.every_node())
        own = [name for n in nodes for _, inner in n.nested() for name in (*inner.inputs, *inner.outputs)]
        return {*own, *(name for n in nodes for name in (*n.inputs, *n.outputs))} - {""}

    def fresh(self, stem: str) -> str:
        """A value name, starting with `stem`, that is not in use."""
        name, count = stem, 0
        while name in self.specs or name in self.constants:
            count += 1
            name = f"{stem}.{count}"
        return name

    def copy(self) -> Graph:
        """A copy for rewriting; arrays are shared."""
        nodes = [node.copy() for node in self.nodes]
        return Graph(
            self.name,
            list(self.inputs),
            list(self.outputs),
            dict(self.specs),
            dict(self.constants),
            nodes,
            dict(self.metadata),
            dict(self.beside),
            self.storage,
            self.integers,
        )

    def __str__(self) -> str:
        lines = [f"graph {self.name}"]
        lines += [f"  input  {name}: {self.specs[name]}" for name in self.inputs]
        lines += self._lines(self.specs, "  ")
        lines += [f"  output {name}: {self.specs.get(name, '?')}" for name in self.outputs]
        return "\n".join(lines)

    def _lines(self, specs: dict[str, Spec], indent: str) -> Iterator[str]:
        for node in self.nodes:
            yield f"{indent}{node}"
            yield from (f"{indent}    {name}: {specs[name]}" for name in node.outputs if name in specs)
            for key, inner in node.nested():
                yield f"{indent}    {key} ({', '.join(inner.inputs)}) → ({', '.join(inner.outputs)})"
                yield from inner._lines(specs, indent + "      ")


def free_names(graph: Graph) -> list[str]:
    """The captured values of a nested graph: read in it, but neither computed there nor its inputs; in the order of use."""
    made = {"", *graph.inputs, *(name for node in graph.nodes for name in node.outputs)}
    read: Iterable[str] = (*(name for node in graph.nodes for name in node.inputs), *graph.outputs)
    return list(dict.fromkeys(name for name in read if name not in made))


def refresh_captures(node: Node, arguments: int) -> None:
    """Update a node's inputs after the first `arguments`: the captured values of its nested graphs."""
    captures = dict.fromkeys(name for _, inner in node.nested() for name in free_names(inner))
    node.inputs = (*node.inputs[:arguments], *captures)
