"""Rerolling of recurrent cells: an unrolled chain of cells becomes one recurrent node over the whole sequence.

PyTorch's default exporter writes nn.RNN, and every hand-written loop over cells, as T copies of one step; Keras does
with `unroll=True`. Once the cells are found (matching.py), a chain of them by the same weights, whose inputs are
the successive steps of one value, is the operator itself. What is done to each step on its own, before and after, is
then done once to all of them, so that nothing of the file's T is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.limits import UNSOUND
from tinyrnn.graph.op import Array, op_of, rewrite
from tinyrnn.ops.movement.views import View
from tinyrnn.ops.recurrent.operators import Recurrent
from tinyrnn.ops.recurrent.unrolled_stack import Steps, alike, in_order, join

SHORTEST = 2
"""fewest steps of a chain that is rerolled"""


@dataclass
class _Chain:
    """Single steps of one recurrent operator, each starting from the final state of the one before."""

    nodes: list[Node]

    @property
    def first(self) -> Node:
        return self.nodes[0]


def _starts(node: Node) -> list[str]:
    return [*node.inputs[5:7]]


def _is_step(graph: Graph, node: Node) -> bool:
    op = op_of(node)
    if not isinstance(op, Recurrent) or graph.specs[node.inputs[0]].sizes[:1] != (1,):
        return False
    plain = not op.attribute(node, "layout") and op.attribute(node, "direction") == "forward"
    return plain and not any(node.inputs[1:5]) and len(_starts(node)) == len(op.parts) and all(_starts(node))


def _chains(steps: Steps) -> Iterator[_Chain]:
    nodes = [node for node in steps.graph.nodes if _is_step(steps.graph, node)]
    ends = {node.outputs[1]: node for node in nodes if len(node.outputs) > 1 and node.outputs[1]}
    ends |= {node.outputs[0]: node for node in nodes if node.outputs[0]}
    after: dict[str, Node] = {}
    before: dict[str, Node] = {}
    for node in nodes:
        previous = ends.get(steps.viewed(_starts(node)[0]))
        if previous is not None and previous is not node and alike(previous, node) and _continues(steps, previous, node):
            after[previous.name], before[node.name] = node, previous
    for node in nodes:
        if node.name not in before and node.name in after:
            chain = [node]
            while chain[-1].name in after:
                chain.append(after[chain[-1].name])
            yield _Chain(chain)


def _continues(steps: Steps, previous: Node, node: Node) -> bool:
    """Whether `node` continues `previous` in every part of the state."""
    starts = _starts(node)
    return all(
        len(previous.outputs) > part + 1 and steps.viewed(starts[part]) == previous.outputs[part + 1]
        for part in range(1, len(starts))
    )


def _ancestors(steps: Steps, name: str) -> Iterator[str]:
    """The values from which `name` is computed, itself first, the nearest first."""
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop(0)
        yield value
        node = steps.producers.get(value)
        for i in node.inputs if node is not None else ():
            if i and i not in seen and i not in steps.graph.constants:
                seen.add(i)
                waiting.append(i)


def _value(steps: Steps, name: str, known: dict[str, Array]) -> Array:
    """Compute a value from known ones. Raises `LookupError` where it depends on others."""
    if name in known:
        return known[name]
    if name in steps.graph.constants:
        return steps.graph.constants[name]
    node = steps.producers[name]
    arrays = [_value(steps, i, known) if i else None for i in node.inputs]
    for output, array in zip(node.outputs, op_of(node).reference(node, arrays), strict=False):
        known[output] = array
    return known[name]


def _starts_from_zero(steps: Steps, chain: _Chain, x: str) -> bool:
    """Whether the chain's initial state is the result of its step for `x` and a zero state, tested with random numbers.

    Exporters fold constants, so that a step from zeros lacks the product by the state.
    """
    node = chain.first
    size, drawn = steps.spec(node.inputs[0]).sizes, np.random.default_rng(1).standard_normal(steps.spec(x).sizes)
    zeros = [np.zeros(steps.spec(name).sizes) for name in _starts(node)]
    try:
        expected = op_of(node).reference(node, [drawn.reshape(size), None, None, None, None, *zeros])[1:]
        found = [_value(steps, name, {x: drawn}) for name in _starts(node)]
    except UNSOUND:
        return False
    return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, expected, strict=True))


def _add_first_step(steps: Steps, chain: _Chain) -> tuple[str, bool] | None:
    """Prepend the first step, which starts from zeros and therefore looks different, to the chain.

    Returns (value that holds the inputs of all steps, whether they are in reverse order).
    """
    node, graph = chain.first, steps.graph
    results = [steps.viewed(name) for name in _starts(node)]
    makers = [steps.producers.get(name) for name in results]
    inputs = [steps.producers[step.inputs[0]].inputs[0] for step in chain.nodes if step.inputs[0] in steps.producers]
    if len(inputs) != len(chain.nodes) or any(maker is None or len(maker.outputs) != 1 for maker in makers):
        return None
    for x in _ancestors(steps, results[0]):
        if steps.spec(x) != steps.spec(inputs[0]) or x in results or not _starts_from_zero(steps, chain, x):
            continue
        for backwards in (True, False):
            names = [x, *inputs]
            whole = steps.stack(names[::-1] if backwards else names)
            if whole is not None:
                ends = [graph.fresh(f"{name}.final") for name in results]
                for end, start in zip(ends, _starts(node), strict=True):
                    graph.specs[end] = steps.spec(start)
                graph.nodes = [n for n in graph.nodes if not any(n is maker for maker in makers)]
                for end, result in zip(ends, results, strict=True):
                    shape = list(steps.spec(result).sizes)
                    steps.put("Reshape", [end], [result], {"shape": shape, "allowzero": 1})
                chain.nodes.insert(0, Node(node.op, f"{node.name}.first", (x,), ("", *ends), node.attributes, node.version))
                return whole, backwards
    return None


def _hoisted(steps: Steps, x: str, attributes: dict[str, Any]) -> str:
    """The sequence x, or the value from which x was computed by one product over the whole sequence."""
    W, shape = attributes["W"], steps.spec(x).sizes
    source, moved = x, None
    while (node := steps.producers.get(source)) is not None and (isinstance(op_of(node), View) or node.op == "Transpose"):
        moved = node if node.op == "Transpose" else moved
        if steps.spec(node.inputs[0]).sizes[-1:] != shape[-1:]:
            return x
        source = node.inputs[0]
    perm = moved.attributes["perm"] if moved is not None else [0]
    only_picks = W.shape[1] == W.shape[2] and np.all((W == 0) | (W == 1)) and np.all(W.sum(1) == 1) and np.all(W.sum(2) == 1)
    if node is None or node.op != "Linear" or not only_picks or (len(perm) > 1 and perm[-1] != len(perm) - 1):
        return x
    product, bias = node.attributes["W"], node.attributes["B"]
    before = node.inputs[0]
    if moved is not None:
        before = steps.view(before, (*steps.spec(moved.inputs[0]).sizes[:-1], len(product)), f"{before}.sequence")
        before = steps.add("Transpose", [before], {"perm": perm}, f"{before}.steps").outputs[0]
    attributes["W"] = np.ascontiguousarray(W @ product.T)
    if bias is not None:
        B = np.zeros((1, 2 * W.shape[1]), np.float32) if attributes.get("B") is None else attributes["B"].copy()
        B[0, : W.shape[1]] += W[0] @ bias
        attributes["B"] = B
    return steps.view(before, (*shape[:-1], len(product)), f"{before}.sequence")


def _states_go_elsewhere(steps: Steps, chain: _Chain) -> bool:
    """Whether a part of the state other than Y is used outside the chain before its end."""
    consumers = steps.graph.consumers()
    for node in chain.nodes[:-1]:
        waiting = [name for name in node.outputs[2:] if name]
        while waiting:
            name = waiting.pop()
            if name in steps.graph.outputs:
                return True
            for user in consumers.get(name, []):
                if user.outputs[0] and steps.viewed(user.outputs[0]) == steps.viewed(name):
                    waiting.append(user.outputs[0])
                elif not any(user is step for step in chain.nodes):
                    return True
    return False


def _reroll(steps: Steps, chain: _Chain) -> bool:
    """Replace a chain by one node, if its inputs are all steps of one value; returns whether it was replaced."""
    graph, last = steps.graph, chain.nodes[-1]
    xs = [node.inputs[0] for node in chain.nodes]
    shape, starts = steps.spec(xs[0]).sizes, _starts(chain.first)
    if _states_go_elsewhere(steps, chain):
        return False
    found, backwards = steps.stack(xs[::-1]), True
    if found is None:
        found, backwards = steps.stack(xs), False
    if found is None:
        extended = _add_first_step(steps, chain)
        if extended is None:
            return False
        (found, backwards), starts = extended, []
    if len(chain.nodes) < SHORTEST:
        return False
    count = len(chain.nodes)
    attributes = {**last.attributes, "direction": "reverse" if backwards else "forward"}
    x = _hoisted(steps, steps.view(found, (count, *shape[1:]), f"{found}.sequence"), attributes)
    y = graph.fresh(f"{last.name}.sequence")
    H = attributes["R"].shape[-1]
    graph.specs[y] = Spec(steps.spec(x).dtype, (count, 1, shape[1], H))
    inputs = (x, "", "", "", "", *starts) if starts else (x,)
    graph.nodes = [node for node in graph.nodes if not any(node is step for step in chain.nodes)]
    ends = tuple(end or graph.fresh(f"{last.name}.end") for end in last.outputs[1:])
    rolled = Node(last.op, last.name, inputs, (y, *ends), attributes, last.version)
    graph.nodes.append(rolled)
    for end in ends:
        graph.specs.setdefault(end, Spec(steps.spec(x).dtype, (1, shape[1], H)))
    steps.producers |= dict.fromkeys(rolled.outputs, rolled)
    ordered = chain.nodes[::-1] if backwards else chain.nodes
    for output, stacked in ((0, (count, 1, 1, shape[1], H)), (1, (count, 1, shape[1], H))):
        names = tuple(node.outputs[output] if len(node.outputs) > output else "" for node in ordered)
        for t, name in enumerate(names):
            if name and (output == 0 or ordered[t] is not last):
                one = steps.add("Slice", [y], {"starts": [t], "ends": [t + 1], "axes": [0], "steps": [1]}, f"{name}.step")
                steps.put("Reshape", one.outputs, [name], {"shape": list(steps.spec(name).sizes), "allowzero": 1})
        if all(names):
            steps.made[names] = steps.view(y, stacked, f"{names[0]}.steps")
    steps.made = {key: value for key, value in steps.made.items() if value is not None}
    return True


@rewrite
def reroll_cells(graph: Graph) -> None:
    """Rewrite chains of single steps as one recurrent node over time."""
    if sum(_is_step(graph, node) for node in graph.nodes) < SHORTEST:
        return
    in_order(graph)
    steps = Steps(graph)
    rolled = [chain for chain in list(_chains(steps)) if _reroll(steps, chain)]
    if rolled:
        join(steps)
        in_order(graph)
