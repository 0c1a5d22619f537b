"""The text of kernels for one direction of RNN, GRU and LSTM, specialised to sizes and attributes.

The input's share of the gate sums, p, comes from one matrix product over all frames of the call; a
kernel goes through time, adds the state's share and updates the state. Every unit is one lane, every gate sum
one chain of fma: bias, then x in order, then h in order. `panel` means LANES units with all their gates;
the sums of `P` panels stay in registers while h is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyrnn.graph.arrays import Array
from tinyrnn.graph.call import literal
from tinyrnn.lanes.chains import CHAINS, chain_word
from tinyrnn.ops.elementwise.activations import BoundActivation

FIRST_LEVEL_CACHE = 1 << 15
"""bytes of the first-level data cache of nearly every core"""


KEPT = {"RNN": ("Ht",), "GRU": ("z", "r", "h", "Ht"), "LSTM": ("i", "o", "f", "c", "Ct", "Ht")}
"""what a traced kernel stores for each unit, in order: its gates, the last of them the candidate, Ct of LSTM, and Ht"""


@dataclass(frozen=True)
class Cell:
    """The sizes and attributes for which a recurrent kernel is written."""

    op: str
    H: int
    activations: tuple[BoundActivation, ...]
    clip: float | None = None
    peepholes: bool = False
    input_forget: bool = False
    linear_before_reset: bool = False
    inputs: int = 0
    """size of x if the kernel multiplies x itself, 0 if it takes the input's share of the gate sums"""
    traced: bool = False
    """whether the kernel also stores what it computed in each step, see `KEPT`"""
    word: str = "f32"
    """the storage type of W and R, a word of the kernel language"""
    quantiser: str = ""
    """the kernel that makes activations of x and h for sums of int8; empty for sums of float32"""
    parts: int = 1
    """int8 matrices whose sum the integers of W, and of R, are"""
    x_each: int = 0
    """elements of x, and of h, after which int8 sums are multiplied by a factor"""
    h_each: int = 0

    @property
    def gates(self) -> int:
        return {"RNN": 1, "GRU": 3, "LSTM": 4}[self.op]

    @property
    def phases(self) -> tuple[tuple[int, ...], ...]:
        """Groups of gates whose sums over h are computed together: GRU's candidate may need the reset gate first."""
        if self.op == "GRU" and not self.linear_before_reset:
            return (0, 1), (2,)
        return (tuple(range(self.gates)),)

    def row(self, what: str, gate: int = 0) -> int:
        """The row of `pack_extra` with Rbh, a peephole, the bias of a gate, or its first factor for x or h; `gates` rows on is
        the next factor."""
        bias = 4
        x = bias + (self.gates if self.inputs and not self.quantiser else 0)
        h = x + (self.gates * -(-self.inputs // self.x_each) if self.inputs and self.x_each else 0)
        return {"Rbh": 0, "P": 1, "bias": bias, "x": x, "h": h}[what] + gate


@dataclass(frozen=True)
class SequenceLayout:
    """Where a kernel finds its sequences: counts, and strides in elements; a step of time is a row or lies within a frame."""

    batch: int
    length: int
    """steps in one frame, 0 where a step is a row"""
    y_step: int
    y_batch: int
    y_frame: int
    p_step: int
    p_batch: int
    p_frame: int
    backward: bool
    lengths: bool
    """whether each sequence has its own length"""
    before_frame: int
    """elements from one frame's initial h to the next, 0 where all share it"""
    after_frame: int
    state_batch: int
    c_before_frame: int = 0


def takes_input(gates: int, inputs: int, H: int, lanes: int) -> bool:
    """Whether the kernel multiplies x itself: if all weights fit the first-level cache, that hides the latency of the fma by h.

    Also if LANES is 1, where arithmetic takes the time, wherever the weights are, and no memory for the input's share is needed.
    """
    return lanes == 1 or 4 * gates * -(-H // lanes) * lanes * (inputs + H) <= FIRST_LEVEL_CACHE // 2


def panels_together(gates: int, panels: int, registers: int, weights: int, lanes: int, word: str) -> int:
    """The number of panels whose gate sums are kept in registers at once, for weights R, of so many bytes as float32.

    There should be enough sums to hide the latency of fma, and of widening small weights: 8, or 4 if float32 weights come from
    the second-level cache, since narrow groups leave more of them in the first. If LANES is 1, CHAINS sums, for which h is
    read once.
    """
    sums = CHAINS if lanes == 1 else 4 if word == "f32" and weights > FIRST_LEVEL_CACHE else 8
    fit = max(1, (registers * 3 // 4) // gates)
    return min(panels, fit, -(-sums // gates))


class Text:
    """Collects the lines of a kernel, indented by `depth`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line for line in lines]


def kernel_text(sums: GateSums, layout: SequenceLayout) -> str:
    """The source of KERNEL(y, p, r, e, hi, ho, ci, co, s, lens, rows): one direction over all its sequences.

    y [step][H], p x or the input's share, r from `pack_state`, e from `pack_extra`, hi, ci and ho, co the state before and after,
    s scratch of 2·H, lens the lengths, rows the number of rows of the call. A traced cell takes one more, kept
    [step][KEPT][H], which lies as y does with KEPT times its strides; gate sums of other kinds take more (`GateSums.operands`).
    """
    cell, text = sums.cell, Text()
    H = cell.H
    lstm, kept = cell.op == "LSTM", len(KEPT[cell.op])
    text(f"def KERNEL(y, p, r, e, hi, ho, ci, co, s, lens, rows{', kept' if cell.traced else ''}{sums.operands}):")
    text.depth = 1
    sums.pointers(text)
    text(f"y, p, r, e, hi, ho, s = f32(y), f32(p), {cell.word}(r), f32(e), f32(hi), f32(ho), f32(s)")
    if cell.traced:
        text("kept = f32(kept)")
    if lstm:
        text("ci, co = f32(ci), f32(co)")
    if layout.lengths:
        text("lens = i32(lens)")
    frame, item = "0", "0"
    if layout.length:
        text("for q in range(rows):")
        text.depth += 1
        frame = "q"
    if layout.batch > 1:
        text(f"for b in range({layout.batch}):")
        text.depth += 1
        item = "b"
    steps = str(layout.length) if layout.length else "rows"
    text(f"length = {steps}")
    if layout.lengths:
        text(f"length = min(max(get(lens, {frame} * {layout.batch} + {item}), 0), length)")
    text(
        f"h = at(ho, {_sum(frame, layout.after_frame, item, layout.state_batch)})",
        f"before = at(hi, {_sum(frame, layout.before_frame, item, layout.state_batch)})",
    )
    if lstm:
        text(
            f"c = at(co, {_sum(frame, layout.after_frame, item, layout.state_batch)})",
            *copy_lines("c", f"at(ci, {_sum(frame, layout.c_before_frame, item, layout.state_batch)})", H),
        )
    end = "length - 1" if layout.backward else "0"
    text(
        f"yt = at(y, {_sum(frame, layout.y_frame, item, layout.y_batch, end, layout.y_step)})",
        f"pt = at(p, {_sum(frame, layout.p_frame, item, layout.p_batch, end, layout.p_step)})",
    )
    if cell.traced:
        start = _sum(frame, layout.y_frame * kept, item, layout.y_batch * kept, end, layout.y_step * kept)
        text(f"kt = at(kept, {start})")
    sign = "-" if layout.backward else ""
    text("for t in range(length):")
    text.depth += 1
    _step(text, sums)
    text("before = yt", f"yt = at(yt, {sign}{layout.y_step})", f"pt = at(pt, {sign}{layout.p_step})")
    if cell.traced:
        text(f"kt = at(kt, {sign}{layout.y_step * kept})")
    text.depth -= 1
    sums.end(text)
    text(*copy_lines("h", "before", H))
    if layout.lengths:
        rest = f"at(y, {_sum(frame, layout.y_frame, item, layout.y_batch)})"
        text("if length == 0:", *(f"    {line}" for line in _zero("h", H)))
        if lstm:
            text(*(f"    {line}" for line in _zero("c", H)))
        text(
            f"rest = {rest}",
            f"for t in range(length, {steps}):",
            *(f"    {line}" for line in _zero(f"at(rest, t * {layout.y_step})", H)),
        )
        if cell.traced:
            text(
                f"rest = at(kept, {_sum(frame, layout.y_frame * kept, item, layout.y_batch * kept)})",
                f"for t in range(length, {steps}):",
                *(f"    {line}" for line in _zero(f"at(rest, t * {layout.y_step * kept})", kept * H)),
            )
    return "\n".join(text.lines) + "\n"


def _sum(*terms: str | int) -> str:
    """The text of the sum of name * stride over pairs, without terms that are zero."""
    pairs = zip(terms[::2], terms[1::2], strict=True)
    return " + ".join(f"({name}) * {stride}" for name, stride in pairs if name != "0" and stride) or "0"


def copy_lines(to: str, start: str, count: int) -> list[str]:
    return [f"for k in range(0, {count}, lanes()):", f"    store_part({to}, k, load_part({start}, k, {count} - k), {count} - k)"]


def _zero(to: str, count: int) -> list[str]:
    return [f"for k in range(0, {count}, lanes()):", f"    store_part({to}, k, splat(0.0), {count} - k)"]


class GateSums:
    """How a kernel computes its gate sums: here as chains of fma over weights in a storage type."""

    operands = ""
    """more parameters of the kernel"""
    step = 1
    """elements k of a sum that lie side by side in r"""
    odd = "t % 2"
    """whether groups are read from the last on"""

    def __init__(self, cell: Cell, lanes: int, registers: int) -> None:
        self.cell, self.lanes, self.registers = cell, lanes, registers
        self.panels = -(-cell.H // lanes)
        self.depth = cell.inputs + cell.H
        """elements of r for each sum"""

    def together(self, gates: int) -> int:
        """The number of panels whose sums are computed together."""
        weights = 4 * self.cell.gates * self.cell.H * self.cell.H
        return panels_together(gates, self.panels, self.registers, weights, self.lanes, self.cell.word)

    def elements(self, gates: int, count: int) -> int:
        """Elements of r for a group of `count` panels."""
        return count * gates * self.lanes * self.depth

    def arranged(self, group: Array) -> Array:
        """The weights [k, panels·gates·LANES] of a group of panels as the kernel reads them."""
        return group.ravel()

    def pointers(self, text: Text) -> None:
        """Write what makes pointers of the additional parameters."""

    def begin(self, text: Text, source: str) -> None:
        """Write what comes before all sums over the vector `source`."""

    def more(self, text: Text, names: Sequence[tuple[int, int]], first: str) -> None:
        """Write what is added to the sums of (panel, gate) after the input's share."""

    def end(self, text: Text) -> None:
        """Write what comes after all steps."""

    def extra(self, row: int, panel: int, first: str) -> str:
        return f"load(e, {(row * self.panels + panel) * self.lanes} + {first})"

    def share(self, gate: int, panel: int, first: str, p: str = "pt") -> str:
        """The text of the input's share of a gate sum of unit first + panel · LANES, where the kernel takes it."""
        return f"load({p}, {first} * {self.cell.gates} + {(panel * self.cell.gates + gate) * self.lanes})"

    def write(self, text: Text, names: Sequence[tuple[int, int]], at: str, first: str, source: str) -> None:
        """Write the sums g{gate}{panel} of (panel, gate) from unit `first` on, with weights from element `at` of r on."""
        cell = self.cell
        for panel, gate in names:
            here = f"g{gate}{panel}"
            if cell.inputs:
                text(f"{here} = {self.extra(cell.row('bias', gate), panel, first)}")
            elif not (cell.linear_before_reset and gate == 2):
                text(f"{here} = {self.share(gate, panel, first)}")
        self.more(text, names, first)
        text(f"n = {at}")
        if cell.inputs:
            self._products(text, names, first, "pt", cell.inputs, "x", cell.x_each)
        if cell.linear_before_reset:
            for panel, gate in names:
                if gate == 2:
                    if cell.inputs:
                        text(f"x{panel} = g2{panel}")
                    text(f"g2{panel} = {self.extra(cell.row('Rbh'), panel, first)}")
        self._products(text, names, first, source, cell.H, "h", cell.h_each)

    def _products(
        self, text: Text, names: Sequence[tuple[int, int]], first: str, vector: str, size: int, what: str, each: int
    ) -> None:
        """Add to every sum its products by a vector, in order; int8 sums are multiplied by a factor after `each` of them."""
        cell, lanes = self.cell, self.lanes
        sums = [f"g{gate}{panel}" for panel, gate in names]
        count, start = str(size), ""
        if 0 < each < size:
            text(f"for q in range({-(-size // each)}):")
            text.depth += 1
            count, start = f"min({size} - q * {each}, {each})", f"q * {each}"
        if lanes == 1 and len(sums) == CHAINS:
            source = f"at({vector}, {start})" if start else vector
            chain = f"{chain_word(cell.word)}(at(r, n), {source}, {count}, {', '.join(sums)})"
            text(f"{', '.join(sums)} = {chain}", f"n += {CHAINS} * {count}")
        else:
            text(f"for k in range({count}):", f"    v = splat(get({vector}, k{f' + {start}' if start else ''}))")
            for place, here in enumerate(sums):
                text(f"    {here} = fma(v, load(r, n + {place * lanes}), {here})")
            text(f"    n += {len(sums) * lanes}")
        if each:
            on = f" + q * {cell.gates * self.panels * lanes}" if start else ""
            rows = [(cell.row(what, gate) * self.panels + panel) * lanes for panel, gate in names]
            text(*(f"{here} = {here} * load(e, {row}{on} + {first})" for here, row in zip(sums, rows, strict=True)))
        text.depth -= bool(start)


def _step(text: Text, sums: GateSums) -> None:
    """Write one time step: yt from pt and `before`."""
    base = 0
    for phase in range(len(sums.cell.phases)):
        base = write_phase(text, sums, phase, base)[0]


def write_phase(text: Text, sums: GateSums, phase: int, base: int, shared: bool = False) -> tuple[int, int]:
    """Write one phase of a time step, whose weights begin at element `base` of r, of all groups of panels or, if `shared`, of
    those from `low` to before `high`. Returns (where the weights of the next phase begin, number of groups)."""
    cell, lanes, panels = sums.cell, sums.lanes, sums.panels
    gates, source = cell.phases[phase], "s" if phase else "before"
    sums.begin(text, source)
    together = sums.together(len(gates))
    whole, stride = panels // together, together * lanes
    group, even = sums.elements(len(gates), together), whole * together == panels
    if whole > 1 or shared:
        low, past = ("low", "past") if shared else ("0", str(whole))
        text(*[f"past = min(high, {whole})"] * shared, f"for turn in range({low}, {past}):")
        text.depth += 1
        text(f"i = turn if {sums.odd} == 0 else {low} + {past} - 1 - turn", f"j = i * {stride}")
        _group(text, sums, phase, together, f"i * {group} + {base}", "j", source, even)
        text.depth -= 1
    else:
        _group(text, sums, phase, together, str(base), "0", source, even)
    base += whole * group
    left = panels - whole * together
    if left:
        if shared:
            text(f"if high > {whole}:")
        text.depth += shared
        _group(text, sums, phase, left, str(base), str(whole * stride), source, True)
        text.depth -= shared
        base += sums.elements(len(gates), left)
    return base, whole + bool(left)


def _group(text: Text, sums: GateSums, phase: int, count: int, at: str, first: str, source: str, last: bool) -> None:
    """Write the gate sums of `count` panels from unit `first` on, then their cells."""
    cell, lanes = sums.cell, sums.lanes
    sums.write(text, [(panel, gate) for panel in range(count) for gate in cell.phases[phase]], at, first, source)
    for panel in range(count):
        unit = f"{first} + {panel * lanes}"
        tail = cell.H - (sums.panels - 1) * lanes if last and panel == count - 1 and cell.H % lanes else 0
        if tail and first == "j":  # the loop's last group alone is partial; earlier ones are whole
            tail_text: str | int = f"{cell.H} - ({unit})"
        else:
            tail_text = tail
        cell_equations(text, cell, phase, panel, unit, tail_text, lanes, first)


def _load(pointer: str, unit: str, tail: str | int) -> str:
    return f"load_part({pointer}, {unit}, {tail})" if tail else f"load({pointer}, {unit})"


def _store(pointer: str, unit: str, value: str, tail: str | int) -> str:
    return f"store_part({pointer}, {unit}, {value}, {tail})" if tail else f"store({pointer}, {unit}, {value})"


def cell_equations(text: Text, cell: Cell, phase: int, panel: int, unit: str, tail: str | int, lanes: int, first: str) -> None:
    """Write the equations of one panel, from its gate sums g{gate}{panel}."""

    def sum_of(gate: int) -> str:
        return f"g{gate}{panel}"

    def act(which: int, value: str) -> str:
        bound = cell.activations[which]
        if cell.clip is not None and not (cell.op == "LSTM" and which == 2):
            value = f"at_most(at_least({value}, {literal(-cell.clip)}), {literal(cell.clip)})"
        return bound.activation.words.format(
            x=value if value.isidentifier() else f"({value})", alpha=literal(bound.alpha), beta=literal(bound.beta)
        )

    def assign(name: str, which: int, value: str) -> None:
        text(f"{name} = {value}", f"{name} = {act(which, name)}")

    def keep(**values: str) -> None:
        """Store the values of a traced cell by their names in `KEPT`."""
        if cell.traced:
            for name, value in values.items():
                text(_store("kt", f"{KEPT[cell.op].index(name) * cell.H} + {unit}", value, tail))

    padded = -(-cell.H // lanes) * lanes
    if cell.op == "RNN":
        assign("ht", 0, sum_of(0))  # Ht = f(Xt W + Ht-1 R + Wb + Rb)
        text(_store("yt", unit, "ht", tail))
        keep(Ht="ht")
    elif cell.op == "LSTM":
        text(f"c1 = {_load('c', unit, tail)}")
        peep = {gate: f"load(e, {padded * cell.row('P', slot)} + {unit})" for slot, gate in enumerate((0, 1, 2))}
        i, o, f = ((f"fma({peep[gate]}, {{}}, {sum_of(gate)})" if cell.peepholes else sum_of(gate)) for gate in (0, 1, 2))
        assign("it", 0, i.format("c1"))
        if cell.input_forget:
            text("ft = splat(1.0) - it")
        else:
            assign("ft", 0, f.format("c1"))
        assign("gt", 1, sum_of(3))
        text("ct = fma(ft, c1, it * gt)")  # Ct = ft (.) Ct-1 + it (.) ct
        assign("ot", 0, o.format("ct"))
        assign("ht", 2, "ct")
        text(_store("c", unit, "ct", tail), _store("yt", unit, "ot * ht", tail))  # Ht = ot (.) h(Ct)
        keep(i="it", o="ot", f="ft", c="gt", Ct="ct", Ht=_load("yt", unit, tail))
    elif phase == 0 and not cell.linear_before_reset:
        assign("zt", 0, sum_of(0))
        assign("rt", 0, sum_of(1))
        text(_store("s", unit, f"rt * {_load('before', unit, tail)}", tail), _store("s", f"{cell.H} + {unit}", "zt", tail))
        keep(z="zt", r="rt")
    else:
        if cell.linear_before_reset:
            assign("zt", 0, sum_of(0))
            assign("rt", 0, sum_of(1))
            hidden = f"x{panel}" if cell.inputs else f"load(pt, {first} * {cell.gates} + {(panel * cell.gates + 2) * lanes})"
            assign("ht", 1, f"fma(rt, {sum_of(2)}, {hidden})")
        else:
            text(f"zt = {_load('s', f'{cell.H} + {unit}', tail)}")
            assign("ht", 1, sum_of(2))
        text(f"h1 = {_load('before', unit, tail)}")
        text(_store("yt", unit, "fma(zt, h1 - ht, ht)", tail))  # Ht = (1 - zt) (.) ht + zt (.) Ht-1
        keep(**({"z": "zt", "r": "rt"} if cell.linear_before_reset else {}), h="ht", Ht=_load("yt", unit, tail))
