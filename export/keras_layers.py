"""Keras layers as plain data → an ONNX graph. No Keras here: a layer is its type, its configuration and its weights.

Keras' own exporters write recurrent layers out step by step, or as a Loop; here each becomes the one ONNX node that it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .keras_recurrent import CELLS, KINDS, NotKnown, attributes, weights

Array = np.ndarray[Any, Any]

OPSET = 20
IR_VERSION = 10
"""the newest that every onnxruntime opens which knows the opset"""
ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "relu": ("Relu", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_silu": ("HardSwish", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "gelu": ("Gelu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "mish": ("Mish", {}),
    "softsign": ("Softsign", {}),
    "softplus": ("Softplus", {}),
    "exponential": ("Exp", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
}
NOTHING = (
    "Dropout",
    "SpatialDropout1D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
    "Identity",
)
"""layers that do nothing outside training"""
MERGES = {"Add": "Add", "Multiply": "Mul", "Maximum": "Max", "Minimum": "Min", "Subtract": "Sub"}
BOTH_WAYS = {"sum": "Add", "mul": "Mul"}
FRAME_BY_FRAME = ("Dense", "Activation", "LayerNormalization", "BatchNormalization", "ReLU", "LeakyReLU", "Softmax", *NOTHING)
"""what TimeDistributed may hold: layers that work on the last axis alone, with or without it"""


@dataclass(frozen=True)
class Layer:
    """One call of a Keras layer.

    type, config    the name of its class, and what `get_config()` says
    weights         what `get_weights()` gives
    inputs          the values that it takes: x, and the initial states of a recurrent layer
    outputs         the values that it makes: y, and with return_state its final states
    inner           the layers inside: forwards and backwards of Bidirectional, the one of TimeDistributed, the cells of RNN
    """

    type: str
    name: str
    config: Mapping[str, Any]
    weights: tuple[Array, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    inner: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Port:
    """An input of the file. shape: None for open sizes; time: whether axis 1 is time"""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    time: bool

    def sizes(self, step: bool) -> list[int | str]:
        """Numbers, and the names of those that are open; in a step model the batch is 1 and time is open."""
        made: list[int | str] = []
        for axis, size in enumerate(self.shape):
            if self.time and axis == 1 and (step or size is None):
                made.append("time")
            elif axis == 0 and (step or size is None):
                made.append(1 if step else "batch")
            else:
                made.append(size or f"{self.name}_{axis}")
        return made


@dataclass(frozen=True)
class Network:
    """Layers in the order in which they run; inputs: value → port, outputs: value → name in the file."""

    layers: tuple[Layer, ...]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, str]


def graph(network: Network, step: bool) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The ONNX model, and the states that it has as inputs and outputs, {input: output}.

    As a sequence, the sizes that are open are called "batch" and "time", and states start from zero. As a step model the
    state of every recurrent layer that is given none is an input NAME_h (and NAME_c), [1, units], and an output NAME_hn
    (NAME_cn).

    Raises `NotKnown`.
    """
    return _Builder(network, step).model()


@dataclass
class _Builder:
    """values: name in the network → name in the graph and number of axes"""

    network: Network
    step: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    values: dict[str, tuple[str, int]] = field(default_factory=dict)
    states: dict[str, tuple[str, int]] = field(default_factory=dict)
    """state input → state output, units"""

    def model(self) -> tuple[onnx.ModelProto, dict[str, str]]:
        inputs = []
        for value, port in self.network.inputs.items():
            code = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
            inputs.append(helper.make_tensor_value_info(port.name, code, port.sizes(self.step)))
            self.values[value] = port.name, len(port.shape)
        for layer in self.network.layers:
            self.values.update(zip(layer.outputs, self.of(layer), strict=True))
        outputs = []
        for value, name in self.network.outputs.items():
            made, rank = self.values[value]
            self.nodes.append(helper.make_node("Identity", [made], [name], name=f"output.{name}"))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank))
        for name, (end, units) in self.states.items():
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, units]))
            outputs.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, units]))
        tensors = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        built = helper.make_graph(self.nodes, "keras", inputs, outputs, tensors)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(built, opset_imports=opsets, producer_name="keras", ir_version=IR_VERSION)
        return onnx.shape_inference.infer_shapes(model), {name: end for name, (end, _) in self.states.items()}

    def of(self, layer: Layer) -> Sequence[tuple[str, int]]:
        """The values that a layer makes: their names in the graph and numbers of axes."""
        given = [self.values[value] for value in layer.inputs]
        x, rank = given[0]
        if layer.type in NOTHING:
            return [given[0]]
        if layer.type in MERGES:
            return [
                (self.node(MERGES[layer.type], [name for name, _ in given], f"{layer.name}.merged"), max(r for _, r in given))
            ]
        if layer.type == "Concatenate":
            return [(self.node("Concat", [name for name, _ in given], f"{layer.name}.merged", axis=layer.config["axis"]), rank)]
        if layer.type == "TimeDistributed":
            (inner,) = layer.inner
            if inner.type not in FRAME_BY_FRAME:
                raise NotKnown(
                    f"layer {layer.name!r}: TimeDistributed holds a {inner.type}; known are {', '.join(FRAME_BY_FRAME)}"
                )
            return self.of(Layer(inner.type, layer.name, inner.config, inner.weights, layer.inputs, layer.outputs))
        if layer.type in (*KINDS, "RNN", "Bidirectional"):
            return self.recurrent(layer, x, [name for name, _ in given[1:]])
        rule = RULES.get(layer.type)
        if rule is None:
            raise NotKnown(f"layer {layer.name!r} is of the type {layer.type}, for which there is no rule")
        return [rule(self, layer, x, rank)]

    # ------------------------------------------------------------------------------------------------ recurrent layers

    def recurrent(self, layer: Layer, x: str, initial: Sequence[str]) -> Sequence[tuple[str, int]]:
        if layer.type == "Bidirectional":
            return self.both_ways(layer, x, initial)
        if layer.type == "RNN":
            return self.cells(layer, x, initial)
        config = layer.config
        y, *final = self.walk(layer, x, initial, "reverse" if config["go_backwards"] else "forward")
        if config["go_backwards"] and config["return_sequences"]:
            y = self.flipped(y, f"{layer.name}.flipped")
        result = (y, 3) if config["return_sequences"] else (final[0], 2)
        return [result, *((state, 2) for state in final)] if config["return_state"] else [result]

    def walk(self, layer: Layer, x: str, initial: Sequence[str], direction: str) -> list[str]:
        """y [batch, time, units] in the order of x, and the final states [batch, units]."""
        kind, name, units = layer.type, layer.name, layer.config["units"]
        if kind not in KINDS:
            raise NotKnown(f"layer {name!r} is of the type {kind}; known are {', '.join(KINDS)}")
        parts = ("h", "c") if kind == "LSTM" else ("h",)
        open_ends = self.step and not initial
        if open_ends:
            if direction == "reverse":
                raise NotKnown(f"layer {name!r} goes backwards: it has no step form, as it starts at the end")
            initial = [f"{name}_{part}" for part in parts]
            self.states.update({f"{name}_{part}": (f"{name}_{part}n", units) for part in parts})
        w, r, b = weights(kind, layer.config, layer.weights)
        inputs = [self.node("Transpose", [x], f"{name}.x", perm=[1, 0, 2]), self.constant(f"{name}.W", w)]
        inputs += [self.constant(f"{name}.R", r), "" if b is None else self.constant(f"{name}.B", b), ""]
        inputs += [self.node("Unsqueeze", [s, self.axes(0)], f"{name}.{p}0") for s, p in zip(initial, parts, strict=False)]
        while not inputs[-1]:
            inputs.pop()
        made = [f"{name}.Y", *(f"{name}.Y_{part}" for part in parts)]
        options = {"direction": direction, **attributes(kind, name, layer.config)}
        self.nodes.append(helper.make_node(KINDS[kind], inputs, made, name=name, **options))
        steps = self.node("Squeeze", [made[0], self.axes(1)], f"{name}.steps")
        y = self.node("Transpose", [steps], f"{name}.y", perm=[1, 0, 2])
        ends = [f"{name}_{p}n" if open_ends else f"{name}.{p}n" for p in parts]
        return [y, *(self.node("Squeeze", [m, self.axes(0)], end) for m, end in zip(made[1:], ends, strict=True))]

    def both_ways(self, layer: Layer, x: str, initial: Sequence[str]) -> Sequence[tuple[str, int]]:
        merge, sides = layer.config["merge_mode"], []
        if merge is None or layer.inner[0].config["return_state"] or initial:
            raise NotKnown(f"layer {layer.name!r}: Bidirectional with states or with merge_mode=None")
        sequences = layer.inner[0].config["return_sequences"]
        for inner, direction in zip(layer.inner, ("forward", "reverse"), strict=True):
            renamed = Layer(inner.type, f"{layer.name}_{direction}", inner.config, inner.weights)
            y, h, *_ = self.walk(renamed, x, [], direction)
            sides.append(y if sequences else h)
        if merge == "concat":
            joined = self.node("Concat", sides, f"{layer.name}.joined", axis=-1)
        elif merge == "ave":
            joined = self.node("Mean", sides, f"{layer.name}.joined")
        else:
            joined = self.node(BOTH_WAYS[merge], sides, f"{layer.name}.joined")
        return [(joined, 3 if sequences else 2)]

    def cells(self, layer: Layer, x: str, initial: Sequence[str]) -> Sequence[tuple[str, int]]:
        config, ends = layer.config, [""]
        if initial or config["return_state"] or config["go_backwards"]:
            raise NotKnown(f"layer {layer.name!r}: RNN with initial_state, return_state or go_backwards")
        for index, cell in enumerate(layer.inner):
            name = f"{layer.name}_{index}" if len(layer.inner) > 1 else layer.name
            x, *ends = self.walk(Layer(CELLS.get(cell.type, cell.type), name, cell.config, cell.weights), x, [], "forward")
        return [(x, 3) if config["return_sequences"] else (ends[0], 2)]

    def flipped(self, x: str, name: str) -> str:
        bounds = [
            self.constant(f"{name}.{part}", [n], np.int64)
            for part, n in (("from", -1), ("to", -(2**62)), ("axis", 1), ("step", -1))
        ]
        return self.node("Slice", [x, *bounds], name)

    # ------------------------------------------------------------------------------------------------ pieces of a graph

    def node(self, op: str, inputs: Sequence[str], name: str, **options: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **options))
        return name

    def constant(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        self.constants[name] = np.ascontiguousarray(array, dtype)
        return name

    def axes(self, *axes: int) -> str:
        return self.constant("axes_" + "_".join(map(str, axes)), axes, np.int64)

    def activated(self, layer: Layer, x: str) -> str:
        chosen = layer.config.get("activation", "linear")
        if chosen in ("linear", None):
            return x
        if chosen in ("silu", "swish"):
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{layer.name}.sigmoid")], f"{layer.name}.activation")
        if not isinstance(chosen, str) or chosen not in ACTIVATIONS:
            raise NotKnown(f"layer {layer.name!r}: activation={chosen!r:.80} is none of linear, silu, {', '.join(ACTIVATIONS)}")
        op, options = ACTIVATIONS[chosen]
        return self.node(op, [x], f"{layer.name}.activation", **options)

    def only(self, layer: Layer, **expected: Any) -> None:
        """Raise `NotKnown` where an option has another value."""
        for option, value in expected.items():
            if layer.config.get(option, value) != value:
                raise NotKnown(f"layer {layer.name!r} ({layer.type}): {option}={layer.config[option]!r:.80}; known is {value!r}")


# ---------------------------------------------------------------------------------------------------- one rule a layer


def _dense(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    b.only(layer, lora_rank=None)
    y = b.node("MatMul", [x, b.constant(f"{layer.name}.kernel", layer.weights[0])], f"{layer.name}.product")
    if layer.config["use_bias"]:
        y = b.node("Add", [y, b.constant(f"{layer.name}.bias", layer.weights[1])], f"{layer.name}.sum")
    return b.activated(layer, y), rank


def _embedding(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    return b.node("Gather", [b.constant(f"{layer.name}.table", layer.weights[0]), x], f"{layer.name}.rows"), rank + 1


def _activation(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    return b.activated(layer, x), rank


def _relu(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    b.only(layer, max_value=None, negative_slope=0.0, threshold=0.0)
    return b.node("Relu", [x], f"{layer.name}.relu"), rank


def _leaky_relu(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    return b.node("LeakyRelu", [x], f"{layer.name}.relu", alpha=float(layer.config["negative_slope"])), rank


def _softmax(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    b.only(layer, axis=-1)
    return b.node("Softmax", [x], f"{layer.name}.softmax", axis=-1), rank


def _layer_normalization(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    axis = layer.config["axis"]
    if axis not in (-1, [-1], rank - 1, [rank - 1]):
        raise NotKnown(f"layer {layer.name!r}: LayerNormalization over axis {axis}; known is the last one")
    given = list(layer.weights)
    width = given[0].shape if given else None
    gamma = given.pop(0) if layer.config["scale"] else None
    beta = given.pop(0) if layer.config["center"] else None
    if width is None or layer.config.get("rms_scaling"):
        raise NotKnown(f"layer {layer.name!r}: LayerNormalization with rms_scaling, or with neither scale nor center")
    inputs = [x, b.constant(f"{layer.name}.gamma", np.ones(width) if gamma is None else gamma)]
    if beta is not None:
        inputs.append(b.constant(f"{layer.name}.beta", beta))
    return b.node("LayerNormalization", inputs, f"{layer.name}.normal", axis=-1, epsilon=layer.config["epsilon"]), rank


def _batch_normalization(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    if layer.config["axis"] not in (-1, rank - 1):
        raise NotKnown(f"layer {layer.name!r}: BatchNormalization over axis {layer.config['axis']}; known is the last one")
    given = [array.astype(np.float64) for array in layer.weights]
    gamma = given.pop(0) if layer.config["scale"] else np.ones(given[-1].shape)
    beta = given.pop(0) if layer.config["center"] else np.zeros(given[-1].shape)
    mean, variance = given
    factor = gamma / np.sqrt(variance + layer.config["epsilon"])
    scaled = b.node("Mul", [x, b.constant(f"{layer.name}.factor", factor)], f"{layer.name}.scaled")
    return b.node("Add", [scaled, b.constant(f"{layer.name}.shift", beta - mean * factor)], f"{layer.name}.shifted"), rank


def _conv1d(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
    config = layer.config
    b.only(layer, data_format="channels_last")
    if b.step and config["kernel_size"][0] > 1:
        raise NotKnown(
            f"layer {layer.name!r} looks at {config['kernel_size'][0]} frames: as a step model its past frames would be lost "
            'between calls. With form="sequence" tinyrnn keeps them itself'
        )
    (size,), (stride,), (dilation,) = config["kernel_size"], config["strides"], config["dilation_rate"]
    reach = dilation * (size - 1)
    pads = {"valid": [0, 0], "causal": [reach, 0], "same": [reach // 2, reach - reach // 2]}[config["padding"]]
    if config["padding"] == "same" and stride > 1:
        raise NotKnown(f"layer {layer.name!r}: padding='same' with strides={stride} pads by the length of the sequence")
    turned = b.node("Transpose", [x], f"{layer.name}.x", perm=[0, 2, 1])
    inputs = [turned, b.constant(f"{layer.name}.kernel", layer.weights[0].transpose(2, 1, 0))]
    if config["use_bias"]:
        inputs.append(b.constant(f"{layer.name}.bias", layer.weights[1]))
    options = {"pads": pads, "strides": [stride], "dilations": [dilation], "group": config["groups"], "kernel_shape": [size]}
    y = b.node("Conv", inputs, f"{layer.name}.conv", **options)
    return b.activated(layer, b.node("Transpose", [y], f"{layer.name}.y", perm=[0, 2, 1])), rank


def _pooled(op: str) -> Any:
    def rule(b: _Builder, layer: Layer, x: str, rank: int) -> tuple[str, int]:
        b.only(layer, data_format="channels_last", keepdims=False)
        if b.step:
            raise NotKnown(f"layer {layer.name!r} is over all of time: a step model would see the frames of one call alone")
        return b.node(op, [x, b.axes(1)], f"{layer.name}.pooled", keepdims=0), rank - 1

    return rule


RULES: dict[str, Any] = {
    "Dense": _dense,
    "Embedding": _embedding,
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "Softmax": _softmax,
    "LayerNormalization": _layer_normalization,
    "BatchNormalization": _batch_normalization,
    "Conv1D": _conv1d,
    "GlobalAveragePooling1D": _pooled("ReduceMean"),
    "GlobalMaxPooling1D": _pooled("ReduceMax"),
}
