"""Inputs, outputs and states of half precision are what the file says, in every way of running; float32 is computed with inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tinyrnn.ops.elementwise.cast import converted

ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def model_of(
    nodes: list[onnx.NodeProto], code: int, inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Any]
) -> onnx.ModelProto:
    dtype = helper.tensor_dtype_to_np_dtype(code)
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info(name, code, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, code, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(a).astype(dtype), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def sequence(code: int) -> onnx.ModelProto:
    """An output per frame, a loss of rank 0, and the input once more."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("Tanh", ["a"], ["y"]),
        helper.make_node("ReduceMean", ["y"], ["loss"], keepdims=0),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    W = np.random.default_rng(1).standard_normal((4, 5)) / 2
    return model_of(nodes, code, {"x": ["T", 4]}, {"y": ["T", 5], "loss": [], "same": ["T", 4]}, {"W": W})


def step(code: int) -> onnx.ModelProto:
    """A leaky sum, whose state is rounded to the file's type in every step."""
    nodes = [
        helper.make_node("Mul", ["h", "leak"], ["kept"]),
        helper.make_node("Add", ["kept", "x"], ["h_out"]),
        helper.make_node("Tanh", ["h_out"], ["y"]),
    ]
    return model_of(nodes, code, {"x": [1, 3], "h": [1, 3]}, {"y": [1, 3], "h_out": [1, 3]}, {"leak": 0.75})


@pytest.mark.parametrize("kind", HALVES)
def test_sequences(kind: str, tmp_path: Path) -> None:
    dtype, proto = DTYPES[kind], sequence(HALVES[kind])
    model = loaded(proto, tmp_path)
    tinyrnn.save(model, tmp_path / "saved.npz")
    for frames in (7, 300):
        x = np.random.default_rng(frames).standard_normal((frames, 4)).astype(dtype)
        found = whole(model, {"x": x})
        wide = np.tanh(x.astype(np.float64) @ numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64))
        assert all(a.dtype == dtype for a in found.values()) and found["loss"].shape == ()
        agree("close", found, {"y": wide.astype(dtype), "loss": wide.mean().astype(dtype), "same": x})
        if kind == "float16":
            agree("close", found, in_onnxruntime(proto, {"x": x}))
        agree_in_chunks(model, {"x": x}, found)
        agree("exact", whole(model, {"x": x.astype(np.float32)}), found)  # float32 is taken too
        agree("exact", whole(tinyrnn.load(tmp_path / "saved.npz"), {"x": x}), found)


@pytest.mark.parametrize("kind", HALVES)
def test_streams_into_arrays(kind: str, tmp_path: Path) -> None:
    dtype = DTYPES[kind]
    model = loaded(sequence(HALVES[kind]), tmp_path, outputs=["y"])
    x = np.random.default_rng(3).standard_normal((9, 4)).astype(dtype)
    wanted, stream = model.run(x), model.stream()
    out = np.empty(5, dtype)
    for row, frame in zip(wanted, x, strict=True):
        assert stream.step(frame, out=out) is out and out.tobytes() == row.tobytes()
    many = np.empty((9, 5), dtype)
    stream.reset()
    stream.run(x, out=many)
    assert many.tobytes() == wanted.tobytes()
    with pytest.raises(tinyrnn.ShapeError, match=kind):
        stream.step(x[0], out=np.empty(5, np.float32))


@pytest.mark.parametrize("kind", HALVES)
def test_states(kind: str, tmp_path: Path) -> None:
    dtype, proto = DTYPES[kind], step(HALVES[kind])
    model = loaded(proto, tmp_path)
    assert [(s.name, s.dtype) for s in model.states] == [("h", dtype)]
    rng = np.random.default_rng(5)
    stream, h = model.stream(), np.zeros((1, 3), dtype)
    for _ in range(20):
        x = rng.standard_normal((1, 3)).astype(dtype)
        y = stream.step(x[0])
        given = {"x": x, "h": h}
        whole_y, h = model.run(given)
        assert y.dtype == h.dtype == dtype and y.tobytes() == whole_y.tobytes()
        if kind == "float16":
            agree("close", {"y": whole_y, "h_out": h}, in_onnxruntime(proto, given))
        assert stream.states["h"].tobytes() == h.tobytes()


@pytest.mark.parametrize("kind", HALVES)
def test_every_number_is_converted_as_numpy_does(kind: str, tmp_path: Path) -> None:
    dtype = DTYPES[kind]
    proto = model_of([helper.make_node("Abs", ["x"], ["y"])], HALVES[kind], {"x": ["T", 1]}, {"y": ["T", 1]}, {})
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)[:, None]
    y = loaded(proto, tmp_path).run(every)
    assert np.array_equal(np.isnan(y.astype(np.float32)), np.isnan(every.astype(np.float32)))
    real = ~np.isnan(every.astype(np.float32))
    assert y[real].tobytes() == np.abs(every[real]).tobytes()
    rounding = model_of(
        [helper.make_node("Mul", ["x", "k"], ["y"])], HALVES[kind], {"x": ["T", 1]}, {"y": ["T", 1]}, {"k": 1 / 3}
    )
    factor = np.asarray(1 / 3).astype(dtype).astype(np.float32)
    with np.errstate(invalid="ignore"):
        wanted = converted(every.astype(np.float32) * factor, dtype)
    got = loaded(rounding, tmp_path).run(every)
    assert got[real].tobytes() == wanted[real].tobytes()


def test_a_build_takes_float32(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(sequence(TensorProto.FLOAT16).SerializeToString())
    tinyrnn.build(tmp_path / "model.onnx", tmp_path / "built", "host", outputs=["y"])
    model = tinyrnn.load_built(tmp_path / "built")
    assert [p.dtype for p in (*model.inputs, *model.outputs)] == [np.float32, np.float32]
