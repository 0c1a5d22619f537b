"""Test cases of RNN, LSTM and GRU, as data.

`recurrent_cases()` lists them, `build(case)` makes the model and its inputs, `expected(model, inputs)`
evaluates them with the float64 reference. The cases hold every attribute alone and every pair of them, every
activation with and without its parameters, sizes around 16 and 32, and every subset of the outputs. Weights
are random and differ from gate to gate in scale and bias; states are not zero.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tinyrnn.ops.elementwise.activations import ACTIVATIONS
from tinyrnn.ops.recurrent.reference import gru, lstm, rnn

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
"""Activations of one direction."""

INPUTS = {
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}
"""The operators' inputs in order; the first three are required."""

REFERENCES: dict[str, Callable[..., tuple[NDArray[np.float64], ...]]] = {"RNN": rnn, "GRU": gru, "LSTM": lstm}

OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}

NO_LAYOUT = "onnxruntime has no layout = 1"
NO_HIDDEN_SIZE = "onnxruntime requires hidden_size, the specification does not"
NO_LOWER_CASE = "onnxruntime takes RNN's activations only as the specification spells them"
THRESHOLD_DEFAULT = "onnxruntime takes alpha = 0 for ThresholdedRelu, the operator's default is 1"
THRESHOLD_EQUAL = "onnxruntime computes ThresholdedRelu with x > alpha, the specification says x >= alpha"


@dataclass(frozen=True, eq=False)
class RecurrentCase:
    """One node with its sizes: T frames, N sequences, I inputs, H hidden units.

    `attributes` are the node's own, `inputs` the optional inputs that are present, `outputs` those taken; the
    others have no name in the node. `gap` says why onnxruntime cannot be compared, "" where it can. `gain`
    scales the weights: functions without bound need smaller ones.
    """

    name: str
    op: str
    attributes: dict[str, Any]
    T: int
    N: int
    I: int  # noqa: E741
    H: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    sequence_lens: tuple[int, ...] | None = None
    gain: float = 1.0
    gap: str = ""

    @property
    def onnxruntime(self) -> bool:
        """Whether onnxruntime implements the case as the specification has it."""
        return not self.gap

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1

    @property
    def layout(self) -> int:
        return int(self.attributes.get("layout", 0))

    def __str__(self) -> str:
        return self.name


def build(case: RecurrentCase) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """The case as a model of one node, and its graph inputs.

    Values carry the specification's names. X, sequence_lens and the initial states are graph inputs, with the
    symbolic dimensions "T" and "N"; W, R, B and P are initializers. The numbers depend on the name of the
    case only.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    D, T, N, I, H = case.directions, case.T, case.N, case.I, case.H  # noqa: E741
    G = GATES[case.op]

    def normal(*shape: int) -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    # One row of factors for each gate, so that no two gates can be taken for one another.
    scale = case.gain * (0.8 + 0.25 * np.arange(G))[None, :, None, None]
    shift = (0.25 * np.arange(G) - 0.3)[None, :, None]
    arrays: dict[str, NDArray[np.float64]] = {
        "X": normal(T, N, I),
        "W": (scale * normal(D, G, H, I) * 1.3 / np.sqrt(I)).reshape(D, G * H, I),
        "R": (scale * normal(D, G, H, H) * 1.1 / np.sqrt(H)).reshape(D, G * H, H),
        "B": case.gain * np.stack([shift + 0.5 * normal(D, G, H) for _ in "WR"], 1).reshape(D, 2 * G * H),
        "initial_h": 0.3 + 0.7 * normal(D, N, H),
        "initial_c": -0.2 + 1.2 * normal(D, N, H),
        "P": case.gain * (np.array([0.3, 0.6, 0.9])[None, :, None] * normal(D, 3, H)).reshape(D, 3 * H),
    }
    shapes: dict[str, tuple[int | str, ...]] = {"X": ("T", "N", I), "sequence_lens": ("N",)}
    shapes |= {name: (D, "N", H) for name in ("initial_h", "initial_c", "Y_h", "Y_c")}
    shapes["Y"] = ("T", D, "N", H)
    if case.layout == 1:
        for name in ("X", "initial_h", "initial_c"):
            arrays[name] = arrays[name].swapaxes(0, 1)
        shapes |= {"X": ("N", "T", I), "Y": ("N", "T", D, H)}
        shapes |= {name: ("N", D, H) for name in ("initial_h", "initial_c", "Y_h", "Y_c")}
    values: dict[str, NDArray[Any]] = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}
    values["sequence_lens"] = np.array(case.sequence_lens or (), np.int32)

    present = ("X", "W", "R", *case.inputs)
    node_inputs = [name if name in present else "" for name in INPUTS[case.op]]
    node_outputs = [name if name in case.outputs else "" for name in OUTPUTS[case.op]]
    node = helper.make_node(case.op, _without_tail(node_inputs), _without_tail(node_outputs), name="layer", **case.attributes)
    fed = [name for name in present if name not in ("W", "R", "B", "P")]
    types = dict.fromkeys(shapes, TensorProto.FLOAT) | {"sequence_lens": TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info(name, types[name], shapes[name]) for name in fed],
        [helper.make_tensor_value_info(name, types[name], shapes[name]) for name in case.outputs],
        [numpy_helper.from_array(values[name], name) for name in present if name not in fed],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10 if case.opset >= 22 else 8
    )
    return model, {name: values[name] for name in fed}


def expected(model: onnx.ModelProto, inputs: dict[str, NDArray[Any]], **changed: Any) -> dict[str, NDArray[np.float64]]:
    """What the float64 reference gives for a model of `build`: the graph's outputs by name.

    `changed` replaces attributes of the node.
    """
    (node,) = model.graph.node
    values = inputs | {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.STRING:
            value = value.decode()
        elif attribute.type == onnx.AttributeProto.STRINGS:
            value = [item.decode() for item in value]
        attributes[attribute.name] = value
    results = REFERENCES[node.op_type](*[values[name] if name else None for name in node.input], **(attributes | changed))
    return {name: result for name, result in zip(node.output, results, strict=False) if name}


def recurrent_cases() -> list[RecurrentCase]:
    """Every case, in a fixed order; the names are unique."""
    cases = [case for family in _FAMILIES for op in GATES for case in family(op)]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def _without_tail(names: Sequence[str]) -> list[str]:
    """Without the missing arguments at the end."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return kept


@dataclass
class _Draft:
    """A case in the making; what is not set stands for a plain node that uses B and the initial states."""

    op: str
    name: str
    attributes: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, int, int, int] = (4, 2, 3, 5)
    inputs: set[str] | None = None
    outputs: tuple[str, ...] = ()
    opset: int = 14
    sequence_lens: tuple[int, ...] | None = None
    gain: float = 1.0
    gap: str = ""
    hidden_size: bool = True

    def case(self) -> RecurrentCase:
        T, N, I, H = self.sizes  # noqa: E741
        inputs = {"B", "initial_h", "initial_c"} if self.inputs is None else set(self.inputs)
        if self.sequence_lens is not None:
            inputs.add("sequence_lens")
        if self.attributes.get("layout") == 1:
            self.gap = NO_LAYOUT
        return RecurrentCase(
            name=f"{self.op.lower()}_{self.name}",
            op=self.op,
            attributes=({"hidden_size": H} if self.hidden_size else {}) | self.attributes,
            T=T,
            N=N,
            I=I,
            H=H,
            inputs=tuple(name for name in INPUTS[self.op][3:] if name in inputs),
            outputs=self.outputs or OUTPUTS[self.op],
            opset=self.opset,
            sequence_lens=self.sequence_lens,
            gain=self.gain,
            gap=self.gap,
        )


def _draft(op: str, name: str, **values: Any) -> RecurrentCase:
    return _Draft(op, name, **values).case()


SIZES = (
    (1, 1, 1, 1),
    (3, 1, 2, 7),
    (4, 2, 1, 16),
    (5, 3, 5, 17),
    (6, 1, 16, 32),
    (7, 2, 17, 33),
    (9, 3, 33, 40),
    (8, 1, 40, 3),
    (3, 2, 32, 15),
)
"""T, N, I, H: lengths of 1 and 3 to 9, sizes odd and even, below, at and above 16 and 32."""

_RAGGED_SIZES = ((4, 2, 3, 7), (5, 3, 4, 16), (7, 2, 5, 17), (9, 3, 2, 3), (6, 3, 16, 8), (8, 2, 1, 33))


def _sizes(op: str) -> Iterator[RecurrentCase]:
    for i, sizes in enumerate(SIZES):
        label = "T{}_N{}_I{}_H{}".format(*sizes)
        yield _draft(op, f"size_{label}", sizes=sizes, opset=(14, 7, 22)[i % 3])
    yield _draft(op, "size_bidirectional_H33", sizes=(5, 2, 17, 33), attributes={"direction": "bidirectional"})


def _optional_inputs(op: str) -> Iterator[RecurrentCase]:
    yield _draft(op, "inputs_none", inputs=set())
    names = [name for name in INPUTS[op][3:] if name != "sequence_lens"]
    for name in names:
        yield _draft(op, f"inputs_only_{name}", inputs={name})
    if op == "LSTM":
        yield _draft(op, "inputs_all_but_B", inputs=set(names) - {"B"})
        yield _draft(op, "inputs_all_but_initial_c", inputs=set(names) - {"initial_c"})


def _output_subsets(op: str) -> Iterator[RecurrentCase]:
    names = OUTPUTS[op]
    for count in range(1, len(names)):
        for outputs in itertools.combinations(names, count):
            yield _draft(op, "outputs_" + "_".join(outputs), outputs=outputs)
    yield _draft(
        op,
        "outputs_last_ragged",
        outputs=names[1:],
        attributes={"direction": "bidirectional"},
        sizes=(6, 3, 4, 7),
        sequence_lens=(3, 5, 1),
    )


def _ragged(op: str) -> Iterator[RecurrentCase]:
    for direction, lengths in (
        ("forward", (4, 0, 2)),
        ("reverse", (0, 3, 5)),
        ("bidirectional", (2, 6, 0)),
    ):
        yield _draft(
            op,
            f"ragged_{direction}_{'_'.join(map(str, lengths))}",
            attributes={"direction": direction},
            sizes=(6, 3, 4, 7),
            sequence_lens=lengths,
            opset=22 if direction == "reverse" else 7,
        )
    yield _draft(op, "ragged_one_sequence", sizes=(5, 1, 3, 4), sequence_lens=(3,), inputs={"B"})
    yield _draft(op, "ragged_all_zero", sizes=(4, 2, 3, 4), sequence_lens=(0, 0))


def _features(op: str) -> list[str]:
    """What may be set beside the plain node."""
    own = {"RNN": [], "GRU": ["linear_before_reset"], "LSTM": ["input_forget", "peepholes"]}[op]
    return ["reverse", "bidirectional", "ragged", "clip", "activations", "layout", *own]


def _combined(op: str, features: Sequence[str], number: int, name: str = "") -> RecurrentCase:
    """A case with these features; `number` varies sizes, lengths and opset from case to case."""
    ragged = "ragged" in features
    pool = _RAGGED_SIZES if ragged else SIZES[1:]
    sizes = pool[number % len(pool)]
    T, N, _, _ = sizes
    attributes: dict[str, Any] = {}
    for direction in ("reverse", "bidirectional"):
        if direction in features:
            attributes["direction"] = direction
    if "clip" in features:
        attributes["clip"] = (0.9, 0.4)[number % 2]
    if "activations" in features:
        directions = 2 if "bidirectional" in features else 1
        names = {
            "RNN": ["ScaledTanh", "HardSigmoid"],
            "GRU": ["HardSigmoid", "Softsign", "Sigmoid", "LeakyRelu"],
            "LSTM": ["HardSigmoid", "ScaledTanh", "Softsign", "Sigmoid", "Elu", "LeakyRelu"],
        }[op]
        attributes |= _with_parameters(names[: FUNCTIONS[op] * directions])
    for feature, attribute in (
        ("layout", "layout"),
        ("linear_before_reset", "linear_before_reset"),
        ("input_forget", "input_forget"),
    ):
        if feature in features:
            attributes[attribute] = 1
    return _draft(
        op,
        name or "_".join(features),
        attributes=attributes,
        sizes=sizes,
        inputs={"B", "initial_h", "initial_c"} | ({"P"} if "peepholes" in features else set()),
        sequence_lens=((T - 1, 2, 0) if number % 2 else (1, T, T - 2))[:N] if ragged else None,
        opset=22 if number % 3 == 2 else 14 if "layout" in features or number % 3 == 1 else 7,
    )


def _attributes(op: str) -> Iterator[RecurrentCase]:
    """Every feature alone, every pair of them, and all at once."""
    features = _features(op)
    pairs = [pair for pair in itertools.combinations(features, 2) if pair != ("reverse", "bidirectional")]
    for number, chosen in enumerate([*((feature,) for feature in features), *pairs]):
        yield _combined(op, chosen, number)
    everything = [feature for feature in features if feature != "reverse"]
    yield _combined(op, everything, 2, "everything")
    yield _combined(op, [f for f in everything if f != "layout"], 5, "everything_but_layout")


_PARAMETERS = {
    "affine": (0.4, 0.2),
    "leakyrelu": (0.15, 0.0),
    "thresholdedrelu": (0.1, 0.0),
    "scaledtanh": (1.2, 0.7),
    "hardsigmoid": (0.3, 0.4),
    "elu": (1.3, 0.0),
}


def _with_parameters(names: Sequence[str]) -> dict[str, Any]:
    """The attributes for these activations, each with parameters that are its own."""
    attributes: dict[str, Any] = {"activations": list(names)}
    for key, index in (("alpha", 0), ("beta", 1)):
        takers = [name for name in names if getattr(ACTIVATIONS[name.lower()], key) is not None]
        values = [_PARAMETERS[name.lower()][index] * (1.0 + 0.2 * k) for k, name in enumerate(takers)]
        if values:
            attributes[f"activation_{key}"] = values
    return attributes


def _activations(op: str) -> Iterator[RecurrentCase]:
    """Every function in every role, with and without its parameters."""
    names = [activation.name for activation in ACTIVATIONS.values()]
    count = FUNCTIONS[op]
    for i, name in enumerate(names):
        chosen = [names[(i + shift) % len(names)] for shift in (0, 5, 9)[:count]]
        yield _draft(op, f"activation_{name}", attributes=_with_parameters(chosen), gain=0.5)
    defaults = {
        "RNN": [["LeakyRelu"], ["HardSigmoid"], ["Elu"], ["ThresholdedRelu"], ["Affine"], ["ScaledTanh"]],
        "GRU": [
            ["HardSigmoid", "LeakyRelu"],
            ["Sigmoid", "Elu"],
            ["Sigmoid", "ThresholdedRelu"],
            ["Affine", "ScaledTanh"],
        ],
        "LSTM": [
            ["HardSigmoid", "LeakyRelu", "Elu"],
            ["Sigmoid", "ThresholdedRelu", "Tanh"],
            ["Sigmoid", "Affine", "ScaledTanh"],
        ],
    }[op]
    for chosen in defaults:
        gap = THRESHOLD_DEFAULT if "ThresholdedRelu" in chosen else ""
        yield _draft(op, f"activation_default_{'_'.join(chosen)}", attributes={"activations": chosen}, gap=gap)
    # Parameters go to the functions that take them, across the directions, and may run out before the last.
    both = {
        "RNN": ["Tanh", "LeakyRelu"],
        "GRU": ["HardSigmoid", "Tanh", "Sigmoid", "Elu"],
        "LSTM": ["Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid", "Softsign", "Elu"],
    }[op]
    bidirectional = {"direction": "bidirectional"}
    yield _draft(op, "activation_consumption", attributes=bidirectional | _with_parameters(both), gain=0.7)
    short = {key: [0.35] for key in ("activation_alpha", "activation_beta")}
    yield _draft(op, "activation_too_few", attributes=bidirectional | {"activations": both} | short, gain=0.7)
    lower = {"activations": ["RELU", "softsign", "hardSigmoid"][:count]}
    yield _draft(op, "activation_case", attributes=lower, gain=0.5, gap=NO_LOWER_CASE if op == "RNN" else "")
    threshold = ["Sigmoid", "ThresholdedRelu", "Tanh"][:count] if count > 1 else ["ThresholdedRelu"]
    yield _draft(
        op,
        "activation_threshold_equals_clip",
        attributes={"activations": threshold, "activation_alpha": [0.5], "clip": 0.5},
        gap=THRESHOLD_EQUAL,
    )


def _clip_without_bias(op: str) -> Iterator[RecurrentCase]:
    yield _draft(op, "clip_no_bias", attributes={"clip": 0.5}, inputs={"initial_h", "initial_c"})
    if op == "GRU":
        yield _draft(op, "linear_before_reset_no_bias", attributes={"linear_before_reset": 1}, inputs={"initial_h"})
    if op == "LSTM":
        attributes = {"clip": 0.5, "input_forget": 1}
        yield _draft(op, "clip_no_bias_peepholes", attributes=attributes, inputs={"initial_h", "initial_c", "P"})


def _no_hidden_size(op: str) -> Iterator[RecurrentCase]:
    yield _draft(op, "no_hidden_size", hidden_size=False, gap=NO_HIDDEN_SIZE)


_FAMILIES: tuple[Callable[[str], Iterator[RecurrentCase]], ...] = (
    _sizes,
    _optional_inputs,
    _output_subsets,
    _ragged,
    _attributes,
    _activations,
    _clip_without_bias,
    _no_hidden_size,
)
