"""`Model.run` again and again with arrays of the same shapes: a prepared call gives the bits of the first."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import ROOT
from tests.driving import loaded
from tests.pools import same
from tinyrnn.bench import cell_model
from tinyrnn.errors import ShapeError
from tinyrnn.runtime import pool_driver, sequences

PACKAGED = ROOT / "tinyrnn" / "models"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tinyrnn.Model:
    path = tmp_path_factory.mktemp("single") / "lstm.onnx"
    cell_model("LSTM", 7, path)
    return tinyrnn.load(path)


def feed(frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal((t, 1, 7)).astype(np.float32) for n, t in (("X", frames), ("initial_h", 1), ("initial_c", 1))}


def fresh(model: tinyrnn.Model, given: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """What a call that is not prepared gives."""
    kept, model._prepared = model._prepared, {}
    try:
        return model.run(given)
    finally:
        model._prepared = kept


def test_the_same_bits_each_time(model: tinyrnn.Model) -> None:
    for frames in (1, 5, 600):
        for seed in range(3):
            given = feed(frames, seed)
            found = model.run(given)
            same(found, fresh(model, given))
            same(model.run(*given.values()), found)
    assert all(len(calls) == 1 for calls in model._prepared.values())


def test_what_a_prepared_call_does_not_take_goes_the_long_way(model: tinyrnn.Model) -> None:
    given = feed(6)
    expected = model.run(given)
    doubled = {name: array.astype(np.float64) for name, array in given.items()}
    apart = {name: np.repeat(array, 2, axis=2)[:, :, ::2] for name, array in given.items()}
    lists = {name: array.tolist() for name, array in given.items()}
    for other in (doubled, apart, lists):
        same(model.run(other), expected)
    with pytest.raises(ShapeError, match="the file says"):
        model.run({**given, "initial_h": given["X"]})
    result = model.run(given)
    result.Y[...] = 0
    same(model.run(given), expected)


def test_an_index_out_of_range(tmp_path: Path) -> None:
    table = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("Tanh", ["rows"], ["y"])],
        "rows",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 3])],
        [table],
    )
    model = loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path)
    ids = np.array([0, 1, 2, 3, -1])
    expected = model.run(ids)
    for _ in range(2):
        with pytest.raises(ShapeError, match="out of range"):
            model.run(np.array([0, 1, 2, 3, 4]))
        same(model.run(ids), expected)


def test_many_threads(model: tinyrnn.Model) -> None:
    given = [feed(40, seed) for seed in range(6)]
    expected = [model.run(x) for x in given]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(60):
            found = model.run(given[index])
            if any(a.tobytes() != b.tobytes() for a, b in zip(found, expected[index], strict=True)):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_that_another_thread_has_taken(model: tinyrnn.Model) -> None:
    class Taken(list):
        """Is there when it is looked for, and gone when it is taken."""

        def __bool__(self) -> bool:
            return True

    given = feed(4)
    expected = model.run(given)
    model._prepared[tuple(a.shape for a in given.values())] = Taken()
    same(model.run(given), expected)


BATCH = 3


def layer(direction: str, start: str, layout: int) -> onnx.ModelProto:
    """A GRU over a batch whose initial states are absent, an input, or constants that differ from entry to entry."""
    rng, ways = np.random.default_rng(2), 1 + (direction == "bidirectional")
    weights = {"W": (ways, 15, 4), "R": (ways, 15, 5), "B": (ways, 30), "h0": (BATCH, ways, 5) if layout else (ways, BATCH, 5)}
    if start != "constant":
        weights.pop("h0")
    inputs = {"x": ["N", "T", 4] if layout else ["T", "N", 4]}
    if start == "input":
        inputs["h0"] = ["N", ways, 5] if layout else [ways, "N", 5]
    if start == "constant":
        inputs["x"][inputs["x"].index("N")] = BATCH
    node = helper.make_node(
        "GRU",
        ["x", "W", "R", "B", "", "h0" if start != "absent" else ""],
        ["Y", "Y_h"],
        hidden_size=5,
        direction=direction,
        layout=layout,
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("Y", "Y_h")],
        [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), n) for n, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("start", ["absent", "input", "constant"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_batch(direction: str, start: str, layout: int, tmp_path: Path) -> None:
    proto = layer(direction, start, layout)
    model, rng, ways = loaded(proto, tmp_path), np.random.default_rng(4), 1 + (direction == "bidirectional")
    for frames in (1, 4, 300):
        given = {"x": rng.standard_normal((BATCH, frames, 4) if layout else (frames, BATCH, 4)).astype(np.float32)}
        if start == "input":
            given["h0"] = rng.standard_normal((BATCH, ways, 5) if layout else (ways, BATCH, 5)).astype(np.float32)
        expected = model.run(given)
        for threads in (1, 2):
            same(model.run(given, threads=threads), expected)
        same(model.run({name: array.astype(np.float64) for name, array in given.items()}), expected)
        same(model.run({name: np.repeat(array, 2, axis=2)[:, :, ::2] for name, array in given.items()}), expected)
        assert len(model._prepared[tuple(a.shape for a in given.values())]) == 1
        if start == "constant":
            continue
        for entry in range(BATCH):
            alone = model.run({n: a[entry : entry + 1] if layout else a[:, entry : entry + 1] for n, a in given.items()})
            y, last = (a[entry] if layout else a[..., entry, :] for a in expected)
            same([a.reshape(-1) for a in alone], [np.ascontiguousarray(a).reshape(-1) for a in (y, last)])


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_constants_of_each_entry_are_what_inputs_would_be(
    direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant = layer(direction, "constant", 0)
    h0 = next(numpy_helper.to_array(w) for w in constant.graph.initializer if w.name == "h0")
    for name in ("fixed", "free"):
        (tmp_path / name).mkdir()
    fixed, free = loaded(constant, tmp_path / "fixed"), loaded(layer(direction, "input", 0), tmp_path / "free")
    for frames in (2, 2, 300, 300):
        x = np.random.default_rng(frames).standard_normal((frames, BATCH, 4)).astype(np.float32)
        same(fixed.run(x), free.run(x, h0))
    assert "h0" in fixed._layout.refuses_stream or direction != "forward"
    monkeypatch.setattr(sequences, "TICK_WORK", 0)
    monkeypatch.setattr(pool_driver, "THREAD_WORK", 1)
    assert fixed._pooled(BATCH).tick == (direction == "forward")
    for threads in (1, 2):
        fixed._prepared.clear()
        same(fixed.run(x, threads=threads), free.run(x, h0))
    with pytest.raises(ShapeError, match="a batch of 2, but the file's constant 'h0' has 3 entries"):
        fixed.run(x[:, :2])


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    shape = ["T", 2, 3]
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["y"])],
        "through",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("y", "x")],
    )
    model = loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((5, 2, 3)).astype(np.float32)
        y, through = model.run(x)
        assert np.allclose(y, np.tanh(x), atol=1e-6)
        same(through, x)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_only_output_is_a_state(batch: int, tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "h"], ["sum"]), helper.make_node("Tanh", ["sum"], ["h_out"])]
    graph = helper.make_graph(
        nodes,
        "state",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 3]) for n in ("x", "h")],
        [helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [batch, 3])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = loaded(proto, tmp_path, states={"h": "h_out"})
    for seed in range(50):
        x, h = np.random.default_rng(seed).standard_normal((2, batch, 3)).astype(np.float32)
        same(model.run(x, h), fresh(model, {"x": x, "h": h}))
    (call,) = model._prepared[x.shape, h.shape]
    (way,) = call.outputs
    assert way.copied is None and call.table[way.place], "its address is not that of the result"


@pytest.mark.parametrize("name", ["sentiment", "vqa", "translate_encoder", "char_lm", "digits", "video"])
def test_packaged_models(name: str) -> None:
    model = tinyrnn.load(PACKAGED / f"{name}.onnx")
    rng, given = np.random.default_rng(1), {}
    for value in onnx.load(PACKAGED / f"{name}.onnx").graph.input:
        sizes = {"N": 1, "T": 9}
        shape = [
            d.dim_value or sizes.get(d.dim_param, 1 if "batch" in d.dim_param else 9) for d in value.type.tensor_type.shape.dim
        ]
        whole = value.type.tensor_type.elem_type == TensorProto.INT64
        given[value.name] = rng.integers(0, 5, shape) if whole else rng.standard_normal(shape).astype(np.float32)
    first = model.run(given)
    same(model.run(given), first)
