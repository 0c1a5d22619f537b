"""`Restack`: a list of slices of one tensor, stacked or joined again, which becomes a transposition and a view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import OURS, REQUIRED, Array, Op, register, rewrite


@register
class Restack(Op):
    """The slices of X along axis `source`, stacked along a new `axis` or, with `joins`, concatenated along it."""

    name = "Restack"
    inputs = ("X",)
    internal = True
    moves = True
    attributes: ClassVar = {"source": REQUIRED, "kept": REQUIRED, "axis": REQUIRED, "joins": REQUIRED}

    def _places(self, node: Node, shape: Sequence[int]) -> tuple[int, list[int], int]:
        """The axis of X, the shape of a slice, the axis of the output."""
        source, slice_shape = node.attributes["source"] % len(shape), list(shape)
        if node.attributes["kept"]:
            slice_shape[source] = 1
        else:
            del slice_shape[source]
        return source, slice_shape, node.attributes["axis"] % (len(slice_shape) + (not node.attributes["joins"]))

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        source, shape, axis = self._places(node, specs[0].sizes)
        count = specs[0].sizes[source]
        if node.attributes["joins"]:
            shape[axis] *= count
        else:
            shape.insert(axis, count)
        return [Spec(specs[0].dtype, tuple(shape))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        source, shape, axis = self._places(node, arrays[0].shape)
        slices = [one.reshape(shape) for one in np.moveaxis(arrays[0], source, 0)]
        return (np.concatenate(slices, axis) if node.attributes["joins"] else np.stack(slices, axis),)

    def moved(self, node: Node, shape: Sequence[int]) -> list[int]:
        """The axes of X in the order in which the output holds them."""
        source, _, axis = self._places(node, shape)
        rest = [a for a in range(len(shape)) if a != source]
        rest.insert(axis - (node.attributes["kept"] and axis > source), source)
        return rest


@rewrite
def lists_move_axes(graph: Graph) -> None:
    """Rewrite `Restack` as a transposition and a view."""
    op, nodes = Restack(), list[Node]()
    for node in graph.nodes:
        if (node.domain, node.op) != (OURS, Restack.name):
            nodes.append(node)
            continue
        spec = graph.specs[node.inputs[0]]
        perm = op.moved(node, spec.sizes)
        moved = graph.fresh(f"{node.outputs[0]}.moved")
        graph.specs[moved] = Spec(spec.dtype, tuple(spec.sizes[a] for a in perm))
        shape = list(graph.specs[node.outputs[0]].sizes)
        nodes.append(Node("Transpose", f"{node.name}.moved", node.inputs, (moved,), {"perm": perm}))
        nodes.append(Node("Reshape", node.name, (moved,), node.outputs, {"shape": shape, "allowzero": 1}))
    graph.nodes = nodes
