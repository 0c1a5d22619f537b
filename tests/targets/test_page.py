"""Pages as LLVM text: every line means what Python means by it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrnn
from tests import MODELS
from tests.targets.page_in_python import with_page_in_python
from tinyrnn.compile.codegen import Source
from tinyrnn.targets.cpu import compile_source

OWN = Path(tinyrnn.__file__).parent / "models"


def run(text: str, context: int, frames: int) -> int:
    code = compile_source(Source(text, {"run": 2}))
    answer: int = code.run(context, frames)
    return answer


# --- numbers ---------------------------------------------------------------------------------------------------------

WHOLE = st.integers(-50, 50)


def expressions(names: list[str]) -> st.SearchStrategy[str]:
    """Whole numbers in the page's language; what divides is never zero."""
    leaf = st.one_of(st.sampled_from(names), WHOLE.map(lambda n: f"({n})"))

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        truth = st.one_of(
            st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner).map(lambda t: f"({' '.join(t)})"),
        )
        truths = st.one_of(
            truth,
            st.tuples(truth, st.sampled_from(["and", "or"]), truth).map(lambda t: f"({' '.join(t)})"),
            truth.map(lambda t: f"(not {t})"),
        )
        return st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*", "&"]), inner).map(lambda t: f"({' '.join(t)})"),
            st.tuples(inner, st.sampled_from(["//", "%"]), WHOLE.filter(bool)).map(lambda t: f"({t[0]} {t[1]} ({t[2]}))"),
            st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
            st.tuples(inner, truths, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
            inner.map(lambda t: f"(-{t})"),
        )

    return st.recursive(leaf, larger, max_leaves=12)


@given(text=expressions(["a", "b"]), a=WHOLE, b=WHOLE)
@settings(deadline=None, max_examples=60)
def test_expressions_have_the_values_of_python(text: str, a: int, b: int) -> None:
    wrapped = (eval(text, {"a": a, "b": b, "min": min, "max": max}) + 2**63) % 2**64 - 2**63
    assert run(f"def run(a, b):\n    return {text}\n", a, b) == wrapped


LOOPS = {
    "range": "    total = 0\n    for i in range(a):\n        total += i * b\n    return total\n",
    "range from": "    total = 1\n    for i in range(b, a):\n        total = total * 3 % 101 + i\n    return total\n",
    "backwards": "    total = 0\n    for i in range(a - 1, -1, -1):\n        total = total * 2 + i\n    return total\n",
    "by two": "    total = 0\n    for i in range(b, a, 2):\n        total = total * 2 + i\n        i = 7\n    return total\n",
    "while": "    n = a\n    while n > b and n % 7 != 0:\n        n -= 1\n    return n\n",
    "break": "    n = 0\n    for i in range(100):\n        if i * i > a:\n            break\n        if i % 2 == 0:\n            continue\n        n += i\n    return n\n",
    "nested": "    n = 0\n    for i in range(a):\n        for j in range(i):\n            if j == b:\n                break\n            n += j\n    return n\n",
    "early": "    if a < b:\n        return 1\n    elif a == b:\n        return 2\n    else:\n        a = a * 2\n    return a\n",
    "truth": "    good = a > b\n    if good:\n        good = a % 2 == 0\n    return 5 if good else 6\n",
    "no answer": "    a += b\n",
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_blocks_do_what_python_does(name: str) -> None:
    text = f"def run(a, b):\n{LOOPS[name]}"
    names: dict[str, Any] = {}
    exec(text, names)
    code = compile_source(Source(text, {"run": 2}))
    for a in range(-3, 20):
        for b in (-4, 0, 3, 9):
            assert code.run(a, b) == (names["run"](a, b) or 0), (a, b)


def test_what_does_not_decide_is_not_read() -> None:
    text = "from tinyrnn.lanes import get, i64\n\n\ndef run(a, b):\n    return 1 if a != 0 and get(i64(a), 0) == b else 0\n"
    value = ctypes.c_int64(7)
    assert run(text, 0, 7) == 0 and run(text, ctypes.addressof(value), 7) == 1


@pytest.mark.parametrize(
    "word, value",
    [("i8", -3), ("u8", 253), ("i16", -300), ("u16", 65000), ("i32", -70000), ("u32", 2**32 - 5), ("i64", -(2**40))],
)
def test_elements_are_read_and_written_in_their_width(word: str, value: int) -> None:
    text = f"from tinyrnn.lanes import get, put, {word}\n\n\ndef run(a, b):\n    put({word}(a), 1, b)\n    return get({word}(a), 1) + get({word}(a), 2)\n"
    kind = np.dtype({"i": "int", "u": "uint"}[word[0]] + word[1:])
    array = np.full(4, 1, kind)
    assert run(text, array.ctypes.data, value) == value + 1
    assert array.tolist() == [1, value, 1, 1]


@pytest.mark.parametrize("line", ["x = [1]", "return a.b", "return a / b", "return 'a'", "import os", "return missing(a)", "return run(a)", "return a < b < 3", "with a: pass", "return undefined", "return a if b else f32(a)"])  # fmt: skip
def test_what_a_page_cannot_say_is_named(line: str) -> None:
    with pytest.raises(tinyrnn.TargetError, match="a page cannot say"):
        run(f"from tinyrnn.lanes import f32\n\n\ndef run(a, b):\n    {line}\n    return 0\n", 0, 0)


def test_what_is_no_page_is_refused() -> None:
    with pytest.raises(tinyrnn.TargetError, match="cannot be read"):
        run("def run(a, b:\n", 0, 0)


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        MODELS / "lstm_layernorm_lstm_dynT_legacy.onnx",
        MODELS / "cell_lstm_stack2_legacy.onnx",
        MODELS / "packed_state_lstm_step_legacy.onnx",
        MODELS / "architectures" / "convvalid_open_dynamo.onnx",
        MODELS / "architectures" / "crnn_open_dynamo.onnx",
        MODELS / "architectures" / "gtcrnstep_legacy.onnx",
        OWN / "gesture.onnx",
        OWN / "char_lm.onnx",
        OWN / "video.onnx",
    ],
    ids=lambda p: p.stem,
)
def test_python_runs_the_page_of_a_model_to_the_same_bits(path: Path) -> None:
    model = tinyrnn.load(path)
    rng = np.random.default_rng(3)
    a, b = model.stream(), with_page_in_python(model).stream()
    for count in (1, 4, 2):
        xs = [
            (rng.standard_normal((count, *p.shape)) * 3).astype(p.dtype).clip(0 if p.dtype.kind == "i" else -9)
            for p in model.inputs
        ]
        for y, z in zip(*(r if isinstance(r, tuple) else (r,) for r in (a.run(*xs), b.run(*xs))), strict=True):
            assert y.tobytes() == z.tobytes()
    assert a.state.tobytes() == b.state.tobytes()
