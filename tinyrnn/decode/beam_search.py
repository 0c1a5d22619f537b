"""Beam search in the kernel language: each hypothesis is a row of the model's next frame; the best continuations are kept."""

from __future__ import annotations

from typing import Any

from tinyrnn.decode import job as k
from tinyrnn.decode.scoring import NONE, copy, largest, log_normalizer, understand
from tinyrnn.lanes import at, f32, f64, get, i64, lanes, load_part, maximum, put, splat, store, store_part, u8
from tinyrnn.lanes.functions import log

BLOCK = 128
"""tokens that are passed over together where none can enter the pool"""


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
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        if count == room and total + bound(x, start, stop, at(w, n)) <= least:
            continue
        for token in range(start, stop):
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


def bound(x: Any, start: int, stop: int, spare: Any) -> Any:
    """No element of x[start:stop] is above this number; `spare` has room for LANES."""
    most = splat(NONE)
    for i in range(start, stop, lanes()):
        most = maximum(most, load_part(x, i, stop - i))
    store(spare, 0, most)
    found = get(spare, 0)
    for lane in range(1, lanes()):
        found = max(found, get(spare, lane))
    return found


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


def rank(j: Any, x: int, hypothesis: int, count: int) -> int:
    """Enter what may follow a hypothesis by its scores at `x`; returns the size of the pool, or a status below 0."""
    put(j, k.SCORES, x)
    best = largest(f32(x), get(j, k.VOCABULARY), f32(get(j, k.WEIGHTS)))
    if best < 0:
        return -k.NO_NUMBER
    if get(j, k.LENGTH) == 0 and understand(j) != k.DONE:
        return -k.NO_DISTRIBUTION
    total = get(f64(get(j, k.TOTALS)), get(j, k.SIDE) * get(j, k.WIDTH) + hypothesis)
    return expand(j, hypothesis, total, best, count)


def select(j: Any, count: int, steps: int) -> None:
    """Let the best candidates go on, or end. None is left alive when no unfinished hypothesis can still rank among the best
    `WIDTH` finished ones."""
    width = get(j, k.WIDTH)
    stop = u8(get(j, k.STOP))
    pool = i64(get(j, k.POOL))
    reached = f64(get(j, k.POOL))
    penalties = f64(get(j, k.PENALTIES))
    length = get(j, k.LENGTH)
    side = 1 - get(j, k.SIDE)
    totals = at(f64(get(j, k.TOTALS)), side * width)
    last = at(i64(get(j, k.NEXT)), side * width)
    parents = at(i64(get(j, k.PARENTS)), length * width)
    chosen = at(i64(get(j, k.CHOSEN)), length * width)
    alive = 0
    i = 0
    while i < count and alive < width:
        total = get(reached, 3 * i)
        parent = get(pool, 3 * i + 1)
        token = get(pool, 3 * i + 2)
        if get(stop, token) != 0:
            end(j, length + 1, total, parent, token)
        else:
            put(parents, alive, parent)
            put(chosen, alive, token)
            put(totals, alive, total)
            put(last, alive, token)
            alive += 1
        i += 1
    length += 1
    if get(j, k.MADE) == width and alive > 0 and length < steps:
        bound = max(get(totals, 0) / get(penalties, length + 1), get(totals, 0) / get(penalties, steps))
        if bound <= get(f64(get(j, k.ENDED)), 5 * (width - 1)):
            alive = 0
    put(j, k.SIDE, side)
    put(j, k.LENGTH, length)
    put(j, k.ALIVE, alive)


def fork(j: Any, states: int, stride: int, words: int) -> None:
    """Give each hypothesis a slot: that of the one that it continues, or a free one with a copy of its state."""
    width = get(j, k.WIDTH)
    alive = get(j, k.ALIVE)
    side = get(j, k.SIDE)
    parents = at(i64(get(j, k.PARENTS)), (get(j, k.LENGTH) - 1) * width)
    before = at(i64(get(j, k.SLOTS)), (1 - side) * width)
    slots = at(i64(get(j, k.SLOTS)), side * width)
    taken = i64(get(j, k.TAKEN))
    for h in range(width):
        put(taken, h, 0)
    for i in range(alive):
        parent = get(parents, i)
        put(slots, i, -1)
        if get(taken, parent) == 0:
            put(taken, parent, 1)
            put(slots, i, get(before, parent))
    free = 0
    for i in range(width):
        if i >= alive or get(slots, i) < 0:
            while get(taken, free) != 0:
                free += 1
            slot = get(before, free)
            free += 1
            put(slots, i, slot)
            if i < alive:
                copy(f32(states + slot * stride), f32(states + get(before, get(parents, i)) * stride), words)


def finish(j: Any, steps: int) -> None:
    """Count what is still alive among the finished ones, and write the best."""
    for b in range(get(j, k.ALIVE)):
        end(j, get(j, k.LENGTH), get(f64(get(j, k.TOTALS)), get(j, k.SIDE) * get(j, k.WIDTH) + b), b, -1)
    for i in range(min(get(j, k.MADE), get(j, k.RANKED))):
        write(j, i, steps)


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
