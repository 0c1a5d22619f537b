"""Many streams at once, as Markdown tables: recurrent cells, models given, threads, batches of whole sequences.

    python bench/streams.py                                        # about two minutes
    python bench/streams.py --cells LSTM --sizes 64,128 --models dtln_model_1.onnx

One process, each engine on one thread, interleaved in rounds, medians over the rounds (tinyrnn.bench.streams). A figure is
the time of one frame of one stream: of `Pool.step` over all streams and over a random half, of `Stream.step` one stream after
the other, and of onnxruntime with batches of up to 256 whose states are gathered from one array and scattered back. The peak
is what this core's vector unit reaches in a product of matrices that lie in its first-level cache (NumPy's own).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tinyrnn
from tinyrnn.bench import CELLS, cell_model, here, streams
from tinyrnn.data.text import markdown

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FRAMES, ENTRIES = 100, 256
ROUNDS = 9


def table(head: list[str], rows: list[list[str]]) -> None:
    print(markdown([head, *rows]), end="\n\n", flush=True)


def peak() -> float:
    """float32 operations a nanosecond of one core."""
    a, b = (np.random.default_rng(0).standard_normal((192, 192)).astype(np.float32) for _ in range(2))
    least = 1e9
    for _ in range(9):
        start = time.process_time_ns()  # of all threads that NumPy takes
        for _ in range(60):
            a @ b
        least = min(least, (time.process_time_ns() - start) / 60)
    return 2 * 192**3 / least


def interleaved(loops: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each, medians over rounds."""
    found: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(ROUNDS + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()
            if turn:
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in found.items()}


def cells(names: list[str], sizes: list[int], count: int, folder: Path) -> None:
    rows, fastest = [], peak()
    for name in names:
        for hidden in sizes:
            path = folder / f"{name}{hidden}.onnx"
            cell_model(name, hidden, path, batch="N")
            row = streams(path, [count], versus="onnxruntime", seconds=2).rows[0]
            least = 4 * GATES[name] * hidden**2 / fastest / 1e3
            figures = [least, row.pool, row.half, row.lone, row.peer or 0.0]
            rows.append([name, str(hidden), *(f"{v:.3f}" for v in figures), f"{row.half / row.pool:.2f}", f"{row.ratio:.2f}"])
    print(f"{count:,} streams, inputs = units = H, µs for one frame of one stream\n")
    table(["cell", "H", "peak allows", "pool", "random half", "one by one", "onnxruntime", "half / all", "× onnxruntime"], rows)


def models(paths: list[Path], count: int) -> None:
    rows = []
    for path in paths:
        found = streams(path, [count], versus="onnxruntime" if path.suffix == ".onnx" else None, seconds=2)
        row = found.rows[0]
        peer = [f"{row.peer:.2f}", f"{row.ratio:.2f}"] if row.peer and row.ratio else ["–", "–"]
        rows.append([found.model, f"{row.pool:.2f}", f"{row.lone:.2f}", f"{row.lone / row.pool:.2f}", *peer])
    print(f"{count} streams, µs for one frame of one stream\n")
    table(["model", "pool", "one by one", "× one by one", "onnxruntime", "× onnxruntime"], rows)


def threads(sizes: list[int], count: int, folder: Path) -> None:
    rows = []
    for hidden in sizes:
        model = tinyrnn.load(folder / f"LSTM{hidden}.onnx")
        x = np.random.default_rng(0).standard_normal((count, hidden)).astype(np.float32)
        with model.pool(count) as one, model.pool(count, threads=2) as two:
            ns = interleaved({"one": lambda: one.step(x), "two": lambda: two.step(x)})  # noqa: B023
        rows.append([str(hidden), *(f"{ns[n] / count * 1e6:.3f}" for n in ("one", "two")), f"{ns['one'] / ns['two']:.2f}"])
    print(f"LSTM, {count:,} streams, µs for one frame of one stream\n")
    table(["H", "one thread", "two threads", "×"], rows)


def batches(sizes: list[int], folder: Path) -> None:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    rows = []
    for hidden in sizes:
        path = folder / f"LSTM{hidden}.onnx"
        model, session = tinyrnn.load(path), onnxruntime.InferenceSession(str(path), settings)
        rng, states = np.random.default_rng(0), [np.zeros((1, ENTRIES, hidden), np.float32) for _ in range(2)]
        feed = dict(
            zip(("X", "initial_h", "initial_c"), [rng.random((FRAMES, ENTRIES, hidden), np.float32), *states], strict=True)
        )
        ns = interleaved({"own": lambda: model.run(feed), "peer": lambda: session.run(None, feed)})  # noqa: B023
        each = [ns[n] / FRAMES / ENTRIES * 1e6 for n in ("own", "peer")]
        rows.append([str(hidden), *(f"{v:.3f}" for v in each), f"{each[1] / each[0]:.2f}"])
    print(f"LSTM, Model.run over {FRAMES} frames of {ENTRIES} sequences, µs for one frame of one sequence\n")
    table(["H", "tinyrnn", "onnxruntime", "×"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="separated by commas")
    parser.add_argument("--sizes", default="64,128,256,512", help="values of H, separated by commas")
    parser.add_argument("--count", type=int, default=1024, help="streams of the cells")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="files, each with 256 streams")
    given = parser.parse_args()
    sizes = [int(n) for n in given.sizes.split(",")]
    print(f"{here()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells(given.cells.split(","), sizes, given.count, folder)
        if given.models:
            models(given.models, 256)
        if "LSTM" in given.cells:
            threads(sizes, given.count, folder)
            batches(sizes, folder)


if __name__ == "__main__":
    main()
