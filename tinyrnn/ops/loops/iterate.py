"""`Iterate`, which Loop and Scan become: a body that is repeated, along an axis of a frame or along time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import Body, Call, Close, Iteration, Lowering, Open, Operand, Started, State, Value
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import REQUIRED, ROW_BY_ROW, Axis, Frames, Op, Refused, op_of, register
from tinyrnn.lanes import f32, i32, i64
from tinyrnn.ops.loops.control_flow import ControlFlow, by_row, copies, framed, over_rows, same_axes
from tinyrnn.ops.loops.over_steps import Parts, frames_of
from tinyrnn.ops.movement.strided_copy import strided_copy, strides_of
from tinyrnn.ops.random import Random

LONGEST = 1 << 24
"""most iterations of a loop whose condition or trip count is known at run time only"""

Block = Call | Open | Close | Body


@register
class IterationNumber(Op):
    """The number step · i + start in iteration i: what an induction variable of a Loop becomes."""

    name = "Iteration"
    inputs = ()
    internal = True
    attributes: ClassVar = {"step": REQUIRED, "start": REQUIRED, "over_time": False}
    foldable = False

    def frame(self, node: Node, frames: Frames) -> Node:
        return frames.node(node)

    def lower(self, node: Node, env: Lowering) -> list[Call]:
        output = node.outputs[0]
        words: dict[Any, Callable[[int], Any]] = {np.dtype(np.int64): i64, np.dtype(np.int32): i32, np.dtype(np.float32): f32}
        dtype, step, start = env.specs[output].dtype, node.attributes["step"], node.attributes["start"]
        if dtype not in words:
            raise Refused(f"it counts in {dtype}; supported are int64, int32 and float32")
        word, elements = words[dtype].__name__, env.specs[output].elements
        text = f"    for j in range({elements}):\n        put({word}(y), j, i * {step} + {start})\n"
        if not node.attributes["over_time"]:
            return [Call(f"def KERNEL(y, i):\n{text}", (Value(output), Iteration()))]
        count = State(f"{node.name}.count", np.zeros(1, np.int32))
        text = f"def KERNEL(y, count):\n    i = get(i32(count), 0)\n{text}    put(i32(count), 0, i + 1)\n"
        return [Call(text, (Value(output), count))]


@register
class Iterate(ControlFlow):
    """A loop. Inputs: trip count or "", condition or "", the initial carried values, the values that it scans.

    With `over_time` each row of a call is one iteration, and the inputs are the carried values alone. With `rerolled` the file
    has the iterations written out one by one, so that it is less certain which axis is time.
    """

    name = "Iterate"
    inputs = ("X*",)
    outputs = ("Y*",)
    internal = True
    attributes: ClassVar = {
        "body": REQUIRED,
        "carries": REQUIRED,
        "trip": None,
        "tests": False,
        "scanned": (),
        "stacked": (),
        "over_time": False,
        "backwards": False,
        "passed": (),
        "rerolled": False,
    }

    def parts(self, node: Node) -> Parts:
        body, n, t = node.attributes["body"], node.attributes["carries"], int(node.attributes["tests"])
        scanned, first = len(node.attributes["scanned"]), 0 if node.attributes["over_time"] else 2
        carried = list(
            zip(node.inputs[first : first + n], body.inputs[t : t + n], body.outputs[t : t + n], node.outputs[:n], strict=True)
        )
        stacked = list(zip(body.outputs[t + n :], node.outputs[n:], strict=True))
        return body.inputs[:t], carried, body.inputs[t + n : t + n + scanned], stacked

    def sources(self, node: Node) -> list[str]:
        n = 2 + node.attributes["carries"]
        return list(node.inputs[n : n + len(node.attributes["scanned"])])

    def arguments(self, node: Node) -> int:
        if node.attributes["over_time"]:
            return int(node.attributes["carries"])
        return 2 + int(node.attributes["carries"]) + len(node.attributes["scanned"])

    def prune(self, node: Node) -> None:
        if node.attributes["over_time"]:
            return
        body, n, t = node.attributes["body"], node.attributes["carries"], int(node.attributes["tests"])
        kept = [place for place, name in enumerate(node.outputs) if name or place < n]
        node.attributes["stacked"] = [node.attributes["stacked"][place - n] for place in kept if place >= n]
        body.outputs = [*body.outputs[:t], *(body.outputs[t + place] for place in kept)]
        node.outputs = tuple(node.outputs[place] for place in kept)

    def iteration_axes(self, node: Node, specs: dict[str, Spec]) -> list[Axis]:
        """The axes along which the loop scans its inputs and stacks its outputs."""
        stacked = [output for _, output in self.parts(node)[3]]
        pairs = [*zip(self.sources(node), node.attributes["scanned"]), *zip(stacked, node.attributes["stacked"])]  # noqa: B905
        return [(name, axis % len(specs[name].shape)) for name, (axis, _) in pairs if name]

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        yield from super().links(node, specs)
        _, carried, slices, stacked = self.parts(node)
        for before, start, end, after in carried:
            yield from same_axes(specs, start, before)
            yield from same_axes(specs, start, end)
            if after:
                yield from same_axes(specs, start, after)
        iterations = self.iteration_axes(node, specs)
        yield from ((iterations[0], axis) for axis in iterations[1:])
        axes = dict(iterations)
        for whole, part in [*zip(self.sources(node), slices, strict=True), *((y, made) for made, y in stacked if y)]:
            rest = [axis for axis in range(len(specs[whole].shape)) if axis != axes[whole]]
            yield from (((whole, axis), (part, place)) for place, axis in enumerate(rest))

    def row_axes(self, node: Node) -> tuple[Axis, Axis | None] | None:
        return (self._iterated(node)[0], None) if self.sources(node) and not node.attributes["rerolled"] else None

    def may_be_time(self, node: Node) -> list[Axis]:
        return self._iterated(node) if node.attributes["rerolled"] else []

    def misplaced(self, node: Node, specs: Mapping[str, Spec], roles: Mapping[Axis, str]) -> bool:
        """Whether a rerolled loop lies within frames: time is another axis, which each of its iterations may run along."""
        if not node.attributes["rerolled"] or any("time" in roles.get(axis, "") for axis in self._iterated(node)):
            return False
        inner = {name for each in self.body_nodes(node) for name in (*each.inputs, *each.outputs) if name in specs}
        return any("time" in roles.get((name, a), "") for name in inner for a in range(len(specs[name].shape)))

    def _iterated(self, node: Node) -> list[Axis]:
        return [(name, axis) for name, (axis, _) in zip(self.sources(node), node.attributes["scanned"], strict=True)]

    def starts_from(self, node: Node) -> list[str]:
        return [before for before, _, _, _ in self.parts(node)[1]]

    def carried(self, node: Node) -> list[tuple[str, str]]:
        own = [(before, after) for before, _, _, after in self.parts(node)[1] if after and self._over_time(node)]
        return own + super().carried(node)

    def _over_time(self, node: Node) -> bool:
        return bool(node.attributes["over_time"] or node.attributes["scanned"])

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        roles = {frames.role(*axis) for axis in self.iteration_axes(node, frames.specs)}
        if roles - {None, "time"}:
            raise Refused("its iterations are along the batch axis")
        if "time" in roles:
            return frames_of(node, self.parts(node), self.sources(node), self.attributes, frames)
        pieces = {name: axis for name, axis in self.iteration_axes(node, frames.specs)}
        scanned = [
            (frames.axis(name, pieces[name]), back)
            for name, (_, back) in zip(self.sources(node), node.attributes["scanned"], strict=True)
        ]
        stacked = [
            (frames.axis(name, pieces[name]), back)
            for (_, name), (_, back) in zip(self.parts(node)[3], node.attributes["stacked"], strict=True)
        ]
        trip = node.attributes["trip"]
        if trip is None and pieces:
            name, axis = next(iter(pieces.items()))
            trip = frames.specs[name].sizes[axis]
        body = framed(node.attributes["body"], frames)
        return frames.node(node, {**node.attributes, "body": body, "trip": trip, "scanned": scanned, "stacked": stacked})

    def forbids_stream(self, node: Node) -> str | None:
        return "it goes through the sequence from its end" if node.attributes["backwards"] else super().forbids_stream(node)

    def row_by_row(self, node: Node, per_row: Callable[[str], bool]) -> bool:
        if node.attributes["over_time"]:
            return True
        counts = [name for each in self.body_nodes(node) if each.op == IterationNumber.name for name in each.outputs]
        return any(per_row(name) for name in (*node.inputs[:2], *self.parts(node)[0], *counts) if name)

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        return super().multiply_adds(node, specs) * (node.attributes["trip"] or 1)

    def index_bound(self, node: Node, env: Lowering) -> tuple[str, int, int] | None:
        return (node.inputs[0], -LONGEST, LONGEST) if not node.attributes["over_time"] and node.inputs[0] else None

    def lower(self, node: Node, env: Lowering) -> list[Block]:
        if node.attributes["over_time"]:
            return self._lower_over_time(node, env)
        self._check_states(node, env)
        body, trip = node.attributes["body"], node.attributes["trip"]
        conditions, carried, slices, stacked = self.parts(node)
        limit = node.inputs[0]
        blocks: list[Block] = [*copies(env, [(c, node.inputs[1]) for c in conditions])]
        blocks += copies(env, [(start, before) for before, start, _, _ in carried])
        if trip is not None:
            head = Open(f"for ITERATION in range({trip}):")
        elif limit:
            head = Open(f"for ITERATION in range(min(max(get(i64({{}}), 0), 0), {LONGEST})):", (Value(limit),))
        else:
            head = Open(f"for ITERATION in range({LONGEST}):")
        blocks.append(head)
        for condition in conditions:
            blocks += [Open("if get(u8({}), 0) == 0:", (Value(condition),)), Close("break")]
        for source, part, (axis, back) in zip(self.sources(node), slices, node.attributes["scanned"], strict=True):
            blocks += _piece(env, source, part, axis, back, True)
        blocks.append(Body(body))
        for (made, whole), (axis, back) in zip(stacked, node.attributes["stacked"], strict=True):
            blocks += _piece(env, whole, made, axis, back, False)
        blocks += copies(env, [(c, again) for c, again in zip(conditions, body.outputs, strict=False)])
        blocks += carry_over(env, body, [(start, end) for _, start, end, _ in carried])
        blocks.append(Close())
        blocks += copies(env, [(after, start) for _, start, _, after in carried])
        rows = next((name for name in node.outputs if name), "")
        alone = node.attributes.get(ROW_BY_ROW) or self.row_by_row(node, env.per_row)
        return by_row(blocks, rows) if alone else blocks

    def _check_states(self, node: Node, env: Lowering) -> None:
        """Raise `Refused` where the iterations of a loop within a frame would share the state of one of its nodes."""
        for each in self.body_nodes(node):
            if isinstance(op_of(each), Random):  # one sequence of numbers for all iterations
                continue
            for call in op_of(each).lower(each, env):
                if isinstance(call, Call) and any(isinstance(operand, State) for operand in call.operands):
                    raise Refused(
                        f"in its body, node {each.name!r} ({each.op}) keeps a state from frame to frame, which all iterations "
                        f"would share; supported are loops over time, and loops without such a state. Unroll it before the export"
                    )

    def _lower_over_time(self, node: Node, env: Lowering) -> list[Block]:
        body, n = node.attributes["body"], node.attributes["carries"]
        before: list[Block] = []
        after: list[Block] = []
        pairs = list(zip(node.inputs[:n], body.inputs, body.outputs, node.outputs, strict=False))[:n]
        for initial, start, _, output in pairs:
            spec = env.specs[start]
            fetch = copies(env, [(start, initial)])
            if not env.carries(initial, output):
                first = env.constants.get(initial)
                kept = State(f"{node.name}.{start}", np.zeros(spec.sizes, spec.dtype) if first is None else first)
                keep = [_with(call, Value(initial), kept) for call in fetch]
                put = [_with(_with(call, Value(start), kept), Value(initial), Value(start)) for call in fetch]
                if first is None:
                    begin = [_with(call, Value(start), kept) for call in fetch]
                    before += [Open("if {} == 0:", (Started(),)), *begin, Close()]
                before += keep
                after += put
            else:
                before += fetch
            after += copies(env, [(output, start)])
        iteration: list[Block] = [Body(body), *copies(env, node.attributes["passed"])]
        iteration += carry_over(env, body, [(start, end) for _, start, end, _ in pairs])
        rows = next(name for name in (*node.outputs, *node.inputs) if name and env.per_row(name))
        return [*before, *by_row(iteration, rows, node.attributes["backwards"]), *after]


def _with(call: Call, old: Operand, new: Operand) -> Call:
    return replace(call, operands=tuple(new if operand == old else operand for operand in call.operands))


def carry_over(env: Lowering, body: Graph, pairs: Sequence[tuple[str, str]]) -> list[Call]:
    """Calls that copy each carried value from the end of an iteration to the start of the next, as if all at once."""
    aliases = {n.outputs[0]: source for n in body.nodes if (source := op_of(n).alias(n)) is not None}
    starts = {start for start, _ in pairs}

    def root(name: str) -> str:
        while name in aliases:
            name = aliases[name]
        return name

    aside, changed = [], []
    for start, end in pairs:
        if root(end) == start:
            continue
        if root(end) in starts:
            env.specs[f"{start}.next"] = env.specs[start]
            aside.append((f"{start}.next", end))
            end = f"{start}.next"
        changed.append((start, end))
    return copies(env, [*aside, *changed])


def _piece(env: Lowering, whole: str, part: str, axis: int, back: bool, take: bool) -> list[Call]:
    """Calls that copy the slice of this iteration from a scanned value (`take`), or into a stacked one."""
    shape = list(env.specs[whole].sizes)
    strides = strides_of(shape)
    iterations, stride = shape.pop(axis), strides.pop(axis)
    inside = Value(whole, (iterations - 1) * stride if back else 0, -stride if back else stride)
    output, source = (part, whole) if take else (whole, part)
    to, start = (strides_of(shape), strides) if take else (strides, strides_of(shape))
    calls = []
    for call in strided_copy(env, output, source, shape, to, start, note=f"{output} from {source}"):
        operands = tuple(inside if operand == Value(whole) else operand for operand in call.operands)
        calls.append(over_rows(Call(call.kernel, operands, call.note), output))
    return calls
