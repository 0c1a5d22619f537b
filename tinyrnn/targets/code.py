"""Machine code of this process: objects, resident, with the addresses of their entries."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

LENGTH = 8
"""bytes of an integer in a bundle"""
_numbers = itertools.count()
"""numbers for the unique names that linked libraries need"""


class Code:
    """The compiled entries of one page, with the kernels that they call."""

    def __init__(self, name: str, objects: Sequence[bytes], entries: Iterable[str], from_cache: bool) -> None:
        """name: that of the bundle in the cache."""
        self.name, self.from_cache = name, from_cache
        self.entries = tuple(entries)
        self._library = load_objects(objects, self.entries)
        self.size = sum(map(code_bytes, objects))
        self.run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(self._library["run"])
        self.address = self._library.__getitem__
        """name of an entry → its address"""
        self.calls: tuple[int, ...] = tuple(self._library[n] for n in ("call", "call_many") if n in self.entries)


def load_objects(objects: Sequence[bytes], entries: Iterable[str]) -> Any:
    """Link objects, which may call each other, into this process; the result knows the entries' addresses and owns the code."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    library = llvm.JITLibraryBuilder()
    for data in objects:
        library.add_object_img(data)
    for entry in entries:
        library.export_symbol(entry)
    return library.add_current_process().link(_linker(), f"code {next(_numbers)}")


@cache
def _linker() -> Any:
    """LLVM's JIT linker."""
    import llvmlite.binding as llvm

    return llvm.create_lljit_compiler(use_jit_link=True)


def code_bytes(data: bytes) -> int:
    """The number of bytes of machine code in an object."""
    import llvmlite.binding as llvm

    return sum(section.size() for section in llvm.ObjectFileRef.from_data(data).sections() if section.is_text())


def bundled(objects: Sequence[bytes]) -> bytes:
    """Objects as one file: their number, the length of each, their bytes."""
    numbers = [len(objects), *map(len, objects)]
    return b"".join([*(number.to_bytes(LENGTH, "little") for number in numbers), *objects])


def objects_in(bundle: bytes) -> list[bytes]:
    """The objects in a file of the cache."""
    count = int.from_bytes(bundle[:LENGTH], "little")
    sizes = [int.from_bytes(bundle[LENGTH * at : LENGTH * (at + 1)], "little") for at in range(1, count + 1)]
    found, end = [], LENGTH * (count + 1)
    for size in sizes:
        found.append(bundle[end : end + size])
        end += size
    return found
