"""Ways of running a model, for tests: whole, as streams in chunks, and through onnxruntime."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]

import tinyrnn
from tests.pools import agree_in_pool, same
from tinyrnn.check import difference, within
from tinyrnn.graph.arrays import batch_entry, full_shape
from tinyrnn.runtime import Model, Stream

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

CHUNKS = (0, 1, 2, 3, 5)
"""lengths of the pieces in which a stream is run; 0: `step`, frame by frame"""
POOLED = 8
"""one of so many models is held against its pool too, all with TINYRNN_ALL"""


def loaded(proto: onnx.ModelProto, folder: Path, **options: Any) -> Model:
    """The model of a proto, through a file."""
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return tinyrnn.load(path, **options)


def whole(model: Model, inputs: Mapping[str, Array]) -> Arrays:
    """Every output of the file by name, from `Model.run`: a second call with these shapes, which is prepared, has the same bits."""
    made = model.run(dict(inputs))
    same(model.run(dict(inputs)), made)
    names = model._layout.file_outputs
    return dict(zip(names, [made] if len(names) == 1 else made, strict=True))


def in_onnxruntime(model: onnx.ModelProto | Path, inputs: Mapping[str, Array]) -> Arrays:
    """Every output by name, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(inputs)), strict=True))


def agree(level: str, actual: Mapping[str, Array], expected: Mapping[str, Array], what: str = "") -> None:
    """Every expected array is there, and the same to a level of tolerance."""
    assert set(actual) >= set(expected), (what, list(actual), list(expected))
    for name, array in expected.items():
        assert actual[name].shape == array.shape, f"{what} {name}: {actual[name].shape}, expected {array.shape}"
        assert within(level, actual[name], array), f"{what} {name}: {difference(actual[name], array)}"


def started(model: Model, inputs: Mapping[str, Array], entry: int = 0) -> Stream:
    """A stream with the states that `inputs` holds for a batch entry."""
    stream = model.stream()
    for port in model._layout.state_inputs:
        stream.states[port.name][...] = batch_entry(inputs[port.name], port, entry).reshape(stream.states[port.name].shape)
    return stream


def streamed(model: Model, inputs: Mapping[str, Array], chunk: int, entry: int = 0) -> tuple[Arrays, Arrays]:
    """The outputs [T, *frame] and the final states of one sequence, as a stream in pieces of `chunk`, or by `step`."""
    stream = started(model, inputs, entry)
    given = [batch_entry(inputs[p.name], p, entry) for p in model.inputs]
    timed = [p.per_frame and model.kind == "sequence" for p in model.inputs]
    frames = next((len(a) for a, per_frame in zip(given, timed, strict=True) if per_frame), 1)
    made: dict[str, list[Array]] = {p.name: [] for p in model.outputs}
    for start in range(0, frames, chunk or 1):
        piece: Any = slice(start, start + chunk) if chunk else start
        if not any(timed):
            arrays = [a.reshape(p.shape) for a, p in zip(given, model.inputs, strict=True)]
        else:
            arrays = [a[piece] if per_frame else a for a, per_frame in zip(given, timed, strict=True)]
        results = stream.run(*arrays) if chunk and any(timed) else stream.step(*arrays)
        for port, result in zip(model.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            made[port.name].append(result if chunk or not port.per_frame else result[None])
    outputs = {p.name: np.concatenate(made[p.name]) if p.per_frame and any(timed) else made[p.name][-1] for p in model.outputs}
    return outputs, {name: value.copy() for name, value in stream.states.items()}


def agree_in_chunks(model: Model, inputs: Mapping[str, Array], result: Mapping[str, Array], batch: int = 1) -> None:
    """Streams in any chunks give the bits of the whole run, and leave the same states."""
    for entry in range(batch):
        first, states = streamed(model, inputs, 0, entry)
        for port in model.outputs:
            wanted = _entry(result[port.name], port, entry, batch)
            agree("exact", {port.name: first[port.name].reshape(wanted.shape)}, {port.name: wanted}, f"step, sequence {entry}")
        for start, end in zip(model._layout.state_inputs, model._layout.state_outputs, strict=True):
            wanted = _entry(result[end.name], end, entry, batch)
            agree("exact", {end.name: states[start.name].reshape(wanted.shape)}, {end.name: wanted}, f"step, sequence {entry}")
        for chunk in CHUNKS[1:]:
            outputs, ends = streamed(model, inputs, chunk, entry)
            agree("exact", outputs, first, f"chunks of {chunk}, sequence {entry}")
            agree("exact", ends, states, f"chunks of {chunk}, sequence {entry}, state")
    chosen = zlib.crc32(str(model).encode()) % POOLED == 0 or os.environ.get("TINYRNN_ALL")
    if chosen and any(p.per_frame for p in model.inputs):
        agree_in_pool(model)


def _entry(array: Array, port: Any, entry: int, batch: int) -> Array:
    """One sequence of an output in the file's shape; an axis of batch and time together is taken apart."""
    joined = next((axis for axis, role in enumerate(port.roles) if role and "+" in role), None)
    if joined is None:
        return batch_entry(array, port, entry)
    moved = np.moveaxis(array, joined, 0)
    frames = len(moved) // batch
    assert full_shape(port, batch, frames) == array.shape
    return moved[entry * frames : (entry + 1) * frames] if port.roles[joined] == "batch+time" else moved[entry::batch]
