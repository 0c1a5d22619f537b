"""The choice of the values that a rerolled loop carries, as small as possible."""

from __future__ import annotations

from tinyrnn.graph.ir import Node
from tinyrnn.ops.recurrent.unrolled_start import starts_of
from tinyrnn.ops.recurrent.unrolled_step import FIRST, Carried, Ref, Step, read_elsewhere
from tinyrnn.ops.recurrent.unrolled_values import Values


def carry_less(whole: Step) -> Step:
    """Move nodes that prepare the next step to its beginning, if less is carried then: a product by the state, its norm."""
    step = whole.copy()
    outside, place = read_elsewhere(step), 0
    while place < len(step.carried):
        chain = _prepared(step, place, outside)
        for node, before in chain:
            _begin_with(step, node, before)
        place = 0 if chain else place + 1
    return step


def _prepared(step: Step, place: int, outside: set[str]) -> list[tuple[Node, Node]]:
    """(node, its counterpart in the step before FIRST), the last first, that can move to the beginning of the next step.

    Of carried values of equal size those with a known initial value are preferred, then those that are read elsewhere too.
    """
    values, makers = step.values, step.makers()
    initial: str | None = starts_of(step).get(place)
    users: dict[str, int] = {}
    for ref in (ref for refs in step.reads.values() for ref in refs if ref.kind == "made"):
        users[ref.of] = users.get(ref.of, 0) + 1
    ends = [held.end.of for held in step.carried]
    end, start = step.carried[place].end, step.carried[place].start
    chain, best, shortest = list[tuple[Node, Node]](), (values.spec(start).elements, initial is None, True), 0
    while end.kind == "made" and not users.get(end.of) and end.of not in outside and ends.count(end.of) == (not chain):
        node, before = makers[end.of], values.makers.get(start)
        reads = step.reads[id(node)]
        if before is None or values.kind(before) != values.kind(node) or start in makers or len(node.outputs) != 1:
            break
        read = {pair for pair in zip(reads, values.inputs(before), strict=True) if pair[0].kind != "fixed"}
        same = all(
            ref.kind == "made" or (ref.kind == "fixed" and ref.of == name)
            for ref, name in zip(reads, values.inputs(before), strict=True)
        )
        if not same or len(read) != 1:
            break
        initial = _source(values, node, initial)
        chain.append((node, before))
        ((end, start),) = read
        users[end.of] -= sum(ref == end for ref in reads)
        shared = any(held.end == end and held.start == start for held in step.carried)
        read_too = end.of in outside or bool(users[end.of])
        score = (0 if shared else values.spec(start).elements, initial is None and not shared, not read_too)
        if score < best:
            best, shortest = score, len(chain)
    return chain[:shortest]


def _source(values: Values, node: Node, name: str | None) -> str | None:
    """The input from which a node like this computes the value, or None."""
    maker = values.makers.get(name or "")
    if maker is None or values.kind(maker) != values.kind(node):
        return None
    read = [own for own, other in zip(values.inputs(maker), values.inputs(node), strict=True) if own != other]
    return read[0] if len(set(read)) == 1 else None


def _begin_with(step: Step, node: Node, before: Node) -> None:
    """Carry the input of the node instead of its output, and compute it at the beginning of the next step."""
    (end,), (start,) = node.outputs, before.outputs
    reads = step.reads.pop(id(node))
    (source,) = {(ref, name) for ref, name in zip(reads, step.values.inputs(before), strict=True) if ref.kind == "made"}
    old = next(place for place, held in enumerate(step.carried) if held.end.of == end and held.start == start)
    for t in range(FIRST, step.steps.count):
        value = step.at(Ref("carried", old), t)
        if value is not None:
            step.images[t][start] = value
    new = next((place for place, held in enumerate(step.carried) if (held.end, held.start) == source), len(step.carried))
    if new == len(step.carried):
        step.carried.append(Carried(source[1], source[0]))

    def moved(ref: Ref) -> Ref:
        return Ref("made", start) if ref == Ref("carried", old) else ref

    step.nodes = [before, *(each for each in step.nodes if each is not node)]
    step.reads = {key: tuple(moved(ref) for ref in refs) for key, refs in step.reads.items()}
    step.reads[id(before)] = tuple(Ref("carried", new) if ref.kind == "made" else ref for ref in reads)
    for held in step.carried:
        held.end = moved(held.end)
    step.keep({id(each) for each in step.nodes})
