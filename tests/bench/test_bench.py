"""Measurement: right fields, sane values, counting that counts. Nothing here asserts a speed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import mmap
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests import MODELS, ROOT
from tinyrnn import bench as benchmark
from tinyrnn.bench.counts import HARMLESS, resident_growth, undefined_symbols
from tinyrnn.bench.data import POOL, Data
from tinyrnn.bench.report import Allocated
from tinyrnn.errors import StreamError, TinyRNNError, UnsupportedError

BIDIRECTIONAL = MODELS / "gru_l3_bi_bf_final_dynT_dynB_dynamo.onnx"
QUICK: dict[str, Any] = {"seconds": 0.02, "frames": 20}
needs_onnxruntime = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "LSTM8.onnx"
    benchmark.cell_model("LSTM", 8, path)
    return path


@pytest.fixture(scope="module")
def result(lstm: Path) -> benchmark.Result:
    return benchmark.bench(lstm, rate=1e9, loading=False, **QUICK)


@pytest.fixture(scope="module")
def compared(lstm: Path) -> benchmark.Result:
    pytest.importorskip("onnxruntime")
    return benchmark.bench(lstm, versus="onnxruntime", **QUICK)


def ordered(latency: benchmark.Latency | None) -> bool:
    assert latency is not None
    values = [latency.samples.min(), latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max]
    return values[0] > 0 and values == sorted(values) and values[0] <= latency.mean <= latency.max


def test_latency(result: benchmark.Result) -> None:
    assert ordered(result.latency)
    assert result.latency is not None
    assert result.latency.steps == len(result.latency.samples) >= benchmark.ROUNDS * POOL
    assert result.step is not None and result.step > 0 and result.step_out is not None and result.run > 0
    assert (result.model, result.kind, result.frames, result.refuses_stream) == ("LSTM8", "sequence", 20, "")


def test_deadline(lstm: Path, result: benchmark.Result) -> None:
    deadline = result.deadline
    assert deadline is not None and result.latency is not None
    assert deadline.budget == pytest.approx(1e-3)
    assert deadline.late == deadline.steps == result.latency.steps
    assert deadline.step_times_real_time == pytest.approx(deadline.budget / result.latency.mean)
    relaxed = benchmark.bench(lstm, rate=1e-3, loading=False, **QUICK).deadline
    assert relaxed is not None and relaxed.late == 0 and relaxed.run_times_real_time > 1


def test_late_steps_are_counted(result: benchmark.Result) -> None:
    samples = np.array([1000, 3000, 2000, 9000])
    latency = benchmark.Latency.of(samples, 0.0)
    deadline = benchmark._deadline(5e5, benchmark._Timing(run=1.0, latency=latency))
    assert deadline is not None
    assert (deadline.budget, deadline.late, deadline.steps) == (2.0, 2, 4)
    assert latency.max == 9.0 and latency.mean == 3.75


def test_memory(lstm: Path, result: benchmark.Result) -> None:
    model = tinyrnn.load(lstm)
    assert result.memory.weights == model._layout.weights.nbytes
    assert result.memory.state == model.stream().state.nbytes == 4 * 2 * 8
    assert result.memory.arena > 0 and result.memory.code > 0
    assert result.memory.resident is None or result.memory.resident > 1e6


def test_json(compared: benchmark.Result) -> None:
    plain = compared.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert "samples" not in plain["latency"]
    assert set(plain) == {f.name for f in dataclasses.fields(benchmark.Result)}


@needs_onnxruntime
def test_versus(compared: benchmark.Result) -> None:
    peer = compared.versus
    assert peer is not None and peer.step is not None and compared.step is not None
    assert peer.step_ratio == pytest.approx(peer.step / compared.step)
    assert peer.run_ratio == pytest.approx(peer.run / compared.run)
    assert ordered(peer.latency)
    assert peer.difference < 1e-4 and peer.note == ""


def test_loading(compared: benchmark.Result) -> None:
    loading = compared.loading
    assert loading is not None
    assert loading.import_ms > 0 and loading.cached_s > 0 and loading.cold_s > 0
    if sys.platform.startswith("linux"):
        assert compared.allocations.native == 0
        assert compared.allocations.symbols is not None and set(compared.allocations.symbols) <= HARMLESS


def test_text(compared: benchmark.Result, result: benchmark.Result) -> None:
    text = str(compared)
    for part in ("times faster", "single step p99.9", "step(x, out=y)", "load, from the cache", "weights", "onnxruntime"):
        assert part in text
    assert "frames per second" in str(result) and "steps late" in str(result)


def test_progress(lstm: Path) -> None:
    seen: list[tuple[int, int]] = []
    benchmark.bench(lstm, loading=False, progress=lambda done, total: seen.append((done, total)), **QUICK)
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert len({total for _, total in seen}) == 1


@needs_onnxruntime
def test_whole_runs_only() -> None:
    result = benchmark.bench(BIDIRECTIONAL, versus="onnxruntime", rate=10.0, loading=False, **QUICK)
    assert (result.step, result.latency, result.allocations.step) == (None, None, None)
    assert "bidirectional" in result.refuses_stream and "whole runs only" in str(result)
    assert result.run > 0 and result.versus is not None and result.versus.step is None and result.versus.difference < 1e-4
    assert result.deadline is not None and result.deadline.late is None
    with pytest.raises(StreamError, match="no steps to draw"):
        benchmark.plot(result, "never.png")


def test_input_is_within_bounds() -> None:
    model = tinyrnn.load(MODELS / "lm_lstm_scores_dynT_dynamo.onnx")
    ((_, _, high),) = model._source.plan.bounds
    data = Data(model, 500, seed=3, fixed=False)
    (tokens,) = data.whole
    assert tokens.dtype == np.int64 and tokens.min() == 0 and tokens.max() == high
    assert np.array_equal(data.feed(0, 7)["tokens"], tokens[None, :7])
    model.stream().run(tokens)


def test_file_and_stream_get_the_same_input() -> None:
    model = tinyrnn.load(BIDIRECTIONAL)
    data = Data(model, 6, seed=1, fixed=True)
    assert np.array_equal(data.feed(0, 6)["x"][0], data.whole[0])


def test_table() -> None:
    versus = "onnxruntime" if importlib.util.find_spec("onnxruntime") else None
    seen: list[tuple[int, int]] = []
    result = benchmark.table(("RNN",), (8,), versus, frames=10, progress=lambda done, total: seen.append((done, total)))
    (row,) = result.rows
    assert (row.cell, row.hidden) == ("RNN", 8) and row.step > 0 and row.run > 0
    assert seen[-1] == (benchmark.ROUNDS, benchmark.ROUNDS)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["rows"][0]["cell"] == "RNN"
    lines = result.markdown().splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
    assert "RNN" in str(result)
    if versus:
        assert row.peer_step is not None and row.step_ratio == pytest.approx(row.peer_step / row.step)
        assert row.difference is not None and row.difference < 1e-4


# Counting


def counted(call: Any) -> Allocated:
    found = benchmark.count_allocations(call, 50)
    assert found is not None
    return found


def test_no_allocation_counts_as_none() -> None:
    found = counted(lambda: None)
    assert (found.bytes, found.blocks) == (0, 0)


def test_a_kept_array_is_counted() -> None:
    found = counted(lambda: np.empty(1000, np.float32))
    assert 4000 <= found.bytes < 5000 and found.blocks == 2


def test_an_array_that_is_dropped_is_counted() -> None:
    def call() -> None:
        bytearray(10_000)

    found = counted(call)
    assert 10_000 <= found.bytes < 11_000 and found.blocks == 0


def test_step_into_an_array_allocates_no_array(result: benchmark.Result) -> None:
    with_out, without = result.allocations.step_out, result.allocations.step
    assert with_out is not None and without is not None
    assert with_out.blocks == 0 and without.blocks == 2
    assert with_out.bytes < without.bytes


def test_not_counted_while_something_else_traces() -> None:
    tracemalloc.start()
    try:
        assert benchmark.count_allocations(lambda: None) is None
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much is resident now")
def test_growth_is_seen() -> None:
    kept: list[Any] = []

    def leak(passes: int) -> None:
        for _ in range(passes):  # pages of their own: NumPy might take some that were freed and are still resident
            kept.append(mmap.mmap(-1, 1 << 20))
            kept[-1].write(b"1" * (1 << 20))

    growth = resident_growth(leak, 100)
    assert growth is not None and growth >= 90 << 20


def _object(triple: str) -> bytes:
    llvm = pytest.importorskip("llvmlite.binding")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(
        f'target triple="{triple}"\ndeclare ptr @malloc(i32)\ndeclare ptr @hidden(i32)\n'
        "define ptr @run(i32 %n) {\n %p = call ptr @malloc(i32 %n)\n ret ptr %p\n}\n"
    )
    return bytes(llvm.Target.from_triple(triple).create_target_machine().emit_object(module))


@pytest.mark.parametrize(
    "triple",
    ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "armv7-unknown-linux-gnueabihf", "powerpc64-unknown-linux-gnu"],
)
def test_undefined_symbols(triple: str) -> None:
    data = _object(triple)
    symbols = undefined_symbols(data)
    assert symbols is not None and "malloc" in symbols and "hidden" not in symbols and "run" not in symbols
    for length in range(0, len(data), 61):
        undefined_symbols(data[:length])


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\xcf\xfa\xed\xfe" + bytes(100), bytes(1000)])
def test_other_objects_are_not_counted(data: bytes) -> None:
    assert undefined_symbols(data) is None


# Pictures and errors


def test_plot(compared: benchmark.Result, result: benchmark.Result, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install tinyrnn[plot]")
    for name, measured in (("alone.png", result), ("versus.png", compared)):
        benchmark.plot(measured, tmp_path / name)
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for bad in (tmp_path / "none" / "x.png", tmp_path / "x.unknown"):
        with pytest.raises(TinyRNNError, match="cannot be written"):
            benchmark.plot(result, bad)


def test_without_matplotlib(result: benchmark.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TinyRNNError, match=r"pip install tinyrnn\[plot\]"):
        benchmark.plot(result, tmp_path / "x.png")


def test_without_onnxruntime(lstm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TinyRNNError, match="pip install onnxruntime"):
        benchmark.bench(lstm, versus="onnxruntime", loading=False, **QUICK)


def test_unknown_peer(lstm: Path) -> None:
    with pytest.raises(UnsupportedError, match="'torch'.*'onnxruntime'"):
        benchmark.bench(lstm, versus="torch", loading=False, **QUICK)


@pytest.mark.parametrize("given", [{"frames": 0}, {"seconds": 0.0}, {"seconds": float("nan")}, {"rate": 0.0}, {"rate": -1.0}])
def test_senseless_arguments(lstm: Path, given: dict[str, Any]) -> None:
    with pytest.raises(TinyRNNError, match="bench needs"):
        benchmark.bench(lstm, **given)


def test_senseless_tables() -> None:
    for cells, sizes in ((("LTSM",), (8,)), (("LSTM",), (0,))):
        with pytest.raises(TinyRNNError, match="knows the cells"):
            benchmark.table(cells, sizes)


def test_script() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "bench" / "cells.py"), "--cells", "RNN", "--sizes", "8", "--alone", "--frames", "10"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("| RNN | 8 |")


def test_streams(lstm: Path, tmp_path: Path) -> None:
    open_batch = tmp_path / "open.onnx"
    benchmark.cell_model("LSTM", 8, open_batch, batch="N")
    result = benchmark.streams(open_batch, [1, 5], versus="onnxruntime", seconds=0.02, threads=2)
    assert [row.streams for row in result.rows] == [1, 5]
    for row in result.rows:
        assert min(row.pool, row.half, row.lone, row.peer or 0) > 0
        assert row.difference is not None and row.difference < 1e-5
        assert row.ratio == pytest.approx((row.peer or 0) / row.pool)
    assert result.state == 64
    assert json.loads(json.dumps(result.as_dict()))["rows"][1]["streams"] == 5
    benchmark.plot_streams(result, tmp_path / "streams.png")
    assert (tmp_path / "streams.png").stat().st_size > 1000
    fixed = benchmark.streams(lstm, [2], versus="onnxruntime", seconds=0.02)
    assert "no open batch" in str(fixed) and fixed.rows[0].peer is None
    for counts, options in (([], {}), ([0], {}), ([2], {"seconds": 0})):
        with pytest.raises(TinyRNNError, match="from 1 up"):
            benchmark.streams(lstm, counts, **options)
    with pytest.raises(UnsupportedError, match="versus="):
        benchmark.streams(lstm, [2], versus="torch")
    with pytest.raises(StreamError, match="reverse|bidirectional"):
        benchmark.streams(BIDIRECTIONAL, [2])
