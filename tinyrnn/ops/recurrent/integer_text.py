"""Gate sums of int8: h, and in a tile of streams x, is quantised in each step and multiplied by int8 weights in exact int32 sums.

A gate sum is fma(float(sum over h), scale of h · scale of R, p), where p is the input's share: fma(float(sum over x), scale of
x · scale of W, bias). See `tinyrnn.lanes.integers` for the scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

import numpy as np

from tinyrnn.graph.op import Array
from tinyrnn.lanes.dots import TOGETHER, Dot
from tinyrnn.ops.linear.integers import QUANTISED, grouped, padded, starts_of
from tinyrnn.ops.recurrent.kernel_text import Cell, GateSums, Text
from tinyrnn.ops.recurrent.stream_tile import Strides, Tiles

SUMS = 8
"""gate sums at once: they hide the wait of each product, and the weights of few panels are one stream of memory"""


class IntegerSums(GateSums):
    """Gate sums of int8. The kernel takes one more parameter, m, from `pack_integers`; s has `room` elements more.

    Where LANES is 1 and the cell takes x, it takes w, b and n too: W as `IntegerWeights` packs it, and its `integers`.
    """

    def __init__(self, cell: Cell, lanes: int, registers: int, dot: Dot) -> None:
        super().__init__(cell, lanes, registers)
        self.dot, self.step = dot, dot.width
        self.depth = -(-cell.H // dot.width) * dot.width
        self.shifted = cell.quantiser == "quantise_uint8"
        self.summed = self.shifted or dot.offset != 0
        """whether sums start from the weights' sums times a number"""
        self.operands = ", m, w, b, n" if cell.inputs else ", m"
        self.x_depth = -(-cell.inputs // dot.width) * dot.width

    @property
    def room(self) -> int:
        """float32 elements of scratch for the activations of one vector h, and before them those of x, if the cell takes it."""
        return self.x_room + self.dot.room(self.cell.H, self.lanes)

    @property
    def x_room(self) -> int:
        return self.dot.room(self.cell.inputs, self.lanes) if self.cell.inputs else 0

    def together(self, gates: int) -> int:
        fit = TOGETHER // gcd(TOGETHER, gates) if self.lanes == 1 else max(1, SUMS // gates)
        return min(self.panels, fit)

    def elements(self, gates: int, count: int) -> int:
        sums = count * gates * self.lanes
        if self.lanes == 1:
            sums = -(-sums // TOGETHER) * TOGETHER
        return sums * self.depth * self.cell.parts

    def arranged(self, group: Array) -> Array:
        wide = padded(group, self.lanes)
        return grouped(wide, TOGETHER if self.lanes == 1 else wide.shape[1], self.dot, self.cell.parts)

    def pointers(self, text: Text) -> None:
        text(f"m, activations = i32(m), at(i8(s), {8 * self.cell.H + 4 * self.x_room})")
        if self.cell.inputs:
            text(f"w, b, integers, of_x = i8(w), f32(b), i32(n), at(i8(s), {8 * self.cell.H})")

    def begin(self, text: Text, source: str) -> None:
        if self.cell.inputs:
            text(f"x_scale, x_shift = {self.cell.quantiser}(of_x, pt, {self.cell.inputs})")
        text(f"scale, shift = {self.cell.quantiser}(activations, {source}, {self.cell.H})")

    def started(self, gate: int, panel: int, first: str) -> str:
        """The text of the integer from which a sum starts."""
        if not self.summed:
            return "zeros()"
        return f"times(load_ints(m, {(gate * self.panels + panel) * self.lanes} + {first}), shift)"

    def products(self, text: Text, depth: int, beside: int, lines: Sequence[str]) -> None:
        """Write a loop of lines over k < depth for each part of the weights from element n on, `beside` sums side by side."""
        if self.cell.parts > 1:
            text(f"for part in range({self.cell.parts}):")
            text.depth += 1
        text(f"for k in range(0, {depth}, {self.step}):", *(f"    {line}" for line in lines))
        text(f"    n += {beside * self.lanes * self.step}")
        text.depth -= self.cell.parts > 1

    def dots(self, text: Text, names: Sequence[tuple[int, int]], at: str, first: str, vector: str) -> None:
        """Write the integer sums g{gate}{panel} over h where LANES is 1."""
        self._quads(text, [f"g{gate}{panel}" for panel, gate in names], "r", at, self.depth, vector, "m", self.cell.gates)
        if self.shifted:
            for panel, gate in names:
                text(f"g{gate}{panel} = plus(g{gate}{panel}, {self.started(gate, panel, first)})")

    def shares(self, text: Text, names: Sequence[tuple[int, int]], first: str, vector: str) -> None:
        """Write the input's share p{gate}{panel} of all gates of some panels, where LANES is 1, from its activations, x_scale
        and x_shift."""
        gates = self.cell.gates
        found = [f"p{gate}{panel}" for panel, gate in names]
        at = f"{first} * {gates * self.x_depth * self.cell.parts}"
        self._quads(text, found, "w", at, self.x_depth, vector, "integers", gates)
        for place, name in enumerate(found):
            column = f"{first} * {gates} + {place}"
            if self.shifted:
                text(f"{name} = plus({name}, times(load_ints(integers, {column}), x_shift))")
            scale = f"x_scale * load(b, {gates * self.panels} + {column})"
            text(f"{name} = fma(to_float({name}), {scale}, load(b, {column}))")

    def _quads(
        self, text: Text, names: list[str], weights: str, at: str, depth: int, vector: str, integers: str, gates: int
    ) -> None:
        """Write integer sums, four at once, with weights from element `at` on."""
        parts = self.cell.parts
        places = gates * self.panels if self.summed else 0
        if weights == "w":
            places = -(-places // TOGETHER) * TOGETHER
        for j in range(0, len(names), TOGETHER):
            made = names[j : j + TOGETHER]
            made += [f"unused{n}" for n in range(TOGETHER - len(made))]
            for part in range(parts):
                found = [f"part_{name}" for name in made] if part else made
                place = j * parts + part * TOGETHER
                start = f"at({integers}, {places} + ({at}) // {depth} + {place})" if self.dot.starts else "m"
                text(f"{', '.join(found)} = dots4(at({weights}, {at} + {place * depth}), {vector}, {depth}, {start})")
                if part:
                    text(*(f"{name} = plus({name}, part_{name})" for name in made))

    def before(self, gate: int, panel: int, first: str, p: str = "pt") -> str:
        """The text of what a sum over h is added to."""
        if self.cell.linear_before_reset and gate == 2:
            return self.extra(self.cell.row("Rbh"), panel, first)
        return f"p{gate}{panel}" if self.cell.inputs else self.share(gate, panel, first, p)

    def late(self, text: Text, names: Sequence[tuple[int, int]], place: str = "") -> list[str]:
        """Write, and return, the names under which a cell finds the input's share of the candidate, where it takes x."""
        if not self.cell.inputs or not self.cell.linear_before_reset:
            return []
        panels = [panel for panel, gate in names if gate == 2]
        text(*(f"x{panel}{place} = p2{panel}" for panel in panels))
        return [f"x{panel}" for panel in panels]

    def write(self, text: Text, names: Sequence[tuple[int, int]], at: str, first: str, source: str) -> None:
        if self.cell.inputs:
            self.shares(text, names, first, "of_x")
            self.late(text, names)
        if self.lanes == 1:
            self.dots(text, names, at, first, "activations")
        else:
            text(*(f"g{gate}{panel} = {self.started(gate, panel, first)}" for panel, gate in names), f"n = {at}")
            self.products(
                text,
                self.depth,
                len(names),
                [
                    f"g{gate}{panel} = dot(g{gate}{panel}, activations, k, r, n + {place * self.lanes * self.step})"
                    for place, (panel, gate) in enumerate(names)
                ],
            )
        for panel, gate in names:
            factor = f"scale * {self.extra(self.cell.row('h', gate), panel, first)}"
            text(f"g{gate}{panel} = fma(to_float(g{gate}{panel}), {factor}, {self.before(gate, panel, first)})")


def pack_integers(sums: IntegerSums, R: Array) -> Array:
    """int32 for a kernel: the sums over k of R [gates·H, H], padded [gate][unit], where the kernel takes them; then, where sums
    start so, the starts in the order of r."""
    cell, lanes, panels = sums.cell, sums.lanes, sums.panels
    parts = [np.zeros(0, np.int32)]
    wide = np.zeros((cell.gates, panels * lanes, cell.H), R.dtype)
    wide[:, : cell.H] = R.reshape(cell.gates, cell.H, cell.H)
    if sums.summed:
        parts.append(wide.sum(2, dtype=np.int32).ravel())
    for gates in cell.phases if sums.dot.starts else ():
        together = sums.together(len(gates))
        for first in range(0, panels, together):
            block = wide[list(gates), first : first + together]
            parts.append(starts_of(padded(block.transpose(2, 1, 0).reshape(cell.H, -1), lanes), cell.parts))
    return np.concatenate(parts)


class IntegerTiles(Tiles):
    """A tile of streams. The kernel takes m, from `pack_integers`, n, the sums over k of W where it takes x, and q, scratch
    [rows][`room`] for activations."""

    sums: IntegerSums
    operands = ", m, n, q"

    def __init__(self, sums: IntegerSums, strides: Strides, inputs: int = 0) -> None:
        super().__init__(sums, strides, inputs)
        self.x_room = QUANTISED + sums.dot.room(inputs, sums.lanes) if inputs else 0
        self.h_room = QUANTISED + sums.room - sums.x_room

    @property
    def room(self) -> int:
        """float32 elements of scratch for a stream: scale, shift and activations of x, if the kernel takes it, and of h."""
        return self.x_room + self.h_room

    def pointers(self) -> None:
        self.text("m, integers, scales, q = i32(m), i32(n), f32(q), i8(q)")

    def begin(self, phase: int) -> None:
        H, text = self.cell.H, self.text
        text("for i in range(rows):")
        text.depth += 1
        if self.inputs and not phase:
            self._quantised("0", f"at(p, i * {self.strides.p})", self.inputs)
        source = f"at(applied, i * {2 * H})" if phase else "at(hi, get(hi_at, i) * hi_by)"
        self._quantised(str(self.x_room), source, H)
        text.depth -= 1

    def _quantised(self, offset: str, source: str, size: int) -> None:
        here = f"i * {self.room} + {offset}"
        self.text(
            f"scale, shift = {self.cell.quantiser}(at(q, 4 * ({here} + {QUANTISED})), {source}, {size})",
            f"store_part(scales, {here}, scale, 1)",
            f"store_part(scales, {here} + 1, shift, 1)",
        )

    def _group(self, phase: int, count: int, weights: str, unit: str) -> None:
        if self.lanes == 1:
            self._streams(phase, count, count, weights, unit)
        else:
            super()._group(phase, count, weights, unit)

    def _tall(self, sums: int) -> int:
        return 1 if self.lanes == 1 else super()._tall(sums)

    def _sums(self, phase: int, names: Sequence[tuple[int, int]], count: int, streams: range) -> list[str]:
        cell, sums, text = self.cell, self.sums, self.text
        if self.inputs and self.lanes == 1:
            self._vectors(0, streams)
            text("x_scale, x_shift = scale0, shift0")
            sums.shares(text, names, "u", "q0")
        elif self.inputs:
            depth = -(-self.inputs // sums.step) * sums.step
            text(f"n = u * {cell.gates * depth * cell.parts}")
            place = {(panel, gate): f"u * {cell.gates} + {gate * self.lanes}" for panel, gate in names}
            self._vectors(0, streams)
            totals = {each: f"integers, {at}" for each, at in place.items()}
            self._integer_products("w", depth, names, len(names), streams, totals)
            for panel, gate in names:
                factor = f"load(b, {cell.gates * self.panels * self.lanes} + {place[panel, gate]})"
                text(f"factor, bias = {factor}, load(b, {place[panel, gate]})")
                for v in streams:
                    text(f"p{gate}{panel}_{v} = fma(to_float(g{gate}{panel}_{v}), scale{v} * factor, bias)")
        else:
            text(*(f"pt{v} = at(p, (i + {v}) * {self.strides.p})" for v in streams))
        self._vectors(self.x_room, streams)
        if self.lanes == 1:
            sums.dots(text, names, "first", "u", "q0")
            text(*(f"g{gate}{panel}_0 = g{gate}{panel}" for panel, gate in names))
        else:
            text("n = first")
            place = {(panel, gate): f"m, {(gate * self.panels + panel) * self.lanes} + u" for panel, gate in names}
            self._integer_products("r", sums.depth, names, count * len(cell.phases[phase]), streams, place)
        for panel, gate in names:
            text(f"factor = {sums.extra(cell.row('h', gate), panel, 'u')}")
            for v in streams:
                taken = self.inputs and self.lanes > 1
                before = f"p{gate}{panel}_{v}" if taken else sums.before(gate, panel, "u", f"pt{v}")
                text(f"g{gate}{panel}_{v} = fma(to_float(g{gate}{panel}_{v}), scale{v} * factor, {before})")
        return [*(f"g{gate}{panel}" for panel, gate in names), *sums.late(text, names, "_0")]

    def _vectors(self, offset: int, streams: range) -> None:
        """Write where the activations at `offset` in the scratch of each stream are, and what goes with them."""
        for v in streams:
            here = f"(i + {v}) * {self.room} + {offset}"
            self.text(
                f"scale{v}, q{v} = splat(get(scales, {here})), at(q, 4 * ({here} + {QUANTISED}))",
                f"shift{v} = splat(get(scales, {here} + 1))",
            )
        self.text("shift = shift0")

    def _integer_products(
        self,
        weights: str,
        depth: int,
        names: Sequence[tuple[int, int]],
        beside: int,
        streams: range,
        totals: Mapping[tuple[int, int], str],
    ) -> None:
        """Write the integer sums of one vector of every stream by `beside` sums' weights from n on; totals: where the sums of
        their weights are."""
        text, stride = self.text, self.lanes * self.sums.step
        for panel, gate in names:
            if self.sums.summed:
                text(f"total = load_ints({totals[panel, gate]})")
            start = "times(total, shift{})" if self.sums.summed else "zeros()"
            text(*(f"g{gate}{panel}_{v} = {start.format(v)}" for v in streams))
        lines = [
            f"g{gate}{panel}_{v} = dot(g{gate}{panel}_{v}, q{v}, k, {weights}, n + {place * stride})"
            for place, (panel, gate) in enumerate(names)
            for v in streams
        ]
        self.sums.products(text, depth, beside, lines)
