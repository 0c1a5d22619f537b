"""Files with random damage: loading ends soon, well or with one of our own errors. Seeded, so that a failure repeats."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tinyrnn
from tests import MODELS
from tests.hostile import SMALL, container, no_compiler, npy, survives, write_zip
from tests.whole.fuzzing import Counts, found

__all__ = ["no_compiler"]

pytestmark = pytest.mark.filterwarnings("ignore")
COUNT = 600
INTEGERS = [0, 1, -1, 2, 3, 7, 13, 2**31 - 1, 2**31, 2**40, -(2**63), 2**63 - 1]
FLOATS = [0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30]
TEXTS = [
    "",
    "x",
    "Concat",
    "LSTM",
    "GRU",
    "Slice",
    "Transpose",
    "Add",
    "Split",
    "Pad",
    "Range",
    "ConstantOfShape",
    "Expand",
    "Reshape",
    "\n",
    "é",
]
JSON = [
    0,
    1,
    -1,
    3,
    2**31,
    2**62,
    1.5,
    "",
    "x",
    "Concat",
    "LSTM",
    "GRU",
    "Relu",
    [],
    {},
    None,
    True,
    [1, 2],
    [1.5],
    ["a"],
    {"float": "nan"},
    {"array": "zz"},
    "reverse",
    1e30,
]
KEYS = [
    "axis",
    "perm",
    "clip",
    "direction",
    "activations",
    "activation_alpha",
    "to",
    "hidden_size",
    "layout",
    "epsilon",
    "axes",
    "shape",
    "value",
    "input_forget",
    "W",
    "R",
    "B",
    "steps",
]


def original(suffix: str, name: str, folder: Path) -> bytes:
    return (MODELS / f"{name}.onnx").read_bytes() if suffix == ".onnx" else container(name, folder)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, removed, put in, or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place, kind = rng.randrange(max(len(changed), 1)), rng.random()
        if kind < 0.5:
            changed[place : place + 1] = bytes([rng.randrange(256)])
        elif kind < 0.7 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind < 0.8:
            del changed[place : place + rng.randrange(1, 20)]
        elif kind < 0.9:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            del changed[max(place, 1) :]
    return bytes(changed)


def fields(message: Any) -> list[tuple[Any, Any]]:
    """Every field that is set, of a message and those inside it."""
    found = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                found += fields(inner)
    return found


def other_value(field: Any, names: list[str], rng: random.Random) -> Any:
    if field.type == field.TYPE_INT64:
        return rng.choice(INTEGERS)
    if field.type == field.TYPE_INT32:
        return rng.choice([n for n in INTEGERS if -(2**31) <= n < 2**31])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == field.TYPE_STRING:
        return rng.choice(TEXTS + names)
    if field.type == field.TYPE_BYTES:
        return rng.choice([b"", b"abc", b"\xff" * 8, b"Relu", b"reverse", b"\0" * 400])
    if field.type == field.TYPE_ENUM:
        return rng.choice([entry.number for entry in field.enum_type.values])
    return 1


def rearranged_onnx(data: bytes, rng: random.Random) -> bytes:
    """A sound protobuf in which fields have other values, or are gone, or stand twice."""
    model = onnx.load_from_string(data)
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    for _ in range(rng.choice([1, 1, 2, 3])):
        message, field = rng.choice(fields(model))
        values = getattr(message, field.name)
        if not field.is_repeated:
            if field.type == field.TYPE_MESSAGE or rng.random() < 0.2:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, other_value(field, names, rng))
            continue
        kind = rng.random()
        if kind < 0.4:
            del values[rng.randrange(len(values))]
        elif field.type == field.TYPE_MESSAGE:
            values.add().CopyFrom(rng.choice(values))
        elif kind < 0.7:
            values.append(other_value(field, names, rng))
        else:
            values[rng.randrange(len(values))] = other_value(field, names, rng)
    return model.SerializeToString()  # type: ignore[no-any-return]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a JSON document."""
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [pair for key, inner in entries for pair in [(value, key), *places(inner)]]


def rearranged_npz(data: bytes, rng: random.Random, path: Path) -> bytes:
    """A sound archive whose JSON has other values, or lacks some."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(str(np.load(io.BytesIO(members["tinyrnn.npy"]))))
    for _ in range(rng.choice([1, 1, 2, 3])):
        where = places(document)
        holder, key = rng.choice(where)
        kind = rng.random()
        if kind < 0.15:
            del holder[key]
        elif kind < 0.5:
            holder[key] = json.loads(json.dumps(rng.choice(JSON)))
        elif kind < 0.65:
            other, place = rng.choice(where)
            holder[key] = json.loads(json.dumps(other[place]))
        else:
            nodes = [n for n in document.get("nodes") or [] if isinstance(n, dict) and isinstance(n.get("attributes"), dict)]
            if nodes:
                rng.choice(nodes)["attributes"][rng.choice(KEYS)] = rng.choice(JSON)
    members["tinyrnn.npy"] = npy(json.dumps(document))
    return write_zip(path, members).read_bytes()


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("suffix", [".onnx", ".npz"])
def test_random_bytes(suffix: str, tmp_path: Path) -> None:
    rng = random.Random(f"bytes {suffix}")
    wholes = [original(suffix, name, tmp_path) for name in SMALL]
    for index in range(COUNT):
        path = tmp_path / f"bytes{index}{suffix}"
        path.write_bytes(damaged(rng.choice(wholes), rng) or b"x")
        survives(path)
        path.unlink()


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("suffix", [".onnx", ".npz"])
def test_random_structure(suffix: str, tmp_path: Path) -> None:
    rng = random.Random(f"structure {suffix}")
    wholes = [original(suffix, name, tmp_path) for name in SMALL]
    for index in range(2 * COUNT):
        path, whole = tmp_path / f"structure{index}{suffix}", rng.choice(wholes)
        path.write_bytes(rearranged_onnx(whole, rng) if suffix == ".onnx" else rearranged_npz(whole, rng, path))
        survives(path)
        path.unlink()


def test_damaged_files_that_load_also_run(tmp_path: Path) -> None:
    rng = random.Random("run")
    whole = original(".onnx", SMALL[0], tmp_path)
    for index in range(12):
        path = tmp_path / f"run{index}.onnx"
        path.write_bytes(damaged(whole, rng))
        try:
            model = tinyrnn.load(path)
            model.run(*(np.zeros([n if isinstance(n, int) else 3 for n in port.file_shape], port.dtype) for port in model.inputs))
        except tinyrnn.TinyRNNError as error:
            assert str(error)


STRUCTURES = 4000 if os.environ.get("TINYRNN_ALL") else 120


@pytest.mark.parametrize("part", range(2))
def test_changed_structure(part: int) -> None:
    """What loads does what onnxruntime does, and what does not is refused, in bounded time and memory."""
    counts, first = Counts(), 7_000_000 + part * 1_000_000
    findings = [f"{f.base}, seed {f.seed}: {f.text}" for f in found(first, STRUCTURES // 2, counts)]
    assert not findings, "\n".join(findings)
    assert counts.agreed > counts.models / 5, counts
