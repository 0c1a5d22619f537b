"""Functions of one number: roundings, roots, exponentials, and the activations that networks use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyrnn.graph.call import literal
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Refused, register
from tinyrnn.ops.elementwise.operators import Elementwise, define


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _softsign(x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x)))


define("Sqrt", ("X",), np.sqrt, "square_root({0})")
define("Reciprocal", ("X",), np.reciprocal, "(splat(1.0) / {0})")
define("Floor", ("X",), np.floor, "floor({0})")
define("Ceil", ("X",), np.ceil, "(-floor(-{0}))")
define("Round", ("X",), np.rint, "round_even({0})")
define("Exp", ("input",), np.exp, "exp({0})")
define("Log", ("input",), np.log, "log({0})")
define("Erf", ("input",), np.vectorize(math.erf, otypes=[float]), "erf({0})")
define("Sigmoid", ("X",), _sigmoid, "sigmoid({0})")
define("Tanh", ("input",), np.tanh, "tanh({0})")
define("Relu", ("X",), lambda x: np.where(x < 0, np.zeros_like(x), x), "select(less({0}, splat(0.0)), splat(0.0), {0})")
define("Softplus", ("X",), lambda x: np.logaddexp(x, 0.0), "softplus({0})")
define("Softsign", ("input",), _softsign, "softsign({0})")
define(
    "LeakyRelu",
    ("X",),
    lambda x, alpha: np.where(x < 0, alpha * x, x),
    "select(less({0}, splat(0.0)), {alpha} * {0}, {0})",
    attributes={"alpha": 0.01},
)
define("Elu", ("X",), lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x), "elu({0}, {alpha})", attributes={"alpha": 1.0})
define(
    "HardSwish",
    ("X",),
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    f"({{0}} * at_most(at_least(fma({{0}}, {literal(1 / 6)}, splat(0.5)), splat(0.0)), splat(1.0)))",
)
define(
    "Selu",
    ("X",),
    lambda x, alpha, gamma: gamma * np.where(x < 0, alpha * np.expm1(x), x),
    "({gamma} * elu({0}, {alpha}))",
    attributes={"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
)
define(
    "HardSigmoid",
    ("X",),
    lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "at_most(at_least({alpha} * {0} + {beta}, splat(0.0)), splat(1.0))",
    attributes={"alpha": 0.2, "beta": 0.5},
)
define(
    "ThresholdedRelu",
    ("X",),
    lambda x, alpha: np.where(x > alpha, x, 0.0),
    "select(less({alpha}, {0}), {0}, splat(0.0))",
    attributes={"alpha": 1.0},
)
define("Mish", ("X",), lambda x: x * np.tanh(np.logaddexp(x, 0.0)), "({0} * tanh(softplus({0})))")
define("Swish", ("X",), lambda x, alpha: x * _sigmoid(alpha * x), "({0} * sigmoid({alpha} * {0}))", attributes={"alpha": 1.0})
define(
    "Celu",
    ("X",),
    lambda x, alpha: np.where(x < 0, alpha * np.expm1(x / alpha), x),
    "select(less({0}, splat(0.0)), elu({0} / {alpha}, {alpha}), {0})",
    attributes={"alpha": 1.0},
)
define(
    "Shrink",
    ("input",),
    lambda x, bias, lambd: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0)),
    "select(less({0}, -{lambd}), {0} + {bias}, select(less({lambd}, {0}), {0} - {bias}, splat(0.0)))",
    attributes={"bias": 0.0, "lambd": 0.5},
)
define("PRelu", ("X", "slope"), lambda x, s: np.where(x < 0, s * x, x), "select(less({0}, splat(0.0)), {1} * {0}, {0})")


@register
class Gelu(Elementwise):
    """ONNX Gelu, exact or with approximate="tanh"."""

    name = "Gelu"
    attributes = {"approximate": "none"}

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if self.attribute(node, "approximate") not in ("none", "tanh"):
            raise Refused(f"approximate={self.attribute(node, 'approximate')!r}; supported are 'none' and 'tanh'")

    def evaluate(self, node: Node, arrays: Sequence[Array]) -> Array:
        x = arrays[0]
        if self.attribute(node, "approximate") == "tanh":
            return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
        return np.asarray(0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))))

    def expression(self, node: Node, operands: Sequence[str]) -> str:
        x = operands[0]
        if self.attribute(node, "approximate") == "tanh":
            inside = f"{literal(math.sqrt(2 / math.pi))} * fma({literal(0.044715)} * {x}, {x} * {x}, {x})"
            return f"(splat(0.5) * {x} * (splat(1.0) + tanh({inside})))"
        return f"(splat(0.5) * {x} * (splat(1.0) + erf({x} * {literal(math.sqrt(0.5))})))"
