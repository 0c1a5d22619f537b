"""This machine: source → object → functions, with the objects cached on disk.

The cache holds relocatable objects named by a hash of everything they depend on: the page of source,
every file of the kernel language, the versions of the tools, the machine. A model that is in the cache, or all of
whose kernels are, loads without Numba.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from tinyrnn.codegen import Source
from tinyrnn.progress import LINKING, tell
from tinyrnn.targets.cache import read, write
from tinyrnn.targets.kernels import Kernels, key_of
from tinyrnn.targets.machine import Machine, host
from tinyrnn.targets.page import read_page, translated
from tinyrnn.targets.side_by_side import modules

_COMMENT = re.compile(r"^ *#.*\n", re.M)


def object_name(source: Source, machine: Machine) -> str:
    """The file of a compiled page in the cache: of what it says, whatever its comments are."""
    return f"{key_of(machine, _COMMENT.sub('', source.text))}.o"


class Code:
    """Compiled entries of one page, resident in this process."""

    def __init__(self, name: str, data: bytes, entries: dict[str, int], from_cache: bool) -> None:
        """`name` is the object's, in the cache."""
        self.name, self.size, self.from_cache = name, len(data), from_cache
        self._engine = load_object(data)
        self.run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(self._engine.get_function_address("run"))
        self.calls: tuple[int, ...] = tuple(self._engine.get_function_address(n) for n in ("call", "call_many") if n in entries)


def load_object(data: bytes) -> Any:
    """An engine that holds the functions of an object for as long as it lives."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    machine = llvm.Target.from_triple(triple).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(f'target triple="{triple}"\n'), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    return engine


def compile_source(source: Source) -> Code:
    """The page as functions of this process, from the cache or newly compiled.

    Raises `TargetError` where a kernel is not in the kernel language. A cache that cannot be read or written is
    done without.
    """
    machine = host()
    name = object_name(source, machine)
    data = read(name)
    if data is not None:
        return Code(name, data, source.entries, True)
    data = _compile(source, machine)
    write(name, data)
    return Code(name, data, source.entries, False)


def _compile(source: Source, machine: Machine) -> bytes:
    from tinyrnn.targets.objects import emit

    page = read_page(source.text)
    kernels = Kernels(page, machine)
    text = translated(page, {name: name for name in source.entries}, machine.bits, kernels)
    compiled = modules(kernels)
    tell(LINKING)
    return emit(machine, [text], compiled, list(source.entries), shared=kernels.shared()).data
