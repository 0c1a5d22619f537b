"""Operators that reduce over axes of a frame: sums, means, extremes.

Sums across lanes are taken the same way on every target: element k joins partial sum k mod WIDTH, and one
fixed tree adds the partial sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.ir import Node, Spec
from tinyrnn.lanes import (
    Vec,
    kernel,
    load,
    store,
    store_part,
)
from tinyrnn.op import Array, Axis, Call, Frames, Lowering, Op, Refused, Rows, Scratch, Value, register
from tinyrnn.ops.over_time import KINDS, over_time

WIDTH = 16


def _axes_of(value: Any, rank: int) -> list[int] | None:
    return None if value is None else sorted(int(a) % rank for a in np.ravel(value))


class Reduce(Op):
    """One value out of all along `axes`."""

    inputs = ("data", "axes?")
    outputs = ("reduced",)
    attributes: ClassVar[dict[str, Any]] = {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}
    parameters = {"axes": 1}
    function: ClassVar[Callable[..., Any]]
    words: ClassVar[tuple[str, str, str]]
    """what one element contributes ({v}), how two combine ({a}, {b}), what becomes of the total ({t}, {n})"""

    def _axes(self, node: Node, rank: int) -> list[int]:
        axes = _axes_of(self.attribute(node, "axes"), rank)
        if not axes:
            return [] if self.attribute(node, "noop_with_empty_axes") else list(range(rank))
        return axes

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        axes = self._axes(node, len(specs[0].shape))
        keep = self.attribute(node, "keepdims")
        return [Spec(specs[0].dtype, tuple(1 if a in axes else n for a, n in enumerate(specs[0].sizes) if keep or a not in axes))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        rank = len(specs[node.inputs[0]].shape)
        axes = self._axes(node, rank)
        kept = range(rank) if self.attribute(node, "keepdims") else [a for a in range(rank) if a not in axes]
        for to, start in enumerate(kept):
            if start not in axes:
                yield (node.inputs[0], start), (node.outputs[0], to)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        axes = self._axes(node, len(frames.specs[source].shape))
        if [frames.role(source, a) for a in axes] == ["time"] and node.op in KINDS:
            return frames.node(over_time(node), shapes=[frames.shape(source)])
        if any(frames.role(source, a) and frames.specs[source].shape[a] != 1 for a in axes):
            raise Refused("it reduces over the time or batch axis, together with others or in a way that has no running form")
        kept = frames.kept(source)
        return frames.node(node, {"axes": [kept.index(a) for a in axes if a in kept], "keepdims": 1, "noop_with_empty_axes": 1})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        axes = tuple(self._axes(node, arrays[0].ndim))
        with np.errstate(all="ignore"):
            return (np.asarray(type(self).function(arrays[0], axis=axes, keepdims=bool(self.attribute(node, "keepdims")))),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output, shape = node.inputs[0], node.outputs[0], node.shapes[0]
        if env.specs[source].dtype != np.float32:
            raise Refused(f"{source!r} is {env.specs[source].dtype}; reductions take float32")
        axes = self._axes(node, len(shape))
        axes = [a for a in axes if shape[a] != 1]
        if axes and axes != list(range(axes[0], axes[-1] + 1)):
            raise Refused(f"axes={axes} do not lie side by side in the frame {list(shape)}")
        first, end = (axes[0], axes[-1] + 1) if axes else (len(shape), len(shape))
        outer, n, inner = prod(shape[:first]), prod(shape[first:end]), prod(shape[end:])
        one, two, finish = type(self).words
        total = finish.format(t="t", n=n)
        lines = ["def KERNEL(y, x, s, rows):", "    y, x, s = f32(y), f32(x), f32(s)", f"    for r in range(rows * {outer}):"]
        if inner == 1:
            neutral = {"({a} + {b})": "splat(0.0)", "({a} * {b})": "splat(1.0)"}.get(two)
            start = neutral or f"splat(get(x, r * {n}))"
            value = one.format(v=f"load_part(x, r * {n} + i, {n} - i)")
            joined = two.format(a="t", b="v")
            if n % WIDTH:
                joined = f"pick(t, {joined}, {n} - i, s)"
            lines += [
                "        for b in range(0, 16, lanes()):",
                f"            t = {one.format(v=start) if not neutral else start}",
                f"            for i in range(b, {n}, 16):",
                f"                v = {value}",
                f"                t = {joined}",
                "            store(s, b, t)",
                "        half = 8",
                "        while half > 0:",
                "            for i in range(half):",
                "                a, b = splat(get(s, i)), splat(get(s, i + half))",
                f"                store_part(s, i, {two.format(a='a', b='b')}, 1)",
                "            half //= 2",
                "        t = splat(get(s, 0))",
                f"        store_part(y, r, {total}, 1)",
            ]
        else:
            value = one.format(v=f"load_part(x, (r * {n} + k) * {inner} + i, {inner} - i)")
            lines += [
                f"        for i in range(0, {inner}, lanes()):",
                "            k = 0",
                f"            t = {value}",
                f"            for k in range(1, {n}):",
                f"                v = {value}",
                f"                t = {two.format(a='t', b='v')}",
                f"            store_part(y, r * {inner} + i, {total}, {inner} - i)",
            ]
        return [
            Call(
                "\n".join(lines) + "\n",
                (Value(output), Value(source), Scratch("s", fixed=2 * WIDTH), Rows()),
                f"{output} = {self.name} over {n}",
            )
        ]


@kernel
def pick(before: Vec, after: Vec, n: int, s: Any) -> Vec:
    """after in the first n lanes, before in the others; s has room for 32."""
    store(s, 16, before)
    store_part(s, 16, after, n)
    return load(s, 16)


def _define(name: str, function: Callable[..., Any], one: str, two: str, finish: str) -> None:
    register(
        type(
            name,
            (Reduce,),
            {"name": name, "function": staticmethod(function), "words": (one, two, finish), "__doc__": f"ONNX {name}."},
        )
    )


_define("ReduceSum", np.sum, "{v}", "({a} + {b})", "{t}")
_define("ReduceMean", np.mean, "{v}", "({a} + {b})", "({t} / splat({n}))")
_define("ReduceMax", np.max, "{v}", "larger({a}, {b})", "{t}")
_define("ReduceMin", np.min, "{v}", "smaller({a}, {b})", "{t}")
_define("ReduceSumSquare", lambda x, **k: np.sum(x * x, **k), "({v} * {v})", "({a} + {b})", "{t}")
_define("ReduceL1", lambda x, **k: np.sum(np.abs(x), **k), "absolute({v})", "({a} + {b})", "{t}")
_define("ReduceL2", lambda x, **k: np.sqrt(np.sum(x * x, **k)), "({v} * {v})", "({a} + {b})", "square_root({t})")
_define("ReduceProd", np.prod, "{v}", "({a} * {b})", "{t}")
