"""The loop over the tokens of many sequences in the kernel language: rows of one frame, which items take and leave.

It is compiled once for all models; a frame of some rows is run through an address. An item that is over gives its place to the
next one of the list.
"""

from __future__ import annotations

from typing import Any

from tinyrnn.decode import job as k
from tinyrnn.decode import table as t
from tinyrnn.decode.beam_search import finish, fork, rank, select
from tinyrnn.decode.generation import choose
from tinyrnn.decode.scoring import copy, put_token
from tinyrnn.lanes import at, f32, f64, get, i64, invoke2, put, u8

PAGE = f"from {__name__} import flow\n\n\ndef run(table, frames):\n    return flow(table, frames)\n"
"""the page that is compiled"""


def flow(table: int, frames: int) -> int:
    """Run at most `frames` frames; returns DONE when all items are over, RUNNING if not, or the status of the job `FAILED`."""
    b = i64(table)
    for _ in range(frames):
        while get(b, t.ACTIVE) < get(b, t.PLACES) and get(b, t.ENTERED) < get(b, t.ITEMS):
            enter(b)
        if get(b, t.ACTIVE) == 0:
            return k.DONE
        rows = lay(b)
        if run_rows(b, rows) != 0:
            refuse(b, rows)
            return k.REFUSED
        row = 0
        for p in range(get(b, t.ACTIVE)):
            j = job_of(b, p)
            alive = get(j, k.ALIVE)
            status = advance(b, j, get(b, t.SCORE_ROWS) + row * get(b, t.SCORE_BYTES))
            if status != k.DONE:
                put(b, t.FAILED, get(i64(get(b, t.ORDER)), p))
                return status
            row += alive
        leave(b)
    return k.RUNNING


def job_of(b: Any, place: int) -> Any:
    """The job at a place of the order."""
    return i64(get(b, t.JOBS) + get(i64(get(b, t.ORDER)), place) * 8 * k.WORDS)


def enter(b: Any) -> None:
    """Give the next item the next place."""
    place = get(b, t.ACTIVE)
    item = get(b, t.ENTERED)
    put(b, t.ACTIVE, place + 1)
    put(b, t.ENTERED, item + 1)
    j = job_of(b, place)
    put(j, k.SELF, get(b, t.JOBS) + get(i64(get(b, t.ORDER)), place) * 8 * k.WORDS)
    steps = get(b, t.STEPS)
    width = get(j, k.WIDTH)
    for word in (k.MADE, k.DRAWS, k.LENGTH, k.FED, k.SIDE, k.OVER):
        put(j, word, 0)
    put(j, k.ITEM, item)
    put(j, k.ALIVE, 1)
    put(j, k.KIND, get(j, k.KIND_ASKED))
    put(j, k.SEED, get(i64(get(b, t.SEEDS)), item))
    put(j, k.PROMPT, get(i64(get(b, t.PROMPTS)), 2 * item))
    put(j, k.PROMPTED, get(i64(get(b, t.PROMPTS)), 2 * item + 1))
    put(i64(get(j, k.NEXT)), 0, get(i64(get(j, k.PROMPT)), 0))
    if width > 0:
        put(f64(get(j, k.TOTALS)), 0, 0.0)
        put(j, k.TOKENS, get(b, t.ALL_TOKENS) + item * get(j, k.RANKED) * steps * 8)
        put(j, k.ENDED, get(b, t.ALL_ENDED) + item * width * 40)
    else:
        put(j, k.TOKENS, get(b, t.ALL_TOKENS) + item * steps * 8)
        if get(b, t.ALL_LIKELIHOODS) != 0:
            put(j, k.LIKELIHOODS, get(b, t.ALL_LIKELIHOODS) + item * steps * 4)
    slot = get(i64(get(j, k.SLOTS)), 0)
    state = get(b, t.STATE_ROWS) + slot * get(b, t.STATE_STRIDE)
    copy(f32(state), f32(get(i64(get(b, t.BEGINNINGS)), item)), get(b, t.STATE_WORDS))


def lay(b: Any) -> int:
    """Put slots, tokens and constant inputs into the rows of the next frame; returns their number."""
    row = 0
    held = i64(get(b, t.HELD))
    for p in range(get(b, t.ACTIVE)):
        j = job_of(b, p)
        item = get(j, k.ITEM)
        first = get(j, k.SIDE) * max(get(j, k.WIDTH), 1)
        for h in range(get(j, k.ALIVE)):
            put(i64(get(b, t.WHICH)), row, get(i64(get(j, k.SLOTS)), first + h))
            token = get(i64(get(j, k.NEXT)), first + h)
            put_token(j, get(b, t.FEEDS) + row * get(b, t.FEED_BYTES), at(i64(get(b, t.HOTS)), row), token)
            if get(held, row) != item:
                put(held, row, item)
                take_constants(b, item, row)
            row += 1
    return row


def take_constants(b: Any, item: int, row: int) -> None:
    """Copy the constant inputs of an item into a row."""
    n = get(b, t.CONSTANTS)
    for c in range(n):
        size = get(i64(get(b, t.CONSTANT_ROWS)), 2 * c + 1)
        y = get(i64(get(b, t.CONSTANT_ROWS)), 2 * c) + row * size
        x = get(i64(get(b, t.SOURCES)), item * n + c)
        copy(f32(y), f32(x), size // 4)
        for i in range(size - size % 4, size):
            put(u8(y), i, get(u8(x), i))


def run_rows(b: Any, rows: int) -> int:
    """Run a frame of the first rows; returns the model's status."""
    put(i64(get(b, t.CALLED_WITH)), get(b, t.COUNT), rows)
    return invoke2(get(b, t.CALLED), get(b, t.CALLED_WITH), get(b, t.ARGUMENT))


def refuse(b: Any, rows: int) -> None:
    """Find the first row that the model refuses, by running one row more each time."""
    most = 1
    status = run_rows(b, most)
    while status == 0 and most < rows:
        most += 1
        status = run_rows(b, most)
    row = 0
    for p in range(get(b, t.ACTIVE)):
        j = job_of(b, p)
        alive = get(j, k.ALIVE)
        if row < most and most <= row + alive:
            put(b, t.FAILED, get(i64(get(b, t.ORDER)), p))
            put(j, k.REFUSAL, status)
            put(j, k.LAST, get(i64(get(j, k.NEXT)), get(j, k.SIDE) * max(get(j, k.WIDTH), 1) + most - 1 - row))
        row += alive


def advance(b: Any, j: Any, scores: int) -> int:
    """Take an item's rows of the frame; returns a status."""
    steps = get(b, t.STEPS)
    width = get(j, k.WIDTH)
    first = get(j, k.SIDE) * max(width, 1)
    put(j, k.LAST, get(i64(get(j, k.NEXT)), first))
    put(j, k.FED, get(j, k.FED) + 1)
    if get(j, k.FED) < get(j, k.PROMPTED):
        put(i64(get(j, k.NEXT)), first, get(i64(get(j, k.PROMPT)), get(j, k.FED)))
        return k.DONE
    if width == 0:
        put(j, k.SCORES, scores)
        status = choose(j)
        if status != k.DONE:
            return status
        put(i64(get(j, k.NEXT)), 0, get(j, k.LAST))
        if get(u8(get(j, k.STOP)), get(j, k.LAST)) != 0 or get(j, k.MADE) == steps:
            put(j, k.OVER, 1)
        return k.DONE
    count = 0
    for h in range(get(j, k.ALIVE)):
        put(j, k.LAST, get(i64(get(j, k.NEXT)), first + h))
        count = rank(j, scores + h * get(b, t.SCORE_BYTES), h, count)
        if count < 0:
            return -count
    select(j, count, steps)
    if get(j, k.ALIVE) == 0 or get(j, k.LENGTH) == steps:
        finish(j, steps)
        put(j, k.OVER, 1)
    else:
        fork(j, get(b, t.STATE_ROWS), get(b, t.STATE_STRIDE), get(b, t.STATE_WORDS))
    return k.DONE


def leave(b: Any) -> None:
    """Free the places of items that are over; the last ones move up."""
    order = i64(get(b, t.ORDER))
    active = get(b, t.ACTIVE)
    for back in range(active):
        p = active - 1 - back
        j = job_of(b, p)
        if get(j, k.OVER) != 0:
            put(i64(get(b, t.ALL_MADE)), get(j, k.ITEM), get(j, k.MADE))
            end = get(b, t.ACTIVE) - 1
            place = get(order, p)
            put(order, p, get(order, end))
            put(order, end, place)
            put(b, t.ACTIVE, end)
