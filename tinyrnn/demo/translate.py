"""Many to many: a sentence in English in, French out, by an encoder and a decoder that looks back at it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyrnn.data import terminal as pictures
from tinyrnn.data.vocabulary import Words, listed, tokenize
from tinyrnn.decode import Decoder, Generation, Hypothesis, PoolDecoder, hand_over
from tinyrnn.demo import About, Models, Say
from tinyrnn.errors import ShapeError, TinyRNNError
from tinyrnn.graph.arrays import Array

ABOUT = About("many to many, encoder and decoder", "English into French, with attention and beam search", "sentences in English")
UNKNOWN, START, END = MARKS = ("<unk>", "<s>", "</s>")
"""the first words of both vocabularies: any word that is not there, and where a sentence starts and ends"""
WIDTH, LENGTH_PENALTY, STEPS = 4, 1.0, 14
"""beam search: width, length penalty, and most words and punctuation marks of a translation"""
SLOTS = 32
"""of the pool in which translations are written: so many sentences at once, or a quarter of them by beam search"""
TRAINED = 7
"""the most words and marks of a sentence that the model was trained on"""
SENTENCE = re.compile(r"[^.!?\n]*\w[^.!?\n]*[.!?]*")
SENTENCES = (
    "They bought a red car.",
    "I have never seen your house.",
    "Her new house is very beautiful.",
    "Can you help my brother?",
)


class Source(NamedTuple):
    """The encoder's result for a sentence; the decoder attends to a memory of fixed capacity."""

    state: Array
    """float32 [1, D]: the initial state of the decoder"""
    inputs: dict[str, Array]
    """memory [capacity, M], keys [capacity, A], mask [capacity]: 1 where there is a word; constant for a sentence"""
    length: int
    """words, marks, and the end"""


def padded(memory: Array, keys: Array, capacity: int) -> dict[str, Array]:
    """The decoder's constant inputs, of a memory [S, M] and its keys [S, A]."""

    def wide(rows: Array) -> Array:
        return np.concatenate([rows, np.zeros((capacity - len(rows), *rows.shape[1:]), np.float32)])

    return {"memory": wide(memory), "keys": wide(keys), "mask": wide(np.ones(len(memory), np.float32))}


class Translator:
    """The encoder and the decoder of a folder, and their words."""

    def __init__(self, models: Models) -> None:
        self.encoder, self.decoder = models.load("translate_encoder"), models.load("translate_decoder")
        self.english, self.french = (Words(listed(model, "words")) for model in (self.encoder, self.decoder))
        self.start, self.stop = self.french.index[START], self.french.index[END]
        self.capacity = next(p.shape[0] for p in self.decoder.inputs if p.name == "memory")
        self.stream = self.decoder.stream()
        constant = {p.name: np.zeros(p.shape, p.dtype) for p in self.decoder.inputs if p.name != "token"}
        self.many = PoolDecoder(self.decoder.pool(SLOTS), output="logits", scores="logits", inputs=constant)

    def read(self, tokens: Sequence[str]) -> Source:
        """Encode a sentence. Raises `ShapeError` for more words and marks than the decoder's memory holds."""
        if len(tokens) >= self.capacity:
            raise ShapeError(
                f"{len(tokens)} words and marks in {' '.join(tokens)!r}; the model takes at most {self.capacity - 1}: "
                "write shorter sentences"
            )
        memory, keys, state = self.encoder.run(self.english.encode([*tokens, END], UNKNOWN)[None])
        return Source(state, padded(memory[0], keys[0], self.capacity), len(tokens) + 1)

    def greedy(self, source: Source) -> Generation:
        """The likeliest word each time."""
        return self._decoder(source).generate(self.start, STEPS, stop=self.stop)

    def beam(self, source: Source, n_best: int = 1) -> list[Hypothesis]:
        """The best translations, best first."""
        return self._decoder(source).beam(
            self.start, STEPS, width=WIDTH, length_penalty=LENGTH_PENALTY, stop=self.stop, n_best=n_best
        )

    def greedies(self, sources: Sequence[Source]) -> list[Generation]:
        """As `greedy`, of many sentences at once."""
        states, inputs = [{"h": s.state} for s in sources], [s.inputs for s in sources]
        return self.many.generate(self.start, STEPS, states=states, inputs=inputs, stop=self.stop)

    def beams(self, sources: Sequence[Source], n_best: int = 1) -> list[list[Hypothesis]]:
        """As `beam`, of many sentences at once."""
        states, inputs = [{"h": s.state} for s in sources], [s.inputs for s in sources]
        return self.many.beam(
            self.start,
            STEPS,
            states=states,
            inputs=inputs,
            width=WIDTH,
            length_penalty=LENGTH_PENALTY,
            stop=self.stop,
            n_best=n_best,
        )

    def attention(self, source: Source, tokens: Sequence[int] | Array) -> Array:
        """The attention weight [tokens, source.length] of each word of the source for each word of a translation."""
        hand_over(self.stream, {"h": source.state})
        fed = [self.start, *tokens[:-1]]
        frames = {"token": np.array(fed)[:, None]} | {n: np.stack([x] * len(fed)) for n, x in source.inputs.items()}
        shares: Array = self.stream.run(frames).attention[:, : source.length]
        return shares

    def text(self, tokens: Sequence[int] | Array) -> str:
        return self.french.text(tokens, without=MARKS)

    def _decoder(self, source: Source) -> Decoder:
        hand_over(self.stream, {"h": source.state})
        return Decoder(self.stream, output="logits", scores="logits", inputs=source.inputs)


def written(words: str) -> str:
    """Words and punctuation marks as text: "où as-tu été ?"."""
    return words.replace(" - ", "-").replace(" .", ".").replace(" ,", ",")


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Translate sentences: those above, or those of a text."""
    sentences = SENTENCES if given is None else SENTENCE.findall(given)
    if not sentences:
        raise TinyRNNError("there is no word to translate in the input: write one or more sentences in English")
    translator = Translator(models)
    read = [(tokens, translator.read(tokens)) for tokens in map(tokenize, sentences)]
    sources = [source for _, source in read]
    translations, drawn = [], []
    for (tokens, source), greedily, best in zip(
        read, translator.greedies(sources), translator.beams(sources, WIDTH), strict=True
    ):
        say(" ".join(tokens))
        unknown = list(dict.fromkeys(t for t in tokens if t not in translator.english.index))
        if unknown:
            say(f"  the model does not know {', '.join(map(repr, unknown))}: {UNKNOWN} takes its place")
        if len(tokens) > TRAINED:
            say(f"  {len(tokens)} words and marks; the model was trained on sentences of at most {TRAINED}")
        greedy, *likely = (written(translator.text(made)) for made in (greedily.tokens, *(h.tokens for h in best)))
        say(f"  greedy          {greedy}")
        for number, (hypothesis, french) in enumerate(zip(best, likely, strict=True)):
            say(f"  {'' if number else 'beam':4s}  {hypothesis.score:8.2f}  {french}")
        words = [translator.french.words[t] for t in best[0].tokens]
        shares = translator.attention(source, best[0].tokens)
        for line in table(shares, words, [*tokens, END]):
            say(f"    {line}".rstrip())
        say("")
        drawn.append((shares, words, [*tokens, END]))
        translations.append(
            {
                "english": " ".join(tokens),
                "unknown": unknown,
                "greedy": greedy,
                "beam": [{"french": french, "score": h.score} for french, h in zip(likely, best, strict=True)],
                "attention": shares.tolist(),
            }
        )
    if picture is not None:
        draw(drawn, picture)
    return {"translations": translations}


def table(shares: Array, rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Lines: percent of each row's attention, those that round to at least 1 %."""
    widths, first = [max(len(word), 3) for word in columns], max(map(len, rows))
    lines = ["  ".join([" " * first, *(word.rjust(width) for word, width in zip(columns, widths, strict=True))])]
    for row, values in zip(rows, shares, strict=True):
        cells = [f"{100 * v:.0f}" if v >= 0.005 else "·" for v in values]
        lines.append("  ".join([row.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]))
    return lines


def draw(drawn: Sequence[tuple[Array, Sequence[str], Sequence[str]]], path: Path) -> None:
    """The alignment matrix of each sentence: English along the top, French down the side."""
    columns = min(len(drawn), 2)
    lines = -(-len(drawn) // columns)
    figure = pictures.figure(5 * columns, 4.2 * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    for place in axes.flat[len(drawn) :]:
        place.set_axis_off()
    for place, (shares, french, english) in zip(axes.flat, drawn, strict=False):
        image = place.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        place.set_xticks(range(len(english)), english, rotation=45, ha="left")
        place.set_yticks(range(len(french)), french)
        place.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    figure.colorbar(image, ax=axes, label="share of the attention", shrink=0.6)
    pictures.save(figure, path)
