"""From a plan to the source of one launch on a GPU: each warp takes streams in turn, where there is a tick a tile of them.

The parameters are an int64 array in the order of `PARAMETERS`, then the addresses of inputs and outputs, each
[frames, streams, *frame], what belongs to a call [streams, *shape]. Arenas belong to warps, not to streams.
"""

from __future__ import annotations

from tinyrnn.compile.codegen import Source, counter, page_text, passes, program, row_bytes
from tinyrnn.compile.plan import Plan
from tinyrnn.compile.pool_page import tick

PARAMETERS = ("weights", "states", "arenas", "capacity", "which", "each", "lengths", "streams", "across")
"""as `POOL_CONTEXT`, with an arena for each warp; capacity: streams of a tile; lengths: frames of each stream, descending"""
ENTRY = "tick"
NAMES = ("w", "states", "arenas", "cap", "which", "each", "lengths", "count", "across")
"""of the parameters in the page"""


def tiled_page(single: Plan, plan: Plan) -> Source:
    """The source for the plan of a tick, of a model whose plan for one stream is `single`."""
    page, memory, xs, ys = program(plan)
    ports = (*plan.program.visible_inputs, *plan.program.visible_outputs)
    timed = [p.per_row for p in (*single.program.visible_inputs, *single.program.visible_outputs)]
    sizes = [row_bytes(p) for p in ports]
    ahead = [
        f"{name} + {'(t * across + done)' if many else 'done'} * {size}"
        for name, many, size in zip([*xs, *ys], timed, sizes, strict=True)
    ]
    lines = [
        f"def {ENTRY}(parameters, warp, warps):",
        '    """All frames of every warps-th tile of streams, from that of this warp on."""',
        "    c = i64(parameters)",
        *(f"    {name} = get(c, {i})" for i, name in enumerate([*NAMES, *xs, *ys])),
        f"    a = arenas + warp * ({plan.arena_fixed} + {plan.arena_per_row} * cap)",
        "    done = warp * cap",
        "    while done < count:",
        "        rows = min(count - done, cap)",
        f"        for t in range(get(c, {len(NAMES) + len(sizes)})):",
        "            if lengths != 0:",
        "                while rows > 0 and get(i64(lengths), done + rows - 1) <= t:",
        "                    rows -= 1",
        "            if rows > 0:",
        f"                {tick(memory, 't', ahead)}",
        "        done += warps * cap",
        "    return 0",
        "",
        "",
    ]
    return Source(page_text(plan, [*page, *lines]), {ENTRY: 3})


def stream_page(plan: Plan) -> Source:
    """The source where each stream is gone through alone, for a plan of one stream: inputs [streams, frames, *frame]."""
    page, memory, xs, ys = program(plan)
    ports = len(xs) + len(ys)
    end = ["    end = -1"] if plan.clocks else []
    body = passes(plan, memory, xs, ys)
    start = next(i for i, line in enumerate(body) if line in ("    now = start", "    done = 0"))
    lines = [
        f"def {ENTRY}(parameters, warp, warps):",
        '    """All frames of every warps-th stream, from that of this warp on."""',
        "    c = i64(parameters)",
        *(f"    {name} = get(c, {i})" for i, name in enumerate(NAMES)),
        *(f"    at_{name} = get(c, {len(NAMES) + i})" for i, name in enumerate([*xs, *ys])),
        f"    a = arenas + warp * ({plan.arena_fixed} + {plan.arena_per_row} * cap)",
        *end,
        "    i = warp",
        "    while i < count:",
        "        frames = get(i64(lengths), i)",
        f"        s = states + get(i64(which), i) * {4 * plan.state_stride}",
        *(f"        {name} = at_{name} + i * get(c, {len(NAMES) + ports + j})" for j, name in enumerate([*xs, *ys])),
        *([f"        start = get({counter(plan)}, 0)"] if plan.clocks else []),
        *("    " + line for line in body[start:]),
        "        i += warps",
        "    return 0",
        "",
        "",
    ]
    return Source(page_text(plan, [*page, *lines]), {ENTRY: 3})
