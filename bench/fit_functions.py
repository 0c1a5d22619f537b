"""Fit the coefficients of tinyrnn/lanes/functions.py, powers.py and trigonometry.py, and measure the errors of its functions.

    python bench/fit_functions.py                        # fit and print the constants to paste (seconds)
    python bench/fit_functions.py --exhaustive [NAME...] # largest error over all 2**32 float32 (minutes each)
    python bench/fit_functions.py --exhaustive --step 97 # the same over every 97th bit pattern

Fitting needs mpmath, measuring needs numba. A fit is a Remez exchange in 40 digits with the error
weighted by what it does to the function's relative error; the coefficients are then rounded to float32.
Sigmoid and elu use those of exp.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Constants = dict[str, float]
Reference = Callable[[float], float]

LANES = 16


# Fitting


def remez(
    f: Callable[[Any], Any], tolerance: Callable[[Any], Any], interval: tuple[Any, Any], terms: int
) -> tuple[list[float], float]:
    """The polynomial P that minimises the largest |P(x) - f(x)| / tolerance(x), and that largest value.

    The exchange: solve for the P whose error takes the same size with alternating signs on terms + 1 places,
    move the places to the extrema of that error, and repeat until they stay.
    """
    from mpmath import cos, lu_solve, matrix, mp, mpf, pi

    mp.dps = 40
    grid = 1200
    a, b = mpf(interval[0]), mpf(interval[1])
    xs = [a + (b - a) * (1 - cos(pi * i / grid)) / 2 for i in range(grid + 1)]
    fs, tolerances = [f(x) for x in xs], [tolerance(x) for x in xs]
    places = [round(grid * i / terms) for i in range(terms + 1)]
    for _ in range(50):
        rows = [
            [*(xs[i] ** k for k in range(terms)), sign * tolerances[i]]
            for sign, i in zip(itertools.cycle((1, -1)), places, strict=False)
        ]
        c = list(lu_solve(matrix(rows), matrix([fs[i] for i in places])))[:terms]
        errors = [(sum(v * x**k for k, v in enumerate(c)) - y) / w for x, y, w in zip(xs, fs, tolerances, strict=True)]
        extrema = _alternating(errors, terms + 1)
        if extrema == places:
            return [float(v) for v in c], float(max(abs(e) for e in errors))
        places = extrema
    raise ArithmeticError("the exchange does not settle")


def _alternating(errors: list[Any], n: int) -> list[int]:
    """The places of up to n extrema with alternating signs, the smallest left out."""
    places: list[int] = []
    for i, e in enumerate(errors):
        if places and (e > 0) == (errors[places[-1]] > 0):
            if abs(e) > abs(errors[places[-1]]):
                places[-1] = i
        else:
            places.append(i)
    while len(places) > n:
        size = [abs(errors[i]) for i in places]
        if len(places) == n + 1:
            del places[0 if size[0] < size[-1] else -1]
        else:
            k = min(range(len(places) - 1), key=lambda k: max(size[k], size[k + 1]))
            del places[k : k + 2]
    return places


def _reduction() -> Constants:
    from mpmath import erfc, findroot, log, mp, mpf, sqrt

    mp.dps = 40
    ln2 = log(2)
    upper = float(round(ln2 * 2**16)) / 2**16
    nearest = float(np.float32(float(ln2)))
    exact = {
        "LOG2_E": 1 / ln2,
        "TWO_LOG2_E": 2 / ln2,
        "LN2_UPPER": upper,
        "LN2_LOWER": ln2 - upper,
        "LN2": ln2,
        "HALF_LN2": ln2 / 2,
        "LN2_ERROR": ln2 - nearest,
        "SQRT_2": sqrt(2),
        "SIGMOID_LEAST": -126 * ln2,
        "TANH_BOUND": 13 * ln2,
        "ERF_BOUND": findroot(lambda x: erfc(x) - mpf(2) ** -25, 3.9),
    }
    return {name: float(np.float32(float(value))) for name, value in exact.items()}


def _exp() -> Constants:
    from mpmath import exp, factorial, log

    half = log(2) / 2 * 1.0001

    def f(r: Any) -> Any:
        if abs(r) < 1e-3:
            return sum(r**k / factorial(k + 2) for k in range(12))
        return (exp(r) - 1 - r) / r**2

    c, e = remez(f, lambda r: 1 / max(abs(r), 1 / 64), (-half, half), 5)
    report("exp(r) - 1, relative", e)
    return named("EXP_", range(2, 7), c)


def _tanh() -> Constants:
    from mpmath import log, mpf, sqrt, tanh

    def f(z: Any) -> Any:
        if z < 1e-8:
            return mpf(1) / 3 - z / 45 + 2 * z**2 / 945
        return (sqrt(z) / tanh(sqrt(z)) - 1) / z

    c, e = remez(f, lambda z: (1 + z * f(z)) / max(z, 1e-4), (0, (log(2) / 4 * 1.0001) ** 2), 2)
    report("r / tanh(r), relative", e)
    return named("TANH_", (2, 4), c)


def _log() -> Constants:
    from mpmath import log1p, mpf, sqrt

    def f(v: Any) -> Any:
        if abs(v) < 1e-3:
            return sum((-v) ** k / mpf(k + 3) for k in range(14))
        return (log1p(v) - v + v * v / 2) / v**3

    def tolerance(v: Any) -> Any:
        return (abs(log1p(v) / v) if v else mpf(1)) / max(abs(v), 1 / 64) ** 2

    c, e = remez(f, tolerance, (sqrt(0.5) - 1 - 1e-6, sqrt(2) - 1 + 1e-6), 8)
    report("log(1 + f), relative", e)
    return named("LOG_", range(3, 11), c)


def _artanh() -> Constants:
    from mpmath import mpf

    def f(z: Any) -> Any:
        return sum(z**k / (2 * k + 3) / mpf(4) ** (k + 1) for k in range(60))

    c, e = remez(f, lambda z: (1 + z * f(z)) / max(z, 1e-3), (0, mpf(4) / 9), 4)
    report("2 artanh(w / 2), relative", e)
    return named("ARTANH_", (3, 5, 7, 9), c)


def _power() -> Constants:
    from mpmath import mpf

    def f(z: Any) -> Any:
        return sum(z**k / (2 * k + 3) / mpf(4) ** (k + 1) for k in range(60))

    c, e = remez(f, lambda z: (1 + z * f(z)) / max(z, 1e-3), (0, mpf("0.3432") ** 2), 4)
    report("2 artanh(w / 2) near zero, relative", e)
    return named("LOG_RATIO_", (3, 5, 7, 9), c)


def _trigonometry() -> Constants:
    from mpmath import factorial, mp, mpf, pi

    mp.dps = 40
    constants, rest = {"TWO_BY_PI": float(np.float32(float(2 / pi)))}, pi / 2
    for part in ("UPPER", "MIDDLE", "LOWER"):
        constants[f"HALF_PI_{part}"] = float(np.float32(float(rest)))
        rest -= mpf(constants[f"HALF_PI_{part}"])
    most = (pi / 4 * mpf("1.0001")) ** 2

    def sine(z: Any) -> Any:
        return sum((-1) ** (k + 1) * z**k / factorial(2 * k + 3) for k in range(14))

    def cosine(z: Any) -> Any:
        return sum((-1) ** k * z**k / factorial(2 * k + 4) for k in range(14))

    c, e = remez(sine, lambda z: (1 + z * sine(z)) / max(z, 1e-3), (0, most), 3)
    report("sine, relative", e)
    d, e = remez(cosine, lambda z: (1 - z / 2 + z * z * cosine(z)) / max(z * z, 1e-3), (0, most), 3)
    report("cosine, relative", e)
    return constants | named("SIN_", (3, 5, 7), c) | named("COS_", (4, 6, 8), d)


def _erf() -> Constants:
    from mpmath import erf, erfc, log, mpf, pi, sqrt

    split, bound = mpf(0.875), mpf(3.92)

    def inner(z: Any) -> Any:
        return erf(sqrt(z)) / sqrt(z) - 1 if z else 2 / sqrt(pi) - 1

    def outer(x: Any) -> Any:
        return log(erfc(x)) / x

    c, e = remez(inner, lambda z: inner(z) + 1, (0, split**2), 6)
    report("erf near zero, relative", e)
    d, e = remez(outer, lambda x: erf(x) / erfc(x) / x, (split, bound), 6)
    report("erf elsewhere, relative", e)
    return named("ERF_", range(0, 12, 2), c) | named("ERFC_", range(6), d)


FITS = {
    "reduction": _reduction,
    "exp": _exp,
    "tanh": _tanh,
    "log": _log,
    "softplus": _artanh,
    "erf": _erf,
    "power": _power,
    "trigonometry": _trigonometry,
}


def report(what: str, error: float) -> None:
    print(f"# {what}: {error:.2e}")


def named(prefix: str, numbers: Iterable[int], values: Iterable[float]) -> Constants:
    return {f"{prefix}{n}": float(np.float32(v)) for n, v in zip(numbers, values, strict=True)}


# Measuring


def _sigmoid_reference(x: float) -> float:
    return 0.0 if x < -700.0 else 1.0 / (1.0 + math.exp(-x))


def _exp_reference(x: float) -> float:
    return math.inf if x > 700.0 else math.exp(x)


def _log_reference(x: float) -> float:
    if x == 0.0:
        return -math.inf
    return math.nan if x < 0.0 else math.log(x)


def _tanh_reference(x: float) -> float:
    return math.tanh(x)


def _softplus_reference(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _softsign_reference(x: float) -> float:
    return math.copysign(1.0, x) if math.isinf(x) else x / (1.0 + abs(x))


def _erf_reference(x: float) -> float:
    return math.erf(x)


def _elu_reference(x: float) -> float:
    return x if x > 0.0 else math.expm1(x)


def _sin_reference(x: float) -> float:
    return math.sin(x)


def _cos_reference(x: float) -> float:
    return math.cos(x)


def _tan_reference(x: float) -> float:
    return math.tan(x)


REFERENCES: dict[str, Reference] = {
    "exp": _exp_reference,
    "log": _log_reference,
    "tanh": _tanh_reference,
    "sigmoid": _sigmoid_reference,
    "softplus": _softplus_reference,
    "softsign": _softsign_reference,
    "erf": _erf_reference,
    "elu": _elu_reference,
    "sin": _sin_reference,
    "cos": _cos_reference,
    "tan": _tan_reference,
}
LARGEST_ARGUMENT = {"sin": 1e5, "cos": 1e5, "tan": 1e5}
BOUNDED = {"tanh", "sigmoid", "softsign", "erf", "sin", "cos"}
ODD = {"tanh", "softsign", "erf", "sin", "tan"}
FLUSHED = {"sigmoid": 2.0**-126}
WRONG, LARGEST_ERROR, WHERE, FLUSHED_ERROR = range(4)


def measure(name: str, step: int, progress: Callable[[float], None]) -> np.ndarray:
    """(wrong, largest error in ULP, its input, largest error where results are flushed to zero).

    Wrong are results whose NaN, infinity or range differs from the exact function's, and for odd functions
    those that change with the sign of the input by more than their own sign.
    """
    from numba import njit

    from tinyrnn.lanes import f32, load, splat, store
    from tinyrnn.lanes import functions as lanes_math
    from tinyrnn.lanes import llvm as lanes_llvm
    from tinyrnn.lanes import trigonometry as lanes_trig

    if not lanes_llvm.install.cache_info().currsize:
        lanes_llvm.install(LANES)
    exact = njit(error_model="numpy")(REFERENCES[name])
    overflow, flushed = 2.0**128 - 2.0**103, FLUSHED.get(name, 0.0)
    bounded, odd = name in BOUNDED, name in ODD
    function: Any = getattr(lanes_trig if hasattr(lanes_trig, name) else lanes_math, name)
    largest = LARGEST_ARGUMENT.get(name, math.inf)

    @njit(error_model="numpy")
    def evaluate(x: int, y: int, n: int) -> None:
        for i in range(0, n, LANES):
            store(f32(y), i, function(load(f32(x), i)))

    @njit(error_model="numpy")
    def evaluate_elu(x: int, y: int, n: int) -> None:
        for i in range(0, n, LANES):
            store(f32(y), i, function(load(f32(x), i), splat(1.0)))

    @njit(error_model="numpy")
    def compare(x: np.ndarray, y: np.ndarray, mirrored: np.ndarray, found: np.ndarray) -> None:
        for i in range(len(x)):
            if abs(x[i]) > largest:
                continue
            value, right = np.float64(y[i]), exact(np.float64(x[i]))
            if math.isnan(right) or abs(right) >= overflow:
                same = math.isnan(value) if math.isnan(right) else math.isinf(value) and value * right > 0
                found[WRONG] += not same
                continue
            outside = math.isnan(value) or math.isinf(value) or (bounded and abs(value) > 1)
            if outside or (odd and (mirrored[i] != -value)):
                found[WRONG] += 1
                continue
            error = abs(value - right)
            if abs(right) < flushed:
                found[FLUSHED_ERROR] = max(found[FLUSHED_ERROR], error)
                continue
            binade = math.frexp(abs(right))[1] if right != 0.0 else -125
            ulps = error / math.ldexp(1.0, max(binade, -125) - 24)
            if ulps > found[LARGEST_ERROR]:
                found[LARGEST_ERROR], found[WHERE] = ulps, x[i]

    run = evaluate_elu if name == "elu" else evaluate
    block = 1 << 20
    found = np.zeros(4)
    y, mirrored = np.empty(block, np.float32), np.empty(block, np.float32)
    for start in range(0, 2**32, block * step):
        bits = (start + step * np.arange(block, dtype=np.uint64)) % 2**32
        x = bits.astype(np.uint32).view(np.float32)
        run(x.ctypes.data, y.ctypes.data, block)
        if odd:
            opposite = -x
            run(opposite.ctypes.data, mirrored.ctypes.data, block)
        compare(x, y, mirrored, found)
        progress(min(1.0, (start + block * step) / 2**32))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fit or measure (default: all)")
    parser.add_argument("--exhaustive", action="store_true", help="measure instead of fitting")
    parser.add_argument("--step", type=int, default=1, help="measure every STEP-th bit pattern")
    options = parser.parse_args()
    known = list(REFERENCES if options.exhaustive else FITS)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    for name in options.names or known:
        if options.exhaustive:
            _print_error(name, options.step)
        else:
            for constant, value in FITS[name]().items():
                print(f"{constant} = {value!r}")


def _print_error(name: str, step: int) -> None:
    def progress(share: float) -> None:
        if sys.stderr.isatty():
            print(f"\r{name} {share:.0%}", end="\r", file=sys.stderr)

    began = time.perf_counter()
    wrong, largest, where, flushed = measure(name, step, progress)
    less = f", flushed results within {flushed:.2e}" if name in FLUSHED else ""
    print(
        f"{name:9s} {largest:.3f} ULP at {float(where)!r}, {wrong:.0f} wrong{less} ({time.perf_counter() - began:.0f} s)",
        flush=True,
    )


if __name__ == "__main__":
    main()
