"""Files that are sound, and yet perhaps not what their author meant."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn


def _gru(path: Path, producer: str, linear_before_reset: int) -> Path:
    rng = np.random.default_rng(1)
    arrays = {"W": (1, 18, 5), "R": (1, 18, 6), "B": (1, 36)}
    node = helper.make_node("GRU", ["x", *arrays], ["y"], hidden_size=6, linear_before_reset=linear_before_reset)
    graph = helper.make_graph(
        [node],
        "gru",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 1, 1, 6])],
        [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in arrays.items()],
    )
    onnx.save(helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_gru_of_pytorch_with_the_reset_gate_applied_first(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="linear_before_reset=0"):
        tinyrnn.load(_gru(tmp_path / "a.onnx", "pytorch", 0))


@pytest.mark.parametrize(("producer", "linear_before_reset"), [("pytorch", 1), ("tf2onnx", 0)])
def test_no_warning_otherwise(tmp_path: Path, producer: str, linear_before_reset: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tinyrnn.load(_gru(tmp_path / "a.onnx", producer, linear_before_reset))
