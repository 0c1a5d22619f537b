"""Pictures of a trace: heat maps of input, layers and output over time. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np

from tinyrnn.data import terminal as picture
from tinyrnn.errors import TinyRNNError
from tinyrnn.graph.arrays import Array
from tinyrnn.trace import Layer, Trace

MOST_UNITS = 64
"""most rows of a heat map: of more units every n-th one is drawn"""
MOST_LAYERS = 4
"""most layers that are drawn by default"""
CURVES = 4
"""most values that one panel shows as curves, rather than as a heat map"""
LONGEST_NAME = 28
"""most characters of a name beside its panel"""
MOST_LETTERS = 160
"""most characters that are shown along the axis one by one"""
COLUMNS = 600
"""most frames that are drawn as columns; more are averaged"""
MOST_VALUES = 98
"""percent of the values of a heat map within its scale of colours; those beyond have the last colour"""
LINE = 80
"""characters in a line of coloured text"""
CELL_LINES = 60
"""most lines of coloured text in one picture"""
RED, BLUE = (255, 80, 70), (85, 130, 255)
ONE_BY_ONE = (0.0, 1.0)
"""the times of rows if every frame has one"""
NAMES = {
    "LSTM": {
        "i": "input gate i",
        "o": "output gate o",
        "f": "forget gate f",
        "c": "candidate c",
        "Ct": "cell state C",
        "Ht": "hidden state H",
    },
    "GRU": {"z": "update gate z", "r": "reset gate r", "h": "candidate h", "Ht": "hidden state H"},
    "RNN": {"Ht": "hidden state H"},
}


def colour(value: float) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255 of a value from -1 (blue) over 0 (white) to 1 (red), light enough for black text."""
    size = min(abs(float(value)), 1.0) if value == value else 0.0
    red, green, blue = (round(255 - size * (255 - end)) for end in (RED if value > 0 else BLUE))
    return red, green, blue


class _Panel:
    """One row of the picture: a table [time, units] and how it is drawn."""

    def __init__(self, label: str, table: Array, time: tuple[float, float], letters: Sequence[str] = (), title: str = "") -> None:
        self.label, self.table, self.time, self.letters, self.title = label, table.astype(np.float64), time, letters, title
        self.units = table.shape[1]
        self.every = -(-self.units // MOST_UNITS)
        self.shown = self.table[:, :: self.every]

    @property
    def curves(self) -> bool:
        return int(self.units) <= CURVES

    @property
    def height(self) -> float:
        if self.letters:
            return 0.35
        return 0.75 if self.curves else 0.7 + 0.012 * min(self.shown.shape[1], MOST_UNITS)

    def scale(self) -> dict[str, Any]:
        """Arguments for the heat map: diverging about 0 unless all values have one sign; to 1 or the `MOST_VALUES` percentile."""
        finite = self.table[np.isfinite(self.table)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        bound = 1.0 if max(-low, high) <= 1 else float(np.percentile(np.abs(finite), MOST_VALUES)) or max(-low, high)
        if low < 0 < high:
            return {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
        return {"cmap": "viridis", "vmin": min(low, 0.0) and -bound, "vmax": 0.0 if low < 0 else bound}

    def draw(self, figure: Any, axes: Any) -> None:
        start, each = self.time
        rows = len(self.table)
        edges = start + each * np.arange(rows + 1)
        if self.letters:
            for place, letter in zip(edges[:-1] + each / 2, self.letters, strict=True):
                axes.text(place, 0.5, letter, ha="center", va="center", family="monospace", fontsize=8)
            axes.set_yticks([])
            axes.set_ylim(0, 1)
            for side in ("top", "left", "right", "bottom"):
                axes.spines[side].set_visible(False)
        elif self.curves:
            for column in self.table.T:
                axes.stairs(column, edges, baseline=None, linewidth=1.0)
            axes.grid(alpha=0.25)
            axes.tick_params(axis="y", labelsize=7)
        else:
            extent, kind = (edges[0], edges[-1], self.units - 0.5, -0.5), "nearest" if rows <= COLUMNS else "antialiased"
            image = axes.imshow(self.shown.T, aspect="auto", extent=extent, interpolation=kind, **self.scale())
            bar = figure.colorbar(image, ax=axes, pad=0.005, aspect=12, fraction=0.03)
            bar.ax.tick_params(labelsize=6)
            axes.tick_params(axis="y", labelsize=7)
        axes.tick_params(axis="x", length=0)
        name = self.label if len(self.label) <= LONGEST_NAME else f"…{self.label[1 - LONGEST_NAME :]}"
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_title(self.title, loc="left", fontsize=9)


def _flat(array: Array, layer: Layer | None) -> Array:
    """[time, values] of an array with rows; of a frame that holds the whole sequence, its steps are the time."""
    inside = layer is not None and layer.inside and array.ndim > 2 and array.shape[1] == layer.table(layer.h).shape[0]
    return array.reshape(array.shape[1] if inside else len(array), -1)


def _panels(trace: Trace, names: Sequence[str], text: str, predicted: str) -> list[_Panel]:
    first = next(iter(trace.layers.values()), None)
    found = []
    for kind, group, letters in (("in", trace.inputs, text), ("state", trace.states, ""), ("out", trace.outputs, predicted)):
        if kind == "out":
            found += _inside(trace, names)
        for name, array in group.items():
            if name not in trace.times or not array.size:
                continue
            time = ONE_BY_ONE if first is not None and first.inside else trace.times[name]
            table = _flat(array, first)
            if first is not None and first.inside and len(table) != len(first.table(first.h)):
                continue  # one value for the whole sequence
            if letters and len(letters) == len(table) <= MOST_LETTERS:
                found.append(_Panel(f"{name}: likeliest" if kind == "out" else name, table, time, _visible(letters)))
                if kind == "in":
                    continue
            found.append(_Panel(name, table, time))
    return found


def _inside(trace: Trace, names: Sequence[str]) -> list[_Panel]:
    found = []
    for name in names:
        layer = trace.layers[name]
        many = layer.cells > MOST_UNITS
        across = [(n, a) for n, a in zip(layer.h.shape, layer.axes, strict=True) if a != ("step" if layer.inside else "time")]
        sizes = " × ".join(f"{n} {'sequence' if a == 'batch' else a}s" for n, a in across if a != "time")
        title = f"{layer.op} {name}: {sizes}{f'; one cell in {-(-layer.cells // MOST_UNITS)} is drawn' if many else ''}"
        time = ONE_BY_ONE if layer.inside else trace.times.get(name, ONE_BY_ONE)
        for key, array in layer.arrays.items():
            found.append(_Panel(NAMES[layer.op][key], layer.table(array), time, title=title))
            title = ""
    return found


def _visible(text: str, space: str = "␣") -> list[str]:
    return ["⏎" if c == "\n" else space if c == " " else c if c.isprintable() else "?" for c in text]


def draw(
    trace: Trace, path: str | PathLike[str], layers: Sequence[str] | None = None, text: str = "", predicted: str = ""
) -> str:
    """Draw a trace into an image file; returns a note on what is left out, empty if nothing is.

    layers:    the layers to draw, by default the first few
    text:      the characters of the input; predicted: those of the output, one per row

    Raises `TinyRNNError` without matplotlib, where the file cannot be written or there is nothing over time.
    """
    picture.check_picture(path)
    names = list(trace.layers)[:MOST_LAYERS] if layers is None else [n for n in layers if trace.layer(n)]
    panels = _panels(trace, names, text, predicted)
    if not panels or not any(len(panel.table) for panel in panels):
        raise TinyRNNError(f"{fspath(path)}: nothing to draw: the trace has no frames")
    figure = picture.figure(13, sum(panel.height for panel in panels) + 0.9)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[p.height for p in panels])[:, 0]
    for panel, place in zip(panels, axes, strict=True):
        panel.draw(figure, place)
    inside = next(iter(trace.layers.values())).inside if trace.layers else False
    length = max(panel.time[0] + panel.time[1] * len(panel.table) for panel in panels)
    axes[-1].set_xlim(0, length)
    axes[-1].tick_params(axis="x", length=3)
    axes[-1].set_xlabel("step" if inside else "frame")
    figure.suptitle(f"{trace.model}, {round(length):,} {'steps' if inside else 'frames'}", fontsize=10)
    picture.save(figure, path)
    left = [name for name in trace.layers if name not in names]
    return f"{len(left)} more layers are not drawn: {', '.join(left)}" if left and layers is None else ""


def draw_cell(path: str | PathLike[str], values: Array, title: str, text: str = "") -> None:
    """Draw one cell over time into an image file: as colours of the characters of `text`, one per value, or as a curve.

    values: [T]. Raises `TinyRNNError` without matplotlib or where the file cannot be written.
    """
    picture.check_picture(path)
    if not len(values):
        raise TinyRNNError(f"{fspath(path)}: nothing to draw: the trace has no frames")
    if not text:
        figure = picture.figure(13, 2.6)
        axes = figure.subplots()
        axes.stairs(values, np.arange(len(values) + 1), baseline=None, linewidth=1.0)
        axes.set(xlabel="frame", ylabel="value", xlim=(0, len(values)), title=title)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.grid(alpha=0.25)
        picture.save(figure, path)
        return
    lines = lines_of(text, values)
    shown = lines[:CELL_LINES]
    wide = max(LINE // 2, *(len(characters) for characters, _ in shown))
    figure = picture.figure(11 * wide / LINE, 0.2 * len(shown) + 0.8)
    axes = figure.subplots()
    axes.axis("off")
    for row, (characters, colours) in enumerate(shown):
        image = np.array([[colour(v) for v in colours]], np.uint8)
        axes.imshow(image, extent=(0, len(characters), row + 1, row), aspect="auto", interpolation="nearest")
        for column, character in enumerate(characters):
            axes.text(column + 0.5, row + 0.52, character, ha="center", va="center", family="monospace", fontsize=9)
    axes.set(xlim=(0, wide), ylim=(len(shown), 0))
    more = f"; the first {len(shown)} of {len(lines)} lines" if len(shown) < len(lines) else ""
    axes.set_title(f"{title}: blue -1, white 0, red 1{more}", fontsize=9, loc="left")
    picture.save(figure, path)


def lines_of(text: str, values: Array) -> list[tuple[str, Array]]:
    """(text, values of its characters) of lines, cut at line ends, shown as ⏎, and after `LINE` characters."""
    lines = []
    start = 0
    for place, character in enumerate(text, 1):
        if character == "\n" or place - start == LINE or place == len(text):
            lines.append(("".join(_visible(text[start:place], " ")), values[start:place]))
            start = place
    return lines
