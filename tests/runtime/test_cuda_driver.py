"""NVIDIA's driver is called as it wants to be: a driver written here takes the calls, and runs code on the emulated GPU."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import pytest

import tinyrnn
from tests import ROOT
from tinyrnn.loading.device import on_device
from tinyrnn.loading.stages import stages_for
from tinyrnn.runtime import cuda_driver
from tinyrnn.runtime.cuda_driver import Cuda
from tinyrnn.targets.cuda import MACHINE
from tinyrnn.targets.emulator import parse
from tinyrnn.targets.emulator.device import Emulated

GESTURE = ROOT / "tinyrnn" / "models" / "gesture.onnx"
NO_DEVICE, OUT_OF_MEMORY, ILLEGAL_ADDRESS, INVALID_PTX = 100, 2, 700, 218
X = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)


class Driver:
    """Functions of libcuda, with their arguments as ctypes hands them over."""

    def __init__(self, nbytes: int = 1 << 23, capability: tuple[int, int] = (7, 5), init: int = 0) -> None:
        self.gpu, self.capability, self.init, self.fails = Emulated(nbytes), capability, init, dict[str, int]()
        self.modules: dict[int, Any] = {}

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuGetErrorString(self, status: Any, text: Any) -> int:
        names = {NO_DEVICE: b"no device", OUT_OF_MEMORY: b"out of memory", ILLEGAL_ADDRESS: b"illegal address", 218: b"bad PTX"}
        text._obj.value = names.get(status.value, b"?")
        return 0

    def cuDeviceGet(self, device: Any, number: Any) -> int:
        device._obj.value = 0
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        context._obj.value = 77
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        return 0 if context.value == 77 else 201

    def cuDeviceGetAttribute(self, value: Any, which: Any, device: Any) -> int:
        known = {16: 2, 82: 65536, 75: self.capability[0], 76: self.capability[1]}
        value._obj.value = known[which.value]
        return 0

    def cuStreamCreate(self, stream: Any, flags: Any) -> int:
        stream._obj.value = 5
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:
        return self.fails.get("synchronize", 0)

    def cuModuleLoadDataEx(self, module: Any, text: bytes, count: Any, options: Any, values: Any) -> int:
        assert text.endswith(b"\0") and count.value == 2 and list(options) == [5, 6] and values[1] == 8192
        if b"no PTX" in text:
            ctypes.memmove(values[0], b"line 1: what is this?\0", 22)
            return INVALID_PTX
        self.modules[len(self.modules) + 1] = parse(text[:-1].decode())
        module._obj.value = len(self.modules)
        return 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        assert name.decode() in self.modules[module.value]
        function._obj.value = 1000 + module.value
        return 0

    def cuFuncGetAttribute(self, value: Any, which: Any, function: Any) -> int:
        assert which.value == 4
        value._obj.value = 255
        return 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        try:
            address._obj.value = self.gpu.take(size.value)
        except tinyrnn.TargetError:
            return OUT_OF_MEMORY
        return 0

    def cuMemFree_v2(self, address: Any) -> int:
        self.gpu.free(address.value)
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = self.gpu.free_bytes(), 1 << 23
        return 0

    def cuMemcpyHtoDAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:
        self.gpu.write(to.value, np.ctypeslib.as_array((ctypes.c_uint8 * size.value).from_address(source.value)).copy())
        return 0

    def cuMemcpyDtoHAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:
        self.gpu.read(np.ctypeslib.as_array((ctypes.c_uint8 * size.value).from_address(to.value)), source.value)
        return 0

    def cuLaunchKernel(self, function: Any, *rest: Any) -> int:
        if "launch" in self.fails:
            return self.fails["launch"]
        sizes, (shared, stream, arguments, extra) = [int(size.value) for size in rest[:6]], rest[6:]
        assert sizes[1:4] == [1, 1, 32] and sizes[5] == 1 and shared.value == 0 and stream.value == 5 and extra is None
        (entry,) = self.modules[function.value - 1000].values()
        values = [ctypes.c_uint64.from_address(place).value for place in arguments]
        self.gpu.launch(entry, sizes[0], sizes[4], *values)
        return 0


def model_on(driver: Driver) -> Any:
    return on_device(stages_for(GESTURE, MACHINE, 1 << 25), Cuda(driver))


def test_a_pool_and_a_stream() -> None:
    gpu, cpu = model_on(Driver()), tinyrnn.load(GESTURE)
    pool = gpu.pool(3)
    wanted = np.stack([cpu.stream().step(x) for x in X])
    np.testing.assert_array_equal(pool.step(X), wanted)
    np.testing.assert_array_equal(gpu.stream().run(X[:1]), wanted[:1])
    pool.close()
    pool.close()


@pytest.mark.parametrize(
    ("driver", "says"),
    [
        (Driver(init=NO_DEVICE), r"finds no GPU \(no device\); target='cpu' runs here"),
        (Driver(capability=(6, 1)), r"compute capability 6\.1; needed is 7\.0 \(Volta\) or newer; target='cpu' runs here"),
        (object(), "is not NVIDIA's driver; target='cpu' runs here"),
    ],
)
def test_no_gpu_that_can_be_used(driver: Any, says: str) -> None:
    with pytest.raises(tinyrnn.TargetError, match=says):
        Cuda(driver)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARIES", ("libnothing.so.9",))
    cuda_driver.first_gpu.cache_clear()
    with pytest.raises(
        tinyrnn.TargetError, match=r"needs an NVIDIA GPU and its driver: libnothing\.so\.9 .* target='cpu' runs here"
    ):
        tinyrnn.load(GESTURE, target="cuda")


def test_no_memory_says_how_many_would_fit() -> None:
    gpu = model_on(Driver())
    with pytest.raises(tinyrnn.TargetError, match=r"about [\d,]+ slots would fit"):
        gpu.pool(200_000)
    assert gpu.pool(3).step(X).shape == (3, 4)


def test_a_launch_that_fails_closes_the_pool_alone() -> None:
    driver = Driver()
    gpu = model_on(driver)
    pool, other = gpu.pool(3), gpu.pool(3)
    driver.fails["launch"] = ILLEGAL_ADDRESS
    with pytest.raises(tinyrnn.TargetError, match=r"cuLaunchKernel: illegal address; the pool is closed"):
        pool.step(X)
    driver.fails.clear()
    with pytest.raises(tinyrnn.StreamError, match="the GPU failed in an earlier call"):
        pool.step(X)
    pool.close()
    assert other.step(X).shape == (3, 4)


def test_code_that_the_driver_refuses() -> None:
    with pytest.raises(tinyrnn.TargetError, match=r"cannot take the code: bad PTX\. line 1: what is this\?"):
        Cuda(Driver()).load("no PTX", "tick")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Cuda(Driver())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(tinyrnn.TargetError, match="a process that was forked cannot use the GPU of its parent"):
        gpu.take(16)
