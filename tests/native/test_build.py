"""What is built gives the bits of the cpu target, in emulators of the processors it is for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests import ROOT, SHARED
from tests.native.machines import LEAST_STACK, run_native, why_not
from tests.native.pools import agree_in_pool
from tinyrnn.check import within
from tinyrnn.check.samples import random_sample

SHARED_MODELS = SHARED / "models"
MODELS: dict[str, tuple[Path, dict[str, Any]]] = {
    "gru": (ROOT / "tests" / "models" / "linear_relu_gru_residual_dynT_legacy.onnx", {}),
    "gru_float16": (ROOT / "tests" / "models" / "linear_relu_gru_residual_dynT_legacy.onnx", {"weights": "float16"}),
    "gru_int8": (ROOT / "tests" / "models" / "linear_relu_gru_residual_dynT_legacy.onnx", {"weights": "int8:5"}),
    "char_lm": (ROOT / "tinyrnn" / "models" / "char_lm.onnx", {}),
    "dtln_1": (SHARED_MODELS / "dtln_model_1.onnx", {}),
    "silero": (SHARED_MODELS / "silero_vad_16k_op15.onnx", {"bind": {"sr": 16000, "sequence": 576}}),
    "lookahead": (ROOT / "tests" / "models" / "architectures" / "lookahead_open_dynamo.onnx", {}),
    "strided": (ROOT / "tests" / "models" / "architectures" / "stridelstm_open_dynamo.onnx", {}),
    "two_inputs": (ROOT / "tests" / "models" / "architectures" / "conditioned_open_dynamo.onnx", {}),
}
EXACT = [
    "host",
    "x86-64-v3",
    "x86-64-v4",
    "aarch64",
    "rpi3",
    "rpi4",
    "rpi5",
    "jetson-orin",
    "armv7",
    "riscv64",
    "riscv64-v",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
]
WITHOUT_FMA = ["x86-64-v2", "wasm32"]
SOME = (
    [("gru", t) for t in EXACT if t not in ("rpi3", "rpi4", "rpi5", "jetson-orin")]
    + [("char_lm", t) for t in ("host", "aarch64", "armv7", "cortex-m4")]
    + [
        ("gru_float16", "aarch64"),
        ("gru_float16", "armv7"),
        ("gru_float16", "riscv64"),
        ("gru_float16", "cortex-m4"),
        ("gru_int8", "riscv64-v"),
        ("gru_int8", "cortex-m4"),
        ("dtln_1", "cortex-m7"),
        ("silero", "cortex-m4"),
        ("lookahead", "cortex-m4"),
        ("strided", "cortex-m4"),
        ("strided", "armv7"),
        ("two_inputs", "armv7"),
    ]
)
ALL = bool(os.environ.get("TINYRNN_ALL"))
FRAMES = 1000
STREAMS = 20
LATE = ("lookahead", "strided")


def _model(name: str) -> tuple[Path, dict[str, Any], tinyrnn.Model]:
    path, how = MODELS[name]
    if not path.is_file():
        pytest.skip(f"../shared/models/{path.name} is not here")
    return path, how, tinyrnn.load(path, **how)


def _needs(target: str) -> None:
    reason = why_not(target)
    if reason:
        pytest.skip(reason)


def _frames(model: tinyrnn.Model, frames: int = FRAMES) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Input, and what the cpu target makes of it, the tail too."""
    sample = random_sample(model, frames, seed=1)
    inputs = [np.ascontiguousarray(sample.inputs[p.name][0]) for p in model.inputs]
    stream = model.stream()
    parts = [stream.run(*inputs), *([stream.flush()] if model.has_tail else [])]
    rows = [[part] if isinstance(part, np.ndarray) else list(part) for part in parts]
    return inputs, [
        np.concatenate(each) if p.per_frame else each[0] for p, each in zip(model.outputs, zip(*rows, strict=True), strict=True)
    ]


def _same(made: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(made, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.parametrize(("name", "target"), [(n, t) for n in MODELS for t in EXACT] if ALL else SOME)
def test_same_bits(name: str, target: str, tmp_path: Path) -> None:
    _needs(target)
    path, how, model = _model(name)
    inputs, expected = _frames(model)
    pooled = STREAMS if name == "gru" or (ALL and name not in LATE) else None
    built = tinyrnn.build(path, tmp_path / "built", target, streams=pooled, **how)
    run = run_native(built, inputs, tmp_path / "run")
    _same(run.outputs, expected)
    if pooled:
        agree_in_pool(model, built, tmp_path / "pool")
    assert built.sizes.stack is None or run.stack <= max(built.sizes.stack, LEAST_STACK)


@pytest.mark.parametrize(
    ("name", "target"),
    [(n, t) for n in MODELS for t in WITHOUT_FMA]
    if ALL
    else [
        ("gru", "x86-64-v2"),
        ("gru", "wasm32"),
        ("lookahead", "wasm32"),
        ("gru_float16", "x86-64-v2"),
        ("gru_float16", "wasm32"),
    ],
)
@pytest.mark.parametrize("emulate", [True, False], ids=["emulated", "split"])
def test_without_fma(name: str, target: str, emulate: bool, tmp_path: Path) -> None:
    _needs(target)
    path, how, model = _model(name)
    inputs, expected = _frames(model, FRAMES if emulate else 50)
    pooled = STREAMS if emulate and name == "gru" else None
    built = tinyrnn.build(path, tmp_path / "built", target, emulate_fma=emulate, streams=pooled, **how)
    made = run_native(built, inputs, tmp_path / "run").outputs
    if emulate:
        _same(made, expected)
        if pooled:
            agree_in_pool(model, built, tmp_path / "pool")
        return
    assert any("fused" in note for note in built.manifest["notes"])
    for a, b in zip(made, expected, strict=True):
        assert within("close", a, b)


def test_lstm_64_on_cortex_m4(tmp_path: Path) -> None:
    _needs("cortex-m4")
    path = lstm(tmp_path, 64)
    how: dict[str, Any] = {"layers": [("LSTM", "rnn")]}
    inputs, expected = _frames(tinyrnn.load(path, **how))
    built = tinyrnn.build(path, tmp_path / "built", "cortex-m4", **how)
    run = run_native(built, inputs, tmp_path / "run")
    _same(run.outputs, expected)
    assert built.sizes.code < 6000
    assert run.instructions <= 54_000
    assert run.stack <= built.sizes.stack <= run.stack + 16
    assert tinyrnn.build(path, tmp_path / "arm", "aarch64", **how).sizes.code < 6000


def test_halves_take_half_the_flash(tmp_path: Path) -> None:
    """char_lm is in half precision through and through: its weights are stored so on a board by themselves."""
    path, how = MODELS["char_lm"]
    built = tinyrnn.build(path, tmp_path / "built", "cortex-m4", **how)
    assert built.sizes.code + built.sizes.constants + built.sizes.weights <= 145_000
    wide = tinyrnn.build(path, tmp_path / "wide", "cortex-m4", weights="float32", **how)
    assert wide.sizes.weights > 1.6 * built.sizes.weights


def lstm(folder: Path, hidden: int) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "weight_ih_l0": (4 * hidden, hidden),
        "weight_hh_l0": (4 * hidden, hidden),
        "bias_ih_l0": (4 * hidden,),
        "bias_hh_l0": (4 * hidden,),
    }
    np.savez(
        folder / "lstm.npz", **{f"rnn.{n}": (rng.standard_normal(s) / hidden**0.5).astype(np.float32) for n, s in arrays.items()}
    )
    return folder / "lstm.npz"


def test_weights_in_a_file(tmp_path: Path) -> None:
    _needs("cortex-m4")
    path, how, model = _model("gru")
    inputs, expected = _frames(model)
    built = tinyrnn.build(path, tmp_path / "built", "cortex-m4", weights="file", **how)
    assert not built.sizes.weights_in_object and (tmp_path / "built" / built.manifest["weights"]).is_file()
    _same(run_native(built, inputs, tmp_path / "run").outputs, expected)
    file = tmp_path / "built" / built.manifest["weights"]
    data = bytearray(file.read_bytes())
    data[30] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssertionError, match="exit status 8"):
        run_native(built, inputs, tmp_path / "run")


@pytest.mark.parametrize("tool", ["valgrind", "sanitizer"])
def test_ten_thousand_frames_touch_no_other_memory(tool: str, tmp_path: Path) -> None:
    if not shutil.which("gcc") or (tool == "valgrind" and not shutil.which("valgrind")):
        pytest.skip(f"{tool} and gcc are not installed")
    _needs("x86-64-v3")
    path, how, model = _model("gru")
    built = tinyrnn.build(path, tmp_path, "x86-64-v3", **how)
    name, program = built.manifest["name"], tmp_path / "program"
    source = (ROOT / "tests" / "native" / "memory.c").read_text().replace("NAME", name.upper()).replace("name", name)
    x, y = model.inputs[0].name, model.outputs[0].name
    (tmp_path / "memory.c").write_text(source.replace("INPUT", x.upper()).replace("OUTPUT", y.upper()))
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover"] if tool == "sanitizer" else []
    subprocess.run(
        ["gcc", "-g", "-Wall", "-Werror", *flags, "-o", program, tmp_path / "memory.c", tmp_path / f"lib{name}.a"], check=True
    )
    command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full"] if tool == "valgrind" else []
    done = subprocess.run([*command, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


WHOLE = ROOT / "tests" / "models" / "architectures" / "unrolled_gru_bi_dynamo.onnx"


@pytest.mark.parametrize(("path", "settings"), [(MODELS["gru"][0], {}), (WHOLE, {"rows": 8})], ids=["stream", "whole"])
def test_page_runs_in_a_browser(path: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None or why_not("wasm32"):
        pytest.skip(why_not("wasm32") or "chromium is not installed")
    built = tinyrnn.build(path, tmp_path, "wasm32", **settings)
    page = tmp_path / f"{built.manifest['name']}.html"
    alone = [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
    ]
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *alone,
        "--virtual-time-budget=10000",
        "--dump-dom",
        f"file://{page}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert '<b id="selftest">passed</b>' in done.stdout, done.stderr[-2000:]
    assert "µs" in done.stdout
