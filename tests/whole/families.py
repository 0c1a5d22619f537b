"""Families of small random graphs, for hypothesis: layers in both directions, and what a sequence comes to put back into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass
class Case:
    """A model, and the arrays that it takes for a number of frames."""

    proto: onnx.ModelProto
    inputs: Callable[[int], dict[str, Array]]
    """the arrays for a number of frames, or of what else the file leaves open"""
    said: str
    oracle: onnx.ModelProto | None = None
    """the same in operators that onnxruntime has, where it lacks some"""
    least: int = 1
    """frames below which onnxruntime is not asked: it aborts where none is left for a layer"""
    states: dict[str, str] = field(default_factory=dict)
    """of a step model"""


@dataclass
class Maker:
    """Nodes and constants of a graph that is being made."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, array: Any) -> str:
        name = f"k{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], f"node_{name}", **attributes))
        return name

    def model(self, inputs: dict[str, Sequence[int | str]], outputs: Sequence[str], int32: Sequence[str] = ()) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "family",
            [
                helper.make_tensor_value_info(n, TensorProto.INT32 if n in int32 else TensorProto.FLOAT, list(s))
                for n, s in inputs.items()
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


STARTS = ("absent", "equal", "different", "computed", "input")


@st.composite
def recurrent_layers(draw: st.DrawFn) -> Case:
    """x [T, N, I] → RNN, GRU or LSTM in any direction, its initial states of every kind → Y, Y_h, Y_c."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    op, start = draw(st.sampled_from(list(GATES))), draw(st.sampled_from(STARTS))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional", "bidirectional"]))
    batch, wide, hidden = draw(st.integers(1, 3)), draw(st.sampled_from([1, 4, 17])), draw(st.sampled_from([2, 5, 16, 19]))
    opened, lens = draw(st.booleans()), draw(st.booleans())
    layout = draw(st.sampled_from([0, 0, 0, 1]))
    ways, gates = 1 + (direction == "bidirectional"), GATES[op]
    parts = ["h", "c"] if op == "LSTM" else ["h"]
    weights = [m.weight(ways, gates * hidden, wide), m.weight(ways, gates * hidden, hidden), m.weight(ways, 2 * gates * hidden)]
    size: int | str = "N" if opened and start not in ("equal", "different") else batch
    shapes: dict[str, list[int | str]] = {"x": ["T", size, wide]}
    states = []
    for part in parts:
        if start == "absent":
            states.append("")
        elif start in ("equal", "different"):
            array = m.rng.standard_normal((ways, batch if start == "different" else 1, hidden)).astype(np.float32)
            states.append(m.constant(np.broadcast_to(array, (ways, batch, hidden)).copy()))
        elif start == "input":
            shapes[f"{part}0"] = [ways, size, hidden]
            states.append(f"{part}0")
        else:
            shapes["z"] = [size, 3]
            flat = m.add("MatMul", "z", m.weight(3, ways * hidden))
            split = m.add("Reshape", flat, m.constant(np.array([-1, ways, hidden])))
            states.append(m.add("Transpose", split, perm=[1, 0, 2]))
    if lens:
        shapes["lens"] = [size]
    extra = {"linear_before_reset": draw(st.integers(0, 1))} if op == "GRU" else {}
    outputs = ["Y", *(f"Y_{part}" for part in parts)]
    layer = {"hidden_size": hidden, "direction": direction, **extra}
    given = ["x", *weights, "lens" if lens else "", *states]
    if layout:
        shapes["x"] = [size, "T", wide]
        plain = Maker(m.rng, list(m.nodes), list(m.weights))
        turned = [plain.add("Transpose", "x", perm=[1, 0, 2]), *given[1:]]
        made = [f"plain_{name}" for name in outputs]
        plain.nodes.append(helper.make_node(op, turned, made, "layer", **layer))
        for name, source in zip(outputs, made, strict=True):
            plain.nodes.append(helper.make_node("Transpose", [source], [name], perm=[2, 0, 1, 3] if name == "Y" else [1, 0, 2]))
        oracle = plain.model(shapes, outputs, ["lens"])
        given = [*given[:5], *(name and m.add("Transpose", name, perm=[1, 0, 2]) for name in states)]
        layer["layout"] = 1
    m.nodes.append(helper.make_node(op, given, outputs, "layer", **layer))

    def inputs(frames: int) -> dict[str, Array]:
        rng, sizes = np.random.default_rng(frames), {"T": frames, "N": batch}
        given: dict[str, Array] = {
            name: rng.standard_normal([sizes.get(str(n), n) for n in shape]).astype(np.float32) for name, shape in shapes.items()
        }
        if lens:
            given["lens"] = rng.integers(1, frames + 1, batch).astype(np.int32)
        return given

    said = f"{op} {direction} {start} batch {size}={batch} {wide}→{hidden}{' lens' if lens else ''}"
    return Case(m.model(shapes, outputs, ["lens"]), inputs, f"{said} layout {layout}", oracle if layout else None)


def _reduced(op: str) -> Callable[[Maker, str, int, int], str]:
    def make(m: Maker, x: str, time: int, features: int) -> str:
        return m.add(op, x, m.constant(np.array([time])), keepdims=1)

    return make


def _last(m: Maker, x: str, time: int, features: int) -> str:
    return m.add("Slice", x, *(m.constant(np.array([n])) for n in (-1, np.iinfo(np.int64).max, time)))


def _first(m: Maker, x: str, time: int, features: int) -> str:
    return m.add("Slice", x, *(m.constant(np.array([n])) for n in (0, 1, time)))


def _deviation(m: Maker, x: str, time: int, features: int) -> str:
    mean = _reduced("ReduceMean")(m, x, time, features)
    apart = m.add("Sub", x, mean)
    variance = _reduced("ReduceMean")(m, m.add("Mul", apart, apart), time, features)
    return m.add("Sqrt", m.add("Add", variance, m.constant(np.float32(0.1))))


def _attended(m: Maker, x: str, time: int, features: int) -> str:
    """Attention pooling over frames [.., T, features]: Σ softmax(x w) x."""
    weights = m.add("Softmax", m.add("MatMul", x, m.weight(features, 1)), axis=time)
    return _reduced("ReduceSum")(m, m.add("Mul", weights, x), time, features)


SUMMARIES: dict[str, Callable[[Maker, str, int, int], str]] = {
    **{op: _reduced(op) for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceLogSumExp")},
    "last": _last,
    "first": _first,
    "deviation": _deviation,
    "attended": _attended,
}
CAUSAL = ("first",)
"""what is known with the first frame: a stream of it may be right"""
RETURNS = ("subtracted", "scaled", "excited", "appended", "initial", "gate")


@st.composite
def put_back(draw: st.DrawFn) -> Case:
    """What a sequence comes to, used in every frame of it or as a later layer's initial state."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    layout = draw(st.sampled_from([["T", "N"], ["N", "T"], ["T", 1], [1, "T"], [2, "T"], ["T", 2]]))
    features, batch = draw(st.sampled_from([1, 4, 7, 16])), draw(st.integers(1, 3))
    kind, way = draw(st.sampled_from(list(SUMMARIES))), draw(st.sampled_from(RETURNS))
    time, source = layout.index("T"), "x"
    if draw(st.booleans()):
        source = m.add("Tanh", m.add("MatMul", "x", m.weight(features, features)))
    summary = SUMMARIES[kind](m, source, time, features)
    if way == "subtracted":
        y = m.add("Sub", "x", summary)
    elif way == "scaled":
        y = m.add("Mul", source, summary)
    elif way == "excited":
        y = m.add("Mul", "x", m.add("Sigmoid", m.add("MatMul", summary, m.weight(features, features))))
    elif way == "gate":
        y = m.add("Tanh", m.add("Add", m.add("MatMul", "x", m.weight(features, features)), summary))
    elif way == "appended":
        spread = m.add("Expand", summary, m.add("Shape", "x"))
        y = m.add("Concat", "x", spread, axis=2)
    hidden = features
    walked = source if way == "initial" else y
    wide = 2 * features if way == "appended" else features
    weights = [m.weight(1, 3 * hidden, wide), m.weight(1, 3 * hidden, hidden), m.weight(1, 6 * hidden)]
    if time:
        walked = m.add("Transpose", walked, perm=[1, 0, 2])
        summary = m.add("Transpose", summary, perm=[1, 0, 2])
    start = ["", summary] if way == "initial" else []
    made = m.add("GRU", walked, *weights, *start, hidden_size=hidden)
    outputs = [m.add("Tanh", made)]
    if way != "initial":
        outputs.append(m.add("Identity", y))

    def inputs(frames: int) -> dict[str, Array]:
        sizes = [{"T": frames, "N": batch}.get(str(n), n) for n in layout] + [features]
        return {"x": (np.random.default_rng(frames).standard_normal(sizes) + 0.5).astype(np.float32)}

    return Case(m.model({"x": [*layout, features]}, outputs), inputs, f"{kind} {way} {layout} {features} features, batch {batch}")


@st.composite
def reductions(draw: st.DrawFn) -> Case:
    """Reductions over any axes of x, time in any place of it, axes negative or not, then a sum with x where shapes allow."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    batch, time = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    shape: list[int | str] = [draw(st.sampled_from([3, 5, 17])) for _ in range(4)]
    where = draw(st.sampled_from([a for a in range(3) if a != time]))
    shape[time], shape[where] = "T", draw(st.sampled_from(["N", batch]))
    op = draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare"]))
    free = [a for a in range(4) if a not in (time, where)]
    axes = draw(st.lists(st.sampled_from(free * 3 + [time]), min_size=1, max_size=2, unique=True))
    keep = draw(st.integers(0, 1))
    named = [a - 4 if draw(st.booleans()) else a for a in axes]
    reduced = m.add(op, "x", m.constant(np.array(named)), keepdims=keep)
    outputs = [reduced]
    if keep and draw(st.booleans()):
        outputs.append(m.add("Sub", "x", reduced))

    def inputs(frames: int) -> dict[str, Array]:
        sizes = [{"T": frames, "N": batch}.get(str(n), n) for n in shape]
        return {"x": np.random.default_rng(frames).standard_normal(sizes).astype(np.float32)}

    return Case(m.model({"x": shape}, outputs), inputs, f"{op} {named} keepdims {keep} of {shape}, batch {batch}")
