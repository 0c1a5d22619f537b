"""Operators that move elements without computing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Frames, Op, Refused, register
from tinyrnn.ops.elementwise.operators import broadcast_frame
from tinyrnn.ops.loops.over_time import over_time
from tinyrnn.ops.movement.strided_copy import Link, fill, gather_elements, pass_through, strided_copy, strides_of


@register
class Transpose(Op):
    """ONNX Transpose."""

    name = "Transpose"
    moves = True
    inputs = ("data",)
    attributes = {"perm": None}

    def _perm(self, node: Node, rank: int) -> list[int]:
        perm = self.attribute(node, "perm")
        return list(range(rank))[::-1] if perm is None else [int(p) for p in perm]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        shape = specs[0].sizes
        perm = self._perm(node, len(shape))
        if sorted(perm) != list(range(len(shape))):
            raise Refused(f"perm={perm} does not fit an input of rank {len(shape)}")
        return [Spec(specs[0].dtype, tuple(shape[p] for p in perm))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        for to, start in enumerate(self._perm(node, len(specs[node.inputs[0]].shape))):
            yield (node.inputs[0], start), (node.outputs[0], to)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        kept = frames.kept(source)
        perm = [kept.index(p) for p in self._perm(node, len(frames.specs[source].shape)) if p in kept]
        return frames.node(node, {"perm": perm})

    def alias(self, node: Node) -> str | None:
        moving = [p for p in self._perm(node, len(node.shapes[0])) if node.shapes[0][p] != 1]
        return node.inputs[0] if moving == sorted(moving) else None

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (arrays[0].transpose(self._perm(node, arrays[0].ndim)),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        strides, perm = strides_of(node.shapes[0]), self._perm(node, len(node.shapes[0]))
        shape = [node.shapes[0][p] for p in perm]
        return strided_copy(env, node.outputs[0], node.inputs[0], shape, strides_of(shape), [strides[p] for p in perm])


@register
class Slice(Op):
    """ONNX Slice: starts, ends, axes and steps are attributes (opset 9) or inputs known at load."""

    name = "Slice"
    moves = True
    inputs = ("data", "starts?", "ends?", "axes?", "steps?")
    outputs = ("output",)
    attributes = {"starts": REQUIRED, "ends": REQUIRED, "axes": None, "steps": None}
    parameters = {"starts": 1, "ends": 2, "axes": 3, "steps": 4}

    def slices(self, node: Node, shape: Sequence[int]) -> list[range]:
        starts, ends = (np.ravel(self.attribute(node, k)) for k in ("starts", "ends"))
        axes, steps = self.attribute(node, "axes"), self.attribute(node, "steps")
        axes = range(len(starts)) if axes is None else np.ravel(axes)
        steps = [1] * len(starts) if steps is None else np.ravel(steps)
        taken = [range(n) for n in shape]
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            n = shape[int(axis)]
            end = None if step < 0 and int(end) < -n else int(end)
            taken[int(axis)] = range(n)[int(start) : end : int(step)]
        return taken

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [Spec(specs[0].dtype, tuple(len(r) for r in self.slices(node, specs[0].sizes)))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        shape = specs[node.inputs[0]].sizes
        whole = {a: a for a, r in enumerate(self.slices(node, shape)) if r == range(shape[a])}
        yield from pass_through(node, specs, node.inputs[0], node.outputs[0], whole)

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        shape = specs[node.inputs[0]].sizes
        for axis, taken in enumerate(self.slices(node, shape)):
            if taken != range(shape[axis]) and len(taken) > 1 and taken.step > 0:
                yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source, output = node.inputs[0], node.outputs[0]
        shape = frames.specs[source].sizes
        slices = self.slices(node, shape)
        cut = None
        for axis in frames.rows(source):
            timed = frames.role(source, axis) == "time"
            if timed and self._ends_at(node, axis, shape) is not None:
                raise Refused(
                    f"it ends at step {self._ends_at(node, axis, shape)} of the time axis, however long the sequence is"
                )
            if slices[axis] == range(shape[axis] - 1, shape[axis]) and timed and shape[axis] > 1:
                return frames.node(over_time(node))
            if slices[axis] != range(shape[axis]):
                if not timed or frames.role(output, axis) != "time" or not self._keeps_distance(node, axis, slices[axis], shape):
                    raise Refused(
                        f"it takes {_range_text(slices[axis])} of the {shape[axis]} steps of the time or batch axis "
                        f"(supported: all but some at the start and end, every n-th, or the last)"
                    )
                cut = slices[axis], shape[axis]
        kept = [slices[a] for a in frames.kept(source)]
        inside = {"starts": [r.start for r in kept], "ends": [r.stop for r in kept], "steps": [r.step for r in kept]}
        if cut is None:
            return frames.node(node, inside)
        taken, size = cut
        extra = taken.stop - size - taken.start - 1
        if frames.shape(source) == frames.shape(output):
            return frames.window(node, source, [taken.start], taken.step, extra, output=output)[0]
        window, part = frames.window(node, source, [taken.start], taken.step, extra)
        cropped = frames.node(node, inside)
        cropped.inputs = (part,)
        return [window, cropped]

    def _keeps_distance(self, node: Node, axis: int, taken: range, shape: Sequence[int]) -> bool:
        """Whether a slice has a fixed distance from both ends, whatever the length."""
        axes, starts = self.attribute(node, "axes"), np.ravel(self.attribute(node, "starts"))
        places = list(range(len(starts))) if axes is None else [int(a) % len(shape) for a in np.ravel(axes)]
        start = int(starts[places.index(axis)])
        return start >= 0 and taken.step > 0 and taken.start + shape[axis] - taken.stop < shape[axis] // 2

    def _ends_at(self, node: Node, axis: int, shape: Sequence[int]) -> int | None:
        """The step at which a slice ends in sequences of any length, if it lies beyond the present length."""
        axes, ends = self.attribute(node, "axes"), np.ravel(self.attribute(node, "ends"))
        places = list(range(len(ends))) if axes is None else [int(a) % len(shape) for a in np.ravel(axes)]
        end = int(ends[places.index(axis)]) if axis in places else 0
        return end if shape[axis] < end < np.iinfo(np.int32).max else None

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (arrays[0][np.ix_(*(list(r) for r in self.slices(node, arrays[0].shape)))] if arrays[0].ndim else arrays[0],)

    def _kept(self, node: Node) -> list[range]:
        return [range(s, e, d) for s, e, d in zip(*(self.attribute(node, k) for k in ("starts", "ends", "steps")), strict=True)]

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        ranges, strides = self._kept(node), strides_of(node.shapes[0])
        shape = [len(r) for r in ranges]
        base = sum(r.start * s for r, s in zip(ranges, strides, strict=True))
        steps = [r.step * s for r, s in zip(ranges, strides, strict=True)]
        return strided_copy(env, node.outputs[0], node.inputs[0], shape, strides_of(shape), steps, start_offset=base)


def _range_text(r: range) -> str:
    return f"[{r.start}:{r.stop}:{r.step}]"


PAD_MODES = ("constant", "reflect", "edge", "wrap")


@register
class Pad(Op):
    """ONNX Pad: a value known at load, or elements of the input, around the input; negative pads remove elements."""

    name = "Pad"
    inputs = ("data", "pads?", "constant_value?", "axes?")
    outputs = ("output",)
    attributes = {"mode": "constant", "pads": REQUIRED, "constant_value": 0.0, "axes": None, "value": 0.0}
    parameters = {"pads": 1, "constant_value": 2, "axes": 3}

    def _pads(self, node: Node, rank: int) -> list[tuple[int, int]]:
        pads, axes = np.ravel(self.attribute(node, "pads")), self.attribute(node, "axes")
        axes = range(rank) if axes is None else [int(a) % rank for a in np.ravel(axes)]
        result = [(0, 0)] * rank
        for place, axis in enumerate(axes):
            result[axis] = int(pads[place]), int(pads[place + len(pads) // 2])
        return result

    def _value(self, node: Node) -> Any:
        given = node.attributes.get("value", node.attributes.get("constant_value", 0.0))
        return np.ravel(given)[0].item() if np.size(given) else 0

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        mode = self.attribute(node, "mode")
        if mode not in PAD_MODES:
            raise Refused(f"mode={mode!r}; supported are {', '.join(map(repr, PAD_MODES))}")
        for n, (a, b) in zip(specs[0].sizes, self._pads(node, len(specs[0].shape)), strict=True):
            if mode != "constant" and (a > 0 or b > 0) and n + min(a, 0) + min(b, 0) < 1:
                raise Refused(f"mode={mode!r} of an axis of which nothing is left")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        shape = tuple(n + a + b for n, (a, b) in zip(specs[0].sizes, self._pads(node, len(specs[0].shape)), strict=True))
        if any(n < 0 for n in shape):
            raise Refused(f"pads={list(np.ravel(self.attribute(node, 'pads')))} take more than {specs[0]} has")
        return [Spec(specs[0].dtype, shape)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        pads = self._pads(node, len(specs[node.inputs[0]].shape))
        yield from pass_through(node, specs, node.inputs[0], node.outputs[0], {a: a for a, p in enumerate(pads) if p == (0, 0)})

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        for axis, pads in enumerate(self._pads(node, len(specs[node.inputs[0]].shape))):
            if pads != (0, 0):
                yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source = node.inputs[0]
        pads = self._pads(node, len(frames.specs[source].shape))
        kept = [pads[a] for a in frames.kept(source)]
        mode = self.attribute(node, "mode")
        inside = {"pads": [p[0] for p in kept] + [p[1] for p in kept], "value": self._value(node), "mode": mode}
        padded = [a for a in frames.rows(source) if pads[a] != (0, 0)]
        if not padded:
            return frames.node(node, inside)
        if [frames.role(source, a) for a in padded] != ["time"]:
            raise Refused("it pads the batch axis")
        before, after = pads[padded[0]]
        if mode not in ("constant", "edge"):
            raise Refused(f"mode={mode!r} along the time axis; supported there are 'constant' and 'edge'")
        alone = not any(a or b for a, b in kept)
        window, part = frames.window(
            node,
            source,
            [-before],
            1,
            before + after - 1,
            self._value(node),
            edge=mode == "edge",
            output=node.outputs[0] if alone else "",
        )
        if alone:
            return window
        around = frames.node(node, inside)
        around.inputs = (part,)
        return [window, around]

    def alias(self, node: Node) -> str | None:
        return None if any(self.attribute(node, "pads")) else node.inputs[0]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        pads = self._pads(node, x.ndim)
        cut = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, pads, strict=True))]
        widths, mode = [(max(a, 0), max(b, 0)) for a, b in pads], self.attribute(node, "mode")
        if mode == "constant":
            return (np.pad(cut, widths, constant_values=self._value(node)),)
        return (np.pad(cut, widths, mode=mode),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        output, shape = node.outputs[0], env.specs[node.outputs[0]].sizes
        if self.attribute(node, "mode") != "constant":
            given = np.arange(prod(node.shapes[0])).reshape(node.shapes[0])
            return gather_elements(env, output, node.inputs[0], self.reference(node, [given])[0])
        pads, before = self._pads(node, len(shape)), node.shapes[0]
        to, start = strides_of(shape), strides_of(before)
        kept = [n + min(a, 0) + min(b, 0) for n, (a, b) in zip(before, pads, strict=True)]
        base = sum(max(a, 0) * s for (a, _), s in zip(pads, to, strict=True))
        first = sum(max(-a, 0) * s for (a, _), s in zip(pads, start, strict=True))
        return [
            fill(env, output, self._value(node)),
            *strided_copy(env, output, node.inputs[0], kept, to, start, to_offset=base, start_offset=first),
        ]


@register
class Expand(Op):
    """ONNX Expand: broadcast to a shape known at load."""

    name = "Expand"
    moves = True
    inputs = ("input", "shape?")
    outputs = ("output",)
    attributes = {"shape": REQUIRED}
    parameters = {"shape": 1}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        wanted = tuple(int(n) for n in np.ravel(self.attribute(node, "shape")))
        return [Spec(specs[0].dtype, np.broadcast_shapes(specs[0].sizes, wanted))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        offset = len(specs[node.outputs[0]].shape) - len(specs[node.inputs[0]].shape)
        yield from pass_through(
            node, specs, node.inputs[0], node.outputs[0], {a: a + offset for a in range(len(specs[node.inputs[0]].shape))}
        )

    def frame(self, node: Node, frames: Frames) -> Node:
        return frames.node(
            node, {"shape": frames.shape(node.outputs[0])}, [broadcast_frame(frames, node.inputs[0], node.outputs[0])]
        )

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (np.array(np.broadcast_to(arrays[0], self.infer(node, [Spec(arrays[0].dtype, arrays[0].shape)])[0].sizes)),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        shape = env.specs[node.outputs[0]].sizes
        seen = [1] * (len(shape) - len(node.shapes[0])) + list(node.shapes[0])
        start = [0 if n == 1 else s for n, s in zip(seen, strides_of(seen), strict=True)]
        return strided_copy(env, node.outputs[0], node.inputs[0], shape, strides_of(shape), start)
