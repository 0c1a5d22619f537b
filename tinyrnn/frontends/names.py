"""Renaming the arrays of a file by the option `names` of `tinyrnn.load`.

    {"module.*": "*", "head.w": "head.weight", "ema.*": None}

A name of the file stands before the name that layers expect; one `*` in it stands for any text, and where the new name has
a `*` that text goes in; None leaves arrays out. A name as it is goes before one with a `*`, an earlier before a later one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tinyrnn.errors import LoadError
from tinyrnn.frontends.archive import Array


def renamed(path: Path, arrays: Mapping[str, Array], names: Any) -> dict[str, Array]:
    """Rename arrays by `names`. Raises `LoadError` where an entry matches nothing or two arrays get one name."""
    if not isinstance(names, Mapping):
        raise LoadError(f'{path}: names must be a dict such as {{"module.*": "*", "ema.*": None}}, not {names!r:.80}')
    ways = [(old, _pattern(path, old, new), new) for old, new in names.items()]
    ways.sort(key=lambda way: "*" in way[0])
    found: dict[str, Array] = {}
    came: dict[str, str] = {}
    met = set()
    for key, array in arrays.items():
        name: str | None = key
        for old, pattern, new in ways:
            match = pattern.fullmatch(key)
            if match:
                met.add(old)
                name = new if new is None else new.replace("*", match[1]) if "*" in old else new
                break
        if name is None:
            continue
        if not name or name in found:
            told = f"both {came[name]!r} and {key!r} would be called {name!r}" if name else f"{key!r} would have no name"
            raise LoadError(f"{path}: names: {told}; give them names that differ, or leave one out with None")
        found[name], came[name] = array, key
    for old, pattern, _ in ways:
        if old not in met and any(pattern.fullmatch(key) for key in arrays):
            continue  # an exact name, or an earlier one, was taken before it
        if old not in met:
            close = get_close_matches(old, arrays, 1, 0.4)
            raise LoadError(
                f"{path}: names: no array is called {old!r}{f' (did you mean {close[0]!r}?)' if close else ''}. The file has "
                f"{', '.join(list(arrays)[:40])}{f' and {len(arrays) - 40} more' if len(arrays) > 40 else ''}"
            )
    return found


def _pattern(path: Path, old: Any, new: Any) -> re.Pattern[str]:
    fine = isinstance(old, str) and old and (new is None or (isinstance(new, str) and new))
    if not fine or old.count("*") > 1 or (new or "").count("*") > old.count("*"):
        raise LoadError(
            f"{path}: names: {old!r}: {new!r} must be two names, of which the first may hold one '*' and the second "
            f"one where the first has it, or a name and None, which leaves the array out"
        )
    return re.compile("(.*)".join(map(re.escape, old.split("*"))), re.DOTALL)
