"""A folded graph in float64, with the loops that were rolled in it: an oracle for what rolls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import Array
from tinyrnn.passes import bound
from tinyrnn.passes.dead_code import remove_dead
from tinyrnn.passes.fold import fold
from tinyrnn.targets.reference import Reference


def folded(graph: Graph, values: Mapping[str, Any] | None = None) -> Graph:
    """The graph with all shapes known, before anything is recognised in it."""
    made, _ = fold(bound(graph, values, None), 0)
    remove_dead(made)
    return made


def outputs_of(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a graph that `reroll_steps` may have been at."""
    seen = graph.copy()
    seen.nodes = [_as_scan(node) if node.op == "Iterate" else node for node in seen.nodes]
    return Reference(seen).run(inputs)


def _as_scan(node: Node) -> Node:
    """The loop as ONNX has it."""
    get = node.attributes
    attributes = {"body": get["body"], "num_scan_inputs": len(get["scanned"])}
    for key, pairs in (("input", get["scanned"]), ("output", get["stacked"])):
        attributes[f"scan_{key}_axes"] = [axis for axis, _ in pairs]
        attributes[f"scan_{key}_directions"] = [int(back) for _, back in pairs]
    return Node("Scan", node.name, node.inputs[2:], node.outputs, attributes, 16)
