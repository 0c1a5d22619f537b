"""ONNX Conv and ConvTranspose: over frames a `Convolution`, or a `Linear` where there is one position.

Over time a convolution is a window of rows and a convolution inside the frame that the window makes; a
transposed one makes several rows at once, which are unfolded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import OURS, Array, Axis, Frames, Op, Refused, register
from tinyrnn.ops.convolution.window_offsets import AxisWindow


@dataclass(frozen=True)
class Sliding:
    """A convolution kernel along one axis: number of taps, stride, dilation, padding before and after."""

    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """The number of elements from the first tap to the last, both included."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def trivial(self) -> bool:
        """Whether each output element depends on one input element at the same place."""
        return (self.taps, self.stride, self.before, self.after) == (1, 1, 0, 0)


def numbers(op: Op, node: Node, name: str, count: int, default: int) -> list[int]:
    """An attribute with one number per axis. Raises `Refused` for another count."""
    given = op.attribute(node, name)
    values = [default] * count if given is None else [int(v) for v in np.ravel(given)]
    if len(values) != count:
        raise Refused(f"{name}={values}; supported are {count} numbers for {count} axes")
    return values


AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def auto_pad(op: Op, node: Node) -> str:
    value = op.attribute(node, "auto_pad")
    text: str = value.decode() if isinstance(value, bytes) else value
    text = text or "NOTSET"
    if text not in AUTO_PADS:
        raise Refused(f"auto_pad={text!r}; supported are {', '.join(AUTO_PADS)}")
    return text


def slidings(op: Op, node: Node, kernel: Sequence[int], sizes: Sequence[int]) -> list[Sliding]:
    """The kernel along each axis of a convolution or a pool, with explicit padding."""
    n = len(kernel)
    strides, dilations = numbers(op, node, "strides", n, 1), numbers(op, node, "dilations", n, 1)
    pads, auto = numbers(op, node, "pads", 2 * n, 0), auto_pad(op, node)
    if min([*strides, *dilations, *kernel, 1]) < 1:
        raise Refused(f"strides={strides}, dilations={dilations}, kernel {list(kernel)}; supported are numbers from 1 up")
    if min([*pads, 0]) < 0:
        raise Refused(f"pads={pads}; supported are numbers from 0 up")
    found = []
    for axis in range(n):
        before, after = (pads[axis], pads[axis + n]) if auto == "NOTSET" else (0, 0)
        if auto.startswith("SAME"):
            s, reach = strides[axis], dilations[axis] * (kernel[axis] - 1) + 1
            total = max((-(-sizes[axis] // s) - 1) * s + reach - sizes[axis], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after = total - before
        found.append(Sliding(kernel[axis], strides[axis], dilations[axis], before, after))
    return found


def refuse_same_over_time(op: Op, node: Node, sliding: Sliding) -> None:
    if sliding.stride > 1 and auto_pad(op, node).startswith("SAME"):
        raise Refused(
            f"auto_pad={auto_pad(op, node)!r} with stride {sliding.stride} along the time axis pads by the length; "
            f"supported are pads that are given"
        )


def weights_of(node: Node, frames: Frames) -> tuple[Array, Array | None]:
    """The constant weights and bias of a convolution."""
    found = [frames.constants.get(name) if name else None for name in node.inputs[1:]]
    if found[0] is None or (len(node.inputs) > 2 and node.inputs[2] and found[1] is None):
        raise Refused("its weights depend on the input; supported are constant weights")
    for array in found:
        if array is not None and array.dtype != np.float32:
            raise Refused(f"its weights are {array.dtype}; supported are float32 weights")
    return found[0], found[1] if len(found) > 1 else None


@dataclass
class Framed:
    """The parts of a convolution over frames: one entry per axis of the frame."""

    shape: list[int]
    windows: list[AxisWindow]
    spread: list[tuple[int, int, int]]
    channel: int


def over_frames(
    node: Node, frames: Frames, source: str, framed: Framed, weights: Array, bias: Array | None, repeats: int
) -> Node:
    """The node for weights [groups, repeats * phases * channels, *taps]: a matrix product where there is one position."""
    lead = frames.specs[node.inputs[0]].sizes[0] if frames.role(node.inputs[0], 0) is None else 1
    groups, m = weights.shape[:2]
    channel = framed.channel
    if groups == 1 and prod(s.count for s in framed.windows) == 1:
        inside = [
            s.inside(n) if a != channel else list(range(n))
            for a, (s, n) in enumerate(zip(framed.windows, framed.shape, strict=True))
        ]
        elements = [[s.taps[k] for k in ks] for s, ks in zip(framed.windows, inside, strict=True)]
        if all(sorted(e) == list(range(n)) for e, n in zip(elements, framed.shape, strict=True)):
            matrix = weights[0]
            for axis, (ks, at) in enumerate(zip(inside, elements, strict=True)):
                matrix = np.take(matrix, [k for _, k in sorted(zip(at, ks, strict=True))], axis=axis + 1)
            columns = _columns(framed, m, repeats)
            flat = np.ascontiguousarray(matrix.reshape(m, -1)[columns].T)
            start = None if bias is None else np.ascontiguousarray(bias.reshape(-1)[columns])
            shape = (lead, len(flat)) if lead > 1 else (len(flat),)
            return Node("Linear", node.name, (source,), node.outputs, {"W": flat, "B": start}, domain=OURS, shapes=(shape,))
    attributes = {
        "W": weights,
        "B": bias,
        "channel": channel,
        "windows": tuple(framed.windows),
        "spread": tuple(framed.spread),
        "repeats": repeats,
        "lead": lead,
    }
    return Node("Convolution", node.name, (source,), node.outputs, attributes, domain=OURS, shapes=(tuple(framed.shape),))


def _columns(framed: Framed, m: int, repeats: int) -> Array:
    """The indices of the sums [repeats, phases, channels] of one position in the output's order [repeats, channels, *spread]."""
    phase = np.zeros((), int)
    for phases, first, size in framed.spread:
        phase = phase[..., None] * phases + (first + np.arange(size)) % phases
    channels = m // repeats // prod(phases for phases, _, _ in framed.spread)
    places = phase.ravel()[None, None, :] * channels + np.arange(channels)[None, :, None]
    return np.asarray((places + (np.arange(repeats) * (m // repeats))[:, None, None]).ravel())


class _Convolution(Op):
    inputs = ("X", "W", "B?")

    def _slidings(self, node: Node, x: Sequence[int], w: Sequence[int]) -> list[Sliding]:
        kernel = list(w[2:])
        if len(x) != len(w) or len(x) < 3:
            raise Refused(f"an input of {len(x)} axes and weights {list(w)}; supported are as many axes, three or more")
        if numbers(self, node, "kernel_shape", len(kernel), 0) != kernel and self.attribute(node, "kernel_shape") is not None:
            raise Refused(f"kernel_shape={list(self.attribute(node, 'kernel_shape'))} and weights {list(w)} do not fit")
        return slidings(self, node, kernel, x[2:])

    def _channels(self, node: Node, frames: Frames) -> None:
        source = node.inputs[0]
        if frames.role(source, 1) is not None:
            raise Refused("it sums over the time or batch axis")

    def _trivial(self, node: Node, specs: dict[str, Spec]) -> list[bool]:
        """For each spatial axis, whether rows along it are computed independently."""
        raise NotImplementedError

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield (node.inputs[0], 0), (node.outputs[0], 0)
        for axis, trivial in enumerate(self._trivial(node, specs)):
            if trivial:
                yield (node.inputs[0], axis + 2), (node.outputs[0], axis + 2)

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis, trivial in enumerate(self._trivial(node, specs)):
            if not trivial:
                yield (node.inputs[0], axis + 2), (node.outputs[0], axis + 2)

    def _time_axis(self, node: Node, frames: Frames, trivial: Sequence[bool]) -> int | None:
        """The spatial axis that is time, unless rows along it are computed independently; else None."""
        found = None
        for axis, passes in enumerate(trivial):
            role = frames.role(node.inputs[0], axis + 2)
            if role is not None and not passes:
                if role != "time":
                    raise Refused(f"it slides along axis {axis + 2}, which is {role}; supported is time")
                found = axis
        if found is not None and frames.role(node.inputs[0], 0) is None and frames.specs[node.inputs[0]].shape[0] != 1:
            raise Refused(
                f"it slides along time, {frames.specs[node.inputs[0]].shape[0]} inputs at once; supported is a batch axis"
            )
        return found


@register
class Conv(_Convolution):
    """ONNX Conv with constant weights W [M, C / group, *kernel] and bias B [M], in any number of dimensions."""

    name = "Conv"
    attributes = {"auto_pad": "NOTSET", "dilations": None, "group": 1, "kernel_shape": None, "pads": None, "strides": None}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x, w = specs[0], specs[1]
        assert x is not None and w is not None
        found = self._slidings(node, x.sizes, w.sizes)
        group = self.attribute(node, "group")
        if group < 1 or w.sizes[1] * group != x.sizes[1] or w.sizes[0] % group:
            raise Refused(f"weights {list(w.sizes)} in {group} groups do not fit an input {x}")
        sizes = [(n + s.before + s.after - s.reach) // s.stride + 1 for n, s in zip(x.sizes[2:], found, strict=True)]
        if min(sizes) < 1:
            raise Refused(f"its kernel {list(w.sizes[2:])} does not fit an input {x}")
        return [Spec(x.dtype, (x.sizes[0], w.sizes[0], *sizes))]

    def _trivial(self, node: Node, specs: dict[str, Spec]) -> list[bool]:
        return [s.trivial for s in self._slidings(node, specs[node.inputs[0]].sizes, specs[node.inputs[1]].sizes)]

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source = node.inputs[0]
        self._channels(node, frames)
        weights, bias = weights_of(node, frames)
        group, sizes = self.attribute(node, "group"), frames.specs[source].sizes
        found = self._slidings(node, sizes, weights.shape)
        time = self._time_axis(node, frames, [s.trivial for s in found])
        m, inner = weights.shape[0] // group, weights.shape[1]
        shape, windows, spread = [sizes[1]], [AxisWindow(tuple(range(inner)))], [(1, 0, 1)]
        order = []
        for axis, sliding in enumerate(found):
            if frames.role(source, axis + 2) is not None:
                continue
            count = (sizes[axis + 2] + sliding.before + sliding.after - sliding.reach) // sliding.stride + 1
            order.append(axis)
            shape.append(sizes[axis + 2])
            taps = tuple(k * sliding.dilation - sliding.before for k in range(sliding.taps))
            windows.append(AxisWindow(taps, count, sliding.stride))
            spread.append((1, 0, count))
        nodes: list[Node] = []
        lead = []
        if time is not None:
            sliding = found[time]
            refuse_same_over_time(self, node, sliding)
            offsets = [k * sliding.dilation - sliding.before for k in range(sliding.taps)]
            extra = sliding.before + sliding.after - sliding.reach
            window, source = frames.window(node, source, offsets, sliding.stride, extra)
            nodes.append(window)
            if sliding.taps > 1:
                lead = [time]
                shape, windows = [sliding.taps, *shape], [AxisWindow(tuple(range(sliding.taps))), *windows]
                spread = [(1, 0, 1), *spread]
        keep = [2 + a for a in lead] + [1] + [2 + a for a in order]
        dropped = [a for a in range(2, weights.ndim) if a not in keep]
        moved = weights.transpose(0, *keep, *dropped).reshape(group, m, *(weights.shape[a] for a in keep))
        start = None if bias is None else bias.reshape(group, m)
        framed = Framed(shape, windows, spread, len(lead))
        return [*nodes, over_frames(node, frames, source, framed, moved, start, 1)]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, w = arrays[0], arrays[1]
        assert x is not None and w is not None
        found = self._slidings(node, x.shape, w.shape)
        group = self.attribute(node, "group")
        padded = np.pad(x, [(0, 0), (0, 0), *((s.before, s.after) for s in found)])
        counts = [(n - s.reach) // s.stride + 1 for n, s in zip(padded.shape[2:], found, strict=True)]
        y = np.zeros((x.shape[0], group, w.shape[0] // group, *counts), x.dtype)
        parts = padded.reshape(x.shape[0], group, w.shape[1], *padded.shape[2:])
        kernels = w.reshape(group, -1, *w.shape[1:])
        for taps in np.ndindex(*w.shape[2:]):
            cut: list[Any] = [
                slice(k * s.dilation, k * s.dilation + (n - 1) * s.stride + 1, s.stride)
                for k, s, n in zip(taps, found, counts, strict=True)
            ]
            y += np.einsum("ngc...,gmc->ngm...", parts[(..., *cut)], kernels[(..., *taps)])
        y = y.reshape(x.shape[0], w.shape[0], *counts)
        if len(arrays) > 2 and arrays[2] is not None:
            y = y + arrays[2].reshape(1, -1, *[1] * len(counts))
        return (y,)


@register
class ConvTranspose(_Convolution):
    """ONNX ConvTranspose with constant weights W [C, M / group, *kernel] and bias B [M], in any number of dimensions.

    Output element o gets, of every input element i and tap k with i * stride + k * dilation = o + before, the product. With
    o + before = Q * stride + r, phase r is a convolution of stride 1 at position Q: all phases run as one, with more channels.
    """

    name = "ConvTranspose"
    attributes = {
        "auto_pad": "NOTSET",
        "dilations": None,
        "group": 1,
        "kernel_shape": None,
        "output_padding": None,
        "output_shape": None,
        "pads": None,
        "strides": None,
    }

    def _ways(self, node: Node, x: Sequence[int], w: Sequence[int]) -> list[tuple[Sliding, int]]:
        """The kernel along each axis, and the size of the output."""
        plain = Node(node.op, node.name, node.inputs, node.outputs, {**node.attributes, "auto_pad": "NOTSET"})
        found, n = self._slidings(plain, x, w), len(x) - 2
        more, auto = numbers(self, node, "output_padding", n, 0), auto_pad(self, node)
        wanted = self.attribute(node, "output_shape")
        if min([*more, 0]) < 0:
            raise Refused(f"output_padding={more}; supported are numbers from 0 up")
        ways = []
        for axis, s in enumerate(found):
            if auto != "NOTSET":
                s = Sliding(s.taps, s.stride, s.dilation, 0, 0)
            full = (x[axis + 2] - 1) * s.stride + s.reach + more[axis]
            size = full - s.before - s.after
            if wanted is not None or auto.startswith("SAME"):
                size = x[axis + 2] * s.stride if wanted is None else int(wanted[len(wanted) - n + axis])
                total = max(full - size, 0)
                before = total // 2 if auto == "SAME_UPPER" else total - total // 2
                s = Sliding(s.taps, s.stride, s.dilation, before, total - before)
                size = size if wanted is not None else full - total
            ways.append((s, size))
        return ways

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x, w = specs[0], specs[1]
        assert x is not None and w is not None
        sizes = [size for _, size in self._ways(node, x.sizes, w.sizes)]
        group = self.attribute(node, "group")
        if group < 1 or w.sizes[0] != x.sizes[1] or w.sizes[0] % group:
            raise Refused(f"weights {list(w.sizes)} in {group} groups do not fit an input {x}")
        if min(sizes) < 1:
            raise Refused(f"its kernel {list(w.sizes[2:])} leaves nothing of an input {x}")
        return [Spec(x.dtype, (x.sizes[0], w.sizes[1] * group, *sizes))]

    def _trivial(self, node: Node, specs: dict[str, Spec]) -> list[bool]:
        sizes = specs[node.inputs[0]].sizes
        ways = self._ways(node, sizes, specs[node.inputs[1]].sizes)
        given = self.attribute(node, "output_shape") is None
        return [given and s.trivial and size == n for (s, size), n in zip(ways, sizes[2:], strict=True)]

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source, output = node.inputs[0], node.outputs[0]
        self._channels(node, frames)
        weights, bias = weights_of(node, frames)
        group, sizes = self.attribute(node, "group"), frames.specs[source].sizes
        ways = self._ways(node, sizes, weights.shape)
        time = self._time_axis(node, frames, self._trivial(node, frames.specs))
        inner, channels = weights.shape[0] // group, weights.shape[1]
        split = weights.reshape(group, inner, channels, *weights.shape[2:])
        shape, windows, spread = [sizes[1]], [AxisWindow(tuple(range(inner)))], [(1, 0, 1)]
        phases: list[int] = []
        taps: list[int] = []
        for axis, (s, size) in enumerate(ways):
            at = 3 + 2 * len(phases)
            if frames.role(source, axis + 2) is not None and axis != time:
                split = split.reshape(*split.shape[:at], *split.shape[at + 1 :])
                continue
            reach = [k * s.dilation for k in range(s.taps)]
            steps = (
                list(range(_rows(s, size - sizes[axis + 2] * s.stride)))
                if axis == time
                else sorted({r // s.stride for r in reach})
            )
            made = np.zeros((*split.shape[:at], s.stride, len(steps), *split.shape[at + 1 :]), weights.dtype)
            for k, r in enumerate(reach):
                made[(slice(None),) * at + (r % s.stride, steps.index(r // s.stride))] = split[(slice(None),) * at + (k,)]
            split = made
            phases.append(s.stride)
            taps.append(len(steps))
            if axis != time:
                first, last = s.before // s.stride, (s.before + size - 1) // s.stride
                shape.append(sizes[axis + 2])
                windows.append(AxisWindow(tuple(first - t for t in steps), last - first + 1))
                spread.append((s.stride, s.before - first * s.stride, size))
        axes = [a for a in range(len(ways)) if frames.role(source, a + 2) is None or a == time]
        lead = [axes.index(time)] if time is not None else []
        rest = [i for i in range(len(axes)) if i not in lead]
        moved = split.transpose(
            0,
            *(3 + 2 * i for i in lead),
            *(3 + 2 * i for i in rest),
            2,
            *(4 + 2 * i for i in lead),
            1,
            *(4 + 2 * i for i in rest),
        )
        repeats = prod(phases[i] for i in lead)
        m = prod(phases) * channels
        nodes: list[Node] = []
        if time is not None:
            s, size = ways[time]
            if self.attribute(node, "output_shape") is not None:
                raise Refused("output_shape along the time axis; supported are pads and output_padding")
            rows = taps[lead[0]]
            window, source = frames.window(node, source, [-t for t in range(rows)], 1, rows - 2)
            nodes.append(window)
            if rows > 1:
                shape, windows, spread = [rows, *shape], [AxisWindow(tuple(range(rows))), *windows], [(1, 0, 1), *spread]
        keep = [taps[i] for i in lead if taps[i] > 1] + [inner] + [taps[i] for i in rest]
        kernels = np.ascontiguousarray(moved).reshape(group, m, *keep)
        start = None if bias is None else np.tile(bias.reshape(group, 1, channels), (1, prod(phases), 1)).reshape(group, m)
        framed = Framed(shape, windows, spread, int(len(keep) > 1 + len(rest)))
        if time is None or ((repeats, ways[time][0].before) == (1, 0) and size == sizes[time + 2] + rows - 1):
            return [*nodes, over_frames(node, frames, source, framed, kernels, start, repeats)]
        pieces = frames.value(f"{output}.pieces", Spec(frames.specs[output].dtype, (repeats, *frames.shape(output))))
        inside = over_frames(node, frames, source, framed, kernels, start, repeats)
        inside.outputs = (pieces,)
        extra = size - (sizes[time + 2] + rows - 1) * s.stride
        unfold, _ = frames.unfold(node, pieces, s.stride, s.before, extra, output)
        return [*nodes, inside, unfold]

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x, w = arrays[0], arrays[1]
        assert x is not None and w is not None
        ways = self._ways(node, x.shape, w.shape)
        group = self.attribute(node, "group")
        room = [max((n - 1) * s.stride + s.reach, s.before + size) for n, (s, size) in zip(x.shape[2:], ways, strict=True)]
        y = np.zeros((x.shape[0], group, w.shape[1], *room), x.dtype)
        parts = x.reshape(x.shape[0], group, -1, *x.shape[2:])
        kernels = w.reshape(group, -1, *w.shape[1:])
        for taps in np.ndindex(*w.shape[2:]):
            cut: list[Any] = [
                slice(k * s.dilation, k * s.dilation + (n - 1) * s.stride + 1, s.stride)
                for k, (s, _), n in zip(taps, ways, x.shape[2:], strict=True)
            ]
            y[(..., *cut)] += np.einsum("ngc...,gcm->ngm...", parts, kernels[(..., *taps)])
        middle: list[Any] = [slice(s.before, s.before + size) for s, size in ways]
        y = y[(..., *middle)].reshape(x.shape[0], -1, *(size for _, size in ways))
        if len(arrays) > 2 and arrays[2] is not None:
            y = y + arrays[2].reshape(1, -1, *[1] * len(ways))
        return (y,)


def _rows(s: Sliding, longer: int) -> int:
    """The number of input rows for an output row of all phases, so that no output row lies beyond the last, for an
    output `longer` than the input times the stride."""
    return max((s.reach - 1) // s.stride + 1, -(-(longer + s.before) // s.stride) + 1)
