"""The result of a check: rows of figures, as a table and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tinyrnn.data.text import columns, plain


@dataclass(frozen=True)
class Difference:
    """The largest differences of two arrays; `place` is where the absolute one is."""

    absolute: float
    relative: float
    """relative to the larger of the two"""
    ulp: float
    """in units in the last place of the larger of the two, in the less precise of their types"""
    place: tuple[int, ...]
    actual: float
    expected: float


@dataclass(frozen=True)
class Row:
    """One output or final state, in one way of running, against one oracle."""

    name: str
    kind: str
    """'output' or 'state'"""
    way: str
    against: str
    difference: Difference
    excess: float
    """the difference divided by the tolerance: up to 1 passes"""
    passed: bool
    drift: tuple[float, ...] = ()
    """largest absolute difference in each tenth of the run"""
    grows: bool = False


@dataclass
class Report:
    """The result of `check`. `passed` if every row and chunk invariance passed and there are no doubts."""

    model: str
    kind: str
    frames: int
    sequences: int
    level: str
    data: str
    oracle: str = ""
    rows: list[Row] = field(default_factory=list)
    invariance: dict[str, list[str]] = field(default_factory=dict)
    """way of running → outputs and states whose bits differ from those of the first way"""
    precision: list[Row] = field(default_factory=list)
    """comparison with the float64 reference over the first frames, for information"""
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """reasons why the comparison may miss the use of the model, such as a state that is not fed back"""

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not self.doubts and all(row.passed for row in self.rows) and not any(self.invariance.values())

    def as_dict(self) -> dict[str, Any]:
        """The report in types that JSON has; infinities and NaN become text."""
        as_json: dict[str, Any] = plain({"passed": self.passed, **{f.name: getattr(self, f.name) for f in fields(self)}})
        return as_json

    def __str__(self) -> str:
        sequences = f"{self.sequences} sequence{'s'[: self.sequences > 1]}"
        title = f"{self.model}: {self.kind} model, {self.frames} frames, {sequences}, {self.data}"
        lines = [f"{title}; against {self.oracle or 'nothing'}, level {self.level!r}"]
        head = ("", "", "max abs", "max rel", "max ULP", "of tolerance", "first → last tenth", "", "way")
        rows = [
            (
                row.kind,
                row.name,
                *_figures(row),
                _drift(row),
                "ok" if row.passed else "FAILED",
                row.way + (f" ({row.against})" if row.against != self.oracle else ""),
            )
            for row in self.rows
        ]
        lines += [f"  {line}" for line in columns([head, *_joined(rows)])]
        lines += [
            f"  FAILED {row.name}, {row.way}: {row.difference.actual:.9g} instead of {row.difference.expected:.9g} "
            f"at {list(row.difference.place)}"
            for row in self.rows
            if not row.passed
        ]
        differing = {way: names for way, names in self.invariance.items() if names}
        lines += [f"  FAILED chunk invariance: {way} has other bits in {', '.join(names)}" for way, names in differing.items()]
        if self.invariance and not differing:
            lines.append(f"chunk invariance: the same bits in {', '.join(self.invariance)}")
        lines += [f"  FAILED {doubt}" for doubt in self.doubts]
        if self.precision:
            lines.append("against the float64 reference, for information:")
            lines += [f"  {line}" for line in columns([(r.kind, r.name, *_figures(r), r.way) for r in self.precision])]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), "passed" if self.passed else "FAILED"])


def _figures(row: Row) -> tuple[str, str, str, str]:
    d = row.difference
    return f"{d.absolute:.1e}", f"{d.relative:.1e}", f"{d.ulp:.1f}" if d.ulp < 1e5 else f"{d.ulp:.0e}", f"{row.excess:.2g}"


def _drift(row: Row) -> str:
    return f"{row.drift[0]:.1e} → {row.drift[-1]:.1e}{' grows' if row.grows else ''}" if row.drift else ""


def _joined(table: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The table with lines that differ in the last column only joined into one."""
    ways: dict[tuple[str, ...], list[str]] = {}
    for *figures, way in table:
        ways.setdefault(tuple(figures), []).append(way)
    return [(*figures, ", ".join(names)) for figures, names in ways.items()]
