"""Operators that ONNX defines by others, at run time: Attention, RotaryEmbedding, CausalConvWithState."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from driving import Array, agree, in_onnxruntime, loaded, whole
from onnx import TensorProto, helper, numpy_helper

from tinyrnn import UnsupportedError

Shapes = Mapping[str, Sequence[int | str] | None]
FOUR: Shapes = {"Q": (2, 3, 5, 8), "K": (2, 3, 5, 8), "V": (2, 3, 5, 8)}
GROUPED: Shapes = {"Q": (2, 4, 5, 8), "K": (2, 2, 6, 8), "V": (2, 2, 6, 10), "mask": (5, 6)}
THREE: Shapes = {"Q": (2, 5, 24), "K": (2, 5, 24), "V": (2, 5, 24)}
OPEN: Shapes = {"Q": (1, "T", 24), "K": (1, "T", 24), "V": (1, "T", 24)}
PAST: Shapes = {"Q": (1, 3, 2, 8), "K": (1, 3, 2, 8), "V": (1, 3, 2, 8), "past_key": (1, 3, 4, 8), "past_value": (1, 3, 4, 8)}
ROTARY: Shapes = {"X": (1, 3, 5, 8), "cos": (1, 5, 4), "sin": (1, 5, 4)}
HEADS = {"q_num_heads": 3, "kv_num_heads": 3}
WHOLE: dict[str, tuple[str, Shapes, list[str], list[str], dict[str, Any]]] = {
    "four axes, causal": ("Attention", FOUR, ["Q", "K", "V"], ["Y"], {"is_causal": 1}),
    "heads in groups, masked": ("Attention", GROUPED, ["Q", "K", "V", "mask"], ["Y"], {}),
    "three axes, causal": ("Attention", THREE, ["Q", "K", "V"], ["Y"], {"is_causal": 1, **HEADS}),
    "open length": ("Attention", OPEN, ["Q", "K", "V"], ["Y"], {"is_causal": 1, **HEADS}),
    "a past but no mask": (
        "Attention",
        PAST,
        ["Q", "K", "V", "", "past_key", "past_value"],
        ["Y", "present_key", "present_value"],
        {"is_causal": 1},
    ),
    "rotary": ("RotaryEmbedding", ROTARY, ["X", "cos", "sin"], ["Y"], {}),
}


def _model(
    nodes: list[onnx.NodeProto], inputs: Shapes, outputs: Shapes, opset: int, **constants: Array | list[int]
) -> onnx.ModelProto:
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in v.items()] for v in (inputs, outputs)]
    graph = helper.make_graph(
        nodes, "written_out", *values, [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _numbers(shapes: Shapes, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    sizes = {n: [7 if isinstance(d, str) else d for d in s or ()] for n, s in shapes.items()}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in sizes.items()}


@pytest.mark.parametrize("name", WHOLE)
def test_whole(name: str, tmp_path: Path) -> None:
    op, shapes, inputs, outputs, attributes = WHOLE[name]
    proto = _model([helper.make_node(op, inputs, outputs, **attributes)], shapes, dict.fromkeys(outputs), 23)
    given = _numbers(shapes)
    agree("close", whole(loaded(proto, tmp_path, states={}), given), in_onnxruntime(proto, given))


def test_inputs_left_out_within_a_branch(tmp_path: Path) -> None:
    """A graph within a graph: what the node reads is made around it."""
    value = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    other = helper.make_tensor_value_info("other", TensorProto.FLOAT, None)
    made = ["Y", "present_key", "present_value"]  # onnxruntime asks for all
    node = helper.make_node("Attention", ["twice", "K", "V", "", "past_key", "past_value"], made, is_causal=1)
    branches = {
        "then_branch": helper.make_graph([node], "then", [], [value]),
        "else_branch": helper.make_graph([helper.make_node("Neg", ["V"], ["other"])], "else", [], [other]),
    }
    nodes = [helper.make_node("Add", ["Q", "Q"], ["twice"]), helper.make_node("If", ["yes"], ["Z"], **branches)]
    proto = _model(nodes, PAST, {"Z": None}, 23, yes=np.array(True))
    given = _numbers(PAST)
    agree("close", whole(loaded(proto, tmp_path, states={}), given), in_onnxruntime(proto, given))


def test_a_window_of_keys_and_values_is_state(tmp_path: Path) -> None:
    """The last keys and values, fed back by a stream as by onnxruntime's caller."""
    past, frame = (1, 3, 4, 8), (1, 3, 1, 8)
    cut = [helper.make_node("Slice", [a, "from", "to", "axis"], [b]) for a, b in (("keys", "new_key"), ("values", "new_value"))]
    attend = helper.make_node("Attention", ["Q", "K", "V", "", "key", "value"], ["Y", "keys", "values"])
    frames: Shapes = {"Q": frame, "K": frame, "V": frame}
    proto = _model(
        [attend, *cut],
        {**frames, "key": past, "value": past},
        {"Y": frame, "new_key": past, "new_value": past},
        23,
        **{"from": [1], "to": [1 << 40], "axis": [2]},
    )
    stream = loaded(proto, tmp_path, states={"key": "new_key", "value": "new_value"}).stream()
    held = {"key": np.zeros(past, np.float32), "value": np.zeros(past, np.float32)}
    for seed in range(6):
        given = _numbers(frames, seed)
        wanted = in_onnxruntime(proto, {**given, **held})
        held = {"key": wanted["new_key"], "value": wanted["new_value"]}
        agree("close", {"Y": np.reshape(stream.step(**given), frame)}, {"Y": wanted["Y"]})
        agree("close", {n: stream.states[n].reshape(past) for n in held}, held)


@pytest.mark.parametrize("activation", ["none", "silu"])
def test_causal_convolution_streams(activation: str, tmp_path: Path) -> None:
    """y_t = sum over k of w_k x_(t - K + 1 + k), each channel for itself; the frames before are the state."""
    channels, taps, length = 5, 3, 7
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((channels, 1, taps)).astype(np.float32), rng.standard_normal((length, channels)).astype(np.float32)
    node = helper.make_node("CausalConvWithState", ["X", "W", "", "past"], ["Y", "present"], activation=activation)
    state = (1, channels, taps - 1)
    proto = _model([node], {"X": (1, channels, 1), "past": state}, {"Y": (1, channels, 1), "present": state}, 27, W=w)
    stream = loaded(proto, tmp_path).stream()
    padded = np.vstack([np.zeros((taps - 1, channels)), x.astype(np.float64)])
    wanted = sum(padded[k : k + length] * w[:, 0, k] for k in range(taps))
    wanted = wanted / (1 + np.exp(-wanted)) if activation == "silu" else wanted
    made = np.stack([np.reshape(stream.step(frame[:, None]), -1) for frame in x])
    agree("close", {"Y": made}, {"Y": wanted.astype(np.float32)})
    stream.reset()
    assert np.array_equal(stream.run(x[:, :, None]).reshape(made.shape), made)


def test_a_type_that_nothing_says(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unknown", ["Q"], ["query"], domain="other"),
        helper.make_node("Attention", ["query", "K", "V", "", "past_key", "past_value"], ["Y"]),
    ]
    proto = _model(nodes, PAST, {"Y": None}, 23)
    proto.opset_import.append(helper.make_opsetid("other", 1))
    with pytest.raises(UnsupportedError, match="Attention cannot be written out .*nothing says of which type 'query' is"):
        loaded(proto, tmp_path)
