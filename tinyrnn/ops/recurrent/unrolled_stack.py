"""Values of the successive steps of an unrolled loop, and the stacked value that contains all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.limits import UNSOUND
from tinyrnn.graph.op import Array, op_of
from tinyrnn.ops.movement.views import View
from tinyrnn.ops.recurrent.operators import Recurrent


def same(a: Any, b: Any) -> bool:
    """Whether two attributes are equal."""
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


class Steps:
    """Stacks values of a graph that belong to successive steps."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers = graph, graph.producers()
        self.made: dict[tuple[str, ...], str | None] = {}
        """names of the values of successive steps → their stacked value [T, *shape]"""

    def add(self, op: str, source: Sequence[str], attributes: dict[str, Any], stem: str) -> Node:
        """Add a node with one output, whose spec is inferred."""
        name = self.graph.fresh(stem)
        node = Node(op, name, tuple(source), (name,), attributes)
        specs = [self.spec(i) if i else None for i in source]
        self.graph.specs[name] = op_of(node).infer(node, specs)[0]
        self.graph.nodes.append(node)
        self.producers[name] = node
        return node

    def put(self, op: str, source: Sequence[str], results: Sequence[str], attributes: dict[str, Any]) -> None:
        """Add a node that computes values whose specs are known."""
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
        """The input whose elements a node moves, if it is the only run-time input and comes first; else None."""
        inputs = [i for i in node.inputs if i and i not in self.graph.constants]
        return inputs[0] if op_of(node).moves and len(inputs) == 1 and inputs[0] == node.inputs[0] else None

    def origins(self, name: str) -> Iterator[str]:
        """The values whose elements `name` consists of, the nearest first."""
        node: Node | None = self.producers.get(name)
        while node is not None and (source := self.data(node)) is not None:
            yield source
            node = self.producers.get(source)

    def viewed(self, name: str) -> str:
        """The value of which `name` is a view: all elements in the same order."""
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
        """The row-major indices of the elements of `source` that make up `name`."""
        if name == source:
            return np.arange(self.spec(source).elements).reshape(self.spec(source).sizes)
        node = self.producers[name]
        arrays = [self.graph.constants.get(i) if i else None for i in node.inputs]
        arrays[0] = self.taken(node.inputs[0], source)
        return op_of(node).reference(node, arrays)[node.outputs.index(name)]

    def stack(self, names: Sequence[str]) -> str | None:
        """The value that stacks the values of all steps along a new first axis; None if there is none."""
        key = tuple(names)
        if key not in self.made:
            self.made[key] = None
            if len(set(key)) == len(key) and len({self.graph.specs.get(name) for name in key}) == 1:
                self.made[key] = self._slices(key) or self._one_node(key)
        return self.made[key]

    def _slices(self, names: tuple[str, ...]) -> str | None:
        """As `stack`, if the values are all slices of one value along an axis, in order."""
        shape, count = self.spec(names[0]).sizes, len(names)
        known = [set(self.origins(name)) for name in (names[1], names[-1])]
        for source in self.origins(names[0]):
            sizes = self.spec(source).sizes
            if any(source not in found for found in known) or count not in sizes or prod(sizes) != count * prod(shape):
                continue
            try:
                taken = [self.taken(name, source).ravel() for name in names]
            except UNSOUND:
                return None
            every = np.arange(prod(sizes)).reshape(sizes)
            for axis in (a for a, n in enumerate(sizes) if n == count):
                if all(np.array_equal(step, np.take(every, t, axis).ravel()) for t, step in enumerate(taken)):
                    perm = [axis, *(a for a in range(len(sizes)) if a != axis)]
                    first = self.add("Transpose", [source], {"perm": perm}, f"{source}.steps").outputs[0] if axis else source
                    return self.view(first, (count, *shape), f"{names[0]}.steps")
        return None

    def _one_node(self, names: tuple[str, ...]) -> str | None:
        """As `stack`, if the same operator computes the value in every step: one node over all steps."""
        nodes = [self.producers.get(name) for name in names]
        first = nodes[0]
        if first is None or not first.inputs or isinstance(op_of(first), Recurrent):
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
        """Whether `trial` computes for all steps at once what `step` computes for each, tested with random numbers."""
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
        except UNSOUND:
            return False
        return True


def _with_one_more_axis(node: Node, shape: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Candidate attributes for inputs with one more leading axis: unchanged, or with axes shifted by one."""
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


def join(steps: Steps) -> None:
    """Replace nodes that join the values of all steps by the stacked value."""
    counts, users = {len(names) for names in steps.made}, steps.graph.consumers()
    for node in list(steps.graph.nodes):
        output = node.outputs[0]
        if node.op == "Concat":
            rank = len(steps.spec(output).shape)
            axis = node.attributes["axis"] % rank
            names = _pieces(steps, node, users)
            stacked = _stacked(steps, names) if len(names) in counts else None
            found = (stacked, axis) if stacked is not None else None
        elif node.op in ("ScatterND", "ScatterElements") and not any(u.op == node.op for u in users.get(output, ())):
            found = _written(steps, node, counts)
        else:
            continue
        if found is None:
            continue
        (whole, axis), rank = found, len(steps.spec(found[0]).shape) - 1
        perm = [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
        moved = steps.add("Transpose", [whole], {"perm": perm}, f"{output}.steps").outputs if axis else [whole]
        steps.graph.nodes = [n for n in steps.graph.nodes if n is not node]
        steps.put("Reshape", moved, node.outputs, {"shape": list(steps.spec(output).sizes), "allowzero": 1})


def _stacked(steps: Steps, names: Sequence[str]) -> str | None:
    """As `stack`, also for steps in reverse order."""
    found = steps.stack(names)
    if found is not None or (turned := steps.stack(names[::-1])) is None:
        return found
    backwards = {"starts": [-1], "ends": [-(1 << 31)], "axes": [0], "steps": [-1]}
    return steps.add("Slice", [turned], backwards, f"{turned}.turned").outputs[0]


def _pieces(steps: Steps, node: Node, users: Mapping[str, Sequence[Node]]) -> list[str]:
    """The values that a Concat, or a chain of Concat, joins."""
    found, waiting = list[str](), list(node.inputs[::-1])
    while waiting:
        name = waiting.pop()
        maker = steps.producers.get(name)
        once = maker is not None and maker.op == node.op and len(users.get(name, ())) == 1 and name not in steps.graph.outputs
        if once and maker is not None and maker.attributes["axis"] == node.attributes["axis"]:
            waiting += maker.inputs[::-1]
        elif steps.spec(name).elements:
            found.append(name)
    return found


def _written(steps: Steps, node: Node, counts: Collection[int]) -> tuple[str, int] | None:
    """(stacked value, axis) of a chain of writes that fills a whole value; else None."""
    writes, last = list[Node](), node
    while node is not None and node.op == last.op and node.attributes.get("reduction", "none") == "none":
        writes.insert(0, node)
        node = steps.producers.get(node.inputs[0])  # type: ignore[assignment]
    shape, names = steps.spec(last.outputs[0]).sizes, [write.inputs[2] for write in writes]
    sizes = {steps.spec(name) for name in names}
    places = [steps.graph.constants.get(write.inputs[1]) for write in writes]
    if len(names) not in counts or len(sizes) != 1 or any(place is None for place in places):
        return None
    (spec,) = sizes
    filled = np.full(shape, -1)
    for t, (write, place) in enumerate(zip(writes, places, strict=True)):
        numbers = np.arange(spec.elements).reshape(spec.sizes) + t * spec.elements
        (filled,) = op_of(write).reference(write, [filled, place, numbers])
    for axis in (a for a, n in enumerate(shape) if n == len(names)):
        rows = np.moveaxis(filled, axis, 0).reshape(len(names), -1)
        order = [int(row[0]) // spec.elements for row in rows]
        whole = sorted(order) == list(range(len(names))) and all(
            np.array_equal(row, np.arange(spec.elements) + t * spec.elements) for row, t in zip(rows, order, strict=True)
        )
        found = _stacked(steps, [names[t] for t in order]) if whole else None
        if found is not None:
            rest = [n for a, n in enumerate(shape) if a != axis]
            return steps.view(found, (len(names), *rest), f"{found}.rows"), axis
    return None


def in_order(graph: Graph) -> None:
    """The nodes that outputs need, in topological order. Raises `ValueError` where there is a cycle."""
    producers, done, begun, ordered = graph.producers(), set[int](), set[int](), list[Node]()
    waiting = [producers[name] for name in reversed(graph.outputs) if name in producers]
    while waiting:
        node = waiting[-1]
        missing = [p for i in node.inputs if i and (p := producers.get(i)) is not None and id(p) not in done]
        if missing and id(node) not in done:
            if id(node) in begun:
                raise ValueError(f"node {node.name!r} needs what it makes")
            begun.add(id(node))
            waiting += missing
            continue
        waiting.pop()
        if id(node) not in done:
            done.add(id(node))
            ordered.append(node)
    graph.nodes = ordered
