"""The comparison of a model with onnxruntime.

A model is run frame by frame, in chunks and whole, and compared in every output and every final state with
onnxruntime on the same file; where that cannot run it, with the float64 reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinyrnn.check.compare import Check
from tinyrnn.check.report import Difference, Report, Row
from tinyrnn.check.tolerances import TOLERANCES, Tolerance, difference, excess, level_of, within
from tinyrnn.errors import ShapeError
from tinyrnn.frontends.source import ModelSource
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.runtime import Model, Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tinyrnn.loading.load import LoadOptions

__all__ = [
    "TOLERANCES",
    "Difference",
    "Report",
    "Row",
    "Tolerance",
    "check",
    "check_model",
    "difference",
    "excess",
    "level_of",
    "within",
]

WHOLE = 64
"""the size of a random sequence for a model whose code has to know it"""


def check(
    path: ModelSource,
    *,
    data: Mapping[str, Any] | None = None,
    frames: int = 256,
    seed: int = 0,
    chunks: Sequence[int] = (1, 7, 64),
    streams: int | None = None,
    level: str | None = None,
    target: str = "cpu",
    progress: Progress | None = None,
    **options: Unpack[LoadOptions],
) -> Report:
    """Load a model and compare it with onnxruntime, in every way of running.

    data:     arrays by input name, frames [T, *frame] or in the file's shapes; by default seeded random input
    frames:   of random input, where the file leaves their number open
    chunks:   lengths of the chunks in which a stream is run
    streams:  so many streams in one pool too, each with its own piece of the sample, held against lone streams; and so many
              entries of a batch of `Model.run`, where the file leaves it open
    level:    of `TOLERANCES`; by default "close", and "approximate" where `weights` asks for smaller types than the file's
    target:   as for `tinyrnn.load`; what is not the processor is held against it too, bit for bit
    progress: called with work done and work in all, in frames
    options:  those of `tinyrnn.load`: bind, states, outputs, time, layers, names, weights

    Raises what `load` raises, `ShapeError` where data does not fit, `TinyRNNError` where onnxruntime is missing.
    """
    from tinyrnn.loading.load import load

    model, bind = load(path, **options, target=target), options.get("bind")
    beside = load(path, **options) if target != "cpu" else None
    return check_model(
        model,
        path,
        beside=beside,
        bind=bind,
        data=data,
        frames=frames,
        seed=seed,
        chunks=chunks,
        streams=streams,
        level=level or level_of(options.get("weights")),
        progress=progress,
    )


def check_model(
    model: Model,
    path: ModelSource,
    *,
    beside: Model | None = None,
    bind: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    frames: int = 256,
    seed: int = 0,
    chunks: Sequence[int] = (1, 7, 64),
    streams: int | None = None,
    level: str = "close",
    progress: Progress | None = None,
) -> Report:
    """`check` for a loaded model; `path` and `bind` as they were given to `load`.

    beside: the same model on the processor, for one on a GPU: both must have the same bits
    """
    if isinstance(model, DynamicShapeModel):
        known = data is not None and all(name in data for name in model._layout.file_inputs)
        sizes = model.sizes_of(data) if known and data else {n: max(k, min(frames, WHOLE)) for n, k in model.example.items()}
        bind = {**(bind or {}), **{name: sizes[name] for name in model.open_sizes}}
        model = model.specialised({name: bind[name] for name in model.open_sizes})
    if frames < 1 or any(n < 1 for n in chunks):
        raise ShapeError(f"{model.name}: frames={frames} and chunks={tuple(chunks)} must be 1 or more")
    if streams is not None and streams < 1:
        raise ShapeError(f"{model.name}: streams={streams}; it takes a number from 1 up")
    if level not in TOLERANCES:
        raise ValueError(f"no level of tolerance {level!r}; there are {', '.join(TOLERANCES)}")
    return Check(model, path, bind, data, frames, seed, tuple(dict.fromkeys(chunks)), level, progress, streams, beside).report
