"""Keras models as plain data, with Keras' own results: `KERAS_BACKEND=torch python -m tests.export.make_keras_layers`.

Writes models/keras_layers.npz, so that export/keras_layers.py is tested where Keras is not installed: what `read` of
export/keras.py gives for each of `models()`, an input and Keras' output for it. Weights are random, in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests import MODELS

OUTPUT = MODELS / "keras_layers.npz"
BATCH, TIME, FEATURES, UNITS, VOCABULARY = 2, 6, 3, 4, 7
LEFT_OUT = (
    "initializer",
    "regularizer",
    "constraint",
    "dtype",
    "module",
    "registered_name",
    "build_config",
    "seed",
    "layer",
    "cell",
)
"""parts of a layer's configuration that no rule reads, or that stand beside it"""


def models() -> dict[str, Callable[[], Any]]:
    import keras
    from keras import layers as L

    def chain(*stack: Any, time: int | None = None, batch: int | None = None) -> Any:
        return lambda: keras.Sequential([keras.Input((time, FEATURES), batch_size=batch), *[make() for make in stack]])

    def recurrent(kind: str, sequences: bool = True, **options: Any) -> Any:
        return lambda: getattr(L, kind)(UNITS, return_sequences=sequences, **options)

    def two_ways(kind: str, sequences: bool = True, merge: str = "concat") -> Any:
        return lambda: L.Bidirectional(getattr(L, kind)(UNITS, return_sequences=sequences), merge_mode=merge)

    def dense(activation: str | None = None) -> Any:
        return lambda: L.Dense(FEATURES, activation=activation)

    def tokens(**options: Any) -> Any:
        x = keras.Input((None,), dtype="int32")
        return keras.Model(
            x, L.Dense(VOCABULARY)(L.LSTM(UNITS, return_sequences=True)(L.Embedding(VOCABULARY, FEATURES, **options)(x)))
        )

    def states() -> Any:
        x, h, c = keras.Input((None, FEATURES), name="x"), keras.Input((UNITS,), name="h"), keras.Input((UNITS,), name="c")
        y, hn, cn = L.LSTM(UNITS, return_sequences=True, return_state=True, name="core")(x, initial_state=[h, c])
        return keras.Model([x, h, c], [L.Dense(2, name="head")(y), hn, cn])

    def residual() -> Any:
        x = keras.Input((None, FEATURES))
        y = L.GRU(FEATURES, return_sequences=True)(x)
        z = L.Concatenate()([x + y, L.Multiply()([x, y])])
        return keras.Model(x, [L.Dense(2, name="a")(z), L.SimpleRNN(UNITS, name="b")(z)])

    made = {
        "lstm": chain(recurrent("LSTM"), dense()),
        "lstm_last": chain(recurrent("LSTM", False), dense("softmax")),
        "lstm_hard": chain(recurrent("LSTM", recurrent_activation="hard_sigmoid", activation="elu"), dense()),
        "gru": chain(recurrent("GRU"), dense()),
        "gru_reset_before": chain(recurrent("GRU", reset_after=False), dense()),
        "gru_hard": chain(recurrent("GRU", recurrent_activation="hard_sigmoid", activation="softsign"), dense()),
        "rnn": chain(recurrent("SimpleRNN", activation="relu"), recurrent("SimpleRNN", False)),
        "no_bias": chain(recurrent("GRU", use_bias=False), recurrent("LSTM", use_bias=False), recurrent("SimpleRNN", use_bias=False)),
        "linear": chain(recurrent("LSTM", activation="linear", recurrent_activation="sigmoid"), dense()),
        "backwards": chain(recurrent("GRU", go_backwards=True), dense()),
        "backwards_last": chain(recurrent("LSTM", False, go_backwards=True)),
        "stateful": chain(recurrent("LSTM", stateful=True), batch=BATCH),
        "both_ways": chain(two_ways("LSTM"), dense()),
        "both_ways_last": chain(two_ways("GRU", False), dense()),
        "both_ways_sum": chain(two_ways("SimpleRNN", merge="sum")),
        "both_ways_mul": chain(two_ways("GRU", merge="mul")),
        "both_ways_mean": chain(two_ways("LSTM", merge="ave")),
        "cells": chain(lambda: L.RNN([L.LSTMCell(UNITS), L.GRUCell(5)], return_sequences=True)),
        "cell": chain(lambda: L.RNN(L.SimpleRNNCell(UNITS))),
        "causal": chain(lambda: L.Conv1D(UNITS, 3, padding="causal", activation="relu"), recurrent("GRU"), lambda: L.BatchNormalization()),
        "same": chain(lambda: L.Conv1D(UNITS, 4, padding="same", dilation_rate=2), recurrent("LSTM")),
        "strided": chain(lambda: L.Conv1D(UNITS, 3, strides=2, use_bias=False), recurrent("GRU")),
        "spread": chain(lambda: L.TimeDistributed(L.Dense(5, activation="silu")), lambda: L.LayerNormalization(), lambda: L.Dropout(0.2), recurrent("LSTM")),
        "centred": chain(lambda: L.LayerNormalization(scale=False), lambda: L.BatchNormalization(center=False), recurrent("GRU")),
        "activations": chain(*[dense(a) for a in ("hard_sigmoid", "hard_silu", "elu", "selu", "gelu", "leaky_relu", "mish", "softsign", "softplus", "exponential", "log_softmax")]),
        "activation_layers": chain(dense(), lambda: L.Activation("tanh"), dense(), lambda: L.ReLU(), dense(), lambda: L.LeakyReLU(), lambda: L.Softmax()),
        "mean": chain(recurrent("LSTM"), lambda: L.GlobalAveragePooling1D(), dense()),
        "largest": chain(recurrent("LSTM"), lambda: L.GlobalMaxPooling1D(), dense()),
        "fixed": chain(recurrent("LSTM"), dense(), time=TIME),
        "tokens": tokens,
        "tokens_masked": lambda: tokens(mask_zero=True),
        "states": states,
        "residual": residual,
    }  # fmt: skip
    return made


def randomise(model: Any, rng: np.random.Generator) -> None:
    """Weights that leave the linear range, no bias zero, variances positive."""
    for variable in model.weights:
        value = np.asarray(variable.numpy()) + 0.3 * rng.standard_normal(variable.shape)
        variable.assign((np.abs(value) + 0.5 if "variance" in variable.path else value).astype(np.float32))


def _plain(layer: Any, arrays: dict[str, np.ndarray], key: str) -> dict[str, Any]:
    config = {k: v for k, v in layer.config.items() if not any(k.endswith(part) or k == part for part in LEFT_OUT)}
    names = [f"{key}.{layer.name}.{n}" for n in range(len(layer.weights))]
    arrays.update(zip(names, layer.weights, strict=True))
    return {
        "type": layer.type, "name": layer.name, "config": config, "weights": names, "inputs": layer.inputs, "outputs": layer.outputs,
        "inner": [_plain(part, arrays, f"{key}.{layer.name}") for part in layer.inner],
    }  # fmt: skip


def main() -> None:
    import keras
    from tinyrnn_export.keras import _example, _run, read

    rng = np.random.default_rng(0)
    described: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, build in models().items():
        keras.utils.clear_session()
        model = build()
        randomise(model, rng)
        network = read(model, None, None, unmasked=True)
        example = _example(network)
        outputs = _run(model, list(example))(example)
        arrays.update({f"{name}/in/{port}": array for port, array in example.items()})
        arrays.update({f"{name}/out/{port}": array for port, array in zip(network.outputs.values(), outputs, strict=True)})
        described[name] = {
            "layers": [_plain(layer, arrays, name) for layer in network.layers],
            "inputs": {value: [port.name, port.dtype, port.shape, port.time] for value, port in network.inputs.items()},
            "outputs": dict(network.outputs),
        }
    arrays["models"] = np.array(json.dumps({"keras": keras.__version__, "backend": keras.backend.backend(), "models": described}))
    np.savez_compressed(OUTPUT, **arrays)
    print(f"{OUTPUT}: {len(described)} models, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
