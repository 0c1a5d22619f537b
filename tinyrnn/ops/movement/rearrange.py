"""Rearrangements: operators whose output elements are input elements, by a rule that is known at load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Value
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Axis, Frames, Op, Refused, register
from tinyrnn.ops.elementwise.cast import ONNX_DTYPES
from tinyrnn.ops.movement.gather import UNITS, index_word
from tinyrnn.ops.movement.strided_copy import copy_elements, copy_kernels, fill, gather_elements, pass_through, strides_of


class Rearranged(Op):
    """An operator that is lowered by applying its reference to the indices of the input's elements."""

    moves = True
    inputs: ClassVar[tuple[str, ...]] = ("input",)
    outputs = ("output",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        one = np.broadcast_to(np.zeros((), np.int8), specs[0].sizes)
        return [Spec(specs[0].dtype, self.reference(node, [one])[0].shape)]

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        shape = node.shapes[0]
        start = self.reference(node, [np.arange(prod(shape)).reshape(shape)])[0]
        return gather_elements(env, node.outputs[0], node.inputs[0], start)


@register
class Tile(Rearranged):
    """ONNX Tile: repeats known at load."""

    name = "Tile"
    inputs = ("input", "repeats?")
    attributes: ClassVar[dict[str, Any]] = {"repeats": REQUIRED}
    parameters = {"repeats": 1}

    def _repeats(self, node: Node) -> list[int]:
        return [int(n) for n in np.ravel(self.attribute(node, "repeats"))]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [Spec(specs[0].dtype, tuple(n * r for n, r in zip(specs[0].sizes, self._repeats(node), strict=True)))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        whole = {axis: axis for axis, repeat in enumerate(self._repeats(node)) if repeat == 1}
        yield from pass_through(node, specs, node.inputs[0], node.outputs[0], whole)

    def frame(self, node: Node, frames: Frames) -> Node:
        source, output = node.inputs[0], node.outputs[0]
        repeats, sizes = self._repeats(node), frames.specs[source].sizes
        for axis, repeat in enumerate(repeats):
            role = frames.role(source, axis)
            if role is not None and repeat != 1:
                raise Refused(f"it repeats the {role} axis")
            if role is None and frames.role(output, axis) is not None and sizes[axis] != 1:
                raise Refused("a time or batch axis meets an ordinary one")
        kept = frames.kept(output)
        return frames.node(node, {"repeats": [repeats[a] for a in kept]}, [tuple(sizes[a] for a in kept)])

    def alias(self, node: Node) -> str | None:
        return node.inputs[0] if set(self._repeats(node)) <= {1} else None

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (np.tile(arrays[0], self._repeats(node)),)


class _Blocks(Rearranged):
    """Base of operators that exchange blocks of blocksize × blocksize positions with channels, [N, C, H, W]."""

    attributes: ClassVar[dict[str, Any]] = {"blocksize": REQUIRED, "mode": "DCR"}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if self.attribute(node, "mode") not in ("DCR", "CRD"):
            raise Refused(f"mode={self.attribute(node, 'mode')!r}; supported are 'DCR' and 'CRD'")

    def _check(self, divides: Sequence[int], block: int, shape: Sequence[int]) -> None:
        if block < 1 or any(n % block for n in divides):
            raise Refused(f"blocksize={block} does not divide {list(shape)}")

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield (node.inputs[0], 0), (node.outputs[0], 0)

    def frame(self, node: Node, frames: Frames) -> Node:
        if any(axis > 0 for axis in frames.rows(node.inputs[0])):
            raise Refused("it splits channels or positions along the time or batch axis")
        return frames.node(node)


@register
class DepthToSpace(_Blocks):
    """ONNX DepthToSpace: channels become positions."""

    name = "DepthToSpace"

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, block = arrays[0], int(self.attribute(node, "blocksize"))
        assert x is not None
        *lead, c, h, w = x.shape
        self._check([c, c // max(block, 1)], block, x.shape)
        first = self.attribute(node, "mode") == "DCR"
        shape = (block, block, c // block**2, h, w) if first else (c // block**2, block, block, h, w)
        order = (2, 3, 0, 4, 1) if first else (0, 3, 1, 4, 2)
        moved_axes = x.reshape(*lead, *shape).transpose(*range(len(lead)), *(len(lead) + a for a in order))
        return (moved_axes.reshape(*lead, c // block**2, h * block, w * block),)


@register
class SpaceToDepth(_Blocks):
    """ONNX SpaceToDepth: positions become channels."""

    name = "SpaceToDepth"

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, block = arrays[0], int(self.attribute(node, "blocksize"))
        assert x is not None
        *lead, c, h, w = x.shape
        self._check([h, w], block, x.shape)
        order = (2, 4, 0, 1, 3) if self.attribute(node, "mode") == "DCR" else (0, 2, 4, 1, 3)
        apart = x.reshape(*lead, c, h // block, block, w // block, block)
        moved_axes = apart.transpose(*range(len(lead)), *(len(lead) + a for a in order))
        return (moved_axes.reshape(*lead, c * block**2, h // block, w // block),)


@register
class Compress(Rearranged):
    """ONNX Compress by a condition known at load."""

    name = "Compress"
    inputs = ("input", "condition?")
    attributes = {"axis": None, "condition": REQUIRED}
    parameters = {"condition": 1}

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        axis, rank = self.attribute(node, "axis"), len(specs[node.inputs[0]].shape)
        if axis is not None:
            whole = {a: a for a in range(rank) if a != axis % rank}
            yield from pass_through(node, specs, node.inputs[0], node.outputs[0], whole)

    def frame(self, node: Node, frames: Frames) -> Node:
        source, axis = node.inputs[0], self.attribute(node, "axis")
        if axis is None:
            if frames.rows(source):
                raise Refused("it takes elements across the time or batch axis")
            return frames.node(node)
        if frames.role(source, axis % len(frames.specs[source].shape)) is not None:
            raise Refused("it takes steps of the time or batch axis")
        return frames.node(node, {**node.attributes, "axis": frames.axis(source, axis)})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (np.compress(np.ravel(self.attribute(node, "condition")), arrays[0], axis=self.attribute(node, "axis")),)


@register
class Trilu(Op):
    """ONNX Trilu: the triangle on and above (or below) diagonal k of the last two axes, zeros elsewhere."""

    name = "Trilu"
    inputs = ("input", "k?")
    outputs = ("output",)
    attributes = {"upper": 1, "k": 0}
    parameters = {"k": 1}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [specs[0]]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis in range(len(specs[node.inputs[0]].shape) - 2):
            yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        if any(axis >= len(frames.specs[node.inputs[0]].shape) - 2 for axis in frames.rows(node.inputs[0])):
            raise Refused("its triangle lies across the time or batch axis")
        return frames.node(node)

    def _triangle(self, node: Node, shape: Sequence[int]) -> Array:
        k = int(np.ravel(self.attribute(node, "k"))[0])
        ones = np.ones(tuple(shape[-2:]), bool)
        return np.triu(ones, k) if self.attribute(node, "upper") else np.tril(ones, k)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (np.where(self._triangle(node, arrays[0].shape), arrays[0], np.zeros((), arrays[0].dtype)),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        shape, output = node.shapes[0], node.outputs[0]
        lead = np.arange(prod(shape[:-2]))[:, None] * prod(shape[-2:])
        kept = lead + np.flatnonzero(self._triangle(node, shape))
        return [fill(env, output, 0), *copy_elements(env, output, node.inputs[0], kept, kept)]


@register
class EyeLike(Op):
    """ONNX EyeLike: constant once the shape is known."""

    name = "EyeLike"
    outputs = ("output",)
    inputs = ("input",)
    attributes = {"dtype": None, "k": 0}
    of_shape = True
    known_only = True

    def from_spec(self, node: Node, spec: Spec) -> Array:
        code = self.attribute(node, "dtype")
        dtype = spec.dtype if code is None else np.dtype(ONNX_DTYPES[code])
        rows, columns = spec.sizes
        made: Array = np.eye(rows, columns, int(self.attribute(node, "k"))).astype(dtype)
        return made

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (self.from_spec(node, Spec(arrays[0].dtype, arrays[0].shape)),)


@register
class ReverseSequence(Op):
    """ONNX ReverseSequence inside a frame: the first `sequence_lens` elements along an axis, backwards.

    Lengths outside 0 to the size of the axis are clamped to it.
    """

    name = "ReverseSequence"
    inputs = ("input", "sequence_lens")
    outputs = ("Y",)
    attributes = {"batch_axis": 1, "time_axis": 0}

    def _axes(self, node: Node, rank: int) -> tuple[int, int]:
        return self.attribute(node, "time_axis") % rank, self.attribute(node, "batch_axis") % rank

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x, lens = specs
        assert x is not None and lens is not None
        time, batch = self._axes(node, len(x.shape))
        if {time, batch} != {0, 1} or lens.shape != (x.shape[batch],):
            raise Refused(f"time_axis={time} and batch_axis={batch} with lengths {lens} do not fit {x}")
        return [x]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        rank = len(specs[node.inputs[0]].shape)
        yield from (((node.inputs[0], axis), (node.outputs[0], axis)) for axis in range(rank))
        yield (node.inputs[1], 0), (node.outputs[0], self._axes(node, rank)[1])

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        time, batch = self._axes(node, len(frames.specs[source].shape))
        if frames.role(source, time) is not None:
            raise Refused(f"it reverses the {frames.role(source, time)} axis: its first output needs the last input")
        if frames.role(source, batch) is not None:
            return frames.node(node, {"time_axis": 0, "batch_axis": -1})
        return frames.node(node)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, lens = arrays
        assert x is not None and lens is not None
        time, batch = self._axes(node, x.ndim)
        result = x.copy()
        for index, length in enumerate(lens):
            whole = np.moveaxis(x, (time, batch), (0, 1))
            np.moveaxis(result, (time, batch), (0, 1))[:length, index] = whole[:length, index][::-1]
        return (result,)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        (source, lens), shape, output = node.inputs, node.shapes[0], node.outputs[0]
        time, batch = self.attribute(node, "time_axis"), self.attribute(node, "batch_axis")
        alone, strides = batch < 0, strides_of(shape)
        kernels = copy_kernels(output, env.specs[output])
        scale = env.specs[output].dtype.itemsize // kernels.unit
        text = "\n".join(
            [
                "def KERNEL(y, x, lens, rows, y_row, x_row, l_row, B, T, b_step, t_step, size):",
                f"    y, x, lens = {UNITS[kernels.unit]}(y), {UNITS[kernels.unit]}(x), {index_word(lens, env.specs[lens])}(lens)",
                "    for r in range(rows):",
                "        for b in range(B):",
                "            n = min(max(get(lens, r * l_row + b), 0), T)",
                "            for t in range(T):",
                "                to = r * y_row + b * b_step + t * t_step",
                "                start = r * x_row + b * b_step + (n - 1 - t if t < n else t) * t_step",
                "                for k in range(size):",
                "                    put(y, to + k, get(x, start + k))",
            ]
        )
        operands = (
            Value(output),
            Value(source),
            Value(lens),
            Rows(),
            env.row_stride(output) * scale,
            env.row_stride(source) * scale,
            env.row_stride(lens),
            1 if alone else shape[batch],
            shape[time],
            0 if alone else strides[batch] * scale,
            strides[time] * scale,
            prod(shape[1 if alone else 2 :]) * scale,
        )
        return [Call(text + "\n", operands, f"{output} = {source} reversed")]
