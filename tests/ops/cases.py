"""Test cases of every operator but the recurrent ones (those are in `recurrent_cases`), as data.

`CASES` lists them by name; families have files of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.ops.cases_convolution import convolutions
from tests.ops.cases_moves import lookups, products, rearrangements
from tests.ops.cases_norm import normalizations
from tests.ops.cases_numbers import numbers
from tests.ops.cases_quantised import quantised
from tests.ops.op_case import Input, OpCase, b, case, f, k, v, w, x
from tests.ops.recurrent_cases import GATES

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
COVERED_ELSEWHERE = frozenset(GATES) | frozenset(RANDOM) | {"If", "Loop", "Scan"}
NAN, INF = float("nan"), float("inf")

UNARY: dict[str, tuple[float, float]] = {
    "Neg": (-3, 3),
    "Abs": (-3, 3),
    "Sqrt": (0, 9),
    "Reciprocal": (0.2, 4),
    "Floor": (-9, 9),
    "Ceil": (-9, 9),
    "Round": (-9, 9),
    "Exp": (-9, 3),
    "Log": (0.01, 9),
    "Erf": (-4, 4),
    "Sigmoid": (-9, 9),
    "Tanh": (-5, 5),
    "Relu": (-3, 3),
    "Softplus": (-9, 9),
    "Softsign": (-9, 9),
    "LeakyRelu": (-3, 3),
    "Elu": (-5, 3),
    "HardSwish": (-5, 5),
    "Selu": (-5, 3),
    "HardSigmoid": (-5, 5),
    "ThresholdedRelu": (-3, 3),
    "Identity": (-3, 3),
}
"""operator → range of its inputs"""

SATURATE = ("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Selu", "Elu", "HardSwish", "HardSigmoid")
PARAMETERS: dict[str, dict[str, Any]] = {
    "LeakyRelu": {"alpha": 0.3},
    "Elu": {"alpha": 1.7},
    "Selu": {"alpha": 1.2, "gamma": 0.8},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "ThresholdedRelu": {"alpha": 0.6},
}
SIZES: tuple[tuple[int, ...], ...] = ((1,), (5,), (16,), (3, 17), (2, 2, 20))
"""below, at and above 16 lanes"""


def _unary() -> Iterator[OpCase]:
    for number, (op, (low, high)) in enumerate(UNARY.items()):
        for shape in {SIZES[number % 3], SIZES[3 + number % 2]}:
            yield case(f"{op} {'x'.join(map(str, shape))}", x(*shape, low=low, high=high))
        if op in SATURATE:
            yield case(f"{op} far out", x(2, 9, low=-100, high=80))
        if op in PARAMETERS:
            yield case(f"{op} parameters", x(2, 19, low=low, high=high), **PARAMETERS[op])
        yield case(f"{op} folded", Input((2, 3), "float32", low, high, constant=True))
    yield case("Round halves", v([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e9, -3e8, 0.49999997]))
    yield case("Relu edges", v([0.0, -0.0, INF, -INF, 1e-38]))
    for form in ("none", "tanh"):
        yield case(f"Gelu {form}", x(3, 17), opset=20, approximate=form)
        yield case(f"Gelu {form} far out", x(5, low=-60, high=60), opset=20, approximate=form)
    yield case("Gelu default", x(7), opset=20)
    yield case("Dropout", x(3, 5), opset=13)
    yield case("Dropout ratio", x(3, 5), f(0.3), b(False), opset=13)
    yield case("Dropout attribute", x(19), opset=11, ratio=0.2)


BROADCAST: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "same": ((3, 7), (3, 7)),
    "scalar": ((3, 17), ()),
    "one": ((2, 5), (1,)),
    "left scalar": ((), (2, 18)),
    "vector": ((4, 17), (17,)),
    "outer": ((4, 1), (1, 5)),
    "middle": ((2, 3, 5), (2, 1, 5)),
    "first": ((3, 2, 19), (2, 1)),
    "both": ((2, 1, 3, 1), (4, 1, 5)),
}


def _binary() -> Iterator[OpCase]:
    for number, (what, (left, right)) in enumerate(BROADCAST.items()):
        for op in ("Add", "Sub", "Mul", "Div"):
            divisor: dict[str, Any] = {"low": 0.5, "high": 3.0} if op == "Div" else {}
            constant = (number + len(op) + ord(op[0])) % 2
            yield case(f"{op} {what}", x(*left), w(*right, **divisor) if constant else x(*right, **divisor))
        op = ("Max", "Min", "Sum")[number % 3]
        yield case(f"{op} {what}", x(*left), x(*right), *([w(1)] if number % 2 else []))
    yield case("Sub from constant", w(3, 1), x(2, 1, 17))
    yield case("Div of constant", f(1.0), x(19, low=0.5, high=3))
    yield case("Sub itself", v([1.0, 2.0]), f([1.0, INF]))
    for op in ("Max", "Min", "Sum"):
        yield case(f"{op} single", x(2, 5))
        yield case(f"{op} four", x(4, 1), x(1, 5), w(5), x())
        yield case(f"{op} folded", f([1.0, 5.0]), f([3.0, 2.0]), f([2.0, 2.5]))
    for op in ("Max", "Min"):
        yield case(f"{op} nan", v([NAN, 1.0, INF, -INF, 2.0]), v([1.0, NAN, 1.0, 1.0, NAN]))
        yield case(f"{op} integers", k([1, -5, 7]), k([2, -6, 7]), opset=13)
    yield case("PRelu vector", x(3, 17), w(17))
    yield case("PRelu scalar", x(19), w(1))
    yield case("PRelu channels", x(2, 3, 5), w(3, 1))
    for op in ("Add", "Sub", "Mul"):
        yield case(f"{op} integers", k([7, -8, 3]), k([[2], [-3]]))
    yield case("Div integers", k([7, -7, 8, -8, 2**40]), k([2, 2, -3, -3, 7]))
    yield case("Div large integers", k([2**53 + 1, 9007199254740993 * 3]), k([1, 3]))
    for exponent in (-1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 4.0):
        base = x(2, 9, low=0.3, high=2) if exponent % 1 or exponent < 0 else x(2, 9)
        yield case(f"Pow {exponent}", base, f(exponent if exponent % 2 else [exponent]))
    yield case("Pow integer exponent", x(5), k(2))
    yield case("Pow folded", f([1.5, 2.5]), f([[2.2], [-0.7]]))
    yield case("Pow integers", k([2, -3]), k(3))


def _clip() -> Iterator[OpCase]:
    yield case("Clip both", x(3, 17), f(-1.0), f(0.75))
    yield case("Clip low", x(7), f(-0.5))
    yield case("Clip high", x(7), None, f(0.5))
    yield case("Clip none", x(7))
    yield case("Clip attributes", x(2, 18), opset=9, min=-1.25, max=0.5)
    yield case("Clip attribute low", x(5), opset=9, min=0.25)
    yield case("Clip attribute high", x(5), opset=9, max=0.25)
    yield case("Clip infinite", x(5), f(-INF), f(1.0))
    yield case("Clip crossed", x(5), f(1.0), f(-1.0))
    yield case("Clip integers", k([-3, 4, 9]), k(0), k(5))


def _known() -> Iterator[OpCase]:
    yield case("Not", b([True, False]))
    for op in ("And", "Or", "Xor"):
        yield case(op, b([True, False, True, False]), b([True, True, False, False]))
        yield case(f"{op} broadcast", b([[True], [False]]), b([True, False, True]))
    for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        yield case(op, f([1.0, 2.0, 3.0]), f([2.0, 2.0, 2.0]))
        yield case(f"{op} integers", k([[1], [2]]), k([1, 2, 3]))
    yield case("Equal bool", b([True, False]), b([True, True]))
    yield case("Mod integers", k([7, -7, 7, -7]), k([3, 3, -3, -3]))
    yield case("Mod fmod integers", k([7, -7, 7, -7]), k([3, 3, -3, -3]), fmod=1)
    yield case("Mod fmod", f([7.5, -7.5, 7.5]), f([2.0, 2.0, -2.0]), fmod=1)
    yield case("Where", b([True, False, True]), f([1.0, 2.0, 3.0]), f([-1.0, -2.0, -3.0]))
    yield case("Where broadcast", b([[True], [False]]), k([1, 2, 3]), k(0))
    yield case("Shape", x(2, 3, 5))
    yield case("Shape part", x(2, 3, 5), start=-2, end=-1)
    yield case("Shape from", x(2, 3, 5), start=1)
    yield case("Shape old", x(4, 1), opset=11)
    yield case("Size", x(2, 3, 5))
    yield case("Constant tensor", value=numpy_helper.from_array(np.array([[1.5, -2.0]], np.float32)))
    yield case("Constant float", value_float=2.5)
    yield case("Constant floats", value_floats=[1.0, 2.5])
    yield case("Constant int", value_int=-3)
    yield case("Constant ints", value_ints=[4, 5, 6])
    yield case("ConstantOfShape", k([2, 3]))
    yield case("ConstantOfShape value", k([4]), value=helper.make_tensor("v", TensorProto.INT64, [1], [7]))
    yield case("Range", k(2), k(11), k(3))
    yield case("Range down", k(5), k(-4), k(-2))
    yield case("Range float", f(0.5), f(2.0), f(0.25))


CAST = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9}


def _cast() -> Iterator[OpCase]:
    for before in CAST:
        for after, code in CAST.items():
            low = 0.0 if "uint8" in (before, after) else -9.0
            given = x(3, 7, dtype=before, low=0, high=1) if before == "bool" else x(3, 7, dtype=before, low=low, high=9.0)
            yield case(f"Cast {before} to {after}", given, to=code)
    yield case("Cast towards zero", v([-2.9, -0.5, 0.5, 0.99, 2.9]), to=CAST["int64"])
    yield case("Cast to double folded", f([0.1, 2.0]), to=11)
    yield case("Cast to half folded", f([0.5, 2.0, 3.25]), to=10)


def _movement() -> Iterator[OpCase]:
    yield case("Transpose default", x(2, 3, 5))
    for perm in ([1, 0, 2], [0, 2, 1], [2, 0, 1], [0, 1, 2]):
        yield case(f"Transpose {''.join(map(str, perm))}", x(2, 3, 17), perm=perm)
    yield case("Transpose of ones", x(1, 3, 1, 5), perm=[1, 0, 3, 2])
    yield case("Transpose five axes", x(2, 3, 2, 2, 3), perm=[4, 1, 3, 0, 2])
    for dtype in ("int64", "int32", "uint8", "bool"):
        given = x(3, 5, dtype=dtype, low=0, high=1 if dtype == "bool" else 9)
        yield case(f"Transpose {dtype}", given, perm=[1, 0])
        yield case(f"Concat {dtype}", given, given, axis=1)
        yield case(f"Slice {dtype}", given, k([4]), k([0]), k([1]), k([-1]))
    yield case("Concat first", x(2, 5), x(3, 5), axis=0)
    yield case("Concat last", x(2, 5), w(2, 17), x(2, 1), axis=-1)
    yield case("Concat middle", x(2, 1, 5), x(2, 3, 5), axis=-2)
    yield case("Concat one", x(2, 3), axis=0)
    yield case("Concat same twice", x(19), w(3), axis=0)
    yield case("Split default", x(4, 6), outputs=2, axis=1)
    yield case("Split first axis", x(6, 3), outputs=3)
    yield case("Split uneven", x(2, 20), k([1, 16, 3]), outputs=3, axis=-1)
    yield case("Split middle", x(2, 5, 3), k([2, 3]), outputs=2, axis=1)
    yield case("Split attribute", x(2, 7), opset=11, outputs=2, axis=1, split=[3, 4])
    yield case("Split attribute none", x(2, 8), opset=11, outputs=2, axis=-1)
    yield case("Split num_outputs", x(7, 2), opset=18, outputs=3, num_outputs=3)
    yield case("Split num_outputs equal", x(2, 6), opset=18, outputs=2, num_outputs=2, axis=-1)
    yield case("Split int64", x(2, 6, dtype="int64"), k([1, 5]), outputs=2, axis=1)
    yield case("Slice plain", x(4, 20), k([1, 2]), k([3, 19]))
    yield case("Slice negative axis", x(4, 20), k([2]), k([9]), k([-1]))
    yield case("Slice negative ends", x(4, 20), k([-3, -18]), k([-1, -1]), k([0, 1]))
    yield case("Slice beyond", x(4, 5), k([-100]), k([2**63 - 1]), k([1]))
    yield case("Slice steps", x(7, 20), k([1, 0]), k([7, 20]), k([0, 1]), k([2, 3]))
    yield case("Slice reversed", x(3, 19), k([-1]), k([-(2**63)]), k([1]), k([-1]))
    yield case("Slice reversed part", x(3, 19), k([15]), k([2]), k([1]), k([-4]))
    yield case("Slice reversed to first", x(6), k([4]), k([-7]), k([0]), k([-1]))
    yield case("Slice reversed int32", x(6), k([4], "int32"), k([0], "int32"), k([0], "int32"), k([-2], "int32"))
    yield case("Slice reversed from beyond", x(6), k([100]), k([0]), k([0]), k([-1]))
    yield case("Slice attributes", x(4, 5, 6), opset=9, starts=[1, -3], ends=[3, 2**31 - 1], axes=[0, 2])
    yield case("Slice attributes no axes", x(4, 5), opset=9, starts=[0, 1], ends=[-1, 4])
    yield case("Pad zeros", x(2, 5), k([0, 1, 1, 2]))
    yield case("Pad value", x(2, 3, 17), k([0, 0, 3, 0, 1, 0]), f(1.5))
    yield case("Pad crop", x(4, 9), k([-1, 2, 0, -3]))
    yield case("Pad axes", x(2, 3, 5), k([1, 2]), None, k([-1]), opset=18)
    yield case("Pad attributes", x(3, 5), opset=9, pads=[0, 2, 0, 1], value=-2.0)
    yield case("Pad nothing", x(3, 5), k([0, 0, 0, 0]))
    yield case("Expand rows", x(1, 17), k([3, 17]))
    yield case("Expand columns", x(4, 1), k([4, 5]))
    yield case("Expand both", x(3, 1), k([2, 1, 6]))
    yield case("Expand ones", x(3, 4), k([1, 1]))
    yield case("Expand scalar", x(), k([2, 3]))
    yield case("Expand int64", x(1, dtype="int64"), k([3]))
    yield case("Gather constant", x(4, 17), k([2, 0, -1]))
    yield case("Gather constant axis 1", x(2, 5, 3), k([[4, 1], [0, -5]]), axis=1)
    yield case("Gather constant last", x(2, 3, 5), k([3]), axis=-1)
    yield case("Gather constant scalar", x(4, 5), k(-2), axis=1)
    yield case("Gather constant int64", x(7, dtype="int64"), k([6, 0], "int32"))
    for dtype in ("int64", "int32"):
        yield case(f"Gather embedding {dtype}", w(11, 17), x(2, 3, dtype=dtype, low=-11, high=10))
        yield case(f"Gather embedding {dtype} scalar", w(5, 3), v(3, dtype))
    yield case("Gather vector", w(9), v([8, -9, 0], "int64"))
    yield case("Gather folded", k([3, 4, 5]), k([2, 0]))


def _views() -> Iterator[OpCase]:
    yield case("Reshape", x(2, 6), k([3, 4]))
    yield case("Reshape open", x(2, 3, 4), k([-1, 4]))
    yield case("Reshape zero", x(2, 3, 4), k([0, -1]))
    yield case("Reshape zeros", x(2, 3, 4), k([0, 0, 2, 2]))
    yield case("Reshape allowzero", x(2, 6), k([4, -1]), allowzero=1)
    yield case("Reshape int64", x(2, 6, dtype="int64"), k([12]))
    yield case("Reshape to scalar", x(1), Input((0,), "int64", constant=True, values=[]))
    for axis in (0, 1, 2, -1, 3):
        yield case(f"Flatten {axis}", x(2, 3, 5), axis=axis)
    yield case("Flatten default", x(2, 3, 5))
    yield case("Squeeze all", x(1, 3, 1, 5))
    yield case("Squeeze one", x(1, 3, 1), k([0]))
    yield case("Squeeze negative", x(1, 3, 1), k([-1]))
    yield case("Squeeze attribute", x(1, 3, 1), opset=11, axes=[0, 2])
    yield case("Unsqueeze", x(3, 5), k([0, 2]))
    yield case("Unsqueeze negative", x(3, 5), k([-1]))
    yield case("Unsqueeze unordered", x(3, 5), k([3, 0]))
    yield case("Unsqueeze attribute", x(3, 5), opset=11, axes=[1])
    yield case("Unsqueeze scalar", x(), k([0]))


REDUCTIONS = (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceProd",
)


def _reductions() -> Iterator[OpCase]:
    for number, op in enumerate(REDUCTIONS):
        span: dict[str, Any] = {"low": -1.5, "high": 1.5}
        for place, size in enumerate((1, 3, 16, 17, 40)):
            keep: dict[str, Any] = {"keepdims": (number + place) % 2}
            yield case(f"{op} last {size}", x(3, size, **span), k([-1]), opset=18, **keep)
        yield case(f"{op} middle", x(2, 5, 19, **span), opset=11, axes=[(1, -2)[number % 2]])
        yield case(f"{op} first", x(4, 7, **span), k([0]), opset=18, keepdims=0)
        yield case(f"{op} several", x(2, 3, 4, 5, **span), k([1, 2]), opset=18, keepdims=number % 2)
        yield case(f"{op} several attribute", x(2, 3, 7, **span), opset=11, axes=[-1, -2], keepdims=0)
        yield case(f"{op} all", x(3, 6, **span), opset=18, keepdims=number % 2)
        yield case(f"{op} all attribute", x(3, 6, **span), opset=11, keepdims=0)
        yield case(f"{op} nothing", x(3, 6, **span), opset=18, noop_with_empty_axes=1)
        yield case(f"{op} folded", w(3, 6, **span), k([1]), opset=18)
    yield case("ReduceSum opset 13", x(3, 18), k([1]), opset=13)
    for op in ("ReduceMax", "ReduceMin"):
        yield case(f"{op} negative", x(2, 21, low=-9, high=-1), k([1]), opset=18)
        yield case(f"{op} positive", x(2, 21, low=1, high=9), k([1]), opset=18)


def _products() -> Iterator[OpCase]:
    for rows, inner, columns in ((1, 5, 3), (3, 17, 16), (5, 16, 70), (2, 1, 1)):
        yield case(f"MatMul {rows}x{inner}x{columns}", x(rows, inner), w(inner, columns))
    yield case("MatMul three axes", x(2, 3, 5), w(5, 17))
    yield case("MatMul vector", x(5), w(5, 17))
    yield case("MatMul folded", w(3, 5), w(5, 2))
    yield case("Gemm", x(3, 5), w(5, 17), w(17))
    yield case("Gemm no bias", x(3, 5), w(5, 2))
    yield case("Gemm transB", x(2, 7), w(17, 7), w(17), transB=1)
    yield case("Gemm alpha beta", x(2, 7), w(7, 5), w(1, 5), alpha=0.5, beta=-2.0)
    yield case("Gemm scalar bias", x(2, 7), w(7, 5), w(1))
    yield case("Gemm folded", w(3, 2), w(3, 4), w(2, 1), transA=1)


CASES: dict[str, OpCase] = {}
for _family in (
    _unary,
    _binary,
    _clip,
    _known,
    _cast,
    _movement,
    _views,
    _reductions,
    _products,
    convolutions,
    products,
    lookups,
    rearrangements,
    normalizations,
    quantised,
    numbers,
):
    for _case in _family():
        assert _case.name not in CASES, _case.name
        CASES[_case.name] = _case
