"""Arrays on a GPU: those of other libraries by `__cuda_array_interface__`, what pools give back, and memory for calls."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Array, Port
from tinyrnn.runtime.cuda_driver import Device
from tinyrnn.runtime.process_local import ProcessLocal


class DeviceArray(ProcessLocal):
    """A C-contiguous array on a GPU, which torch.as_tensor, cupy.asarray and others take without a copy."""

    def __init__(self, device: Device, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._device, self._address, self.shape, self.dtype = device, address, shape, dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of Numba's CUDA Array Interface."""
        stream = getattr(getattr(self._device, "stream", None), "value", None)
        data = (self._address, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "strides": None, "stream": stream, "version": 3}

    def numpy(self) -> Array:
        """A copy in this process's memory."""
        made = np.empty(self.shape, self.dtype)
        self._device.read(made, self._address)
        return made

    def __del__(self) -> None:
        try:
            self._device.free(self._address)
        except Exception:  # the GPU or the process is going away
            return


class Buffers:
    """Memory on a GPU by name, which grows as it is needed."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._found: dict[str, tuple[int, int]] = {}
        self._kept: dict[str, Array] = {}

    def room(self, name: str, nbytes: int) -> int:
        """The address of at least so many bytes. Raises `OutOfMemory`."""
        address, there = self._found.get(name, (0, 0))
        if address and nbytes <= there:
            return address
        if address:
            del self._found[name]
            self.device.free(address)
        address = self.device.take(nbytes)
        self._found[name] = address, nbytes
        return address

    def sent(self, name: str, array: Array) -> int:
        """The address of a copy of an array."""
        address = self.room(name, array.nbytes)
        self.device.write(address, np.ascontiguousarray(array))
        return address

    def kept(self, name: str, array: Array) -> int:
        """The address of a copy of an array, which is sent only where another one is there."""
        known = self._kept.get(name)
        if known is None or not np.array_equal(known, array):
            self.sent(name, array)
            self._kept[name] = array.copy()
        return self._found[name][0]

    def close(self) -> None:
        for address, _ in self._found.values():
            self.device.free(address)
        self._found.clear()
        self._kept.clear()

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # the GPU or the process is going away
            return


def is_on_device(value: Any) -> bool:
    return hasattr(value, "__cuda_array_interface__")


def address_of(device: Device, model: str, port: Port, value: Any, shape: tuple[int, ...]) -> int:
    """The address of an array on the GPU that has this shape, C-contiguous, once it is there. Raises `ShapeError`."""
    if not is_on_device(value):
        raise ShapeError(f"{model}: {port.name!r} is {type(value).__name__}; where other arrays are on the GPU it must be too")
    told = value.__cuda_array_interface__
    dtype = np.dtype(told["typestr"])
    if tuple(told["shape"]) != shape or dtype != port.dtype:
        found = f"{dtype}{list(told['shape'])}"
        raise ShapeError(f"{model}: {port.name!r} is {found} on the GPU; needed is {port.dtype}{list(shape)}")
    dense = [dtype.itemsize * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if told.get("strides") is not None and list(told["strides"]) != dense:
        raise ShapeError(f"{model}: {port.name!r} is not C-contiguous on the GPU")
    if told.get("stream") is not None:
        device.follow(int(told["stream"]))
    return int(told["data"][0])
