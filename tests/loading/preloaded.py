"""`python -W ignore -c CODE` without its start: `python -m tests.loading.preloaded` imports PyTorch and forks for each program.

Keras is not imported: with it in the process, PyTorch's exporters write other files.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from tests.forking import ForkServer, print_into, serve


class Preloaded(ForkServer):
    """Runs programs in forks of a process that has imported PyTorch."""

    def __init__(self) -> None:
        super().__init__("tests.loading.preloaded")

    def run(self, code: str, folder: Path) -> tuple[int, str]:
        """(exit status, what was printed) of a program that runs in a folder."""
        printed = folder / "printed.txt"
        return self.status([code, str(folder), str(printed)], dict(os.environ)), printed.read_text()


def _work(code: str, folder: str, printed: str) -> None:
    print_into(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    os.chdir(folder)
    sys.path[0], sys.argv = "", ["-c"]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in ("numpy", "onnxruntime", "torch", "torch.onnx", "onnxscript"):
        with suppress(ImportError):
            import_module(name)
    serve(_work)
