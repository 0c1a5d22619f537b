"""How outputs are computed from an input: the paths through the graph from a state to its next value."""

from __future__ import annotations

from dataclasses import dataclass

from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import op_of

FAR = 1 << 30


@dataclass(frozen=True, order=True)
class Way:
    """The length of the shortest path from an input to a value; shorter ones compare less."""

    mixed: int
    """number of operators after which elements no longer correspond by place (a matrix product)"""
    made: int
    """number of operators that compute elements one by one"""


NONE = Way(FAR, FAR)
HERE = Way(0, 0)


@dataclass
class Paths:
    """All values that depend on one input, and how."""

    ways: dict[str, Way]
    kept: set[str]
    """values that consist of its elements only, rearranged"""
    joined: set[str]
    """values that consist of some of its elements and of others, rearranged: a cache with new frames"""
    carried: set[str]
    """values that are the final state of a recurrent operator that starts from it, possibly masked"""

    def way(self, name: str) -> Way:
        return self.ways.get(name, NONE)

    def strong(self, name: str) -> bool:
        """Whether the path to this value shows that the input is a state."""
        return name in self.joined or name in self.carried

    def alike(self, name: str) -> bool:
        """Whether every element corresponds to one of the input's, but is computed, not only moved."""
        return self.way(name).mixed == 0 and name not in self.kept


def paths(graph: Graph, source: str) -> Paths:
    """The paths from an input of a graph whose shapes are known."""
    found = Paths({source: HERE}, {source}, set(), set())
    for node in graph.nodes:
        if any(name in found.ways for name in node.inputs):
            _follow(graph, node, found)
    return found


def _follow(graph: Graph, node: Node, found: Paths) -> None:
    op = op_of(node)
    given = [name for name in node.inputs if name in found.ways]
    carried = [(a, b) for a, b in op.carried(node) if a in found.ways and found.ways[a].mixed == 0]
    for output in filter(None, node.outputs):
        states = [a for a, b in carried if b == output]
        if states:
            found.carried.add(output)
            found.ways[output] = min(found.ways[a] for a in states)
        elif op.moves:
            others = [name for name in node.inputs if name and name not in found.ways and name not in graph.constants]
            found.ways[output] = min(found.ways[name] for name in given)
            if any(name in found.carried for name in given):
                found.carried.add(output)
            elif any(name in found.joined for name in given) or (others and any(name in found.kept for name in given)):
                found.joined.add(output)
            elif all(name in found.kept for name in given):
                found.kept.add(output)
        else:
            near = []
            for name in given:
                way = found.ways[name]
                whole = graph.specs[name].elements == graph.specs[output].elements
                in_place = whole and (op.elementwise or (op.in_place and name == node.inputs[0]))
                near.append(Way(way.mixed, way.made + 1) if in_place else Way(way.mixed + 1, 0))
            found.ways[output] = min(near)
