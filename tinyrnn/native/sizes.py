"""The memory of a device that a build takes, the largest contributors, and the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tinyrnn.compile.plan import Place, Plan
from tinyrnn.errors import TargetError
from tinyrnn.graph.call import Close, Open
from tinyrnn.native.interface import Interface
from tinyrnn.native.objects import contents
from tinyrnn.targets.worker import Made

SHOWN = 5
"""number of contributors that an error names"""


@dataclass(frozen=True)
class PoolSizes:
    """What many streams in one call add, in bytes."""

    streams: int
    """most of one call"""
    code: int
    constants: int
    states: int
    """of so many streams"""
    arena: int
    stack: int | None

    @property
    def ram(self) -> int:
        return self.states + self.arena

    def __str__(self) -> str:
        stack = "" if self.stack is None else f"; {self.stack:,} of stack in a call"
        return (
            f"{self.streams:,} streams a call: code {self.code:,} bytes more, RAM {self.ram:,} for so many: "
            f"states {self.states:,}, arena {self.arena:,}{stack}"
        )


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes. Flash: code, constants and weights; RAM: the memory of one stream, without the stack of a call."""

    code: int
    constants: int
    weights: int
    weights_in_object: bool
    state: int
    arena: int
    stream: int
    data: int
    stack: int | None
    pool: PoolSizes | None = None

    @property
    def flash(self) -> int:
        own = self.code + self.constants + (self.weights if self.weights_in_object else 0) + self.data
        return own + (self.pool.code + self.pool.constants if self.pool else 0)

    @property
    def ram(self) -> int:
        return self.state + self.arena + self.stream + self.data

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "constants": self.constants,
            "weights": self.weights,
            "state": self.state,
            "arena": self.arena,
            "flash": self.flash,
            "ram": self.ram,
            "stack": self.stack,
            **({"pool": {**asdict(self.pool), "ram": self.pool.ram}} if self.pool else {}),
        }


def sizes_of(made: Sequence[Made], plan: Plan, face: Interface, in_object: bool) -> Sizes:
    """The sizes of a model's objects, with its plan: that for one stream, and where there are pools theirs."""
    found, weights = contents(made[0].data), len(plan.weights)
    pool = None
    if face.pool:
        more, streams = contents(made[1].data), face.pool.streams
        states = 4 * face.pool.stride * streams
        pool = PoolSizes(streams, more.code, more.constants, states, face.pool.arena_bytes, made[1].stack)
    return Sizes(
        code=found.code,
        constants=max(found.constants - (weights if in_object else 0), 0),
        weights=weights,
        weights_in_object=in_object,
        state=4 * max(plan.state_size, 1),
        arena=face.arena_bytes,
        stream=3 * face.bits // 8,
        data=found.data + found.zeros,
        stack=made[0].stack,
        pool=pool,
    )


def check_limits(name: str, sizes: Sizes, plan: Plan, rows: int, limits: Mapping[str, int | None]) -> None:
    """Raise `TargetError` with the largest contributors if `ram` or `flash` exceeds its limit."""
    problems = []
    for kind, parts in (("flash", flash_parts(plan, sizes)), ("ram", ram_parts(plan, rows, sizes))):
        limit, needed = limits.get(kind), getattr(sizes, kind)
        if limit is not None and needed > limit:
            most = ", ".join(f"{what} {size:,}" for what, size in parts[:SHOWN])
            problems.append(f"{needed:,} bytes of {kind} are more than --max-{kind} {limit:,}. Most of it: {most}")
    limit, pool = limits.get("ram"), sizes.pool
    if pool and limit is not None and pool.ram > limit:
        problems.append(
            f"{pool.ram:,} bytes of ram for {pool.streams} streams are more than --max-ram {limit:,}: states {pool.states:,}, "
            f"arena {pool.arena:,}. Fewer streams a call, --streams {max(pool.streams // 2, 1)}, take less"
        )
    if problems:
        raise TargetError(f"{name}: " + "\n".join(problems))


def flash_parts(plan: Plan, sizes: Sizes) -> list[tuple[str, int]]:
    """The contributors to flash, the largest first: the weights by node."""
    pool = sizes.pool.code + sizes.pool.constants if sizes.pool else 0
    found = {"code": sizes.code, "constants": sizes.constants, "code of pools": pool}
    if sizes.weights_in_object:
        owners: dict[int, str] = {}
        for step in plan.steps:
            if not isinstance(step.kernel, (Open, Close)):
                for operand in step.operands:
                    if isinstance(operand, Place) and operand.memory == "weights":
                        owners.setdefault(operand.offset, step.node)
        starts = sorted(owners)
        for start, end in zip(starts, [*starts[1:], sizes.weights], strict=True):
            key = f"weights of {owners[start]!r}"
            found[key] = found.get(key, 0) + end - start
    return _largest(found)


def ram_parts(plan: Plan, rows: int, sizes: Sizes) -> list[tuple[str, int]]:
    """The contributors to RAM, the largest first: parts of the state, and the values alive when the arena is fullest."""
    found = {f"state {part.name!r}": 4 * part.size for part in plan.parts}
    capacity = rows + plan.lead
    regions = [(r, r.size * (capacity if r.per_row else 1)) for r in plan.regions]
    moments = sorted({r.first for r, _ in regions})
    fullest = max(moments, key=lambda t: sum(size for r, size in regions if r.first <= t <= r.last), default=0)
    for region, size in regions:
        if region.first <= fullest <= region.last:
            kind, _, rest = region.name.partition("scratch:")
            what = f"working memory of {rest.split(':')[0]!r}" if rest and not kind else f"value {region.name!r}"
            found[what] = found.get(what, 0) + size
    return _largest({**found, "static data": sizes.data})


def _largest(found: Mapping[str, int]) -> list[tuple[str, int]]:
    kept: Sequence[tuple[str, int]] = [(what, size) for what, size in found.items() if size]
    return sorted(kept, key=lambda pair: -pair[1])
