"""Recurrent layers of int8 weights and activations in NumPy: exact integers, and float32 rounded where the kernels round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.ops.recurrent_cases import GATES
from tinyrnn.ops.recurrent import reference

Floats = NDArray[np.float32]
ALPHA, BETA = 0.125, 0.25
"""of the activations, which are all Affine, so that NumPy computes them exactly"""
F = np.float32


def fma(a: Any, b: Any, c: Any) -> Floats:
    """a b + c in float32 with one rounding: the product is exact in extended precision, the sum nearly always."""
    made: Floats = (np.asarray(a, np.longdouble) * b + c).astype(F)
    return made


def weights(rows: NDArray[Any]) -> tuple[NDArray[np.int64], Floats]:
    """Rows as int8 with one scale each."""
    scale = (np.abs(rows.astype(np.float64)).max(1) / 127).astype(F)
    scale[scale < 2.0**-100] = 1
    return np.rint(rows / scale[:, None].astype(np.float64)).astype(np.int64), scale


def symmetric(x: Floats) -> tuple[NDArray[np.int64], np.float32]:
    """x as integers in [-127, 127] and their scale."""
    largest = np.abs(x).max()
    if largest < 2.0**-100:
        return np.zeros(len(x), np.int64), F(0)
    return np.rint(x * (F(127) / largest)).astype(np.int64), largest / F(127)


def asymmetric(x: Floats) -> tuple[NDArray[np.int64], np.float32]:
    """x as uint8 less their zero point, and their scale, as onnxruntime's DynamicQuantizeLinear."""
    low, high = min(x.min(), F(0)), max(x.max(), F(0))
    scale = (high - low) / F(255) if high > low else F(1)
    zero = np.rint(-low / scale)
    return np.rint(np.clip(x / scale, -zero, 255 - zero)).astype(np.int64), scale


def layer(
    op: str,
    values: Mapping[str, Any],
    attributes: dict[str, Any],
    quantise: Callable[[Floats], Any] = symmetric,
    stored: Any = None,
) -> tuple[NDArray[Any], ...]:
    """Y and the final states. values: the operator's inputs by name; stored: (q, scale) of W and R of each direction, instead."""
    lbr, forget = bool(attributes.pop("linear_before_reset", 0)), bool(attributes.pop("input_forget", 0))
    P, H = values.get("P"), np.shape(values["R"])[-1]

    def f(v: Floats) -> Floats:
        return fma(F(ALPHA), v, F(BETA))

    def cell_of(d: int, gates: Any, functions: Any, clip: Callable[[Any], Any]) -> reference.Cell:
        W, R, B = (np.concatenate(g).astype(F) for g in gates)
        (qW, sW), (qR, sR) = stored[d] if stored else (weights(W), weights(R))
        Wb, Rb = np.split(B, 2)
        bias = Wb + Rb
        if lbr:
            bias[2 * H :] = Wb[2 * H :]

        def products(q: Any, s: Any, v: Any, start: Any) -> Floats:
            x, scale = quantise(np.asarray(v, F))
            return fma((q @ x).astype(F), scale * s, start)

        def cell(Xt: Any, state: Any) -> Any:
            h, p = state[0].astype(F), products(qW, sW, Xt, bias)
            if op == "RNN":
                return (f(clip(products(qR, sR, h, p))),)
            if op == "LSTM":
                c = state[1].astype(F)
                i, o, g, n = products(qR, sR, h, p).reshape(4, H)  # gates i, o, f, c
                pi, po, pf = np.zeros((3, H), F) if P is None else P[d].reshape(3, H)
                i = f(clip(fma(pi, c, i)))
                g = F(1) - i if forget else f(clip(fma(pf, c, g)))
                c = fma(g, c, i * f(clip(n)))
                return f(clip(fma(po, c, o))) * f(c), c
            if lbr:
                start = np.concatenate([p[: 2 * H], Rb[2 * H :]])
                z, r, n = products(qR, sR, h, start).reshape(3, H)
                z, r = f(clip(z)), f(clip(r))
                n = f(clip(fma(r, n, p[2 * H :])))
            else:
                z, r = f(clip(products(qR[: 2 * H], sR[: 2 * H], h, p[: 2 * H]))).reshape(2, H)
                n = f(clip(products(qR[2 * H :], sR[2 * H :], r * h, p[2 * H :])))
            return (fma(z, h - n, n),)

        return cell

    count = {"RNN": 1, "GRU": 2, "LSTM": 3}[op]
    names = ("initial_h", "initial_c") if op == "LSTM" else ("initial_h",)
    given = [values["X"], values["W"], values["R"], values.get("B"), values.get("sequence_lens")]
    scanned = reference._scan(*given, {n: values.get(n) for n in names}, cell_of, GATES[op], ("Affine",) * count, **attributes)
    return scanned[0], *scanned[1]


def expected(model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The outputs of a model of one node with weights of int8x8, all of whose activations are Affine."""
    (node,) = model.graph.node
    arrays = dict(inputs) | {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    for name in ("activations", "activation_alpha", "activation_beta"):
        attributes.pop(name, None)
    names = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    values = {slot: arrays[name] for slot, name in zip(names, node.input, strict=False) if name}
    made = layer(node.op_type, values, attributes)
    return {name: array for name, array in zip(node.output, made, strict=False) if name}
