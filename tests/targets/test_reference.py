"""The float64 reference of whole graphs against onnxruntime, on the models in tests/models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest

from tests import MODELS
from tinyrnn.check import difference, within
from tinyrnn.errors import ShapeError, UnsupportedError
from tinyrnn.graph.ir import Graph
from tinyrnn.loading.stages import read
from tinyrnn.passes import bound
from tinyrnn.targets.reference import Reference

FILES = sorted(path.stem for path in MODELS.glob("*.onnx"))
LARGEST_TOKEN = 10
"""the language models have 11 tokens"""

Arrays = dict[str, np.ndarray[Any, Any]]


def graph_of(name: str) -> Graph:
    return bound(read(MODELS / f"{name}.onnx")[0], None, None)


def session_of(name: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(MODELS / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])


def random_inputs(graph: Graph, seed: int, sizes: dict[str, int], frames: int | None = None) -> Arrays:
    """Inputs in the file's shapes, in step models `frames` of them."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in graph.inputs:
        spec = graph.specs[name]
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        shape = shape if frames is None else [frames, *shape]
        found[name] = (
            rng.standard_normal(shape) if spec.dtype.kind == "f" else rng.integers(0, LARGEST_TOKEN, shape, endpoint=True)
        ).astype(spec.dtype)
    return found


@pytest.mark.parametrize("name", FILES)
def test_against_onnxruntime(name: str) -> None:
    graph = graph_of(name)
    inputs = random_inputs(graph, 1, {"T": 6, "B": 3})
    found = Reference(graph).run(inputs)
    expected = dict(zip(graph.outputs, session_of(name).run(graph.outputs, inputs), strict=True))
    for output, array in expected.items():
        assert found[output].dtype == (np.float64 if array.dtype.kind == "f" else array.dtype)
        assert within("close", array, found[output]), (output, difference(array, found[output]))


@pytest.mark.parametrize("name", ["lstm_l2_uni_sf_states_dynT_dynB_legacy", "gru_l3_bi_bf_final_dynT_dynB_legacy"])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 5), (19, 2)])
def test_open_sizes_take_those_of_the_inputs(name: str, T: int, B: int) -> None:
    graph = graph_of(name)
    inputs = random_inputs(graph, T, {"T": T, "B": B})
    found = Reference(graph).run(inputs)
    for output, array in zip(graph.outputs, session_of(name).run(graph.outputs, inputs), strict=True):
        assert within("close", array, found[output]), output


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("cell_lstm_legacy", {"h": "hn", "c": "cn"}),
        ("cell_gru_stack2_linear_dynamo", {"h": "hn", "h2": "hn2"}),
        ("lm_lstm_l2_states_step_legacy", {"h0": "hn", "c0": "cn"}),
    ],
)
def test_steps_feed_the_states_back(name: str, pairs: dict[str, str]) -> None:
    graph = graph_of(name)
    frames = random_inputs(graph, 2, {"B": 1}, 12)
    initial = {start: frames.pop(start)[0] for start in pairs}
    found, final = Reference(graph, pairs).steps(frames, initial)
    session, state = session_of(name), dict(initial)
    for t in range(12):
        expected = dict(zip(graph.outputs, session.run(graph.outputs, {n: a[t] for n, a in frames.items()} | state), strict=True))
        state = {start: expected[end] for start, end in pairs.items()}
        for output, array in expected.items():
            assert within("close", array, found[output][t]), (t, output)
    for start, array in state.items():
        assert within("close", array, final[start])
    zero, _ = Reference(graph, pairs).steps(frames)
    assert not any(np.allclose(zero[output][0], found[output][0], atol=1e-4) for output in graph.outputs)


def test_trace_gives_the_states_that_the_file_keeps_to_itself() -> None:
    graph = graph_of("lstm_l1_uni_bf_final_fixT_dynB_legacy")
    inputs = random_inputs(graph, 3, {"B": 4})
    outputs, parts = Reference(graph).trace(inputs)
    (h, c) = (array for _, array in sorted(parts.items(), key=lambda item: item[0].endswith(".c")))
    assert np.array_equal(h, outputs["hn"]) and np.array_equal(c, outputs["cn"])


def test_nothing_is_rounded_to_float32() -> None:
    graph = graph_of("gru_l3_uni_sf_zero_dynT_b1_legacy")
    x = np.random.default_rng(4).standard_normal((30, 1, 5))
    reference = Reference(graph)
    (y,) = reference.run({"x": x}).values()
    (moved,) = reference.run({"x": x + 1e-12}).values()
    assert 0 < np.abs(moved - y).max() < 1e-11


def test_the_graph_is_left_as_it_was() -> None:
    graph = graph_of("lm_lstm_scores_dynT_legacy")
    before = str(graph)
    reference = Reference(graph)
    first, second = (reference.run({"tokens": np.arange(T)[None] % 11}) for T in (4, 9))
    assert str(graph) == before and np.array_equal(first["y"], second["y"][:, :4])


def test_inputs_that_do_not_fit() -> None:
    reference = Reference(graph_of("lstm_l2_uni_sf_states_dynT_dynB_legacy"))
    x, state = np.zeros((3, 2, 5)), np.zeros((2, 2, 6))
    for inputs, says in (
        ({"x": x}, "inputs are x, h0, c0"),
        ({"x": x[0], "h0": state, "c0": state}, "'x' has shape"),
        ({"x": x, "h0": state[:, :1], "c0": state}, "'h0' has shape.*B = 2"),
    ):
        with pytest.raises(ShapeError, match=says):
            reference.run(inputs)
    with pytest.raises(ShapeError, match="frames"):
        reference.steps({"x": x[:0]})


def test_an_operator_that_refuses_is_named() -> None:
    graph = graph_of("lm_lstm_scores_dynT_legacy")
    with pytest.raises(UnsupportedError, match=r"Gather.*float64 reference"):
        Reference(graph).run({"tokens": np.full((1, 3), 99)})
