"""com.microsoft.DynamicQuantizeLSTM: the bits of exact integer arithmetic, and what onnxruntime gives frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import agree, in_onnxruntime, loaded, whole
from tests.ops import integer_oracle as oracle
from tests.ops.integer_oracle import ALPHA, BETA
from tests.pools import agree_in_pool
from tinyrnn.check import check

Array = NDArray[Any]
KINDS: dict[str, tuple[type, int, bool]] = {
    "tensor": (np.int8, 0, False),
    "columns": (np.int8, 0, True),
    "uint8": (np.uint8, 128, True),
    "zero_points": (np.uint8, 117, False),
    "zero_points_of_columns": (np.int8, 9, True),
}
"""type of the weights, middle of the zero points, and whether scales and zero points are for each column"""


def build(
    kind: str,
    I: int = 11,  # noqa: E741
    H: int = 19,
    direction: str = "forward",
    affine: bool = True,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node with states as inputs and outputs, and its constants by the names of the operator's inputs."""
    dtype, zero, columns = KINDS[kind]
    rng = np.random.default_rng(I * H)
    D = 2 if direction == "bidirectional" else 1
    low = np.iinfo(dtype).min
    shape = (D, 4 * H) if columns else (D,)
    values: dict[str, Array] = {}
    for name, k in (("W", I), ("R", H)):
        values[name] = rng.integers(low, low + 256, (D, k, 4 * H)).astype(dtype)
        values[f"{name}_scale"] = (rng.uniform(0.5, 1, shape) / 128 / k**0.5).astype(np.float32)
        spread = 3 if zero not in (0, 128) and columns else 0
        values[f"{name}_zero_point"] = (zero + rng.integers(-spread, spread + 1, shape)).astype(dtype)
    values["B"] = (rng.standard_normal((D, 8 * H)) / 4).astype(np.float32)
    values["P"] = (rng.standard_normal((D, 3 * H)) / 4).astype(np.float32)
    names = ["X", "W", "R", "B", "", "initial_h", "initial_c", "P", "W_scale", "W_zero_point", "R_scale", "R_zero_point"]
    if affine:
        attributes |= {"activations": ["Affine"] * 3 * D, "activation_alpha": [ALPHA] * 3 * D, "activation_beta": [BETA] * 3 * D}
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        names,
        ["Y", "Y_h", "Y_c"],
        "layer",
        domain="com.microsoft",
        hidden_size=H,
        direction=direction,
        **attributes,
    )
    shapes = {
        "X": ("T", 1, I),
        "initial_h": (D, 1, H),
        "initial_c": (D, 1, H),
        "Y": ("T", D, 1, H),
        "Y_h": (D, 1, H),
        "Y_c": (D, 1, H),
    }
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in shapes.items()}
    ports = list(infos.values())
    graph = helper.make_graph(
        [node], "quantized", ports[:3], ports[3:], [numpy_helper.from_array(v, n) for n, v in values.items()]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), values


def inputs(I: int = 11, H: int = 19, D: int = 1, T: int = 6) -> dict[str, Array]:  # noqa: E741
    rng = np.random.default_rng(1)
    made = {
        "X": rng.standard_normal((T, 1, I)),
        "initial_h": rng.standard_normal((D, 1, H)),
        "initial_c": rng.standard_normal((D, 1, H)),
    }
    return {name: array.astype(np.float32) for name, array in made.items()}


def expected(values: dict[str, Array], given: dict[str, Array], **attributes: Any) -> dict[str, Array]:
    H = values["R"].shape[1]
    stored = []
    for d in range(len(values["W"])):
        pairs = []
        for name in "WR":
            zero, scale = (np.broadcast_to(values[f"{name}_{what}"][d], 4 * H) for what in ("zero_point", "scale"))
            pairs.append(((values[name][d].astype(np.int64) - zero).T, scale))
        stored.append(pairs)
    floats = {name: np.zeros_like(values[name].swapaxes(1, 2), np.float32) for name in "WR"}
    made = oracle.layer("LSTM", {**values, **given, **floats}, attributes, oracle.asymmetric, stored)
    return dict(zip(("Y", "Y_h", "Y_c"), made, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_bits(kind: str, direction: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"clip": 0.3} if direction == "forward" else {"input_forget": 1}
    proto, values = build(kind, direction=direction, **more)
    given = inputs(D=len(values["W"]))
    found = whole(loaded(proto, tmp_path), given)
    for name, array in expected(values, given, direction=direction, **more).items():
        np.testing.assert_array_equal(found[name], array.astype(np.float32))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zero_points_of_columns"])
def test_frames_as_onnxruntime_and_rows_of_a_pool(kind: str, tmp_path: Path) -> None:
    """onnxruntime takes no zero points that differ from column to column."""
    proto, _ = build(kind, 16, 32, affine=False)
    model = loaded(proto, tmp_path)
    stream, given = model.stream(), inputs(16, 32, T=20)
    x = given.pop("X")
    for name, array in given.items():
        stream.states[name][...] = array.reshape(stream.states[name].shape)
    for frame in x:
        theirs = in_onnxruntime(proto, {"X": frame[None], **given})
        ours = stream.step(frame[0])
        agree("approximate", {"Y": np.asarray(ours).ravel()}, {"Y": theirs["Y"].ravel()})
        given = {"initial_h": theirs["Y_h"], "initial_c": theirs["Y_c"]}
    agree_in_pool(model)


def test_a_sequence_is_near_onnxruntime(tmp_path: Path) -> None:
    """onnxruntime has one scale for x over the sequence."""
    proto, _ = build("columns", 16, 32, affine=False)
    given = inputs(16, 32, T=50)
    found, theirs = whole(loaded(proto, tmp_path), given), in_onnxruntime(proto, given)
    assert np.abs(found["Y"] - theirs["Y"]).max() < 0.02


def test_check_explains_the_difference_of_a_sequence(tmp_path: Path) -> None:
    proto, _ = build("columns", 16, 32, affine=False)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    report = check(path, frames=50)
    assert report.passed and any("a scale for each step" in note for note in report.notes), str(report)


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("W_scale", np.zeros(1, np.float32), "not above 0"),
        ("R_scale", np.array([np.nan], np.float32), "not above 0"),
        ("W_scale", np.ones(3, np.float32), "W_scale has shape"),
        ("R_zero_point", np.zeros(1, np.uint8), "R_zero_point uint8"),
    ],
)
def test_refused(name: str, array: Array, says: str, tmp_path: Path) -> None:
    proto, _ = build("tensor")
    (initializer,) = [t for t in proto.graph.initializer if t.name == name]
    initializer.CopyFrom(numpy_helper.from_array(array, name))
    with pytest.raises(tinyrnn.UnsupportedError, match=says):
        loaded(proto, tmp_path)


def test_traced(tmp_path: Path) -> None:
    proto, _ = build("columns", affine=False)
    model, given = loaded(proto, tmp_path), inputs()
    plain, traced = model.stream(), model.stream()
    trace = traced.trace(given["X"][:, 0])
    (layer,) = trace.layers.values()
    assert layer.op == "LSTM"
    made = plain.run(given["X"][:, 0])
    np.testing.assert_array_equal(np.ravel(layer.arrays["Ht"]), np.ravel(made[0] if isinstance(made, tuple) else made))
