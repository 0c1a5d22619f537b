"""An image and a question, word by word, to an answer: the image is the state in which the reading begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyrnn.data import terminal as pictures
from tinyrnn.data.vocabulary import Words, listed, tokenize
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.drawing import arc, filled
from tinyrnn.demo.images import as_text, read_image
from tinyrnn.demo.scores import softmax
from tinyrnn.errors import TinyRNNError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model

ABOUT = About(
    "image and question to answer",
    "questions about a picture of a coloured shape",
    "a question; or IMAGE, or IMAGE?QUESTION, where IMAGE is a .png or .npy of 64 x 64 pixels, 8-bit RGB",
)
SIZE = 64
SHAPES = ("circle", "rectangle", "triangle")
COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}
"""RGB, as web pages name them"""
SHOWN = 16
"""lines of a picture in the terminal"""
END = "?"
PATH = re.compile(r"\.\w+$")
"""how the name of a file ends, and no question does"""

QUESTIONS = (
    "what shape is in the image?",
    "what color is the shape?",
    "is there a red shape?",
    "does the image not contain a circle?",
    "is no {color} shape present?",
)


class Drawn(NamedTuple):
    """A shape on a ground; lengths and places in a unit square, y downwards."""

    shape: str
    color: str
    centre: tuple[float, float] = (0.5, 0.5)
    size: tuple[float, float] = (0.5, 0.4)
    """width and height; of a circle and a triangle only the width counts"""
    ground: tuple[int, int, int] = (240, 244, 250)

    def image(self) -> Array:
        """uint8 [64, 64, 3]."""
        (x, y), (width, height) = self.centre, self.size
        if self.shape == "circle":
            outline: Any = arc(self.centre, (width / 2, width / 2), 0, 1, 48)
        elif self.shape == "rectangle":
            a, b = width / 2, height / 2
            outline = [(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]
        else:
            outline = arc(self.centre, (width / np.sqrt(3), width / np.sqrt(3)), -0.25, 0.75, 4)[:3]
        cover = filled([outline], SIZE)[..., None]
        mixed: Array = np.round(np.array(self.ground) * (1 - cover) + np.array(COLORS[self.color]) * cover).astype(np.uint8)
        return mixed


PICTURES = (
    Drawn("triangle", "teal", (0.4, 0.5), (0.5, 0.5)),
    Drawn("circle", "yellow", (0.65, 0.4), (0.36, 0.36), (236, 230, 244)),
    Drawn("rectangle", "brown", (0.5, 0.65), (0.6, 0.3), (235, 248, 240)),
)


class Answered(NamedTuple):
    """A question and the model's answer."""

    question: str
    tokens: list[str]
    guesses: list[str]
    """the likeliest answer after each word"""
    probability: float
    """probability of the last answer"""

    @property
    def answer(self) -> str:
        return self.guesses[-1]


def scaled(images: Array) -> Array:
    """The model's input: float32 [..., 3, 64, 64], white as 0 and full ink as 1, for images uint8 [..., 64, 64, 3]."""
    return np.ascontiguousarray(np.moveaxis(1 - images.astype(np.float32) / 255, -1, -3))


class Answers:
    """Answers questions about images."""

    def __init__(self, model: Model) -> None:
        self.words, self.answers = Words(listed(model, "words")), listed(model, "answers")
        self.stream = model.stream()

    def read(self, question: str) -> tuple[list[str], Array]:
        """Words and their indices; the question mark may be missing. Raises `TinyRNNError` where a word is unknown."""
        tokens = [token for token in tokenize(question) if token != END]
        if not tokens:
            raise TinyRNNError(f"the question {question!r} has no word; ask as in {QUESTIONS[1]!r}")
        tokens.append(END)
        return tokens, self.words.encode(tokens)

    def scores(self, image: Array, words: Array) -> Array:
        """Logits [words, answers]: after each word of one question; image float32 [3, 64, 64], as `scaled` gives it."""
        self.stream.reset()
        found: Array = self.stream.run(image, words)
        return found

    def ask(self, image: Array, question: str) -> Answered:
        """The answer to a question about an image, uint8 [64, 64, 3]. Raises `TinyRNNError` where a word is unknown."""
        tokens, words = self.read(question)
        scores = self.scores(scaled(image), words)
        guesses = [self.answers[i] for i in scores.argmax(axis=1)]
        return Answered(question, tokens, guesses, float(softmax(scores[-1]).max()))


def taken(given: str) -> tuple[Path | None, str | None]:
    """The image's path and the question that an input names; None for one that it leaves out."""
    before, mark, after = given.partition(END)
    if PATH.search(before) or Path(before).is_file():
        return Path(before), after.strip() or None if mark else None
    return None, given


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Ask about the shapes drawn above, or an image from a file: the questions above, or the user's."""
    path, question = (None, None) if given is None else taken(given)
    model = Answers(models.load("vqa"))
    if path is not None:
        images = [read_image(path, SIZE, SIZE, 3)]
    else:
        images = [drawn.image() for drawn in (PICTURES if question is None else PICTURES[:1])]
    if question is not None:
        model.read(question)
    found = []
    for image in images:
        asked = [question] if question is not None else _questions(model, image)
        answered = [model.ask(image, q) for q in asked]
        found.append((image, answered))
        for line in _beside(_sketch(image), [line for a in answered for line in _told(a)]):
            say(line)
        say("")
    if picture is not None:
        _draw(found, picture)
    keys = ("question", "answer", "probability")
    return {"pictures": [[{key: getattr(a, key) for key in keys} for a in answered] for _, answered in found]}


def _questions(model: Answers, image: Array) -> list[str]:
    """The questions above, one of them of the color that was answered."""
    color = model.ask(image, QUESTIONS[1]).answer
    return [question.format(color=color) for question in QUESTIONS]


def _sketch(image: Array) -> list[str]:
    """Lines of an image, how far each place is from the ground's color."""
    small = image.reshape(SHOWN, SIZE // SHOWN, SHOWN, SIZE // SHOWN, 3).mean(axis=(1, 3))
    away = np.abs(small - small[0, 0]).max(axis=-1)
    return [line.ljust(2 * SHOWN) for line in as_text((away / max(away.max(), 1)).astype(np.float32))]


def _told(answered: Answered) -> list[str]:
    """Two lines: the words, and under each one the guess after it, where that changes."""
    guesses = [g if i == 0 or g != answered.guesses[i - 1] else "" for i, g in enumerate(answered.guesses)]
    widths = [max(len(t), len(g)) for t, g in zip(answered.tokens, guesses, strict=True)]
    words = " ".join(t.ljust(w) for t, w in zip(answered.tokens, widths, strict=True))
    below = " ".join(g.ljust(w) for g, w in zip(guesses, widths, strict=True))
    return [f"{words}  {answered.answer} ({answered.probability:.0%})", below.rstrip(), ""]


def _beside(left: list[str], right: list[str]) -> list[str]:
    height = max(len(left), len(right))
    left, right = ([*lines, *[""] * (height - len(lines))] for lines in (left, right))
    return [f"{a:{2 * SHOWN}}   {b}".rstrip() for a, b in zip(left, right, strict=True)]


def _draw(found: list[tuple[Array, list[Answered]]], path: Path) -> None:
    count = max(len(answered) for _, answered in found)
    figure = pictures.figure(3.6 * len(found), 3.6 + 0.26 * count)
    axes = figure.subplots(2, len(found), squeeze=False, height_ratios=[3.4, 0.26 * count])
    for top, bottom, (image, answered) in zip(*axes, found, strict=True):
        top.imshow(image)
        top.set(xticks=[], yticks=[])
        bottom.set_axis_off()
        bottom.set(xlim=(0, 1), ylim=(count, 0))
        for row, a in enumerate(answered):
            bottom.text(0.02, row + 0.5, a.question, va="center", fontsize=9)
            bottom.text(0.98, row + 0.5, a.answer, va="center", ha="right", fontsize=9, weight="bold")
    pictures.save(figure, path)
