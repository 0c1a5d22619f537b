"""A page, read: its functions, the kernels that stand in it, and those that it takes from modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from tinyrnn.errors import TargetError

KERNEL = re.compile(r"kernel_\d+")
"""the names of kernels that are written in a page"""
_PARSING = Lock()
"""CPython 3.11 cannot build trees in several threads at once"""


@dataclass(frozen=True)
class Page:
    """A page, read."""

    text: str
    functions: Mapping[str, ast.FunctionDef]
    kernels: Mapping[str, str]
    """kernels written in the page → their text"""
    imports: Mapping[str, str]
    """names that the page takes from modules → the module"""


def read_page(text: str) -> Page:
    """The functions and kernels of a page. Raises `TargetError` where it is no page."""
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
