"""The demo of sentiment: its text, its figures, its picture, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import demo
from tinyrnn.data.vocabulary import tokenize
from tinyrnn.demo import Models
from tinyrnn.demo.sentiment import BAR, REMARKS, UNKNOWN, Judge

call = partial(demo, "sentiment")


def figures(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(call("--json", *arguments).stdout)["remarks"]
    return found


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(Models().load("sentiment"))


def test_every_word_has_its_line() -> None:
    lines = call().stdout.splitlines()
    for remark in REMARKS:
        assert [t for t in tokenize(remark) if not any(line.split()[:1] == [t] for line in lines)] == []
    assert sum(line.strip() in ("praise", "complaint") for line in lines) == len(REMARKS)


def test_bars_point_to_the_score() -> None:
    remark = "great pictures, but slow and noisy"
    rows = [line.split("│") for line in call("--input", remark).stdout.splitlines() if "│" in line]
    scores = figures("--input", remark)[0]["scores"]
    for (left, right), score in zip(rows, scores, strict=True):
        toward, away = (right, left) if score > 0.5 else (left, right)
        assert toward.count("█") == round(abs(score - 0.5) * 2 * BAR)
        assert "█" not in away
        assert right.split()[-1] == f"{score:.2f}"


@pytest.mark.parametrize(
    ("remark", "verdict"),
    [
        ("Easy to use, great price", "praise"),
        ("excellent reception and long battery life", "praise"),
        ("Terrible battery life, slow, breaks easily", "complaint"),
        ("not worth the money", "complaint"),
    ],
)
def test_clear_remarks(remark: str, verdict: str) -> None:
    (found,) = figures("--input", remark)
    assert (found["text"], found["verdict"], found["unknown"]) == (remark, verdict, [])
    assert found["words"] == tokenize(remark)
    assert len(found["scores"]) == len(found["words"])
    assert (found["scores"][-1] > 0.5) == (verdict == "praise")


def test_scores_are_of_what_was_read(judge: Judge) -> None:
    indices = judge.indices(tokenize(REMARKS[0]))
    whole = judge.scores(indices)
    for end in range(1, len(indices)):
        np.testing.assert_array_equal(judge.scores(indices[:end]), whole[:end])


def test_unknown_words_count_as_one(judge: Judge) -> None:
    (found,) = figures("--input", "great flurbish, great flurbish")
    assert found["unknown"] == ["flurbish"]
    np.testing.assert_array_equal(judge.scores(judge.indices(["great", UNKNOWN])), np.float32(found["scores"][:2]))
    assert "unknown" in call("--input", "great flurbish").stdout
    assert "unknown" not in call("--input", "great price").stdout


def test_a_file_has_one_remark_a_line(tmp_path: Path) -> None:
    path = tmp_path / "remarks.txt"
    path.write_text("good value\n\n  way too slow \n", "utf-8")
    assert [(r["text"], r["verdict"]) for r in figures("--input", path)] == [
        ("good value", "praise"),
        ("way too slow", "complaint"),
    ]


def test_refuses(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    for given, message in (
        ("", "the remark has no word"),
        ("  ", "the remark has no word"),
        ("?!", "the remark has no word"),
        ("batteryyy qwxz", "not 'batteryyy' (but battery, "),
        (empty, "there is no remark in it"),
        (binary, "not a text file in UTF-8"),
        (tmp_path / "missing.txt", "No such file"),
    ):
        result = call("--input", given, status=1)
        assert message in result.stderr
        assert "█" not in result.stdout


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    for number, options in enumerate(((), ("--input", "good"))):
        path = tmp_path / f"{number}.png"
        call("-o", path, *options)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_data_is_attributed() -> None:
    text = (Models().folder / "sentiment.LICENSE.txt").read_text("utf-8")
    model = Models().load("sentiment")
    attribution = "Pros and cons dataset by Bing Liu [http://www.cs.uic.edu/~liub]"
    assert attribution in model.metadata["license"]
    assert attribution in " ".join(text.split())
    assert Models().path("sentiment").stat().st_size < 800_000
