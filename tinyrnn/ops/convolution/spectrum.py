"""DFT and STFT as products by constant matrices, and window functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Value
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Axis, Frames, Op, Refused, register, rewrite
from tinyrnn.lanes import kernel
from tinyrnn.ops.elementwise.cast import ONNX_DTYPES
from tinyrnn.ops.linear.operators import linear, linear_1, linear_16, linear_32, linear_weights

LARGEST_MATRIX = 1 << 24
"""most coefficients of one transform: 64 MB"""


def bins_of(length: int, onesided: bool) -> int:
    """The number of frequency bins."""
    return length // 2 + 1 if onesided else length


def fourier(taken: int, parts: int, length: int, onesided: bool, inverse: bool) -> Array:
    """The matrix [taken · parts, made · (re, im)] of a transform of `length` points, of which the first `taken` are given.

    Each point has `parts` parts: real, or real and imaginary. A one-sided inverse makes real numbers from the
    lower half of the frequencies, and does not read imaginary parts that must be zero. In float64.
    """
    real_made = inverse and onesided
    made = length if real_made else bins_of(length, onesided)
    given = np.arange(taken)
    turns = np.outer(given, np.arange(made)) % length / length
    angle = (2 if inverse else -2) * np.pi * turns
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.empty((taken, parts, made, 1 if real_made else 2))
    matrix[:, 0, :, 0] = cos
    if parts == 2:
        matrix[:, 1, :, 0] = -sin
    if not real_made:
        matrix[:, 0, :, 1] = sin
        if parts == 2:
            matrix[:, 1, :, 1] = cos
    if real_made:
        twice = (given > 0) & (2 * given < length)
        matrix[twice] *= 2
    if inverse:
        matrix /= length
    return matrix.reshape(taken * parts, -1)


def _check_matrix(taken: int, made: int) -> None:
    if taken * made > LARGEST_MATRIX:
        raise Refused(f"its transform is a product by [{taken}, {made}]; supported are up to {LARGEST_MATRIX} coefficients")


def _float32(node: Node, env: Lowering) -> None:
    for name in (node.inputs[0], node.outputs[0]):
        if env.specs[name].dtype != np.float32:
            raise Refused(f"{name!r} is {env.specs[name].dtype}; transforms take float32")


def _complex(x: Array) -> Array:
    """[..., 1 or 2] → complex [...]."""
    return x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]


def _parts(y: Array) -> Array:
    """complex [...] → [..., 2]."""
    return np.stack([y.real, y.imag], axis=-1)


@register
class DFT(Op):
    """ONNX DFT, forward and inverse, of one or both sides."""

    name = "DFT"
    inputs = ("input", "dft_length?", "axis?")
    outputs = ("output",)
    attributes: ClassVar[dict[str, Any]] = {"axis": None, "inverse": 0, "onesided": 0, "dft_length": None}
    parameters: ClassVar[dict[str, int]] = {"dft_length": 1, "axis": 2}

    def _axis(self, node: Node, rank: int) -> int:
        given = self.attribute(node, "axis")
        axis = int((1 if node.version < 20 else -2) if given is None else np.ravel(given)[0])
        if not -rank <= axis < rank or axis % rank == rank - 1:
            raise Refused(f"axis={axis} of an input of rank {rank}, whose last axis holds real and imaginary parts")
        return axis % rank

    def _flags(self, node: Node) -> tuple[bool, bool]:
        """(onesided, inverse)."""
        return bool(self.attribute(node, "onesided")), bool(self.attribute(node, "inverse"))

    def _sizes(self, node: Node, points: int) -> tuple[int, int]:
        """(length of the transform, number of points that are used)."""
        onesided, inverse = self._flags(node)
        given = self.attribute(node, "dft_length")
        half = onesided and inverse
        length = int(np.ravel(given)[0]) if given is not None else 2 * (points - 1) if half else points
        if length < 1:
            raise Refused(f"dft_length={length}")
        return length, min(points, bins_of(length, half))

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x = specs[0]
        assert x is not None
        axis = self._axis(node, len(x.shape))
        if x.sizes[-1] not in (1, 2):
            raise Refused(f"its input {x} ends in {x.sizes[-1]} parts; supported are 1 (real) and 2 (real and imaginary)")
        onesided, inverse = self._flags(node)
        length, _ = self._sizes(node, x.sizes[axis])
        made = length if inverse else bins_of(length, onesided)
        parts = 1 if inverse and onesided else 2
        return [Spec(x.dtype, (*x.sizes[:axis], made, *x.sizes[axis + 1 : -1], parts))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        rank = len(specs[node.inputs[0]].shape)
        for axis in sorted(set(range(rank - 1)) - {self._axis(node, rank)}):
            yield (node.inputs[0], axis), (node.outputs[0], axis)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        sizes = frames.specs[source].sizes
        axis, parts = self._axis(node, len(sizes)), sizes[-1]
        role = frames.role(source, axis)
        if role and sizes[axis] != 1:
            raise Refused(f"it transforms the {role} axis; supported is an axis inside a frame")
        if any(sizes[a] != 1 for a in frames.kept(source) if a > axis and a != len(sizes) - 1):
            raise Refused("it transforms an axis that is not the last of the frame")
        length, taken = self._sizes(node, sizes[axis])
        onesided, inverse = self._flags(node)
        made = prod(self.infer(node, [frames.specs[source]])[0].sizes[a] for a in (axis, -1))
        _check_matrix(taken * parts, made)
        matrix = fourier(taken, parts, length, onesided, inverse)
        return frames.node(node, {"matrix": matrix, "step": sizes[axis] * parts})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axis = self._axis(node, x.ndim)
        length, _ = self._sizes(node, x.shape[axis])
        onesided, inverse = self._flags(node)
        signal = _complex(x)
        if onesided and inverse:
            return (np.fft.irfft(signal, length, axis)[..., None].astype(x.dtype),)
        made = (np.fft.ifft if inverse else np.fft.fft)(signal, length, axis)
        return (_parts(np.take(made, np.arange(bins_of(length, onesided)), axis)).astype(x.dtype),)

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        return prod(node.shapes[0]) // int(node.attributes["step"]) * int(node.attributes["matrix"].size)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        _float32(node, env)
        matrix, step = node.attributes["matrix"], node.attributes["step"]
        rows = Rows(times=env.specs[node.inputs[0]].elements // step)
        operands = (Value(node.outputs[0]), Value(node.inputs[0]), *linear_weights(env, matrix, "f32"), rows, step)
        return [Call(linear(env), (*operands, *matrix.shape), f"{node.outputs[0]} = DFT {list(matrix.shape)}")]


@rewrite
def signal_axis_last(graph: Graph) -> None:
    """Rewrite DFT over an axis other than the last: the same between two transpositions."""
    op = DFT()
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        if node.domain or node.op != op.name:
            continue
        source, output = node.inputs[0], node.outputs[0]
        rank = len(graph.specs[source].shape)
        axis = op._axis(node, rank)
        if all(size == 1 for size in graph.specs[source].shape[axis + 1 : -1]):
            continue
        perm = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
        back = [perm.index(a) for a in range(rank)]
        moved, made = graph.fresh(f"{output}.moved"), graph.fresh(f"{output}.spectrum")
        graph.specs[moved] = Spec(graph.specs[source].dtype, tuple(graph.specs[source].shape[a] for a in perm))
        graph.specs[made] = Spec(graph.specs[output].dtype, tuple(graph.specs[output].shape[a] for a in perm))
        nodes[-1:] = [
            Node("Transpose", f"{node.name}.to_last", (source,), (moved,), {"perm": perm}, node.version),
            Node(op.name, node.name, (moved,), (made,), {**node.attributes, "axis": rank - 2}, node.version),
            Node("Transpose", f"{node.name}.back", (made,), (output,), {"perm": back}, node.version),
        ]
    graph.nodes = nodes


def _overlapping(product: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The kernel below, over one of the products."""

    def overlapping(y: Any, x: Any, w: Any, b: Any, rows: int, x_row: int, count: int, step: int, K: int, M: int) -> None:
        """`count` rows of K elements, `step` apart, of each row of x, each multiplied by w."""
        for r in range(rows):
            product(y + 4 * r * count * M, x + 4 * r * x_row, w, b, count, step, K, M)

    overlapping.__name__ = overlapping.__qualname__ = name
    return kernel(overlapping)


OVERLAPPING = {
    product: _overlapping(product, f"overlapping_{number}")
    for number, product in ((32, linear_32), (16, linear_16), (1, linear_1))
}
"""the kernel over each product"""
globals().update({function.__name__: function for function in OVERLAPPING.values()})


@register
class STFT(Op):
    """ONNX STFT: the transform of windows `frame_step` apart."""

    name = "STFT"
    inputs = ("signal", "frame_step", "window?", "frame_length?")
    outputs = ("output",)
    attributes: ClassVar[dict[str, Any]] = {"onesided": 1, "frame_step": REQUIRED, "window": None, "frame_length": None}
    parameters: ClassVar[dict[str, int]] = {"frame_step": 1, "window": 2, "frame_length": 3}

    def _sizes(self, node: Node, samples: int) -> tuple[int, int, int]:
        """(frames, step, length of a frame)."""
        step = int(np.ravel(self.attribute(node, "frame_step"))[0])
        window, given = self.attribute(node, "window"), self.attribute(node, "frame_length")
        length = int(np.ravel(given)[0]) if given is not None else samples if window is None else window.size
        if window is not None and window.shape != (length,):
            raise Refused(f"its window is {list(window.shape)}; with frame_length={length} it would be [{length}]")
        if step < 1 or not 1 <= length <= samples:
            raise Refused(f"frame_step={step}, frame_length={length} over {samples} samples")
        return (samples - length) // step + 1, step, length

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x = specs[0]
        assert x is not None
        if len(x.shape) != 2 and (len(x.shape) != 3 or x.sizes[2] not in (1, 2)):
            raise Refused(f"its signal is {x}; supported are [batch, samples] and [batch, samples, 1 or 2]")
        count, _, length = self._sizes(node, x.sizes[1])
        return [Spec(x.dtype, (x.sizes[0], count, bins_of(length, bool(self.attribute(node, "onesided"))), 2))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield (node.inputs[0], 0), (node.outputs[0], 0)

    def frame(self, node: Node, frames: Frames) -> Node:
        source = node.inputs[0]
        _, samples, parts = (*frames.specs[source].sizes, 1)[:3]
        if frames.role(source, 1):
            raise Refused(
                f"its samples are the {frames.role(source, 1)} axis; supported are samples inside a frame: "
                f"take the spectra outside of the model, or fix the number of samples"
            )
        if frames.role(node.outputs[0], 1):
            raise Refused("the rest of the graph takes its windows as time steps, but they are not frames of an input")
        count, step, length = self._sizes(node, samples)
        onesided, window = bool(self.attribute(node, "onesided")), self.attribute(node, "window")
        _check_matrix(length * parts, 2 * bins_of(length, onesided))
        matrix = fourier(length, parts, length, onesided, inverse=False)
        if window is not None:
            matrix = matrix * np.repeat(np.asarray(window, np.float64), parts)[:, None]
        return frames.node(node, {"matrix": matrix, "count": count, "step": step * parts, "samples": samples * parts})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        count, step, length = self._sizes(node, x.shape[1])
        window = self.attribute(node, "window")
        pieces = _complex(x if x.ndim == 3 else x[..., None])[:, np.arange(count)[:, None] * step + np.arange(length)]
        made = np.fft.fft(pieces if window is None else pieces * window)
        return (_parts(made[..., : bins_of(length, bool(self.attribute(node, "onesided")))]).astype(x.dtype),)

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        times = prod(node.shapes[0]) // int(node.attributes["samples"]) * int(node.attributes["count"])
        return times * int(node.attributes["matrix"].size)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        _float32(node, env)
        matrix, samples = node.attributes["matrix"], node.attributes["samples"]
        rows = Rows(times=env.specs[node.inputs[0]].elements // samples)
        operands = (Value(node.outputs[0]), Value(node.inputs[0]), *linear_weights(env, matrix, "f32"), rows, samples)
        sizes = (node.attributes["count"], node.attributes["step"], *matrix.shape)
        return [Call(OVERLAPPING[linear(env)], (*operands, *sizes), f"{node.outputs[0]} = STFT {list(matrix.shape)}")]


class _Known(Op):
    """An operator whose inputs must be known at load."""

    outputs = ("output",)
    known_only = True

    def dtype(self, node: Node) -> np.dtype[Any]:
        """The type of the output."""
        code = self.attribute(node, "output_datatype")
        if code not in ONNX_DTYPES:
            raise Refused(f"output_datatype={code}; supported are {', '.join(map(str, ONNX_DTYPES))}")
        return np.dtype(ONNX_DTYPES[code])

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        raise Refused("its inputs depend on the model's input; supported are numbers known at load")


class _Window(_Known):
    """A sum of cosines over `size` points."""

    inputs = ("size",)
    attributes: ClassVar[dict[str, Any]] = {"output_datatype": 1, "periodic": 1}
    cosines: ClassVar[tuple[float, ...]]
    """coefficients of cos(k · 2 pi · i / size) for k = 0, 1, 2 …"""

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        assert arrays[0] is not None
        size = int(arrays[0].ravel()[0])
        turn = 2 * np.pi * np.arange(size) / max(size if self.attribute(node, "periodic") else size - 1, 1)
        return (np.asarray(sum(c * np.cos(k * turn) for k, c in enumerate(self.cosines))).astype(self.dtype(node)),)


@register
class HannWindow(_Window):
    """ONNX HannWindow."""

    name = "HannWindow"
    cosines = (0.5, -0.5)


@register
class HammingWindow(_Window):
    """ONNX HammingWindow."""

    name = "HammingWindow"
    cosines = (25 / 46, -21 / 46)


@register
class BlackmanWindow(_Window):
    """ONNX BlackmanWindow."""

    name = "BlackmanWindow"
    cosines = (0.42, -0.5, 0.08)


@register
class MelWeightMatrix(_Known):
    """ONNX MelWeightMatrix: triangles [dft_length // 2 + 1, num_mel_bins], evenly spaced in mel."""

    name = "MelWeightMatrix"
    inputs = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")
    attributes: ClassVar[dict[str, Any]] = {"output_datatype": 1}

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        mels, length, rate, lower, upper = (np.ravel(a)[0] if a is not None else None for a in arrays)
        assert mels is not None and length is not None and rate is not None and lower is not None and upper is not None
        low, high = (2595 * np.log10(1 + float(edge) / 700) for edge in (lower, upper))
        hertz = 700 * (10 ** ((low + np.arange(int(mels) + 2) * (high - low) / (int(mels) + 2)) / 2595) - 1)
        edges = ((int(length) + 1) * hertz // float(rate)).astype(int)
        spectrum = np.arange(int(length) // 2 + 1)
        matrix = np.zeros((spectrum.size, int(mels)))
        for column, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
            rising, falling = (left <= spectrum) & (spectrum <= centre), (centre <= spectrum) & (spectrum < right)
            matrix[rising, column] = (spectrum[rising] - left) / (centre - left) if centre > left else 1.0
            if right > centre:
                matrix[falling, column] = (right - spectrum[falling]) / (right - centre)
        return (matrix.astype(self.dtype(node)),)
