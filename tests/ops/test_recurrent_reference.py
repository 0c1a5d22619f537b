"""The float64 references of RNN, GRU and LSTM against onnxruntime, onnx.reference and PyTorch.

onnxruntime takes part in every case it implements as the specification has it; `RecurrentCase.gap` says why
in the others, and `test_onnxruntime_differs_as_documented` holds those differences still. Never give it T =
0: it aborts.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.ops.recurrent_cases import (
    GATES,
    NO_LOWER_CASE,
    OUTPUTS,
    THRESHOLD_DEFAULT,
    THRESHOLD_EQUAL,
    RecurrentCase,
    build,
    expected,
    recurrent_cases,
)
from tinyrnn.ops.elementwise.activations import ACTIVATIONS, bind_activations
from tinyrnn.ops.recurrent.reference import gru, lstm, rnn

CLOSE = {np.dtype(np.float32): (1e-5, 1e-4), np.dtype(np.float64): (1e-12, 1e-11)}
"""Absolute and relative tolerance, by the type the other implementation computes in."""

CASES = recurrent_cases()
BY_NAME = {case.name: case for case in CASES}

Arrays = dict[str, NDArray[Any]]


def assert_close(actual: Arrays, reference: Arrays) -> None:
    """Every output, in shape and value."""
    assert actual.keys() == reference.keys()
    for name, value in actual.items():
        absolute, relative = CLOSE[value.dtype]
        assert value.shape == reference[name].shape, name
        np.testing.assert_allclose(value, reference[name], rtol=relative, atol=absolute, err_msg=name)


def run_onnxruntime(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def ignored_by_onnx_reference(case: RecurrentCase) -> str:
    """What of the case `onnx.reference` ignores or refuses, "" where it implements all of it."""
    attributes = case.attributes
    if case.sequence_lens is not None and set(case.sequence_lens) != {case.T}:
        return "sequence_lens"
    for name in ("clip", "input_forget"):
        if name in attributes:
            return name
    activations = attributes.get("activations")
    if activations is None or (case.op == "RNN" and activations == ["Tanh"]):
        return ""
    affine = case.op == "RNN" and activations == ["Affine"] and "activation_alpha" in attributes
    return "" if affine else "activations"


def plain_in_torch(case: RecurrentCase) -> bool:
    """Whether PyTorch has the case: attributes direction and layout, GRU with linear_before_reset, no P."""
    attributes = dict(case.attributes)
    linear = attributes.pop("linear_before_reset", 0)
    if case.op == "RNN" and attributes.get("activations") in (["Tanh"], ["Relu"]):
        del attributes["activations"]
    return (
        set(attributes) <= {"hidden_size", "direction", "layout"}
        and linear == (case.op == "GRU")
        and "P" not in case.inputs
        and (case.sequence_lens is None or 0 not in case.sequence_lens)
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_are_valid_onnx(case: RecurrentCase) -> None:
    model, inputs = build(case)
    onnx.checker.check_model(model, full_check=True)
    result = expected(model, inputs)
    assert tuple(result) == case.outputs
    assert all(np.isfinite(value).all() and value.dtype == np.float64 for value in result.values())


@pytest.mark.parametrize("case", [case for case in CASES if case.onnxruntime], ids=str)
def test_against_onnxruntime(case: RecurrentCase) -> None:
    model, inputs = build(case)
    assert_close(run_onnxruntime(model, inputs), expected(model, inputs))


@pytest.mark.parametrize("case", [case for case in CASES if not ignored_by_onnx_reference(case)], ids=str)
def test_against_onnx_reference(case: RecurrentCase) -> None:
    model, inputs = build(case)
    results = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    assert isinstance(results, list)
    assert_close(dict(zip(case.outputs, results, strict=True)), expected(model, inputs))


@pytest.mark.parametrize("case", [case for case in CASES if plain_in_torch(case)], ids=str)
def test_against_torch(case: RecurrentCase) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    model, inputs = build(case)
    assert_close(run_torch(case, model, inputs), expected(model, inputs))


def run_torch(case: RecurrentCase, model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """The case in PyTorch and float64, one direction after the other."""
    import torch

    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    D, N, H, G = case.directions, case.N, case.H, GATES[case.op]
    # ONNX's gate order to PyTorch's: RNN i; GRU z r h to r z n; LSTM i o f c to i f g o.
    order = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}[case.op]
    time_first = {name: value.swapaxes(0, 1) if case.layout and value.ndim == 3 else value for name, value in inputs.items()}
    zeros = np.zeros((D, N, H))
    lengths = np.array(case.sequence_lens or [case.T] * N)
    Y = np.zeros((case.T, D, N, H))
    finals = [np.zeros((D, N, H)) for _ in OUTPUTS[case.op][1:]]
    for d in range(D):
        backward = case.attributes.get("direction") == "reverse" or d == 1
        module: torch.nn.RNNBase
        if case.op == "RNN":
            name = case.attributes.get("activations", ["Tanh"])[0].lower()
            module = torch.nn.RNN(case.I, H, nonlinearity=name, dtype=torch.float64)
        else:
            module = getattr(torch.nn, case.op)(case.I, H, dtype=torch.float64)
        B = weights.get("B", np.zeros((D, 2 * G * H)))[d].reshape(2, G, H)[:, order].reshape(2, G * H)
        parameters = {
            "weight_ih_l0": weights["W"][d].reshape(G, H, -1)[order].reshape(G * H, -1),
            "weight_hh_l0": weights["R"][d].reshape(G, H, -1)[order].reshape(G * H, -1),
            "bias_ih_l0": B[0],
            "bias_hh_l0": B[1],
        }
        module.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in parameters.items()})
        for n in range(N):
            length = lengths[n]
            step = -1 if backward else 1
            X = torch.from_numpy(time_first["X"][:length, n][::step].astype(np.float64))
            states = [
                torch.from_numpy(time_first.get(name, zeros)[d, n][None].astype(np.float64))
                for name in ("initial_h", "initial_c")[: len(finals)]
            ]
            with torch.no_grad():
                y, last = module(X, tuple(states) if case.op == "LSTM" else states[0])
            Y[:length, d, n] = y.numpy()[::step]
            for final, value in zip(finals, last if case.op == "LSTM" else [last], strict=True):
                final[d, n] = value.numpy()[0]
    results = dict(zip(OUTPUTS[case.op], [Y, *finals], strict=True))
    if case.layout:
        results = {name: value.transpose(2, 0, 1, 3) if name == "Y" else value.swapaxes(0, 1) for name, value in results.items()}
    return {name: results[name] for name in case.outputs}


@pytest.mark.parametrize("case", [case for case in CASES if not case.onnxruntime], ids=str)
def test_onnxruntime_differs_as_documented(case: RecurrentCase) -> None:
    """If this fails, onnxruntime has changed: the case may be compared, and the docstrings say too much."""
    model, inputs = build(case)
    if case.gap == THRESHOLD_DEFAULT:
        actual = run_onnxruntime(model, inputs)
        assert_close(actual, expected(model, inputs, activation_alpha=[0.0]))
        with pytest.raises(AssertionError):
            assert_close(actual, expected(model, inputs))
    elif case.gap == THRESHOLD_EQUAL:
        # A threshold a little above clip is what x > alpha amounts to: nothing passes.
        actual = run_onnxruntime(model, inputs)
        assert_close(actual, expected(model, inputs, activation_alpha=[0.5 + 1e-9]))
        with pytest.raises(AssertionError):
            assert_close(actual, expected(model, inputs))
    else:
        word = {"layout": "layout", "hidden_size": "hidden_size", NO_LOWER_CASE: "activation"}
        (text,) = [text for key, text in word.items() if key in case.gap]
        with pytest.raises(Exception, match=text):
            run_onnxruntime(model, inputs)


@pytest.mark.parametrize("op", GATES)
def test_gates_cannot_be_confused(op: str) -> None:
    """Exchanging two gates, or W's bias with R's, changes the outputs by far more than a tolerance."""
    model, inputs = build(BY_NAME[f"{op.lower()}_size_T5_N3_I5_H17"])
    plain = expected(model, inputs)
    H, G = 17, GATES[op]
    initializers = {t.name: t for t in model.graph.initializer}
    for name in ("W", "R", "B"):
        original = numpy_helper.to_array(initializers[name])
        rows = original.reshape(1, -1, H, original.shape[-1] if name != "B" else 1)
        for a, b in itertools.combinations(range(G), 2):
            swapped = rows.copy()
            swapped[:, [a, b]] = swapped[:, [b, a]]
            initializers[name].CopyFrom(numpy_helper.from_array(swapped.reshape(original.shape), name))
            changed = expected(model, inputs)
            assert all(np.abs(changed[key] - plain[key]).max() > 0.05 for key in plain), (name, a, b)
        initializers[name].CopyFrom(numpy_helper.from_array(original, name))


@pytest.mark.parametrize("case", [case for case in CASES if case.sequence_lens], ids=str)
def test_padding(case: RecurrentCase) -> None:
    """Beyond a sequence's length X is not read and Y is zero; a sequence of length 0 leaves no state."""
    assert case.sequence_lens is not None
    model, inputs = build(case)
    plain = expected(model, inputs)
    X = inputs["X"].swapaxes(0, 1) if case.layout == 0 else inputs["X"]
    for n, length in enumerate(case.sequence_lens):
        X[n, length:] = np.nan
        if "Y" in plain:
            Y = plain["Y"].transpose(2, 0, 1, 3)[n] if case.layout == 0 else plain["Y"][n]
            assert not Y[length:].any()
        for name in {"Y_h", "Y_c"} & plain.keys():
            state = plain[name][:, n] if case.layout == 0 else plain[name][n]
            assert state.any() == (length > 0)
    for name, value in expected(model, inputs).items():
        np.testing.assert_array_equal(value, plain[name])


def continues(case: RecurrentCase) -> bool:
    """Whether the outputs of one run are the states of the next."""
    forward = case.attributes.get("direction", "forward") == "forward"
    taken = {name.replace("initial", "Y") for name in case.inputs if name.startswith("initial")}
    whole = case.sequence_lens is None and case.T > 1 and case.outputs == OUTPUTS[case.op]
    return forward and whole and taken == set(case.outputs[1:])


@pytest.mark.parametrize("case", [case for case in CASES if continues(case)], ids=str)
def test_two_halves_are_the_whole(case: RecurrentCase) -> None:
    """Forward, the state after the first frames, given back, continues the sequence."""
    model, inputs = build(case)
    axis = case.layout
    first, second = np.split(inputs["X"], [case.T // 2], axis)
    one = expected(model, inputs | {"X": first})
    states = {name.replace("Y", "initial"): value for name, value in one.items() if name != "Y"}
    two = expected(model, inputs | {"X": second} | states)
    joined = two | {"Y": np.concatenate([one["Y"], two["Y"]], axis)}
    assert_close(joined, expected(model, inputs))


def test_no_frames() -> None:
    """T = 0, which onnxruntime cannot run: the rule of a sequence of length 0."""
    X, W, R, h = np.ones((0, 2, 3)), np.ones((1, 4, 3)), np.ones((1, 4, 4)), np.ones((1, 2, 4))
    Y, Y_h = rnn(X, W, R, initial_h=h)
    assert Y.shape == (0, 1, 2, 4)
    np.testing.assert_array_equal(Y_h, np.zeros((1, 2, 4)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"direction": "backward"}, "direction must be"),
        ({"layout": 2}, "layout must be"),
        ({"clip": -1.0}, "clip must not be negative"),
        ({"activations": ["Tanh"]}, "must be 2 names"),
        ({"activations": ["Tanh", "Gelu"]}, "unknown activation 'Gelu'"),
        ({"hidden_size": 5}, "W must have shape"),
        ({"sequence_lens": np.array([3, 1])}, "sequence_lens must be 2 lengths of 0 to 2"),
        ({"initial_h": np.zeros((2, 1, 4))}, "initial_h must have shape"),
        ({"B": np.zeros((1, 12))}, "B must have shape"),
    ],
)
def test_errors(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gru(np.zeros((2, 2, 3)), np.zeros((1, 12, 3)), np.zeros((1, 12, 4)), **changed)


def test_float64_is_kept() -> None:
    """Inputs of float64 lose nothing: a difference below float32's resolution reaches the output."""
    rng = np.random.default_rng(7)
    X, W, R = rng.standard_normal((3, 1, 2)), rng.standard_normal((1, 16, 2)), rng.standard_normal((1, 16, 4))
    a, b = (lstm(X + delta, W, R)[0] for delta in (0.0, 1e-12))
    assert 0.0 < np.abs(a - b).max() < 1e-10


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=lambda a: a.name)
def test_activation_extremes(activation: Any) -> None:
    """No overflow, no warning, and NaN stays NaN."""
    (function,) = bind_activations([activation.name.upper()], [0.5], [0.5])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        values = function(np.array([-1e4, -1.0, -0.0, 0.0, 1.0, 1e4]))
    assert np.isfinite(values).all()
    assert np.isnan(function(np.array([np.nan]))).all()


@pytest.mark.parametrize("name", [a.name for a in ACTIVATIONS.values() if a.name not in ("Affine", "ScaledTanh")])
def test_activation_defaults_are_the_operators(name: str) -> None:
    """Against onnx.reference's operator of that name with no attributes, at no x = 1 (see ACTIVATIONS)."""
    x = np.linspace(-6.0, 6.0, 98).astype(np.float32)
    node = onnx.helper.make_node(name, ["x"], ["y"])
    (function,) = bind_activations([name])
    (y,) = onnx.reference.ReferenceEvaluator(node).run(None, {"x": x})
    assert_close({"y": np.asarray(y)}, {"y": function(x.astype(np.float64))})
