"""The recipe of gesture: its tracks and its split, end to end on made data, and its model on real held-out frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import SHARED
from tests.commands import report_on_made_data, run_recipe
from tinyrnn.demo import Models
from tinyrnn.demo.gesture import ASPECT, LABELS, Watcher, steps

pytest.importorskip("torch", reason="recipes train with PyTorch")
from tinyrnn_export import gesture
from tinyrnn_export.gesture import Track
from tinyrnn_export.recipe import Run, session

Array = np.ndarray[Any, Any]
SETS = SHARED / "data" / "sets"


def run_of(data: Path | None, output: Path) -> Run:
    return Run(gesture.RECIPE, data, output, 1, None, gesture.RECIPE.seed)


def windows_of(track: Array) -> Array:
    """As the file has them: each relative to its first position."""
    windows = np.lib.stride_tricks.sliding_window_view(track, gesture.WINDOW, axis=0).transpose(0, 2, 1)
    return windows - windows[:, :1]


def turning(track: Track) -> float:
    """Above zero where the track turns from x towards y, which is clockwise."""
    x, y = np.diff(track.positions * (ASPECT, 1), axis=0).T
    return float(np.sum(x[:-1] * y[1:] - y[:-1] * x[1:]))


def test_windows_are_put_together() -> None:
    random = np.random.default_rng(2)
    first, second = np.cumsum(random.normal(0, 0.02, (2, 60, 2)), axis=1)
    windows = [np.delete(windows_of(first), [9, 20, 30, 31], axis=0), windows_of(second)]
    labels = np.repeat([1, 1, 3], [len(windows[0]), len(windows[1]) - 5, 5])
    found = gesture.put_together(labels, np.concatenate(windows))
    # one window missing does not break a track; two do, and so does another label
    assert [(track.label, len(track.positions)) for track in found] == [(1, 30 + 15), (1, 13 + 15), (1, 55), (3, 5 + 15)]
    for track, wanted in zip(found, (first[:45], first[32:], second[:55], second[40:]), strict=True):
        np.testing.assert_allclose(track.positions - track.positions[0], wanted - wanted[0], rtol=0, atol=1e-12)


def test_split_leaks_nothing() -> None:
    numbered = np.arange(2000.0).reshape(1000, 2)
    tracks = [Track(0, numbered[:300]), Track(0, numbered[300:500]), Track(1, numbered[500:516]), Track(1, numbered[516:1000])]
    ours, held = gesture.split(tracks)
    seen = [frame for track in (*ours, *held) for frame in track.positions[:, 0]]
    assert sorted(seen) == numbered[:, 0].tolist()
    assert sum(len(track.positions) for track in held) == 200
    assert max(len(track.positions) for track in held) == gesture.RUN
    for label in (0, 1):
        last = max(track.positions.max() for track in ours if track.label == label)
        assert last < min(track.positions.min() for track in held if track.label == label)


def test_changes_keep_the_way_of_turning() -> None:
    random = np.random.default_rng(4)
    tracks = gesture.drawn(random, 2)
    assert [LABELS[track.label] for track in tracks[::2]] == list(LABELS)
    kinds = set()
    for _ in range(40):
        for track in tracks:
            piece = gesture.changed(track, random)
            kinds.add((track.label, piece.label))
            if LABELS[track.label] in ("stop", "move"):
                assert piece.label == track.label
            elif len(piece.positions) > 16:
                assert (turning(piece) > 0) == (LABELS[piece.label] == "clockwise")
    assert kinds == {(0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3)}


def test_joined_tracks_change_their_label() -> None:
    for x, y in gesture.joined(gesture.drawn(np.random.default_rng(0), 2), np.random.default_rng(1)):
        assert x.shape == (gesture.BATCH, gesture.LENGTH, 2)
        assert y.shape == (gesture.BATCH, gesture.LENGTH)
        assert (x[:, 0] == 0).all()
        assert ((y[:, 1:] != y[:, :-1]).sum(1) >= 1).float().mean() > 0.5
        break


def test_end_to_end_on_made_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gesture, "LENGTH", 32)
    report = report_on_made_data(gesture, tmp_path, "--epochs", "2", same=("labels of frames",))
    assert set(report["files"]) == {"gesture.onnx", "gesture_sequence.onnx"}
    assert report["accuracy"] > 1 / len(LABELS), "no better than chance"
    assert Watcher(Models(tmp_path).load("gesture")).labels == list(LABELS)


def test_a_folder_without_the_data(tmp_path: Path) -> None:
    text = run_recipe(gesture, "--data", tmp_path, "-o", tmp_path / "out", status=1)
    assert "neither point_history.csv.gz nor finger_gesture/point_history.csv.gz is there" in text


@pytest.mark.skipif(not (SETS / "finger_gesture").is_dir(), reason="the data set is not beside the project")
def test_the_packaged_model_on_held_out_frames(tmp_path: Path) -> None:
    tracks = gesture.read(run_of(SETS / "finger_gesture", tmp_path))
    assert len(tracks) == 14
    _, held = gesture.split(tracks)
    path = Models().path("gesture")
    watcher, engine = Watcher(Models().load("gesture")), session(path)
    wanted, found, oracle = [], [], []
    for track in held:
        zero = np.zeros((1, 1, gesture.HIDDEN), np.float32)
        oracle.append(engine.run(["logits"], {"steps": steps(track.positions)[None], "h": zero})[0][0].argmax(1))
        found.append(watcher.shares(track.positions).argmax(1))
        wanted.append(np.full(len(track.positions), track.label))
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(oracle))
    assert np.mean(np.concatenate(found) == np.concatenate(wanted)) >= 0.9
