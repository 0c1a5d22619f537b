"""Matrix products of int8: activations quantised row by row, exact int32 sums, float32 results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Scratch, Weight
from tinyrnn.graph.op import Array, Refused
from tinyrnn.lanes import (
    at,
    dot,
    dot_offset,
    dot_width,
    f32,
    fma,
    get,
    i8,
    i32,
    kernel,
    lanes,
    load,
    load_ints,
    plus,
    splat,
    store,
    store_part,
    times,
    to_float,
    zeros,
)
from tinyrnn.lanes.dots import TOGETHER, Dot
from tinyrnn.lanes.integers import LEAST, dots4, quantise_bytes, quantise_int8, quantise_uint8, quantise_whole
from tinyrnn.ops.linear.chain import fma as fma_of

GROUP = 4
"""panels of LANES outputs whose weights are interleaved"""
MAGNITUDE = 255
"""the largest magnitude of an activation less its zero point"""
QUANTISED = 2
"""float32 elements before the activations of a row: their scale, and what is to be added to them"""
QUANTISERS = ("quantise_int8", "quantise_uint8", "quantise_whole", "quantise_bytes")
_USED = (
    *(at, dot, dot_offset, dot_width, dots4, f32, fma, get, i8, i32, lanes, load, load_ints, plus, quantise_int8),
    *(quantise_bytes, quantise_uint8, quantise_whole, splat, store, store_part, times, to_float, zeros),
)
ARGUMENTS = "y, x, w, b, sums, starts, q, rows, x_row, K, M, q_row, parts"


def parts_of(q: Array) -> int:
    """The number of int8 matrices whose sum integer weights are."""
    return 1 if q.dtype == np.int8 or (q.min(initial=0) >= -128 and q.max(initial=0) <= 127) else 2


def grouped(q: Array, size: int, dot: Dot, parts: int) -> Array:
    """Weights [K, outputs], zero-padded along k, in groups of `size` outputs: each [part][k / width][output][width], int8.

    Raises `Refused` where a sum over k may be no int32.
    """
    k = len(q)
    largest = MAGNITUDE * int(np.abs(q.astype(np.int64)).sum(0).max(initial=0))
    if largest >= 1 << 31:
        raise Refused(f"sums of its {k} products of integers can be {largest}; supported are those that are an int32")
    made = []
    for group in _groups(q, size, parts):
        wide = np.zeros((-(-k // dot.width) * dot.width, group.shape[1]), np.int8)
        wide[:k] = group
        made.append(wide.reshape(-1, dot.width, group.shape[1]).transpose(0, 2, 1).ravel())
    return np.concatenate(made)


def starts_of(q: Array, parts: int) -> Array:
    """For each group of TOGETHER of the outputs of integer weights [K, outputs], and each part of it: minus the sum of the
    products of neighbours, which `dots4` of "dual" finds too much. int32"""
    made = [np.zeros(0, np.int32)]
    for group in _groups(q, TOGETHER, parts):
        wide = np.zeros((len(q) + len(q) % 2, TOGETHER), np.int32)
        wide[: len(q)] = group
        made.append(-(wide[0::2] * wide[1::2]).sum(0, dtype=np.int32))
    return np.concatenate(made)


def _groups(q: Array, size: int, parts: int) -> Iterator[Array]:
    """Each group of `size` outputs, as that many int8 matrices."""
    for first in range(0, q.shape[1], size):
        rest = q[:, first : first + size].astype(np.int16)
        for _ in range(parts):
            part = np.clip(rest, -128, 127)
            rest = rest - part
            yield part.astype(np.int8)


def padded(outputs: Array, lanes: int) -> Array:
    """[…, outputs], zero-padded to whole vectors, or groups of TOGETHER where LANES is 1."""
    step = lanes if lanes > 1 else TOGETHER
    wide = np.zeros((*outputs.shape[:-1], -(-outputs.shape[-1] // step) * step), outputs.dtype)
    wide[..., : outputs.shape[-1]] = outputs
    return wide


def pack_rest(scale: Array, bias: Array | None, lanes: int) -> Array:
    """The bias [M] and the scales [M] of weights, each padded to whole vectors."""
    m = len(scale)
    rows = np.zeros((2, -(-m // lanes) * lanes), np.float32)
    rows[1, :m] = scale
    if bias is not None:
        rows[0, :m] = bias
    return rows.ravel()


def _linear_text(name: str, quantiser: str, heights: Sequence[int]) -> str:
    """The kernel below: whole groups in blocks of `heights` rows by GROUP panels, the panels of the last group one by one."""
    shifted = "True" if quantiser == "quantise_uint8" else "dot_offset() != 0"
    lines = [
        f"def {name}({ARGUMENTS}):",
        '    """y[r, j] = b[j] + s[j] · scale of row r · the sum over k of its activations and W[k, j].',
        "",
        "    w from `pack`, b with the scales from `pack_rest`, sums over k of w; q scratch [rows][q_row]: QUANTISED",
        "    elements and the activations of each row.",
        '    """',
        "    y, x, w, b, sums, scales, q = f32(y), f32(x), i8(w), f32(b), i32(sums), f32(q), i8(q)",
        "    L, D = lanes(), dot_width()",
        "    panels, depth = (M + L - 1) // L, (K + D - 1) // D * D",
        "    for r in range(rows):",
        f"        scale, shift = {quantiser}(at(q, 4 * (r * q_row + {QUANTISED})), at(x, r * x_row), K)",
        "        store_part(scales, r * q_row, scale, 1)",
        "        store_part(scales, r * q_row + 1, shift, 1)",
        f"    whole = panels // {GROUP} * {GROUP}",
        f"    for j in range(0, whole, {GROUP}):",
        *_blocks(heights, GROUP, shifted),
        "    for j in range(whole, panels):",
        *_blocks(heights, 1, shifted),
    ]
    return "\n".join(lines) + "\n"


def _blocks(heights: Sequence[int], group: int, shifted: str) -> list[str]:
    """Lines for all rows by `group` panels from panel j on."""
    start = "j * L * depth * parts" if group == GROUP else "whole * L * depth * parts + (j - whole) * L * D"
    stride = f"{GROUP} * L * D" if group == GROUP else "(panels - whole) * L * D"
    lines = ["left = M - j * L", "r = 0"]
    for height in heights:
        names = [[f"s{row}{panel}" for panel in range(group)] for row in range(height)]
        lines.append(f"while r + {height} <= rows:")
        body = [f"x{row} = at(q, 4 * ((r + {row}) * q_row + {QUANTISED}))" for row in range(height)]
        for row in range(height):
            body.append(f"shift = splat(get(scales, (r + {row}) * q_row + 1))")
            for panel in range(group):
                body += [f"{names[row][panel]} = zeros()", f"if {shifted}:"]
                body.append(f"    {names[row][panel]} = times(load_ints(sums, (j + {panel}) * L), shift)")
        body += [f"here = at(w, {start})", "for part in range(parts):", "    for k in range(0, depth, D):"]
        for row in range(height):
            body += [f"        {name} = dot({name}, x{row}, k, here, {panel} * L * D)" for panel, name in enumerate(names[row])]
        body.append(f"        here = at(here, {stride})")
        for row in range(height):
            body += [f"to = at(y, (r + {row}) * M + j * L)", f"scale = splat(get(scales, (r + {row}) * q_row))"]
            for panel in range(group):
                factor, bias = f"scale * load(b, (panels + j + {panel}) * L)", f"load(b, (j + {panel}) * L)"
                body.append(f"v = fma(to_float({names[row][panel]}), {factor}, {bias})")
                last = panel == group - 1
                body.append(f"store_part(to, {panel} * L, v, left - {panel} * L)" if last else f"store(to, {panel} * L, v)")
        lines += ["    " + line for line in [*body, f"r += {height}"]]
    return ["        " + line for line in lines]


def _linear_1_text(name: str, quantiser: str) -> str:
    """The text for LANES = 1: TOGETHER outputs at once."""
    sums, more = [f"s{n}" for n in range(TOGETHER)], [f"m{n}" for n in range(TOGETHER)]
    lines = [
        f"def {name}({ARGUMENTS}):",
        '    """As `linear_int8_32`; starts from `starts_of` where sums start so."""',
        "    y, x, w, b, sums, starts, scales, q = f32(y), f32(x), i8(w), f32(b), i32(sums), i32(starts), f32(q), i8(q)",
        "    D = dot_width()",
        "    depth = (K + D - 1) // D * D",
        "    for r in range(rows):",
        "        to = at(y, r * M)",
        f"        here = at(q, 4 * {QUANTISED})",
        f"        scale, shift = {quantiser}(here, at(x, r * x_row), K)",
        f"        for j in range(0, M, {TOGETHER}):",
        f"            {', '.join(sums)} = dots4(at(w, j * parts * depth), here, depth, at(starts, j * parts))",
        "            if parts > 1:",
        f"                first = j * parts + {TOGETHER}",
        f"                {', '.join(more)} = dots4(at(w, first * depth), here, depth, at(starts, first))",
        *(f"                {name} = plus({name}, {other})" for name, other in zip(sums, more, strict=True)),
    ]
    for n, name in enumerate(sums):
        body = [f"store(to, j + {n}, fma(to_float({name}), scale * load(b, M + j + {n}), load(b, j + {n})))"]
        if quantiser == "quantise_uint8":
            body.insert(0, f"{name} = plus({name}, times(load_ints(sums, j + {n}), shift))")
        lines += [f"            if j + {n} < M:", *(f"                {line}" for line in body)]
    return "\n".join(lines) + "\n"


def _linear(name: str, text: str) -> Callable[..., Any]:
    words = {word.__name__: word for word in _USED}
    exec(text, words)
    function: Callable[..., Any] = words[name]
    function.__module__ = __name__
    return kernel(function)


_HEIGHTS = {"16": (2, 1), "32": (4, 1)}
"""vector registers → rows of a block"""


def __getattr__(name: str) -> Callable[..., Any]:
    """A kernel, when its name is first asked for: linear_QUANTISER_REGISTERS, 1 where LANES is 1."""
    stem, _, registers = name.rpartition("_")
    quantiser = stem.replace("linear", "quantise")
    if quantiser not in QUANTISERS or registers not in ("1", *_HEIGHTS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text = _linear_1_text(name, quantiser) if registers == "1" else _linear_text(name, quantiser, _HEIGHTS[registers])
    globals()[name] = made = _linear(name, text)
    return made


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Integer weights [K, M], their scales [M] and the bias [M] of a matrix product."""

    q: Array
    scale: Array
    bias: Array | None
    quantiser: str
    parts: int = 1

    def integers(self, env: Lowering) -> tuple[Operand, Operand]:
        """What kernels take as the sums over k of the weights, and as the starts of sums; 0 where they do not."""
        summed, starts = self._integers(env)
        return (Weight(summed) if summed.size else 0), (Weight(starts) if starts.size else 0)

    def together(self, env: Lowering) -> Operand:
        """Both of `integers` in one array."""
        every = np.concatenate(self._integers(env))
        return Weight(every) if every.size else 0

    def _integers(self, env: Lowering) -> tuple[Array, Array]:
        none = np.zeros(0, np.int32)
        wide = padded(self.q, env.lanes)
        summed = wide.sum(0, dtype=np.int32) if env.dot.offset or self.quantiser == "quantise_uint8" else none
        return summed, starts_of(wide, self.parts) if env.dot.starts else none

    def packed(self, env: Lowering) -> tuple[Weight, Weight]:
        """What kernels take as w and b."""
        size = TOGETHER if env.lanes == 1 else GROUP * env.lanes
        matrix = grouped(padded(self.q, env.lanes), size, env.dot, self.parts)
        return Weight(matrix), Weight(pack_rest(self.scale, self.bias, env.lanes))

    def rows(self, x: Array) -> Array:
        """The product of float32 rows [n, K], with the bits of the kernel of symmetric activations."""
        largest = np.abs(x).max(1, keepdims=True)
        tiny = largest < LEAST
        whole = np.rint(x * (np.float32(127) / np.where(tiny, np.float32(1), largest)))
        sums = np.where(tiny, 0, whole).astype(np.int64) @ self.q.astype(np.int64)
        scale = np.where(tiny, np.float32(0), largest / np.float32(127)) * self.scale
        bias = np.zeros(len(self.scale), np.float32) if self.bias is None else self.bias
        return fma_of(sums.astype(np.float32), scale, np.broadcast_to(bias, sums.shape))

    def call(self, env: Lowering, y: Operand, x: Operand, rows: Rows, x_row: int, of: str, note: str) -> Call:
        """The product of `rows` of x, x_row elements apart; as many rows as `of` has, times its `times`, need scratch."""
        k, m = self.q.shape
        q_row = QUANTISED + env.dot.room(k, env.lanes)
        scratch = Scratch("activations", per_row=rows.times * q_row, of=of)
        registers = 1 if env.lanes == 1 else 32 if env.registers >= 32 else 16
        kernel = getattr(sys.modules[__name__], f"{self.quantiser.replace('quantise', 'linear')}_{registers}")
        operands = (y, x, *self.packed(env), *self.integers(env), scratch, rows, x_row, k, m, q_row, self.parts)
        return Call(kernel, operands, note)
