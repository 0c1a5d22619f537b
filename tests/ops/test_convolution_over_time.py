"""Convolutions, pools and resizing along time: whole sequences as in onnxruntime, and the same bits in a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import agree, in_onnxruntime, loaded, whole
from tinyrnn.check import within

Array = np.ndarray[Any, Any]
CHUNKS = (0, 1, 2, 5, 64)
LENGTHS = (23, 9)


def model_of(
    op: str, shape: list[str | int], opset: int = 19, weights: tuple[tuple[int, ...], ...] = (), **attributes: Any
) -> onnx.ModelProto:
    """x → op → y; for every shape of `weights` with random weights and a bias, in as many groups as fit them."""
    rng = np.random.default_rng(3)
    arrays: dict[str, Array] = {}
    if op == "Resize":
        arrays = {"roi": np.zeros(0), "scales": np.array(attributes.pop("scales"))}
    nodes = [] if weights else [helper.make_node(op, ["x", *arrays], ["y"], "node", **attributes)]
    for number, sizes in enumerate(weights):
        group = int(shape[1]) // sizes[1] if op == "Conv" else attributes.pop(f"group{number}")
        more = {
            f"W{number}": rng.uniform(-1, 1, sizes),
            f"B{number}": rng.uniform(-1, 1, sizes[0] if op == "Conv" else sizes[1] * group),
        }
        rest = {k: v for k, v in attributes.items() if not k.startswith("group")}
        nodes.append(helper.make_node(op, ["x", *more], [f"y{number}"], f"node{number}", group=group, **rest))
        arrays |= more
    graph = helper.make_graph(
        nodes,
        "along_time",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, None) for n in nodes],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def pieces(stream: tinyrnn.Stream, x: Array, chunk: int) -> list[Array]:
    """Every output of a stream run in chunks (0: step by step) and flushed, joined along time."""
    made = [stream.run(x[start : start + chunk]) if chunk else stream.step(x[start]) for start in range(0, len(x), chunk or 1)]
    made.append(stream.flush())
    parts = [m if isinstance(m, tuple) else (m,) for m in made]
    return [
        np.concatenate([p[i].reshape(-1, *port.shape) for p in parts if p[i] is not None])
        for i, port in enumerate(stream.model.outputs)
    ]


def check(proto: onnx.ModelProto, shape: list[str | int], tmp_path: Path) -> tinyrnn.Model:
    model = loaded(proto, tmp_path)
    time = shape.index("T")
    for frames in LENGTHS:
        for batch in (1, 2):
            sizes = [{"N": batch, "T": frames}.get(str(n), n) for n in shape]
            x = np.random.default_rng(frames).standard_normal(sizes).astype(np.float32)
            found = whole(model, {"x": x})
            agree("close", found, in_onnxruntime(proto, {"x": x}), f"{frames} frames, {batch}:")
            for chunk in CHUNKS if batch == 1 else ():
                joined = pieces(model.stream(), np.moveaxis(x, time, 0)[:, 0].copy(), chunk)
                for made, expected in zip(joined, found.values(), strict=True):
                    moved = np.moveaxis(expected, time, 0)
                    assert within("exact", made.reshape(moved.shape), moved), (frames, chunk)
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
    ("ConvTranspose", 8, 3, 1, [0, 7], 0),
    ("ConvTranspose", 5, 4, 1, [1, 3], 0),
    ("ConvTranspose", 4, 3, 1, [0, 7], 0),
    ("ConvTranspose", 2, 1, 1, [0, 1], 0),
    ("ConvTranspose", 4, 4, 1, [0, 0], 0),
]
"""operator, kernel, stride, dilation, pads, output_padding"""


@pytest.mark.parametrize(("op", "kernel", "stride", "dilation", "pads", "more"), FLAT)
def test_one_axis(op: str, kernel: int, stride: int, dilation: int, pads: list[int], more: int, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"strides": [stride], "dilations": [dilation], "pads": pads}
    if op == "Conv":
        attributes["weights"] = ((17, 6, kernel), (12, 2, kernel), (6, 1, kernel))
    else:
        attributes |= {"weights": ((6, 3, kernel), (6, 4, kernel)), "group0": 1, "group1": 3, "output_padding": [more]}
    shape: list[str | int] = ["N", 6, "T"]
    model = check(model_of(op, shape, **attributes), shape, tmp_path)
    if op == "Conv" and stride == 1:
        assert model.delay == max(dilation * (kernel - 1) - pads[0], 0)


N4T9: list[str | int] = ["N", 4, "T", 9]
WIDE: list[tuple[str, list[str | int], dict[str, Any]]] = [
    ("Conv", N4T9, {"weights": ((6, 4, 3, 3),), "pads": [2, 1, 0, 1]}),
    ("Conv", N4T9, {"weights": ((8, 2, 2, 5),), "strides": [1, 2], "dilations": [2, 1], "pads": [2, 2, 0, 2]}),
    ("Conv", N4T9, {"weights": ((4, 1, 3, 3),), "pads": [2, 1, 0, 1]}),
    ("Conv", N4T9, {"weights": ((5, 4, 1, 3),), "pads": [0, 1, 0, 1]}),
    ("Conv", ["N", 4, 9, "T"], {"weights": ((6, 4, 3, 3),), "strides": [2, 1], "pads": [1, 2, 1, 0]}),
    ("Conv", N4T9, {"weights": ((6, 4, 3, 3),), "auto_pad": "SAME_UPPER"}),
    ("Conv", N4T9, {"weights": ((7, 4, 2, 9),)}),
    ("ConvTranspose", N4T9, {"weights": ((4, 3, 3, 5),), "strides": [1, 2], "pads": [0, 2, 2, 2], "group0": 1}),
    ("ConvTranspose", N4T9, {"weights": ((4, 3, 4, 5),), "strides": [2, 2], "pads": [1, 2, 1, 2], "group0": 2}),
    ("ConvTranspose", ["N", 4, 9, "T"], {"weights": ((4, 3, 3, 4),), "strides": [2, 2], "pads": [1, 1, 1, 1], "group0": 1}),
    ("ConvTranspose", N4T9, {"weights": ((4, 3, 1, 5),), "strides": [1, 2], "pads": [0, 2, 0, 2], "group0": 1}),
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
    ("Conv", N4T9, {"weights": ((6, 4, 3, 3),), "auto_pad": "SAME_UPPER", "strides": [2, 1]}, "auto_pad='SAME_UPPER'"),
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
