"""Half precision becomes float32 inside: weights and values of float16 and bfloat16; inputs and outputs stay what they are.

What the file computes in half precision is computed in float32 instead, so results differ from it by its own rounding.
A cast stands behind each such input and before each such output.
"""

from __future__ import annotations

import numpy as np

from tinyrnn.arrays import is_narrow
from tinyrnn.ir import Graph, Spec
from tinyrnn.ops.cast import cast_to

NARROW_CODES = (10, 16)
"""TensorProto.DataType of FLOAT16 and BFLOAT16"""
FLOAT_CODE = 1
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype", "stash_type", "softmax_precision")
"""attributes that are element types, wherever they stand"""
FLOAT = np.dtype(np.float32)


def widen(graph: Graph) -> None:
    """Give everything of half precision the type float32, but for the inputs and outputs."""
    narrow = {name: spec for name, spec in graph.specs.items() if is_narrow(spec.dtype)}
    inputs, outputs = ([name for name in names if name in narrow] for names in (graph.inputs, graph.outputs))
    for name, array in graph.constants.items():
        if is_narrow(array.dtype):
            graph.constants[name] = array.astype(FLOAT)
    for name, spec in narrow.items():
        graph.specs[name] = Spec(FLOAT, spec.shape)
    for node in graph.every_node():
        for key, value in node.attributes.items():
            if isinstance(value, np.ndarray) and is_narrow(value.dtype):
                node.attributes[key] = value.astype(FLOAT)
            elif key in TYPE_ATTRIBUTES and value in NARROW_CODES:
                node.attributes[key] = FLOAT_CODE
    taken = {*graph.specs, *graph.constants, *graph.every_name(), *graph.inputs}
    inner = {name: _new(f"{name}.wide", taken) for name in dict.fromkeys([*inputs, *outputs])}
    graph.specs |= {name: narrow[name] for name in inner}
    _rename(graph, inner)
    casts = [cast_to(FLOAT, name, inner[name]) for name in inputs]
    back = [cast_to(narrow[name].dtype, inner[name], name) for name in outputs if name not in inputs]
    graph.nodes = [*casts, *graph.nodes, *back]


def _new(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _rename(graph: Graph, names: dict[str, str]) -> None:
    """Other names for values wherever a node reads or makes them."""
    for node in graph.every_node():
        node.inputs = tuple(names.get(name, name) for name in node.inputs)
        node.outputs = tuple(names.get(name, name) for name in node.outputs)
        for _, held in node.nested():
            held.outputs = [names.get(name, name) for name in held.outputs]
