"""A crew: the caller's thread and others beside it, which share the large calls of one stream.

The caller posts a job in a block of memory: a number, one higher than that of the last, and what to do. Each worker claims its
part, does it, and says so; the caller does a part of its own, then those that nobody claimed. So a worker that sleeps, that
the system does not run, or that a forked process lacks, costs time but never a result. A worker watches for jobs
for some microseconds after the last, then sleeps until it is woken by the next.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime.memory import Layout, aligned
from tinyrnn.runtime.process_local import ProcessLocal

MOST_THREADS = 16
LINE = 8
"""int64 in a cache line: what different threads write lies in different ones"""
NUMBER = 0
"""the number of the newest job; as all that follow, a place in the block"""
JOB = LINE
"""which shared call; its pieces are those of the step"""
PARTS, TURN, OPERANDS = JOB + 1, JOB + 2, JOB + 3
"""of how many parts; how often the call was made before; its operands"""
MOST_OPERANDS = 29
THREADS = 5 * LINE
"""of how many parts a job is; 1 after the crew is dismissed"""
QUIT, WAKE, SLEEP, YIELD = THREADS + 1, THREADS + 2, THREADS + 3, THREADS + 4
"""whether to end; addresses of functions that release a lock, wait for one, and let others run"""
TURNS = 6 * LINE
MOST_TURNS = 64
"""counters of the shared calls; several calls may have one"""
WORKERS = TURNS + MOST_TURNS
"""first of the workers' own places"""
CLAIMED, DONE, ASLEEP, LOCK = 0, LINE, 2 * LINE, 2 * LINE + 1
"""within a worker's: the job that it, or the caller for it, claimed last; that it did last; whether it sleeps; its lock"""
SPAN = 3 * LINE
BLOCK = WORKERS + SPAN * MOST_THREADS


@dataclass(frozen=True, eq=False)
class CrewCode:
    """What a stream with a crew runs on."""

    layout: Layout
    code: Any
    """a compiled page with the entries of a stream, and `serve` and `dismiss`"""


def check_threads(model: str, threads: Any) -> int:
    """The number of threads. Raises `ShapeError` for anything but a number of them."""
    whole = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not whole or not 1 <= threads <= MOST_THREADS:
        raise ShapeError(f"{model}: a stream with threads={threads!r}; it takes a number from 1 to {MOST_THREADS}")
    return int(threads)


class Crew(ProcessLocal):
    """The workers of one stream, and the block through which the caller's thread gives them jobs."""

    instead = "another stream has a crew of its own"

    def __init__(self, code: Any, threads: int) -> None:
        block = aligned(BLOCK, np.int64)
        block[:] = 0
        api = ctypes.pythonapi
        api.PyThread_allocate_lock.restype = ctypes.c_void_p
        api.PyThread_free_lock.argtypes = [ctypes.c_void_p]
        api.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
        block[THREADS] = threads
        block[WAKE], block[SLEEP] = _address(api.PyThread_release_lock), _address(api.PyThread_acquire_lock)
        block[YIELD] = _address(_yielding())
        for number in range(threads - 1):
            lock = api.PyThread_allocate_lock()
            api.PyThread_acquire_lock(lock, 1)
            block[WORKERS + SPAN * number + LOCK] = lock
        self.pointer, self._block = block.ctypes.data, block  # streams use it after the crew is dismissed, too
        serve = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(code.address("serve"))
        workers = [
            threading.Thread(target=_work, args=(serve, self.pointer, part, (code, block)), name="tinyrnn-crew", daemon=True)
            for part in range(1, threads)
        ]
        for worker in workers:
            worker.start()
        self.close = weakref.finalize(self, _dismiss, code, block, workers)
        """end the workers; what comes after is done by the caller alone"""


def _work(serve: Any, pointer: int, part: int, keep: Any) -> None:
    """The life of a worker. keep: what native code works with."""
    serve(pointer, part)


def _dismiss(code: Any, block: Array, workers: list[threading.Thread]) -> None:
    ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(code.address("dismiss"))(block.ctypes.data)
    for number, worker in enumerate(workers):
        if worker is not threading.current_thread():  # the collector may run in any
            worker.join()
            ctypes.pythonapi.PyThread_free_lock(int(block[WORKERS + SPAN * number + LOCK]))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _yielding() -> Any:
    """A C function that lets other threads run."""
    return ctypes.CDLL("kernel32").SwitchToThread if os.name == "nt" else ctypes.CDLL(None).sched_yield
