"""Operators that reduce over axes of a frame: sums, means, extremes.

Sums across lanes are taken the same way on every target: element k joins partial sum k mod WIDTH, and one
fixed tree adds the partial sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Rows, Value
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import Array, Axis, Frames, Op, Refused, register
from tinyrnn.lanes import (
    Vec,
    kernel,
    load,
    store,
    store_part,
)
from tinyrnn.ops.elementwise.scalars import KINDS as KINDS_OF_TYPE
from tinyrnn.ops.elementwise.scalars import DType, pointer
from tinyrnn.ops.loops.over_time import KINDS, over_time
from tinyrnn.ops.reduction.softmax import WIDTH, scratch_for_sums


def _axes_of(value: Any, rank: int) -> list[int] | None:
    return None if value is None else sorted(int(a) % rank for a in np.ravel(value))


@dataclass(frozen=True)
class Words:
    """A reduction in words of the kernel language."""

    one: str
    """the contribution of an element {v}"""
    two: str
    """the combination of two totals {a} and {b}"""
    finish: str
    """the result from the total {t} of {n} elements"""
    neutral: str
    """the neutral element; empty if the first element is used instead"""
    of_none: str = ""
    """the result for no elements, if there is no neutral element"""


class Reduce(Op):
    """Base of reductions over `axes`."""

    inputs = ("data", "axes?")
    outputs = ("reduced",)
    attributes: ClassVar[dict[str, Any]] = {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}
    parameters = {"axes": 1}
    function: ClassVar[Callable[..., Any]]
    words: ClassVar[Words]
    scalars: ClassVar[dict[str, Words]]
    """kinds of types ("f" floating, "i" signed, "u" unsigned, "b" bool) → words over scalars"""
    shifted: ClassVar[bool] = False
    """whether `one` gets the elements minus their largest {m}"""

    def _axes(self, node: Node, rank: int) -> list[int]:
        axes = _axes_of(self.attribute(node, "axes"), rank)
        if not axes:
            return [] if self.attribute(node, "noop_with_empty_axes") else list(range(rank))
        return axes

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        axes = self._axes(node, len(specs[0].shape))
        keep = self.attribute(node, "keepdims") == 1
        return [Spec(specs[0].dtype, tuple(1 if a in axes else n for a, n in enumerate(specs[0].sizes) if keep or a not in axes))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        rank = len(specs[node.inputs[0]].shape)
        axes = self._axes(node, rank)
        kept = range(rank) if self.attribute(node, "keepdims") == 1 else [a for a in range(rank) if a not in axes]
        for to, start in enumerate(kept):
            if start not in axes:
                yield (node.inputs[0], start), (node.outputs[0], to)

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        source = node.inputs[0]
        sizes = frames.specs[source].sizes
        axes = self._axes(node, len(sizes))
        roles = {role for a in axes if (role := frames.role(source, a)) and (sizes[a] != 1 or role == "time")}
        kept = frames.kept(source)
        inside = [kept.index(a) for a in axes if a in kept]
        framed = frames.node(node, {"axes": inside, "keepdims": 1, "noop_with_empty_axes": 1})
        if roles == {"time"} and node.op in KINDS:
            shape = tuple(1 if a in inside else n for a, n in enumerate(frames.shape(source)))
            after = frames.node(over_time(node), shapes=[shape])
            if all(frames.shape(source)[a] == 1 for a in inside):
                return after
            each = frames.value(f"{node.outputs[0]}.each", Spec(frames.specs[source].dtype, shape))
            framed.outputs, after.inputs = (each,), (each,)
            framed.name = f"{node.name}.each"
            return [framed, after]
        if any(frames.role(source, a) and sizes[a] != 1 for a in axes):
            raise Refused(
                f"it reduces over the {' and '.join(sorted(roles))} axis; over time alone {', '.join(KINDS)} have a running form"
            )
        return framed

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axes = tuple(self._axes(node, x.ndim))
        with np.errstate(all="ignore"):
            found = np.asarray(type(self).function(x, axis=axes, keepdims=self.attribute(node, "keepdims") == 1))
        return (found.astype(x.dtype),)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        source, output, shape = node.inputs[0], node.outputs[0], node.shapes[0]
        dtype = env.specs[source].dtype
        nest = _Nest.of(shape, self._axes(node, len(shape)))
        if dtype == np.float32:
            body = self._vector_body(nest)
        else:
            words = next((words for kinds, words in self.scalars.items() if dtype.kind in kinds), None)
            if words is None:
                raise Refused(f"{source!r} is {dtype}; {self.name} supports {', '.join(['float32', *_names(self.scalars)])}")
            body = _scalar_body(nest, words, dtype)
        word = pointer(source, dtype)
        lines = ["def KERNEL(y, x, s, rows):", f"    y, x, s = {word}(y), {word}(x), f32(s)", "    for r in range(rows):"]
        return [
            Call(
                "\n".join([*lines, *(f"        {line}" for line in body)]) + "\n",
                (Value(output), Value(source), scratch_for_sums(env, WIDTH), Rows()),
                f"{output} = {self.name} over {nest.count}",
            )
        ]

    def _vector_body(self, nest: _Nest) -> list[str]:
        words = self.words
        passed = _along_lanes if nest.along_lanes else _across_lanes
        total = words.finish.format(t="t", n=nest.count, m="m")
        inside = []
        if self.shifted:
            inside = [
                *passed(nest, Words("{v}", "larger({a}, {b})", "{t}", "", "splat(-1e999)")),
                "m = select(less(absolute(t), splat(1e999)), t, splat(0.0))",
            ]
        inside += passed(nest, words)
        if not nest.along_lanes:
            return nest.outer(nest.kept, [*inside, f"store_part(y, to, {total}, 1)"])
        size = nest.kept[-1].size
        inside = [f"    {line}" for line in [*inside, f"store_part(y, to + i, {total}, {size} - i)"]]
        return nest.outer(nest.kept[:-1], [f"for i in range(0, {size}, lanes()):", *inside])


@dataclass(frozen=True)
class _Axis:
    size: int
    stride: int


@dataclass(frozen=True)
class _Nest:
    """The kept and the reduced axes of a frame, neighbours joined."""

    kept: list[_Axis]
    reduced: list[_Axis]
    elements: int
    """number of elements of the input's frame"""
    along_lanes: bool
    """whether the last axis is kept"""

    @staticmethod
    def of(shape: Sequence[int], axes: Sequence[int]) -> _Nest:
        joined: list[tuple[bool, int]] = []
        for axis, size in enumerate(shape):
            if joined and joined[-1][0] == (axis in axes):
                joined[-1] = joined[-1][0], joined[-1][1] * size
            elif size != 1:
                joined.append((axis in axes, size))
        joined = joined or [(False, 1)]
        strides = [prod(size for _, size in joined[place + 1 :]) for place in range(len(joined))]
        split: dict[bool, list[_Axis]] = {False: [], True: []}
        for (reduced, size), stride in zip(joined, strides, strict=True):
            split[reduced].append(_Axis(size, stride))
        return _Nest(split[False], split[True], prod(shape), not joined[-1][0])

    @property
    def count(self) -> int:
        """The number of elements that are reduced to one."""
        return prod(axis.size for axis in self.reduced)

    def outer(self, axes: Sequence[_Axis], inside: Sequence[str]) -> list[str]:
        """Lines of `inside` in loops over kept axes; there `at` and `to` are offsets in the input and the output."""
        outputs = prod(axis.size for axis in self.kept)
        at, to, lines, indent = f"r * {self.elements}", f"r * {outputs}", [], ""
        for place, axis in enumerate(axes):
            lines.append(f"{indent}for k{place} in range({axis.size}):")
            indent += "    "
            at += f" + k{place} * {axis.stride}"
            to += f" + k{place} * {prod(a.size for a in self.kept[place + 1 :])}"
        return [*lines, f"{indent}at, to = {at}, {to}", *(indent + line for line in inside)]

    def inner(self, axes: Sequence[_Axis], inside: Sequence[str]) -> list[str]:
        """Lines of `inside` in loops over reduced axes; there `p` is the offset in the input."""
        at, lines, indent = "at", [], ""
        for place, axis in enumerate(axes):
            lines.append(f"{indent}for j{place} in range({axis.size}):")
            indent += "    "
            at += f" + j{place} * {axis.stride}"
        return [*lines, f"{indent}p = {at}", *(indent + line for line in inside)]


def _start(nest: _Nest, words: Words, first: str) -> str:
    """The initial total: the neutral element, or the first element, which then counts twice."""
    return words.neutral or (words.one.format(v=first, m="m") if nest.count else words.of_none)


def _along_lanes(nest: _Nest, words: Words) -> list[str]:
    """Lines with lanes along the outputs: t is their total."""
    size = nest.kept[-1].size
    step = ["v = " + words.one.format(v=f"load_part(x, p + i, {size} - i)", m="m"), f"t = {words.two.format(a='t', b='v')}"]
    return [f"t = {_start(nest, words, f'load_part(x, at + i, {size} - i)')}", *nest.inner(nest.reduced, step)]


def _across_lanes(nest: _Nest, words: Words) -> list[str]:
    """Lines with lanes along the last axis: element k joins partial sum k mod 16, a fixed tree adds them; t is in every lane."""
    n = nest.reduced[-1].size
    joined = words.two.format(a="t", b="v")
    step = [
        f"for i in range(b, {n}, 16):",
        "    v = " + words.one.format(v=f"load_part(x, p + i, {n} - i)", m="m"),
        f"    t = {f'pick(t, {joined}, {n} - i, s)' if n % WIDTH else joined}",
    ]
    return [
        "for b in range(0, 16, lanes()):",
        f"    t = {_start(nest, words, 'splat(get(x, at))')}",
        *(f"    {line}" for line in nest.inner(nest.reduced[:-1], step)),
        "    store(s, b, t)",
        "half = 8",
        "while half > 0:",
        "    for i in range(half):",
        "        a, b = splat(get(s, i)), splat(get(s, i + half))",
        f"        store_part(s, i, {words.two.format(a='a', b='b')}, 1)",
        "    half //= 2",
        "t = splat(get(s, 0))",
    ]


def _scalar_body(nest: _Nest, words: Words, dtype: DType) -> list[str]:
    """Lines that compute one output after the other, in 64 bits."""
    wide = {"f": "as_f64", "i": "as_i64"}.get(dtype.kind, "as_u64")
    lowest, highest = ("-1e999", "1e999") if dtype.kind == "f" else ("0", "1") if dtype.kind == "b" else _bounds(dtype)
    start = _start(nest, words, "get(x, at)").format(lowest=lowest, highest=highest)
    step = [f"v = {words.one.format(v='get(x, p)')}", f"t = {words.two.format(a='t', b='v')}"]
    total = words.finish.format(t="t", n=f"{wide}({nest.count})")
    return nest.outer(nest.kept, [f"t = {wide}({start})", *nest.inner(nest.reduced, step), f"put(y, to, {total})"])


def _bounds(dtype: DType) -> tuple[str, str]:
    return str(np.iinfo(dtype).min), str(np.iinfo(dtype).max)


def _names(kinds: Iterable[str]) -> list[str]:
    return [{**KINDS_OF_TYPE, "f": "float64"}[kind] for kind in "".join(kinds)]


@kernel
def pick(before: Vec, after: Vec, n: int, s: Any) -> Vec:
    """after in the first n lanes, before in the others; s has room for 16 and a Vec, at least 32."""
    store(s, 16, before)
    store_part(s, 16, after, n)
    return load(s, 16)


def _define(
    name: str, function: Callable[..., Any], words: Words, scalars: dict[str, Words] | None = None, shifted: bool = False
) -> None:
    fields = {"name": name, "function": staticmethod(function), "words": words, "scalars": scalars or {}, "shifted": shifted}
    register(type(name, (Reduce,), {**fields, "__doc__": f"ONNX {name}."}))


def _extreme(x: Array, axis: tuple[int, ...], keepdims: bool, largest: bool) -> Array:
    """np.max or np.min; for no elements the lowest or highest number of the type."""
    bounds = (-np.inf, np.inf) if x.dtype.kind == "f" else (False, True) if x.dtype.kind == "b" else _limits(x.dtype)
    initial = bounds[0 if largest else 1]
    return np.asarray((np.max if largest else np.min)(x, axis=axis, keepdims=keepdims, initial=initial))


def _limits(dtype: DType) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    most = _extreme(x, axis, True, True)
    shift = np.where(np.isfinite(most), most, 0.0)
    total: Array = np.log(np.sum(np.exp(x - shift), axis=axis, keepdims=True)) + shift
    return np.asarray(total if keepdims else total.squeeze(axis))


SUM, PRODUCT, WHOLE = "({a} + {b})", "({a} * {b})", "({v} if {v} >= 0 else -{v})"
ADDED = Words("{v}", SUM, "{t}", "splat(0.0)")
SUMS = Words("{v}", SUM, "{t}", "0")
SQUARES = replace(ADDED, one="({v} * {v})")
LARGEST, SMALLEST = "larger_of({a}, {b})", "smaller_of({a}, {b})"

_define("ReduceSum", np.sum, ADDED, {"fiu": SUMS})
_define(
    "ReduceMean",
    lambda x, **k: np.trunc(np.mean(x, **k)) if x.dtype.kind in "iu" else np.mean(x, **k),
    replace(ADDED, finish="({t} / splat({n}))"),
    {
        "f": replace(SUMS, finish="({t} / {n})"),
        "i": replace(SUMS, finish="quotient_i({t}, {n})"),
        "u": replace(SUMS, finish="quotient_u({t}, {n})"),
    },
)
_define(
    "ReduceMax",
    partial(_extreme, largest=True),
    Words("{v}", "larger({a}, {b})", "{t}", "", "splat(-1e999)"),
    {"fiub": Words("{v}", LARGEST, "{t}", "", "{lowest}")},
)
_define(
    "ReduceMin",
    partial(_extreme, largest=False),
    Words("{v}", "smaller({a}, {b})", "{t}", "", "splat(1e999)"),
    {"fiub": Words("{v}", SMALLEST, "{t}", "", "{highest}")},
)
_define("ReduceProd", np.prod, Words("{v}", PRODUCT, "{t}", "splat(1.0)"), {"fiu": Words("{v}", PRODUCT, "{t}", "1")})
_define("ReduceSumSquare", lambda x, **k: np.sum(x * x, **k), SQUARES, {"fiu": replace(SUMS, one="({v} * {v})")})
_define(
    "ReduceL1",
    lambda x, **k: np.sum(np.abs(x), **k),
    replace(ADDED, one="absolute({v})"),
    {"fi": replace(SUMS, one=WHOLE), "u": SUMS},
)
_define(
    "ReduceL2",
    lambda x, **k: np.sqrt(np.sum(x * x, **k)),
    replace(SQUARES, finish="square_root({t})"),
)
_define("ReduceLogSum", lambda x, **k: np.log(np.sum(x, **k)), replace(ADDED, finish="log({t})"))
_define(
    "ReduceLogSumExp",
    _log_sum_exp,
    replace(ADDED, one="exp({v} - {m})", finish="(log({t}) + {m})"),
    shifted=True,
)
