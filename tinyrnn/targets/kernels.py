"""Compilation of kernels, one by one: each is named by a hash of its text, and shared by all models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tinyrnn import lanes
from tinyrnn.targets.keys import key_of
from tinyrnn.targets.machine import Machine
from tinyrnn.targets.page import KERNEL, Page

if TYPE_CHECKING:
    from tinyrnn.targets.lowering import Compiler

OFTEN = 8
"""most calls of a kernel in one object that are inlined"""
OFTEN_ON_GPU = 2
"""the same for a GPU, whose driver assembles the code each time it is new there, and takes long over long functions"""


class Kernels:
    """The kernels that a page calls, for one machine."""

    def __init__(self, page: Page, machine: Machine) -> None:
        self.page, self.machine = page, machine
        self.called: dict[str, tuple[str, tuple[str, ...]]] = {}
        """name in LLVM → (name in the page, kinds of the arguments)"""
        self._calls: Counter[str] = Counter()
        self._symbol = cache(self._named)

    def __call__(self, name: str, kinds: tuple[str, ...]) -> str:
        """The name in LLVM of a kernel for arguments of these kinds."""
        symbol = self._symbol(name, kinds)
        self.called[symbol] = name, kinds
        self._calls[symbol] += 1
        return symbol

    def _named(self, name: str, kinds: tuple[str, ...]) -> str:
        text = self.page.kernels.get(name)
        what = KERNEL.sub("KERNEL", text, count=1) + self._imports(text) if text else f"{self.page.imports[name]}.{name}"
        return f"kernel.{key_of(self.machine, what, ''.join(kinds))}"

    def _imports(self, text: str) -> str:
        """Name → module, for the names that a kernel's text uses."""
        return " ".join(f"{module}.{name}" for name, module in self.page.imports.items() if f"{name}(" in text)

    def shared(self) -> list[str]:
        """The kernels that a page calls too often for inlining, which would take long and make much code."""
        most = OFTEN_ON_GPU if self.machine.warp else OFTEN
        return [symbol for symbol, count in self._calls.items() if count > most]

    def compile(self, symbol: str) -> bytes:
        """The bitcode of one kernel, by its name in LLVM."""
        name, kinds = self.called[symbol]
        data: bytes = _compiler(self.machine).kernel(self._function(name), kinds, symbol)
        return data

    def object(self, symbol: str) -> bytes:
        """The object of one kernel, by its name in LLVM."""
        from tinyrnn.targets.objects import emit

        return emit(self.machine, [], [self.compile(symbol)], [symbol]).data

    def _function(self, name: str) -> Callable[..., Any]:
        text = self.page.kernels.get(name)
        if text is None:
            return _library(self.page.imports[name], name)
        used = {name: module for name, module in self.page.imports.items() if f"{name}(" in text}
        names = {each: getattr(import_module(module), each) for each, module in used.items()}
        _teach_kernels(names.values())
        exec(compile(text, "<kernel>", "exec"), names)
        function: Callable[..., Any] = names[name]
        return function


@cache
def _compiler(machine: Machine) -> Compiler:
    from tinyrnn import ops  # noqa: F401  # the operators' kernels
    from tinyrnn.lanes import llvm as lanes_llvm
    from tinyrnn.targets.lowering import Compiler

    if machine.warp:
        from tinyrnn.lanes import warp

        warp.install()
    else:
        lanes_llvm.install(machine.lanes, machine.thumb, machine.dot, machine.architecture)
    return Compiler(machine)


def _library(module: str, name: str) -> Callable[..., Any]:
    """A kernel of a module; one that is not registered may call plain functions of its module and of those beside it."""
    home = import_module(module)
    function: Callable[..., Any] = getattr(home, name)
    if function not in lanes.KERNELS:
        _teach(home)
    return function


def _teach_kernels(functions: Iterable[Any]) -> None:
    """Let a kernel call others, those too that were written after `install`."""
    from tinyrnn.lanes.llvm import teach

    teach(f for f in functions if f in lanes.KERNELS)


@cache
def _teach(home: ModuleType) -> None:
    from tinyrnn.lanes.llvm import teach

    functions = [f for f in vars(home).values() if hasattr(f, "__code__")]
    for name in {f.__module__ for f in functions if f.__module__.rpartition(".")[0] == home.__package__} - {home.__name__}:
        _teach(import_module(name))
    teach([f for f in functions if f.__module__ == home.__name__])
