"""The planner: lowers every node of a program to kernel calls and gives every operand a place in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyrnn.compile.plan import Part, Place, Plan, Region, Step
from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.call import (
    Body,
    Call,
    Close,
    Iteration,
    Lowering,
    Open,
    Operand,
    PastRows,
    Rows,
    Scratch,
    Started,
    State,
    TotalRows,
    Value,
    Weight,
)
from tinyrnn.graph.clock import FRAMES, Clock
from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.limits import check_time, check_weights
from tinyrnn.graph.op import Refused, op_of
from tinyrnn.lanes.dots import DOTS, Dot
from tinyrnn.ops.movement.strided_copy import strided_copy
from tinyrnn.passes import Program
from tinyrnn.passes.weight_storage import layers_of
from tinyrnn.runtime.memory import ALIGNMENT

CHUNK_BYTES = 1 << 18
"""most bytes of arena for a chunk of rows, so that it stays in a core's second-level cache"""
LARGEST_CHUNK = 256

_Call = tuple[Node, Call | Open | Close]


def make_plan(
    program: Program, lanes: int, registers: int, alignment: int = ALIGNMENT, cache: int = 1 << 62, dot: Dot = DOTS["widened"]
) -> Plan:
    """Lower every node and place every operand. Raises `UnsupportedError` with all nodes that cannot be lowered.

    cache: bytes up to which the weights of a model are read as fast in float32 as in half precision; 0 where memory is scarce
    dot:   how the machine multiplies int8
    """
    beyond = weight_bytes(program) - cache
    return Planner(program, lanes, registers, alignment, beyond > 0, cache == 0, dot, beyond).plan()


def weight_bytes(program: Program) -> int:
    """Bytes of the weights of layers in float32."""
    return sum(array.nbytes for _, weights in layers_of(program.graph) for array in weights.values())


class Planner:
    """Builds a plan."""

    def __init__(
        self,
        program: Program,
        lanes: int,
        registers: int,
        alignment: int,
        narrow: bool = False,
        small: bool = False,
        dot: Dot = DOTS["widened"],
        beyond: int = 0,
        crew: bool = False,
    ) -> None:
        self.program, self.graph, self.alignment = program, program.graph, alignment
        self.result = Plan(program, narrow=narrow, small=small, dot=dot, beyond=beyond)
        self.env = Lowering(
            self.graph.specs,
            self.graph.constants,
            lambda name: name in program.per_row,
            lambda name: name in program.per_row,
            program.clock,
            lambda start, end: (start, end) in program.carried,
            lanes,
            registers,
            narrow,
            small,
            self.graph.integers,
            dot,
            crew,
            beyond,
        )
        self.weights: list[np.ndarray[Any, Any]] = []
        self.weights_size = 0
        self.placed: dict[int, tuple[np.ndarray[Any, Any], Place]] = {}
        """id of an array → the array, which keeps the id its own, and its place"""
        self.places: dict[str, Place] = {}
        self.base: dict[str, str] = {}
        self.blocks: list[tuple[str, Open]] = []
        """the enclosing blocks of the current step: (variable, head)"""
        self.shared = {name for n in self.graph.every_node() for _ in n.nested() for name in n.outputs}

    def plan(self) -> Plan:
        self._place_ports()
        calls = self._lower()
        self._place_arena(calls)
        plan, program = self.result, self.program
        for node, call in calls:
            if isinstance(call, Close):
                plan.steps.append(Step(call, [], "", node.name))
                self.blocks.pop()
                continue
            operands = [self._operand(o, node) for o in call.operands]
            if isinstance(call, Open):
                self.blocks.append((f"i{len(plan.steps)}", call))
                plan.steps.append(
                    Step(replace(call, text=call.text.replace("ITERATION", self.blocks[-1][0])), operands, "", node.name)
                )
            else:
                plan.steps.append(Step(call.kernel, operands, call.note, node.name, call.pieces))
        plan.weights = np.concatenate(self.weights) if self.weights else np.zeros(0, np.uint8)
        plan.multiply_adds = sum(op_of(n).multiply_adds(n, self.graph.specs) for n in self.graph.nodes)
        self._choose_chunk()
        for port in program.outputs:
            if port.per_row and port.clock != FRAMES:
                self._counted(port.name)
        return plan

    def _choose_chunk(self) -> None:
        plan, program = self.result, self.program
        if program.refusal and program.kind == "sequence":
            plan.chunk = 0
        elif program.kind == "step" or program.rounded:
            plan.chunk = 1
        else:
            plan.chunk = max(16, min(LARGEST_CHUNK, CHUNK_BYTES // max(plan.arena_per_row, 1)))

    def _place_ports(self) -> None:
        for start in self.program.states:
            spec = self.graph.specs[start]
            part = self._add_part(start, np.zeros(spec.sizes, spec.dtype))
            self.places[start] = Place("state", 4 * part.offset)
        inputs = [name for name in self.graph.inputs if name not in self.program.states]
        self.places |= {name: Place(f"x{i}") for i, name in enumerate(inputs)}
        outputs = [p.name for p in self.program.visible_outputs]
        made = {name for node in self.graph.nodes for name in node.outputs}
        self.places |= {name: Place(f"y{i}") for i, name in enumerate(outputs) if name in made}
        self.copied = [(i, name) for i, name in enumerate(outputs) if name not in made]

    def _root(self, name: str) -> str:
        while name in self.base:
            name = self.base[name]
        return name

    def _lower(self) -> list[_Call]:
        problems: list[str] = []
        calls = self._lower_nodes(self.graph, problems)
        for index, name in self.copied:
            target = f"output:{index}"
            self.places[target] = Place(f"y{index}")
            calls += self._copy_of(name, target)
        for start, end in self.program.states.items():
            root = self._root(end)
            if root in self.program.states and root != start:  # the old value of another state: it is set aside first
                aside = self.graph.fresh(f"{end}.aside")
                calls += self._copy_of(root, aside)
                self.base[end] = aside
        if problems:
            raise UnsupportedError(f"{self.graph.name}: not supported:\n" + "\n".join(problems))
        for start, end in self.program.states.items():
            if self._root(end) != start:
                node = Node("copy", end, (end,), (start,))
                calls += [(node, call) for call in self._copies(end, start, f"state {start} = {end}")]
        return calls

    def _lower_nodes(self, graph: Graph, problems: list[str]) -> list[_Call]:
        calls: list[_Call] = []
        for node in graph.nodes:
            check_time()
            op, output = op_of(node), node.outputs[0]
            source = op.alias(node)
            if (
                source is not None
                and output not in self.places
                and output not in self.shared
                and (output in self.program.per_row) == (source in self.program.per_row)
            ):
                self.base[output] = source
                continue
            try:
                for call in self._lower_node(node):
                    calls += self._lower_nodes(call.graph, problems) if isinstance(call, Body) else [(node, call)]
                bound = op.index_bound(node, self.env)
                if bound is not None:
                    self._bound(*bound)
            except Refused as error:
                problems.append(f"  node {node.name!r} ({node.op}): {error}")
        return calls

    def _lower_node(self, node: Node) -> Sequence[Call | Open | Close | Body]:
        return op_of(node).lower(node, self.env)

    def _copy_of(self, source: str, target: str) -> list[_Call]:
        """Calls that make the new value `target` a copy of `source`."""
        self.graph.specs[target] = self.graph.specs[source]
        if source in self.program.per_row:
            self.program.per_row.add(target)
            self.program.clocks[target] = self.program.clock(source)
        node = Node("copy", target, (source,), (target,))
        return [(node, call) for call in self._copies(source, target)]

    def _copies(self, source: str, target: str, note: str = "") -> list[Call]:
        return strided_copy(self.env, target, source, [self.graph.specs[source].elements], [1], [1], note=note)

    def _bound(self, name: str, low: int, high: int) -> None:
        producers = self.graph.producers()
        specs = self.graph.specs
        while name in producers and op_of(producers[name]).moves:
            source = producers[name].inputs[0]
            if specs[source].elements != specs[name].elements:
                return  # only some of its elements are these indices
            name = source
        if name in self.graph.inputs and name not in self.program.states and specs[name].dtype in (np.int64, np.int32):
            self.result.bounds.append((self.places[name].memory, low, high))

    def _place_arena(self, calls: list[_Call]) -> None:
        """Give every value and scratch the first gap in the arena that is free during its lifetime."""
        lives: dict[str, list[int]] = {}
        sizes: dict[str, tuple[int, bool]] = {}
        used: set[Clock] = set()
        loops: list[tuple[int, int]] = []
        for index, (node, call) in enumerate(calls):
            if isinstance(call, Close):
                opened, block = self.blocks.pop()
                if "ITERATION" in block.text:
                    loops.append((int(opened), index))
                continue
            if isinstance(call, Open):
                self.blocks.append((str(index), call))
            for operand in call.operands:
                if isinstance(operand, Value):
                    root = self._root(operand.name)
                    if root in self.places or root in self.graph.constants:
                        continue
                    spec = self.graph.specs[root]
                    sizes[root] = spec.elements * spec.dtype.itemsize * self._times(root, used), root in self.program.per_row
                    lives.setdefault(root, [index, index])[1] = index
                elif isinstance(operand, Scratch):
                    key = self._scratch(operand, node)
                    of = self._value_of(node, operand.of)
                    many = bool(operand.per_row) and of in self.program.per_row and not self._row_variable()
                    sizes[key] = 4 * (operand.per_row * (self._times(of, used) if many else 1) or operand.fixed), many
                    lives.setdefault(key, [0 if operand.lasting else index, index])[1] = len(calls) if operand.lasting else index
        for head, tail in loops:  # innermost first: what a loop takes in, or leaves behind, lives all through it
            for life in lives.values():
                if life[0] < head <= life[1] or life[0] <= tail < life[1]:
                    life[:] = min(life[0], head), max(life[1], tail)
        tops = {False: 0, True: 0}
        placed = self.result.regions
        self._extend(lives, calls)
        for name in sorted(lives, key=lambda n: (-sizes[n][0], lives[n][0])):
            check_time()
            size, per_row = sizes[name]
            size = -(-size // self.alignment) * self.alignment
            first, last = lives[name]
            busy = [r for r in placed if r.per_row == per_row and r.first <= last and first <= r.last]
            free = 0
            for region in sorted(busy, key=lambda r: r.offset):
                if free + size <= region.offset:
                    break
                free = max(free, region.offset + region.size)
            placed.append(Region(name, free, size, per_row, first, last))
            tops[per_row] = max(tops[per_row], free + size)
        self.result.arena_fixed, self.result.arena_per_row = tops[False], tops[True]
        self.result.lead = max((clock.lead for clock in used), default=0)
        for r in placed:
            self.places[r.name] = Place("arena", tops[False], r.offset) if r.per_row else Place("arena", r.offset)

    def _extend(self, lives: dict[str, list[int]], calls: list[_Call]) -> None:
        """Let values live longer than from their first to their last call."""

    def _scratch(self, operand: Scratch, node: Node) -> str:
        return f"scratch:{node.name}:{node.outputs}:{operand.key}"

    def _times(self, name: str, used: set[Clock]) -> int:
        """The number of rows of a value for each row of capacity."""
        if name not in self.program.per_row:
            return 1
        used.add(self.program.clock(name))
        return self.program.clock(name).rate

    @staticmethod
    def _value_of(node: Node, of: str) -> str:
        return of or next((o for o in node.outputs if o), "")

    def _counted(self, of: str) -> int:
        """The index of a value's clock in `clocks`."""
        clocks, clock = self.result.clocks, self.program.clock(of)
        if not clocks:
            clocks.append(FRAMES)
            self._part("frames", np.zeros(1, np.int64))
        if clock not in clocks:
            clocks.append(clock)
        return clocks.index(clock)

    def _row_variable(self) -> str:
        """The variable of the enclosing loop over rows, or the empty text."""
        return next((variable for variable, head in self.blocks if head.by_row), "")

    def _iteration_variable(self) -> str:
        return next(variable for variable, head in reversed(self.blocks) if "ITERATION" in head.text and not head.by_row)

    def _rows_of(self, node: Node, of: str = "") -> str:
        if self._row_variable():
            return "1"
        name = self._value_of(node, of)
        if name not in self.program.per_row:
            return "1"
        return "rows" if self.program.clock(name) == FRAMES else f"rows_{self._counted(name)}"

    def _operand(self, operand: Operand, node: Node) -> Place | int | float | str:
        if isinstance(operand, Value):
            root = self._root(operand.name)
            size = self.graph.specs[root].dtype.itemsize
            place = _shift(self._place(root), operand.offset * size)
            if operand.iteration:
                place = replace(place, terms=(*place.terms, (self._iteration_variable(), operand.iteration * size)))
            if self._row_variable() and root in self.program.per_row:
                place = replace(place, terms=(*place.terms, (self._row_variable(), self.graph.specs[root].elements * size)))
            return place
        if isinstance(operand, Iteration):
            return self._iteration_variable()
        if isinstance(operand, Weight):
            return _shift(self._weight(operand.array), operand.array.itemsize * operand.offset)
        if isinstance(operand, Scratch):
            return _shift(self.places[self._scratch(operand, node)], 4 * operand.offset)
        if isinstance(operand, State):
            return Place("state", 4 * (self._part(operand.name, operand.initial) + operand.offset))
        if isinstance(operand, Rows):
            rows = self._rows_of(node, operand.of)
            return rows if operand.times == 1 else f"{rows} * {operand.times}"
        if isinstance(operand, PastRows):
            return f"count_{self._counted(operand.of)}"
        if isinstance(operand, TotalRows):
            return f"whole_{self._counted(operand.of)}"
        if isinstance(operand, Started):
            started = f"started@{4 * self._part('started', np.zeros(1, np.float32))}"
            return f"{started}@{self._row_variable()}" if self._row_variable() else started
        assert isinstance(operand, (int, float))
        return operand

    def _place(self, root: str) -> Place:
        if root not in self.places:
            self.places[root] = self._weight(self.graph.constants[root])
        return self.places[root]

    def _weight(self, array: np.ndarray[Any, Any]) -> Place:
        if id(array) not in self.placed:
            self.placed[id(array)] = array, self._place_weight(array)
        return self.placed[id(array)][1]

    def _place_weight(self, array: np.ndarray[Any, Any]) -> Place:
        data = np.ascontiguousarray(array).view(np.uint8).reshape(-1) if array.ndim else np.frombuffer(array.tobytes(), np.uint8)
        place = Place("weights", self.weights_size)
        padding = -len(data) % self.alignment
        self.weights += [data, np.zeros(padding, np.uint8)]
        self.result.packed.append((self.weights_size, len(data)))
        self.weights_size += len(data) + padding
        check_weights(self.weights_size)
        return place

    def _part(self, name: str, initial: np.ndarray[Any, Any]) -> int:
        for part in self.result.parts:
            if part.name == name:
                return part.offset
        return self._add_part(name, initial).offset

    def _add_part(self, name: str, initial: np.ndarray[Any, Any]) -> Part:
        size = self.result.state_size
        part = Part(name, size + size % 2 if initial.itemsize > 4 else size, initial.shape, initial)
        self.result.parts.append(part)
        return part


def _shift(place: Place, bytes_on: int) -> Place:
    return replace(place, offset=place.offset + bytes_on)
