"""States of sequence models: pieces of a sequence are the whole, or the node that stands against it is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tinyrnn
from tests.driving import agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tests.whole.families import Maker
from tinyrnn.compile.planner import LARGEST_CHUNK
from tinyrnn.graph.arrays import is_narrow

H = 8
Walk = Callable[[Maker, str, str, str], tuple[str, str]]
"""(maker, frames [T, 1, H], start [1, 1, H], name) → frames, end"""


def gru(m: Maker, x: str, start: str, name: str) -> tuple[str, str]:
    weights = [m.weight(1, 3 * H, H), m.weight(1, 3 * H, H), m.weight(1, 6 * H)]
    outputs = [f"{name}_Y", f"{name}_Y_h"]
    m.nodes.append(helper.make_node("GRU", [x, *weights, "", start], outputs, name, hidden_size=H))
    return m.add("Squeeze", outputs[0], m.constant(np.array([1]))), outputs[1]


def scan(m: Maker, x: str, start: str, name: str) -> tuple[str, str]:
    """h = tanh(x + h R) as a Scan, whose state has the shape of a layer's."""
    R = m.weight(H, H)
    nodes = [
        helper.make_node("MatMul", [f"{name}_h", R], [f"{name}_hR"], f"{name}_MatMul"),
        helper.make_node("Add", [f"{name}_hR", f"{name}_x"], [f"{name}_sum"], f"{name}_Add"),
        helper.make_node("Tanh", [f"{name}_sum"], [f"{name}_next"], f"{name}_Tanh"),
        helper.make_node("Identity", [f"{name}_next"], [f"{name}_y"], f"{name}_Identity"),
    ]
    ports = [helper.make_tensor_value_info(f"{name}_{n}", TensorProto.FLOAT, None) for n in ("h", "x", "next", "y")]
    body = helper.make_graph(nodes, f"{name}_body", ports[:2], ports[2:])
    one = m.constant(np.array([0]))
    outputs = [f"{name}_end", f"{name}_Y"]
    m.nodes.append(helper.make_node("Scan", [m.add("Squeeze", start, one), x], outputs, name, body=body, num_scan_inputs=1))
    return outputs[1], m.add("Unsqueeze", outputs[0], one)


def named(m: Maker, value: str, name: str) -> None:
    m.nodes.append(helper.make_node("Identity", [value], [name], f"out_{name}"))


def _packed(m: Maker, walk: Walk, swapped: bool) -> None:
    starts = [m.add("Slice", "h0", *(m.constant(np.array([n])) for n in (i, i + 1, 0))) for i in (0, 1)]
    y, first = walk(m, "x", starts[0], "first")
    y, second = walk(m, y, starts[1], "second")
    named(m, y, "y")
    named(m, m.add("Concat", *((second, first) if swapped else (first, second)), axis=0), "hn")


def one_each(m: Maker, walk: Walk) -> None:
    y, h = walk(m, "x", "h0", "first")
    named(m, y, "y")
    named(m, h, "hn")


def packed(m: Maker, walk: Walk) -> None:
    _packed(m, walk, False)


def derived(m: Maker, walk: Walk) -> None:
    """A second layer starts from something computed from the state of the first."""
    y, h = walk(m, "x", "h0", "first")
    y, _ = walk(m, y, m.add("MatMul", "h0", m.weight(H, H)), "second")
    named(m, y, "y")
    named(m, h, "hn")


def shared(m: Maker, walk: Walk) -> None:
    """Two layers start from one state; the end of one is its next value."""
    y, h = walk(m, "x", "h0", "first")
    y, _ = walk(m, y, "h0", "second")
    named(m, y, "y")
    named(m, h, "hn")


def summed(m: Maker, walk: Walk) -> None:
    y, h = walk(m, "x", "h0", "first")
    named(m, m.add("Add", y, "h0"), "y")
    named(m, h, "hn")


def masked(m: Maker, walk: Walk) -> None:
    y, h = walk(m, "x", m.add("Mul", "h0", "mask"), "first")
    named(m, y, "y")
    named(m, h, "hn")


def squashed(m: Maker, walk: Walk) -> None:
    y, h = walk(m, "x", "h0", "first")
    named(m, y, "y")
    named(m, m.add("Tanh", h), "hn")


def swapped(m: Maker, walk: Walk) -> None:
    _packed(m, walk, True)


def decayed(m: Maker, walk: Walk) -> None:
    """A state that every call changes, however many frames it has."""
    y, _ = walk(m, "x", "h0", "first")
    named(m, y, "y")
    named(m, m.add("Mul", "h0", m.constant(np.float32(0.5))), "hn")


def masked_after(m: Maker, walk: Walk) -> None:
    y, h = walk(m, "x", "h0", "first")
    named(m, y, "y")
    named(m, m.add("Mul", h, "mask"), "hn")


STREAM = (one_each, packed, derived, shared, squashed, swapped)
REFUSED = {summed: "Add", masked: "Mul", masked_after: "Mul", decayed: "Mul"}


def model_of(make: Callable[[Maker, Walk], None], walk: Walk) -> tuple[onnx.ModelProto, dict[str, list[Any]]]:
    m = Maker(np.random.default_rng(7))
    make(m, walk)
    shapes: dict[str, list[Any]] = {"x": ["T", 1, H], "h0": [2 if make in (packed, swapped) else 1, 1, H]}
    if make in (masked, masked_after):
        shapes["mask"] = [1, 1]
    return m.model(shapes, ["y", "hn"]), shapes


def arrays(shapes: dict[str, list[Any]], frames: int) -> dict[str, Any]:
    rng = np.random.default_rng(frames)
    return {n: rng.standard_normal([frames if s == "T" else s for s in shape]).astype(np.float32) for n, shape in shapes.items()}


@pytest.mark.parametrize("walk", [gru, scan])
@pytest.mark.parametrize("make", [*STREAM, *REFUSED])
def test_a_state_over_time(make: Callable[[Maker, Walk], None], walk: Walk, tmp_path: Path) -> None:
    proto, shapes = model_of(make, walk)
    model = loaded(proto, tmp_path, states={"h0": "hn"})
    for frames in (1, 5, LARGEST_CHUNK + 1):
        given = arrays(shapes, frames)
        agree("close", whole(model, given), in_onnxruntime(proto, given), f"{frames} frames")
    given = arrays(shapes, 11)
    if make in STREAM:
        agree_in_chunks(model, given, whole(model, given))
        return
    with pytest.raises(tinyrnn.StreamError, match=rf"node '\w+' \({REFUSED[make]}\).*state 'h0'.*bind={{'T': 1}}"):
        model.stream()
    step = loaded(proto, tmp_path, states={"h0": "hn"}, bind={"T": 1}).stream()
    given = arrays(shapes, 1)
    given["h0"] = np.zeros_like(given["h0"])
    for _ in range(4):  # what the error says: every call a frame
        expected = in_onnxruntime(proto, given)
        y = step.step(*(given[p.name] for p in step.model.inputs))
        agree("close", {"y": y.reshape(expected["y"].shape)}, {"y": expected["y"]})
        given["h0"] = expected["hn"]


def test_a_state_that_each_frame_rounds(tmp_path: Path) -> None:
    """A state of half precision: a frame leaves what fits it, in whatever pieces frames come."""
    proto, shapes = model_of(one_each, gru)
    for port in (*proto.graph.input, *proto.graph.output):
        port.type.tensor_type.elem_type = TensorProto.FLOAT16
    for weight in proto.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), weight.name))
    model = loaded(proto, tmp_path)
    assert all(is_narrow(s.dtype) for s in model.states) and [s.name for s in model.states] == ["h0"]
    given = {name: a.astype(np.float16) for name, a in arrays(shapes, 11).items()}
    found = whole(model, given)
    agree_in_chunks(model, given, found)
    h = given["h0"]
    for frame, y in zip(given["x"], found["y"], strict=True):
        one = whole(model, {"x": frame[None], "h0": h})
        h = one["hn"]
        agree("exact", {"y": one["y"]}, {"y": y[None]})
    agree("exact", {"hn": h}, {"hn": found["hn"]})
