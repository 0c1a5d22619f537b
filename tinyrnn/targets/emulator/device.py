"""The emulated GPU behind the words of `tinyrnn.runtime.cuda_driver.Device`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyrnn.errors import TargetError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime.cuda_driver import ALLOCATED, OutOfMemory
from tinyrnn.targets.emulator.grid import Fault, launch
from tinyrnn.targets.emulator.ptx_text import parse

BASE = 1 << 20
"""the first address"""


class Emulated:
    """A GPU in one block of bytes, which hold NaN from when they are taken until something is written there."""

    def __init__(self, nbytes: int = 1 << 24, schedule: np.random.Generator | None = None, multiprocessors: int = 2) -> None:
        self.multiprocessors, self.schedule = multiprocessors, schedule
        self._memory = np.zeros(nbytes, np.uint8)  # pages that nobody takes cost nothing
        self._taken: dict[int, int] = {}

    def load(self, ptx: str, entry: str) -> Any:
        return parse(ptx)[entry]

    def most_warps(self, function: Any) -> int:
        return 2

    def take(self, nbytes: int) -> int:
        size, start = -(-max(nbytes, 1) // ALLOCATED) * ALLOCATED, 0
        for taken, length in sorted(self._taken.items()):
            if start + size <= taken:
                break
            start = taken + length
        if start + size > len(self._memory):
            raise OutOfMemory(f"target 'cuda': the emulated GPU has no {nbytes:,} bytes left")
        self._taken[start] = size
        self._memory[start : start + size] = 0xFF
        return BASE + start

    def free(self, address: int) -> None:
        del self._taken[address - BASE]

    def free_bytes(self) -> int:
        return len(self._memory) - sum(self._taken.values())

    def _part(self, address: int, nbytes: int) -> Array:
        start = address - BASE
        if not any(taken <= start and start + nbytes <= taken + size for taken, size in self._taken.items()):
            raise TargetError(f"target 'cuda': a copy of {nbytes} bytes at {address:#x}, which no allocation has")
        return self._memory[start : start + nbytes]

    def write(self, address: int, array: Array) -> None:
        if array.nbytes:
            self._part(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def read(self, array: Array, address: int) -> None:
        if array.nbytes:
            array.reshape(-1).view(np.uint8)[:] = self._part(address, array.nbytes)

    def launch(self, function: Any, blocks: int, warps: int, *arguments: int) -> None:
        try:
            launch(function, self._memory, BASE, arguments, blocks, warps, self.schedule)
        except Fault as error:
            raise TargetError(f"target 'cuda': the emulated GPU stopped: {error}") from error

    def wait(self) -> None:
        pass

    def follow(self, stream: int) -> None:
        pass
