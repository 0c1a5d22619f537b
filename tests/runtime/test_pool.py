"""Pools: many streams in one call, whose bits and states are those of lone streams."""

from __future__ import annotations

import threading
import tracemalloc
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import ROOT, SHARED
from tests.driving import in_onnxruntime, loaded
from tests.ops.recurrent_cases import build, recurrent_cases
from tests.pools import agree_in_pool, frames, same, same_states
from tinyrnn.compile.pool_page import generate_pool
from tinyrnn.compile.stream_planner import make_stream_plan
from tinyrnn.errors import CopyError, ShapeError, StreamError
from tinyrnn.runtime import Model

PACKAGED = ROOT / "tinyrnn" / "models"
SMALL = 3, 7
"""inputs and units where a test asks for no others: models of one size share their kernels"""
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(
    op: str, inputs: int, hidden: int, batch: Any = 1, direction: str = "forward", **attributes: Any
) -> onnx.ModelProto:
    """X [T, batch, inputs] → Y [T, D, batch, hidden] and the last states."""
    rng = np.random.default_rng(hidden)
    G, D = GATES[op], 2 if direction == "bidirectional" else 1
    shapes = {"W": (D, G * hidden, inputs), "R": (D, G * hidden, hidden), "B": (D, 2 * G * hidden)}
    weights = [numpy_helper.from_array((rng.standard_normal(s) / 3).astype(np.float32), n) for n, s in shapes.items()]
    ends = ["Y_h", "Y_c"] if op == "LSTM" else ["Y_h"]
    node = helper.make_node(op, ["X", "W", "R", "B"], ["Y", *ends], hidden_size=hidden, direction=direction, **attributes)
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    outputs = [value("Y", "T", D, batch, hidden), *(value(n, D, batch, hidden) for n in ends)]
    graph = helper.make_graph([node], "layer", [value("X", "T", batch, inputs)], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(recurrent("LSTM", 5, 19), tmp_path_factory.mktemp("pool"))


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 1}),
    ("LSTM", {}),
    ("LSTM", {"input_forget": 1, "clip": 0.7}),
]


@pytest.mark.parametrize(("cell", "size"), [*product(range(len(CELLS)), (SMALL, (40, 33))), (0, (64, 150)), (3, (64, 130))])
def test_tiles_of_streams_have_the_bits_of_one(cell: int, size: tuple[int, int], tmp_path: Path) -> None:
    op, attributes = CELLS[cell]
    agree_in_pool(loaded(recurrent(op, *size, **attributes), tmp_path), slots=11)


@pytest.mark.parametrize("name", [c.name for c in recurrent_cases() if c.N == 1][::40])
def test_cases_of_recurrent_operators(name: str, tmp_path: Path) -> None:
    proto, _ = build(next(c for c in recurrent_cases() if c.name == name))
    model = loaded(proto, tmp_path)
    if model._layout.refuses_stream or not any(p.per_frame for p in model.inputs):
        with pytest.raises(StreamError) if model._layout.refuses_stream else pytest.raises(ShapeError):
            model.pool(3).run(*frames(model, np.random.default_rng(0), 2, 3))
        return
    agree_in_pool(model)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_company_in_any_order(model: Model, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    slots = data.draw(st.integers(1, 40))
    pool, alone = model.pool(slots), [model.stream() for _ in range(slots)]
    for _ in range(data.draw(st.integers(1, 5))):
        which = rng.permutation(slots)[: data.draw(st.integers(0, slots))]
        action = data.draw(st.sampled_from(("step", "run", "reset", "restore")))
        if action == "step":
            (x,) = frames(model, rng, len(which))
            made = pool.step(x, which=which)
            for place, slot in enumerate(which):
                same([a[place] for a in made], alone[slot].step(x[place]))
        elif action == "run":
            lengths = rng.integers(0, 5, len(which))
            (x,) = frames(model, rng, 4, len(which))
            made = pool.run(x, which=which, lengths=lengths)
            for place, slot in enumerate(which):
                if lengths[place]:
                    expected = alone[slot].run(x[: lengths[place], place])
                    assert made.Y[: lengths[place], place].tobytes() == expected.Y.tobytes()
                    same((made.Y_h[place], made.Y_c[place]), expected[1:])
                assert not made.Y[lengths[place] :, place].any()
        elif action == "reset":
            pool.reset(which)
            for slot in which:
                alone[slot].reset()
        else:
            for slot in which:
                pool.state[slot] = alone[which[0]].state
                alone[slot].state[...] = alone[which[0]].state
        same_states(pool, alone)


def test_streams_move_in_and_out(model: Model) -> None:
    rng = np.random.default_rng(1)
    pool, stream = model.pool(4), model.stream()
    (xs,) = frames(model, rng, 6)
    stream.run(xs[:3])
    slot = pool.join()
    pool.state[slot] = stream.state
    expected = stream.step(xs[3])
    same([a[0] for a in pool.step(xs[3:4], which=[slot])], expected)
    view = pool.stream(slot)
    assert view.state.tobytes() == stream.state.tobytes()
    same(view.step(xs[4]), stream.step(xs[4]))
    assert pool.state[slot].tobytes() == stream.state.tobytes()
    assert pool.joined == [slot]
    pool.leave(slot)
    assert pool.join() == slot
    assert not pool.state[slot].any(), "a slot that is handed out again begins anew"


def test_slots_are_handed_out_once(model: Model) -> None:
    pool = model.pool(3)
    assert sorted(pool.join() for _ in range(3)) == [0, 1, 2]
    with pytest.raises(StreamError, match="all 3 slots"):
        pool.join()
    pool.leave(1)
    with pytest.raises(StreamError, match="not handed out"):
        pool.leave(1)
    assert pool.join() == 1


def test_threads_give_the_bits_of_one(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyrnn.runtime import pool_driver

    monkeypatch.setattr(pool_driver, "THREAD_WORK", 1)
    agree_in_pool(model, slots=13, threads=3)


def test_a_step_allocates_nothing_that_grows(model: Model) -> None:
    pool = model.pool(64)
    (x,) = frames(model, np.random.default_rng(2), 64)
    out = pool.step(x)
    for _ in range(3):
        pool.step(x, out=out)
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    for _ in range(50):
        pool.step(x, out=out)
    difference = tracemalloc.take_snapshot().compare_to(before, "filename")
    tracemalloc.stop()
    assert sum(s.size_diff for s in difference) < 20_000


def test_out_is_written_and_returned(model: Model) -> None:
    pool, other = model.pool(6), model.pool(6)
    (x,) = frames(model, np.random.default_rng(3), 6)
    out = other.step(x)
    for array in out:
        array[...] = -1
    given = tuple(out)
    made = pool.step(x, out=given)
    assert all(a is b for a, b in zip(made, given, strict=True))
    other.reset()
    same(made, other.step(x))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"which": [1, 1]}, "slot 1 is in which= more than once"),
    ({"which": [0, 9]}, "slot 9 is not in a pool of 5"),
    ({"which": [-1, 0]}, "slot -1 is not in a pool"),
    ({"which": [0.5, 1.5]}, "whole numbers"),
    ({"which": [[0, 1]]}, "whole numbers in one list"),
    ({"which": [0, 1, 2]}, "one frame for each of m streams"),
    ({"which": [0, 1], "out": 3}, "out has 1 arrays for 3 outputs"),
    ({"which": [0, 1], "out": (np.zeros((2, 1, 19), np.float64),) * 3}, "must be a writeable C-contiguous float32"),
]


@pytest.mark.parametrize(("options", "text"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_what_cannot_be_served_changes_nothing(model: Model, options: dict[str, Any], text: str) -> None:
    pool = model.pool(5)
    pool.step(*frames(model, np.random.default_rng(4), 5))
    before = pool.state.copy()
    with pytest.raises(ShapeError, match=text.replace("(", r"\(")):
        pool.step(*frames(model, np.random.default_rng(5), 2), **options)
    assert pool.state.tobytes() == before.tobytes()


def ahead_of_a_call(tmp_path: Path) -> Model:
    """y = a convolution that looks one frame ahead, plus c, which belongs to a call."""
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    rng = np.random.default_rng(0)
    W = numpy_helper.from_array(rng.standard_normal((6, 4, 3)).astype(np.float32), "W")
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[1, 2, 0]),
        helper.make_node("Conv", ["a", "W"], ["b"], pads=[1, 1]),
        helper.make_node("Transpose", ["b"], ["z"], perm=[2, 0, 1]),
        helper.make_node("Add", ["z", "c"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "ahead", [value("x", "T", 1, 4), value("c", 1, 6)], [value("y", "T", 1, 6)], [W])
    return loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path)


def test_a_tail_takes_what_the_last_call_of_its_stream_gave(tmp_path: Path) -> None:
    ahead, rng = ahead_of_a_call(tmp_path), np.random.default_rng(0)
    assert ahead.has_tail
    pool, alone = ahead.pool(3), [ahead.stream() for _ in range(3)]
    for which, single in (([2, 0], True), ([0, 1, 2], False), ([1, 2], True)):
        x, c = frames(ahead, rng, 4, len(which))
        made = pool.step(x[0], c, which=which) if single else pool.run(x, c, which=which, lengths=[4, 0, 2])
        for place, slot in enumerate(which):
            n = [4, 0, 2][place]
            if single or n:
                same(made[place], alone[slot].step(x[0, place], c[place]) if single else alone[slot].run(x[:n, place], c[place]))
    same(pool.stream(1).fork().flush(), alone[1].fork().flush())
    for tail, stream in zip(pool.flush(), alone, strict=True):
        same(tail, stream.flush())


@pytest.mark.parametrize("again", ["reset", "join"])
def test_a_new_sequence_knows_nothing_of_the_one_before(again: str, tmp_path: Path) -> None:
    ahead = ahead_of_a_call(tmp_path)
    pool = ahead.pool(1)
    x, c = frames(ahead, np.random.default_rng(1), 3, 1)
    pool.run(x, c)
    state = pool.state.copy()
    if again == "join":
        assert pool.join() == 0
    else:
        pool.reset()
    pool.state = state  # a restored stream needs what belongs to a call, as a lone one does
    with pytest.raises(StreamError, match="no call gave it before flush"):
        pool.flush()


def test_bad_lengths_and_types(model: Model) -> None:
    pool = model.pool(2)
    (x,) = frames(model, np.random.default_rng(6), 4, 2)
    for lengths, text in (
        ([1, 5], "from 0 to 4"),
        ([1], "2 whole numbers"),
        ([0.5, 1], "whole numbers"),
        ([-1, 2], "from 0 to 4"),
    ):
        with pytest.raises(ShapeError, match=text):
            pool.run(x, lengths=lengths)
    with pytest.raises(ShapeError, match="no frames"):
        pool.run(x[:0])
    with pytest.raises(ShapeError, match="it takes float32"):
        pool.step(np.array([["a"] * 5] * 2))
    for slots in (0, -1, 2.5, True):
        with pytest.raises(ShapeError, match="slots"):
            model.pool(slots)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="no memory for the states"):
        model.pool(1 << 60)
    with pytest.raises(CopyError):
        import copy

        copy.copy(pool)
    assert not pool.state.any()


def test_out_must_not_lie_in_the_states(tmp_path: Path) -> None:
    proto = recurrent("GRU", 4, 16)
    del proto.graph.output[1:]
    pool = loaded(proto, tmp_path).pool(3)
    with pytest.raises(ShapeError, match="own state"):
        pool.step(np.zeros((3, 4), np.float32), out=pool.state.reshape(3, 1, 16))


def test_an_index_out_of_range_changes_nothing(tmp_path: Path) -> None:
    table = numpy_helper.from_array(np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32), "table")
    proto = recurrent("LSTM", 5, 19)
    proto.graph.node.insert(0, helper.make_node("Gather", ["table", "ids"], ["X"]))
    proto.graph.initializer.append(table)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, ["T", 1]))
    model = loaded(proto, tmp_path)
    agree_in_pool(model)
    pool = model.pool(4)
    pool.step(np.array([1, 2, 3, 4]))
    before = pool.state.copy()
    for ids in ([0, 1, 2, 7], [-8, 0, 0, 0]):
        with pytest.raises(ShapeError, match="out of range; nothing was changed"):
            pool.step(np.array(ids))
        assert pool.state.tobytes() == before.tobytes()
    padded = np.array([[0, 1], [2, 99]])  # beyond the second stream's length
    pool.run(padded, which=[0, 1], lengths=[2, 1])


def test_one_call_at_a_time(model: Model) -> None:
    pool = model.pool(2)
    (x,) = frames(model, np.random.default_rng(7), 2)
    with pool._call:
        failed: list[BaseException] = []

        def step() -> None:
            try:
                pool.step(x)
            except StreamError as error:
                failed.append(error)

        other = threading.Thread(target=step)
        other.start()
        other.join()
    assert "in use by another thread" in str(failed[0])
    pool.step(x)


def test_a_closed_pool(model: Model) -> None:
    with model.pool(2, threads=2) as pool:
        pool.step(*frames(model, np.random.default_rng(8), 2))
    for use in (pool.join, pool.reset, lambda: pool.step(*frames(model, np.random.default_rng(8), 2))):
        with pytest.raises(StreamError, match="closed"):
            use()
    assert pool.state.any(), "its state remains"
    pool.close()
    with model.pool(2) as other:
        other.close()


def convolution(tmp_path: Path, pads: list[int], stride: int) -> Model:
    """Five frames wide; pads of [4, 0] see the past alone, of [2, 2] two frames to come."""
    weights = numpy_helper.from_array(np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32), "W")
    node = helper.make_node("Conv", ["X", "W"], ["Y"], pads=pads, strides=[stride])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "ahead", [value("X", TensorProto.FLOAT, [1, 4, "T"])], [value("Y", TensorProto.FLOAT, [1, 3, "T2"])], [weights]
    )
    return loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path)


def test_streams_that_are_late_have_counts_of_their_own(tmp_path: Path) -> None:
    model = convolution(tmp_path, [2, 2], 2)
    pool = agree_in_pool(model)
    assert pool.delay == model.delay == 2
    alone = [model.stream() for _ in range(5)]
    for slot, stream in enumerate(alone):
        stream.state[...] = pool.state[slot]
    for slot, tail in zip((3, 1), pool.flush([3, 1]), strict=True):
        same(tail, alone[slot].flush())
    with pytest.raises(StreamError, match="slot 1 has ended"):
        pool.step(*frames(model, np.random.default_rng(9), 2), which=[0, 1])
    with pytest.raises(StreamError):
        pool.stream(3).step(*(x[0] for x in frames(model, np.random.default_rng(9), 1)))
    pool.reset([1])
    pool.step(*frames(model, np.random.default_rng(9), 2), which=[0, 1])


def test_convolutions_over_the_past_go_side_by_side(tmp_path: Path) -> None:
    model = convolution(tmp_path, [4, 0], 1)
    assert model._pooled(2).tick
    agree_in_pool(model)


def test_the_whole_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="bidirectional"):
        loaded(recurrent("LSTM", *SMALL, direction="bidirectional"), tmp_path).pool(2)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_batch_is_streams(direction: str, side_by_side: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyrnn.runtime import pool_driver, sequences

    monkeypatch.setattr(sequences, "TICK_WORK", 0 if side_by_side else 1 << 62)
    monkeypatch.setattr(pool_driver, "THREAD_WORK", 1)
    proto = recurrent("GRU", *SMALL, "N", direction)
    model = loaded(proto, tmp_path)
    x = np.random.default_rng(10).standard_normal((9, 7, 3)).astype(np.float32)
    found = model.run(x)
    same(model.run(x, threads=2), found)
    for entry in range(7):
        same([np.take(a, [entry], -2) for a in found], model.run(x[:, entry : entry + 1]))
    for name, array in in_onnxruntime(proto, {"X": x}).items():
        np.testing.assert_allclose(getattr(found, name), array, atol=1e-5, rtol=1e-4)
    with pytest.raises(ShapeError, match="threads"):
        model.run(x, threads=0)


def test_a_pool_shares_the_weights_of_its_model(model: Model) -> None:
    assert model._pooled(4).tick and model._pooled(4).weights is None


def test_pools_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyrnn.targets import cpu

    path = tmp_path / "kept.onnx"
    onnx.save(recurrent("LSTM", 5, 19), path)
    tinyrnn.load(path).pool(4).step(np.ones((4, 5), np.float32))
    monkeypatch.setattr(cpu, "_compile", lambda *given: pytest.fail("compiled again"))
    agree_in_pool(tinyrnn.load(path))


@pytest.mark.parametrize("name", ["vqa", "char_lm", "gesture", "video", "sentiment", "caption_decoder", "digits"])
def test_packaged_models(name: str) -> None:
    """vqa and the caption's decoder have inputs that belong to a call: what follows from them is computed once."""
    agree_in_pool(tinyrnn.load(PACKAGED / f"{name}.onnx"))


def test_what_belongs_to_a_call_is_computed_with_its_first_frame() -> None:
    model = tinyrnn.load(PACKAGED / "vqa.onnx")
    plan = make_stream_plan(model._source.plan, 16, 32, 1 << 20)
    assert plan is not None
    page = generate_pool(model._source.plan, plan).text
    first = page[page.index("if frame == 0:") :]
    assert " ∗ W" in first and " ∗ W" not in page[: page.index("if frame == 0:")], "the convolutions of the image"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED}, with real models, is not here")
@pytest.mark.parametrize("name", ["dtln_model_1", "dtln_model_2", "gtcrn_simple", "silero_vad_16k_op15", "g2p_id_decoder"])
def test_real_models(name: str) -> None:
    model = tinyrnn.load(SHARED / "models" / f"{name}.onnx", bind={"sr": 16000} if "silero" in name else None)
    agree_in_pool(model, slots=20)
