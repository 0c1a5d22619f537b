"""ONNX Resize and Upsample: along each axis every output element is a sum of a few input elements times weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Scratch, Value, Weight
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import OURS, REQUIRED, Array, Axis, Frames, Op, Refused, register
from tinyrnn.lanes import f32, get, i32, kernel, lanes, load_part, put, splat, store_part

Way = tuple[Array, Array]
"""Along one axis: the elements [outputs, taps] that each output is made of, and their weights."""

# fmt: off


@kernel
def resample_f32(y: Any, x: Any, elements: Any, weights: Any, outer: int, size: int, count: int, taps: int, inner: int) -> None:
    """y[a, j, i] = sum over t of weights[j, t] x[a, elements[j, t], i]; x [outer, size, inner], y [outer, count, inner]."""
    y = f32(y)
    x = f32(x)
    elements = i32(elements)
    weights = f32(weights)
    if inner == 1:
        for a in range(outer):
            for j in range(count):
                total = get(weights, j * taps) * get(x, a * size + get(elements, j * taps))
                for t in range(j * taps + 1, j * taps + taps):
                    total = total + get(weights, t) * get(x, a * size + get(elements, t))
                put(y, a * count + j, total)
    else:
        for a in range(outer):
            for j in range(count):
                to = (a * count + j) * inner
                for i in range(0, inner, lanes()):
                    start = (a * size + get(elements, j * taps)) * inner + i
                    sums = splat(get(weights, j * taps)) * load_part(x, start, inner - i)
                    for t in range(j * taps + 1, j * taps + taps):
                        start = (a * size + get(elements, t)) * inner + i
                        sums = sums + splat(get(weights, t)) * load_part(x, start, inner - i)
                    store_part(y, to + i, sums, inner - i)


# fmt: on


@register
class Resample(Op):
    """Sums of a few elements along some axes of a frame; made from Resize and Upsample.

    `ways` has (axis, elements, weights), as lists.
    """

    name = "Resample"
    internal = True
    inputs = ("X",)
    attributes = {"ways": REQUIRED}

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output, shape = node.inputs[0], node.outputs[0], list(node.shapes[0])
        if env.specs[source].dtype != np.float32:
            raise Refused(f"{source!r} is {env.specs[source].dtype}; resizing takes float32")
        ways = [(axis, np.array(elements), np.array(weights)) for axis, elements, weights in self.attribute(node, "ways")]
        if not ways:
            shape = [prod(shape)]
            ways = [(0, np.arange(shape[0])[:, None], np.ones((shape[0], 1)))]
        sizes, before = [], list(shape)
        for axis, elements, _ in ways:
            shape[axis] = len(elements)
            sizes.append(prod(shape))
        room = max(sizes[:-1], default=0)
        lines = ["def KERNEL(y, x, s, t, rows):", "    for r in range(rows):"]
        tables: list[Array] = []
        at, size = f"x + {4 * prod(before)} * r", list(before)
        for number, (axis, elements, weights) in enumerate(ways):
            places = 4 * sum(t.size for t in tables)
            last = number == len(ways) - 1
            to = f"y + {4 * sizes[-1]} * r" if last else f"s + {4 * room * (number % 2)}"
            dims = f"{prod(size[:axis])}, {size[axis]}, {len(elements)}, {elements.shape[1]}, {prod(size[axis + 1 :])}"
            lines.append(f"        resample_f32({to}, {at}, t + {places}, t + {places + 4 * elements.size}, {dims})")
            tables += [elements.astype(np.int32).ravel(), weights.astype(np.float32).ravel().view(np.int32)]
            at, size[axis] = to, len(elements)
        scratch = Scratch("between", max(2 * room, 1))
        operands = (Value(output), Value(source), scratch, Weight(np.concatenate(tables)), Rows())
        return [Call("\n".join(lines) + "\n", operands, f"{output} = {source} resized")]


COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def coordinates(mode: str, scale: np.float32, size: int, count: int) -> Array:
    """The coordinates of the output elements in the input, float32."""
    i, one = np.arange(count, dtype=np.float32), np.float32(1)
    half = np.float32(0.5)
    if mode == "align_corners":
        return i * np.float32(size - 1) / np.float32(count - 1) if count > 1 else np.zeros(count, np.float32)
    if mode == "asymmetric":
        return i / scale
    if mode == "tf_half_pixel_for_nn":
        return (i + half) / scale
    if mode == "pytorch_half_pixel" and count == 1:
        return np.zeros(1, np.float32)
    found = (i + half) / scale - half
    if mode == "half_pixel_symmetric":
        found = found + np.float32(size) / 2 * (one - np.float32(count) / (scale * np.float32(size)))
    return np.asarray(found, np.float32)


def nearest_of(mode: str, x: Array) -> Array:
    """The indices of the elements nearest to coordinates."""
    if mode == "round_prefer_floor":
        return np.ceil(x - np.float32(0.5))
    if mode == "round_prefer_ceil":
        return np.floor(x + np.float32(0.5))
    return np.floor(x) if mode == "floor" else np.ceil(x)


def cubic(x: Array, a: float) -> Array:
    """Weights at distances x (R. Keys, Cubic convolution interpolation, 1981)."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


class _Resize(Op):
    inputs: ClassVar[tuple[str, ...]] = ("X", "roi?", "scales?", "sizes?")
    attributes = {
        "antialias": 0,
        "axes": None,
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.75,
        "exclude_outside": 0,
        "extrapolation_value": 0.0,
        "keep_aspect_ratio_policy": "stretch",
        "mode": "nearest",
        "nearest_mode": "round_prefer_floor",
        "roi": None,
        "scales": None,
        "sizes": None,
    }

    def _text(self, node: Node, name: str, supported: Sequence[str]) -> str:
        value = self.attribute(node, name)
        text: str = value.decode() if isinstance(value, bytes) else value
        if text not in supported:
            raise Refused(f"{name}={text!r}; supported are {', '.join(supported)}")
        return text

    def _sizes(self, node: Node, shape: Sequence[int]) -> list[tuple[int, np.float32]]:
        """(size, scale) for each axis."""
        given, wanted = self.attribute(node, "scales"), self.attribute(node, "sizes")
        axes = self.attribute(node, "axes")
        axes = list(range(len(shape))) if axes is None else [int(a) % len(shape) for a in np.ravel(axes)]
        result = [(n, np.float32(1)) for n in shape]
        if given is not None and np.size(given):
            for axis, scale in zip(axes, np.ravel(given).astype(np.float32), strict=True):
                if not scale > 0:
                    raise Refused(f"scales={list(np.ravel(given))}; supported are numbers above 0")
                result[axis] = floor(shape[axis] * float(scale)), scale
            return result
        if wanted is None or not np.size(wanted):
            raise Refused("it has neither scales nor sizes")
        sizes = [int(n) for n in np.ravel(wanted)]
        policy = self._text(node, "keep_aspect_ratio_policy", ("stretch", "not_larger", "not_smaller"))
        scales = [n / shape[a] for a, n in zip(axes, sizes, strict=True)]
        if policy != "stretch":
            one = min(scales) if policy == "not_larger" else max(scales)
            scales, sizes = [one] * len(axes), [floor(one * shape[a] + 0.5) for a in axes]
        for axis, size, scale in zip(axes, sizes, scales, strict=True):
            result[axis] = size, np.float32(scale)
        return result

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        sizes = [n for n, _ in self._sizes(node, specs[0].sizes)]
        if min(sizes, default=1) < 1:
            raise Refused(f"it makes {sizes} of {specs[0]}")
        self._ways(node, specs[0].sizes)
        return [Spec(specs[0].dtype, tuple(sizes))]

    def _ways(self, node: Node, shape: Sequence[int]) -> list[Way | None]:
        """The elements and weights for each axis; None for an unchanged axis."""
        mode = self._text(node, "mode", ("nearest", "linear", "cubic"))
        where = self._text(node, "coordinate_transformation_mode", COORDINATES)
        rounding = self._text(node, "nearest_mode", NEAREST)
        if self.attribute(node, "antialias"):
            raise Refused("antialias=1; supported is 0")
        ways: list[Way | None] = []
        for size, (count, scale) in zip(shape, self._sizes(node, shape), strict=True):
            if count == size and scale == 1:
                ways.append(None)
                continue
            if where == "align_corners" and abs(size * float(scale) - count) > 1e-3:
                raise Refused(
                    f"align_corners with scale {scale} of {size} elements, which is no whole number, has two readings; "
                    f"supported are sizes, or scales to whole numbers"
                )
            x = coordinates(where, scale, size, count)
            if mode == "nearest":
                elements = nearest_of(rounding, x)[:, None]
                weights = np.ones((count, 1))
            else:
                taps = np.arange(0, 2) if mode == "linear" else np.arange(-1, 3)
                elements = np.floor(x)[:, None] + taps
                away = elements - x[:, None]
                weights = 1 - np.abs(away) if mode == "linear" else cubic(away, self.attribute(node, "cubic_coeff_a"))
                if mode == "cubic" and self.attribute(node, "exclude_outside"):
                    weights = np.where((elements < 0) | (elements >= size), 0.0, weights)
                    weights = weights / weights.sum(axis=1, keepdims=True)
            ways.append((np.clip(elements, 0, size - 1).astype(int), weights))
        return ways

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis, (count, scale) in enumerate(self._sizes(node, specs[node.inputs[0]].sizes)):
            if scale == 1 and count == specs[node.inputs[0]].shape[axis]:
                yield (node.inputs[0], axis), (node.outputs[0], axis)

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis, (count, scale) in enumerate(self._sizes(node, specs[node.inputs[0]].sizes)):
            if scale != 1 or count != specs[node.inputs[0]].shape[axis]:
                yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source, output = node.inputs[0], node.outputs[0]
        sizes = frames.specs[source].sizes
        kept, ways, repeats = [], self._ways(node, sizes), 1
        for axis, way in enumerate(ways):
            role = frames.role(source, axis)
            if role is None:
                if way is not None:
                    kept.append((frames.axis(source, axis), way[0].tolist(), way[1].tolist()))
            elif way is not None:
                repeats = len(way[0]) // sizes[axis]
                if role != "time" or not np.array_equal(way[0], np.arange(sizes[axis] * repeats)[:, None] // max(repeats, 1)):
                    raise Refused(f"it resizes the {role} axis; supported is each row of time as often, by a whole scale")
        shape = frames.shape(source)
        if repeats == 1:
            return Node("Resample", node.name, (source,), (output,), {"ways": kept}, domain=OURS, shapes=(shape,))
        again = [(a + 1, e, w) for a, e, w in kept] + [(0, [[0]] * repeats, [[1.0]] * repeats)]
        spec = Spec(frames.specs[output].dtype, (repeats, *frames.shape(output)))
        pieces = frames.value(f"{output}.pieces", spec)
        resample = Node("Resample", node.name, (source,), (pieces,), {"ways": again}, domain=OURS, shapes=((1, *shape),))
        unfold, _ = frames.unfold(node, pieces, repeats, 0, 0, output)
        return [resample, unfold]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        y = x
        for axis, way in enumerate(self._ways(node, x.shape)):
            if way is not None:
                elements, weights = way
                matrix = np.zeros((len(elements), y.shape[axis]))
                np.add.at(matrix, (np.arange(len(elements))[:, None], elements), weights)
                y = (
                    np.moveaxis(np.tensordot(matrix, y, (1, axis)), 0, axis)
                    if elements.shape[1] > 1
                    else y.take(elements[:, 0], axis)
                )
        return (y.astype(x.dtype),)


@register
class Resize(_Resize):
    """ONNX Resize: nearest, linear and cubic, without antialias and cropping."""

    name = "Resize"
    parameters = {"roi": 1, "scales": 2, "sizes": 3}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if node.version < 11 and "scales" not in node.attributes:
            node.attributes["scales"] = node.attributes.pop("roi", None)
            node.attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@register
class Upsample(_Resize):
    """ONNX Upsample (to opset 9): Resize with the coordinates i / scale."""

    name = "Upsample"
    inputs = ("X", "scales?")
    parameters = {"scales": 1}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        node.attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
