"""The self-test of a build: input frames, the bits that must come out, and a C function that compares them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import Array
from tinyrnn.native.interface import Interface
from tinyrnn.runtime import Context, Model


@dataclass(frozen=True)
class SelfTest:
    """One run from the initial state."""

    frames: int
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    """as `Stream.run` gives them, one call over all frames"""


def expected(model: Model, inputs: Sequence[Array], frames: int) -> list[Array]:
    """The outputs of one call over `frames` from the initial state, as the C function `run` gives them."""
    layout = model._layout
    counts = [p.clock.count(frames) for p in layout.outputs]
    made = [np.empty((n, *p.shape) if p.per_frame else p.shape, p.dtype) for p, n in zip(layout.outputs, counts, strict=True)]
    Context(layout).execute(model._code.run, [*inputs, *made], frames)
    return made


def selftest_file(test: SelfTest) -> bytes:
    """The bytes of selftest.npz, which do not depend on the date."""
    arrays: dict[str, Any] = {f"input_{i}": a for i, a in enumerate(test.inputs)}
    arrays |= {f"output_{i}": a for i, a in enumerate(test.outputs)} | {"frames": np.int64(test.frames)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def around(face: Interface, test: SelfTest) -> tuple[str, dict[str, bytes]]:
    """LLVM text of NAME_selftest(stream), and its data.

    All frames in one call of run, then, where rows are not counted, one by one with step; it returns 0, 1 + the number of
    the output that differs, or what run returned if not 0. The stream is reset before and after.
    """
    word, name = f"i{face.bits}", face.name
    lines, data = [], dict[str, bytes]()
    for index, array in enumerate(test.inputs):
        data[f"test_x{index}"] = array.tobytes() or b"\0"
        lines.append(constant(f"x{index}", data, f"test_x{index}"))
    for index, array in enumerate(test.outputs):
        data[f"test_y{index}"] = array.tobytes() or b"\0"
        lines += [
            constant(f"y{index}", data, f"test_y{index}"),
            f"@made{index} = internal global [{len(data[f'test_y{index}'])} x i8] zeroinitializer, align 8",
        ]
    counted = face.counted
    if counted:
        lines.append(f"@counts = internal global [{len(face.outputs)} x {word}] zeroinitializer, align 8")
    parameters = ["ptr"] * (len(face.inputs) + len(face.outputs) + counted)
    stepwise = face.streams and not counted
    lines += [
        f"declare void @{name}_reset(ptr)",
        f"declare i32 @{name}_run({', '.join(['ptr', word, *parameters])})",
        *([f"declare i32 @{name}_step({', '.join(['ptr', *parameters])})"] if stepwise else []),
        f"define internal i1 @differ(ptr %a, ptr %b, {word} %n) noinline {{",
        "start:\n  br label %loop",
        f"loop:\n  %i = phi {word} [ 0, %start ], [ %j, %next ]",
        f"  %more = icmp ult {word} %i, %n\n  br i1 %more, label %look, label %same",
        f"look:\n  %p = getelementptr i8, ptr %a, {word} %i\n  %q = getelementptr i8, ptr %b, {word} %i",
        "  %x = load i8, ptr %p\n  %y = load i8, ptr %q\n  %eq = icmp eq i8 %x, %y",
        "  br i1 %eq, label %next, label %other",
        f"next:\n  %j = add {word} %i, 1\n  br label %loop",
        "same:\n  ret i1 false\nother:\n  ret i1 true\n}",
        f"define i32 @{name}_selftest(ptr %stream) {{",
        f"entry:\n  call void @{name}_reset(ptr %stream)",
    ]
    given = [*(f"ptr @x{i}" for i in range(len(test.inputs))), *(f"ptr @made{i}" for i in range(len(test.outputs)))]
    given += ["ptr @counts"] * counted
    lines.append(f"  %ran = call i32 @{name}_run({', '.join(['ptr %stream', f'{word} {test.frames}', *given])})")
    lines += ["  %good = icmp eq i32 %ran, 0\n  br i1 %good, label %run_0, label %refused\nrefused:\n  ret i32 %ran"]
    last = len(test.outputs) - 1
    for index, array in enumerate(test.outputs):
        after = f"run_{index + 1}" if index < last else "steps"
        lines += [
            f"run_{index}:\n  %d{index} = call i1 @differ(ptr @made{index}, ptr @y{index}, {word} {array.nbytes})",
            f"  br i1 %d{index}, label %bad_{index}, label %{after}",
            f"bad_{index}:\n  ret i32 {1 + index}",
        ]
    lines.append(f"steps:\n  call void @{name}_reset(ptr %stream)")
    if stepwise:
        lines += _steps(face, test, word)
    lines += ["  ret i32 0\n}"]
    return "\n".join(lines) + "\n", data


def constant(name: str, data: dict[str, bytes], file: str) -> str:
    return f"@{name} = internal constant [{len(data[file])} x i8] DATA({file}), align 8"


def _steps(face: Interface, test: SelfTest, word: str) -> list[str]:
    """LLVM text that runs frame by frame; of a value with one per call the last one is compared."""
    name, frames = face.name, test.frames
    lines = [
        "  br label %loop",
        f"loop:\n  %t = phi {word} [ 0, %steps ], [ %u, %next ]",
        f"  %end = icmp eq {word} %t, {frames}\n  br i1 %end, label %done, label %frame",
        "frame:",
    ]
    given = []
    for k, (arguments, arrays) in {"x": (face.inputs, test.inputs), "y": (face.outputs, test.outputs)}.items():
        for index, argument in enumerate(arguments):
            stride = arrays[index].nbytes // frames if argument.port.per_frame else 0
            lines.append(f"  %o_{k}{index} = mul {word} %t, {stride}")
            lines.append(f"  %{k}{index} = getelementptr i8, ptr @{k if k == 'x' else 'made'}{index}, {word} %o_{k}{index}")
            given.append(f"ptr %{k}{index}")
    lines += [
        f"  %stepped = call i32 @{name}_step({', '.join(['ptr %stream', *given])})",
        f"  %u = add {word} %t, 1\n  br label %cmp_0",
    ]
    shown = [i for i, a in enumerate(face.outputs) if a.port.per_frame]
    for place, index in enumerate(shown):
        stride = test.outputs[index].nbytes // frames
        after = f"cmp_{place + 1}" if place + 1 < len(shown) else "next"
        lines += [
            f"cmp_{place}:\n  %w{index} = getelementptr i8, ptr @y{index}, {word} %o_y{index}",
            f"  %e{index} = call i1 @differ(ptr %y{index}, ptr %w{index}, {word} {stride})",
            f"  br i1 %e{index}, label %off_{index}, label %{after}",
            f"off_{index}:\n  ret i32 {1 + index}",
        ]
    if not shown:
        lines.append("cmp_0:\n  br label %next")
    return [*lines, "next:\n  br label %loop", f"done:\n  call void @{name}_reset(ptr %stream)"]
