"""What mkdocs.yml hooks into the build of the site: pages from outside the guide, and one of the API from docstrings.

README.md becomes the first page, export/ a folder of the site; the order is that of `tinyrnn guide`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import tinyrnn
from tinyrnn import guide

ROOT = Path(__file__).parents[1]
MODULES = ("tinyrnn.decode", "tinyrnn.audio")
"""that are public as a whole, besides the names of `tinyrnn` itself"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = [
        {"tinyrnn": "index.md"},
        *({guide.title(page): f"{page}.md"} for page in guide.PAGES),
        {"Exporting models": "export/README.md"},
        {"A model without Python": "export/NATIVE.md"},
        {"API": "api.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text("utf-8")))
    files.append(File.generated(config, "api.md", content=_api()))
    for path in (*(ROOT / "export").glob("*.md"), *(ROOT / "export" / "pictures").iterdir()):
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links as they are in the repository → as they are in the site, which has the guide at its root and export/ in it."""
    return re.sub(r"\]\((?:\.\./\.\./(?=export/)|(\.\./)?tinyrnn/guide/)", lambda link: f"]({link[1] or ''}", markdown)


def _api() -> str:
    names = sorted(tinyrnn.__all__, key=lambda name: name.endswith("Error"))
    paths = [f"tinyrnn.{tinyrnn._HOMES[name]}.{name}" for name in names]
    entries = [f"::: {path}" for path in (*paths, *MODULES)]
    return "\n\n".join(["# API", "The public names of `tinyrnn`.", *entries, ""])
