"""What a step costs where outputs do not have one row for each frame, beside a like model that has.

    python bench/clocks.py

Random weights, 8 features, 8 units. One process, interleaved in rounds, medians over the rounds; microseconds of
`Stream.step(x)` and `step(x, out=y)` from Python, and of a frame in `Stream.run` of 10 and of 1,000 frames.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns as now
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tinyrnn.bench import here

SIZE, ROUNDS, FRAMES = 8, 15, 1000
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("Conv", {"pads": [2, 0]}),
    "valid": ("Conv", {"pads": [0, 0]}),
    "look-ahead": ("Conv", {"pads": [1, 1]}),
    "strided": ("Conv", {"pads": [1, 0], "strides": [2]}),
    "upsampling": ("ConvTranspose", {"strides": [3]}),
}


def write(name: str, last: bool, path: Path) -> None:
    """x [1, SIZE, T] → a convolution along T → GRU → y [T', 1, 1, SIZE] (and the last hidden state)."""
    op, attributes = CASES[name]
    rng = np.random.default_rng(0)
    shapes = {"K": (SIZE, SIZE, 3), "W": (1, 3 * SIZE, SIZE), "R": (1, 3 * SIZE, SIZE), "B": (1, 6 * SIZE)}
    nodes = [
        helper.make_node(op, ["x", "K"], ["c"], **attributes),
        helper.make_node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["t", "W", "R", "B"], ["y", "h"], hidden_size=SIZE, linear_before_reset=1),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIZE, "T"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (["y", "h"] if last else ["y"])],
        [numpy_helper.from_array((rng.standard_normal(s) / 3).astype(np.float32), n) for n, s in shapes.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def loops(model: tinyrnn.Model) -> list[Callable[[], float]]:
    """Each makes one measurement: microseconds of a frame."""
    xs = np.random.default_rng(1).standard_normal((FRAMES, SIZE)).astype(np.float32)
    stream, frames = model.stream(), list(xs)
    out = tuple(np.empty(p.step_shape, p.dtype) for p in model.outputs)
    y: Any = out[0] if len(out) == 1 else out

    def steps() -> float:
        step, start = stream.step, now()
        for x in frames:
            step(x)
        return (now() - start) / FRAMES / 1e3

    def steps_out() -> float:
        step, start = stream.step, now()
        for x in frames:
            step(x, out=y)
        return (now() - start) / FRAMES / 1e3

    def runs(size: int) -> Callable[[], float]:
        pieces = [xs[i : i + size] for i in range(0, FRAMES, size)]

        def run() -> float:
            run, start = stream.run, now()
            for piece in pieces:
                run(piece)
            return (now() - start) / FRAMES / 1e3

        return run

    try:
        steps_out()
    except tinyrnn.ShapeError:
        return [steps, lambda: float("nan"), runs(10), runs(FRAMES)]
    return [steps, steps_out, runs(10), runs(FRAMES)]


def main() -> None:
    measured: dict[str, list[Callable[[], float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            for last in (False, True):
                path = Path(folder) / f"{name}{last}.onnx"
                write(name, last, path)
                measured[f"{name}{', and the last state' if last else ''}"] = loops(tinyrnn.load(path))
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for name, each in measured.items():
            for column, loop in enumerate(each):
                found.setdefault((name, column), []).append(loop())
    print(here())
    print("\n| model | step(x) | × causal | step(x, out=y) | run of 10 | run of 1,000 |\n|---|---:|---:|---:|---:|---:|")
    for name in measured:
        a, b, c, d = (statistics.median(found[name, column]) for column in range(4))
        like = statistics.median(found["causal" + name[len(name.split(",")[0]) :], 0])
        print(f"| {name} | {a:.2f} | {a / like:.2f} | {b:.2f} | {c:.2f} | {d:.3f} |")


if __name__ == "__main__":
    main()
