"""Gradients through time: autograd against products of Jacobians, and these against finite differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="PyTorch, whose autograd is compared, is not installed")

from tinyrnn_export import gradient_flow

from tinyrnn.check import within

STEPS, HIDDEN, SEED = 60, 16, 2


@pytest.fixture(scope="module")
def made() -> list[gradient_flow.Flow]:
    return gradient_flow.flows(STEPS, HIDDEN, SEED)


def test_autograd_is_the_product_of_jacobians(made: list[gradient_flow.Flow]) -> None:
    assert len(made) == 10
    assert all(flow.norms.shape == (STEPS,) and flow.difference <= gradient_flow.LARGEST_DIFFERENCE for flow in made)
    assert made == [flow for flow in made if np.isfinite(flow.norms).all() and (flow.norms > 0).all()]


def test_gradients_vanish_stay_and_explode(made: list[gradient_flow.Flow]) -> None:
    """A largest singular value of g bounds the factor per step of an RNN by g; a forget bias of b moves an LSTM's towards sigmoid(b)."""
    below, at, above, gaussian, *lstm = made
    assert np.all(np.diff(np.log(below.norms)) > -np.log(0.7) - 1e-12)
    assert np.all(np.diff(at.norms) >= -1e-12)
    assert below.factor < 0.7 < at.factor <= 1 < above.factor
    assert gaussian.factor < 1 < float(gaussian.name.split()[-1].rstrip(")"))
    cells = [flow for flow in lstm if flow.name.endswith(": c")]
    assert cells[0].factor < cells[1].factor < cells[2].factor
    assert all(flow.at(0) == pytest.approx(1) for flow in (below, at, above, gaussian))
    assert below.at(STEPS) is None


def test_an_lstm_jacobian_is_the_slope_of_its_step() -> None:
    """Central differences of the equations c = f c_1 + i g, h = o tanh(c)."""
    rng = np.random.default_rng(SEED)
    w_hh, offset = rng.standard_normal((4 * HIDDEN, HIDDEN)) / np.sqrt(HIDDEN), rng.standard_normal(4 * HIDDEN)
    state = 0.5 * rng.standard_normal(2 * HIDDEN)

    def step(s: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(offset + w_hh @ s[:HIDDEN], 4)
        c = s[HIDDEN:] / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        return np.concatenate([np.tanh(c) / (1 + np.exp(-o)), c])

    jacobian, _ = gradient_flow._lstm_jacobian(w_hh, offset + w_hh @ state[:HIDDEN], state[HIDDEN:])
    small = 1e-5
    columns = [(step(state + small * e) - step(state - small * e)) / (2 * small) for e in np.eye(2 * HIDDEN)]
    assert within("close", jacobian.astype(np.float32), np.array(columns).T.astype(np.float32))


def test_matrices_have_the_size_that_is_asked_for() -> None:
    rng = np.random.default_rng(SEED)
    orthogonal = gradient_flow.recurrent_matrix("orthogonal", 1.5, HIDDEN, rng)
    assert within("close", np.linalg.svd(orthogonal, compute_uv=False), np.full(HIDDEN, 1.5))
    gaussian = gradient_flow.recurrent_matrix("gaussian", 1.0, HIDDEN, rng)
    assert within("close", np.abs(np.linalg.eigvals(gaussian)).max(), np.float64(1))


def test_norms_do_not_underflow() -> None:
    rows = np.full((2, 4), 1e-200)
    rows[1] = 0
    assert within("close", gradient_flow._norm(rows) * 1e200, np.array([2.0, 0.0]))


def test_the_command_writes_a_table_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the picture, is not installed")
    monkeypatch.setattr(gradient_flow, "UPDATES", 10)
    options = ["-o", str(tmp_path / "new" / "folder"), "--steps", "20", "--hidden", "6", "--recall"]
    done = CliRunner().invoke(gradient_flow.main, options)
    assert done.exit_code == 0, done.output
    picture = tmp_path / "new" / "folder" / gradient_flow.PICTURE
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    lines = done.output.splitlines()
    assert lines[0].startswith("6 units, 20 steps, seed 1; inputs: the characters of sonnet 18")
    assert sum(line.startswith(("RNN", "LSTM")) for line in lines) == 10
    assert lines[2].split()[-4:-2] == ["-", "-"]  # 20 steps reach neither 50 nor 100
    assert any(line.startswith("  LSTM") and "nats at the end" in line for line in lines)


def test_a_difference_beyond_the_bound_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the picture, is not installed")
    monkeypatch.setattr(gradient_flow, "LARGEST_DIFFERENCE", 0.0)
    done = CliRunner().invoke(gradient_flow.main, ["-o", str(tmp_path), "--steps", "20", "--hidden", "6"])
    assert done.exit_code == 1 and "autograd and the product of Jacobians differ by" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "{file}"], "cannot be made a folder"),
        (["--steps", "5", "-o", "{file}"], "5 is not in the range"),
        ([], "Missing option '-o'"),
    ],
)
def test_bad_calls(options: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(gradient_flow.main, [o.format(file=tmp_path / "file") for o in options])
    assert done.exit_code and message in done.output
