"""Generation against plain NumPy loops around `Stream.step` with the same rules, and against loops around onnxruntime."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.whole.test_models import LETTERS, LONGEST, decoder_step, greedy, lexicon, one_hot, session, shared
from tinyrnn import DecodeError, ShapeError, decode
from tinyrnn.check import within
from tinyrnn.data.vocabulary import encode, vocabulary_of
from tinyrnn.demo import Models

Array = np.ndarray[Any, Any]
V, H = 7, 5
M64 = (1 << 64) - 1
SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0, "top_p": 0.8},
    {"top_k": 3},
    {"top_k": 1},
    {"top_p": 0.4},
    {"top_k": 4, "top_p": 0.9, "temperature": 1.5},
    {"top_k": V},
    {"top_k": 100, "top_p": 0.99},
]


# --- models ----------------------------------------------------------------------------------------------------------


def tiny(form: str = "int64", softmax: bool = False, extra: bool = False, hidden: bool = False) -> onnx.ModelProto:
    """A step model of V tokens: its input as an index, a one-hot or an embedding; with a constant input; with two outputs."""
    rng = np.random.default_rng(3)
    weights = {
        "E": rng.standard_normal((V, 4)),
        "W": rng.standard_normal((4, H)),
        "R": rng.standard_normal((H, H)),
        "O": 3 * rng.standard_normal((H, V)),
    }
    kinds = {
        "int64": (TensorProto.INT64, [1]),
        "int32": (TensorProto.INT32, [1]),
        "scalar": (TensorProto.INT64, []),
        "square": (TensorProto.INT64, [1, 1]),
        "one-hot": (TensorProto.FLOAT, [1, V]),
        "rows": (TensorProto.FLOAT, [1, 4]),
    }
    kind, shape = kinds[form]
    inputs = [helper.make_tensor_value_info("x", kind, shape), helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, H])]
    nodes = []
    if form in ("int64", "int32", "scalar", "square"):
        nodes.append(helper.make_node("Reshape", ["x", "one"], ["x1"]))
        nodes.append(helper.make_node("Gather", ["E", "x1"], ["e"]))
    elif form == "one-hot":
        nodes.append(helper.make_node("MatMul", ["x", "E"], ["e"]))
    else:
        nodes.append(helper.make_node("Identity", ["x"], ["e"]))
    nodes += [helper.make_node("MatMul", ["e", "W"], ["a"]), helper.make_node("MatMul", ["h", "R"], ["b"])]
    nodes.append(helper.make_node("Add", ["a", "b"], ["c"]))
    if extra:
        inputs.append(helper.make_tensor_value_info("memory", TensorProto.FLOAT, [1, H]))
        nodes.append(helper.make_node("Add", ["c", "memory"], ["d"]))
    nodes += [helper.make_node("Tanh", ["d" if extra else "c"], ["hn"]), helper.make_node("MatMul", ["hn", "O"], ["o"])]
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", ["o"], ["y"]))
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, V]),
        helper.make_tensor_value_info("hn", TensorProto.FLOAT, [1, H]),
    ]
    if hidden:
        nodes.append(helper.make_node("Neg", ["o"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, V]))
    arrays = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    arrays.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    return helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, arrays), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )


def embedding() -> Array:
    return next(numpy_helper.to_array(a) for a in tiny().graph.initializer if a.name == "E").astype(np.float32)


def table_model(scores: Array, folder: Path) -> tinyrnn.Model:
    """Scores [V, V] that depend on the last token alone, and a count of steps as the state."""
    size = len(scores)
    nodes = [helper.make_node("Gather", ["S", "x"], ["y"]), helper.make_node("Add", ["h", "k"], ["hn"])]
    graph = helper.make_graph(
        nodes,
        "table",
        [
            helper.make_tensor_value_info("x", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 1]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size]),
            helper.make_tensor_value_info("hn", TensorProto.FLOAT, [1, 1]),
        ],
        [numpy_helper.from_array(scores.astype(np.float32), "S"), numpy_helper.from_array(np.ones((1, 1), np.float32), "k")],
    )
    path = folder / "table.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return tinyrnn.load(path)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tinyrnn.Model]:
    made: dict[str, tinyrnn.Model] = {}

    def model(**how: Any) -> tinyrnn.Model:
        key = repr(sorted(how.items()))
        if key not in made:
            path = tmp_path_factory.mktemp("decode") / "tiny.onnx"
            onnx.save(tiny(**how), path)
            made[key] = tinyrnn.load(path, states={"h": "hn"})
        return made[key]

    return model


# --- the same rules in NumPy -----------------------------------------------------------------------------------------


def log_probabilities(scores: Array, kind: str) -> Array:
    x = scores.ravel().astype(np.float64)
    if kind == "probabilities":
        with np.errstate(divide="ignore"):
            return np.log(x)
    return x - x.max() - math.log(np.exp(x - x.max()).sum())


def mixed(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return z ^ z >> 31


def uniforms(seed: int) -> Iterator[float]:
    """SplitMix64, from the mixed seed on."""
    for n in itertools.count(1):
        yield (mixed((mixed(seed) + n * 0x9E3779B97F4A7C15) & M64) >> 11) / (1 << 53)


def filtered(logp: Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> tuple[Array, Array]:
    """The tokens that may be drawn, and the weight of each, in the order they are gone through."""
    w = np.exp((logp - logp.max()) / temperature)
    if top_k == 0 and top_p == 1.0:
        return np.arange(len(w)), w
    order = np.argsort(-w, kind="stable")[: top_k or None]
    if top_p < 1.0:
        sums = np.cumsum(w[order])
        order = order[: int(np.searchsorted(sums, top_p * sums[-1])) + 1]
    return order, w[order]


def looped(
    step: Callable[[int], Array],
    prompt: Sequence[int],
    steps: int,
    kind: str,
    seed: int | None,
    stop: Sequence[int] = (),
    **sampling: Any,
) -> tuple[list[int], list[float]]:
    for token in prompt[:-1]:
        step(token)
    token, tokens, found = prompt[-1], [], []
    draws = uniforms(seed or 0)
    for _ in range(steps):
        logp = log_probabilities(step(token), kind)
        if seed is None:
            token = int(np.argmax(logp))
        else:
            order, w = filtered(logp, **sampling)
            token = int(order[np.searchsorted(np.cumsum(w), next(draws) * w.sum(), "right")])
        tokens.append(token)
        found.append(logp[token])
        if token in stop:
            break
    return tokens, found


def searched(
    step: Callable[[Array, int], tuple[Array, Array]],
    state: Array,
    token: int,
    steps: int,
    width: int,
    alpha: float,
    stop: Sequence[int],
) -> list[tuple[list[int], float]]:
    """Beam search without early ending; `step` takes and gives states."""
    alive: list[tuple[list[int], float, Array]] = [([], 0.0, state)]
    ended: list[tuple[list[int], float]] = []
    for _ in range(steps):
        pool = []
        for tokens, total, before in alive:
            scores, after = step(before, tokens[-1] if tokens else token)
            pool += [([*tokens, t], total + logp, after) for t, logp in enumerate(log_probabilities(scores, "logits"))]
        alive = []
        for tokens, total, after in sorted(pool, key=lambda c: -c[1]):
            if len(alive) == width:
                break
            if tokens[-1] in stop:
                ended.append((tokens, total / ((5 + len(tokens)) / 6) ** alpha))
            else:
                alive.append((tokens, total, after))
    ended += [(tokens, total / ((5 + len(tokens)) / 6) ** alpha) for tokens, total, _ in alive]
    return sorted(ended, key=lambda h: -h[1])[:width]


def feeder(stream: tinyrnn.Stream, form: str = "int64", **constant: Array) -> Callable[[int], Array]:
    """A step of a stream that takes a token."""
    rows = embedding() if form == "rows" else np.eye(V, dtype=np.float32)
    port = stream.model.inputs[0]

    def step(token: int) -> Array:
        x = np.full(port.shape, token, port.dtype) if port.dtype.kind == "i" else rows[token]
        found = stream.step(x=x, **constant)
        return found[0] if isinstance(found, tuple) else found

    return step


# --- greedy and sampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("form", ["int64", "int32", "scalar", "square", "one-hot", "rows"])
def test_every_form_of_feedback_gives_what_a_loop_gives(load: Callable[..., tinyrnn.Model], form: str, softmax: bool) -> None:
    model = load(form=form, softmax=softmax)
    table = embedding() if form == "rows" else None
    kind = "probabilities" if softmax else "logits"
    for seed, sampling in [(None, {}), *((n, s) for n, s in enumerate(SAMPLINGS))]:
        stream, other = model.stream(), model.stream()
        wanted, logp = looped(feeder(other, form), [2, 0, 5], 60, kind, seed, **sampling)
        how = {} if seed is None else {"method": "sample", "seed": seed, **sampling}
        made = decode.generate(stream, [2, 0, 5], 60, table=table, **how)
        assert made.tokens.tolist() == wanted and not made.stopped, sampling
        assert within("close", made.log_probabilities, np.array(logp, np.float32))
        np.testing.assert_array_equal(stream.state, other.state)
        named = decode.generate(model, [2, 0, 5], 60, table=table, feed="x", output="y", scores=kind, **how)
        assert named.tokens.tolist() == wanted


def test_constant_inputs_and_the_choice_of_an_output(load: Callable[..., tinyrnn.Model]) -> None:
    memory = np.linspace(-2, 2, H).astype(np.float32)
    model = load(extra=True, hidden=True)
    wanted, _ = looped(feeder(model.stream(), memory=memory), [1], 30, "logits", None)
    assert decode.generate(model, 1, 30, output="y", inputs={"memory": memory}).tokens.tolist() == wanted
    other = decode.generate(model, 1, 30, output="z", inputs={"memory": memory[None]})
    assert other.tokens.tolist() != wanted
    with pytest.raises(DecodeError, match=r"Write one of: output='y', feed='x'; output='z', feed='x'"):
        decode.generate(model, 1, 30, inputs={"memory": memory})
    with pytest.raises(DecodeError, match=r"memory: float32\[5\] must be given.*inputs=\{'memory': …\}"):
        decode.generate(model, 1, 30, output="y")
    with pytest.raises(ShapeError, match="memory"):
        decode.generate(model, 1, 30, output="y", inputs={"memory": memory[1:]})


def test_constant_inputs_given_anew(load: Callable[..., tinyrnn.Model]) -> None:
    model = load(extra=True)
    first, second = np.linspace(-2, 2, H).astype(np.float32), np.linspace(3, -1, H).astype(np.float32)
    spoken = decode.Decoder(model, inputs={"memory": first})
    for memory in (second, first, second[None]):
        spoken.give({"memory": memory})
        for width in (1, 3):
            spoken.stream.reset()
            wanted = decode.beam(model, 1, 9, width=width, inputs={"memory": memory})[0]
            assert spoken.beam(1, 9, width=width)[0].tokens.tolist() == wanted.tokens.tolist()
        assert spoken.generate(1, 9).tokens.tolist() == decode.generate(model, 1, 9, inputs={"memory": memory}).tokens.tolist()
    for inputs, error in (
        ({"memory": first[1:]}, ShapeError),
        ({"x": 1}, DecodeError),
        ({"memory": first, "other": first}, DecodeError),
    ):
        with pytest.raises(error):
            spoken.give(inputs)
        spoken.stream.reset()
        assert spoken.generate(1, 9).tokens.tolist() == decode.generate(model, 1, 9, inputs={"memory": second}).tokens.tolist()


def test_the_largest_score_and_its_sum_at_any_size(tmp_path: Path) -> None:
    """Sizes round whole vectors; the largest in each place, twice, among infinitely small ones."""
    for size in (2, 7, 8, 9, 16, 17, 33):
        for place in range(size):
            scores = np.random.default_rng(place).standard_normal(size).astype(np.float32)
            scores[place] = scores[-1] = 5
            scores[(place + 1) % size] = -np.inf if (place + 1) % size not in (place, size - 1) else 5
            made = decode.generate(table_model(np.broadcast_to(scores, (size, size)), tmp_path), 0, 1)
            assert made.tokens.tolist() == [int(np.argmax(scores))]
            assert within("close", made.log_probabilities, np.float32([log_probabilities(scores, "logits").max()]))


def test_a_stop_token_ends_and_the_stream_goes_on(load: Callable[..., tinyrnn.Model]) -> None:
    model = load()
    whole = decode.generate(model, 3, 40, method="sample", seed=1).tokens
    stop = int(whole[10])
    first = whole.tolist().index(stop)
    stream = model.stream()
    part = decode.generate(stream, 3, 40, method="sample", seed=1, stop=stop)
    assert part.stopped and part.tokens.tolist() == whole[: first + 1].tolist()
    assert decode.generate(model, 3, 40, method="sample", seed=1, stop=[stop, (stop + 1) % V]).stopped
    greedy_whole = decode.generate(model, 3, 30).tokens
    stream.reset()
    begun = decode.generate(stream, 3, 12).tokens
    rest = decode.generate(stream, int(begun[-1]), 18).tokens
    assert [*begun, *rest] == greedy_whole.tolist()


def test_out_progress_pieces_and_bursts(load: Callable[..., tinyrnn.Model], monkeypatch: pytest.MonkeyPatch) -> None:
    model, out, told = load(), np.zeros(60, np.int64), []
    how: dict[str, Any] = {"method": "sample", "seed": 9, "temperature": 2.0}
    whole = decode.generate(model, [1, 2], 50, **how)
    monkeypatch.setattr(decode.decoder, "PIECE", 7)
    made = decode.generate(model, [1, 2], 50, out=out, progress=lambda done, total: told.append((done, total)), **how)
    assert np.shares_memory(made.tokens, out) and out[:50].tolist() == whole.tokens.tolist() and not out[50:].any()
    np.testing.assert_array_equal(made.log_probabilities, whole.log_probabilities)
    assert told == [(min(n, 50), 50) for n in range(7, 57, 7)]
    bare = decode.generate(model, [1, 2], 50, log_probabilities=False, **how)
    assert bare.tokens.tolist() == whole.tokens.tolist() and not bare.log_probabilities.size
    for burst in (1, 8, 100):
        assert list(decode.tokens(model, [1, 2], 50, burst=burst, **how)) == whole.tokens.tolist()
    stop = int(whole.tokens[20])
    assert (
        list(decode.tokens(model, [1, 2], 50, stop=stop, **how))
        == decode.generate(model, [1, 2], 50, stop=stop, **how).tokens.tolist()
    )


def test_sampled_tokens_follow_the_distribution(tmp_path: Path) -> None:
    """Pearson's chi-square at its mean plus five standard deviations, over the tokens that may be drawn."""
    logits = np.random.default_rng(8).standard_normal((20, 20)) * 2
    logits[:, 4] = -np.inf
    model = table_model(np.broadcast_to(logits[0], (20, 20)), tmp_path)
    logp = log_probabilities(logits[0].astype(np.float32), "logits")
    count = 50_000
    for number, sampling in enumerate(SAMPLINGS):
        made = decode.generate(model, 0, count, method="sample", seed=100 + number, **sampling).tokens
        found = np.bincount(made, minlength=20)
        order, w = filtered(logp, **sampling)
        wanted = np.zeros(20)
        wanted[order] = w / w.sum() * count
        assert not found[wanted == 0].any()
        likely = wanted > 5
        chi2 = float(((found - wanted)[likely] ** 2 / wanted[likely]).sum())
        freedom = int(likely.sum()) - 1
        assert chi2 <= freedom + 5 * math.sqrt(2 * freedom) if freedom else found[order[0]] == count, sampling
        pairs = np.bincount(made[:-1] * 20 + made[1:], minlength=400).reshape(20, 20)  # draws do not depend on one another
        expected = np.outer(wanted, wanted) / count
        likely2 = expected > 20
        if likely2.sum() > 1:
            chi2 = float(((pairs - expected)[likely2] ** 2 / expected[likely2]).sum())
            assert chi2 <= likely2.sum() + 5 * math.sqrt(2 * likely2.sum()), sampling


def test_large_vocabulary_against_the_loop(tmp_path: Path) -> None:
    scores = np.random.default_rng(4).standard_normal((301, 301)).astype(np.float32)
    model = table_model(scores, tmp_path)
    for number, sampling in enumerate([{}, {"top_k": 40}, {"top_p": 0.7}, {"top_k": 150, "top_p": 0.5}, {"temperature": 1e-30}]):
        wanted, _ = looped(lambda token: scores[token], [7], 100, "logits", number, **sampling)
        assert decode.generate(model, 7, 100, method="sample", seed=number, **sampling).tokens.tolist() == wanted


def test_ways_to_write_greedy(load: Callable[..., tinyrnn.Model]) -> None:
    model = load()
    wanted = decode.generate(model, 1, 40).tokens.tolist()
    for how in ({"top_k": 1}, {"temperature": 0}, {"temperature": 1e-300}, {"top_p": 1e-9}):
        assert decode.generate(model, 1, 40, method="sample", seed=5, **how).tokens.tolist() == wanted, how
    assert decode.beam(model, 1, 40, width=1)[0].tokens.tolist() == wanted


def test_seeds_differ_and_large_ones_are_taken(load: Callable[..., tinyrnn.Model]) -> None:
    model = load()
    runs = {
        tuple(decode.generate(model, 1, 30, method="sample", temperature=3.0, seed=seed).tokens)
        for seed in (0, 1, 2, 1 << 63, M64)
    }
    assert len(runs) == 5
    wanted, _ = looped(feeder(model.stream()), [1], 30, "logits", M64, temperature=3.0)
    assert decode.generate(model, 1, 30, method="sample", temperature=3.0, seed=M64).tokens.tolist() == wanted


LANES_CODE = """
import sys
from dataclasses import replace
import tinyrnn
from tinyrnn import decode
from tinyrnn.loading import stages as compiler
from tinyrnn.demo import Models
from tinyrnn.targets import cpu
machine = cpu.host()
if sys.argv[1] == "other":
    machine = replace(machine, lanes=4 if machine.lanes != 4 else 1)
cpu.host = compiler.host = lambda: machine
model = tinyrnn.load(Models().path("char_lm"))
for how in ({"temperature": 0.8}, {"top_p": 0.9}, {"top_k": 7}):
    made = decode.generate(model, 3, 300, method="sample", seed=2, **how)
    print(made.tokens.tobytes().hex(), made.log_probabilities.tobytes().hex())
for found in decode.beam(model, 3, 40, width=3, length_penalty=1.0, n_best=3):
    print(found.score.hex(), found.tokens.tobytes().hex())
"""


def test_tokens_do_not_depend_on_the_width_of_vectors() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", LANES_CODE, which], capture_output=True, text=True, check=True, timeout=300, env=os.environ
        ).stdout
        for which in ("own", "other")
    ]
    assert printed[0] == printed[1] and len(printed[0].splitlines()) == 6


# --- beam search -----------------------------------------------------------------------------------------------------


def state_step(model: tinyrnn.Model) -> Callable[[Array, int], tuple[Array, Array]]:
    stream = model.stream()
    step = feeder(stream)

    def run(state: Array, token: int) -> tuple[Array, Array]:
        stream.state[...] = state
        return step(token), stream.state.copy()

    return run


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("stop", [(), (0,), (0, 3)])
def test_beam_finds_what_a_plain_search_finds(load: Callable[..., tinyrnn.Model], alpha: float, stop: tuple[int, ...]) -> None:
    model = load()
    stream = model.stream()
    for token in range(V):
        stream.state = np.full(H, 0.1 * token)
        before = stream.state.copy()
        for width, steps in ((1, 9), (2, 12), (5, 8), (20, 5)):
            wanted = searched(state_step(model), before, token, steps, width, alpha, stop)
            found = decode.beam(stream, token, steps, width=width, length_penalty=alpha, stop=stop, n_best=width)
            assert [h.tokens.tolist() for h in found] == [tokens for tokens, _ in wanted]
            assert within("close", np.array([h.score for h in found], np.float32), np.array([s for _, s in wanted], np.float32))
            assert all(h.stopped == (h.tokens[-1] in stop) for h in found)
            for h in found:
                assert math.isclose(h.score, h.log_probability / ((5 + len(h.tokens)) / 6) ** alpha, rel_tol=1e-12)
        np.testing.assert_array_equal(stream.state, before)


def test_beam_wide_enough_is_brute_force(load: Callable[..., tinyrnn.Model]) -> None:
    model, steps, stop = load(), 4, 2
    run, start = state_step(model), model.stream().state.copy()
    wanted = []
    for sequence in itertools.product(range(V), repeat=steps):
        ends = sequence.index(stop) + 1 if stop in sequence else steps
        if any(sequence[ends:]):
            continue  # what follows the stop token does not count: one sequence for all
        state, token, total = start, 1, 0.0
        for following in sequence[:ends]:
            scores, state = run(state, token)
            total, token = total + log_probabilities(scores, "logits")[following], following
        wanted.append((total / ((5 + ends) / 6) ** 0.7, sequence[:ends]))
    wanted.sort(key=lambda h: -h[0])
    found = decode.beam(model, 1, steps, width=V**steps, length_penalty=0.7, stop=stop, n_best=100)
    assert [tuple(h.tokens.tolist()) for h in found] == [sequence for _, sequence in wanted[:100]]


def test_equal_hypotheses_come_in_order(tmp_path: Path) -> None:
    model = table_model(np.zeros((4, 4)), tmp_path)
    found = decode.beam(model, 0, 3, width=6, n_best=6)
    assert [h.tokens.tolist() for h in found] == [[0, 0, n] for n in range(4)] + [[0, 1, 0], [0, 1, 1]]
    assert decode.generate(model, 3, 5).tokens.tolist() == [0] * 5


def test_a_prompt_before_a_beam(load: Callable[..., tinyrnn.Model]) -> None:
    model = load(form="one-hot", softmax=True)
    stream = model.stream()
    step = feeder(stream, "one-hot")
    for token in (4, 1):
        step(token)
    wanted = decode.beam(stream, 6, 8, width=3, n_best=3)
    found = decode.beam(model, [4, 1, 6], 8, width=3, n_best=3, scores="probabilities")
    assert [h.tokens.tolist() for h in found] == [h.tokens.tolist() for h in wanted]


def test_step_after_a_beam_uses_the_streams_state(load: Callable[..., tinyrnn.Model]) -> None:
    model = load()
    stream, other = model.stream(), model.stream()
    decode.beam(stream, 1, 5, width=3)
    np.testing.assert_array_equal(feeder(stream)(2), feeder(other)(2))
    np.testing.assert_array_equal(stream.state, other.state)


# --- real models -----------------------------------------------------------------------------------------------------


def test_char_lm_writes_what_a_loop_around_onnxruntime_writes() -> None:
    path = Models().path("char_lm")
    model = tinyrnn.load(path)
    runner = session(path)
    prompt = encode("HAMLET:\n", vocabulary_of(model)).tolist()
    for seed, how in ((None, {}), (3, {"temperature": 0.8, "top_p": 0.95}), (4, {"top_k": 12})):
        states = [np.zeros((1, 1, p.shape[-1]), np.float32) for p in model.states]

        def step(token: int, states: list[Array] = states) -> Array:
            y, *states[:] = runner.run(None, {"x": np.array([[token]]), "h": states[0], "c": states[1]})
            return np.asarray(y)

        wanted, logp = looped(step, prompt, 300, "logits", seed, **how)
        made = decode.generate(model, prompt, 300, **({} if seed is None else {"method": "sample", "seed": seed, **how}))
        assert made.tokens.tolist() == wanted
        assert within("close", made.log_probabilities, np.array(logp, np.float32))


def test_g2p_pair_decodes_the_lexicon() -> None:
    letters = json.loads(shared("models/g2p_id_g2id.json").read_text(encoding="utf-8"))
    indices = json.loads(shared("models/g2p_id_p2id.json").read_text(encoding="utf-8"))
    sounds = sorted(indices, key=indices.__getitem__)
    encoder, decoder = (tinyrnn.load(shared(f"models/g2p_id_{part}.onnx")) for part in ("encoder", "decoder"))
    sessions = [session(shared(f"models/g2p_id_{part}.onnx")) for part in ("encoder", "decoder")]
    reader, writer = encoder.stream(), decoder.stream()
    spoken = decode.Decoder(writer)
    words = lexicon(letters, None)[::20]
    end, right, better = sounds.index("\n"), 0, 0
    for number, (word, expected) in enumerate(words):
        x = np.stack([one_hot(letters[letter], len(letters)) for letter in word.ljust(LETTERS)])
        reader.reset()
        h, c = reader.run(x)
        decode.hand_over(writer, {"input_3": h, "input_4": c})
        if number % 10 == 0:
            best = spoken.beam(0, LONGEST, width=4, stop=end)[0]
            assert (
                spoken.beam(0, LONGEST, width=1, stop=end)[0].tokens.tolist()
                == spoken.generate(0, LONGEST, stop=end).tokens.tolist()
            )
            decode.hand_over(writer, {"input_3": h, "input_4": c})
        made = spoken.generate(0, LONGEST, stop=end)
        ours = "".join(sounds[t] for t in made.tokens[: len(made.tokens) - made.stopped])
        right += ours == expected
        assert ours == greedy(decoder_step(sessions[1], sessions[0].run(None, {"input_1": x[None]})), sounds), word
        if number % 10 == 0:
            better += best.log_probability >= float(made.log_probabilities.sum(dtype=np.float64)) - 1e-5
    assert len(words) > 1300 and right >= 0.9 * len(words)
    assert better >= 0.98 * len(words[::10])


# --- handing over, errors --------------------------------------------------------------------------------------------


def test_hand_over(load: Callable[..., tinyrnn.Model]) -> None:
    stream = load().stream()
    h = np.arange(H, dtype=np.float32)
    decode.hand_over(stream, {"h": h[None]})
    np.testing.assert_array_equal(stream.states["h"].ravel(), h)
    for states, error in (({"g": h}, DecodeError), ({"h": h[1:]}, ShapeError), ({"h": h, "g": h}, DecodeError)):
        with pytest.raises(error):
            decode.hand_over(stream, states)
        np.testing.assert_array_equal(stream.states["h"].ravel(), h)
    decode.hand_over(stream, {})
    assert not stream.state.any()


BAD = [
    ({"start": V}, "token 7 is out of range for input 'x'"),
    ({"start": [0, 1, 99, 2]}, "token 99 is out of range for input 'x'"),
    ({"start": -1}, "tokens count from 0"),
    ({"start": []}, "start is empty"),
    ({"start": 1.5}, "whole numbers"),
    ({"start": [[1]]}, "whole numbers"),
    ({"start": "abc"}, "whole numbers"),
    ({"start": True}, "whole numbers"),
    ({"steps": 0}, "at least 1"),
    ({"steps": 2.0}, "whole number"),
    ({"method": "best"}, "'greedy' or 'sample'"),
    ({"method": "sample", "temperature": -0.1}, "temperature=-0.1"),
    ({"method": "sample", "temperature": math.nan}, "temperature=nan"),
    ({"method": "sample", "temperature": math.inf}, "temperature=inf"),
    ({"method": "sample", "top_p": 0}, "top_p=0"),
    ({"method": "sample", "top_p": 1.01}, "top_p=1.01"),
    ({"method": "sample", "top_p": math.nan}, "top_p=nan"),
    ({"method": "sample", "top_k": -1}, "top_k=-1"),
    ({"method": "sample", "seed": -1}, "seed=-1"),
    ({"seed": 1 << 64}, "seed"),
    ({"top_k": 3}, "method='sample'"),
    ({"stop": V}, "has 7"),
    ({"stop": [0, -2]}, "tokens count from 0"),
    ({"out": np.zeros(3, np.int64)}, "out must be"),
    ({"out": np.zeros(30, np.float32)}, "out must be"),
    ({"output": "w"}, "no output 'w'"),
    ({"feed": "w"}, "no input 'w'"),
    ({"inputs": {"w": 1}}, "inputs has 'w'"),
    ({"scores": "votes"}, "scores='votes'"),
    ({"scores": "probabilities"}, "is not probabilities"),
    ({"table": np.zeros((V, 3), np.float32)}, "fits none of"),
    ({"table": np.zeros(3)}, "table is"),
]


@pytest.mark.parametrize(("how", "message"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    load: Callable[..., tinyrnn.Model], how: dict[str, Any], message: str
) -> None:
    stream = load().stream()
    stream.state[...] = 0.25
    before = stream.state.copy()
    with pytest.raises(DecodeError, match=message.replace("(", r"\(")):
        decode.generate(stream, **{"start": 1, "steps": 5, **how})
    np.testing.assert_array_equal(stream.state, before)
    if not set(how) & {"out"}:
        with pytest.raises(DecodeError):
            list(decode.tokens(stream, **{"start": 1, "steps": 5, **how}))
        np.testing.assert_array_equal(stream.state, before)


@pytest.mark.parametrize(
    "how",
    [
        {"width": 0},
        {"width": 2, "n_best": 3},
        {"n_best": 0},
        {"length_penalty": math.nan},
        {"stop": V},
        {"start": V},
        {"start": [1, V, 1]},
    ],
)
def test_beams_that_cannot_be(load: Callable[..., tinyrnn.Model], how: dict[str, Any]) -> None:
    stream = load().stream()
    stream.state[...] = 0.25
    with pytest.raises(DecodeError):
        decode.beam(stream, **{"start": 1, "steps": 5, **how})
    assert np.all(stream.state == 0.25)
    assert decode.beam(stream, 1, 5, width=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    scores = np.zeros((4, 4))
    scores[0, 1], scores[1, 2] = 1, 1
    scores[2, :] = bad
    stream = table_model(scores, tmp_path).stream()
    for run in (
        lambda: decode.generate(stream, 0, 9),
        lambda: decode.beam(stream, 0, 9, width=1),
        lambda: decode.generate(stream, 0, 9, method="sample", temperature=0.001),
    ):
        with pytest.raises(DecodeError, match="NaN or no finite score, after token 2 was fed"):
            run()
        assert stream.state[0] == 0
    assert decode.generate(stream, 0, 2).tokens.tolist() == [1, 2]


def test_models_that_do_not_fit(load: Callable[..., tinyrnn.Model], tmp_path: Path) -> None:
    gather = np.zeros((4, 9), np.float32)  # more scores than the input takes
    gather[:, 8] = 1
    nodes = [helper.make_node("Gather", ["S", "x"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 9])],
        [numpy_helper.from_array(gather, "S")],
    )
    path = tmp_path / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(DecodeError, match="token 8 is out of range for input 'x'"):
        decode.generate(tinyrnn.load(path), 0, 9)
    with pytest.raises(DecodeError, match="none of x: float32.* takes a token .*table="):
        decode.generate(load(form="rows"), 0, 9)
    with pytest.raises(DecodeError, match="start has token 7; tokens count from 0, and input 'x' has 7"):
        decode.generate(load(form="one-hot"), 7, 9)


def test_no_allocation_per_token(load: Callable[..., tinyrnn.Model]) -> None:
    from tinyrnn.bench.counts import count_allocations

    made = decode.Decoder(load())
    out = np.empty(3000, np.int64)
    few = count_allocations(lambda: made.generate(1, 10, out=out, method="sample", top_p=0.9))
    many = count_allocations(lambda: made.generate(1, 3000, out=out, method="sample", top_p=0.9))
    assert few is not None and many is not None
    assert many.blocks < few.blocks + 10, "the call alone allocates, whatever the number of tokens"
    assert many.bytes < few.bytes + 2990 * 4 + 500, "and the log-probabilities, float32"


def test_an_unknown_option_is_named_with_those_there_are(load: Callable[..., tinyrnn.Model]) -> None:
    stream = load().stream()
    before = stream.state.copy()
    for call in (decode.generate, decode.tokens):
        with pytest.raises(TypeError, match="no option temprature; tokens are chosen by method, temperature, top_k"):
            call(stream, 0, 3, temprature=0.5)
    assert np.array_equal(stream.state, before)
