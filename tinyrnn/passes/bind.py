"""Fix inputs and open sizes to constants, and keep only the outputs that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError
from tinyrnn.ir import Graph, Spec, spec_of


def bind(graph: Graph, values: Mapping[str, Any], outputs: Sequence[str] | None) -> None:
    """Turn each named input into a constant (or each named open size into a number); drop other outputs.

    Raises `LoadError` naming what there is where a name is not found or a value does not fit.
    """
    sizes = {size for name in graph.inputs for size in graph.specs[name].shape if isinstance(size, str)}
    for name, value in values.items():
        if name in graph.inputs:
            graph.constants[name] = _fit(graph, name, value)
            graph.inputs.remove(name)
            del graph.specs[name]
        elif name in sizes:
            _fix_size(graph, name, value)
        else:
            raise LoadError(_unknown(graph, "bind", name, [*graph.inputs, *sorted(sizes)], "inputs and open sizes"))
    if outputs is not None:
        for name in outputs:
            if name not in graph.outputs:
                raise LoadError(_unknown(graph, "outputs", name, graph.outputs, "outputs"))
        if not outputs:
            raise LoadError(f"{graph.name}: outputs= is empty; name at least one of {', '.join(graph.outputs)}")
        graph.outputs = [name for name in graph.outputs if name in outputs]


def _unknown(graph: Graph, what: str, name: str, known: Sequence[str], kind: str) -> str:
    close = get_close_matches(name, known, 1)
    return (f"{graph.name}: {what} names {name!r}, which is not there. Its {kind} are {', '.join(map(repr, known)) or 'none'}"
            f"{f'; did you mean {close[0]!r}?' if close else ''}")


def _fit(graph: Graph, name: str, value: Any) -> np.ndarray[Any, Any]:
    spec: Spec = graph.specs[name]
    try:
        given = np.asarray(value)
        array = given.astype(spec.dtype)
    except (TypeError, ValueError):
        raise LoadError(f"{graph.name}: bind gives {name!r} the value {value!r}, which is no {spec.dtype}") from None
    if not np.array_equal(array.astype(np.float64), given.astype(np.float64), equal_nan=True) and not np.issubdtype(spec.dtype, np.floating):
        raise LoadError(f"{graph.name}: bind gives {name!r} the value {value!r}, which {spec.dtype} cannot hold")
    if array.ndim != len(spec.shape) and array.size == 1:
        array = array.reshape([1] * len(spec.shape))
    fits = array.ndim == len(spec.shape) and all(
        isinstance(size, str) or size == n for size, n in zip(spec.shape, array.shape, strict=True))
    if not fits:
        raise LoadError(f"{graph.name}: bind gives {name!r} shape {list(array.shape)}; the file says {spec}")
    for size, n in zip(spec.shape, array.shape, strict=True):
        if isinstance(size, str):
            _fix_size(graph, size, n)
    graph.specs[name] = spec_of(array)
    return array


def _fix_size(graph: Graph, size: str, value: Any) -> None:
    if isinstance(value, bool) or int(value) != value or int(value) < 1:
        raise LoadError(f"{graph.name}: bind gives size {size!r} the value {value!r}; a size is a whole number above 0")
    for name, spec in graph.specs.items():
        graph.specs[name] = Spec(spec.dtype, tuple(int(value) if s == size else s for s in spec.shape))
