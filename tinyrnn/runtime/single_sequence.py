"""One sequence after another of one length, in the file's shapes: what a call looks up is found once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyrnn.graph.arrays import Array, Port, full_shape, rows_first
from tinyrnn.runtime.memory import Context, Layout, part_views
from tinyrnn.runtime.process_local import ProcessLocal

Shapes = tuple[tuple[int, ...], ...]
KEPT_BYTES = 1 << 20
"""arena up to which a prepared call is kept: with more to compute, preparing it costs nothing beside"""
KEPT_SHAPES = 16


class SingleSequence(ProcessLocal):
    """A call of `Model.run` for one sequence whose arrays compiled code takes, and makes, as they lie."""

    def __init__(self, layout: Layout, code: Any, frames: int) -> None:
        self.layout, self.code = layout, code
        self.frames, self.end = layout.last(frames), frames if layout.waits else -1
        self.context = Context(layout)
        if layout.chunk == 0:
            self.context.reserve(self.frames + layout.lead)
        views = part_views(layout, self.context.state)
        places = {p.name: layout.header + i for i, p in enumerate(layout.inputs)}
        ports = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
        self.inputs = [(ports[name].dtype, places.get(name, 0), views.get(name)) for name in layout.file_inputs]
        first = layout.header + len(layout.inputs)
        made = {p.name: first + i for i, p in enumerate(layout.outputs)}
        ends = dict(zip([p.name for p in layout.state_outputs], [p[0] for p in layout.state_parts], strict=False))
        every = {p.name: p for p in (*layout.outputs, *layout.state_outputs)}
        self.outputs = [
            (full_shape(every[n], 1, frames), every[n].dtype, made.get(n, 0), views[ends[n]] if n in ends else None)
            for n in layout.file_outputs
        ]

    @classmethod
    def of(cls, layout: Layout, code: Any, shapes: Shapes, frames: int) -> SingleSequence | None:
        """The call for inputs of these shapes; None where arrays have to be moved, or much memory is needed."""
        inputs = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
        pairs = [(inputs[name], shape) for name, shape in zip(layout.file_inputs, shapes, strict=True)]
        pairs += [(p, full_shape(p, 1, frames)) for p in (*layout.outputs, *layout.state_outputs)]
        rows = frames + layout.lead if layout.chunk == 0 else layout.chunk
        small = layout.arena_fixed + layout.arena_per_row * rows <= KEPT_BYTES
        return cls(layout, code, frames) if small and all(_in_order(*pair) for pair in pairs) else None

    def __call__(self, values: Sequence[Array]) -> list[Array] | None:
        """The outputs in the file's order; None for arrays of other types, or that lie otherwise."""
        context, addresses = self.context, self.context.addresses
        context.state[:] = self.layout.initial_state
        addresses[4] = self.end
        for value, (dtype, place, state) in zip(values, self.inputs, strict=True):
            if value.dtype != dtype or not (value.flags.c_contiguous and value.flags.aligned):
                return None
            if place:
                addresses[place] = value.ctypes.data
            if state is not None:
                state[...] = value.reshape(state.shape)
        results = []
        for shape, dtype, place, _ in self.outputs:
            result = np.empty(shape, dtype)
            if place:
                addresses[place] = result.ctypes.data
            results.append(result)
        if self.code.run(context.pointer, self.frames):
            return None
        for result, (*_, state) in zip(results, self.outputs, strict=True):
            if state is not None:
                result[...] = state.reshape(result.shape)
        return results


def _in_order(port: Port, shape: Sequence[int]) -> bool:
    """Whether one sequence lies in an array of the file's shape as compiled code has it."""
    example = np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), shape, _strides(shape), writeable=False)
    return bool(rows_first(example, port).flags.c_contiguous)


def _strides(shape: Sequence[int]) -> list[int]:
    found, step = [], 1
    for size in reversed(shape):
        found.append(step)
        step *= size
    return found[::-1]
