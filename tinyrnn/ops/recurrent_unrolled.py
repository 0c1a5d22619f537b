"""Loops that an exporter wrote out step by step, rolled back into one recurrent node over the whole sequence.

PyTorch's default exporter writes nn.RNN, and every hand-written loop over cells, as T copies of one step; Keras does
with `unroll=True`. Once the cells are found (recurrent_match.py), a chain of them by the same weights, whose inputs are
the successive steps of one value, is the operator itself. What is done to each step on its own, before and after, is
then done once to all of them, so that nothing of the file's T is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.ir import Graph, Node, Spec
from tinyrnn.op import Array, Refused, op_of, rewrite
from tinyrnn.ops.recurrent import Recurrent
from tinyrnn.ops.views import View

SHORTEST = 2
"""steps of a chain that is rolled"""

UNFIT = (Refused, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""what an operator may raise over shapes that do not fit it"""


def same(a: Any, b: Any) -> bool:
    """Whether two attributes hold the same."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def alike(a: Node, b: Node) -> bool:
    """Whether two nodes do the same to their inputs."""
    return (
        (a.op, a.domain, len(a.inputs)) == (b.op, b.domain, len(b.inputs))
        and a.attributes.keys() == b.attributes.keys()
        and all(same(value, b.attributes[key]) for key, value in a.attributes.items())
    )


class _Steps:
    """Values of a graph that belong to successive steps, and the one value that holds them all."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers = graph, graph.producers()
        self.made: dict[tuple[str, ...], str | None] = {}
        """values of successive steps → the value [T, *shape] that holds them"""

    def add(self, op: str, source: Sequence[str], attributes: dict[str, Any], stem: str) -> Node:
        """A new node with one output, whose spec it infers."""
        name = self.graph.fresh(stem)
        node = Node(op, name, tuple(source), (name,), attributes)
        specs = [self.spec(i) if i else None for i in source]
        self.graph.specs[name] = op_of(node).infer(node, specs)[0]
        self.graph.nodes.append(node)
        self.producers[name] = node
        return node

    def put(self, op: str, source: Sequence[str], results: Sequence[str], attributes: dict[str, Any]) -> None:
        """A new node that makes values which are known already."""
        node = Node(op, f"{results[0]}.made", tuple(source), tuple(results), attributes)
        self.graph.nodes.append(node)
        self.producers |= dict.fromkeys(results, node)

    def view(self, source: str, shape: Sequence[int], stem: str) -> str:
        if self.spec(source).sizes == tuple(shape):
            return source
        return self.add("Reshape", [source], {"shape": list(shape), "allowzero": 1}, stem).outputs[0]

    def spec(self, name: str) -> Spec:
        return self.graph.specs[name]

    def data(self, node: Node) -> str | None:
        """The one input that a node moves elements of, if there is just one and it comes first."""
        inputs = [i for i in node.inputs if i and i not in self.graph.constants]
        return inputs[0] if op_of(node).moves and len(inputs) == 1 and inputs[0] == node.inputs[0] else None

    def origins(self, name: str) -> Iterator[str]:
        """The values that `name` is moved from, the nearest first."""
        node: Node | None = self.producers.get(name)
        while node is not None and (source := self.data(node)) is not None:
            yield source
            node = self.producers.get(source)

    def viewed(self, name: str) -> str:
        """What `name` holds all elements of, in the same order."""
        node = self.producers.get(name)
        while node is not None and (source := self.data(node)) is not None and self._only_views(node, name, source):
            name = source
            node = self.producers.get(name)
        return name

    def _only_views(self, node: Node, name: str, source: str) -> bool:
        if isinstance(op_of(node), View):
            return True
        if self.spec(name).elements != self.spec(source).elements or self.spec(name).dtype != self.spec(source).dtype:
            return False
        taken = self.taken(name, source).ravel()
        return np.array_equal(taken, np.arange(taken.size))

    def taken(self, name: str, source: str) -> Array:
        """Which elements of `source`, counted row-major, `name` consists of."""
        if name == source:
            return np.arange(self.spec(source).elements).reshape(self.spec(source).sizes)
        node = self.producers[name]
        arrays = [self.graph.constants.get(i) if i else None for i in node.inputs]
        arrays[0] = self.taken(node.inputs[0], source)
        return op_of(node).reference(node, arrays)[node.outputs.index(name)]

    def stack(self, names: Sequence[str]) -> str | None:
        """The value that holds, along a new first axis, the values of all steps; None where they are not such."""
        key = tuple(names)
        if key not in self.made:
            self.made[key] = None
            if len(set(key)) == len(key) and len({self.graph.specs.get(name) for name in key}) == 1:
                self.made[key] = self._slices(key) or self._one_node(key)
        return self.made[key]

    def _slices(self, names: tuple[str, ...]) -> str | None:
        """Successive steps of an axis of one value, all of them."""
        shape, count = self.spec(names[0]).sizes, len(names)
        known = [set(self.origins(name)) for name in (names[1], names[-1])]
        for source in self.origins(names[0]):
            sizes = self.spec(source).sizes
            if any(source not in found for found in known) or count not in sizes or prod(sizes) != count * prod(shape):
                continue
            try:
                taken = [self.taken(name, source).ravel() for name in names]
            except (*UNFIT, KeyError):
                return None
            every = np.arange(prod(sizes)).reshape(sizes)
            for axis in (a for a, n in enumerate(sizes) if n == count):
                if all(np.array_equal(step, np.take(every, t, axis).ravel()) for t, step in enumerate(taken)):
                    perm = [axis, *(a for a in range(len(sizes)) if a != axis)]
                    first = self.add("Transpose", [source], {"perm": perm}, f"{source}.steps").outputs[0] if axis else source
                    return self.view(first, (count, *shape), f"{names[0]}.steps")
        return None

    def _one_node(self, names: tuple[str, ...]) -> str | None:
        """The same operator in every step: once, over all of them."""
        nodes = [self.producers.get(name) for name in names]
        first = nodes[0]
        if first is None or isinstance(op_of(first), Recurrent):
            return None
        place = first.outputs.index(names[0])
        for name, node in zip(names, nodes, strict=True):
            if node is None or not alike(first, node) or node.outputs.index(name) != place:
                return None
        inputs, stacked = [], []
        for column in zip(*(node.inputs for node in nodes if node), strict=True):
            shared = len(set(column)) == 1 or all(
                name in self.graph.constants and same(self.graph.constants[column[0]], self.graph.constants[name])
                for name in column
            )
            found = column[0] if shared else self.stack(column)
            if found is None:
                return None
            inputs.append(found)
            stacked.append(not shared)
        shape = (len(names), *self.spec(names[0]).sizes)
        if isinstance(op_of(first), View):
            return self.view(inputs[0], shape, f"{names[0]}.steps")
        for attributes in _with_one_more_axis(first, self.spec(first.inputs[0]).shape):
            trial = Node(first.op, first.name, tuple(inputs), first.outputs, attributes, first.version, first.domain)
            if self._does_the_same(first, trial, stacked):
                outputs = tuple(self.graph.fresh(f"{name}.steps") if name else "" for name in first.outputs)
                specs = op_of(trial).infer(trial, [self.spec(i) if i else None for i in inputs])
                trial.outputs, trial.name = outputs, outputs[place]
                self.graph.nodes.append(trial)
                for name, spec in zip(outputs, specs, strict=False):
                    if name:
                        self.graph.specs[name], self.producers[name] = spec, trial
                return outputs[place] if self.spec(outputs[place]).sizes == shape else None
        return None

    def _does_the_same(self, step: Node, trial: Node, stacked: Sequence[bool]) -> bool:
        """Whether `trial` does to all steps at once what `step` does to each, tried on random numbers."""
        rng = np.random.default_rng(0)
        arrays: list[Array | None] = []
        for name in trial.inputs:
            if not name or name in self.graph.constants:
                arrays.append(self.graph.constants.get(name))
            else:
                spec = self.spec(name)
                drawn = rng.integers(0, 2, spec.sizes) if spec.dtype.kind in "biu" else rng.standard_normal(spec.sizes)
                arrays.append(drawn.astype(spec.dtype))
        try:
            found = op_of(trial).reference(trial, arrays)
            for t in (0, -1):
                own = [a[t] if many and a is not None else a for a, many in zip(arrays, stacked, strict=True)]
                for whole, one in zip(found, op_of(step).reference(step, own), strict=True):
                    if whole.shape[1:] != one.shape or not np.allclose(whole[t], one, rtol=1e-5, atol=1e-6):
                        return False
        except UNFIT:
            return False
        return True


def _with_one_more_axis(node: Node, shape: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Attributes of the node that may fit inputs with one more axis in front: as they are, or axes moved on by one."""
    yield dict(node.attributes)
    moved = dict(node.attributes)
    for key in ("axis", "axes"):
        value = moved.get(key)
        if value is not None:
            axes = [int(a) % len(shape) + 1 for a in np.ravel(value)]
            moved[key] = axes[0] if np.ndim(value) == 0 else axes
    if "perm" in moved:
        perm = moved["perm"] or list(range(len(shape)))[::-1]
        moved["perm"] = [0, *(p + 1 for p in perm)]
    yield moved


@dataclass
class _Chain:
    """Single steps of one recurrent operator, each starting where the one before ended."""

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


def _chains(steps: _Steps) -> Iterator[_Chain]:
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


def _continues(steps: _Steps, previous: Node, node: Node) -> bool:
    """Whether every other part of the state goes on too."""
    starts = _starts(node)
    return all(
        len(previous.outputs) > part + 1 and steps.viewed(starts[part]) == previous.outputs[part + 1]
        for part in range(1, len(starts))
    )


def _ancestors(steps: _Steps, name: str) -> Iterator[str]:
    """The values that `name` is computed from, itself first, nearest first."""
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop(0)
        yield value
        node = steps.producers.get(value)
        for i in node.inputs if node is not None else ():
            if i and i not in seen and i not in steps.graph.constants:
                seen.add(i)
                waiting.append(i)


def _value(steps: _Steps, name: str, known: dict[str, Array]) -> Array:
    """A value computed from those that are known. Raises `LookupError` where it needs others."""
    if name in known:
        return known[name]
    if name in steps.graph.constants:
        return steps.graph.constants[name]
    node = steps.producers[name]
    arrays = [_value(steps, i, known) if i else None for i in node.inputs]
    for output, array in zip(node.outputs, op_of(node).reference(node, arrays), strict=False):
        known[output] = array
    return known[name]


def _starts_from_zero(steps: _Steps, chain: _Chain, x: str) -> bool:
    """Whether the chain's initial state is what its own step makes of `x` and a state of zeros, tried on random numbers.

    Exporters compute what is constant: of a step from zeros, the product by the state is gone.
    """
    node = chain.first
    size, drawn = steps.spec(node.inputs[0]).sizes, np.random.default_rng(1).standard_normal(steps.spec(x).sizes)
    zeros = [np.zeros(steps.spec(name).sizes) for name in _starts(node)]
    try:
        expected = op_of(node).reference(node, [drawn.reshape(size), None, None, None, None, *zeros])[1:]
        found = [_value(steps, name, {x: drawn}) for name in _starts(node)]
    except UNFIT:
        return False
    return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, expected, strict=True))


def _add_first_step(steps: _Steps, chain: _Chain) -> tuple[str, bool] | None:
    """Put the step before the chain, which starts from zeros and so looks otherwise, in front of it.

    Returns the inputs of all steps in one value, and whether they come from the last to the first.
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


def _hoisted(steps: _Steps, x: str, attributes: dict[str, Any]) -> str:
    """The sequence x; where the product by the input was taken over the whole sequence before, what came before it."""
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


def _states_go_elsewhere(steps: _Steps, chain: _Chain) -> bool:
    """Whether a part of the state that is not in Y is used outside the chain, before its end."""
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


def _roll(steps: _Steps, chain: _Chain) -> bool:
    """Put one node in the place of a chain, if its inputs are all steps of one value."""
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


def _join(steps: _Steps) -> None:
    """Where all steps of something are put together again, take the value that holds them all."""
    counts = {len(names) for names in steps.made}
    for node in [n for n in steps.graph.nodes if n.op == "Concat" and len(n.inputs) in counts]:
        whole = steps.stack(node.inputs)
        if whole is None:
            continue
        rank = len(steps.spec(node.inputs[0]).shape)
        axis = node.attributes["axis"] % rank
        perm = [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
        moved = steps.add("Transpose", [whole], {"perm": perm}, f"{node.outputs[0]}.steps").outputs if axis else [whole]
        steps.graph.nodes = [n for n in steps.graph.nodes if n is not node]
        shape = list(steps.spec(node.outputs[0]).sizes)
        steps.put("Reshape", moved, node.outputs, {"shape": shape, "allowzero": 1})


def _in_order(graph: Graph) -> None:
    """Nodes that an output needs, each after what it needs."""
    producers, done, ordered = graph.producers(), set[int](), list[Node]()
    waiting = [producers[name] for name in reversed(graph.outputs) if name in producers]
    while waiting:
        node = waiting[-1]
        missing = [p for i in node.inputs if i and (p := producers.get(i)) is not None and id(p) not in done]
        if missing and id(node) not in done:
            waiting += missing
            continue
        waiting.pop()
        if id(node) not in done:
            done.add(id(node))
            ordered.append(node)
    graph.nodes = ordered


@rewrite
def roll_unrolled(graph: Graph) -> None:
    """Chains of single steps become one recurrent node over time."""
    if sum(_is_step(graph, node) for node in graph.nodes) < SHORTEST:
        return
    _in_order(graph)
    steps = _Steps(graph)
    rolled = [chain for chain in list(_chains(steps)) if _roll(steps, chain)]
    if rolled:
        _join(steps)
        _in_order(graph)
