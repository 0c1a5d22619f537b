"""Families of small random graphs that go step by step: loops over time, step models with their states, memories of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.whole.families import Array, Case, Maker

FLOAT = TensorProto.FLOAT


def _port(name: str, shape: Any = None, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def _cell(m: Maker, draw: st.DrawFn, x: str, states: list[str], features: int, hidden: int) -> tuple[list[str], str]:
    """The next states, and an output, of nodes that the maker adds: x [N, features], states [N, hidden] each."""
    following, y = [], x
    wide = features
    for h in states:
        kind = draw(st.sampled_from(["rnn", "leak", "gate", "sum", "keep", "mask", "norm"]))
        fed = m.add("MatMul", y, m.weight(wide, hidden)) if wide != hidden or kind in ("rnn", "gate") else y
        if kind == "rnn":
            made = m.add("Tanh", m.add("Add", fed, m.add("MatMul", h, m.weight(hidden, hidden))))
        elif kind == "leak":
            made = m.add("Add", m.add("Mul", h, m.constant(np.float32(0.9))), fed)
        elif kind == "gate":
            gate = m.add("Sigmoid", m.add("Add", fed, h))
            made = m.add(
                "Add", m.add("Mul", gate, h), m.add("Mul", m.add("Sub", m.constant(np.float32(1)), gate), m.add("Tanh", fed))
            )
        elif kind == "sum":
            made = m.add("Max", h, fed)
        elif kind == "keep":
            made = m.add("Where", m.add("Greater", fed, m.constant(np.float32(0))), fed, h)
        elif kind == "mask":
            made = m.add("Add", m.add("Mul", h, m.add("Cast", m.add("Less", fed, h), to=FLOAT)), fed)
        else:
            both = m.add("Add", h, fed)
            size = m.add("Sqrt", m.add("ReduceSumSquare", both, m.constant(np.array([-1])), keepdims=1))
            made = m.add("Div", both, m.add("Add", size, m.constant(np.float32(1))))
        following.append(made)
        y, wide = (made, hidden) if draw(st.booleans()) else (h, hidden)
    return following, y


@st.composite
def loops(draw: st.DrawFn) -> Case:
    """A Scan or a Loop over x [T, N, I], with one or two states, in either direction, and what it leaves."""
    outer = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    op, back = draw(st.sampled_from(["Scan", "Scan", "Loop"])), draw(st.integers(0, 1))
    features, hidden, batch = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([2, 5, 16])), draw(st.integers(1, 3))
    size: int | str = draw(st.sampled_from(["N", batch]))
    starts = []
    count = draw(st.integers(1, 2))
    shapes: dict[str, list[int | str]] = {"x": ["T", size, features]}
    kinds = []
    for k in range(count):
        kind = draw(st.sampled_from(["input", "zeros", "computed", "different"] if size == batch else ["input", "computed"]))
        kinds.append(kind)
        if kind == "input":
            shapes[f"h{k}"] = [size, hidden]
            starts.append(f"h{k}")
        elif kind == "computed":
            shapes["z"] = [size, 3]
            starts.append(outer.add("MatMul", "z", outer.weight(3, hidden)))
        else:
            rows = outer.rng.standard_normal((batch, hidden)) * (kind == "different")
            starts.append(outer.constant(rows.astype(np.float32)))
    inner = Maker(outer.rng, [], outer.weights)
    inner.nodes = list[Any]()
    outer_count = len(outer.nodes)
    inner.add = lambda op, *a, **k: _inside(inner, outer_count, op, *a, **k)  # type: ignore[method-assign]
    states = [f"s{k}" for k in range(count)]
    x = "row"
    if op == "Loop":
        place = "turn" if not back else inner.add("Sub", inner.add("Sub", "frames", "turn"), inner.constant(np.int64(1)))
        x = inner.add("Gather", "x", place, axis=0)
    following, y = _cell(inner, draw, x, states, features, hidden)
    ends = [inner.add("Identity", name) for name in following]
    made = inner.add("Tanh", y)
    finals = [f"end{k}" for k in range(count)]
    if op == "Scan":
        body = helper.make_graph(inner.nodes, "body", [*map(_port, states), _port("row")], [*map(_port, ends), _port(made)])
        attributes = {"scan_input_directions": [back], "scan_output_directions": [back]} if back else {}
        node = helper.make_node("Scan", [*starts, "x"], [*finals, "Y"], "loop", body=body, num_scan_inputs=1, **attributes)
    else:
        keep = inner.add("Identity", "going")
        body = helper.make_graph(
            inner.nodes,
            "body",
            [_port("turn", [], TensorProto.INT64), _port("going", [], TensorProto.BOOL), *map(_port, states)],
            [_port(keep, [], TensorProto.BOOL), *map(_port, ends), _port(made)],
        )
        length = outer.add("Gather", outer.add("Shape", "x"), outer.constant(np.int64(0)), axis=0)
        outer.nodes.append(helper.make_node("Identity", [length], ["frames"]))
        node = helper.make_node("Loop", ["frames", outer.constant(np.array(True)), *starts], [*finals, "Y"], "loop", body=body)
    outer.nodes.append(node)

    def inputs(frames: int) -> dict[str, Array]:
        rng, sizes = np.random.default_rng(frames), {"T": frames, "N": batch}
        return {n: rng.standard_normal([sizes.get(str(s), s) for s in shape]).astype(np.float32) for n, shape in shapes.items()}

    said = f"{op} {'backwards ' if back else ''}{kinds} {features}→{hidden}, batch {size}={batch}"
    return Case(outer.model(shapes, ["Y", *finals]), inputs, said)


def _inside(m: Maker, before: int, op: str, *inputs: str, **attributes: Any) -> str:
    name = f"in{before}_{len(m.nodes)}"
    m.nodes.append(helper.make_node(op, list(inputs), [name], f"node_{name}", **attributes))
    return name


@st.composite
def steps(draw: st.DrawFn) -> Case:
    """A step model: a frame x [1, I] or [N, I], one to three states handed in and out, cells and caches of past frames."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    features, hidden = draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([2, 5, 16]))
    kind = draw(st.sampled_from(["cells", "cells", "GRU", "LSTM", "cache", "ring", "packed"]))
    shapes: dict[str, list[int | str]] = {"x": [1, features]}
    pairs: dict[str, str] = {}
    if kind == "cells":
        states = [f"h{k}" for k in range(draw(st.integers(1, 3)))]
        shapes |= {name: [1, hidden] for name in states}
        following, y = _cell(m, draw, "x", states, features, hidden)
    elif kind in ("GRU", "LSTM", "packed"):
        op = "LSTM" if kind == "packed" else kind
        ways = draw(st.integers(1, 2))  # over a sequence of one frame, both ways are the same
        parts = ["h", "c"] if op == "LSTM" else ["h"]
        gates = {"GRU": 3, "LSTM": 4}[op]
        states = [f"{p}0" for p in parts]
        shapes |= {name: [ways, 1, hidden] for name in states}
        given = states
        if kind == "packed":
            shapes = {"x": [1, features], "hc": [2 * ways, 1, hidden]}
            given = [m.add("Slice", "hc", *(m.constant(np.array([n])) for n in (k * ways, (k + 1) * ways, 0))) for k in (0, 1)]
            states = ["hc"]
        row = m.add("Unsqueeze", "x", m.constant(np.array([0])))
        weights = [
            m.weight(ways, gates * hidden, features),
            m.weight(ways, gates * hidden, hidden),
            m.weight(ways, 2 * gates * hidden),
        ]
        outputs = ["Y", *(f"Y_{p}" for p in parts)]
        direction = "bidirectional" if ways == 2 else "forward"
        m.nodes.append(
            helper.make_node(op, [row, *weights, "", *given], outputs, "layer", hidden_size=hidden, direction=direction)
        )
        y, following = outputs[0], outputs[1:]
        if kind == "packed":
            following = [m.add("Concat", *outputs[1:], axis=0)]
    else:
        kernel = draw(st.sampled_from([2, 3, 5, 9]))
        dilation = draw(st.sampled_from([1, 2]))
        past = (kernel - 1) * dilation
        states, shapes["cache"] = ["cache"], [1, features, past]
        row = m.add("Unsqueeze", "x", m.constant(np.array([2])))
        rows = m.add("Concat", "cache", row, axis=2)
        w = m.rng.standard_normal((hidden, features, kernel)) / np.sqrt(kernel * features)
        y = m.add("Conv", rows, m.constant(w.astype(np.float32)), dilations=[dilation])
        if kind == "ring":  # the oldest goes, by Gather instead of Slice
            following = [m.add("Gather", rows, m.constant(np.arange(1, past + 1)), axis=2)]
        else:
            following = [m.add("Slice", rows, *(m.constant(np.array([n])) for n in (-past, 1 << 40, 2)))]
    made = m.add("Tanh", y)
    for k, (start, end) in enumerate(zip(states, following, strict=True)):
        name = draw(st.sampled_from([f"{start}_out", f"new_{start}", f"next{k}"])) if kind != "cells" else f"{start}_next"
        m.nodes.append(helper.make_node("Identity", [end], [name]))
        pairs[start] = name

    def inputs(frames: int) -> dict[str, Array]:
        rng = np.random.default_rng(frames)
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    return Case(m.model(shapes, [made, *pairs.values()]), inputs, f"{kind} {features}→{hidden} {shapes}", states=pairs)


@st.composite
def memories(draw: st.DrawFn) -> Case:
    """A step that attends to a memory of any length, masked or not, and a state."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    features, hidden, rank = draw(st.sampled_from([2, 6])), draw(st.sampled_from([3, 8])), draw(st.integers(2, 3))
    masked, additive = draw(st.booleans()), draw(st.booleans())
    lead: list[int | str] = [1] * (rank - 2)
    shapes: dict[str, list[int | str]] = {"h": [1, hidden], "memory": [*lead, "S", features]}
    query = m.add("MatMul", "h", m.weight(hidden, features))
    if additive:
        keys = m.add("Tanh", m.add("Add", m.add("MatMul", "memory", m.weight(features, features)), query))
        scores = m.add("MatMul", keys, m.weight(features, 1))
        axis = rank - 2
    else:
        turned = m.add("Transpose", "memory", perm=[1, 0] if rank == 2 else [0, 2, 1])
        scores = m.add("MatMul", query, turned)
        axis = -1
    if masked:
        shapes["mask"] = [*lead, "S", 1] if additive else [*lead, 1, "S"]
        far = m.add("Mul", m.add("Sub", "mask", m.constant(np.float32(1))), m.constant(np.float32(50)))
        scores = m.add("Add", scores, far)
    weights = m.add("Softmax", scores, axis=axis)
    context = (
        m.add("ReduceSum", m.add("Mul", weights, "memory"), m.constant(np.array([axis])), keepdims=1)
        if additive
        else m.add("MatMul", weights, "memory")
    )
    context = m.add("Reshape", context, m.constant(np.array([1, features])))
    made = m.add("Add", m.add("MatMul", context, m.weight(features, hidden)), m.add("MatMul", "h", m.weight(hidden, hidden)))
    m.nodes.append(helper.make_node("Tanh", [made], ["h_out"]))
    outputs = [m.add("MatMul", "h_out", m.weight(hidden, 4)), "h_out"]
    if draw(st.booleans()):
        outputs.append(m.add("Identity", weights))

    def inputs(frames: int) -> dict[str, Array]:
        rng = np.random.default_rng(frames)
        given = {
            name: rng.standard_normal([{"S": frames}.get(str(n), n) for n in shape]).astype(np.float32)
            for name, shape in shapes.items()
        }
        if masked:
            given["mask"] = (given["mask"] > 0).astype(np.float32)
            given["mask"].flat[0] = 1
        return given

    said = f"memory of rank {rank}{' masked' if masked else ''}{' additive' if additive else ''} {features} {hidden} {len(outputs)} outputs"
    return Case(m.model(shapes, outputs), inputs, said, states={"h": "h_out"})
