"""The contents of an object file (ELF or WebAssembly): sizes of code and data, defined and undefined symbols."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ELF, WASM = b"\x7fELF", b"\0asm"
ALLOCATED, EXECUTABLE, WRITABLE = 2, 4, 1


@dataclass(frozen=True)
class Contents:
    """Bytes by kind, and symbols."""

    code: int
    constants: int
    """read-only data, and what is needed of it at run time for relocation"""
    data: int
    """bytes of writable data with an initial value"""
    zeros: int
    """bytes of writable data that starts as zeros"""
    defined: tuple[str, ...]
    needed: tuple[str, ...]


def contents(data: bytes) -> Contents:
    """The contents of an object file; for formats other than ELF and WebAssembly only its size."""
    if data[:4] == ELF:
        return _elf(data)
    if data[:4] == WASM:
        return _wasm(data)
    return Contents(len(data), 0, 0, 0, (), ())


def _elf(data: bytes) -> Contents:
    wide = data[4] == 2
    sections_at = struct.unpack_from("<Q", data, 0x28)[0] if wide else struct.unpack_from("<I", data, 0x20)[0]
    size, count = struct.unpack_from("<HH", data, 0x3A if wide else 0x2E)
    form = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
    sections = [struct.unpack_from(form, data, sections_at + size * k) for k in range(count)]
    sizes = {"code": 0, "constants": 0, "data": 0, "zeros": 0}
    defined: list[str] = []
    needed: list[str] = []
    for _, kind, flags, _, _, length, *_ in sections:
        if not flags & ALLOCATED:
            continue
        if flags & EXECUTABLE:
            sizes["code"] += length
        elif kind == 8:
            sizes["zeros"] += length
        else:
            sizes["data" if flags & WRITABLE else "constants"] += length
    for _, kind, _, _, at, length, link, *_, entry in sections:
        if kind != 2:
            continue
        names_at = sections[link][4]
        for k in range(1, length // entry):
            if wide:
                name, info, _, section = struct.unpack_from("<IBBH", data, at + k * entry)
            else:
                name, _, _, info, _, section = struct.unpack_from("<IIIBBH", data, at + k * entry)
            if info >> 4 == 0:  # local
                continue
            start = names_at + name
            text = data[start : data.index(b"\0", start)].decode()
            (defined if section else needed).append(text)
    return Contents(**sizes, defined=tuple(defined), needed=tuple(needed))


def _number(data: bytes, at: int) -> tuple[int, int]:
    """(number in LEB128, position after it)."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _wasm(data: bytes) -> Contents:
    sizes = {10: 0, 11: 0}
    defined: list[str] = []
    needed: list[str] = []
    at = 8
    while at < len(data):
        kind, (size, start) = data[at], _number(data, at + 1)
        if kind in sizes:
            sizes[kind] += size
        if kind == 0:
            length, text = _number(data, start)
            if data[text : text + length] == b"linking":
                _symbols(data, text + length, start + size, defined, needed)
        if kind == 7:
            count, place = _number(data, start)
            for _ in range(count):
                length, place = _number(data, place)
                defined.append(data[place : place + length].decode())
                _, place = _number(data, place + length + 1)
        at = start + size
    return Contents(sizes[10], sizes[11], 0, 0, tuple(defined), tuple(needed))


def _symbols(data: bytes, at: int, end: int, defined: list[str], needed: list[str]) -> None:
    """The symbol table of a relocatable object (WebAssembly tool conventions, Linking)."""
    _, at = _number(data, at)
    while at < end:
        kind, (size, start) = data[at], _number(data, at + 1)
        at = start + size
        if kind != 8:
            continue
        count, place = _number(data, start)
        for _ in range(count):
            what = data[place]
            flags, place = _number(data, place + 1)
            undefined, explicit = flags & 0x10, flags & 0x40
            name = ""
            if what in (0, 2, 4, 5):  # function, global, event, table
                _, place = _number(data, place)
            if what == 3:  # section
                _, place = _number(data, place)
                continue
            if what == 1 or not undefined or explicit:
                length, place = _number(data, place)
                name = data[place : place + length].decode()
                place += length
            if what == 1 and not undefined:
                for _ in range(3):
                    _, place = _number(data, place)
            if flags & 3 == 2 or not name:  # local
                continue
            (needed if undefined else defined).append(name)
