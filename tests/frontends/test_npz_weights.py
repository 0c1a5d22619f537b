"""Plain weights in `.npz`: they compute what PyTorch computes; what does not fit is refused."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests import MODELS
from tinyrnn.check import within

Array = np.ndarray[Any, Any]


def savez(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


# ---------------------------------------------------------------- plain weights


def wave(shape: tuple[int, ...], k: int) -> Array:
    """Numbers without order, the same everywhere."""
    count = np.arange(int(np.prod(shape)), dtype=np.float64)
    return (0.8 * np.sin(k + 1.7 * count * (1 + 0.1 * k))).astype(np.float32).reshape(shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: wave(shape, k) for k, (name, shape) in enumerate(shapes.items())}


def recurrent(
    prefix: str, gates: int, inputs: int, hidden: int, layers: int = 1, directions: int = 1
) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a recurrent layer, in PyTorch's order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for end in ("", "_reverse")[:directions]:
            width = inputs if layer == 0 else hidden * directions
            shapes |= {
                f"{prefix}weight_ih_l{layer}{end}": (gates * hidden, width),
                f"{prefix}weight_hh_l{layer}{end}": (gates * hidden, hidden),
                f"{prefix}bias_ih_l{layer}{end}": (gates * hidden,),
                f"{prefix}bias_hh_l{layer}{end}": (gates * hidden,),
            }
    return shapes


LM = {"embed.weight": (5, 3), **recurrent("rnn.", 4, 3, 4, 2, 2), "head.weight": (2, 8), "head.bias": (2,)}
LM_LAYERS: list[Any] = [["Embedding", "embed"], ["LSTM", "rnn"], ["Linear", "head"]]


def test_weights_agree_with_saved_results_of_pytorch(tmp_path: Path) -> None:
    description = {"format": "weights", "version": 1, "layers": LM_LAYERS, "metadata": {"letters": "abcde", "epochs": 3}}
    savez(tmp_path / "lm.npz", **weights(LM), tinyrnn=np.array(json.dumps(description)))
    model = tinyrnn.load(tmp_path / "lm.npz")
    expected = np.array(
        [[[-0.9330367, -0.81744444], [-0.93931055, -0.8090408], [-0.87477297, -0.7415473], [-0.862931, -0.6976341]]], np.float32
    )
    assert within("close", model.run(np.array([[0, 3, 1, 4]])), expected)
    assert model.metadata == {"letters": "abcde", "epochs": "3"}
    assert model.inputs[0].file_shape == ("batch", "time")

    gru: dict[str, Any] = weights(recurrent("rnn.", 3, 3, 5))
    np.savez_compressed(tmp_path / "gru.npz", **gru)
    model = tinyrnn.load(tmp_path / "gru.npz", layers=[("GRU", "rnn", {"select": "last"})])
    expected = np.array(
        [
            [-0.32267565, -0.1021705, 0.1292988, 0.17730294, -0.37799823],
            [-0.4548478, -0.4528852, 0.16524288, 0.1785484, -0.28291205],
        ],
        np.float32,
    )
    assert within("close", model.run(wave((2, 3, 3), 9)), expected)


def torch_cases() -> dict[str, tuple[Callable[[Any], Any], list[Any]]]:
    """name → (module from torch.nn, layers)."""
    return {
        "rnn": (lambda nn: [nn.RNN(3, 5, batch_first=True)], [("RNN", "0")]),
        "rnn_relu_bi_l2": (
            lambda nn: [nn.RNN(3, 5, 2, nonlinearity="relu", batch_first=True, bidirectional=True)],
            [("RNN", "0", {"nonlinearity": "relu"})],
        ),
        "lstm": (lambda nn: [nn.LSTM(3, 17, batch_first=True)], [("LSTM", "0")]),
        "lstm_nobias_l3": (lambda nn: [nn.LSTM(3, 4, 3, bias=False, batch_first=True)], [("LSTM", "0")]),
        "gru_bi_l2": (lambda nn: [nn.GRU(3, 5, 2, batch_first=True, bidirectional=True)], [("GRU", "0")]),
        "gru_nobias": (lambda nn: [nn.GRU(3, 5, bias=False, batch_first=True)], [("GRU", "0")]),
        "lstm_bi_last": (
            lambda nn: [nn.LSTM(3, 5, batch_first=True, bidirectional=True), "last", nn.Linear(10, 2), nn.Softmax(-1)],
            [("LSTM", "0", {"select": "last"}), ("Linear", "2"), ("Softmax", "", {"dim": 1})],
        ),
        "rnn_cell": (lambda nn: [nn.RNNCell(3, 5)], [("RNNCell", "0")]),
        "lstm_cell": (lambda nn: [nn.LSTMCell(3, 5)], [("LSTMCell", "0")]),
        "gru_cell_nobias": (lambda nn: [nn.GRUCell(3, 5, bias=False)], [("GRUCell", "0")]),
        "embedding_dropout_gru_linear": (
            lambda nn: [nn.Embedding(9, 4), nn.Dropout(0.3), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 9), nn.LogSoftmax(-1)],
            [("Embedding", "0"), ("Dropout", "1", {"p": 0.3}), ("GRU", "2"), ["Linear", "3"], "LogSoftmax"],
        ),
        "linear_norm_lstm": (
            lambda nn: [
                nn.Linear(3, 6, bias=False),
                nn.ReLU(),
                nn.LayerNorm(6, eps=1e-3),
                nn.LSTM(6, 5, batch_first=True),
                nn.LayerNorm(5, elementwise_affine=False),
                nn.Tanh(),
                nn.Linear(5, 2),
                nn.Sigmoid(),
            ],
            [
                ("Linear", "0"),
                ("ReLU",),
                ("LayerNorm", "2", {"eps": 1e-3}),
                ("LSTM", "3"),
                ("LayerNorm", "4", {"elementwise_affine": False}),
                "Tanh",
                ("Linear", "6"),
                ("Sigmoid", ""),
            ],
        ),
        "gru_then_lstm_last": (
            lambda nn: [nn.GRU(3, 4, batch_first=True), nn.LSTM(4, 5, batch_first=True), "last", nn.LayerNorm(5)],
            [("GRU", "0"), ("LSTM", "1", {"select": "last"}), ("LayerNorm", "3")],
        ),
    }


def run_torch(torch: Any, parts: list[Any], x: Any) -> Any:
    for part in parts:
        if isinstance(part, str):
            x = x[:, -1]
        elif isinstance(part, torch.nn.RNNCellBase):
            state, steps = None, []
            for t in range(x.shape[1]):
                state = part(x[:, t], state)
                steps.append(state[0] if isinstance(state, tuple) else state)
            x = torch.stack(steps, 1)
        else:
            x = part(x)
            x = x[0] if isinstance(x, tuple) else x
    return x


@pytest.mark.parametrize("name", torch_cases())
def test_weights_agree_with_pytorch(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the oracle of this test, is not installed")
    torch.set_num_threads(1)
    torch.manual_seed(3)
    build, layers = torch_cases()[name]
    parts = build(torch.nn)
    modules = torch.nn.ModuleDict({str(i): part for i, part in enumerate(parts) if not isinstance(part, str)}).eval()
    savez(tmp_path / "m.npz", **modules.state_dict())
    model = tinyrnn.load(tmp_path / "m.npz", layers=layers)
    x = np.random.default_rng(4).integers(0, 9, (2, 7)) if name.startswith("emb") else wave((2, 7, 3), 5)
    with torch.no_grad():
        expected = run_torch(torch, parts, torch.from_numpy(x)).numpy()
    assert within("close", model.run(x), expected)
    if "_bi" not in name:
        assert within("close", model.stream().run(x[1]), expected[1])


def test_weights_of_one_module_have_no_prefix(tmp_path: Path) -> None:
    shapes = recurrent("", 4, 3, 4)
    savez(tmp_path / "bare.npz", **weights(shapes))
    savez(tmp_path / "named.npz", **{f"a.b.{k}": v for k, v in weights(shapes).items()})
    x = wave((1, 4, 3), 2)
    a, b = tinyrnn.load(tmp_path / "bare.npz", layers=["LSTM"]), tinyrnn.load(tmp_path / "named.npz", layers=[("LSTM", "a.b")])
    assert within("exact", a.run(x), b.run(x))
    assert [p.name for p in b.states] == ["a.b.h", "a.b.c"]


def test_weights_round_trip_through_a_container(tmp_path: Path) -> None:
    savez(tmp_path / "lm.npz", **weights(LM))
    model = tinyrnn.load(tmp_path / "lm.npz", layers=LM_LAYERS)
    tinyrnn.save(model, tmp_path / "saved.npz")
    tokens = np.array([[4, 2, 0]])
    assert within("exact", tinyrnn.load(tmp_path / "saved.npz").run(tokens), model.run(tokens))
    with pytest.raises(tinyrnn.LoadError, match="layers= describes plain weights; this file is a container"):
        tinyrnn.load(tmp_path / "saved.npz", layers=LM_LAYERS)


def test_float64_weights_become_float32(tmp_path: Path) -> None:
    arrays = weights(recurrent("r.", 1, 3, 4))
    savez(tmp_path / "m.npz", **{k: np.asfortranarray(v.astype(">f8")) for k, v in arrays.items()})
    savez(tmp_path / "n.npz", **arrays)
    x = wave((1, 4, 3), 2)
    a, b = (tinyrnn.load(tmp_path / f"{n}.npz", layers=[("RNN", "r")]) for n in "mn")
    assert within("exact", a.run(x), b.run(x))


# ---------------------------------------------------------------- errors of plain weights


def refusal(tmp_path: Path, arrays: dict[str, Array], layers: Any = None, description: Any = None) -> str:
    extra = {} if description is None else {"tinyrnn": np.array(json.dumps(description))}
    savez(tmp_path / "m.npz", **arrays, **extra)
    with pytest.raises(tinyrnn.LoadError) as caught:
        tinyrnn.load(tmp_path / "m.npz", layers=layers)
    assert "m.npz" in str(caught.value)
    return str(caught.value)


def test_without_a_description_the_error_writes_it(tmp_path: Path) -> None:
    text = refusal(tmp_path, weights({**LM, "norm.weight": (8,), "norm.bias": (8,), "odd.kernel": (3, 3, 3, 3)}))
    assert 'layers=[("Embedding", "embed"), ("LSTM", "rnn"), ("LayerNorm", "norm"), ("Linear", "head")]' in text
    assert "head.weight [2, 8]" in text and 'names={"odd.*": None}' in text and "leaves out odd.kernel" in text
    assert 'layers=[("GRU", "")]' in refusal(tmp_path, weights(recurrent("", 3, 2, 4)))
    assert '("RNN", "r")' in (text := refusal(tmp_path, weights(recurrent("r.", 1, 2, 4)))) and "nonlinearity" in text
    cell = {k.replace("_l0", ""): v for k, v in weights(recurrent("c.", 4, 2, 4)).items()}
    assert 'layers=[("LSTMCell", "c")]' in refusal(tmp_path, cell)


def test_the_written_description_loads(tmp_path: Path) -> None:
    text = refusal(tmp_path, weights(LM))
    written = re.search(r"layers=(\[.*?\)\])", text)
    assert written is not None
    layers = ast.literal_eval(written[1])
    assert tinyrnn.load(tmp_path / "m.npz", layers=layers).run(np.array([[1, 2]])).shape == (1, 2, 2)


GRU = weights(recurrent("rnn.", 3, 3, 5))
HEAD = weights({"head.weight": (2, 5), "head.bias": (2,)})


@pytest.mark.parametrize(
    ("arrays", "layers", "parts"),
    [
        ({**GRU, **HEAD}, [("GRU", "rnn")], ["no layer uses the arrays head.weight [2, 5], head.bias [2]"]),
        (GRU, [("GRU", "rnn"), ("Linear", "head")], ["Linear 'head'", "'head.weight' is missing"]),
        (GRU, [("GRU", "rn")], ["'rn.weight_ih_l0' is missing", "did you mean 'rnn.weight_ih_l0'?"]),
        (GRU, [("LSTM", "rnn")], ["shape [15, 5]", "for LSTM", "weights of GRU"]),
        (GRU, [("GRUCell", "rnn")], ["'rnn.weight_hh' is missing"]),
        ({**GRU, **weights({"head.weight": (2, 4)})}, [("GRU", "rnn"), ("Linear", "head")], ["takes 4 features", "makes 5"]),
        ({**GRU, "rnn.bias_ih_l0": wave((14,), 0)}, [("GRU", "rnn")], ["'rnn.bias_ih_l0' has shape [14]", "must be [15]"]),
        ({k: v for k, v in GRU.items() if "bias_hh" not in k}, [("GRU", "rnn")], ["'rnn.bias_hh_l0' is missing"]),
        ({k.replace("l0", "l1"): v for k, v in GRU.items()}, [("GRU", "rnn")], ["'rnn.weight_ih_l0' is missing"]),
        ({k + "_reverse": v for k, v in GRU.items()}, [("GRU", "rnn")], ["'rnn.weight_hh_l0' is missing"]),
        ({**GRU, "rnn.weight_hr_l0": wave((2, 5), 0)}, [("GRU", "rnn")], ["no layer uses", "rnn.weight_hr_l0"]),
        ({**GRU, "rnn.weight_hh_l0": np.zeros((15, 5), np.int64)}, [("GRU", "rnn")], ["int64", "float32"]),
        (GRU, [("Gru", "rnn")], ["unknown type 'Gru'", "did you mean 'GRU'?", "Supported are Embedding"]),
        (GRU, [("GRU", "rnn", {"batch_first": True})], ["unknown option 'batch_first'", "supported are select"]),
        (GRU, [("GRU", "rnn", {"select": "first"})], ["select='first'", "supported is 'last'"]),
        (weights(recurrent("r.", 1, 3, 4)), [("RNN", "r", {"nonlinearity": "gelu"})], ["nonlinearity='gelu'", "'relu'"]),
        ({**GRU, **HEAD}, [("GRU", "rnn"), ("Softmax", "", {"dim": 1}), ("Linear", "head")], ["dim=1", "-1"]),
        (
            {**GRU, **weights(recurrent("b.", 3, 5, 2))},
            [("GRU", "rnn", {"select": "last"}), ("GRU", "b")],
            ["GRU 'b'", "needs a sequence"],
        ),
        ({**GRU, "e.weight": wave((4, 5), 0)}, [("GRU", "rnn"), ("Embedding", "e")], ["Embedding 'e'", "first layer"]),
        (weights({"n.weight": (5,)}), [("LayerNorm", "n", {"eps": -1})], ["eps=-1"]),
        (GRU, [("LayerNorm", "n", {"elementwise_affine": False}), ("GRU", "rnn")], ["its size is not known"]),
        (HEAD, ["ReLU"], ["no layer uses the arrays"]),
        (HEAD, [], ["layers must be a list"]),
        (HEAD, "Linear", ["layers must be a list"]),
        (HEAD, [("Linear", "head", "x")], ["layer 0 must be (type, prefix) or (type, prefix, options)"]),
        (HEAD, [("Linear", 3)], ["layer 0 must be"]),
        (HEAD, [None], ["layer 0 must be"]),
        ({**GRU, **HEAD, "rnn.weight_ih_l0": np.zeros((15, 0), np.float32)}, [("GRU", "rnn"), ("Linear", "head")], ["[15, 0]"]),
    ],
    ids=lambda value: None,
)
def test_weights_that_do_not_fit(arrays: dict[str, Array], layers: Any, parts: list[str], tmp_path: Path) -> None:
    text = refusal(tmp_path, arrays, layers)
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("description", "part"),
    [
        ({"format": "weights", "version": 2, "layers": []}, "version 2"),
        ({"format": "weights", "version": True, "layers": []}, "version True"),
        ({"format": "weighs", "version": 1, "layers": []}, "format 'weighs'"),
        ({"version": 1, "layers": []}, "format None"),
        ({"format": "weights", "version": 1}, "lacks 'layers'"),
        ({"format": "weights", "version": 1, "layers": [["Linear", "head"]], "extra": 1}, "unknown entries 'extra'"),
        ({"format": "weights", "version": 1, "layers": {"Linear": "head"}}, "layers must be a list"),
        ({"format": "weights", "version": 1, "layers": [["Linear", "head"]], "metadata": [1]}, "'metadata' must be an object"),
        ([1, 2], "no JSON object"),
        ("text", "no JSON object"),
    ],
)
def test_descriptions_that_are_wrong(description: Any, part: str, tmp_path: Path) -> None:
    assert part in refusal(tmp_path, HEAD, description=description)


def test_layers_may_replace_a_description(tmp_path: Path) -> None:
    text = json.dumps({"format": "weights", "version": 1, "layers": [["Linear", "tail"]], "metadata": {"by": "us"}})
    savez(tmp_path / "m.npz", **GRU, tinyrnn=np.array(text))
    model = tinyrnn.load(tmp_path / "m.npz", layers=[("GRU", "rnn")])
    assert model.metadata == {"by": "us"} and model.inputs[0].shape == (3,)


def test_layers_belong_to_npz_files() -> None:
    with pytest.raises(tinyrnn.LoadError, match=r"layers= describes plain weights in an \.npz"):
        tinyrnn.load(MODELS / "lstm_l1_uni_sf_zero_dynT_b1_legacy.onnx", layers=["LSTM"])


# ---------------------------------------------------------------- projections


@pytest.mark.parametrize("layers, both, bias", [(1, False, True), (2, False, True), (2, True, True), (1, True, False)])
def test_projected_lstm_agrees_with_pytorch(layers: int, both: bool, bias: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(layers + 2 * both)
    module = torch.nn.LSTM(5, 9, layers, bias=bias, batch_first=True, bidirectional=both, proj_size=4)
    np.savez(tmp_path / "m.npz", **{k: v.numpy() for k, v in module.state_dict().items()})
    with pytest.raises(tinyrnn.LoadError, match='layers=.*"LSTM"'):
        tinyrnn.load(tmp_path / "m.npz")
    model = tinyrnn.load(tmp_path / "m.npz", layers=["LSTM"])
    for frames in (7, 300):
        x = np.random.default_rng(frames).standard_normal((2, frames, 5)).astype(np.float32)
        with torch.no_grad():
            expected = module(torch.from_numpy(x))[0].numpy()
        assert within("close", model.run(x), expected)
    if not both:
        stream = model.stream()
        assert np.array_equal(np.stack([stream.step(frame) for frame in x[1]]), model.run(x)[1])


def test_projection_that_does_not_fit_is_named(tmp_path: Path) -> None:
    arrays = weights({**recurrent("", 4, 3, 4), "weight_hr_l0": (2, 5)})
    savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(tinyrnn.LoadError, match=r"weight_hh_l0"):
        tinyrnn.load(tmp_path / "m.npz", layers=["LSTM"])
