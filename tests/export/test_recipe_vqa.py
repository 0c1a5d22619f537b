"""The recipe of vqa: its examples, end to end on made data, and its model on real held-out questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import SHARED
from tests.commands import report_on_made_data
from tinyrnn.data.vocabulary import Words, tokenize
from tinyrnn.demo import Models
from tinyrnn.demo.vqa import SIZE, Answers, scaled

pytest.importorskip("torch", reason="recipes train with PyTorch")
from tinyrnn_export import vqa
from tinyrnn_export.recipe import Run, session

SETS = SHARED / "data" / "sets"


def test_made_questions_are_answered_right() -> None:
    images, asked = vqa.made(np.random.default_rng(0), 50)
    assert images.shape == (50, SIZE, SIZE, 3) and images.dtype == np.uint8
    facts: dict[str, dict[str, str]] = {}
    for number, answer, question in asked:
        facts.setdefault(number, {})[question] = answer
    for found in facts.values():
        color, shape = found["what color is the shape?"], found["what shape is in the image?"]
        assert found[f"what is the {color} shape?"] == shape
        for question, answer in found.items():
            if answer in ("yes", "no"):
                said = color in tokenize(question) or shape in tokenize(question)
                denied = bool({"not", "no"} & set(tokenize(question)))
                assert (answer == "yes") == (said != denied), question


def test_examples() -> None:
    images, asked = vqa.made(np.random.default_rng(0), 3)
    words = Words(sorted({token for _, _, question in asked for token in tokenize(question)}))
    found = vqa.examples(images, asked, words, ["no", "yes", *vqa.SHAPES, *vqa.COLORS])
    np.testing.assert_array_equal(found.images.numpy(), scaled(images))
    assert len(found.of) == len(found.words) == len(found.last) == len(found.answers) == len(asked)
    for (number, _, question), picture, row, last in zip(asked, found.of, found.words, found.last, strict=True):
        assert int(number) == picture
        assert words.text(row[: last + 1]) == " ".join(tokenize(question)) and words.words[row[last]] == "?"


def test_end_to_end_on_made_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vqa, "MADE", 150)
    monkeypatch.setattr(vqa, "CHECKED", 5)
    report = report_on_made_data(vqa, tmp_path, "--epochs", "2", same=("answers",))
    assert report["equal_answers"] == 9 * 30 and 0 < report["accuracy"] < 1
    assert set(Answers(Models(tmp_path).load("vqa")).answers) == {"no", "yes", *vqa.SHAPES, *vqa.COLORS}


@pytest.mark.skipif(not (SETS / "easy_vqa").is_dir(), reason="the data set is not beside the project")
def test_the_packaged_model_on_held_out_questions(tmp_path: Path) -> None:
    (ours, _), (images, asked) = vqa.read(Run(vqa.RECIPE, SETS / "easy_vqa", tmp_path, 1, None, vqa.RECIPE.seed))
    assert not {image.tobytes() for image in ours} & {image.tobytes() for image in images}
    assert len(asked) == 9673
    answers, peer = Answers(Models().load("vqa")), session(Models().path("vqa"))
    right = []
    for number, answer, question in asked[::5]:
        image = scaled(images[int(number)])
        _, words = answers.read(question)
        scores = answers.scores(image, words)
        oracle = peer.run(None, {"image": image[None], "words": words[None]})[0][0]
        np.testing.assert_array_equal(scores.argmax(axis=1)[-1], oracle.argmax(axis=1)[-1])
        right.append(answers.answers[scores[-1].argmax()] == answer)
    assert np.mean(right) >= 0.92
