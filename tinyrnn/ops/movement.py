"""Operators that move elements without computing: all are strided walks over one input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.ir import Node, Spec
from tinyrnn.lanes import f32, get, i32, i64, kernel, lanes, load, load_part, put, splat, store, store_part, u8
from tinyrnn.op import REQUIRED, Array, Axis, Call, Frames, Lowering, Op, Refused, Rows, Value, register
from tinyrnn.ops.elementwise import broadcast_frame
from tinyrnn.ops.over_time import over_time

Link = tuple[Axis, Axis]


@kernel
def _walk(
    y: Any,
    x: Any,
    rows: int,
    y_row: int,
    x_row: int,
    n0: int,
    n1: int,
    n2: int,
    y0: int,
    y1: int,
    y2: int,
    x0: int,
    x1: int,
    x2: int,
) -> None:
    for r in range(rows):
        for a in range(n0):
            for b in range(n1):
                for c in range(n2):
                    put(y, r * y_row + a * y0 + b * y1 + c * y2, get(x, r * x_row + a * x0 + b * x1 + c * x2))


@kernel
def walk_f32(
    y: Any,
    x: Any,
    y_at: int,
    x_at: int,
    rows: int,
    y_row: int,
    x_row: int,
    n0: int,
    n1: int,
    n2: int,
    y0: int,
    y1: int,
    y2: int,
    x0: int,
    x1: int,
    x2: int,
) -> None:
    """y[r, a, b, c] = x[r, a, b, c], each with its own strides, from element y_at and x_at on."""
    y = f32(y + 4 * y_at)
    x = f32(x + 4 * x_at)
    if y2 == 1 and x2 == 1:
        for r in range(rows):
            for a in range(n0):
                for b in range(n1):
                    to, start = r * y_row + a * y0 + b * y1, r * x_row + a * x0 + b * x1
                    m = n2 - n2 % lanes()
                    for i in range(0, m, lanes()):
                        store(y, to + i, load(x, start + i))
                    if m < n2:
                        store_part(y, to + m, load_part(x, start + m, n2 - m), n2 - m)
    else:
        _walk(y, x, rows, y_row, x_row, n0, n1, n2, y0, y1, y2, x0, x1, x2)


@kernel
def walk_i64(
    y: Any,
    x: Any,
    y_at: int,
    x_at: int,
    rows: int,
    y_row: int,
    x_row: int,
    n0: int,
    n1: int,
    n2: int,
    y0: int,
    y1: int,
    y2: int,
    x0: int,
    x1: int,
    x2: int,
) -> None:
    _walk(i64(y + 8 * y_at), i64(x + 8 * x_at), rows, y_row, x_row, n0, n1, n2, y0, y1, y2, x0, x1, x2)


@kernel
def walk_i32(
    y: Any,
    x: Any,
    y_at: int,
    x_at: int,
    rows: int,
    y_row: int,
    x_row: int,
    n0: int,
    n1: int,
    n2: int,
    y0: int,
    y1: int,
    y2: int,
    x0: int,
    x1: int,
    x2: int,
) -> None:
    _walk(i32(y + 4 * y_at), i32(x + 4 * x_at), rows, y_row, x_row, n0, n1, n2, y0, y1, y2, x0, x1, x2)


@kernel
def walk_u8(
    y: Any,
    x: Any,
    y_at: int,
    x_at: int,
    rows: int,
    y_row: int,
    x_row: int,
    n0: int,
    n1: int,
    n2: int,
    y0: int,
    y1: int,
    y2: int,
    x0: int,
    x1: int,
    x2: int,
) -> None:
    _walk(u8(y + y_at), u8(x + x_at), rows, y_row, x_row, n0, n1, n2, y0, y1, y2, x0, x1, x2)


WALKS = {
    np.dtype(np.float32): walk_f32,
    np.dtype(np.int64): walk_i64,
    np.dtype(np.int32): walk_i32,
    np.dtype(np.uint8): walk_u8,
    np.dtype(np.bool_): walk_u8,
}


def strides_of(shape: Sequence[int]) -> list[int]:
    """Row-major strides in elements."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def walk(
    env: Lowering,
    output: str,
    source: str,
    shape: Sequence[int],
    to: Sequence[int],
    start: Sequence[int],
    to_offset: int = 0,
    start_offset: int = 0,
    note: str = "",
) -> list[Call]:
    """Calls that set output[to_offset + i·to] = source[start_offset + i·start] for every index i of `shape`."""
    dtype = env.specs[output].dtype
    if dtype not in WALKS:
        raise Refused(f"{output!r} is {dtype}; supported are {', '.join(map(str, WALKS))}")
    dims = [(n, t, s) for n, t, s in zip(shape, to, start, strict=True) if n != 1]
    merged: list[tuple[int, int, int]] = []
    for n, t, s in reversed(dims):
        if merged and t == merged[0][1] * merged[0][0] and s == merged[0][2] * merged[0][0]:
            merged[0] = (n * merged[0][0], merged[0][1], merged[0][2])
        else:
            merged.insert(0, (n, t, s))
    while len(merged) < 3:
        merged.insert(0, (1, 0, 0))
    calls = []
    *outer, a, b, c = merged
    if not any(m[0] != 1 for m in merged):
        a, b, c = (1, 0, 0), (1, 0, 0), (1, 1, 1)
    for index in np.ndindex(*(o[0] for o in outer)):
        y_at = to_offset + sum(i * o[1] for i, o in zip(index, outer, strict=True))
        x_at = start_offset + sum(i * o[2] for i, o in zip(index, outer, strict=True))
        calls.append(
            Call(
                WALKS[dtype],
                (
                    Value(output),
                    Value(source),
                    y_at,
                    x_at,
                    Rows(),
                    env.row_stride(output),
                    env.row_stride(source),
                    a[0],
                    b[0],
                    c[0],
                    a[1],
                    b[1],
                    c[1],
                    a[2],
                    b[2],
                    c[2],
                ),
                note or f"{output} from {source}",
            )
        )
    return calls


def pass_through(node: Node, specs: dict[str, Spec], source: str, output: str, axes: dict[int, int]) -> Iterator[Link]:
    """Links for source axis → output axis."""
    for start, to in axes.items():
        if specs[source].shape[start] == specs[output].shape[to]:
            yield (source, start), (output, to)


class View(Op):
    """An operator that only renames the shape: its output is its input's memory."""

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

    def frame(self, node: Node, frames: Frames) -> Node:
        source, output = node.inputs[0], node.outputs[0]
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

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        size = env.specs[node.outputs[0]].elements
        return walk(env, node.outputs[0], node.inputs[0], [size], [1], [1])


def matched_groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The finest row-major grouping of axes with equal products; axes of size 1 are left out."""
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
            raise Refused(f"shape={wanted} does not hold the {prod(before)} elements of {list(before)}")
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

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        shape, axis = specs[0].sizes, self.attribute(node, "axis")
        axis += len(shape) if axis < 0 else 0
        node.attributes["shape"] = [prod(shape[:axis]), prod(shape[axis:])]


@register
class Squeeze(Reshape):
    """ONNX Squeeze: axes of length 1 go, all of them where none are named."""

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
        node.attributes["shape"] = [n for a, n in enumerate(shape) if a not in gone]


@register
class Unsqueeze(Reshape):
    """ONNX Unsqueeze: axes of length 1 are put in."""

    name = "Unsqueeze"
    inputs = ("data", "axes?")
    attributes = {"axes": REQUIRED, "shape": None, "allowzero": 1}
    parameters = {"axes": 1}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        axes = [int(a) for a in np.ravel(self.attribute(node, "axes"))]
        rank = len(specs[0].shape) + len(axes)
        put_in, rest = {a % rank for a in axes}, iter(specs[0].sizes)
        node.attributes["shape"] = [1 if a in put_in else next(rest) for a in range(rank)]


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
        return walk(env, node.outputs[0], node.inputs[0], shape, strides_of(shape), [strides[p] for p in perm])


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

    def frame(self, node: Node, frames: Frames) -> Node:
        output = node.outputs[0]
        axis = self.attribute(node, "axis") % len(frames.specs[output].shape)
        if frames.role(output, axis) is not None:
            if len(node.inputs) == 1:
                return frames.node(Node("Identity", node.name, node.inputs, node.outputs, {}, node.version))
            raise Refused("it joins values along the time or batch axis")
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
            calls += walk(env, output, name, shape, to, strides_of(shape), to_offset=at * to[axis])
            at += shape[axis]
        return calls


@register
class Split(Op):
    """ONNX Split: sizes from `split`, or equal parts (the last may be smaller)."""

    name = "Split"
    moves = True
    inputs = ("input", "split?")
    outputs = ("outputs*",)
    attributes = {"axis": 0, "split": None, "num_outputs": None}
    parameters = {"split": 1}

    def _sizes(self, node: Node, size: int) -> list[int]:
        split, parts = self.attribute(node, "split"), len(node.outputs)
        if split is not None:
            return [int(n) for n in np.ravel(split)]
        each = -(-size // parts)
        return [min(each, max(size - i * each, 0)) for i in range(parts)]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        shape = list(specs[0].sizes)
        axis = self.attribute(node, "axis") % len(shape)
        sizes = self._sizes(node, shape[axis])
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
        sizes = self._sizes(node, frames.specs[source].sizes[axis])
        return frames.node(node, {"axis": frames.axis(source, axis), "split": sizes})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        axis = self.attribute(node, "axis")
        ends = np.cumsum(self._sizes(node, arrays[0].shape[axis]))[:-1]
        return tuple(np.split(arrays[0], ends, axis=axis))

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        axis, source = self.attribute(node, "axis"), node.inputs[0]
        strides, calls, at = strides_of(node.shapes[0]), [], 0
        for name, size in zip(node.outputs, self._sizes(node, node.shapes[0][axis]), strict=True):
            shape = [size if a == axis else n for a, n in enumerate(node.shapes[0])]
            if name:
                calls += walk(env, name, source, shape, strides_of(shape), strides, start_offset=at * strides[axis])
            at += size
        return calls


@register
class Slice(Op):
    """ONNX Slice: starts, ends, axes and steps are attributes (opset 9) or inputs known at load."""

    name = "Slice"
    moves = True
    inputs = ("data", "starts?", "ends?", "axes?", "steps?")
    outputs = ("output",)
    attributes = {"starts": REQUIRED, "ends": REQUIRED, "axes": None, "steps": None}
    parameters = {"starts": 1, "ends": 2, "axes": 3, "steps": 4}

    def _slices(self, node: Node, shape: Sequence[int]) -> list[range]:
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
        return [Spec(specs[0].dtype, tuple(len(r) for r in self._slices(node, specs[0].sizes)))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        shape = specs[node.inputs[0]].sizes
        whole = {a: a for a, r in enumerate(self._slices(node, shape)) if r == range(shape[a])}
        yield from pass_through(node, specs, node.inputs[0], node.outputs[0], whole)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        shape = frames.specs[source].sizes
        slices = self._slices(node, shape)
        for axis in frames.rows(source):
            if slices[axis] == range(shape[axis] - 1, shape[axis]) and frames.role(source, axis) == "time":
                return frames.node(over_time(node))
            if slices[axis] != range(shape[axis]):
                raise Refused(
                    f"it takes {_range_text(slices[axis])} of the {shape[axis]} steps of the time or batch axis "
                    f"(supported: all of them, or the last)"
                )
        kept = [slices[a] for a in frames.kept(source)]
        return frames.node(
            node, {"starts": [r.start for r in kept], "ends": [r.stop for r in kept], "steps": [r.step for r in kept]}
        )

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        return (arrays[0][np.ix_(*(list(r) for r in self._slices(node, arrays[0].shape)))] if arrays[0].ndim else arrays[0],)

    def _kept(self, node: Node) -> list[range]:
        return [range(s, e, d) for s, e, d in zip(*(self.attribute(node, k) for k in ("starts", "ends", "steps")), strict=True)]

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        ranges, strides = self._kept(node), strides_of(node.shapes[0])
        shape = [len(r) for r in ranges]
        base = sum(r.start * s for r, s in zip(ranges, strides, strict=True))
        steps = [r.step * s for r, s in zip(ranges, strides, strict=True)]
        return walk(env, node.outputs[0], node.inputs[0], shape, strides_of(shape), steps, start_offset=base)


def _range_text(r: range) -> str:
    return f"[{r.start}:{r.stop}:{r.step}]"


@register
class Pad(Op):
    """ONNX Pad with mode constant: zeros, or another value known at load, round the input."""

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

    def _value(self, node: Node) -> float:
        given = node.attributes.get("value", node.attributes.get("constant_value", 0.0))
        return float(np.ravel(given)[0]) if np.size(given) else 0.0

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        assert specs[0] is not None
        if any(n for pair in self._pads(node, len(specs[0].shape)) for n in pair) and self.attribute(node, "mode") != "constant":
            raise Refused(f"mode={self.attribute(node, 'mode')!r}; supported is 'constant'")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        shape = tuple(n + a + b for n, (a, b) in zip(specs[0].sizes, self._pads(node, len(specs[0].shape)), strict=True))
        if any(n < 0 for n in shape):
            raise Refused(f"pads={list(np.ravel(self.attribute(node, 'pads')))} take more than {specs[0]} has")
        return [Spec(specs[0].dtype, shape)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[Link]:
        pads = self._pads(node, len(specs[node.inputs[0]].shape))
        yield from pass_through(node, specs, node.inputs[0], node.outputs[0], {a: a for a, p in enumerate(pads) if p == (0, 0)})

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        pads = self._pads(node, len(frames.specs[source].shape))
        if any(pads[a] != (0, 0) for a in frames.rows(source)):
            raise Refused("it pads the time or batch axis")
        kept = [pads[a] for a in frames.kept(source)]
        return frames.node(node, {"pads": [p[0] for p in kept] + [p[1] for p in kept], "value": self._value(node)})

    def alias(self, node: Node) -> str | None:
        return None if any(self.attribute(node, "pads")) else node.inputs[0]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        pads = self._pads(node, x.ndim)
        cut = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, pads, strict=True))]
        return (np.pad(cut, [(max(a, 0), max(b, 0)) for a, b in pads], constant_values=self._value(node)),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        output, shape = node.outputs[0], env.specs[node.outputs[0]].sizes
        if env.specs[output].dtype != np.float32:
            raise Refused(f"{output!r} is {env.specs[output].dtype}; padding takes float32")
        pads, before = self._pads(node, len(shape)), node.shapes[0]
        to, start = strides_of(shape), strides_of(before)
        kept = [n + min(a, 0) + min(b, 0) for n, (a, b) in zip(before, pads, strict=True)]
        base = sum(max(a, 0) * s for (a, _), s in zip(pads, to, strict=True))
        first = sum(max(-a, 0) * s for (a, _), s in zip(pads, start, strict=True))
        fill = Call(fill_f32, (Value(output), Rows(), env.specs[output].elements, self._value(node)))
        return [fill, *walk(env, output, node.inputs[0], kept, to, start, to_offset=base, start_offset=first)]


@kernel
def fill_f32(y: Any, rows: int, n: int, value: float) -> None:
    """Every element of `rows` rows of n is `value`."""
    y = f32(y)
    for i in range(0, rows * n, lanes()):
        store_part(y, i, splat(value), rows * n - i)


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
        return walk(env, node.outputs[0], node.inputs[0], shape, strides_of(shape), start)
