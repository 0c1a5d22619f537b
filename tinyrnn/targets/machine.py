"""Machines that code is made for: what LLVM needs to know, and what kernels and packing read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

ALLOWED_EXTERNALS = frozenset({"memcpy", "memset", "memmove"})
"""functions that compiled code may call"""


@dataclass(frozen=True)
class Machine:
    """A processor: LLVM's names for it, and the shape of its vector unit."""

    triple: str
    cpu: str
    features: str
    lanes: int
    """float32 in one vector register"""
    registers: int
    """vector registers that a kernel may keep sums in"""
    bits: int = 64
    """of an address, and of the integers that a page counts in"""
    fma: Literal["unit", "exact", "split"] = "unit"
    """a * b + c: by an instruction, by others to the same bits, or with two roundings"""
    lacks: frozenset[str] = frozenset()
    """what LLVM would call a library for: floor, rint, trunc of float32, div of int64"""
    thumb: bool = False
    """Arm's M profile: has the machine code of `tinyrnn.targets.thumb`"""
    reloc: str = "pic"
    abi: str = ""
    """LLVM's name of the calling convention, where a triple does not say it"""

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold, for `from_dict` in another process."""
        return {**asdict(self), "lacks": sorted(self.lacks)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Machine:
        return cls(**{**given, "lacks": frozenset(given["lacks"])})

    @property
    def architecture(self) -> str:
        return self.triple.split("-", 1)[0]

    def __str__(self) -> str:
        return f"{self.triple} ({self.cpu}, {self.lanes} lanes)"


def vector_unit(triple: str, features: set[str]) -> tuple[int, int]:
    """Lanes and registers of the widest vector unit with fused multiply-add among LLVM's feature names."""
    architecture = triple.split("-", 1)[0]
    if architecture in ("x86_64", "amd64", "i686"):
        if {"avx512f", "avx512vl"} <= features:
            return 16, 32
        if {"avx2", "fma"} <= features:
            return 8, 16
        return 4, 16
    if architecture in ("aarch64", "arm64"):
        return 4, 32
    return 1, 16


@cache
def host() -> Machine:
    """The machine this process runs on."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    flags = llvm.get_host_cpu_features()
    lanes, registers = vector_unit(triple, {name for name, on in flags.items() if on})
    if lanes == 16:  # LLVM prefers half-width vectors on many AVX-512 cores unless told otherwise
        flags["prefer-256-bit"] = False
    return Machine(triple, llvm.get_host_cpu_name(), flags.flatten(), lanes, registers)
