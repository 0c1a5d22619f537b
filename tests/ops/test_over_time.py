"""Reductions over the time axis: whole as in onnxruntime, and running in a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tinyrnn.check import within

OPS = ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(2)
    arrays = {"W": (1, 21, 5), "R": (1, 21, 7), "B": (1, 42)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in arrays.items()]
    nodes = [helper.make_node("GRU", ["x", *arrays], ["h"], hidden_size=7, linear_before_reset=1)]
    nodes += [helper.make_node(op, ["h", "axis"], [op], keepdims=0) for op in OPS]
    graph = helper.make_graph(
        nodes,
        "over_time",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "N", 5])],
        [helper.make_tensor_value_info(op, TensorProto.FLOAT, [1, "N", 7]) for op in OPS],
        [*weights, numpy_helper.from_array(np.array([0], np.int64), "axis")],
    )
    target = tmp_path_factory.mktemp("over_time") / "over_time.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), target)
    return target


@pytest.mark.parametrize(("T", "N"), [(1, 1), (9, 1), (300, 2)])
def test_equals_onnxruntime(path: Path, T: int, N: int) -> None:
    x = np.random.default_rng(T).standard_normal((T, N, 5)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(list(OPS), {"x": x})
    for op, value, right in zip(OPS, tinyrnn.load(path).run(x), expected, strict=True):
        assert value.shape == right.shape
        assert within("close", value, right), op


def test_running_in_a_stream(path: Path) -> None:
    x = np.random.default_rng(4).standard_normal((20, 5)).astype(np.float32)
    model = tinyrnn.load(path)
    whole, parts = model.stream().run(x), model.stream()
    for piece in (x[:1], x[1:8], x[8:]):
        last = parts.run(piece)
    for a, b in zip(whole, last, strict=True):
        np.testing.assert_array_equal(a, b)
    parts.reset()
    np.testing.assert_array_equal(parts.run(x)[0], whole[0])
