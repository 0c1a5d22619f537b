"""Plain weights without a description: what the error says to write loads when it is typed, and computes what PyTorch and Keras do."""

from __future__ import annotations

import ast
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrnn
from tests.frontends.safetensors_file import safetensors
from tinyrnn.check import within
from tinyrnn.cli import main

Array = np.ndarray[Any, Any]
os.environ.setdefault("KERAS_BACKEND", "torch")
KINDS = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "Linear", "LayerNorm", "BatchNorm1d", "Conv1d", "Depthwise")
WIDTHS = (4, 6)
FRAMES = 9


def said(path: Path) -> tuple[dict[str, Any], str]:
    """The arguments that the error of a file without a description says to write, and the whole text."""
    with pytest.raises(tinyrnn.LoadError) as caught:
        tinyrnn.load(path)
    text = str(caught.value)
    call = re.search(r"write (load\(path, layers=.*?\)), with activations", text)
    assert call, text
    written = ast.parse(call[1], mode="eval").body
    assert isinstance(written, ast.Call)
    return {k.arg: ast.literal_eval(k.value) for k in written.keywords if k.arg}, text


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, int, dict[str, Any]]]:
    """Layers one after another: type, features that it makes, arguments of the module."""
    made: list[tuple[str, int, dict[str, Any]]] = []
    if draw(st.booleans()):
        made.append(("Embedding", draw(st.sampled_from(WIDTHS)), {}))
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)):
        options: dict[str, Any] = {}
        width = draw(st.sampled_from(WIDTHS))
        if kind in ("LSTM", "GRU", "RNN"):
            options = {"num_layers": draw(st.integers(1, 2)), "bidirectional": draw(st.booleans()), "bias": draw(st.booleans())}
            if kind == "LSTM" and draw(st.booleans()):
                options["proj_size"] = 3
        elif kind == "Linear":
            options = {"bias": draw(st.booleans())}
        made.append((kind, width, options))
    return made


def modules(torch: Any, chain: list[tuple[str, int, dict[str, Any]]], features: int) -> list[tuple[str, Any]]:
    nn, found = torch.nn, []
    for kind, made, options in chain:
        width = made
        if kind == "Embedding":
            module = nn.Embedding(7, width)
        elif kind in ("LSTM", "GRU", "RNN"):
            module = getattr(nn, kind)(features, width, batch_first=True, **options)
            width = options.get("proj_size", width) * (1 + options["bidirectional"])
        elif kind == "Depthwise":
            module, width = nn.Conv1d(features, features, 3, groups=features), features
        elif kind == "Conv1d":
            module = nn.Conv1d(features, width, 2)
        elif kind in ("LayerNorm", "BatchNorm1d"):
            module, width = getattr(nn, kind)(features), features
        else:
            module = getattr(nn, kind)(features, width, **options)
        found.append((kind, module.eval()))
        features = width
    for module in (m for kind, m in found if kind == "BatchNorm1d"):
        torch.nn.init.uniform_(module.running_mean)
        torch.nn.init.uniform_(module.running_var, 0.5, 2)
        torch.nn.init.uniform_(module.weight)
    return found


def computed(torch: Any, layers: list[tuple[str, Any]], x: Any) -> Array:
    with torch.no_grad():
        for kind, module in layers:
            if kind.endswith("Cell"):
                state, steps = None, []
                for t in range(x.shape[1]):
                    state = module(x[:, t], state)
                    steps.append(state[0] if isinstance(state, tuple) else state)
                x = torch.stack(steps, 1)
            elif kind in ("BatchNorm1d", "Conv1d", "Depthwise"):
                x = module(x.transpose(1, 2)).transpose(1, 2)
            else:
                x = module(x)
                x = x[0] if isinstance(x, tuple) else x
    result: Array = x.numpy()
    return result


def ambiguous(layers: list[tuple[str, Any]]) -> bool:
    """A matrix alone, which may be a Linear or an Embedding, where the names tell nothing."""
    kind, module = layers[0]
    return kind == "Linear" and module.bias is None


@settings(max_examples=12, deadline=None)
@given(chain=chains(), wrapped=st.sampled_from(["", "module.", "model._orig_mod."]), form=st.sampled_from(["npz", "safetensors"]))
def test_what_the_error_says_loads(
    chain: list[tuple[str, int, dict[str, Any]]], wrapped: str, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the oracle of this test, is not installed")
    torch.manual_seed(len(chain))
    layers = modules(torch, chain, 5)
    names = {"Embedding": "emb"}
    holder = torch.nn.ModuleDict({f"{i}_{names.get(kind, kind.lower())}": m for i, (kind, m) in enumerate(layers)})
    arrays = {wrapped + key: value for key, value in holder.state_dict().items()}
    path = tmp_path_factory.mktemp("guess") / f"m.{form}"
    if form == "npz":
        np.savez(path, **{k: v.numpy() for k, v in arrays.items()})
    else:
        numbers = {k: ("I64" if v.dtype == torch.int64 else "F32", v.numpy()) for k, v in sorted(arrays.items())}
        path.write_bytes(safetensors(numbers))
    how, text = said(path)
    model = tinyrnn.load(path, **how)
    assert "names" not in how
    if chain[0][0] == "Depthwise":  # a kernel for one channel, as far as its size tells
        assert '"groups": 4' in text
        model = tinyrnn.load(path, layers=[(*how["layers"][0][:2], {"groups": 5}), *how["layers"][1:]])
    if ambiguous(layers):
        return
    rng = np.random.default_rng(1)
    x = rng.integers(0, 7, (2, FRAMES)) if chain[0][0] == "Embedding" else rng.standard_normal((2, FRAMES, 5)).astype(np.float32)
    assert within("close", model.run(x), computed(torch, layers, torch.from_numpy(x)))


def test_arrays_of_no_chain_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"head.weight": (2, 5), "head.bias": (2,), "value.weight": (1, 5), "value.bias": (1,), "odd.kernel.x": (3, 3, 3, 3)}
    shapes |= {"rnn.weight_ih_l0": (15, 3), "rnn.weight_hh_l0": (15, 5), "rnn.bias_ih_l0": (15,), "rnn.bias_hh_l0": (15,)}
    arrays: dict[str, Any] = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    np.savez(tmp_path / "m.npz", **arrays)
    how, text = said(tmp_path / "m.npz")
    assert how == {"layers": [("GRU", "rnn"), ("Linear", "head")], "names": {"value.*": None, "odd.kernel.*": None}}
    assert "leaves out value.weight, value.bias, odd.kernel.x" in text
    assert tinyrnn.load(tmp_path / "m.npz", **how).run(np.zeros((1, 4, 3), np.float32)).shape == (1, 4, 2)
    line = re.search(r"on the command line (--layers .*?)\. That leaves", text)
    assert line
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.npz"), *shlex.split(line[1])])
    assert result.exit_code == 0, result.output


def test_no_layer_at_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", a=np.zeros((3, 3, 3, 3), np.float32))
    with pytest.raises(
        tinyrnn.LoadError, match=r'No supported layer has such arrays .*names=\{"my_kernel": "rnn.weight_ih_l0", …\}'
    ):
        tinyrnn.load(tmp_path / "m.npz")


# ---------------------------------------------------------------- other names

LAYERS = [("GRU", "rnn")]


def weights(tmp_path: Path, names: dict[str, str]) -> Path:
    """A GRU's arrays under other names: `names` of PyTorch → those of the file."""
    rng = np.random.default_rng(2)
    sizes = {"weight_ih_l0": (15, 3), "weight_hh_l0": (15, 5), "bias_ih_l0": (15,), "bias_hh_l0": (15,)}
    arrays: dict[str, Any] = {names[k]: rng.standard_normal(s).astype(np.float32) for k, s in sizes.items()}
    np.savez(tmp_path / "m.npz", **arrays)
    return tmp_path / "m.npz"


TORCH = {k: f"rnn.{k}" for k in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")}
OTHER = {"weight_ih_l0": "net/kernel_x", "weight_hh_l0": "net/kernel_h", "bias_ih_l0": "net/bx", "bias_hh_l0": "net/bh"}


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ({k: f"module.{v}" for k, v in TORCH.items()}, {"module.*": "*"}),
        (OTHER, {OTHER[k]: v for k, v in TORCH.items()}),
        ({k: f"rnn.{k.replace('_l0', '')}.cell" for k in TORCH}, {"rnn.*.cell": "rnn.*_l0"}),
        ({**TORCH, "weight_ih_l0": "a"}, {"*.weight_hh_l0": "*.weight_hh_l0", "a": "rnn.weight_ih_l0"}),
    ],
)
def test_names_are_given(file: dict[str, str], names: dict[str, str | None], tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 3)).astype(np.float32)
    wanted = tinyrnn.load(weights(tmp_path, TORCH), layers=LAYERS).run(x)
    path = weights(tmp_path, file)
    assert within("exact", tinyrnn.load(path, layers=LAYERS, names=names).run(x), wanted)
    options = [o for old, new in names.items() for o in ("--names", f"{old}={new}")]
    result = CliRunner().invoke(main, ["inspect", str(path), "--layers", '[["GRU", "rnn"]]', *options])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"rn.*": "*"}, r"no array is called 'rn\.\*'"),
        ({"rnn.weight_ih": "x"}, r"no array is called 'rnn.weight_ih' \(did you mean 'rnn.weight_ih_l0'\?\)"),
        ({"rnn.*": "same"}, "both 'rnn.weight_ih_l0' and 'rnn.weight_hh_l0' would be called 'same'"),
        ({"rnn.bias_ih_l0": "rnn.bias_hh_l0"}, "both 'rnn.bias_ih_l0' and 'rnn.bias_hh_l0'"),
        ({"*.*": "*"}, r"must be two names"),
        ({"rnn.bias_ih_l0": "*"}, r"must be two names"),
        ({"rnn.bias_ih_l0": 3}, r"must be two names"),
        ({3: "x"}, r"must be two names"),
        ([("a", "b")], r"names must be a dict such as"),
        ({"rnn.bias_*": None}, None),
    ],
)
def test_names_that_do_not_fit(names: Any, says: str | None, tmp_path: Path) -> None:
    path = weights(tmp_path, TORCH)
    if says is None:
        assert tinyrnn.load(path, layers=LAYERS, names=names).inputs[0].shape == (3,)
        return
    with pytest.raises(tinyrnn.LoadError, match=says):
        tinyrnn.load(path, layers=LAYERS, names=names)


def test_names_belong_to_plain_weights(tmp_path: Path) -> None:
    tinyrnn.save(tinyrnn.load(weights(tmp_path, TORCH), layers=LAYERS), tmp_path / "saved.npz")
    with pytest.raises(tinyrnn.LoadError, match="names= describes plain weights; this file is a container"):
        tinyrnn.load(tmp_path / "saved.npz", names={"a": "b"})
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "saved.npz"), "--names", "x"])
    assert result.exit_code == 2 and "takes OLD=NEW, or OLD= to leave arrays out" in result.output


# ---------------------------------------------------------------- Keras


def keras_models(keras: Any) -> dict[str, Any]:
    L = keras.layers
    return {
        "lstm": [L.LSTM(5, return_sequences=True), L.Dense(3)],
        "gru": [L.Dense(4), L.GRU(5, return_sequences=True), L.LayerNormalization()],
        "gru_reset_before": [L.GRU(5, return_sequences=True, reset_after=False), L.Dense(2, use_bias=False)],
        "rnn": [L.BatchNormalization(), L.SimpleRNN(5, return_sequences=True)],
        "both": [L.Bidirectional(L.LSTM(5, return_sequences=True)), L.Bidirectional(L.GRU(4, return_sequences=True))],
        "conv": [L.Conv1D(4, 3), L.LSTM(5, return_sequences=True, use_bias=False)],
    }


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_before", "rnn", "both", "conv"])
def test_arrays_under_keras_names(name: str, old: bool, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras", reason="Keras, the oracle of this test, is not installed")
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((FRAMES, 6)), *keras_models(keras)[name]])
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.path)).uniform(0.1, 0.6, weight.shape))
    np.savez(tmp_path / "m.npz", **{w.path + (":0" if old else ""): keras.ops.convert_to_numpy(w) for w in model.weights})
    how, _ = said(tmp_path / "m.npz")
    assert "names" not in how, how
    x = np.random.default_rng(0).standard_normal((2, FRAMES, 6)).astype(np.float32)
    assert within("close", tinyrnn.load(tmp_path / "m.npz", **how).run(x), keras.ops.convert_to_numpy(model(x)))
