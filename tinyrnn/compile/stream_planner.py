"""The plan of a tick: one frame of each of many streams, every row a stream's.

The weights and the state lie as in the plan of one stream, so that both share them. Calls without state take all streams
as their rows; operators with kernels for many streams get their states where they lie; what else has a state is done
stream by stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyrnn.compile.crew_planner import PlannerBeside
from tinyrnn.compile.plan import Place, Plan
from tinyrnn.graph.call import (
    Body,
    Call,
    Close,
    Open,
    Operand,
    PastRows,
    Rows,
    SlotIndex,
    SlotStride,
    Started,
    State,
    TotalRows,
    Value,
    Weight,
)
from tinyrnn.graph.clock import FRAMES
from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import op_of
from tinyrnn.passes import Program
from tinyrnn.passes.rows import depending
from tinyrnn.runtime.memory import ALIGNMENT

MOST_STREAMS = 1 << 10
"""streams of one pass at most"""

_Calls = list[tuple[Node, Call | Open | Close]]


def make_stream_plan(plan: Plan, lanes: int, registers: int, cache: int, alignment: int = ALIGNMENT) -> Plan | None:
    """The plan of a tick for a model with that plan; None where streams have rows of their own number.

    cache: bytes next to a core that the values of one pass should fit
    Raises `UnsupportedError` as `make_plan`.
    """
    if any(clock != FRAMES for clock in plan.clocks) or plan.program.refuses_stream:
        return None
    return _StreamPlanner(plan, lanes, registers, cache, alignment).plan()


def _of_streams(program: Program) -> Program:
    """The program with all as rows that is not the same for all streams."""
    graph = replace(program.graph, specs=dict(program.graph.specs))
    per_row = depending(graph.nodes, {*program.per_row, *graph.inputs})
    return replace(
        program,
        graph=graph,
        per_row=per_row - graph.constants.keys(),
        inputs=[replace(p, per_row=True) for p in program.inputs],
        outputs=[replace(p, per_row=True) for p in program.outputs],
    )


class _StreamPlanner(PlannerBeside):
    """A plan of a tick in the making."""

    def __init__(self, plan: Plan, lanes: int, registers: int, cache: int, alignment: int) -> None:
        super().__init__(plan, _of_streams(plan.program), lanes, registers, alignment)
        self.cache = cache
        per_row, constants = self.program.per_row, self.graph.constants
        self.env = replace(
            self.env,
            per_row=lambda name: name in per_row and name not in constants,
            per_frame=lambda name: name in plan.program.per_row,
        )
        self.outside = {id(node) for node in self.graph.nodes}
        self.result.streams = True

    def _place_ports(self) -> None:
        super()._place_ports()
        for index, port in enumerate(self.program.visible_outputs):
            if port.name not in self.program.per_row and self.places.pop(port.name, None) is not None:
                self.copied.append((index, port.name))

    def _lower_node(self, node: Node) -> Sequence[Call | Open | Close | Body]:
        outside = id(node) in self.outside  # in a block the states of all streams are not at hand
        made = op_of(node).lower_streams(node, self.env) if outside else None
        return super()._lower_node(node) if made is None else made

    def _lower(self) -> _Calls:
        """All calls, those that need one state at a time in loops over the streams."""
        calls: _Calls = []
        depth, looping = 0, False
        lowered = super()._lower()
        self.program.per_row.difference_update(self.graph.constants)  # lowering a loop tells some of what it comes to
        self.once = once = self._timeless(lowered)
        opened = False
        for node, call in self._weights_once(lowered):
            if depth == 0 and opened != (node.name in once):
                calls += [(node, Close())] * looping
                looping, opened = False, not opened
                calls.append((node, Open("if frame == 0:") if opened else Close()))
            alone = depth == 0 and self._stream_by_stream(call)
            own = isinstance(call, Open) and call.by_row
            if depth == 0 and looping and (own or not alone):
                calls.append((node, Close()))
                looping = False
            if depth == 0 and alone and not own and not looping:
                calls.append((node, Open("for ITERATION in range({}):", (Rows(),), by_row=True)))
                looping = True
            depth += isinstance(call, Open) - isinstance(call, Close)
            calls.append((node, call))
        calls += [(node, Close())] * (looping + opened)
        return calls

    def _timeless(self, calls: _Calls) -> set[str]:
        """The names of the nodes whose values follow from what belongs to a call alone: they are made with its first frame."""
        single = self.single.program
        stateful = {node.name for node, call in calls if isinstance(call, Call) and any(map(self._of_state, call.operands))}
        stateful |= {node.name for node in self.graph.nodes if any(True for _ in node.nested())}
        known = {p.name for p in single.visible_inputs if not p.per_row} | self.graph.constants.keys()
        found: set[str] = set()
        for node in self.graph.nodes:
            if not op_of(node).random and node.name not in stateful and all(n in known for n in node.inputs if n):
                known.update(n for n in node.outputs if n)
                if not any(n in single.per_row for n in node.outputs):
                    found.add(node.name)
        return found if known - self.graph.constants.keys() else set()

    def _extend(self, lives: dict[str, list[int]], calls: _Calls) -> None:
        """What is made with the first frame lives for all of them."""
        used: dict[bool, set[str]] = {True: set(), False: set()}
        for node, call in calls:
            values = [o for o in getattr(call, "operands", ()) if isinstance(o, Value)]
            used[node.name in self.once].update(self._root(value.name) for value in values)
        for root in used[True] & used[False] & lives.keys():
            lives[root][:] = 0, len(calls)

    def _weights_once(self, lowered: _Calls) -> _Calls:
        """The calls, where one that reads weights and a state, all rows of it, has the state in rows of its own instead."""
        calls: _Calls = []
        depth, gathered = 0, dict[str, str]()
        for node, call in lowered:
            depth += isinstance(call, Open) - isinstance(call, Close)
            if depth == 0 and isinstance(call, Call) and any(isinstance(o, Weight) for o in call.operands):
                names = self._states_read(node, call)
                for name in names:
                    if name not in gathered:
                        gathered[name] = self.graph.fresh(f"{name}.rows")
                        calls += self._copy_of(name, gathered[name])
                operands = [
                    replace(o, name=gathered[o.name]) if isinstance(o, Value) and o.name in names else o for o in call.operands
                ]
                call = replace(call, operands=tuple(operands))
            calls.append((node, call))
        return calls

    def _states_read(self, node: Node, call: Call) -> list[str]:
        """The inputs of the node that lie in the state, if the call takes all rows and nothing else of the state."""
        found = [o for o in call.operands if self._of_state(o)]
        reads = [o.name for o in found if isinstance(o, Value) and o.name in node.inputs]
        takes_rows = any(isinstance(o, Rows) for o in call.operands)
        slotted = any(isinstance(o, SlotIndex) for o in call.operands)
        return list(dict.fromkeys(reads)) if takes_rows and not slotted and len(reads) == len(found) else []

    def _copy_of(self, source: str, target: str) -> _Calls:
        self.program.per_row.add(target)
        return super()._copy_of(source, target)  # type: ignore[return-value]

    def _stream_by_stream(self, call: Call | Open | Close) -> bool:
        if not isinstance(call, Call):
            return True
        in_slots = [o.of for o in call.operands if isinstance(o, SlotIndex)]
        return not any(isinstance(o, Rows) for o in call.operands) or any(
            self._of_state(o) for o in call.operands if o not in in_slots
        )

    def _of_state(self, operand: Operand) -> bool:
        if isinstance(operand, Value):
            root = self._root(operand.name)
            return root in self.places and self.places[root].memory == "state"
        return isinstance(operand, (State, Started, PastRows, TotalRows))

    def _operand(self, operand: Operand, node: Node) -> Place | int | float | str:
        if isinstance(operand, Started):
            return f"started@{4 * self._part('started', np.zeros(1, np.float32))}"
        if isinstance(operand, PastRows):
            return f"get(i64(s + {4 * self._part('frames', np.zeros(1, np.int64))}), 0)"
        if isinstance(operand, TotalRows):  # no sequence ends within a tick
            return -1
        if isinstance(operand, SlotIndex):
            return "which" if self._of_state(operand.of) else "each"
        if isinstance(operand, SlotStride):
            return self.result.state_stride if self._of_state(operand.of) else operand.elements
        placed = super()._operand(operand, node)
        if isinstance(placed, Place) and placed.memory == "state":
            row = self._row_variable()
            within = tuple(term for term in placed.terms if term[0] != row)
            return replace(placed, memory="state" if row else "states", terms=within)
        return placed

    def _choose_chunk(self) -> None:
        plan = self.result
        plan.chunk = max(16, min(MOST_STREAMS, self.cache // max(plan.arena_per_row, 1)))
