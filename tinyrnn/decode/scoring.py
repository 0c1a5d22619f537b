"""One frame of the model and its scores, in the kernel language: shared by the loops over one and over many sequences.

Sums over a vocabulary are taken in the order of its tokens, in float64: no choice depends on LANES.
"""

from __future__ import annotations

from typing import Any

from tinyrnn.decode import job as k
from tinyrnn.lanes import (
    at,
    equal,
    f32,
    f64,
    get,
    i32,
    i64,
    invoke2,
    lanes,
    less,
    load,
    load_part,
    put,
    select,
    splat,
    store,
    store_part,
)
from tinyrnn.lanes.functions import exp, log

SUM_TOLERANCE = 1e-3
NONE = float("-inf")


def put_token(j: Any, address: int, hot: Any, token: int) -> None:
    """Put a token into the model's input at an address; `hot` holds the element of a one-hot input that is 1."""
    form = get(j, k.FORM)
    if form == k.INDEX64:
        put(i64(address), 0, token)
    elif form == k.INDEX32:
        put(i32(address), 0, token)
    elif form == k.ONE_HOT:
        x = f32(address)
        put(x, get(hot, 0), 0.0)
        put(x, token, 1.0)
        put(hot, 0, token)
    else:
        n = get(j, k.SIZE)
        copy(f32(address), at(f32(get(j, k.TABLE)), token * n), n)


def copy(y: Any, x: Any, n: int) -> None:
    """n float32."""
    for i in range(0, n, lanes()):
        store_part(y, i, load_part(x, i, n - i), n - i)


def feed(j: Any, token: int) -> int:
    """Put a token into the model's input and run one frame; returns the model's status."""
    put_token(j, get(j, k.FEED), at(j, k.HOT), token)
    status = invoke2(get(j, k.FUNCTION), get(j, k.CONTEXT), 1)
    put(j, k.REFUSAL, status)
    return status


def feed_prompt(j: Any) -> int:
    """Feed all tokens of the prompt but the last, which is fed next; returns the model's status."""
    n = get(j, k.PROMPTED)
    prompt = i64(get(j, k.PROMPT))
    for i in range(n):
        put(j, k.LAST, get(prompt, i))
        if i + 1 < n and feed(j, get(prompt, i)) != 0:
            return 1
    put(j, k.PROMPTED, 0)
    return 0


def largest(x: Any, n: int, spare: Any) -> int:
    """The index of the first largest element; -1 where one is NaN or the largest is infinite. `spare` has room for 3 LANES.

    Each lane keeps its largest element, the vector that held it first, and whether it met a NaN.
    """
    whole = n - n % lanes()
    most = splat(NONE)
    where = splat(0.0)
    strange = splat(0.0)
    for i in range(0, whole, lanes()):
        v = load(x, i)
        larger = less(most, v)
        most = select(larger, v, most)
        where = select(larger, splat(i // lanes()), where)
        strange = select(equal(v, v), strange, splat(1.0))
    store(spare, 0, most)
    store(spare, lanes(), where)
    store(spare, 2 * lanes(), strange)
    best = NONE
    index = 0
    sound = True
    for lane in range(lanes() if whole > 0 else 0):
        v = get(spare, lane)
        place = int(get(spare, lanes() + lane)) * lanes() + lane
        if v > best or (v == best and place < index):
            best = v
            index = place
        if get(spare, 2 * lanes() + lane) != 0.0:
            sound = False
    for i in range(whole, n):
        v = get(x, i)
        if v > best:
            best = v
            index = i
        if v != v:
            sound = False
    return index if sound and best - best == 0.0 else -1


def distribution(x: Any, n: int) -> bool:
    """Whether no element is below zero and their sum is 1."""
    total = 0.0
    for i in range(n):
        v = get(x, i)
        if v < 0.0:
            return False
        total += v
    return abs(total - 1.0) < SUM_TOLERANCE


def logarithm(x: float, spare: Any) -> Any:
    """log(x) in float32; `spare` has room for one."""
    store_part(spare, 0, log(splat(x)), 1)
    return get(spare, 0)


def understand(j: Any) -> int:
    """Determine the kind of the scores; returns DONE or NO_DISTRIBUTION."""
    kind = get(j, k.KIND)
    if kind != k.LOGITS:
        found = distribution(f32(get(j, k.SCORES)), get(j, k.VOCABULARY))
        if kind == k.PROBABILITIES and not found:
            return k.NO_DISTRIBUTION
        put(j, k.KIND, k.PROBABILITIES if found else k.LOGITS)
    return k.DONE


def weigh(j: Any, best: int, sharpness: float) -> Any:
    """Set weights = exp(sharpness (l - max l)) for log-likelihoods l up to a constant; returns their sum."""
    x = f32(get(j, k.SCORES))
    w = f32(get(j, k.WEIGHTS))
    n = get(j, k.VOCABULARY)
    if get(j, k.KIND) == k.PROBABILITIES:
        top = splat(logarithm(get(x, best), at(w, n)))
        for i in range(0, n, lanes()):
            store_part(w, i, exp((log(load_part(x, i, n - i)) - top) * splat(sharpness)), n - i)
    else:
        top = splat(get(x, best))
        for i in range(0, n, lanes()):
            store_part(w, i, exp((load_part(x, i, n - i) - top) * splat(sharpness)), n - i)
    return summed(w, n)


def summed(w: Any, n: int) -> Any:
    """The sum in float64, of eight partial sums: their order does not depend on LANES."""
    a = b = c = d = e = f = g = h = 0.0
    whole = n - n % 8
    for i in range(0, whole, 8):
        a += get(w, i)
        b += get(w, i + 1)
        c += get(w, i + 2)
        d += get(w, i + 3)
        e += get(w, i + 4)
        f += get(w, i + 5)
        g += get(w, i + 6)
        h += get(w, i + 7)
    for i in range(whole, n):
        a += get(w, i)
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


def log_normalizer(j: Any, best: int) -> Any:
    """The number to subtract from a logit for its log-likelihood. The weights are overwritten."""
    total = weigh(j, best, 1.0)
    return get(f32(get(j, k.SCORES)), best) + 1.0 * logarithm(total, at(f32(get(j, k.WEIGHTS)), get(j, k.VOCABULARY)))


def log_likelihood(j: Any, token: int, best: int) -> Any:
    """The log-likelihood of a token by the model. The weights are overwritten, unless they were sampled at temperature 1."""
    x = get(f32(get(j, k.SCORES)), token)
    if get(j, k.KIND) == k.PROBABILITIES:
        return 1.0 * logarithm(x, at(f32(get(j, k.WEIGHTS)), get(j, k.VOCABULARY)))
    floats = f64(get(j, k.SELF))
    if get(j, k.SAMPLING) == 0 or get(floats, k.SHARPNESS) != 1.0:
        put(floats, k.TOTAL, weigh(j, best, 1.0))
    total = get(floats, k.TOTAL)
    top = get(f32(get(j, k.SCORES)), best)
    return (1.0 * x - 1.0 * top) - logarithm(total, at(f32(get(j, k.WEIGHTS)), get(j, k.VOCABULARY)))
