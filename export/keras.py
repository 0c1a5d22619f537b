"""Keras models to the files tinyrnn loads, from their layers and weights.

Keras' own exporter writes recurrent layers out frame by frame or as a Loop. `to_onnx` writes the layers that it knows as the
ONNX nodes that they are (`keras_layers`), and takes Keras' exporter for the rest; either way the file is kept only once
onnxruntime has given what Keras gives.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import onnx

import tinyrnn
from tinyrnn.check import excess

from .keras_layers import MERGES, Layer, Network, Port, graph
from .keras_recurrent import NotKnown
from .onnx_file import LEVEL, Exported, ExportError, finish, rename, session, verify

__all__ = ["ExportError", "Exported", "round_to_half", "to_npz", "to_onnx"]

Array = np.ndarray[Any, Any]

FORMS = ("sequence", "step")
BATCH, TIME = 2, 6
"""sizes of the example where a model leaves them open"""
PIECES = (1, 2)
"""frames a call in which a step model is compared with the whole sequence"""


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    form: str = "sequence",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    unmasked: bool = False,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
) -> Exported:
    """Write a Keras model as one self-contained .onnx file.

    form           "sequence": the model's own inputs [batch, time, features] (tokens [batch, time]) and outputs, states zero
                   at the start; tinyrnn streams such a file. "step": batch 1, and the state of every recurrent layer is an
                   input NAME_h (LSTM: and NAME_c), [1, units], and an output NAME_hn (NAME_cn): whoever runs it carries them
    input_names    in the file; by default "x" for the only one, else the names of the Input layers
    output_names   by default "y" for the only one, else those of the layers, with _h and _c for states
    unmasked       leave masks (mask_zero=True, Masking) out: for sequences that hold no padding, as a stream does
    metadata       stored in the file's metadata_props
    half           store the weights as float16, widened in the file; `round_to_half(model)` first

    Raises ExportError with the layer that has no rule, what Keras' own exporter did, and what to write instead.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}; known are {', '.join(FORMS)}")
    shown = f"{os.fspath(path)} (model {model.name!r})"
    if not model.built:
        raise ExportError(f"{shown}: it has no weights yet: begin it with keras.Input((None, features)), or call it once")
    if not getattr(model, "inputs", None):
        raise ExportError(
            f"{shown}: a subclassed model has no list of its inputs and layers: call it on keras.Input tensors, and export "
            "keras.Model(x, model(x))"
        )
    policies = {layer.compute_dtype for layer in model.layers if layer.weights} - {"float32"}
    if policies:
        raise ExportError(
            f"{shown}: it computes in {', '.join(policies)}; build it again under keras.config.set_dtype_policy('float32') and "
            "give it the weights: copy.set_weights(model.get_weights())"
        )
    try:
        network = read(model, input_names, output_names, unmasked)
        proto, states = graph(network, False)
        if form == "step":
            stepwise, states = graph(network, True)
    except NotKnown as reason:
        if form == "step":
            raise ExportError(
                f"{shown}: {reason}. A step model is written from known layers alone, with every state zero at the start; "
                'form="sequence" takes more'
            ) from None
        return _by_keras(model, path, str(reason), input_names, output_names, metadata, half)
    with_states = [port.name for port in network.inputs.values() if not port.time]
    if form == "step" and with_states:
        raise ExportError(
            f"{shown}: its inputs {', '.join(map(repr, with_states))} have no time axis. A model with its states as inputs and "
            'outputs is a step model already: form="sequence" writes it as it is'
        )
    finish(proto, metadata, half)
    example = _example(network)
    axes = {port.name: {a: n for a, n in enumerate(port.sizes(False)) if isinstance(n, str)} for port in network.inputs.values()}
    run = _run(model, [port.name for port in network.inputs.values()])
    made = verify(proto, path, "layers", run, example, axes)
    if form == "sequence":
        onnx.save(proto, os.fspath(path))
        return made
    finish(stepwise, metadata, half)
    worst = _compare_steps(shown, proto, stepwise, states, {name: array[:1] for name, array in example.items()}, example)
    onnx.save(stepwise, os.fspath(path))
    return Exported(os.fspath(path), "layers", made.sizes, max(made.excess, worst))


def to_npz(model: keras.Model, path: str | os.PathLike[str], **options: Any) -> Exported:
    """Write a Keras model as an .npz container, which tinyrnn loads without the onnx package.

    The file holds the graph that `to_onnx` writes, compared with Keras in the same way, as `tinyrnn.save` stores it; a step
    model's pairs of states are recorded in it. options: those of `to_onnx`, without metadata and half.

    Raises what `to_onnx` and `tinyrnn.load` raise.
    """
    refused = sorted({"metadata", "half"} & set(options))
    if refused:
        raise ValueError(f"{' and '.join(refused)}: only of to_onnx")
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.splitext(os.path.basename(path))[0]
        made = to_onnx(model, os.path.join(folder, f"{name}.onnx"), **options)
        tinyrnn.save(tinyrnn.load(made.path), path)
    return Exported(os.fspath(path), made.exporter, made.sizes, made.excess, made.notes)


def round_to_half(model: keras.Model) -> None:
    """Round every floating-point variable to the nearest float16, in place; its type stays.

    Raises ValueError, before anything is changed, for one that float16 cannot hold (beyond 65504).
    """
    rounded = []
    for variable in model.variables:
        array = _array(variable.value)
        if array.dtype.kind != "f":
            continue
        if np.abs(array[np.isfinite(array)]).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(f"{variable.path} reaches {np.abs(array).max():g}; float16 ends at 65504")
        rounded.append((variable, array.astype(np.float16).astype(array.dtype)))
    for variable, array in rounded:
        variable.assign(array)


# ---------------------------------------------------------------------------------------------------- reading a model


def read(
    model: keras.Model, input_names: Sequence[str] | None, output_names: Sequence[str] | None, unmasked: bool = False
) -> Network:
    """A Sequential or functional model as plain data. Raises `NotKnown` for what is neither, or holds a mask."""
    if isinstance(model, keras.Sequential):
        calls = [(layer, [n], [n + 1]) for n, layer in enumerate(model.layers)]
        starts, ends = [0], [len(model.layers)]
    else:
        calls = _functional_calls(model)
        starts, ends = [id(t) for t in model.inputs], [id(t) for t in model.outputs]
    layers = []
    for layer, given, made in calls:
        if not isinstance(layer, keras.layers.Layer):
            layers.append(Layer(type(layer).__name__, layer.name, {}, (), tuple(f"v{n}" for n in given), (f"v{made[0]}",)))
            continue
        masks = layer.get_config().get("mask_zero", False) or isinstance(layer, keras.layers.Masking)
        if masks and not unmasked:
            raise NotKnown(
                f"layer {layer.name!r} masks padding, which a stream does not have: for sequences without padding write "
                "unmasked=True"
            )
        if isinstance(layer, keras.layers.Masking):
            layer = keras.layers.Identity(name=layer.name)
        layers.append(_layer(layer, [f"v{n}" for n in given], [f"v{n}" for n in made]))
    tokens = {layer.inputs[0] for layer in layers if layer.type == "Embedding"}
    names = _names("input", input_names, "x", [tensor.name for tensor in model.inputs])
    ports = {}
    for start, name, tensor in zip(starts, names, model.inputs, strict=True):
        shape, is_tokens = tuple(tensor.shape), f"v{start}" in tokens
        ports[f"v{start}"] = Port(name, "int64" if is_tokens else "float32", shape, len(shape) == (2 if is_tokens else 3))
    makers = {value: (layer.name, place) for layer in layers for place, value in enumerate(layer.outputs)}
    usual = [makers[f"v{end}"][0] + ("", "_h", "_c")[makers[f"v{end}"][1]] if f"v{end}" in makers else "x" for end in ends]
    return Network(
        tuple(layers), ports, dict(zip((f"v{n}" for n in ends), _names("output", output_names, "y", usual), strict=True))
    )


def _functional_calls(model: keras.Model) -> list[tuple[Any, list[int], list[int]]]:
    """Every call of a layer, or of an operator such as +, in order, with the ids of the tensors that it takes and makes."""
    calls, seen = [], set()
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.operation
            if node.is_input or all(t.dtype == "bool" for t in node.output_tensors):  # a mask, which `read` asks about
                continue
            joins = type(layer).__name__ in MERGES and len(node.input_tensors) > 1
            if not isinstance(layer, keras.layers.Layer) and not joins:
                raise NotKnown(f"the operation {layer.name!r} ({type(layer).__name__}) is no layer")
            if layer.name in seen:
                raise NotKnown(f"layer {layer.name!r} is called more than once")
            seen.add(layer.name)
            calls.append((layer, [id(t) for t in node.input_tensors if t.dtype != "bool"], [id(t) for t in node.output_tensors]))
    return calls


def _layer(layer: Any, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> Layer:
    inside: Sequence[Any] = ()
    if isinstance(layer, keras.layers.Bidirectional):
        inside = (layer.forward_layer, layer.backward_layer)
    elif isinstance(layer, keras.layers.TimeDistributed):
        inside = (layer.layer,)
    elif type(layer) is keras.layers.RNN:
        inside = layer.cell.cells if isinstance(layer.cell, keras.layers.StackedRNNCells) else (layer.cell,)
    return Layer(
        type(layer).__name__ if type(layer).__module__.startswith("keras.") else f"{type(layer).__name__} (not Keras' own)",
        layer.name,
        layer.get_config(),
        tuple(np.asarray(array) for array in layer.get_weights()),
        tuple(inputs),
        tuple(outputs),
        tuple(_layer(part) for part in inside),
    )


def _names(kind: str, given: Sequence[str] | None, only: str, usual: Sequence[str]) -> list[str]:
    names = list(given) if given is not None else [only] if len(usual) == 1 else list(usual)
    if len(names) != len(usual) or len(set(names)) != len(names):
        raise ValueError(f"{len(usual)} {kind}s need as many different names, got {names}")
    return names


# ---------------------------------------------------------------------------------------------------- comparing


def _array(tensor: Any) -> Array:
    array: Array = np.array(keras.ops.convert_to_numpy(tensor))
    return array


def _run(model: keras.Model, names: Sequence[str]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """Keras' own results; layers that keep their state from call to call start from zero."""

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        for layer in model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_state()
        given = [feeds[name] for name in names]
        made = model(given if len(given) > 1 else given[0], training=False)
        return [_array(y) for y in keras.tree.flatten(made)]

    return run


def _example(network: Network) -> dict[str, Array]:
    """Random inputs: floats normal, tokens from 1 on, as 0 may stand for padding."""
    rng = np.random.default_rng(0)
    rows = {layer.inputs[0]: len(layer.weights[0]) for layer in network.layers if layer.type == "Embedding"}
    made = {}
    for value, port in network.inputs.items():
        shape = [size or (BATCH if axis == 0 else TIME) for axis, size in enumerate(port.shape)]
        draw = rng.integers(min(1, rows[value] - 1), rows[value], shape) if value in rows else rng.standard_normal(shape)
        made[port.name] = draw.astype(port.dtype)
    return made


def _compare_steps(
    shown: str,
    sequence: onnx.ModelProto,
    stepwise: onnx.ModelProto,
    states: Mapping[str, str],
    first: Mapping[str, Array],
    example: Mapping[str, Array],
) -> float:
    """The largest difference between the step model, its state carried, and the whole sequence, in units of the tolerance."""
    whole = session(sequence, shown).run(None, dict(example))
    stepped, worst = session(stepwise, shown), 0.0
    units = {i.name: i.shape[1] for i in stepped.get_inputs() if i.name in states}
    names = [output.name for output in stepped.get_outputs()]
    frames = next(iter(first.values())).shape[1]
    for piece in PIECES:
        carried = {name: np.zeros((1, size), np.float32) for name, size in units.items()}
        made: list[dict[str, Array]] = []
        for start in range(0, frames, piece):
            parts = {name: array[:, start : start + piece] for name, array in first.items()}
            made.append(dict(zip(names, stepped.run(names, {**parts, **carried}), strict=True)))
            carried = {name: made[-1][end] for name, end in states.items()}
        for output, wanted in zip(sequence.graph.output, whole, strict=True):
            pieces = [results[output.name] for results in made]
            apart = excess(LEVEL, np.concatenate(pieces, 1) if wanted.ndim > 2 else pieces[-1], wanted[:1])
            worst = max(worst, apart)
            if not apart <= 1:
                raise ExportError(
                    f"{shown}: output {output.name!r} of the step model, {piece} frames a call, is {apart:.1e} tolerances from "
                    'that of the whole sequence: a layer other than the recurrent ones looks along time. Use form="sequence"'
                )
    return worst


def _by_keras(
    model: keras.Model,
    path: str | os.PathLike[str],
    reason: str,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    metadata: Mapping[str, str] | None,
    half: bool,
) -> Exported:
    """Keras' own exporter, for a model with a layer that has no rule here."""
    advice = (
        f"{os.fspath(path)} (model {model.name!r}): {reason}; and Keras' own exporter, on the backend {keras.backend.backend()}, "
        "does not write it either. Its PyTorch backend writes recurrent layers out for one length: KERAS_BACKEND=tensorflow "
        "(with tf2onnx) writes them as a Loop, which tinyrnn reads. Else build the part that runs from known layers, give it "
        "the weights (set_weights), and export that."
    )
    rng = np.random.default_rng(0)
    given = []
    for tensor in model.inputs:
        shape = [size or (BATCH if axis == 0 else TIME) for axis, size in enumerate(tensor.shape)]
        is_float = tensor.dtype.startswith("float")
        given.append((rng.standard_normal(shape) if is_float else rng.integers(0, 2, shape)).astype(tensor.dtype))
    names = [tensor.name for tensor in model.inputs]
    run = _run(model, names)
    run(dict(zip(names, given, strict=True)))
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may be constants in the file, which is compared at other sizes
            written = os.path.join(folder, "model.onnx")
            model.export(written, format="onnx", verbose=False)
            proto = onnx.load(written)
    except Exception as error:  # exporters raise whatever they meet
        raise ExportError(f"{advice} It said: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
    in_file = _names("input", input_names, "x", names)
    rename(proto, in_file, _names("output", output_names, "y", [o.name for o in proto.graph.output]))
    finish(proto, metadata, half)
    axes = {
        name: {axis: "batch" if axis == 0 else "time" for axis, size in enumerate(t.shape) if size is None and axis < 2}
        for name, t in zip(in_file, model.inputs, strict=True)
    }
    try:
        made = verify(proto, path, "keras", _run(model, in_file), dict(zip(in_file, given, strict=True)), axes)
    except ExportError as error:
        raise ExportError(f"{advice} It said: {error}") from None
    onnx.save(proto, os.fspath(path))
    return Exported(made.path, made.exporter, made.sizes, made.excess, (reason,))
