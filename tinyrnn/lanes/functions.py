"""Elementary functions over `Vec`, branch-free, for every target of the kernel language.

The operations are computed in the order written, so that all targets with fma give the same bits.
Coefficients are fitted by `bench/fit_functions.py`, which also measures the errors stated here: the
largest over all 2**32 float32 inputs, in units in the last place (ULP) of the exact result. NaN in
gives NaN out. Denormal inputs and results need a target that does not flush them.

Bounds are set by `select` and not by `minimum` and `maximum`, which would lose a NaN. Arguments are
reduced by x = n ln 2 + r, with n rounded to nearest by adding and subtracting 1.5 * 2**23 (W. J. Cody
and W. Waite, Software Manual for the Elementary Functions, 1980): not every target can round.
"""

from __future__ import annotations

import math

from tinyrnn.lanes import (
    Vec,
    absolute,
    copy_sign,
    equal,
    exponent,
    fma,
    kernel,
    less,
    mantissa,
    scale2,
    select,
    splat,
)

ROUNDER = 12582912.0
LOG2_E = 1.4426950216293335
TWO_LOG2_E = 2.885390043258667

# ln 2 as a sum: LN2_UPPER has 16 bits, so that n * LN2_UPPER is exact; and as LN2 + LN2_ERROR.
LN2_UPPER = 0.693145751953125
LN2_LOWER = 1.428606765330187e-06
LN2 = 0.6931471824645996
HALF_LN2 = 0.3465735912322998
LN2_ERROR = -1.9046542121259336e-09

SMALLEST_NORMAL = 2.0**-126
LARGEST = 3.4028234663852886e38
SIGMOID_LEAST = -87.3365478515625

# (exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2, by degree
EXP_2 = 0.5
EXP_3 = 0.1666654348373413
EXP_4 = 0.04166628047823906
EXP_5 = 0.008366583846509457
EXP_6 = 0.0013946449616923928

# r / tanh(r) = 1 + TANH_2 r**2 + TANH_4 r**4 for |r| <= ln(2) / 4
TANH_2 = 0.33333250880241394
TANH_4 = -0.022134093567728996
TANH_BOUND = 9.010912895202637

# (log(1 + f) - f + f**2 / 2) / f**3 for sqrt(1/2) <= 1 + f <= sqrt(2), by degree
LOG_3 = 0.3333333134651184
LOG_4 = -0.2500081956386566
LOG_5 = 0.20001226663589478
LOG_6 = -0.16623356938362122
LOG_7 = 0.14201755821704865
LOG_8 = -0.13160184025764465
LOG_9 = 0.12761592864990234
LOG_10 = -0.07634513080120087
SQRT_2 = 1.4142135381698608

# 2 artanh(w / 2) = w + w**3 (ARTANH_3 + ARTANH_5 w**2 + ...) for 0 <= w <= 2/3
ARTANH_3 = 0.08333302289247513
ARTANH_5 = 0.012506727129220963
ARTANH_7 = 0.00218764110468328
ARTANH_9 = 0.0005471090553328395

# erf(x) / x - 1 for |x| <= ERF_SPLIT, and log(1 - erf(x)) / x above, by degree
ERF_0 = 0.12837915122509003
ERF_2 = -0.3761255145072937
ERF_4 = 0.11282455176115036
ERF_6 = -0.026791462674736977
ERF_8 = 0.005032181274145842
ERF_10 = -0.0006203255034051836
ERFC_0 = -1.1285254955291748
ERFC_1 = -0.6356804370880127
ERFC_2 = -0.10531209409236908
ERFC_3 = 0.02292238175868988
ERFC_4 = -0.003225123044103384
ERFC_5 = 0.0002152249071514234
ERF_SPLIT = 0.875
ERF_BOUND = 3.919205904006958


@kernel
def at_most(x: Vec, bound: Vec) -> Vec:
    """The smaller of x and a bound that is a number; NaN stays NaN."""
    return select(less(bound, x), bound, x)


@kernel
def at_least(x: Vec, bound: Vec) -> Vec:
    """The larger of x and a bound that is a number; NaN stays NaN."""
    return select(less(x, bound), bound, x)


@kernel
def nearest(x: Vec, factor: Vec) -> Vec:
    """The integer nearest to x * factor, for products below 2**22 in magnitude."""
    return fma(x, factor, splat(ROUNDER)) - splat(ROUNDER)


@kernel
def reduced(x: Vec, n: Vec) -> Vec:
    """x - n ln 2 for integers |n| <= 150, rounded once."""
    return fma(n, splat(-LN2_LOWER), fma(n, splat(-LN2_UPPER), x))


@kernel
def expm1_reduced(r: Vec) -> Vec:
    """exp(r) - 1 for |r| <= ln(2) / 2."""
    r2 = r * r
    low = fma(r, splat(EXP_3), splat(EXP_2))
    high = fma(fma(r, splat(EXP_6), splat(EXP_5)), r, splat(EXP_4))
    return fma(fma(high, r2, low), r2, r)


@kernel
def exp(x: Vec) -> Vec:
    """exp(x) to 1.07 ULP; underflow is gradual, overflow gives inf.

    exp(x) = 2**n exp(r). The power of two is applied in two factors, 2**(n - s) and 2**s with s = 24
    above and -24 below zero, so that both are normal numbers for every n and only the last product
    rounds, underflows or overflows.
    """
    bounded = at_most(at_least(x, splat(-104.0)), splat(89.0))
    n = nearest(bounded, splat(LOG2_E))
    p = splat(1.0) + expm1_reduced(reduced(bounded, n))
    negative = less(x, splat(0.0))
    inner = n - select(negative, splat(-24.0), splat(24.0))
    return scale2(p, inner) * select(negative, splat(2.0**-24), splat(2.0**24))


@kernel
def log(x: Vec) -> Vec:
    """log(x) to 0.91 ULP, denormal inputs included; log(0) = -inf, NaN below zero.

    x = 2**e (1 + f) with 1 + f between sqrt(1/2) and sqrt(2), and log(1 + f) by a polynomial
    (S. Moshier, Cephes, logf).
    """
    denormal = less(x, splat(SMALLEST_NORMAL))
    normal = select(denormal, x * splat(2.0**24), x)
    e = exponent(normal) - select(denormal, splat(24.0), splat(0.0))
    m = mantissa(normal)
    upper = less(splat(SQRT_2), m)
    f = select(upper, m * splat(0.5), m) - splat(1.0)
    e = e + select(upper, splat(1.0), splat(0.0))
    f2 = f * f
    f4 = f2 * f2
    low = fma(fma(f, splat(LOG_6), splat(LOG_5)), f2, fma(f, splat(LOG_4), splat(LOG_3)))
    high = fma(fma(f, splat(LOG_10), splat(LOG_9)), f2, fma(f, splat(LOG_8), splat(LOG_7)))
    tail = fma(fma(high, f4, low), f * f2, f2 * splat(-0.5))
    y = fma(e, splat(LN2), f + tail)
    y = select(less(x, splat(math.inf)), y, x)
    y = select(less(x, splat(0.0)), splat(math.nan), y)
    return select(equal(x, splat(0.0)), splat(-math.inf), y)


@kernel
def tanh(x: Vec) -> Vec:
    """tanh(x) to 2.50 ULP, odd to the last bit and within [-1, 1]; a tiny x is returned as it is.

    x = m ln(2) / 2 + r. With t = 2**m, tanh(m ln(2) / 2) = (t - 1) / (t + 1), and with
    q = r / tanh(r) the addition theorem gives one quotient:

        tanh(x) = (q (t - 1) + r (t + 1)) / (q (t + 1) + r (t - 1))

    Changing the sign of x scales both terms by the power of two 1 / t, which commutes with rounding.
    """
    bounded = at_most(at_least(x, splat(-TANH_BOUND)), splat(TANH_BOUND))
    m = nearest(bounded, splat(TWO_LOG2_E))
    r = fma(m, splat(-HALF_LN2), bounded)
    t = scale2(splat(1.0), m)
    difference = splat(1.0) - t
    total = splat(1.0) + t
    r2 = r * r
    q = fma(fma(r2, splat(TANH_4), splat(TANH_2)), r2, splat(1.0))
    return fma(-q, difference, r * total) / fma(q, total, -(r * difference))


@kernel
def sigmoid(x: Vec) -> Vec:
    """1 / (1 + exp(-x)) to 2.77 ULP and within [0, 1]; a result below 2**-126 becomes 0.

    x = m ln 2 + r. With t = 2**m the quotient is t / (t + exp(-r)), accurate relative to the result
    in both tails. The error of LN2 is put right in the linear term alone, off the longest chain of
    operations. Far below zero m leaves the range of `scale2`: the last line drops those lanes.
    """
    bounded = at_most(x, splat(40.0))
    m = nearest(bounded, splat(LOG2_E))
    r = fma(m, splat(-LN2), bounded)
    t = scale2(splat(1.0), m)
    r2 = r * r
    low = fma(r, splat(-EXP_3), splat(EXP_2))
    high = fma(fma(r, splat(EXP_6), splat(-EXP_5)), r, splat(EXP_4))
    tail = fma(high, r2 * r2, fma(low, r2, -fma(m, splat(-LN2_ERROR), r)))
    y = t / ((splat(1.0) + t) + tail)
    return select(less(x, splat(SIGMOID_LEAST)), splat(0.0), y)


@kernel
def softplus(x: Vec) -> Vec:
    """log(1 + exp(x)) to 2.87 ULP; underflow is gradual.

    max(x, 0) + log(1 + u) with u = exp(-|x|), and log(1 + u) = 2 artanh(w / 2) with w = 2u / (2 + u).
    """
    u = exp(-absolute(x))
    w = (u + u) / (u + splat(2.0))
    w2 = w * w
    low = fma(w2, splat(ARTANH_5), splat(ARTANH_3))
    high = fma(w2, splat(ARTANH_9), splat(ARTANH_7))
    return at_least(x, splat(0.0)) + fma(fma(high, w2 * w2, low), w * w2, w)


@kernel
def softsign(x: Vec) -> Vec:
    """x / (1 + |x|) to 1.50 ULP; 1 at infinity with the sign of x."""
    bounded = at_most(at_least(x, splat(-LARGEST)), splat(LARGEST))
    return bounded / (splat(1.0) + absolute(bounded))


@kernel
def erf(x: Vec) -> Vec:
    """The error function to 1.16 ULP, odd to the last bit and within [-1, 1].

    An odd polynomial near zero, elsewhere 1 - exp(a polynomial), both computed everywhere
    (N. Juffa, answers on the NVIDIA developer forum, erff).
    """
    v = at_most(absolute(x), splat(ERF_BOUND))
    v2 = v * v
    v4 = v2 * v2
    p = fma(fma(v2, splat(ERF_10), splat(ERF_8)), v4, fma(v2, splat(ERF_6), splat(ERF_4)))
    p = fma(p, v4, fma(v2, splat(ERF_2), splat(ERF_0)))
    g = fma(fma(v, splat(ERFC_5), splat(ERFC_4)), v2, fma(v, splat(ERFC_3), splat(ERFC_2)))
    g = fma(g, v2, fma(v, splat(ERFC_1), splat(ERFC_0))) * v
    n = nearest(g, splat(LOG2_E))
    t = scale2(splat(1.0), n)
    outer = fma(-t, expm1_reduced(fma(n, splat(-LN2), g)), splat(1.0) - t)
    return copy_sign(select(less(v, splat(ERF_SPLIT)), fma(v, p, v), outer), x)


@kernel
def elu(x: Vec, alpha: Vec) -> Vec:
    """x where x >= 0, else alpha (exp(x) - 1), to 1.05 ULP with alpha = 1.

    exp(x) - 1 = 2**n (exp(r) - 1) + (2**n - 1), accurate relative to the result near zero.
    """
    bounded = at_most(at_least(x, splat(-20.0)), splat(0.0))
    n = nearest(bounded, splat(LOG2_E))
    t = scale2(splat(1.0), n)
    y = fma(t, expm1_reduced(reduced(bounded, n)), t - splat(1.0))
    return select(less(x, splat(0.0)), alpha * y, x)
