"""One compiled page for many sizes: numbers that depend on a run-time size become parameters, read from a table.

Two pages of one model at different sizes are usually the same program with other numbers. The numbers that differ become
parameters; their values for each size lie before the model's weights. A page that is another program, because a kernel was
chosen by size, is compiled by itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.compile.codegen import Source
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime.memory import ALIGNMENT, aligned
from tinyrnn.targets.cpu import compile_source

ENTRIES = ("run", "call", "call_many")
"""the functions of a page that take the context; all others take the address of the table"""
TABLE = "_table"
"""the name of the table's address in functions of the page"""
WORD = 8
"""bytes of an entry of the table"""


@dataclass(frozen=True)
class Page:
    """A page split into its text without numbers, and the numbers in their order in the text."""

    skeleton: str
    numbers: tuple[int | float, ...]


TOKENS = re.compile(r"""#[^\n]*|\"{3}.*?\"{3}|"[^"\n]*"|(?<![\w.])(\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|\d+)""", re.DOTALL)
"""comments and strings, and numbers (the group)"""


def split_numbers(text: str) -> Page:
    """Split a page's text."""
    numbers = list[int | float]()

    def taken(match: re.Match[str]) -> str:
        number = match[1]
        if number is None:
            return "" if match[0].startswith("#") else match[0]
        numbers.append(int(number) if number.isdigit() else float(number))
        return "0" if number.isdigit() else "0.0"

    return Page(TOKENS.sub(taken, text), tuple(numbers))


def _constants(tree: ast.AST) -> list[Any]:
    """The numbers of a page, in the order of the text."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


@dataclass
class Variant:
    """A compiled page with some of its numbers as parameters."""

    page: Page
    open: list[int]
    """which numbers are parameters, in ascending order"""
    code: Any

    def takes(self, page: Page) -> bool:
        return page.skeleton == self.page.skeleton and all(
            place in self.open or a == b for place, (a, b) in enumerate(zip(page.numbers, self.page.numbers, strict=True))
        )


class ParametricPages:
    """Compiled pages of one model, for all its sizes."""

    def __init__(self) -> None:
        self.variants: list[Variant] = []

    def code(self, source: Source, weights: Array, neighbour: Callable[[], Source]) -> tuple[Any, Array, Array]:
        """(code, table of parameters, weights) for a page; table and weights lie in one piece of memory.

        neighbour: makes the page of other sizes, which shows the numbers that differ; called for a new page only.
        """
        page = split_numbers(source.text)
        variant = next((v for v in self.variants if v.takes(page)), None)
        if variant is None:
            like = [v for v in self.variants if v.page.skeleton == page.skeleton]
            other = split_numbers(neighbour().text)
            opened = {place for v in like for place in (*v.open, *_differing(page, v.page))}
            if other.skeleton == page.skeleton:
                opened |= {*_differing(page, other)}
            variant = Variant(page, sorted(opened), compile_source(_opened(source, sorted(opened))))
            self.variants = [variant, *(v for v in self.variants if v not in like)]
        values = [page.numbers[place] for place in variant.open]
        return variant.code, *_with_table(values, weights)


def _differing(a: Page, b: Page) -> list[int]:
    return [place for place, (x, y) in enumerate(zip(a.numbers, b.numbers, strict=True)) if x != y]


def _table_bytes(count: int) -> int:
    return -(-count * WORD // ALIGNMENT) * ALIGNMENT


def _with_table(values: Sequence[int | float], weights: Array) -> tuple[Array, Array]:
    """The table and the weights, aligned, in one piece of memory."""
    start = _table_bytes(len(values))
    memory = aligned(start + max(len(weights), 1))  # an empty array has no address of its own
    for place, value in enumerate(values):
        memory[WORD * place : WORD * (place + 1)] = np.array([value], np.float64 if isinstance(value, float) else np.int64).view(
            np.uint8
        )
    memory[start : start + len(weights)] = weights
    return memory[:start], memory[start:]


def _opened(source: Source, places: Sequence[int]) -> Source:
    """The page with the numbers at `places` replaced by parameters."""
    tree = ast.parse(source.text)
    assert [node.value for node in _constants(tree)] == list(split_numbers(source.text).numbers)
    local = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)} - set(ENTRIES)
    names = {id(node): f"_n{place}" for place, node in enumerate(_constants(tree)) if place in places}
    order = {f"_n{place}": entry for entry, place in enumerate(places)}
    for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
        maker = _Parametriser(names, local)
        function.body = [maker.visit(statement) for statement in function.body]
        words = ["f64" if isinstance(maker.read[name], float) else "i64" for name in maker.read]
        reads = "".join(f"{name} = get({word}({TABLE}), {order[name]})\n" for name, word in zip(maker.read, words, strict=True))
        at = next((i for i, s in enumerate(function.body) if not _is_text(s)), 0)
        if function.name in local:
            function.args.args.insert(0, ast.arg(TABLE))
        else:
            at = (
                next(i for i, s in enumerate(function.body) if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "c") + 1
            )
            reads = f"{TABLE} = get(c, 0) - {_table_bytes(len(places))}\n{reads}"
        function.body[at:at] = ast.parse(reads).body
    words_used = [w for w in ("f64", "get", "i64") if places]
    text = ast.unparse(ast.fix_missing_locations(tree))
    return Source(f"from tinyrnn.lanes import {', '.join(words_used)}\n{text}\n" if words_used else f"{text}\n", source.entries)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class _Parametriser(ast.NodeTransformer):
    """Replaces numbers by parameters, and passes the table to the functions of the page."""

    def __init__(self, names: dict[int, str], local: set[str]) -> None:
        self.names, self.local = names, local
        self.read: dict[str, int | float] = {}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        name = self.names.get(id(node))
        if name is None:
            return node
        assert isinstance(node.value, (int, float))
        self.read[name] = node.value
        return ast.Name(name, ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in self.local:
            node.args.insert(0, ast.Name(TABLE, ast.Load()))
        return node
