"""Find which outputs are the next value of which inputs: the states of a step model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from tinyrnn.errors import LoadError
from tinyrnn.ir import Graph
from tinyrnn.op import op_of

SIDES = {
    "in",
    "out",
    "input",
    "output",
    "prev",
    "previous",
    "new",
    "next",
    "n",
    "t",
    "old",
    "init",
    "initial",
    "final",
    "last",
    "cur",
    "current",
    "updated",
    "update",
    "begin",
    "end",
}
"""words of a name that say which side of the step a state is on"""


def find_states(graph: Graph, states: Mapping[str, str] | None, stepwise: bool) -> dict[str, str]:
    """State inputs → state outputs.

    Named pairs are checked; otherwise a recurrent operator that walks from an input to an output decides, then
    names, then, in a model of single steps, dtype and shape where that leaves one way. Raises `LoadError` with the
    candidates and the `states=` to write where it leaves several.
    """
    if states is not None:
        return _given(graph, states)
    found = _by_structure(graph)
    inputs = [name for name in graph.inputs if name not in found]
    outputs = [name for name in graph.outputs if name not in found.values()]
    named = _by_name(graph, inputs, outputs)
    if len(named) < len(inputs):
        found |= named
    if not found and stepwise:
        found = _by_shape(graph)
    return {name: found[name] for name in graph.inputs if name in found}


def _given(graph: Graph, states: Mapping[str, str]) -> dict[str, str]:
    for start, end in states.items():
        for name, known, side in ((start, graph.inputs, "input"), (end, graph.outputs, "output")):
            if name not in known:
                close = get_close_matches(name, known, 1)
                raise LoadError(
                    f"{graph.name}: states names the {side} {name!r}, which is not there. Its {side}s are "
                    f"{', '.join(map(repr, known)) or 'none'}{f'; did you mean {close[0]!r}?' if close else ''}"
                )
        if not _alike(graph, start, end):
            raise LoadError(
                f"{graph.name}: states pairs {start!r} {graph.specs[start]} with {end!r} {graph.specs[end]}; "
                f"a state keeps its dtype and shape"
            )
    if len(set(states.values())) != len(states):
        raise LoadError(f"{graph.name}: states gives one output to two inputs: {dict(states)}")
    return dict(states)


def _alike(graph: Graph, start: str, end: str) -> bool:
    return end in graph.specs and start in graph.specs and graph.specs[start] == graph.specs[end]


def _moved_from(graph: Graph, name: str) -> set[str]:
    """The values that `name` consists of, through operators that only move elements."""
    producers, waiting, seen = graph.producers(), [name], set[str]()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        node = producers.get(value)
        if node is not None and op_of(node).moves:
            waiting += [i for i in node.inputs if i]
    return seen


def _by_structure(graph: Graph) -> dict[str, str]:
    made_of = {name: _moved_from(graph, name) for name in graph.outputs}
    votes: dict[str, set[str]] = {}
    for node in graph.nodes:
        for start, end in op_of(node).carried(node):
            sources = _moved_from(graph, start)
            for name in graph.inputs:
                if name in sources:
                    votes.setdefault(name, set()).update(o for o in graph.outputs if end in made_of[o] and _alike(graph, name, o))
    return {name: next(iter(outputs)) for name, outputs in votes.items() if len(outputs) == 1}


def _stem(name: str) -> str:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    words = [w.lower() for w in words]
    words = [re.sub(r"^([a-z])n$", r"\1", w) for w in words]
    return " ".join([w for w in words if w not in SIDES and w not in ("0", "1")] or words[:1])


def _by_name(graph: Graph, inputs: list[str], outputs: list[str]) -> dict[str, str]:
    stems = {name: _stem(name) for name in [*inputs, *outputs]}
    pairs = {}
    for start in inputs:
        fits = [o for o in outputs if stems[o] == stems[start] and stems[start] and _alike(graph, start, o)]
        rivals = [i for i in inputs if stems[i] == stems[start] and graph.specs[i] == graph.specs[start]]
        if len(fits) == 1 and len(rivals) == 1:
            pairs[start] = fits[0]
    return pairs


def _by_shape(graph: Graph) -> dict[str, str]:
    fits = {start: [end for end in graph.outputs if _alike(graph, start, end)] for start in graph.inputs}
    fits = {start: ends for start, ends in fits.items() if ends}
    if len(graph.inputs) < 2 or len(graph.outputs) < 2 or not fits:
        return {}
    taken = [end for ends in fits.values() for end in ends]
    unique = all(len(ends) == 1 for ends in fits.values()) and len(set(taken)) == len(taken)
    if unique and len(fits) < len(graph.inputs) and len(fits) < len(graph.outputs):
        return {start: ends[0] for start, ends in fits.items()}
    example = dict(zip(fits, dict.fromkeys(taken), strict=False))
    if len(example) == len(graph.inputs):
        example.pop(next(iter(example)))
    candidates = "; ".join(
        f"{start!r} {graph.specs[start]} could continue as {' or '.join(map(repr, ends))}" for start, ends in fits.items()
    )
    raise LoadError(
        f"{graph.name}: which outputs are the next value of which inputs is ambiguous: {candidates}. "
        f"Write which, for example states={example!r}, or states={{}} if there is none"
    )
