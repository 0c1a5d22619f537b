"""Files as onnxruntime quantises them: its integers, streamed where the float model would be; and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import tinyrnn
from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tests.ops.cases_quantised import i, s
from tests.ops.op_case import MICROSOFT, OpCase, build, case, f, k, x
from tinyrnn import StreamError, UnsupportedError
from tinyrnn.check import check
from tinyrnn.graph.storage import recovered
from tinyrnn.ops.quantized.exact import exact_parts
from tinyrnn.ops.quantized.integers import EXACT

FEATURES, HIDDEN, CLASSES, FRAMES = 10, 16, 6, 23


def _weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(8)
    return [numpy_helper.from_array((rng.standard_normal(s) * 0.3).astype(np.float32), n) for n, s in shapes.items()]


def _model(nodes: list[onnx.NodeProto], x: list[Any], y: list[Any], constants: list[onnx.TensorProto], kind: int = 1) -> Any:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _convolutions() -> onnx.ModelProto:
    """Convolutions over time, padded on the left, with a branch that joins again."""
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "W1", "B1"], ["a"], "conv1", pads=[2, 0]),
        n("Relu", ["a"], ["r"], "relu"),
        n("Conv", ["r", "W2"], ["b"], "conv2", pads=[4, 0], dilations=[2], group=2),
        n("Sigmoid", ["b"], ["g"], "sigmoid"),
        n("Mul", ["r", "g"], ["m"], "mul"),
        n("Add", ["m", "r"], ["t"], "add"),
        n("Conv", ["t", "W3", "B3"], ["y"], "conv3"),
    ]
    sizes = {"W1": (12, FEATURES, 3), "B1": (12,), "W2": (12, 6, 3), "W3": (CLASSES, 12, 1), "B3": (CLASSES,)}
    return _model(nodes, [1, FEATURES, "T"], [1, CLASSES, "T"], _weights(**sizes))


def _recurrent() -> onnx.ModelProto:
    """A GRU between quantised layers, over time first."""
    n = helper.make_node
    nodes = [
        n("MatMul", ["x", "W1"], ["a"], "first"),
        n("Relu", ["a"], ["r"], "relu"),
        n("GRU", ["r", "W", "R", "B"], ["Y"], "gru", hidden_size=HIDDEN),
        n("Squeeze", ["Y", "one"], ["h"], "squeeze"),
        n("MatMul", ["h", "W2"], ["b"], "last"),
        n("Add", ["b", "B2"], ["y"], "add"),
    ]
    sizes = {"W1": (FEATURES, 12), "W": (1, 3 * HIDDEN, 12), "R": (1, 3 * HIDDEN, HIDDEN), "B": (1, 6 * HIDDEN)}
    constants = [*_weights(**sizes, W2=(HIDDEN, CLASSES), B2=(CLASSES,)), numpy_helper.from_array(np.array([1]), "one")]
    return _model(nodes, ["T", 1, FEATURES], ["T", 1, CLASSES], constants)


def _picture() -> onnx.ModelProto:
    """A classifier of pictures."""
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "W1", "B1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        n("Clip", ["a", "low", "high"], ["c"], "clip"),
        n("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        n("Conv", ["p", "W2"], ["d"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        n("AveragePool", ["d"], ["v"], "mean", kernel_shape=[2, 2], strides=[1, 1]),
        n("Concat", ["v", "v"], ["cc"], "concat", axis=1),
        n("GlobalAveragePool", ["cc"], ["g"], "global"),
        n("Flatten", ["g"], ["f"], "flatten"),
        n("Gemm", ["f", "W3", "B3"], ["y"], "gemm", transB=1),
    ]
    sizes = {"W1": (8, 3, 3, 3), "B1": (8,), "W2": (8, 1, 3, 3), "W3": (CLASSES, 16), "B3": (CLASSES,)}
    bounds = [numpy_helper.from_array(np.array(v, np.float32), name) for name, v in (("low", 0.0), ("high", 6.0))]
    return _model(nodes, [1, 3, 10, 12], [1, CLASSES], [*_weights(**sizes), *bounds])


MODELS = {"convolutions": _convolutions, "recurrent": _recurrent, "picture": _picture}


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(4)
        self.left: Iterator[dict[str, Array]] = iter([{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.left, None)


def shape_of(proto: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(d.dim_value or FRAMES for d in proto.graph.input[0].type.tensor_type.shape.dim)


def quantised(proto: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    """The model as onnxruntime quantises it, dynamically where no `quant_format` is given."""
    logging.getLogger().setLevel(logging.ERROR)
    before, after = folder / "float.onnx", folder / "quantised.onnx"
    onnx.save(proto, before)
    if "quant_format" in options:
        quantize_static(before, after, _Samples(shape_of(proto)), **options)
    else:
        quantize_dynamic(before, after, **options)
    return onnx.load(after)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["QUInt8", "QInt8"])
def test_operators_on_integers_give_those_of_onnxruntime(name: str, kind: str, tmp_path: Path) -> None:
    numbers = {"activation_type": QuantType[kind], "weight_type": QuantType.QInt8, "per_channel": kind == "QInt8"}
    proto = quantised(MODELS[name](), tmp_path, quant_format=QuantFormat.QOperator, **numbers)
    assert {n.op_type for n in proto.graph.node} & {"QLinearConv", "QLinearMatMul", "QGemm"}
    model = loaded(proto, tmp_path)
    inputs = {"x": np.random.default_rng(2).standard_normal(shape_of(proto)).astype(np.float32)}
    found = whole(model, inputs)
    agree("exact", found, in_onnxruntime(proto, inputs))
    if model.kind == "sequence":
        agree_in_chunks(model, inputs, found)


@pytest.mark.parametrize("name", ["convolutions", "recurrent"])
def test_float_operators_between_quantised_values_stream(name: str, tmp_path: Path) -> None:
    proto = quantised(MODELS[name](), tmp_path, quant_format=QuantFormat.QDQ, per_channel=True)
    assert "QuantizeLinear" in {n.op_type for n in proto.graph.node}
    model = loaded(proto, tmp_path)
    inputs = {"x": np.random.default_rng(2).standard_normal(shape_of(proto)).astype(np.float32)}
    found = whole(model, inputs)
    agree_in_chunks(model, inputs, found)
    assert check(proto, frames=9).passed


@pytest.mark.parametrize("name", ["convolutions", "recurrent"])
def test_a_dynamic_scale_over_time_is_that_of_the_call(name: str, tmp_path: Path) -> None:
    proto = quantised(MODELS[name](), tmp_path, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Conv"])
    assert "DynamicQuantizeLinear" in {n.op_type for n in proto.graph.node}
    model = loaded(proto, tmp_path)
    inputs = {"x": np.random.default_rng(2).standard_normal(shape_of(proto)).astype(np.float32)}
    agree("close", whole(model, inputs), in_onnxruntime(proto, inputs))
    with pytest.raises(StreamError, match=r"_QuantizeLinear.*makes of the whole sequence"):
        model.stream()


def test_a_step_model_has_a_dynamic_scale_in_every_frame(tmp_path: Path) -> None:
    n = helper.make_node
    nodes = [
        n("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], "quantize"),
        n("MatMulInteger", ["q", "W", "zero"], ["i"], "product"),
        n("Cast", ["i"], ["c"], "cast", to=1),
        n("Mul", ["c", "scale"], ["m"], "mul"),
        n("Add", ["m", "h"], ["hn"], "add"),
        n("Tanh", ["hn"], ["y"], "tanh"),
    ]
    weights = numpy_helper.from_array(np.random.default_rng(1).integers(-128, 128, (9, 9)).astype(np.int8), "W")
    proto = _model(nodes, [1, 9], [1, 9], [weights])
    proto.graph.input.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 9]))
    proto.graph.output.append(helper.make_tensor_value_info("hn", TensorProto.FLOAT, [1, 9]))
    model = loaded(proto, tmp_path)
    stream, state = model.stream(), np.zeros((1, 9), np.float32)
    for frame in np.random.default_rng(5).standard_normal((6, 1, 9)).astype(np.float32) * np.arange(6)[:, None, None]:
        wanted = in_onnxruntime(proto, {"x": frame.astype(np.float32), "h": state})
        state = wanted["hn"]
        agree("close", {"y": stream.step(frame.astype(np.float32))}, {"y": wanted["y"][0]})


def test_bytes_from_outside_stream_through_a_convolution(tmp_path: Path) -> None:
    """uint8 from the caller, moved and cut along time while they are whole numbers inside."""
    n, rng = helper.make_node, np.random.default_rng(3)
    nodes = [
        n("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 1]),
        n("QLinearConv", ["t", "s", "z", "W", "s", "zw", "s2", "z"], ["c"], "conv", pads=[2, 0]),
        n("MaxPool", ["c"], ["p"], "pool", kernel_shape=[3], pads=[2, 0]),
        n("DequantizeLinear", ["p", "s2", "z"], ["y"], "numbers"),
    ]
    numbers: dict[str, Any] = {"s": np.float32(0.02), "s2": np.float32(0.3), "z": np.uint8(7), "zw": np.int8(0)}
    numbers["W"] = rng.integers(-128, 128, (5, 3, 3)).astype(np.int8)
    proto = _model(nodes, [1, "T", 3], [1, 5, "T"], [numpy_helper.from_array(np.asarray(a), m) for m, a in numbers.items()], 2)
    model = loaded(proto, tmp_path)
    inputs = {"x": rng.integers(0, 256, (1, FRAMES, 3)).astype(np.uint8)}
    found = whole(model, inputs)
    agree("exact", found, in_onnxruntime(proto, inputs))
    agree_in_chunks(model, inputs, found)


def test_integers_are_stored_as_they_are() -> None:
    """With another scale a sum that is exact would be rounded when it is scaled."""
    rows = np.random.default_rng(6).integers(-14, 15, (5, 40)).astype(np.float32) * 3
    stored = recovered(rows)
    assert stored is not None and np.all(stored.scale == 1) and np.array_equal(stored.values, rows)
    assert recovered(rows * 6) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4000), st.integers(0, 2**31), st.sampled_from([128, 255]), st.sampled_from([1, 40, 255]))
def test_parts_of_weights_are_exact(length: int, seed: int, largest: int, spread: int) -> None:
    weights = np.random.default_rng(seed).integers(-spread, spread + 1, (length, 3)).astype(np.float32)
    parts = exact_parts(weights, largest, [0])
    assert np.array_equal(sum(factor * part for factor, part in parts), weights)
    assert all(np.abs(part).sum(0).max() * largest <= EXACT for _, part in parts)


REFUSED: dict[str, OpCase] = {
    "y_scale=0; supported are positive numbers": case("QuantizeLinear", x(3, 4), f(0.0), k(1, "uint8")),
    "x_scale=-1; supported are positive": case("DequantizeLinear", k([[1, 2]], "int8"), f(-1.0)),
    "x_zero_point is uint8 and its integers are int8": case("DequantizeLinear", i(3, 4, dtype="int8"), f(0.1), k(1, "uint8")),
    r"scales of shape \[3\] do not fit \[3, 4\] along axis 1": case("DequantizeLinear", i(3, 4), s(3), k([1, 2, 3], "uint8")),
    "axis=5 of a value": case("QuantizeLinear", x(3, 4), s(4), k([1, 2, 3, 4], "uint8"), axis=5),
    "its integers are int64": case("DequantizeLinear", x(3, 4, dtype="int64"), f(0.1)),
    "supported are integers of up to 16 bits": case("QuantizeLinear", x(3, 4), f(0.1), k(3, "int32")),
    "A is int32; supported are int8 and uint8": case("MatMulInteger", x(3, 4, dtype="int32"), i(4, 5)),
    "a_zero_point is int8": case("MatMulInteger", i(3, 4), i(4, 5), k(1, "int8")),
    r"b_scale has the shape \[4\]; supported are one number or 5": case(
        "QLinearMatMul", i(3, 4), f(0.1), k(0, "uint8"), i(4, 5), s(4), k([0] * 4, "uint8"), f(0.1), k(0, "uint8")
    ),
    "its weights depend on the input": case("ConvInteger", i(1, 3, 8), i(4, 3, 3)),
    "bits=3": case(
        "MatMulNBits", x(3, 16), k(np.zeros((5, 1, 8)), "uint8"), s(5), K=16, N=5, bits=3, block_size=16, domain=MICROSOFT
    ),
    "transBatchA=1; supported is 0": case("FusedMatMul", x(2, 3, 4), x(2, 4, 3), transBatchA=1, domain=MICROSOFT),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str, tmp_path: Path) -> None:
    proto, _ = build(REFUSED[text])
    with pytest.raises(UnsupportedError, match=f"(?s){text}") as caught:
        tinyrnn.load(proto)
    assert "node" in str(caught.value)
