"""Scalar arithmetic: how kernels read, convert and compute single elements of every type.

Only float32 is computed in vectors; all other types are computed element by element, in 64 bits, and cut to their own
type when stored. Integers wrap around. Nothing traps: n / 0 and n % 0 are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyrnn.graph.op import Refused
from tinyrnn.lanes import kernel

DType = np.dtype[Any]

POINTERS: dict[DType, str] = {
    np.dtype(np.float32): "f32",
    np.dtype(np.float64): "f64",
    np.dtype(np.int8): "i8",
    np.dtype(np.int16): "i16",
    np.dtype(np.int32): "i32",
    np.dtype(np.int64): "i64",
    np.dtype(np.uint8): "u8",
    np.dtype(np.uint16): "u16",
    np.dtype(np.uint32): "u32",
    np.dtype(np.uint64): "u64",
    np.dtype(np.bool_): "u8",
}
"""dtype → the word that makes a pointer to its elements"""

KINDS = {"f": "floating", "i": "signed integer", "u": "unsigned integer", "b": "bool"}


def pointer(name: str, dtype: DType) -> str:
    """The word that makes a pointer to the elements of a value. Raises `Refused` for unsupported types."""
    if dtype not in POINTERS:
        raise Refused(
            f"{name!r} is {dtype}; at run time supported are {', '.join(map(str, POINTERS))} "
            f"(narrower floating types as weights, which are widened to float32)"
        )
    return POINTERS[dtype]


def conversion(dtype: DType) -> str:
    """The word that converts a number to a type."""
    return "as_bool" if dtype == np.bool_ else f"as_{POINTERS[dtype]}"


def scalar_literal(name: str, value: Any, dtype: DType) -> str:
    """The text of a finite number of a type. Raises `Refused` for unsupported types."""
    return f"as_{pointer(name, dtype)}({float(value) if dtype.kind == 'f' else int(value)!r})"


def _converter(name: str, scalar: type[np.generic]) -> Callable[[Any], Any]:
    def convert(x: Any) -> Any:
        return scalar(x)

    convert.__name__ = convert.__qualname__ = f"as_{name}"
    convert.__doc__ = f"x as {scalar.__name__}; integers are cut to its bits."
    return kernel(convert)


as_f32, as_f64 = _converter("f32", np.float32), _converter("f64", np.float64)
as_i8, as_i16 = _converter("i8", np.int8), _converter("i16", np.int16)
as_i32, as_i64 = _converter("i32", np.int32), _converter("i64", np.int64)
as_u8, as_u16 = _converter("u8", np.uint8), _converter("u16", np.uint16)
as_u32, as_u64 = _converter("u32", np.uint32), _converter("u64", np.uint64)


@kernel
def as_bool(x: Any) -> Any:
    """0 where x is 0, else 1."""
    return np.uint8(x != 0)


@kernel
def saturated(x: Any, least: Any, bound: Any, low: Any, high: Any) -> Any:
    """The integer part of x for least <= x < bound; `low` below, `high` from `bound` on, 0 for NaN."""
    inside = x >= least and x < bound
    whole = np.int64(np.float64(x) if inside else 0.0)
    return whole if inside else (high if x >= bound else (low if x < least else np.int64(0)))


@kernel
def saturated_u64(x: Any) -> Any:
    """The integer part of x in uint64; the largest above its range, 0 for NaN, wrapping around below 0."""
    if x < 0.0:
        return np.uint64(saturated(x, -9223372036854775808.0, 0.0, -9223372036854775808, 0))
    inside = x < 18446744073709551616.0
    whole = np.uint64(x if inside else 0.0)
    return whole if inside or x != x else np.uint64(18446744073709551615)


@kernel
def quotient_i(a: Any, b: Any) -> Any:
    """a / b for signed integers, rounded towards zero; the smallest integer divided by -1 wraps, n / 0 is 0."""
    if b == 0:
        return np.int64(0)
    if b == -1:
        return np.int64(0) - np.int64(a)
    whole = np.int64(a) // np.int64(b)
    rest = np.int64(a) - whole * np.int64(b)
    return whole + (1 if rest != 0 and (a < 0) != (b < 0) else 0)


@kernel
def quotient_u(a: Any, b: Any) -> Any:
    """a / b for unsigned integers; n / 0 is 0."""
    if b == np.uint64(0):
        return np.uint64(0)
    return np.uint64(a) // np.uint64(b)


@kernel
def fmod_i(a: Any, b: Any) -> Any:
    """The remainder of a / b with the sign of a; n % 0 is 0."""
    return np.int64(0) if b == 0 else np.int64(a) - quotient_i(a, b) * np.int64(b)


@kernel
def mod_i(a: Any, b: Any) -> Any:
    """The remainder of a / b with the sign of b; n % 0 is 0."""
    rest = fmod_i(a, b)
    return rest + np.int64(b) if rest != 0 and (rest < 0) != (b < 0) else rest


@kernel
def mod_u(a: Any, b: Any) -> Any:
    """The remainder of a / b for unsigned integers; n % 0 is 0."""
    return np.uint64(0) if b == np.uint64(0) else np.uint64(a) - quotient_u(a, b) * np.uint64(b)


@kernel
def fmod_f(a: Any, b: Any) -> Any:
    """The exact remainder of a / b with the sign of a: |b| times falling powers of two is subtracted from |a|."""
    x, y = abs(np.float64(a)), abs(np.float64(b))
    if not (x < np.inf) or not (y > 0.0):
        return np.float64(np.nan)
    t = y
    while t <= x * 0.5:
        t = t + t
    while t >= y and y < np.inf:
        if x >= t:
            x = x - t
        t = t * 0.5
    return -x if np.float64(a) < 0.0 else x


@kernel
def mod_f(a: Any, b: Any) -> Any:
    """The exact remainder of a / b with the sign of b."""
    rest = fmod_f(a, b)
    if rest == 0.0:
        return -0.0 if b < 0.0 else 0.0
    return rest + np.float64(b) if (rest < 0.0) != (b < 0.0) else rest


@kernel
def squared(base: Any, left: Any, result: Any) -> Any:
    """result * base**left for integers of 64 bits, left >= 0, by squaring."""
    while left > 0:
        if left & 1:
            result = result * base
        base = base * base
        left = left >> 1
    return result


@kernel
def power_i(x: Any, n: Any) -> Any:
    """x**n for a signed integer x, by squaring; the integer part where n < 0, and 0**n = 0 there."""
    base, left = np.int64(x), np.int64(n)
    if left < 0:
        left = left & 1 if base == 1 or base == -1 else np.int64(1)
        base = base if base == 1 or base == -1 else np.int64(0)
    return squared(base, left, np.int64(1))


@kernel
def power_u(x: Any, n: Any) -> Any:
    """x**n for an unsigned integer x, as `power_i`."""
    base, left = np.uint64(x), np.int64(n)
    if left < 0:
        left = np.int64(1)
        base = base if base == np.uint64(1) else np.uint64(0)
    return squared(base, left, np.uint64(1))


@kernel
def power_f(x: Any, n: Any) -> Any:
    """x**n for a floating x and an integer n, by squaring in float64."""
    base, negative, result = np.float64(x), np.int64(n) < 0, np.float64(1.0)
    left = np.uint64(-np.int64(n) if negative else np.int64(n))
    while left > np.uint64(0):
        if left & np.uint64(1):
            result = result * base
        base = base * base
        left = left >> np.uint64(1)
    return np.float64(1.0) / result if negative else result


@kernel
def shift_left(x: Any, n: Any, bits: Any) -> Any:
    """x * 2**n for an integer of `bits` bits; 0 if n < 0 or n >= bits."""
    return np.uint64(0) if np.uint64(n) >= np.uint64(bits) else np.uint64(x) << np.uint64(n)


@kernel
def shift_right_u(x: Any, n: Any, bits: Any) -> Any:
    """x / 2**n for an unsigned x of `bits` bits, rounded down; 0 if n >= bits."""
    return np.uint64(0) if np.uint64(n) >= np.uint64(bits) else np.uint64(x) >> np.uint64(n)


@kernel
def shift_right_i(x: Any, n: Any, bits: Any) -> Any:
    """x / 2**n for a signed x of `bits` bits, rounded down; 0 or -1 if n < 0 or n >= bits."""
    far = n < 0 or n >= bits
    return np.int64(x) >> np.int64(bits - 1 if far else n)


@kernel
def larger_of(a: Any, b: Any) -> Any:
    """The larger of two scalars; NaN where either is NaN."""
    return b if a < b or b != b else a


@kernel
def smaller_of(a: Any, b: Any) -> Any:
    """The smaller of two scalars; NaN where either is NaN."""
    return b if b < a or b != b else a
