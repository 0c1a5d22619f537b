"""Dot products of int8: what machines have for them, and how activations and weights lie for that.

Activations are int8 with one scale for a vector. `dot` adds to each of LANES int32 the products of `width` activations, which
all lanes share, with weights [lane][width]. Sums of integers are exact, so the order in which a machine adds does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 1 << 16
"""most products of int8 by uint8, less its zero point, whose sum surely is an int32"""
TOGETHER = 4
"""sums of `dots4`, for machines without vectors"""


@dataclass(frozen=True)
class Dot:
    """How a machine multiplies int8."""

    name: str
    width: int
    """products that `dot` adds to a lane"""
    bytes: int
    """of an activation in memory"""
    offset: int = 0
    """what is added to activations in memory"""
    header: int = 0
    """bytes before the activations"""
    starts: bool = False
    """whether sums of `dots4` start from an integer for each output: minus the products of neighbouring weights"""

    def padded(self, n: int, lanes: int) -> int:
        """n activations, rounded up to whole products and vectors."""
        step = max(self.width, lanes)
        return -(-n // step) * step

    def room(self, n: int, lanes: int) -> int:
        """float32 elements of memory for n activations."""
        return -(-(self.header + self.padded(n, lanes) * self.bytes) // 4)


DOTS = {
    each.name: each
    for each in (
        Dot("unsigned", 4, 1, 128),  # x86 VPDPBUSD: uint8 by int8
        Dot("signed", 4, 1),  # Arm SDOT
        Dot("long", 2, 1),  # Arm SMULL, SADALP
        Dot("widened", 2, 2),  # x86 PMADDWD, WebAssembly i32x4.dot_i16x8_s; or plain arithmetic
        Dot("dual", 4, 2, header=4, starts=True),  # Arm's M profile: SXTAB16, SMLAD
        Dot("quad", 4, 1),  # a thread of a GPU: DP4A
        Dot("single", 1, 1),
    )
}


def dot_of(triple: str, features: str, lanes: int, thumb: bool) -> Dot:
    """The way of a machine, from LLVM's names of what it has (`+avx512vnni,-fma`)."""
    if lanes == 1:
        return DOTS["dual" if thumb else "single"]
    architecture = triple.split("-", 1)[0]
    if architecture == "nvptx64":
        return DOTS["quad"]
    on = {f[1:] for f in features.split(",") if f[:1] == "+"}
    if architecture in ("aarch64", "arm64"):
        return DOTS["signed" if "dotprod" in on else "long"]
    if architecture.startswith("armv7"):
        return DOTS["long"]
    if {"avx512vnni", "avx512vl"} <= on or (lanes == 8 and "avxvnni" in on):
        return DOTS["unsigned"]
    return DOTS["widened"]
