"""The time axis: from the file's shapes to frames.

The axes of time and batch leave the shapes: what is left is a frame, and a kernel is called with rows of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.arrays import SizeRule
from tinyrnn.graph.clock import FRAMES, Clock, meeting
from tinyrnn.graph.ir import Graph, Node, Size, Spec
from tinyrnn.graph.limits import check_time
from tinyrnn.graph.op import ROW_BY_ROW, Axis, Frames, Refused, op_of
from tinyrnn.passes.carried_states import CarriedStates, carried_states
from tinyrnn.passes.causality import not_causal
from tinyrnn.passes.dead_code import remove_dead


@dataclass(frozen=True)
class Port:
    """An input or output of a program: its shape in the file and as a frame."""

    name: str
    dtype: np.dtype[Any]
    file_shape: tuple[Size, ...]
    roles: tuple[str | None, ...]
    """of each axis of the file's shape: 'time', 'batch', or None for an axis of the frame"""
    frame: tuple[int, ...]
    per_row: bool
    """one value per frame; otherwise one per call"""
    clock: Clock = FRAMES


@dataclass
class Program:
    """A model over frames, the input of planning and code generation."""

    graph: Graph
    inputs: list[Port]
    outputs: list[Port]
    states: dict[str, str]
    kind: str
    """'sequence' (over time), 'step' (one frame, states in and out) or 'static' (no state)"""
    per_row: set[str]
    refusal: str = ""
    """why no sequence of it can come piece by piece; empty if it can"""
    batches: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """constants that differ along the batch axis, batch first"""
    clocks: dict[str, Clock] = field(default_factory=dict)
    """clocks of the values that do not have one row for each input frame"""
    doubts: list[str] = field(default_factory=list)
    """a sentence for each input that looks like a state but is none"""
    sizes: tuple[SizeRule, ...] = ()
    """restrictions of open sizes"""
    narrowed: str = ""
    """why float64 is computed in float32; empty if it is not"""
    carried: set[tuple[str, str]] = field(default_factory=set)
    """(initial, final value) of recurrences that start from a state of the graph and end with its next value"""
    rounded: bool = False
    """whether each frame rounds such a state to half precision"""

    def clock(self, name: str) -> Clock:
        """The clock of a value with one row per frame."""
        return self.clocks.get(name, FRAMES)

    @property
    def waits(self) -> list[Clock]:
        """The clocks that a flush has to complete, where a sequence has rows after its last frame."""
        found = [p.clock for p in self.outputs if p.per_row]
        for node in self.graph.nodes:
            if any(name and name not in self.per_row for name in node.outputs):
                found += [self.clock(name) for name in node.inputs if name in self.per_row]
        return [clock for clock in dict.fromkeys(found) if clock != FRAMES]

    @property
    def refuses_stream(self) -> str:
        """Why it has no streams; empty if it has."""
        return self.refusal or "".join(
            f"constant {name!r} differs from one batch entry to the next" for name in [*self.batches][:1]
        )

    @property
    def visible_inputs(self) -> list[Port]:
        """The inputs of a stream: all except states."""
        return [p for p in self.inputs if p.name not in self.states]

    @property
    def visible_outputs(self) -> list[Port]:
        """The outputs of a stream: all except states, or the states if there is nothing else."""
        return [p for p in self.outputs if p.name not in self.states.values()] or self.outputs


def with_given_constants(program: Program) -> Program:
    """The program where constants that differ along the batch axis are its last inputs, which belong to a call."""
    ports = [
        Port(name, array.dtype, ("batch", *array.shape[1:]), ("batch", *[None] * (array.ndim - 1)), array.shape[1:], False)
        for name, array in program.batches.items()
    ]
    return replace(program, inputs=[*program.inputs, *ports], batches={}) if ports else program


def to_frames(graph: Graph, file_shapes: dict[str, tuple[Size, ...]], states: dict[str, str], roles: dict[Axis, str]) -> Program:
    """The program over frames. Raises `UnsupportedError` naming the first node that does not work frame by frame."""
    frames = Frames(graph.specs, roles, graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        check_time()
        try:
            _check_time(node, frames)
            made_of = op_of(node).frame(node, frames)
        except Refused as error:
            raise UnsupportedError(f"node {node.name!r} ({node.op}): {error}") from None
        nodes += [made_of] if isinstance(made_of, Node) else made_of
    timed = any("time" in role for role in roles.values())
    if timed:
        per_row = {n for n, spec in graph.specs.items() if any("time" in roles.get((n, a), "") for a in range(len(spec.shape)))}
    else:
        per_row = depending(nodes, graph.inputs)
    per_row = (per_row - graph.constants.keys()) | set(frames.made)
    nodes, clocks = _clocked(nodes, frames, per_row)
    for node in nodes:
        check_time()
        if op_of(node).row_by_row(node, per_row.__contains__):
            node.attributes[ROW_BY_ROW] = True
            per_row -= inside(node) - set(node.outputs)
    framed = Graph(
        graph.name,
        list(graph.inputs),
        list(graph.outputs),
        {},
        {},
        nodes,
        graph.metadata,
        integers=graph.integers,
    )
    remove_dead(framed)
    nodes = framed.nodes
    alive = {*graph.inputs, *graph.outputs, *graph.constants, *framed.every_name()}
    framed.specs = {name: frames.made.get(name) or Spec(graph.specs[name].dtype, frames.shape(name)) for name in alive}
    batches = {}
    read = {name for node in nodes for name in node.inputs} | set(graph.outputs)
    for name, array in graph.constants.items():
        if name not in read:
            continue
        value, varies = _constant_frame(name, array, frames)
        if varies:
            batches[name] = value
            framed.inputs.append(name)
        else:
            framed.constants[name] = value
    per_row &= alive - set(framed.constants)
    kind = "sequence" if timed else "step" if states else "static"

    def port(name: str) -> Port:
        rank = len(graph.specs[name].shape)
        own = tuple(roles.get((name, a)) for a in range(rank))
        frame = frames.shape(name)
        while kind != "sequence" and len(frame) > 1 and frame[0] == 1:
            frame = frame[1:]
        shape = file_shapes.get(name, tuple(r or n for r, n in zip(own, graph.specs[name].sizes, strict=True)))
        return Port(name, graph.specs[name].dtype, shape, own, frame, name in per_row, clocks.get(name, FRAMES))

    refusal = next((f"node {n.name!r} ({n.op}): {reason}" for n in framed.nodes if (reason := op_of(n).forbids_stream(n))), "")
    named = (str(n) for name, shape in file_shapes.items() for a, n in enumerate(shape) if roles.get((name, a)) == "time")
    carried = (
        carried_states(framed, states, per_row, next((n for n in named if not n.isdigit()), "")) if timed else CarriedStates()
    )
    if timed:
        refusal = refusal or not_causal(framed, per_row) or carried.refusal
    return Program(
        framed,
        [port(n) for n in graph.inputs],
        [port(n) for n in graph.outputs],
        states,
        kind,
        per_row,
        refusal,
        batches,
        clocks,
        carried=carried.pairs,
        rounded=carried.rounded,
    )


def _check_time(node: Node, frames: Frames) -> None:
    """Raise `Refused` where a node would split a value without rows into rows."""

    def timed(name: str) -> bool:
        return any("time" in frames.roles[name, axis] and frames.specs[name].sizes[axis] > 1 for axis in frames.rows(name))

    given = [name for name in node.inputs if name in frames.specs and name not in frames.constants]
    if any(map(timed, given)):
        return
    sizes = {frames.specs[name].elements for name in given}
    for name in node.outputs:
        if name and timed(name) and frames.specs[name].elements in sizes:
            raise Refused("its output goes along time and no axis of its inputs does")


def _clocked(nodes: list[Node], frames: Frames, per_row: set[str]) -> tuple[list[Node], dict[str, Clock]]:
    """(nodes, with windows that align inputs whose rows come at different times; clocks other than the input's)."""
    clocks: dict[str, Clock] = {}
    late: dict[tuple[str, Clock], str] = {}
    result = []
    for node in nodes:
        check_time()
        given = {name: clocks.get(name, FRAMES) for name in node.inputs if name in per_row}
        target = meeting(list(given.values())) if given else FRAMES
        for name, clock in given.items():
            if clock == target:
                continue
            if (name, target) not in late:
                aligned, late[name, target] = frames.window(node, name, [0])
                aligned.attributes["clock"] = target
                clocks[late[name, target]] = target
                per_row.add(late[name, target])
                result.append(aligned)
            _read_instead(node, name, late[name, target])
        made = op_of(node).clock(node, target)
        if made != FRAMES:
            clocks |= {name: made for name in {*node.outputs, *inside(node)} if name in per_row}
        for _, inner in node.nested():
            other = next((each for each in inner.every_node() if op_of(each).clock(each, target) != target), None)
            if other is not None:
                raise UnsupportedError(
                    f"node {other.name!r} ({other.op}) in {node.name!r} changes the rate or the delay of its rows"
                )
        result.append(node)
    return result, clocks


def _read_instead(node: Node, name: str, other: str) -> None:
    node.inputs = tuple(other if i == name else i for i in node.inputs)
    for _, inner in node.nested():
        inner.outputs = [other if i == name else i for i in inner.outputs]
        for each in inner.nodes:
            _read_instead(each, name, other)


def depending(nodes: Iterable[Node], names: Iterable[str]) -> set[str]:
    """The values that depend on those named, or on chance, and these."""
    found = set(names)
    for node in nodes:
        if op_of(node).random or any(name in found for name in (*node.inputs, *node.outputs)):
            found.update(name for name in node.outputs if name)
            found |= inside(node)
    return found


def inside(node: Node) -> set[str]:
    """The values that the nested graphs of a node compute, and their inputs."""
    found: set[str] = set()
    for _, inner in node.nested():
        found |= {*inner.inputs, *(name for each in inner.every_node() for name in each.outputs)}
        found |= {name for each in inner.every_node() for _, held in each.nested() for name in held.inputs}
    return found


def _constant_frame(name: str, array: np.ndarray[Any, Any], frames: Frames) -> tuple[np.ndarray[Any, Any], bool]:
    """(constant without its row axes, whether it varies along the batch axis, which is then kept first)."""
    varies = None
    for axis in frames.rows(name):
        first = np.take(array, [0], axis=axis)
        if array.shape[axis] != 1 and not np.array_equal(
            array, np.broadcast_to(first, array.shape), equal_nan=array.dtype.kind == "f"
        ):
            if frames.role(name, axis) != "batch":
                raise UnsupportedError(f"constant {name!r} differs from one time step to the next")
            varies = axis
    index = tuple(0 if a in frames.rows(name) and a != varies else slice(None) for a in range(array.ndim))
    if varies is None:
        return np.ascontiguousarray(array[index]).reshape(frames.shape(name)), False
    moved = np.moveaxis(array, varies, 0)
    index = (slice(None), *(0 if a in frames.rows(name) else slice(None) for a in range(array.ndim) if a != varies))
    return np.ascontiguousarray(moved[index]), True
