"""The words of `lanes` for Numba on a processor: one Vec is one LLVM vector.

`install(lanes)` teaches Numba the words, once per process; LANES = 1 gives plain scalars.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import register_jitable

from tinyrnn import lanes as words
from tinyrnn.lanes.chains import CHAINS, chain12, chain12_f16
from tinyrnn.lanes.dots import DOTS, Dot
from tinyrnn.lanes.integers import dots4
from tinyrnn.lanes.llvm_integers import install_integers
from tinyrnn.lanes.llvm_types import (
    BFLOAT16,
    ELEMENT_ALIGNMENT,
    ELEMENTS,
    F16,
    F32,
    I16,
    I32,
    I64,
    NARROW,
    Lowering,
    MaskType,
    PointerType,
    VecType,
    advance,
    constant,
    define,
    element_of,
    in_all_lanes,
    wide_type,
)
from tinyrnn.lanes.pipeline import Pipeline

TAUGHT: set[Callable[..., Any]] = set()
"""functions that compiled code can call"""
MACHINE_CODE = (chain12, chain12_f16)
"""kernels that have machine code of their own on some machines"""


def _intrinsic(builder: ir.IRBuilder, name: str, lanes: int, args: list[ir.Value]) -> ir.Value:
    wide = wide_type(F32, lanes)
    suffix = "f32" if lanes == 1 else f"v{lanes}f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(wide, [a.type for a in args]), f"llvm.{name}.{suffix}"
    )
    return builder.call(function, args)


def _widened(b: ir.IRBuilder, value: ir.Value, pointer: PointerType, lanes: int) -> ir.Value:
    """The float32 with the values of elements."""
    wide = wide_type(F32, lanes)
    if pointer.element == types.float32:
        return value
    if pointer.element == types.float16:
        return b.fpext(value, wide)
    if pointer.element == BFLOAT16:
        return b.bitcast(b.shl(b.zext(value, wide_type(I32, lanes)), constant(I32, 16, lanes)), wide)
    return b.sitofp(b.sext(value, wide_type(I32, lanes)), wide)


def _install_pointers(store_one: Lowering | None = None) -> None:
    """store_one: what lowers `put`, where it is more than a store."""
    for word, (kind, _) in ELEMENTS.items():

        def make(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
            return b.inttoptr(args[0], cx.get_value_type(sig.return_type))

        define(word, PointerType(kind), [types.Integer], make)

    def at(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return advance(b, args)

    def get(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        pointer = sig.args[0]
        value = b.load(advance(b, args), align=ELEMENT_ALIGNMENT[element_of(pointer)])
        return _widened(b, value, pointer, 1) if pointer.element in NARROW else value

    def put(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        value = cx.cast(b, args[2], sig.args[2], sig.args[0].element)
        b.store(value, advance(b, args), align=ELEMENT_ALIGNMENT[element_of(sig.args[0])])
        return cx.get_dummy_value()

    def invoke(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return b.call(b.inttoptr(args[0], ir.FunctionType(I64, [I64] * len(args[1:])).as_pointer()), args[1:])

    define(words.invoke, types.int64, [types.Integer] * 2, invoke)
    define(words.invoke2, types.int64, [types.Integer] * 3, invoke)
    define(words.at, lambda p, i: p, [PointerType, types.Integer], at)
    define(words.get, lambda p, i: types.float32 if p.element in NARROW else p.element, [PointerType, types.Integer], get)
    define(words.put, types.void, [PointerType, types.Integer, types.Any], store_one or put)


def _install_memory(n: int, vec: VecType) -> None:
    wide = wide_type(F32, n)

    def load(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        element = element_of(sig.args[0])
        value = b.load(advance(b, args, wide_type(element, n)), align=ELEMENT_ALIGNMENT[element])
        return _widened(b, value, sig.args[0], n)

    def store(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        b.store(args[2], advance(b, args, wide), align=4)
        return cx.get_dummy_value()

    def mask(b: ir.IRBuilder, count: ir.Value) -> ir.Value:
        bits = count.type
        ramp = ir.Constant(bits, 0) if n == 1 else ir.Constant(ir.VectorType(bits, n), list(range(n)))
        return b.icmp_signed("<", ramp, in_all_lanes(b, count, n))

    def masked(b: ir.IRBuilder, word: str, result: ir.Type, kinds: list[ir.Type], args: list[ir.Value]) -> ir.Value:
        function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, kinds), f"llvm.masked.{word}.p0")
        return b.call(function, args)

    def load_part(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        element = element_of(sig.args[0])
        unit = I16 if element == F16 else element  # few machines have masked loads of halves
        held, alignment = mask(b, args[2]), ELEMENT_ALIGNMENT[element]
        address, zero = advance(b, args, wide_type(unit, n)), constant(unit, 0.0 if unit == F32 else 0, n)
        if n == 1:
            slot = cgutils.alloca_once_value(b, zero)
            with b.if_then(held):
                b.store(b.load(address, align=alignment), slot)
            value = b.load(slot)
        else:
            kinds = [address.type, I32, held.type, zero.type]
            word = f"load.v{n}{'f32' if unit == F32 else unit}"
            value = masked(b, word, zero.type, kinds, [address, ir.Constant(I32, alignment), held, zero])
        return _widened(b, b.bitcast(value, wide_type(element, n)) if element == F16 else value, sig.args[0], n)

    def store_part(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        address = advance(b, args, wide)
        held = mask(b, args[3])
        if n == 1:
            with b.if_then(held):
                b.store(args[2], address, align=4)
        else:
            masked(
                b,
                f"store.v{n}f32",
                ir.VoidType(),
                [wide, address.type, I32, held.type],
                [args[2], address, ir.Constant(I32, 4), held],
            )
        return cx.get_dummy_value()

    define(words.load, vec, [PointerType, types.Integer], load)
    define(words.store, types.void, [PointerType, types.Integer, VecType], store)
    define(words.load_part, vec, [PointerType, types.Integer, types.Integer], load_part)
    define(words.store_part, types.void, [PointerType, types.Integer, VecType, types.Integer], store_part)


def _install_arithmetic(n: int, vec: VecType, mask: MaskType, lanes: int = 0) -> None:
    """lanes: what the word of that name says, where it is not n."""
    ints, ones = wide_type(I32, n), wide_type(F32, n)

    def call(name: str) -> Lowering:
        return lambda cx, b, sig, args: _intrinsic(b, name, n, args)

    for word, name, arity in (
        (words.fma, "fma", 3),
        (words.absolute, "fabs", 1),
        (words.square_root, "sqrt", 1),
        (words.round_even, "rint", 1),
        (words.floor, "floor", 1),
        (words.truncate, "trunc", 1),
        (words.copy_sign, "copysign", 2),
    ):
        define(word, vec, [VecType] * arity, call(name))

    for word, relation in ((words.minimum, "<"), (words.maximum, ">")):

        def extreme(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value], relation: str = relation) -> ir.Value:
            chosen = b.select(b.fcmp_ordered(relation, args[1], args[0]), args[1], args[0])  # of two zeros the first
            return b.select(b.fcmp_unordered("uno", args[0], args[0]), args[1], chosen)

        define(word, vec, [VecType, VecType], extreme)

    for comparison, relation in ((words.less, "<"), (words.less_equal, "<="), (words.equal, "==")):

        def compare(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value], relation: str = relation) -> ir.Value:
            return b.fcmp_ordered(relation, *args)

        define(comparison, mask, [VecType, VecType], compare)

    def splat(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return in_all_lanes(b, cx.cast(b, args[0], sig.args[0], types.float32), n)

    def select(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return b.select(*args)

    def scale2(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        biased = b.add(b.fptosi(args[1], ints), constant(I32, 127, n))
        return b.fmul(args[0], b.bitcast(b.shl(biased, constant(I32, 23, n)), ones))

    def exponent(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        field = b.and_(b.lshr(b.bitcast(args[0], ints), constant(I32, 23, n)), constant(I32, 255, n))
        return b.sitofp(b.sub(field, constant(I32, 127, n)), ones)

    def mantissa(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        fraction = b.and_(b.bitcast(args[0], ints), constant(I32, 0x7FFFFF, n))
        return b.bitcast(b.or_(fraction, constant(I32, 0x3F800000, n)), ones)

    define(words.splat, vec, [types.Number], splat)
    define(words.select, vec, [MaskType, VecType, VecType], select)
    define(words.scale2, vec, [VecType, VecType], scale2)
    define(words.exponent, vec, [VecType], exponent)
    define(words.mantissa, vec, [VecType], mantissa)
    define(words.lanes, types.intp, [], lambda cx, b, sig, args: ir.Constant(cx.get_value_type(types.intp), lanes or n))

    for function, name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):

        def arithmetic(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value], name: str = name) -> ir.Value:
            return getattr(b, name)(*args)

        _operator(function, vec, 2)
        lower_builtin(function, VecType, VecType)(arithmetic)
    _operator(operator.neg, vec, 1)
    lower_builtin(operator.neg, VecType)(lambda cx, b, sig, args: b.fneg(args[0]))


def _install_chain12(vec: VecType) -> None:
    result = types.UniTuple(vec, CHAINS)
    for chain in MACHINE_CODE:

        def call(cx: Any, b: ir.IRBuilder, sig: Any, args: list[ir.Value], name: str = f"tinyrnn_{chain.__name__}") -> ir.Value:
            kind = ir.FunctionType(ir.LiteralStructType([F32] * CHAINS), [a.type for a in args])
            made = b.call(cgutils.get_or_insert_function(b.module, kind, name), args)
            return cx.make_tuple(b, sig.return_type, [b.extract_value(made, k) for k in range(CHAINS)])

        define(chain, result, [PointerType, PointerType, types.Integer, *[VecType] * CHAINS], call)


def _operator(function: Callable[..., Any], vec: VecType, arity: int) -> None:
    class Template(AbstractTemplate):
        key = function

        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
            if len(args) == arity and all(isinstance(a, VecType) for a in args):
                return signature(vec, *args)
            return None

    infer_global(function)(Template)


@cache
def install(lanes: int, chains: bool = False, dot: Dot = DOTS["single"], architecture: str = "") -> None:
    """Define the words for vectors of `lanes` float32, and all registered kernels, for Numba. Once per process.

    With `chains`, those in `MACHINE_CODE` are external functions that the machine's arithmetic defines.
    """
    if install.cache_info().currsize:
        raise RuntimeError("the words already have a meaning in this process, with another number of lanes")
    vec, mask = VecType("f32", lanes), MaskType("mask", lanes)
    _install_pointers()
    _install_memory(lanes, vec)
    _install_arithmetic(lanes, vec, mask)
    install_integers(lanes, vec, dot, architecture)
    if chains:
        _install_chain12(vec)
        TAUGHT.update((*MACHINE_CODE, dots4))
    teach(words.KERNELS)


@lower_cast(VecType, VecType)
def _same(cx: Any, b: ir.IRBuilder, fromty: Any, toty: Any, value: ir.Value) -> ir.Value:
    return value


def teach(functions: Iterable[Callable[..., Any]]) -> None:
    """Let compiled code call these plain functions, which are compiled too."""
    for function in functions:
        if function not in TAUGHT:
            TAUGHT.add(function)
            register_jitable(pipeline_class=Pipeline)(function)
