"""Convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from tinyrnn.ir import Node, Spec
from tinyrnn.op import OURS, Array, Axis, Frames, Op, Refused, register


@register
class Conv(Op):
    """ONNX Conv with a kernel of one element: a matrix product over channels."""

    name = "Conv"
    inputs = ("X", "W", "B?")
    attributes = {"auto_pad": "NOTSET", "dilations": None, "group": 1, "kernel_shape": None, "pads": None, "strides": None}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x, w = specs[0], specs[1]
        assert x is not None and w is not None
        for attribute, neutral in (("strides", 1), ("pads", 0)):
            if any(v != neutral for v in self.attribute(node, attribute) or []):
                raise Refused(f"{attribute}={list(self.attribute(node, attribute))}; supported is {neutral} on every axis")
        if any(n != 1 for n in w.sizes[2:]) or self.attribute(node, "group") != 1:
            raise Refused(
                f"kernel {list(w.sizes[2:])} in {self.attribute(node, 'group')} groups; "
                f"supported is a kernel of one element in one group"
            )
        return [Spec(x.dtype, (x.shape[0], w.shape[0], *x.shape[2:]))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis in range(len(specs[node.inputs[0]].shape)):
            if axis != 1:
                yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        weights, bias = (frames.constants.get(name) for name in [*node.inputs[1:], ""][:2])
        if weights is None:
            raise Refused("its weights depend on the input")
        if prod(frames.shape(source)) != frames.specs[source].sizes[1]:
            raise Refused(f"it runs over {frames.shape(source)} positions inside one frame; supported is one position")
        matrix = weights.reshape(weights.shape[:2]).T
        as_linear = Node("Linear", node.name, node.inputs[:1], node.outputs, {"W": matrix, "B": bias}, domain=OURS)
        return frames.node(as_linear, shapes=[(matrix.shape[0],)])

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, w = arrays[0], arrays[1]
        assert x is not None and w is not None
        y = np.einsum("nc...,mc->nm...", x, w.reshape(w.shape[:2]))
        if len(arrays) > 2 and arrays[2] is not None:
            y = y + arrays[2].reshape(1, -1, *[1] * (x.ndim - 2))
        return (y,)
