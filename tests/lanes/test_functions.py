"""The elementary functions on this machine, within the errors that their docstrings state."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tinyrnn
from tinyrnn.lanes import functions as lanes_math

FUNCTIONS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "exp": ("Exp", np.exp),
    "log": ("Log", np.log),
    "tanh": ("Tanh", np.tanh),
    "sigmoid": ("Sigmoid", lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)), 1.0) / (1.0 + np.exp(-np.abs(x)))),
    "softplus": ("Softplus", lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))),
    "softsign": ("Softsign", lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x)))),
    "erf": ("Erf", np.vectorize(math.erf, otypes=[float])),
}
"""name in lanes.functions → (ONNX operator, float64 reference)"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tinyrnn.Model:
    path = tmp_path_factory.mktemp("functions") / "functions.onnx"
    nodes = [helper.make_node(op, ["x"], [name]) for name, (op, _) in FUNCTIONS.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in FUNCTIONS]
    graph = helper.make_graph(nodes, "functions", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return tinyrnn.load(path)


def _sample() -> np.ndarray:
    """Every exponent and sign with many significands, and the special values."""
    bits = np.arange(0, 1 << 32, 9973, dtype=np.uint64).astype(np.uint32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.0, -1.0, 88.8, -88.8, -104.0], np.float32)
    return np.concatenate([bits.view(np.float32), special])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_within_the_error_of_the_docstring(model: tinyrnn.Model, name: str) -> None:
    x = _sample()
    y = getattr(model.run(x), name)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name][1](x.astype(np.float64))
        rounded = expected.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(rounded))
    finite = np.isfinite(rounded) & (np.abs(expected) >= np.finfo(np.float32).tiny)
    np.testing.assert_array_equal(y[np.isinf(rounded)], rounded[np.isinf(rounded)])
    stated = re.search(r"(\d+\.\d+) ULP", getattr(lanes_math, name).__doc__ or "")
    assert stated, "the docstring states no maximum error"
    ulp = np.abs(y[finite] - expected[finite]) / np.spacing(np.abs(rounded[finite])).astype(np.float64)
    assert ulp.max() <= float(stated.group(1)) + 0.001
    if name in ("tanh", "erf", "softsign"):
        assert np.nanmax(np.abs(y)) <= 1
    if name == "sigmoid":
        assert np.nanmin(y) >= 0 and np.nanmax(y) <= 1
