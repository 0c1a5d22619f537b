"""Causality: whether a frame's output needs values that are known only when the sequence has ended."""

from __future__ import annotations

from collections.abc import Collection

from tinyrnn.graph.ir import Graph, Node


def not_causal(graph: Graph, per_row: Collection[str]) -> str:
    """Why a frame graph is not causal: the first node that reads, for every row, a value made from all rows; '' if none.

    per_row: the values with one row per frame; all others belong to a call or are constant
    """
    made_by: dict[str, Node] = {}
    for node in graph.nodes:
        read = next((name for name in node.inputs if name in made_by), "")
        rows = [name for name in node.outputs if name in per_row]
        if read and (rows or any(name in per_row for name in node.inputs)):
            source = made_by[read]
            return (
                f"node {node.name!r} ({node.op}): it uses {read!r} in every frame, which node {source.name!r} ({source.op}) "
                f"makes of the whole sequence"
            )
        if read or any(name in per_row for name in node.inputs):
            made_by.update((name, made_by.get(read, node)) for name in node.outputs if name and name not in per_row)
    return ""
