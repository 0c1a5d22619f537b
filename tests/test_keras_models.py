"""Every file that Keras and tf2onnx wrote (tests/make_keras_models.py), against Keras' own outputs and onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from driving import agree, in_onnxruntime, whole

import tinyrnn

FOLDER = Path(__file__).parent / "models" / "keras"
EVERY = sorted(path.stem for path in FOLDER.glob("*.onnx"))
ALL = bool(os.environ.get("TINYRNN_ALL"))
CHOSEN = EVERY if ALL else EVERY[::3]
"""each file compiles for about a second; every third, over the sorted names, has all kinds"""


OPEN = "is open and neither time nor batch"
NOT_YET = {"gru_backwards_keras": OPEN, "lstm_backwards_keras": OPEN}
"""file → what `load` says of it; a line that no longer holds fails"""

ONE_SEQUENCE = {"attention_pool_keras", "bi_gru_seq_keras", "bi_simplernn_seq_keras"}
"""files that run whole, one sequence at a time"""


@pytest.mark.parametrize("name", CHOSEN)
def test_equals_keras_and_onnxruntime(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
    if name in NOT_YET:
        with pytest.raises(tinyrnn.UnsupportedError, match=NOT_YET[name]):
            tinyrnn.load(path)
        return
    model = tinyrnn.load(path)
    stored = np.load(path.with_suffix(".npz"))
    for tag in ("", "2"):
        inputs = {key.split(":", 1)[1]: stored[key] for key in stored.files if key.startswith(f"in{tag}:")}
        if inputs and tag and name in ONE_SEQUENCE:
            with pytest.raises(tinyrnn.ShapeError, match="the file says"):
                model.run(inputs)
        elif inputs:
            made = whole(model, inputs)
            agree("close", made, {key.split(":", 1)[1]: stored[key] for key in stored.files if key.startswith(f"out{tag}:")})
            agree("close", made, in_onnxruntime(path, inputs))


@pytest.mark.parametrize("name", [name for name in CHOSEN if name not in NOT_YET])
def test_stream_in_chunks_gives_the_whole(name: str) -> None:
    model = tinyrnn.load(FOLDER / f"{name}.onnx")
    if model._layout.refuses_stream or model.kind != "sequence":
        return
    rng = np.random.default_rng(5)
    frames = 9
    xs = [
        rng.integers(0, 7, (frames, *p.shape)).astype(p.dtype)
        if p.dtype.kind == "i"
        else rng.standard_normal((frames, *p.shape)).astype(np.float32)
        for p in model.inputs
    ]
    stream = model.stream()
    expected = stream.run(*xs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for sizes in ([1] * frames, [4, 2, 3]):
        stream.reset()
        pieces, at = [], 0
        for size in sizes:
            made = stream.run(*(x[at : at + size] for x in xs))
            pieces.append(made if isinstance(made, tuple) else (made,))
            at += size
        for port, n in zip(model.outputs, range(len(expected)), strict=True):
            joined = np.concatenate([p[n] for p in pieces]) if port.per_frame else pieces[-1][n]
            np.testing.assert_array_equal(joined, expected[n])
