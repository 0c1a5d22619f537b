"""Changed models, loaded and compared in a process of their own, where a crash or a hang is one more finding.

`python -m tests.whole.fuzzing FIRST COUNT` hunts: it prints what it finds in that many models from a seed on.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from queue import Empty, Queue
from threading import Thread
from typing import Any, NamedTuple

from tests import ROOT
from tests.whole.mutations import bases

SECONDS = 10.0
"""of processor time that a load may take"""
PATIENCE = 120.0
"""seconds after which a worker is taken to hang"""
MEGABYTES = 2048
"""of memory that a worker may take"""


class Finding(NamedTuple):
    base: str
    seed: int
    text: str


class _Worker:
    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.whole.fuzz_worker"], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        self._said: Queue[str] = Queue()
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line)
        self._said.put("")

    def ask(self, name: str, seed: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\t{seed}\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any] | None:
        """What it says next; None where it ended. Raises `TimeoutError`."""
        try:
            line = self._said.get(timeout=PATIENCE)
        except Empty:
            raise TimeoutError from None
        return json.loads(line) if line else None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Counts:
    """Of models: how many there were, loaded, ran, and were the same in onnxruntime."""

    def __init__(self) -> None:
        self.models = self.loaded = self.ran = self.agreed = 0

    def __str__(self) -> str:
        return f"{self.models} models: {self.loaded} loaded, {self.ran} ran, {self.agreed} agree with onnxruntime"


def found(first: int, count: int, counts: Counts | None = None) -> Iterator[Finding]:
    """What is wrong with `count` models from a seed on."""
    names, rng, counts = bases(), random.Random(first), counts or Counts()
    worker = _Worker()
    try:
        for seed in range(first, first + count):
            name = rng.choice(names)
            text, alive = _one(worker, name, seed, counts)
            if text:
                yield Finding(name, seed, text)
            if not alive:
                worker.end()
                worker = _Worker()
    finally:
        worker.end()


def _one(worker: _Worker, name: str, seed: int, counts: Counts) -> tuple[str, bool]:
    """What is wrong with one model, and whether the worker can go on."""
    counts.models += 1
    try:
        worker.ask(name, seed)
        said = worker.hear()
    except TimeoutError:
        return f"still loading after {PATIENCE:.0f} s", False
    except BrokenPipeError:
        said = None
    if said is None:
        return "the process crashed while it loaded", False
    counts.loaded += not said["loaded"]
    if said["loaded"].startswith("fault"):
        return said["loaded"], True
    if said["seconds"] > SECONDS:
        return f"{said['seconds']:.0f} s: {said['loaded'] or 'loaded'}", True
    if said["peak"] > MEGABYTES:
        return f"{said['peak']} MB: {said['loaded'] or 'loaded'}", False
    entered = False
    try:
        while (said := worker.hear()) is not None:
            if "differs" in said:
                counts.agreed += said.get("same", False)
                return said["differs"], True
            entered = True  # from here on it is onnxruntime that may crash
            counts.ran += 1
    except TimeoutError:
        return ("" if entered else f"still running after {PATIENCE:.0f} s"), False
    return ("" if entered else "the process crashed while it ran"), False


if __name__ == "__main__":
    total = Counts()
    for finding in found(int(sys.argv[1]), int(sys.argv[2]), total):
        print(f"{finding.base}\t{finding.seed}\t{finding.text}", flush=True)
    print(total, file=sys.stderr)
