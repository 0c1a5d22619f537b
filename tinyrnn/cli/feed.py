"""From files to models: the array for each input, and frames from samples and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.audio import frames_of, takes_of
from tinyrnn.check.samples import from_file, given_sample
from tinyrnn.data.files import kind_of, read_arrays, read_csv, read_wav
from tinyrnn.data.table import Table
from tinyrnn.errors import LoadError, ShapeError
from tinyrnn.graph.arrays import Port
from tinyrnn.runtime import Model, Progress, Stream

Array = np.ndarray[Any, Any]


@dataclass
class Feed:
    """The inputs for a model from a file."""

    inputs: dict[str, Array]
    states: dict[str, Array] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    """arrays of the file that the model does not take"""
    rate: int | None = None
    """sample rate of .wav input in Hz"""
    samples: int = 0
    """number of samples of .wav input, before the last frame was padded with zeros"""
    frame: int = 1
    """samples of each channel in one frame of .wav input"""
    channels: int = 1
    notes: list[str] = field(default_factory=list)
    """remarks for the user on how the file was read"""


def read_feed(model: Model, path: Path, whole: bool = False, drop: tuple[str, ...] = ()) -> Feed:
    """The inputs of a model, and states where the file names them, from .npy, .npz, .csv or .wav.

    whole: take rows of .csv that do not fit a frame for the array of an input; drop: columns of .csv to leave out.
    Raises `LoadError` where the file cannot be read or does not have what the model takes, `ShapeError` where
    rows or samples do not make its frames.
    """
    kind = kind_of(path)
    if kind == ".npz":
        return _named(model, path, read_arrays(path))
    if len(model.inputs) != 1:
        raise LoadError(
            f"{path}: one array, but {_takes(model)}. An .npz file holds several by name: "
            f"np.savez({path.stem + '.npz'!r}, {', '.join(f'{p.name}=…' for p in model.inputs)})"
        )
    port = model.inputs[0]
    if kind == ".wav":
        return _wav(path, model, port)
    if kind == ".csv":
        return _table(path, port, read_csv(path, drop), whole)
    return Feed({port.name: read_arrays(path)[""]})


def _takes(model: Model) -> str:
    return f"{model.name} takes {len(model.inputs)} inputs ({'; '.join(map(str, model.inputs)) or 'none'})"


def _named(model: Model, path: Path, arrays: dict[str, Array]) -> Feed:
    names = [p.name for p in model.inputs]
    states = [p.name for p in model.states]
    if len(names) == 1 and len(arrays) == 1 and next(iter(arrays)) not in states:
        return Feed({names[0]: next(iter(arrays.values()))})
    missing = [name for name in names if name not in arrays]
    if missing:
        raise LoadError(
            f"{path}: holds {', '.join(map(repr, arrays))}, not {', '.join(map(repr, missing))}; {_takes(model)}. "
            f"--bind NAME=VALUE fixes an input that does not change"
        )
    return Feed(
        {n: arrays[n] for n in names},
        {n: arrays[n] for n in states if n in arrays},
        [n for n in arrays if n not in names and n not in states],
    )


def _table(path: Path, port: Port, table: Table, whole: bool = False) -> Feed:
    values, left = table.values, list(table.times)
    rest = [k for k in range(values.shape[1]) if k not in table.epochs]
    fits = {port.size, *port.shape[-1:]}
    if values.shape[1] not in fits and len(rest) in fits:
        left += [table.names[k] for k in table.epochs]
        values = values[:, rest]
    bad = np.argwhere(np.isnan(values))
    if len(bad):
        line = table.lines[bad[0][0]]
        raise LoadError(f"{path}: line {line}: a value is missing (NaN), and a state never forgets it; fill it in")
    notes = [f"{path}: column {name!r} holds dates or times and is left out" for name in left]
    found = values.shape[1] if port.per_frame else values.size
    if whole and found != port.size:
        return Feed({port.name: values}, notes=notes)
    return Feed({port.name: _rows(path, port, values)}, notes=notes)


def _rows(path: Path, port: Port, table: Array) -> Array:
    """Frames of a table with one frame per row, its elements in C order."""
    found = table.shape[1] if port.per_frame else table.size
    if found != port.size:
        what = f"rows of {found} numbers; a frame" if port.per_frame else f"{found} numbers; it"
        fits = port.size % found == 0 and found in port.shape
        more = f". --window slides a window of {port.size // found} rows over them" if fits else ""
        raise ShapeError(f"{path}: {what} of input {port} has {port.size}{more}")
    if port.dtype.kind in "iu":
        whole = table.astype(np.int64) if np.all(np.abs(table) < 1 << 53) else np.zeros(0)
        if not np.array_equal(whole, table):
            raise ShapeError(f"{path}: input {port} takes whole numbers")
        table = whole
    return table.reshape(len(table), *port.shape) if port.per_frame else table.reshape(port.shape)


def _wav(path: Path, model: Model, port: Port) -> Feed:
    """Frames of n samples (of each channel), or spectra of blocks, from .wav; the last one is padded with zeros."""
    samples, rate = read_wav(path)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if not port.per_frame or port.dtype.kind != "f" or (channels > 1 and port.shape[-1:] != (channels,)):
        raise ShapeError(
            f"{path}: {channels} channel{'s' if channels > 1 else ''} of samples do not make input {port}. "
            f"Convert them, to .npy for instance"
        )
    if takes_of(model) != "samples":
        return Feed({port.name: frames_of(model, samples, channels)}, rate=rate)
    frame = port.size // channels
    count = -(-len(samples) // frame)
    padded = np.zeros((count * frame, *samples.shape[1:]), np.float32)
    padded[: len(samples)] = samples
    return Feed({port.name: padded.reshape(count, *port.shape)}, rate=rate, samples=len(samples), frame=frame, channels=channels)


def first_frames(model: Model, feed: Feed, frames: int | None) -> dict[str, Array]:
    """Inputs and states with the first frames only of inputs [T, *frame]. Raises `ShapeError` for frames in another shape."""
    values = dict(feed.inputs)
    for port in model.inputs:
        if frames is not None and port.per_frame:
            array = values[port.name]
            if array.shape[1:] != port.shape:
                raise ShapeError(
                    f"{model.name}: input {port.name!r} has shape {list(array.shape)}; "
                    f"the first {frames} frames can be taken of {str(['T', *port.shape]).replace(chr(39), '')} only"
                )
            values[port.name] = array[:frames]
    return values | feed.states


def file_inputs(model: Model, feed: Feed) -> dict[str, Array]:
    """Every input in the file's shape, for `Model.run`, from frames or from that shape; missing states are zero."""
    if model.kind == "sequence":
        sample = given_sample(model, {**feed.inputs, **feed.states})
        return {**sample.feeds(model), **sample.state_feeds(model)}
    values = {p.name: _one_frame(p, feed.inputs[p.name]) for p in model.inputs}
    states = {p.name: feed.states.get(p.name, np.zeros(p.shape, p.dtype)) for p in model._layout.state_inputs}
    return values | {p.name: _one_frame(p, states[p.name]) for p in model._layout.state_inputs}


def _one_frame(port: Port, array: Array) -> Array:
    """One frame in the file's shape; an array of another size is returned as it is."""
    if array.size != port.size:
        return array
    return array.reshape([1 if role else int(size) for size, role in zip(port.file_shape, port.roles, strict=True)])


def opened(model: Model, feed: Feed) -> Stream:
    """A stream that starts from the states in a file. Raises `ShapeError`."""
    stream = model.stream()
    for name, value in feed.states.items():
        view = stream.states[name]
        if value.size != view.size:
            raise ShapeError(f"{model.name}: state {name!r} has shape {list(view.shape)}, not {list(value.shape)}")
        view[...] = value.reshape(view.shape)
    return stream


def run(model: Model, feed: Feed, whole: bool, progress: Progress) -> tuple[dict[str, Array], int]:
    """(outputs by name, number of frames), streamed or, if `whole`, in the file's shapes and with the states' outputs."""
    layout = model._layout
    if whole:
        values = file_inputs(model, feed)
        answer = model.run(values)
        return _by_name(layout.file_outputs, answer), max(_count(p.roles, values[p.name], "time") for p in model.inputs)
    stream = opened(model, feed)
    results = _by_name([p.name for p in model.outputs], stream.run(feed.inputs, progress=progress))
    tail = _by_name([p.name for p in model.outputs], stream.flush()) if model.has_tail else {}
    for port in model.outputs:
        if port.name in tail:
            last = tail[port.name]
            if last is not None:
                results[port.name] = np.concatenate([results[port.name], last]) if port.per_frame else last
    timed = next(p for p in model.inputs if p.per_frame)
    frames = feed.inputs[timed.name].size // max(timed.size, 1)
    return results, frames


def singles(model: Model, frames: int) -> list[str]:
    """The remark for outputs that have one result for many frames."""
    once = [p.name for p in model.outputs if not p.per_frame]
    if frames < 2 or not once or model.kind == "step":
        return []
    return [
        f"{model.name}: {frames:,} frames gave one {', '.join(once)}, which covers all of them; --window N gives one for every N "
        f"frames in a row"
    ]


def _by_name(names: Sequence[str], answer: Any) -> dict[str, Array]:
    return dict(zip(names, [answer] if len(names) == 1 else answer, strict=True))


def shape_outputs(model: Model, feed: Feed, results: Mapping[str, Array], kind: str, whole: bool) -> dict[str, Array]:
    """Results in the shape for a kind of file: .csv with one frame per row, .wav joined and cut to the input's length.

    Outputs that are states are left out of kinds that hold one array.
    """
    if kind == ".npz":
        return dict(results)
    shown = [p.name for p in model.outputs] or list(results)
    if kind == ".npy" or len(shown) != 1:
        return {name: results[name] for name in shown}
    name = shown[0]
    array = results[name]
    ports = {p.name: p for p in (*model.outputs, *model._layout.state_outputs)}
    port = ports[name]
    timed = port.per_frame and (model.kind == "sequence" or not whole)
    if whole:
        frames, batch = _count(port.roles, array, "time"), batch_of(port.roles, array)
        if batch != 1:
            raise ShapeError(
                f"output {name!r} has {batch} sequences, shape {list(array.shape)}: too much for {kind}; write .npy or .npz"
            )
        array = from_file(port, array, batch, frames)[0]
    if kind == ".csv":
        return {name: array.reshape(len(array), prod(array.shape[1:])) if timed else array.reshape(1, array.size)}
    channels = feed.channels if array.shape[-1:] == (feed.channels,) else 1
    joined = array.reshape(-1, channels) if channels > 1 else array.reshape(-1)
    if feed.samples and timed:
        joined = joined[: -(-feed.samples * (port.size // channels) // feed.frame)]
    return {name: joined}


def batch_of(roles: Sequence[str | None], array: Array) -> int:
    """The number of sequences in an array of the file's shape."""
    return _count(roles, array, "batch")


def _count(roles: Sequence[str | None], array: Array, role: str) -> int:
    """The size of the axis with a role, 1 without one; batch and time in one axis are time."""
    found = [n for r, n in zip(roles, array.shape, strict=True) if r and role == ("time" if "+" in r else r)]
    return found[0] if found else 1
