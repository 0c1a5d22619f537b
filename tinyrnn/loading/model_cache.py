"""Whole models in the cache: a second load needs neither the frontend nor the passes.

The key of a model is a hash of its file, its name, the options of the load, the package and the machine. Its code lies
beside it, as several models can have the same code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.frontends.source import label
from tinyrnn.graph.arrays import Array, SizeRule
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.runtime import Model, PoolCode
from tinyrnn.runtime.built import layout_from, layout_value
from tinyrnn.runtime.memory import ALIGNMENT, Layout, aligned
from tinyrnn.targets import cache
from tinyrnn.targets.code import Code, objects_in
from tinyrnn.targets.keys import key_of, package
from tinyrnn.targets.machine import host

SHARE = 4
"""largest part of the cache that one model may take"""
HEADER = 8
"""bytes at the start of a file that hold the header's length"""


@dataclass(frozen=True)
class Kept:
    """A model from the cache."""

    layout: Layout
    code: Code
    said: Sequence[str]
    """warnings of its load"""
    dynamic_shapes: Mapping[str, Any] | None
    """arguments of `DynamicShapeModel`, for a model with dynamic shapes"""


def file_name(source: Any, options: Mapping[str, Any]) -> str:
    """The file in the cache for a load of `source` with `options`; empty if it cannot be cached.

    A model in memory that can be changed is not cached.
    """
    if cache.cache_folder() is None:
        return ""
    try:
        digest = _digest(source)
        given = _text({name: value for name, value in options.items() if value is not None})
    except (OSError, ValueError, TypeError):
        return ""
    kind = "memory" if isinstance(source, bytes) else "file"
    return _file_name(kind, label(source), digest, given)


def at_sizes(name: str, sizes: Mapping[str, int]) -> str:
    """The file in the cache for given sizes of a model with dynamic shapes, whose own file is `name`."""
    return _file_name(name, _text(sizes)) if name else ""


def _file_name(*texts: str) -> str:
    return f"{cache.MODELS}/{key_of(host(), *texts, basis=package())}.model"


def find(name: str, source: Any) -> Kept | None:
    """The model in a file of the cache; None if it is missing or its external data has changed."""
    data = cache.read(name) if name else None
    if data is None:
        return None
    header, (initial, memory, *batches) = _opened(data)
    code = cache.read(header["code"])
    if code is None or any(_of_file(_folder(source) / place) != digest for place, digest in header["beside"].items()):
        return None
    layout = replace(
        layout_from(header["layout"], memory[header["table"] :]),
        table=memory[: header["table"]] if header["table"] else None,
        initial_state=initial,
        batches=dict(zip(header["batches"], batches, strict=True)),
        sizes=tuple(SizeRule(**rule) for rule in header["sizes"]),
    )
    return Kept(layout, Code(header["code"], objects_in(code), header["entries"], True), header["said"], header["dynamic_shapes"])


def keep(name: str, source: Any, model: Model, said: Sequence[str], beside: Mapping[str, int]) -> None:
    """Put a model into the cache, unless it is too large or has types that NumPy lacks.

    said:   the warnings of its load
    beside: the files in its folder that hold weights, as `Graph.beside`
    """
    layout, code = model._layout, model._code
    ports = (*layout.inputs, *layout.outputs, *layout.state_inputs, *layout.state_outputs)
    table = np.zeros(0, np.uint8) if layout.table is None else layout.table
    arrays = (layout.initial_state, np.concatenate([table, layout.weights]), *layout.batches.values())
    types = {*(p.dtype for p in ports), *(part[3] for part in layout.state_parts), *(a.dtype for a in arrays)}
    if not name or any(dtype.isbuiltin != 1 for dtype in types) or SHARE * sum(a.nbytes for a in arrays) > cache.largest():
        return
    folder = _folder(source)
    try:
        if any((folder / place).stat().st_mtime_ns != changed for place, changed in beside.items()):
            return
    except OSError:
        return
    header = {
        "name": layout.name,
        "code": code.name,
        "entries": code.entries,
        "said": [*said],
        "beside": {place: _of_file(folder / place) for place in sorted(beside)},
        "layout": layout_value(layout),
        "table": len(table),
        "batches": [*layout.batches],
        "sizes": [asdict(rule) for rule in layout.sizes],
        "dynamic_shapes": model._described if isinstance(model, DynamicShapeModel) else None,
    }
    cache.write(name, _closed(header, arrays))


def of_pools(name: str) -> str:
    """Where the cache has what pools of the model in the file `name` run on."""
    return _file_name(name, "pool") if name else ""


def pooled(name: str, called: str, compiled: Callable[[int], PoolCode]) -> Callable[[int], PoolCode]:
    """What pools of the model `called` so, in the file `name`, run on: from the cache, or `compiled` and put there."""
    file = of_pools(name)

    @lru_cache
    def tick() -> PoolCode:
        data = cache.read(file) if file else None
        header = _opened(data)[0] if data is not None else {}
        code = cache.read(header["code"]) if header else None
        if code is not None:
            return PoolCode(Code(header["code"], objects_in(code), header["entries"], True), **header["made"])
        made = compiled(1)
        if file and made.weights is None:
            numbers = {f: getattr(made, f) for f in ("tick", "arena_fixed", "arena_per_row", "chunk")}
            header = {"name": f"{called}, of pools", "code": made.code.name, "entries": made.code.entries, "made": numbers}
            cache.write(file, _closed(header, ()))
        return made

    def made_for(slots: int) -> PoolCode:
        if slots:
            return tick()
        from tinyrnn.targets.cpu import one_by_one

        return one_by_one()

    return made_for


def name_in(name: str) -> str:
    """The name of the model in a file of the cache; empty if it cannot be read."""
    folder = cache.cache_folder()
    try:
        with ((folder or Path()) / name).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(HEADER), "little")))
            return str(header["name"])
    except (OSError, ValueError, LookupError, TypeError, MemoryError, OverflowError):
        return ""


def _folder(source: Any) -> Path:
    """The folder in which a model's external data lies."""
    return Path(source).resolve().parent if isinstance(source, (str, PathLike)) else Path()


def _digest(source: Any) -> str:
    """A hash of a model's file. Raises `TypeError` for anything but a path or bytes."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if not isinstance(source, (str, PathLike)):
        raise TypeError
    found = _of_file(Path(source))
    if not found:
        raise ValueError
    return found


def _of_file(path: Path) -> str:
    """A hash of a file; empty where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError:
        return ""
    return digest.hexdigest()


def _text(value: Any) -> str:
    """A unique text for a value of an option. Raises `TypeError` for values without one."""
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(key)}:{_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.isbuiltin == 1 and not value.dtype.hasobject:
        return f"{value.dtype.str}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    raise TypeError


def _closed(header: Mapping[str, Any], arrays: Sequence[Array]) -> bytes:
    """The bytes of the header's length, the header, and the arrays, each aligned."""
    described = [(array.dtype.str, array.shape) for array in arrays]
    text = json.dumps({**header, "arrays": described}).encode()
    made = bytearray(len(text).to_bytes(HEADER, "little") + text)
    for array in arrays:
        made += bytes(-len(made) % ALIGNMENT)
        made += array.tobytes()
    return bytes(made)


def _opened(data: bytes) -> tuple[dict[str, Any], list[Array]]:
    end = HEADER + int.from_bytes(data[:HEADER], "little")
    header: dict[str, Any] = json.loads(data[HEADER:end])
    arrays = []
    for code, shape in header["arrays"]:
        end += -end % ALIGNMENT
        array = aligned(prod(shape), np.dtype(code))
        array[:] = np.frombuffer(data, np.dtype(code), prod(shape), end)
        arrays.append(array.reshape(shape))
        end += array.nbytes
    return header, arrays
