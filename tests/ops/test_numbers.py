"""Numbers of every type: edges against NumPy, what onnxruntime does not have, and sums that run through a stream."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import agree, in_onnxruntime, loaded, whole
from tinyrnn.lanes import powers as lanes_power
from tinyrnn.lanes import trigonometry as lanes_trig

Array = np.ndarray[Any, Any]
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
Step = tuple[str, list[str], list[str], dict[str, Any]]


def model_of(steps: list[Step], inputs: dict[str, Array], opset: int = 18, **constants: Array) -> onnx.ModelProto:
    nodes = [helper.make_node(op, i, o, f"node_{o[0]}", **attributes) for op, i, o, attributes in steps]
    graph = helper.make_graph(
        nodes,
        "numbers",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=o) for _, _, outputs, _ in steps for o in outputs if o],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


def pairs(dtype: str) -> tuple[Array, Array]:
    """Every pair of some telling numbers and random ones."""
    bounds, rng = np.iinfo(dtype), np.random.default_rng(np.dtype(dtype).num)
    telling = [bounds.min, bounds.min + 1, 0, 1, 2, 3, 7, bounds.max // 2, bounds.max - 1, bounds.max]
    if bounds.min < 0:
        telling += [-1, -2, -7]
    numbers = np.concatenate([np.array(telling, dtype), rng.integers(bounds.min, bounds.max, 7, dtype, endpoint=True)])
    a, b = np.meshgrid(numbers, numbers)
    return a.ravel(), b.ravel()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_at_their_edges(dtype: str, tmp_path: Path) -> None:
    a, b = pairs(dtype)
    info = np.iinfo(dtype)

    def exact(function: Any) -> Array:
        """The function in unbounded integers, cut to the type."""
        cut = [function(int(x), int(y)) % 2**info.bits for x, y in zip(a, b, strict=True)]
        return np.array(cut, np.uint64).astype(f"uint{info.bits}").view(dtype)

    def quotient(x: int, y: int) -> int:
        return 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)

    steps: list[Step] = [(op, ["a", "b"], [op], {}) for op in ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Less", "Equal")]
    steps += [("Mod", ["a", "b"], ["fmod"], {"fmod": 1}), ("Abs", ["a"], ["Abs"], {}), ("Sign", ["a"], ["Sign"], {})]
    wanted = {
        "Add": exact(lambda x, y: x + y),
        "Sub": exact(lambda x, y: x - y),
        "Mul": exact(lambda x, y: x * y),
        "Div": exact(quotient),
        "Mod": exact(lambda x, y: x % y if y else 0),
        "fmod": exact(lambda x, y: x - quotient(x, y) * y if y else 0),
        "Min": np.minimum(a, b),
        "Max": np.maximum(a, b),
        "Less": a < b,
        "Equal": a == b,
        "Abs": np.abs(a),
        "Sign": np.sign(a),
    }
    steps += [("BitShift", ["a", "b"], [way], {"direction": way}) for way in ("LEFT", "RIGHT")]
    wanted["LEFT"] = exact(lambda x, n: x << n if 0 <= n < info.bits else 0)
    wanted["RIGHT"] = exact(lambda x, n: x >> (n if 0 <= n < info.bits else info.bits))
    model = loaded(model_of(steps, {"a": a, "b": b}), tmp_path, states={})
    agree("exact", whole(model, {"a": a, "b": b}), wanted)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_casts_of_floats_saturate_and_wrap(dtype: str, tmp_path: Path) -> None:
    x = np.array([0.0, -0.99, 1.5, 100.9, 3e9, -3e9, 1e19, -1e19, 1e30, np.inf, -np.inf, np.nan], np.float32)
    proto = model_of([("Cast", ["x"], ["y"], {"to": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))})], {"x": x})
    info = np.iinfo(dtype)
    through = np.iinfo("int32" if info.bits < 32 else "int64" if dtype == "uint32" else dtype)

    def cast(value: float) -> int:
        if value != value:
            return 0
        low = -(2**63) if dtype == "uint64" else int(through.min)
        return int(max(min(value, 1e25), -1e25)) if low <= value <= through.max else low if value < 0 else int(through.max)

    wanted = np.array([cast(float(v)) % 2**info.bits for v in x], np.uint64).astype(f"uint{info.bits}").view(dtype)
    agree("exact", whole(loaded(proto, tmp_path, states={}), {"x": x}), {"y": wanted})


def test_half_precision_is_widened(tmp_path: Path) -> None:
    x = np.array([0.5, -3.25, 1e4], np.float16)
    model = loaded(model_of([("Cast", ["x"], ["y"], {"to": TensorProto.FLOAT})], {"x": x}), tmp_path, states={})
    assert model.inputs[0].dtype == np.float16
    agree("exact", whole(model, {"x": x}), {"y": x.astype(np.float32)})


def test_topk_indices_alone(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 9)).astype(np.float32)
    proto = model_of([("TopK", ["x", "k"], ["", "places"], {})], {"x": x}, k=np.array([2]))
    agree("exact", whole(loaded(proto, tmp_path, states={}), {"x": x}), {"places": np.argsort(-x, -1, kind="stable")[:, :2]})


def sequence(steps: list[Step], **constants: Array) -> onnx.ModelProto:
    """A GRU over x [T, N, 5] whose Y [T, 1, N, 7] the steps take."""
    rng = np.random.default_rng(5)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in {"W": (1, 21, 5), "R": (1, 21, 7)}.items()}
    first: list[Step] = [("GRU", ["x", "W", "R"], ["h"], {"hidden_size": 7})]
    proto = model_of([*first, *steps], {"x": np.zeros((1, 1, 5), np.float32)}, **constants, **weights)
    shape = proto.graph.input[0].type.tensor_type.shape
    shape.dim[0].dim_param, shape.dim[1].dim_param = "T", "N"
    kept = [o for o in proto.graph.output if o.name != "h"]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    for output in kept:
        output.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return proto


SUMS: list[Step] = [
    ("CumSum", ["h", "time"], ["inclusive"], {}),
    ("CumSum", ["h", "time"], ["exclusive"], {"exclusive": 1}),
    ("ReduceMean", ["h", "time_and_hidden"], ["mean"], {"keepdims": 0}),
    ("ReduceMax", ["h", "time_and_hidden"], ["largest"], {"keepdims": 1}),
]


def test_sums_over_time(tmp_path: Path) -> None:
    proto = sequence(SUMS, time=np.array(0), time_and_hidden=np.array([0, 3]))
    model = loaded(proto, tmp_path)
    x = np.random.default_rng(3).standard_normal((19, 1, 5)).astype(np.float32)
    found = whole(model, {"x": x})
    agree("close", found, in_onnxruntime(proto, {"x": x}))
    at_once, parts = model.stream().run(x[:, 0]), model.stream()
    pieces = [parts.run(piece) for piece in (x[:1, 0], x[1:8, 0], x[8:, 0])]
    for name in ("inclusive", "exclusive"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        np.testing.assert_array_equal(joined, getattr(at_once, name))
        np.testing.assert_array_equal(joined.ravel(), found[name].ravel())
    for name in ("mean", "largest"):
        np.testing.assert_array_equal(getattr(pieces[-1], name), getattr(at_once, name))


def test_sums_from_the_end_of_time(tmp_path: Path) -> None:
    """Beside the frames that they are of, so that both have one time axis."""
    steps: list[Step] = [
        ("CumSum", ["h", "time"], ["coming"], {"reverse": 1}),
        ("CumSum", ["h", "time"], ["after"], {"reverse": 1, "exclusive": 1}),
        ("Mul", ["h", "coming"], ["scaled"], {}),
    ]
    proto = sequence(steps, time=np.array(0))
    model = loaded(proto, tmp_path)
    for frames in (1, 19):
        x = np.random.default_rng(frames).standard_normal((frames, 1, 5)).astype(np.float32)
        agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}))
    with pytest.raises(tinyrnn.StreamError, match="sums from the end"):
        model.stream()


def test_argmax_over_time_does_not_stream(tmp_path: Path) -> None:
    proto = sequence([("ArgMax", ["h"], ["place"], {"axis": 0, "keepdims": 0})])
    with pytest.raises(tinyrnn.TinyRNNError, match=r"ArgMax along the time axis"):
        loaded(proto, tmp_path).stream()


def _ulps(found: Array, exact: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float32)
        ulps = np.abs(found - exact) / np.spacing(np.abs(rounded)).astype(np.float64)
        return np.asarray(np.where(np.isfinite(rounded), ulps, 0.0))


def _stated(function: Any) -> float:
    stated = re.search(r"(\d+\.\d+) ULP", function.__doc__)
    assert stated, "the docstring states no maximum error"
    return float(stated.group(1))


def test_trigonometry_within_the_errors_of_the_docstrings(tmp_path: Path) -> None:
    x = np.arange(0, 1 << 32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
    steps: list[Step] = [(name.capitalize(), ["x"], [name], {}) for name in ("sin", "cos", "tan")]
    found = whole(loaded(model_of(steps, {"x": x}), tmp_path, states={}), {"x": x})
    near, defined = np.abs(x) <= 1e5, np.abs(x) <= lanes_trig.BOUND
    for name, function in {"sin": np.sin, "cos": np.cos, "tan": np.tan}.items():
        y, exact = found[name], function(np.where(defined, x, 0).astype(np.float64))
        assert _ulps(y[near], exact[near]).max() <= _stated(getattr(lanes_trig, name))
        np.testing.assert_array_equal(np.isnan(y), ~defined)
        if name != "tan":
            assert np.abs(y[defined] - exact[defined]).max() <= 1e-6


def test_powers_within_the_error_of_the_docstring(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.exp(np.concatenate([rng.uniform(-1, 1, 60000), rng.uniform(-103, 88, 60000)])).astype(np.float32)
    y = (rng.uniform(-87, 89, len(x)) / np.log(x.astype(np.float64))).astype(np.float32)
    edges = np.array([0.0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 3, -3, 2.5, np.inf, -np.inf, np.nan, 2.0**25, -1e38, 1e-40], np.float32)
    x, y = (np.concatenate([random, e.ravel()]) for random, e in zip((x, y), np.meshgrid(edges, edges), strict=True))
    given = {"x": x, "y": y}
    found = whole(loaded(model_of([("Pow", ["x", "y"], ["z"], {})], given), tmp_path, states={}), given)["z"]
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        rounded = exact.astype(np.float32)
    assert _ulps(found, exact).max() <= _stated(lanes_power.power)
    special = ~np.isfinite(rounded) | (rounded == 0) | (np.abs(rounded) == 1)
    np.testing.assert_array_equal(found[special], rounded[special])
    np.testing.assert_array_equal(np.signbit(found[rounded == 0]), np.signbit(rounded[rounded == 0]))
