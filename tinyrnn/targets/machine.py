"""Machines as targets of compilation: properties for LLVM, for kernels and for packing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from tinyrnn.lanes.dots import Dot, dot_of

ALLOWED_EXTERNALS = frozenset({"memcpy", "memset", "memmove"})
"""external functions that compiled code may call"""


@dataclass(frozen=True)
class Machine:
    """A processor: LLVM's names for it, and its vector unit."""

    triple: str
    cpu: str
    features: str
    lanes: int
    """number of float32 in one vector register"""
    registers: int
    """number of vector registers in which a kernel can keep sums"""
    bits: int = 64
    """bits of an address, and of a page's integers"""
    fma: Literal["unit", "exact", "split"] = "unit"
    """how a * b + c is computed: by an instruction, emulated with the same bits, or with two roundings"""
    lacks: frozenset[str] = frozenset()
    """operations for which LLVM would call a library: floor, rint, trunc of float32, div of int64, half: float16 → float32"""
    thumb: bool = False
    """whether it uses the machine code of `tinyrnn.targets.thumb`, for Arm's M profile"""
    reloc: str = "pic"
    abi: str = ""
    """LLVM's name of the calling convention, if the triple does not determine it"""

    def as_dict(self) -> dict[str, Any]:
        """The machine in types that JSON has, for `from_dict` in another process."""
        return {**asdict(self), "lacks": sorted(self.lacks)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Machine:
        return cls(**{**given, "lacks": frozenset(given["lacks"])})

    @property
    def lacking(self) -> frozenset[str]:
        """The operations that `tinyrnn.targets.arithmetic` writes out."""
        return self.lacks if self.fma == "unit" else self.lacks | {"fma"}

    @property
    def dot(self) -> Dot:
        """How it multiplies int8."""
        return dot_of(self.triple, self.features, self.lanes, self.thumb)

    @property
    def architecture(self) -> str:
        return self.triple.split("-", 1)[0]

    @property
    def warp(self) -> bool:
        """Whether a Vec is a value of each thread of a GPU's warp."""
        return self.architecture == "nvptx64"

    def __str__(self) -> str:
        return f"{self.triple} ({self.cpu}, {self.lanes} lanes)"


def vector_unit(triple: str, features: set[str]) -> tuple[int, int]:
    """(lanes, registers) of the widest vector unit with fused multiply-add among LLVM's features."""
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


def lacking_halves(triple: str, features: set[str]) -> frozenset[str]:
    """What a machine `lacks` for float16 → float32, by its features: {"half"}, or nothing."""
    architecture = triple.split("-", 1)[0]
    if architecture in ("x86_64", "amd64", "i686"):
        return frozenset() if features & {"f16c", "avx512f"} else frozenset({"half"})
    return frozenset() if architecture in ("aarch64", "arm64") else frozenset({"half"})


@cache
def host() -> Machine:
    """The machine of this process."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    flags = llvm.get_host_cpu_features()
    lanes, registers = vector_unit(triple, {name for name, on in flags.items() if on})
    if lanes == 16:  # LLVM prefers half-width vectors on many AVX-512 cores unless told otherwise
        flags["prefer-256-bit"] = False
    lacks = lacking_halves(triple, {name for name, on in flags.items() if on})
    return Machine(triple, llvm.get_host_cpu_name(), flags.flatten(), lanes, registers, lacks=lacks)


@cache
def second_level_cache() -> int:
    """Bytes of the second-level cache of a core of this machine; 1 MiB where the system does not tell."""
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index2/size", encoding="ascii") as file:
            text = file.read().strip()
        return int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1:], 0)
    except (OSError, ValueError):
        return 1 << 20
