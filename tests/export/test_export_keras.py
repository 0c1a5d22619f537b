"""Keras models exported from their layers: against Keras' stored results always, against Keras itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tinyrnn_export.keras_layers import Layer, Network, Port, graph
from tinyrnn_export.keras_recurrent import NotKnown
from tinyrnn_export.onnx_file import ExportError

import tinyrnn
from tests import ROOT
from tests.driving import agree, agree_in_chunks, in_onnxruntime, loaded, whole

STORED = np.load(ROOT / "tests" / "models" / "keras_layers.npz")
MODELS = json.loads(str(STORED["models"]))["models"]
COMPILED = (
    set(MODELS)
    if os.environ.get("TINYRNN_ALL")
    else {"lstm_hard", "gru_reset_before", "backwards", "causal", "cells", "tokens", "states"}
)
"""each compiles for about a second; the others run in onnxruntime alone by default"""
WHOLE = {"backwards", "backwards_last", "both_ways", "both_ways_last", "both_ways_sum", "both_ways_mul", "both_ways_mean"}
"""models that read the sequence from its end"""
NO_STEP = {
    **dict.fromkeys(WHOLE, "goes backwards"),
    **dict.fromkeys(("causal", "same", "strided"), "frames would be lost"),
    **dict.fromkeys(("mean", "largest"), "over all of time"),
}
"""model → why it has no step form"""

os.environ.setdefault("KERAS_BACKEND", "torch")
BACKEND = {"torch": "torch", "tensorflow": "tensorflow", "jax": "jax"}[os.environ["KERAS_BACKEND"]]
needs_keras = pytest.mark.skipif(
    not (importlib.util.find_spec("keras") and importlib.util.find_spec(BACKEND)),
    reason=f"Keras with its backend {BACKEND} is not installed",
)


def _layer(entry: dict[str, Any]) -> Layer:
    return Layer(
        entry["type"], entry["name"], entry["config"], tuple(STORED[name] for name in entry["weights"]),
        tuple(entry["inputs"]), tuple(entry["outputs"]), tuple(_layer(part) for part in entry["inner"]),
    )  # fmt: skip


def _network(name: str) -> Network:
    entry = MODELS[name]
    ports = {value: Port(port, dtype, tuple(shape), time) for value, (port, dtype, shape, time) in entry["inputs"].items()}
    return Network(tuple(_layer(layer) for layer in entry["layers"]), ports, entry["outputs"])


def _stored(name: str, side: str) -> dict[str, np.ndarray]:
    return {key.split("/")[-1]: STORED[key] for key in STORED.files if key.startswith(f"{name}/{side}/")}


# --- without Keras -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_layers_give_what_keras_gave(name: str, tmp_path: Path) -> None:
    proto, states = graph(_network(name), False)
    onnx.checker.check_model(proto, full_check=True)
    assert not states
    inputs, expected = _stored(name, "in"), _stored(name, "out")
    agree("close", in_onnxruntime(proto, inputs), expected, name)
    if name in COMPILED:
        model = loaded(proto, tmp_path)
        made = whole(model, inputs)
        agree("close", made, expected, name)
        assert bool(model._layout.refuses_stream) == (name in WHOLE)
        if name not in WHOLE:
            agree_in_chunks(model, inputs, made, 2)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "states"])
def test_step_models_give_what_keras_gave(name: str, tmp_path: Path) -> None:
    """Frame by frame in onnxruntime, the state handed on, and as a stream."""
    if name in NO_STEP:
        with pytest.raises(NotKnown, match=NO_STEP[name]):
            graph(_network(name), True)
        return
    proto, states = graph(_network(name), True)
    onnx.checker.check_model(proto, full_check=True)
    (port, x), expected = next(iter(_stored(name, "in").items())), _stored(name, "out")
    carried = {i.name: np.zeros([d.dim_value for d in i.type.tensor_type.shape.dim], np.float32) for i in proto.graph.input[1:]}
    assert set(states) == set(carried)
    made: list[dict[str, np.ndarray]] = []
    for t in range(x.shape[1]):
        made.append(in_onnxruntime(proto, {port: x[:1, t : t + 1], **carried}))
        carried = {start: made[-1][end] for start, end in states.items()}
    for output, wanted in expected.items():
        got = np.concatenate([m[output] for m in made], 1) if wanted.ndim > 2 else made[-1][output]
        agree("close", {output: got}, {output: wanted[:1]}, name)
    if name not in COMPILED:
        return
    model = loaded(proto, tmp_path)
    assert {p.name for p in model.states} == set(states)
    stream = model.stream()
    results = stream.run(x[0])
    for p, result in zip(model.outputs, results if isinstance(results, tuple) else (results,), strict=True):
        wanted = expected[p.name][0]
        agree("close", {p.name: result.reshape(wanted.shape)}, {p.name: wanted}, name)


def test_gates_and_names_of_a_step_model() -> None:
    proto, states = graph(_network("lstm"), True)
    (node,) = [n for n in proto.graph.node if n.op_type == "LSTM"]
    kernel = STORED[MODELS["lstm"]["layers"][0]["weights"][0]]
    w = next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == node.input[1])
    i, f, c, o = np.split(kernel, 4, axis=1)
    np.testing.assert_array_equal(w[0], np.concatenate([i.T, o.T, f.T, c.T]))
    assert states == {f"{node.name}_h": f"{node.name}_hn", f"{node.name}_c": f"{node.name}_cn"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "gelu"}, "activation='gelu' is none of tanh, sigmoid"),
        ({"activation": {"class_name": "function", "config": "mine"}}, "is none of tanh"),
        ({"recurrent_activation": "relu6"}, "recurrent_activation='relu6'"),
    ],
)
def test_gates_without_an_onnx_form(changes: dict[str, Any], message: str) -> None:
    network = _network("lstm")
    first = network.layers[0]
    changed = Layer(first.type, first.name, {**first.config, **changes}, first.weights, first.inputs, first.outputs)
    with pytest.raises(NotKnown, match=message):
        graph(Network((changed, *network.layers[1:]), network.inputs, network.outputs), False)


def test_a_layer_without_a_rule_is_named() -> None:
    network = Network(
        (Layer("Flatten", "flat", {}, (), ("v0",), ("v1",)),), {"v0": Port("x", "float32", (None, 5, 3), True)}, {"v1": "y"}
    )
    with pytest.raises(NotKnown, match="layer 'flat' is of the type Flatten"):
        graph(network, False)


# --- with Keras --------------------------------------------------------------------------------------------------------


@pytest.fixture
def keras() -> Any:
    import keras

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    keras.utils.set_random_seed(3)
    return keras


def _lstm(keras: Any, *more: Any, time: int | None = None) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((time, 3)), layers.LSTM(20, return_sequences=True, name="core"), *more, layers.Dense(2, name="head")]
    )


@needs_keras
@pytest.mark.parametrize("name", ["both_ways_last", "tokens_masked", "states", "residual", "stateful"])
def test_exported_models_load_and_agree(name: str, keras: Any, tmp_path: Path) -> None:
    from tinyrnn_export.keras import _example, _run, read, to_onnx

    from tests.export.make_keras_layers import models, randomise

    model = models()[name]()
    randomise(model, np.random.default_rng(4))
    made = to_onnx(model, tmp_path / "m.onnx", unmasked=name == "tokens_masked")
    assert (made.exporter, made.notes) == ("layers", ()) and made.excess <= 1
    assert any(sizes.get("time", 6) != 6 for sizes in made.sizes)
    example = _example(read(model, None, None, unmasked=True))
    names = list(read(model, None, None, unmasked=True).outputs.values())
    expected = dict(zip(names, _run(model, list(example))(example), strict=True))
    agree("close", whole(tinyrnn.load(made.path), example), expected, name)


@needs_keras
def test_step_form_and_npz(keras: Any, tmp_path: Path) -> None:
    from tinyrnn_export.keras import to_npz, to_onnx

    model = _lstm(keras)
    x = np.random.default_rng(5).standard_normal((1, 9, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(x))[0]
    to_onnx(model, tmp_path / "step.onnx", form="step", metadata={"rate": "50"})
    to_npz(model, tmp_path / "sequence.npz")
    to_npz(model, tmp_path / "step.npz", form="step")
    for file in ("step.onnx", "sequence.npz", "step.npz"):
        loaded_model = tinyrnn.load(tmp_path / file)
        agree("close", {"y": loaded_model.stream().run(x[0])}, {"y": expected}, file)
        if file != "sequence.npz":
            assert [p.name for p in loaded_model.states] == ["core_h", "core_c"]
    with pytest.raises(ValueError, match="half: only of to_onnx"):
        to_npz(model, tmp_path / "m.npz", half=True)


@needs_keras
def test_half_storage(keras: Any, tmp_path: Path) -> None:
    from tinyrnn_export.keras import round_to_half, to_onnx

    model = _lstm(keras)
    with pytest.raises(ExportError, match="float16 does not hold core.W"):
        to_onnx(model, tmp_path / "half.onnx", half=True)
    assert not (tmp_path / "half.onnx").exists()
    round_to_half(model)
    to_onnx(model, tmp_path / "half.onnx", half=True)
    to_onnx(model, tmp_path / "full.onnx")
    half, full = (onnx.load(tmp_path / f"{name}.onnx") for name in ("half", "full"))
    assert {t.name for t in half.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16} == {
        "core.W.float16",
        "core.R.float16",
        "core.B.float16",
    }
    x = {"x": np.random.default_rng(6).standard_normal((1, 7, 3)).astype(np.float32)}
    agree("exact", in_onnxruntime(half, x), in_onnxruntime(full, x))
    model.layers[-1].bias.assign(np.float32([1e5, 0]))
    with pytest.raises(ValueError, match="bias reaches 100000; float16 ends at 65504"):
        round_to_half(model)


@needs_keras
def test_what_has_no_rule_goes_through_keras_own_exporter(keras: Any, tmp_path: Path) -> None:
    from tinyrnn_export.keras import to_onnx

    if BACKEND == "torch":
        pytest.importorskip("onnxscript", reason="Keras exports with PyTorch through onnxscript, which is not installed")
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.Dense(4), keras.layers.Flatten(), keras.layers.Dense(2)])
    made = to_onnx(model, tmp_path / "m.onnx")
    assert made.exporter == "keras" and "Flatten" in made.notes[0]
    x = np.random.default_rng(7).standard_normal((1, 6, 3)).astype(np.float32)
    agree("close", whole(tinyrnn.load(made.path), {"x": x}), {"y": keras.ops.convert_to_numpy(model(x))})


@needs_keras
def test_refusals_say_what_to_write(keras: Any, tmp_path: Path) -> None:
    from tinyrnn_export.keras import to_onnx

    layers, path = keras.layers, tmp_path / "m.onnx"

    def refused(model: Any, message: str, kind: type[Exception] = ExportError, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            to_onnx(model, path, **options)
        assert not path.exists()

    refused(keras.Sequential([layers.LSTM(4)]), "no weights yet: begin it with keras.Input")

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.core = layers.LSTM(4)

        def call(self, x: Any) -> Any:
            return self.core(x)

    own = Own()
    own(np.zeros((1, 5, 3), np.float32))
    refused(own, r"a subclassed model has no list .* keras.Model\(x, model\(x\)\)")
    refused(_lstm(keras), "form='frames'; known are sequence, step", ValueError, form="frames")
    refused(_lstm(keras), "1 inputs need as many different names", ValueError, input_names=["a", "b"])
    refused(_lstm(keras, layers.Conv1D(4, 3, padding="causal", name="past")), "layer 'past' looks at 3 frames", form="step")
    refused(
        _lstm(keras, layers.Bidirectional(layers.GRU(3, return_sequences=True), name="two")),
        "two_reverse' goes backwards",
        form="step",
    )
    masked = keras.Sequential([keras.Input((None, 3)), layers.Masking(name="padding"), layers.LSTM(4)])
    refused(masked, "layer 'padding' masks padding.*write unmasked=True", form="step")
    half = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4, dtype="mixed_float16")])
    refused(half, r"computes in float16; build it again under keras.config.set_dtype_policy\('float32'\)")
    x, h = keras.Input((None, 3), name="x"), keras.Input((4,), name="h")
    refused(keras.Model([x, h], layers.GRU(4, return_sequences=True)(x, initial_state=h)), "is a step model already", form="step")


@needs_keras
@pytest.mark.skipif(BACKEND != "torch", reason="other backends of Keras write a Loop, which runs at every length")
def test_a_recurrent_layer_that_keras_writes_out_for_one_length_is_refused(keras: Any, tmp_path: Path) -> None:
    from tinyrnn_export.keras import to_onnx

    pytest.importorskip("onnxscript", reason="Keras exports with PyTorch through onnxscript, which is not installed")
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, activation="gelu", return_sequences=True)])
    with pytest.raises(
        ExportError, match=r"activation='gelu'.*for one length: KERAS_BACKEND=tensorflow.*It said: .* at batch = 2, time = "
    ):
        to_onnx(model, tmp_path / "m.onnx")
