"""Concat and Split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tinyrnn.graph.call import Call, Lowering
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Frames, Op, Refused, register
from tinyrnn.ops.movement.strided_copy import Link, pass_through, strided_copy, strides_of


@register
class Concat(Op):
    """ONNX Concat."""

    name = "Concat"
    moves = True
    inputs = ("inputs*",)
    outputs = ("concat_result",)
    attributes = {"axis": REQUIRED}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        given = [s for s in specs if s is not None]
        rank = len(given[0].shape)
        axis = self.attribute(node, "axis") % rank
        shape = list(given[0].sizes)
        for spec in given[1:]:
            if len(spec.shape) != rank or any(a != axis and n != shape[a] for a, n in enumerate(spec.sizes)):
                raise Refused(f"its inputs {', '.join(map(str, given))} do not fit along axis {axis}")
        shape[axis] = sum(s.sizes[axis] for s in given)
        return [Spec(given[0].dtype, tuple(shape))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        rank = len(specs[node.outputs[0]].shape)
        axis = self.attribute(node, "axis") % rank
        for name in node.inputs:
            yield from pass_through(
                node, specs, name, node.outputs[0], {a: a for a in range(rank) if a != axis or len(node.inputs) == 1}
            )

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        axis = self.attribute(node, "axis") % len(specs[node.outputs[0]].shape)
        for name in node.inputs if len(node.inputs) > 1 else ():
            yield (name, axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        output = node.outputs[0]
        axis = self.attribute(node, "axis") % len(frames.specs[output].shape)
        if frames.role(output, axis) is not None:
            if len(node.inputs) == 1:
                return frames.node(Node("Identity", node.name, node.inputs, node.outputs, {}, node.version))
            return self._over_time(node, frames, axis)
        kept = frames.kept(output)
        shapes = [tuple(frames.specs[name].sizes[a] for a in kept) for name in node.inputs]
        return frames.node(node, {"axis": kept.index(axis)}, shapes)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        return (np.concatenate([a for a in arrays if a is not None], axis=self.attribute(node, "axis")),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        axis, output = self.attribute(node, "axis"), node.outputs[0]
        to = strides_of(env.specs[output].sizes)
        calls, at = [], 0
        for name, shape in zip(node.inputs, node.shapes, strict=True):
            calls += strided_copy(env, output, name, shape, to, strides_of(shape), to_offset=at * to[axis])
            at += shape[axis]
        return calls

    def _over_time(self, node: Node, frames: Frames, axis: int) -> Node:
        """Concat along time: a sequence after constant steps, and before copies of one value."""
        output, moving = node.outputs[0], [name for name in node.inputs if name not in frames.constants]
        if len(moving) != 1 or frames.role(moving[0], axis) != "time" or frames.role(output, axis) != "time":
            raise Refused(
                "it joins values along the time or batch axis (supported: a sequence with constant steps before or after)"
            )
        place = node.inputs.index(moving[0])
        before, after = (
            [_steps(frames, name, output, axis) for name in names] for names in (node.inputs[:place], node.inputs[place + 1 :])
        )
        tail = np.concatenate([a.ravel() for a in after]) if after else np.zeros(1, np.float32)
        if (tail != tail[0]).any():
            raise Refused("it joins a sequence with steps after its end that are not all of one value")
        extra = sum(len(a) for a in before) + sum(len(a) for a in after) - 1
        offset = -sum(len(a) for a in before)
        shape = frames.shape(output)
        rows = np.concatenate([np.broadcast_to(a, (len(a), *shape)) for a in before]) if before else None
        return frames.window(node, moving[0], [offset], 1, extra, float(tail[0]), before=rows, output=output)[0]


def _steps(frames: Frames, name: str, output: str, axis: int) -> Array:
    """The time steps of a constant, [steps, *frame]."""
    array = np.moveaxis(frames.constants[name], axis, 0)
    others = [a for a in range(array.ndim) if a != axis]
    index = tuple(0 if frames.role(output, a) is not None else slice(None) for a in others)
    return array[(slice(None), *index)]


@register
class Split(Op):
    """ONNX Split: sizes from `split`, or equal parts (the last may be smaller)."""

    name = "Split"
    moves = True
    inputs = ("input", "split?")
    outputs = ("outputs*",)
    attributes = {"axis": 0, "split": None, "num_outputs": None}
    parameters = {"split": 1}

    def sizes(self, node: Node, size: int) -> list[int]:
        split, parts = self.attribute(node, "split"), len(node.outputs)
        if split is not None:
            return [int(n) for n in np.ravel(split)]
        each = -(-size // parts)
        return [min(each, max(size - i * each, 0)) for i in range(parts)]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        shape = list(specs[0].sizes)
        axis = self.attribute(node, "axis") % len(shape)
        sizes = self.sizes(node, shape[axis])
        if sum(sizes) != shape[axis] or len(sizes) != len(node.outputs):
            raise Refused(f"split={sizes} does not make {len(node.outputs)} outputs of {shape[axis]}")
        return [Spec(specs[0].dtype, (*shape[:axis], n, *shape[axis + 1 :])) for n in sizes]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        rank = len(specs[node.inputs[0]].shape)
        for name in filter(None, node.outputs):
            yield from pass_through(node, specs, node.inputs[0], name, {a: a for a in range(rank)})

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        axis = self.attribute(node, "axis") % len(frames.specs[source].shape)
        if frames.role(source, axis) is not None:
            if len(node.outputs) == 1:
                return frames.node(Node("Identity", node.name, node.inputs[:1], node.outputs, {}, node.version))
            raise Refused("it cuts the time or batch axis")
        sizes = self.sizes(node, frames.specs[source].sizes[axis])
        return frames.node(node, {"axis": frames.axis(source, axis), "split": sizes})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        axis = self.attribute(node, "axis")
        ends = np.cumsum(self.sizes(node, arrays[0].shape[axis]))[:-1]
        return tuple(np.split(arrays[0], ends, axis=axis))

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        axis, source = self.attribute(node, "axis"), node.inputs[0]
        strides, calls, at = strides_of(node.shapes[0]), [], 0
        for name, size in zip(node.outputs, self.sizes(node, node.shapes[0][axis]), strict=True):
            shape = [size if a == axis else n for a, n in enumerate(node.shapes[0])]
            if name:
                calls += strided_copy(env, name, source, shape, strides_of(shape), strides, start_offset=at * strides[axis])
            at += size
        return calls
