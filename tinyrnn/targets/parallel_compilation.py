"""The kernels of a page, from the cache or compiled in as many processes as there are cores.

Numba compiles under one global lock, so that using several cores takes several processes:
`python -m tinyrnn.targets.parallel_compilation FOLDER` helps the process that started it. All go through one list of kernels.
A process claims a kernel by creating an empty file of its name, compiles it, and writes the result beside that file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from tinyrnn.compile.progress import KERNELS, tell
from tinyrnn.targets import cache
from tinyrnn.targets.kernels import Kernels
from tinyrnn.targets.machine import Machine
from tinyrnn.targets.page import read_page
from tinyrnn.targets.page_functions import translated

PROCESSES_VARIABLE = "TINYRNN_PROCESSES"
"""environment variable: how many processes may compile at once, by default as many as there are cores"""
EACH = 6
"""kernels per additional process, which needs a second to start"""
POLL = 0.01
REQUEST, ENDING = "request.json", ".made"
Form = Literal["o", "bc"]
"""result for a kernel: an object for this machine, or bitcode from which objects for other machines are made"""


def objects(kernels: Kernels) -> list[bytes]:
    """The object of each kernel, from the cache or newly compiled."""
    return _made(kernels, "o")


def modules(kernels: Kernels) -> list[bytes]:
    """The bitcode of each kernel, from the cache or newly compiled."""
    return _made(kernels, "bc")


def _made(kernels: Kernels, form: Form) -> list[bytes]:
    found = {symbol: data for symbol in kernels.called if (data := cache.read(_file(symbol, form))) is not None}
    missing = [symbol for symbol in kernels.called if symbol not in found]
    if missing:
        for done, (symbol, data) in enumerate(_compiled(kernels, missing, form), len(found) + 1):
            cache.write(_file(symbol, form), data)
            found[symbol] = data
            tell(KERNELS, done, len(kernels.called))
    return [found[symbol] for symbol in kernels.called]


def _file(symbol: str, form: Form) -> str:
    return f"{cache.KERNELS}/{symbol.partition('.')[2]}.{form}"


def _compile(kernels: Kernels, symbol: str, form: Form) -> bytes:
    return kernels.object(symbol) if form == "o" else kernels.compile(symbol)


def _compiled(kernels: Kernels, symbols: Sequence[str], form: Form) -> Iterator[tuple[str, bytes]]:
    """(kernel, result) as they are compiled, in this process or in another one."""
    tell(KERNELS, len(kernels.called) - len(symbols), len(kernels.called))
    helpers = min(_cores() - 1, len(symbols) // EACH) if _may_start_python() and kernels.machine.bits == 64 else 0
    with _helped(helpers, symbols, kernels.page.text, kernels.machine, form) as (folder, running):
        elsewhere = []
        for symbol in symbols:
            if folder is None or _claim(folder, symbol):
                yield symbol, _compile(kernels, symbol, form)
            else:
                elsewhere.append(symbol)
        for symbol in elsewhere:
            yield symbol, _awaited(folder, symbol, running) or _compile(kernels, symbol, form)


def _cores() -> int:
    given = os.environ.get(PROCESSES_VARIABLE, "")
    if given.isdigit():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_start_python() -> bool:
    """Whether `sys.executable` is a Python interpreter, not a frozen program."""
    return bool(sys.executable) and not getattr(sys, "frozen", False) and Path(sys.executable).stem.lower().startswith("python")


@contextlib.contextmanager
def _helped(
    count: int, symbols: Sequence[str], page: str, machine: Machine, form: Form
) -> Iterator[tuple[Path | None, list[subprocess.Popen[bytes]]]]:
    if count < 1:
        yield None, []
        return
    with tempfile.TemporaryDirectory(prefix="tinyrnn-", ignore_cleanup_errors=True) as name:
        folder, running = Path(name), list[subprocess.Popen[bytes]]()
        request = {"machine": machine.as_dict(), "page": page, "symbols": [*symbols], "form": form, "parent": os.getpid()}
        (folder / REQUEST).write_text(json.dumps(request))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "tinyrnn.targets.parallel_compilation", name]
        with contextlib.suppress(OSError):  # a machine that starts no more processes compiles in this one
            for _ in range(count):
                null = subprocess.DEVNULL
                running.append(subprocess.Popen(command, env=environment, stdin=null, stdout=null, stderr=null))
        try:
            yield folder, running
        finally:
            for process in running:
                process.kill()
            for process in running:
                process.wait()


def _claim(folder: Path, symbol: str) -> bool:
    try:
        (folder / symbol).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _awaited(folder: Path | None, symbol: str, running: Sequence[subprocess.Popen[bytes]]) -> bytes | None:
    """The result of another process for a kernel; None where all have ended without it."""
    while folder is not None:
        ended = all(process.poll() is not None for process in running)
        try:
            return (folder / (symbol + ENDING)).read_bytes()
        except OSError:
            if ended:
                break
        time.sleep(POLL)
    return None


def main() -> None:
    folder = Path(sys.argv[1])
    request = json.loads((folder / REQUEST).read_text())
    machine = Machine.from_dict(request["machine"])
    page = read_page(request["page"])
    kernels = Kernels(page, machine)
    translated(page, {name: name for name in page.functions}, machine.bits, kernels)
    for symbol in reversed(request["symbols"]):
        if os.getppid() == request["parent"] and _claim(folder, symbol):
            made = folder / f"{symbol}.part"
            made.write_bytes(_compile(kernels, symbol, request["form"]))
            made.replace(folder / (symbol + ENDING))
    if os.getppid() != request["parent"]:  # it was killed
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
