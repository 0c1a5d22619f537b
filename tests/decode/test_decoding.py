"""Greedy and beam search in plain Python: against every sequence there is, where the beam is wide enough for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="tinyrnn_export needs PyTorch")
from tinyrnn_export import decoding

Array = np.ndarray[Any, Any]
V, STEPS, START, STOP = 4, 4, 0, 1


def engine(seed: int, sharpness: float) -> decoding.Step:
    """Scores that depend on the last token and on how many came before."""
    scores = sharpness * np.random.default_rng(seed).standard_normal((STEPS, V, V))
    return lambda token, state: (scores[state, token], state + 1)


def everything(step: decoding.Step, tokens: tuple[int, ...] = (), total: float = 0.0) -> Iterator[tuple[tuple[int, ...], float]]:
    """Each sequence that ends, or is STEPS long, and its log-probability."""
    if tokens and (tokens[-1] == STOP or len(tokens) == STEPS):
        yield tokens, total
        return
    scores, _ = step(tokens[-1] if tokens else START, len(tokens))
    likely = scores - math.log(sum(map(math.exp, scores)))
    for token in range(V):
        yield from everything(step, (*tokens, token), total + float(likely[token]))


@pytest.mark.parametrize("length_penalty", [-0.7, 0.0, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(8))
def test_a_beam_as_wide_as_all_sequences_finds_the_best(seed: int, length_penalty: float) -> None:
    step = engine(seed, 0.5 + seed / 4)
    best = max(everything(step), key=lambda found: found[1] / ((5 + len(found[0])) / 6) ** length_penalty)
    assert tuple(decoding.beam(step, 0, START, STOP, STEPS, V**STEPS, length_penalty)) == best[0]


@pytest.mark.parametrize("seed", range(8))
def test_greedy_takes_the_likeliest_each_time(seed: int) -> None:
    step = engine(seed, 1.0)
    found = decoding.greedy(step, 0, START, STOP, STEPS)
    assert found[-1] == STOP or len(found) == STEPS
    assert STOP not in found[:-1]
    for i, token in enumerate(found):
        scores, _ = step(found[i - 1] if i else START, i)
        assert token == int(np.argmax(scores))


def test_of_equal_ones_the_first() -> None:
    assert decoding.beam(lambda token, state: (np.zeros(V), state), None, START, STOP, 3, 2, 0.0) == [STOP]
    assert decoding._largest(np.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3).tolist() == [1, 3, 2]
    assert decoding._largest(np.array([1.0, 3.0]), 5).tolist() == [1, 0]
