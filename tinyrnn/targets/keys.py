"""Keys of the cache: hashes of all that the named files depend on."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import llvmlite

from tinyrnn import __version__
from tinyrnn.targets.machine import Machine

PACKAGE = Path(__file__).parents[1]
DECODE = tuple(f"decode/{name}.py" for name in ("job", "table", "scoring", "generation", "beam_search", "flow"))
LANGUAGE = ("lanes/*.py", "ops/**/*.py", "targets/*.py", "compile/codegen.py", *DECODE)
"""the source files on which the code of a page depends"""
LENGTH = 32
"""hexadecimal digits of a key"""


@cache
def language() -> bytes:
    """A hash of those files and of the tools."""
    return _hash_of(path for name in LANGUAGE for path in PACKAGE.glob(name))


@cache
def package() -> bytes:
    """A hash of the whole package and of the tools."""
    return _hash_of(PACKAGE.rglob("*.py"))


def _hash_of(paths: Iterable[Path]) -> bytes:
    """A hash of files and of the versions of tools. That of llvmlite stands for Numba's, which belongs to it and stays unloaded.

    The version of the package is included for frozen programs, which have no sources.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    for text in (__version__, llvmlite.__version__, platform.python_version()):
        digest.update(text.encode() + b"\0")
    return digest.digest()


def key_of(machine: Machine, *texts: str, basis: bytes | None = None) -> str:
    """The key of code for a machine made from `texts`. basis: a hash of what it depends on, by default the language of pages."""
    digest = hashlib.sha256(language() if basis is None else basis)
    for text in (repr(machine), *texts):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:LENGTH]
