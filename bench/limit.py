"""One stream at the memory's limit, as a Markdown table: `Stream.step` of an LSTM with I = H, with one thread and with two.

    python bench/limit.py                              # about a minute; two cores
    python bench/limit.py --sizes 256 --weights float32

Microseconds, the fifth percentile of rounds in which the ways take turns, each after some steps of its own: what cores give that
nothing else uses. Where a C compiler is found, a loop over as many float32 alone, one contiguous array [panel][k], is measured
beside: from one end in every call, and to and fro.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tinyrnn
from tinyrnn.bench import cell_model, here
from tinyrnn.data.text import markdown
from tinyrnn.runtime import aligned

LOOP = """
typedef float Lanes __attribute__((vector_size(64)));
void loop(const Lanes *w, const float *x, Lanes *sums, long size, long panels, long back) {
    for (long i = 0; i < panels; i++) {
        long j = back ? panels - 1 - i : i;
        const Lanes *here = w + 4 * size * j;
        Lanes a = {0}, b = a, c = a, d = a;
        for (long k = 0; k < size; k++, here += 4)
            a += x[k] * here[0], b += x[k] * here[1], c += x[k] * here[2], d += x[k] * here[3];
        sums[4 * j] = a, sums[4 * j + 1] = b, sums[4 * j + 2] = c, sums[4 * j + 3] = d;
    }
}
"""
ROUNDS = 120
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def c_loops(folder: Path) -> ctypes.CDLL | None:
    """The loop, compiled for this machine; None where there is no compiler that knows how."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    (folder / "loop.c").write_text(LOOP)
    command = [compiler or "", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-o", "loop.so", "loop.c"]
    if compiler is None or subprocess.run(command, cwd=folder, capture_output=True).returncode:
        return None
    return ctypes.CDLL(str(folder / "loop.so"))


def loop_of(library: ctypes.CDLL, size: int, to_and_fro: bool) -> Callable[[int], None]:
    """A function of a number that calls the loop so often, over the weights of an LSTM of that size."""
    weights, x, sums = aligned(8 * size * size, np.float32), aligned(2 * size, np.float32), aligned(4 * size, np.float32)
    weights[:], x[:] = 0, 0.5
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (weights, x, sums)]
    sizes = [ctypes.c_long(n) for n in (2 * size, size // 16)]
    ends = ctypes.c_long(0), ctypes.c_long(to_and_fro)

    def calls(times: int) -> None:
        for turn in range(times):
            library.loop(*pointers, *sizes, ends[turn % 2])

    calls.keep = weights, x, sums  # type: ignore[attr-defined]
    return calls


def steps_of(stream: tinyrnn.Stream, size: int) -> Callable[[int], None]:
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    out = [np.empty(p.step_shape, p.dtype) for p in stream.model.outputs]
    given = out[0] if len(out) == 1 else out

    def calls(times: int) -> None:
        for _ in range(times):
            stream.step(x, out=given)

    return calls


def bind(cores: list[int]) -> None:
    """Bind this thread and that of the crew to cores of their own, where the system does."""
    for thread in threading.enumerate():
        if thread.native_id is not None and (thread is threading.main_thread() or thread.name == "tinyrnn-crew"):
            os.sched_setaffinity(thread.native_id, {cores[thread is not threading.main_thread()]})


def row(kind: str, size: int, library: ctypes.CDLL | None, folder: Path) -> list[str]:
    cell_model("LSTM", size, folder / "lstm.onnx")
    model = tinyrnn.load(folder / "lstm.onnx", weights=None if kind == "float32" else kind)
    streams = {threads: model.stream(threads) for threads in (1, 2)}
    if hasattr(os, "sched_setaffinity") and len(CORES) > 1:
        bind(CORES)
    ways = {f"{threads} thread": steps_of(stream, size) for threads, stream in streams.items()}
    if library is not None and kind == "float32":
        ways |= {f"loop {fro}": loop_of(library, size, fro) for fro in (False, True)}
    times = max(4, 2**20 // size**2)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, calls in ways.items():
            calls(times // 2)
            start = time.perf_counter()
            calls(times)
            found[name].append((time.perf_counter() - start) / times * 1e6)
    took = {name: float(np.quantile(each, 0.05)) for name, each in found.items()}
    one, two = took["1 thread"], took["2 thread"]
    loops = [f"{took[name]:.1f}" if name in took else "–" for name in ("loop False", "loop True")]
    for stream in streams.values():
        stream.close()
    return [kind, str(size), *loops, f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="128,256,512", help="H, separated by commas")
    parser.add_argument("--weights", default="float32,float16,int8", help="storage types, separated by commas")
    given = parser.parse_args()
    print(here(), end="\n\n")
    head = ["weights", "H", "C loop", "to and fro", "step", "two threads", "×"]
    with tempfile.TemporaryDirectory() as folder:
        library = c_loops(Path(folder))
        rows = [
            row(kind, int(size), library, Path(folder)) for kind in given.weights.split(",") for size in given.sizes.split(",")
        ]
    print(markdown([head, *rows]))


if __name__ == "__main__":
    main()
