"""Where an operator with a sliding window finds its elements: tables of offsets, and the padded copy that they point into.

Along every axis of the frame the operator stands at `count` positions, `step` elements apart, and at each
position reads the elements at `taps` from there; elements outside the axis count as a padding value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.op import Array
from tinyrnn.lanes import f32, get, i32, kernel, lanes, load_part, put, splat, store_part


@dataclass(frozen=True)
class AxisWindow:
    """The window along one axis: at position q it reads the elements q * step + taps."""

    taps: tuple[int, ...]
    count: int = 1
    step: int = 1

    def inside(self, size: int) -> list[int]:
        """The indices of the taps that read an element of the axis at some position, not padding alone."""
        return [k for k, tap in enumerate(self.taps) if any(0 <= q * self.step + tap < size for q in range(self.count))]


@dataclass(frozen=True)
class PaddedAxis:
    """One axis as it is read: the element at each slot (-1: padding), the slots of the taps and of the positions."""

    elements: tuple[int, ...]
    taps: tuple[int, ...]
    places: tuple[int, ...]

    def whole(self, size: int) -> bool:
        """Whether the slots are the unchanged axis of `size` elements."""
        return self.elements == tuple(range(size))


def padded_axis(window: AxisWindow, size: int, split: bool, as_is: bool) -> PaddedAxis:
    """The slots of one axis. With `split`, positions that follow each other have slots that follow each other.

    With `as_is` the axis stays whole where nothing has to be moved for it.
    """
    taps, count, step = window.taps, window.count, window.step
    if not taps:
        return PaddedAxis(tuple(range(size)), (), (0,) * count)
    low, high = min(taps), max(taps) + (count - 1) * step
    if as_is and low >= 0 and high < size and (not split or step == 1 or count == 1):
        return PaddedAxis(tuple(range(size)), taps, tuple(q * step for q in range(count)))
    if count == 1:
        kept = sorted(set(taps))
        return PaddedAxis(tuple(t if 0 <= t < size else -1 for t in kept), tuple(kept.index(t) for t in taps), (0,))
    if not split or step == 1:
        slots = range(low, high + 1)
        return PaddedAxis(
            tuple(e if 0 <= e < size else -1 for e in slots), tuple(t - low for t in taps), tuple(q * step for q in range(count))
        )
    phases = sorted({(t - low) % step for t in taps})
    width = count + (max(taps) - low) // step
    elements = [low + phase + i * step for phase in phases for i in range(width)]
    return PaddedAxis(
        tuple(e if 0 <= e < size else -1 for e in elements),
        tuple(phases.index((t - low) % step) * width + (t - low) // step for t in taps),
        tuple(range(count)),
    )


@dataclass(frozen=True)
class WindowOffsets:
    """A frame as it is read: directly, or through a copy made by `padded_copy`."""

    copied: bool
    shape: tuple[int, ...]
    """slots along each axis"""
    taps: Array
    """offset of every combination of taps, row-major over the axes of the frame"""
    places: Array
    """offset of every combination of positions, row-major"""
    outer: Array
    """copy: the first element of each row of slots, -1 where all of it is padding"""
    inner: Array
    """copy: the element of each slot along the last axis, -1 for padding"""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def runs(self, first: int = 0) -> tuple[Array, int]:
        """(offsets, n): each of the offsets is the first of n contiguous positions, along axes from `first` on."""
        counts = self.places.shape
        for axis in range(first, len(counts)):
            n = prod(counts[axis:])
            rows = self.places.reshape(-1, n)
            if np.array_equal(rows, rows[:, :1] + np.arange(n)):
                return rows[:, 0], n
        return self.places.ravel(), 1


def window_offsets(shape: Sequence[int], windows: Sequence[AxisWindow], split: bool, kept: int = -1) -> WindowOffsets:
    """The tables for a frame. With `split`, positions along the last axis are contiguous; axis `kept` is copied unchanged."""
    last = len(shape) - 1
    axes = list(enumerate(zip(windows, shape, strict=True)))
    ways = [padded_axis(s, n, split and a == last, True) for a, (s, n) in axes]
    copied = not all(w.whole(n) for w, n in zip(ways, shape, strict=True))
    if copied:
        ways = [padded_axis(s, n, split and a == last, a == kept) for a, (s, n) in axes]
    sizes = [len(w.elements) for w in ways]
    strides = [prod(sizes[a + 1 :]) for a in range(len(sizes))]
    source = [prod(shape[a + 1 :]) for a in range(len(shape))]
    starts = _sums([np.array(w.elements) * s for w, s in zip(ways[:-1], source[:-1], strict=True)])
    outside = _sums([np.array([e < 0 for e in w.elements], int) for w in ways[:-1]])
    return WindowOffsets(
        copied,
        tuple(sizes),
        _sums([np.array(w.taps, int) * s for w, s in zip(ways, strides, strict=True)]).astype(np.int32),
        _sums([np.array(w.places, int) * s for w, s in zip(ways, strides, strict=True)]).astype(np.int32),
        np.where(outside > 0, -1, starts).ravel().astype(np.int32),
        np.array(ways[-1].elements, np.int32),
    )


def _sums(parts: Sequence[Array]) -> Array:
    total = np.zeros((), int)
    for part in parts:
        total = total[..., None] + part
    return total


def padded_copy_call(offsets: WindowOffsets, to: str, start: str, outer: str, inner: str, value: str) -> str:
    """The text of a call of `padded_copy`, by the texts of its arguments: the slots, the frame, the two tables, the value."""
    elements = offsets.inner
    within = np.flatnonzero(elements >= 0)
    width, n, left, first = len(elements), -1, 0, 0
    if len(within):
        left, first = int(within[0]), int(elements[within[0]])
        if np.array_equal(elements[within], first + np.arange(len(within))) and within[-1] - left + 1 == len(within):
            n = len(within)
    return f"padded_copy({to}, {start}, {outer}, {inner}, {len(offsets.outer)}, {width}, {n}, {left}, {first}, {value})"


# fmt: off


@kernel
def padded_copy(y: Any, x: Any, outer: Any, inner: Any, rows: int, width: int, n: int, left: int, first: int,
            value: float) -> None:
    """Row j of y, `width` wide, = x[outer[j] + inner[i]], `value` where either is -1.

    With n >= 0 its elements from `left` on are the n that follow x[outer[j] + first].
    """
    y = f32(y)
    x = f32(x)
    outer = i32(outer)
    inner = i32(inner)
    for j in range(rows):
        start, to = get(outer, j), j * width
        if start < 0 or n >= 0:
            for i in range(0, width, lanes()):
                store_part(y, to + i, splat(value), width - i)
            if start >= 0:
                for i in range(0, n, lanes()):
                    store_part(y, to + left + i, load_part(x, start + first + i, n - i), n - i)
        else:
            for i in range(width):
                e = get(inner, i)
                if e < 0:
                    put(y, to + i, value)
                else:
                    put(y, to + i, get(x, start + e))


# fmt: on
