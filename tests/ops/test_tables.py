"""Recurrent layers behind an embedding: the table is multiplied at load, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tinyrnn.check import check, within
from tinyrnn.ops.linear.chain import fma
from tinyrnn.ops.recurrent.operators import LARGEST_TABLE
from tinyrnn.targets.reference import Reference

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def _model(
    path: Path, op: str, entries: int = 7, size: int = 5, hidden: int = 9, direction: str = "forward", shown: bool = False
) -> Path:
    """x [T, N] int64 → Gather → op → y; with `shown`, the looked-up rows are an output too."""
    rng, D, G = np.random.default_rng(entries + hidden), 1 + (direction == "bidirectional"), GATES[op]
    arrays = {
        "table": rng.standard_normal((entries, size)),
        "W": rng.standard_normal((D, G * hidden, size)),
        "R": 0.4 * rng.standard_normal((D, G * hidden, hidden)),
        "B": rng.standard_normal((D, 2 * G * hidden)),
    }
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node(op, ["e", "W", "R", "B"], ["y"], hidden_size=hidden, direction=direction),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", D, "N", hidden])]
    if shown:
        outputs.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, ["T", "N", size]))
    graph = helper.make_graph(
        nodes,
        "embedded",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["T", "N"])],
        outputs,
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _ops(model: tinyrnn.Model) -> list[str]:
    return [node.op for node in model._source.program.graph.nodes]


@pytest.mark.parametrize("op", GATES)
def test_the_lookup_gives_the_products(op: str, tmp_path: Path) -> None:
    path = _model(tmp_path / "m.onnx", op)
    model = tinyrnn.load(path)
    assert "Gather" not in _ops(model)
    assert check(path, frames=23).passed
    xs = np.random.default_rng(1).integers(-7, 7, (12, 1))  # from the end, where negative, as Gather has it
    wanted = Reference(model._source.graph).run({"x": xs})["y"].reshape(12, -1)
    stream = model.stream()
    found = np.stack([stream.step(x) for x in xs]).reshape(12, -1)
    assert within("close", found, wanted.astype(np.float32))
    np.testing.assert_array_equal(model.stream().run(xs).reshape(12, -1), found)


def test_both_directions_and_batches(tmp_path: Path) -> None:
    assert check(_model(tmp_path / "m.onnx", "GRU", direction="bidirectional"), frames=9).passed


def test_rows_that_are_needed_elsewhere_stay(tmp_path: Path) -> None:
    path = _model(tmp_path / "m.onnx", "LSTM", shown=True)
    assert "Gather" in _ops(tinyrnn.load(path))
    assert check(path, frames=11).passed


def test_a_table_that_would_be_large_is_left_alone(tmp_path: Path) -> None:
    hidden = 16
    entries = LARGEST_TABLE // (4 * 4 * hidden)
    assert "Gather" not in _ops(tinyrnn.load(_model(tmp_path / "a.onnx", "LSTM", entries, 3, hidden)))
    path = _model(tmp_path / "b.onnx", "LSTM", entries + 1, 3, hidden)
    assert "Gather" in _ops(tinyrnn.load(path))
    assert check(path, frames=11).passed


def test_indices_are_checked_first(tmp_path: Path) -> None:
    stream = tinyrnn.load(_model(tmp_path / "m.onnx", "GRU")).stream()
    stream.step(np.array([3]))
    before = stream.state.copy()
    for wrong in (7, -8):
        with pytest.raises(tinyrnn.ShapeError, match="index that is out of range"):
            stream.run(np.array([[1], [wrong]]))
        np.testing.assert_array_equal(stream.state, before)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("weights", [None, "float16", "int8", "int8:3"])
def test_products_have_the_bits_of_the_kernels(op: str, weights: str | None, tmp_path: Path) -> None:
    """A row that is looked up and multiplied frame by frame, as where the table has no room, gives the same bits."""
    path = _model(tmp_path / "m.onnx", op, 9, 11, 24)
    model, shown = tinyrnn.load(path, weights=weights), _model(tmp_path / "n.onnx", op, 9, 11, 24, shown=True)
    apart = tinyrnn.load(shown, weights=weights)
    assert "Gather" in _ops(apart) and "Gather" not in _ops(model)
    xs = np.random.default_rng(1).integers(0, 9, (30, 1))
    np.testing.assert_array_equal(model.stream().run(xs), apart.stream().run(xs).y)


def test_fma_of_numpy_rounds_once() -> None:
    from fractions import Fraction

    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(400).astype(np.float32) for _ in "ab")
    c = (-a.astype(np.float64) * b * (1 + rng.choice([0, 2.0**-24, 2.0**-47, -(2.0**-30)], 400))).astype(np.float32)
    found = fma(a, b, c)
    for k in range(400):
        exact = Fraction(float(a[k])) * Fraction(float(b[k])) + Fraction(float(c[k]))
        near = [np.nextafter(found[k], np.float32(-np.inf)), np.nextafter(found[k], np.float32(np.inf))]
        assert all(abs(Fraction(float(found[k])) - exact) <= abs(Fraction(float(other)) - exact) for other in near)
