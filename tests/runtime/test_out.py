"""`out=` and `rows` where outputs do not have one row for each frame: the bits of a stream without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import loaded
from tinyrnn.bench.counts import count_allocations

Array = np.ndarray[Any, Any]
SIZE, FRAMES = 3, 17
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("Conv", {"pads": [2, 0]}),
    "valid": ("Conv", {"pads": [0, 0]}),
    "look-ahead": ("Conv", {"pads": [0, 2]}),
    "strided": ("Conv", {"pads": [1, 0], "strides": [2]}),
    "upsampling": ("ConvTranspose", {"strides": [3]}),
}


def model_of(kind: str, outputs: list[str], per_call_input: bool = False) -> onnx.ModelProto:
    """x [1, SIZE, T] → a convolution over time → GRU → y by frame, h by call, and x itself as z."""
    op, attributes = KINDS[kind]
    rng = np.random.default_rng(0)
    shapes = {"K": (SIZE, SIZE, 3), "W": (1, 12, SIZE), "R": (1, 12, 4), "B": (1, 24)}
    nodes = [
        helper.make_node(op, ["x", "K"], ["conv"], **attributes),
        helper.make_node("Transpose", ["conv"], ["first"], perm=[2, 0, 1]),
        helper.make_node("Add", ["first", "v"] if per_call_input else ["first", "first"], ["t"]),
        helper.make_node("GRU", ["t", "W", "R", "B"], ["y", "h"], hidden_size=4, linear_before_reset=1),
        helper.make_node("Tanh", ["x"], ["z"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIZE, "T"])]
    if per_call_input:
        inputs.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [SIZE]))
    graph = helper.make_graph(
        nodes,
        "clocks",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def listed(made: Any) -> list[Any]:
    return list(made) if isinstance(made, tuple) else [made]


def given(outs: list[Array]) -> Any:
    return outs[0] if len(outs) == 1 else outs


def same(found: Any, expected: Any) -> None:
    for a, b in zip(listed(found), listed(expected), strict=True):
        assert (a is None and b is None) or (a.shape == b.shape and a.tobytes() == b.tobytes())


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("outputs", [["y"], ["y", "h", "z"], ["h"]], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_out(kind: str, outputs: list[str], direct: bool, tmp_path: Path) -> None:
    model = loaded(model_of(kind, outputs), tmp_path)
    x = np.random.default_rng(1).standard_normal((FRAMES, SIZE)).astype(np.float32)
    plain, stream = model.stream(), model.stream()
    if not direct:
        x = x.astype(np.float64)  # compiled code declines it
    outs = [np.empty(p.step_shape, p.dtype) for p in model.outputs]
    clocks = [p.clock if p.per_frame else None for p in model.outputs]

    for t in range(FRAMES):
        expected, rows = plain.step(x[t]), listed(stream.rows())
        made = stream.step(x[t], out=given(outs))
        same(made, expected)
        for i, (clock, array, out) in enumerate(zip(clocks, listed(made), outs, strict=True)):
            assert array is None or np.shares_memory(array, out) or not array.size
            if clock is None:
                assert rows[i] is None
                continue
            now = clock.count(t + 1) - clock.count(t)
            assert rows[i] == now == (0 if array is None else len(array) if model.outputs[i].several else 1)
    assert plain.state.tobytes() == stream.state.tobytes()
    for size in (1, 5, 17):
        same(plain.run(x[:size]), stream_run(stream, x[:size]))
    assert plain.state.tobytes() == stream.state.tobytes()
    same(plain.flush(), stream.flush())
    for array in (x[0], x[0].astype(np.float32)) if model.has_tail else ():
        for call in (lambda a=array: stream.step(a), lambda a=array: stream.step(a, out=given(outs)), stream.rows):
            with pytest.raises(tinyrnn.StreamError, match="reset"):
                call()


def stream_run(stream: tinyrnn.Stream, x: Array) -> Any:
    """`run` into the start of arrays that are larger than the rows."""
    rows = listed(stream.rows(len(x)))
    room = [np.empty((100, *p.shape) if p.per_frame else p.shape, p.dtype) for p in stream.model.outputs]
    outs = [r if n is None else r[:n] for r, n in zip(room, rows, strict=True)]
    made = stream.run(x, out=given(outs))
    assert all(a is b for a, b in zip(listed(made), outs, strict=True))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_out_that_does_not_fit(kind: str, tmp_path: Path) -> None:
    model = loaded(model_of(kind, ["y"]), tmp_path)
    x = np.random.default_rng(2).standard_normal((FRAMES, SIZE)).astype(np.float32)
    stream = model.stream()
    stream.run(x)
    (port,) = model.outputs
    rows, before = stream.rows(7), stream.state.copy()
    exact = np.empty((rows, *port.shape), np.float32)
    for wrong in (np.empty((rows + 1, *port.shape), np.float32), exact.astype(np.float64), exact[..., ::2], None if rows else 0):
        if wrong is None:
            continue
        with pytest.raises(tinyrnn.ShapeError) as error:
            stream.run(x[:7], out=wrong)
        assert str([rows, *port.shape]) in str(error.value)
        assert rows == 7 or "stream.rows(7)" in str(error.value)
        assert stream.state.tobytes() == before.tobytes()
    frame = np.empty(port.step_shape, np.float32)
    short = frame[: stream.rows() - 1] if port.several else frame[..., :-1].copy()
    for wrong in (short, frame.astype(np.float64), frame[None], 5):
        with pytest.raises(tinyrnn.ShapeError, match="has room for any" if port.several else "must be a|0 arrays"):
            stream.step(x[0], out=wrong)
        assert stream.state.tobytes() == before.tobytes()
    for wrong in (-1, 1.5, "x"):
        with pytest.raises(tinyrnn.ShapeError, match="rows of"):
            stream.rows(wrong)  # type: ignore[arg-type]


def test_an_output_over_the_input(tmp_path: Path) -> None:
    """What `out` overwrites is read before."""
    model = loaded(model_of("upsampling", ["z", "y"]), tmp_path)
    x = np.random.default_rng(3).standard_normal((FRAMES, SIZE)).astype(np.float32)
    plain, stream = model.stream(), model.stream()
    y = np.empty(model.outputs[1].step_shape, np.float32)
    for frame in x:
        expected = plain.step(frame)
        same(stream.step(frame, out=[frame, y]), expected)


@pytest.mark.parametrize("kind", ["valid", "upsampling"])
def test_an_input_of_a_call_is_kept_for_the_flush(kind: str, tmp_path: Path) -> None:
    model = loaded(model_of(kind, ["y"], per_call_input=True), tmp_path)
    x = np.random.default_rng(4).standard_normal((FRAMES, SIZE)).astype(np.float32)
    v = np.arange(SIZE, dtype=np.float32)
    plain, stream = model.stream(), model.stream()
    whole = np.concatenate([plain.run(x, v), plain.flush()])
    out = np.empty(model.outputs[0].step_shape, np.float32)
    parts = []
    for frame in x:
        mine = v.copy()
        made = stream.step(frame, mine, out=out)
        mine[:] = np.nan
        parts += [] if made is None else [made.reshape(-1, *model.outputs[0].shape).copy()]
    assert np.array_equal(np.concatenate([*parts, stream.flush()]), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_into_given_arrays_makes_none(kind: str, tmp_path: Path) -> None:
    model = loaded(model_of(kind, ["y"]), tmp_path)
    stream, x = model.stream(), np.ones(SIZE, np.float32)
    out = np.empty(model.outputs[0].step_shape, np.float32)
    counted = count_allocations(lambda: stream.step(x, out=out))
    assert counted is not None
    assert counted.bytes == 0 or model.outputs[0].several  # there a view comes back
