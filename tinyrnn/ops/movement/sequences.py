"""Sequences (lists of tensors), which TorchScript loops fill: replaced by tensors, from their making to their use.

A list is known by its parts: single tensors, and all slices of one tensor. What a Loop appends to a list becomes one of its scan
outputs; what it reads from a list by the iteration number becomes a slice of a tensor; the last elements of a list that it fills,
and a list that keeps its length, become values that it carries. No list is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.ir import Graph, Node, refresh_captures
from tinyrnn.graph.op import OURS, before_shapes
from tinyrnn.ops.loops.trip_count import InductionVariables
from tinyrnn.ops.movement.restack import Restack

WRITE = "supported are lists that are filled by append, split, read by number and stacked: write torch.stack(list, dim)"
OF_LISTS = (
    "SequenceEmpty",
    "SequenceConstruct",
    "SequenceInsert",
    "SequenceErase",
    "SequenceAt",
    "SequenceLength",
    "SplitToSequence",
    "ConcatFromSequence",
)
LAST = (1 << 63) - 1


@dataclass(frozen=True)
class One:
    """A single tensor."""

    name: str


@dataclass(frozen=True)
class Slices:
    """All slices of a tensor along an axis; if `kept`, the axis stays with length 1."""

    whole: str
    axis: int
    kept: bool


@dataclass(frozen=True)
class Past:
    """In the body of a Loop: the elements of the list that it fills at the start of the iteration."""

    name: str


Part = One | Slices | Past
Parts = tuple[Part, ...]


@dataclass
class _Filled:
    """A list that a Loop fills: one more element, or several, in each iteration."""

    initial: Parts
    front: bool
    """whether new elements come first"""
    induction: InductionVariables
    registers: dict[int, str] = field(default_factory=dict)
    """the j-th newest element, 1 the newest, when an iteration begins → its name"""


class _Lists:
    """The lists of a graph, and its nodes without them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.taken = {*graph.inputs, *graph.constants, *graph.every_name()}
        self.known: dict[str, Parts] = {}
        self.filled: dict[str, _Filled] = {}
        self.nodes: list[Node] = []
        """the new nodes of the current graph"""
        rules: tuple[Callable[[Node], None], ...] = (
            lambda node: self.note(node, ()),
            lambda node: self.note(node, tuple(One(name) for name in node.inputs)),
            self.insert,
            self.erase,
            self.at,
            self.length,
            self.split,
            self.join,
        )
        self.rules = dict(zip(OF_LISTS, rules, strict=True))

    def refuse(self, node: Node, text: str) -> UnsupportedError:
        return UnsupportedError(f"{self.graph.name}: node {node.name!r} ({node.op}): {text}; {WRITE}")

    def note(self, node: Node, parts: Parts) -> None:
        self.known[node.outputs[0]] = parts

    def fresh(self, stem: str) -> str:
        name, count = stem, 0
        while name in self.taken:
            count += 1
            name = f"{stem}.{count}"
        self.taken.add(name)
        return name

    def add(self, op: str, inputs: Sequence[str], attributes: dict[str, Any], output: str, domain: str = "") -> str:
        """Add a node and return its output's name, `output` or a fresh name that starts with it."""
        node = Node(op, f"{output}.{op}", tuple(inputs), (output,), attributes, domain=domain)
        self.nodes.append(node)
        for each in self.filled.values():
            each.induction.makers[output] = node
        return output

    def constant(self, number: int, stem: str) -> str:
        name = self.fresh(stem)
        self.graph.constants[name] = np.array(number, np.int64)
        return name

    def number(self, name: str) -> int | None:
        array = self.graph.constants.get(name)
        return int(array.ravel()[0]) if array is not None and array.size == 1 and array.dtype.kind in "iu" else None

    def go_through(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes of a graph, with lists replaced."""
        outer, self.nodes = self.nodes, []
        for node in nodes:
            rule = self.rules.get(node.op) if not node.domain else None
            if rule is not None:
                if node.op in OF_LISTS[2:6] + OF_LISTS[7:] and node.inputs[0] not in self.known:
                    raise self.refuse(node, f"where the list {node.inputs[0]!r} comes from cannot be told")
                rule(node)
            elif node.op == "Identity" and node.inputs[0] in self.known:
                self.note(node, self.known[node.inputs[0]])
            elif node.op == "Loop" and not node.domain:
                self.loop(node)
            else:
                self.other(node)
        made, self.nodes = self.nodes, outer
        return made

    def other(self, node: Node) -> None:
        arguments = len(node.inputs)
        for key, inner in node.nested():
            inner.nodes = self.go_through(inner.nodes)
            if any(name in self.known for name in (*inner.inputs, *inner.outputs)):
                raise self.refuse(node, f"its {key} hands out a list of tensors")
            arguments = 1 if node.op == "If" else len(inner.inputs)
        if any(name in self.known for name in node.inputs[:arguments]):
            raise self.refuse(node, "it takes a list of tensors")
        if any(True for _ in node.nested()):
            refresh_captures(node, arguments)
        self.nodes.append(node)

    # What makes lists.

    def insert(self, node: Node) -> None:
        parts, new = self.known[node.inputs[0]], (One(node.inputs[1]),)
        if len(node.inputs) < 3 or not node.inputs[2]:
            self.note(node, parts + new)
            return
        place = self.number(node.inputs[2])
        if place == 0:
            self.note(node, new + parts)
        elif place is not None and -len(parts) <= place <= len(parts) and all(isinstance(p, One) for p in parts):
            self.note(node, parts[:place] + new + parts[place:])
        else:
            raise self.refuse(node, "it inserts in the middle of a list")

    def erase(self, node: Node) -> None:
        parts = self.known[node.inputs[0]]
        place = self.number(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else -1
        alone = place is not None and self.single(parts, place)
        if not alone or place is None:
            raise self.refuse(node, "it removes an element that is not known at load")
        at = place % len(parts)
        self.note(node, parts[:at] + parts[at + 1 :])

    def single(self, parts: Parts, place: int) -> One | None:
        """The element at an index, if it is a part by itself, else None."""
        before = parts[: place + 1] if place >= 0 else parts[place:]
        inside = -len(parts) <= place < len(parts) and all(isinstance(p, One) for p in before)
        return before[-1 if place >= 0 else 0] if inside else None  # type: ignore[return-value]

    def split(self, node: Node) -> None:
        source, axis, kept = node.inputs[0], int(node.attributes.get("axis", 0)), bool(node.attributes.get("keepdims", 1))
        sizes = self.graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else np.array(1)
        if sizes is not None and sizes.ndim:
            names = tuple(self.fresh(f"{node.outputs[0]}.{i}") for i in range(len(sizes)))
            attributes = {"axis": axis, "split": [int(n) for n in sizes]}
            self.nodes.append(Node("Split", node.name, (source,), names, attributes, min(node.version, 17)))
            self.note(node, tuple(One(name) for name in names))
        elif sizes is not None and int(sizes) == 1:
            self.note(node, (Slices(source, axis, kept),))
        else:
            raise self.refuse(node, f"it cuts pieces of {'a size computed from data' if sizes is None else int(sizes)}")

    # What makes tensors of lists.

    def join(self, node: Node) -> None:
        parts, axis, new = self.known[node.inputs[0]], int(node.attributes["axis"]), bool(node.attributes.get("new_axis", 0))
        self.tensor(node, parts, axis, new, node.outputs[0])

    def tensor(self, node: Node, parts: Parts, axis: int, new: bool, output: str) -> str:
        """Stack the elements along a new axis, or join them along one that they have."""
        if not parts or any(isinstance(part, Past) for part in parts):
            raise self.refuse(node, "it joins a list that the loop around it still fills" if parts else "it joins an empty list")
        many, found = len(parts) > 1, list[str]()
        for part in parts:
            to = self.fresh(f"{output}.part") if many else output
            if isinstance(part, One):
                attributes = {"axes": [axis]} if new else {}
                found.append(self.add("Unsqueeze" if new else "Identity", [part.name], attributes, to))
            elif isinstance(part, Slices):
                how = {"source": part.axis, "kept": part.kept, "axis": axis, "joins": not new}
                found.append(self.add(Restack.name, [part.whole], how, to, OURS))
        return self.add("Concat", found, {"axis": axis}, output) if many else output

    def length(self, node: Node) -> None:
        total, names = self.count(node, self.known[node.inputs[0]])
        if not names:
            self.graph.constants[node.outputs[0]] = np.array(total, np.int64)
            return
        while len(names) > 1:
            names = [*names[2:], self.add("Add", names[:2], {}, self.fresh(f"{node.outputs[0]}.sum"))]
        self.add("Add", [names[0], self.constant(total, f"{node.outputs[0]}.ones")], {}, node.outputs[0])

    def count(self, node: Node, parts: Parts) -> tuple[int, list[str]]:
        """The number of elements: (constant, names of values to add)."""
        total, names = 0, list[str]()
        for part in parts:
            if isinstance(part, One):
                total += 1
            elif isinstance(part, Slices):
                shape = self.add("Shape", [part.whole], {}, self.fresh(f"{node.outputs[0]}.shape"))
                place = self.constant(part.axis, f"{node.outputs[0]}.axis")
                names.append(self.add("Gather", [shape, place], {"axis": 0}, self.fresh(f"{node.outputs[0]}.count")))
            else:
                filled = self.filled[part.name]
                more, others = self.count(node, filled.initial)
                total, names = total + more, [*names, *others, filled.induction.iteration]
        return total, names

    def at(self, node: Node) -> None:
        found = self.element(node, self.known[node.inputs[0]], node.inputs[1])
        self.add("Identity", [found], {}, node.outputs[0])

    def element(self, node: Node, parts: Parts, index: str) -> str:
        place = self.number(index)
        alone = self.single(parts, place) if place is not None else None
        if alone is not None:
            return alone.name
        if any(isinstance(part, Past) for part in parts):
            return self.recent(node, parts, index, place)
        if not parts:
            raise self.refuse(node, "it reads from an empty list")
        if place in (0, -1) and isinstance(parts[place], Slices):
            parts = (parts[place],)
        if len(parts) > 1 or not isinstance(parts[0], Slices):
            parts = (Slices(self.tensor(node, parts, 0, True, self.fresh(f"{node.outputs[0]}.whole")), 0, False),)
        (source,) = parts
        assert isinstance(source, Slices)
        picked = self.add("Gather", [source.whole, index], {"axis": source.axis}, self.fresh(f"{node.outputs[0]}.picked"))
        return self.add("Unsqueeze", [picked], {"axes": [source.axis]}, self.fresh(f"{picked}.kept")) if source.kept else picked

    def recent(self, node: Node, parts: Parts, index: str, place: int | None) -> str:
        """One of the newest elements of a list that the loop fills, or one from before the loop."""
        (past,) = (part for part in parts if isinstance(part, Past))
        filled, ones = self.filled[past.name], [part.name for part in parts if isinstance(part, One)]
        start = len(filled.initial) if all(isinstance(part, One) for part in filled.initial) else None
        newest = None
        if filled.front:
            newest, ones = (place + 1 if place is not None and place >= 0 else None), ones[::-1]
        elif place is not None and place < 0:
            newest = -place
        elif place is not None and (alone := self.single(filled.initial, place)) is not None:
            return alone.name
        elif start is not None:
            line = filled.induction.affine_of(index)
            newest = start + len(ones) - line.start if line is not None and line.step == 1 else None
        if newest is None or newest < 1:
            raise self.refuse(node, "which element it reads of a list that the loop fills cannot be told")
        if newest <= len(ones):
            return ones[-newest]
        newest -= len(ones)
        if newest not in filled.registers:
            filled.registers[newest] = self.fresh(f"{past.name}.newest{newest}")
        return filled.registers[newest]

    # Loops.

    def loop(self, node: Node) -> None:
        body = node.attributes.get("body")
        if not isinstance(body, Graph) or len(body.inputs) < 2 or len(body.outputs) < len(body.inputs) - 1:
            self.nodes.append(node)  # refused later, as any other such loop
            return
        n = len(body.inputs) - 2
        before, outputs = node.inputs[2 : 2 + n], [*node.outputs, *[""] * (len(body.outputs) - 1 - len(node.outputs))]
        carried = [p for p in range(n) if before[p] not in self.known]
        listed = [p for p in range(n) if before[p] in self.known]
        plain = [(before[p], body.inputs[2 + p], body.outputs[1 + p]) for p in carried]
        induction = InductionVariables(body, body.inputs[0], plain, self.graph.constants)
        kept: dict[int, list[str]] = {}
        for p in listed:
            initial, start = self.known[before[p]], body.inputs[2 + p]
            grows, front = self.growth(body, p)
            if grows:
                self.filled[start] = _Filled(initial, front, induction)
                self.known[start] = (Past(start),)
            elif all(isinstance(part, One) for part in initial):
                kept[p] = [self.fresh(f"{start}.{i}") for i in range(len(initial))]
                self.known[start] = tuple(One(name) for name in kept[p])
            else:
                raise self.refuse(node, f"the list {start!r} that it carries keeps its length, which is not known at load")
        body.nodes = self.go_through(body.nodes)
        if any(name in self.known for name in (body.outputs[0], *body.outputs[1 + n :])):
            raise self.refuse(node, "a list of tensors is among what its iterations hand out")
        made: list[tuple[str, str, str, str]] = []  # initial, start, end, final
        scans: list[tuple[str, str]] = []
        after: list[tuple[str, str, dict[str, Any], str, str]] = []
        for p in listed:
            initial, start, output = self.known[before[p]], body.inputs[2 + p], outputs[p]
            ends = self.known.get(body.outputs[1 + p], ())
            if p in kept:
                if len(ends) != len(initial) or not all(isinstance(part, One) for part in ends):
                    raise self.refuse(node, f"the list {start!r} that it carries changes its length in a way that cannot be told")
                finals = [self.fresh(f"{output or start}.{i}.final") for i in range(len(ends))]
                for first, name, end, final in zip(initial, kept[p], ends, finals, strict=True):
                    assert isinstance(first, One) and isinstance(end, One)
                    made.append((first.name, name, end.name, final))
                self.known[output] = tuple(One(name) for name in finals)
            else:
                self.known[output] = self.fill(node, body, start, ends, output, made, scans, after)
        node.inputs = (*node.inputs[:2], *(before[p] for p in carried), *(first for first, _, _, _ in made))
        node.outputs = (
            *(outputs[p] for p in carried),
            *(final for _, _, _, final in made),
            *outputs[n:],
            *(output for _, output in scans),
        )
        body.inputs = [*body.inputs[:2], *(body.inputs[2 + p] for p in carried), *(start for _, start, _, _ in made)]
        body.outputs = [
            body.outputs[0],
            *(body.outputs[1 + p] for p in carried),
            *(end for _, _, end, _ in made),
            *body.outputs[1 + n :],
            *(end for end, _ in scans),
        ]
        refresh_captures(node, len(node.inputs))
        self.nodes.append(node)
        for op, source, attributes, output, domain in after:
            self.add(op, [source], attributes, output, domain)

    def growth(self, body: Graph, p: int) -> tuple[bool, bool]:
        """(whether a carried list grows in each iteration, whether at the front)."""
        makers = {name: node for node in body.nodes for name in node.outputs}
        name, more, front = body.outputs[1 + p], 0, False
        while name != body.inputs[2 + p]:
            node = makers.get(name)
            if node is None or node.op not in ("SequenceInsert", "SequenceErase", "Identity", "Loop"):
                return False, False
            if node.op == "Loop":
                name, more = node.inputs[2 + node.outputs.index(name)], more + 1
                continue
            more += {"SequenceInsert": 1, "SequenceErase": -1}.get(node.op, 0)
            front |= node.op == "SequenceInsert" and len(node.inputs) > 2 and self.number(node.inputs[2]) == 0
            name = node.inputs[0]
        return more > 0, front

    def fill(
        self,
        node: Node,
        body: Graph,
        start: str,
        ends: Parts,
        output: str,
        made: list[tuple[str, str, str, str]],
        scans: list[tuple[str, str]],
        after: list[tuple[str, str, dict[str, Any], str, str]],
    ) -> Parts:
        """The list after the loop. Adds carried values to `made`, scan outputs to `scans`, nodes after the loop to `after`."""
        filled = self.filled.pop(start)
        past = Past(start)
        new = ends[:-1][::-1] if filled.front else ends[1:]
        rest = ends[-1:] if filled.front else ends[:1]
        if rest != (past,) or not new or not all(isinstance(part, One) for part in new):
            raise self.refuse(node, f"the list {start!r} that it carries does not grow alike in each iteration")
        names = [part.name for part in new if isinstance(part, One)]
        latest = names[::-1]
        most = max(filled.registers, default=0)
        for j in range(1, most + 1):
            name = filled.registers.get(j) or self.fresh(f"{start}.newest{j}")
            filled.registers[j] = name
        for j in range(1, most + 1):
            end = latest[j - 1] if j <= len(latest) else filled.registers[j - len(latest)]
            index = self.constant(j - 1 if filled.front else -j, f"{start}.place{j}")
            first = self.element(node, filled.initial, index) if filled.initial else ""
            if not first:
                raise self.refuse(node, f"it reads from the list {start!r}, which is empty before the first iteration")
            made.append((first, filled.registers[j], end, ""))
        stacked = self.fresh(f"{output or start}.stacked")
        end = names[0]
        if len(names) > 1:
            outer, self.nodes = self.nodes, body.nodes
            rows = [self.add("Unsqueeze", [name], {"axes": [0]}, self.fresh(f"{name}.row")) for name in names]
            end, self.nodes = self.add("Concat", rows, {"axis": 0}, self.fresh(f"{stacked}.turn")), outer
        scans.append((end, stacked))
        if len(names) > 1:
            joined = self.fresh(f"{stacked}.joined")
            after.append((Restack.name, stacked, {"source": 0, "kept": False, "axis": 0, "joins": True}, joined, OURS))
            stacked = joined
        if not filled.front:
            return (*filled.initial, Slices(stacked, 0, False))
        turned = self.fresh(f"{stacked}.reversed")
        after.append(("Slice", stacked, {"starts": [-1], "ends": [-LAST], "axes": [0], "steps": [-1]}, turned, ""))
        return (Slices(turned, 0, False), *filled.initial)


def _uses_lists(graph: Graph) -> bool:
    return any(node.op in OF_LISTS and not node.domain for node in graph.every_node())


@before_shapes
def lists_are_tensors(graph: Graph) -> None:
    """Replace the lists of a file's graph. Raises `UnsupportedError` where the use of one cannot be followed."""
    if not _uses_lists(graph):
        return
    lists = _Lists(graph)
    graph.nodes = lists.go_through(graph.nodes)
    left = next((name for name in graph.outputs if name in lists.known), None)
    if left is not None:
        raise UnsupportedError(f"{graph.name}: output {left!r} is a list of tensors; {WRITE}")
