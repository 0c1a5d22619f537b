"""The demo of gesture: its text, its figures, its picture, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import demo
from tinyrnn.demo import Models
from tinyrnn.demo.gesture import ASPECT, LABELS, LINE, SIGNS, Watcher, circle, drawn, steps

call = partial(demo, "gesture")


def figures(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("--json", *arguments).stdout)
    return found


@pytest.fixture(scope="module")
def watcher() -> Watcher:
    return Watcher(Models().load("gesture"))


def test_the_drawn_track_is_understood() -> None:
    track, truth = drawn()
    found = figures()
    assert len(found["labels"]) == len(found["probabilities"]) == len(track) == len(truth)
    assert found["as_drawn"] > 0.8
    assert set(found["labels"]) == set(LABELS)


def test_one_sign_for_every_frame() -> None:
    lines = call().stdout.splitlines()
    rows = [line.split() for line in lines]
    text = "".join(row[1] for row in rows if len(row) == 2 and row[0].isdigit() and set(row[1]) <= set(SIGNS.values()))
    labels = figures()["labels"]
    assert text == "".join(SIGNS[name] for name in labels)
    assert max(len(row[1]) for row in rows if len(row) == 2 and row[0].isdigit()) == LINE
    spans = [(int(row[1]), int(row[3]), row[4]) for row in rows if row[:1] == ["frames"]]
    assert [name for first, last, name in spans for _ in range(first, last + 1)] == labels


@pytest.mark.parametrize("name", ["clockwise", "counterclockwise"])
def test_circles_turn_one_way_or_the_other(watcher: Watcher, name: str) -> None:
    track = np.cumsum(circle(60, 18, name == "clockwise"), axis=0) / (ASPECT, 1)
    x, y = np.diff(track, axis=0).T
    turning = np.sum(x[:-1] * y[1:] - y[:-1] * x[1:])
    assert (turning > 0) == (name == "clockwise"), "y is downwards: clockwise turns from x towards y"
    found = [watcher.labels[i] for i in watcher.shares(track).argmax(axis=1)]
    assert found[16:] == [name] * (len(track) - 16)


def test_steps_are_from_frame_to_frame() -> None:
    track = np.array([[0.5, 0.5], [0.52, 0.5], [0.52, 0.44], [3.0, -9.0]])
    assert steps(track).tolist() == [[0, 0], [1, 0], [0, -3], [5, -5]]
    assert steps(track).dtype == np.float32
    np.testing.assert_array_equal(steps(np.stack([track, track])), np.stack([steps(track)] * 2))


def test_files(tmp_path: Path, watcher: Watcher) -> None:
    track, _ = drawn()
    np.save(tmp_path / "track.npy", track)
    np.savetxt(tmp_path / "track.csv", track, delimiter=",", header="x,y", comments="")
    wanted = [watcher.labels[i] for i in watcher.shares(track).argmax(axis=1)]
    for name in ("track.npy", "track.csv"):
        found = figures("--input", tmp_path / name)
        assert found["labels"] == wanted
        assert "as_drawn" not in found
    assert "drawn" not in call("--input", tmp_path / "track.csv").stdout
    np.save(tmp_path / "one.npy", track[:1])
    assert len(figures("--input", tmp_path / "one.npy")["labels"]) == 1


def test_refuses(tmp_path: Path) -> None:
    track, _ = drawn()
    hole = track.copy()
    hole[7, 1] = np.nan
    for name, array, message in (
        ("three.npy", np.zeros((5, 3)), "shape [5, 3]; a track is [T, 2]"),
        ("flat.npy", np.zeros(6), "shape [6]; a track is [T, 2]"),
        ("empty.npy", np.zeros((0, 2)), "the track has no frame"),
        ("hole.npy", hole, "frame 7 is no position"),
        ("pixels.npy", track * (640, 480), "divide x by its width, y by its height"),
    ):
        np.save(tmp_path / name, array)
        result = call("--input", tmp_path / name, status=1)
        assert message in result.stderr
        assert result.stdout == ""
    (tmp_path / "words.csv").write_text("x,y\none,two\n")
    assert "not a table of numbers" in call("--input", tmp_path / "words.csv", status=1).stderr
    assert "no such file" in call("--input", tmp_path / "missing.csv", status=1).stderr
    assert "unknown kind of file" in call("--input", tmp_path / "track.txt", status=1).stderr


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    np.save(tmp_path / "one.npy", drawn()[0][:1])
    for number, options in enumerate(((), ("--input", tmp_path / "one.npy"))):
        path = tmp_path / f"{number}.png"
        call("-o", path, *options)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_data_is_attributed() -> None:
    text = (Models().folder / "gesture.LICENSE.txt").read_text("utf-8")
    license = Models().load("gesture").metadata["license"]
    assert all("Kazuhito Takahashi" in " ".join(t.split()) and "Apache-2.0" in t for t in (text, license))
    assert Models().path("gesture").stat().st_size < 100_000
