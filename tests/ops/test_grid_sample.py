"""GridSample in more dimensions than onnxruntime has, over time, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tinyrnn import UnsupportedError


def _model(
    nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: list[str], constants: dict[str, Array] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "sampled",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _numbers(seed: int, **shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {n: rng.uniform(-1.5, 1.5, s).astype(np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "reflection"])
@pytest.mark.parametrize(("x", "grid"), [((2, 3, 6), (2, 5, 1)), ((1, 2, 3, 4, 5), (1, 2, 1, 3, 3))])
def test_cubic_along_one_axis_and_three(
    x: tuple[int, ...], grid: tuple[int, ...], padding: str, corners: int, tmp_path: Path
) -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode="cubic", padding_mode=padding, align_corners=corners)
    proto, given = _model([node], {"x": x, "g": grid}, ["y"]), _numbers(corners, x=x, g=grid)
    wanted = ReferenceEvaluator(proto).run(None, dict(given))
    agree("close", whole(loaded(proto, tmp_path, states={}), given), {"y": np.asarray(wanted[0])})


@pytest.mark.parametrize("steps", [1, 7])
def test_glimpses_stream(steps: int, tmp_path: Path) -> None:
    """A picture that a recurrent layer looks at: the grid is of each step, the picture of them all."""
    rng = np.random.default_rng(3)
    constants: dict[str, Array] = {
        "W": rng.standard_normal((1, 15, 4)).astype(np.float32) * 0.3,
        "R": rng.standard_normal((1, 15, 5)).astype(np.float32) * 0.3,
        "V": rng.standard_normal((5, 12)).astype(np.float32) * 0.5,
        "picture": rng.standard_normal((1, 2, 5, 7)).astype(np.float32),
        "one": np.array([1]),
        "places": np.array([1, -1, 6, 2]),
    }
    nodes = [
        helper.make_node("GRU", ["x", "W", "R"], ["h4"], hidden_size=5),
        helper.make_node("Squeeze", ["h4", "one"], ["h"]),
        helper.make_node("MatMul", ["h", "V"], ["flat"]),
        helper.make_node("Tanh", ["flat"], ["small"]),
        helper.make_node("Reshape", ["small", "places"], ["g"]),
        helper.make_node("GridSample", ["picture", "g"], ["y"], mode="linear", padding_mode="border"),
    ]
    proto = _model(nodes, {"x": ["T", 1, 4]}, ["y"], constants)
    model, given = loaded(proto, tmp_path), _numbers(4, x=(steps, 1, 4))
    found = whole(model, given)
    agree("close", found, in_onnxruntime(proto, given))
    stream = model.stream()
    made = np.stack([stream.step(frame[0]) for frame in given["x"]])
    agree("exact", {"y": np.moveaxis(made.reshape(steps, 2, 6), 0, 1).reshape(found["y"].shape)}, found)


def test_frames_of_pictures(tmp_path: Path) -> None:
    """A picture and a grid of every step, then a recurrent layer."""
    rng = np.random.default_rng(5)
    constants: dict[str, Array] = {
        "W": rng.standard_normal((1, 15, 12)).astype(np.float32) * 0.3,
        "R": rng.standard_normal((1, 15, 5)).astype(np.float32) * 0.3,
        "flat": np.array([0, 1, 12]),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("GridSample", ["x", "g"], ["seen"], mode="cubic", padding_mode="border"),
        helper.make_node("Reshape", ["seen", "flat"], ["frames"]),
        helper.make_node("GRU", ["frames", "W", "R"], ["h4"], hidden_size=5),
        helper.make_node("Squeeze", ["h4", "one"], ["y"]),
    ]
    proto = _model(nodes, {"x": ["T", 2, 4, 5], "g": ["T", 2, 3, 2]}, ["y"], constants)
    model, given = loaded(proto, tmp_path), _numbers(6, x=(6, 2, 4, 5), g=(6, 2, 3, 2))
    found = whole(model, given)
    agree("close", found, in_onnxruntime(proto, given))
    agree_in_chunks(model, given, found)


@pytest.mark.parametrize(
    ("x", "grid", "attributes", "says"),
    [
        ((1, 2, 4, 5), (1, 3, 3), {}, r"supported is an X \[N, C, D1 … Dr\] with a grid \[N, E1 … Er, r\]"),
        ((1, 2, 4, 5), (1, 3, 3, 3), {}, "supported is an X"),
        ((1, 2, 4, 5), (1, 3, 3, 2), {"mode": "lanczos"}, "mode='lanczos'; supported are nearest, linear, cubic"),
        ((1, 2, 4, 5), (1, 3, 3, 2), {"padding_mode": "wrap"}, "padding_mode='wrap'; supported are zeros, border, reflection"),
        ((2, 2, 4, 5), (3, 3, 3, 2), {}, "their first axes differ"),
    ],
)
def test_refused(x: tuple[int, ...], grid: tuple[int, ...], attributes: dict[str, Any], says: str, tmp_path: Path) -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"], **attributes)
    with pytest.raises(UnsupportedError, match=says):
        loaded(_model([node], {"x": x, "g": grid}, ["y"]), tmp_path)
