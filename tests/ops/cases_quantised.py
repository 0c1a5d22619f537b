"""Test cases of the operators between integers with scales and floating numbers: per tensor, per axis and in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.ops.op_case import OpCase, case, k, w


def quantised() -> Iterator[OpCase]:
    rng = np.random.default_rng(3)
    for dtype, opset in (("int8", 13), ("uint8", 13), ("int16", 21), ("uint16", 21)):
        x, scale = rng.integers(0, 120, (4, 6)), rng.uniform(0.01, 0.2, 6).astype(np.float32)
        zeros = rng.integers(0, 9, 6)
        zero = k(3, dtype)
        yield case(f"DequantizeLinear {dtype}", k(x, dtype), k(0.05, "float32"), zero, opset=opset)
        yield case(f"DequantizeLinear {dtype} axis", k(x, dtype), k(scale, "float32"), k(zeros, dtype), opset=opset, axis=-1)
        yield case(f"QuantizeLinear {dtype}", w(4, 6), k(0.05, "float32"), zero, opset=opset)
        yield case(f"QuantizeLinear {dtype} axis", w(4, 6), k(scale, "float32"), k(zeros, dtype), opset=opset, axis=1)
    x32 = rng.integers(-(10**6), 10**6, (3, 5))
    yield case("DequantizeLinear int32", k(x32, "int32"), k([0.01, 0.02, 0.5], "float32"), opset=13, axis=0)
    x, scale, zeros = rng.integers(-99, 99, (3, 8)), rng.uniform(0.01, 0.2, (3, 2)), rng.integers(-5, 5, (3, 2))
    yield case("DequantizeLinear blocks", k(x, "int8"), k(scale, "float32"), k(zeros, "int8"), opset=21, axis=1, block_size=4)
    yield case("DequantizeLinear no zero", k(x, "int8"), k(0.25, "float32"), opset=10)
