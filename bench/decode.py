"""Generation against loops around onnxruntime, as a Markdown table.

    python bench/decode.py                                            # the packaged language model
    python bench/decode.py --pair ENCODER DECODER LETTERS SOUNDS LEXICON   # and words of a lexicon, spelling to sound

One process, each engine on one thread, interleaved in rounds, medians over the rounds. The loop around onnxruntime
feeds the states back and chooses with NumPy. Of the pair: two .onnx files, two .json files that number letters and
sounds, and a .tsv file of words and their sounds; --all decodes the whole lexicon once more and counts what is right.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

import tinyrnn
from tinyrnn import decode
from tinyrnn.demo import Models
from tinyrnn.vocabulary import encode, vocabulary_of

Array = np.ndarray[Any, Any]
WORDS, ROUNDS, STEPS = 200, 9, 300


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rates(ours: Callable[[], Any], theirs: Callable[[], Any], count: int) -> tuple[float, float]:
    """Of both, `count` per second, medians over interleaved rounds."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for call, found in zip((ours, theirs), times, strict=True):
            begun = time.perf_counter()
            call()
            if turn:
                found.append(time.perf_counter() - begun)
    return count / median(times[0]), count / median(times[1])


def row(what: str, found: tuple[float, float]) -> None:
    print(f"| {what} | {found[0]:,.0f} | {found[1]:,.0f} | {found[0] / found[1]:.1f} |", flush=True)


def language() -> None:
    path = Models().path("char_lm")
    model, runner = tinyrnn.load(path), session(path)
    prompt = encode("\n", vocabulary_of(model)).tolist()
    spoken = decode.Decoder(model)
    shapes = [(1, 1, p.shape[-1]) for p in model.states]
    random = np.random.default_rng(0)

    def loop(sampled: bool) -> None:
        states, token = [np.zeros(s, np.float32) for s in shapes], prompt[-1]
        for _ in range(STEPS):
            y, *states = runner.run(None, {"x": np.array([[token]]), "h": states[0], "c": states[1]})
            if sampled:
                sums = np.cumsum(np.exp(y.ravel() - y.max()))
                token = int(np.searchsorted(sums, random.random() * sums[-1]))
            else:
                token = int(y.argmax())

    row("characters, greedy", rates(lambda: spoken.generate(prompt, STEPS), lambda: loop(False), STEPS))
    row("characters, sampled", rates(lambda: spoken.generate(prompt, STEPS, method="sample"), lambda: loop(True), STEPS))


def words(paths: list[Path], everything: bool) -> None:
    letters, sounds = (json.loads(p.read_text(encoding="utf-8")) for p in paths[2:4])
    names = {index: name for name, index in sounds.items()}
    models = [tinyrnn.load(p) for p in paths[:2]]
    reader, writer = (m.stream() for m in models)
    sessions = [session(p) for p in paths[:2]]
    spoken = decode.Decoder(writer)
    states = [p.name for p in models[1].states]
    feeds = [i.name for i in sessions[1].get_inputs()]
    (first,) = (i.name for i in sessions[0].get_inputs())
    (fed,) = (name for name in feeds if name not in states)
    order = [feeds.index(name) for name in states]
    end, length, longest = sounds["\n"], 24, 25
    rows, marks = np.eye(len(letters), dtype=np.float32), np.eye(len(sounds), dtype=np.float32)
    lexicon = [line.split("\t") for line in paths[4].read_text(encoding="utf-8").splitlines()]
    lexicon = [(w, s.replace(" ", "").replace("ɡ", "g")) for w, s in lexicon if len(w) <= length and set(w) <= set(letters)]

    def spelt(word: str) -> Array:
        return rows[[letters[c] for c in word.ljust(length)]]

    def ours(word: str) -> list[int]:
        reader.reset()
        decode.hand_over(writer, dict(zip(states, reader.run(spelt(word)), strict=True)))
        return [int(t) for t in spoken.generate(0, longest, stop=end).tokens]

    def theirs(word: str) -> list[int]:
        held, made, token = sessions[0].run(None, {first: spelt(word)[None]}), [], 0
        for _ in range(longest):
            y, *held = sessions[1].run(
                None, {fed: marks[token][None, None], **{feeds[o]: s for o, s in zip(order, held, strict=True)}}
            )
            token = int(y.argmax())
            made.append(token)
            if token == end:
                break
        return made

    sample = [w for w, _ in lexicon[:: max(len(lexicon) // WORDS, 1)]]
    if [ours(w) for w in sample] != [theirs(w) for w in sample]:
        raise SystemExit("the two loops decide differently")
    row("words, spelling to sound", rates(lambda: [ours(w) for w in sample], lambda: [theirs(w) for w in sample], len(sample)))
    if everything:
        begun = time.perf_counter()
        right = sum("".join(names[t] for t in ours(w) if t != end) == s for w, s in lexicon)
        seconds = time.perf_counter() - begun
        print(f"\n{len(lexicon):,} in {seconds:.1f} s, {len(lexicon) / seconds:,.0f} a second; {right / len(lexicon):.1%} exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=5, type=Path, metavar=("ENCODER", "DECODER", "LETTERS", "SOUNDS", "LEXICON"))
    parser.add_argument("--all", action="store_true", help="the whole lexicon, once")
    given = parser.parse_args()
    print("| per second | tinyrnn | loop around onnxruntime | ratio |\n|---|---|---|---|")
    language()
    if given.pair:
        words(given.pair, given.all)


if __name__ == "__main__":
    main()
