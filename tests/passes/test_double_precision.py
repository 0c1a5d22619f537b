"""Models in float64, as `module.double()` exports them: computed in float32 where an operator has no more, and said so."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tinyrnn.check import check
from tinyrnn.cli import main
from tinyrnn.targets.reference import Reference

SAID = "ignore:.*float64 is computed in float32"


def _model(
    nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: list[str], constants: dict[str, Array] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info(n, TensorProto.DOUBLE, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _weights() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 15, 4), "R": (1, 15, 5), "V": (5, 3), "U": (4, 5), "b": (5,), "s": (5,)}
    return {n: rng.uniform(-0.5, 0.5, s) for n, s in shapes.items()} | {"one": np.array([1])}


def _gru(end: str, **attributes: Any) -> onnx.ModelProto:
    nodes = [
        helper.make_node("GRU", ["x", "W", "R"], ["h4"], "gru", hidden_size=5),
        helper.make_node("Squeeze", ["h4", "one"], ["h"], "squeeze"),
        helper.make_node("LayerNormalization", ["h", "s", "b"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "V"], ["m"], "head"),
        helper.make_node(end, ["m"], ["y"], "end", **attributes),
    ]
    return _model(nodes, {"x": ["T", 1, 4]}, ["y"], {n: a for n, a in _weights().items() if n != "U"})


CASES = {
    "per frame": _gru("Softmax", axis=-1),
    "mean over time": _gru("ReduceMean", axes=[0]),
    "largest over time": _gru("ReduceMax", axes=[0]),
}


def _single(found: dict[str, Array]) -> dict[str, Array]:
    """As float32, in which it was computed."""
    assert all(a.dtype == np.float64 for a in found.values())
    return {n: a.astype(np.float32) for n, a in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_recurrent_models(name: str, tmp_path: Path) -> None:
    """onnxruntime has no recurrent operator of float64: against the float64 reference."""
    with pytest.warns(
        UserWarning, match=r"model: float64 is computed in float32, about 7 digits; inputs and outputs stay float64"
    ):
        model = loaded(CASES[name], tmp_path)
    x = np.random.default_rng(1).standard_normal((300, 1, 4))
    found = whole(model, {"x": x})
    agree("close", _single(found), Reference(model._source.graph).run({"x": x}))
    if name == "per frame":
        agree_in_chunks(model, {"x": x[:11]}, whole(model, {"x": x[:11]}))
        assert model.stream().step(x[0]).dtype == np.float64
    tinyrnn.save(model, tmp_path / "saved.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree("exact", whole(tinyrnn.load(tmp_path / "saved.npz"), {"x": x}), found)


@pytest.mark.filterwarnings(SAID)
@pytest.mark.parametrize("op", ["Tanh", "Sigmoid", "Softplus", "Exp", "Softmax"])
def test_without_recurrence(op: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "U"], ["a"], "first"),
        helper.make_node("Add", ["a", "b"], ["sum"], "bias"),
        helper.make_node(op, ["sum"], ["act"], "act"),
        helper.make_node("MatMul", ["act", "V"], ["y"], "second"),
    ]
    proto = _model(nodes, {"x": ["N", 4]}, ["y"], {n: a for n, a in _weights().items() if n in "UVb"})
    x = np.random.default_rng(2).standard_normal((7, 4))
    model = loaded(proto, tmp_path)
    theirs = in_onnxruntime(proto, {"x": x}) if op in ("Tanh", "Sigmoid", "Exp", "Softmax") else None
    agree("close", _single(whole(model, {"x": x})), theirs or Reference(model._source.graph).run({"x": x}))


@pytest.mark.filterwarnings(SAID)
def test_states_are_float64(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "h"], ["sum"], "add"), helper.make_node("Tanh", ["sum"], ["h_out"], "tanh")]
    proto = _model([*nodes, helper.make_node("Neg", ["h_out"], ["y"], "neg")], {"x": [1, 3], "h": [1, 3]}, ["y", "h_out"])
    model = loaded(proto, tmp_path)
    assert [(s.name, s.dtype) for s in model.states] == [("h", np.dtype(np.float64))]
    stream, h = model.stream(), np.zeros((1, 3))
    for x in np.random.default_rng(3).standard_normal((20, 1, 3)):
        made = in_onnxruntime(proto, {"x": x, "h": h})
        h = made["h_out"]
        agree("close", _single({"y": stream.step(x[0])}), {"y": made["y"][0]})
    report = check(tmp_path / "model.onnx", frames=20)
    assert report.passed and report.oracle.startswith("onnxruntime"), str(report)
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "model.onnx")])
    assert result.exit_code == 0 and "float64 is computed in float32" in result.output


def test_float64_stays_where_every_operator_has_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "third"], ["a"]), helper.make_node("Sub", ["a", "x"], ["y"])]
    proto = _model(nodes, {"x": ["N", 4]}, ["y"], {"third": np.array(1 / 3)})
    x = np.random.default_rng(4).standard_normal((5, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree("close", whole(loaded(proto, tmp_path), {"x": x}), in_onnxruntime(proto, {"x": x}))


@pytest.mark.filterwarnings(SAID)
def test_sizes_are_computed_exactly(tmp_path: Path) -> None:
    """floor(0.7 / 0.1 in float64) is 6 and in float32 7: what is known at load keeps its precision."""
    nodes = [
        helper.make_node("Div", ["a", "b"], ["q"]),
        helper.make_node("Floor", ["q"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["end"], to=TensorProto.INT64),
        helper.make_node("Slice", ["x", "zero", "end", "axis"], ["cut"]),
        helper.make_node("Tanh", ["cut"], ["y"]),
    ]
    constants: dict[str, Array] = {"a": np.array([0.7]), "b": np.array([0.1]), "zero": np.array([0]), "axis": np.array([1])}
    proto = _model(nodes, {"x": ["N", 9]}, ["y"], constants)
    x = np.random.default_rng(5).standard_normal((2, 9))
    assert np.floor(0.7 / 0.1) == 6 != np.floor(np.float32(0.7) / np.float32(0.1))
    agree("close", _single(whole(loaded(proto, tmp_path), {"x": x})), in_onnxruntime(proto, {"x": x}))


def test_what_is_refused_is_named_alone(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["t"], "tanh"), helper.make_node("Det", ["t"], ["y"], "det")]
    with pytest.raises(tinyrnn.UnsupportedError, match="operator Det") as caught:
        loaded(_model(nodes, {"x": [2, 2]}, ["y"]), tmp_path)
    assert "float64" not in str(caught.value)
