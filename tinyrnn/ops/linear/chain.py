"""Products as kernels compute them, in NumPy: one chain of fma, so that what is known at load has the bits of what is not."""

from __future__ import annotations

import numpy as np

from tinyrnn.graph.op import Array


def fma(a: Array, b: Array, c: Array) -> Array:
    """a b + c of float32 with one rounding.

    The product is exact in float64; the sum is rounded to odd there, after which rounding to float32 is right (S. Boldo and
    G. Melquiond, Emulation of FMA and correctly rounded sums, 2008), its error by D. Knuth's TwoSum.
    """
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    inexact = (error != 0) & np.isfinite(error) & (bits & 1 == 0)
    away = (error > 0) == (total > 0)
    bits += np.where(inexact, np.where(away, 1, -1), 0)
    with np.errstate(over="ignore"):
        made: Array = total.astype(np.float32)
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
