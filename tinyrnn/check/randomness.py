"""Values that depend on random numbers, and so cannot be compared with those of another runtime."""

from __future__ import annotations

from collections.abc import Mapping

from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import op_of


def random_values(graph: Graph, states: Mapping[str, str]) -> set[str]:
    """The values of a file graph that depend on random numbers, in this step or, through a state, in a later one."""
    found: set[str] = set()
    before = -1
    while len(found) > before:
        before = len(found)
        for node in graph.nodes:
            if _draws(node) or not found.isdisjoint(node.inputs):
                found.update(name for name in node.outputs if name)
        found.update(start for start, end in states.items() if end in found)
    return found


def random_state_parts(graph: Graph, values: set[str]) -> tuple[str, ...]:
    """Prefixes of the names of those states inside of nodes that depend on random numbers."""
    return tuple(f"{node.name}." for node in graph.nodes if not values.isdisjoint(node.outputs))


def _draws(node: Node) -> bool:
    return op_of(node).random or any(_draws(inner) for _, graph in node.nested() for inner in graph.nodes)
