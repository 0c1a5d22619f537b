"""Promises over many models: native code that calls nothing, flat memory, random graphs, any chunks, threads, a damaged cache."""

from __future__ import annotations

import ast
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinyrnn
from tests import MODELS
from tests.driving import agree, agree_in_chunks, loaded, whole
from tests.whole.random_models import random_models
from tinyrnn.bench.counts import HARMLESS, cached_objects, count_allocations, resident, undefined_symbols
from tinyrnn.compile.codegen import Source
from tinyrnn.compile.planner import Planner
from tinyrnn.demo import Models
from tinyrnn.graph.call import Scratch, Value
from tinyrnn.graph.op import REGISTRY
from tinyrnn.loading.stages import read
from tinyrnn.passes import bound, prepare
from tinyrnn.runtime import Model
from tinyrnn.runtime.memory import ALIGNMENT
from tinyrnn.targets.cpu import compile_source
from tinyrnn.targets.reference import Reference

SEQUENCE = MODELS / "gru_l3_uni_sf_zero_dynT_b1_legacy.onnx"
STEP = MODELS / "cell_lstm_linear_dynB_legacy.onnx"
TOKENS = Models().path("char_lm")
SEVERAL = MODELS / "lstm_l2_uni_sf_states_dynT_dynB_legacy.onnx"
ALL = {path.stem: path for path in (SEQUENCE, STEP, TOKENS, SEVERAL)}

Array = np.ndarray[Any, Any]

few = settings(deadline=None, derandomize=True, max_examples=6, suppress_health_check=list(HealthCheck), database=None)
many = settings(few, max_examples=60)


def frames_for(model: Model, count: int, seed: int = 0) -> Array:
    (port,) = model.inputs
    rng = np.random.default_rng(seed)
    if port.dtype.kind == "i":
        return rng.integers(0, 11, (count, *port.shape)).astype(port.dtype)
    return rng.standard_normal((count, *port.shape)).astype(port.dtype)


# No allocations.


@pytest.mark.parametrize("name", ALL)
def test_compiled_code_calls_nothing_that_allocates(name: str) -> None:
    code = cached_objects(tinyrnn.load(ALL[name]))
    assert len(code) > 1
    symbols = undefined_symbols(*code)
    if symbols is None:
        pytest.skip("compiled objects are not ELF here")
    assert set(symbols) <= HARMLESS


@pytest.mark.parametrize("line", ["np.zeros(frames).size", "int(math.erf(frames * 0.5))"], ids=["an array", "a call"])
def test_code_that_needs_more_is_refused(line: str) -> None:
    text = f"import math\nimport numpy as np\n\n\ndef run(context, frames):\n    return {line}\n"
    with pytest.raises(tinyrnn.TargetError):
        compile_source(Source(text, {"run": 2}))


@pytest.mark.parametrize("name", ["gru_l3_uni_sf_zero_dynT_b1_legacy", "cell_lstm_linear_dynB_legacy", "char_lm"])
def test_a_step_into_given_arrays_allocates_nothing(name: str) -> None:
    model = tinyrnn.load(ALL[name])
    stream, x = model.stream(), frames_for(model, 1)[:1].reshape(model.inputs[0].shape)
    y = np.empty(model.outputs[0].shape, model.outputs[0].dtype)
    counted = count_allocations(lambda: stream.step(x, out=y))
    assert counted is not None and counted.bytes == 0
    xs, ys = frames_for(model, 50), np.empty((50, *y.shape), y.dtype)
    counted = count_allocations(lambda: stream.run(xs, out=ys))
    assert counted is not None and counted.bytes < ys.nbytes


def test_memory_is_flat_over_many_steps() -> None:
    model = tinyrnn.load(SEQUENCE)
    stream, (x,) = model.stream(), frames_for(model, 1)
    y = np.empty(model.outputs[0].shape, np.float32)

    def steps(count: int) -> None:
        for _ in range(count):
            stream.step(x, out=y)
            stream.step(x)

    steps(20_000)
    gc.collect()
    references, blocks, before = sys.getrefcount(None), sys.getallocatedblocks(), resident()
    held = sys.getrefcount(x), sys.getrefcount(y), sys.getrefcount(np.float32), sys.getrefcount(x.dtype)
    steps(200_000)
    gc.collect()
    assert abs(sys.getrefcount(None) - references) < 1000
    assert (sys.getrefcount(x), sys.getrefcount(y), sys.getrefcount(np.float32), sys.getrefcount(x.dtype)) == held
    assert abs(sys.getallocatedblocks() - blocks) < 1000
    after = resident()
    assert before is None or after is None or after - before < 1 << 18


def test_calls_that_are_declined_leak_nothing() -> None:
    model = tinyrnn.load(SEQUENCE)
    stream, (x,) = model.stream(), frames_for(model, 1)
    doubles = x.astype(np.float64)
    stream.step(doubles)
    references = sys.getrefcount(False), sys.getrefcount(None)
    for _ in range(5000):
        stream.step(doubles)
    assert abs(sys.getrefcount(False) - references[0]) < 1000 and abs(sys.getrefcount(None) - references[1]) < 1000


def test_streams_that_are_gone_give_their_memory_back() -> None:
    model = tinyrnn.load(TOKENS)

    def streams(count: int) -> None:
        for _ in range(count):
            model.stream().fork().step(3)

    grown = []  # of what the allocator keeps, a later round needs no more
    for _ in range(3):
        before = resident()
        streams(500)
        gc.collect()
        after = resident()
        if before is None or after is None:
            pytest.skip("this system does not tell a process's memory")
        grown.append(after - before)
    assert min(grown) < 1 << 20, grown


def test_a_step_alone_keeps_what_it_needs() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "alone.onnx"
        path.write_bytes(SEQUENCE.read_bytes())
        model = tinyrnn.load(path)
        xs = frames_for(model, 3)
        expected = model.stream().run(xs)
        del model
        step, run = tinyrnn.load(path).stream().step, tinyrnn.load(path).stream().run
    gc.collect()
    for x, y in zip(xs, expected, strict=True):
        assert np.array_equal(step(x), y)
    assert np.array_equal(run(xs), expected)


# No overlap.


@many
@given(random_models())
def test_what_lives_at_once_does_not_overlap(proto: onnx.ModelProto) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        graph = bound(read(path)[0], None, None)
    for lanes, registers in ((16, 32), (4, 16), (1, 16)):
        planner = Planner(prepare(graph), lanes, registers, ALIGNMENT)
        planner._place_ports()
        calls = planner._lower()
        planner._place_arena(calls)
        lives: dict[str, list[int]] = {}
        bytes_of: dict[str, tuple[int, bool]] = {}
        for index, (node, call) in enumerate(calls):
            for operand in call.operands:
                if isinstance(operand, Value):
                    name = planner._root(operand.name)
                    size, rows = 4 * planner.graph.specs[name].elements, name in planner.program.per_row
                elif isinstance(operand, Scratch):
                    name = planner._scratch(operand, node)
                    size, rows = 4 * (operand.per_row or operand.fixed), bool(operand.per_row)
                    rows = rows and planner._rows_of(node, operand.of) == "rows"
                else:
                    continue
                if name in planner.places and planner.places[name].memory == "arena":
                    lives.setdefault(name, [index, index])[1] = index
                    bytes_of[name] = size, rows
        for capacity in (1, 3, 256):
            spans = {}
            for name in lives:
                place, (size, rows) = planner.places[name], bytes_of[name]
                start = place.offset + place.per_capacity * capacity
                spans[name] = start, start + size * (capacity if rows else 1)
                assert start >= 0 and spans[name][1] <= planner.result.arena_bytes(capacity)
            names = list(lives)
            for i, a in enumerate(names):
                for b in names[:i]:
                    together = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
                    apart = spans[a][1] <= spans[b][0] or spans[b][1] <= spans[a][0]
                    assert apart or not together, (a, b, lives[a], lives[b], spans[a], spans[b])


@few
@given(random_models(least=4))
def test_random_models_are_right_in_any_chunks(proto: onnx.ModelProto) -> None:
    with TemporaryDirectory() as folder:
        model = loaded(proto, Path(folder))
    x = {"x": np.random.default_rng(1).standard_normal((11, 1, model.inputs[0].shape[-1])).astype(np.float32)}
    found = whole(model, x)
    agree("close", found, Reference(model._source.graph).run(x))
    agree_in_chunks(model, x, found)


# Any chunks.

LENGTH = 700


@pytest.mark.parametrize("name", ["gru_l3_uni_sf_zero_dynT_b1_legacy", "char_lm", "cell_lstm_linear_dynB_legacy"])
@many
@given(data=st.data())
def test_any_chunks_give_the_same_bits(name: str, data: st.DataObject) -> None:
    model = tinyrnn.load(ALL[name])
    xs = frames_for(model, LENGTH)
    stream = model.stream()
    expected, end = stream.run(xs), stream.state.copy()
    stream.reset()
    cuts = sorted(data.draw(st.sets(st.integers(1, LENGTH - 1), max_size=12)))
    pieces = []
    for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        single = stop - start == 1 and data.draw(st.booleans())
        pieces.append(stream.step(xs[start])[None] if single else stream.run(xs[start:stop]))
    assert np.array_equal(np.concatenate(pieces), expected) and np.array_equal(stream.state, end)


@pytest.mark.parametrize("name", ALL)
def test_snapshots_forks_and_resets_are_exact(name: str) -> None:
    model = tinyrnn.load(ALL[name])
    xs = frames_for(model, 40)
    stream = model.stream()
    first = stream.run(xs)
    stream.reset()
    stream.run(xs[:20])
    saved, fork = stream.state.copy(), stream.fork()
    rest = stream.run(xs[20:])
    assert np.array_equal(np.asarray(rest), np.asarray(first)[..., 20:, :] if isinstance(first, np.ndarray) else rest)
    assert np.array_equal(np.asarray(fork.run(xs[20:])), np.asarray(rest))
    other = model.stream()
    other.run(xs[::-1].copy())
    for target in (stream, other):
        target.state[...] = saved
        assert np.array_equal(np.asarray(target.run(xs[20:])), np.asarray(rest))
    other.state = saved
    assert np.array_equal(other.state, saved)
    assert not np.shares_memory(fork.state, stream.state)
    assert all(np.shares_memory(view, stream.state) for view in stream.states.values())
    assert sum(view.size for view in stream.states.values()) == stream.state.size


def test_whole_runs_remember_nothing() -> None:
    model = tinyrnn.load(SEQUENCE)
    xs = frames_for(model, 30)[:, None]
    first = model.run(xs)
    assert np.array_equal(np.asarray(model.run(xs)), np.asarray(first))


# Any threads.


def test_models_compile_in_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRNN_CACHE", str(tmp_path))
    paths = [SEQUENCE, STEP, SEVERAL, SEQUENCE]
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(tinyrnn.load, paths))
    assert [m.name for m in models] == [p.stem for p in paths]
    xs = frames_for(models[0], 5)
    assert np.array_equal(models[0].stream().run(xs), models[3].stream().run(xs))


def test_other_threads_run_meanwhile() -> None:
    model = tinyrnn.load(TOKENS)
    codes = np.zeros(20_000, np.int64)
    ticks, done = 0, threading.Event()

    def run() -> None:
        model.stream().run(codes)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.is_set():
        sleep(0.001)
        ticks += 1
    thread.join()
    assert ticks > 10


# The cache.


def in_process(code: str, cache: Path, *arguments: str) -> subprocess.Popen[str]:
    root = str(Path(tinyrnn.__file__).parents[1])
    environment = os.environ | {"TINYRNN_CACHE": str(cache), "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def answer(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


LOAD = """
import sys, hashlib, numpy, tinyrnn
model = tinyrnn.load(sys.argv[1])
y = model.stream().run(numpy.arange(30, dtype=numpy.float32).reshape(6, 5))
print(model._code.from_cache, hashlib.sha256(y.tobytes()).hexdigest())
print(*sorted({m.split(".")[0] for m in sys.modules} & {"numba", "onnx", "onnxruntime", "llvmlite", "click", "torch"}))
"""


def test_a_container_is_loaded_from_the_cache_with_llvmlite_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    tinyrnn.save(tinyrnn.load(SEQUENCE), path)
    first, second = (answer(in_process(LOAD, tmp_path / "cache", str(path))).split() for _ in range(2))
    assert first[0] == "False" and second[0] == "True" and first[1] == second[1]
    assert first[2:] == ["llvmlite", "numba"] and second[2:] == ["llvmlite"]


@pytest.mark.parametrize("damage", ["emptied", "one bit", "a folder"])
def test_a_damaged_entry_is_compiled_anew(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRNN_CACHE", str(tmp_path))
    model = tinyrnn.load(SEQUENCE)
    assert not model._code.from_cache and tinyrnn.load(SEQUENCE)._code.from_cache
    (entry,) = tmp_path.glob("*.o")
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "a folder":
        entry.unlink()
        entry.mkdir()
    else:
        entry.write_bytes(b"" if damage == "emptied" else bytes(data))
    again = tinyrnn.load(SEQUENCE)
    xs = frames_for(model, 5)
    assert not again._code.from_cache and np.array_equal(again.stream().run(xs), model.stream().run(xs))
    assert damage == "a folder" or tinyrnn.load(SEQUENCE)._code.from_cache


def test_a_cache_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRNN_CACHE", "")
    assert not tinyrnn.load(STEP)._code.from_cache and not tinyrnn.load(STEP)._code.from_cache


# The parts.


def test_nothing_but_operators_names_one() -> None:
    """Passes, plan, code generation and targets know no operator of a file by name."""
    package = Path(tinyrnn.__file__).parent
    names = {name for domain, name in REGISTRY if not domain} - {"Identity"}
    for path in [*package.glob("passes/*.py"), *package.glob("targets/*.py"), *package.glob("compile/*.py")]:
        constants = [n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)]
        assert not {value for value in constants if isinstance(value, str)} & names, path
