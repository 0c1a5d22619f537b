"""A model or a stream is neither copied nor pickled: its addresses belong to one process. The errors say what to write."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests import MODELS
from tests.hostile import onnx_file
from tinyrnn.decode import Decoder

WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "pickle 0": lambda held: pickle.dumps(held, 0),
    "inside": lambda held: copy.deepcopy({"held": [held]}),
}


@pytest.fixture(scope="module")
def model() -> tinyrnn.Model:
    return tinyrnn.load(MODELS / "lstm_l1_uni_sf_zero_dynT_b1_legacy.onnx")


@pytest.mark.parametrize("way", WAYS)
def test_what_holds_addresses_is_refused(way: str, model: tinyrnn.Model) -> None:
    stream = model.stream()
    tracer = model._tracer() if model._tracer else None
    for held, advice in ((model, "tinyrnn.save"), (stream, "stream.fork()"), (stream._driver, "anew"), (stream._context, "anew")):
        with pytest.raises(tinyrnn.CopyError) as caught:
            WAYS[way](held)
        assert advice in str(caught.value) and isinstance(caught.value, TypeError)
    if way != "copy":
        with pytest.raises(tinyrnn.CopyError):
            WAYS[way](tracer)
    frame = np.ones(model.inputs[0].shape, np.float32)
    assert np.array_equal(stream.step(frame), model.stream().step(frame))


def test_models_of_several_sizes_and_decoders(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("Softmax", ["x"], ["s"], axis=1), helper.make_node("MatMul", ["s", "s"], ["y"])]
    sized = tinyrnn.load(onnx_file(tmp_path / "m.onnx", nodes, shape=(1, "N", "N"), constants=[]))
    decoder = Decoder(tinyrnn.load(MODELS / "opset11_lm_lstm_scores_dynT_legacy.onnx"))
    for held in (sized, decoder):
        for way in WAYS.values():
            with pytest.raises(tinyrnn.CopyError):
                way(held)


def test_what_describes_a_model_is_copied(model: tinyrnn.Model) -> None:
    stream = model.stream()
    assert copy.deepcopy(model.inputs) == model.inputs
    assert pickle.loads(pickle.dumps(model.outputs)) == model.outputs
    assert np.array_equal(pickle.loads(pickle.dumps(stream.state)), stream.state)


def test_another_process_sees_the_message(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        "import multiprocessing, sys, tinyrnn\n"
        "def work(model): return model.name\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        pool.map(work, [tinyrnn.load(sys.argv[1])])\n"
    )
    command = [sys.executable, str(script), str(MODELS / "lstm_l1_uni_sf_zero_dynT_b1_legacy.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "tinyrnn.errors.CopyError" in done.stderr and "another process loads the file itself" in done.stderr
