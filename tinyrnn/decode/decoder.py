"""`Decoder`: a stream whose output is fed back into an input; prepared and checked once, run natively."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import isfinite
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from tinyrnn.decode import job as k
from tinyrnn.decode.generation import PAGE
from tinyrnn.decode.ports import find_feedback
from tinyrnn.decode.search import Search
from tinyrnn.errors import DecodeError
from tinyrnn.graph.arrays import Array, describe, frame_input
from tinyrnn.runtime import Model, ProcessLocal, Progress, Stream, aligned

if TYPE_CHECKING:
    from typing_extensions import Unpack

PIECE = 4096
"""tokens of one native call, between which progress is reported and interrupts are handled"""
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


class Generation(NamedTuple):
    """The result of `generate`."""

    tokens: Array
    """int64 [n], n <= steps; a stop token is the last"""
    log_probabilities: Array
    """float32 [n]: of each token under the model's distribution, before temperature, top_k and top_p; [0] if not asked for"""
    stopped: bool
    """whether a stop token ended it"""


class Hypothesis(NamedTuple):
    """One sequence that `beam` found."""

    tokens: Array
    """int64 [n], n <= steps; a stop token is the last"""
    score: float
    """log_probability / ((5 + n) / 6) ** length_penalty"""
    log_probability: float
    """sum over all tokens, in float64"""
    stopped: bool


class Decoder(ProcessLocal):
    """A stream whose output is fed back into an input. For one thread at a time, as the stream.

    stream: a `Stream`, whose state a generation continues from; a `Model` stands for a new stream of it
    output: the name of the scores, float32 of V elements
    feed:   the name of the input that takes the token
    table:  float32 [V or more, E]: token t goes into a float input of E elements as row t
    scores: "logits" (log-probabilities too: what log-softmax makes of them is what they were), or "probabilities".
            None: probabilities if the first scores of a generation are all at least 0 and sum to 1 within 0.001
    inputs: values of all other inputs, by name, constant during a generation

    `output` and `feed` may be left out where only one choice is possible. Raises `DecodeError` where there is none
    or several, `ShapeError` for inputs, `StreamError` for a model that cannot stream.
    """

    instead = "make one of `stream.fork()`"

    def __init__(
        self,
        stream: Stream | Model,
        *,
        output: str | None = None,
        feed: str | None = None,
        table: Any = None,
        scores: str | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.stream = stream.stream() if isinstance(stream, Model) else stream
        self.model = model = self.stream.model
        self.name = model.name
        if model.has_tail:
            raise DecodeError(f"{self.name}: its outputs do not come frame by frame, so none can be the next input")
        if scores not in KINDS:
            raise DecodeError(f"{self.name}: scores={scores!r}; it is 'logits', 'probabilities', or None to tell by their values")
        self._table = None if table is None else _table(self.name, table)
        found = find_feedback(model, output, feed, self._table, inputs or {})
        self.output, self.feed, self.vocabulary = found.output, found.feed, found.output.size
        self._limit = found.limit
        self._inputs = [np.zeros(p.shape, p.dtype) for p in model.inputs]
        self.give(inputs or {})
        self._outputs = [np.zeros(p.shape, p.dtype) for p in model.outputs]
        self._fed = self._inputs[model.inputs.index(self.feed)]
        self._addresses = np.array([a.ctypes.data for a in (*self._inputs, *self._outputs)], np.int64)
        self._call = _native().run
        self._weights = aligned(self.vocabulary + 3 * MOST_LANES, np.float32)
        self._order = np.empty(self.vocabulary, np.int64)
        job = self._job = np.zeros(k.WORDS, np.int64)
        job[k.FUNCTION] = ctypes.cast(model._code.run, ctypes.c_void_p).value or 0
        job[k.CONTEXT] = self.stream._context.pointer
        job[k.SCORES] = self._outputs[model.outputs.index(self.output)].ctypes.data
        job[k.FEED], job[k.FORM], job[k.SIZE] = self._fed.ctypes.data, found.form, self.feed.size
        job[k.TABLE] = 0 if self._table is None else self._table.ctypes.data
        job[k.VOCABULARY], job[k.KIND] = self.vocabulary, KINDS[scores]
        job[k.WEIGHTS], job[k.ORDER] = self._weights.ctypes.data, self._order.ctypes.data
        job.view(np.float64)[[k.SHARPNESS, k.TOP_P]] = 1.0
        self._ends: dict[int | tuple[()], tuple[Array, int]] = {}
        self._search: Search | None = None

    def give(self, inputs: Mapping[str, Any]) -> None:
        """Set constant inputs by name, from the next generation on, such as an encoder's results for the next sequence.

        Raises `ShapeError` or `DecodeError`, with nothing changed.
        """
        places = {p.name: (p, a) for p, a in zip(self.model.inputs, self._inputs, strict=True) if p is not self.feed}
        for name in inputs:
            if name not in places:
                raise DecodeError(f"{self.name}: no constant input {name!r}; there are {', '.join(places) or 'none'}")
        values = {name: frame_input(self.name, places[name][0], value, False)[0] for name, value in inputs.items()}
        for name, value in values.items():
            places[name][1][...] = value

    def generate(
        self,
        start: Tokens,
        steps: int,
        *,
        log_probabilities: bool = True,
        out: Array | None = None,
        progress: Progress | None = None,
        **choice: Unpack[Choice],
    ) -> Generation:
        """At most `steps` tokens that follow `start`, a token or the tokens [n] of a prompt, n >= 1.

        method:      "greedy", the default: the token of the largest score, the lowest of several; "sample": one drawn from
                     softmax(log-probabilities / temperature), cut to the `top_k` likeliest, then to the fewest of these
                     that hold `top_p` of their probability; the lower token first where two are as likely
        temperature: 1 by default; 0 is "greedy"
        top_k:       0 by default: all
        top_p:       1 by default
        seed:        of what is drawn, 0 to 2**64 - 1, 0 by default; the same one gives the same tokens on every machine
                     with fma
        stop:        a token or tokens that end the generation; none by default
        log_probabilities: whether they are wanted; they cost a pass over the vocabulary for each token
        out:         int64 [steps or more], C-contiguous, to hold the tokens
        progress:    called with tokens done and `steps`, between pieces of the run

        The state goes on: the stream has then been fed everything but the last token. Raises `DecodeError`, with the
        state unchanged.
        """
        job, ends = self._asked(start, steps, **choice)
        made = self._room(out, steps)
        likelihoods = np.empty(steps if log_probabilities else 0, np.float32)
        before = self.stream.state.copy()
        done, stopped = 0, False
        try:
            while done < steps and not stopped:
                count = min(PIECE, steps - done)
                job[k.TOKENS] = made.ctypes.data + 8 * done
                job[k.LIKELIHOODS] = likelihoods.ctypes.data + 4 * done if log_probabilities else 0
                self._run(job, count)
                done += int(job[k.MADE])
                stopped = bool(ends[made[done - 1]])
                if progress is not None:
                    progress(done, steps)
        except BaseException:
            self.stream.state[...] = before
            raise
        return Generation(made[:done], likelihoods[:done], stopped)

    def tokens(self, start: Tokens, steps: int, *, burst: int = 16, **choice: Unpack[Choice]) -> Iterator[int]:
        """The tokens of `generate` as they come, in native bursts of at most `burst`.

        The stream may be used for nothing else until the last one is taken. It is ahead of the tokens taken by what
        is left of a burst. Raises `DecodeError`, with the state that it had before the burst.
        """
        job, ends = self._asked(start, steps, **choice)
        burst = _whole(self.name, "burst", burst, 1)
        room = np.empty(burst, np.int64)
        job[k.TOKENS] = room.ctypes.data

        def bursts() -> Iterator[int]:
            done, last = 0, -1
            while done < steps and (last < 0 or not ends[last]):
                before = self.stream.state.copy()
                try:
                    self._run(job, min(burst, steps - done))
                except BaseException:
                    self.stream.state[...] = before
                    raise
                found = room[: int(job[k.MADE])].tolist()
                done, last = done + len(found), found[-1]
                yield from found

        return bursts()

    def beam(
        self,
        start: Tokens,
        steps: int,
        *,
        width: int = 4,
        length_penalty: float = 0.0,
        stop: Tokens = (),
        n_best: int = 1,
    ) -> list[Hypothesis]:
        """The best `n_best` sequences of at most `steps` tokens found with `width` hypotheses at a time, best first.

        The best `width` continuations that do not end go on at each step; those that end and come before them are
        kept, the best `width` of all. Sequences are compared by score, log-probability / ((5 + n) / 6) ** length_penalty
        for n tokens (Wu et al., Google's neural machine translation system, 2016); 0 compares log-probabilities, above 0
        longer ones are favoured. Of equal ones the hypothesis that came first, then the lower token is better. The
        search ends early where what goes on cannot come among the best any more: with what it would find, not sooner.

        The stream's state, from which the search starts, stays as it is. Raises `DecodeError`.
        """
        width = _whole(self.name, "width", width, 1)
        n_best = _whole(self.name, "n_best", n_best, 1)
        if n_best > width:
            raise DecodeError(f"{self.name}: n_best={n_best} of width={width} hypotheses; it is at most the width")
        if not isfinite(length_penalty):
            raise DecodeError(f"{self.name}: length_penalty={length_penalty}; it is a finite number")
        job, ends = self._asked(start, steps, stop=stop)
        context = self.stream._context
        size = (width, steps, float(length_penalty), width * (1 + int(np.count_nonzero(ends))))
        if self._search is None or self._search.size != size:
            self._search = Search(*size, context.state.size)
        search = self._search
        search.enter(job, context.state)
        context.addresses[1] = search.pointer
        try:
            self._run(job, steps)
        finally:
            context.addresses[1] = context.state.ctypes.data
        ended, scores = search.ended, search.scores
        return [
            Hypothesis(search.made[i, : ended[i, 2]].copy(), float(scores[i, 0]), float(scores[i, 1]), bool(ended[i, 4] >= 0))
            for i in range(min(n_best, int(job[k.MADE])))
        ]

    def _asked(
        self,
        start: Tokens,
        steps: int,
        method: str = "greedy",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Tokens = (),
        **unknown: Any,
    ) -> tuple[Array, Array]:
        """(job, stop tokens that it points to) for checked arguments; the prompt follows the job."""
        name = self.name
        if unknown:
            raise TypeError(f"{name}: no option {', '.join(unknown)}; tokens are chosen by {', '.join(Choice.__annotations__)}")
        _whole(name, "steps", steps, 1)
        plain = (method, temperature, top_k, top_p, seed) == ("greedy", 1.0, 0, 1.0, 0)
        prompt = _tokens(name, "start", start, self._limit, f"input {self.feed.name!r}")
        if not prompt.size:
            raise DecodeError(f"{name}: start is empty; it is the token, or the tokens of a prompt, that the model reads first")
        job = np.concatenate([self._job, prompt])
        if not plain:
            self._draw(job, method, temperature, top_k, top_p, seed)
        ends, address = self._stops(stop)
        job[k.PROMPT], job[k.PROMPTED], job[k.STOP] = job.ctypes.data + 8 * k.WORDS, prompt.size, address
        return job, ends

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
        if not 0 <= _whole(name, "seed", seed, 0) < 1 << 64:
            raise DecodeError(f"{name}: seed={seed}; it is a whole number from 0 to 2**64 - 1")
        job[k.SAMPLING] = method == "sample" and temperature > 0
        job[k.TOP_K] = min(_whole(name, "top_k", top_k, 0), self.vocabulary)
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
            ends[_tokens(self.name, "stop", stop, self.vocabulary, f"output {self.output.name!r}")] = 1
            found = ends, ends.ctypes.data
            if key is not None:
                self._ends[key] = found
        return found

    def _room(self, out: Array | None, steps: int) -> Array:
        if out is None:
            return np.empty(steps, np.int64)
        if type(out) is not np.ndarray or out.dtype != np.int64 or out.ndim != 1 or not out.flags.carray or len(out) < steps:
            raise DecodeError(
                f"{self.name}: out must be a writeable C-contiguous int64 array of {steps} or more, not {describe(out)}"
            )
        return out

    def _run(self, job: Array, steps: int) -> None:
        context, layout = self.stream._context, self.model._layout
        context.addresses[layout.header : layout.header + len(self._addresses)] = self._addresses
        self._fed[...] = 0
        job[k.HOT] = 0
        status = self._call(job.ctypes.data, steps)
        if status == k.DONE:
            return
        what = f"{self.name}: output {self.output.name!r}"
        if status == k.NO_NUMBER:
            raise DecodeError(f"{what} holds NaN or no finite score, after token {job[k.LAST]} was fed")
        if status == k.NO_DISTRIBUTION:
            raise DecodeError(f"{what} is not probabilities: they do not sum to 1, or one is below 0. Write scores='logits'")
        refused = self.model.inputs[int(job[k.REFUSAL]) - 1]
        if refused is self.feed:
            raise DecodeError(f"{self.name}: token {job[k.LAST]} is out of range for input {refused.name!r}")
        raise DecodeError(f"{self.name}: input {refused.name!r} holds an index that is out of range")


@cache
def _native() -> Any:
    """The compiled loop, one for all models."""
    from tinyrnn.compile.codegen import Source
    from tinyrnn.targets.cpu import compile_source

    return compile_source(Source(PAGE, {"run": 2}))


def _whole(model: str, what: str, value: Any, least: int) -> int:
    if type(value) is int and value >= least:
        return value
    try:
        number = index(value)
    except TypeError:
        raise DecodeError(f"{model}: {what}={value!r}; it is a whole number") from None
    if number < least:
        raise DecodeError(f"{model}: {what}={number}; it is at least {least}")
    return number


def _tokens(model: str, what: str, given: Any, limit: int, port: str) -> Array:
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


def _table(model: str, given: Any) -> Array:
    array = np.asarray(given)
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise DecodeError(f"{model}: table is {describe(array)}; it is float32 [tokens, elements of the input]")
    return np.ascontiguousarray(array, np.float32)
