"""Machine code of this process: an object, resident, with the addresses of its entries."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any


class Code:
    """Compiled entries of one page."""

    def __init__(self, name: str, data: bytes, entries: Iterable[str], from_cache: bool) -> None:
        """`name` is the object's, in the cache."""
        self.name, self.size, self.from_cache = name, len(data), from_cache
        self.entries = tuple(entries)
        self._engine = load_object(data)
        self.run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(self._engine.get_function_address("run"))
        self.calls: tuple[int, ...] = tuple(
            self._engine.get_function_address(n) for n in ("call", "call_many") if n in self.entries
        )


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
