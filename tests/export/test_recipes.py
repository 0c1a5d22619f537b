"""What all recipes share, and two of them from data to demo in a few seconds of training."""

from __future__ import annotations

import gzip
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import SHARED
from tests.commands import demo, run_recipe

pytest.importorskip("torch", reason="recipes train with PyTorch, which is not installed")

import torch
from click import ClickException
from tinyrnn_export import char_lm, decoding, digits, recipe

from tinyrnn.demo import DEMOS

SETS = SHARED / "data" / "sets"


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_has_a_recipe(name: str, tmp_path: Path) -> None:
    module = import_module(f"tinyrnn_export.{name}")
    text = " ".join(run_recipe(module, "--help").split())
    assert module.RECIPE.name == name and module.RECIPE.folder in text
    refused = run_recipe(module, "--data", tmp_path, "-o", tmp_path / "out", status=1)
    assert f"neither {module.RECIPE.file} nor {module.RECIPE.folder}/{module.RECIPE.file} is there" in refused
    assert "Without --data" in refused and not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "cannot be made a folder" in run_recipe(module, "-o", tmp_path / "file", status=1)


@pytest.mark.parametrize("name", DEMOS)
def test_the_data_is_found(name: str) -> None:
    found = import_module(f"tinyrnn_export.{name}").RECIPE
    if not SETS.is_dir():
        pytest.skip("../shared/data/sets is not here")
    assert recipe.find_data(found, SETS) == recipe.find_data(found, SETS / found.folder) == SETS / found.folder


def test_digits_from_data_to_demo(tmp_path: Path) -> None:
    text = run_recipe(digits, "-o", tmp_path, "--epochs", 20)
    assert "the data is made here" in text and "360 classes: the same in PyTorch, onnxruntime, tinyrnn" in text
    report = json.loads((tmp_path / "digits.json").read_text())
    assert report["accuracy"] > 0.85 and report["equal_classes"] == 360
    assert len(json.loads(demo("digits", "--models", tmp_path, "--json").stdout)["digits"]) == 10


def test_drawn_digits_can_be_told_apart() -> None:
    images, classes = digits.drawn(np.random.default_rng(0), 400)
    assert images.shape == (400, 8, 8) and images.min() >= 0 and 8 < images.max() <= digits.BRIGHTEST
    mean = np.stack([images[:300][classes[:300] == d].mean(axis=0) for d in range(10)])
    nearest = ((images[300:, None] - mean) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    assert np.mean(nearest == classes[300:]) > 0.8


def test_char_lm_from_data_to_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(char_lm, "WINDOWS", (8, 64))
    monkeypatch.setattr(char_lm, "ROUNDS", 1)
    monkeypatch.setattr(char_lm, "CHECKED", 300)
    (tmp_path / "set").mkdir()
    words = np.random.default_rng(0).choice(["to", "be", "or", "not"], 12000)
    (tmp_path / "set" / "input.txt.gz").write_bytes(gzip.compress(" ".join(words).encode()))
    text = run_recipe(char_lm, "--data", tmp_path / "set", "-o", tmp_path, "--epochs", 2)
    report = json.loads((tmp_path / "char_lm.json").read_text())
    assert report["lstm_nats_per_char"] < np.log(len(set(" ".join(words))))
    cosines = [row["gradient_cosine"] for row in report["windows"]]
    assert cosines[0] < cosines[1] and cosines[1] == pytest.approx(1, abs=1e-5)
    assert report["windows"][0]["kept_bytes"] < report["windows"][1]["kept_bytes"]
    assert text.count("the same in PyTorch, onnxruntime, tinyrnn") == 2
    shown = demo("--models", tmp_path, "--prompt", "to be", "--length", "40", "--json")
    assert len(json.loads(shown.stdout)["text"]) == 40


def test_char_lm_refuses_a_short_or_broken_text(tmp_path: Path) -> None:
    (tmp_path / "input.txt.gz").write_bytes(gzip.compress(b"to be or not to be"))
    assert "only 18 characters" in run_recipe(char_lm, "--data", tmp_path, "-o", tmp_path / "o", status=1)
    (tmp_path / "input.txt.gz").write_bytes(b"no gzip")
    assert f"the data in {tmp_path} cannot be read" in run_recipe(char_lm, "--data", tmp_path, "-o", tmp_path / "o", status=1)
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3")[:-5])
    assert f"the data in {tmp_path} cannot be read (EOFError" in run_recipe(
        digits, "--data", tmp_path, "-o", tmp_path / "o", status=1
    )


def test_windows_follow_each_other() -> None:
    codes = torch.arange(char_lm.STREAMS * 40 + 3)
    parts = char_lm.windows(codes, 2, 16)
    assert [first for _, _, first in parts] == [True, False]
    x = torch.cat([part[0] for part in parts], dim=1)
    assert torch.equal(x[:, 1:], x[:, :-1] + 1) and x[0, 0] == 2
    assert all(torch.equal(y, x + 1) for x, y, _ in parts)


def test_decisions_that_differ_are_told() -> None:
    run = recipe.Run(digits.RECIPE, None, Path(), 1, None, 1)
    run.agree("classes", PyTorch=[1, 2], onnxruntime=[1, 2])
    with pytest.raises(ClickException, match="1 of 2 classes differ between PyTorch and tinyrnn; the first, number 1: 2 and 3"):
        run.agree("classes", PyTorch=[1, 2], onnxruntime=[1, 2], tinyrnn=[1, 3])


def test_images_are_bent_about_their_middle() -> None:
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    mean = recipe.bent(images, 0.1, 0.1).mean(dim=(0, 1))
    assert mean.argmax() == 4 * 9 + 4 and mean[0, 0] < 0.01
    assert torch.allclose(recipe.bent(images, 0.0, 0.0), images, atol=1e-5)


# --- greedy and beam search in plain Python --------------------------------------------------------------------------


def _table(seed: int) -> Any:
    scores = np.random.default_rng(seed).normal(0, 2, (40, 6))

    def step(token: int, state: int) -> tuple[Any, int]:
        return scores[(7 * state + token) % 40], state + 1

    return step


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_finds_the_best(seed: int, penalty: float) -> None:
    step, stop, steps = _table(seed), 5, 4
    best: list[tuple[float, list[int]]] = []

    def walk(tokens: list[int], total: float, state: int, last: int) -> None:
        if tokens and (tokens[-1] == stop or len(tokens) == steps):
            best.append((total / ((5 + len(tokens)) / 6) ** penalty, tokens))
            return
        scores, after = step(last, state)
        likely = scores - np.log(np.exp(scores).sum())
        for token in range(6):
            walk([*tokens, token], total + likely[token], after, token)

    walk([], 0.0, 0, 0)
    assert decoding.beam(step, 0, 0, stop, steps, 6**steps, penalty) == max(best)[1]
    assert decoding.beam(step, 0, 0, stop, steps, 1, 0.0) == decoding.greedy(step, 0, 0, stop, steps)
