"""The page of a native object: the source of its functions `run`, `reset` and `flush`.

They take every address as an argument; `interface.py` wraps them in the C interface.
"""

from __future__ import annotations

from tinyrnn.compile.codegen import counter, page_text, passes, program
from tinyrnn.compile.plan import Plan
from tinyrnn.native.interface import ENDED, Interface


def native_page(plan: Plan, face: Interface) -> tuple[str, dict[str, int]]:
    """(page, functions with their numbers of arguments).

    run(w, s, a, end, frames, inputs, outputs[, counts]) → a status; counts takes the rows made of each output where
    the plan counts them. reset(s, initial). flush(w, s, a, inputs, outputs, counts).
    """
    page, memory, xs, ys = program(plan)
    counts = ["counts"] if face.counted else []
    arguments = [*memory[:-1], "end", "frames", *xs, *ys, *counts]
    page += [f"def run({', '.join(arguments)}):", f"    cap = {face.rows + plan.lead}"]
    if plan.clocks:
        page += [f"    start = get({counter(plan)}, 0)", "    if start < 0:", f"        return {ENDED}"]
    lines = passes(plan, memory, xs, ys)
    one_row = "        rows = min(frames - done, cap)"
    page += ["        rows = 1" if line == one_row and face.rows == 1 else line for line in lines]
    word = f"i{face.bits}"
    for index, port in enumerate(plan.program.visible_outputs if face.counted else ()):
        k = plan.clocks.index(port.clock) if port.per_row and port.clock in plan.clocks else 0
        made = f"after_{k}(now, end) - after_{k}(start, end)" if port.per_row else "1"
        page += [f"    put({word}(counts), {index}, {made})"]
    page += ["    return 0", "", ""]
    functions = {"run": len(arguments), "reset": 2}
    zeros = not plan.initial_state().any()
    page += [
        "def reset(s, initial):",
        f"    for i in range({plan.state_size}):",
        f"        put(i32(s), i, {'0' if zeros else 'get(i32(initial), i)'})",
        "    return 0",
        "",
        "",
    ]
    if face.waits:
        page += _flush(plan, [*memory[:-1], *xs, *ys, *counts])
        functions["flush"] = len(arguments) - 2
    return page_text(plan, page), functions


def _flush(plan: Plan, arguments: list[str]) -> list[str]:
    """Lines of `flush`: the waiting rows, as if the sequence ended here; then the count of frames is negative."""
    numbers = [plan.clocks.index(clock) for clock in plan.program.waits]
    missing = " or ".join(
        f"after_{k}(late, start) < max({plan.clocks[k].text(False, 'start')}, 0)" for k in dict.fromkeys(numbers)
    )
    return [
        f"def flush({', '.join(arguments)}):",
        f"    start = get({counter(plan)}, 0)",
        "    late = start",
        f"    while start > 0 and ({missing}):",
        "        late += 1",
        f"    status = run({', '.join([*arguments[:3], 'start', 'late - start', *arguments[3:]])})",
        f"    if status == 0:\n        put({counter(plan)}, 0, -1)",
        "    return status",
        "",
        "",
    ]
