"""What README.md and the pages of the guide print is what the project does."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from tests import ROOT, SHARED
from tinyrnn import guide
from tinyrnn.cli import main

SHARED_MODELS = SHARED / "models"
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {"README": README, **{page: guide.read(page) for page in guide.PAGES}}
FOREIGN = ("dtln_model_1.onnx", "dtln_model_2.onnx")
"""models that pages show and that are not part of the project"""


def test_every_page_is_in_the_guide() -> None:
    assert sorted(guide.PAGES) == sorted(path.stem for path in (ROOT / "tinyrnn" / "guide").glob("*.md"))
    assert all(guide.read(page).startswith(f"# {guide.title(page)}\n") for page in guide.PAGES)


def test_operator_table_is_the_registrys() -> None:
    printed = re.search(r"<!-- operators -->\n(.*?)\n<!-- end of operators -->", PAGES["operators"], re.S)
    assert printed and printed.group(1) == runpy.run_path(str(ROOT / "bench" / "operators.py"))["table"]()


def test_two_commands_are_one_line_each() -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("    python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("tinyrnn demo") and commands[1].endswith("-m pytest")


def test_figures_of_the_readme_are_those_of_the_guide() -> None:
    rows = [line.removesuffix("|") for line in README.splitlines() if line.startswith("|") and re.search(r"\d\.\d", line)]
    theirs = [line for page in guide.PAGES for line in PAGES[page].splitlines()]
    assert len(rows) > 10
    assert not [row for row in rows if not any(line.startswith(row) for line in theirs)]


# Python


def _model(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"W": rng.standard_normal((1, 32, 5)), "R": rng.standard_normal((1, 32, 8)), "B": rng.standard_normal((1, 64))}
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=8)
    graph = helper.make_graph(
        [node],
        "readme",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 1, 1, 8])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")


def _weights(folder: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "embed.weight": (20, 6),
        "rnn.weight_ih_l0": (32, 6),
        "rnn.weight_hh_l0": (32, 8),
        "rnn.bias_ih_l0": (32,),
        "rnn.bias_hh_l0": (32,),
        "head.weight": (3, 8),
        "head.bias": (3,),
    }
    np.savez(folder / "m.npz", **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


def _denoiser(folder: Path) -> None:
    for name in FOREIGN:
        if not (SHARED_MODELS / name).is_file():
            pytest.skip(f"../shared/models/{name}, which the page loads, is not here")
        (folder / name).write_bytes((SHARED_MODELS / name).read_bytes())


PROGRAMS = ("contributing",)
"""pages whose blocks are a program of their own, run in a fresh process: what they register stays there"""
PREPARED: dict[str, Callable[[Path], None]] = {
    "README": _model,
    "streaming": _model,
    "pools": _model,
    "loading": _weights,
    "weights": _model,
    "sound": _denoiser,
}
"""what the code of a page finds in its folder"""
GIVEN = {"sound": {"noisy": np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)}}
"""names that the text of a page gives a meaning"""
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def _blocks(page: str) -> list[str]:
    text = PAGES[page]
    found = [match[1] for match in BLOCK.finditer(text)]
    assert len(found) == len(re.findall(r"^```\w", text, re.M)), f"{page}: a block is not Python"
    assert not re.search(r"^    (>>>|import |from \w+ import )", text, re.M), f"{page}: Python that is not in a fence"
    return found


def _ran(page: str, folder: Path) -> dict[str, object]:
    """The names that a page's blocks make, run one after the other in this folder."""
    PREPARED.get(page, lambda _: None)(folder)
    names: dict[str, object] = dict(GIVEN.get(page, {}))
    for block in _blocks(page):
        exec(compile(block, f"{page}.md", "exec"), names)
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page) and page not in PROGRAMS])
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = _ran(page, tmp_path)
    if PREPARED.get(page) is _model:
        assert np.shape(names["ys"]) == ((20, 3, 1, 8) if page == "pools" else (100, 1, 8))
    if page == "streaming":
        assert (tmp_path / "model.npz").is_file()
        np.testing.assert_array_equal(names["y"], names["again"])
    if page == "sound":
        parts = names["parts"]
        assert isinstance(parts, list)
        np.testing.assert_array_equal(np.concatenate(parts)[:4000], names["clean"])


@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(page: str, tmp_path: Path) -> None:
    program = tmp_path / f"{page}.py"
    program.write_text("\n".join(_blocks(page)), "utf-8")
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pages_with_python() -> None:
    assert {"README", "streaming", "pools", "loading", "weights", "generation", "sound", *PROGRAMS} == {
        page for page in PAGES if _blocks(page)
    }


# The command line


def _examples() -> list[tuple[str, list[str]]]:
    """Command lines that are shown with their output, and its lines."""
    found: list[tuple[str, list[str]]] = []
    for line in "\n\n.\n".join(PAGES.values()).splitlines():
        if line.startswith("    $ tinyrnn "):
            found.append((line[6:], []))
        elif found and line.startswith("    "):
            found[-1][1].append(line[4:])
        elif line:
            found.append(("", []))
    return [example for example in found if example[0]]


def test_all_examples_are_found() -> None:
    assert len(_examples()) == sum(text.count("$ tinyrnn ") for text in PAGES.values()) >= 11


@pytest.mark.parametrize(("line", "shown"), _examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_command_line_examples_run(line: str, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    foreign = [name for name in FOREIGN if name in line]
    for name in foreign:
        if not (SHARED_MODELS / name).is_file():
            pytest.skip(f"../shared/models/{name}, which the example shows, is not here")
    words = [str(SHARED_MODELS / word) if word in FOREIGN else word for word in shlex.split(line)[1:]]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    if foreign:  # its figures depend on the machine
        assert all(Path(name).stem in result.output for name in foreign)
    else:
        printed = [text.rstrip() for text in result.output.splitlines()]
        assert shown and all(text in printed for text in shown if text), result.output


@pytest.mark.parametrize("command", re.findall(r"^\| `tinyrnn (\w+)", PAGES["cli"], re.M))
def test_commands_of_the_table_exist(command: str) -> None:
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_every_command_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `tinyrnn (\w+)", PAGES["cli"], re.M)) == set(main.commands)
