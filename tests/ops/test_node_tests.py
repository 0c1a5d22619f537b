"""ONNX's own node tests, of every operator that tinyrnn claims.

They have no initializers: what an operator needs to know at load is given through `bind`.
"""

from __future__ import annotations

import os
import re
import runpy
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tinyrnn.ops  # noqa: F401  (registers them)
from tests import ROOT
from tests.driving import agree, loaded, whole
from tests.ops.grouping import in_groups, joined
from tests.ops.node_tests import every_test
from tinyrnn import TinyRNNError
from tinyrnn.check import within
from tinyrnn.compile.planner import make_plan
from tinyrnn.frontends.functions import by_others
from tinyrnn.graph.ir import Graph
from tinyrnn.graph.op import REGISTRY
from tinyrnn.loading.stages import read
from tinyrnn.passes import bound, prepare
from tinyrnn.passes.fold import fold

RECURRENT = re.compile(r"test_(simple_)?(rnn|gru|lstm)_")
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
NOT_CLAIMED = Path(__file__).with_name("node_tests_not_claimed.txt")
ROUNDED = ("averagepool_2d_ceil_last_window_starts_on_pad", "gridsample_bicubic")
"""tests whose outputs are written with four digits"""
GROUP = 12
LANES, REGISTERS = 16, 32
"""of a plan that is only made to see whether there is one"""

Array = np.ndarray[Any, Any]


class Case:
    """A node test: its model, and one set of inputs and outputs by name."""

    def __init__(self, test: Any) -> None:
        self.name: str = test.name.removeprefix("test_")
        self.proto: onnx.ModelProto = test.model
        given, wanted = data_of(test)
        self.inputs = dict(zip([v.name for v in self.proto.graph.input], given, strict=True))
        self.outputs = dict(zip([v.name for v in self.proto.graph.output], wanted, strict=True))

    @property
    def parameters(self) -> list[str]:
        """The inputs that the operator takes only as constants."""
        if len(self.proto.graph.node) > 1:
            return []
        node = self.proto.graph.node[0]
        if ("", node.op_type) not in REGISTRY:
            return []
        wanted = {node.input[i] for i in REGISTRY["", node.op_type].parameters.values() if i < len(node.input)}
        return [name for name in self.inputs if name in wanted]

    def read(self) -> Graph:
        return read(self.proto.SerializeToString())[0]


def data_of(test: Any) -> list[Sequence[Any]]:
    """The inputs and outputs of a node test; those that quantise have types that NumPy lacks, as raw tensors."""
    sides: list[Sequence[Any]] = list(test.data_sets[0])
    if not {n.op_type for n in test.model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}:
        return sides
    return [[numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in side] for side in sides]


@cache
def cases() -> dict[str, Case]:
    """The node tests of operators that are claimed, on arrays."""
    found = map(Case, (t for t in every_test() if not _unclaimed(t)))
    return {c.name: c for c in found}


def _unclaimed(test: Any) -> str:
    """Why a node test is none of an operator that is claimed, on arrays."""
    claimed = {name for domain, name in REGISTRY if not domain}
    version = max((o.version for o in test.model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    others = sorted(op for op in {n.op_type for n in test.model.graph.node} - claimed if not by_others(op, version))
    if others:
        return f"operator {', '.join(others)}"
    if RANDOM & {n.op_type for n in test.model.graph.node}:
        return "its numbers are each implementation's own"
    if not all(isinstance(a, (np.ndarray, np.generic)) for d in data_of(test) for a in d):
        return "its data are raw tensors, sequences or optional values"
    return "its expected values have four digits" if test.name.removeprefix("test_") in ROUNDED else ""


def not_claimed() -> str:
    """Every node test that does not run on data, and why, a line each."""
    lines = {t.name.removeprefix("test_"): reason for t in every_test() if (reason := _unclaimed(t))}
    lines |= {name: kind_of(reason) for name, reason in ways()[1].items()}
    return "".join(f"{name}: {reason}\n" for name, reason in sorted(lines.items()))


def names_of(pattern: re.Pattern[str]) -> list[str]:
    return [name for name in cases() if pattern.match(f"test_{name}")]


def kind_of(reason: str) -> str:
    """A reason without names, numbers and types."""
    text = re.sub(r"^test_\S+: ", "", reason.splitlines()[-1].strip())
    return re.sub(r"'[^']*'|\(\w+\)|\d+|\bu?int\w+\b|\b(float(16|64)|bool)\b", "…", text)[:110]


@cache
def way(name: str) -> tuple[list[str] | None, str]:
    """Inputs to bind so that a case runs on what is left, as few as may be; None and the reason where there are none."""
    case = cases()[name]
    try:
        graph = case.read()
    except TinyRNNError as error:
        return None, str(error)
    reason = "every input is a parameter"
    for names in (case.parameters, list(case.inputs)[1:]):
        if len(names) < len(case.inputs):
            try:
                make_plan(prepare(bound(graph, {n: case.inputs[n] for n in names}, None), {}), LANES, REGISTERS)
                return names, ""
            except TinyRNNError as error:
                reason = str(error)
    return None, reason


@cache
def ways() -> tuple[dict[str, list[str]], dict[str, str]]:
    """The inputs to bind of every case that runs on data, and the reasons of those that do not."""
    found = {name: way(name) for name in cases() if not RECURRENT.match(f"test_{name}")}
    return {n: b for n, (b, _) in found.items() if b is not None}, {n: r for n, (b, r) in found.items() if b is None}


@pytest.mark.parametrize("name", names_of(RECURRENT))
def test_recurrent(name: str, tmp_path: Path) -> None:
    case = cases()[name]
    model = loaded(case.proto, tmp_path, bind={n: a for n, a in case.inputs.items() if n != "X"})
    agree("close", whole(model, {"X": case.inputs["X"]}), {n: a for n, a in case.outputs.items() if n})


def test_all_recurrent_ones_are_there() -> None:
    assert len(names_of(RECURRENT)) == 18 and sum("batchwise" in n for n in names_of(RECURRENT)) == 3


@cache
def chosen() -> dict[str, onnx.ModelProto]:
    """The cases that run on data; of those that are written out only every fifth, unless TINYRNN_ALL is set.

    Those that do not are in the list beside this file, which a test holds to be true.
    """
    refused = {line.partition(":")[0] for line in NOT_CLAIMED.read_text().splitlines()}
    runs = [n for n in cases() if n not in refused and not RECURRENT.match(f"test_{n}")]
    plain = [n for n in runs if not _written_out(n)]
    rest = [n for n in runs if _written_out(n)]
    return {n: cases()[n].proto for n in [*plain, *rest[:: 1 if os.environ.get("TINYRNN_ALL") else 5]]}


def _written_out(name: str) -> bool:
    """By ONNX, which has it as one operator too, or by us."""
    return "_expanded" in name or any(("", n.op_type) not in REGISTRY for n in cases()[name].proto.graph.node)


def groups() -> list[tuple[str, ...]]:
    """The cases in groups that are one model each; what walks a time axis of its own is alone."""
    walks = [n for n, proto in chosen().items() if any(node.op_type in ("Scan", "Loop") for node in proto.graph.node)]
    return [*in_groups({n: p for n, p in chosen().items() if n not in walks}, GROUP), *((n,) for n in walks)]


@pytest.mark.parametrize("group", groups(), ids=lambda g: f"{g[0]}-and-{len(g) - 1}")
def test_on_data(group: tuple[str, ...], tmp_path: Path) -> None:
    bind = {f"{key}/{n}": cases()[key].inputs[n] for key in group for n in way(key)[0] or ()}
    given = {f"{key}/{n}": a for key in group for n, a in cases()[key].inputs.items()}
    wanted = {f"{key}/{n}": a for key in group for n, a in cases()[key].outputs.items()}
    model = loaded(joined({key: cases()[key].proto for key in group}), tmp_path, bind=bind, states={})
    agree("close", whole(model, {n: a for n, a in given.items() if n not in bind}), wanted)


def test_folded() -> None:
    """With every input known at load, the outputs are constants."""
    done, refused = 0, Counter[str]()
    for name, case in cases().items():
        if RECURRENT.match(f"test_{name}"):
            continue
        try:
            graph, _ = fold(bound(case.read(), case.inputs, None), {})
        except TinyRNNError as error:
            refused[kind_of(str(error))] += 1
            continue
        done += 1
        for output, wanted in case.outputs.items():
            assert output in graph.constants, (name, output)
            found = graph.constants[output]
            assert found.dtype == wanted.dtype and within("close", found, wanted), (name, found, wanted)
    print(f"{done} node tests folded; refused:", *[f"\n  {count:3d}  {reason}" for reason, count in refused.most_common()])
    assert done >= 500


def test_the_readme_names_what_is_written_out() -> None:
    used = {n.op_type for name in ways()[0] for n in cases()[name].proto.graph.node if ("", n.op_type) not in REGISTRY}
    assert used == set(runpy.run_path(str(ROOT / "bench" / "operators.py"))["WRITTEN_OUT"])


def test_what_is_not_claimed() -> None:
    """The list beside this file is true; `python -m tests.ops.test_node_tests` writes it anew."""
    assert not_claimed() == NOT_CLAIMED.read_text()
    assert len(ways()[0]) >= 1000


if __name__ == "__main__":
    NOT_CLAIMED.write_text(not_claimed())
