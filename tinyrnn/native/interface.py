"""The C interface of a native object: names, types and sizes, shared by the header, LLVM text and other languages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.errors import TargetError
from tinyrnn.graph.arrays import Port

BAD_MEMORY, WRONG_WEIGHTS, ENDED, TOO_LONG, BAD_SLOT, TOO_MANY = -1, -2, -3, -4, -5, -6
"""what functions return, beside 0 and the number of an input, from 1, that holds an index out of range"""

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "bool": "uint8_t",
    **{f"{u}int{n}": f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64)},
}
_WORDS = (
    "alignas alignof and asm auto bool break case catch char class const continue default delete do double else enum "
    "explicit export extern false float for friend goto if inline int long main mutable namespace new not operator or private "
    "protected public register restrict return short signed sizeof static struct switch template this throw true try "
    "typedef typeid union unsigned using virtual void volatile while xor stream frames rows state arena weights bytes"
)
C_WORDS = frozenset(_WORDS.split())
POOL_WORDS = ("pool", "which", "m", "slot", "slots", "states")


@dataclass(frozen=True)
class Argument:
    """An input or output as an argument of a C function."""

    name: str
    port: Port
    rate: int = 1
    """most rows for each frame"""

    @property
    def c_type(self) -> str:
        return C_TYPES[self.port.dtype.name]

    @property
    def bytes(self) -> int:
        """Bytes of one row, or of the value of one call."""
        return prod(self.port.shape) * self.port.dtype.itemsize


@dataclass(frozen=True)
class PoolInterface:
    """What many streams in one call add."""

    streams: int
    """most of one call"""
    at_once: int
    """streams of one pass over the program"""
    stride: int
    """float32 elements from one state to the next"""
    arena_bytes: int


@dataclass(frozen=True)
class Interface:
    """The interface that all files of one build share."""

    name: str
    """the prefix of every C name"""
    model: str
    target: str
    bits: int
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    state_floats: int
    arena_bytes: int
    weights_bytes: int
    alignment: int
    """alignment of state, arena and weights that the code relies on"""
    preferred: int
    """alignment for best speed"""
    rows: int
    """frames of one pass over the program"""
    lead: int
    streams: bool
    counted: bool
    """whether functions return the number of rows of each output"""
    waits: bool
    """whether there is a tail to flush"""
    tail: tuple[int, ...]
    """most rows of each output that flush can make"""
    weights_header: bytes
    """the header of the file of weights; empty if the object holds the weights"""
    zeros: bool
    """whether the state starts as zeros"""
    pool: PoolInterface | None = None

    @property
    def upper(self) -> str:
        return self.name.upper()

    @property
    def functions(self) -> list[str]:
        """The names of the exported functions for one stream, without their prefix."""
        return ["init", "reset", *(["step"] if self.streams else []), "run", *(["flush"] if self.waits else [])]

    @property
    def pool_functions(self) -> list[str]:
        """Those for many streams."""
        return ["pool_init", "pool_reset", "pool_step"] if self.pool else []

    @property
    def all_functions(self) -> list[str]:
        """All, with the self-tests."""
        return [*self.functions, "selftest", *self.pool_functions, *(["pool_selftest"] if self.pool else [])]

    def arguments(self, function: str) -> list[tuple[Argument, str]]:
        """Inputs and outputs of step, run or flush, each with 'const' or ''."""
        inputs = [a for a in self.inputs if function != "flush" or not a.port.per_frame]
        return [*((a, "const ") for a in inputs), *((a, "") for a in self.outputs)]


def c_name(text: str) -> str:
    """A name for C made from the name of a model or a value."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or "model"
    name = f"m_{name}" if name[0].isdigit() else name
    return f"{name}_" if name in C_WORDS else name


def check_name(name: str) -> str:
    """The name. Raises `TargetError` if it cannot be a prefix of C names."""
    if not re.fullmatch(r"[A-Za-z]\w*", name, flags=re.ASCII) or name.lower() in C_WORDS:
        raise TargetError(f"name {name!r}: takes a name that C can have, letters, digits and _, like {c_name(name)!r}")
    return name


def arguments_of(ports: Sequence[Port], taken: set[str]) -> tuple[Argument, ...]:
    found = []
    for port in ports:
        stem = c_name(port.name)
        name, count = stem, 1
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name)
        found.append(Argument(name, port, port.clock.rate))
    return tuple(found)


def around(face: Interface, initial: np.ndarray[Any, Any], weights: str) -> str:
    """LLVM text of the exported functions, which call `run`, `reset` and `flush` of the page.

    `weights` names the file of data with the weights, or with the start of the file of weights.
    """
    word, name = f"i{face.bits}", face.name
    step = face.bits // 8
    stored = not face.weights_header
    lines = []
    if stored and face.weights_bytes:
        lines.append(f"@{name}_weights = constant [{face.weights_bytes} x i8] DATA({weights}), align {face.preferred}")
    elif face.weights_header:
        lines.append(f"@header = internal constant [{len(face.weights_header)} x i8] DATA({weights})")
    if not face.zeros:
        lines.append(f"@initial = internal constant [{initial.nbytes} x i8] DATA(initial.bin), align 8")
    counts = ["counts"] if face.counted else []
    many = len(face.inputs) + len(face.outputs) + len(counts)
    lines.append(f"declare {word} @run({', '.join([word] * (5 + many))})")
    lines.append(f"declare {word} @reset({word}, {word})")
    if face.waits:
        lines.append(f"declare {word} @flush({', '.join([word] * (3 + many))})")

    held = ["state", "arena"] + ([] if stored else ["weights"])
    load = []
    for index, memory in enumerate(held):
        load += [
            f"  %at_{memory} = getelementptr i8, ptr %stream, i32 {index * step}",
            f"  %{memory} = load {word}, ptr %at_{memory}",
        ]
    address = f"ptrtoint (ptr @{name}_weights to {word})" if face.weights_bytes else "0"
    w = f"{word} {address if stored else '%weights'}"

    lines += _init(face, word, step)
    lines += [
        f"define void @{name}_reset(ptr %stream) {{",
        f"  %state = load {word}, ptr %stream",
        f"  %done = call {word} @reset({word} %state, {word} {'0' if face.zeros else f'ptrtoint (ptr @initial to {word})'})",
        "  ret void\n}",
    ]
    for function in face.functions[2:]:
        given = face.arguments(function)
        names = {a.name for a, _ in given}
        pointers = ["ptr %stream", *([f"{word} %frames"] if function == "run" else []), *(f"ptr %{a.name}" for a, _ in given)]
        lines.append(f"define i32 @{name}_{function}({', '.join([*pointers, *(f'ptr %{c}' for c in counts)])}) {{")
        if not face.streams:
            lines += [
                f"  %long = icmp ugt {word} %frames, {face.rows}",
                "  br i1 %long, label %refused, label %good",
                f"refused:\n  ret i32 {TOO_LONG}",
                f"good:\n  call void @{name}_reset(ptr %stream)",
            ]
        lines += load
        values = []
        for argument in (*face.inputs, *face.outputs):
            if argument.name in names:
                lines.append(f"  %p_{argument.name} = ptrtoint ptr %{argument.name} to {word}")
            values.append(f"{word} {f'%p_{argument.name}' if argument.name in names else '0'}")
        for count in counts:
            lines.append(f"  %p_{count} = ptrtoint ptr %{count} to {word}")
            values.append(f"{word} %p_{count}")
        middle = {"step": [f"{word} -1", f"{word} 1"], "run": [f"{word} -1", f"{word} %frames"], "flush": []}[function]
        inner = "flush" if function == "flush" else "run"
        everything = ", ".join([w, f"{word} %state", f"{word} %arena", *middle, *values])
        lines.append(f"  %status = call {word} @{inner}({everything})")
        if face.bits == 32:
            lines.append("  ret i32 %status\n}")
        else:
            lines.append(f"  %short = trunc {word} %status to i32\n  ret i32 %short\n}}")
    return "\n".join(lines) + "\n"


def _init(face: Interface, word: str, step: int) -> list[str]:
    """init(stream, state, arena[, weights, bytes]): refuses memory that is missing or not aligned, and other weights."""
    file = bool(face.weights_header)
    pointers = ["state", "arena", *(["file"] if file else [])]
    lines = [
        f"define i32 @{face.name}_init(ptr %stream, {', '.join(f'ptr %{p}' for p in pointers)}"
        f"{f', {word} %bytes' if file else ''}) {{",
        *(f"  %i_{p} = ptrtoint ptr %{p} to {word}" for p in pointers),
        *(f"  %z_{p} = icmp eq {word} %i_{p}, 0" for p in pointers),
        f"  %any_0 = or {word} %i_state, %i_arena",
        f"  %any = or {word} %any_0, {'%i_file' if file else '0'}",
        f"  %low = and {word} %any, {face.alignment - 1}",
        f"  %skew = icmp ne {word} %low, 0",
        "  %bad_0 = or i1 %z_state, %z_arena",
        f"  %bad_1 = or i1 %bad_0, {'%z_file' if file else 'false'}",
        "  %bad = or i1 %bad_1, %skew",
        "  br i1 %bad, label %memory, label %good",
        f"memory:\n  ret i32 {BAD_MEMORY}",
        "good:",
    ]
    if file:
        whole, size = len(face.weights_header) + face.weights_bytes, len(face.weights_header)
        lines += [
            f"  %fits = icmp eq {word} %bytes, {whole}",
            "  br i1 %fits, label %loop, label %wrong",
            f"loop:\n  %i = phi {word} [ 0, %good ], [ %j, %next ]",
            f"  %p = getelementptr i8, ptr %file, {word} %i",
            f"  %q = getelementptr i8, ptr @header, {word} %i",
            "  %a = load i8, ptr %p\n  %b = load i8, ptr %q\n  %same = icmp eq i8 %a, %b",
            "  br i1 %same, label %next, label %wrong",
            f"wrong:\n  ret i32 {WRONG_WEIGHTS}",
            f"next:\n  %j = add {word} %i, 1\n  %end = icmp eq {word} %j, {size}",
            "  br i1 %end, label %right, label %loop",
            f"right:\n  %at_weights = getelementptr i8, ptr %stream, i32 {2 * step}",
            f"  %data = getelementptr i8, ptr %file, i32 {size}",
            "  store ptr %data, ptr %at_weights",
        ]
    return [
        *lines,
        "  store ptr %state, ptr %stream",
        f"  %at_arena = getelementptr i8, ptr %stream, i32 {step}",
        "  store ptr %arena, ptr %at_arena",
        f"  call void @{face.name}_reset(ptr %stream)",
        "  ret i32 0\n}",
    ]
