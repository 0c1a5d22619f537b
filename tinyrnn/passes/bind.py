"""Fix inputs and open sizes to constants, and keep only the outputs that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError
from tinyrnn.graph.arrays import is_floating
from tinyrnn.graph.ir import Graph, Spec, spec_of
from tinyrnn.graph.limits import LARGEST_VALUE
from tinyrnn.graph.op import REGISTRY


def bind(graph: Graph, values: Mapping[str, Any], outputs: Sequence[str] | None) -> None:
    """Turn named inputs into constants and named open sizes into numbers; remove other outputs.

    An attribute in `Op.settable` is named NODE.ATTRIBUTE.

    Raises `LoadError`, listing the valid names, where a name is not found or a value does not fit.
    """
    if not isinstance(values, Mapping):
        raise LoadError(f"{graph.name}: bind must be a dict {{name: value}}, not {values!r:.80}")
    sizes = {size for name in graph.inputs for size in graph.specs[name].shape if isinstance(size, str)}
    fixed: dict[str, int] = {}
    ops = [(node, REGISTRY.get(("" if node.domain == "ai.onnx" else node.domain, node.op))) for node in graph.every_node()]
    settable = {f"{node.name}.{key}": (node, key) for node, op in ops if op is not None for key in op.settable}
    for name, value in values.items():
        if name in graph.inputs:
            graph.constants[name] = _fit(graph, name, value, fixed)
            graph.inputs.remove(name)
            del graph.specs[name]
        elif name in sizes:
            _fix_size(graph, name, value, fixed)
        elif name in settable:
            node, key = settable[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
                raise LoadError(f"{graph.name}: bind gives {name!r} the value {value!r:.80}; it is a finite number")
            node.attributes[key] = float(value)
        else:
            known = [*graph.inputs, *sorted(sizes), *settable]
            raise LoadError(_unknown(graph, "bind", name, known, "inputs and open sizes"))
    if outputs is not None:
        outputs = [outputs] if isinstance(outputs, str) else outputs
        for name in outputs:
            if name not in graph.outputs:
                raise LoadError(_unknown(graph, "outputs", name, graph.outputs, "outputs"))
        if not outputs:
            raise LoadError(f"{graph.name}: outputs= is empty; name at least one of {', '.join(graph.outputs)}")
        graph.outputs = [name for name in graph.outputs if name in outputs]


def _unknown(graph: Graph, what: str, name: str, known: Sequence[str], kind: str) -> str:
    lower = {str(k).lower(): k for k in reversed(known)}
    close = [lower[k] for k in get_close_matches(str(name).lower(), lower, 1)]
    return (
        f"{graph.name}: {what} names {name!r}, which is not there. Its {kind} are {', '.join(map(repr, known)) or 'none'}"
        f"{f'; did you mean {close[0]!r}?' if close else ''}"
    )


def _fit(graph: Graph, name: str, value: Any, fixed: dict[str, int]) -> np.ndarray[Any, Any]:
    spec: Spec = graph.specs[name]
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biu" and not is_floating(given.dtype):
            raise TypeError
        with np.errstate(all="ignore"):
            array = given.astype(spec.dtype)
    except (TypeError, ValueError, OverflowError):
        raise LoadError(f"{graph.name}: bind gives {name!r} the value {value!r:.80}, which is no {spec.dtype}") from None
    whole = spec.dtype.kind in "biu"
    if not np.array_equal(array, given) if whole else bool(np.any(np.isinf(array) & np.isfinite(given))):
        raise LoadError(f"{graph.name}: bind gives {name!r} the value {value!r:.80}, which {spec.dtype} cannot hold")
    if array.ndim < len(spec.shape) or array.size == 1:
        ones = [1] * len(spec.shape)
        array = array.reshape(ones if array.size == 1 else [*ones[array.ndim :], *array.shape])
    fits = array.ndim == len(spec.shape) and all(
        isinstance(size, str) or size == n for size, n in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise LoadError(f"{graph.name}: bind gives {name!r} shape {list(array.shape)}; the file says {spec}")
    for size, n in zip(spec.shape, array.shape, strict=True):
        if isinstance(size, str):
            _fix_size(graph, size, n, fixed)
    graph.specs[name] = spec_of(array)
    return array


def _fix_size(graph: Graph, size: str, value: Any, fixed: dict[str, int]) -> None:
    try:
        good = not isinstance(value, (bool, str)) and int(value) == value and 1 <= int(value) <= LARGEST_VALUE
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise LoadError(
            f"{graph.name}: bind gives size {size!r} the value {value!r:.80}; a size is a whole number "
            f"from 1 to {LARGEST_VALUE:,}"
        )
    if fixed.setdefault(size, int(value)) != int(value):
        raise LoadError(f"{graph.name}: bind gives size {size!r} two values, {fixed[size]} and {int(value)}")
    for name, spec in graph.specs.items():
        graph.specs[name] = Spec(spec.dtype, tuple(int(value) if s == size else s for s in spec.shape))
