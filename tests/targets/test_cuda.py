"""The cuda target on the emulated GPU: operators, models, streams and pools have the bits of the cpu target."""

from __future__ import annotations

import gc
import os
import re
import site
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests import ROOT
from tests.driving import loaded, whole
from tests.ops.grouping import joined
from tests.ops.recurrent_cases import build, recurrent_cases
from tests.ops.test_ops import BUILT, GROUPS
from tests.ops.test_storage import lstm
from tests.pools import frames
from tests.targets.page_on_emulator import on_emulator
from tinyrnn.loading.device import load_on_device, page_of
from tinyrnn.runtime import Model, load_built
from tinyrnn.runtime.device_arrays import DeviceArray
from tinyrnn.targets.cuda import call_ptx
from tinyrnn.targets.emulator import Fault, parse
from tinyrnn.targets.emulator.device import Emulated
from tinyrnn.targets.emulator.grid import WAYS

ALL = bool(os.environ.get("TINYRNN_ALL"))
MODELS = ROOT / "tinyrnn" / "models"
GESTURE, CHAR_LM = MODELS / "gesture.onnx", MODELS / "char_lm.onnx"
LATE = ROOT / "tests" / "models" / "architectures" / "lookahead_open_dynamo.onnx"
STRIDED = ROOT / "tests" / "models" / "architectures" / "stridelstm_open_dynamo.onnx"
RECURRENT = [c for c in recurrent_cases() if c.N == 1][:: 1 if ALL else 24]


def same(a: Any, b: Any) -> bool:
    """Bits, but that any NaN equals any NaN: a GPU has only one."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "f":
        equal = (a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))
        return a.shape == b.shape and a.dtype == b.dtype and bool(equal.all())
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def several(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("group", GROUPS if ALL else GROUPS[::6], ids=lambda g: f"{g[0]}-and-{len(g) - 1}")
def test_operators(group: tuple[str, ...], tmp_path: Path) -> None:
    given = {f"{key}/{name}": array for key in group for name, array in BUILT[key][1].items()}
    model = loaded(joined({key: BUILT[key][0] for key in group}), tmp_path, states={})
    expected, found = whole(model, given), whole(on_emulator(model), given)
    assert not [name for name, array in expected.items() if not same(found[name], array)]


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_recurrent_layers(case: Any, tmp_path: Path) -> None:
    proto, inputs = build(case)
    model = loaded(proto, tmp_path)
    expected, found = whole(model, inputs), whole(on_emulator(model, np.random.default_rng(1)), inputs)
    assert not [name for name, array in expected.items() if not same(found[name], array)]


@pytest.mark.parametrize("weights", ["float16", "bfloat16", "int8:16", "int8x8"])
def test_small_weights(weights: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    cpu, gpu = (tinyrnn.load(GESTURE, weights=weights, target=target) for target in ("cpu", "cuda-emulated"))
    alone = cpu.stream().run(x)
    assert same(gpu.stream().run(x), alone) and same(gpu.pool(3).run(np.stack([x] * 3, 1))[:, 1], alone)


def agree(cpu: Model, gpu: Model, slots: int = 5) -> None:
    """Streams of a pool on the GPU that step and run in any company have the bits of lone streams on the processor."""
    rng = np.random.default_rng(0)
    pool, alone = gpu.pool(slots), [cpu.stream() for _ in range(slots)]
    for _ in range(2):
        which = rng.permutation(slots)[:3]
        given = frames(cpu, rng, 3)
        made = pool.step(*given, which=which)
        for place, slot in enumerate(which):
            wanted = several(alone[slot].step(*(x[place] for x in given)))
            mine = several(made[place]) if isinstance(made, list) else [a[place] for a in several(made)]
            assert all((a is None and b is None) or same(a, b) for a, b in zip(mine, wanted, strict=True))
    pool.reset([int(which[0])])
    alone[which[0]].reset()
    alone[1].state[...] = alone[2].state
    pool.state[1] = pool.state[2]
    given, lengths = frames(cpu, rng, 4, slots), np.array([4, 0, 2, 3, 1])
    made = pool.run(*given, lengths=lengths)
    for slot, n in enumerate(lengths):
        if n:
            mine = [x[:n, slot] if p.per_frame else x[slot] for p, x in zip(cpu.inputs, given, strict=True)]
            wanted = several(alone[slot].run(*mine))
            found = (
                several(made[slot])
                if isinstance(made, list)
                else [a[:n, slot] if p.per_frame else a[slot] for p, a in zip(cpu.outputs, several(made), strict=True)]
            )
            assert all(same(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(same(row, stream.state) for row, stream in zip(pool.state, alone, strict=True))
    last = pool.stream(3)
    frame = [x[0] for x in frames(cpu, rng, 1)]
    assert all(
        a is b is None or same(a, b) for a, b in zip(several(last.step(*frame)), several(alone[3].step(*frame)), strict=True)
    )
    assert same(pool.state[3], alone[3].state)
    if cpu.has_tail:
        for tail, stream in zip(pool.flush([0, 3]), (alone[0], alone[3]), strict=True):
            assert all(same(a, b) for a, b in zip(several(tail), several(stream.flush()), strict=True))
    pool.close()
    with pytest.raises(tinyrnn.StreamError, match="closed"):
        pool.step(*frames(cpu, rng, slots))


@pytest.mark.parametrize("path", [GESTURE, CHAR_LM, LATE, STRIDED], ids=lambda p: p.stem)
@pytest.mark.parametrize("schedule", ["together", "random"])
def test_pools(path: Path, schedule: str) -> None:
    cpu = tinyrnn.load(path)
    agree(cpu, on_emulator(cpu, np.random.default_rng(7) if schedule == "random" else None))


def test_missing_barriers_are_noticed(tmp_path: Path) -> None:
    """A schedule in which one lane is ahead or behind finds code without barriers wrong, and barriers that alone matter."""
    cpu = loaded(lstm(5, 3), tmp_path)
    page = page_of(on_emulator(cpu)._source.plan)
    marks = [m.span() for m in re.finditer(r"\tbar\.warp\.sync[^;]*;\n", page.ptx)]
    xs, streams = frames(cpu, np.random.default_rng(1), 2, 3), [cpu.stream() for _ in range(3)]
    wanted = [s.run(*(x[:, i] for x in xs)) for i, s in enumerate(streams)]

    def right(ptx: str, seed: int) -> bool:
        gpu = on_emulator(cpu, np.random.default_rng(seed))
        gpu._page = lambda: replace(page, ptx=ptx)
        made = gpu.pool(3).run(*xs)
        found = [[a[:, i] for a in several(made)] for i in range(3)]
        return all(same(a, b) for f, w in zip(found, wanted, strict=True) for a, b in zip(f, several(w), strict=True))

    ahead, behind = (next(s for s in range(99) if way_of(s) == way) for way in ("ahead", "behind"))
    bare = re.sub(r"\tbar\.warp\.sync[^;]*;\n", "", page.ptx)
    for seed in (ahead, behind):
        assert right(page.ptx, seed) and not right(bare, seed)
    assert any(not (right(page.ptx[:a] + page.ptx[b:], ahead) and right(page.ptx[:a] + page.ptx[b:], behind)) for a, b in marks)


def way_of(seed: int) -> str:
    """What the emulator draws first from a generator."""
    return str(np.random.default_rng(seed).choice(WAYS))


def test_only_exact_instructions() -> None:
    ptx = page_of(on_emulator(tinyrnn.load(GESTURE))._source.plan).ptx
    assert not re.search(r"\.(approx|ftz|full|local)\b", ptx)
    device = Emulated(1 << 16)
    for exact, other in (("fma.rn.f32", "fma.rz.f32"), ("fma.rn.f32", "fma.rn.ftz.f32"), ("ld.global", "ld.local")):
        function = parse(ptx.replace(exact, other))["tick"]
        with pytest.raises((tinyrnn.TargetError, Fault)):
            device.launch(function, 1, 1, 0)


def test_ptxas_takes_the_code(tmp_path: Path) -> None:
    """NVIDIA's assembler, where its wheel is installed: no registers of the kernels are spilled, and each has few enough."""
    found = [p for folder in site.getsitepackages() for p in Path(folder).glob("nvidia/*/bin/ptxas")]
    if not found:
        pytest.skip("ptxas is not here (nvidia-cuda-nvcc)")
    for path in (GESTURE, CHAR_LM, MODELS / "digits.onnx"):
        stages = on_emulator(tinyrnn.load(path))._source
        for ptx in (page_of(stages.plan).ptx, call_ptx(stages.source)[0]):
            (tmp_path / "code.ptx").write_text(ptx)
            command = [found[0], "-arch=sm_90", "-v", tmp_path / "code.ptx", "-o", tmp_path / "code.cubin"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            assert all(int(n) == 0 for n in re.findall(r"(\d+) bytes (?:stack frame|spill)", said)), said
            assert all(int(n) <= 255 for n in re.findall(r"Used (\d+) registers", said))


def test_arrays_on_the_gpu() -> None:
    cpu = tinyrnn.load(GESTURE)
    gpu = on_emulator(cpu)
    pool, device = gpu.pool(3), gpu._device
    x = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)

    def there(array: np.ndarray) -> DeviceArray:
        made = DeviceArray(device, device.take(array.nbytes), array.shape, array.dtype)
        device.write(made._address, np.ascontiguousarray(array))
        return made

    made = pool.step(there(x))
    wanted = [cpu.stream().step(row) for row in x]
    assert same(made.numpy(), np.stack(wanted))
    out = there(np.zeros((3, 4), np.float32))
    pool.reset()
    assert pool.step(there(x), out=out) is out and same(out.numpy(), made.numpy())
    for wrong in (x[:2], x.astype(np.float64)):
        with pytest.raises(tinyrnn.ShapeError, match="on the GPU; needed is float32"):
            pool.step(there(wrong))


def test_memory_of_the_gpu_is_given_back() -> None:
    x = np.zeros((3, 2), np.float32)
    gpu = on_emulator(tinyrnn.load(GESTURE))
    device, all_of_it = gpu._device, len(gpu._device._memory)
    gpu.stream().step(x[0])
    pool = gpu.pool(3)
    pool.step(x)
    used = all_of_it - device.free_bytes()
    assert used > 2 * gpu._layout.weights.nbytes
    del pool
    gc.collect()
    assert gpu._layout.weights.nbytes < all_of_it - device.free_bytes() < used
    del gpu
    gc.collect()
    assert device.free_bytes() == all_of_it


def test_a_build_for_gpus(tmp_path: Path) -> None:
    built = tinyrnn.build(GESTURE, tmp_path / "built", "cuda")
    assert "NVIDIA GPUs" in str(built) and "pool.ptx" in built.files
    agree(tinyrnn.load(GESTURE), load_built(tmp_path / "built", Emulated(1 << 24)))
    (tmp_path / "built" / "pool.ptx").write_text("no")
    with pytest.raises(tinyrnn.LoadError, match=r"pool\.ptx: not the file that was built"):
        load_built(tmp_path / "built", Emulated(1 << 24))
    with pytest.raises(tinyrnn.TargetError, match="takes no rows"):
        tinyrnn.build(GESTURE, tmp_path / "again", "cuda", rows=3)


def test_what_does_not_run_there() -> None:
    with pytest.raises(tinyrnn.TargetError, match="supported are 'cpu', 'cuda', 'cuda-emulated'"):
        tinyrnn.load(GESTURE, target="gpu")
    gpu = load_on_device(GESTURE, "cuda-emulated")
    with pytest.raises(tinyrnn.TargetError, match="threads=2"):
        gpu.pool(3, threads=2)
    with pytest.raises(tinyrnn.StreamError, match="target='cpu'"):
        gpu.trace(np.zeros((1, 3, 2), np.float32))
    small = on_emulator(tinyrnn.load(GESTURE))
    with pytest.raises(tinyrnn.TargetError, match=r"slots take .* bytes, which the GPU has not .*; about [\d,]+ slots would fit"):
        small.pool(1_000_000)
