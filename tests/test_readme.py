"""What the README prints is what the project does."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from tinyrnn.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_operator_table_is_the_registrys() -> None:
    printed = re.search(r"<!-- operators -->\n(.*?)\n<!-- end of operators -->", README, re.S)
    assert printed and printed.group(1) == runpy.run_path(str(ROOT / "bench" / "operators.py"))["table"]()


def test_two_commands_are_one_line_each() -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("    python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("tinyrnn demo") and commands[1].endswith("-m pytest")


def _model(path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"W": rng.standard_normal((1, 32, 5)), "R": rng.standard_normal((1, 32, 8)), "B": rng.standard_normal((1, 64))}
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=8)
    graph = helper.make_graph(
        [node], "readme", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 1, 1, 8])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _model(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(import numpy.*?)```", README, re.S)
    assert example
    names: dict[str, object] = {}
    exec(example.group(1), names)
    assert np.shape(names["ys"]) == (100, 1, 8)
    assert (tmp_path / "model.npz").is_file()


def _examples() -> list[tuple[str, list[str]]]:
    """Command lines that are shown with their output, and its lines."""
    found: list[tuple[str, list[str]]] = []
    for line in README.splitlines():
        if line.startswith("    $ tinyrnn "):
            found.append((line[6:], []))
        elif found and line.startswith("    "):
            found[-1][1].append(line[4:])
        elif line:
            found.append(("", []))
    return [example for example in found if example[0]]


@pytest.mark.parametrize(("line", "shown"), _examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_command_line_examples_run(line: str, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    model = ROOT.parent / "shared" / "models" / "dtln_model_1.onnx"
    foreign = model.name in line
    if foreign and not model.is_file():
        pytest.skip("../shared/models/dtln_model_1.onnx, which the example shows, is not here")
    words = [str(model) if word == model.name else word for word in shlex.split(line)[1:]]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    if foreign:  # its figures depend on the machine
        assert "dtln_model_1" in result.output
    else:
        printed = [text.rstrip() for text in result.output.splitlines()]
        assert shown and all(text in printed for text in shown if text), result.output


@pytest.mark.parametrize("command", re.findall(r"^\| `tinyrnn (\w+)", README, re.M))
def test_commands_of_the_table_exist(command: str) -> None:
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
