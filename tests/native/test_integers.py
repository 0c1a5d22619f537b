"""Layers of int8 activations and weights give the same bits on every target, by what each has for products of int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tinyrnn
from tests.native.machines import run_native, why_not
from tests.native.pools import agree_in_pool
from tests.ops.test_quantized_lstm import build

TARGETS = ["host", "x86-64-v3", "x86-64-v4", "aarch64", "rpi5", "armv7", "riscv64", "riscv64-v", "cortex-m4", "cortex-m7", "cortex-m33"]
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
