"""`chain12` and `chain12_f16` for Arm's M profile with a single-precision unit, as machine code.

LLVM loads weights one by one there: of two instructions for each product one is a load. VLDM loads twelve at once, but LLVM
makes it only of registers that happen to be neighbours, and its Python package has no assembler. So the few instructions are
encoded here (Armv7-M Architecture Reference Manual, A7.7: VLDM, VFMA, VCVTB, VCVTT, VPUSH, VPOP, and of the 16-bit ones SUB,
ADD, B, BX).
"""

from __future__ import annotations

from tinyrnn.lanes.chains import CHAINS

NAMES = {"tinyrnn_chain12": False, "tinyrnn_chain12_f16": True}
"""function → whether its weights are halves"""
STACK = 64
"""bytes that it pushes"""
WEIGHTS, WIDENED, FACTORS = 16, 22, 28
"""the first register of the weights, of two halves made single, and of the elements of x; the sums are in s0 to s11, w in r0,
x in r1, n in r2"""


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


def code(halves: bool) -> list[int]:
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


def definition(name: str) -> str:
    """LLVM text of a function. LLVM passes and returns the twelve sums in s0 to s11; the body is never reached, and as the
    linkage is weak nothing is concluded from it."""
    sums = ", ".join(["float"] * CHAINS)
    words = code(NAMES[name])
    words += [0xBF00] * (len(words) % 2)
    data = ", ".join(f"i16 {word - 0x10000 if word > 0x7FFF else word}" for word in words)
    return (
        f"define weak hidden {{ {sums} }} @{name}(ptr, ptr, i32, {sums}) noinline nounwind "
        f"prologue [{len(words)} x i16] [{data}]\n{{\n  unreachable\n}}\n"
    )
