"""Give every value a shape and compute everything that does not depend on the input.

A size that the file leaves open gets a *probe*, a prime that nothing else in the graph has: shape
arithmetic then folds like any other, and the time pass recognises the axis again. Two open sizes that
an operator needs to be equal become one. `passes.prepare` folds with two sets of probes and compares,
so that no length is ever compiled in unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from tinyrnn.errors import UnsupportedError
from tinyrnn.ir import LARGEST_CONSTANT, LARGEST_VALUE, Graph, Node, Spec, spec_of
from tinyrnn.op import Op, Refused, SizesDiffer, op_of

Probes = dict[str, int]


UNSOUND = (
    Refused,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    StopIteration,
    TypeError,
    ValueError,
)
"""what an operator may raise over inputs and attributes that do not fit it"""


def choose_probes(graph: Graph, seed: int) -> Probes:
    """A different prime for each open size; another set for another seed."""
    taken = {n for spec in graph.specs.values() for n in spec.shape if isinstance(n, int)}
    taken |= {n for array in graph.constants.values() for n in array.shape}
    names = dict.fromkeys(s for name in graph.inputs for s in graph.specs[name].shape if isinstance(s, str))
    primes = _primes(taken)
    for _ in range(seed * len(names)):
        next(primes)
    return {name: next(primes) for name in names}


def _primes(taken: set[int]) -> Iterator[int]:
    candidate = 11
    while True:
        candidate += 2
        if all(candidate % d for d in range(3, int(candidate**0.5) + 1, 2)) and not any(n and n % candidate == 0 for n in taken):
            yield candidate


def fold(graph: Graph, probes: Probes) -> tuple[Graph, Probes]:
    """A graph with all shapes known and all constants computed, and the probes after open sizes were joined."""
    tried: list[Probes] = []
    while probes not in tried:
        tried.append(probes)
        try:
            return _fold_once(graph.copy(), probes), probes
        except _Conflict as conflict:
            probes = conflict.joined
    raise UnsupportedError(
        f"{graph.name}: the open sizes {', '.join(map(repr, probes))} would have to be {list(probes.values())} "
        f"and {list(tried[-1].values())} at once"
    )


class _Conflict(Exception):
    def __init__(self, joined: Probes) -> None:
        self.joined = joined


def _fold_once(graph: Graph, probes: Mapping[str, int]) -> Graph:
    for name in graph.inputs:
        spec = graph.specs[name]
        graph.specs[name] = Spec(spec.dtype, tuple(probes[s] if isinstance(s, str) else s for s in spec.shape))
    for name, array in graph.constants.items():
        graph.specs[name] = spec_of(array)
    kept = []
    for node in graph.nodes:
        if not _fold_node(graph, node, probes):
            kept.append(node)
    graph.nodes = kept
    return graph


def _fold_node(graph: Graph, node: Node, probes: Mapping[str, int]) -> bool:
    """Specs of the node's outputs; True where they became constants."""
    op = op_of(node)
    if op.of_shape:
        graph.constants[node.outputs[0]] = op.from_spec(node, graph.specs[node.inputs[0]])
        graph.specs[node.outputs[0]] = spec_of(graph.constants[node.outputs[0]])
        return True
    known = all(name in graph.constants for name in node.inputs if name)
    absorb_parameters(op, node, graph.constants)
    try:
        specs = [graph.specs[name] if name else None for name in node.inputs]
        op.normalize(node, specs)
        if known and op.foldable:
            _compute(graph, op, node)
            return True
        found = op.infer(node, specs)
    except UNSOUND as error:
        joined = _join(op, node, graph, probes, error)
        if joined is not None:
            raise _Conflict(joined) from None
        text = str(error) if isinstance(error, Refused) else f"its inputs {_shapes(graph, node)} or attributes do not fit"
        raise UnsupportedError(f"{graph.name}: node {node.name!r} ({node.op}): {text}") from None
    for name, spec in zip(node.outputs, found, strict=False):
        if name:
            if spec.elements > LARGEST_VALUE:
                raise UnsupportedError(f"{graph.name}: node {node.name!r} ({node.op}) makes {spec}, absurdly large")
            graph.specs[name] = spec
    return False


def absorb_parameters(op: Op, node: Node, constants: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Move inputs that must be known at load into the node's attributes."""
    inputs = list(node.inputs)
    for attribute, index in op.parameters.items():
        if index < len(inputs) and inputs[index]:
            if inputs[index] not in constants:
                raise UnsupportedError(
                    f"node {node.name!r} ({node.op}): its input {attribute} ({inputs[index]!r}) depends on the model's input; "
                    f"supported is a value known at load. If {inputs[index]!r} is an input of the model, fix it: "
                    f"bind={{{inputs[index]!r}: array}}"
                )
            node.attributes[attribute] = constants[inputs[index]]
            inputs[index] = ""
    while inputs and not inputs[-1]:
        inputs.pop()
    node.inputs = tuple(inputs)


def _shapes(graph: Graph, node: Node) -> str:
    return ", ".join(f"{name!r} {graph.specs[name]}" for name in node.inputs if name)


def _compute(graph: Graph, op: Op, node: Node) -> None:
    for spec in (
        [] if op.of_shape or op.known_only else op.infer(node, [graph.specs[name] if name else None for name in node.inputs])
    ):
        if spec.elements > LARGEST_CONSTANT:
            raise Refused(f"the constant that it makes, {spec}, is absurdly large")
    arrays = [graph.constants[name] if name else None for name in node.inputs]
    for name, result in zip(node.outputs, op.reference(node, arrays), strict=False):
        if name:
            graph.constants[name] = np.ascontiguousarray(result).reshape(np.shape(result))
            graph.specs[name] = spec_of(graph.constants[name])


def _join(op: Op, node: Node, graph: Graph, probes: Mapping[str, int], error: Exception) -> Probes | None:
    """Probes with two sizes made one, such that the node's inputs fit together (or come closer)."""
    if isinstance(error, SizesDiffer):
        for a, b in error.pairs:
            for old, new in ((a, b), (b, a)):
                if old in probes.values():
                    return {k: new if v == old else v for k, v in probes.items()}
    seen = {n for name in node.inputs if name for n in graph.specs[name].sizes}
    names = [name for name, probe in probes.items() if probe in seen]
    trials = [(b, probes[a]) for a, b in combinations(names, 2) if probes[a] != probes[b]]
    trials += [(name, n) for name in names for n in seen if n not in probes.values()]
    for name, size in trials:
        old = probes[name]
        specs = [
            Spec(s.dtype, tuple(size if n == old else n for n in s.sizes)) if s else None
            for s in (graph.specs[i] if i else None for i in node.inputs)
        ]
        try:
            op.infer(node, specs)
        except UNSOUND:
            continue
        return {k: size if v == old else v for k, v in probes.items()}
    return None
