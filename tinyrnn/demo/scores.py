"""Probabilities from a model's scores."""

from __future__ import annotations

import numpy as np

from tinyrnn.graph.arrays import Array


def softmax(logits: Array) -> Array:
    """The probabilities [..., labels] that logits [..., labels] stand for, of the same type."""
    shares: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares
