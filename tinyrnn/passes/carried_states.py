"""The states of a sequence model: which of them the recurrences carry from one part of a sequence to the next.

A file says what a call over T frames does with a state. Two calls, over the first frames and over the rest, with the state
carried between them, give the same result if each element of the state is the initial value of one recurrence, unchanged,
and the final value of that recurrence is the element's next value. A recurrence that starts from anything else has a state
of its own and reads the file's state before the first frame only. A node that reads the file's state in every frame, or
changes it once in every call, forbids streaming.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from tinyrnn.graph.arrays import is_narrow
from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import Array, op_of


@dataclass
class CarriedStates:
    """How a frame graph uses its states."""

    pairs: set[tuple[str, str]] = field(default_factory=set)
    """(initial, final value) of recurrences that take elements of a state and leave their next values there"""
    refusal: str = ""
    """why the result would depend on where the sequence is cut: the first such node; "" if it does not"""
    rounded: bool = False
    """whether a state has less precision than its recurrence, so that a stream rounds it at each frame"""


def carried_states(graph: Graph, states: Mapping[str, str], per_row: Collection[str], length: str) -> CarriedStates:
    """Which recurrences carry the states.

    graph:  a frame graph with its constants
    length: the file's name for the number of frames, "" where it is fixed
    """
    found = CarriedStates()
    elements, recurrences = _follow(graph, states)
    whole: set[str] = set()
    place = 1
    for start, end in states.items():
        size = graph.specs[start].elements
        own, now = np.arange(place, place + size), elements.get(end, np.zeros(0)).ravel()
        place += size
        if now.size == size and np.array_equal(now % SHIFT, own):
            whole.add(end)
            found.pairs |= {recurrences[n] for n in np.unique(now // SHIFT).astype(int) if n}
            found.rounded |= is_narrow(graph.specs[start].dtype) and bool((now >= SHIFT).any())
    found.refusal = _refusal(graph, states, per_row, whole, length)
    return found


SHIFT = 1 << 32
"""an element is marked by its number among those of all states, from 1 up, plus SHIFT times the number of its recurrence"""


def _follow(graph: Graph, states: Mapping[str, str]) -> tuple[dict[str, Array], dict[int, tuple[str, str]]]:
    """The values with elements of states, each element marked (0: of no state), and the recurrences by number, from 1 up."""
    elements: dict[str, Array] = {}
    recurrences: dict[int, tuple[str, str]] = {}
    place = 1.0
    for start in states:
        spec = graph.specs[start]
        elements[start] = np.arange(place, place + spec.elements).reshape(spec.sizes)
        place += spec.elements
    for node in graph.nodes:
        if not any(name in elements for name in node.inputs):
            continue
        op = op_of(node)
        for start, end in op.carried(node):
            known = elements.get(start)
            if known is not None and graph.specs[end].elements == known.size and (known > 0).all() and (known < SHIFT).all():
                recurrences[len(recurrences) + 1] = start, end
                elements[end] = (known + SHIFT * len(recurrences)).reshape(graph.specs[end].sizes)
        if op.moves:
            elements.update(_moved(graph, node, elements))
    return elements, recurrences


def _moved(graph: Graph, node: Node, elements: Mapping[str, Array]) -> dict[str, Array]:
    """The marks of the outputs of an operator that only moves elements."""
    op, source = op_of(node), node.inputs[0]
    specs = graph.specs
    if op.alias(node) is not None or (source in elements and specs[source].dtype != specs[node.outputs[0]].dtype):
        return {node.outputs[0]: elements[source].reshape(specs[node.outputs[0]].sizes)} if source in elements else {}
    arrays: list[Array | None] = []
    for name, shape in zip(node.inputs, node.shapes, strict=True):
        known = graph.constants.get(name)
        if name in elements:
            arrays.append(elements[name].reshape(shape))
        elif not name or (known is not None and known.dtype.kind == "i"):
            arrays.append(None if not name else known)
        else:
            arrays.append(np.zeros(shape))
    made = op.reference(node, arrays)
    return {name: np.asarray(a).reshape(specs[name].sizes) for name, a in zip(node.outputs, made, strict=False) if name}


def _refusal(graph: Graph, states: Mapping[str, str], per_row: Collection[str], whole: Collection[str], length: str) -> str:
    """The first node whose use of a state gives another result when the sequence is cut, as a message; "" if there is none."""
    of_state = {start: start for start in states}
    """value with one row per call that follows from a state → the state"""
    given = {name for name in graph.inputs if name not in states and name not in per_row}
    """values with one row per call that follow from inputs other than states and frames"""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    advice = f". Where every call is one frame, fix the length: bind={{{length!r}: 1}}" if length else ""
    for node in graph.nodes:
        read = [name for name in node.inputs if name in of_state]
        if not any(name in per_row for name in (*node.inputs, *node.outputs)):
            of_state.update((name, of_state[read[0]]) for name in node.outputs if name and read)
            given.update(name for name in node.outputs if name and any(i in given for i in node.inputs))
            continue
        for name in read:
            if name not in op_of(node).starts_from(node):
                return (
                    f"node {node.name!r} ({node.op}): it uses {name!r} in every frame, which comes of the state "
                    f"{of_state[name]!r} before the first{advice}"
                )
            if name in given:
                return _each_call(_maker(makers, name), of_state[name], advice)
    for start, end in states.items():
        if end not in whole and (end in of_state or end in given):
            return _each_call(_maker(makers, end), start, advice)
    early = next((name for name in graph.outputs if name in of_state and name not in states.values()), "")
    return f"output {early!r}: it comes of the state {of_state[early]!r} before the first frame{advice}" if early else ""


def _each_call(node: Node, state: str, advice: str) -> str:
    return f"node {node.name!r} ({node.op}): it changes the state {state!r} once in every call, of any number of frames{advice}"


def _maker(makers: Mapping[str, Node], name: str) -> Node:
    """The node that computes a value, before operators that only move its elements."""
    node = makers[name]
    while op_of(node).moves and len(list(filter(None, node.inputs))) == 1 and node.inputs[0] in makers:
        node = makers[node.inputs[0]]
    return node
