"""Broken and hostile files: one clear error of the right class, in bounded time; never a crash, a hang or a file touched elsewhere."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import struct
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tinyrnn import compiler
from tinyrnn.errors import LoadError, TargetError, TinyRNNError, UnsupportedError
from tinyrnn.frontends.npz import write_npz
from tinyrnn.passes import bound, prepare

MODELS = Path(__file__).parent / "models"
SMALL = ["lstm_l1_uni_sf_zero_dynT_b1_legacy", "gru_l2_bi_sf_states_dynT_b1_legacy", "classify_gru_last_dynT_dynamo",
         "cell_lstm_stack2_linear_legacy", "packed_state_lstm_step_legacy", "opset11_lm_lstm_scores_dynT_legacy"]
SECONDS = 10
"""that one file may take"""


@contextmanager
def in_time(what: str) -> Iterator[None]:
    """Fail, even inside a loop that never ends, where the block takes too long."""
    def late(*_: Any) -> None:
        pytest.fail(f"{what}: still at it after {SECONDS} s")

    alarm = hasattr(signal, "setitimer")
    if alarm:
        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
    start = time.monotonic()
    try:
        yield
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < SECONDS, what


def refusal(path: Path, kind: type[TinyRNNError] = LoadError, **options: Any) -> str:
    """The text of the error that loading the file gives; it names the file or the model."""
    with in_time(path.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TinyRNNError) as caught:
            tinyrnn.load(path, **options)
    assert type(caught.value) is kind, caught.value
    assert path.stem in str(caught.value)
    return str(caught.value)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` does all but compile."""
    def refuse(source: Any) -> Any:
        raise TargetError("not compiled in this test")

    monkeypatch.setattr(compiler, "compile_source", refuse)


def survives(path: Path) -> None:
    """Loading ends, well or with one of our own errors."""
    with in_time(path.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tinyrnn.load(path)
        except TinyRNNError as error:
            assert str(error)


def tensor(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape), name)


def onnx_model(nodes: list[Any] | None = None, opset: int = 17, shape: Any = ("T", 1, 3), constants: list[Any] | None = None,
               outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """An LSTM with H = 2, or other nodes over the same weights."""
    nodes = [helper.make_node("LSTM", ["x", "W", "R"], ["y"], "cell", hidden_size=2)] if nodes is None else nodes
    constants = [tensor("W", 1, 8, 3), tensor("R", 1, 8, 2)] if constants is None else constants
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def onnx_file(path: Path, *arguments: Any, **options: Any) -> Path:
    path.write_bytes(onnx_model(*arguments, **options).SerializeToString())
    return path


# ---------------------------------------------------------------- not a model at all

@pytest.mark.parametrize("suffix", [".onnx", ".npz"])
@pytest.mark.parametrize("content", [
    b"x", b"a plain text file, renamed\n" * 50, b"\0" * 4096, b"\xff" * 4096, random.Random(5).randbytes(5000), b"PK\5\6" + b"\0" * 18,
    b"PK\3\4" + b"\xff" * 60, b"\x93NUMPY\1\0v\0{'descr': '<f4'", b'{"json": true}', b"\x08\x07", b"\x80\x04K\x01."], ids=lambda c: repr(c[:8]))
def test_files_that_are_no_models(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    refusal(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    assert "a folder" in refusal(tmp_path / "folder.onnx")
    assert "no such file" in refusal(tmp_path / "absent.onnx")
    for suffix in (".onnx", ".npz"):
        (tmp_path / f"empty{suffix}").touch()
        assert "empty" in refusal(tmp_path / f"empty{suffix}")
    (tmp_path / "model.pt").write_bytes(b"x")
    assert "'.pt'; supported are .onnx and .npz" in refusal(tmp_path / "model.pt")


def test_a_protobuf_of_another_kind(tmp_path: Path) -> None:
    for number, message in enumerate((tensor("t", 3), helper.make_tensor_value_info("v", TensorProto.FLOAT, [3]), onnx_model().graph)):
        path = tmp_path / f"other{number}.onnx"
        path.write_bytes(message.SerializeToString())
        refusal(path)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("suffix", [".onnx", ".npz"])
def test_files_cut_short(suffix: str, tmp_path: Path) -> None:
    whole = onnx_model().SerializeToString() if suffix == ".onnx" else container(SMALL[0], tmp_path)
    path = tmp_path / f"cut{suffix}"
    step = max(1, len(whole) // 300)
    for end in range(1, len(whole), step):
        path.write_bytes(whole[:end])
        survives(path)
    path.write_bytes(whole[:len(whole) // 2])
    refusal(path)


# ---------------------------------------------------------------- unsound .onnx

def test_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(24, np.float32).tobytes())
    (folder / "link.bin").symlink_to(secret)
    (folder / "short.bin").write_bytes(b"\0" * 40)
    (folder / "good.bin").write_bytes(np.linspace(-1, 1, 24, dtype=np.float32).tobytes())

    def external(location: str | None, **more: str) -> Path:
        model = onnx_model()
        weights = model.graph.initializer[0]
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in {**({} if location is None else {"location": location}), **more}.items():
            weights.external_data.add(key=key, value=value)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return folder / "m.onnx"

    for location in ("../secret.bin", str(secret), "link.bin", "sub/../../secret.bin", "", None):
        text = refusal(external(location))
        assert "'W'" in text and "outside the model's folder" in text
    for location, part in (("absent.bin", "is not there"), ("short.bin", "which has 40"), ("a\0b", "no plain text"), (".", "not there"),
                           ("n" * 5000, "no file name")):
        text = refusal(external(location))
        assert "'W'" in text or "plain text" in text
        assert part in text
    for more in ({"offset": "4"}, {"offset": "-4"}, {"offset": "9" * 30}, {"length": "95"}, {"length": "0"}):
        assert "needs bytes" in refusal(external("good.bin", **more))
    assert "no numbers" in refusal(external("good.bin", offset="many"))
    x = np.ones((4, 1, 3), np.float32)
    assert np.array_equal(tinyrnn.load(external("good.bin", offset="0", length="96")).run(x),
                          tinyrnn.load(onnx_file(tmp_path / "plain.onnx")).run(x))


@pytest.mark.parametrize("dims", [[-1, 8, 3], [1 << 40, 8, 3], [1 << 31, 1 << 31, 1 << 31], [0, 1 << 62], [1, 8, 4], [25], [1] * 200, [1 << 31]])
def test_initializers_of_absurd_shape(dims: list[int], tmp_path: Path) -> None:
    model = onnx_model()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    text = refusal(tmp_path / "m.onnx")
    assert "'W'" in text and ("absurd shape" in text or "does not hold its data" in text)


def test_raw_data_that_does_not_fit(tmp_path: Path) -> None:
    for raw in (b"", b"\0" * 95, b"\0" * 97, b"\0" * 1_000_000):
        model = onnx_model()
        model.graph.initializer[0].raw_data = raw
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        assert "does not hold its data" in refusal(tmp_path / "m.onnx")
    model.graph.initializer[0].data_type = 99
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refusal(tmp_path / "m.onnx")


@pytest.mark.parametrize("shape", [(-1, 1, 3), (0, 1, 3), (1 << 40, 1, 3), (1 << 20, 1 << 20, 3), (1,) * 100])
def test_inputs_of_absurd_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    assert "input 'x'" in refusal(onnx_file(tmp_path / "m.onnx", shape=shape))


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, f"the {op}", **attributes)


UNSOUND: dict[str, tuple[list[onnx.NodeProto], list[str]]] = {
    "made twice by nodes": ([node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])], ["'y' is made twice", "'the Tanh'"]),
    "made twice by one node": ([node("Split", ["x"], ["y", "y"])], ["'y' is made twice"]),
    "made over an initializer": ([node("Relu", ["x"], ["W"]), node("Tanh", ["W"], ["y"])], ["'W' is made twice"]),
    "made over an input": ([node("Relu", ["x"], ["x"]), node("Tanh", ["x"], ["y"])], ["'x' is made twice"]),
    "constant made twice": ([node("Constant", [], ["W"], value_float=1.0), node("Tanh", ["x"], ["y"])], ["'W' is made twice"]),
    "cycle": ([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Tanh", ["b"], ["y"])], ["cycle through 'the Add'"]),
    "reads itself": ([node("Add", ["x", "y"], ["y"])], ["cycle", "'the Add'"]),
    "undefined value": ([node("Add", ["x", "nowhere"], ["y"])], ["'the Add' (Add) reads 'nowhere', which nothing makes"]),
    "output not made": ([node("Relu", ["x"], ["z"])], ["output 'y' is made by no node"]),
    "attribute of another kind": ([node("LSTM", ["x", "W", "R"], ["y"], hidden_size="two")], ["'the LSTM'", "hidden_size", "STRING", "INT"]),
    "attribute lacking": ([node("Concat", ["x", "x"], ["y"])], ["'the Concat'", "lacks attribute axis"]),
    "name with a line break": ([helper.make_node("Relu", ["x"], ["y"], "a\nimport os")], ["plain text"]),
    "value with a line break": ([node("Relu", ["x"], ["a\rimport os"]), node("Tanh", ["a\rimport os"], ["y"])], ["plain text"]),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_unsound_graphs(case: str, tmp_path: Path) -> None:
    nodes, parts = UNSOUND[case]
    text = refusal(onnx_file(tmp_path / "m.onnx", nodes))
    for part in parts:
        assert part in text


def test_lists_with_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert "'W' is made twice" in refusal(onnx_file(path, constants=[tensor("W", 1, 8, 3), tensor("W", 1, 8, 3), tensor("R", 1, 8, 2)]))
    assert "output 'y' is listed twice" in refusal(onnx_file(path, outputs=("y", "y")))
    assert "no outputs" in refusal(onnx_file(path, outputs=()))
    model = onnx_model()
    model.graph.input.append(model.graph.input[0])
    path.write_bytes(model.SerializeToString())
    assert "input 'x' is listed twice" in refusal(path)
    model = onnx_model()
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    path.write_bytes(model.SerializeToString())
    assert "hidden_size twice" in refusal(path)


def test_a_long_chain_in_reverse_takes_no_longer(tmp_path: Path) -> None:
    count = 30_000
    nodes = [node("Neg", [f"v{i}" if i else "x"], [f"v{i + 1}" if i + 1 < count else "loose"]) for i in reversed(range(count))]
    refusal(onnx_file(tmp_path / "m.onnx", [*nodes, node("Add", ["loose", "nowhere"], ["y"])]))
    refusal(onnx_file(tmp_path / "m.onnx", [*nodes, node("Unknown", ["loose"], ["y"])]), UnsupportedError)


def test_functions_that_unfold_without_end(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model = onnx_model([helper.make_node("f40", ["x"], ["y"], domain="local")])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(helper.make_function("local", "f0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets))
    for i in range(1, 41):
        calls = [helper.make_node(f"f{i - 1}", ["a"], ["m"], domain="local"), helper.make_node(f"f{i - 1}", ["m"], ["b"], domain="local")]
        model.functions.append(helper.make_function("local", f"f{i}", ["a"], ["b"], calls, opsets))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "unfold to more than" in refusal(tmp_path / "m.onnx")
    model.functions[0].node[0].CopyFrom(helper.make_node("f40", ["a"], ["b"], domain="local"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "calls itself" in refusal(tmp_path / "m.onnx")


def test_an_empty_constant_beside_an_open_size(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", constants=[tensor("W", 1, 8, 3), tensor("R", 1, 8, 2), tensor("nothing", 0)],
                     nodes=[node("LSTM", ["x", "W", "R"], ["h"], hidden_size=2), node("Shape", ["nothing"], ["s"]),
                            node("Concat", ["h", "h"], ["y"], axis=3), node("Identity", ["s"], ["n"])], outputs=("y", "n"))
    survives(path)


def test_names_do_not_become_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    evil = f'm"""+str(open({str(marker)!r},"w"))+"""'.replace("/", "\\x2f")
    survives(onnx_file(tmp_path / f"{evil}.onnx"))
    graph = bound(compiler.read(onnx_file(tmp_path / "m.onnx"))[0], None, None)
    write_npz(tmp_path / "m.npz", graph, {})
    rewrite(tmp_path / "m.npz", lambda document: document | {"name": evil})
    survives(tmp_path / "m.npz")
    rewrite(tmp_path / "m.npz", lambda document: document["nodes"][0].update(name=f"a\n    open({str(marker)!r}, 'w')") or document)
    assert "plain text" in refusal(tmp_path / "m.npz")
    assert not marker.exists()


# ---------------------------------------------------------------- what is not supported

def test_opsets(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    for version in (6, newest + 1, 0, -1, 1 << 40):
        text = refusal(onnx_file(tmp_path / "m.onnx", opset=version), UnsupportedError)
        assert f"opset {version}" in text and f"7 to {newest}" in text


def test_operators_and_attributes_all_at_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["a"], "first"), helper.make_node("NonZero", ["x"], ["b"], "second"),
             helper.make_node("Fancy", ["x"], ["c"], "third", domain="com.example"), helper.make_node("Relu", ["x"], ["d"], "fourth", slope=2.0),
             helper.make_node("Tanh", ["x", "x"], ["e"], "fifth"), helper.make_node("Identity", ["x"], ["fine"])]
    path = onnx_file(tmp_path / "m.onnx", nodes, outputs=("a", "b", "c", "d", "e", "fine"))
    text = refusal(path, UnsupportedError)
    for part in ("operator Det: node 'first'", "operator NonZero: node 'second'", "operator com.example.Fancy: node 'third'",
                 "Relu with attribute slope=2.0", "'fourth'", "Tanh with 2 inputs", "'fifth'", "outputs=['fine']"):
        assert part in text
    assert tinyrnn.load(path, outputs=["fine"]).outputs[0].name == "fine"


def test_inputs_of_other_types(tmp_path: Path) -> None:
    model = onnx_model([node("Identity", ["x"], ["y"])])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "input 'x' is of the type STRING" in refusal(tmp_path / "m.onnx", UnsupportedError)
    model.graph.input[0].type.Clear()
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "input 'x' is a sequence_type" in refusal(tmp_path / "m.onnx", UnsupportedError)
    model.graph.input[0].type.Clear()
    model.graph.input[0].type.tensor_type.elem_type = 1
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "has no shape" in refusal(tmp_path / "m.onnx", UnsupportedError)


# ---------------------------------------------------------------- unsound .npz

def container(name: str, folder: Path) -> bytes:
    graph = bound(compiler.read(MODELS / f"{name}.onnx")[0], None, None)
    write_npz(folder / "whole.npz", graph, prepare(graph).states)
    return (folder / "whole.npz").read_bytes()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the JSON of a container."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(str(np.load(io.BytesIO(members.pop("tinyrnn.npy")))))
    write_zip(path, members | {"tinyrnn.npy": npy(json.dumps(change(document)))})


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_pickles_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "m.npz", a=np.array([Bomb()], object))
    assert "'a' holds pickled Python objects, which could run code and are never read" in refusal(tmp_path / "m.npz")
    np.savez(tmp_path / "m.npz", tinyrnn=np.array(Bomb(), object))
    assert "pickled" in refusal(tmp_path / "m.npz")
    for name in ("data.pkl", "a.npy"):
        refusal(write_zip(tmp_path / "m.npz", {name: pickle.dumps(Bomb())}))
    (tmp_path / "m.npz").write_bytes(pickle.dumps(Bomb()))
    refusal(tmp_path / "m.npz")
    assert not (tmp_path / "exploded").exists()


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode("latin1") + data


@pytest.mark.parametrize("member", [
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999999,), }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1" * 9000 + ",), }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 4000 + "), }", b"\0" * 4),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }", b"\0" * 16),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", b"\0" * 8),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", b"\0" * 16),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (3, }"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 9000),
    header("{'descr': __import__('os').mkdir('exploded'), 'fortran_order': False, 'shape': (), }"),
    header("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
    header("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
    header("{'descr': '<U999999999999', 'fortran_order': False, 'shape': (), }"),
    header("{'descr': '|V4', 'fortran_order': False, 'shape': (1,), }", b"\0" * 4),
    header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", b"\0" * 4),
    header("{'descr': '<f99999', 'fortran_order': False, 'shape': (1,), }", b"\0" * 4),
    b"\x93NUMPY\2\0" + struct.pack("<I", 0xFFFFFFFF) + b"{}", b"\x93NUMPY\x09\0", b"\x93NUM", b""], ids=range(20))
def test_headers(member: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "a" in refusal(write_zip(tmp_path / "m.npz", {"a.npy": member}))
    assert not (tmp_path / "exploded").exists()


def test_zip_bombs(tmp_path: Path) -> None:
    write_zip(tmp_path / "m.npz", {"a.npy": npy(np.zeros(40_000_000, np.float32))}, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "m.npz").stat().st_size < 1_000_000
    assert "zip bomb" in refusal(tmp_path / "m.npz")
    noise = np.random.default_rng(1).integers(0, 255, 1 << 20, np.uint8)
    write_zip(tmp_path / "m.npz", {"a.npy": npy(noise)})
    data = bytearray((tmp_path / "m.npz").read_bytes())
    directory = data.rindex(b"PK\1\2")
    data[directory + 24:directory + 28] = struct.pack("<I", 0xF0000000)
    (tmp_path / "m.npz").write_bytes(data)
    assert "zip bomb" in refusal(tmp_path / "m.npz")
    data[directory + 20:directory + 28] = struct.pack("<II", 0xF0000000, 0xF0000000)
    (tmp_path / "m.npz").write_bytes(data)
    assert "bytes when unpacked" in refusal(tmp_path / "m.npz")


def test_archives_that_are_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    good = npy(np.zeros(3, np.float32))
    assert "holds no arrays" in refusal(write_zip(path, {}))
    assert "'readme.txt' is no array" in refusal(write_zip(path, {"a.npy": good, "readme.txt": b"x"}))
    assert "compressed by method" in refusal(write_zip(path, {"a.npy": good}, zipfile.ZIP_LZMA))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.npy", good)
        archive.writestr("a.npy", good)
    assert "'a' is there twice" in refusal(path)
    data = bytearray(write_zip(path, {"a.npy": good}).read_bytes())
    data[data.index(b"NUMPY") + 60] ^= 1
    path.write_bytes(data)
    refusal(path)
    text = np.array("[" * 200_000)
    assert "no JSON" in refusal(write_zip(path, {"tinyrnn.npy": npy(text)}))
    for text in ('{"version": ' + "1" * 5000 + "}", '{"version": 1e999}', '{"version": NaN}', "{", ""):
        refusal(write_zip(path, {"tinyrnn.npy": npy(np.array(text))}))
    for array in (np.array(["{}"]), np.array(3.0), np.array(b"{}")):
        refusal(write_zip(path, {"tinyrnn.npy": npy(array)}))


def put(*place: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A change of the JSON: the last of `place` is put where the others lead."""
    def change(document: dict[str, Any]) -> dict[str, Any]:
        holder: Any = document
        for key in place[:-2]:
            holder = holder[key]
        holder[place[-2]] = place[-1]
        return document

    return change


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: {k: v for k, v in document.items() if k != key}


@pytest.mark.parametrize(("change", "part"), [
    (put("version", 2), "version 2"), (put("version", "1"), "version '1'"), (put("format", "other"), "format 'other'"),
    (without("nodes"), "lacks 'nodes'"), (without("values"), "lacks 'values'"), (put("more", 1), "unknown entries 'more'"),
    (put("nodes", {}), "'nodes' must be a list"), (put("inputs", "x"), "'inputs' must be a list"), (put("name", 3), "'name' must be a string"),
    (put("inputs", ["x", "x"]), "input 'x' is listed twice"), (put("inputs", ["z"]), "input 'z' has no entry"), (put("outputs", []), "no outputs"),
    (put("outputs", ["z"]), "output 'z' is made by no node"), (put("outputs", [None]), "must be a string"),
    (put("values", "x", ["float32"]), "value 'x' must be [dtype, shape]"), (put("values", "x", ["object", []]), "unknown dtype 'object'"),
    (put("values", "x", ["float32", [-1, 1, 3]]), "absurd shape"), (put("values", "x", ["float32", [1 << 40]]), "absurd shape"),
    (put("values", "x", ["float32", [1.5]]), "absurd shape"), (put("values", "x", ["float32", [True]]), "absurd shape"),
    (put("values", "x", ["float32", [[]]]), "absurd shape"), (put("values", "x", ["float32", [1] * 100]), "absurd shape"),
    (put("constants", "W", "zz"), "'zz', which is not there"), (put("constants", "W", 3), "must be a string"),
    (put("constants", {}), "nothing uses the arrays"), (put("constants", "x", "0.W"), "both an input and a constant"),
    (put("nodes", 0, {}), "node 0 must have the entries"), (put("nodes", 0, "inputs", "x"), "the inputs of node 0 must be a list"),
    (put("nodes", 0, "op", None), "the op of node 0"), (put("nodes", 0, "version", 1.0), "the version of node 0"),
    (put("nodes", 0, "inputs", ["y"]), "cycle through 'cell'"), (put("nodes", 0, "inputs", ["q"]), "reads 'q', which nothing makes"),
    (put("nodes", 0, "attributes", "clip", None), "attribute 'clip' of node 0"), (put("nodes", 0, "attributes", "clip", {"float": "x"}), "'clip'"),
    (put("nodes", 0, "attributes", "clip", [1, "a"]), "one kind of value"), (put("nodes", 0, "attributes", "clip", [[1]]), "'clip'"),
    (put("nodes", 0, "attributes", "clip", {"array": []}), "must be a string"), (put("nodes", 0, "attributes", "clip", 1 << 63), "'clip'"),
    (put("nodes", 0, "attributes", "clip", True), "'clip'"), (put("nodes", 0, "name", "\ud800"), "no text"),
    (put("states", {"x": "z"}), "state 'x' → 'z'"), (put("states", ["x"]), "'states' must be an object"), (put("metadata", {"a": 1}), "metadata 'a'"),
    (put("dtypes", {"0.W": "float32"}), "unknown dtype 'float32'"), (put("dtypes", {"0.W": "__doc__"}), "unknown dtype"),
    (put("dtypes", {"0.W": "bfloat16"}), "holds no bfloat16"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_containers_whose_json_is_wrong(change: Callable[[dict[str, Any]], Any], part: str, tmp_path: Path) -> None:
    if part.startswith(("unknown dtype '", "unknown dtype", "holds no")) and "object" not in part:
        pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    graph = compiler.read(onnx_file(tmp_path / "m.onnx"))[0]
    write_npz(tmp_path / "m.npz", graph, {})
    rewrite(tmp_path / "m.npz", change)
    assert part in refusal(tmp_path / "m.npz")


@pytest.mark.parametrize(("attribute", "value"), [
    ("clip", "none"), ("clip", {"float": "nan"}), ("hidden_size", "2"), ("direction", 3), ("activations", 5), ("activations", [1, 2, 3]),
    ("activation_alpha", 0.5), ("activation_alpha", ["a"]), ("layout", [0]), ("input_forget", {"array": "0.W"}), ("W", "text"), ("R", 1), ("P", [1])])
@pytest.mark.usefixtures("no_compiler")
def test_container_attributes_of_the_wrong_kind(attribute: str, value: Any, tmp_path: Path) -> None:
    write_npz(tmp_path / "m.npz", compiler.read(onnx_file(tmp_path / "m.onnx"))[0], {})
    rewrite(tmp_path / "m.npz", put("nodes", 0, "attributes", attribute, value))
    survives(tmp_path / "m.npz")
