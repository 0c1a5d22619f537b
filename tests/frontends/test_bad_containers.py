"""Broken and hostile .npz files: pickles, zip bombs, headers and JSON that are not what they should be."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hostile import no_compiler, npy, onnx_file, refusal, rewrite, survives, write_zip
from tinyrnn.frontends.npz import write_npz
from tinyrnn.loading import stages as compiler

__all__ = ["no_compiler"]


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


@pytest.mark.parametrize(
    "member",
    [
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
        b"\x93NUMPY\2\0" + struct.pack("<I", 0xFFFFFFFF) + b"{}",
        b"\x93NUMPY\x09\0",
        b"\x93NUM",
        b"",
    ],
    ids=range(20),
)
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
    data[directory + 24 : directory + 28] = struct.pack("<I", 0xF0000000)
    (tmp_path / "m.npz").write_bytes(data)
    assert "zip bomb" in refusal(tmp_path / "m.npz")
    data[directory + 20 : directory + 28] = struct.pack("<II", 0xF0000000, 0xF0000000)
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
    assert "no JSON" in refusal(write_zip(path, {"tinyrnn.npy": npy("[" * 200_000)}))
    for text in ('{"version": ' + "1" * 5000 + "}", '{"version": 1e999}', '{"version": NaN}', "{", ""):
        refusal(write_zip(path, {"tinyrnn.npy": npy(text)}))
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


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (put("version", 2), "version 2"),
        (put("version", "1"), "version '1'"),
        (put("format", "other"), "format 'other'"),
        (without("nodes"), "lacks 'nodes'"),
        (without("values"), "lacks 'values'"),
        (put("more", 1), "unknown entries 'more'"),
        (put("nodes", {}), "'nodes' must be a list"),
        (put("inputs", "x"), "'inputs' must be a list"),
        (put("name", 3), "'name' must be a string"),
        (put("inputs", ["x", "x"]), "input 'x' is listed twice"),
        (put("inputs", ["z"]), "input 'z' has no entry"),
        (put("outputs", []), "no outputs"),
        (put("outputs", ["z"]), "output 'z' is made by no node"),
        (put("outputs", [None]), "must be a string"),
        (put("values", "x", ["float32"]), "value 'x' must be [dtype, shape]"),
        (put("values", "x", ["object", []]), "unknown dtype 'object'"),
        (put("values", "x", ["float32", [-1, 1, 3]]), "absurd shape"),
        (put("values", "x", ["float32", [1 << 40]]), "absurd shape"),
        (put("values", "x", ["float32", [1.5]]), "absurd shape"),
        (put("values", "x", ["float32", [True]]), "absurd shape"),
        (put("values", "x", ["float32", [[]]]), "absurd shape"),
        (put("values", "x", ["float32", [1] * 100]), "absurd shape"),
        (put("constants", "W", "zz"), "'zz', which is not there"),
        (put("constants", "W", 3), "must be a string"),
        (put("constants", {}), "nothing uses the arrays"),
        (put("constants", "x", "0.W"), "both an input and a constant"),
        (put("nodes", 0, {}), "node 0 must have the entries"),
        (put("nodes", 0, "inputs", "x"), "the inputs of node 0 must be a list"),
        (put("nodes", 0, "op", None), "the op of node 0"),
        (put("nodes", 0, "version", 1.0), "the version of node 0"),
        (put("nodes", 0, "inputs", ["y"]), "cycle through 'cell'"),
        (put("nodes", 0, "inputs", ["q"]), "reads 'q', which nothing makes"),
        (put("nodes", 0, "attributes", "clip", None), "attribute 'clip' of node 0"),
        (put("nodes", 0, "attributes", "clip", {"float": "x"}), "'clip'"),
        (put("nodes", 0, "attributes", "clip", [1, "a"]), "one kind of value"),
        (put("nodes", 0, "attributes", "clip", [[1]]), "'clip'"),
        (put("nodes", 0, "attributes", "clip", {"array": []}), "must be a string"),
        (put("nodes", 0, "attributes", "clip", 1 << 63), "'clip'"),
        (put("nodes", 0, "attributes", "clip", True), "'clip'"),
        (put("nodes", 0, "name", "\ud800"), "no text"),
        (put("states", {"x": "z"}), "state 'x' → 'z'"),
        (put("states", ["x"]), "'states' must be an object"),
        (put("metadata", {"a": 1}), "metadata 'a'"),
        (put("dtypes", {"0.W": "float32"}), "unknown dtype 'float32'"),
        (put("dtypes", {"0.W": "__doc__"}), "unknown dtype"),
        (put("dtypes", {"0.W": "bfloat16"}), "holds no bfloat16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_containers_whose_json_is_wrong(change: Callable[[dict[str, Any]], Any], part: str, tmp_path: Path) -> None:
    if part.startswith(("unknown dtype '", "unknown dtype", "holds no")) and "object" not in part:
        pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    graph = compiler.read(onnx_file(tmp_path / "m.onnx"))[0]
    write_npz(tmp_path / "m.npz", graph, {})
    rewrite(tmp_path / "m.npz", change)
    assert part in refusal(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("clip", "none"),
        ("clip", {"float": "nan"}),
        ("hidden_size", "2"),
        ("direction", 3),
        ("activations", 5),
        ("activations", [1, 2, 3]),
        ("activation_alpha", 0.5),
        ("activation_alpha", ["a"]),
        ("layout", [0]),
        ("input_forget", {"array": "0.W"}),
        ("W", "text"),
        ("R", 1),
        ("P", [1]),
    ],
)
@pytest.mark.usefixtures("no_compiler")
def test_container_attributes_of_the_wrong_kind(attribute: str, value: Any, tmp_path: Path) -> None:
    write_npz(tmp_path / "m.npz", compiler.read(onnx_file(tmp_path / "m.onnx"))[0], {})
    rewrite(tmp_path / "m.npz", put("nodes", 0, "attributes", attribute, value))
    survives(tmp_path / "m.npz")
