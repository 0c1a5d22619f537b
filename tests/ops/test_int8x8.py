"""int8 weights and activations: the bits of exact integer arithmetic, for every attribute, whole, streamed and pooled."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests.driving import agree_in_chunks, loaded, whole
from tests.ops import integer_oracle as oracle
from tests.ops.integer_oracle import ALPHA, BETA
from tests.ops.recurrent_cases import FUNCTIONS, RecurrentCase, build, recurrent_cases
from tests.ops.test_recurrent import streams
from tests.pools import agree_in_pool


def _affine(case: RecurrentCase) -> RecurrentCase:
    count = FUNCTIONS[case.op] * case.directions
    given = {"activations": ["Affine"] * count, "activation_alpha": [ALPHA] * count, "activation_beta": [BETA] * count}
    return replace(case, attributes={**case.attributes, **given})


CASES = [_affine(case) for case in recurrent_cases() if "activations" not in case.name]
CHOSEN = CASES if os.environ.get("TINYRNN_ALL") else CASES[::4]


def _same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_case(case: RecurrentCase, tmp_path: Path) -> None:
    proto, inputs = build(case)
    model = loaded(proto, tmp_path, weights="int8x8")
    found = whole(model, inputs)
    for name, array in oracle.expected(proto, inputs).items():
        _same(found[name], array)
    if streams(case):
        agree_in_chunks(model, inputs, found, case.N)


def _npz(folder: Path, seed: int = 0, **shapes: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(seed)
    path = folder / "model.npz"
    np.savez(path, **{name: (rng.standard_normal(shape) / 3).astype(np.float32) for name, shape in shapes.items()})
    return path


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (13, 37), (64, 130), (259, 66)])
def test_linear(inputs: int, outputs: int, tmp_path: Path) -> None:
    path = _npz(tmp_path, **{"out.weight": (outputs, inputs), "out.bias": (outputs,)})
    model = tinyrnn.load(path, layers=[("Linear", "out")], weights="int8x8")
    x = np.random.default_rng(1).standard_normal((9, inputs)).astype(np.float32)
    x[2], x[3] = 0, x[3] * np.float32(1e-38)
    with np.load(path) as arrays:
        q, scale = oracle.weights(arrays["out.weight"])
        bias = arrays["out.bias"]
    stream = model.stream()
    for row, found in zip(x, stream.run(x), strict=True):
        whole_numbers, of_x = oracle.symmetric(row)
        _same(found, oracle.fma((q @ whole_numbers).astype(np.float32), of_x * scale, bias))
        _same(stream.step(row), found)
    agree_in_pool(model)


RNN = {"rnn.weight_ih_l0": (80, 7), "rnn.weight_hh_l0": (80, 20), "rnn.bias_ih_l0": (80,), "rnn.bias_hh_l0": (80,)}
OUT = {"out.weight": (6, 20), "out.bias": (6,)}
LAYERS = [("LSTM", "rnn"), ("Linear", "out")]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gives_nan(value: float, tmp_path: Path) -> None:
    model = tinyrnn.load(_npz(tmp_path, **RNN, **OUT), layers=LAYERS, weights="int8x8")
    stream = model.stream()
    x = np.ones(7, np.float32)
    stream.step(x)
    x[3] = value
    assert np.isnan(stream.step(x)).all()
    stream.reset()
    assert np.isfinite(stream.step(np.full(7, 3e38, np.float32))).all()


def test_layer_by_layer(tmp_path: Path) -> None:
    """A layer has the type that it is given, and others theirs."""
    path = _npz(tmp_path, **RNN, **OUT)
    x = np.random.default_rng(1).standard_normal((30, 7)).astype(np.float32)
    made = {}
    for weights in (None, "int8x8", "int8", {"rnn": "int8x8"}, {"out": "int8x8"}):
        made[str(weights)] = tinyrnn.load(path, layers=LAYERS, weights=weights).stream().run(x)
    assert len({array.tobytes() for array in made.values()}) == len(made)
    for array in made.values():
        assert np.abs(array - made["None"]).max() < 0.05


def test_an_embedding_is_quantised_row_by_row(tmp_path: Path) -> None:
    """Products with a table that are known at load have the bits of those that are not."""
    path = _npz(tmp_path, **{"embed.weight": (9, 7)}, **RNN)
    model = tinyrnn.load(path, layers=[("Embedding", "embed"), ("LSTM", "rnn")], weights={"rnn": "int8x8"})
    tokens = np.random.default_rng(2).integers(0, 9, 20)
    with np.load(path) as arrays:
        rows = arrays["embed.weight"][tokens]
    alone = tinyrnn.load(path, layers=[("LSTM", "rnn")], names={"embed.*": None}, weights="int8x8")
    _same(model.stream().run(tokens), alone.stream().run(rows))


@pytest.mark.parametrize(("length", "fits"), [(65000, True), (67000, False)])
def test_longest_sum(length: int, fits: bool, tmp_path: Path) -> None:
    """Sums that may not be an int32 are refused."""
    path = tmp_path / "model.npz"
    np.savez(path, **{"out.weight": np.full((1, length), 0.7, np.float32), "out.bias": np.zeros(1, np.float32)})
    how: dict[str, Any] = {"layers": [("Linear", "out")], "weights": "int8x8"}
    if not fits:
        with pytest.raises(tinyrnn.UnsupportedError, match="an int32"):
            tinyrnn.load(path, **how)
        return
    (y,) = tinyrnn.load(path, **how).stream().step(np.ones(length, np.float32))
    scale = np.float32(np.float32(0.7).astype(np.float64) / 127)
    assert y == np.float32(127 * 127 * length) * (np.float32(1) / np.float32(127) * scale)
