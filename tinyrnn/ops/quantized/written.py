"""How quantised operators run: each is written as operators over float32 that holds the same integers.

float32 holds every integer up to 2**24, and sums of products that stay within it are exact in any order. So quantised
numbers of a program are whole numbers in float32: they stream, move and multiply by the kernels of the float operators,
on every target, and become bytes only where the model's user sees them. `Written` makes the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.ir import Graph, Node, Spec, spec_of
from tinyrnn.graph.op import OURS, Array, Op, Refused, op_of, rewrite
from tinyrnn.ops.elementwise.cast import cast_to, dtype_of
from tinyrnn.ops.quantized.integers import CODES, checked_scale, is_small, limits

Operand = str | Array
"""the name of a float32 value of the graph, or float32 numbers that are known"""

FLOAT = np.dtype(np.float32)
INT32 = np.dtype(np.int32)
CARRIED = ("Clip", "Max", "MaxPool", "Min", "Pad", "Relu", "ReverseSequence", "ScatterElements", "ScatterND", "Trilu", "Where")
"""operators whose result is one of the numbers given, beside those that move elements"""
VERSION = 21
"""of the operator set in which nodes are written"""


class Quantised(Op):
    """Base of the operators that are written as others."""

    scales_integers = True

    def write(self, node: Node, made: Written) -> None:
        """Make the nodes that compute the outputs of `node`."""
        raise NotImplementedError


class Written:
    """The nodes that are written in place of one."""

    def __init__(self, graph: Graph, node: Node, floats: dict[str, str]) -> None:
        self.graph, self.node, self.floats = graph, node, floats
        self.nodes: list[Node] = []

    def spec(self, name: str) -> Spec:
        return self.graph.specs[name]

    def given(self, place: int) -> str:
        """The name of an input of the node; empty if it is absent."""
        return self.node.inputs[place] if place < len(self.node.inputs) else ""

    def known(self, place: int) -> Array | None:
        """An input of the node as it is in the file, if it is known."""
        return self.graph.constants.get(self.given(place))

    def integers(self, place: int) -> Operand:
        """An input of the node, integers of up to 32 bits, as float32."""
        name = self.given(place)
        if name in self.graph.constants:
            return self.graph.constants[name].astype(np.float32)
        return self.as_float(name)

    def as_float(self, name: str) -> str:
        if self.spec(name).dtype == FLOAT:
            return name
        if name not in self.floats:
            self.floats[name] = self.make("Cast", [name], "float", {"to": 1})
        return self.floats[name]

    def zero(self, place: int) -> Operand:
        """A zero point, 0 where it is absent."""
        return self.integers(place) if self.given(place) else np.zeros((), np.float32)

    def scale(self, place: int) -> Operand:
        """A scale. Raises `Refused` for one that is known and no positive number."""
        name = self.given(place)
        named = op_of(self.node).inputs[min(place, len(op_of(self.node).inputs) - 1)].rstrip("?*")
        return checked_scale(named, self.graph.constants[name]) if name in self.graph.constants else name

    def along(self, operand: Operand, axis: int, rank: int) -> Operand:
        """One number, or one for each index of an axis, so that it broadcasts to a value of this rank."""
        shape = operand.shape if isinstance(operand, np.ndarray) else self.spec(operand).sizes
        if len(shape) == 1 and shape[0] != 1:
            behind = rank - 1 - axis % rank
            if isinstance(operand, np.ndarray):
                return operand.reshape(-1, *[1] * behind)
            return self.make("Unsqueeze", [operand], "aligned", {"axes": list(range(1, 1 + behind))}) if behind else operand
        return operand.reshape(()) if isinstance(operand, np.ndarray) and operand.size == 1 else operand

    def arithmetic(self, op: str, a: Operand, b: Operand, word: str = "") -> Operand:
        """Add, Sub, Mul or Div in float32, computed at once where both are known."""
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.asarray({"Add": a + b, "Sub": a - b, "Mul": a * b}[op] if op != "Div" else a / b, np.float32)
        if op in ("Add", "Sub") and isinstance(b, np.ndarray) and not b.any() and not b.shape:
            return a
        return self.make(op, [a, b], word or op.lower())

    def make(
        self,
        op: str,
        inputs: Sequence[Operand],
        word: str = "",
        attributes: dict[str, Any] | None = None,
        output: str = "",
        domain: str = "",
    ) -> str:
        """A node; returns its output, by default a new value named after the node's output and `word`."""
        names = tuple(self.constant(i) if isinstance(i, np.ndarray) else i for i in inputs)
        name = output or self.graph.fresh(f"{self.node.outputs[0] or self.node.name}.{word or op.lower()}")
        own = self.node.name if not word else f"{self.node.name}.{name.removeprefix(self.node.outputs[0]).strip('.')}"
        node = Node(op, own, names, (name,), dict(attributes or {}), VERSION, domain)
        specs = [self.spec(n) if n else None for n in names]
        found = op_of(node)
        found.normalize(node, specs)
        self.graph.specs[name] = found.infer(node, specs)[0]
        self.nodes.append(node)
        return name

    def constant(self, value: Array) -> str:
        name = self.graph.fresh(f"{self.node.name}.number")
        self.graph.constants[name] = np.asarray(value, order="C")
        self.graph.specs[name] = spec_of(self.graph.constants[name])
        return name

    def whole(self, value: str, output: str) -> None:
        """Integers in float32 as the integer output of the file."""
        self.floats[output] = value
        dtype = self.spec(output).dtype
        code = next((code for code, name in CODES.items() if name == dtype.name), None)
        if code is None:
            to = cast_to(dtype, value, output).attributes
            self.nodes.append(Node("AsInteger", output, (value,), (output,), to, VERSION, OURS))
        else:  # no value has such a type at run time: what reads this one reads the float, and an output is refused
            self.nodes.append(Node("Cast", output, (value,), (output,), {"to": code}, VERSION))

    def quantize(self, x: Operand, scale: Operand, zero: Operand, output: str, op: str = "Quantize") -> None:
        """round(x / scale) + zero as an integer output; by `Requantize` round(x * scale) + zero."""
        low, high = limits(self.spec(output).dtype)
        number = self.make(op, [x, scale, zero], "whole", {"low": float(low), "high": float(high)}, domain=OURS)
        self.whole(number, output)


@rewrite
def write_quantised(graph: Graph) -> None:
    """Write every quantised operator as operators over integers in float32, which stay there while they are moved."""
    if not any(isinstance(op_of(node), Quantised) for node in graph.nodes):
        return
    graph.integers = True
    floats: dict[str, str] = {}
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if not any(True for _ in node.nested()):
            node.inputs = tuple(renamed.get(name, name) for name in node.inputs)
        op = op_of(node)
        made = Written(graph, node, floats)
        if isinstance(op, Quantised):
            try:
                op.write(node, made)
            except Refused as error:
                raise UnsupportedError(f"{graph.name}: node {node.name!r} ({node.op}): {error}") from None
        elif node.op == "Cast" and node.inputs[0] in floats and dtype_of(node.attributes["to"]) == FLOAT:
            renamed[node.outputs[0]] = floats[node.inputs[0]]
            made.nodes.append(Node("Identity", node.name, (floats[node.inputs[0]],), node.outputs, {}, VERSION))
        elif not node.domain and (op.moves or node.op in CARRIED) and node.op != "Cast" and _carries(graph, node, floats):
            _carry(node, made)
        else:
            made.nodes.append(node)
        nodes += made.nodes
    graph.nodes = _needed(nodes, graph.outputs)


def _carries(graph: Graph, node: Node, floats: dict[str, str]) -> bool:
    """Whether a node passes on integers that are in float32."""
    made = next(name for name in node.outputs if name)
    dtype = graph.specs[made].dtype
    return is_small(dtype) and any(name in floats and graph.specs[name].dtype == dtype for name in node.inputs if name)


def _carry(node: Node, made: Written) -> None:
    """The node over integers in float32."""
    specs = made.graph.specs
    dtype = specs[next(name for name in node.outputs if name)].dtype
    small = {name for name in (*node.inputs, *node.outputs) if name and specs[name].dtype == dtype}
    inputs = []
    for place, name in enumerate(node.inputs):
        given = made.integers(place) if name in small else name
        inputs.append(made.constant(given) if isinstance(given, np.ndarray) else given)
    twin = node.copy()
    twin.inputs = tuple(inputs)
    twin.outputs = tuple(made.graph.fresh(f"{name}.whole") if name in small else name for name in node.outputs)
    for key, value in twin.attributes.items():
        if isinstance(value, np.ndarray) and value.dtype == dtype:
            twin.attributes[key] = value.astype(np.float32)
    made.nodes.append(twin)
    for name, whole in zip(node.outputs, twin.outputs, strict=True):
        if whole != name:
            specs[whole] = Spec(FLOAT, specs[name].shape)
            made.whole(whole, name)


def _needed(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if any(name in read for name in node.outputs):
            kept.append(node)
            read.update(node.inputs)
    return kept[::-1]
