"""`quantize`: what small weights change, the search within a budget, and files that load with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tinyrnn
from tests.driving import Array
from tests.ops.op_case import build as build_op
from tests.ops.op_case import case, w, x
from tinyrnn.quantization import Quantization, plot, quantize
from tinyrnn.quantization.search import Layer, within

QUICK: dict[str, Any] = {"frames": 40, "seconds": 0.02}
KINDS = ("float16", "bfloat16", "int8", "int8:64", "int8:5", "int8x8")


def model_of(
    nodes: list[Any], arrays: dict[str, Array], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]
) -> onnx.ModelProto:
    def values(named: dict[str, list[Any]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, 7 if name == "token" else 1, shape) for name, shape in named.items()]

    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "made", values(inputs), values(outputs), weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def drawn(rng: Any, *shape: int) -> Array:
    return (rng.standard_normal(shape) * 0.4).astype(np.float32)


def tagger(units: int = 24, classes: int = 6, seed: int = 1) -> onnx.ModelProto:
    """x [T, 1, 9] → LSTM → probabilities of classes."""
    rng = np.random.default_rng(seed)
    arrays = {
        "W": drawn(rng, 1, 4 * units, 9),
        "R": drawn(rng, 1, 4 * units, units),
        "B": drawn(rng, 1, 8 * units),
        "M": drawn(rng, units, classes),
        "b": drawn(rng, classes),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B"], ["Y"], "rnn", hidden_size=units),
        helper.make_node("Squeeze", ["Y", "axis"], ["h"], "squeeze"),
        helper.make_node("MatMul", ["h", "M"], ["m"], "head"),
        helper.make_node("Add", ["m", "b"], ["z"], "bias"),
        helper.make_node("Softmax", ["z"], ["p"], "softmax", axis=-1),
    ]
    return model_of(nodes, arrays, {"x": ["T", 1, 9]}, {"p": ["T", 1, classes]})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("quantize") / "tagger.onnx"
    file.write_bytes(tagger().SerializeToString())
    return file


def bits(model: tinyrnn.Model, frames: int = 30) -> bytes:
    """All that a model makes of seeded input, from its first state."""
    rng = np.random.default_rng(5)
    arrays = [
        rng.integers(0, 9, (frames, *p.shape)).astype(p.dtype)
        if p.dtype.kind in "iu"
        else rng.standard_normal((frames, *p.shape)).astype(p.dtype)
        for p in model.inputs
    ]
    stream = model.stream()
    made = stream.run(*arrays)
    return b"".join(np.asarray(a).tobytes() for a in (made if isinstance(made, tuple) else (made,))) + stream.state.tobytes()


# What it shows


def test_every_choice_is_measured(path: Path) -> None:
    found = quantize(path, **QUICK)
    names = [c.name for c in found.choices]
    assert names[:5] == ["float32", "float16", "bfloat16", "int8:64", "int8"]
    whole, half, bfloat, _, small = found.choices[:5]
    assert whole.error == whole.rms == 0 and whole.bytes > half.bytes == bfloat.bytes > small.bytes
    assert 0 < half.rms <= half.error < bfloat.error < small.error < 1
    assert half.states is not None and 0 < half.states < small.states < 1  # type: ignore[operator]
    assert len(small.drift) == 10 and max(small.drift) == small.error and all(c.step > 0 for c in found.choices)
    assert [(d.name, d.rule, d.total) for d in half.decisions] == [("p", "the largest of the probabilities", 40)]
    text = str(found)
    assert all(f"{name} " in text for name in names) and "40 frames of random input" in text and "dynamics: errors" in text


def test_errors_are_those_of_the_outputs(path: Path) -> None:
    rng = np.random.default_rng(2)
    frames = rng.standard_normal((60, 9)).astype(np.float32)
    found = quantize(path, data={"x": frames}, seconds=0.02).choice("int8")
    wanted, made = (tinyrnn.load(path, weights=kind).stream().run(frames).astype(np.float64) for kind in ("float32", "int8"))
    unit = np.sqrt(np.mean(wanted**2))
    assert np.isclose(found.error, np.abs(made - wanted).max() / unit)
    assert np.isclose(found.rms, np.sqrt(np.mean((made - wanted) ** 2)) / unit)
    assert found.decisions[0].changed == int((made.argmax(-1) != wanted.argmax(-1)).sum())


def test_progress_goes_to_its_end(path: Path) -> None:
    calls: list[tuple[int, int]] = []
    quantize(path, budget=0.05, progress=lambda done, total: calls.append((done, total)), **QUICK)
    done = [d for d, _ in calls]
    assert done == sorted(done) and calls[-1][0] == calls[-1][1]


def test_given_weights_are_measured_too(path: Path) -> None:
    found = quantize(path, weights={"rnn": "int8", "*": "float32"}, **QUICK)
    assert found.choice("float32").bytes > found.choice("as given").bytes > found.choice("int8").bytes
    assert [c.name for c in quantize(path, weights="int8:5", **QUICK).choices][-1] == "as given"
    assert "as given" not in [c.name for c in quantize(path, weights="int8", **QUICK).choices]


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_bits_of_the_model(path: Path, tmp_path: Path, kind: str) -> None:
    found = quantize(path, tmp_path / "small.npz", weights=kind, **QUICK).file
    assert found is not None and found.bytes == (tmp_path / "small.npz").stat().st_size and not found.wide
    wanted, again = tinyrnn.load(path, weights=kind), tinyrnn.load(tmp_path / "small.npz")
    assert bits(again) == bits(wanted)
    assert again._layout.weights.nbytes == wanted._layout.weights.nbytes
    halved = kind.endswith("16")
    assert found.bytes < (0.3 if kind in ("int8", "int8:64", "int8x8") else 0.55) * path.stat().st_size + 6000
    with np.load(tmp_path / "small.npz") as arrays:
        stored = {a.dtype.name for a in arrays.values() if a.size > 50}
    assert ("float16" in stored or "uint16" in stored) if halved else "int8" in stored


def test_a_file_is_written_with_halves_by_default(path: Path, tmp_path: Path) -> None:
    found = quantize(path, tmp_path / "small.npz", **QUICK).file
    assert found is not None and found.weights == "float16"
    assert bits(tinyrnn.load(tmp_path / "small.npz")) == bits(tinyrnn.load(path, weights="float16"))


def test_a_small_file_is_quantised_again(path: Path, tmp_path: Path) -> None:
    """The same type gives the same bits, another one is measured against what the small file holds."""
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    quantize(path, first, weights="int8", **QUICK)
    found = quantize(first, second, weights="int8", **QUICK)
    assert bits(tinyrnn.load(second)) == bits(tinyrnn.load(first))
    assert found.choice("int8").error < 1e-5 < found.choice("bfloat16").error
    assert second.stat().st_size < 1.2 * first.stat().st_size


def test_a_small_file_is_built_for_a_board(path: Path, tmp_path: Path) -> None:
    flash = {}
    for kind in ("float32", "int8"):
        quantize(path, tmp_path / f"{kind}.npz", weights=kind, **QUICK)
        built = tinyrnn.build(tmp_path / f"{kind}.npz", tmp_path / kind, target="cortex-m4")
        flash[kind] = sum(f.stat().st_size for f in (tmp_path / kind).glob("*.o"))
        assert built.manifest
    assert flash["int8"] < flash["float32"] - 6000


@pytest.mark.parametrize("kind", ["float16", "int8", "int8:3"])
@pytest.mark.parametrize("op", ["gemm", "transposed", "conv", "grouped", "depthwise", "taps", "gru", "scaled", "transpose_node"])
def test_kinds_of_layers(op: str, kind: str, tmp_path: Path) -> None:
    """Constants in every order of axes; those that a file computes, as of a scaled matrix, are replaced where they are made."""
    rng = np.random.default_rng(3)
    shape: list[Any] = ["T", 1, 12]
    make = helper.make_node
    if op in ("gemm", "transposed"):
        nodes = [
            make("Squeeze", ["x", "axis"], ["s"], "squeeze"),
            make("Gemm", ["s", "G", "b"], ["y"], "fc", transB=int(op == "transposed")),
        ]
        arrays = {
            "G": drawn(rng, 12, 20) if op == "gemm" else drawn(rng, 20, 12),
            "b": drawn(rng, 20),
            "axis": np.array([1], np.int64),
        }
        proto = model_of(nodes, arrays, {"x": shape}, {"y": ["T", 20]})
    elif op in ("conv", "grouped", "depthwise", "taps"):
        group = {"grouped": 2, "depthwise": 12}.get(op, 1)
        arrays = {"K": drawn(rng, 24, 12 // group, 3), "axes": np.array([1], np.int64)}
        nodes = [make("Conv", ["x", "K"], ["y"], "conv", group=group, pads=[1, 1] if op == "taps" else [2, 0])]
        length: Any = 1 if op == "taps" else "T"
        proto = model_of(
            nodes, arrays, {"x": ["N" if op == "taps" else 1, 12, length]}, {"y": ["N" if op == "taps" else 1, 24, length]}
        )
    elif op == "gru":
        arrays = {"W": drawn(rng, 1, 48, 12), "R": drawn(rng, 1, 48, 16), "B": drawn(rng, 1, 96)}
        nodes = [make("GRU", ["x", "W", "R", "B"], ["y"], "gru", hidden_size=16, linear_before_reset=1)]
        proto = model_of(nodes, arrays, {"x": shape}, {"y": ["T", 1, 1, 16]})
    else:
        first = (
            make("Mul", ["M", "half"], ["N"], "scale") if op == "scaled" else make("Transpose", ["M"], ["N"], "turn", perm=[1, 0])
        )
        nodes = [first, make("MatMul", ["x", "N"], ["y"], "head")]
        arrays = {"M": drawn(rng, *((12, 20) if op == "scaled" else (20, 12)))}
        if op == "scaled":
            arrays["half"] = np.array(0.3, np.float32)
        proto = model_of(nodes, arrays, {"x": shape}, {"y": ["T", 1, 20]})
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    found = quantize(path, tmp_path / "small.npz", weights=kind, **QUICK).file
    assert found is not None and not found.wide
    again = tinyrnn.load(tmp_path / "small.npz")
    assert bits(again) == bits(tinyrnn.load(path, weights=kind))
    with np.load(tmp_path / "small.npz") as stored:
        assert not [
            n
            for n, a in stored.items()
            if a.dtype == np.float32 and a.ndim > 1 and a.size > 100 and not n.endswith((".scale", ".B"))
        ]


def test_an_embedding_and_a_tied_head(tmp_path: Path) -> None:
    """One constant that two layers read: with one type for both it is small, with two it stays as it is, and the file says so."""
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Gather", ["E", "token"], ["e"], "embed"),
        helper.make_node("Tanh", ["e"], ["t"], "tanh"),
        helper.make_node("Transpose", ["E"], ["H"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["t", "H"], ["y"], "head"),
    ]
    proto = model_of(nodes, {"E": drawn(rng, 30, 16)}, {"token": ["T", 1]}, {"y": ["T", 1, 30]})
    path = tmp_path / "tied.onnx"
    path.write_bytes(proto.SerializeToString())
    names = [layer.name for layer in quantize(path, budget=0.5, **QUICK).layers]
    assert names == ["embed", "head"]
    for weights in ("float16", "int8", {"embed": "int8", "head": "float16"}):
        found = quantize(path, tmp_path / "small.npz", weights=weights, **QUICK).file
        assert found is not None
        assert bits(tinyrnn.load(tmp_path / "small.npz")) == bits(tinyrnn.load(path, weights=weights))


def test_halves_of_a_file_are_halves_in_the_small_one(tmp_path: Path) -> None:
    proto = tagger()
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16).astype(np.float32), tensor.name))
    path = tmp_path / "halves.onnx"
    path.write_bytes(proto.SerializeToString())
    found = quantize(path, tmp_path / "small.npz", weights="float32", **QUICK)
    assert found.choice("float16").error == 0 < found.choice("bfloat16").error
    assert found.file is not None and found.file.bytes < 0.6 * path.stat().st_size + 6000
    assert bits(tinyrnn.load(tmp_path / "small.npz")) == bits(tinyrnn.load(path))


def test_a_model_with_other_sizes_open(tmp_path: Path) -> None:
    """A decoder that attends to a memory of any length: the file stays open."""
    rng = np.random.default_rng(6)
    nodes = [
        helper.make_node("MatMul", ["x", "Q"], ["q"], "query"),
        helper.make_node("Transpose", ["memory"], ["turned"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"], "score"),
        helper.make_node("Softmax", ["scores"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "memory"], ["y"], "mix"),
    ]
    proto = model_of(nodes, {"Q": drawn(rng, 8, 8)}, {"x": [1, 1, 8], "memory": [1, "S", 8]}, {"y": [1, 1, 8]})
    path = tmp_path / "attends.onnx"
    path.write_bytes(proto.SerializeToString())
    quantize(path, tmp_path / "small.npz", weights="int8", **QUICK)
    one, other = tinyrnn.load(path, weights="int8"), tinyrnn.load(tmp_path / "small.npz")
    for length in (3, 11):
        given = {"x": drawn(rng, 1, 1, 8), "memory": drawn(rng, 1, length, 8)}
        assert one.run(given).tobytes() == other.run(given).tobytes()


# Within a budget


def test_a_budget_is_kept_and_the_file_has_it(path: Path, tmp_path: Path) -> None:
    sizes = []
    for budget in (0.001, 0.02, 10.0):
        found = quantize(path, tmp_path / "small.npz", budget=budget, **QUICK)
        mixed = found.choice(f"budget {budget:g}")
        assert mixed.error <= budget
        assert [layer.name for layer in found.layers] == ["rnn", "head"] and found.file is not None
        assert found.file.weights == mixed.weights == {layer.name: layer.storage for layer in found.layers}
        assert bits(tinyrnn.load(tmp_path / "small.npz")) == bits(tinyrnn.load(path, weights=mixed.weights))
        sizes.append(mixed.bytes)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2] == found.choice("int8").bytes


def test_decisions_are_kept(path: Path) -> None:
    found = quantize(path, keep_decisions=True, **{**QUICK, "frames": 400})
    mixed = found.choice("same decisions")
    assert [d.changed for d in mixed.decisions] == [0] and found.choice("int8").decisions[0].changed > 0
    assert found.choice("float32").bytes > mixed.bytes > found.choice("int8").bytes
    assert "the same decisions: each layer" in str(found)
    both = quantize(path, keep_decisions=True, budget=0.004, **{**QUICK, "frames": 400}).choice("budget 0.004")
    assert both.error <= 0.004 and both.decisions[0].changed == 0 and both.bytes >= mixed.bytes


def test_layers_that_stay_wide_are_named_with_their_error(path: Path) -> None:
    found = quantize(path, budget=0.01, **QUICK)
    wide = [(layer, *layer.next) for layer in found.layers if layer.next]
    assert wide and all(error == layer.alone[kind] and layer.alone[layer.storage] != error for layer, kind, error in wide)
    assert all(
        f"{layer.name} stays {layer.storage}: {kind} there changes outputs by {error:.1e}" in str(found)
        for layer, kind, error in wide
    )


def test_the_search_on_known_errors() -> None:
    """Errors that add as squares: the best of all combinations within the budget, to a layer of the smallest."""
    rng = np.random.default_rng(8)
    kinds = ("int8", "int8:64", "float16", "float32")
    found = [
        Layer(f"l{n}", "Linear", dict(zip(kinds, (s, s * 1.1, s * 2, s * 4), strict=True)), kinds)
        for n, s in enumerate(rng.integers(10, 500, 6))
    ]  # type: ignore[arg-type]
    alone = {
        layer.name: dict(zip(kinds, (e, e / 2, e / 300, 0.0), strict=True))
        for layer, e in zip(found, rng.uniform(0.01, 0.2, 6), strict=True)
    }
    best = {}

    def measure(chosen: Any) -> float:
        return float(sum(alone[name][str(kind)] ** 2 for name, kind in chosen.items()) ** 0.5)

    for budget in (1e-4, 0.003, 0.05, 0.2, 1.0):
        chosen = within(budget, found, alone, measure)
        assert measure(chosen) <= budget
        best[budget] = sum(layer.bytes[str(chosen[layer.name])] for layer in found)
    smallest = sum(layer.bytes["int8"] for layer in found)
    assert list(best.values()) == sorted(best.values(), reverse=True) and best[1.0] == smallest
    assert best[0.05] < 0.5 * best[1e-4]


# What it refuses


def test_what_it_refuses(path: Path, tmp_path: Path) -> None:
    def refused(text: str, *given: Any, source: Any = path, **options: Any) -> None:
        with pytest.raises(tinyrnn.TinyRNNError, match=text):
            quantize(source, *given, **{**QUICK, **options})

    refused("supported are float32", weights="int4")
    refused("no layer 'tail'; the layers with weights are 'rnn', 'head'", weights={"tail": "int8"})
    refused("writes .npz files; name it small.npz", tmp_path / "small.onnx")
    refused("there is no folder", tmp_path / "none" / "small.npz")
    refused("positive number", budget=0.0)
    refused("positive number", budget=float("nan"))
    refused("not both", budget=0.1, weights="int8")
    refused(r"no layer can be smaller than float32 within a budget of 1e-09: the least .* is \d", tmp_path / "s.npz", budget=1e-9)
    refused("data has 'y'; it takes x", data={"y": np.zeros((3, 9))})
    refused("shape", data={"x": np.zeros((3, 8), np.float32)})
    refused("would not load without time=", tmp_path / "s.npz", time=0)
    assert not list(tmp_path.iterdir())


def test_a_model_without_weights_and_one_with_nan(tmp_path: Path) -> None:
    proto, _ = build_op(case("Tanh", x(3, 4)))
    (tmp_path / "plain.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(tinyrnn.TinyRNNError, match="has no layer with weights"):
        quantize(tmp_path / "plain.onnx", **QUICK)
    proto, _ = build_op(case("MatMul", x(5, 8), w(8, 9)))
    array = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    array[2, 3] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, proto.graph.initializer[0].name))
    (tmp_path / "nan.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(tinyrnn.LoadError, match="NaN or infinite weights cannot be stored as float16"):
        quantize(tmp_path / "nan.onnx", tmp_path / "small.npz", **QUICK)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture(path: Path, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    found: Quantization = quantize(path, budget=0.01, **QUICK)
    plot(found, tmp_path / f"plot.{ending}")
    written = (tmp_path / f"plot.{ending}").read_bytes()
    assert len(written) > 5000 and written.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
