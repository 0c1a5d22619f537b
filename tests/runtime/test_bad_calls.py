"""Calls that cannot be served: one clear error, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import MODELS
from tinyrnn import LoadError, ShapeError, StreamError

SEQUENCE = MODELS / "lstm_l1_uni_sf_zero_dynT_b1_legacy.onnx"
STEP = MODELS / "cell_lstm_linear_dynB_legacy.onnx"
TOKENS = MODELS / "opset11_lm_lstm_scores_dynT_legacy.onnx"


def raises(kind: type[Exception], call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **named)
    assert type(caught.value) is kind
    return str(caught.value)


def step_model(path: Path, inputs: dict[str, list[Any]], outputs: dict[str, tuple[str, str]]) -> Path:
    """A file in which each output is the sum of two inputs."""
    nodes = [helper.make_node("Add", list(pair), [name], f"make {name}") for name, pair in outputs.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


# ---------------------------------------------------------------- bind


@pytest.mark.parametrize(
    ("bind", "parts"),
    [
        ({"z": 1}, ["bind names 'z'", "inputs and open sizes are 'x', 'h', 'c', 'B'"]),
        ({"X": 1}, ["'X'", "did you mean 'x'?"]),
        ({"h": np.zeros((1, 7), np.float32)}, ["'h'", "[1, 7]", "float32[B, 6]"]),
        ({"h": np.zeros(7, np.float32)}, ["'h'", "[1, 7]"]),
        ({"h": "text"}, ["'h'", "which is no float32"]),
        ({"h": None}, ["'h'", "which is no float32"]),
        ({"h": [[1], [2, 3]]}, ["'h'", "which is no float32"]),
        ({"h": np.ones((1, 6), np.complex64)}, ["'h'", "which is no float32"]),
        ({"h": np.full((1, 6), 1e300)}, ["'h'", "float32 cannot hold"]),
        ({"h": np.zeros((0, 6), np.float32)}, ["'B'", "whole number from 1"]),
        ({"h": np.zeros((1, 6)), "c": np.zeros((2, 6))}, ["'c'", "[2, 6]", "[1, 6]"]),
        ({"B": 0}, ["'B'", "whole number from 1"]),
        ({"B": -3}, ["'B'"]),
        ({"B": 1.5}, ["'B'"]),
        ({"B": "two"}, ["'B'"]),
        ({"B": None}, ["'B'"]),
        ({"B": float("nan")}, ["'B'"]),
        ({"B": float("inf")}, ["'B'"]),
        ({"B": True}, ["'B'"]),
        ({"B": 1 << 40}, ["'B'"]),
        ({"B": [1, 2]}, ["'B'"]),
        ({"B": 2, "h": np.zeros((3, 6))}, ["'h'", "[3, 6]", "[2, 6]"]),
        ({"h": np.zeros((3, 6)), "B": 2}, ["'B'", "two values, 3 and 2"]),
        ([("h", 1)], ["bind must be a dict"]),
    ],
    ids=lambda value: "",
)
def test_bind(bind: Any, parts: list[str]) -> None:
    text = raises(LoadError, tinyrnn.load, STEP, bind=bind)
    for part in [STEP.stem, *parts]:
        assert part in text, text


def test_bind_gives_whole_numbers_to_inputs_of_whole_numbers() -> None:
    text = raises(LoadError, tinyrnn.load, TOKENS, bind={tinyrnn.load(TOKENS).inputs[0].name: np.full((1, 4), 0.5)})
    assert "int64 cannot hold" in text


def test_one_size_cannot_have_two_values(tmp_path: Path) -> None:
    path = step_model(tmp_path / "m.onnx", {"x": ["n", "n"], "z": ["n", "n"]}, {"y": ("x", "z")})
    assert "'n' two values, 2 and 3" in raises(LoadError, tinyrnn.load, path, bind={"z": np.zeros((2, 3), np.float32)})


# ---------------------------------------------------------------- outputs and states


def test_outputs() -> None:
    text = raises(LoadError, tinyrnn.load, STEP, outputs=["hnn"])
    assert "outputs names 'hnn'" in text and "did you mean 'hn'?" in text
    assert "'y', 'hn', 'cn'" in raises(LoadError, tinyrnn.load, STEP, outputs=["quite different"])
    assert "outputs= is empty" in raises(LoadError, tinyrnn.load, STEP, outputs=[])
    assert [p.name for p in tinyrnn.load(STEP, outputs="y", states={}).outputs] == ["y"]


def test_states() -> None:
    text = raises(LoadError, tinyrnn.load, STEP, states={"h0": "hn"})
    assert "states names the input 'h0'" in text and "did you mean 'h'?" in text
    assert "states names the output 'zz'" in raises(LoadError, tinyrnn.load, STEP, states={"h": "zz"})
    text = raises(LoadError, tinyrnn.load, STEP, states={"x": "hn"})
    assert "'x'" in text and "'hn'" in text and "keeps its dtype and shape" in text
    assert "one output to two inputs" in raises(LoadError, tinyrnn.load, STEP, states={"h": "hn", "c": "hn"})


def test_an_ambiguous_pairing_lists_the_candidates(tmp_path: Path) -> None:
    path = step_model(
        tmp_path / "m.onnx", {"x": [1, 3], "p": [1, 2], "q": [1, 2]}, {"y": ("x", "x"), "u": ("p", "q"), "v": ("q", "p")}
    )
    text = raises(LoadError, tinyrnn.load, path)
    assert "'p' float32[1, 2] could continue as 'u' or 'v'" in text and "'q' float32[1, 2] could continue as 'u' or 'v'" in text
    assert "states={'p': 'u', 'q': 'v'}" in text
    model = tinyrnn.load(path, states={"p": "u", "q": "v"})
    assert [p.name for p in model.states] == ["p", "q"]
    assert not tinyrnn.load(path, states={}).states


# ---------------------------------------------------------------- steps and runs


def started(path: Path) -> tuple[tinyrnn.Stream, list[Any]]:
    """A stream with a state other than the initial one, and a good frame for each input."""
    stream = tinyrnn.load(path).stream()
    frames = [
        np.linspace(-1, 1, max(p.size, 1)).reshape(p.shape).astype(p.dtype) if p.dtype.kind == "f" else np.ones(p.shape, p.dtype)
        for p in stream.model.inputs
    ]
    stream.step(*frames)
    assert np.any(stream.state)
    return stream, frames


def unchanged(stream: tinyrnn.Stream, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """The text of the ShapeError that a call gives; the state is as before, bit for bit."""
    before = stream.state.copy()
    text = raises(ShapeError, call, *arguments, **named)
    assert stream.state.tobytes() == before.tobytes()
    assert stream.model.name in text
    return text


@pytest.mark.parametrize("path", [SEQUENCE, STEP], ids=lambda p: p.stem)
def test_frames_of_the_wrong_shape(path: Path) -> None:
    stream, (x,) = started(path)
    size = len(x)
    for wrong in (x[:-1], np.concatenate([x, x]), x[:1], np.zeros(0, np.float32), np.stack([x, x]), x.reshape(-1, 1)):
        text = unchanged(stream, stream.step, wrong)
        assert f"shape {list(np.shape(wrong))}; one frame is [{size}]" in text
    unchanged(stream, stream.step, x[0])
    assert "run takes many frames" in unchanged(stream, stream.step, np.stack([x, x]))
    for wrong in (x, x[0], np.zeros((3, size + 1), np.float32), np.zeros((2, 3, size), np.float32)):
        assert f"run takes [T, {size}]" in unchanged(stream, stream.run, wrong)


@pytest.mark.parametrize("path", [SEQUENCE, STEP], ids=lambda p: p.stem)
def test_frames_of_the_wrong_dtype(path: Path) -> None:
    stream, (x,) = started(path)
    for wrong in (x.astype(np.complex64), x.astype(str), x.astype(object), x.astype("M8[s]")):
        assert "it takes float32" in unchanged(stream, stream.step, wrong)
        assert "it takes float32" in unchanged(stream, stream.run, wrong[None])
    unchanged(stream, stream.step, None)
    unchanged(stream, stream.step, [[1.0], [2.0, 3.0]])
    stream.step(x.astype(np.float64))
    stream.step(list(x))


@pytest.mark.parametrize("path", [SEQUENCE, STEP], ids=lambda p: p.stem)
def test_the_wrong_number_of_inputs(path: Path) -> None:
    stream, (x,) = started(path)
    name = stream.model.inputs[0].name
    for call, given in ((stream.step, x), (stream.run, x[None])):
        assert f"{name!r} missing" in unchanged(stream, call)
        assert "2 inputs given; it takes 1" in unchanged(stream, call, given, given)
        assert "no input 'other'" in unchanged(stream, call, given, other=given)
        assert f"{name!r} is given twice" in unchanged(stream, call, given, **{name: given})
        assert f"{name!r} missing" in unchanged(stream, call, {})


@pytest.mark.parametrize("path", [SEQUENCE, STEP], ids=lambda p: p.stem)
def test_out_that_does_not_fit(path: Path) -> None:
    stream, (x,) = started(path)
    size = stream.model.outputs[0].size
    frozen = np.zeros(size, np.float32)
    frozen.flags.writeable = False
    for out in (np.zeros(size + 1, np.float32), np.zeros(size), np.zeros((size, 2), np.float32)[:, 0], [0.0] * size, frozen):
        unchanged(stream, stream.step, x, out=out)
    unchanged(stream, stream.run, x[None], out=np.zeros((2, size), np.float32))


def test_tokens_out_of_range() -> None:
    stream, (token,) = started(TOKENS)
    for wrong in (-1000, 1000, 1 << 62):
        assert "out of range" in unchanged(stream, stream.step, np.array(wrong, token.dtype))
        assert "out of range" in unchanged(stream, stream.run, np.array([1, 2, wrong], token.dtype))
        assert "out of range" in unchanged(stream, stream.run, np.array([1, 2, wrong], token.dtype), progress=lambda *_: None)
    assert "takes int64" in unchanged(stream, stream.step, np.array(0.5))
    assert "int64 cannot hold" in unchanged(stream, stream.step, np.array((1 << 63) + 5, np.uint64))


def test_states_that_do_not_fit() -> None:
    stream, _ = started(SEQUENCE)
    before = stream.state.copy()
    for wrong in (np.zeros(before.size + 1), np.zeros(0), before[None]):
        assert f"[{before.size}]" in raises(ShapeError, setattr, stream, "state", wrong)
        assert np.array_equal(stream.state, before)


def test_whole_sequences_of_the_wrong_shape() -> None:
    model = tinyrnn.load(SEQUENCE)
    for wrong in (np.zeros((4, 5)), np.zeros((4, 1, 6)), np.zeros((4, 1, 5, 1)), np.zeros((0, 1, 5))):
        text = raises(ShapeError, model.run, wrong.astype(np.float32))
        assert model.name in text
    step = tinyrnn.load(STEP)
    good = {"x": np.zeros((2, 5), np.float32), "h": np.zeros((2, 6), np.float32), "c": np.zeros((2, 6), np.float32)}
    assert "'c'" in raises(ShapeError, step.run, good | {"c": np.zeros((3, 6), np.float32)})
    assert "'h', 'c' missing" in raises(ShapeError, step.run, good["x"])
    assert len(step.run(good)) == 3


def test_models_that_cannot_stream_say_why() -> None:
    model = tinyrnn.load(MODELS / "classify_lstm_bi_last_dynTB_legacy.onnx")
    text = raises(StreamError, model.stream)
    assert model.name in text and "node" in text and "bidirectional" in text and "model.run" in text


def test_numbers_of_a_file_survive_a_failed_load(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "k"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(2, np.float32), "k")],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    raises(LoadError, tinyrnn.load, path, bind={"k": 2})
    assert np.array_equal(tinyrnn.load(path).run(np.zeros((1, 2), np.float32)), np.ones((1, 2), np.float32))
