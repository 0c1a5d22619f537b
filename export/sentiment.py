"""Many to one: praise or complaint, in remarks about products, by a GRU that reads word by word.

python -m tinyrnn_export.sentiment --data FOLDER -o DIR
"""

from __future__ import annotations

import html
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn import load
from tinyrnn.data.vocabulary import Words, tokenize
from tinyrnn.demo.sentiment import UNKNOWN, Judge
from tinyrnn.graph.arrays import Array

from .pytorch import export_sequence, export_step
from .recipe import Recipe, Run, command, session, shuffled

RECIPE = Recipe(
    name="sentiment",
    folder="pros_cons",
    file="pros_cons.zip",
    source="40,000 different remarks from product reviews, under Pros or under Cons (Bing Liu; from NLTK's data)",
    made="remarks made of a few words of praise and complaint",
    license=(
        'MIT. Trained on the "Pros and cons dataset by Bing Liu [http://www.cs.uic.edu/~liub]", which "is licensed under '
        'CC BY 4.0" (https://creativecommons.org/licenses/by/4.0/), changed: repeats dropped, in lower case, split into words.'
    ),
    epochs=7,
)
EMBEDDING, HIDDEN, DROPOUT = 32, 64, 0.4
BATCH = 64
RATE = 4e-3
EVERY_WORD = 0.3
"""the weight of the loss after every word, beside that after the last, which counts 1"""
FORGOTTEN = 0.05
"""the share of words that training replaces by an unknown one"""
SEEN = 2
"""times that a word of the vocabulary is in the training part"""
LONGEST = 64
"""words of a remark that training reads; held-out ones are read whole"""
HELD_OUT = 0.1
"""the share of the remarks, of all the same whatever the seed"""

Remark = tuple[tuple[str, ...], bool]
"""words and marks, and whether it praises"""

PRAISING = ("great", "good", "easy", "fast", "sturdy", "excellent", "nice", "bright", "comfortable", "reliable")
COMPLAINING = ("bad", "poor", "slow", "flimsy", "awful", "dim", "noisy", "expensive", "heavy", "terrible")
THINGS = ("battery", "screen", "camera", "price", "phone", "sound", "menu", "lens", "buttons", "manual", "zoom", "printer")


class Sentiment(nn.Module):
    """Words to the score after each: forward(words [N, T] int64, h [1, N, H]) -> (score [N, T, 1], hn); without h, zeros."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, EMBEDDING)
        self.rnn = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, words: torch.Tensor, h: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        y, hn = self.rnn(self.drop(self.embed(words)), h)
        return torch.sigmoid(self.head(self.drop(y))), hn


class LastScore(nn.Module):
    """Many to one and nothing else: forward(words [N, T]) -> score [N, 1] after the last word."""

    def __init__(self, model: Sentiment) -> None:
        super().__init__()
        self.model = model

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        score: torch.Tensor = self.model(words)[0][:, -1]
        return score


def read(run: Run) -> list[Remark]:
    """All remarks, each once."""
    if run.data is None:
        return once(made(run.random(), 4000))
    found: list[Remark] = []
    with zipfile.ZipFile(run.data / RECIPE.file) as archive:
        for side in ("Pros", "Cons"):
            text = archive.read(f"pros_cons/Integrated{side}.txt").decode()
            lines = re.findall(f"<{side}>(.*)</{side}>", text)
            # what the reviewers' site escaped was escaped once more
            found += [(tuple(tokenize(html.unescape(html.unescape(line)))), side == "Pros") for line in lines]
    return once(found)


def once(remarks: Iterable[Remark]) -> list[Remark]:
    """Of remarks that differ in marks alone, the first, on the side where most of them are; none where there is no such side."""
    same: dict[tuple[str, ...], list[Remark]] = defaultdict(list)
    for tokens, praise in remarks:
        same[tuple(t for t in tokens if t[0].isalnum())].append((tokens, praise))
    votes = {words: sum(1 if praise else -1 for _, praise in group) for words, group in same.items() if words}
    return [(same[words][0][0], vote > 0) for words, vote in votes.items() if vote]


def split(remarks: Sequence[Remark]) -> tuple[list[Remark], list[Remark]]:
    """Those to train on, and those held out."""
    order = np.random.default_rng(0).permutation(len(remarks))
    held = round(HELD_OUT * len(order))
    return [remarks[i] for i in order[held:]], [remarks[i] for i in order[:held]]


def made(random: np.random.Generator, count: int) -> list[Remark]:
    """Remarks of one to four things that are all praised or all complained about, some by what they are not."""
    remarks = []
    for praise in random.random(count) < 0.5:
        parts = []
        for _ in range(random.integers(1, 5)):
            denied = random.random() < 0.25
            said = PRAISING if praise != denied else COMPLAINING
            parts.append(("not " if denied else "") + f"{random.choice(said)} {random.choice(THINGS)}")
        remarks.append((tuple(tokenize(", ".join(parts))), bool(praise)))
    return remarks


def vocabulary(remarks: Iterable[Remark]) -> Words:
    """The unknown word first, then what was seen often enough, the most frequent first."""
    seen = Counter(token for tokens, _ in remarks for token in tokens)
    return Words([UNKNOWN, *(word for word, count in seen.most_common() if count >= SEEN)])


def padded(remarks: Sequence[Array]) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of words [N, T], zeros after a remark's end, and which of them are words [N, T]."""
    lengths = torch.tensor([len(remark) for remark in remarks])
    words = torch.zeros(len(remarks), int(lengths.max()), dtype=torch.int64)
    for row, remark in zip(words, remarks, strict=True):
        row[: len(remark)] = torch.from_numpy(remark)
    return words, torch.arange(words.shape[1]) < lengths[:, None]


def batches(random: np.random.Generator, lengths: Array) -> list[Array]:
    """Indices of remarks in batches of like length, in a new order."""
    order = np.argsort(lengths + random.random(len(lengths)))
    chosen = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [chosen[i] for part in shuffled(random, len(chosen), len(chosen)) for i in part]


def train(run: Run) -> None:
    """Train, export, and compare."""
    train_on, held_out = split(read(run))
    train_on = run.first(train_on)
    words = vocabulary(train_on)
    run.say(f"  {len(train_on):,} remarks to train on, {len(held_out):,} held out, {len(words):,} words")
    x = [words.encode(tokens[:LONGEST], UNKNOWN) for tokens, _ in train_on]
    y = torch.tensor([float(praise) for _, praise in train_on])
    held_x = [words.encode(tokens, UNKNOWN) for tokens, _ in held_out]
    held_y = np.array([praise for _, praise in held_out])
    model = Sentiment(len(words))

    def loss(batch: Array) -> torch.Tensor:
        read, there = padded([x[i] for i in batch])
        read = read.masked_fill(torch.rand(read.shape) < FORGOTTEN, words.index[UNKNOWN])
        wanted = y[batch][:, None].expand(read.shape)
        after = F.binary_cross_entropy(model(read)[0][..., 0], wanted, reduction="none")
        last = after[torch.arange(len(batch)), there.sum(1) - 1].mean()
        return last + EVERY_WORD * (after * there).sum() / there.sum()

    def decisions() -> Array:
        found = []
        with torch.no_grad():
            for start in range(0, len(held_x), 500):
                read, there = padded(held_x[start : start + 500])
                found.append(model(read)[0][torch.arange(len(read)), there.sum(1) - 1, 0] > 0.5)
        joined: Array = torch.cat(found).numpy()
        return joined

    def right() -> float:
        return float(np.mean(decisions() == held_y))

    lengths = np.array([len(remark) for remark in x])
    run.fit(model, lambda random: batches(random, lengths), loss, rate=RATE, heldout=lambda: f"{right():.1%}")
    run.half(model, decisions)
    run.figure("accuracy", right(), f"{right():.2%} of {len(held_y):,} held-out remarks are judged right")
    export(run, model, words, held_x, decisions())


def export(run: Run, model: Sentiment, words: Words, held: Sequence[Array], wanted: Array) -> None:
    """sentiment.onnx, a score after every word, the state explicit; sentiment_last.onnx, the last score alone."""
    step, last = run.path("sentiment.onnx"), run.path("sentiment_last.onnx")
    metadata = run.metadata(words=words.words)
    example = torch.from_numpy(held[0][None])
    export_step(
        model,
        [example, torch.zeros(1, 1, HIDDEN)],
        step,
        input_names=["words", "h"],
        output_names=["score", "hn"],
        states={"h": "hn"},
        dynamic_axes={"words": {1: "T"}, "score": {1: "T"}},
        metadata=metadata,
        half=True,
    )
    export_sequence(
        LastScore(model),
        [torch.stack([example[0], example[0].flip(0)])],
        last,
        input_names=["words"],
        output_names=["score"],
        dynamic_axes={"words": {0: "N", 1: "T"}, "score": {0: "N"}},
        metadata=metadata,
        half=True,
    )
    run.check(step, {"words": np.concatenate(held)[:2000]})
    run.check(last, {"words": np.stack([remark[:12] for remark in held if len(remark) >= 12][:64])})
    engine, zero = session(step), np.zeros((1, 1, HIDDEN), np.float32)
    judge = Judge(load(step))
    run.agree(
        "verdicts",
        PyTorch=wanted,
        onnxruntime=[engine.run(["score"], {"words": remark[None], "h": zero})[0][0, -1, 0] > 0.5 for remark in held],
        tinyrnn=[judge.scores(remark)[-1] > 0.5 for remark in held],
    )


main = command(RECIPE, train, "Train a GRU on remarks from product reviews and export it.")

if __name__ == "__main__":
    main()
