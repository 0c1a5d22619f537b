"""`DeviceModel`: a model whose streams, pools and whole runs are on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyrnn.errors import StreamError, TargetError
from tinyrnn.runtime.cuda_driver import Device
from tinyrnn.runtime.device_code import DeviceCode
from tinyrnn.runtime.device_pool import DevicePage, DevicePool
from tinyrnn.runtime.memory import Layout
from tinyrnn.runtime.model import Model, Stream
from tinyrnn.runtime.pool import Pool


class DeviceModel(Model):
    """As `Model`, with the same bits. A stream's state is the caller's and travels with each call; a pool's stays on the GPU."""

    def __init__(
        self,
        layout: Layout,
        device: Device,
        call: tuple[str, str],
        page: Callable[[], DevicePage],
        bounds: Sequence[tuple[int, int, int]],
        source: Any = None,
    ) -> None:
        """call: PTX and kernel of one stream; page: makes what pools run on; bounds: inputs with indices, lowest, highest."""
        super().__init__(layout, DeviceCode(device, layout, *call), source)
        self._device, self._page, self._bounds = device, page, bounds

    def stream(self, threads: int = 1) -> Stream:
        """A new live input in its initial state, which one warp of the GPU runs. Raises `StreamError`, and `TargetError`."""
        self._one_thread(threads)
        return super().stream()

    def pool(self, slots: int, threads: int = 1) -> Pool:
        """Many new live inputs in their initial state on the GPU. Raises `StreamError`, and `TargetError` without room."""
        self._check_streams()
        self._one_thread(threads)
        return DevicePool(self, slots, self._page(), self._device, self._bounds)

    def _one_thread(self, threads: int) -> None:
        if threads != 1:
            raise TargetError(f"{self.name}: threads={threads}; on a GPU its warps take the place of threads")

    def traced(self) -> Any:
        raise StreamError(f"{self.name}: traces are made on the processor: tinyrnn.load(…, target='cpu')")
