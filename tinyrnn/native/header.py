"""NAME.h: the C interface, with its sizes, rules and error codes."""

from __future__ import annotations

from tinyrnn.compile.codegen import one_line
from tinyrnn.native.interface import BAD_MEMORY, ENDED, TOO_LONG, WRONG_WEIGHTS, Argument, Interface


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


def header(face: Interface, stack: int | None, made_by: str) -> str:
    """The text of the header. stack: most bytes of stack of a call, or None where unknown."""
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
    if stack is not None:
        lines.append(f"#define {up}_STACK_BYTES {stack} /* that a call takes at most, of the functions in {n}.o */")
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
        "",
        "#ifdef __cplusplus\n}\n#endif\n#endif",
    ]
    return "\n".join(lines) + "\n"
