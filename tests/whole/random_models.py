"""Random small sequence models, for hypothesis: recurrent layers and everything between them, wired at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OPSET = 13


class Builder:
    """A graph over values [T, 1, size] that grows node by node."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.sizes = {"x": size}

    def name(self) -> str:
        return f"v{len(self.sizes) + len(self.weights)}"

    def constant(self, array: np.ndarray) -> str:
        name = f"k{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32))

    def add(self, op: str, inputs: list[str], size: int, **attributes: object) -> str:
        name = self.name()
        self.nodes.append(helper.make_node(op, inputs, [name], f"node_{name}", **attributes))
        self.sizes[name] = size
        return name

    def recurrent(self, source: str, op: str, hidden: int) -> None:
        gates, name = GATES[op], self.name()
        weights = [self.weight(1, gates * hidden, self.sizes[source]), self.weight(1, gates * hidden, hidden)]
        weights.append(self.weight(1, 2 * gates * hidden))
        self.nodes.append(helper.make_node(op, [source, *weights], [f"{name}_y"], f"node_{name}", hidden_size=hidden))
        self.nodes.append(helper.make_node("Squeeze", [f"{name}_y", self.constant(np.array([1]))], [name]))
        self.sizes[name] = hidden

    def split(self, source: str) -> None:
        size = self.sizes[source]
        if size > 1:
            cut, names = self.constant(np.array([size // 2, size - size // 2])), [f"{self.name()}_{i}" for i in "ab"]
            self.nodes.append(helper.make_node("Split", [source, cut], names, axis=-1))
            self.sizes |= dict(zip(names, (size // 2, size - size // 2), strict=True))

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, self.sizes["x"]])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", 1, self.sizes[name]]) for name in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _joined(b: Builder, source: str, other: str) -> None:
    b.add("Concat", [source, other], b.sizes[source] + b.sizes[other], axis=-1)


def _sum(b: Builder, source: str, other: str) -> None:
    if b.sizes[source] == b.sizes[other]:
        b.add("Add", [source, other], b.sizes[source])


STEPS: list[Callable[[Builder, str, str], object]] = [
    lambda b, s, o: b.add("Tanh", [s], b.sizes[s]),
    lambda b, s, o: b.add("Mul", [s, b.weight(b.sizes[s])], b.sizes[s]),
    lambda b, s, o: b.add("MatMul", [s, b.weight(b.sizes[s], 5)], 5),
    lambda b, s, o: b.add("MatMul", [s, b.weight(b.sizes[s], 17)], 17),
    lambda b, s, o: b.add("Softmax", [s], b.sizes[s], axis=-1),
    lambda b, s, o: b.add("Sub", [s, b.add("ReduceMean", [s], 1, axes=[-1], keepdims=1)], b.sizes[s]),
    lambda b, s, o: b.add("Slice", [s, *(b.constant(np.array([n])) for n in (-1, -99, -1, -1))], b.sizes[s]),
    lambda b, s, o: b.recurrent(s, "RNN", 3),
    lambda b, s, o: b.recurrent(s, "GRU", 6),
    lambda b, s, o: b.recurrent(s, "LSTM", 17),
    lambda b, s, o: b.split(s),
    _joined,
    _sum,
]


@st.composite
def random_models(draw: st.DrawFn, least: int = 1, most: int = 14) -> onnx.ModelProto:
    """One to a dozen nodes, each of values made before, and one to three outputs."""
    b = Builder(draw(st.integers(0, 99)), draw(st.sampled_from([1, 4, 16, 19])))
    b.recurrent("x", draw(st.sampled_from(list(GATES))), draw(st.sampled_from([2, 16, 18])))
    for _ in range(draw(st.integers(least, most))):
        values = list(b.sizes)
        step = draw(st.sampled_from(STEPS))
        step(b, draw(st.sampled_from(values)), draw(st.sampled_from(values)))
    made = [name for name in b.sizes if name != "x"]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return b.model(outputs)
