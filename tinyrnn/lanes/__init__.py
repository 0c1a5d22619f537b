"""The kernel language: a few dozen words over pointers and over `Vec`, a value of LANES float32.

A kernel is a plain Python function written with these words and marked `@kernel`. A target gives
the words their meaning (on a CPU one Vec is one LLVM vector: `lanes/llvm.py`). Each lane is an
independent float32; nothing is contracted or reassociated, so the order written is the order
computed, on every target. Offsets count elements of the pointer they go with, not bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

KERNELS: list[Callable[..., Any]] = []


def kernel(function: Function) -> Function:
    """Register a function as a kernel, which is compiled and inlined where it is called.

    Pages import kernels by name. Raises `ValueError` if the name is taken.
    """
    other = next((k for k in KERNELS if k.__name__ == function.__name__), None)
    if other is not None:
        raise ValueError(f"two kernels are called {function.__name__}: in {other.__module__} and {function.__module__}")
    KERNELS.append(function)
    return function


class Vec:
    """LANES float32."""

    def _operator(self, other: Vec) -> Vec:
        _outside()

    __add__ = __sub__ = __mul__ = __truediv__ = _operator

    def __neg__(self) -> Vec:
        _outside()


class Mask:
    """LANES truth values."""


class Ints:
    """LANES int32."""


class Pointer:
    """The address of elements of one type."""


def _outside() -> NoReturn:
    raise TypeError("a word of the kernel language has a meaning only inside a compiled kernel")


def f32(address: int) -> Pointer:
    """float32 elements from an address."""
    _outside()


def f16(address: int) -> Pointer:
    """float16 elements from an address, which are read as float32."""
    _outside()


def bf16(address: int) -> Pointer:
    """bfloat16 elements from an address, which are read as float32."""
    _outside()


def i64(address: int) -> Pointer:
    """int64 elements from an address."""
    _outside()


def i32(address: int) -> Pointer:
    """int32 elements from an address."""
    _outside()


def u8(address: int) -> Pointer:
    """uint8 elements from an address; also bool, as 0 or 1."""
    _outside()


def f64(address: int) -> Pointer:
    """float64 elements from an address."""
    _outside()


def i8(address: int) -> Pointer:
    """int8 elements from an address."""
    _outside()


def i16(address: int) -> Pointer:
    """int16 elements from an address."""
    _outside()


def u16(address: int) -> Pointer:
    """uint16 elements from an address."""
    _outside()


def u32(address: int) -> Pointer:
    """uint32 elements from an address."""
    _outside()


def u64(address: int) -> Pointer:
    """uint64 elements from an address."""
    _outside()


def at(p: Pointer, i: int) -> Pointer:
    """The pointer to element i."""
    _outside()


def get(p: Pointer, i: int) -> Any:
    """Element i."""
    _outside()


def put(p: Pointer, i: int, x: Any) -> None:
    """Set element i, converting x to the element type."""
    _outside()


def invoke(function: int, argument: int) -> int:
    """Call the C function of one int64 at an address; only host entries use it."""
    _outside()


def invoke2(function: int, first: int, second: int) -> int:
    """Call the C function of two int64 at an address; only host entries use it."""
    _outside()


def atomic_load(p: Pointer, i: int) -> int:
    """Element i as other threads left it, with all that they wrote before; only pages use it."""
    _outside()


def atomic_store(p: Pointer, i: int, x: int) -> None:
    """Set element i for other threads, with all that was written before; only pages use it."""
    _outside()


def compare_exchange(p: Pointer, i: int, before: int, after: int) -> int:
    """Set element i if it is `before`: whether it was. One thread at a time; only pages use it."""
    _outside()


def pause() -> None:
    """Tell the processor that this thread waits in a loop; only pages use it."""
    _outside()


def lanes() -> int:
    """LANES, a constant of the target."""
    _outside()


def load(p: Pointer, i: int) -> Vec:
    """LANES elements from element i on: float32, or others that are widened exactly."""
    _outside()


def store(p: Pointer, i: int, v: Vec) -> None:
    """Write LANES elements from element i on."""
    _outside()


def load_part(p: Pointer, i: int, n: int) -> Vec:
    """The first n elements from i on (all when n >= LANES), zero in the other lanes, which are not read."""
    _outside()


def store_part(p: Pointer, i: int, v: Vec, n: int) -> None:
    """Write the first n lanes (all when n >= LANES); the other elements are not touched."""
    _outside()


def splat(x: float) -> Vec:
    """x, rounded to float32, in every lane."""
    _outside()


def fma(a: Vec, b: Vec, c: Vec) -> Vec:
    """a * b + c with one rounding."""
    _outside()


def minimum(a: Vec, b: Vec) -> Vec:
    """The smaller; where one is NaN, the other."""
    _outside()


def maximum(a: Vec, b: Vec) -> Vec:
    """The larger; where one is NaN, the other."""
    _outside()


def select(mask: Mask, a: Vec, b: Vec) -> Vec:
    """a where the mask holds, else b."""
    _outside()


def less(a: Vec, b: Vec) -> Mask:
    """a < b; false with NaN."""
    _outside()


def less_equal(a: Vec, b: Vec) -> Mask:
    """a <= b; false with NaN."""
    _outside()


def equal(a: Vec, b: Vec) -> Mask:
    """a == b; false with NaN."""
    _outside()


def absolute(a: Vec) -> Vec:
    """a without its sign."""
    _outside()


def square_root(a: Vec) -> Vec:
    """The correctly rounded square root."""
    _outside()


def round_even(a: Vec) -> Vec:
    """The nearest integer, ties to even."""
    _outside()


def floor(a: Vec) -> Vec:
    """The largest integer not above a."""
    _outside()


def truncate(a: Vec) -> Vec:
    """The integer part."""
    _outside()


def copy_sign(a: Vec, b: Vec) -> Vec:
    """The magnitude of a with the sign of b."""
    _outside()


def scale2(a: Vec, n: Vec) -> Vec:
    """a * 2**n for integers n in [-126, 127]."""
    _outside()


def exponent(a: Vec) -> Vec:
    """The unbiased binary exponent of a normal number."""
    _outside()


def mantissa(a: Vec) -> Vec:
    """The significand of |a| in [1, 2) for a normal number."""
    _outside()


def dot_width() -> int:
    """The number of products that `dot` adds to a lane, a constant of the target."""
    _outside()


def dot_offset() -> int:
    """What the target adds to activations in memory, so that sums of `dot` have it times the weights' sum too much."""
    _outside()


def zeros() -> Ints:
    """0 in every lane."""
    _outside()


def load_ints(p: Pointer, i: int) -> Ints:
    """LANES int32 from element i on."""
    _outside()


def plus(a: Ints, b: Ints) -> Ints:
    """a + b modulo 2**32."""
    _outside()


def times(a: Ints, v: Vec) -> Ints:
    """a times the whole numbers v, modulo 2**32."""
    _outside()


def to_float(a: Ints) -> Vec:
    """The float32 nearest to each integer."""
    _outside()


def store_int8(x: Pointer, k: int, v: Vec) -> None:
    """Write activations k to k + LANES: the integers nearest to v, ties to even; of NaN and those beyond int8, some integers."""
    _outside()


def finish_int8(x: Pointer, n: int) -> None:
    """Complete n activations that are written, a multiple of `dot_width`."""
    _outside()


def dot(s: Ints, x: Pointer, k: int, w: Pointer, i: int) -> Ints:
    """s + for each lane the sum of the products of activations from k on and weights [lane][dot_width] from i on."""
    _outside()


def larger_magnitude(m: Vec, v: Vec) -> Vec:
    """The larger of m, which has no sign, and |v|; NaN where one is."""
    _outside()


def across(m: Vec) -> Vec:
    """The largest lane of m, which has no sign, in all lanes; NaN if one is."""
    _outside()
