"""The recipe of translate: its BLEU by hand, its split and made data, end to end, and its model on real held-out sentences."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import SHARED
from tests.commands import report_on_made_data, run_recipe
from tinyrnn.demo import Models
from tinyrnn.demo.translate import END, LENGTH_PENALTY, STEPS, UNKNOWN, WIDTH, Translator

pytest.importorskip("torch", reason="recipes train with PyTorch")
from tinyrnn_export import decoding, toy_french, translate
from tinyrnn_export.bleu import bleu
from tinyrnn_export.recipe import Run, find_data

Array = np.ndarray[Any, Any]
SETS = SHARED / "data" / "sets"
SLICE, TRANSLATED = 40, 300
"""of the held-out sentences: those that are translated by both engines, and those whose BLEU is taken"""

# --- BLEU: the examples of Papineni et al., 2002, and sums by hand -----------------------------------------------------
GUIDE = [
    "it is a guide to action that ensures that the military will forever heed party commands",
    "it is the guiding principle which guarantees the military forces always being under the command of the party",
    "it is the practical guide for the army always to heed the directions of the party",
]
FIRST = "it is a guide to action which ensures that the military always obeys the commands of the party"
SECOND = "it is to insure the troops forever hearing the activity guidebook that party direct"
MAT = ["the cat is on the mat", "there is a cat on the mat"]
BY_HAND = [
    ("unigrams are clipped", ["the the the the the the the"], [MAT], 1, 2 / 7),
    ("first candidate, unigrams", [FIRST], [GUIDE], 1, 17 / 18),
    ("first candidate, bigrams", [FIRST], [GUIDE], 2, math.sqrt(17 / 18 * 10 / 17)),
    ("second candidate, unigrams, 14 words of 16", [SECOND], [GUIDE], 1, 8 / 14 * math.exp(1 - 16 / 14)),
    ("second candidate, bigrams", [SECOND], [GUIDE], 2, math.sqrt(8 / 14 * 1 / 13) * math.exp(1 - 16 / 14)),
    ("the same", ["a b c d e"], [["a b c d e"]], 4, 1.0),
    ("one word too few", ["a b c d"], [["a b c d e"]], 4, math.exp(1 - 5 / 4)),
    ("one word too many", ["a b c d e"], [["a b c d"]], 4, (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
    ("summed over the corpus, not averaged", ["a b c d", "x"], [["a b c d"], ["y"]], 4, (4 / 5) ** 0.25),
    ("of two lengths as close the shorter", ["a b c"], [["a b", "a b c d"]], 1, 1.0),
    ("no four in a row", ["a b c x d e"], [["a b c y d e"]], 4, 0.0),
    ("shorter than four", ["a b"], [["a b"]], 4, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("found", "references", "longest", "wanted"), [c[1:] for c in BY_HAND], ids=[c[0] for c in BY_HAND])
def test_bleu_by_hand(found: list[str], references: list[list[str]], longest: int, wanted: float) -> None:
    value = bleu([f.split() for f in found], [[r.split() for r in group] for group in references], longest)
    assert math.isclose(value, wanted, rel_tol=1e-12)


def test_bleu_without_a_reference() -> None:
    with pytest.raises(ValueError, match="no reference for 'a b'"):
        bleu([["a", "b"]], [[]])


# --- data ----------------------------------------------------------------------------------------------------------
def run_of(data: Path | None, output: Path) -> Run:
    return Run(translate.RECIPE, data, output, 1, None, translate.RECIPE.seed)


def test_made_sentences_agree() -> None:
    lines = toy_french.sentences(np.random.default_rng(0), 10**6)
    assert len(set(lines)) == len(lines) == 6 * 6 * 8 * 5 * 3 * 2
    for line in (
        "she does not sell the white house .\telle ne vend pas la maison blanche .",
        "we see a green book .\tnous voyons un livre vert .",
        "i keep my car .\tje garde ma voiture .",
        "they take my black coat .\tils prennent mon manteau noir .",
    ):
        assert line in lines
    assert toy_french.sentences(np.random.default_rng(3), 9) == toy_french.sentences(np.random.default_rng(3), 9)


def test_split_leaks_nothing() -> None:
    random = np.random.default_rng(5)
    words = ["a", "b", "c", "d", "e"]
    pairs = [([*random.choice(words, 3), "."], [*random.choice(words, 4), random.choice([".", "!"])]) for _ in range(400)]
    train, held = translate.split(pairs, random)
    assert sorted(train + held) == sorted(pairs)
    assert held
    for side in (0, 1):
        sentences = [{" ".join(w for w in pair[side] if w.isalpha()) for pair in part} for part in (train, held)]
        assert not sentences[0] & sentences[1]


@pytest.mark.skipif(not (SETS / "tatoeba_fra_eng").is_dir(), reason="the data set is not beside the project")
def test_split_of_the_real_set(tmp_path: Path) -> None:
    run = run_of(SETS / "tatoeba_fra_eng", tmp_path)
    pairs = translate.read(run)
    assert not any(c in word for pair in pairs for side in pair for word in side for c in "\u202f\xa0\u2009\u200b ’")
    train, held = translate.split(pairs, run.random())
    assert len(train) + len(held) == len(pairs) == 55806
    assert translate.HELD_OUT <= len(held) < translate.HELD_OUT + 20
    for side in (0, 1):
        assert not {tuple(p[side]) for p in train} & {tuple(p[side]) for p in held}


# --- end to end --------------------------------------------------------------------------------------------------------
def test_end_to_end_on_made_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "HELD_OUT", 12)
    same = ("translations by greedy", "translations by beam search")
    report = report_on_made_data(translate, tmp_path, "--epochs", "1", "--limit", "200", same=same)
    assert report["equal_translations_by_beam_search"] >= 12
    assert set(report["files"]) == {"translate_encoder.onnx", "translate_decoder.onnx"}
    translator = Translator(Models(tmp_path))
    assert translator.capacity == translate.CAPACITY
    assert "CC BY 2.0" in translator.encoder.metadata["license"]


def test_a_folder_without_the_data(tmp_path: Path) -> None:
    text = run_recipe(translate, "-o", tmp_path, "--data", tmp_path, status=1)
    assert "pairs_short.tsv.gz" in text
    assert "small grammar" in text


@pytest.mark.skipif(not (SETS / "tatoeba_fra_eng").is_dir(), reason="the data set is not beside the project")
def test_packaged_model_on_held_out_sentences(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the loop is around onnxruntime")
    run = run_of(find_data(translate.RECIPE, SETS), tmp_path)
    _, held = translate.split(translate.read(run), run.random())
    models = Models()
    translator = Translator(models)
    engine = translate.around_onnxruntime(models.path("translate_encoder"), models.path("translate_decoder"))
    found = []
    for english, _ in held[:SLICE]:
        source = translator.read(english)
        step, state = engine(translator.english.encode([*english, END], UNKNOWN))
        ends = translator.start, translator.stop, STEPS
        assert translator.greedy(source).tokens.tolist() == decoding.greedy(step, state, *ends)
        best = translator.beam(source)[0].tokens.tolist()
        assert best == decoding.beam(step, state, *ends, WIDTH, LENGTH_PENALTY)
        found.append(translator.text(best).split())
    for english, _ in held[SLICE:TRANSLATED]:
        found.append(translator.text(translator.beam(translator.read(english))[0].tokens).split())
    assert 100 * bleu(found, [[french] for _, french in held[:TRANSLATED]]) >= 30
