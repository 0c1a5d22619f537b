"""Which axes are time and which are batch.

Operators define which axes of their inputs and outputs are the same (`Op.links`); recurrent operators define
which are time and batch (`Op.row_axes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tinyrnn.errors import LoadError
from tinyrnn.graph.ir import Graph, Size
from tinyrnn.graph.limits import check_time
from tinyrnn.graph.op import Axis, Refused, op_of

Time = int | str | Mapping[str, int]
"""which axis is time: one axis of all inputs, the name of an open size, or {input: axis}"""

TIME_NAME = re.compile(r"^(t|time|seq\w*|\w*frames?|\w*steps?|\w*len(gth)?)$", re.IGNORECASE)


class Axes:
    """Which axes of which values are the same axis (union-find)."""

    def __init__(self) -> None:
        self.parent: dict[Axis, Axis] = {}
        self.parts: dict[Axis, tuple[Axis, ...]] = {}

    def find(self, axis: Axis) -> Axis:
        root = axis
        while self.parent.get(root, root) != root:
            root = self.parent[root]
        while self.parent.get(axis, axis) != root:
            self.parent[axis], axis = root, self.parent[axis]
        return root

    def join(self, a: Axis, b: Axis) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        self.parent[b] = a
        first, second = self.parts.get(a), self.parts.pop(b, None)
        if first is None and second is not None:
            self.parts[a] = second
        elif first is not None and second is not None and len(first) == len(second):
            for x, y in zip(first, second, strict=True):
                self.join(x, y)

    def merge(self, many: list[Axis], one: Axis) -> None:
        """Record that axis `one` is the axes `many` joined in row-major order."""
        known = self.parts.get(self.find(one))
        if known is None:
            self.parts[self.find(one)] = tuple(many)
        elif len(known) == len(many):
            for x, y in zip(known, many, strict=True):
                self.join(x, y)


def find_axes(graph: Graph) -> Axes:
    axes = Axes()
    for node in graph.nodes:
        check_time()
        op = op_of(node)
        for a, b in op.links(node, graph.specs):
            axes.join(a, b)
        for before, after in op.merges(node, graph.specs):
            if len(after) == 1:
                axes.merge(before, after[0])
            elif len(before) == 1:
                axes.merge(after, before[0])
    return axes


def seeds(graph: Graph, file_shapes: dict[str, tuple[Size, ...]], time: Time | None = None) -> list[tuple[Axis, str]]:
    """(axis, role) of axes known to be time or batch: given, from recurrent operators, else from open sizes of the file.

    If time is known and batch is not, a leading axis of length 1 is batch.
    """
    found = _seeds(graph, file_shapes, time)
    if {role for _, role in found} == {"time"}:
        taken = {axis for axis, _ in found}
        ones = [(name, 0) for name in graph.inputs if len(file_shapes[name]) > 2 and file_shapes[name][0] == 1]
        found += [(axis, "batch") for axis in ones if axis not in taken]
    return found


def _seeds(graph: Graph, file_shapes: dict[str, tuple[Size, ...]], time: Time | None) -> list[tuple[Axis, str]]:
    found: list[tuple[Axis, str]] = []
    producers = graph.producers()
    for node in graph.nodes:
        check_time()
        axes = op_of(node).row_axes(node)
        if axes is None:
            continue
        time_axis, batch = axes
        handed_in = any(name in producers or name in graph.inputs for name in op_of(node).starts_from(node))
        if time is None and (graph.specs[time_axis[0]].sizes[time_axis[1]] != 1 or not handed_in):
            found.append((time_axis, "time"))
        if batch is not None:
            found.append((batch, "batch"))
    named = any(isinstance(size, str) and TIME_NAME.match(size) for shape in file_shapes.values() for size in shape)
    if time is None and not named and "time" not in {role for _, role in found}:
        found += [(axis, "time") for axis in _guessed(graph)]
    if time is not None:
        given = _given(graph, file_shapes, time)
        return [
            *given,
            *(one for one in found if one[0] not in {axis for axis, _ in given}),
            *_open_batches(graph, file_shapes, given),
        ]
    lengths, batches = (
        {graph.specs[name].sizes[axis] for (name, axis), role in found if role == which} for which in ("time", "batch")
    )
    if lengths and batches:
        return found
    sizes_open = {graph.specs[n].sizes[a] for n in graph.inputs for a, size in enumerate(file_shapes[n]) if isinstance(size, str)}
    known = batches and not batches & sizes_open
    """whether a batch axis of fixed size exists, so that open sizes are not batch"""
    first = {shape[0] for name in graph.inputs if (shape := file_shapes[name]) and not TIME_NAME.match(str(shape[0]))}
    for name in graph.inputs:
        opened = [(axis, size) for axis, size in enumerate(file_shapes[name]) if isinstance(size, str)]
        if lengths:
            other = [axis for axis, _ in opened[:2] if graph.specs[name].sizes[axis] not in lengths]
            found += [((name, axis), "batch") for axis in other if not known]
            continue
        timed = 0 if [bool(TIME_NAME.match(size)) for _, size in opened[:2]] in ([True], [True, False]) else 1
        """the second, unless the first alone is named so"""
        for place, (axis, size) in enumerate(opened[:2]):
            alone = len(opened) == 1 and (axis > 0 or timed == 0)
            batch_too = size in first or graph.specs[name].sizes[axis] in batches
            role = "time" if (alone or (len(opened) > 1 and place == timed)) and not batch_too else "batch"
            if role == "time" or not known:
                found.append(((name, axis), role))
    return found


def _guessed(graph: Graph) -> list[Axis]:
    """The axes of inputs that operators propose as time (`Op.may_be_time`)."""
    guessed = [axis for node in graph.nodes for axis in op_of(node).may_be_time(node)]
    if not guessed:
        return []
    axes = find_axes(graph)
    given = {axes.find((name, axis)) for name in graph.inputs for axis in range(len(graph.specs[name].shape))}
    return [axis for axis in guessed if axes.find(axis) in given]


def _given(graph: Graph, file_shapes: dict[str, tuple[Size, ...]], time: Time) -> list[tuple[Axis, str]]:
    """The axes that the user declares as time. Raises `LoadError` where they do not exist."""
    shapes = {name: file_shapes[name] for name in graph.inputs}
    shown = ", ".join(f"{name!r} {list(shape)}".replace("'", "") for name, shape in shapes.items())
    if isinstance(time, Mapping):
        axes = [(name, axis) for name, axis in time.items()]
        wrong = next((n for n, a in axes if n not in shapes or not -len(shapes[n]) <= a < len(shapes[n])), None)
        axes = [(name, axis % len(shapes[name])) for name, axis in axes] if wrong is None else []
    elif isinstance(time, str):
        axes = [(name, axis) for name, shape in shapes.items() for axis, size in enumerate(shape) if size == time]
    else:
        whole = isinstance(time, int)
        axes = [(name, time % len(shape)) for name, shape in shapes.items() if whole and -len(shape) <= time < len(shape)]
    if not axes:
        raise LoadError(
            f"{graph.name}: time={time!r} names no axis. The inputs are {shown}; time= takes an axis, the name of an open size, "
            f"or {{input: axis}}"
        )
    return [(axis, "time") for axis in axes]


def _open_batches(
    graph: Graph, file_shapes: dict[str, tuple[Size, ...]], given: list[tuple[Axis, str]]
) -> list[tuple[Axis, str]]:
    """The open sizes that are not time."""
    taken = {axis for axis, _ in given}
    names = {file_shapes[name][axis] for name, axis in taken}
    return [
        ((name, axis), "batch")
        for name in graph.inputs
        for axis, size in enumerate(file_shapes[name])
        if isinstance(size, str) and (name, axis) not in taken and size not in names
    ]


def assign_roles(graph: Graph, axes: Axes, wanted: list[tuple[Axis, str]]) -> dict[Axis, str]:
    """Axis → role, for all axes. Raises `Refused` where an axis would be both time and batch."""
    of_class: dict[Axis, str] = {}
    resampled = [pair for node in graph.nodes for pair in op_of(node).resamples(node, graph.specs)]
    waiting = list(wanted)
    while waiting:
        axis, role = waiting.pop(0)
        root = axes.find(axis)
        if of_class.setdefault(root, role) != role:
            raise Refused(f"axis {axis[1]} of {axis[0]!r} is time for one operator and batch for another")
        if not waiting:
            _join_parts(axes, of_class)
            waiting = [
                (other, "time")
                for pair in resampled
                for one, other in (pair, pair[::-1])
                if of_class.get(axes.find(one)) == "time" and axes.find(other) not in of_class
            ]
    _join_parts(axes, of_class)
    result = {}
    for name, spec in graph.specs.items():
        for place in range(len(spec.shape)):
            found = of_class.get(axes.find((name, place)))
            if found is not None:
                result[name, place] = found
    return result


def _join_parts(axes: Axes, of_class: dict[Axis, str]) -> None:
    """Assign the joined role, such as 'batch+time', to axes that join row axes."""
    for root, parts in axes.parts.items():
        roles = [of_class.get(axes.find(part)) for part in parts]
        if all(roles) and axes.find(root) not in of_class:
            of_class[axes.find(root)] = "+".join(role for role in roles if role)
