"""`tinyrnn demo`: the classic uses of recurrent networks, shown by the models of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tinyrnn.cli.options import FILE, json_option, print_json, progress_bar

DEFAULT = "char_lm"
models_option = click.option(
    "--models", "folder", type=FILE, metavar="FOLDER", help="Take the models from here: what the recipe of the same name wrote."
)


def _drawable(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Check that the picture can be written, before any work is done."""
    if path is not None:
        from tinyrnn.data.terminal import check_picture

        check_picture(path)
    return path


picture_option = click.option(
    "-o",
    "--output",
    "picture",
    type=FILE,
    metavar="FILE.png",
    callback=_drawable,
    help="Draw what came out (needs matplotlib).",
)


def _models(folder: Path | None) -> Any:
    from tinyrnn.demo import PACKAGED, Models

    return Models(folder or PACKAGED)


class Demos(click.Group):
    """One command for each demo; without a name the text of the character model."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from tinyrnn.demo import DEMOS

        return list(DEMOS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == DEFAULT:
            return char_lm
        return _command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=Demos, short_help="Run a small trained model of the package: text, pictures, tracks.", subcommand_metavar="[NAME] …"
)
def demo() -> None:
    """Show what recurrent networks are used for, each with a small trained model of the package.

    Without NAME: char_lm, text in the manner of Shakespeare.
    """


def _command(name: str) -> click.Command:
    from tinyrnn.demo import about

    found = about(name)

    @click.command(name, short_help=f"{found.use}: {found.summary}", help=f"{found.use.capitalize()}: {found.summary}.")
    @click.option("--input", "given", metavar="INPUT", help=f"{found.takes[:1].upper()}{found.takes[1:]}.")
    @picture_option
    @models_option
    @json_option
    def command(given: str | None, picture: Path | None, folder: Path | None, as_json: bool) -> None:
        from tinyrnn.demo import show

        figures = show(name, _models(folder), given, picture, (lambda line: None) if as_json else click.echo)
        if as_json:
            print_json({"demo": name, **figures})
        elif picture is not None:
            click.echo(f"drawn to {picture}")

    return command


@click.command(DEFAULT, short_help="many to many: text in the manner of Shakespeare, character by character")
@click.option("--length", type=click.IntRange(1, 1_000_000), default=500, show_default=True, help="Characters to write.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed gives the same text.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.7,
    show_default=True,
    help="Above 1 wilder, below 1 tamer, 0 always the likeliest character.",
)
@click.option("--prompt", "--input", "prompt", default="", metavar="TEXT", help="Text to continue.")
@picture_option
@models_option
@json_option
@click.pass_context
def char_lm(
    ctx: click.Context,
    length: int,
    seed: int,
    temperature: float,
    prompt: str,
    picture: Path | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Many to many: text in the manner of Shakespeare, character by character, as it comes.

    The model is an LSTM. In the end its outputs for this very text are compared with
    onnxruntime's, and the speed is shown.
    """
    from tinyrnn import load
    from tinyrnn.demo.char_lm import Speed, brief, compared, draw, generate

    path = _models(folder).path(DEFAULT)
    model = load(path)
    text, speed = "", Speed()
    for character in generate(model, prompt, length, temperature, seed, speed):
        if not as_json:
            click.echo(character if text else prompt + character, nl=False)
        text += character
    with progress_bar("comparing with onnxruntime") as progress:
        report = compared(model, path, prompt + text, progress)
    if picture is not None:
        draw(picture, model, prompt + text)
    if as_json:
        print_json(
            {
                "demo": DEFAULT,
                "seed": seed,
                "temperature": temperature,
                "prompt": prompt,
                "text": text,
                "microseconds": speed.as_dict(),
                "check": report.as_dict(),
            }
        )
    else:
        click.echo(f"\n\n{speed}\n{brief(report)}" + (f"\ndrawn to {picture}" if picture else ""))
    ctx.exit(0 if report.passed else 1)
