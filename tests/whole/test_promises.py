"""What the project promises: no allocation, no overlap, the same bits in any chunks and threads, one-way imports."""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrnn
from tests import MODELS, ROOT
from tinyrnn.bench.counts import count_allocations
from tinyrnn.targets import cache

PACKAGE = ROOT / "tinyrnn"
CHAR_LM = PACKAGE / "models" / "char_lm.onnx"
FILES = [
    MODELS / f"{name}.onnx"
    for name in (
        "linear_relu_gru_residual_dynT_legacy",
        "lstm_layernorm_lstm_dynT_legacy",
        "cell_lstm_stack2_legacy",
        "packed_state_lstm_step_legacy",
    )
]


@pytest.fixture(scope="module")
def model() -> tinyrnn.Model:
    return tinyrnn.load(FILES[0])


# --- imports ---------------------------------------------------------------------------------------------------------

LEVELS = [
    ["errors", "guide", "lanes"],
    ["graph"],
    ["frontends", "ops", "runtime"],
    ["data", "passes"],
    ["audio", "compile", "trace"],
    ["targets"],
    ["decode", "loading"],
    ["bench", "check"],
    ["demo", "native", "quantization"],
    ["cli"],
    ["__main__"],
]
"""the rooms of the package, and its files: each imports those of lines before it alone"""
OUTSIDE = {
    "onnx": {"frontends/onnx.py", "frontends/functions.py", "check/samples.py", "bench/data.py", "bench/peer.py"},
    "onnxruntime": {"check/oracles.py", "bench/peer.py", "bench/__init__.py", "bench/report.py"},
    "torch": set(),
    "numba": {
        "lanes/llvm.py",
        "lanes/warp.py",
        "lanes/llvm_integers.py",
        "lanes/llvm_types.py",
        "lanes/pipeline.py",
        "targets/lowering.py",
    },
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_run_one_way() -> None:
    level = {part: index for index, parts in enumerate(LEVELS) for part in parts}
    sources = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    assert {_part(p) for p in sources} == set(level), "a part of the package has no level"
    for path in sources:
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] != "tinyrnn" or len(parts) == 1 or parts[1] not in level or parts[1] == _part(path):
                continue
            own, other = _part(path), parts[1]
            upward = level[other] >= level[own]
            assert not upward, f"{path.relative_to(ROOT)} imports {name}"


def test_runtime_needs_numpy_alone() -> None:
    for path in (PACKAGE / "graph/arrays.py", PACKAGE / "graph/clock.py", *(PACKAGE / "runtime").glob("*.py")):
        outside = {n.split(".")[0] for n in _imports(path)} - set(sys.stdlib_module_names)
        assert outside <= {"numpy", "tinyrnn"}
        ours = {".".join(n.split(".")[1:3]) for n in _imports(path) if n.startswith("tinyrnn.")}
        assert not {n for n in ours if not re.match(r"errors|runtime|graph$|graph\.(arrays|clock)", n)}


def test_all_of_the_package_is_installed() -> None:
    section = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools]")[1].split("]")[0]
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(re.findall(r'"(tinyrnn[\w.]*)"', section)) == {*folders, "tinyrnn.models", "tinyrnn_export"}


def test_tests_stand_in_the_rooms_of_the_package() -> None:
    rooms = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert rooms <= {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {"export", "whole"}
    elsewhere = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name not in rooms]
    assert not elsewhere, "a test that stands in no room, or in one that is no package"


@pytest.mark.parametrize("library", OUTSIDE)
def test_libraries_are_known_in_few_places(library: str) -> None:
    users = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if any(n.split(".")[0] == library for n in _imports(p))}
    assert users <= OUTSIDE[library], users - OUTSIDE[library]


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_lazy() -> None:
    loaded = _python("import sys, tinyrnn; print(*sys.modules)").split()
    assert not {"numba", "llvmlite", "onnx", "onnxruntime", "numpy"} & set(loaded)


def test_a_model_is_compiled_and_run_without_onnxruntime(tmp_path: Path) -> None:
    code = f"""import sys, numpy as np, tinyrnn
sys.modules["onnxruntime"] = None
model = tinyrnn.load({str(FILES[0])!r})
xs = np.zeros((3, *model.inputs[0].shape), np.float32)
model.stream().run(xs)
model.run(np.zeros([size if isinstance(size, int) else 3 for size in model.inputs[0].file_shape], np.float32))
print(model._code.from_cache)"""
    assert _python(code, TINYRNN_CACHE=str(tmp_path)).strip() == "False"


def test_cached_load_does_without_numba(model: tinyrnn.Model) -> None:
    code = f"import sys, tinyrnn; m = tinyrnn.load({str(FILES[0])!r}); print(m._code.from_cache, 'numba' in sys.modules)"
    assert _python(code).split() == ["True", "False"]


# --- memory ----------------------------------------------------------------------------------------------------------


def test_step_into_an_array_allocates_nothing(model: tinyrnn.Model) -> None:
    stream = model.stream()
    x, y = np.zeros(model.inputs[0].shape, np.float32), np.empty(model.outputs[0].shape, np.float32)
    counted = count_allocations(lambda: stream.step(x, out=y))
    assert counted is not None and counted.bytes == 0 and counted.blocks == 0
    made = count_allocations(lambda: stream.step(x))
    assert made is not None and made.bytes >= y.nbytes


def test_a_stream_is_freed_without_the_collector(model: tinyrnn.Model) -> None:
    import gc
    import weakref

    gc.disable()
    try:
        stream = model.stream()
        alive = weakref.ref(stream)
        del stream
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_two_living_values_overlap_in_the_arena(path: Path) -> None:
    plan = tinyrnn.load(path)._source.plan
    assert plan.regions
    for region in plan.regions:
        assert region.offset % 64 == 0
        assert region.offset + region.size <= (plan.arena_per_row if region.per_row else plan.arena_fixed)
    for a, b in itertools.combinations(plan.regions, 2):
        together = a.per_row == b.per_row and a.first <= b.last and b.first <= a.last
        assert not together or a.offset + a.size <= b.offset or b.offset + b.size <= a.offset, (a, b)


# --- bits ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_any_chunks_give_the_same_bits(model: tinyrnn.Model, sizes: list[int]) -> None:
    xs = np.random.default_rng(5).standard_normal((sum(sizes), *model.inputs[0].shape)).astype(np.float32)
    whole, parts = model.stream(), model.stream()
    expected = whole.run(xs)
    ends = np.cumsum([0, *sizes])
    pieces = [parts.run(xs[a:b]) for a, b in itertools.pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
    np.testing.assert_array_equal(parts.state, whole.state)


def test_snapshot_restore_and_fork(model: tinyrnn.Model) -> None:
    xs = np.random.default_rng(6).standard_normal((20, *model.inputs[0].shape)).astype(np.float32)
    stream = model.stream()
    stream.run(xs[:10])
    saved, other = stream.state.copy(), stream.fork()
    first = stream.run(xs[10:])
    np.testing.assert_array_equal(other.run(xs[10:]), first)
    stream.state[...] = saved
    np.testing.assert_array_equal(stream.run(xs[10:]), first)
    stream.reset()
    np.testing.assert_array_equal(stream.state, model.stream().state)


def test_many_streams_in_many_threads(model: tinyrnn.Model) -> None:
    rng = np.random.default_rng(7)
    inputs = rng.standard_normal((6, 400, *model.inputs[0].shape)).astype(np.float32)
    expected = [model.stream().run(x) for x in inputs]
    results: list[np.ndarray] = [np.empty(0)] * len(inputs)

    def work(index: int) -> None:
        stream = model.stream()
        steps = [stream.step(x) for x in inputs[index, :100]]
        results[index] = np.concatenate([np.stack(steps), stream.run(inputs[index, 100:])])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, right)


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_damaged_cache_entry_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))
    assert not tinyrnn.load(FILES[2])._code.from_cache
    (entry,), kernels = tmp_path.glob("*.o"), list(tmp_path.glob("kernels/*"))
    size = len(entry.read_bytes())
    assert kernels
    for damaged in (entry, *kernels):
        damaged.write_bytes(damaged.read_bytes()[:-40] + b"x" * 40)
    assert not tinyrnn.load(FILES[2])._code.from_cache
    assert len(entry.read_bytes()) == size
    assert tinyrnn.load(FILES[2])._code.from_cache


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    stream = tinyrnn.load(FILES[2]).stream()
    assert all(np.isfinite(stream.state))


def test_two_processes_fill_the_cache_at_once(tmp_path: Path) -> None:
    code = f"import tinyrnn; print(tinyrnn.load({str(FILES[2])!r})._code.size)"
    environment = {**os.environ, cache.CACHE_VARIABLE: str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    sizes = [process.communicate(timeout=300)[0].strip() for process in running]
    assert len(set(sizes)) == 1 and int(sizes[0]) > 0
    assert len(list(tmp_path.glob("*.o"))) == 1


def test_two_kernels_of_one_name_are_refused() -> None:
    from tinyrnn.lanes import KERNELS, kernel

    def copy_f32() -> None:
        pass

    before = list(KERNELS)
    with pytest.raises(ValueError, match="two kernels are called copy_f32"):
        kernel(copy_f32)
    assert before == KERNELS


def test_two_operators_of_one_name_are_refused() -> None:
    from tinyrnn.graph.op import REGISTRY, register
    from tinyrnn.ops.reduction.softmax import Softmax

    before = dict(REGISTRY)
    with pytest.raises(ValueError, match=r"two operators are called Softmax: in tinyrnn\.ops\.reduction\.softmax"):
        register(Softmax)
    assert before == REGISTRY
