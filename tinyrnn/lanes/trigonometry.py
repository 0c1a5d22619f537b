"""Sine, cosine and tangent over `Vec`, branch-free, in the manner of `lanes.functions`.

x = n pi / 2 + r with pi / 2 as a sum of three float32 (Cody and Waite), whose first product fma takes
off exactly. Beyond BOUND, where float32 are 0.5 apart, n has no room and the result is NaN.
"""

from __future__ import annotations

import math

from tinyrnn.lanes import Vec, absolute, equal, fma, kernel, less, less_equal, select, splat
from tinyrnn.lanes.functions import nearest

TWO_BY_PI = 0.6366197466850281
HALF_PI_UPPER = 1.5707963705062866
HALF_PI_MIDDLE = -4.371138828673793e-08
HALF_PI_LOWER = -1.7151245100058819e-15
BOUND = 6500000.0

# (sin(r) - r) / r**3 and (cos(r) - 1 + r**2 / 2) / r**4 for |r| <= pi / 4, by degree of the product
SIN_3 = -0.16666655242443085
SIN_5 = 0.00833216030150652
SIN_7 = -0.00019515218446031213
COS_4 = 0.04166664555668831
COS_6 = -0.0013887315290048718
COS_8 = 2.4433082217001356e-05


@kernel
def quarter_turns(x: Vec) -> Vec:
    """The integer nearest to 2 x / pi; NaN beyond BOUND."""
    return nearest(select(less_equal(absolute(x), splat(BOUND)), x, splat(math.nan)), splat(TWO_BY_PI))


@kernel
def less_quarter_turns(x: Vec, n: Vec) -> Vec:
    """x - n pi / 2."""
    return fma(n, splat(-HALF_PI_LOWER), fma(n, splat(-HALF_PI_MIDDLE), fma(n, splat(-HALF_PI_UPPER), x)))


@kernel
def sin_reduced(r: Vec) -> Vec:
    """sin(r) for |r| <= pi / 4."""
    r2 = r * r
    return fma(fma(fma(r2, splat(SIN_7), splat(SIN_5)), r2, splat(SIN_3)), r2 * r, r)


@kernel
def cos_reduced(r: Vec) -> Vec:
    """cos(r) for |r| <= pi / 4."""
    r2 = r * r
    series = fma(fma(r2, splat(COS_8), splat(COS_6)), r2, splat(COS_4))
    return fma(fma(series, r2, splat(-0.5)), r2, splat(1.0))


@kernel
def sin_turned(r: Vec, n: Vec) -> Vec:
    """sin(r + n pi / 2) for |r| <= pi / 4 and an integer n."""
    quarter = n - splat(4.0) * nearest(n - splat(1.5), splat(0.25))
    even = equal(absolute(quarter - splat(1.0)), splat(1.0))
    y = select(even, sin_reduced(r), cos_reduced(r))
    return select(less(splat(1.5), quarter), -y, y)


@kernel
def sin(x: Vec) -> Vec:
    """sin(x) to 1.54 ULP for |x| <= 100000, within 1e-6 up to 6500000, NaN beyond."""
    n = quarter_turns(x)
    return sin_turned(less_quarter_turns(x, n), n)


@kernel
def cos(x: Vec) -> Vec:
    """cos(x) to 1.54 ULP for |x| <= 100000, within 1e-6 up to 6500000, NaN beyond."""
    n = quarter_turns(x)
    return sin_turned(less_quarter_turns(x, n), n + splat(1.0))


@kernel
def tan(x: Vec) -> Vec:
    """tan(x) to 3.54 ULP for |x| <= 100000, NaN beyond 6500000."""
    n = quarter_turns(x)
    r = less_quarter_turns(x, n)
    return sin_turned(r, n) / sin_turned(r, n + splat(1.0))
