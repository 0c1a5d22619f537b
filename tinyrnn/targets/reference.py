"""The float64 reference: a file graph computed node by node in NumPy by the operators' references.

It uses no passes, plan or kernels, so that it is an oracle for all of them, and for onnxruntime.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError, UnsupportedError
from tinyrnn.graph.arrays import is_floating
from tinyrnn.graph.ir import Graph, Node, spec_of
from tinyrnn.graph.op import Array, Op, Refused, op_of
from tinyrnn.passes.fold import absorb_parameters


class Reference:
    """A bound file graph (`Stages.graph`) in float64; integers keep their type.

    `states` pairs state inputs with state outputs; only `steps` needs it. Raises `UnsupportedError` where an
    operator has no reference, or refuses what a node asks.
    """

    def __init__(self, graph: Graph, states: Mapping[str, str] | None = None) -> None:
        self.graph, self.states = graph, dict(states or {})
        self._known = {name: _wide(array) for name, array in graph.constants.items()}
        self._known_parts: dict[str, Array] = {}
        self._nodes: list[Node] = []
        for node in graph.nodes:
            if all(name in self._known for name in node.inputs if name):
                self._evaluate(node, self._known, self._known_parts)
            else:
                self._nodes.append(node)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs by name for inputs by name, all in the file's shapes. Raises `ShapeError`."""
        return self.trace(inputs)[0]

    def trace(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Array]]:
        """(outputs, final state of every recurrent node: "<node>.<part>" → [directions, batch, hidden]).

        Parts are included whether or not they are outputs of the node; with layout = 1 the batch comes first.
        """
        values, parts = {**self._known, **self._inputs(inputs)}, dict(self._known_parts)
        for node in self._nodes:
            self._evaluate(node, values, parts)
        return {name: values[name] for name in self.graph.outputs}, parts

    def steps(
        self, inputs: Mapping[str, Any], initial: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run a step model over T frames, with its states fed back.

        inputs:  every input that is no state, [T, *file shape]
        initial: state inputs before the first frame, in the file's shape, by default zeros (open sizes 1)

        Returns the outputs [T, *file shape], states included, and the states after the last frame by the name
        of the state input. Raises `ShapeError`.
        """
        counts = {name: len(np.asarray(value)) for name, value in inputs.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ShapeError(f"{self.graph.name}: steps needs inputs of one number of frames, at least one; they have {counts}")
        state = {name: _zeros(self.graph, name) for name in self.states} | {n: np.asarray(v) for n, v in (initial or {}).items()}
        made: dict[str, list[Array]] = {name: [] for name in self.graph.outputs}
        for t in range(next(iter(counts.values()))):
            outputs = self.run({name: np.asarray(value)[t] for name, value in inputs.items()} | state)
            for name, array in outputs.items():
                made[name].append(array)
            state = {start: outputs[end] for start, end in self.states.items()}
        return {name: np.stack(arrays) for name, arrays in made.items()}, state

    def _inputs(self, given: Mapping[str, Any]) -> dict[str, Array]:
        graph, sizes = self.graph, dict[str, int]()
        if set(given) != set(graph.inputs):
            raise ShapeError(
                f"{graph.name}: the inputs are {', '.join(graph.inputs) or 'none'}, not {', '.join(given) or 'none'}"
            )
        found = {}
        for name in graph.inputs:
            spec, array = graph.specs[name], np.asarray(given[name])
            fits = array.ndim == len(spec.shape) and all(
                (sizes.setdefault(size, n) if isinstance(size, str) else size) == n
                for size, n in zip(spec.shape, array.shape, strict=True)
            )
            if not fits:
                known = f" with {', '.join(f'{k} = {n}' for k, n in sizes.items())}" if sizes else ""
                raise ShapeError(f"{graph.name}: input {name!r} has shape {list(array.shape)}; the file says {spec}{known}")
            found[name] = _wide(array) if is_floating(spec.dtype) else array.astype(spec.dtype)
        return found

    def _evaluate(self, node: Node, values: MutableMapping[str, Array], parts: dict[str, Array]) -> None:
        op = op_of(node)
        node = Node(node.op, node.name, node.inputs, node.outputs, dict(node.attributes), node.version, node.domain)
        try:
            results = self._results(op, node, values, parts)
        except (Refused, ValueError, IndexError) as error:
            raise UnsupportedError(
                f"{self.graph.name}: node {node.name!r} ({node.op}): the float64 reference cannot compute it: {error}"
            ) from error
        values.update((name, array) for name, array in zip(node.outputs, results, strict=False) if name)
        parts.update((f"{node.name}.{part}", array) for part, array in zip(getattr(op, "parts", ()), results[1:], strict=False))

    def _results(self, op: Op, node: Node, values: MutableMapping[str, Array], parts: dict[str, Array]) -> tuple[Array, ...]:
        if op.of_shape:
            return (op.from_spec(node, spec_of(values[node.inputs[0]])),)
        absorb_parameters(op, node, values)
        arrays = [values[name] if name else None for name in node.inputs]
        op.normalize(node, [None if array is None else spec_of(array) for array in arrays[: op.arguments(node)]])

        def run(inner: Graph, given: Sequence[Array]) -> list[Array]:
            within = ChainMap(dict(zip(inner.inputs, map(_wide, given), strict=True)), values)
            for each in inner.nodes:
                self._evaluate(each, within, parts)
            return [within[name] for name in inner.outputs]

        results = tuple(np.asarray(array) for array in op.compute(node, arrays, run))
        source = arrays[0] if arrays else None
        if (
            op.moves
            and source is not None
            and source.dtype == np.float64
            and is_floating(results[0].dtype)
            and results[0].dtype != np.float64
        ):
            return (source,)  # a Cast between floating types rounds, and nothing is rounded here
        return tuple(_wide(array) for array in results)


def _wide(array: Any) -> Array:
    """The array, converted to float64 if its type is floating."""
    given = np.asarray(array)
    return given.astype(np.float64) if is_floating(given.dtype) else given


def _zeros(graph: Graph, name: str) -> Array:
    spec = graph.specs[name]
    return np.zeros([1 if isinstance(size, str) else size for size in spec.shape], spec.dtype)
