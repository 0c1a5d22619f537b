"""The guide: shown by `tinyrnn guide`, its links lead somewhere, and it makes a site."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests import ROOT
from tinyrnn import __version__, guide
from tinyrnn.cli import main
from tinyrnn.cli.guide import guide as command

PAGES = [ROOT / "README.md", *sorted((ROOT / "tinyrnn" / "guide").glob("*.md")), *sorted((ROOT / "export").glob("*.md"))]


# In the terminal


def test_guide_lists_its_pages() -> None:
    lines = CliRunner().invoke(main, ["guide"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(guide.PAGES)
    assert lines[0].split(maxsplit=1)[1] == guide.title(guide.PAGES[0])


def test_guide_shows_a_page_as_it_stands() -> None:
    assert CliRunner().invoke(main, ["guide", "contract"]).stdout == guide.read("contract")


def test_an_unknown_page_is_refused_and_all_are_named() -> None:
    result = CliRunner().invoke(main, ["guide", "weather"])
    assert result.exit_code == 2
    assert all(page in result.stderr for page in ("weather", *guide.PAGES))


def test_a_terminal_gets_bold_headings_through_the_pager(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(click, "echo_via_pager", shown.append)
    assert command.callback
    command.callback("streaming")
    assert click.unstyle(shown[0]) == guide.read("streaming")
    assert shown[0].splitlines()[0] == click.style("# Streaming and time", bold=True)


def test_version_and_names_of_the_release() -> None:
    """The page of changes begins with this version, which is that of the citation."""
    assert guide.read("changes").split("\n## ")[1].split()[0] == __version__
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == __version__


def test_versions_of_python_are_those_of_the_page() -> None:
    """That the project is said to run on: those that were tried."""
    claimed = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8")))
    rows = re.findall(r"^\| ((?:3\.\d+(?:, )?)+) \| (.*) \|$", guide.read("installing"), re.M)
    assert claimed == {version for versions, said in rows for version in versions.split(", ") if said != "not tried"}


# Links


def _prose(path: Path) -> str:
    """A page without its blocks and spans of code."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.M))


def _anchors(path: Path) -> set[str]:
    """The names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.is_relative_to(ROOT) and file.is_file(), f"{path.relative_to(ROOT)}: no file {link}"
        assert not anchor or anchor in _anchors(file), f"{path.relative_to(ROOT)}: no heading {link}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_exist(path: Path) -> None:
    named = re.findall(r"`((?:tinyrnn|tests|bench|export|\.ci)/[^`\s]*)`", path.read_text("utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", _prose(ROOT / "README.md")))
    assert {str(path.relative_to(ROOT)) for path in PAGES[1:]} <= linked


# As a site


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs, which makes a site of the guide, is not installed"
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material, the site's theme, is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings, which makes the page of the API, is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((tmp_path / page / "index.html").is_file() for page in (*guide.PAGES, "export", "export/NATIVE", "api"))
    api = (tmp_path / "api" / "index.html").read_text("utf-8")
    assert all(f'"{name}"' in api or f">{name}<" in api for name in ("load", "Model", "Stream", "UnsupportedError", "generate"))
    assert "compiled model. Immutable" in api
