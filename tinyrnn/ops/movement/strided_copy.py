"""Strided copies, to which every operator that moves elements is lowered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import is_floating
from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Scratch, Value, Weight, literal
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Axis, Frames, Refused
from tinyrnn.lanes import f32, get, i16, i32, kernel, lanes, load, load_part, put, store, store_part, u8
from tinyrnn.ops.elementwise.scalars import conversion, pointer

Link = tuple[Axis, Axis]

MOST_COPIES = 9
"""pieces of an irregular copy, each a strided copy of its own, up to which it does without a table of offsets"""

# fmt: off


@kernel
def _copy_words(y: Any, x: Any, n: int) -> None:
    m = n - n % lanes()
    for i in range(0, m, lanes()):
        store(y, i, load(x, i))
    if m < n:
        store_part(y, m, load_part(x, m, n - m), n - m)


@kernel
def _strided(y: Any, x: Any, n1: int, n2: int, y1: int, y2: int, x1: int, x2: int) -> None:
    for b in range(n1):
        for c in range(n2):
            put(y, b * y1 + c * y2, get(x, b * x1 + c * x2))


@kernel
def _two_words(y: int, x: int, n1: int, n2: int, y1: int, y2: int, x1: int, x2: int) -> None:
    if y2 == 1 and x2 == 1:
        for b in range(n1):
            _copy_words(f32(y + 4 * b * y1), f32(x + 4 * b * x1), n2)
    else:
        _strided(f32(y), f32(x), n1, n2, y1, y2, x1, x2)


@kernel
def _two_halves(y: int, x: int, n1: int, n2: int, y1: int, y2: int, x1: int, x2: int) -> None:
    _strided(i16(y), i16(x), n1, n2, y1, y2, x1, x2)


@kernel
def _two_bytes(y: int, x: int, n1: int, n2: int, y1: int, y2: int, x1: int, x2: int) -> None:
    _strided(u8(y), u8(x), n1, n2, y1, y2, x1, x2)


@kernel
def copy_rows(y: int, x: int, rows: int, y_row: int, x_row: int, n: int) -> None:
    """Copy n words of every row."""
    for r in range(rows):
        _copy_words(f32(y + 4 * r * y_row), f32(x + 4 * r * x_row), n)


def _three(name: str, two: Callable[..., None], unit: int) -> Callable[..., None]:
    """The kernel below, in units of some bytes."""

    def three(y: int, x: int, loops: Any, rows: int) -> None:
        """y[r, a, b, c] = x[r, a, b, c]; loops: (1, stride in y, stride in x) of rows, then (size, stride, stride) of each."""
        loops = i32(loops)
        for r in range(rows):
            for a in range(get(loops, 3)):
                to = y + unit * (r * get(loops, 1) + a * get(loops, 4))
                start = x + unit * (r * get(loops, 2) + a * get(loops, 5))
                two(to, start, get(loops, 6), get(loops, 9), get(loops, 7), get(loops, 10), get(loops, 8), get(loops, 11))

    three.__name__ = three.__qualname__ = name
    return kernel(three)


def _six(name: str, three: Callable[..., None], unit: int) -> Callable[..., None]:
    """As `strided_copy_words`, with three more loops outside; loops: of the rows, the three outer ones, the three inner ones."""

    def six(y: int, x: int, loops: Any, rows: int) -> None:
        o = i32(loops)
        for r in range(rows):
            for a in range(get(o, 3)):
                for b in range(get(o, 6)):
                    for c in range(get(o, 9)):
                        to = y + unit * (r * get(o, 1) + a * get(o, 4) + b * get(o, 7) + c * get(o, 10))
                        start = x + unit * (r * get(o, 2) + a * get(o, 5) + b * get(o, 8) + c * get(o, 11))
                        three(to, start, loops + 48, 1)

    six.__name__ = six.__qualname__ = name
    return kernel(six)


def _by_table(name: str, two: Callable[..., None], unit: int) -> Callable[..., None]:
    """The kernel below, in units of some bytes."""

    def by_table(y: int, x: int, table: Any, rows: int, n: int) -> None:
        """A copy for each of n pairs of offsets; table: (1, stride in y, stride in x) of rows, two loops, the pairs."""
        table = i32(table)
        for r in range(rows):
            for i in range(n):
                to = y + unit * (r * get(table, 1) + get(table, 9 + 2 * i))
                start = x + unit * (r * get(table, 2) + get(table, 10 + 2 * i))
                two(to, start, get(table, 3), get(table, 6), get(table, 4), get(table, 7), get(table, 5), get(table, 8))

    by_table.__name__ = by_table.__qualname__ = name
    return kernel(by_table)


# fmt: on


@dataclass(frozen=True)
class CopyKernels:
    """The strided copies of elements of one size."""

    unit: int
    """bytes of an element"""
    three: Callable[..., None]
    six: Callable[..., None]
    by_table: Callable[..., None]


strided_copy_words = _three("strided_copy_words", _two_words, 4)
strided_copy_six_words = _six("strided_copy_six_words", strided_copy_words, 4)
strided_copy_table_words = _by_table("strided_copy_table_words", _two_words, 4)
strided_copy_halves = _three("strided_copy_halves", _two_halves, 2)
strided_copy_six_halves = _six("strided_copy_six_halves", strided_copy_halves, 2)
strided_copy_table_halves = _by_table("strided_copy_table_halves", _two_halves, 2)
strided_copy_bytes = _three("strided_copy_bytes", _two_bytes, 1)
strided_copy_six_bytes = _six("strided_copy_six_bytes", strided_copy_bytes, 1)
strided_copy_table_bytes = _by_table("strided_copy_table_bytes", _two_bytes, 1)

WORDS = CopyKernels(4, strided_copy_words, strided_copy_six_words, strided_copy_table_words)
COPY_KERNELS = {
    1: CopyKernels(1, strided_copy_bytes, strided_copy_six_bytes, strided_copy_table_bytes),
    2: CopyKernels(2, strided_copy_halves, strided_copy_six_halves, strided_copy_table_halves),
    4: WORDS,
    8: WORDS,
}
"""bytes of an element → the kernels that copy it"""


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


@dataclass(frozen=True)
class End:
    """Source or destination of a strided copy: an address, and the elements from one row to the next."""

    operand: Operand
    row: int


def end_of(env: Lowering, name: str, offset: int = 0) -> End:
    """A value as source or destination, from one of its elements on."""
    return End(Value(name, offset), env.row_stride(name))


def copy_kernels(name: str, spec: Spec) -> CopyKernels:
    """The kernels that copy the elements of a value. Raises `Refused` for a type that has none."""
    if (spec.dtype.kind not in "biu" and not is_floating(spec.dtype)) or spec.dtype.itemsize not in COPY_KERNELS:
        raise Refused(f"{name!r} is {spec.dtype}; supported are bool, integers and floating numbers of up to eight bytes")
    return COPY_KERNELS[spec.dtype.itemsize]


def strided_copy(
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
    ends = end_of(env, output, to_offset), end_of(env, source, start_offset)
    return strided_copy_between(*ends, env.specs[output].dtype, shape, to, start, note or f"{output} from {source}")


def strided_copy_between(
    y: End,
    x: End,
    dtype: np.dtype[Any],
    shape: Sequence[int],
    to: Sequence[int],
    start: Sequence[int],
    note: str,
    rows: Rows | None = None,
) -> list[Call]:
    """As `strided_copy`, between any two ends."""
    kernels = copy_kernels(note, Spec(dtype, ()))
    scale = dtype.itemsize // kernels.unit
    loops = _merged(
        [(n, t * scale, s * scale) for n, t, s in zip(shape, to, start, strict=True)] + ([(scale, 1, 1)] if scale > 1 else [])
    )
    rows = rows or Rows()
    if kernels.unit == 4 and len(loops) == 1 and loops[0][1:] == (1, 1):
        return [Call(copy_rows, (y.operand, x.operand, rows, y.row * scale, x.row * scale, loops[0][0]), note)]
    axes = 3 if len(loops) <= 3 else 6
    loops = [(1, 0, 0)] * (axes - len(loops)) + loops
    calls = []
    outer, inner = loops[:-axes], loops[-axes:]
    inner.insert(0, (1, y.row * scale, x.row * scale))
    if axes == 6:
        inner.insert(4, (1, 0, 0))
    for index in np.ndindex(*(loop[0] for loop in outer)):
        y_at, x_at = (sum(i * loop[side] for i, loop in zip(index, outer, strict=True)) // scale for side in (1, 2))
        ends = _shifted(y.operand, y_at), _shifted(x.operand, x_at)
        calls.append(Call(kernels.three if axes == 3 else kernels.six, (*ends, _numbers(inner, note), rows), note))
    return calls


def _numbers(loops: Sequence[tuple[int, int, int]], what: str, *more: Array) -> Weight:
    """The loops and further numbers as a table for a kernel. Raises `Refused` where they exceed 32 bits."""
    table = np.concatenate([np.array(loops, np.int64).ravel(), *more])
    if np.abs(table).max() >= 1 << 31:
        raise Refused(f"{what}: more elements than fit 32-bit offsets")
    return Weight(table.astype(np.int32))


def _shifted(operand: Operand, by: int) -> Operand:
    if not by:
        return operand
    assert isinstance(operand, Value | Weight | Scratch)
    return replace(operand, offset=operand.offset + by)


def _merged(loops: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The same loops (size, stride, stride), as few as possible, at least one."""
    merged: list[tuple[int, int, int]] = []
    for n, t, s in reversed([loop for loop in loops if loop[0] != 1]):
        if merged and t == merged[0][1] * merged[0][0] and s == merged[0][2] * merged[0][0]:
            merged[0] = (n * merged[0][0], merged[0][1], merged[0][2])
        else:
            merged.insert(0, (n, t, s))
    return merged or [(1, 1, 1)]


def copy_elements(env: Lowering, output: str, source: str, to: Array, start: Array) -> list[Call]:
    """Calls that set output[to[i]] = source[start[i]] for every index i of the two arrays of element offsets.

    If an element of the output is named more than once, it gets one of the values, unspecified which.
    """
    if not to.size:
        return []
    to, start = to.squeeze(), start.squeeze()
    regular = _pieces(to, start, 0, MOST_COPIES)
    if regular is not None:
        return [
            call
            for t, s in regular
            for call in strided_copy(env, output, source, t.shape, _steps(t), _steps(s), int(t.flat[0]), int(s.flat[0]))
        ]
    kernels = copy_kernels(output, env.specs[output])
    scale = env.specs[output].dtype.itemsize // kernels.unit
    even = [axis for axis in range(to.ndim) if _cuts(to, start, axis) == [0]][-2 if scale == 1 else -1 :]
    first = tuple(0 if axis in even else slice(None) for axis in range(to.ndim))
    inner = _merged(
        [(to.shape[a], _steps(to)[a] * scale, _steps(start)[a] * scale) for a in even] + ([(scale, 1, 1)] if scale > 1 else [])
    )
    inner = [(1, 0, 0)] * (2 - len(inner)) + inner
    pairs = np.stack([to[first].ravel() * scale, start[first].ravel() * scale], axis=-1)
    note = f"{output} from {source}, {len(pairs)} pieces"
    table = _numbers([(1, env.row_stride(output) * scale, env.row_stride(source) * scale), *inner], note, pairs.ravel())
    return [Call(kernels.by_table, (Value(output), Value(source), table, Rows(), len(pairs)), note)]


def gather_elements(env: Lowering, output: str, source: str, start: Array) -> list[Call]:
    """Calls that set every element of the output: output[i] = source[start[i]], `start` in the output's frame shape."""
    return copy_elements(env, output, source, np.arange(start.size).reshape(start.shape), start)


def _steps(offsets: Array) -> list[int]:
    """The stride along every axis of regular offsets."""
    flat = [(0,) * axis + (1,) + (0,) * (offsets.ndim - axis - 1) for axis in range(offsets.ndim)]
    return [int(offsets[i] - offsets.flat[0]) if n > 1 else 0 for i, n in zip(flat, offsets.shape, strict=True)]


def _cuts(to: Array, start: Array, axis: int) -> list[int]:
    """The indices along an axis at which runs of equal steps begin."""
    n = to.shape[axis]
    if n < 3:
        uniform = [np.diff(offsets, axis=axis) for offsets in (to, start)]
        return [0] if n < 2 or all((d == d.flat[0]).all() for d in uniform) else [0, 1]
    steps = [np.moveaxis(np.diff(offsets, axis=axis), axis, 0).reshape(n - 1, -1) for offsets in (to, start)]
    even = np.logical_and(*((s == s[:, :1]).all(axis=1) for s in steps))
    a, b = (s[:, 0] for s in steps)
    cuts, begin = [0], 0
    for i in range(1, n):
        first = i - 1 == begin
        follows = even[i - 1] and (first or (a[i - 1] == a[begin] and b[i - 1] == b[begin]))
        if not follows:
            cuts.append(i)
            begin = i
    return cuts


def _pieces(to: Array, start: Array, axis: int, most: int) -> list[tuple[Array, Array]] | None:
    """The offsets divided into regular pieces, or None if there would be more than `most`."""
    if axis == to.ndim:
        return [(to, start)]
    cuts = _cuts(to, start, axis)
    found: list[tuple[Array, Array]] = []
    for begin, end in zip(cuts, [*cuts[1:], to.shape[axis]], strict=True):
        part = (slice(None),) * axis + (slice(begin, end),)
        inner = _pieces(to[part], start[part], axis + 1, most - len(found)) if len(cuts) <= most else None
        if inner is None or len(found) + len(inner) > most:
            return None
        found += inner
    return found


def fill(env: Lowering, output: str, value: Any) -> Call:
    """A call that sets every element of the output to a number."""
    spec = env.specs[output]
    word = pointer(output, spec.dtype)
    if spec.dtype == np.float32:
        body = f"    for i in range(0, n, lanes()):\n        store_part(y, i, {literal(float(value))}, n - i)\n"
    else:
        number = repr(float(value)).replace("inf", "1e999") if spec.dtype.kind == "f" else repr(int(value))
        body = f"    for i in range(n):\n        put(y, i, {conversion(spec.dtype)}({number}))\n"
    text = f"def KERNEL(y, n):\n    y = {word}(y)\n{body}"
    return Call(text, (Value(output), Rows(times=spec.elements)), f"{output} = {value}")


def pass_through(node: Node, specs: dict[str, Spec], source: str, output: str, axes: dict[int, int]) -> Iterator[Link]:
    """Links along the pairs of `axes`: source axis → output axis."""
    for start, to in axes.items():
        if specs[source].shape[start] == specs[output].shape[to]:
            yield (source, start), (output, to)


def refuse_twice(frames: Frames, output: str) -> None:
    """Raise `Refused` for an output with more than one time axis or batch axis."""
    roles = [part for axis in frames.rows(output) for part in frames.roles[output, axis].split("+")]
    for role in dict.fromkeys(roles):
        if roles.count(role) > 1:
            raise Refused(
                f"every {'step' if role == 'time' else 'batch entry'} meets every other one: {output!r} would have "
                f"{roles.count(role)} {role} axes"
            )
