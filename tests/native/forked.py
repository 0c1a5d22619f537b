"""`tinyrnn.targets.worker` without its start: `python -m tests.native.forked BITS` imports all and forks for each request.

A line of its input is JSON, a folder and the environment; the answer is a line with the exit status of the process that was
forked. Numba knows one width of integers, so that there is such a process for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from tests import ROOT
from tinyrnn.targets import worker


class Forking:
    """Takes the place of `subprocess` in the worker's module."""

    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self) -> None:
        self._servers: dict[int, subprocess.Popen[str]] = {}

    def run(self, command: list[str], stdout: IO[str], stderr: IO[str], env: dict[str, str], timeout: float) -> Any:
        """As `subprocess.run`, for the one command that the module starts."""
        assert command[1:3] == ["-m", "tinyrnn.targets.worker"] and stdout is stderr
        folder = Path(command[3])
        bits = json.loads((folder / "request.json").read_text())["machine"]["bits"]
        if bits not in self._servers:
            start = [sys.executable, "-m", "tests.native.forked", str(bits)]
            pipe = subprocess.PIPE
            self._servers[bits] = subprocess.Popen(start, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True)
        server = self._servers[bits]
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps([str(folder), env]), file=server.stdin, flush=True)
        return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(int(server.stdout.readline())))

    def close(self) -> None:
        for server in self._servers.values():
            server.communicate()


def _work(folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    printed = os.open(Path(folder) / worker.PRINTED, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(printed, stream)
    sys.argv[1:] = [folder]
    worker.main()
    sys.stdout.flush()


def main(bits: int) -> None:
    if bits != 64:
        sys.meta_path.insert(0, worker._WordSize(bits))
    from tinyrnn import ops  # noqa: F401
    from tinyrnn.lanes import llvm  # noqa: F401
    from tinyrnn.targets import kernels, keys, lowering, objects, page_functions, stack  # noqa: F401

    keys.language()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = 1
            try:
                _work(*json.loads(line))
                status = 0
            finally:
                os._exit(status)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
