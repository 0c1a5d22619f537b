"""Image files from matplotlib figures. matplotlib is needed for drawing only."""

from __future__ import annotations

from os import W_OK, PathLike, access, fspath
from pathlib import Path
from typing import Any

from tinyrnn.errors import TinyRNNError

DOTS = 120
"""dots per inch of a picture"""


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise TinyRNNError("drawing needs matplotlib: pip install tinyrnn[plot]") from None
    return Figure, FigureCanvasAgg


def figure(width: float, height: float) -> Any:
    """A new matplotlib Figure, sizes in inches, with constrained layout. Raises `TinyRNNError` without matplotlib."""
    make, canvas = _matplotlib()
    made = make(figsize=(width, height), layout="constrained")
    canvas(made)
    return made


def check_picture(path: str | PathLike[str]) -> None:
    """Raise `TinyRNNError`, before any work is done, if no picture can be written to `path`."""
    _, canvas = _matplotlib()
    place = Path(path)
    kinds = canvas.get_supported_filetypes()
    if place.suffix[1:].lower() not in kinds:
        raise TinyRNNError(
            f"{place}: unknown kind of picture {place.suffix!r}; supported are {', '.join('.' + k for k in kinds)}"
        )
    if place.is_dir() or not place.parent.is_dir() or not access(place.parent, W_OK):
        raise TinyRNNError(f"{place}: cannot be written: there is no folder {place.parent}, or it cannot be written to")


def save(made: Any, path: str | PathLike[str]) -> None:
    """Write a figure to an image file. Raises `TinyRNNError` where that is not possible."""
    try:
        made.savefig(fspath(path), dpi=DOTS)
    except (OSError, ValueError) as error:
        raise TinyRNNError(f"{fspath(path)}: the picture cannot be written ({error})") from None
