"""`Model` and `Stream`: arrays in, arrays out. Needs NumPy and compiled code, no compiler and no ONNX.

A Model is immutable and may be shared between threads. A Stream is the only mutable thing: one live
input, with its state, for one thread at a time. `load_built` makes a Model of what `tinyrnn build` wrote.
"""

from __future__ import annotations

from tinyrnn.runtime.driver import Progress
from tinyrnn.runtime.load_built import load_built
from tinyrnn.runtime.memory import Context, Layout, aligned, part_views, state_rows
from tinyrnn.runtime.model import Model, Stream
from tinyrnn.runtime.pool import Pool
from tinyrnn.runtime.pool_runner import PoolCode, Runner
from tinyrnn.runtime.process_local import ProcessLocal

__all__ = [
    "Context",
    "Layout",
    "Model",
    "Pool",
    "PoolCode",
    "ProcessLocal",
    "Progress",
    "Runner",
    "Stream",
    "aligned",
    "load_built",
    "part_views",
    "state_rows",
]
