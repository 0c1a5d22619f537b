"""The same file and the same input in onnxruntime, for comparison."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns as now
from typing import Any

import numpy as np

from tinyrnn.bench.data import POOL, Data
from tinyrnn.errors import TinyRNNError, UnsupportedError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime import Model


class PeerError(TinyRNNError):
    """onnxruntime cannot run the file."""


def import_onnxruntime() -> Any:
    """The module onnxruntime. Raises `TinyRNNError` where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise TinyRNNError("versus='onnxruntime' needs onnxruntime: pip install onnxruntime") from None
    return onnxruntime


class Session:
    """The file in onnxruntime, on one thread, with the same input; states are fed back as a stream would."""

    name = "onnxruntime"

    def __init__(
        self, peer: str, path: Path, model: Model, data: Data, bound: Mapping[str, Any], outputs: Sequence[str] | None
    ) -> None:
        if peer != self.name:
            raise UnsupportedError(f"versus={peer!r}: supported is {self.name!r}")
        if path.suffix.lower() != ".onnx":
            raise UnsupportedError(f"{path}: onnxruntime runs .onnx files only; bench this file without versus=")
        onnxruntime = import_onnxruntime()
        layout = model._layout
        self.version = str(onnxruntime.__version__)
        self._model, self._data = model, data
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        try:
            content = str(path) if outputs is None else _only(path, layout.file_outputs)
            start = time.perf_counter()
            self._session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
            self.load_s = time.perf_counter() - start
            self._names = [o.name for o in self._session.get_outputs()] if outputs is None else list(layout.file_outputs)
            inputs = self._session.get_inputs()
            self._constants = {i.name: constant(i, bound) for i in inputs if i.name not in layout.file_inputs}
            ends = zip(layout.state_inputs, layout.state_outputs, strict=True)
            self._pairs = [(i.name, self._names.index(o.name)) for i, o in ends]
            self._frames = [{n: a for n, a in data.feed(t, 1).items() if n not in data.states} for t in range(POOL)]
            self._whole_feed = self._constants | data.feed(0, data.frames)
            self.whole_runs = data.timed or not data.streams or data.by_file
            self.steps = data.streams and data.batch == 1 and data.fixed_time in (None, 1) and not layout.waits
            self._session.run(self._names, self._whole_feed)
        except TinyRNNError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common type
            raise PeerError(f"{path}: onnxruntime {self.version} cannot run it: {error}") from error
        self._refuses_frame = ""
        if self.steps:
            try:
                self._session.run(self._names, self._start() | self._frames[0])
            except Exception as error:
                self.steps, self._refuses_frame = False, str(error).splitlines()[0]
        if not self.steps and not self.whole_runs:
            raise PeerError(f"{path}: onnxruntime {self.version} cannot run it: {self._refuses_frame}")

    def _start(self) -> dict[str, Array]:
        return self._constants | {name: array.copy() for name, array in self._data.states.items()}

    def passes(self, passes: int) -> int:
        feed, run, names, pairs = self._start(), self._session.run, self._names, self._pairs
        start = now()
        for _ in range(passes):
            for frame in self._frames:
                feed.update(frame)
                results = run(names, feed)
                for name, index in pairs:
                    feed[name] = results[index]
        return now() - start

    def record(self, into: Array) -> None:
        feed, run, names, pairs = self._start(), self._session.run, self._names, self._pairs
        at = 0
        for _ in range(len(into) // POOL):
            for frame in self._frames:
                start = now()
                feed.update(frame)
                results = run(names, feed)
                for name, index in pairs:
                    feed[name] = results[index]
                into[at] = now() - start
                at += 1

    def whole(self, passes: int) -> int:
        feed, run, names = self._whole_feed, self._session.run, self._names
        start = now()
        for _ in range(passes):
            run(names, feed)
        return now() - start

    def difference(self) -> float:
        """The largest absolute difference of any output of one whole run, from the initial states."""
        theirs = dict(zip(self._names, self._session.run(self._names, self._whole_feed), strict=True))
        given = self._data.feed(0, self._data.frames)
        ours = self._model.run(given)
        names = self._model._layout.file_outputs
        arrays = [ours] if len(names) == 1 else list(ours)
        pairs = [(a, theirs[n]) for n, a in zip(names, arrays, strict=True) if a.size]
        return max((float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs), default=0.0)

    def note(self) -> str:
        """A remark that the reader of the comparison needs; may be empty."""
        data, notes = self._data, []
        if data.by_file:
            notes.append(f"the file fixes the batch: both run {data.batch} entries, and there are no single steps of onnxruntime")
        elif self._refuses_frame:
            notes.append(f"it cannot run a single frame, so there are no single steps of onnxruntime: {self._refuses_frame}")
        elif data.streams and not self.steps:
            notes.append("the file fixes the number of frames: there are no single steps of onnxruntime")
        elif self.steps and self.whole_runs and self._model.states and not self._pairs:
            notes.append("its single steps all start from the initial state, for the file has no state inputs")
        if not self.whole_runs:
            notes.append("its run is the loop of single steps, for the file takes one frame a call")
        return "; ".join(notes)


def _only(path: Path, outputs: Sequence[str]) -> bytes:
    """The file with these outputs only, without nodes that the other outputs need."""
    import onnx
    import onnx.utils

    model = onnx.load(str(path))
    kept = onnx.utils.Extractor(model).extract_model([i.name for i in model.graph.input], list(outputs))
    return bytes(kept.SerializeToString())


def constant(port: Any, bound: Mapping[str, Any]) -> Array:
    """The value of an input of the file that the loaded model does not have, because it is bound or unused."""
    kind = port.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
    if port.name in bound:
        value = np.asarray(bound[port.name], dtype)
        return value.reshape(port.shape) if all(isinstance(n, int) for n in port.shape) else value
    return np.ones([n if isinstance(n, int) else 1 for n in port.shape], dtype)
