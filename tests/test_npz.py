"""`.npz`: containers give back the very same model; plain weights compute what PyTorch computes."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tinyrnn.check import within
from tinyrnn.codegen import generate
from tinyrnn.compiler import read
from tinyrnn.frontends.npz import read_npz, write_npz
from tinyrnn.ir import Graph, Node, Spec
from tinyrnn.passes import bound, prepare
from tinyrnn.plan import make_plan

Array = np.ndarray[Any, Any]
MODELS = Path(__file__).parent / "models"
KINDS = ["lstm_l1_uni_sf_zero_dynT_b1_legacy", "gru_l2_bi_sf_states_dynT_b1_legacy", "rnn_l1_uni_bf_zero_dynT_b1_legacy",
         "cell_lstm_linear_dynB_legacy", "packed_state_lstm_step_legacy", "opset11_lm_lstm_scores_dynT_legacy",
         "classify_gru_last_dynT_legacy", "lstm_layernorm_lstm_dynT_legacy"]


def recorded(name: str) -> dict[str, Array]:
    with np.load(MODELS / f"{name}.npz", allow_pickle=False) as data:
        return {key[3:]: data[key] for key in data if key.startswith("in:")}


def frames_of(model: tinyrnn.Model, count: int = 5) -> list[Array]:
    """Frames for every input of a stream, time first."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal((count, *p.shape)[not p.per_frame:]).astype(p.dtype) if p.dtype.kind == "f"
            else rng.integers(0, 3, (count, *p.shape)[not p.per_frame:]).astype(p.dtype) for p in model.inputs]


def as_tuple(result: Any) -> tuple[Array, ...]:
    return tuple(result) if isinstance(result, tuple) else (result,)


def same(a: Any, b: Any) -> bool:
    return len(as_tuple(a)) == len(as_tuple(b)) and all(within("exact", x, y) for x, y in zip(as_tuple(a), as_tuple(b), strict=True))


# ---------------------------------------------------------------- containers

@pytest.mark.parametrize("name", KINDS)
def test_round_trip_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    first = tinyrnn.load(MODELS / f"{name}.onnx")
    tinyrnn.save(first, tmp_path / "m.npz")
    second = tinyrnn.load(tmp_path / "m.npz")
    assert str(second) == str(first)
    assert second.metadata == first.metadata
    assert same(second.run(recorded(name)), first.run(recorded(name)))
    try:
        a = first.stream()
    except tinyrnn.StreamError:
        with pytest.raises(tinyrnn.StreamError):
            second.stream()
        return
    b, frames = second.stream(), frames_of(first)
    assert same(b.run(*frames), a.run(*frames))
    assert within("exact", b.state, a.state)
    step = [f[0] if p.per_frame else f for p, f in zip(first.inputs, frames, strict=True)]
    assert same(b.step(*step), a.step(*step))


def test_every_model_of_the_folder_gives_the_same_plan(tmp_path: Path) -> None:
    paths = sorted(MODELS.glob("*.onnx"))
    compared = 0
    for path in paths:
        graph = bound(read(path)[0], None, None)
        try:
            program = prepare(graph)
        except tinyrnn.UnsupportedError:
            continue
        write_npz(tmp_path / "m.npz", graph, program.states)
        again, states = read_npz(tmp_path / "m.npz")
        assert (again.name, again.metadata, again.inputs, again.outputs, again.specs) == (
            graph.name, graph.metadata, graph.inputs, graph.outputs, graph.specs), path.name
        assert states == program.states, path.name
        a, b = make_plan(program, 16, 32), make_plan(prepare(bound(again, None, None), states), 16, 32)
        assert generate(a).text == generate(b).text, path.name
        assert a.weights.tobytes() == b.weights.tobytes(), path.name
        compared += 1
    assert compared > len(paths) * 0.9


def test_container_keeps_every_part_of_a_graph(tmp_path: Path) -> None:
    arrays = {"f": np.array([[1, np.nan], [-0.0, np.inf]], np.float32), "scalar": np.array(3, np.int64), "empty": np.zeros((0, 2), np.float64),
              "truth": np.array([True, False]), "big": np.arange(6, dtype=">i4").reshape(2, 3), "turned": np.arange(6.0).reshape(2, 3).T,
              "half": np.array([0.5], np.float16), "/a name/with spaces é": np.array([7], np.uint8)}
    attributes = {"one": 1, "real": 1.0, "tiny": 1e-45, "text": "é\n\"", "nan": float("nan"), "ints": [1, -2], "reals": [0.1, float("-inf")],
                  "texts": ["Sigmoid", ""], "none": [], "array": np.array([[1.5]], np.float32)}
    nodes = [Node("Thing", "first", ("x", "", "f"), ("h", ""), attributes, 13, "some.domain"), Node("Add", "", ("h", "h"), ("y",), {}, 7)]
    graph = Graph("a name", ["x", "s"], ["y", "s"], {"x": Spec(np.dtype(np.float32), ("batch", "T", 5)), "s": Spec(np.dtype(np.bool_), ())},
                  arrays, nodes, {"key": "välue", "": ""})
    write_npz(tmp_path / "m.npz", graph, {"s": "s"})
    again, states = read_npz(tmp_path / "m.npz")
    assert states == {"s": "s"}
    assert str(again) == str(graph)
    assert (again.specs, again.metadata) == (graph.specs, graph.metadata)
    for name, array in arrays.items():
        found = again.constants[name]
        assert found.dtype == array.dtype.newbyteorder("=") and found.shape == array.shape and found.flags.c_contiguous
        assert found.tobytes() == np.asarray(array, array.dtype.newbyteorder("="), order="C").tobytes()
    for before, after in zip(nodes, again.nodes, strict=True):
        assert (before.version, before.domain, before.outputs) == (after.version, after.domain, after.outputs)
        for key, value in before.attributes.items():
            kept = after.attributes[key]
            assert type(kept) is type(value) and repr(kept) == repr(value)


def test_types_that_numpy_lacks_are_kept(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    constant = np.array([1.5, -2], ml_dtypes.bfloat16)
    graph = Graph("m", [], ["y"], {}, {"c": constant}, [Node("Cast", "n", ("c",), ("y",), {"to": 1}, 13)])
    write_npz(tmp_path / "m.npz", graph, {})
    found = read_npz(tmp_path / "m.npz")[0].constants["c"]
    assert found.dtype == constant.dtype and found.tobytes() == constant.tobytes()


def test_bound_inputs_and_chosen_states_stay(tmp_path: Path) -> None:
    model = tinyrnn.load(MODELS / "cell_lstm_legacy.onnx", states={})
    assert not model.states
    tinyrnn.save(model, tmp_path / "m.npz")
    assert tinyrnn.load(tmp_path / "m.npz").kind == model.kind
    assert not tinyrnn.load(tmp_path / "m.npz").states
    given = tinyrnn.load(tmp_path / "m.npz", states={"h": "hn", "c": "cn"})
    assert [p.name for p in given.states] == ["h", "c"]


def test_saving_is_deterministic_and_atomic(tmp_path: Path) -> None:
    model = tinyrnn.load(MODELS / f"{KINDS[0]}.onnx")
    tinyrnn.save(model, tmp_path / "a.npz")
    tinyrnn.save(tinyrnn.load(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    bad = Graph("m", [], ["y"], {}, {"c": np.array(["text"])}, [Node("Identity", "n", ("c",), ("y",))])
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(tinyrnn.UnsupportedError, match="'c' is .*numbers only"):
        write_npz(tmp_path / "a.npz", bad, {})
    with pytest.raises(OSError, match="nowhere"):
        tinyrnn.save(model, tmp_path / "nowhere" / "m.npz")
    with pytest.raises(tinyrnn.UnsupportedError, match="name it m.npz"):
        tinyrnn.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "a.npz").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_numpy_reads_a_container(tmp_path: Path) -> None:
    tinyrnn.save(tinyrnn.load(MODELS / f"{KINDS[0]}.onnx"), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as data:
        document = json.loads(str(data["tinyrnn"]))
        assert (document["format"], document["version"]) == ("graph", 1)
        assert all(data[key].dtype.kind in "fi" for key in document["constants"].values())


HIDE_ONNX = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnx", "onnxruntime", "torch"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)
sys.meta_path.insert(0, Hide())
import numpy as np, tinyrnn
model = tinyrnn.load(sys.argv[1])
np.save(sys.argv[2], model.run(np.load(sys.argv[3])))
"""


def test_a_container_loads_without_onnx(tmp_path: Path) -> None:
    model = tinyrnn.load(MODELS / f"{KINDS[0]}.onnx")
    tinyrnn.save(model, tmp_path / "m.npz")
    x = recorded(KINDS[0])["x"]
    np.save(tmp_path / "x.npy", x)
    root = str(Path(tinyrnn.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", HIDE_ONNX, "m.npz", "y.npy", "x.npy"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert within("exact", np.load(tmp_path / "y.npy"), model.run(x))


# ---------------------------------------------------------------- plain weights

def wave(shape: tuple[int, ...], k: int) -> Array:
    """Numbers without order, the same everywhere."""
    count = np.arange(int(np.prod(shape)), dtype=np.float64)
    return (0.8 * np.sin(k + 1.7 * count * (1 + 0.1 * k))).astype(np.float32).reshape(shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: wave(shape, k) for k, (name, shape) in enumerate(shapes.items())}


def recurrent(prefix: str, gates: int, inputs: int, hidden: int, layers: int = 1, directions: int = 1) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a recurrent layer, in PyTorch's order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for end in ("", "_reverse")[:directions]:
            width = inputs if layer == 0 else hidden * directions
            shapes |= {f"{prefix}weight_ih_l{layer}{end}": (gates * hidden, width), f"{prefix}weight_hh_l{layer}{end}": (gates * hidden, hidden),
                       f"{prefix}bias_ih_l{layer}{end}": (gates * hidden,), f"{prefix}bias_hh_l{layer}{end}": (gates * hidden,)}
    return shapes


LM = {"embed.weight": (5, 3), **recurrent("rnn.", 4, 3, 4, 2, 2), "head.weight": (2, 8), "head.bias": (2,)}
LM_LAYERS: list[Any] = [["Embedding", "embed"], ["LSTM", "rnn"], ["Linear", "head"]]


def test_weights_agree_with_saved_results_of_pytorch(tmp_path: Path) -> None:
    description = {"format": "weights", "version": 1, "layers": LM_LAYERS, "metadata": {"letters": "abcde", "epochs": 3}}
    np.savez(tmp_path / "lm.npz", **weights(LM), tinyrnn=np.array(json.dumps(description)))
    model = tinyrnn.load(tmp_path / "lm.npz")
    expected = np.array([[[-0.9330367, -0.81744444], [-0.93931055, -0.8090408], [-0.87477297, -0.7415473], [-0.862931, -0.6976341]]], np.float32)
    assert within("close", model.run(np.array([[0, 3, 1, 4]])), expected)
    assert model.metadata == {"letters": "abcde", "epochs": "3"}
    assert model.inputs[0].file_shape == ("batch", "time")

    np.savez_compressed(tmp_path / "gru.npz", **weights(recurrent("rnn.", 3, 3, 5)))
    model = tinyrnn.load(tmp_path / "gru.npz", layers=[("GRU", "rnn", {"select": "last"})])
    expected = np.array([[-0.32267565, -0.1021705, 0.1292988, 0.17730294, -0.37799823],
                         [-0.4548478, -0.4528852, 0.16524288, 0.1785484, -0.28291205]], np.float32)
    assert within("close", model.run(wave((2, 3, 3), 9)), expected)


def torch_cases() -> dict[str, tuple[Callable[[Any], Any], list[Any]]]:
    """name → (module from torch.nn, layers)."""
    return {
        "rnn": (lambda nn: [nn.RNN(3, 5, batch_first=True)], [("RNN", "0")]),
        "rnn_relu_bi_l2": (lambda nn: [nn.RNN(3, 5, 2, nonlinearity="relu", batch_first=True, bidirectional=True)],
                           [("RNN", "0", {"nonlinearity": "relu"})]),
        "lstm": (lambda nn: [nn.LSTM(3, 17, batch_first=True)], [("LSTM", "0")]),
        "lstm_nobias_l3": (lambda nn: [nn.LSTM(3, 4, 3, bias=False, batch_first=True)], [("LSTM", "0")]),
        "gru_bi_l2": (lambda nn: [nn.GRU(3, 5, 2, batch_first=True, bidirectional=True)], [("GRU", "0")]),
        "gru_nobias": (lambda nn: [nn.GRU(3, 5, bias=False, batch_first=True)], [("GRU", "0")]),
        "lstm_bi_last": (lambda nn: [nn.LSTM(3, 5, batch_first=True, bidirectional=True), "last", nn.Linear(10, 2), nn.Softmax(-1)],
                         [("LSTM", "0", {"select": "last"}), ("Linear", "2"), ("Softmax", "", {"dim": 1})]),
        "rnn_cell": (lambda nn: [nn.RNNCell(3, 5)], [("RNNCell", "0")]),
        "lstm_cell": (lambda nn: [nn.LSTMCell(3, 5)], [("LSTMCell", "0")]),
        "gru_cell_nobias": (lambda nn: [nn.GRUCell(3, 5, bias=False)], [("GRUCell", "0")]),
        "embedding_dropout_gru_linear": (lambda nn: [nn.Embedding(9, 4), nn.Dropout(0.3), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 9),
                                                     nn.LogSoftmax(-1)],
                                         [("Embedding", "0"), ("Dropout", "1", {"p": 0.3}), ("GRU", "2"), ["Linear", "3"], "LogSoftmax"]),
        "linear_norm_lstm": (lambda nn: [nn.Linear(3, 6, bias=False), nn.ReLU(), nn.LayerNorm(6, eps=1e-3), nn.LSTM(6, 5, batch_first=True),
                                         nn.LayerNorm(5, elementwise_affine=False), nn.Tanh(), nn.Linear(5, 2), nn.Sigmoid()],
                             [("Linear", "0"), ("ReLU",), ("LayerNorm", "2", {"eps": 1e-3}), ("LSTM", "3"),
                              ("LayerNorm", "4", {"elementwise_affine": False}), "Tanh", ("Linear", "6"), ("Sigmoid", "")]),
        "gru_then_lstm_last": (lambda nn: [nn.GRU(3, 4, batch_first=True), nn.LSTM(4, 5, batch_first=True), "last", nn.LayerNorm(5)],
                               [("GRU", "0"), ("LSTM", "1", {"select": "last"}), ("LayerNorm", "3")]),
    }


def run_torch(torch: Any, parts: list[Any], x: Any) -> Any:
    for part in parts:
        if isinstance(part, str):
            x = x[:, -1]
        elif isinstance(part, torch.nn.RNNCellBase):
            state, steps = None, []
            for t in range(x.shape[1]):
                state = part(x[:, t], state)
                steps.append(state[0] if isinstance(state, tuple) else state)
            x = torch.stack(steps, 1)
        else:
            x = part(x)
            x = x[0] if isinstance(x, tuple) else x
    return x


@pytest.mark.parametrize("name", torch_cases())
def test_weights_agree_with_pytorch(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the oracle of this test, is not installed")
    torch.set_num_threads(1)
    torch.manual_seed(3)
    build, layers = torch_cases()[name]
    parts = build(torch.nn)
    modules = torch.nn.ModuleDict({str(i): part for i, part in enumerate(parts) if not isinstance(part, str)}).eval()
    np.savez(tmp_path / "m.npz", **modules.state_dict())
    model = tinyrnn.load(tmp_path / "m.npz", layers=layers)
    x = np.random.default_rng(4).integers(0, 9, (2, 7)) if name.startswith("emb") else wave((2, 7, 3), 5)
    with torch.no_grad():
        expected = run_torch(torch, parts, torch.from_numpy(x)).numpy()
    assert within("close", model.run(x), expected)
    if "_bi" not in name:
        assert within("close", model.stream().run(x[1]), expected[1])


def test_weights_of_one_module_have_no_prefix(tmp_path: Path) -> None:
    shapes = recurrent("", 4, 3, 4)
    np.savez(tmp_path / "bare.npz", **weights(shapes))
    np.savez(tmp_path / "named.npz", **{f"a.b.{k}": v for k, v in weights(shapes).items()})
    x = wave((1, 4, 3), 2)
    a, b = tinyrnn.load(tmp_path / "bare.npz", layers=["LSTM"]), tinyrnn.load(tmp_path / "named.npz", layers=[("LSTM", "a.b")])
    assert within("exact", a.run(x), b.run(x))
    assert [p.name for p in b.states] == ["a.b.h", "a.b.c"]


def test_weights_round_trip_through_a_container(tmp_path: Path) -> None:
    np.savez(tmp_path / "lm.npz", **weights(LM))
    model = tinyrnn.load(tmp_path / "lm.npz", layers=LM_LAYERS)
    tinyrnn.save(model, tmp_path / "saved.npz")
    tokens = np.array([[4, 2, 0]])
    assert within("exact", tinyrnn.load(tmp_path / "saved.npz").run(tokens), model.run(tokens))
    with pytest.raises(tinyrnn.LoadError, match="layers= describes plain weights; this file is a container"):
        tinyrnn.load(tmp_path / "saved.npz", layers=LM_LAYERS)


def test_float64_weights_become_float32(tmp_path: Path) -> None:
    arrays = weights(recurrent("r.", 1, 3, 4))
    np.savez(tmp_path / "m.npz", **{k: np.asfortranarray(v.astype(">f8")) for k, v in arrays.items()})
    np.savez(tmp_path / "n.npz", **arrays)
    x = wave((1, 4, 3), 2)
    a, b = (tinyrnn.load(tmp_path / f"{n}.npz", layers=[("RNN", "r")]) for n in "mn")
    assert within("exact", a.run(x), b.run(x))


# ---------------------------------------------------------------- errors of plain weights

def refusal(tmp_path: Path, arrays: dict[str, Array], layers: Any = None, description: Any = None) -> str:
    extra = {} if description is None else {"tinyrnn": np.array(json.dumps(description))}
    np.savez(tmp_path / "m.npz", **arrays, **extra)
    with pytest.raises(tinyrnn.LoadError) as caught:
        tinyrnn.load(tmp_path / "m.npz", layers=layers)
    assert "m.npz" in str(caught.value)
    return str(caught.value)


def test_without_a_description_the_error_writes_it(tmp_path: Path) -> None:
    text = refusal(tmp_path, weights({**LM, "norm.weight": (8,), "norm.bias": (8,), "odd.kernel": (3, 3, 3)}))
    assert 'layers=[("Embedding", "embed"), ("LSTM", "rnn"), ("Linear", "head"), ("LayerNorm", "norm")]' in text
    assert "head.weight [2, 8]" in text and "no supported layer has odd.kernel" in text
    assert 'layers=[("GRU", "")]' in refusal(tmp_path, weights(recurrent("", 3, 2, 4)))
    assert '("RNN", "r")' in (text := refusal(tmp_path, weights(recurrent("r.", 1, 2, 4)))) and "nonlinearity" in text
    cell = {k.replace("_l0", ""): v for k, v in weights(recurrent("c.", 4, 2, 4)).items()}
    assert 'layers=[("LSTMCell", "c")]' in refusal(tmp_path, cell)


def test_the_written_description_loads(tmp_path: Path) -> None:
    text = refusal(tmp_path, weights(LM))
    written = re.search(r"layers=(\[.*?\)\])", text)
    assert written is not None
    layers = ast.literal_eval(written[1])
    assert tinyrnn.load(tmp_path / "m.npz", layers=layers).run(np.array([[1, 2]])).shape == (1, 2, 2)


GRU = weights(recurrent("rnn.", 3, 3, 5))
HEAD = weights({"head.weight": (2, 5), "head.bias": (2,)})


@pytest.mark.parametrize(("arrays", "layers", "parts"), [
    ({**GRU, **HEAD}, [("GRU", "rnn")], ["no layer uses the arrays head.weight [2, 5], head.bias [2]"]),
    (GRU, [("GRU", "rnn"), ("Linear", "head")], ["Linear 'head'", "'head.weight' is missing"]),
    (GRU, [("GRU", "rn")], ["'rn.weight_ih_l0' is missing", "did you mean 'rnn.weight_ih_l0'?"]),
    (GRU, [("LSTM", "rnn")], ["shape [15, 5]", "for LSTM", "weights of GRU"]),
    (GRU, [("GRUCell", "rnn")], ["'rnn.weight_hh' is missing"]),
    ({**GRU, **weights({"head.weight": (2, 4)})}, [("GRU", "rnn"), ("Linear", "head")], ["takes 4 features", "makes 5"]),
    ({**GRU, "rnn.bias_ih_l0": wave((14,), 0)}, [("GRU", "rnn")], ["'rnn.bias_ih_l0' has shape [14]", "must be [15]"]),
    ({k: v for k, v in GRU.items() if "bias_hh" not in k}, [("GRU", "rnn")], ["'rnn.bias_hh_l0' is missing"]),
    ({k.replace("l0", "l1"): v for k, v in GRU.items()}, [("GRU", "rnn")], ["'rnn.weight_ih_l0' is missing"]),
    ({k + "_reverse": v for k, v in GRU.items()}, [("GRU", "rnn")], ["'rnn.weight_hh_l0' is missing"]),
    ({**GRU, "rnn.weight_hr_l0": wave((2, 5), 0)}, [("GRU", "rnn")], ["proj_size", "not supported"]),
    ({**GRU, "rnn.weight_hh_l0": np.zeros((15, 5), np.int64)}, [("GRU", "rnn")], ["int64", "float32"]),
    (GRU, [("Gru", "rnn")], ["unknown type 'Gru'", "did you mean 'GRU'?", "Supported are Embedding"]),
    (GRU, [("GRU", "rnn", {"batch_first": True})], ["unknown option 'batch_first'", "supported are select"]),
    (GRU, [("GRU", "rnn", {"select": "first"})], ["select='first'", "supported is 'last'"]),
    (weights(recurrent("r.", 1, 3, 4)), [("RNN", "r", {"nonlinearity": "gelu"})], ["nonlinearity='gelu'", "'relu'"]),
    ({**GRU, **HEAD}, [("GRU", "rnn"), ("Softmax", "", {"dim": 1}), ("Linear", "head")], ["dim=1", "-1"]),
    ({**GRU, **weights(recurrent("b.", 3, 5, 2))}, [("GRU", "rnn", {"select": "last"}), ("GRU", "b")], ["GRU 'b'", "needs a sequence"]),
    ({**GRU, "e.weight": wave((4, 5), 0)}, [("GRU", "rnn"), ("Embedding", "e")], ["Embedding 'e'", "first layer"]),
    (weights({"n.weight": (5,)}), [("LayerNorm", "n", {"eps": -1})], ["eps=-1"]),
    (GRU, [("LayerNorm", "n", {"elementwise_affine": False}), ("GRU", "rnn")], ["its size is not known"]),
    (HEAD, ["ReLU"], ["no layer uses the arrays"]),
    (HEAD, [], ["layers must be a list"]),
    (HEAD, "Linear", ["layers must be a list"]),
    (HEAD, [("Linear", "head", "x")], ["layer 0 must be (type, prefix) or (type, prefix, options)"]),
    (HEAD, [("Linear", 3)], ["layer 0 must be"]),
    (HEAD, [None], ["layer 0 must be"]),
    ({**GRU, **HEAD, "rnn.weight_ih_l0": np.zeros((15, 0), np.float32)}, [("GRU", "rnn"), ("Linear", "head")], ["[15, 0]"]),
], ids=lambda value: None)
def test_weights_that_do_not_fit(arrays: dict[str, Array], layers: Any, parts: list[str], tmp_path: Path) -> None:
    text = refusal(tmp_path, arrays, layers)
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(("description", "part"), [
    ({"format": "weights", "version": 2, "layers": []}, "version 2"),
    ({"format": "weights", "version": True, "layers": []}, "version True"),
    ({"format": "weighs", "version": 1, "layers": []}, "format 'weighs'"),
    ({"version": 1, "layers": []}, "format None"),
    ({"format": "weights", "version": 1}, "lacks 'layers'"),
    ({"format": "weights", "version": 1, "layers": [["Linear", "head"]], "extra": 1}, "unknown entries 'extra'"),
    ({"format": "weights", "version": 1, "layers": {"Linear": "head"}}, "layers must be a list"),
    ({"format": "weights", "version": 1, "layers": [["Linear", "head"]], "metadata": [1]}, "'metadata' must be an object"),
    ([1, 2], "no JSON object"),
    ("text", "no JSON object"),
])
def test_descriptions_that_are_wrong(description: Any, part: str, tmp_path: Path) -> None:
    assert part in refusal(tmp_path, HEAD, description=description)


def test_layers_may_replace_a_description(tmp_path: Path) -> None:
    text = json.dumps({"format": "weights", "version": 1, "layers": [["Linear", "tail"]], "metadata": {"by": "us"}})
    np.savez(tmp_path / "m.npz", **GRU, tinyrnn=np.array(text))
    model = tinyrnn.load(tmp_path / "m.npz", layers=[("GRU", "rnn")])
    assert model.metadata == {"by": "us"} and model.inputs[0].shape == (3,)


def test_layers_belong_to_npz_files() -> None:
    with pytest.raises(tinyrnn.LoadError, match="layers= describes plain weights in an .npz file"):
        tinyrnn.load(MODELS / f"{KINDS[0]}.onnx", layers=["LSTM"])


def test_members_carry_no_clock(tmp_path: Path) -> None:
    tinyrnn.save(tinyrnn.load(MODELS / f"{KINDS[0]}.onnx"), tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
