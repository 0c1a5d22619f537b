"""Many to many: English into French by a GRU encoder, additive attention and a GRU decoder.

Bahdanau, Cho and Bengio, Neural machine translation by jointly learning to align and translate, 2015.

python -m tinyrnn_export.translate --data FOLDER -o DIR
"""

from __future__ import annotations

import gzip
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn.data.vocabulary import Words, tokenize
from tinyrnn.demo import Models
from tinyrnn.demo.translate import END, LENGTH_PENALTY, MARKS, START, STEPS, UNKNOWN, WIDTH, Source, Translator, padded

from . import decoding
from .bleu import bleu
from .pytorch import export_sequence, export_step
from .recipe import Array, Recipe, Run, command, session, shuffled
from .toy_french import sentences

RECIPE = Recipe(
    name="translate",
    folder="tatoeba_fra_eng",
    file="pairs_short.tsv.gz",
    source="short English and French sentences from Tatoeba, as packaged by www.manythings.org/anki",
    made="sentences made from a small grammar of both languages",
    license="MIT. Trained on sentences from www.manythings.org/anki and tatoeba.org (CC BY 2.0).",
    epochs=4,
)
EMBEDDING, ENCODER, DECODER, ATTENTION = 128, 128, 256, 128
"""elements of a word in either language, GRU units of each direction and of the decoder, elements of a key"""
CAPACITY = 12
"""words and marks of a source, its end included, that the exported decoder's memory holds"""
SEEN = 2, 3
"""how often a word, English and French, is in the training sentences to be in the vocabulary"""
BATCH, RATE, DROPOUT, SMOOTHING = 96, 3e-3, 0.2, 0.1
NEGATIVES = 800
"""words besides those of a batch among which a training step tells the right ones"""
HELD_OUT = 1000
VALIDATION = 1000
"""training pairs, at most an eighth of them, that are left out: by them the length penalty was chosen"""
FAR = 1e4
"""what is taken from the score of a place where there is no word: its share is then exactly 0"""

Pair = tuple[list[str], list[str]]
Engine = Callable[[Array], tuple[decoding.Step, Any]]
"""a source [S] to the decoder's step, and the state that it starts from"""


class Encoder(nn.Module):
    """forward(tokens [N, S]) -> memory [N, S, 2 * ENCODER], keys [N, S, ATTENTION], state [N, DECODER].

    keys = W_k memory + b, the part of the attention's scores that is the same at each step of the decoder.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, EMBEDDING)
        self.rnn = nn.GRU(EMBEDDING, ENCODER, batch_first=True, bidirectional=True)
        self.key = nn.Linear(2 * ENCODER, ATTENTION)
        self.first = nn.Linear(2 * ENCODER, DECODER)
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        memory, last = self.rnn(self.dropout(self.embed(tokens)))
        memory = self.dropout(memory)
        return memory, self.key(memory), torch.tanh(self.first(self.dropout(torch.cat([last[0], last[1]], 1))))


class Decoder(nn.Module):
    """One word: forward(token [N], h [N, DECODER], memory, keys, mask [N, S]) -> logits [N, V], attention [N, S], hn.

    attention = softmax(v tanh(W_q h + keys)), the share of each place of the source, 0 where mask is 0
    context   = attention memory
    hn        = GRU([embedding(token), context], h)
    logits    = embedding tanh(W_r [hn, context, embedding(token)] + b_r) + b: the same embedding
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, EMBEDDING)
        self.query = nn.Linear(DECODER, ATTENTION, bias=False)
        self.score = nn.Linear(ATTENTION, 1, bias=False)
        self.cell = nn.GRUCell(EMBEDDING + 2 * ENCODER, DECODER)
        self.read = nn.Linear(DECODER + 2 * ENCODER + EMBEDDING, EMBEDDING)
        self.bias = nn.Parameter(torch.zeros(words))
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.normal_(self.embed.weight, std=0.1)

    def step(
        self, embedded: torch.Tensor, h: torch.Tensor, memory: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """hn, context [N, 2 * ENCODER], attention [N, S]."""
        scores = self.score(torch.tanh(keys + self.query(h).unsqueeze(1))).squeeze(2)
        attention = torch.softmax(scores + (mask - 1) * FAR, 1)
        context = torch.bmm(attention.unsqueeze(1), memory).squeeze(1)
        return self.cell(torch.cat([embedded, context], 1), h), context, attention

    def readout(self, h: torch.Tensor, context: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """[..., EMBEDDING], to be compared with the embedding of each word."""
        return self.dropout(torch.tanh(self.read(torch.cat([h, context, embedded], -1))))

    def forward(
        self, token: torch.Tensor, h: torch.Tensor, memory: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        embedded = self.embed(token)
        hn, context, attention = self.step(embedded, h, memory, keys, mask)
        return F.linear(self.readout(hn, context, embedded), self.embed.weight, self.bias), attention, hn


class Model(nn.Module):
    """Both, and their words."""

    def __init__(self, english: Words, french: Words) -> None:
        super().__init__()
        self.english, self.french = english, french
        self.encoder, self.decoder = Encoder(len(english)), Decoder(len(french))

    def source(self, tokens: Sequence[str]) -> Array:
        return self.english.encode([*tokens, END], UNKNOWN)

    def target(self, tokens: Sequence[str]) -> Array:
        return self.french.encode([START, *tokens, END], UNKNOWN)

    def loss(self, sources: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the next words, of sources [N, S] and targets [N, T], all of one length.

        It is over the words of the batch and NEGATIVES others, drawn at random, each of which stands for as many as were
        left out (Jean et al., On using very large target vocabulary for neural machine translation, 2015). An unknown word
        is never asked for, so that none is written.
        """
        decoder = self.decoder
        memory, keys, h = self.encoder(sources)
        mask, embedded = torch.ones(sources.shape), decoder.dropout(decoder.embed(targets[:, :-1]))
        states, contexts = [], []
        for word in embedded.unbind(1):
            h, context, _ = decoder.step(word, h, memory, keys, mask)
            states.append(h)
            contexts.append(context)
        read = decoder.readout(torch.stack(states, 1), torch.stack(contexts, 1), embedded).flatten(0, 1)
        wanted = targets[:, 1:].flatten()
        used, places = torch.unique(wanted, return_inverse=True)
        rest = torch.ones(len(self.french), dtype=torch.bool)
        rest[used] = False
        others = rest.nonzero()[:, 0]
        drawn = others[torch.randperm(len(others))[:NEGATIVES]]
        chosen, stands_for = torch.cat([used, drawn]), torch.zeros(len(used) + len(drawn))
        stands_for[len(used) :] = math.log(max(len(others) / max(len(drawn), 1), 1))
        logits = F.linear(read, decoder.embed.weight[chosen], decoder.bias[chosen] + stands_for)
        known = torch.where(wanted == self.french.index[UNKNOWN], -100, places)
        return F.cross_entropy(logits, known, ignore_index=-100, label_smoothing=SMOOTHING)


class Vocabulary(NamedTuple):
    """Words that are there often enough, the most frequent first, after MARKS."""

    english: Words
    french: Words

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Vocabulary:
        """Of training sentences."""
        return cls(*(_frequent((pair[side] for pair in pairs), seen) for side, seen in enumerate(SEEN)))


def _frequent(texts: Iterator[list[str]], seen: int) -> Words:
    found = Counter(word for tokens in texts for word in tokens)
    return Words([*MARKS, *sorted((w for w in found if found[w] >= seen), key=lambda w: (-found[w], w))])


def read(run: Run) -> list[Pair]:
    """Sentences in both languages as words and marks, in lower case."""
    if run.data is None:
        lines = sentences(run.random(), 4000)
    else:
        lines = gzip.decompress((run.data / RECIPE.file).read_bytes()).decode().splitlines()
    pairs = (line.replace("\u200b", "").split("\t") for line in lines)
    return [(tokenize(english), tokenize(french)) for english, french in pairs]


def split(pairs: Sequence[Pair], random: np.random.Generator) -> tuple[list[Pair], list[Pair]]:
    """To train on, and HELD_OUT others: no English and no French sentence, marks aside, is on both sides."""
    parent: dict[str, str] = {}

    def root(sentence: str) -> str:
        while parent.setdefault(sentence, sentence) != sentence:
            sentence = parent[sentence]
        return sentence

    def key(language: str, tokens: list[str]) -> str:
        return " ".join([language, *([t for t in tokens if t[0].isalnum()] or tokens)])

    for english, french in pairs:
        parent[root(key("en", english))] = root(key("fr", french))
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[root(key("en", pair[0]))].append(pair)
    ordered = list(groups.values())
    train: list[Pair] = []
    held: list[Pair] = []
    for i in random.permutation(len(ordered)):
        (held if len(held) < min(HELD_OUT, len(pairs) // 8) else train).extend(ordered[i])
    return train, held


def batches(lengths: dict[tuple[int, int], list[int]], random: np.random.Generator) -> list[Array]:
    """Pairs in a new order, those of a batch of the same lengths."""
    found = [np.array(alike)[b] for alike in lengths.values() for b in shuffled(random, len(alike), BATCH)]
    return [found[i] for i in random.permutation(len(found))]


def greedy(model: Model, texts: Sequence[list[str]]) -> list[str]:
    """The likeliest word each time, of many sentences at once."""
    alike: dict[int, list[int]] = defaultdict(list)
    for i, tokens in enumerate(texts):
        alike[len(tokens)].append(i)
    found = [""] * len(texts)
    with torch.no_grad():
        for numbers in alike.values():
            memory, keys, h = model.encoder(torch.from_numpy(np.stack([model.source(texts[i]) for i in numbers])))
            mask, token = torch.ones(keys.shape[:2]), torch.full((len(numbers),), model.french.index[START])
            written: list[torch.Tensor] = []
            ended = torch.zeros(len(numbers), dtype=torch.bool)
            while len(written) < STEPS and not ended.all():
                logits, _, h = model.decoder(token, h, memory, keys, mask)
                token = logits.argmax(1)
                ended |= token == model.french.index[END]
                written.append(token)
            for i, tokens in zip(numbers, torch.stack(written, 1).tolist(), strict=True):
                found[i] = text(model, tokens)
    return found


def text(model: Model, tokens: Sequence[int]) -> str:
    """The words up to the end."""
    end = model.french.index[END]
    return model.french.text(tokens[: list(tokens).index(end)] if end in tokens else tokens)


def export(run: Run, model: Model) -> tuple[Path, Path]:
    """translate_encoder.onnx, of whole sentences of any length, and translate_decoder.onnx, a word a step."""
    encoder, decoder = run.path("translate_encoder.onnx"), run.path("translate_decoder.onnx")
    open_sizes = {0: "N", 1: "S"}
    export_sequence(
        model.encoder,
        [torch.ones(3, 5, dtype=torch.int64)],
        encoder,
        input_names=["tokens"],
        output_names=["memory", "keys", "h"],
        dynamic_axes={"tokens": open_sizes, "memory": open_sizes, "keys": open_sizes, "h": {0: "N"}},
        metadata=run.metadata(words=model.english.words),
        half=True,
    )
    export_step(
        model.decoder,
        [
            torch.ones(1, dtype=torch.int64),
            torch.zeros(1, DECODER),
            torch.randn(1, CAPACITY, 2 * ENCODER),
            torch.randn(1, CAPACITY, ATTENTION),
            torch.ones(1, CAPACITY),
        ],
        decoder,
        input_names=["token", "h", "memory", "keys", "mask"],
        output_names=["logits", "attention", "hn"],
        states={"h": "hn"},
        metadata=run.metadata(words=model.french.words),
        half=True,
    )
    return encoder, decoder


def around_torch(model: Model) -> Engine:
    """PyTorch, a sentence and a word at a time."""

    def engine(source: Array) -> tuple[decoding.Step, Any]:
        memory, keys, state = (x.numpy() for x in model.encoder(torch.from_numpy(source[None])))
        constant = [torch.from_numpy(x[None]) for x in padded(memory[0], keys[0], CAPACITY).values()]

        def step(token: int, h: Any) -> tuple[Array, Any]:
            logits, _, h = model.decoder(torch.tensor([token]), h, *constant)
            return logits.numpy(), h

        return step, torch.from_numpy(state)

    return engine


def around_onnxruntime(encoder: Path, decoder: Path) -> Engine:
    """onnxruntime, a sentence and a word at a time."""
    encoding, decode = session(encoder), session(decoder)

    def engine(source: Array) -> tuple[decoding.Step, Any]:
        memory, keys, state = encoding.run(None, {"tokens": source[None]})
        constant = {name: x[None] for name, x in padded(memory[0], keys[0], CAPACITY).items()}

        def step(token: int, h: Any) -> tuple[Array, Any]:
            logits, h = decode.run(["logits", "hn"], {"token": np.array([token]), "h": h, **constant})
            return logits, h

        return step, state

    return engine


def compare(run: Run, model: Model, encoder: Path, decoder: Path, held: Sequence[Pair]) -> None:
    """Both files against onnxruntime, then all translations, greedy and by beam search, of the three engines."""
    alike: dict[int, list[Array]] = defaultdict(list)
    for english, _ in held:
        alike[len(english)].append(model.source(english))
    for _, sources in sorted(alike.items()):
        run.check(encoder, {"tokens": np.stack(sources)})
    run.check(decoder, forced(model, held[:50]))
    translator = Translator(Models(run.output))
    sources = [model.source(english) for english, _ in held]
    read = [translator.read(english) for english, _ in held]
    searches: dict[str, tuple[Callable[[list[Source]], list[Array]], Callable[..., list[int]]]] = {
        "greedy": (lambda read: [made.tokens for made in translator.greedies(read)], decoding.greedy),
        "beam search": (
            lambda read: [best[0].tokens for best in translator.beams(read)],
            partial(decoding.beam, width=WIDTH, length_penalty=LENGTH_PENALTY),
        ),
    }
    engines = around_torch(model), around_onnxruntime(encoder, decoder)
    for name, (native, search) in searches.items():
        found = [tokens.tolist() for tokens in native(read)]
        score = 100 * bleu([text(model, tokens).split() for tokens in found], [[french] for _, french in held])
        run.figure(f"bleu_{name.split()[0]}", score, f"BLEU-4 {score:.2f} of {len(held):,} held-out sentences, {name}")
        with torch.no_grad():
            pytorch, onnxruntime = (
                [search(*engine(source), translator.start, translator.stop, STEPS) for source in sources] for engine in engines
            )
        run.agree(f"translations by {name}", PyTorch=pytorch, onnxruntime=onnxruntime, tinyrnn=found)


def forced(model: Model, pairs: Sequence[Pair]) -> dict[str, Array]:
    """The decoder's inputs frame by frame for known translations, one after the other."""
    frames: dict[str, list[Array]] = defaultdict(list)
    with torch.no_grad():
        for english, french in pairs:
            memory, keys, _ = (x[0].numpy() for x in model.encoder(torch.from_numpy(model.source(english)[None])))
            for token in model.target(french)[:-1]:
                for name, x in {"token": np.array([token]), **padded(memory, keys, CAPACITY)}.items():
                    frames[name].append(x)
    return {name: np.stack(rows) for name, rows in frames.items()}


def train(run: Run) -> None:
    """Train, export, and compare."""
    pairs, held = split(read(run), run.random())
    pairs = run.first(pairs[: -min(VALIDATION, len(pairs) // 8)])
    vocabulary = Vocabulary.of(pairs)
    model = Model(*vocabulary)
    run.say(f"  {len(pairs):,} pairs, {len(vocabulary.english):,} English and {len(vocabulary.french):,} French words and marks")
    sources, targets = [model.source(e) for e, _ in pairs], [model.target(f) for _, f in pairs]
    lengths: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        lengths[len(source), len(target)].append(i)
    held_english, references = [english for english, _ in held], [[french] for _, french in held]

    def tensor(rows: list[Array], batch: Array) -> torch.Tensor:
        return torch.from_numpy(np.stack([rows[i] for i in batch]))

    run.fit(
        model,
        partial(batches, lengths),
        lambda batch: model.loss(tensor(sources, batch), tensor(targets, batch)),
        rate=RATE,
        heldout=lambda: f"BLEU-4 {100 * bleu([t.split() for t in greedy(model, held_english)], references):.1f}",
    )
    run.half(model, lambda: np.array(greedy(model, held_english)))
    encoder, decoder = export(run, model)
    compare(run, model, encoder, decoder, held)


main = command(RECIPE, train, "Train a translator of short English sentences into French, with attention, and export it.")

if __name__ == "__main__":
    main()
