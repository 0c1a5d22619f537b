"""The recipes of captions: made icons, the split, end to end, and the packaged models on real held-out icons."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests import SHARED
from tests.commands import report_on_made_data, run_recipe
from tinyrnn.demo import Models
from tinyrnn.demo.icons import END, Captioner

pytest.importorskip("torch", reason="recipes train with PyTorch")
import torch
from tinyrnn_export import caption, caption_attention, decoding, icons, toy_icons
from tinyrnn_export.icons import Eye, Icons, around_onnxruntime, padded, split
from tinyrnn_export.recipe import Run

SETS = SHARED / "data" / "sets"
SLICE = 40
"""of the held-out icons"""
RECIPES = [caption, caption_attention]
LEAST = {"caption": 0.25, "caption_attention": 0.36}
"""exact names, held out"""
needs_data = pytest.mark.skipif(not (SETS / "mdi_icons").is_dir(), reason="the data set is not beside the project")


def run_of(recipe: ModuleType, data: Path | None, output: Path) -> Run:
    return Run(recipe.RECIPE, data, output, 1, None, recipe.RECIPE.seed)


def test_made_icons() -> None:
    images, names = toy_icons.icons(np.random.default_rng(0), 200)
    assert images.shape == (200, 32, 32) and images.dtype == np.uint8
    assert images.reshape(200, -1).max(axis=1).min() > 200
    assert {"heart", "star outline", "check", "arrow left"} <= set(names)
    assert not any("  " in name or not name for name in names)
    again = toy_icons.icons(np.random.default_rng(0), 200)
    assert np.array_equal(images, again[0]) and names == again[1]


def test_equal_pictures_are_on_one_side() -> None:
    random = np.random.default_rng(1)
    images = random.integers(0, 2, (40, 1, 3), np.uint8)[random.integers(0, 40, 300)]
    train, held = split(images, random)
    assert sorted([*train, *held]) == list(range(300))
    assert 30 <= len(held) <= 300 - len(train)
    assert not {images[i].tobytes() for i in train} & {images[i].tobytes() for i in held}


def test_folded_normalisation_computes_the_same() -> None:
    torch.manual_seed(0)
    eye = Eye(8)
    images = torch.rand(16, 1, 32, 32)
    for _ in range(3):
        eye(images)  # training mode: the running means move
    eye.eval()
    with torch.no_grad():
        before = eye(images)
        eye.fold()
        after = eye(images)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in eye.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)


def test_shares_of_words_and_exact_names(tmp_path: Path) -> None:
    read = Icons.read(run_of(caption, None, tmp_path))
    batch = torch.from_numpy(read.held[:5])
    shares = read.shares(batch)
    for row, i in zip(shares, read.held[:5], strict=True):
        name = set(read.names[i])
        assert {read.words.words[w]: float(row[w]) for w in row.nonzero()[:, 0]} == pytest.approx(
            {w: 1 / len(name) for w in name}
        )
    right = [[*read.words.encode(read.names[i]), read.words.index[END]] for i in read.held]
    assert read.exact(padded(right)) == 1.0
    right[0][0] = read.words.index[END]
    assert read.exact(padded(right)) == 1 - 1 / len(right)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.RECIPE.name)
def test_end_to_end_on_made_data(recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icons, "MADE", 120)
    report = report_on_made_data(recipe, tmp_path, "--epochs", "1", "--limit", "64")
    name = recipe.RECIPE.name
    assert report["equal_names_by_greedy"] == report["equal_names_by_beam_search"] == 12
    assert {f"{name}_{part}.onnx" for part in ("encoder", "decoder")} == set(report["files"])


def test_folders_without_the_data(tmp_path: Path) -> None:
    arguments = ("--data", tmp_path, "-o", tmp_path / "out")
    assert "mdi_icons/icons_32x32.npz is there" in run_recipe(caption, *arguments, status=1)
    np.savez(tmp_path / "icons_32x32.npz", images=np.zeros((3, 32, 32), np.uint8))
    assert "captions.tsv.gz is not there: the names of the icons" in run_recipe(caption, *arguments, status=1)


@needs_data
def test_the_real_set_is_split_without_leaks(tmp_path: Path) -> None:
    read = Icons.read(run_of(caption, SETS / "mdi_icons", tmp_path))
    assert (len(read.names), len(read.words), len(read.train) + len(read.held)) == (4804, 557, 4804)
    sides = [{" ".join(read.names[i]) for i in side} for side in (read.train, read.held)]
    assert not sides[0] & sides[1]
    pictures = [{read.images[i].numpy().tobytes() for i in side} for side in (read.train, read.held)]
    assert not pictures[0] & pictures[1]


@needs_data
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.RECIPE.name)
def test_packaged_models_on_held_out_icons(recipe: ModuleType, tmp_path: Path) -> None:
    name, models = recipe.RECIPE.name, Models()
    read = Icons.read(run_of(recipe, SETS / "mdi_icons", tmp_path))
    images = read.images[torch.from_numpy(read.held), 0].numpy()
    captioner = Captioner(models, name)
    assert captioner.words.words == read.words.words
    found = [captioner.greedy(captioner.see(image)).tolist() for image in images]
    assert read.exact(padded(found)) >= LEAST[name]
    engine = around_onnxruntime(models.path(f"{name}_encoder"), models.path(f"{name}_decoder"))
    for image, tokens in list(zip(images, found, strict=True))[:SLICE]:
        assert decoding.greedy(*engine(image), captioner.end, captioner.end, icons.STEPS) == tokens
