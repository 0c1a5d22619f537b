"""What the native loops know of a sequence: words of 8 bytes in the order below, floats as float64."""

from __future__ import annotations

# --- the model -------------------------------------------------------------------------------------------------------
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
"""int64[steps]; of a beam search int64[RANKED, steps]"""
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
RANKED = 27
"""finished hypotheses that are written, the best ones"""
PENALTIES = 28
"""float64[steps + 1], by length"""
TOTALS = 29
"""float64[2, WIDTH], of two generations of hypotheses, as `NEXT` and `SLOTS`"""
POOL = 30
"""int64[CANDIDATES, 3]: total (a float64), hypothesis, token"""
PARENTS = 31
"""int64[steps, WIDTH]"""
CHOSEN = 32
"""int64[steps, WIDTH]"""
ENDED = 33
"""int64[WIDTH, 5]: score and total (two float64), length, hypothesis, the token that ended it or -1"""
TAKEN = 34
"""int64[WIDTH]: whether a hypothesis' slot has gone to one that continues it"""
LENGTH = 35
"""tokens of the hypotheses"""
KIND_ASKED = 36
"""the kind as it was asked for, which `KIND` starts from"""
SELF = 37
"""the address of the job"""
REFUSAL = 38
"""what the model's `run` returned last: 0, or 1 + the number of the input that it refuses"""
TOTAL = 39
"""float: the sum of the weights of a draw"""
# --- one of many items ----------------------------------------------------------------------------------------------
ITEM = 40
FED = 41
"""tokens of the prompt that were fed"""
ALIVE = 42
"""rows that it has in the next frame: its hypotheses, or 1"""
SIDE = 43
"""the generation of its hypotheses, 0 or 1"""
NEXT = 44
"""int64[2, max(WIDTH, 1)]: the token that each row feeds next"""
SLOTS = 45
"""int64[2, max(WIDTH, 1)]: the slots that it has, those of its rows first"""
OVER = 46
"""whether it is finished"""
WORDS = 47

INDEX64, INDEX32, ONE_HOT, ROW = 0, 1, 2, 3
"""forms"""
UNKNOWN, LOGITS, PROBABILITIES = -1, 0, 1
"""kinds"""
DONE, NO_NUMBER, NO_DISTRIBUTION, REFUSED, RUNNING = 0, 1, 2, 3, 4
"""statuses"""
