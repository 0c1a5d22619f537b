"""Kernels for one step of RNN, GRU or LSTM in many streams, whose weights are read once for a tile of them.

A tile is V streams by as many gate sums as fit the vector registers. Every sum is the chain of fma that
`tinyrnn.ops.recurrent.kernel_text` takes for one stream, from the same packed weights, so that a stream has the same bits
in any company. The states are read and written where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyrnn.ops.recurrent.kernel_text import GateSums, Text, cell_equations, copy_lines

SUMS = {16: 8, 32: 16}
"""vector registers → gate sums of a tile: they hide the wait of each fma and leave room for weights"""


@dataclass(frozen=True)
class Strides:
    """Elements from one stream to the next, of what is not the state."""

    y: int
    p: int


def tile_text(tiles: Tiles, copies: bool) -> str:
    """The source of KERNEL(y, p, w, b, r, e, hi, ho, ci, co, applied, g, hi_at, hi_by, ho_at, ho_by, …, co_at, co_by, rows).

    y [rows][H], p x or the input's share of the gate sums, r from `pack_state`, e from `pack_extra`, applied scratch
    [rows][2·H] for the reset gate's work, g scratch for the sums of a tile. Where the kernel takes `inputs` elements of x,
    which it can for LSTM, w and b are their weights from `linear_weights`, in which the four gates of a panel stand side by
    side. Stream i has its h before the step at element hi_at[i] · hi_by of hi, and so on for h after it (ho) and for c. With
    `copies` c before and after the step lie in different places. Gate sums of other kinds take more (`GateSums.operands`).
    """
    text, cell, strides = tiles.text, tiles.cell, tiles.strides
    places = "hi_at, hi_by, ho_at, ho_by, ci_at, ci_by, co_at, co_by"
    text(f"def KERNEL(y, p, w, b, r, e, hi, ho, ci, co, applied, g, {places}, rows{tiles.operands}):")
    text.depth = 1
    text(
        f"w, b, r, e = {cell.word}(w), f32(b), {cell.word}(r), f32(e)",
        "y, p, hi, ho, g = f32(y), f32(p), f32(hi), f32(ho), f32(g)",
    )
    text("hi_at, ho_at = i64(hi_at), i64(ho_at)")
    tiles.pointers()
    if len(cell.phases) > 1:
        text("applied = f32(applied)")
    if cell.op == "LSTM":
        text("ci, co, ci_at, co_at = f32(ci), f32(co), i64(ci_at), i64(co_at)")
        if copies:
            text(
                "for i in range(rows):",
                "    c = at(co, get(co_at, i) * co_by)",
                *(f"    {line}" for line in copy_lines("c", "at(ci, get(ci_at, i) * ci_by)", cell.H)),
            )
    tiles.write()
    text(
        "for i in range(rows):",
        *(f"    {line}" for line in copy_lines("at(ho, get(ho_at, i) * ho_by)", f"at(y, i * {strides.y})", cell.H)),
    )
    return "\n".join(text.lines) + "\n"


def scratch_for_sums(lanes: int) -> int:
    """float32 elements of g."""
    return 2 * max(SUMS.values()) * lanes


class Tiles:
    """The lines of all gate sums and cells. inputs: elements of x that the kernel takes itself"""

    operands = ""
    """more parameters of the kernel"""

    def __init__(self, sums: GateSums, strides: Strides, inputs: int = 0) -> None:
        self.text, self.sums, self.strides, self.inputs = Text(), sums, strides, inputs
        self.cell, self.lanes, self.registers, self.panels = sums.cell, sums.lanes, sums.registers, sums.panels

    def pointers(self) -> None:
        """Write what makes pointers of the additional parameters."""

    def begin(self, phase: int) -> None:
        """Write what comes before all sums of a phase."""

    def write(self) -> None:
        base = 0
        for phase, gates in enumerate(self.cell.phases):
            self.begin(phase)
            together = self.sums.together(len(gates))
            whole, group = self.panels // together, self.sums.elements(len(gates), together)
            if whole > 1:
                self.text(f"for group in range({whole}):")
                self.text.depth += 1
                self._group(phase, together, f"{base} + group * {group}", f"group * {together * self.lanes}")
                self.text.depth -= 1
            else:
                self._group(phase, together, str(base), "0")
            base += whole * group
            if left := self.panels - whole * together:
                self._group(phase, left, str(base), str(whole * together * self.lanes))
                base += self.sums.elements(len(gates), left)

    def _group(self, phase: int, count: int, weights: str, unit: str) -> None:
        """All streams by the `count` panels from `unit` on, whose weights stand side by side from `weights` on."""
        gates = self.cell.phases[phase]
        width = min(count, max(1, 4 // len(gates)))
        whole = count // width
        if whole > 1:
            self.text(f"for side in range({whole}):")
            self.text.depth += 1
            beside = width * len(gates) * self.lanes * self.sums.step
            self._streams(phase, count, width, f"{weights} + side * {beside}", f"{unit} + side * {width * self.lanes}")
            self.text.depth -= 1
        else:
            self._streams(phase, count, width, weights, unit)
        if count > whole * width:
            past = whole * width
            self._streams(
                phase,
                count,
                count - past,
                f"{weights} + {past * len(gates) * self.lanes * self.sums.step}",
                f"{unit} + {past * self.lanes}",
            )

    def _streams(self, phase: int, count: int, width: int, weights: str, unit: str) -> None:
        """All streams by `width` panels of a group of `count`."""
        tall = self._tall(width * len(self.cell.phases[phase]))
        self.text(f"u, first, i = {unit}, {weights}, 0")
        for height in dict.fromkeys((tall, 1)):
            self.text(f"while i + {height} <= rows:")
            self.text.depth += 1
            self._tile(phase, count, width, height)
            self.text(f"i += {height}")
            self.text.depth -= 1

    def _tall(self, sums: int) -> int:
        """The number of streams of a tile with so many sums for each."""
        return max(1, SUMS[32 if self.registers >= 32 else 16] // sums)

    def _tile(self, phase: int, count: int, width: int, height: int) -> None:
        """The sums of `height` streams from stream i on by `width` panels from unit u on, then their cells."""
        cell, lanes, text = self.cell, self.lanes, self.text
        names = [(panel, gate) for panel in range(width) for gate in cell.phases[phase]]
        streams = range(height)
        kept = self._sums(phase, names, count, streams)
        for v in streams:
            text(*(f"store(g, {(v * len(kept) + place) * lanes}, {name}_{v})" for place, name in enumerate(kept)))
        text(f"for v in range({height}):")
        text.depth += 1
        text(
            f"yt, pt = at(y, (i + v) * {self.strides.y}), at(p, (i + v) * {self.strides.p})",
            "before = at(hi, get(hi_at, i + v) * hi_by)",
        )
        if cell.op == "LSTM":
            text("c = at(co, get(co_at, i + v) * co_by)")
        if len(cell.phases) > 1:
            text(f"s = at(applied, (i + v) * {2 * cell.H})")
        text(*(f"{name} = load(g, (v * {len(kept)} + {place}) * {lanes})" for place, name in enumerate(kept)))
        for panel in range(width):
            tail = f"{cell.H} - u - {panel * lanes}" if cell.H % lanes else 0
            cell_equations(text, cell, phase, panel, f"u + {panel * lanes}", tail, lanes, "u")
        text.depth -= 1

    def _sums(self, phase: int, names: Sequence[tuple[int, int]], count: int, streams: range) -> list[str]:
        """Write the sums g{gate}{panel}_{stream} of (panel, gate), of a group of `count` panels; returns the names without
        stream of what the cells take."""
        cell, lanes, text = self.cell, self.lanes, self.text
        gates = cell.phases[phase]
        padded = self.panels * lanes
        late = cell.linear_before_reset
        for v in streams:
            text(f"pt{v} = at(p, (i + {v}) * {self.strides.p})")
            text(f"h{v} = at(applied, (i + {v}) * {2 * cell.H})" if phase else f"h{v} = at(hi, get(hi_at, i + {v}) * hi_by)")
        for v in streams:
            for panel, gate in names:
                here = f"g{gate}{panel}_{v}"
                if cell.inputs:
                    text(f"{here} = load(e, {cell.row('bias', gate) * padded + panel * lanes} + u)")
                elif self.inputs:
                    text(f"{here} = load(b, u * {cell.gates} + {gate * lanes})" if v == 0 else f"{here} = g{gate}{panel}_0")
                elif not (late and gate == 2):
                    text(f"{here} = load(pt{v}, u * {cell.gates} + {(panel * cell.gates + gate) * lanes})")
        kept = [f"g{gate}{panel}" for panel, gate in names]
        if self.inputs:
            text(f"n = u * {cell.gates * self.inputs}")
            after = [f"load(b, u * {cell.gates} + {cell.gates * padded + gate * lanes} + %s)" for _, gate in names]
            self._products("w", "pt", self.inputs, kept, len(gates), streams, cell.x_each, after)
        text("n = first")
        if cell.inputs:
            self._products("r", "pt", cell.inputs, kept, count * len(gates), streams, cell.x_each, self._after("x", names))
        if late:
            for panel, gate in names:
                for v in streams:
                    if gate == 2 and cell.inputs:
                        text(f"x{panel}_{v} = g2{panel}_{v}")
                    if gate == 2:
                        text(f"g2{panel}_{v} = load(e, {cell.row('Rbh') * padded + panel * lanes} + u)")
            if cell.inputs:
                kept = [*kept, *(f"x{panel}" for panel, gate in names if gate == 2)]
        sums = [f"g{gate}{panel}" for panel, gate in names]
        self._products("r", "h", cell.H, sums, count * len(gates), streams, cell.h_each, self._after("h", names))
        return kept

    def _after(self, what: str, names: Sequence[tuple[int, int]]) -> list[str]:
        """The text of the factor of each sum after a group of x or h, with %s for the elements to that group's."""
        padded = self.panels * self.lanes
        return [f"load(e, {self.cell.row(what, gate) * padded + panel * self.lanes} + u + %s)" for panel, gate in names]

    def _products(
        self, weights: str, vector: str, size: int, sums: list[str], beside: int, streams: range, each: int, after: list[str]
    ) -> None:
        """Add to every sum its products by one vector a stream, in order; int8 sums are multiplied by `after` each group."""
        text, parted = self.text, 0 < each < size
        if parted:
            text(f"for q in range({-(-size // each)}):")
            text.depth += 1
        text(f"for k in range(q * {each}, min({size}, q * {each} + {each})):" if parted else f"for k in range({size}):")
        for v in streams:
            text(f"    v{v} = splat(get({vector}{v}, k))")
        for place, name in enumerate(sums):
            text(f"    w_k = load({weights}, n + {place * self.lanes})")
            text(*(f"    {name}_{v} = fma(v{v}, w_k, {name}_{v})" for v in streams))
        text(f"    n += {beside * self.lanes}")
        if each:
            on = f"q * {self.cell.gates * self.panels * self.lanes}" if parted else "0"
            for name, factor in zip(sums, after, strict=True):
                text(f"w_k = {factor % on}", *(f"{name}_{v} = {name}_{v} * w_k" for v in streams))
        text.depth -= parted
