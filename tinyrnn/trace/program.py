"""Programs for traces, with the gates, cell and hidden states of recurrent kernels as additional outputs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from tinyrnn.graph.ir import Spec
from tinyrnn.graph.op import op_of
from tinyrnn.ops.recurrent.kernel_text import KEPT
from tinyrnn.ops.recurrent.operators import Recurrent
from tinyrnn.passes import Port, Program


@dataclass(frozen=True)
class Kept:
    """An additional output of a traced program, and its layout."""

    port: str
    node: str
    op: str
    axes: tuple[str, ...]
    """axes of a row in memory order: 'batch', 'step' (inside a frame), 'direction', 'value' and 'unit'"""

    @property
    def values(self) -> tuple[str, ...]:
        """The names along the axis 'value', see `kernel_text.KEPT`."""
        return KEPT[self.op]


@dataclass
class TracedProgram(Program):
    """A program with outputs that the file lacks."""

    kept: list[Port] = field(default_factory=list)

    @property
    def visible_outputs(self) -> list[Port]:
        return [*super().visible_outputs, *self.kept]


def traced_program(program: Program) -> tuple[TracedProgram, list[Kept]]:
    """A copy whose recurrent nodes store their gates and states, in outputs after those of the program.

    Nodes inside a nested graph (the body of a Loop) stay as they are.
    """
    own = {f.name: getattr(program, f.name) for f in fields(Program)}
    graph = program.graph.copy()
    copy = TracedProgram(**{**own, "graph": graph, "per_row": set(program.per_row), "clocks": dict(program.clocks)})
    layers = []
    for node in graph.nodes:
        op = op_of(node)
        if not isinstance(op, Recurrent):
            continue
        x, name = node.inputs[0], graph.fresh(f"{node.name}.kept")
        frame, axes = op.trace_kernel(node, name)
        graph.specs[name] = Spec(np.dtype(np.float32), frame)
        rows = x in program.per_row
        if rows:
            copy.per_row.add(name)
            copy.clocks[name] = program.clock(x)
        lead = ("batch", "time") if rows and program.kind == "sequence" else ("batch",)
        roles = (*lead, *[None] * len(frame))
        copy.kept.append(Port(name, graph.specs[name].dtype, (*lead, *frame), roles, frame, rows, program.clock(x)))
        layers.append(Kept(name, node.name, op.kind, axes))
    return copy, layers
