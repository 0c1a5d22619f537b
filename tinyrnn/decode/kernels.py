"""The loop of a generation in the kernel language: run the model, choose a token, feed it back.

It is compiled once for all models; the model is called through the address of its `run`. `generate` takes a *job*,
words of 8 bytes in the order below, floats among them as float64. Sums over a vocabulary are taken in the order of its
tokens, in float64: no choice depends on LANES.
"""

from __future__ import annotations

from typing import Any

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
    u8,
)
from tinyrnn.lanes_math import exp, log

PAGE = f"from {__name__} import generate\n\n\ndef run(job, steps):\n    return generate(job, steps)\n"
"""the page that is compiled"""

# --- a job: the model -----------------------------------------------------------------------------------------------
FUNCTION = 0
"""the model's `run`"""
CONTEXT = 1
SCORES = 2
"""float32[VOCABULARY], written by the model"""
VOCABULARY = 3
FEED = 4
"""the model's input"""
FORM = 5
SIZE = 6
"""elements of the input, where it is float32"""
TABLE = 7
HOT = 8
"""the element of a one-hot input that is 1"""
KIND = 9
# --- what is asked --------------------------------------------------------------------------------------------------
PROMPT = 10
PROMPTED = 11
"""tokens of the prompt"""
STOP = 12
"""uint8[VOCABULARY]: whether a token ends a sequence"""
SAMPLING = 13
SHARPNESS = 14
"""float: 1 / temperature"""
TOP_K = 15
TOP_P = 16
"""float"""
SEED = 17
DRAWS = 18
# --- memory and results ---------------------------------------------------------------------------------------------
WEIGHTS = 19
"""float32[VOCABULARY + 3 LANES]"""
ORDER = 20
"""int64[VOCABULARY]"""
TOKENS = 21
"""int64[steps]; of a beam search int64[WIDTH, steps]"""
LIKELIHOODS = 22
"""float32[steps], or 0: not wanted"""
LAST = 23
"""the token to be fed next; after status REFUSED the one that was refused"""
MADE = 24
"""tokens that were written; of a beam search hypotheses"""
# --- beam search ----------------------------------------------------------------------------------------------------
WIDTH = 25
"""0: no beam search"""
CANDIDATES = 26
STATES = 27
"""bytes[2, WIDTH, STRIDE]: the states of the hypotheses, two generations of them"""
STRIDE = 28
STATE_WORDS = 29
"""float32 in a state"""
PENALTIES = 30
"""float64[steps + 1], by length"""
TOTALS = 31
"""float64[2, WIDTH]"""
NEXT = 32
"""int64[2, WIDTH]: the last token of each hypothesis"""
POOL = 33
"""int64[CANDIDATES, 3]: total (a float64), hypothesis, token"""
PARENTS = 34
"""int64[steps, WIDTH]"""
CHOSEN = 35
"""int64[steps, WIDTH]"""
ENDED = 36
"""int64[WIDTH, 5]: score and total (two float64), length, hypothesis, the token that ended it or -1"""
SELF = 37
"""the address of the job"""
REFUSAL = 38
"""what the model's `run` returned last: 0, or 1 + the number of the input that it refuses"""
TOTAL = 39
"""float: the sum of the weights of a draw"""
WORDS = 40

INDEX64, INDEX32, ONE_HOT, ROW = 0, 1, 2, 3
"""forms"""
UNKNOWN, LOGITS, PROBABILITIES = -1, 0, 1
"""kinds"""
DONE, NO_NUMBER, NO_DISTRIBUTION, REFUSED = 0, 1, 2, 3
"""statuses"""
SUM_TOLERANCE = 1e-3
NONE = float("-inf")


def feed(j: Any, token: int) -> int:
    """Put a token into the model's input and run one frame; the model's status."""
    form = get(j, FORM)
    if form == INDEX64:
        put(i64(get(j, FEED)), 0, token)
    elif form == INDEX32:
        put(i32(get(j, FEED)), 0, token)
    elif form == ONE_HOT:
        x = f32(get(j, FEED))
        put(x, get(j, HOT), 0.0)
        put(x, token, 1.0)
        put(j, HOT, token)
    else:
        x = f32(get(j, FEED))
        n = get(j, SIZE)
        row = at(f32(get(j, TABLE)), token * n)
        for i in range(0, n, lanes()):
            store_part(x, i, load_part(row, i, n - i), n - i)
    status = invoke2(get(j, FUNCTION), get(j, CONTEXT), 1)
    put(j, REFUSAL, status)
    return status


def feed_prompt(j: Any) -> int:
    """All tokens of the prompt but the last, which is the next to be fed; the model's status."""
    n = get(j, PROMPTED)
    prompt = i64(get(j, PROMPT))
    for i in range(n):
        put(j, LAST, get(prompt, i))
        if i + 1 < n and feed(j, get(prompt, i)) != 0:
            return 1
    put(j, PROMPTED, 0)
    return 0


def largest(x: Any, n: int, spare: Any) -> int:
    """The first of the largest elements; -1 where one is NaN or the largest is infinite. `spare` has room for 3 LANES.

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
    """Settle what kind of scores there are; DONE or NO_DISTRIBUTION."""
    kind = get(j, KIND)
    if kind != LOGITS:
        found = distribution(f32(get(j, SCORES)), get(j, VOCABULARY))
        if kind == PROBABILITIES and not found:
            return NO_DISTRIBUTION
        put(j, KIND, PROBABILITIES if found else LOGITS)
    return DONE


def weigh(j: Any, best: int, sharpness: float) -> Any:
    """weights = exp(sharpness (l - max l)) for log-likelihoods l up to a constant; their sum."""
    x = f32(get(j, SCORES))
    w = f32(get(j, WEIGHTS))
    n = get(j, VOCABULARY)
    if get(j, KIND) == PROBABILITIES:
        top = splat(logarithm(get(x, best), at(w, n)))
        for i in range(0, n, lanes()):
            store_part(w, i, exp((log(load_part(x, i, n - i)) - top) * splat(sharpness)), n - i)
    else:
        top = splat(get(x, best))
        for i in range(0, n, lanes()):
            store_part(w, i, exp((load_part(x, i, n - i) - top) * splat(sharpness)), n - i)
    return summed(w, n)


def summed(w: Any, n: int) -> Any:
    """In float64, eight sums side by side: their order is the same for any LANES."""
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
    """What to take from a logit for its log-likelihood. The weights are overwritten."""
    total = weigh(j, best, 1.0)
    return get(f32(get(j, SCORES)), best) + 1.0 * logarithm(total, at(f32(get(j, WEIGHTS)), get(j, VOCABULARY)))


def log_likelihood(j: Any, token: int, best: int) -> Any:
    """Of a token, as the model has it. The weights are overwritten, but not where they were drawn from at temperature 1."""
    x = get(f32(get(j, SCORES)), token)
    if get(j, KIND) == PROBABILITIES:
        return 1.0 * logarithm(x, at(f32(get(j, WEIGHTS)), get(j, VOCABULARY)))
    floats = f64(get(j, SELF))
    if get(j, SAMPLING) == 0 or get(floats, SHARPNESS) != 1.0:
        put(floats, TOTAL, weigh(j, best, 1.0))
    total = get(floats, TOTAL)
    top = get(f32(get(j, SCORES)), best)
    return (1.0 * x - 1.0 * top) - logarithm(total, at(f32(get(j, WEIGHTS)), get(j, VOCABULARY)))


# --- sampling -------------------------------------------------------------------------------------------------------


def mixed(z: int) -> int:
    """SplitMix64's finaliser (G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number generators, 2014)."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def uniform(j: Any) -> float:
    """The next number in [0, 1): number `DRAWS` of those that belong to the seed."""
    count = get(j, DRAWS) + 1
    put(j, DRAWS, count)
    bits = mixed(mixed(get(j, SEED)) + count * -0x61C8864680B583EB)
    return ((bits >> 11) & 0x1FFFFFFFFFFFFF) * 1.1102230246251565e-16


def heavier(w: Any, a: int, b: int) -> bool:
    """Whether token a comes before token b: by weight, of equal weights the lower."""
    x = get(w, a)
    y = get(w, b)
    return x > y or (x == y and a < b)


def sift(w: Any, o: Any, start: int, n: int) -> None:
    """Let element `start` of the heap o[:n] sink to its place; the heaviest token is at its head."""
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
    w = f32(get(j, WEIGHTS))
    o = i64(get(j, ORDER))
    n = get(j, VOCABULARY)
    total = weigh(j, best, get(f64(get(j, SELF)), SHARPNESS))
    put(f64(get(j, SELF)), TOTAL, total)
    k = get(j, TOP_K)
    p = get(f64(get(j, SELF)), TOP_P)
    u = uniform(j)
    reached = 0.0
    if k == 0 and p == 1.0:
        for i in range(n):
            reached += get(w, i)
            if reached > u * total:
                return i
        return best
    for i in range(n):
        put(o, i, i)
    for i in range(n // 2):
        sift(w, o, n // 2 - 1 - i, n)
    if k == 0:
        k = n
    held = 0.0
    popped = 0
    enough = p * total if k == n else total
    while popped < k and (popped == 0 or held < enough):
        token = get(o, 0)
        last = n - 1 - popped
        put(o, 0, get(o, last))
        put(o, last, token)
        sift(w, o, 0, last)
        held += get(w, token)
        popped += 1
    if k < n:
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


# --- the two ways of going on ---------------------------------------------------------------------------------------


def generate(job: int, steps: int) -> int:
    """At most `steps` tokens, or a beam search over as many; a status."""
    j = i64(job)
    put(j, SELF, job)
    put(j, MADE, 0)
    if feed_prompt(j) != 0:
        return REFUSED
    if get(j, WIDTH) != 0:
        return search(j, steps)
    tokens = i64(get(j, TOKENS))
    likelihoods = f32(get(j, LIKELIHOODS))
    stop = u8(get(j, STOP))
    for t in range(steps):
        if feed(j, get(j, LAST)) != 0:
            return REFUSED
        best = largest(f32(get(j, SCORES)), get(j, VOCABULARY), f32(get(j, WEIGHTS)))
        if best < 0:
            return NO_NUMBER
        if get(j, KIND) != LOGITS and get(j, DRAWS) == 0 and understand(j) != DONE:
            return NO_DISTRIBUTION
        token = best
        if get(j, SAMPLING) != 0:
            token = sample(j, best)
        else:
            put(j, DRAWS, get(j, DRAWS) + 1)
        if get(j, LIKELIHOODS) != 0:
            put(likelihoods, t, log_likelihood(j, token, best))
        put(tokens, t, token)
        put(j, LAST, token)
        put(j, MADE, t + 1)
        if get(stop, token) != 0:
            return DONE
    return DONE


def expand(j: Any, hypothesis: int, total: float, best: int, count: int) -> int:
    """Enter a hypothesis with each next token into the pool of the best candidates; how many there are then.

    Of equal totals the hypothesis and the token that come first are better.
    """
    n = get(j, VOCABULARY)
    room = get(j, CANDIDATES)
    x = f32(get(j, SCORES))
    w = f32(get(j, WEIGHTS))
    pool = i64(get(j, POOL))
    totals = f64(get(j, POOL))
    if get(j, KIND) == PROBABILITIES:
        for i in range(0, n, lanes()):
            store_part(w, i, log(load_part(x, i, n - i)), n - i)
        x = w
    else:
        total -= log_normalizer(j, best)
    least = NONE if count < room else get(totals, 3 * (count - 1))
    for token in range(n):
        reached = total + get(x, token)
        if reached > least:
            if count < room:
                count += 1
            i = count - 1
            while i > 0 and reached > get(totals, 3 * (i - 1)):
                for word in range(3):
                    put(pool, 3 * i + word, get(pool, 3 * (i - 1) + word))
                i -= 1
            put(totals, 3 * i, reached)
            put(pool, 3 * i + 1, hypothesis)
            put(pool, 3 * i + 2, token)
            if count == room:
                least = get(totals, 3 * (count - 1))
    return count


def end(j: Any, length: int, total: float, hypothesis: int, token: int) -> None:
    """Enter a hypothesis that has ended among the best of them."""
    score = total / get(f64(get(j, PENALTIES)), length)
    ended = i64(get(j, ENDED))
    scores = f64(get(j, ENDED))
    count = get(j, MADE)
    room = get(j, WIDTH)
    if count == room and score <= get(scores, 5 * (count - 1)):
        return
    if count < room:
        count += 1
        put(j, MADE, count)
    i = count - 1
    while i > 0 and score > get(scores, 5 * (i - 1)):
        for word in range(5):
            put(ended, 5 * i + word, get(ended, 5 * (i - 1) + word))
        i -= 1
    put(scores, 5 * i, score)
    put(scores, 5 * i + 1, total)
    put(ended, 5 * i + 2, length)
    put(ended, 5 * i + 3, hypothesis)
    put(ended, 5 * i + 4, token)


def search(j: Any, steps: int) -> int:
    """Beam search. Ends when no hypothesis that goes on can come among the best `WIDTH` that have ended."""
    width = get(j, WIDTH)
    stop = u8(get(j, STOP))
    states = get(j, STATES)
    stride = get(j, STRIDE)
    pool = i64(get(j, POOL))
    reached = f64(get(j, POOL))
    penalties = f64(get(j, PENALTIES))
    alive = 1
    side = 0
    length = 0
    put(f64(get(j, TOTALS)), 0, 0.0)
    put(i64(get(j, NEXT)), 0, get(j, LAST))
    while length < steps and alive > 0:
        totals = at(f64(get(j, TOTALS)), side * width)
        last = at(i64(get(j, NEXT)), side * width)
        count = 0
        for b in range(alive):
            put(i64(get(j, CONTEXT)), 1, states + (side * width + b) * stride)
            put(j, LAST, get(last, b))
            if feed(j, get(last, b)) != 0:
                return REFUSED
            best = largest(f32(get(j, SCORES)), get(j, VOCABULARY), f32(get(j, WEIGHTS)))
            if best < 0:
                return NO_NUMBER
            if length == 0 and understand(j) != DONE:
                return NO_DISTRIBUTION
            count = expand(j, b, get(totals, b), best, count)
        other = 1 - side
        new_totals = at(f64(get(j, TOTALS)), other * width)
        new_last = at(i64(get(j, NEXT)), other * width)
        alive = 0
        i = 0
        while i < count and alive < width:
            total = get(reached, 3 * i)
            parent = get(pool, 3 * i + 1)
            token = get(pool, 3 * i + 2)
            if get(stop, token) != 0:
                end(j, length + 1, total, parent, token)
            else:
                put(i64(get(j, PARENTS)), length * width + alive, parent)
                put(i64(get(j, CHOSEN)), length * width + alive, token)
                put(new_totals, alive, total)
                put(new_last, alive, token)
                copy(
                    f32(states + (other * width + alive) * stride),
                    f32(states + (side * width + parent) * stride),
                    get(j, STATE_WORDS),
                )
                alive += 1
            i += 1
        side = other
        length += 1
        if get(j, MADE) == width and alive > 0 and length < steps:
            bound = max(get(new_totals, 0) / get(penalties, length + 1), get(new_totals, 0) / get(penalties, steps))
            if bound <= get(f64(get(j, ENDED)), 5 * (width - 1)):
                alive = 0
    for b in range(alive):
        end(j, length, get(f64(get(j, TOTALS)), side * width + b), b, -1)
    for i in range(get(j, MADE)):
        write(j, i, steps)
    return DONE


def copy(y: Any, x: Any, n: int) -> None:
    """n float32."""
    for i in range(0, n, lanes()):
        store_part(y, i, load_part(x, i, n - i), n - i)


def write(j: Any, i: int, steps: int) -> None:
    """The tokens of hypothesis i of those that have ended, from its last one back."""
    width = get(j, WIDTH)
    ended = at(i64(get(j, ENDED)), 5 * i)
    tokens = at(i64(get(j, TOKENS)), i * steps)
    row = get(ended, 2)
    slot = get(ended, 3)
    if get(ended, 4) >= 0:
        row -= 1
        put(tokens, row, get(ended, 4))
    while row > 0:
        row -= 1
        put(tokens, row, get(i64(get(j, CHOSEN)), row * width + slot))
        slot = get(i64(get(j, PARENTS)), row * width + slot)
