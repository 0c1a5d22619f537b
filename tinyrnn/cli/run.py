"""`tinyrnn run`: a file, or many, through a model, as a stream or whole."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click

from tinyrnn.cli.options import (
    FILE,
    ROWS,
    json_option,
    microseconds,
    model_options,
    print_json,
    progress_bar,
    sound_options,
)
from tinyrnn.cli.sound import run_sound
from tinyrnn.cli.source import is_sound


@click.command(short_help="Stream a file through a model.")
@click.argument("model", type=FILE)
@click.argument("data", metavar="IN...", type=FILE, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=FILE,
    help="Where the outputs go: .npy, .npz, .csv, .wav, or - for standard output; of many files a folder.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "npz", "csv", "wav"]),
    help="Of many files: the kind of those written.  [default: as that of each IN]",
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
@click.pass_context
def run(
    ctx: click.Context,
    model: Path,
    data: tuple[Path, ...],
    output: Path | None,
    form: str | None,
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
    Many files: IN is a folder, several files or a pattern, OUT a folder, which is made if it is not there:
      tinyrnn run model.onnx frames -o made
      tinyrnn run model.onnx 'frames/*.npy' -o made --format csv
      tinyrnn run filter.onnx 'calls/*.wav' -o clean
    Each file of IN gives one of the same name, with the bytes that it would give alone. Frames of .npy, .npz
    and .csv are streams of one pool: one native call for a block of files. Sound goes file by file.
    A file that cannot be run is named, the others are written, and the exit status is 1.

    \b
    Sound that models of several kinds are fed with:
      tinyrnn run filter.onnx in.wav -o out.wav                 frames of samples in and out
      tinyrnn run mask.onnx in.wav -o out.wav                   spectra in, mask or spectra out
      tinyrnn run mask.onnx in.wav --model2 time.onnx -o out.wav
      tinyrnn run vad.onnx in.wav --context 64 --plot vad.png   frames of samples in, figures out
      arecord -t raw -f S16_LE -r 16000 | tinyrnn run filter.onnx - -o - | aplay -f S16_LE -r 16000
    """
    from tinyrnn.cli.many import chosen_files, run_many

    columns = tuple(name.strip() for name in drop.split(",") if name.strip()) if drop else ()
    if output is None and plot is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    many = chosen_files(data, model)
    inputs = many or list(data)
    if many and plot is not None:
        raise click.UsageError("--plot: for one file of sound")
    if form and not many:
        raise click.UsageError("--format: for many files; the ending of OUT says it for one")
    if is_sound(inputs[0]) and not whole and not many:
        run_sound(model, inputs[0], output, how, sound, rate, bits, plot, as_json)
        return
    sounds = bool(many) and is_sound(inputs[0]) and not whole
    window = None if whole or sounds else sound.pop("window", None)
    if window not in (None, ROWS) and not (window.isdecimal() and int(window)):
        raise click.UsageError(f"--window {window}: of rows it takes their number, or nothing; names are for sound")
    if drop and any(path.suffix.lower() != ".csv" for path in inputs):
        raise click.UsageError("--drop: for .csv")
    useless = [] if sounds else [f"--{n}" for n in (*sound, *(["plot"] if plot else []))]
    if useless:
        raise click.UsageError(f"{', '.join(useless)}: for sound that is streamed, from .wav or -, without --whole")
    assert output is not None
    settings = {"whole": whole, "window": window, "drop": columns, "rate": rate, "bits": bits}
    if many:
        ctx.exit(run_many(model, many, output, form, how, sound if sounds else None, settings, as_json))
    _run_one(model, inputs[0], output, how, settings, as_json)


def _run_one(model: Path, data: Path, output: Path, how: dict[str, Any], settings: dict[str, Any], as_json: bool) -> None:
    from tinyrnn import load
    from tinyrnn.cli import feed
    from tinyrnn.cli.arrays import ArrayRun
    from tinyrnn.data import files

    files.check_output(output, [model, data])
    loaded = load(model, **how)
    way = ArrayRun(loaded, **settings)
    given = way.read(data)
    for note in way.remarks(data, given):
        click.echo(note, err=True)
    way.check_streams()
    start = perf_counter()
    with progress_bar(f"running {loaded.name}") as progress:
        results, frames = way.results(given, progress)
    seconds = perf_counter() - start
    for note in feed.singles(loaded, frames) if way.window is None else ():
        click.echo(note, err=True)
    found = way.write(output, given, results, frames, seconds)
    if found["clipped"]:
        click.echo(f"{output}: {found['clipped']:,} samples beyond -1 to 1 were clipped", err=True)
    if as_json:
        print_json(found)
        return
    written = ", ".join(f"{n} {a['dtype']}{a['shape']}" for n, a in found["arrays"].items())
    what = ("frame" if way.window is None else "window") + "s"[: frames != 1]
    click.echo(f"{frames:,} {what} in {seconds:.3g} s, {microseconds(found['microseconds_per_frame'])} each; {output}: {written}")
