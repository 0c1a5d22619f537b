"""`tinyrnn build`: a model as native code for a machine without Python."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from tinyrnn.cli.options import FILE, json_option, model_options, print_json

UNITS = {"": 1, "k": 1024, "m": 1024**2}


def _list(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from tinyrnn.targets.target_table import targets

    for target in targets().values():
        machine = target.machine
        fma = "" if machine.fma == "unit" else ", no fma"
        click.echo(
            f"{target.name:<12} {target.what} ({machine.cpu or 'generic'}, lanes: {machine.lanes}, {machine.bits} bits{fma})"
        )
        if target.note:
            click.echo(f"{'':<12} {target.note}")
    ctx.exit()


def _bytes(ctx: click.Context, option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([km]?)(?:i?b)?", text.lower())
    if match is None:
        raise click.BadParameter("takes bytes, like 65536, 64k or 1M", ctx, option)
    return int(match.group(1)) * UNITS[match.group(2)]


@click.command(short_help="Make native code for a board, a phone, a browser.")
@click.argument("model", type=FILE)
@click.option("-o", "--output", "folder", metavar="DIR", type=FILE, required=True, help="The folder to write to.")
@click.option("--target", default="host", show_default=True, metavar="NAME", help="A board or processor; see --list-targets.")
@click.option(
    "--list-targets", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Show the targets, and end."
)
@click.option("--cpu", metavar="NAME", help="LLVM's name of the processor, in the place of the target's.")
@click.option("--features", metavar="+A,-B", help="LLVM's names of features to add and to take away.")
@click.option("--emulate-fma", is_flag=True, help="Where the target has no fused multiply-add: its bits, slower.")
@click.option("--name", metavar="NAME", help="The prefix of files and of names in C.  [default: the model's]")
@click.option(
    "--weights-in",
    type=click.Choice(["object", "file"]),
    default="object",
    show_default=True,
    help="In the object, or in a file NAME.weights that the program loads.",
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    help="Frames of one pass: more are faster in run and take more RAM; of a model that cannot stream, the longest sequence. "
    "[default: 1 without an operating system]",
)
@click.option(
    "--streams",
    type=click.IntRange(1),
    metavar="N",
    help="Also make functions that step many streams in one call, at most so many: pools.  [default: none]",
)
@click.option("--max-ram", metavar="BYTES", callback=_bytes, help="Refuse to take more for a stream, without the stack: 64k, 1M.")
@click.option("--max-flash", metavar="BYTES", callback=_bytes, help="Refuse to take more for code, constants and weights.")
@model_options
@json_option
def build(model: Path, folder: Path, how: dict[str, Any], as_json: bool, **settings: Any) -> None:
    """Compile MODEL (.onnx, .npz or .safetensors) for a target, as files to link or load without Python.

    DIR gets an object, a static library and a C header; where a linker is found a shared library with a Python file that
    needs NumPy alone, or for wasm32 a module with JavaScript and a page; a self-test, and manifest.json.
    """
    from tinyrnn.native import build as make

    say = (lambda text: click.echo(f"{text} …", err=True)) if sys.stderr.isatty() else None
    built = make(model, folder, say=say, **settings, **how)
    if as_json:
        print_json({"folder": str(folder), **built.manifest})
    else:
        click.echo(str(built))
