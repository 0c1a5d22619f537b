"""Families of random graphs against onnxruntime: whole at lengths below, at and above the chunk, and streamed in any pieces.

What is refused is fine; what loads is right, and most load.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from driving import agree, in_onnxruntime, loaded, started, whole
from families import Case, put_back, recurrent_layers, reductions, windows
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import tinyrnn
from tinyrnn.arrays import batch_entry
from tinyrnn.check import within
from tinyrnn.plan import LARGEST_CHUNK
from tinyrnn.runtime import Model
from tinyrnn.sized import SizedModel

ALL = bool(os.environ.get("TINYRNN_ALL"))
EDGE = LARGEST_CHUNK
"""no pass takes more rows: lengths round it, and above it, take one, two and three"""
LENGTHS = (1, 2, EDGE - 1, EDGE, EDGE + 1, 300, 2 * EDGE + 1)
FEW = (3, EDGE + 1)
"""for what is compiled anew at every length"""


def right(case: Case, folder: Path) -> tuple[bool, bool]:
    """Whether the case loads, and whether it streams; fails where what it gives is wrong."""
    try:
        model = loaded(case.proto, folder)
    except tinyrnn.TinyRNNError:
        return False, False
    compared = False
    for frames in FEW if isinstance(model, SizedModel) else LENGTHS:
        inputs = case.inputs(frames)
        try:
            expected = in_onnxruntime(case.proto, inputs)
        except Exception:  # shorter than a kernel: onnxruntime has many names for it
            continue
        try:
            found = whole(model, inputs)
        except tinyrnn.TinyRNNError as error:
            assert frames < EDGE - 1 or isinstance(model, SizedModel), f"{case.said}, {frames} frames: {error}"
            continue
        agree("close", found, expected, f"{case.said}, {frames} frames:")
        compared = True
    assert compared, case.said
    try:
        model.stream()
    except tinyrnn.StreamError as error:
        assert "node '" in str(error) or "constant '" in str(error), str(error)
        return True, False
    if not any("time" in p.roles for p in model._layout.inputs):
        return True, False  # its frames are the sequences of a batch
    for frames in (2, EDGE + 1):
        _streams(model, case, frames)
    return True, True


def _streams(model: Model, case: Case, frames: int) -> None:
    """Streams in pieces, flushed, have the bits of the whole run, for every sequence of the batch."""
    inputs = case.inputs(frames)
    try:
        found = whole(model, inputs)
    except tinyrnn.TinyRNNError:
        return
    ports = {p.name: p for p in model._layout.inputs}
    batch = next((inputs[n].shape[p.roles.index("batch")] for n, p in ports.items() if "batch" in p.roles), 1)
    for entry in range(batch):
        given = [batch_entry(inputs[n], p, entry) for n, p in ports.items()]
        timed = [p.per_frame for p in ports.values()]
        wanted = {p.name: batch_entry(found[p.name], p, entry) for p in model.outputs}
        for chunk in (0, 1, 3, EDGE - 1, frames):
            if chunk < 3 and frames > 3 and entry:
                continue
            stream = started(model, inputs, entry)
            made = []
            for start in range(0, frames, chunk or 1):
                piece: Any = slice(start, start + chunk) if chunk else start
                arrays = [a[piece] if t else a for a, t in zip(given, timed, strict=True)]
                made.append(stream.run(*arrays) if chunk else stream.step(*arrays))
            made.append(stream.flush())
            parts = [m if isinstance(m, tuple) else (m,) for m in made]
            for i, port in enumerate(model.outputs):
                got = [p[i] for p in parts if p[i] is not None]
                joined = np.concatenate([g.reshape(-1, *port.shape) for g in got]) if port.per_frame else got[-1]
                right = wanted[port.name]
                assert within("exact", joined.reshape(right.shape), right), f"{case.said}, {frames} frames in {chunk}: {port.name}"


FAMILIES: dict[str, tuple[Callable[[], st.SearchStrategy[Case]], int, float]] = {
    "recurrent": (recurrent_layers, 8, 0.9),
    "put_back": (put_back, 10, 0.8),
    "windows": (windows, 8, 0.6),
    "reductions": (reductions, 8, 0.6),
}
"""strategy, examples, and the share of them that loads at least"""


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    strategy, examples, share = FAMILIES[family]
    loads: list[bool] = []

    @settings(
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=examples * (8 if ALL else 1),
        phases=[Phase.generate],  # every example compiles: a smaller one is not worth minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy())
    def holds(case: Case) -> None:
        with TemporaryDirectory() as folder:
            loads.append(right(case, Path(folder))[0])

    holds()
    assert np.mean(loads) >= share, f"{sum(loads)} of {len(loads)} load"
