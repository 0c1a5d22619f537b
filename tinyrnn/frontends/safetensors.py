"""`.safetensors` files → arrays: a header of JSON, then raw little-endian numbers.

The form: 8 bytes, the length of the header; the header {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [start, end]},
"__metadata__": {strings}}; the arrays, offsets counted from the end of the header.
(https://github.com/huggingface/safetensors)
"""

from __future__ import annotations

import io
import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError
from tinyrnn.frontends.archive import LARGEST_RANK, LARGEST_TOTAL, Array, first_line
from tinyrnn.frontends.topological_order import check_names
from tinyrnn.graph.limits import LARGEST_VALUE

LARGEST_HEADER = 1 << 24
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


def read_safetensors(path: Path, data: bytes | None = None) -> tuple[dict[str, Array], dict[str, str]]:
    """(arrays by name, with bfloat16 as float32; metadata). `data` replaces the file.

    Raises `LoadError` where the header does not describe the following bytes exactly.
    """
    try:
        with path.open("rb") if data is None else io.BytesIO(data) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise LoadError(f"{path}: not a .safetensors file, or truncated: a header of {length:,} bytes in {size:,}")
            header = _header(path, file.read(length))
            there = size - 8 - length
            if there > LARGEST_TOTAL:
                raise LoadError(f"{path}: {there:,} bytes of arrays; the most that is read is {LARGEST_TOTAL:,}")
            metadata = header.pop("__metadata__", {})
            places = _places(path, header, there)
            raw = np.frombuffer(file.read(there), np.uint8)
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({first_line(error)})") from None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise LoadError(f"{path}: __metadata__ must be an object of strings")
    return {name: _array(raw[start:end], dtype, shape) for name, (dtype, shape, start, end) in places.items()}, metadata


def _header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: not a .safetensors file, or damaged: its header is no JSON ({first_line(error)})") from None
    if not isinstance(header, dict):
        raise LoadError(f"{path}: the header is no JSON object")
    return header


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _places(path: Path, header: dict[str, Any], there: int) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """name → (dtype, shape, start, end). Raises `LoadError` unless they cover the data exactly once."""
    check_names(path, header)
    found = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise LoadError(f"{path}: array {name!r} must have dtype, shape and data_offsets, not {entry!r:.80}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise LoadError(f"{path}: array {name!r} is {dtype!r:.40}; supported are {', '.join(DTYPES)}")
        if not _numbers(shape) or len(shape) > LARGEST_RANK:
            raise LoadError(f"{path}: array {name!r} has the absurd shape {shape!r:.80}")
        needed = prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if not _numbers(offsets, there) or len(offsets) != 2 or offsets[1] - offsets[0] != needed:
            raise LoadError(
                f"{path}: array {name!r} of shape {shape} and {dtype} needs {needed:,} bytes; its offsets are {offsets!r:.80} "
                f"of {there:,}"
            )
        found[name] = (dtype, tuple(shape), offsets[0], offsets[1])
    at = 0
    for _, _, start, end in sorted(found.values(), key=lambda place: place[2:]):
        if start != at:
            raise LoadError(f"{path}: bytes {at:,} to {start:,} of the data belong to no array, or to two")
        at = end
    if at != there:
        raise LoadError(f"{path}: its arrays take {at:,} bytes, {there:,} are there; the file is damaged")
    if not found:
        raise LoadError(f"{path}: the file holds no arrays")
    return found


def _numbers(value: Any, most: int = LARGEST_VALUE) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= most for n in value)


def _array(raw: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "BOOL":
        truths: Array = (raw != 0).reshape(shape)
        return truths
    values: Array = np.ascontiguousarray(raw).view(DTYPES[dtype])
    if dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    native: Array = values.astype(values.dtype.newbyteorder("=")).reshape(shape)
    return native
