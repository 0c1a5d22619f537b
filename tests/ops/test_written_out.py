"""Operators that ONNX defines by others, at run time: Attention, RotaryEmbedding, CausalConvWithState, LinearAttention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
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


def test_rotary_embeddings_from_constant_tables_stream(tmp_path: Path) -> None:
    angles = np.arange(400)[:, None] * np.array([[0.1, 0.2, 0.3, 0.4]])
    node = helper.make_node("RotaryEmbedding", ["X", "cos", "sin", "places"], ["Y"], num_heads=3)
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    proto = _model([node], {"X": (1, "T", 24)}, {"Y": (1, "T", 24)}, 23, **tables)
    proto.graph.input.append(helper.make_tensor_value_info("places", TensorProto.INT64, [1, "T"]))
    model = loaded(proto, tmp_path)
    given: dict[str, Array] = {"places": np.arange(300)[None] + 9}
    given["X"] = np.random.default_rng(0).standard_normal((1, 300, 24)).astype(np.float32)
    found = whole(model, given)
    agree("close", found, in_onnxruntime(proto, given))
    agree_in_chunks(model, {n: a[:, :11] for n, a in given.items()}, {"Y": found["Y"][:, :11]})


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("steps", [1, "T"])
def test_linear_attention_streams(rule: str, steps: int | str, tmp_path: Path) -> None:
    """S_t = exp(g_t) S_(t-1) + beta_t k_t (v_t - exp(g_t) S_(t-1)' k_t)', o_t = S_t' q_t / sqrt(d): the state is S."""
    rng, heads, d, length = np.random.default_rng(2), 2, 4, 300
    names = ["query", "key", "value", "past", "decay" if "gated" in rule else "", "beta" if "delta" in rule else ""]
    node = helper.make_node("LinearAttention", names, ["Y", "S"], q_num_heads=heads, kv_num_heads=heads, update_rule=rule)
    sizes = {"query": heads * d, "key": heads * d, "value": heads * 3, "decay": heads * d, "beta": heads}
    shapes: Shapes = {n: (1, steps, sizes[n]) if n in sizes else (1, heads, d, 3) for n in names if n}
    proto = _model([node], shapes, {"Y": (1, steps, heads * 3), "S": (1, heads, d, 3)}, 27)
    given = {n: rng.uniform(-0.5, 0.5, (length, sizes[n])).astype(np.float32) for n in names if n in sizes}
    if "decay" in given:
        given["decay"] = -np.abs(given["decay"])
    wide = {n: a.astype(np.float64).reshape(length, heads, -1) for n, a in given.items()}
    state, wanted = np.zeros((heads, d, 3)), []
    for t in range(length):
        state = state * np.exp(wide["decay"][t])[:, :, None] if "decay" in wide else state
        taken = np.einsum("hdv,hd->hv", state, wide["key"][t]) if "beta" in wide else 0.0
        new = (wide["value"][t] - taken) * (wide["beta"][t] if "beta" in wide else 1.0)
        state = state + wide["key"][t][:, :, None] * new[:, None, :]
        wanted.append((np.einsum("hdv,hd->hv", state, wide["query"][t]) / np.sqrt(d)).ravel())
    model = loaded(proto, tmp_path)
    stream = model.stream()
    made = np.stack([np.reshape(stream.step(**{n: a[t] for n, a in given.items()}), -1) for t in range(length)])
    agree("close", {"Y": made}, {"Y": np.stack(wanted).astype(np.float32)})
    if steps == "T":
        past = np.zeros((1, heads, d, 3), np.float32)
        found = whole(model, {n: a[None] for n, a in given.items()} | {"past": past})
        agree("close", found, {"Y": np.stack(wanted)[None].astype(np.float32), "S": state[None].astype(np.float32)})
        stream.reset()
        agree("exact", {"Y": stream.run(*[given[p.name] for p in model.inputs])}, {"Y": made})


def test_a_definition_that_needs_another(tmp_path: Path) -> None:
    """A loss is defined by one that is itself defined by others."""
    node = helper.make_node("SoftmaxCrossEntropyLoss", ["X", "labels"], ["loss"], reduction="none")
    proto = _model([node], {"X": (3, 5)}, {"loss": None}, 13)
    proto.graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, [3]))
    given = {**_numbers({"X": (3, 5)}), "labels": np.array([0, 4, 2])}
    agree("close", whole(loaded(proto, tmp_path, states={}), given), in_onnxruntime(proto, given))


def test_a_type_that_nothing_says(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unknown", ["Q"], ["query"], domain="other"),
        helper.make_node("Attention", ["query", "K", "V", "", "past_key", "past_value"], ["Y"]),
    ]
    proto = _model(nodes, PAST, {"Y": None}, 23)
    proto.opset_import.append(helper.make_opsetid("other", 1))
    with pytest.raises(UnsupportedError, match="Attention cannot be written out .*nothing says of which type 'query' is"):
        loaded(proto, tmp_path)
