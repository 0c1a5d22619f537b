"""Models that need the whole sequence: they run at every length, and stream() says which node forbids it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import in_onnxruntime, loaded
from tinyrnn.check import check, within
from tinyrnn.cli import main
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel

FEATURES = 6


def attention(frames: int | str = "T") -> onnx.ModelProto:
    """softmax(x xᵀ) x over x [N, frames, FEATURES]."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "turned"], ["scores"], "meeting"),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["context"]),
        helper.make_node("Add", ["context", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", frames, FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.arange(FEATURES, dtype=np.float32), "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_attention_over_the_whole_sequence(tmp_path: Path) -> None:
    proto = attention()
    model = loaded(proto, tmp_path)
    assert isinstance(model, DynamicShapeModel) and model.kind == "whole" and model.open_sizes == ("T",)
    for batch, frames in ((1, 3), (2, 9), (1, 3), (3, 1)):
        x = np.random.default_rng(frames).standard_normal((batch, frames, FEATURES)).astype(np.float32)
        assert within("close", model.run(x), in_onnxruntime(proto, {"x": x})["y"])
        assert within("exact", model.run(x=x), model.run({"x": x}))
    with pytest.raises(tinyrnn.StreamError, match="cannot stream: node 'meeting'.*every step meets every other one"):
        model.stream()
    with pytest.raises(tinyrnn.ShapeError, match=r"input 'x' has shape \[3, 6\]; the file says \[N, T, 6\]"):
        model.run(np.zeros((3, FEATURES), np.float32))
    assert "run-time sizes 'T'" in str(model)


def test_a_whole_model_is_checked_and_saved(tmp_path: Path) -> None:
    (tmp_path / "attention.onnx").write_bytes(attention().SerializeToString())
    assert check(tmp_path / "attention.onnx", frames=7).passed
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "attention.onnx")])
    assert shown.exit_code == 0 and "a whole model" in shown.output
    model = tinyrnn.load(tmp_path / "attention.onnx")
    tinyrnn.save(model, tmp_path / "attention.npz")
    x = np.random.default_rng(0).standard_normal((1, 5, FEATURES)).astype(np.float32)
    assert within("exact", tinyrnn.load(tmp_path / "attention.npz").run(x), model.run(x))


def test_a_whole_model_of_one_length(tmp_path: Path) -> None:
    model = loaded(attention(4), tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 4, FEATURES)).astype(np.float32)
    assert within("close", model.run(x), in_onnxruntime(attention(4), {"x": x})["y"])


def test_time_that_cannot_be_time(tmp_path: Path) -> None:
    (tmp_path / "attention.onnx").write_bytes(attention(4).SerializeToString())
    with pytest.raises(tinyrnn.UnsupportedError, match="every step meets every other one"):
        tinyrnn.load(tmp_path / "attention.onnx", time=1)
