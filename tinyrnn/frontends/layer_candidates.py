"""Weights without a description: the layers that fit their names and shapes, and the `layers=` to write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyrnn.frontends.archive import Array
from tinyrnn.frontends.weights import GATES, RECURRENT_KEY, listed

MOST_TRIED = 20_000
"""most orders of the layers that are tried"""
NORM = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@dataclass(frozen=True)
class Candidate:
    """A layer that fits some arrays."""

    type: str
    prefix: str
    takes: int
    """input features; 0 for an embedding, which takes indices"""
    makes: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> list[Any]:
        return [self.type, self.prefix, *([self.options] if self.options else [])]


def layer_candidates(arrays: Mapping[str, Array], origins: Mapping[str, str]) -> str:
    """A message: the keys of the arrays, and the call of `load` that fits them. origins: array → its name in the file."""
    groups: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        prefix, _, name = key.rpartition(".")
        groups.setdefault(prefix, {})[name] = array
    if list(arrays) == sorted(arrays):  # as .safetensors has them, layer 10 before layer 2
        groups = dict(sorted(groups.items(), key=lambda item: _numbers(item[0])))
    found = {prefix: alternatives for prefix, group in groups.items() if (alternatives := _guesses(prefix, group))}
    chain = _chain(list(found.values()))
    text = f"Its arrays are {listed(arrays)}. "
    used = {guess.prefix for guess in chain}
    left = [key for key in arrays if key.rpartition(".")[0] not in used]
    if not chain:
        return text + (
            "No supported layer has such arrays (they are listed in tinyrnn/frontends/npz.py). If they are those of one under "
            'other names, say so: load(path, layers=[("LSTM", "rnn")], names={"my_kernel": "rnn.weight_ih_l0", …}); otherwise '
            "export the model to .onnx"
        )
    names = _without([origins[key] for key in left], [o for k, o in origins.items() if k not in left])
    entries = ", ".join(f"({', '.join(_literal(part) for part in guess.entry)})" for guess in chain)
    call = f"load(path, layers=[{entries}]{f', names={_literal(names)}' if names else ''})"
    line = f"--layers '{json.dumps([g.entry for g in chain])}'" + "".join(f" --names '{old}='" for old in names)
    text += f'Judging by their names and sizes, write {call}, with activations such as "ReLU" in their places'
    kinds = {guess.type for guess in chain}
    if any(kind.startswith("RNN") for kind in kinds):
        text += ', {"nonlinearity": "relu"} as a third part of an RNN that has it'
    if "Conv1d" in kinds:
        text += ', {"padding": 1, "stride": 2, "groups": 4} or {"padding": "causal"} as a third part of a Conv1d that has them'
    if kinds & {"RNN", "GRU", "LSTM"}:
        text += ', {"select": "last"} as a third part of a recurrent layer whose last step alone goes on'
    text += f"; on the command line {line}"
    if left:
        text += (
            f". That leaves out {', '.join(left[:10])}{' and more' if len(left) > 10 else ''}, which no chain of layers that are "
            f"read has: where the model needs them, export it to .onnx"
        )
    return text


def _numbers(name: str) -> list[tuple[int, str]]:
    """A sort key that orders names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _literal(value: Any) -> str:
    """A value as a Python literal with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _without(left: Sequence[str], kept: Sequence[str]) -> dict[str, None]:
    """Names and patterns that match all arrays of `left` and none of `kept`."""
    made: dict[str, None] = {}
    for key in left:
        start = re.match(r".*[./]", key)
        whole = start is not None and not any(k.startswith(start[0]) for k in kept) and "*" not in key
        made[f"{start[0]}*" if whole and start else key] = None
    return made


def _chain(groups: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """The longest chain of layers that fit one after another, one of each group; in the given order if that fits."""
    best: list[Candidate] = []
    tried = 0

    def grow(chain: list[Candidate], left: list[int]) -> bool:
        nonlocal best, tried
        tried += 1
        if len(chain) > len(best):
            best = list(chain)
        if not left or tried > MOST_TRIED:
            return True
        for place, index in enumerate(left):
            for guess in groups[index]:
                if not chain or guess.takes == chain[-1].makes:
                    chain.append(guess)
                    if grow(chain, left[:place] + left[place + 1 :]):
                        return True
                    chain.pop()
        return False

    grow([], list(range(len(groups))))
    return best


def _guesses(prefix: str, group: Mapping[str, Array]) -> list[Candidate]:
    """The layers that can have such arrays, the likeliest first."""
    recurrent = _recurrent(prefix, group)
    if recurrent:
        return [recurrent]
    weight = group.get("weight", group.get("running_mean"))
    numbers = [a for name, a in group.items() if name != "num_batches_tracked"]
    if weight is None or not set(group) <= NORM or any(a.dtype.kind != "f" for a in numbers):
        return []
    if {"running_mean", "running_var"} <= set(group):
        return [Candidate("BatchNorm1d", prefix, len(weight), len(weight))] if weight.ndim == 1 else []
    if not set(group) <= {"weight", "bias"} or weight.size == 0:
        return []
    if weight.ndim == 1:
        return [Candidate("LayerNorm", prefix, len(weight), len(weight))]
    if weight.ndim == 3:
        outer, inner, _ = weight.shape
        grouped = [Candidate("Conv1d", prefix, outer, outer, {"groups": outer})] if inner == 1 and outer > 1 else []
        return [Candidate("Conv1d", prefix, inner, outer), *grouped]
    if weight.ndim != 2:
        return []
    linear, table = (
        Candidate("Linear", prefix, weight.shape[1], weight.shape[0]),
        Candidate("Embedding", prefix, 0, weight.shape[1]),
    )
    if "bias" in group:
        return [linear]
    return [table, linear] if "emb" in prefix.lower() else [linear, table]


def _recurrent(prefix: str, group: Mapping[str, Array]) -> Candidate | None:
    matches = {name: RECURRENT_KEY.fullmatch(name) for name in group}
    hidden = {n: a for n, a in group.items() if (m := matches[n]) and m[1] == "weight_hh" and a.ndim == 2}
    inputs = [a for n, a in group.items() if (m := matches[n]) and m[1] == "weight_ih" and (m[3] or "0") == "0" and a.ndim == 2]
    if not hidden or not inputs or not all(matches.values()):
        return None
    matrix = max(hidden.items(), key=lambda pair: _numbers(pair[0]))[1]
    projected = any(m and m[1] == "weight_hr" for m in matches.values())
    kind = "LSTM" if projected else next((k for k, g in GATES.items() if len(matrix) == g * matrix.shape[1]), None)
    if kind is None:
        return None
    both = any(m and m[4] for m in matches.values())
    single = all(m and not m[2] for m in matches.values())
    return Candidate(f"{kind}Cell" if single else kind, prefix, inputs[0].shape[1], matrix.shape[1] * (1 + both))
