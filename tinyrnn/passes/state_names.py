"""What the names of inputs and outputs say: which output is the next value of which input.

A name is words and numbers. Words that say on which side of the step a value is (`in`, `next`, `past`) are put aside;
what is left of a state's two names is the same, or differs by one change that all its fellows share. A number tells
one state from another and is never put aside, unless every state has the same one (`h0`, `c0` → `hn`, `cn`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

PLACES = {"in", "out", "input", "output", "inputs", "outputs", "i", "o"}
"""words that say on which side of a model a value is, of a state or not"""
MOMENTS = {
    *("prev", "previous", "new", "next", "n", "t", "old", "init", "initial", "final", "last", "cur", "current", "curr"),
    *("updated", "update", "begin", "end", "past", "present", "before", "after", "first", "r", "ret", "upd", "tm", "tp", "plus"),
    *("minus",),
}
"""words that say on which side of a step a value is"""
CARRIERS = {
    *("state", "states", "hidden", "cell", "cache", "caches", "memory", "mem", "past", "carry", "history", "hist", "buffer"),
    *("buf", "recurrent", "rnn", "lstm", "gru", "h", "c", "hx", "cx", "kv", "previous", "prev"),
}
"""words that a state's name has"""
ORDINARY = {
    *("x", "y", "audio", "wav", "wave", "waveform", "signal", "speech", "frame", "frames", "feat", "feats", "feature"),
    *("features", "obs", "sample", "samples", "spec", "spectrum", "mag", "magnitude", "mix", "noisy", "image", "data"),
    *("token", "tokens", "pcm", "chunk", "block", "source", "src", "sig", "tensor", "onnx", "args", "arg"),
}
"""words of the name of what goes through a model"""

Fits = Callable[[str, str], bool]


def words(name: str) -> tuple[str, ...]:
    """`h0_outN` → h, 0, out, n."""
    found = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    return tuple(re.sub(r"^([a-z])[nxyt]$", r"\1", w) if w not in PLACES | MOMENTS else w for w in found)


def core(name: str) -> tuple[str, ...]:
    """The words that are left without those of a side; the first moment where there is nothing else: n, n_out."""
    inner = tuple(w for w in words(name) if w not in PLACES)
    return tuple(w for w in inner if w not in MOMENTS) or inner[:1]


def numbers(names: Sequence[str]) -> list[int]:
    """The last number of each name that has one."""
    found = [[int(w) for w in words(name) if w.isdigit()] for name in names]
    return [each[-1] for each in found if each]


def says_state(name: str) -> bool:
    """Whether a name has a word that a state's name has."""
    return not CARRIERS.isdisjoint(re.findall(r"[a-z]+", "_".join(words(name))))


def telling(start: str, end: str) -> bool:
    """Whether two names that belong together speak of a state, rather than of what goes in and comes out."""
    left = [w for w in core(start) if not w.isdigit() and w not in ORDINARY]
    timed = not MOMENTS.isdisjoint(words(start)) or not MOMENTS.isdisjoint(words(end))
    return bool(left) or (timed and bool(core(start)))


def pairs(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, str]:
    """Input → output where the names leave one way; `fits` says which may be one state."""
    found: dict[str, str] = {}
    for way in (_same, _same_but_time, _one_change, _contained):
        left = [i for i in inputs if i not in found]
        right = [o for o in outputs if o not in found.values()]
        found |= unique(way(left, right, fits))
    return found


def unique(options: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Those with one option that nobody else has."""
    wanted = [o for each in options.values() for o in each]
    return {i: each[0] for i, each in options.items() if len(each) == 1 and wanted.count(each[0]) == 1}


def _same(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, list[str]]:
    return {i: [o for o in outputs if core(o) == core(i) and core(i) and fits(i, o)] for i in inputs}


def _same_but_time(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, list[str]]:
    """As `_same`, where a last number that all have on one side is the step's: h0, c0 → hn, cn; h_0 → h_1."""

    def stem(name: str, fellows: Sequence[str]) -> tuple[str, ...]:
        left = core(name)
        ends = {other[-1] for f in fellows if (other := core(f))[:-1] and other[-1].isdigit()}
        return left[:-1] if len(ends) == 1 and left[:-1] and left[-1].isdigit() else left

    return {i: [o for o in outputs if stem(i, inputs) and stem(o, outputs) == stem(i, inputs) and fits(i, o)] for i in inputs}


def _change(start: str, end: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The words that only one of two names has, where they share one and none of these is a number."""
    a, b = words(start), words(end)
    gone, come = tuple(w for w in a if w not in b), tuple(w for w in b if w not in a)
    shared = [w for w in a if w in b]
    return None if not shared or any(w.isdigit() for w in (*gone, *come)) or shared != [w for w in b if w in a] else (gone, come)


def _one_change(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, list[str]]:
    """The change that turns most inputs' names into outputs'."""
    changes: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, list[str]]] = {}
    for i in inputs:
        for o in outputs:
            if fits(i, o) and (change := _change(i, o)) is not None:
                changes.setdefault(change, {}).setdefault(i, []).append(o)
    sizes = sorted((len(unique(options)) for options in changes.values()), reverse=True)
    if not sizes or sizes[0] < 2 or sizes[1:2] == sizes[:1]:
        return {}
    return next(options for options in changes.values() if len(unique(options)) == sizes[0])


def _contained(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, list[str]]:
    """One name within the other: lstm_states_pi_h → pi_h."""

    def within(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
        return bool(a) and any(b[k : k + len(a)] == a for k in range(len(b) - len(a) + 1))

    return {i: [o for o in outputs if fits(i, o) and (within(core(i), core(o)) or within(core(o), core(i)))] for i in inputs}
