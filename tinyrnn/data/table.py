"""Tables of numbers from text: what spreadsheets, loggers and NumPy write as .csv."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError

SAMPLE = 20
"""lines by which the separator is determined"""
DATE = r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{4}|\d{1,2}/\d{1,2}/\d{2})"
CLOCK = r"(\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp][Mm])?( ?(Z|UTC|[+-]\d{2}:?\d{2}))?)"
TIME = re.compile(rf"{DATE}([T ] ?{CLOCK})?|{CLOCK}")
EPOCH_NAMES = re.compile(
    r"(unix|epoch|posix)?[ _-]?(time|timestamp|epoch|date|datetime|zeit|zeitstempel|datum|ts)([ _-]?(m|u|n)?s)?", re.I
)
EPOCH_FROM = 1e8
"""seconds since 1970, in 1973: a column of larger numbers under a name for times holds points in time"""
COMMA = re.compile(r"[+-]?(\d*|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+")
MISSING = ("", "na", "n/a", "null", "none", "-", "--", "?", "#n/a", "#nv")


@dataclass(frozen=True)
class Table:
    """A table of numbers, and where they stood in the file."""

    values: np.ndarray[Any, Any]
    """float64 [rows, columns], without the columns that were left out"""
    names: list[str]
    """names of these columns from the header, or their numbers from 1"""
    lines: list[int]
    """line number of each row, from 1"""
    times: list[str]
    """columns that were left out because they hold dates or times"""
    epochs: list[int]
    """indices of columns whose numbers are points in time, judged by name and size"""


def read_table(path: Path, drop: tuple[str, ...] = ()) -> Table:
    """The numbers of a text file: fields separated by ; tab , or space, decimal points or commas, with or without a header.

    drop: columns to leave out, by name or by number, from 1. Columns of dates and times are left out by themselves.
    Raises `LoadError` with line and column for what is no number.
    """
    lines = _text(path).splitlines()
    rows = _rows(path, lines)
    header, first = _header(rows)
    if first is None:
        raise LoadError(f"{path}: not a table of numbers: it has no line of numbers")
    width = _width(first[1], header)
    names = next((h for _, h in header if len(h) >= width), [""] * width)[:width]
    names = [name or str(index + 1) for index, name in enumerate(names)]
    left = _dropped(path, names, drop)
    times = {i for i in range(width) if i not in left and TIME.fullmatch(first[1][i])}
    kept = [i for i in range(width) if i not in left and i not in times]
    if not kept:
        raise LoadError(f"{path}: no column of numbers; {', '.join(map(repr, names))} hold dates or times")
    cells, places = array("d"), []
    reader = _Numbers(path, names)
    for line, row in _chained(first, rows):
        if len(row) != width and not (len(row) == width + 1 and not row[-1]):
            raise LoadError(
                f"{path}: not a table of numbers: line {line} has {len(row)} cells, line {first[0]} has {width}; .csv holds one "
                f"frame a line"
            )
        cells.extend(reader.number(row[i], line, i) for i in kept)
        places.append(line)
    reader.check(path)
    values = np.frombuffer(cells, np.float64).reshape(-1, len(kept)).copy()
    epochs = [k for k, i in enumerate(kept) if EPOCH_NAMES.fullmatch(names[i]) and np.nanmin(np.abs(values[:, k])) >= EPOCH_FROM]
    return Table(values, [names[i] for i in kept], places, [names[i] for i in sorted(times)], epochs)


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    if "\0" in text or "\ufffd" in text:
        raise LoadError(f"{path}: not a text file; .csv holds numbers, one frame a line (save it as UTF-8)")
    return text


def _rows(path: Path, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank."""
    start = 0
    said = re.fullmatch(r"sep=(.)\s*", lines[0]) if lines else None
    separator = said[1] if said else _separator([line for line in lines[: 4 * SAMPLE] if line.strip()][:SAMPLE])
    if said:
        start = 1
    if separator is None:
        for number, line in enumerate(lines[start:], start + 1):
            if line.strip():
                yield number, line.replace('"', "").split()
        return
    reader = csv.reader(iter(lines[start:]), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num + start, cells
    except csv.Error as error:
        raise LoadError(f"{path}: not a table of numbers: line {reader.line_num + start} cannot be read ({error})") from None


def _separator(lines: list[str]) -> str | None:
    """The separator of fields; None for spaces."""
    bare = [re.sub(r'"[^"]*"', "x", line) for line in lines]
    for mark in ";\t":
        if all(mark in line for line in bare[-1:]):
            return mark
    if not any("," in line for line in bare):
        return None
    words = [line.split() for line in bare[1:] or bare]
    decimal = all(COMMA.fullmatch(w) or _is_number(w) or TIME.fullmatch(w) for line in words for w in line)
    if decimal and (max(map(len, words)) > 1 or (len(bare) > 1 and "," not in bare[0] and not _is_number(bare[0]))):
        return None
    return ","


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _header(rows: Iterator[tuple[int, list[str]]]) -> tuple[list[tuple[int, list[str]]], tuple[int, list[str]] | None]:
    """(lines before the first with a number or a time, that line)."""
    header: list[tuple[int, list[str]]] = []
    for line, row in rows:
        if any(_is_number(c) or COMMA.fullmatch(c) or TIME.fullmatch(c) for c in row):
            return header, (line, row)
        header.append((line, row))
    return header, None


def _width(first: list[str], header: list[tuple[int, list[str]]]) -> int:
    """The number of columns; a separator at the end of every line does not count as one more."""
    named = [h for _, h in header if len(h) >= len(first)]
    return len(first) - (len(first) > 1 and not first[-1] and not any(h[len(first) - 1] for h in named))


def _dropped(path: Path, names: list[str], drop: tuple[str, ...]) -> set[int]:
    found = set()
    for name in drop:
        if name in names:
            found.add(names.index(name))
        elif name.isdecimal() and 1 <= int(name) <= len(names):
            found.add(int(name) - 1)
        else:
            raise LoadError(f"{path}: there is no column {name!r} to drop; it has {', '.join(map(repr, names))}")
    return found


def _chained(first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rows


class _Numbers:
    """Numbers from cells: decimal points, or decimal commas with points between thousands, the same in the whole file."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names = path, names
        self.comma = self.point = ""
        self.doubtful = ""

    def number(self, cell: str, line: int, column: int) -> float:
        try:
            value = float(cell)
        except ValueError:
            return self.other(cell, line, column)
        if "." in cell:
            if THOUSANDS.fullmatch(cell):
                self.doubtful = self.doubtful or self.place(cell, line, column)
            else:
                self.point = self.point or self.place(cell, line, column)
        return value

    def place(self, cell: str, line: int, column: int) -> str:
        name = f"column {self.names[column]!r}" if self.names[column] != str(column + 1) else f"column {column + 1}"
        return f"line {line}, {name}: {cell[:40]!r}"

    def other(self, cell: str, line: int, column: int) -> float:
        if COMMA.fullmatch(cell):
            self.comma = self.comma or self.place(cell, line, column)
            return float(cell.replace(".", "").replace(",", "."))
        where = self.place(cell, line, column)
        if cell.lower() in MISSING:
            raise LoadError(f"{self.path}: not a table of numbers: {where}: a value is missing; fill it in, or take the line out")
        raise LoadError(
            f"{self.path}: not a table of numbers: {where} is no number; leave the column out with "
            f"--drop {_shell(self.names[column])}"
        )

    def check(self, path: Path) -> None:
        """Raise `LoadError` where points and commas contradict each other."""
        other = self.point or self.doubtful
        if self.comma and other:
            raise LoadError(f"{path}: decimal commas and points in one table: {self.comma}, and {other}; write them alike")


def _shell(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f'"{name}"'
