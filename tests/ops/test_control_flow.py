"""If, Loop and Scan: against onnxruntime and float64, known at load, on data, over a frame's axis, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import MODELS
from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tinyrnn.errors import LoadError, ShapeError, StreamError, UnsupportedError
from tinyrnn.runtime import Model
from tinyrnn.targets.reference import Reference

N = helper.make_node


def F(name: str, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def I(name: str, shape: Sequence[int] = ()) -> onnx.ValueInfoProto:  # noqa: E743
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def B(name: str, shape: Sequence[int] = ()) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, shape)


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: Any) -> onnx.GraphProto:
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_graph(nodes, "graph", inputs, outputs, stored)


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 17, **constants: Any) -> onnx.ModelProto:
    made = graph(nodes, inputs, outputs, **constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def floats(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) / 2).astype(np.float32)


def right(proto: onnx.ModelProto, inputs: dict[str, Array], folder: Path, **options: Any) -> tuple[Model, dict[str, Array]]:
    """The model and its outputs, which are onnxruntime's and the reference's, and come again from a saved container."""
    made = loaded(proto, folder, **options)
    found = whole(made, inputs)
    agree("close", found, in_onnxruntime(proto, inputs), "against onnxruntime:")
    agree("close", found, Reference(made._source.graph).run(inputs), "against float64:")
    tinyrnn.save(made, folder / "saved.npz")
    agree("exact", whole(tinyrnn.load(folder / "saved.npz"), inputs), found, "saved and loaded:")
    return made, found


def refused(proto: onnx.ModelProto, folder: Path, **options: Any) -> str:
    with pytest.raises(UnsupportedError) as caught:
        loaded(proto, folder, **options)
    return str(caught.value)


# ---------------------------------------------------------------- If


def either(condition: str = "c") -> list[onnx.NodeProto]:
    """tanh(x W) or 2 x; the branches have names in common."""
    then_branch = graph([N("MatMul", ["x", "W"], ["m"]), N("Tanh", ["m"], ["t"])], [], [F("t")])
    else_branch = graph([N("Mul", ["x", "m"], ["t"])], [], [F("t")], m=np.float32(2))
    return [N("If", [condition], ["y0"], "either", then_branch=then_branch, else_branch=else_branch), N("Relu", ["y0"], ["y"])]


def test_if_on_an_input(tmp_path: Path) -> None:
    proto = model(either(), [F("x", [1, 5]), B("c")], [F("y", [1, 5])], W=floats(5, 5))
    for c in (True, False):
        made, _ = right(proto, {"x": floats(1, 5, seed=c), "c": np.array(c)}, tmp_path)
    stream, xs, cs = made.stream(), floats(9, 5, seed=3), np.arange(9) % 3 == 0
    np.testing.assert_array_equal(stream.run(xs, cs), [stream.step(x, c) for x, c in zip(xs, cs, strict=True)])


def test_if_on_what_a_frame_holds(tmp_path: Path) -> None:
    nodes = [N("ReduceSum", ["x"], ["s"], keepdims=0), N("Greater", ["s", "zero"], ["c"]), *either()]
    proto = model(nodes, [F("x", [1, 5])], [F("y", [1, 5])], W=floats(5, 5), zero=np.float32(0))
    for sign in (-1, 1):
        right(proto, {"x": np.abs(floats(1, 5)) * np.float32(sign)}, tmp_path)


def test_if_known_at_load_is_its_branch(tmp_path: Path) -> None:
    dead = graph([N("Unheard", ["z"], ["t"], domain="of.nobody")], [], [F("t")])
    alive = graph([N("Squeeze", ["x", "axis"], ["t"])], [], [F("t")], axis=np.array([1]))
    nodes = [N("Shape", ["x"], ["s"]), N("Gather", ["s", "one"], ["n"]), N("Equal", ["n", "one"], ["c"])]
    nodes += [N("Unheard", ["x"], ["z"], domain="of.nobody")]
    nodes += [N("If", ["c"], ["y0"], "either", then_branch=alive, else_branch=dead), N("Tanh", ["y0"], ["y"])]
    proto = model(nodes, [F("x", ["N", 1, 4])], [F("y")], one=np.int64(1))
    proto.opset_import.append(helper.make_opsetid("of.nobody", 1))
    made = loaded(proto, tmp_path)
    x = floats(3, 1, 4)
    np.testing.assert_allclose(made.run(x), np.tanh(x[:, 0]), rtol=1e-6)
    assert not [n for n in made._source.graph.nodes if n.op == "If"]


def test_a_bound_input_decides(tmp_path: Path) -> None:
    nodes = [N("Equal", ["rate", "fast"], ["c"]), *either()]
    proto = model(nodes, [F("x", [1, 5]), I("rate")], [F("y", [1, 5])], W=floats(5, 5), fast=np.int64(16000))
    x = floats(1, 5)
    np.testing.assert_allclose(loaded(proto, tmp_path, bind={"rate": 8000}).run(x), np.maximum(2 * x, 0), rtol=1e-6)
    agree("close", {"y": loaded(proto, tmp_path).run(x, np.array(8000))}, {"y": np.maximum(2 * x, 0)})


def test_what_a_branch_lacks_is_said_with_the_way_to_it(tmp_path: Path) -> None:
    deep = graph([N("Unheard", ["x"], ["u"], "deep", domain="of.nobody")], [], [F("u")])
    rest = graph([N("Neg", ["x"], ["u"])], [], [F("u")])
    inner = graph([N("If", ["c"], ["v"], "inner", then_branch=deep, else_branch=rest)], [], [F("v")])
    flat = graph([N("Relu", ["x"], ["w"])], [], [F("w")])
    proto = model([N("If", ["c"], ["y"], "outer", then_branch=inner, else_branch=flat)], [F("x", [1, 5]), B("c")], [F("y")])
    proto.opset_import.append(helper.make_opsetid("of.nobody", 1))
    assert "operator of.nobody.Unheard: node 'deep' in then_branch of 'inner' in then_branch of 'outer'" in refused(
        proto, tmp_path
    )


def test_branches_of_other_shapes(tmp_path: Path) -> None:
    a = graph([N("Relu", ["x"], ["r"])], [], [F("r")])
    b = graph([N("Concat", ["x", "x"], ["r"], axis=1)], [], [F("r")])
    proto = model([N("If", ["c"], ["y"], "either", then_branch=a, else_branch=b)], [F("x", [1, 5]), B("c")], [F("y")])
    assert "its branches make float32[1, 5] and float32[1, 10]" in refused(proto, tmp_path)


def test_a_recurrent_layer_in_a_branch(tmp_path: Path) -> None:
    H = 3
    walk = graph(
        [N("GRU", ["x", "W", "R", "", "", "h"], ["", "t"], hidden_size=H)], [], [F("t")], W=floats(1, 9, 4), R=floats(1, 9, 3)
    )
    rest = graph([N("Identity", ["h"], ["t"])], [], [F("t")])
    nodes = [N("If", ["on"], ["h_out"], "gate", then_branch=walk, else_branch=rest), N("Tanh", ["h_out"], ["y"])]
    proto = model(nodes, [F("x", [1, 1, 4]), B("on"), F("h", [1, 1, H])], [F("y", [1, 1, H]), F("h_out", [1, 1, H])])
    for on in (True, False):
        inputs = {"x": floats(1, 1, 4, seed=1), "on": np.array(on), "h": floats(1, 1, H, seed=2)}
        made, _ = right(proto, inputs, tmp_path)
    stream, h = made.stream(), np.zeros((1, 1, H), np.float32)
    for t, on in enumerate([True, False, True, True]):
        x = floats(1, 1, 4, seed=t)
        expected = in_onnxruntime(proto, {"x": x, "on": np.array(on), "h": h})
        agree("close", {"y": stream.step(x, np.array(on)).reshape(1, 1, H)}, {"y": expected["y"]})
        h = expected["h_out"]


# ---------------------------------------------------------------- Loop


def turns(stacked: bool = True) -> onnx.GraphProto:
    nodes = [N("MatMul", ["s", "W"], ["m"]), N("Add", ["m", "x"], ["a"]), N("Tanh", ["a"], ["s2"]), N("Mul", ["s2", "s2"], ["q"])]
    outputs = [B("c2"), F("s2"), *([F("q")] if stacked else [])]
    return graph([*nodes, N("Identity", ["c"], ["c2"])], [I("i"), B("c"), F("s")], outputs)


def test_a_loop_of_known_length(tmp_path: Path) -> None:
    loop = N("Loop", ["M", "", "x"], ["y", "ys"], "loop", body=turns())
    for M in (1, 4):
        proto = model([loop], [F("x", [1, 5])], [F("y", [1, 5]), F("ys")], W=floats(5, 5), M=np.int64(M))
        _, found = right(proto, {"x": floats(1, 5, seed=1)}, tmp_path)
        assert found["ys"].shape == (M, 1, 5)


def test_a_loop_as_long_as_an_input_says(tmp_path: Path) -> None:
    loop = N("Loop", ["M", "", "x"], ["y"], "loop", body=turns(False))
    proto = model([loop], [F("x", [1, 5]), I("M")], [F("y", [1, 5])], W=floats(5, 5))
    for M in (0, 1, 7, -3):
        made, _ = right(proto, {"x": floats(1, 5, seed=1), "M": np.array(M)}, tmp_path)
    with pytest.raises(ShapeError, match="'M'"):
        made.run(floats(1, 5), np.array(1 << 40))


def test_a_loop_until_data_ends_it(tmp_path: Path) -> None:
    nodes = [N("Mul", ["s", "k"], ["s2"]), N("ReduceSum", ["s2"], ["r"], keepdims=0), N("Less", ["r", "most"], ["c2"])]
    body = graph(nodes, [I("i"), B("c"), F("s")], [B("c2"), F("s2")], k=np.float32(1.5), most=np.float32(100))
    for limit, name in ((None, ""), (np.int64(3), "M")):
        constants = {} if limit is None else {"M": limit}
        loop = N("Loop", [name, "go", "x"], ["y"], "loop", body=body)
        proto = model([loop], [F("x", [1, 5])], [F("y", [1, 5])], go=np.array(True), **constants)
        for seed in range(3):
            right(proto, {"x": np.abs(floats(1, 5, seed=seed)) + 1}, tmp_path)


def test_a_swap_and_the_number_of_the_turn(tmp_path: Path) -> None:
    nodes = [
        N("Cast", ["i"], ["f"], to=1),
        N("Add", ["a", "f"], ["a2"]),
        N("Identity", ["c"], ["c2"]),
        N("Add", ["n", "n1"], ["n2"]),
    ]
    inputs = [I("i"), B("c"), F("a"), F("b"), I("n")]
    body = graph(nodes, inputs, [B("c2"), F("b"), F("a2"), I("n2"), F("a")], n1=np.int64(3))
    loop = N("Loop", ["M", "", "x", "z", "n0"], ["p", "q", "count", "all"], "loop", body=body)
    outputs = [N("Cast", ["count"], ["counted"], to=1), N("Add", ["p", "counted"], ["y"])]
    proto = model([loop, *outputs], [F("x", [1, 5]), F("z", [1, 5])], [F("y"), F("q"), F("all")], M=np.int64(5), n0=np.int64(2))
    right(proto, {"x": floats(1, 5, seed=1), "z": floats(1, 5, seed=2)}, tmp_path, states={})


def test_loops_within_loops_and_ifs(tmp_path: Path) -> None:
    inner = graph(
        [N("Mul", ["u", "half"], ["v"]), N("Add", ["v", "s"], ["u2"]), N("Identity", ["d"], ["d2"])],
        [I("j"), B("d"), F("u")],
        [B("d2"), F("u2")],
        half=np.float32(0.5),
    )
    pick = graph([N("Tanh", ["w"], ["r"])], [], [F("r")])
    keep = graph([N("Neg", ["w"], ["r"])], [], [F("r")])
    nodes = [
        N("Loop", ["three", "", "x"], ["w"], "inner", body=inner),
        N("ReduceSum", ["w"], ["total"], keepdims=0),
        N("Less", ["total", "zero"], ["low"]),
        N("If", ["low"], ["s2"], "either", then_branch=pick, else_branch=keep),
        N("Identity", ["c"], ["c2"]),
    ]
    body = graph(nodes, [I("i"), B("c"), F("s")], [B("c2"), F("s2"), F("w")], three=np.int64(3), zero=np.float32(0))
    proto = model(
        [N("Loop", ["M", "", "x"], ["y", "ys"], "outer", body=body)], [F("x", [1, 4])], [F("y"), F("ys")], M=np.int64(6)
    )
    for seed in range(3):
        right(proto, {"x": floats(1, 4, seed=seed)}, tmp_path, states={})


@pytest.mark.parametrize("what", ["forever", "from data", "stacked", "grows"])
def test_loops_that_are_refused(what: str, tmp_path: Path) -> None:
    inputs = [F("x", [1, 5]), I("M")]
    texts = {
        "forever": "a Loop without bound: neither a trip count",
        "from data": "a Loop without bound: its trip count 'n' follows from data",
        "stacked": "Fix the trip count: bind={'M': 16}",
        "grows": "supported are values that keep their type and shape",
    }
    nodes = []
    loop = N("Loop", ["", "", "x"], ["y"], "loop", body=turns(False))
    if what == "from data":
        nodes = [N("ReduceSum", ["x"], ["r"], keepdims=0), N("Cast", ["r"], ["n"], to=7)]
        loop.input[0] = "n"
    elif what == "stacked":
        loop = N("Loop", ["M", "", "x"], ["last", "y"], "loop", body=turns())
    elif what == "grows":
        body = graph(
            [N("Concat", ["s", "s"], ["t"], axis=1), N("Identity", ["c"], ["d"])], [I("i"), B("c"), F("s")], [B("d"), F("t")]
        )
        loop = N("Loop", ["M", "", "x"], ["y"], "loop", body=body)
    proto = model([*nodes, loop], inputs, [F("y")], W=floats(5, 5))
    assert texts[what] in refused(proto, tmp_path)


# ---------------------------------------------------------------- over time


def keras_like() -> onnx.ModelProto:
    """A recurrent layer as a Loop with a counter of its own, the steps picked and stacked; x [N, T, 4]."""
    nodes = [
        N("Gather", ["xt", "n"], ["now"], axis=0),
        N("MatMul", ["now", "Wx"], ["p"]),
        N("Add", ["p", "bias"], ["p2"]),
        N("MatMul", ["s", "Wh"], ["q"]),
        N("Add", ["p2", "q"], ["a"]),
        N("Tanh", ["a"], ["s2"]),
        N("MatMul", ["s2", "Wo"], ["o"]),
        N("Add", ["n", "one"], ["n2"]),
        N("Less", ["n2", "length"], ["c2"]),
    ]
    body = graph(nodes, [I("i"), B("c"), I("n"), F("s")], [B("c2"), I("n2"), F("s2"), F("o")])
    outside = [
        N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        N("Shape", ["xt"], ["shape"]),
        N("Gather", ["shape", "zero"], ["length"]),
        N("Gather", ["shape", "ones"], ["batch"]),
        N("Concat", ["batch", "H"], ["first"], axis=0),
        N("ConstantOfShape", ["first"], ["h0"]),
        N("Less", ["zero", "length"], ["go"]),
        N("Loop", ["", "go", "zero", "h0"], ["steps", "h", "ys"], "loop", body=body),
        N("Transpose", ["ys"], ["y"], perm=[1, 0, 2]),
    ]
    weights = {"Wx": floats(4, 7), "Wh": floats(7, 7), "Wo": floats(7, 3), "bias": floats(7)}
    numbers = {"zero": np.int64(0), "one": np.int64(1), "ones": np.array([1]), "H": np.array([7])}
    return model(outside, [F("x", ["N", "T", 4])], [F("y"), F("h")], **weights, **numbers)


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 9), (3, 5)])
def test_a_loop_over_time_streams(batch: int, frames: int, tmp_path: Path) -> None:
    inputs = {"x": floats(batch, frames, 4, seed=frames)}
    made, found = right(keras_like(), inputs, tmp_path)
    agree_in_chunks(made, inputs, found, batch)
    assert [port.name for port in made.states] == ["loop.s"]


def scan(direction: int = 0) -> onnx.ModelProto:
    """A light GRU; x [T, N, 4], h0 [N, 6]."""
    nodes = [
        N("MatMul", ["now", "W"], ["p"]),
        N("MatMul", ["s", "R"], ["q"]),
        N("Add", ["p", "q"], ["a"]),
        N("Sigmoid", ["a"], ["z"]),
        N("Mul", ["z", "s"], ["zs"]),
        N("Sub", ["one", "z"], ["rest"]),
        N("Tanh", ["p"], ["n"]),
        N("Mul", ["rest", "n"], ["zn"]),
        N("Add", ["zs", "zn"], ["s2"]),
        N("Relu", ["s2"], ["o"]),
    ]
    body = graph(nodes, [F("s"), F("now")], [F("s2"), F("o")])
    directions = {"scan_input_directions": [direction], "scan_output_directions": [direction]}
    made = N("Scan", ["h0", "x"], ["hn", "y"], "scan", body=body, num_scan_inputs=1, **directions)
    constants = {"W": floats(4, 6), "R": floats(6, 6), "one": np.float32(1)}
    return model([made], [F("x", ["T", "N", 4]), F("h0", ["N", 6])], [F("y"), F("hn")], **constants)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_scan_over_time(direction: int, tmp_path: Path) -> None:
    proto = scan(direction)
    for batch, frames in ((1, 1), (1, 9), (3, 5)):
        inputs = {"x": floats(frames, batch, 4), "h0": floats(batch, 6, seed=2)}
        made, found = right(proto, inputs, tmp_path)
        if direction == 0:
            agree_in_chunks(made, inputs, found, batch)
    if direction:
        with pytest.raises(StreamError, match="from its end"):
            made.stream()


def test_the_number_of_the_step_is_carried_on(tmp_path: Path) -> None:
    nodes = [
        N("Gather", ["x", "i"], ["now"]),
        N("Cast", ["i"], ["f"], to=1),
        N("Mul", ["now", "f"], ["p"]),
        N("Add", ["s", "p"], ["s2"]),
    ]
    body = graph([*nodes, N("Identity", ["c"], ["c2"])], [I("i"), B("c"), F("s")], [B("c2"), F("s2"), F("p")])
    outside = [N("Shape", ["x"], ["shape"], end=1), N("Squeeze", ["shape"], ["T"])]
    loop = N("Loop", ["T", "", "start"], ["total", "y"], "loop", body=body)
    proto = model([*outside, loop], [F("x", ["T", 5])], [F("y"), F("total")], start=np.full(5, 2, np.float32))
    inputs = {"x": floats(7, 5)}
    made, found = right(proto, inputs, tmp_path)
    agree_in_chunks(made, inputs, found)


KERAS = MODELS / "keras"


@pytest.mark.parametrize(("name", "becomes"), [("gru_stack2_dense_keras", "GRU"), ("mask_lstm_keras", "Iterate")])
def test_loops_that_keras_wrote(name: str, becomes: str, tmp_path: Path) -> None:
    """The GRU is one again; a cell that masks its state walks over time as it is."""
    proto = onnx.load(KERAS / f"{name}.onnx")
    sizes = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    inputs = {proto.graph.input[0].name: floats(2, 7, sizes[-1])}
    made, found = right(proto, inputs, tmp_path)
    agree_in_chunks(made, inputs, found, 2)
    assert becomes in [node.op for node in made._source.program.graph.nodes]


# ---------------------------------------------------------------- hostile


def test_names_and_nesting(tmp_path: Path) -> None:
    branch = graph([N("Relu", ["nowhere"], ["r"])], [], [F("r")])
    proto = model([N("If", ["c"], ["y"], "either", then_branch=branch, else_branch=branch)], [F("x", [1]), B("c")], [F("y")])
    with pytest.raises(LoadError, match="reads 'nowhere', which nothing makes"):
        loaded(proto, tmp_path)
    cycle = graph([N("Add", ["y", "x"], ["r"])], [], [F("r")])
    proto = model([N("If", ["c"], ["y"], "either", then_branch=cycle, else_branch=cycle)], [F("x", [1]), B("c")], [F("y")])
    with pytest.raises(LoadError, match="cycle"):
        loaded(proto, tmp_path)
    twice = graph([N("Relu", ["x"], ["r"]), N("Neg", ["x"], ["r"])], [], [F("r")])
    proto = model([N("If", ["c"], ["y"], "either", then_branch=twice, else_branch=twice)], [F("x", [1]), B("c")], [F("y")])
    with pytest.raises(LoadError, match="'r' is made twice"):
        loaded(proto, tmp_path)


# ---------------------------------------------------------------- random


class Growing:
    """A random graph over values [1, 4], with Ifs and Loops inside one another."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.names = draw, 0

    def name(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def nodes(self, known: list[str], depth: int) -> tuple[list[onnx.NodeProto], list[str]]:
        nodes, values = [], list(known)
        for _ in range(self.draw(st.integers(1, 3))):
            pick = lambda: self.draw(st.sampled_from(values))  # noqa: E731
            kind = self.draw(st.sampled_from(["Tanh", "Neg", "Add", "Mul", "If", "Loop"] if depth else ["Tanh", "Add"]))
            made = self.name()
            if kind in ("Tanh", "Neg"):
                nodes.append(N(kind, [pick()], [made]))
            elif kind in ("Add", "Mul"):
                nodes.append(N(kind, [pick(), pick()], [made]))
            elif kind == "If":
                total, low = self.name(), self.name()
                nodes += [N("ReduceSum", [pick()], [total], keepdims=0), N("Less", [total, "zero"], [low])]
                branches = {f"{side}_branch": self.graph(values, depth - 1) for side in ("then", "else")}
                nodes.append(N("If", [low], [made], **branches))
            else:
                i, c, s, d = (self.name() for _ in "icsd")
                inner, own = self.nodes([*values, s], depth - 1)
                inner += [N("Identity", [c], [d]), N("Tanh", [own[-1]], [last := self.name()])]
                body = graph(inner, [I(i), B(c), F(s)], [B(d), F(last)])
                nodes.append(N("Loop", [self.draw(st.sampled_from(["two", "three"])), "", pick()], [made], body=body))
            values.append(made)
        return nodes, values

    def graph(self, values: list[str], depth: int) -> onnx.GraphProto:
        nodes, own = self.nodes(values, depth)
        return graph(nodes, [], [F(own[-1])])


@st.composite
def nested_models(draw: st.DrawFn) -> onnx.ModelProto:
    nodes, values = Growing(draw).nodes(["x"], 2)
    outputs = values[1:][-2:]
    return model(nodes, [F("x", [1, 4])], [F(o) for o in outputs], two=np.int64(2), three=np.int64(3), zero=np.float32(0))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(proto=nested_models(), seed=st.integers(0, 99))
def test_random_nesting(proto: onnx.ModelProto, seed: int, tmp_path: Path) -> None:
    right(proto, {"x": floats(1, 4, seed=seed)}, tmp_path, states={})


def test_turns_within_frames_share_no_state_over_time(tmp_path: Path) -> None:
    """A Scan over bands whose body sums over time: each band would need a sum of its own."""
    turn = [
        N("CumSum", ["xb", "one"], ["v"]),
        N("Add", ["h", "v"], ["s"]),
        N("Softsign", ["s"], ["h2"]),
        N("Identity", ["h2"], ["yb"]),
    ]
    shape = [1, "time", 3]
    body = graph(turn, [F("h", shape), F("xb", shape)], [F("h2", shape), F("yb", shape)], one=np.array(1))
    nodes = [
        N("Gather", ["x", "zero"], ["first"], axis=2),
        N("Mul", ["first", "nothing"], ["start"]),
        N("Scan", ["start", "x"], ["", "y"], body=body, num_scan_inputs=1, scan_input_axes=[2], scan_output_axes=[2]),
    ]
    proto = model(nodes, [F("x", [1, "time", 4, 3])], [F("y")], zero=np.array(0), nothing=np.float32(0))
    with pytest.raises(UnsupportedError, match="which all iterations would share"):
        loaded(proto, tmp_path, time="time")
