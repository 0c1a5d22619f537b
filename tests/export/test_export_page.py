"""Every block of code in export/README.md runs, in its order, and raises the errors that it shows."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

PAGE = ROOT / "export" / "README.md"
FENCE = re.compile(r"^```python(?P<kind>[^\n]*)\n(?P<code>.*?)^```\n(?:\n(?P<shown>(?:    [^\n]+\n)+))?", re.M | re.S)

os.environ.setdefault("KERAS_BACKEND", "torch")

for module, what in (
    ("torch", "PyTorch, whose modules the page exports"),
    ("onnxscript", "onnxscript, which PyTorch's second exporter needs"),
):
    pytest.importorskip(module, reason=f"{what}, is not installed")


@dataclass(frozen=True)
class Block:
    kind: frozenset[str]
    code: str
    shown: str
    line: int


def _blocks() -> list[Block]:
    text = PAGE.read_text("utf-8")
    found = [
        Block(frozenset(m["kind"].split()), m["code"], " ".join((m["shown"] or "").split()), text.count("\n", 0, m.start()) + 2)
        for m in FENCE.finditer(text)
    ]
    assert len(found) == len(re.findall(r"^```.+$", text, re.M)), "a fence is not python"
    return found


def _matches(shown: str, error: BaseException) -> bool:
    """Whether the beginning of `Kind: message` is what the page shows, where "…" leaves something out."""
    pattern = ".*".join(re.escape(part.strip()) for part in shown.split("…"))
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return re.match(pattern, said, re.S) is not None


def _run(blocks: list[Block]) -> None:
    import torch

    torch.set_num_threads(1)
    space: dict[str, Any] = {}
    for block in blocks:
        code = compile("\n" * (block.line - 1) + block.code, str(PAGE), "exec")
        if "error" not in block.kind:
            exec(code, space)
            continue
        assert block.shown, f"line {block.line}: no error is shown"
        with pytest.raises(Exception) as raised:
            exec(code, space)
        assert _matches(block.shown, raised.value), f"line {block.line}: {type(raised.value).__name__}: {raised.value}"


def test_the_code_for_pytorch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in _blocks() if "keras" not in block.kind]
    assert len(blocks) > 15 and sum("error" in block.kind for block in blocks) >= 8
    _run(blocks)


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras, whose models the page exports, is not installed")
def test_the_code_for_keras_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *others = _blocks()
    chosen = [
        block
        for block in others
        if "keras" in block.kind and ("torch-backend" not in block.kind or os.environ["KERAS_BACKEND"] == "torch")
    ]
    assert len(chosen) >= 6
    _run([first, *chosen])
