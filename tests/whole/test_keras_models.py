"""Every file that Keras and tf2onnx wrote (tests/whole/make_keras_models.py), against Keras' own outputs and onnxruntime."""

from __future__ import annotations

import os

import numpy as np
import pytest

import tinyrnn
from tests import MODELS
from tests.driving import agree, in_onnxruntime, whole

FOLDER = MODELS / "keras"
EVERY = sorted(path.stem for path in FOLDER.glob("*.onnx"))
ALL = bool(os.environ.get("TINYRNN_ALL"))
CHOSEN = EVERY if ALL else EVERY[::3]
"""each file compiles for about a second; every third, over the sorted names, has all kinds"""


ONE_SEQUENCE = {"attention_pool_keras", "bi_gru_seq_keras", "bi_simplernn_seq_keras"}
"""files that run whole, one sequence at a time"""


@pytest.mark.parametrize("name", CHOSEN)
def test_equals_keras_and_onnxruntime(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
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


@pytest.mark.parametrize("name", ["gru_backwards_keras", "lstm_backwards_keras"])
def test_layers_that_go_backwards_run_whole_at_any_length(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
    model = tinyrnn.load(path)
    stored = np.load(path.with_suffix(".npz"))
    for tag in ("", "2"):
        inputs, wanted = (
            {key.split(":", 1)[1]: stored[key] for key in stored.files if key.startswith(f"{side}{tag}:")}
            for side in ("in", "out")
        )
        if inputs:
            agree("close", whole(model, inputs), wanted)
    for batch, frames in ((1, 1), (3, 2), (2, 300), (1, 7)):
        x = np.random.default_rng(frames).standard_normal((batch, frames, 3)).astype(np.float32)
        agree("close", whole(model, {"x": x}), in_onnxruntime(path, {"x": x}), f"{batch} of {frames}")
    with pytest.raises(tinyrnn.StreamError, match=r"node '.*ReverseSequence.*' \(ReverseSequence\): it reverses the time axis"):
        model.stream()


@pytest.mark.parametrize("name", CHOSEN)
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
