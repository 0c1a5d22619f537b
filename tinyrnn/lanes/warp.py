"""The words of `lanes` for a warp of a GPU: one Vec is one float32 in each of 32 threads.

Scalars, tests and addresses are the same in all threads of a warp; only a Vec differs from thread to thread. So the number
of the lane enters in `load`, `store` and the partial ones, and in nothing else: all arithmetic is that of LANES = 1. Threads
of a warp need not run in step: a barrier of the warp, which also orders memory, stands on both sides of every store, so that
each thread reads what any thread wrote before it in the program, and nothing that comes later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default

from tinyrnn import lanes as words
from tinyrnn.lanes import llvm
from tinyrnn.lanes.dots import DOTS
from tinyrnn.lanes.llvm_integers import ROUNDER, install_integers
from tinyrnn.lanes.llvm_types import ELEMENT_ALIGNMENT, F32, I8, I32, Lowering, MaskType, PointerType, VecType, define, element_of

LANES = 32
GLOBAL = 1
"""the address space of a device's memory"""
BARRIER = "call void @llvm.nvvm.bar.warp.sync(i32 -1)"
"""LLVM text of the barrier"""
DECLARED = "declare void @llvm.nvvm.bar.warp.sync(i32)"


class _DevicePointer(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: PointerType) -> None:
        super().__init__(dmm, fe_type, ir.PointerType(element_of(fe_type), GLOBAL))


def _call(b: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def _lane(b: ir.IRBuilder, kind: ir.Type) -> ir.Value:
    return b.zext(_call(b, "llvm.nvvm.read.ptx.sreg.tid.x", I32), kind)


def _ordered(b: ir.IRBuilder) -> None:
    _call(b, "llvm.nvvm.bar.warp.sync", ir.VoidType(), ir.Constant(I32, -1))


def _place(b: ir.IRBuilder, args: list[ir.Value]) -> ir.Value:
    """The address of this lane's element of a Vec at element args[1] of pointer args[0]."""
    return b.gep(args[0], [b.add(args[1], _lane(b, args[1].type))])


def _load(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    pointer = sig.args[0]
    value = b.load(_place(b, args), align=ELEMENT_ALIGNMENT[element_of(pointer)])
    return llvm._widened(b, value, pointer, 1)


def _load_part(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    slot = cgutils.alloca_once_value(b, ir.Constant(F32, 0.0))
    with b.if_then(b.icmp_signed("<", _lane(b, args[2].type), args[2])):
        b.store(_load(cx, b, sig, args), slot)
    return b.load(slot)


def _store(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    _ordered(b)
    b.store(args[2], _place(b, args), align=4)
    _ordered(b)
    return cx.get_dummy_value()


def _store_part(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    _ordered(b)
    with b.if_then(b.icmp_signed("<", _lane(b, args[3].type), args[3])):
        b.store(args[2], _place(b, args), align=4)
    _ordered(b)
    return cx.get_dummy_value()


def _put(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    """All threads write the same value to the same place."""
    pointer = sig.args[0]
    value = cx.cast(b, args[2], sig.args[2], pointer.element)
    _ordered(b)
    b.store(value, b.gep(args[0], [args[1]]), align=ELEMENT_ALIGNMENT[element_of(pointer)])
    _ordered(b)
    return cx.get_dummy_value()


def _load_ints(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    return b.load(_place(b, args), align=4)


def _across(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    """The largest of all lanes, of numbers that are not negative: as integers they are in the same order."""
    value = b.bitcast(args[0], I32)
    for step in (16, 8, 4, 2, 1):
        numbers = (ir.Constant(I32, -1), value, ir.Constant(I32, step), ir.Constant(I32, LANES - 1))
        other = _call(b, "llvm.nvvm.shfl.sync.bfly.i32", I32, *numbers)
        value = b.select(b.icmp_signed(">", value, other), value, other)
    return b.bitcast(value, F32)


def _store_int8(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    value = b.trunc(b.bitcast(b.fadd(args[2], ir.Constant(F32, ROUNDER)), I32), I8)
    _ordered(b)
    b.store(value, _place(b, args), align=1)
    _ordered(b)
    return cx.get_dummy_value()


def _dot(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
    """The sum of the products of four activations, the same in all lanes, and four weights of this one."""
    sums, x, k, w, i = args
    four = ir.PointerType(I32, GLOBAL)
    activations = b.load(b.bitcast(b.gep(x, [k]), four), align=4)
    lane = b.mul(_lane(b, i.type), ir.Constant(i.type, 4))
    weights = b.load(b.bitcast(b.gep(w, [b.add(i, lane)]), four), align=4)
    return _call(b, "llvm.nvvm.idp4a.s.s", I32, activations, weights, sums)


_INTEGERS: dict[Callable[..., Any], Lowering] = {
    words.load_ints: _load_ints,
    words.across: _across,
    words.store_int8: _store_int8,
    words.dot: _dot,
}


@cache
def install() -> None:
    """Define the words for a warp, and all registered kernels, for Numba. Once per process, in which no other target compiles."""
    register_default(PointerType)(_DevicePointer)
    vec, mask = VecType("f32", 1), MaskType("mask", 1)
    llvm._install_pointers(_put)
    llvm._install_arithmetic(1, vec, mask, LANES)
    define(words.load, vec, [PointerType, types.Integer], _load)
    define(words.load_part, vec, [PointerType, types.Integer, types.Integer], _load_part)
    define(words.store, types.void, [PointerType, types.Integer, VecType], _store)
    define(words.store_part, types.void, [PointerType, types.Integer, VecType, types.Integer], _store_part)
    install_integers(1, vec, DOTS["quad"], "nvptx64", _INTEGERS)
    llvm.teach(words.KERNELS)
