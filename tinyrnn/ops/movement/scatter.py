"""Operators that write updates into a copy of their data: ScatterElements and ScatterND.

Computed indices are clamped to the axis, as in `gather`. Updates are applied in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Value
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Axis, Frames, Op, Refused, register
from tinyrnn.ops.elementwise.scalars import pointer
from tinyrnn.ops.movement.gather import (
    UNITS,
    GatherElements,
    GatherND,
    check_indices,
    frame_by_place,
    index_table,
    index_word,
    links_by_place,
    places_of,
    position_text,
)
from tinyrnn.ops.movement.strided_copy import copy_elements, copy_kernels, strided_copy, strides_of

REDUCTIONS: dict[str, tuple[Any, list[str]]] = {
    "add": (np.add, ["put(y, to, get(y, to) + u)"]),
    "mul": (np.multiply, ["put(y, to, get(y, to) * u)"]),
    "max": (np.maximum, ["if u > get(y, to) or u != u:", "    put(y, to, u)"]),
    "min": (np.minimum, ["if u < get(y, to) or u != u:", "    put(y, to, u)"]),
}
"""reduction → (NumPy function, lines that apply the update u)"""
OF_BOOL = {"add": "max", "mul": "min"}


def _put_text(unit: str, index: str, combine: Sequence[str]) -> str:
    lines = [
        "def KERNEL(y, x, indices, table, rows, y_row, x_row, i_row, count, depth, size):",
        f"    y, x, indices, table = {unit}(y), {unit}(x), {index}(indices), i32(table)",
        "    for r in range(rows):",
        "        for e in range(count):",
        "            i = r * i_row + e * depth",
        "            first = r * y_row + get(table, 2 * depth + e)",
        *("            " + line for line in position_text("first")),
        "            for k in range(size):",
        "                to = first + k",
        "                u = get(x, r * x_row + e * size + k)",
        *("                " + line for line in combine),
    ]
    return "\n".join(lines) + "\n"


class _Scatter(Op):
    """Base of the scatter operators: data with updates written (or added, …) at tuples of indices."""

    inputs: ClassVar[tuple[str, ...]] = ("data", "indices", "updates")
    outputs = ("output",)
    looked_up: ClassVar[Op]
    """the operator that reads the elements that this one writes"""

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        reduction = self.attribute(node, "reduction")
        if reduction not in ("none", *REDUCTIONS):
            raise Refused(f"reduction={reduction!r}; supported are none, {', '.join(REDUCTIONS)}")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        data, indices, updates = specs
        assert data is not None and indices is not None and updates is not None
        read = self.looked_up.infer(self._lookup(node), [data, indices])[0]
        if read.shape != updates.shape:
            raise Refused(f"its updates {updates} are not of the shape {list(read.shape)} that its indices ask for")
        return [data]

    def _lookup(self, node: Node) -> Node:
        raise NotImplementedError

    def _axes(self, node: Node, shape: Sequence[int], depth: int) -> list[int]:
        """The axis of the frame for each index of a tuple; -1 where it is a row axis."""
        raise NotImplementedError

    def _known(self, node: Node, env: Lowering) -> Array | None:
        return env.constants.get(node.inputs[1])

    def _offsets(self, node: Node, shape: Sequence[int], indices: Array) -> Array:
        """The offset in data of each update."""
        return self.looked_up.reference(self._lookup(node), [np.arange(prod(shape)).reshape(shape), indices])[0]

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        (data, indices, updates), (shape, by, _), output = node.inputs, node.shapes, node.outputs[0]
        reduction = self.attribute(node, "reduction")
        copy = strided_copy(env, output, data, [prod(shape)], [1], [1])
        known = self._known(node, env)
        depth = self._depth(by)
        if known is not None and reduction == "none":
            sizes = [shape[axis] for axis in self._axes(node, shape, depth)]
            check_indices(known if depth == known.shape[-1] and self._tuples else known[..., None], sizes)
            to = self._offsets(node, shape, known)
            return [*copy, *copy_elements(env, output, updates, to, np.arange(to.size).reshape(to.shape))]
        axes = self._axes(node, shape, depth)
        spec = env.specs[output]
        first = self._offsets(node, shape, np.zeros(by, np.int64)).reshape(prod(by) // depth, -1)
        kernels = copy_kernels(output, spec)
        scale = spec.dtype.itemsize // kernels.unit if reduction == "none" else 1
        word = index_word(indices, env.specs[indices])
        if reduction == "none":
            text = _put_text(UNITS[kernels.unit], word, ["put(y, to, u)"])
        else:
            kind = OF_BOOL.get(reduction, reduction) if spec.dtype == np.bool_ else reduction
            text = _put_text(pointer(output, spec.dtype), word, REDUCTIONS[kind][1])
        operands: tuple[Operand, ...] = (
            Value(output),
            Value(updates),
            Value(indices),
            index_table([shape[a] for a in axes], [strides_of(shape)[a] for a in axes], first[:, 0], scale),
            Rows(),
            env.row_stride(output) * scale,
            env.row_stride(updates) * scale,
            env.row_stride(indices),
            len(first),
            depth,
            first.shape[1] * scale,
        )
        return [*copy, Call(text, operands, f"{output} at {indices} = {updates}")]

    _tuples: ClassVar[bool] = False

    def _depth(self, by: Sequence[int]) -> int:
        return 1

    def index_bound(self, node: Node, env: Lowering) -> tuple[str, int, int] | None:
        if not node.inputs[1]:
            return None
        sizes = {node.shapes[0][axis] for axis in self._axes(node, node.shapes[0], self._depth(node.shapes[1]))}
        return (node.inputs[1], -min(sizes), min(sizes) - 1) if len(sizes) == 1 else None

    def _updated(self, data: Array, updates: Array, places: Any, reduction: str) -> Array:
        result = data.copy()
        if reduction == "none":
            result[places] = updates
        else:
            REDUCTIONS[reduction][0].at(result, places, updates)
        return result


@register
class ScatterElements(_Scatter):
    """ONNX ScatterElements: an index along one axis for every update."""

    name = "ScatterElements"
    attributes: ClassVar[dict[str, Any]] = {"axis": 0, "reduction": "none"}
    looked_up = GatherElements()

    def _lookup(self, node: Node) -> Node:
        return Node("GatherElements", node.name, node.inputs[:2], node.outputs, {"axis": self.attribute(node, "axis")})

    def _axes(self, node: Node, shape: Sequence[int], depth: int) -> list[int]:
        return [self.attribute(node, "axis") % len(shape)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield from links_by_place(node, specs, self.attribute(node, "axis"), node.inputs)

    def frame(self, node: Node, frames: Frames) -> Node:
        axis = self.attribute(node, "axis") % len(frames.specs[node.inputs[0]].shape)
        if any(frames.role(name, axis) is not None for name in node.inputs[1:]):
            raise Refused("its updates lie along the time or batch axis")
        return frame_by_place(node, frames, axis)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        data, indices, updates = arrays
        assert data is not None and indices is not None and updates is not None
        axis = self.attribute(node, "axis") % data.ndim
        places = list(np.indices(indices.shape))
        places[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
        assert all(p.max(initial=0) < n for p, n in zip(places, data[places_of(data.shape, axis)].shape, strict=True))
        return (self._updated(data, updates, tuple(places), self.attribute(node, "reduction")),)


@register
class Scatter(ScatterElements):
    """ONNX Scatter, the older name of ScatterElements."""

    name = "Scatter"
    attributes = {"axis": 0, "reduction": "none"}


@register
class ScatterND(_Scatter):
    """ONNX ScatterND: a tuple of indices into the leading axes for every update."""

    name = "ScatterND"
    attributes = {"reduction": "none", "known": None}
    looked_up = GatherND()
    _tuples = True

    def _lookup(self, node: Node) -> Node:
        return Node("GatherND", node.name, node.inputs[:2], node.outputs)

    def _depth(self, by: Sequence[int]) -> int:
        return by[-1]

    def _axes(self, node: Node, shape: Sequence[int], depth: int) -> list[int]:
        return list(range(depth))

    def _known(self, node: Node, env: Lowering) -> Array | None:
        known: Array | None = self.attribute(node, "known")
        return env.constants.get(node.inputs[1]) if known is None else known

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        data, indices, updates = node.inputs
        depth, rank = specs[indices].sizes[-1], len(specs[indices].shape)
        for axis in range(len(specs[data].shape)):
            yield (data, axis), (node.outputs[0], axis)
            if axis >= depth:
                yield (updates, rank - 1 + axis - depth), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        data, indices, updates = node.inputs
        depth, rank = frames.specs[indices].sizes[-1], len(frames.specs[indices].shape)
        gone = [axis for axis in frames.rows(data) if axis < depth]
        if not gone and not any(axis < rank - 1 for axis in (*frames.rows(updates), *frames.rows(indices))):
            return frames.node(node)
        known = frames.constants.get(indices)
        steps = [axis for axis in frames.rows(updates) if axis < rank - 1]
        if known is None or len(steps) != len(gone):
            raise Refused("it writes to steps of the time or batch axis, or from such steps to an axis that is none")
        for axis, step in zip(gone, steps, strict=True):
            own = np.arange(known.shape[step]).reshape([-1 if a == step else 1 for a in range(rank - 1)])
            same = known == np.take(known, [0], axis=step)
            same[..., axis] = known[..., axis] == own
            if frames.specs[data].shape[axis] != known.shape[step] or not same.all():
                raise Refused("it writes to steps of the time or batch axis other than each to its own")
        kept = [axis for axis in range(depth) if axis not in gone]
        if not kept:
            raise Refused("it writes whole steps of the time or batch axis")
        known = known[tuple(0 if axis in steps else slice(None) for axis in range(rank - 1))][..., kept]
        shapes = (frames.shape(data), known.shape, frames.shape(updates))
        bare = Node(node.op, node.name, (data, "", updates), node.outputs, dict(node.attributes), node.version)
        return frames.node(bare, {**node.attributes, "known": known}, shapes)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        if not node.inputs[1] and self.attribute(node, "reduction") != "none":
            raise Refused("it has a reduction and a batch axis; supported are one of them")
        return super().lower(node, env)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        data, indices, updates = arrays
        assert data is not None and indices is not None and updates is not None
        places = tuple(np.moveaxis(indices, -1, 0))
        return (self._updated(data, updates, places, self.attribute(node, "reduction")),)
