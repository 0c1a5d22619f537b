"""`tinyrnn quantize`: what it prints, draws and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tinyrnn
from tests import MODELS, ROOT
from tinyrnn.cli import main

LANGUAGE = ROOT / "tinyrnn" / "models" / "char_lm.onnx"
SEQUENCE = MODELS / "lstm_layernorm_lstm_dynT_legacy.onnx"
TEXT = "To be, or not to be: that is the question."
SHORT = ("--seconds", 0.02)


def call(*arguments: Any, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["quantize", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status and "Traceback" not in result.output, result.output
    return result


def test_the_table_of_a_model_of_characters() -> None:
    """All of the project's own models are halves: float16 changes nothing."""
    found = call(LANGUAGE, "--text", TEXT, *SHORT).stdout
    lines = {line.split()[0]: line.split() for line in found.splitlines() if line}
    assert lines["float16"][3:5] == ["0", "0"] and float(lines["int8"][3]) > 1e-3
    assert (
        int(lines["int8"][1].replace(",", ""))
        < int(lines["float16"][1].replace(",", ""))
        < int(lines["float32"][1].replace(",", ""))
    )
    assert f"{len(TEXT)} frames of the text" in found and "decisions: of logits, the largest" in found
    assert "dynamics: errors die out" in found


def test_json_a_file_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    data = tmp_path / "x.npy"
    np.save(data, np.random.default_rng(0).standard_normal((50, *tinyrnn.load(SEQUENCE).inputs[0].shape)).astype(np.float32))
    out, picture = tmp_path / "small.npz", tmp_path / "plot.svg"
    found = json.loads(
        call(SEQUENCE, "--data", data, "--frames", 40, "--budget", 0.02, "-o", out, "-p", picture, "--json", *SHORT).stdout
    )
    names = [choice["name"] for choice in found["choices"]]
    assert names[:5] == ["float32", "float16", "bfloat16", "int8:64", "int8"] and names[-1] == "budget 0.02"
    assert found["frames"] == 40 and found["data"] == str(data) and found["choices"][-1]["error"] <= 0.02
    assert (found["file"]["bytes"], found["file"]["before"]) == (out.stat().st_size, SEQUENCE.stat().st_size)
    assert {layer["name"]: layer["storage"] for layer in found["layers"]} == found["file"]["weights"]
    assert picture.read_bytes().startswith(b"<?xml")
    xs = np.load(data)
    wanted = tinyrnn.load(SEQUENCE, weights=found["file"]["weights"]).stream().run(xs)
    assert tinyrnn.load(out).stream().run(xs).tobytes() == wanted.tobytes()


def test_a_file_with_given_weights(tmp_path: Path) -> None:
    out = tmp_path / "small.npz"
    found = call(LANGUAGE, "--weights", "/rnn/LSTM=int8", "--weights", "float16", "-o", out, *SHORT).stdout
    assert "as given" in found and f"{out}: {out.stat().st_size:,} bytes" in found and "loads without options" in found
    metadata = tinyrnn.load(out).metadata
    assert json.loads(metadata["tinyrnn.weights"]) == {"/rnn/LSTM": "int8", "*": "float16"}


def test_sound_in_frames_that_overlap(tmp_path: Path) -> None:
    from tinyrnn.data.files import write_array

    size = tinyrnn.load(SEQUENCE).inputs[0].size
    write_array(tmp_path / "a.wav", np.random.default_rng(3).uniform(-0.5, 0.5, 40 * size).astype(np.float32), 16000, "float")
    found = [
        json.loads(call(SEQUENCE, "--data", tmp_path / "a.wav", *hop, "--json", *SHORT).stdout)["frames"]
        for hop in ((), ("--hop", 1))
    ]
    assert found == [40, 40 * size]


def test_what_it_refuses(tmp_path: Path) -> None:
    def refused(text: str, *arguments: Any, status: int = 1) -> None:
        assert text in call(*arguments, *SHORT, status=status).stderr

    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((9, 3, 3), np.float32))
    refused("supported are float32", LANGUAGE, "--weights", "int3")
    refused("no layer 'tail'", LANGUAGE, "--weights", "tail=int8")
    refused("name it small.npz", LANGUAGE, "-o", tmp_path / "small.onnx")
    refused("there is no folder", LANGUAGE, "-o", tmp_path / "none" / "small.npz")
    refused("is MODEL itself", LANGUAGE, "-o", LANGUAGE)
    refused("unknown kind of picture", LANGUAGE, "-p", tmp_path / "plot.xyz")
    refused("positive number", LANGUAGE, "--budget", -1)
    refused("not both", LANGUAGE, "--budget", 0.1, "--weights", "int8")
    refused("shape", SEQUENCE, "--data", wrong)
    refused("one of them", SEQUENCE, "--data", wrong, "--text", "a", status=2)
    refused("takes no text", SEQUENCE, "--text", "a")
    refused("for --data FILE.wav", SEQUENCE, "--hop", 4, status=2)
    refused(
        "no layer can be smaller than float32 within a budget of 1e-09", SEQUENCE, "--budget", 1e-9, "-o", tmp_path / "small.npz"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.npy"]
