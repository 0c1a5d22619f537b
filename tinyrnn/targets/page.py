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
    """Parse a page. Raises `TargetError` for a text that is not a page."""
    try:
        with _PARSING:
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TargetError(f"a page of kernels cannot be read: {error}") from None
    lines = text.splitlines()
    functions, kernels, imports = {}, {}, dict[str, str]()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            imports.update((alias.name, node.module or "") for alias in node.names)
        elif isinstance(node, ast.FunctionDef) and KERNEL.fullmatch(node.name):
            kernels[node.name] = "\n".join(lines[node.lineno - 1 : node.end_lineno]) + "\n"
        elif isinstance(node, ast.FunctionDef):
            functions[node.name] = node
    return Page(text, functions, kernels, imports)
