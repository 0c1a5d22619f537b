"""Parsing PTX, the part of it that LLVM writes for `tinyrnn.targets.cuda`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

KINDS: dict[str, Any] = {
    **{name: np.uint8 for name in ("b8", "u8")},
    **{name: np.uint16 for name in ("b16", "u16", "f16")},
    **{name: np.uint32 for name in ("b32", "u32")},
    **{name: np.uint64 for name in ("b64", "u64")},
    **{"s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64},
    **{"f32": np.float32, "f64": np.float64, "pred": np.bool_},
}
"""PTX's type → NumPy's; float16 as its bits"""
_COMMENT = re.compile(r"//[^\n]*")
_SHARED = re.compile(r"\.shared \.align (\d+) \.b8 ([\w$]+)(?:\[(\d*)\])?;")
_ENTRY = re.compile(r"\.(entry|func)\s+([\w$]+)\(([^)]*)\)[^{;]*\{(.*?)^\}", re.S | re.M)
_REGISTER = re.compile(r"%\w+")
_PARAMETER = re.compile(r"\.param \.(\w+) (?:\.ptr [^,]*? )?([\w$]+)")
_REGISTERS = re.compile(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;")
_DIRECTIVE = re.compile(r"(?<!\w)\.(reg|pragma|loc|file|param)[^;]*;")
_STATEMENT = re.compile(r"([\w$]+):|((?:@!?%p\d+\s+)?[a-z][^;:{}]*(?:\{[^}]*\}[^;]*)?);")
_GUARD = re.compile(r"@(!?)(%p\d+)\s+")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")


@dataclass(frozen=True)
class Instruction:
    """One instruction: `parts` are its name and what follows it after dots."""

    text: str
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    guard: tuple[str, bool] | None = None
    """(predicate, its value for which the instruction is executed)"""


@dataclass
class Entry:
    """A kernel."""

    parameters: tuple[str, ...]
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    """variable in the block's own memory → its offset"""
    shared_size: int = 0


def parse(ptx: str) -> dict[str, Entry]:
    """The kernels of a module by name, with the functions that they call inlined."""
    ptx = _COMMENT.sub("", ptx)
    shared: dict[str, int] = {}
    size = 0
    for align, name, count in _SHARED.findall(ptx):
        size = -(-size // int(align)) * int(align)
        shared[name] = size
        size += int(count or 0)
    found = {}
    for kind, name, parameters, body in _ENTRY.findall(ptx):
        entry = Entry(tuple(parameter for _, parameter in _PARAMETER.findall(parameters)), shared=shared, shared_size=size)
        for width, prefix, count in _REGISTERS.findall(body):
            entry.registers.update((f"%{prefix}{n}", KINDS[width]) for n in range(int(count)))
        for label, text in _STATEMENT.findall(_DIRECTIVE.sub("", body)):
            if label:
                entry.labels[label] = len(entry.code)
            else:
                entry.code.append(_instruction(text.strip()))
        found[name] = kind, entry
    bodies = {name: entry for name, (_, entry) in found.items()}
    return {name: _inlined(entry, bodies) for name, (kind, entry) in found.items() if kind == "entry"}


def _inlined(entry: Entry, bodies: Mapping[str, Entry]) -> Entry:
    """The kernel without calls: a called function's instructions stand in their place, with registers and labels of their own."""
    made = replace(entry, code=[], labels={}, registers=dict(entry.registers))
    places: list[int] = []
    for instruction in entry.code:
        places.append(len(made.code))
        if instruction.parts[0] == "call":
            _call(made, instruction, bodies)
        elif instruction.parts[:2] == ("st", "param"):
            place = f"%{instruction.operands[0][1:-1]}"
            made.registers[place] = KINDS[instruction.parts[-1]]
            made.code.append(
                replace(instruction, parts=("mov", instruction.parts[-1]), operands=(place, instruction.operands[1]))
            )
        else:
            made.code.append(instruction)
    places.append(len(made.code))
    made.labels |= {label: places[at] for label, at in entry.labels.items()}
    return made


def _call(made: Entry, call: Instruction, bodies: Mapping[str, Entry]) -> None:
    """Add the body of a called function. Raises `ValueError` for one that answers, which LLVM does not write here."""
    if len(call.operands) < 2 or call.operands[0] not in bodies:
        raise ValueError(f"not emulated: {call.text}")
    inner = _inlined(bodies[call.operands[0]], bodies)
    own = f"_{len(made.code)}"
    given = dict(zip(inner.parameters, re.findall(r"[\w$]+", " ".join(call.operands[1:])), strict=True))
    made.registers.update((name + own, kind) for name, kind in inner.registers.items())

    def renamed(text: str) -> str:
        return _REGISTER.sub(lambda match: match[0] + own if match[0] in inner.registers else match[0], text)

    start = len(made.code)
    for instruction in inner.code:
        parts, operands = instruction.parts, tuple(map(renamed, instruction.operands))
        guard = None if instruction.guard is None else (instruction.guard[0] + own, instruction.guard[1])
        if parts[:2] == ("ld", "param"):
            parts, operands = ("mov", parts[-1]), (operands[0], f"%{given[operands[1][1:-1].split('+')[0]]}")
        elif parts[0] == "bra":
            operands = (operands[-1] + own,)
        elif parts[0] == "ret":
            parts, operands = ("bra",), (f"end{own}",)
        made.code.append(Instruction(instruction.text, parts, operands, guard))
    made.labels |= {label + own: start + at for label, at in inner.labels.items()} | {f"end{own}": len(made.code)}


def _instruction(text: str) -> Instruction:
    guard = _GUARD.match(text)
    head, *rest = re.split(r"\s+", text[guard.end() :] if guard else text, maxsplit=1)
    operands = tuple(o.strip() for o in _OPERAND.findall(rest[0])) if rest else ()
    return Instruction(text, tuple(head.split(".")), operands, (guard[2], guard[1] == "") if guard else None)
