"""Conversion of float16 and bfloat16 from and to float32 by integer operations, the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyrnn.lanes import get, kernel, put, u16, u32


@kernel
def float_of_half(bits: Any) -> Any:
    """The bits of the float32 with the value of a float16."""
    b: Any = np.int64(bits)
    sign, e, m = (b & 0x8000) << 16, (b >> 10) & 31, b & 1023
    if e == 31:
        return sign | 0x7F800000 | (m << 13)
    if e == 0:
        if m == 0:
            return sign
        e = 1
        while m < 1024:
            m = m << 1
            e -= 1
    return sign | ((e + 112) << 23) | ((m & 1023) << 13)


@kernel
def half_of_float(bits: Any) -> Any:
    """The bits of the float16 nearest to a float32, ties to even."""
    b = np.int64(bits)
    sign, a = (b >> 16) & 0x8000, b & 0x7FFFFFFF
    if a > 0x7F800000:
        return sign | 0x7E00
    if a >= 0x477FF000:
        return sign | 0x7C00
    if a >= 0x38800000:
        r = a - 0x38000000
        return sign | ((r + 0xFFF + ((r >> 13) & 1)) >> 13)
    e = a >> 23
    if e < 102:
        return sign
    m, s = (a & 0x7FFFFF) | 0x800000, 126 - e
    q, rest, tie = m >> s, m & ((1 << s) - 1), 1 << (s - 1)
    return sign | (q + (1 if rest > tie or (rest == tie and q & 1 == 1) else 0))


@kernel
def bfloat_of_float(bits: Any) -> Any:
    """The bits of the bfloat16 nearest to a float32, ties to even."""
    b = np.int64(bits)
    if b & 0x7FFFFFFF > 0x7F800000:
        return (b >> 16) | 0x40
    return (b + 0x7FFF + ((b >> 16) & 1)) >> 16


@kernel
def halves_widened(y: Any, x: Any, n: int) -> None:
    """Convert n float16 to float32."""
    y, x = u32(y), u16(x)
    for i in range(n):
        put(y, i, float_of_half(get(x, i)))


@kernel
def halves_narrowed(y: Any, x: Any, n: int) -> None:
    """Convert n float32 to float16."""
    y, x = u16(y), u32(x)
    for i in range(n):
        put(y, i, half_of_float(get(x, i)))


@kernel
def bfloats_widened(y: Any, x: Any, n: int) -> None:
    """Convert n bfloat16 to float32."""
    y, x = u32(y), u16(x)
    for i in range(n):
        put(y, i, np.int64(get(x, i)) << 16)


@kernel
def bfloats_narrowed(y: Any, x: Any, n: int) -> None:
    """Convert n float32 to bfloat16."""
    y, x = u16(y), u32(x)
    for i in range(n):
        put(y, i, bfloat_of_float(get(x, i)))


HALVES = {
    ("float16", "float32"): halves_widened,
    ("float32", "float16"): halves_narrowed,
    ("bfloat16", "float32"): bfloats_widened,
    ("float32", "bfloat16"): bfloats_narrowed,
}
"""(type, type) → the kernel that converts"""
