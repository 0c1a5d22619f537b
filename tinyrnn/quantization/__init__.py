"""What small weights cost and change, the smallest that are still right, and a file that holds them."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyrnn.bench import times
from tinyrnn.bench.report import here
from tinyrnn.check.dynamics import FRAMES, dynamics
from tinyrnn.check.randomness import random_values
from tinyrnn.check.samples import Sample, fixed_sizes, given_sample, random_sample, repeated
from tinyrnn.errors import ShapeError, TinyRNNError, UnsupportedError
from tinyrnn.frontends.source import ModelSource, label
from tinyrnn.graph.storage import Storage, parse
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.loading.load import LoadOptions, load
from tinyrnn.quantization import file as files
from tinyrnn.quantization.changes import Outcome, changes, counted, decisions, error, outcome, rms, rules
from tinyrnn.quantization.report import FLOAT32, Choice, File, LayerChoice, Quantization, plot
from tinyrnn.quantization.search import CANDIDATES, Chosen, Rounded, layers, within
from tinyrnn.runtime import Model, Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Choice", "File", "LayerChoice", "Quantization", "plot", "quantize"]

KINDS = (FLOAT32, "float16", "bfloat16", "int8:64", "int8", "int8x8")
"""the choices that are always measured, from wide to small"""
GIVEN = "as given"
RANDOM_FRAMES, WHOLE = 256, 64
SEARCHED = 0.05
"""seconds of one run of the search, after which it is cut"""
FEWEST = 50
"""frames of such a run at least"""
COMPARED = 64
"""frames for which a written file is run"""


def quantize(
    path: ModelSource,
    out: str | PathLike[str] | None = None,
    *,
    budget: float | None = None,
    keep_decisions: bool = False,
    data: Mapping[str, Any] | None = None,
    frames: int = RANDOM_FRAMES,
    seed: int = 0,
    seconds: float = 2.0,
    what: str = "",
    progress: Progress | None = None,
    **options: Unpack[LoadOptions],
) -> Quantization:
    """Measure a model with its weights in every storage type against float32, and write one with small weights.

    out:      an .npz file to write, which loads without options: with `weights` as given; or those that the budget allows;
              or float16
    budget:   the largest difference of an output from float32 that is allowed, over the root mean square of that output:
              the smallest storage of each layer is searched with which the whole model stays within it
    keep_decisions: search the smallest storage with which every decision along the data stays the same, within the budget if
              there is one
    data:     arrays by input name, frames [T, *frame] or in the file's shapes; by default seeded random input
    frames:   of random input, where the file leaves their number open
    seconds:  to spend on measuring time, roughly
    what:     what the data is, in a few words
    progress: called with work done and work in all
    options:  those of `tinyrnn.load`; `weights` is measured beside the others

    Raises what `load` raises, `ShapeError` where the data does not fit, `TinyRNNError` where the model has no weights, where
    nothing but float32 stays within the budget, or where the file cannot be written.
    """
    given = options.pop("weights", None)
    if budget is not None and not (0 < budget < math.inf):
        raise TinyRNNError(f"budget={budget!r}: it takes a positive number, such as 1e-3")
    if given is not None and (budget is not None or keep_decisions):
        raise TinyRNNError("either weights are given, or the smallest are searched; not both")
    if frames < 1 or not seconds > 0:
        raise TinyRNNError(f"quantize needs frames ≥ 1 and seconds > 0, not {frames} and {seconds:g}")
    target = None if out is None else Path(out)
    if target is not None:
        files.check_path(target)
        if options.get("time") is not None:
            raise UnsupportedError(f"{target}: a file cannot say which axis is time, so it would not load without time=")
    return _Work(path, options, data, frames, seed, seconds, what, progress).result(target, given, budget, keep_decisions)


class _Work:
    """The measurements for one model."""

    def __init__(
        self,
        path: ModelSource,
        options: LoadOptions,
        data: Mapping[str, Any] | None,
        frames: int,
        seed: int,
        seconds: float,
        what: str,
        progress: Progress | None,
    ) -> None:
        self.path, self.options, self.seconds, self.seed = path, options, seconds, seed
        self.sizes: dict[str, int] = {}
        self.notes: list[str] = []
        self.progress, self.done, self.total = progress, 0, 1
        base = load(path, **options)
        if isinstance(base, DynamicShapeModel):
            known = data is not None and all(name in data for name in base._layout.file_inputs)
            self.sizes = (
                base.sizes_of(data) if known and data else {n: max(k, min(frames, WHOLE)) for n, k in base.example.items()}
            )
        self.graph, self.pairs = base._source.graph, base._source.program.states
        self.found = layers(base)
        if not self.found:
            raise TinyRNNError(
                f"{label(path)}: the model has no layer with weights: no recurrent one, matrix, convolution or table"
            )
        self.base = self._load(FLOAT32)
        self.data = what or ("given input" if data is not None else f"random input, seed {seed} (real input tells more)")
        self.sample = self._sample(data, frames)
        values = random_values(self.base._source.graph, self.base._source.program.states)
        self.drawn = {p.name for p in (*self.base.outputs, *self.base._layout.state_inputs)} & values
        if self.drawn:
            self.notes.append(f"{', '.join(sorted(self.drawn))}: from random numbers; not compared")
        self.wanted = outcome(self.base, self.sample)
        self.rules = rules(self.base, self.wanted, self.drawn)
        self.counted = counted(self.base.outputs, self.wanted, self.drawn)
        if not self.counted & self.wanted.outputs.keys():
            self.notes.append("no floating output varies along the run; max is that of its states")

    def _load(self, weights: Any) -> Model:
        options: LoadOptions = {**self.options, "weights": weights}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were given when it was first loaded
            model = load(self.path, **options)
        return model.specialised(self.sizes) if isinstance(model, DynamicShapeModel) else model

    def _sample(self, data: Mapping[str, Any] | None, frames: int) -> Sample:
        time, batch = fixed_sizes(self.base)
        sample = (
            given_sample(self.base, data) if data is not None else random_sample(self.base, time or frames, batch or 1, self.seed)
        )
        if time is not None and sample.frames < time:
            raise ShapeError(f"{self.base.name}: the file fixes its time axis at {time} frames; data has {sample.frames}")
        if self.base._layout.refuses_stream or self.base.kind == "whole":
            sample = repeated(self.base, sample.first(self.base, time or sample.frames), batch or sample.batch)
        return sample

    def _tick(self) -> None:
        self.done = min(self.done + 1, self.total)
        if self.progress:
            self.progress(self.done, self.total)

    def result(self, target: Path | None, given: Any, budget: float | None, keep: bool) -> Quantization:
        """All of it: the table, the search, the file."""
        asked: dict[str, Any] = {kind: kind for kind in KINDS if self._has(kind)}
        written, mixed = "float16", tuple[LayerChoice, ...]()
        if given is not None:
            self._load(given)  # refuses what is no type or no layer before anything is measured
            written = given if isinstance(given, str) and given in asked else GIVEN
            asked[written] = given
        self.total = 2 * len(asked) + 4 + (sum(len(each.bytes) for each in self.found) + 20 if budget or keep else 0)
        if budget is not None or keep:
            written = f"budget {budget:g}" if budget is not None else "same decisions"
            chosen, mixed = self._search(math.inf if budget is None else budget, keep)
            asked[written] = {name: str(storage) for name, storage in chosen.items()}
        models = {}
        for name, weights in asked.items():
            models[name] = self.base if name == FLOAT32 else self._load(weights)
            self._tick()
        measured = times(models, seconds=self.seconds, seed=self.seed)
        self._tick()
        choices = tuple(self._choice(name, asked[name], model, measured[name]) for name, model in models.items())
        file = None if target is None else self._write(target, asked[written], models[written])
        found = Quantization(
            self.base.name,
            self.data,
            self.sample.frames * self.sample.batch,
            choices,
            {kind: "no layer of this model has it" for kind in KINDS if not self._has(kind)},
            self._dynamics(),
            here(),
            budget,
            keep,
            mixed,
            tuple(map(str, CANDIDATES[:-1])),
            file,
            self.notes,
        )
        if self.progress:
            self.progress(self.total, self.total)
        return found

    def _has(self, kind: str) -> bool:
        """Whether a layer has a type."""
        return any(kind.partition(":")[0] in layer.storages for layer in self.found)

    def _choice(self, name: str, weights: Any, model: Model, step: float) -> Choice:
        made = outcome(model, self.sample)
        self._tick()
        compared = tuple(changes(model.outputs, made, self.wanted, self.drawn))
        decided = tuple(decisions(self.rules, made, self.wanted))
        figures = error(compared, self.counted), rms(compared, self.counted)
        return Choice(name, weights, model._layout.weights.nbytes, step, *figures, compared, decided)

    def _dynamics(self) -> str:
        """The verdict whether errors accumulate, or why there is none."""
        sample = self.sample.first(self.base, min(self.sample.frames, FRAMES))
        values = {
            name: array[0]
            for name, array in (*sample.inputs.items(), *sample.states.items())
            if array.any() or name in sample.inputs
        }
        try:
            found = dynamics(self.base, values, seed=self.seed)
        except TinyRNNError as refusal:
            return f"not measured: {refusal}"
        return f"{found.exponent.verdict} ({found.exponent})" if found.exponent else f"not measured: {found.reason}"

    # The search.

    def _search(self, budget: float, keep: bool) -> tuple[Chosen, tuple[LayerChoice, ...]]:
        rounded = Rounded(self.base, lambda chosen: self._load({n: str(s) for n, s in chosen.items()}))
        sample, wanted = self._shortened()

        def measure(model: Model, sample: Sample, wanted: Outcome) -> float:
            made = outcome(model, sample)
            self._tick()
            return error(changes(model.outputs, made, wanted, self.drawn), self.counted)

        wide = {layer.name: Storage(FLOAT32) for layer in self.found}
        alone: dict[str, dict[str, float]] = {layer.name: {} for layer in self.found}
        for layer in self.found:
            for kind in layer.bytes:
                trial = {**wide, layer.name: parse(kind, "")["*"]}
                alone[layer.name][kind] = 0.0 if kind == FLOAT32 else measure(rounded.model(trial), sample, wanted)
        if keep and not self.rules:
            raise TinyRNNError(f"{self.base.name}: no output stands for decisions that could be kept; give a budget instead")

        def measured(chosen: Chosen) -> float:
            model = rounded.model(chosen)
            if keep and any(d.changed for d in decisions(self.rules, outcome(model, self.sample), self.wanted)):
                return math.inf
            return measure(model, self.sample, self.wanted)

        chosen = within(budget, self.found, alone, measured)
        if all(storage.kind == FLOAT32 for storage in chosen.values()):
            least = min(e for errors in alone.values() for kind, e in errors.items() if kind != FLOAT32)
            allowed = f"a budget of {budget:g}" if budget < math.inf else "the decisions of float32"
            raise TinyRNNError(
                f"{self.base.name}: no layer can be smaller than float32 within {allowed}: the least that one layer changes, "
                f"alone and in half precision, is {least:.1e}"
            )
        mixed = tuple(
            LayerChoice(each.name, each.op, str(chosen[each.name]), each.bytes[str(chosen[each.name])], alone[each.name])
            for each in self.found
        )
        return chosen, mixed

    def _shortened(self) -> tuple[Sample, Outcome]:
        """The first part of the sample, so that a run of the search takes not much time, and what float32 weights give on it."""
        if self.base._layout.refuses_stream or self.sample.batch > 1:
            return self.sample, self.wanted
        each = times({FLOAT32: self.base}, seconds=0.1)[FLOAT32]
        count = max(FEWEST, int(SEARCHED * 1e6 / max(each, 1e-3)))
        if count >= self.sample.frames:
            return self.sample, self.wanted
        sample = self.sample.first(self.base, count)
        return sample, outcome(self.base, sample)

    # The file.

    def _write(self, target: Path, weights: Any, model: Model) -> File:
        made = files.small(self.graph, self.pairs, weights, self.sizes)
        trial = files.beside(target)
        try:
            files.write(trial, made, self.pairs)
            self._same(trial, model, target)
            os.replace(trial, target)
        finally:
            trial.unlink(missing_ok=True)
        source = Path(os.fspath(self.path)) if isinstance(self.path, (str, PathLike)) else None
        return File(str(target), target.stat().st_size, source.stat().st_size if source else None, weights, made.wide)

    def _same(self, trial: Path, model: Model, target: Path) -> None:
        """Raise `TinyRNNError` unless the written model gives the bits of `model`."""
        again = load(trial)
        if isinstance(again, DynamicShapeModel):
            again = again.specialised(self.sizes)
        sample = self.sample
        if not self.base._layout.refuses_stream:
            sample = sample.first(self.base, min(sample.frames, COMPARED))
        one, other = outcome(model, sample), outcome(again, sample)
        pairs = [(a, other.outputs.get(n)) for n, a in one.outputs.items()] + [
            (a, other.states.get(n)) for n, a in one.states.items()
        ]
        if not all(b is not None and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs):
            raise TinyRNNError(f"{target}: not written: the model read back gives other results; please report this")
