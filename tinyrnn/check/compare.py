"""One check: a model run frame by frame, in chunks and whole, compared with its oracles."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tinyrnn.check.oracles import Failure, Session, constants_of, import_onnxruntime
from tinyrnn.check.randomness import random_state_parts, random_values
from tinyrnn.check.report import Report, Row
from tinyrnn.check.samples import Sample, fixed_sizes, from_file, given_sample, random_sample, repeated
from tinyrnn.check.streams import Company
from tinyrnn.check.tolerances import difference, distance, excess, within
from tinyrnn.errors import ShapeError, TinyRNNError
from tinyrnn.frontends.source import ModelSource, is_onnx, label
from tinyrnn.graph.arrays import Array
from tinyrnn.graph.op import op_of
from tinyrnn.ops.quantized.written import Quantised
from tinyrnn.runtime import Model, Progress
from tinyrnn.targets.reference import Reference

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""inputs by name → outputs by name, in the file's shapes"""

REFERENCE = "float64 reference"
REFERENCE_FRAMES = 64
"""frames compared with the float64 reference where onnxruntime, which is faster, checks all of them"""
EXTRA_FRAMES = 16
"""frames for which a step model runs from random states"""
TENTHS = 10
ROUNDING = 2.0**-24
"""relative rounding error of float32"""
AMPLIFIED = 16.0
"""how many times what rounding of the inputs alone does to a result may be the error that a float32 runtime makes of it: it
rounds inside the model too"""
AS_FAR = 2.0
"""how many times the error of another runtime is that of one that rounds activations in other steps"""
TIES = 2.0**-16
"""relative change of the inputs of a quantised model that shows what it does to round one number to another integer"""
TRIES = 4
"""random changes of that size"""
ANOTHER = 2.0
"""how many times what they do at most may be the difference of two runtimes that round a number at a tie differently"""
GROWTH = 4.0
"""a run drifts if the largest error of its second half exceeds that of the first by more than this factor"""


@dataclass
class _Outcome:
    """Result of one way of running: outputs [batch, frames, *frame] or [batch, *frame], final states [batch, elements]."""

    outputs: dict[str, Array]
    states: dict[str, Array]


class Check:
    """One check: the sample, the oracles, the ways of running, and the report they fill."""

    def __init__(
        self,
        model: Model,
        path: ModelSource,
        bind: Mapping[str, Any] | None,
        data: Mapping[str, Any] | None,
        frames: int,
        seed: int,
        chunks: tuple[int, ...],
        level: str,
        progress: Progress | None,
        company: int | None = None,
        beside: Model | None = None,
    ) -> None:
        """company: streams side by side in one pool, and entries of a batch of `Model.run`; None for neither.

        beside: the model on another target, which must have the same bits
        """
        self.beside = beside
        self.model, self.level, self.chunks, self.progress, self.company = model, level, chunks, progress, company
        self.streams = not model._layout.refuses_stream
        time, batch = fixed_sizes(model)
        given = given_sample(model, data) if data is not None else None
        sample = given or random_sample(model, frames if time is None else time, batch or 1, seed)
        self.report = Report(
            model.name, model.kind, sample.frames, sample.batch, level, "given data" if given else f"random input, seed {seed}"
        )
        self.report.doubts = list(model._source.program.doubts)
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
        self.done, self.total = 0, sample.frames * (2 + (len(chunks) + 2 + (company is not None) if self.streams else 0))
        self.reference = Reference(model._source.graph, model._source.program.states)
        values = random_values(model._source.graph, model._source.program.states)
        self.drawn = {p.name for p in (*model.outputs, *model._layout.state_inputs)} & values
        """outputs and states that depend on random numbers, and are not compared"""
        self.random_state_parts = random_state_parts(model._source.graph, values)
        if self.drawn:
            named = ", ".join(sorted(self.drawn))
            self._note(f"{named}: from random numbers, which every runtime draws for itself; compared among streams alone")
        self.exact: tuple[Sample, _Outcome, _Outcome] | None = None
        """a sample, and the float64 results for it and for its rounded inputs"""
        self.quantised = any(isinstance(op_of(node), Quantised) for node in model._source.graph.every_node())
        self.rounds = any(op_of(node).rounds_activations for node in model._source.graph.every_node())
        self.moved: tuple[Sample, list[_Outcome]] | None = None
        """a sample, and the float64 results for inputs that differ by `TIES`"""
        self.oracles = self._oracles(path, bind)
        self._main(sample, seed)
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

    def _oracles(self, path: ModelSource, bind: Mapping[str, Any] | None) -> list[tuple[str, Run]]:
        """The oracles for the model, the best first."""
        if not is_onnx(path):
            self._note(f"{label(path)} is no ONNX file, so onnxruntime cannot run it; the float64 reference takes its place")
            return [(REFERENCE, self._referenced)]
        runtime = import_onnxruntime(self.model.name)
        names, constants, version = (
            self.model._layout.file_outputs,
            constants_of(path, bind),
            f"onnxruntime {runtime.__version__}",
        )
        sessions: list[tuple[str, Run]] = [
            (version, Session(runtime, path, names, constants, True)),
            (f"{version} without optimisations", Session(runtime, path, names, constants, False)),
        ]
        if self.quantised:
            sessions.reverse()
            self._note("quantised: compared without the optimisations of onnxruntime, which round where the file does not say so")
        return [*sessions, (REFERENCE, self._referenced)]

    def _referenced(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            return self.reference.run(feeds)
        except TinyRNNError as error:
            raise Failure(str(error)) from error

    def _expected(self, sample: Sample) -> tuple[str, _Outcome | None]:
        """The outcome and the name of the first oracle that runs the sample."""
        for name, run in self.oracles:
            try:
                return name, self._in_file_shapes(sample, run)
            except (Failure, ShapeError) as failure:
                if str(failure) not in self.reasons:
                    self._note(f"{name} cannot run it (batch {sample.batch}, {sample.frames} frames): {failure}")
                self.reasons.add(str(failure))
        return "", None

    def _own(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        result = self.model.run(feeds)
        return dict(zip(self.model._layout.file_outputs, result if isinstance(result, tuple) else (result,), strict=True))

    def _main(self, sample: Sample, seed: int) -> None:
        name, expected = self._expected(sample)
        self.report.oracle = name
        ways = self._streamed(sample) if self.streams else {}
        ways["Model.run"] = self._in_file_shapes(sample, self._own)
        if not self.streams:
            alone = "" if self.company is None else f", not in a pool of {self.company} streams"
            self._note(f"compared whole only{alone}, it cannot stream: {self.model._layout.refuses_stream}")
        if self.beside is not None and self.streams:
            self._invariance({"step": ways["step"], "step on the processor": self._stream(sample, 0, self.beside)})
        self._invariance(ways)
        if self.streams and self.company is not None:
            ways |= self._in_a_pool(sample, self.company, seed)
        if expected is not None:
            for way, outcome in ways.items():
                self._compare(way, outcome, expected, name, sample)

    def _in_a_pool(self, sample: Sample, streams: int, seed: int) -> dict[str, _Outcome]:
        """The results of the streams of a pool that have a whole sequence; all of them are held against lone streams."""
        count = max(streams, sample.batch)
        company, way = Company(self.model, sample, count, seed, self._tick), f"{count} stream{'s'[: count != 1]} in a pool"
        self.report.invariance[way] = sorted(company.differing)
        return {way: _Outcome(*company.outcome())}

    def _extra(self, given: Sample | None, time: int | None, batch: int | None, seed: int) -> None:
        """Check several sequences, if the file leaves their number open, and non-zero initial states."""
        layout = self.model._layout
        if self.company is not None and batch is not None:
            self._note(f"the file fixes its batch axis at {batch}: no Model.run over a batch of {self.company}")
        if batch is not None and not layout.state_inputs:
            return
        count = max(2, self.report.sequences, self.company or 0) if batch is None else batch
        frames = self.report.frames if self.model.kind == "sequence" else min(EXTRA_FRAMES, self.report.frames)
        sample = random_sample(self.model, time or frames, count, seed + 1, random_states=True)
        if given is not None:
            sample = Sample(
                count, sample.frames, repeated(self.model, given.first(self.model, sample.frames), count).inputs, sample.states
            )
        what = [f"{count} sequences"] * (batch is None) + ["random states"] * bool(layout.state_inputs)
        name, expected = self._expected(sample)
        batched = self.company is not None and batch is None
        if expected is None and not batched:
            return
        outcome = self._in_file_shapes(sample, self._own)
        if expected is not None:
            self._compare(f"Model.run, {', '.join(what)}", outcome, expected, name, sample)
        if batched:
            each = [self._in_file_shapes(sample.entry(i), self._own) for i in range(count)]
            alone = _Outcome(
                {n: np.concatenate([one.outputs[n] for one in each]) for n in outcome.outputs},
                {n: np.concatenate([one.states[n] for one in each]) for n in outcome.states},
            )
            self.report.invariance[f"Model.run of {count} sequences"] = self._differing(outcome, alone, self.drawn)

    def _in_file_shapes(self, sample: Sample, run: Run) -> _Outcome:
        """Run in the file's shapes: the whole sequence at once, or frame by frame with the states fed back."""
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
        """The results of a stream, frame by frame and in chunks, each sequence on its own stream."""
        ways = {"step": self._stream(sample, 0)}
        if any(p.per_frame for p in self.model.inputs):
            ways |= {f"run in {n}": self._stream(sample, n) for n in self.chunks if n < sample.frames}
            ways["run"] = self._stream(sample, sample.frames)
        return ways

    def _stream(self, sample: Sample, chunk: int, model: Model | None = None) -> _Outcome:
        """model: in the place of the one that is checked"""
        ports = self.model.outputs
        outputs: dict[str, list[Array]] = {p.name: [] for p in ports}
        states: dict[str, list[Array]] = {p.name: [] for p in self.model.states}
        for entry in range(sample.batch):
            stream = (model or self.model).stream()
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
            anew = self.drawn if way == "Model.run" and self.model.kind != "sequence" else ()  # every call draws from the start
            self.report.invariance[way + note] = self._differing(outcome, first, anew)

    @staticmethod
    def _differing(outcome: _Outcome, other: _Outcome, anew: Container[str]) -> list[str]:
        """The outputs and states, without those `anew`, whose bits are not those of another way of running."""
        pairs = [(n, a, other.outputs[n]) for n, a in outcome.outputs.items() if n not in anew]
        pairs += [(n, a, other.states[n]) for n, a in outcome.states.items() if n in other.states and n not in anew]
        return [n for n, a, b in pairs if not within("exact", a, b)]

    def _compare(self, way: str, outcome: _Outcome, expected: _Outcome, against: str, sample: Sample) -> None:
        for kind, own, other in (("output", outcome.outputs, expected.outputs), ("state", outcome.states, expected.states)):
            for name, wanted in ((n, a) for n, a in other.items() if n not in self.drawn):
                row = self._row(name, kind, way, against, own[name], wanted)
                if not row.passed and against != REFERENCE and self._explained(row, own[name], wanted, sample):
                    row = replace(row, passed=True)
                self.report.rows.append(row)

    def _explained(self, row: Row, own: Array, other: Array, sample: Sample) -> bool:
        return (
            self._ill_conditioned(row, own, other, sample)
            or (self.quantised and self._at_a_tie(row, own, other, sample))
            or (self.rounds and self._rounded_otherwise(row, own, other, sample))
        )

    def _rounded_otherwise(self, row: Row, own: Array, other: Array, sample: Sample) -> bool:
        """Whether both are about as far from float64, in a model whose activations each runtime rounds in its own steps."""
        if self.exact is None or self.exact[0] is not sample:
            return False
        exact = (self.exact[1].outputs if row.kind == "output" else self.exact[1].states)[row.name]
        far = [float(distance(array, exact)[2].max(initial=0.0)) for array in (own, other)]
        if not far[0] <= AS_FAR * far[1] < np.inf:
            return False
        self._note(
            f"{row.kind} {row.name}: activations are rounded to integers, by tinyrnn with a scale for each step, by "
            f"{row.against} with one for a sequence: against float64 tinyrnn is off by {far[0]:.1e}, the other by {far[1]:.1e}"
        )
        return True

    def _at_a_tie(self, row: Row, own: Array, other: Array, sample: Sample) -> bool:
        """Whether a number that one runtime rounded to another integer explains the difference to a quantised model's oracle."""
        if self.exact is None or self.exact[0] is not sample:
            return False
        if self.moved is None or self.moved[0] is not sample:
            seeds = range(1, TRIES + 1)
            self.moved = sample, [self._in_file_shapes(sample, partial(self._rounded, by=TIES, seed=seed)) for seed in seeds]
        results = [made.outputs if row.kind == "output" else made.states for made in (self.exact[1], *self.moved[1])]
        exact, *moved = (result[row.name] for result in results)
        steps = max(float(distance(each, exact)[2].max(initial=0.0)) for each in moved)
        apart = float(distance(own, other)[2].max(initial=0.0))
        if not apart <= ANOTHER * steps < np.inf:
            return False
        self._note(
            f"{row.kind} {row.name}: a number at a tie is another integer than in {row.against}, which makes {apart:.1e}; "
            f"inputs that differ by a part in {1 / TIES:.0f} make {steps:.1e}"
        )
        return True

    def _ill_conditioned(self, row: Row, own: Array, other: Array, sample: Sample) -> bool:
        """Whether tinyrnn's error against float64 over the same frames is no larger than that of the oracle.

        A file misread would look the same, so the other's error must be one that rounding explains: what rounding of the
        inputs alone does to the result in float64, and not many times more.
        """
        if self.exact is None or self.exact[0] is not sample:
            try:
                exact, rounded = (self._in_file_shapes(sample, run) for run in (self._referenced, self._rounded))
            except (Failure, ShapeError):
                return False
            self.exact = sample, exact, rounded
        exact_of, rounded_of = (made.outputs if row.kind == "output" else made.states for made in self.exact[1:])
        results = own, other, rounded_of[row.name].astype(own.dtype)
        errors = [excess(self.level, array, exact_of[row.name]) for array in results]
        if not (errors[0] <= errors[1] <= AMPLIFIED * errors[2] < np.inf):
            return False
        far = [difference(array, exact_of[row.name]).absolute for array in results]
        self._note(
            f"{row.kind} {row.name} is ill-conditioned: against float64 over the same frames tinyrnn is off by {far[0]:.1e} and "
            f"{row.against} by {far[1]:.1e}; rounding of the inputs alone moves it by {far[2]:.1e}"
        )
        return True

    def _rounded(self, feeds: Mapping[str, Array], by: float = ROUNDING, seed: int = 0) -> Mapping[str, Array]:
        """The float64 reference on inputs that are off, by default by half a unit in the last place of float32."""
        rng = np.random.default_rng(seed)
        moved = {
            name: array * (1 + by * rng.choice([-1.0, 1.0], np.shape(array))) if array.dtype.kind == "f" else array
            for name, array in feeds.items()
        }
        return self._referenced(moved)

    def _row(self, name: str, kind: str, way: str, against: str, actual: Array, expected: Array) -> Row:
        if self.model._source.program.narrowed and actual.dtype == np.float64:
            actual = actual.astype(np.float32)  # what it was computed in
        over = excess(self.level, actual, expected)
        drift: tuple[float, ...] = ()
        ports = {p.name: p for p in self.model.outputs}
        if kind == "output" and ports[name].per_frame:
            _, _, apart = distance(actual, expected)
            per_frame = apart.max(axis=tuple(a for a in range(apart.ndim) if a != 1), initial=0.0)
            drift = tuple(float(part.max()) for part in np.array_split(per_frame, min(TENTHS, len(per_frame))))
        half = len(drift) // 2
        grows = len(drift) == TENTHS and max(drift[half:]) > GROWTH * max(drift[:half]) > 0.0
        return Row(name, kind, way, against, difference(actual, expected), over, over <= 1.0, drift, grows)

    def _precision(self, sample: Sample) -> None:
        """Compare both sides, and the final states that are not outputs of the file, with float64."""
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
            for name in [n for n in ends if n in parts and not n.startswith(self.random_state_parts)]:
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
                self._row(n, "output", way, REFERENCE, outcome.outputs[n], e)
                for n, e in expected.outputs.items()
                if n not in self.drawn
            ]
            self.report.precision += [
                self._row(n, "state", way, REFERENCE, outcome.states[n], e)
                for n, e in expected.states.items()
                if n not in self.drawn
            ]
