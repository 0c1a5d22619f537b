"""Join chains of element-wise nodes into single loops."""

from __future__ import annotations

from tinyrnn.ir import Node
from tinyrnn.op import op_of
from tinyrnn.ops.elementwise import chain_node, in_vectors
from tinyrnn.passes.rows import Program

LONGEST = 12
"""nodes in one loop: more would not fit the registers"""


def fuse(program: Program) -> None:
    """Give every element-wise node to the loop of its only consumer where both have the same rows, shape and kind of loop."""
    graph = program.graph
    consumers = graph.consumers()
    chains: dict[str, list[Node]] = {}
    into: dict[str, str] = {}

    for node in reversed(graph.nodes):
        if not op_of(node).elementwise:
            continue
        output = node.outputs[0]
        users = consumers.get(output, [])
        head = None
        if output not in graph.outputs and users and all(op_of(u).elementwise for u in users):
            heads = {into.get(u.outputs[0]) for u in users}
            head = heads.pop() if len(heads) == 1 else None
        if head is not None:
            last = chains[head][-1]
            fits = (
                graph.specs[last.outputs[0]].shape == graph.specs[output].shape
                and in_vectors(last, graph.specs, graph.constants) == in_vectors(node, graph.specs, graph.constants)
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
