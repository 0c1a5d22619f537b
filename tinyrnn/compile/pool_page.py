"""From the plan of a tick to source: all frames of many streams in one call.

The context is an int64 array in the order of `POOL_CONTEXT` (`tinyrnn.runtime.pool_runner`), then the addresses of inputs and
outputs, each [frames, streams, *frame], what belongs to a call [streams, *shape].

Where the streams have rows of their own number, `stream_by_stream` calls the page for one stream for each of them: its table
has what `EACH_TABLE` says, then for each input and output its address and the bytes from one stream to the next.
"""

from __future__ import annotations

from math import prod

from tinyrnn.compile.codegen import Source, page_of, page_text, program, row_bytes
from tinyrnn.compile.plan import Plan
from tinyrnn.runtime.pool_runner import EACH_TABLE


def generate_pool(single: Plan, plan: Plan) -> Source:
    """The source of a tick's plan, for a model whose plan for one stream is `single`."""
    page, memory, xs, ys = program(plan)
    inputs, outputs = plan.program.visible_inputs, plan.program.visible_outputs
    timed = [p.per_row for p in (*single.program.visible_inputs, *single.program.visible_outputs)]
    sizes = [row_bytes(p) for p in (*inputs, *outputs)]
    lines = [
        "def run(context, frames):",
        '    """All frames of all streams; 0, or 1 + the number of an input with an index out of range: nothing changed."""',
        "    c = i64(context)",
    ]
    names = ["w", "states", "a", "cap", "which", "each", "lengths", "count", "across"]
    lines += [f"    {name} = get(c, {i})" for i, name in enumerate([*names, *xs, *ys])]
    for name, low, high in plan.bounds:
        port, many = inputs[int(name[1:])], timed[int(name[1:])]
        word = "i64" if port.dtype.itemsize == 8 else "i32"
        elements = prod(port.frame)
        lines += [
            f"    p = {word}({name})",
            f"    for t in range({'frames' if many else 1}):",
            "        for i in range(count):",
            "            if lengths == 0 or get(i64(lengths), i) > t:",
            f"                for j in range({elements}):",
            f"                    index = get(p, (t * across + i) * {elements} + j)",
            f"                    if index < {low} or index > {high}:",
            f"                        return {1 + int(name[1:])}",
        ]
    ahead = [
        f"{name} + {'(t * across + done)' if many else 'done'} * {size}"
        for name, many, size in zip([*xs, *ys], timed, sizes, strict=True)
    ]
    lines += [
        "    done = 0",
        "    while done < count:",
        "        rows = min(count - done, cap)",
        "        ended = done + rows",
        "        for t in range(frames):",
        "            if lengths != 0:",
        "                while rows > 0 and get(i64(lengths), done + rows - 1) <= t:",
        "                    rows -= 1",
        "            if rows > 0:",
        f"                {tick(memory, 't', ahead)}",
        "        done = ended",
        "    return 0",
        "",
        "",
    ]
    return Source(page_text(plan, [*page, *lines]), {"run": 2})


def tick(memory: list[str], frame: str, ahead: list[str]) -> str:
    """The line that runs a frame of `rows` streams, from that in place `done` of the call on.

    memory: names of the memories as `program` gives them; ahead: the addresses of inputs and outputs
    """
    return f"step({', '.join([*memory[:4], 'which + 8 * done', 'each', frame, 'rows', *ahead])})"


def stream_by_stream() -> Source:
    """The source of a loop over streams, the same for all models."""
    at = {name: f"get(e, {place})" for place, name in enumerate(EACH_TABLE)}
    ports = len(EACH_TABLE)
    lines = [
        "def run(table, ports):",
        '    """All frames of one stream after the other; what the page for one stream answers first, if it is not 0."""',
        "    e = i64(table)",
        f"    c = i64({at['context']})",
        f"    for i in range({at['streams']}):",
        f"        frames = get(i64({at['lengths']}), i)",
        "        if frames > 0:",
        f"            put(c, 1, {at['states']} + get(i64({at['which']}), i) * {at['stride']})",
        "            for p in range(ports):",
        f"                put(c, {at['first']} + p, get(e, {ports} + 2 * p) + i * get(e, {ports + 1} + 2 * p))",
        f"            status = invoke2({at['run']}, {at['context']}, frames)",
        "            if status != 0:",
        "                return status",
        "    return 0",
    ]
    return Source(page_of("# Streams, one after the other.", lines), {"run": 2})
