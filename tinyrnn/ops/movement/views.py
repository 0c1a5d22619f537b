"""Views: operators that only change the shape; their output is their input's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Axis, Frames, Op, Refused, Uneven, register
from tinyrnn.ops.movement.strided_copy import Link, strided_copy


class View(Op):
    """An operator that only changes the shape: its output is its input's memory."""

    inputs: ClassVar[tuple[str, ...]] = ("data",)
    moves = True

    def alias(self, node: Node) -> str | None:
        return node.inputs[0]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        before, after = specs[node.inputs[0]].sizes, specs[node.outputs[0]].sizes
        start = end = 0
        for starts, ends in [*matched_groups(before, after), ([len(before)], [len(after)])]:
            if starts[0] - start == ends[0] - end:  # as many axes of length 1 between the groups: the same ones
                for step in range(starts[0] - start):
                    yield (node.inputs[0], start + step), (node.outputs[0], end + step)
            if len(starts) == len(ends) == 1 and starts[0] < len(before):
                yield (node.inputs[0], starts[0]), (node.outputs[0], ends[0])
            start, end = starts[-1] + 1, ends[-1] + 1

    def merges(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[list[Axis], list[Axis]]]:
        """Groups of axes that a reshape joins or splits: row-major, together the same elements."""
        for starts, ends in matched_groups(specs[node.inputs[0]].sizes, specs[node.outputs[0]].sizes):
            if len(starts) != len(ends):
                yield [(node.inputs[0], a) for a in starts], [(node.outputs[0], a) for a in ends]

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        """Time axes that a reshape splits, or joins with the axes after them."""
        for starts, ends in matched_groups(specs[node.inputs[0]].sizes, specs[node.outputs[0]].sizes):
            if len(starts) > 1 or len(ends) > 1:
                yield (node.inputs[0], starts[0]), (node.outputs[0], ends[0])

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source, output = node.inputs[0], node.outputs[0]
        groups = list(matched_groups(frames.specs[source].sizes, frames.specs[output].sizes))
        for starts, ends in groups:
            if frames.role(source, starts[0]) == frames.role(output, ends[0]) == "time" and (len(starts) > 1 or len(ends) > 1):
                return self._resampled(node, frames, starts, ends)
        if prod(frames.shape(source)) != prod(frames.shape(output)):
            raise Refused(f"it joins the time or batch axis with others ({frames.specs[source]} → {frames.specs[output]})")
        before, after = (
            sorted(
                role for a in frames.rows(name) if frames.specs[name].shape[a] != 1 for role in frames.roles[name, a].split("+")
            )
            for name in (source, output)
        )
        if before != after:
            raise Refused("it changes which axes are time and batch")
        return frames.node(node, {})

    def _resampled(self, node: Node, frames: Frames, starts: list[int], ends: list[int]) -> Node | list[Node]:
        """Each row becomes several, or several become one: [P, rest, Q] of a frame, P before the axes in question, Q after."""
        source, output = node.inputs[0], node.outputs[0]
        sizes, made = frames.specs[source].sizes, frames.specs[output].sizes
        if any(frames.role(source, a) for a in starts[1:]) or any(frames.role(output, a) for a in ends[1:]):
            raise Refused(f"it joins the time axis with the batch ({frames.specs[source]} → {frames.specs[output]})")
        before, after = prod(sizes[a] for a in starts[1:]), prod(made[a] for a in ends[1:])
        P = prod(sizes[a] for a in frames.kept(source) if a < starts[0])
        Q = prod(frames.shape(source)) // (P * before)
        dtype = frames.specs[source].dtype
        if before == after:
            return frames.node(node, {})
        if before % after == 0:
            times, nodes = before // after, list[Node]()
            if P != 1:
                turned = frames.value(f"{output}.turned", Spec(dtype, (times, P, after * Q)))
                nodes.append(_turned(node, source, turned, (P, times, after * Q)))
                source = turned
            unfold, _ = frames.unfold(node, source, times, 0, 0, output)
            return [*nodes, unfold]
        if after % before:
            raise Refused(f"{frames.specs[source]} → {frames.specs[output]} takes rows apart and together")
        times = after // before
        window, rows = frames.window(node, source, range(times), times, -times)
        if P == 1:
            return [window, Node("Identity", node.name, (rows,), (output,), {}, node.version, "", (frames.shape(output),))]
        return [window, _turned(node, rows, output, (times, P, before * Q))]

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        size = env.specs[node.outputs[0]].elements
        return strided_copy(env, node.outputs[0], node.inputs[0], [size], [1], [1])


def _turned(node: Node, source: str, output: str, shape: tuple[int, int, int]) -> Node:
    """The node that transposes the first two axes of a frame seen as `shape`."""
    return Node("Transpose", f"{node.name}.turned", (source,), (output,), {"perm": [1, 0, 2]}, node.version, "", (shape,))


def matched_groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The finest grouping of the axes of two shapes into groups with equal products; axes of size 1 are left out."""
    left = [a for a, n in enumerate(before) if n != 1]
    right = [a for a, n in enumerate(after) if n != 1]
    while left and right:
        starts, ends = [left.pop(0)], [right.pop(0)]
        a, b = before[starts[0]], after[ends[0]]
        while a != b:
            if a < b and left:
                starts.append(left.pop(0))
                a *= before[starts[-1]]
            elif b < a and right:
                ends.append(right.pop(0))
                b *= after[ends[-1]]
            else:
                return
        yield starts, ends


@register
class Identity(View):
    """ONNX Identity."""

    name = "Identity"
    inputs: ClassVar[tuple[str, ...]] = ("input",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [specs[0]]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (arrays[0],)


@register
class Dropout(Identity):
    """ONNX Dropout outside training: the input as it is."""

    name = "Dropout"
    inputs = ("data", "ratio?", "training_mode?")
    outputs = ("output", "mask?")
    attributes = {"ratio": 0.5, "seed": 0, "training_mode": False}
    parameters = {"ratio": 1, "training_mode": 2}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if np.any(self.attribute(node, "training_mode")):
            raise Refused("training_mode is true; supported is inference, where dropout does nothing. Export after model.eval()")
        if len(node.outputs) > 1 and node.outputs[1]:
            raise Refused("its mask output is used; supported is the first output alone")


@register
class Reshape(View):
    """ONNX Reshape."""

    name = "Reshape"
    inputs: ClassVar[tuple[str, ...]] = ("data", "shape?")
    attributes = {"shape": REQUIRED, "allowzero": 0}
    parameters = {"shape": 1}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        before = specs[0].sizes
        wanted = [int(n) for n in np.ravel(self.attribute(node, "shape"))]
        if not self.attribute(node, "allowzero"):
            wanted = [before[i] if n == 0 and i < len(before) else n for i, n in enumerate(wanted)]
        if wanted.count(-1) > 1:
            raise Refused(f"shape={wanted} leaves more than one size open")
        if -1 in wanted:
            known = prod(n for n in wanted if n != -1)
            wanted[wanted.index(-1)] = prod(before) // known if known else 0
        if prod(wanted) != prod(before):
            raise Uneven(f"shape={wanted} does not hold the {prod(before)} elements of {list(before)}")
        return [Spec(specs[0].dtype, tuple(wanted))]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (arrays[0].reshape(self.infer(node, [Spec(arrays[0].dtype, arrays[0].shape)])[0].sizes),)


@register
class Flatten(Reshape):
    """ONNX Flatten: two axes, split at `axis`."""

    name = "Flatten"
    inputs = ("input",)
    attributes = {"axis": 1, "shape": None, "allowzero": 1}
    parameters = {}

    def axes_of(self, node: Node, specs: Sequence[Spec | None]) -> int | None:
        return None if specs[0] is None else len(specs[0].shape) + 1

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        shape, axis = specs[0].sizes, self.attribute(node, "axis")
        axis += len(shape) if axis < 0 else 0
        node.attributes["shape"] = [prod(shape[:axis]), prod(shape[axis:])]


@register
class Squeeze(Reshape):
    """ONNX Squeeze: remove axes of length 1, all of them if none are named."""

    name = "Squeeze"
    inputs = ("data", "axes?")
    attributes = {"axes": None, "shape": None, "allowzero": 1}
    parameters = {"axes": 1}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        shape, axes = specs[0].sizes, self.attribute(node, "axes")
        gone = [a for a, n in enumerate(shape) if n == 1] if axes is None else [int(a) % len(shape) for a in np.ravel(axes)]
        for axis in gone:
            if shape[axis] != 1:
                raise Refused(f"axes={axes} names axis {axis} of length {shape[axis]}; only axes of length 1 can go")
        node.attributes["axes"] = gone
        node.attributes["shape"] = [n for a, n in enumerate(shape) if a not in gone]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        kept = [a for a in range(len(specs[node.inputs[0]].shape)) if a not in node.attributes["axes"]]
        yield from (((node.inputs[0], start), (node.outputs[0], to)) for to, start in enumerate(kept))

    def merges(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[list[Axis], list[Axis]]]:
        yield from ()


@register
class Unsqueeze(Reshape):
    """ONNX Unsqueeze: insert axes of length 1."""

    name = "Unsqueeze"
    inputs = ("data", "axes?")
    attributes = {"axes": REQUIRED, "shape": None, "allowzero": 1}
    parameters = {"axes": 1}

    def axes_of(self, node: Node, specs: Sequence[Spec | None]) -> int | None:
        return None if specs[0] is None else len(specs[0].shape) + np.size(self.attribute(node, "axes"))

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        axes = [int(a) for a in np.ravel(self.attribute(node, "axes"))]
        rank = len(specs[0].shape) + len(axes)
        put_in, rest = {a % rank for a in axes}, iter(specs[0].sizes)
        node.attributes["axes"] = sorted(put_in)
        node.attributes["shape"] = [1 if a in put_in else next(rest) for a in range(rank)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        kept = [a for a in range(len(specs[node.outputs[0]].shape)) if a not in node.attributes["axes"]]
        yield from (((node.inputs[0], start), (node.outputs[0], to)) for start, to in enumerate(kept))

    def merges(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[list[Axis], list[Axis]]]:
        yield from ()
