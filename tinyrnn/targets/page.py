"""Parsing a page: its functions, the kernels written in it, and its imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from tinyrnn.errors import TargetError

KERNEL = re.compile(r"kernel_\d+")
"""names of kernels that are written in a page"""
_WRITTEN = re.compile(rf"^def ({KERNEL.pattern})\(.*\n(?:\n*[ \t].*\n)*", re.M)
"""a kernel in a page: its first line, and those after it that are indented"""
_PARSING = Lock()
"""CPython 3.11 cannot build trees in several threads at once"""


@dataclass(frozen=True)
class Page:
    """A parsed page."""

    text: str
    functions: Mapping[str, ast.FunctionDef]
    kernels: Mapping[str, str]
    """kernels written in the page → their text"""
    imports: Mapping[str, str]
    """imported name → its module"""


def read_page(text: str) -> Page:
    """Parse a page; the texts of its kernels are not looked into. Raises `TargetError` for a text that is not a page."""
    kernels = {found[1]: found[0] for found in _WRITTEN.finditer(text)}
    try:
        with _PARSING:
            tree = ast.parse(_WRITTEN.sub("", text))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TargetError(f"a page of kernels cannot be read: {error}") from None
    functions, imports = {}, dict[str, str]()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            imports.update((alias.name, node.module or "") for alias in node.names)
        elif isinstance(node, ast.FunctionDef):
            functions[node.name] = node
    return Page(text, functions, kernels, imports)
