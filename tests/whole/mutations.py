"""Models with something changed in their structure: sound protobufs that say what no exporter says. Seeded by the caller."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests import MODELS
from tests.ops.cases import CASES
from tests.ops.op_case import build

LARGEST_BASE = 20_000
"""bytes of the files that are changed: each is read and loaded many times"""
SIZES = [0, 1, 2, 3, 4, 5, 7, 16, -1, -2, 255, 4096, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]
FLOATS = [0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf")]
FINITE = [0.0, 1.0, -1.0, 0.5, 1e-30, 1e4]
"""of constants: what follows from others, runtimes differ in"""
TEXTS = [b"", b"forward", b"reverse", b"bidirectional", b"Relu", b"SAME_UPPER", b"linear", b"ij,jk->ik", b"->", b"...", b"\xff\0"]
NAMES = ["", "T", "N", "unk__0", "?", "a b", "\n", "é", "0", "x" * 300]
TYPES = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13, 16, 0, 99]

Mutation = Callable[[ModelProto, random.Random], None]
MUTATIONS: list[Mutation] = []


def mutation(function: Mutation) -> Mutation:
    MUTATIONS.append(function)
    return function


def bases() -> list[str]:
    """What there is to change: small files of the tests, and the cases of the operators."""
    files = sorted(p for p in MODELS.rglob("*.onnx") if p.stat().st_size < LARGEST_BASE)
    return [str(p.relative_to(MODELS)) for p in files] + [f"case {name}" for name in CASES]


def base(name: str) -> ModelProto:
    return build(CASES[name[5:]])[0] if name.startswith("case ") else onnx.load(MODELS / name)


def mutated(model: ModelProto, rng: random.Random) -> ModelProto:
    """A copy with one change, or a few."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        try:
            rng.choice(MUTATIONS)(changed, rng)
        except (IndexError, ValueError, OverflowError):
            continue  # nothing there to change, or a number that no such field holds
    return changed


def graphs(model: ModelProto) -> list[GraphProto]:
    """The graph and those inside its nodes."""
    found, waiting = [], [model.graph]
    while waiting:
        graph = waiting.pop()
        found.append(graph)
        waiting += [a.g for n in graph.node for a in n.attribute if a.type == AttributeProto.GRAPH]
    return found


def some_graph(model: ModelProto, rng: random.Random) -> GraphProto:
    return rng.choice(graphs(model))


def some_node(model: ModelProto, rng: random.Random) -> NodeProto:
    return rng.choice([n for g in graphs(model) for n in g.node])


def some_name(model: ModelProto, rng: random.Random) -> str:
    return rng.choice([name for g in graphs(model) for n in g.node for name in (*n.input, *n.output)] + [""])


def some_attribute(model: ModelProto, rng: random.Random) -> AttributeProto:
    return rng.choice([a for g in graphs(model) for n in g.node for a in n.attribute])


# ---------------------------------------------------------------- nodes


@mutation
def node_dropped(model: ModelProto, rng: random.Random) -> None:
    graph = some_graph(model, rng)
    del graph.node[rng.randrange(len(graph.node))]


@mutation
def node_twice(model: ModelProto, rng: random.Random) -> None:
    """The copy makes values of its own, which something reads."""
    graph = some_graph(model, rng)
    copy = graph.node.add()
    copy.CopyFrom(rng.choice(graph.node))
    for place, name in enumerate(copy.output):
        copy.output[place] = f"{name}_again"
        if rng.random() < 0.7:
            reader = rng.choice(graph.node)
            reader.input[rng.randrange(len(reader.input))] = copy.output[place]


@mutation
def nodes_exchanged(model: ModelProto, rng: random.Random) -> None:
    a, b = some_node(model, rng), some_node(model, rng)
    what = rng.choice(["op_type", "name", "input", "output", "attribute"])
    if what in ("op_type", "name"):
        x, y = getattr(a, what), getattr(b, what)
        setattr(a, what, y), setattr(b, what, x)
        return
    x, y = list(getattr(a, what)), list(getattr(b, what))
    for holder, values in ((a, y), (b, x)):
        copies = [type(v).FromString(v.SerializeToString()) for v in values] if what == "attribute" else values
        holder.ClearField(what)
        getattr(holder, what).extend(copies)


@mutation
def other_operator(model: ModelProto, rng: random.Random) -> None:
    some_node(model, rng).op_type = rng.choice(
        [one.op for one in CASES.values()] + ["Loop", "If", "Scan", "LSTM", "GRU", "", "Nothing"]
    )


@mutation
def other_domain(model: ModelProto, rng: random.Random) -> None:
    some_node(model, rng).domain = rng.choice(["", "ai.onnx", "com.microsoft", "tinyrnn", "ai.onnx.ml"])


@mutation
def other_input(model: ModelProto, rng: random.Random) -> None:
    node = some_node(model, rng)
    node.input[rng.randrange(len(node.input))] = some_name(model, rng)


@mutation
def inputs_turned(model: ModelProto, rng: random.Random) -> None:
    node = some_node(model, rng)
    given = list(node.input)
    rng.shuffle(given)
    node.input[:] = given


@mutation
def input_dropped(model: ModelProto, rng: random.Random) -> None:
    node = some_node(model, rng)
    del node.input[rng.randrange(len(node.input))]


@mutation
def input_added(model: ModelProto, rng: random.Random) -> None:
    some_node(model, rng).input.append(some_name(model, rng))


@mutation
def other_output(model: ModelProto, rng: random.Random) -> None:
    node = some_node(model, rng)
    node.output[rng.randrange(len(node.output))] = some_name(model, rng) or "fresh"


@mutation
def outputs_changed(model: ModelProto, rng: random.Random) -> None:
    node = some_node(model, rng)
    if rng.random() < 0.5:
        del node.output[rng.randrange(len(node.output))]
    else:
        node.output.append(rng.choice(["", "extra", "y0"]))


@mutation
def constants_known(model: ModelProto, rng: random.Random) -> None:
    """An input of the model becomes a constant of its declared shape, or a constant an input."""
    graph = model.graph
    if graph.initializer and rng.random() < 0.5:
        tensor = rng.choice(graph.initializer)
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        graph.initializer.remove(tensor)
        return
    given = rng.choice(graph.input)
    shape = [min(max(d.dim_value, 1), 16) for d in given.type.tensor_type.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    values = np.random.default_rng(rng.randrange(99)).uniform(-3, 3, shape).astype(dtype)
    graph.initializer.append(numpy_helper.from_array(values, given.name))
    graph.input.remove(given)


# ---------------------------------------------------------------- attributes


def other_value(attribute: AttributeProto, rng: random.Random) -> None:
    """Another value of the same type."""
    kind = attribute.type
    if kind == AttributeProto.INT:
        attribute.i = rng.choice([*SIZES, attribute.i + 1, attribute.i - 1])
    elif kind == AttributeProto.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif kind == AttributeProto.STRING:
        attribute.s = rng.choice(TEXTS)
    elif kind == AttributeProto.TENSOR:
        tensor_changed(attribute.t, rng)
    elif kind in (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS):
        values = {AttributeProto.INTS: attribute.ints, AttributeProto.FLOATS: attribute.floats}.get(kind, attribute.strings)
        fresh: list[Any] = {AttributeProto.INTS: SIZES, AttributeProto.FLOATS: FLOATS}.get(kind, TEXTS)
        list_changed(values, fresh, rng)


def list_changed(values: Any, fresh: list[Any], rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.4 and len(values):
        values[rng.randrange(len(values))] = rng.choice(fresh)
    elif kind < 0.6 and len(values):
        del values[rng.randrange(len(values))]
    elif kind < 0.8:
        values.append(rng.choice(fresh))
    else:
        held = list(values)
        rng.shuffle(held)
        del values[:]
        values.extend(held)


@mutation
def attribute_changed(model: ModelProto, rng: random.Random) -> None:
    other_value(some_attribute(model, rng), rng)


@mutation
def attribute_of_another_type(model: ModelProto, rng: random.Random) -> None:
    attribute = some_attribute(model, rng)
    if rng.random() < 0.3:
        attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))
        return
    value = rng.choice(
        [
            1,
            0.5,
            "text",
            [1, 2],
            [0.5],
            ["a"],
            numpy_helper.from_array(np.zeros((2, 2), np.float32)),
            helper.make_graph([], "g", [], []),
        ]
    )
    attribute.CopyFrom(helper.make_attribute(attribute.name, value))


@mutation
def attribute_moved(model: ModelProto, rng: random.Random) -> None:
    """Dropped, renamed, twice, or given to another node."""
    node = some_node(model, rng)
    attribute = rng.choice(node.attribute)
    kind = rng.random()
    if kind < 0.4:
        node.attribute.remove(attribute)
    elif kind < 0.6:
        attribute.name = some_attribute(model, rng).name
    else:
        holder = some_node(model, rng) if kind < 0.9 else node
        holder.attribute.add().CopyFrom(attribute)


@mutation
def graphs_exchanged(model: ModelProto, rng: random.Random) -> None:
    inner = [a for g in graphs(model) for n in g.node for a in n.attribute if a.type == AttributeProto.GRAPH]
    a, b = rng.choice(inner), rng.choice(inner)
    held = GraphProto.FromString(b.g.SerializeToString() if a is not b else GraphProto().SerializeToString())
    a.g.CopyFrom(held)


@mutation
def graph_ports_changed(model: ModelProto, rng: random.Random) -> None:
    """Inputs and outputs of a graph or a body: dropped, twice, exchanged, of other names."""
    graph = some_graph(model, rng)
    ports = rng.choice([graph.input, graph.output])
    port, kind = rng.choice(ports), rng.random()
    if kind < 0.3:
        ports.remove(port)
    elif kind < 0.5:
        ports.add().CopyFrom(port)
    elif kind < 0.8:
        port.name = some_name(model, rng) or "nowhere"
    else:
        other = rng.choice(ports)
        port.name, other.name = other.name, port.name


# ---------------------------------------------------------------- shapes, types, data


@mutation
def shape_changed(model: ModelProto, rng: random.Random) -> None:
    graph = some_graph(model, rng)
    tensor = rng.choice([*graph.input, *graph.output, *graph.value_info]).type.tensor_type
    kind = rng.random()
    if kind < 0.1:
        tensor.ClearField("shape")
    elif kind < 0.2:
        tensor.elem_type = rng.choice(TYPES)
    elif kind < 0.3:
        tensor.shape.dim.add().dim_value = rng.choice(SIZES)
    elif kind < 0.4:
        del tensor.shape.dim[rng.randrange(len(tensor.shape.dim))]
    elif kind < 0.7:
        rng.choice(tensor.shape.dim).dim_param = rng.choice(NAMES)
    else:
        rng.choice(tensor.shape.dim).dim_value = rng.choice(SIZES)


@mutation
def stale_shapes(model: ModelProto, rng: random.Random) -> None:
    """A shape for a value between the nodes that is not its own."""
    shape: list[int | str] = [rng.choice([1, 2, 3, "T"]) for _ in range(rng.randrange(5))]
    model.graph.value_info.append(helper.make_tensor_value_info(some_name(model, rng), rng.choice([1, 7, 9]), shape))


def tensor_changed(tensor: TensorProto, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.2:
        tensor.data_type = rng.choice(TYPES)
    elif kind < 0.5:
        list_changed(tensor.dims, SIZES, rng)
    elif kind < 0.6:
        tensor.raw_data = rng.choice([b"", tensor.raw_data[:-1], tensor.raw_data + b"\0\0\0\0", tensor.raw_data * 2])
    elif kind < 0.7:
        tensor.name = rng.choice(["", "x0", tensor.name + "_"])
    else:
        array = numpy_helper.to_array(tensor)
        values = array.copy().ravel()
        numbers = SIZES if array.dtype.kind in "iu" else FINITE
        values[rng.randrange(len(values))] = rng.choice(numbers)
        shape = array.shape if rng.random() < 0.8 else (*array.shape[::-1],)
        tensor.CopyFrom(numpy_helper.from_array(values.reshape(shape), tensor.name))


@mutation
def constant_changed(model: ModelProto, rng: random.Random) -> None:
    graph = some_graph(model, rng)
    tensor_changed(rng.choice(graph.initializer), rng)


@mutation
def constants_exchanged(model: ModelProto, rng: random.Random) -> None:
    graph = some_graph(model, rng)
    a, b = rng.choice(graph.initializer), rng.choice(graph.initializer)
    a.name, b.name = b.name, a.name


@mutation
def other_opset(model: ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.3:
        model.opset_import.add(domain=rng.choice(["", "com.microsoft", "nowhere"]), version=rng.choice([1, 13, 99]))
    else:
        rng.choice(model.opset_import).version = rng.choice(
            [0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 23, 99, -1]
        )
