"""Vocabularies: the characters, words or labels that a model's numbers stand for, from its metadata."""

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
"""a word, including what follows its apostrophe, or a punctuation mark"""
CLOSE = 3
"""number of similar words that a message suggests"""


def listed(model: Model, key: str) -> list[str]:
    """The list of strings, or characters of a string, in JSON under `key` of the metadata. Raises `LoadError`."""
    try:
        found = json.loads(model.metadata[key])
    except (KeyError, ValueError):
        found = None
    if not isinstance(found, (str, list)) or not found:
        raise LoadError(f"{model.name}: its metadata has no list {key!r}; it has {', '.join(model.metadata) or 'nothing'}")
    return [str(entry) for entry in found]


def vocabulary_of(model: Model) -> str:
    """The characters that a model knows, in the order of their indices. Raises `LoadError`."""
    try:
        return str(json.loads(model.metadata["vocabulary"]))
    except (KeyError, ValueError):
        raise LoadError(f"{model.name}: its metadata has no vocabulary, the characters in the order of their indices") from None


def encode(text: str, vocabulary: str) -> Array:
    """The indices of a text, int64 [characters]. Raises `TinyRNNError` naming unknown characters."""
    unknown = "".join(dict.fromkeys(c for c in text if c not in vocabulary))
    if unknown:
        raise TinyRNNError(f"the model does not know {unknown!r}; its {len(vocabulary)} characters are {vocabulary!r}")
    return np.array([vocabulary.index(c) for c in text], np.int64)


def tokenize(text: str) -> list[str]:
    """Words and punctuation marks in lower case; an apostrophe ends an elided word (l'), but don't stays one word."""
    return TOKEN.findall(text.lower().replace("’", "'"))


class Words:
    """A vocabulary of words, in the order of their indices."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)
        self.index = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Sequence[str], unknown: str | None = None) -> Array:
        """The indices of words, int64 [words]; other words count as `unknown`.

        Raises `TinyRNNError` naming the other words, and similar known ones, where `unknown` is None.
        """
        missing = [token for token in dict.fromkeys(tokens) if token not in self.index]
        if missing and unknown is None:
            near = {word: get_close_matches(word, self.words, CLOSE) for word in missing}
            told = "; ".join(f"{w!r}" + (f" (but {', '.join(n)})" if n else "") for w, n in near.items())
            raise TinyRNNError(f"the model knows {len(self.words):,} words, not {told}")
        default = self.index[unknown] if unknown is not None else -1
        return np.array([self.index.get(token, default) for token in tokens], np.int64)

    def text(self, tokens: Iterable[int], without: Sequence[str] = ()) -> str:
        """The words of indices, joined by spaces, without those in `without`."""
        return " ".join(word for word in (self.words[int(t)] for t in tokens) if word not in without)
