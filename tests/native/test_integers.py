"""Layers of int8 activations and weights give the same bits on every target, by what each has for products of int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.native.machines import run_native, why_not
from tests.native.pools import agree_in_pool
from tests.ops.test_quantized_lstm import build

TARGETS = [
    "host",
    "x86-64-v3",
    "x86-64-v4",
    "aarch64",
    "rpi5",
    "armv7",
    "riscv64",
    "riscv64-v",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
]
FRAMES = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LSTM of 37 units over 13 inputs, GRU of 10, a layer of 7 outputs: no multiple of any machine's vectors."""
    rng = np.random.default_rng(0)
    shapes = {
        "lstm": {"weight_ih_l0": (148, 13), "weight_hh_l0": (148, 37), "bias_ih_l0": (148,), "bias_hh_l0": (148,)},
        "gru": {"weight_ih_l0": (30, 37), "weight_hh_l0": (30, 10), "bias_ih_l0": (30,), "bias_hh_l0": (30,)},
        "out": {"weight": (7, 10), "bias": (7,)},
    }
    arrays = {
        f"{layer}.{name}": (rng.standard_normal(shape) / 3).astype(np.float32)
        for layer, of in shapes.items()
        for name, shape in of.items()
    }
    file = tmp_path_factory.mktemp("integers") / "model.npz"
    np.savez(file, **arrays)
    return file


LAYERS = [("LSTM", "lstm"), ("GRU", "gru"), ("Linear", "out")]


@pytest.mark.parametrize("target", [*TARGETS, "wasm32", "x86-64-v2"])
def test_same_bits(path: Path, target: str, tmp_path: Path) -> None:
    if reason := why_not(target):
        pytest.skip(reason)
    model = tinyrnn.load(path, layers=LAYERS, weights="int8x8")
    x = np.random.default_rng(1).standard_normal((FRAMES, 13)).astype(np.float32)
    x[3] = 0
    expected = model.stream().run(x)
    emulate = target in ("wasm32", "x86-64-v2")
    built = tinyrnn.build(path, tmp_path / "built", target, layers=LAYERS, weights="int8x8", streams=5, emulate_fma=emulate)
    made = run_native(built, [x], tmp_path / "run").outputs[0]
    np.testing.assert_array_equal(made.view(np.uint32), expected.view(np.uint32))
    agree_in_pool(model, built, tmp_path / "pool")


@pytest.mark.parametrize("target", ["riscv64", "cortex-m4"])
def test_few_units(target: str, tmp_path: Path) -> None:
    """Fewer than the sums that a processor without vectors computes at once."""
    if reason := why_not(target):
        pytest.skip(reason)
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, gates, inputs, units in (("gru", 3, 5, 3), ("rnn", 1, 3, 2), ("lstm", 4, 2, 1)):
        shapes |= {f"{name}.weight_ih_l0": (gates * units, inputs), f"{name}.weight_hh_l0": (gates * units, units)}
        shapes |= {f"{name}.bias_ih_l0": (gates * units,), f"{name}.bias_hh_l0": (gates * units,)}
    path, layers = tmp_path / "few.npz", [("GRU", "gru"), ("RNN", "rnn"), ("LSTM", "lstm")]
    np.savez(path, **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})
    model = tinyrnn.load(path, layers=layers, weights="int8x8")
    x = rng.standard_normal((FRAMES, 5)).astype(np.float32)
    built = tinyrnn.build(path, tmp_path / "built", target, layers=layers, weights="int8x8", streams=5)
    made = run_native(built, [x], tmp_path / "run").outputs[0]
    np.testing.assert_array_equal(made.view(np.uint32), model.stream().run(x).view(np.uint32))
    agree_in_pool(model, built, tmp_path / "pool")


@pytest.mark.parametrize("target", ["x86-64-v3", "aarch64", "riscv64", "cortex-m4"])
def test_dynamic_quantize_lstm(target: str, tmp_path: Path) -> None:
    """Its weights are two matrices of int8 where they have zero points."""
    if reason := why_not(target):
        pytest.skip(reason)
    proto, _ = build("zero_points", 13, 37, affine=False)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = tinyrnn.load(path)
    x = np.random.default_rng(2).standard_normal((FRAMES, 13)).astype(np.float32)
    expected = model.stream().run(x)
    built = tinyrnn.build(path, tmp_path / "built", target, streams=5)
    made = run_native(built, [x], tmp_path / "run").outputs[0]
    np.testing.assert_array_equal(made.view(np.uint32), np.asarray(expected).view(np.uint32))
    agree_in_pool(model, built, tmp_path / "pool")


def quantised_layers() -> bytes:
    """A product of quantised numbers by int8 weights, rounded, and one by a dynamic scale, of no machine's sizes."""
    rng, n = np.random.default_rng(2), helper.make_node
    nodes = [
        n("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        n("QLinearMatMul", ["q", "s", "z", "W", "s", "zw", "s2", "z2"], ["p"], "product"),
        n("DequantizeLinear", ["p", "s2", "z2"], ["d"], "numbers"),
        n("DynamicQuantizeLinear", ["d"], ["e", "scale", "zero"], "dynamic"),
        n("MatMulInteger", ["e", "V", "zero"], ["i"], "integers"),
        n("Cast", ["i"], ["c"], "cast", to=1),
        n("Mul", ["c", "scale"], ["m"], "scaled"),
        n("Add", ["m", "h"], ["hn"], "state"),
    ]
    numbers = {"s": np.float32(0.02), "s2": np.float32(0.3), "z": np.uint8(117), "z2": np.uint8(3), "zw": np.int8(0)}
    arrays = {
        **numbers,
        "W": rng.integers(-128, 128, (13, 37)).astype(np.int8),
        "V": rng.integers(-9, 128, (37, 7)).astype(np.int8),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "layers",
        [value("x", TensorProto.FLOAT, [1, 13]), value("h", TensorProto.FLOAT, [1, 7])],
        [value("p", TensorProto.UINT8, [1, 37]), value("hn", TensorProto.FLOAT, [1, 7])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return made


@pytest.mark.parametrize("target", [*TARGETS, "wasm32"])
def test_quantised_files_have_the_same_bits(target: str, tmp_path: Path) -> None:
    if reason := why_not(target):
        pytest.skip(reason)
    path = tmp_path / "layers.onnx"
    path.write_bytes(quantised_layers())
    x = np.random.default_rng(1).standard_normal((FRAMES, 13)).astype(np.float32)
    made = tinyrnn.load(path, states={"h": "hn"}).stream().run(x)
    expected = made if isinstance(made, tuple) else (made,)
    built = tinyrnn.build(path, tmp_path / "built", target, states={"h": "hn"}, emulate_fma=target == "wasm32")
    for found, wanted in zip(run_native(built, [x], tmp_path / "run").outputs, expected, strict=True):
        np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
