"""Convolutions, pools and resizing along time: whole sequences as in onnxruntime, and the same bits in a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from driving import agree, in_onnxruntime, loaded, whole
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tinyrnn.check import within

Array = np.ndarray[Any, Any]
CHUNKS = (0, 1, 2, 5, 64)
LENGTHS = (23, 9)


def model_of(
    op: str, shape: list[str | int], opset: int = 19, weights: tuple[int, ...] = (), **attributes: Any
) -> onnx.ModelProto:
    """x → op → y, with random weights and a bias where `weights` has a shape."""
    rng = np.random.default_rng(3)
    arrays: dict[str, Array] = {}
    if weights:
        channels = weights[0] if op == "Conv" else weights[1] * attributes["group"]
        arrays = {"W": rng.uniform(-1, 1, weights), "B": rng.uniform(-1, 1, channels)}
    if op == "Resize":
        arrays = {"roi": np.zeros(0), "scales": np.array(attributes.pop("scales"))}
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *arrays], ["y"], "node", **attributes)],
        "along_time",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def pieces(stream: tinyrnn.Stream, x: Array, chunk: int) -> Array:
    """The output of a stream run in chunks (0: step by step) and flushed, joined along time."""
    port = stream.model.outputs[0]
    made = [stream.run(x[start : start + chunk]) if chunk else stream.step(x[start]) for start in range(0, len(x), chunk or 1)]
    made.append(stream.flush())
    return np.concatenate([m.reshape(-1, *port.shape) for m in made if m is not None])


def check(proto: onnx.ModelProto, shape: list[str | int], tmp_path: Path) -> tinyrnn.Model:
    model = loaded(proto, tmp_path)
    time = shape.index("T")
    for frames in LENGTHS:
        for batch in (1, 2):
            sizes = [{"N": batch, "T": frames}.get(str(n), n) for n in shape]
            x = np.random.default_rng(frames).standard_normal(sizes).astype(np.float32)
            found = whole(model, {"x": x})
            agree("close", found, in_onnxruntime(proto, {"x": x}), f"{frames} frames, {batch}:")
            if batch == 1:
                expected = np.moveaxis(found["y"], time, 0)
                for chunk in CHUNKS:
                    joined = pieces(model.stream(), np.moveaxis(x, time, 0)[:, 0].copy(), chunk)
                    assert within("exact", joined.reshape(expected.shape), expected), (frames, chunk)
    return model


FLAT: list[tuple[str, int, int, int, list[int], int]] = [
    ("Conv", 3, 1, 1, [2, 0], 0),
    ("Conv", 3, 1, 1, [1, 1], 0),
    ("Conv", 4, 2, 1, [0, 0], 0),
    ("Conv", 3, 2, 2, [3, 1], 0),
    ("Conv", 1, 2, 1, [0, 0], 0),
    ("Conv", 3, 1, 2, [4, 0], 0),
    ("ConvTranspose", 3, 1, 1, [0, 0], 0),
    ("ConvTranspose", 4, 2, 1, [1, 1], 0),
    ("ConvTranspose", 5, 2, 1, [2, 2], 1),
    ("ConvTranspose", 3, 3, 2, [0, 1], 0),
    ("ConvTranspose", 1, 2, 1, [0, 0], 1),
    ("ConvTranspose", 2, 1, 1, [0, 1], 0),
    ("ConvTranspose", 4, 4, 1, [0, 0], 0),
]
"""operator, kernel, stride, dilation, pads, output_padding"""


@pytest.mark.parametrize(("op", "kernel", "stride", "dilation", "pads", "more"), FLAT)
def test_one_axis(op: str, kernel: int, stride: int, dilation: int, pads: list[int], more: int, tmp_path: Path) -> None:
    for group, inner, outer in ((1, 5, 17), (3, 2, 4), (6, 1, 1)):
        shape: list[str | int] = ["N", group * inner, "T"]
        weights = (group * outer, inner, kernel) if op == "Conv" else (group * inner, outer, kernel)
        attributes: dict[str, Any] = {"strides": [stride], "dilations": [dilation], "pads": pads, "group": group}
        if more:
            attributes["output_padding"] = [more]
        model = check(model_of(op, shape, weights=weights, **attributes), shape, tmp_path)
        ahead = pads[1] if op == "Conv" and stride == 1 else None
        assert ahead is None or model.delay == max(dilation * (kernel - 1) - pads[0], 0)


N4T9: list[str | int] = ["N", 4, "T", 9]
WIDE: list[tuple[str, list[str | int], dict[str, Any]]] = [
    ("Conv", N4T9, {"weights": (6, 4, 3, 3), "pads": [2, 1, 0, 1], "group": 1}),
    ("Conv", N4T9, {"weights": (8, 2, 2, 5), "strides": [1, 2], "dilations": [2, 1], "pads": [2, 2, 0, 2], "group": 2}),
    ("Conv", N4T9, {"weights": (4, 1, 3, 3), "pads": [2, 1, 0, 1], "group": 4}),
    ("Conv", N4T9, {"weights": (5, 4, 1, 3), "pads": [0, 1, 0, 1], "group": 1}),
    ("Conv", ["N", 4, 9, "T"], {"weights": (6, 4, 3, 3), "strides": [2, 1], "pads": [1, 2, 1, 0], "group": 1}),
    ("Conv", N4T9, {"weights": (6, 4, 3, 3), "auto_pad": "SAME_UPPER", "group": 1}),
    ("Conv", N4T9, {"weights": (7, 4, 2, 9), "group": 1}),
    ("ConvTranspose", N4T9, {"weights": (4, 3, 3, 5), "strides": [1, 2], "pads": [0, 2, 2, 2], "group": 1}),
    ("ConvTranspose", N4T9, {"weights": (4, 3, 4, 5), "strides": [2, 2], "pads": [1, 2, 1, 2], "group": 2}),
    ("ConvTranspose", ["N", 4, 9, "T"], {"weights": (4, 3, 3, 4), "strides": [2, 2], "pads": [1, 1, 1, 1], "group": 1}),
    ("ConvTranspose", N4T9, {"weights": (4, 3, 1, 5), "strides": [1, 2], "pads": [0, 2, 0, 2], "group": 1}),
    ("MaxPool", ["N", 4, "T"], {"kernel_shape": [3], "pads": [2, 0]}),
    ("MaxPool", N4T9, {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 0, 1]}),
    ("MaxPool", ["N", 4, 9, "T"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", ["N", 4, "T"], {"kernel_shape": [4], "strides": [3]}),
    ("AveragePool", N4T9, {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
    ("AveragePool", N4T9, {"kernel_shape": [2, 3], "pads": [0, 1, 0, 1]}),
    ("LpPool", N4T9, {"kernel_shape": [2, 2], "strides": [1, 2]}),
    ("Resize", N4T9, {"scales": [1, 1, 2, 1], "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", N4T9, {"scales": [1, 1, 1, 2], "mode": "linear"}),
    ("Resize", N4T9, {"scales": [1, 1, 3, 2], "mode": "nearest"}),
]


@pytest.mark.parametrize(("op", "shape", "attributes"), WIDE, ids=lambda v: v if isinstance(v, str) else "")
def test_streams(op: str, shape: list[str | int], attributes: dict[str, Any], tmp_path: Path) -> None:
    check(model_of(op, shape, **attributes), shape, tmp_path)


WHOLE: list[tuple[str, list[str | int], dict[str, Any], str]] = [
    ("Conv", N4T9, {"weights": (6, 4, 3, 3), "auto_pad": "SAME_UPPER", "strides": [2, 1], "group": 1}, "auto_pad='SAME_UPPER'"),
    ("AveragePool", ["N", 4, "T"], {"kernel_shape": [3], "pads": [1, 1]}, "count_include_pad=1"),
    ("MaxPool", ["N", 4, "T"], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}, "ceil_mode=1"),
    ("Resize", N4T9, {"scales": [1, 1, 2, 1], "mode": "linear"}, "whole scale"),
]


@pytest.mark.parametrize(("op", "shape", "attributes", "reason"), WHOLE, ids=lambda v: v if isinstance(v, str) else "")
def test_refusals(op: str, shape: list[str | int], attributes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(tinyrnn.TinyRNNError, match=reason):
        loaded(model_of(op, shape, **attributes), tmp_path).stream()


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools_run_with_time(op: str, tmp_path: Path) -> None:
    for shape in (["N", 4, "T"], N4T9):
        proto = model_of(op, list(shape))
        model = loaded(proto, tmp_path)
        x = np.random.default_rng(4).standard_normal([{"N": 1, "T": 7}.get(str(n), n) for n in shape]).astype(np.float32)
        found = whole(model, {"x": x})
        agree("close", found, in_onnxruntime(proto, {"x": x}))
        running = model.stream().run(np.moveaxis(x[0], 1, 0).copy())
        assert within("exact", np.ravel(running), np.ravel(found["y"]))
