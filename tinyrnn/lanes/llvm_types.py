"""Numba's types of the kernel language, and what defines its words: typed and lowered to LLVM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models, register_default
from numba.core.imputils import lower_builtin
from numba.extending import type_callable

from tinyrnn import lanes as words

F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
BFLOAT16 = types.Opaque("bfloat16")
NARROW = (types.float16, BFLOAT16)
"""types of elements that are read as float32"""
ELEMENTS = {
    words.f32: (types.float32, F32),
    words.f16: (types.float16, F16),
    words.bf16: (BFLOAT16, I16),
    words.i64: (types.int64, I64),
    words.i32: (types.int32, I32),
    words.u8: (types.uint8, I8),
    words.f64: (types.float64, F64),
    words.i8: (types.int8, I8),
    words.i16: (types.int16, I16),
    words.u16: (types.uint16, I16),
    words.u32: (types.uint32, I32),
    words.u64: (types.uint64, I64),
}
ELEMENT_ALIGNMENT = {F16: 2, F32: 4, F64: 8, I64: 8, I32: 4, I16: 2, I8: 1}


class Lanes(types.Type):
    """Numba's type of a value with LANES elements."""

    def __init__(self, name: str, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(f"{name}x{lanes}")


class VecType(Lanes):
    pass


class MaskType(Lanes):
    pass


class PointerType(types.Type):
    def __init__(self, element: types.Type) -> None:
        self.element = element
        super().__init__(f"pointer_{element}")


def element_of(pointer: PointerType) -> ir.Type:
    return next(llvm for kind, llvm in ELEMENTS.values() if kind == pointer.element)


def wide_type(element: ir.Type, lanes: int) -> ir.Type:
    return element if lanes == 1 else ir.VectorType(element, lanes)


@register_default(VecType)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VecType) -> None:
        super().__init__(dmm, fe_type, wide_type(F32, fe_type.lanes))


@register_default(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: MaskType) -> None:
        super().__init__(dmm, fe_type, wide_type(ir.IntType(1), fe_type.lanes))


@register_default(PointerType)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: PointerType) -> None:
        super().__init__(dmm, fe_type, element_of(fe_type).as_pointer())


def in_all_lanes(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    if lanes == 1:
        return scalar
    wide = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(wide, ir.Undefined), scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(wide, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def constant(element: ir.Type, value: float, lanes: int) -> ir.Constant:
    return ir.Constant(element, value) if lanes == 1 else ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


Lowering = Callable[[Any, ir.IRBuilder, Any, list[ir.Value]], ir.Value]


def define(
    word: Callable[..., Any],
    result: types.Type | Callable[..., types.Type | None],
    arguments: list[type | types.Type],
    lower: Lowering,
) -> None:
    """Type and lower one word. `result` is the type, or a function of the argument types."""
    arity = len(arguments)

    def typer_of(context: Any) -> Callable[..., types.Type | None]:
        def of(*args: types.Type) -> types.Type | None:
            return result if isinstance(result, types.Type) else result(*args)

        names = ", ".join(f"a{i}" for i in range(arity))
        typer: Callable[..., types.Type | None] = eval(f"lambda {names}: of({names})", {"of": of})
        return typer  # written out, as type_callable reads the arity off the signature

    type_callable(word)(typer_of)
    lower_builtin(word, *arguments)(lower)


def advance(builder: ir.IRBuilder, args: list[ir.Value], wide: ir.Type | None = None) -> ir.Value:
    """The address of element args[1] of pointer args[0], as a pointer to `wide` where given."""
    address = builder.gep(args[0], [args[1]])
    return address if wide is None else builder.bitcast(address, wide.as_pointer())
