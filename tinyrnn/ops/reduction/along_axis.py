"""Operators that find, count or accumulate along one axis: ArgMax, TopK, CumSum, OneHot and their kin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Scratch, State, Value
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import OURS, REQUIRED, Array, Axis, Frames, Op, Refused, register
from tinyrnn.lanes import f32, kernel, lanes, load_part, store_part
from tinyrnn.ops.elementwise.scalars import conversion, pointer
from tinyrnn.ops.movement.strided_copy import pass_through

INT64 = np.dtype(np.int64)


class AlongAxis(Op):
    """An operator along one axis of its first input."""

    attributes: ClassVar[dict[str, Any]] = {"axis": 0}

    def _axis(self, node: Node, rank: int) -> int:
        axis = int(np.ravel(self.attribute(node, "axis"))[0])
        if not -rank <= axis < rank:
            raise Refused(f"axis={axis} of an input of rank {rank}")
        return axis % rank

    def _kept(self, node: Node, rank: int) -> dict[int, int]:
        """Input axis → output axis, for all axes along which rows are independent."""
        axis = self._axis(node, rank)
        return {a: a for a in range(rank) if a != axis}

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for output in filter(None, node.outputs):
            kept = self._kept(node, len(specs[node.inputs[0]].shape))
            yield from pass_through(node, specs, node.inputs[0], output, kept)

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source = node.inputs[0]
        axis = self._axis(node, len(frames.specs[source].shape))
        role = frames.role(source, axis)
        if role is not None:
            raise Refused(f"{self.name} along the {role} axis; supported are axes of a frame")
        return frames.node(node, {**node.attributes, "axis": frames.axis(source, axis)})

    def _sizes(self, node: Node) -> tuple[int, int, int]:
        """The numbers of elements of a frame before, along and after the axis."""
        shape = node.shapes[0]
        axis = self._axis(node, len(shape))
        return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


class _ArgExtreme(AlongAxis):
    inputs = ("data",)
    outputs = ("reduced",)
    attributes = {"axis": 0, "keepdims": 1, "select_last_index": 0}
    relation: ClassVar[str]

    def _kept(self, node: Node, rank: int) -> dict[int, int]:
        axis, keep = self._axis(node, rank), self.attribute(node, "keepdims") == 1
        return {a: a if keep or a < axis else a - 1 for a in range(rank) if a != axis}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        shape = list(specs[0].shape)
        axis = self._axis(node, len(shape))
        shape[axis : axis + 1] = [1] if self.attribute(node, "keepdims") == 1 else []
        return [Spec(INT64, tuple(shape))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axis, last = self._axis(node, x.ndim), bool(self.attribute(node, "select_last_index"))
        seen = np.flip(x, axis) if last else x
        choose = np.argmax if self.relation == ">" else np.argmin
        found = choose(seen, axis=axis, keepdims=self.attribute(node, "keepdims") == 1)
        return (np.asarray(x.shape[axis] - 1 - found if last else found, np.int64),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        before, n, after = self._sizes(node)
        equal = " or v == best" if self.attribute(node, "select_last_index") else ""
        text = f"""def KERNEL(y, x, rows, n, after):
    y, x = i64(y), {pointer(source, env.specs[source].dtype)}(x)
    for r in range(rows):
        for i in range(after):
            at = r * n * after + i
            place = 0
            best = get(x, at)
            for k in range(1, n):
                v = get(x, at + k * after)
                if best == best and (v {self.relation} best or v != v{equal}):
                    best = v
                    place = k
            put(y, r * after + i, place)
"""
        return [Call(text, (Value(output), Value(source), Rows(times=before), n, after), f"{output} = {self.name} of {n}")]


@register
class ArgMax(_ArgExtreme):
    """ONNX ArgMax: the index of the largest element, the first or the last of several; NaN counts as the largest."""

    name = "ArgMax"
    relation = ">"


@register
class ArgMin(_ArgExtreme):
    """ONNX ArgMin: the index of the smallest element, the first or the last of several; NaN counts as the smallest."""

    name = "ArgMin"
    relation = "<"


@register
class TopK(AlongAxis):
    """ONNX TopK: the k largest or smallest elements in order, of equal ones the first; sorted=0 promises no order.

    k must be known at load. NaN counts as the smallest with largest=1 and as the largest otherwise.
    """

    name = "TopK"
    inputs = ("X", "K?")
    outputs = ("Values", "Indices")
    attributes = {"axis": -1, "largest": 1, "sorted": 1, "k": REQUIRED}
    parameters = {"k": 1}

    def _k(self, node: Node) -> int:
        return int(np.ravel(self.attribute(node, "k"))[0])

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        shape = list(specs[0].sizes)
        axis, k = self._axis(node, len(shape)), self._k(node)
        if not 0 <= k <= shape[axis]:
            raise Refused(f"k={k} of {shape[axis]} elements")
        shape[axis] = k
        return [Spec(specs[0].dtype, tuple(shape)), Spec(INT64, tuple(shape))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axis, k = self._axis(node, x.ndim), self._k(node)
        if self.attribute(node, "largest"):
            backwards = np.flip(x, axis)
            if x.dtype.kind == "f":
                backwards = np.where(np.isnan(backwards), -np.inf, backwards)
            order = x.shape[axis] - 1 - np.flip(np.argsort(backwards, axis, kind="stable"), axis)
        else:
            order = np.argsort(x, axis, kind="stable")
        places = np.take(order, np.arange(k), axis)
        return np.take_along_axis(x, places, axis), places.astype(np.int64)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source = node.inputs[0]
        values, indices = (*node.outputs, "")[:2]
        before, n, after = self._sizes(node)
        k, spec = self._k(node), env.specs[source]
        relation = ">" if self.attribute(node, "largest") else "<"
        word = pointer(source, spec.dtype)
        text = f"""def KERNEL(y, z, x, rows, n, after, k):
    y, z, x = {word}(y), i64(z), {word}(x)
    for r in range(rows):
        for i in range(after):
            at = r * n * after + i
            to = r * k * after + i
            for j in range(n):
                v = get(x, at + j * after)
                place = min(j, k)
                while place > 0:
                    b = get(y, to + (place - 1) * after)
                    if not (v {relation} b or (b != b and v == v)):
                        break
                    if place < k:
                        put(y, to + place * after, b)
                        put(z, to + place * after, get(z, to + (place - 1) * after))
                    place -= 1
                if place < k:
                    put(y, to + place * after, v)
                    put(z, to + place * after, j)
"""
        operands = (
            Value(values) if values else Scratch("values", per_row=spec.elements * spec.dtype.itemsize // 4 + 1, of=source),
            Value(indices) if indices else Scratch("indices", per_row=2 * spec.elements, of=source),
            Value(source),
            Rows(of=source, times=before),
            n,
            after,
            k,
        )
        return [Call(text, operands, f"{values or '-'}, {indices or '-'} = {self.name} {k} of {n}")]


@register
class CumSum(AlongAxis):
    """ONNX CumSum: over time it is a running sum (float32) that a stream carries, unless it runs from the end."""

    name = "CumSum"
    inputs = ("x", "axis")
    outputs = ("y",)
    attributes = {"axis": REQUIRED, "exclusive": 0, "reverse": 0}
    parameters = {"axis": 1}

    def _kept(self, node: Node, rank: int) -> dict[int, int]:
        return {a: a for a in range(rank)}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        self._axis(node, len(specs[0].shape))
        return [specs[0]]

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source = node.inputs[0]
        if frames.role(source, self._axis(node, len(frames.specs[source].shape))) == "time":
            if frames.specs[source].dtype != np.float32:
                raise Refused(f"{self.name} of {frames.specs[source].dtype} along the time axis; supported is float32")
            attributes = {name: int(self.attribute(node, name)) for name in ("exclusive", "reverse")}
            return Node(RunningSum.name, node.name, node.inputs[:1], node.outputs, attributes, domain=OURS)
        return super().frame(node, frames)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axis = self._axis(node, x.ndim)
        seen = np.flip(x, axis) if self.attribute(node, "reverse") else x
        total = np.cumsum(seen, axis, dtype=x.dtype)
        if self.attribute(node, "exclusive"):
            total = np.roll(total, 1, axis)
            total[(slice(None),) * axis + (slice(0, 1),)] = 0
        return (np.flip(total, axis) if self.attribute(node, "reverse") else total,)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        before, n, after = self._sizes(node)
        dtype = env.specs[source].dtype
        word, cut = pointer(source, dtype), conversion(dtype)
        place = "n - 1 - k" if self.attribute(node, "reverse") else "k"
        lines = [f"total = {cut}(total + get(x, p))", "put(y, p, total)"]
        text = f"""def KERNEL(y, x, rows, n, after):
    y, x = {word}(y), {word}(x)
    for r in range(rows):
        for i in range(after):
            total = {cut}(0)
            for k in range(n):
                p = (r * n + {place}) * after + i
                {lines[1 if self.attribute(node, "exclusive") else 0]}
                {lines[0 if self.attribute(node, "exclusive") else 1]}
"""
        return [Call(text, (Value(output), Value(source), Rows(times=before), n, after), f"{output} = {self.name} of {n}")]


@kernel
def running_sum(y: Any, x: Any, total: Any, rows: int, n: int, exclusive: int, reverse: int) -> None:
    """For each row of n float32 of x, from the last if `reverse`: total += row; y = total after it, or before if `exclusive`."""
    y = f32(y)
    x = f32(x)
    total = f32(total)
    for j in range(rows):
        r = rows - 1 - j if reverse != 0 else j
        for i in range(0, n, lanes()):
            before = load_part(total, i, n - i)
            after = before + load_part(x, r * n + i, n - i)
            store_part(total, i, after, n - i)
            if exclusive != 0:
                store_part(y, r * n + i, before, n - i)
            else:
                store_part(y, r * n + i, after, n - i)


@register
class RunningSum(Op):
    """The sum of all rows so far; made from CumSum over time."""

    name = "RunningSum"
    inputs = ("X",)
    internal = True
    attributes = {"exclusive": 0, "reverse": 0}

    def forbids_stream(self, node: Node) -> str | None:
        return "it sums from the end of the sequence" if self.attribute(node, "reverse") else None

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        n = env.specs[node.inputs[0]].elements
        total = State(f"{node.name}.total", np.zeros(n, np.float32))
        ways = (int(self.attribute(node, "exclusive")), int(self.attribute(node, "reverse")))
        return [Call(running_sum, (Value(node.outputs[0]), Value(node.inputs[0]), total, Rows(), n, *ways))]


@register
class OneHot(Op):
    """ONNX OneHot: the on value at each index along a new axis, else the off value; depth must be known at load.

    Indices are from -depth to depth - 1; for others all values are off.
    """

    name = "OneHot"
    inputs = ("indices", "depth", "values")
    outputs = ("output",)
    attributes = {"axis": -1, "depth": REQUIRED}
    parameters = {"depth": 1}

    def axes_of(self, node: Node, specs: Sequence[Spec | None]) -> int | None:
        return None if specs[0] is None else len(specs[0].shape) + 1

    def _depth(self, node: Node) -> int:
        return int(np.ravel(self.attribute(node, "depth"))[0])

    def _axis(self, node: Node, rank: int) -> int:
        return int(self.attribute(node, "axis")) % (rank + 1)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        indices, values = specs[0], specs[2]
        assert indices is not None and values is not None
        axis, depth = self._axis(node, len(indices.shape)), self._depth(node)
        if depth < 1:
            raise Refused(f"depth={depth}; supported are depths from 1")
        return [Spec(values.dtype, (*indices.shape[:axis], depth, *indices.shape[axis:]))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        rank = len(specs[node.inputs[0]].shape)
        axis = self._axis(node, rank)
        yield from pass_through(node, specs, node.inputs[0], node.outputs[0], {a: a if a < axis else a + 1 for a in range(rank)})

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        axis = self._axis(node, len(frames.specs[source].shape))
        place = sum(a < axis for a in frames.kept(source))
        return frames.node(node, {"axis": place, "depth": self._depth(node)})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        indices, values = arrays[0], arrays[2]
        assert indices is not None and values is not None
        depth, axis = self._depth(node), self._axis(node, indices.ndim)
        whole = np.trunc(indices) if indices.dtype.kind == "f" else indices.astype(np.int64)
        whole = np.where((whole < 0) & (whole >= -depth), whole + depth, whole)
        shape = [1] * (indices.ndim + 1)
        shape[axis] = depth
        hit = np.expand_dims(whole, axis) == np.arange(depth).reshape(shape)
        return (np.where(hit, values[1], values[0]).astype(values.dtype),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, _, values = (*node.inputs, "")[:3]
        output, depth, shape = node.outputs[0], self._depth(node), node.shapes[0]
        axis = self._axis(node, len(shape))
        kind, word = env.specs[source].dtype, pointer(values, env.specs[values].dtype)
        index = "saturated(get(x, at), -4e18, 4e18, -1, -1)" if kind.kind == "f" else "as_i64(get(x, at))"
        text = f"""def KERNEL(y, x, v, rows, before, stride, depth, after):
    y, x, v = {word}(y), {pointer(source, kind)}(x), {word}(v)
    for r in range(rows * before):
        off, on = get(v, r // before * stride), get(v, r // before * stride + 1)
        for i in range(after):
            at = r * after + i
            index = {index}
            if index < 0:
                index += depth
            for k in range(depth):
                put(y, (r * depth + k) * after + i, on if k == index else off)
"""
        sizes = (prod(shape[:axis]), env.row_stride(values), depth, prod(shape[axis:]))
        operands = (Value(output), Value(source), Value(values), Rows(), *sizes)
        return [Call(text, operands, f"{output} = {self.name} of {depth}")]


@register
class NonZero(Op):
    """ONNX NonZero: the size of its output depends on the data, so that it runs only on inputs known at load."""

    name = "NonZero"
    inputs = ("X",)
    known_only = True

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (np.array(np.nonzero(arrays[0]), np.int64),)
