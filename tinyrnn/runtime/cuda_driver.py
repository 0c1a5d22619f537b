"""NVIDIA's driver through ctypes: one GPU with its primary context, in which arrays of torch, cupy and jax are addresses too."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from functools import cache
from typing import Any, Protocol

from tinyrnn.errors import TargetError
from tinyrnn.graph.arrays import Array
from tinyrnn.runtime.process_local import ProcessLocal

LIBRARIES = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
INSTEAD = "target='cpu' runs here"
OLDEST = 7, 0
"""compute capability from which threads of a warp have counters of their own"""
SM_COUNT, REGISTERS_PER_SM, MAJOR, MINOR = 16, 82, 75, 76
"""CU_DEVICE_ATTRIBUTE_*: multiprocessors, their 32-bit registers, and the compute capability"""
REGISTERS_PER_THREAD = 4
"""CU_FUNC_ATTRIBUTE_NUM_REGS"""
OUT_OF_MEMORY = 2
ERROR_LOG, ERROR_LOG_SIZE = 5, 6
"""CU_JIT_ERROR_LOG_BUFFER and its size"""
LOG_BYTES = 8192
ALLOCATED = 256
"""bytes to which the driver aligns memory"""


class Device(Protocol):
    """What pools need of a GPU: memory, code and launches, in the order in which they are asked for."""

    @property
    def multiprocessors(self) -> int: ...
    def load(self, ptx: str, entry: str) -> Any: ...
    def most_warps(self, function: Any) -> int: ...
    def take(self, nbytes: int) -> int: ...
    def free(self, address: int) -> None: ...
    def free_bytes(self) -> int: ...
    def write(self, address: int, array: Array) -> None: ...
    def read(self, array: Array, address: int) -> None: ...
    def launch(self, function: Any, blocks: int, warps: int, *arguments: int) -> None: ...
    def wait(self) -> None: ...
    def follow(self, stream: int) -> None: ...


class OutOfMemory(TargetError):
    """The device has no room for so many bytes."""


class Cuda(ProcessLocal):
    """One GPU. Raises `TargetError` where there is none that can be used."""

    instead = "a process that was forked cannot use the GPU of its parent: load the model in the process that runs it"

    def __init__(self, library: Any) -> None:
        """library: NVIDIA's driver, as ctypes loads it."""
        self._c = library
        self._process = os.getpid()
        try:
            status = self._c.cuInit(0)
        except AttributeError:
            raise TargetError(f"target 'cuda': {LIBRARIES[0]} is not NVIDIA's driver; {INSTEAD}") from None
        if status:
            raise TargetError(f"target 'cuda': the driver finds no GPU ({self._text(status)}); {INSTEAD}")
        device = c_int()
        self._check("cuDeviceGet", byref(device), c_int(0))
        self._device = device
        self.capability = self._attribute(MAJOR), self._attribute(MINOR)
        if self.capability < OLDEST:
            raise TargetError(
                f"target 'cuda': this GPU has compute capability {'.'.join(map(str, self.capability))}; needed is "
                f"{'.'.join(map(str, OLDEST))} (Volta) or newer; {INSTEAD}"
            )
        self._context = c_void_p()
        self._check("cuDevicePrimaryCtxRetain", byref(self._context), device)
        self._check("cuCtxSetCurrent", self._context)
        self.multiprocessors, self._registers = self._attribute(SM_COUNT), self._attribute(REGISTERS_PER_SM)
        self.stream = c_void_p()
        self._check("cuStreamCreate", byref(self.stream), c_uint(0))  # in turn with the default stream, that of torch and cupy

    def _text(self, status: int) -> str:
        text = c_char_p()
        self._c.cuGetErrorString(c_int(status), byref(text))
        return (text.value or str(status).encode()).decode()

    def _check(self, function: str, *arguments: Any) -> None:
        status = getattr(self._c, function)(*arguments)
        if status == OUT_OF_MEMORY:
            raise OutOfMemory(f"target 'cuda': {function}: {self._text(status)}")
        if status:
            raise TargetError(f"target 'cuda': {function}: {self._text(status)}")

    def _attribute(self, which: int) -> int:
        value = c_int()
        self._check("cuDeviceGetAttribute", byref(value), c_int(which), self._device)
        return value.value

    def _enter(self) -> None:
        """Make the context that of this thread."""
        if os.getpid() != self._process:
            raise TargetError(f"target 'cuda': {self.instead}")
        self._check("cuCtxSetCurrent", self._context)

    def load(self, ptx: str, entry: str) -> Any:
        """The kernel of a module, which the driver compiles, and keeps in its own cache."""
        self._enter()
        log = ctypes.create_string_buffer(LOG_BYTES)
        options = (c_int * 2)(ERROR_LOG, ERROR_LOG_SIZE)
        values = (c_void_p * 2)(ctypes.cast(log, c_void_p), len(log))
        module, function = c_void_p(), c_void_p()
        status = self._c.cuModuleLoadDataEx(byref(module), ptx.encode() + b"\0", c_uint(2), options, values)
        if status:
            said = log.value.decode(errors="replace").strip()
            raise TargetError(f"target 'cuda': the driver cannot take the code: {self._text(status)}. {said}")
        self._check("cuModuleGetFunction", byref(function), module, entry.encode())
        return function

    def most_warps(self, function: Any) -> int:
        """Warps of a block that have registers for a kernel: a power of two, at most 8."""
        value = c_int()
        self._check("cuFuncGetAttribute", byref(value), c_int(REGISTERS_PER_THREAD), function)
        per_warp = 32 * max(8 * -(-value.value // 8), 16)
        warps = 8
        while warps > 1 and warps * per_warp > self._registers:
            warps //= 2
        return warps

    def take(self, nbytes: int) -> int:
        """The address of new memory. Raises `OutOfMemory`."""
        self._enter()
        address = c_void_p()
        self._check("cuMemAlloc_v2", byref(address), c_size_t(max(nbytes, ALLOCATED)))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        self._enter()
        self._check("cuMemFree_v2", c_void_p(address))

    def free_bytes(self) -> int:
        self._enter()
        left, total = c_size_t(), c_size_t()
        self._check("cuMemGetInfo_v2", byref(left), byref(total))
        return left.value

    def write(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the device; it may change as soon as this is back."""
        self._enter()
        if array.nbytes:
            source = array.ctypes.data_as(c_void_p)
            self._check("cuMemcpyHtoDAsync_v2", c_void_p(address), source, c_size_t(array.nbytes), self.stream)

    def read(self, array: Array, address: int) -> None:
        """Wait, and copy from the device into a contiguous array."""
        self._enter()
        if array.nbytes:
            to = array.ctypes.data_as(c_void_p)
            self._check("cuMemcpyDtoHAsync_v2", to, c_void_p(address), c_size_t(array.nbytes), self.stream)
        self.wait()

    def launch(self, function: Any, blocks: int, warps: int, *arguments: int) -> None:
        self._enter()
        values = [c_ulonglong(argument) for argument in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.cast(byref(value), c_void_p) for value in values))
        sizes = map(c_uint, (blocks, 1, 1, 32, warps, 1))
        self._check("cuLaunchKernel", function, *sizes, c_uint(0), self.stream, pointers, None)

    def wait(self) -> None:
        self._check("cuStreamSynchronize", self.stream)

    def follow(self, stream: int) -> None:
        """Wait for what another stream, by its handle, was asked to do."""
        self._enter()
        self._check("cuStreamSynchronize", c_void_p(stream))

    def seconds(self, work: Callable[[], None], times: int) -> float:
        """Seconds of the GPU for one `work`, of so many."""
        start, end, milliseconds = c_void_p(), c_void_p(), c_float()
        for event in (start, end):
            self._check("cuEventCreate", byref(event), c_uint(0))
        self._check("cuEventRecord", start, self.stream)
        for _ in range(times):
            work()
        self._check("cuEventRecord", end, self.stream)
        self._check("cuEventSynchronize", end)
        self._check("cuEventElapsedTime", byref(milliseconds), start, end)
        return milliseconds.value / 1000 / times


def _library() -> Any:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise TargetError(f"target 'cuda' needs an NVIDIA GPU and its driver: {LIBRARIES[0]} is not on this machine; {INSTEAD}")


@cache
def first_gpu() -> Cuda:
    """The first GPU of this process. Raises `TargetError`."""
    return Cuda(_library())
