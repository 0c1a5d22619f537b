"""`Recurrent`, the base of RNN, GRU and LSTM, with every attribute of the specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.call import (
    Lowering,
)
from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import REQUIRED, Array, Axis, Frames, Op, Refused, SizesDiffer
from tinyrnn.ops.elementwise.activations import ACTIVATIONS, bind_activations
from tinyrnn.ops.recurrent.kernel_text import KEPT, Cell

DIRECTIONS = ("forward", "reverse", "bidirectional")
TABLE = "table"
"""attribute of a node of the frame graph whose X holds indices: the constant table [entries, I] that they index"""
LARGEST_TABLE = 1 << 18
"""most bytes of a table of products; a larger one does not justify its memory"""


class Recurrent(Op):
    """Base of RNN, GRU and LSTM; a subclass defines the number of gates and the parts of the state."""

    kind: ClassVar[str]
    """RNN, GRU or LSTM"""
    gates: ClassVar[int]
    oracle: ClassVar[Callable[..., tuple[Array, ...]]]
    """the operator in plain float64 NumPy"""
    default_activations: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]] = ("h",)
    attributes: ClassVar[dict[str, Any]] = {
        "activation_alpha": None,
        "activation_beta": None,
        "activations": None,
        "clip": None,
        "direction": "forward",
        "hidden_size": None,
        "layout": 0,
        "W": REQUIRED,
        "R": REQUIRED,
        "B": None,
    }
    parameters = {"W": 1, "R": 2, "B": 3}
    whole_rows = frozenset({TABLE})
    storages = (*Op.storages, "int8x8")
    foldable = False

    def _directions(self, node: Node) -> int:
        return 2 if self.attribute(node, "direction") == "bidirectional" else 1

    def _hidden(self, node: Node) -> int:
        return int(self.attribute(node, "R").shape[-1])

    def _axes(self, node: Node) -> tuple[int, int]:
        """The axes of X that are time and batch."""
        return (1, 0) if self.attribute(node, "layout") else (0, 1)

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        direction, layout = self.attribute(node, "direction"), self.attribute(node, "layout")
        if direction not in DIRECTIONS:
            raise Refused(f"direction={direction!r}; supported are {', '.join(DIRECTIONS)}")
        if layout not in (0, 1):
            raise Refused(f"layout={layout}; supported are 0 and 1")
        if self.attribute(node, "clip") is not None and not self.attribute(node, "clip") >= 0:
            raise Refused(f"clip={self.attribute(node, 'clip')}; supported is a bound of 0 or more, or none")
        names = self.attribute(node, "activations")
        count, D = len(self.default_activations), self._directions(node)
        if names is not None:
            if self.kind == "RNN" and D == 1 and len(names) == 2:
                names = node.attributes["activations"] = names[:1]  # the schema's own default has two for one direction
            unknown = [n for n in names if n.lower() not in ACTIVATIONS]
            if unknown or len(names) != count * D:
                raise Refused(
                    f"activations={list(names)}; supported are {count} for each of {D} directions, "
                    f"of {', '.join(a.name for a in ACTIVATIONS.values())}"
                )
        G, H = self.gates, self._hidden(node)
        shapes = {
            "W": (D, G * H, specs[0].sizes[-1] if specs[0] else -1),
            "R": (D, G * H, H),
            "B": (D, 2 * G * H),
            "P": (D, 3 * H),
        }
        for key, shape in shapes.items():
            value = node.attributes.get(key)
            if value is not None and value.shape != shape:
                raise Refused(
                    f"{key} has shape {list(value.shape)}; for hidden size {H}, {D} directions and this input "
                    f"it must be {list(shape)}"
                )
        if self.attribute(node, "hidden_size") not in (None, H):
            raise Refused(f"hidden_size={self.attribute(node, 'hidden_size')} but R has {H}")

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        assert specs[0] is not None
        if len(specs[0].shape) != 3:
            raise Refused(f"X is {specs[0]}; it must have 3 axes")
        time, batch = self._axes(node)
        T, N, D, H = specs[0].sizes[time], specs[0].sizes[batch], self._directions(node), self._hidden(node)
        for index, name in ((4, "sequence_lens"), (5, "initial_h"), (6, "initial_c")):
            given = specs[index] if index < len(specs) else None
            wanted = (N,) if index == 4 else (N, D, H) if time else (D, N, H)
            if given is not None and len(given.shape) == len(wanted) and given.sizes != wanted:
                raise SizesDiffer(
                    f"{name} is {given}; with this X it must be {list(wanted)}",
                    [(n, w) for n, w in zip(given.sizes, wanted, strict=True) if n != w],
                )
            if given is not None and len(given.shape) != len(wanted):
                raise Refused(f"{name} is {given}; with this X it must be {list(wanted)}")
        y = (N, T, D, H) if time else (T, D, N, H)
        state = (N, D, H) if time else (D, N, H)
        return [Spec(specs[0].dtype, y)] + [Spec(specs[0].dtype, state)] * len(self.parts)

    def _state_axis(self, node: Node) -> int:
        return 0 if self.attribute(node, "layout") else 1

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        time, batch = self._axes(node)
        x, (y, *finals) = node.inputs[0], node.outputs
        if y:
            yield (x, time), (y, 0 if time == 0 else 1)
            yield (x, batch), (y, 2 if time == 0 else 0)
        for name in finals:
            if name:
                yield (x, batch), (name, self._state_axis(node))
        for index, axis in ((4, 0), (5, self._state_axis(node)), (6, self._state_axis(node))):
            if index < len(node.inputs) and node.inputs[index]:
                yield (x, batch), (node.inputs[index], axis)

    def row_axes(self, node: Node) -> tuple[Axis, Axis]:
        time, batch = self._axes(node)
        return (node.inputs[0], time), (node.inputs[0], batch)

    def starts_from(self, node: Node) -> list[str]:
        return [name for name in node.inputs[5:7] if name]

    def carried(self, node: Node) -> list[tuple[str, str]]:
        starts = [*node.inputs[5:7], "", ""]
        return [(start, end) for start, end in zip(starts, node.outputs[1:], strict=False) if start and end]

    def frame(self, node: Node, frames: Frames) -> Node:
        time, batch = self._axes(node)
        x = node.inputs[0]
        if frames.role(x, time) not in (None, "time") or frames.role(x, 2) is not None:
            raise Refused("it runs along an axis that is not time")
        framed = frames.node(
            node,
            {
                **node.attributes,
                "rows_are_time": frames.role(x, time) == "time",
                "steps": frames.specs[x].sizes[time],
                "batch": 1 if frames.role(x, batch) else frames.specs[x].sizes[batch],
            },
        )
        return framed

    def forbids_stream(self, node: Node) -> str | None:
        if not node.attributes["rows_are_time"]:
            return None
        if self.attribute(node, "direction") != "forward":
            return f"direction={self.attribute(node, 'direction')}: it reads the sequence from its end"
        if len(node.inputs) > 4 and node.inputs[4]:
            return f"sequence_lens ({node.inputs[4]!r}) belongs to whole sequences"
        return None

    def with_products(self, node: Node, table: Array, indices: str, specs: Mapping[str, Spec]) -> Node | None:
        W = self.attribute(node, "W")
        steps = (1 if node.attributes["rows_are_time"] else node.attributes["steps"]) * node.attributes["batch"]
        small = 4 * len(table) * W.shape[0] * W.shape[1] <= LARGEST_TABLE
        if table.dtype != np.float32 or table.shape[1] != W.shape[2] or specs[indices].elements != steps or not small:
            return None
        made = node.copy()
        made.inputs = (indices, *node.inputs[1:])
        made.shapes = (specs[indices].sizes, *node.shapes[1:])
        made.attributes[TABLE] = table
        return made

    def index_bound(self, node: Node, env: Lowering) -> tuple[str, int, int] | None:
        table = node.attributes.get(TABLE)
        return None if table is None else (node.inputs[0], -len(table), len(table) - 1)

    def cell(self, node: Node, direction: int) -> Cell:
        D, count = self._directions(node), len(self.default_activations)
        names = self.attribute(node, "activations") or self.default_activations * D
        bound = bind_activations(names, self.attribute(node, "activation_alpha"), self.attribute(node, "activation_beta"))
        return Cell(
            self.kind, self._hidden(node), bound[direction * count : (direction + 1) * count], self.attribute(node, "clip")
        )

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        inside = 1 if node.attributes["rows_are_time"] else node.attributes["steps"]
        shared = 0 if TABLE in node.attributes else self.attribute(node, "W").size
        return int(inside * node.attributes["batch"]) * int(shared + self.attribute(node, "R").size)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        given = [*arrays, *[None] * (8 - len(arrays))]
        values = {k: self.attribute(node, k) for k in self.attributes if k not in "WRBP"}
        weights = [node.attributes.get(k) for k in "WRB"]
        extra = [node.attributes.get("P")] if "P" in self.attributes else []
        return self.oracle(given[0], *weights, *given[4 : 5 + len(self.parts)], *extra, **values)

    def traced(self, node: Node) -> str:
        """The additional output for the gates and states of each step, or the empty name."""
        return node.outputs[1 + len(self.parts)] if len(node.outputs) > 1 + len(self.parts) else ""

    def trace_kernel(self, node: Node, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Give a node of the frame graph that output; returns (its frame shape, meaning of each axis)."""
        node.outputs = (*node.outputs, *[""] * (1 + len(self.parts) - len(node.outputs)), name)
        steps = 1 if node.attributes["rows_are_time"] else node.attributes["steps"]
        sizes = {"step": steps, "direction": self._directions(node), "batch": node.attributes["batch"]}
        axes = ("batch", "step", "direction") if self.attribute(node, "layout") else ("step", "direction", "batch")
        return (*(sizes[a] for a in axes), len(KEPT[self.kind]), self._hidden(node)), (*axes, "value", "unit")
