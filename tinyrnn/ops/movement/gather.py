"""Operators that look elements up: Gather, GatherElements and GatherND.

Negative indices count from the end. Indices that are inputs of the model are checked before a run;
computed ones are clamped to the axis, so that nothing outside of it is ever read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Value, Weight
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Axis, Frames, Op, Refused, register
from tinyrnn.graph.storage import Stored, cast
from tinyrnn.ops.loops.over_time import over_time
from tinyrnn.ops.movement.strided_copy import copy_kernels, gather_elements, pass_through, refuse_twice, strides_of

INDICES = {np.dtype(np.int64): "i64", np.dtype(np.int32): "i32"}
"""types of run-time indices → the words that make pointers to them"""
UNITS = {1: "u8", 2: "i16", 4: "f32"}


def position_text(at: str) -> list[str]:
    """Lines that add to `at` the offset of the tuple of `depth` indices at element `i`, by sizes and strides in `table`."""
    return [
        "for j in range(depth):",
        "    k, n = get(indices, i + j), get(table, j)",
        f"    {at} += min(max(k + n if k < 0 else k, 0), n - 1) * get(table, depth + j)",
    ]


def _take_text(unit: str, index: str, word: str = "f32") -> str:
    """The source of KERNEL(y, x, scale, indices, …): entries of x, stored as `word`, at indices; of int8 times their scales."""
    if word == "i8":
        copy = [
            "by = splat(get(scale, start // size))",
            "for k in range(0, size, lanes()):",
            "    store_part(y, to + k, load_part(x, start + k, size - k) * by, size - k)",
        ]
    elif unit == "f32":
        copy = ["for k in range(0, size, lanes()):", "    store_part(y, to + k, load_part(x, start + k, size - k), size - k)"]
    else:
        copy = ["for k in range(size):", "    put(y, to + k, get(x, start + k))"]
    lines = [
        f"def KERNEL(y, x, {'scale, ' * (word == 'i8')}indices, table, rows, y_row, x_row, i_row, outer, count, depth, size):",
        f"    y, x, indices, table = {unit}(y), {unit if word == 'f32' else word}(x), {index}(indices), i32(table)",
        *(["    scale = f32(scale)"] * (word == "i8")),
        "    for r in range(rows):",
        "        for o in range(outer):",
        "            for e in range(count):",
        "                to = r * y_row + (o * count + e) * size",
        "                i = r * i_row + e * depth",
        "                start = r * x_row + get(table, 2 * depth + o * count + e)",
        *("                " + line for line in [*position_text("start"), *copy]),
    ]
    return "\n".join(lines) + "\n"


def index_table(sizes: Sequence[int], strides: Sequence[int], first: Array, scale: int) -> Weight:
    """The table of a kernel that looks up or scatters: sizes and strides of the indexed axes, where each entry begins."""
    table = np.concatenate([np.array(sizes, np.int64), np.array(strides, np.int64) * scale, first.ravel() * scale])
    if table.max() >= 1 << 31:
        raise Refused("its data is too large to be indexed at run time")
    return Weight(table.astype(np.int32))


def index_word(name: str, spec: Spec) -> str:
    """The word that makes a pointer to run-time indices. Raises `Refused`."""
    if spec.dtype not in INDICES:
        raise Refused(f"its indices {name!r} are {spec.dtype}; supported are int64 and int32")
    return INDICES[spec.dtype]


def check_indices(indices: Array, sizes: Sequence[int]) -> None:
    """Raise `Refused` for known tuples of indices [..., len(sizes)] that are out of range."""
    for axis, size in enumerate(sizes):
        if (indices[..., axis] < -size).any() or (indices[..., axis] >= size).any():
            raise Refused(f"its indices reach beyond an axis of {size}")


class _Lookup(Op):
    """An operator whose output elements are elements of its first input, by tuples of indices in its second."""

    moves = True
    inputs: ClassVar[tuple[str, ...]] = ("data", "indices")
    outputs = ("output",)

    def _indexed(self, node: Node, data: int, indices: Sequence[int]) -> tuple[list[int], int]:
        """(axes of data that a tuple of indices selects from, first axis that is copied whole)."""
        raise NotImplementedError

    def index_bound(self, node: Node, env: Lowering) -> tuple[str, int, int] | None:
        sizes = {node.shapes[0][axis] for axis in self._indexed(node, len(node.shapes[0]), node.shapes[1])[0]}
        return (node.inputs[1], -min(sizes), min(sizes) - 1) if len(sizes) == 1 else None

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        (source, indices), (shape, by), output = node.inputs, node.shapes, node.outputs[0]
        axes, whole = self._indexed(node, len(shape), by)
        sizes = [shape[axis] for axis in axes]
        offsets = np.arange(prod(shape)).reshape(shape)
        known = env.constants.get(indices)
        if known is not None:
            check_indices(known.reshape(*known.shape, 1) if type(self) is not GatherND else known, sizes)
            return gather_elements(env, output, source, self.reference(node, [offsets, known])[0])
        word = index_word(indices, env.specs[indices])
        size = prod(shape[whole:]) if whole < len(shape) else 1
        first = self.reference(node, [offsets, np.zeros(by, np.int64)])[0]
        count = prod(by) // len(axes)
        kernels = copy_kernels(output, env.specs[output])
        scale = env.specs[output].dtype.itemsize // kernels.unit
        operands: tuple[Operand, ...] = (
            Value(output),
            Value(source),
            Value(indices),
            index_table(sizes, [strides_of(shape)[axis] for axis in axes], first.reshape(-1, size)[:, 0], scale),
            Rows(),
            env.row_stride(output) * scale,
            env.row_stride(source) * scale,
            env.row_stride(indices),
            first.size // size // count,
            count,
            len(axes),
            size * scale,
        )
        return [Call(_take_text(UNITS[kernels.unit], word), operands, f"{output} = {source} at {indices}")]


def look_up(env: Lowering, target: Operand, table: Stored, indices: str, rows: Rows) -> Call:
    """Calls that write the rows of a constant table [entries, size], selected by a value's indices."""
    (entries, size), count = table.values.shape, env.specs[indices].elements
    scale = () if table.scale is None else (Weight(table.scale.ravel()),)
    operands: tuple[Operand, ...] = (
        target,
        Weight(cast(table.word, table.values)),
        *scale,
        Value(indices),
        index_table([entries], [size], np.zeros(count), 1),
        rows,
        count * size,
        0,
        env.row_stride(indices),
        1,
        count,
        1,
        size,
    )
    text = _take_text("f32", index_word(indices, env.specs[indices]), table.word)
    return Call(text, operands, f"rows of a table at {indices}")


@register
class Gather(_Lookup):
    """ONNX Gather: along one axis, by indices of any shape (an embedding where the axis is the first one)."""

    name = "Gather"
    attributes = {"axis": 0}
    whole_rows = frozenset({"data"})

    def _indexed(self, node: Node, data: int, indices: Sequence[int]) -> tuple[list[int], int]:
        axis = self.attribute(node, "axis") % data
        return [axis], axis + 1

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
            return self._over_rows(node, frames, axis)
        refuse_twice(frames, node.outputs[0])
        return frames.node(node, {**node.attributes, "axis": frames.axis(source, axis)})

    def summed(self, node: Node) -> dict[str, tuple[int, ...]]:
        by_rows = len(node.shapes[0]) == 2 and self.attribute(node, "axis") % 2 == 0 if node.shapes else False
        return {"data": (1,)} if by_rows else {}

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        (source, indices), output = node.inputs, node.outputs[0]
        table = env.constants.get(source)
        if table is None or table.dtype != np.float32 or not self.summed(node) or indices in env.constants:
            return super().lower(node, env)
        return [look_up(env, Value(output), self.stored(node, env, {"data": table})["data"], indices, Rows())]

    def looks_up(self, node: Node, constants: Mapping[str, Array]) -> tuple[Array, str] | None:
        table, indices = constants.get(node.inputs[0]), node.inputs[1]
        by_rows = table is not None and table.ndim == 2 and self.attribute(node, "axis") in (0, -2)
        return (table, indices) if by_rows and table is not None and indices not in constants else None

    def _over_rows(self, node: Node, frames: Frames, axis: int) -> Node:
        source = node.inputs[0]
        indices = frames.constants.get(node.inputs[1])
        size = frames.specs[source].sizes[axis]
        if frames.role(source, axis) == "time" and indices is not None and np.ravel(indices).tolist() in ([-1], [size - 1]):
            return frames.node(over_time(node))
        raise Refused("it picks steps of the time or batch axis other than the last")

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        data, indices = arrays
        assert data is not None and indices is not None
        return (np.take(data, indices.astype(np.int64), axis=self.attribute(node, "axis")),)


@register
class GatherElements(_Lookup):
    """ONNX GatherElements: along one axis, by an index for every element of the output."""

    name = "GatherElements"
    attributes = {"axis": 0}

    def _indexed(self, node: Node, data: int, indices: Sequence[int]) -> tuple[list[int], int]:
        return [self.attribute(node, "axis") % data], data

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        data, indices = specs
        assert data is not None and indices is not None
        axis = self.attribute(node, "axis") % len(data.shape)
        pairs = list(zip(data.sizes, indices.sizes, strict=True))
        if any(of > size for a, (size, of) in enumerate(pairs) if a != axis):
            raise Refused(f"its indices {indices} reach beyond {data}")
        return [Spec(data.dtype, indices.shape)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield from links_by_place(node, specs, self.attribute(node, "axis"), node.inputs[:1])
        for axis in range(len(specs[node.inputs[1]].shape)):
            yield (node.inputs[1], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        return frame_by_place(node, frames, self.attribute(node, "axis"))

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        data, indices = arrays
        assert data is not None and indices is not None
        part = data[places_of(indices.shape, self.attribute(node, "axis") % data.ndim)]
        return (np.take_along_axis(part, indices.astype(np.int64), axis=self.attribute(node, "axis")),)


def places_of(shape: Sequence[int], axis: int) -> tuple[slice, ...]:
    """The slices of data that indices of this shape can reach, along every axis but `axis`."""
    return tuple(slice(None) if a == axis else slice(n) for a, n in enumerate(shape))


def links_by_place(node: Node, specs: dict[str, Spec], axis: int, names: Sequence[str]) -> Iterator[tuple[Axis, Axis]]:
    """Links of inputs whose elements keep their places along every axis but one."""
    rank = len(specs[node.outputs[0]].shape)
    for name in names:
        yield from pass_through(node, specs, name, node.outputs[0], {a: a for a in range(rank) if a != axis % rank})


def frame_by_place(node: Node, frames: Frames, axis: int) -> Node:
    """The node over frames, of an operator that indexes one axis and leaves all others in place."""
    source, output = node.inputs[0], node.outputs[0]
    axis %= len(frames.specs[source].shape)
    if frames.role(source, axis) is not None:
        raise Refused(f"it indexes the {frames.role(source, axis)} axis")
    refuse_twice(frames, output)
    for a in range(len(frames.specs[output].shape)):
        roles = [frames.role(name, a) is None for name in (*node.inputs, output)]
        if a != axis and any(roles) and not all(roles):
            raise Refused("a time or batch axis meets an ordinary one")
    if frames.role(output, axis) is not None:
        raise Refused("its indices lie along the time or batch axis")
    return frames.node(node, {**node.attributes, "axis": frames.axis(source, axis)})


@register
class GatherND(_Lookup):
    """ONNX GatherND: by tuples of indices into the leading axes, after `batch_dims` axes that go in step."""

    name = "GatherND"
    attributes = {"batch_dims": 0}

    def _indexed(self, node: Node, data: int, indices: Sequence[int]) -> tuple[list[int], int]:
        first = self.attribute(node, "batch_dims")
        return list(range(first, first + indices[-1])), first + indices[-1]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        data, indices = specs
        assert data is not None and indices is not None
        batch, depth = self.attribute(node, "batch_dims"), indices.sizes[-1]
        if not 0 < depth <= len(data.shape) - batch or batch >= len(indices.shape) or data.shape[:batch] != indices.shape[:batch]:
            raise Refused(f"its indices {indices} with batch_dims={batch} do not fit {data}")
        return [Spec(data.dtype, indices.shape[:-1] + data.shape[batch + depth :])]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        (data, indices), output = node.inputs, node.outputs[0]
        batch, rank = self.attribute(node, "batch_dims"), len(specs[indices].shape)
        whole = batch + specs[indices].sizes[-1]
        for axis in range(rank - 1):
            yield (indices, axis), (output, axis)
        for axis in range(len(specs[data].shape)):
            if axis < batch or axis >= whole:
                yield (data, axis), (output, axis if axis < batch else rank - 1 + axis - whole)

    def frame(self, node: Node, frames: Frames) -> Node:
        data, indices = node.inputs
        batch = self.attribute(node, "batch_dims")
        axes, _ = self._indexed(node, len(frames.specs[data].shape), frames.specs[indices].sizes)
        for axis in axes:
            if frames.role(data, axis) is not None:
                raise Refused(f"it indexes the {frames.role(data, axis)} axis")
        refuse_twice(frames, node.outputs[0])
        if frames.role(indices, len(frames.specs[indices].shape) - 1) is not None:
            raise Refused("its tuples of indices lie along the time or batch axis")
        return frames.node(node, {"batch_dims": sum(axis < batch for axis in frames.kept(data))})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        data, indices = arrays
        assert data is not None and indices is not None
        batch = self.attribute(node, "batch_dims")
        many = prod(data.shape[:batch])
        flat, by = data.reshape(many, *data.shape[batch:]), indices.reshape(many, -1, indices.shape[-1])
        made = [part[tuple(index.T)] for part, index in zip(flat, by, strict=True)]
        return (np.stack(made).reshape(indices.shape[:-1] + data.shape[batch + indices.shape[-1] :]),)
