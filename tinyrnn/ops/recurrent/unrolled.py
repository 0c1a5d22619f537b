"""Loop rerolling: any loop that an exporter unrolled becomes a loop again.

PyTorch's exporters write a hand-written cell as T copies of its step. If all copies do the same to successive slices
of their inputs, and carry values, they become `Iterate`, which compiles in the time of one step, streams, and does not
depend on the file's T.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyrnn.graph.ir import Graph, Node, Spec, refresh_captures, spec_of
from tinyrnn.graph.op import OURS, speculative_rewrite
from tinyrnn.ops.linear.operators import Linear
from tinyrnn.ops.loops.control_flow import rename
from tinyrnn.ops.loops.iterate import Iterate
from tinyrnn.ops.recurrent.unrolled_stack import Steps, in_order, join
from tinyrnn.ops.recurrent.unrolled_start import find_start
from tinyrnn.ops.recurrent.unrolled_state import carry_less
from tinyrnn.ops.recurrent.unrolled_step import Ref, Step, find_step
from tinyrnn.ops.recurrent.unrolled_values import FIXED, Family, Values, lengths, levels_of


@speculative_rewrite
def reroll_steps(graph: Graph) -> None:
    """Rewrite copies of a step as a loop."""
    if lengths(Values(graph)):
        _split_biases(graph)
        while _reroll_one(graph):
            pass


def _split_biases(graph: Graph) -> None:
    """Split a product with a bias into two nodes if the same product also occurs without one, as in an incomplete last step."""
    plain = {node.attributes["W"].tobytes() for node in graph.nodes if node.op == Linear.name and node.attributes["B"] is None}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != Linear.name or node.attributes["B"] is None or node.attributes["W"].tobytes() not in plain:
            nodes.append(node)
            continue
        (output,) = node.outputs
        product, bias = graph.fresh(f"{output}.product"), graph.fresh(f"{output}.bias")
        graph.specs[product], graph.constants[bias] = graph.specs[output], node.attributes["B"]
        graph.specs[bias] = spec_of(node.attributes["B"])
        nodes.append(Node(node.op, product, node.inputs, (product,), {**node.attributes, "B": None}, node.version, node.domain))
        nodes.append(Node("Add", node.name, (product, bias), (output,), {}, node.version))
    graph.nodes = nodes


def _reroll_one(graph: Graph) -> bool:
    values = Values(graph)
    for count in lengths(values):
        found = [
            (step, back) for back in (False, True) if (step := find_step(values, levels_of(values, count, back))) is not None
        ]
        for whole, backwards in sorted(found, key=lambda pair: -len(pair[0].nodes)):
            for step in (carry_less(whole), whole):
                starts = find_start(step)
                if starts is not None:
                    _replace(step, starts, backwards)
                    return True
    return False


class _Wanted(NamedTuple):
    """A value that each step computes, and its uses outside of the steps."""

    name: str
    images: list[str | None]
    read: set[int]


def _wanted(step: Step) -> tuple[list[_Wanted], set[int]]:
    """(values of the steps that are read elsewhere, ids of the nodes that compute values of the steps)."""
    values, turning = step.values, step.turning()
    places: dict[str, tuple[str, int]] = {}
    ends = [held.end.of for held in step.carried if held.end.kind == "made"]
    for name in dict.fromkeys([*ends, *(n for node in step.nodes for n in node.outputs if n in turning)]):
        for t, images in enumerate(step.images):
            if step.steps.level.get(images.get(name, ""), FIXED) != FIXED:
                places.setdefault(images[name], (name, t))
    waiting, seen, read = [values.name(name) for name in values.graph.outputs], set[str](), dict[str, set[int]]()
    while waiting:
        name = waiting.pop()
        if name in places:
            of, t = places[name]
            read.setdefault(of, set()).add(t)
        elif name not in seen and (maker := values.makers.get(name)) is not None:
            seen.add(name)
            waiting += [i for i in values.inputs(maker) if i]
    found = [_Wanted(name, [images.get(name) for images in step.images], taken) for name, taken in read.items()]
    return found, {id(values.makers[name]) for name in places if name in values.makers}


def _replace(step: Step, starts: list[str], backwards: bool) -> None:
    """Replace the steps by the loop."""
    values, graph, count = step.values, step.values.graph, step.steps.count
    wanted, replaced = _wanted(step)
    values.merge()
    graph.nodes = [node for node in graph.nodes if id(node) not in replaced]
    steps = Steps(graph)
    body = _Body(step)
    finals = [""] * len(step.carried)
    stacked: list[tuple[_Wanted, str]] = []
    for each in wanted:
        place = next((p for p, held in enumerate(step.carried) if held.end == Ref("made", each.name)), None)
        if place is not None and each.images[-1] is not None and count - 1 in each.read:
            finals[place] = _take_final(values, each)
        if each.read:
            whole = graph.fresh(f"{each.name}.steps")
            graph.specs[whole] = Spec(values.spec(each.name).dtype, (count, *values.spec(each.name).sizes))
            stacked.append((each, whole))
    before = [place for place, held in enumerate(step.carried) if any(held.end == Ref("made", each.name) for each, _ in stacked)]
    shifted = [graph.fresh(f"{starts[place]}.steps") for place in before]
    for place, whole in zip(before, shifted, strict=True):
        spec = values.spec(step.carried[place].start)
        graph.specs[whole] = Spec(spec.dtype, (count, *spec.sizes))
    families = list(body.slices)
    made = [body.names[each.name] for each, _ in stacked] + [body.starts[place] for place in before]
    ends = [body.value(held.end) for held in step.carried]
    inner = Graph(graph.name, [*body.starts, *body.slices.values()], [*ends, *made], {}, {}, body.nodes)
    inner.specs = {name: graph.specs[name] for name in (*inner.inputs, *inner.outputs)}
    taken = {node.name for node in graph.every_node()}
    name = next(n for i in range(len(taken) + 1) if (n := f"steps.{i}" if i else "steps") not in taken)
    loop = Node(
        Iterate.name,
        name,
        ("", "", *starts, *(family.source for family in families)),
        (*finals, *(whole for _, whole in stacked), *shifted),
        {
            **Iterate.attributes,
            "body": inner,
            "carries": len(starts),
            "scanned": [(family.axis, backwards) for family in families],
            "stacked": [(0, backwards)] * len(made),
            "rerolled": True,
        },
        domain=OURS,
    )
    refresh_captures(loop, len(loop.inputs))
    graph.nodes.append(loop)
    steps.producers |= {output: loop for output in loop.outputs if output}
    for each, whole in stacked:
        for t in sorted(each.read):
            image = each.images[t]
            assert image is not None
            at = count - 1 - t if backwards else t
            one = steps.add("Slice", [whole], {"starts": [at], "ends": [at + 1], "axes": [0], "steps": [1]}, f"{image}.step")
            steps.put("Reshape", one.outputs, [image], {"shape": list(values.spec(image).sizes), "allowzero": 1})
        if None not in each.images:
            steps.made[tuple(image or "" for image in (each.images[::-1] if backwards else each.images))] = whole
    for place, whole in zip(before, shifted, strict=True):
        images = [starts[place], *(step.at(step.carried[place].end, t) for t in range(count - 1))]
        if None not in images:
            steps.made[tuple(image or "" for image in (images[::-1] if backwards else images))] = whole
    join(steps)
    in_order(graph)


def _take_final(values: Values, each: _Wanted) -> str:
    """The last image if it is read as the final value; readers of it as one of all steps then read another name."""
    graph, last, count = values.graph, each.images[-1], len(each.images)
    assert last is not None
    others = {image for t, image in enumerate(each.images) if t in each.read} - {last}
    users = [node for node in graph.nodes if last in node.inputs]
    kinds = {values.kind(node) for node in graph.nodes if others & set(node.inputs)}
    stepwise = [node for node in users if values.kind(node) in kinds]
    if stepwise:
        again = graph.fresh(f"{last}.again")
        graph.specs[again] = graph.specs[last]
        rename(stepwise, {last: again})
        each.images[-1] = again
    else:
        each.read.discard(count - 1)
    return last if last in graph.outputs or len(stepwise) < len(users) else ""


class _Body:
    """The nodes of one step, renamed for the loop's body."""

    def __init__(self, step: Step) -> None:
        self.step, self.graph = step, step.values.graph
        self.names: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.slices: dict[Family, str] = {}
        self.taken: dict[Family, str] = {}
        self.starts = [self._fresh(step.images[-1].get(held.end.of, held.start), "before", held.start) for held in step.carried]
        for held in step.carried:
            if held.end.kind == "slice":
                self.value(held.end)
        for node in step.nodes:
            inputs = tuple(self.value(ref) for ref in step.reads[id(node)])
            self.names |= {name: self._fresh(name, "turn", name) for name in node.outputs if name}
            outputs = tuple(self.names.get(name, "") for name in node.outputs)
            made = next(name for name in outputs if name)
            self.nodes.append(Node(node.op, made, inputs, outputs, dict(node.attributes), node.version, node.domain))

    def _fresh(self, stem: str, what: str, like: str) -> str:
        name = self.graph.fresh(f"{stem}.{what}")
        self.graph.specs[name] = self.graph.specs[like]
        return name

    def value(self, ref: Ref) -> str:
        if ref.kind == "carried":
            return self.starts[int(ref.of)]
        if ref.kind == "slice":
            return self._slice(ref.of)
        return self.names[str(ref.of)] if ref.kind == "made" else str(ref.of)

    def _slice(self, family: Family) -> str:
        if family not in self.taken:
            whole = self.graph.specs[family.source].sizes
            spec = Spec(family.spec.dtype, whole[: family.axis] + whole[family.axis + 1 :])
            plain = next((own for own in self.slices if own[:2] == family[:2]), family)
            if plain not in self.slices:
                self.slices[plain] = self.graph.fresh(f"{family.source}.slice")
                self.graph.specs[self.slices[plain]] = spec
            name = self.slices[plain]
            if spec != family.spec:
                view = self.graph.fresh(f"{name}.view")
                self.graph.specs[view] = family.spec
                attributes = {"shape": list(family.spec.sizes), "allowzero": 1}
                self.nodes.insert(0, Node("Reshape", view, (name,), (view,), attributes))
                name = view
            self.taken[family] = name
        return self.taken[family]
