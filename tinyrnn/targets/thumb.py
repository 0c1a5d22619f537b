"""`chain12`, `chain12_f16` and `dots4` for Arm's M profile with a single-precision unit, as machine code.

LLVM loads weights one by one there: of two instructions for each product one is a load. VLDM loads twelve at once, but LLVM
makes it only of registers that happen to be neighbours, and its Python package has no assembler. So the few instructions are
encoded here (Armv7-M Architecture Reference Manual, A7.7: VLDM, VFMA, VCVTB, VCVTT, VPUSH, VPOP, VMOV, LDM, LDR, PUSH, POP,
SXTAB16, SMLAD, and of the 16-bit ones SUB, ADD, B, BX).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tinyrnn.lanes.chains import CHAINS
from tinyrnn.lanes.dots import TOGETHER

WEIGHTS, WIDENED, FACTORS = 16, 22, 28
"""of `chain12` the first register of the weights, of two halves made single, and of the elements of x; the sums are in s0 to
s11, w in r0, x in r1, n in r2"""
SUMS, PAIRS, QUADS, TEMPORARY = (4, 5, 6, 7), (8, 9), (10, 11, 12, 14), 3
"""registers of the sums of `dots4`, of four activations and of four weights of each; w in r0, x in r1, n in r2, starts in r3"""


def _load(base: int, first: int, count: int) -> list[int]:
    """VLDMIA r{base}!, {s{first} …}"""
    return [0xECB0 | (first & 1) << 6 | base, 0x0A00 | first >> 1 << 12 | count]


def _fma(d: int, n: int, m: int) -> list[int]:
    """VFMA.F32 s{d}, s{n}, s{m}"""
    return [0xEEA0 | (d & 1) << 6 | n >> 1, 0x0A00 | d >> 1 << 12 | (n & 1) << 7 | (m & 1) << 5 | m >> 1]


def _widen(d: int, m: int, top: int) -> list[int]:
    """VCVTB.F32.F16 s{d}, s{m}, or VCVTT of the upper half"""
    return [0xEEB2 | (d & 1) << 6, 0x0A40 | d >> 1 << 12 | top << 7 | (m & 1) << 5 | m >> 1]


def _products(factor: int, halves: bool) -> list[int]:
    found = _load(0, WEIGHTS, CHAINS // 2 if halves else CHAINS)
    for sum_ in range(CHAINS):
        if halves:
            found += _widen(WIDENED + sum_ % 2, WEIGHTS + sum_ // 2, sum_ % 2)
        found += _fma(sum_, factor, WIDENED + sum_ % 2 if halves else WEIGHTS + sum_)
    return found


def _branch(condition: int, words: int) -> int:
    """B{condition} over so many half-words from the one after it; back where negative."""
    return 0xD000 | condition << 8 | (words - 1) & 0xFF


NE, GE, LT, EQ = 1, 10, 11, 0
SAVE, RESTORE, RETURN = [0xED2D, 0x8A10], [0xECBD, 0x8A10], [0x4770]
"""VPUSH and VPOP {s16-s31}; BX lr"""


def _chain12(halves: bool) -> list[int]:
    """The half-words: four elements of x at a time, where a short branch goes round them, then one by one."""
    one = [*_load(1, FACTORS, 1), *_products(FACTORS, halves), 0x3A01]
    one += [_branch(NE, -len(one) - 1)]
    if halves:
        return [*SAVE, *one, *RESTORE, *RETURN]
    four = _load(1, FACTORS, 4)
    for factor in range(4):
        four += _products(FACTORS + factor, halves)
    four += [0x3A04]  # SUBS r2, #4
    four += [_branch(GE, -len(four) - 1)]
    return [*SAVE, 0x3A04, _branch(LT, len(four)), *four, 0x3204, _branch(EQ, len(one)), *one, *RESTORE, *RETURN]


def _multiple(base: int, registers: Sequence[int], back: bool = True) -> list[int]:
    """LDMIA r{base}!, {registers}; without ! where not `back`"""
    return [0xE890 | back << 5 | base, sum(1 << r for r in registers)]


def _dot(sum_: int, weights: int) -> list[int]:
    """Four products. With e, o the activations of even and odd k and w, u the weights of even and odd k, two of each,
    (o + w)(e + u) = o e + o u + w e + w u, of which what is not wanted, o e and w u, is in the start of the sum."""
    even, odd = PAIRS
    return [
        *(0xFA20 | odd, 0xF080 | TEMPORARY << 8 | weights),  # SXTAB16 t, o, w
        *(0xFA20 | even, 0xF090 | weights << 8 | weights),  # SXTAB16 w, e, w, ROR #8
        *(0xFB20 | TEMPORARY, sum_ << 12 | sum_ << 8 | weights),  # SMLAD sum, t, w, sum
    ]


def _dots4() -> list[int]:
    """The half-words: sixteen activations at a time, then four by four."""
    one = [*_multiple(1, PAIRS), *_multiple(0, QUADS)]
    for sum_, weights in zip(SUMS, QUADS, strict=True):
        one += _dot(sum_, weights)
    many = [*one * 4, 0x3A10]  # SUBS r2, #16
    many += [_branch(GE, -len(many) - 1)]
    one += [0x3A04]
    one += [_branch(NE, -len(one) - 1)]
    start = [*_multiple(3, SUMS, back=False), 0xF851, 0x0B04 | PAIRS[0] << 12]  # LDR r8, [r1], #4
    start += [0x4400 | PAIRS[0] << 3 | sum_ for sum_ in SUMS]  # ADD sum, r8
    end = [0xEC40 | SUMS[1], SUMS[0] << 12 | 0x0A10, 0xEC40 | SUMS[3], SUMS[2] << 12 | 0x0A11]  # VMOV s0, s1, …; VMOV s2, s3, …
    save, restore = [0xE92D, 0x4FF0], [0xE8BD, 0x8FF0]  # PUSH {r4-r11, lr}; POP {r4-r11, pc}
    body = [*start, 0x3A10, _branch(LT, len(many)), *many, 0x3210, _branch(EQ, len(one)), *one]
    return [*save, *body, *end, *restore]


@dataclass(frozen=True)
class Routine:
    """A function in machine code. LLVM passes and returns floats in s0 and on."""

    stack: int
    """bytes that it pushes"""
    code: Callable[[], list[int]]
    result: int
    """number of floats"""
    arguments: tuple[str, ...]

    def definition(self, name: str) -> str:
        """LLVM text. The body is never reached, and as the linkage is weak nothing is concluded from it."""
        words = self.code()
        words += [0xBF00] * (len(words) % 2)
        data = ", ".join(f"i16 {word - 0x10000 if word > 0x7FFF else word}" for word in words)
        result = ", ".join(["float"] * self.result)
        return (
            f"define weak hidden {{ {result} }} @{name}({', '.join(self.arguments)}) noinline nounwind "
            f"prologue [{len(words)} x i16] [{data}]\n{{\n  unreachable\n}}\n"
        )


ROUTINES = {
    "tinyrnn_chain12": Routine(64, partial(_chain12, False), CHAINS, ("ptr", "ptr", "i32", *["float"] * CHAINS)),
    "tinyrnn_chain12_f16": Routine(64, partial(_chain12, True), CHAINS, ("ptr", "ptr", "i32", *["float"] * CHAINS)),
    "tinyrnn_dots4": Routine(36, _dots4, TOGETHER, ("ptr", "ptr", "i32", "ptr")),
}
