"""Threads of a launch: their registers, memory and barriers, and the order in which they run.

Every register is an array over all threads of the grid. Threads have program counters of their own; which of them run next
is the schedule's choice: by default those that are furthest behind. With a random generator, to find barriers that are missing,
it draws for each launch whether any group of threads of one warp that stand at one place goes on, or one lane is always ahead
of the others as far as barriers let it, or always behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import Array
from tinyrnn.targets.emulator.arithmetic import binary, comparison, conversion, four_products, fused, is_floating, unary
from tinyrnn.targets.emulator.ptx_text import KINDS, Entry, Instruction

WARP = 32
STRAIGHT = 64
"""instructions after which a group of threads that is not all of them lets others go on"""
WAYS = ("mixed", "ahead", "behind")
LOW = 4
"""lanes that can be ahead or behind"""
LEAVES, SPLITS = 0.2, 0.3
"""how often a random schedule leaves a group of threads, and divides it"""


class Fault(Exception):
    """What a GPU would not do, or would do wrong."""


def launch(
    entry: Entry,
    memory: Array,
    base: int,
    arguments: Sequence[int],
    blocks: int,
    warps: int,
    schedule: np.random.Generator | None = None,
    shared: int = 0,
) -> int:
    """Run a kernel; returns the number of instructions, each counted once for a group of threads that execute it together.

    memory: the bytes of the device, the first of which has the address `base`; an address outside is a `Fault`
    shared: bytes of each block's own memory that are not declared
    """
    return _Grid(entry, memory, base, arguments, blocks, warps, schedule, shared).run()


class _Grid:
    def __init__(
        self,
        entry: Entry,
        memory: Array,
        base: int,
        arguments: Sequence[int],
        blocks: int,
        warps: int,
        schedule: np.random.Generator | None,
        shared: int,
    ) -> None:
        self.entry, self.memory, self.base, self.schedule = entry, memory, base, schedule
        threads = WARP * warps
        self.count = blocks * threads
        self.shared_size = max(entry.shared_size + shared, 8)
        self.shared = np.full(self.shared_size * blocks, 0xFF, np.uint8)
        self.registers = {name: np.zeros(self.count, kind) for name, kind in entry.registers.items()}
        number = np.arange(self.count)
        self.block, inside = number // threads, number % threads
        self.warp = number // WARP
        self.special = {
            "%tid.x": inside % WARP,
            "%tid.y": inside // WARP,
            "%ctaid.x": self.block,
            "%laneid": inside % WARP,
            "%ntid.x": np.full(self.count, WARP),
            "%ntid.y": np.full(self.count, warps),
            "%nctaid.x": np.full(self.count, blocks),
        }
        self.arguments = dict(zip(entry.parameters, arguments, strict=True))
        self.executed = 0
        self.way = "together" if schedule is None else str(schedule.choice(WAYS))
        self.odd = np.zeros(self.count, np.bool_) if schedule is None else number % WARP == schedule.integers(LOW)
        """the threads of the lane that is ahead or behind, one of the first, which surely have something to do"""
        self.code = [self._compiled(instruction) for instruction in entry.code]
        self.guards = [None if i.guard is None else (self.registers[i.guard[0]], i.guard[1]) for i in entry.code]

    # --- values -------------------------------------------------------------------------------------------------------

    def _reader(self, text: str, kind: Any) -> Callable[[Any], Array]:
        """A function of the threads' numbers for an operand of a type."""
        dtype = np.dtype(kind)
        if text in self.registers:
            array = self.registers[text]
            if dtype != np.bool_ and array.dtype != dtype:
                if array.dtype.itemsize == dtype.itemsize:
                    array = array.view(dtype)
                else:
                    wide = array.view(np.dtype(f"u{array.dtype.itemsize}"))
                    return lambda at: wide[at].astype(np.dtype(f"u{dtype.itemsize}")).view(dtype)
            return lambda at: array[at]
        if text in self.special:
            same = self.special[text].astype(dtype)
            return lambda at: same[at]
        full = np.full(self.count, self._constant(text, dtype), dtype)
        return lambda at: full[at]

    def _constant(self, text: str, dtype: np.dtype[Any]) -> Any:
        if text in self.entry.shared:
            return dtype.type(self.entry.shared[text])
        for mark, bits, floating in (("0f", np.uint32, np.float32), ("0d", np.uint64, np.float64)):
            if text.startswith(mark):
                number = np.array(int(text[2:], 16), bits)
                return number.view(dtype if dtype.itemsize == number.itemsize else floating)[()]
        if dtype == np.bool_:
            return bool(int(text, 0))
        return np.array(int(text, 0) & ((1 << 8 * dtype.itemsize) - 1), np.dtype(f"u{dtype.itemsize}")).view(dtype)[()]

    def _writer(self, text: str) -> Callable[[Any, Array], None]:
        array = self.registers[text]

        def write(at: Any, value: Array) -> None:
            if value.dtype == array.dtype:
                array[at] = value
            elif value.dtype.itemsize == array.dtype.itemsize:
                array[at] = value.view(array.dtype)
            else:  # a narrow result in a wider register
                sign = "i" if value.dtype.kind == "i" else "u"
                array[at] = value.astype(np.dtype(f"{sign}{array.dtype.itemsize}")).view(array.dtype)

        return write

    # --- instructions -------------------------------------------------------------------------------------------------

    def _compiled(self, given: Instruction) -> tuple[str, Callable[[Any], Any]]:
        """(what it does to the order of instructions, function of the threads that execute it)."""
        (name, *_), parts, o = given.parts, given.parts, given.operands
        if name == "bra":
            to = self.entry.labels[o[-1]]
            return "jump", lambda at: to
        if name in ("ret", "exit"):
            return "end", lambda at: None
        if name in ("bar", "barrier"):
            return ("warp" if parts[1] == "warp" else "block"), lambda at: None
        if parts[:3] == ("shfl", "sync", "bfly"):
            write, value, step = self._writer(o[0].partition("|")[0]), self._reader(o[1], np.uint32), int(o[2])
            return "warp", lambda at: write(at, value(np.arange(self.count)[at] ^ step))
        made = self._memory(given) if name in ("ld", "st") else self._arithmetic(given)
        if made is None:
            raise Fault(f"not emulated: {given.text}")
        return "step", made

    def _arithmetic(self, given: Instruction) -> Callable[[Any], None] | None:
        name, parts, o = given.parts[0], given.parts, given.operands
        if {"approx", "ftz", "full"} & set(parts):
            raise Fault(f"not exact: {given.text}")
        kind = KINDS.get(parts[-1])
        if is_floating(kind) and name in ("add", "sub", "mul", "div", "fma", "sqrt", "rcp") and "rn" not in parts:
            raise Fault(f"not rounded to nearest: {given.text}")
        read, result = self._reader, self._writer(o[0]) if o and o[0] in self.registers else None
        if result is None or (o[1].startswith("{") if len(o) > 1 else False):
            return None
        if name == "cvt":
            source = parts[-1]
            a, convert = read(o[1], KINDS[source]), conversion(parts[-2], source, parts, KINDS)
            return lambda at: result(at, convert(a(at)))
        if name == "setp":
            test, a, b = comparison(parts[1], kind), read(o[1], kind), read(o[2], kind)
            return lambda at: result(at, test(a(at), b(at)))
        if name == "selp":
            a, b, p = read(o[1], kind), read(o[2], kind), read(o[3], np.bool_)
            return lambda at: result(at, np.where(p(at), a(at), b(at)))
        if name == "fma":
            apply, a, b, c = fused(kind), read(o[1], kind), read(o[2], kind), read(o[3], kind)
            return lambda at: result(at, apply(a(at), b(at), c(at)))
        if name == "dp4a":
            a, b, c = (read(o[i], kind) for i, kind in ((1, np.uint32), (2, np.uint32), (3, np.int32)))
            return lambda at: result(at, c(at) + four_products(a(at), b(at)))
        if name == "copysign":  # the sign of the first on the magnitude of the second
            a, b = read(o[1], kind), read(o[2], kind)
            return lambda at: result(at, np.copysign(b(at), a(at)))
        if name in ("mad", "mul") and "wide" in parts:
            assert kind is not None
            wide = np.dtype(f"{np.dtype(kind).kind}{2 * np.dtype(kind).itemsize}").type
            a, b, c = read(o[1], kind), read(o[2], kind), read(o[3] if name == "mad" else "0", wide)
            return lambda at: result(at, a(at).astype(wide) * b(at).astype(wide) + c(at))
        if name == "mad":
            a, b, c = read(o[1], kind), read(o[2], kind), read(o[3], kind)
            return lambda at: result(at, a(at) * b(at) + c(at))
        if name == "bfe":
            a, b, c = read(o[1], kind), read(o[2], kind), read(o[3], kind)
            one = np.dtype(kind).type(1)
            return lambda at: result(at, (a(at) >> b(at)) & ((one << c(at)) - one))
        one_of, two_of = unary(name, kind), binary(name, kind, parts)
        if one_of is not None:
            a = read(o[1], kind)
            return lambda at: result(at, one_of(a(at)))
        if two_of is not None:
            a, b = read(o[1], kind), read(o[2], np.uint32 if name in ("shl", "shr") else kind)
            return lambda at: result(at, two_of(a(at), b(at)))
        return None

    def _memory(self, given: Instruction) -> Callable[[Any], None]:
        parts, (first, second) = given.parts, given.operands
        loads = parts[0] == "ld"
        kind = np.dtype(KINDS[parts[-1]])
        if "param" in parts:
            write, value = self._writer(first), np.uint64(self.arguments[second[1:-1].split("+")[0]])
            return lambda at: write(at, np.full(self.count, value)[at])
        if "local" in parts:
            raise Fault(f"registers are spilled: {given.text}")
        registers, place = (first, second) if loads else (second, first)
        names = [n.strip() for n in registers[1:-1].split(",")] if registers.startswith("{") else [registers]
        index = self._index(place, kind, len(names), given)
        view = (self.shared if "shared" in parts else self.memory).view(kind)
        if loads:
            writers = [self._writer(name) for name in names]

            def load(at: Any) -> None:
                i = index(at)
                for j, write in enumerate(writers):
                    write(at, view[i + j])

            return load
        readers = [self._reader(name, kind) for name in names]

        def store(at: Any) -> None:
            i = index(at)
            for j, read in enumerate(readers):
                view[i + j] = read(at)

        return store

    def _index(self, place: str, kind: np.dtype[Any], count: int, given: Instruction) -> Callable[[Any], Array]:
        """The element at an address, for each thread. Raises `Fault` for one that is outside memory or not aligned."""
        name, _, offset = place[1:-1].partition("+")
        address, plus, wide = self._reader(name.strip(), np.int64), int(offset or 0), kind.itemsize * count
        shared = "shared" in given.parts
        start = self.block * self.shared_size if shared else np.zeros(self.count, np.int64) - self.base
        limit = self.shared_size if shared else len(self.memory)

        def index(at: Any) -> Array:
            given_at = address(at) + plus
            inside = given_at if shared else given_at - self.base
            outside = (inside < 0) | (inside + wide > limit)
            if outside.any():
                raise Fault(f"address {int(given_at[np.argmax(outside)]):#x} is outside memory: {given.text}")
            if (inside % wide).any():
                raise Fault(f"not aligned: {given.text}")
            return (inside + start[at] if shared else inside) // kind.itemsize

        return index

    # --- the order ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        counters = np.zeros(self.count, np.int64)
        waiting = np.zeros(self.count, np.int8)
        """1: at a barrier of the warp, 2: of the block"""
        ended = np.zeros(self.count, np.bool_)
        with np.errstate(all="ignore"):
            while not ended.all():
                ready = ~ended & (waiting == 0)
                if not ready.any():
                    if not self._release(counters, waiting, ended):
                        raise Fault("all threads wait, and none can go on")
                    continue
                self._some(self._chosen(counters, ready), counters, waiting, ended)
        return self.executed

    def _chosen(self, counters: Array, ready: Array) -> Array:
        """Threads at one place that run next."""
        if self.way == "ahead" and (ready & self.odd).any():
            ready = ready & self.odd
        elif self.way == "behind" and (ready & ~self.odd).any():
            ready = ready & ~self.odd
        if self.schedule is None or self.way != "mixed":
            made: Array = ready & (counters == counters[ready].min())
            return made
        one = int(self.schedule.choice(np.flatnonzero(ready)))
        made = ready & (counters == counters[one]) & (self.warp == self.warp[one])
        if self.schedule.random() < SPLITS:
            made &= self.schedule.random(self.count) < 0.5
            made[one] = True
        return made

    def _some(self, chosen: Array, counters: Array, waiting: Array, ended: Array) -> None:
        """Run a group straight on until it splits, waits, ends or is left."""
        at: Any = slice(None) if chosen.all() else np.flatnonzero(chosen)
        everybody = isinstance(at, slice)
        here, steps = int(counters[chosen][0]), 0
        while True:
            what, function = self.code[here]
            guard = self.guards[here]
            self.executed += 1
            steps += 1
            if what == "step":
                if guard is None:
                    function(at)
                else:
                    held = np.arange(self.count)[at][guard[0][at] == guard[1]]
                    if len(held):
                        function(held)
                here += 1
            elif what == "jump":
                to = function(at)
                taken = np.ones(1, bool) if guard is None else guard[0][at] == guard[1]
                if taken.all():
                    here = to
                elif not taken.any():
                    here += 1
                else:
                    counters[at] = np.where(taken, to, here + 1)
                    return
            elif what == "end":
                ended[at] = True
                return
            else:
                waiting[at] = 1 if what == "warp" else 2
                counters[at] = here + 1
                self._release(counters, waiting, ended)
                return
            random = self.schedule if self.way == "mixed" else None
            left = not everybody and steps > STRAIGHT if random is None else random.random() < LEAVES
            if left:
                counters[at] = here
                return

    def _release(self, counters: Array, waiting: Array, ended: Array) -> bool:
        """Let those go on whose barrier all have reached; returns whether there were any."""
        some = False
        for what, group in ((1, self.warp), (2, self.block)):
            stands = waiting == what
            if not stands.any():
                continue
            count = int(group.max()) + 1
            missing = np.bincount(group[~stands & ~ended], minlength=count)
            low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
            np.minimum.at(low, group[stands], counters[stands])
            np.maximum.at(high, group[stands], counters[stands])
            if what == 1 and ((missing == 0) & (high >= 0) & (low != high)).any():
                raise Fault("threads of a warp wait at different barriers")
            free = (missing == 0) & (high >= 0)
            going = stands & free[group]
            waiting[going] = 0
            for place in np.unique(counters[going]):  # what is exchanged at the barrier
                self.code[int(place) - 1][1](np.flatnonzero(going & (counters == place)))
            some |= bool(free.any())
        return some
