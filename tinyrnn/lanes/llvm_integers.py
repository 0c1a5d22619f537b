"""The words of `lanes` for integers, for Numba: dot products of int8 by what the machine has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default

from tinyrnn import lanes as words
from tinyrnn.lanes.dots import TOGETHER, Dot
from tinyrnn.lanes.integers import dots4
from tinyrnn.lanes.llvm_types import (
    F32,
    I8,
    I16,
    I32,
    Lanes,
    Lowering,
    PointerType,
    VecType,
    advance,
    constant,
    define,
    in_all_lanes,
    wide_type,
)

ROUNDER = 12582912.0
"""1.5 * 2**23: the low bits of its sum with a number below 2**22 are the nearest integer"""


class IntsType(Lanes):
    pass


@register_default(IntsType)
class _IntsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: IntsType) -> None:
        super().__init__(dmm, fe_type, wide_type(I32, fe_type.lanes))


def install_integers(
    n: int, vec: Any, dot: Dot, architecture: str, own: Mapping[Callable[..., Any], Lowering] | None = None
) -> None:
    """Define the words for vectors of n lanes. own: what lowers some words in the place of what stands here."""
    found = own or {}
    kind = IntsType("i32", n)
    ints, floats = wide_type(I32, n), wide_type(F32, n)
    pointer, number = PointerType, types.Integer

    def number_of(value: int) -> Any:
        return lambda cx, b, sig, args: ir.Constant(cx.get_value_type(types.intp), value)

    define(words.dot_width, types.intp, [], number_of(dot.width))
    define(words.dot_offset, types.intp, [], number_of(dot.offset))

    define(words.zeros, kind, [], lambda cx, b, sig, args: constant(I32, 0, n))
    define(words.plus, kind, [IntsType, IntsType], lambda cx, b, sig, args: b.add(*args))
    define(words.to_float, vec, [IntsType], lambda cx, b, sig, args: b.sitofp(args[0], floats))

    def load_ints(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return b.load(advance(b, args, ints), align=4)

    def times(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return b.mul(args[0], b.fptosi(args[1], ints))

    def larger(b: ir.IRBuilder, a: ir.Value, c: ir.Value) -> ir.Value:
        return b.select(b.icmp_signed(">", a, c), a, c)

    def larger_magnitude(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        held, given = (b.bitcast(a, ints) for a in args)
        return b.bitcast(larger(b, held, b.and_(given, constant(I32, 0x7FFFFFFF, n))), floats)

    def across(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        if n == 1:
            return args[0]
        largest = cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, [ints]), f"llvm.vector.reduce.smax.v{n}i32")
        return b.bitcast(in_all_lanes(b, b.call(largest, [b.bitcast(args[0], ints)]), n), floats)

    define(words.load_ints, kind, [pointer, number], found.get(words.load_ints, load_ints))
    define(words.times, kind, [IntsType, VecType], times)
    define(words.larger_magnitude, vec, [VecType, VecType], larger_magnitude)
    define(words.across, vec, [VecType], found.get(words.across, across))

    def activation(b: ir.IRBuilder, x: ir.Value, k: ir.Value) -> ir.Value:
        """The address of activation k, as a pointer to bytes."""
        if dot.name != "dual":
            return b.gep(x, [b.mul(k, ir.Constant(k.type, dot.bytes))])
        two, half = b.shl(b.and_(k, ir.Constant(k.type, 1)), ir.Constant(k.type, 2)), b.and_(k, ir.Constant(k.type, 2))
        four = b.shl(b.and_(k, ir.Constant(k.type, -4)), ir.Constant(k.type, 1))
        return b.gep(x, [b.add(b.or_(b.or_(four, two), half), ir.Constant(k.type, dot.header))])

    def store_int8(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        element = ir.IntType(8 * dot.bytes)
        shifted = b.fadd(args[2], constant(F32, ROUNDER, n))
        value = b.trunc(b.bitcast(shifted, ints), wide_type(element, n))
        if dot.offset:
            value = b.xor(value, constant(element, dot.offset, n))
        b.store(value, b.bitcast(activation(b, args[0], args[1]), value.type.as_pointer()), align=dot.bytes)
        return cx.get_dummy_value()

    def finish_int8(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        if dot.name == "dual":
            _finish_dual(b, *args)
        return cx.get_dummy_value()

    define(words.store_int8, types.void, [pointer, number, VecType], found.get(words.store_int8, store_int8))
    define(words.finish_int8, types.void, [pointer, number], found.get(words.finish_int8, finish_int8))

    def products(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        sums, x, k, w, i = args
        size = dot.bytes * dot.width
        shared = b.load(b.bitcast(activation(b, x, k), ir.IntType(8 * size).as_pointer()), align=size)
        count = n * dot.width
        weights = b.load(advance(b, [w, i], wide_type(I8, count)), align=count & 15 or 16)
        if dot.name == "single":
            return b.add(sums, b.mul(b.sext(shared, I32), b.sext(weights, I32)))
        spread = b.bitcast(in_all_lanes(b, shared, n), ir.VectorType(ir.IntType(8 * dot.bytes), count))
        return _products(b, dot, architecture, n, sums, spread, weights)

    if dot.name == "dual":
        _install_dual(kind)
    else:
        define(words.dot, kind, [IntsType, pointer, number, pointer, number], found.get(words.dot, products))


def _call(b: ir.IRBuilder, name: str, result: ir.Type, args: list[ir.Value]) -> ir.Value:
    kind = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), args)


def _products(b: ir.IRBuilder, dot: Dot, architecture: str, n: int, sums: ir.Value, x: ir.Value, w: ir.Value) -> ir.Value:
    """sums + in each lane the dot product of x and w, vectors of n · width integers."""
    if dot.name == "unsigned":
        return _call(b, f"llvm.x86.avx512.vpdpbusd.{32 * n}", sums.type, [sums, x, w])
    if dot.name == "signed":
        return _call(b, f"llvm.aarch64.neon.sdot.v{n}i32.v{4 * n}i8", sums.type, [sums, x, w])
    count = 2 * n
    halves = ir.VectorType(I16, count)
    if dot.name == "long":
        made = b.mul(b.sext(x, halves), b.sext(w, halves))
        if architecture.startswith("armv7"):
            return _call(b, f"llvm.arm.neon.vpadals.v{n}i32.v{count}i16", sums.type, [sums, made])
        return b.add(sums, _call(b, f"llvm.aarch64.neon.saddlp.v{n}i32.v{count}i16", sums.type, [made]))
    if architecture == "wasm32":
        return b.add(sums, _call(b, "llvm.wasm.dot", sums.type, [x, b.sext(w, halves)]))
    whole = ir.VectorType(I32, count)
    made = b.mul(b.sext(x, whole), b.sext(w, whole))
    none = ir.Constant(whole, ir.Undefined)
    even, odd = (
        b.shuffle_vector(made, none, ir.Constant(ir.VectorType(I32, n), list(range(first, count, 2)))) for first in (0, 1)
    )
    return b.add(sums, b.add(even, odd))


def _finish_dual(b: ir.IRBuilder, x: ir.Value, n: ir.Value) -> None:
    """Put minus the sum of the products of neighbours, which `dots4` finds too much, before the activations."""
    word = I32.as_pointer()
    total = cgutils.alloca_once_value(b, ir.Constant(I32, 0))
    count = b.lshr(n, ir.Constant(n.type, 2))
    with cgutils.for_range(b, count, intp=n.type) as loop:
        here = b.bitcast(b.gep(x, [b.add(b.shl(loop.index, ir.Constant(n.type, 3)), ir.Constant(n.type, 4))]), word)
        pair = [b.load(b.gep(here, [ir.Constant(I32, j)]), align=4) for j in (0, 1)]
        b.store(_call(b, "llvm.arm.smlad", I32, [*pair, b.load(total)]), total)
    b.store(b.neg(b.load(total)), b.bitcast(x, word), align=4)


def _install_dual(kind: IntsType) -> None:
    def call(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        made = ir.LiteralStructType([F32] * TOGETHER)
        found = _call(b, "tinyrnn_dots4", made, args)
        return cx.make_tuple(b, sig.return_type, [b.bitcast(b.extract_value(found, j), I32) for j in range(TOGETHER)])

    define(dots4, types.UniTuple(kind, TOGETHER), [PointerType] * 2 + [types.Integer] + [PointerType], call)
