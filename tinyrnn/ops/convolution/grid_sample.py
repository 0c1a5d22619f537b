"""ONNX GridSample: a picture or volume sampled at given places, with interpolation between its elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Scratch, Value, Weight
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Axis, Frames, Op, Refused, SizesDiffer, register
from tinyrnn.lanes import f64, get, i32, kernel, put
from tinyrnn.ops.convolution.resize import cubic
from tinyrnn.ops.elementwise.scalars import pointer
from tinyrnn.ops.movement.strided_copy import pass_through, refuse_twice

MODES = {"nearest": 1, "linear": 2, "cubic": 4}
"""mode → number of elements along each axis that contribute to a place"""
OLD_MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""names to opset 19"""
PADDINGS = ("zeros", "border", "reflection")
CUBIC = -0.75
FURTHEST = 1e9
"""places further out, and NaN, count as just outside where padding is zeros, otherwise as the first element"""

# fmt: off


@kernel
def mirrored(u: Any, low: Any, high: Any) -> Any:
    """u, reflected at low and high until it lies between them."""
    span = high - low
    if span <= 0.0:
        return 0.0 * u
    away = abs(u - low)
    turns = np.int64(away / span)
    rest = away - np.float64(turns) * span
    return low + rest if turns % 2 == 0 else high - rest


@kernel
def place_along(v: Any, n: Any, corners: int, padding: int, taps: int) -> Any:
    """The coordinate along an axis of n elements for v in [-1, 1], after padding; with cubic borders only taps are padded."""
    last = np.float64(n) - 1.0
    u = (v + 1.0) * 0.5 * last if corners else ((v + 1.0) * np.float64(n) - 1.0) * 0.5
    if not abs(u) < FURTHEST:
        far = u >= FURTHEST and padding == 1
        u = last if far else (-3.0 if padding == 0 else 0.0)
    if taps == 1:
        u = (u + 6755399441055744.0) - 6755399441055744.0
    low = 0.0 if corners else -0.5
    if u < low or u > last - low:
        if padding == 1 and taps != 4:
            u = min(max(u, 0.0), last)
        elif padding == 2:
            u = mirrored(u, low, last - low)
    return u


@kernel
def element_along(e: Any, n: Any, corners: int, padding: int) -> Any:
    """The index of the element for e, which may lie outside of the axis; -1 stands for zero."""
    if e >= 0 and e < n:
        return e
    if padding == 0:
        return -1
    if padding == 1:
        return min(max(e, 0), n - 1)
    period = max(2 * (n - 1), 1) if corners else 2 * n
    e = abs(e) if corners else (e if e >= 0 else -1 - e)
    e = e % period
    return e if e < n else period - (0 if corners else 1) - e


@kernel
def tap_weight(t: int, taps: int, f: Any) -> Any:
    """The weight of tap t for a place at distance f after the tap before it; cubic as R. Keys (1981)."""
    if taps == 1:
        return 1.0
    if taps == 2:
        return f if t else 1.0 - f
    d = abs(f + 1.0 - np.float64(t))
    if d <= 1.0:
        return ((CUBIC + 2.0) * d - (CUBIC + 3.0)) * d * d + 1.0
    return ((CUBIC * d - 5.0 * CUBIC) * d + 8.0 * CUBIC) * d - 4.0 * CUBIC


@kernel
def sample_at(y: Any, x: Any, g: Any, s: int, sizes: Any, rows: int, y_row: int, x_row: int, g_row: int,
              batch: int, channels: int, count: int, axes: int, taps: int, most: int, corners: int, padding: int) -> None:
    """y[n, c, p] = sum of x[n, c] round g[n, p], whose numbers go from the last axis to the first; s: weights, elements."""
    weights = f64(s)
    elements = i32(s + 8 * most)
    sizes = i32(sizes)
    space = get(sizes, axes)
    for r in range(rows):
        for n in range(batch):
            for p in range(count):
                at, many = r * g_row + (n * count + p) * axes, 1
                put(weights, 0, 1.0)
                put(elements, 0, 0)
                for a in range(axes):
                    size = np.int64(get(sizes, a))
                    u = place_along(np.float64(get(g, at + axes - 1 - a)), size, corners, padding, taps)
                    first = np.int64(u)
                    if np.float64(first) > u:
                        first = first - 1
                    f = u - np.float64(first)
                    for j in range(many):
                        k = many - 1 - j
                        weight, place = get(weights, k), np.int64(get(elements, k))
                        for i in range(taps):
                            t = taps - 1 - i
                            e = element_along(first + t - (1 if taps == 4 else 0), size, corners, padding)
                            put(elements, k * taps + t, -1 if e < 0 or place < 0 else place * size + e)
                            put(weights, k * taps + t, weight * tap_weight(t, taps, f))
                    many = many * taps
                for c in range(channels):
                    start, total = r * x_row + (n * channels + c) * space, 0.0
                    for k in range(many):
                        if get(elements, k) >= 0:
                            total += get(weights, k) * np.float64(get(x, start + get(elements, k)))
                    put(y, r * y_row + (n * channels + c) * count + p, total)


# fmt: on


@register
class GridSample(Op):
    """ONNX GridSample: nearest, linear and cubic, in any number of dimensions; X and grid at run time or constant."""

    name = "GridSample"
    since = 16
    inputs = ("X", "grid")
    attributes: ClassVar[dict[str, Any]] = {"align_corners": 0, "mode": "linear", "padding_mode": "zeros"}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        for name, supported in (("mode", (*MODES, *OLD_MODES)), ("padding_mode", PADDINGS)):
            value = self.attribute(node, name)
            text = value.decode() if isinstance(value, bytes) else value
            if text not in supported:
                raise Refused(f"{name}={text!r}; supported are {', '.join(supported)}")
            node.attributes[name] = OLD_MODES.get(text, text)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x, grid = specs
        assert x is not None and grid is not None
        axes = len(x.shape) - 2
        if axes < 1 or len(grid.shape) != axes + 2 or grid.sizes[-1] != axes:
            raise Refused(f"X is {x} and grid {grid}; supported is an X [N, C, D1 … Dr] with a grid [N, E1 … Er, r]")
        if x.dtype.kind != "f" or grid.dtype.kind != "f":
            raise Refused(f"X is {x.dtype} and grid {grid.dtype}; supported are floating numbers")
        if x.shape[0] != grid.shape[0]:
            raise SizesDiffer(f"X is {x} and grid {grid}: their first axes differ", [(x.sizes[0], grid.sizes[0])])
        return [Spec(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        (x, grid), output = node.inputs, node.outputs[0]
        yield from pass_through(node, specs, x, output, {0: 0, 1: 1})
        yield from pass_through(node, specs, grid, output, {0: 0} | {a: a + 1 for a in range(1, len(specs[grid].shape) - 1)})

    def frame(self, node: Node, frames: Frames) -> Node:
        (x, grid), output = node.inputs, node.outputs[0]
        axes = len(frames.specs[x].shape) - 2
        for name, axis in [*((x, a + 2) for a in range(axes)), (grid, axes + 1)]:
            if frames.role(name, axis) is not None:
                raise Refused(f"it looks up places along the {frames.role(name, axis)} axis of {name!r}")
        refuse_twice(frames, output)
        if any(frames.role(output, 0) and not frames.role(n, 0) and frames.specs[n].sizes[0] > 1 for n in (x, grid)):
            raise Refused("a time or batch axis meets an ordinary one")
        shapes = [tuple(1 if frames.role(n, a) else s for a, s in enumerate(frames.specs[n].sizes)) for n in (x, grid)]
        return frames.node(node, shapes=shapes)

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        x, grid = node.shapes
        return prod(grid[:-1]) * x[1] * int(self._taps(node) ** grid[-1])

    def _taps(self, node: Node) -> int:
        return MODES[self.attribute(node, "mode")]

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        (source, places), (x, grid), output = node.inputs, node.shapes, node.outputs[0]
        axes, taps = grid[-1], self._taps(node)
        most = taps**axes
        words = [pointer(name, env.specs[name].dtype) for name in (output, source, places)]
        parameters = "y, x, g, s, t, rows, y_row, x_row, g_row, batch, channels, count, axes, taps, most, corners, padding"
        text = f"def KERNEL({parameters}):\n    sample_at({', '.join(f'{w}({n})' for w, n in zip(words, 'yxg', strict=True))}"
        operands = (
            Value(output),
            Value(source),
            Value(places),
            Scratch("taps", 3 * most),
            Weight(np.array([*x[2:], prod(x[2:])], np.int32)),
            Rows(),
            *(env.row_stride(name) for name in (output, source, places)),
            x[0],
            x[1],
            prod(grid[1:-1]),
            axes,
            taps,
            most,
            int(self.attribute(node, "align_corners")),
            PADDINGS.index(self.attribute(node, "padding_mode")),
        )
        return [Call(f"{text}, {parameters[9:]})\n", operands, f"{output} = {source} at {places}")]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, grid = arrays
        assert x is not None and grid is not None
        corners, padding = self.attribute(node, "align_corners"), self.attribute(node, "padding_mode")
        mode, sizes = self.attribute(node, "mode"), x.shape[2:]
        taps = self._taps(node)
        batch = np.arange(len(x)).reshape(-1, *[1] * len(sizes))
        total: Any = 0.0
        along = np.moveaxis(grid.astype(np.float64), -1, 0)[::-1]
        places = [_placed(v, n, corners, padding, mode) for v, n in zip(along, sizes, strict=True)]
        for tap in np.ndindex(*[taps] * len(sizes)):
            weights: Any = 1.0
            elements = []
            for t, u, n in zip(tap, places, sizes, strict=True):
                e = np.floor(u) + t - (taps == 4)
                d = np.abs(e - u)
                weights = weights * {1: np.ones_like(d), 2: 1 - d, 4: cubic(d, CUBIC)}[taps]
                inside = (e >= 0) & (e < n)
                weights = np.where(inside, weights, 0.0) if padding == "zeros" else weights
                e = np.clip(e, 0, n - 1) if padding != "reflection" else _mirror(e, *_ends(n, corners))
                elements.append(e.astype(int))
            picked = np.moveaxis(x[(batch, slice(None), *elements)], -1, 1).astype(np.float64)
            total = total + np.where(weights[:, None] == 0, 0.0, weights[:, None] * picked)
        return (np.asarray(total).astype(x.dtype),)


def _ends(size: int, corners: int) -> tuple[float, float]:
    return (0.0, size - 1.0) if corners else (-0.5, size - 0.5)


def _mirror(u: Array, low: float, high: float) -> Array:
    """u, reflected at both ends until it lies between them."""
    if high == low:
        return np.zeros_like(u)
    turned = (u - low) % (2 * (high - low))
    return low + np.minimum(turned, 2 * (high - low) - turned)


def _placed(v: Array, size: int, corners: int, padding: str, mode: str) -> Array:
    """The places along an axis, after padding; cubic at a border pads the taps alone, as PyTorch and onnxruntime have it."""
    u = (v + 1) / 2 * (size - 1) if corners else ((v + 1) * size - 1) / 2
    u = np.rint(u) if mode == "nearest" else u
    low, high = _ends(size, corners)
    outside = (u < low) | (u > high)
    if padding == "border" and mode != "cubic":
        return np.where(outside, np.clip(u, 0, size - 1), u)
    return np.where(outside, _mirror(u, low, high), u) if padding == "reflection" else u
