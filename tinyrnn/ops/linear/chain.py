"""Products as kernels compute them, in NumPy: one chain of fma, so that what is known at load has the bits of what is not."""

from __future__ import annotations

import numpy as np

from tinyrnn.graph.op import Array

HALFWAY, BELOW = 0x10000000, 0x1FFFFFFF
"""the bits of a float64 below those of a float32, and what they are halfway between two of those"""


def fma(a: Array, b: Array, c: Array) -> Array:
    """a b + c of float32 with one rounding.

    The product is exact in float64. Rounding the sum there and then to float32 is wrong only where the first result is halfway
    between two float32, or is rounded to fewer bits; there the sum is rounded to odd, after which rounding to float32 is right
    (S. Boldo and G. Melquiond, Emulation of FMA and correctly rounded sums, 2008). Its error is found by D. Knuth's TwoSum.
    """
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    total: Array = product + addend
    with np.errstate(over="ignore"):
        made: Array = total.astype(np.float32)
    doubtful = ((total.view(np.int64) & BELOW) == HALFWAY) | (np.abs(total) < 2.0**-125)
    if not doubtful.any():
        return made
    with np.errstate(invalid="ignore"):
        part = total - product
        error = (product - (total - part)) + (addend - part)
        odd = total.view(np.int64).copy()
        inexact = (error != 0) & (odd & 1 == 0) & np.isfinite(total)
        odd += np.where(inexact, np.where((error > 0) == (total > 0), 1, -1), 0)
        made = np.where(doubtful, odd.view(np.float64).astype(np.float32), made)
    return made


def linear_rows(rows: Array, matrix: Array, rest: Array, each: int = 0) -> Array:
    """rows [n, K] times `matrix` [K, M] as `linear` computes them, with `rest` from `pack_rest` for LANES = 1."""
    start, *factors = rest.reshape(-1, matrix.shape[1])
    size = len(matrix)
    sums = np.tile(start, (len(rows), 1))
    each = each or size
    for first in range(0, size, each):
        for k in range(first, min(first + each, size)):
            sums = fma(rows[:, k, None], matrix[k].astype(np.float32), sums)
        if factors:
            sums = sums * factors[first // each]
    return sums
