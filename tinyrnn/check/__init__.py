"""The table of tolerances, and the comparison of a model with onnxruntime.

A model is run frame by frame, in chunks and whole, and compared in every output and every final state with
onnxruntime on the same file; where that cannot run it, with the float64 reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.check.report import Difference, Report, Row
from tinyrnn.check.samples import Sample, fixed_sizes, from_file, given_sample, random_sample, repeated
from tinyrnn.errors import ShapeError, TinyRNNError
from tinyrnn.runtime import Model, Progress
from tinyrnn.sized import SizedModel
from tinyrnn.targets.reference import Reference

if TYPE_CHECKING:
    from tinyrnn.passes import Time

__all__ = ["TOLERANCES", "Difference", "Report", "Row", "Tolerance", "check", "check_model", "difference", "excess", "within"]

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""inputs by name → outputs by name, in the file's shapes"""


@dataclass(frozen=True)
class Tolerance:
    """|actual - expected| <= absolute + relative * |expected|."""

    absolute: float
    relative: float


TOLERANCES: dict[str, dict[str, Tolerance]] = {
    "exact": {},
    "close": {"float16": Tolerance(1e-3, 1e-2), "float32": Tolerance(1e-5, 1e-4), "float64": Tolerance(1e-12, 1e-11)},
    "approximate": {"float16": Tolerance(2e-2, 2e-2), "float32": Tolerance(2e-2, 2e-2), "float64": Tolerance(2e-2, 2e-2)},
}
"""level → dtype → tolerance; what has none must be equal bit for bit.

`close`: two ways of computing the same in one precision. `approximate`: weights stored in fewer bits (FACTS:
1.5e-2 for int8).
"""

REFERENCE = "float64 reference"
REFERENCE_FRAMES = 64
"""frames of the comparison with float64 where something faster gives the rest"""
EXTRA_FRAMES = 16
"""frames for which a step model runs from random states"""
WHOLE = 64
"""the size of a random sequence for a model that is compiled for each size"""
LONGEST_REASON = 320
TENTHS = 10
GROWTH = 4.0
"""how many times larger the second half's largest error is than the first's where a run is said to drift"""


def _coarser(actual: Array, expected: Array) -> np.dtype[Any]:
    """The less precise of two floating types; the first type where one is none."""
    floating = actual.dtype.kind == expected.dtype.kind == "f"
    coarser: np.dtype[Any] = expected.dtype if floating and expected.dtype.itemsize < actual.dtype.itemsize else actual.dtype
    return coarser


def _apart(actual: Array, expected: Array) -> tuple[Array, Array, Array]:
    """Both in float64, and |actual - expected|: 0 where both are the same, infinite where one is no number."""
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - e)
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    return a, e, np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))


def excess(level: str, actual: Any, expected: Any) -> float:
    """The largest difference in units of the tolerance: up to 1 passes. Infinite where shapes differ."""
    if level not in TOLERANCES:
        raise ValueError(f"no level of tolerance {level!r}; there are {', '.join(TOLERANCES)}")
    x, y = np.asarray(actual), np.asarray(expected)
    if x.shape != y.shape:
        return float("inf")
    tolerance = TOLERANCES[level].get(_coarser(x, y).name)
    if tolerance is None:
        return 0.0 if x.dtype == y.dtype and x.tobytes() == y.tobytes() else float("inf")
    _, e, apart = _apart(x, y)
    allowed = tolerance.absolute + tolerance.relative * np.where(np.isfinite(e), np.abs(e), 0.0)
    return float((apart / allowed).max(initial=0.0))


def within(level: str, actual: Any, expected: Any) -> bool:
    """Whether two arrays agree in shape and, to the level of tolerance of the less precise dtype, in value."""
    return excess(level, actual, expected) <= 1.0


def difference(actual: Any, expected: Any) -> Difference:
    """The largest absolute, relative and ULP difference. Raises `ShapeError` where shapes differ."""
    x, y = np.asarray(actual), np.asarray(expected)
    if x.shape != y.shape:
        raise ShapeError(f"arrays of shape {list(x.shape)} and {list(y.shape)} cannot be compared")
    if x.size == 0:
        return Difference(0.0, 0.0, 0.0, (), 0.0, 0.0)
    a, e, apart = _apart(x, y)
    larger = np.maximum(np.abs(np.nan_to_num(a)), np.abs(np.nan_to_num(e)))
    coarser = _coarser(x, y)
    unit = np.spacing(larger.astype(coarser)).astype(np.float64) if coarser.kind == "f" else np.ones(e.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(apart == 0, 0.0, apart / larger)
        ulp = np.where(apart == 0, 0.0, apart / unit)
    place = np.unravel_index(int(apart.argmax()), apart.shape)
    return Difference(
        float(apart.max()),
        float(relative.max()),
        float(ulp.max()),
        tuple(int(i) for i in place),
        float(a[place]),
        float(e[place]),
    )


def check(
    path: str | PathLike[str],
    *,
    bind: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    time: Time | None = None,
    layers: Sequence[Any] | None = None,
    data: Mapping[str, Any] | None = None,
    frames: int = 256,
    seed: int = 0,
    chunks: Sequence[int] = (1, 7, 64),
    level: str = "close",
    progress: Progress | None = None,
) -> Report:
    """Load a model and compare it with onnxruntime, in every way of running.

    bind, states, outputs, time, layers: as in `load`
    data:     arrays by input name, frames [T, *frame] or in the file's shapes; by default seeded random input
    frames:   of random input, where the file leaves their number open
    chunks:   lengths of the chunks in which a stream is run
    level:    of `TOLERANCES`
    progress: called with work done and work in all, in frames

    Raises what `load` raises, `ShapeError` where data does not fit, `TinyRNNError` where onnxruntime is missing.
    """
    from tinyrnn.compiler import load

    model = load(path, bind=bind, states=states, outputs=outputs, time=time, layers=layers)
    return check_model(model, path, bind=bind, data=data, frames=frames, seed=seed, chunks=chunks, level=level, progress=progress)


def check_model(
    model: Model,
    path: str | PathLike[str],
    *,
    bind: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    frames: int = 256,
    seed: int = 0,
    chunks: Sequence[int] = (1, 7, 64),
    level: str = "close",
    progress: Progress | None = None,
) -> Report:
    """`check` of a model that is loaded; `path` is its file, and `bind` as it was given to `load`."""
    if isinstance(model, SizedModel):
        known = data is not None and all(name in data for name in model._layout.file_inputs)
        sizes = model.sizes_of(data) if known and data else dict.fromkeys(model.open_sizes, min(frames, WHOLE))
        bind = {**(bind or {}), **{name: sizes[name] for name in model.open_sizes}}
        model = model.sized({name: bind[name] for name in model.open_sizes})
    if frames < 1 or any(n < 1 for n in chunks):
        raise ShapeError(f"{model.name}: frames={frames} and chunks={tuple(chunks)} must be 1 or more")
    if level not in TOLERANCES:
        raise ValueError(f"no level of tolerance {level!r}; there are {', '.join(TOLERANCES)}")
    return _Check(model, Path(path), bind, data, frames, seed, tuple(dict.fromkeys(chunks)), level, progress).report


@dataclass
class _Outcome:
    """What one way of running made: outputs [batch, frames, *frame] or [batch, *frame], final states [batch, elements]."""

    outputs: dict[str, Array]
    states: dict[str, Array]


class _Failure(Exception):
    """An oracle cannot run the model; the text says why."""


class _Check:
    """One check: the sample, the oracles, the ways of running, and the report they fill."""

    def __init__(
        self,
        model: Model,
        path: Path,
        bind: Mapping[str, Any] | None,
        data: Mapping[str, Any] | None,
        frames: int,
        seed: int,
        chunks: tuple[int, ...],
        level: str,
        progress: Progress | None,
    ) -> None:
        self.model, self.level, self.chunks, self.progress = model, level, chunks, progress
        self.streams = not model._layout.refuses_stream
        time, batch = fixed_sizes(model)
        given = given_sample(model, data) if data is not None else None
        sample = given or random_sample(model, frames if time is None else time, batch or 1, seed)
        self.report = Report(
            model.name, model.kind, sample.frames, sample.batch, level, "given data" if given else f"random input, seed {seed}"
        )
        self.longer = None
        if time is not None and (sample.frames > time or (given is None and frames > time)):
            self.longer = given or random_sample(model, frames, 1, seed)
            self._note(
                f"the file fixes its time axis at {time}: {time} of {self.longer.frames} frames are compared"
                + (", all of them for chunk invariance" if self.streams else "")
            )
        if time is not None and sample.frames < time:
            raise ShapeError(f"{model.name}: the file fixes its time axis at {time} frames; data has {sample.frames}")
        if batch is not None and sample.batch > batch:
            raise ShapeError(f"{model.name}: the file fixes its batch axis at {batch}; data has {sample.batch} sequences")
        sample = repeated(model, sample.first(model, time or sample.frames), batch or sample.batch)
        self.report.frames, self.report.sequences = sample.frames, sample.batch
        self.reasons: set[str] = set()
        self.done, self.total = 0, sample.frames * (2 + (len(chunks) + 2 if self.streams else 0))
        self.reference = Reference(model._source.graph, model._source.program.states)
        self.oracles = self._oracles(path, bind)
        self._main(sample)
        if self.longer is not None and self.streams:
            self._invariance(self._streamed(self.longer), f" ({self.longer.frames} frames)")
        self._extra(sample if given else None, time, batch, seed)
        self._precision(sample)
        if self.progress:
            self.progress(self.total, self.total)

    def _note(self, text: str) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)

    def _tick(self, frames: int) -> None:
        self.done = min(self.done + frames, self.total - 1)
        if self.progress:
            self.progress(self.done, self.total)

    def _oracles(self, path: Path, bind: Mapping[str, Any] | None) -> list[tuple[str, Run]]:
        """What the model can be compared with, best first."""
        if path.suffix.lower() != ".onnx":
            self._note(f"{path.name} is no ONNX file, so onnxruntime cannot run it; the float64 reference takes its place")
            return [(REFERENCE, self._referenced)]
        runtime = _import_onnxruntime(self.model.name)
        names, constants, version = self.model._layout.file_outputs, _constants(path, bind), f"onnxruntime {runtime.__version__}"
        return [
            (version, _Session(runtime, path, names, constants, True)),
            (f"{version} without optimisations", _Session(runtime, path, names, constants, False)),
            (REFERENCE, self._referenced),
        ]

    def _referenced(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            return self.reference.run(feeds)
        except TinyRNNError as error:
            raise _Failure(str(error)) from error

    def _expected(self, sample: Sample) -> tuple[str, _Outcome | None]:
        """The outcome of the first oracle that runs the sample, and its name."""
        for name, run in self.oracles:
            try:
                return name, self._in_file_shapes(sample, run)
            except (_Failure, ShapeError) as failure:
                if str(failure) not in self.reasons:
                    self._note(f"{name} cannot run it (batch {sample.batch}, {sample.frames} frames): {failure}")
                self.reasons.add(str(failure))
        return "", None

    def _own(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        result = self.model.run(feeds)
        return dict(zip(self.model._layout.file_outputs, result if isinstance(result, tuple) else (result,), strict=True))

    def _main(self, sample: Sample) -> None:
        name, expected = self._expected(sample)
        self.report.oracle = name
        ways = self._streamed(sample) if self.streams else {}
        ways["Model.run"] = self._in_file_shapes(sample, self._own)
        if not self.streams:
            self._note(f"compared whole only, it cannot stream: {self.model._layout.refuses_stream}")
        self._invariance(ways)
        if expected is not None:
            for way, outcome in ways.items():
                self._compare(way, outcome, expected, name)

    def _extra(self, given: Sample | None, time: int | None, batch: int | None, seed: int) -> None:
        """Several sequences where the file leaves their number open, and initial states that are not zero."""
        layout = self.model._layout
        if batch is not None and not layout.state_inputs:
            return
        count = max(2, self.report.sequences) if batch is None else batch
        frames = self.report.frames if self.model.kind == "sequence" else min(EXTRA_FRAMES, self.report.frames)
        sample = random_sample(self.model, time or frames, count, seed + 1, random_states=True)
        if given is not None:
            sample = Sample(
                count, sample.frames, repeated(self.model, given.first(self.model, sample.frames), count).inputs, sample.states
            )
        what = [f"{count} sequences"] * (batch is None) + ["random states"] * bool(layout.state_inputs)
        name, expected = self._expected(sample)
        if expected is not None:
            self._compare(f"Model.run, {', '.join(what)}", self._in_file_shapes(sample, self._own), expected, name)

    def _in_file_shapes(self, sample: Sample, run: Run) -> _Outcome:
        """A run in the file's shapes: the whole sequence at once, or frame by frame with the states fed back."""
        layout = self.model._layout
        pairs = list(zip(layout.state_inputs, layout.state_outputs, strict=True))
        state: Mapping[str, Array] = sample.state_feeds(self.model)
        if self.model.kind == "sequence":
            made = run({**sample.feeds(self.model), **state})
            self._tick(sample.frames)
            outputs = {p.name: from_file(p, made[p.name], sample.batch, sample.frames) for p in layout.outputs}
            return _Outcome(
                outputs,
                {a.name: from_file(b, made[b.name], sample.batch, sample.frames).reshape(sample.batch, -1) for a, b in pairs},
            )
        steps: dict[str, list[Array]] = {p.name: [] for p in layout.outputs}
        for t in range(sample.frames):
            made = run({**sample.feeds(self.model, t), **state})
            self._tick(1)
            for port in layout.outputs:
                steps[port.name].append(from_file(port, made[port.name], sample.batch, 1))
            state = {a.name: made[b.name] for a, b in pairs}
        outputs = {p.name: np.stack(steps[p.name], 1) if p.per_frame else steps[p.name][-1] for p in layout.outputs}
        ends = {a.name: from_file(b, np.asarray(state[a.name]), sample.batch, 1).reshape(sample.batch, -1) for a, b in pairs}
        return _Outcome(outputs, ends)

    def _streamed(self, sample: Sample) -> dict[str, _Outcome]:
        """The stream's ways of running, each sequence on its own stream."""
        ways = {"step": self._stream(sample, 0)}
        if any(p.per_frame for p in self.model.inputs):
            ways |= {f"run in {n}": self._stream(sample, n) for n in self.chunks if n < sample.frames}
            ways["run"] = self._stream(sample, sample.frames)
        return ways

    def _stream(self, sample: Sample, chunk: int) -> _Outcome:
        ports = self.model.outputs
        outputs: dict[str, list[Array]] = {p.name: [] for p in ports}
        states: dict[str, list[Array]] = {p.name: [] for p in self.model.states}
        for entry in range(sample.batch):
            stream = self.model.stream()
            for name, value in sample.states.items():
                stream.states[name][...] = value[entry].reshape(stream.states[name].shape)
            pieces: list[Sequence[Array | None]] = []
            late = self.model.has_tail
            for start in range(0, sample.frames, chunk or 1):
                where: Any = slice(start, start + chunk) if chunk else start
                arrays = [
                    sample.inputs[p.name][entry][where] if p.per_frame else sample.inputs[p.name][entry]
                    for p in self.model.inputs
                ]
                made = stream.run(*arrays) if chunk else stream.step(*arrays)
                pieces.append(made if isinstance(made, tuple) else (made,))
                self._tick(min(chunk or 1, sample.frames - start) if entry == 0 else 0)
            if late:
                tail = stream.flush()
                pieces.append(tail if isinstance(tail, tuple) else (tail,))
            for index, port in enumerate(ports):
                parts = [part for piece in pieces if (part := piece[index]) is not None]
                if port.per_frame and late:  # a step gives one row without its axis, unless it can give several
                    parts = [part.reshape(-1, *port.shape) for part in parts]
                outputs[port.name].append(
                    parts[-1] if not port.per_frame else np.concatenate(parts) if chunk or late else np.stack(parts)
                )
            for name, value in stream.states.items():
                states[name].append(value.ravel().copy())
        return _Outcome({n: np.stack(a) for n, a in outputs.items()}, {n: np.stack(a) for n, a in states.items()})

    def _invariance(self, ways: Mapping[str, _Outcome], note: str = "") -> None:
        first = next(iter(ways.values()))
        if len(ways) == 1:
            return
        for way, outcome in ways.items():
            pairs = [(n, a, first.outputs[n]) for n, a in outcome.outputs.items()]
            pairs += [(n, a, first.states[n]) for n, a in outcome.states.items() if n in first.states]
            self.report.invariance[way + note] = [n for n, a, b in pairs if not within("exact", a, b)]

    def _compare(self, way: str, outcome: _Outcome, expected: _Outcome, against: str) -> None:
        rows = [self._row(n, "output", way, against, outcome.outputs[n], e) for n, e in expected.outputs.items()]
        rows += [self._row(n, "state", way, against, outcome.states[n], e) for n, e in expected.states.items()]
        self.report.rows += rows

    def _row(self, name: str, kind: str, way: str, against: str, actual: Array, expected: Array) -> Row:
        over = excess(self.level, actual, expected)
        drift: tuple[float, ...] = ()
        ports = {p.name: p for p in self.model.outputs}
        if kind == "output" and ports[name].per_frame:
            _, _, apart = _apart(actual, expected)
            per_frame = apart.max(axis=tuple(a for a in range(apart.ndim) if a != 1), initial=0.0)
            drift = tuple(float(part.max()) for part in np.array_split(per_frame, min(TENTHS, len(per_frame))))
        half = len(drift) // 2
        grows = len(drift) == TENTHS and max(drift[half:]) > GROWTH * max(drift[:half]) > 0.0
        return Row(name, kind, way, against, difference(actual, expected), over, over <= 1.0, drift, grows)

    def _precision(self, sample: Sample) -> None:
        """Both sides against float64, and the final states that the file does not hand out."""
        if fixed_sizes(self.model)[0] is None:
            sample = sample.first(self.model, min(sample.frames, REFERENCE_FRAMES))
        parts: dict[str, Array] = {}

        def traced(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            outputs, found = self.reference.trace(feeds)
            parts.update(found)
            return outputs

        try:
            expected = self._in_file_shapes(sample, traced)
        except TinyRNNError as error:
            self._note(f"the float64 reference cannot run it: {error}")
            return
        if self.streams and self.model.kind == "sequence":
            ends = self._stream(sample, sample.frames).states
            for name in [name for name in ends if name in parts]:
                part = parts[name]
                axis = part.shape.index(sample.batch) if sample.batch > 1 else None
                wanted = part.reshape(1, -1) if axis is None else np.moveaxis(part, axis, 0).reshape(sample.batch, -1)
                self.report.rows.append(self._row(name, "state", f"run of {sample.frames}", REFERENCE, ends[name], wanted))
        sides: list[tuple[str, Run]] = [
            ("tinyrnn", self._own),
            *((n, r) for n, r in self.oracles if n == self.report.oracle != REFERENCE),
        ]
        for way, run in sides:
            outcome = self._in_file_shapes(sample, run)
            self.report.precision += [
                self._row(n, "output", way, REFERENCE, outcome.outputs[n], e) for n, e in expected.outputs.items()
            ]
            self.report.precision += [
                self._row(n, "state", way, REFERENCE, outcome.states[n], e) for n, e in expected.states.items()
            ]


def _constants(path: Path, bind: Mapping[str, Any] | None) -> dict[str, Array]:
    """The inputs that `bind` fixes, as arrays of the file's dtypes and shapes."""
    if not bind:
        return {}
    from tinyrnn.compiler import read
    from tinyrnn.passes.bind import bind as fix

    source, _ = read(path)
    graph = source.copy()
    fix(graph, bind, None)
    return {name: graph.constants[name] for name in bind if name in source.inputs}


def _import_onnxruntime(model: str) -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise TinyRNNError(
            f"{model}: check compares with onnxruntime, which cannot be imported ({error}). Install it: pip install onnxruntime"
        ) from None
    return onnxruntime


class _Session:
    """onnxruntime on the CPU with one thread, opened when it is first needed; raises `_Failure` with its own reason."""

    def __init__(self, runtime: Any, path: Path, outputs: Sequence[str], constants: Mapping[str, Array], optimised: bool) -> None:
        self.runtime, self.path, self.outputs, self.constants, self.optimised = runtime, path, list(outputs), constants, optimised
        self.session: Any = None
        self.refused = ""

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if self.refused:
            raise _Failure(self.refused)
        try:
            if self.session is None:
                self.session = self._open()
        except Exception as error:
            self.refused = _reason(error)
            raise _Failure(self.refused) from None
        try:
            halves = [i.name for i in self.session.get_inputs() if i.type == "tensor(float16)"]
            given = {n: a.astype(np.float16) if n in halves else a for n, a in {**feeds, **self.constants}.items()}
            return dict(zip(self.outputs, self.session.run(self.outputs, given), strict=True))
        except Exception as error:
            raise _Failure(_reason(error)) from None

    def _open(self) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not self.optimised:
            options.graph_optimization_level = self.runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return self.runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])


def _reason(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"
