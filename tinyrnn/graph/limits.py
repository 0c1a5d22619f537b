"""Limits on the cost of a load, and the conversion of any failure in reading a model into a `LoadError`.

A file is trusted with work and memory in proportion to what it holds. The base of each limit is for a file of up to a
megabyte, in which any computed size can stand: it keeps such a load under 2 GiB and, but for the compiler, under ten
seconds. The share on top is for large models, whose constants are computed, packed and moved a few times over. Models that
people train stay below a tenth of every limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tinyrnn.errors import LoadError, Refused, TargetError, TinyRNNError, UnsupportedError

MEGABYTE = 1 << 20
LARGEST_FILE = 1 << 31
"""most bytes of a file that frontends read at once"""
LARGEST_VALUE = 1 << 31
"""most elements of one value; more is taken for a corrupt file"""
LARGEST_INLINED = 1 << 16
"""most nodes of a graph after its functions are inlined: each takes a kilobyte or more in every pass"""
SECONDS_VARIABLE = "TINYRNN_LOAD_SECONDS"
"""environment variable: seconds that a load may take before compilation, for slow machines"""

SECONDS, SECONDS_PER_MEGABYTE = 8.0, 20.0
"""seconds of this thread's processor time before compilation: the largest model tried, of 5,500 nodes, takes 5"""
CONSTANT, CONSTANT_PER_BYTE = 64 * MEGABYTE, 8
"""bytes of one computed constant; int8 weights grow by 4 as float32"""
CONSTANTS, CONSTANTS_PER_BYTE = 192 * MEGABYTE, 16
"""bytes of all computed constants of one pass over the graph; two passes are held at once, to compare them"""
WEIGHTS, WEIGHTS_PER_BYTE = 256 * MEGABYTE, 16
"""bytes of packed weights, which are held three times while they are laid out"""
ARENA, ARENA_PER_BYTE = 1024 * MEGABYTE, 64
"""bytes of a stream's state and arena where the file fixes all sizes: a minute of sound between a few layers"""
LINES, LINES_PER_MEGABYTE = 20_000, 20_000
"""lines of the compiled page; the largest model tried has 20,000 in two megabytes"""
KERNELS, KERNELS_PER_MEGABYTE = 1_500, 1_500
"""functions on the page: kernels, 20 to 100 ms each to compile"""
STEPS, STEPS_PER_KILOBYTE = 600, 8
"""kernel calls of one step, 1 to 10 ms each to link; 415 nodes in half a megabyte give 306"""
WIDEST = 200
"""operands of one kernel"""
ITERATIONS = 1 << 31
"""iterations of the innermost loop of one constant's computation, which take seconds in NumPy"""

UNSOUND = (
    Refused,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
)
"""exceptions of operators for inputs and attributes that do not fit them"""


class OverLimit(LoadError):
    """A load costs more than its file allows. No alternative is tried after it."""


@dataclass
class Budget:
    """The budget of one load."""

    name: str
    begun: float
    content: int = 0
    """bytes of the model"""
    constants: int = 0
    """bytes computed in this pass over the graph"""
    given: float | None = None
    """seconds from the environment variable, or None"""

    @property
    def more(self) -> float:
        """Megabytes of the model beyond the first."""
        return max(self.content - MEGABYTE, 0) / MEGABYTE

    @property
    def seconds(self) -> float:
        return SECONDS + SECONDS_PER_MEGABYTE * self.more if self.given is None else self.given


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def one_load(name: str) -> Iterator[None]:
    """The context of one load: its cost is bounded, and every failure becomes a `TinyRNNError` that names the model.

    A context inside another is part of it.
    """
    outer = _current.get()
    token = _current.set(outer or _begun(name))
    try:
        yield
    except TinyRNNError:
        raise
    except Refused as error:
        raise UnsupportedError(f"{name}: {error}") from error
    except ModuleNotFoundError as error:
        raise TargetError(
            f"{name}: it is not in the cache, and compiling it needs {error.name}, which is not installed; "
            "`tinyrnn cache pack` on a machine that has it writes a file for this one"
        ) from error
    except Exception as error:
        text = "it nests too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"
        raise LoadError(f"{name}: the model is not sound ({text})") from error
    finally:
        _current.reset(token)


def _begun(name: str) -> Budget:
    given = os.environ.get(SECONDS_VARIABLE, "")
    return Budget(name, time.thread_time(), given=float(given) if given.replace(".", "", 1).isdigit() else None)


def holds(count: int) -> None:
    """Set the number of bytes of the model of this load."""
    budget = _current.get()
    if budget is not None:
        budget.content = max(budget.content, count)


def begin_pass() -> None:
    """Begin a new pass: the constants of the pass before are released."""
    budget = _current.get()
    if budget is not None:
        budget.constants = 0


def check_time() -> None:
    """Called for every node in every pass. Raises `OverLimit` when the time is used up."""
    budget = _current.get()
    if budget is not None and time.thread_time() - budget.begun > budget.seconds:
        raise OverLimit(
            f"{budget.name}: not loaded within {budget.seconds:.0f} s, the most that a model of {budget.content:,} bytes may "
            f"take before it is compiled. On a slow machine set {SECONDS_VARIABLE} to more seconds"
        )


def check_constant(count: int, what: str) -> None:
    """Called before `count` bytes are allocated for a computed constant. Raises `Refused` for too many."""
    budget = _current.get()
    most = CONSTANT + CONSTANT_PER_BYTE * (budget.content if budget else MEGABYTE)
    if count > most:
        raise Refused(
            f"the constant that it makes, {what}, takes {count:,} bytes, absurdly many: at most {most:,} for this model"
        )


def spend(count: int) -> None:
    """Count `count` bytes of a computed constant. Raises `OverLimit` when they exceed the budget."""
    budget = _current.get()
    if budget is None:
        return
    budget.constants += count
    most = CONSTANTS + CONSTANTS_PER_BYTE * budget.content
    if budget.constants > most:
        raise OverLimit(
            f"{budget.name}: its computed constants take over {most:,} bytes, absurdly many for a model of {budget.content:,}"
        )


def check_work(count: int) -> None:
    """Raise `Refused` for a constant whose computation would take `count` iterations, if that is too many."""
    if count > ITERATIONS:
        raise Refused(f"computing it would take {count:,} iterations, absurdly many for a constant; the most is {ITERATIONS:,}")


def check_weights(count: int) -> None:
    """Raise `OverLimit` for more bytes of packed weights than the budget allows."""
    _check_bytes(count, "its packed weights", WEIGHTS, WEIGHTS_PER_BYTE)


def check_arena(count: int) -> None:
    """Raise `OverLimit` for more bytes of state and arena than the budget allows."""
    _check_bytes(count, "the values between its nodes", ARENA, ARENA_PER_BYTE)


def _check_bytes(count: int, what: str, base: int, share: int) -> None:
    budget = _current.get()
    if budget is not None and count > base + share * budget.content:
        raise OverLimit(
            f"{budget.name}: {what} would take {count:,} bytes, absurdly much for a model of {budget.content:,}; the most is "
            f"{base + share * budget.content:,}"
        )


def check_code(lines: int, kernels: int, steps: int, widest: int) -> None:
    """Raise `OverLimit` for a page that would take too long to compile for a model of this size."""
    budget = _current.get()
    if budget is None:
        return
    for count, most, what in (
        (lines, LINES + int(LINES_PER_MEGABYTE * budget.more), "lines of code"),
        (kernels, KERNELS + int(KERNELS_PER_MEGABYTE * budget.more), "kernels"),
        (steps, STEPS + STEPS_PER_KILOBYTE * budget.content // 1024, "kernel calls"),
        (widest, WIDEST, "operands of one kernel"),
    ):
        if count > most:
            raise OverLimit(
                f"{budget.name}: {count:,} {what} would be compiled, absurdly many for a model of {budget.content:,} bytes; "
                f"the most is {most:,}"
            )
