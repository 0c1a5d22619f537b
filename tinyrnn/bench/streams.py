"""Many streams at once: a pool against lone streams, and against onnxruntime with a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.bench.counts import undisturbed
from tinyrnn.bench.data import bounds_of, drawn
from tinyrnn.bench.peer import PeerError, constant, import_onnxruntime
from tinyrnn.bench.report import Setting, here
from tinyrnn.data import terminal as picture
from tinyrnn.data.text import columns, plain
from tinyrnn.errors import TinyRNNError, UnsupportedError
from tinyrnn.graph.arrays import Array, full_shape, rows_first
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.loading.load import LoadOptions, load
from tinyrnn.runtime import Model, Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

ROUNDS = 11
COUNTS = (1, 64, 1024, 16384)
BATCH = 256
"""streams of one call of the peer at most: beyond, its own buffers leave the caches"""
MOST_LONE = 64
"""lone streams that stand for all"""


@dataclass(frozen=True)
class StreamsRow:
    """So many streams: microseconds for one frame of one stream, medians over rounds."""

    streams: int
    pool: float
    """of all streams, in order"""
    half: float
    """of a random half of them"""
    lone: float
    """of `Stream.step`, one stream after the other"""
    peer: float | None = None
    ratio: float | None = None
    """how many times faster the pool is than the peer"""
    difference: float | None = None
    """largest absolute difference of an output from the peer's"""


@dataclass(frozen=True)
class Streams:
    """The result of `streams`."""

    model: str
    rows: tuple[StreamsRow, ...]
    threads: int
    state: int
    """bytes of one stream's slot"""
    versus: str | None
    refusal: str
    """why the comparison that was asked for is missing"""
    setting: Setting

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        return found

    def _cells(self) -> list[list[str]]:
        head = ["streams", "pool µs", "half of them µs", "one by one µs", "× one by one"]
        head += [f"{self.versus} µs", "×", "difference"] if self.versus else []
        body = []
        for r in self.rows:
            line = [f"{r.streams:,}", f"{r.pool:.3f}", f"{r.half:.3f}", f"{r.lone:.3f}", f"{r.lone / r.pool:.2f}"]
            if r.peer is not None:
                line += [f"{r.peer:.3f}", f"{r.ratio:.2f}", f"{r.difference:.1e}"]
            body.append(line)
        return [head, *body]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.model}: one frame of one stream, {self.threads} thread{'s'[: self.threads > 1]}, "
                f"{self.state:,} bytes for each stream",
                str(self.setting),
                "",
                *columns(self._cells(), right=True),
                *([self.refusal] if self.refusal else []),
            ]
        )


def streams(
    path: str | PathLike[str],
    counts: Sequence[int] = COUNTS,
    *,
    seconds: float = 3.0,
    threads: int = 1,
    versus: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Unpack[LoadOptions],
) -> Streams:
    """Measure `Pool.step` for numbers of streams, in order and for a random half, and `Stream.step` for one after the other.

    seconds:  to spend on each number of streams, roughly
    versus:   'onnxruntime': calls with batches of up to 256, whose states are gathered from one array and scattered back
    progress: called with rounds done and in all
    options:  those of `tinyrnn.load`

    Raises what `load` raises, `StreamError` where the model cannot stream, and `TinyRNNError` where an argument makes no sense.
    """
    if not counts or any(n < 1 for n in counts) or not seconds > 0:
        raise TinyRNNError(
            f"bench of streams needs numbers of streams from 1 up and seconds > 0, not {list(counts)}, {seconds:g}"
        )
    if versus not in (None, "onnxruntime"):
        raise UnsupportedError(f"versus={versus!r}: supported is 'onnxruntime'")
    file, rng, refusal = Path(path), np.random.default_rng(seed), ""
    model = load(file, **options)
    if isinstance(model, DynamicShapeModel):
        model = model.specialised(model.example)
    rows = []
    for done, count in enumerate(counts, 1):
        frames = draw(model, rng, count)
        peer = None
        try:
            peer = Batches(file, model, frames, options.get("bind") or {}) if versus else None
        except PeerError as error:
            refusal = str(error)
        with model.pool(count, threads) as pool:
            half = np.sort(rng.permutation(count)[: max(1, count // 2)])
            some, made = [f[half] for f in frames], pool.step(*frames)
            out, part = _out(made), _out([a[half] for a in (made if isinstance(made, tuple) else (made,))])
            lone = [model.stream() for _ in range(min(count, MOST_LONE))]
            each = [tuple(f[i] if f.ndim > 1 else f[i : i + 1].reshape(()) for f in frames) for i in range(len(lone))]
            loops: dict[str, Callable[[], Any]] = {
                "pool": lambda: pool.step(*frames, out=out),  # noqa: B023
                "half": lambda: pool.step(*some, which=half, out=part),  # noqa: B023
                "lone": lambda: [s.step(*x) for s, x in zip(lone, each, strict=True)],  # noqa: B023
            }
            difference = peer.difference(made) if peer else None
            if peer:
                loops["peer"] = peer.step
            found = _interleaved(loops, seconds)
        own = found["pool"] / count
        other = found["peer"] / count if peer else None
        ratio = other / own if other else None
        rows.append(StreamsRow(count, own, found["half"] / len(half), found["lone"] / len(lone), other, ratio, difference))
        if progress:
            progress(done, len(counts))
    state = pool._rows.strides[0]
    return Streams(model.name, tuple(rows), threads, state, versus if not refusal else None, refusal, here())


def draw(model: Model, rng: np.random.Generator, count: int) -> list[Array]:
    """A random frame for each of so many streams."""
    bounds = bounds_of(model)
    return [drawn(p, (count, *p.shape), bounds.get(place), rng, 1) for place, p in enumerate(model.inputs)]


def _out(made: Any) -> Any:
    arrays = [np.ascontiguousarray(a) for a in (made if isinstance(made, (tuple, list)) else (made,))]
    return arrays[0] if len(arrays) == 1 else arrays


def _interleaved(loops: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Microseconds of one call of each, the median over rounds."""
    with undisturbed():
        times = {}
        for name, loop in loops.items():
            loop()
            start = time.perf_counter()
            loop()
            times[name] = max(time.perf_counter() - start, 1e-7)
        repeats = {name: max(1, int(seconds / ROUNDS / len(loops) / spent)) for name, spent in times.items()}
        found: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                start = time.perf_counter()
                for _ in range(repeats[name]):
                    loop()
                found[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return {name: statistics.median(values) for name, values in found.items()}


class Batches:
    """The file in onnxruntime, on one thread, whose batch entries are streams; their states lie in arrays of the caller's."""

    def __init__(self, path: Path, model: Model, frames: Sequence[Array], bound: Mapping[str, Any]) -> None:
        """Raises `PeerError` where the file has no open batch, or onnxruntime cannot run it."""
        onnxruntime = import_onnxruntime()
        layout = model._layout
        if path.suffix.lower() != ".onnx":
            raise PeerError(f"{path}: onnxruntime runs .onnx files only")
        ports = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
        for port in ports.values():
            if "batch" not in port.roles or isinstance(port.file_shape[port.roles.index("batch")], int):
                raise PeerError(f"{path}: the file has no open batch in {port.name!r}, so onnxruntime steps one stream a call")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        self.count = len(frames[0])
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
            self._names = [o.name for o in self._session.get_outputs()]
            given = self._session.get_inputs()
            self._fixed = {i.name: constant(i, bound) for i in given if i.name not in layout.file_inputs}
            self._axes = {p.name: p.roles.index("batch") for p in (*ports.values(), *layout.state_outputs)}
            self._frames = {}
            for port, rows in zip(layout.inputs, frames, strict=True):
                array = np.empty(full_shape(port, self.count, 1), port.dtype)
                target = rows_first(array, port)
                target[...] = rows.reshape(target.shape)
                self._frames[port.name] = array
            self.states = {p.name: np.zeros(full_shape(p, self.count, 1), p.dtype) for p in layout.state_inputs}
            ends = zip(layout.state_inputs, layout.state_outputs, strict=True)
            self._pairs = [(a.name, self._names.index(b.name), self._axes[b.name]) for a, b in ends]
            self._model = model
            order = np.random.default_rng(0).permutation(self.count)
            self._pieces = [order[at : at + BATCH] for at in range(0, self.count, BATCH)]
            self._run(self._pieces[0])
        except Exception as error:  # onnxruntime's exceptions have no common type
            raise PeerError(f"{path}: onnxruntime cannot run a batch of it: {str(error).splitlines()[0]}") from error

    def _run(self, piece: Array) -> list[Array]:
        axes = self._axes
        feed = self._fixed | {name: a.take(piece, axes[name]) for name, a in self._frames.items()}
        feed |= {name: a.take(piece, axes[name]) for name, a in self.states.items()}
        made: list[Array] = self._session.run(self._names, feed)
        return made

    def step(self) -> None:
        """One frame of every stream, the streams of a batch in no order, as they come to a server."""
        for piece in self._pieces:
            made = self._run(piece)
            for name, index, axis in self._pairs:
                place: Any = (*[slice(None)] * self._axes[name], piece)
                self.states[name][place] = np.moveaxis(made[index], axis, self._axes[name])

    def difference(self, ours: Any) -> float:
        """The largest difference of an output after the first step from the initial state, from what a pool made."""
        arrays, most = ours if isinstance(ours, tuple) else (ours,), 0.0
        for piece in self._pieces:
            made = dict(zip(self._names, self._run(piece), strict=True))
            for port, array in zip(self._model.outputs, arrays, strict=True):
                if port.name in made and "batch" in port.roles:
                    theirs = rows_first(made[port.name], port)
                    mine = array[piece].reshape(theirs.shape)
                    most = max(most, float(np.abs(theirs.astype(np.float64) - mine).max(initial=0.0)))
        return most


def plot_streams(result: Streams, path: str | PathLike[str]) -> None:
    """Draw microseconds for one frame of one stream over the number of streams, into an image file. Needs matplotlib."""
    figure = picture.figure(8, 4.5)
    axes = figure.subplots()
    counts = [r.streams for r in result.rows]
    lines = {
        "pool, all streams": [r.pool for r in result.rows],
        "pool, a random half": [r.half for r in result.rows],
        "one stream after the other": [r.lone for r in result.rows],
    }
    if result.versus:
        lines[f"{result.versus}, batches of up to {BATCH}"] = [r.peer or np.nan for r in result.rows]
    for (name, values), marker in zip(lines.items(), "osd^", strict=False):
        axes.plot(counts, values, marker=marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="streams", ylabel="µs for one frame of one stream")
    axes.set_title(f"{result.model} on {result.setting.cpu}", fontsize=10)
    axes.grid(alpha=0.25, which="both")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()
    picture.save(figure, path)
