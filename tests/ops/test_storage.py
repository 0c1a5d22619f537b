"""Weights in small types: every kernel that takes them against float64 with the same weights, rounded here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tinyrnn
from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tests.ops.op_case import build as build_op
from tests.ops.op_case import case, w, x
from tests.ops.recurrent_cases import build, expected, recurrent_cases
from tests.pools import agree_in_pool
from tinyrnn.graph.storage import as_rows, from_rows, quantized, recovered
from tinyrnn.passes.weight_storage import layers_of

TYPES = ("float16", "bfloat16", "int8", "int8:16", "int8:5")
RECURRENT = {one.name: one for one in recurrent_cases()}
CHOSEN = [
    name
    for name in RECURRENT
    if any(
        part in name
        for part in ("inputs_all", "peephole", "linear_before_reset", "bidirectional", "layout", "lens", "large", "H_", "size")
    )
][::4] + [f"{op}_inputs_none" for op in ("rnn", "gru", "lstm")]


def rows_rounded(rows: Array, kind: str) -> Array:
    """float32 rows [..., K] as a type has them, from its definition."""
    if kind == "float16":
        return rows.astype(np.float16).astype(np.float32)
    if kind == "bfloat16":
        import ml_dtypes

        return rows.astype(ml_dtypes.bfloat16).astype(np.float32)
    size = rows.shape[-1]
    group = int(kind.partition(":")[2] or size)
    made = np.empty_like(rows)
    for first in range(0, size, group):
        part = rows[..., first : first + group].astype(np.float64)
        scale = (np.abs(part).max(-1, keepdims=True) / 127).astype(np.float32).astype(np.float64)
        q = np.rint(np.divide(part, scale, out=np.zeros_like(part), where=scale > 0))
        made[..., first : first + group] = q.astype(np.float32) * scale.astype(np.float32)
    return made


def rounded(proto: onnx.ModelProto, kind: str, summed: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with rounded initializers; `summed` are the axes of each that a sum goes over."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for tensor in made.graph.initializer:
        if tensor.name in summed:
            array = numpy_helper.to_array(tensor)
            rows = rows_rounded(as_rows(array, summed[tensor.name]), kind)
            tensor.CopyFrom(numpy_helper.from_array(from_rows(rows, array.shape, summed[tensor.name]), tensor.name))
    return made


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", CHOSEN)
def test_recurrent_layers(name: str, kind: str, tmp_path: Path) -> None:
    one = RECURRENT[name]
    proto, inputs = build(one)
    model = loaded(proto, tmp_path, weights=kind)
    found = whole(model, inputs)
    same = rounded(proto, kind, {"W": (2,), "R": (2,)})
    agree("close", found, expected(same, inputs), "against float64:")
    if one.attributes.get("direction", "forward") == "forward" and one.sequence_lens is None:
        agree_in_chunks(model, inputs, found, one.N)
        if one.N == 1:
            agree_in_pool(model)


OPS: dict[str, Any] = {
    "linear": (case("MatMul of five rows", x(5, 37), w(37, 71)), {"x1": (0,)}),
    "linear of many panels": (case("MatMul of one row", x(1, 33), w(33, 200)), {"x1": (0,)}),
    "gemm": (case("Gemm transposed", x(3, 19), w(23, 19), w(23), transB=1), {"x1": (1,)}),
    "embedding": (case("Gather of rows", w(11, 21), x(4, dtype="int64", low=-11, high=10)), {"x0": (1,)}),
}
CONVOLUTIONS = {
    "along positions": case("Conv along positions", x(1, 3, 70), w(9, 3, 5), w(9), pads=[2, 2]),
    "in two dimensions": case("Conv in two dimensions", x(1, 4, 9, 11), w(17, 4, 3, 3), w(17), pads=[1, 1, 1, 1]),
    "across channels": case("Conv across channels", x(1, 24, 4), w(70, 24, 3), w(70)),
    "in groups": case("Conv in groups", x(1, 8, 20), w(8, 4, 3), w(8), group=2),
    "of each channel": case("Conv of each channel", x(1, 40, 3), w(40, 1, 3), w(40), group=40),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", [*OPS, *CONVOLUTIONS])
def test_other_layers(name: str, kind: str, tmp_path: Path) -> None:
    one, summed = (
        OPS[name] if name in OPS else (CONVOLUTIONS[name], {"x1": tuple(range(1, CONVOLUTIONS[name].inputs[1].shape.__len__()))})
    )
    whole_rows = name in CONVOLUTIONS or name == "embedding"
    proto, inputs = build_op(one)
    model = loaded(proto, tmp_path, states={}, weights=kind)
    same = rounded(proto, kind.partition(":")[0] if whole_rows else kind, summed)
    agree("close", whole(model, inputs), in_onnxruntime(same, inputs), "against onnxruntime:")


def test_a_convolution_over_time_streams_with_small_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = (rng.standard_normal((16, 6, 3)) * 0.3).astype(np.float32)
    proto = _over_time(weights)
    inputs = {"x": rng.standard_normal((1, 6, 30)).astype(np.float32)}
    for kind in ("float16", "int8"):
        model = loaded(proto, tmp_path, weights=kind)
        same = rounded(proto, kind, {"w": (1, 2)})
        found = whole(model, inputs)
        agree("close", found, in_onnxruntime(same, inputs))
        agree_in_pool(model)


def _over_time(weights: Array) -> onnx.ModelProto:
    from onnx import helper

    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[weights.shape[2] - 1, 0])],
        "over_time",
        [helper.make_tensor_value_info("x", 1, [1, weights.shape[1], "T"])],
        [helper.make_tensor_value_info("y", 1, [1, weights.shape[0], "T"])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def lstm(H: int = 24, inputs: int = 7, halves: bool = False) -> onnx.ModelProto:
    from onnx import helper

    rng = np.random.default_rng(H)
    dtype = np.float16 if halves else np.float32
    shapes = {"W": (1, 4 * H, inputs), "R": (1, 4 * H, H), "B": (1, 8 * H)}
    arrays = {n: (rng.standard_normal(s) * 0.3).astype(dtype).astype(np.float32) for n, s in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R", "B"], ["Y"], "/rnn/LSTM", hidden_size=H)],
        "lstm",
        [helper.make_tensor_value_info("x", 1, ["T", 1, inputs])],
        [helper.make_tensor_value_info("Y", 1, ["T", 1, 1, H])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_halves_are_stored_as_halves_with_the_same_bits() -> None:
    from tinyrnn.compile.planner import make_plan
    from tinyrnn.targets.machine import host

    model = tinyrnn.load(lstm(halves=True))
    frames = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    narrow = tinyrnn.load(lstm(halves=True), weights="float16")
    assert narrow.stream().run(frames).tobytes() == model.stream().run(frames).tobytes()
    program, machine = model._source.program, host()
    by_itself = make_plan(program, machine.lanes, machine.registers, cache=0)
    assert by_itself.weights.nbytes == narrow._layout.weights.nbytes < 0.6 * model._layout.weights.nbytes
    assert make_plan(tinyrnn.load(lstm())._source.program, 16, 32, cache=0).weights.nbytes > by_itself.weights.nbytes


def test_names_of_layers() -> None:
    model = tinyrnn.load(lstm(), weights={"/rnn/LSTM": "int8"})
    assert model._layout.weights.nbytes == tinyrnn.load(lstm(), weights="int8")._layout.weights.nbytes
    assert tinyrnn.load(lstm(), weights={"rnn": "int8", "*": "float32"})._layout.weights.nbytes == model._layout.weights.nbytes
    with pytest.raises(tinyrnn.LoadError, match="no layer 'head'; the layers with weights are '/rnn/LSTM'"):
        tinyrnn.load(lstm(), weights={"head": "int8"})


@pytest.mark.parametrize("given", ["int4", "int8:0", "float16:8", "int8:x", 8, ["int8"], {"rnn": 3}, {3: "int8"}, "int8x8:4"])
def test_types_that_are_none(given: Any) -> None:
    with pytest.raises(tinyrnn.LoadError, match=r"weights=.*(supported are|it takes)"):
        tinyrnn.load(lstm(), weights=given)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    proto = lstm()
    array = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    array[0, 3, 2] = value
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "W"))
    for kind in ("float16", "int8"):
        with pytest.raises(tinyrnn.LoadError, match="'/rnn/LSTM'.*NaN or infinite weights cannot be stored as"):
            tinyrnn.load(proto, weights=kind)


def test_integers_of_a_file_are_recovered() -> None:
    rng = np.random.default_rng(1)
    for group in (40, 16):
        q = rng.integers(-128, 128, (6, 40)).astype(np.int8)
        q[2], q[3, :group] = 0, 0
        scale = np.repeat(rng.uniform(1e-4, 0.1, (6, -(-40 // group))).astype(np.float32), group, 1)[:, :40]
        rows = q.astype(np.float32) * scale
        found = recovered(rows)
        assert found is not None and found.group == group
        assert np.array_equal(found.values.astype(np.float32) * np.repeat(found.scale, group, 1)[:, :40], rows)
    assert recovered(rng.standard_normal((6, 40)).astype(np.float32)) is None


def test_rows_of_zeros_and_of_tiny_numbers() -> None:
    rows = np.zeros((3, 8), np.float32)
    rows[1, 2], rows[2] = 1e-38, np.arange(8)
    made = quantized(rows, 4)
    assert made.scale is not None and (made.scale > 0).all()
    assert not made.values[:2].any() and made.values[2, -1] == 127


@pytest.mark.parametrize("group", [0, 16, 3, 1])
def test_rows_that_were_rounded_are_rounded_to_themselves(group: int) -> None:
    rng = np.random.default_rng(7)
    rows = (
        rng.standard_normal((2000, 40))
        * 2.0 ** rng.integers(-130, 30, (2000, 1))
        * (rng.random((2000, 40)) < rng.random((2000, 1)))
    )
    once = quantized(rows.astype(np.float32), group)
    assert once.scale is not None
    values = once.values.astype(np.float32) * np.repeat(once.scale, once.group, 1)[:, :40]
    again = quantized(values, group)
    assert again.scale is not None
    assert np.array_equal(again.values, once.values) and again.scale.tobytes() == once.scale.tobytes()


def test_weights_behind_dequantize_linear_are_stored_as_integers(tmp_path: Path) -> None:
    from onnx import helper

    rng = np.random.default_rng(5)
    q = rng.integers(-127, 128, (30, 70)).astype(np.int8)
    scale = rng.uniform(0.001, 0.02, 70).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "dq", axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", 1, ["T", 1, 30])],
        [helper.make_tensor_value_info("y", 1, ["T", 1, 70])],
        [numpy_helper.from_array(a, n) for n, a in {"q": q, "s": scale, "z": np.zeros(70, np.int8)}.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = loaded(proto, tmp_path)
    inputs = {"x": rng.standard_normal((6, 1, 30)).astype(np.float32)}
    exact = inputs["x"].astype(np.float64) @ (q.astype(np.float64) * scale)
    agree("close", whole(model, inputs), {"y": exact.astype(np.float32)}, "onnxruntime rounds x to integers there:")
    assert model._layout.weights.nbytes < 2 * q.nbytes
    assert [n.name for n, _ in layers_of(model._source.program.graph)] == ["head"]
