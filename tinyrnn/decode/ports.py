"""The output and the input through which tokens are fed back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tinyrnn.decode import job as k
from tinyrnn.errors import DecodeError
from tinyrnn.graph.arrays import Array, Port
from tinyrnn.runtime import Model


class Feedback(NamedTuple):
    """An output with scores, and the input that takes the chosen token."""

    output: Port
    feed: Port
    form: int
    limit: int
    """upper bound of the tokens that the input takes"""


def find_feedback(model: Model, output: str | None, feed: str | None, table: Array | None, inputs: Mapping[str, Any]) -> Feedback:
    """The only pair that fits the arguments. Raises `DecodeError` if there is none or several, or inputs are missing."""
    for what, name, ports in (("output", output, model.outputs), ("input", feed, model.inputs)):
        if name is not None and name not in {p.name for p in ports}:
            raise DecodeError(f"{model.name}: no {what} {name!r}; there are {_list(ports)}")
    wrong = [name for name in inputs if name not in {p.name for p in model.inputs} or name == feed]
    if wrong:
        other = [p for p in model.inputs if p.name != feed]
        raise DecodeError(f"{model.name}: inputs has {', '.join(map(repr, wrong))}; the constant inputs are {_list(other)}")
    scores = [p for p in model.outputs if output in (None, p.name) and _is_scores(p)]
    if not scores:
        chosen = [p for p in model.outputs if output in (None, p.name)]
        raise DecodeError(
            f"{model.name}: no scores to choose a token by: they are float32 along one axis, and there is {_list(chosen)}"
        )
    takers = [p for p in model.inputs if feed in (None, p.name) and p.name not in inputs]
    pairs = [pair for o in scores for p in takers if (pair := _pair(o, p, table))]
    indices = [pair for pair in pairs if pair.form in (k.INDEX64, k.INDEX32)]
    pairs = indices or pairs
    if not pairs:
        raise DecodeError(f"{model.name}: {_mismatch(scores, takers, table)}")
    if len(pairs) > 1:
        choices = "; ".join(f"output={p.output.name!r}, feed={p.feed.name!r}" for p in pairs)
        raise DecodeError(f"{model.name}: several outputs could go back into several inputs. Write one of: {choices}")
    missing = [p for p in model.inputs if p is not pairs[0].feed and p.name not in inputs]
    if missing:
        values = ", ".join(f"{p.name!r}: …" for p in missing)
        raise DecodeError(f"{model.name}: {_list(missing)} must be given, constant during a generation: inputs={{{values}}}")
    return pairs[0]


def _is_scores(port: Port) -> bool:
    return port.dtype == np.float32 and sum(n != 1 for n in port.shape) == 1 and port.size > 1


def _pair(output: Port, feed: Port, table: Array | None) -> Feedback | None:
    if table is not None:
        fits = feed.dtype == np.float32 and feed.size == table.shape[1] and len(table) >= output.size
        return Feedback(output, feed, k.ROW, len(table)) if fits else None
    if feed.size == 1 and feed.dtype == np.int64:
        return Feedback(output, feed, k.INDEX64, 1 << 62)
    if feed.size == 1 and feed.dtype == np.int32:
        return Feedback(output, feed, k.INDEX32, 1 << 31)
    if feed.dtype == np.float32 and _is_scores(feed) and feed.size == output.size:
        return Feedback(output, feed, k.ONE_HOT, feed.size)
    return None


def _mismatch(scores: list[Port], takers: list[Port], table: Array | None) -> str:
    if table is not None:
        return (
            f"a table of {len(table)} rows of {table.shape[1]} elements fits none of {_list(takers)} with the scores "
            f"{_list(scores)}: it has a row for each score, of the size of a float32 input"
        )
    return (
        f"none of {_list(takers)} takes a token chosen by {_list(scores)}: it is an integer input of one element, or a "
        f"float32 input with as many elements as there are scores. Where the model takes embeddings, give table="
    )


def _list(ports: tuple[Port, ...] | list[Port]) -> str:
    return ", ".join(map(str, ports)) or "nothing"
