"""Image and question to answer: a CNN sees the picture, an LSTM starts from it and reads the question.

python -m tinyrnn_export.vqa --data FOLDER -o DIR

First the CNN alone learns which answers but yes and no a picture has, with batch normalization, which is then folded
into its convolutions; then the LSTM learns from the questions, what it begins with and what it says.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn import load
from tinyrnn.data.vocabulary import Words, tokenize
from tinyrnn.demo.vqa import COLORS, SHAPES, SIZE, Answers, Drawn, scaled
from tinyrnn.graph.arrays import Array

from .pytorch import export_sequence
from .recipe import Recipe, Run, bent, command, folded, session, shuffled

RECIPE = Recipe(
    name="vqa",
    folder="easy_vqa",
    file="images.npz",
    source="easy-VQA: 5,000 pictures of one colored shape each, 48,248 questions with 13 answers (V. Zhou)",
    made="pictures and questions made by the rules of the demo",
    license="MIT. Trained on easy-VQA (GitHub: vzhou842/easy-VQA, MIT, (c) 2019 Victor Zhou).",
    epochs=20,
    report_every=4,
)
CHANNELS = (8, 16, 24, 32)
"""of the convolutions, each of which halves the sides"""
SEEN, EMBEDDED, HIDDEN = 32, 24, 64
ALONE_BATCH = 64
RATE_ALONE, RATE = 3e-3, 1e-2
YES_NO = ("yes", "no")
REMEMBER = 3.0
"""the first bias of the forget gate: else little of the picture, and of its gradient, is left after eight words"""
BATCH = 16
"""pictures, each with all its questions"""
BENT, MOVED = 0.05, 0.1
"""spread of the random affine changes of training pictures, in half widths of the picture"""
EVERY_WORD = 0.2
"""the weight of the loss after every word, beside the one after the last"""
CHECKED = 40
"""questions of each length in `tinyrnn check`"""
MADE = 1500


class Examples(NamedTuple):
    """Pictures and their questions."""

    images: torch.Tensor
    """[pictures, 3, 64, 64]"""
    of: Array
    """[questions] the picture of each, ascending"""
    words: torch.Tensor
    """int64 [questions, longest], after the last word anything"""
    last: torch.Tensor
    """[questions] the place of the last word"""
    answers: torch.Tensor
    """[questions]"""


class Vqa(nn.Module):
    """forward(image [N, 3, 64, 64], words int64 [N, T]) -> logits [N, T, answers], after each word."""

    def __init__(self, words: int, answers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        flat = CHANNELS[-1] * (SIZE >> len(CHANNELS)) ** 2
        self.see = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, SEEN), nn.Tanh())
        self.begin = nn.Sequential(nn.Linear(SEEN, HIDDEN), nn.Tanh())
        self.embed = nn.Embedding(words, EMBEDDED)
        self.lstm = nn.LSTM(EMBEDDED, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, answers)
        with torch.no_grad():
            self.lstm.bias_ih_l0[HIDDEN : 2 * HIDDEN] = REMEMBER

    def read(self, seen: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Logits [N, T, answers] of what was seen [N, 32], from which the LSTM begins, and words [N, T]."""
        state = self.begin(seen)[None]
        logits: torch.Tensor = self.head(self.lstm(self.embed(words), (state, state))[0])
        return logits

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.read(self.see(image), words)


def read(run: Run) -> tuple[tuple[Array, list[list[str]]], tuple[Array, list[list[str]]]]:
    """Pictures uint8 [n, 64, 64, 3], and [picture, answer, question] in the order of pictures: to train on, and held out."""
    if run.data is None:
        random = run.random()
        return made(random, MADE), made(random, MADE // 5)
    images = np.load(run.data / RECIPE.file)
    parts = []
    for part in ("train", "test"):
        text = gzip.decompress((run.data / f"{part}_questions.tsv.gz").read_bytes()).decode()
        asked = sorted((line.split("\t") for line in text.splitlines()), key=lambda q: int(q[0]))
        parts.append((images[f"{part}_images"], asked))
    return parts[0], parts[1]


def made(random: np.random.Generator, count: int) -> tuple[Array, list[list[str]]]:
    """Pictures and questions by the demo's rules, as `read` gives them."""
    images, asked = [], []
    for number in range(count):
        shape, color = random.choice(SHAPES), random.choice(list(COLORS))
        size = random.uniform(0.15, 0.5, 2)
        centre = random.uniform(0.3, 0.7, 2)
        ground = random.integers(228, 256, 3)
        images.append(Drawn(shape, color, tuple(centre), tuple(size), tuple(ground)).image())
        for thing, right in ((random.choice(SHAPES), shape), (f"{random.choice(list(COLORS))} shape", f"{color} shape")):
            there = thing == right
            asked += [
                [str(number), "yes" if there else "no", f"is there a {thing}?"],
                [str(number), "no" if there else "yes", f"does the image not contain a {thing}?"],
                [str(number), "no" if there else "yes", f"is no {thing} present?"],
            ]
        asked += [
            [str(number), color, "what color is the shape?"],
            [str(number), shape, "what shape is in the image?"],
            [str(number), shape, f"what is the {color} shape?"],
        ]
    return np.stack(images), asked


def examples(images: Array, asked: Sequence[Sequence[str]], words: Words, answers: Sequence[str]) -> Examples:
    """As tensors."""
    found = [words.encode(tokenize(question)) for _, _, question in asked]
    padded = np.zeros((len(found), max(map(len, found))), np.int64)
    for row, indices in zip(padded, found, strict=True):
        row[: len(indices)] = indices
    return Examples(
        torch.from_numpy(scaled(images)),
        np.array([int(number) for number, _, _ in asked]),
        torch.from_numpy(padded),
        torch.tensor([len(indices) - 1 for indices in found]),
        torch.tensor([list(answers).index(answer) for _, answer, _ in asked]),
    )


def train(run: Run) -> None:
    """Train, export, and compare."""
    (images, asked), (held_images, held_asked) = read(run)
    words = Words(sorted({token for _, _, question in asked for token in tokenize(question)}))
    answers = sorted({answer for _, answer, _ in asked})
    images = run.first(images)
    data = examples(images, [q for q in asked if int(q[0]) < len(images)], words, answers)
    held = examples(held_images, held_asked, words, answers)
    model = Vqa(len(words), len(answers))
    starts = np.searchsorted(data.of, np.arange(len(images) + 1))

    def decisions() -> Array:
        with torch.no_grad():
            seen = model.see(held.images)
            logits = model.read(seen[held.of], held.words)
            found: Array = logits[torch.arange(len(logits)), held.last].argmax(1).numpy()
        return found

    def right() -> float:
        return float(np.mean(decisions() == held.answers.numpy()))

    def loss(batch: Array) -> torch.Tensor:
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in batch])
        of = np.repeat(np.arange(len(batch)), starts[batch + 1] - starts[batch])
        with torch.no_grad():
            seen = model.see(bent(data.images[batch], BENT, MOVED))
        logits = model.read(seen[of], data.words[rows])
        last, answer = data.last[rows], data.answers[rows]
        wanted = torch.where(torch.arange(logits.shape[1]) <= last[:, None], answer[:, None], -100)
        every = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        return F.cross_entropy(logits[torch.arange(len(rows)), last], answer) + EVERY_WORD * every

    guess = nn.Linear(SEEN, len(answers))
    of_things = np.flatnonzero([answers[i] not in YES_NO for i in data.answers])

    def learn_alone(batch: Array) -> torch.Tensor:
        rows = of_things[batch]
        seen = model.see(bent(data.images[data.of[rows]], BENT, MOVED))
        return F.cross_entropy(guess(seen), data.answers[rows])

    run.say("  the CNN alone, from answers without their questions")
    run.fit(
        nn.ModuleList([model.see, guess]),
        lambda random: shuffled(random, len(of_things), ALONE_BATCH),
        learn_alone,
        rate=RATE_ALONE,
        epochs=max(run.epochs // 2, 1),
    )
    model.see = folded(model.see)
    run.say("  the LSTM, from questions")
    run.fit(
        nn.ModuleList([model.begin, model.embed, model.lstm, model.head]),
        lambda random: shuffled(random, len(images), BATCH),
        loss,
        rate=RATE,
        heldout=lambda: f"{right():.1%}",
    )
    run.half(model, decisions)
    run.figure("accuracy", right(), f"{right():.1%} of {len(held.of):,} held-out questions are answered right")
    file = run.path("vqa.onnx")
    export_sequence(
        model,
        [held.images[:3], held.words[:3]],
        file,
        input_names=["image", "words"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "words": {0: "N", 1: "T"}, "logits": {0: "N", 1: "T"}},
        metadata=run.metadata(words=words.words, answers=answers),
        half=True,
    )
    pictures, texts, last = held.images.numpy(), held.words.numpy(), held.last.numpy()
    for length in np.unique(last):
        rows = np.flatnonzero(last == length)[:CHECKED]
        run.check(file, {"image": pictures[held.of[rows]], "words": texts[rows, : length + 1]})
    peer, ours = session(file), Answers(load(file))
    found = np.zeros(len(last), np.int64)
    for length in np.unique(last):
        rows = np.flatnonzero(last == length)
        logits = peer.run(None, {"image": pictures[held.of[rows]], "words": texts[rows, : length + 1]})[0]
        found[rows] = logits[:, -1].argmax(1)
    run.agree(
        "answers",
        PyTorch=decisions(),
        onnxruntime=found,
        tinyrnn=[ours.scores(pictures[i], text[: n + 1])[-1].argmax() for i, text, n in zip(held.of, texts, last, strict=True)],
    )


main = command(RECIPE, train, "Train a CNN and an LSTM to answer questions about pictures and export them.")

if __name__ == "__main__":
    main()
