"""The files of a build: always the same, without the paths of this machine; limits, errors, and what loads them."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import tinyrnn
from tests import MODELS, ROOT, SHARED
from tinyrnn.check.samples import random_sample
from tinyrnn.cli import main
from tinyrnn.errors import LoadError, StreamError, TargetError, UnsupportedError
from tinyrnn.native.archive import archive
from tinyrnn.native.builder import Built
from tinyrnn.native.link import on_this_machine
from tinyrnn.native.objects import contents
from tinyrnn.runtime.built import selftest
from tinyrnn.targets.machine import host
from tinyrnn.targets.target_table import find_target, targets
from tinyrnn.targets.worker import Unit, compile_for

GRU = MODELS / "linear_relu_gru_residual_dynT_legacy.onnx"
LOOKAHEAD = MODELS / "architectures" / "lookahead_open_dynamo.onnx"
WHOLE = MODELS / "architectures" / "attentionpool_open_dynamo.onnx"
CHAR_LM = ROOT / "tinyrnn" / "models" / "char_lm.onnx"
LINKED = pytest.mark.skipif(
    not on_this_machine(find_target("host")) or not (shutil.which("cc") or shutil.which("ld.lld")),
    reason="no linker, or no Linux",
)


@pytest.fixture(scope="module")
def gru(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tinyrnn.build(GRU, tmp_path_factory.mktemp("gru"))


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tinyrnn.build(LOOKAHEAD, tmp_path_factory.mktemp("ahead"), name="ahead")


# --- the files -------------------------------------------------------------------------------------------------------


def test_two_builds_are_the_same_bytes(gru: Built, tmp_path: Path) -> None:
    again = tinyrnn.build(GRU, tmp_path / "elsewhere")
    assert again.files == gru.files
    for file in [*gru.files, "manifest.json"]:
        assert (again.folder / file).read_bytes() == (gru.folder / file).read_bytes(), file


def test_no_path_of_this_machine(gru: Built) -> None:
    places = [str(ROOT), str(Path.home()), sys.prefix, str(gru.folder), "/site-packages"]
    for file in gru.files:
        data = (gru.folder / file).read_bytes()
        assert not [p for p in places if p != "/" and p.encode() in data], file


def test_symbols_and_sizes(gru: Built) -> None:
    found = contents((gru.folder / f"{gru.manifest['name']}.o").read_bytes())
    name = gru.manifest["name"]
    assert set(found.defined) == {f"{name}_{part}" for part in ("init", "reset", "step", "run", "weights")}
    assert not found.needed
    assert found.code == gru.sizes.code and found.constants == gru.sizes.constants + gru.sizes.weights
    assert found.data == found.zeros == 0


def test_the_archive_is_what_ar_reads(gru: Built, tmp_path: Path) -> None:
    ar = shutil.which("ar")
    if ar is None:
        pytest.skip("ar is not installed")
    name = gru.manifest["name"]
    library = gru.folder / f"lib{name}.a"
    listed = subprocess.run([ar, "t", library], capture_output=True, text=True, check=True).stdout.split()
    assert listed == [f"{name}.o", f"{name}_selftest.o"]
    assert (
        subprocess.run([ar, "p", library, f"{name}.o"], capture_output=True, check=True).stdout
        == (gru.folder / f"{name}.o").read_bytes()
    )
    short = archive({"a.o": b"123", "a_long_name_of_a_member.o": b"4567"}, {"a.o": ["f"]})
    (tmp_path / "lib.a").write_bytes(short)
    assert subprocess.run([ar, "t", tmp_path / "lib.a"], capture_output=True, text=True, check=True).stdout.split() == [
        "a.o",
        "a_long_name_of_a_member.o",
    ]


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_is_c_and_cpp(gru: Built, ahead: Built, language: str, tmp_path: Path) -> None:
    compiler = shutil.which("gcc" if language == "c" else "g++")
    if compiler is None:
        pytest.skip(f"no compiler of {language}")
    for built in (gru, ahead):
        name = built.manifest["name"]
        source = tmp_path / f"main.{'c' if language == 'c' else 'cpp'}"
        source.write_text(
            f'#include "{name}.h"\n#include "{name}.h"\n{name.upper()}_MEMORY(mine);\nint main(void) {{ {name}_stream s;\n'
            f"if ({name}_init(&s, mine_state + 1, mine_arena) != {name.upper()}_BAD_MEMORY) return 1;\n"
            f"if ({name}_init(&s, 0, mine_arena) != {name.upper()}_BAD_MEMORY) return 2;\n"
            f"return {name}_init(&s, mine_state, mine_arena) || {name}_selftest(&s); }}\n"
        )
        standard = "-std=c99" if language == "c" else "-std=c++11"
        options = ["-Wall", "-Wextra", "-Werror", *([] if language == "c" else ["-pedantic"]), standard, "-I", str(built.folder)]
        subprocess.run([compiler, *options, source, built.folder / f"lib{name}.a", "-o", tmp_path / name], check=True)
        assert subprocess.run([tmp_path / name]).returncode == 0


def test_manifest(gru: Built) -> None:
    manifest = json.loads((gru.folder / "manifest.json").read_text())
    assert manifest == gru.manifest
    assert {"numba", "llvmlite", "numpy"} <= set(manifest["versions"])
    assert manifest["multiply_adds"] == tinyrnn.load(GRU)._layout.multiply_adds
    assert all(manifest["files"][f] for f in gru.files)


# --- Python ----------------------------------------------------------------------------------------------------------


def _python(folder: Path, code: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@LINKED
def test_the_python_file_needs_numpy_alone(gru: Built) -> None:
    name = gru.manifest["name"]
    tree = ast.parse((gru.folder / f"{name}.py").read_text())
    modules = {
        (n.module or "") if isinstance(n, ast.ImportFrom) else n.names[0].name
        for n in ast.walk(tree)
        if isinstance(n, (ast.Import, ast.ImportFrom))
    }
    assert {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names) == {"numpy"}
    frames = random_sample(tinyrnn.load(GRU), 40).inputs
    (x,) = (a[0] for a in frames.values())
    np.save(gru.folder / "x.npy", x)
    code = f"""
import sys
import numpy as np
import {name} as built
x = np.load("x.npy")
s = built.stream()
ys = s.run(x)
s.reset()
first = np.stack([s.step(f) for f in x[:20]])
other, saved = s.fork(), s.state.copy()
rest = other.run(x[20:])
assert np.array_equal(np.concatenate([first, rest]), ys)
s.state[...] = saved
out = np.empty_like(ys[20])
assert s.step(x[20], out=out) is out and np.array_equal(out, ys[20])
assert list(s.states) == [p.name for p in built.model.states]
assert built.selftest()
pool = built.model.pool(3)
assert all(np.array_equal(y, ys[0]) for y in pool.step(np.stack([x[0]] * 3)))
assert np.array_equal(pool.run(x[1:20, None], which=[2])[:, 0], ys[1:20])
for count in (1, 2, 2, 1):
    assert np.array_equal(built.model.run(np.stack([x] * count)), np.stack([ys] * count))
try:
    s.step(np.zeros(3))
except built.ShapeError as error:
    assert "one frame is" in str(error)
assert not {{"tinyrnn", "numba", "onnx", "llvmlite"}} & set(sys.modules)
np.save("y.npy", ys)
"""
    _python(gru.folder, code)
    try:
        np.testing.assert_array_equal(np.load(gru.folder / "y.npy"), tinyrnn.load(GRU).stream().run(x))
    finally:
        for file in ("x.npy", "y.npy"):
            (gru.folder / file).unlink()


@LINKED
def test_a_folder_loads_without_compiler_and_onnx(gru: Built) -> None:
    code = "import sys; from tinyrnn.runtime import load_built; m = load_built('.'); print(m.name, {'numba', 'onnx', 'llvmlite', 'tinyrnn.loading.stages'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=gru.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.split() == [tinyrnn.load(GRU).name, "set()"], done.stderr


@LINKED
def test_late_rows_come_as_in_python(ahead: Built) -> None:
    model, built = tinyrnn.load(LOOKAHEAD), tinyrnn.load_built(ahead.folder)
    (x,) = (a[0] for a in random_sample(model, 30).inputs.values())
    a, b = model.stream(), built.stream()
    np.testing.assert_array_equal(a.run(x), b.run(x))
    np.testing.assert_array_equal(a.flush(), b.flush())
    assert built.delay == model.delay
    np.testing.assert_array_equal(model.run(x[None]), built.run(x[None]))


@LINKED
def test_weights_of_another_model(tmp_path: Path) -> None:
    built = tinyrnn.build(GRU, tmp_path, weights="file")
    assert tinyrnn.load_built(tmp_path).stream() is not None
    file = tmp_path / built.manifest["weights"]
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(LoadError, match="not the weights of this build"):
        tinyrnn.load_built(tmp_path)
    file.unlink()
    with pytest.raises(LoadError, match="cannot be read"):
        tinyrnn.load_built(tmp_path)


@LINKED
def test_a_library_of_another_machine_or_build(gru: Built, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(gru.folder, folder)
    library = folder / gru.manifest["library"]
    library.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(LoadError, match="not the file that was built"):
        tinyrnn.load_built(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in (({"architecture": "riscv64"}, "this machine is"), ({"needs": ["avx1024"]}, "lacks avx1024")):
        (folder / "manifest.json").write_text(json.dumps({**manifest, "target": {**manifest["target"], **change}}))
        if "needs" not in change or Path("/proc/cpuinfo").is_file():
            with pytest.raises(TargetError, match=message):
                tinyrnn.load_built(folder)
    (folder / "manifest.json").write_text('{"format": 99, "made_by": "tinyrnn 9"}')
    with pytest.raises(LoadError, match="format 99"):
        tinyrnn.load_built(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(LoadError, match="not a manifest"):
        tinyrnn.load_built(folder)
    with pytest.raises(LoadError, match="no folder that tinyrnn build made"):
        tinyrnn.load_built(tmp_path / "nothing")
    with pytest.raises(LoadError, match="load_built loads it"):
        tinyrnn.load(gru.folder)


# --- what is refused -------------------------------------------------------------------------------------------------


def _refused(*words: str | Path) -> str:
    result = CliRunner().invoke(main, ["build", *map(str, words)])
    assert result.exit_code == 1 and result.output.startswith("Error: ") and "Traceback" not in result.output, result.output
    return result.output


def test_errors_are_one_message_each(tmp_path: Path) -> None:
    assert "no target 'z80'; there are host, x86-64-v2" in _refused(GRU, "-o", tmp_path, "--target", "z80")
    (tmp_path / "file").write_text("")
    assert "cannot be written (Not a directory)" in _refused(GRU, "-o", tmp_path / "file" / "folder")
    assert "cannot be written (File exists)" in _refused(GRU, "-o", tmp_path / "file")
    assert "LLVM knows no processor 'z80' of aarch64" in _refused(
        GRU, "-o", tmp_path / "a", "--target", "aarch64", "--cpu", "z80"
    )
    assert "LLVM knows no feature '+blast'" in _refused(GRU, "-o", tmp_path / "a", "--target", "riscv64", "--features", "+blast")
    assert "takes +NAME or -NAME" in _refused(GRU, "-o", tmp_path / "a", "--target", "riscv64", "--features", "blast")
    assert "nothing to emulate" in _refused(GRU, "-o", tmp_path / "a", "--emulate-fma", "--target", "rpi4")
    assert "like 'my_model'" in _refused(GRU, "-o", tmp_path / "a", "--name", "my model")
    assert "no such file" in _refused(tmp_path / "no.onnx", "-o", tmp_path / "a")


def test_no_file_of_anybody_else_is_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("precious")
    tinyrnn.build(GRU, tmp_path, "cortex-m4", name="mine")
    if on_this_machine(find_target("host")) and (shutil.which("cc") or shutil.which("ld.lld")):
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        assert "mine.py: not made by tinyrnn build, and not replaced" in _refused(GRU, "-o", tmp_path, "--name", "mine")
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert "holds the build 'mine'; 'other' needs a folder of its own" in _refused(
        GRU, "-o", tmp_path, "--target", "cortex-m4", "--name", "other"
    )
    (tmp_path / "manifest.json").write_text("{}")
    assert "manifest.json: not made by tinyrnn build" in _refused(GRU, "-o", tmp_path, "--target", "cortex-m4", "--name", "mine")
    assert mine.read_text() == "precious"


def test_a_build_replaces_the_one_before(tmp_path: Path) -> None:
    first = tinyrnn.build(GRU, tmp_path, "cortex-m4", name="m", weights="file")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "m.h").write_text("changed by hand")
    second = tinyrnn.build(GRU, tmp_path, "cortex-m7", name="m")
    assert "m.weights" in first.files and "m.weights" not in second.files
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*second.files, "manifest.json", "notes.txt"])
    outside = tmp_path.parent / "outside.weights"
    outside.write_bytes(b"1")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"]["../outside.weights"] = hashlib.sha256(b"1").hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    tinyrnn.build(GRU, tmp_path, "cortex-m7", name="m")
    assert outside.read_bytes() == b"1"


def test_unsupported_operators_are_refused_as_by_load(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("NonMaxSuppression", ["x", "x"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 4]) for n in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:])), tmp_path / "m.onnx")
    assert "NonMaxSuppression" in _refused(tmp_path / "m.onnx", "-o", tmp_path / "a", "--target", "cortex-m4")


def test_limits_name_the_largest(tmp_path: Path) -> None:
    text = _refused(CHAR_LM, "-o", tmp_path, "--target", "cortex-m4", "--max-flash", "64k", "--max-ram", "1k")
    assert re.search(r"bytes of flash are more than --max-flash 65,536\. Most of it: weights of '.+' \d\d,\d\d\d", text)
    assert re.search(r"bytes of ram are more than --max-ram 1,024\. Most of it: .*state 'h' 384", text)
    assert not [p for p in tmp_path.iterdir() if p.suffix]


def test_dtln_does_not_fit_a_small_part(tmp_path: Path) -> None:
    model = SHARED / "models" / "dtln_model_1.onnx"
    if not model.is_file():
        pytest.skip("../shared/models/dtln_model_1.onnx is not here")
    text = _refused(model, "-o", tmp_path, "--target", "cortex-m4", "--max-flash", "1M", "--max-ram", "192k")
    assert "bytes of flash are more than --max-flash 1,048,576. Most of it: weights of" in text


def test_float64_on_a_processor_without(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["d", "d"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "double", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, tmp_path / "double.onnx")
    assert "has no instruction for a part of it" in _refused(
        tmp_path / "double.onnx", "-o", tmp_path / "a", "--target", "cortex-m4"
    )


def test_a_model_that_cannot_stream_takes_whole_sequences(tmp_path: Path) -> None:
    model = next(
        p
        for p in sorted(MODELS.glob("*bi*_legacy.onnx"))
        if tinyrnn.load(p)._layout.refuses_stream and tinyrnn.load(p).kind == "sequence"
    )
    assert "--rows 100" in _refused(model, "-o", tmp_path)
    if not on_this_machine(find_target("host")):
        return
    tinyrnn.build(model, tmp_path / "short", rows=3)
    short = tinyrnn.load_built(tmp_path / "short")
    assert selftest(short, tmp_path / "short")
    tinyrnn.build(model, tmp_path, rows=20)
    here, built = tinyrnn.load(model), tinyrnn.load_built(tmp_path)
    sample = random_sample(here, 12)
    files = [sample.inputs[p.name] for p in here.inputs]
    with pytest.raises(StreamError, match="cannot stream"):
        built.stream()
    arrays = [
        f.transpose([p.file_shape.index(s) for s in p.file_shape]) if f.ndim == len(p.file_shape) else f
        for f, p in zip(files, here.inputs, strict=True)
    ]
    a, b = here.run(*arrays), built.run(*arrays)
    for one, two in zip(a if isinstance(a, tuple) else [a], b if isinstance(b, tuple) else [b], strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_llvm_cannot_do_is_contained() -> None:
    broken = Unit("broken", around='define void @f() {\n  call void asm sideeffect "nop", ""()\n  ret void\n}\n', exports=["f"])
    with pytest.raises(TargetError, match=r"cannot make code for thumbv7em.*signal 6"):
        compile_for(find_target("cortex-m4").machine, [broken])
    with pytest.raises(TargetError, match="a page cannot say"):
        compile_for(host(), [Unit("broken", "def run(a):\n    return undefined(a)\n", {"run": 1}, exports=["run"])])


def test_sizes_that_the_file_leaves_open(tmp_path: Path) -> None:
    from tinyrnn.loading.dynamic_shapes import DynamicShapeModel

    model = next(p for p in sorted((MODELS / "architectures").glob("*.onnx")) if isinstance(tinyrnn.load(p), DynamicShapeModel))
    with pytest.raises(UnsupportedError, match="its code has to know its sizes") as refused:
        tinyrnn.build(model, tmp_path)
    bind = {name: int(size) for name, size in re.findall(r"--bind (\S+)=(\d+)", str(refused.value))}
    tinyrnn.build(model, tmp_path, bind=bind)
    if on_this_machine(find_target("host")):
        assert selftest(tinyrnn.load_built(tmp_path), tmp_path)


def test_targets_are_listed() -> None:
    result = CliRunner().invoke(main, ["build", "--list-targets"])
    assert result.exit_code == 0 and all(f"\n{name} " in "\n" + result.output for name in targets())


def test_a_step_model_and_indices_in_c(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    built = tinyrnn.build(CHAR_LM, tmp_path)
    (tmp_path / "main.c").write_text("""
#include <string.h>
#include "char_lm.h"
CHAR_LM_MEMORY(mine);
int main(void) {
  char_lm_stream s;
  static float y[CHAR_LM_LOGITS_SIZE], z[CHAR_LM_LOGITS_SIZE], saved[CHAR_LM_STATE_FLOATS];
  int64_t good = 5, bad = 65, far = (int64_t)1 << 40;
  if (char_lm_init(&s, mine_state, mine_arena) || char_lm_step(&s, &good, y)) return 1;
  memcpy(saved, mine_state, sizeof saved);
  if (char_lm_step(&s, &bad, y) != 1 || char_lm_step(&s, &far, y) != 1) return 2;
  if (memcmp(saved, mine_state, sizeof saved)) return 3;
  if (char_lm_step(&s, &good, y)) return 4;
  memcpy(mine_state, saved, sizeof saved);
  if (char_lm_step(&s, &good, z) || memcmp(y, z, sizeof y)) return 5;
  return 0;
}
""")
    subprocess.run(
        [compiler, "-Wall", "-Werror", tmp_path / "main.c", tmp_path / "libchar_lm.a", "-o", tmp_path / "program"], check=True
    )
    assert subprocess.run([tmp_path / "program"]).returncode == 0
    assert built.manifest["target"]["name"] == "host"


def test_settings_reach_the_build(tmp_path: Path) -> None:
    wide = tinyrnn.build(GRU, tmp_path / "wide", "cortex-m4", rows=8)
    narrow = tinyrnn.build(GRU, tmp_path / "narrow", "cortex-m4")
    assert wide.sizes.arena > narrow.sizes.arena
    with pytest.raises(TargetError, match="at least one frame"):
        tinyrnn.build(GRU, tmp_path / "a", rows=0)
    wider: Any = find_target("x86-64-v2", features="+avx2,+fma").machine
    assert wider.fma == "unit" and wider.lanes == 8
    with pytest.raises(TargetError, match="which vectors it has is not known"):
        find_target("x86-64-v2", cpu="somecpu")
