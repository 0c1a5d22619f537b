"""tinyrnn: recurrent models from ONNX or .npz, compiled into one allocation-free step, streamed.

model = tinyrnn.load("model.onnx")
stream = model.stream()
y = stream.step(x)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyrnn.errors import (
        CopyError,
        DecodeError,
        LoadError,
        ShapeError,
        StreamError,
        TargetError,
        TinyRNNError,
        UnsupportedError,
    )
    from tinyrnn.loading.load import load
    from tinyrnn.loading.stages import save
    from tinyrnn.native import build
    from tinyrnn.quantization import quantize
    from tinyrnn.runtime import Model, Pool, Stream, load_built

__version__ = "0.1.0"

_HOMES = {
    "build": "native",
    "load": "loading.load",
    "load_built": "runtime",
    "quantize": "quantization",
    "save": "loading.stages",
    "Model": "runtime",
    "Pool": "runtime",
    "Stream": "runtime",
    **dict.fromkeys(
        (
            "CopyError",
            "DecodeError",
            "LoadError",
            "ShapeError",
            "StreamError",
            "TargetError",
            "TinyRNNError",
            "UnsupportedError",
        ),
        "errors",
    ),
}

__all__ = [
    "CopyError",
    "DecodeError",
    "LoadError",
    "Model",
    "Pool",
    "ShapeError",
    "Stream",
    "StreamError",
    "TargetError",
    "TinyRNNError",
    "UnsupportedError",
    "build",
    "load",
    "load_built",
    "quantize",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"tinyrnn.{_HOMES[name]}"), name)
    if name == "decode":
        return import_module("tinyrnn.decode")
    raise AttributeError(f"module 'tinyrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
