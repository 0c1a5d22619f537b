"""PyTorch modules exported and verified: both exporters, other sizes, half precision, and every refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tinyrnn_export import onnx_file

import tinyrnn
from tests.driving import agree, agree_in_chunks, in_onnxruntime, whole

torch = pytest.importorskip("torch", reason="PyTorch, which the exporters are for, is not installed")

from tinyrnn_export.pytorch import ExportError, export_sequence, export_step, round_to_half, to_npz  # noqa: E402
from torch import nn  # noqa: E402

I, H, VOCABULARY = 5, 16, 11  # noqa: E741
TIMED = {"x": {1: "T"}, "y": {1: "T"}}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Tagger(nn.Module):
    """Tokens [B, T], states [1, B, H] → scores [B, T, VOCABULARY] and new states."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(VOCABULARY, I), nn.LSTM(I, H, batch_first=True), nn.Linear(H, VOCABULARY)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any, *state: Any) -> tuple[Any, ...]:
        y, (h, c) = self.rnn(self.embed(x), state or None)
        return self.head(self.drop(y)), h, c


class Layers(nn.Module):
    """Layers in turn; of what a recurrent one returns, y."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            made = layer(x)
            x = made[0] if isinstance(made, tuple) else made
        return x


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)

    def forward(self, x: Any) -> Any:
        h, ys = torch.zeros(x.shape[0], H), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


def _sequence(module: nn.Module, path: Path, axes: Any = TIMED, x: Any = None, **options: Any) -> Any:
    example = [torch.randn(2, 6, I) if x is None else x]
    return export_sequence(
        module, example, path, **{"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes, **options}
    )


def _tagger(module: nn.Module, path: Path, **options: Any) -> Any:
    inputs = [torch.randint(0, VOCABULARY, (1, 7)), torch.zeros(1, 1, H), torch.zeros(1, 1, H)]
    names: dict[str, Any] = {"input_names": ["x", "h", "c"], "output_names": ["y", "hn", "cn"], "states": {"h": "hn", "c": "cn"}}
    return export_step(module, inputs, path, **{**names, "dynamic_axes": TIMED, **options})


# --- what is written -----------------------------------------------------------------------------------------------------


def test_a_step_model_carries_its_state(tmp_path: Path) -> None:
    module = Tagger().train()
    made = _tagger(module, tmp_path / "step.onnx", metadata={"license": "MIT"})
    assert (made.exporter, made.notes, made.sizes) == (
        "torchscript",
        (),
        ({"T": 7}, {"T": 15}, {"T": 1}),
    ) and 0 < made.excess <= 1
    assert module.training and module.drop.training
    assert {p.key: p.value for p in onnx.load(made.path).metadata_props} == {"license": "MIT"}
    model = tinyrnn.load(made.path)
    assert [p.name for p in model.states] == ["h", "c"]
    tokens = torch.randint(0, VOCABULARY, (1, 20))
    with torch.no_grad():
        y, h, c = module.eval()(tokens)
    stream = model.stream()
    agree("close", {"y": stream.run(tokens.numpy()[0])}, {"y": y[0].numpy()})
    agree("close", {n: a.reshape(H) for n, a in stream.states.items()}, {"h": h.numpy().reshape(H), "c": c.numpy().reshape(H)})


def test_a_sequence_model_with_open_batch_and_time(tmp_path: Path) -> None:
    module = Layers(nn.Linear(I, I), nn.GRU(I, H, num_layers=2, batch_first=True), nn.Linear(H, 3))
    made = _sequence(module, tmp_path / "s.onnx", {"x": {0: "B", 1: "T"}, "y": {0: "B", 1: "T"}})
    tried = [(s["B"], s["T"]) for s in made.sizes]
    assert (2, 6) in tried and (5, 6) in tried and (2, 13) in tried and (5, 13) in tried and (1, 1) in tried
    x = torch.randn(2, 9, I)
    model = tinyrnn.load(made.path)
    result = whole(model, {"x": x.numpy()})
    agree("close", result, {"y": module.eval()(x).detach().numpy()})
    agree_in_chunks(model, {"x": x.numpy()}, result, 2)


def test_other_lengths_are_those_that_the_module_takes(tmp_path: Path) -> None:
    """Pairs of frames: an odd length does not fit."""
    made = _sequence(
        Function(lambda x: x.reshape(x.shape[0], -1, 2, I).sum(2)), tmp_path / "s.onnx", {"x": {1: "T"}, "y": {1: "T2"}}
    )
    assert made.sizes == ({"T": 6}, {"T": 12})


def test_the_other_exporter_takes_what_torchscript_does_not_know(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the dynamo-based exporter needs onnxscript, which is not installed")
    if "keras" in sys.modules:  # with Keras in the process, PyTorch's exporter takes the length of an LSTM for fixed
        this = f"{__file__}::test_the_other_exporter_takes_what_torchscript_does_not_know"
        alone = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", this], capture_output=True, text=True
        )
        assert alone.returncode == 0, alone.stdout
        return
    module = Layers(Function(lambda x: torch.fft.rfft(x).abs()), nn.LSTM(I // 2 + 1, H, batch_first=True))
    made = _sequence(module, tmp_path / "s.onnx")
    assert made.exporter == "dynamo" and "fft_rfft" in made.notes[0]
    x = torch.randn(2, 8, I)
    agree("close", in_onnxruntime(Path(made.path), {"x": x.numpy()}), {"y": module(x).detach().numpy()})


def test_a_size_that_tracing_makes_a_constant_is_found_and_the_other_exporter_taken(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the dynamo-based exporter needs onnxscript, which is not installed")
    made = _sequence(Function(lambda x: x * len(x[0])), tmp_path / "s.onnx")
    assert made.exporter == "dynamo" and "output 'y' at T = 13 differs by up to" in made.notes[0]


def test_nested_outputs_are_named_in_order(tmp_path: Path) -> None:
    made = _sequence(nn.LSTM(I, H, batch_first=True), tmp_path / "s.onnx", output_names=["y", "hn", "cn"])
    assert [o.name for o in onnx.load(made.path).graph.output] == ["y", "hn", "cn"]


# --- half precision ------------------------------------------------------------------------------------------------------


def test_half_storage_changes_the_size_alone(tmp_path: Path) -> None:
    module = Tagger()
    with pytest.raises(ExportError, match=r"float16 does not hold .*\[1, 64, 16\].*round_to_half\(module\)"):
        _tagger(module, tmp_path / "half.onnx", half=True)
    assert not (tmp_path / "half.onnx").exists()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    round_to_half(module)
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name].half().float())
    for name in ("half", "full"):
        _tagger(module, tmp_path / f"{name}.onnx", half=name == "half")
    half, full = tmp_path / "half.onnx", tmp_path / "full.onnx"
    assert half.stat().st_size < 0.7 * full.stat().st_size
    stored = {t.name: t for t in onnx.load(half).graph.initializer}
    assert all(
        (t.data_type == onnx.TensorProto.FLOAT16) == (np.prod(t.dims) >= onnx_file.SMALLEST_HALF)
        for t in stored.values()
        if t.data_type != onnx.TensorProto.INT64
    )
    x = {
        "x": np.arange(9)[None] % VOCABULARY,
        "h": np.full((1, 1, H), 0.3, np.float32),
        "c": np.full((1, 1, H), -0.5, np.float32),
    }
    agree("exact", in_onnxruntime(half, x), in_onnxruntime(full, x))
    a, b = tinyrnn.load(half), tinyrnn.load(full)
    assert [m._source.source.text.split("\n", 1)[1] for m in (a, b)] == [b._source.source.text.split("\n", 1)[1]] * 2
    agree("exact", whole(a, x), whole(b, x))


def test_weights_beyond_half_precision_are_refused_before_anything_changes() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.bias[0] = 1e5
    before = module.weight.clone()
    with pytest.raises(ValueError, match="bias reaches 100000; float16 ends at 65504"):
        round_to_half(module)
    assert torch.equal(module.weight, before)


def test_constants_written_out_as_nodes_are_halved_too() -> None:
    tensor = onnx.numpy_helper.from_array(np.ones((20, 10), np.float32), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), onnx.helper.make_node("Constant", [], ["w"], value=tensor)]
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, size]) for n, size in (("x", 20), ("y", 10))]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes[::-1], "g", ports[:1], ports[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx_file.finish(model, None, True)
    assert [n.op_type for n in model.graph.node] == ["Cast", "MatMul"]
    agree("exact", in_onnxruntime(model, {"x": np.ones((1, 20), np.float32)}), {"y": np.full((1, 10), 20, np.float32)})


# --- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Loop, r"use nn.RNN, nn.LSTM or nn.GRU.*or export one step with export_step\.\ntorchscript: .*output 'y' at T = 13 has the shape \[2, 6, 16\], the model's has \[2, 13, 16\]"),
        (lambda: nn.LSTM(I, H, proj_size=3, batch_first=True), r"ONNX's LSTM has no proj_size: train without it, with a Linear layer"),
        (lambda: Function(lambda x: x + torch.randn_like(x)), "The model itself gives other outputs each time: switch its noise off"),
        (lambda: Function(lambda x: x * len(x[0, :, 0].tolist())), "output 'y' at T = 13 differs by up to .* allowed is 1e-05 . 0.0001 of the value"),
        (lambda: Function(lambda x: x.reshape(2, 6, I) * 2), r"the model itself does not run at T = 13 or T = 12 .*: leave 'T' out of the dynamic axes"),
    ],
    ids=["loop over cells", "proj_size", "noise", "length as a constant", "one length alone"],
)  # fmt: skip
def test_what_no_exporter_writes_is_refused(build: Any, message: str, tmp_path: Path) -> None:
    names = ["y", "hn", "cn"] if "proj_size" in message else ["y"]
    with pytest.raises(ExportError, match=f"(?s){message}"):
        _sequence(build(), tmp_path / "s.onnx", output_names=names)
    assert not list(tmp_path.iterdir())


def test_a_model_that_leaves_the_numbers_is_told_from_an_exporter_that_errs() -> None:
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["T", 2]) for n in ("x", "y")]
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    with pytest.raises(ExportError, match="m.onnx: output 'y' of the model itself at T = 3 is not finite"):
        onnx_file.verify(
            model,
            "m.onnx",
            "layers",
            lambda feeds: [feeds["x"] + np.float32(np.inf)],
            {"x": np.ones((3, 2), np.float32)},
            {"x": {0: "T"}},
        )


def test_arguments_are_checked_first(tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            _tagger(Tagger(), tmp_path / "s.onnx", **options)

    refused("3 inputs need as many different names", input_names=["x", "h", "h"])
    refused("3 outputs need as many different names", output_names=["y"])
    refused(r"dynamic_axes names \['z'\]", dynamic_axes={"z": {0: "T"}})
    refused("state 'g' -> 'hn': inputs", states={"g": "hn"})
    refused("state 'h' -> 'hn': a state has a fixed shape", dynamic_axes={"h": {0: "L"}})
    refused(r"state 'h' is torch.float32 \[1, 1, 16\], but 'y' is torch.float32 \[1, 7, 11\]", states={"h": "y"}, dynamic_axes={})
    with pytest.raises(ValueError, match="the module returns dict"):
        _sequence(Function(lambda x: {"y": x}), tmp_path / "s.onnx")
    assert not list(tmp_path.iterdir())


# --- plain weights -------------------------------------------------------------------------------------------------------


def test_to_npz_needs_no_layers_when_loading(tmp_path: Path) -> None:
    module = Tagger().eval()
    layers = [["Embedding", "embed"], ["LSTM", "rnn"], ["Linear", "head"]]
    to_npz(module, tmp_path / "m.npz", layers, metadata={"license": "MIT"})
    tokens = torch.randint(0, VOCABULARY, (2, 9))
    agree("close", whole(tinyrnn.load(tmp_path / "m.npz"), {"x": tokens.numpy()}), {"y": module(tokens)[0].detach().numpy()})


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([["Embedding", "embed"], ["LSTM", "rnn"]], "weight 'head.weight' belongs to none of the layers"),
        ([["Embedding", "embed"], ["LSTM", "rnn"], ["Linear", "head"], ["Linear", "more"]], "layer 'more' has no weights"),
        ([["Embedding"]], "expected"),
    ],
)
def test_to_npz_wants_a_layer_for_each_weight(layers: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        to_npz(Tagger(), tmp_path / "m.npz", layers)
