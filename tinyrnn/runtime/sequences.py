"""`Model.run`: whole sequences in the file's own shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import (
    Array,
    as_dtype,
    batch_entry,
    check_file_shape,
    check_sizes,
    full_shape,
    match_inputs,
    put_batch_entry,
    rows_first,
)
from tinyrnn.runtime.memory import Context, Layout, part_views


def run_sequences(layout: Layout, code: Any, answer: Any, inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Run every sequence of a batch from its initial state.

    inputs, named: arrays in the file's shapes, by position and by name
    answer:        makes the result of several outputs; None where there is one, which is returned itself
    Raises `ShapeError` where the arrays do not fit the file or a sequence is too short.
    """
    ports = {p.name: p for p in (*layout.inputs, *layout.state_inputs)}
    values = dict(zip(layout.file_inputs, match_inputs(layout.name, layout.file_inputs, inputs, named), strict=True))
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for name, value in values.items():
        arrays[name] = as_dtype(layout.name, ports[name], value)
        check_file_shape(layout.name, ports[name], arrays[name], sizes)
        check_sizes(layout.name, ports[name], arrays[name], layout.sizes)
    batch = sizes.get("batch", next((len(a) for a in layout.batches.values()), 1))
    for name, constant in layout.batches.items():
        if len(constant) != batch:
            raise ShapeError(f"{layout.name}: a batch of {batch}, but the file's constant {name!r} has {len(constant)} entries")
    frames = sizes.get("time", 1)
    if frames == 0:
        raise ShapeError(f"{layout.name}: a sequence of no frames")
    if any(clock.whole(frames) < 1 for clock in layout.clocks):
        least = next(n for n in count(frames + 1) if all(clock.whole(n) > 0 for clock in layout.clocks))
        raise ShapeError(f"{layout.name}: a sequence of {frames} frames is too short; it takes {least} or more")
    outputs = {p.name: p for p in (*layout.outputs, *layout.state_outputs)}
    results = {name: np.empty(full_shape(port, batch, frames), port.dtype) for name, port in outputs.items()}
    context = Context(layout)
    end = frames if layout.waits else -1
    ends = dict(zip([p.name for p in layout.state_outputs], [p[0] for p in layout.state_parts], strict=False))
    views = part_views(layout, context.state)
    by_entry = all("batch" in p.roles and p.per_frame for p in (*layout.inputs, *layout.outputs)) and not layout.batches
    if layout.kind == "static" and by_entry:
        given = [np.asarray(rows_first(arrays[p.name], p), order="C") for p in layout.inputs]
        made = [np.empty((batch, *p.shape), p.dtype) for p in layout.outputs]
        context.execute(code.run, [*given, *made], batch)  # without state, batch entries are frames
        for port, array in zip(layout.outputs, made, strict=True):
            target = rows_first(results[port.name], port)
            target[...] = array.reshape(target.shape)
        batch = 0
    for entry in range(batch):
        context.reset()
        for port in layout.state_inputs:
            views[port.name][...] = batch_entry(arrays[port.name], port, entry).reshape(views[port.name].shape)
        given = [batch_entry(arrays[p.name], p, entry) for p in layout.inputs]
        made = [
            np.empty((p.clock.whole(frames), *p.shape) if p.per_frame and layout.kind == "sequence" else p.shape, p.dtype)
            for p in layout.outputs
        ]
        context.execute(
            code.run,
            [*given, *(np.ascontiguousarray(c[entry]) for c in layout.batches.values()), *made],
            layout.last(frames),
            end,
        )
        for port, array in zip(layout.outputs, made, strict=True):
            put_batch_entry(results[port.name], port, entry, array)
        for port in layout.state_outputs:
            put_batch_entry(results[port.name], port, entry, views[ends[port.name]])
    final = [results[name] for name in layout.file_outputs]
    return final[0] if answer is None else answer(*final)
