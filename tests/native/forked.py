"""`tinyrnn.targets.worker` without its start: `python -m tests.native.forked BITS` imports all and forks for each request.

Numba knows one width of integers, so that there is such a process for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from tests.forking import ForkServer, print_into, serve
from tinyrnn.targets import worker


class Forking:
    """Takes the place of `subprocess` in the worker's module."""

    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self) -> None:
        self._servers: dict[int, ForkServer] = {}

    def run(self, command: list[str], stdout: IO[str], stderr: IO[str], env: dict[str, str], timeout: float) -> Any:
        """As `subprocess.run`, for the one command that the module starts."""
        assert command[1:3] == ["-m", "tinyrnn.targets.worker"] and stdout is stderr
        folder = Path(command[3])
        bits = json.loads((folder / "request.json").read_text())["machine"]["bits"]
        if bits not in self._servers:
            self._servers[bits] = ForkServer("tests.native.forked", str(bits))
        return subprocess.CompletedProcess(command, self._servers[bits].status([str(folder)], env))

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


def _work(folder: str) -> None:
    print_into(os.open(Path(folder) / worker.PRINTED, os.O_WRONLY | os.O_APPEND))
    sys.argv[1:] = [folder]
    worker.main()


def main(bits: int) -> None:
    if bits != 64:
        sys.meta_path.insert(0, worker._WordSize(bits))
    from tinyrnn import ops  # noqa: F401
    from tinyrnn.lanes import llvm  # noqa: F401
    from tinyrnn.targets import kernels, keys, lowering, objects, page_functions, stack  # noqa: F401

    keys.language()
    serve(_work)


if __name__ == "__main__":
    main(int(sys.argv[1]))
