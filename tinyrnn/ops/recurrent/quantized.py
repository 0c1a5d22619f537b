"""com.microsoft.DynamicQuantizeLSTM: an LSTM with integer weights, whose x and h are quantised in each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyrnn.graph.call import Lowering
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import MICROSOFT, REQUIRED, Array, Refused, register
from tinyrnn.graph.storage import Stored
from tinyrnn.ops.recurrent.cells import LSTM

OF_WEIGHTS = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
INTEGERS = ("W_integers", "R_integers")
"""attributes for the integers of W and R less their zero points, as rows [D, 4·H, K]"""


@register
class DynamicQuantizeLSTM(LSTM):
    """LSTM with integer weights; x and h are quantised in each step.

    W [D, I, 4·H] and R [D, H, 4·H] are int8 or uint8, scales and zero points [D] or [D, 4·H]. x and h are quantised as by
    DynamicQuantizeLinear, each step by itself; onnxruntime takes one scale for x over all of a sequence, so that its results
    differ by the rounding of x where a call has several frames.
    """

    name = "DynamicQuantizeLSTM"
    domain = MICROSOFT
    rounds_activations = True
    inputs = (*LSTM.inputs, "W_scale", "W_zero_point", "R_scale", "R_zero_point")
    parameters = {**LSTM.parameters, **{name: 8 + place for place, name in enumerate(OF_WEIGHTS)}}
    attributes = {
        **{name: default for name, default in LSTM.attributes.items() if name != "layout"},
        **dict.fromkeys(OF_WEIGHTS, REQUIRED),
        **dict.fromkeys(INTEGERS),
    }

    def attribute(self, node: Node, name: str) -> Any:
        return 0 if name == "layout" else super().attribute(node, name)

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        """Make W and R the float32 weights of an LSTM, and keep what they were made of."""
        for name, key in zip("WR", INTEGERS, strict=True):
            if key not in node.attributes:
                node.attributes[key], node.attributes[f"{name}_scale"] = rows, scale = self._rows(node, name)
                node.attributes[name] = rows.astype(np.float32) * scale
        super().normalize(node, specs)

    @staticmethod
    def _rows(node: Node, name: str) -> tuple[Array, Array]:
        """(the integers of W or R less their zero points, their scales [D, 4·H, 1])."""
        q = node.attributes[name]
        scale, zero = (node.attributes[f"{name}_{what}"] for what in ("scale", "zero_point"))
        if q.dtype not in (np.int8, np.uint8) or q.ndim != 3 or zero.dtype != q.dtype:
            raise Refused(
                f"{name} is {q.dtype}{list(q.shape)} and {name}_zero_point {zero.dtype}; supported are int8 or uint8 "
                "[directions, inputs, 4 * hidden_size], both the same"
            )
        rows = (len(q), q.shape[2])
        for what, array in (("scale", scale), ("zero_point", zero)):
            if array.shape not in ((len(q),), rows):
                raise Refused(f"{name}_{what} has shape {list(array.shape)}; supported are [{rows[0]}] and {list(rows)}")
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise Refused(f"{name}_scale has a number that is not above 0, or not finite")
        scale, zero = (np.broadcast_to(a.reshape(len(q), -1), rows)[..., None] for a in (scale, zero))
        values = q.transpose(0, 2, 1).astype(np.int16) - zero.astype(np.int16)
        return values, np.ascontiguousarray(scale, np.float32)

    def summed(self, node: Node) -> dict[str, tuple[int, ...]]:
        return {}

    def held(self, node: Node, env: Lowering) -> dict[str, Stored]:
        found = [(name, node.attributes[key], node.attributes[f"{name}_scale"]) for name, key in zip("WR", INTEGERS, strict=True)]
        return {name: Stored("i8", rows, scale, rows.shape[2]) for name, rows, scale in found}

    def quantiser(self, node: Node) -> str:
        return "quantise_uint8"

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        """An LSTM with the weights for which the integers stand; x and h are not rounded."""
        plain = node.copy()
        plain.attributes = {key: value for key, value in node.attributes.items() if key not in (*OF_WEIGHTS, *INTEGERS)}
        return LSTM().reference(plain, arrays[:8])

    def with_products(self, node: Node, table: Array, indices: str, specs: Mapping[str, Spec]) -> Node | None:
        return None
