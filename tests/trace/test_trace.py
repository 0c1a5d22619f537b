"""A run seen from inside: the same bits as the run, its gates those of the equations, and a model not traced without any of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import tinyrnn
from tests import MODELS
from tests.ops.recurrent_cases import GATES, RecurrentCase, build, expected
from tinyrnn.check import excess
from tinyrnn.check.samples import random_sample
from tinyrnn.cli import main
from tinyrnn.compile.codegen import generate
from tinyrnn.compile.planner import make_plan
from tinyrnn.data.vocabulary import encode, vocabulary_of
from tinyrnn.errors import ShapeError, StreamError
from tinyrnn.loading import stages as compiler
from tinyrnn.runtime import Model
from tinyrnn.targets.machine import host
from tinyrnn.trace import Layer, Trace
from tinyrnn.trace.picture import colour, draw, lines_of

LANGUAGE = Path(tinyrnn.__file__).parent / "models" / "char_lm.onnx"
BACKWARD = MODELS / "lstm_l1_bi_sf_zero_fixT_b2_legacy.onnx"
STEP = MODELS / "packed_state_lstm_step_legacy.onnx"
TEXT = "To be, or not to be:\nthat is the question.\n"


@pytest.fixture(scope="module")
def language() -> Model:
    return tinyrnn.load(LANGUAGE)


@pytest.fixture(scope="module")
def inside(language: Model) -> tuple[str, int]:
    """The layer of the language model and its number of cells."""
    (node,) = (n for n in language._source.program.graph.nodes if n.op == "LSTM")
    return node.name, node.attributes["R"].shape[-1]


# --- what the kernels keep, against the equations --------------------------------------------------------------------

CASES = [
    RecurrentCase(
        "trace LSTM",
        "LSTM",
        {"hidden_size": 19, "direction": "bidirectional", "clip": 2.5},
        5,
        2,
        3,
        19,
        ("B", "sequence_lens", "initial_h", "initial_c", "P"),
        ("Y_h",),
        14,
        (3, 5),
    ),
    RecurrentCase(
        "trace LSTM coupled",
        "LSTM",
        {"hidden_size": 16, "input_forget": 1, "layout": 1},
        4,
        2,
        40,
        16,
        ("B", "initial_h", "initial_c"),
        ("Y", "Y_c"),
        14,
    ),
    RecurrentCase("trace GRU", "GRU", {"hidden_size": 33, "direction": "reverse"}, 4, 2, 3, 33, ("B", "initial_h"), ("Y",), 14),
    RecurrentCase(
        "trace GRU linear",
        "GRU",
        {"hidden_size": 5, "linear_before_reset": 1, "layout": 1, "direction": "bidirectional"},
        4,
        2,
        3,
        5,
        ("B", "initial_h"),
        ("Y", "Y_h"),
        14,
    ),
    RecurrentCase(
        "trace RNN",
        "RNN",
        {"hidden_size": 18, "direction": "bidirectional", "activations": ["Relu", "Tanh"]},
        4,
        2,
        3,
        18,
        ("B", "sequence_lens"),
        ("Y",),
        14,
        (4, 2),
        0.5,
    ),
]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _walk(case: RecurrentCase, values: dict[str, Any], n: int, d: int) -> dict[str, np.ndarray]:
    """One sequence and direction in float64, straight from the equations of the specification: name → [T, H]."""
    H, G, lay = case.H, GATES[case.op], case.layout
    W, R = (values[k][d].astype(np.float64).reshape(G, H, -1) for k in "WR")
    Wb, Rb = values["B"][d].astype(np.float64).reshape(2, G, H)
    X = values["X"].astype(np.float64)
    X = X[n] if lay else X[:, n]
    h, c = (
        np.zeros(H) if k not in values else (values[k][n, d] if lay else values[k][d, n]).astype(np.float64)
        for k in ("initial_h", "initial_c")
    )
    P = values["P"][d].astype(np.float64).reshape(3, H) if "P" in values else np.zeros((3, H))
    bound = case.attributes.get("clip", np.inf)
    length = case.sequence_lens[n] if case.sequence_lens else case.T
    order = range(length)[::-1] if d or case.attributes.get("direction") == "reverse" else range(length)
    kept: dict[str, np.ndarray] = {}

    def keep(t: int, **now: np.ndarray) -> None:
        for name, value in now.items():
            kept.setdefault(name, np.zeros((case.T, H)))[t] = value

    def clip(x: np.ndarray) -> np.ndarray:
        return np.clip(x, -bound, bound)

    for t in order:
        a, b = W @ X[t] + Wb, R @ h + Rb
        if case.op == "RNN":
            f = (lambda x: np.maximum(x, 0)) if case.attributes["activations"][d] == "Relu" else np.tanh
            h = f(a[0] + b[0])
        elif case.op == "GRU":
            z, r = _sigmoid(a[0] + b[0]), _sigmoid(a[1] + b[1])
            inner = r * b[2] if case.attributes.get("linear_before_reset") else R[2] @ (r * h) + Rb[2]
            g = np.tanh(a[2] + inner)
            h = (1 - z) * g + z * h
            keep(t, z=z, r=r, h=g)
        else:
            i = _sigmoid(clip(a[0] + b[0] + P[0] * c))
            f = 1 - i if case.attributes.get("input_forget") else _sigmoid(clip(a[2] + b[2] + P[2] * c))
            g = np.tanh(clip(a[3] + b[3]))
            c = f * c + i * g
            o = _sigmoid(clip(a[1] + b[1] + P[1] * c))
            h = o * np.tanh(c)
            keep(t, i=i, o=o, f=f, c=g, Ct=c)
        keep(t, Ht=h)
    return kept


@pytest.mark.parametrize("case", CASES, ids=str)
def test_everything_kept_is_that_of_the_equations(case: RecurrentCase, tmp_path: Path) -> None:
    proto, inputs = build(case)
    values = inputs | {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    onnx.save(proto, tmp_path / "case.onnx")
    model = tinyrnn.load(tmp_path / "case.onnx")
    outputs = expected(proto, inputs)
    for n in range(case.N):
        trace = model.trace(inputs, entry=n)
        layer = trace.layer("layer")
        assert layer.axes == ("time", "direction", "unit")[:: 1 if case.directions == 2 else 2]
        for name, array in layer.arrays.items():
            right = np.stack([_walk(case, values, n, d)[name] for d in range(case.directions)], axis=1)
            assert excess("close", array.reshape(right.shape), right) <= 1, name
        for name in {"Y"} & set(outputs):
            right = outputs[name][n] if case.layout else outputs[name][:, :, n]
            assert excess("close", trace.outputs[name].reshape(right.shape), right) <= 1


# --- the same run ----------------------------------------------------------------------------------------------------

STREAMS = {
    "sequence": MODELS / "linear_relu_gru_residual_dynT_legacy.onnx",
    "states in and out": STEP,
    "only states come out": MODELS / "cell_gru_legacy.onnx",
    "looks ahead": MODELS / "keras" / "conv_same_gru_keras.onnx",
    "strides": MODELS / "keras" / "conv_stride2_lstm_keras.onnx",
    "a row for a call": MODELS / "opset11_classify_gru_last_dynT_legacy.onnx",
    "no layer": MODELS / "keras" / "depthwise_causal_keras.onnx",
}


def _tuple(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("what", STREAMS)
def test_a_traced_stream_goes_on_as_a_run(what: str) -> None:
    model = tinyrnn.load(STREAMS[what])
    sample = random_sample(model, 21, seed=4)
    inputs = {name: array[0] for name, array in sample.inputs.items()}
    text = model._source.source.text
    traced, plain = model.stream(), model.stream()
    for first, last in ((0, 9), (9, 21)):
        piece = {p.name: inputs[p.name][first:last] if p.per_frame else inputs[p.name] for p in model.inputs}
        trace = traced.trace(piece, end=last == 21)
        made = [[row] for row in _tuple(plain.run(piece))]
        if last == 21 and model.has_tail:
            for rows, tail in zip(made, _tuple(plain.flush()), strict=True):
                rows += [] if tail is None else [tail]
        for port, rows in zip(model.outputs, made, strict=True):
            np.testing.assert_array_equal(trace.outputs[port.name], np.concatenate(rows) if port.per_frame else rows[-1])
        np.testing.assert_array_equal(traced.state.view(np.int32), plain.state.view(np.int32))
        assert trace.frames == last - first and all(name in str(trace) for name in trace.layers)
    assert bool(trace.layers) != bool(trace.states)
    if model.has_tail:
        with pytest.raises(StreamError, match="ended"):
            traced.run(piece)
    machine = host()
    assert generate(make_plan(model._source.program, machine.lanes, machine.registers)).text == text, "tracing changed the model"
    assert "kept" not in text


def test_a_trace_in_pieces_is_the_trace_of_the_whole(language: Model) -> None:
    xs = encode(TEXT, vocabulary_of(language))
    whole, pieces = language.stream().trace(xs), language.stream()
    parts = [pieces.trace(xs[:7]), pieces.trace(xs[7:])]
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(np.concatenate([p.arrays[name] for p in parts]), array)
        np.testing.assert_array_equal(whole.part(7, 20).arrays[name], array[7:20])


def test_what_was_kept_is_what_came_out() -> None:
    """Of a model whose output is the hidden state, bit for bit; and the states of a stream are the last ones."""
    model = tinyrnn.load(MODELS / "lstm_nobias_dynT_legacy.onnx")
    stream = model.stream()
    trace = stream.trace(np.random.default_rng(1).standard_normal((9, *model.inputs[0].shape)).astype(np.float32))
    layer = trace.layer()
    assert layer.c is not None
    np.testing.assert_array_equal(layer.h, next(iter(trace.outputs.values())).reshape(layer.h.shape))
    for part, array in (("h", layer.h), ("c", layer.c)):
        np.testing.assert_array_equal(next(v for n, v in stream.states.items() if n.endswith(f".{part}")).ravel(), array[-1])


def test_a_model_is_compiled_again_once_and_only_when_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRNN_CACHE", "")  # from the cache nothing is compiled
    compiled: list[str] = []
    before = compiler.compile_source
    monkeypatch.setattr(compiler, "compile_source", lambda source: compiled.append(source.text) or before(source))
    model = tinyrnn.load(STEP)
    model.stream().run(np.zeros((3, *model.inputs[0].shape), np.float32))
    assert len(compiled) == 1 and "kept" not in compiled[0]
    for _ in range(3):
        model.stream().trace(np.zeros((3, *model.inputs[0].shape), np.float32))
    assert len(compiled) == 2 and "kept" in compiled[1]


def test_a_whole_model_of_open_size() -> None:
    model = tinyrnn.load(MODELS / "keras" / "attention_pool_keras.onnx")
    x = np.random.default_rng(2).standard_normal((1, 11, *model.inputs[0].shape[1:])).astype(np.float32)
    trace = model.trace(x)
    layer = trace.layer()
    assert layer.inside and layer.axes == ("time", "step", "unit") and layer.table(layer.h).shape[0] == 11
    np.testing.assert_array_equal(trace.outputs[model.outputs[0].name].ravel(), np.ravel(model.run(x)))


def test_a_batch_has_entries() -> None:
    model = tinyrnn.load(BACKWARD)
    x = random_sample(model, 6, 2).feeds(model)
    one, other = (model.trace(x, entry=n) for n in (0, 1))
    assert not np.array_equal(one.layer().h, other.layer().h) and one.layer().axes == ("time", "direction", "unit")
    with pytest.raises(ShapeError, match="no sequence 2 in a batch of 2"):
        model.trace(x, entry=2)
    with pytest.raises(StreamError, match="cannot stream"):
        model.stream()


def test_wrong_calls_change_nothing(language: Model, inside: tuple[str, int]) -> None:
    name, cells = inside
    stream = language.stream()
    stream.run(np.array([1, 2, 3]))
    before = stream.state.copy()
    for wrong, says in (([[0.5]], "takes int64"), (np.array([999]), "out of range"), (np.zeros((2, 3), np.int64), "shape")):
        with pytest.raises(ShapeError, match=says):
            stream.trace(np.asarray(wrong))
        np.testing.assert_array_equal(stream.state, before)
    trace = stream.trace(np.array([1]))
    with pytest.raises(ShapeError, match=f"no recurrent layer 'nothing'; it has '{name}'"):
        trace.layer("nothing")
    with pytest.raises(ShapeError, match=f"no cell {cells}; this LSTM has {cells}: 0 to {cells - 1}"):
        trace.layer().cell(cells)
    with pytest.raises(StreamError, match="not made by tinyrnn.load"):
        Model(language._layout, language._code).stream().trace(np.array([1]))


def test_no_frames(language: Model, inside: tuple[str, int]) -> None:
    trace = language.stream().trace(np.zeros(0, np.int64))
    assert trace.frames == 0 and trace.layer().h.shape == (0, inside[1]) and "no rows" in str(trace)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_colours() -> None:
    assert colour(0) == colour(float("nan")) == (255, 255, 255)
    assert colour(2) == colour(1) and colour(-3) == colour(-1)
    red, blue = colour(0.5), colour(-0.5)
    assert red[0] > red[2] and blue[2] > blue[0]


def test_lines_of_text_keep_their_values() -> None:
    lines = lines_of(TEXT + "x" * 200, np.arange(len(TEXT) + 200.0))
    assert "".join(line for line, _ in lines) == (TEXT + "x" * 200).replace("\n", "⏎")
    np.testing.assert_array_equal(np.concatenate([values for _, values in lines]), np.arange(len(TEXT) + 200))
    assert [len(line) for line, _ in lines] == [21, 22, 80, 80, 40]


def test_time_of_late_rows() -> None:
    model = tinyrnn.load(STREAMS["strides"])
    trace = model.stream().trace(random_sample(model, 12).inputs[model.inputs[0].name][0])
    (name,) = trace.layers
    assert trace.times[model.inputs[0].name] == (0.0, 1.0) and trace.times[name][1] == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Trace(
            "m",
            3,
            {"x": np.zeros((3, 2))},
            {"y": np.full((3, 99), np.nan)},
            {},
            {"s": np.ones((3, 70))},
            dict.fromkeys("xys", (0.0, 1.0)),
        ),
        lambda: Trace(
            "m",
            1,
            {"x": np.zeros((1, 5, 2))},
            {"y": np.zeros(4)},
            {"l": Layer("RNN", ("time", "step", "unit"), {}, np.linspace(-3, 0, 35).reshape(1, 5, 7), None)},
            {},
            {"x": (0.0, 1.0), "l": (0.0, 1.0)},
        ),
    ],
)
def test_pictures_of_odd_traces(tmp_path: Path, make: Callable[[], Trace]) -> None:
    assert draw(make(), tmp_path / "a.png") == ""
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


# --- the command -----------------------------------------------------------------------------------------------------


def call(*arguments: object, status: int = 0) -> Any:
    result = CliRunner().invoke(main, ["trace", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_text_as_picture_arrays_and_colours(tmp_path: Path, language: Model, inside: tuple[str, int]) -> None:
    name, cells = inside
    (tmp_path / "in.txt").write_text(TEXT)
    assert f"{len(TEXT)} frames, 1 recurrent layer" in call(LANGUAGE, tmp_path / "in.txt", "-o", tmp_path / "a.png").stdout
    call(LANGUAGE, "--text", TEXT, "--cell", 38, "-o", tmp_path / "b.png")
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("a.png", "b.png"))
    call(LANGUAGE, "--text", TEXT, "--frames", "5:30", "-o", tmp_path / "a.npz")
    whole = language.stream().trace(encode(TEXT, vocabulary_of(language)))
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays) == set(whole.arrays)
        for key, array in whole.arrays.items():
            np.testing.assert_array_equal(arrays[key], array[5:30])
    coloured = call(LANGUAGE, "--text", TEXT, "--cell", 38, "--color").stdout
    values = whole.layer().cell(38)
    assert (
        f"LSTM {name}, cell 38 of {cells}, tanh(C)" in coloured and f"48;2;{';'.join(map(str, colour(values[0])))}mT" in coloured
    )
    plain = call(LANGUAGE, "--text", TEXT, "--cell", 38).stdout
    assert "\x1b" not in plain and f"{values[0]:+.3f}  'T'" in plain
    found = json.loads(call(LANGUAGE, "--text", TEXT, "--cell", 38, "--json").stdout)
    np.testing.assert_array_equal(np.float32(found["cell"]["values"]), values)
    assert found["cell"]["text"] == TEXT and set(found["layers"][name]["values"]) == {*"iofc", "Ct", "Ht"}


def test_frames_of_a_model_without_text(tmp_path: Path) -> None:
    model = tinyrnn.load(STREAMS["sequence"])
    np.save(tmp_path / "x.npy", random_sample(model, 90).inputs[model.inputs[0].name][0])
    shown = call(
        STREAMS["sequence"], tmp_path / "x.npy", "--cell", 2, "--layer", "/layers.2/GRU", "-o", tmp_path / "c.png"
    ).stdout
    assert "GRU /layers.2/GRU, cell 2 of 6, H" in shown and "▁" in shown and (tmp_path / "c.png").is_file()
    assert call(STREAMS["sequence"], tmp_path / "x.npy", "-o", tmp_path / "d.png").stderr == ""


def test_a_whole_run_says_why(tmp_path: Path) -> None:
    model = tinyrnn.load(BACKWARD)
    sample = random_sample(model, 6)
    np.save(tmp_path / "x.npy", np.repeat(sample.feeds(model)[model.inputs[0].name], 2, 1))
    made = call(BACKWARD, tmp_path / "x.npy", "-o", tmp_path / "a.png", "--frames", "1:5")
    assert "the first of 2 sequences" in made.stderr and "direction=bidirectional" in made.stderr
    assert "4 frames" in made.stdout and (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--text", "To be"], 2, "-o FILE.png draws a picture"),
        (["-o", "a.png"], 2, "one of them"),
        (["--text", "To be", "--cell", "9999"], 1, "no cell 9999; this LSTM has CELLS: 0 to"),
        (["--text", "To be", "--cell", "1", "--layer", "x"], 1, "no recurrent layer 'x'; it has 'LAYER'"),
        (["--text", "To #1", "--cell", "1"], 1, "does not know '#1'"),
        (["--text", "", "--cell", "1"], 1, "the text is empty"),
        (["none.txt", "--cell", "1"], 1, "none.txt: cannot be read"),
        (["--text", "To be", "-o", "a.doc"], 1, "unknown kind of picture '.doc'"),
        (["--text", "To be", "-o", "none/a.npz"], 1, "no folder none"),
        (["--text", "To be", "--cell", "1", "--frames", "5"], 2, "takes A:B"),
        (["--text", "To be", "--cell", "1", "--frames", "4:4"], 2, "takes A:B"),
        (["--text", "To be", "--cell", "1", "--frames", "5:9"], 1, "the input has 5 frames, 0 to 4"),
    ],
)
def test_bad_calls(arguments: list[str], status: int, says: str, inside: tuple[str, int]) -> None:
    says = says.replace("LAYER", inside[0]).replace("CELLS", f"{inside[1]:,}")
    message = call(LANGUAGE, *arguments, status=status).stderr
    assert says in " ".join(message.split()), message


def test_text_for_a_model_without_characters(tmp_path: Path) -> None:
    assert "takes no text" in call(STEP, "--text", "a", "--cell", "1", status=1).stderr
    model = tinyrnn.load(STREAMS["no layer"])
    np.save(tmp_path / "x.npy", random_sample(model, 12).inputs[model.inputs[0].name][0])
    assert "no RNN, GRU or LSTM layer" in call(STREAMS["no layer"], tmp_path / "x.npy", "--cell", 1, status=1).stderr
