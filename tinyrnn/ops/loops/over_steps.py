"""A loop whose iterations are the time axis: only what follows from its carried values runs step by step, the rest in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinyrnn.graph.ir import Graph, Node, Spec, free_names
from tinyrnn.graph.op import OURS, Frames, Refused, op_of
from tinyrnn.ops.loops.control_flow import framed, give_names, rename
from tinyrnn.ops.recurrent.operators import Recurrent

Parts = tuple[list[str], list[tuple[str, str, str, str]], list[str], list[tuple[str, str]]]
"""parts of a loop: [condition in the body], (before, start, end, after) of carried values, slices, (made, output) of stacks"""


def frames_of(node: Node, parts: Parts, sources: list[str], defaults: Mapping[str, Any], frames: Frames) -> list[Node]:
    """The nodes over frames, in order. sources: the values that the loop scans. defaults: its attributes. Raises `Refused`."""
    _, carried, slices, stacked = parts
    backs = {back for _, back in (*node.attributes["scanned"], *node.attributes["stacked"])}
    if len(backs) > 1:
        raise Refused("it goes through time in both directions at once; supported is one direction for all that it scans")
    if node.attributes["tests"]:
        raise Refused("its condition, computed from data, may end it before the sequence ends")
    body = framed(node.attributes["body"], frames)
    for name in free_names(body):
        if any("time" in frames.roles[name, axis] for axis in frames.rows(name)) or name in frames.made:
            raise Refused(f"each of its iterations reads {name!r} at all time steps")
    starts = [start for _, start, _, _ in carried]
    rename(body.nodes, dict(zip(slices, sources, strict=True)))
    body.outputs = [dict(zip(slices, sources, strict=True)).get(name, name) for name in body.outputs]
    n = len(carried)
    give_names(body, [(n + place, name) for place, (_, name) in enumerate(stacked)])
    before, core, after = _parts(body, starts, body.outputs[:n])
    for each in core:
        if each.domain == OURS and each.op == "Iteration":
            each.attributes["over_time"] = True

    timed = set(sources)
    for each in before:
        if timed & set(each.inputs):
            timed |= set(each.outputs)
            made_per_row(frames, each.outputs)
    made = {name for each in core for name in each.outputs if name}
    passed = []
    for end, (_, output) in zip(body.outputs[n:], stacked, strict=True):
        if end == output:
            continue
        if end in made or end in starts:
            passed.append((output, end))
        else:
            after.append(
                Node("Identity", f"{node.name}.{output}", (end,), (output,), {}, node.version, "", (frames.shape(output),))
            )
    read = {name for each in after for name in each.inputs} | {output for _, output in stacked}
    crossing = [name for name in dict.fromkeys(v for each in core for v in each.outputs) if name in read]
    made_per_row(frames, [*crossing, *(output for output, _ in passed), *(v for each in after for v in each.outputs)])
    ends = [*((name, name) for name in crossing), *passed]
    recurrent = _recurrent(frames, core, [(c[0], c[1], end, c[3]) for c, end in zip(carried, body.outputs, strict=False)], ends)
    if recurrent is not None:
        return [*before, *recurrent, *after]
    inner = Graph(body.name, starts, [*body.outputs[:n], *crossing, *(end for _, end in passed)], {}, {}, core)
    if not n and not core:
        return [*before, *after]
    inputs = [initial for initial, _, _, _ in carried]
    loop = Node(
        "Iterate",
        node.name,
        (*inputs, *free_names(inner)),
        (*(final for _, _, _, final in carried), *crossing, *(output for output, _ in passed)),
        {
            **defaults,
            "body": inner,
            "carries": n,
            "over_time": True,
            "backwards": True in backs,
            "trip": None,
            "passed": passed,
        },
        node.version,
        OURS,
    )
    loop.shapes = tuple(frames.shape(name) if name in frames.specs else () for name in loop.inputs)
    return [*before, loop, *after]


def made_per_row(frames: Frames, names: Iterable[str]) -> None:
    """Note values of the body that have one row per frame, though no time axis."""
    frames.made.update((name, Spec(frames.specs[name].dtype, frames.shape(name))) for name in names if name)


def _parts(body: Graph, starts: list[str], ends: list[str]) -> tuple[list[Node], list[Node], list[Node]]:
    """The body's nodes that need no earlier iteration; those that later iterations need, or that read one; those that follow."""
    varying = set(starts)
    before, rest = [], []
    for each in body.nodes:
        if varying & set(each.inputs) or (each.domain == OURS and each.op == "Iteration"):
            varying |= set(each.outputs)
            rest.append(each)
        else:
            before.append(each)
    needed, core = set(ends), list[Node]()
    for each in reversed(rest):
        if needed & set(each.outputs) or set(starts) & set(each.inputs) or each.op == "Iteration":
            needed |= set(each.inputs)
            core.insert(0, each)
    return before, core, [each for each in rest if not any(each is kept for kept in core)]


def _recurrent(
    frames: Frames, core: list[Node], carried: list[tuple[str, str, str, str]], ends: list[tuple[str, str]]
) -> list[Node] | None:
    """The recurrent operator that a core is, if it is one step of it: its input then goes in as one sequence.

    carried: (value before, at the start, at the end of an iteration, after); ends: (output per row, the value that it is)
    """
    cells = [each for each in core if isinstance(op_of(each), Recurrent)]
    if len(cells) != 1:
        return None
    views = {each.outputs[0]: op_of(each).alias(each) or "" for each in core if each is not cells[0]}
    cell, op = cells[0], op_of(cells[0])
    assert isinstance(op, Recurrent)

    def root(name: str) -> str:
        while views.get(name):
            name = views[name]
        return name

    one = cell.attributes["steps"] == cell.attributes["batch"] == 1 and not cell.attributes["rows_are_time"]
    starts = [root(name) if name else "" for name in (*cell.inputs[5:7], "", "")[: len(op.parts)]]
    wanted = [start for _, start, _, _ in carried]
    x = root(cell.inputs[0])
    outputs = [*cell.outputs, "", "", ""][:3]
    h = {name for name in outputs[:2] if name}
    if (
        not one
        or op.attribute(cell, "direction") != "forward"
        or "" in views.values()
        or sorted(starts) != sorted(wanted)
        or x in wanted
        or x in h
        or any(name for name in cell.inputs[4:5])
        or any(root(value) not in h for _, value in ends)
    ):
        return None
    before = {start: (initial, after) for initial, start, _, after in carried}
    for _, start, end, _ in carried:
        place = starts.index(start)
        if root(end) not in (h if place == 0 else {outputs[1 + place]}):
            return None
    y = frames.value(
        f"{cell.name}.rows", Spec(frames.specs[x if x in frames.specs else cell.inputs[0]].dtype, frames.shape(wanted[0]))
    )
    made = Node(
        cell.op,
        cell.name,
        (*(*cell.inputs, "", "", "", "", "")[:5], *(before[start][0] for start in starts)),
        (y, *(before[start][1] for start in starts)),
        {**cell.attributes, "rows_are_time": True},
        cell.version,
        cell.domain,
    )
    made.shapes = (cell.shapes[0], *(() if not name else frames.shape(name) for name in made.inputs[1:]))
    reached, kept = {cell.inputs[0]}, list[Node]()
    for each in reversed(core):
        if each.outputs[0] in reached:
            kept.insert(0, each)
            reached.add(each.inputs[0])
    made_per_row(frames, (each.outputs[0] for each in kept))
    views_of = [
        Node("Identity", f"{cell.name}.{name}", (y,), (name,), {}, cell.version, "", (frames.shape(name),)) for name, _ in ends
    ]
    return [*kept, made, *views_of]
