"""ONNX functions → plain operators: the model's local functions, and those by which ONNX defines operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import inliner

from tinyrnn.errors import LoadError, UnsupportedError
from tinyrnn.frontends.archive import first_line
from tinyrnn.graph.limits import LARGEST_INLINED
from tinyrnn.graph.op import REGISTRY

WRITTEN_OUT = "tinyrnn.written_out"
"""the domain of functions that each replace one node until they are inlined"""


def inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with its local functions inlined.

    Raises `LoadError` where they are recursive, invalid, or expand to more than `LARGEST_INLINED` nodes.
    """
    bodies = {(f.domain, f.name, f.overload): f.node for f in model.functions}
    if _inlined_size(path, model.graph.node, bodies, {}, ()) > LARGEST_INLINED:
        raise LoadError(f"{path}: its local functions unfold to more than {LARGEST_INLINED:,} nodes")
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise LoadError(f"{path}: its local functions cannot be inlined ({first_line(error)})") from None


def written_out(model: onnx.ModelProto, path: Path, version: int) -> onnx.ModelProto:
    """The model with operators that tinyrnn lacks expanded by their ONNX definitions.

    Raises `UnsupportedError` where ONNX has no definition for a node.
    """
    found = _to_write_out(model, version)
    if not found:
        return model
    try:
        while found:
            model = _with_bodies(model, found, version)
            model = inliner.inline_selected_functions(model, found, inline_schema_functions=True)
            left, found = found, _to_write_out(model, version)
            if set(left) & set(found):
                raise ValueError("ONNX has no definition for these inputs")
    except Exception as error:
        names = ", ".join(op for _, op in found)
        raise UnsupportedError(
            f"{path}: {names} cannot be written out by the operators that define it ({first_line(error)}). Export the model "
            f"with an older opset, where the exporter writes plain operators"
        ) from None
    return model


def by_others(op: str, version: int) -> bool:
    """Whether tinyrnn lacks an operator that ONNX defines by others in this opset."""
    if ("", op) in REGISTRY or not onnx.defs.has(op, version):
        return False
    schema: Any = onnx.defs.get_schema(op, version)
    return bool(schema.has_function or schema.has_context_dependent_function)


def _to_write_out(model: onnx.ModelProto, version: int) -> list[tuple[str, str]]:
    nodes = (node for node in _every_node(model.graph) if isinstance(node.op_type, str))  # bytes where it is no text
    used = {node.op_type for node in nodes if node.domain in ("", "ai.onnx")}
    return [("", op) for op in sorted(used) if by_others(op, version)]


def _with_bodies(model: onnx.ModelProto, found: Sequence[tuple[str, str]], version: int) -> onnx.ModelProto:
    """The model with nodes inlined whose definition depends on the types of their inputs.

    ONNX's own inliner does not know the types of constants and of absent inputs.
    """
    model = onnx.shape_inference.infer_shapes(model)
    waiting: list[tuple[onnx.GraphProto, dict[str, onnx.TypeProto]]] = [(model.graph, {})]
    while waiting:
        graph, around = waiting.pop()
        values = (*graph.value_info, *graph.input, *graph.output)
        tensors = {t.name: onnx.helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
        types = around | tensors | {value.name: value.type for value in values}
        for node in graph.node:
            waiting += [(a.g, types) for a in node.attribute if a.HasField("g")]
            of_onnx = ("" if node.domain == "ai.onnx" else node.domain, node.op_type) in found
            if of_onnx and onnx.defs.get_schema(node.op_type, version).has_context_dependent_function:
                function = _body(node, types, version)
                function.domain, function.name = WRITTEN_OUT, f"{node.op_type}_{len(model.functions)}"
                node.domain, node.op_type = function.domain, function.name
                model.functions.append(function)
    if not model.functions:
        return model
    if WRITTEN_OUT not in {o.domain for o in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(WRITTEN_OUT, 1))
    return inliner.inline_local_functions(model)


def _body(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], version: int) -> onnx.FunctionProto:
    """The function that defines a node for the types of its inputs; an absent input has no type."""
    unknown = [name for name in node.input if name and name not in types]
    if unknown:
        raise ValueError(f"nothing says of which type {unknown[0]!r} is")
    schema: Any = onnx.defs.get_schema(node.op_type, version)
    newest = max(v for v in schema.context_dependent_function_opset_versions if v <= version)
    kinds = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
    function = onnx.FunctionProto()
    function.ParseFromString(schema.get_context_dependent_function_with_opset_version(newest, node.SerializeToString(), kinds))
    del function.opset_import[:]
    function.opset_import.append(onnx.helper.make_opsetid("", version))
    return function


def _every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            waiting += [a.g for a in node.attribute if a.HasField("g")]


_Function = tuple[str, str, str]


def _inlined_size(
    path: Path,
    nodes: Iterable[onnx.NodeProto],
    bodies: Mapping[_Function, Sequence[onnx.NodeProto]],
    known: dict[_Function, int],
    calls: tuple[_Function, ...],
) -> int:
    """The number of nodes after inlining, counted without inlining: nested calls can grow exponentially."""
    total = 0
    for node in nodes:
        inner = [graph for a in node.attribute for graph in (*a.graphs, *([a.g] if a.HasField("g") else []))]
        total += 1 + sum(_inlined_size(path, graph.node, bodies, known, calls) for graph in inner)
        key = (node.domain, node.op_type, node.overload)
        if key in bodies:
            if key in calls or len(calls) > 100:
                raise LoadError(f"{path}: its local function {node.op_type!r} calls itself, or its calls nest too deeply")
            if key not in known:
                known[key] = _inlined_size(path, bodies[key], bodies, known, (*calls, key))
            total += known[key]
    return total
