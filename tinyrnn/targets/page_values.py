"""Expressions of a page as LLVM text: numbers, variables, arithmetic, elements of arrays, calls."""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from tinyrnn.errors import TargetError
from tinyrnn.targets.page import Page

ELEMENTS = {
    "f32": ("float", 4),
    "f64": ("double", 8),
    "i64": ("i64", 8),
    "u64": ("i64", 8),
    "i32": ("i32", 4),
    "u32": ("i32", 4),
    "i16": ("i16", 2),
    "u16": ("i16", 2),
    "i8": ("i8", 1),
    "u8": ("i8", 1),
}
"""word for a pointer → (LLVM's type of an element, its alignment)"""
_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("eq", "oeq"),
    ast.NotEq: ("ne", "une"),
    ast.Lt: ("slt", "olt"),
    ast.LtE: ("sle", "ole"),
    ast.Gt: ("sgt", "ogt"),
    ast.GtE: ("sge", "oge"),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("add", "fadd"),
    ast.Sub: ("sub", "fsub"),
    ast.Mult: ("mul", "fmul"),
    ast.BitAnd: ("and", ""),
    ast.BitOr: ("or", ""),
}


class Typed(NamedTuple):
    """A value: its name or number in the text, and its LLVM type; for a pointer `*` and its word."""

    text: str
    kind: str


Kernel = Callable[[str, tuple[str, ...]], str]
"""name in the page, "i" or "d" for each argument (an integer, a float64) → name in LLVM"""


class Values:
    """The LLVM text of one function under construction, and its values."""

    around_store = ""
    """LLVM text before and after every store to memory, as a warp needs it"""

    def __init__(
        self, page: Page, node: ast.FunctionDef, word: str, exported: Mapping[str, str], kernel: Kernel, declared: dict[str, str]
    ) -> None:
        self.page, self.node, self.word, self.exported = page, node, word, exported
        self.kernel, self.declared = kernel, declared
        self.asked: list[str] = []
        """functions of the page that it calls"""
        self._slots: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self._kinds: dict[str, str] = {}
        """variable → kind at its last assignment"""
        self._places: dict[tuple[str, str], str] = {}
        """(variable, kind) → its stack slot"""
        self._fixed: dict[str, Typed] = {}
        """arguments that are never assigned"""
        self._answers: list[str] = []
        """stack slots for the results and the exceptions of kernels"""
        self._ended = False
        """whether the text so far ends with a jump"""

    def _symbol(self, name: str) -> str:
        return self.exported.get(name, name)

    def _refuse(self, node: ast.AST) -> NoReturn:
        raise TargetError(
            f"a page cannot say {ast.unparse(node)!r} (function {self.node.name!r}): it counts in whole numbers, reads and "
            "writes elements, and calls kernels; what needs more is a kernel"
        )

    # --- text ---------------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _label(self) -> str:
        return f"b{self._next()}"

    def _line(self, text: str) -> None:
        if self._ended:  # what follows a jump is never reached
            self._start(self._label())
        self._lines.append(f" {text}")

    def _new(self, instruction: str, kind: str) -> Typed:
        name = f"%.{self._next()}"
        self._line(f"{name} = {instruction}")
        return Typed(name, kind)

    def _start(self, label: str) -> None:
        self._go(f"br label %{label}")
        self._lines.append(f"{label}:")
        self._ended = False

    def _go(self, jump: str) -> None:
        if not self._ended:
            self._lines.append(f" {jump}")
        self._ended = True

    def _slot(self, kind: str) -> str:
        name = f"%.{self._next()}"
        self._slots.append(f" {name} = alloca {_llvm(kind)}")
        return name

    def _give(self, name: str, value: Typed) -> None:
        key = name, value.kind
        if key not in self._places:
            self._places[key] = self._slot(value.kind)
        self._kinds[name] = value.kind
        self._line(f"store {_llvm(value.kind)} {value.text}, ptr {self._places[key]}")

    # --- values -------------------------------------------------------------------------------------------------------

    def _value(self, node: ast.expr) -> Typed:
        read = getattr(self, f"_read_{type(node).__name__}", None)
        if read is None:
            self._refuse(node)
        value: Typed = read(node)
        return value

    def _truth(self, node: ast.expr) -> str:
        return self._as(self._value(node), "i1", node).text

    def _as(self, value: Typed, kind: str, node: ast.AST) -> Typed:
        """The value converted to another kind; an integer as a boolean is true unless it is 0."""
        if value.kind == kind:
            return value
        if value.kind.startswith("*") or kind.startswith("*"):
            self._refuse(node)
        if value.text.lstrip("-").isdigit() and _is_whole(kind) and kind != "i1":
            return Typed(value.text, kind)
        if kind == "i1":
            return self._new(
                f"icmp ne {value.kind} {value.text}, 0" if _is_whole(value.kind) else f"fcmp une {value.kind} {value.text}, 0.0",
                kind,
            )
        if _is_whole(value.kind) and _is_whole(kind):
            wider = _width(kind) > _width(value.kind)
            word = ("zext" if value.kind == "i1" else "sext") if wider else "trunc"
        elif _is_whole(value.kind):
            word = "uitofp" if value.kind == "i1" else "sitofp"
        elif _is_whole(kind):
            self._refuse(node)
        else:
            word = "fptrunc" if kind == "float" else "fpext"
        return self._new(f"{word} {value.kind} {value.text} to {kind}", kind)

    def _read_Constant(self, node: ast.Constant) -> Typed:
        value = node.value
        if isinstance(value, bool):
            return Typed(str(value).lower(), "i1")
        if isinstance(value, int):
            return Typed(str(value), self.word)
        if isinstance(value, float):
            return Typed(f"0x{struct.pack('>d', value).hex().upper()}", "double")
        self._refuse(node)

    def _read_Name(self, node: ast.Name) -> Typed:
        if node.id in self._fixed:
            return self._fixed[node.id]
        if node.id not in self._kinds:
            self._refuse(node)
        kind = self._kinds[node.id]
        return self._new(f"load {_llvm(kind)}, ptr {self._places[node.id, kind]}", kind)

    def _read_BinOp(self, node: ast.BinOp) -> Typed:
        return self._arithmetic(node, node.op, self._value(node.left), self._value(node.right))

    def _arithmetic(self, node: ast.AST, op: ast.operator, a: Typed, b: Typed) -> Typed:
        kind = self._common(a, b)
        a, b = self._as(a, kind, node), self._as(b, kind, node)
        if type(op) in _ARITHMETIC:
            name = _ARITHMETIC[type(op)][not _is_whole(kind)]
            if name:
                return self._new(f"{name} {kind} {a.text}, {b.text}", kind)
        if not (_is_whole(kind) and isinstance(op, ast.FloorDiv | ast.Mod)):
            self._refuse(node)
        left = self._new(f"srem {kind} {a.text}, {b.text}", kind)
        signs = self._new(f"xor {kind} {left.text}, {b.text}", kind)
        other = self._new(f"icmp slt {kind} {signs.text}, 0", "i1")
        some = self._new(f"icmp ne {kind} {left.text}, 0", "i1")
        below = self._new(f"and i1 {other.text}, {some.text}", "i1")
        if isinstance(op, ast.Mod):
            more = self._new(f"select i1 {below.text}, {kind} {b.text}, {kind} 0", kind)
            return self._new(f"add {kind} {left.text}, {more.text}", kind)
        quotient = self._new(f"sdiv {kind} {a.text}, {b.text}", kind)
        less = self._new(f"sext i1 {below.text} to {kind}", kind)
        return self._new(f"add {kind} {quotient.text}, {less.text}", kind)

    def _common(self, a: Typed, b: Typed) -> str:
        if not (_is_whole(a.kind) and _is_whole(b.kind)):
            return "double"
        return max(a.kind, b.kind, self.word, key=_width)

    def _read_UnaryOp(self, node: ast.UnaryOp) -> Typed:
        if isinstance(node.op, ast.Not):
            return self._new(f"xor i1 {self._truth(node.operand)}, true", "i1")
        value = self._value(node.operand)
        if not isinstance(node.op, ast.USub) or value.kind.startswith("*"):
            self._refuse(node)
        if value.text.isdigit():
            return Typed(f"-{value.text}", value.kind)
        word = f"sub {value.kind} 0," if _is_whole(value.kind) else f"fneg {value.kind}"
        return self._new(f"{word} {value.text}", value.kind)

    def _read_Compare(self, node: ast.Compare) -> Typed:
        if len(node.ops) > 1 or type(node.ops[0]) not in _COMPARISONS:
            self._refuse(node)
        a, b = self._value(node.left), self._value(node.comparators[0])
        kind = self._common(a, b)
        a, b = self._as(a, kind, node), self._as(b, kind, node)
        whole, floating = _COMPARISONS[type(node.ops[0])]
        word = f"icmp {whole}" if _is_whole(kind) else f"fcmp {floating}"
        return self._new(f"{word} {kind} {a.text}, {b.text}", "i1")

    def _read_BoolOp(self, node: ast.BoolOp) -> Typed:
        """`and`, `or`: an operand is evaluated only if those before do not decide."""
        place, after = self._slot("i1"), self._label()
        for position, part in enumerate(node.values):
            truth, onwards = self._truth(part), self._label()
            self._line(f"store i1 {truth}, ptr {place}")
            if position + 1 < len(node.values):
                ways = (onwards, after) if isinstance(node.op, ast.And) else (after, onwards)
                self._go(f"br i1 {truth}, label %{ways[0]}, label %{ways[1]}")
                self._start(onwards)
        self._start(after)
        return self._new(f"load i1, ptr {place}", "i1")

    def _read_IfExp(self, node: ast.IfExp) -> Typed:
        then, otherwise, after = self._label(), self._label(), self._label()
        test = self._truth(node.test)
        self._go(f"br i1 {test}, label %{then}, label %{otherwise}")
        places: dict[str, str] = {}
        kinds = []
        for label, arm in ((then, node.body), (otherwise, node.orelse)):
            self._start(label)
            value = self._value(arm)
            kinds.append(value.kind)
            places.setdefault(value.kind, self._slot(value.kind))
            self._line(f"store {_llvm(value.kind)} {value.text}, ptr {places[value.kind]}")
            self._go(f"br label %{after}")
        self._start(after)
        arms = [self._new(f"load {_llvm(kind)}, ptr {place}", kind) for kind, place in places.items()]
        if len(arms) == 1:
            return arms[0]
        kind = self._common(*arms)
        a, b = (self._as(arm, kind, node) for arm in arms)
        return self._new(f"select i1 {test}, {kind} {a.text}, {kind} {b.text}", kind)

    def _read_Call(self, node: ast.Call) -> Typed:
        if not isinstance(node.func, ast.Name) or node.keywords:
            self._refuse(node)
        name, values = node.func.id, [self._value(a) for a in node.args]
        if name in ELEMENTS and len(values) == 1:
            return self._new(f"inttoptr {self.word} {self._as(values[0], self.word, node).text} to ptr", f"*{name}")
        read = getattr(self, f"_call_{name}", None)
        if read is not None:
            value: Typed = read(node, *values)
            return value
        if name in self.page.functions:
            if len(values) != len(self.page.functions[name].args.args):
                self._refuse(node)
            self.asked.append(name)
            given = ", ".join(f"{self.word} {self._as(v, self.word, node).text}" for v in values)
            return self._new(f"call {self.word} @{self._symbol(name)}({given})", self.word)
        if name in self.page.kernels or name in self.page.imports:
            return self._call_kernel(node, name, values)
        self._refuse(node)

    def _call_kernel(self, node: ast.Call, name: str, values: Sequence[Typed]) -> Typed:
        """A call by Numba's convention: functions return a status, and write the result to the address in the first argument."""
        kinds = [self.word if _is_whole(v.kind) else "double" for v in values]
        given = [self._as(v, kind, node) for v, kind in zip(values, kinds, strict=True)]
        symbol = self.kernel(name, tuple("d" if kind == "double" else "i" for kind in kinds))
        if self.around_store:  # a kernel of a warp answers nothing
            self.declared[symbol] = f"declare void @{symbol}({', '.join(kinds)})"
            self._line(f"call void @{symbol}({', '.join(f'{v.kind} {v.text}' for v in given)})")
            return Typed("0", self.word)
        if symbol not in self.declared:
            self.declared[symbol] = f"declare i32 @{symbol}({', '.join(['ptr', 'ptr', *kinds])})"
        if not self._answers:
            self._answers = [self._slot(self.word), self._slot("*f32")]
        result, raised = self._answers
        arguments = [f"ptr {result}", f"ptr {raised}", *(f"{v.kind} {v.text}" for v in given)]
        self._line(f"call i32 @{symbol}({', '.join(arguments)})")
        return self._new(f"load {self.word}, ptr {result}", self.word)

    def _element(self, node: ast.AST, pointer: Typed, index: Typed) -> tuple[str, str, int]:
        if pointer.kind[1:] not in ELEMENTS or not pointer.kind.startswith("*"):
            self._refuse(node)
        element, alignment = ELEMENTS[pointer.kind[1:]]
        place = self._new(f"getelementptr {element}, ptr {pointer.text}, {index.kind} {index.text}", "*i8")
        return place.text, element, alignment

    def _call_get(self, node: ast.Call, pointer: Typed, index: Typed) -> Typed:
        place, element, alignment = self._element(node, pointer, index)
        value = self._new(f"load {element}, ptr {place}, align {alignment}", element)
        if not _is_whole(element):
            return self._as(value, "double", node)
        if pointer.kind.startswith("*u") and _width(element) < _width(self.word):
            return self._new(f"zext {element} {value.text} to {self.word}", self.word)
        return self._as(value, max(element, self.word, key=_width), node)

    def _call_put(self, node: ast.Call, pointer: Typed, index: Typed, value: Typed) -> Typed:
        place, element, alignment = self._element(node, pointer, index)
        stored = self._as(value, element, node).text
        for line in (self.around_store, f"store {element} {stored}, ptr {place}, align {alignment}", self.around_store):
            if line:
                self._line(line)
        return Typed("0", self.word)

    def _call_atomic_load(self, node: ast.Call, pointer: Typed, index: Typed) -> Typed:
        place, element, alignment = self._element(node, pointer, index)
        return self._new(f"load atomic {element}, ptr {place} seq_cst, align {alignment}", element)

    def _call_atomic_store(self, node: ast.Call, pointer: Typed, index: Typed, value: Typed) -> Typed:
        place, element, alignment = self._element(node, pointer, index)
        self._line(f"store atomic {element} {self._as(value, element, node).text}, ptr {place} seq_cst, align {alignment}")
        return Typed("0", self.word)

    def _call_compare_exchange(self, node: ast.Call, pointer: Typed, index: Typed, before: Typed, after: Typed) -> Typed:
        place, element, _ = self._element(node, pointer, index)
        a, b = (f"{element} {self._as(value, element, node).text}" for value in (before, after))
        pair = self._new(f"cmpxchg ptr {place}, {a}, {b} seq_cst seq_cst", "*i8")
        return self._new(f"extractvalue {{ {element}, i1 }} {pair.text}, 1", "i1")

    def _call_pause(self, node: ast.Call) -> Typed:
        self._line("call void @tinyrnn.pause()")
        return Typed("0", self.word)

    def _call_invoke(self, node: ast.Call, address: Typed, *values: Typed) -> Typed:
        function = self._new(f"inttoptr {address.kind} {address.text} to ptr", "*i8")
        given = ", ".join(f"i64 {self._as(v, 'i64', node).text}" for v in values)
        return self._new(f"call i64 {function.text}({given})", "i64")

    _call_invoke2 = _call_invoke

    def _call_min(self, node: ast.Call, *values: Typed) -> Typed:
        return self._least(node, "slt", values)

    def _call_max(self, node: ast.Call, *values: Typed) -> Typed:
        return self._least(node, "sgt", values)

    def _least(self, node: ast.Call, relation: str, values: Sequence[Typed]) -> Typed:
        best = values[0]
        for value in values[1:]:
            kind = self._common(best, value)
            if not _is_whole(kind):
                self._refuse(node)
            a, b = self._as(best, kind, node), self._as(value, kind, node)
            before = self._new(f"icmp {relation} {kind} {b.text}, {a.text}", "i1")
            best = self._new(f"select i1 {before.text}, {kind} {b.text}, {kind} {a.text}", kind)
        return best


def _is_whole(kind: str) -> bool:
    return kind.startswith("i")


def _width(kind: str) -> int:
    return int(kind[1:])


def _llvm(kind: str) -> str:
    return "ptr" if kind.startswith("*") else kind
