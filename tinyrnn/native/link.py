"""Linkers on this machine: shared libraries for Linux, and WebAssembly modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tinyrnn.errors import TargetError
from tinyrnn.runtime.built import architecture
from tinyrnn.targets.target_table import Target

GNU = {
    "x86_64": ("x86_64-linux-gnu", "elf_x86_64"),
    "aarch64": ("aarch64-linux-gnu", "aarch64linux"),
    "armv7": ("arm-linux-gnueabihf", "armelf_linux_eabi"),
    "riscv64": ("riscv64-linux-gnu", "elf64lriscv"),
}


def _zig(command: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", command] if find_spec("ziglang") else []


def on_this_machine(target: Target) -> bool:
    """Whether this process has the architecture of a target; it may still lack some of its features."""
    return target.shared and target.machine.architecture == architecture() and sys.platform == "linux"


def shared_linker(target: Target) -> list[str]:
    """The command that links a shared library for a target; empty if no linker is found."""
    if not target.shared:
        return []
    architecture = target.machine.architecture
    prefix, emulation = GNU.get(architecture, ("", ""))
    options = ["-shared", "--build-id=none", "--hash-style=gnu"]
    if sys.platform != "linux" and target.system == "host":
        compiler = shutil.which("cc")
        return [compiler, "-shared"] if compiler else []
    if found := shutil.which("ld.lld"):
        return [found, *options, "-m", emulation] if emulation else []
    if prefix and (found := shutil.which(f"{prefix}-ld")):
        return [found, *options]
    if on_this_machine(target) and (found := shutil.which("cc")):
        return [found, "-shared", "-nostdlib", "-Wl,--build-id=none", "-Wl,--hash-style=gnu"]
    if emulation and (zig := _zig("ld.lld")):
        return [*zig, *options, "-m", emulation]
    return []


def wasm_linker() -> list[str]:
    """The command that links a WebAssembly module; empty if no linker is found."""
    found = next((f for f in map(shutil.which, ("wasm-ld", "wasm-ld-19", "wasm-ld-16", "wasm-ld-14")) if f), None)
    command = [found] if found else _zig("wasm-ld")
    return [*command, "--no-entry", "--strip-all"] if command else []


def link(command: Sequence[str], objects: Sequence[bytes], options: Sequence[str] = ()) -> bytes:
    """The bytes of the linked file. Raises `TargetError` with the linker's message."""
    with tempfile.TemporaryDirectory(prefix="tinyrnn-") as name:
        folder = Path(name)
        files = [f"{number}.o" for number in range(len(objects))]
        for file, data in zip(files, objects, strict=True):
            (folder / file).write_bytes(data)
        line = [*command, *options, *files, "-o", "linked"]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, errors="replace", timeout=300)
        if done.returncode or not (folder / "linked").is_file():
            raise TargetError(f"{Path(command[0]).name} cannot link the object: {done.stderr.strip() or done.returncode}")
        return (folder / "linked").read_bytes()
