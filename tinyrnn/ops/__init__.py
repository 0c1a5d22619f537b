"""The operators, one file per family; importing this registers them all."""

from tinyrnn.ops import (
    batch_normalization,
    cast,
    elementwise,
    indexing,
    linear,
    movement,
    normalization,
    recurrent,
    recurrent_match,
    reduction,
    softmax,
    spectrum,
    views,
    window,
)

__all__ = [
    "batch_normalization",
    "cast",
    "elementwise",
    "indexing",
    "linear",
    "movement",
    "normalization",
    "recurrent",
    "recurrent_match",
    "reduction",
    "softmax",
    "spectrum",
    "views",
    "window",
]
