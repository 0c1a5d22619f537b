"""Stack usage of compiled code, from LLVM's warnings about the frames of functions and from the calls between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinyrnn.targets import thumb
from tinyrnn.targets.machine import Machine

WARNS = '"warn-stack-size"="0"'
"""attribute of functions for which LLVM reports the size of the frame"""
UNSAID = {"x86_64": 8 + 6 * 8 + 56}
"""most bytes of a call that LLVM's figure lacks: return address, saved registers, alignment to 64"""
_FRAME = re.compile(r"stack frame size \((\d+)\) exceeds limit \(0\) in function '([^']+)'")


def calls_in(module: Any) -> dict[str, list[str]]:
    """Function → functions that it calls, for an llvmlite module."""
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
    """Most bytes of stack that a call of one of the functions takes, from the warnings that LLVM printed.

    External functions (memcpy, memset) are not included. None where LLVM does not report it: for WebAssembly, whose
    engines choose where values lie, and for vectors without a fixed length.
    """
    if machine.warp or machine.architecture.startswith("wasm") or "+v" in machine.features.split(","):
        return None
    frames = {name: routine.stack for name, routine in thumb.ROUTINES.items()}
    frames |= {name: int(size) for size, name in _FRAME.findall(warnings)}
    unsaid = UNSAID.get(machine.architecture, 0)

    def depth(name: str) -> int:
        return unsaid + frames.get(name, 0) + max((depth(inner) for inner in calls.get(name, ())), default=0)

    return max(map(depth, functions), default=0)
