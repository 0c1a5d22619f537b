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


def test_the_c_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [tool for tool in ("make", "cc") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    monkeypatch.chdir(ROOT)
    command = re.search(r"^    tinyrnn (build .*) -o built$", PAGE, re.M)
    assert command
    result = CliRunner().invoke(main, [*command.group(1).split(), "-o", str(tmp_path / "built")])
    assert result.exit_code == 0, result.output
    for name, language in (("main.c", "c"), ("Makefile", "make")):
        block = re.search(rf"`{name}`:\n\n```{language}\n(.*?)```", PAGE, re.S)
        assert block
        (tmp_path / name).write_text(block.group(1))
    subprocess.run(["make", "-s"], cwd=tmp_path, check=True)
    printed = re.search(r"prints\n\n```text\n(.*?)```", PAGE, re.S)
    assert printed and subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout == printed.group(1)
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    if (tmp_path / "built" / "libchar_lm.so").is_file():
        assert code
        subprocess.run([sys.executable, "-c", code.group(1)], cwd=tmp_path / "built", check=True)
    assert not [file.name for file in (tmp_path / "built").iterdir() if file.name not in PAGE]
