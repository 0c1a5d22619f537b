"""Suggestions for a graph that cannot run with open sizes: values with which it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from time import perf_counter

from tinyrnn.errors import TinyRNNError
from tinyrnn.graph.ir import Graph
from tinyrnn.graph.limits import OverLimit
from tinyrnn.passes import Time, bound, prepare
from tinyrnn.passes.fold import fold

LENGTHS = (1, 16, 32, 64, 80, 128, 160, 256, 320, 400, 480, 512, 576, 640, 768, 800, 960, 1024, 1536, 1600, 2048, 4096)
"""lengths that are tried: common lengths of frames, windows and blocks"""
PATIENCE = 6.0
"""most seconds for the search"""


def open_sizes(graph: Graph) -> dict[str, list[tuple[str, int]]]:
    """Open sizes of inputs: name → (input, axis)."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name in graph.inputs:
        for axis, size in enumerate(graph.specs[name].shape):
            if isinstance(size, str):
                found.setdefault(size, []).append((name, axis))
    return found


def switches(graph: Graph) -> dict[str, list[int]]:
    """Inputs of one whole number that the graph compares with constants: name → those constants, the likely ones first."""
    found: dict[str, list[int]] = {}
    for name in graph.inputs:
        if graph.specs[name].dtype.kind not in "iu" or any(n != 1 for n in graph.specs[name].shape):
            continue
        follows, numbers = {name}, list[int]()
        for node in graph.every_node():
            others = [graph.constants[i] for i in node.inputs if i in graph.constants]
            if follows & set(node.inputs) and all(i in follows or i in graph.constants for i in node.inputs if i):
                follows.update(node.outputs)
                numbers += [int(a.ravel()[0]) for a in others if a.size == 1 and a.dtype.kind in "iu"]
        if numbers:
            found[name] = sorted(dict.fromkeys(numbers), key=lambda n: -1 <= n <= 1)
    return found


def example(graph: Graph, states: Mapping[str, str] | None, time: Time | None) -> dict[str, int] | None:
    """Values of open sizes, and of switches if needed, with which a graph runs; None if none are found."""
    begun = perf_counter()
    for values in _trials(graph):
        if perf_counter() - begun > PATIENCE:
            return None
        try:
            trial = bound(graph, values, None)
            fold(trial, 0)
            prepare(trial, states, time)
        except OverLimit:
            raise
        except TinyRNNError:
            continue
        return values
    return None


def _trials(graph: Graph) -> Iterator[dict[str, int]]:
    sizes, chosen = open_sizes(graph), switches(graph)
    first = {name for name, places in sizes.items() if any(axis == 0 for _, axis in places)}
    inner = [name for name in sizes if name not in first]
    ways: list[tuple[list[str], dict[str, int]]] = [(inner, {}), (inner, dict.fromkeys(first, 1)), (list(sizes), {})]
    for switched in ([], list(chosen)) if chosen else ([],):
        for lengths, one in ways:
            for picked in itertools.product(*(chosen[name] for name in switched)):
                for length in LENGTHS if lengths else (1,):
                    yield {**one, **dict.fromkeys(lengths, length), **dict(zip(switched, picked, strict=True))}


def advice(graph: Graph, values: Mapping[str, int]) -> str:
    """A sentence: the open sizes, and the options that fix them."""
    parts = [
        f"size {name!r} (axis {places[0][1]} of {places[0][0]!r})" for name, places in open_sizes(graph).items() if name in values
    ] + [f"the value of {name!r}" for name in graph.inputs if name in values]
    typed = " ".join(f"--bind {name}={value}" for name, value in values.items())
    return f"The file leaves open {' and '.join(parts)}. It runs, for example, with {typed} (bind={dict(values)!r})"
