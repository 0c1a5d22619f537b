"""Softmax, LogSoftmax, Hardmax and LpNormalization over axes of a frame.

Elements that are normalised together lie in a frame as [outer, n, inner]: `outer * inner` groups of n, `inner` apart.
With inner = 1 sums go across lanes, the same way on every target: element k joins partial sum k mod WIDTH, and one
fixed tree adds the partial sums. Otherwise lanes lie along `inner`, and each sum is taken in the order of k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Scratch, Value
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Axis, Frames, Op, Refused, register
from tinyrnn.lanes import (
    Vec,
    absolute,
    at,
    equal,
    f32,
    fma,
    get,
    kernel,
    lanes,
    load,
    load_part,
    put,
    select,
    splat,
    square_root,
    store,
    store_part,
)
from tinyrnn.lanes.functions import exp, log
from tinyrnn.ops.elementwise.operators import larger

WIDTH = 16
"""number of partial sums of a sum across lanes"""


def scratch_for_sums(env: Lowering, more: int = 0) -> Scratch:
    """Scratch of `more` elements and one Vec, at least WIDTH."""
    return Scratch("s", fixed=more + max(WIDTH, env.lanes))


@kernel
def tree_sum(s: Any) -> None:
    """Add the 16 partial sums at s into its first element."""
    half = 8
    while half > 0:
        for i in range(half):
            put(s, i, get(s, i) + get(s, i + half))
        half //= 2


@kernel
def total_f32(x: Any, n: int, magnitudes: int, s: Any) -> Vec:
    """The sum of n elements, or of their `magnitudes`, left in every lane; s is scratch of 16, or of a Vec."""
    for b in range(0, 16, lanes()):
        total = splat(0.0)
        for i in range(b, n, 16):
            v = load_part(x, i, n - i)
            total = total + (absolute(v) if magnitudes else v)
        store(s, b, total)
    tree_sum(s)
    return splat(get(s, 0))


@kernel
def sum_f32(x: Any, n: int, s: Any) -> Vec:
    """The sum of n elements, left in every lane; s is scratch of 16, or of a Vec."""
    return total_f32(x, n, 0, s)


@kernel
def square_sum_f32(x: Any, n: int, mean: Vec, s: Any) -> Vec:
    """The sum of (x - mean)² over n elements, left in every lane; s is scratch of 16, or of a Vec."""
    for b in range(0, 16, lanes()):
        total = splat(0.0)
        i = b
        while i + min(lanes(), 16) <= n:
            d = (load(x, i) if lanes() <= 16 else load_part(x, i, n - i)) - mean
            total = fma(d, d, total)
            i += 16
        if i < n:
            store(s, b, load_part(x, i, n - i) - mean)
            d = load_part(s, b, n - i)
            total = fma(d, d, total)
        store(s, b, total)
    tree_sum(s)
    return splat(get(s, 0))


@kernel
def max_f32(x: Any, n: int, s: Any) -> Vec:
    """The largest of n elements, in every lane; NaN where one is NaN; s is scratch of 16, or of a Vec."""
    best = splat(get(x, 0))
    m = n - n % lanes()
    for i in range(0, m, lanes()):
        best = larger(best, load(x, i))
    store(s, 0, best)
    best = splat(get(s, 0))
    for i in range(1, lanes()):
        best = larger(best, splat(get(s, i)))
    for i in range(m, n):
        best = larger(best, splat(get(x, i)))
    return best


@kernel
def soft_f32(y: Any, x: Any, rows: int, n: int, logarithm: int, s: Any) -> None:
    """Over each row of n: exp(x - max) / total, or its `logarithm`, (x - max) - log(total), of the total of exp(x - max)."""
    y = f32(y)
    x = f32(x)
    s = f32(s)
    for r in range(rows):
        xr = at(x, r * n)
        yr = at(y, r * n)
        best = max_f32(xr, n, s)
        for i in range(0, n, lanes()):
            store_part(yr, i, exp(load_part(xr, i, n - i) - best), n - i)
        total = sum_f32(yr, n, s)
        if logarithm:
            total = log(total)
        for i in range(0, n, lanes()):
            if logarithm:
                store_part(yr, i, (load_part(xr, i, n - i) - best) - total, n - i)
            else:
                store_part(yr, i, load_part(yr, i, n - i) / total, n - i)


@kernel
def softmax_f32(y: Any, x: Any, rows: int, n: int, s: Any) -> None:
    """Over each row of n: exp(x - max) / sum of exp(x - max)."""
    soft_f32(y, x, rows, n, 0, s)


@kernel
def log_softmax_f32(y: Any, x: Any, rows: int, n: int, s: Any) -> None:
    """Over each row of n: (x - max) - log(sum of exp(x - max))."""
    soft_f32(y, x, rows, n, 1, s)


@kernel
def best_across_f32(x: Any, i: int, n: int, inner: int) -> Vec:
    """The largest of n elements, `inner` apart, for lanes from i on; NaN where one is NaN."""
    best = load_part(x, i, inner - i)
    for k in range(1, n):
        best = larger(best, load_part(x, k * inner + i, inner - i))
    return best


@kernel
def soft_across_f32(y: Any, x: Any, rows: int, n: int, inner: int, logarithm: int) -> None:
    """As `soft_f32`, over n elements that lie `inner` apart."""
    y = f32(y)
    x = f32(x)
    for r in range(rows):
        xr = at(x, r * n * inner)
        yr = at(y, r * n * inner)
        for i in range(0, inner, lanes()):
            best = best_across_f32(xr, i, n, inner)
            total = splat(0.0)
            for k in range(n):
                e = exp(load_part(xr, k * inner + i, inner - i) - best)
                total = total + e
                if not logarithm:
                    store_part(yr, k * inner + i, e, inner - i)
            if logarithm:
                total = log(total)
            for k in range(n):
                if logarithm:
                    store_part(yr, k * inner + i, (load_part(xr, k * inner + i, inner - i) - best) - total, inner - i)
                else:
                    store_part(yr, k * inner + i, load_part(yr, k * inner + i, inner - i) / total, inner - i)


@kernel
def softmax_across_f32(y: Any, x: Any, rows: int, n: int, inner: int) -> None:
    """As `softmax_f32`, over n elements that lie `inner` apart."""
    soft_across_f32(y, x, rows, n, inner, 0)


@kernel
def log_softmax_across_f32(y: Any, x: Any, rows: int, n: int, inner: int) -> None:
    """As `log_softmax_f32`, over n elements that lie `inner` apart."""
    soft_across_f32(y, x, rows, n, inner, 1)


@kernel
def hardmax_f32(y: Any, x: Any, rows: int, n: int, inner: int) -> None:
    """1 at the first largest of n elements, `inner` apart, and 0 elsewhere."""
    y = f32(y)
    x = f32(x)
    for r in range(rows):
        for i in range(inner):
            start = r * n * inner + i
            best = 0
            for k in range(n):
                put(y, start + k * inner, 0.0)
                if get(x, start + k * inner) > get(x, start + best * inner):
                    best = k
            put(y, start + best * inner, 1.0)


@kernel
def quotient(a: Vec, b: Vec) -> Vec:
    """a / b; 0 where b is 0."""
    return select(equal(b, splat(0.0)), splat(0.0), a / b)


@kernel
def unit_f32(y: Any, x: Any, rows: int, n: int, p: int, s: Any) -> None:
    """Each row of n divided by the sum of its magnitudes (p = 1) or the root of its sum of squares (p = 2)."""
    y = f32(y)
    x = f32(x)
    s = f32(s)
    for r in range(rows):
        xr = at(x, r * n)
        yr = at(y, r * n)
        if p == 1:
            norm = total_f32(xr, n, 1, s)
        else:
            norm = square_root(square_sum_f32(xr, n, splat(0.0), s))
        for i in range(0, n, lanes()):
            store_part(yr, i, quotient(load_part(xr, i, n - i), norm), n - i)


@kernel
def unit_across_f32(y: Any, x: Any, rows: int, n: int, inner: int, p: int) -> None:
    """As `unit_f32`, over n elements that lie `inner` apart."""
    y = f32(y)
    x = f32(x)
    for r in range(rows):
        xr = at(x, r * n * inner)
        yr = at(y, r * n * inner)
        for i in range(0, inner, lanes()):
            norm = splat(0.0)
            for k in range(n):
                v = load_part(xr, k * inner + i, inner - i)
                if p == 1:
                    norm = norm + absolute(v)
                else:
                    norm = fma(v, v, norm)
            if p == 2:
                norm = square_root(norm)
            for k in range(n):
                store_part(yr, k * inner + i, quotient(load_part(xr, k * inner + i, inner - i), norm), inner - i)


class Over(Op):
    """An operator that normalises over some axes; along all others rows are independent."""

    inputs: ClassVar[tuple[str, ...]] = ("input",)
    outputs: ClassVar[tuple[str, ...]] = ("output",)
    in_place = True

    def over(self, node: Node, rank: int) -> list[int]:
        """The axes that are normalised together."""
        raise NotImplementedError

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [specs[0]]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        rank = len(specs[node.inputs[0]].shape)
        for output in filter(None, node.outputs):
            for axis in sorted(set(range(rank)) - set(self.over(node, rank))):
                yield (node.inputs[0], axis), (output, axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        sizes = frames.specs[source].sizes
        over = [a for a in self.over(node, len(sizes)) if sizes[a] != 1]
        roles = {frames.role(source, a) for a in over} - {None}
        if roles:
            raise Refused(f"it normalises over the {' and '.join(sorted(r for r in roles if r))} axis")
        kept = [a for a in frames.kept(source) if sizes[a] != 1]
        places = [kept.index(a) for a in over]
        if places and places != list(range(places[0], places[-1] + 1)):
            raise Refused(f"the axes {over} that it normalises over do not lie side by side in {list(sizes)}")
        inner = prod(sizes[a] for a in kept[places[-1] + 1 :]) if places else 1
        return frames.node(node, {**node.attributes, "n": prod(sizes[a] for a in over), "inner": inner})

    def group(self, node: Node, env: Lowering) -> tuple[int, int, int]:
        """(outer, n, inner) of a node of the frame graph."""
        spec = env.specs[node.inputs[0]]
        if spec.dtype != np.float32:
            raise Refused(f"{node.inputs[0]!r} is {spec.dtype}; it takes float32")
        n, inner = node.attributes["n"], node.attributes["inner"]
        return spec.elements // (n * inner), n, inner


def call(node: Node, function: Callable[..., Any], outer: int, *more: Operand) -> list[Call]:
    """A call over all rows, from the first input to the first output."""
    note = f"{node.outputs[0]} = {node.op}"
    return [Call(function, (Value(node.outputs[0]), Value(node.inputs[0]), Rows(times=outer), *more), note)]


@register
class Softmax(Over):
    """ONNX Softmax; before opset 13 over all axes from `axis` on, since then over that axis alone."""

    name = "Softmax"
    attributes: ClassVar[dict[str, Any]] = {"axis": None}
    kernels: ClassVar[tuple[Callable[..., Any], Callable[..., Any]]] = (softmax_f32, softmax_across_f32)

    def over(self, node: Node, rank: int) -> list[int]:
        axis = self.attribute(node, "axis")
        first = int((1 if node.version < 13 else -1) if axis is None else axis)
        if not -rank <= first <= rank - (node.version >= 13):
            raise Refused(f"axis={first} of an input of rank {rank}")
        first += rank * (first < 0)
        return list(range(first, rank)) if node.version < 13 else [first]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        self.over(node, len(specs[0].shape))
        return [specs[0]]

    def evaluate(self, x: Array, axes: tuple[int, ...]) -> Array:
        """The operator over `axes` together."""
        e = np.exp(x - x.max(axis=axes, keepdims=True))
        return np.asarray(e / e.sum(axis=axes, keepdims=True))

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        with np.errstate(all="ignore"):
            return (self.evaluate(x, tuple(self.over(node, x.ndim))),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        outer, n, inner = self.group(node, env)
        row, across = self.kernels
        if inner == 1:
            return call(node, row, outer, n, scratch_for_sums(env))
        return call(node, across, outer, n, inner)


@register
class LogSoftmax(Softmax):
    """ONNX LogSoftmax, axes as Softmax."""

    name = "LogSoftmax"
    kernels = (log_softmax_f32, log_softmax_across_f32)

    def evaluate(self, x: Array, axes: tuple[int, ...]) -> Array:
        x = x - x.max(axis=axes, keepdims=True)
        return np.asarray(x - np.log(np.exp(x).sum(axis=axes, keepdims=True)))


@register
class Hardmax(Softmax):
    """ONNX Hardmax, axes as Softmax: 1 at the first largest element, 0 elsewhere."""

    name = "Hardmax"

    def evaluate(self, x: Array, axes: tuple[int, ...]) -> Array:
        rows = np.moveaxis(x, axes, range(-len(axes), 0)) if axes else x[..., None]
        flat = rows.reshape(-1, prod(rows.shape[x.ndim - len(axes) :]) if axes else 1)
        one = (np.arange(flat.shape[1]) == flat.argmax(axis=1)[:, None]).astype(x.dtype).reshape(rows.shape)
        return np.moveaxis(one, range(-len(axes), 0), axes) if axes else one[..., 0]

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        return call(node, hardmax_f32, *self.group(node, env))


@register
class LpNormalization(Over):
    """ONNX LpNormalization: x / ‖x‖ along one axis; 0 where the norm is 0."""

    name = "LpNormalization"
    attributes: ClassVar[dict[str, Any]] = {"axis": -1, "p": 2}

    def over(self, node: Node, rank: int) -> list[int]:
        return [int(self.attribute(node, "axis")) % rank]

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if self.attribute(node, "p") not in (1, 2):
            raise Refused(f"p={self.attribute(node, 'p')}; supported are 1 and 2")

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axis = self.over(node, x.ndim)[0]
        norm = np.linalg.norm(np.moveaxis(x, axis, -1), self.attribute(node, "p"), axis=-1)
        norm = np.expand_dims(norm, axis)
        return (np.asarray(np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        outer, n, inner = self.group(node, env)
        p = int(self.attribute(node, "p"))
        if inner == 1:
            return call(node, unit_f32, outer, n, p, scratch_for_sums(env))
        return call(node, unit_across_f32, outer, n, inner, p)
