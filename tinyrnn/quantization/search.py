"""The smallest storage that stays within a budget, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite

from tinyrnn.compile.planner import make_plan
from tinyrnn.graph.arrays import Array
from tinyrnn.graph.op import op_of
from tinyrnn.graph.storage import HELD, STORAGE, Storage, as_rows
from tinyrnn.passes.weight_storage import layers_of, store_weights
from tinyrnn.runtime import Model, aligned
from tinyrnn.targets.machine import host

CANDIDATES = (Storage("int8"), Storage("int8", 64), Storage("int8", 16), Storage("float16"), Storage("float32"))
"""what a layer can get, from small to wide"""
TRIALS = 60
"""most combinations that are tried after the first one within the budget, to make it smaller"""

Chosen = dict[str, Storage]
"""layer → storage"""


@dataclass(frozen=True)
class Layer:
    """A layer with weights, and what each type makes of it."""

    name: str
    op: str
    bytes: dict[str, int]
    """type → bytes of its weights and scales, from small to wide"""
    storages: tuple[str, ...]
    """types that it has"""


def layers(model: Model) -> list[Layer]:
    """The layers of a model with weights that can be stored in small types, in order."""
    found: dict[str, Layer] = {}
    for node, weights in layers_of(model._source.program.graph):
        op = op_of(node)
        rows = {key: as_rows(array, op.summed(node)[key]) for key, array in weights.items()}
        grouped = {key: each.shape[-1] for key, each in rows.items() if key not in op.whole_rows}
        kinds = [c for c in CANDIDATES if c.kind in op.storages and (not c.group or max(grouped.values(), default=0) > c.group)]
        sizes = {str(c): sum(_bytes(each, c.kind, c.group if key in grouped else 0) for key, each in rows.items()) for c in kinds}
        if node.name in found:
            before = found[node.name]
            sizes = {kind: n + before.bytes[kind] for kind, n in sizes.items() if kind in before.bytes}
        found[node.name] = Layer(node.name, node.op, sizes, op.storages)
    return list(found.values())


def _bytes(rows: Array, kind: str, group: int) -> int:
    if kind != "int8":
        return rows.size * {"float32": 4, "float16": 2}[kind]
    size = rows.shape[-1]
    return int(rows.size + 4 * (rows.size // max(size, 1)) * -(-size // (group or size)))


class Rounded:
    """Models with the weights of another storage in float32, which run on the code of a model that is there."""

    def __init__(self, model: Model, load: Callable[[Chosen], Model]) -> None:
        """model: compiled with every layer in float32; load: loads it with weights in these types."""
        self._model, self._stages, self._load = model, model._source, load

    def model(self, chosen: Chosen) -> Model:
        """The model with weights rounded to these types, int8x8 apart; its results are those of the types to float32 rounding."""
        if self._model._layout.table is not None:  # the page is that of other sizes too
            return self._load(chosen)
        program = replace(self._stages.program, graph=self._stages.program.graph.copy())
        store_weights(program, chosen)
        for node in program.graph.every_node():
            node.attributes.pop(HELD, None)
            if STORAGE in node.attributes:
                node.attributes[STORAGE] = Storage("float32")
        machine, layout = host(), self._model._layout
        plan = make_plan(program, machine.lanes, machine.registers)
        assert len(plan.weights) == len(layout.weights), "the code of the model is for other weights"
        weights = aligned(len(plan.weights))
        weights[:] = plan.weights
        return Model(replace(layout, weights=weights), self._model._code)


def within(
    budget: float,
    found: Sequence[Layer],
    alone: Mapping[str, Mapping[str, float]],
    measure: Callable[[Chosen], float],
) -> Chosen:
    """The smallest storage of each layer that a greedy search finds within the budget.

    alone: the error with one layer in each of its types and all others in float32: {layer: {type: error}}
    measure: the error of a combination; infinite where it is not allowed, whatever the budget

    Errors of layers are taken for independent: their squares add. All layers begin in their smallest type; the one whose
    wider type takes most off the sum of squares for each byte gets it, until the sum, and then the measured error, are
    within the budget. After that layers become smaller again, the largest first, as long as the measured error allows it.
    An infinite budget, where `measure` alone allows, is searched from halves downwards too, and the smaller of both is taken.
    """
    kinds = {layer.name: _useful(layer, alone[layer.name]) for layer in found}
    chosen = {layer.name: kinds[layer.name][0] for layer in found}
    sizes = {layer.name: layer.bytes for layer in found}
    correction = 1.0
    while True:
        while correction * _summed(chosen, alone) > budget and _widen(chosen, kinds, sizes, alone):
            pass
        measured = measure(_parsed(chosen))
        if measured <= budget and isfinite(measured):
            break
        predicted = _summed(chosen, alone)
        if predicted and isfinite(measured):
            correction = max(correction, measured / predicted)
        if not _widen(chosen, kinds, sizes, alone):
            break
    starts = [chosen]
    if budget == inf:  # what is allowed does not follow from errors: from all halves downwards too
        starts.append({name: next((k for k in kinds[name] if k == "float16"), kinds[name][-1]) for name in chosen})
    found_all = []
    for start in starts:
        if start is chosen or isfinite(measure(_parsed(start))):
            found_all.append(_narrowed(start, budget, kinds, sizes, lambda c: correction * _summed(c, alone), measure))
    return _parsed(min(found_all, key=lambda each: sum(sizes[name][kind] for name, kind in each.items())))


def _narrowed(
    chosen: dict[str, str],
    budget: float,
    kinds: Mapping[str, Sequence[str]],
    sizes: Mapping[str, Mapping[str, int]],
    predict: Callable[[dict[str, str]], float],
    measure: Callable[[Chosen], float],
) -> dict[str, str]:
    """A combination within the budget with layers made smaller, the largest first, as far as the measured error allows."""
    trials = 0
    for name in sorted(chosen, key=lambda each: -sizes[each][chosen[each]]):
        while trials < TRIALS and chosen[name] != kinds[name][0]:
            smaller = {**chosen, name: kinds[name][kinds[name].index(chosen[name]) - 1]}
            if predict(smaller) > 2 * budget:
                break
            trials += 1
            error = measure(_parsed(smaller))
            if error > budget or error == inf:
                break
            chosen = smaller
    return chosen


def _useful(layer: Layer, errors: Mapping[str, float]) -> list[str]:
    """The types of a layer from small to wide, without those that have no smaller error than a smaller one."""
    kept: list[str] = []
    for kind in layer.bytes:
        if not kept or errors[kind] < errors[kept[-1]]:
            kept.append(kind)
    return kept


def _summed(chosen: Mapping[str, str], alone: Mapping[str, Mapping[str, float]]) -> float:
    return float(sum(alone[name][kind] ** 2 for name, kind in chosen.items()) ** 0.5)


def _widen(
    chosen: dict[str, str],
    kinds: Mapping[str, Sequence[str]],
    sizes: Mapping[str, Mapping[str, int]],
    alone: Mapping[str, Mapping[str, float]],
) -> bool:
    """Give one layer a wider type; False where all are as wide as they can be."""
    best, gain = None, -1.0
    for name, kind in chosen.items():
        for wider in kinds[name][kinds[name].index(kind) + 1 :]:
            taken = alone[name][kind] ** 2 - alone[name][wider] ** 2
            each = taken / (sizes[name][wider] - sizes[name][kind])
            if each > gain:
                best, gain = (name, wider), each
    if best is not None:
        chosen[best[0]] = best[1]
    return best is not None


def _parsed(chosen: Mapping[str, str]) -> Chosen:
    by_name = {str(kind): kind for kind in CANDIDATES}
    return {name: by_name[kind] for name, kind in chosen.items()}
