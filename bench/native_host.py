"""What NAME.py of a build costs on this machine: python bench/native_host.py [MODEL.onnx]

Milliseconds to import it after NumPy, each in a process of its own; and its step beside that of tinyrnn.load, in turns in
one process: medians of microseconds, and their ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import tinyrnn
from tinyrnn.check.samples import random_sample

CHAR_LM = Path(__file__).parents[1] / "tinyrnn" / "models" / "char_lm.onnx"
LOADS, ROUNDS, STEPS = 15, 200, 200
LOAD = "import time, numpy\nt = time.perf_counter()\nimport {name}\nprint((time.perf_counter() - t) * 1000)"


def microseconds(step: Callable[..., Any], frames: list[Any]) -> float:
    start = perf_counter()
    for frame in frames:
        step(frame)
    return (perf_counter() - start) / len(frames) * 1e6


def main() -> None:
    path = Path(sys.argv[1]) if sys.argv[1:] else CHAR_LM
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = tinyrnn.build(path, folder)
        command = [sys.executable, "-c", LOAD.format(name=built.manifest["name"])]
        loads = [float(subprocess.check_output(command, cwd=folder, text=True)) for _ in range(LOADS)]
        print(f"load: {statistics.median(loads):.1f} ms (first {loads[0]:.1f}, slowest {max(loads):.1f})")
        here, there = tinyrnn.load(path), tinyrnn.load_built(folder)
        (values,) = random_sample(here, STEPS).inputs.values()
        frames = [np.asarray(frame) for frame in np.ascontiguousarray(values[0])]
        a, b = here.stream(), there.stream()
        times = [(microseconds(a.step, frames), microseconds(b.step, frames)) for _ in range(ROUNDS)]
        ours, built_ones = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(y / x for x, y in times)
        print(f"step: {ours:.2f} µs by tinyrnn.load, {built_ones:.2f} µs by {built.manifest['name']}.py, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
