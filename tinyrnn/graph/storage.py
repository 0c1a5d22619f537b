"""Storage of weights apart from arithmetic: float32, float16, bfloat16 or int8 with scales, read as float32.

Weights are seen as rows: one for each output, over whose elements k the output sums. int8 weights are symmetric: w = s q with one
scale s a row, or one for each group of elements along k. A sum over such a row is one chain of fma over q that begins at
bias / s, is multiplied by s / s' where a group with scale s' follows, and at the end by the last scale.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError
from tinyrnn.graph.arrays import Array

STORAGE, HELD = "storage", "stored"
"""attributes of a node of the frame graph: its `Storage`, and {weights: `Stored`} where they are quantised"""
KINDS = ("float32", "float16", "bfloat16", "int8", "int8x8")
"""types of weights that a user can ask for; int8x8 has int8 activations too"""
SUPPORTED = "float32, float16, bfloat16, int8, int8:GROUP (a scale for so many elements), int8x8"
LARGEST = 127
"""largest magnitude of q"""
GROUPS = (16, 32, 64, 128, 256)
"""sizes of groups in which scales of a file are looked for"""
NEIGHBOURS = 3
"""float32 numbers on either side of a quotient among which a scale is looked for"""
SAMPLE = 8
"""rows that tell whether to look at all of them"""
TINY = 2.0**-100
"""scales below are those of rows of zeros"""


@dataclass(frozen=True)
class Storage:
    """How the weights of a layer are stored."""

    kind: str
    group: int = 0
    """elements along k that share a scale; 0 for all"""

    def __str__(self) -> str:
        return f"{self.kind}:{self.group}" if self.group else self.kind


@dataclass(frozen=True, eq=False)
class Stored:
    """Weights as rows [*outputs, K] in a storage type."""

    word: str
    """f32, f16, bf16 or i8: the word of the kernel language that makes a pointer to them"""
    values: Array
    """rows; of float32 that is exact in the type, or q in int8"""
    scale: Array | None = None
    """float32 [*outputs, groups] for int8"""
    group: int = 0
    """elements of a group; K where there is one"""

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}[self.word]

    @property
    def nbytes(self) -> int:
        return self.values.size * self.itemsize

    def floats(self) -> Array:
        """The float32 rows."""
        return self.values if self.scale is None else _values(self)


def quantises(attributes: Mapping[str, Any]) -> bool:
    """Whether a node of the frame graph with these attributes multiplies int8 activations by its weights."""
    storage = attributes.get(STORAGE)
    return storage is not None and storage.kind == "int8x8"


def parse(given: Any, model: str) -> dict[str, Storage]:
    """{layer: storage} of the option `weights`, where "*" is every layer. Raises `LoadError`."""
    if given is None:
        return {}
    if isinstance(given, str):
        return {"*": _parsed(given, model)}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise LoadError(f'{model}: weights={given!r}; it takes a type ({SUPPORTED}) or {{layer: type}}, "*" for all others')
    return {name: _parsed(kind, model) for name, kind in given.items()}


def _parsed(text: Any, model: str) -> Storage:
    match = re.fullmatch(r"(\w+)(?::([1-9]\d{0,8}))?", text) if isinstance(text, str) else None
    if match is None or match[1] not in KINDS or (match[2] and match[1] != "int8"):
        raise LoadError(f"{model}: weights={text!r}; supported are {SUPPORTED}")
    return Storage(match[1], int(match[2] or 0))


def choose(given: Mapping[str, Storage], layers: Sequence[str], model: str) -> dict[str, Storage]:
    """{layer: storage} for the layers that are named: by a name, by a leading part of it, or by "*".

    The longest name decides. Raises `LoadError` for a name that is no layer's.
    """
    plain = {name: name.strip("/") for name in given}
    absent = [n for n in given if n != "*" and not any(_within(layer.strip("/"), plain[n]) for layer in layers)]
    if absent:
        raise LoadError(
            f"{model}: weights: no layer {', '.join(map(repr, absent))}; "
            f"the layers with weights are {', '.join(map(repr, layers)) or 'none'}"
        )
    chosen = {}
    for layer in layers:
        fitting = [n for n in given if n != "*" and _within(layer.strip("/"), plain[n])]
        best = max(fitting, key=lambda n: len(plain[n]), default="*")
        if best in given:
            chosen[layer] = given[best]
    return chosen


def _within(layer: str, name: str) -> bool:
    return layer == name or (layer.startswith(name) and layer[len(name)] in "/.")


def cast(word: str, packed: Array) -> Array:
    """Packed values in the type of a word; bfloat16 as its bits."""
    if word == "bf16":
        return (np.ascontiguousarray(packed, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return packed.astype({"f32": np.float32, "f16": np.float16, "i8": np.int8}[word])


def as_rows(array: Array, summed: Sequence[int]) -> Array:
    """Weights as rows [*outputs, K], of an array whose axes `summed` make k."""
    rows = np.moveaxis(array, summed, range(array.ndim - len(summed), array.ndim))
    return rows.reshape(*rows.shape[: array.ndim - len(summed)], -1)


def from_rows(rows: Array, shape: Sequence[int], summed: Sequence[int]) -> Array:
    """The array of a shape whose `as_rows` are these."""
    outputs = [size for axis, size in enumerate(shape) if axis not in summed]
    wide = rows.reshape(*outputs, *(shape[axis] for axis in summed))
    return np.ascontiguousarray(np.moveaxis(wide, range(len(outputs), wide.ndim), summed))


def rounded(array: Array, summed: Sequence[int], storage: Storage) -> tuple[Array, Stored | None]:
    """The float32 weights that a storage type has for these; their integers too. Raises `ValueError` for what is not finite."""
    if storage.kind == "float32":
        return array, None
    if not np.isfinite(array).all():
        raise ValueError("NaN or infinite weights")
    if storage.kind == "float16":
        bound = np.float32(65504)
        return np.clip(array, -bound, bound).astype(np.float16).astype(np.float32), None
    if storage.kind == "bfloat16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        nearest: Array = (bits.astype(np.int64) + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        return nearest.astype(np.uint32).view(np.float32), None
    made = quantized(as_rows(array, summed), storage.group)
    return from_rows(_values(made), array.shape, summed), made


def quantized(rows: Array, group: int = 0) -> Stored:
    """Rows [*outputs, K] rounded to int8, scale = largest magnitude / 127 of each group.

    Of rows that were rounded so, it finds the integers and the scales again. Whole numbers up to 127 keep the scale 1.
    """
    size = rows.shape[-1]
    whole = _whole_numbers(rows)
    if whole is not None:
        return whole
    group = min(group or size, size)
    groups = -(-size // group)
    padded = np.zeros((*rows.shape[:-1], groups * group), np.float64)
    padded[..., :size] = rows
    cut = padded.reshape(*rows.shape[:-1], groups, group)
    largest = np.abs(cut).max(-1)
    scale = (largest / LARGEST).astype(np.float32)
    scale[scale < TINY] = 0
    return _with_scales(rows, _without_zeros(scale), group)


def _whole_numbers(rows: Array) -> Stored | None:
    """Rows of integers as they are; None for other rows."""
    if not rows.size or np.abs(rows).max() > LARGEST + 1 or rows.max() > LARGEST or not np.array_equal(rows, np.rint(rows)):
        return None
    return Stored("i8", rows.astype(np.int8), np.ones((*rows.shape[:-1], 1), np.float32), rows.shape[-1])


def _with_scales(rows: Array, scale: Array, group: int) -> Stored:
    """The nearest q for given scales."""
    spread = np.repeat(scale.astype(np.float64), group, -1)[..., : rows.shape[-1]]
    q = np.clip(np.rint(rows / spread), -LARGEST - 1, LARGEST).astype(np.int8)
    return Stored("i8", q, scale, group)


def _without_zeros(scale: Array) -> Array:
    """Scales [*outputs, groups] where those of groups of zeros are their neighbours', so that quotients are finite."""
    flat = scale.reshape(-1, scale.shape[-1]).copy()
    for g in range(1, flat.shape[1]):
        flat[:, g] = np.where(flat[:, g] == 0, flat[:, g - 1], flat[:, g])
    for g in reversed(range(flat.shape[1] - 1)):
        flat[:, g] = np.where(flat[:, g] == 0, flat[:, g + 1], flat[:, g])
    flat[flat == 0] = 1
    return flat.reshape(scale.shape)


def _values(stored: Stored) -> Array:
    """The float32 rows s q."""
    assert stored.scale is not None
    spread = np.repeat(stored.scale, stored.group, -1)[..., : stored.values.shape[-1]]
    made: Array = stored.values.astype(np.float32) * spread
    return made


def ratios(first: Array, then: Array) -> Array:
    """float32 factors from sums in units of `first` to units of `then`; 0 where that is 0, as padding is."""
    wide = then.astype(np.float64)
    made: Array = np.where(wide == 0, 0, first / np.where(wide == 0, 1, wide)).astype(np.float32)
    return made


def exact_in(arrays: Iterable[Array]) -> str:
    """f16 or bf16, where all values are numbers of that type; else f32."""
    arrays = list(arrays)
    with np.errstate(over="ignore"):
        if all(_same_bits(a, a.astype(np.float16).astype(np.float32)) for a in arrays):
            return "f16"
    if all(not (np.ascontiguousarray(a, np.float32).view(np.uint32) & 0xFFFF).any() for a in arrays):
        return "bf16"
    return "f32"


def _same_bits(a: Array, b: Array) -> bool:
    start = min(a.size, 64)  # weights that are no halves differ at once
    return bool(
        (a.ravel()[:start].view(np.uint32) == b.ravel()[:start].view(np.uint32)).all()
        and np.isfinite(a).all()
        and (np.ascontiguousarray(a).view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)).all()
    )


def recovered(rows: Array, grouped: bool = True) -> Stored | None:
    """The integers and scales of float32 rows that are products of both, as DequantizeLinear makes them; else None.

    For the largest magnitude m of a group every q up to 128 and the float32 numbers next to m / q are tried. Whole numbers
    keep the scale 1, so that exact sums of them stay exact; larger ones have none.
    """
    size = rows.shape[-1]
    if np.array_equal(rows, np.rint(rows)):
        return _whole_numbers(rows)
    flat = rows.reshape(-1, size)
    for group in (size, *(g for g in GROUPS if grouped and g < size)):
        found = None if _recovered(flat[:SAMPLE], group) is None else _recovered(flat, group)
        if found is not None:
            scale = _without_zeros(found).reshape(*rows.shape[:-1], -1)
            stored = _with_scales(rows, scale, group)
            if np.array_equal(_values(stored), rows):
                return stored
    return None


def _recovered(rows: Array, group: int) -> Array | None:
    """The scales [rows, groups] with which every element is an integer times its scale, 0 for groups of zeros; else None."""
    groups = -(-rows.shape[1] // group)
    padded = np.zeros((len(rows), groups * group), np.float32)
    padded[:, : rows.shape[1]] = rows
    cut = padded.reshape(-1, group)
    largest = np.abs(cut).max(1)
    scale = np.zeros(len(cut), np.float32)
    left = np.flatnonzero(largest > 0)
    for q in range(LARGEST + 1, 0, -1):
        quotient = (largest[left].astype(np.float64) / q).astype(np.float32)
        for step in sorted(range(-NEIGHBOURS, NEIGHBOURS + 1), key=abs):
            candidate = (quotient.view(np.int32) + step).view(np.float32)
            few = cut[left, : min(group, 8)]
            fits = _fits(few, candidate) & (candidate > TINY)
            fits[fits] = _fits(cut[left][fits], candidate[fits])
            scale[left[fits]] = candidate[fits]
            left, quotient = left[~fits], quotient[~fits]
            if not len(left):
                return scale.reshape(len(rows), groups)
    return None


def _fits(rows: Array, scale: Array) -> Array:
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        q = np.rint(rows.astype(np.float64) / scale[:, None]).astype(np.float32)
        made: Array = ((q * scale[:, None] == rows) & (q >= -LARGEST - 1) & (q <= LARGEST)).all(1)
    return made


def stored(
    storage: Storage | None, rows: Mapping[str, Array], whole: Collection[str], *, integers: bool, narrow: bool
) -> dict[str, Stored]:
    """How the weights of a node, `rows` by name, are stored, all in one type.

    whole:   those that have one scale a row
    storage: what the user asked for; else integers of the file stay `integers`, and numbers of half precision are stored so
             where that is `narrow`.
    """
    if storage is None and integers:
        found = {name: recovered(each, name not in whole) for name, each in rows.items()}
        if all(each is not None for each in found.values()):
            return {name: each for name, each in found.items() if each is not None}
    word = "f32"
    if storage is not None:
        word = {"float16": "f16", "bfloat16": "bf16"}.get(storage.kind, "f32")
    elif narrow:
        word = exact_in(rows.values())
    return {name: Stored(word, each) for name, each in rows.items()}
