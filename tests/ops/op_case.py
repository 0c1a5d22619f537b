"""What a test case of an operator is, its model, and words to write one.

`build(case)` makes the model of one node and its inputs. Where every input is a constant, or the operator runs only on
what is known at load, the result joins a float input of the model, cast where it must be.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

import tinyrnn.ops  # noqa: F401  (registers them)
from tinyrnn.graph.op import MICROSOFT as MICROSOFT
from tinyrnn.graph.op import REGISTRY

Array = np.ndarray[Any, Any]

OPSET = 17


@dataclass(frozen=True, eq=False)
class Input:
    """An input of a node: random numbers from `low` to `high`, or `values` as they are; an initializer where `constant`."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float = -3.0
    high: float = 3.0
    constant: bool = False
    values: Any = None

    def array(self, rng: np.random.Generator) -> Array:
        dtype = np.dtype(self.dtype)
        if self.values is not None:
            return np.array(self.values, dtype).reshape(self.shape)
        if dtype.kind == "f":
            return rng.uniform(self.low, self.high, self.shape).astype(dtype)
        return rng.integers(int(self.low), int(self.high) + 1, self.shape).astype(dtype)


@dataclass(frozen=True, eq=False)
class OpCase:
    """One node; onnxruntime runs every one of them."""

    name: str
    op: str
    inputs: tuple[Input | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = OPSET
    outputs: int = 1
    domain: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def folded(self) -> bool:
        """Whether the result is known at load."""
        return REGISTRY[self.domain, self.op].known_only or all(i is None or i.constant for i in self.inputs)


def build(case: OpCase) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model of a case and its inputs by name: x0, x1, … in the node's order, `x` where its result is known at load."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    arrays = {f"x{i}": given.array(rng) for i, given in enumerate(case.inputs) if given is not None}
    inputs = {f"x{i}": arrays[f"x{i}"] for i, given in enumerate(case.inputs) if given is not None and not given.constant}
    outputs = [f"y{i}" for i in range(case.outputs)]
    made = [f"known{i}" for i in range(case.outputs)] if case.folded else outputs
    names = [f"x{i}" if given is not None else "" for i, given in enumerate(case.inputs)]
    nodes = [helper.make_node(case.op, names, made, "node", domain=case.domain, **case.attributes)]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in inputs]
    if case.folded:
        inputs["x"] = rng.standard_normal(1).astype(np.float32)
        for known, output in zip(made, outputs, strict=True):
            nodes.append(helper.make_node("Cast", [known], [f"{known}_float"], f"cast_{known}", to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Add", [f"{known}_float", "x"], [output], f"add_{known}"))
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        constants,
    )
    sets = [helper.make_opsetid("", case.opset), *([helper.make_opsetid(case.domain, 1)] if case.domain else [])]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    return onnx.shape_inference.infer_shapes(model), inputs


def x(*shape: int, dtype: str = "float32", low: float = -3.0, high: float = 3.0) -> Input:
    """Random numbers, given at run time."""
    return Input(shape, dtype, low, high)


def w(*shape: int, low: float = -3.0, high: float = 3.0) -> Input:
    """Random float constants."""
    return Input(shape, "float32", low, high, constant=True)


def v(values: Any, dtype: str = "float32") -> Input:
    """These numbers, given at run time."""
    return Input(np.shape(values), dtype, values=values)


def k(values: Any, dtype: str = "int64") -> Input:
    """These numbers as a constant."""
    return Input(np.shape(values), dtype, constant=True, values=values)


def f(values: Any) -> Input:
    return k(values, "float32")


def b(values: Any) -> Input:
    return k(values, "bool")


def case(name: str, *inputs: Input | None, opset: int = OPSET, outputs: int = 1, domain: str = "", **attributes: Any) -> OpCase:
    """A case named "Operator what it is of"."""
    return OpCase(name.replace(" ", "_"), name.split(" ")[0], inputs, attributes, opset, outputs, domain)
