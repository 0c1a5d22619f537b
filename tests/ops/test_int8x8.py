"""int8 weights and activations: the bits of exact integer arithmetic, for every attribute, whole, streamed and pooled."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.driving import agree_in_chunks, loaded, whole
from tests.ops import integer_oracle as oracle
from tests.ops.integer_oracle import ALPHA, BETA
from tests.ops.recurrent_cases import FUNCTIONS, RecurrentCase, build, recurrent_cases
from tests.ops.test_recurrent import streams


def _affine(case: RecurrentCase) -> RecurrentCase:
    count = FUNCTIONS[case.op] * case.directions
    given = {"activations": ["Affine"] * count, "activation_alpha": [ALPHA] * count, "activation_beta": [BETA] * count}
    return replace(case, attributes={**case.attributes, **given})


CASES = [_affine(case) for case in recurrent_cases() if "activations" not in case.name]
CHOSEN = CASES if os.environ.get("TINYRNN_ALL") else CASES[::4]


def _same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_case(case: RecurrentCase, tmp_path: Path) -> None:
    proto, inputs = build(case)
    model = loaded(proto, tmp_path, weights="int8x8")
    found = whole(model, inputs)
    for name, array in oracle.expected(proto, inputs).items():
        _same(found[name], array)
    if streams(case):
        agree_in_chunks(model, inputs, found, case.N)
