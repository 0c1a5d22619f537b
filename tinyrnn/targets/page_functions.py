"""The functions of a page as LLVM text; kernels are declared and called, but not defined there.

Apart from its kernels a page is a small subset of Python: integers as wide as an address, booleans, float64,
the words that read and write single elements, `if`, `while`, `for … in range`, and calls. Every line has the meaning of
Python, except that integers have a width.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from tinyrnn.compile.codegen import PART
from tinyrnn.errors import TargetError
from tinyrnn.targets.page import Page
from tinyrnn.targets.page_values import Kernel, Typed, Values


def translated(
    page: Page, entries: Mapping[str, str], bits: int, kernel: Kernel, attributes: str = "", around_store: str = ""
) -> str:
    """LLVM text of the entries and all that they call; kernels are declared only.

    entries:    exported name → name in the page
    bits:       of an address, and of the integers that the page counts in
    kernel:     is asked for the LLVM name of each kernel that is called
    attributes: LLVM's, of the entries
    around_store: LLVM text before and after every store to memory

    Raises `TargetError` for Python that a page must not contain.
    """
    exported = {inner: outer for outer, inner in entries.items()}
    asked, done, declared = list(exported), set[str](), dict[str, str]()
    made: list[str] = []
    while asked:
        name = asked.pop()
        if name in done:
            continue
        done.add(name)
        if name not in page.functions:
            raise TargetError(f"the page has no function {name!r}")
        function = _Function(page, page.functions[name], f"i{bits}", exported, kernel, declared)
        function.around_store = around_store
        made += function.lines(attributes if name in exported else "noinline" if name.startswith(PART) else "")
        asked += function.asked
    return "\n".join([*declared.values(), *made]) + "\n"


class _Function(Values):
    """Translates one function, statement by statement."""

    def __init__(
        self, page: Page, node: ast.FunctionDef, word: str, exported: Mapping[str, str], kernel: Kernel, declared: dict[str, str]
    ) -> None:
        super().__init__(page, node, word, exported, kernel, declared)
        self._loops: list[tuple[str, str]] = []
        """(label for `continue`, label for `break`) of each enclosing loop"""

    def lines(self, attributes: str) -> list[str]:
        names = [a.arg for a in self.node.args.args]
        changed = {n.id for n in ast.walk(self.node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for name in names:
            given = Typed(f"%{name}", self.word)
            if name in changed:
                self._give(name, given)
            else:
                self._fixed[name] = given
        self._block(self.node.body)
        self._go(f"ret {self.word} 0")
        arguments = ", ".join(f"{self.word} %{name}" for name in names)
        head = f"define {self.word} @{self._symbol(self.node.name)}({arguments}) nounwind {attributes} {{"
        return [head, "entry:", *self._slots, *self._lines, "}"]

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            write = getattr(self, f"_write_{type(statement).__name__}", None)
            if write is None:
                self._refuse(statement)
            write(statement)

    def _write_Pass(self, node: ast.Pass) -> None:
        pass

    def _write_Assign(self, node: ast.Assign) -> None:
        (target,) = node.targets
        if not isinstance(target, ast.Name):
            self._refuse(node)
        self._give(target.id, self._value(node.value))

    def _write_AugAssign(self, node: ast.AugAssign) -> None:
        if not isinstance(node.target, ast.Name):
            self._refuse(node)
        before = self._value(ast.Name(node.target.id, ast.Load()))
        self._give(node.target.id, self._arithmetic(node, node.op, before, self._value(node.value)))

    def _write_Expr(self, node: ast.Expr) -> None:
        if not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
            self._value(node.value)

    def _write_Return(self, node: ast.Return) -> None:
        value = Typed("0", self.word) if node.value is None else self._value(node.value)
        self._line(f"ret {self.word} {self._as(value, self.word, node).text}")
        self._ended = True

    def _write_If(self, node: ast.If) -> None:
        then, otherwise, after = self._label(), self._label(), self._label()
        self._go(f"br i1 {self._truth(node.test)}, label %{then}, label %{otherwise}")
        for label, block in ((then, node.body), (otherwise, node.orelse)):
            self._start(label)
            self._block(block)
            self._go(f"br label %{after}")
        self._start(after)

    def _write_While(self, node: ast.While) -> None:
        test, body, after = self._label(), self._label(), self._label()
        self._start(test)
        self._go(f"br i1 {self._truth(node.test)}, label %{body}, label %{after}")
        self._start(body)
        self._loop(node.body, test, after)
        self._go(f"br label %{test}")
        self._start(after)

    def _write_For(self, node: ast.For) -> None:
        given = node.iter
        if not (isinstance(given, ast.Call) and isinstance(node.target, ast.Name) and ast.unparse(given.func) == "range"):
            self._refuse(node)
        limits = [self._as(self._value(a), self.word, node).text for a in given.args]
        start, stop, by = {1: ["0", *limits, "1"], 2: [*limits, "1"]}.get(len(limits), limits)
        if not re.fullmatch(r"-?[1-9]\d*", by):
            self._refuse(node)
        at, test, body, onwards, after = self._slot(self.word), self._label(), self._label(), self._label(), self._label()
        self._line(f"store {self.word} {start}, ptr {at}")
        self._start(test)
        now = self._new(f"load {self.word}, ptr {at}", self.word)
        more = self._new(f"icmp {'sgt' if by.startswith('-') else 'slt'} {self.word} {now.text}, {stop}", "i1")
        self._go(f"br i1 {more.text}, label %{body}, label %{after}")
        self._start(body)
        self._give(node.target.id, now)
        self._loop(node.body, onwards, after)
        self._start(onwards)
        self._line(f"store {self.word} {self._new(f'add {self.word} {now.text}, {by}', self.word).text}, ptr {at}")
        self._go(f"br label %{test}")
        self._start(after)

    def _loop(self, statements: Sequence[ast.stmt], onwards: str, after: str) -> None:
        self._loops.append((onwards, after))
        self._block(statements)
        self._loops.pop()

    def _write_Break(self, node: ast.Break) -> None:
        self._go(f"br label %{self._loops[-1][1]}")

    def _write_Continue(self, node: ast.Continue) -> None:
        self._go(f"br label %{self._loops[-1][0]}")
