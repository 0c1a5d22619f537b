"""Many streams in one call from C: the page of a tick, and the LLVM text of `pool_init`, `pool_reset` and `pool_step`.

They are an object of their own, which takes the weights and `reset` from the object for one stream.
"""

from __future__ import annotations

from math import prod

from tinyrnn.compile.codegen import page_text, program, row_bytes
from tinyrnn.compile.plan import Plan
from tinyrnn.compile.pool_page import tick
from tinyrnn.compile.stream_planner import make_stream_plan
from tinyrnn.errors import TargetError, UnsupportedError
from tinyrnn.native.interface import BAD_MEMORY, BAD_SLOT, TOO_MANY, Argument, Interface, PoolInterface
from tinyrnn.runtime.memory import ALIGNMENT
from tinyrnn.targets.target_table import Target

POINTERS = 3
"""of a pool: states, arena, weights, as in a stream; the number of slots follows"""


def tick_of(name: str, plan: Plan, target: Target, alignment: int, streams: int) -> Plan:
    """The plan of many streams, which shares the weights of the plan for one.

    Raises `TargetError` and `UnsupportedError` where no pools of so many streams a call can be built.
    """
    if streams < 1:
        raise TargetError(f"streams {streams}: a call of a pool takes at least one stream, --streams 64 for instance")
    if plan.program.refuses_stream:
        raise UnsupportedError(
            f"{name}: cannot stream ({plan.program.refuses_stream}), so that it has no pools. Build it without --streams, with "
            f"the frames of its longest sequence, --rows 100"
        )
    machine = target.machine
    found = make_stream_plan(plan, machine.lanes, machine.registers, target.cache // 2, alignment)
    if found is None:
        raise UnsupportedError(
            f"{name}: looks ahead or has strides over time: each stream makes rows of its own number, which no call for many "
            f"streams takes. Build it without --streams; streams, each with its own state, may share an arena"
        )
    return found


def pool_interface(plan: Plan, streams: int) -> PoolInterface:
    """plan: of a tick; streams: most of one call."""
    at_once = min(streams, plan.chunk)
    return PoolInterface(streams, at_once, max(plan.state_stride, ALIGNMENT // 4), _arena(plan, streams, at_once))


def _arena(plan: Plan, streams: int, at_once: int) -> int:
    """Bytes: the numbers of the rows, then the values of a pass, where at first the slots are sorted out."""
    return _values_at(streams) + max(plan.arena_bytes(at_once), 8 * _places(streams))


def _values_at(streams: int) -> int:
    return -(-8 * streams // ALIGNMENT) * ALIGNMENT


def _places(streams: int) -> int:
    """Places of a hash table of slots: a power of two, at least twice as many."""
    return 1 << (2 * streams - 1).bit_length()


def pool_page(plan: Plan, pool: PoolInterface) -> tuple[str, dict[str, int]]:
    """(page, functions with their numbers of arguments) for the plan of a tick.

    tick(w, states, arena, slots, which, count, inputs, outputs) → a status
    """
    page, memory, xs, ys = program(plan)
    inputs, outputs = plan.program.visible_inputs, plan.program.visible_outputs
    arguments = ["w", "states", "arena", "slots", "which", "count", *xs, *ys]
    places = _places(pool.streams)
    page += [
        "def different(which, count, slots, table):",
        '    """1 where `which` holds different slots of the pool, otherwise 0."""',
        "    rising = 1",
        "    before = get(i64(which), 0)",
        "    for i in range(count):",
        "        slot = get(i64(which), i)",
        "        if slot < 0 or slot >= slots:",
        "            return 0",
        "        if i > 0 and slot <= before:",
        "            rising = 0",
        "        before = slot",
        "    if rising == 1:",
        "        return 1",
        f"    for i in range({places}):",
        "        put(i64(table), i, -1)",
        "    for i in range(count):",
        "        slot = get(i64(which), i)",
        f"        place = slot & {places - 1}",
        "        while get(i64(table), place) >= 0:",
        "            if get(i64(table), place) == slot:",
        "                return 0",
        f"            place = (place + 1) & {places - 1}",
        "        put(i64(table), place, slot)",
        "    return 1",
        "",
        "",
        f"def tick({', '.join(arguments)}):",
        f"    if count < 0 or count > {pool.streams}:",
        f"        return {TOO_MANY}",
        "    if count == 0:",
        "        return 0",
        "    each = arena",
        f"    a = arena + {_values_at(pool.streams)}",
        f"    cap = {pool.at_once}",
        "    for i in range(count):",
        "        put(i64(each), i, i)",
        "    if which == 0:",
        "        if count > slots:",
        f"            return {BAD_SLOT}",
        "        which = each",
        "    elif different(which, count, slots, a) == 0:",
        f"        return {BAD_SLOT}",
    ]
    for name, low, high in plan.bounds:
        port = inputs[int(name[1:])]
        page += [
            f"    p = {'i64' if port.dtype.itemsize == 8 else 'i32'}({name})",
            f"    for i in range(count * {prod(port.frame)}):",
            f"        if get(p, i) < {low} or get(p, i) > {high}:",
            f"            return {1 + int(name[1:])}",
        ]
    ahead = [f"{name} + done * {row_bytes(port)}" for name, port in zip([*xs, *ys], (*inputs, *outputs), strict=True)]
    page += [
        "    done = 0",
        "    while done < count:",
        "        rows = min(count - done, cap)",
        f"        {tick(memory, '0', ahead)}",
        "        done += rows",
        "    return 0",
        "",
        "",
    ]
    return page_text(plan, page), {"tick": len(arguments)}


def around(face: Interface, pool: PoolInterface) -> str:
    """LLVM text of the exported functions of a pool. Names of its own begin with a dot, which no argument's does."""
    word, name, step = f"i{face.bits}", face.name, face.bits // 8
    stored = not face.weights_header
    file = [] if stored else ["ptr %.file", f"{word} %.bytes"]
    ports: list[Argument] = [*face.inputs, *face.outputs]
    slots = [
        f"  %.at = getelementptr i8, ptr %.pool, i32 {POINTERS * step}",
        f"  %.slots = load {word}, ptr %.at",
    ]
    lines = [
        *([f"@{name}_weights = external constant [{face.weights_bytes} x i8]"] if stored and face.weights_bytes else []),
        f"declare {word} @tick({', '.join([word] * (6 + len(ports)))})",
        f"declare void @{name}_reset(ptr)",
        f"declare i32 @{name}_init({', '.join(['ptr'] * 3 + ['ptr', word] * (not stored))})",
        f"define i32 @{name}_pool_init({', '.join(['ptr %.pool', 'ptr %.states', f'{word} %.slots', 'ptr %.arena', *file])}) {{",
        f"start:\n  %.none = icmp eq {word} %.slots, 0",
        f"  br i1 %.none, label %memory, label %given\nmemory:\n  ret i32 {BAD_MEMORY}\ngiven:",
        f"  %.status = call i32 @{name}_init({', '.join(['ptr %.pool', 'ptr %.states', 'ptr %.arena', *file])})",
        "  %.good = icmp eq i32 %.status, 0\n  br i1 %.good, label %fill, label %bad",
        "bad:\n  ret i32 %.status",
        f"fill:\n  %.at = getelementptr i8, ptr %.pool, i32 {POINTERS * step}",
        f"  store {word} %.slots, ptr %.at\n  br label %loop",
        f"loop:\n  %.i = phi {word} [ 0, %fill ], [ %.j, %loop ]",
        f"  %.done = call i32 @{name}_pool_reset(ptr %.pool, {word} %.i)",
        f"  %.j = add {word} %.i, 1\n  %.more = icmp ult {word} %.j, %.slots",
        "  br i1 %.more, label %loop, label %end\nend:\n  ret i32 0\n}",
        f"define i32 @{name}_pool_reset(ptr %.pool, {word} %.slot) {{",
        "start:\n  %.stream = alloca ptr",
        *slots,
        f"  %.in = icmp ult {word} %.slot, %.slots",
        f"  br i1 %.in, label %good, label %bad\nbad:\n  ret i32 {BAD_SLOT}\ngood:",
        f"  %.states = load ptr, ptr %.pool\n  %.offset = mul {word} %.slot, {4 * pool.stride}",
        f"  %.state = getelementptr i8, ptr %.states, {word} %.offset",
        f"  store ptr %.state, ptr %.stream\n  call void @{name}_reset(ptr %.stream)\n  ret i32 0\n}}",
    ]
    arguments = ["ptr %.pool", "ptr %.which", f"{word} %.count", *(f"ptr %{a.name}" for a in ports)]
    lines += [f"define i32 @{name}_pool_step({', '.join(arguments)}) {{", *slots]
    for index, memory in enumerate(["states", "arena"] + ([] if stored else ["weights"])):
        lines += [
            f"  %.at_{memory} = getelementptr i8, ptr %.pool, i32 {index * step}",
            f"  %.{memory} = load {word}, ptr %.at_{memory}",
        ]
    lines += [f"  %.p_which = ptrtoint ptr %.which to {word}"]
    lines += [f"  %.p_{a.name} = ptrtoint ptr %{a.name} to {word}" for a in ports]
    address = f"ptrtoint (ptr @{name}_weights to {word})" if face.weights_bytes else "0"
    values = [address if stored else "%.weights", *(f"%.{n}" for n in ("states", "arena", "slots", "p_which", "count"))]
    values += [f"%.p_{a.name}" for a in ports]
    lines.append(f"  %.status = call {word} @tick({', '.join(f'{word} {value}' for value in values)})")
    if face.bits == 32:
        lines.append("  ret i32 %.status\n}")
    else:
        lines.append(f"  %.short = trunc {word} %.status to i32\n  ret i32 %.short\n}}")
    return "\n".join(lines) + "\n"
