"""The kernels of convolutions, and `Convolution`, the operator over frames that uses them.

Every output is one chain of fma: the bias, then the products in the order of the frame's elements. Lanes run
along positions where there are many (`convolve_along`), along output channels where there are few
(`convolve_across`), along the groups of a convolution over time whose groups are single channels
(`convolve_each`): the same bits in all three.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Scratch, Value, Weight
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Op, Refused, register
from tinyrnn.graph.storage import cast
from tinyrnn.lanes import f32, get, i32, kernel, put
from tinyrnn.ops.convolution.window_offsets import AxisWindow, WindowOffsets, padded_copy_call, window_offsets
from tinyrnn.ops.linear.operators import GROUP, pack, pack_rest
from tinyrnn.ops.linear.texts import chained, suffix, written, written_later

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


def _block(word: str, height: int, width: int) -> list[str]:
    """Lines for `height` channels by `width` vectors of positions from position i on; `left` positions remain."""

    def each(text: str) -> list[str]:
        return [text.format(c=c, v=v, at=f"{v} * L" if v else "0") for c in range(height) for v in range(width)]

    last = width - 1
    loads = [f"v{v} = load(p, {f'{v} * L' if v else 0})" for v in range(last)]
    loads.append(f"v{last} = load_part(p, {last} * L, left - {last} * L)")
    body = [f"s{c}{v} = splat(get(c, {c}))" for c in range(height) for v in range(width)]
    body.append("here = first")
    products = ["p = at(start, i + get(taps, k))", *loads]
    for c in range(height):
        products.append(f"u = splat(get(here, {c}))")
        products += [f"s{c}{v} = fma(v{v}, u, s{c}{v})" for v in range(width)]
    products.append(f"here = at(here, {height})")
    sums = [f"s{c}{v}" for c in range(height) for v in range(width)]
    body += chained(word, products, sums, "K", f"splat(get(c, M + {{n}} // {width}))")
    for c in range(height):
        for v in range(width):
            place = f"{c} * runs * n + r * n + i + {v} * L"
            body.append(f"store_part(to, {place}, s{c}{v}, left - {v} * L)" if v == last else f"store(to, {place}, s{c}{v})")
    return [*body, f"i += {width} * L", f"left -= {width} * L"]


def _along_text(name: str, word: str, heights: Sequence[int], widths: Sequence[int]) -> str:
    rest = 2 if word == "i8" else 1
    lines = [
        f"def {name}(y, x, w, b, taps, places, groups, M, K, runs, n, x_group):",
        '    """y[g, m, r, i] = b[g, m] + sum over k of w[g, m, k] x[g * x_group + places[r] + taps[k] + i]; b from `rests`."""',
        f"    y, x, w, b, taps, places = f32(y), f32(x), {word}(w), f32(b), i32(taps), i32(places)",
        "    L = lanes()",
        "    for g in range(groups):",
        "        m = 0",
    ]
    for height in heights:
        lines += [
            f"        while m + {height} <= M:",
            "            first = at(w, (g * M + m) * K)",
            f"            c = at(b, g * M * {rest} + m)",
            "            to = at(y, (g * M + m) * runs * n)",
            "            for r in range(runs):",
            "                start = at(x, g * x_group + get(places, r))",
            "                i = 0",
            "                left = n",
        ]
        for width in widths:
            lines.append(f"                while left > {(width - 1)} * L:")
            lines += ["                    " + line for line in _block(word, height, width)]
        lines.append(f"            m += {height}")
    return "\n".join(lines) + "\n"


def _across_text(name: str, word: str, places: dict[int, Sequence[int]]) -> str:
    rest = 2 if word == "i8" else 1
    lines = [
        f"def {name}(z, x, w, b, taps, places, groups, M, K, count, x_group):",
        '    """z[o, g, m] = b[g, m] + sum over k of w[g, m, k] x[g * x_group + places[o] + taps[k]], m padded to whole Vecs."""',
        f"    z, x, w, b, taps, places = f32(z), f32(x), {word}(w), f32(b), i32(taps), i32(places)",
        "    L = lanes()",
        "    panels = (M + L - 1) // L",
        f"    whole = panels // {GROUP} * {GROUP}",
        "    for g in range(groups):",
        "        of = at(w, g * panels * L * K)",
        f"        rest = at(b, g * panels * L * {rest})",
        f"        for j in range(0, whole, {GROUP}):",
        *_panels(word, places[GROUP], GROUP, f"{GROUP} * L", "j * K * L"),
        "        for j in range(whole, panels):",
        *_panels(word, places[1], 1, "(panels - whole) * L", "(whole * K + j - whole) * L"),
    ]
    return "\n".join(lines) + "\n"


def _panels(word: str, heights: Sequence[int], group: int, stride: str, first: str) -> list[str]:
    lines = ["c = at(rest, j * L)", "o = 0"]
    for height in heights:
        names = [[f"s{o}{panel}" for panel in range(group)] for o in range(height)]
        body = [f"x{o} = at(x, g * x_group + get(places, o + {o}))" for o in range(height)]
        body += [f"{names[o][p]} = load(c, {p} * L)" for o in range(height) for p in range(group)]
        body.append(f"here = at(of, {first})")
        products = ["t = get(taps, k)", *(f"w{p} = load(here, {p} * L)" for p in range(group))]
        for o in range(height):
            products.append(f"v = splat(get(x{o}, t))")
            products += [f"{names[o][p]} = fma(v, w{p}, {names[o][p]})" for p in range(group)]
        products.append(f"here = at(here, {stride})")
        sums = [names[o][p] for p in range(group) for o in range(height)]
        body += chained(word, products, sums, "K", f"load(c, (panels + {{n}} // {height}) * L)")
        for o in range(height):
            body += [f"store(z, (((o + {o}) * groups + g) * panels + j + {p}) * L, {names[o][p]})" for p in range(group)]
        lines += [f"while o + {height} <= count:", *("    " + line for line in body), f"    o += {height}"]
    return ["            " + line for line in lines]


def _each_text(name: str, word: str) -> str:
    products = ["total = fma(load_part(x, get(taps, k) + g, groups - g), load_part(w, k * groups + g, groups - g), total)"]
    return "\n".join(
        [
            f"def {name}(y, x, w, b, taps, groups, K):",
            '    """y[g] = b[g] + sum over k of w[k, g] x[taps[k] + g]; b from `rests`."""',
            f"    y, x, w, b, taps = f32(y), f32(x), {word}(w), f32(b), i32(taps)",
            "    for g in range(0, groups, lanes()):",
            "        total = load_part(b, g, groups - g)",
            *("        " + line for line in chained(word, products, ["total"], "K", "load_part(b, groups + g, groups - g)")),
            "        store_part(y, g, total, groups - g)",
        ]
    )


TEXTS: dict[str, Callable[[str, str], str]] = {
    **{f"convolve_along_{n}": partial(_along_text, heights=HEIGHTS[n], widths=WIDTHS) for n in HEIGHTS},
    "convolve_short_16": partial(_along_text, heights=SHORT, widths=(1,)),
    **{f"convolve_across_{n}": partial(_across_text, places=PLACES[n]) for n in PLACES},
    "convolve_each": _each_text,
}
"""kernel for float32 → function of a name and a storage type that writes it"""
globals().update({name: written(__name__, name, text(name, "f32")) for name, text in TEXTS.items()})


def __getattr__(name: str) -> Any:
    return written_later(__name__, name, TEXTS)


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


def _named(kernel: str, word: str) -> str:
    """The name of a kernel for weights of a type, which is written now."""
    name: str = getattr(sys.modules[__name__], kernel + suffix(word)).__name__
    return name


Lowered = tuple[list[str], Array, tuple[Array, Array], int]
"""(lines that run a convolution, all tables in one array, the weights and their rest, elements of scratch)"""


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights [groups, M, K] in a storage type, bias [groups, M], and the scales [groups, M] of int8."""

    word: str
    w: Array
    b: Array
    scale: Array | None

    def along(self, heights: Sequence[int]) -> tuple[Array, Array]:
        """(w, b) for `convolve_along`: blocks of channels, each [k][channel]; for each group the bias, and the factors."""
        parts = []
        for matrix in self.w:
            m = 0
            for height in heights:
                while m + height <= len(matrix):
                    parts.append(matrix[m : m + height].T.ravel())
                    m += height
        return cast(self.word, np.concatenate(parts)), self._rests(1)

    def across(self, lanes: int) -> tuple[Array, Array]:
        """(w, b) for `convolve_across`: panels of channels."""
        return cast(self.word, np.concatenate([pack(matrix.T, lanes) for matrix in self.w])), self._rests(lanes)

    def each(self) -> tuple[Array, Array]:
        """(w, b) for `convolve_each`: [k][group]."""
        rest = pack_rest(len(self.w), 1, self.b[:, 0], None if self.scale is None else self.scale)
        return cast(self.word, self.w[:, 0].T.ravel()), rest

    def _rests(self, lanes: int) -> Array:
        scales = [None] * len(self.b) if self.scale is None else self.scale[..., None]
        return np.concatenate([pack_rest(len(b), lanes, b, scale) for b, scale in zip(self.b, scales, strict=True)])


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
    whole_rows = frozenset({"W"})
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

    def summed(self, node: Node) -> dict[str, tuple[int, ...]]:
        return {"W": tuple(range(2, self.attribute(node, "W").ndim))}

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        positions = prod(s.count for s in self.attribute(node, "windows"))
        return int(self.attribute(node, "lead") * positions * self.attribute(node, "W").size)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output = node.inputs[0], node.outputs[0]
        for name in (source, output):
            if env.specs[name].dtype != np.float32:
                raise Refused(f"{name!r} is {env.specs[name].dtype}; convolutions take float32")
        weights, bias = self.attribute(node, "W"), self.attribute(node, "B")
        held = self.stored(node, env, {"W": weights})["W"]
        weights = held.values.reshape(weights.shape)
        shape, channel = node.shapes[0], self.attribute(node, "channel")
        windows: list[AxisWindow] = list(self.attribute(node, "windows"))
        groups, m = weights.shape[:2]
        for axis, window in enumerate(windows):
            if axis != channel:
                kept = window.inside(shape[axis])
                weights = np.take(weights, kept, axis=axis + 2)
                windows[axis] = AxisWindow(tuple(window.taps[k] for k in kept), window.count, window.step)
        flat = np.ascontiguousarray(weights.reshape(groups, m, -1))
        start = np.zeros((groups, m), np.float32) if bias is None else bias
        given = Packed(held.word, flat, start, None if held.scale is None else held.scale[..., 0])
        layout = self._layout(node, env, shape, windows, flat.shape)
        text, tables, packed, z = layout(shape, windows, channel, given, env, node)
        lead, size = self.attribute(node, "lead"), prod(shape)
        per_row = env.specs[output].elements // lead
        lines = [
            "def KERNEL(y, x, s, w, b, t, rows):",
            "    for r in range(rows):",
            f"        to = y + {4 * per_row} * r",
            f"        start = x + {4 * size} * r",
            *("        " + line for line in text),
        ]
        w, b = map(Weight, packed)
        call = (Value(output), Value(source), Scratch("slots", z or 1), w, b, Weight(tables), Rows(times=lead))
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
        self, shape: Sequence[int], windows: Sequence[AxisWindow], channel: int, given: Packed, env: Lowering, node: Node
    ) -> Lowered:
        offsets = window_offsets(shape, windows, False, channel)
        name, sizes = _named("convolve_each", given.word), f"{len(given.w)}, {given.w.shape[2]}"
        return self._call(offsets, [(name, "to", f"{{taps}}, {sizes}")], [], given.each(), 0)

    def _along(
        self, shape: Sequence[int], windows: Sequence[AxisWindow], channel: int, given: Packed, env: Lowering, node: Node
    ) -> Lowered:
        groups, m, k = given.w.shape
        registers = 32 if env.registers >= 32 else 16
        offsets = window_offsets(shape, windows, True, channel)
        firsts, n = offsets.runs()
        positions = len(firsts) * n
        inner = f"{groups}, {m}, {k}, {len(firsts)}, {n}, {self._group(offsets, windows, channel)}"
        repeats = self.attribute(node, "repeats")
        short = registers == 16 and n <= env.lanes
        kernel_name = _named("convolve_short_16" if short else f"convolve_along_{registers}", given.word)
        packed = given.along(SHORT if short else HEIGHTS[registers])
        if self._plain(node) and (groups == 1 or repeats == 1):
            return self._call(offsets, [(kernel_name, "to", f"{{taps}}, {{places}}, {inner}")], [firsts], packed, 0)
        table, channels = self._spread(node, m, 1, positions)
        spread_text = (
            f"{{table}}, {repeats}, {groups}, {channels}, {table.size}, {m // repeats * positions}, {m * positions}, {positions}"
        )
        steps = [(kernel_name, "z", f"{{taps}}, {{places}}, {inner}"), ("spread", "to", spread_text)]
        return self._call(offsets, steps, [firsts, table], packed, groups * m * positions)

    def _across(
        self, shape: Sequence[int], windows: Sequence[AxisWindow], channel: int, given: Packed, env: Lowering, node: Node
    ) -> Lowered:
        groups, m, k = given.w.shape
        offsets = window_offsets(shape, windows, False, channel)
        positions, padded = offsets.places.size, -(-m // env.lanes) * env.lanes
        inner = f"{groups}, {m}, {k}, {positions}, {self._group(offsets, windows, channel)}"
        repeats = self.attribute(node, "repeats")
        table, channels = self._spread(node, 1, groups * padded, positions)
        name = _named(f"convolve_across_{32 if env.registers >= 32 else 16}", given.word)
        spread_text = f"{{table}}, {repeats}, {groups}, {channels}, {table.size}, {m // repeats}, {padded}, 1"
        steps = [(name, "z", f"{{taps}}, {{places}}, {inner}"), ("spread", "to", spread_text)]
        return self._call(offsets, steps, [offsets.places.ravel(), table], given.across(env.lanes), groups * padded * positions)

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
        self,
        offsets: WindowOffsets,
        steps: Sequence[tuple[str, str, str]],
        tables: Sequence[Array],
        packed: tuple[Array, Array],
        z: int,
    ) -> Lowered:
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
            middle = f"s + {4 * slots}" if name == "spread" else f"{'s' if offsets.copied else 'start'}, w, b"
            lines.append(f"{name}({target}, {middle}, {rest.format(**where)})")
        return lines, np.concatenate(every).astype(np.int32), packed, slots + z
