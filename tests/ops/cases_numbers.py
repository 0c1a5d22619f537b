"""Test cases of element-wise operators on every type, casts, and what is found along an axis."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ops.op_case import Input, OpCase, b, case, f, k, v, w, x

NAN, INF = float("nan"), float("inf")
WHOLE = ("int32", "int64")
BYTES = ("uint8", "int8")
INT64_REDUCTIONS = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare")
LOWEST = {"int32": -(2**31), "int64": -(2**63)}


def on_types() -> Iterator[OpCase]:
    """The same operators on types other than float32, where onnxruntime has them."""
    for dtype in (*WHOLE, "float64"):
        for op in ("Add", "Sub", "Mul", "Div"):
            yield case(f"{op} {dtype}", x(3, 17, dtype=dtype, low=-40, high=40), v([7, -3, 11] * 5 + [2, 5], dtype))
        yield case(f"Pow {dtype}", x(3, 5, dtype=dtype), v([2, 0, 1, 3, 5], "int64"), opset=15)
        for op in ("Abs", "Neg", "Sign"):
            yield case(f"{op} {dtype}", x(19, dtype=dtype))
    for dtype in (*WHOLE, "float64", "uint8", "int8", "uint64"):
        low = 0.0 if dtype[0] == "u" else -9.0
        given = x(2, 3, 5, dtype=dtype, low=low, high=9.0)
        yield case(f"Min {dtype}", given, x(5, dtype=dtype, low=low), x(3, 1, dtype=dtype, low=low))
        yield case(f"Max {dtype}", given, x(3, 1, dtype=dtype, low=low))
        yield case(f"Clip {dtype}", given, k(1, dtype), k(5, dtype))
        yield case(f"Clip {dtype} bounds", given, v(1, dtype), v(5, dtype))
    for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        for dtype in ("float32", *WHOLE):
            yield case(f"{op} {dtype}", x(4, 17, dtype=dtype), x(17, dtype=dtype))
        yield case(f"{op} nan", v([NAN, 1.0, INF, -0.0]), v([NAN, NAN, INF, 0.0]))
    yield case("Equal bool at run time", x(3, 5, dtype="bool", low=0, high=1), x(5, dtype="bool", low=0, high=1))
    for op in ("And", "Or", "Xor"):
        yield case(f"{op} at run time", x(3, 17, dtype="bool", low=0, high=1), x(3, 1, dtype="bool", low=0, high=1))
    yield case("Not at run time", x(3, 17, dtype="bool", low=0, high=1))
    for dtype in ("float32", *WHOLE, "uint8"):
        low = 0.0 if dtype[0] == "u" else -9.0
        chosen = (x(2, 3, 1, dtype="bool", low=0, high=1), x(3, 5, dtype=dtype, low=low), x(1, dtype=dtype, low=low))
        yield case(f"Where {dtype}", *chosen)
    yield case("Where scalar", x(4, 5, dtype="bool", low=0, high=1), x(4, 5), f(-INF))
    yield case("Where known condition", b([True, False, True]), x(2, 3), x(3))


def arithmetic() -> Iterator[OpCase]:
    for dtype in WHOLE:
        low = LOWEST[dtype]
        yield case(f"Add {dtype} wraps", v([low, -low - 1], dtype), v([-1, 1], dtype))
        yield case(f"Mul {dtype} wraps", v([low, 2**30 + 1, -3], dtype), v([3, 4097, low], dtype))
        yield case(f"Abs {dtype} lowest", v([low, -1], dtype))
        for fmod in (0, 1):
            signs = (v([7, -7, 7, -7, 6, low], dtype), v([3, 3, -3, -3, 3, 7], dtype))
            yield case(f"Mod {dtype} fmod {fmod}", *signs, fmod=fmod)
    yield case("Mod uint8", x(3, 5, dtype="uint8", low=0, high=255), v([1, 2, 7, 100, 255], "uint8"))
    yield case("Mod fmod float", x(3, 5, low=-90, high=90), v([0.3, -2.5, 7.0, 1e-3, -1e30]), fmod=1)
    yield case("Mod fmod edges", v([INF, 1.0, NAN, -6.0, 3e38, 5.0]), v([1.0, INF, 1.0, 3.0, 7e-3, 0.0]), fmod=1)
    yield case("Mod fmod float64", x(17, dtype="float64", low=-90, high=90), v([0.7], "float64"), fmod=1)
    for number in (1, 2, 3):
        yield case(f"Mean {number}", *(x(*shape) for shape in ((3, 17), (17,), (3, 1))[:number]))
    yield case("Sum float64", x(3, dtype="float64"), x(2, 3, dtype="float64"))
    yield case("Sign float32", v([-2.0, -0.0, 0.0, 3.0, NAN, -INF]))
    yield case("Pow general", x(3, 17, low=0.01, high=9), x(17, low=-9, high=9), opset=15)
    yield case("Pow constant", x(3, 17, low=0.01, high=9), f(0.3), opset=15)
    yield case("Pow constant base", f(10.0), x(3, 17, low=-9, high=9), opset=15)
    yield case("Pow negative base", x(2, 5), v([2.0, 3.0, -1.0, -2.0, 0.0]), opset=15)
    yield case(
        "Pow edges", v([0.0, -0.0, 0.0, -8.0, NAN, 1.0, INF, -INF, 0.5]), v([-1, -3, 2, 0.5, 0, NAN, -2, 3, INF]), opset=15
    )
    yield case("Pow int32 of float32", x(4, dtype="float32"), x(3, 4, dtype="int32"), opset=15)
    yield case("Pow int64 by floats", x(3, dtype="int64", low=-9, high=9), f([2.0, 3.0, 1.0]), opset=15)
    yield case("Clip bounds at run time", x(3, 17), v(-1.0), v(0.5))
    yield case("Clip high at run time", x(3, 17), None, v(0.5))
    yield case("Clip single bounds", x(17), f([-1.0]), v(0.5), opset=12)
    for direction in ("LEFT", "RIGHT"):
        for dtype, bits in (("uint8", 8), ("uint32", 32), ("uint64", 64)):
            given = (x(3, 5, dtype=dtype, low=0, high=255), v([0, 1, 3, bits // 2, bits - 1], dtype))
            yield case(f"BitShift {direction} {dtype}", *given, opset=11, direction=direction)
    for dtype in (*WHOLE, "uint8", "int8", "uint32"):
        low = 0.0 if dtype[0] == "u" else -99.0
        given = x(3, 17, dtype=dtype, low=low, high=99)
        for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
            yield case(f"{op} {dtype}", given, x(17, dtype=dtype, low=low, high=99), opset=18)
        yield case(f"BitwiseNot {dtype}", given, opset=18)
    edges = v([1.0, NAN, INF, -INF, -0.0, 3e38])
    yield case("IsNaN", edges, opset=13)
    yield case("IsInf", edges, opset=10)
    yield case("IsInf positive", edges, opset=10, detect_negative=0)
    yield case("IsInf negative", edges, opset=10, detect_positive=0)


FUNCTIONS: dict[str, tuple[float, float, int]] = {
    "Mish": (-9, 9, 18),
    "Celu": (-5, 3, 12),
    "Shrink": (-3, 3, 9),
    "Swish": (-9, 9, 24),
    "Sin": (-20, 20, 9),
    "Cos": (-20, 20, 9),
    "Tan": (-1.4, 1.4, 9),
}
"""operator → range of its inputs, opset"""


def functions() -> Iterator[OpCase]:
    for op, (low, high, opset) in FUNCTIONS.items():
        yield case(op, x(3, 17, low=low, high=high), opset=opset)
        yield case(f"{op} folded", w(2, 3, low=low, high=high), opset=opset)
    for op in ("Sin", "Cos"):
        yield case(f"{op} far out", x(2, 19, low=-9000, high=9000))
    yield case("Celu alpha", x(2, 19), opset=12, alpha=0.4)
    yield case("Shrink parameters", x(2, 19), opset=9, lambd=1.1, bias=0.7)
    yield case("Swish alpha", x(2, 19), opset=24, alpha=1.7)


TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float64": 11,
    "uint32": 12,
}
TYPES["uint64"] = 13


def casts() -> Iterator[OpCase]:
    for before in TYPES:
        for after, code in TYPES.items():
            low = 0.0 if "u" in before[0] + after[0] else -9.0
            given = x(3, 7, dtype=before, low=0 if before == "bool" else low, high=1 if before == "bool" else 9)
            yield case(f"Cast of {before} to {after}", given, to=code)
    yield case("Cast wraps", v([300, -1, 2**40 + 5, -(2**63)], "int64"), to=TYPES["uint8"])
    yield case("Cast float wraps", v([300.7, -1.5, 255.9, 65536.0]), to=TYPES["uint8"])
    yield case("Cast truth", v([0.0, -0.0, NAN, 0.3, -INF]), to=TYPES["bool"])
    yield case("CastLike", x(3, 5, low=-9, high=9), Input((1,), "int32"), opset=19)
    yield case("CastLike bool", x(3, 5, dtype="int64"), k([True], "bool"), opset=19)


def reductions() -> Iterator[OpCase]:
    for op in ("ReduceLogSum", "ReduceLogSumExp"):
        span = {"low": 0.1, "high": 3.0} if op == "ReduceLogSum" else {"low": -60.0, "high": 60.0}
        for size in (1, 3, 16, 17, 40):
            yield case(f"{op} last {size}", x(3, size, **span), k([-1]), opset=18)
        yield case(f"{op} middle", x(2, 5, 19, **span), k([1]), opset=18, keepdims=0)
        yield case(f"{op} all", x(3, 6, **span), opset=11)
        yield case(f"{op} folded", w(3, 6, **span), k([1]), opset=18)
    yield case("ReduceLogSumExp infinite", v([[-INF, 1.0], [-INF, -INF], [INF, 1.0], [NAN, 1.0]]), k([1]), opset=18)
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceLogSumExp", "ReduceL2", "ReduceProd"):
        yield case(f"{op} apart", x(3, 5, 2, 7, low=-1, high=1), k([0, 2]), opset=18)
        yield case(f"{op} apart last", x(3, 5, 2, 18, low=-1, high=1), k([1, 3]), opset=18, keepdims=0)
        yield case(f"{op} apart one", x(4, 1, 17, low=-1, high=1), k([0, 2]), opset=18, keepdims=0)
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare", "ReduceL1"):
        for dtype in ("int32", "float64", *(["int64"] if op in INT64_REDUCTIONS else [])):
            yield case(f"{op} {dtype}", x(3, 5, 2, dtype=dtype), k([1]), opset=18)
            yield case(f"{op} {dtype} apart", x(3, 2, 3, dtype=dtype), k([0, 2]), opset=18, keepdims=0)
    yield case("ReduceMax bool", x(3, 4, dtype="bool", low=0, high=1), k([1]), opset=20)
    yield case("ReduceMin uint8", x(3, 4, dtype="uint8", low=0, high=255), k([1]), opset=18)


def extremes() -> Iterator[OpCase]:
    for op in ("ArgMax", "ArgMin"):
        for dtype in ("float32", "int32", "int64", "float64"):
            yield case(f"{op} {dtype}", x(3, 5, 4, dtype=dtype), opset=13, axis=1, keepdims=0)
        yield case(f"{op} default", x(4, 17), opset=13)
        yield case(f"{op} last of equals", v([[2, 1, 2, 1], [3, 3, 3, 3]], "int32"), opset=13, axis=-1, select_last_index=1)
        yield case(f"{op} first of equals", v([[2, 1, 2, 1], [3, 3, 3, 3]], "int32"), opset=13, axis=-1)
        yield case(f"{op} one", x(3, 1), opset=11, axis=1)
        yield case(f"{op} folded", w(3, 4), opset=13, axis=1)
    for largest in (0, 1):
        for dtype in ("float32", "int32", "int64", "float64"):
            yield case(f"TopK {dtype} {largest}", x(3, 9, dtype=dtype), k([4]), outputs=2, largest=largest)
        yield case(f"TopK middle {largest}", x(2, 7, 3), k([7]), outputs=2, largest=largest, axis=1)
        yield case(f"TopK one {largest}", x(5), k([1]), outputs=2, largest=largest)
        yield case(f"TopK equals {largest}", v([1.0, 3.0, 1.0, 3.0, 2.0]), k([3]), outputs=2, largest=largest)
    yield case("TopK attribute", x(3, 9), outputs=2, opset=9, k=3)
    yield case("TopK folded", w(3, 9), k([2]), outputs=2)
    for dtype in ("float32", "int32", "int64", "float64"):
        for number, (exclusive, reverse) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
            given = x(2, 5, 3, dtype=dtype)
            yield case(f"CumSum {dtype} {number}", given, k(number % 3), opset=14, exclusive=exclusive, reverse=reverse)
    yield case("CumSum last", x(17), k([-1], "int32"), opset=14)
    for axis in (-1, 0, 1):
        yield case(f"OneHot {axis}", v([[1, -1, 7], [0, -5, 4]], "int64"), k([5]), v([-1.0, 3.0]), axis=axis)
    yield case("OneHot default", x(3, 2, dtype="int64", low=0, high=3), k(4), k([0, 1]))
    yield case("Hardmax", x(3, 17), opset=13)
    yield case("Hardmax axis", x(2, 5, 3), opset=13, axis=1)
    yield case("Hardmax old", x(2, 5, 3), opset=11, axis=1)
    yield case("Hardmax equals", v([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), opset=13)
    yield case("NonZero", k([[1, 0, 3], [0, 5, 0]]))


def numbers() -> Iterator[OpCase]:
    for family in (on_types, arithmetic, functions, casts, reductions, extremes):
        yield from family()
