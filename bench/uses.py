"""The uses of the packaged models against the same loops around onnxruntime, per second, as a Markdown table.

    python bench/uses.py                                                   # text, captions, translations
    python bench/uses.py --models FOLDER --only captions
    python bench/uses.py --pair ENCODER DECODER LETTERS SOUNDS LEXICON     # and words of a lexicon, spelling to sound

One process, each engine on one thread, interleaved in rounds, medians over the rounds of that thread's processor time, in
which others on the machine do not count; before that, both must decide the same. A loop around onnxruntime calls
`InferenceSession.run` for each word (of a beam search for each hypothesis, as the files hold one state), feeds the states
back, and chooses with NumPy. tinyrnn takes captions (of 8 icons, each turned and mirrored), translations (of 4 sentences) and
words as lists. Neither keeps log-probabilities where it is greedy. Of the pair: two .onnx files, two .json files that number
letters and sounds, and a .tsv file of words and their sounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

import tinyrnn
from tinyrnn import decode
from tinyrnn.data.vocabulary import encode, tokenize, vocabulary_of
from tinyrnn.demo import PACKAGED, Models
from tinyrnn.demo.icons import STEPS, WIDTH, Captioner, drawn

Array = np.ndarray[Any, Any]
Step = Callable[[int, Any], tuple[Array, Any]]
"""a token and a state to the scores, and the state after"""
WORDS, ROUNDS, CHARACTERS = 200, 25, 300
SLOTS, TEXTS, TEXT = 64, 16, 100
"""of a pool of words, texts at once, and the characters of each"""


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def row(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], count: int) -> None:
    """A line of the table: `count` things per second of both, which must give the same."""
    if ours() != theirs():
        raise SystemExit(f"{what}: the two loops decide differently")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, found in zip((ours, theirs), times, strict=True):
            begun = time.thread_time()
            call()
            found.append(time.thread_time() - begun)
    a, b = (count / median(found) for found in times)
    ratio = median(y / x for x, y in zip(*times, strict=True))
    print(f"| {what} | {a:,.0f} | {b:,.0f} | {ratio:.1f} |", flush=True)


# --- loops around onnxruntime ---------------------------------------------------------------------------------------


def greedy(step: Step, state: Any, token: int, stop: int, steps: int) -> list[int]:
    made: list[int] = []
    while len(made) < steps and (not made or token != stop):
        scores, state = step(token, state)
        token = int(scores.argmax())
        made.append(token)
    return made


def beam(step: Step, state: Any, token: int, stop: int, steps: int, length_penalty: float) -> list[int]:
    """As `tinyrnn.decode.beam` is documented; the best WIDTH + 1 of each hypothesis are enough, as one token ends it."""
    living: list[tuple[float, list[int], Any]] = [(0.0, [], state)]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, steps + 1):
        pool = []
        for total, made, before in living:
            scores, after = step(made[-1] if made else token, before)
            x = scores.ravel()
            top = x.max()
            likely = total - top - np.log(np.exp(x - top).sum())
            pool += [(likely + x[t], made, int(t), after) for t in np.argpartition(-x, WIDTH)[: WIDTH + 1]]
        pool.sort(key=lambda c: -c[0])
        living = []
        for total, made, t, after in pool:
            if t == stop:
                ended.append((total / ((5 + length) / 6) ** length_penalty, [*made, t]))
            else:
                living.append((total, [*made, t], after))
            if len(living) == WIDTH:
                break
        ended = sorted(ended, key=lambda e: -e[0])[:WIDTH]
        best = max(living[0][0] / ((5 + n) / 6) ** length_penalty for n in (length + 1, steps))
        if len(ended) == WIDTH and best <= ended[-1][0]:
            return ended[0][1]
    last = [(total / ((5 + steps) / 6) ** length_penalty, made) for total, made, _ in living]
    return max([*ended, *last], key=lambda e: e[0])[1]


def stepper(runner: Any, states: dict[str, str], scores: str, constant: dict[str, Array]) -> Step:
    """A word of a decoder: its states by the inputs and outputs that they are."""
    wanted = [scores, *states.values()]

    def step(token: int, state: Any) -> tuple[Array, Any]:
        y, *after = runner.run(wanted, {"token": np.array([token]), **constant, **dict(zip(states, state, strict=True))})
        return y, after

    return step


# --- uses -----------------------------------------------------------------------------------------------------------


def characters(models: Models) -> None:
    path = models.path("char_lm")
    model, runner = tinyrnn.load(path), session(path)
    prompt = encode("\n", vocabulary_of(model)).tolist()
    spoken = decode.Decoder(model)
    shapes = [(1, 1, p.shape[-1]) for p in model.states]
    drawn = uniforms(CHARACTERS)

    def loop(sampled: bool) -> list[int]:
        states, token, made = [np.zeros(s, np.float32) for s in shapes], prompt[-1], []
        for u in drawn:
            y, *states = runner.run(None, {"x": np.array([[token]]), "h": states[0], "c": states[1]})
            if sampled:
                sums = np.cumsum(np.exp(y.ravel() - y.max()))
                token = int(np.searchsorted(sums, u * sums[-1], "right"))
            else:
                token = int(y.argmax())
            made.append(token)
        return made

    def ours(**how: Any) -> list[int]:
        decode.hand_over(spoken.stream, {})
        found: list[int] = spoken.generate(prompt, CHARACTERS, log_probabilities=False, **how).tokens.tolist()
        return found

    def text(seed: int) -> list[int]:
        states, token, made = [np.zeros(s, np.float32) for s in shapes], prompt[-1], []
        for u in uniforms(TEXT, seed):
            y, *states = runner.run(None, {"x": np.array([[token]]), "h": states[0], "c": states[1]})
            sums = np.cumsum(np.exp(y.ravel() - y.max()))
            token = int(np.searchsorted(sums, u * sums[-1], "right"))
            made.append(token)
        return made

    many = decode.PoolDecoder(model.pool(TEXTS))
    seeds = decode.item_seeds(0, TEXTS).tolist()

    def texts() -> list[list[int]]:
        made = many.generate([prompt] * TEXTS, TEXT, log_probabilities=False, method="sample")
        return [g.tokens.tolist() for g in made]

    row("characters, greedy", ours, lambda: loop(False), CHARACTERS)
    row("characters, sampled", lambda: ours(method="sample", seed=0), lambda: loop(True), CHARACTERS)
    row(f"characters, sampled, {TEXTS} texts at once", texts, lambda: [text(seed) for seed in seeds], TEXTS * TEXT)


def uniforms(count: int, seed: int = 0) -> list[float]:
    """What `generate` draws with a seed: SplitMix64, from the mixed seed on."""
    mask = (1 << 64) - 1

    def mixed(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    return [(mixed((mixed(seed) + n * 0x9E3779B97F4A7C15) & mask) >> 11) / (1 << 53) for n in range(1, count + 1)]


def captions(models: Models, name: str, what: str) -> None:
    captioner = Captioner(models, name)
    eye, writer = (session(models.path(f"{name}_{part}")) for part in ("encoder", "decoder"))
    states = {"h": "hn", "c": "cn"}
    made = [o.name for o in eye.get_outputs()]
    turned = [np.rot90(image, quarters) for image in drawn().values() for quarters in range(4)]
    images = [np.ascontiguousarray(side) for image in turned for side in (image, image[:, ::-1])]

    def look(image: Array) -> tuple[Step, list[Array]]:
        found = dict(zip(made, eye.run(None, {"image": image[None, None]}), strict=True))
        begun = [found.pop(s) for s in states]
        return stepper(writer, states, "scores", found), begun

    end = captioner.end
    kept, seen = [captioner.see(image) for image in images], [look(image) for image in images]
    searches: list[tuple[str, Callable[[Any], list[list[int]]], Callable[[Step, Any], list[int]]]] = [
        (
            "greedy",
            lambda s: [t.tolist() for t in captioner.greedies(s)],
            lambda step, state: greedy(step, state, end, end, STEPS),
        ),
        (
            f"beam {WIDTH}",
            lambda s: [found[0].tokens.tolist() for found in captioner.beams(s)],
            lambda step, state: beam(step, state, end, end, STEPS, 0.0),
        ),
    ]
    for label, native, loop in searches:
        row(
            f"{what}, {label}",
            lambda native=native: native([captioner.see(image) for image in images]),  # type: ignore[misc]
            lambda loop=loop: [loop(*look(image)) for image in images],  # type: ignore[misc]
            len(images),
        )
        row(
            f"{what}, {label}, images already encoded",
            lambda native=native: native(kept),  # type: ignore[misc]
            lambda loop=loop: [loop(*s) for s in seen],  # type: ignore[misc]
            len(images),
        )
    row(
        f"{what}: images encoded",
        lambda: [captioner.see(image) for image in images] and None,
        lambda: [look(image) for image in images] and None,
        len(images),
    )


def translations(models: Models) -> None:
    from tinyrnn.demo import translate

    translator = translate.Translator(models)
    encoder, decoder = (session(models.path(f"translate_{part}")) for part in ("encoder", "decoder"))
    texts = [tokenize(sentence) for sentence in translate.SENTENCES]
    sources = [translator.english.encode([*tokens, translate.END], translate.UNKNOWN)[None] for tokens in texts]

    def read(source: Array) -> tuple[Step, list[Array]]:
        memory, keys, state = encoder.run(None, {"tokens": source})
        constant = {n: x[None] for n, x in translate.padded(memory[0], keys[0], translator.capacity).items()}
        return stepper(decoder, {"h": "hn"}, "logits", constant), [state]

    def loop(step: Step, state: list[Array]) -> list[int]:
        return beam(step, state, translator.start, translator.stop, translate.STEPS, translate.LENGTH_PENALTY)

    def ours(read: list[translate.Source]) -> list[list[int]]:
        return [found[0].tokens.tolist() for found in translator.beams(read)]

    kept, seen = [translator.read(tokens) for tokens in texts], [read(source) for source in sources]
    what = f"translations, beam {translate.WIDTH}"
    row(
        what,
        lambda: ours([translator.read(tokens) for tokens in texts]),
        lambda: [loop(*read(source)) for source in sources],
        len(texts),
    )
    row(
        f"{what}, sentences already encoded",
        lambda: ours(kept),
        lambda: [loop(*s) for s in seen],
        len(texts),
    )


def spellings(paths: Sequence[Path], everything: bool) -> None:
    letters, sounds = (json.loads(p.read_text(encoding="utf-8")) for p in paths[2:4])
    names = {index: name for name, index in sounds.items()}
    models = [tinyrnn.load(p) for p in paths[:2]]
    reader = models[0].stream()
    sessions = [session(p) for p in paths[:2]]
    spoken = decode.PoolDecoder(models[1].pool(SLOTS))
    states = [p.name for p in models[1].states]
    feeds = [i.name for i in sessions[1].get_inputs()]
    (first,) = (i.name for i in sessions[0].get_inputs())
    (fed,) = (name for name in feeds if name not in states)
    order = [feeds.index(name) for name in states]
    end, length, longest = sounds["\n"], 24, 25
    rows, marks = np.eye(len(letters), dtype=np.float32), np.eye(len(sounds), dtype=np.float32)
    lines = [line.split("\t") for line in paths[4].read_text(encoding="utf-8").splitlines()]
    lexicon = [(w, s.replace(" ", "").replace("ɡ", "g")) for w, s in lines if len(w) <= length and set(w) <= set(letters)]

    def spelt(word: str) -> Array:
        return rows[[letters[c] for c in word.ljust(length)]]

    def read(word: str) -> dict[str, Array]:
        reader.reset()
        return dict(zip(states, reader.run(spelt(word)), strict=True))

    def ours(words: list[str]) -> list[list[int]]:
        made = spoken.generate(0, longest, states=[read(word) for word in words], stop=end, log_probabilities=False)
        return [g.tokens.tolist() for g in made]

    def step(token: int, held: list[Array]) -> tuple[Array, list[Array]]:
        y, *held = sessions[1].run(
            None, {fed: marks[token][None, None], **{feeds[o]: s for o, s in zip(order, held, strict=True)}}
        )
        return y, held

    def theirs(word: str) -> list[int]:
        return greedy(step, sessions[0].run(None, {first: spelt(word)[None]}), 0, end, longest)

    sample = [w for w, _ in lexicon[:: max(len(lexicon) // WORDS, 1)]]
    row("words, spelling to sound", lambda: ours(sample), lambda: [theirs(w) for w in sample], len(sample))
    if everything:
        begun = time.thread_time()
        made = ours([w for w, _ in lexicon])
        right = sum("".join(names[t] for t in m if t != end) == s for m, (_, s) in zip(made, lexicon, strict=True))
        seconds = time.thread_time() - begun
        print(f"\n{len(lexicon):,} in {seconds:.1f} s, {len(lexicon) / seconds:,.0f} a second; {right / len(lexicon):.1%} exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=PACKAGED, help="a folder of trained models in place of the packaged ones")
    parser.add_argument("--only", choices=["characters", "captions", "translations"], action="append")
    parser.add_argument("--pair", nargs=5, type=Path, metavar=("ENCODER", "DECODER", "LETTERS", "SOUNDS", "LEXICON"))
    parser.add_argument("--all", action="store_true", help="of the pair the whole lexicon, once more, and what is right of it")
    given = parser.parse_args()
    models = Models(given.models)
    chosen = given.only or ["characters", "captions", "translations"]
    print("| per second | tinyrnn | loop around onnxruntime | ratio |\n|---|---|---|---|")
    if "characters" in chosen:
        characters(models)
    if "captions" in chosen:
        captions(models, "caption", "captions")
        captions(models, "caption_attention", "captions with attention")
    if "translations" in chosen:
        translations(models)
    if given.pair:
        spellings(given.pair, given.all)


if __name__ == "__main__":
    main()
