"""The demo of video: replays of tracks, its text, its figures, its picture, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import demo
from tinyrnn.demo import Models
from tinyrnn.demo.drawing import ink
from tinyrnn.demo.replay import FRAMES, PAUSE, RATE, SIZE, Track, inked, replayed
from tinyrnn.demo.video import DRAWN, Watcher, as_dots, fitted, written

LARGEST = 800_000


call = partial(demo, "video")


def figures(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("--json", *arguments).stdout)
    return found


def video_of(track: Track) -> Any:
    return replayed([inked(track)])[0]


def table(track: Track) -> Any:
    return np.column_stack([track.points, track.seconds, track.strokes])


# --- replays -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", DRAWN)
def test_the_last_frame_is_the_letter_and_ink_stays(letter: str) -> None:
    track = written(DRAWN[letter])
    video = video_of(track)
    assert video.shape == (FRAMES, SIZE, SIZE) and video.dtype == np.float32 and video.min() == 0 and video.max() == 1
    assert (np.diff(video, axis=0) >= 0).all()
    strokes = [track.points[track.strokes == number] for number in range(len(DRAWN[letter]))]
    drawn = ink(strokes, SIZE, 1.6 / SIZE)
    assert np.corrcoef(video[-1].ravel(), drawn.ravel())[0, 1] > 0.9


def moving(seconds: float) -> Track:
    """To the right, slowly first and faster then."""
    x = np.concatenate([np.linspace(0.1, 0.5, 41), np.linspace(0.5, 0.9, 41)[1:]])
    times = np.concatenate([np.linspace(0, 0.75, 41), np.linspace(0.75, 1, 41)[1:]])
    return Track(np.column_stack([x, np.full(81, 0.5)]), seconds * times, np.zeros(81))


def ends_of(track: Track) -> Any:
    return np.array([np.flatnonzero(frame.max(axis=0) > 0.25)[-1] for frame in video_of(track)])


def test_frames_come_at_a_rate_and_a_letter_stays() -> None:
    track = moving(4.0)
    wanted = np.interp(np.arange(1, FRAMES + 1) / RATE, track.seconds, track.points[:, 0]) * SIZE - 0.5
    assert np.abs(ends_of(track) - wanted).max() <= 1
    assert inked(track).finished == 4 * RATE - 1
    video = video_of(track)
    assert (video[4 * RATE - 1 :] == video[-1]).all() and (video[4 * RATE - 2] < video[-1]).any()


def test_who_writes_longer_is_replayed_faster() -> None:
    np.testing.assert_array_equal(video_of(moving(FRAMES / RATE)), video_of(moving(60.0)))
    assert inked(moving(60.0)).finished == FRAMES - 1


def test_a_lifted_pen_pauses_shortly() -> None:
    points = np.array([[0.2, 0.2], [0.4, 0.2], [0.2, 0.6], [0.4, 0.6]])
    long = Track(points, np.array([0, 1, 300, 301.0]), np.array([0, 0, 1, 1]))
    short = long._replace(seconds=np.array([0, 1, 1 + PAUSE, 2 + PAUSE]))
    np.testing.assert_array_equal(video_of(long), video_of(short))
    assert inked(long).moments.min() == 0 and inked(long).moments.max() == 1


def test_several_at_once_are_as_each_alone() -> None:
    ink = [inked(written(strokes)) for strokes in DRAWN.values()]
    for one, video in zip(ink, replayed(ink), strict=True):
        np.testing.assert_array_equal(replayed([one])[0], video)


def test_dots_and_far_places_and_no_time() -> None:
    dot = video_of(Track(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0.0, 0.0]), np.zeros(2)))
    assert dot[0].sum() > 1 and (dot == dot[0]).all()
    assert np.isfinite(video_of(Track(np.array([[-3.0, 0.5], [4.0, 0.5]]), np.array([0.0, 1.0]), np.zeros(2)))).all()


def test_dots() -> None:
    image = np.zeros((5, 3))
    image[0, 0] = image[3, 1] = image[4, 2] = 1
    assert as_dots(image) == ["⢁⠀", "⠀⠁"]


# --- the demo ------------------------------------------------------------------------------------------------------------


def test_the_drawn_letters_are_named() -> None:
    found = figures()
    assert found["letters"] == found["drawn"] == list(DRAWN)
    assert [len(guesses) for guesses in found["guesses"]] == [FRAMES] * len(DRAWN)
    for guesses, last, settled in zip(found["guesses"], found["letters"], found["settled_at_frame"], strict=True):
        assert set(guesses[settled - 1 :]) == {last} and (settled == 1 or guesses[settled - 2] != last)


def test_text() -> None:
    text = call().stdout
    for letter in DRAWN:
        assert f"drawn: {letter}, named: {letter} (" in text
    assert max(map(len, text.splitlines())) <= 100


def test_files(tmp_path: Path) -> None:
    track = table(written(DRAWN["k"]))
    np.save(tmp_path / "k.npy", track * (640, 640, 1, 1) + (100, 30, 5, 7))
    np.savetxt(tmp_path / "k.csv", track, delimiter=",", header="x,y,seconds,stroke", comments="")
    wanted = figures()["guesses"][list(DRAWN).index("k")]
    for name in ("k.npy", "k.csv"):
        found = figures("--input", tmp_path / name)
        assert found["guesses"] == [wanted], "any unit of length, and any beginning of time"
        assert "drawn" not in found
    np.save(tmp_path / "m.npy", table(written(DRAWN["m"]))[:, :3])
    assert "named: m" in call("--input", tmp_path / "m.npy").stdout


def test_refuses(tmp_path: Path) -> None:
    track = table(written(DRAWN["k"]))
    hole, back = track.copy(), track.copy()
    hole[3, 1], back[2, 2] = np.nan, -1
    for name, array, message in (
        ("two.npy", track[:, :2], "shape [5, 2]; a track is [points, 3] or [points, 4]: x, y, seconds, stroke"),
        ("flat.npy", np.zeros(6), "shape [6]"),
        ("empty.npy", np.zeros((0, 3)), "0 points; a track has at least 2"),
        ("one.npy", track[:1], "1 points"),
        ("hole.npy", hole, "point 3 is no place: NaN or infinite"),
        ("back.npy", back, "point 2 is earlier than the one before"),
    ):
        np.save(tmp_path / name, array)
        result = call("--input", tmp_path / name, status=1)
        assert message in result.stderr
        assert result.stdout == ""
    (tmp_path / "words.csv").write_text("x,y\none,two\n")
    assert "not a table of numbers" in call("--input", tmp_path / "words.csv", status=1).stderr
    assert "no such file" in call("--input", tmp_path / "missing.csv", status=1).stderr
    assert "unknown kind of file" in call("--input", "hello", status=1).stderr


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    np.save(tmp_path / "k.npy", table(written(DRAWN["k"])))
    call("-o", tmp_path / "film.png", "--input", tmp_path / "k.npy")
    assert (tmp_path / "film.png").read_bytes().startswith(b"\x89PNG")


def test_places_are_fitted() -> None:
    points = np.array([[10.0, 20.0], [30.0, 25.0]])
    found = fitted(points)
    np.testing.assert_allclose(found.mean(axis=0), 0.5)
    np.testing.assert_allclose(np.ptp(found, axis=0), [0.6, 0.15])
    assert np.isfinite(fitted(np.zeros((3, 2)))).all()


def test_the_model_is_small_and_attributed() -> None:
    assert Models().path("video").stat().st_size <= LARGEST
    model = Models().load("video")
    text = (Models().folder / "video.LICENSE.txt").read_text("utf-8")
    assert all("Brenden Lake" in t and "MIT" in t for t in (text, model.metadata["license"]))
    assert len(Watcher(model).labels) == len(set(Watcher(model).labels)) == 136
