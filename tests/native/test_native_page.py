"""The example in export/NATIVE.md does what the page prints."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import ROOT
from tinyrnn.cli import main

PAGE = (ROOT / "export" / "NATIVE.md").read_text()


def _built(options: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page's command with these options makes."""
    monkeypatch.chdir(ROOT)
    command = re.search(rf"^    tinyrnn (build .*) -o built{options}$", PAGE, re.M)
    assert command
    result = CliRunner().invoke(main, [*command.group(1).split(), *options.split(), "-o", str(folder)])
    assert result.exit_code == 0, result.output


def test_the_example_of_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("cc"):
        pytest.skip("cc is not installed")
    _built(" --streams 64", tmp_path, monkeypatch)
    source, printed = re.findall(r"`pool.c`:\n\n```c\n(.*?)```.*?prints\n\n```text\n(.*?)```", PAGE, re.S)[0]
    (tmp_path / "pool.c").write_text(source)
    subprocess.run(["cc", "-Wall", "-Werror", "-std=c11", "pool.c", "libchar_lm.a", "-o", "pool"], cwd=tmp_path, check=True)
    assert subprocess.run(["./pool"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout == printed
    assert not [file.name for file in tmp_path.iterdir() if file.name not in (*PAGE.split("`"), "pool", "__pycache__")]


def test_the_c_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [tool for tool in ("make", "cc") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    _built("", tmp_path / "built", monkeypatch)
    for name, language in (("main.c", "c"), ("Makefile", "make")):
        block = re.search(rf"`{name}`:\n\n```{language}\n(.*?)```", PAGE, re.S)
        assert block
        (tmp_path / name).write_text(block.group(1))
    subprocess.run(["make", "-s"], cwd=tmp_path, check=True)
    printed = re.search(r"prints\n\n```text\n(.*?)```", PAGE, re.S)
    assert printed and subprocess.run(
        ["./main"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout == printed.group(1)
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    if (tmp_path / "built" / "libchar_lm.so").is_file():
        assert code
        subprocess.run([sys.executable, "-c", code.group(1)], cwd=tmp_path / "built", check=True)
    assert not [file.name for file in (tmp_path / "built").iterdir() if file.name not in PAGE]
