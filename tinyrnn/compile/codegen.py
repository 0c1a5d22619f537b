"""From a plan to source: one page of Python that is compiled into the step of a model.

The page holds the kernels written for this model, `step` (one pass over the program for some rows),
`run` (all frames, in passes of at most the arena's capacity), and `call` and `call_many` (one frame, or
many, straight from Python: they read the headers of NumPy arrays themselves).

The *context* is an int64 array that all entries take, in the order of `CONTEXT`, then the addresses of
inputs and outputs, then the address of each one's dtype object, then the rows of each output that the last `call` made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isinf, prod

from tinyrnn import lanes
from tinyrnn.compile.crew_page import crew_functions
from tinyrnn.compile.plan import Place, Plan
from tinyrnn.graph.call import Close, Open
from tinyrnn.graph.clock import FRAMES
from tinyrnn.passes import Port

RELEASE_FROM = 1 << 17
"""multiply-adds per frame from which a step releases the GIL; below, releasing it costs more than the step"""
CONTEXT = (
    "weights",
    "state",
    "arena",
    "capacity",
    "end",
    "array_type",
    "accepted",
    "declined",
    "varied",
    "count_references",
    "save_thread",
    "restore_thread",
    "crew",
)
PORTS = len(CONTEXT)
LONGEST_PART = 64
"""most kernel calls in one function of the step: compile time grows faster than the length of a function"""
PART = "part_"
"""prefix of the functions into which the step is divided; they are not inlined"""
LARGEST_CALL = 16
"""most pairs of an input and an output for which Python calls the step directly: each pair adds code to tell arrays apart"""
ARRAY_FLAGS_IN, ARRAY_FLAGS_OUT = 0x1 | 0x100, 0x1 | 0x100 | 0x400
"""NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED (| NPY_ARRAY_WRITEABLE)"""


@dataclass(frozen=True)
class ArrayLayout:
    """Byte offsets in CPython's object and NumPy's array headers (PyArrayObject_fields)."""

    data: int = 16
    ndim: int = 24
    dimensions: int = 32
    descr: int = 56
    flags: int = 64


LAYOUT = ArrayLayout()


@dataclass(frozen=True)
class Source:
    """The page, and the signatures of its entries."""

    text: str
    entries: dict[str, int]
    """exported function → number of int64 arguments"""


def one_line(text: str) -> str:
    """Text made safe for a comment of the page, whatever names the file has."""
    return "".join(c if c.isprintable() else "?" for c in text)


def generate(plan: Plan, shared: bool = True) -> Source:
    """The source of a plan's entries. shared: calls with equal kernel texts have one kernel."""
    page, memory, xs, ys = program(plan, shared)
    inputs, outputs = plan.program.visible_inputs, plan.program.visible_outputs
    page += _run(plan, memory, xs, ys)
    direct = not plan.program.refuses_stream and len(inputs) * len(outputs) <= LARGEST_CALL
    if direct:
        page += _call(plan, inputs, outputs, many=False, release=plan.multiply_adds >= RELEASE_FROM)
        page += _call(plan, inputs, outputs, many=True, release=True)
    entries = {"run": 2, "call": 3, "call_many": 3} if direct else {"run": 2}
    if plan.shared:
        entries |= {"serve": 2, "dismiss": 1}
    return Source(page_text(plan, page), entries)


def page_text(plan: Plan, page: list[str]) -> str:
    """The page of a plan."""
    return page_of(f"# The step of {one_line(plan.program.graph.name)}.", page)


def page_of(title: str, page: list[str]) -> str:
    """The lines under a title, with what they import."""
    return "\n".join([title, "", *_imports(page), "", "", *page]) + "\n"


def program(plan: Plan, shared: bool = True) -> tuple[list[str], list[str], list[str], list[str]]:
    """(lines of the kernels and `step`; names of its arguments for memories, inputs and outputs)."""
    kernels: dict[str, str] = {}
    lines: list[str] = []
    calls: list[tuple[str, int, int]] = []
    indent = "    "
    for step in plan.steps:
        if isinstance(step.kernel, Open):
            lines.append(indent + step.kernel.text.format(*(_operand(o) for o in step.operands)))
            indent += "    "
            if plan.streams and step.kernel.by_row:
                lines.append(indent + own_state(plan, step.kernel.text.split()[1]))
            continue
        if isinstance(step.kernel, Close):
            if lines[-1].endswith(":"):
                lines.append(f"{indent}{step.kernel.otherwise}")
            indent = indent[4:]
            continue
        if isinstance(step.kernel, str):
            name = kernels.setdefault(step.kernel if shared else f"{step.kernel}# {len(kernels)}", f"kernel_{len(kernels)}")
        else:
            name = step.kernel.__name__
        if step.note:
            lines.append(f"{indent}# {one_line(step.note)}")
        if step.pieces:
            name, calls = f"share_{len(calls)}", [*calls, (name, len(step.operands), step.pieces)]
            lines.append(f"{indent}{name}({', '.join(['crew', *(_operand(o) for o in step.operands)])})")
            continue
        lines.append(f"{indent}{name}({', '.join(_operand(o) for o in step.operands)})")
    offsets = {part.name: part.offset for part in plan.parts}
    after = []
    if any("started@" in str(o) for step in plan.steps for o in step.operands):
        after.append(f"put(f32(s), {offsets['started']}, 1.0)")
    if plan.streams and "frames" in offsets:
        counter = f"i64(s + {4 * offsets['frames']})"
        after.append(f"put({counter}, 0, get({counter}, 0) + 1)")
    if plan.streams and after:
        lines += ["    for i in range(rows):", f"        {own_state(plan, 'i')}"]
    lines += ["    " * (1 + plan.streams) + line for line in after]

    graph = plan.program.graph
    inputs, outputs = plan.program.visible_inputs, plan.program.visible_outputs
    hidden = [n for n in graph.inputs if n in plan.program.batches]
    xs = [f"x{i}" for i in range(len(inputs) + len(hidden))]
    ys = [f"y{i}" for i in range(len(outputs))]
    memory = ["w", "states", "a", "cap", "which", "each", "frame"] if plan.streams else ["w", "s", "a", "cap"]
    page: list[str] = []
    for text, name in kernels.items():
        page += [text.replace("KERNEL", name, 1), ""]
    page += _counts(plan)
    if calls:
        page += crew_functions(calls)
        memory.append("crew")
    time = ["before", "after", "end"] if plan.clocks else ["rows"]
    counted = [f"{what}_{k}" for k in range(len(plan.clocks)) for what in ("count", "rows", "whole")]
    parts, lines = _parted(lines, [*memory, *dict.fromkeys([*time, "rows"]), *counted, *xs, *ys])
    page += [*parts, f"def step({', '.join([*memory, *time, *xs, *ys])}):", *_counted(plan), *(lines or ["    pass"]), "", ""]
    return page, memory, xs, ys


def own_state(plan: Plan, stream: str) -> str:
    """The line that finds the state of one stream of a call."""
    return f"s = states + get(i64(which), {stream}) * {4 * plan.state_stride}"


def _parted(lines: list[str], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(functions, body that calls them): a body divided into functions of some calls each; blocks are not divided."""
    parts: list[list[str]] = [[]]
    for line, before in zip(lines, ["", *lines], strict=False):
        calls = sum(not text.lstrip().startswith("#") for text in parts[-1])
        if calls >= LONGEST_PART and not line.startswith("     ") and not before.startswith("    #"):
            parts.append([])
        parts[-1].append(line)
    if len(parts) == 1:
        return [], lines
    heads = [f"{PART}{number}({', '.join(arguments)})" for number in range(len(parts))]
    functions = [text for head, part in zip(heads, parts, strict=True) for text in (f"def {head}:", *part, "", "")]
    return functions, [f"    {head}" for head in heads]


def _imports(page: list[str]) -> list[str]:
    """Import lines for the words and kernels that the page uses."""
    known = {name: word.__module__ for name, word in vars(lanes).items() if callable(word) and name.islower()}
    known |= {function.__name__: function.__module__ for function in lanes.KERNELS}
    used: dict[str, list[str]] = {}
    for name in sorted(set(re.findall(r"\b[a-z]\w*(?=\()", "\n".join(page))) & set(known)):
        used.setdefault(known[name], []).append(name)
    return [f"from {module} import {', '.join(names)}" for module, names in sorted(used.items())]


def _operand(operand: Place | int | float | str) -> str:
    if isinstance(operand, Place):
        base = {"weights": "w", "state": "s", "arena": "a"}.get(operand.memory, operand.memory)
        text = base
        if operand.offset:
            text += f" + {operand.offset}"
        if operand.per_capacity:
            text += f" + {operand.per_capacity} * cap"
        for variable, size in operand.terms:
            text += f" + {variable} * {size}"
        return text
    if isinstance(operand, str) and operand.startswith("started@"):
        offset, _, row = operand[8:].partition("@")
        before = f"get(f32(s), {int(offset) // 4})"
        return f"(1.0 if {row} > 0 else {before})" if row else before
    if isinstance(operand, float) and isinf(operand):
        return "1e999" if operand > 0 else "-1e999"
    return str(operand)


def _counts(plan: Plan) -> list[str]:
    """A function for each clock: its rows after n frames of a sequence that ends after `end` frames (negative: unknown)."""
    lines = []
    for k, clock in enumerate(plan.clocks):
        lines += [
            f"def after_{k}(n, end):",
            "    if n == 0:",
            "        return 0",
            "    last = end if end >= 0 else n",
            f"    return max(min({clock.text(True, 'n')}, {clock.text(False, 'last')}), 0)",
            "",
            "",
        ]
    return lines


def _counted(plan: Plan) -> list[str]:
    """Lines that compute the rows of every clock in this pass."""
    lines = []
    for k, clock in enumerate(plan.clocks):
        lines += [
            f"    count_{k} = after_{k}(before, end)",
            f"    rows_{k} = after_{k}(after, end) - count_{k}",
            f"    whole_{k} = max({clock.text(False, 'end')}, 0) if end >= 0 else -1",
        ]
    return [*lines, "    rows = rows_0"] if lines else []


def row_bytes(port: Port) -> int:
    return prod(port.frame) * port.dtype.itemsize


def _run(plan: Plan, memory: list[str], xs: list[str], ys: list[str]) -> list[str]:
    lines = [
        "def run(context, frames):",
        '    """All frames; 0, or 1 + the number of an input whose indices are out of range (nothing is changed)."""',
        "    c = i64(context)",
    ]
    lines += [f"    {name} = get(c, {CONTEXT.index(name) if name in CONTEXT else i})" for i, name in enumerate(memory)]
    lines += [f"    {name} = get(c, {PORTS + i})" for i, name in enumerate([*xs, *ys])]
    if plan.clocks:
        lines += [f"    end = get(c, {CONTEXT.index('end')})", f"    start = get({counter(plan)}, 0)"]
    return [*lines, *passes(plan, memory, xs, ys), "    return 0", "", ""]


def counter(plan: Plan) -> str:
    """The text of the pointer to the number of frames since the reset, if the plan counts them."""
    return next((f"i64(s + {4 * p.offset})" for p in plan.parts if p.name == "frames"), "")


def passes(plan: Plan, memory: list[str], xs: list[str], ys: list[str]) -> list[str]:
    """Lines that check the indices in the inputs and run all frames, `cap` rows at a time."""
    inputs, outputs = plan.program.visible_inputs, plan.program.visible_outputs
    more = len(xs) - len(inputs)
    sizes = [row_bytes(p) if p.per_row else 0 for p in inputs] + [0] * more + [row_bytes(p) if p.per_row else 0 for p in outputs]
    lines = []
    frames = {f"x{i}": p for i, p in enumerate(inputs)}
    for name, low, high in plan.bounds:
        port = frames[name]
        word = "i64" if port.dtype.itemsize == 8 else "i32"
        frames_in = "(after_0(start + frames, end) - after_0(start, end))" if plan.clocks else "frames"
        count = f"{frames_in} * {prod(port.frame)}" if port.per_row else str(prod(port.frame))
        lines += [
            f"    p = {word}({name})",
            f"    for i in range({count}):",
            f"        if get(p, i) < {low} or get(p, i) > {high}:",
            f"            return {1 + int(name[1:])}",
        ]
    rows = {0: "frames", 1: "1"}.get(
        plan.chunk, f"min(frames - done, cap - {plan.lead})" if plan.lead else "min(frames - done, cap)"
    )
    if plan.clocks:
        clocks = [plan.clocks.index(p.clock) if p.per_row and p.clock in plan.clocks else 0 for p in inputs]
        clocks += [0] * more + [plan.clocks.index(p.clock) if p.per_row else 0 for p in outputs]
        done = [f"(after_{k}(now, end) - after_{k}(start, end))" for k in clocks]
        time = "now, now + rows, end"
        lines += ["    now = start"]
    else:
        done, time = ["done"] * len(sizes), "rows"
    ahead = [f"{n} + {d} * {size}" if size else n for n, d, size in zip([*xs, *ys], done, sizes, strict=True)]
    lines += [
        "    done = 0",
        "    while done < frames:",
        f"        rows = {rows}",
        f"        step({', '.join([*memory, time, *ahead])})",
        "        done += rows",
        *(["        now += rows"] if plan.clocks else []),
        *([f"    put({counter(plan)}, 0, now)"] if plan.clocks else []),
    ]
    return lines


def _call(plan: Plan, inputs: list[Port], outputs: list[Port], many: bool, release: bool) -> list[str]:
    at = LAYOUT
    ports = len(inputs) + len(outputs)
    late = {j: plan.clocks.index(p.clock) for j, p in enumerate(outputs) if p.per_row and p.clock != FRAMES}
    made = [f"made_{j}" if j in late else "frames" if p.per_row else "1" for j, p in enumerate(outputs)]
    slot = {name: f"get(c, {index})" for index, name in enumerate(CONTEXT)}
    what = "Frames [T, *frame]" if many else "One frame"
    lines = [
        f"def {'call_many' if many else 'call'}(this, arguments, count):",
        f'    """{what} from NumPy arrays of exactly the right type and shape; declines all others, unchanged."""',
        f"    c = i64(get(i64(this + {at.data}), 0))",
        "    o = i64(arguments)",
        f"    good = count == {ports}" + (f" and {slot['end']} < 0" if plan.program.waits else ""),
        f"    frames = {-1 if many else 1}",
    ]
    counting = [f"    start = get({counter(plan).replace('s +', 'get(c, 1) +')}, 0)"] if late else []
    counting += [f"    made_{j} = after_{k}(start + frames, -1) - after_{k}(start, -1)" for j, k in late.items()]
    for i, port in enumerate([*inputs, *outputs]):
        flags = ARRAY_FLAGS_IN if i < len(inputs) else ARRAY_FLAGS_OUT
        lead = 1 if port.per_row and (many or port.clock.most(1) > 1) else 0
        if i == len(inputs):
            lines += counting
        tests = [
            f"get(i64(p), 1) == {slot['array_type']}",
            f"get(i64(p + {at.descr}), 0) == get(c, {PORTS + ports + i})",
            f"get(i32(p + {at.ndim}), 0) == {len(port.frame) + lead}",
            f"(get(i32(p + {at.flags}), 0) & {flags}) == {flags}",
        ]
        lines += ["    if good:", f"        p = get(o, {i})", f"        good = {' and '.join(tests)}"]
        shape = [f"get(d, {axis + lead}) == {size}" for axis, size in enumerate(port.frame)]
        if shape or lead:
            lines += ["        if good:", f"            d = i64(get(i64(p + {at.dimensions}), 0))"]
        if lead and i < len(inputs):
            lines += ["            if frames < 0:", "                frames = get(d, 0)"]
            shape.append("get(d, 0) == frames")
        elif lead:
            shape.append(f"get(d, 0) {'==' if many else '>='} {made[i - len(inputs)]}")
        if shape:
            lines.append(f"            good = {' and '.join(shape)}")
        lines.append(f"        put(c, {PORTS + i}, get(i64(p + {at.data}), 0))")
    for i, x in enumerate(inputs):
        for j, y in enumerate(outputs):
            a, b = f"get(c, {PORTS + i})", f"get(c, {PORTS + len(inputs) + j})"
            x_size = f"{row_bytes(x)} * frames" if x.per_row else str(row_bytes(x))
            y_size = f"{row_bytes(y)} * {made[j]}"
            lines += [f"    if good and {a} < {b} + {y_size} and {b} < {a} + {x_size}:", "        good = False"]
    lines += [
        "    if good and frames > 0:",
        *([f"        thread = invoke({slot['save_thread']}, 0)"] if release else []),
        f"        good = run(get(i64(this + {at.data}), 0), frames) == 0",
        *([f"        invoke({slot['restore_thread']}, thread)"] if release else []),
        "    else:",
        "        good = False",
        f"    answer = {slot['accepted']} if good else {slot['declined']}",
        *(_varied(late, ports, slot["varied"]) if late and not many else []),
        f"    put(i64(answer), 0, get(i64(answer), 0) + {slot['count_references']})",
        "    return answer",
        "",
        "",
    ]
    return lines


def _varied(late: Iterable[int], ports: int, answer: str) -> list[str]:
    """Lines that write the rows of each output into the context, and set `answer` unless each has one row."""
    rows = [f"        put(c, {PORTS + 2 * ports + j}, made_{j})" for j in late]
    other = " or ".join(f"made_{j} != 1" for j in late)
    return ["    if good:", *rows, f"    if good and ({other}):", f"        answer = {answer}"]
