"""`tinyrnn run`: a file through a model, as a stream or whole."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click

from tinyrnn.cli.options import FILE, ROWS, json_option, model_options, print_json, progress_bar, sound_options
from tinyrnn.cli.sound import run_sound
from tinyrnn.cli.source import is_sound
from tinyrnn.errors import StreamError


@click.command(short_help="Stream a file through a model.")
@click.argument("model", type=FILE)
@click.argument("data", metavar="IN", type=FILE)
@click.option(
    "-o", "--output", metavar="OUT", type=FILE, help="Where the outputs go: .npy, .npz, .csv, .wav, or - for standard output."
)
@model_options
@click.option(
    "--whole",
    is_flag=True,
    help="One call over the whole of IN in the file's own shapes, as onnxruntime would; "
    "for models that cannot stream. States that IN does not hold start at zero.",
)
@click.option("--drop", metavar="COLUMN,…", help="Columns of a .csv IN to leave out, by name or by number, from 1.")
@sound_options
@click.option(
    "--rate",
    type=click.IntRange(1, 768_000),
    metavar="HZ",
    help="The sample rate that MODEL works at: sound of another is refused. That of a .wav OUT where IN is no .wav.",
)
@click.option("--bits", metavar="16|24|32|float", default="16", show_default=True, help="How samples are stored in a .wav OUT.")
@click.option("--plot", metavar="FILE.png", type=FILE, help="Draw the sound and what comes out (needs matplotlib).")
@json_option
def run(
    model: Path,
    data: Path,
    output: Path | None,
    how: dict[str, Any],
    whole: bool,
    drop: str | None,
    sound: dict[str, Any],
    rate: int | None,
    bits: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Stream IN through MODEL and write the outputs to OUT.

    \b
    IN and OUT may be
      .npy   one array, time first
      .npz   several arrays by name: inputs, and states to start from
      .csv   one frame a line, cells apart by , ; tab or space, decimal points or commas; a header is
             skipped, columns of dates and times are left out
      .wav   samples, cut into frames; the last frame is filled up with zeros, which are cut
             from a .wav OUT again
      -      a pipe, as it comes: raw samples in (s16le, mono) or .wav, raw samples out;
             lines of .csv where MODEL gives figures and no sound

    OUT is replaced if it exists, once it is complete.

    \b
    Sound that models of several kinds are fed with:
      tinyrnn run filter.onnx in.wav -o out.wav                 frames of samples in and out
      tinyrnn run mask.onnx in.wav -o out.wav                   spectra in, mask or spectra out
      tinyrnn run mask.onnx in.wav --model2 time.onnx -o out.wav
      tinyrnn run vad.onnx in.wav --context 64 --plot vad.png   frames of samples in, figures out
      arecord -t raw -f S16_LE -r 16000 | tinyrnn run filter.onnx - -o - | aplay -f S16_LE -r 16000
    """
    from tinyrnn import load
    from tinyrnn.cli import feed
    from tinyrnn.cli.windows import slide
    from tinyrnn.data import files

    columns = tuple(name.strip() for name in drop.split(",") if name.strip()) if drop else ()
    if output is None and plot is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if is_sound(data) and not whole:
        run_sound(model, data, output, how, sound, rate, bits, plot, as_json)
        return
    window = None if whole else sound.pop("window", None)
    if window not in (None, ROWS) and not (window.isdecimal() and int(window)):
        raise click.UsageError(f"--window {window}: of rows it takes their number, or nothing; names are for sound")
    if drop and data.suffix.lower() != ".csv":
        raise click.UsageError("--drop: for .csv")
    useless = [f"--{n}" for n in (*sound, *(["plot"] if plot else []))]
    if useless:
        raise click.UsageError(f"{', '.join(useless)}: for sound that is streamed, from .wav or -, without --whole")
    assert output is not None
    files.check_output(output, [model, data])
    loaded = load(model, **how)
    given = feed.read_feed(loaded, data, whole or window is not None, columns)
    for note in given.notes:
        click.echo(note, err=True)
    if loaded._layout.refuses_stream and not whole and window is None:
        raise StreamError(
            f"{loaded.name} cannot stream: {loaded._layout.refuses_stream}. Run it over the whole file with --whole"
        )
    start = perf_counter()
    with progress_bar(f"running {loaded.name}") as progress:
        if window is None:
            results, frames = feed.run(loaded, given, whole, progress)
        else:
            rows = given.inputs[loaded.inputs[0].name] if len(loaded.inputs) == 1 else next(iter(given.inputs.values()))
            results, frames = slide(loaded, rows, None if window == ROWS else int(window), progress)
    seconds = perf_counter() - start
    if window is None:
        results = feed.shape_outputs(loaded, given, results, files.kind_of(output), whole)
        for note in feed.singles(loaded, frames):
            click.echo(note, err=True)
    elif files.kind_of(output) == ".csv":
        results = {name: array.reshape(frames, -1) for name, array in results.items()}
    clipped = files.write_arrays(output, results, given.rate or rate, bits)
    for name in given.unused:
        click.echo(f"{data}: array {name!r} is not used, {loaded.name} has no such input or state", err=True)
    if clipped:
        click.echo(f"{output}: {clipped:,} samples beyond -1 to 1 were clipped", err=True)
    each = seconds * 1e6 / max(frames, 1)
    if as_json:
        arrays = {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in results.items()}
        print_json(
            {
                "model": loaded.name,
                "frames": frames,
                "seconds": seconds,
                "microseconds_per_frame": each,
                "output": str(output),
                "arrays": arrays,
                "clipped": clipped,
            }
        )
    else:
        written = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in results.items())
        what = ("frame" if window is None else "window") + "s"[: frames != 1]
        click.echo(
            f"{frames:,} {what} in {seconds:.3g} s, {each:{',.0f' if each >= 100 else '.3g'}} µs each; {output}: {written}"
        )
