"""Pairing of states by the names of inputs and outputs: which output is the next value of which input.

A name consists of words and numbers. Words for the side of the step on which a value is (`in`, `next`, `past`) are ignored;
the rest of a state's two names is equal, or differs by one change that is the same for all states. A number distinguishes
states and is never ignored, unless all states have the same one (`h0`, `c0` → `hn`, `cn`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

PLACES = {"in", "out", "input", "output", "inputs", "outputs", "i", "o"}
"""words for the side of the model on which a value is, state or not"""
MOMENTS = {
    *("prev", "previous", "new", "next", "n", "t", "old", "init", "initial", "final", "last", "cur", "current", "curr"),
    *("updated", "update", "begin", "end", "past", "present", "before", "after", "first", "r", "ret", "upd", "tm", "tp", "plus"),
    *("minus",),
}
"""words for the side of a step on which a value is"""
CARRIERS = {
    *("state", "states", "hidden", "cell", "cache", "caches", "memory", "mem", "past", "carry", "history", "hist", "buffer"),
    *("buf", "recurrent", "rnn", "lstm", "gru", "h", "c", "hx", "cx", "kv", "previous", "prev"),
}
"""words in names of states"""
ORDINARY = {
    *("x", "y", "audio", "wav", "wave", "waveform", "signal", "speech", "frame", "frames", "feat", "feats", "feature"),
    *("features", "obs", "sample", "samples", "spec", "spectrum", "mag", "magnitude", "mix", "noisy", "image", "data"),
    *("token", "tokens", "pcm", "chunk", "block", "source", "src", "sig", "tensor", "onnx", "args", "arg"),
}
"""words in names of ordinary inputs and outputs"""

Fits = Callable[[str, str], bool]


def words(name: str) -> tuple[str, ...]:
    """The words and numbers of a name: `h0_outN` → h, 0, out, n."""
    found = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    return tuple(re.sub(r"^([a-z])[nxyt]$", r"\1", w) if w not in PLACES | MOMENTS else w for w in found)


def core(name: str) -> tuple[str, ...]:
    """The words of a name without those of a side; if there are no others, the first word for a moment: n, n_out."""
    inner = tuple(w for w in words(name) if w not in PLACES)
    return tuple(w for w in inner if w not in MOMENTS) or inner[:1]


def numbers(names: Sequence[str]) -> list[int]:
    """The last number of each name that has one."""
    found = [[int(w) for w in words(name) if w.isdigit()] for name in names]
    return [each[-1] for each in found if each]


def says_state(name: str) -> bool:
    """Whether a name has a word for states."""
    return not CARRIERS.isdisjoint(re.findall(r"[a-z]+", "_".join(words(name))))


def telling(start: str, end: str) -> bool:
    """Whether two names that belong together denote a state, rather than an ordinary input and output."""
    left = [w for w in core(start) if not w.isdigit() and w not in ORDINARY]
    timed = not MOMENTS.isdisjoint(words(start)) or not MOMENTS.isdisjoint(words(end))
    return bool(left) or (timed and bool(core(start)))


def pairs(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, str]:
    """Input → output, if the names allow one pairing only; `fits` says whether two can be one state."""
    found: dict[str, str] = {}
    for way in (_same, _same_but_time, _one_change, _contained):
        left = [i for i in inputs if i not in found]
        right = [o for o in outputs if o not in found.values()]
        found |= unique(way(left, right, fits))
    return found


def unique(options: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Input → output for inputs with one option that no other input has."""
    wanted = [o for each in options.values() for o in each]
    return {i: each[0] for i, each in options.items() if len(each) == 1 and wanted.count(each[0]) == 1}


def _same(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, list[str]]:
    return {i: [o for o in outputs if core(o) == core(i) and core(i) and fits(i, o)] for i in inputs}


def _same_but_time(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, list[str]]:
    """As `_same`, where a last number that all names of one side share denotes the step: h0, c0 → hn, cn; h_0 → h_1."""

    def stem(name: str, fellows: Sequence[str]) -> tuple[str, ...]:
        left = core(name)
        ends = {other[-1] for f in fellows if (other := core(f))[:-1] and other[-1].isdigit()}
        return left[:-1] if len(ends) == 1 and left[:-1] and left[-1].isdigit() else left

    return {i: [o for o in outputs if stem(i, inputs) and stem(o, outputs) == stem(i, inputs) and fits(i, o)] for i in inputs}


def _change(start: str, end: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The words that only one of two names has, if the names share a word and none of these is a number; else None."""
    a, b = words(start), words(end)
    gone, come = tuple(w for w in a if w not in b), tuple(w for w in b if w not in a)
    shared = [w for w in a if w in b]
    return None if not shared or any(w.isdigit() for w in (*gone, *come)) or shared != [w for w in b if w in a] else (gone, come)


def _one_change(inputs: Sequence[str], outputs: Sequence[str], fits: Fits) -> dict[str, list[str]]:
    """Pairs by the change that turns the most names of inputs into names of outputs."""
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
    """Pairs in which one name contains the other: lstm_states_pi_h → pi_h."""

    def within(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
        return bool(a) and any(b[k : k + len(a)] == a for k in range(len(b) - len(a) + 1))

    return {i: [o for o in outputs if fits(i, o) and (within(core(i), core(o)) or within(core(o), core(i)))] for i in inputs}
