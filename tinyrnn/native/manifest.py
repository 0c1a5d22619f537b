"""manifest.json: what was built, for what, by which versions, and how large it is."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import tinyrnn
from tinyrnn.compile.plan import Plan
from tinyrnn.native.interface import Interface
from tinyrnn.native.sizes import Sizes
from tinyrnn.runtime import Layout
from tinyrnn.runtime.built import FORMAT, layout_value
from tinyrnn.targets.machine import Machine
from tinyrnn.targets.target_table import Target


def describe(
    face: Interface,
    target: Target,
    plan: Plan,
    tick: Plan | None,
    sizes: Sizes,
    layout: Layout,
    library: str,
    files: Mapping[str, bytes],
    entries: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The manifest without the hashes of the files. tick: plan of pools, if any; entries: functions for Python."""
    machine = target.machine
    pool = {"pool": {name: getattr(tick, name) for name in ("arena_fixed", "arena_per_row", "chunk")}} if tick else {}
    return {
        "format": FORMAT,
        "made_by": f"tinyrnn {tinyrnn.__version__}",
        "versions": {package: version(package) for package in ("llvmlite", "numba", "numpy")},
        "name": face.name,
        "model": layout.name,
        "target": {
            "name": target.name,
            "triple": machine.triple,
            "architecture": machine.architecture,
            "cpu": machine.cpu,
            "features": machine.features if target.system != "host" else "",
            "lanes": machine.lanes,
            "bits": machine.bits,
            "fma": machine.fma,
            "needs": _needs(machine),
        },
        "library": library,
        "library_crc32": zlib.crc32(files[library]) if library else None,
        "weights": f"{face.name}.weights" if face.weights_header else "",
        "weights_sha256": hashlib.sha256(plan.weights.tobytes()).hexdigest(),
        "sizes": sizes.as_dict(),
        "rows": face.rows,
        **({"streams": face.pool.streams} if face.pool else {}),
        "multiply_adds": plan.multiply_adds,
        "notes": list(notes),
        "functions": [f"{face.name}_{f}" for f in face.all_functions],
        "layout": {**layout_value(layout), "entries": list(entries), **pool},
    }


def _needs(machine: Machine) -> list[str]:
    """Flags of /proc/cpuinfo that a processor must have to run the code."""
    if machine.architecture != "x86_64":
        return []
    wide = ["avx512f", "avx512vl", "avx512dq", "avx512bw"]
    levels = {"x86-64-v2": ["sse4_2"], "x86-64-v3": ["avx2", "fma", "bmi2"], "x86-64-v4": wide}
    vectors = ["avx", "avx2", "fma", "bmi2", *wide]
    on = {f[1:] for f in machine.features.split(",") if f[:1] == "+"}
    return [*levels.get(machine.cpu, []), *(f for f in vectors if f in on and f not in levels.get(machine.cpu, []))]
