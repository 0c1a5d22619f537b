"""The guide: pages of Markdown that are installed with the package, in the order in which to read them."""

from __future__ import annotations

from importlib.resources import files

PAGES = (
    "installing",
    "streaming",
    "pools",
    "loading",
    "weights",
    "gpu",
    "uses",
    "inside",
    "generation",
    "sound",
    "cli",
    "training",
    "native",
    "operators",
    "performance",
    "contract",
    "architecture",
    "contributing",
    "changes",
)


def read(page: str) -> str:
    """The Markdown text of one of `PAGES`. Raises `FileNotFoundError` for another name."""
    return files(__name__).joinpath(f"{page}.md").read_text("utf-8")


def title(page: str) -> str:
    """The heading of a page, the first line of its text."""
    return read(page).partition("\n")[0].removeprefix("# ")
