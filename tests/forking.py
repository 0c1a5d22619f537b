"""Programs without their start: a process that has imported what they need forks for each request.

A line of its input is JSON, a request and the environment; the answer is a line with the exit status of the fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tests import ROOT


class ForkServer:
    """The process that forks: `python -m MODULE ARGUMENTS…`, which imports and then calls `serve`."""

    def __init__(self, *command: str) -> None:
        pipe = subprocess.PIPE
        self._server = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def status(self, request: list[str], environment: dict[str, str]) -> int:
        """The exit status of a fork that works on the request in this environment."""
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps([request, environment]), file=self._server.stdin, flush=True)
        return os.waitstatus_to_exitcode(int(self._server.stdout.readline()))

    def close(self) -> None:
        self._server.communicate()


def serve(work: Callable[..., Any]) -> None:
    """Fork for each line of standard input, with the request as arguments; an exception is status 1."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = 1
            try:
                request, environment = json.loads(line)
                os.environ.clear()
                os.environ.update(environment)
                work(*request)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        print(os.waitpid(child, 0)[1], flush=True)


def print_into(file: int) -> None:
    """Let an open file take what this process prints."""
    for stream in (1, 2):
        os.dup2(file, stream)
