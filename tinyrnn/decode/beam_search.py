"""Beam search in the kernel language: the model runs from the state of each hypothesis; the best continuations are kept."""

from __future__ import annotations

from typing import Any

from tinyrnn.decode import job as k
from tinyrnn.decode.scoring import NONE, feed, largest, log_normalizer, understand
from tinyrnn.lanes import at, f32, f64, get, i64, lanes, load_part, put, store_part, u8
from tinyrnn.lanes.functions import log


def expand(j: Any, hypothesis: int, total: float, best: int, count: int) -> int:
    """Enter a hypothesis with each next token into the pool of the best candidates; return the size of the pool.

    Of equal totals the hypothesis and the token that come first are better.
    """
    n = get(j, k.VOCABULARY)
    room = get(j, k.CANDIDATES)
    x = f32(get(j, k.SCORES))
    w = f32(get(j, k.WEIGHTS))
    pool = i64(get(j, k.POOL))
    totals = f64(get(j, k.POOL))
    if get(j, k.KIND) == k.PROBABILITIES:
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
    score = total / get(f64(get(j, k.PENALTIES)), length)
    ended = i64(get(j, k.ENDED))
    scores = f64(get(j, k.ENDED))
    count = get(j, k.MADE)
    room = get(j, k.WIDTH)
    if count == room and score <= get(scores, 5 * (count - 1)):
        return
    if count < room:
        count += 1
        put(j, k.MADE, count)
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
    """Beam search. It stops when no unfinished hypothesis can still rank among the best `WIDTH` finished ones."""
    width = get(j, k.WIDTH)
    stop = u8(get(j, k.STOP))
    states = get(j, k.STATES)
    stride = get(j, k.STRIDE)
    pool = i64(get(j, k.POOL))
    reached = f64(get(j, k.POOL))
    penalties = f64(get(j, k.PENALTIES))
    alive = 1
    side = 0
    length = 0
    put(f64(get(j, k.TOTALS)), 0, 0.0)
    put(i64(get(j, k.NEXT)), 0, get(j, k.LAST))
    while length < steps and alive > 0:
        totals = at(f64(get(j, k.TOTALS)), side * width)
        last = at(i64(get(j, k.NEXT)), side * width)
        count = 0
        for b in range(alive):
            put(i64(get(j, k.CONTEXT)), 1, states + (side * width + b) * stride)
            put(j, k.LAST, get(last, b))
            if feed(j, get(last, b)) != 0:
                return k.REFUSED
            best = largest(f32(get(j, k.SCORES)), get(j, k.VOCABULARY), f32(get(j, k.WEIGHTS)))
            if best < 0:
                return k.NO_NUMBER
            if length == 0 and understand(j) != k.DONE:
                return k.NO_DISTRIBUTION
            count = expand(j, b, get(totals, b), best, count)
        other = 1 - side
        new_totals = at(f64(get(j, k.TOTALS)), other * width)
        new_last = at(i64(get(j, k.NEXT)), other * width)
        alive = 0
        i = 0
        while i < count and alive < width:
            total = get(reached, 3 * i)
            parent = get(pool, 3 * i + 1)
            token = get(pool, 3 * i + 2)
            if get(stop, token) != 0:
                end(j, length + 1, total, parent, token)
            else:
                put(i64(get(j, k.PARENTS)), length * width + alive, parent)
                put(i64(get(j, k.CHOSEN)), length * width + alive, token)
                put(new_totals, alive, total)
                put(new_last, alive, token)
                copy(
                    f32(states + (other * width + alive) * stride),
                    f32(states + (side * width + parent) * stride),
                    get(j, k.STATE_WORDS),
                )
                alive += 1
            i += 1
        side = other
        length += 1
        if get(j, k.MADE) == width and alive > 0 and length < steps:
            bound = max(get(new_totals, 0) / get(penalties, length + 1), get(new_totals, 0) / get(penalties, steps))
            if bound <= get(f64(get(j, k.ENDED)), 5 * (width - 1)):
                alive = 0
    for b in range(alive):
        end(j, length, get(f64(get(j, k.TOTALS)), side * width + b), b, -1)
    for i in range(get(j, k.MADE)):
        write(j, i, steps)
    return k.DONE


def copy(y: Any, x: Any, n: int) -> None:
    """n float32."""
    for i in range(0, n, lanes()):
        store_part(y, i, load_part(x, i, n - i), n - i)


def write(j: Any, i: int, steps: int) -> None:
    """Write the tokens of finished hypothesis i, from the last one backwards."""
    width = get(j, k.WIDTH)
    ended = at(i64(get(j, k.ENDED)), 5 * i)
    tokens = at(i64(get(j, k.TOKENS)), i * steps)
    row = get(ended, 2)
    slot = get(ended, 3)
    if get(ended, 4) >= 0:
        row -= 1
        put(tokens, row, get(ended, 4))
    while row > 0:
        row -= 1
        put(tokens, row, get(i64(get(j, k.CHOSEN)), row * width + slot))
        slot = get(i64(get(j, k.PARENTS)), row * width + slot)
