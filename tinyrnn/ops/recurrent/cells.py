"""ONNX RNN, GRU and LSTM."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import register
from tinyrnn.ops.recurrent import reference
from tinyrnn.ops.recurrent.kernel_text import Cell
from tinyrnn.ops.recurrent.lowering import LoweredRecurrent


@register
class RNN(LoweredRecurrent):
    """ONNX RNN: Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi)."""

    name = kind = "RNN"
    inputs = ("X", "W", "R", "B?", "sequence_lens?", "initial_h?")
    outputs = ("Y?", "Y_h?")
    gates = 1
    oracle = staticmethod(reference.rnn)
    default_activations = ("Tanh",)


@register
class GRU(LoweredRecurrent):
    """ONNX GRU, gates z, r, h; linear_before_reset 0 and 1."""

    name = kind = "GRU"
    inputs = ("X", "W", "R", "B?", "sequence_lens?", "initial_h?")
    outputs = ("Y?", "Y_h?")
    attributes = {**LoweredRecurrent.attributes, "linear_before_reset": 0}
    gates = 3
    oracle = staticmethod(reference.gru)
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


@register
class LSTM(LoweredRecurrent):
    """ONNX LSTM, gates i, o, f, c; peepholes i, o, f."""

    name = kind = "LSTM"
    inputs: ClassVar[tuple[str, ...]] = ("X", "W", "R", "B?", "sequence_lens?", "initial_h?", "initial_c?", "P?")
    outputs = ("Y?", "Y_h?", "Y_c?")
    attributes = {**LoweredRecurrent.attributes, "input_forget": 0, "P": None}
    parameters = {**LoweredRecurrent.parameters, "P": 7}
    gates = 4
    oracle = staticmethod(reference.lstm)
    default_activations = ("Sigmoid", "Tanh", "Tanh")
    parts = ("h", "c")

    def cell(self, node: Node, direction: int) -> Cell:
        return replace(
            super().cell(node, direction),
            input_forget=bool(self.attribute(node, "input_forget")),
            peepholes=node.attributes.get("P") is not None,
        )
