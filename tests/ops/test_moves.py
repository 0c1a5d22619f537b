"""Products and moves inside frames, between the axes of time and batch; what mixes them runs whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tinyrnn import StreamError
from tinyrnn.targets.reference import Reference

Step = tuple[str, list[str], list[str], dict[str, Any]]
FEATURES = 12


def model_of(
    steps: list[Step], constants: dict[str, Any], outputs: list[str], shape: list[Any], opset: int = 18
) -> onnx.ModelProto:
    """A model of one float input x."""
    graph = helper.make_graph(
        [helper.make_node(op, i, o, f"node_{o[0]}", **attributes) for op, i, o, attributes in steps],
        "moves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def gru(source: str, size: int, hidden: int, constants: dict[str, Array]) -> list[Step]:
    """A GRU over `source` [T, N, size], its output "h" [T, N, hidden]."""
    rng = np.random.default_rng(3)
    for name, shape in {"W": (1, 3 * hidden, size), "R": (1, 3 * hidden, hidden), "B": (1, 6 * hidden)}.items():
        constants[name] = (rng.standard_normal(shape) * 0.3).astype(np.float32)
    constants["direction"] = np.array([1])
    return [
        ("GRU", [source, "W", "R", "B"], ["Y"], {"hidden_size": hidden}),
        ("Squeeze", ["Y", "direction"], ["h"], {}),
    ]


def inside_frames() -> onnx.ModelProto:
    """Attention between four heads of one frame, looked up, scattered and padded; x [T, N, FEATURES]."""
    rng = np.random.default_rng(5)
    constants: dict[str, Any] = {
        "heads": np.array([0, 0, 4, 3]),
        "flat": np.array([0, 0, 12]),
        "left": rng.standard_normal((5, 4)).astype(np.float32),
        "heads_of": rng.standard_normal((4, 3, 2)).astype(np.float32),
        "pads": np.array([0, 0, 2, 0, 0, 1]),
        "picked": np.array([7, 3, 3, 0, 11, 1, 2, 9, 9, 4, 5, 0]),
        "repeats": np.array([1, 1, 2]),
        "last": np.array([2]),
        "row": np.array([3]),
        "zero": np.float32(0),
        "eleven": np.float32(11),
    }
    steps: list[Step] = [
        ("Reshape", ["x", "heads"], ["q"], {}),
        ("Transpose", ["q"], ["k"], {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["q", "k"], ["scores"], {}),
        ("Softmax", ["scores"], ["weights"], {"axis": -1}),
        ("MatMul", ["weights", "q"], ["mixed"], {}),
        ("Einsum", ["weights", "q"], ["again"], {"equation": "...ij,...jd->...id"}),
        ("MatMul", ["left", "mixed"], ["grown"], {}),
        ("Unsqueeze", ["mixed", "row"], ["rows"], {}),
        ("MatMul", ["rows", "heads_of"], ["per_head"], {}),
        ("Einsum", ["heads_of", "mixed"], ["summed"], {"equation": "hdk,tnhd->tnk"}),
        ("Einsum", ["x", "x"], ["power"], {"equation": "tni,tni->tn"}),
        ("Reshape", ["mixed", "flat"], ["joined"], {}),
        ("ReduceL2", ["joined", "last"], ["length"], {}),
        ("Clip", ["length", "zero", "eleven"], ["bounded"], {}),
        ("Cast", ["bounded"], ["best"], {"to": TensorProto.INT64}),
        ("GatherElements", ["joined", "best"], ["largest"], {"axis": 2}),
        ("ScatterElements", ["joined", "best", "largest"], ["same"], {"axis": 2, "reduction": "add"}),
        ("Pad", ["joined", "pads"], ["reflected"], {"mode": "reflect"}),
        ("Gather", ["joined", "picked"], ["shuffled"], {"axis": 2}),
        ("Tile", ["shuffled", "repeats"], ["tiled"], {}),
        *gru("shuffled", FEATURES, 9, constants),
    ]
    outputs = ["scores", "mixed", "again", "grown", "per_head", "summed", "power", "largest", "same", "reflected", "tiled", "h"]
    return model_of(steps, constants, outputs, ["T", "N", FEATURES])


def test_inside_frames(tmp_path: Path) -> None:
    proto = inside_frames()
    model = loaded(proto, tmp_path)
    assert model.kind == "sequence"
    reference = Reference(model._source.graph)
    rng = np.random.default_rng(1)
    for frames, batch in ((1, 1), (7, 1), (5, 3)):
        inputs = {"x": rng.standard_normal((frames, batch, FEATURES)).astype(np.float32)}
        found = whole(model, inputs)
        agree("close", found, in_onnxruntime(proto, inputs), "against onnxruntime:")
        agree("close", found, reference.run(inputs), "against float64:")
        agree_in_chunks(model, inputs, found, batch)


def test_channels_before_time(tmp_path: Path) -> None:
    """W x with time as the last axis is a product of every frame by W."""
    weights = np.random.default_rng(2).standard_normal((7, FEATURES)).astype(np.float32)
    constants: dict[str, Any] = {"M": weights}
    steps: list[Step] = [
        ("MatMul", ["M", "x"], ["channels"], {}),
        ("Transpose", ["channels"], ["sequence"], {"perm": [2, 0, 1]}),
        *gru("sequence", 7, 5, constants),
    ]
    proto = model_of(steps, constants, ["h"], ["N", FEATURES, "T"])
    model = loaded(proto, tmp_path)
    assert any(node.op == "Linear" for node in model._source.program.graph.nodes)
    inputs = {"x": np.random.default_rng(4).standard_normal((2, FEATURES, 6)).astype(np.float32)}
    found = whole(model, inputs)
    agree("close", found, in_onnxruntime(proto, inputs))
    agree_in_chunks(model, inputs, found, 2)


MIXING: dict[str, tuple[list[Step], str]] = {
    "every step with every other": (
        [
            ("Transpose", ["h"], ["k"], {"perm": [1, 2, 0]}),
            ("Transpose", ["h"], ["q"], {"perm": [1, 0, 2]}),
            ("MatMul", ["q", "k"], ["y"], {}),
        ],
        "would have 2 time axes",
    ),
    "a sum over time": ([("Einsum", ["h", "h"], ["y"], {"equation": "tni,tnj->nij"})], "it sums over the time axis"),
    "time reversed": ([("ReverseSequence", ["h", "lengths"], ["y"], {})], "it reverses the time axis"),
    "time repeated": ([("Tile", ["h", "repeats"], ["y"], {})], "it repeats the time axis"),
    "steps looked up": ([("GatherElements", ["h", "elements"], ["y"], {"axis": 0})], "it indexes the time axis"),
    "steps written to": ([("ScatterND", ["h", "rows", "written"], ["y"], {})], "it writes to steps of the time"),
}


@pytest.mark.parametrize("what", MIXING)
def test_what_mixes_time_runs_whole(what: str, tmp_path: Path) -> None:
    steps, reason = MIXING[what]
    constants: dict[str, Any] = {
        "lengths": np.array([2]),
        "repeats": np.array([2, 1, 1]),
        "elements": np.zeros((1, 1, 5), np.int64),
        "rows": np.array([[0]]),
        "written": np.zeros((1, 1, 5), np.float32),
    }
    proto = model_of([*gru("x", FEATURES, 5, constants), *steps], constants, ["y"], ["T", 1, FEATURES])
    model = loaded(proto, tmp_path)
    inputs = {"x": np.random.default_rng(6).standard_normal((4, 1, FEATURES)).astype(np.float32)}
    agree("close", whole(model, inputs), in_onnxruntime(proto, inputs))
    with pytest.raises(StreamError, match=reason):
        model.stream()


def test_batch_entries_written_each_to_its_own(tmp_path: Path) -> None:
    """x[:, 2:4] = x[:, 0:2] as PyTorch writes it: tuples (entry, column) for every element."""
    constants: dict[str, Any] = {
        "places": np.array([[[0, column, f] for f in range(FEATURES)] for column in (2, 3)])[None],
        "start": np.array([0]),
        "end": np.array([2]),
        "axis": np.array([1]),
    }
    steps: list[Step] = [
        ("Slice", ["x", "start", "end", "axis"], ["part"], {}),
        ("Neg", ["part"], ["negative"], {}),
        ("ScatterND", ["x", "places", "negative"], ["y"], {}),
    ]
    proto = model_of(steps, constants, ["y"], [1, 5, FEATURES])
    inputs = {"x": np.random.default_rng(4).standard_normal((1, 5, FEATURES)).astype(np.float32)}
    agree("exact", whole(loaded(proto, tmp_path), inputs), in_onnxruntime(proto, inputs))


def test_computed_indices_stay_inside(tmp_path: Path) -> None:
    """Indices that come from arithmetic are clamped to the axis."""
    constants: dict[str, Any] = {"table": np.arange(6, dtype=np.float32).reshape(3, 2)}
    steps: list[Step] = [("Cast", ["x"], ["i"], {"to": TensorProto.INT64}), ("Gather", ["table", "i"], ["y"], {})]
    model = loaded(model_of(steps, constants, ["y"], [5]), tmp_path)
    found = model.run(np.array([1e9, -1e9, 2, -3, 0], np.float32))
    np.testing.assert_array_equal(found, constants["table"][[2, 0, 2, 0, 0]])


def test_empty_parts(tmp_path: Path) -> None:
    """Parts without elements, as exporters cut and join them."""
    constants: dict[str, Any] = {
        "zero": np.array([0]),
        "axis": np.array([1]),
        "sizes": np.array([0, 3, 2]),
        "none": np.zeros((2, 0), np.float32),
    }
    steps: list[Step] = [
        ("Slice", ["x", "zero", "zero", "axis"], ["empty"], {}),
        ("Split", ["x", "sizes"], ["nothing", "a", "b"], {"axis": 1}),
        ("Neg", ["empty"], ["also"], {}),
        ("Concat", ["also", "b", "nothing", "a", "none"], ["y"], {"axis": 1}),
    ]
    proto = model_of(steps, constants, ["y"], [2, 5])
    inputs = {"x": np.arange(10, dtype=np.float32).reshape(2, 5)}
    agree("exact", whole(loaded(proto, tmp_path), inputs), in_onnxruntime(proto, inputs))


@pytest.mark.parametrize("inside", [False, True])
def test_half_precision_is_widened(inside: bool, tmp_path: Path) -> None:
    """Weights, values and inputs of float16 are taken as float32."""
    weights = np.random.default_rng(8).standard_normal((FEATURES, 5)).astype(np.float16)
    constants: dict[str, Any] = {"w": weights}
    steps: list[Step] = [("MatMul", ["x", "w"], ["y"], {})]
    if inside:
        steps = [
            ("Cast", ["x"], ["half"], {"to": TensorProto.FLOAT16}),
            ("MatMul", ["half", "w"], ["z"], {}),
            ("Cast", ["z"], ["y"], {"to": TensorProto.FLOAT}),
        ]
    proto = model_of(steps, constants, ["y"], [3, FEATURES])
    if not inside:
        proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    x = np.random.default_rng(9).standard_normal((3, FEATURES)).astype(np.float32 if inside else np.float16)
    found = loaded(proto, tmp_path).run(x)
    assert found.dtype == np.float32
    agree("close", {"y": found}, {"y": x.astype(np.float64) @ weights.astype(np.float64)})
