"""Streams of several threads: the bits and states of streams of one, whatever the system does with the threads."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import ROOT
from tests.driving import Array, loaded
from tests.runtime.test_pool import recurrent
from tinyrnn.errors import CopyError, ShapeError
from tinyrnn.runtime import Model, Stream

LAYERS: list[tuple[str, int, int, dict[str, Any], str | None]] = [
    ("LSTM", 130, 128, {}, None),
    ("LSTM", 65, 171, {"input_forget": 1}, None),
    ("LSTM", 111, 130, {}, "float16"),
    ("LSTM", 64, 139, {}, "int8"),
    ("LSTM", 70, 138, {}, "int8:24"),
    ("GRU", 120, 160, {}, None),
    ("GRU", 65, 171, {"linear_before_reset": 1}, "int8:16"),
    ("GRU", 2, 170, {"linear_before_reset": 1}, "bfloat16"),
    ("RNN", 97, 259, {}, None),
]


def frames(count: int, size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 1, size)).astype(np.float32)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tinyrnn-crew"]


def crewed(model: Model, threads: int = 2) -> Stream:
    stream = model.stream(threads)
    assert stream._driver.crew is not None
    return stream


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(recurrent("LSTM", 70, 128), tmp_path_factory.mktemp("crew"))


@pytest.mark.parametrize(("op", "inputs", "hidden", "attributes", "weights"), LAYERS)
def test_any_number_of_threads_gives_the_same_bits(
    op: str, inputs: int, hidden: int, attributes: dict[str, Any], weights: str | None, tmp_path: Path
) -> None:
    model = loaded(recurrent(op, inputs, hidden, **attributes), tmp_path, weights=weights)
    x = frames(40, inputs)
    steps = model.stream()
    expected = [np.array(steps.step(frame)[0]) for frame in x[:, 0]]
    alone = model.stream()
    assert np.array_equal(alone.run(x[:, 0])[0].reshape(40, -1), np.reshape(expected, (40, -1)))
    assert np.array_equal(alone.state, steps.state)
    for threads in (2, 3):
        stream = crewed(model, threads)
        assert stream._driver.layout.weights is model._layout.weights
        found = [np.array(stream.step(frame)[0]) for frame in x[:7, 0]]
        found += [*stream.run(x[7:30, 0])[0], *[stream.step(frame)[0] for frame in x[30:, 0]]]
        assert np.array_equal(np.reshape(found, (40, -1)), np.reshape(expected, (40, -1)))
        assert np.array_equal(stream.state, steps.state)


@pytest.mark.parametrize(("op", "weights"), [("LSTM", None), ("LSTM", "int8:20"), ("GRU", None), ("RNN", "float16")])
def test_a_step_model(op: str, weights: str | None, tmp_path: Path) -> None:
    proto = recurrent(op, 75, 203 if op != "RNN" else 303)
    node, (x, *_) = proto.graph.node[0], proto.graph.input
    x.type.tensor_type.shape.dim[0].dim_value = 1
    node.input.extend(["", "h", "c"][: len(node.output)])
    for name, given in zip(node.input[5:], proto.graph.output[1:], strict=True):
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, node.attribute[1].i]))
        assert len(given.type.tensor_type.shape.dim) == 3
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    model = loaded(proto, tmp_path, weights=weights)
    assert model.kind == "step"
    x_all = frames(12, 75)
    alone, stream = model.stream(), crewed(model)
    for frame in x_all:
        assert np.array_equal(np.ravel(alone.step(frame)), np.ravel(stream.step(frame)))
    assert np.array_equal(alone.run(x_all), stream.run(x_all))
    assert np.array_equal(alone.state, stream.state)


@pytest.mark.parametrize("weights", [None, "float16", "int8", "int8:32"])
def test_large_products_are_shared(weights: str | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    shapes = {"a": (96, 1003), "b": (1003, 77)}
    arrays = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 9, n) for n, s in shapes.items()]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Tanh", ["h"], ["t"])]
    nodes.append(helper.make_node("MatMul", ["t", "b"], ["y"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("T", 1, s)) for n, s in (("x", 96), ("y", 77))]
    graph = helper.make_graph(nodes, "products", ports[:1], ports[1:], arrays)
    model = loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path, weights=weights)
    x = frames(19, 96)
    expected = model.stream().run(x)
    stream = crewed(model, 3)
    assert np.array_equal(stream.run(x), expected)
    assert np.array_equal([stream.step(frame) for frame in x], expected)


def test_a_small_model_has_one_thread(tmp_path: Path) -> None:
    gc.collect()
    before = len(workers())
    stream = loaded(recurrent("LSTM", 5, 19), tmp_path).stream(threads=4)
    assert stream._driver.crew is None and len(workers()) == before
    stream.close()
    stream.step(np.zeros(5, np.float32))


@pytest.mark.parametrize("threads", [0, -1, 17, 1.0, True, "2", None])
def test_a_wrong_number_is_an_error(model: Model, threads: Any) -> None:
    with pytest.raises(ShapeError, match="threads="):
        model.stream(threads=threads)


def test_workers_end_with_their_stream(model: Model) -> None:
    gc.collect()
    before = len(workers())
    x = frames(5, 70)[:, 0]
    expected = model.stream().run(x)
    stream = crewed(model, 3)
    assert len(workers()) == before + 2
    step = stream.step
    del stream
    assert len(workers()) == before + 2, "who has the step has the stream's threads"
    assert np.array_equal(step(x[0])[0], expected[0][0])
    del step
    assert len(workers()) == before
    closed = crewed(model, 3)
    assert np.array_equal(closed.run(x[:2])[0], expected[0][:2])
    closed.close()
    closed.close()
    assert len(workers()) == before
    assert np.array_equal(closed.run(x[2:])[0], expected[0][2:])


def test_a_worker_that_slept_is_woken(model: Model) -> None:
    x = frames(30, 70)[:, 0]
    expected = model.stream().run(x)[0]
    stream = crewed(model)
    for frame, row in zip(x, expected, strict=True):
        time.sleep(0.003)
        assert np.array_equal(stream.step(frame)[0], row)


def test_an_error_leaves_the_stream_usable(model: Model) -> None:
    x = frames(6, 70)[:, 0]
    expected = model.stream().run(x)[0]
    stream = crewed(model)
    for frame, row in zip(x, expected, strict=True):
        with pytest.raises(ShapeError):
            stream.step(frame[:3])
        with pytest.raises(ShapeError):
            stream.run(x[:, :4])
        assert np.array_equal(stream.step(frame)[0], row)


def test_a_fork_has_threads_of_its_own(model: Model) -> None:
    x = frames(20, 70)[:, 0]
    stream = crewed(model)
    stream.run(x[:10])
    other = stream.fork()
    assert other._driver.crew not in (None, stream._driver.crew)
    assert all(np.array_equal(stream.step(frame)[0], other.step(frame)[0]) for frame in x[10:])
    with pytest.raises(CopyError):
        other._driver.crew.__copy__()


def test_streams_in_several_threads(model: Model) -> None:
    x = frames(200, 70)[:, 0]
    expected = model.stream().run(x)[0]
    wrong: list[int] = []

    def go(number: int) -> None:
        stream = crewed(model, 2 + number % 2)
        for start in range(0, 200, 20):
            found = stream.run(x[start : start + 20])[0] if number % 2 else [stream.step(f)[0] for f in x[start : start + 20]]
            if not np.array_equal(np.reshape(found, expected[start : start + 20].shape), expected[start : start + 20]):
                wrong.append(number)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_trace_of_a_stream_with_threads(model: Model) -> None:
    x = frames(9, 70)[:, 0]
    alone, stream = model.stream(), crewed(model)
    for each in (alone, stream):
        each.run(x[:4])
    assert np.array_equal(alone.trace(x[4:]).outputs["Y"], stream.trace(x[4:]).outputs["Y"])
    assert np.array_equal(alone.state, stream.state)


PROGRAM = """
import os, sys, time, warnings
import numpy as np
import tinyrnn
model = tinyrnn.load(sys.argv[1])
x = np.load(sys.argv[2])
expected = model.stream().run(x)[0]
def check(stream):
    stream.reset()
    for frame, row in zip(x, expected):
        assert np.array_equal(stream.step(frame)[0], row)
    stream.reset()
    assert np.array_equal(stream.run(x)[0], expected)
    stream.reset()
"""


def run(text: str, model: onnx.ModelProto, folder: Path) -> None:
    """Run a program over a model, after the text above."""
    onnx.save(model, folder / "m.onnx")
    np.save(folder / "x.npy", frames(50, 70)[:, 0])
    command = [sys.executable, "-c", PROGRAM + text, str(folder / "m.onnx"), str(folder / "x.npy")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not bind threads to cores")
def test_one_core_for_all_threads(tmp_path: Path) -> None:
    text = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
alone, stream = model.stream(), model.stream(threads=4)
check(alone)
took = []
for each in (alone, stream):
    start = time.perf_counter()
    for _ in range(20):
        check(each)
    took.append(time.perf_counter() - start)
assert took[1] < 20 * took[0] + 1, took
"""
    run(text, recurrent("LSTM", 70, 128), tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_process_goes_on_alone(tmp_path: Path) -> None:
    text = """
stream = model.stream(threads=3)
check(stream)
warnings.simplefilter("ignore")
child = os.fork()
check(stream)
if child:
    assert os.waitpid(child, 0)[1] == 0
stream.close()
check(stream)
again = model.stream(threads=2)
check(again)
"""
    run(text, recurrent("LSTM", 70, 128), tmp_path)


def test_a_process_ends_with_open_streams(tmp_path: Path) -> None:
    text = """
kept = [model.stream(threads=3) for _ in range(3)]
for stream in kept:
    check(stream)
cycle = [kept]
cycle.append(cycle)
"""
    run(text, recurrent("LSTM", 70, 128), tmp_path)


def test_loaded_again_from_the_cache(tmp_path: Path) -> None:
    onnx.save(recurrent("LSTM", 70, 128), tmp_path / "m.onnx")
    x = frames(5, 70)[:, 0]
    expected = tinyrnn.load(tmp_path / "m.onnx").stream().run(x)[0]
    again = tinyrnn.load(tmp_path / "m.onnx")
    stream = crewed(again)
    assert stream._driver.layout.weights is again._layout.weights
    assert np.array_equal(stream.run(x)[0], expected)
