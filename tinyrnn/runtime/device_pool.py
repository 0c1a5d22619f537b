"""Pools on a GPU: states stay there, and every call is one launch, in which resident warps take the streams in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError, StreamError, TargetError
from tinyrnn.graph.arrays import Array, Port
from tinyrnn.runtime.cuda_driver import Device, OutOfMemory
from tinyrnn.runtime.device_arrays import Buffers, DeviceArray, address_of, is_on_device
from tinyrnn.runtime.memory import Layout
from tinyrnn.runtime.pool import Pool, Pooled
from tinyrnn.runtime.pool_driver import PoolDriver
from tinyrnn.runtime.pool_runner import INDEX, PoolCode, Work
from tinyrnn.runtime.process_local import ProcessLocal

WARPS_OF_MULTIPROCESSOR = 16
"""warps that are resident on each: as many as have registers for a page"""
TILE = 16
"""most streams that a warp takes at once, where it can"""
WHOLE_TILE = 4
"""streams whose sums are together in registers"""
HEADER = 9
"""entries of the parameters before the addresses"""


@dataclass(frozen=True, eq=False)
class DevicePage:
    """What pools of a model run on a GPU."""

    ptx: str
    entry: str
    tick: bool
    """whether a warp takes several streams at once; arrays are then [frames, streams, …], else [streams, frames, …]"""
    arena_fixed: int
    arena_per_row: int
    capacity: int
    """rows of an arena: where a warp takes one stream, frames of a pass"""
    weights: Array


class DeviceRunner(ProcessLocal):
    """The states of a pool on a GPU, and the launches over them."""

    def __init__(self, layout: Layout, page: DevicePage, device: Device, rows: Array) -> None:
        """rows: the states in the caller's memory, one a slot."""
        self.layout, self.page, self.device, self.rows = layout, page, device, rows
        self.memory = Buffers(device)
        self.function = device.load(page.ptx, page.entry)
        self.warps = device.most_warps(self.function)
        self.resident = device.multiprocessors * max(WARPS_OF_MULTIPROCESSOR, self.warps)
        try:
            self.weights = self.memory.sent("weights", page.weights)
            self.states = self.memory.room("states", rows.nbytes)
        except OutOfMemory as error:
            left = device.free_bytes() - page.weights.nbytes
            fit = max(left // max(rows.strides[0], 1), 0)
            self.memory.close()
            raise TargetError(
                f"{layout.name}: the states of {len(rows):,} slots take {rows.nbytes:,} bytes, which the GPU has not ({error}); "
                f"about {fit:,} slots would fit"
            ) from None
        self.newer: bool | None = False
        """whether the states here are newer than the caller's; None where both are the same"""

    def download(self) -> None:
        """Bring the caller's states up to date."""
        if self.newer:
            self.device.read(self.rows, self.states)
            self.newer = None

    def upload(self) -> None:
        """Bring the states here up to date."""
        if self.newer is False:
            self.device.write(self.states, self.rows)
            self.newer = None

    def set(self, slots: Array) -> None:
        """The caller's states of some slots have just been set; here too."""
        if self.newer is not False:
            for slot in slots:
                self.device.write(self.states + int(slot) * self.rows.strides[0], self.rows[slot])

    def tick(self, states: Array, work: Work, first: int, count: int) -> int:
        """As `Runner.tick`: all streams of the work at once."""
        made = len(self.layout.inputs)
        addresses = [self.memory.sent(f"x{i}", array) for i, array in enumerate(work.arrays[:made])]
        results = work.arrays[made:]
        addresses += [self.memory.room(f"y{j}", max(array.nbytes, 1)) for j, array in enumerate(results)]
        if work.lengths is not None or not self.page.tick:
            for address, array in zip(addresses[made:], results, strict=True):
                self.device.write(address, array)  # rows that are not made keep their zeros
        strides = [array.strides[0] for array in work.arrays]
        self.launch(work.slots, addresses, strides, work.frames, work.lengths)
        for array, address in zip(results, addresses[made:], strict=True):
            self.device.read(array, address)
        return 0

    one_by_one = tick

    def launch(self, slots: Array, addresses: Sequence[int], strides: Sequence[int], frames: int, lengths: Array | None) -> None:
        """One launch over arrays on the GPU."""
        self.upload()
        page, count, memory = self.page, len(slots), self.memory
        if page.tick:
            tile = -(-count // self.resident)
            tile = min(TILE, tile if tile == 1 else -(-tile // WHOLE_TILE) * WHOLE_TILE)
            warps = -(-count // tile)
        else:
            tile, warps = max(page.capacity, frames if self.layout.chunk == 0 else 1), count
        used = min(warps, self.resident)
        blocks = -(-used // self.warps)
        arena = page.arena_fixed + page.arena_per_row * tile
        arenas = memory.room("arenas", arena * blocks * self.warps)
        if lengths is None and not page.tick:
            lengths = np.full(count, frames, INDEX)
        table = np.array(
            [
                *(self.weights, self.states, arenas, tile),
                memory.kept("which", slots),
                memory.kept("each", np.arange(TILE, dtype=INDEX)),
                0 if lengths is None else memory.kept("lengths", lengths),
                *(count, count, *addresses),
                *([frames] if page.tick else strides),
            ],
            INDEX,
        )
        self.device.launch(self.function, blocks, self.warps, memory.kept("table", table))
        self.newer = True

    def close(self) -> None:
        self.download()
        self.memory.close()


class _Driver(PoolDriver):
    """A pool's driver whose native calls are launches."""

    def __init__(self, layout: Layout, page: DevicePage, device: Device, named: Any, rows: Array) -> None:
        super().__init__(layout, None, PoolCode(None, page.tick), named, rows, None, 1)
        self.runner = DeviceRunner(layout, page, device, rows)
        self.runners.append(self.runner)  # type: ignore[arg-type]

    def quick(self, slots: Array, inputs: Sequence[Any], out: Any) -> Any:
        return None

    def call(self, slots: Array, arrays: list[Array], frames: int, lengths: Array | None, out: Any, single: bool) -> Any:
        if self.late:
            self.runner.download()  # how many frames each stream had
        self._check_indices(arrays)
        with self.alive():
            return super().call(slots, arrays, frames, lengths, out, single)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """What fails on the GPU inside ends the pool; the process goes on."""
        try:
            yield
        except OutOfMemory:
            raise
        except TargetError as error:
            self.failed = True
            raise TargetError(f"{self.layout.name}: {error}; the pool is closed") from error

    failed = False
    """whether the GPU failed, so that its states are lost"""

    def _check_indices(self, arrays: Sequence[Array]) -> None:
        for index, low, high in self.bounds:
            array, port = arrays[index], self.layout.inputs[index]
            if array.size and (array.min() < low or array.max() > high):
                raise ShapeError(
                    f"{self.layout.name}: input {port.name!r} holds an index that is out of range; nothing was changed"
                )

    bounds: Sequence[tuple[int, int, int]] = ()
    """(number of an input, lowest, highest) of those that hold indices"""


class DevicePool(Pool):
    """Many live inputs of a model on a GPU, as `Pool` has them on a processor.

    The states stay on the GPU. `state` brings them into the caller's memory as of that access, and what is written to it is
    taken by the next call: `pool.state[3] = stream.state` moves a stream to the GPU, `stream.state[...] = pool.state[3]` back.
    Inputs that lie on the GPU (`__cuda_array_interface__`) are read where they are; outputs are then made there too.
    """

    def __init__(
        self, model: Pooled, slots: int, page: DevicePage, device: Device, bounds: Sequence[tuple[int, int, int]]
    ) -> None:
        super().__init__(model, slots, 1)
        self._driver_of = _Driver(model._layout, page, device, model._result, self._rows)
        self._driver_of.bounds = bounds
        self._lent = False
        """whether a stream over a row may change the caller's states at any time"""

    @property
    def state(self) -> Array:
        """[slots, state_size] float32 as of this access; what is written to it counts from the next call on."""
        runner = self._driver_of.runner
        runner.download()
        runner.newer = False
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        runner = self._driver_of.runner
        runner.newer = None
        Pool.state.fset(self, value)  # type: ignore[attr-defined]
        runner.newer = False

    def stream(self, slot: int) -> Any:
        """A `Stream` over one row, which runs on the GPU alone: it and the pool carry the same state on."""
        runner = self._driver_of.runner
        runner.download()
        runner.newer, self._lent = False, True
        return super().stream(slot)

    def step(self, *inputs: Any, which: Any = None, out: Any = None, **named: Any) -> Any:
        """As `Pool.step`; inputs and `out` may lie on the GPU."""
        if not any(map(is_on_device, (*inputs, *named.values()))):
            return super().step(*inputs, which=which, out=out, **named)
        with self._call:
            slots = self._named(which)
            self._check_open(slots)
            self._driver(inputs, named)
            return self._on_device(slots, inputs, named, out)

    def _on_device(self, slots: Array, inputs: Sequence[Any], named: Mapping[str, Any], out: Any) -> Any:
        """One frame of each stream from arrays on the GPU to arrays on the GPU, without a copy."""
        layout, driver = self.model._layout, self._driver_of
        runner, count = driver.runner, len(slots)
        if not runner.page.tick:
            raise TargetError(f"{self.name}: each stream makes rows of its own number; give arrays of NumPy, not of the GPU")
        given = {p.name: x for p, x in zip(layout.inputs, inputs, strict=False)} | dict(named)
        if set(given) != {p.name for p in layout.inputs} or len(inputs) > len(layout.inputs):
            raise ShapeError(f"{self.name}: inputs {', '.join(p.name for p in layout.inputs)} are needed, each once")
        if driver.bounds:
            raise TargetError(f"{self.name}: inputs that hold indices are checked first; give arrays of NumPy, not of the GPU")
        outs = [None] * len(layout.outputs) if out is None else list(out) if isinstance(out, (tuple, list)) else [out]
        made = [self._made(port, given_out, count) for port, given_out in zip(layout.outputs, outs, strict=True)]
        ports = (*layout.inputs, *layout.outputs)
        arrays = [*(given[p.name] for p in layout.inputs), *made]
        addresses = [
            address_of(runner.device, self.name, p, array, (count, *p.shape)) for p, array in zip(ports, arrays, strict=True)
        ]
        with driver.alive():
            runner.launch(slots, addresses, [], 1, None)
        return driver._answer(made) if out is None else out

    def _made(self, port: Port, out: Any, count: int) -> Any:
        if out is not None:
            return out
        device = self._driver_of.runner.device
        shape = (count, *port.shape)
        return DeviceArray(device, device.take(prod(shape) * port.dtype.itemsize), shape, port.dtype)

    @property
    def name(self) -> str:
        return self.model.name

    def close(self) -> None:
        """Free the memory on the GPU; the states remain in `state`, and the pool takes no more frames."""
        if not self._call.closed:
            super().close()
            if not self._driver_of.failed:
                self._driver_of.runner.close()

    def _driver(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> PoolDriver:
        if self._driver_of.failed:
            raise StreamError(f"{self.name}: the pool is closed: the GPU failed in an earlier call")
        if self._lent:
            self._driver_of.runner.download()
            self._driver_of.runner.newer = False
        return self._driver_of

    def flush(self, which: Any = None) -> Any:
        """As `Pool.flush`."""
        self._driver_of.runner.download()
        self._driver_of.runner.newer = False
        return super().flush(which)

    def _begin(self, slots: Array) -> None:
        super()._begin(slots)
        self._driver_of.runner.set(slots)
