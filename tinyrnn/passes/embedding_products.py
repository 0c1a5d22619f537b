"""Multiply embeddings at load: an embedding followed by a product with weights becomes a lookup in the table of products."""

from __future__ import annotations

from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import Array, op_of
from tinyrnn.passes.dead_code import remove_dead
from tinyrnn.passes.rows import Program


def multiply_embeddings(program: Program) -> None:
    """Replace, where a node supports it, an embedding and its product by a lookup in the products; remove unused lookups."""
    graph = program.graph
    producers = graph.producers()
    for number, node in enumerate(graph.nodes):
        found = _looked_up(node.inputs[0] if node.inputs else "", producers, graph)
        taken = None if found is None else op_of(node).with_products(node, *found, graph.specs)
        if taken is not None:
            graph.nodes[number] = taken
    remove_dead(graph)


def _looked_up(name: str, producers: dict[str, Node], graph: Graph) -> tuple[Array, str] | None:
    """The table [entries, size] and the name of the indices, where a value is looked up in a constant; else None."""
    while name in producers:
        node = producers[name]
        found = op_of(node).looks_up(node, graph.constants)
        if found is not None:
            return found
        name = op_of(node).alias(node) or ""
    return None
