"""Models on a GPU: the same stages with the warp as machine, and PTX in the place of objects."""

from __future__ import annotations

from functools import cache
from typing import Any

from tinyrnn.compile.codegen import generate
from tinyrnn.compile.device_page import ENTRY, stream_page, tiled_page
from tinyrnn.compile.plan import Plan
from tinyrnn.compile.stream_planner import make_stream_plan
from tinyrnn.errors import TargetError
from tinyrnn.frontends.source import ModelSource
from tinyrnn.loading.stages import Stages, layout_of, stages_for
from tinyrnn.runtime.cuda_driver import Device, first_gpu
from tinyrnn.runtime.device_model import DeviceModel
from tinyrnn.runtime.device_pool import TILE, DevicePage
from tinyrnn.targets.cuda import MACHINE, call_ptx, ptx_of

CACHE = 1 << 25
"""bytes of weights that the second-level cache of a GPU holds"""
ROWS = 16
"""most frames of a pass where a warp takes one stream: every resident warp has an arena"""


TARGETS = ("cpu", "cuda", "cuda-emulated")
EMULATED_BYTES = 1 << 28
"""memory of an emulated GPU"""


def load_on_device(path: ModelSource, target: str, **how: Any) -> DeviceModel:
    """Compile the model of a file for a GPU. Raises as `tinyrnn.load`; `TargetError` where there is no such target, or no GPU."""
    device = device_of(target)
    return on_device(stages_for(path, MACHINE, CACHE, **how), device)


def device_of(target: str) -> Device:
    """The GPU of a target. Raises `TargetError`."""
    if target == "cuda":
        return first_gpu()
    if target == "cuda-emulated":
        from tinyrnn.targets.emulator.device import Emulated

        return Emulated(EMULATED_BYTES)
    raise TargetError(f"target={target!r}; supported are {', '.join(map(repr, TARGETS))}")


def on_device(stages: Stages, device: Device) -> DeviceModel:
    """The model of stages for the machine of `tinyrnn.targets.cuda`."""
    plan = stages.plan
    layout = layout_of(plan)
    bounds = [(int(name[1:]), low, high) for name, low, high in plan.bounds]
    return DeviceModel(layout, device, call_ptx(generate(plan)), cache(lambda: page_of(plan)), bounds, stages)


def page_of(plan: Plan) -> DevicePage:
    """What pools of a model run on: tiles of streams where each row can be a frame of another one."""
    tick = make_stream_plan(plan, MACHINE.lanes, MACHINE.registers, CACHE)
    if tick is None:
        ptx, capacity = ptx_of(stream_page(plan)), min(max(plan.chunk, 1), ROWS) + plan.lead
        return DevicePage(ptx, ENTRY, False, plan.arena_fixed, plan.arena_per_row, capacity, plan.weights)
    return DevicePage(ptx_of(tiled_page(plan, tick)), ENTRY, True, tick.arena_fixed, tick.arena_per_row, TILE, tick.weights)
