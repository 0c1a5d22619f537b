"""Names in the cache: hashes of all that the things they name depend on."""

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
DECODE = ("decode/job.py", "decode/scoring.py", "decode/generation.py", "decode/beam_search.py")
LANGUAGE = ("lanes/*.py", "ops/**/*.py", "targets/*.py", "compile/codegen.py", *DECODE)
"""the files that can change what a page compiles to"""
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
    """Each release of Numba works with one of llvmlite, whose version stands for both: what is in the cache needs no Numba.

    The version of the package tells apart what a frozen program has of it, where there are no sources.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    for text in (__version__, llvmlite.__version__, platform.python_version()):
        digest.update(text.encode() + b"\0")
    return digest.digest()


def key_of(machine: Machine, *texts: str, basis: bytes | None = None) -> str:
    """The name of what is made from texts for a machine, by what `basis` is a hash of: the language of pages, if not given."""
    digest = hashlib.sha256(language() if basis is None else basis)
    for text in (repr(machine), *texts):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:LENGTH]
