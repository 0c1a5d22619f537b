"""Operators that normalise over axes of a frame: soft maximum, layer normalisation.

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
    at,
    f32,
    fma,
    get,
    kernel,
    lanes,
    load_part,
    put,
    splat,
    square_root,
    store,
    store_part,
)
from tinyrnn.lanes_math import exp, log
from tinyrnn.op import Array, Axis, Call, Frames, Lowering, Op, Refused, Rows, Scratch, Value, Weight, register
from tinyrnn.ops.elementwise import larger

WIDTH = 16
"""partial sums of a sum across lanes"""


@kernel
def tree_sum(s: Any) -> None:
    """Add the 16 partial sums at s into its first element."""
    half = 8
    while half > 0:
        for i in range(half):
            put(s, i, get(s, i) + get(s, i + half))
        half //= 2


@kernel
def sum_f32(x: Any, n: int, s: Any) -> Vec:
    """The sum of n elements, left in every lane; s is scratch of 16."""
    for b in range(0, 16, lanes()):
        total = splat(0.0)
        for i in range(b, n, 16):
            total = total + load_part(x, i, n - i)
        store(s, b, total)
    tree_sum(s)
    return splat(get(s, 0))


@kernel
def square_sum_f32(x: Any, n: int, mean: Vec, s: Any) -> Vec:
    """The sum of (x - mean)² over n elements, left in every lane; s is scratch of 16."""
    for b in range(0, 16, lanes()):
        total = splat(0.0)
        for i in range(b, n, 16):
            d = load_part(x, i, n - i) - mean
            store(s, b, d)
            total = fma(load_part(s, b, n - i), load_part(s, b, n - i), total)
        store(s, b, total)
    tree_sum(s)
    return splat(get(s, 0))


@kernel
def max_f32(x: Any, n: int) -> Vec:
    """The largest of n elements, in every lane; NaN where one is NaN."""
    best = splat(get(x, 0))
    for i in range(1, n):
        best = larger(best, splat(get(x, i)))
    return best


@kernel
def softmax_f32(y: Any, x: Any, rows: int, n: int, s: Any) -> None:
    """Over each row of n: exp(x - max) / sum of exp(x - max)."""
    y = f32(y)
    x = f32(x)
    s = f32(s)
    for r in range(rows):
        xr = at(x, r * n)
        yr = at(y, r * n)
        best = max_f32(xr, n)
        for i in range(0, n, lanes()):
            store_part(yr, i, exp(load_part(xr, i, n - i) - best), n - i)
        total = sum_f32(yr, n, s)
        for i in range(0, n, lanes()):
            store_part(yr, i, load_part(yr, i, n - i) / total, n - i)


@kernel
def log_softmax_f32(y: Any, x: Any, rows: int, n: int, s: Any) -> None:
    """Over each row of n: (x - max) - log(sum of exp(x - max))."""
    y = f32(y)
    x = f32(x)
    s = f32(s)
    for r in range(rows):
        xr = at(x, r * n)
        yr = at(y, r * n)
        best = max_f32(xr, n)
        for i in range(0, n, lanes()):
            store_part(yr, i, exp(load_part(xr, i, n - i) - best), n - i)
        total = log(sum_f32(yr, n, s))
        for i in range(0, n, lanes()):
            store_part(yr, i, (load_part(xr, i, n - i) - best) - total, n - i)


@kernel
def layer_norm_f32(y: Any, x: Any, scale: Any, bias: Any, rows: int, n: int, epsilon: float, s: Any) -> None:
    """Over each row of n: (x - mean) / sqrt(variance + epsilon) * scale + bias."""
    y = f32(y)
    x = f32(x)
    scale = f32(scale)
    bias = f32(bias)
    s = f32(s)
    for r in range(rows):
        xr = at(x, r * n)
        yr = at(y, r * n)
        mean = sum_f32(xr, n, s) / splat(n)
        variance = square_sum_f32(xr, n, mean, s) / splat(n)
        inverse = splat(1.0) / square_root(variance + splat(epsilon))
        for i in range(0, n, lanes()):
            v = (load_part(xr, i, n - i) - mean) * inverse
            store_part(yr, i, fma(v, load_part(scale, i, n - i), load_part(bias, i, n - i)), n - i)


class OverLast(Op):
    """An operator over the trailing axes, from `axis` on, of each frame."""

    def _first(self, node: Node, rank: int) -> int:
        return int(self.attribute(node, "axis")) % max(rank, 1)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [specs[0]]

    def trailing(self, node: Node, rank: int) -> list[int]:
        """The axes that are reduced together."""
        return list(range(self._first(node, rank), rank))

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        rank = len(specs[node.inputs[0]].shape)
        for axis in set(range(rank)) - set(self.trailing(node, rank)):
            yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        over = self.trailing(node, len(frames.specs[source].shape))
        if any(frames.role(source, a) and frames.specs[source].shape[a] != 1 for a in over):
            raise Refused("it normalises over the time or batch axis")
        kept = [a for a in frames.kept(source) if frames.specs[source].shape[a] != 1 or a in over]
        inside = [a for a in over if a in kept and frames.specs[source].shape[a] != 1]
        if inside and [a for a in kept if a > inside[-1]]:
            raise Refused("it normalises over an axis that is not the last of the frame")
        return frames.node(node, {**node.attributes, "n": prod(frames.specs[source].sizes[a] for a in inside)})

    def _check(self, node: Node, env: Lowering) -> tuple[int, int]:
        spec = env.specs[node.inputs[0]]
        if spec.dtype != np.float32:
            raise Refused(f"{node.inputs[0]!r} is {spec.dtype}; it takes float32")
        n = node.attributes["n"]
        return n, spec.elements // n


@register
class Softmax(OverLast):
    """ONNX Softmax; before opset 13 over all axes from `axis` on, since then over that axis alone."""

    name = "Softmax"
    inputs = ("input",)
    outputs = ("output",)
    attributes = {"axis": None}
    kernel: ClassVar[Callable[..., Any]] = staticmethod(softmax_f32)

    def _first(self, node: Node, rank: int) -> int:
        axis = self.attribute(node, "axis")
        return int((1 if node.version < 13 else -1) if axis is None else axis) % max(rank, 1)

    def trailing(self, node: Node, rank: int) -> list[int]:
        first = self._first(node, rank)
        return list(range(first, rank)) if node.version < 13 else [first]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axes = tuple(self.trailing(node, x.ndim))
        e = np.exp(x - x.max(axis=axes, keepdims=True))
        return (e / e.sum(axis=axes, keepdims=True),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        n, times = self._check(node, env)
        return [
            Call(
                type(self).kernel,
                (Value(node.outputs[0]), Value(node.inputs[0]), Rows(times=times), n, Scratch("s", fixed=WIDTH)),
            )
        ]


@register
class LogSoftmax(Softmax):
    """ONNX LogSoftmax, axes as Softmax."""

    name = "LogSoftmax"
    kernel = staticmethod(log_softmax_f32)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axes = tuple(self.trailing(node, x.ndim))
        x = x - x.max(axis=axes, keepdims=True)
        return (x - np.log(np.exp(x).sum(axis=axes, keepdims=True)),)


@register
class LayerNormalization(OverLast):
    """ONNX LayerNormalization, its first output."""

    name = "LayerNormalization"
    inputs = ("X", "Scale", "B?")
    outputs = ("Y", "Mean?", "InvStdDev?")
    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1, "Scale": None, "B": None}
    parameters = {"Scale": 1, "B": 2}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if any(node.outputs[1:]):
            raise Refused("its outputs Mean and InvStdDev are used; supported is Y alone")

    def frame(self, node: Node, frames: Frames) -> Node:
        framed, spec = super().frame(node, frames), frames.specs[node.inputs[0]]
        shape = tuple(spec.sizes[a] for a in self.trailing(node, len(spec.shape)))
        for name in ("Scale", "B"):
            value = self.attribute(node, name)
            if value is not None:
                if prod(value.shape[: -len(shape)]) != 1:
                    raise Refused(f"its {name} {list(value.shape)} is not the same for every row; supported is {list(shape)}")
                framed.attributes[name] = np.broadcast_to(value.reshape(value.shape[-len(shape) :]), shape)
        return framed

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axes = tuple(self.trailing(node, x.ndim))
        d = x - x.mean(axis=axes, keepdims=True)
        y = d / np.sqrt((d * d).mean(axis=axes, keepdims=True) + self.attribute(node, "epsilon"))
        bias = self.attribute(node, "B")
        return (y * self.attribute(node, "Scale") + (0 if bias is None else bias),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        n, times = self._check(node, env)
        scale, bias = (
            np.zeros(n, np.float32) if v is None else v.astype(np.float32).ravel()
            for v in (self.attribute(node, "Scale"), self.attribute(node, "B"))
        )
        return [
            Call(
                layer_norm_f32,
                (
                    Value(node.outputs[0]),
                    Value(node.inputs[0]),
                    Weight(scale),
                    Weight(bias),
                    Rows(times=times),
                    n,
                    float(self.attribute(node, "epsilon")),
                    Scratch("s", fixed=2 * WIDTH),
                ),
            )
        ]
