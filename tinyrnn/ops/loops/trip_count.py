"""What is known of a loop at load: its induction variables, and its trip count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import Array

NEVER = 1 << 62
"""the trip count of a loop whose condition stays true"""

PASSING = ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Cast", "Flatten")
"""operators that keep the value of a single number"""

WHOLE = (1, 6, 7)
"""types of Cast that keep a count: float32, int32, int64"""


@dataclass(frozen=True)
class Affine:
    """The number `step` · i + `start` in iteration i of a loop."""

    step: int
    start: int


@dataclass
class InductionVariables:
    """The values of a loop's body that are affine functions of the iteration number, in whole numbers."""

    body: Graph
    iteration: str
    """the name of the iteration number, or the empty name"""
    carried: Sequence[tuple[str, str, str]]
    """(value before the loop, at the start of an iteration, at its end)"""
    constants: Mapping[str, Array]
    affine: dict[str, Affine | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.makers = {name: node for node in self.body.nodes for name in node.outputs if name}
        if self.iteration:
            self.affine[self.iteration] = Affine(1, 0)
        for before, start, end in self.carried:
            first, step = self._number(before), self._added(end, start)
            if first is not None and step is not None:
                self.affine[start] = Affine(step, first)

    def _added(self, name: str, start: str) -> int | None:
        """By how much a value is larger than another one, or None."""
        total = 0
        while name != start:
            node = self.makers.get(name)
            if node is None or (node.op not in PASSING and node.op not in ("Add", "Sub")):
                return None
            if node.op in PASSING:
                name = node.inputs[0]
                continue
            a, b = map(self._number, node.inputs)
            if b is not None:
                name, more = node.inputs[0], b if node.op == "Add" else -b
            elif a is not None and node.op == "Add":
                name, more = node.inputs[1], a
            else:
                return None
            total += more
        return total

    def _number(self, name: str) -> int | None:
        array = self.constants.get(name)
        if array is None or array.dtype.kind not in "iuf" or array.size != 1 or float(array.ravel()[0]) % 1:
            return None
        return int(array.ravel()[0])

    def affine_of(self, name: str) -> Affine | None:
        """A value as an affine function of the iteration number, or None."""
        if name not in self.affine:
            self.affine[name] = None  # while it is looked at
            self.affine[name] = self._affine(name)
        return self.affine[name]

    def _affine(self, name: str) -> Affine | None:
        number = self._number(name)
        if number is not None:
            return Affine(0, number)
        node = self.makers.get(name)
        if node is None:
            return None
        if node.op in PASSING:
            return self.affine_of(node.inputs[0]) if node.op != "Cast" or node.attributes.get("to") in WHOLE else None
        if node.op in ("Add", "Sub") and len(node.inputs) == 2:
            a, b = self.affine_of(node.inputs[0]), self.affine_of(node.inputs[1])
            sign = 1 if node.op == "Add" else -1
            return Affine(a.step + sign * b.step, a.start + sign * b.start) if a and b else None
        return None

    def trip_count(self, condition: str, again: str) -> int | None:
        """The number of iterations after which `condition` is true, before it first is false; None where it depends on data.

        again: the name of the condition at the start of an iteration.
        """
        array = self.constants.get(condition)
        if array is not None:
            return NEVER if array.size == 1 and array.ravel()[0] else 0
        if condition == again:
            return NEVER
        node = self.makers.get(condition)
        if node is None:
            return None
        if node.op in PASSING and (node.op != "Cast" or node.attributes.get("to") == 9):
            return self.trip_count(node.inputs[0], again)
        if node.op == "And":
            both = [self.trip_count(name, again) for name in node.inputs]
            return None if None in both else min(n for n in both if n is not None)
        return self._compared(node)

    def _compared(self, node: Node) -> int | None:
        kinds = {"Less": (1, 0), "LessOrEqual": (1, 1), "Greater": (-1, 0), "GreaterOrEqual": (-1, 1)}
        if node.op not in kinds:
            return None
        sign, equal = kinds[node.op]
        a, b = self.affine_of(node.inputs[0]), self.affine_of(node.inputs[1])
        if a is None or b is None:
            return None
        step, room = sign * (a.step - b.step), sign * (b.start - a.start) + equal  # true while step · i < room
        if room <= 0:
            return 0 if step >= 0 else None
        return -(-room // step) if step > 0 else NEVER
