"""The functions of a page by which the threads of a crew share calls. The places in a crew's block: `tinyrnn.runtime.crew`."""

from __future__ import annotations

from tinyrnn.runtime.crew import (
    ASLEEP,
    CLAIMED,
    DONE,
    JOB,
    LOCK,
    MOST_OPERANDS,
    MOST_TURNS,
    NUMBER,
    OPERANDS,
    PARTS,
    QUIT,
    SLEEP,
    SPAN,
    THREADS,
    TURN,
    TURNS,
    WAKE,
    WORKERS,
    YIELD,
)

PATIENCE = 1 << 6
"""waits for a worker after which the caller does its part if it has not begun"""
STUBBORN = 1 << 12
"""waits for a worker that has begun after which others may run instead"""
WATCH = 1 << 11
"""waits for a job after which a worker sleeps"""

_WORKER = f"crew + {8 * WORKERS} + {8 * SPAN} * (part - 1)"


def crew_functions(calls: list[tuple[str, int, int]]) -> list[str]:
    """Lines of the page. calls: kernel, number of its operands, pieces, of each shared call."""
    lines: list[str] = []
    for number, (_, count, _) in enumerate(calls):
        assert count <= MOST_OPERANDS
        operands = [f"o{i}" for i in range(count)]
        turn = TURNS + number % MOST_TURNS
        lines += [
            f"def share_{number}({', '.join(['crew', *operands])}):",
            "    c = i64(crew)",
            f"    put(c, {JOB}, {number})",
            f"    put(c, {PARTS}, get(c, {THREADS}))",
            f"    put(c, {TURN}, get(c, {turn}))",
            f"    put(c, {turn}, get(c, {turn}) + 1)",
            *(f"    put(c, {OPERANDS + i}, {name})" for i, name in enumerate(operands)),
            "    together(crew)",
            "",
            "",
        ]
    lines += [
        "def together(crew):",
        '    """Do the job in the block, with the workers."""',
        "    c = i64(crew)",
        f"    parts = get(c, {PARTS})",
        f"    job = get(c, {NUMBER}) + 1",
        f"    atomic_store(c, {NUMBER}, job)",
        "    for part in range(1, parts):",
        f"        wake(crew, {_WORKER})",
        "    do(crew, 0)",
        "    for part in range(1, parts):",
        f"        finish(crew, {_WORKER}, part, job)",
        "",
        "",
        "def wake(crew, worker):",
        "    w = i64(worker)",
        f"    if atomic_load(w, {ASLEEP}) == 1:",
        f"        if compare_exchange(w, {ASLEEP}, 1, 0):",
        f"            invoke(get(i64(crew), {WAKE}), get(w, {LOCK}))",
        "",
        "",
        "def finish(crew, worker, part, job):",
        '    """Wait until a part is done; do it if its worker has not claimed it."""',
        "    w = i64(worker)",
        "    waits = 0",
        f"    while atomic_load(w, {DONE}) != job:",
        "        waits += 1",
        "        pause()",
        f"        if waits == {PATIENCE}:",
        f"            if compare_exchange(w, {CLAIMED}, job - 1, job):",
        "                do(crew, part)",
        "                return 0",
        f"        if waits > {STUBBORN}:",
        f"            invoke(get(i64(crew), {YIELD}), 0)",
        "    return 0",
        "",
        "",
        "def do(crew, part):",
        '    """A part of the job in the block."""',
        "    c = i64(crew)",
        f"    which = get(c, {JOB})",
        f"    parts = get(c, {PARTS})",
        f"    turn = get(c, {TURN})",
    ]
    for number, (kernel, count, pieces) in enumerate(calls):
        operands = [f"get(c, {OPERANDS + i})" for i in range(count)]
        some = [f"part * {pieces} // parts", f"(part + 1) * {pieces} // parts", "turn"]
        lines += [f"    if which == {number}:", f"        {kernel}({', '.join([*operands, *some])})"]
    return [
        *lines,
        "",
        "",
        "def serve(crew, part):",
        '    """The life of a worker."""',
        "    c = i64(crew)",
        f"    w = i64({_WORKER})",
        f"    seen = atomic_load(c, {NUMBER})",
        "    waits = 0",
        f"    while atomic_load(c, {QUIT}) == 0:",
        f"        job = atomic_load(c, {NUMBER})",
        "        if job != seen:",
        "            seen = job",
        "            waits = 0",
        f"            if compare_exchange(w, {CLAIMED}, job - 1, job):",
        "                do(crew, part)",
        f"                atomic_store(w, {DONE}, job)",
        "        else:",
        "            waits += 1",
        "            pause()",
        f"            if waits > {WATCH}:",
        "                waits = 0",
        f"                atomic_store(w, {ASLEEP}, 1)",
        "                asleep = 1",
        f"                if atomic_load(c, {NUMBER}) != seen or atomic_load(c, {QUIT}) == 1:",
        f"                    if compare_exchange(w, {ASLEEP}, 1, 0):",
        "                        asleep = 0",
        "                if asleep == 1:",
        f"                    invoke2(get(c, {SLEEP}), get(w, {LOCK}), 1)",
        "    return 0",
        "",
        "",
        "def dismiss(crew):",
        '    """End the workers; what follows is done by the caller alone."""',
        "    c = i64(crew)",
        f"    parts = get(c, {THREADS})",
        f"    put(c, {THREADS}, 1)",
        f"    atomic_store(c, {QUIT}, 1)",
        "    for part in range(1, parts):",
        f"        wake(crew, {_WORKER})",
        "    return 0",
        "",
        "",
    ]
