"""Writes .safetensors files, for tests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def safetensors(arrays: dict[str, tuple[str, Array]], **more: Any) -> bytes:
    """The bytes of a .safetensors file: name → (dtype as it calls it, array)."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, array) in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps({**header, **more}).encode()
    return len(text).to_bytes(8, "little") + text + data
