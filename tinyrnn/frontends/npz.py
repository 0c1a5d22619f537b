"""`.npz` and `.safetensors` files ↔ `Graph`: NumPy, json and zipfile, no onnx and no pickle.

Both forms are what `np.savez` writes: one .npy member per array, and one array more named `tinyrnn`, a 0-d Unicode
string that holds a JSON object. Arrays are of real numbers; unused and missing arrays are errors.

**A container**, which `tinyrnn.save` writes and which gives back the same graph:

    {"format": "graph", "version": 1, "name": "vad",
     "inputs": ["x", "h"], "outputs": ["y", "hn"],            in the order of the file
     "values": {"x": ["float32", ["batch", 5]], ...},         dtype and shape, at least of the inputs; open sizes by name
     "constants": {"W": "0.W", ...},                          value → array in this file, which several may share
     "nodes": [{"op": "Gemm", "name": "fc", "domain": "", "version": 17, "inputs": ["x", "W"], "outputs": ["y"],
                "attributes": {"transB": 1}}, ...],           ONNX operators, any order; "" is an absent input or output
     "states": {"h": "hn"},                                   state input → state output
     "metadata": {"producer": "pytorch"}}                     strings

An attribute is an integer, a float, a string, a list of one of these, {"array": name}, {"float": "nan"} (inf, -inf), or
{"graph": {"name": ..., "inputs": [...], "outputs": [...], "nodes": [...]}}: what such a graph reads from outside stands
after the other inputs of its node, and its constants and names are those of the whole.
Arrays of types that NumPy lacks are stored as unsigned integers, with "dtypes": {array: "bfloat16"}.

**Plain weights**, `np.savez("m.npz", **module.state_dict())` or a .safetensors file of a PyTorch module that is a chain of
layers. The description stands beside the arrays, or is given as `load(path, layers=[...])`, which comes first:

    {"format": "weights", "version": 1, "layers": [["Embedding", "embed"], ["LSTM", "rnn"], ["Linear", "head"]],
     "metadata": {...}}                                       optional

A layer is [type, prefix of its names in the state_dict, options]; what is empty at the end may be left out.

    Embedding                       first layer only: the input is then int64 tokens
    RNN  LSTM  GRU                  any number of layers, one or two directions, with or without bias
    RNNCell  LSTMCell  GRUCell      repeated along time
    Linear  LayerNorm  BatchNorm1d
    Conv1d                          along time
    ReLU  Tanh  Sigmoid  Softmax  LogSoftmax        over the last axis
    Dropout                         does nothing

    RNN, RNNCell    {"nonlinearity": "tanh" or "relu"}
    recurrent       {"select": "last"}       only the output of the last time step goes on, as `out[:, -1]`
    GRU, GRUCell    {"reset_after": true}    as PyTorch has it; false: the reset gate goes before the matrix
    LayerNorm       {"eps": 1e-5, "elementwise_affine": true}          BatchNorm1d    {"eps": 1e-5}
    Conv1d          {"padding": 0 (or "same", "causal"), "stride": 1, "dilation": 1, "groups": 1}
    Softmax, LogSoftmax    {"dim": -1}          Dropout    {"p": 0.5}

Arrays under Keras' names (kernel, recurrent_kernel, bias, embeddings, gamma, beta, moving_mean, moving_variance) are read
as PyTorch's, with the layer's path as the prefix, a Dense as a Linear. `names={"module.*": "*", "ema.*": None}` of `load`
gives arrays the names that layers expect, or leaves them out (`frontends.names`).

The model takes `x` [batch, time, features] float32 (or [batch, time] int64) and makes `y` [batch, time, M] ([batch, M]
after `select`); "batch" and "time" stay open, states are kept by the stream. Weights become float32.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinyrnn.errors import LoadError, UnsupportedError
from tinyrnn.frontends.archive import LARGEST_TOTAL, RATIO_FROM, Array, read_archive
from tinyrnn.frontends.keras_names import from_keras
from tinyrnn.frontends.layer_candidates import layer_candidates
from tinyrnn.frontends.names import renamed
from tinyrnn.frontends.safetensors import read_safetensors
from tinyrnn.frontends.topological_order import DEEPEST, model_name, ordered
from tinyrnn.frontends.weights import weights_graph
from tinyrnn.graph.arrays import is_floating
from tinyrnn.graph.ir import Graph, Node, Size, Spec
from tinyrnn.graph.limits import LARGEST_VALUE

DESCRIPTION = "tinyrnn"
"""the array that holds the JSON"""
VERSION = 1
LARGEST_JSON = 1 << 24
"""characters"""
SHARED = 1 << 10
"""bytes of an array up to which equal ones, as of shapes, are written once"""
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
FOREIGN = re.compile(r"(bfloat16|float\d\w{0,20}|u?int[24])")
"""dtypes of the package ml_dtypes"""

T = TypeVar("T")


Found = tuple[Graph, dict[str, str] | None]
"""a graph, and the state pairs that its file records"""


def read_npz(path: Path, layers: Sequence[Any] | None = None, data: bytes | None = None, names: Any = None) -> Found:
    """The graph of a container or of plain weights, and the state pairs that a container records; `data` takes the file's place.

    Raises `LoadError` for whatever the file or `layers` is not.
    """
    arrays = read_archive(path, DESCRIPTION, data)
    text = arrays.pop(DESCRIPTION, None)
    document = None if text is None else _parse(path, text)
    if document is not None and document.get("format") == "graph":
        for option, given in (("layers", layers), ("names", names)):
            if given is not None:
                raise LoadError(f"{path}: {option}= describes plain weights; this file is a container with a graph of its own")
        return _Container(path, document, arrays).graph()
    metadata: dict[str, str] = {}
    if document is not None:
        metadata = _metadata(path, document)
        layers = document["layers"] if layers is None else layers
    return _plain(path, arrays, layers, metadata, names)


def read_weights(path: Path, layers: Sequence[Any] | None = None, data: bytes | None = None, names: Any = None) -> Found:
    """The graph of the plain weights in a .safetensors file. Raises `LoadError`."""
    arrays, metadata = read_safetensors(path, data)
    return _plain(path, arrays, layers, metadata, names)


def _plain(path: Path, arrays: dict[str, Array], layers: Sequence[Any] | None, metadata: Mapping[str, str], names: Any) -> Found:
    if names is not None:
        arrays = renamed(path, arrays, names)
    found = from_keras(arrays)
    if layers is None:
        told = layer_candidates(found.arrays, found.origins)
        raise LoadError(f"{path}: plain weights without a description of the layers. {told}")
    return weights_graph(path, found.arrays, layers, metadata, found.options), None


def _parse(path: Path, array: Array) -> dict[str, Any]:
    if array.dtype.kind != "U" or array.size * array.dtype.itemsize > 4 * LARGEST_JSON:
        raise LoadError(
            f"{path}: the array {DESCRIPTION!r} is {array.dtype}{list(array.shape)}; it must be one string of JSON "
            f"of at most {LARGEST_JSON:,} characters"
        )
    try:
        document = json.loads(str(array[()]), parse_int=_integer, parse_float=_real, parse_constant=_real)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: the array {DESCRIPTION!r} is no JSON ({error})") from None
    if type(document) is not dict:
        raise LoadError(f"{path}: the array {DESCRIPTION!r} holds no JSON object")
    known = {"graph": ("name", "inputs", "outputs", "values", "constants", "nodes"), "weights": ("layers",)}
    kind, version = document.get("format"), document.get("version")
    if type(kind) is not str or kind not in known:
        raise LoadError(f"{path}: format {kind!r}; known are 'graph' and 'weights'")
    if type(version) is not int or version != VERSION:
        raise LoadError(f"{path}: version {version!r} of the format {kind!r}; this tinyrnn reads version {VERSION}")
    optional = {"graph": ("states", "metadata", "dtypes"), "weights": ("metadata",)}[kind]
    for key in known[kind]:
        if key not in document:
            raise LoadError(f"{path}: the description lacks {key!r}")
    unknown = sorted(set(document) - {"format", "version", *known[kind], *optional})
    if unknown:
        raise LoadError(f"{path}: the description has the unknown entries {', '.join(map(repr, unknown[:5]))}")
    return document


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _real(text: str) -> float:
    if len(text) > 64 or not math.isfinite(float(text)):
        raise ValueError(f"the number {text[:20]}")
    return float(text)


def _metadata(path: Path, document: Mapping[str, Any]) -> dict[str, str]:
    given = document.get("metadata", {})
    if type(given) is not dict:
        raise LoadError(f"{path}: 'metadata' must be an object, not {given!r:.80}")
    return {key: value if type(value) is str else json.dumps(value) for key, value in given.items()}


class _Container:
    """Reads a container, and checks the type of every entry."""

    def __init__(self, path: Path, document: dict[str, Any], arrays: dict[str, Array]) -> None:
        self.path, self.document, self.arrays = path, document, arrays
        self.used: set[str] = set()
        self.depth = 0
        self.dtypes = {
            k: self.foreign(self.typed(v, str, f"dtypes of {k!r}"))
            for k, v in self.typed(document.get("dtypes", {}), dict, "'dtypes'").items()
        }

    def typed(self, value: Any, kind: type[T], what: str) -> T:
        if type(value) is not kind:
            raise LoadError(f"{self.path}: {what} must be {_KINDS[kind]}, not {value!r:.80}")
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise LoadError(f"{self.path}: {what} is no text: {value!r:.80}")
        return value

    def texts(self, value: Any, what: str) -> list[str]:
        return [self.typed(v, str, f"every entry of {what}") for v in self.typed(value, list, what)]

    def graph(self) -> tuple[Graph, dict[str, str]]:
        get = self.document
        specs = {name: self.spec(entry, name) for name, entry in self.typed(get["values"], dict, "'values'").items()}
        constants = {
            name: self.array(key, f"constant {name!r}") for name, key in self.typed(get["constants"], dict, "'constants'").items()
        }
        nodes = [self.node(entry, index) for index, entry in enumerate(self.typed(get["nodes"], list, "'nodes'"))]
        metadata = {
            k: self.typed(v, str, f"metadata {k!r}") for k, v in self.typed(get.get("metadata", {}), dict, "'metadata'").items()
        }
        graph = Graph(
            model_name(self.typed(get["name"], str, "'name'")),
            self.texts(get["inputs"], "'inputs'"),
            self.texts(get["outputs"], "'outputs'"),
            specs,
            constants,
            nodes,
            metadata,
        )
        for name in graph.inputs:
            if name not in specs:
                raise LoadError(f"{self.path}: input {name!r} has no entry in 'values'")
            if name in constants:
                raise LoadError(f"{self.path}: {name!r} is both an input and a constant")
        if not graph.outputs:
            raise LoadError(f"{self.path}: the graph has no outputs")
        unused = sorted(self.arrays.keys() - self.used)
        if unused:
            raise LoadError(f"{self.path}: nothing uses the arrays {', '.join(map(repr, unused[:5]))}")
        graph.nodes = ordered(self.path, graph)
        states = {k: self.typed(v, str, f"state {k!r}") for k, v in self.typed(get.get("states", {}), dict, "'states'").items()}
        for start, end in states.items():
            if start not in graph.inputs or end not in graph.outputs:
                raise LoadError(f"{self.path}: state {start!r} → {end!r} is not an input and an output of the graph")
        return graph, states

    def spec(self, entry: Any, name: str) -> Spec:
        what = f"value {name!r}"
        pair = self.typed(entry, list, what)
        if len(pair) != 2:
            raise LoadError(f"{self.path}: {what} must be [dtype, shape], not {entry!r:.80}")
        dtype, shape = self.typed(pair[0], str, f"the dtype of {what}"), self.typed(pair[1], list, f"the shape of {what}")
        if dtype not in DTYPES and dtype != "bfloat16":
            raise LoadError(f"{self.path}: {what} has the unknown dtype {dtype!r}")
        sizes: list[Size] = []
        for size in shape:
            good = (
                type(size) is int and 0 <= size <= LARGEST_VALUE if type(size) is not str else bool(self.typed(size, str, what))
            )
            if not good or len(shape) > 32:
                raise LoadError(f"{self.path}: {what} has the absurd shape {shape!r:.80}")
            sizes.append(size)
        if math.prod(n for n in sizes if isinstance(n, int)) > LARGEST_VALUE:
            raise LoadError(f"{self.path}: {what} has the absurd shape {shape!r:.80}")
        return Spec(np.dtype(dtype) if dtype in DTYPES else self.foreign(dtype), tuple(sizes))

    def array(self, key: Any, what: str) -> Array:
        name = self.typed(key, str, f"the array of {what}")
        if name not in self.arrays:
            raise LoadError(f"{self.path}: {what} is in the array {name!r}, which is not there")
        self.used.add(name)
        array, dtype = self.arrays[name], self.dtypes.get(name)
        if dtype is None:
            return array
        if array.dtype.kind != "u" or array.dtype.itemsize != dtype.itemsize:
            raise LoadError(f"{self.path}: array {name!r} is {array.dtype}, which holds no {dtype}")
        return array.view(dtype)

    def foreign(self, name: str) -> np.dtype[Any]:
        try:
            import ml_dtypes
        except ImportError:
            raise LoadError(f"{self.path}: it holds {name}, which NumPy lacks; install ml_dtypes") from None
        kind = getattr(ml_dtypes, name, None) if FOREIGN.fullmatch(name) else None
        if kind is None:
            raise LoadError(f"{self.path}: unknown dtype {name!r}")
        dtype: np.dtype[Any] = np.dtype(kind)
        return dtype

    def node(self, entry: Any, index: int) -> Node:
        what = f"node {index}"
        get = self.typed(entry, dict, what)
        wanted = {"op", "name", "domain", "version", "inputs", "outputs", "attributes"}
        if set(get) != wanted:
            raise LoadError(
                f"{self.path}: {what} must have the entries {', '.join(sorted(wanted))}, not {', '.join(sorted(get))[:200]}"
            )
        attributes = {
            key: self.attribute(value, f"attribute {key!r} of {what}")
            for key, value in self.typed(get["attributes"], dict, f"the attributes of {what}").items()
        }
        return Node(
            self.typed(get["op"], str, f"the op of {what}"),
            self.typed(get["name"], str, f"the name of {what}"),
            tuple(self.texts(get["inputs"], f"the inputs of {what}")),
            tuple(self.texts(get["outputs"], f"the outputs of {what}")),
            attributes,
            self.typed(get["version"], int, f"the version of {what}"),
            self.typed(get["domain"], str, f"the domain of {what}"),
        )

    def attribute(self, value: Any, what: str) -> Any:
        if type(value) is list:
            values = [self.scalar(v, what) for v in value]
            if len({type(v) for v in values}) > 1:
                raise LoadError(f"{self.path}: {what} must be a list of one kind of value, not {value!r:.80}")
            return values
        if type(value) is dict and set(value) == {"array"}:
            return self.array(value["array"], what)
        if type(value) is dict and set(value) == {"graph"}:
            return self.nested(value["graph"], what)
        return self.scalar(value, what)

    def nested(self, entry: Any, what: str) -> Graph:
        get = self.typed(entry, dict, what)
        if set(get) != {"name", "inputs", "outputs", "nodes"} or self.depth > DEEPEST:
            raise LoadError(f"{self.path}: {what} is no graph of a name, inputs, outputs and nodes, or nests too deeply")
        self.depth += 1
        nodes = [self.node(node, index) for index, node in enumerate(self.typed(get["nodes"], list, what))]
        self.depth -= 1
        name, inputs, outputs = (
            self.typed(get["name"], str, what),
            self.texts(get["inputs"], what),
            self.texts(get["outputs"], what),
        )
        return Graph(model_name(name), inputs, outputs, {}, {}, nodes)

    def scalar(self, value: Any, what: str) -> int | float | str:
        if type(value) is dict and set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        if type(value) is str:
            return self.typed(value, str, what)
        if type(value) is float or (type(value) is int and -(1 << 63) <= value < 1 << 63):
            return value
        raise LoadError(f"{self.path}: {what} must be a number, a string, a list or an array, not {value!r:.80}")


_KINDS: dict[type, str] = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}


def write_npz(path: Path, graph: Graph, states: Mapping[str, str]) -> None:
    """Write a container; the file appears whole or not at all, and the same graph gives the same bytes.

    Raises `UnsupportedError` for what the format cannot hold and `OSError` where the file cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise UnsupportedError(f"{path}: save writes .npz files; name it {path.with_suffix('.npz').name}")
    members: dict[str, Array] = {}
    foreign: dict[str, str] = {}
    shared: dict[Any, str] = {}

    def member(name: str, array: Array) -> str:
        stored = np.asarray(array, order="C")
        same = (stored.dtype, stored.shape, stored.tobytes()) if stored.nbytes <= SHARED else None
        if same in shared:
            return shared[same]
        key = f"{len(members)}.{re.sub(r'[^0-9A-Za-z_.-]', '_', name)[:80]}"
        if same is not None:
            shared[same] = key
        if stored.dtype.name not in DTYPES:
            if not FOREIGN.fullmatch(stored.dtype.name):
                raise UnsupportedError(f"{graph.name}: {name!r} is {stored.dtype}; an .npz container holds numbers only")
            foreign[key] = stored.dtype.name
            stored = stored.view(f"u{stored.dtype.itemsize}")
        members[key] = stored
        return key

    def value(name: str, given: Any) -> Any:
        if isinstance(given, np.ndarray):
            return {"array": member(name, given)}
        if isinstance(given, Graph):
            inner = {"name": model_name(given.name), "inputs": given.inputs, "outputs": given.outputs}
            return {"graph": {**inner, "nodes": [entry(n) for n in given.nodes]}}
        if isinstance(given, float) and not math.isfinite(given):
            return {"float": str(float(given))}
        if isinstance(given, (list, tuple)):
            return [value(name, v) for v in given]
        if isinstance(given, (int, float, str)):
            return given
        raise UnsupportedError(f"{graph.name}: {name!r} is {given!r}, which an .npz container cannot hold")

    def entry(n: Node) -> dict[str, Any]:
        return {
            "op": n.op,
            "name": n.name,
            "domain": n.domain,
            "version": n.version,
            "inputs": n.inputs,
            "outputs": n.outputs,
            "attributes": {k: value(f"{n.name}.{k}", v) for k, v in n.attributes.items()},
        }

    for name, spec in graph.specs.items():
        if spec.dtype.name not in DTYPES and not is_floating(spec.dtype):
            raise UnsupportedError(f"{graph.name}: {name!r} is {spec}; an .npz container holds numbers only")
    document = {
        "format": "graph",
        "version": VERSION,
        "name": model_name(graph.name),
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "values": {name: [spec.dtype.name, list(spec.shape)] for name, spec in graph.specs.items()},
        "constants": {name: member(name, array) for name, array in graph.constants.items()},
        "nodes": [entry(n) for n in graph.nodes],
        "states": dict(states),
        "metadata": graph.metadata,
        "dtypes": foreign,
    }
    if not foreign:
        del document["dtypes"]
    total = sum(array.nbytes for array in members.values())
    if total > LARGEST_TOTAL - (1 << 28):
        raise UnsupportedError(f"{graph.name}: {total:,} bytes of arrays; an .npz container holds less than {LARGEST_TOTAL:,}")
    members[DESCRIPTION] = np.array(json.dumps(document, allow_nan=False))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with temporary.open("xb") as file, zipfile.ZipFile(file, "w") as archive:
            for key, array in members.items():
                info = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o644 << 16
                if key == DESCRIPTION and array.nbytes < RATIO_FROM:  # four bytes a character, most of them 0
                    info.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(info, "w", force_zip64=True) as stream:
                    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                    np.lib.format.write_array(stream, little, allow_pickle=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
