"""The table of tolerances, and how far two arrays are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.check.report import Difference
from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array, is_floating


@dataclass(frozen=True)
class Tolerance:
    """|actual - expected| <= absolute + relative * |expected|."""

    absolute: float
    relative: float


TOLERANCES: dict[str, dict[str, Tolerance]] = {
    "exact": {},
    "close": {
        "bfloat16": Tolerance(8e-3, 2e-2),
        "float16": Tolerance(1e-3, 1e-2),
        "float32": Tolerance(1e-5, 1e-4),
        "float64": Tolerance(1e-12, 1e-11),
    },
    "approximate": {name: Tolerance(2e-2, 2e-2) for name in ("bfloat16", "float16", "float32", "float64")},
}
"""level → dtype → tolerance; types without an entry must agree bit for bit.

`close`: two ways of computing the same in one precision. `approximate`: weights stored in fewer bits (FACTS:
1.5e-2 for int8).
"""


def level_of(weights: str | Mapping[str, str] | None) -> str:
    """The level at which a model is held against its file, loaded with these `weights`."""
    types = weights.values() if isinstance(weights, Mapping) else [weights or "float32"]
    return "close" if all(name == "float32" for name in types) else "approximate"


def _coarser(actual: Array, expected: Array) -> np.dtype[Any]:
    """The less precise of two floating types; the first type if one of them is not floating."""
    floating = is_floating(actual.dtype) and is_floating(expected.dtype)
    coarser: np.dtype[Any] = expected.dtype if floating and expected.dtype.itemsize < actual.dtype.itemsize else actual.dtype
    return coarser


def distance(actual: Array, expected: Array) -> tuple[Array, Array, Array]:
    """(actual, expected, |actual - expected|) in float64; the difference is 0 where both are the same, inf where one is NaN."""
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - e)
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    return a, e, np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))


def excess(level: str, actual: Any, expected: Any) -> float:
    """The largest difference in units of the tolerance: up to 1 passes. Infinite where shapes differ."""
    if level not in TOLERANCES:
        raise ValueError(f"no level of tolerance {level!r}; there are {', '.join(TOLERANCES)}")
    x, y = np.asarray(actual), np.asarray(expected)
    if x.shape != y.shape:
        return float("inf")
    tolerance = TOLERANCES[level].get(_coarser(x, y).name)
    if tolerance is None:
        return 0.0 if x.dtype == y.dtype and x.tobytes() == y.tobytes() else float("inf")
    _, e, apart = distance(x, y)
    allowed = tolerance.absolute + tolerance.relative * np.where(np.isfinite(e), np.abs(e), 0.0)
    return float((apart / allowed).max(initial=0.0))


def within(level: str, actual: Any, expected: Any) -> bool:
    """Whether two arrays agree in shape and, to the level of tolerance of the less precise dtype, in value."""
    return excess(level, actual, expected) <= 1.0


def difference(actual: Any, expected: Any) -> Difference:
    """The largest absolute, relative and ULP difference. Raises `ShapeError` where shapes differ."""
    x, y = np.asarray(actual), np.asarray(expected)
    if x.shape != y.shape:
        raise ShapeError(f"arrays of shape {list(x.shape)} and {list(y.shape)} cannot be compared")
    if x.size == 0:
        return Difference(0.0, 0.0, 0.0, (), 0.0, 0.0)
    a, e, apart = distance(x, y)
    larger = np.maximum(np.abs(np.nan_to_num(a)), np.abs(np.nan_to_num(e)))
    coarser = _coarser(x, y)
    unit = np.spacing(larger.astype(coarser)).astype(np.float64) if is_floating(coarser) else np.ones(e.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(apart == 0, 0.0, apart / larger)
        ulp = np.where(apart == 0, 0.0, apart / unit)
    place = np.unravel_index(int(apart.argmax()), apart.shape)
    return Difference(
        float(apart.max()),
        float(relative.max()),
        float(ulp.max()),
        tuple(int(i) for i in place),
        float(a[place]),
        float(e[place]),
    )
