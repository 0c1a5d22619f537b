"""The strided walk, which every operator that moves elements lowers to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from tinyrnn.ir import Node, Spec
from tinyrnn.lanes import f32, get, i32, i64, kernel, lanes, load, load_part, put, store, store_part, u8
from tinyrnn.op import Axis, Call, Lowering, Refused, Rows, Value

Link = tuple[Axis, Axis]

# fmt: off


@kernel
def _walk(y: Any, x: Any, rows: int, y_row: int, x_row: int, n0: int, n1: int, n2: int,
          y0: int, y1: int, y2: int, x0: int, x1: int, x2: int) -> None:
    for r in range(rows):
        for a in range(n0):
            for b in range(n1):
                for c in range(n2):
                    put(y, r * y_row + a * y0 + b * y1 + c * y2, get(x, r * x_row + a * x0 + b * x1 + c * x2))


@kernel
def walk_f32(y: Any, x: Any, y_at: int, x_at: int, rows: int, y_row: int, x_row: int, n0: int, n1: int, n2: int,
             y0: int, y1: int, y2: int, x0: int, x1: int, x2: int) -> None:
    """y[r, a, b, c] = x[r, a, b, c], each with its own strides, from element y_at and x_at on."""
    y = f32(y + 4 * y_at)
    x = f32(x + 4 * x_at)
    if y2 == 1 and x2 == 1:
        for r in range(rows):
            for a in range(n0):
                for b in range(n1):
                    to, start = r * y_row + a * y0 + b * y1, r * x_row + a * x0 + b * x1
                    m = n2 - n2 % lanes()
                    for i in range(0, m, lanes()):
                        store(y, to + i, load(x, start + i))
                    if m < n2:
                        store_part(y, to + m, load_part(x, start + m, n2 - m), n2 - m)
    else:
        _walk(y, x, rows, y_row, x_row, n0, n1, n2, y0, y1, y2, x0, x1, x2)


def _walker(name: str, pointer: Callable[[int], Any], size: int) -> Callable[..., None]:
    """As `walk_f32`, for elements of another type."""

    def walker(y: int, x: int, y_at: int, x_at: int, rows: int, y_row: int, x_row: int, n0: int, n1: int, n2: int,
               y0: int, y1: int, y2: int, x0: int, x1: int, x2: int) -> None:
        _walk(pointer(y + size * y_at), pointer(x + size * x_at), rows, y_row, x_row, n0, n1, n2, y0, y1, y2, x0, x1, x2)

    walker.__name__ = walker.__qualname__ = name
    return kernel(walker)


# fmt: on

walk_i64 = _walker("walk_i64", i64, 8)
walk_i32 = _walker("walk_i32", i32, 4)
walk_u8 = _walker("walk_u8", u8, 1)

WALKS: dict[np.dtype[Any], Callable[..., None]] = {
    np.dtype(np.float32): walk_f32,
    np.dtype(np.int64): walk_i64,
    np.dtype(np.int32): walk_i32,
    np.dtype(np.uint8): walk_u8,
    np.dtype(np.bool_): walk_u8,
}


@kernel
def copy_f32(y: Any, x: Any, n: int) -> None:
    """y = x, n float32."""
    y = f32(y)
    x = f32(x)
    for i in range(0, n, lanes()):
        store_part(y, i, load_part(x, i, n - i), n - i)


def strides_of(shape: Sequence[int]) -> list[int]:
    """Row-major strides in elements."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def walk(
    env: Lowering,
    output: str,
    source: str,
    shape: Sequence[int],
    to: Sequence[int],
    start: Sequence[int],
    to_offset: int = 0,
    start_offset: int = 0,
    note: str = "",
) -> list[Call]:
    """Calls that set output[to_offset + i·to] = source[start_offset + i·start] for every index i of `shape`."""
    dtype = env.specs[output].dtype
    if dtype not in WALKS:
        raise Refused(f"{output!r} is {dtype}; supported are {', '.join(map(str, WALKS))}")
    dims = [(n, t, s) for n, t, s in zip(shape, to, start, strict=True) if n != 1]
    merged: list[tuple[int, int, int]] = []
    for n, t, s in reversed(dims):
        if merged and t == merged[0][1] * merged[0][0] and s == merged[0][2] * merged[0][0]:
            merged[0] = (n * merged[0][0], merged[0][1], merged[0][2])
        else:
            merged.insert(0, (n, t, s))
    while len(merged) < 3:
        merged.insert(0, (1, 0, 0))
    calls = []
    *outer, a, b, c = merged
    if not any(m[0] != 1 for m in merged):
        a, b, c = (1, 0, 0), (1, 0, 0), (1, 1, 1)
    for index in np.ndindex(*(o[0] for o in outer)):
        y_at = to_offset + sum(i * o[1] for i, o in zip(index, outer, strict=True))
        x_at = start_offset + sum(i * o[2] for i, o in zip(index, outer, strict=True))
        calls.append(
            Call(
                WALKS[dtype],
                (
                    Value(output),
                    Value(source),
                    y_at,
                    x_at,
                    Rows(),
                    env.row_stride(output),
                    env.row_stride(source),
                    a[0],
                    b[0],
                    c[0],
                    a[1],
                    b[1],
                    c[1],
                    a[2],
                    b[2],
                    c[2],
                ),
                note or f"{output} from {source}",
            )
        )
    return calls


def pass_through(node: Node, specs: dict[str, Spec], source: str, output: str, axes: dict[int, int]) -> Iterator[Link]:
    """Links for source axis → output axis."""
    for start, to in axes.items():
        if specs[source].shape[start] == specs[output].shape[to]:
            yield (source, start), (output, to)
