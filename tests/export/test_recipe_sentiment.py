"""The recipe of sentiment: its remarks and its split, end to end on made data, and its model on real held-out remarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import SHARED
from tests.commands import report_on_made_data, run_recipe
from tinyrnn.demo import Models
from tinyrnn.demo.sentiment import UNKNOWN, Judge

pytest.importorskip("torch", reason="recipes train with PyTorch")
from tinyrnn_export import sentiment
from tinyrnn_export.recipe import Run, session

SETS = SHARED / "data" / "sets"
SLICE = 500
"""of the held-out remarks"""


def run_of(data: Path | None, output: Path) -> Run:
    return Run(sentiment.RECIPE, data, output, 1, None, sentiment.RECIPE.seed)


def test_once() -> None:
    said = [
        ("good price", True),
        ("slow", False),
        ("good price !", True),
        ("none", False),
        ("none .", False),
        ("none", True),
        ("size", True),
        ("size", False),
        ("! !", True),
    ]
    found = sentiment.once((tuple(text.split()), praise) for text, praise in said)
    assert found == [(("good", "price"), True), (("slow",), False), (("none",), False)]


def test_made_remarks_are_told_apart_by_not() -> None:
    remarks = sentiment.made(np.random.default_rng(0), 500)
    for tokens, praise in remarks:
        for i, token in enumerate(tokens):
            denied = i > 0 and tokens[i - 1] == "not"
            if token in sentiment.PRAISING:
                assert praise != denied
            elif token in sentiment.COMPLAINING:
                assert praise == denied
    assert remarks == sentiment.made(np.random.default_rng(0), 500)


def test_words_and_batches() -> None:
    remarks = [(("so", "so", "good"), True), (("good", "once"), False)]
    assert sentiment.vocabulary(remarks).words == [UNKNOWN, "so", "good"]
    words, there = sentiment.padded([np.array([3, 1, 2]), np.array([4])])
    assert words.tolist() == [[3, 1, 2], [4, 0, 0]]
    assert there.tolist() == [[True, True, True], [True, False, False]]
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    batches = sentiment.batches(np.random.default_rng(1), lengths)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert max(np.ptp(lengths[batch]) for batch in batches) <= 8


@pytest.mark.skipif(not (SETS / "pros_cons").is_dir(), reason="the data set is not beside the project")
def test_split_of_the_real_set(tmp_path: Path) -> None:
    train, held = sentiment.split(sentiment.read(run_of(SETS / "pros_cons", tmp_path)))
    assert len(held) == round(sentiment.HELD_OUT * (len(train) + len(held)))
    assert 0.45 < np.mean([praise for _, praise in held]) < 0.55
    ours, theirs = ({tuple(t for t in tokens if t[0].isalnum()) for tokens, _ in part} for part in (train, held))
    assert not ours & theirs
    assert not {"amp", "quot"} & set(sentiment.vocabulary(train).words)


def test_end_to_end_on_made_data(tmp_path: Path) -> None:
    report = report_on_made_data(sentiment, tmp_path, "--epochs", "2", "--limit", "1000", same=("verdicts",))
    assert set(report["files"]) == {"sentiment.onnx", "sentiment_last.onnx"}
    assert report["accuracy"] > 0.5
    assert Judge(Models(tmp_path).load("sentiment")).words.words[0] == UNKNOWN


def test_a_folder_without_the_data(tmp_path: Path) -> None:
    text = run_recipe(sentiment, "--data", tmp_path, "-o", tmp_path / "out", status=1)
    assert "neither pros_cons.zip nor pros_cons/pros_cons.zip is there" in text


@pytest.mark.skipif(not (SETS / "pros_cons").is_dir(), reason="the data set is not beside the project")
def test_the_packaged_model_on_held_out_remarks(tmp_path: Path) -> None:
    _, held = sentiment.split(sentiment.read(run_of(SETS / "pros_cons", tmp_path)))
    judge, engine = Judge(Models().load("sentiment")), session(Models().path("sentiment"))
    zero = np.zeros((1, 1, sentiment.HIDDEN), np.float32)
    found, oracle = [], []
    for tokens, _ in held[:SLICE]:
        words = judge.words.encode(tokens, UNKNOWN)
        found.append(judge.scores(words)[-1] > 0.5)
        oracle.append(engine.run(["score"], {"words": words[None], "h": zero})[0][0, -1, 0] > 0.5)
    assert found == oracle
    assert np.mean(np.array(found) == [praise for _, praise in held[:SLICE]]) >= 0.9
