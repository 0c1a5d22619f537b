"""Compilation for this machine: page → objects, stored in the cache → code in this process.

A page has an object, and each kernel has one of its own, shared by all pages. They are named by a hash of all that they
depend on: the text, every file of the kernel language, the versions of the tools, the machine. A page in the cache
with its kernels, or with all kernels in the cache, is loaded without Numba.
"""

from __future__ import annotations

import re
from functools import cache

from tinyrnn.compile.codegen import Source
from tinyrnn.compile.pool_page import stream_by_stream
from tinyrnn.compile.progress import LINKING, tell
from tinyrnn.runtime.pool_runner import PoolCode
from tinyrnn.targets.cache import read, write
from tinyrnn.targets.code import Code, bundled, objects_in
from tinyrnn.targets.kernels import Kernels
from tinyrnn.targets.keys import key_of
from tinyrnn.targets.machine import Machine, host
from tinyrnn.targets.page import read_page
from tinyrnn.targets.page_functions import translated
from tinyrnn.targets.parallel_compilation import objects

_COMMENT = re.compile(r"^ *#.*\n", re.M)


def object_name(source: Source, machine: Machine) -> str:
    """The file of a compiled page and its kernels in the cache; comments in the page do not matter."""
    return f"{key_of(machine, _COMMENT.sub('', source.text))}.o"


def pauses(machine: Machine) -> str:
    """LLVM text of what `pause` calls."""
    arm = "aarch64.hint(i32 1)"
    word = {"x86_64": "x86.sse2.pause()", "aarch64": arm, "arm64": arm}.get(machine.architecture)
    does = f" call void @llvm.{word}\n" if word else ""
    declared = f"declare void @llvm.{word.replace(' 1', '')}\n" if word else ""
    return f"{declared}define internal void @tinyrnn.pause() alwaysinline nounwind {{\n{does} ret void\n}}\n"


def compile_source(source: Source) -> Code:
    """The code of a page in this process, from the cache or newly compiled.

    Raises `TargetError` if a kernel is not in the kernel language. A cache that cannot be read or written is
    ignored.
    """
    machine = host()
    name = object_name(source, machine)
    data = read(name)
    if data is not None:
        return Code(name, objects_in(data), source.entries, True)
    made = _compile(source, machine)
    write(name, bundled(made))
    return Code(name, made, source.entries, False)


@cache
def one_by_one() -> PoolCode:
    """What streams run on that go one after the other, the same for all models."""
    return PoolCode(compile_source(stream_by_stream()), tick=False)


def _compile(source: Source, machine: Machine) -> list[bytes]:
    from tinyrnn.targets.objects import emit

    page = read_page(source.text)
    kernels = Kernels(page, machine)
    text = translated(page, {name: name for name in source.entries}, machine.bits, kernels) + pauses(machine)
    compiled = objects(kernels)
    tell(LINKING)
    return [*compiled, emit(machine, [text], [], list(source.entries), externals=list(kernels.called)).data]
