"""Flat memory and no allocations over a million steps.

    python bench/memory.py [MODEL ...] [--steps 1000000]

Without a model: the packaged char_lm and an LSTM of 64 units. Exit status 1 where compiled code can call something
that may allocate, where step(x, out=y) allocates, or where the process has grown by more than GROWTH bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import tinyrnn
from tinyrnn.bench import Allocations, allocations, cell_model

GROWTH = 1 << 16
"""bytes: what the interpreter may take or give back by itself"""


def show(done: int, total: int) -> None:
    """Progress, in place, on standard error."""
    print(f"\r{100 * done // total} %", end="\n" if done == total else "", file=sys.stderr, flush=True)


def good(a: Allocations) -> bool:
    return not a.native and (a.step_out is None or a.step_out.bytes == 0) and (a.resident_growth or 0) <= GROWTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--steps", type=int, default=1_000_000)
    given = parser.parse_args()
    flat = True
    with tempfile.TemporaryDirectory() as folder:
        paths = given.models
        if not paths:
            paths = [Path(tinyrnn.__file__).parent / "models" / "char_lm.onnx", Path(folder) / "LSTM64.onnx"]
            cell_model("LSTM", 64, paths[1])
        for path in paths:
            model = tinyrnn.load(path)
            counted = allocations(model, steps=given.steps, progress=show)
            print(f"{model.name}\n{counted}\n")
            flat = flat and good(counted)
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
