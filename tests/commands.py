"""Commands that tests run inside their own process: demos, and recipes, which train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click import Command
from click.testing import CliRunner, Result

from tinyrnn.cli import main


def demo(*arguments: object, status: int = 0) -> Result:
    """`tinyrnn demo` with these arguments; it ends with this status, and without a traceback."""
    return _run(main, ["demo", *arguments], status)


def run_recipe(recipe: Any, *arguments: object, status: int = 0) -> str:
    """What the command of a recipe, a module, prints with these arguments; it ends with this status."""
    return _run(recipe.main, arguments, status).output


def _run(command: Command, arguments: Sequence[object], status: int) -> Result:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


def report_on_made_data(recipe: Any, folder: Path, *arguments: object, same: tuple[str, ...] = ()) -> dict[str, Any]:
    """The report of a recipe that trains on data it makes; it finds `same` to be the same in all three engines."""
    text = run_recipe(recipe, "-o", folder, *arguments)
    assert "the data is made here" in text
    for what in same:
        assert f"{what}: the same in PyTorch, onnxruntime, tinyrnn" in text
    report: dict[str, Any] = json.loads((folder / f"{recipe.RECIPE.name}.json").read_text())
    return report
