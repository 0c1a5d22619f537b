"""Many sequences at once: each has the tokens, the scores and the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests.decode.test_decode import SAMPLINGS, H, V, embedding, table_model, tiny
from tinyrnn import DecodeError, StreamError, decode
from tinyrnn.data.vocabulary import encode, tokenize, vocabulary_of
from tinyrnn.demo import Models
from tinyrnn.runtime import Model, PoolCode

Array = np.ndarray[Any, Any]
Load = Callable[..., Model]


def attending(folder: Path) -> Model:
    """A decoder that attends to a memory whose length the file leaves open."""
    proto = tiny(extra=True)
    graph = proto.graph
    graph.input[2].CopyFrom(helper.make_tensor_value_info("memory", TensorProto.FLOAT, ["S", H]))
    (place,) = (i for i, node in enumerate(graph.node) if "memory" in node.input)
    graph.node[place].input[1] = "read"
    for node in reversed(
        [
            helper.make_node("Transpose", ["memory"], ["keys"], perm=[1, 0]),
            helper.make_node("MatMul", ["h", "keys"], ["match"]),
            helper.make_node("Softmax", ["match"], ["share"]),
            helper.make_node("MatMul", ["share", "memory"], ["read"]),
        ]
    ):
        graph.node.insert(0, node)
    onnx.save(proto, folder / "attending.onnx")
    return tinyrnn.load(folder / "attending.onnx", states={"h": "hn"})


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    made: dict[str, Model] = {}

    def model(**how: Any) -> Model:
        key = repr(sorted(how.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("many")
            if how.get("attending"):
                made[key] = attending(folder)
            else:
                onnx.save(tiny(**{k: v for k, v in how.items() if k != "tick"}), folder / "tiny.onnx")
                made[key] = tinyrnn.load(folder / "tiny.onnx", states={"h": "hn"})
                if not how.get("tick", True):
                    made[key]._pooled = lambda slots: PoolCode(None, tick=False)
        return made[key]

    return model


MODELS: list[dict[str, Any]] = [
    {},
    {"form": "one-hot", "softmax": True},
    {"form": "rows"},
    {"form": "int32", "extra": True},
    {"extra": True, "tick": False},
    {"attending": True},
]


def same(found: Any, wanted: Any) -> None:
    """The same results, bit for bit."""
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
        return
    assert found.tokens.tolist() == wanted.tokens.tolist() and found.stopped == wanted.stopped
    if isinstance(wanted, decode.Generation):
        assert found.log_probabilities.tobytes() == wanted.log_probabilities.tobytes()
    else:
        assert (found.score.hex(), found.log_probability.hex()) == (wanted.score.hex(), wanted.log_probability.hex())


def drawn(data: st.DataObject, how: dict[str, Any], rng: np.random.Generator) -> tuple[list[Any], Any, Any]:
    """Starts, states and inputs of some items."""
    count = data.draw(st.integers(1, 9))
    starts: list[Any] = [rng.integers(0, V, rng.integers(1, 5)).tolist() for _ in range(count)]
    if data.draw(st.booleans()):
        starts = [s[0] for s in starts]
    states = [{"h": rng.standard_normal((1, H)).astype(np.float32)} if rng.random() < 0.8 else {} for _ in range(count)]
    lengths = rng.integers(1, 5, count) if how.get("attending") else [1] * count
    inputs = [{"memory": rng.standard_normal((n, H)).astype(np.float32)} for n in lengths]
    return starts, states, inputs if how.get("attending") or how.get("extra") else None


def alone(model: Model, starts: list[Any], states: Any, inputs: Any) -> list[tuple[Any, Any, dict[str, Any]]]:
    """(stream in its first state, start, options) of each item."""
    streams = [model.stream() for _ in starts]
    for stream, own in zip(streams, states, strict=True):
        decode.hand_over(stream, own)
    return [
        (s, start, {} if inputs is None else {"inputs": inputs[i]})
        for i, (s, start) in enumerate(zip(streams, starts, strict=True))
    ]


@pytest.mark.parametrize("how", MODELS, ids=str)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_list_gives_what_each_item_gives_alone(load: Load, how: dict[str, Any], data: st.DataObject) -> None:
    model, rng = load(**how), np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    table = {"table": embedding()} if how.get("form") == "rows" else {}
    starts, states, inputs = drawn(data, how, rng)
    pool = model.pool(data.draw(st.integers(1, 12)))
    steps, stop = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([(), 0, (1, 4)]))
    choice: dict[str, Any] = {}
    if data.draw(st.booleans()):
        choice = {"method": "sample", "seed": data.draw(st.integers(0, (1 << 64) - 1)), **data.draw(st.sampled_from(SAMPLINGS))}
    seeds = decode.item_seeds(choice.get("seed", 0), len(starts)).tolist()
    wanted = []
    for (stream, start, own), seed in zip(alone(model, starts, states, inputs), seeds, strict=True):
        own_choice = {**choice, "seed": seed} if choice else {}
        wanted.append(decode.generate(stream, start, steps, stop=stop, **own, **table, **own_choice))
    same(decode.generate(pool, starts, steps, states=states, inputs=inputs, stop=stop, **table, **choice), wanted)
    assert (pool.state == model.stream().state).all(), "the slots are as they were before"


@pytest.mark.parametrize("how", MODELS, ids=str)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_beams_of_a_list_find_what_each_finds_alone(load: Load, how: dict[str, Any], data: st.DataObject) -> None:
    model, rng = load(**how), np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    table = {"table": embedding()} if how.get("form") == "rows" else {}
    starts, states, inputs = drawn(data, how, rng)
    width = data.draw(st.integers(1, 5))
    pool = model.pool(width + data.draw(st.integers(0, 20)))
    options = {
        "width": width,
        "n_best": data.draw(st.integers(1, width)),
        "length_penalty": data.draw(st.sampled_from([0.0, 0.7, -0.5])),
        "stop": data.draw(st.sampled_from([(), 0, (1, 4)])),
    }
    steps = data.draw(st.integers(1, 12))
    each = alone(model, starts, states, inputs)
    wanted = [decode.beam(stream, start, steps, **own, **options, **table) for stream, start, own in each]
    same(decode.beam(pool, starts, steps, states=states, inputs=inputs, **options, **table), wanted)
    assert (pool.state == model.stream().state).all()


def test_an_items_draws_do_not_depend_on_the_list(load: Load) -> None:
    model = load()
    options: dict[str, Any] = {"method": "sample", "temperature": 100.0, "seed": 5}
    long = decode.generate(model.pool(3), [1] * 40, 20, **options)
    same(decode.generate(model.pool(16), [1] * 7, 20, **options), long[:7])
    assert len({tuple(g.tokens) for g in long}) == 40
    other = decode.generate(model.pool(3), [1] * 40, 20, **{**options, "seed": 6})
    assert not {tuple(g.tokens) for g in long} & {tuple(g.tokens) for g in other}


def test_items_stop_each_at_its_time(tmp_path: Path) -> None:
    scores = np.zeros((6, 6))
    for token in range(1, 6):
        scores[token, token - 1] = 1
    model = table_model(scores, tmp_path)
    for slots in (1, 2, 4, 9):
        made = decode.generate(model.pool(slots), [3, 5, 1, 4, 2, 5, 1], 9, stop=0)
        assert [g.tokens.tolist() for g in made] == [list(range(n))[::-1] for n in (3, 5, 1, 4, 2, 5, 1)]
        assert all(g.stopped for g in made)


def test_slots_that_are_joined_are_left_alone(load: Load) -> None:
    model = load()
    pool = model.pool(4)
    slot = pool.join()
    pool.step(np.array([3]).reshape(1, *model.inputs[0].shape), which=[slot])
    before = pool.state[slot].copy()
    same(decode.generate(pool, [1, 2, 3, 4], 9), decode.generate(model.pool(9), [1, 2, 3, 4], 9))
    assert pool.state[slot].tobytes() == before.tobytes() and pool.joined == [slot]
    with pytest.raises(DecodeError, match="3 slots of the pool are free, and a beam of 4 hypotheses takes 4"):
        decode.beam(pool, [1, 2], 5, width=4)
    pool.leave(slot)
    assert decode.beam(pool, [1, 2], 5, width=4)
    pool.close()
    with pytest.raises(StreamError, match="closed"):
        decode.generate(pool, [1], 3)


def test_ways_to_give_items(load: Load) -> None:
    model, rng = load(extra=True), np.random.default_rng(2)
    memory, h = (rng.standard_normal((1, H)).astype(np.float32) for _ in range(2))
    pool = model.pool(5)
    wanted = decode.generate(pool, [4, 4], 6, states=[{"h": h}] * 2, inputs=[{"memory": memory}] * 2)
    same(decode.generate(pool, 4, 6, states=[{"h": h}] * 2, inputs={"memory": memory}), wanted)
    same(decode.generate(pool, np.array([4, 4]), 6, states={"h": h}, inputs={"memory": memory}), wanted)
    same(decode.generate(pool, [[4], np.array([4])], 6, states={"h": h[None]}, inputs={"memory": memory}), wanted)
    made = decode.PoolDecoder(pool, inputs={"memory": memory})
    same(made.generate([4, 4], 6, states={"h": h}), wanted)
    same(made.generate(4, 6, states={"h": h}, inputs=[{}, {"memory": 0 * memory}])[:1], wanted[:1])
    assert made.generate([], 6) == [] and made.beam([], 6) == []
    without = made.generate([4], 6, states={"h": h}, log_probabilities=False)[0]
    assert without.tokens.tolist() == wanted[0].tokens.tolist() and not without.log_probabilities.size
    told: list[tuple[int, int]] = []
    made.generate([4] * 7, 300, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (7, 7) and told == sorted(told) and len(told) > 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"starts": [1, 2, V]}, "item 2: token 7 is out of range"),
    ({"starts": [1, [1, 99], 2]}, "item 1: token 99 is out of range"),
    ({"starts": [1, -1, 2]}, "item 1: .*tokens count from 0"),
    ({"starts": [[1], [], [2]]}, "item 1: start is empty"),
    ({"starts": [1, "a", 2]}, "item 1: .*whole numbers"),
    ({"starts": [1, 2, 2.5]}, "item 2: .*whole numbers"),
    ({"starts": 1.5}, "a list of one for each item"),
    ({"starts": 1, "states": None, "inputs": {"memory": np.zeros(H)}}, "how many items there are"),
    ({"starts": [1, 2]}, "2 starts, 3 states, 3 inputs; there must be one for each item"),
    ({"states": [{}, {"g": 1}, {}]}, "item 1: no state 'g'"),
    ({"states": [{}, {}, {"h": np.zeros(H + 1)}]}, "item 2: input 'h' has shape"),
    ({"states": [{}, 3, {}]}, "item 1: states has int"),
    ({"inputs": [{"memory": np.zeros(H)}, {}, {"memory": np.zeros(H)}]}, "item 1: input 'memory' is not given"),
    ({"inputs": [{"memory": np.zeros(H)}, {"memory": np.zeros(H), "w": 1}, {}]}, "item 1: no constant input 'w'"),
    ({"inputs": [{"memory": np.zeros(H)}, {"memory": np.zeros(H)}, {"memory": np.zeros(2)}]}, "item 2: input 'memory' has shape"),
    ({"inputs": {"memory": np.zeros(2)}}, "input 'memory' has shape"),
    ({"inputs": [{"memory": np.zeros(H)}, {"memory": np.full(H, np.nan)}, {"memory": np.zeros(H)}]}, "item 1: .*holds NaN"),
    ({"scores": "probabilities"}, "item 0: .*not probabilities"),
    ({"stop": V}, "has 7"),
    ({"steps": 0}, "at least 1"),
]


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize(("given", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_items_are_named_and_change_nothing(load: Load, given: dict[str, Any], text: str, search: bool) -> None:
    pool = load(extra=True).pool(8)
    pool.state[...] = 0.25
    options = {"starts": [1, 2, 3], "states": [{}] * 3, "inputs": [{"memory": np.zeros(H, np.float32)}] * 3, "steps": 5, **given}
    starts, steps = options.pop("starts"), options.pop("steps")
    with pytest.raises(DecodeError, match=text):
        (decode.beam if search else decode.generate)(pool, starts, steps, **options)
    assert (pool.state == 0.25).all()
    assert decode.generate(pool, [1], 2, inputs={"memory": np.zeros(H)})[0].tokens.size == 2


@pytest.mark.parametrize("tick", [True, False])
def test_a_token_that_the_model_refuses(tmp_path: Path, tick: bool) -> None:
    """More scores than the input takes."""
    rows = np.zeros((4, 9), np.float32)
    rows[:, 1], rows[2, 8] = 1, 2
    graph = helper.make_graph(
        [helper.make_node("Gather", ["S", "x"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 9])],
        [numpy_helper.from_array(rows, "S")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "wide.onnx")
    model = tinyrnn.load(tmp_path / "wide.onnx")
    if not tick:
        model._pooled = lambda slots: PoolCode(None, tick=False)
    for call in (decode.generate, decode.beam):
        with pytest.raises(DecodeError, match="item 3: token 8 is out of range for input 'x'"):
            call(model.pool(6), [0, 1, 3, 2, 1], 4, **({"width": 1} if call is decode.beam else {}))
    assert [g.tokens.tolist() for g in decode.generate(model.pool(3), [0, 1, 3], 2)] == [[1, 1]] * 3


def test_an_interrupt_changes_nothing(load: Load) -> None:
    pool = load().pool(3)
    pool.state[...] = 0.5

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode.generate(pool, [1] * 5, 1000, progress=interrupt)
    assert (pool.state == 0.5).all()


def test_the_size_of_a_memory_may_differ_from_call_to_call(load: Load) -> None:
    model, rng = load(attending=True), np.random.default_rng(4)
    stream = model.stream()
    decoder = None
    for n in (2, 3, 2, 7):
        memory = rng.standard_normal((n, H)).astype(np.float32)
        stream.reset()
        if decoder is None:
            decoder = decode.Decoder(stream, inputs={"memory": memory})
        decoder.give({"memory": memory})
        made = decoder.generate(3, 8).tokens.tolist()
        other, token, wanted = model.stream(), 3, []
        for _ in range(8):
            token = int(other.step(x=np.full(model.inputs[0].shape, token), memory=memory).argmax())
            wanted.append(token)
        assert made == wanted
        stream.reset()
        assert decoder.beam(3, 8, width=1)[0].tokens.tolist() == wanted


def test_no_python_per_token(load: Load) -> None:
    from tinyrnn.bench.counts import count_allocations

    made = decode.PoolDecoder(load().pool(8))
    few = count_allocations(lambda: made.generate([1] * 8, 10, log_probabilities=False))
    many = count_allocations(lambda: made.generate([1] * 8, 250, log_probabilities=False))
    assert few is not None and many is not None and many.blocks < few.blocks + 10


def test_texts_of_a_list() -> None:
    model = tinyrnn.load(Models().path("char_lm"))
    prompts = [encode(text, vocabulary_of(model)).tolist() for text in ("HAMLET:\n", "A", "The king ", "\n", "To be, or")]
    stop = encode(".\n", vocabulary_of(model)).tolist()
    options: dict[str, Any] = {"method": "sample", "temperature": 0.8, "top_p": 0.9, "stop": stop}
    made = decode.generate(model.pool(2), prompts, 60, seed=9, **options)
    seeds = decode.item_seeds(9, len(prompts)).tolist()
    same(made, [decode.generate(model, p, 60, seed=s, **options) for p, s in zip(prompts, seeds, strict=True)])


def test_translations_of_a_list() -> None:
    from tinyrnn.demo import translate

    translator = translate.Translator(Models())
    sources = [translator.read(tokenize(sentence)) for sentence in translate.SENTENCES]
    same(translator.beams(sources, 4), [translator.beam(source, 4) for source in sources])
