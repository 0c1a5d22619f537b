"""`tinyrnn quantize`: what small weights cost and change, and a file that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyrnn.cli.options import FILE, json_option, model_options, print_json, progress_bar
from tinyrnn.errors import TinyRNNError

if TYPE_CHECKING:
    from tinyrnn.cli.feed import Feed
    from tinyrnn.runtime import Model


@click.command(short_help="Store weights in fewer bits, and see what that changes.")
@click.argument("model", type=FILE)
@click.option(
    "-o",
    "--output",
    metavar="OUT.npz",
    type=FILE,
    help="Write the model with its weights as --weights says, or the smallest that were searched.  [default: float16]",
)
@click.option(
    "--data", type=FILE, help="The input to run: .npz, .npy, .csv, .wav or .txt, as for run and trace.  [default: random]"
)
@click.option("--hop", type=click.IntRange(1), metavar="N", help="Of .wav: new samples of each frame.  [default: as for run]")
@click.option("--text", metavar="TEXT", help="Text to run, for a model of characters.")
@click.option(
    "--budget",
    type=float,
    metavar="ERROR",
    help="Search the smallest storage of every layer with which no output differs from float32 by more than ERROR times its root "
    "mean square, such as 1e-3.",
)
@click.option(
    "--keep-decisions",
    is_flag=True,
    help="Search the smallest with which every decision along the data stays the same, within --budget if it is given.",
)
@click.option("--frames", type=click.IntRange(1), help="The first frames of the data only, or the frames of random input.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random input.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True, help="About how long to measure time."
)
@click.option("-p", "--plot", metavar="FILE.png", type=FILE, help="Draw the error over the bytes (needs matplotlib).")
@model_options
@json_option
def quantize(
    model: Path,
    output: Path | None,
    data: Path | None,
    hop: int | None,
    text: str | None,
    budget: float | None,
    keep_decisions: bool,
    frames: int | None,
    seed: int,
    seconds: float,
    plot: Path | None,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    """Show what every storage of MODEL's weights costs and changes, and write a model with small weights.

    For float32, float16, bfloat16, int8 (a scale for each output, or for 64 elements of it) and int8x8 (activations too): the
    bytes, the time of a step here, and how far outputs, states and decisions are from float32 along the data.

    OUT.npz loads without options, with the same bits as MODEL with --weights, and builds for boards.
    """
    from tinyrnn import quantization
    from tinyrnn.data import terminal as picture

    if data is not None and text is not None:
        raise click.UsageError("--data or --text, one of them")
    if hop is not None and data is None:
        raise click.UsageError("--hop: for --data FILE.wav")
    if plot is not None:
        picture.check_picture(plot)
    if output is not None and output.exists() and model.exists() and output.samefile(model):
        raise TinyRNNError(f"{output}: is MODEL itself; name another output")
    values, what = None, ""
    if data is not None or text is not None:
        from tinyrnn import load
        from tinyrnn.cli.feed import first_frames
        from tinyrnn.cli.trace import read_input

        loaded = load(model, **{**how, "weights": None})
        feed = read_input(loaded, data, text)[0] if hop is None else _overlapping(loaded, data, hop)
        values = first_frames(loaded, feed, frames)
        what = str(data) if data is not None else "the text"
    settings: dict[str, Any] = {} if frames is None else {"frames": frames}
    with progress_bar(f"measuring {model.name}") as progress:
        result = quantization.quantize(
            model,
            output,
            budget=budget,
            keep_decisions=keep_decisions,
            data=values,
            seed=seed,
            seconds=seconds,
            what=what,
            progress=progress,
            **settings,
            **how,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        click.echo(str(result))
    if plot is not None:
        quantization.plot(result, plot)


def _overlapping(model: Model, path: Path | None, hop: int) -> Feed:
    """Frames of a .wav file, one every `hop` samples. Raises `ShapeError` where the model takes no sound."""
    import numpy as np

    from tinyrnn.audio.front import Front
    from tinyrnn.cli.feed import Feed
    from tinyrnn.data.files import read_wav

    assert path is not None
    samples, rate = read_wav(path)
    front = Front(model, hop=hop, channels=1 if samples.ndim == 1 else samples.shape[1])
    return Feed({front.port.name: np.concatenate([front.push(samples), front.finish()])}, rate=rate)
