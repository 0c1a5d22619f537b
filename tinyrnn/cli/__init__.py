"""The command line: `tinyrnn inspect | run | check | bench | …`, a thin layer over the public API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyrnn import __version__
from tinyrnn.cli.build import build
from tinyrnn.cli.cache import cache
from tinyrnn.cli.demo import demo
from tinyrnn.cli.generate import generate
from tinyrnn.cli.guide import guide
from tinyrnn.cli.options import FILE, json_option, model_options, print_json, progress_bar
from tinyrnn.cli.quantize import quantize
from tinyrnn.cli.run import run
from tinyrnn.cli.trace import trace
from tinyrnn.compile.progress import Stopwatch
from tinyrnn.errors import TinyRNNError

if TYPE_CHECKING:
    from tinyrnn.check.dynamics import Dynamics
    from tinyrnn.runtime import Model

RANDOM_FRAMES = 256
"""number of random frames of `check` without data"""
EMULATED_FRAMES = 4
"""the same for an emulated GPU"""


class Commands(click.Group):
    """Commands that print a TinyRNNError or the name of a missing package, with exit status 1; others keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TinyRNNError as error:
            raise click.ClickException(str(error)) from None
        except ModuleNotFoundError as error:
            if not error.name or error.name.startswith("tinyrnn"):
                raise
            raise click.ClickException(f"this needs {error.name}, which is not installed") from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tinyrnn")
def main() -> None:
    """Run recurrent models from ONNX or .npz: compiled once, streamed frame by frame.

    Compiled models are kept in the folder named by the variable TINYRNN_CACHE, by default ~/.cache/tinyrnn.
    """


@main.command(short_help="Show what a model takes, gives and is made of.")
@click.argument("model", type=FILE)
@model_options
@click.option("--graph", is_flag=True, help="Print the graph: as in the file, and as compiled.")
@click.option("--plan", is_flag=True, help="Print the plan: the state, and every kernel call with the memory it uses.")
@click.option("--source", is_flag=True, help="Print the generated source of the step.")
@click.option("--timing", is_flag=True, help="Print the seconds of each stage of the load.")
@click.option(
    "--dynamics",
    "with_dynamics",
    is_flag=True,
    help="Measure whether a small error in the state dies out: singular values, Lyapunov exponent.",
)
@click.option("--data", type=FILE, help="Of --dynamics: the input to run along, as for check, or .txt.")
@click.option("--text", metavar="TEXT", help="Of --dynamics: text to run along.")
@click.option("--frames", type=click.IntRange(1), help="Of --dynamics: the first frames only, or those of random input.")
@click.option("--seed", type=click.IntRange(0), help="Of --dynamics: of random input and of the first errors.  [default: 0]")
@json_option
def inspect(
    model: Path,
    how: dict[str, Any],
    graph: bool,
    plan: bool,
    source: bool,
    timing: bool,
    with_dynamics: bool,
    data: Path | None,
    text: str | None,
    frames: int | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Show what MODEL (.onnx, .npz or .safetensors) takes, gives and is made of.

    Inputs, outputs and states with the shapes of one frame; the kind of model, and whether it streams or which
    node forbids it; ops, parameters, multiply-adds per frame, memory. With --graph, --plan or --source, the stages
    of its compilation instead; with --timing, how long each took; with --dynamics, whether errors in its state die
    out or grow along an input.
    """
    from tinyrnn.cli.summary import page, summary
    from tinyrnn.loading.load import compiled

    given = {"data": data, "text": text, "frames": frames, "seed": seed}
    useless = [f"--{name}" for name, value in given.items() if value is not None and not with_dynamics]
    if useless:
        raise click.UsageError(f"{', '.join(useless)}: belongs to --dynamics")
    watch = Stopwatch()
    loaded = compiled(model, watch, **how)
    stages = loaded._source
    shown: dict[str, Any] = {}
    if timing:
        shown["timing"] = watch.seconds if as_json else str(watch)
    if graph:
        shown["graph"] = f"# in the file\n{stages.graph}\n\n# compiled, over frames\n{stages.program.graph}"
    if plan:
        shown["plan"] = str(stages.plan)
    if source:
        shown["source"] = str(stages.source.text)
    if with_dynamics:
        found = _dynamics(loaded, data, text, frames, seed or 0)
        shown["dynamics"] = found.as_dict() if as_json else str(found)
    if as_json:
        print_json({**summary(loaded, model), **shown})
    else:
        click.echo("\n\n".join(text.rstrip("\n") for text in shown.values()) or page(summary(loaded, model)))


def _dynamics(model: Model, data: Path | None, text: str | None, frames: int | None, seed: int) -> Dynamics:
    from tinyrnn.check.dynamics import FRAMES, dynamics

    values = None
    if data is not None or text is not None:
        from tinyrnn.cli.feed import first_frames
        from tinyrnn.cli.trace import read_input

        values = first_frames(model, read_input(model, data, text)[0], frames)
    with progress_bar(f"following errors in {model.name}") as progress:
        return dynamics(model, values, frames=frames or FRAMES, seed=seed, progress=progress)


main.add_command(build)
main.add_command(cache)
main.add_command(demo)
main.add_command(generate)
main.add_command(guide)
main.add_command(quantize)
main.add_command(run)
main.add_command(trace)


def _chunks(ctx: click.Context, option: click.Parameter, text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise click.BadParameter("takes frames in a chunk, like 1,7,64", ctx, option)
    return sizes


@main.command(short_help="Compare a model with onnxruntime.")
@click.argument("model", type=FILE)
@click.argument("data", required=False, type=FILE)
@model_options
@click.option(
    "--chunk",
    "chunks",
    default="1,7,64",
    show_default=True,
    callback=_chunks,
    metavar="N,…",
    help="Frames in a chunk; results must be the same bits in all of them.",
)
@click.option(
    "--frames",
    type=click.IntRange(1),
    help=f"The first frames of DATA only, or the frames of random input.  [default: all, or {RANDOM_FRAMES}]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random input, where there is no DATA.")
@click.option(
    "--streams",
    metavar="N",
    type=click.IntRange(1),
    help="So many streams in one pool too, which come, go and mix, held against lone streams bit for bit; and so many sequences "
    "in a batch, where the file leaves it open.",
)
@click.option(
    "--target",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where it runs; on a GPU it is held against the processor too, bit for bit.",
)
@click.option("--emulate", is_flag=True, help="With --target cuda: the GPU's code run by NumPy. Slow: a few frames will do.")
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    model: Path,
    data: Path | None,
    how: dict[str, Any],
    chunks: list[int],
    frames: int | None,
    seed: int,
    streams: int | None,
    target: str,
    emulate: bool,
    as_json: bool,
) -> None:
    """Compare MODEL with onnxruntime: every output and every final state.

    On DATA (.npz, .npy, .csv or .wav) or on random input of the right kind: frame by frame, in chunks, and whole, with the
    largest absolute, relative and ULP difference and the drift along the run. What onnxruntime cannot run is compared
    with a float64 reference. The exit status is 1 where one is larger than its tolerance; with --weights, which rounds what
    the file has, that is the one for approximate results (`tinyrnn quantize` says more).
    """
    from tinyrnn import load
    from tinyrnn.check import check_model, level_of

    if emulate and target != "cuda":
        raise click.UsageError("--emulate: for --target cuda")
    loaded = load(model, **how, target=f"{target}-emulated" if emulate else target)
    beside = load(model, **how) if target != "cpu" else None
    values = None
    if data is not None:
        from tinyrnn.cli.feed import first_frames, read_feed

        values = first_frames(loaded, read_feed(loaded, data), frames)
    with progress_bar(f"checking {loaded.name}") as progress:
        report = check_model(
            loaded,
            model,
            beside=beside,
            bind=how["bind"],
            data=values,
            frames=frames or (EMULATED_FRAMES if emulate else RANDOM_FRAMES),
            seed=seed,
            chunks=chunks,
            streams=streams,
            level=level_of(how["weights"]),
            progress=progress,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(str(report))
    ctx.exit(0 if report.passed else 1)


@main.command(short_help="Measure latency, throughput, allocations, memory.")
@click.argument("model", required=False, type=FILE)
@model_options
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="HZ",
    help="Frames per second of the source: gives × real time and deadlines missed.",
)
@click.option("--vs", "versus", type=click.Choice(["onnxruntime"]), help="Measure this runtime too, interleaved in the same run.")
@click.option("--frames", type=click.IntRange(1), help="Frames of a whole run.  [default: 1000]")
@click.option("--streams", metavar="N,N,…", help="Measure pools of so many streams instead: 1,64,1024,16384.")
@click.option("--threads", type=click.IntRange(1), help="Threads that share the streams of a pool.  [default: 1]")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="About how long to measure.  [default: 3]")
@click.option("--plot", metavar="FILE.png", type=FILE, help="Draw the distribution of the latency (needs matplotlib).")
@json_option
def bench(
    model: Path | None,
    how: dict[str, Any],
    rate: float | None,
    versus: str | None,
    frames: int | None,
    streams: str | None,
    threads: int | None,
    seconds: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure MODEL: latency of a step, whole runs, allocations, loading, memory.

    Without MODEL: a table over RNN, LSTM and GRU of 16 to 512 units. With --streams: what a frame of one stream takes in
    pools of so many, all of them and a random half, and one stream after the other.
    """
    from tinyrnn import bench as measure

    if streams is not None:
        _bench_streams(model, how, streams, threads or 1, {"--rate": rate, "--frames": frames}, versus, seconds, plot, as_json)
        return
    if threads is not None:
        raise click.UsageError("--threads: for --streams")
    settings: dict[str, Any] = {"versus": versus, **({} if frames is None else {"frames": frames})}
    if model is None:
        useless = [f"--{n}" for n, v in (*how.items(), ("rate", rate), ("seconds", seconds), ("plot", plot)) if v is not None]
        if useless:
            raise click.UsageError(f"{', '.join(useless)}: needs a MODEL")
        with progress_bar("measuring") as progress:
            result: Any = measure.table(**settings, progress=progress)
    else:
        settings |= {"rate": rate, **({} if seconds is None else {"seconds": seconds})}
        with progress_bar(f"measuring {model.name}") as progress:
            result = measure.bench(model, **how, **settings, progress=progress)
    if as_json:
        print_json(result.as_dict())
    else:
        click.echo(str(result))
    if plot:
        measure.plot(result, plot)


def _bench_streams(
    model: Path | None,
    how: dict[str, Any],
    counts: str,
    threads: int,
    useless: dict[str, Any],
    versus: str | None,
    seconds: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    from tinyrnn import bench as measure

    given = [name for name, value in useless.items() if value is not None]
    if given or model is None:
        raise click.UsageError(f"{', '.join(given)}: not with --streams" if given else "--streams: needs a MODEL")
    numbers = [part.strip() for part in counts.split(",")]
    if not all(n.isdecimal() and int(n) for n in numbers):
        raise click.UsageError(f"--streams {counts}: takes numbers of streams from 1 up, separated by commas")
    spent: dict[str, Any] = {} if seconds is None else {"seconds": seconds}
    with progress_bar(f"measuring {model.name}") as progress:
        result = measure.streams(
            model, [int(n) for n in numbers], threads=threads, versus=versus, progress=progress, **spent, **how
        )
    if as_json:
        print_json(result.as_dict())
    else:
        click.echo(str(result))
    if plot:
        measure.plot_streams(result, plot)
