"""The targets of `tinyrnn build`: processors and boards by name, each with its Machine and its operating system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tinyrnn.errors import TargetError
from tinyrnn.targets.machine import Machine, host, lacking_halves, second_level_cache, vector_unit

HALF = frozenset({"half"})
"""what processors lack that have no conversion of float16"""
CACHE = 1 << 19
"""bytes of a second-level cache, where the processor is not this one"""
FLUSHES = "NEON flushes denormal numbers to zero: where a sum or product is below 2**-126, bits may differ"


@dataclass(frozen=True)
class Target:
    """A target of `build`."""

    name: str
    machine: Machine
    what: str
    system: Literal["linux", "none", "web", "host"] = "linux"
    """operating system; with `none` the arena holds one row by default"""
    note: str = ""
    """remark on where its bits may differ from those of other targets"""

    @property
    def shared(self) -> bool:
        """Whether the target has shared libraries."""
        return self.system in ("linux", "host")

    @property
    def cache(self) -> int:
        """Bytes of a core's second-level cache."""
        return second_level_cache() if self.system == "host" else CACHE

    @property
    def small(self) -> bool:
        """Whether memory is scarce, so that buffers are not aligned to cache lines."""
        return self.system == "none"


def _linux(architecture: str, cpu: str, lanes: int, registers: int, features: str = "", environment: str = "gnu") -> Machine:
    return Machine(f"{architecture}-unknown-linux-{environment}", cpu, features, lanes, registers, reloc="pic")


def _cortex_m(architecture: str, cpu: str, features: str = "", rounds: bool = True) -> Machine:
    return Machine(
        f"{architecture}-unknown-none-eabihf",
        cpu,
        features,
        1,
        32,
        bits=32,
        thumb=True,
        lacks=frozenset({"div"} if rounds else {"div", "floor", "rint", "trunc"}),
        reloc="static",
    )


def _riscv(features: str, lanes: int, registers: int) -> Machine:
    return replace(_linux("riscv64", "generic-rv64", lanes, registers, features), abi="lp64d", lacks=HALF)


_ARM7 = replace(
    _linux("armv7", "cortex-a7", 4, 16, "+neon,+vfp4", "gnueabihf"), bits=32, lacks=frozenset({"div", "floor", "rint", "trunc"})
)
_X86_64_V2 = replace(_linux("x86_64", "x86-64-v2", 4, 16), fma="split", lacks=HALF)
_WASM = Machine("wasm32-unknown-unknown", "", "+simd128", 4, 32, bits=32, fma="split", lacks=HALF, reloc="static")


def _host() -> Machine:
    machine = host()
    lacking = machine.architecture == "x86_64" and "+fma," not in f"{machine.features},"
    return replace(machine, fma="exact" if lacking else "unit")


def _table() -> dict[str, Target]:
    found = [
        Target("host", _host(), "this machine", "host"),
        Target("x86-64-v2", _X86_64_V2, "SSE4.2, no fma: Intel and AMD since 2009"),
        Target("x86-64-v3", _linux("x86_64", "x86-64-v3", 8, 16), "Intel since 2013, AMD since 2015: AVX2 and fma"),
        Target("x86-64-v4", _linux("x86_64", "x86-64-v4", 16, 32, "-prefer-256-bit"), "AVX-512"),
        Target("aarch64", _linux("aarch64", "generic", 4, 32), "any 64-bit Arm"),
        Target("rpi3", _linux("aarch64", "cortex-a53", 4, 32), "Raspberry Pi 3 and Zero 2 W, 64-bit system"),
        Target("rpi4", _linux("aarch64", "cortex-a72", 4, 32), "Raspberry Pi 4"),
        Target("rpi5", _linux("aarch64", "cortex-a76", 4, 32, "+dotprod"), "Raspberry Pi 5"),
        Target("jetson-orin", _linux("aarch64", "cortex-a78ae", 4, 32, "+dotprod"), "NVIDIA Jetson Orin"),
        Target("armv7", _ARM7, "32-bit Arm with NEON and VFPv4, hard float", note=FLUSHES),
        Target("cortex-m4", _cortex_m("thumbv7em", "cortex-m4", rounds=False), "Cortex-M4F: single-precision unit", "none"),
        Target("cortex-m7", _cortex_m("thumbv7em", "cortex-m7", "-fp64"), "Cortex-M7: single-precision unit", "none"),
        Target("cortex-m33", _cortex_m("thumbv8m.main", "cortex-m33"), "Cortex-M33: single-precision unit", "none"),
        Target("riscv64", _riscv("+m,+a,+f,+d,+c", 1, 32), "RV64GC"),
        Target("riscv64-v", _riscv("+m,+a,+f,+d,+c,+v", 4, 32), "RV64GC with vectors of 128 bits or more"),
        Target("wasm32", _WASM, "WebAssembly with SIMD: browsers, Node", "web"),
    ]
    return {target.name: target for target in found}


def targets() -> Mapping[str, Target]:
    """All targets by name."""
    return _table()


def find_target(name: str, cpu: str | None = None, features: str | None = None, emulate_fma: bool = False) -> Target:
    """A target by name, with another processor (LLVM's name) and additional features (`+avx512f,-fma`) if given.

    Raises `TargetError` for an unknown name, or where LLVM does not know the processor or a feature.
    """
    known = targets()
    if name not in known:
        raise TargetError(f"no target {name!r}; there are {', '.join(known)}")
    target = known[name]
    machine = target.machine
    if cpu is not None or features is not None:
        machine = _overridden(machine, cpu, features)
    if emulate_fma:
        if machine.fma == "unit":
            raise TargetError(f"{name} has fused multiply-add: there is nothing to emulate")
        machine = replace(machine, fma="exact")
    return replace(target, machine=machine)


def _overridden(machine: Machine, cpu: str | None, features: str | None) -> Machine:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    given = [f for f in (features or "").split(",") if f]
    for feature in given:
        if feature[0] not in "+-" or len(feature) < 2:
            raise TargetError(f"feature {feature!r}: takes +NAME or -NAME, of LLVM's names for {machine.architecture}")
    kept = "" if cpu is not None else machine.features
    changed = replace(machine, cpu=machine.cpu if cpu is None else cpu, features=",".join([*([kept] if kept else []), *given]))
    if machine.architecture == "x86_64":
        on = {f[1:] for f in changed.features.split(",") if f[:1] == "+"}
        off = {f[1:] for f in changed.features.split(",") if f[:1] == "-"}
        on = (on | _x86_level(changed.cpu, bool(given))) - off
        lanes, registers = vector_unit(machine.triple, on)
        lacks = lacking_halves(machine.triple, on)
        return replace(changed, lanes=lanes, registers=registers, lacks=lacks, fma="unit" if "fma" in on else "split")
    return changed


def _x86_level(cpu: str, described: bool) -> set[str]:
    """The features of the vector unit that a processor of x86 has by its name, as far as they decide lanes and fma."""
    if cpu == host().cpu:
        return {f[1:] for f in host().features.split(",") if f[:1] == "+"}
    third, fourth = {"avx2", "fma", "f16c"}, {"avx2", "fma", "f16c", "avx512f", "avx512vl"}
    levels: list[tuple[set[str], tuple[str, ...]]] = [
        (set(), ("x86-64", "x86-64-v2", "nehalem", "westmere", "goldmont", "tremont")),
        (third, ("x86-64-v3", "haswell", "broadwell", "skylake", "alderlake", "znver1", "znver2", "znver3")),
        (fourth, ("x86-64-v4", "skylake-avx512", "icelake-server", "sapphirerapids", "znver4", "znver5")),
    ]
    known = {name: features for features, names in levels for name in names}
    if cpu not in known and not described:
        raise TargetError(
            f"cpu {cpu!r}: which vectors it has is not known here; state it: --features +avx2,+fma (or +avx512f,+avx512vl), or "
            f"-fma. Known are {', '.join(known)}"
        )
    return known.get(cpu, set())
