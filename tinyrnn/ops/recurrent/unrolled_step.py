"""The step of an unrolled loop: found by aligning two successive steps, then verified in all others.

The alignment shows which values are carried: what a node of one step reads from the step before,
and its counterpart one step later reads from that step, is one carried value. Steps are compared exactly, node by
node, so that a loop is found only if it computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tinyrnn.graph.ir import Node
from tinyrnn.ops.recurrent.unrolled_values import FIXED, Levels, Values

FIRST = 1
"""the step that represents all: the one before may look different, since exporters fold constants"""

ATTEMPTS = 8
"""most alignments that are tried, each without the node that the previous attempt did not find in all steps"""


class Ref(NamedTuple):
    """An input of a node: 'fixed' (a name), 'slice' (a family), 'carried' (an index), 'made' (a name in step FIRST)."""

    kind: str
    of: Any


@dataclass
class Carried:
    start: str
    """its value before step FIRST"""
    end: Ref


@dataclass
class Step:
    """The repeated step. images: for each step, name of a value in step FIRST → its name in that step."""

    values: Values
    steps: Levels
    nodes: list[Node]
    reads: dict[int, tuple[Ref, ...]]
    carried: list[Carried]
    images: list[dict[str, str]] = field(default_factory=list)

    def makers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs if name}

    def at(self, ref: Ref, step: int) -> str | None:
        """The name of the value that `ref` denotes in a step after the first."""
        if ref.kind == "fixed":
            return str(ref.of)
        if ref.kind == "slice":
            return self.steps.slices.get((ref.of, step))
        if ref.kind == "made":
            return self.images[step].get(ref.of)
        held = self.carried[ref.of]
        return held.start if step == FIRST else self.at(held.end, step - 1)

    def follow(self, node: Node, step: int, inputs: Iterable[str | None]) -> bool:
        """Record the images of a node's outputs in a step, if a node computes them from these inputs; returns whether."""
        given = list(inputs)
        like = None if None in given else self.values.like(node, [name for name in given if name is not None])
        if like is None:
            return False
        pairs = zip(node.outputs, like.outputs, strict=False)
        self.images[step] |= {name: image for name, image in pairs if name and image}
        return True

    def copy(self) -> Step:
        carried, images = [Carried(held.start, held.end) for held in self.carried], [dict(each) for each in self.images]
        return Step(self.values, self.steps, list(self.nodes), dict(self.reads), carried, images)

    def needed(self) -> set[int]:
        """The ids of the nodes on which carried values depend."""
        makers, found = self.makers(), set[int]()
        waiting = [held.end for held in self.carried]
        while waiting:
            ref = waiting.pop()
            if ref.kind == "made" and id(makers[ref.of]) not in found:
                found.add(id(makers[ref.of]))
                waiting += self.reads[id(makers[ref.of])]
        return found

    def turning(self) -> set[str]:
        """The values that depend on carried ones."""
        found: set[str] = set()
        for node in self.nodes:
            if any(ref.kind == "carried" or (ref.kind == "made" and ref.of in found) for ref in self.reads[id(node)]):
                found |= {name for name in node.outputs if name}
        return found

    def keep(self, kept: set[int]) -> None:
        """Remove nodes, and carried values that are then unused."""
        self.nodes = [node for node in self.nodes if id(node) in kept]
        read = {ref.of for node in self.nodes for ref in self.reads[id(node)] if ref.kind == "carried"}
        read |= {held.end.of for held in self.carried if held.end.kind == "carried"}
        places = {old: new for new, old in enumerate(sorted(read))}
        self.carried = [held for place, held in enumerate(self.carried) if place in read]

        def moved(ref: Ref) -> Ref:
            return Ref("carried", places[ref.of]) if ref.kind == "carried" else ref

        self.reads = {id(node): tuple(moved(ref) for ref in self.reads[id(node)]) for node in self.nodes}
        for held in self.carried:
            held.end = moved(held.end)


def find_step(values: Values, steps: Levels) -> Step | None:
    """The step of which all later ones are copies, if there is one that carries a value; else None."""
    if steps.count < FIRST + 2:
        return None
    refused: set[int] = set()
    for _ in range(ATTEMPTS):
        step = _aligned(values, steps, refused)
        if step is None:
            return None
        wrong = _verify(step)
        if not wrong:
            return step
        refused |= wrong
    return None


class _Signatures:
    """Signatures of a step's nodes: by their inputs within the step, and by their uses in it."""

    def __init__(self, values: Values, steps: Levels) -> None:
        self.values, self.steps = values, steps
        self.numbers: dict[Any, int] = {}
        self.of_value: dict[str, int] = {}
        self.of_node: dict[int, int] = {}
        self.used: dict[int, int] = {}

    def number(self, key: Any) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def _input(self, name: str, step: int) -> Any:
        level = self.steps.level.get(name, FIXED)
        if not name or level == FIXED:
            return "fixed", name
        if level < step:
            return "before", self.values.spec(name)
        return ("slice", self.steps.family[name]) if name in self.steps.family else ("made", self.of_value[name])

    def look(self, step: int) -> None:
        nodes = self.steps.nodes[step]
        users: dict[str, list[tuple[int, Node]]] = {}
        for node in nodes:
            inputs = self.values.inputs(node)
            specs = tuple(self.values.spec(name) if name else None for name in node.outputs)
            own = self.number((self.values.kind(node), tuple(self._input(i, step) for i in inputs), specs))
            self.of_node[id(node)] = own
            self.of_value |= {name: self.number((own, place)) for place, name in enumerate(node.outputs) if name}
            for place, name in enumerate(inputs):
                users.setdefault(name, []).append((place, node))
        for node in reversed(nodes):
            uses = sorted(
                (self.used[id(user)], place) for name in filter(None, node.outputs) for place, user in users.get(name, ())
            )
            self.used[id(node)] = self.number((self.of_node[id(node)], tuple(uses)))


def _pairs(values: Values, steps: Levels) -> Iterator[tuple[Node, Node]]:
    """Pairs of nodes of step FIRST and of the next with equal signatures: with uses, then without, then by order."""
    looks = _Signatures(values, steps)
    looks.look(FIRST)
    looks.look(FIRST + 1)
    left = [steps.nodes[FIRST], steps.nodes[FIRST + 1]]
    for by in (looks.used, looks.of_node):
        groups: tuple[dict[int, list[Node]], dict[int, list[Node]]] = ({}, {})
        for nodes, group in zip(left, groups, strict=True):
            for node in nodes:
                group.setdefault(by[id(node)], []).append(node)
        done: set[int] = set()
        for key, nodes in groups[0].items():
            for a, b in zip(nodes, groups[1].get(key, ()), strict=False):
                done |= {id(a), id(b)}
                yield a, b
        left = [[node for node in nodes if id(node) not in done] for nodes in left]


def _aligned(values: Values, steps: Levels, refused: set[int]) -> Step | None:
    found = {id(a): b for a, b in _pairs(values, steps) if id(a) not in refused}
    images: dict[str, str] = {}
    places: dict[tuple[str, str], int] = {}
    nodes, reads = list[Node](), dict[int, tuple[Ref, ...]]()

    def ref(name: str, other: str) -> Ref | None:
        level = steps.level.get(name, FIXED)
        if not name or level == FIXED:
            return Ref("fixed", name) if name == other else None
        if level < FIRST:
            fits = steps.level.get(other, FIXED) == FIRST and values.spec(other) == values.spec(name)
            return Ref("carried", places.setdefault((name, other), len(places))) if fits else None
        if name in steps.family:
            return Ref("slice", steps.family[name])
        return Ref("made", name) if images.get(name) == other else None

    for node in steps.nodes[FIRST]:
        like = found.get(id(node))
        if like is None:
            continue
        refs = [ref(a, b) for a, b in zip(values.inputs(node), values.inputs(like), strict=True)]
        if None not in refs:
            nodes.append(node)
            reads[id(node)] = tuple(each for each in refs if each is not None)
            images |= dict(zip(node.outputs, like.outputs, strict=False))
    if steps.count == FIRST + 2:
        _add_last(values, steps, nodes, reads, places)
    while True:
        made = {name for node in nodes for name in node.outputs}
        going = {place for (_, end), place in places.items() if end in made or end in steps.family}
        kept, known = list[Node](), set[str]()
        for node in nodes:
            if all(
                r.of in known if r.kind == "made" else r.of in going if r.kind == "carried" else True for r in reads[id(node)]
            ):
                kept.append(node)
                known |= set(node.outputs)
        if len(kept) == len(nodes):
            break
        nodes = kept
    carried = [
        Carried(start, Ref("slice", steps.family[end]) if end in steps.family else Ref("made", end)) for start, end in places
    ]
    step = Step(values, steps, nodes, reads, carried)
    step.keep({id(node) for node in nodes})
    return step if step.carried else None


def _add_last(
    values: Values, steps: Levels, nodes: list[Node], reads: dict[int, tuple[Ref, ...]], places: dict[tuple[str, str], int]
) -> None:
    """Add the nodes that the last of three steps lacks, as only a fourth step would need their results."""
    starts = {start: place for (start, _), place in reversed(places.items())}
    known = {name for node in nodes for name in node.outputs}
    for node in steps.nodes[FIRST]:
        refs = [
            Ref("fixed", name)
            if not name or steps.level.get(name, FIXED) == FIXED
            else Ref("made", name)
            if name in known
            else Ref("slice", steps.family[name])
            if name in steps.family and steps.level[name] == FIRST
            else Ref("carried", starts[name])
            if name in starts
            else None
            for name in values.inputs(node)
        ]
        if id(node) not in reads and None not in refs:
            nodes.append(node)
            reads[id(node)] = tuple(each for each in refs if each is not None)
            known |= set(node.outputs)


def _verify(step: Step) -> set[int]:
    """Verify the step in all later ones. Returns the id of the first node that differs in one of them, or None.

    Unused nodes may be missing from the last steps. Other nodes that not every step has are left out.
    """
    count, needed = step.steps.count, step.needed()
    everywhere, first_missing = {id(node) for node in step.nodes}, set[int]()
    step.images = [{} for _ in range(count)]
    step.images[FIRST] = {name: name for node in step.nodes for name in node.outputs if name}
    for t in range(FIRST + 1, count):
        for node in step.nodes:
            if not step.follow(node, t, (step.at(ref, t) for ref in step.reads[id(node)])):
                everywhere.discard(id(node))
                first_missing = first_missing or ({id(node)} & needed)
    outside, makers = read_elsewhere(step), step.makers()
    if any(name not in step.images[t] for name in outside if id(makers[name]) in needed for t in range(FIRST, count - 1)):
        return first_missing
    kept, known = set[int](), set[str]()
    for node in step.nodes:
        if id(node) in needed or (
            id(node) in everywhere and all(r.kind != "made" or r.of in known for r in step.reads[id(node)])
        ):
            kept.add(id(node))
            known |= set(node.outputs)
    step.keep(kept)
    return set()


def read_elsewhere(step: Step) -> set[str]:
    """The values of the step that nodes other than its copies read, in any step."""
    values, names = step.values, {name for node in step.nodes for name in node.outputs if name}
    copies = {image for images in step.images for name, image in images.items() if name in names}
    makers = {id(maker) for name in copies if (maker := values.makers.get(name)) is not None}
    read = {name for node in values.nodes if id(node) not in makers for name in values.inputs(node)}
    read |= {values.name(name) for name in values.graph.outputs}
    return {name for images in step.images for name, image in images.items() if image in read}
