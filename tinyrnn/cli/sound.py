"""`tinyrnn run` on sound: from .wav or a pipe through a model, to sound, figures and pictures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from tinyrnn.cli.options import microseconds, print_json, progress_bar
from tinyrnn.cli.source import PIPE, Source, check_rate, open_source
from tinyrnn.errors import ShapeError, StreamError, TinyRNNError

if TYPE_CHECKING:
    from tinyrnn.audio.pipelines import Pipeline
    from tinyrnn.runtime import Model, Progress


def make_pipeline(
    model: Model, model2: Model | None, source: Source, sound: Mapping[str, Any], to_sound: bool | None
) -> tuple[Pipeline, bool]:
    """(pipeline, whether it gives sound) for the options; with `to_sound` None the model decides."""
    from tinyrnn import audio

    how = {n: v for n, v in sound.items() if n in ("takes", "gives", "hop", "window", "normalize")}
    takes = how.setdefault("takes", audio.takes_of(model))
    port = model.inputs[0] if model.inputs else None
    if source.channels > 1 and (takes != "samples" or port is None or port.shape[-1:] != (source.channels,)):
        raise ShapeError(
            f"{source.name}: {source.channels} channels of samples do not make input {port}. "
            f"--channel takes one of them, 1 to {source.channels}, or their mean"
        )
    block = port.size // source.channels if takes == "samples" and port is not None else 0
    if "context" in sound:
        if "hop" in sound or not block:
            raise ShapeError("--context is for models of samples, in place of --hop")
        if sound["context"] >= block:
            raise ShapeError(f"--context {sound['context']}: a frame of {port} has {block} samples, some of them new")
        how["hop"] = block - sound["context"]
    hop = how.get("hop", block)
    if to_sound is None:
        to_sound = model2 is not None or audio.gives_sound(model, takes, hop)
    if not to_sound:
        useless = [f"--{n}" for n in ("model2", "gives", "normalize") if n in sound]
        if useless:
            raise ShapeError(f"{', '.join(useless)}: for sound that comes out, as .wav or -")
        listener = audio.Listener(model, channels=source.channels, **how)
        extra = block - (1 << max(block.bit_length() - 1, 0))
        if hop == block and extra and extra * 9 == block:
            click.echo(
                f"{model.name}: frames of {block} samples, one after the other; a model that takes {extra} samples of the frame "
                f"before and {block - extra} new ones needs --context {extra}",
                err=True,
            )
        return listener, False
    if takes == "samples":
        if model2 is not None or "gives" in how:
            raise ShapeError(f"{model.name}: takes samples; --model2 and --gives are for models of spectra (--takes)")
        del how["takes"]
        return audio.SampleFilter(model, channels=source.channels, **how), True
    return audio.SpectralMask(model, model2, **how), True


def out_rate(pipeline: Any, rate: int | None, model: Model) -> int | None:
    """The sample rate of the output, which lasts as long as the input. Raises `ShapeError` where the output is no sound."""
    if rate is None:
        return None
    made = rate * pipeline.made / pipeline.hop
    if made != int(made) or made < 1000:
        values = f"{pipeline.made} value{'s'[: pipeline.made != 1]}"
        raise ShapeError(
            f"{model.name}: gives {values} for {pipeline.hop} new samples, {float(made):,.6g} a "
            f"second: figures and no sound; write .csv, .npy or .npz"
        )
    return int(made)


def row_hop(listener: Any) -> float:
    """The number of samples from row to row of every output. Raises `ShapeError` where outputs differ."""
    hops = listener.hops()
    if len(set(hops.values())) > 1:
        text = ", ".join(f"{name} every {hop:g}" for name, hop in hops.items())
        raise ShapeError(f"{listener.model.name}: rows of {text} samples make no table; choose with --outputs, or write .npz")
    return float(next(iter(hops.values())))


def columns(figures: Mapping[str, Any], rate: int, hop: float, first: int = 0) -> dict[str, Any]:
    """A table of figures over time: the second at which the new samples of each row start, then every value."""
    import numpy as np

    count = min((len(a) for a in figures.values()), default=0)
    table: dict[str, Any] = {"seconds": np.arange(first, first + count) * hop / rate}
    for name, array in figures.items():
        flat = array[:count].reshape(count, -1) if count else np.zeros((0, int(np.prod(array.shape[1:]))))
        for index, column in enumerate(flat.T):
            table[name if flat.shape[1] == 1 else f"{name}[{index}]"] = column
    return table


@dataclass
class _Sink:
    """Destination of results: kept for a file and a picture, or written to standard output at once."""

    pipeline: Pipeline
    to_sound: bool
    rate: int | None
    live: bool
    keep: bool
    parts: list[Any] = field(default_factory=list)
    rows: int = 0
    clipped: int = 0

    def take(self, part: Any) -> None:
        if self.keep:
            self.parts.append(part)
        if self.live:
            out = sys.stdout.buffer
            out.write(self._samples(part) if self.to_sound else self._lines(part))
            out.flush()

    def _samples(self, part: Any) -> bytes:
        from tinyrnn.data.wav import encode

        data, clipped = encode(part)
        self.clipped += clipped
        return data

    def _lines(self, part: Any) -> bytes:
        import numpy as np

        table = columns(part, self.rate or 1, row_hop(self.pipeline), self.rows)
        head = "" if self.rows else ",".join(table) + "\n"
        rows = np.stack(list(table.values()), axis=1)
        self.rows += len(rows)
        return "".join([head if len(rows) else "", *(",".join(f"{v:.9g}" for v in row) + "\n" for row in rows)]).encode()


@dataclass(frozen=True)
class SoundRun:
    """Models, and how sound goes through them."""

    model: Model
    second: Model | None
    bind: Mapping[str, Any] | None
    sound: Mapping[str, Any]
    """the options of `sound_options` that were given"""
    rate: int | None
    bits: str

    def file(self, data: Path, output: Path | None, plot: Path | None, progress: Progress) -> dict[str, Any]:
        """Run .wav or a pipe, and write what comes out; returns the figures that the command prints."""
        import numpy as np

        from tinyrnn.data import files

        loaded = self.model
        live = output is not None and str(output) == PIPE
        kind = "" if live or output is None else files.kind_of(output)
        source = open_source(data, self.sound.get("channel"))
        known = check_rate(loaded, source, self.bind, self.rate)
        to_sound = True if kind == ".wav" else None if not kind else False
        pipeline, to_sound = make_pipeline(loaded, self.second, source, self.sound, to_sound)
        made_rate = out_rate(pipeline, known, loaded) if to_sound else None
        if known is None and (plot is not None or kind in (".wav", ".csv") or not to_sound):
            raise TinyRNNError(f"{source.name}: raw samples do not say their sample rate; give --rate HZ")
        if live and not to_sound and not all(p.per_frame for p in loaded.outputs):
            raise ShapeError(f"{loaded.name}: not all outputs come frame by frame; choose with --outputs, or write .npz")

        sink = _Sink(pipeline, to_sound, known, live, keep=bool(kind) or plot is not None)
        heard: list[Any] = []
        taken, busy = 0, 0.0
        pieces = source.pieces
        while True:
            piece = next(pieces, None)
            start = perf_counter()
            part = pipeline.finish() if piece is None else pipeline.push(piece)
            busy += perf_counter() - start
            sink.take(part)
            if piece is None:
                break
            taken += len(piece)
            if plot is not None:
                heard.append(piece)
            if source.total:
                progress(taken, source.total)
        before = np.concatenate(heard) if heard else np.zeros(0, np.float32)
        results = {} if not sink.keep else {"sound": np.concatenate(sink.parts)} if to_sound else pipeline.join(sink.parts)
        if kind and output is not None:
            sink.clipped += _write(output, kind, loaded, pipeline, results, to_sound, known, made_rate, self.bits)
        if plot is not None and known is not None:
            _draw(plot, loaded, pipeline, source, before, results, to_sound, known, made_rate or known)
        frames = -(-taken // pipeline.hop)
        return {
            "model": loaded.name,
            "frames": frames,
            "seconds": busy,
            "microseconds_per_frame": busy * 1e6 / max(frames, 1),
            "audio_seconds": taken / known if known else None,
            "real_time_factor": busy * known / taken if known and taken else None,
            "rate": known,
            "heard_as": str(pipeline),
            "output": str(output) if output is not None else None,
            "plot": str(plot) if plot is not None else None,
            "arrays": {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in results.items()},
            "clipped": sink.clipped,
        }


def load_sound_run(model: Path, how: dict[str, Any], sound: Mapping[str, Any], rate: int | None, bits: str) -> SoundRun:
    """Load MODEL, and MODEL2 if there is one. Raises `StreamError` for one that cannot stream."""
    from tinyrnn import load

    loaded = load(model, **how)
    second = load(sound["model2"]) if "model2" in sound else None
    for one in (loaded, second):
        if one is not None and one._layout.refuses_stream:
            raise StreamError(f"{one.name} cannot stream: {one._layout.refuses_stream}. Run it over the whole file with --whole")
    return SoundRun(loaded, second, how["bind"], sound, rate, bits)


def run_sound(
    model: Path,
    data: Path,
    output: Path | None,
    how: dict[str, Any],
    sound: dict[str, Any],
    rate: int | None,
    bits: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """`tinyrnn run` for one .wav file or a pipe."""
    from tinyrnn.data import files

    live = output is not None and str(output) == PIPE
    inputs = [model, *([data] if str(data) != PIPE else []), *([sound["model2"]] if "model2" in sound else [])]
    if output is not None and not live:
        files.check_output(output, inputs)
    if plot is not None:
        from tinyrnn.data.terminal import check_picture

        check_picture(plot)
    way = load_sound_run(model, how, sound, rate, bits)
    with progress_bar(f"running {way.model.name}") as progress:
        found = way.file(data, output, plot, progress)
    _report(as_json, live, found)


def _write(
    output: Path,
    kind: str,
    model: Model,
    pipeline: Any,
    results: Mapping[str, Any],
    to_sound: bool,
    rate: int | None,
    made_rate: int | None,
    bits: str,
) -> int:
    import numpy as np

    from tinyrnn.data import files

    if to_sound:
        return files.write_arrays(output, results, made_rate, bits)
    timed = {p.name: results[p.name] for p in model.outputs if p.per_frame}
    if kind == ".csv" and len(timed) == len(results) and rate is not None:
        files.write_table(output, columns(timed, rate, row_hop(pipeline)))
        return 0
    if kind == ".csv":
        results = {n: a.reshape(1, -1) for n, a in results.items()}
    if kind == ".npz" and "seconds" not in results and timed and rate is not None:
        hops = pipeline.hops()
        if len(set(hops.values())) == 1:
            name, array = next(iter(timed.items()))
            results = {**results, "seconds": np.arange(len(array)) * hops[name] / rate}
    return files.write_arrays(output, results)


def _draw(
    plot: Path,
    model: Model,
    pipeline: Any,
    source: Source,
    before: Any,
    results: Mapping[str, Any],
    to_sound: bool,
    rate: int,
    made_rate: int,
) -> None:
    from tinyrnn.audio.picture import plot_figures, plot_sounds

    name = Path(source.name).name
    if to_sound:
        through = " and ".join(m.name for m in (model, getattr(pipeline, "model2", None)) if m is not None)
        sounds = {f"in: {name}": (before, float(rate)), f"out of {through}": (results["sound"], float(made_rate))}
        plot_sounds(plot, sounds, f"{through} on {name}, {rate:,} Hz")
    else:
        timed = {p.name: results[p.name] for p in model.outputs if p.per_frame}
        plot_figures(plot, before, timed, rate, pipeline.hops(), f"{model.name} on {name}, {rate:,} Hz")


def _report(as_json: bool, live: bool, found: dict[str, Any]) -> None:
    if found["clipped"]:
        click.echo(f"{found['output']}: {found['clipped']:,} samples beyond -1 to 1 were clipped", err=True)
    if as_json:
        if live:
            import json

            click.echo(json.dumps(found, indent=2, ensure_ascii=False), err=True)
        else:
            print_json(found)
        return
    frames, each, seconds = found["frames"], found["microseconds_per_frame"], found["audio_seconds"]
    text = f"{frames:,} frame{'s'[: frames != 1]} in {found['seconds']:.3g} s, {microseconds(each)} each ({found['heard_as']})"
    if found["real_time_factor"]:
        factor = found["real_time_factor"]
        speed = 1 / factor
        text += f"; {seconds:.4g} s of sound, {speed:{',.0f' if speed >= 100 else '.3g'}} × real time (factor {factor:.2g})"
    written = ", ".join(f"{n} {a['dtype']}{a['shape']}" for n, a in found["arrays"].items())
    places = [str(found[n]) for n in ("output", "plot") if found[n] is not None]
    click.echo(f"{text}; {' and '.join(places)}{': ' + written if written else ''}", err=live)
