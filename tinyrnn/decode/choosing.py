"""What one and many sequences have in common: how tokens go in and are chosen, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import isfinite
from operator import index
from typing import Any, TypedDict

import numpy as np

from tinyrnn.decode import job as k
from tinyrnn.decode.ports import find_feedback
from tinyrnn.errors import DecodeError
from tinyrnn.graph.arrays import Array, Port, describe, frame_input
from tinyrnn.runtime import Model, ProcessLocal, aligned

MOST_LANES = 16
"""the largest LANES of any target"""
Tokens = int | Sequence[int] | Array
KINDS = {None: k.UNKNOWN, "logits": k.LOGITS, "probabilities": k.PROBABILITIES}


class Choice(TypedDict, total=False):
    """How tokens are chosen, and which end a generation: the options of `Decoder.generate`, explained there."""

    method: str
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: Tokens


class Choosing(ProcessLocal):
    """A model whose output is fed back into an input, and the template of the jobs of its native loops."""

    def __init__(
        self, model: Model, output: str | None, feed: str | None, table: Any, scores: str | None, inputs: Mapping[str, Any]
    ) -> None:
        """As `Decoder`, whose docstring explains the arguments."""
        self.model = model
        self.name = model.name
        if model.has_tail:
            raise DecodeError(f"{self.name}: its outputs do not come frame by frame, so none can be the next input")
        if scores not in KINDS:
            raise DecodeError(f"{self.name}: scores={scores!r}; it is 'logits', 'probabilities', or None to tell by their values")
        self._table = None if table is None else table_of(self.name, table)
        found = find_feedback(model, output, feed, self._table, inputs)
        self.output, self.feed, self.vocabulary = found.output, found.feed, found.output.size
        self._limit = found.limit
        self._nothing = np.zeros(self.feed.shape, self.feed.dtype)
        self._weights = aligned(self.vocabulary + 3 * MOST_LANES, np.float32)
        self._order = np.empty(self.vocabulary, np.int64)
        job = self._job = np.zeros(k.WORDS, np.int64)
        job[k.FORM], job[k.SIZE] = found.form, self.feed.size
        job[k.TABLE] = 0 if self._table is None else self._table.ctypes.data
        job[k.VOCABULARY], job[k.KIND] = self.vocabulary, KINDS[scores]
        job[k.WEIGHTS], job[k.ORDER] = self._weights.ctypes.data, self._order.ctypes.data
        job.view(np.float64)[[k.SHARPNESS, k.TOP_P]] = 1.0
        self._ends: dict[int | tuple[()], tuple[Array, int]] = {}

    def _asked(
        self,
        steps: int,
        method: str = "greedy",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Tokens = (),
        **unknown: Any,
    ) -> tuple[Array, Array]:
        """(a job, stop tokens that it points to) for checked arguments."""
        name = self.name
        if unknown:
            raise TypeError(f"{name}: no option {', '.join(unknown)}; tokens are chosen by {', '.join(Choice.__annotations__)}")
        whole(name, "steps", steps, 1)
        job = self._job.copy()
        if (method, temperature, top_k, top_p, seed) != ("greedy", 1.0, 0, 1.0, 0):
            self._draw(job, method, temperature, top_k, top_p, seed)
        ends, job[k.STOP] = self._stops(stop)
        return job, ends

    def _searched(self, width: int, length_penalty: float, n_best: int) -> tuple[int, int]:
        """The width and the number of the best of a beam search, checked."""
        width, n_best = whole(self.name, "width", width, 1), whole(self.name, "n_best", n_best, 1)
        if n_best > width:
            raise DecodeError(f"{self.name}: n_best={n_best} of width={width} hypotheses; it is at most the width")
        if not isfinite(length_penalty):
            raise DecodeError(f"{self.name}: length_penalty={length_penalty}; it is a finite number")
        return width, n_best

    def _prompt(self, start: Tokens) -> Array:
        """The tokens that the model reads first, int64 [n], n >= 1."""
        prompt = tokens_of(self.name, "start", start, self._limit, f"input {self.feed.name!r}")
        if not prompt.size:
            raise DecodeError(
                f"{self.name}: start is empty; it is the token, or the tokens of a prompt, that the model reads first"
            )
        return prompt

    def _draw(self, job: Array, method: str, temperature: float, top_k: int, top_p: float, seed: int) -> None:
        """Check the options of sampling and enter them into a job."""
        name = self.name
        if method not in ("greedy", "sample"):
            raise DecodeError(f"{name}: method={method!r}; it is 'greedy' or 'sample'")
        if method == "greedy" and (temperature not in (0.0, 1.0) or top_k != 0 or top_p != 1.0):
            raise DecodeError(f"{name}: temperature, top_k and top_p have no meaning with method='greedy'; write method='sample'")
        if not (temperature >= 0 and isfinite(temperature)):
            raise DecodeError(f"{name}: temperature={temperature}; it is a number from 0 (always the likeliest token) upwards")
        if not 0 < top_p <= 1:
            raise DecodeError(f"{name}: top_p={top_p}; it is a share of the probability, above 0 and at most 1")
        if not 0 <= whole(name, "seed", seed, 0) < 1 << 64:
            raise DecodeError(f"{name}: seed={seed}; it is a whole number from 0 to 2**64 - 1")
        job[k.SAMPLING] = method == "sample" and temperature > 0
        job[k.TOP_K] = min(whole(name, "top_k", top_k, 0), self.vocabulary)
        job[k.SEED] = seed - (1 << 64) if seed >> 63 else seed
        floats = job.view(np.float64)
        floats[k.SHARPNESS] = min(max(1 / temperature, 1e-30), 1e38) if temperature > 0 else 1.0
        floats[k.TOP_P] = top_p

    def _stops(self, stop: Tokens) -> tuple[Array, int]:
        """(uint8 [V] of 1 for tokens that end a generation, its address); cached for no token and for single ones."""
        key = stop if isinstance(stop, int) else () if isinstance(stop, tuple) and not stop else None
        found = None if key is None else self._ends.get(key)
        if found is None:
            ends = np.zeros(self.vocabulary, np.uint8)
            ends[tokens_of(self.name, "stop", stop, self.vocabulary, f"output {self.output.name!r}")] = 1
            found = ends, ends.ctypes.data
            if key is not None:
                self._ends[key] = found
        return found

    def _failure(self, job: Array, status: int) -> str:
        """What the status of a job says."""
        what = f"output {self.output.name!r}"
        if status == k.NO_NUMBER:
            return f"{what} holds NaN or no finite score, after token {job[k.LAST]} was fed"
        if status == k.NO_DISTRIBUTION:
            return f"{what} is not probabilities: they do not sum to 1, or one is below 0. Write scores='logits'"
        refused = self.model.inputs[int(job[k.REFUSAL]) - 1]
        if refused is self.feed:
            return f"token {job[k.LAST]} is out of range for input {refused.name!r}"
        return f"input {refused.name!r} holds an index that is out of range"


@cache
def native(page: str) -> Any:
    """A compiled loop, one for all models."""
    from tinyrnn.compile.codegen import Source
    from tinyrnn.targets.cpu import compile_source

    return compile_source(Source(page, {"run": 2}))


def fitting(model: str, name: str, view: Array, value: Any) -> Array:
    """The value in the shape and dtype of a state's view."""
    if type(value) is np.ndarray and value.dtype == view.dtype and value.shape == view.shape:
        return value
    return frame_input(model, Port(name, view.shape, view.dtype), value, False)[0]


def whole(model: str, what: str, value: Any, least: int) -> int:
    if type(value) is int and value >= least:
        return value
    try:
        number = index(value)
    except TypeError:
        raise DecodeError(f"{model}: {what}={value!r}; it is a whole number") from None
    if number < least:
        raise DecodeError(f"{model}: {what}={number}; it is at least {least}")
    return number


def tokens_of(model: str, what: str, given: Any, limit: int, port: str) -> Array:
    """The tokens as int64 [n]. Raises `DecodeError` unless each is from 0 to limit - 1."""
    if type(given) is int and 0 <= given < limit:
        return np.array([given], np.int64)
    try:
        array = np.atleast_1d(np.asarray(given))
    except (ValueError, TypeError):
        array = np.zeros(1)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DecodeError(f"{model}: {what} is {describe(array)}; it is a token or tokens, whole numbers")
    wrong = array[(array < 0) | (array >= limit)]
    if wrong.size:
        raise DecodeError(
            f"{model}: {what} has token {wrong[0]}; tokens count from 0" + (f", and {port} has {limit}" if wrong[0] > 0 else "")
        )
    return np.ascontiguousarray(array, np.int64)


def table_of(model: str, given: Any) -> Array:
    array = np.asarray(given)
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise DecodeError(f"{model}: table is {describe(array)}; it is float32 [tokens, elements of the input]")
    return np.ascontiguousarray(array, np.float32)
