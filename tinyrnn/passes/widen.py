"""Conversion of other floating types to float32, except for inputs and outputs, which are cast.

Half precision in the file is computed in float32, so that results differ by the rounding of half precision.
Where an operator has no float64, float64 is computed in float32 too, less exactly than the file says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import is_narrow
from tinyrnn.graph.ir import Graph, Spec
from tinyrnn.ops.elementwise.cast import cast_to

NARROW_CODES = (10, 16)
"""TensorProto.DataType of FLOAT16 and BFLOAT16"""
DOUBLE_CODES = (11,)
FLOAT_CODE = 1
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype", "stash_type", "softmax_precision")
"""names of attributes that are element types"""
FLOAT = np.dtype(np.float32)


def widen(graph: Graph) -> None:
    """Convert half precision to float32, except for inputs and outputs."""
    _as_float32(graph, is_narrow, NARROW_CODES)


def narrow(graph: Graph) -> None:
    """Convert float64 to float32, except for inputs and outputs, of a graph whose shapes are known."""
    for name, wide in _as_float32(graph, _is_double, DOUBLE_CODES).items():
        graph.specs[wide] = Spec(FLOAT, graph.specs[name].shape)


def has_doubles(graph: Graph) -> bool:
    """Whether a graph computes anything in float64."""
    stated = any(_is_double(spec.dtype) for spec in graph.specs.values())
    known = any(_is_double(array.dtype) for array in graph.constants.values())
    return stated or known or any(n.attributes.get(k) in DOUBLE_CODES for n in graph.every_node() for k in ("to", "dtype"))


def _is_double(dtype: np.dtype[Any]) -> bool:
    return dtype == np.float64


def _as_float32(graph: Graph, other: Callable[[np.dtype[Any]], bool], codes: Collection[int]) -> dict[str, str]:
    """Convert values of type `other` to float32; returns the new names of inputs and outputs inside."""
    found = {name: spec for name, spec in graph.specs.items() if other(spec.dtype)}
    inputs, outputs = ([name for name in names if name in found] for names in (graph.inputs, graph.outputs))
    for name, array in graph.constants.items():
        if other(array.dtype):
            graph.constants[name] = array.astype(FLOAT)
    for name, spec in found.items():
        graph.specs[name] = Spec(FLOAT, spec.shape)
    for node in graph.every_node():
        for key, value in node.attributes.items():
            if isinstance(value, np.ndarray) and other(value.dtype):
                node.attributes[key] = value.astype(FLOAT)
            elif key in TYPE_ATTRIBUTES and isinstance(value, int) and value in codes:
                node.attributes[key] = FLOAT_CODE
    taken = {*graph.specs, *graph.constants, *graph.every_name(), *graph.inputs}
    inner = {name: _new(f"{name}.wide", taken) for name in dict.fromkeys([*inputs, *outputs])}
    graph.specs |= {name: found[name] for name in inner}
    _rename(graph, inner)
    casts = [cast_to(FLOAT, name, inner[name]) for name in inputs]
    back = [cast_to(found[name].dtype, inner[name], name) for name in outputs if name not in inputs]
    graph.nodes = [*casts, *graph.nodes, *back]
    return inner


def _new(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _rename(graph: Graph, names: dict[str, str]) -> None:
    """Rename values in the inputs and outputs of nodes."""
    for node in graph.every_node():
        node.inputs = tuple(names.get(name, name) for name in node.inputs)
        node.outputs = tuple(names.get(name, name) for name in node.outputs)
        for _, held in node.nested():
            held.outputs = [names.get(name, name) for name in held.outputs]
