"""Small Keras 3 models, exported to ONNX: `python -m tests.whole.make_keras_models`.

Needs tensorflow, keras, tf2onnx, onnx and onnxruntime. Writes `<case>_<exporter>.onnx` and `.npz` for two ways of
exporting, Keras' own `Model.export(format="onnx")` and `tf2onnx.convert.from_function`. The .npz holds Keras' own
results in float32: `in:<name>` and `out:<name>` at the sizes of the file, `in2:` and `out2:` at a longer T and another
batch where the file leaves these open, by the names in the file. Every file is compared with onnxruntime first;
README.md beside them lists all, and those left out with the reason.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import MODELS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from keras import layers

I, H, VOCAB = 3, 4, 7  # noqa: E741
T, B = 6, 1  # where a file fixes them
T2, B2 = 11, 2  # a second time, where it leaves them open
ATOL, RTOL = 1e-5, 1e-4
EXPORTERS = ("keras", "tf2onnx")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One model. `build` makes it from its time steps and batch, None where these are open."""

    name: str
    build: Callable[[int | None, int | None], keras.Model]
    open: bool = True
    exporters: tuple[str, ...] = ("keras",)
    opset: int = 18
    """for tf2onnx; Keras' own exporter writes 15"""


@dataclass
class Result:
    name: str
    exporter: str
    left_out: str = ""
    shapes: str = ""
    error: float = 0.0
    opset: str = ""
    nodes: Counter[str] = field(default_factory=Counter)


# ---------------------------------------------------------------- the models


def chain(*stack: Callable[..., Any] | Callable[[], Any], features: int = I) -> Callable[[int | None, int | None], keras.Model]:
    """Layers in turn, made when the model is."""

    def build(steps: int | None, batch: int | None) -> keras.Model:
        x = keras.Input((steps, features), batch_size=batch, name="x")
        y = x
        for make in stack:
            y = make()(y)
        return keras.Model(x, y)

    return build


def tokens(*stack: Callable[[], Any], mask_zero: bool = False) -> Callable[[int | None, int | None], keras.Model]:
    def build(steps: int | None, batch: int | None) -> keras.Model:
        x = keras.Input((steps,), batch_size=batch, dtype="int32", name="tokens")
        y = layers.Embedding(VOCAB, I, mask_zero=mask_zero)(x)
        for make in stack:
            y = make()(y)
        return keras.Model(x, y)

    return build


def stepwise(kind: str, count: int) -> Callable[[int | None, int | None], keras.Model]:
    """`count` layers over T steps with their states as inputs and outputs."""

    def build(steps: int | None, batch: int | None) -> keras.Model:
        x = keras.Input((steps, I), batch_size=batch, name="x")
        parts = ("h", "c") if kind == "LSTM" else ("h",)
        y, given, ends = x, [], []
        for n in range(count):
            states = [keras.Input((H,), batch_size=batch, name=f"{part}{n}") for part in parts]
            layer = getattr(layers, kind)(H, return_sequences=True, return_state=True)
            y, *new = layer(y, initial_state=states if len(states) > 1 else states[0])
            given += states
            ends += new
        return keras.Model([x, *given], [layers.Dense(2)(y), *ends])

    return build


def cell_step(kind: str) -> Callable[[int | None, int | None], keras.Model]:
    """One cell as a step model: x and states in, h and states out."""

    def build(_steps: int | None, batch: int | None) -> keras.Model:
        x = keras.Input((I,), batch_size=batch, name="x")
        states = [keras.Input((H,), batch_size=batch, name=part) for part in (("h", "c") if kind == "LSTMCell" else ("h",))]
        y, new = getattr(layers, kind)(H)(x, states)
        return keras.Model([x, *states], [layers.Dense(2)(y), *(new if isinstance(new, list | tuple) else [new])])

    return build


def residual_tcn(steps: int | None, batch: int | None) -> keras.Model:
    x = keras.Input((steps, I), batch_size=batch, name="x")
    y = layers.Dense(H)(x)
    for dilation in (1, 2):
        z = layers.Conv1D(H, 3, padding="causal", dilation_rate=dilation, activation="relu")(y)
        y = y + layers.Conv1D(H, 1)(z)
    return keras.Model(x, layers.Dense(2, activation="sigmoid")(y))


def gated_conv(steps: int | None, batch: int | None) -> keras.Model:
    x = keras.Input((steps, I), batch_size=batch, name="x")
    a = layers.Conv1D(H, 2, padding="causal", activation="tanh")(x)
    b = layers.Conv1D(H, 2, padding="causal", activation="sigmoid")(x)
    return keras.Model(x, layers.Dense(2)(a * b))


def crnn(steps: int | None, batch: int | None) -> keras.Model:
    x = keras.Input((steps, 8), batch_size=batch, name="x")
    y = layers.Reshape((-1, 8, 1))(x)
    y = layers.Conv2D(3, (1, 3), strides=(1, 2), padding="same", activation="relu")(y)
    y = layers.Reshape((-1, 12))(y)
    return keras.Model(x, layers.Dense(2)(layers.GRU(H, return_sequences=True)(y)))


def attention_pool(steps: int | None, batch: int | None) -> keras.Model:
    x = keras.Input((steps, I), batch_size=batch, name="x")
    y = layers.LSTM(H, return_sequences=True)(x)
    weights = layers.Softmax(axis=1)(layers.Dense(1)(y))
    return keras.Model(x, layers.Dense(2)(keras.ops.sum(weights * y, axis=1)))


def recurrent(kind: str, sequences: bool = True, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(layers, kind)(H, return_sequences=sequences, **options)


def dense(count: int = 2, activation: str | None = None) -> Callable[[], Any]:
    return lambda: layers.Dense(count, activation=activation)


def conv(padding: str, size: int = 3, **options: Any) -> Callable[[], Any]:
    return lambda: layers.Conv1D(H, size, padding=padding, activation="relu", **options)


def cases() -> Iterator[Case]:
    both = ("keras", "tf2onnx")
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "lstm": ("LSTM", {}),
        "gru": ("GRU", {}),
        "gru_reset_before": ("GRU", {"reset_after": False}),
        "rnn": ("SimpleRNN", {}),
    }
    for name, (kind, options) in variants.items():
        yield Case(
            f"{name}_seq", chain(recurrent(kind, **options)), exporters=both if kind == "LSTM" or name == "gru" else ("keras",)
        )
        yield Case(f"{name}_seq_fixed", chain(recurrent(kind, **options)), open=False, exporters=both, opset=13)
        yield Case(f"{name}_last", chain(recurrent(kind, False, **options), dense()))
        yield Case(f"{name}_unrolled", chain(recurrent(kind, unroll=True, **options), dense()), open=False)
    yield Case("rnn_relu_seq", chain(recurrent("SimpleRNN", activation="relu")))
    yield Case("gru_hard_sigmoid_seq", chain(recurrent("GRU", recurrent_activation="hard_sigmoid")))
    yield Case("lstm_hard_sigmoid_seq", chain(recurrent("LSTM", recurrent_activation="hard_sigmoid")))
    yield Case("gru_nobias_seq", chain(recurrent("GRU", use_bias=False)))
    yield Case("lstm_backwards", chain(recurrent("LSTM", go_backwards=True)))
    yield Case("gru_backwards", chain(recurrent("GRU", go_backwards=True)))
    yield Case("lstm_stateful", chain(recurrent("LSTM", stateful=True)), open=False)
    for kind in ("LSTM", "GRU", "SimpleRNN"):
        for sequences in (True, False):
            yield Case(
                f"bi_{kind.lower()}_{'seq' if sequences else 'last'}",
                chain(lambda kind=kind, s=sequences: layers.Bidirectional(getattr(layers, kind)(H, return_sequences=s)), dense()),
            )
    yield Case("bi_lstm_sum", chain(lambda: layers.Bidirectional(layers.LSTM(H, return_sequences=True), merge_mode="sum")))
    for padding in ("causal", "same", "valid"):
        yield Case(f"conv_{padding}_gru", chain(conv(padding), recurrent("GRU")))
        yield Case(f"conv_{padding}_lstm", chain(conv(padding), recurrent("LSTM")))
    yield Case("conv_causal_dilated", chain(conv("causal", dilation_rate=2), dense()))
    yield Case("conv_stride2_lstm", chain(conv("valid", 2, strides=2), recurrent("LSTM")), open=False)
    yield Case("separable_lstm", chain(lambda: layers.SeparableConv1D(H, 3, padding="same"), recurrent("LSTM")))
    yield Case("depthwise_causal", chain(lambda: layers.ZeroPadding1D((2, 0)), lambda: layers.DepthwiseConv1D(3), dense()))
    yield Case("tcn", residual_tcn)
    yield Case("gated_conv", gated_conv)
    yield Case("crnn", crnn)
    yield Case("attention_pool", attention_pool)
    yield Case("lstm_stack2_dense", chain(recurrent("LSTM"), recurrent("LSTM"), dense(2, "sigmoid")))
    yield Case("gru_stack2_dense", chain(recurrent("GRU"), recurrent("GRU"), dense(2, "softmax")))
    yield Case("lstm_last_of_stack2", chain(recurrent("LSTM"), recurrent("LSTM", False), dense(2, "softmax")))
    yield Case("lstm_layernorm", chain(recurrent("LSTM"), layers.LayerNormalization, recurrent("LSTM")))
    yield Case("gru_batchnorm", chain(layers.BatchNormalization, recurrent("GRU"), layers.BatchNormalization))
    yield Case("lstm_dropout", chain(recurrent("LSTM", dropout=0.2), lambda: layers.Dropout(0.3), dense()))
    yield Case("lstm_recurrent_dropout", chain(recurrent("LSTM", recurrent_dropout=0.2), dense()))
    yield Case("stacked_cells", chain(lambda: layers.RNN([layers.LSTMCell(H), layers.GRUCell(H)], return_sequences=True)))
    yield Case("mask_lstm", chain(layers.Masking, recurrent("LSTM"), dense()))
    yield Case("mask_gru", chain(layers.Masking, recurrent("GRU"), dense()))
    yield Case("mask_lstm_last", chain(layers.Masking, recurrent("LSTM", False), dense()))
    yield Case("time_distributed", chain(lambda: layers.TimeDistributed(layers.Dense(H, activation="relu")), recurrent("LSTM")))
    yield Case(
        "time_distributed_fixed",
        chain(lambda: layers.TimeDistributed(layers.Dense(H, activation="relu")), recurrent("LSTM")),
        open=False,
    )
    yield Case("embedding_lstm", tokens(recurrent("LSTM"), dense(VOCAB, "softmax")))
    yield Case("embedding_gru", tokens(recurrent("GRU"), dense(VOCAB)))
    yield Case("embedding_mask_lstm", tokens(recurrent("LSTM", False), dense(2, "sigmoid"), mask_zero=True))
    for kind in ("LSTM", "GRU", "SimpleRNN"):
        yield Case(f"states_{kind.lower()}_open", stepwise(kind, 1))
        yield Case(f"states_{kind.lower()}_stack2_fixed", stepwise(kind, 2), open=False)
        yield Case(f"cell_{kind.lower()}", cell_step(f"{kind}Cell"), open=False)


# ---------------------------------------------------------------- export and check


def randomise(model: keras.Model, rng: np.random.Generator) -> None:
    """Weights that leave the linear range, no bias zero, variances positive."""
    for variable in model.variables:
        if variable.dtype != "float32":
            continue
        value = np.asarray(variable) + 0.3 * rng.standard_normal(variable.shape)
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.path else value.astype(np.float32))


def arguments(model: keras.Model, steps: int, batch: int, rng: np.random.Generator) -> list[Array]:
    made = []
    for tensor in model.inputs:
        shape = [n if n is not None else (batch if axis == 0 else steps) for axis, n in enumerate(tensor.shape)]
        if "int" in tensor.dtype:
            value = rng.integers(1, VOCAB, shape).astype(tensor.dtype)
        else:
            value = rng.standard_normal(shape).astype(np.float32)
        if len(shape) > 1 and any("mask" in layer.name or getattr(layer, "mask_zero", False) for layer in model.layers):
            value[-1, shape[1] - 2 :] = 0
        made.append(value)
    return made


def results(model: keras.Model, values: list[Array]) -> list[Array]:
    """Keras' own outputs; a layer that keeps its state starts from zero."""
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_states()
    made = model(values if len(values) > 1 else values[0])
    return [np.asarray(y) for y in (made if isinstance(made, list | tuple) else [made])]


def export(model: keras.Model, exporter: str, opset: int) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        if exporter == "keras":
            path = Path(folder) / "model.onnx"
            model.export(path, format="onnx", verbose=False)
            return onnx.load(path)
    names = [tensor.name for tensor in model.inputs]
    signature = [tf.TensorSpec(t.shape, t.dtype, name=n) for t, n in zip(model.inputs, names, strict=True)]
    function = tf.function(lambda *values: model(values if len(values) > 1 else values[0]), input_signature=signature)
    proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=opset)
    return proto


def in_onnxruntime(proto: onnx.ModelProto, values: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, values))


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {re.sub(r'/[^ ]+/', '', ' '.join(str(error).split()))[:160]}".replace("|", "\\|")


def shape_text(value: onnx.ValueInfoProto) -> str:
    return f"{value.name}[{','.join('?' if d.dim_param else str(d.dim_value) for d in value.type.tensor_type.shape.dim)}]"


def make(case: Case, exporter: str, folder: Path) -> Result:
    result = Result(case.name, exporter)
    keras.utils.clear_session()
    seed = zlib.crc32(case.name.encode())
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = case.build(None, None) if case.open else case.build(T, B)
    randomise(model, rng)
    given = [arguments(model, T, B, rng)] + ([arguments(model, T2, B2, rng)] if case.open else [])
    expected = [results(model, values) for values in given]
    try:
        proto = export(model, exporter, case.opset)
    except Exception as error:  # whatever an exporter raises is a reason to leave the case out
        result.left_out = f"the exporter refuses: {one_line(error)}"
        return result
    proto.graph.doc_string = ""
    names = [i.name for i in proto.graph.input]
    order = {tensor.name: index for index, tensor in enumerate(model.inputs)}
    places = [order.get(name.split(":")[0], index) for index, name in enumerate(names)]
    arrays: dict[str, Array] = {}
    for tag, values, wanted in zip(("", "2"), given, expected, strict=False):
        inputs = {name: values[place] for name, place in zip(names, places, strict=True)}
        try:
            made = in_onnxruntime(proto, inputs)
        except Exception as error:
            result.left_out = f"onnxruntime refuses: {one_line(error)}"
            return result
        result.error = max([result.error, *(float(np.max(np.abs(a - b))) for a, b in zip(made, wanted, strict=True))])
        if not all(np.allclose(a, b, rtol=RTOL, atol=ATOL) for a, b in zip(made, wanted, strict=True)):
            result.left_out = f"onnxruntime differs from Keras by {result.error:.1e}"
            return result
        arrays |= {f"in{tag}:{name}": value for name, value in inputs.items()}
        arrays |= {f"out{tag}:{o.name}": value for o, value in zip(proto.graph.output, wanted, strict=True)}
    result.nodes = Counter(node.op_type for node in proto.graph.node)
    result.opset = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in proto.opset_import if o.domain == "")
    result.shapes = " → ".join(" ".join(map(shape_text, v)) for v in (proto.graph.input, proto.graph.output))
    onnx.save(proto, folder / f"{case.name}_{exporter}.onnx")
    np.savez_compressed(folder / f"{case.name}_{exporter}.npz", **arrays)
    return result


def readme(made: Iterable[Result]) -> str:
    kept, left = [r for r in made if not r.left_out], [r for r in made if r.left_out]
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (tf, keras, tf2onnx, onnx, onnxruntime, np))
    lines = [
        "# Models exported by Keras",
        "",
        f"Generated by `python -m tests.whole.make_keras_models`; do not edit. Made with {versions}; the weights are random and "
        "ours, no licence but the project's applies.",
        "",
        f"Every file agreed with Keras in onnxruntime within {ATOL:g} absolute + {RTOL:g} relative; *error* is the largest "
        'absolute difference. `_keras`: `Model.export(format="onnx")`; `_tf2onnx`: `tf2onnx.convert.from_function`.',
        "",
        f"## Left out ({len(left)})",
        "",
        *(f"- `{r.name}_{r.exporter}`: {r.left_out}" for r in left),
        "",
        "## Files",
        "",
        "| file | opset | inputs → outputs in the file | error | nodes |",
        "|---|---|---|---|---|",
        *(
            f"| {r.name}_{r.exporter} | {r.opset} | {r.shapes} | {r.error:.1e} | "
            f"{', '.join(f'{op} {n}' for op, n in r.nodes.most_common())} |"
            for r in kept
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=MODELS / "keras")
    parser.add_argument("-k", "--only", default="", help="a regular expression: only these cases, no README.md")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    made = []
    for case in cases():
        for exporter in case.exporters:
            if re.search(chosen.only, case.name):
                made.append(make(case, exporter, chosen.output))
                print(f"{case.name}_{exporter}: {made[-1].left_out or f'{made[-1].error:.1e}'}", flush=True)
    if not chosen.only:
        kept = {f"{r.name}_{r.exporter}" for r in made if not r.left_out}
        for file in chosen.output.glob("*.[on][np][nz]*"):
            if file.stem not in kept:
                file.unlink()
        (chosen.output / "README.md").write_text(readme(made), encoding="utf-8")


if __name__ == "__main__":
    main()
