"""The demo of translate: its text, its attention, and what it says of input that it cannot take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tinyrnn import ShapeError
from tinyrnn.check import within
from tinyrnn.cli import main
from tinyrnn.demo import Models
from tinyrnn.demo.translate import END, MARKS, SENTENCE, WIDTH, Translator, padded, table


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator(Models())


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["demo", "translate", *arguments])


def test_a_sentence_in_the_terminal() -> None:
    result = demo("--input", "Where is my car?")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "where is my car ?"
    assert lines[1].split(maxsplit=1) == ["greedy", "où est ma voiture ?"]
    assert lines[2].split(maxsplit=2)[0] == "beam"
    assert lines[2].endswith("  où est ma voiture ?")
    assert lines[2 + WIDTH].split() == ["where", "is", "my", "car", "?", END]
    assert lines[3 + WIDTH].split()[0] == "où"


def test_several_sentences_as_json() -> None:
    result = demo("--json", "--input", "I am tired. I like your zzyzx!")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.output)["translations"]
    assert first["english"] == "i am tired ."
    assert first["unknown"] == []
    assert second["unknown"] == ["zzyzx"]
    for found in (first, second):
        scores = [h["score"] for h in found["beam"]]
        assert len(scores) == WIDTH
        assert scores == sorted(scores, reverse=True)
        assert not any(mark in h["french"] for h in found["beam"] for mark in MARKS)
        shares = np.array(found["attention"], np.float32)
        assert shares.shape[1] == len(found["english"].split()) + 1
        assert within("close", shares.sum(axis=1), np.ones(len(shares), np.float32))


def test_unknown_words_and_long_sentences_are_told() -> None:
    result = demo("--input", "my zzyzx is in the old house near the river")
    assert result.exit_code == 0, result.output
    assert "the model does not know 'zzyzx': <unk> takes its place" in result.output
    assert "10 words and marks; the model was trained on sentences of at most 7" in result.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "there is no word to translate"),
        (" ... !\n", "there is no word to translate"),
        ("one two three four five six seven eight nine ten eleven twelve", "12 words and marks in 'one two three"),
    ],
)
def test_input_it_cannot_take(given: str, message: str) -> None:
    result = demo("--input", given)
    assert result.exit_code == 1
    assert message in result.output


def test_a_folder_without_the_decoder(tmp_path: Path) -> None:
    (tmp_path / "translate_encoder.onnx").write_bytes(Models().path("translate_encoder").read_bytes())
    result = demo("--models", str(tmp_path))
    assert result.exit_code == 1
    assert "there is no translate_decoder.onnx" in result.output


def test_sentences_of_a_text() -> None:
    assert SENTENCE.findall("Who? Me!  It is\nnot…") == ["Who?", " Me!", "  It is", "not…"]


def test_the_memory_is_exact_whatever_its_capacity(translator: Translator) -> None:
    tokens = ["where", "is", "my", "car", "?"]
    shares = translator.attention(translator.read(tokens), [translator.stop] * 3)
    source = translator.read(tokens)
    source.inputs["memory"][source.length :] = 1e3
    source.inputs["keys"][source.length :] = 50
    assert np.array_equal(translator.attention(source, [translator.stop] * 3), shares)


def test_too_long_a_sentence_by_the_api(translator: Translator) -> None:
    with pytest.raises(ShapeError, match="at most 11: write shorter sentences"):
        translator.read(["a"] * 12)


def test_padding_and_table() -> None:
    wide = padded(np.ones((2, 3), np.float32), np.ones((2, 1), np.float32), 4)
    assert {name: x.shape for name, x in wide.items()} == {"memory": (4, 3), "keys": (4, 1), "mask": (4,)}
    assert wide["mask"].tolist() == [1, 1, 0, 0]
    assert table(np.array([[0.996, 0.004], [0.3, 0.7]]), ["le", "chat"], ["the", "kitten"]) == [
        "      the  kitten",
        "le    100       ·",
        "chat   30      70",
    ]
