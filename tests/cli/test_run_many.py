"""`tinyrnn run` over many files: each gives the bytes that it gives alone, and what cannot be is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tinyrnn
from tests import MODELS, ROOT
from tinyrnn.cli import main, side_by_side
from tinyrnn.data import files
from tinyrnn.runtime import Pool

SEQUENCE = MODELS / "lstm_layernorm_lstm_dynT_legacy.onnx"
STATES = MODELS / "lstm_l2_uni_sf_states_dynT_dynB_legacy.onnx"
LATE = MODELS / "architectures" / "lookahead_open_dynamo.onnx"
SINGLE = MODELS / "classify_lstm_last_dynT_legacy.onnx"
BACKWARD = MODELS / "gru_l3_bi_bf_final_dynT_dynB_legacy.onnx"
LANGUAGE = ROOT / "tinyrnn" / "models" / "char_lm.onnx"
LENGTHS = (7, 40, 1, 23, 40, 16)


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["run", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def filled(folder: Path, path: Path, *kinds: str) -> list[Path]:
    """Files of frames for a model, of these kinds in turn."""
    rng, port = np.random.default_rng(0), tinyrnn.load(path).inputs[0]
    folder.mkdir()
    made = []
    for number, count in enumerate(LENGTHS):
        made.append(folder / f"rec{number}.{kinds[number % len(kinds)]}")
        values = (
            rng.integers(0, 20, (count, *port.shape)) if port.dtype.kind == "i" else rng.uniform(-0.9, 0.9, (count, *port.shape))
        )
        files.write_array(made[-1], values.astype(port.dtype))
    return made


def as_alone(model: Path, inputs: list[Path], folder: Path, *options: object, form: str = "") -> None:
    """Every output in the folder has the bytes of a run of its file alone."""
    alone = folder.parent / "alone"
    alone.mkdir(exist_ok=True)
    for path in inputs:
        name = f"{path.stem}{form or path.suffix}"
        call(model, path, "-o", alone / name, *options)
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name
    assert len(list(folder.iterdir())) == len(inputs)


@pytest.mark.parametrize(
    ("model", "form", "options"),
    [
        (SEQUENCE, "", ()),
        (SEQUENCE, ".csv", ()),
        (LATE, "", ()),
        (SINGLE, ".npz", ()),
        (LANGUAGE, ".npy", ()),
        (BACKWARD, ".npz", ("--whole",)),
    ],
    ids=lambda value: getattr(value, "stem", str(value)),
)
def test_a_folder_gives_the_bytes_of_every_file_alone(tmp_path: Path, model: Path, form: str, options: tuple[str, ...]) -> None:
    inputs = filled(tmp_path / "in", model, "npy", "npz", *(() if model == LATE else ("csv",)))
    made = call(model, tmp_path / "in", "-o", tmp_path / "out", *options, *(("--format", form[1:]) if form else ())).stdout
    assert made.startswith("6 files, 127 frames in ") and made.endswith(f" µs each; {tmp_path / 'out'}\n")
    as_alone(model, inputs, tmp_path / "out", *options, form=form)


def test_files_of_a_block_are_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    run = Pool.run

    def seen(self: Pool, *inputs: Any, **named: Any) -> Any:
        if len(named["which"]):
            calls.append(named["lengths"].tolist())
        return run(self, *inputs, **named)

    monkeypatch.setattr(Pool, "run", seen)
    filled(tmp_path / "in", SEQUENCE, "npy")
    call(SEQUENCE, tmp_path / "in", "-o", tmp_path / "a")
    assert calls == [sorted(LENGTHS, reverse=True)]
    model = tinyrnn.load(SEQUENCE)
    monkeypatch.setattr(side_by_side, "BLOCK_BYTES", 4 * (model.inputs[0].size + model.outputs[0].size) * 3 * 16)
    call(SEQUENCE, tmp_path / "in", "-o", tmp_path / "b")
    assert calls[1:] == [[16, 7, 1]]  # 23 and 40 frames fill a block alone
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_states_in_files(tmp_path: Path) -> None:
    model, rng = tinyrnn.load(STATES), np.random.default_rng(2)
    (tmp_path / "in").mkdir()
    inputs = []
    for number in range(3):
        parts = {n: rng.standard_normal(v.shape).astype(np.float32) for n, v in model.stream().states.items()}
        inputs.append(tmp_path / "in" / f"{number}.npz")
        xs = rng.standard_normal((9 + number, *model.inputs[0].shape)).astype(np.float32)
        np.savez(inputs[-1], **{model.inputs[0].name: xs}, **(parts if number else {}), other=np.ones(3))
    result = call(STATES, tmp_path / "in", "-o", tmp_path / "out")
    assert result.stderr.count("'other' is not used") == 3
    as_alone(STATES, inputs, tmp_path / "out")
    inputs.pop(0).unlink()
    only = ("--outputs", model.outputs[0].name)  # the states are inputs of a call
    call(STATES, tmp_path / "in", "-o", tmp_path / "calls", *only)
    as_alone(STATES, inputs, tmp_path / "calls", *only)


def test_patterns_and_several_files(tmp_path: Path) -> None:
    inputs = filled(tmp_path / "in", SEQUENCE, "npy", "csv")
    call(SEQUENCE, tmp_path / "in" / "*.npy", "-o", tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["rec0.npy", "rec2.npy", "rec4.npy"]
    call(SEQUENCE, *inputs[:2], "-o", tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["rec0.npy", "rec1.csv"]
    assert call(SEQUENCE, tmp_path / "in" / "rec[3]*", "-o", tmp_path / "c").stdout.startswith("1 file, 23 frames")


def test_a_bad_file_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    filled(tmp_path / "in", LANGUAGE, "npy")
    np.save(tmp_path / "in" / "high.npy", np.full(5, 1000))
    np.save(tmp_path / "in" / "shape.npy", np.zeros((3, 2, 2), np.int64))
    (tmp_path / "in" / "text.npy").write_text("no array")
    (tmp_path / "in" / "notes.txt").write_text("left out")
    result = call(LANGUAGE, tmp_path / "in", "-o", tmp_path / "out", status=1)
    assert result.stdout.startswith("6 of 9 files, 127 frames in ")
    assert "left out, for their kind: notes.txt" in result.stderr
    for name, says in (("high", "out of range"), ("shape", "shape [3, 2, 2]"), ("text", "not a .npy array")):
        (line,) = [line for line in result.stderr.splitlines() if f"{name}.npy" in line]
        assert line.startswith("Error: ") and says in line
    assert len(list((tmp_path / "out").iterdir())) == 6
    found = json.loads(call(LANGUAGE, tmp_path / "in", "-o", tmp_path / "out", "--json", status=1).stdout)
    assert [Path(one["input"]).stem for one in found] == ["high", *(f"rec{n}" for n in range(6)), "shape", "text"]
    assert [one.get("frames") for one in found] == [None, *LENGTHS, None, None]
    assert "out of range" in found[0]["error"]


def test_files_with_the_same_error_are_named_together(tmp_path: Path) -> None:
    inputs = filled(tmp_path / "in", LANGUAGE, "npy")
    for path in inputs[1:]:
        np.save(path, np.zeros((3, 2, 2), np.int64))
    lines = call(LANGUAGE, tmp_path / "in", "-o", tmp_path / "out", status=1).stderr.splitlines()
    assert lines[0].startswith(f"Error: {inputs[1]}: ") and "shape [3, 2, 2]" in lines[0]
    assert lines[1:] == [f"Error: the same of {', '.join(map(str, inputs[2:]))}"]


def test_sound_goes_file_by_file(tmp_path: Path) -> None:
    size = tinyrnn.load(SEQUENCE).inputs[0].size
    (tmp_path / "in").mkdir()
    inputs = []
    for number, count in enumerate(LENGTHS[:3]):
        inputs.append(tmp_path / "in" / f"{number}.wav")
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, count * size).astype(np.float32)
        files.write_array(inputs[-1], samples, 16000)
    assert call(SEQUENCE, tmp_path / "in", "-o", tmp_path / "out").stdout.startswith("3 files, 48 frames in ")
    as_alone(SEQUENCE, inputs, tmp_path / "out")
    assert len(json.loads(call(SEQUENCE, tmp_path / "in", "-o", tmp_path / "csv", "--format", "csv", "--json").stdout)) == 3
    as_alone(SEQUENCE, inputs, tmp_path / "csv", form=".csv")
    np.save(tmp_path / "in" / "frames.npy", np.zeros((3, size), np.float32))
    message = call(SEQUENCE, tmp_path / "in", "-o", tmp_path / "out", status=1).stderr
    assert f"'{tmp_path / 'in' / '*.wav'}', then '{tmp_path / 'in' / '*.npy'}'" in message


def test_windows_over_the_rows_of_every_file(tmp_path: Path) -> None:
    model = MODELS / "classify_gru_last_dynT_legacy.onnx"
    inputs = filled(tmp_path / "in", model, "npy")[:2]
    assert call(model, *inputs, "-o", tmp_path / "out", "--window", 5).stdout.startswith("2 files, 39 windows in ")
    as_alone(model, inputs, tmp_path / "out", "--window", 5)


def test_refused_before_anything_is_written(tmp_path: Path) -> None:
    inputs = filled(tmp_path / "in", SEQUENCE, "npy")
    before = [path.read_bytes() for path in inputs]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    shutil.copy(inputs[0], tmp_path / "other")
    np.savetxt(tmp_path / "other" / "rec1.csv", np.zeros((2, 2)))
    folder, out = tmp_path / "in", tmp_path / "out"
    for given, target, options, says in (
        ([folder], inputs[0], (), "the outputs of 6 files go into a folder"),
        ([folder], tmp_path / "made.npy", (), "as -o made"),
        ([folder], "-", (), "go into a folder"),
        ([folder], folder, (), "would be overwritten; name another folder"),
        ([folder], tmp_path / "none" / "out", (), "make it first"),
        ([tmp_path / "empty"], out, (), "no files of .npy"),
        ([folder / "*.csv"], out, (), "no file fits this pattern"),
        ([inputs[0], tmp_path / "other" / inputs[0].name], out, (), "would all be written to"),
        ([*inputs, tmp_path / "other" / "rec1.csv"], out, ("--format", "npy"), "would all be written to"),
        ([inputs[0], "-"], out, (), "a pipe is one input"),
    ):
        assert says in call(SEQUENCE, *given, "-o", target, *options, status=1).stderr
    assert "cannot stream" in call(BACKWARD, folder, "-o", out, status=1).stderr
    assert "--format npz" in call(MODELS / "cell_lstm_dynB_legacy.onnx", folder, "-o", out, status=1).stderr
    for options in (("--plot", tmp_path / "p.png"), ("--drop", "1"), ("--hop", 3)):
        call(SEQUENCE, folder, "-o", out, *options, status=2)
    assert "for many files" in call(SEQUENCE, inputs[0], "-o", tmp_path / "o.npy", "--format", "npy", status=2).stderr
    assert not out.exists() and [path.read_bytes() for path in inputs] == before


def test_the_model_in_a_folder_of_data_is_no_data(tmp_path: Path) -> None:
    inputs = filled(tmp_path / "in", SEQUENCE, "npy")
    model = tmp_path / "in" / "model.npz"
    tinyrnn.save(tinyrnn.load(SEQUENCE), model)
    assert call(model, tmp_path / "in", "-o", tmp_path / "out").stdout.startswith("6 files")
    as_alone(model, inputs, tmp_path / "out")
