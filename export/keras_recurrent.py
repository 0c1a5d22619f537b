"""A Keras recurrent layer's weights and configuration → those of ONNX's RNN, LSTM or GRU.

Gate orders: Keras' LSTM i, f, c, o → ONNX i, o, f, c; GRU z, r, h in both, reset_after ↔ linear_before_reset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

KINDS = {"SimpleRNN": "RNN", "LSTM": "LSTM", "GRU": "GRU"}
CELLS = {"SimpleRNNCell": "SimpleRNN", "LSTMCell": "LSTM", "GRUCell": "GRU"}
ORDER = {"SimpleRNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2)}
"""ONNX's gates among Keras'"""
ACTIVATIONS: dict[str, tuple[str, tuple[float, ...]]] = {
    "tanh": ("Tanh", ()),
    "sigmoid": ("Sigmoid", ()),
    "relu": ("Relu", ()),
    "linear": ("Affine", (1.0, 0.0)),
    "hard_sigmoid": ("HardSigmoid", (1 / 6, 0.5)),
    "elu": ("Elu", (1.0,)),
    "leaky_relu": ("LeakyRelu", (0.2,)),
    "softsign": ("Softsign", ()),
    "softplus": ("Softplus", ()),
}
"""activation → ONNX's name, its alpha and beta"""
DEFAULT = {"SimpleRNN": ["Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}


class NotKnown(Exception):
    """A layer, or an option of one, that has no rule here; the text names it."""


def weights(kind: str, config: Mapping[str, Any], given: Sequence[Array]) -> tuple[Array, Array, Array | None]:
    """W [1, G*units, inputs], R [1, G*units, units] and B [1, 2*G*units] (None without bias), gates in ONNX's order.

    given    kernel [inputs, G*units], recurrent_kernel [units, G*units], bias [G*units] or, with reset_after, [2, G*units]
    """
    w, r = (_gates(kind, array)[None] for array in given[:2])
    if not config["use_bias"]:
        return w, r, None
    bias = given[2] if given[2].ndim == 2 else np.stack([given[2], np.zeros_like(given[2])])
    return w, r, np.concatenate([_gates(kind, row[None]).reshape(-1) for row in bias])[None]


def _gates(kind: str, array: Array) -> Array:
    """[n, G*units] in Keras' order → [G*units, n] in ONNX's."""
    parts = np.split(array, len(ORDER[kind]), axis=1)
    return np.concatenate([parts[gate].T for gate in ORDER[kind]])


def attributes(kind: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the ONNX node, without its direction. Raises `NotKnown` for an activation that ONNX lacks there."""
    outer = _activation(name, "activation", config)
    chosen = [outer] if kind == "SimpleRNN" else [_activation(name, "recurrent_activation", config), outer]
    if kind == "LSTM":
        chosen.append(outer)
    made: dict[str, Any] = {"hidden_size": config["units"]}
    if kind == "GRU":
        made["linear_before_reset"] = int(config["reset_after"])
    if [activation for activation, _ in chosen] != DEFAULT[kind]:
        made["activations"] = [activation for activation, _ in chosen]
        for place, attribute in enumerate(("activation_alpha", "activation_beta")):
            values = [numbers[place] for _, numbers in chosen if len(numbers) > place]
            if values:
                made[attribute] = values
    return made


def _activation(name: str, option: str, config: Mapping[str, Any]) -> tuple[str, tuple[float, ...]]:
    found = ACTIVATIONS.get(config[option]) if isinstance(config[option], str) else None
    if found is None:
        raise NotKnown(f"layer {name!r}: {option}={config[option]!r:.80} is none of {', '.join(ACTIVATIONS)}")
    return found
