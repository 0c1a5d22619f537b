"""`tinyrnn guide`: the pages of the guide, in the terminal."""

from __future__ import annotations

import re
import sys

import click

from tinyrnn.guide import PAGES, read, title


@click.command(short_help="Show the pages of the guide.")
@click.argument("page", required=False, type=click.Choice(PAGES), metavar="[PAGE]")
def guide(page: str | None) -> None:
    """Show PAGE of the guide, or list the pages, in the order in which to read them.

    On a terminal the text goes through the pager and headings are bold; elsewhere it is Markdown as it stands.
    """
    if page is None:
        width = max(map(len, PAGES))
        for name in PAGES:
            click.echo(f"{name:<{width}}  {title(name)}")
    elif sys.stdout.isatty():
        click.echo_via_pager(with_bold_headings(read(page)))
    else:
        click.echo(read(page), nl=False)


def with_bold_headings(text: str) -> str:
    """The text with each line that is a Markdown heading in bold; lines of indented code stay as they are."""
    return re.sub(r"^#+ .*$", lambda line: click.style(line[0], bold=True), text, flags=re.M)
