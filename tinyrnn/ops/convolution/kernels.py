"""The kernels of convolutions, and `Convolution`, the operator over frames that uses them.

Every output is one chain of fma: the bias, then the products in the order of the frame's elements. Lanes run
along positions where there are many (`convolve_along`), along output channels where there are few
(`convolve_across`), along the groups of a convolution over time whose groups are single channels
(`convolve_each`): the same bits in all three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Scratch, Value, Weight
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Op, Refused, register
from tinyrnn.lanes import at, f32, fma, get, i32, kernel, lanes, load, load_part, put, splat, store, store_part
from tinyrnn.ops.convolution.window_offsets import AxisWindow, WindowOffsets, padded_copy_call, window_offsets
from tinyrnn.ops.linear.operators import GROUP, pack

WIDTHS = (3, 2, 1)
"""vectors of positions in a block of `convolve_along`"""
HEIGHTS: dict[int, Sequence[int]] = {32: (8, 2, 1), 16: (4, 1)}
"""output channels in a block of `convolve_along`, by the number of vector registers"""
SHORT = (8, 4, 1)
"""output channels in a block of `convolve_short`, for 16 registers and one vector of positions: as many sums as hide the fma"""
PLACES: dict[int, dict[int, Sequence[int]]] = {32: {GROUP: (4, 2, 1), 1: (8, 2, 1)}, 16: {GROUP: (2, 1), 1: (8, 2, 1)}}
"""positions in a block of `convolve_across`, for a group of panels and for one"""
MOVE = 1.5
"""cost of moving one element, in units of one vector fma"""


def _block(height: int, width: int) -> list[str]:
    """Lines for `height` channels by `width` vectors of positions from position i on; `left` positions remain."""

    def each(text: str) -> list[str]:
        return [text.format(c=c, v=v, at=f"{v} * L" if v else "0") for c in range(height) for v in range(width)]

    last = width - 1
    loads = [f"v{v} = load(p, {f'{v} * L' if v else 0})" for v in range(last)]
    loads.append(f"v{last} = load_part(p, {last} * L, left - {last} * L)")
    body = [f"s{c}{v} = splat(get(b, {c}))" for c in range(height) for v in range(width)]
    body += [f"q = at(b, {height})", "for k in range(K):", "    p = at(start, i + get(taps, k))"]
    body += ["    " + line for line in loads]
    for c in range(height):
        body.append(f"    u = splat(get(q, {c}))")
        body += [f"    s{c}{v} = fma(v{v}, u, s{c}{v})" for v in range(width)]
    body.append(f"    q = at(q, {height})")
    for c in range(height):
        for v in range(width):
            place = f"{c} * runs * n + r * n + i + {v} * L"
            body.append(f"store_part(to, {place}, s{c}{v}, left - {v} * L)" if v == last else f"store(to, {place}, s{c}{v})")
    return [*body, f"i += {width} * L", f"left -= {width} * L"]


def _along_text(name: str, heights: Sequence[int], widths: Sequence[int]) -> str:
    lines = [
        f"def {name}(y, x, w, taps, places, groups, M, K, runs, n, x_group):",
        '    """y[g, m, r, i] = b[g, m] + sum over k of w[g, m, k] x[g * x_group + places[r] + taps[k] + i]."""',
        "    y, x, w, taps, places = f32(y), f32(x), f32(w), i32(taps), i32(places)",
        "    L = lanes()",
        "    for g in range(groups):",
        "        m = 0",
    ]
    for height in heights:
        lines += [
            f"        while m + {height} <= M:",
            "            b = at(w, (g * M + m) * (K + 1))",
            "            to = at(y, (g * M + m) * runs * n)",
            "            for r in range(runs):",
            "                start = at(x, g * x_group + get(places, r))",
            "                i = 0",
            "                left = n",
        ]
        for width in widths:
            lines.append(f"                while left > {(width - 1)} * L:")
            lines += ["                    " + line for line in _block(height, width)]
        lines.append(f"            m += {height}")
    return "\n".join(lines) + "\n"


def _across_text(name: str, places: dict[int, Sequence[int]]) -> str:
    lines = [
        f"def {name}(z, x, w, taps, places, groups, M, K, count, x_group):",
        '    """z[o, g, m] = b[g, m] + sum over k of w[g, m, k] x[g * x_group + places[o] + taps[k]], m padded to whole Vecs."""',
        "    z, x, w, taps, places = f32(z), f32(x), f32(w), i32(taps), i32(places)",
        "    L = lanes()",
        "    panels = (M + L - 1) // L",
        f"    whole = panels // {GROUP} * {GROUP}",
        "    for g in range(groups):",
        "        b = at(w, g * panels * L * (K + 1))",
        f"        for j in range(0, whole, {GROUP}):",
        *_panels(places[GROUP], GROUP, f"{GROUP} * L", "(panels + j * K) * L"),
        "        for j in range(whole, panels):",
        *_panels(places[1], 1, "(panels - whole) * L", "(panels + whole * K + j - whole) * L"),
    ]
    return "\n".join(lines) + "\n"


def _panels(heights: Sequence[int], group: int, stride: str, first: str) -> list[str]:
    lines = ["o = 0"]
    for height in heights:
        names = [[f"s{o}{panel}" for panel in range(group)] for o in range(height)]
        body = [f"x{o} = at(x, g * x_group + get(places, o + {o}))" for o in range(height)]
        body += [f"{names[o][p]} = load(b, (j + {p}) * L)" for o in range(height) for p in range(group)]
        body += [f"here = at(b, {first})", "for k in range(K):", "    t = get(taps, k)"]
        body += [f"    w{p} = load(here, {p} * L)" for p in range(group)]
        for o in range(height):
            body.append(f"    v = splat(get(x{o}, t))")
            body += [f"    {names[o][p]} = fma(v, w{p}, {names[o][p]})" for p in range(group)]
        body.append(f"    here = at(here, {stride})")
        for o in range(height):
            body += [f"store(z, (((o + {o}) * groups + g) * panels + j + {p}) * L, {names[o][p]})" for p in range(group)]
        lines += [f"while o + {height} <= count:", *("    " + line for line in body), f"    o += {height}"]
    return ["            " + line for line in lines]


def _made(name: str, text: str) -> Callable[..., Any]:
    words = {w.__name__: w for w in (at, f32, fma, get, i32, lanes, load, load_part, splat, store, store_part)}
    exec(text, words)
    function: Callable[..., Any] = words[name]
    function.__module__ = __name__
    return kernel(function)


convolve_along_32 = _made("convolve_along_32", _along_text("convolve_along_32", HEIGHTS[32], WIDTHS))
convolve_along_16 = _made("convolve_along_16", _along_text("convolve_along_16", HEIGHTS[16], WIDTHS))
convolve_short_16 = _made("convolve_short_16", _along_text("convolve_short_16", SHORT, (1,)))
convolve_across_32 = _made("convolve_across_32", _across_text("convolve_across_32", PLACES[32]))
convolve_across_16 = _made("convolve_across_16", _across_text("convolve_across_16", PLACES[16]))


@kernel
def convolve_each(y: Any, x: Any, w: Any, taps: Any, groups: int, K: int) -> None:
    """y[g] = b[g] + sum over k of w[k, g] x[taps[k] + g]; w holds b, then [k, g]."""
    y = f32(y)
    x = f32(x)
    w = f32(w)
    taps = i32(taps)
    for g in range(0, groups, lanes()):
        total = load_part(w, g, groups - g)
        for k in range(K):
            total = fma(load_part(x, get(taps, k) + g, groups - g), load_part(w, (k + 1) * groups + g, groups - g), total)
        store_part(y, g, total, groups - g)


# fmt: off


@kernel
def spread(y: Any, z: Any, table: Any, repeats: int, groups: int, M: int, n: int, z_repeat: int, z_group: int, z_m: int) -> None:
    """y[a, g, m, o] = z[table[o] + a * z_repeat + g * z_group + m * z_m], n elements o."""
    y = f32(y)
    z = f32(z)
    table = i32(table)
    for a in range(repeats):
        for g in range(groups):
            for m in range(M):
                to, start = ((a * groups + g) * M + m) * n, a * z_repeat + g * z_group + m * z_m
                for o in range(n):
                    put(y, to + o, get(z, start + get(table, o)))


# fmt: on


def pack_along(weights: Array, bias: Array, heights: Sequence[int]) -> Array:
    """Weights [G, M, K] and bias [G, M] for `convolve_along`: blocks of channels, each its bias, then [k][channel]."""
    parts = []
    for matrix, start in zip(weights, bias, strict=True):
        m = 0
        for height in heights:
            while m + height <= len(matrix):
                parts += [start[m : m + height], matrix[m : m + height].T.ravel()]
                m += height
    return np.concatenate(parts).astype(np.float32)


@register
class Convolution(Op):
    """Sums over taps of a frame, times weights; made from Conv and ConvTranspose.

    W [groups, M, *taps along each axis of the frame], where the axis `channel` has the channels of one group; M runs over
    `repeats`, the phases along each axis, and the output channels. `windows` says how the taps move. The output, of shape
    [repeats, groups, channels, *spread], takes along each axis the element u = (first + i) from phase u % phases of position
    u // phases, for (phases, first, size) in `spread`.
    """

    name = "Convolution"
    internal = True
    inputs = ("X",)
    attributes = {
        "W": REQUIRED,
        "B": None,
        "channel": 0,
        "windows": REQUIRED,
        "spread": REQUIRED,
        "repeats": 1,
        "lead": 1,
    }

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        positions = prod(s.count for s in self.attribute(node, "windows"))
        return int(self.attribute(node, "lead") * positions * self.attribute(node, "W").size)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        for name in (source, output):
            if env.specs[name].dtype != np.float32:
                raise Refused(f"{name!r} is {env.specs[name].dtype}; convolutions take float32")
        weights, bias = self.attribute(node, "W"), self.attribute(node, "B")
        shape, channel = node.shapes[0], self.attribute(node, "channel")
        windows: list[AxisWindow] = list(self.attribute(node, "windows"))
        groups, m = weights.shape[:2]
        for axis, window in enumerate(windows):
            if axis != channel:
                kept = window.inside(shape[axis])
                weights = np.take(weights, kept, axis=axis + 2)
                windows[axis] = AxisWindow(tuple(window.taps[k] for k in kept), window.count, window.step)
        flat = np.ascontiguousarray(weights.reshape(groups, m, -1), np.float32)
        start = np.zeros((groups, m), np.float32) if bias is None else bias
        layout = self._layout(node, env, shape, windows, flat.shape)
        text, tables, packed, z = layout(shape, windows, channel, flat, start, env, node)
        lead, size = self.attribute(node, "lead"), prod(shape)
        per_row = env.specs[output].elements // lead
        lines = [
            "def KERNEL(y, x, s, w, t, rows):",
            "    for r in range(rows):",
            f"        to = y + {4 * per_row} * r",
            f"        start = x + {4 * size} * r",
            *("        " + line for line in text),
        ]
        call = (Value(output), Value(source), Scratch("slots", z or 1), Weight(packed), Weight(tables), Rows(times=lead))
        return [Call("\n".join(lines) + "\n", call, f"{output} = {source} ∗ W{list(flat.shape)}")]

    def _layout(
        self, node: Node, env: Lowering, shape: Sequence[int], windows: Sequence[AxisWindow], sizes: Sequence[int]
    ) -> Callable[..., Any]:
        """The method for the cheapest direction of lanes."""
        groups, m, k = sizes
        positions = prod(s.count for s in windows)
        channel = self.attribute(node, "channel")
        if positions == 1 and m == 1 and channel == len(shape) - 1 and shape[channel] == groups and self._plain(node):
            return self._each
        firsts, n = window_offsets(shape, windows, True, channel).runs()
        along = groups * m * k * len(firsts) * -(-n // env.lanes)
        across = groups * -(-m // env.lanes) * k * positions + MOVE * groups * m * positions
        return self._along if along <= across else self._across

    def _plain(self, node: Node) -> bool:
        return all(phases == 1 for phases, _, _ in self.attribute(node, "spread"))

    def _each(
        self, shape: Sequence[int], windows: Sequence[AxisWindow], channel: int, w: Array, b: Array, env: Lowering, node: Node
    ) -> tuple[list[str], Array, Array, int]:
        offsets = window_offsets(shape, windows, False, channel)
        packed = np.concatenate([b.ravel(), w[:, 0].T.ravel()])
        return self._call(offsets, [("convolve_each", "to", f"{{taps}}, {w.shape[0]}, {w.shape[2]}")], [], packed, 0)

    def _along(
        self, shape: Sequence[int], windows: Sequence[AxisWindow], channel: int, w: Array, b: Array, env: Lowering, node: Node
    ) -> tuple[list[str], Array, Array, int]:
        groups, m, k = w.shape
        registers = 32 if env.registers >= 32 else 16
        offsets = window_offsets(shape, windows, True, channel)
        firsts, n = offsets.runs()
        positions = len(firsts) * n
        inner = f"{groups}, {m}, {k}, {len(firsts)}, {n}, {self._group(offsets, windows, channel)}"
        repeats = self.attribute(node, "repeats")
        short = registers == 16 and n <= env.lanes
        kernel_name = "convolve_short_16" if short else f"convolve_along_{registers}"
        packed = pack_along(w, b, SHORT if short else HEIGHTS[registers])
        if self._plain(node) and (groups == 1 or repeats == 1):
            return self._call(offsets, [(kernel_name, "to", f"{{taps}}, {{places}}, {inner}")], [firsts], packed, 0)
        table, channels = self._spread(node, m, 1, positions)
        spread_text = (
            f"{{table}}, {repeats}, {groups}, {channels}, {table.size}, {m // repeats * positions}, {m * positions}, {positions}"
        )
        steps = [(kernel_name, "z", f"{{taps}}, {{places}}, {inner}"), ("spread", "to", spread_text)]
        return self._call(offsets, steps, [firsts, table], packed, groups * m * positions)

    def _across(
        self, shape: Sequence[int], windows: Sequence[AxisWindow], channel: int, w: Array, b: Array, env: Lowering, node: Node
    ) -> tuple[list[str], Array, Array, int]:
        groups, m, k = w.shape
        offsets = window_offsets(shape, windows, False, channel)
        positions, padded = offsets.places.size, -(-m // env.lanes) * env.lanes
        inner = f"{groups}, {m}, {k}, {positions}, {self._group(offsets, windows, channel)}"
        repeats = self.attribute(node, "repeats")
        table, channels = self._spread(node, 1, groups * padded, positions)
        packed = np.concatenate([pack(matrix.T, start, env.lanes) for matrix, start in zip(w, b, strict=True)])
        name = f"convolve_across_{32 if env.registers >= 32 else 16}"
        spread_text = f"{{table}}, {repeats}, {groups}, {channels}, {table.size}, {m // repeats}, {padded}, 1"
        steps = [(name, "z", f"{{taps}}, {{places}}, {inner}"), ("spread", "to", spread_text)]
        return self._call(offsets, steps, [offsets.places.ravel(), table], packed, groups * padded * positions)

    def _group(self, offsets: WindowOffsets, windows: Sequence[AxisWindow], channel: int) -> int:
        """The number of elements from one group's channels to those of the next."""
        return len(windows[channel].taps) * int(prod(offsets.shape[channel + 1 :]))

    def _spread(self, node: Node, m: int, by_position: int, positions: int) -> tuple[Array, int]:
        """(index in the sums of each output element by position and phase, number of output channels)."""
        windows, spread_ = self.attribute(node, "windows"), self.attribute(node, "spread")
        position, phase = np.zeros((), int), np.zeros((), int)
        for window, (phases, first, size) in zip(windows, spread_, strict=True):
            u = first + np.arange(size)
            position = position[..., None] * window.count + u // phases
            phase = phase[..., None] * phases + u % phases
        channels = self.attribute(node, "W").shape[1] // self.attribute(node, "repeats")
        channels //= prod(phases for phases, _, _ in spread_)
        by_channel = positions if by_position == 1 else 1
        return (position * by_position + phase * channels * by_channel).ravel().astype(np.int32), channels

    def _call(
        self, offsets: WindowOffsets, steps: Sequence[tuple[str, str, str]], tables: Sequence[Array], packed: Array, z: int
    ) -> tuple[list[str], Array, Array, int]:
        """(lines that run `steps`, all tables in one array, weights, elements of scratch)."""
        names = ["taps", "places", "table"]
        every = [offsets.taps.ravel(), *tables]
        if offsets.copied:
            every += [offsets.outer, offsets.inner]
        ends = np.cumsum([0, *(len(t) for t in every)])
        where = {name: f"t + {4 * end}" for name, end in zip(names, ends[: len(tables) + 1], strict=False)}
        slots = -(-offsets.elements // 16) * 16 if offsets.copied else 0
        lines = []
        if offsets.copied:
            outer, inner = (f"t + {4 * end}" for end in ends[len(tables) + 1 : len(tables) + 3])
            lines.append(padded_copy_call(offsets, "s", "start", outer, inner, "0.0"))
        for name, to, rest in steps:
            target = f"s + {4 * slots}" if to == "z" else to
            middle = f"s + {4 * slots}" if name == "spread" else f"{'s' if offsets.copied else 'start'}, w"
            lines.append(f"{name}({target}, {middle}, {rest.format(**where)})")
        return lines, np.concatenate(every).astype(np.int32), packed, slots + z
