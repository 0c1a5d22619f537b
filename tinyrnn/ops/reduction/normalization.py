"""Layer, group and instance normalisation and others: standardisation over axes of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Scratch, Value, Weight
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Frames, Refused, SizesDiffer, register, rewrite
from tinyrnn.lanes import at, f32, fma, get, kernel, lanes, load_part, splat, square_root, store_part
from tinyrnn.lanes.functions import exp, log
from tinyrnn.ops.reduction.softmax import Over, call, scratch_for_sums, square_sum_f32, sum_f32

# fmt: off


@kernel
def normalize_f32(y: Any, x: Any, scale: Any, bias: Any, mean_to: Any, inverse_to: Any, rows: int, n: int, run: int,
                  period: int, centred: int, shown: int, epsilon: float, floor: float, s: Any) -> None:
    """Over each row of n: (x - mean) inverse scale + bias with inverse = 1 / (sqrt(variance + epsilon) + floor).

    `run` elements in a row share one scale and bias, and those repeat after `period` rows. The mean is 0 unless
    `centred`; it and the inverse are kept where `shown`.
    """
    y = f32(y)
    x = f32(x)
    scale = f32(scale)
    bias = f32(bias)
    s = f32(s)
    for r in range(rows):
        xr = at(x, r * n)
        yr = at(y, r * n)
        mean = splat(0.0)
        if centred:
            mean = sum_f32(xr, n, s) / splat(n)
        variance = square_sum_f32(xr, n, mean, s) / splat(n)
        inverse = splat(1.0) / (square_root(variance + splat(epsilon)) + splat(floor))
        if shown:
            store_part(f32(mean_to), r, mean, 1)
            store_part(f32(inverse_to), r, inverse, 1)
        runs = n // run
        first = (r % period) * runs
        if run == 1:
            for i in range(0, n, lanes()):
                v = (load_part(xr, i, n - i) - mean) * inverse
                store_part(yr, i, fma(v, load_part(scale, first + i, n - i), load_part(bias, first + i, n - i)), n - i)
        else:
            for j in range(runs):
                a = splat(get(scale, first + j))
                b = splat(get(bias, first + j))
                for i in range(0, run, lanes()):
                    v = (load_part(xr, j * run + i, run - i) - mean) * inverse
                    store_part(yr, j * run + i, fma(v, a, b), run - i)


@kernel
def local_response_f32(y: Any, x: Any, rows: int, n: int, inner: int, before: int, after: int,
                       factor: float, beta: float, bias: float) -> None:
    """x / (bias + factor · sum of squares)**beta, the sum over `before` and `after` neighbours among n, `inner` apart."""
    y = f32(y)
    x = f32(x)
    for r in range(rows):
        xr = at(x, r * n * inner)
        yr = at(y, r * n * inner)
        for i in range(0, inner, lanes()):
            for k in range(n):
                total = splat(0.0)
                for j in range(max(0, k - before), min(n, k + after + 1)):
                    v = load_part(xr, j * inner + i, inner - i)
                    total = fma(v, v, total)
                divisor = exp(splat(beta) * log(fma(splat(factor), total, splat(bias))))
                store_part(yr, k * inner + i, load_part(xr, k * inner + i, inner - i) / divisor, inner - i)


# fmt: on


class Standardize(Over):
    """An operator that subtracts the mean, divides by the deviation, and may scale and shift."""

    inputs: ClassVar[tuple[str, ...]] = ("X",)
    outputs: ClassVar[tuple[str, ...]] = ("Y",)
    centred: ClassVar[bool] = True
    floor: ClassVar[float] = 0.0
    """number added to the standard deviation"""

    def epsilon(self, node: Node) -> float:
        """The number added to the variance."""
        return float(self.attribute(node, "epsilon"))

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if "stash_type" in self.attributes and self.attribute(node, "stash_type") != 1:
            raise Refused(f"stash_type={self.attribute(node, 'stash_type')}; supported is 1 (float32)")

    def affine(self, node: Node, frames: Frames, n: int) -> tuple[Array, Array, int]:
        """(scale, bias, run): scale and bias [period, runs], each entry for `run` contiguous elements."""
        return np.ones((1, 1)), np.zeros((1, 1)), n

    def frame(self, node: Node, frames: Frames) -> Node:
        framed = super().frame(node, frames)
        if framed.attributes["inner"] != 1:
            raise Refused("the axes that it normalises over are not the last of the frame")
        scale, bias, run = self.affine(node, frames, framed.attributes["n"])
        framed.attributes = {k: v for k, v in framed.attributes.items() if k not in self.parameters}
        framed.attributes |= {"affine": np.stack([scale, bias]).astype(np.float32), "run": run}
        return framed

    def standard(self, node: Node, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """((x - mean) / deviation, mean, 1 / deviation)."""
        mean = x.mean(axis=axes, keepdims=True)
        mean = mean if self.centred else np.zeros_like(mean)
        variance = np.square(x - mean).mean(axis=axes, keepdims=True)
        inverse = 1 / (np.sqrt(variance + self.epsilon(node)) + self.floor)
        return (x - mean) * inverse, mean, inverse

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        outer, n, _ = self.group(node, env)
        scale, bias = node.attributes["affine"]
        shown = any(node.outputs[1:])
        statistics = [
            Value(name) if name else Scratch(f"statistic{place}", per_row=outer) if shown else scratch_for_sums(env)
            for place, name in enumerate((*node.outputs, "", "")[1:3])
        ]
        return [
            Call(
                normalize_f32,
                (
                    Value(node.outputs[0]),
                    Value(node.inputs[0]),
                    Weight(scale),
                    Weight(bias),
                    *statistics,
                    Rows(times=outer),
                    n,
                    node.attributes["run"],
                    len(scale),
                    int(self.centred),
                    int(shown),
                    self.epsilon(node),
                    self.floor,
                    scratch_for_sums(env),
                ),
                f"{node.outputs[0]} = {node.op}",
            )
        ]


@register
class LayerNormalization(Standardize):
    """ONNX LayerNormalization: over all axes from `axis` on; Scale and B may differ along the others."""

    name = "LayerNormalization"
    inputs: ClassVar[tuple[str, ...]] = ("X", "Scale", "B?")
    outputs: ClassVar[tuple[str, ...]] = ("Y", "Mean?", "InvStdDev?")
    attributes: ClassVar[dict[str, Any]] = {"axis": -1, "epsilon": 1e-5, "stash_type": 1, "Scale": None, "B": None}
    parameters: ClassVar[dict[str, int]] = {"Scale": 1, "B": 2}

    def over(self, node: Node, rank: int) -> list[int]:
        axis = int(self.attribute(node, "axis"))
        if not -rank <= axis < rank:
            raise Refused(f"axis={axis} of an input of rank {rank}")
        return list(range(axis % rank, rank))

    def by(self, node: Node) -> tuple[tuple[str, Array], ...]:
        """The scale and bias arrays with their names."""
        scale, bias = (node.attributes.get(name) for name in ("Scale", "B"))
        return ("Scale", np.ones(1) if scale is None else scale), ("B", np.zeros(1) if bias is None else bias)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x = specs[0]
        assert x is not None
        over = self.over(node, len(x.shape))
        for name, value in self.by(node):
            pairs = [(n, size) for n, size in zip(x.sizes[::-1], value.shape[::-1], strict=False) if size not in (1, n)]
            if pairs or value.ndim > len(x.shape):
                raise SizesDiffer(f"its {name} {list(value.shape)} does not fit {x}", pairs)
        one = Spec(x.dtype, tuple(1 if a in over else n for a, n in enumerate(x.sizes)))
        return [x, one, one][: len(self.outputs)]

    def affine(self, node: Node, frames: Frames, n: int) -> tuple[Array, Array, int]:
        source = node.inputs[0]
        sizes, kept = frames.specs[source].sizes, frames.kept(source)
        over = self.over(node, len(sizes))
        given = []
        for name, value in self.by(node):
            value = value.reshape((1,) * (len(sizes) - value.ndim) + value.shape)
            for axis in frames.rows(source):
                first = np.take(value, [0], axis)
                if not np.array_equal(value, np.broadcast_to(first, value.shape)):
                    raise Refused(f"its {name} differs along the {frames.role(source, axis)} axis")
                value = first
            given.append(value.reshape([value.shape[a] for a in kept]))
        same = all(size == 1 for value in given for a, size in zip(kept, value.shape, strict=True) if a not in over)
        shape = [1 if same and a not in over else sizes[a] for a in kept]
        scale, bias = (np.broadcast_to(value, shape).reshape(-1, n) for value in given)
        return scale, bias, 1

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        y, mean, inverse = self.standard(node, x, tuple(self.over(node, x.ndim)))
        (_, scale), (_, bias) = self.by(node)
        return tuple(np.asarray(a, x.dtype) for a in (y * scale + bias, mean, inverse))[: len(self.outputs)]


@register
class RMSNormalization(LayerNormalization):
    """ONNX RMSNormalization: as LayerNormalization, but neither centred nor shifted."""

    name = "RMSNormalization"
    inputs = ("X", "scale")
    outputs = ("Y",)
    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1, "scale": None}
    parameters = {"scale": 1}
    centred = False

    def by(self, node: Node) -> tuple[tuple[str, Array], ...]:
        return ("scale", self.attribute(node, "scale")), ("bias", np.zeros(1))


@register
class GroupNormalization(Standardize):
    """ONNX GroupNormalization: over each of `num_groups` groups of channels, with all that follows the channel axis.

    Up to opset 20 one scale and bias per group, since then one per channel.
    """

    name = "GroupNormalization"
    inputs: ClassVar[tuple[str, ...]] = ("X", "scale", "bias")
    attributes: ClassVar[dict[str, Any]] = {
        "epsilon": 1e-5,
        "num_groups": REQUIRED,
        "stash_type": 1,
        "scale": None,
        "bias": None,
    }
    parameters: ClassVar[dict[str, int]] = {"scale": 1, "bias": 2}

    def over(self, node: Node, rank: int) -> list[int]:
        return list(range(1, rank))

    def groups(self, node: Node, channels: int) -> int:
        """The number of groups."""
        return int(self.attribute(node, "num_groups"))

    def by(self, node: Node, channels: int) -> tuple[Array, Array]:
        """Scale and bias of each channel."""
        scale, bias = (np.ravel(self.attribute(node, name)) for name in self.parameters)
        times = 1 if scale.size == channels else channels // scale.size
        return np.repeat(scale, times), np.repeat(bias, times)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x = specs[0]
        assert x is not None
        if len(x.shape) < 2:
            raise Refused(f"its input {x} has no channels")
        channels = x.sizes[1]
        groups = self.groups(node, channels)
        wanted = channels if node.version >= 21 else groups
        if groups < 1 or channels % groups:
            raise Refused(f"num_groups={groups} does not divide {channels} channels")
        for name in self.parameters:
            value = self.attribute(node, name)
            if value.shape != (wanted,):
                raise Refused(f"its {name} is {list(value.shape)}; opset {node.version} says [{wanted}]")
        return [x]

    def affine(self, node: Node, frames: Frames, n: int) -> tuple[Array, Array, int]:
        sizes = frames.specs[node.inputs[0]].sizes
        groups = self.groups(node, sizes[1])
        scale, bias = self.by(node, sizes[1])
        return scale.reshape(groups, -1), bias.reshape(groups, -1), prod(sizes[2:])

    def frame(self, node: Node, frames: Frames) -> Node:
        framed = super().frame(node, frames)
        framed.attributes["n"] //= self.groups(node, frames.specs[node.inputs[0]].sizes[1])
        return framed

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        shape = (x.shape[0], self.groups(node, x.shape[1]), -1)
        y = self.standard(node, x.reshape(shape), (2,))[0].reshape(x.shape)
        scale, bias = (a.reshape(-1, *[1] * (x.ndim - 2)) for a in self.by(node, x.shape[1]))
        return (np.asarray(y * scale + bias, x.dtype),)


@register
class InstanceNormalization(GroupNormalization):
    """ONNX InstanceNormalization: over all that follows the channel axis."""

    name = "InstanceNormalization"
    inputs = ("input", "scale", "B")
    outputs = ("output",)
    attributes = {"epsilon": 1e-5, "scale": None, "B": None}
    parameters = {"scale": 1, "B": 2}

    def over(self, node: Node, rank: int) -> list[int]:
        return list(range(2, rank))

    def groups(self, node: Node, channels: int) -> int:
        return channels

    def frame(self, node: Node, frames: Frames) -> Node:
        return Standardize.frame(self, node, frames)


@register
class MeanVarianceNormalization(Standardize):
    """ONNX MeanVarianceNormalization: (X - mean) / (deviation + 1e-9) over `axes`."""

    name = "MeanVarianceNormalization"
    attributes: ClassVar[dict[str, Any]] = {"axes": (0, 2, 3)}
    floor = 1e-9

    def epsilon(self, node: Node) -> float:
        return 0.0

    def over(self, node: Node, rank: int) -> list[int]:
        return sorted({int(a) % rank for a in self.attribute(node, "axes")})

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        return (np.asarray(self.standard(node, x, tuple(self.over(node, x.ndim)))[0], x.dtype),)


@register
class LRN(Over):
    """ONNX LRN: x / (bias + alpha / size · sum of x² over `size` neighbouring channels)**beta."""

    name = "LRN"
    inputs = ("X",)
    outputs = ("Y",)
    attributes: ClassVar[dict[str, Any]] = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, "size": REQUIRED}

    def over(self, node: Node, rank: int) -> list[int]:
        return [1]

    def _neighbours(self, node: Node) -> tuple[int, int]:
        """How many channels before and after take part."""
        size = int(self.attribute(node, "size"))
        return (size - 1) // 2, ceil((size - 1) / 2)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        before, after = self._neighbours(node)
        square = np.stack([np.square(x[:, max(0, c - before) : c + after + 1]).sum(axis=1) for c in range(x.shape[1])], 1)
        alpha, beta, bias = (self.attribute(node, name) for name in ("alpha", "beta", "bias"))
        return (np.asarray(x / (bias + alpha / self.attribute(node, "size") * square) ** beta, x.dtype),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        outer, n, inner = self.group(node, env)
        alpha, beta, bias = (float(self.attribute(node, name)) for name in ("alpha", "beta", "bias"))
        factor = alpha / self.attribute(node, "size")
        return call(node, local_response_f32, outer, n, inner, *self._neighbours(node), factor, beta, bias)


@rewrite
def axes_last(graph: Graph) -> None:
    """Rewrite MeanVarianceNormalization over axes that are not the last: the same between two transpositions."""
    op = MeanVarianceNormalization()
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        if node.domain or node.op != op.name:
            continue
        spec = graph.specs[node.inputs[0]]
        rank = len(spec.shape)
        over = [a for a in op.over(node, rank) if spec.shape[a] != 1]
        others = [a for a in range(rank) if a not in over]
        perm = [*others, *over]
        if [a for a in perm if spec.shape[a] != 1] == [a for a in range(rank) if spec.shape[a] != 1]:
            continue
        nodes[-1:] = between_transpositions(graph, node, perm, {"axes": tuple(range(len(others), rank))})
    graph.nodes = nodes


def between_transpositions(graph: Graph, node: Node, perm: list[int], attributes: dict[str, Any]) -> list[Node]:
    """Nodes equivalent to `node`, whose input and output have one shape, that compute with the axes in the order `perm`."""
    source, output = node.inputs[0], node.outputs[0]
    before = graph.fresh(f"{output}.moved")
    graph.specs[before] = Spec(graph.specs[source].dtype, tuple(graph.specs[source].shape[a] for a in perm))
    after = graph.fresh(f"{output}.normal")
    graph.specs[after] = graph.specs[before]
    back = [perm.index(a) for a in range(len(perm))]
    return [
        Node("Transpose", f"{node.name}.to_last", (source,), (before,), {"perm": perm}, node.version),
        Node(node.op, node.name, (before,), (after,), attributes, node.version, node.domain),
        Node("Transpose", f"{node.name}.back", (after,), (output,), {"perm": back}, node.version),
    ]
