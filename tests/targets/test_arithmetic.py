"""Arithmetic that a machine has no instruction for is exact: division of int64, rounding, and fused multiply-add."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrnn.targets.arithmetic import rewritten
from tinyrnn.targets.machine import host

LACKING = replace(host(), fma="exact", lacks=frozenset({"div", "floor", "rint", "trunc"}))
SIGNED = st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9) | st.integers(-(2**33), 2**33)
UNARY, BITS = ("floor", "rint", "trunc"), st.integers(0, 2**32 - 1)
TEXT = "\n".join(
    [f"define i64 @{op}(i64 %a, i64 %b) {{\n  %r = {op} i64 %a, %b\n  ret i64 %r\n}}" for op in ("udiv", "urem", "sdiv", "srem")]
    + [
        f"declare float @llvm.{op}.f32(float)\ndefine float @{op}(float %a) {{\n  %r = call float @llvm.{op}.f32(float %a)\n  ret float %r\n}}"
        for op in UNARY
    ]
    + [
        "declare float @llvm.fma.f32(float, float, float)\ndefine float @fma(float %a, float %b, float %c) {\n  %r = call float @llvm.fma.f32(float %a, float %b, float %c)\n  ret float %r\n}"
    ]
)


@pytest.fixture(scope="module")
def call() -> Iterator[Callable[..., Any]]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    text = rewritten(TEXT, LACKING)
    assert " div i64" not in text and "@llvm.fma" not in text and "@llvm.floor" not in text
    with llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine) as engine:
        engine.finalize_object()

        def function(name: str, *values: Any) -> Any:
            kind = ctypes.c_int64 if name[1:] in ("div", "rem") else ctypes.c_float
            return ctypes.CFUNCTYPE(kind, *[kind] * len(values))(engine.get_function_address(name))(*values)

        yield function


@given(a=SIGNED, b=SIGNED.filter(bool))
def test_division(call: Callable[..., Any], a: int, b: int) -> None:
    mask = 2**64 - 1
    assert call("udiv", a, b) & mask == (a & mask) // (b & mask)
    assert call("urem", a, b) & mask == (a & mask) % (b & mask)
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    assert call("sdiv", a, b) & mask == quotient & mask
    assert call("srem", a, b) & mask == (a - quotient * b) & mask


def _same(a: Any, b: Any) -> bool:
    return (math.isnan(a) and math.isnan(b)) or np.float32(a).tobytes() == np.float32(b).tobytes()


@given(bits=BITS)
def test_rounding(call: Callable[..., Any], bits: int) -> None:
    x = np.uint32(bits).view(np.float32)
    for name in UNARY:
        assert _same(call(name, float(x)), getattr(np, name)(x)), (name, x)


def _rounded(a: np.float32, b: np.float32, c: np.float32) -> float:
    """a * b + c with one rounding: from the exact sum, in whole multiples of its unit in the last place."""
    from fractions import Fraction

    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    exponent = math.floor(math.log2(abs(exact.numerator)) - math.log2(exact.denominator))
    exponent += (abs(exact) >= Fraction(2) ** (exponent + 1)) - (abs(exact) < Fraction(2) ** exponent)
    unit = Fraction(2) ** max(exponent - 23, -149)
    value = float(round(exact / unit) * unit)  # round: ties to even; the product fits float64
    return math.copysign(value if abs(value) < 2.0**128 else math.inf, exact)


@given(bits=st.tuples(BITS, BITS, BITS), close=st.integers(-3, 3), near=st.booleans())
def test_fused_multiply_add(call: Callable[..., Any], bits: tuple[int, int, int], close: int, near: bool) -> None:
    a, b, c = np.array(bits, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        if near:  # sums that cancel, where a second rounding shows
            c = (np.float32(-a * b).view(np.int32) + np.int32(close)).view(np.float32)
    if not np.isfinite([a, b, c]).all():
        return
    assert _same(call("fma", float(a), float(b), float(c)), _rounded(a, b, c)), (a, b, c)


def test_every_half_is_widened_exactly() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    text = """define void @widen(ptr %y, ptr %x) {
  %h = load <8 x half>, ptr %x, align 2
  %f = fpext <8 x half> %h to <8 x float>
  store <8 x float> %f, ptr %y, align 4
  ret void
}
define void @widen_one(ptr %y, ptr %x) {
  %h = load half, ptr %x, align 2
  %f = fpext half %h to float
  store float %f, ptr %y, align 4
  ret void
}"""
    lacking = rewritten(text, replace(host(), lacks=frozenset({"half"})))
    assert "fpext" not in lacking
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    expected = halves.astype(np.float32)
    found, singly = np.empty_like(expected), np.empty_like(expected)
    with llvm.create_mcjit_compiler(llvm.parse_assembly(lacking), machine) as engine:
        engine.finalize_object()
        wide, one = (
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address(name))
            for name in ("widen", "widen_one")
        )
        for i in range(0, 1 << 16, 8):
            wide(found[i:].ctypes.data, halves[i:].ctypes.data)
        for i in range(1 << 16):
            one(singly[i:].ctypes.data, halves[i:].ctypes.data)
    for made in (found, singly):
        numbers = ~np.isnan(expected)
        assert (made.view(np.uint32) == expected.view(np.uint32))[numbers].all() and np.isnan(made[~numbers]).all()
