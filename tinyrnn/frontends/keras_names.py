"""Arrays under Keras' names → under those of PyTorch, which `frontends.weights` reads.

    np.savez("m.npz", **{w.path: w.numpy() for w in model.weights})           Keras 3; w.name in Keras 2

Keras holds matrices [in, out] and the gates of a GRU as z, r, h (PyTorch: r, z, n); those of an LSTM agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrnn.frontends.archive import Array

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
LEAVES = {"kernel", "recurrent_kernel", "bias", "embeddings", *NORM}
CELL = re.compile(r"(lstm|gru|simple_rnn)_cell(_\d+)?")
EPSILON = 1e-3


@dataclass
class Translated:
    """The arrays by PyTorch's names, the default options of Keras' layers, and the origin of each array."""

    arrays: dict[str, Array] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """prefix of a layer → its options"""
    origins: dict[str, str] = field(default_factory=dict)


def from_keras(arrays: Mapping[str, Array]) -> Translated:
    """Rename arrays with Keras' names; all others stay as they are."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for key in arrays:
        prefix, leaf = _split(key)
        if leaf:
            groups.setdefault(_place(prefix), {})[leaf] = key
    taken: dict[str, tuple[str, str, Callable[[Array], list[tuple[str, Array]]]]] = {}
    made = Translated()
    for (prefix, end), leaves in groups.items():
        new = _translate({leaf: arrays[key] for leaf, key in leaves.items()}, end)
        if new is None:
            continue
        for leaf, key in leaves.items():
            taken[key] = (prefix, leaf, new[leaf])
        options = _options({leaf: arrays[key] for leaf, key in leaves.items()})
        if options:
            made.options[prefix] = options
    for key, array in arrays.items():
        prefix, _, parts = taken.get(key, ("", "", None))
        for name, part in [(key, array)] if parts is None else parts(array):
            full = f"{prefix}.{name}" if parts and prefix else name
            made.arrays[full], made.origins[full] = part, key
    return made


def _split(key: str) -> tuple[str, str]:
    """(layer, array) of a Keras name; the array is "" for other names."""
    match = re.fullmatch(r"(?:(.*)[/.])?(\w+)(:0)?", key, re.DOTALL)
    return (match[1] or "", match[2]) if match and match[2] in LEAVES else (key, "")


def _place(prefix: str) -> tuple[str, str]:
    """(the layer's prefix without its cell, "_reverse" for a backward layer or "")."""
    parts = re.split(r"([/.])", prefix)
    if CELL.fullmatch(parts[-1]) and len(parts) > 1:
        parts = parts[:-2]
    direction, _, _ = parts[-1].partition("_")
    if direction in ("forward", "backward") and len(parts) > 1:
        return "".join(parts[:-2]), "_reverse" if direction == "backward" else ""
    return "".join(parts), ""


def _translate(group: Mapping[str, Array], end: str) -> dict[str, Callable[[Array], list[tuple[str, Array]]]] | None:
    """The arrays of a Keras layer by PyTorch's names; None where it is not a Keras layer."""
    kernel, recurrent = group.get("kernel"), group.get("recurrent_kernel")
    if "embeddings" in group:
        return {"embeddings": lambda a: [("weight", a)]} if set(group) == {"embeddings"} else None
    if kernel is None:
        norm = bool(set(group) & set(NORM)) and set(group) <= set(NORM)
        return {leaf: lambda a, name=NORM[leaf]: [(name, a)] for leaf in group} if norm else None  # type: ignore[misc]
    if recurrent is None:
        if kernel.ndim not in (2, 3) or not set(group) <= {"kernel", "bias"}:
            return None
        return {"kernel": lambda a: [("weight", a.T)], "bias": lambda a: [("bias", a)]}
    if recurrent.ndim != 2 or kernel.ndim != 2 or not set(group) <= {"kernel", "recurrent_kernel", "bias"}:
        return None
    gates = recurrent.shape[1] // max(recurrent.shape[0], 1)

    def ordered(a: Array) -> Array:
        """The gates along the first axis in PyTorch's order."""
        if gates != 3 or len(a) % 3:
            return a
        z, r, n = np.split(a, 3)
        return np.concatenate([r, z, n])

    def biases(a: Array) -> list[tuple[str, Array]]:
        ih, hh = a if a.ndim == 2 and len(a) == 2 else (a, np.zeros_like(a))
        return [(f"bias_ih_l0{end}", ordered(ih)), (f"bias_hh_l0{end}", ordered(hh))]

    return {
        "kernel": lambda a: [(f"weight_ih_l0{end}", ordered(a.T))],
        "recurrent_kernel": lambda a: [(f"weight_hh_l0{end}", ordered(a.T))],
        "bias": biases,
    }


def _options(group: Mapping[str, Array]) -> dict[str, Any]:
    if set(group) & set(NORM):
        return {"eps": EPSILON}
    recurrent, bias = group.get("recurrent_kernel"), group.get("bias")
    gru = recurrent is not None and recurrent.shape[1] == 3 * recurrent.shape[0]
    return {"reset_after": False} if gru and bias is not None and bias.ndim == 1 else {}
