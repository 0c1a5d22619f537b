"""A model built for NVIDIA GPUs: PTX, which the driver there assembles, weights, a self-test, and what `load_built` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import tinyrnn
from tinyrnn.check.samples import random_sample
from tinyrnn.compile.codegen import generate
from tinyrnn.errors import UnsupportedError
from tinyrnn.loading.device import CACHE, page_of
from tinyrnn.loading.load import load
from tinyrnn.loading.stages import layout_of, stages_for
from tinyrnn.native.folder import prepare, write
from tinyrnn.native.interface import c_name, check_name
from tinyrnn.native.selftest import SelfTest, expected, selftest_file
from tinyrnn.runtime.built import FORMAT, layout_value
from tinyrnn.runtime.device_built import FILES, TARGET
from tinyrnn.targets.cuda import MACHINE, call_ptx

FRAMES = 8
"""of the self-test"""


@dataclass(frozen=True)
class BuiltForGpu:
    """The result of a build for GPUs."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def files(self) -> list[str]:
        return sorted(self.manifest["files"])

    def __str__(self) -> str:
        layout, page = self.manifest["layout"], self.manifest["page"]
        tiles = f"tiles of {page['capacity']} streams a warp" if page["tick"] else "a warp for each stream"
        return "\n".join(
            [
                f"{self.manifest['name']} for NVIDIA GPUs from compute capability 7.0 on ({self.manifest['target']['cpu']})",
                f"  weights  {self.manifest['sizes']['weights']:,} bytes, state {4 * layout['state_floats']:,} a stream; {tiles}",
                f"  work     {self.manifest['multiply_adds']:,} multiply-adds per frame",
                f"  files    {', '.join(self.files)}",
            ]
        )


def build_for_gpu(path: str | PathLike[str], folder: Path, name: str | None = None, **options: Any) -> BuiltForGpu:
    """Compile a model for GPUs and write it to a folder, which is created if needed. Raises as `tinyrnn.build`."""
    prepare(folder)
    model = load(path, **options)
    plan = stages_for(path, MACHINE, CACHE, **options).plan
    layout, page = layout_of(plan), page_of(plan) if not plan.program.refuses_stream else None
    if page is None:
        raise UnsupportedError(f"{model.name}: cannot stream ({plan.program.refuses_stream}); a build for GPUs is for streams")
    sample = random_sample(model, FRAMES + (model.delay if layout.waits else 0), seed=0)
    frames = sample.frames
    inputs = [np.ascontiguousarray(sample.inputs[p.name][0]) for p in model.inputs]
    test = SelfTest(frames, tuple(inputs), tuple(expected(model, inputs, frames)))
    ptx, kernel = call_ptx(generate(plan))
    files = {
        FILES["call"]: ptx.encode(),
        FILES["pool"]: page.ptx.encode(),
        FILES["weights"]: plan.weights.tobytes(),
        FILES["pool_weights"]: page.weights.tobytes(),
        FILES["state"]: layout.initial_state.tobytes(),
        "selftest.npz": selftest_file(test),
    }
    if files[FILES["pool_weights"]] == files[FILES["weights"]]:
        del files[FILES["pool_weights"]]
    manifest = {
        "format": FORMAT,
        "made_by": f"tinyrnn {tinyrnn.__version__}",
        "name": check_name(name or c_name(model.name)),
        "model": model.name,
        "target": {"name": TARGET, "triple": MACHINE.triple, "cpu": MACHINE.cpu, "lanes": MACHINE.lanes},
        "sizes": {"weights": len(plan.weights)},
        "multiply_adds": plan.multiply_adds,
        "layout": layout_value(layout),
        "kernel": kernel,
        "page": {n: getattr(page, n) for n in ("entry", "tick", "arena_fixed", "arena_per_row", "capacity")},
        "bounds": [[int(port[1:]), low, high] for port, low, high in plan.bounds],
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in sorted(files.items())},
    }
    write(folder, manifest, files)
    return BuiltForGpu(folder, manifest)
