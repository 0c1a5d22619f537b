"""Loading what `tinyrnn build --target cuda` made: PTX and weights, with NumPy alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime.built import layout_from
from tinyrnn.runtime.cuda_driver import Device, first_gpu
from tinyrnn.runtime.device_model import DeviceModel
from tinyrnn.runtime.device_pool import DevicePage
from tinyrnn.runtime.memory import aligned

TARGET = "cuda"
FILES = {
    "call": "call.ptx",
    "pool": "pool.ptx",
    "weights": "weights.bin",
    "pool_weights": "pool_weights.bin",
    "state": "state.bin",
}
"""what each file of a build holds; pool_weights only where they are not the weights"""


def device_model_of(manifest: Mapping[str, Any], folder: Path, device: Device | None = None) -> DeviceModel:
    """The model of a manifest, by default on the first GPU. Raises `LoadError` and `TargetError`."""

    def bytes_of(what: str) -> bytes:
        path = folder / FILES[what]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise LoadError(f"{path}: cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != manifest["files"].get(FILES[what]):
            raise LoadError(f"{path}: not the file that was built with manifest.json; build it again")
        return data

    layout = layout_from(manifest["layout"], _array(bytes_of("weights")))
    layout.initial_state[:] = np.frombuffer(bytes_of("state"), np.float32)
    weights = _array(bytes_of("pool_weights")) if FILES["pool_weights"] in manifest["files"] else layout.weights
    page = DevicePage(ptx=bytes_of("pool").decode(), weights=weights, **manifest["page"])
    call = bytes_of("call").decode(), manifest["kernel"]
    bounds = [(int(i), int(low), int(high)) for i, low, high in manifest["bounds"]]
    return DeviceModel(layout, device or first_gpu(), call, lambda: page, bounds)


def _array(data: bytes) -> Array:
    made = aligned(len(data))
    made[:] = np.frombuffer(data, np.uint8)
    return made
