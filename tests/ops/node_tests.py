"""ONNX's node tests, computed in a third of the time: `onnx` computes them all when it imports them."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any
from unittest.mock import patch
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.backend.test.case import base
from onnx.backend.test.loader import load_model_tests
from onnx.reference.ops import op_pool_common

POOL = op_pool_common.pool
MANY = 2000
"""windows from which ONNX's loop over them takes long"""


@cache
def every_test() -> list[Any]:
    """All node tests with a model; without the texts that ONNX's documentation shows of them."""
    with (
        catch_warnings(),
        patch.object(base, "process_snippet", lambda op, name, export: (name, "")),
        patch.object(op_pool_common, "pool", pool),
    ):
        simplefilter("ignore", RuntimeWarning)
        return [t for t in load_model_tests(kind="node") if t.model is not None]


def pool(padded: Any, x_shape: Any, kernel: Any, strides: Any, out_shape: Any, kind: str, *more: Any, **named: Any) -> Any:
    """ONNX's `pool`, with the same bits; many windows without padding and gaps are taken at once."""
    if prod(out_shape) * prod(x_shape[:2]) < MANY or more or set(named) - {"p"} or np.isnan(padded).any():
        return POOL(padded, x_shape, kernel, strides, out_shape, kind, *more, **named)
    axes = tuple(range(2, padded.ndim))
    spots = (slice(None), slice(None), *(slice(None, None, step) for step in strides or [1] * len(axes)))
    windows = sliding_window_view(padded, tuple(kernel), axes)[spots]
    values = windows.reshape(*windows.shape[: padded.ndim], -1)
    if kind == "LPPOOL":
        p = named.get("p", 1)
        sums = (np.abs(values) ** p).sum(-1)
        return np.array([each ** (1.0 / p) for each in sums.ravel()], padded.dtype).reshape(sums.shape)  # one by one, as there
    return values.mean(-1) if kind == "AVG" else values.max(-1)
