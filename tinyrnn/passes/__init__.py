"""From a file graph to a program over frames; one short file per pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.arrays import SizeRule
from tinyrnn.graph.ir import Graph, Node, Size, free_names, refresh_captures
from tinyrnn.graph.limits import UNSOUND, check_time, holds, one_load
from tinyrnn.graph.op import BEFORE_SHAPES, REWRITES, SPECULATIVE_REWRITES, Refused, op_of
from tinyrnn.passes.axes import Time, assign_roles, find_axes, seeds
from tinyrnn.passes.bind import bind
from tinyrnn.passes.dead_code import refuse_unsupported, remove_dead
from tinyrnn.passes.embedding_products import multiply_embeddings
from tinyrnn.passes.fold import LEAST, Sizes, choices, fold
from tinyrnn.passes.fuse import fuse
from tinyrnn.passes.rows import Port, Program, to_frames, with_given_constants
from tinyrnn.passes.states import find_states, left_out
from tinyrnn.passes.weight_storage import store_weights
from tinyrnn.passes.widen import narrow, widen

__all__ = ["Port", "Program", "Time", "bound", "open_batches", "prepare", "with_given_constants"]


def bound(source: Graph, values: Mapping[str, Any] | None, outputs: Sequence[str] | None) -> Graph:
    """A copy of the graph with inputs bound and other outputs removed. Raises `UnsupportedError` for unsupported operators."""
    with one_load(source.name):
        holds(source.nbytes)
        return _bound(source.copy(), values, outputs)


def _bound(graph: Graph, values: Mapping[str, Any] | None, outputs: Sequence[str] | None) -> Graph:
    _tell_apart(graph)
    for rewriting in BEFORE_SHAPES:
        rewriting(graph)
    widen(graph)
    bind(graph, values or {}, outputs)
    remove_dead(graph)
    _inline_chosen(graph)
    refuse_unsupported(graph)
    return graph


def _inline_chosen(graph: Graph) -> None:
    """Inline nested graphs that are known at load to run, for all values of open sizes."""
    if not any(True for node in graph.nodes for _ in node.nested()):
        return
    first, second = (choices(graph, least) for least in LEAST[0])
    chosen = {name: key for name, key in first.items() if second.get(name) == key}
    if chosen:
        graph.nodes = _inlined(graph.nodes, chosen)
        remove_dead(graph)


def _inlined(nodes: Sequence[Node], chosen: Mapping[str, str]) -> list[Node]:
    kept: list[Node] = []
    for node in nodes:
        if node.name in chosen:
            kept += _inlined(op_of(node).inline(node, chosen[node.name]), chosen)
            continue
        for _, inner in node.nested():
            inner.nodes = _inlined(inner.nodes, chosen)
        kept.append(node)
    return kept


def _tell_apart(graph: Graph) -> None:
    """Make the names of nodes unique, since state is stored by the name of its node."""
    taken, counts = {node.name for node in graph.every_node()}, dict[str, int]()
    for node in graph.every_node():
        counts[node.name] = counts.get(node.name, 0) + 1
        if counts[node.name] > 1:
            stem = node.name
            while node.name in taken:
                node.name = f"{stem}.{counts[stem]}"
                counts[stem] += node.name in taken
            taken.add(node.name)


def prepare(graph: Graph, states: Mapping[str, str] | None = None, time: Time | None = None, doubles: bool = True) -> Program:
    """The program of a bound graph. time: which axis is time, if the graph does not determine it.

    doubles: compute float64 as such; without it float64 is computed in float32.

    Raises `UnsupportedError` where a part cannot run and `LoadError` where states are ambiguous.
    """
    program = _frames(graph, states, time, 0, doubles)
    if any(isinstance(size, str) for name in graph.inputs for size in graph.specs[name].shape):
        others = (_frames(graph, states, time, seed, doubles) for seed in (1, *_remainders(program)))
        difference = next(filter(None, (_difference(program, other) for other in others)), "")
        if difference:
            sizes = sorted({s for name in graph.inputs for s in graph.specs[name].shape if isinstance(s, str)})
            raise UnsupportedError(
                f"{graph.name}: {difference} depends on a size that the file leaves open "
                f"({', '.join(map(repr, sizes))}) other than as time or batch. Fix the size: bind={{{sizes[-1]!r}: 16}}"
            )
    multiply_embeddings(program)
    fuse(program)
    store_weights(program, graph.storage)
    return program


def _remainders(program: Program) -> list[int]:
    """Further seeds, for lengths with other remainders, on which the result of a cut to another value's length depends.

    A length that is one stride longer has one more row. If time comes in multiples there are no other remainders.
    """
    strides = {clock.stride for clock in program.clocks.values()} - {1}
    return [1 + n for n in sorted({1, *strides})] if strides and not program.sizes else []


def _frames(graph: Graph, states: Mapping[str, str] | None, time: Time | None, seed: int, doubles: bool) -> Program:
    """The program with time and batch removed from the shapes; if that fails with time kept inside, then with batch too."""
    reasons = []
    for roles in (("time", "batch"), ("time",), ("batch",), ()):
        if time is not None and "time" not in roles:
            break
        trial = graph if "batch" in roles else _with_one_batch(graph, time, seed)
        try:
            program, timed = _try(trial, states, roles, time, seed, doubles)
        except UnsupportedError as error:
            reasons.append(str(error))
            continue
        if reasons and timed and "time" not in roles and not program.refuses_stream and program.kind != "step":
            program.refusal = reasons[0].removeprefix(graph.name + ": ")
        return program
    raise UnsupportedError(f"{graph.name}: {reasons[0].removeprefix(graph.name + ': ')}")


def _simplified(
    graph: Graph, seed: int, doubles: bool = True, guess: bool = True
) -> tuple[Graph, dict[str, tuple[Size, ...]], Sizes]:
    """(graph with known shapes, shapes of its inputs in the file, what became of open sizes)."""
    shapes = {name: graph.specs[name].shape for name in graph.inputs}
    folded, sizes = fold(graph, seed)
    known = {name: n for name, (n, _) in sizes.fixed.items()} | sizes.stated
    joined = {name: tuple(known.get(s, s) if isinstance(s, str) else s for s in shape) for name, shape in shapes.items()}
    remove_dead(folded)
    if not doubles:
        narrow(folded)
    _rewrite(folded)
    if guess:
        folded = _guessed(folded)
    remove_dead(folded)
    return folded, joined, sizes


def _guessed(graph: Graph) -> Graph:
    """The graph after all speculative rewrites; one with an invalid result is taken back."""
    for guess in SPECULATIVE_REWRITES:
        trial = graph.copy()
        try:
            guess(trial)
        except UNSOUND:
            continue
        graph = trial
    return graph


def _rewrite(graph: Graph) -> None:
    """Apply all rewrites, to nested graphs first."""
    for node in graph.nodes:
        arguments = op_of(node).arguments(node)
        for _, inner in node.nested():
            inputs = [*inner.inputs, *free_names(inner)]
            seen = Graph(graph.name, inputs, inner.outputs, graph.specs, graph.constants, inner.nodes)
            _rewrite(seen)
            inner.nodes = seen.nodes
            refresh_captures(node, arguments)
    for rewriting in REWRITES:
        check_time()
        rewriting(graph)


def open_batches(graph: Graph, time: Time | None = None, seed: int = 0) -> set[str]:
    """The names of open sizes that are batch axes of a bound graph and occur in all its inputs of rank 2 and more.

    A size that only some inputs have is not a batch. Raises `UnsupportedError` where shapes do not fit.
    """
    folded, shapes, _ = _simplified(graph, seed)
    axes = find_axes(folded)
    try:
        roles = assign_roles(folded, axes, seeds(folded, shapes, time))
    except Refused:
        return set()
    found = {
        s for name, shape in shapes.items() for a, s in enumerate(shape) if isinstance(s, str) and roles.get((name, a)) == "batch"
    }
    return {size for size in found if all(size in shape for shape in shapes.values() if len(shape) > 1)}


def _with_one_batch(graph: Graph, time: Time | None, seed: int) -> Graph:
    """The graph with every open size that is a batch axis fixed to 1."""
    fixed = graph.copy()
    bind(fixed, dict.fromkeys(open_batches(graph, time, seed), 1), None)
    return fixed


def _try(
    graph: Graph,
    states: Mapping[str, str] | None,
    kept: Sequence[str],
    time: Time | None,
    seed: int,
    doubles: bool,
    guess: bool = True,
) -> tuple[Program, bool]:
    """(program with the roles in `kept` only, whether an axis could be time)."""
    folded, shapes, sizes = _simplified(graph, seed, doubles, guess)
    axes = find_axes(folded)
    known = seeds(folded, shapes, time)
    wanted = [(axis, role) for axis, role in known if role in kept]
    try:
        roles = assign_roles(folded, axes, wanted)
    except Refused as error:
        raise UnsupportedError(f"{graph.name}: {error}") from None
    if guess and any(op_of(node).misplaced(node, folded.specs, roles) for node in folded.nodes):
        return _try(graph, states, kept, time, seed, doubles, guess=False)
    for name, shape in shapes.items():
        for axis, size in enumerate(shape):
            if "+" in roles.get((name, axis), ""):
                raise UnsupportedError(
                    f"{graph.name}: axis {axis} of input {name!r} holds batch and time in one; give them an axis each"
                )
            if isinstance(size, str) and (name, axis) not in roles:
                raise UnsupportedError(
                    f"{graph.name}: size {size!r} (axis {axis} of {name!r}) is open and neither time nor batch; "
                    f"fix it: bind={{{size!r}: 16}}"
                )
    stepwise = not any("time" in role for role in roles.values())
    timed = {name for (name, _), role in roles.items() if "time" in role}
    pairs = find_states(folded, states, stepwise, timed)
    over_time = next(
        (n for pair in pairs.items() for n in pair for a in range(len(folded.specs[n].shape)) if "time" in roles.get((n, a), "")),
        "",
    )
    if over_time:
        raise UnsupportedError(f"{graph.name}: state {over_time!r} has an axis that is time")
    program = to_frames(folded, shapes, pairs, roles)
    if states != {}:
        program.doubts = left_out(folded, pairs, timed)
    program.sizes = tuple(SizeRule(name, n, True, f"{where} fits no other") for name, (n, where) in sizes.fixed.items()) + tuple(
        SizeRule(name, n, False, "frames are taken together") for name, n in sizes.multiples.items()
    )
    program.inputs = [_named(port, graph, sizes.stated) for port in program.inputs]
    return program, any(role == "time" for _, role in known)


def _named(port: Port, graph: Graph, stated: Mapping[str, int]) -> Port:
    """The port with the names of open sizes in its file shape, for time and batch axes."""
    if port.name not in graph.specs:
        return port
    given = zip(graph.specs[port.name].shape, port.file_shape, port.roles, strict=True)
    return replace(port, file_shape=tuple(name if role and name not in stated else size for name, size, role in given))


def _difference(a: Program, b: Program) -> str:
    """The first node or constant in which two programs of one file differ, as text; empty if there is none."""
    for name, array in a.graph.constants.items():
        other = b.graph.constants.get(name)
        if other is None or not np.array_equal(array, other, equal_nan=array.dtype.kind == "f"):
            return f"constant {name!r}"
    for x, y in zip_longest(a.graph.every_node(), b.graph.every_node()):
        if x is None or y is None or (x.op, x.shapes) != (y.op, y.shapes) or not _same(x.attributes, y.attributes):
            return f"node {(x or y).name!r} ({(x or y).op})"
    if a.sizes != b.sizes:
        return "what its open sizes can be"
    if a.clocks != b.clocks:
        return "the number of rows of a value"
    return next((f"value {n!r}" for n, s in a.graph.specs.items() if n in b.graph.specs and b.graph.specs[n] != s), "")


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(v, b[k], equal_nan=v.dtype.kind == "f") if isinstance(v, np.ndarray) else v == b[k]
        for k, v in a.items()
        if k != "steps" and not isinstance(v, Graph)
    )
