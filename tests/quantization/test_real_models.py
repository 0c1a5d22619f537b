"""Real models with small weights on real data: speech, spelling, voice activity."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests.whole.test_models import BLOCK, LETTERS, SHIFT, denoised, greedy, lexicon, one_hot, shared, si_snr, sound
from tinyrnn import audio
from tinyrnn.quantization import quantize

SAMPLED = 29
"""one word of so many, without TINYRNN_ALL"""
CLOSE = {"terbukti", "terpilah"}
"""words of which one sound is ahead of the next by a probability of 0.002 or less; with half weights they are as in the lexicon"""


def test_dtln_with_half_weights_cleans_as_well(tmp_path: Path) -> None:
    """From files that load without options; SI-SNR within 0.01 dB."""
    noisy, clean = sound("ulunas_noisy_0119.wav"), sound("ulunas_clean_0119.wav")
    paths = [shared(f"models/dtln_model_{i}.onnx") for i in (1, 2)]
    files = [tmp_path / f"{path.stem}.npz" for path in paths]
    for path, file in zip(paths, files, strict=True):
        found = quantize(path, file, frames=16, seconds=0.05).file
        assert found is not None and not found.wide and found.bytes < 0.55 * path.stat().st_size
    delay = BLOCK - SHIFT
    ratios = []
    for pair in (paths, files):
        made = denoised(noisy, *(tinyrnn.load(path).stream().step for path in pair))
        ratios.append(si_snr(made[delay:], clean[:-delay]))
    assert ratios[0] > 13 and abs(ratios[1] - ratios[0]) < 0.01


def test_g2p_with_half_weights_writes_the_same_words() -> None:
    """All but two that are close."""
    letters = json.loads(shared("models/g2p_id_g2id.json").read_text(encoding="utf-8"))
    indices = json.loads(shared("models/g2p_id_p2id.json").read_text(encoding="utf-8"))
    sounds = sorted(indices, key=indices.__getitem__)
    paths = [shared(f"models/g2p_id_{part}.onnx") for part in ("encoder", "decoder")]
    pairs = [[tinyrnn.load(path, weights=kind) for path in paths] for kind in ("float32", "float16")]
    words, changed = lexicon(letters, None), set[str]()
    assert len(words) == 27577
    every = os.environ.get("TINYRNN_ALL")
    for word, known in words if every else [pair for n, pair in enumerate(words) if n % SAMPLED == 0 or pair[0] in CLOSE]:
        x = np.stack([one_hot(letters[letter], 28) for letter in word.ljust(LETTERS)])[None]
        written = []
        for encoder, decoder in pairs:
            stream = decoder.stream()
            h, c = encoder.run(x)
            stream.states["input_3"][...], stream.states["input_4"][...] = h[0], c[0]
            written.append(greedy(stream.step, sounds))
        if written[0] != written[1]:
            assert written[1] == known, word
            changed.add(word)
    assert changed == CLOSE


HALF_BUT_LSTM = {"*": "float16", "/model/decoder/rnn/LSTM": "int8"}


@pytest.mark.parametrize(("weights", "changed"), [("float16", 0), (HALF_BUT_LSTM, 0), ("int8", 4)], ids=["half", "lstm", "int8"])
def test_decisions_of_silero_with_small_weights(weights: Any, changed: int) -> None:
    """At 0.5, on every frame; int8 everywhere changes a few that are close."""
    path, rate = shared("models/silero_vad_16k_op15.onnx"), 16000
    samples = sound("silero_test_16k.wav")

    def probabilities(kind: Any) -> Any:
        model = tinyrnn.load(path, bind={"sr": rate, "batch": 1, "sequence": 576}, weights=kind)
        return audio.Listener(model, hop=512).run(samples)["output"].ravel()

    wanted, found = probabilities("float32"), probabilities(weights)
    assert len(wanted) == 1875 and 0.5 < np.mean(wanted > 0.5) < 0.9
    others = np.flatnonzero((found > 0.5) != (wanted > 0.5))
    assert len(others) <= changed and np.all(np.abs(wanted[others] - 0.5) < 0.06)
