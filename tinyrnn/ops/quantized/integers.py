"""Numbers stored as integers with scales: the range of a type, what scales and zero points may be, and rounding to them.

The functions compute in NumPy, in float32 as the specification says; the operators' references and constants use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyrnn.graph.ir import Spec
from tinyrnn.graph.op import Array, Refused
from tinyrnn.ops.elementwise.cast import dtype_of

DType = np.dtype[Any]

SMALL = ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2")
"""types of quantised numbers, by name: those of 4 and 2 bits are types that NumPy lacks"""
EXACT = 1 << 24
"""float32 holds every integer up to this magnitude"""
CODES: dict[int, str] = {
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    25: "uint2",
    26: "int2",
}
"""TensorProto.DataType → type of the package ml_dtypes"""


def type_of(code: int) -> np.dtype[Any]:
    """The type of a TensorProto.DataType, those that NumPy lacks included. Raises `Refused`."""
    if code not in CODES:
        return dtype_of(code)
    try:
        import ml_dtypes
    except ImportError:
        raise Refused(f"{CODES[code]} is a type that NumPy lacks; install ml_dtypes") from None
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, CODES[code]))
    return found


def is_small(dtype: DType) -> bool:
    """Whether a type is one of quantised integers, all of which float32 holds."""
    return dtype.name in SMALL


def limits(dtype: DType) -> tuple[int, int]:
    """The least and the largest integer of a type. Raises `Refused` for a type that is none of quantised integers."""
    if dtype.name in SMALL or dtype == np.int32:
        signed, bits = not dtype.name.startswith("u"), int(dtype.name.lstrip("uint"))
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    raise Refused(f"its integers are {dtype}; supported are {', '.join(SMALL)} and int32")


def is_float8(dtype: DType) -> bool:
    return dtype.name.startswith(("float8", "float4"))


def checked_scale(name: str, scale: Array) -> Array:
    """The scales in float32. Raises `Refused` for one that is no positive number."""
    wide = np.asarray(scale, np.float32)
    wrong = ~(np.isfinite(wide) & (wide > 0))
    if wrong.any():
        raise Refused(f"{name}={wide[wrong].ravel()[0]:g}; supported are positive numbers")
    return wide


def check_zero(name: str, zero: Spec | None, dtype: DType) -> None:
    """Raise `Refused` for a zero point whose type is not that of its integers."""
    if zero is not None and zero.dtype != dtype:
        raise Refused(f"{name} is {zero.dtype} and its integers are {dtype}; supported are zero points of the same type")


def check_one(name: str, spec: Spec | None) -> None:
    """Raise `Refused` unless there is one number for the whole tensor, or none."""
    if spec is not None and spec.elements != 1:
        raise Refused(f"{name} has the shape {list(spec.shape)}; supported is one number")


def spread(scale: Array, shape: Sequence[int], axis: int, block: int = 0) -> Array:
    """Scales or zero points, per tensor, per index of an axis or per block, so that they broadcast to `shape`."""
    if scale.size == 1 and scale.ndim <= 1:
        return scale.reshape(())
    if not -len(shape) <= axis < len(shape):
        raise Refused(f"axis={axis} of a value of shape {list(shape)}")
    axis %= len(shape)
    if block:
        wanted = tuple(-(-n // block) if a == axis else n for a, n in enumerate(shape))
        if block < 0 or scale.shape != wanted:
            raise Refused(f"block_size={block} with scales of shape {list(scale.shape)} for {list(shape)}")
        return np.take(np.repeat(scale, block, axis), np.arange(shape[axis]), axis)
    if scale.shape != (shape[axis],):
        raise Refused(f"scales of shape {list(scale.shape)} do not fit {list(shape)} along axis {axis}")
    return scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def rounded(value: Array, zero: Array | float, dtype: DType) -> Array:
    """The integers nearest to float32 values, ties to even, with the zero point added, within the range of the type.

    NaN becomes the least integer, as in onnxruntime.
    """
    low, high = limits(dtype)
    offset = np.asarray(zero, np.float32)
    bounded = np.minimum(np.where(value > low - offset, value, low - offset), high - offset)
    return np.asarray((np.rint(bounded) + offset).astype(dtype))


def wide(x: Array, zero: Array | None) -> Array:
    """Integers without their zero point, in int64."""
    return x.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))


def dequantized(x: Array, scale: Array, zero: Array | None) -> Array:
    """(x - zero) scale in float32."""
    return np.asarray(wide(x, zero).astype(np.float32) * np.asarray(scale, np.float32))
