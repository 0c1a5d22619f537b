"""RNN, GRU and LSTM: every attribute, random weights, against the float64 reference and onnxruntime, whole and streamed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.driving import agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tests.ops.recurrent_cases import GATES, RecurrentCase, build, expected, recurrent_cases
from tinyrnn import StreamError

CASES = recurrent_cases()
BY_NAME = {case.name: case for case in CASES}


def streams(case: RecurrentCase) -> bool:
    return case.attributes.get("direction", "forward") == "forward" and case.sequence_lens is None


def test_cases_are_many() -> None:
    assert len(CASES) >= 225 and sum(map(streams, CASES)) > 100


CHOSEN = CASES if os.environ.get("TINYRNN_ALL") else CASES[::2]
"""every second case by default: each compiles for seconds; the reference is tested on all of them"""


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_case(case: RecurrentCase, tmp_path: Path) -> None:
    proto, inputs = build(case)
    model = loaded(proto, tmp_path)
    found = whole(model, inputs)
    agree("close", found, expected(proto, inputs), "against float64:")
    if case.onnxruntime:
        agree("close", found, in_onnxruntime(proto, inputs), "against onnxruntime:")
    if streams(case):
        agree_in_chunks(model, inputs, found, case.N)
    else:
        with pytest.raises(StreamError, match="node 'layer'"):
            model.stream()


@pytest.mark.parametrize("op", GATES)
def test_other_lengths_and_batches_need_no_new_code(op: str, tmp_path: Path) -> None:
    proto, inputs = build(BY_NAME[f"{op.lower()}_inputs_none"])
    model = loaded(proto, tmp_path)
    rng = np.random.default_rng(5)
    for frames, batch in ((1, 1), (300, 1), (2, 5), (600, 3)):
        x = rng.standard_normal((frames, batch, inputs["X"].shape[2])).astype(np.float32)
        agree("close", whole(model, {"X": x}), expected(proto, {"X": x}), f"{frames} frames of {batch}:")


@pytest.mark.parametrize("op", GATES)
def test_initial_states_bound_to_arrays_that_differ_by_sequence(op: str, tmp_path: Path) -> None:
    proto, inputs = build(BY_NAME[f"{op.lower()}_inputs_only_initial_h"])
    model = loaded(proto, tmp_path, bind={"initial_h": inputs["initial_h"]})
    agree("close", whole(model, {"X": inputs["X"]}), expected(proto, inputs))
    with pytest.raises(StreamError, match="batch"):
        model.stream()


@pytest.mark.parametrize("op", GATES)
def test_initial_states_bound_to_arrays_of_one_sequence(op: str, tmp_path: Path) -> None:
    proto, inputs = build(BY_NAME[f"{op.lower()}_inputs_only_initial_h"])
    model = loaded(proto, tmp_path, bind={"initial_h": inputs["initial_h"][:, :1]})
    inputs = {name: np.ascontiguousarray(array[:, :1]) for name, array in inputs.items()}
    found = whole(model, {"X": inputs["X"]})
    agree("close", found, expected(proto, inputs))
    agree_in_chunks(model, {"X": inputs["X"]}, found)
    stream = model.stream()
    stream.step(inputs["X"][0, 0])
    stream.reset()
    assert np.array_equal(stream.states["layer.h"].ravel(), inputs["initial_h"].ravel())
