"""Random operators: distributions, and the same numbers again in any chunks; without a seed, with one that is said."""

from __future__ import annotations

import warnings
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from tests.driving import loaded, streamed, whole
from tinyrnn import LoadError
from tinyrnn.check import check
from tinyrnn.cli import main
from tinyrnn.ops import random as draws

Array = np.ndarray[Any, Any]
F, COUNT = TensorProto.FLOAT, 20000


def _model(op: str, shape: list[str | int], code: int = F, **attributes: Any) -> onnx.ModelProto:
    """x → op → y, and z = tanh(x)."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], "draw", **attributes), helper.make_node("Tanh", ["x"], ["z"], "tanh")],
        "random",
        [helper.make_tensor_value_info("x", F, shape)],
        [helper.make_tensor_value_info("y", code, None), helper.make_tensor_value_info("z", F, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _drawn(folder: Path, op: str, x: Array, code: int = F, **attributes: Any) -> Array:
    return whole(loaded(_model(op, list(x.shape), code, **attributes), folder), {"x": x})["y"]


def _fits(samples: Array, distribution: Any) -> None:
    """The largest distance between the distribution and that of the samples is one that 99.9 % of all draws stay below."""
    ordered = np.sort(samples.ravel())
    below = np.array([distribution(float(v)) for v in ordered])
    steps = np.arange(ordered.size + 1) / ordered.size
    distance = max(np.abs(below - steps[1:]).max(), np.abs(below - steps[:-1]).max())
    assert distance < 1.95 / np.sqrt(ordered.size), distance


def test_normal(tmp_path: Path) -> None:
    made = _drawn(tmp_path, "RandomNormalLike", np.zeros((1, COUNT), np.float32), seed=3.0, mean=2.0, scale=0.5)
    _fits(made, NormalDist(2.0, 0.5).cdf)
    neighbours = np.corrcoef(made[0, :-1], made[0, 1:])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(COUNT)


def test_normal_over_every_draw() -> None:
    """The formula of `normal_of`, in float64, against the distribution at every hundredth of the possible draws."""
    k = np.arange(0, draws.RANGE, 99_991)
    q = (k + 0.5) / draws.RANGE - 0.5
    r, far = 0.180625 - q * q, np.sqrt(-np.log(0.5 - np.abs(q))) - 1.6
    centre = q * np.polyval(draws.CENTRE_OVER[::-1], r) / np.polyval(draws.CENTRE_UNDER[::-1], r)
    tail = np.sign(q) * np.polyval(draws.TAIL_OVER[::-1], far) / np.polyval(draws.TAIL_UNDER[::-1], far)
    exact = [NormalDist().inv_cdf(p) for p in q + 0.5]
    np.testing.assert_allclose(np.where(np.abs(q) <= 0.425, centre, tail), exact, rtol=1e-6)


def test_uniform(tmp_path: Path) -> None:
    made = _drawn(tmp_path, "RandomUniformLike", np.zeros((1, COUNT), np.float32), seed=4.0, low=-1.0, high=3.0)
    assert made.min() >= -1 and made.max() <= 3
    _fits(made, lambda v: (v + 1) / 4)


def test_splitmix() -> None:
    """The first numbers from 0, of the authors' own program."""
    state, found, mask = 0, [], (1 << 64) - 1
    for _ in range(3):
        state = (state + int(draws.STEP)) & mask
        z = ((state ^ (state >> 30)) * int(draws.FIRST)) & mask
        z = ((z ^ (z >> 27)) * int(draws.SECOND)) & mask
        found.append(z ^ (z >> 31))
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_uniform_is_splitmix(tmp_path: Path) -> None:
    made = _drawn(tmp_path, "RandomUniformLike", np.zeros((1, 3), np.float32), seed=0.0)
    wanted = [(n >> 40) / (1 << 24) for n in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)]
    assert made.ravel().tolist() == wanted


def test_bernoulli(tmp_path: Path) -> None:
    p = np.repeat(np.array([[0.0, 0.1, 0.5, 0.9, 1.0]], np.float32), 5000, axis=0)
    for dtype, code in (("float32", TensorProto.FLOAT), ("bool", TensorProto.BOOL), ("int64", TensorProto.INT64)):
        made = _drawn(tmp_path, "Bernoulli", p, code, seed=1.0, dtype=code)
        assert made.dtype == dtype
        assert np.abs(made.mean(axis=0) - p[0]).max() < 4 * 0.5 / np.sqrt(5000)
        assert not made[:, 0].any() and made[:, 4].all()


def test_multinomial(tmp_path: Path) -> None:
    chances = np.array([[0.2, 0.0, 0.5, 0.3], [0.25, 0.25, 0.25, 0.25]])
    with np.errstate(divide="ignore"):
        x = (np.log(chances) + 7).astype(np.float32)
    for dtype, code in (("int32", TensorProto.INT32), ("int64", TensorProto.INT64)):
        made = _drawn(tmp_path, "Multinomial", x, code, seed=2.0, dtype=code, sample_size=COUNT)
        assert made.dtype == dtype and made.shape == (2, COUNT)
        for row, wanted in zip(made, chances, strict=True):
            assert np.abs(np.bincount(row, minlength=4) / COUNT - wanted).max() < 4 * 0.5 / np.sqrt(COUNT)


def test_the_same_again_in_any_chunks(tmp_path: Path) -> None:
    model = loaded(_model("RandomNormalLike", ["N", "T", 5], seed=9.0), tmp_path)
    x = np.zeros((1, 11, 5), np.float32)
    first, state = streamed(model, {"x": x}, 0)
    assert np.unique(first["y"]).size == 55
    for chunk in (1, 3, 11):
        again, ends = streamed(model, {"x": x}, chunk)
        assert again["y"].tobytes() == first["y"].tobytes()
        assert all(ends[name].tobytes() == state[name].tobytes() for name in state)
    stream = model.stream()
    one = stream.run(x[0]).y
    assert not np.array_equal(stream.run(x[0]).y, one)
    stream.reset()
    assert np.array_equal(stream.run(x[0]).y, one)


def test_seeds_differ(tmp_path: Path) -> None:
    x = np.zeros((1, 9), np.float32)
    one, two = (_drawn(tmp_path, "RandomUniformLike", x, seed=seed) for seed in (1.0, 1.5))
    assert not np.intersect1d(one, two).size


def test_numbers_of_a_stated_shape_belong_to_the_sequence(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("RandomUniform", [], ["r"], "draw", shape=[4], seed=5.0),
            helper.make_node("Add", ["x", "r"], ["y"], "add"),
        ],
        "noise",
        [helper.make_tensor_value_info("x", F, ["N", "T", 4])],
        [helper.make_tensor_value_info("y", F, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = loaded(proto, tmp_path)
    x = np.zeros((1, 6, 4), np.float32)
    made = whole(model, {"x": x})["y"]
    assert (made == made[:, :1]).all() and np.unique(made).size == 4
    for chunk in (0, 1, 4):
        assert np.array_equal(streamed(model, {"x": x}, chunk)[0]["y"], made[0])


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"])
def test_without_a_seed_one_is_taken_and_said(op: str, tmp_path: Path) -> None:
    dtype = TensorProto.INT64 if op == "Multinomial" else F
    proto = _model(op, [1, COUNT if op != "Multinomial" else 9], dtype, **({"dtype": dtype} if op == "Multinomial" else {}))
    x = {"x": np.full([d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim], 0.5, np.float32)}
    with pytest.warns(UserWarning, match=rf"'draw' \({op}\): it states no seed.*bind=\{{\"draw.seed\": 7\}}"):
        made = whole(loaded(proto, tmp_path), x)["y"]
    with pytest.warns(UserWarning):
        assert np.array_equal(made, whole(loaded(proto, tmp_path), x)["y"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = whole(loaded(proto, tmp_path, bind={"draw.seed": 7}), x)["y"]
        assert loaded(proto, tmp_path, outputs=["z"])
    assert op == "Multinomial" or not np.array_equal(made, other)
    proto.graph.node[0].attribute.append(helper.make_attribute("seed", 7.0))
    assert np.array_equal(whole(loaded(proto, tmp_path), x)["y"], other)


@pytest.mark.parametrize("value", ["7", True, float("nan"), [1]])
def test_a_seed_is_a_number(value: Any, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="bind gives 'draw.seed' the value .*; it is a finite number"):
        loaded(_model("RandomNormalLike", [1, 5]), tmp_path, bind={"draw.seed": value})


@pytest.mark.filterwarnings("ignore:.*states no seed")
def test_check_compares_what_is_not_drawn(tmp_path: Path) -> None:
    """A step model whose action is drawn from what its state says; then one whose state is drawn itself."""
    nodes = [
        helper.make_node("Add", ["x", "h"], ["sum"], "add"),
        helper.make_node("Tanh", ["sum"], ["h_out"], "tanh"),
        helper.make_node("Multinomial", ["h_out"], ["action"], "draw"),
    ]
    noisy = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], "noise"),
        helper.make_node("Add", ["sum", "noise"], ["h_out"], "a"),
    ]
    inputs = [helper.make_tensor_value_info(n, F, [1, 5]) for n in "xh"]
    ends = [helper.make_tensor_value_info("h_out", F, [1, 5])]
    action = helper.make_tensor_value_info("action", TensorProto.INT32, [1, 1])
    calm = helper.make_tensor_value_info("calm", F, [1, 5])
    graphs = (
        helper.make_graph(nodes, "policy", inputs, [action, *ends]),
        helper.make_graph([nodes[0], *noisy, helper.make_node("Exp", ["x"], ["calm"], "exp")], "drawn", inputs, [calm, *ends]),
        helper.make_graph([nodes[0], *noisy], "all", inputs, ends),
    )
    for graph, compared, passed in zip(graphs, ({"h"}, {"calm"}, set()), (True, True, False), strict=True):
        path = tmp_path / f"{graph.name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        report = check(path, frames=20)
        assert {row.name for row in report.rows} == compared and report.passed == passed, str(report)
        assert any("from random numbers, which every runtime draws for itself" in note for note in report.notes)
        assert not any(report.invariance.values())
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "policy.onnx")])
    assert result.exit_code == 0 and "beware" in result.output and 'bind={"draw.seed": 7}' in result.output
