"""`tinyrnn trace`: what a model computes inside, as a picture, as arrays, or as text coloured by one cell."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyrnn.cli.options import FILE, json_option, model_options, print_json
from tinyrnn.errors import LoadError, ShapeError, TinyRNNError

if TYPE_CHECKING:
    from tinyrnn.cli.feed import Feed
    from tinyrnn.runtime import Model
    from tinyrnn.trace import Trace

LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 80
"""frames in one line of a curve on the terminal"""


def _range(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int | None]:
    """Frames A:B as numbers."""
    if text is None:
        return 0, None
    start, colon, end = text.partition(":")
    good = colon and all(part.isdecimal() or not part for part in (start, end))
    first, last = (int(start or 0), int(end) if end else None) if good else (1, 0)
    if last is not None and last <= first:
        raise click.BadParameter(
            "takes A:B, the frames from A up to B without B, counted from 0, like 100:200, 100: or :50", ctx, option
        )
    return first, last


@click.command(short_help="Look inside: gates, cells and hidden states over time.")
@click.argument("model", type=FILE)
@click.argument("data", metavar="INPUT", required=False, type=FILE)
@click.option(
    "-o", "--output", metavar="FILE", type=FILE, help="A picture, .png for instance (needs matplotlib), or .npz: all the arrays."
)
@click.option("--text", metavar="TEXT", help="Input for a model of characters, in the place of INPUT.")
@click.option("--layer", metavar="NAME", help="One recurrent layer.  [default: all that fit; of --cell the last]")
@click.option("--cell", type=click.IntRange(0), metavar="N", help="One cell: text in its colours, or its curve.")
@click.option("--frames", metavar="A:B", callback=_range, help="The frames from A up to B only; those before run all the same.")
@click.option("--color/--no-color", default=None, help="Colours in the terminal.  [default: on a terminal, without NO_COLOR]")
@model_options
@json_option
def trace(
    model: Path,
    data: Path | None,
    output: Path | None,
    how: dict[str, Any],
    text: str | None,
    layer: str | None,
    cell: int | None,
    frames: tuple[int, int | None],
    color: bool | None,
    as_json: bool,
) -> None:
    """Run INPUT through MODEL and show what its RNN, GRU and LSTM layers compute.

    INPUT is .npz, .npy, .csv or .wav, as for run, or .txt where the metadata of MODEL has a vocabulary of characters.
    The picture has time from left to right: the input, the gates, the cell and the hidden state of each layer, the output.

    With --cell the text is shown in the colours of one cell, tanh(C) of an LSTM, H of others: blue is -1, red is 1.
    """
    from tinyrnn import load

    if output is None and cell is None and not as_json:
        raise click.UsageError(
            "Nothing to show: -o FILE.png draws a picture, -o FILE.npz keeps the arrays, --cell N shows a cell in the terminal."
        )
    if output is not None:
        _check(output, [model, *([data] if data else [])])
    loaded = load(model, **how)
    feed, letters = read_input(loaded, data, text)
    traced, letters, notes = _traced(loaded, feed, letters, frames)
    if layer is not None or cell is not None:
        traced.layer(layer)
    name = layer if layer is not None or not traced.layers else list(traced.layers)[-1]
    found = _figures(traced, layer)
    if cell is not None:
        assert name is not None
        values, kind = traced.layers[name].cell(cell), traced.layers[name].op
        title = f"{kind} {name}, cell {cell} of {traced.layers[name].cells}, {'tanh(C)' if kind == 'LSTM' else 'H'}"
        letters = letters if len(letters) == len(values) else ""
        found["cell"] = {"layer": name, "number": cell, "values": values.tolist(), **({"text": letters} if letters else {})}
        if not as_json:
            _show(title, values, letters, color)
    if output is not None:
        notes += _write(output, traced, loaded, layer, letters, (values, title) if cell is not None else None)
        found["output"] = str(output)
    if as_json:
        print_json({**found, "notes": notes})
        return
    if output is not None:
        click.echo(f"{output}: {traced.frames:,} frame{'s'[: traced.frames != 1]}, {_counted(traced, layer)}")
    for note in notes:
        click.echo(note, err=True)


def _check(output: Path, inputs: list[Path]) -> None:
    from tinyrnn.data import files
    from tinyrnn.data import terminal as picture

    if output.suffix.lower() == ".npz":
        files.check_output(output, inputs)
        return
    try:
        picture.check_picture(output)
    except TinyRNNError as error:
        raise TinyRNNError(f"{error}; arrays go to .npz") from None


def read_input(model: Model, data: Path | None, text: str | None) -> tuple[Feed, str]:
    """(feed, characters of the frames or None) from a file or from text."""
    from tinyrnn.cli.feed import Feed, read_feed
    from tinyrnn.data.vocabulary import encode, vocabulary_of

    if (data is None) == (text is None):
        raise click.UsageError("takes an INPUT file or --text TEXT, one of them")
    try:
        vocabulary = vocabulary_of(model)
    except LoadError:
        vocabulary = ""
    if data is not None and data.suffix.lower() == ".txt":
        try:
            text = data.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise LoadError(f"{data}: cannot be read as text ({error})") from None
    if text is not None:
        port = model.inputs[0]
        if not vocabulary or len(model.inputs) != 1 or port.dtype.kind not in "iu" or port.size != 1:
            raise LoadError(
                f"{model.name}: takes no text; text is for models with one input of indices and the vocabulary of their "
                f"characters in the metadata. It takes {'; '.join(map(str, model.inputs))}"
            )
        if not text:
            raise ShapeError(f"{data or '--text'}: the text is empty")
        return Feed({port.name: encode(text, vocabulary).astype(port.dtype).reshape(-1, *port.shape)}), text
    assert data is not None
    feed = read_feed(model, data)
    return feed, _letters(model, feed, vocabulary)


def _letters(model: Model, feed: Feed, vocabulary: str) -> str:
    """The characters of the frames, if the input holds indices of characters; else None."""
    if not vocabulary or len(model.inputs) != 1 or model.inputs[0].dtype.kind not in "iu" or model.inputs[0].size != 1:
        return ""
    indices = feed.inputs[model.inputs[0].name].ravel()
    known = all(0 <= n < len(vocabulary) for n in indices)
    return "".join(vocabulary[int(n)] for n in indices) if known else ""


def _traced(model: Model, feed: Feed, letters: str, frames: tuple[int, int | None]) -> tuple[Trace, str, list[str]]:
    """(trace of some frames, their characters, remarks)."""
    from tinyrnn.cli.feed import batch_of, file_inputs, opened
    from tinyrnn.graph.arrays import frame_input

    notes = [f"array {name!r} is not used, {model.name} has no such input or state" for name in feed.unused]
    start, end = frames
    if model.kind == "whole" or model._layout.refuses_stream:
        values = file_inputs(model, feed)
        traced: Trace = model.trace(values)
        batch = max(batch_of(p.roles, values[p.name]) for p in model.inputs)
        if batch > 1:
            notes.append(f"the first of {batch} sequences")
        stop = _end(model, traced.frames, start, end)
        reason = model._layout.refuses_stream
        notes.append(f"a run of the whole sequence: {model.name} cannot stream{f' ({reason})' if reason else ''}")
        return traced.part(start, stop) if (start, stop) != (0, traced.frames) else traced, letters[start:stop], notes
    given = {p.name: frame_input(model.name, p, feed.inputs[p.name], True)[0] for p in model.inputs}
    timed = [p.name for p in model.inputs if p.per_frame]
    count = min((len(given[name]) for name in timed), default=0)
    stop = _end(model, count, start, end)
    stream = opened(model, feed)
    if start:
        stream.run({n: a[:start] if n in timed else a for n, a in given.items()})
    part = {n: a[start:stop] if n in timed else a for n, a in given.items()}
    return stream.trace(part, end=stop == count), letters[start:stop], notes


def _end(model: Model, count: int, start: int, end: int | None) -> int:
    if not count:
        raise ShapeError(f"{model.name}: the input has no frames")
    if start >= count:
        raise ShapeError(f"{model.name}: --frames starts at {start}; the input has {count:,} frames, 0 to {count - 1}")
    return count if end is None else min(end, count)


def _figures(traced: Trace, layer: str | None) -> dict[str, Any]:
    def of(array: Any) -> dict[str, Any]:
        return {"shape": list(array.shape), "least": float(array.min()), "mean": float(array.mean()), "most": float(array.max())}

    return {
        "model": traced.model,
        "frames": traced.frames,
        "inputs": {name: list(a.shape) for name, a in traced.inputs.items()},
        "outputs": {name: list(a.shape) for name, a in traced.outputs.items()},
        "layers": {
            name: {"op": one.op, "axes": list(one.axes), "values": {key: of(a) for key, a in one.arrays.items() if a.size}}
            for name, one in traced.layers.items()
            if layer in (None, name)
        },
        "states": {name: of(a) for name, a in traced.states.items() if a.size},
    }


def _counted(traced: Trace, layer: str | None) -> str:
    count = len(traced.layers) if layer is None else 1
    return f"{count} recurrent layer{'s'[: count != 1]}" if count else "no recurrent layer"


def _write(output: Path, traced: Trace, model: Model, layer: str | None, letters: str, cell: tuple[Any, str] | None) -> list[str]:
    """Write the arrays, the picture of a cell, or that of the trace."""
    from tinyrnn.data import files
    from tinyrnn.trace import picture

    if output.suffix.lower() == ".npz":
        files.write_arrays(output, traced.arrays)
        return []
    if cell is not None:
        picture.draw_cell(output, *cell, letters)
        return []
    note = picture.draw(traced, output, None if layer is None else [layer], letters, _predicted(traced, model))
    return [note] if note else []


def _predicted(traced: Trace, model: Model) -> str:
    """The likeliest character of each row of the only output that has one value per character."""
    from tinyrnn.data.vocabulary import vocabulary_of

    try:
        vocabulary = vocabulary_of(model)
    except LoadError:
        return ""
    scores = [a for n, a in traced.outputs.items() if n in traced.times and a.shape[-1:] == (len(vocabulary),)]
    if len(scores) != 1:
        return ""
    return "".join(vocabulary[n] for n in scores[0].reshape(-1, len(vocabulary)).argmax(axis=1))


def _show(title: str, values: Any, letters: str, color: bool | None) -> None:
    """Show one cell on the terminal: as text on coloured ground or one character a line, or as a curve without text."""
    from tinyrnn.trace.picture import colour, lines_of

    click.echo(title)
    coloured = color if color is not None else sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if not letters:
        _curve(values)
    elif coloured:
        for line, ground in lines_of(letters, values):
            styled = (click.style(c, fg=(0, 0, 0), bg=colour(v), reset=False) for c, v in zip(line, ground, strict=True))
            click.echo("".join(styled) + click.style("", reset=True), color=True)
        scale = "".join(click.style(f" {v:+.1f} ", fg=(0, 0, 0), bg=colour(v)) for v in (-1, -0.5, 0, 0.5, 1))
        click.echo(scale, color=True)
    else:
        for character, value in zip(letters, values, strict=True):
            click.echo(f"{value:+.3f}  {character!r}")


def _curve(values: Any) -> None:
    low, high = float(values.min()), float(values.max())
    for start in range(0, len(values), WIDTH):
        part = values[start : start + WIDTH]
        heights = ((part - low) / (high - low or 1.0) * (len(LEVELS) - 1)).round().astype(int)
        click.echo(f"{start:7,}  {''.join(LEVELS[n] for n in heights)}")
    click.echo(f"from {low:.3f} ({LEVELS[0]}) to {high:.3f} ({LEVELS[-1]})")
