"""The demo of vqa: its pictures and questions, its text, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import demo
from tinyrnn import TinyRNNError
from tinyrnn.demo import Models
from tinyrnn.demo.vqa import COLORS, PICTURES, SHAPES, SIZE, Answers, Drawn, scaled, taken

LARGEST = 600_000


call = partial(demo, "vqa")


def figures(*arguments: object) -> Any:
    return json.loads(call("--json", *arguments).stdout)["pictures"]


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(Models().load("vqa"))


def test_drawn_shapes() -> None:
    red = Drawn("rectangle", "red", (0.5, 0.5), (0.5, 0.25)).image()
    assert red.shape == (SIZE, SIZE, 3) and red.dtype == np.uint8
    inside = (red == COLORS["red"]).all(axis=-1)
    assert inside.sum() == 32 * 16 and inside[24:40, 16:48].all()
    assert (red[~inside] == red[0, 0]).all()
    circle = (Drawn("circle", "black", size=(0.5, 0.1)).image() < 128).all(axis=-1)
    assert circle.sum() == pytest.approx(np.pi * 16**2, rel=0.03)
    triangle = (Drawn("triangle", "blue", size=(0.5, 0.5)).image()[..., 0] < 128).sum(axis=1)
    assert triangle.max() == pytest.approx(32, abs=1) and (np.diff(triangle[triangle > 0]) >= 0).all()


def test_scaled() -> None:
    image = np.full((2, SIZE, SIZE, 3), 255, np.uint8)
    image[0, 5, 7] = 255, 0, 51
    found = scaled(image)
    assert found.shape == (2, 3, SIZE, SIZE) and found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found[0, :, 5, 7], [0, 1, 0.8], rtol=1e-6)
    assert found[1].max() == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_color_is_told(answers: Answers, shape: str) -> None:
    for color in COLORS:
        image = Drawn(shape, color, (0.45, 0.55), (0.4, 0.3)).image()
        assert answers.ask(image, "what color is the shape?").answer == color
        assert answers.ask(image, "what shape is in the image?").answer == shape
        assert answers.ask(image, f"is there a {color} shape?").answer == "yes"
        assert answers.ask(image, f"is no {shape} present?").answer == "no"
        other = SHAPES[SHAPES.index(shape) - 1]
        assert answers.ask(image, f"does the image contain a {other}?").answer == "no"
        assert answers.ask(image, f"is there not a {other} in the image?").answer == "yes"


def test_the_default_questions() -> None:
    found = figures()
    assert len(found) == len(PICTURES)
    for drawn, asked in zip(PICTURES, found, strict=True):
        by_question = {a["question"]: a["answer"] for a in asked}
        assert by_question["what color is the shape?"] == drawn.color
        assert by_question["what shape is in the image?"] == drawn.shape
        assert by_question[f"is no {drawn.color} shape present?"] == "no"
        assert all(0 < a["probability"] <= 1 for a in asked)
    text = call().stdout
    assert "what" in text and all(drawn.color in text for drawn in PICTURES)
    assert max(map(len, text.splitlines())) <= 110


def test_inputs(tmp_path: Path) -> None:
    image = Drawn("circle", "green", (0.4, 0.6), (0.4, 0.4)).image()
    np.save(tmp_path / "image.npy", image)
    path = tmp_path / "image.npy"
    assert taken(str(path)) == (path, None) == taken(f"{path}?")
    assert taken(f"{path}?what color is the shape?") == (path, "what color is the shape?")
    assert taken("is there a circle?") == (None, "is there a circle?") and taken("is there a circle.") == (
        None,
        "is there a circle.",
    )
    assert len(figures("--input", path)[0]) == 5
    [[asked]] = figures("--input", f"{path}?What color is the SHAPE")
    assert asked["answer"] == "green"
    [[asked]] = figures("--input", "is there a triangle?")
    assert asked["answer"] == ("yes" if PICTURES[0].shape == "triangle" else "no")
    pillow = pytest.importorskip("PIL.Image", reason="images need Pillow")
    pillow.fromarray(image).save(tmp_path / "image.png")
    assert "green" in call("--input", f"{tmp_path / 'image.png'}?what color is the circle?").stdout


def test_refuses(tmp_path: Path, answers: Answers) -> None:
    for question, message in (
        ("what colour is the shape?", "not 'colour' (but color)"),
        ("is there a grey shape?", "not 'grey' (but gray"),
        ("is there an elephant, maybe?", "'elephant'"),
        ("", "has no word"),
        ("??", "has no word"),
    ):
        result = call("--input", question, status=1)
        assert message in result.stderr and result.stdout == ""
    np.save(tmp_path / "grey.npy", np.zeros((SIZE, SIZE), np.uint8))
    assert "64 x 64 pixels, 8-bit RGB" in call("--input", tmp_path / "grey.npy", status=1).stderr
    np.save(tmp_path / "good.npy", PICTURES[0].image())
    assert "not 'purple'" in call("--input", f"{tmp_path / 'good.npy'}?is there a purple shape?", status=1).stderr
    assert "no such file" in call("--input", f"{tmp_path / 'none.npy'}?is there a circle?", status=1).stderr
    with pytest.raises(TinyRNNError, match="knows 27 words"):
        answers.read("where is it?")


def test_a_guess_after_every_word(answers: Answers) -> None:
    found = answers.ask(PICTURES[0].image(), "what color is the shape?")
    assert found.tokens == ["what", "color", "is", "the", "shape", "?"] and len(found.guesses) == 6
    assert set(found.guesses[1:]) <= set(COLORS), "from the second word on it is a color"


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    call("-o", tmp_path / "one.png", "--input", "is there a circle?")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_is_small_and_attributed(answers: Answers) -> None:
    assert Models().path("vqa").stat().st_size <= LARGEST
    text = (Models().folder / "vqa.LICENSE.txt").read_text("utf-8")
    assert all("Victor Zhou" in t and "MIT" in t for t in (text, Models().load("vqa").metadata["license"]))
    assert len(answers.answers) == 13
