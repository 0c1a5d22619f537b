"""Loops over any cell, written out step by step: they become one loop, which streams and runs at other lengths."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrnn
from tests import MODELS
from tests.driving import agree, in_onnxruntime, loaded, whole
from tests.ops.rolled import folded, outputs_of
from tests.ops.written_loops import Cell, Page, random_cell, written_out
from tinyrnn.check import within
from tinyrnn.frontends.onnx import read_onnx
from tinyrnn.graph.ir import Graph
from tinyrnn.ops.recurrent.unrolled import reroll_steps
from tinyrnn.passes import _rewrite as rewritten
from tinyrnn.passes import dead_code

X, H = 5, 4
"""features and hidden size"""


def layer_norm_lstm(page: Page, x: str, held: list[str], features: int = X, key: str = "") -> tuple[str, list[str]]:
    h, c = held
    gates = []
    for gate in "ifgo":
        parts = [page.linear(x, f"{key}x{gate}", features), page.linear(h, f"{key}h{gate}", H)]
        gates.append(page.add("Add", [page.apply("LayerNormalization", [p], f"n{gate}{k}") for k, p in enumerate(parts)]))
    i, f, o = (page.add("Sigmoid", [gates[k]]) for k in (0, 1, 3))
    write = page.add("Mul", [i, page.add("Tanh", [gates[2]])])
    c = page.add("Add", [page.add("Mul", [f, c]), write])
    h = page.add("Mul", [o, page.add("Tanh", [page.apply("LayerNormalization", [c], "nc")])])
    return h, [h, c]


def stabilised_lstm(page: Page, x: str, held: list[str], features: int = X, key: str = "") -> tuple[str, list[str]]:
    """Exponential gates, a normaliser and a running maximum, as in xLSTM's sLSTM."""
    h, c, n, m = held
    z, i, f, o = (page.add("Add", [page.linear(x, f"{key}x{g}", features), page.linear(h, f"{key}h{g}", H)]) for g in "zifo")
    kept = page.add("Add", [f, m])
    m = page.add("Max", [kept, i])
    i, f = page.add("Exp", [page.add("Sub", [i, m])]), page.add("Exp", [page.add("Sub", [kept, m])])
    c = page.add("Add", [page.add("Mul", [f, c]), page.add("Mul", [i, page.add("Tanh", [z])])])
    n = page.add("Add", [page.add("Mul", [f, n]), i])
    h = page.add("Mul", [page.add("Sigmoid", [o]), page.add("Div", [c, n])])
    return h, [h, c, n, m]


def min_gru(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
    z, new = page.add("Sigmoid", [page.linear(x, "z", X)]), page.linear(x, "new", X)
    one = page.constant("one", np.ones(1))
    h = page.add("Add", [page.add("Mul", [page.add("Sub", [one, z]), held[0]]), page.add("Mul", [z, new])])
    return h, [h]


def differences(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
    """What is read of the step before is its input."""
    made = page.linear(x, "in", X)
    y = page.add("Tanh", [page.add("Sub", [page.add("Add", [made, held[1]]), page.linear(held[0], "R", H)])])
    return y, [y, made]


CELLS: dict[str, tuple[Cell, int]] = {
    "layer_norm_lstm": (layer_norm_lstm, 2),
    "stabilised_lstm": (stabilised_lstm, 4),
    "min_gru": (min_gru, 1),
    "differences": (differences, 2),
}

HOWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "slices": {"picks": "squeeze", "collect": "concat"},
    "split": {"picks": "split", "time_first": True},
    "chain": {"collect": "chain", "batch": 2},
    "write": {"collect": "write", "starts": "ones"},
    "last": {"collect": "last"},
    "backwards": {"backwards": True, "starts": "given"},
    "states": {"starts": "given", "batch": 2},
}


def rolled(model: onnx.ModelProto) -> tuple[Graph, Graph]:
    """The graph as it is and as it becomes."""
    flat = folded(read_onnx(Path("model.onnx"), model))
    graph = flat.copy()
    rewritten(graph)
    reroll_steps(graph)
    dead_code.remove_dead(graph)
    return flat, graph


def equal(flat: Graph, graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = {name: rng.standard_normal(flat.specs[name].sizes) for name in flat.inputs}
    expected, made = outputs_of(flat, inputs), outputs_of(graph, inputs)
    for name, array in expected.items():
        assert within("close", made[name].astype(np.float32), array.astype(np.float32)), name


def loops(graph: Graph) -> int:
    return sum(node.op == "Iterate" for node in graph.nodes)


@pytest.mark.parametrize("T", [3, 7, 40])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", CELLS)
def test_a_loop_written_out_becomes_one(name: str, how: str, T: int) -> None:
    cell, states = CELLS[name]
    flat, graph = rolled(written_out([cell], T, X, H, states, **HOWS[how]))
    assert loops(graph) == 1 and len(graph.nodes) < 10, [node.op for node in graph.nodes]
    equal(flat, graph, T)


@pytest.mark.parametrize("steps_first", [False, True])
@pytest.mark.parametrize("name", ["layer_norm_lstm", "stabilised_lstm"])
def test_layers_one_on_top_of_the_other(name: str, steps_first: bool) -> None:
    cell, states = CELLS[name]
    cells = [cell, partial(cell, features=H, key="second_")]
    flat, graph = rolled(written_out(cells, 7, X, H, states, steps_first=steps_first))
    assert 1 <= loops(graph) <= 2 and len(graph.nodes) < 10
    equal(flat, graph, 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    T=st.integers(3, 9),
    layers=st.integers(1, 2),
    states=st.integers(1, 3),
    length=st.integers(0, 9),
    how=st.sampled_from(list(HOWS)),
    steps_first=st.booleans(),
)
def test_random_cells_compute_the_same(
    seed: int, T: int, layers: int, states: int, length: int, how: str, steps_first: bool
) -> None:
    cells = [random_cell(seed + k, H, states, length) for k in range(layers)]
    options = {**HOWS[how], "steps_first": steps_first, "seed": seed}
    flat, graph = rolled(written_out(cells, T, H, H, states, **options))
    equal(flat, graph, seed)


# What is no loop stays as it is, and right.


def own_weights(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
    page.step += 1
    h = page.add("Tanh", [page.add("Add", [page.linear(x, f"W{page.step}", X), page.linear(held[0], "h", H)])])
    return h, [h]


def reads_its_number(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
    page.step += 1
    number = page.constant(f"number{page.step}", np.full(1, page.step / 10))
    h = page.add("Softsign", [page.add("Add", [page.add("Mul", [page.linear(x, "W", X), number]), held[0]])])
    return h, [h]


def another_in_the_middle(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
    page.step += 1
    h = page.add("Softsign" if page.step != 4 else "Sin", [page.add("Add", [page.linear(x, "W", X), held[0]])])
    return h, [h]


def another_at_first(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
    page.step += 1
    h = page.add("Softsign", [page.add("Add", [page.linear(x, "W" if page.step > 1 else "first", X), held[0]])])
    return h, [h]


@pytest.mark.parametrize("cell", [own_weights, reads_its_number, another_in_the_middle, another_at_first])
@pytest.mark.parametrize("collect", ["stack", "last"])
def test_steps_that_differ_are_no_loop(cell: Cell, collect: str) -> None:
    flat, graph = rolled(written_out([cell], 7, X, H, 1, collect=collect))
    assert loops(graph) == 0
    equal(flat, graph, 0)


def test_two_steps_are_no_loop() -> None:
    flat, graph = rolled(written_out([min_gru], 2, X, H, 1))
    assert loops(graph) == 0
    equal(flat, graph, 0)


def test_a_start_that_a_maximum_hides_is_not_taken_for_zeros() -> None:
    """m starts from -3, which the maximum of small numbers and m + 1 shows only for large negative inputs."""

    def cell(page: Page, x: str, held: list[str]) -> tuple[str, list[str]]:
        decayed = page.add("Add", [held[0], page.constant("decay", np.full(1, -1.0))])
        m = page.add("Max", [decayed, page.linear(x, "W", X)])
        return m, [m]

    model = written_out([cell], 6, X, H, 1)
    for tensor in model.graph.initializer:
        if tensor.name == "start0_0":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((1, H), -3, np.float32), tensor.name))
    flat, graph = rolled(model)
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 6, X)) * 20 - 10}
    np.testing.assert_allclose(outputs_of(graph, inputs)["y"], outputs_of(flat, inputs)["y"], rtol=1e-12)


# Compiled: against onnxruntime, whole, streamed, at another length.


@pytest.mark.parametrize(
    ("name", "how"),
    [("layer_norm_lstm", "plain"), ("stabilised_lstm", "states"), ("differences", "chain"), ("min_gru", "backwards")],
)
def test_equals_onnxruntime_and_streams(name: str, how: str, tmp_path: Path) -> None:
    cell, states = CELLS[name]
    proto, longer = (written_out([cell], T, X, H, states, **HOWS[how]) for T in (7, 12))
    model, rng = loaded(proto, tmp_path), np.random.default_rng(3)
    assert model.kind == "sequence"
    for one, T in ((proto, 7), (longer, 12)):
        batch = HOWS[how].get("batch", 1)
        inputs = {"x": rng.standard_normal((batch, T, X)).astype(np.float32)}
        inputs |= {
            each.name: rng.uniform(0.2, 0.8, (batch, H)).astype(np.float32) for each in proto.graph.input if each.name != "x"
        }
        agree("close", whole(model, inputs), in_onnxruntime(one, inputs), f"T = {T}")
    if how == "backwards":
        with pytest.raises(tinyrnn.StreamError, match="from its end"):
            model.stream()
        return
    frames = rng.standard_normal((20, *model.inputs[0].shape)).astype(np.float32)
    stream = model.stream()
    expected = stream.run(frames)
    for sizes in ((1,) * 20, (7, 13), (3, 3, 14)):
        stream.reset()
        ends = np.cumsum(sizes)
        pieces = [np.asarray(stream.run(frames[end - n : end])) for n, end in zip(sizes, ends, strict=True)]
        np.testing.assert_array_equal(np.concatenate(pieces), expected)


@pytest.mark.parametrize("walks", [False, True])
def test_bands_of_frames_stay_within_them(walks: bool, tmp_path: Path) -> None:
    """A loop over an axis of frames is none over time, and what walks time in each of its steps has a state for each."""
    page, bands = Page(0, H, 1), 4
    h, rows = page.constant("start", np.zeros((1, 1, H))), []
    for band in range(bands):
        x = page.add("Gather", ["x", page.constant(f"at{band}", np.array(band))], axis=2)
        x = page.add("CumSum", [x, page.constant("one", np.array(1))]) if walks else x
        h = page.add("Softsign", [page.add("Add", [page.linear(x, "W", X), page.linear(h, "R", H)])])
        rows.append(page.add("Unsqueeze", [h, page.constant("two", np.array([2]))]))
    page.add("Concat", rows, axis=2, output="y")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, "time", bands, X])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(page.nodes, "bands", [x], [y], list(page.weights.values()))
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    model = loaded(proto, tmp_path)
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 30, bands, X)).astype(np.float32)}
    expected = in_onnxruntime(proto, inputs)
    agree("close", whole(model, inputs), expected)
    stream = model.stream()
    made = np.stack([np.asarray(stream.step(frame)) for frame in inputs["x"][0]])
    agree("close", {"y": made[None]}, expected)


STORED = MODELS / "architectures"
CUSTOM = sorted(p for kind in ("lnlstm", "slstm", "mingru", "cfc", "rwkv") for p in STORED.glob(f"unrolled_{kind}_*.onnx"))


@pytest.mark.parametrize("path", CUSTOM, ids=lambda path: path.stem)
def test_cells_as_pytorch_exports_them(path: Path) -> None:
    flat, graph = rolled(onnx.load(path))
    assert loops(graph) and len(graph.nodes) < len(flat.nodes) / 10
    equal(flat, graph, 0)
