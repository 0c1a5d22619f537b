"""Corpus BLEU (Papineni et al., BLEU: a method for automatic evaluation of machine translation, 2002)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[str]


def counts(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n tokens is there."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def bleu(found: Sequence[Tokens], references: Sequence[Sequence[Tokens]], longest: int = 4) -> float:
    """BLEU of a corpus, from 0 to 1: brevity penalty times the geometric mean of the modified precisions p_1 to p_longest.

    found       [sentences], tokens of each
    references  [sentences], one or more references of each, tokens of each

    A precision is clipped matches over n-grams found, both summed over the corpus; nothing is smoothed, so one that is
    zero makes BLEU zero. The reference length of a sentence is the one closest to what was found, the shorter of two.
    Raises ValueError where a sentence has no references.
    """
    matches, total = [0] * longest, [0] * longest
    length = wanted = 0
    for tokens, given in zip(found, references, strict=True):
        if not given:
            raise ValueError(f"no reference for {' '.join(tokens)!r}")
        length += len(tokens)
        wanted += min((abs(len(r) - len(tokens)), len(r)) for r in given)[1]
        for n in range(1, longest + 1):
            largest: Counter[tuple[str, ...]] = Counter()
            for reference in given:
                largest |= counts(reference, n)
            here = counts(tokens, n)
            matches[n - 1] += (here & largest).total()
            total[n - 1] += here.total()
    if not all(matches):
        return 0.0
    brevity = min(0.0, 1 - wanted / length)
    return math.exp(brevity + sum(math.log(m / t) for m, t in zip(matches, total, strict=True)) / longest)
