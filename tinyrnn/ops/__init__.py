"""The operators, one file per family; importing this registers them all."""

from tinyrnn.ops import (
    cast,
    elementwise,
    indexing,
    linear,
    movement,
    normalization,
    recurrent,
    recurrent_match,
    reduction,
    views,
)

__all__ = [
    "cast",
    "elementwise",
    "indexing",
    "linear",
    "movement",
    "normalization",
    "recurrent",
    "recurrent_match",
    "reduction",
    "views",
]
