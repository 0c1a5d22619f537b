"""States that are integers and truth values, beside float32 ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.driving import loaded


def test_integer_and_bool_states(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["n", "one"], ["n_out"]),
        helper.make_node("Cast", ["n_out"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "count"], ["y"]),
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Or", ["seen", "positive"], ["seen_out"]),
    ]
    ports = [("x", TensorProto.FLOAT, [1, 3]), ("n", TensorProto.INT64, [1]), ("seen", TensorProto.BOOL, [1, 3])]
    ends = [("y", TensorProto.FLOAT, [1, 3]), ("n_out", TensorProto.INT64, [1]), ("seen_out", TensorProto.BOOL, [1, 3])]
    constants = [numpy_helper.from_array(np.array([1]), "one"), numpy_helper.from_array(np.float32(0), "zero")]
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info(*p) for p in ports],
        [helper.make_tensor_value_info(*p) for p in ends],
        constants,
    )
    model = loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path)
    assert [(s.name, s.dtype, s.shape) for s in model.states] == [("n", np.int64, (1,)), ("seen", np.bool_, (1, 3))]
    stream = model.stream()
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    assert np.array_equal(stream.run(x), x * np.arange(1, 6, dtype=np.float32)[:, None])
    assert stream.states["n"] == [5] and np.array_equal(stream.states["seen"][0], (x > 0).any(0))
    saved = stream.state.copy()
    stream.states["n"][...] = 1 << 40
    assert stream.step(x[0])[0] == x[0, 0] * np.float32((1 << 40) + 1)
    stream.state[...] = saved
    assert np.array_equal(stream.step(x[0]), x[0] * np.float32(6))
    stream.reset()
    assert stream.states["n"] == [0] and not stream.states["seen"].any()
