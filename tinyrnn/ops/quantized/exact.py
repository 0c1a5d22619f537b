"""Exact sums of products of integers by kernels over float32.

A chain of fma over integers is exact in any order while the magnitudes of its products add up to at most 2**24. Where
known weights are too large for that they are split into parts that are not, whose sums are joined in int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyrnn.graph.op import Array
from tinyrnn.ops.quantized.integers import EXACT, limits
from tinyrnn.ops.quantized.whole_linear import whole_product
from tinyrnn.ops.quantized.written import INT32, Operand, Written

RADIX = 16
"""weights are split into w = RADIX * high + low with low from -8 to 7"""


def bound(dtype: np.dtype[Any], zero: Operand) -> int:
    """The largest magnitude of an integer of this type without its zero point."""
    low, high = limits(dtype)
    zeros = zero if isinstance(zero, np.ndarray) else np.array([low, high])
    return int(max(np.max(high - zeros), np.max(zeros - low)))


def exact_parts(weights: Array, largest: int, over: Sequence[int]) -> list[tuple[int, Array]]:
    """(factor, weights) whose products with integers up to `largest`, summed over the axes `over`, are exact in float32."""
    if float(np.abs(weights).sum(axis=tuple(over), dtype=np.float64).max(initial=0.0)) * largest <= EXACT:
        return [(1, weights)]
    if np.abs(weights).max() > RADIX // 2:
        high = np.rint(weights / RADIX)
        low = weights - RADIX * high
        parts = [(RADIX * factor, part) for factor, part in exact_parts(high, largest, over)]
        return [*parts, *exact_parts(low, largest, over)]
    axis = max(over, key=lambda a: weights.shape[a])
    others = tuple(a for a in range(weights.ndim) if a != axis)
    used = np.flatnonzero(np.any(weights, axis=others))
    first = (np.arange(weights.shape[axis]) < used[len(used) // 2]).reshape([-1 if a == axis else 1 for a in range(weights.ndim)])
    halves = (np.where(first, weights, 0), np.where(first, 0, weights))
    return [part for half in halves for part in exact_parts(half, largest, over)]


def joined(made: Written, sums: Sequence[tuple[int, str]], bias: Array | None) -> str:
    """The int32 sum of exact float32 sums, each times its factor, and of int32 numbers; wraps around as int32 does."""
    total = ""
    for factor, name in sums:
        part = made.make("Cast", [name], "part", {"to": 6})
        if factor != 1:
            part = made.make("Mul", [part, np.array(factor, INT32)], "part")
        total = made.make("Add", [total, part], "part") if total else part
    return made.make("Add", [total, bias.astype(INT32)], "part") if bias is not None else total


class Sum:
    """A sum of products: exact integers in float32, or int32 where they may be larger."""

    def __init__(self, made: Written, sums: Sequence[tuple[int, str]], bias: Array | None = None) -> None:
        self.made, self.whole = made, len(sums) == 1 and sums[0][0] == 1 and bias is None
        self.name = sums[0][1] if self.whole else joined(made, sums, bias)

    def as_float(self) -> str:
        return self.name if self.whole else self.made.make("Cast", [self.name], "float", {"to": 1})

    def put(self, output: str) -> None:
        """The sum as the node's int32 output."""
        if self.whole:
            self.made.whole(self.name, output)
        else:
            self.made.make("Identity", [self.name], "sum", output=output)


def matrix_product(
    made: Written, a: Operand, b: Operand, bounds: tuple[int, int], bias: Array | None, raw: tuple[int | str, Operand] | None
) -> Sum:
    """A B + bias for integers in float32 up to `bounds`; bias [N] is int32 and known.

    raw: where A is an input of the node, its place or its name in float32, and its zero point
    """
    if isinstance(b, np.ndarray):
        right = b if b.ndim > 1 else b[:, None]
        whole = whole_product(made, *raw, b) if raw is not None else None
        if whole is not None:
            sums = [(1, whole)]
        else:
            parts = exact_parts(right, bounds[0], [right.ndim - 2])
            parts = [(factor, part if b.ndim > 1 else part[:, 0]) for factor, part in parts]
            sums = [(factor, made.make("MatMul", [a, part.astype(np.float32)], "product")) for factor, part in parts]
        if bias is None or len(sums) > 1:
            return Sum(made, sums, bias)
        largest = float(np.abs(right).sum(-2, dtype=np.float64).max(initial=0.0)) * bounds[0]
        if largest + np.abs(bias.astype(np.float64)).max() > EXACT:
            return Sum(made, sums, bias)
        return Sum(made, [(1, made.make("Add", [sums[0][1], bias.astype(np.float32)], "biased"))])
    if isinstance(a, np.ndarray):
        a = made.constant(a)
    k = made.spec(a).sizes[-1]
    if k * bounds[0] * bounds[1] <= EXACT:
        product = made.make("MatMul", [a, b], "product")
        return Sum(made, [(1, product)], bias)
    wide = [made.make("Cast", [name], "wide", {"to": 6}) for name in (a, b)]
    product = made.make("MatMul", wide, "product")
    total = Sum(made, [(1, product)])
    total.whole, total.name = False, product if bias is None else made.make("Add", [product, bias.astype(INT32)], "biased")
    return total


def convolution(made: Written, x: str, w: Array, largest: int, attributes: dict[str, Any], bias: Array | None = None) -> Sum:
    """A convolution of integers in float32 up to `largest` with weights [M, C / group, *kernel] and bias [M]."""
    parts = exact_parts(w, largest, range(1, w.ndim))
    sizes = np.abs(w).sum(tuple(range(1, w.ndim)), dtype=np.float64) * largest
    start: list[Operand] = []
    if bias is not None and len(parts) == 1 and (sizes + np.abs(bias.astype(np.float64))).max() <= EXACT:
        start, bias = [bias.astype(np.float32)], None
    sums = [(factor, made.make("Conv", [x, part.astype(np.float32), *start], "product", attributes)) for factor, part in parts]
    return Sum(made, sums, None if bias is None else bias.reshape(-1, *[1] * (w.ndim - 2)))
