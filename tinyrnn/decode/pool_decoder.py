"""`PoolDecoder`: many sequences of one model at once, each in slots of a pool while it lasts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tinyrnn.decode import job as k
from tinyrnn.decode.choosing import Choice, Choosing, Tokens, fitting
from tinyrnn.decode.decoder import Generation, Hypothesis, found
from tinyrnn.decode.sequences import Items, Made, Sequences, Size
from tinyrnn.errors import DecodeError, TinyRNNError
from tinyrnn.graph.arrays import Array, describe, frame_input
from tinyrnn.runtime import Model, Pool, Progress, part_views

if TYPE_CHECKING:
    from typing_extensions import Unpack

Starts = Tokens | Sequence[Tokens]
Named = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
KEPT = 4
"""loops whose memory is kept"""
GOLDEN = 0x9E3779B97F4A7C15
T = TypeVar("T")


def item_seeds(seed: int, items: int) -> Array:
    """uint64 [items]: the seeds of the items of a list, the first 64-bit numbers that its own seed draws.

    `generate` of item i alone draws the same with `seed=int(item_seeds(seed, i + 1)[i])`.
    """
    with np.errstate(over="ignore"):
        return _mixed(_mixed(np.array([seed], np.uint64)) + np.arange(1, items + 1, dtype=np.uint64) * np.uint64(GOLDEN))


def _mixed(z: Array) -> Array:
    """As `tinyrnn.decode.generation.mixed`."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ z >> np.uint64(shift)) * np.uint64(factor)
    mixed: Array = z ^ z >> np.uint64(31)
    return mixed


class PoolDecoder(Choosing):
    """A pool whose model's output is fed back into its input: sequences of a list of items, as many at once as there is room.

    pool: its slots that nobody has joined are used, one for a sequence, in a beam search one for each hypothesis. A list may
          be longer: an item that is over leaves its slots to the next. They are in their initial state afterwards
    output, feed, table, scores: as of `Decoder`
    inputs: values of all other inputs by name, for items that do not have their own

    An item's result is, bit for bit, what `Decoder` makes of it alone, whatever else is in the list or the pool.
    """

    instead = "make one of a pool of the other process"

    def __init__(
        self,
        pool: Pool,
        *,
        output: str | None = None,
        feed: str | None = None,
        table: Any = None,
        scores: str | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        assert isinstance(pool.model, Model)
        super().__init__(pool.model, output, feed, table, scores, inputs or {})
        self.pool = pool
        self.defaults = dict(inputs or {})
        """of the constant inputs, by name"""
        self._constant = {p.name: place for place, p in enumerate(self.model.inputs) if p is not self.feed}
        self._views = part_views(self.model._layout, self.model._layout.initial_state)
        self._loops: OrderedDict[Any, Sequences] = OrderedDict()

    def generate(
        self,
        starts: Starts,
        steps: int,
        *,
        states: Named = None,
        inputs: Named = None,
        log_probabilities: bool = True,
        progress: Progress | None = None,
        **choice: Unpack[Choice],
    ) -> list[Generation]:
        """At most `steps` tokens that follow each start, in the order of the list.

        starts:   for each item a token or the tokens [n] of a prompt; one token stands for all items
        states:   for each item the states that it begins with, by name, such as an encoder's result; the others, or None, have
                  their initial values. One mapping stands for all items
        inputs:   for each item the values of constant inputs, by name; or one mapping for all
        progress: called with the items that are over and all, between native calls
        choice:   as of `Decoder.generate`; item i has `item_seeds(seed, i + 1)[i]` as its seed

        Raises `DecodeError`, which names the item, with nothing changed.
        """
        job, ends = self._asked(steps, **choice)
        count = self._count(starts, states, inputs)
        seeds = item_seeds(int(choice.get("seed", 0)), count).view(np.int64)
        made = self._run(job, Size(steps), (starts, states, inputs), seeds, log_probabilities, progress)
        none = np.empty(0, np.float32)
        results: list[Any] = [None] * count
        for part, members in made:
            for place, (item, n) in enumerate(zip(members, part.counts.tolist(), strict=True)):
                tokens = part.tokens[place, :n]
                likelihoods = part.likelihoods[place, :n] if log_probabilities else none
                results[item] = Generation(tokens, likelihoods, bool(ends[tokens[-1]]))
        return results

    def beam(
        self,
        starts: Starts,
        steps: int,
        *,
        states: Named = None,
        inputs: Named = None,
        width: int = 4,
        length_penalty: float = 0.0,
        stop: Tokens = (),
        n_best: int = 1,
        progress: Progress | None = None,
    ) -> list[list[Hypothesis]]:
        """The best `n_best` sequences for each item, as `Decoder.beam` finds them; the items as for `generate`.

        Raises `DecodeError`, which names the item, with nothing changed.
        """
        width, n_best = self._searched(width, length_penalty, n_best)
        job, ends = self._asked(steps, stop=stop)
        count = self._count(starts, states, inputs)
        size = Size(steps, width, n_best, width * (1 + int(np.count_nonzero(ends))), float(length_penalty))
        made = self._run(job, size, (starts, states, inputs), np.zeros(count, np.int64), False, progress)
        results: list[Any] = [None] * count
        for part, members in made:
            for item, best in zip(members, found(part, n_best), strict=True):
                results[item] = best
        return results

    # --- items ----------------------------------------------------------------------------------------------------------

    def _count(self, starts: Starts, states: Named, inputs: Named) -> int:
        """How many items there are. Raises `DecodeError` where nothing tells, or the lists differ."""
        lists: dict[str, Any] = {"starts": None if isinstance(starts, (int, np.integer)) else starts}
        lists |= {what: None if isinstance(given, Mapping) else given for what, given in (("states", states), ("inputs", inputs))}
        counts = {}
        for what, given in lists.items():
            if given is not None:
                try:
                    counts[what] = len(given)
                except TypeError:
                    raise DecodeError(f"{self.name}: {what} is {describe(given)}; it is a list of one for each item") from None
        if not counts:
            raise DecodeError(f"{self.name}: nothing tells how many items there are: give a list of starts, states or inputs")
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{n} {what}" for what, n in counts.items())
            raise DecodeError(f"{self.name}: {listed}; there must be one for each item")
        return next(iter(counts.values()))

    def _each(self, items: int, given: Any, make: Callable[[Any], T]) -> list[T]:
        """What is made of each item's own; of one for all it is made once. Raises `DecodeError` with the item."""
        if given is None or isinstance(given, (int, np.integer, Mapping)):
            try:
                return [make(given)] * items
            except TinyRNNError as error:
                raise DecodeError(str(error)) from None
        made: list[T] = []
        last = None
        for item, own in enumerate(given):
            if not made or own is not last:
                try:
                    made.append(make(own))
                except TinyRNNError as error:
                    raise self._about(item, str(error)) from None
            else:
                made.append(made[-1])
            last = own
        return made

    def _about(self, item: int, message: str) -> DecodeError:
        return DecodeError(f"{self.name}: item {item}: {message.removeprefix(self.name + ': ')}")

    def _prompts(self, count: int, starts: Starts) -> tuple[Array, Array]:
        """(int64 [items, 2] of addresses and lengths, the tokens that they point to)."""
        if isinstance(starts, (int, np.integer)):
            (tokens,) = self._each(1, starts, self._prompt)
            return np.array([[tokens.ctypes.data, len(tokens)]]).repeat(count, axis=0), tokens
        try:
            tokens = np.asarray(starts)
        except ValueError:  # prompts of several lengths
            tokens = np.empty((0, 0))
        prompts = np.ones((count, 2), np.int64)
        if tokens.ndim == 1 and tokens.dtype.kind in "iu" and count and tokens.min() >= 0 and tokens.max() < self._limit:
            tokens = np.ascontiguousarray(tokens, np.int64)
            prompts[:, 0] = tokens.ctypes.data + 8 * np.arange(count)
        else:
            each = self._each(count, starts, self._prompt)
            tokens = np.concatenate([*each, np.empty(0, np.int64)])
            prompts[:, 1] = [len(p) for p in each]
            prompts[:, 0] = tokens.ctypes.data + 8 * (np.cumsum(prompts[:, 1]) - prompts[:, 1])
        return prompts, tokens

    def _states(self, count: int, states: Named) -> tuple[Array, Array]:
        """(int64 [items] of addresses, the first states that they point to)."""
        layout, views = self.model._layout, self._views
        if states is None:
            return np.full(count, layout.initial_state.ctypes.data), layout.initial_state

        def of(given: Any) -> dict[str, Array]:
            named = self._mapping("states", given)
            if not named.keys() <= views.keys():
                unknown = [name for name in named if name not in views]
                there = ", ".join(views) or "none"
                raise DecodeError(f"{self.name}: no state {', '.join(map(repr, unknown))}; there are {there}")
            return {name: fitting(self.name, name, views[name], value) for name, value in named.items()}

        rows = np.repeat(layout.initial_state[None], count, axis=0)
        parts = {}
        for name, offset, _, dtype in layout.state_parts:
            words = rows[:, offset : offset + -(-views[name].nbytes // 4)]
            parts[name] = words.view(dtype)[:, : views[name].size]
        for row, own in enumerate(self._each(count, states, of)):
            for name, array in own.items():
                parts[name][row] = array.reshape(-1)
        return rows.ctypes.data + np.arange(count) * rows.strides[0], rows

    def _mapping(self, what: str, given: Any) -> Mapping[str, Any]:
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise DecodeError(f"{self.name}: {what} has {describe(given)}; it takes values by name for each item")
        return given

    def _constants(self, given: Any) -> tuple[Model, list[int], list[Array]]:
        """(the model at the sizes of an item's constant inputs, their addresses, and they themselves)."""
        model, named = self.model, self._mapping("inputs", given)
        if not named and not self._constant:
            return model, [], []
        if named or self.defaults:
            named = {**self.defaults, **named}
        for name in named:
            if name not in self._constant:
                raise DecodeError(f"{self.name}: no constant input {name!r}; there are {', '.join(self._constant) or 'none'}")
        missing = [name for name in self._constant if name not in named]
        if missing:
            raise DecodeError(f"{self.name}: input {', '.join(map(repr, missing))} is not given")
        sized = model._at_frames((), {self.feed.name: self._nothing, **named})
        arrays = [frame_input(self.name, sized.inputs[place], named[name], False)[0] for name, place in self._constant.items()]
        return sized, [int(a.__array_interface__["data"][0]) for a in arrays], arrays

    # --- the call ---------------------------------------------------------------------------------------------------------

    def _run(
        self,
        job: Array,
        size: Size,
        given: tuple[Starts, Named, Named],
        seeds: Array,
        likely: bool,
        progress: Progress | None,
    ) -> list[tuple[Made, list[int]]]:
        """Make all items, those together whose inputs have the same sizes: [what was made, of which items]."""
        count, pool = len(seeds), self.pool
        starts, states, inputs = given
        prompts, _tokens = self._prompts(count, starts)
        beginnings, _rows = self._states(count, states)
        constants = self._each(count, inputs, self._constants)
        sources = np.array([places for _, places, _ in constants], np.int64).reshape(count, len(self._constant))
        groups: dict[Model, list[int]] = {}
        for item, (sized, _, _) in enumerate(constants):
            groups.setdefault(sized, []).append(item)
        results = []
        with pool._call:
            free = pool._all if not pool._taken else np.array([i for i in range(pool.slots) if i not in pool._taken], np.int64)
            each = max(size.width, 1)
            if len(free) < each:
                what = f"a beam of {each} hypotheses takes {each}" if size.width else "a sequence takes one"
                raise DecodeError(f"{self.name}: {len(free)} slots of the pool are free, and {what}")
            used = free[: min(len(free) // each, count) * each]
            before = pool._rows[used]
            done = 0
            try:
                for sized, members in groups.items():
                    loop = self._loop(sized, used[: min(len(used) // each, len(members)) * each], size)
                    mine = slice(None) if len(members) == count else np.array(members)
                    items = Items(beginnings[mine], prompts[mine], seeds[mine], sources[mine])
                    told = None if progress is None else lambda over, done=done: progress(done + over, count)
                    made = loop.run(job, items, likely, told)
                    if made.status != k.DONE:
                        raise self._about(members[made.item], self._failure(made.job, made.status))
                    results.append((made, members))
                    done += len(members)
                    if progress is not None:
                        progress(done, count)
            except BaseException:
                pool._rows[used] = before
                raise
            pool._state[used] = self.model._layout.initial_state
        return results

    def _loop(self, model: Model, slots: Array, size: Size) -> Sequences:
        key = (model, size, slots.tobytes())
        loop = self._loops.pop(key, None)
        if loop is None:
            feed, scores = self.model.inputs.index(self.feed), self.model.outputs.index(self.output)
            loop = Sequences(model, feed, scores, self.pool._rows, slots, size)
        self._loops[key] = loop
        while len(self._loops) > KEPT:
            self._loops.popitem(last=False)
        return loop
