"""Shared parts of the commands: options for loading a model and for sound, JSON, the progress bar."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyrnn.cli.loading import Shown
from tinyrnn.compile.progress import listening

if TYPE_CHECKING:
    from tinyrnn.runtime import Progress

ROWS = "rows"
"""--window without a value"""
FILE = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


def _pairs(given: tuple[str, ...], option: str, form: str) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"{option} {text}: takes {form}")
        if name in pairs:
            raise click.UsageError(f"{option}: {name} is given twice")
        pairs[name] = value
    return pairs


def _value(name: str, text: str) -> Any:
    """A number, a list of numbers, nested lists, or the array of a file."""
    if text.startswith("@"):
        from tinyrnn.data.files import read_array

        return read_array(Path(text[1:]))
    try:
        if text.startswith("["):
            return json.loads(text)
        numbers = [_number(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(
            f"--bind {name}={text}: takes a number, numbers like 1,2,3, lists like [[1,2],[3,4]], or @file.npy"
        ) from None
    return numbers if "," in text else numbers[0]


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _layers(text: str | None) -> Any:
    if text is None:
        return None
    try:
        layers = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--layers: not JSON ({error})") from None
    if not isinstance(layers, list):
        raise click.UsageError("--layers: takes a JSON list, one entry a layer")
    return layers


def _names(given: tuple[str, ...]) -> dict[str, str | None] | None:
    """OLD=NEW, or OLD= to leave an array out; the last `=` separates the names."""
    names: dict[str, str | None] = {}
    for text in given:
        old, equals, new = text.rpartition("=")
        if not (old and equals):
            raise click.UsageError(f"--names {text}: takes OLD=NEW, or OLD= to leave arrays out")
        if old in names:
            raise click.UsageError(f"--names: {old} is given twice")
        names[old] = new or None
    return names or None


def _time(text: str | None) -> int | str | dict[str, int] | None:
    """An axis, the name of an open size, or INPUT=AXIS,…"""
    if text is None or "=" not in text:
        return int(text) if text and text.lstrip("-").isdigit() else text
    try:
        return {n: int(a) for n, a in _pairs(tuple(text.split(",")), "--time", "INPUT=AXIS").items()}
    except ValueError:
        raise click.UsageError(f"--time {text}: takes an axis, the name of an open size, or INPUT=AXIS,…") from None


def _states(given: tuple[str, ...]) -> dict[str, str] | None:
    """IN=OUT,… or none."""
    if given == ("none",):
        return {}
    return _pairs(tuple(pair for text in given for pair in text.split(",")), "--states", "IN=OUT,…, or none") or None


def _weights(given: tuple[str, ...]) -> str | dict[str, str] | None:
    """TYPE for all, or LAYER=TYPE."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    return dict((text.rpartition("=")[0] or "*", text.rpartition("=")[2]) for text in given) or None


def model_options(command: Command) -> Command:
    """The options of every command that loads a model; the command gets them as `how`, the arguments of `tinyrnn.load`."""

    @click.option(
        "--bind",
        multiple=True,
        metavar="NAME=VALUE",
        help="Fix an input, or a size that the file leaves open, "
        "to a number, a list 1,2,3 or [[1,2],[3,4]], or @file.npy. Repeatable.",
    )
    @click.option(
        "--states",
        multiple=True,
        metavar="IN=OUT,…",
        help="States: the input, and the output that is its next value. Repeatable; 'none' for no states. "
        "Found by themselves where only one pairing is possible.",
    )
    @click.option("--outputs", metavar="NAME,…", help="Keep these outputs only; what they do not need is dropped.")
    @click.option(
        "--time",
        metavar="AXIS",
        help="Which axis is time, where no recurrent layer and no open size tells: 1, the name of an open size, or INPUT=AXIS.",
    )
    @click.option(
        "--layers",
        metavar="JSON",
        help="For plain weights in .npz or .safetensors: the layers they belong to, "
        """e.g. '[["LSTM", "rnn"], ["Linear", "head"]]', or @file.json.""",
    )
    @click.option(
        "--names",
        multiple=True,
        metavar="OLD=NEW",
        help="For plain weights: other names for arrays, such as 'module.*=*'; 'ema.*=' leaves them out. Repeatable.",
    )
    @click.option(
        "--weights",
        multiple=True,
        metavar="TYPE|LAYER=TYPE",
        help="Store weights as float32, float16, bfloat16, int8, int8:GROUP or int8x8 (activations too): those of a layer, or "
        "all others. Repeatable.  [default: as the file has them]",
    )
    @functools.wraps(command)
    def with_how(
        *args: Any,
        bind: tuple[str, ...],
        states: tuple[str, ...],
        outputs: str | None,
        time: str | None,
        layers: str | None,
        names: tuple[str, ...],
        weights: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        how = {
            "bind": {n: _value(n, v) for n, v in _pairs(bind, "--bind", "NAME=VALUE").items()} or None,
            "states": _states(states),
            "outputs": [n.strip() for n in outputs.split(",") if n.strip()] if outputs is not None else None,
            "time": _time(time),
            "layers": _layers(layers),
            "names": _names(names),
            "weights": _weights(weights),
        }
        with listening(Shown()):
            return command(*args, how=how, **rest)

    return with_how  # type: ignore[return-value]


def sound_options(command: Command) -> Command:
    """The options that say how sound becomes frames; the command gets those that were given as `sound`."""
    options: list[Any] = [
        click.option(
            "--model2", metavar="MODEL2", type=FILE, help="A second model, for the blocks of samples after MODEL's mask."
        ),
        click.option(
            "--takes",
            metavar="samples|magnitude|complex",
            help="What a frame of MODEL holds: samples, or the spectrum of a block. By default judged by its shape: an odd "
            "number of values, as 257, is a spectrum.",
        ),
        click.option(
            "--gives",
            metavar="mask|spectrum",
            help="What a MODEL of spectra gives.  [default: spectrum where complex ones go in and come out, else mask]",
        ),
        click.option(
            "--hop",
            type=click.IntRange(1),
            metavar="N",
            help="New samples of each frame.  "
            "[default: all; a quarter of a block for magnitudes, half of it for complex spectra]",
        ),
        click.option(
            "--context",
            type=click.IntRange(0),
            metavar="N",
            help="Samples of each frame that are the last ones of the frame before: --hop by another name.",
        ),
        click.option(
            "--window",
            metavar="[NAME|N]",
            is_flag=False,
            flag_value=ROWS,
            help="Of sound: none, hann, sqrt-hann, hamming or blackman, on each block before and after.  "
            "[default: none; sqrt-hann for complex spectra]  Of rows: slide a window of N rows (as many as MODEL's file says) "
            "over IN, one result for each position.",
        ),
        click.option(
            "--normalize/--no-normalize",
            default=None,
            help="Divide where blocks overlap by the sum of their squared windows.  [default: without MODEL2]",
        ),
        click.option("--channel", metavar="N|mean", help="Of sound with several channels: one of them, from 1, or their mean."),
    ]

    @functools.wraps(command)
    def with_sound(*args: Any, **given: Any) -> Any:
        names = ("model2", "takes", "gives", "hop", "context", "window", "normalize", "channel")
        sound = {name: given.pop(name) for name in names}
        return command(*args, sound={n: v for n, v in sound.items() if v is not None}, **given)

    for option in reversed(options):
        with_sound = option(with_sound)
    return with_sound  # type: ignore[return-value]


json_option = click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")


def microseconds(number: float) -> str:
    return f"{number:{',.0f' if number >= 100 else '.3g'}} µs"


def print_json(figures: Mapping[str, Any] | list[Any]) -> None:
    click.echo(json.dumps(figures, indent=2, ensure_ascii=False))


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A progress bar on stderr, if that is a terminal."""
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def report(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield report
