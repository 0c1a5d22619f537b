"""Measurement: how fast a model steps and runs, and how fast onnxruntime does the same.

The engines are interleaved in small rounds in one process, each on one thread, and the medians over the
rounds are reported. All that a measured loop uses is allocated before it, and garbage collection is off inside.
Input is seeded random numbers, the same for both engines.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.bench.counts import (
    CACHED_LOADS,
    HARMLESS,
    cached_objects,
    count_allocations,
    fresh_loads,
    resident,
    resident_growth,
    undefined_symbols,
    undisturbed,
)
from tinyrnn.bench.data import GATES, POOL, Data, cell_model
from tinyrnn.bench.peer import PeerError, Session
from tinyrnn.bench.report import (
    Allocations,
    Deadline,
    Latency,
    Loading,
    Memory,
    Peer,
    Result,
    Row,
    Setting,
    Table,
    here,
    plot,
)
from tinyrnn.bench.streams import Streams, StreamsRow, plot_streams, streams
from tinyrnn.errors import TinyRNNError
from tinyrnn.graph.arrays import Array
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.loading.load import LoadOptions, load
from tinyrnn.runtime import Context, Model, Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Allocations",
    "Deadline",
    "Latency",
    "Loading",
    "Memory",
    "Peer",
    "Result",
    "Row",
    "Setting",
    "Streams",
    "StreamsRow",
    "Table",
    "allocations",
    "bench",
    "cell_model",
    "count_allocations",
    "plot",
    "plot_streams",
    "streams",
    "table",
    "times",
]

ROUNDS = 15
BLOCK_SECONDS = 0.004
"""seconds of each measurement in a round of `table`"""
MOST_SAMPLES = 1_000_000
WHOLE = 64
"""length of a sequence, for a model with dynamic shapes"""
GROWTH_STEPS, GROWTH_SHARE = 200_000, 0.3
"""most steps over which the growth of resident memory is measured, and the most it may take of the seconds given"""
CELLS = ("RNN", "LSTM", "GRU")
SIZES = (16, 32, 64, 128, 256, 512)

Loop = Callable[[int], int]
"""number of passes → nanoseconds that they took"""
_now = time.perf_counter_ns


def bench(
    path: str | PathLike[str],
    *,
    frames: int = 1000,
    seconds: float = 3.0,
    rate: float | None = None,
    versus: str | None = None,
    seed: int = 0,
    loading: bool = True,
    progress: Progress | None = None,
    **options: Unpack[LoadOptions],
) -> Result:
    """Measure a model: latency of single steps, time of whole runs, allocations, loading, memory.

    frames:   of one whole run
    seconds:  to spend on timing, roughly; slow models take longer, since every round needs one pass
    rate:     frames per second of the live source, for × real time and missed deadlines
    versus:   'onnxruntime' (an .onnx file is needed)
    loading:  measure `import` and `load` in fresh processes too
    progress: called with the pieces of work done and their total, never inside a measurement
    options:  those of `tinyrnn.load`: bind, states, outputs, time, layers, names

    Where the peer cannot run the file, the result says why in `refusal` and has the model's own figures only.
    Raises what `load` raises, and `TinyRNNError` where an argument makes no sense or the peer is not installed.
    """
    if frames < 1 or not seconds > 0 or (rate is not None and not rate > 0):
        raise TinyRNNError(f"bench needs frames ≥ 1, seconds > 0 and rate > 0, not {frames}, {seconds:g} and {rate}")
    file = Path(path)
    tick = _ticker(progress, ROUNDS + 2 + (1 + CACHED_LOADS if loading else 0))
    model = load(file, **options)
    if isinstance(model, DynamicShapeModel):
        model = model.specialised({n: max(k, min(frames, WHOLE)) for n, k in model.example.items()})
    data = Data(model, frames, seed, fixed=versus is not None)
    peer, refusal = None, ""
    try:
        peer = Session(versus, file, model, data, options.get("bind") or {}, options.get("outputs")) if versus else None
    except PeerError as error:
        refusal = str(error)
    tick()
    timing = _time(model, data, peer, seconds, tick)
    fresh = fresh_loads(file, options, tick) if loading else None
    steps = min(GROWTH_STEPS, int(GROWTH_SHARE * seconds * 1e6 / timing.step)) if timing.step else 0
    counted = allocations(model, steps=steps, seed=seed, code=fresh.code if fresh else ())
    tick()
    arena = Context(model._layout).arena.nbytes
    layout = model._layout
    return Result(
        model=model.name,
        kind=model.kind,
        refuses_stream=layout.refuses_stream,
        frames=data.frames,
        step=timing.step,
        step_out=timing.step_out,
        run=timing.run,
        latency=timing.latency,
        deadline=_deadline(rate, timing),
        allocations=counted,
        loading=fresh.loading if fresh else None,
        memory=Memory(
            layout.weights.nbytes, layout.initial_state.nbytes, arena, model._code.size, fresh.resident if fresh else resident()
        ),
        versus=_versus(peer, timing) if peer else None,
        refusal=refusal,
        setting=here(),
    )


def table(
    cells: Sequence[str] = CELLS,
    sizes: Sequence[int] = SIZES,
    versus: str | None = None,
    frames: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Single recurrent cells with as many inputs as units: a step from Python, and a whole run per frame.

    `progress` is called with rounds done and in all. Raises `TinyRNNError`.
    """
    unknown = [c for c in cells if c not in GATES]
    if unknown or any(n < 1 for n in sizes):
        raise TinyRNNError(f"table knows the cells {', '.join(GATES)} and sizes ≥ 1, not {unknown or list(sizes)}")
    tick = _ticker(progress, len(cells) * len(sizes) * ROUNDS)
    rows = []
    with tempfile.TemporaryDirectory(prefix="tinyrnn-bench-") as folder:
        for cell in cells:
            for hidden in sizes:
                path = Path(folder) / f"{cell}{hidden}.onnx"
                cell_model(cell, hidden, path, seed)
                model = load(path)
                data = Data(model, frames, seed, fixed=False)
                peer = Session(versus, path, model, data, {}, None) if versus else None
                loops = {"step": _loops(model.stream().step, data.pool).passes, "run": _whole(model, data)}
                if peer:
                    loops |= {"peer step": peer.passes, "peer run": peer.whole}
                ns = _interleave(loops, BLOCK_SECONDS, tick)
                step, run = ns["step"] / POOL / 1e3, ns["run"] / frames / 1e3
                row = Row(cell, hidden, step, run)
                if peer:
                    others = ns["peer step"] / POOL / 1e3, ns["peer run"] / frames / 1e3
                    row = Row(cell, hidden, step, run, *others, others[0] / step, others[1] / run, peer.difference())
                rows.append(row)
    return Table(tuple(rows), frames, versus, here())


def allocations(
    model: Model, *, steps: int = 1_000_000, seed: int = 0, code: Sequence[bytes] = (), progress: Progress | None = None
) -> Allocations:
    """Count the allocations of a step of a loaded model, and the growth of the process over `steps` steps.

    code: the compiled objects, where they are not in the user's cache
    """
    data = Data(model, 1, seed, fixed=False)
    code = code or cached_objects(model)
    symbols = undefined_symbols(*code) if code else None
    native = None if symbols is None else len(set(symbols) - HARMLESS)
    if not data.streams:
        return Allocations(native, symbols, None, None, None, 0)
    stream = model.stream()
    with_out = count_allocations(_loops(stream.step, data.pool, _out(model)).once)
    without = count_allocations(_loops(stream.step, data.pool).once)
    passes = max(1, steps // POOL)
    growth = resident_growth(_loops(stream.step, data.pool).passes, passes, progress)
    return Allocations(native, symbols, with_out, without, growth, passes * POOL)


def times(
    models: Mapping[str, Model], *, frames: int = 1000, seconds: float = 1.0, seed: int = 0, progress: Progress | None = None
) -> dict[str, float]:
    """Microseconds for a frame of loaded models that take the same input, interleaved: of `Stream.step`, or of a whole run where
    they cannot stream."""
    data = Data(next(iter(models.values())), frames, seed, fixed=False)
    loops = {n: _loops(m.stream().step, data.pool).passes if data.streams else _whole(m, data) for n, m in models.items()}
    each = POOL if data.streams else data.frames
    ns = _interleave(loops, seconds / ROUNDS / len(loops), _ticker(progress, ROUNDS))
    return {name: value / each / 1e3 for name, value in ns.items()}


def _ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return tick


# Timing


_LOOPS = """
def passes(count):
    start = now()
    for _ in range(count):
        for {names} in pool:
            step({names}{out})
    return now() - start

def record(into):
    at = 0
    for _ in range(len(into) // len(pool)):
        for {names} in pool:
            start = now()
            step({names}{out})
            into[at] = now() - start
            at += 1

def once():
    {names} = pool[0]
    return step({names}{out})
"""


@dataclass(frozen=True)
class _Loops:
    passes: Loop
    record: Callable[[Array], None]
    """fills an array, its length a multiple of POOL, with the nanoseconds of each step"""
    once: Callable[[], Any]


def _loops(step: Callable[..., Any], pool: Sequence[tuple[Any, ...]], out: Any = None) -> _Loops:
    """Loops over calls as a person writes them, step(x0, x1): step(*x) takes longer, and allocates."""
    single = len(pool[0]) == 1
    names = ", ".join(f"x{i}" for i in range(len(pool[0])))
    made: dict[str, Any] = {"step": step, "pool": [x[0] for x in pool] if single else pool, "out": out, "now": _now}
    exec(_LOOPS.format(names=names, out="" if out is None else ", out=out"), made)
    return _Loops(made["passes"], made["record"], made["once"])


def _calibrated(loop: Loop, seconds: float) -> int:
    """The number of passes that takes about `seconds`; this is also the warm-up."""
    passes = 1
    while True:
        ns = loop(passes)
        if ns < seconds * 1e9 / 4:
            ns = min(ns, loop(passes), loop(passes))
        if ns > 2e5 or passes >= 1 << 16:
            return max(1, int(seconds * 1e9 * passes / max(ns, 1)))
        passes *= 4


def _interleave(loops: Mapping[str, Loop], seconds: float | Mapping[str, float], tick: Callable[[], None]) -> dict[str, float]:
    """Nanoseconds of one pass of each loop, the median of ROUNDS; each loop takes about `seconds` of a round."""
    budget = seconds if isinstance(seconds, Mapping) else dict.fromkeys(loops, seconds)
    with undisturbed():
        passes = {name: _calibrated(loop, budget[name]) for name, loop in loops.items()}
        found: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                found[name].append(loop(passes[name]) / passes[name])
            tick()
    return {name: statistics.median(values) for name, values in found.items()}


def _whole(model: Model, data: Data) -> Loop:
    """A loop in which a pass is one whole run from the initial state."""
    if not data.streams or data.by_file:
        return _loops(model.run, [(data.feed(0, data.frames),)]).passes
    stream, arrays = model.stream(), data.whole

    def loop(passes: int) -> int:
        stream.reset()
        run = stream.run
        start = _now()
        for _ in range(passes):
            run(*arrays)
        return _now() - start

    return loop


class _Recorder:
    """A loop that keeps the nanoseconds of every step."""

    def __init__(self, record: Callable[[Array], None]) -> None:
        self._record, self._parts = record, [np.zeros(0, np.int64)]

    def loop(self, passes: int) -> int:
        into = np.zeros(min(passes * POOL, MOST_SAMPLES // ROUNDS // POOL * POOL), np.int64)
        start = _now()
        self._record(into)
        self._parts.append(into)
        return _now() - start

    def latency(self) -> Latency:
        """The latency over the last ROUNDS passes; the passes before them served as calibration."""
        return Latency.of(np.concatenate(self._parts[-ROUNDS:]), _clock())


def _clock() -> float:
    """Microseconds between two readings of the clock with nothing between them."""
    readings = [_now() for _ in range(2001)]
    return statistics.median(b - a for a, b in itertools.pairwise(readings)) / 1e3


@dataclass(frozen=True)
class _Timing:
    """Microseconds per frame."""

    run: float
    step: float | None = None
    step_out: float | None = None
    latency: Latency | None = None
    peer_step: float | None = None
    peer_run: float | None = None
    peer_latency: Latency | None = None


def _time(model: Model, data: Data, peer: Session | None, seconds: float, tick: Callable[[], None]) -> _Timing:
    loops: dict[str, Loop] = {"run": _whole(model, data)}
    recorders = {}
    if data.streams:
        stream = model.stream()
        plain = _loops(stream.step, data.pool)
        loops |= {"step": plain.passes, "step out": _loops(stream.step, data.pool, _out(model)).passes}
        recorders["latency"] = _Recorder(plain.record)
    if peer:
        if peer.whole_runs:
            loops["peer run"] = peer.whole
        if peer.steps:
            loops["peer step"] = peer.passes
            recorders["peer latency"] = _Recorder(peer.record)
    loops |= {name: recorder.loop for name, recorder in recorders.items()}
    weight = {name: 3.0 if name in recorders else 1.0 for name in loops}
    unit = seconds / ROUNDS / sum(weight.values())
    ns = _interleave(loops, {name: unit * w for name, w in weight.items()}, tick)

    def each(name: str, frames: int) -> float | None:
        return ns[name] / frames / 1e3 if name in ns else None

    peer_step = each("peer step", POOL)
    return _Timing(
        ns["run"] / data.frames / 1e3,
        each("step", POOL),
        each("step out", POOL),
        recorders["latency"].latency() if "latency" in recorders else None,
        peer_step,
        each("peer run", data.frames) or peer_step,
        recorders["peer latency"].latency() if "peer latency" in recorders else None,
    )


def _out(model: Model) -> Any:
    arrays = tuple(np.empty(p.step_shape, p.dtype) for p in model.outputs)
    return arrays[0] if len(arrays) == 1 else arrays


def _deadline(rate: float | None, timing: _Timing) -> Deadline | None:
    if rate is None:
        return None
    budget, latency = 1e6 / rate, timing.latency
    if latency is None:
        return Deadline(rate, budget, None, None, None, budget / timing.run)
    late = int((latency.samples > budget).sum())
    return Deadline(rate, budget, late, latency.steps, budget / latency.mean, budget / timing.run)


def _versus(peer: Session, timing: _Timing) -> Peer:
    run = timing.peer_run
    assert run is not None
    ratio = timing.peer_step / timing.step if timing.peer_step and timing.step else None
    return Peer(
        peer.name,
        peer.version,
        timing.peer_step,
        run,
        ratio,
        run / timing.run,
        timing.peer_latency,
        peer.load_s,
        peer.difference(),
        peer.note(),
    )
