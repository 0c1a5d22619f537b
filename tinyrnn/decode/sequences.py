"""The memory of the loop over many sequences, and its call: a model's rows, the places of items, and their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyrnn.decode import job as k
from tinyrnn.decode import table as t
from tinyrnn.decode.choosing import native
from tinyrnn.decode.flow import PAGE
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Context, Model, ProcessLocal, Runner, aligned

FRAMES = 256
"""frames of one native call, between which progress is reported and interrupts are handled"""


class Size(NamedTuple):
    """What the memory of a loop depends on, beside the model."""

    steps: int
    width: int = 0
    """hypotheses of a beam search; 0: none"""
    ranked: int = 1
    """finished hypotheses that are wanted"""
    candidates: int = 0
    length_penalty: float = 0.0


@dataclass(frozen=True, eq=False)
class Items:
    """Sequences to be made: int64 arrays with addresses, which what they point to must outlive."""

    states: Array
    """[items]: of the first state, float32"""
    prompts: Array
    """[items, 2]: of the tokens, and how many there are"""
    seeds: Array
    """[items]"""
    sources: Array
    """[items, constant inputs]"""


@dataclass(frozen=True, eq=False)
class Made:
    """What was made of items."""

    tokens: Array
    """int64 [items, steps]; of a beam search [items, ranked, steps]"""
    counts: Array
    """int64 [items]: tokens; of a beam search finished hypotheses"""
    likelihoods: Array
    """float32 [items, steps], or [0, 0]: not asked for"""
    ended: Array
    """int64 [items, width, 5], see `tinyrnn.decode.job.ENDED`"""
    status: int
    item: int
    """which the status is about"""
    job: Array
    """of that item"""


class Sequences(ProcessLocal):
    """The loop for a model, over some slots of an array of states: any number of items flows through them."""

    def __init__(self, model: Model, feed: int, scores: int, rows: Array, slots: Array, size: Size) -> None:
        """feed, scores: which input takes tokens, which output has the scores
        rows, slots:  states, float32 [n, stride], and which of them are used, a multiple of the width
        """
        layout = model._layout
        self.size, self.rows = size, rows
        each = max(size.width, 1)
        places = len(slots) // each
        most = places * each
        ports = [*layout.inputs, *layout.outputs]
        self._which = np.zeros(most, np.int64)
        self._arrays = [aligned(most * p.size, p.dtype).reshape(most, *p.shape) for p in ports]
        for array in self._arrays:
            array[...] = 0
        made = model._pooled(most)
        if made.code is None:  # loaded without a compiler
            from tinyrnn.targets.cpu import one_by_one

            made = one_by_one()
        self._runner = Runner(layout, made, most)
        if not made.tick:
            self._runner.prepare_each(model._code.run, Context(layout))
        self._fed = self._arrays[feed]
        constants = [(p, a) for i, (p, a) in enumerate(zip(layout.inputs, self._arrays, strict=False)) if i != feed]
        self._constants = np.array([(a.ctypes.data, p.size * p.dtype.itemsize) for p, a in constants], np.int64).reshape(-1, 2)
        self._held, self._hots = np.empty(most, np.int64), np.empty(most, np.int64)
        self._jobs, self._order = np.zeros((places, k.WORDS), np.int64), np.arange(places)
        self._slots = np.zeros((places, 2, each), np.int64)
        self._slots[...] = np.asarray(slots[:most]).reshape(places, 1, each)
        own: dict[int, Array] = {k.SLOTS: self._slots, k.NEXT: np.zeros((places, 2, each), np.int64)}
        shared = {k.WIDTH: size.width, k.CANDIDATES: size.candidates, k.RANKED: size.ranked}
        if size.width:
            own |= {k.TOTALS: np.zeros((places, 2, each)), k.TAKEN: np.zeros((places, each), np.int64)}
            own |= {word: np.zeros((places, size.steps, each), np.int64) for word in (k.PARENTS, k.CHOSEN)}
            self._pool = np.zeros((size.candidates, 3), np.int64)
            self._penalties = ((5 + np.arange(size.steps + 1)) / 6) ** size.length_penalty
            shared |= {k.POOL: self._pool.ctypes.data, k.PENALTIES: self._penalties.ctypes.data}
        self._own = own
        self._words = np.array([*own, *shared])
        self._values = np.empty((places, len(self._words)), np.int64)
        for column, array in enumerate(own.values()):
            self._values[:, column] = array.ctypes.data + np.arange(places) * array.strides[0]
        self._values[:, len(own) :] = list(shared.values())
        self._table = table = np.zeros(t.WORDS, np.int64)
        table[t.CALLED], table[t.CALLED_WITH], table[t.ARGUMENT], table[t.COUNT] = self._runner.entry(
            rows, self._which, self._arrays
        )
        marks = self._arrays[len(layout.inputs) + scores]
        for word, array in (
            (t.WHICH, self._which), (t.STATE_ROWS, rows), (t.FEEDS, self._fed), (t.SCORE_ROWS, marks), (t.HOTS, self._hots),
            (t.CONSTANT_ROWS, self._constants), (t.HELD, self._held), (t.JOBS, self._jobs), (t.ORDER, self._order),
        ):  # fmt: skip
            table[word] = array.ctypes.data
        table[t.STATE_STRIDE], table[t.STATE_WORDS] = rows.strides[0], layout.initial_state.size
        table[t.FEED_BYTES], table[t.SCORE_BYTES] = self._fed.strides[0], marks.strides[0]
        table[t.CONSTANTS], table[t.PLACES], table[t.STEPS] = len(constants), places, size.steps
        self._call = native(PAGE).run

    def run(self, job: Array, items: Items, likely: bool = False, progress: Callable[[int], None] | None = None) -> Made:
        """Make the sequences of all items, each with a copy of the job.

        likely:   whether log-likelihoods are wanted
        progress: called with the items that are over, between native calls
        """
        size, table, count = self.size, self._table, len(items.states)
        self._jobs[:] = job
        self._jobs[:, k.KIND_ASKED] = job[k.KIND]
        self._jobs[:, self._words] = self._values
        self._held[:] = -1
        self._hots[:] = 0
        self._fed[...] = 0
        shape = (count, size.ranked, size.steps) if size.width else (count, size.steps)
        tokens, counts = np.empty(shape, np.int64), np.zeros(count, np.int64)
        likelihoods = np.empty(shape if likely else (0, 0), np.float32)
        ended = np.empty((count if size.width else 0, size.width, 5), np.int64)
        table[t.ACTIVE] = table[t.ENTERED] = 0
        table[t.ITEMS] = count
        table[t.SOURCES], table[t.BEGINNINGS] = items.sources.ctypes.data, items.states.ctypes.data
        table[t.PROMPTS], table[t.SEEDS] = items.prompts.ctypes.data, items.seeds.ctypes.data
        table[t.ALL_TOKENS], table[t.ALL_MADE] = tokens.ctypes.data, counts.ctypes.data
        table[t.ALL_LIKELIHOODS], table[t.ALL_ENDED] = likelihoods.ctypes.data if likely else 0, ended.ctypes.data
        pointer = table.ctypes.data
        while (status := self._call(pointer, FRAMES)) == k.RUNNING:
            if progress is not None:
                progress(int(table[t.ENTERED] - table[t.ACTIVE]))
        failed = self._jobs[table[t.FAILED]]
        return Made(tokens, counts, likelihoods, ended, status, int(failed[k.ITEM]), failed)
