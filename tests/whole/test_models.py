"""Real models on real data, the result held against onnxruntime's: speech, an agent, spelling, text."""

from __future__ import annotations

import gzip
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

import tinyrnn
from tests import SHARED
from tests.driving import agree
from tinyrnn.check import within
from tinyrnn.cli import main
from tinyrnn.data.vocabulary import encode, vocabulary_of
from tinyrnn.demo import Models

Array = np.ndarray[Any, Any]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# DTLN: two models for noise suppression, 16 kHz.

BLOCK, SHIFT = 512, 128


def sound(name: str) -> Array:
    with wave.open(str(shared(f"data/{name}"))) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16000, 2, 1)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def si_snr(estimate: Array, target: Array) -> float:
    """Scale-invariant signal-to-noise ratio, dB (Le Roux et al., 2019)."""
    e, t = (np.asarray(v, np.float64) - np.mean(v, dtype=np.float64) for v in (estimate, target))
    part = (e @ t) / (t @ t) * t
    return float(10 * np.log10((part @ part) / ((e - part) @ (e - part))))


def denoised(noisy: Array, mask_of: Callable[[Array], Array], cleaned: Callable[[Array], Array]) -> Array:
    """Block by block: the spectrum masked by the first model, the frame in time cleaned by the second, overlap-add."""
    result = np.zeros(len(noisy), np.float32)
    block, total = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.float32)
    for start in range(0, len(noisy) - SHIFT + 1, SHIFT):
        block = np.concatenate([block[SHIFT:], noisy[start : start + SHIFT]])
        spectrum = np.fft.rfft(block)
        estimate = np.fft.irfft(mask_of(np.abs(spectrum).astype(np.float32)) * spectrum).astype(np.float32)
        total = np.concatenate([total[SHIFT:], np.zeros(SHIFT, np.float32)]) + cleaned(estimate)
        result[start : start + SHIFT] = total[:SHIFT]
    return result


def through_onnxruntime(path: Path) -> Callable[[Array], Array]:
    runner = session(path)
    x, state = runner.get_inputs()
    held = {state.name: np.zeros(state.shape, np.float32)}

    def step(frame: Array) -> Array:
        y, held[state.name] = runner.run(None, {x.name: frame.reshape(1, 1, -1), **held})
        return np.asarray(y).ravel()

    return step


def test_dtln_cleans_speech_as_through_onnxruntime() -> None:
    noisy, clean = sound("ulunas_noisy_0119.wav"), sound("ulunas_clean_0119.wav")
    paths = [shared(f"models/dtln_model_{i}.onnx") for i in (1, 2)]
    ours = denoised(noisy, *(tinyrnn.load(path).stream().step for path in paths))
    theirs = denoised(noisy, *map(through_onnxruntime, paths))
    delay = BLOCK - SHIFT  # a sample comes out when its last block is in
    ratio = si_snr(ours[delay:], clean[:-delay])
    assert ratio > 13 and ratio > 5 + si_snr(noisy, clean)
    assert abs(ratio - si_snr(theirs[delay:], clean[:-delay])) < 0.01
    assert within("close", ours, theirs)


@pytest.mark.filterwarnings("ignore:.*states no seed")
def test_every_model_is_inspected_without_options() -> None:
    for path in sorted(shared("models").glob("*.onnx")):
        result = CliRunner().invoke(main, ["inspect", str(path)])
        assert result.exit_code == 0 and "inputs" in result.output, f"{path}: {result.output}"


# Hallway: the state of an agent over 90 episodes.


def test_hallway_over_all_observations() -> None:
    path, data = shared("models/mlagents_hallway.onnx"), np.load(shared("data/hallway_expert_obs.npz"))
    runner, stream = session(path), tinyrnn.load(path, outputs=["recurrent_out"]).stream()
    masks = np.ones(5, np.float32)
    state, largest = np.zeros((1, 1, 128), np.float32), 0.0
    done = data["done"].astype(bool).ravel()
    assert len(done) == 4395 and done.sum() == 90
    for t, (obs_0, obs_1) in enumerate(zip(data["obs_0"].reshape(-1, 105), data["obs_1"].reshape(-1, 3), strict=True)):
        feeds = {"obs_0": obs_0[None], "obs_1": obs_1[None], "action_masks": masks[None], "recurrent_in": state}
        (state,) = runner.run(["recurrent_out"], feeds)
        y = stream.step(obs_0, obs_1, masks)
        assert np.array_equal(y, stream.states["recurrent_in"].ravel())
        agree("close", {"state": y}, {"state": state.ravel()}, f"observation {t}:")
        largest = max(largest, float(np.abs(y).max()))
        if done[t]:
            state = np.zeros_like(state)
            stream.reset()
    assert largest > 100


# g2p: an encoder reads the spelling, a decoder writes the sounds.

WORDS, LETTERS, LONGEST = 400, 24, 25


def lexicon(letters: dict[str, int], count: int | None = WORDS) -> list[tuple[str, str]]:
    """The first `count` words (None: all) that the encoder can read, and their sounds."""
    found = []
    for line in shared("data/lexicon_id.tsv").read_text(encoding="utf-8").splitlines():
        word, _, sounds = line.partition("\t")
        if 0 < len(word) <= LETTERS and set(word) <= set(letters):
            found.append((word, sounds.replace(" ", "").replace("ɡ", "g")))
    return found[:count]


def one_hot(index: int, size: int) -> Array:
    return np.eye(size, dtype=np.float32)[index]


def greedy(step: Callable[[Array], Array], sounds: list[str]) -> str:
    """Sounds until the end of the word, each fed back."""
    word, index = "", 0
    for _ in range(LONGEST):
        index = int(step(one_hot(index, len(sounds))).argmax())
        if sounds[index] == "\n":
            break
        word += sounds[index]
    return word


def decoder_step(runner: Any, states: list[Array]) -> Callable[[Array], Array]:
    def step(x: Array) -> Array:
        y, *states[:] = runner.run(None, {"input_2": x[None, None], "input_3": states[0], "input_4": states[1]})
        return np.asarray(y)

    return step


def test_g2p_writes_the_same_words_as_onnxruntime() -> None:
    letters = json.loads(shared("models/g2p_id_g2id.json").read_text(encoding="utf-8"))
    indices = json.loads(shared("models/g2p_id_p2id.json").read_text(encoding="utf-8"))
    sounds = sorted(indices, key=indices.__getitem__)
    paths = [shared(f"models/g2p_id_{part}.onnx") for part in ("encoder", "decoder")]
    encoder, decoder = map(tinyrnn.load, paths)
    encoder_session, decoder_session = map(session, paths)
    stream = decoder.stream()
    right = 0
    for word, expected in lexicon(letters):
        x = np.stack([one_hot(letters[letter], 28) for letter in word.ljust(LETTERS)])[None]
        h, c = encoder.run(x)
        states = encoder_session.run(None, {"input_1": x})
        agree("close", {"h": h, "c": c}, dict(zip("hc", states, strict=True)), word)
        stream.states["input_3"][...], stream.states["input_4"][...] = h[0], c[0]
        ours = greedy(stream.step, sounds)
        assert ours == greedy(decoder_step(decoder_session, states), sounds), word
        right += ours == expected
    assert right >= 0.9 * WORDS


# The packaged language model.

TEXT = """HAMLET:
To be, or not to be: that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles,
And by opposing end them?

"""


def test_char_lm_streams_what_onnxruntime_gives_for_the_whole() -> None:
    path = Models().path("char_lm")
    model = tinyrnn.load(path)
    codes = np.resize(encode(TEXT, vocabulary_of(model)), 2000)
    state = np.zeros((1, 1, model.states[0].shape[-1]), np.float32)
    whole = session(path).run(None, {"x": codes[None], "h": state, "c": state})
    stream = model.stream()
    stepped = np.stack([stream.step(code) for code in codes])
    agree("close", {"logits": stepped}, {"logits": whole[0][0]})
    for name, end in zip("hc", whole[1:], strict=True):
        agree("close", {name: stream.states[name]}, {name: end.reshape(stream.states[name].shape)})
    stream.reset()
    assert np.array_equal(stream.run(codes), stepped)


def test_char_lm_knows_shakespeare() -> None:
    with gzip.open(shared("data/sets/tinyshakespeare/input.txt.gz"), "rt", encoding="ascii", newline="") as file:
        text = file.read()
    model = tinyrnn.load(Models().path("char_lm"))
    codes = encode(text[len(text) * 9 // 10 :], vocabulary_of(model))
    logits = model.stream().run(codes[:-1]).astype(np.float64)
    top = logits.max(axis=1)
    nats = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(logits)), codes[1:]]
    assert nats.mean() <= 1.7
