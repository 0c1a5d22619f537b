"""What a load may cost: small files that ask for much are refused before it is spent, in a process of bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.driving import agree, in_onnxruntime, whole
from tests.hostile import onnx_file, onnx_model, refusal
from tinyrnn.check.tolerances import within
from tinyrnn.compile import codegen
from tinyrnn.graph import limits

Node = onnx.NodeProto
MEMORY = 2 << 30
"""bytes that a load may take"""
SECONDS = 10
"""of processor time: the machine may have other things to do"""

LOAD = """
import resource, sys, time, warnings
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
warnings.simplefilter("ignore")
import tinyrnn
from tinyrnn.loading import stages as compiler
from tinyrnn.errors import TargetError
def refuse(source): raise TargetError("not compiled in this test")
compiler.compile_source = refuse
start = time.process_time()
try:
    tinyrnn.load(sys.argv[2])
except tinyrnn.TinyRNNError as error:
    print(f"{type(error).__name__}: {error}")
assert time.process_time() - start < float(sys.argv[3])
"""


def load_apart(path: Path) -> str:
    """What loading says, in a process that may have no more than the memory and the time."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD, str(MEMORY), str(path), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> Node:
    return helper.make_node(op, inputs, outputs, f"the {op} {outputs[0]}", **attributes)


def filled(count: int, *shape: int) -> tuple[list[Node], list[TensorProto]]:
    """Constants c0, c1, … that a file of a few bytes asks for."""
    return [node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(count)], [ints("s", *shape)]


def many_constants(path: Path) -> Path:
    nodes, constants = filled(50, 1 << 24)
    nodes += [node("Sum", [f"c{i}" for i in range(50)], ["t"]), node("ReduceSum", ["t"], ["u"], keepdims=0)]
    return onnx_file(path, [*nodes, node("Add", ["x", "u"], ["y"])], constants=constants)


def one_constant(path: Path) -> Path:
    nodes, constants = filled(1, 1 << 26)
    return onnx_file(
        path, [*nodes, node("ReduceSum", ["c0"], ["u"], keepdims=0), node("Add", ["x", "u"], ["y"])], constants=constants
    )


def growing_chain(path: Path) -> Path:
    """A constant that doubles."""
    nodes, constants = filled(1, 4)
    nodes += [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(40)]
    return onnx_file(path, [*nodes, node("ReduceMax", ["c40"], ["u"]), node("Add", ["x", "u"], ["y"])], constants=constants)


def _loop(path: Path, body: list[Node], turns: int, stacks: bool) -> Path:
    outputs = ["again", "after", *(["piece"] if stacks else [])]
    graph = helper.make_graph(
        [node("Identity", ["go"], ["again"]), *body],
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("go", 9, []), ("before", 1, None))],
        [helper.make_tensor_value_info(n, 9 if n == "again" else 1, None) for n in outputs],
    )
    nodes, constants = filled(1, 1 << 10)
    nodes += [node("Loop", ["m", "", "c0"], ["last", *(["all"] if stacks else [])], body=graph)]
    nodes += [node("ReduceMax", ["all" if stacks else "last"], ["u"], keepdims=0), node("Add", ["x", "u"], ["y"])]
    return onnx_file(path, nodes, constants=[*constants, ints("m", turns), ints("wide", 1, 1 << 14)])


def growing_loop(path: Path) -> Path:
    return _loop(path, [node("Concat", ["before", "before"], ["after"], axis=0)], 4000, False)


def stacking_loop(path: Path) -> Path:
    body = [node("Identity", ["before"], ["after"]), node("Tile", ["before", "k"], ["piece"]), node("Identity", ["wide"], ["k2"])]
    body[1].input[1] = "k"
    body[2].CopyFrom(node("Slice", ["wide", "one", "two"], ["k"]))
    made = _loop(path, body, 4000, True)
    model = onnx.load(made)
    model.graph.initializer.extend([ints("one", 1), ints("two", 2)])
    made.write_bytes(model.SerializeToString())
    return made


def wide_einsum(path: Path) -> Path:
    nodes, constants = filled(1, 64, 64)
    nodes += [node("Einsum", ["c0"] * 4, ["e"], equation="ab,cd,ef,gh->"), node("Add", ["x", "e"], ["y"])]
    return onnx_file(path, nodes, constants=constants)


def large_products(path: Path) -> Path:
    nodes, constants = filled(1, 4000, 4000)
    nodes += [node("MatMul", [f"c{i}", "c0"], [f"c{i + 1}"]) for i in range(20)]
    return onnx_file(path, [*nodes, node("ReduceMax", ["c20"], ["u"]), node("Add", ["x", "u"], ["y"])], constants=constants)


def many_pieces(path: Path) -> Path:
    names = [f"o{i}" for i in range(2000)]
    nodes = [node("Split", ["x"], names, axis=0, num_outputs=2000), node("Sum", names, ["y"])]
    return onnx_file(path, nodes, opset=18, shape=(2000, 2), constants=[])


def many_kernels(path: Path) -> Path:
    nodes = [node(("Relu", "Softmax")[i % 2], [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(9000)]
    return onnx_file(path, [*nodes, node("Neg", ["v9000"], ["y"])], constants=[])


def wide_transform(path: Path) -> Path:
    """A Fourier transform as a matrix of its size squared."""
    nodes = [node("DFT", ["x"], ["y"], axis=1)]
    return onnx_file(path, nodes, opset=17, shape=(1, 1 << 17, 1), constants=[])


def huge_values(path: Path) -> Path:
    shape = (1, 1 << 10, 1 << 20)
    return onnx_file(path, [node("Softmax", ["x"], ["a"]), node("MatMul", ["a", "w"], ["y"])], shape=shape, constants=[
        numpy_helper.from_array(np.ones((1, 1), np.float32), "w")])  # fmt: skip


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "many constants": (many_constants, "its computed constants take over"),
    "one constant": (one_constant, "'the ConstantOfShape c0' (ConstantOfShape): the constant that it makes"),
    "growing chain": (growing_chain, "absurdly many"),
    "growing loop": (growing_loop, ""),
    "stacking loop": (stacking_loop, ""),
    "wide einsum": (wide_einsum, "'the Einsum e' (Einsum): computing it would take"),
    "large products": (large_products, ""),
    "many pieces": (many_pieces, "kernel calls would be compiled"),
    "many kernels": (many_kernels, ""),
    "wide transform": (wide_transform, ""),
    "huge values": (huge_values, ""),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a process's memory")
@pytest.mark.parametrize("case", CASES)
def test_small_files_that_ask_for_much(case: str, tmp_path: Path) -> None:
    make, part = CASES[case]
    path = make(tmp_path / "m.onnx")
    assert path.stat().st_size < 1 << 20
    said = load_apart(path)
    assert part in said


def test_the_time_is_bounded_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = many_kernels(tmp_path / "m.onnx")
    monkeypatch.setenv(limits.SECONDS_VARIABLE, "0.05")
    text = refusal(path)
    assert "not loaded within 0 s" in text and "TINYRNN_LOAD_SECONDS" in text


def test_limits_grow_with_what_the_file_holds(tmp_path: Path) -> None:
    """12 MB of weights may be computed with as much as they are, many times over."""
    weights = np.random.default_rng(1).standard_normal((1 << 11, 1 << 10)).astype(np.float32)
    nodes = [node("Transpose", [f"w{i}"], [f"w{i + 1}"], perm=[1, 0]) for i in range(40)]
    nodes += [node("MatMul", ["x", "w40"], ["y"])]
    path = onnx_file(tmp_path / "m.onnx", nodes, shape=(1, 1 << 11), constants=[numpy_helper.from_array(weights, "w0")])
    x = np.full((1, 1 << 11), 2.0**-11, np.float32)
    assert within("close", tinyrnn.load(path).run(x), x.astype(np.float64) @ weights)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("count", [1, 2, 8, 9, 15, 16, 40])
def test_operands_without_number(op: str, count: int, tmp_path: Path) -> None:
    """However many they are, the bits are those of one after the other."""
    constants = [numpy_helper.from_array(np.random.default_rng(i).standard_normal((3, 5)).astype(np.float32), f"c{i}") for i in range(1, count)]  # fmt: skip
    nodes = [node(op, ["x", *(c.name for c in constants)], ["y"])]
    model = tinyrnn.load(onnx_model(nodes, shape=("T", 3, 5), constants=constants))
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    function = {"Max": np.maximum, "Min": np.minimum}.get(op, np.add)
    wanted = x
    for c in constants:
        wanted = function(wanted, numpy_helper.to_array(c))
    assert np.array_equal(model.run(x), wanted / np.float32(count) if op == "Mean" else wanted)


UNSOUND_BODIES = {
    "a branch that is no graph": [helper.make_node("If", ["x"], ["y"], "the If", then_branch=3, else_branch=4)],
    "a body that is no graph": [helper.make_node("Loop", ["", "", "x"], ["y"], "the Loop", body=[1, 2])],
    "Einsum of subscripts that do not fit": [helper.make_node("Einsum", ["x"], ["y"], "the Einsum", equation="ij,jk->")],
    "Einsum of no subscripts": [helper.make_node("Einsum", ["x"], ["y"], "the Einsum", equation="...->.....")],
}


@pytest.mark.parametrize("case", UNSOUND_BODIES)
def test_nodes_that_lack_what_they_need(case: str, tmp_path: Path) -> None:
    text = refusal(onnx_file(tmp_path / "m.onnx", UNSOUND_BODIES[case]), tinyrnn.TinyRNNError)
    assert "'the " in text


def test_bodies_that_lack_outputs(tmp_path: Path) -> None:
    body = helper.make_graph([node("Identity", ["go"], ["again"])], "body", [], [helper.make_tensor_value_info("again", 9, [])])
    for name in ("i", "go", "before"):
        body.input.append(helper.make_tensor_value_info(name, 1, None))
    for attributes in ({"body": body}, {"body": body, "num_scan_inputs": 1}):
        op = "Scan" if len(attributes) > 1 else "Loop"
        path = onnx_file(
            tmp_path / "m.onnx",
            [helper.make_node(op, ["", "", "x"][-len(attributes) - 1 :], ["y", "z"], f"the {op}", **attributes)],
        )
        assert f"'the {op}'" in refusal(path, tinyrnn.TinyRNNError)


# ---------------------------------------------------------------- what stays quick to compile


def many_moves(count: int) -> list[Node]:
    """A piece for each pair of columns, each its own way, joined in reverse."""
    names = [f"o{i}" for i in range(count)]
    nodes = [node("Split", ["x"], names, axis=1, num_outputs=count)]
    return [*nodes, node("Concat", names[::-1], ["y"], axis=1)]


def test_many_pieces_compile_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of many calls is compiled in parts: time grows as their number."""
    monkeypatch.setenv("TINYRNN_CACHE", "")
    count = 100
    path = onnx_file(tmp_path / "m.onnx", many_moves(count), opset=18, shape=("T", 2 * count), constants=[])
    tinyrnn.load(onnx_model(many_moves(2), opset=18, shape=("T", 4), constants=[]))  # what a process compiles once
    start = time.process_time()
    model = tinyrnn.load(path)
    assert time.process_time() - start < 0.04 * 2 * count
    x = np.arange(6.0 * count, dtype=np.float32).reshape(3, 2 * count)
    assert np.array_equal(model.run(x), x.reshape(3, count, 2)[:, ::-1].reshape(3, -1))


def test_parts_of_a_page_do_what_the_page_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With clocks, loops and states among the calls, in parts of one call, of a few, and in one."""
    rng = np.random.default_rng(5)
    made = [("down", (4, 3, 4)), ("W", (1, 8, 4)), ("R", (1, 8, 2))]
    constants = [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in made]
    nodes = [
        node("Conv", ["x", "down"], ["c"], strides=[2]),
        node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        node("LSTM", ["t", "W", "R"], ["h"], hidden_size=2),
        node("Squeeze", ["h", "axes"], ["s"]),
        node("Softmax", ["s"], ["p"]),
        node("Relu", ["s"], ["q"]),
        node("Tanh", ["p"], ["r"]),
        node("Concat", ["p", "q", "r"], ["y"], axis=1),
    ]
    model = onnx_model(nodes, shape=(1, 3, "T"), constants=[*constants, ints("axes", 1, 2)])
    x = rng.standard_normal((1, 3, 50)).astype(np.float32)
    made_by = []
    for most in (1, 3, 1000):
        monkeypatch.setattr(codegen, "LONGEST_PART", most)
        loaded = tinyrnn.load(model)
        assert (codegen.PART in loaded._source.source.text) == (most < 1000)
        made_by.append(loaded.run(x))
    assert np.array_equal(made_by[0], made_by[2]) and np.array_equal(made_by[1], made_by[2])


# ---------------------------------------------------------------- attributes and inputs that are not there

NOT_THERE: dict[str, tuple[Node, str]] = {
    "axis beyond": (node("Softmax", ["x"], ["y"], axis=3), "axis=[3] is beyond 3 axes; supported are -3 to 2"),
    "axis below": (node("Concat", ["x", "x"], ["y"], axis=-4), "axis=[-4] is beyond 3 axes"),
    "axis of pieces": (node("Split", ["x"], ["y"], axis=5), "axis=[5] is beyond"),
    "axes beyond": (node("ReduceMax", ["x"], ["y"], axes=[1, 3]), "axes=[1, 3] is beyond 3 axes"),
    "new axes beyond": (node("Unsqueeze", ["x", "beyond"], ["y"]), "axes=[5] is beyond 4 axes"),
    "operand left out": (node("Max", ["", "x"], ["y"]), "Max with 2 inputs, one of them left out"),
    "input left out": (node("MatMul", ["x", ""], ["y"]), "one of them left out"),
    "bias that does not fit": (node("Gemm", ["w", "w", "three"], ["y"]), "'the Gemm y'"),
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_what_is_not_there_is_refused(case: str, tmp_path: Path) -> None:
    one, part = NOT_THERE[case]
    constants = [ints("beyond", 5), numpy_helper.from_array(np.ones(3, np.float32), "three")]
    square = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    path = onnx_file(tmp_path / "m.onnx", [one], shape=("T", 1, 3), constants=[*constants, square])
    assert part in refusal(path, tinyrnn.UnsupportedError)


def test_axes_at_their_ends(tmp_path: Path) -> None:
    """The last axis that there may be, by either sign; keepdims is 1 or nothing, as onnxruntime has it."""
    x = np.random.default_rng(0).standard_normal((4, 1, 3)).astype(np.float32)
    for one, wanted in (
        (node("Unsqueeze", ["x", "last"], ["y"]), x[..., None]),
        (node("Flatten", ["x"], ["y"], axis=3), x.reshape(-1, 1)),
        (node("ReduceMax", ["x"], ["y"], axes=[-1], keepdims=16), x.max(-1)),
        (node("ReduceMax", ["x"], ["y"], axes=[2], keepdims=1), x.max(-1, keepdims=True)),
    ):
        model = tinyrnn.load(onnx_model([one], shape=(4, 1, 3), constants=[ints("last", 3)]))
        assert np.array_equal(model.run(x), wanted), one.op_type


@pytest.mark.parametrize("options", [{"states": 5}, {"states": {1: 2}}, {"states": {"x": None}}, {"states": ["x"]}, {"outputs": 5}, {"time": 2.5}, {"time": None, "bind": {5: 3}}], ids=str)  # fmt: skip
def test_options_of_another_kind(options: dict[str, object], tmp_path: Path) -> None:
    text = refusal(onnx_file(tmp_path / "m.onnx"), **options)
    assert "not sound" not in text and str(next(key for key in options if options[key] is not None)) in text


def test_sequences_known_at_load_with_a_batch() -> None:
    """A model of constants alone, and one whose input meets them: each entry of the batch has its own."""
    rng = np.random.default_rng(3)
    made = [("k", (6, 2, 3)), ("W", (1, 8, 3)), ("R", (1, 8, 2)), ("start", (1, 2, 2))]
    constants = [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in made]
    layer = node("LSTM", ["k", "W", "R", "", "", "start"], ["h"], hidden_size=2)
    alone = onnx_model([layer, node("Identity", ["h"], ["y"])], constants=constants)
    del alone.graph.input[:]
    met = onnx_model([layer, node("Add", ["h", "x"], ["y"])], constants=constants, shape=(6, 1, 2, 2))
    for model, given in ((alone, {}), (met, {"x": rng.standard_normal((6, 1, 2, 2)).astype(np.float32)})):
        agree("close", whole(tinyrnn.load(model), given), in_onnxruntime(model, given))
