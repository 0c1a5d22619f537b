"""`python -W ignore -c CODE` without its start: `python -m tests.loading.preloaded` imports PyTorch and forks for each request.

A line of its input is JSON: the code, a folder to run it in, a file for what it prints, and the environment; the answer is a line
with the exit status. Keras is not imported: with it in the process, PyTorch's exporters write other files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from tests import ROOT


class Preloaded:
    """The process that forks."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._server = subprocess.Popen([sys.executable, "-m", "tests.loading.preloaded"], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def run(self, code: str, folder: Path) -> tuple[int, str]:
        """(exit status, what was printed) of a program that runs in a folder."""
        assert self._server.stdin is not None and self._server.stdout is not None
        printed = folder / "printed.txt"
        print(json.dumps([code, str(folder), str(printed), dict(os.environ)]), file=self._server.stdin, flush=True)
        return os.waitstatus_to_exitcode(int(self._server.stdout.readline())), printed.read_text()

    def close(self) -> None:
        self._server.communicate()


def _work(code: str, folder: str, printed: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(folder)
    sys.path[0], sys.argv = "", ["-c"]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def main() -> None:
    warnings.simplefilter("ignore")
    for name in ("numpy", "onnxruntime", "torch", "torch.onnx", "onnxscript"):
        with suppress(ImportError):
            import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = 1
            try:
                _work(*json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
