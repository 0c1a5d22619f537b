"""Every operator against float64 and onnxruntime, alone and between the recurrent layers of a sequence model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tests.ops.cases import CASES, COVERED_ELSEWHERE
from tests.ops.grouping import in_groups, joined, part_of
from tests.ops.op_case import OpCase, build
from tests.targets.page_in_python import with_page_in_python
from tinyrnn.graph.op import MICROSOFT, OURS, REGISTRY
from tinyrnn.targets.reference import Reference

GROUP = 16
MOST = 8
"""cases of one operator, spread over all its rows, unless TINYRNN_ALL is set"""


def chosen() -> dict[str, OpCase]:
    rows: dict[tuple[str, str], list[str]] = {}
    for name, one in CASES.items():
        rows.setdefault((one.domain, one.op), []).append(name)
    kept = {n for names in rows.values() for n in (names if os.environ.get("TINYRNN_ALL") else names[:: -(-len(names) // MOST)])}
    return {name: one for name, one in CASES.items() if name in kept}


BUILT = {name: build(one) for name, one in chosen().items()}
GROUPS = in_groups({name: proto for name, (proto, _) in BUILT.items()}, GROUP)


def test_every_operator_has_a_case() -> None:
    public = {(domain, name) for domain, name in REGISTRY if domain != OURS}
    covered = {*(("", name) for name in COVERED_ELSEWHERE), (MICROSOFT, "DynamicQuantizeLSTM")}
    assert public == {(one.domain, one.op) for one in CASES.values()} | covered


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: f"{g[0]}-and-{len(g) - 1}")
def test_cases(group: tuple[str, ...], tmp_path: Path) -> None:
    given = {f"{key}/{name}": array for key in group for name, array in BUILT[key][1].items()}
    model = loaded(joined({key: BUILT[key][0] for key in group}), tmp_path, states={})
    found = whole(model, given)
    for name, array in whole(with_page_in_python(model), given).items():
        assert array.tobytes() == found[name].tobytes(), f"{name}: Python runs the page to other bits"
    reference = Reference(model._source.graph).run(given)
    failures = []
    for key in group:
        proto, inputs = BUILT[key]
        mine = part_of(found, key)
        try:
            agree("close", mine, part_of(reference, key), "against float64:")
            theirs = in_onnxruntime(proto, inputs)
            agree("close", mine, theirs, "against onnxruntime:")
            assert {n: a.dtype for n, a in mine.items()} == {n: a.dtype for n, a in theirs.items()}
        except Exception as error:
            failures.append(f"{key}: {error}")
    assert not failures, "\n".join(failures)


# Between recurrent layers: rows are frames and sequences.

FEATURES, HIDDEN = 20, 19
Step = tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]


def _around(source: str, size: int, tag: str) -> tuple[list[Step], dict[str, Array]]:
    """Nodes over `source` [T, N, size], their outputs all named after `tag`, and their constants."""
    rng = np.random.default_rng(size)
    constants: dict[str, Array] = {
        f"{tag}_vector": rng.standard_normal(size).astype(np.float32),
        f"{tag}_scale": rng.standard_normal(size).astype(np.float32),
        f"{tag}_weights": (rng.standard_normal((size, 33)) / np.sqrt(size)).astype(np.float32),
        f"{tag}_bias": rng.standard_normal(33).astype(np.float32),
        f"{tag}_starts": np.array([size - 2]),
        f"{tag}_ends": np.array([1]),
        f"{tag}_last": np.array([2]),
        f"{tag}_step": np.array([-2]),
        f"{tag}_sizes": np.array([3, size - 3]),
        f"{tag}_pads": np.array([0, 0, 2, 0, 0, 1]),
        f"{tag}_picked": np.array([size - 1, 0, -2]),
    }
    y, last = source, f"{tag}_last"
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Mul", [y, f"{tag}_vector"], ["product"], {}),
        ("Tanh", [f"{tag}_product"], ["tanh"], {}),
        ("ReduceMean", [y], ["mean"], {"axes": [-1], "keepdims": 1}),
        ("Sub", [y, f"{tag}_mean"], ["centred"], {}),
        ("ReduceMax", [y], ["largest"], {"axes": [2], "keepdims": 0}),
        ("ReduceSum", [y, last], ["sum"], {"keepdims": 0}),
        ("Softmax", [y], ["softmax"], {"axis": -1}),
        ("LayerNormalization", [y, f"{tag}_scale", f"{tag}_vector"], ["normal"], {}),
        ("Slice", [y, f"{tag}_starts", f"{tag}_ends", last, f"{tag}_step"], ["slice"], {}),
        ("Concat", [f"{tag}_slice", y, f"{tag}_mean"], ["concat"], {"axis": -1}),
        ("Split", [y, f"{tag}_sizes"], ["head", "tail"], {"axis": 2}),
        ("Pad", [y, f"{tag}_pads"], ["padded"], {}),
        ("Gather", [y, f"{tag}_picked"], ["gathered"], {"axis": 2}),
        ("MatMul", [f"{tag}_normal", f"{tag}_weights"], ["matmul"], {}),
        ("Add", [f"{tag}_matmul", f"{tag}_bias"], ["linear"], {}),
    ]
    named = [(op, tuple(i), tuple(f"{tag}_{o}" for o in outputs), attributes) for op, i, outputs, attributes in steps]
    return named, constants


def _sequence() -> onnx.ModelProto:
    """The nodes above before and after a GRU; x [T, N, FEATURES], every value between an output."""
    rng = np.random.default_rng(7)
    before, constants = _around("x", FEATURES, "before")
    after, more = _around("h", HIDDEN, "after")
    shapes = {"W": (1, 3 * HIDDEN, 33), "R": (1, 3 * HIDDEN, HIDDEN), "B": (1, 6 * HIDDEN)}
    weights = {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    constants |= more | weights | {"direction": np.array([1])}
    gru: list[Step] = [
        ("GRU", ("before_linear", "W", "R", "B"), ("Y",), {"hidden_size": HIDDEN}),
        ("Squeeze", ("Y", "direction"), ("h",), {}),
    ]
    steps = [*before, *gru, *after]
    graph = helper.make_graph(
        [helper.make_node(op, i, o, f"node_{o[0]}", **attributes) for op, i, o, attributes in steps],
        "around",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "N", FEATURES])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for _, _, outputs, _ in steps
            for name in outputs
            if name not in ("Y", "before_matmul", "after_matmul", "before_product")
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_around_a_recurrent_layer(tmp_path: Path) -> None:
    proto = _sequence()
    model = loaded(proto, tmp_path)
    reference = Reference(model._source.graph)
    rng = np.random.default_rng(11)
    for frames, batch in ((1, 1), (9, 1), (7, 2)):
        inputs = {"x": rng.standard_normal((frames, batch, FEATURES)).astype(np.float32)}
        found = whole(model, inputs)
        agree("close", found, in_onnxruntime(proto, inputs), "against onnxruntime:")
        agree("close", found, reference.run(inputs), "against float64:")
        agree_in_chunks(model, inputs, found, batch)
