"""The initial values of an unrolled loop, found from its first step, in which exporters fold constants."""

from __future__ import annotations

from itertools import product

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.limits import UNSOUND
from tinyrnn.graph.op import Array, op_of
from tinyrnn.ops.recurrent.unrolled_step import FIRST, Ref, Step
from tinyrnn.ops.recurrent.unrolled_values import FIXED, SYMMETRIC

START = FIRST - 1

SCALES = (1.0, 1.0, 0.1, 10.0, 100.0, 1e4)
"""scales of the random numbers for tests of the first step: where one saturates, another shows a difference"""

MOST_GUESSES = 16
"""most combinations of zeros and ones that are tried for initial values that the first step does not show"""


def find_start(step: Step) -> list[str] | None:
    """(values carried into the first step, its images); None if the first step differs from the others."""
    seen, images = _seen(step)
    unknown = [place for place in range(len(step.carried)) if place not in seen]
    for numbers in list(product((0, 1), repeat=min(len(unknown), 4)))[:MOST_GUESSES]:
        filled = [*numbers, *(0 for _ in unknown[len(numbers) :])]
        guesses = {place: _constant(step, place, n) for place, n in zip(unknown, filled, strict=True)}
        starts = [seen.get(place) or guesses[place] for place in range(len(step.carried))]
        if _starts_with(step, starts, dict(images)):
            return starts
    return None


def _starts_with(step: Step, starts: list[str], images: dict[str, str]) -> bool:
    """Whether the first step with these initial values equals the others; folded nodes are compared by their values."""
    ends = {held.end.of for held in step.carried}
    while assumed := _follow(step, starts, images):
        wrong = _wrong(step, starts, assumed)
        if wrong & ends or not wrong <= images.keys():
            return False
        if not wrong:
            return True
        images = {name: image for name, image in images.items() if name not in wrong}
    return all(_at_start(step, held.end, starts) == held.start for held in step.carried)


def _constant(step: Step, place: int, number: int) -> str:
    """The name of a constant filled with one number, in the shape of a carried value."""
    graph, start = step.values.graph, step.carried[place].start
    spec, name = step.values.spec(start), f"{start}.from.{number}"
    graph.constants[name], graph.specs[name] = np.full(spec.sizes, number, spec.dtype), spec
    return name


def starts_of(step: Step) -> dict[int, str]:
    """Index of a carried value → its initial value, where the first step shows it."""
    return _seen(step)[0]


def _seen(step: Step) -> tuple[dict[int, str], dict[str, str]]:
    """(initial values as nodes of the first step read them, presumed images of the step's values in the first step)."""
    values, makers, found, images = step.values, step.makers(), dict[int, str](), dict[str, str]()
    waiting = [(held.end, held.start) for held in step.carried]
    nodes: dict[int, list[Node]] = {}
    for node in step.steps.nodes[START]:
        nodes.setdefault(values.kind(node), []).append(node)

    def follow() -> None:
        while waiting:
            ref, name = waiting.pop()
            fixed = ref.kind == "carried" and step.steps.level.get(name, FIXED) == FIXED
            if fixed and (fitting := _fitting(step, name, values.spec(step.carried[ref.of].start))):
                found.setdefault(ref.of, fitting)
            if ref.kind == "made" and ref.of not in images:
                images[ref.of] = name
                node, other = makers[ref.of], values.makers.get(name)
                if other is not None and values.kind(other) == values.kind(node):
                    waiting.extend(_paired(step, node, other))

    def fits(ref: Ref, name: str) -> bool:
        known = images.get(ref.of) if ref.kind == "made" else None if ref.kind == "carried" else step.at(ref, START)
        return name == known if known is not None else step.steps.level.get(name, FIXED) == FIXED

    def first_of(node: Node) -> Node | None:
        """The only candidate for `node` in the first step: it reads known values, and constants for the rest."""
        reads = step.reads[id(node)]
        if not any(ref.kind == "slice" or (ref.kind == "made" and ref.of in images) for ref in reads):
            return None
        able = [n for n in nodes.get(values.kind(node), ()) if all(map(fits, reads, values.inputs(n)))]
        return able[0] if len(able) == 1 else None

    follow()
    for node in step.nodes:
        if (first := first_of(node)) is not None:
            waiting += [(Ref("made", a), b) for a, b in zip(node.outputs, first.outputs, strict=False) if a and b]
            follow()
    return found, images


def _paired(step: Step, node: Node, other: Node) -> list[tuple[Ref, str]]:
    """Pairs of what a node of the step and its counterpart in the first step read; operands of a sum in the better order."""
    values, makers = step.values, step.makers()

    def fits(ref: Ref, name: str) -> bool:
        if ref.kind == "made":
            maker = values.makers.get(name)
            return maker is not None and values.kind(maker) == values.kind(makers[ref.of])
        return step.steps.level.get(name, FIXED) == FIXED if ref.kind == "carried" else step.at(ref, START) == name

    reads, inputs = step.reads[id(node)], values.inputs(other)
    orders = [inputs, inputs[::-1]] if node.op in SYMMETRIC else [inputs]
    best = max(orders, key=lambda names: sum(map(fits, reads, names)))
    return list(zip(reads, best, strict=True))


def _fitting(step: Step, name: str, spec: Spec) -> str:
    """The value in the shape of the carried one; '' where it does not fit."""
    graph, own = step.values.graph, step.values.spec(name)
    if own == spec:
        return name
    array = graph.constants.get(name)
    if array is None or own.dtype != spec.dtype:
        return ""
    try:
        whole = np.broadcast_to(array, spec.sizes)
    except ValueError:
        return ""
    made = graph.fresh(f"{name}.wide")
    graph.constants[made], graph.specs[made] = np.ascontiguousarray(whole), spec
    return made


def _at_start(step: Step, ref: Ref, starts: list[str]) -> str | None:
    return starts[ref.of] if ref.kind == "carried" else step.at(ref, START)


def _follow(step: Step, starts: list[str], images: dict[str, str]) -> set[str]:
    """Find the step's nodes in the first step. Returns the values whose images are assumed."""
    step.images[START], assumed = {}, set[str]()
    images = images | {held.end.of: held.start for held in step.carried if held.end.kind == "made"}
    for node in step.nodes:
        step.follow(node, START, [_at_start(step, ref, starts) for ref in step.reads[id(node)]])
        for name in node.outputs:
            if name in images and step.images[START].get(name) != images[name]:
                step.images[START][name] = images[name]
                assumed.add(name)
    return assumed


def _wrong(step: Step, starts: list[str], assumed: set[str]) -> set[str]:
    """The assumed images that differ from what the step computes from these initial values, tested with random numbers."""
    try:
        return set().union(*(_differing(step, starts, assumed, scale) for scale in SCALES))
    except UNSOUND:
        return assumed


def _differing(step: Step, starts: list[str], assumed: set[str], scale: float) -> set[str]:
    known, made = _Numbers(step, scale), dict[str, Array]()
    held = [known.of(name) for name in starts]

    def read(ref: Ref) -> Array | None:
        if ref.kind == "carried":
            return held[int(ref.of)]
        if ref.kind == "made":
            return made[str(ref.of)]
        name = step.at(ref, START)
        return None if not name else known.of(name)

    for node in step.nodes:
        results = op_of(node).reference(node, [read(ref) for ref in step.reads[id(node)]])
        made |= dict(zip(node.outputs, results, strict=False))
    pairs = {name: (made[name], known.of(step.images[START][name])) for name in assumed}
    return {
        name
        for name, (a, b) in pairs.items()
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
    }


class _Numbers:
    """Values of the graph, computed with random numbers for its inputs and for the slices of the first step."""

    def __init__(self, step: Step, scale: float) -> None:
        self.step, self.scale, self.rng = step, scale, np.random.default_rng(2)
        self.known: dict[str, Array] = {}

    def of(self, name: str) -> Array:
        values = self.step.values
        waiting = [name]
        while waiting:
            one = waiting[-1]
            node = values.makers.get(one)
            if one in self.known:
                waiting.pop()
            elif one in values.graph.constants:
                self.known[one] = values.graph.constants[one]
            elif node is None or one in self.step.steps.family:
                self.known[one] = self._drawn(values.spec(one))
            elif missing := [i for i in values.inputs(node) if i and i not in self.known]:
                waiting += missing
            else:
                arrays = [self.known[i] if i else None for i in values.inputs(node)]
                results = op_of(node).reference(node, arrays)
                self.known |= {made: a for made, a in zip(node.outputs, results, strict=False) if made}
        return self.known[name]

    def _drawn(self, spec: Spec) -> Array:
        if spec.dtype.kind in "biu":
            return self.rng.integers(0, 2, spec.sizes).astype(spec.dtype)
        return self.scale * self.rng.standard_normal(spec.sizes)
