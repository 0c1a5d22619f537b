"""Results for people and programs: aligned columns of text, and values in the types that JSON has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import numpy as np


def columns(rows: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """Rows of cells as aligned lines; with `right` all columns but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<", *(">" if right else "<") * (len(widths) - 1)]
    return ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table of Markdown, the head first; all columns but the first are aligned to the right."""
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(value: Any) -> Any:
    """A value in types that JSON has: a dataclass without fields that its repr lacks, infinities and NaN as text."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    value = value.item() if isinstance(value, np.generic) else value
    return value if not isinstance(value, float) or isfinite(value) else str(value)
