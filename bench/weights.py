"""LSTMs with small weights, as Markdown tables: a step of one stream, and of each of many in a pool.

    python bench/weights.py                                        # about a minute
    python bench/weights.py --sizes 128,256 --count 0

One process on one thread, engines interleaved in rounds; the least and the median processor time over the rounds. onnxruntime
runs the same weights as a DynamicQuantizeLSTM with a scale for each column: one frame a call, and for the pool in batches of up
to 256 whose states are gathered from one array and scattered back.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import tinyrnn
from tinyrnn.bench import cell_model, here
from tinyrnn.data.text import markdown

TYPES = ("float32", "float16", "int8", "int8x8")
ROUNDS, BATCH = 15, 256


def quantised(path: Path, to: Path) -> None:
    """Write the LSTM of a file of `cell_model` as a DynamicQuantizeLSTM."""
    model = onnx.load(str(path))
    graph = model.graph
    (node,) = graph.node
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    made = {"B": arrays["B"]}
    for name in "WR":
        scale = (np.abs(arrays[name]).max(2) / 127).astype(np.float32)
        made[name] = np.rint(arrays[name] / scale[..., None]).astype(np.int8).swapaxes(1, 2)
        made |= {f"{name}_scale": scale, f"{name}_zero": np.zeros(scale.shape, np.int8)}
    names = [*node.input, *[""] * (8 - len(node.input)), "W_scale", "W_zero", "R_scale", "R_zero"]
    hidden = arrays["R"].shape[2]
    other = helper.make_node("DynamicQuantizeLSTM", names, node.output, domain="com.microsoft", hidden_size=hidden)
    graph.node[0].CopyFrom(other)
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in made.items())
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(to))


def session(path: Path) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), settings)


def interleaved(loops: dict[str, Callable[[], object]], calls: int) -> dict[str, tuple[float, float]]:
    """(least, median) microseconds of a call of each."""
    found: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(ROUNDS + 1):
        for name, loop in loops.items():
            start = time.process_time()
            for _ in range(calls):
                loop()
            if turn:
                found[name].append((time.process_time() - start) / calls * 1e6)
    return {name: (min(values), statistics.median(values)) for name, values in found.items()}


def steps(sizes: list[int], folder: Path) -> list[list[str]]:
    rows = []
    for hidden in sizes:
        path = folder / f"LSTM{hidden}.onnx"
        x, zeros = np.ones(hidden, np.float32), np.zeros((1, 1, hidden), np.float32)
        feed = {"X": x.reshape(1, 1, -1), "initial_h": zeros, "initial_c": zeros}
        peer = session(folder / f"quantised{hidden}.onnx")
        streams = {kind: tinyrnn.load(path, weights=kind).stream() for kind in TYPES}
        loops: dict[str, Callable[[], object]] = {kind: (lambda s=s, x=x: s.step(x)) for kind, s in streams.items()}
        loops["onnxruntime int8"] = lambda: peer.run(None, feed)  # noqa: B023
        found = interleaved(loops, max(20, 20000 // hidden))
        rows.append([str(hidden), *(f"{least:.2f} ({median:.2f})" for least, median in found.values())])
    return rows


def pools(sizes: list[int], count: int, folder: Path) -> list[list[str]]:
    rows = []
    for hidden in sizes:
        path = folder / f"LSTM{hidden}.onnx"
        x = np.random.default_rng(0).standard_normal((count, hidden)).astype(np.float32)
        states, which = [np.zeros((count, hidden), np.float32) for _ in range(2)], np.random.default_rng(1).permutation(count)
        peer, many = session(folder / f"quantised_N{hidden}.onnx"), {}
        for kind in TYPES:
            many[kind] = tinyrnn.load(path, weights=kind).pool(count)

        def batched() -> None:
            for first in range(0, count, BATCH):
                rows_of = which[first : first + BATCH]  # noqa: B023
                h, c = (state[rows_of][None] for state in states)  # noqa: B023
                _, h, c = peer.run(None, {"X": x[rows_of][None], "initial_h": h, "initial_c": c})  # noqa: B023
                states[0][rows_of], states[1][rows_of] = h[0], c[0]  # noqa: B023

        loops: dict[str, Callable[[], object]] = {kind: (lambda p=p, x=x: p.step(x)) for kind, p in many.items()}
        loops["onnxruntime int8"] = batched
        found = interleaved(loops, 1)
        rows.append([str(hidden), *(f"{least / count:.2f} ({median / count:.2f})" for least, median in found.values())])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,128,256,512", help="values of H, separated by commas")
    parser.add_argument("--count", type=int, default=1024, help="streams of the pool; 0 for none")
    given = parser.parse_args()
    sizes = [int(n) for n in given.sizes.split(",")]
    print(f"{here()}\n")
    head = ["H", *TYPES, "onnxruntime int8"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for hidden in sizes:
            for batch, prefix in ((1, ""), ("N", "_N")):
                path = folder / f"LSTM{prefix}{hidden}.onnx"
                cell_model("LSTM", hidden, path, batch=batch)
                quantised(path, folder / f"quantised{prefix}{hidden}.onnx")
        print("LSTM, inputs = units = H, µs of a step, least (median)\n")
        print(markdown([head, *steps(sizes, folder)]), end="\n\n", flush=True)
        if given.count:
            print(f"{given.count:,} streams in a pool, µs for one frame of one stream, least (median)\n")
            print(markdown([head, *pools(sizes, given.count, folder)]), flush=True)


if __name__ == "__main__":
    main()
