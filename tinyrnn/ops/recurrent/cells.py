"""ONNX RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import Array, register
from tinyrnn.ops.recurrent import reference as recurrent_reference
from tinyrnn.ops.recurrent.kernel_text import Cell
from tinyrnn.ops.recurrent.operators import Recurrent


def _expected(function: Any, op: Recurrent, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
    given = [*arrays, *[None] * (8 - len(arrays))]
    values = {k: op.attribute(node, k) for k in op.attributes if k not in "WRBP"}
    starts = given[4:7] if "c" in op.parts else given[4:6]
    weights = [node.attributes.get(k) for k in "WRB"]
    extra = [node.attributes.get("P")] if "P" in op.attributes else []
    results: tuple[Array, ...] = function(given[0], *weights, *starts, *extra, **values)
    return results


@register
class RNN(Recurrent):
    """ONNX RNN: Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi)."""

    name = "RNN"
    inputs = ("X", "W", "R", "B?", "sequence_lens?", "initial_h?")
    outputs = ("Y?", "Y_h?")
    gates = 1
    default_activations = ("Tanh",)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        return _expected(recurrent_reference.rnn, self, node, arrays)


@register
class GRU(Recurrent):
    """ONNX GRU, gates z, r, h; linear_before_reset 0 and 1."""

    name = "GRU"
    inputs = ("X", "W", "R", "B?", "sequence_lens?", "initial_h?")
    outputs = ("Y?", "Y_h?")
    attributes = {**Recurrent.attributes, "linear_before_reset": 0}
    gates = 3
    default_activations = ("Sigmoid", "Tanh")

    def cell(self, node: Node, direction: int) -> Cell:
        return replace(super().cell(node, direction), linear_before_reset=bool(self.attribute(node, "linear_before_reset")))

    def doubt(self, node: Node, producer: str) -> str | None:
        bias = node.attributes.get("B")
        applied_first = not self.attribute(node, "linear_before_reset")
        if "pytorch" in producer.lower() and applied_first and bias is not None and np.any(bias[:, bias.shape[1] // 2 :]):
            return (
                "linear_before_reset=0 with a recurrent bias in a file from PyTorch, whose GRU applies the reset gate after the "
                "product: some exporter versions wrote this by mistake. Compare with the module's own output"
            )
        return None

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        return _expected(recurrent_reference.gru, self, node, arrays)


@register
class LSTM(Recurrent):
    """ONNX LSTM, gates i, o, f, c; peepholes i, o, f."""

    name = "LSTM"
    inputs = ("X", "W", "R", "B?", "sequence_lens?", "initial_h?", "initial_c?", "P?")
    outputs = ("Y?", "Y_h?", "Y_c?")
    attributes = {**Recurrent.attributes, "input_forget": 0, "P": None}
    parameters = {**Recurrent.parameters, "P": 7}
    gates = 4
    default_activations = ("Sigmoid", "Tanh", "Tanh")
    parts = ("h", "c")

    def cell(self, node: Node, direction: int) -> Cell:
        return replace(
            super().cell(node, direction),
            input_forget=bool(self.attribute(node, "input_forget")),
            peepholes=node.attributes.get("P") is not None,
        )

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        return _expected(recurrent_reference.lstm, self, node, arrays)
