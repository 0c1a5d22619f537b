"""Normalisations in models that stream: what passes rows through, and what needs the whole sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.driving import agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tinyrnn import TinyRNNError
from tinyrnn.targets.reference import Reference

CHANNELS, POINTS = 6, 19


def _model(
    shape: list[str | int], op: str, inputs: dict[str, np.ndarray[Any, Any]], opset: int = 21, **attributes: Any
) -> onnx.ModelProto:
    """x → op → tanh → y, with `inputs` as constants."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *inputs], ["n"], "norm", **attributes), helper.make_node("Tanh", ["n"], ["y"], "tanh")],
        "over_time",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in inputs.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _numbers(*sizes: int) -> dict[str, np.ndarray[Any, Any]]:
    """Positive numbers, a vector for each size."""
    rng = np.random.default_rng(len(sizes))
    return {f"c{i}": rng.uniform(0.2, 2, size).astype(np.float32) for i, size in enumerate(sizes)}


C, P = CHANNELS, POINTS
STREAMING: list[tuple[str, list[str | int], dict[str, Any], dict[str, Any]]] = [
    ("BatchNormalization", ["N", C, "T"], _numbers(C, C, C, C), {}),
    ("BatchNormalization", ["N", C, "T", P], _numbers(C, C, C, C), {}),
    ("Softmax", ["N", C, "T", P], {}, {"axis": 1}),
    ("Softmax", ["N", C, "T"], {}, {"axis": 1}),
    ("LpNormalization", ["N", "T", C, P], {}, {"axis": 2}),
    ("LayerNormalization", ["N", C, "T", P], {"scale": np.linspace(1, 2, C * P, dtype=np.float32).reshape(C, 1, P)}, {}),
    ("MeanVarianceNormalization", ["N", C, "T"], {}, {"axes": [1]}),
    ("LRN", ["N", C, "T", P], {}, {"size": 3, "alpha": 0.5}),
]


@pytest.mark.parametrize(("op", "shape", "inputs", "attributes"), STREAMING, ids=lambda v: v if isinstance(v, str) else "")
def test_streams(op: str, shape: list[str | int], inputs: dict[str, Any], attributes: dict[str, Any], tmp_path: Path) -> None:
    proto = _model(shape, op, inputs, **attributes)
    model = loaded(proto, tmp_path)
    given = {"x": np.random.default_rng(3).standard_normal([{"N": 2, "T": 7}.get(str(n), n) for n in shape]).astype(np.float32)}
    found = whole(model, given)
    agree("close", found, Reference(model._source.graph).run(given), "against float64:")
    agree("close", found, in_onnxruntime(proto, given), "against onnxruntime:")
    agree_in_chunks(model, given, found, batch=2)


WHOLE: list[tuple[str, list[str | int], dict[str, Any], dict[str, Any], str]] = [
    ("InstanceNormalization", ["N", C, "T"], _numbers(C, C), {}, "it normalises over the time axis"),
    ("GroupNormalization", ["N", C, "T"], _numbers(C, C), {"num_groups": 2}, "it normalises over the time axis"),
    ("Softmax", ["N", C, "T"], {}, {"axis": 2}, "it normalises over the time axis"),
    (
        "LayerNormalization",
        ["N", "T", C],
        {"scale": np.ones(C, np.float32)},
        {"axis": 1},
        "it normalises over the time axis",
    ),
]


@pytest.mark.parametrize(("op", "shape", "inputs", "attributes", "text"), WHOLE, ids=lambda v: v if isinstance(v, str) else "")
def test_the_reason_why_not(
    op: str, shape: list[str | int], inputs: dict[str, Any], attributes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    proto = _model(shape, op, inputs, **attributes)
    with pytest.raises(TinyRNNError, match=text):
        loaded(proto, tmp_path).stream()


def test_whole_sequences_of_a_fixed_length(tmp_path: Path) -> None:
    proto = _model([2, C, 9], "InstanceNormalization", _numbers(C, C))
    given = {"x": np.random.default_rng(3).standard_normal((2, C, 9)).astype(np.float32)}
    agree("close", whole(loaded(proto, tmp_path), given), in_onnxruntime(proto, given))
