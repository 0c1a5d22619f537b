"""What PTX's instructions compute, over NumPy arrays of all threads that execute them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import Array
from tinyrnn.ops.linear.chain import fma

COMPARED: dict[str, Callable[[Array, Array], Array]] = {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal},
    **{"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal},
}
ROUNDED: dict[str, Callable[[Array], Array]] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
FLOATS = (np.float32, np.float64)


def is_floating(kind: Any) -> bool:
    return kind in FLOATS


def comparison(relation: str, kind: Any) -> Callable[[Array, Array], Array]:
    """The test `relation` of two values; those that end with u are true of NaN too."""
    if relation in ("num", "nan"):
        wanted = relation == "nan"
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == wanted
    floating = is_floating(kind)
    unordered = floating and len(relation) == 3 and relation.endswith("u")
    compare = COMPARED[relation[:2] if unordered else relation]
    if unordered:
        return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)
    if floating and relation == "ne":
        return lambda a, b: compare(a, b) & ~(np.isnan(a) | np.isnan(b))
    return compare


def binary(name: str, kind: Any, parts: tuple[str, ...]) -> Callable[[Array, Array], Array] | None:
    """The function of two values of an instruction, or None for another instruction."""
    floating = is_floating(kind)
    if kind is np.bool_:
        return {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}.get(name)
    if name == "mul" and "hi" in parts:
        return _high
    if name in ("shl", "shr"):
        return _shifted(name, kind)
    return {
        **{"add": np.add, "sub": np.subtract, "mul": np.multiply},
        **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
        "min": np.fmin if floating else np.minimum,
        "max": np.fmax if floating else np.maximum,
        "div": np.divide if floating else _quotient,
        "rem": np.fmod,
    }.get(name)


def _quotient(a: Array, b: Array) -> Array:
    """Towards zero, as C has it; what it is for a divisor of 0 PTX does not say."""
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    made: Array = a // safe
    return made + ((made < 0) & (made * safe != a)) if a.dtype.kind == "i" else made


def _high(a: Array, b: Array) -> Array:
    """The upper half of the product."""
    bits = 8 * a.dtype.itemsize
    made = [((int(x) * int(y)) >> bits) & ((1 << bits) - 1) for x, y in zip(a, b, strict=True)]
    return np.array(made, f"u{bits // 8}").view(a.dtype)


def _shifted(name: str, kind: Any) -> Callable[[Array, Array], Array]:
    bits = 8 * np.dtype(kind).itemsize
    signed = np.issubdtype(kind, np.signedinteger)

    def shift(a: Array, b: Array) -> Array:
        count = b.view(np.dtype(f"u{b.dtype.itemsize}"))
        by = np.minimum(count, bits - 1).astype(kind)
        moved: Array = a << by if name == "shl" else a >> by
        return moved if name == "shr" and signed else np.where(count < bits, moved, kind(0))

    return shift


def unary(name: str, kind: Any) -> Callable[[Array], Array] | None:
    known: dict[str, Callable[[Array], Array]] = {
        **{"neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "mov": np.asarray, "cvta": np.asarray},
        "not": np.logical_not if kind is np.bool_ else np.invert,
        "rcp": lambda a: a.dtype.type(1) / a,
    }
    return known.get(name)


def conversion(to: str, source: str, parts: tuple[str, ...], kinds: dict[str, Any]) -> Callable[[Array], Array]:
    """A value of type `source` as one of type `to`."""
    result = kinds[to]
    if source == "f16":
        return lambda a: a.view(np.float16).astype(result)
    rounding = next((ROUNDED[part] for part in parts if part in ROUNDED), None)
    if rounding is None:
        return lambda a: a.astype(result)
    if not np.issubdtype(result, np.integer):
        return lambda a: rounding(a).astype(result)
    low, high = np.iinfo(result).min, np.iinfo(result).max

    def whole(a: Array) -> Array:
        x = rounding(a).astype(np.float64)
        y = np.clip(np.where(np.isnan(x), 0, x), float(low), float(high))
        top = y >= float(high)
        made: Array = np.where(top, result(high), np.where(top, 0, y).astype(result))
        return made

    return whole


def fused(kind: Any) -> Callable[[Array, Array, Array], Array]:
    """a * b + c with one rounding. Raises `ValueError` for a type that LLVM does not use here."""
    if kind is not np.float32:
        raise ValueError("fma of float64")
    return fma


def four_products(a: Array, b: Array) -> Array:
    """The sum of the products of the four int8 in each."""
    whole = [np.ascontiguousarray(x).view(np.int8).reshape(-1, 4).astype(np.int32) for x in (a, b)]
    made: Array = (whole[0] * whole[1]).sum(1, dtype=np.int32)
    return made
