"""`python -m tinyrnn.targets.worker FOLDER`: compile the pages in FOLDER for one machine.

Numba compiles a function once per process and knows one width of integers, and LLVM ends the process where it meets
something unsupported, so that each machine has its own process. FOLDER holds `request.json`, see `compile_for`, and the files
that it names; printed text goes to a file there. The results are an object per unit, or `error.txt`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tinyrnn.errors import TargetError
from tinyrnn.targets.machine import Machine

LONGEST = 1800
"""most seconds of a compilation"""
UNROLLED = 60
"""LLVM's limit on the size of an unrolled loop: with its default of 300 code is up to a third larger, and no faster"""
PRINTED, STACKS = "printed.txt", "stacks.json"


@dataclass(frozen=True)
class Unit:
    """The source of one object."""

    name: str
    page: str = ""
    """source in the kernel language"""
    functions: Mapping[str, int] = field(default_factory=dict)
    """functions of the page by their name in the object, which may have a prefix before a dot → number of arguments"""
    around: str = ""
    """LLVM text that calls them, in which `DATA(file)` stands for the bytes of a file of `data`"""
    exports: Sequence[str] = ()
    externals: Sequence[str] = ()
    data: Mapping[str, bytes] = field(default_factory=dict)


class Made(NamedTuple):
    """A compiled unit."""

    data: bytes
    stack: int | None
    """most bytes of stack of a call of an exported function, or None where unknown, without functions called in other
    objects"""


def compile_for(machine: Machine, units: Sequence[Unit]) -> list[Made]:
    """Compile units in one new process. Raises `TargetError`."""
    with tempfile.TemporaryDirectory(prefix="tinyrnn-") as name:
        folder = Path(name)
        for unit in units:
            for file, data in unit.data.items():
                (folder / file).write_bytes(data)
        described = [{**asdict(unit), "data": sorted(unit.data)} for unit in units]
        request = {"machine": machine.as_dict(), "units": described}
        (folder / "request.json").write_text(json.dumps(request))
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "tinyrnn.targets.worker", name]
        try:
            with (folder / PRINTED).open("w") as output:
                done = subprocess.run(command, stdout=output, stderr=output, env=environment, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            raise TargetError(f"compiling for {machine} took more than {LONGEST} seconds") from None
        printed = (folder / PRINTED).read_text(errors="replace")
        unknown = re.search(r"'([^'\n]*)' is not a recognized (processor|feature)", printed)
        if unknown:
            name, what = unknown.groups()
            raise TargetError(f"LLVM knows no {what} {name!r} of {machine.architecture}")
        failed = folder / "error.txt"
        if failed.is_file():
            raise TargetError(failed.read_text())
        if done.returncode:
            last = "\n".join(printed.strip().splitlines()[-6:])
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
            raise TargetError(f"the compiler cannot make code for {machine} and ended ({how}):\n{last}")
        stacks = json.loads((folder / STACKS).read_text())
        return [Made((folder / f"{number}.o").read_bytes(), stack) for number, stack in enumerate(stacks)]


class _WordSize(MetaPathFinder):
    """An import hook that gives Numba the machine's width of addresses and integers instead of that of this process."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "numba.core.config" else None
        if spec is None or spec.loader is None:
            return None
        execute, bits = spec.loader.exec_module, self.bits

        def with_size(module: ModuleType) -> None:
            execute(module)
            vars(module).update(MACHINE_BITS=bits, IS_32BITS=bits == 32)

        spec.loader.exec_module = with_size  # type: ignore[method-assign]
        return spec


def _work(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text())
    machine = Machine.from_dict(request["machine"])
    if machine.bits != 64:
        sys.meta_path.insert(0, _WordSize(machine.bits))
    import llvmlite.binding as llvm

    from tinyrnn.targets.arithmetic import rewritten
    from tinyrnn.targets.kernels import Kernels
    from tinyrnn.targets.objects import emit
    from tinyrnn.targets.page import read_page
    from tinyrnn.targets.page_functions import translated
    from tinyrnn.targets.parallel_compilation import modules
    from tinyrnn.targets.stack import deepest

    llvm.set_option("tinyrnn", f"--unroll-threshold={UNROLLED}")
    stacks = []
    for number, described in enumerate(request["units"]):
        unit = Unit(**{**described, "data": {name: (folder / name).read_bytes() for name in described["data"]}})
        page = read_page(unit.page)
        kernels = Kernels(page, machine)
        entries = {name: name.rpartition(".")[2] for name in unit.functions}
        if machine.warp:
            from tinyrnn.lanes.warp import BARRIER, DECLARED

            text = DECLARED + "\n" + translated(page, entries, machine.bits, kernels, "alwaysinline", BARRIER)
        else:
            text = rewritten(translated(page, entries, machine.bits, kernels, "noinline"), machine)
        around = unit.around
        for name, data in unit.data.items():
            around = around.replace(f"DATA({name})", 'c"' + ("\\" + data.hex("\\") if data else "") + '"')
        compiled = modules(kernels)
        before = (folder / PRINTED).stat().st_size
        shared = kernels.shared()
        made = emit(machine, [text, around], compiled, unit.exports, unit.externals, shared, alone=True)
        (folder / f"{number}.o").write_bytes(made.data)
        warnings = (folder / PRINTED).read_bytes()[before:].decode(errors="replace")
        stacks.append(deepest(unit.exports, made.calls, warnings, machine))
    (folder / STACKS).write_text(json.dumps(stacks))


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        _work(folder)
    except TargetError as error:
        (folder / "error.txt").write_text(str(error))
    except Exception as error:
        (folder / "error.txt").write_text(f"the model cannot be compiled: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
