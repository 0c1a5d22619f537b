"""The loop over the tokens of one sequence in the kernel language: run the model, choose a token, feed it back.

It is compiled once for all models; the model is called through the address of its `run`.
"""

from __future__ import annotations

from typing import Any

from tinyrnn.decode import job as k
from tinyrnn.decode.scoring import feed, feed_prompt, largest, log_likelihood, understand, weigh
from tinyrnn.lanes import f32, f64, get, i64, put, u8

PAGE = f"from {__name__} import generate\n\n\ndef run(job, steps):\n    return generate(job, steps)\n"
"""the page that is compiled"""


def mixed(z: int) -> int:
    """SplitMix64's finaliser (G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number generators, 2014)."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def uniform(j: Any) -> float:
    """The next random number in [0, 1): number `DRAWS` of the sequence that the seed determines."""
    count = get(j, k.DRAWS) + 1
    put(j, k.DRAWS, count)
    bits = mixed(mixed(get(j, k.SEED)) + count * -0x61C8864680B583EB)
    return ((bits >> 11) & 0x1FFFFFFFFFFFFF) * 1.1102230246251565e-16


def heavier(w: Any, a: int, b: int) -> bool:
    """Whether token a comes before token b: the heavier one or, of equal weights, the lower one."""
    x = get(w, a)
    y = get(w, b)
    return x > y or (x == y and a < b)


def sift(w: Any, o: Any, start: int, n: int) -> None:
    """Sift element `start` of the heap o[:n] down to its place; the heaviest token is at the head."""
    token = get(o, start)
    here = start
    sinking = True
    while sinking:
        child = 2 * here + 1
        if child + 1 < n and heavier(w, get(o, child + 1), get(o, child)):
            child += 1
        sinking = child < n and heavier(w, get(o, child), token)
        if sinking:
            put(o, here, get(o, child))
            here = child
    put(o, here, token)


def sample(j: Any, best: int) -> Any:
    """A token drawn from the weights, cut to the `TOP_K` heaviest, then to the fewest that hold `TOP_P` of the rest.

    The heaviest are popped off a heap, into the end of the array that holds it, so that order[n - 1] is the first.
    """
    w = f32(get(j, k.WEIGHTS))
    o = i64(get(j, k.ORDER))
    n = get(j, k.VOCABULARY)
    total = weigh(j, best, get(f64(get(j, k.SELF)), k.SHARPNESS))
    put(f64(get(j, k.SELF)), k.TOTAL, total)
    most = get(j, k.TOP_K)
    p = get(f64(get(j, k.SELF)), k.TOP_P)
    u = uniform(j)
    reached = 0.0
    if most == 0 and p == 1.0:
        for i in range(n):
            reached += get(w, i)
            if reached > u * total:
                return i
        return best
    for i in range(n):
        put(o, i, i)
    for i in range(n // 2):
        sift(w, o, n // 2 - 1 - i, n)
    if most == 0:
        most = n
    held = 0.0
    popped = 0
    enough = p * total if most == n else total
    while popped < most and (popped == 0 or held < enough):
        token = get(o, 0)
        last = n - 1 - popped
        put(o, 0, get(o, last))
        put(o, last, token)
        sift(w, o, 0, last)
        held += get(w, token)
        popped += 1
    if most < n:
        total = held
        held = get(w, get(o, n - 1))
        kept = 1
        while kept < popped and held < p * total:
            held += get(w, get(o, n - 1 - kept))
            kept += 1
        popped = kept
    for i in range(popped):
        token = get(o, n - 1 - i)
        reached += get(w, token)
        if reached > u * held:
            return token
    return best


def choose(j: Any) -> int:
    """Choose the next token by the scores; returns a status."""
    best = largest(f32(get(j, k.SCORES)), get(j, k.VOCABULARY), f32(get(j, k.WEIGHTS)))
    if best < 0:
        return k.NO_NUMBER
    if get(j, k.KIND) != k.LOGITS and get(j, k.DRAWS) == 0 and understand(j) != k.DONE:
        return k.NO_DISTRIBUTION
    token = best
    if get(j, k.SAMPLING) != 0:
        token = sample(j, best)
    else:
        put(j, k.DRAWS, get(j, k.DRAWS) + 1)
    t = get(j, k.MADE)
    if get(j, k.LIKELIHOODS) != 0:
        put(f32(get(j, k.LIKELIHOODS)), t, log_likelihood(j, token, best))
    put(i64(get(j, k.TOKENS)), t, token)
    put(j, k.LAST, token)
    put(j, k.MADE, t + 1)
    return k.DONE


def generate(job: int, steps: int) -> int:
    """Generate at most `steps` tokens; returns a status."""
    j = i64(job)
    put(j, k.SELF, job)
    put(j, k.MADE, 0)
    if feed_prompt(j) != 0:
        return k.REFUSED
    stop = u8(get(j, k.STOP))
    for _ in range(steps):
        if feed(j, get(j, k.LAST)) != 0:
            return k.REFUSED
        status = choose(j)
        if status != k.DONE or get(stop, get(j, k.LAST)) != 0:
            return status
    return k.DONE
