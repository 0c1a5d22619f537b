"""What the tests of broken files share: how a refusal is checked, and small models to break."""

from __future__ import annotations

import io
import json
import signal
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
from tests import MODELS
from tinyrnn.errors import LoadError, TargetError, TinyRNNError
from tinyrnn.frontends.npz import write_npz
from tinyrnn.loading import stages as compiler
from tinyrnn.passes import bound, prepare

SMALL = [
    "lstm_l1_uni_sf_zero_dynT_b1_legacy",
    "gru_l2_bi_sf_states_dynT_b1_legacy",
    "classify_gru_last_dynT_dynamo",
    "cell_lstm_stack2_linear_legacy",
    "packed_state_lstm_step_legacy",
    "opset11_lm_lstm_scores_dynT_legacy",
]
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
    assert isinstance(caught.value, kind), caught.value
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


def onnx_model(
    nodes: list[Any] | None = None,
    opset: int = 17,
    shape: Any = ("T", 1, 3),
    constants: list[Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    """An LSTM with H = 2, or other nodes over the same weights."""
    nodes = [helper.make_node("LSTM", ["x", "W", "R"], ["y"], "cell", hidden_size=2)] if nodes is None else nodes
    constants = [tensor("W", 1, 8, 3), tensor("R", 1, 8, 2)] if constants is None else constants
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def onnx_file(path: Path, *arguments: Any, **options: Any) -> Path:
    path.write_bytes(onnx_model(*arguments, **options).SerializeToString())
    return path


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, f"the {op}", **attributes)


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
