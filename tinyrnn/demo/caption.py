"""One to many: an icon's features in, words out until the end of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyrnn.data import terminal as pictures
from tinyrnn.demo import About, Models, Say
from tinyrnn.demo.icons import TAKES, Captioner, Named, icons, named
from tinyrnn.demo.images import as_dots

ABOUT = About("one to many", "names of icons, word by word", TAKES)


def show(models: Models, given: str | None, picture: Path | None, say: Say) -> dict[str, Any]:
    """Name icons: those drawn by the demos, or one from a file."""
    found = named(Captioner(models, "caption"), icons(given))
    for one in found:
        lines = [one.icon, "", *one.lines()]
        for number, dots in enumerate(as_dots(one.image)):
            say(f"{dots}  {lines[number] if number < len(lines) else ''}".rstrip())
        say("")
    if picture is not None:
        draw(found, picture)
    return {"captions": [n.as_dict() for n in found]}


def draw(found: list[Named], path: Path) -> None:
    """Draw each icon over its likeliest names, the first of them in the title."""
    columns = min(len(found), 4)
    rows = -(-len(found) // columns)
    figure = pictures.figure(2.6 * columns, 3.4 * rows)
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1.3] * rows)
    for place in axes.flat:
        place.set_axis_off()
    for i, one in enumerate(found):
        top, bottom = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        top.imshow(one.image, cmap="gray", vmin=0, vmax=1)
        top.set_title(one.names[0][0])
        bottom.set_axis_on()
        names, shares = zip(*one.names, strict=True)
        bars = bottom.barh(range(len(names)), shares, color="lightsteelblue")
        for bar, name in zip(bars, names, strict=True):
            bottom.text(0.02, bar.get_y() + bar.get_height() / 2, name, va="center", fontsize=7)
        bottom.set(xlim=(0, 1), xticks=[0, 0.5, 1], yticks=[])
        bottom.invert_yaxis()
        bottom.tick_params(labelsize=6, length=2)
    pictures.save(figure, path)
