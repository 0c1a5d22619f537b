"""onnxruntime as the oracle of a check, opened when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyrnn.errors import TinyRNNError
from tinyrnn.frontends.source import ModelSource, session_model
from tinyrnn.graph.arrays import Array

LONGEST_REASON = 320


class Failure(Exception):
    """An oracle cannot run the model; the text says why."""


def constants_of(path: ModelSource, bind: Mapping[str, Any] | None) -> dict[str, Array]:
    """The inputs that `bind` fixes, as arrays of the file's dtypes and shapes."""
    if not bind:
        return {}
    from tinyrnn.loading.stages import read
    from tinyrnn.passes.bind import bind as fix

    source, _ = read(path)
    graph = source.copy()
    fix(graph, bind, None)
    return {name: graph.constants[name] for name in bind if name in source.inputs}


def import_onnxruntime(model: str) -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise TinyRNNError(
            f"{model}: check compares with onnxruntime, which cannot be imported ({error}). Install it: pip install onnxruntime"
        ) from None
    return onnxruntime


class Session:
    """onnxruntime on the CPU with one thread, opened when it is first needed; raises `Failure` with its own reason."""

    def __init__(
        self, runtime: Any, path: ModelSource, outputs: Sequence[str], constants: Mapping[str, Array], optimised: bool
    ) -> None:
        self.runtime, self.path, self.outputs, self.constants, self.optimised = runtime, path, list(outputs), constants, optimised
        self.session: Any = None
        self.refused = ""

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if self.refused:
            raise Failure(self.refused)
        try:
            if self.session is None:
                self.session = self._open()
        except Exception as error:
            self.refused = _reason(error)
            raise Failure(self.refused) from None
        try:
            halves = [i.name for i in self.session.get_inputs() if i.type == "tensor(float16)"]
            given = {n: a.astype(np.float16) if n in halves else a for n, a in {**feeds, **self.constants}.items()}
            return dict(zip(self.outputs, self.session.run(self.outputs, given), strict=True))
        except Exception as error:
            raise Failure(_reason(error)) from None

    def _open(self) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not self.optimised:
            options.graph_optimization_level = self.runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return self.runtime.InferenceSession(session_model(self.path), options, providers=["CPUExecutionProvider"])


def _reason(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"
