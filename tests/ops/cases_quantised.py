"""Test cases of the operators between integers with scales and floating numbers: per tensor, per axis and in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.op_case import MICROSOFT, Input, OpCase, case, f, k, v, w, x

RNG = np.random.default_rng(5)


def i(*shape: int, dtype: str = "uint8", constant: bool = False) -> Input:
    """Random integers of the whole range of a type."""
    bounds = np.iinfo(dtype)
    return (
        k(RNG.integers(bounds.min, bounds.max + 1, shape), dtype)
        if constant
        else x(*shape, dtype=dtype, low=bounds.min, high=bounds.max)
    )


def s(*shape: int, low: float = 0.004, high: float = 0.03) -> Input:
    """Random scales."""
    return f(RNG.uniform(low, high, shape).astype(np.float32))


def quantised() -> Iterator[OpCase]:
    yield from _known()
    yield from _at_run_time()
    yield from _matrices()
    yield from _convolutions()
    yield from _elementwise()
    yield from _pools()
    yield from _few_bits()


def _known() -> Iterator[OpCase]:
    rng = np.random.default_rng(3)
    for dtype, opset in (("int8", 13), ("uint8", 13), ("int16", 21), ("uint16", 21)):
        numbers, scale = rng.integers(0, 120, (4, 6)), rng.uniform(0.01, 0.2, 6).astype(np.float32)
        zeros = rng.integers(0, 9, 6)
        zero = k(3, dtype)
        yield case(f"DequantizeLinear {dtype}", k(numbers, dtype), k(0.05, "float32"), zero, opset=opset)
        axis: dict[str, Any] = {"opset": opset, "axis": -1}
        yield case(f"DequantizeLinear {dtype} axis", k(numbers, dtype), k(scale, "float32"), k(zeros, dtype), **axis)
        yield case(f"QuantizeLinear {dtype}", w(4, 6), k(0.05, "float32"), zero, opset=opset)
        yield case(f"QuantizeLinear {dtype} axis", w(4, 6), k(scale, "float32"), k(zeros, dtype), opset=opset, axis=1)
    x32 = rng.integers(-(10**6), 10**6, (3, 5))
    yield case("DequantizeLinear int32", k(x32, "int32"), k([0.01, 0.02, 0.5], "float32"), opset=13, axis=0)
    numbers, scale, zeros = rng.integers(-99, 99, (3, 8)), rng.uniform(0.01, 0.2, (3, 2)), rng.integers(-5, 5, (3, 2))
    blocks: dict[str, Any] = {"opset": 21, "axis": 1, "block_size": 4}
    yield case("DequantizeLinear blocks", k(numbers, "int8"), k(scale, "float32"), k(zeros, "int8"), **blocks)
    yield case("DequantizeLinear no zero", k(numbers, "int8"), k(0.25, "float32"), opset=10)


def _at_run_time() -> Iterator[OpCase]:
    halves = v([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5, 300.0, -300.0, 0.0, -0.0])
    for domain in ("", MICROSOFT):
        tag = f" {domain}" if domain else ""
        for dtype, zero in (("int8", -3), ("uint8", 131), ("int16", -300), ("uint16", 4000)):
            opset = 21 if dtype.endswith("16") and not domain else 13
            yield case(f"QuantizeLinear run time {dtype}{tag}", x(3, 17), f(0.0173), k(zero, dtype), opset=opset, domain=domain)
            named: dict[str, Any] = {"opset": opset, "domain": domain}
            yield case(f"DequantizeLinear run time {dtype}{tag}", i(3, 17, dtype=dtype), f(0.03), k(zero, dtype), **named)
        zeros = k([3, 0, -7, 1, 2], "int8")
        yield case(f"QuantizeLinear run time axis{tag}", x(2, 5, 3), s(5), zeros, opset=13, axis=1, domain=domain)
        yield case(f"DequantizeLinear run time axis{tag}", i(2, 5, 3, dtype="int8"), s(5), zeros, axis=-2, domain=domain)
    yield case("QuantizeLinear halves", halves, f(1.0), k(1, "int8"), opset=13)
    yield case("QuantizeLinear far out", v([np.nan, np.inf, -np.inf, 1e30, -1e30, 1.0]), f(0.5), k(3, "uint8"), opset=13)
    yield case("QuantizeLinear no zero", x(2, 9), f(0.01), opset=10)
    scale, zeros = RNG.uniform(0.01, 0.2, (3, 2)), RNG.integers(-5, 5, (3, 2))
    blocks: dict[str, Any] = {"opset": 21, "axis": 1, "block_size": 4}
    yield case("QuantizeLinear run time blocks", x(3, 8), f(scale), k(zeros, "int8"), **blocks)
    yield case("DequantizeLinear run time blocks", i(3, 8, dtype="int8"), f(scale), k(zeros, "int8"), **blocks)
    yield case("DequantizeLinear run time int32", v([[-9000000, 7], [5, 12345678]], "int32"), f(0.001), opset=13)
    yield case("DynamicQuantizeLinear", x(3, 17), outputs=3)
    yield case("DynamicQuantizeLinear positive", x(2, 9, low=0.5, high=2), outputs=3)
    yield case("DynamicQuantizeLinear negative", x(7, low=-2, high=-0.5), outputs=3)
    yield case("DynamicQuantizeLinear zeros", v([[0.0, 0.0, -0.0]]), outputs=3)


def _matrices() -> Iterator[OpCase]:
    for a, b in (("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")):
        yield case(f"MatMulInteger {a} {b}", i(3, 17, dtype=a), i(17, 21, dtype=b, constant=True), k(9, a), k(5, b))
    yield case("MatMulInteger no zeros", i(2, 3, 8), i(8, 5, dtype="int8", constant=True))
    yield case("MatMulInteger columns", i(2, 8), i(8, 5, constant=True), None, i(5, constant=True))
    yield case("MatMulInteger long", i(3, 3000), i(3000, 5, dtype="int8", constant=True), k(100, "uint8"), k(0, "int8"))
    yield case("MatMulInteger very long", v(np.full((1, 20000), 255), "uint8"), k(np.full((20000, 2), -128), "int8"))
    yield case("MatMulInteger run time", i(2, 3, 8), i(2, 8, 4), k(3, "uint8"), k(200, "uint8"))
    yield case("MatMulInteger run time long", i(2, 700), i(700, 3), k(3, "uint8"), k(200, "uint8"))
    for a, b in (("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")):
        left, right = (i(3, 17, dtype=a), s(), k(9, a)), (i(17, 21, dtype=b, constant=True), s(), k(5, b))
        yield case(f"QLinearMatMul {a} {b}", *left, *right, f(0.4), k(7, a), opset=13)
    columns = (i(17, 5, dtype="int8", constant=True), s(5), k(np.zeros(5), "int8"))
    yield case("QLinearMatMul columns", i(3, 17), s(), k(9, "uint8"), *columns, f(0.3), k(128, "uint8"), opset=13)
    left, right = (i(2, 3, 40), s(), k(9, "uint8")), (i(2, 40, 5), s(), k(5, "uint8"))
    yield case("QLinearMatMul run time", *left, *right, f(0.9), k(100, "uint8"), opset=13)
    for y in ("uint8", "float32"):
        end = (f(0.3), k(100, "uint8")) if y == "uint8" else ()
        c = k(RNG.integers(-9000, 9000, 21), "int32")
        a, b = (i(3, 17), s(), k(9, "uint8")), (i(21, 17, dtype="int8", constant=True), s(21), k(np.zeros(21), "int8"))
        yield case(f"QGemm {y}", *a, *b, c, *end, domain=MICROSOFT, transB=1, alpha=0.7)
    b = (i(17, 4, dtype="int8", constant=True), s(), k(3, "int8"))
    yield case("QGemm transA", i(17, 3), s(), k(9, "uint8"), *b, None, f(0.3), k(1, "uint8"), domain=MICROSOFT, transA=1)
    b, zero, bias = i(17, 5, dtype="int8", constant=True), k(2, "int8"), f(RNG.standard_normal(5))
    yield case("MatMulIntegerToFloat", i(3, 17), b, s(), s(), k(8, "uint8"), zero, bias, domain=MICROSOFT)
    yield case("MatMulIntegerToFloat columns", i(3, 17), b, s(), s(5), None, None, domain=MICROSOFT)
    yield case("DynamicQuantizeMatMul", x(3, 17), b, s(), zero, bias, domain=MICROSOFT)
    yield case("DynamicQuantizeMatMul columns", x(2, 3, 17), b, s(5), domain=MICROSOFT)


def _convolutions() -> Iterator[OpCase]:
    pads: dict[str, Any] = {"pads": [1, 2, 1, 0], "strides": [1, 2]}
    weights = i(6, 3, 3, 2, constant=True)
    yield case("ConvInteger", i(2, 3, 7, 8), weights, k(30, "uint8"), k(128, "uint8"), **pads)
    yield case("ConvInteger int8", i(1, 4, 9, dtype="uint8"), i(6, 2, 3, dtype="int8", constant=True), group=2)
    for dtype in ("uint8", "int8"):
        start = (i(2, 3, 7, 8, dtype=dtype), s(), k(5, dtype))
        yield case(
            f"QLinearConv {dtype}",
            *start,
            i(6, 3, 3, 2, dtype="int8", constant=True),
            s(),
            k(0, "int8"),
            f(0.2),
            k(9, dtype),
            **pads,
        )
    bias = k(RNG.integers(-9000, 9000, 6), "int32")
    channels = (i(6, 3, 3, 2, dtype="int8", constant=True), s(6), k(np.zeros(6), "int8"))
    start, end = (i(1, 3, 7, 8), s(), k(120, "uint8")), (f(0.2), k(100, "uint8"))
    yield case("QLinearConv channels", *start, *channels, *end, bias, auto_pad="SAME_UPPER")
    far = k(RNG.integers(-(2**28), 2**28, 6), "int32")
    yield case("QLinearConv large bias", *start, *channels, f(20000.0), k(100, "uint8"), far)
    wide = (i(4, 300, 3, dtype="int8", constant=True), s(), k(0, "int8"))
    yield case("QLinearConv many channels", i(1, 300, 7), s(), k(120, "uint8"), *wide, f(2.0), k(100, "uint8"))
    depthwise = (i(5, 1, 3, dtype="int8", constant=True), s(5), k(np.zeros(5), "int8"))
    yield case(
        "QLinearConv depthwise", i(1, 5, 11), s(), k(1, "uint8"), *depthwise, f(0.05), k(3, "uint8"), group=5, dilations=[2]
    )


def _elementwise() -> Iterator[OpCase]:
    for dtype in ("uint8", "int8"):
        for op in ("QLinearAdd", "QLinearMul"):
            a, b = (i(3, 17, dtype=dtype), s(), k(7, dtype)), (i(17, dtype=dtype), s(), k(90, dtype))
            yield case(f"{op} {dtype}", *a, *b, f(0.05), k(21, dtype), domain=MICROSOFT)
            b = (i(3, 17, dtype=dtype, constant=True), s(), k(0, dtype))
            yield case(f"{op} {dtype} constant", *a, *b, f(0.05), k(4, dtype), domain=MICROSOFT)
        start = (i(3, 17, dtype=dtype), f(0.05), k(7, dtype))
        yield case(f"QLinearSigmoid {dtype}", *start, f(1 / 256), k(0 if dtype == "uint8" else -128, dtype), domain=MICROSOFT)
        yield case(f"QLinearLeakyRelu {dtype}", *start, f(0.04), k(30, dtype), domain=MICROSOFT, alpha=0.2)
        parts = (*start, i(3, 5, dtype=dtype), f(0.02), k(70, dtype))
        yield case(f"QLinearConcat {dtype}", f(0.05), k(7, dtype), *parts, domain=MICROSOFT, axis=1)
        start = (v([[True], [False], [True]], "bool"), *start)
        yield case(
            f"QLinearWhere {dtype}", *start, i(3, 17, dtype=dtype), f(0.02), k(70, dtype), f(0.05), k(3, dtype), domain=MICROSOFT
        )
    start, end = (i(2, 9), f(0.02), k(7, "uint8")), (f(1 / 256), k(0, "uint8"))
    yield OpCase("QLinearSoftmax", "QLinearSoftmax", (*start, *end), {"axis": -1, "opset": 13}, domain=MICROSOFT)


def _pools() -> Iterator[OpCase]:
    for dtype in ("uint8", "int8"):
        start, end = (i(2, 3, 7, 9, dtype=dtype), f(0.03), k(9, dtype)), (f(0.004), k(11, dtype))
        yield case(f"QLinearGlobalAveragePool {dtype}", *start, *end, domain=MICROSOFT)
        window: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}
        yield case(f"QLinearAveragePool {dtype}", *start, *end, domain=MICROSOFT, **window)


def _few_bits() -> Iterator[OpCase]:
    for bits, block, inner in ((4, 16, 40), (4, 32, 32), (8, 32, 70)):
        blocks, columns = -(-inner // block), 5
        packed = k(RNG.integers(0, 256, (columns, blocks, block * bits // 8)), "uint8")
        sizes: dict[str, Any] = {"K": inner, "N": columns, "bits": bits, "block_size": block, "domain": MICROSOFT}
        yield case(f"MatMulNBits {bits} {block}", x(3, inner), packed, s(columns, blocks), **sizes)
        zeros = k(RNG.integers(0, 256, columns * -(-blocks * bits // 8)), "uint8")
        yield case(f"MatMulNBits {bits} {block} zeros", x(2, 3, inner), packed, s(columns, blocks), zeros, **sizes)
    bias = f(RNG.standard_normal(5))
    yield case(
        "MatMulNBits bias",
        x(3, 40),
        k(RNG.integers(0, 256, (5, 3, 8)), "uint8"),
        s(5, 3),
        None,
        None,
        bias,
        K=40,
        N=5,
        bits=4,
        block_size=16,
        domain=MICROSOFT,
    )
