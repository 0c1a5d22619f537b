"""Streams of a pool held against lone streams, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyrnn.runtime import Model, Pool, Stream

Array = np.ndarray[Any, Any]


def frames(model: Model, rng: np.random.Generator, *lead: int) -> list[Array]:
    """Random inputs, each with these axes before its frame; what belongs to a call has the last of them alone."""
    plan = model._source.plan if model._source is not None else None
    bounds = {int(name[1:]): (low, high) for name, low, high in plan.bounds} if plan else {}
    found = []
    for place, port in enumerate(model.inputs):
        shape = (*(lead if port.per_frame else lead[-1:]), *port.shape)
        if port.dtype.kind in "iu":
            low, high = bounds.get(place, (0, 1))
            found.append(rng.integers(low, high + 1, shape).astype(port.dtype))
        else:
            found.append((rng.standard_normal(shape) if port.dtype.kind != "b" else rng.integers(0, 2, shape)).astype(port.dtype))
    return found


def agree_in_pool(model: Model, slots: int = 5, seed: int = 3, threads: int = 1) -> Pool:
    """Any streams that step and run together, in any order and for any number of frames, have the bits of lone streams."""
    rng = np.random.default_rng(seed)
    pool, alone = model.pool(slots, threads), [model.stream() for _ in range(slots)]
    for _ in range(3):
        which = rng.permutation(slots)[: rng.integers(1, slots + 1)]
        given = frames(model, rng, len(which))
        made = pool.step(*given, which=which)
        for place, slot in enumerate(which):
            same(_of(made, place, lambda a, place=place: a[place]), alone[slot].step(*(x[place] for x in given)))
        same_states(pool, alone)
    which = rng.permutation(slots)[: slots - 1]
    lengths = rng.integers(0, 7, len(which))
    given = frames(model, rng, 6, len(which))
    made = pool.run(*given, which=which, lengths=lengths)
    for place, slot in enumerate(which):
        n = lengths[place]
        if n:
            mine = [x[:n, place] if p.per_frame else x[place] for p, x in zip(model.inputs, given, strict=True)]
            timed = [p.per_frame for p in model.outputs]
            found = made[place] if isinstance(made, list) else None
            parts = (
                [a[:n, place] if t else a[place] for t, a in zip(timed, _several(made), strict=True)] if found is None else found
            )
            same(parts, alone[slot].run(*mine))
    same_states(pool, alone)
    return pool


def _several(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)


def _of(made: Any, place: int, take: Any) -> Sequence[Any]:
    """What one stream has of what a step gave."""
    return _several(made[place]) if isinstance(made, list) else [take(a) for a in _several(made)]


def same(found: Any, expected: Any) -> None:
    for a, b in zip(_several(found), _several(expected), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes(), (a, b)


def same_states(pool: Pool, alone: Sequence[Stream]) -> None:
    for row, stream in zip(pool.state, alone, strict=True):
        assert row.tobytes() == stream.state.tobytes()
