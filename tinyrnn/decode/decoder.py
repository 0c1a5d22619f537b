"""`Decoder`: a stream whose output is fed back into an input; prepared and checked once, run natively."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyrnn.decode import job as k
from tinyrnn.decode.choosing import Choice, Choosing, Tokens, native, whole
from tinyrnn.decode.generation import PAGE
from tinyrnn.decode.sequences import Items, Made, Sequences, Size
from tinyrnn.errors import DecodeError
from tinyrnn.graph.arrays import Array, describe, frame_input
from tinyrnn.runtime import Context, Model, Progress, Stream, state_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

PIECE = 4096
"""tokens of one native call, between which progress is reported and interrupts are handled"""


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
    """of all tokens together, summed in float64"""
    stopped: bool


class Decoder(Choosing):
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
        super().__init__(self.stream.model, output, feed, table, scores, inputs or {})
        self._call = native(PAGE).run
        self._constant = {p.name: place for place, p in enumerate(self.model.inputs) if p is not self.feed}
        self._sized: Model | None = None
        self.give(inputs or {})

    def give(self, inputs: Mapping[str, Any]) -> None:
        """Set constant inputs by name, from the next generation on, such as an encoder's results for the next sequence.

        Raises `ShapeError` or `DecodeError`, with nothing changed.
        """
        for name in inputs:
            if name not in self._constant:
                raise DecodeError(f"{self.name}: no constant input {name!r}; there are {', '.join(self._constant) or 'none'}")
        held = {} if self._sized is None else {name: self._inputs[place] for name, place in self._constant.items()}
        named = {self.feed.name: self._nothing, **held, **inputs}
        sized = self.model._at_frames((), named)
        places = self._constant.items() if sized is not self._sized else [(name, self._constant[name]) for name in inputs]
        values = [(place, frame_input(self.name, sized.inputs[place], named[name], False)[0]) for name, place in places]
        if sized is not self._sized:
            self._prepare(sized, self.stream._at_size((), named).context)
        for place, value in values:
            self._inputs[place][...] = value

    def _prepare(self, sized: Model, context: Context) -> None:
        """Have memory for the model at its sizes, which runs in that context."""
        self._sized, self._context = sized, context
        self._inputs = [np.zeros(p.shape, p.dtype) for p in sized.inputs]
        self._outputs = [np.zeros(p.shape, p.dtype) for p in sized.outputs]
        self._fed = self._inputs[self.model.inputs.index(self.feed)]
        self._addresses = np.array([a.ctypes.data for a in (*self._inputs, *self._outputs)], np.int64)
        job = self._job
        job[k.FUNCTION] = ctypes.cast(sized._code.run, ctypes.c_void_p).value or 0
        job[k.CONTEXT] = context.pointer
        job[k.SCORES] = self._outputs[self.model.outputs.index(self.output)].ctypes.data
        job[k.FEED] = self._fed.ctypes.data
        self._search: Sequences | None = None

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
        job, ends = self._prompted(start, steps, choice)
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
        job, ends = self._prompted(start, steps, choice)
        burst = whole(self.name, "burst", burst, 1)
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
        width, n_best = self._searched(width, length_penalty, n_best)
        job, ends = self._asked(steps, stop=stop)
        prompt = self._prompt(start)
        model, state = self.model, self.stream.state
        assert self._sized is not None
        size = Size(steps, width, n_best, width * (1 + int(np.count_nonzero(ends))), float(length_penalty))
        if self._search is None or self._search.size != size:
            feed, scores = model.inputs.index(self.feed), model.outputs.index(self.output)
            self._search = Sequences(self._sized, feed, scores, state_rows(model._layout, width), np.arange(width), size)
        items = Items(
            np.array([state.ctypes.data]),
            np.array([[prompt.ctypes.data, prompt.size]]),
            np.zeros(1, np.int64),
            np.array([a.ctypes.data for a in self._inputs if a is not self._fed], np.int64)[None],
        )
        made = self._search.run(job, items)
        if made.status != k.DONE:
            raise DecodeError(f"{self.name}: {self._failure(made.job, made.status)}")
        return found(made, n_best)[0]

    def _prompted(self, start: Tokens, steps: int, choice: Any) -> tuple[Array, Array]:
        """(a job that is followed by the prompt it points to, stop tokens) for checked arguments."""
        asked, ends = self._asked(steps, **choice)
        prompt = self._prompt(start)
        job = np.concatenate([asked, prompt])
        job[k.PROMPT], job[k.PROMPTED] = job.ctypes.data + 8 * k.WORDS, prompt.size
        return job, ends

    def _room(self, out: Array | None, steps: int) -> Array:
        if out is None:
            return np.empty(steps, np.int64)
        if type(out) is not np.ndarray or out.dtype != np.int64 or out.ndim != 1 or not out.flags.carray or len(out) < steps:
            raise DecodeError(
                f"{self.name}: out must be a writeable C-contiguous int64 array of {steps} or more, not {describe(out)}"
            )
        return out

    def _run(self, job: Array, steps: int) -> None:
        context, layout = self._context, self.model._layout
        context.addresses[layout.header : layout.header + len(self._addresses)] = self._addresses
        self._fed[...] = 0
        job[k.HOT] = 0
        status = self._call(job.ctypes.data, steps)
        if status != k.DONE:
            raise DecodeError(f"{self.name}: {self._failure(job, status)}")


def found(made: Made, n_best: int) -> list[list[Hypothesis]]:
    """The best hypotheses of each item."""
    ended = made.ended[:, :n_best]
    lengths, last, scores = ended[:, :, 2].tolist(), ended[:, :, 4].tolist(), ended.view(np.float64)[:, :, :2].tolist()
    return [
        [
            Hypothesis(
                made.tokens[item, i, : lengths[item][i]].copy(), scores[item][i][0], scores[item][i][1], last[item][i] >= 0
            )
            for i in range(min(n_best, count))
        ]
        for item, count in enumerate(made.counts.tolist())
    ]
