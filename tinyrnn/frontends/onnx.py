"""ONNX files → `Graph`. The only place that knows the format (`check` compares with it)."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tinyrnn.errors import LoadError, UnsupportedError
from tinyrnn.ir import LARGEST_VALUE, Graph, Node, Size, Spec

OLDEST_OPSET = 7


def read_onnx(path: Path) -> Graph:
    """The graph of an ONNX file.

    Raises `LoadError` where the file is no sound model and `UnsupportedError` where its opset or one of its
    types is none that tinyrnn reads. External data is read from the model's own folder only.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise LoadError(f"{path}: not an ONNX file, or damaged ({_first_line(error)}). "
                        f"Export or download it again; `onnx.checker.check_model` may say more") from None
    if not model.graph.node and not model.graph.output:
        raise LoadError(f"{path}: empty, or not an ONNX file: it has no nodes and no outputs")
    if model.functions:
        model = _inline(model, path)
    versions = {entry.domain or "": entry.version for entry in model.opset_import}
    _check_opset(path, versions.get("", versions.get("ai.onnx", 0)))
    return _Reader(path, versions).graph(model)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _inline(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise LoadError(f"{path}: its local functions cannot be inlined ({_first_line(error)})") from None


def _check_opset(path: Path, version: int) -> None:
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= version <= newest:
        raise UnsupportedError(f"{path}: opset {version}; supported are {OLDEST_OPSET} to {newest}. "
                               f"Convert it: onnx.version_converter.convert_version(model, {min(newest, 17)})")


class _Reader:
    def __init__(self, path: Path, versions: dict[str, int]) -> None:
        self.path, self.versions = path, versions

    def graph(self, model: onnx.ModelProto) -> Graph:
        proto = model.graph
        constants = {tensor.name: self.array(tensor, f"initializer {tensor.name!r}") for tensor in proto.initializer}
        if proto.sparse_initializer:
            raise UnsupportedError(f"{self.path}: sparse initializers; store the weights densely")
        specs: dict[str, Spec] = {}
        inputs = []
        for value in proto.input:
            if value.name not in constants:
                specs[value.name] = self.spec(value)
                inputs.append(value.name)
        nodes = [self.node(node, index) for index, node in enumerate(proto.node)]
        self.lift_constants(nodes, constants)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        metadata.setdefault("producer", f"{model.producer_name} {model.producer_version}".strip())
        graph = Graph(self.path.stem, inputs, [value.name for value in proto.output], specs, constants, nodes, metadata)
        graph.nodes = self.sorted(graph)
        return graph

    def lift_constants(self, nodes: list[Node], constants: dict[str, np.ndarray[Any, Any]]) -> None:
        for node in [n for n in nodes if n.op == "Constant" and not n.domain]:
            if "value" in node.attributes:
                constants[node.outputs[0]] = node.attributes["value"]
                nodes.remove(node)

    def spec(self, value: onnx.ValueInfoProto) -> Spec:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedError(f"{self.path}: input {value.name!r} is a {kind}; supported are tensors")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise UnsupportedError(f"{self.path}: input {value.name!r} has no shape, not even its rank. "
                                   f"Export with the shape of the inputs known")
        shape: list[Size] = []
        for axis, dim in enumerate(tensor.shape.dim):
            if dim.HasField("dim_value"):
                if not 0 < dim.dim_value <= LARGEST_VALUE:
                    raise LoadError(f"{self.path}: input {value.name!r} has size {dim.dim_value} on axis {axis}")
                shape.append(int(dim.dim_value))
            else:
                shape.append(dim.dim_param or f"{value.name}.{axis}")
        if prod(n for n in shape if isinstance(n, int)) > LARGEST_VALUE:
            raise LoadError(f"{self.path}: input {value.name!r} of shape {shape} is absurdly large")
        return Spec(self.dtype(tensor.elem_type, f"input {value.name!r}"), tuple(shape))

    def dtype(self, code: int, what: str) -> np.dtype[Any]:
        try:
            return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))
        except (KeyError, TypeError):
            raise LoadError(f"{self.path}: {what} has the unknown element type {code}") from None

    def array(self, tensor: TensorProto, what: str) -> np.ndarray[Any, Any]:
        if any(n < 0 for n in tensor.dims) or prod(tensor.dims) > LARGEST_VALUE:
            raise LoadError(f"{self.path}: {what} has the absurd shape {list(tensor.dims)}")
        if tensor.data_location == TensorProto.EXTERNAL:
            return self.external(tensor, what)
        try:
            return np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(tuple(tensor.dims))
        except Exception as error:
            raise LoadError(f"{self.path}: {what} of shape {list(tensor.dims)} does not hold its data "
                            f"({_first_line(error)}); the file is damaged") from None

    def external(self, tensor: TensorProto, what: str) -> np.ndarray[Any, Any]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        folder = self.path.resolve().parent
        location = entries.get("location", "")
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise LoadError(f"{self.path}: {what} points to {location!r}, outside the model's folder; "
                            f"external data is read from beside the model only")
        if not target.is_file():
            raise LoadError(f"{self.path}: {what} is in {location!r}, which is not there; put the file beside the model")
        dtype = self.dtype(tensor.data_type, what)
        count = prod(tensor.dims)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", count * dtype.itemsize))
        except ValueError:
            raise LoadError(f"{self.path}: {what} has external offsets that are no numbers") from None
        if offset < 0 or length != count * dtype.itemsize or offset + length > target.stat().st_size:
            raise LoadError(f"{self.path}: {what} needs bytes {offset} to {offset + length} of {location!r}, "
                            f"which has {target.stat().st_size} for shape {list(tensor.dims)}")
        return np.fromfile(target, dtype, count, offset=offset).reshape(tuple(tensor.dims))

    def node(self, proto: onnx.NodeProto, index: int) -> Node:
        name = proto.name or f"{proto.op_type}_{index}"
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        attributes = {a.name: self.attribute(a, name) for a in proto.attribute}
        if proto.op_type == "Constant" and not domain:
            attributes = self.constant(attributes)
        return Node(proto.op_type, name, tuple(proto.input), tuple(proto.output), attributes, self.versions.get(domain, 0), domain)

    def constant(self, attributes: dict[str, Any]) -> dict[str, Any]:
        for key, dtype in (("value_float", np.float32), ("value_floats", np.float32),
                           ("value_int", np.int64), ("value_ints", np.int64)):
            if key in attributes:
                return {"value": np.asarray(attributes[key], dtype)}
        return attributes

    def attribute(self, proto: onnx.AttributeProto, node: str) -> Any:
        if proto.type == onnx.AttributeProto.TENSOR:
            return self.array(proto.t, f"attribute {proto.name} of node {node!r}")
        if proto.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            return "<a graph>"
        value = onnx.helper.get_attribute_value(proto)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, (int, float)):
            return value
        return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]

    def sorted(self, graph: Graph) -> list[Node]:
        """Topological order; the format promises it, not every file keeps it."""
        known = {"", *graph.inputs, *graph.constants}
        made = {name for node in graph.nodes for name in node.outputs if name}
        for node in graph.nodes:
            for name in node.inputs:
                if name not in known and name not in made:
                    raise LoadError(f"{self.path}: node {node.name!r} reads {name!r}, which nothing makes")
        for name in graph.outputs:
            if name not in known and name not in made:
                raise LoadError(f"{self.path}: output {name!r} is made by no node")
        waiting, ordered = list(graph.nodes), []
        while waiting:
            ready = [n for n in waiting if all(i in known for i in n.inputs)]
            if not ready:
                raise LoadError(f"{self.path}: its nodes form a cycle through {waiting[0].name!r}")
            for node in ready:
                for name in node.outputs:
                    if name and name in known:
                        raise LoadError(f"{self.path}: value {name!r} is made twice")
                    known.add(name)
            ids = {id(n) for n in ready}
            ordered += ready
            waiting = [n for n in waiting if id(n) not in ids]
        return ordered
