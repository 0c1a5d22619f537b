"""A model as a GPU runs it, on the emulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyrnn.compile.codegen import generate
from tinyrnn.compile.planner import make_plan
from tinyrnn.loading.device import on_device
from tinyrnn.runtime import Model
from tinyrnn.targets.cuda import MACHINE
from tinyrnn.targets.emulator.device import Emulated


def on_emulator(model: Model, schedule: np.random.Generator | None = None) -> Model:
    stages = model._source
    plan = make_plan(stages.program, MACHINE.lanes, MACHINE.registers)
    return on_device(replace(stages, plan=plan, source=generate(plan)), Emulated(1 << 25, schedule))
