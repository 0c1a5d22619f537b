"""Greedy and beam search in plain Python, around any engine: what the runtime's own loops are compared with.

An engine is a function step(token, state) -> (scores [V], state after), whatever its state is; scores are logits or
log-probabilities. Sums are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Step = Callable[[int, Any], tuple[Array, Any]]


class Found(NamedTuple):
    """A sequence, its stop token included, and the sum of its tokens' log-probabilities."""

    tokens: list[int]
    log_probability: float


def log_softmax(scores: Array) -> Array:
    """float64 [V]."""
    wide = np.asarray(scores, np.float64).ravel()
    wide = wide - wide.max()
    found: Array = wide - np.log(np.exp(wide).sum())
    return found


def _largest(values: Array, count: int) -> Array:
    """Indices of the `count` largest, largest first, the lower index first of equal ones."""
    count = min(count, len(values))
    least = np.partition(values, -count)[-count]
    enough = np.flatnonzero(values >= least)
    found: Array = enough[np.argsort(-values[enough], kind="stable")][:count]
    return found


def greedy(step: Step, state: Any, start: int, stop: int, steps: int) -> list[int]:
    """The likeliest token each time, until `stop`, which is the last, or `steps` tokens."""
    tokens: list[int] = []
    token = start
    while len(tokens) < steps and (not tokens or token != stop):
        scores, state = step(token, state)
        token = int(np.argmax(np.asarray(scores).ravel()))
        tokens.append(token)
    return tokens


def beam(step: Step, state: Any, start: int, stop: int, steps: int, width: int, length_penalty: float) -> list[int]:
    """The best sequence of those that `width` hypotheses at a time find; as `tinyrnn.decode.beam` is documented.

    Scores are log-probability / ((5 + n) / 6) ** length_penalty (Wu et al., 2016). The best `width` continuations that
    do not end go on at each step; those that end and come before them are kept. It ends early where nothing that goes on
    can become better than what has ended.
    """

    def penalty(count: int) -> float:
        return math.pow((5 + count) / 6, length_penalty)

    def score(found: Found) -> float:
        return found.log_probability / penalty(len(found.tokens))

    living: list[tuple[Found, Any, int]] = [(Found([], 0.0), state, start)]
    ended: list[Found] = []
    for _ in range(steps):
        candidates: list[tuple[float, int, int]] = []
        after = []
        for number, (found, before, token) in enumerate(living):
            scores, state = step(token, before)
            after.append(state)
            likely = log_softmax(scores)
            candidates += [(found.log_probability + float(likely[t]), number, int(t)) for t in _largest(likely, width + 1)]
        candidates.sort(key=lambda c: (-c[0], c[1], c[2]))
        grown: list[tuple[Found, Any, int]] = []
        for total, number, token in candidates:
            made = Found([*living[number][0].tokens, token], total)
            if token == stop:
                ended.append(made)
            else:
                grown.append((made, after[number], token))
            if len(grown) == width:
                break
        living = grown
        likeliest = living[0][0]
        largest = max(penalty(len(likeliest.tokens) + 1), penalty(steps))
        if ended and max(map(score, ended)) >= likeliest.log_probability / largest:
            return max(ended, key=score).tokens
    return max([*ended, *(found for found, _, _ in living)], key=score).tokens
