"""`check`: it passes on models that are right, and fails on every kind of wrong one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import MODELS, SHARED
from tinyrnn.check import TOLERANCES, Report, check, check_model, difference, excess, within
from tinyrnn.check.oracles import Session
from tinyrnn.errors import ShapeError, TinyRNNError
from tinyrnn.runtime import Model, Stream

SHARED_MODELS = SHARED / "models"

OURS = [
    "cell_lstm_dynB_legacy",
    "cell_gru_stack2_linear_dynamo",
    "packed_state_lstm_step_legacy",
    "lm_lstm_l2_states_step_legacy",
    "lstm_l2_uni_sf_states_dynT_dynB_legacy",
    "gru_l3_uni_sf_zero_dynT_b1_legacy",
    "classify_lstm_last_fixT_legacy",
    "lm_gru_states_softmax_dynT_legacy",
    "gru_l2_bi_sf_zero_dynT_b2_legacy",
    "lm_lstm_l2_states_dynT_dynamo",
    "architectures/stridelstm_open_dynamo",
    "architectures/convvalid_open_dynamo",
    "architectures/lookahead_open_dynamo",
    "architectures/upsampled_open_dynamo",
]
REAL = ["dtln_model_1", "dtln_model_2", "g2p_id_encoder", "g2p_id_decoder", "mlagents_hallway"]

Tamper = Callable[[Model], Model]


def f32(values: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


def ours(name: str) -> Path:
    return MODELS / f"{name}.onnx"


# The table of tolerances.


def test_levels_are_ordered() -> None:
    assert list(TOLERANCES) == ["exact", "close", "approximate"]
    for name, close in TOLERANCES["close"].items():
        loose = TOLERANCES["approximate"][name]
        assert 0 < close.absolute < loose.absolute and 0 < close.relative <= loose.relative
    assert (TOLERANCES["close"]["float32"].absolute, TOLERANCES["close"]["float32"].relative) == (1e-5, 1e-4)


def test_close_is_absolute_plus_relative() -> None:
    expected = f32([0.0, 100.0])
    assert within("close", expected + f32([0.9e-5, 0.99e-2]), expected)
    assert not within("close", expected + f32([1.1e-5, 0.0]), expected)
    assert not within("close", expected + f32([0.0, 1.02e-2]), expected)
    assert excess("close", f32([2e-5]), f32([0.0])) == pytest.approx(2.0, rel=1e-3)


def test_exact_means_bits() -> None:
    x = f32([1.0, np.nan, 0.0])
    assert within("exact", x, x.copy())
    assert not within("exact", x, np.nextafter(x, np.float32(2.0)))
    assert not within("exact", f32([0.0]), f32([-0.0]))
    assert not within("exact", x, x.astype(np.float64))


@pytest.mark.parametrize("level", TOLERANCES)
def test_shape_and_numbers_that_are_none(level: str) -> None:
    one = np.ones((2, 3), np.float32)
    assert not within(level, one, one.ravel())
    assert not within(level, one * np.float32(np.nan), one)
    assert not within(level, one, one * np.float32(np.nan))
    assert not within(level, one * np.float32(np.inf), one)
    assert not within(level, one * np.float32(np.inf), -one * np.float32(np.inf))
    assert within(level, one * np.float32(np.inf), one * np.float32(np.inf))
    assert within(level, np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert not within(level, np.array([1, 2]), np.array([1, 3]))
    assert within(level, np.array([True]), np.array([True]))


def test_the_coarser_type_decides() -> None:
    assert within("close", f32([1.00001]), np.array([1.0]))
    assert within("close", np.array([1.00001]), f32([1.0]))
    assert not within("close", np.array([1.00001]), np.array([1.0]))


def test_difference() -> None:
    expected = f32([[1.0, 2.0], [4.0, 0.0]])
    actual = expected.copy()
    actual[1, 0] = np.nextafter(np.float32(4.0), np.float32(5.0))
    found = difference(actual, expected)
    assert found.ulp == 1.0 and found.place == (1, 0) and found.absolute == np.spacing(np.float32(4.0))
    assert found.relative == pytest.approx(found.absolute / 4) and (found.actual, found.expected) == (float(actual[1, 0]), 4.0)
    assert difference(expected * np.float32(np.nan), expected).absolute == np.inf
    assert difference(np.array([3, 9]), np.array([3, 4])).absolute == 5
    with pytest.raises(ShapeError):
        difference(expected, expected.ravel())
    with pytest.raises(ValueError, match="exact, close, approximate"):
        within("loose", expected, expected)


# Models that are right.


@pytest.mark.parametrize("name", OURS)
def test_ours_pass(name: str) -> None:
    report = check(ours(name), frames=40)
    assert report.passed, str(report)
    assert report.oracle.startswith("onnxruntime"), str(report)
    assert {row.name for row in report.rows} >= {p.name for p in tinyrnn.load(ours(name)).outputs}


@pytest.mark.filterwarnings("ignore:.*states no seed")
@pytest.mark.parametrize("name", REAL)
def test_real_models_pass(name: str) -> None:
    path = SHARED_MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    report = check(path, frames=100)
    assert report.passed, str(report)
    assert report.oracle.startswith("onnxruntime") and report.frames == 100
    assert set(report.invariance) == {"step", "run in 1", "run in 7", "run in 64", "run", "Model.run"}


def test_every_way_and_every_state_is_compared() -> None:
    report = check(ours("lstm_l2_uni_sf_states_dynT_dynB_legacy"), frames=30, chunks=(1, 4, 500))
    seen = {(row.name, row.way) for row in report.rows}
    ways = ("step", "run in 1", "run in 4", "run", "Model.run", "Model.run, 2 sequences, random states")
    assert {(name, way) for name in ("y", "h0", "c0") for way in ways} <= seen
    drift = next(row.drift for row in report.rows if row.name == "y")
    assert len(drift) == 10 and max(drift) == next(row.difference.absolute for row in report.rows if row.name == "y")


def test_states_that_the_file_does_not_hand_out_are_compared_with_float64() -> None:
    report = check(ours("gru_l3_uni_sf_zero_dynT_b1_legacy"), frames=20)
    states = [row for row in report.rows if row.kind == "state"]
    assert len(states) == 3 and all(row.against == "float64 reference" and row.passed for row in states)


def test_a_fixed_time_axis_is_kept_and_said() -> None:
    report = check(ours("classify_lstm_last_fixT_legacy"), frames=50)
    assert report.frames == 6 and report.sequences == 2 and any("fixes its time axis at 6" in note for note in report.notes)
    assert "run (50 frames)" in report.invariance


def test_a_model_that_cannot_stream_is_compared_whole() -> None:
    report = check(ours("gru_l2_bi_sf_zero_dynT_b2_legacy"), frames=20)
    assert {row.way for row in report.rows} == {"Model.run"} and any("bidirectional" in note for note in report.notes)


def test_report_is_json_and_text() -> None:
    report = check(ours("lm_lstm_l2_states_step_legacy"), frames=20)
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["passed"] is True and plain["rows"][0]["name"] == "y" and len(plain["rows"][0]["drift"]) == 10
    assert str(report).endswith("passed") and "chunk invariance: the same bits" in str(report)
    assert not Report("m", "step", 1, 1, "close", "").passed, "a check that compared nothing has not passed"


def test_progress_goes_up_to_its_total() -> None:
    seen: list[tuple[int, int]] = []
    check(ours("cell_lstm_legacy"), frames=20, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1


# Given data.


def test_data_as_frames_and_in_file_shapes() -> None:
    path = ours("lm_lstm_l2_states_dynT_legacy")
    tokens = np.arange(30) % 11
    reports = [check(path, data={"tokens": array}) for array in (tokens, tokens[None], tokens.astype(np.int32))]
    assert all(r.passed and r.frames == 30 and r.data == "given data" for r in reports)
    assert reports[0].as_dict() == reports[1].as_dict()


def test_data_of_several_sequences_and_states() -> None:
    rng = np.random.default_rng(1)
    model = tinyrnn.load(ours("lstm_l2_uni_sf_states_dynT_dynB_legacy"))
    x = rng.standard_normal((12, 3, model.inputs[0].size)).astype(np.float32)
    states = {p.name: rng.standard_normal((p.shape[0], 3, p.shape[1])).astype(np.float32) for p in model._layout.state_inputs}
    report = check(ours("lstm_l2_uni_sf_states_dynT_dynB_legacy"), data={"x": x, **states})
    assert report.passed and report.sequences == 3 and report.frames == 12 and not report.notes, str(report)
    assert "Model.run, 3 sequences, random states" in {row.way for row in report.rows}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "lacks 'x'.*takes x: float32"),
        ({"x": np.zeros((3, 5), np.float32), "z": np.zeros(1)}, "has 'z'.*takes x"),
        ({"x": np.zeros((3, 4), np.float32)}, "shape"),
        ({"x": np.zeros((0, 5), np.float32)}, "no frames"),
        ({"x": np.array([["a"] * 5])}, "float32"),
    ],
)
def test_data_that_does_not_fit(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ShapeError, match=f"(?s)cell_lstm_legacy.*{says}"):
        check(ours("cell_lstm_legacy"), data=data)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="1 or more"):
        check(ours("cell_lstm_legacy"), frames=0)
    with pytest.raises(ShapeError, match="1 or more"):
        check(ours("cell_lstm_legacy"), chunks=(1, 0))
    with pytest.raises(ShapeError, match="fixes its time axis at 6"):
        check(ours("classify_lstm_last_fixT_legacy"), data={"x": np.zeros((5, 5), np.float32)})


# Where onnxruntime is of no help.


def lstm_file(path: Path, **attributes: Any) -> Path:
    rng = np.random.default_rng(3)
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) * 0.5).astype(np.float32), name)
        for name, shape in (("W", (1, 16, 3)), ("R", (1, 16, 4)), ("B", (1, 32)))
    ]
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y", "hn"], hidden_size=4, **attributes)
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "hn")],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_rounded_weights_are_approximate(tmp_path: Path) -> None:
    path = lstm_file(tmp_path / "lstm.onnx")
    assert check(path, frames=20, weights="float32").level == "close"
    report = check(path, frames=20, weights={"*": "int8"})
    assert report.passed and report.level == "approximate", str(report)
    assert not check(path, frames=20, weights="int8", level="close").passed


def test_layout_1_falls_back_on_the_reference(tmp_path: Path) -> None:
    report = check(lstm_file(tmp_path / "batchwise.onnx", layout=1), frames=20)
    assert report.passed and report.oracle == "float64 reference"
    assert any("onnxruntime" in note and "layout" in note for note in report.notes)
    assert "Model.run, 2 sequences" in {row.way for row in report.rows}


def test_nodes_of_one_name_have_their_own_states(tmp_path: Path) -> None:
    proto = onnx.load(ours("gru_l3_uni_sf_zero_dynT_b1_legacy"))
    for node in proto.graph.node:
        node.name = "same"
    onnx.save(proto, tmp_path / "same.onnx")
    report = check(tmp_path / "same.onnx", frames=20)
    assert report.passed and len({row.name for row in report.rows if row.kind == "state"}) == 3, str(report)
    assert report.oracle == "float64 reference" and any("same node name" in note for note in report.notes)


def test_npz_falls_back_on_the_reference(tmp_path: Path) -> None:
    pytest.importorskip("tinyrnn.frontends.npz")
    tinyrnn.save(tinyrnn.load(ours("cell_lstm_legacy")), tmp_path / "cell.npz")
    report = check(tmp_path / "cell.npz", frames=20)
    assert report.passed and report.oracle == "float64 reference" and any("no ONNX file" in note for note in report.notes)


def test_onnxruntime_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TinyRNNError, match="pip install onnxruntime"):
        check(ours("cell_lstm_legacy"))


def test_bound_inputs_are_constants_for_onnxruntime() -> None:
    h = np.full((1, 6), 0.25, np.float32)
    report = check(ours("cell_gru_legacy"), bind={"h": h}, frames=10)
    assert report.passed and report.oracle.startswith("onnxruntime") and report.kind == "static", str(report)
    sizes = check(ours("lstm_l2_uni_sf_states_dynT_dynB_legacy"), bind={"B": 2}, frames=10)
    assert sizes.passed and sizes.sequences == 2, str(sizes)


# A check that cannot fail is worthless.


def one_weight(model: Model) -> Model:
    weights = tinyrnn.runtime.aligned(len(model._layout.weights))
    weights[:] = model._layout.weights
    values = weights.view(np.float32)[weights.size // 8 :]  # the first may be rows of a table that no index selects
    values[int(np.abs(values).argmax())] += np.float32(0.05)
    return Model(replace(model._layout, weights=weights), model._code, model._source)


def states_swapped(model: Model) -> Model:
    parts = model._layout.state_parts
    names = [part[0] for part in parts][::-1]
    swapped = tuple((name, *part[1:]) for name, part in zip(names, parts, strict=True))
    return Model(replace(model._layout, state_parts=swapped), model._code, model._source)


class Disturbed(Model):
    """A model of which one number in what a way of running gives is off by `by`, or by one bit where that is 0."""

    way, frame, by = "step", 3, 0.0

    def stream(self) -> Stream:
        stream, calls = super().stream(), [0]
        given = getattr(stream, self.way)

        def disturbed(*inputs: Any) -> Any:
            made = given(*inputs)
            first = made[0] if isinstance(made, tuple) else made
            if calls[0] == (self.frame if self.way == "step" else 0):
                flat = first.reshape(-1)
                flat[-1] = flat[-1] + np.float32(self.by) if self.by else np.nextafter(flat[-1], np.float32(9))
            calls[0] += 1
            return made

        setattr(stream, self.way, disturbed)
        return stream


def disturbed(way: str, by: float) -> Tamper:
    def tamper(model: Model) -> Model:
        other = Disturbed(model._layout, model._code, model._source)
        other.way, other.by = way, by
        return other

    return tamper


TAMPERED = {
    "one weight": one_weight,
    "states swapped": states_swapped,
    "one step": disturbed("step", 1e-3),
    "one run": disturbed("run", 1e-3),
    "a step of nan": disturbed("step", float("nan")),
    "one bit of a step": disturbed("step", 0.0),
    "one bit of a run": disturbed("run", 0.0),
}


@pytest.mark.parametrize("what", TAMPERED)
@pytest.mark.parametrize("name", ["lm_lstm_l2_states_step_legacy", "lstm_l2_uni_sf_states_dynT_dynB_legacy"])
def test_a_tampered_model_fails(name: str, what: str) -> None:
    model = tinyrnn.load(ours(name))
    assert check_model(model, ours(name), frames=20).passed
    report = check_model(TAMPERED[what](model), ours(name), frames=20)
    assert not report.passed, str(report)
    assert "FAILED" in str(report) and report.as_dict()["passed"] is False
    if "bit" in what:
        assert all(row.passed for row in report.rows) and any(report.invariance.values())
    else:
        assert not all(row.passed for row in report.rows)


def test_a_state_that_only_the_reference_knows_fails_too() -> None:
    path = ours("lm_lstm_scores_dynT_legacy")
    report = check_model(states_swapped(tinyrnn.load(path)), path, frames=20)
    assert not report.passed and {row.kind for row in report.rows if not row.passed} == {"state"}


def test_another_file_fails(tmp_path: Path) -> None:
    proto = onnx.load(ours("lm_lstm_scores_dynT_legacy"))
    weights = next(t for t in proto.graph.initializer if len(t.dims) == 3)
    array = numpy_helper.to_array(weights).copy()
    array.reshape(-1)[5] += 0.01
    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    onnx.save(proto, tmp_path / "other.onnx")
    report = check_model(tinyrnn.load(ours("lm_lstm_scores_dynT_legacy")), tmp_path / "other.onnx", frames=40)
    assert not report.passed and any(not row.passed for row in report.rows if row.kind == "output")


def test_drift_that_grows_is_seen() -> None:
    class Drifting(Model):
        def stream(self) -> Stream:
            stream = super().stream()
            given, calls = stream.step, [0]

            def step(*inputs: Any) -> Any:
                calls[0] += 1
                return given(*inputs) + np.float32(calls[0] ** 3 * 1e-8)

            stream.step = step  # type: ignore[assignment, method-assign]
            return stream

    path = ours("lm_lstm_scores_dynT_legacy")
    model = tinyrnn.load(path)
    report = check_model(Drifting(model._layout, model._code, model._source), path, frames=100)
    grows = {row.way for row in report.rows if row.grows}
    assert grows == {"step"} and not report.passed and "grows" in str(report)


def steep_file(path: Path, gain: float, weights: int = 0) -> Path:
    """y = sin(gain (x W)), float32[1, 64] → float32[1, 8]: with a large gain rounding is amplified."""
    rng = np.random.default_rng(weights)
    W = (rng.standard_normal((64, 8)) * gain).astype(np.float32)
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, k]) for n, k in (("x", 64), ("y", 8))]
    nodes = [onnx.helper.make_node("MatMul", ["x", "W"], ["z"]), onnx.helper.make_node("Sin", ["z"], ["y"])]
    made = onnx.helper.make_graph(nodes, "steep", ports[:1], ports[1:], [onnx.numpy_helper.from_array(W, "W")])
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def onnxruntime_gives(monkeypatch: pytest.MonkeyPatch, change: Any, rounding: float = 0.0) -> None:
    """Let the session see inputs that are off by `rounding`, and change what it gives."""
    run, rng = Session.__call__, np.random.default_rng(5)

    def call(self: Session, feeds: Any) -> Any:
        moved = {n: (a * (1 + rounding * rng.choice([-1, 1], a.shape))).astype(a.dtype) for n, a in feeds.items()}
        return {name: change(array) for name, array in run(self, moved).items()}

    monkeypatch.setattr(Session, "__call__", call)


def test_rounding_that_a_model_amplifies_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = steep_file(tmp_path / "steep.onnx", 100.0)
    onnxruntime_gives(monkeypatch, lambda y: y, 2.0**-21)
    report = check(path)
    assert max(row.excess for row in report.rows) > 1.0
    assert report.passed
    assert any("output y is ill-conditioned: against float64 over the same frames tinyrnn is off by" in n for n in report.notes)


def test_a_wrong_model_fails_however_ill_conditioned(tmp_path: Path) -> None:
    path, other = (steep_file(tmp_path / f"{n}.onnx", 100.0, n) for n in (0, 1))
    assert not check_model(tinyrnn.load(other), path).passed


def test_float64_alone_excuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime_gives(monkeypatch, lambda y: y * np.float32(1.01))
    assert not check(steep_file(tmp_path / "flat.onnx", 0.1)).passed
