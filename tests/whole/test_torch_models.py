"""Every file that PyTorch's exporters wrote (tests/whole/make_torch_models.py), against PyTorch's own outputs beside it."""

from __future__ import annotations

import os

import numpy as np
import pytest

import tinyrnn
from tests import MODELS
from tinyrnn.check import within

FOLDER = MODELS
EVERY = sorted(path.stem for path in FOLDER.glob("*.onnx"))
ALL = bool(os.environ.get("TINYRNN_ALL"))
CHOSEN = EVERY if ALL else EVERY[::4]
"""each file compiles for about a second; every fourth, over the sorted names, has all kinds"""


def _outputs(model: tinyrnn.Model, answer: object) -> dict[str, np.ndarray]:
    names = model._layout.file_outputs
    return dict(zip(names, [answer] if len(names) == 1 else answer, strict=True))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", CHOSEN)
def test_equals_pytorch(name: str) -> None:
    model = tinyrnn.load(FOLDER / f"{name}.onnx")
    stored = np.load(FOLDER / f"{name}.npz")
    for tag in ("", "2"):
        inputs = {key.split(":", 1)[1]: stored[key] for key in stored.files if key.startswith(f"in{tag}:")}
        if not inputs:
            continue
        for output, value in _outputs(model, model.run(inputs)).items():
            expected = stored[f"out{tag}:{output}"]
            assert value.shape == expected.shape
            assert within("close", value, expected), (output, np.abs(value - expected).max())


@pytest.mark.parametrize("name", CHOSEN)
def test_stream_gives_the_same_bits_in_any_chunks(name: str) -> None:
    model = tinyrnn.load(FOLDER / f"{name}.onnx")
    if model._layout.refuses_stream:
        with pytest.raises(tinyrnn.StreamError, match="cannot stream"):
            model.stream()
        return
    rng = np.random.default_rng(3)
    T = 9
    xs = [
        rng.integers(0, 11, (T, *p.shape)) if p.dtype.kind == "i" else rng.standard_normal((T, *p.shape)).astype(np.float32)
        for p in model.inputs
    ]
    stream = model.stream()
    whole = stream.run(*xs)
    names = [p.name for p in model.outputs]
    whole_by_name = dict(zip(names, [whole] if len(names) == 1 else whole, strict=True))
    end = stream.state.copy()
    for sizes in ([1] * T, [4, 2, 3], [7, 2]):
        stream.reset()
        pieces, at = [], 0
        for size in sizes:
            answer = stream.run(*(x[at : at + size] for x in xs)) if size > 1 else stream.step(*(x[at] for x in xs))
            pieces.append(dict(zip(names, [answer] if len(names) == 1 else answer, strict=True)))
            at += size
        for port in model.outputs:
            if port.per_frame:
                parts = [p[port.name] if n > 1 else p[port.name][None] for p, n in zip(pieces, sizes, strict=True)]
                np.testing.assert_array_equal(np.concatenate(parts), whole_by_name[port.name])
            else:
                np.testing.assert_array_equal(pieces[-1][port.name], whole_by_name[port.name])
        np.testing.assert_array_equal(stream.state, end)


@pytest.mark.skipif(ALL, reason="all of them were run")
def test_the_rest_are_run_when_asked() -> None:
    pytest.skip(f"{len(EVERY) - len(CHOSEN)} of {len(EVERY)} files are left out for time; TINYRNN_ALL=1 runs them too")
