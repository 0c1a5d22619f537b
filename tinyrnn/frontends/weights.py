"""The weights of a chain of PyTorch layers → `Graph`. The forms are described in `frontends.npz`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError
from tinyrnn.frontends.archive import Array
from tinyrnn.frontends.topological_order import check_names, model_name
from tinyrnn.graph.ir import Graph, Node, Size, Spec

OPSET = 20
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
"""indices of ONNX's gates in PyTorch's order: GRU r, z, n → z, r, h; LSTM i, f, g, o → i, o, f, c"""
PLAIN = {"ReLU": "Relu", "Tanh": "Tanh", "Sigmoid": "Sigmoid", "Softmax": "Softmax", "LogSoftmax": "LogSoftmax"}
OPTIONS: dict[str, tuple[str, ...]] = {
    "Embedding": (),
    "Linear": (),
    "LayerNorm": ("eps", "elementwise_affine"),
    "BatchNorm1d": ("eps",),
    "Conv1d": ("padding", "stride", "dilation", "groups"),
    "ReLU": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softmax": ("dim",),
    "LogSoftmax": ("dim",),
    "Dropout": ("p",),
    "RNN": ("nonlinearity", "select"),
    "LSTM": ("select",),
    "GRU": ("select", "reset_after"),
    "RNNCell": ("nonlinearity", "select"),
    "LSTMCell": ("select",),
    "GRUCell": ("select", "reset_after"),
}
RECURRENT_KEY = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(_l(0|[1-9]\d{0,3})(_reverse)?)?")


@dataclass(frozen=True)
class Layer:
    """One entry of `layers`."""

    type: str
    prefix: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.type} {self.prefix!r}" if self.prefix else self.type

    def key(self, name: str) -> str:
        """The name of an array of the layer."""
        return f"{self.prefix}.{name}" if self.prefix else name


def weights_graph(
    path: Path, arrays: Mapping[str, Array], layers: Any, metadata: Mapping[str, str], usual: Mapping[str, Mapping[str, Any]]
) -> Graph:
    """The graph of a chain of layers: input `x`, output `y`, open sizes "batch" and "time"; `usual`: options by prefix.

    Raises `LoadError` for a description that is not understood, and for arrays that are missing, left over or of the
    wrong shape.
    """
    builder = _Builder(path, arrays)
    for entry in _layers(path, layers, usual):
        builder.add(entry)
    return builder.graph(metadata)


def _layers(path: Path, given: Any, usual: Mapping[str, Mapping[str, Any]]) -> list[Layer]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence) or not given:
        raise LoadError(f'{path}: layers must be a list such as [("LSTM", "rnn"), ("Linear", "head")], not {given!r:.80}')
    found = []
    for index, entry in enumerate(given):
        parts = [entry] if isinstance(entry, str) else list(entry) if isinstance(entry, (list, tuple)) else []
        if (
            not 1 <= len(parts) <= 3
            or not all(isinstance(p, str) for p in parts[:2])
            or not all(isinstance(p, Mapping) for p in parts[2:])
        ):
            raise LoadError(f"{path}: layer {index} must be (type, prefix) or (type, prefix, options), not {entry!r:.80}")
        check_names(path, [p for p in parts[:2]])
        options: Any = parts[2] if len(parts) > 2 else {}
        layer = Layer(parts[0], parts[1] if len(parts) > 1 else "", dict(options))
        if layer.type not in OPTIONS:
            lower = {kind.lower(): kind for kind in OPTIONS}
            close = [lower[kind] for kind in get_close_matches(layer.type.lower(), lower, 1)]
            raise LoadError(
                f"{path}: layer {index} is of the unknown type {layer.type!r}{_meant(close)}. Supported are {', '.join(OPTIONS)}"
            )
        for name in layer.options:
            if name not in OPTIONS[layer.type]:
                raise LoadError(
                    f"{path}: layer {layer} has the unknown option {name!r}={layer.options[name]!r:.80}; supported are "
                    f"{', '.join(OPTIONS[layer.type]) or 'none'}"
                )
        layer.options.update({k: v for k, v in usual.get(layer.prefix, {}).items() if k not in layer.options})
        found.append(layer)
    return found


class _Builder:
    """Builds a graph layer by layer."""

    def __init__(self, path: Path, arrays: Mapping[str, Array]) -> None:
        self.path, self.arrays = path, arrays
        self.used: set[str] = set()
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}
        self.names: set[str] = {"x", "y"}
        self.current = "x"
        self.width: int | None = None
        """features of the current value, once known"""
        self.features: int | None = None
        """of x"""
        self.tokens, self.timed = False, True

    def fail(self, layer: Layer, text: str) -> LoadError:
        return LoadError(f"{self.path}: layer {layer}: {text}")

    def take(self, layer: Layer, name: str, shape: Sequence[int | None], needed: bool = True) -> Array | None:
        """An array of the layer as float32; None in `shape` stands for any size. Raises `LoadError`."""
        key = layer.key(name)
        array = self.arrays.get(key)
        if array is None:
            if not needed:
                return None
            close = get_close_matches(key, [k for k in self.arrays if k not in self.used], 1)
            raise self.fail(layer, f"its array {key!r} is missing{_meant(close)}. The file has {listed(self.arrays)}")
        if (
            array.ndim != len(shape)
            or any(w not in (None, n) for w, n in zip(shape, array.shape, strict=True))
            or 0 in array.shape
        ):
            raise self.fail(
                layer,
                f"{key!r} has shape {list(array.shape)}; it must be [{', '.join('any' if n is None else str(n) for n in shape)}]",
            )
        if array.dtype.kind != "f":
            raise self.fail(layer, f"{key!r} is {array.dtype}; weights are float32")
        self.used.add(key)
        return array.astype(np.float32)

    def fresh(self, stem: str) -> str:
        name, count = stem, 1
        while name in self.names:
            count += 1
            name = f"{stem}.{count}"
        self.names.add(name)
        return name

    def constant(self, stem: str, array: Array) -> str:
        name = self.fresh(stem)
        self.constants[name] = np.asarray(array, order="C")
        return name

    def node(self, op: str, stem: str, inputs: Sequence[str], attributes: dict[str, Any] | None = None) -> str:
        """Add a node with one output; returns the output's name."""
        name = self.fresh(stem)
        self.nodes.append(Node(op, name, tuple(inputs), (name,), attributes or {}, OPSET))
        return name

    def expect(self, layer: Layer, width: int) -> None:
        """Raise `LoadError` unless the current value has `width` features."""
        if self.tokens and self.current == "x":
            raise AssertionError("an embedding leaves another current value")
        if self.width is None:
            self.width = self.features = width
        if self.width != width:
            raise self.fail(layer, f"it takes {width} features, but the layer before it makes {self.width}")

    def add(self, layer: Layer) -> None:
        if layer.type == "Embedding":
            self.embedding(layer)
        elif layer.type.removesuffix("Cell") in GATES:
            self.recurrent(layer)
        elif layer.type == "Linear":
            self.linear(layer)
        elif layer.type == "LayerNorm":
            self.layer_norm(layer)
        elif layer.type == "BatchNorm1d":
            self.batch_norm(layer)
        elif layer.type == "Conv1d":
            self.convolution(layer)
        elif layer.type in PLAIN:
            if layer.options.get("dim", -1) not in (-1, 2 if self.timed else 1):
                raise self.fail(layer, f"dim={layer.options['dim']!r}; supported is the last axis, -1")
            attributes = {"axis": -1} if "dim" in OPTIONS[layer.type] else {}
            self.current = self.node(PLAIN[layer.type], layer.prefix or layer.type, [self.current], attributes)

    def embedding(self, layer: Layer) -> None:
        if self.current != "x":
            raise self.fail(layer, "an Embedding must be the first layer: it takes tokens")
        weight = self.take(layer, "weight", (None, None))
        assert weight is not None
        stem = layer.prefix or layer.type
        self.current = self.node("Gather", stem, [self.constant(f"{stem}.weight", weight), "x"], {"axis": 0})
        self.tokens, self.width = True, weight.shape[1]

    def linear(self, layer: Layer) -> None:
        weight = self.take(layer, "weight", (None, None))
        assert weight is not None
        self.expect(layer, weight.shape[1])
        bias = self.take(layer, "bias", (len(weight),), needed=False)
        stem = layer.prefix or layer.type
        product = [self.current, self.constant(f"{stem}.weight", weight.T)]
        self.current = self.node("MatMul", stem, product)
        if bias is not None:
            self.current = self.node("Add", f"{stem}.sum", [self.current, self.constant(f"{stem}.bias", bias)])
        self.width = len(weight)

    def layer_norm(self, layer: Layer) -> None:
        epsilon, affine = self.epsilon(layer), layer.options.get("elementwise_affine", True)
        if not isinstance(affine, bool):
            raise self.fail(layer, f"elementwise_affine={affine!r}; supported are true and false")
        if affine:
            scale = self.take(layer, "weight", (None,))
            assert scale is not None
            bias = self.take(layer, "bias", scale.shape, needed=False)
            self.expect(layer, len(scale))
        elif self.width is None:
            raise self.fail(layer, "its size is not known: it has no weights and no layer before it tells")
        else:
            scale, bias = np.ones(self.width, np.float32), None
        stem = layer.prefix or layer.type
        inputs = [self.current, self.constant(f"{stem}.weight", scale)]
        inputs += [] if bias is None else [self.constant(f"{stem}.bias", bias)]
        self.current = self.node("LayerNormalization", stem, inputs, {"axis": -1, "epsilon": epsilon})

    def epsilon(self, layer: Layer) -> float:
        given = layer.options.get("eps", 1e-5)
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not (math.isfinite(given) and given >= 0):
            raise self.fail(layer, f"eps={given!r}; supported is a number of 0 or more")
        return float(given)

    def batch_norm(self, layer: Layer) -> None:
        """Batch normalisation with trained statistics: (x - running_mean) / sqrt(running_var + eps) * weight + bias."""
        mean = self.take(layer, "running_mean", (None,))
        assert mean is not None
        self.expect(layer, len(mean))
        found = [self.take(layer, n, mean.shape, n == "running_var") for n in ("running_var", "weight", "bias")]
        variance, weight, bias = (None if a is None else a.astype(np.float64) for a in found)
        assert variance is not None
        self.used.add(layer.key("num_batches_tracked"))
        scale = (1.0 if weight is None else weight) / np.sqrt(variance + self.epsilon(layer))
        shift = (0.0 if bias is None else bias) - mean * scale
        stem = layer.prefix or layer.type
        scaled = self.node("Mul", stem, [self.current, self.constant(f"{stem}.scale", scale.astype(np.float32))])
        self.current = self.node("Add", f"{stem}.sum", [scaled, self.constant(f"{stem}.shift", shift.astype(np.float32))])

    def convolution(self, layer: Layer) -> None:
        """Convolution along time of [batch, time, features]."""
        if not self.timed:
            raise self.fail(layer, "it needs a sequence, but an earlier layer selects the last time step")
        weight = self.take(layer, "weight", (None, None, None))
        assert weight is not None
        outer, inner, kernel = weight.shape
        groups = self.whole(layer, "groups", self.width // inner if self.width and self.width % inner == 0 else 1)
        self.expect(layer, inner * groups)
        if outer % groups:
            raise self.fail(layer, f"groups={groups}; its {outer} features do not divide by it")
        stride, dilation = self.whole(layer, "stride", 1), self.whole(layer, "dilation", 1)
        padding, reach = layer.options.get("padding", 0), dilation * (kernel - 1)
        if padding == "same" and stride == 1:
            pads = [reach // 2, reach - reach // 2]
        elif padding in ("valid", "causal"):
            pads = [reach if padding == "causal" else 0, 0]
        elif type(padding) is int and padding >= 0:
            pads = [padding, padding]
        else:
            raise self.fail(
                layer,
                f"padding={padding!r} with stride={stride}; supported are 0 or more, 'valid', 'causal', and 'same' with stride 1",
            )
        stem = layer.prefix or layer.type
        bias = self.take(layer, "bias", (outer,), needed=False)
        turned = self.node("Transpose", f"{stem}.channels", [self.current], {"perm": [0, 2, 1]})
        inputs = [turned, self.constant(f"{stem}.weight", weight)]
        inputs += [] if bias is None else [self.constant(f"{stem}.bias", bias)]
        attributes = {"group": groups, "pads": pads, "strides": [stride], "dilations": [dilation], "kernel_shape": [kernel]}
        made = self.node("Conv", stem, inputs, attributes)
        self.current, self.width = self.node("Transpose", f"{stem}.frames", [made], {"perm": [0, 2, 1]}), outer

    def whole(self, layer: Layer, name: str, default: int) -> int:
        given: Any = layer.options.get(name, default)
        if type(given) is not int or given < 1:
            raise self.fail(layer, f"{name}={given!r}; supported is a whole number from 1 on")
        return given

    def recurrent(self, layer: Layer) -> None:
        cell, kind = layer.type.endswith("Cell"), layer.type.removesuffix("Cell")
        select, nonlinearity = layer.options.get("select"), layer.options.get("nonlinearity", "tanh")
        if "select" in layer.options and select != "last":
            raise self.fail(layer, f"select={select!r}; supported is 'last'")
        if nonlinearity not in ("tanh", "relu"):
            raise self.fail(layer, f"nonlinearity={nonlinearity!r}; supported are 'tanh' and 'relu'")
        if not self.timed:
            raise self.fail(layer, "it needs a sequence, but an earlier layer selects the last time step")
        suffixes = [("", False)] if cell else self.suffixes(layer)
        stem = layer.prefix or layer.type
        for index, (suffix, both) in enumerate(suffixes):
            ends = [suffix + end for end in ("", "_reverse")[: 1 + both]]
            projections = [p for end in ends if (p := self.projection(layer, kind, end)) is not None]
            directions = [self.direction(layer, kind, end) for end in ends]
            if len({(r.shape, b is None) for _, r, b in directions}) > 1:
                raise self.fail(layer, "its two directions differ in size, or only one has a bias")
            if len({p.shape for p in projections}) > 1 or len(projections) not in (0, len(directions)):
                raise self.fail(layer, "its two directions differ in their projections (weight_hr)")
            W, R = np.stack([w for w, _, _ in directions]), np.stack([r for _, r, _ in directions])
            name = f"{stem}.l{index}" if len(suffixes) > 1 else stem
            inputs = [self.current, self.constant(f"{name}.W", W), self.constant(f"{name}.R", R)]
            biases = [b for _, _, b in directions if b is not None]
            inputs += [self.constant(f"{name}.B", np.stack(biases))] if biases else []
            hidden = R.shape[2]
            attributes: dict[str, Any] = {"direction": "bidirectional" if both else "forward", "hidden_size": hidden, "layout": 1}
            if kind == "RNN":
                attributes["activations"] = [nonlinearity.capitalize()] * len(directions)
            if kind == "GRU":
                attributes["linear_before_reset"] = int(self.after(layer))
            self.current = self.node(kind, name, inputs, attributes)
            self.width = len(directions) * hidden
            shape = self.constant(f"{name}.shape", np.array([0, 0, self.width], np.int64))
            self.current = self.node("Reshape", f"{name}.joined", [self.current, shape])
            if projections:
                matrix = self.constant(f"{name}.P", _diagonal([p.T for p in projections]))
                self.current = self.node("MatMul", f"{name}.projected", [self.current, matrix])
                self.width = self.constants[matrix].shape[1]
        if select:
            last = self.constant(f"{stem}.index", np.array(-1, np.int64))
            self.current = self.node("Gather", f"{stem}.last", [self.current, last], {"axis": 1})
            self.timed = False

    def after(self, layer: Layer) -> bool:
        given = layer.options.get("reset_after", True)
        if not isinstance(given, bool):
            raise self.fail(layer, f"reset_after={given!r}; supported are true and false")
        return given

    def suffixes(self, layer: Layer) -> list[tuple[str, bool]]:
        """For each stacked layer: (suffix of its arrays' names, whether it has a backward direction)."""
        layers: dict[int, bool] = {}
        start = f"{layer.prefix}." if layer.prefix else ""
        for key in self.arrays:
            match = RECURRENT_KEY.fullmatch(key.removeprefix(start)) if key.startswith(start) else None
            if match and match[2]:
                layers[int(match[3])] = layers.get(int(match[3]), False) or bool(match[4])
        if not layers:
            self.take(layer, "weight_ih_l0", (None, None))
        for index in range(len(layers)):
            if index not in layers:
                self.take(layer, f"weight_ih_l{index}", (None, None))
        return [(f"_l{index}", layers[index]) for index in sorted(layers)]

    def projection(self, layer: Layer, kind: str, suffix: str) -> Array | None:
        """The matrix [P, H] of an LSTM with proj_size=P: h = W_hr (o * tanh(c)), [P]."""
        return self.take(layer, f"weight_hr{suffix}", (None, None), needed=False) if kind == "LSTM" else None

    def direction(self, layer: Layer, kind: str, suffix: str) -> tuple[Array, Array, Array | None]:
        """W, R and B of one direction, the gates in ONNX's order.

        Of a projected LSTM R h = (R W_hr) (o * tanh(c)): it is an LSTM of H units whose outputs are projected afterwards.
        """
        G = GATES[kind]
        P = self.projection(layer, kind, suffix)
        R = self.take(layer, f"weight_hh{suffix}", (None, None if P is None else len(P)))
        assert R is not None
        if P is not None:
            R = (R.astype(np.float64) @ P.astype(np.float64)).astype(np.float32)
        H = R.shape[1]
        if len(R) != G * H:
            others = [k for k, g in GATES.items() if len(R) == g * H]
            raise self.fail(
                layer,
                f"{layer.key(f'weight_hh{suffix}')!r} has shape {list(R.shape)}; for {kind} it must be "
                f"[{G} H, H]{f'; these look like the weights of {others[0]}' if others else ''}",
            )
        W = self.take(layer, f"weight_ih{suffix}", (G * H, None))
        assert W is not None
        self.expect(layer, W.shape[1])
        bias = [self.take(layer, f"bias_{side}{suffix}", (G * H,), needed=False) for side in ("ih", "hh")]
        if (bias[0] is None) != (bias[1] is None):
            self.take(layer, f"bias_{'ih' if bias[0] is None else 'hh'}{suffix}", (G * H,))

        def gates(array: Array) -> Array:
            parts: Array = array.reshape(G, H, *array.shape[1:])[list(ORDER[kind])]
            return parts.reshape(array.shape)

        B = np.concatenate([gates(b) for b in bias if b is not None]) if bias[0] is not None else None
        return gates(W), gates(R), B

    def graph(self, metadata: Mapping[str, str]) -> Graph:
        unused = [key for key in self.arrays if key not in self.used]
        if unused:
            raise LoadError(f"{self.path}: no layer uses the arrays {listed({k: self.arrays[k] for k in unused})}")
        features = self.features
        if not self.tokens and features is None:
            raise LoadError(f"{self.path}: no layer has weights, so that the size of the input is not known")
        self.nodes[-1].outputs = ("y",)
        shape: tuple[Size, ...] = ("batch", "time") if self.tokens or features is None else ("batch", "time", features)
        spec = Spec(np.dtype(np.int64 if self.tokens else np.float32), shape)
        return Graph(model_name(self.path.stem), ["x"], ["y"], {"x": spec}, self.constants, self.nodes, dict(metadata))


def _diagonal(blocks: Sequence[Array]) -> Array:
    """The block-diagonal matrix of these blocks."""
    rows, columns = (np.cumsum([0, *(b.shape[axis] for b in blocks)]) for axis in (0, 1))
    made = np.zeros((rows[-1], columns[-1]), np.float32)
    for block, row, column in zip(blocks, rows, columns, strict=False):
        made[row : row + len(block), column : column + block.shape[1]] = block
    return made


def _meant(close: Sequence[str]) -> str:
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(arrays: Mapping[str, Array], most: int = 40) -> str:
    """Names and shapes of the first arrays, as text."""
    shown = [f"{key} {list(array.shape)}" for key, array in list(arrays.items())[:most]]
    return ", ".join(shown) + (f" and {len(arrays) - most} more" if len(arrays) > most else "")
