"""Find which outputs are the next value of which inputs: the states of a step model.

The graph decides first: an input that a recurrent operator carries to an output, or that is joined with
new frames and cut, is a state. Then names decide, unless the graph contradicts them. What then still looks like a state is
paired if one pairing is nearest in the graph. Either all states are found, or the error says what to write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import permutations
from typing import NoReturn

from tinyrnn.errors import LoadError
from tinyrnn.graph.ir import Graph
from tinyrnn.passes.state_names import numbers, pairs, says_state, telling, unique
from tinyrnn.passes.state_paths import FAR, Paths, paths

MOST_TOGETHER = 6
"""most states of one shape for which every pairing is tried"""


def find_states(graph: Graph, states: Mapping[str, str] | None, stepwise: bool, timed: Collection[str] = ()) -> dict[str, str]:
    """State inputs → state outputs. timed: inputs and outputs with a time axis, which are not states.

    Named pairs are checked; otherwise all are found or none. Raises `LoadError` with the candidates and the `states=`
    to write where something looks like a state and it is not clear which output is its next value.
    """
    if states is not None:
        return _given(graph, states)
    search = _Search(graph, timed)
    search.by_structure()
    search.by_name()
    search.leave_an_input()
    search.rest(stepwise)
    return {name: search.found[name] for name in graph.inputs if name in search.found}


def left_out(graph: Graph, found: Mapping[str, str], timed: Collection[str] = ()) -> list[str]:
    """A sentence for each input that looks like a state but is none."""
    search = _Search(graph, timed)
    search.found = dict(found)
    texts = [
        f"{name!r} looks like a state, but nothing feeds it back: it could continue as "
        f"{' or '.join(map(repr, search.free(name)))}. {_advice({**found, **search.guess([name])})}"
        for name in search.looking()
    ]
    inputs = [i for i in graph.inputs if i not in found and i not in timed and says_state(i) and not search.options.get(i)]
    outputs = [o for o in graph.outputs if o not in found.values() and o not in timed]
    for start, end in pairs(inputs, outputs, lambda i, o: graph.specs[i].dtype == graph.specs[o].dtype).items():
        texts.append(
            f"{start!r} {graph.specs[start]} looks like a state that continues as {end!r} {graph.specs[end]}, of another shape: "
            f"nothing feeds it back. Write states={{}} if it is an input like others"
        )
    return texts


@dataclass
class _Search:
    graph: Graph
    timed: Collection[str]
    options: dict[str, list[str]] = field(init=False)
    """input → the outputs of its dtype and shape"""
    paths: dict[str, Paths] = field(init=False)
    found: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.graph
        inputs = [name for name in graph.inputs if name not in self.timed]
        fits = {i: [o for o in graph.outputs if o not in self.timed and _alike(graph, i, o)] for i in inputs}
        self.options = {i: ends for i, ends in fits.items() if ends}
        self.paths = {i: paths(graph, i) for i in self.options}
        self.named = pairs(list(self.options), graph.outputs, lambda i, o: o in self.options[i])

    def free(self, name: str) -> list[str]:
        return [o for o in self.options[name] if o not in self.found.values()]

    def strong(self, name: str) -> list[str]:
        return [o for o in self.free(name) if self.paths[name].strong(o)]

    def waiting(self) -> list[str]:
        return [i for i in self.options if i not in self.found and self.free(i)]

    def by_structure(self) -> None:
        """Pair inputs with outputs that can only be their next values; of several, names and element-wise paths decide."""
        for i, o in self.named.items():
            near = self.paths[i].alike(o) and telling(i, o)
            if self.strong(i) and (o in self.strong(i) or near):
                self.found[i] = o
        while new := unique({i: self.strong(i) for i in self.waiting()}):
            self.found |= new

    def by_name(self) -> None:
        for start, end in self.named.items():
            if start not in self.found and not self.strong(start) and end in self.free(start) and telling(start, end):
                self.found[start] = end

    def leave_an_input(self) -> None:
        """If all inputs were paired, release the pair that was found by name only and looks least like a state."""
        weak = [i for i, o in self.found.items() if not self.paths[i].strong(o)]
        if not weak or len(self.found) < len(self.graph.inputs):
            return
        ranks = {i: (says_state(i), -self.paths[i].way(self.found[i]).mixed) for i in weak}
        least = [i for i in weak if ranks[i] == min(ranks.values())]
        if len(least) > 1:
            self.fail([])
        del self.found[least[0]]

    def looking(self) -> list[str]:
        """The unpaired inputs that look like a state, by their paths through the graph or their names."""
        waiting = self.waiting()
        sure = [i for i in waiting if self.strong(i) or (says_state(i) and i not in self.ordinary())]
        inputs = len(self.graph.inputs) - len(self.found)
        outputs = len(self.graph.outputs) - len(self.found)
        doubtful = [i for i in waiting if i not in sure and any(self.paths[i].alike(o) for o in self.free(i))]
        # an input and an output are no states; and beside states that are sure, a mask and the weights it leaves are none
        if self.found or inputs - len(sure) < 2 or outputs - len(sure) < 2:
            doubtful = []
        return [i for i in waiting if i in sure or i in doubtful]

    def rest(self, stepwise: bool) -> None:
        needed = self.looking()
        if not needed and not self.found and stepwise and min(len(self.graph.inputs), len(self.graph.outputs)) > 1:
            needed = self.waiting()
        if not needed:
            return
        made = self.match(needed)
        if made is None:  # what else has their shape may be one of them
            specs = {self.graph.specs[i] for i in needed}
            needed = [i for i in self.waiting() if i in needed or (self.graph.specs[i] in specs and i not in self.ordinary())]
            made = self.match(needed)
        if made is None or (len(made) + len(self.found) == len(self.graph.inputs) and not all(map(self.strong, made))):
            self.fail(needed)
        self.found |= made

    def ordinary(self) -> list[str]:
        """Inputs on which no output of their shape depends."""
        return [i for i in self.waiting() if all(self.paths[i].way(o).mixed == FAR for o in self.free(i))]

    def match(self, needed: Sequence[str]) -> dict[str, str] | None:
        """The only good pairing of all of `needed`: by name, by a single option, or by the shortest paths; else None."""
        made: dict[str, str] = {}
        specs = {self.graph.specs[i] for i in needed}
        for group in ([i for i in needed if self.graph.specs[i] == spec] for spec in specs):
            ends = self.free(group[0])
            named = {i: self.named[i] for i in group if self.named.get(i) in ends}
            best = named if len(named) == len(group) else self.nearest(group, ends) or self.in_order(group, ends)
            if best is None:
                return None
            made |= best
        return made

    def nearest(self, group: Sequence[str], ends: Sequence[str]) -> dict[str, str] | None:
        """The pairing with the shortest paths, if it takes every output and no other one is as short; else None."""
        if len(group) != len(ends) or len(group) > MOST_TOGETHER:
            return None
        costs = []
        for order in permutations(ends):
            ways = [self.paths[i].way(o) for i, o in zip(group, order, strict=True)]
            costs.append((sum(w.mixed for w in ways), sum(w.made for w in ways), order))
        costs.sort(key=lambda c: c[:2])
        if costs[0][0] > len(group) or (costs[1:] and costs[1][:2] == costs[0][:2]):
            return None
        return dict(zip(group, costs[0][2], strict=True))

    def in_order(self, group: Sequence[str], ends: Sequence[str]) -> dict[str, str] | None:
        """The pairing in order, if numbers in the names count up on both sides and the graph agrees; else None."""
        if len(group) != len(ends) or any(numbers(side) != sorted(set(numbers(side))) for side in (group, ends)):
            return None
        if len(numbers(group)) != len(group) or len(numbers(ends)) != len(ends):
            return None
        nearest = all(
            self.paths[i].way(o).mixed == min(self.paths[i].way(e).mixed for e in ends) < FAR
            for i, o in zip(group, ends, strict=True)
        )
        return dict(zip(group, ends, strict=True)) if nearest else None

    def guess(self, needed: Sequence[str]) -> dict[str, str]:
        """A pairing to show as an example in an error."""
        made: dict[str, str] = {}
        for i in needed:
            left = [o for o in self.free(i) if o not in made.values()]
            if left:
                made[i] = self.named[i] if self.named.get(i) in left else min(left, key=self.paths[i].way)
        return made

    def fail(self, needed: Sequence[str]) -> NoReturn:
        graph = self.graph
        example = {**self.found, **self.guess(needed)}
        if len(example) == len(graph.inputs) > 1:
            example.pop(next(i for i in example if says_state(i) == min(map(says_state, example))))
        candidates = "; ".join(
            f"{i!r} {graph.specs[i]} could continue as {' or '.join(map(repr, self.free(i) if i in needed else self.options[i]))}"
            for i in (needed or self.found)
        )
        raise LoadError(
            f"{graph.name}: which outputs are the next value of which inputs is ambiguous: {candidates}. {_advice(example)}"
        )


def _advice(example: Mapping[str, str]) -> str:
    typed = ",".join(f"{i}={o}" for i, o in example.items())
    return (
        f"Write which, for example states={dict(example)!r}, or states={{}} if there is none "
        f"(to type: --states '{typed}' or --states none)"
    )


def _given(graph: Graph, states: Mapping[str, str]) -> dict[str, str]:
    for start, end in states.items():
        for name, known, side in ((start, graph.inputs, "input"), (end, graph.outputs, "output")):
            if name not in known:
                close = get_close_matches(name, known, 1)
                raise LoadError(
                    f"{graph.name}: states names the {side} {name!r}, which is not there. Its {side}s are "
                    f"{', '.join(map(repr, known)) or 'none'}{f'; did you mean {close[0]!r}?' if close else ''}"
                )
        if not _alike(graph, start, end):
            raise LoadError(
                f"{graph.name}: states pairs {start!r} {graph.specs[start]} with {end!r} {graph.specs[end]}; "
                f"a state keeps its dtype and shape"
            )
    if len(set(states.values())) != len(states):
        raise LoadError(f"{graph.name}: states gives one output to two inputs: {dict(states)}")
    return dict(states)


def _alike(graph: Graph, start: str, end: str) -> bool:
    return end in graph.specs and start in graph.specs and graph.specs[start] == graph.specs[end]
