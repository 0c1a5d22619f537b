"""Recognition of RNN, LSTM and GRU cells that exporters decompose into Gemm, Split, Sigmoid, Tanh, Mul and Add.

A cell is recognised by its equations, from the last multiplication backwards, for any order of
operands and gates; it becomes the recurrent operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.op import Array, op_of, rewrite
from tinyrnn.ops.movement.views import View


@dataclass
class _Sum:
    """A sum of products of run-time values with constant matrices, plus a constant."""

    products: list[tuple[str, Array, bool]] = field(default_factory=list)
    """(value, W [K, M], whether it has a bias of its own)"""
    bias: Array | float = 0.0


class _Matcher:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers = graph, graph.producers()
        self.places = {id(node): place for place, node in enumerate(graph.nodes)}
        self.gone: set[int] = set()
        self.made: dict[int, list[Node]] = {}
        """id of a node → new nodes to insert before it"""

    def replace(self, results: list[str], nodes: list[Node]) -> None:
        """Replace the nodes that computed `results` by others."""
        old = [self.producers[name] for name in dict.fromkeys(results)]
        first = min(old, key=lambda node: self.places[id(node)])
        self.made.setdefault(id(first), []).extend(nodes)
        self.gone |= {id(node) for node in old}
        self.producers |= {name: node for node in nodes for name in node.outputs if name}

    def finish(self) -> None:
        """Update the graph's list of nodes, in topological order."""
        if self.made:
            kept = [[*self.made.get(id(n), ()), *([] if id(n) in self.gone else [n])] for n in self.graph.nodes]
            self.graph.nodes = [node for nodes in kept for node in nodes]

    def of(self, name: str, op: str) -> Node | None:
        node = self.producers.get(name)
        return node if node is not None and node.op == op else None

    def operands(self, name: str, op: str) -> Iterator[tuple[str, str]]:
        """Both orders of the operands of a commutative node."""
        node = self.of(name, op)
        if node is not None and len(node.inputs) == 2:
            yield node.inputs[0], node.inputs[1]
            yield node.inputs[1], node.inputs[0]

    def under(self, name: str, op: str) -> str | None:
        node = self.of(name, op)
        return node.inputs[0] if node is not None else None

    def viewed(self, name: str) -> str:
        """The value of which `name` is a view."""
        node = self.producers.get(name)
        while node is not None and isinstance(op_of(node), View):
            name = node.inputs[0]
            node = self.producers.get(name)
        return name

    def gate(self, name: str) -> tuple[str, int, int] | None:
        """(source, first column, width) of a slice of the last axis."""
        node = self.producers.get(name)
        if node is None or node.op not in ("Split", "Slice"):
            return None
        source = node.inputs[0]
        whole, part = self.graph.specs[source].sizes, self.graph.specs[name].sizes
        if whole[:-1] != part[:-1]:
            return None
        columns = np.broadcast_to(np.arange(whole[-1]), whole)
        cut = op_of(node).reference(node, [columns])[node.outputs.index(name)]
        first = int(cut.ravel()[0])
        return (
            (source, first, part[-1])
            if np.array_equal(cut.reshape(-1, part[-1])[0], np.arange(first, first + part[-1]))
            else None
        )

    def linear_sum(self, name: str) -> _Sum | None:
        """The value as a sum of products, or None."""
        result = _Sum()
        return result if self._collect(name, result) and result.products else None

    def _collect(self, name: str, into: _Sum) -> bool:
        constant = self.graph.constants.get(name)
        if constant is not None:
            if constant.dtype != np.float32 or prod(constant.shape[:-1]) != 1:
                return False
            into.bias = into.bias + constant.reshape(-1)
            return True
        node = self.producers.get(name)
        if node is None:
            return False
        if node.op == "Add":
            return all(self._collect(i, into) for i in node.inputs)
        if node.op != "Linear":
            return self._step_of_product(name, into)
        bias = node.attributes["B"]
        self._product(node.inputs[0], node.attributes["W"], bias is not None, into)
        if bias is not None:
            into.bias = into.bias + bias
        return True

    def _step_of_product(self, name: str, into: _Sum) -> bool:
        """A time step sliced from a product over the whole sequence: the value itself, times one."""
        width, value = self.graph.specs[name].sizes[-1:], name
        node = self.producers.get(value)
        while (
            node is not None
            and op_of(node).moves
            and [i for i in node.inputs if i not in self.graph.constants] == [node.inputs[0]]
        ):
            value = node.inputs[0]
            node = self.producers.get(value)
        cut = self.graph.specs[value].elements > self.graph.specs[name].elements
        if node is None or node.op != "Linear" or not cut or self.graph.specs[value].sizes[-1:] != width:
            return False
        into.products.append((name, np.eye(width[0], dtype=np.float32), False))
        return True

    def _product(self, value: str, weights: Array, has_bias: bool, into: _Sum) -> None:
        joined = self.of(value, "Concat")
        if (
            joined is not None
            and len(joined.inputs) == 2
            and joined.attributes["axis"] % len(self.graph.specs[value].shape) == len(self.graph.specs[value].shape) - 1
        ):
            first = self.graph.specs[joined.inputs[0]].sizes[-1]
            into.products += [(joined.inputs[0], weights[:first], False), (joined.inputs[1], weights[first:], False)]
        else:
            into.products.append((value, weights, has_bias))

    def roots(self, name: str) -> set[str] | None:
        """The graph inputs whose elements a value consists of; None if it is computed."""
        if name in self.graph.inputs:
            return {name}
        node = self.producers.get(name)
        if node is None or not op_of(node).moves:
            return None
        found: set[str] = set()
        for i in node.inputs:
            if i and i not in self.graph.constants:
                below = self.roots(i)
                if below is None:
                    return None
                found |= below
        return found


def _input_and_state(match: _Matcher, total: _Sum, H: int, cell_state: str) -> tuple[tuple[str, Array], tuple[str, Array]] | None:
    """(product by x, product by the previous state), or None."""
    if len(total.products) != 2:
        return None
    a, b = total.products
    fits = [p for p in (a, b) if p[1].shape[0] == H]
    if not fits:
        return None
    if len(fits) == 2:
        same = match.roots(cell_state)
        handed_in = [p for p in fits if match.roots(p[0]) is not None]
        packed = [p for p in fits if same is not None and match.roots(p[0]) == same]
        # PyTorch's cells add the state's product first, each with a bias; Keras adds it last
        fits = packed if len(packed) == 1 else handed_in if len(handed_in) == 1 else [a] if a[2] and b[2] else [b]
    h = fits[0]
    x = b if h is a else a
    return (x[0], x[1]), (h[0], h[1])


def _gate_rows(weights: Array, firsts: list[int], H: int) -> Array:
    """Weights [1, G·H, K], gates in the order of `firsts`, from [K, G·H]."""
    return np.concatenate([weights[:, first : first + H].T for first in firsts])[None]


def _insert(
    match: _Matcher, at: Node, op: str, x: str, states: list[str], results: list[str], attributes: dict[str, Any], H: int
) -> None:
    """Replace the nodes that computed `results` by a recurrent node, with views between [N, K] and [1, N, K]."""
    graph = match.graph
    N = prod(graph.specs[states[0]].sizes[:-1])
    nodes = []

    def view(source: str, name: str, shape: tuple[int, ...]) -> str:
        nodes.append(Node("Reshape", f"{name}.view", (source,), (name,), {"shape": list(shape), "allowzero": 1}))
        graph.specs[name] = Spec(graph.specs[source].dtype, shape)
        return name

    inputs = [view(name, graph.fresh(f"{name}.sequence"), (1, N, graph.specs[name].sizes[-1])) for name in (x, *states)]
    ends = [graph.fresh(f"{name}.final") for name in results]
    for name in ends:
        graph.specs[name] = Spec(graph.specs[states[0]].dtype, (1, N, H))
    name = at.name
    nodes.append(Node(op, name, (inputs[0], "", "", "", "", *inputs[1:]), ("", *ends), attributes, version=at.version))
    for end, result in zip(ends, results, strict=True):
        view(end, result, graph.specs[result].sizes)
    match.replace(results, nodes)


@rewrite
def find_lstm_cells(graph: Graph) -> None:
    """Find Ht = sigmoid(o) tanh(Ct), Ct = sigmoid(f) Ct-1 + sigmoid(i) tanh(g), gates sliced from one sum of products."""
    match = _Matcher(graph)
    for node in [n for n in graph.nodes if n.op == "Mul"]:
        found = next(_lstm_parts(match, node.outputs[0]), None)
        if found is None:
            continue
        gates, before, after = found
        cuts = [match.gate(g) for g in gates]
        if any(c is None for c in cuts):
            continue
        known = [c for c in cuts if c is not None]
        sources, firsts, H = {c[0] for c in known}, [c[1] for c in known], known[0][2]
        total = match.linear_sum(known[0][0]) if len(sources) == 1 and len(set(firsts)) == 4 else None
        split = _input_and_state(match, total, H, before) if total else None
        if total is None or split is None or graph.specs[before].sizes[-1:] != (H,):
            continue
        (x, W), (h, R) = split
        bias = np.broadcast_to(np.asarray(total.bias, np.float32), (W.shape[1],))
        B = np.concatenate([bias[f : f + H] for f in firsts] + [np.zeros(4 * H, np.float32)])[None]
        _insert(
            match,
            node,
            "LSTM",
            x,
            [h, before],
            [node.outputs[0], after],
            {"W": _gate_rows(W, firsts, H), "R": _gate_rows(R, firsts, H), "B": B, "hidden_size": H},
            H,
        )
    match.finish()


def _lstm_parts(match: _Matcher, name: str) -> Iterator[tuple[tuple[str, str, str, str], str, str]]:
    """((i, o, f, g), Ct-1, Ct) of a product that is the Ht of an LSTM, or None."""
    for left, right in match.operands(name, "Mul"):
        o, after = match.under(left, "Sigmoid"), match.under(right, "Tanh")
        if o is None or after is None:
            continue
        for keep, write in match.operands(after, "Add"):
            for f_gate, before in match.operands(keep, "Mul"):
                f = match.under(f_gate, "Sigmoid")
                for i_gate, g_gate in match.operands(write, "Mul"):
                    i, g = match.under(i_gate, "Sigmoid"), match.under(g_gate, "Tanh")
                    if f is not None and i is not None and g is not None:
                        yield (i, o, f, g), before, after


@rewrite
def find_gru_cells(graph: Graph) -> None:
    """Find Ht = (1 - z) n + z Ht-1, n = tanh(xn + r hn), r and z sigmoids of sums, the reset gate applied after the product."""
    match = _Matcher(graph)
    for node in [n for n in graph.nodes if n.op == "Add"]:
        found = next(_gru_parts(match, node.outputs[0]), None)
        if found is None:
            continue
        before, z, r, x_n, h_n = found
        cuts = {
            key: match.gate(value)
            for key, value in (("xn", x_n), ("hn", h_n), ("z0", z[0]), ("z1", z[1]), ("r0", r[0]), ("r1", r[1]))
        }
        if any(c is None for c in cuts.values()):
            continue
        known = {key: c for key, c in cuts.items() if c is not None}
        from_x, from_h, H = known["xn"][0], known["hn"][0], known["xn"][2]
        columns = {}
        for gate in "zr":
            pair = {known[f"{gate}0"][0]: known[f"{gate}0"][1], known[f"{gate}1"][0]: known[f"{gate}1"][1]}
            if set(pair) != {from_x, from_h}:
                break
            columns[gate] = pair[from_x], pair[from_h]
        sums = match.linear_sum(from_x), match.linear_sum(from_h)
        if len(columns) != 2 or from_x == from_h or any(s is None or len(s.products) != 1 for s in sums):
            continue
        assert sums[0] is not None and sums[1] is not None
        (x, W, _), (h, R, _) = sums[0].products[0], sums[1].products[0]
        if h != before or R.shape[0] != H:
            continue
        x_firsts = [columns["z"][0], columns["r"][0], known["xn"][1]]
        h_firsts = [columns["z"][1], columns["r"][1], known["hn"][1]]
        biases = [np.broadcast_to(np.asarray(bias, np.float32), (3 * H,)) for bias in (sums[0].bias, sums[1].bias)]
        B = np.concatenate([biases[0][f : f + H] for f in x_firsts] + [biases[1][f : f + H] for f in h_firsts])[None]
        _insert(
            match,
            node,
            "GRU",
            x,
            [h],
            [node.outputs[0]],
            {
                "W": _gate_rows(W, x_firsts, H),
                "R": _gate_rows(R, h_firsts, H),
                "B": B,
                "hidden_size": H,
                "linear_before_reset": 1,
            },
            H,
        )
    match.finish()


Pair = tuple[str, str]


def _gru_parts(match: _Matcher, name: str) -> Iterator[tuple[str, Pair, Pair, str, str]]:
    """(Ht-1, terms of z, terms of r, xn, hn) of a sum that is the Ht of a GRU, or None."""
    for z_gate, before, n in _gru_blend(match, name):
        z, inside = match.under(z_gate, "Sigmoid"), match.under(n, "Tanh")
        if z is None or inside is None:
            continue
        for x_n, gated in match.operands(inside, "Add"):
            for r_gate, h_n in match.operands(gated, "Mul"):
                r = match.under(r_gate, "Sigmoid")
                if r is None:
                    continue
                for z_terms in match.operands(z, "Add"):
                    for r_terms in match.operands(r, "Add"):
                        yield before, z_terms, r_terms, x_n, h_n


def _gru_blend(match: _Matcher, name: str) -> Iterator[tuple[str, str, str]]:
    """(z, Ht-1, n) of (Ht-1 - n) z + n, or of z Ht-1 + (1 - z) n; else None."""
    for left, n in match.operands(name, "Add"):
        for difference, z in match.operands(left, "Mul"):
            node = match.of(difference, "Sub")
            if node is not None and node.inputs[1] == n:
                yield z, node.inputs[0], n
    for kept, written in match.operands(name, "Add"):
        for z, before in match.operands(kept, "Mul"):
            for rest, n in match.operands(written, "Mul"):
                node = match.of(rest, "Sub")
                one = match.graph.constants.get(node.inputs[0]) if node is not None else None
                if node is not None and one is not None and np.all(one == 1) and node.inputs[1] == z:
                    yield z, before, n


@rewrite
def find_rnn_cells(graph: Graph) -> None:
    """Find Ht = f(Xt W + Ht-1 R + b) where Ht-1 is computed in the same way with the same R."""
    match = _Matcher(graph)
    sums = {}
    for node in graph.nodes:
        total = match.linear_sum(node.inputs[0]) if node.op in ("Tanh", "Relu") else None
        if total is not None and len(total.products) == 2:
            sums[node.outputs[0]] = (node, total)
    repeated = set()
    for node, total in sums.values():
        for value, weights, _ in total.products:
            before = match.viewed(value)
            if before in sums and sums[before][0].op == node.op and weights.shape[0] == weights.shape[1]:
                earlier = [R for _, R, _ in sums[before][1].products]
                repeated |= {weights.tobytes() for R in earlier if np.array_equal(R, weights)}
    for node, total in sums.values():
        states = [p for p in total.products if p[1].tobytes() in repeated]
        if len(states) != 1:
            continue
        (h, R, _), H = states[0], len(states[0][1])
        x, W, _ = next(p for p in total.products if p is not states[0])
        bias = np.broadcast_to(np.asarray(total.bias, np.float32), (H,))
        B = np.concatenate([bias, np.zeros(H, np.float32)])[None]
        attributes = {"W": W.T[None], "R": R.T[None], "B": B, "hidden_size": H, "activations": [node.op]}
        _insert(match, node, "RNN", x, [h], [node.outputs[0]], attributes, H)
    match.finish()
