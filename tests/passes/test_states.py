"""States find themselves: by what the graph computes, then by names; all of them, or an error that says what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tinyrnn import LoadError
from tinyrnn.check import check
from tinyrnn.cli import main
from tinyrnn.loading.stages import read
from tinyrnn.passes import bound, prepare

N = 4
Steps = list[tuple[Any, ...]]


def file(path: Path, inputs: dict[str, list[int]], outputs: list[str], steps: Steps) -> Path:
    """A model of steps (operator, inputs, output, attributes); `W…` are random matrices, other constants named by value."""
    rng = np.random.default_rng(0)
    nodes, constants = [], {}
    for operator, given, made, *rest in steps:
        nodes.append(helper.make_node(operator, given, [made] if isinstance(made, str) else made, **(rest[0] if rest else {})))
        for name in given:
            if name.startswith("W"):
                constants[name] = (0.5 * rng.standard_normal((N, N))).astype(np.float32)
            elif name.startswith("L"):
                constants[name] = (0.5 * rng.standard_normal((1, 4 * N, N))).astype(np.float32)
            elif name == "half":
                constants[name] = np.array(0.5, np.float32)
            elif name.startswith("ints"):
                constants[name] = np.array([int(n) for n in name.split()[1:]])
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def pairs(path: Path) -> dict[str, str]:
    return prepare(bound(read(path)[0], None, None)).states


ROW = [1, N]


def plain(x: str, states: list[tuple[str, str]], y: str = "y") -> tuple[dict[str, list[int]], list[str], Steps]:
    """Layers h' = tanh(W x + U h): states of the spec of x and of y."""
    steps: Steps = []
    below = x
    for k, (h, new) in enumerate(states):
        steps += [
            ("MatMul", [below, f"W{k}"], f"a{k}"),
            ("MatMul", [h, f"WU{k}"], f"b{k}"),
            ("Add", [f"a{k}", f"b{k}"], f"sum{k}"),
        ]
        steps += [("Tanh", [f"sum{k}"], new)]
        below = new
    steps.append(("MatMul", [below, "WY"], y))
    return {x: ROW, **{h: ROW for h, _ in states}}, [y, *(new for _, new in states)], steps


SCHEMES = [
    [("h", "hn")],
    [("h", "h_out")],
    [("h_in", "h_out")],
    [("state", "stateN")],
    [("state", "new_state")],
    [("state_in", "state_out")],
    [("prev_state", "next_state")],
    [("old_h", "new_h")],
    [("hidden", "hidden_next")],
    [("hx", "hy"), ("cx", "cy")],
    [("h0", "hn"), ("c0", "cn")],
    [("h_0", "h_n"), ("c_0", "c_n")],
    [("h0", "h0_out"), ("h1", "h1_out"), ("h2", "h2_out")],
    [("s0", "s0_out"), ("s1", "s1_out"), ("s2", "s2_out"), ("s3", "s3_out")],
    [("in_cache0", "out_cache0"), ("in_cache1", "out_cache1"), ("in_cache2", "out_cache2")],
    [("cache0", "new_cache0"), ("cache1", "new_cache1")],
    [("in_cache_a", "out_cache_a"), ("in_cache_b", "out_cache_b")],
    [("cache", "r_cache")],
    [("hIn", "hOut"), ("cIn", "cOut")],
    [("past_key_values.0.key", "present.0.key"), ("past_key_values.1.key", "present.1.key")],
    [("lstm_states_pi_h", "pi_h"), ("lstm_states_vf_h", "vf_h")],
    [("enc.h", "enc.h.next"), ("dec.h", "dec.h.next")],
    [("initial_state_1", "final_state_1"), ("initial_state_10", "final_state_10")],
    [("foo_0", "bar_0"), ("foo_1", "bar_1")],
    [("recurrent_in", "recurrent_out")],
    [("conv_cache", "conv_cache_out"), ("tra_cache", "tra_cache_out")],
]


@pytest.mark.parametrize("states", SCHEMES, ids=lambda states: states[0][0])
@pytest.mark.parametrize("turned", [False, True], ids=["in order", "turned"])
def test_names(states: list[tuple[str, str]], turned: bool, tmp_path: Path) -> None:
    inputs, outputs, steps = plain("x", states)
    assert pairs(file(tmp_path / "m.onnx", inputs, outputs[::-1] if turned else outputs, steps)) == dict(states)


def test_what_goes_through_is_no_state(tmp_path: Path) -> None:
    inputs, outputs, steps = plain("audio_in", [("h_in", "h_out")], "audio_out")
    assert pairs(file(tmp_path / "m.onnx", inputs, outputs, steps)) == {"h_in": "h_out"}


CUT = ("Slice", ["joined", "ints 1", "ints 9", "ints 2"])
CACHE = {"a": [1, N, 1], "b": [1, N, 3]}
LSTM = {"hidden_size": N}
FLAT = {"x": [1, 1, N], "a": [1, 1, N], "b": [1, 1, N]}

STRUCTURES: dict[str, tuple[dict[str, list[int]], list[str], Steps, dict[str, str]]] = {
    "a cache, cut": (CACHE, ["v", "u"], [("Concat", ["b", "a"], "joined", {"axis": 2}), (*CUT, "u"), ("Relu", ["a"], "v")], {"b": "u"}),
    "carried, whatever the names": (
        {"x": FLAT["x"], "h": FLAT["a"], "c": FLAT["b"]},
        ["q", "c_out", "h_out"],
        [("LSTM", ["x", "L0", "L1", "", "", "h", "c"], ["y4", "c_out", "h_out"], LSTM), ("Squeeze", ["y4", "ints 1"], "q")],
        {"h": "c_out", "c": "h_out"},
    ),
    "through a mask": (
        {**FLAT, "m": [1]},
        ["v", "u"],
        [
            ("Mul", ["a", "m"], "a2"),
            ("Mul", ["b", "m"], "b2"),
            ("LSTM", ["x", "L0", "L1", "", "", "a2", "b2"], ["", "u", "v"], LSTM),
        ],
        {"a": "u", "b": "v"},
    ),
    "an integrator": (
        {"x": [1, 3], "acc": [1, 1]},
        ["acc_new", "y"],
        [
            ("ReduceMean", ["x"], "m", {"axes": [1]}),
            ("Mul", ["acc", "half"], "f"),
            ("Add", ["f", "m"], "acc_new"),
            ("Add", ["x", "acc_new"], "y"),
        ],
        {"acc": "acc_new"},
    ),
    "packed": (
        {"x": [1, N], "p": [1, 2, N]},
        ["y", "q"],
        [
            ("Split", ["p"], ["p0", "p1"], {"axis": 1}),
            ("Squeeze", ["p0", "ints 1"], "h"),
            ("Squeeze", ["p1", "ints 1"], "g"),
            ("MatMul", ["h", "W"], "a"),
            ("Add", ["a", "x"], "h2"),
            ("Add", ["g", "h2"], "g2"),
            ("Unsqueeze", ["h2", "ints 1"], "n0"),
            ("Unsqueeze", ["g2", "ints 1"], "n1"),
            ("Concat", ["n0", "n1"], "q", {"axis": 1}),
            ("MatMul", ["g2", "WY"], "y"),
        ],
        {"p": "q"},
    ),
    "a line of delays": (
        {"x": ROW, "d1": ROW, "d2": ROW},
        ["y", "d1_out", "d2_out"],
        [("Add", ["x", "d2"], "y"), ("Identity", ["x"], "d1_out"), ("Identity", ["d1"], "d2_out")],
        {"d1": "d1_out", "d2": "d2_out"},
    ),
    "the output before it is scaled": (
        {"x": ROW, "h1": ROW, "h2": ROW},
        ["y", "h1_out", "h2_out"],
        [
            ("MatMul", ["h1", "W"], "a"),
            ("Add", ["a", "x"], "h1_out"),
            ("Mul", ["h2", "half"], "b"),
            ("Add", ["b", "h1_out"], "y"),
            ("Mul", ["y", "half"], "h2_out"),
        ],
        {"h1": "h1_out", "h2": "h2_out"},
    ),
    "cell and hidden written out, nameless": (
        {"x": [1, 3], "a": ROW, "b": ROW},
        ["u", "v", "y"],
        [
            ("ReduceMean", ["x"], "m", {"axes": [1]}),
            ("MatMul", ["a", "W0"], "g"),
            ("Add", ["g", "m"], "g2"),
            ("Tanh", ["g2"], "g3"),
            ("Mul", ["b", "half"], "f"),
            ("Add", ["f", "g3"], "v"),
            ("MatMul", ["a", "W1"], "o"),
            ("Sigmoid", ["o"], "o2"),
            ("Tanh", ["v"], "t"),
            ("Mul", ["o2", "t"], "u"),
            ("ReduceSum", ["u"], "y"),
        ],
        {"a": "u", "b": "v"},
    ),
    "a mask is no state": ({"x": ROW, "m": ROW}, ["y"], [("Mul", ["x", "m"], "y")], {}),
    "an autoencoder has none": ({"x": ROW}, ["y"], [("MatMul", ["x", "W0"], "z"), ("MatMul", ["z", "W1"], "y")], {}),
    "masked input beside a state": (
        {"noisy": [1, 3], "far": [1, 3], "h": ROW},
        ["clean", "hn"],
        [("ReduceMean", ["far"], "m", {"axes": [1]}), ("MatMul", ["h", "W"], "a"), ("Add", ["a", "m"], "s"), ("Tanh", ["s"], "hn"),
         ("ReduceMax", ["hn"], "k", {"axes": [1]}), ("Mul", ["noisy", "k"], "clean")],
        {"h": "hn"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure(name: str, tmp_path: Path) -> None:
    inputs, outputs, steps, wanted = STRUCTURES[name]
    assert pairs(file(tmp_path / "m.onnx", inputs, outputs, steps)) == wanted


def unclear(path: Path) -> Path:
    """Two states of which either could be either."""
    return file(
        path,
        {"x": [1, 3], "p": ROW, "q": ROW},
        ["y", "u", "v"],
        [("Add", ["x", "x"], "y"), ("Add", ["p", "q"], "u"), ("Sub", ["q", "p"], "v")],
    )


def test_all_or_none_and_what_to_type(tmp_path: Path) -> None:
    path = unclear(tmp_path / "m.onnx")
    with pytest.raises(LoadError, match="'p' float32.* could continue as 'u' or 'v'") as caught:
        tinyrnn.load(path)
    assert "--states 'p=u,q=v'" in str(caught.value)
    shown = CliRunner().invoke(main, ["inspect", str(path), "--states", "p=u,q=v"])
    assert shown.exit_code == 0 and "state" in shown.output
    refused = CliRunner().invoke(main, ["inspect", str(path)])
    assert refused.exit_code and "--states 'p=u,q=v'" in refused.output


def test_a_state_left_out_fails_the_check(tmp_path: Path) -> None:
    inputs, outputs, steps = plain("x", [("h_a", "h_a_out"), ("h_b", "h_b_out")])
    path = file(tmp_path / "m.onnx", inputs, outputs, steps)
    report = check(path, states={"h_a": "h_a_out"}, frames=4)
    assert not report.passed and "'h_b' looks like a state" in str(report) and "'h_b': 'h_b_out'" in str(report)
    assert check(path, frames=4).passed
    assert check(path, states={}, frames=4).passed


def test_a_state_of_another_shape_fails_the_check(tmp_path: Path) -> None:
    steps: Steps = [
        ("MatMul", ["h_in", "W"], "a"),
        ("Add", ["a", "x"], "h"),
        ("Unsqueeze", ["h", "ints 0"], "h_out"),
        ("ReduceSum", ["h"], "y"),
    ]
    report = check(file(tmp_path / "m.onnx", {"x": ROW, "h_in": ROW}, ["y", "h_out"], steps), frames=4)
    assert not report.passed and "of another shape" in str(report)
