"""The arguments of the native loop over many sequences: words of 8 bytes in the order below."""

from __future__ import annotations

CALLED = 0
"""what is called for a frame of some rows"""
CALLED_WITH = 1
"""its first argument, the address of a table"""
ARGUMENT = 2
"""its second"""
COUNT = 3
"""the place of the number of rows in that table"""
WHICH = 4
"""int64[rows]: the slot of each row"""
STATE_ROWS = 5
"""the address of the states, slot by slot"""
STATE_STRIDE = 6
"""bytes from one to the next"""
STATE_WORDS = 7
"""float32 in a state"""
FEEDS = 8
"""the model's input, row by row"""
FEED_BYTES = 9
SCORE_ROWS = 10
SCORE_BYTES = 11
HOTS = 12
"""int64[rows]: the element of each row's one-hot input that is 1"""
CONSTANTS = 13
"""how many other inputs the model has"""
CONSTANT_ROWS = 14
"""int64[CONSTANTS, 2]: the address of each, row by row, and the bytes of a row"""
HELD = 15
"""int64[rows]: the item whose constant inputs lie in a row, or -1"""
JOBS = 16
"""int64[places, job.WORDS]"""
ORDER = 17
"""int64[places]: the places, those in use first"""
PLACES = 18
ACTIVE = 19
"""places in use"""
ITEMS = 20
ENTERED = 21
"""items that have had a place"""
SOURCES = 22
"""int64[ITEMS, CONSTANTS]: the addresses of an item's constant inputs"""
BEGINNINGS = 23
"""int64[ITEMS]: the address of an item's first state"""
PROMPTS = 24
"""int64[ITEMS, 2]: the address of its tokens, and how many there are"""
SEEDS = 25
"""int64[ITEMS]"""
STEPS = 26
ALL_TOKENS = 27
"""of all items, one after the other, as are those below"""
ALL_LIKELIHOODS = 28
"""or 0: not wanted"""
ALL_ENDED = 29
ALL_MADE = 30
FAILED = 31
"""the place of the job that a status is about"""
WORDS = 32
