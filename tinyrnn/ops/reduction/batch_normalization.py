"""Batch normalisation of a trained model: one multiply-add per element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.ir import Graph, Node, Spec, spec_of
from tinyrnn.graph.op import OURS, Array, Op, Refused, register, rewrite
from tinyrnn.ops.elementwise.operators import Elementwise


@register
class BatchNormalization(Op):
    """ONNX BatchNormalization of a trained model: (X - mean) / sqrt(var + epsilon) · scale + B for each channel."""

    name = "BatchNormalization"
    in_place = True
    inputs = ("X", "scale", "B", "input_mean", "input_var")
    outputs = ("Y", "running_mean?", "running_var?", "saved_mean?", "saved_var?")
    parameters: ClassVar[dict[str, int]] = {"scale": 1, "B": 2, "input_mean": 3, "input_var": 4}
    attributes: ClassVar[dict[str, Any]] = {
        "epsilon": 1e-5,
        "momentum": 0.9,
        "spatial": 1,
        "training_mode": 0,
        **dict.fromkeys(parameters),
    }

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if self.attribute(node, "training_mode") or any(node.outputs[1:]):
            raise Refused("it is in training mode; supported is a trained model, whose output is Y alone: export it in eval mode")

    def _channel_axes(self, node: Node, rank: int) -> list[int]:
        """The axes along which the parameters vary."""
        return list(range(1, rank if not self.attribute(node, "spatial") else min(rank, 2)))

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x = specs[0]
        assert x is not None
        wanted = tuple(x.sizes[a] for a in self._channel_axes(node, len(x.shape))) or (1,)
        for name in self.parameters:
            if self.attribute(node, name).shape != wanted:
                raise Refused(f"its {name} is {list(self.attribute(node, name).shape)}; for {x} it would be {list(wanted)}")
        return [x]

    def factor_and_offset(self, node: Node, rank: int) -> tuple[Array, Array]:
        """Y = X · factor + offset, in float64, broadcast to an input of this rank."""
        scale, bias, mean, variance = (np.asarray(self.attribute(node, name), np.float64) for name in self.parameters)
        factor = scale / np.sqrt(variance + self.attribute(node, "epsilon"))
        shape = (*factor.shape, *[1] * (rank - 1 - factor.ndim)) if rank > 1 else ()
        return factor.reshape(shape), (bias - mean * factor).reshape(shape)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        factor, offset = self.factor_and_offset(node, x.ndim)
        return (np.asarray(x * factor + offset, x.dtype),)


@register
class MultiplyAdd(Elementwise):
    """A · B + C with one rounding (fma); made from BatchNormalization."""

    name = "MultiplyAdd"
    internal = True
    inputs = ("A", "B", "C")

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        return f"fma({', '.join(operands)})"


@rewrite
def to_multiply_add(graph: Graph) -> None:
    """Rewrite BatchNormalization as MultiplyAdd by constants, which can be fused with element-wise operators."""
    op = BatchNormalization()
    for node in graph.nodes:
        if node.domain or node.op != op.name:
            continue
        names = []
        values = op.factor_and_offset(node, len(graph.specs[node.inputs[0]].shape))
        for word, value in zip(("factor", "offset"), values, strict=True):
            names.append(graph.fresh(f"{node.outputs[0]}.{word}"))
            graph.constants[names[-1]] = value.astype(np.float32)
            graph.specs[names[-1]] = spec_of(graph.constants[names[-1]])
        node.op, node.domain, node.attributes, node.inputs = MultiplyAdd.name, OURS, {}, (node.inputs[0], *names)
