"""Operators over shapes and indices; most exist in files only to be folded at load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from tinyrnn.ir import LARGEST_CONSTANT, Node, Spec
from tinyrnn.lanes import f32, get, i32, i64, kernel, put
from tinyrnn.op import REQUIRED, Array, Axis, Call, Frames, Lowering, Op, Refused, Rows, Value, register
from tinyrnn.ops.over_time import over_time
from tinyrnn.ops.walk import pass_through, walk

INT64 = np.dtype(np.int64)


@register
class Shape(Op):
    """ONNX Shape: known once the sizes are; the fold pass never runs it on data."""

    name = "Shape"
    inputs = ("data",)
    outputs = ("shape",)
    attributes = {"start": 0, "end": None}
    of_shape = True
    known_only = True

    def from_spec(self, node: Node, spec: Spec) -> Array:
        return np.array(spec.sizes[self.attribute(node, "start") : self.attribute(node, "end")], np.int64)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (self.from_spec(node, Spec(arrays[0].dtype, arrays[0].shape)),)


@register
class Size(Shape):
    """ONNX Size."""

    name = "Size"
    outputs = ("size",)
    attributes = {}

    def from_spec(self, node: Node, spec: Spec) -> Array:
        return np.array(spec.elements, np.int64)


@register
class Constant(Op):
    """ONNX Constant; the frontend has turned its value into the attribute `value`."""

    name = "Constant"
    known_only = True
    inputs = ()
    outputs = ("output",)
    attributes = {"value": REQUIRED}

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        return (np.asarray(self.attribute(node, "value")),)


@register
class ConstantOfShape(Op):
    """ONNX ConstantOfShape."""

    name = "ConstantOfShape"
    known_only = True
    inputs = ("input",)
    outputs = ("output",)
    attributes = {"value": None}

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        value = self.attribute(node, "value")
        fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
        shape = tuple(int(n) for n in np.ravel(arrays[0]))
        if any(n < 0 for n in shape) or prod(shape) > LARGEST_CONSTANT:
            raise Refused(f"shape {list(shape)} is absurd")
        return (np.full(shape, fill.ravel()[0], fill.dtype),)


@register
class Range(Op):
    """ONNX Range."""

    name = "Range"
    known_only = True
    inputs = ("start", "limit", "delta")
    outputs = ("output",)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        start, limit, delta = (np.asarray(a).ravel()[0] for a in arrays)
        if abs((limit - start) / delta) > LARGEST_CONSTANT:
            raise Refused(f"from {start} to {limit} in steps of {delta} is absurd")
        return (np.arange(start, limit, delta, dtype=np.asarray(arrays[0]).dtype),)


def _gatherer(name: str, pointer: Callable[[int], Any]) -> Callable[..., None]:
    """The kernel below, for indices of one type."""

    def gather(y: Any, table: Any, indices: Any, rows: int, row_stride: int, count: int, entries: int, size: int) -> None:
        """y[r, i, :] = table[indices[r, i], :]; float32 rows of `size`, indices negative from the end."""
        y = f32(y)
        table = f32(table)
        indices = pointer(indices)
        for r in range(rows):
            for i in range(count):
                at = get(indices, r * row_stride + i)
                at = min(max(at + entries if at < 0 else at, 0), entries - 1)
                for k in range(size):
                    put(y, (r * count + i) * size + k, get(table, at * size + k))

    gather.__name__ = gather.__qualname__ = name
    return kernel(gather)


gather_i64 = _gatherer("gather_i64", i64)
gather_i32 = _gatherer("gather_i32", i32)


@register
class Gather(Op):
    """ONNX Gather: rows of a constant table by run-time indices (an embedding), or constant indices into anything."""

    name = "Gather"
    moves = True
    inputs = ("data", "indices")
    outputs = ("output",)
    attributes = {"axis": 0}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        data, indices = specs
        assert data is not None and indices is not None
        axis = self.attribute(node, "axis") % len(data.shape)
        return [Spec(data.dtype, data.shape[:axis] + indices.shape + data.shape[axis + 1 :])]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        data, indices = (specs[name] for name in node.inputs)
        axis = self.attribute(node, "axis") % len(data.shape)
        rank = len(indices.shape)
        yield from pass_through(
            node,
            specs,
            node.inputs[0],
            node.outputs[0],
            {a: a if a < axis else a + rank - 1 for a in range(len(data.shape)) if a != axis},
        )
        yield from pass_through(node, specs, node.inputs[1], node.outputs[0], {a: axis + a for a in range(rank)})

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        axis = self.attribute(node, "axis") % len(frames.specs[source].shape)
        if frames.role(source, axis) is not None:
            indices = frames.constants.get(node.inputs[1])
            size = frames.specs[source].sizes[axis]
            if frames.role(source, axis) == "time" and indices is not None and np.ravel(indices).tolist() in ([-1], [size - 1]):
                return frames.node(over_time(node))
            raise Refused("it picks steps of the time or batch axis other than the last")
        return frames.node(node, {**node.attributes, "axis": frames.axis(source, axis)})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        data, indices = arrays
        assert data is not None and indices is not None
        return (np.take(data, indices.astype(np.int64), axis=self.attribute(node, "axis")),)

    def index_bound(self, node: Node, env: Lowering) -> tuple[str, int, int] | None:
        entries = env.specs[node.inputs[0]].sizes[self.attribute(node, "axis")]
        return node.inputs[1], -entries, entries - 1

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        data, indices, output = *node.inputs, node.outputs[0]
        axis, shape = self.attribute(node, "axis"), node.shapes[0]
        if indices in env.constants:
            return self._constant(node, env)
        if axis != 0 or data not in env.constants or env.specs[data].dtype != np.float32:
            raise Refused(
                "it looks up run-time indices in run-time data; supported are a constant float32 table "
                "with axis=0, or constant indices"
            )
        if env.specs[indices].dtype not in (INT64, np.dtype(np.int32)):
            raise Refused(f"its indices are {env.specs[indices].dtype}; supported are int64 and int32")
        kernels = {INT64: gather_i64, np.dtype(np.int32): gather_i32}
        dtype = env.specs[indices].dtype
        return [
            Call(
                kernels[dtype],
                (
                    Value(output),
                    Value(data),
                    Value(indices),
                    Rows(),
                    env.row_stride(indices),
                    prod(node.shapes[1]),
                    shape[0],
                    prod(shape[1:]),
                ),
            )
        ]

    def _constant(self, node: Node, env: Lowering) -> list[Call]:
        data, output, axis, shape = node.inputs[0], node.outputs[0], self.attribute(node, "axis"), node.shapes[0]
        indices = np.ravel(env.constants[node.inputs[1]]).astype(np.int64)
        if (indices < -shape[axis]).any() or (indices >= shape[axis]).any():
            raise Refused(f"its indices reach beyond axis {axis} of {list(shape)}")
        inner, outer = prod(shape[axis + 1 :]), prod(shape[:axis])
        calls = []
        for place, index in enumerate(indices.tolist()):
            index %= shape[axis]
            calls += walk(
                env,
                output,
                data,
                [outer, inner],
                [len(indices) * inner, 1],
                [shape[axis] * inner, 1],
                to_offset=place * inner,
                start_offset=index * inner,
            )
        return calls
