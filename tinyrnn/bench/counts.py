"""Measurements other than time: allocations of Python code and of compiled code, resident memory, loading."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import statistics
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyrnn.bench.report import Allocated, Loading
from tinyrnn.errors import TinyRNNError
from tinyrnn.runtime import Model, Progress

HARMLESS = frozenset({"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"})
"""undefined symbols that do not allocate"""
CACHED_LOADS = 3


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A context without garbage collection."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def count_allocations(call: Callable[[], Any], calls: int = 200) -> Allocated | None:
    """The allocations of one call of Python code, NumPy's arrays included: the average over `calls`, after a warm-up.

    Counted by tracemalloc, less what counting itself allocates (measured on a function that does nothing). None
    where something else is tracing. Memory that CPython keeps in free lists for reuse is not allocated anew and
    not counted.
    """
    if tracemalloc.is_tracing():
        return None
    with undisturbed():
        tracemalloc.start()
        try:
            (peak, alive), (idle_peak, idle_alive) = _traced(call, calls), _traced(_nothing, calls)
        finally:
            tracemalloc.stop()
    return Allocated(max(peak - idle_peak, 0.0), max(alive - idle_alive, 0.0), calls)


def _nothing() -> None:
    return None


def _traced(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Average peak bytes during a call, and average blocks alive at its end."""
    peaks, alive = [0] * calls, [0] * min(calls, 20)
    for index in range(-20, calls):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        peaks[index] = tracemalloc.get_traced_memory()[1] - before
        del result
    for index in range(-5, len(alive)):
        count = len(tracemalloc.take_snapshot().traces)
        result = call()
        alive[index] = len(tracemalloc.take_snapshot().traces) - count
        del result
    return statistics.fmean(peaks), statistics.fmean(alive)


def undefined_symbols(*objects: bytes) -> tuple[str, ...] | None:
    """The undefined symbols of ELF objects, sorted; None where one is not ELF or is damaged."""
    needed, given = set[str](), set[str]()
    for data in objects:
        found = _symbols(data)
        if found is None:
            return None
        needed |= found[0]
        given |= found[1]
    return tuple(sorted(needed - given))


def _symbols(data: bytes) -> tuple[set[str], set[str]] | None:
    """The undefined and the defined symbols of an object."""
    if data[:4] != b"\x7fELF" or len(data) < 64:
        return None
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    try:
        (start,) = struct.unpack_from(order + ("Q" if wide else "I"), data, 0x28 if wide else 0x20)
        size, count = struct.unpack_from(order + "HH", data, 0x3A if wide else 0x2E)
        form = order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII")
        sections = [struct.unpack_from(form, data, start + index * size) for index in range(count)]
        found = set[str](), set[str]()
        for _, kind, _, _, offset, length, link, *_ in sections:
            if kind != 2:  # SHT_SYMTAB
                continue
            strings = sections[link][4]
            entry = 24 if wide else 16
            for at in range(offset, offset + length, entry):
                (name,) = struct.unpack_from(order + "I", data, at)
                (section,) = struct.unpack_from(order + "H", data, at + (6 if wide else 14))
                if name:
                    found[section != 0].add(data[strings + name : data.index(b"\0", strings + name)].decode())
    except (struct.error, IndexError, ValueError):
        return None
    return found


def cached_objects(model: Model) -> list[bytes]:
    """The compiled objects of a model from the user's cache; empty where they are not there."""
    from tinyrnn.targets.cache import read
    from tinyrnn.targets.code import objects_in

    name = getattr(model._code, "name", "")
    data = read(name) if name else None
    return objects_in(data) if data else []


def resident() -> int | None:
    """Resident bytes of this process; its peak where only that is known; None where neither is."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_growth(loop: Callable[[int], Any], passes: int, progress: Progress | None = None) -> int | None:
    """Bytes by which this process grows over `passes` of a loop, run in ten pieces, after a warm-up of a tenth."""
    piece = max(1, passes // 10)
    with undisturbed():
        loop(piece)
        before = resident()
        for done in range(0, passes, piece):
            loop(min(piece, passes - done))
            if progress:
                progress(min(done + piece, passes), passes)
        after = resident()
    return None if before is None or after is None else after - before


@dataclass(frozen=True)
class FreshLoads:
    """`load` in fresh processes, with a cache of its own that is empty at first."""

    loading: Loading
    resident: int | None
    """resident bytes of the last process"""
    code: list[bytes]
    """the compiled objects that the first process left in the cache"""


_LOAD = """
import json, sys, time
start = time.perf_counter()
import tinyrnn
imported = time.perf_counter()
import pickle
path, options = pickle.load(sys.stdin.buffer)
begun = time.perf_counter()
model = tinyrnn.load(path, **options)
loaded = time.perf_counter()
from tinyrnn.bench.counts import resident
print(json.dumps([imported - start, loaded - begun, model._code.from_cache, resident()]))
"""


def fresh_loads(path: Path, options: Mapping[str, Any], tick: Callable[[], None]) -> FreshLoads:
    """Load the file once with an empty cache and then from it. Calls `tick` 1 + CACHED_LOADS times."""
    from tinyrnn.targets.code import objects_in

    with tempfile.TemporaryDirectory(prefix="tinyrnn-bench-") as folder:
        runs = []
        for _ in range(1 + CACHED_LOADS):
            runs.append(_fresh_load(path, options, folder))
            tick()
        files = sorted(Path(folder).glob("*.o"))
        code = objects_in(files[0].read_bytes()) if len(files) == 1 else []
    cold, cached = runs[0][1], [run for run in runs if run[2]]
    if not cached:
        raise TinyRNNError(f"{path}: no later load took the compiled code from the cache")
    return FreshLoads(
        Loading(1e3 * statistics.median(run[0] for run in runs), cold, statistics.median(run[1] for run in cached)),
        cached[-1][3],
        code,
    )


def _fresh_load(path: Path, options: Mapping[str, Any], cache: str) -> tuple[float, float, bool, int | None]:
    """Seconds of `import tinyrnn`, seconds of `load`, whether from the cache, bytes resident."""
    package = Path(__file__).parents[2]
    search = os.pathsep.join(p for p in (str(package), os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        [sys.executable, "-c", _LOAD],
        input=pickle.dumps((str(path.resolve()), dict(options))),
        cwd=cache,
        env={**os.environ, "TINYRNN_CACHE": cache, "PYTHONPATH": search},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise TinyRNNError(f"{path}: loading in a fresh process failed:\n{done.stderr.decode(errors='replace').strip()}")
    seconds, load, cached, used = json.loads(done.stdout.splitlines()[-1])
    return seconds, load, cached, used
