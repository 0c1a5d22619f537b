"""The recipe of video: its letters, its split, end to end on made data, and its model on real held-out letters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import SHARED
from tests.commands import report_on_made_data
from tinyrnn.check import within
from tinyrnn.demo import Models
from tinyrnn.demo.replay import SIZE, inked, replayed
from tinyrnn.demo.video import DRAWN, Watcher

pytest.importorskip("torch", reason="recipes train with PyTorch")
import torch
from tinyrnn_export import video
from tinyrnn_export.recipe import Run, folded, session

SETS = SHARED / "data" / "sets"
needs_data = pytest.mark.skipif(not (SETS / "omniglot_strokes").is_dir(), reason="the data set is not beside the project")


def letters_of(output: Path) -> video.Letters:
    return video.read(Run(video.RECIPE, SETS / "omniglot_strokes", output, 1, None, video.RECIPE.seed))


def test_names() -> None:
    found = [video.named(f"{a}/character{n:02}") for a, n in (("Latin", 1), ("Latin", 26), ("Greek", 24), ("Korean", 7))]
    assert found == ["a", "z", "ω", "Korean 7"]
    assert video.named("Early_Aramaic/character10") == "Aramaic 10"


def test_made_letters() -> None:
    letters = video.made(np.random.default_rng(0), 3)
    assert len(letters.tracks) == len(letters.labels) == len(letters.writers) == 3 * len(DRAWN)
    assert sorted(set(letters.writers)) == [1, 2, 3] and letters.names == list(DRAWN)
    videos = replayed([inked(track) for track in letters.tracks])
    assert len({v.tobytes() for v in videos}) == len(videos)


def test_unchanged_letters_are_the_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENT", "MOVED", "APART", "WAVED", "HURRY", "FLOW"):
        monkeypatch.setattr(video, name, 0.0)
    letters = video.made(np.random.default_rng(0), 2)
    ink = [inked(letters.tracks[i]) for i in (3, 0, 7)]
    found = video.varied(ink, np.stack([i.ends for i in ink]), np.random.default_rng(1))
    assert (np.abs(found - replayed(ink)) > 1e-3).mean() < 1e-3, "rounding may put a point into the next frame"
    some = video.varied(ink, np.stack([i.ends[[2, 5]] for i in ink]), np.random.default_rng(1))
    np.testing.assert_allclose(some, found[:, [2, 5]], rtol=0, atol=1e-6)


def test_moments_to_learn_from() -> None:
    random = np.random.default_rng(0)
    for moments, frames in ((video.alone(500, random), 2), (video.together(500, random), video.WAY + 1)):
        assert moments.shape == (500, frames) and moments.min() >= 0 and (moments[:, -1] == 1).all()
        assert (np.diff(moments, axis=1) >= 0).all()


def test_folding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = video.Video(5)
    frames = torch.rand(3, 4, SIZE, SIZE)
    model.train()
    for _ in range(3):
        model(frames)
    model.eval()
    with torch.no_grad():
        before = model(frames)[0]
        model.convolutions = folded(model.convolutions)
        assert within("close", model(frames)[0].numpy(), before.numpy())
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())


def test_end_to_end_on_made_data(tmp_path: Path) -> None:
    report = report_on_made_data(video, tmp_path, "--epochs", "3", same=("letters of frames",))
    assert set(report["files"]) == {"video.onnx", "video_step.onnx"}
    assert report["accuracy_at_the_end"] > 2 / len(DRAWN), "no better than chance"
    assert Watcher(Models(tmp_path).load("video")).labels == list(DRAWN)


@needs_data
def test_the_data_is_split_by_writer(tmp_path: Path) -> None:
    letters = letters_of(tmp_path)
    assert len(letters.tracks) == 2720 and len(letters.names) == 136
    for writer in range(1, 21):
        assert sorted(letters.labels[letters.writers == writer]) == list(range(136))
    assert all((np.diff(track.strokes.astype(int)) >= 0).all() for track in letters.tracks)


@needs_data
def test_the_packaged_model_on_held_out_letters(tmp_path: Path) -> None:
    letters = letters_of(tmp_path)
    others = np.flatnonzero(letters.writers >= video.HELD_OUT)
    ink, wanted = [inked(letters.tracks[i]) for i in others], letters.labels[others]
    videos, finished = replayed(ink), np.array([i.finished for i in ink])
    watcher = Watcher(Models().load("video"))
    assert watcher.labels == letters.names
    found = np.stack([watcher.scores(v).argmax(axis=1) for v in videos])
    oracle = session(Models().path("video")).run(None, {"frames": videos[::10]})[0].argmax(axis=2)
    np.testing.assert_array_equal(found[::10], oracle)
    assert np.mean(found == wanted[:, None]) >= 0.68
    assert np.mean(found[np.arange(len(found)), finished] == wanted) >= 0.85
