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
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import tinyrnn
from tests.driving import agree, in_onnxruntime, loaded, started, whole
from tests.whole.families import Case, put_back, recurrent_layers, reductions
from tests.whole.families_of_steps import loops, memories, steps
from tests.whole.families_over_time import cuts, halves, normal, rates, windows
from tinyrnn.check import within
from tinyrnn.compile.planner import LARGEST_CHUNK
from tinyrnn.graph.arrays import batch_entry
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.runtime import Model

ALL = bool(os.environ.get("TINYRNN_ALL"))
EDGE = LARGEST_CHUNK
"""no pass takes more rows"""
FEW = (3, 40, EDGE + 1, 3)
"""lengths of what is made ready anew for each"""


def lengths(model: Model) -> tuple[int, ...]:
    """Round the model's own chunk, and above it: they take one pass, two and three."""
    if isinstance(model, DynamicShapeModel):
        return FEW
    chunk = model._layout.chunk
    return (1, 2, *((chunk - 1, chunk, chunk + 1) if 16 <= chunk < EDGE else ()), EDGE - 1, EDGE, EDGE + 1, 2 * EDGE + 1)


def right(case: Case, folder: Path) -> tuple[bool, bool]:
    """Whether the case loads, and whether it streams; fails where what it gives is wrong."""
    try:
        model = loaded(case.proto, folder)
    except tinyrnn.TinyRNNError:
        return False, False
    compared = False
    for frames in lengths(model):
        if frames < case.least:
            continue
        inputs = case.inputs(frames)
        try:
            expected = in_onnxruntime(case.oracle or case.proto, inputs)
        except Exception:  # shorter than a kernel: onnxruntime has many names for it
            continue
        try:
            found = whole(model, inputs)
        except tinyrnn.TinyRNNError as error:
            assert frames < EDGE - 1 or isinstance(model, DynamicShapeModel), f"{case.said}, {frames} frames: {error}"
            continue
        agree("close", found, expected, f"{case.said}, {frames} frames:")
        compared = True
    assert compared, case.said
    try:
        model.stream()
    except tinyrnn.StreamError as error:
        assert any(f"{what} '" in str(error) for what in ("node", "constant", "size")), str(error)
        return True, False
    if not any("time" in p.roles for p in model._layout.inputs):
        return True, False  # its frames are the sequences of a batch
    for frames in (2, (model._layout.chunk or EDGE) + 1):
        _streams(model, case, frames)
    return True, True


def steps_right(case: Case, folder: Path) -> tuple[bool, bool]:
    """As `right` for a step model: its states find themselves, and steps are the file called with them handed on."""
    model = loaded(case.proto, folder)
    assert {s.name for s in model.states} == set(case.states), f"{case.said}: states {[s.name for s in model.states]}"
    given = case.inputs(1)
    agree("close", whole(model, given), in_onnxruntime(case.proto, given), case.said)
    stream, again = started(model, given), model.stream()
    again.state[...] = stream.state
    frames = [case.inputs(10 + t)["x"] for t in range(9)]
    found = []
    for t, x in enumerate(frames):
        expected = in_onnxruntime(case.proto, given | {"x": x})
        given |= {start: expected[end] for start, end in case.states.items()}
        y = stream.step(x.reshape(model.inputs[0].shape))
        name = model.outputs[0].name
        agree("close", {name: y.reshape(expected[name].shape)}, {name: expected[name]}, f"{case.said} step {t}")
        found.append(y)
    for start in case.states:
        agree("close", {start: stream.states[start].reshape(given[start].shape)}, {start: given[start]}, f"{case.said} state")
    many = again.run(np.stack([x.reshape(model.inputs[0].shape) for x in frames]))
    assert within("exact", many, np.stack(found)) and within("exact", again.state, stream.state), case.said
    return True, True


def memories_right(case: Case, folder: Path) -> tuple[bool, bool]:
    """As `steps_right` with a memory that every step may bring anew, of another length."""
    model = loaded(case.proto, folder)
    assert [s.name for s in model.states] == ["h"], case.said
    stream, h = model.stream(), np.zeros_like(case.inputs(1)["h"])
    for frames in (5, 5, 1, 17, 3, 260, 5, 64):
        given = case.inputs(frames) | {"h": h}
        expected = in_onnxruntime(case.proto, given)
        h = expected["h_out"]
        agree("close", whole(model, given), expected, f"{case.said}, {frames}")
        made = stream.step(**{p.name: given[p.name] for p in model.inputs})
        made = made if isinstance(made, tuple) else (made,)
        for port, y in zip(model.outputs, made, strict=True):
            wanted = expected[port.name]
            assert within("close", y.reshape(wanted.shape), wanted), f"{case.said}, {frames}, {port.name} streamed"
    return True, True


def _streams(model: Model, case: Case, frames: int) -> None:
    """Streams in pieces, flushed, have the bits of the whole run, for every sequence of the batch."""
    inputs = case.inputs(frames)
    try:
        found = whole(model, inputs)
    except tinyrnn.TinyRNNError:
        return
    frames = next(a.shape[p.roles.index("time")] for p in model._layout.inputs for a in [inputs[p.name]] if "time" in p.roles)
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
                assert within("exact", joined.reshape(right.shape), right), (
                    f"{case.said}, {frames} frames in {chunk}: {port.name}"
                )


Check = Callable[[Case, Path], tuple[bool, bool]]
FAMILIES: dict[str, tuple[Callable[[], st.SearchStrategy[Case]], int, float, Check]] = {
    "recurrent": (recurrent_layers, 5, 0.9, right),
    "put_back": (put_back, 4, 0.8, right),
    "reductions": (reductions, 4, 0.6, right),
    "windows": (windows, 4, 0.6, right),
    "cuts": (cuts, 6, 0.5, right),
    "normal": (normal, 5, 0.6, right),
    "rates": (rates, 8, 0.3, right),
    "halves": (halves, 4, 0.8, right),
    "loops": (loops, 5, 0.8, right),
    "steps": (steps, 5, 1.0, steps_right),
    "memories": (memories, 2, 1.0, memories_right),
}
"""strategy, examples, the share of them that loads at least, and what holds for each"""


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    strategy, examples, share, check = FAMILIES[family]
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
            loads.append(check(case, Path(folder))[0])

    holds()
    assert np.mean(loads) >= share, f"{sum(loads)} of {len(loads)} load"
