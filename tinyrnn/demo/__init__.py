"""The classic uses of recurrent networks, each shown by a small trained model of the package.

A demo is one module here: `ABOUT`, and `show`, which runs it. The recipes that trained the models are in
`tinyrnn_export`, under the same names; a folder that they wrote can take the place of the packaged models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tinyrnn.errors import LoadError
from tinyrnn.loading.load import load
from tinyrnn.runtime import Model

DEMOS = ("digits", "char_lm", "sentiment", "translate", "video", "gesture", "caption", "caption_attention", "vqa")
PACKAGED = Path(__file__).parents[1] / "models"

Say = Callable[[str], None]
"""called with each line of text"""


@dataclass(frozen=True)
class About:
    """The description of a demo."""

    use: str
    """the shape of its use, as "many to one" """
    summary: str
    takes: str
    """what may be given as input, for a message"""


class Models:
    """A folder of models by the stems of their files."""

    def __init__(self, folder: Path = PACKAGED) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file of a model. Raises `LoadError`."""
        path = self.folder / f"{name}.onnx"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in self.folder.glob("*.onnx"))) or "no model"
            what = "the installation is incomplete" if self.folder == PACKAGED else "the recipe of this name writes it"
            raise LoadError(f"there is no {name}.onnx in {self.folder}, but {there}: {what}")
        return path

    def load(self, name: str, **how: Any) -> Model:
        """Load a model by its name; `how` as for `tinyrnn.load`. Raises `LoadError`."""
        return load(self.path(name), **how)


def about(name: str) -> About:
    """The description of a demo by its name."""
    found: About = import_module(f"tinyrnn.demo.{name}").ABOUT
    return found


def show(name: str, models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Run a demo: lines of text to `say`, a picture into a file, figures as the result.

    given:   text, or the path of a file, in place of the demo's own input
    picture: the file to draw to, None for no picture

    Raises `TinyRNNError`, before anything is said, for input that the demo cannot take.
    """
    found: dict[str, Any] = import_module(f"tinyrnn.demo.{name}").show(models, given, picture, say)
    return found
