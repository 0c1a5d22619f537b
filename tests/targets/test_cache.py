"""The cache of compiled code: bounded, its own user's, packed for other machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tinyrnn
from tests import MODELS
from tinyrnn.cli import main
from tinyrnn.compile.progress import listening, tell
from tinyrnn.loading import model_cache
from tinyrnn.targets import cache, parallel_compilation
from tinyrnn.targets.kernels import Kernels
from tinyrnn.targets.machine import host
from tinyrnn.targets.page import read_page
from tinyrnn.targets.page_functions import translated

STEP, OTHER = MODELS / "cell_gru_legacy.onnx", MODELS / "cell_rnn_legacy.onnx"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def command(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 1, result.output
    return result.output


def test_a_model_of_another_name_is_not_compiled_again(folder: Path, tmp_path: Path) -> None:
    tinyrnn.load(STEP)
    (tmp_path / "other.onnx").write_bytes(STEP.read_bytes())
    assert tinyrnn.load(tmp_path / "other.onnx")._code.from_cache
    assert len(list(folder.glob("*.o"))) == 1


def test_models_share_kernels(folder: Path) -> None:
    tinyrnn.load(MODELS / "cell_gru_linear_legacy.onnx")
    before = {path.name for path in folder.glob("kernels/*")}
    tinyrnn.load(MODELS / "cell_lstm_linear_dynB_legacy.onnx")
    after = {path.name for path in folder.glob("kernels/*")}
    assert before < after
    model = tinyrnn.load(MODELS / "cell_gru_linear_dynamo.onnx")
    assert model.stream() is not None


def test_all_kernels_there_load_without_numba(folder: Path) -> None:
    tinyrnn.load(STEP)
    for path in folder.glob("*.o"):
        path.unlink()
    code = f"import sys, tinyrnn; m = tinyrnn.load({str(STEP)!r}); print(m._code.from_cache, 'numba' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True).stdout
    assert answer.split() == ["False", "False"]


def test_what_was_not_used_for_longest_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        cache.write(f"{number:032x}.o", bytes(1000))
        os.utime(folder / f"{number:032x}.o", (number, number))
    assert cache.read(f"{0:032x}.o") == bytes(1000)
    monkeypatch.setenv(cache.SIZE_VARIABLE, "3500")
    cache.write(f"{4:032x}.o", bytes(1000))
    assert sorted(int(entry.name[:32], 16) for entry in cache.entries()) == [0, 3, 4]
    monkeypatch.setenv(cache.SIZE_VARIABLE, "much")
    with pytest.raises(tinyrnn.TargetError, match="a number of bytes"):
        cache.write(f"{5:032x}.o", bytes(1000))


@pytest.mark.skipif(os.name != "posix", reason="rights of files are POSIX's")
@pytest.mark.parametrize("place", [".", "kernels", "models"])
def test_a_folder_that_others_may_write_to_is_not_used(place: str, folder: Path) -> None:
    tinyrnn.load(STEP)
    assert not any((folder / p).stat().st_mode & 0o022 for p in (".", "kernels", "models"))
    (folder / place).chmod(0o777)
    cache._is_ours.cache_clear()
    with pytest.warns(UserWarning, match="others may write"):
        assert not tinyrnn.load(STEP)._code.from_cache
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not tinyrnn.load(STEP)._code.from_cache
    assert "others may write" in refused("cache", "list")
    (folder / place).chmod(0o700)
    cache._is_ours.cache_clear()
    assert tinyrnn.load(STEP)._code.from_cache


def test_a_packed_model_starts_in_another_cache_without_numba(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "model.pack"
    assert "4 files" in command("cache", "pack", STEP, "-o", archive)
    xs = np.random.default_rng(0).standard_normal((5, *tinyrnn.load(STEP).inputs[0].shape)).astype(np.float32)
    expected = tinyrnn.load(STEP).stream().run(xs)
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "there"))
    assert "4 files" in command("cache", "unpack", archive)
    code = (
        f"import sys, tinyrnn; m = tinyrnn.load({str(STEP)!r}); m._pooled(2); print(m._code.from_cache, 'numba' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True).stdout
    assert answer.split() == ["True", "False"]
    np.testing.assert_array_equal(np.asarray(tinyrnn.load(STEP).stream().run(xs)[0]), np.asarray(expected[0]))


def test_a_device_needs_numpy_and_llvmlite_alone(folder: Path) -> None:
    """What the page on installing says of small devices."""
    tinyrnn.load(STEP)
    code = f"""import sys
sys.modules.update(dict.fromkeys(("numba", "onnx", "onnxruntime", "click", "google", "ml_dtypes"), None))
import numpy as np, tinyrnn
model = tinyrnn.load({str(STEP)!r})
model.stream().run(np.zeros((3, *model.inputs[0].shape), np.float32))
try:
    tinyrnn.load({str(OTHER)!r})
except tinyrnn.TargetError as error:
    print(error)"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True).stdout
    assert re.search(r"cell_rnn_legacy.*compiling it needs (onnx|numba), which is not installed.*cache pack", said)


@pytest.mark.parametrize("kind", ["text", "other files", "other machine", "no machine", "cut short"])
def test_what_is_no_packed_model_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "file"
    command("cache", "pack", STEP, "-o", archive)
    before = {path.name for path in folder.rglob("*")}
    data = archive.read_bytes()
    if kind == "text":
        archive.write_text("text")
    elif kind == "cut short":
        archive.write_bytes(data[: len(data) // 2])
    else:
        with zipfile.ZipFile(archive, "w") as made:
            if kind != "no machine":
                made.writestr(cache.MACHINE, "another" if kind == "other machine" else "any")
            made.writestr("../evil.o" if kind == "other files" else f"{0:032x}.o", b"x")
    text = refused("cache", "unpack", archive)
    assert ("another machine" if kind == "other machine" else "nothing that") in text
    assert {path.name for path in folder.rglob("*")} == before and not (tmp_path / "evil.o").exists()


def test_the_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 models, code of 0, 0 kernels" in command("cache", "list")
    tinyrnn.load(STEP)
    assert "1 models, code of 1" in command("cache", "list") and '"files"' in command("cache", "list", "--json")
    assert "took" in command("cache", "clear")
    assert "0 models, code of 0, 0 kernels" in command("cache", "list") and not tinyrnn.load(STEP)._code.from_cache
    monkeypatch.setenv(cache.CACHE_VARIABLE, "")
    for line in (["list"], ["clear"], ["pack", STEP, "-o", folder / "x"], ["unpack", STEP]):
        assert "there is no cache" in refused("cache", *line)


def test_a_full_disk_is_done_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    assert not tinyrnn.load(STEP)._code.from_cache
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_an_interrupted_compile_goes_on_where_it_was(folder: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "kernels" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tinyrnn.load(OTHER, progress=interrupt)
    assert len(list(folder.glob("kernels/*.o"))) == 2 and not list(folder.glob("*.o"))
    told: list[tuple[str, int, int]] = []
    assert not tinyrnn.load(OTHER, progress=lambda *each: told.append(each))._code.from_cache
    assert min(done for stage, done, _ in told if stage == "kernels") == 2
    assert tinyrnn.load(OTHER)._code.from_cache


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_killed_compile_leaves_nothing_that_harms(folder: Path, tmp_path: Path) -> None:
    path = Path(tinyrnn.__file__).parent / "models" / "gesture.onnx"
    code = (
        "import os, signal, sys, tinyrnn\nfrom tinyrnn.targets import parallel_compilation\nparallel_compilation.EACH = 1\n"
        "def kill(stage, done, total):\n    if stage == 'kernels' and done: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"tinyrnn.load({str(path)!r}, progress=kill)"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, parallel_compilation.PROCESSES_VARIABLE: "2", "TMPDIR": str(temporary)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode < 0
    begun = time.monotonic()
    while list(temporary.iterdir()) and time.monotonic() < begun + 60:
        time.sleep(0.05)
    assert not list(temporary.iterdir()), "those who compiled beside it have ended and taken their folder away"
    assert not [
        file for file in folder.rglob("*") if file.is_file() and not cache.FILE.fullmatch(file.relative_to(folder).as_posix())
    ]
    assert tinyrnn.load(path)._code.size and tinyrnn.load(path)._code.from_cache


def test_stages_are_told_in_order(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    tinyrnn.load(OTHER, progress=lambda *each: told.append(each))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["reading", "passes", "plan", "page", "kernels", "linking", ""]
    kernels = [(done, total) for stage, done, total in told if stage == "kernels"]
    assert kernels == [(n, len(kernels) - 1) for n in range(len(kernels))] and len(kernels) > 2
    assert "kernels" in command("inspect", STEP, "--timing") and '"timing"' in command("inspect", STEP, "--timing", "--json")


def test_kernels_are_compiled_in_several_processes_to_the_same_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(tinyrnn.__file__).parent / "models" / "video.onnx"
    monkeypatch.setattr(parallel_compilation, "EACH", 2)
    made = []
    for processes in ("1", "3"):
        monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / processes))
        monkeypatch.setenv(parallel_compilation.PROCESSES_VARIABLE, processes)
        assert not tinyrnn.load(path)._code.from_cache
        made.append({entry.name: cache.read(entry.name) for entry in cache.entries()})
    assert len(made[0]) > 6 and made[0].keys() == made[1].keys()
    objects = [next(data for name, data in each.items() if name.endswith(".o")) for each in made]
    assert objects[0] == objects[1]


def test_a_process_beside_compiles_every_kernel_to_the_same_object(folder: Path, tmp_path: Path) -> None:
    """Those who ask compile for themselves what a process beside them could not, so that its failure would not be seen."""
    source = tinyrnn.load(Path(tinyrnn.__file__).parent / "models" / "video.onnx")._source.source
    kernels = Kernels(read_page(source.text), host())
    translated(kernels.page, {name: name for name in source.entries}, host().bits, kernels)
    here = dict(zip(kernels.called, parallel_compilation.objects(kernels), strict=True))
    request = {"machine": host().as_dict(), "page": source.text, "symbols": [*here], "form": "o", "parent": os.getpid()}
    (tmp_path / parallel_compilation.REQUEST).write_text(json.dumps(request))
    done = subprocess.run([sys.executable, "-m", parallel_compilation.__name__, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {symbol: (tmp_path / (symbol + parallel_compilation.ENDING)).read_bytes() for symbol in here} == here and len(here) > 6


def test_without_a_cache_no_file_is_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, "")
    monkeypatch.setattr(model_cache, "_of_file", lambda path: pytest.fail("the file was hashed for nothing"))
    assert tinyrnn.load(STEP).name == STEP.stem


@pytest.mark.parametrize("broken", ["sys.executable = '/nowhere/python'", "sys.executable = '/bin/false'", "sys.frozen = True"])
def test_without_other_processes_all_is_compiled_in_this_one(broken: str, folder: Path) -> None:
    path = Path(tinyrnn.__file__).parent / "models" / "gesture.onnx"
    code = f"import sys; {broken}\nimport tinyrnn\nfrom tinyrnn.targets import parallel_compilation\nparallel_compilation.EACH = 1\nprint(tinyrnn.load({str(path)!r})._code.size > 0)"
    environment = {**os.environ, parallel_compilation.PROCESSES_VARIABLE: "3"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert answer.stdout.split() == ["True"], answer.stderr


def test_a_load_that_fails_ends_and_nothing_is_told_outside_of_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    told: list[str] = []
    with listening(lambda stage, done, total: told.append(stage)):
        with pytest.raises(tinyrnn.LoadError):
            tinyrnn.load(tmp_path / "bad.onnx")
        assert told == ["reading", ""]
        tell("kernels", 1, 2)
    assert told == ["reading", ""]
