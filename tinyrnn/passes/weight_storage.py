"""Storage of weights as the user asked for: the weights of layers become what small types can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from tinyrnn.errors import LoadError, UnsupportedError
from tinyrnn.graph.arrays import Array
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import op_of
from tinyrnn.graph.storage import HELD, STORAGE, Storage, Stored, choose, rounded
from tinyrnn.passes.rows import Program


def layers_of(graph: Graph) -> Iterator[tuple[Node, dict[str, Array]]]:
    """The nodes of a frame graph with weights that can be stored in small types, with them."""
    for node in graph.every_node():
        weights = {}
        for key in op_of(node).summed(node):
            array = node.attributes[key] if key in node.attributes else graph.constants.get(_input(node, key))
            if array is not None and array.dtype == np.float32:
                weights[key] = array
        if weights:
            yield node, weights


def store_weights(program: Program, given: Mapping[str, Storage]) -> None:
    """Round the weights of the layers that `given` names, and record how they are stored.

    Raises `LoadError` for names that are no layer's and for weights that are not finite, `UnsupportedError` for types that a
    layer does not have.
    """
    if not given:
        return
    graph = program.graph
    layers = list(layers_of(graph))
    chosen = choose(given, [node.name for node, _ in layers], graph.name)
    for node, weights in layers:
        storage = chosen.get(node.name)
        if storage is None:
            continue
        op = op_of(node)
        if storage.kind not in op.storages:
            if node.name in given:
                raise UnsupportedError(
                    f"{graph.name}: node {node.name!r} ({node.op}): weights={str(storage)!r}; supported there are "
                    f"{', '.join(op.storages)}"
                )
            storage = Storage(op.storages[-1])
        held: dict[str, Stored] = {}
        for key, array in weights.items():
            summed = op.summed(node)[key]
            group = 0 if key in op.whole_rows else storage.group
            try:
                made, integers = rounded(array, summed, replace(storage, group=group))
            except ValueError as error:
                raise LoadError(f"{graph.name}: node {node.name!r} ({node.op}): {error} cannot be stored as {storage}") from None
            if integers is not None:
                held[key] = integers
            _replace(graph, node, key, made)
        node.attributes[STORAGE] = storage
        if held:
            node.attributes[HELD] = held


def _input(node: Node, key: str) -> str:
    names = op_of(node).inputs
    index = next((i for i, name in enumerate(names) if name.rstrip("?*") == key), len(node.inputs))
    return node.inputs[index] if index < len(node.inputs) else ""


def _replace(graph: Graph, node: Node, key: str, array: Array) -> None:
    if key in node.attributes:
        node.attributes[key] = array
        return
    old = _input(node, key)
    name = graph.fresh(f"{old}.stored")
    graph.constants[name], graph.specs[name] = array, Spec(array.dtype, array.shape)
    node.inputs = tuple(name if given == old else given for given in node.inputs)
