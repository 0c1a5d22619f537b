"""Rows of time inside a frame: windows of past and future rows, and frames that contain several rows.

Every operator over time becomes one of these and an operator inside a frame: a convolution is a window and a
matrix product. The rows that a window still needs are kept in a ring, a part of the stream's state.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, PastRows, Rows, State, TotalRows, Value, Weight
from tinyrnn.graph.clock import Clock, Unfolded, held_back, reach, strided
from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import REQUIRED, Op, Refused, register
from tinyrnn.lanes import f32, get, i32, kernel, lanes, load_part, splat, store_part

WORD = 4
"""bytes of an element of a ring"""


@kernel
def copy_words(y: Any, x: Any, n: int) -> None:
    """y = x, n elements at pointers."""
    for i in range(0, n, lanes()):
        store_part(y, i, load_part(x, i, n - i), n - i)


# fmt: off


@kernel
def window_f32(y: Any, x: Any, ring: Any, offsets: Any, before: Any, taps: int, step: int, slots: int, n: int, lead: int,
               edge: int, value: float, first: int, rows: int, end: int, done: int, rows_in: int) -> None:
    """y[j, k] = row (done + j) * step + offsets[k] of the input, n words each.

    x has its rows from `first` on, the ring those before, `before` the `lead` ones before the start; the input
    ends at row `end` (-1: not yet).
    """
    offsets = i32(offsets)
    for j in range(rows):
        for k in range(taps):
            t = (done + j) * step + get(offsets, k)
            to = f32(y + 4 * (j * taps + k) * n)
            if edge != 0:
                t = max(t, 0)
                if end >= 0:
                    t = min(t, end - 1)
            if t < 0 and t >= -lead:
                copy_words(to, f32(before + 4 * (t + lead) * n), n)
            elif t < 0 or (end >= 0 and t >= end):
                for i in range(0, n, lanes()):
                    store_part(to, i, splat(value), n - i)
            elif t >= first:
                copy_words(to, f32(x + 4 * (t - first) * n), n)
            else:
                copy_words(to, f32(ring + 4 * (t % slots) * n), n)
    for i in range(max(rows_in - slots, 0), rows_in):
        copy_words(f32(ring + 4 * ((first + i) % slots) * n), f32(x + 4 * i * n), n)


@kernel
def unfold_f32(y: Any, x: Any, times: int, start: int, n: int, done: int, rows: int, first: int) -> None:
    """Row j of y is piece (done + j + start) of the input, whose rows have `times` pieces of n words; x starts at row `first`."""
    copy_words(f32(y), f32(x + 4 * (done + start - first * times) * n), rows * n)


@kernel
def unfold_late_f32(y: Any, x: Any, ring: Any, times: int, start: int, slots: int, n: int, done: int, rows: int, first: int,
                    rows_in: int) -> None:
    """As `unfold_f32`, where some pieces come from rows before `first`, which the ring holds."""
    for j in range(rows):
        t = (done + j + start) // times
        at = (done + j + start) % times * n
        if t >= first:
            copy_words(f32(y + 4 * j * n), f32(x + 4 * ((t - first) * times * n + at)), n)
        else:
            copy_words(f32(y + 4 * j * n), f32(ring + 4 * ((t % slots) * times * n + at)), n)
    for i in range(max(rows_in - slots, 0), rows_in):
        copy_words(f32(ring + 4 * ((first + i) % slots) * times * n), f32(x + 4 * i * times * n), times * n)


# fmt: on


def _words(node: Node, env: Lowering) -> int:
    spec = env.specs[node.inputs[0]]
    size = prod(node.shapes[0]) * spec.dtype.itemsize
    if size % WORD:
        raise Refused(f"it keeps past rows of {spec}; supported are types of {WORD} bytes and more")
    return size // WORD


@register
class Window(Op):
    """Several rows of time as one frame, taps first; made from operators along time."""

    name = "Window"
    inputs = ("X",)
    internal = True
    attributes = {"offsets": REQUIRED, "step": 1, "extra": -1, "value": 0.0, "edge": False, "before": None, "clock": None}

    def clock(self, node: Node, of: Clock) -> Clock:
        target: Clock | None = self.attribute(node, "clock")
        last = max(self.attribute(node, "offsets"))
        return target or strided(of, self.attribute(node, "step"), last, self.attribute(node, "extra"))

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        offsets, step = self.attribute(node, "offsets"), self.attribute(node, "step")
        words = _words(node, env)
        value = self.attribute(node, "value")
        if value and env.specs[source].dtype != np.float32:
            raise Refused(f"it pads {env.specs[source].dtype} with {value}; supported are zeros, or float32")
        before = self.attribute(node, "before")
        lead = 0 if before is None else len(before)
        slots = reach(env.clock(source), env.clock(output), step, min(offsets))
        ring = State(f"{node.name}.ring", np.zeros((slots, words), np.float32))
        table = Weight(np.asarray(offsets, np.int32))
        rows = np.zeros(1, np.float32) if before is None else np.ascontiguousarray(before)
        sizes = (len(offsets), step, slots, words, lead, int(self.attribute(node, "edge")), value)
        return [
            Call(
                window_f32,
                (
                    Value(output),
                    Value(source),
                    ring,
                    table,
                    Weight(rows),
                    *sizes,
                    PastRows(source),
                    Rows(output),
                    TotalRows(source),
                    PastRows(output),
                    Rows(source),
                ),
                f"{output} = rows {', '.join(map(str, offsets))} of {source}",
            )
        ]


@register
class Unfold(Op):
    """The rows that each frame contains; made from operators that make several rows of one."""

    name = "Unfold"
    inputs = ("X",)
    internal = True
    attributes = {"times": REQUIRED, "start": 0, "extra": 0}

    def clock(self, node: Node, of: Clock) -> Clock:
        times, start, extra = (self.attribute(node, name) for name in ("times", "start", "extra"))
        return Unfolded(of, times, start, extra) if (times, start, extra) != (1, 0, 0) else of

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        times, start = self.attribute(node, "times"), self.attribute(node, "start")
        words = _words(node, env) // times
        slots = held_back(env.clock(source), env.clock(output), times, start)
        if slots:  # what the end may cut off waits for the next rows
            ring = State(f"{node.name}.ring", np.zeros((slots, times * words), np.float32))
            counts = (PastRows(output), Rows(output), PastRows(source), Rows(source))
            return [Call(unfold_late_f32, (Value(output), Value(source), ring, times, start, slots, words, *counts))]
        operands = (Value(output), Value(source), times, start, words, PastRows(output), Rows(output), PastRows(source))
        return [Call(unfold_f32, operands)]
