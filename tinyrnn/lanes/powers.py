"""Powers over `Vec`, branch-free, in the manner of `lanes.functions`.

The logarithm is carried as a sum of two float32, and so is its product with the exponent, as the error
of a power is that product's absolute error (N. Juffa, answers on the NVIDIA developer forum, powf).
"""

from __future__ import annotations

import math

from tinyrnn.lanes import Vec, absolute, copy_sign, equal, exponent, fma, kernel, less, mantissa, scale2, select, splat, truncate
from tinyrnn.lanes.functions import (
    LN2_LOWER,
    LN2_UPPER,
    LOG2_E,
    SMALLEST_NORMAL,
    SQRT_2,
    at_least,
    at_most,
    expm1_reduced,
    nearest,
    reduced,
)

# 2 artanh(w / 2) = w + w**3 (LOG_RATIO_3 + LOG_RATIO_5 w**2 + ...) for |w| <= 0.3432
LOG_RATIO_3 = 0.0833333283662796
LOG_RATIO_5 = 0.012500104494392872
LOG_RATIO_7 = 0.002229478443041444
LOG_RATIO_9 = 0.0004605843569152057


@kernel
def exp_of_sum(upper: Vec, lower: Vec) -> Vec:
    """exp(upper + lower) for upper between -104 and 89 and a small lower, as `exp`."""
    n = nearest(upper, splat(LOG2_E))
    p = splat(1.0) + expm1_reduced(reduced(upper, n) + lower)
    negative = less(upper, splat(0.0))
    inner = n - select(negative, splat(-24.0), splat(24.0))
    return scale2(p, inner) * select(negative, splat(2.0**-24), splat(2.0**24))


@kernel
def power_of_positive(x: Vec, y: Vec) -> Vec:
    """x**y for x >= 0 but 0 * inf, 1**y and inf**0.

    x = 2**e m with m between sqrt(1/2) and sqrt(2), and log(m) = 2 artanh((m - 1) / (m + 1)). The
    product e ln 2 is exact in its upper part.
    """
    denormal = less(x, splat(SMALLEST_NORMAL))
    normal = select(denormal, x * splat(2.0**24), x)
    e = exponent(normal) - select(denormal, splat(24.0), splat(0.0))
    m = mantissa(normal)
    upper = less(splat(SQRT_2), m)
    m = select(upper, m * splat(0.5), m)
    e = e + select(upper, splat(1.0), splat(0.0))

    f = m - splat(1.0)
    total = f + splat(2.0)
    rest = f - (total - splat(2.0))
    w = (f + f) / total
    missing = fma(-w, rest, fma(-w, total, f + f)) / total
    w2 = w * w
    series = fma(fma(w2, splat(LOG_RATIO_9), splat(LOG_RATIO_7)), w2, splat(LOG_RATIO_5))
    series = fma(series, w2, splat(LOG_RATIO_3))
    tail = fma(series, w * w2, fma(missing, w2 * splat(0.25), missing))

    whole = e * splat(LN2_UPPER)
    first = whole + w
    second = (w - (first - whole)) + fma(e, splat(LN2_LOWER), tail)
    log_upper = first + second
    log_lower = second - (log_upper - first)
    log_upper = select(equal(x, splat(0.0)), splat(-math.inf), select(less(x, splat(math.inf)), log_upper, x))

    product = y * log_upper
    bounded = at_most(at_least(product, splat(-104.0)), splat(89.0))
    correction = fma(y, log_lower, fma(y, log_upper, -product))
    return exp_of_sum(bounded, select(equal(product, bounded), correction, splat(0.0)))


@kernel
def power(x: Vec, y: Vec) -> Vec:
    """x**y to 2.90 ULP (the largest of 10**7 random pairs: 2.75), with the special cases of IEEE 754's pow; underflow is gradual.

    A negative x has a power for whole y alone; a whole y of 2**24 or more is even. x**0 and 1**y are 1,
    even for NaN, and (-1)**inf is 1.
    """
    magnitude = absolute(x)
    result = power_of_positive(magnitude, y)
    result = select(equal(magnitude, splat(1.0)), select(equal(y, y), splat(1.0), y), result)
    half = y * splat(0.5)
    whole, even = equal(truncate(y), y), equal(truncate(half), half)
    signed = select(whole, select(even, result, copy_sign(result, x)), result)
    unreal = select(whole, signed, splat(math.nan))
    result = select(less(x, splat(0.0)), select(less(splat(-math.inf), x), unreal, signed), signed)
    result = select(equal(x, splat(1.0)), splat(1.0), result)
    return select(equal(y, splat(0.0)), splat(1.0), result)
