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
