"""Fusion of chains of element-wise nodes into single loops."""

from __future__ import annotations

from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import op_of
from tinyrnn.ops.elementwise.operators import chain_node, in_vectors
from tinyrnn.passes.rows import Program

LONGEST = 12
"""most nodes in one loop: more would not fit the registers"""


def fuse(program: Program) -> None:
    """Fuse every element-wise node with its only consumer, if both have the same rows, shape and kind of loop."""
    _fuse(program, program.graph, set(program.graph.outputs))


def _fuse(program: Program, graph: Graph, kept: set[str]) -> None:
    for node in graph.nodes:
        for _, inner in node.nested():
            _fuse(program, inner, {*inner.outputs, *node.outputs})
    consumers, specs = graph.consumers(), program.graph.specs
    chains: dict[str, list[Node]] = {}
    into: dict[str, str] = {}

    for node in reversed(graph.nodes):
        if not op_of(node).elementwise:
            continue
        output = node.outputs[0]
        users = consumers.get(output, [])
        head = None
        if output not in kept and users and all(op_of(u).elementwise for u in users):
            heads = {into.get(u.outputs[0]) for u in users}
            head = heads.pop() if len(heads) == 1 else None
        if head is not None:
            last = chains[head][-1]
            fits = (
                specs[last.outputs[0]].shape == specs[output].shape
                and in_vectors(last, specs, program.graph.constants) == in_vectors(node, specs, program.graph.constants)
                and len(chains[head]) < LONGEST
                and (output in program.per_row) == (last.outputs[0] in program.per_row)
            )
            head = head if fits else None
        if head is None:
            head = output
            chains[head] = []
        chains[head].insert(0, node)
        into[output] = head

    fused = []
    for node in graph.nodes:
        head = into.get(node.outputs[0])
        if head is None:
            fused.append(node)
        elif node.outputs[0] == head:
            chain = chains[head]
            fused.append(node if len(chain) == 1 else chain_node(chain))
    graph.nodes = fused
