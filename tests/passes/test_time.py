"""The time axis: windows of past and coming rows, delays, strides, tails; a stream makes the whole sequence's bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import in_onnxruntime, loaded
from tinyrnn.check import within
from tinyrnn.cli import main
from tinyrnn.graph.clock import FRAMES, Clock, Strided, Unfolded, meeting, strided

Array = np.ndarray[Any, Any]
FEATURES = 5


def model_of(nodes: list[onnx.NodeProto], outputs: list[str], constants: dict[str, Array] | None = None) -> onnx.ModelProto:
    """A model over x [T, FEATURES]."""
    graph = helper.make_graph(
        nodes,
        "time",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", FEATURES])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def pieces(stream: tinyrnn.Stream, x: Array, chunk: int) -> list[Array]:
    """Every output of a stream run in chunks (0: step by step) and flushed, joined along time."""
    ports, parts = stream.model.outputs, []
    for start in range(0, len(x), chunk or 1):
        made = stream.run(x[start : start + chunk]) if chunk else stream.step(x[start])
        parts.append(made if isinstance(made, tuple) else (made,))
    tail = stream.flush()
    parts.append(tail if isinstance(tail, tuple) else (tail,))
    return [
        np.concatenate([p[i].reshape(-1, *port.shape) for p in parts if p[i] is not None]) if port.per_frame else parts[-1][i]
        for i, port in enumerate(ports)
    ]


def agree(proto: onnx.ModelProto, tmp_path: Path, lengths: tuple[int, ...] = (9, 4, 5, 300)) -> tinyrnn.Model:
    """A model's whole sequences are onnxruntime's, and its streams have the same bits in every chunking."""
    model = loaded(proto, tmp_path)
    names = [v.name for v in proto.graph.output]
    for frames in lengths:
        x = np.random.default_rng(frames).standard_normal((frames, FEATURES)).astype(np.float32)
        made = model.run(x)
        whole = dict(zip(names, made if isinstance(made, tuple) else (made,), strict=True))
        for name, expected in in_onnxruntime(proto, {"x": x}).items():
            assert whole[name].shape == expected.shape and within("close", whole[name], expected), (name, frames)
        for chunk in (0, 1, 2, 3, 7, 64, frames):
            for name, joined in zip(names, pieces(model.stream(), x, chunk), strict=True):
                assert within("exact", joined, whole[name]), (name, frames, chunk)
    return model


def cut(source: str, output: str, start: int, end: int, step: int = 1) -> tuple[onnx.NodeProto, dict[str, Array]]:
    keys = {f"{output}_{key}": np.array([value]) for key, value in (("s", start), ("e", end), ("a", 0), ("d", step))}
    return helper.make_node("Slice", [source, *keys], [output], output), keys


def pad(source: str, output: str, before: int, after: int, mode: str = "constant") -> tuple[onnx.NodeProto, dict[str, Array]]:
    pads = {f"{output}_pads": np.array([before, 0, after, 0])}
    return helper.make_node("Pad", [source, *pads], [output], output, mode=mode), pads


END = np.iinfo(np.int64).max


def test_difference_to_the_row_before(tmp_path: Path) -> None:
    later, a = cut("x", "later", 1, END)
    earlier, b = cut("x", "earlier", 0, -1)
    model = agree(model_of([later, earlier, helper.make_node("Sub", ["later", "earlier"], ["y"])], ["y"], a | b), tmp_path)
    assert model.delay == 1


def test_the_row_before(tmp_path: Path) -> None:
    padded, a = pad("x", "padded", 2, 0)
    before, b = cut("padded", "before", 0, -2)
    assert agree(model_of([padded, before, helper.make_node("Add", ["x", "before"], ["y"])], ["y"], a | b), tmp_path).delay == 0


@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_rows_to_come(tmp_path: Path, mode: str) -> None:
    padded, a = pad("x", "padded", 0, 2, mode)
    after, b = cut("padded", "after", 2, END)
    nodes = [padded, after, helper.make_node("Add", ["x", "after"], ["sum"]), helper.make_node("Tanh", ["sum"], ["y"])]
    model = agree(model_of([*nodes, helper.make_node("Neg", ["x"], ["z"])], ["y", "z"], a | b), tmp_path)
    assert model.delay == 2 and "2 frames late" in str(model)


def test_every_third_row(tmp_path: Path) -> None:
    third, a = cut("x", "third", 1, END, 3)
    model = agree(model_of([third, helper.make_node("Tanh", ["third"], ["y"])], ["y"], a), tmp_path)
    stream = model.stream()
    made = [stream.step(np.zeros(FEATURES, np.float32)) is not None for _ in range(8)]
    assert made == [False, True, False, False, True, False, False, True] and "every 3 frames" in str(model)


def test_steps_before_the_first(tmp_path: Path) -> None:
    start = np.random.default_rng(3).standard_normal((3, FEATURES)).astype(np.float32)
    after, a = cut("longer", "after", 0, -3)
    agree(
        model_of([helper.make_node("Concat", ["start", "x"], ["longer"], axis=0), after], ["after"], a | {"start": start}),
        tmp_path,
    )


def test_what_comes_of_late_rows(tmp_path: Path) -> None:
    """A mean and the last of rows that look ahead are complete only after the flush."""
    padded, a = pad("x", "padded", 0, 2)
    after, b = cut("padded", "after", 2, END)
    nodes = [padded, after, helper.make_node("ReduceMean", ["after"], ["mean"], axes=[0]), *[cut("after", "last", -1, END)[0]]]
    agree(model_of(nodes, ["mean", "last"], a | b | cut("after", "last", -1, END)[1]), tmp_path)


def test_a_file_that_is_run_has_its_tail(tmp_path: Path) -> None:
    after, a = cut("x", "after", 2, END)
    (tmp_path / "late.onnx").write_bytes(
        model_of([after, helper.make_node("Tanh", ["after"], ["y"])], ["y"], a).SerializeToString()
    )
    x = np.random.default_rng(1).standard_normal((9, FEATURES)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    result = CliRunner().invoke(
        main, ["run", str(tmp_path / "late.onnx"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")]
    )
    assert result.exit_code == 0, result.output
    assert within("close", np.load(tmp_path / "y.npy"), np.tanh(x[2:]))


def test_rows_after_the_last_without_delay(tmp_path: Path) -> None:
    """A sequence that is padded at its end has a tail though no row is late."""
    padded, a = pad("x", "y", 0, 2)
    model = agree(model_of([padded], ["y"], a), tmp_path)
    assert model.delay == 0 and model.has_tail and model.stream().flush().shape == (0, FEATURES)


def test_flush_where_nothing_waits(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["y"]), helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0])]
    model = loaded(model_of(nodes, ["y", "mean"]), tmp_path)
    stream = model.stream()
    stream.run(np.ones((3, FEATURES), np.float32))
    rows, mean = stream.flush()
    assert not model.has_tail and rows.shape == (0, FEATURES) and mean is None
    assert len(stream.run(np.ones((2, FEATURES), np.float32)).y) == 2


def test_flush_of_a_restored_stream_needs_what_belongs_to_a_call(tmp_path: Path) -> None:
    later, a = cut("x", "later", 1, END)
    proto = model_of(
        [later, helper.make_node("Add", ["later", "v"], ["sum"]), *[pad("sum", "y", 0, 1)[0]]],
        ["y"],
        a | pad("sum", "y", 0, 1)[1],
    )
    proto.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [FEATURES]))
    model = loaded(proto, tmp_path)
    first, second = model.stream(), model.stream()
    x, v = np.ones((3, FEATURES), np.float32), np.full(FEATURES, 2, np.float32)
    assert not model.inputs[1].per_frame and len(first.run(x, v)) == 2
    second.state[...] = first.state
    with pytest.raises(tinyrnn.StreamError, match="input 'v' belongs to a call, and no call gave it"):
        second.flush()
    assert np.array_equal(first.flush(), np.zeros((1, FEATURES)))


def test_late_rows_cannot_be_fed_back(tmp_path: Path) -> None:
    after, a = cut("x", "y", 1, END)
    with pytest.raises(tinyrnn.DecodeError, match="do not come frame by frame"):
        tinyrnn.decode.generate(loaded(model_of([after], ["y"], a), tmp_path), 0, 3)


def test_a_flushed_stream_takes_no_frames(tmp_path: Path) -> None:
    after, a = cut("x", "after", 2, END)
    stream = loaded(model_of([after, helper.make_node("Tanh", ["after"], ["y"])], ["y"], a), tmp_path).stream()
    x = np.ones((5, FEATURES), np.float32)
    first = stream.run(x)
    assert stream.flush().shape == (0, FEATURES)
    with pytest.raises(tinyrnn.StreamError, match=r"ended with flush\(\); reset\(\) begins another"):
        stream.step(x[0])
    stream.reset()
    assert np.array_equal(stream.run(x), first)


def test_time_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    after, a = cut("x", "after", 1, END)
    proto = model_of([after, helper.make_node("Tanh", ["after"], ["y"])], ["y"], a)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 12
    path = tmp_path / "fixed.onnx"
    path.write_bytes(proto.SerializeToString())
    x = np.random.default_rng(0).standard_normal((30, FEATURES)).astype(np.float32)
    for time in (0, -2, {"x": 0}):
        model = tinyrnn.load(path, time=time)
        assert within("close", model.run(x), np.tanh(x[1:])) and within("exact", model.stream().run(x), model.run(x))
    with pytest.raises(tinyrnn.LoadError, match=r"time='T' names no axis\. The inputs are x \[12, 5\]"):
        tinyrnn.load(path, time="T")
    with pytest.raises(tinyrnn.LoadError, match="time=7 names no axis"):
        tinyrnn.load(path, time=7)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([cut("x", "y", -3, END)], r"it takes \[\d+:\d+:1\] of the \d+ steps"),
        ([cut("x", "y", 0, 40)], r"it takes \[0:40:1\] of the \d+ steps"),
        ([cut("x", "y", END, -END, -1)], "of the time or batch axis"),
        ([pad("x", "y", 1, 1, "reflect")], "mode='reflect' along the time axis"),
    ],
)
def test_what_has_no_form_over_time_runs_whole(tmp_path: Path, nodes: list[Any], reason: str) -> None:
    proto = model_of([n for n, _ in nodes], ["y"], {k: v for _, c in nodes for k, v in c.items()})
    model = loaded(proto, tmp_path)
    for frames in (50, 3):
        x = np.random.default_rng(frames).standard_normal((frames, FEATURES)).astype(np.float32)
        assert within("exact", model.run(x), in_onnxruntime(proto, {"x": x})["y"])
    with pytest.raises(tinyrnn.StreamError, match=reason):
        model.stream()


# Clocks.

CLOCKS = st.recursive(
    st.just(FRAMES),
    lambda of: st.one_of(
        st.builds(
            lambda c, s, o, p, q: strided(c, s, o - p, p + q - o - 1),
            of,
            st.integers(1, 3),
            st.integers(0, 4),
            st.integers(0, 4),
            st.integers(0, 4),
        ),
        st.builds(lambda c, t, s, e: Unfolded(c, t, s, -s - e), of, st.integers(1, 3), st.integers(0, 3), st.integers(0, 3)),
        st.builds(lambda a, b: meeting([a, b]), of, of),
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(CLOCKS, st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_clocks(clock: Clock, end: int, passes: list[int]) -> None:
    """Rows only ever come, never more than there are in all, in passes within their bound."""
    counts = [clock.count(n) for n in range(end + 60)]
    assert counts == sorted(counts) and all(c <= clock.whole(n) for n, c in enumerate(counts) if n)
    frames = 0
    for size in passes:
        made = clock.count(frames + size) - clock.count(frames)
        assert made <= clock.most(size) <= clock.rate * (size + clock.lead)
        frames += size
    assert [clock.count(end + late, end) for late in range(80)][-1] == max(clock.whole(end), 0)
    assert eval(clock.text(True, "9")) == clock.ready(9)
    assert clock.whole(9) <= 0 or eval(clock.text(False, "9")) == clock.whole(9)


def test_windows_of_windows_are_windows() -> None:
    assert strided(strided(FRAMES, 1, 2, -1), 1, -2, -1) == strided(FRAMES, 1, 0, -1) == FRAMES
    assert strided(strided(FRAMES, 2, 1, -2), 3, 0, -1) == Strided(FRAMES, 6, 1, -2)
