"""The choice of the frontend for the argument of `load`, a path or a model in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

from tinyrnn.errors import LoadError
from tinyrnn.frontends.formats import READ, START, format_of, hint, memory_name
from tinyrnn.graph.ir import Graph
from tinyrnn.graph.limits import LARGEST_FILE, holds, one_load


class Proto(Protocol):
    """The part of onnx.ModelProto that is used here."""

    @property
    def graph(self) -> Any: ...

    def SerializeToString(self) -> bytes: ...


ModelSource: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview | Proto
"""a path, the bytes of a file, or an ONNX model in memory"""


def read(source: ModelSource, layers: Sequence[Any] | None = None, names: Any = None) -> tuple[Graph, dict[str, str] | None]:
    """(graph of a model, state pairs that it records or None).

    Messages name a file by its path, and a model in memory by its graph's name, or "model". Raises `LoadError` and
    `UnsupportedError`.
    """
    with one_load(str(source) if isinstance(source, (str, PathLike)) else "model"):
        return _read_source(source, layers, names)


def _read_source(source: ModelSource, layers: Sequence[Any] | None, names: Any) -> tuple[Graph, dict[str, str] | None]:
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        _check_file(path)
        holds(path.stat().st_size)
        return _read(_kind(path), path, None, layers, names)
    if is_proto(source):
        return _read("onnx", Path(memory_name(source.graph.name)), source, layers, names)
    data = in_memory(source)
    if data is None:
        raise LoadError(f"load takes the path of a file, the bytes of one, or an onnx.ModelProto, not {type(source).__name__}")
    if not data or len(data) > LARGEST_FILE:
        raise LoadError(f"model: {len(data):,} bytes in memory; a model has 1 to {LARGEST_FILE:,}")
    holds(len(data))
    return _read(_kind(data), Path("model"), data, layers, names)


def is_proto(source: Any) -> TypeGuard[Proto]:
    """Whether `source` is an onnx.ModelProto, determined without importing onnx."""
    return type(source).__name__ == "ModelProto" and hasattr(source, "graph")


def in_memory(source: Any) -> bytes | None:
    """The bytes of a model in memory, given as bytes or as a ModelProto."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    return bytes(source.SerializeToString()) if is_proto(source) else None


def session_model(source: ModelSource) -> str | bytes:
    """The model as onnxruntime takes it: a path or bytes."""
    data = in_memory(source)
    return str(source) if data is None else data


def is_onnx(source: ModelSource) -> bool:
    """Whether a model that `read` takes is an ONNX model."""
    return is_proto(source) or _kind(source) == "onnx"


def label(source: ModelSource) -> str:
    """The name of a model in reports."""
    return Path(source).name if isinstance(source, (str, PathLike)) else "model"


def _kind(source: Any) -> str | None:
    if isinstance(source, (str, PathLike)):
        with Path(source).open("rb") as file:
            return format_of(file.read(START), file, Path(source).suffix.lower())
    data = bytes(source)
    return format_of(data[:START], io.BytesIO(data), ".onnx")


def _check_file(path: Path) -> None:
    try:
        if (path / "manifest.json").is_file():
            raise LoadError(f"{path}: made by tinyrnn build; tinyrnn.load_built loads it")
        if (path / "saved_model.pb").is_file():
            raise LoadError(
                f"{path}: a TensorFlow SavedModel; write python -m tf2onnx.convert --saved-model {path} --output model.onnx "
                f"(needs tf2onnx)"
            )
        if not path.is_file():
            there = "a folder" if path.is_dir() else "no such file"
            raise LoadError(f"{path}: {there}; load takes an .onnx, .npz or .safetensors file")
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise LoadError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if size == 0:
        raise LoadError(f"{path}: the file is empty")
    if size > LARGEST_FILE:
        raise LoadError(f"{path}: {size:,} bytes; the largest file read is {LARGEST_FILE:,}")


def _read(
    kind: str | None, path: Path, data: Any, layers: Sequence[Any] | None, names: Any
) -> tuple[Graph, dict[str, str] | None]:
    if kind is None:
        raise LoadError(f"{path}: unknown kind of file {path.suffix.lower()!r}; supported are .onnx, .npz and .safetensors")
    if kind not in READ:
        raise LoadError(f"{path}: {hint(kind, path)}")
    if kind != "onnx":
        from tinyrnn.frontends.npz import read_npz, read_weights

        return (read_npz if kind == "npz" else read_weights)(path, layers, data, names)
    for option, given in (("layers", layers), ("names", names)):
        if given is not None:
            raise LoadError(f"{path}: {option}= describes plain weights in an .npz or .safetensors file")
    from tinyrnn.frontends.onnx import read_onnx

    return read_onnx(path, data), None
