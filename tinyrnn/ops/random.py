"""Random numbers. A node without a seed gets one made from its name, so that its results are reproducible.

The numbers are tinyrnn's own, and not those of onnxruntime: number i is the upper 24 bits of SplitMix64's i-th (G. Steele,
D. Lea and C. Flood, Fast Splittable Pseudorandom Number Generators, 2014), started from the bits of the seed. How many were
drawn is part of the stream's state: a stream that is reset, or a state that is restored, draws the same again, in any
chunks. Every sequence of a batch, and every `Model.run`, draws the same. A result that belongs to a whole sequence, and not to
its frames, is drawn once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Scratch, State, Value
from tinyrnn.graph.ir import Node, Spec, spec_of
from tinyrnn.graph.op import REQUIRED, Array, Axis, Frames, Op, Refused, register
from tinyrnn.lanes import (
    Vec,
    absolute,
    at,
    copy_sign,
    f32,
    fma,
    get,
    i32,
    i64,
    kernel,
    lanes,
    less_equal,
    load_part,
    put,
    select,
    splat,
    square_root,
    store_part,
    u8,
)
from tinyrnn.lanes.functions import exp, log
from tinyrnn.ops.elementwise.cast import ONNX_DTYPES
from tinyrnn.ops.reduction.softmax import max_f32, scratch_for_sums

FLOAT = np.dtype(np.float32)

STEP, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
"""SplitMix64"""
RANGE = 1 << 24
"""upper bound of a drawn number"""

# The inverse of the normal distribution for |p - 1/2| <= 0.425, and beyond, by degree
# (M. Wichura, Algorithm AS 241, 1988, PPND7).
CENTRE_OVER = (3.3871327179, 50.434271938, 159.29113202, 59.109374720)
CENTRE_UNDER = (1.0, 17.895169469, 78.757757664, 67.187563600)
TAIL_OVER = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103)
TAIL_UNDER = (1.0, 0.73700164250, 0.12021132975)


@kernel
def draw(y: Any, n: int, drawn: Any, seed: int, advance: int) -> None:
    """y = n whole numbers from 0 to 2**24 - 1 as float32; `drawn` counts them if `advance`."""
    count = get(i64(drawn), 0)
    state = np.uint64(seed) + np.uint64(count) * STEP
    for i in range(n):
        state = state + STEP
        z = (state ^ (state >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
        z = z ^ (z >> np.uint64(31))
        put(y, i, np.float32(np.int64(z >> np.uint64(40))))
    if advance:
        put(i64(drawn), 0, count + n)


@kernel
def polynomial_3(x: Vec, c0: float, c1: float, c2: float, c3: float) -> Vec:
    """c0 + c1 x + c2 x² + c3 x³."""
    return fma(fma(fma(splat(c3), x, splat(c2)), x, splat(c1)), x, splat(c0))


@kernel
def normal_of(k: Vec) -> Vec:
    """The quantile of the standard normal distribution at (k + 1/2) / 2**24."""
    q = ((k - splat(8388608.0)) + splat(0.5)) * splat(2.0**-24)
    r = splat(0.180625) - q * q
    centre = q * polynomial_3(r, *CENTRE_OVER) / polynomial_3(r, *CENTRE_UNDER)
    far = square_root(-log(splat(0.5) - absolute(q))) - splat(1.6)
    tail = polynomial_3(far, *TAIL_OVER) / polynomial_3(far, *TAIL_UNDER, 0.0)
    return select(less_equal(absolute(q), splat(0.425)), centre, copy_sign(tail, q))


@kernel
def random_normal(y: Any, drawn: Any, rows: int, n: int, seed: int, advance: int, mean: float, scale: float) -> None:
    """y = rows of n normal numbers."""
    y = f32(y)
    draw(y, rows * n, drawn, seed, advance)
    for i in range(0, rows * n, lanes()):
        store_part(y, i, fma(normal_of(load_part(y, i, rows * n - i)), splat(scale), splat(mean)), rows * n - i)


@kernel
def random_uniform(y: Any, drawn: Any, rows: int, n: int, seed: int, advance: int, low: float, high: float) -> None:
    """y = rows of n numbers from low to high."""
    y = f32(y)
    draw(y, rows * n, drawn, seed, advance)
    for i in range(0, rows * n, lanes()):
        u = load_part(y, i, rows * n - i) * splat(2.0**-24)
        store_part(y, i, fma(u, splat(high) - splat(low), splat(low)), rows * n - i)


def _bernoulli(pointer: Callable[[int], Any]) -> Callable[..., Any]:
    """The kernel below, for one type of result."""

    def bernoulli(y: Any, drawn: Any, rows: int, n: int, seed: int, advance: int, p: Any, u: Any) -> None:
        """y = 1 with probability p, else 0, for rows of n; u is scratch as large."""
        y = pointer(y)
        p = f32(p)
        u = f32(u)
        draw(u, rows * n, drawn, seed, advance)
        for i in range(rows * n):
            put(y, i, 1 if get(u, i) * np.float32(2.0**-24) < get(p, i) else 0)

    bernoulli.__name__ = bernoulli.__qualname__ = f"bernoulli_{pointer.__name__}"
    return kernel(bernoulli)


def _multinomial(pointer: Callable[[int], Any]) -> Callable[..., Any]:
    """The kernel below, for one type of result."""

    def multinomial(y: Any, drawn: Any, rows: int, n: int, seed: int, advance: int, x: Any, classes: int, u: Any, s: Any) -> None:
        """y = rows of n classes, class c as often as exp(x[c]); scratch u of rows · n, s of classes and a Vec or 16."""
        y = pointer(y)
        x = f32(x)
        u = f32(u)
        s = f32(s)
        draw(u, rows * n, drawn, seed, advance)
        for r in range(rows):
            best = max_f32(at(x, r * classes), classes, at(s, classes))
            for i in range(0, classes, lanes()):
                store_part(s, i, exp(load_part(x, r * classes + i, classes - i) - best), classes - i)
            for i in range(1, classes):
                put(s, i, get(s, i - 1) + get(s, i))
            for i in range(n):
                wanted = get(u, r * n + i) * np.float32(2.0**-24) * get(s, classes - 1)
                c = 0
                while c < classes - 1 and not wanted < get(s, c):
                    c += 1
                put(y, r * n + i, c)

    multinomial.__name__ = multinomial.__qualname__ = f"multinomial_{pointer.__name__}"
    return kernel(multinomial)


bernoulli_f32, bernoulli_i32, bernoulli_i64, bernoulli_u8 = map(_bernoulli, (f32, i32, i64, u8))
multinomial_i32, multinomial_i64 = map(_multinomial, (i32, i64))

BERNOULLI: dict[np.dtype[Any], Callable[..., Any]] = {
    np.dtype(np.float32): bernoulli_f32,
    np.dtype(np.int32): bernoulli_i32,
    np.dtype(np.int64): bernoulli_i64,
    np.dtype(np.uint8): bernoulli_u8,
    np.dtype(np.bool_): bernoulli_u8,
}
MULTINOMIAL: dict[np.dtype[Any], Callable[..., Any]] = {
    np.dtype(np.int32): multinomial_i32,
    np.dtype(np.int64): multinomial_i64,
}


class Random(Op):
    """An operator that draws numbers."""

    foldable = False
    outputs = ("output",)

    random = True
    settable = ("seed",)

    def seed(self, node: Node) -> float:
        given = self.attribute(node, "seed")
        return float(zlib.crc32(node.name.encode()) % RANGE if given is None else given)

    def doubt(self, node: Node, producer: str) -> str | None:
        if self.attribute(node, "seed") is not None:
            return None
        return (
            f"it states no seed, so that every run draws the same numbers, those of seed {self.seed(node):.0f}; another seed: "
            f'bind={{"{node.name}.seed": 7}}'
        )

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        """Zeros, as no specification determines the numbers; values that depend on them are not compared."""
        spec = self.infer(node, [None if array is None else spec_of(array) for array in arrays])[0]
        return (np.zeros(spec.sizes, spec.dtype),)

    def dtype(self, node: Node, default: np.dtype[Any]) -> np.dtype[Any]:
        """The type of the output."""
        code = self.attribute(node, "dtype")
        if code is not None and code not in ONNX_DTYPES:
            raise Refused(f"dtype={code}; supported are {', '.join(map(str, ONNX_DTYPES))}")
        return default if code is None else np.dtype(ONNX_DTYPES[code])

    def draws(self, node: Node, env: Lowering) -> tuple[Operand, ...]:
        """The operands with which all kernels start."""
        output = node.outputs[0]
        seed = int(np.array(self.seed(node), np.float32).view(np.uint32))
        counted = State(f"{node.name}.drawn", np.zeros(1, np.int64))
        return Value(output), counted, Rows(), env.specs[output].elements, seed, int(env.per_frame(output))

    def check(self, name: str, env: Lowering, supported: Sequence[np.dtype[Any]] = (FLOAT,)) -> np.dtype[Any]:
        """The type of a value. Raises `Refused` unless it is supported."""
        dtype = env.specs[name].dtype
        if dtype not in supported:
            raise Refused(f"{name!r} is {dtype}; supported are {', '.join(map(str, supported))}")
        return dtype


class _Shaped(Random):
    """Random numbers in a shape given by an attribute."""

    inputs: ClassVar[tuple[str, ...]] = ()
    function: ClassVar[Callable[..., Any]]
    settings: ClassVar[tuple[str, str]]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        return [Spec(self.dtype(node, FLOAT), tuple(int(n) for n in self.attribute(node, "shape")))]

    def frame(self, node: Node, frames: Frames) -> Node:
        return frames.node(node)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        self.check(node.outputs[0], env)
        settings = (float(self.attribute(node, name)) for name in self.settings)
        return [Call(type(self).function, (*self.draws(node, env), *settings), f"{node.outputs[0]} = {node.op}")]


class _Like(_Shaped):
    """Random numbers in the shape of the input."""

    inputs = ("input",)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        return [Spec(self.dtype(node, specs[0].dtype), specs[0].shape)]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        for axis in range(len(specs[node.inputs[0]].shape)):
            yield (node.inputs[0], axis), (node.outputs[0], axis)


NORMAL: dict[str, Any] = {"seed": None, "mean": 0.0, "scale": 1.0}
UNIFORM: dict[str, Any] = {"seed": None, "low": 0.0, "high": 1.0}


@register
class RandomNormal(_Shaped):
    """ONNX RandomNormal."""

    name = "RandomNormal"
    attributes = {**NORMAL, "dtype": 1, "shape": REQUIRED}
    function = staticmethod(random_normal)
    settings = ("mean", "scale")


@register
class RandomUniform(_Shaped):
    """ONNX RandomUniform."""

    name = "RandomUniform"
    attributes = {**UNIFORM, "dtype": 1, "shape": REQUIRED}
    function = staticmethod(random_uniform)
    settings = ("low", "high")


@register
class RandomNormalLike(_Like):
    """ONNX RandomNormalLike."""

    name = "RandomNormalLike"
    attributes = {**NORMAL, "dtype": None}
    function = staticmethod(random_normal)
    settings = ("mean", "scale")


@register
class RandomUniformLike(_Like):
    """ONNX RandomUniformLike."""

    name = "RandomUniformLike"
    attributes = {**UNIFORM, "dtype": None}
    function = staticmethod(random_uniform)
    settings = ("low", "high")


@register
class Bernoulli(_Like):
    """ONNX Bernoulli: 1 with the probability that the input states."""

    name = "Bernoulli"
    attributes = {"seed": None, "dtype": None}

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        self.check(node.inputs[0], env)
        function = BERNOULLI[self.check(node.outputs[0], env, list(BERNOULLI))]
        scratch = Scratch("u", per_row=env.specs[node.outputs[0]].elements)
        return [Call(function, (*self.draws(node, env), Value(node.inputs[0]), scratch), f"{node.outputs[0]} = {node.op}")]


@register
class Multinomial(Random):
    """ONNX Multinomial: `sample_size` classes, by their unnormalised logarithmic probabilities [batch, classes]."""

    name = "Multinomial"
    inputs = ("input",)
    attributes: ClassVar[dict[str, Any]] = {"seed": None, "dtype": 6, "sample_size": 1}

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        x = specs[0]
        assert x is not None
        if len(x.shape) != 2:
            raise Refused(f"its input is {x}; supported is [batch, classes]")
        return [Spec(self.dtype(node, FLOAT), (x.shape[0], int(self.attribute(node, "sample_size"))))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield (node.inputs[0], 0), (node.outputs[0], 0)

    def frame(self, node: Node, frames: Frames) -> Node:
        if frames.role(node.inputs[0], 1):
            raise Refused(f"its classes are the {frames.role(node.inputs[0], 1)} axis")
        return frames.node(node)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        self.check(node.inputs[0], env)
        function = MULTINOMIAL[self.check(node.outputs[0], env, list(MULTINOMIAL))]
        classes, count = node.shapes[0][-1], int(self.attribute(node, "sample_size"))
        times = env.specs[node.inputs[0]].elements // classes
        output, drawn, _, _, seed, advance = self.draws(node, env)
        operands = (output, drawn, Rows(times=times), count, seed, advance, Value(node.inputs[0]), classes)
        scratch = Scratch("u", per_row=times * count), scratch_for_sums(env, classes)
        return [Call(function, (*operands, *scratch), f"{node.outputs[0]} = {node.op}")]
