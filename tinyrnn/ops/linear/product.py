"""`Product`: two strided values multiplied, element by element along some axes and summed over others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.call import Call, Lowering, Operand, Rows, Scratch, Weight
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.limits import check_work
from tinyrnn.graph.op import OURS, REQUIRED, Array, Axis, Frames, Op, Refused, register
from tinyrnn.lanes import at, f32, fma, get, i32, kernel, lanes, load, load_part, splat, store, store_part
from tinyrnn.ops.elementwise.scalars import pointer
from tinyrnn.ops.linear.operators import GROUP
from tinyrnn.ops.movement.strided_copy import End, end_of, refuse_twice, strided_copy_between, strides_of

Labels = tuple[str, ...]
Sizes = dict[str, int]

ARGUMENTS = "y, s, v, outer, inner, rows, y_row, s_row, v_row, O, Q, M, K, N, y_m, s_m, s_k, v_k"


def _product_text(name: str, heights: Sequence[int]) -> str:
    """The kernel below, in blocks of `heights` m by GROUP panels, whose sums stay in registers."""
    lines = [
        f"def {name}({ARGUMENTS}):",
        '    """y[r, o, m, n] = the sum over q and k of s[r, o, m, q, k] v[r, o, q, k, n]: one chain of fma in their order.',
        "",
        "    Lanes are along n, which has stride 1; outer: offsets (y, s, v) of each o; inner: offsets (s, v) of each q.",
        '    """',
        "    y, s, v, outer, inner = f32(y), f32(s), f32(v), i32(outer), i32(inner)",
        "    L = lanes()",
        "    for r in range(rows):",
        "        for o in range(O):",
        "            to = at(y, r * y_row + get(outer, 3 * o))",
        "            a = at(s, r * s_row + get(outer, 3 * o + 1))",
        "            b = at(v, r * v_row + get(outer, 3 * o + 2))",
        "            j = 0",
        f"            while j + {GROUP} * L <= N:",
        *_blocks(heights, GROUP),
        "            while j < N:",
        *_blocks(heights, 1),
    ]
    return "\n".join(lines) + "\n"


def _blocks(heights: Sequence[int], group: int) -> list[str]:
    """Lines for all m by `group` panels from element j on; a single panel may be cut short by N."""
    lines = ["m = 0"]
    ends = (", N - j" if group == 1 else "", "_part" if group == 1 else "")
    for height in heights:
        sums = [[f"s{row}{panel}" for panel in range(group)] for row in range(height)]
        lines.append(f"while m + {height} <= M:")
        lines += [f"    {name} = splat(0.0)" for row in sums for name in row]
        lines += ["    for q in range(Q):", "        p, w = get(inner, 2 * q) + m * s_m, get(inner, 2 * q + 1) + j"]
        lines.append("        for k in range(K):")
        for panel in range(group):
            lines.append(f"            w{panel} = load{ends[1]}(b, w{f' + {panel} * L' if panel else ''}{ends[0]})")
        for row in range(height):
            lines.append(f"            x = splat(get(a, p{f' + {row} * s_m' if row else ''}))")
            lines += [f"            {sums[row][panel]} = fma(x, w{panel}, {sums[row][panel]})" for panel in range(group)]
        lines += ["            p += s_k", "            w += v_k"]
        for row in range(height):
            for panel in range(group):
                place = f"(m + {row}) * y_m + j{f' + {panel} * L' if panel else ''}"
                lines.append(f"    store{ends[1]}(to, {place}, {sums[row][panel]}{ends[0]})")
        lines.append(f"    m += {height}")
    return ["                " + line for line in [*lines, f"j += {group} * L"]]


def _product(name: str, heights: Sequence[int]) -> Callable[..., Any]:
    words = {w.__name__: w for w in (at, f32, fma, get, i32, lanes, load, load_part, splat, store, store_part)}
    exec(_product_text(name, heights), words)
    function: Callable[..., Any] = words[name]
    function.__module__ = __name__
    return kernel(function)


product_32 = _product("product_32", (4, 1))
product_16 = _product("product_16", (2, 1))


def _scalar_text(word: str) -> str:
    """As `product_32`, element by element for another type; integers wrap around."""
    return (
        "\n".join(
            [
                f"def KERNEL({ARGUMENTS}):",
                f"    y, s, v, outer, inner = {word}(y), {word}(s), {word}(v), i32(outer), i32(inner)",
                "    for r in range(rows):",
                "        for o in range(O):",
                "            to = at(y, r * y_row + get(outer, 3 * o))",
                "            a = at(s, r * s_row + get(outer, 3 * o + 1))",
                "            b = at(v, r * v_row + get(outer, 3 * o + 2))",
                "            for m in range(M):",
                "                for n in range(N):",
                f"                    total = {'0.0' if word == 'f64' else '0'}",
                "                    for q in range(Q):",
                "                        p, w = get(inner, 2 * q) + m * s_m, get(inner, 2 * q + 1) + n",
                "                        for k in range(K):",
                "                            total += get(a, p + k * s_k) * get(b, w + k * v_k)",
                "                    put(to, m * y_m + n, total)",
            ]
        )
        + "\n"
    )


@dataclass(frozen=True)
class _Side:
    """An operand or the result of a product: its address, and its stride along each label (absent: 0)."""

    name: str
    operand: Operand
    row: int
    strides: Sizes
    constant: Array | None = None

    def along(self, label: str) -> int:
        return self.strides.get(label, 0)


@register
class Product(Op):
    """Y = A B summed over the labels that Y lacks; `labels` names the axes of A, B and Y as Einsum does."""

    name = "Product"
    internal = True
    inputs = ("A", "B?")
    attributes = {"labels": REQUIRED}

    def _labels(self, node: Node) -> list[Labels]:
        return list(self.attribute(node, "labels"))

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        *read, made = self._labels(node)
        sizes = sizes_of(read, [s.sizes for s in specs if s is not None])
        return [Spec(specs[0].dtype, tuple(sizes[label] for label in made))]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        *read, made = self._labels(node)
        output = node.outputs[0]
        for name, labels in zip(node.inputs, read, strict=True):
            for axis, label in enumerate(labels):
                if label in made and specs[name].shape[axis] == specs[output].shape[made.index(label)]:
                    yield (name, axis), (output, made.index(label))

    def frame(self, node: Node, frames: Frames) -> Node:
        *read, made = self._labels(node)
        output = node.outputs[0]
        refuse_twice(frames, output)
        rows = {made[axis] for axis in frames.rows(output)}
        for name, labels in zip(node.inputs, read, strict=True):
            for axis, label in enumerate(labels):
                role = frames.role(name, axis)
                if role is not None and label not in rows:
                    raise Refused(f"it sums over the {role} axis")
                if label in rows and (labels.count(label) > 1 or (role is None and frames.specs[name].shape[axis] != 1)):
                    raise Refused("a time or batch axis meets an ordinary one")
        kept = [tuple(label for label in labels if label not in rows) for labels in (*read, made)]
        shapes = [
            tuple(n for label, n in zip(labels, frames.specs[name].sizes, strict=True) if label not in rows)
            for name, labels in zip(node.inputs, read, strict=True)
        ]
        framed = frames.node(node, {"labels": tuple(kept)}, shapes)
        return _as_linear(framed, frames) or framed

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        *read, made = self._labels(node)
        number = {label: index for index, label in enumerate(dict.fromkeys(label for labels in read for label in labels))}
        terms: list[Any] = []
        check_work(prod(sizes_of(read, [a.shape for a in arrays if a is not None]).values()))
        for array, labels in zip([a for a in arrays if a is not None], read, strict=True):
            terms += [array, [number[label] for label in labels]]
        return (np.asarray(np.einsum(*terms, [number[label] for label in made])),)

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        return prod(sizes_of(self._labels(node)[:-1], node.shapes).values())

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        output = node.outputs[0]
        dtype = env.specs[output].dtype
        *read, made = self._labels(node)
        sizes = sizes_of(read, node.shapes)
        a, *rest = (_side(env, name, labels, shape) for name, labels, shape in zip(node.inputs, read, node.shapes, strict=True))
        b = rest[0] if rest else _Side("", Weight(np.ones(1, dtype)), 0, {}, np.ones((), dtype))
        y = _side(env, output, made, [sizes[label] for label in made])
        if dtype == np.float32:
            function: Any = product_32 if env.registers >= 32 else product_16
        elif dtype == np.float64 or (dtype.kind in "iu" and dtype.itemsize >= 4):
            function = _scalar_text("f64" if dtype.kind == "f" else f"i{8 * dtype.itemsize}")
            pointer(output, dtype)
        else:
            raise Refused(f"{output!r} is {dtype}; products take float32, float64, int32, int64, uint32 and uint64")
        return _calls(env, function, dtype, a, b, y, made, sizes)


def sizes_of(read: Sequence[Labels], shapes: Sequence[Sequence[int]]) -> Sizes:
    """The size of every label, in the order in which they are summed. Raises `Refused` where two operands differ."""
    sizes: Sizes = {}
    for labels, shape in zip(read, shapes, strict=True):
        if len(labels) != len(shape):
            raise Refused(f"an operand of shape {list(shape)} does not have {len(labels)} axes")
        for label, size in zip(labels, shape, strict=True):
            if sizes.setdefault(label, size) == 1:
                sizes[label] = size
            elif size not in (1, sizes[label]):
                raise Refused(
                    f"its operands {' and '.join(str(list(s)) for s in shapes)} do not fit: {sizes[label]} is not {size}"
                )
    return sizes


def _side(env: Lowering, name: str, labels: Labels, shape: Sequence[int]) -> _Side:
    strides: Sizes = {}
    for label, size, stride in zip(labels, shape, strides_of(shape), strict=True):
        strides[label] = strides.get(label, 0) + (stride if size != 1 else 0)
    constant = env.constants.get(name)
    end = end_of(env, name)
    return _Side(name, end.operand, end.row, strides, constant)


def _joined(labels: Sequence[str], sizes: Sizes, sides: Sequence[_Side]) -> list[str]:
    """Join labels that are contiguous in every side; `sizes` gets the new sizes."""
    found: list[str] = []
    for label in (label for label in labels if sizes[label] != 1):
        if found and all(side.along(found[-1]) == side.along(label) * sizes[label] for side in sides):
            sizes[label] *= sizes[found.pop()]
        found.append(label)
    return found


def _calls(
    env: Lowering, function: Any, dtype: np.dtype[Any], a: _Side, b: _Side, y: _Side, made: Labels, sizes: Sizes
) -> list[Call]:
    sizes = dict(sizes)
    over = _joined([label for label in sizes if label not in made], sizes, [a, b])
    kept = _joined(made, sizes, [a, b, y])
    count = {name: prod(sizes[label] for label in labels) for name, labels in (("over", over), ("kept", kept))}
    lanes_of = env.lanes if dtype == np.float32 else 1

    def cost(label: str) -> int:
        """The cost with lanes along a label: vectors multiplied, and elements copied before or after."""
        if not label:
            return count["over"] * count["kept"]
        v = a if a.along(label) else b
        copied = 0 if v.along(label) == 1 or v.constant is not None else prod(sizes[n] for n in sizes if v.along(n))
        written = 0 if y.along(label) == 1 else count["kept"]
        return count["over"] * count["kept"] // sizes[label] * -(-sizes[label] // lanes_of) + copied + written

    wide = [label for label in reversed(kept) if bool(a.along(label)) != bool(b.along(label))]
    lane = min([*wide, ""], key=cost)
    v, s = (a, b) if lane and a.along(lane) else (b, a)
    before: list[Call] = []
    after: list[Call] = []
    rest = [label for label in kept if label != lane]
    if lane and v.along(lane) != 1:
        v, before = _laid_out(env, dtype, v, [n for n in [*rest, *over] if v.along(n)] + [lane], sizes, "operand")
    result = y
    if lane and y.along(lane) != 1:
        result, _ = _scratch(env, y, [*rest, lane], sizes, "result", dtype)
        shape = [sizes[n] for n in [*rest, lane]]
        to, start = ([side.along(n) for n in [*rest, lane]] for side in (y, result))
        after = strided_copy_between(
            end_of(env, y.name), End(result.operand, result.row), dtype, shape, to, start, f"{y.name} laid out"
        )
    tall = max((n for n in rest if s.along(n) and not v.along(n)), key=lambda n: sizes[n], default="")
    outer = [n for n in rest if n != tall]
    inner = over[:-1]
    last = over[-1] if over else ""
    call = Call(
        function,
        (
            result.operand,
            s.operand,
            v.operand,
            Weight(_offsets(outer, sizes, [result, s, v])),
            Weight(_offsets(inner, sizes, [s, v])),
            Rows(),
            result.row,
            s.row,
            v.row,
            prod(sizes[n] for n in outer),
            prod(sizes[n] for n in inner),
            sizes.get(tall, 1),
            sizes.get(last, 1),
            sizes.get(lane, 1),
            result.along(tall),
            s.along(tall),
            s.along(last),
            v.along(last),
        ),
        f"{y.name} = {a.name} · {b.name or 1}",
    )
    return [*before, call, *after]


def _laid_out(
    env: Lowering, dtype: np.dtype[Any], side: _Side, labels: list[str], sizes: Sizes, key: str
) -> tuple[_Side, list[Call]]:
    """A copy of an operand with its labels in this order, the last one contiguous."""
    shape = [sizes[n] for n in labels]
    steps = [side.along(n) for n in labels]
    if side.constant is not None:
        strided = np.lib.stride_tricks.as_strided(
            np.ascontiguousarray(side.constant), shape, [step * dtype.itemsize for step in steps]
        )
        packed = np.ascontiguousarray(strided)
        return replace(side, operand=Weight(packed), strides=dict(zip(labels, strides_of(shape), strict=True))), []
    copy, end = _scratch(env, side, labels, sizes, key, dtype)
    to = strides_of(shape)
    source = end_of(env, side.name)
    return copy, strided_copy_between(end, source, dtype, shape, to, steps, f"{side.name} laid out", Rows(of=side.name))


def _scratch(env: Lowering, side: _Side, labels: list[str], sizes: Sizes, key: str, dtype: np.dtype[Any]) -> tuple[_Side, End]:
    shape = [sizes[n] for n in labels]
    operand = Scratch(key, per_row=prod(shape) * dtype.itemsize // 4, of=side.name)
    row = prod(shape) if env.per_row(side.name) else 0
    return replace(side, operand=operand, row=row, strides=dict(zip(labels, strides_of(shape), strict=True))), End(operand, row)


def _offsets(labels: Sequence[str], sizes: Sizes, sides: Sequence[_Side]) -> Array:
    """The offset of each side for every index over `labels`."""
    found = np.zeros((1, len(sides)), np.int64)
    for label in labels:
        steps = np.arange(sizes[label])[:, None] * np.array([side.along(label) for side in sides])
        found = (found[:, None] + steps).reshape(-1, len(sides))
    return found.astype(np.int32)


def _as_linear(node: Node, frames: Frames) -> Node | None:
    """The product as a `Linear`, if one operand is constant and the axes are in the right order; else None."""
    if len(node.inputs) != 2 or frames.specs[node.inputs[0]].dtype != np.float32:
        return None
    labels = node.attributes["labels"]
    made = labels[2]
    for x, w in ((0, 1), (1, 0)):
        given, weights = labels[x], frames.constants.get(node.inputs[w])
        if weights is None or frames.rows(node.inputs[w]) or len(set(labels[w])) < len(labels[w]):
            continue
        over = tuple(label for label in given if label not in made)
        new = tuple(label for label in made if label not in given)
        before = given[: len(given) - len(over)]
        sizes = dict(zip(labels[w], node.shapes[w], strict=True))
        extra = tuple(label for label in labels[w] if label not in over and label not in new)
        fits = all(sizes.get(label) == n for label, n in zip(given, node.shapes[x], strict=True) if label in over)
        if before + over != given or before + new != made or any(sizes[n] != 1 for n in extra) or not over or not fits:
            continue
        order = [labels[w].index(label) for label in (*extra, *over, *new)]
        if set(over) | set(new) | set(extra) != set(labels[w]):
            continue
        matrix = weights.transpose(order).reshape(prod(sizes[n] for n in over), -1)
        shape = (*(n for label, n in zip(given, node.shapes[x], strict=True) if label in before), len(matrix))
        attributes = {"W": np.ascontiguousarray(matrix, np.float32), "B": None}
        return Node("Linear", node.name, (node.inputs[x],), node.outputs, attributes, domain=OURS, shapes=(shape,))
    return None
