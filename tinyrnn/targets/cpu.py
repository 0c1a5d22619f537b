"""This machine: source → object → functions, with the objects cached on disk.

The cache holds relocatable objects named by a hash of everything they depend on: the page of source,
every file of the kernel language, the versions of the tools, the machine. A model that is in the cache
loads without Numba.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinyrnn.codegen import Source
from tinyrnn.errors import TargetError
from tinyrnn.targets.machine import Machine, host

CACHE_VARIABLE = "TINYRNN_CACHE"
"""environment variable: the folder of the cache, or empty for none"""


def cache_folder() -> Path | None:
    """Where compiled objects are kept; None where the cache is switched off."""
    given = os.environ.get(CACHE_VARIABLE)
    if given is not None:
        return Path(given) if given else None
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    return (Path(base) if base else Path.home() / ".cache") / "tinyrnn"


@cache
def _kernel_sources() -> bytes:
    """A hash of every file that can change what a page compiles to."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(
        [*package.glob("lanes*.py"), *package.glob("ops/*.py"), *package.glob("targets/*.py"), package / "codegen.py"]
    ):
        digest.update(path.read_bytes())
    return digest.digest()


def object_key(source: Source, machine: Machine) -> str:
    """The name of a compiled object."""
    digest = hashlib.sha256(_kernel_sources())
    for text in (source.text, repr(machine), version("numba"), version("llvmlite"), platform.python_version()):
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


class Code:
    """Compiled entries of one page, resident in this process."""

    def __init__(self, data: bytes, entries: dict[str, int], from_cache: bool) -> None:
        import llvmlite.binding as llvm

        self.size, self.from_cache = len(data), from_cache
        self._engine = _load(llvm, data)
        self.run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(self._engine.get_function_address("run"))
        self.calls: tuple[int, ...] = tuple(self._engine.get_function_address(n) for n in ("call", "call_many") if n in entries)


def _load(llvm: Any, data: bytes) -> Any:
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
    folder = cache_folder()
    path = folder / f"{object_key(source, machine)}.o" if folder else None
    data = _read(path) if path else None
    if data is not None:
        return Code(data, source.entries, True)
    data = _compile(source, machine)
    if path:
        _write(path, data)
    return Code(data, source.entries, False)


def _read(path: Path) -> bytes | None:
    """An object with its checksum verified; None where there is none or it is damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    data, digest = stored[:-32], stored[-32:]
    return data if len(stored) > 32 and hashlib.sha256(data).digest() == digest else None


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + hashlib.sha256(data).digest())
        os.replace(temporary, path)
    except OSError:
        pass


_compilers: dict[Machine, Any] = {}


def _compile(source: Source, machine: Machine) -> bytes:
    from tinyrnn import lanes_llvm
    from tinyrnn.targets.objects import Compiler

    lanes_llvm.install(machine.lanes)
    if machine not in _compilers:
        _compilers[machine] = Compiler(machine)
    names: dict[str, Any] = {}
    try:
        exec(compile(source.text, "<step>", "exec"), names)
        local = [f for n, f in names.items() if getattr(f, "__code__", None) is not None and f.__code__.co_filename == "<step>"]
        lanes_llvm.teach(local)
        return bytes(_compilers[machine].emit({name: (names[name], arity) for name, arity in source.entries.items()}).data)
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(f"the step cannot be compiled for {machine}: {error}") from error
