"""Plans beside that of one stream, over the same weights and the same state; here that of a crew of threads."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from tinyrnn.compile.plan import Part, Place, Plan
from tinyrnn.compile.planner import Planner
from tinyrnn.passes import Program
from tinyrnn.runtime.memory import ALIGNMENT


class PlannerBeside(Planner):
    """A plan in the making whose weights and state lie as in another, `single`; what that lacks of weights follows."""

    def __init__(self, single: Plan, program: Program, lanes: int, registers: int, alignment: int, crew: bool = False) -> None:
        like = single.narrow, single.small, single.dot, single.beyond
        super().__init__(program, lanes, registers, alignment, *like, crew)
        self.single = single
        self.result.parts = list(single.parts)
        self.weights, self.weights_size = [single.weights], len(single.weights)
        self.packed = {_digest(single.weights[start : start + size]): start for start, size in single.packed}

    def _place_weight(self, array: np.ndarray[Any, Any]) -> Place:
        found = self.packed.get(_digest(np.ascontiguousarray(array)))
        return super()._place_weight(array) if found is None else Place("weights", found)

    def _add_part(self, name: str, initial: np.ndarray[Any, Any]) -> Part:
        return next(part for part in self.single.parts if part.name == name)


def make_crew_plan(plan: Plan, lanes: int, registers: int, alignment: int = ALIGNMENT) -> Plan | None:
    """The plan for a crew that shares the large calls of a model with that plan; None where it has none."""
    program, graph = plan.program, plan.program.graph
    graph = replace(graph, specs=dict(graph.specs))
    program = replace(program, graph=graph, per_row={*program.per_row}, clocks=dict(program.clocks))
    made = PlannerBeside(plan, program, lanes, registers, alignment, crew=True).plan()
    return made if made.shared else None


def _digest(array: np.ndarray[Any, Any]) -> bytes:
    return hashlib.sha256(array.tobytes()).digest()
