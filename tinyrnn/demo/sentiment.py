"""Many to one: a remark about a product in, word by word, and whether it praises or complains out.

The model gives a score after every word: the judgement as it develops. The last one decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.data import terminal as pictures
from tinyrnn.data.vocabulary import Words, listed, tokenize
from tinyrnn.demo import About, Models, Say
from tinyrnn.errors import LoadError, TinyRNNError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model

ABOUT = About("many to one", "praise or complaint, in remarks about products", "a remark, or a .txt file with one a line")

UNKNOWN = "<unk>"
"""the word that stands for unknown words"""
REMARKS = (
    "Cheap, and it does the job",
    "Cheap plastic case, hard to open",
    "Low price, long battery life, fits in a pocket",
    "Beautiful pictures, but the battery dies far too quickly",
)
"""a word that is read in two ways, a judgement that turns, and one on both sides: remarks it was trained on take one"""
BAR = 20
"""characters of a bar from the middle to an end"""


class Judge:
    """Reads remarks and gives the score after every word: 0 is complaint, 1 is praise."""

    def __init__(self, model: Model) -> None:
        self.words = Words(listed(model, "words"))
        self.stream = model.stream()

    def indices(self, tokens: list[str]) -> Array:
        """The indices of words, int64 [words]; unknown ones are `UNKNOWN`. Raises `TinyRNNError` where all are unknown."""
        words = [token for token in tokens if token[0].isalnum()]
        if not words:
            raise TinyRNNError("the remark has no word: give some, as in --input 'easy to use, but slow'")
        if not any(word in self.words.index for word in words):
            self.words.encode(words)
        return self.words.encode(tokens, UNKNOWN)

    def scores(self, indices: Array) -> Array:
        """The score after every word, float32 [words]."""
        self.stream.reset()
        found: Array = self.stream.run(indices)
        return found[:, 0]


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Judge remarks, word by word: those above, or those that are given."""
    judge = Judge(models.load("sentiment"))
    remarks = list(REMARKS) if given is None else _given(given)
    read = [(tokens, judge.indices(tokens)) for tokens in map(tokenize, remarks)]
    found = []
    for remark, (tokens, indices) in zip(remarks, read, strict=True):
        scores = judge.scores(indices)
        verdict = "praise" if scores[-1] > 0.5 else "complaint"
        unknown = list(dict.fromkeys(t for t in tokens if t not in judge.words.index))
        found.append({"text": remark, "words": tokens, "scores": scores.tolist(), "verdict": verdict, "unknown": unknown})
        width = max(9, *map(len, tokens))
        say(f"  {'':{width}}  {'complaint':<{BAR}} {'praise':>{BAR}}")
        for token, score in zip(tokens, scores, strict=True):
            say(f"  {token:<{width}}  {_bar(float(score))}  {score:.2f}{'  unknown' if token in unknown else ''}")
        say(f"  {'':{width}}  {verdict}\n")
    if picture is not None:
        _draw(found, picture)
    return {"remarks": found}


def _given(given: str) -> list[str]:
    """A remark, or the lines of a text file. Raises `LoadError`."""
    path = Path(given)
    if path.suffix.lower() != ".txt":
        return [given]
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise LoadError(f"{path}: not a text file in UTF-8") from None
    if not lines:
        raise LoadError(f"{path}: there is no remark in it; it holds one a line")
    return lines


def _bar(score: float) -> str:
    length = round(abs(score - 0.5) * 2 * BAR)
    bar = length * "█"
    return f"{'':{BAR}}│{bar:<{BAR}}" if score > 0.5 else f"{bar:>{BAR}}│{'':{BAR}}"


def _draw(found: list[dict[str, Any]], path: Path) -> None:
    longest = max(len(remark["words"]) for remark in found)
    figure = pictures.figure(max(5.0, 0.55 * longest + 1.2), 2.2 * len(found))
    for axes, remark in zip(np.atleast_1d(figure.subplots(len(found))), found, strict=True):
        scores = np.array(remark["scores"])
        axes.bar(range(len(scores)), scores - 0.5, bottom=0.5, width=0.9, color=["C0" if s > 0.5 else "C3" for s in scores])
        axes.axhline(0.5, color="black", linewidth=0.8)
        axes.set(xlim=(-0.6, longest - 0.4), ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["complaint", "", "praise"])
        axes.set_xticks(range(len(scores)), remark["words"], rotation=40, ha="right", rotation_mode="anchor")
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_title(f"{remark['verdict']} ({scores[-1]:.2f})", loc="left", fontsize=10)
    pictures.save(figure, path)
