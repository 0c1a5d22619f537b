"""NAME.h: the C interface, with its sizes, rules and error codes."""

from __future__ import annotations

from tinyrnn.compile.codegen import one_line
from tinyrnn.native.interface import (
    BAD_MEMORY,
    BAD_SLOT,
    ENDED,
    TOO_LONG,
    TOO_MANY,
    WRONG_WEIGHTS,
    Argument,
    Interface,
    PoolInterface,
)
from tinyrnn.native.sizes import Sizes


def prototype(face: Interface, function: str) -> str:
    """The declaration of step, run or flush."""
    words = [f"{face.name}_stream *stream", *(["size_t frames"] if function == "run" else [])]
    words += [f"{const}{a.c_type} *{a.name}" for a, const in face.arguments(function)]
    words += [f"size_t rows[{len(face.outputs)}]"] * face.counted
    return f"int {face.name}_{function}({', '.join(words)});"


def _described(argument: Argument, what: str) -> str:
    port = argument.port
    shape = f"{argument.c_type}[{', '.join(map(str, port.shape)) or '1'}]"
    each = "a call" if not port.per_frame else "a frame" if what == "input" else "a row"
    return one_line(f"{argument.name}: {what} {port.name!r}, {shape} of {each}").replace("*/", "* /")


def header(face: Interface, sizes: Sizes, made_by: str) -> str:
    """The text of the header."""
    n, up = face.name, face.upper
    lines = [
        f"/* {one_line(face.model).replace('*/', '* /')}: a recurrent model as native code for {face.target}. Made by {made_by}.",
        " *",
        *(f" *   {_described(a, 'input')}" for a in face.inputs),
        *(f" *   {_described(a, 'output')}" for a in face.outputs),
        " *",
        " * Memory. A stream is one live input. Its state and its arena are yours: both aligned to",
        f" * {up}_ALIGNMENT bytes; {up}_MEMORY(m) declares them, static. The state is what the model remembers:",
        f" * copy its {up}_STATE_FLOATS floats to save it, copy them back to return there. The arena holds nothing between",
        " * calls: streams that are never in a call at the same time may share one. Nothing is allocated.",
        " *",
        " * Arrays have frames one after the other, each in C order. Outputs must not overlap inputs or each other.",
        " *",
        " * Threads. All functions may run at the same time, in threads and interrupts, on different streams (and arenas).",
        " * A stream is for one of them at a time. Code and weights are constant.",
        " *",
        " * Functions return 0, the number of an input (from 1) that holds an index out of range, where nothing has",
        f" * changed, or one of the codes below. */\n#ifndef {up}_H\n#define {up}_H",
        "",
        "#include <stddef.h>\n#include <stdint.h>\n",
        '#ifdef __cplusplus\nextern "C" {\n#endif\n',
        f"#define {up}_STATE_FLOATS {max(face.state_floats, 1)}",
        f"#define {up}_STATE_BYTES {4 * max(face.state_floats, 1)}",
        f"#define {up}_ARENA_BYTES {max(face.arena_bytes, 1)}",
        f"#define {up}_WEIGHTS_BYTES {face.weights_bytes}",
        f"#define {up}_ALIGNMENT {face.alignment}",
        f"#define {up}_FRAMES_AT_ONCE {face.rows} /* of one pass{'' if face.streams else ': the most that run takes'} */",
    ]
    if sizes.stack is not None:
        lines.append(f"#define {up}_STACK_BYTES {sizes.stack} /* that a call takes at most, of the functions in {n}.o */")
    for argument in (*face.inputs, *face.outputs):
        lines.append(f"#define {up}_{argument.name.upper()}_SIZE {argument.bytes // argument.port.dtype.itemsize}")
    if face.counted:
        for argument, tail in zip(face.outputs, face.tail, strict=True):
            if argument.port.per_frame:
                rows = f"((frames) + {face.lead}) * {argument.rate}"
                lines.append(f"#define {up}_{argument.name.upper()}_ROWS(frames) ({rows}) /* at most, of step and run */")
                lines += [f"#define {up}_{argument.name.upper()}_TAIL {tail} /* rows, at most, of flush */"] * face.waits
    lines += [
        "",
        f"#define {up}_BAD_MEMORY ({BAD_MEMORY}) /* init: a null pointer, or memory that is not aligned */",
    ]
    if face.weights_header:
        lines.append(f"#define {up}_WRONG_WEIGHTS ({WRONG_WEIGHTS}) /* init: the weights of another model or target */")
    if face.waits:
        lines.append(f"#define {up}_ENDED ({ENDED}) /* step, run, flush: the sequence has ended; reset begins another */")
    if not face.streams:
        lines.append(f"#define {up}_TOO_LONG ({TOO_LONG}) /* run: more than {up}_FRAMES_AT_ONCE frames */")
    aligned = max(face.alignment, face.preferred)
    lines += [
        "",
        f"typedef struct {{\n  float *state;\n  void *arena;\n  const void *weights;\n}} {n}_stream;",
        "",
        "#if defined(__cplusplus)\n"
        f"#define {up}_ALIGNED alignas({aligned})\n"
        "#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L\n"
        f"#define {up}_ALIGNED _Alignas({aligned})\n"
        "#else\n"
        f"#define {up}_ALIGNED __attribute__((aligned({aligned})))\n"
        "#endif",
        f"#define {up}_MEMORY(m) \\\n  {up}_ALIGNED static float m##_state[{up}_STATE_FLOATS]; \\\n"
        f"  {up}_ALIGNED static unsigned char m##_arena[{up}_ARENA_BYTES]",
        "",
    ]
    if face.weights_header:
        lines += [
            "/* A stream in its initial state. `weights` is the whole content of the file of weights, `bytes` long. */",
            f"int {n}_init({n}_stream *stream, float *state, void *arena, const void *weights, size_t bytes);",
        ]
    else:
        lines += ["/* A stream in its initial state. */", f"int {n}_init({n}_stream *stream, float *state, void *arena);"]
    lines += ["", "/* Back to the initial state. */", f"void {n}_reset({n}_stream *stream);"]
    rows = "; rows[i] takes the rows made of output i, which may be none" if face.counted else ""
    if face.streams:
        lines += ["", f"/* One frame{rows}. */", prototype(face, "step")]
        lines += ["", f"/* `frames` frames, the same bits as one by one{rows}. */", prototype(face, "run")]
    else:
        lines += ["", f"/* A whole sequence; nothing is remembered{rows}. */", prototype(face, "run")]
    if face.waits:
        lines += ["", "/* The rows that still wait for frames, as if the sequence ended here. */", prototype(face, "flush")]
    lines += [
        "",
        f"/* In {n}_selftest.o: runs stored frames; 0, the number of an output (from 1) whose bits differ from those stored, or",
        " * a code below 0. It resets the stream. */",
        f"int {n}_selftest({n}_stream *stream);",
        *(_pool(face, face.pool, sizes) if face.pool else []),
        "",
        "#ifdef __cplusplus\n}\n#endif\n#endif",
    ]
    return "\n".join(lines) + "\n"


def _pool(face: Interface, pool: PoolInterface, sizes: Sizes) -> list[str]:
    """What the header says of many streams."""
    n, up = face.name, face.upper
    states, arena = f"m##_states[(size_t)(slots) * {up}_STATE_STRIDE]", f"m##_arena[{up}_POOL_ARENA_BYTES]"
    words = [f"{n}_pool *pool", "const int64_t *which", "size_t m"]
    words += [f"{const}{a.c_type} *{a.name}" for a, const in face.arguments("step")]
    weights = ", const void *weights, size_t bytes" if face.weights_header else ""
    lines = [
        "",
        "/* Many streams in one call. A pool is a row of slots, each with the state of a stream, and an arena that they share.",
        f" * Its memory is yours, aligned to {up}_ALIGNMENT bytes; {up}_POOL_MEMORY(m, slots) declares it, static. The",
        f" * {up}_STATE_FLOATS floats of slot i begin at states + i * {up}_STATE_STRIDE and lie as in a stream: copying them",
        " * moves a stream into a pool, or out of one. Each stream has the bits that it would have alone. */",
        f"#define {up}_STREAMS {pool.streams} /* most of one call; a pool may have more slots */",
        f"#define {up}_STATE_STRIDE {pool.stride} /* floats from one state to the next */",
        f"#define {up}_POOL_ARENA_BYTES {pool.arena_bytes}",
    ]
    if sizes.pool and sizes.pool.stack is not None:
        lines.append(f"#define {up}_POOL_STACK_BYTES {sizes.pool.stack} /* that pool_step takes at most */")
    return [
        *lines,
        f"#define {up}_BAD_SLOT ({BAD_SLOT}) /* pool_step, pool_reset: a slot that the pool lacks, or one that is named twice */",
        f"#define {up}_TOO_MANY ({TOO_MANY}) /* pool_step: more than {up}_STREAMS streams */",
        f"#define {up}_POOL_MEMORY(m, slots) \\\n  {up}_ALIGNED static float {states}; \\\n"
        f"  {up}_ALIGNED static unsigned char {arena}",
        "",
        f"typedef struct {{\n  float *states;\n  void *arena;\n  const void *weights;\n  size_t slots;\n}} {n}_pool;",
        "",
        "/* All slots in their initial state, at least one. */",
        f"int {n}_pool_init({n}_pool *pool, float *states, size_t slots, void *arena{weights});",
        "",
        "/* One slot back to the initial state. */",
        f"int {n}_pool_reset({n}_pool *pool, size_t slot);",
        "",
        "/* One frame of the m streams in the slots which[0], which[1] ...: different ones, in any order; of the first m slots",
        " * where `which` is a null pointer. Inputs and outputs have what step takes and gives, m times, in the order of",
        " * `which`. Where it does not return 0, nothing has changed. */",
        f"int {n}_pool_step({', '.join(words)});",
        "",
        f"/* In {n}_selftest.o: as {n}_selftest, up to 16 slots at once, each later than the one before; it resets them. */",
        f"int {n}_pool_selftest({n}_pool *pool);",
    ]
