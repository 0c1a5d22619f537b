"""Twelve sums at once: the inner loop of recurrent kernels where a Vec is one float, so that processors without vectors
read each element of x once for twelve products."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

from tinyrnn.lanes import Pointer, Vec, fma, get, kernel, load, splat

CHAINS = 12


@kernel
def chain12(
    w: Pointer,
    x: Pointer,
    n: int,
    s0: Vec,
    s1: Vec,
    s2: Vec,
    s3: Vec,
    s4: Vec,
    s5: Vec,
    s6: Vec,
    s7: Vec,
    s8: Vec,
    s9: Vec,
    s10: Vec,
    s11: Vec,
) -> tuple[Vec, ...]:
    """s_j + the sum over k < n of x[k] w[12 k + j], as one chain of fma; LANES is 1."""
    for k in range(n):
        v = splat(get(x, k))
        i = CHAINS * k
        s0 = fma(v, load(w, i), s0)
        s1 = fma(v, load(w, i + 1), s1)
        s2 = fma(v, load(w, i + 2), s2)
        s3 = fma(v, load(w, i + 3), s3)
        s4 = fma(v, load(w, i + 4), s4)
        s5 = fma(v, load(w, i + 5), s5)
        s6 = fma(v, load(w, i + 6), s6)
        s7 = fma(v, load(w, i + 7), s7)
        s8 = fma(v, load(w, i + 8), s8)
        s9 = fma(v, load(w, i + 9), s9)
        s10 = fma(v, load(w, i + 10), s10)
        s11 = fma(v, load(w, i + 11), s11)
    return s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11


def _for(word: str) -> Callable[..., tuple[Vec, ...]]:
    """`chain12` under the name for weights of a storage type."""
    return kernel(FunctionType(chain12.__code__, globals(), f"chain12_{word}"))


chain12_f16, chain12_bf16, chain12_i8 = map(_for, ("f16", "bf16", "i8"))


def chain_word(word: str) -> str:
    """The name of the kernel for weights of a storage type."""
    return "chain12" if word == "f32" else f"chain12_{word}"
