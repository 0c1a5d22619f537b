"""Checks of every frontend: names are valid, and each value is computed once, before it is read (topological order)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinyrnn.errors import LoadError
from tinyrnn.graph.ir import Graph, Node, free_names

DEEPEST = 32
"""most levels of nested graphs"""


def model_name(stem: str) -> str:
    """A model's name as text that is safe in generated source."""
    return "".join(c if c.isprintable() and c not in '"\\' else "_" for c in stem) or "model"


def check_names(path: Path, names: Iterable[Any]) -> None:
    """Raise `LoadError` for a name that is not plain text, since names appear in messages and in generated source."""
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise LoadError(f"{path}: the name {name[:80]!r} is no plain text; rename it")


def ordered(path: Path, graph: Graph) -> list[Node]:
    """The nodes in topological order; independent nodes keep the order of the file.

    Nested graphs are sorted too. Raises `LoadError` for a value that is computed twice, never, or from itself.
    """
    check_names(path, [*graph.constants, *(s for spec in graph.specs.values() for s in spec.shape if isinstance(s, str))])
    nodes = _in_order(path, graph, {"", *graph.inputs, *graph.constants})
    made = {"", *graph.inputs, *graph.constants, *(name for node in graph.nodes for name in node.outputs)}
    for node in nodes:
        _order_nested(path, node, made, 1)
    return nodes


def _order_nested(path: Path, node: Node, made: set[str], depth: int) -> None:
    for key, inner in node.nested():
        what = f"{key} of node {node.name!r} ({node.op})"
        if depth > DEEPEST:
            raise LoadError(f"{path}: {what} nests graphs more than {DEEPEST} deep")
        free = free_names(inner)
        outside = next((name for name in free if name not in node.inputs or name not in made), None)
        if outside is not None:
            raise LoadError(f"{path}: {what} reads {outside!r}, which nothing makes")
        inner.nodes = _in_order(path, inner, {"", *inner.inputs, *free})
        own = [name for name in (*inner.inputs, *(v for n in inner.nodes for v in n.outputs)) if name]
        twice = next((name for name in own if name in made), None)
        if twice is not None:
            raise LoadError(f"{path}: {what} makes {twice!r}, which is made elsewhere")
        made.update(own)
        for within in inner.nodes:
            _order_nested(path, within, made, depth + 1)


def _in_order(path: Path, graph: Graph, given: set[str]) -> list[Node]:
    check_names(
        path,
        [
            *graph.inputs,
            *graph.outputs,
            *(n.name for n in graph.nodes),
            *(v for n in graph.nodes for v in (*n.inputs, *n.outputs)),
        ],
    )
    for kind, names in (("input", graph.inputs), ("output", graph.outputs)):
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise LoadError(f"{path}: {kind} {twice!r} is listed twice")
    maker: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.outputs:
            if name in maker or (name and name in given):
                raise LoadError(f"{path}: value {name!r} is made twice, the second time by node {node.name!r} ({node.op})")
            if name:
                maker[name] = index
    for node in graph.nodes:
        for name in node.inputs:
            if name not in given and name not in maker:
                raise LoadError(f"{path}: node {node.name!r} ({node.op}) reads {name!r}, which nothing makes")
    for name in graph.outputs:
        if not name or (name not in given and name not in maker):
            raise LoadError(f"{path}: output {name!r} is made by no node")
    return _by_depth(path, graph.nodes, maker)


def _by_depth(path: Path, nodes: list[Node], maker: dict[str, int]) -> list[Node]:
    needs = [{maker[name] for name in node.inputs if name in maker} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(needs):
        for other in before:
            readers[other].append(index)
    missing = [len(before) for before in needs]
    depth = [0] * len(nodes)
    ready = deque(index for index, count in enumerate(missing) if count == 0)
    while ready:
        index = ready.popleft()
        for reader in readers[index]:
            depth[reader] = max(depth[reader], depth[index] + 1)
            missing[reader] -= 1
            if missing[reader] == 0:
                ready.append(reader)
    if any(missing):
        index = _on_cycle(needs, missing)
        raise LoadError(f"{path}: its nodes form a cycle through {nodes[index].name!r} ({nodes[index].op})")
    return [nodes[index] for index in sorted(range(len(nodes)), key=depth.__getitem__)]


def _on_cycle(needs: list[set[int]], missing: list[int]) -> int:
    """A node of a cycle: follow inputs back from a node that never became ready until a node is met again."""
    index, seen = next(i for i, count in enumerate(missing) if count), set[int]()
    while index not in seen:
        seen.add(index)
        index = min(other for other in needs[index] if missing[other])
    return index
