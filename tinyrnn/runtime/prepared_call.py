"""A call of `Model.run` for arrays of the same shapes as before: what a call looks up is found once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import Array, Port, full_shape, rows_order
from tinyrnn.runtime.driver import address_of
from tinyrnn.runtime.memory import Context, Layout, all_states, state_rows, state_stride
from tinyrnn.runtime.pool_runner import EACH_HEADER, INDEX, PoolCode, Runner, Work
from tinyrnn.runtime.process_local import ProcessLocal

Shapes = tuple[tuple[int, ...], ...]
KEPT_BYTES = 1 << 20
"""memory up to which a prepared call is kept: with more to compute, preparing it costs nothing beside"""
KEPT_SHAPES = 16


@dataclass(frozen=True, eq=False)
class _Way:
    """How an array in the file's shape comes to compiled code, or from it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: list[int]
    """its axes with batch and time first"""
    place: int
    """of its address in the table, where it is taken as it lies"""
    copied: Array | None
    """what it is copied to or from, with its axes in that order"""


class PreparedCall(ProcessLocal):
    """A call for a batch of sequences of one length, each from its initial state.

    Compiled code has the batch first, then time. Arrays that lie so are taken as they are, others are copied.
    """

    def __init__(self, layout: Layout, code: Any, made: PoolCode, shapes: Shapes, batch: int, frames: int) -> None:
        """made: what streams one after the other run on; one sequence alone does without."""
        self.layout = layout
        self.batch, self.work = batch, batch * frames * layout.multiply_adds
        sizes = _sizes(layout, shapes, batch, frames)
        arrays = [np.empty(_ordered(p, sizes[p.name]), p.dtype) for p in (*layout.inputs, *layout.outputs)]
        last, end = layout.last(frames), frames if layout.waits else -1
        if batch == 1:
            first, step = self._one(code, arrays, last, end)
        else:
            first, step = self._several(code, made, arrays, batch, last, end)

        def taken(ports: Sequence[Port], before: int, place: int) -> dict[str, _Way]:
            found = {}
            for number, port in enumerate(ports):
                shape = sizes[port.name]
                copied = None if _in_order(port, shape) else arrays[before + number]
                found[port.name] = _Way(shape, port.dtype, rows_order(port), first + step * (place + number), copied)
            return found

        def in_states(ports: Sequence[Port], parts: Sequence[str]) -> dict[str, _Way]:
            found = {}
            for port, part in zip(ports, parts, strict=False):
                shape = _ordered(port, sizes[port.name])
                state = all_states(layout, part, self.states).reshape(shape if "batch" in port.roles else (batch, *shape))
                found[port.name] = _Way(sizes[port.name], port.dtype, rows_order(port), 0, state)
            return found

        count, constants = len(layout.inputs), len(layout.batches)
        ins = taken(layout.inputs, 0, 0) | in_states(layout.state_inputs, [p.name for p in layout.state_inputs])
        ends = in_states(layout.state_outputs, [part[0] for part in layout.state_parts])
        outs = ends | taken(layout.outputs, count, count + constants)
        self.inputs, self.outputs = [ins[name] for name in layout.file_inputs], [outs[name] for name in layout.file_outputs]

    def _one(self, code: Any, arrays: list[Array], last: int, end: int) -> tuple[int, int]:
        """(place of the first address, places from one to the next)"""
        context = Context(self.layout)
        if self.layout.chunk == 0:
            context.reserve(last + self.layout.lead)
        context.addresses[4] = end
        context.addresses[self.layout.header :][: len(arrays)] = [array.ctypes.data for array in arrays]
        self.table, self.states = context.addresses, context.state[None]
        self.call: Callable[[], int] = partial(code.run, context.pointer, last)
        self._memory: Any = context, arrays
        return self.layout.header, 1

    def _several(self, code: Any, made: PoolCode, arrays: list[Array], batch: int, last: int, end: int) -> tuple[int, int]:
        """As `_one`, for streams that run one after the other."""
        layout = self.layout
        ports = [*layout.inputs, *layout.outputs]
        each = [a if "batch" in p.roles else np.broadcast_to(a, (batch, *a.shape)) for p, a in zip(ports, arrays, strict=True)]
        each[len(layout.inputs) : len(layout.inputs)] = layout.batches.values()
        work = Work(np.arange(batch, dtype=INDEX), each, (), last, np.full(batch, last, INDEX), end)
        runner, rows = Runner(layout, made, batch), state_rows(layout, batch)
        runner.prepare_each(code.run, Context(layout))
        runner.place(rows, work, 0, batch)
        self.table, self.states = runner.table, rows[:, : layout.initial_state.size]
        self.call = partial(runner.each_placed, rows, work, 0, batch)
        return EACH_HEADER, 2

    @classmethod
    def of(cls, layout: Layout, code: Any, made: PoolCode, shapes: Shapes, batch: int, frames: int) -> PreparedCall | None:
        """The call for inputs of these shapes; None where outputs are not the batch's alone, or much memory is needed."""
        ports = [*layout.inputs, *layout.state_inputs, *layout.outputs, *layout.state_outputs]
        shared = batch > 1 and not all("batch" in p.roles for p in (*layout.outputs, *layout.state_outputs))
        joined = any(role and "+" in role for p in ports for role in p.roles)
        if shared or joined:
            return None
        sizes, rows = _sizes(layout, shapes, batch, frames), frames + layout.lead if layout.chunk == 0 else layout.chunk
        size = layout.arena_fixed + layout.arena_per_row * rows + 4 * batch * state_stride(layout.initial_state.size)
        size += sum(prod(sizes[p.name]) * p.dtype.itemsize for p in ports if not _in_order(p, sizes[p.name]))
        return cls(layout, code, made, shapes, batch, frames) if size <= KEPT_BYTES else None

    def __call__(self, values: Sequence[Array]) -> list[Array] | None:
        """The outputs in the file's order; None for arrays of other types, or that lie otherwise."""
        table = self.table
        self.states[:] = self.layout.initial_state
        for value, way in zip(values, self.inputs, strict=True):
            if value.dtype != way.dtype:
                return None
            if way.copied is not None:
                way.copied[...] = value.transpose(way.order)
            elif (flags := value.flags).c_contiguous and flags.aligned:
                table[way.place] = address_of(value)
            else:
                return None
        results = []
        for way in self.outputs:
            result = np.empty(way.shape, way.dtype)
            if way.copied is None:
                table[way.place] = address_of(result)
            results.append(result)
        if self.call():
            return None
        for result, way in zip(results, self.outputs, strict=True):
            if way.copied is not None:
                result.transpose(way.order)[...] = way.copied
        return results


def _sizes(layout: Layout, shapes: Shapes, batch: int, frames: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all inputs and outputs by name."""
    outputs = {p.name: full_shape(p, batch, frames) for p in (*layout.outputs, *layout.state_outputs)}
    return outputs | dict(zip(layout.file_inputs, shapes, strict=True))


def _ordered(port: Port, shape: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in rows_order(port)]


def _in_order(port: Port, shape: Sequence[int]) -> bool:
    """Whether the batch, then time, comes first in an array of the file's shape."""
    order = [axis for axis in rows_order(port) if shape[axis] != 1]
    return order == sorted(order)
