"""The stack that code takes: LLVM warns of the frame of each function that says so, and the module tells who calls whom."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinyrnn.targets import thumb
from tinyrnn.targets.machine import Machine

WARNS = '"warn-stack-size"="0"'
"""the attribute of functions whose frames LLVM tells"""
UNSAID = {"x86_64": 8 + 6 * 8 + 56}
"""bytes of a call, at most, that are not in LLVM's figure: return address, saved registers, alignment to 64"""
_FRAME = re.compile(r"stack frame size \((\d+)\) exceeds limit \(0\) in function '([^']+)'")


def calls_in(module: Any) -> dict[str, list[str]]:
    """Of each function of a module of llvmlite, the functions that it calls."""
    return {
        function.name: [
            list(instruction.operands)[-1].name
            for block in function.blocks
            for instruction in block.instructions
            if instruction.opcode == "call"
        ]
        for function in module.functions
        if not function.is_declaration
    }


def deepest(functions: Iterable[str], calls: Mapping[str, Sequence[str]], warnings: str, machine: Machine) -> int | None:
    """Bytes of stack that a call of one of the functions takes at most, from what LLVM printed as it made the object.

    What the object calls in others, memcpy and memset, is not in it. None where LLVM does not tell: of WebAssembly, whose
    engines keep values where they like, and of vectors without a fixed length.
    """
    if machine.architecture.startswith("wasm") or "+v" in machine.features.split(","):
        return None
    frames = {thumb.NAME: thumb.STACK, **{name: int(size) for size, name in _FRAME.findall(warnings)}}
    unsaid = UNSAID.get(machine.architecture, 0)

    def depth(name: str) -> int:
        return unsaid + frames.get(name, 0) + max((depth(inner) for inner in calls.get(name, ())), default=0)

    return max(map(depth, functions), default=0)
