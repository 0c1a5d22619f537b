"""Families of small random graphs whose rows come from other rows: windows, cuts, joints, and what needs a whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto

from tests.whole.families import Array, Case, Maker

LAST = np.iinfo(np.int64).max
KERNELS = [1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 150, 200]


def window(m: Maker, draw: st.DrawFn, x: str, channels: int, kernels: list[int]) -> tuple[str, str]:
    """A convolution or a pool over x [N, channels, T], of any kernel, stride, dilation and padding; and what it is."""
    op = draw(st.sampled_from(["Conv", "Conv", "MaxPool", "AveragePool", "LpPool", "ConvTranspose"]))
    kernel, stride = draw(st.sampled_from(kernels)), draw(st.sampled_from([1, 1, 2, 3, 5]))
    dilation = draw(st.sampled_from([1, 1, 2, 4])) if op in ("Conv", "MaxPool") and kernel < 32 else 1
    span = (kernel - 1) * dilation
    pads = draw(st.sampled_from(["valid", "causal", "same", "ahead"]))
    before, after = {"valid": (0, 0), "causal": (span, 0), "same": (span // 2, span - span // 2), "ahead": (0, span)}[pads]
    if op not in ("Conv", "MaxPool"):
        before, after = min(before, kernel - 1), min(after, kernel - 1)
    if op == "MaxPool":
        before, after = min(before, kernel - 1), min(after, kernel - 1)  # onnxruntime takes no more
    attributes: dict[str, Any] = {"kernel_shape": [kernel], "strides": [stride], "pads": [before, after]}
    group, weights = 1, []
    if op in ("Conv", "MaxPool"):
        attributes["dilations"] = [dilation]
    if op.startswith("Conv"):
        group = attributes["group"] = draw(st.sampled_from([1, 1, channels]))
        w = m.rng.standard_normal((channels, channels // group, kernel)) / np.sqrt(kernel * channels // group)
        weights = [m.constant(w.astype(np.float32)), m.weight(channels)][: draw(st.integers(1, 2))]
    elif op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    elif op == "LpPool":
        attributes["p"] = draw(st.integers(1, 2))
    if op == "ConvTranspose" and stride > 1:
        attributes["output_padding"] = [draw(st.integers(0, stride - 1))]
    if op in ("MaxPool", "AveragePool") and stride > 1:
        attributes["ceil_mode"] = draw(st.sampled_from([0, 0, 1]))
    said = f"{op} kernel {kernel} stride {stride} dilation {dilation} {pads}{' depthwise' if group > 1 else ''}"
    extra = {k: attributes[k] for k in ("output_padding", "ceil_mode") if attributes.get(k) not in (None, 0, [0])}
    return m.add(op, x, *weights, **attributes), f"{said}{extra or ''}"


def _activation(m: Maker, draw: st.DrawFn, x: str) -> str:
    op = draw(st.sampled_from(["Tanh", "Relu", "Sigmoid", ""]))
    return m.add(op, x) if op else x


@st.composite
def windows(draw: st.DrawFn) -> Case:
    """One to three convolutions and pools over time, one after the other."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    channels, batch, count = draw(st.sampled_from([1, 3, 4])), draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    size = draw(st.sampled_from(["N", 1, batch]))
    x, said = "x", []
    for _ in range(count):
        x, what = window(m, draw, x, channels, KERNELS if count == 1 else KERNELS[:7])
        said.append(what)
        x = _activation(m, draw, x)
    outputs = [m.add("Identity", x)]

    def inputs(frames: int) -> dict[str, Array]:
        shape = (1 if size == 1 else batch, channels, frames)
        return {"x": np.random.default_rng(frames).standard_normal(shape).astype(np.float32)}

    said.append(f"{channels} channels, batch {size}={batch}")
    return Case(m.model({"x": [size, channels, "T"]}, outputs), inputs, ", ".join(said))


def _slice(m: Maker, x: str, start: int, end: int, time: int, step: int = 1) -> str:
    return m.add("Slice", x, *(m.constant(np.array([n])) for n in (start, end, time, step)))


def _rest(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    start, end = draw(st.integers(0, 9)), draw(st.sampled_from([LAST, LAST, -1, -4]))
    return _slice(m, x, start, end, time, draw(st.sampled_from([1, 1, 2, 3])))


def _end(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    return _slice(m, x, -draw(st.integers(1, 12)), LAST, time)


def _head(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    return _slice(m, x, 0, draw(st.integers(1, 12)), time)


def _turned(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    return _slice(m, x, -1, -LAST, time, -1)


def _padded(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    pads = np.zeros(2 * rank, np.int64)
    pads[time], pads[rank + time] = draw(st.sampled_from([0, 1, 3, -1, -2, 12])), draw(st.sampled_from([0, 0, 2, -1, 9]))
    mode = draw(st.sampled_from(["constant", "constant", "edge", "reflect"]))
    value = [m.constant(np.float32(draw(st.sampled_from([0.0, 1.5]))))] if mode == "constant" else []
    return m.add("Pad", x, m.constant(pads if mode == "constant" else np.abs(pads)), *value, mode=mode)


def _differences(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    gap = draw(st.integers(1, 3))
    return m.add("Sub", _slice(m, x, gap, LAST, time), _slice(m, x, 0, -gap, time))


def _shifted(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    """Every row beside the one before it, the first beside itself."""
    before = m.add("Concat", _slice(m, x, 0, 1, time), _slice(m, x, 0, -1, time), axis=time)
    return m.add("Add", x, before)


def _joined(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    """The ends of a sequence beside it, in any order."""
    parts = [x, _slice(m, x, -draw(st.integers(1, 3)), LAST, time), _slice(m, x, 0, draw(st.integers(1, 3)), time)]
    return m.add("Concat", *draw(st.permutations(parts))[: draw(st.integers(2, 3))], axis=time)


def _doubled(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    scales = np.ones(rank, np.float32)
    scales[time] = draw(st.sampled_from([2.0, 3.0]))
    return m.add(
        "Resize", x, "", m.constant(scales), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def _walked(m: Maker, draw: st.DrawFn, x: str, time: int, rank: int) -> str:
    return m.add("CumSum", m.add("Mul", x, m.constant(np.float32(0.1))), m.constant(np.int64(time)))


CUTS = (_rest, _rest, _end, _head, _turned, _padded, _padded, _differences, _shifted, _joined, _doubled, _walked)


@st.composite
def cuts(draw: st.DrawFn) -> Case:
    """Cuts, pads, joints and shifts along time, in chains, among windows and layers."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    features, batch = draw(st.sampled_from([1, 4, 7])), draw(st.integers(1, 3))
    layout = draw(st.sampled_from([["T", "N"], ["N", "T"], ["T", 1], [1, "T"], [2, "T"]]))
    time, x, said = layout.index("T"), "x", []
    for _ in range(draw(st.integers(1, 3))):
        cut = draw(st.sampled_from(CUTS))
        x = cut(m, draw, x, time, 3)
        said.append(cut.__name__[1:])
        if draw(st.booleans()):
            x = m.add("Tanh", m.add("MatMul", x, m.weight(features, features)))
    outputs = [m.add("Identity", x)]
    ending = draw(st.sampled_from(["", "", "GRU", "Conv"]))
    if ending == "GRU":
        walked = m.add("Transpose", x, perm=[1, 0, 2]) if time else x
        weights = [m.weight(1, 3 * features, features), m.weight(1, 3 * features, features)]
        outputs.append(m.add("GRU", walked, *weights, hidden_size=features))
    elif ending == "Conv":
        turned = m.add("Transpose", x, perm=[0, 2, 1] if time else [1, 2, 0])
        y, what = window(m, draw, turned, features, [2, 3, 5])
        outputs.append(y)
        said.append(what)

    def inputs(frames: int) -> dict[str, Array]:
        sizes = [{"T": frames, "N": batch}.get(str(n), n) for n in layout] + [features]
        return {"x": np.random.default_rng(frames).standard_normal(sizes).astype(np.float32)}

    said += [ending, f"{layout} {features} features, batch {batch}"]
    least = 100 if ending == "GRU" else 1
    return Case(m.model({"x": [*layout, features]}, outputs), inputs, ", ".join(filter(None, said)), least=least)


def _over_time(op: str, **attributes: Any) -> Callable[[Maker, str, int, int], str]:
    def make(m: Maker, x: str, time: int, features: int) -> str:
        return m.add(op, x, axis=time, **attributes)

    return make


def _instance(m: Maker, x: str, time: int, features: int) -> str:
    """InstanceNormalization of x [N, features, T]: each channel by its mean over time."""
    turned = m.add("Transpose", x, perm=[0, 2, 1])
    made = m.add("InstanceNormalization", turned, m.weight(features), m.weight(features))
    return m.add("Transpose", made, perm=[0, 2, 1])


def _layer(m: Maker, x: str, time: int, features: int) -> str:
    """LayerNormalization of x [N, features, T] over time."""
    turned = m.add("Transpose", x, perm=[0, 2, 1])
    mean = m.add("ReduceMean", turned, m.constant(np.array([2])))
    apart = m.add("Sub", turned, mean)
    scale = m.add(
        "Sqrt", m.add("Add", m.add("ReduceMean", m.add("Mul", apart, apart), m.constant(np.array([2]))), m.weight(1, 1))
    )
    return m.add("Transpose", m.add("Div", apart, m.add("Add", m.add("Abs", scale), m.constant(np.float32(1)))), perm=[0, 2, 1])


def _group(m: Maker, x: str, time: int, features: int) -> str:
    """A group norm as exporters write it: InstanceNormalization of [N, 1, features T]."""
    turned = m.add("Transpose", x, perm=[0, 2, 1])
    flat = m.add("Reshape", turned, m.constant(np.array([0, 1, -1])))
    made = m.add("InstanceNormalization", flat, m.constant(np.ones(1, np.float32)), m.constant(np.zeros(1, np.float32)))
    return m.add("Transpose", m.add("Reshape", made, m.add("Shape", turned)), perm=[0, 2, 1])


def _sum(m: Maker, x: str, time: int, features: int, **attributes: int) -> str:
    return m.add("CumSum", x, m.constant(np.int64(time)), **attributes)


def _attention(m: Maker, x: str, time: int, features: int) -> str:
    """Every frame attends to every frame: softmax(x A xᵀ) x of x [N, T, features]."""
    keys = m.add("Transpose", m.add("MatMul", x, m.weight(features, features)), perm=[0, 2, 1])
    return m.add("MatMul", m.add("Softmax", m.add("MatMul", x, keys), axis=-1), x)


def _most(m: Maker, x: str, time: int, features: int) -> str:
    """Where each feature is largest, as a number."""
    return m.add("Cast", m.add("ArgMax", x, axis=time, keepdims=1), to=TensorProto.FLOAT)


WHOLE: dict[str, Callable[[Maker, str, int, int], str]] = {
    "softmax": _over_time("Softmax"),
    "logsoftmax": _over_time("LogSoftmax"),
    "hardmax": _over_time("Hardmax"),
    "lp": _over_time("LpNormalization", p=2),
    "instance": _instance,
    "layer": _layer,
    "group": _group,
    "attention": _attention,
    "most": _most,
    "sum from the end": lambda m, x, time, features: _sum(m, x, time, features, reverse=1),
    "sum": _sum,
    "sum before": lambda m, x, time, features: _sum(m, x, time, features, exclusive=1),
}
"""what a frame becomes in a whole sequence"""
CAUSAL = ("sum", "sum before")


@st.composite
def normal(draw: st.DrawFn) -> Case:
    """Softmax, norms, attention and sums over time, put back into frames of x [N, T, features], with a layer behind."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    features, batch = draw(st.sampled_from([1, 4, 6])), draw(st.integers(1, 3))
    size = draw(st.sampled_from(["N", 1, batch]))
    kind, way = draw(st.sampled_from(list(WHOLE))), draw(st.sampled_from(["alone", "scaled", "added", "layer"]))
    source = m.add("Mul", "x", m.constant(np.float32(0.3))) if draw(st.booleans()) else "x"
    y = WHOLE[kind](m, source, 1, features)
    if way in ("scaled", "added"):
        y = m.add("Mul" if way == "scaled" else "Add", "x", y)
    outputs = [m.add("Identity", y)]
    if way == "layer":
        turned = m.add("Transpose", m.add("Add", y, "x"), perm=[1, 0, 2])
        weights = [m.weight(1, 4 * features, features), m.weight(1, 4 * features, features)]
        outputs.append(m.add("LSTM", turned, *weights, hidden_size=features))

    def inputs(frames: int) -> dict[str, Array]:
        shape = (1 if size == 1 else batch, frames, features)
        return {"x": np.random.default_rng(frames).standard_normal(shape).astype(np.float32)}

    return Case(m.model({"x": [size, "T", features]}, outputs), inputs, f"{kind} {way} {features} features, batch {size}={batch}")


@st.composite
def rates(draw: st.DrawFn) -> Case:
    """Two inputs with different rates: frames x [N, C, T], and what has a row for several of them or is one for all."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    channels, batch, times = draw(st.sampled_from([2, 3, 4])), draw(st.integers(1, 2)), draw(st.sampled_from([2, 3, 4]))
    kind = draw(st.sampled_from(["strided", "doubled", "call", "both"]))
    shapes: dict[str, list[int | str]] = {"x": ["N", channels, "T"], "c": ["N", channels, "U"]}
    if kind == "call":
        shapes["c"] = ["N", channels, 1]
    w = (m.rng.standard_normal((channels, channels, times)) / np.sqrt(times * channels)).astype(np.float32)
    if kind == "strided":  # c has a row for every `times` of x
        y = m.add("Add", m.add("Conv", "x", m.constant(w), strides=[times], kernel_shape=[times]), "c")
    elif kind == "doubled":  # x has a row for every `times` of c
        up = m.add("ConvTranspose", "x", m.constant(w), strides=[times], kernel_shape=[times])
        y = m.add("Mul", up, "c")
    else:
        y = m.add("Add", "x", "c")
    outputs = [m.add("Tanh", y)]
    if kind == "both":
        outputs.append(m.add("MatMul", m.add("Transpose", "c", perm=[0, 2, 1]), m.weight(channels, 2)))

    def inputs(frames: int) -> dict[str, Array]:
        frames = max(frames // times, 1) * times
        other = {"strided": frames // times, "doubled": frames * times, "call": 1, "both": frames}[kind]
        rng = np.random.default_rng(frames)
        return {n: rng.standard_normal((batch, channels, k)).astype(np.float32) for n, k in (("x", frames), ("c", other))}

    return Case(m.model(shapes, outputs), inputs, f"{kind} {times} {channels} channels, batch {batch}")


@st.composite
def halves(draw: st.DrawFn) -> Case:
    """Frames, weights and outputs of float16, through products, elementwise operators, windows and what all frames come to."""
    m = Maker(np.random.default_rng(draw(st.integers(0, 999))))
    features, batch = draw(st.sampled_from([1, 3, 8])), draw(st.integers(1, 3))

    def half(*shape: int) -> str:
        return m.constant((m.rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float16))

    x = m.add("MatMul", "x", half(features, features))
    steps = draw(st.lists(st.sampled_from(["Tanh", "Sigmoid", "Mul", "Add", "Conv", "Slice", "Softmax", "Mean"]), max_size=3))
    for op in steps:
        if op in ("Mul", "Add"):
            x = m.add(op, x, half(features))
        elif op == "Conv":
            turned = m.add("Transpose", x, perm=[0, 2, 1])
            x = m.add("Transpose", m.add("Conv", turned, half(features, features, 3), pads=[2, 0]), perm=[0, 2, 1])
        elif op == "Slice":
            x = _slice(m, x, 1, LAST, 1)
        elif op == "Softmax":
            x = m.add("Softmax", x, axis=-1)
        elif op == "Mean":
            x = m.add("ReduceMean", x, m.constant(np.array([1])), keepdims=0)
            break
        else:
            x = m.add(op, x)
    graph = m.model({"x": ["N", "T", features]}, [m.add("Identity", x)])
    for port in (*graph.graph.input, *graph.graph.output):
        port.type.tensor_type.elem_type = TensorProto.FLOAT16

    def inputs(frames: int) -> dict[str, Array]:
        return {"x": np.random.default_rng(frames).standard_normal((batch, frames, features)).astype(np.float16)}

    return Case(graph, inputs, f"float16 {steps} {features} features, batch {batch}")
