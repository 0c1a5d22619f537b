"""`chain12` for Arm's M profile with a single-precision unit, as machine code.

LLVM loads weights one by one there: of two instructions for each product one is a load. VLDM loads twelve at once, but LLVM
makes it only of registers that happen to be neighbours, and its Python package has no assembler. So the few instructions
are encoded here (Armv7-M Architecture Reference Manual, A7.7: VLDM, VFMA, VPUSH, VPOP, and of the 16-bit ones SUB, ADD, B, BX).
"""

from __future__ import annotations

from tinyrnn.lanes.chains import CHAINS

NAME = "tinyrnn_chain12"
STACK = 64
"""bytes that it pushes"""
WEIGHTS, FACTORS = 16, 28
"""the first register of the weights, and of the elements of x; the sums are in s0 to s11, w in r0, x in r1, n in r2"""


def _load(base: int, first: int, count: int) -> list[int]:
    """VLDMIA r{base}!, {s{first} …}"""
    return [0xECB0 | (first & 1) << 6 | base, 0x0A00 | first >> 1 << 12 | count]


def _fma(d: int, n: int, m: int) -> list[int]:
    """VFMA.F32 s{d}, s{n}, s{m}"""
    return [0xEEA0 | (d & 1) << 6 | n >> 1, 0x0A00 | d >> 1 << 12 | (n & 1) << 7 | (m & 1) << 5 | m >> 1]


def _products(factor: int) -> list[int]:
    found = _load(0, WEIGHTS, CHAINS)
    for sum_ in range(CHAINS):
        found += _fma(sum_, factor, WEIGHTS + sum_)
    return found


def _branch(condition: int, words: int) -> int:
    """B{condition} over so many half-words from the one after it; back where negative."""
    return 0xD000 | condition << 8 | (words - 1) & 0xFF


NE, GE, LT, EQ = 1, 10, 11, 0
SAVE, RESTORE, RETURN = [0xED2D, 0x8A10], [0xECBD, 0x8A10], [0x4770]
"""VPUSH and VPOP {s16-s31}; BX lr"""


def code() -> list[int]:
    """The half-words: four elements of x at a time, then one by one."""
    four = _load(1, FACTORS, 4)
    for factor in range(4):
        four += _products(FACTORS + factor)
    four += [0x3A04]  # SUBS r2, #4
    four += [_branch(GE, -len(four) - 1)]
    one = [*_load(1, FACTORS, 1), *_products(FACTORS), 0x3A01]
    one += [_branch(NE, -len(one) - 1)]
    return [*SAVE, 0x3A04, _branch(LT, len(four)), *four, 0x3204, _branch(EQ, len(one)), *one, *RESTORE, *RETURN]


def definition() -> str:
    """LLVM text of the function. LLVM passes and returns the twelve sums in s0 to s11; the body is never reached, and as the
    linkage is weak nothing is concluded from it."""
    sums = ", ".join(["float"] * CHAINS)
    words = code() + [0xBF00] * (len(code()) % 2)
    data = ", ".join(f"i16 {word - 0x10000 if word > 0x7FFF else word}" for word in words)
    return (
        f"define weak hidden {{ {sums} }} @{NAME}(ptr, ptr, i32, {sums}) noinline nounwind "
        f"prologue [{len(words)} x i16] [{data}]\n{{\n  unreachable\n}}\n"
    )
