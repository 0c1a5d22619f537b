"""What `load`, `check` and `Model.run` take: paths, bytes, models in memory, onnxruntime's form of a call; files of other kinds."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import tinyrnn
from tests import MODELS
from tests.frontends.safetensors_file import safetensors
from tests.loading.preloaded import Preloaded
from tinyrnn.check import check, within
from tinyrnn.frontends.formats import HINTS, SUFFIXES

STATES = MODELS / "lstm_l2_uni_sf_states_dynT_dynB_legacy.onnx"
PLAIN = MODELS / "linear_relu_gru_residual_dynT_legacy.onnx"
Array = np.ndarray[Any, Any]


def feeds(path: Path, frames: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    shapes = {
        i.name: [n if isinstance(n, int) else frames for n in i.shape] for i in onnxruntime.InferenceSession(path).get_inputs()
    }
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("path", [STATES, PLAIN], ids=lambda p: p.stem)
def test_calls_as_onnxruntime_has_them(path: Path) -> None:
    model, session = tinyrnn.load(path), onnxruntime.InferenceSession(path)
    given = feeds(path)
    names = [o.name for o in session.get_outputs()]
    for asked in (None, [], names[:1], names[::-1], tuple(names)):
        found, wanted = model.run(asked, given), session.run(asked or None, given)
        assert isinstance(found, list) and len(found) == len(wanted)
        assert all(within("close", a, b) for a, b in zip(found, wanted, strict=True))
    assert within("exact", model.run(output_names=None, input_feed=given)[0], model.run(None, given)[0])
    same = model.run(given)
    assert within("exact", same[0] if len(names) > 1 else same, model.run(names, given)[0])
    with pytest.raises(tinyrnn.ShapeError, match="no output 'nothing'; it makes"):
        model.run(["nothing"], given)
    with pytest.raises(tinyrnn.ShapeError, match="no input 'nothing'"):
        model.run(None, {"nothing": 1})


@pytest.mark.parametrize(
    "make", [lambda b: b, bytearray, memoryview, onnx.load_from_string], ids=["bytes", "bytearray", "memoryview", "proto"]
)
def test_models_in_memory(make: Any) -> None:
    data = PLAIN.read_bytes()
    model = tinyrnn.load(make(data))
    assert model.name == onnx.load_from_string(data).graph.name
    assert within("exact", model.run(None, feeds(PLAIN))[0], tinyrnn.load(PLAIN).run(None, feeds(PLAIN))[0])
    assert check(make(data), frames=12).passed


def test_a_container_in_memory(tmp_path: Path) -> None:
    model = tinyrnn.load(PLAIN)
    tinyrnn.save(model, tmp_path / "m.npz")
    data = (tmp_path / "m.npz").read_bytes()
    assert within("exact", tinyrnn.load(data).run(feeds(PLAIN)), model.run(feeds(PLAIN)))
    assert "is no ONNX file" in str(check(data, frames=12))


def test_models_in_memory_that_are_none() -> None:
    for source, says in (
        (b"", "0 bytes"),
        (b"no model", "model: not an ONNX file"),
        (3, "not int"),
        (None, "not NoneType"),
        (onnx.ModelProto(), "model: empty"),
        (pickle.dumps({}), "not an ONNX|pickle"),
    ):
        with pytest.raises(tinyrnn.LoadError, match=says):
            tinyrnn.load(source)  # type: ignore[arg-type]
    proto = onnx.load(PLAIN)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    for given in (proto, proto.SerializeToString()):
        with pytest.raises(tinyrnn.LoadError, match=r"'weights\.bin', but the model came from memory"):
            tinyrnn.load(given)


# ---------------------------------------------------------------- kinds of files


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_safetensors_are_read_as_npz(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {"r.weight_ih_l0": rng.normal(size=(15, 3)), "r.weight_hh_l0": rng.normal(size=(15, 5))}
    exact = {k: (v.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32) for k, v in arrays.items()}
    forms = {
        "F64": lambda v: v.astype("<f8"),
        "F32": lambda v: v,
        "F16": lambda v: v.astype("<f2"),
        "BF16": lambda v: (v.view(np.uint32) >> 16).astype("<u2"),
    }
    np.savez(tmp_path / "m.npz", **{k: v.astype(np.float16) if dtype == "F16" else v for k, v in exact.items()})
    data = safetensors({k: (dtype, forms[dtype](v)) for k, v in exact.items()}, __metadata__={"format": "pt"})
    (tmp_path / "m.safetensors").write_bytes(data)
    (tmp_path / "renamed.onnx").write_bytes(data)
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    wanted = tinyrnn.load(tmp_path / "m.npz", layers=[("GRU", "r")]).run(x)
    for source in (tmp_path / "m.safetensors", tmp_path / "renamed.onnx", data):
        model = tinyrnn.load(source, layers=[("GRU", "r")])
        assert within("exact", model.run(x), wanted) and model.metadata["format"] == "pt"
    with pytest.raises(tinyrnn.LoadError, match=r'write load\(path, layers=\[\("GRU", "r"\)\]'):
        tinyrnn.load(tmp_path / "m.safetensors")


def entry(**change: Any) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        bytes(8),
        (1 << 63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"{{{{",
        (200_000).to_bytes(8, "little") + b'{"a":' + b"[" * 199_995,
        entry(shape=[3]),
        entry(shape=[1 << 62, 4]),
        entry(shape=[-2]),
        entry(shape="2"),
        entry(shape=[True, 2]),
        entry(shape=[2.0]),
        entry(dtype="F8"),
        entry(dtype=None),
        entry(data_offsets=[8, 16]),
        entry(data_offsets=[8, 0]),
        entry(data_offsets=[0]),
        entry(data_offsets=None),
        entry(more=1),
        entry()[:-1],
        entry() + b"x",
        entry().replace(b'"a"', b'"\\n'),
        safetensors({"a": ("F32", np.zeros(2, "<f4"))}, __metadata__=3),
        entry(shape=[2] * 40),
    ],
    ids=range(25),
)
def test_safetensors_that_are_damaged(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(tinyrnn.LoadError, match="m.safetensors: "):
        tinyrnn.load(tmp_path / "m.safetensors", layers=[("LayerNorm", "a")])


def test_the_content_decides(tmp_path: Path) -> None:
    for name in ("model", "model.bin", "model.npz", "model.txt"):
        (tmp_path / name).write_bytes(PLAIN.read_bytes())
        assert tinyrnn.load(tmp_path / name).name == "model"
    np.savez(tmp_path / "w.npz", w=np.zeros(3, np.float32))
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.npz").read_bytes())
    with pytest.raises(tinyrnn.LoadError, match="plain weights"):
        tinyrnn.load(tmp_path / "w.pt")


def test_every_kind_says_what_to_do(tmp_path: Path) -> None:
    for suffix, kind in SUFFIXES.items():
        if kind in HINTS:
            (tmp_path / f"m{suffix}").write_bytes(b"x" * 300)
            with pytest.raises(tinyrnn.LoadError) as caught:
                tinyrnn.load(tmp_path / f"m{suffix}")
            assert "\n" not in str(caught.value) and re.search(r"write|export|load|input", str(caught.value)), str(caught.value)
    for name, start, says in (
        ("a", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("b.onnx", b"\x1c\0\0\0TFL3", "tf2onnx"),
        ("c.onnx", b"\x18\0\0\0ORTM", "onnxruntime"),
        ("d.pt", pickle.dumps({"a": 1}), "PyTorch"),
        ("e", pickle.dumps({}), "never read"),
        ("f.json", b'{"version": "0.5.0", "architecture": "LSTM"}', "Neural Amp"),
        ("g.npy", b"\x93NUMPY", "one array"),
        ("h.xyz", b"zzz", "unknown kind of file '.xyz'"),
    ):
        (tmp_path / name).write_bytes(start + b" " * 300)
        with pytest.raises(tinyrnn.LoadError, match=says):
            tinyrnn.load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "k.bin", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(tinyrnn.LoadError, match="a Keras model"):
        tinyrnn.load(tmp_path / "k.bin")


@pytest.fixture(scope="module")
def python() -> Iterator[Preloaded]:
    process = Preloaded()
    yield process
    process.close()


def hinted(path: Path, python: Preloaded) -> None:
    """Run the line that the error shows, as a shell hands it to Python."""
    with pytest.raises(tinyrnn.LoadError) as caught:
        tinyrnn.load(path)
    code = re.search(r'python -c ("(?:[^"\\]|\\.)*")', str(caught.value))
    assert code is not None, str(caught.value)
    given = subprocess.run(["sh", "-c", f"printf %s {code[1]}"], stdout=subprocess.PIPE, text=True, check=True, cwd=path.parent)
    status, printed = python.run(given.stdout.replace("zeros(1, 20, 8)", "zeros(1, 20, 3)"), path.parent)
    assert status == 0, printed


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_the_line_for_keras_makes_a_file_that_loads(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Preloaded
) -> None:
    """With a name that a shell would take apart."""
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    keras = pytest.importorskip("keras", reason="Keras writes the files of this test")
    layers = keras.layers
    model = keras.Sequential([keras.Input((None, 4)), layers.GRU(5, return_sequences=True), layers.Dense(3)])
    path = tmp_path / f"my $HOME model.{suffix}"
    model.save(path)
    hinted(path, python)
    x = np.random.default_rng(0).standard_normal((1, 7, 4)).astype(np.float32)
    assert within("close", tinyrnn.load(path.with_suffix(".onnx")).run(x), keras.ops.convert_to_numpy(model(x)))


@pytest.mark.parametrize(("name", "start"), [("my net.tflite", b"\x1c\0\0\0TFL3"), ("it's.pb", b"\n\x10")])
def test_the_lines_for_tensorflow_name_the_file(name: str, start: bytes, tmp_path: Path) -> None:
    """TensorFlow is not there; the line is one whose arguments are the options of tf2onnx.convert."""
    (tmp_path / name).write_bytes(start + b" " * 300)
    with pytest.raises(tinyrnn.LoadError) as caught:
        tinyrnn.load(tmp_path / name)
    line = re.search(r"(--tflite .*?|--graphdef .*?) \(needs|(--graphdef .*?) for a frozen graph", str(caught.value))
    assert line
    arguments = shlex.split(line[1] or line[2])
    assert arguments[1] == str(tmp_path / name) and arguments[2:4] == ["--output", str((tmp_path / name).with_suffix(".onnx"))]


@pytest.mark.parametrize("kind", ["pt", "ckpt", "torchscript", "pt2", "ort"])
def test_the_lines_that_are_shown_make_files_that_load(kind: str, tmp_path: Path, python: Preloaded) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch writes the files of this test")
    torch.manual_seed(2)
    layer = torch.nn.GRU(3, 4, batch_first=True)
    x = torch.randn(2, 6, 3)

    class Alone(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: Any) -> Any:
            return self.rnn(x)[0]

    path = tmp_path / f"m.{'pt' if kind == 'torchscript' else kind}"
    layers = None
    if kind in ("pt", "ckpt"):
        state = Alone().state_dict()
        torch.save(state if kind == "pt" else {"epoch": 3, "state_dict": state}, path)
        layers = [("GRU", "rnn")]
    elif kind == "torchscript":
        torch.jit.trace(Alone(), x[:1]).save(path)
    elif kind == "pt2":
        pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
        torch.export.save(torch.export.export(Alone(), (x,)), path)
    else:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(PLAIN, options)
    hinted(path, python)
    made = path.with_suffix(".npz" if layers else ".onnx")
    model = tinyrnn.load(made, layers=layers)
    if kind == "ort":
        assert within("close", model.run(None, feeds(PLAIN))[0], tinyrnn.load(PLAIN).run(None, feeds(PLAIN))[0])
    else:
        given = x[:1] if kind == "torchscript" else x
        assert within("close", model.run(given.numpy()), layer(given)[0].detach().numpy())
