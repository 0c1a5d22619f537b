"""The results of a measurement: figures, and their forms as text, JSON and picture.

Times are microseconds, sizes bytes, unless a name says otherwise.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.data import terminal as picture
from tinyrnn.data.text import columns, markdown, plain
from tinyrnn.errors import StreamError
from tinyrnn.graph.arrays import Array


@dataclass(frozen=True)
class Setting:
    """The machine and versions of a measurement."""

    cpu: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]
    date: str

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return f"{self.cpu}, {self.cores} cores, {self.system}, Python {self.python}, {packages}, {self.date}"


@dataclass(frozen=True)
class Latency:
    """Microseconds of single steps, the clock's own cost (`clock`) included."""

    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float
    mean: float
    steps: int
    clock: float
    samples: Array = field(repr=False, compare=False)

    @classmethod
    def of(cls, nanoseconds: Array, clock: float) -> Latency:
        us = nanoseconds / 1e3
        p50, p90, p99, p99_9 = (float(v) for v in np.percentile(us, (50, 90, 99, 99.9)))
        return cls(p50, p90, p99, p99_9, float(us.max()), float(us.mean()), len(us), clock, us)


@dataclass(frozen=True)
class Deadline:
    """Against a source of `rate` frames per second: a step is late when it takes longer than `budget` microseconds."""

    rate: float
    budget: float
    late: int | None
    steps: int | None
    step_times_real_time: float | None
    """budget / mean step"""
    run_times_real_time: float


@dataclass(frozen=True)
class Allocated:
    """Allocations of one call of Python code, averaged over `calls`."""

    bytes: float
    """peak bytes in use during the call, above those in use before it"""
    blocks: float
    """blocks alive when it returns, its result included"""
    calls: int


@dataclass(frozen=True)
class Allocations:
    """Counted, not assumed; None where it could not be counted."""

    native: int | None
    """external functions that the compiled code can call, except those that copy and fill memory"""
    symbols: tuple[str, ...] | None
    """every symbol that the compiled code leaves undefined"""
    step_out: Allocated | None
    """step(x, out=y)"""
    step: Allocated | None
    """step(x)"""
    resident_growth: int | None
    """bytes by which this process grew over `resident_steps` steps"""
    resident_steps: int

    def __str__(self) -> str:
        def call(value: Allocated | None) -> str:
            return "not counted" if value is None else f"{value.bytes:,.5g} bytes at once, {value.blocks:,.4g} blocks kept"

        native = "not counted" if self.native is None else f"can call {self.native} functions that could allocate"
        grown = self.resident_growth
        growth = "not counted" if grown is None else f"by {grown:,} bytes in {self.resident_steps:,} steps"
        rows = [
            ("compiled code", native),
            ("step(x, out=y)", call(self.step_out)),
            ("step(x)", call(self.step)),
            ("this process grew", growth),
        ]
        return "\n".join(["allocations per step, counted", *_left(rows)])


@dataclass(frozen=True)
class Loading:
    """Seconds of import and load in fresh processes: `cold` with an empty cache, `cached` from it, the median of several."""

    import_ms: float
    cold_s: float
    cached_s: float


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    weights: int
    state: int
    arena: int
    code: int
    resident: int | None
    """bytes of a fresh process that loaded the model from the cache, if loading was measured; else of this process"""


@dataclass(frozen=True)
class Peer:
    """Another runtime on the same file and data, interleaved. Ratios say how many times faster tinyrnn is."""

    name: str
    version: str
    step: float | None
    run: float
    step_ratio: float | None
    run_ratio: float
    latency: Latency | None
    load_s: float
    difference: float
    """largest absolute difference of any output, on the data measured"""
    note: str


@dataclass(frozen=True)
class Result:
    """The result of `bench`. `step` and `run`: time per frame, medians over rounds; `latency`: of single steps."""

    model: str
    kind: str
    refuses_stream: str
    frames: int
    """of one whole run"""
    step: float | None
    step_out: float | None
    """with out= an array of the caller"""
    run: float
    latency: Latency | None
    deadline: Deadline | None
    allocations: Allocations
    loading: Loading | None
    memory: Memory
    versus: Peer | None
    setting: Setting
    refusal: str = ""
    """why the comparison that was asked for is missing"""

    def as_dict(self) -> dict[str, Any]:
        """All figures except the single samples, in types that JSON has."""
        found: dict[str, Any] = plain(self)
        return found

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.kind} model", str(self.setting), "", *_time_lines(self)]
        if self.deadline:
            d = self.deadline
            step = "" if d.step_times_real_time is None else f"step {d.step_times_real_time:,.1f} × real time, "
            late = "" if d.late is None else f", {d.late:,} of {d.steps:,} steps late"
            lines += [
                "",
                f"at {d.rate:g} frames per second ({d.budget:,.1f} µs each): {step}"
                f"run {d.run_times_real_time:,.1f} × real time{late}",
            ]
        return "\n".join([*lines, "", str(self.allocations), "", *_memory_lines(self)])


@dataclass(frozen=True)
class Row:
    """One recurrent cell with as many inputs as units: microseconds per frame, medians over rounds."""

    cell: str
    hidden: int
    step: float
    run: float
    peer_step: float | None = None
    peer_run: float | None = None
    step_ratio: float | None = None
    run_ratio: float | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Table:
    """The result of `table`."""

    rows: tuple[Row, ...]
    frames: int
    versus: str | None
    setting: Setting

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        return found

    def _cells(self) -> list[list[str]]:
        head = ["cell", "H", "step µs", "run µs/frame"]
        if self.versus:
            head += [f"{self.versus} step µs", f"{self.versus} run µs/frame", "step ×", "run ×"]
        body = []
        for r in self.rows:
            line = [r.cell, str(r.hidden), f"{r.step:.2f}", f"{r.run:.3f}"]
            if r.peer_step is not None and r.peer_run is not None:
                line += [f"{r.peer_step:.2f}", f"{r.peer_run:.3f}", f"{r.step_ratio:.1f}", f"{r.run_ratio:.2f}"]
            body.append(line)
        return [head, *body]

    def __str__(self) -> str:
        return "\n".join(
            [
                str(self.setting),
                f"batch 1, one thread, inputs = units = H; a run is {self.frames:,} frames",
                "",
                *columns(self._cells(), right=True),
            ]
        )

    def markdown(self) -> str:
        return markdown(self._cells())


def _time_lines(result: Result) -> list[str]:
    peer = result.versus

    def row(label: str, own: float | None, other: float | None = None) -> list[str]:
        cells = [label, "–" if own is None else f"{own:,.2f}"]
        ratio = "" if own is None or other is None else f"{other / own:,.2f}"
        return [*cells, "–" if other is None else f"{other:,.2f}", ratio] if peer else cells

    rows = [["microseconds", "tinyrnn", *([peer.name, "times faster"] if peer else [])]]
    if result.step is not None:
        rows += [row("step(x)", result.step, peer.step if peer else None), row("step(x, out=y)", result.step_out)]
    rows.append(row(f"run over {result.frames:,} frames, per frame", result.run, peer.run if peer else None))
    if result.latency:
        other = peer.latency if peer else None
        for name in ("p50", "p90", "p99", "p99_9", "max"):
            label = f"single step {name.replace('_', '.')}"
            rows.append(row(label, getattr(result.latency, name), getattr(other, name) if other else None))
    lines = columns(rows, right=True)
    if result.latency:
        lines.append(f"{result.latency.steps:,} single steps, each with {result.latency.clock:.2f} µs of the clock's own")
    if result.refuses_stream:
        lines.append(f"whole runs only: {result.refuses_stream}")
    if result.refusal:
        lines.append(result.refusal)
    if peer:
        lines.append(
            f"{peer.name} {peer.version}: largest difference of an output {peer.difference:.1e}"
            f"{'; ' + peer.note if peer.note else ''}"
        )
    return lines


def _memory_lines(result: Result) -> list[str]:
    m, loading = result.memory, result.loading
    rows = [
        ("weights", f"{m.weights:,} bytes"),
        ("state", f"{m.state:,} bytes per stream"),
        ("arena", f"{m.arena:,} bytes per stream"),
        ("code", f"{m.code:,} bytes"),
    ]
    rows += [("resident", f"{m.resident / 1e6:,.1f} MB")] if m.resident is not None else []
    lines = ["memory", *_left(rows)]
    if loading:
        lines += [
            "",
            "loading, each in a fresh process",
            *_left(
                [
                    ("import tinyrnn", f"{loading.import_ms:,.1f} ms"),
                    ("load, empty cache", f"{loading.cold_s:,.2f} s"),
                    ("load, from the cache", f"{loading.cached_s:,.2f} s"),
                ]
            ),
        ]
    return lines


def _left(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(label) for label, _ in rows)
    return [f"  {label.ljust(width)}  {text}" for label, text in rows]


def here() -> Setting:
    """The setting of this process."""
    from tinyrnn.targets.machine import host

    machine = host()
    packages = {}
    for name in ("numpy", "numba", "llvmlite", "onnxruntime"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Setting(
        f"{_processor()} ({machine.cpu}, {machine.lanes} lanes)",
        os.cpu_count() or 1,
        f"{platform.system()} {platform.machine()}",
        platform.python_version(),
        packages,
        datetime.date.today().isoformat(),
    )


def _processor() -> str:
    """The model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def plot(result: Result, path: str | PathLike[str]) -> None:
    """Draw the distribution of single steps, the peer's beside it where it was measured, into an image file.

    Needs matplotlib. Raises `StreamError` where the model has no steps, `TinyRNNError` where the file cannot be written.
    """
    if result.latency is None:
        raise StreamError(f"{result.model} cannot stream ({result.refuses_stream}): there are no steps to draw")
    shown = [("tinyrnn", result.latency, "tab:blue")]
    if result.versus and result.versus.latency:
        shown.append((result.versus.name, result.versus.latency, "tab:orange"))
    low = min(latency.samples.min() for _, latency, _ in shown)
    high = max(latency.samples.max() for _, latency, _ in shown)
    bins = np.geomspace(max(low, 1e-3) * 0.9, max(high, 1e-3) * 1.1, 150)
    figure = picture.figure(9, 3 + 1.6 * len(shown))
    rows = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, latency, colour) in zip(rows, shown, strict=True):
        share = np.full(len(latency.samples), 100 / len(latency.samples))
        axes.hist(latency.samples, bins=bins, weights=share, color=colour, alpha=0.75)
        axes.set(xscale="log", yscale="log", ylabel="share of steps (%)", ylim=(50 / max(v.steps for _, v, _ in shown), 150))
        for style, label in (("-", "p50"), ("--", "p90"), ("-.", "p99"), (":", "p99.9")):
            value = getattr(latency, label.replace(".", "_"))
            axes.axvline(value, color="black", linestyle=style, linewidth=1.2, label=f"{label}  {value:,.2f} µs")
        if result.deadline and bins[0] < result.deadline.budget < bins[-1]:
            budget = result.deadline.budget
            axes.axvline(budget, color="tab:red", linewidth=1.5, label=f"deadline  {budget:,.2f} µs")
        title = f"{name}, {latency.steps:,} steps\nmax  {latency.max:,.2f} µs"
        axes.legend(title=title, loc="upper right", fontsize=9, framealpha=1)
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.yaxis.set_major_formatter("{x:g}")
    rows[-1].set_xlabel("duration of one step (µs)")
    figure.suptitle(f"{result.model}: latency of Stream.step on {result.setting.cpu}", fontsize=11)
    picture.save(figure, path)
