"""How errors in the state grow: against linear systems whose exponent is known, and products of Jacobians in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import MODELS
from tinyrnn.check import within
from tinyrnn.check.dynamics import Dynamics, Exponent, dynamics
from tinyrnn.cli import main
from tinyrnn.errors import ShapeError, TinyRNNError

Array = np.ndarray


def recurrent(
    folder: Path, op: str, W: Array, R: Array, B: Array | None = None, name: str = "m", **attributes: object
) -> tinyrnn.Model:
    """A model of one node, time first; W [G·H, I], R [G·H, H], B [2·G·H]."""
    H, arrays = R.shape[-1], {"W": W[None], "R": R[None]} | ({} if B is None else {"B": B[None]})
    node = helper.make_node(op, ["x", *arrays], ["y"], name="layer", hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, W.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 1, 1, H])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / f"{name}.onnx")
    return tinyrnn.load(folder / f"{name}.onnx")


def orthogonal(rng: np.random.Generator, n: int) -> Array:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def measured(found: Dynamics) -> Exponent:
    assert found.exponent is not None, found.reason
    return found.exponent


@pytest.mark.parametrize(("radius", "verdict"), [(0.9, "errors die out"), (1.0, "errors persist"), (1.05, "errors grow")])
def test_a_linear_system_has_the_logarithm_of_its_spectral_radius(tmp_path: Path, radius: float, verdict: str) -> None:
    """ht = radius · Q ht-1 + W xt with Q orthogonal: every error changes by the radius in every frame."""
    rng = np.random.default_rng(3)
    R = radius * orthogonal(rng, 12)
    model = recurrent(tmp_path, "RNN", rng.standard_normal((12, 3)), R, activations=["Affine"], activation_alpha=[1.0])
    found = dynamics(model, {"x": rng.standard_normal((400, 3)).astype(np.float32)})
    assert within("close", np.float32(measured(found).mean), np.float32(np.log(radius)))
    assert measured(found).verdict.startswith(verdict) and not measured(found).bounded
    (gate,) = found.gates
    assert within("close", np.float32([gate.singular, gate.radius]), np.float32([radius, radius]))


def _tanh_step(W: Array, R: Array, B: Array) -> Callable[[Array, Array], Array]:
    H = R.shape[1]
    bias = B[:H] + B[H:]
    return lambda s, x: np.tanh(W @ x + R @ s + bias)


def _lstm_step(W: Array, R: Array, B: Array) -> Callable[[Array, Array], Array]:
    H = R.shape[1]

    def step(s: Array, x: Array) -> Array:
        i, o, f, c = np.split(W @ x + R @ s[:H] + B[: 4 * H] + B[4 * H :], 4)
        i, o, f = (1 / (1 + np.exp(-v)) for v in (i, o, f))
        C = f * s[H:] + i * np.tanh(c)
        return np.concatenate([o * np.tanh(C), C])

    return step


def _product(step: Callable[[Array, Array], Array], states: Array, xs: Array, dropped: int) -> float:
    """The largest exponent from the product of Jacobians, kept apart by QR; Jacobians by the complex step, exact in float64.

    states [T, n] before each frame are the model's own, so that of a chaotic system both measure the same path.
    """
    size = states.shape[1]
    Q, total = orthogonal(np.random.default_rng(0), size), 0.0
    for t, (state, x) in enumerate(zip(states.astype(np.float64), xs.astype(np.float64), strict=True)):
        J = np.stack([step(state + 1e-30j * e, x).imag / 1e-30 for e in np.eye(size)], axis=1)
        Q, triangle = np.linalg.qr(J @ Q)
        total += np.log(abs(triangle[0, 0])) if t >= dropped else 0.0
    return total / (len(xs) - dropped)


@pytest.mark.parametrize(
    ("op", "gain", "grows"), [("RNN", 0.8, False), ("RNN", 3.0, True), ("LSTM", 1.0, False), ("LSTM", 12.0, True)]
)
def test_the_exponent_is_that_of_the_product_of_jacobians(tmp_path: Path, op: str, gain: float, grows: bool) -> None:
    rng, H, frames = np.random.default_rng(8), 12, 400
    G = 4 if op == "LSTM" else 1
    W, R, B = (
        rng.standard_normal((G * H, 2)),
        gain * rng.standard_normal((G * H, H)) / H**0.5,
        0.1 * rng.standard_normal(2 * G * H),
    )
    W, R, B = (a.astype(np.float32).astype(np.float64) for a in (W, R, B))
    xs = 0.1 * rng.standard_normal((frames, 2)).astype(np.float32)
    model = recurrent(tmp_path, op, W, R, B)
    layer = model.stream().trace(xs).layer()
    after = layer.h if layer.c is None else np.concatenate([layer.h, layer.c], axis=1)
    states = np.concatenate([np.zeros_like(after[:1]), after[:-1]])
    expected = _product((_lstm_step if op == "LSTM" else _tanh_step)(W, R, B), states, xs, frames // 4)
    found = measured(dynamics(model, {"x": xs}))
    assert (expected > 0) == grows, expected
    assert within("approximate", np.float32(found.mean), np.float32(expected)), (found, expected)
    assert found.verdict.startswith("errors grow" if grows else "errors die out")


def test_gates_are_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    R = np.concatenate([scale * orthogonal(rng, 5) for scale in (0.1, 0.2, 0.3)])
    found = dynamics(recurrent(tmp_path, "GRU", rng.standard_normal((15, 2)), R), frames=64)
    assert [g.gate for g in found.gates] == ["z", "r", "h"]
    assert within("close", np.float32([g.singular for g in found.gates]), np.float32([0.1, 0.2, 0.3]))
    assert "random input" in str(found) and "halves" in str(found)


def test_errors_that_vanish_at_once_are_a_bound(tmp_path: Path) -> None:
    model = recurrent(tmp_path, "RNN", np.ones((4, 1)), np.zeros((4, 4)))
    found = measured(dynamics(model, frames=64))
    assert found.bounded and found.mean < -8 and "at most" in str(found)


def test_what_has_no_exponent_says_why() -> None:
    found = dynamics(tinyrnn.load(MODELS / "lstm_l1_bi_sf_zero_fixT_b2_legacy.onnx"))
    assert found.exponent is None and "whole sequences" in str(found)
    assert {g.direction for g in found.gates} == {"forward", "backward"} and len(found.gates) == 8


def test_a_model_without_state_says_so(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "plain.onnx")
    text = str(dynamics(tinyrnn.load(tmp_path / "plain.onnx")))
    assert "no RNN, GRU or LSTM layer" in text and "it has no state" in text


def test_bad_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    model = recurrent(tmp_path, "RNN", np.ones((2, 1)), 3 * np.eye(2), activations=["Affine"], activation_alpha=[1.0])
    with pytest.raises(ShapeError, match="5 frames are too few"):
        dynamics(model, {"x": rng.standard_normal((5, 1)).astype(np.float32)})
    with pytest.raises(TinyRNNError, match=r"'layer\.h' grows beyond"):
        dynamics(model, frames=200)


def test_the_command() -> None:
    def call(*arguments: object, status: int = 0) -> str:
        result = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
        assert result.exit_code == status, result.output
        return result.stdout if status == 0 else result.stderr

    language = Path(tinyrnn.__file__).parent / "models" / "char_lm.onnx"
    text = call(language, "--dynamics", "--text", "To be, or not to be, that is the question:\n")
    assert "given input, 33 frames after 10" in text and "errors" in text
    found = json.loads(call(language, "--dynamics", "--frames", 64, "--json"))["dynamics"]
    assert found["exponent"]["frames"] == 48 and {g["gate"] for g in found["gates"]} == set("iofc")
    assert "belongs to --dynamics" in call(language, "--frames", 5, status=2)
    assert "does not know '#'" in call(language, "--dynamics", "--text", "#", status=1)
    assert "one of them" in call(language, "--dynamics", "--text", "a", "--data", "b.npy", status=2)
