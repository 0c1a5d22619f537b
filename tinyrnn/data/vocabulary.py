"""What the numbers that a model takes and gives stand for: lists of characters, words or labels in its metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np

from tinyrnn.errors import LoadError, TinyRNNError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model

TOKEN = re.compile(r"\w+(?:['’]\w*)?|[^\w\s]")
"""a word, with what follows its apostrophe, or a mark"""
CLOSE = 3
"""words that a message suggests"""


def listed(model: Model, key: str) -> list[str]:
    """The JSON list of strings, or string of characters, that the metadata has under `key`. Raises `LoadError`."""
    try:
        found = json.loads(model.metadata[key])
    except (KeyError, ValueError):
        found = None
    if not isinstance(found, (str, list)) or not found:
        raise LoadError(f"{model.name}: its metadata has no list {key!r}; it has {', '.join(model.metadata) or 'nothing'}")
    return [str(entry) for entry in found]


def vocabulary_of(model: Model) -> str:
    """The characters a model knows, in the order of their indices. Raises `LoadError`."""
    try:
        return str(json.loads(model.metadata["vocabulary"]))
    except (KeyError, ValueError):
        raise LoadError(f"{model.name}: its metadata has no vocabulary, the characters in the order of their indices") from None


def encode(text: str, vocabulary: str) -> Array:
    """Indices [characters], int64. Raises `TinyRNNError` naming the characters that are not there."""
    unknown = "".join(dict.fromkeys(c for c in text if c not in vocabulary))
    if unknown:
        raise TinyRNNError(f"the model does not know {unknown!r}; its {len(vocabulary)} characters are {vocabulary!r}")
    return np.array([vocabulary.index(c) for c in text], np.int64)


def tokenize(text: str) -> list[str]:
    """Words and marks in lower case; the apostrophe ends an elided word (l', don't stays one)."""
    return TOKEN.findall(text.lower().replace("’", "'"))


class Words:
    """A vocabulary of words, in the order of their indices."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)
        self.index = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Sequence[str], unknown: str | None = None) -> Array:
        """Indices [words], int64; words that are not there count as `unknown`.

        Raises `TinyRNNError` with those that are not there, and words like them, where `unknown` is None.
        """
        missing = [token for token in dict.fromkeys(tokens) if token not in self.index]
        if missing and unknown is None:
            near = {word: get_close_matches(word, self.words, CLOSE) for word in missing}
            told = "; ".join(f"{w!r}" + (f" (but {', '.join(n)})" if n else "") for w, n in near.items())
            raise TinyRNNError(f"the model knows {len(self.words):,} words, not {told}")
        default = self.index[unknown] if unknown is not None else -1
        return np.array([self.index.get(token, default) for token in tokens], np.int64)

    def text(self, tokens: Iterable[int], without: Sequence[str] = ()) -> str:
        """The words of indices, joined by spaces; those of `without` are left out."""
        return " ".join(word for word in (self.words[int(t)] for t in tokens) if word not in without)
