"""Loop and Scan, as files have them; both become `Iterate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.ir import Graph, Node, Spec, refresh_captures
from tinyrnn.graph.op import OURS, REQUIRED, Array, Refused, RunGraph, op_of, register, rewrite
from tinyrnn.ops.loops.control_flow import ControlFlow, one_element, rename
from tinyrnn.ops.loops.iterate import LONGEST, Iterate, IterationNumber
from tinyrnn.ops.loops.trip_count import NEVER, Affine, InductionVariables

INT64, BOOL = np.dtype(np.int64), np.dtype(np.bool_)


def body_of(node: Node, inputs: int) -> Graph:
    body = node.attributes.get("body")
    if not isinstance(body, Graph) or len(body.inputs) < inputs:
        raise Refused("its body must be a graph")
    return body


def check_carried(body: Graph, pairs: Sequence[tuple[str, str]], specs: Sequence[Spec | None]) -> list[Spec]:
    """Specs of the carried values. Raises `Refused` if type or shape change from iteration to iteration."""
    found = []
    for (start, end), before in zip(pairs, specs, strict=True):
        if before is None or body.specs[end] != before:
            raise Refused(
                f"the value {start!r} that it carries is {before} before and {body.specs[end]} after an iteration; "
                f"supported are values that keep their type and shape"
            )
        found.append(before)
    return found


@register
class Loop(ControlFlow):
    """ONNX Loop, with a trip count, a condition, or both."""

    name = "Loop"
    inputs = ("M?", "cond?", "v_initial*")
    outputs = ("v_final_and_scan_outputs*",)
    attributes: ClassVar = {"body": REQUIRED, "trip": None}

    def carries(self, node: Node) -> int:
        return len(body_of(node, 2).inputs) - 2

    def arguments(self, node: Node) -> int:
        return 2 + self.carries(node)

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        n, body = self.carries(node), body_of(node, 2)
        if len(body.outputs) != 1 + len(node.outputs) or len(node.outputs) < n or len(specs) != 2 + n:
            raise Refused(
                f"its body has {len(body.inputs)} inputs and {len(body.outputs)} outputs, which do not fit {len(node.outputs)} "
                f"outputs of the node"
            )
        one_element("trip count", specs[0], INT64)
        one_element("condition", specs[1], BOOL)
        unchanged = {s: v for v, s, e in zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], strict=False) if s == e}
        rename(body.nodes, unchanged)
        body.outputs = [unchanged.get(name, name) for name in body.outputs]

    def enter(self, node: Node, key: str, specs: Sequence[Spec | None]) -> list[Spec]:
        return [Spec(INT64, ()), Spec(BOOL, ()), *(spec for spec in specs[2:] if spec is not None)]

    def induction(self, node: Node, constants: Mapping[str, Array]) -> InductionVariables:
        body, n = body_of(node, 2), self.carries(node)
        carried = list(zip(node.inputs[2 : 2 + n], body.inputs[2:], body.outputs[1:], strict=False))
        return InductionVariables(body, body.inputs[0], carried, constants)

    def learn(self, node: Node, constants: Mapping[str, Array]) -> None:
        body = body_of(node, 2)
        iterations = self.induction(node, constants).trip_count(body.outputs[0], body.inputs[1])
        first, limit = (constants.get(name) if name else None for name in node.inputs[:2][::-1])
        most = int(limit.ravel()[0]) if limit is not None else None if node.inputs[0] else NEVER
        if first is None and node.inputs[1]:
            iterations = None
        elif first is not None and not first.ravel()[0]:
            most = 0
        elif iterations is not None:
            iterations += 1
        if most == 0 or (most is not None and iterations is not None):
            node.attributes["trip"] = max(0, min(most, NEVER if iterations is None else iterations))
        else:
            node.attributes["trip"] = None
        if (node.attributes["trip"] or 0) > LONGEST:
            raise Refused(
                f"a Loop without bound: neither a trip count of at most {LONGEST:,} nor a condition that can become false ends it"
            )

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        body, n, trip = body_of(node, 2), self.carries(node), node.attributes["trip"]
        carried = check_carried(body, list(zip(body.inputs[2:], body.outputs[1:], strict=False)), specs[2:])
        scans = [body.specs[name] for name in body.outputs[1 + n :]]
        if scans and trip is None:
            raise Refused(
                f"its trip count is known only at run time, so that its output {node.outputs[n]!r} would have no "
                f"fixed size. Fix the trip count: bind={{{node.inputs[0] or 'its name'!r}: 16}}"
            )
        return [*carried, *(Spec(s.dtype, (trip, *s.shape)) for s in scans)]

    def prune(self, node: Node) -> None:
        body, n = body_of(node, 2), self.carries(node)
        kept = [place for place, name in enumerate(node.outputs) if name or place < n]
        body.outputs = [body.outputs[0], *(body.outputs[1 + place] for place in kept)]
        node.outputs = tuple(node.outputs[place] for place in kept)

    def compute(self, node: Node, arrays: Sequence[Array | None], run: RunGraph) -> tuple[Array, ...]:
        body, n = body_of(node, 2), self.carries(node)
        limit, condition = arrays[:2]
        carried = [np.asarray(array) for array in arrays[2 : 2 + n]]
        made: list[list[Array]] = [[] for _ in body.outputs[1 + n :]]
        most = NEVER if limit is None else int(np.ravel(limit)[0])
        again, iteration = condition is None or bool(np.ravel(condition)[0]), 0
        while again and iteration < most:
            if iteration >= LONGEST:
                raise Refused(f"more than {LONGEST:,} iterations")
            first, *results = run(body, [np.array(iteration, np.int64), np.array(True), *carried])
            again, carried = bool(np.ravel(first)[0]), results[:n]
            for rows, result in zip(made, results[n:], strict=True):
                rows.append(result)
            iteration += 1
        shapes = [body.specs.get(name) for name in body.outputs[1 + n :]]
        stacked = [
            np.stack(rows) if rows else np.zeros((0, *(spec.sizes if spec else ())), spec.dtype if spec else np.float32)
            for rows, spec in zip(made, shapes, strict=True)
        ]
        return (*carried, *stacked)


@register
class Scan(ControlFlow):
    """ONNX Scan since opset 9."""

    name = "Scan"
    inputs = ("initial_state_and_scan_inputs*",)
    outputs = ("final_state_and_scan_outputs*",)
    attributes: ClassVar = {
        "body": REQUIRED,
        "num_scan_inputs": REQUIRED,
        "scan_input_axes": None,
        "scan_output_axes": None,
        "scan_input_directions": None,
        "scan_output_directions": None,
    }

    def counts(self, node: Node) -> tuple[int, int, int]:
        """Carried values, scan inputs, scan outputs."""
        body, scans = body_of(node, 0), int(self.attribute(node, "num_scan_inputs"))
        n = len(body.inputs) - scans
        return n, scans, len(body.outputs) - n

    def arguments(self, node: Node) -> int:
        return len(body_of(node, 0).inputs)

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        if node.version < 9:
            raise Refused(f"opset {node.version}; supported are opsets from 9 on. Convert the model")
        n, scans, outputs = self.counts(node)
        if n < 0 or scans < 1 or outputs < 0 or len(node.outputs) != n + outputs or None in specs:
            raise Refused(
                f"num_scan_inputs={scans} and its body do not fit its {len(specs)} inputs and {len(node.outputs)} outputs"
            )
        for key, count in (("input", scans), ("output", outputs)):
            for kind in ("axes", "directions"):
                given = self.attribute(node, f"scan_{key}_{kind}") or [0] * count
                if len(given) != count or (kind == "directions" and set(given) - {0, 1}):
                    raise Refused(f"scan_{key}_{kind}={list(given)} for {count} scan {key}s")
                node.attributes[f"scan_{key}_{kind}"] = [int(g) for g in given]

    def _slices(self, node: Node, specs: Sequence[Spec | None]) -> tuple[int, list[Spec]]:
        n, _, _ = self.counts(node)
        trip, slices = None, []
        for spec, axis in zip(specs[n:], node.attributes["scan_input_axes"], strict=True):
            assert spec is not None
            shape = list(spec.sizes)
            length = shape.pop(axis)
            if trip not in (None, length):
                raise Refused(f"its scan inputs have {trip} and {length} slices")
            trip = length
            slices.append(Spec(spec.dtype, tuple(shape)))
        assert trip is not None
        return trip, slices

    def enter(self, node: Node, key: str, specs: Sequence[Spec | None]) -> list[Spec]:
        n = self.counts(node)[0]
        return [*(spec for spec in specs[:n] if spec is not None), *self._slices(node, specs)[1]]

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        body, (n, _, _) = body_of(node, 0), self.counts(node)
        carried = check_carried(body, list(zip(body.inputs[:n], body.outputs[:n], strict=True)), specs[:n])
        trip, found = self._slices(node, specs)[0], []
        for name, axis in zip(body.outputs[n:], node.attributes["scan_output_axes"], strict=True):
            spec = body.specs[name]
            place = axis % (len(spec.shape) + 1)
            found.append(Spec(spec.dtype, (*spec.shape[:place], trip, *spec.shape[place:])))
        return [*carried, *found]

    def compute(self, node: Node, arrays: Sequence[Array | None], run: RunGraph) -> tuple[Array, ...]:
        body, (n, scans, outputs) = body_of(node, 0), self.counts(node)
        given = [np.asarray(array) for array in arrays[: n + scans]]
        slices = []
        for array, axis, back in zip(
            given[n:], node.attributes["scan_input_axes"], node.attributes["scan_input_directions"], strict=True
        ):
            moved = np.moveaxis(array, axis, 0)
            slices.append(moved[::-1] if back else moved)
        carried, made = given[:n], [list[Array]() for _ in range(outputs)]
        for parts in zip(*slices, strict=True):
            results = run(body, [*carried, *map(np.asarray, parts)])
            carried = results[:n]
            for rows, result in zip(made, results[n:], strict=True):
                rows.append(result)
        stacked = []
        for rows, axis, back in zip(
            made, node.attributes["scan_output_axes"], node.attributes["scan_output_directions"], strict=True
        ):
            whole = np.stack(rows[::-1] if back else rows)
            stacked.append(np.moveaxis(whole, 0, axis))
        return (*carried, *stacked)


def _moved_out(node: Node) -> list[Node]:
    """Hoist nodes out of a loop's body that only move elements of outer values, as they are loop-invariant."""
    body = node.attributes["body"]
    inside, out, rest = {*body.inputs}, list[Node](), list[Node]()
    for each in body.nodes:
        fixed = op_of(each).moves and any(each.inputs) and not inside & {*each.inputs}
        (out if fixed else rest).append(each)
        inside |= set() if fixed else {*each.outputs}
    body.nodes = rest
    refresh_captures(node, op_of(node).arguments(node))
    return out


@rewrite
def loops_iterate(graph: Graph) -> None:
    """Rewrite Loop and Scan as `Iterate`."""
    loops = [node for node in graph.nodes if node.domain in ("", "ai.onnx") and node.op in (Loop.name, Scan.name)]
    moved = {id(node): _moved_out(node) for node in loops}
    graph.nodes = [each for node in graph.nodes for each in (*moved.get(id(node), ()), node)]
    for index, node in enumerate(graph.nodes):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op == Scan.name:
            graph.nodes[index] = _from_scan(node)
        elif node.op == Loop.name:
            graph.nodes[index] = _from_loop(graph, node)


def _iterate(node: Node, body: Graph, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> Node:
    made = Node(
        Iterate.name,
        node.name,
        tuple(inputs),
        tuple(outputs),
        {**Iterate.attributes, "body": body, **attributes},
        node.version,
        OURS,
    )
    refresh_captures(made, len(made.inputs))
    return made


def _from_scan(node: Node) -> Node:
    op = op_of(node)
    assert isinstance(op, Scan)
    n, scans, _ = op.counts(node)
    get = node.attributes
    return _iterate(
        node,
        get["body"],
        ["", "", *node.inputs[: n + scans]],
        node.outputs,
        carries=n,
        trip=None,
        tests=False,
        scanned=[(axis, bool(back)) for axis, back in zip(get["scan_input_axes"], get["scan_input_directions"], strict=True)],
        stacked=[(axis, bool(back)) for axis, back in zip(get["scan_output_axes"], get["scan_output_directions"], strict=True)],
    )


def _from_loop(graph: Graph, node: Node) -> Node:
    """The Loop as `Iterate`: induction variables become `Iteration` nodes, what it reads by the iteration number scan inputs."""
    op = op_of(node)
    assert isinstance(op, Loop)
    body, n, trip = body_of(node, 2), op.carries(node), node.attributes["trip"]
    induction = op.induction(node, graph.constants)
    tests = trip is None and induction.trip_count(body.outputs[0], body.inputs[1]) != NEVER
    if trip is None and node.inputs[0] and node.inputs[0] not in graph.constants:
        _check_limit(graph, node)
    kept = []
    for place in range(n):
        line, output = induction.affine.get(body.inputs[2 + place]), node.outputs[place]
        if body.outputs[1 + place] == node.inputs[2 + place] and not output:
            continue
        if line is None or (trip is None and output):
            kept.append(place)
        elif output and trip is not None:
            like = graph.specs[output]
            graph.constants[output] = np.full(like.sizes, line.step * trip + line.start, like.dtype)
    lines = {name: line for name in [*body.inputs, *induction.makers] if (line := induction.affine_of(name)) and line.step}
    scanned = _scan_inputs(graph, body, lines, trip)
    slices = [slice_name for _, slice_name, _, _ in scanned]
    carried = [body.inputs[2 + place] for place in kept]
    counted = [name for name in lines if name not in carried and name not in slices]
    replaced = set(counted) | set(slices)
    rest = [each for each in body.nodes if not set(each.outputs) & replaced]
    body.nodes = [_count(node, name, lines[name]) for name in counted] + rest
    if tests:
        condition = node.inputs[1] or _true(graph, node)
    else:
        condition = ""
        rename(body.nodes, {body.inputs[1]: _true(graph, node)})
        body.outputs = [_true(graph, node) if name == body.inputs[1] else name for name in body.outputs]
    body.inputs = [*([body.inputs[1]] if tests else []), *carried, *slices]
    body.outputs = [
        *(body.outputs[:1] if tests else []),
        *(body.outputs[1 + place] for place in kept),
        *body.outputs[1 + n :],
    ]
    return _iterate(
        node,
        body,
        [
            node.inputs[0] if trip is None else "",
            condition,
            *(node.inputs[2 + place] for place in kept),
            *(source for source, _, _, _ in scanned),
        ],
        [*(node.outputs[place] for place in kept), *node.outputs[n:]],
        carries=len(kept),
        trip=trip,
        tests=tests,
        scanned=[(axis, back) for _, _, axis, back in scanned],
        stacked=[(0, False)] * (len(node.outputs) - n),
    )


def _check_limit(graph: Graph, node: Node) -> None:
    producers, name = graph.producers(), node.inputs[0]
    while name in producers and op_of(producers[name]).moves:
        name = producers[name].inputs[0]
    maker = producers.get(name)
    bounded = maker is not None and maker.op in ("Min", "Clip") and any(i in graph.constants for i in maker.inputs)
    if maker is not None and not bounded:
        raise UnsupportedError(
            f"node {node.name!r} (Loop): a Loop without bound: its trip count {node.inputs[0]!r} follows from data; supported "
            f"are a number known at load, an input of the model, or what a Min with a constant makes"
        )


def _true(graph: Graph, node: Node) -> str:
    name = f"{node.name}.true"
    graph.constants[name] = np.array(True)
    graph.specs[name] = Spec(BOOL, ())
    return name


def _count(node: Node, name: str, line: Affine) -> Node:
    attributes = {**IterationNumber.attributes, "step": line.step, "start": line.start}
    return Node(IterationNumber.name, f"{node.name}.{name}", (), (name,), attributes, node.version, OURS)


def _scan_inputs(graph: Graph, body: Graph, lines: Mapping[str, Affine], trip: int | None) -> list[tuple[str, str, int, bool]]:
    """What the body reads by the iteration number: (value, its slice, axis, whether from the end)."""
    inside = {*body.inputs, *(name for node in body.nodes for name in node.outputs)}
    found, more = [], []
    for node in body.nodes:
        if node.op != "Gather" or node.domain or node.inputs[0] in inside or trip is None:
            continue
        source, index = node.inputs
        line, shape = lines.get(index), graph.specs[source].sizes
        axis = int(node.attributes.get("axis", 0)) % max(len(shape), 1)
        if line not in (Affine(1, 0), Affine(-1, trip - 1)) or not shape or shape[axis] != trip:
            continue
        name, rank = node.outputs[0], len(graph.specs[index].shape)
        if rank:
            name = graph.fresh(f"{name}.slice")
            graph.specs[name] = Spec(graph.specs[source].dtype, shape[:axis] + shape[axis + 1 :])
            target = graph.specs[node.outputs[0]].sizes
            more.append((node, Node("Reshape", node.name, (name,), node.outputs, {"shape": list(target)}, node.version)))
        found.append((source, name, axis, line == Affine(-1, trip - 1)))
    for old, new in more:
        body.nodes[body.nodes.index(old)] = new
    return found
