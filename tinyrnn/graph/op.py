"""The contract of an operator, and the registry of operators.

One class per operator holds everything that is known of it: signature, attributes, shape rule, rule
for row axes, float64 reference, and how it is lowered to kernel calls. Nothing outside `ops` names one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tinyrnn.errors import Refused as Refused
from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.call import Body, Call, Close, Lowering, Open
from tinyrnn.graph.clock import Clock
from tinyrnn.graph.ir import Graph, Node, Spec
from tinyrnn.graph.storage import HELD, STORAGE, Stored, as_rows, stored

Array = np.ndarray[Any, Any]
Axis = tuple[str, int]
"""one axis of one value: (value name, axis)"""

RunGraph = Callable[[Graph, Sequence[Array]], list[Array]]

ROW_BY_ROW = "row_by_row"
"""attribute of a node of the frame graph that was found to run its nested graphs for one row after the other"""
REQUIRED = object()
"""marks an attribute without a default"""


class SizesDiffer(Refused):
    """Two sizes differ that an operator needs to be equal; if one of them is open in the file, they become one."""

    def __init__(self, text: str, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__(text)
        self.pairs = pairs


class Uneven(Refused):
    """A number of elements is not divisible as needed; with a multiple of an open size it may be."""


class Op:
    """Base of all operators. `infer`, `links` and `reference` see the shapes of the file."""

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    """names of the inputs; a final `?` marks an optional one, a final `*` any number"""
    outputs: ClassVar[tuple[str, ...]] = ("Y",)
    attributes: ClassVar[dict[str, Any]] = {}
    parameters: ClassVar[dict[str, int]] = {}
    """inputs that must be constant and become attributes: attribute name → input index"""
    since: ClassVar[int] = 1
    domain: ClassVar[str] = ""
    """the domain of the operator set that defines it; empty for ONNX's own"""
    internal: ClassVar[bool] = False
    """whether passes make it, and files do not contain it"""
    foldable: ClassVar[bool] = True
    moves: ClassVar[bool] = False
    """whether it only moves elements"""
    elementwise: ClassVar[bool] = False
    """whether it computes every element by itself, so that a chain of such operators can run as one loop"""
    in_place: ClassVar[bool] = False
    """whether each output element is the first input's element at that place, scaled and shifted"""
    known_only: ClassVar[bool] = False
    """whether it runs only with inputs known at load"""
    random: ClassVar[bool] = False
    """whether it draws random numbers, which differ from those of other runtimes"""
    settable: ClassVar[tuple[str, ...]] = ()
    """numeric attributes that `bind` can set, as NODE.ATTRIBUTE"""
    storages: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16", "int8")
    """types in which the weights of `summed` can be stored; the last is taken where "*" has one that is not here"""
    whole_rows: ClassVar[frozenset[str]] = frozenset()
    """those of `summed` whose int8 weights have one scale a row, and no groups along k"""
    rounds_activations: ClassVar[bool] = False
    """whether it rounds activations to integers in steps that other runtimes choose in other ways"""
    scales_integers: ClassVar[bool] = False
    """whether its result is integers times scales"""
    of_shape: ClassVar[bool] = False
    """whether it needs only the shape of its input, so that its result is known at load"""

    def from_spec(self, node: Node, spec: Spec) -> Array:
        """The result of an operator with `of_shape`."""
        raise Refused("it needs data")

    def attribute(self, node: Node, name: str) -> Any:
        value = node.attributes.get(name, self.attributes[name])
        return None if value is REQUIRED else value

    def refuses(self, node: Node) -> str | None:
        """Why a node with these attributes cannot run, whatever its inputs are; None if it can."""
        return None

    def axes_of(self, node: Node, specs: Sequence[Spec | None]) -> int | None:
        """The rank to which the attributes axis and axes refer; None where any value is allowed."""
        return None if node.domain or not specs or specs[0] is None else max(len(specs[0].shape), 1)

    def check_axes(self, node: Node, specs: Sequence[Spec | None]) -> None:
        """Raise `Refused` for an axis out of range."""
        rank = self.axes_of(node, specs)
        if rank is None:
            return
        for key in ("axis", "axes"):
            given = node.attributes.get(key)
            if given is not None and any(not -rank <= int(axis) < rank for axis in np.ravel(given)):
                raise Refused(f"{key}={np.ravel(given).tolist()} is beyond {rank} axes; supported are {-rank} to {rank - 1}")

    def normalize(self, node: Node, specs: Sequence[Spec | None]) -> None:
        """Convert the forms of all opset versions to one. Raises `Refused` for unsupported values."""

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        """Specs of the outputs."""
        if self.known_only:
            raise Refused("what it makes, and of what shape, depends on the model's input; supported are inputs known at load")
        raise Refused("its shape cannot be found")

    def links(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        """Pairs of axes, of inputs and outputs, along which rows are computed independently."""
        yield from ()

    def merges(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[list[Axis], list[Axis]]]:
        """Pairs of groups of axes that a reshape joins or splits: the same elements in row-major order."""
        yield from ()

    def resamples(self, node: Node, specs: dict[str, Spec]) -> Iterator[tuple[Axis, Axis]]:
        """Pairs of axes, of inputs and outputs, where the output's is time if the input's is, but with other rows."""
        yield from ()

    def frame(self, node: Node, frames: Frames) -> Node | list[Node]:
        """The node or nodes over frames: without row axes in attributes and in the shapes of its inputs."""
        raise Refused("it cannot be computed frame by frame")

    def clock(self, node: Node, of: Clock) -> Clock:
        """The clock of a node's outputs in the frame graph, if its inputs have the clock `of`."""
        return of

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        """The operator in plain NumPy, straight from the specification."""
        raise Refused("it has no reference")

    def lower(self, node: Node, env: Lowering) -> Sequence[Call | Open | Close | Body]:
        """Kernel calls for a node of the frame graph, in blocks where it has nested graphs."""
        raise Refused("it runs only where its inputs are known at load")

    def lower_streams(self, node: Node, env: Lowering) -> Sequence[Call] | None:
        """As `lower`, where every row is a frame of another stream; None where what has a state is done stream by stream."""
        return None

    def alias(self, node: Node) -> str | None:
        """The input whose memory is the output, or None."""
        return None

    def looks_up(self, node: Node, constants: Mapping[str, Array]) -> tuple[Array, str] | None:
        """(table [entries, size], name of the indices) where a node of the frame graph looks rows up in a constant table."""
        return None

    def with_products(self, node: Node, table: Array, indices: str, specs: Mapping[str, Spec]) -> Node | None:
        """The same node of the frame graph with its first input's product with weights looked up in a table, or None."""
        return None

    def row_axes(self, node: Node) -> tuple[Axis, Axis | None] | None:
        """(time axis, batch axis or None) of an input, where the operator defines them; else None."""
        return None

    def may_be_time(self, node: Node) -> list[Axis]:
        """Axes of inputs that are taken for time if nothing else in the graph determines time."""
        return []

    def misplaced(self, node: Node, specs: Mapping[str, Spec], roles: Mapping[Axis, str]) -> bool:
        """Whether a node that a speculative rewrite made is wrong for these roles of the axes."""
        return False

    def starts_from(self, node: Node) -> list[str]:
        """The inputs that hold the state before the first step, of an operator that carries a state over time."""
        return []

    def carried(self, node: Node) -> list[tuple[str, str]]:
        """Pairs (input, output) where the output is the final value of the state that starts from the input."""
        return []

    def doubt(self, node: Node, producer: str) -> str | None:
        """A warning where the producer is known to write this node wrongly, or None."""
        return None

    def forbids_stream(self, node: Node) -> str | None:
        """Why a node of the frame graph needs the whole sequence, or None."""
        return None

    def multiply_adds(self, node: Node, specs: dict[str, Spec]) -> int:
        """Multiply-adds per row of a node of the frame graph."""
        return 0

    def summed(self, node: Node) -> Mapping[str, tuple[int, ...]]:
        """The weights of a node of the frame graph that can be stored in small types: attribute, or input that is constant →
        its axes over which an output sums."""
        return {}

    def stored(self, node: Node, env: Lowering, weights: Mapping[str, Array]) -> dict[str, Stored]:
        """How those weights are stored, as rows [*outputs, K]."""
        if held := node.attributes.get(HELD):
            return {key: held[key] for key in weights}
        rows = {key: as_rows(array, self.summed(node)[key]) for key, array in weights.items()}
        return stored(node.attributes.get(STORAGE), rows, self.whole_rows, integers=env.integers, narrow=env.narrow)

    # Operators that hold graphs.

    def arguments(self, node: Node) -> int:
        """The number of inputs before the captured values of the nested graphs."""
        return len(node.inputs)

    def enter(self, node: Node, key: str, specs: Sequence[Spec | None]) -> list[Spec]:
        """Specs of the inputs of a nested graph."""
        raise Refused("it takes no graph")

    def choose(self, node: Node, constants: Mapping[str, Array]) -> str | None:
        """The attribute of the nested graph that replaces the node, if constants determine it, or None."""
        return None

    def inline(self, node: Node, key: str) -> list[Node]:
        """The nodes of the nested graph that replaces the node."""
        raise Refused("it takes no graph")

    def learn(self, node: Node, constants: Mapping[str, Array]) -> None:
        """Record in the attributes what constants determine, nested graphs included."""

    def prune(self, node: Node) -> None:
        """Remove unused outputs and their nodes from the nested graphs."""

    def compute(self, node: Node, arrays: Sequence[Array | None], run: RunGraph) -> tuple[Array, ...]:
        """As `reference`, with a function `run` that computes a nested graph."""
        return self.reference(node, arrays)

    def row_by_row(self, node: Node, per_row: Callable[[str], bool]) -> bool:
        """Whether a node of the frame graph runs its nested graphs for one row after the other."""
        return False

    def index_bound(self, node: Node, env: Lowering) -> tuple[str, int, int] | None:
        """(input, lowest, highest) where an input holds indices, or None."""
        return None


@dataclass(frozen=True)
class Frames:
    """The row axes of all values, for `Op.frame`."""

    specs: dict[str, Spec]
    roles: dict[Axis, str]
    """'time' or 'batch' for each row axis"""
    constants: dict[str, Array]
    made: dict[str, Spec] = field(default_factory=dict)
    """values with one row per frame that only the frame graph has → their frames"""
    windows: dict[str, Node] = field(default_factory=dict)
    """the window nodes that were made, by output"""

    def role(self, name: str, axis: int) -> str | None:
        return self.roles.get((name, axis))

    def rows(self, name: str) -> list[int]:
        """The row axes of a value, ascending."""
        return [a for a in range(len(self.specs[name].shape)) if (name, a) in self.roles]

    def kept(self, name: str) -> list[int]:
        """The axes of a value that stay in its frame, ascending."""
        return [a for a in range(len(self.specs[name].shape)) if (name, a) not in self.roles]

    def shape(self, name: str) -> tuple[int, ...]:
        """The frame shape of a value."""
        return tuple(self.specs[name].sizes[a] for a in self.kept(name))

    def axis(self, name: str, axis: int) -> int:
        """The axis of the frame's shape for an axis of the file's shape."""
        return self.kept(name).index(axis % max(len(self.specs[name].shape), 1))

    def window(
        self,
        node: Node,
        name: str,
        offsets: Sequence[int],
        step: int = 1,
        extra: int = -1,
        value: float = 0.0,
        edge: bool = False,
        before: Array | None = None,
        output: str = "",
    ) -> tuple[Node, str]:
        """A node, and its output whose row j holds the rows j * step + offset of `name`: [offsets, *frame of name].

        For an input of L rows the output has (L + extra) // step + 1. Rows before the first and after the last are
        `value`; or, with `edge`, the first and the last; `before` [rows, *frame] are rows that come before the first.
        With one offset the output, named `output` if given, has the frame of `name`.
        """
        inner = self.windows.get(name)
        if inner is not None and len(inner.attributes["offsets"]) == 1 and min(offsets) >= 0 and extra < -max(offsets):
            first, name = inner.attributes, inner.inputs[0]  # rows of rows are rows, where none lies outside
            offsets = [o * first["step"] + first["offsets"][0] for o in offsets]
            step, extra = step * first["step"], first["extra"] + first["step"] * (1 + extra)
            value, edge, before = first["value"], first["edge"], first["before"]
        frame = self.shape(name) if name in self.specs else self.made[name].sizes
        spec = Spec((self.specs.get(name) or self.made[name]).dtype, frame if len(offsets) == 1 else (len(offsets), *frame))
        attributes = {
            "offsets": tuple(int(o) for o in offsets),
            "step": int(step),
            "extra": int(extra),
            "value": float(value),
            "edge": edge,
            "before": before,
        }
        window, made = self._make(node, name, "Window", spec, attributes, frame, output)
        self.windows[made] = window
        return window, made

    def unfold(self, node: Node, name: str, times: int, start: int, extra: int, output: str = "") -> tuple[Node, str]:
        """A node, and its output whose rows are the `times` rows that each frame [times, *frame] of `name` holds.

        For an input of L rows the output has L * times + extra, without the first `start`.
        """
        if extra > -start:
            raise Refused(f"its output is {extra + start} rows longer than what it is made of")
        frame = self.shape(name) if name in self.specs else self.made[name].sizes
        spec = Spec((self.specs.get(name) or self.made[name]).dtype, frame[1:])
        return self._make(node, name, "Unfold", spec, {"times": times, "start": start, "extra": extra}, frame, output)

    def value(self, stem: str, spec: Spec) -> str:
        """The name of a new value with one row per frame."""
        name, count = stem, 0
        while name in self.specs or name in self.made:
            count += 1
            name = f"{stem}.{count}"
        self.made[name] = spec
        return name

    def _make(
        self, node: Node, name: str, op: str, spec: Spec, attributes: dict[str, Any], frame: tuple[int, ...], output: str
    ) -> tuple[Node, str]:
        made = output or self.value(f"{name}.{op.lower()}", spec)
        return Node(
            op,
            made if made in self.made else f"{node.name}.{op.lower()}",
            (name,),
            (made,),
            attributes,
            domain=OURS,
            shapes=(frame,),
        ), made

    def node(self, node: Node, attributes: dict[str, Any] | None = None, shapes: Sequence[tuple[int, ...]] | None = None) -> Node:
        """The node over frames; by default it sees each input in its frame shape."""
        seen = tuple(shapes) if shapes is not None else tuple(self.shape(i) if i else () for i in node.inputs)
        return Node(
            node.op,
            node.name,
            node.inputs,
            node.outputs,
            dict(node.attributes if attributes is None else attributes),
            node.version,
            node.domain,
            seen,
        )


REGISTRY: dict[tuple[str, str], Op] = {}
"""(domain, name) → operator; the domain of internal ones is `OURS`"""

OURS = "tinyrnn"
MICROSOFT = "com.microsoft"
"""the domain of onnxruntime's own operators"""


def register(cls: type[Op]) -> type[Op]:
    """Register an operator under its name. Raises `ValueError` if the name is taken."""
    key = (OURS if cls.internal else cls.domain, cls.name)
    if key in REGISTRY:
        raise ValueError(f"two operators are called {cls.name}: in {type(REGISTRY[key]).__module__} and {cls.__module__}")
    REGISTRY[key] = cls()
    return cls


REWRITES: list[Callable[[Graph], None]] = []
"""rewrites of file graphs, in the order of registration; each stands beside the operator that it makes"""


def rewrite(function: Callable[[Graph], None]) -> Callable[[Graph], None]:
    REWRITES.append(function)
    return function


SPECULATIVE_REWRITES: list[Callable[[Graph], None]] = []
"""rewrites that run last, and are taken back if an operator that they made is `misplaced`"""


def speculative_rewrite(function: Callable[[Graph], None]) -> Callable[[Graph], None]:
    SPECULATIVE_REWRITES.append(function)
    return function


BEFORE_SHAPES: list[Callable[[Graph], None]] = []
"""rewrites of file graphs before shapes are known, for values without a shape"""


def before_shapes(function: Callable[[Graph], None]) -> Callable[[Graph], None]:
    BEFORE_SHAPES.append(function)
    return function


ADVICE: dict[str, str] = {}
"""unsupported operator → advice"""


def not_known(node: Node) -> str:
    """The name of an unsupported operator, with advice if there is any."""
    advice = ADVICE.get(node.op)
    return f"operator {node.domain + '.' if node.domain else ''}{node.op}{f' ({advice})' if advice else ''}"


def op_of(node: Node) -> Op:
    """The operator of a node. Raises `UnsupportedError` where there is none."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    found = REGISTRY.get((domain, node.op))
    if found is None:
        raise UnsupportedError(f"{not_known(node)} (node {node.name!r})")
    return found
