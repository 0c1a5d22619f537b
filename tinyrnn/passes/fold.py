"""Shape inference and constant folding.

Every open size gets a *probe*, a prime that occurs nowhere else in the graph: shape
arithmetic then folds as usual, and the time pass recognises the axis. Two open sizes that
an operator needs to be equal become one; a size becomes a number only where the graph admits no other,
and `Sizes` says so. `passes.prepare` folds with two sets of probes and compares,
so that no length is ever compiled in unseen.
"""

from __future__ import annotations

from collections import ChainMap, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from time import perf_counter
from typing import Any, cast

import numpy as np

from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.ir import Graph, Node, Spec, refresh_captures, spec_of
from tinyrnn.graph.limits import CONSTANTS, LARGEST_VALUE, UNSOUND, begin_pass, check_constant, check_time, spend
from tinyrnn.graph.op import Op, Refused, RunGraph, SizesDiffer, Uneven, op_of

Probes = dict[str, int]

LEAST = ((127, 1009), (1031, 4099), (8209, 16411))
"""lower bounds of the probes of both seeds, in the order in which they are tried: convolutions and cuts need large ones"""
LARGER = (1201, 20011)
"""sizes for testing whether an operator takes any large enough size"""
LARGEST_MULTIPLE = 64
PATIENCE = 5.0
"""seconds for the search for a multiple"""
LONGEST_FOLDED = 1 << 12
"""most iterations of a loop over constants that are computed at load"""


@dataclass(frozen=True)
class Sizes:
    """What folding found out about open sizes."""

    probes: Probes
    fixed: dict[str, tuple[int, str]]
    """size → (its only possible value, the node that requires it)"""
    multiples: dict[str, int]
    """size → number of which it must be a multiple"""
    stated: dict[str, int] = field(default_factory=dict)
    """size → number that a node has in its place, as if the file gave the size; for time, other lengths still run"""


def choose_probes(graph: Graph, least: int) -> Probes:
    """Open size → prime larger than `least`, a different one for each."""
    taken = {n for spec in graph.specs.values() for n in spec.shape if isinstance(n, int)}
    taken |= {n for array in graph.constants.values() for n in array.shape}
    names = dict.fromkeys(s for name in graph.inputs for s in graph.specs[name].shape if isinstance(s, str))
    primes = _primes(taken, least | 1)
    return {name: next(primes) for name in names}


def _primes(taken: set[int], candidate: int) -> Iterator[int]:
    while True:
        candidate += 2
        if all(candidate % d for d in range(3, int(candidate**0.5) + 1, 2)) and not any(n and n % candidate == 0 for n in taken):
            yield candidate


def fold(graph: Graph, seed: int) -> tuple[Graph, Sizes]:
    """(graph with all shapes known and all constants computed, what was found about its open sizes).

    Seeds 0 and 1 choose different probes, far apart, so that comparisons with a size come out differently; seed 1 + n
    chooses those larger by n than the probes of seed 1. Probes are raised until every kernel, window and cut fits them, and
    are multiples where a node needs one.
    """
    if not any(isinstance(n, str) for name in graph.inputs for n in graph.specs[name].shape):
        return _fold_joined(graph, {}, {})
    for place, leasts in enumerate(LEAST):
        probes = {name: n + max(seed - 1, 0) for name, n in choose_probes(graph, leasts[min(seed, 1)]).items()}
        try:
            return _fold_joined(graph, probes, {})
        except _UnevenError as error:
            found = _at_a_number(graph, probes, error) or _even(graph, probes)
            if found is not None:
                return found
            if place == len(LEAST) - 1:
                raise UnsupportedError(str(error)) from None
        except UnsupportedError:
            if place == len(LEAST) - 1:
                raise
    raise AssertionError


def _even(graph: Graph, probes: Probes) -> tuple[Graph, Sizes] | None:
    """Fold with the smallest multiple of one probe, or of all, for which all numbers of elements are divisible."""
    begun = perf_counter()
    for times in range(2, LARGEST_MULTIPLE + 1):
        for names in dict.fromkeys([*((name,) for name in probes), tuple(probes)]):
            if perf_counter() - begun > PATIENCE:
                return None
            multiples = dict.fromkeys(names, times)
            try:
                return _fold_joined(graph, {name: n * multiples.get(name, 1) for name, n in probes.items()}, multiples)
            except UnsupportedError:
                continue
    return None


def _at_a_number(graph: Graph, probes: Probes, error: _UnevenError) -> tuple[Graph, Sizes] | None:
    """Fold with a size at a number in a node's attributes, if that works."""
    for name, n in error.numbers:
        try:
            folded, sizes = _fold_joined(graph, {**probes, name: n}, {})
        except UnsupportedError:
            continue
        return folded, replace(sizes, stated={name: n}, fixed={k: v for k, v in sizes.fixed.items() if k != name})
    return None


def _fold_joined(graph: Graph, probes: Probes, multiples: Mapping[str, int]) -> tuple[Graph, Sizes]:
    """Fold, joining open sizes that must be equal."""
    chosen, equated, tried = set(probes.values()), dict[str, str](), list[Probes]()
    while probes not in tried:
        tried.append(probes)
        try:
            folded = _fold_once(graph.copy(), probes)
        except _Conflict as conflict:
            equated |= {name: conflict.where for name, n in conflict.joined.items() if n != probes[name]}
            probes = conflict.joined
            continue
        fixed = {name: (n, equated[name]) for name, n in probes.items() if n not in chosen}
        return folded, Sizes(probes, fixed, {name: k for name, k in multiples.items() if name not in fixed})
    raise UnsupportedError(
        f"{graph.name}: the open sizes {', '.join(map(repr, probes))} would have to be {list(probes.values())} "
        f"and {list(tried[-1].values())} at once"
    )


class _Conflict(Exception):
    def __init__(self, joined: Probes, where: str) -> None:
        self.joined, self.where = joined, where


class _UnevenError(UnsupportedError):
    """As `Uneven`, with the model and the node."""

    def __init__(self, text: str, numbers: list[tuple[str, int]]) -> None:
        super().__init__(text)
        self.numbers = numbers
        """(open size, number in the node's attributes) that fit"""


def _fold_once(graph: Graph, probes: Mapping[str, int]) -> Graph:
    begin_pass()
    _begin(graph, probes)
    graph.nodes = [node for node in graph.nodes if not _fold_node(graph, node, probes)]
    return graph


def _begin(graph: Graph, probes: Mapping[str, int]) -> None:
    for name in graph.inputs:
        spec = graph.specs[name]
        graph.specs[name] = Spec(spec.dtype, tuple(probes[s] if isinstance(s, str) else s for s in spec.shape))
    for name, array in graph.constants.items():
        graph.specs[name] = spec_of(array)


def _fold_node(graph: Graph, node: Node, probes: Mapping[str, int], choices: dict[str, str] | None = None) -> bool:
    """Infer the specs of the node's outputs; returns whether they became constants."""
    check_time()
    op = op_of(node)
    if op.of_shape:
        graph.constants[node.outputs[0]] = op.from_spec(node, graph.specs[node.inputs[0]])
        graph.specs[node.outputs[0]] = spec_of(graph.constants[node.outputs[0]])
        return True
    known = all(name in graph.constants for name in node.inputs if name)
    absorb_parameters(op, node, graph.constants)
    try:
        specs = [graph.specs[name] if name else None for name in node.inputs[: op.arguments(node)]]
        op.check_axes(node, specs)
        op.normalize(node, specs)
        _fold_nested(graph, op, node, specs, probes, choices)
        if known and op.foldable and _compute(graph, op, node):
            return True
        found = op.infer(node, specs)
    except UNSOUND as error:
        try:
            joined = _join(op, node, graph, probes, error)
        except Uneven as uneven:
            error, joined = uneven, None
        if joined is not None:
            raise _Conflict(joined, f"node {node.name!r} ({node.op})") from None
        text = str(error) if isinstance(error, Refused) else f"its inputs {_shapes(graph, node)} or attributes do not fit"
        where = f"node {node.name!r} ({node.op})"
        if isinstance(error, Uneven):
            raise _UnevenError(f"{graph.name}: {where}: {text}", _numbers(op, node, graph, probes)) from None
        raise UnsupportedError(f"{graph.name}: {where}: {text}") from None
    for name, spec in zip(node.outputs, found, strict=False):
        if name:
            if 0 in spec.sizes and probes and max(probes.values()) < LEAST[-1][0]:
                raise UnsupportedError(f"{graph.name}: node {node.name!r} ({node.op}) leaves nothing: it makes {spec}")
            if _per_row(spec, probes) > LARGEST_VALUE:
                raise UnsupportedError(f"{graph.name}: node {node.name!r} ({node.op}) makes {spec}, absurdly large")
            graph.specs[name] = spec
    return False


def _per_row(spec: Spec, probes: Mapping[str, int]) -> int:
    """The number of elements of a value with open sizes of 1."""
    elements = spec.elements
    for probe in set(probes.values()):
        elements //= probe if elements % probe == 0 else 1
    return elements


def _fold_nested(
    graph: Graph, op: Op, node: Node, specs: Sequence[Spec | None], probes: Mapping[str, int], choices: dict[str, str] | None
) -> None:
    """Fold the nested graphs of a node; their specs and constants go to the outermost graph."""
    arguments, holds = op.arguments(node), False
    for key, inner in node.nested():
        holds = True
        graph.specs.update(
            (name, spec) for name, spec in zip(inner.inputs, op.enter(node, key, specs), strict=True) if spec is not None
        )
        if choices is None:
            inner.nodes = [n for n in inner.nodes if not _fold_node(graph, n, probes)]
        else:
            _try_nodes(graph, inner.nodes, probes, choices)
        inner.specs = {name: graph.specs[name] for name in (*inner.inputs, *inner.outputs) if name in graph.specs}
    if holds:
        op.learn(node, graph.constants)
        refresh_captures(node, arguments)


def choices(graph: Graph, least: int) -> dict[str, str]:
    """Node → attribute of the nested graph that replaces it, where that is known at load.

    Unsupported nodes, and those that depend on them, are skipped. `least` as in `choose_probes`.
    """
    probes, tried, found = choose_probes(graph, least), list[Probes](), dict[str, str]()
    while probes not in tried:
        tried.append(probes)
        trial, found = graph.copy(), {}
        begin_pass()
        _begin(trial, probes)
        try:
            _try_nodes(trial, trial.nodes, probes, found)
            break
        except _Conflict as conflict:
            probes = conflict.joined
    return found


def _try_nodes(graph: Graph, nodes: Sequence[Node], probes: Mapping[str, int], choices: dict[str, str]) -> None:
    waiting = deque(nodes)
    while waiting:
        node = waiting.popleft()
        try:
            op = op_of(node)
            key = op.choose(node, graph.constants)
            if key is not None:
                choices[node.name] = key
                waiting.extendleft(reversed(op.inline(node, key)))
            else:
                _fold_node(graph, node, probes, choices)
        except (UnsupportedError, *UNSOUND):
            continue


def absorb_parameters(op: Op, node: Node, constants: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Move constant inputs that are parameters (`Op.parameters`) into the node's attributes."""
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
    return ", ".join(f"{name!r} {graph.specs[name]}" for name in node.inputs if name in graph.specs)


class _TooLong(Exception):
    """A loop over constants is too long to be computed at load."""


class _Iterations:
    """Counts the iterations of loops over constants."""

    def __init__(self) -> None:
        self.count = self.nbytes = 0

    def add(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        self.count += 1
        self.nbytes += sum(array.nbytes for array in arrays)
        if self.count > LONGEST_FOLDED or self.nbytes > CONSTANTS:
            raise _TooLong


def _runner(values: Mapping[str, np.ndarray[Any, Any]], iterations: _Iterations) -> RunGraph:
    """A function that computes nested graphs, which capture `values`."""

    def run(inner: Graph, arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        iterations.add(arrays)
        known = ChainMap(dict(zip(inner.inputs, arrays, strict=True)), cast(Any, values))
        for node in (n.copy() for n in inner.nodes):
            check_time()
            op = op_of(node)
            if op.of_shape:
                known[node.outputs[0]] = op.from_spec(node, spec_of(known[node.inputs[0]]))
                continue
            absorb_parameters(op, node, known)
            given = [known[name] if name else None for name in node.inputs]
            specs = [None if array is None else spec_of(array) for array in given[: op.arguments(node)]]
            op.check_axes(node, specs)
            op.normalize(node, specs)
            if not op.known_only and not any(True for _ in node.nested()):
                for spec in op.infer(node, specs):
                    check_constant(spec.elements * spec.dtype.itemsize, str(spec))
            results = op.compute(node, given, _runner(known, iterations))
            known.update((name, np.asarray(array)) for name, array in zip(node.outputs, results, strict=False) if name)
        made = [known[name] for name in inner.outputs]
        iterations.add(made)
        return made

    return run


def _compute(graph: Graph, op: Op, node: Node) -> bool:
    """Compute the node's outputs as constants; returns False if that would take too long."""
    for spec in (
        []
        if op.of_shape or op.known_only
        else op.infer(node, [graph.specs[name] if name else None for name in node.inputs[: op.arguments(node)]])
    ):
        check_constant(spec.elements * spec.dtype.itemsize, str(spec))
    arrays = [graph.constants[name] if name else None for name in node.inputs]
    try:
        results = op.compute(node, arrays, _runner(graph.constants, _Iterations()))
    except _TooLong:
        return False
    graph.integers |= op.scales_integers
    for name, result in zip(node.outputs, results, strict=False):
        if name:
            spend(np.asarray(result).nbytes)
            graph.constants[name] = np.ascontiguousarray(result).reshape(np.shape(result))
            graph.specs[name] = spec_of(graph.constants[name])
    return True


def _join(op: Op, node: Node, graph: Graph, probes: Mapping[str, int], error: Exception) -> Probes | None:
    """Probes with two sizes made equal, if the node fits at no other size; None where that does not help.

    Raises `Uneven` where a size would have to equal a number computed from another: a multiple may fit.
    """
    known = {*(n for name in node.inputs if name in graph.constants for n in graph.constants[name].shape)}
    known |= {n for value in node.attributes.values() if isinstance(value, np.ndarray) for n in value.shape}
    seen = {n for name in node.inputs if name and name in graph.specs for n in graph.specs[name].sizes}
    names = [name for name, probe in probes.items() if probe in seen]

    def fits(sizes: Mapping[int, int]) -> bool:
        return _made(op, node, graph, sizes) is not None

    if isinstance(error, Uneven) or any(fits({probes[name]: n}) for name in names for n in LARGER):
        return None
    pairs = list(error.pairs) if isinstance(error, SizesDiffer) else []
    pairs += [(a, b) for b, a in pairs]
    pairs += [(probes[b], probes[a]) for a, b in combinations(names, 2) if fits({probes[b]: probes[a]})]
    pairs += [(probes[name], n) for name in names for n in sorted(seen) if n not in probes.values() and fits({probes[name]: n})]
    for targets in (set(probes.values()), known - {1}, {1}):
        for old, new in pairs:
            if old != new and old in probes.values() and new in targets:
                return {k: new if v == old else v for k, v in probes.items()}
    if any(old in probes.values() for old, _ in pairs):
        raise Uneven(f"its inputs {_shapes(graph, node)} do not fit each other")
    return None


def _made(op: Op, node: Node, graph: Graph, sizes: Mapping[int, int]) -> tuple[Spec | None, Spec] | None:
    """(first input, first output) of a node at other sizes; None where it does not fit them."""
    specs = [
        Spec(s.dtype, tuple(sizes.get(n, n) for n in s.sizes)) if s else None
        for s in (graph.specs[i] if i else None for i in node.inputs[: op.arguments(node)])
    ]
    try:
        return specs[0], op.infer(node, specs)[0]
    except UNSOUND:
        return None


def _numbers(op: Op, node: Node, graph: Graph, probes: Mapping[str, int]) -> list[tuple[str, int]]:
    """(open size, number) where a node's attributes have the number for the axis with that size."""
    values = [n for v in node.attributes.values() if not isinstance(v, Graph) for n in np.ravel(np.asarray(v, object))]
    found = []
    for name, old in probes.items():
        for n in sorted({int(n) for n in values if isinstance(n, (int, np.integer)) and n > 0}):
            made = _made(op, node, graph, {old: n})
            before = graph.specs[node.inputs[0]].sizes
            if made is not None and made[0] is not None and old in before:
                axes = before.index(old) + 1
                if made[0].sizes[:axes] == made[1].sizes[:axes]:
                    found.append((name, n))
    return found
