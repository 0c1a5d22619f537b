"""Kernels over integers that others call: quantising a vector to int8, and sums of four outputs where a Vec is one float."""

from __future__ import annotations

from tinyrnn.lanes import (
    Ints,
    Pointer,
    Vec,
    across,
    dot,
    dot_offset,
    dot_width,
    finish_int8,
    kernel,
    lanes,
    larger_magnitude,
    less,
    load,
    load_part,
    maximum,
    minimum,
    round_even,
    select,
    splat,
    store_int8,
    zeros,
)

LEAST = 2.0**-100
"""below this largest magnitude a vector counts as zero"""


@kernel
def quantise_int8(q: Pointer, x: Pointer, n: int) -> tuple[Vec, Vec]:
    """Write x [n], float32, as activations q: q = round(x · (127 / m)) in [-127, 127] with m the largest magnitude, ties to even.

    Returns (the scale m / 127, minus what the target adds to activations); the scale is NaN if an element is, infinite if one is.
    """
    L = lanes()
    whole = n // L * L
    m = splat(0.0)
    for k in range(0, whole, L):
        m = larger_magnitude(m, load(x, k))
    if whole < n:
        m = larger_magnitude(m, load_part(x, whole, n - whole))
    m = across(m)
    tiny = less(m, splat(LEAST))
    factor = select(tiny, splat(0.0), splat(127.0) / m)
    for k in range(0, whole, L):
        store_int8(q, k, load(x, k) * factor)
    if whole < n:
        store_int8(q, whole, load_part(x, whole, n - whole) * factor)
    fill_int8(q, n, whole + L if whole < n else whole)
    return select(tiny, splat(0.0), m / splat(127.0)), splat(-float(dot_offset()))


@kernel
def quantise_uint8(q: Pointer, x: Pointer, n: int) -> tuple[Vec, Vec]:
    """As onnxruntime's DynamicQuantizeLinear: x [n] as uint8 u = round(x / scale) + zero over the range of x and 0.

    Activations are u - 128. Returns (the scale, what is to be added to them for sums of u - zero).
    """
    L = lanes()
    whole = n // L * L
    above, below = splat(0.0), splat(0.0)
    for k in range(0, whole, L):
        v = load(x, k)
        above = larger_magnitude(above, select(less(v, splat(0.0)), splat(0.0), v))
        below = larger_magnitude(below, select(less(splat(0.0), v), splat(0.0), v))
    if whole < n:
        v = load_part(x, whole, n - whole)
        above = larger_magnitude(above, select(less(v, splat(0.0)), splat(0.0), v))
        below = larger_magnitude(below, select(less(splat(0.0), v), splat(0.0), v))
    above, below = across(above), across(below)
    scale = (above + below) / splat(255.0)
    scale = select(less(splat(0.0), scale), scale, scale + splat(1.0))
    zero = round_even(minimum(maximum(below / scale, splat(0.0)), splat(255.0)))
    low, high = -zero, splat(255.0) - zero
    for k in range(0, whole, L):
        v = minimum(maximum(load(x, k) / scale, low), high)
        store_int8(q, k, round_even(v) + (zero - splat(128.0)))
    if whole < n:
        v = minimum(maximum(load_part(x, whole, n - whole) / scale, low), high)
        store_int8(q, whole, round_even(v) + (zero - splat(128.0)))
    fill_int8(q, n, whole + L if whole < n else whole)
    return scale, splat(128.0 - float(dot_offset())) - zero


@kernel
def quantise_whole(q: Pointer, x: Pointer, n: int) -> tuple[Vec, Vec]:
    """Write x [n], float32 that are whole numbers from -128 to 127, as activations; returns as `quantise_int8`, the scale 1."""
    L = lanes()
    whole = n // L * L
    for k in range(0, whole, L):
        store_int8(q, k, load(x, k))
    if whole < n:
        store_int8(q, whole, load_part(x, whole, n - whole))
    fill_int8(q, n, whole + L if whole < n else whole)
    return splat(1.0), splat(-float(dot_offset()))


@kernel
def quantise_bytes(q: Pointer, x: Pointer, n: int) -> tuple[Vec, Vec]:
    """As `quantise_whole`, of whole numbers from 0 to 255, as activations u - 128."""
    L = lanes()
    whole = n // L * L
    for k in range(0, whole, L):
        store_int8(q, k, load(x, k) - splat(128.0))
    if whole < n:
        store_int8(q, whole, load_part(x, whole, n - whole) - splat(128.0))
    fill_int8(q, n, whole + L if whole < n else whole)
    return splat(1.0), splat(-float(dot_offset()))


@kernel
def fill_int8(q: Pointer, n: int, written: int) -> None:
    """Write activations up to a whole number of products: their weights are zero."""
    D, L = dot_width(), lanes()
    last = (n + D - 1) // D * D
    for k in range(written, last, L):
        store_int8(q, k, splat(0.0))
    finish_int8(q, last)


@kernel
def dots4(w: Pointer, x: Pointer, n: int, starts: Pointer) -> tuple[Ints, Ints, Ints, Ints]:
    """For four outputs the sum of the products of n activations and weights [k][output]; LANES is 1, dot_width 1.

    starts: int32 for each output, of targets whose sums start from them
    """
    s0, s1, s2, s3 = zeros(), zeros(), zeros(), zeros()
    for k in range(n):
        i = 4 * k
        s0 = dot(s0, x, k, w, i)
        s1 = dot(s1, x, k, w, i + 1)
        s2 = dot(s2, x, k, w, i + 2)
        s3 = dot(s3, x, k, w, i + 3)
    return s0, s1, s2, s3
