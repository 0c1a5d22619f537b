"""How long a load takes, in fresh processes, as a Markdown table: cold, with all kernels in the cache, from the cache.

    python bench/load.py                                     # LSTM(64), and a graph of 5,000 nodes
    python bench/load.py MODEL.onnx "MODEL.onnx --bind sr=16000" --runs 5

Each figure is the median of some processes: seconds of `tinyrnn.load`, without the start of Python and the import.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LOAD = """
import json, sys, time, warnings
import tinyrnn
warnings.simplefilter("ignore")
began = time.perf_counter()
model = tinyrnn.load(sys.argv[1], bind=json.loads(sys.argv[2]))
print(json.dumps({"seconds": time.perf_counter() - began, "cached": model._code.from_cache, "bytes": model._code.size}))
"""


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], inputs: int, outputs: int, last: str) -> Path:
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["T", 1, k]) for n, k in (("x", inputs), (last, outputs))]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, info[:1], info[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def lstm(path: Path, size: int = 64) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 4 * size, size), "R": (1, 4 * size, size), "B": (1, 8 * size)}
    constants = {name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("LSTM", ["x", *constants], ["h"], hidden_size=size),
        helper.make_node("Squeeze", ["h", "axis"], ["y"]),
    ]
    return save(path, nodes, {**constants, "axis": np.array([1])}, size, size, "y")


def large(path: Path, count: int = 5000) -> Path:
    """Blocks as in a net that cleans speech: a product, an activation, a norm written out, a gate, a GRU in each sixth."""
    rng, nodes, constants, name = np.random.default_rng(0), list[onnx.NodeProto](), dict[str, np.ndarray](), "x"

    def add(op: str, *inputs: str, **attributes: object) -> str:
        made = f"{op}_{len(nodes)}"
        nodes.append(helper.make_node(op, [*inputs], [made], made, **attributes))
        return made

    def weight(*shape: int) -> str:
        constants[made := f"w_{len(constants)}"] = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        return made

    constants["axis"], constants["eps"], constants["direction"] = np.array([2]), np.array(1e-5, np.float32), np.array([1])
    block = 0
    while len(nodes) < count:
        size = (16, 24, 32)[block % 3]
        name = add("Add", add("MatMul", name, weight((16, 24, 32)[(block - 1) % 3] if block else 16, size)), weight(size))
        before = name
        name = add("Mul", name, add("Sigmoid", name))
        mean = add("ReduceMean", name, axes=[2])
        centred = add("Sub", name, mean)
        variance = add("ReduceMean", add("Mul", centred, centred), axes=[2])
        name = add("Div", centred, add("Sqrt", add("Add", variance, "eps")))
        name = add("Add", add("Mul", name, weight(size)), weight(size))
        if block % 6 == 5:
            made = add("GRU", name, weight(1, 3 * size, size), weight(1, 3 * size, size), hidden_size=size)
            name = add("Squeeze", made, "direction")
        name = add("Add", name, before)
        block += 1
    return save(path, nodes, constants, 16, (16, 24, 32)[(block - 1) % 3], name)


def loads(path: str, bind: str, runs: int, folder: Path) -> dict[str, float]:
    """Medians of the three ways, and bytes of code."""
    found: dict[str, list[float]] = {"cold": [], "kernels": [], "cached": []}
    size = 0
    for run in range(runs):
        cache = folder / str(run)
        for way in found:
            if way == "kernels":
                for each in cache.glob("*.o"):
                    each.unlink()
            environment = {**os.environ, "TINYRNN_CACHE": str(cache)}
            environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as people have it
            done = subprocess.run([sys.executable, "-c", LOAD, path, bind], env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            answer = json.loads(done.stdout)
            assert answer["cached"] == (way == "cached")
            found[way].append(answer["seconds"])
            size = answer["bytes"]
    return {**{way: statistics.median(values) for way, values in found.items()}, "bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="files, each with --bind NAME=VALUE after it in one argument")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=5000, help="of the large graph")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = given.models or [str(lstm(folder / "lstm64.onnx")), str(large(folder / "large.onnx", given.nodes))]
        print("| model | cold, s | kernels in the cache, s | from the cache, s | code, bytes |\n|---|---|---|---|---|")
        for number, text in enumerate(models):
            path, *options = shlex.split(text)
            pairs = [option.partition("=") for option in options if option != "--bind"]
            bind = json.dumps({key: int(value) for key, _, value in pairs})
            row = loads(path, bind, given.runs, folder / f"cache{number}")
            print(
                f"| {Path(path).stem} | {row['cold']:.2f} | {row['kernels']:.2f} | {row['cached']:.2f} | {row['bytes']:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
