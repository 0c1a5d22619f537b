"""The memory of a beam search, reused for the next search of the same size."""

from __future__ import annotations

import numpy as np

from tinyrnn.decode import job as k
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import ProcessLocal, aligned


class Search(ProcessLocal):
    """The arrays of a search of one size, and the words of a job that point to them.

    width, steps, length_penalty: as of `Decoder.beam`
    candidates:                   entries of the pool
    words:                        float32 in a state
    """

    def __init__(self, width: int, steps: int, length_penalty: float, candidates: int, words: int) -> None:
        stride = -(-max(words, 1) // 16) * 64
        self.size = (width, steps, length_penalty, candidates)
        self.states = aligned(2 * width * stride)
        self.ended = np.zeros((width, 5), np.int64)
        self.made = np.empty((width, steps), np.int64)
        self._arrays = {
            k.STATES: self.states,
            k.PENALTIES: ((5 + np.arange(steps + 1)) / 6) ** length_penalty,
            k.TOTALS: np.empty((2, width)),
            k.NEXT: np.empty((2, width), np.int64),
            k.POOL: np.empty((candidates, 3), np.int64),
            k.PARENTS: np.empty((steps, width), np.int64),
            k.CHOSEN: np.empty((steps, width), np.int64),
            k.ENDED: self.ended,
            k.TOKENS: self.made,
        }
        self.scores = self.ended.view(np.float64)
        self.pointer = self.states.ctypes.data
        numbers = {k.WIDTH: width, k.CANDIDATES: candidates, k.STRIDE: stride, k.STATE_WORDS: words}
        entries = {word: array.ctypes.data for word, array in self._arrays.items()} | numbers
        self._places, self._words = np.array(list(entries)), np.array(list(entries.values()), np.int64)

    def enter(self, job: Array, state: Array) -> None:
        """Turn a job into a search that starts from this state, float32."""
        job[self._places] = self._words
        self.states[: state.nbytes] = state.view(np.uint8)
