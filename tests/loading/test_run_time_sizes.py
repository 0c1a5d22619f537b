"""`check`, `bench` and `inspect` of models whose code has to know a size that the file leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import tinyrnn
from tests.driving import in_onnxruntime
from tests.whole.families import Maker
from tinyrnn.bench import bench
from tinyrnn.check import check
from tinyrnn.cli import main
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel


def attention() -> onnx.ModelProto:
    """A step that attends to a memory [1, S, 6] and keeps h."""
    m = Maker(np.random.default_rng(1))
    scores = m.add("MatMul", m.add("MatMul", "h", m.weight(8, 6)), m.add("Transpose", "memory", perm=[0, 2, 1]))
    context = m.add("Reshape", m.add("MatMul", m.add("Softmax", scores, axis=-1), "memory"), m.constant(np.array([1, 6])))
    made = m.add("Add", m.add("MatMul", context, m.weight(6, 8)), m.add("MatMul", "h", m.weight(8, 8)))
    m.nodes.append(helper.make_node("Tanh", [made], ["h_out"]))
    return m.model({"h": [1, 8], "memory": [1, "S", 6]}, [m.add("MatMul", "h_out", m.weight(8, 4)), "h_out"])


def backwards() -> onnx.ModelProto:
    """A whole sequence [T, 1, 3], turned round before a GRU by the lengths of its own shape."""
    m = Maker(np.random.default_rng(2))
    length = m.add("Slice", m.add("Shape", "x"), *(m.constant(np.array([n])) for n in (0, 1)))
    turned = m.add("ReverseSequence", "x", length, time_axis=0, batch_axis=1)
    made = m.add("GRU", turned, m.weight(1, 12, 3), m.weight(1, 12, 4), hidden_size=4)
    return m.model({"x": ["T", 1, 3]}, [made])


MODELS = {"attention": attention, "backwards": backwards}


@pytest.fixture(params=MODELS)
def path(request: Any, tmp_path: Path) -> Path:
    file = tmp_path / f"{request.param}.onnx"
    onnx.save(MODELS[request.param](), file)
    assert isinstance(tinyrnn.load(file), DynamicShapeModel)
    return file


def test_check_passes_and_tells_a_wrong_model(path: Path) -> None:
    report = check(path, frames=40)
    assert report.passed, str(report)
    rng = np.random.default_rng(3)
    for size in (2, 23):
        proto = onnx.load(path)
        data = {
            i.name: rng.standard_normal([d.dim_value or size for d in i.type.tensor_type.shape.dim]).astype(np.float32)
            for i in proto.graph.input
        }
        assert check(path, data=data).passed
        model = tinyrnn.load(path)
        for name, wanted in in_onnxruntime(proto, data).items():
            made = model.run(data)
            found = made if not isinstance(made, tuple) else made[list(model._layout.file_outputs).index(name)]
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_bench_measures_it(path: Path) -> None:
    result = bench(path, frames=30, seconds=0.2, loading=False)
    assert result.run
    assert bool(result.step) == (path.stem == "attention")


@pytest.mark.parametrize("words", [["check", "--frames", "20"], ["bench", "--frames", "20", "--seconds", "0.1"], ["inspect"]])
def test_the_commands(words: list[str], path: Path) -> None:
    command, *options = words
    result = CliRunner().invoke(main, [command, str(path), *options, "--json"])
    assert result.exit_code == 0, result.output
    assert path.stem in json.dumps(json.loads(result.stdout))
