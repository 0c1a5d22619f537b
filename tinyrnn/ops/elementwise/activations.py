"""The activation functions of ONNX's recurrent operators, as one table.

RNN, GRU and LSTM choose their nonlinearities by name (attribute `activations`) and scale some of them with
`activation_alpha` and `activation_beta`. `ACTIVATIONS` holds every function the specification lists, with the
values it takes where the file gives none; `bind_activations` pairs the names of a node with its parameters.

Source: the operator documents of RNN, GRU and LSTM (opsets 7 to 22 say the same).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Activation:
    """One activation function of the specification.

    `alpha` and `beta` are the defaults, None where the function does not take the parameter. `reference` is
    the function in float64, elementwise, called as `reference(x, alpha, beta)`; parameters not taken are
    ignored.
    """

    name: str
    reference: Callable[[Array, float, float], Array]
    words: str
    alpha: float | None = None
    beta: float | None = None

    @property
    def parameters(self) -> int:
        """How many parameters the function takes: 0, 1 (alpha) or 2 (alpha and beta)."""
        return (self.alpha is not None) + (self.beta is not None)


@dataclass(frozen=True)
class BoundActivation:
    """An activation with its parameters filled in; parameters not taken are 0."""

    activation: Activation
    alpha: float
    beta: float

    def __call__(self, x: Array) -> Array:
        return self.activation.reference(x, self.alpha, self.beta)


def _relu(x: Array, alpha: float, beta: float) -> Array:
    """max(0, x)"""
    return np.maximum(0.0, x)


def _tanh(x: Array, alpha: float, beta: float) -> Array:
    """(1 - e^{-2x}) / (1 + e^{-2x})"""
    return np.tanh(x)


def _sigmoid(x: Array, alpha: float, beta: float) -> Array:
    """1 / (1 + e^{-x}), written with e^{-|x|} so that nothing overflows"""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0.0, 1.0, e) / (1.0 + e)


def _affine(x: Array, alpha: float, beta: float) -> Array:
    """alpha * x + beta"""
    return alpha * x + beta


def _leaky_relu(x: Array, alpha: float, beta: float) -> Array:
    """x if x >= 0 else alpha * x"""
    return np.where(x >= 0.0, x, alpha * x)


def _thresholded_relu(x: Array, alpha: float, beta: float) -> Array:
    """x if x >= alpha else 0 (NaN stays NaN)"""
    return np.where(x < alpha, 0.0, x)


def _scaled_tanh(x: Array, alpha: float, beta: float) -> Array:
    """alpha * Tanh(beta * x)"""
    return alpha * np.tanh(beta * x)


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    """min(max(alpha * x + beta, 0), 1)"""
    return np.minimum(np.maximum(alpha * x + beta, 0.0), 1.0)


def _elu(x: Array, alpha: float, beta: float) -> Array:
    """x if x >= 0 else alpha * (e^x - 1)"""
    return np.where(x >= 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _softsign(x: Array, alpha: float, beta: float) -> Array:
    """x / (1 + |x|)"""
    return x / (1.0 + np.abs(x))


def _softplus(x: Array, alpha: float, beta: float) -> Array:
    """log(1 + e^x), written with e^{-|x|} so that nothing overflows"""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


ACTIVATIONS: dict[str, Activation] = {
    activation.name.lower(): activation
    for activation in (
        Activation("Relu", _relu, "select(less({x}, splat(0.0)), splat(0.0), {x})"),
        Activation("Tanh", _tanh, "tanh({x})"),
        Activation("Sigmoid", _sigmoid, "sigmoid({x})"),
        Activation("Affine", _affine, "fma({alpha}, {x}, {beta})", alpha=0.0, beta=0.0),
        Activation("LeakyRelu", _leaky_relu, "select(less({x}, splat(0.0)), {alpha} * {x}, {x})", alpha=0.01),
        Activation("ThresholdedRelu", _thresholded_relu, "select(less({x}, {alpha}), splat(0.0), {x})", alpha=1.0),
        Activation("ScaledTanh", _scaled_tanh, "({alpha} * tanh({beta} * {x}))", alpha=0.0, beta=0.0),
        Activation(
            "HardSigmoid",
            _hard_sigmoid,
            "at_most(at_least(fma({alpha}, {x}, {beta}), splat(0.0)), splat(1.0))",
            alpha=0.2,
            beta=0.5,
        ),
        Activation("Elu", _elu, "elu({x}, {alpha})", alpha=1.0),
        Activation("Softsign", _softsign, "softsign({x})"),
        Activation("Softplus", _softplus, "softplus({x})"),
    )
}
"""Every activation of the specification, by its name in lower case.

The defaults are those of the ONNX operators of the same name ("Default values are the same as of
corresponding ONNX operators"). Two have no such operator any more, Affine and ScaledTanh: 0 and 0, as
onnxruntime takes them, which makes the function constant 0. Differences from onnxruntime 1.32: it takes alpha
= 0 for a ThresholdedRelu without alpha (the operator ThresholdedRelu says 1), and computes ThresholdedRelu as
x if x > alpha (the recurrent operators say x >= alpha; seen only where x equals alpha, as with clip = alpha).
"""


def bind_activations(
    names: Sequence[str],
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
) -> tuple[BoundActivation, ...]:
    """Pair activation names, in any case, with their parameters.

    The values of `activation_alpha` and of `activation_beta` are consumed in the order of `names` (both
    directions of a bidirectional node, one after the other) by the functions that take them; those that find
    the list empty use their defaults. Values left over are not used. onnxruntime does the same.

    Raises ValueError for a name the specification does not have.
    """
    alphas = iter(activation_alpha or ())
    betas = iter(activation_beta or ())
    bound = []
    for name in names:
        activation = ACTIVATIONS.get(name.lower())
        if activation is None:
            known = ", ".join(a.name for a in ACTIVATIONS.values())
            raise ValueError(f"unknown activation {name!r}; the specification has {known}")
        alpha = 0.0 if activation.alpha is None else float(next(alphas, activation.alpha))
        beta = 0.0 if activation.beta is None else float(next(betas, activation.beta))
        bound.append(BoundActivation(activation, alpha, beta))
    return tuple(bound)
