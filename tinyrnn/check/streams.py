"""Many streams in one pool, which come, go and mix, held against lone streams bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrnn.check.samples import Sample
from tinyrnn.check.tolerances import within
from tinyrnn.graph.arrays import Array, Port
from tinyrnn.runtime import Model, Stream

CALL_BYTES = 1 << 26
"""most bytes of frames in one call"""
LONGEST = 4
"""a call has at most this part of the sample's frames: 1 / LONGEST"""
STEPS = 0.25
"""how many of the calls take one frame of each stream"""


@dataclass
class _Member:
    """A slot of the pool, and beside it a lone stream that takes the same frames: [at, end) of one sequence are to come."""

    lone: Stream
    sequence: int
    at: int
    end: int
    parts: list[list[Any]] = field(default_factory=list)
    """what the slot gave, call by call, one array for each output"""


class Company:
    """Streams in one pool, and for each a lone stream that takes the same frames.

    The first of them have a whole sequence of the sample each, the others pieces. They begin at different times, in any slot,
    and any of them step and run together, in any order, each with its own number of frames.
    """

    def __init__(self, model: Model, sample: Sample, count: int, seed: int, tick: Callable[[int], None]) -> None:
        """count: streams, as many as the sample has sequences or more; tick: called with the frames done of a whole sequence."""
        self.model, self.sample, self.pool = model, sample, model.pool(count)
        self.differing: set[str] = set()
        """outputs and states of the pool whose bits are not those of a lone stream"""
        rng = np.random.default_rng(seed)
        slots = [int(slot) for slot in rng.permutation(count)]
        self.whole = slots[: sample.batch]
        """the slots that have a whole sequence, in the order of the sample"""
        self.members: dict[int, _Member] = {}
        for place, slot in enumerate(slots):
            start, end = (int(n) for n in sorted(rng.choice(sample.frames + 1, 2, replace=False)))
            if slot in self.whole:
                start, end = 0, sample.frames
            member = self.members[slot] = _Member(model.stream(), place % sample.batch, start, end)
            for stream in (member.lone, self.pool.stream(slot)):
                for name, value in sample.states.items():
                    stream.states[name][...] = value[member.sequence].reshape(stream.states[name].shape)
        self._play(rng, slots, tick)
        for slot, member in self.members.items():
            found = self.pool.stream(slot).states
            self.differing |= {n for n, wanted in member.lone.states.items() if not within("exact", found[n], wanted)}

    def outcome(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Outputs [batch, rows, *frame] or [batch, *shape] and final states [batch, elements] of the whole sequences."""
        outputs = {}
        for k, port in enumerate(self.model.outputs):
            parts = [[part[k] for part in self.members[slot].parts] for slot in self.whole]
            outputs[port.name] = np.stack([np.concatenate(p) if port.per_frame else p[-1] for p in parts])
        states = [self.pool.stream(slot).states for slot in self.whole]
        return outputs, {name: np.stack([s[name].ravel() for s in states]) for name in states[0]}

    def _play(self, rng: np.random.Generator, waiting: list[int], tick: Callable[[int], None]) -> None:
        """Calls with any of the streams, until each has had its frames, and its tail."""
        model, frames, count = self.model, self.sample.frames, len(waiting)
        timed = any(p.per_frame for p in model.inputs)
        each = sum(p.size * p.dtype.itemsize for p in (*model.inputs, *model.outputs) if p.per_frame)
        most = max(1, min(frames // LONGEST, CALL_BYTES // max(each * count, 1)))
        waiting = [waiting[i] for i in rng.permutation(count)]
        active: list[int] = []
        done = 0
        while waiting or active:
            come = int(rng.integers(0 if active else 1, max(1, count // 2) + 1))
            active, waiting = active + waiting[:come], waiting[come:]
            chosen = [active[i] for i in rng.permutation(len(active))[: rng.integers(1, len(active) + 1)]]
            if not timed or rng.random() < STEPS:
                self._call(chosen, np.ones(len(chosen), np.int64), single=True)
            else:
                left = [self.members[slot].end - self.members[slot].at for slot in chosen]
                self._call(chosen, np.minimum(rng.integers(0, most + 1, len(chosen)), left), single=False)
            ended = [slot for slot in chosen if self.members[slot].at == self.members[slot].end]
            active = [slot for slot in active if slot not in ended]
            if ended and model.has_tail:
                for slot, tail in zip(ended, self.pool.flush(ended), strict=True):
                    self._take(slot, tail, self.members[slot].lone.flush(), single=False)
            now = sum(self.members[slot].at for slot in self.whole) // len(self.whole)
            tick(now - done)
            done = now

    def _call(self, slots: Sequence[int], lengths: Array, single: bool) -> None:
        """One call of the pool over the next frames of these slots, and the same of their lone streams."""
        model, longest = self.model, max(int(lengths.max()), 1)
        arrays = []
        for port in model.inputs:
            array = np.zeros((*((longest,) if port.per_frame else ()), len(slots), *port.shape), port.dtype)
            for place, slot in enumerate(slots):
                member, given = self.members[slot], self.sample.inputs[port.name]
                if port.per_frame:
                    n = int(lengths[place])
                    array[:n, place] = given[member.sequence, member.at : member.at + n]
                else:
                    array[place] = given[member.sequence]
            arrays.append(array[0] if single and port.per_frame else array)
        made = self.pool.step(*arrays, which=slots) if single else self.pool.run(*arrays, which=slots, lengths=lengths)
        for place, (slot, n) in enumerate(zip(slots, lengths.tolist(), strict=True)):
            if not n:
                continue
            mine = [a[:n, place] if p.per_frame and not single else a[place] for p, a in zip(model.inputs, arrays, strict=True)]
            found = (
                made[place]
                if isinstance(made, list)
                else tuple(
                    a[:n, place] if p.per_frame and not single else a[place]
                    for p, a in zip(model.outputs, _several(made), strict=True)
                )
            )
            lone = self.members[slot].lone
            self.members[slot].at += n
            self._take(slot, found, lone.step(*mine) if single else lone.run(*mine), single)

    def _take(self, slot: int, made: Any, wanted: Any, single: bool) -> None:
        """Compare what a slot gave with what its lone stream gave; keep it for a whole sequence."""
        ports = self.model.outputs
        found, alone = ([_rows(p, a, single) for p, a in zip(ports, _several(x), strict=True)] for x in (made, wanted))
        self.differing |= {
            p.name
            for p, a, b in zip(ports, found, alone, strict=True)
            if (a is None) != (b is None) or (a is not None and b is not None and not within("exact", a, b))
        }
        if slot in self.whole:
            parts = self.members[slot].parts
            last: list[Any] = parts[-1] if parts else [None] * len(ports)
            parts.append([last[k] if a is None else np.array(a) for k, a in enumerate(found)])


def _several(made: Any) -> Sequence[Any]:
    return made if isinstance(made, tuple) else (made,)


def _rows(port: Port, made: Array | None, single: bool) -> Array | None:
    """Rows [n, *frame] of a step or a run; the value of a call as it is."""
    if not port.per_frame:
        return made
    if made is None:
        return np.zeros((0, *port.shape), port.dtype)
    return made[None] if single and not port.several else made
