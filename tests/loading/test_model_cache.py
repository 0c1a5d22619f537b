"""Whole models in the cache: the same model again, without its file being read, and never another's."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import MODELS
from tests.hostile import onnx_file
from tinyrnn.cli import main
from tinyrnn.loading import model_cache
from tinyrnn.loading import stages as compiler
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.targets import cache, keys

PACKAGED = Path(tinyrnn.__file__).parent / "models"
FILES = {
    "sequence": MODELS / "lstm_l1_uni_sf_zero_dynT_b1_legacy.onnx",
    "step": MODELS / "cell_gru_legacy.onnx",
    "strides": PACKAGED / "video.onnx",
    "whole": MODELS / "lstm_l1_bi_sf_zero_fixT_b2_legacy.onnx",
    "language": PACKAGED / "char_lm.onnx",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(folder: Path) -> list[Path]:
    return sorted((folder / cache.MODELS).glob("*"))


def from_cache(model: tinyrnn.Model) -> bool:
    """Whether the model came as a whole."""
    return callable(model._made_from)


def scaled(path: Path, factor: float) -> Path:
    """y = factor · x"""
    return onnx_file(
        path,
        [helper.make_node("Mul", ["x", "k"], ["y"])],
        shape=("T", 1, 3),
        constants=[numpy_helper.from_array(np.array(factor, np.float32), "k")],
    )


def bits(model: tinyrnn.Model, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    given = {}
    for port in (*model._layout.inputs, *model._layout.state_inputs):
        shape = [6 if isinstance(n, str) else n for n in port.file_shape]
        values = rng.standard_normal(shape) if port.dtype.kind == "f" else rng.integers(0, 9, shape)
        given[port.name] = values.astype(port.dtype)
    made = model.run({name: given[name] for name in model._layout.file_inputs})
    return [np.asarray(each).tobytes() for each in (made if isinstance(made, tuple) else [made])]


@pytest.mark.parametrize("what", FILES)
def test_it_is_the_same_model(what: str, folder: Path) -> None:
    first, second = tinyrnn.load(FILES[what]), tinyrnn.load(FILES[what])
    assert not from_cache(first) and from_cache(second) and len(kept(folder)) == 1
    assert str(first) == str(second) and first.metadata == second.metadata and first.kind == second.kind
    assert [*first.inputs, *first.outputs, *first.states] == [*second.inputs, *second.outputs, *second.states]
    assert (first.delay, first.has_tail) == (second.delay, second.has_tail)
    a, b = first._layout, second._layout
    assert {name: value for name, value in vars(a).items() if not isinstance(value, (np.ndarray, dict))} == {
        name: value for name, value in vars(b).items() if not isinstance(value, (np.ndarray, dict))
    }
    assert np.array_equal(a.initial_state, b.initial_state) and np.array_equal(a.weights, b.weights)
    assert b.weights.ctypes.data % 64 == 0
    assert bits(first) == bits(second)


def test_neither_the_compiler_nor_a_reader_is_imported() -> None:
    tinyrnn.load(FILES["sequence"])
    code = f"import sys, tinyrnn; m = tinyrnn.load({str(FILES['sequence'])!r}); m.stream(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True)
    unwanted = {
        "numba",
        "onnx",
        "tinyrnn.loading.stages",
        "tinyrnn.ops",
        "tinyrnn.passes",
        "tinyrnn.compile.plan",
        "importlib.metadata",
    }
    assert not unwanted & set(done.stdout.split())


def test_other_contents_another_name_and_other_options_are_other_models(folder: Path, tmp_path: Path) -> None:
    path, x = scaled(tmp_path / "m.onnx", 2.0), np.ones((4, 1, 3), np.float32)
    assert tinyrnn.load(path).run(x)[0, 0, 0] == 2
    scaled(path, 3.0)
    assert tinyrnn.load(path).run(x)[0, 0, 0] == 3 and len(kept(folder)) == 2
    (tmp_path / "n.onnx").write_bytes(path.read_bytes())
    assert tinyrnn.load(tmp_path / "n.onnx").name == "n" and len(kept(folder)) == 3
    assert tinyrnn.load(path, bind={"T": 4}).inputs[0].file_shape != tinyrnn.load(path).inputs[0].file_shape
    assert len(kept(folder)) == 4
    with pytest.raises(tinyrnn.LoadError, match="outputs"):
        tinyrnn.load(path, outputs=7)  # type: ignore[arg-type]


def options(value: Any) -> str:
    return model_cache.file_name(b"model", {"bind": {"a": value}})


def test_values_of_options_are_told_apart() -> None:
    one = np.array([1.0, 2.0], np.float32)
    values = [
        1,
        1.0,
        "1",
        True,
        None,
        [1],
        {"1": 1},
        one,
        one.astype(np.float64),
        one[::-1],
        one.reshape(2, 1),
        np.float32(1),
        float("nan"),
    ]
    names = [options(value) for value in values]
    assert len({*names}) == len(values) and "" not in names
    assert options(one) == options(one.copy())
    assert options(object()) == options(np.array([None])) == "", "what no text tells apart is not kept"


def test_bytes_are_kept_and_what_can_change_is_not(folder: Path) -> None:
    data = FILES["step"].read_bytes()
    assert not from_cache(tinyrnn.load(data)) and from_cache(tinyrnn.load(data))
    assert not from_cache(tinyrnn.load(bytearray(data))) and not from_cache(tinyrnn.load(onnx.load_from_string(data)))
    assert len(kept(folder)) == 1
    (folder.parent / "model").write_bytes(data)
    assert tinyrnn.load(folder.parent / "model").name == "model" != tinyrnn.load(data).name


def test_weights_beside_the_file_are_part_of_it(folder: Path, tmp_path: Path) -> None:
    path, x = scaled(tmp_path / "m.onnx", 2.0), np.ones((4, 1, 3), np.float32)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert tinyrnn.load(path).run(x)[0, 0, 0] == 2 and from_cache(tinyrnn.load(path))
    (tmp_path / "m.data").write_bytes(np.array(5.0, np.float32).tobytes())
    assert tinyrnn.load(path).run(x)[0, 0, 0] == 5
    assert from_cache(tinyrnn.load(path)) and tinyrnn.load(path).run(x)[0, 0, 0] == 5
    (tmp_path / "m.data").unlink()
    with pytest.raises(tinyrnn.LoadError, match=r"m\.data"):
        tinyrnn.load(path)


def test_weights_that_change_while_they_are_read_are_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scaled(tmp_path / "m.onnx", 2.0)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    keep = model_cache.keep

    def late(*given: Any) -> None:
        os.utime(tmp_path / "m.data", (1, 1))
        keep(*given)

    monkeypatch.setattr(model_cache, "keep", late)
    tinyrnn.load(path)
    assert not kept(folder)


def test_its_stages_are_made_when_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(FILES["sequence"].read_bytes())
    first = tinyrnn.load(path)
    model = tinyrnn.load(path)
    tinyrnn.save(model, tmp_path / "saved.npz")
    assert bits(tinyrnn.load(tmp_path / "saved.npz")) == bits(first)
    x = np.random.default_rng(0).standard_normal((5, 1, model.inputs[0].shape[-1])).astype(np.float32)
    (layer,) = first.trace(x).layers
    assert np.array_equal(tinyrnn.load(path).trace(x).layers[layer].h, first.trace(x).layers[layer].h)
    result = CliRunner().invoke(main, ["inspect", str(path), "--plan", "--timing"])
    assert result.exit_code == 0 and str(first._source.plan) in result.output and "passes" in result.output
    changed = tinyrnn.load(path)
    scaled(path, 1.0)
    with pytest.raises(tinyrnn.LoadError, match="has changed since"):
        tinyrnn.save(changed, tmp_path / "saved.npz")


def similar(path: Path) -> Path:
    """y = x xᵀ, whose size the file leaves open in axes that are no time."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    return onnx_file(path, nodes, shape=(1, "N", "M"), constants=[])


def test_models_with_run_time_sizes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rng = similar(tmp_path / "m.onnx"), np.random.default_rng(0)
    given = [rng.standard_normal((1, n, m)).astype(np.float32) for n, m in ((5, 4), (6, 9), (5, 4), (33, 7))]
    first = tinyrnn.load(path)
    assert isinstance(first, DynamicShapeModel) and not from_cache(first) and len(kept(folder)) == 1
    expected = [first.run(x) for x in given]
    assert len(kept(folder)) == 2, "of the sizes that come the first are kept"
    again = tinyrnn.load(path)
    assert isinstance(again, DynamicShapeModel) and from_cache(again) and str(again) == str(first) and again.kind == first.kind
    compiled: list[Any] = []
    made = compiler.compile_file
    monkeypatch.setattr(compiler, "compile_file", lambda *a, **k: compiled.append(a) or made(*a, **k))
    assert np.array_equal(again.run(given[0]), expected[0]) and not compiled
    assert all(np.array_equal(again.run(x), y) for x, y in zip(given, expected, strict=True)) and len(compiled) == 1
    assert np.allclose(expected[1], given[1] @ given[1].transpose(0, 2, 1), atol=1e-5)
    with pytest.raises(tinyrnn.ShapeError, match="the file says"):
        again.run(given[0][0])
    path.unlink()
    assert np.array_equal(again.run(given[3]), expected[3]), "what was compiled needs no file"


def test_warnings_are_said_each_time(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["r"], "noise"), helper.make_node("Add", ["x", "r"], ["y"])]
    path = onnx_file(tmp_path / "m.onnx", nodes, shape=("T", 1, 3), constants=[])
    texts = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            tinyrnn.load(path)
        assert [w.filename for w in found] == [__file__]
        texts.append([str(w.message) for w in found])
    assert texts[0] == texts[1] and "no seed" in texts[0][0]


@pytest.mark.parametrize("damage", ["emptied", "one bit", "cut short", "no code"])
def test_a_damaged_one_is_made_anew(damage: str, folder: Path) -> None:
    first = tinyrnn.load(FILES["step"])
    (entry,) = kept(folder)
    data = bytearray(entry.read_bytes())
    if damage == "no code":
        next(folder.glob("*.o")).unlink()
    else:
        data[len(data) // 2] ^= 1
        entry.write_bytes({"emptied": b"", "one bit": bytes(data), "cut short": bytes(data[:100])}[damage])
    again = tinyrnn.load(FILES["step"])
    assert not from_cache(again) and bits(again) == bits(first)
    assert from_cache(tinyrnn.load(FILES["step"]))


def test_another_version_finds_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tinyrnn.load(FILES["step"])
    monkeypatch.setattr(keys, "package", lambda: b"another")
    monkeypatch.setattr(model_cache, "package", lambda: b"another")
    assert not from_cache(tinyrnn.load(FILES["step"])) and len(kept(folder)) == 2


def test_a_model_too_large_for_the_cache_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = tinyrnn.load(FILES["language"])._layout.weights.nbytes
    assert len(kept(folder)) == 1
    kept(folder)[0].unlink()
    monkeypatch.setenv(cache.SIZE_VARIABLE, str(3 * size))
    tinyrnn.load(FILES["language"])
    assert not kept(folder)


def test_types_that_numpy_lacks_are_not_kept(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 is ml_dtypes'")
    model = onnx.load(scaled(tmp_path / "m.onnx", 2.0))
    model.graph.node[0].output[0] = "wide"
    model.graph.node.append(helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.BFLOAT16))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ("T", 1, 3)))
    onnx.save(model, path := tmp_path / "m.onnx")
    for _ in range(2):
        loaded = tinyrnn.load(path)
        assert loaded.outputs[0].dtype.name == "bfloat16" and not from_cache(loaded)
    assert not kept(folder)


def test_the_list_names_models(folder: Path) -> None:
    tinyrnn.load(FILES["step"])
    kept_name = FILES["step"].stem
    listed = CliRunner().invoke(main, ["cache", "list"]).output
    assert kept_name in listed and "1 models, code of 1" in listed
    kept(folder)[0].write_bytes(b"\xff" * 20)
    assert CliRunner().invoke(main, ["cache", "list"]).exit_code == 0
