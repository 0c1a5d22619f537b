"""Calls that pass over the weights of a large recurrent layer once a step: by one thread, or shared by the threads of a crew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinyrnn.graph.call import Call, Close, Iteration, Lowering, Open, Operand, Rows, Scratch
from tinyrnn.lanes import kernel
from tinyrnn.ops.linear.operators import GROUP, SHARED_FROM
from tinyrnn.ops.movement.strided_copy import copy_f32
from tinyrnn.ops.recurrent.kernel_text import FIRST_LEVEL_CACHE, Cell, GateSums, Text, write_phase


@kernel
def last_row(y: Any, otherwise: Any, x: Any, rows: int, n: int) -> None:
    """y = the last of `rows` rows of x, each of n float32, or what is taken otherwise if there are none."""
    if rows > 0:
        copy_f32(y, x + 4 * n * (rows - 1), n)
    else:
        copy_f32(y, otherwise, n)


def takes_single(cell: Cell, lanes: int) -> bool:
    """Whether the kernel can multiply x itself in calls of one row, so that all weights are one pass: if they are more than the
    first-level cache holds, and `linear` has the gates of a panel side by side, as the kernel has them."""
    large = 4 * cell.gates * cell.H * cell.H > FIRST_LEVEL_CACHE
    return cell.gates == GROUP and lanes > 1 and large and not cell.quantiser and not cell.inputs


def found_again(cell: Cell, env: Lowering, inputs: int) -> bool:
    """Whether a call that reads a layer's weights from the other end than the last one finds some of them in the second-level
    cache: if it holds all others."""
    return 4 * cell.gates * cell.H * (cell.H + inputs) > env.beyond


class OnePass(GateSums):
    """Gate sums that take x in calls of one row. The kernel takes three parameters more: w, the weights of x as `linear` takes
    them, with whose bias the sums start that take x; x, or no address where p is the input's share; and turns, where it
    `alternates`: an int32 that says from which end the weights are read."""

    operands = ", w, x, turns"

    def __init__(self, cell: Cell, lanes: int, registers: int, size: int, alternates: bool) -> None:
        """size: of x, or 0 where the kernel never takes it."""
        super().__init__(cell, lanes, registers)
        self.size, self.alternates = size, alternates
        if alternates:
            self.odd = "(t + turned) % 2"

    def pointers(self, text: Text) -> None:
        text(f"take = {self.size} if x != 0 else 0", f"w, x = {self.cell.word}(w), f32(x)")
        if self.alternates:
            text("turns = i32(turns)", "turned = get(turns, 0)")

    def more(self, text: Text, names: Sequence[tuple[int, int]], first: str) -> None:
        gates, each, size = self.cell.gates, self.cell.x_each, self.size
        if not size:
            return
        text(f"n = {first} * {gates * size}")
        if each:
            text(f"for q in range(min(take, {-(-size // each)})):")
            text.depth += 1
        text(f"for k in range(q * {each}, min({size}, q * {each} + {each})):" if each else "for k in range(take):")
        text("    v = splat(get(x, k))")
        for panel, gate in names:
            place = (panel * gates * size + gate) * self.lanes
            text(f"    g{gate}{panel} = fma(v, load(w, n + {place}), g{gate}{panel})")
        text(f"    n += {gates * self.lanes}")
        for panel, gate in names if each else ():
            factor = self.share(gate, panel, first, f"at(p, (q + 1) * {gates * self.panels * self.lanes})")
            text(f"g{gate}{panel} = g{gate}{panel} * {factor}")
        text.depth -= bool(each)

    def end(self, text: Text) -> None:
        if self.alternates:
            text("put(turns, 0, turned + length)")


class _Share(OnePass):
    """The same for steps that a crew shares."""

    def __init__(self, cell: Cell, lanes: int, registers: int, size: int, alternates: bool) -> None:
        super().__init__(cell, lanes, registers, size, alternates)
        self.odd = "turns % 2" if alternates else "t % 2"

    def pointers(self, text: Text) -> None:
        text(f"take = {self.size} if x != 0 else 0", f"w, x = {self.cell.word}(w), f32(x)")


def step_text(sums: _Share, phase: int, base: int) -> tuple[str, int, int]:
    """(source, where the weights of the next phase begin, pieces) of KERNEL(y, p, r, e, hi, c, s, w, x, t, low, high, turns).

    It does one phase of time step t for groups of panels from `low` to before `high`, read from an end that `turns` says.
    Otherwise as `kernel_text`, for one sequence whose steps are rows; c is the state that it changes.
    """
    text, cell = Text(), sums.cell
    text("def KERNEL(y, p, r, e, hi, c, s, w, x, t, low, high, turns):")
    text.depth = 1
    sums.pointers(text)
    text(
        f"y, p, r, e, before, c, s = f32(y), f32(p), {cell.word}(r), f32(e), f32(hi), f32(c), f32(s)",
        "if t > 0:",
        f"    before = at(y, (t - 1) * {cell.H})",
        f"yt, pt = at(y, t * {cell.H}), at(p, t * {cell.gates * sums.panels * sums.lanes})",
    )
    base, pieces = write_phase(text, sums, phase, base, shared=True)
    return "\n".join(text.lines) + "\n", base, pieces


@dataclass(frozen=True)
class Layer:
    """The operands of a layer over one sequence whose steps are rows."""

    x: str
    """the value of whose rows it is called"""
    y: Operand
    packed: tuple[Operand, Operand]
    """r and e of the kernel"""
    places: tuple[Operand, ...]
    """h before and after, c before and after"""
    projected: Sequence[Call]
    """calls that make the input's share of all rows"""
    share: Operand
    """what they make, or what else the kernel takes as p"""
    note: str

    @property
    def weights(self) -> tuple[Operand, Operand]:
        """The weights of x and the bias, as `linear` takes them."""
        matrix, bias = self.projected[-1].operands[2:4]
        return matrix, bias


def shares(cell: Cell, env: Lowering, inputs: int) -> bool:
    """Whether the threads of a crew share a layer: if it is large enough that waiting for each other costs less."""
    large = cell.gates * cell.H * (cell.H + inputs) >= SHARED_FROM
    return env.crew and env.lanes > 1 and large and not cell.inputs and not cell.quantiser


def by_rows(layer: Layer, one: Sequence[Call | Open | Close], many: Sequence[Call | Open | Close]) -> list[Call | Open | Close]:
    """Other calls for one row than for several."""
    rows = (Rows(of=layer.x),)
    return [Open("if {} == 1:", rows), *one, Close(), Open("if {} != 1:", rows), *many, Close()]


def shared_steps(sums: GateSums, layer: Layer, given: Operand, alternates: bool, one: bool = False) -> list[Call | Open | Close]:
    """The calls of a layer whose steps a crew shares; `given` is x. one: for calls of one row only."""
    cell, lstm = sums.cell, sums.cell.op == "LSTM"
    h_before, h_after, c_before, c_after = layer.places
    size = sums.size if isinstance(sums, OnePass) else 0
    parts, base = list[tuple[str, int]](), 0
    for phase in range(len(cell.phases)):
        text, base, pieces = step_text(_Share(cell, sums.lanes, sums.registers, size, alternates), phase, base)
        parts.append((text, pieces))

    def steps(p: Operand, w: Operand, x: Operand, t: Operand) -> list[Call]:
        state = c_after if lstm else 0
        operands = (layer.y, p, *layer.packed, h_before, state, Scratch("s", fixed=2 * cell.H), w, x, t)
        return [Call(text, operands, layer.note, pieces) for text, pieces in parts]

    rows = Rows(of=layer.x)
    begin = [Call(copy_f32, (c_after, c_before, cell.H))] * lstm
    loop = Open("for ITERATION in range({}):", (rows,))
    calls: list[Call | Open | Close] = [*layer.projected, loop, *steps(layer.share, 0, 0, Iteration()), Close()]
    if size:
        matrix, bias = layer.weights
        single = steps(bias, matrix, given, 0)
        calls = [*single] if one else by_rows(layer, single, calls)
    return [*begin, *calls, Call(last_row, (h_after, h_before, layer.y, rows, cell.H))]
