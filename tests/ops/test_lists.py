"""Loops that fill lists, as torch.jit.script writes them: run whole at any length and streamed, beside onnxruntime."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.driving import Array, agree, agree_in_chunks, in_onnxruntime, loaded, whole
from tinyrnn.errors import UnsupportedError

torch = pytest.importorskip("torch", reason="TorchScript writes the loops of these tests; torch is not installed")

I, H = 3, 5  # noqa: E741


class Base(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.u = torch.nn.Linear(I, H), torch.nn.Linear(H, H)

    def cell(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        z = torch.sigmoid(self.w(x))
        return z * h + (1 - z) * torch.relu(self.w(x) + self.u(h))


class Appends(Base):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ys: list[torch.Tensor] = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1), h


class TimeFirst(Base):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ys: list[torch.Tensor] = []
        for piece in x.transpose(0, 1).unbind(0):
            h = self.cell(piece, h)
            ys.append(h)
        return torch.stack(ys, 1), h


class Unbinds(Base):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        steps = x.unbind(1)
        ys: list[torch.Tensor] = []
        for t in range(len(steps)):
            h = self.cell(steps[t], h)
            ys += [h.unsqueeze(1)]
        return torch.cat(ys, 1), h


class ReadsItsLast(Base):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hs = [h]
        for t in range(x.size(1)):
            hs.append(self.cell(x[:, t], hs[-1]))
        return torch.stack(hs[1:], 1), hs[-1]


class ReadsByNumber(Base):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hs = [h, h * 0.5]
        ys: list[torch.Tensor] = []
        for t in range(x.size(1)):
            new = self.cell(x[:, t], hs[t + 1]) + 0.5 * hs[t]
            hs.append(new)
            ys.append(new)
        return torch.stack(ys, 1), hs[-1]


class Layers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.more = torch.nn.ModuleList([torch.nn.Linear(H + I, H), torch.nn.Linear(2 * H, H)])

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = [h, torch.zeros_like(h)]
        ys: list[torch.Tensor] = []
        for t in range(x.size(1)):
            value = x[:, t]
            new: list[torch.Tensor] = []
            for i, layer in enumerate(self.more):
                value = torch.tanh(layer(torch.cat([value, states[i]], 1)))
                new.append(value)
            states = new
            ys.append(value)
        return torch.stack(ys, 1), states[1]


class FixedList(Base):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        recent = [h, h, h]
        ys: list[torch.Tensor] = []
        for t in range(x.size(1)):
            new = self.cell(x[:, t], recent[0] + recent[2] * 0.5)
            recent.pop(0)
            recent.append(new)
            ys.append(new)
        return torch.stack(ys, 1), recent[-1]


class TwoLists(Base):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a: list[torch.Tensor] = []
        b: list[torch.Tensor] = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            a.append(h)
            b.append(torch.tanh(h * 2))
        return torch.stack(a, 1) + torch.stack(b, 1), h


def exported(module: Any, T: int = 6, opset: int = 17) -> onnx.ModelProto:
    x, h = torch.randn(1, T, I), torch.randn(1, H)
    into = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(module.eval())
        options = {"input_names": ["x", "h"], "output_names": ["y", "hn"], "dynamic_axes": {"x": {1: "T"}}}
        torch.onnx.export(scripted, (x, h), into, opset_version=opset, dynamo=False, **options)
    return onnx.load_from_string(into.getvalue())


def sample(T: int) -> dict[str, Array]:
    rng = np.random.default_rng(T)
    return {"x": rng.standard_normal((1, T, I)).astype(np.float32), "h": rng.standard_normal((1, H)).astype(np.float32)}


@pytest.mark.parametrize(
    "kind", [Appends, TimeFirst, Unbinds, ReadsByNumber, FixedList, TwoLists, Layers], ids=lambda k: k.__name__
)
def test_scripted_loops_stream(kind: Any, tmp_path: Path) -> None:
    proto = exported(kind())
    assert any(node.op_type == "Loop" for node in proto.graph.node)
    model = loaded(proto, tmp_path)
    assert model.kind == "sequence"
    for T in (1, 4, 300):
        agree("close", whole(model, sample(T)), in_onnxruntime(proto, sample(T)), f"T = {T}:")
    agree_in_chunks(model, sample(9), whole(model, sample(9)))


def listed(nodes: list[Any], x: tuple[Any, ...] = (1, "T", I)) -> onnx.ModelProto:
    """A model of x → y whose nodes make lists."""
    ports = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    made = helper.make_graph(nodes, "lists", *ports)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def number(name: str, value: Any) -> onnx.NodeProto:
    array = np.asarray(value)
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))


N = helper.make_node
FORMS: dict[str, list[onnx.NodeProto]] = {
    "split_and_joined": [N("SplitToSequence", ["x"], ["s"], axis=1), N("ConcatFromSequence", ["s"], ["y"], axis=1)],
    "split_and_stacked": [
        N("SplitToSequence", ["x"], ["s"], axis=-2, keepdims=0),
        N("ConcatFromSequence", ["s"], ["y"], axis=-2, new_axis=1),
    ],
    "pieces": [
        number("sizes", np.array([1, 2])),
        N("SplitToSequence", ["x", "sizes"], ["s"], axis=2),
        number("one", 1),
        N("SequenceAt", ["s", "one"], ["a"]),
        N("Tanh", ["a"], ["y"]),
    ],
    "constructed": [
        N("Tanh", ["x"], ["t"]),
        N("SequenceConstruct", ["x", "t"], ["s"]),
        number("zero", 0),
        N("SequenceInsert", ["s", "t", "zero"], ["u"]),
        N("SequenceErase", ["u"], ["v"]),
        N("ConcatFromSequence", ["v"], ["y"], axis=2),
    ],
    "last": [
        N("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
        number("minus", -1),
        N("SequenceAt", ["s", "minus"], ["y"]),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_outside_of_loops(form: str, tmp_path: Path) -> None:
    proto = listed(FORMS[form])
    model = loaded(proto, tmp_path)
    for T in (3, 260):
        x = {"x": sample(T)["x"]}
        agree("close", whole(model, x), in_onnxruntime(proto, x))


def test_what_cannot_be_followed_is_said(tmp_path: Path) -> None:
    proto = listed([N("SplitToSequence", ["x"], ["y"], axis=1)])
    with pytest.raises(UnsupportedError, match=r"output 'y' is a list of tensors.*torch\.stack"):
        loaded(proto, tmp_path)
    proto = listed([number("k", 3), N("SplitToSequence", ["x", "k"], ["s"], "cut", axis=1), N("SequenceLength", ["s"], ["y"])])
    with pytest.raises(UnsupportedError, match=r"'cut' \(SplitToSequence\): it cuts pieces of 3.*torch\.stack"):
        loaded(proto, tmp_path)
