"""The code of one stream on a GPU, for `Model` and `Stream`: the state is the caller's array and travels with each call."""

from __future__ import annotations

import ctypes
from math import prod
from threading import Lock

import numpy as np

from tinyrnn.graph.arrays import Array
from tinyrnn.runtime.cuda_driver import Device
from tinyrnn.runtime.device_arrays import Buffers
from tinyrnn.runtime.memory import Layout
from tinyrnn.runtime.process_local import ProcessLocal

INT = np.dtype(np.int64)


class DeviceCode(ProcessLocal):
    """Takes the place of `Code`: `run` copies what the context names to the GPU, runs the page there, and copies back."""

    from_cache, size = False, 0
    calls: tuple[int, ...] = ()

    def __init__(self, device: Device, layout: Layout, ptx: str, entry: str) -> None:
        self.device, self.layout = device, layout
        self.function = device.load(ptx, entry)
        self.memory = Buffers(device)
        self.weights = self.memory.sent("weights", layout.weights)
        self.state = self.memory.room("state", layout.initial_state.nbytes)
        self._lock = Lock()

    def run(self, pointer: int, frames: int) -> int:
        """As compiled code: 0, or 1 + the number of an input with an index out of range. Threads take turns."""
        with self._lock:
            return self._run(pointer, frames)

    def _run(self, pointer: int, frames: int) -> int:
        layout, device = self.layout, self.device
        count = layout.header + len(layout.inputs) + len(layout.batches) + len(layout.outputs)
        context = at(pointer, 8 * (count + 1))[: 8 * count].view(INT)
        table = np.zeros(count + 1, INT)
        """the context as the GPU sees it, then the status"""
        table[:count] = context
        table[0], table[1] = self.weights, self.state
        state = at(int(context[1]), layout.initial_state.nbytes)
        device.write(self.state, state)
        table[2] = self.memory.room("arena", layout.arena_fixed + layout.arena_per_row * int(context[3]))
        sizes = self._sizes(context, state, frames)
        for place, nbytes in enumerate(sizes, layout.header):
            table[place] = self.memory.room(f"port {place}", nbytes)
            if place < count - len(layout.outputs):
                device.write(int(table[place]), at(int(context[place]), nbytes))
        where = self.memory.sent("table", table)
        device.launch(self.function, 1, 1, where, frames, where + 8 * count)
        status = np.zeros(1, INT)
        device.read(status, where + 8 * count)
        if status[0]:
            return int(status[0])
        device.read(state, self.state)
        for place in range(count - len(layout.outputs), count):
            device.read(at(int(context[place]), sizes[place - layout.header]), int(table[place]))
        return 0

    def _sizes(self, context: Array, state: Array, frames: int) -> list[int]:
        """Bytes of every input and output of a call."""
        layout, start = self.layout, 0
        for name, offset, _, _ in layout.state_parts:
            if name == "frames":
                start = int(state[4 * offset : 4 * offset + 8].view(INT)[0])
        end = None if context[4] < 0 else int(context[4])
        sizes = []
        for port in (*layout.inputs, *layout.outputs):
            rows = port.clock.count(start + frames, end) - port.clock.count(start, end) if port.per_frame else 1
            sizes.append(max(rows, 0) * prod(port.shape) * port.dtype.itemsize)
        sizes[len(layout.inputs) : len(layout.inputs)] = [array.nbytes for array in layout.batches.values()]
        return sizes


def at(address: int, nbytes: int) -> Array:
    """The bytes at an address of this process."""
    if not nbytes:
        return np.zeros(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
