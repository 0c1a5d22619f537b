"""Pools: the largest, the mean or the norm of the elements under a window that slides over a frame, or over all of it.

Over time a pool is a window of rows and a pool inside the frame that the window makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Scratch, Value, Weight
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import OURS, REQUIRED, Array, Axis, Frames, Op, Refused, op_of, register
from tinyrnn.lanes import absolute, f32, get, i32, kernel, lanes, load_part, splat, square_root, store_part
from tinyrnn.ops.convolution.operators import Sliding, refuse_same_over_time, slidings
from tinyrnn.ops.convolution.window_offsets import AxisWindow, padded_copy_call, window_offsets
from tinyrnn.ops.elementwise.operators import larger

KINDS = ("max", "mean", "l1", "l2")
"""the largest element, the mean, the sum of magnitudes, the root of the sum of squares"""
MAX, MEAN, L1, L2 = range(4)
"""kinds of pools, as indices of `KINDS`"""

# fmt: off


@kernel
def pool_f32(y: Any, x: Any, taps: Any, places: Any, divisors: Any, K: int, runs: int, n: int, period: int, kind: int) -> None:
    """y[r, i] = the pool of x[places[r] + taps[k] + i] over k; a sum becomes a mean by divisors[(r * n + i) % period]."""
    y = f32(y)
    x = f32(x)
    taps = i32(taps)
    places = i32(places)
    divisors = f32(divisors)
    for r in range(runs):
        for i in range(0, n, lanes()):
            start, left = get(places, r) + i, n - i
            total = splat(0.0)
            if kind == MAX:
                total = load_part(x, start + get(taps, 0), left)
            for k in range(1 if kind == MAX else 0, K):
                v = load_part(x, start + get(taps, k), left)
                if kind == MAX:
                    total = larger(total, v)
                elif kind == L1:
                    total = total + absolute(v)
                elif kind == L2:
                    total = total + v * v
                else:
                    total = total + v
            if kind == MEAN:
                by = splat(get(divisors, 0))
                if period > 1:
                    by = load_part(divisors, r * n % period + i, left)
                total = total / by
            elif kind == L2:
                total = square_root(total)
            store_part(y, r * n + i, total, left)


# fmt: on


@register
class Pool(Op):
    """A pool over a frame; `windows` says how its window moves along each axis.

    `divisors` has one number, or one for each position along the axes from `inner` on.
    """

    name = "Pool"
    internal = True
    inputs = ("X",)
    attributes = {"kind": REQUIRED, "windows": REQUIRED, "divisors": REQUIRED, "inner": REQUIRED}

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        if env.specs[source].dtype != np.float32:
            raise Refused(f"{source!r} is {env.specs[source].dtype}; pools take float32")
        shape, kind = node.shapes[0], self.attribute(node, "kind")
        windows = []
        for window, size in zip(self.attribute(node, "windows"), shape, strict=True):
            windows.append(AxisWindow(tuple(window.taps[k] for k in window.inside(size)), window.count, window.step))
        offsets = window_offsets(shape, windows, True)
        divisors = self.attribute(node, "divisors").astype(np.float32)
        places, n = offsets.runs(self.attribute(node, "inner") if divisors.size > 1 else 0)
        tables = [offsets.taps.ravel(), places, divisors.ravel().view(np.int32), offsets.outer, offsets.inner]
        at = [f"t + {4 * end}" for end in np.cumsum([0, *(len(t) for t in tables)])]
        lines = [
            "def KERNEL(y, x, s, t, rows):",
            "    for r in range(rows):",
            f"        to = y + {4 * places.size * n} * r",
            f"        start = x + {4 * prod(shape)} * r",
        ]
        if offsets.copied:
            value = "-1e999" if kind == "max" else "0.0"
            lines.append("        " + padded_copy_call(offsets, "s", "start", at[3], at[4], value))
        sizes = f"{offsets.taps.size}, {places.size}, {n}, {divisors.size}, {KINDS.index(kind)}"
        lines.append(f"        pool_f32(to, {'s' if offsets.copied else 'start'}, {at[0]}, {at[1]}, {at[2]}, {sizes})")
        scratch = Scratch("slots", offsets.elements if offsets.copied else 1)
        operands = (Value(output), Value(source), scratch, Weight(np.concatenate(tables).astype(np.int32)), Rows())
        return [Call("\n".join(lines) + "\n", operands, f"{output} = {kind} pool of {source}")]


class _Pool(Op):
    """Base of the pools of ONNX."""

    inputs = ("X",)
    outputs: ClassVar[tuple[str, ...]] = ("Y",)
    padding: ClassVar[float] = 0.0

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if len(node.outputs) > 1 and node.outputs[1]:
            raise Refused("its second output, Indices, is used; supported is the first")

    def _ways(self, node: Node, sizes: Sequence[int]) -> list[tuple[Sliding, int]]:
        """(window, number of its positions) for each spatial axis."""
        kernel_shape = [int(n) for n in self.attribute(node, "kernel_shape")]
        if len(kernel_shape) != len(sizes) - 2:
            raise Refused(f"kernel_shape={kernel_shape} does not fit an input of {len(sizes)} axes")
        found, ways = slidings(self, node, kernel_shape, sizes[2:]), []
        for s, n in zip(found, sizes[2:], strict=True):
            room = n + s.before + s.after - s.reach
            count = room // s.stride + 1
            if self.attribute(node, "ceil_mode"):
                count = -(-room // s.stride) + 1
                count -= (count - 1) * s.stride >= n + s.before
            if room < 0 or count < 1:
                raise Refused(f"kernel_shape={kernel_shape} does not fit an input {list(sizes)}")
            ways.append((s, count))
        return ways

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [Spec(specs[0].dtype, (*specs[0].sizes[:2], *(n for _, n in self._ways(node, specs[0].sizes))))]

    def _axes(self, node: Node, specs: dict[str, Spec], trivial: bool) -> Iterator[tuple[Axis, Axis]]:
        for axis, (s, _) in enumerate(self._ways(node, specs[node.inputs[0]].sizes)):
            if s.trivial == trivial:
                yield (node.inputs[0], axis + 2), (node.outputs[0], axis + 2)

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis in (0, 1):
            yield (node.inputs[0], axis), (node.outputs[0], axis)
        yield from self._axes(node, specs, True)

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield from self._axes(node, specs, False)

    def kind(self, node: Node) -> str:
        raise NotImplementedError

    def combine(self, node: Node, windows: Array, counts: Array) -> Array:
        """The results from the elements under the window, taps first, and the numbers of elements that count."""
        raise NotImplementedError

    def _counted(self, node: Node, sliding: Sliding, size: int, count: int) -> Array:
        """The number of elements that count at each position."""
        return np.full(count, sliding.taps)

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source, sizes = node.inputs[0], frames.specs[node.inputs[0]].sizes
        ways = self._ways(node, sizes)
        shape, windows = [], []
        for axis in (0, 1):
            if frames.role(source, axis) is None:
                shape.append(sizes[axis])
                windows.append(AxisWindow((0,), sizes[axis]))
        inner, counts, window = len(shape), np.ones((), int), None
        for axis, (s, count) in enumerate(ways):
            role = frames.role(source, axis + 2)
            if role is None:
                shape.append(sizes[axis + 2])
                windows.append(AxisWindow(tuple(k * s.dilation - s.before for k in range(s.taps)), count, s.stride))
                counts = counts[..., None] * self._counted(node, s, sizes[axis + 2], count)
            elif not s.trivial:
                window = self._window(node, frames, s, role, count, sizes[axis + 2])
                counts = counts * s.taps
        if window is not None:
            shape, windows, inner = ([window[1], *shape], [AxisWindow(tuple(range(window[1]))), *windows], inner + 1)
            source = window[0].outputs[0]
        every = np.unique(counts)
        attributes = {
            "kind": self.kind(node),
            "windows": tuple(windows),
            "divisors": every if len(every) == 1 else counts,
            "inner": inner,
        }
        pool = Node("Pool", node.name, (source,), node.outputs[:1], attributes, domain=OURS, shapes=(tuple(shape),))
        return [pool] if window is None else [window[0], pool]

    def _window(self, node: Node, frames: Frames, s: Sliding, role: str, count: int, size: int) -> tuple[Node, int]:
        """(node that brings the rows of the window along time into one frame, number of its taps)."""
        if role != "time":
            raise Refused(f"it slides along the {role} axis; supported is time")
        refuse_same_over_time(self, node, s)
        if count != (size + s.before + s.after - s.reach) // s.stride + 1 or (self.attribute(node, "ceil_mode") and s.stride > 1):
            raise Refused("ceil_mode=1 along the time axis; supported is ceil_mode=0")
        if not np.all(self._counted(node, s, size, count) == s.taps):
            raise Refused("along the time axis its padding does not count; supported is count_include_pad=1, or no padding")
        offsets = [k * s.dilation - s.before for k in range(s.taps)]
        made, _ = frames.window(node, node.inputs[0], offsets, s.stride, s.before + s.after - s.reach, self.padding)
        return made, s.taps if s.taps > 1 else 1

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        ways = self._ways(node, x.shape)
        value = self.padding if x.dtype.kind == "f" else np.iinfo(x.dtype).min if self.padding else 0
        room = [
            max(s.before + n, (c - 1) * s.stride + s.reach) - s.before - n for (s, c), n in zip(ways, x.shape[2:], strict=True)
        ]
        pads = [(0, 0), (0, 0), *((s.before, after) for (s, _), after in zip(ways, room, strict=True))]
        padded = np.pad(x, pads, constant_values=value)
        counts = np.ones((), int)
        for (s, count), n in zip(ways, x.shape[2:], strict=True):
            counts = counts[..., None] * self._counted(node, s, n, count)
        windows = []
        for taps in np.ndindex(*(s.taps for s, _ in ways)):
            cut: list[Any] = [
                slice(k * s.dilation, k * s.dilation + (c - 1) * s.stride + 1, s.stride)
                for k, (s, c) in zip(taps, ways, strict=True)
            ]
            windows.append(padded[(..., *cut)])
        return (self.combine(node, np.stack(windows), counts).astype(x.dtype),)


@register
class MaxPool(_Pool):
    """ONNX MaxPool, its first output."""

    name = "MaxPool"
    outputs = ("Y", "Indices?")
    attributes = {
        "auto_pad": "NOTSET",
        "ceil_mode": 0,
        "dilations": None,
        "kernel_shape": REQUIRED,
        "pads": None,
        "storage_order": 0,
        "strides": None,
    }
    padding = -np.inf

    def kind(self, node: Node) -> str:
        return "max"

    def combine(self, node: Node, windows: Array, counts: Array) -> Array:
        return np.asarray(windows.max(axis=0))


@register
class AveragePool(_Pool):
    """ONNX AveragePool."""

    name = "AveragePool"
    attributes = {
        "auto_pad": "NOTSET",
        "ceil_mode": 0,
        "count_include_pad": 0,
        "dilations": None,
        "kernel_shape": REQUIRED,
        "pads": None,
        "strides": None,
    }

    def kind(self, node: Node) -> str:
        return "mean"

    def _counted(self, node: Node, sliding: Sliding, size: int, count: int) -> Array:
        s = sliding
        at = np.arange(count)[:, None] * s.stride + np.arange(s.taps) * s.dilation - s.before
        low, high = (-s.before, size + s.after) if self.attribute(node, "count_include_pad") else (0, size)
        return np.asarray(((at >= low) & (at < high)).sum(axis=1))

    def combine(self, node: Node, windows: Array, counts: Array) -> Array:
        return np.asarray(windows.sum(axis=0) / counts)


@register
class LpPool(_Pool):
    """ONNX LpPool for p = 1 and p = 2."""

    name = "LpPool"
    attributes = {
        "auto_pad": "NOTSET",
        "ceil_mode": 0,
        "dilations": None,
        "kernel_shape": REQUIRED,
        "p": 2,
        "pads": None,
        "strides": None,
    }

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if self.attribute(node, "p") not in (1, 2):
            raise Refused(f"p={self.attribute(node, 'p')}; supported are 1 and 2")

    def kind(self, node: Node) -> str:
        return f"l{self.attribute(node, 'p')}"

    def combine(self, node: Node, windows: Array, counts: Array) -> Array:
        p = self.attribute(node, "p")
        return np.asarray((np.abs(windows) ** p).sum(axis=0) ** (1 / p))


class _Global(Op):
    """A reduction over all spatial axes."""

    inputs = ("X",)

    def reduction(self, node: Node) -> str:
        """The equivalent reduction."""
        raise NotImplementedError

    def _reduction(self, node: Node, rank: int) -> Node:
        attributes = {"axes": list(range(2, rank)), "keepdims": 1}
        return Node(self.reduction(node), node.name, node.inputs, node.outputs, attributes, 13)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [Spec(specs[0].dtype, (*specs[0].shape[:2], *[1] * (len(specs[0].shape) - 2)))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis in (0, 1):
            yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        reduction = self._reduction(node, len(frames.specs[node.inputs[0]].shape))
        return op_of(reduction).frame(reduction, frames)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        reduction = self._reduction(node, arrays[0].ndim)
        return op_of(reduction).reference(reduction, arrays)


@register
class GlobalAveragePool(_Global):
    """ONNX GlobalAveragePool."""

    name = "GlobalAveragePool"

    def reduction(self, node: Node) -> str:
        return "ReduceMean"


@register
class GlobalMaxPool(_Global):
    """ONNX GlobalMaxPool."""

    name = "GlobalMaxPool"

    def reduction(self, node: Node) -> str:
        return "ReduceMax"


@register
class GlobalLpPool(_Global):
    """ONNX GlobalLpPool for p = 1 and p = 2."""

    name = "GlobalLpPool"
    attributes = {"p": 2}

    def reduction(self, node: Node) -> str:
        if self.attribute(node, "p") not in (1, 2):
            raise Refused(f"p={self.attribute(node, 'p')}; supported are 1 and 2")
        return f"ReduceL{self.attribute(node, 'p')}"
