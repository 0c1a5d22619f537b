"""Sizes that a file leaves open: time of any length, multiples, sizes that the graph fixes, and sizes that come at run time."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tests.whole.families import Maker
from tinyrnn.check import within
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel

F = 6
RNG = np.random.default_rng(5)


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def model_of(
    nodes: list[Any], inputs: dict[str, list[Any]], outputs: list[str], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64 if n == "length" else TensorProto.FLOAT, s)
            for n, s in inputs.items()
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def gru(x: str, y: str, size: int, name: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """A GRU over x [T, 1, size], its output y [T, 1, F]."""
    node = helper.make_node("GRU", [x, f"{name}.W", f"{name}.R"], [f"{y}.4"], name, hidden_size=F)
    squeeze = helper.make_node("Squeeze", [f"{y}.4", f"{name}.axis"], [y])
    return [node, squeeze], {f"{name}.W": weight(1, 3 * F, size), f"{name}.R": weight(1, 3 * F, F), f"{name}.axis": np.array([1])}


@pytest.mark.parametrize("kernel", [16, 40, 150, 400])
@pytest.mark.parametrize("kind", ["Conv", "AveragePool", "cut"])
def test_kernels_reach_as_far_as_they_like(kind: str, kernel: int, tmp_path: Path) -> None:
    constants: dict[str, np.ndarray] = {}
    if kind == "Conv":
        nodes = [helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[kernel], strides=[3])]
        constants["w"] = weight(F, F, kernel)
    elif kind == "AveragePool":
        nodes = [helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[kernel], strides=[kernel // 2])]
    else:
        nodes = [helper.make_node("Slice", ["x", "from", "to", "axis"], ["a"])]
        constants |= {"from": np.array([kernel]), "to": np.array([2**62]), "axis": np.array([2])}
    nodes.append(helper.make_node("Transpose", ["a"], ["b"], perm=[2, 0, 1]))
    more, held = gru("b", "y", F, "rnn")
    proto = model_of([*nodes, *more], {"x": [1, F, "T"]}, ["y"], constants | held)
    model = loaded(proto, tmp_path)
    assert not isinstance(model, DynamicShapeModel)
    for frames in (kernel + 1, kernel + 6, 2 * kernel + 257):
        x = RNG.standard_normal((1, F, frames)).astype(np.float32)
        agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}))
    with pytest.raises(
        tinyrnn.ShapeError, match=rf"a sequence of {kernel // 2} frames is too short; it takes {kernel + (kind == 'cut')} or more"
    ):
        model.run(x[:, :, : kernel // 2])
    stream = model.stream()
    rows = [r for r in (stream.step(f) for f in x[0].T.copy()) if r is not None]
    assert within("exact", np.stack(rows), model.run(x).reshape(-1, F))


def stacked(k: int) -> onnx.ModelProto:
    """k frames of x [1, T, F] side by side, a GRU over them."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["frames"]),
        helper.make_node("Div", ["frames", "k"], ["rows"]),
        helper.make_node("Concat", ["first", "rows", "size"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
    ]
    more, held = gru("b", "y", k * F, "rnn")
    constants = {"one": np.array([1]), "k": np.array([k]), "first": np.array([1]), "size": np.array([k * F])}
    return model_of([*nodes, *more], {"x": [1, "T", F]}, ["y"], constants | held)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_frames_are_taken_together(k: int, tmp_path: Path) -> None:
    proto = stacked(k)
    model = loaded(proto, tmp_path)
    for frames in (k, 7 * k, 40 * k, 257 * k):
        x = RNG.standard_normal((1, frames, F)).astype(np.float32)
        agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}))
    assert f"size 'T' must be a multiple of {k}" in str(model)
    with pytest.raises(tinyrnn.ShapeError, match=f"has {2 * k + 1} on axis 1; size 'T' must be a multiple of {k}"):
        model.run(x[:, : 2 * k + 1])
    wanted = model.run(x[:, : 9 * k]).reshape(-1, F)
    stream = model.stream()
    steps = [stream.step(f) for f in x[0, : 9 * k]]
    assert [s is not None for s in steps] == [t % k == k - 1 for t in range(9 * k)]
    assert within("exact", np.stack([s for s in steps if s is not None]), wanted)
    stream.reset()
    assert within("exact", np.concatenate([stream.run(x[0, a : a + 5]) for a in range(0, 9 * k, 5)])[: len(wanted)], wanted)


@pytest.mark.parametrize(("channels_first", "k"), [(False, 2), (False, 3), (True, 2)])
def test_every_frame_is_repeated(channels_first: bool, k: int, tmp_path: Path) -> None:
    """What torch.repeat_interleave along time writes: an axis of k after time, joined with it."""
    if channels_first:
        shape, axis, to, back = [1, F, "T"], 3, [1, F, -1], [2, 0, 1]
    else:
        shape, axis, to, back = [1, "T", F], 2, [1, -1, F], [1, 0, 2]
    repeats = [1] * 4
    repeats[axis] = k
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["a"]),
        helper.make_node("Tile", ["a", "repeats"], ["b"]),
        helper.make_node("Reshape", ["b", "to"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=back),
    ]
    more, held = gru("d", "y", F, "rnn")
    constants = {"axis": np.array([axis]), "repeats": np.array(repeats), "to": np.array(to)}
    proto = model_of([*nodes, *more], {"x": shape}, ["y"], constants | held)
    model = loaded(proto, tmp_path)
    for frames in (1, 5, 255, 256, 300):
        x = RNG.standard_normal([frames if n == "T" else n for n in shape]).astype(np.float32)
        agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}))
    rows = x[0].T.copy() if channels_first else x[0]
    stream = model.stream()
    pieces = [stream.run(rows[a : a + 7]) for a in range(0, len(rows), 7)]
    assert within("exact", np.concatenate(pieces), model.run(x).reshape(-1, F))


def test_a_size_becomes_a_number_only_where_the_graph_says_so(tmp_path: Path) -> None:
    """Positions for 20 frames are added to x [1, T, F]: 20 frames it must be, and that is said."""
    more, held = gru("b", "y", F, "rnn")
    nodes = [
        helper.make_node("Add", ["x", "positions"], ["a"], "meet"),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
        *more,
    ]
    proto = model_of(nodes, {"x": [1, "T", F]}, ["y"], held | {"positions": np.full((1, 20, F), 0.5, np.float32)})
    with pytest.warns(UserWarning, match="size 'T' must be 20: node 'meet'"):
        model = loaded(proto, tmp_path)
    x = RNG.standard_normal((1, 20, F)).astype(np.float32)
    agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}))
    assert "size 'T' must be 20" in str(model)
    with pytest.raises(tinyrnn.ShapeError, match="has 7 on axis 1; size 'T' must be 20: node 'meet'"):
        model.run(x[:, :7])


def test_a_length_is_never_the_size_of_a_kernel(tmp_path: Path) -> None:
    """A convolution of 150 frames, times the number of frames: right at every length."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[150]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["frames"]),
        helper.make_node("Cast", ["frames"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["a", "count"], ["y"]),
    ]
    proto = model_of(nodes, {"x": [1, F, "T"]}, ["y"], {"w": weight(F, F, 150), "two": np.array(2)})
    model = loaded(proto, tmp_path)
    for frames in (150, 157, 300, 511):
        x = RNG.standard_normal((1, F, frames)).astype(np.float32)
        agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}))
    with pytest.raises(tinyrnn.StreamError, match="cannot stream"):
        model.stream()


def attention_step(scores: str) -> onnx.ModelProto:
    """One step of a decoder that attends to a memory [1, S, F]: a GRU on the context, its state handed in and out."""
    if scores == "additive":
        nodes = [
            helper.make_node("MatMul", ["memory", "wm"], ["keys"]),
            helper.make_node("MatMul", ["h", "wq"], ["query"]),
            helper.make_node("Unsqueeze", ["query", "one"], ["query3"]),
            helper.make_node("Add", ["keys", "query3"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["tanh"]),
            helper.make_node("MatMul", ["tanh", "v"], ["e"]),
            helper.make_node("Transpose", ["e"], ["scores"], perm=[0, 2, 1]),
        ]
    else:
        nodes = [
            helper.make_node("Unsqueeze", ["h", "one"], ["query3"]),
            helper.make_node("Transpose", ["memory"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["query3", "turned"], ["scores"]),
        ]
    nodes += [
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "memory"], ["context"]),
        helper.make_node("Concat", ["x", "context"], ["fed"], axis=2),
        helper.make_node("Unsqueeze", ["h", "zero"], ["h3"]),
        helper.make_node("GRU", ["fed", "W", "R", "", "", "h3"], ["", "hn3"], "rnn", hidden_size=F),
        helper.make_node("Squeeze", ["hn3", "zero"], ["hn"]),
    ]
    constants = {"wm": weight(F, F), "wq": weight(F, F), "v": weight(F, 1), "zero": np.array([0]), "one": np.array([1]),
                 "W": weight(1, 3 * F, 2 * F), "R": weight(1, 3 * F, F)}  # fmt: skip
    used = {i for n in nodes for i in n.input}
    inputs = {"x": [1, 1, F], "memory": [1, "S", F], "h": [1, F]}
    return model_of(nodes, inputs, ["hn", "weights"], {k: v for k, v in constants.items() if k in used})


@pytest.mark.parametrize("scores", ["additive", "dot"])
def test_a_memory_of_any_length(scores: str, tmp_path: Path) -> None:
    proto = attention_step(scores)
    model = loaded(proto, tmp_path)
    assert isinstance(model, DynamicShapeModel) and model.kind == "step" and model.open_sizes == ("S",)
    stream = model.stream()
    h = np.zeros((1, F), np.float32)
    sizes = (5, 17, 1, 2, 30, 5, 64, 3, 8, 16)
    for turn, size in enumerate(sizes):
        x, memory = RNG.standard_normal((1, 1, F)).astype(np.float32), RNG.standard_normal((1, size, F)).astype(np.float32)
        wanted = in_onnxruntime(proto, {"x": x, "memory": memory, "h": h})
        agree("close", whole(model, {"x": x, "memory": memory, "h": h}), wanted, f"{size}")
        made = stream.step(x=x.reshape(F), memory=memory[0]) if turn % 2 else stream.step(x, memory)
        assert within("close", np.ravel(made), np.ravel(wanted["weights"])), size
        assert within("close", stream.states["h"].ravel(), wanted["hn"].ravel()), size
        h = wanted["hn"]
    other = stream.fork()
    assert within("exact", other.step(x, memory), stream.step(x, memory))
    with pytest.raises(tinyrnn.ShapeError, match="input 'memory'"):
        stream.step(x, np.zeros((1, 3, F + 1), np.float32))


def test_sizes_share_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sizes come, only the first few of them compile anything."""
    from tinyrnn.loading import parametric_page as generic

    model = loaded(attention_step("additive"), tmp_path)
    assert isinstance(model, DynamicShapeModel)
    compiled: list[str] = []
    compile_source = generic.compile_source
    monkeypatch.setattr(generic, "compile_source", lambda source: compiled.append(source.text) or compile_source(source))
    for size in range(3, 60):
        model.specialised({"S": size})
    assert len(compiled) <= 1, len(compiled)


def test_a_batch_that_stays_inside(tmp_path: Path) -> None:
    """Sequences sorted by their length, run, and put back in order: the batch is a size of the code, time is not."""
    nodes = [
        helper.make_node("Shape", ["length"], ["n"]),
        helper.make_node("TopK", ["length", "n"], ["sorted", "order"]),
        helper.make_node("Gather", ["x", "order"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["sorted"], ["lens"], to=TensorProto.INT32),
        helper.make_node("LSTM", ["b", "W", "R", "", "lens"], ["", "h4", ""], "rnn", hidden_size=F),
        helper.make_node("TopK", ["order", "n"], ["unused", "back"], largest=0),
        helper.make_node("Gather", ["h4", "back"], ["y"], axis=1),
    ]
    proto = model_of(nodes, {"x": ["B", "T", F], "length": ["B"]}, ["y"], {"W": weight(1, 4 * F, F), "R": weight(1, 4 * F, F)})
    model = loaded(proto, tmp_path)
    for batch, frames in ((4, 5), (3, 300), (7, 2), (1, 4)):
        length = RNG.integers(1, frames, batch, endpoint=True)
        length[0] = frames
        feeds = {"x": RNG.standard_normal((batch, frames, F)).astype(np.float32), "length": length}
        agree("close", whole(model, feeds), in_onnxruntime(proto, feeds), f"{batch}, {frames}")


@pytest.mark.parametrize("time_last", [True, False])
def test_caches_of_past_frames_with_chunks_of_any_length(time_last: bool, tmp_path: Path) -> None:
    """A convolution whose cache of past frames is joined with a chunk of open length, and cut back."""
    axis = 2 if time_last else 1
    constants = {"w": weight(F, F, 3), "from": np.array([-4]), "to": np.array([2**62]), "axis": np.array([axis])}
    nodes = [
        helper.make_node("Concat", ["cache", "x"], ["joined"], axis=axis),
        helper.make_node("Slice", ["joined", "from", "to", "axis"], ["new_cache"]),
    ]
    if time_last:
        nodes.append(helper.make_node("Conv", ["joined", "w"], ["a"], dilations=[2]))
    else:
        nodes += [
            helper.make_node("Transpose", ["joined"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("Conv", ["turned", "w"], ["convolved"], dilations=[2]),
            helper.make_node("Transpose", ["convolved"], ["a"], perm=[0, 2, 1]),
        ]
    nodes.append(helper.make_node("Tanh", ["a"], ["y"]))
    shape = (lambda n: [1, F, n]) if time_last else (lambda n: [1, n, F])
    proto = model_of(nodes, {"x": shape("T"), "cache": shape(4)}, ["y", "new_cache"], constants)
    model = loaded(proto, tmp_path)
    assert [p.name for p in model.states] == ["cache"]
    whole_x = RNG.standard_normal(shape(24)).astype(np.float32)
    first: np.ndarray | None = None
    for cuts in ([1] * 24, [5, 7, 1, 11], [24], [2] * 12):
        stream, cache, made, start = model.stream(), np.zeros(shape(4), np.float32), [], 0
        for n in cuts:
            x = np.take(whole_x, range(start, start + n), axis)
            wanted = in_onnxruntime(proto, {"x": x, "cache": cache})
            made.append(stream.step(x[0]))
            assert made[-1].shape == wanted["y"].shape[1:] and within("close", made[-1], wanted["y"][0])
            agree("close", whole(model, {"x": x, "cache": cache}), wanted)
            cache, start = wanted["new_cache"], start + n
        joined = np.concatenate(made, axis - 1)
        first = joined if first is None else first
        assert within("exact", joined, first) and within(
            "close", stream.states["cache"], cache.reshape(stream.states["cache"].shape)
        )


def test_what_is_left_open_is_said_with_the_options_to_type(tmp_path: Path) -> None:
    """A window of about one size: the error names the input's size and values with which the model runs."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[300], strides=[64]),
        helper.make_node("Squeeze", ["a", "axis"], ["y"], "one_row"),
    ]
    proto = model_of(nodes, {"x": ["batch", 1, "samples"]}, ["y"], {"w": weight(F, 1, 300), "axis": np.array([2])})
    with pytest.raises(tinyrnn.UnsupportedError, match=r"(?s)'one_row'.*size 'samples' \(axis 2 of 'x'\).*--bind samples=320"):
        loaded(proto, tmp_path)
    model = loaded(proto, tmp_path, bind={"samples": 320})
    x = RNG.standard_normal((3, 1, 320)).astype(np.float32)
    assert within("close", model.run(x), in_onnxruntime(proto, {"x": x})["y"])


@pytest.mark.parametrize("frames", [1, 255, 256, 257, 600])
@pytest.mark.parametrize("how", ["subtract", "gate", "start"])
def test_what_a_whole_sequence_comes_to_forbids_streaming_where_frames_need_it(how: str, frames: int, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], "mean_of_all", axes=[0], keepdims=1)]
    if how == "start":
        nodes.append(helper.make_node("GRU", ["x", "rnn.W", "rnn.R", "", "", "mean"], ["y.4"], "rnn", hidden_size=F))
        held = gru("x", "y", F, "rnn")[1]
        nodes.append(helper.make_node("Squeeze", ["y.4", "rnn.axis"], ["y"]))
    else:
        nodes.append(helper.make_node("Sub" if how == "subtract" else "Mul", ["x", "mean"], ["a"]))
        more, held = gru("a", "y", F, "rnn")
        nodes += more
    proto = model_of(nodes, {"x": ["T", 1, F]}, ["y"], held)
    model = loaded(proto, tmp_path)
    x = RNG.standard_normal((frames, 1, F)).astype(np.float32)
    agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}))
    with pytest.raises(tinyrnn.StreamError, match="uses 'mean' in every frame, which node 'mean_of_all'"):
        model.stream()


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("start", ["computed", "constant", "input"])
def test_both_directions_start_where_they_are_told(op: str, start: str, tmp_path: Path) -> None:
    gates, batch = {"RNN": 1, "GRU": 3, "LSTM": 4}[op], 3
    constants = {"W": weight(2, gates * F, F), "R": weight(2, gates * F, F), "two": np.array(2.0, np.float32)}
    states = ["h0", "c0"] if op == "LSTM" else ["h0"]
    values = {s: RNG.standard_normal((2, batch, F)).astype(np.float32) for s in states}
    nodes, given, inputs = [], list(states), {"x": ["T", batch, F]}
    feeds = {"x": RNG.standard_normal((7, batch, F)).astype(np.float32)}
    if start == "constant":
        constants |= values
    else:
        inputs |= {s: [2, batch, F] for s in states}
        feeds |= values
        if start == "computed":
            given = [f"{s}.made" for s in states]
            nodes = [helper.make_node("Mul", [s, "two"], [m]) for s, m in zip(states, given, strict=True)]
    outputs = ["y", "yh", "yc"][: 1 + len(states)]
    nodes.append(helper.make_node(op, ["x", "W", "R", "", "", *given], outputs, "rnn", hidden_size=F, direction="bidirectional"))
    proto = model_of(nodes, inputs, outputs, constants)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = loaded(proto, tmp_path, states={})
    agree("close", whole(model, feeds), in_onnxruntime(proto, feeds))


def test_chunks_of_what_is_taken_together(tmp_path: Path) -> None:
    """A sequence model without strides streams in any chunks, over more frames than a chunk holds."""
    more, held = gru("x", "y", F, "rnn")
    proto = model_of(more, {"x": ["T", 1, F]}, ["y"], held)
    model = loaded(proto, tmp_path)
    x = RNG.standard_normal((300, 1, F)).astype(np.float32)
    agree_in_chunks(model, {"x": x}, whole(model, {"x": x}))


def test_steps_at_the_last_size_go_straight_to_compiled_code(tmp_path: Path) -> None:
    """A memory of another size, of a wrong one, by name, into an array: whatever came before, and the state unchanged by errors."""
    m = Maker(np.random.default_rng(1))
    scores = m.add("MatMul", m.add("MatMul", "h", m.weight(8, 6)), m.add("Transpose", "memory", perm=[0, 2, 1]))
    context = m.add("Reshape", m.add("MatMul", m.add("Softmax", scores, axis=-1), "memory"), m.constant(np.array([1, 6])))
    made = m.add("Add", m.add("MatMul", context, m.weight(6, 8)), m.add("MatMul", "h", m.weight(8, 8)))
    m.nodes.append(helper.make_node("Tanh", [made], ["h_out"]))
    proto = m.model({"h": [1, 8], "memory": [1, "S", 6]}, [m.add("MatMul", "h_out", m.weight(8, 4)), "h_out"])
    model = loaded(proto, tmp_path)
    stream, h = model.stream(), np.zeros((1, 8), np.float32)
    slow = 0
    rng = np.random.default_rng(2)
    for turn, size in enumerate((5, 5, 5, 9, 9, 5, 30, 30)):
        memory = rng.standard_normal((1, size, 6)).astype(np.float32)
        expected = in_onnxruntime(proto, {"h": h, "memory": memory})
        h = expected["h_out"]
        before = stream.__dict__.get("_last")
        out = np.empty(4, np.float32) if turn % 3 == 1 else None
        y = stream.step(memory[0], out=out) if turn % 3 else stream.step(memory=memory)
        slow += stream.__dict__.get("_last") is not before
        name = model.outputs[0].name
        agree("close", {name: y.reshape(expected[name].shape)}, {name: expected[name]}, f"turn {turn}")
        kept = stream.state.copy()
        for wrong in (np.zeros((size, 7), np.float32), np.zeros(3, np.float32)):
            with pytest.raises(tinyrnn.ShapeError):
                stream.step(wrong)
        np.testing.assert_array_equal(stream.state, kept)
    assert slow == 4  # a size that the last step did not have
