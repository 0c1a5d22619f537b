"""`.npz`: containers give back the very same model; plain weights compute what PyTorch computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests import MODELS
from tinyrnn.check import within
from tinyrnn.compile.codegen import generate
from tinyrnn.compile.planner import make_plan
from tinyrnn.frontends.npz import read_npz, write_npz
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.loading.stages import read
from tinyrnn.passes import bound, prepare

Array = np.ndarray[Any, Any]
KINDS = [
    "lstm_l1_uni_sf_zero_dynT_b1_legacy",
    "gru_l2_bi_sf_states_dynT_b1_legacy",
    "rnn_l1_uni_bf_zero_dynT_b1_legacy",
    "cell_lstm_linear_dynB_legacy",
    "packed_state_lstm_step_legacy",
    "opset11_lm_lstm_scores_dynT_legacy",
    "classify_gru_last_dynT_legacy",
    "lstm_layernorm_lstm_dynT_legacy",
]


def recorded(name: str) -> dict[str, Array]:
    with np.load(MODELS / f"{name}.npz", allow_pickle=False) as data:
        return {key[3:]: data[key] for key in data if key.startswith("in:")}


def frames_of(model: tinyrnn.Model, count: int = 5) -> list[Array]:
    """Frames for every input of a stream, time first."""
    rng = np.random.default_rng(1)
    return [
        rng.standard_normal((count, *p.shape)[not p.per_frame :]).astype(p.dtype)
        if p.dtype.kind == "f"
        else rng.integers(0, 3, (count, *p.shape)[not p.per_frame :]).astype(p.dtype)
        for p in model.inputs
    ]


def as_tuple(result: Any) -> tuple[Array, ...]:
    return tuple(result) if isinstance(result, tuple) else (result,)


def same(a: Any, b: Any) -> bool:
    return len(as_tuple(a)) == len(as_tuple(b)) and all(
        within("exact", x, y) for x, y in zip(as_tuple(a), as_tuple(b), strict=True)
    )


# ---------------------------------------------------------------- containers


@pytest.mark.parametrize("name", KINDS)
def test_round_trip_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    first = tinyrnn.load(MODELS / f"{name}.onnx")
    tinyrnn.save(first, tmp_path / "m.npz")
    second = tinyrnn.load(tmp_path / "m.npz")
    assert str(second) == str(first)
    assert second.metadata == first.metadata
    assert same(second.run(recorded(name)), first.run(recorded(name)))
    try:
        a = first.stream()
    except tinyrnn.StreamError:
        with pytest.raises(tinyrnn.StreamError):
            second.stream()
        return
    b, frames = second.stream(), frames_of(first)
    assert same(b.run(*frames), a.run(*frames))
    assert within("exact", b.state, a.state)
    step = [f[0] if p.per_frame else f for p, f in zip(first.inputs, frames, strict=True)]
    assert same(b.step(*step), a.step(*step))


def test_every_model_of_the_folder_gives_the_same_plan(tmp_path: Path) -> None:
    paths = sorted(MODELS.glob("*.onnx"))
    compared = 0
    for path in paths:
        graph = bound(read(path)[0], None, None)
        try:
            program = prepare(graph)
        except tinyrnn.UnsupportedError:
            continue
        write_npz(tmp_path / "m.npz", graph, program.states)
        again, states = read_npz(tmp_path / "m.npz")
        assert (again.name, again.metadata, again.inputs, again.outputs, again.specs) == (
            graph.name,
            graph.metadata,
            graph.inputs,
            graph.outputs,
            graph.specs,
        ), path.name
        assert states == program.states, path.name
        a, b = make_plan(program, 16, 32), make_plan(prepare(bound(again, None, None), states), 16, 32)
        assert generate(a).text == generate(b).text, path.name
        assert a.weights.tobytes() == b.weights.tobytes(), path.name
        compared += 1
    assert compared > len(paths) * 0.9


def test_container_keeps_every_part_of_a_graph(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "f": np.array([[1, np.nan], [-0.0, np.inf]], np.float32),
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 2), np.float64),
        "truth": np.array([True, False]),
        "big": np.arange(6, dtype=">i4").reshape(2, 3),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "half": np.array([0.5], np.float16),
        "/a name/with spaces é": np.array([7], np.uint8),
    }
    attributes = {
        "one": 1,
        "real": 1.0,
        "tiny": 1e-45,
        "text": 'é\n"',
        "nan": float("nan"),
        "ints": [1, -2],
        "reals": [0.1, float("-inf")],
        "texts": ["Sigmoid", ""],
        "none": [],
        "array": np.array([[1.5]], np.float32),
    }
    nodes = [
        Node("Thing", "first", ("x", "", "f"), ("h", ""), attributes, 13, "some.domain"),
        Node("Add", "", ("h", "h"), ("y",), {}, 7),
    ]
    graph = Graph(
        "a name",
        ["x", "s"],
        ["y", "s"],
        {"x": Spec(np.dtype(np.float32), ("batch", "T", 5)), "s": Spec(np.dtype(np.bool_), ())},
        arrays,
        nodes,
        {"key": "välue", "": ""},
    )
    write_npz(tmp_path / "m.npz", graph, {"s": "s"})
    again, states = read_npz(tmp_path / "m.npz")
    assert states == {"s": "s"}
    assert str(again) == str(graph)
    assert (again.specs, again.metadata) == (graph.specs, graph.metadata)
    for name, array in arrays.items():
        found = again.constants[name]
        assert found.dtype == array.dtype.newbyteorder("=") and found.shape == array.shape and found.flags.c_contiguous
        assert found.tobytes() == np.asarray(array, array.dtype.newbyteorder("="), order="C").tobytes()
    for before, after in zip(nodes, again.nodes, strict=True):
        assert (before.version, before.domain, before.outputs) == (after.version, after.domain, after.outputs)
        for key, value in before.attributes.items():
            kept = after.attributes[key]
            assert type(kept) is type(value) and repr(kept) == repr(value)


def test_types_that_numpy_lacks_are_kept(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    constant = np.array([1.5, -2], ml_dtypes.bfloat16)
    graph = Graph("m", [], ["y"], {}, {"c": constant}, [Node("Cast", "n", ("c",), ("y",), {"to": 1}, 13)])
    write_npz(tmp_path / "m.npz", graph, {})
    found = read_npz(tmp_path / "m.npz")[0].constants["c"]
    assert found.dtype == constant.dtype and found.tobytes() == constant.tobytes()


def test_bound_inputs_and_chosen_states_stay(tmp_path: Path) -> None:
    model = tinyrnn.load(MODELS / "cell_lstm_legacy.onnx", states={})
    assert not model.states
    tinyrnn.save(model, tmp_path / "m.npz")
    assert tinyrnn.load(tmp_path / "m.npz").kind == model.kind
    assert not tinyrnn.load(tmp_path / "m.npz").states
    given = tinyrnn.load(tmp_path / "m.npz", states={"h": "hn", "c": "cn"})
    assert [p.name for p in given.states] == ["h", "c"]


def test_saving_is_deterministic_and_atomic(tmp_path: Path) -> None:
    model = tinyrnn.load(MODELS / f"{KINDS[0]}.onnx")
    tinyrnn.save(model, tmp_path / "a.npz")
    tinyrnn.save(tinyrnn.load(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    bad = Graph("m", [], ["y"], {}, {"c": np.array(["text"])}, [Node("Identity", "n", ("c",), ("y",))])
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(tinyrnn.UnsupportedError, match=r"'c' is .*numbers only"):
        write_npz(tmp_path / "a.npz", bad, {})
    with pytest.raises(OSError, match="nowhere"):
        tinyrnn.save(model, tmp_path / "nowhere" / "m.npz")
    with pytest.raises(tinyrnn.UnsupportedError, match=r"name it m\.npz"):
        tinyrnn.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "a.npz").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_numpy_reads_a_container(tmp_path: Path) -> None:
    tinyrnn.save(tinyrnn.load(MODELS / f"{KINDS[0]}.onnx"), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as data:
        document = json.loads(str(data["tinyrnn"]))
        assert (document["format"], document["version"]) == ("graph", 1)
        assert all(data[key].dtype.kind in "fi" for key in document["constants"].values())


HIDE_ONNX = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnx", "onnxruntime", "torch"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)
sys.meta_path.insert(0, Hide())
import numpy as np, tinyrnn
model = tinyrnn.load(sys.argv[1])
np.save(sys.argv[2], model.run(np.load(sys.argv[3])))
"""


def test_a_container_loads_without_onnx(tmp_path: Path) -> None:
    model = tinyrnn.load(MODELS / f"{KINDS[0]}.onnx")
    tinyrnn.save(model, tmp_path / "m.npz")
    x = recorded(KINDS[0])["x"]
    np.save(tmp_path / "x.npy", x)
    root = str(Path(tinyrnn.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", HIDE_ONNX, "m.npz", "y.npy", "x.npy"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert within("exact", np.load(tmp_path / "y.npy"), model.run(x))


def test_members_carry_no_clock(tmp_path: Path) -> None:
    tinyrnn.save(tinyrnn.load(MODELS / f"{KINDS[0]}.onnx"), tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
