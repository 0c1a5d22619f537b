"""The self-test of many streams: LLVM text that holds the rows of a pool against the stored bits of one stream."""

from __future__ import annotations

from tinyrnn.native.interface import Interface, PoolInterface
from tinyrnn.native.pool import POINTERS
from tinyrnn.native.selftest import SelfTest, constant


def streams_of(pool: PoolInterface, test: SelfTest) -> int:
    """Streams that the test uses at most: no more of them have a frame at the same time."""
    return min(pool.streams, test.frames)


def around_pool(face: Interface, pool: PoolInterface, test: SelfTest) -> tuple[str, dict[str, bytes]]:
    """LLVM text of NAME_pool_selftest(pool), to stand behind that of NAME_selftest, and its data.

    Each slot begins one call later than the one before, and takes all frames of the test. A call has the slots in falling
    order, so that their frames and results stand side by side. It returns as NAME_selftest does.
    """
    word, name, frames, most = f"i{face.bits}", face.name, test.frames, streams_of(pool, test)
    data = {"test_slots": b"".join(slot.to_bytes(8, "little") for slot in reversed(range(most)))}
    lines = [constant("slots", data, "test_slots")]
    given: list[tuple[str, int]] = []
    """the name of each array of a call, and the bytes of a frame in it"""
    for index, (argument, array) in enumerate(zip(face.inputs, test.inputs, strict=True)):
        if argument.port.per_frame:
            given.append((f"x{index}", array.nbytes // frames))
        else:
            data[f"test_all_x{index}"] = array.tobytes() * most or b"\0"
            lines.append(constant(f"all_x{index}", data, f"test_all_x{index}"))
            given.append((f"all_x{index}", 0))
    for index, (argument, array) in enumerate(zip(face.outputs, test.outputs, strict=True)):
        if argument.port.per_frame:
            given.append((f"made{index}", array.nbytes // frames))
        else:
            lines.append(f"@all_y{index} = internal global [{max(array.nbytes, 1) * most} x i8] zeroinitializer, align 8")
            given.append((f"all_y{index}", 0))
    pointers = ", ".join(["ptr", "ptr", word, *["ptr"] * len(given)])
    lines += [
        f"declare i32 @{name}_pool_reset(ptr, {word})",
        f"declare i32 @{name}_pool_step({pointers})",
        "define internal void @anew(ptr %pool) noinline {",
        "start:\n  br label %loop",
        f"loop:\n  %i = phi {word} [ 0, %start ], [ %j, %loop ]",
        f"  %status = call i32 @{name}_pool_reset(ptr %pool, {word} %i)",
        f"  %j = add {word} %i, 1\n  %more = icmp ult {word} %j, {most}",
        "  br i1 %more, label %loop, label %end\nend:\n  ret void\n}",
        f"define i32 @{name}_pool_selftest(ptr %pool) {{",
        f"entry:\n  call void @anew(ptr %pool)\n  %at = getelementptr i8, ptr %pool, i32 {POINTERS * face.bits // 8}",
        f"  %have = load {word}, ptr %at\n  %few = icmp ult {word} %have, {most}",
        f"  %m = select i1 %few, {word} %have, {word} {most}\n  %calls = add {word} %m, {frames - 1}",
        f"  %youngest = sub {word} %m, 1\n  br label %loop",
        f"loop:\n  %t = phi {word} [ 0, %entry ], [ %u, %next ]",
        f"  %more = icmp ult {word} %t, %calls\n  br i1 %more, label %tick, label %done",
        f"tick:\n  %early = icmp ult {word} %t, %m\n  %high = select i1 %early, {word} %t, {word} %youngest",
        f"  %ending = icmp uge {word} %t, {frames - 1}\n  %over = sub {word} %t, {frames - 1}",
        f"  %low = select i1 %ending, {word} %over, {word} 0",
        f"  %span = sub {word} %high, %low\n  %count = add {word} %span, 1",
        f"  %frame = sub {word} %t, %high\n  %place = sub {word} {most - 1}, %high",
        f"  %which = getelementptr i64, ptr @slots, {word} %place",
    ]
    for place, (array_name, stride) in enumerate(given):
        lines.append(f"  %o{place} = mul {word} %frame, {stride}")
        lines.append(f"  %p{place} = getelementptr i8, ptr @{array_name}, {word} %o{place}")
    passed = ", ".join(["ptr %pool", "ptr %which", f"{word} %count", *(f"ptr %p{place}" for place in range(len(given)))])
    lines += [
        f"  %ran = call i32 @{name}_pool_step({passed})",
        "  %good = icmp eq i32 %ran, 0\n  br i1 %good, label %cmp_0, label %refused",
        "refused:\n  call void @anew(ptr %pool)\n  ret i32 %ran",
    ]
    first = len(face.inputs)
    for index, (argument, array) in enumerate(zip(face.outputs, test.outputs, strict=True)):
        after, place = f"cmp_{index + 1}" if index + 1 < len(face.outputs) else "next", first + index
        if argument.port.per_frame:
            lines += [
                f"cmp_{index}:\n  %y{index} = getelementptr i8, ptr @y{index}, {word} %o{place}",
                f"  %n{index} = mul {word} %count, {array.nbytes // frames}",
                f"  %d{index} = call i1 @differ(ptr %p{place}, ptr %y{index}, {word} %n{index})",
            ]
        else:  # of the stream that has its last frame, the last in the call
            lines += [
                f"cmp_{index}:\n  br i1 %ending, label %end_{index}, label %{after}",
                f"end_{index}:\n  %n{index} = mul {word} %span, {array.nbytes}",
                f"  %y{index} = getelementptr i8, ptr @all_y{index}, {word} %n{index}",
                f"  %d{index} = call i1 @differ(ptr %y{index}, ptr @y{index}, {word} {array.nbytes})",
            ]
        lines += [
            f"  br i1 %d{index}, label %bad_{index}, label %{after}",
            f"bad_{index}:\n  call void @anew(ptr %pool)\n  ret i32 {1 + index}",
        ]
    lines += [
        f"next:\n  %u = add {word} %t, 1\n  br label %loop",
        "done:\n  call void @anew(ptr %pool)\n  ret i32 0\n}",
    ]
    return "\n".join(lines) + "\n", data
