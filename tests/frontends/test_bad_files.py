"""Broken and hostile files: one clear error of the right class, in bounded time; no crash, hang, or file touched elsewhere."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tinyrnn
from tests.hostile import SMALL, container, no_compiler, node, onnx_file, onnx_model, refusal, rewrite, survives, tensor
from tinyrnn.errors import UnsupportedError
from tinyrnn.frontends.npz import write_npz
from tinyrnn.loading import stages as compiler
from tinyrnn.passes import bound

__all__ = ["no_compiler"]


# ---------------------------------------------------------------- not a model at all


@pytest.mark.parametrize("suffix", [".onnx", ".npz"])
@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"a plain text file, renamed\n" * 50,
        b"\0" * 4096,
        b"\xff" * 4096,
        random.Random(5).randbytes(5000),
        b"PK\5\6" + b"\0" * 18,
        b"PK\3\4" + b"\xff" * 60,
        b"\x93NUMPY\1\0v\0{'descr': '<f4'",
        b'{"json": true}',
        b"\x08\x07",
        b"\x80\x04K\x01.",
    ],
    ids=lambda c: repr(c[:8]),
)
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
    assert "a PyTorch file" in refusal(tmp_path / "model.pt")


def test_a_protobuf_of_another_kind(tmp_path: Path) -> None:
    for number, message in enumerate(
        (tensor("t", 3), helper.make_tensor_value_info("v", TensorProto.FLOAT, [3]), onnx_model().graph)
    ):
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
    path.write_bytes(whole[: len(whole) // 2])
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
    for location, part in (
        ("absent.bin", "is not there"),
        ("short.bin", "which has 40"),
        ("a\0b", "no plain text"),
        (".", "not there"),
        ("n" * 5000, "no file name"),
    ):
        text = refusal(external(location))
        assert "'W'" in text or "plain text" in text
        assert part in text
    for more in ({"offset": "4"}, {"offset": "-4"}, {"offset": "9" * 30}, {"length": "95"}, {"length": "0"}):
        assert "needs bytes" in refusal(external("good.bin", **more))
    assert "no numbers" in refusal(external("good.bin", offset="many"))
    x = np.ones((4, 1, 3), np.float32)
    assert np.array_equal(
        tinyrnn.load(external("good.bin", offset="0", length="96")).run(x),
        tinyrnn.load(onnx_file(tmp_path / "plain.onnx")).run(x),
    )


@pytest.mark.parametrize(
    "dims", [[-1, 8, 3], [1 << 40, 8, 3], [1 << 31, 1 << 31, 1 << 31], [0, 1 << 62], [1, 8, 4], [25], [1] * 200, [1 << 31]]
)
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


UNSOUND: dict[str, tuple[list[onnx.NodeProto], list[str]]] = {
    "made twice by nodes": ([node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])], ["'y' is made twice", "'the Tanh'"]),
    "made twice by one node": ([node("Split", ["x"], ["y", "y"])], ["'y' is made twice"]),
    "made over an initializer": ([node("Relu", ["x"], ["W"]), node("Tanh", ["W"], ["y"])], ["'W' is made twice"]),
    "made over an input": ([node("Relu", ["x"], ["x"]), node("Tanh", ["x"], ["y"])], ["'x' is made twice"]),
    "constant made twice": ([node("Constant", [], ["W"], value_float=1.0), node("Tanh", ["x"], ["y"])], ["'W' is made twice"]),
    "cycle": (
        [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Tanh", ["b"], ["y"])],
        ["cycle through 'the Add'"],
    ),
    "reads itself": ([node("Add", ["x", "y"], ["y"])], ["cycle", "'the Add'"]),
    "undefined value": ([node("Add", ["x", "nowhere"], ["y"])], ["'the Add' (Add) reads 'nowhere', which nothing makes"]),
    "output not made": ([node("Relu", ["x"], ["z"])], ["output 'y' is made by no node"]),
    "attribute of another kind": (
        [node("LSTM", ["x", "W", "R"], ["y"], hidden_size="two")],
        ["'the LSTM'", "hidden_size", "STRING", "INT"],
    ),
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
    assert "'W' is made twice" in refusal(
        onnx_file(path, constants=[tensor("W", 1, 8, 3), tensor("W", 1, 8, 3), tensor("R", 1, 8, 2)])
    )
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
        calls = [
            helper.make_node(f"f{i - 1}", ["a"], ["m"], domain="local"),
            helper.make_node(f"f{i - 1}", ["m"], ["b"], domain="local"),
        ]
        model.functions.append(helper.make_function("local", f"f{i}", ["a"], ["b"], calls, opsets))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "unfold to more than" in refusal(tmp_path / "m.onnx")
    model.functions[0].node[0].CopyFrom(helper.make_node("f40", ["a"], ["b"], domain="local"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "calls itself" in refusal(tmp_path / "m.onnx")


def test_an_empty_constant_beside_an_open_size(tmp_path: Path) -> None:
    path = onnx_file(
        tmp_path / "m.onnx",
        constants=[tensor("W", 1, 8, 3), tensor("R", 1, 8, 2), tensor("nothing", 0)],
        nodes=[
            node("LSTM", ["x", "W", "R"], ["h"], hidden_size=2),
            node("Shape", ["nothing"], ["s"]),
            node("Concat", ["h", "h"], ["y"], axis=3),
            node("Identity", ["s"], ["n"]),
        ],
        outputs=("y", "n"),
    )
    survives(path)


def test_names_do_not_become_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    evil = f'm"""+str(open({str(marker)!r},"w"))+"""'.replace("/", "\\x2f")
    survives(onnx_file(tmp_path / f"{evil}.onnx"))
    graph = bound(compiler.read(onnx_file(tmp_path / "m.onnx"))[0], None, None)
    write_npz(tmp_path / "m.npz", graph, {})
    rewrite(tmp_path / "m.npz", lambda document: document | {"name": evil})
    survives(tmp_path / "m.npz")
    rewrite(
        tmp_path / "m.npz", lambda document: document["nodes"][0].update(name=f"a\n    open({str(marker)!r}, 'w')") or document
    )
    assert "plain text" in refusal(tmp_path / "m.npz")
    assert not marker.exists()


# ---------------------------------------------------------------- what is not supported


def test_opsets(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    for version in (6, newest + 1, 0, -1, 1 << 40):
        text = refusal(onnx_file(tmp_path / "m.onnx", opset=version), UnsupportedError)
        assert f"opset {version}" in text and f"7 to {newest}" in text


def test_operators_and_attributes_all_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], "first"),
        helper.make_node("Unique", ["x"], ["b"], "second"),
        helper.make_node("Fancy", ["x"], ["c"], "third", domain="com.example"),
        helper.make_node("Relu", ["x"], ["d"], "fourth", slope=2.0),
        helper.make_node("Tanh", ["x", "x"], ["e"], "fifth"),
        helper.make_node("Identity", ["x"], ["fine"]),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, outputs=("a", "b", "c", "d", "e", "fine"))
    text = refusal(path, UnsupportedError)
    for part in (
        "operator Det: node 'first'",
        "operator Unique: node 'second'",
        "operator com.example.Fancy: node 'third'",
        "Relu with attribute slope=2.0",
        "'fourth'",
        "Tanh with 2 inputs",
        "'fifth'",
        "outputs=['fine']",
    ):
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
