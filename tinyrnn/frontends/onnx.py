"""ONNX files → `Graph`. Only this module reads the format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tinyrnn.errors import LoadError, UnsupportedError
from tinyrnn.frontends.archive import first_line
from tinyrnn.frontends.formats import memory_name
from tinyrnn.frontends.functions import inlined, written_out
from tinyrnn.frontends.topological_order import DEEPEST, check_names, model_name, ordered
from tinyrnn.graph.arrays import is_floating
from tinyrnn.graph.ir import Graph, Node, Size, Spec, refresh_captures
from tinyrnn.graph.limits import LARGEST_VALUE

OLDEST_OPSET = 7
LARGEST_RANK = 32


def read_onnx(path: Path, source: bytes | onnx.ModelProto | None = None) -> Graph:
    """The graph of an ONNX file, or of a model in memory, which `path` then only names.

    Raises `LoadError` where the file is not a valid model, and `UnsupportedError` where its opset or one of its
    types is none that tinyrnn reads. External data is read from the model's own folder only,
    and of a model in memory not at all.
    """
    try:
        model = _parsed(path, source)
    except Exception as error:
        raise LoadError(
            f"{path}: not an ONNX file, or damaged ({first_line(error)}). "
            f"Export or download it again; `onnx.checker.check_model` may say more"
        ) from None
    if not model.graph.node and not model.graph.output:
        raise LoadError(f"{path}: empty, or not an ONNX file: it has no nodes and no outputs")
    if isinstance(source, bytes):
        path = Path(memory_name(model.graph.name))
    if model.functions:
        model = inlined(model, path)
    versions = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    _check_opset(path, versions.get("", 0))
    model = written_out(model, path, versions[""])
    return _Reader(path, versions, source is None).graph(model)


def _parsed(path: Path, source: bytes | onnx.ModelProto | None) -> onnx.ModelProto:
    if source is None:
        return onnx.load(str(path), load_external_data=False)
    return onnx.load_model_from_string(source) if isinstance(source, bytes) else source


def _kind(code: int) -> str:
    kinds = onnx.AttributeProto.AttributeType
    return kinds.Name(code) if code in kinds.values() else str(code)


def _check_opset(path: Path, version: int) -> None:
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= version <= newest:
        raise UnsupportedError(
            f"{path}: opset {version}; supported are {OLDEST_OPSET} to {newest}. "
            f"Convert it: onnx.version_converter.convert_version(model, {min(newest, 17)})"
        )


PLAIN_TYPES = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
)
"""element types of whole bytes"""
NO_VALUES = (
    onnx.AttributeProto.GRAPHS,
    onnx.AttributeProto.TENSORS,
    onnx.AttributeProto.SPARSE_TENSOR,
    onnx.AttributeProto.SPARSE_TENSORS,
    onnx.AttributeProto.TYPE_PROTO,
    onnx.AttributeProto.TYPE_PROTOS,
)


Scope = Mapping[str, str]
"""names in a graph of the file, those of the graphs around it included → names in the model"""


class _Reader:
    def __init__(self, path: Path, versions: dict[str, int], has_folder: bool) -> None:
        self.path, self.versions, self.has_folder = path, versions, has_folder
        self.beside: dict[str, int] = {}
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.taken: set[str] = set()
        self.scopes: list[Scope] = []

    def graph(self, model: onnx.ModelProto) -> Graph:
        proto = model.graph
        if not proto.output:
            raise LoadError(f"{self.path}: the graph has no outputs; the file is truncated, or no model")
        own = self.initializers(proto, "")
        specs: dict[str, Spec] = {}
        inputs = []
        for value in proto.input:
            if value.name not in own:
                specs[value.name] = self.spec(value)
                inputs.append(value.name)
        names = {*own, *inputs, *(name for node in proto.node for name in node.output)}
        self.taken |= names
        self.scopes.append({name: name for name in names})
        nodes = [self.node(node, index) for index, node in enumerate(proto.node)]
        self.lift_constants(nodes, self.constants)
        metadata = {str(entry.key): str(entry.value) for entry in model.metadata_props}
        metadata.setdefault("producer", f"{model.producer_name} {model.producer_version}".strip())
        outputs = [value.name for value in proto.output]
        specs |= {v.name: spec for v in proto.output if v.name not in specs and (spec := self.narrow_output(v)) is not None}
        graph = Graph(model_name(self.path.stem), inputs, outputs, specs, self.constants, nodes, metadata, self.beside)
        graph.nodes = ordered(self.path, graph)
        return graph

    def initializers(self, proto: onnx.GraphProto, prefix: str) -> dict[str, str]:
        """Make a graph's initializers constants of the model: name in the graph → name in the model."""
        if proto.sparse_initializer:
            raise UnsupportedError(f"{self.path}: sparse initializers; store the weights densely")
        names = Counter(tensor.name for tensor in proto.initializer)
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None:
            raise LoadError(f"{self.path}: value {twice!r} is made twice, by two initializers")
        found = {}
        for tensor in proto.initializer:
            found[tensor.name] = self.unique(tensor.name, prefix) if prefix else tensor.name
            self.constants[found[tensor.name]] = self.array(tensor, f"initializer {tensor.name!r}")
        return found

    def unique(self, name: str, prefix: str) -> str:
        """A unique name in the model: the name in the file if it is free, else with `prefix` before it."""
        made, count = name, 1
        while made in self.taken:
            made = f"{prefix}.{name}" if count == 1 else f"{prefix}.{name}.{count}"
            count += 1
        self.taken.add(made)
        return made

    def nested(self, proto: onnx.GraphProto, prefix: str) -> Graph:
        """The graph of a node's attribute; values that it captures from enclosing graphs keep their names."""
        if len(self.scopes) > DEEPEST:
            raise LoadError(f"{self.path}: {prefix!r} nests graphs more than {DEEPEST} deep")
        check_names(self.path, [v.name for values in (proto.input, proto.output, proto.initializer) for v in values])
        inputs = [value.name for value in proto.input]
        if len(set(inputs)) < len(inputs):
            raise LoadError(f"{self.path}: a graph of node {prefix!r} lists an input twice: {inputs}")
        scope = dict(self.scopes[-1])
        made = [name for node in proto.node for name in node.output if name]
        own = self.initializers(proto, prefix)
        formal = {name: self.unique(name, prefix) for name in inputs if name not in own}
        twice = next((n for n, c in Counter([*own, *formal, *made]).items() if c > 1), None)
        if twice is not None:
            raise LoadError(f"{self.path}: value {twice!r} is made twice in a graph of node {prefix!r}")
        scope |= own | formal | {name: self.unique(name, prefix) for name in made}
        self.scopes.append(scope)
        nodes = [self.node(node, index, prefix) for index, node in enumerate(proto.node)]
        outputs = [self.resolve(value.name, prefix) for value in proto.output]
        self.scopes.pop()
        self.lift_constants(nodes, self.constants)
        return Graph(model_name(proto.name), list(formal.values()), outputs, {}, {}, nodes)

    def resolve(self, name: str, node: str) -> str:
        """The name in the model for a name in the file."""
        if len(self.scopes) == 1 or not name:
            return name
        if name not in self.scopes[-1]:
            raise LoadError(f"{self.path}: node {node!r} reads {name!r}, which nothing makes")
        return self.scopes[-1][name]

    def lift_constants(self, nodes: list[Node], constants: dict[str, np.ndarray[Any, Any]]) -> None:
        lifted = set()
        for node in [n for n in nodes if n.op == "Constant" and not n.domain]:
            if "value" in node.attributes and len(node.outputs) == 1:
                if node.outputs[0] in constants:
                    raise LoadError(
                        f"{self.path}: value {node.outputs[0]!r} is made twice, the second time by node {node.name!r}"
                    )
                constants[node.outputs[0]] = node.attributes["value"]
                lifted.add(id(node))
        nodes[:] = [node for node in nodes if id(node) not in lifted]

    def spec(self, value: onnx.ValueInfoProto) -> Spec:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedError(f"{self.path}: input {value.name!r} is a {kind}; supported are tensors")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise UnsupportedError(
                f"{self.path}: input {value.name!r} has no shape, not even its rank. Export with the shape of the inputs known"
            )
        if len(tensor.shape.dim) > LARGEST_RANK:
            raise LoadError(f"{self.path}: input {value.name!r} has {len(tensor.shape.dim)} axes")
        shape: list[Size] = []
        check_names(self.path, [dim.dim_param for dim in tensor.shape.dim])
        for axis, dim in enumerate(tensor.shape.dim):
            if dim.HasField("dim_value"):
                if not 0 < dim.dim_value <= LARGEST_VALUE:
                    raise LoadError(f"{self.path}: input {value.name!r} has size {dim.dim_value} on axis {axis}")
                shape.append(int(dim.dim_value))
            else:
                shape.append(dim.dim_param or f"{value.name}.{axis}")
        if prod(n for n in shape if isinstance(n, int)) > LARGEST_VALUE:
            raise LoadError(f"{self.path}: input {value.name!r} of shape {shape} is absurdly large")
        dtype = self.dtype(tensor.elem_type, f"input {value.name!r}")
        if dtype.kind not in "biu" and not is_floating(dtype):
            raise UnsupportedError(
                f"{self.path}: input {value.name!r} is of the type "
                f"{TensorProto.DataType.Name(tensor.elem_type)}; supported are real numbers and bool"
            )
        return Spec(dtype, tuple(shape))

    def narrow_output(self, value: onnx.ValueInfoProto) -> Spec | None:
        """Note an output of half precision, and its shape if the file has one; inside it becomes float32."""
        tensor = value.type.tensor_type
        if tensor.elem_type not in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            return None
        shape = (d.dim_param or (d.dim_value if d.dim_value > 0 else "?") for d in tensor.shape.dim)
        return Spec(self.dtype(tensor.elem_type, f"output {value.name!r}"), tuple(shape))

    def dtype(self, code: int, what: str) -> np.dtype[Any]:
        try:
            found: np.dtype[Any] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))
            return found
        except (KeyError, TypeError):
            raise LoadError(f"{self.path}: {what} has the unknown element type {code}") from None

    def array(self, tensor: TensorProto, what: str) -> np.ndarray[Any, Any]:
        if (
            any(not 0 <= n <= LARGEST_VALUE for n in tensor.dims)
            or prod(tensor.dims) > LARGEST_VALUE
            or len(tensor.dims) > LARGEST_RANK
        ):
            raise LoadError(f"{self.path}: {what} has the absurd shape {list(tensor.dims)}")
        if tensor.data_location == TensorProto.EXTERNAL:
            return self.external(tensor, what)
        try:
            return np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(tuple(tensor.dims))
        except Exception as error:
            raise LoadError(
                f"{self.path}: {what} of shape {list(tensor.dims)} does not hold its data "
                f"({first_line(error)}); the file is damaged"
            ) from None

    def external(self, tensor: TensorProto, what: str) -> np.ndarray[Any, Any]:
        check_names(self.path, [text for entry in tensor.external_data for text in (entry.key, entry.value)])
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not self.has_folder:
            raise LoadError(
                f"{self.path}: {what} is in the external file {entries.get('location', '')!r}, but the model came from memory, "
                f"which has no folder. Load it by its path, or bring the data in: onnx.load(path)"
            )
        folder = self.path.resolve().parent
        location = entries.get("location", "")
        try:
            target = (folder / location).resolve()
            inside, there = bool(location) and target.is_relative_to(folder), target.is_file()
        except (OSError, ValueError):
            raise LoadError(f"{self.path}: {what} points to {location[:80]!r}, which is no file name") from None
        if not inside:
            raise LoadError(
                f"{self.path}: {what} points to {location!r}, outside the model's folder; "
                f"external data is read from beside the model only"
            )
        if not there:
            raise LoadError(f"{self.path}: {what} is in {location!r}, which is not there; put the file beside the model")
        dtype = self.dtype(tensor.data_type, what)
        if tensor.data_type not in PLAIN_TYPES:
            raise UnsupportedError(f"{self.path}: {what} holds {TensorProto.DataType.Name(tensor.data_type)} in external data")
        count = prod(tensor.dims)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", count * dtype.itemsize))
        except ValueError:
            raise LoadError(f"{self.path}: {what} has external offsets that are no numbers") from None
        if offset < 0 or length != count * dtype.itemsize or offset + length > target.stat().st_size:
            raise LoadError(
                f"{self.path}: {what} needs bytes {offset} to {offset + length} of {location!r}, "
                f"which has {target.stat().st_size} for shape {list(tensor.dims)}"
            )
        self.beside[location] = target.stat().st_mtime_ns
        try:
            return (
                np.fromfile(target, dtype.newbyteorder("<"), count, offset=offset)
                .astype(dtype, copy=False)
                .reshape(tuple(tensor.dims))
            )
        except (OSError, ValueError) as error:
            raise LoadError(f"{self.path}: {what} cannot be read from {location!r} ({first_line(error)})") from None

    def node(self, proto: onnx.NodeProto, index: int, prefix: str = "") -> Node:
        check_names(
            self.path, [proto.op_type, proto.domain, proto.name, *(a.name for a in proto.attribute), *proto.input, *proto.output]
        )
        name = proto.name or f"{prefix}{'.' if prefix else ''}{proto.op_type}_{index}"
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.check_attributes(proto, name, domain)
        attributes = {a.name: self.attribute(a, name) for a in proto.attribute}
        if proto.op_type == "Constant" and not domain:
            attributes = self.constant(attributes)
        inputs, outputs = ([self.resolve(v, name) for v in values] for values in (proto.input, proto.output))
        node = Node(proto.op_type, name, tuple(inputs), tuple(outputs), attributes, self.versions.get(domain, 0), domain)
        if any(True for _ in node.nested()):
            arguments = max(len(inputs), self.fixed_inputs(proto.op_type, domain))
            node.inputs += ("",) * (arguments - len(inputs))
            refresh_captures(node, arguments)
        return node

    def fixed_inputs(self, op: str, domain: str) -> int:
        """The number of inputs before the variadic ones."""
        if domain or not onnx.defs.has(op, self.versions[""]):
            return 0
        schema: Any = onnx.defs.get_schema(op, self.versions[""])
        return sum(1 for i in schema.inputs if i.option != onnx.defs.OpSchema.FormalParameterOption.Variadic)

    def check_attributes(self, proto: onnx.NodeProto, name: str, domain: str) -> None:
        """Check that attributes have the specification's kinds and that required ones are present. Raises `LoadError`."""
        given = Counter(a.name for a in proto.attribute)
        twice = next((key for key, count in given.items() if count > 1), None)
        if twice is not None:
            raise LoadError(f"{self.path}: node {name!r} ({proto.op_type}) has attribute {twice} twice")
        if domain or not onnx.defs.has(proto.op_type, self.versions[""]):
            return
        schema: Any = onnx.defs.get_schema(proto.op_type, self.versions[""])
        for attribute in proto.attribute:
            known = schema.attributes.get(attribute.name)
            if known is not None and _kind(attribute.type) != known.type.name:
                raise LoadError(
                    f"{self.path}: node {name!r} ({proto.op_type}) has attribute {attribute.name} of the kind "
                    f"{_kind(attribute.type)}; the specification says {known.type.name}"
                )
        missing = [key for key, entry in schema.attributes.items() if entry.required and key not in given]
        if missing:
            raise LoadError(f"{self.path}: node {name!r} ({proto.op_type}) lacks attribute {', '.join(missing)}")

    def constant(self, attributes: dict[str, Any]) -> dict[str, Any]:
        for key, dtype in (
            ("value_float", np.float32),
            ("value_floats", np.float32),
            ("value_int", np.int64),
            ("value_ints", np.int64),
        ):
            if key in attributes:
                return {"value": np.asarray(attributes[key], dtype)}
        return attributes

    def attribute(self, proto: onnx.AttributeProto, node: str) -> Any:
        if proto.type == onnx.AttributeProto.TENSOR:
            return self.array(proto.t, f"attribute {proto.name} of node {node!r}")
        if proto.type == onnx.AttributeProto.GRAPH:
            return self.nested(proto.g, node)
        if proto.type in NO_VALUES:
            raise UnsupportedError(f"{self.path}: node {node!r} has attribute {proto.name} of the kind {_kind(proto.type)}")
        try:
            value = onnx.helper.get_attribute_value(proto)
        except ValueError:
            value = None
        if value is None:
            raise LoadError(f"{self.path}: node {node!r} has attribute {proto.name} of the unknown kind {proto.type}")
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, (int, float)):
            return value
        return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
