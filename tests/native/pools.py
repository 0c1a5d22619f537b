"""Runs the pools of what `tinyrnn build` made on other machines, and holds them against lone streams of this one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from tests.native.machines import HERE, executed, weights_macro
from tests.pools import frames
from tinyrnn.native.builder import Built
from tinyrnn.native.interface import POOL_WORDS, arguments_of
from tinyrnn.runtime import Model
from tinyrnn.runtime.built import layout_from

Array = np.ndarray[Any, Any]


def agree_in_pool(model: Model, built: Built, work: Path, slots: int = 23, calls: int = 12) -> None:
    """Any streams that step together in native code, in any order, have the bits of lone streams here."""
    rng = np.random.default_rng(5)
    most = min(slots, built.manifest["streams"])
    companies = [rng.permutation(slots)[: rng.integers(1, most + 1)] for _ in range(calls - 2)]
    companies += [np.arange(most), np.arange(slots)[: slots - most - 1 : -1]]
    given = [frames(model, rng, len(which)) for which in companies]
    outputs, states = _run(built, [np.concatenate(arrays) for arrays in zip(*given, strict=True)], companies, slots, work)
    alone = [model.stream() for _ in range(slots)]
    row = 0
    for which, arrays in zip(companies, given, strict=True):
        for place, slot in enumerate(which):
            made = alone[slot].step(*(a[place] for a in arrays))
            for found, expected in zip(outputs, made if isinstance(made, tuple) else (made,), strict=True):
                assert found[row].tobytes() == np.asarray(expected).tobytes(), (which, slot)
            row += 1
    for slot, stream in enumerate(alone):
        assert states[slot, : stream.state.size].tobytes() == stream.state.tobytes()


def _run(built: Built, inputs: list[Array], companies: list[Array], slots: int, work: Path) -> tuple[list[Array], Array]:
    """(outputs, row by row of all calls; the states at the end)."""
    layout = layout_from(built.manifest["layout"], np.zeros(0, np.uint8))
    work.mkdir()
    for i, x in enumerate(inputs):
        (work / f"in_{i}").write_bytes(np.ascontiguousarray(x).tobytes())
    if built.manifest["target"]["name"] == "wasm32":
        (work / "which.json").write_text(json.dumps([which.tolist() for which in companies]))
        module = built.folder.resolve() / f"{built.manifest['name']}.mjs"
        done = subprocess.run(
            ["node", str(HERE / "pool.mjs"), str(module), str(slots)], capture_output=True, text=True, cwd=work, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        (work / "calls.h").write_text(_calls(built, companies, slots))
        executed(built, work, HERE / "pool.c", ["-Wno-unused-function"])
        word = np.int32 if built.manifest["target"]["bits"] == 32 else np.int64
        assert np.fromfile(work / "result", word)[0] == 0
    outputs = [np.fromfile(work / f"out_{i}", p.dtype).reshape(-1, *p.shape) for i, p in enumerate(layout.outputs)]
    return outputs, np.fromfile(work / "states", np.float32).reshape(slots, -1)


def _calls(built: Built, companies: list[Array], slots: int) -> str:
    """calls.h: what the driver cannot know of the model."""
    name, up = built.manifest["name"], built.manifest["name"].upper()
    layout = layout_from(built.manifest["layout"], np.zeros(0, np.uint8))
    taken = {name, f"{name}_stream", *POOL_WORDS}
    inputs, outputs = arguments_of(layout.inputs, taken), arguments_of(layout.outputs, taken)
    rows = sum(map(len, companies))
    buffers = "".join(f"static {a.c_type} BIG {a.name}[{rows}][{up}_{a.name.upper()}_SIZE]; " for a in (*inputs, *outputs))
    at = ", ".join(f"{a.name}[row]" for a in (*inputs, *outputs))
    first = ", ".join(f"{a.name}[0]" for a in (*inputs, *outputs))
    values = {
        "SLOTS": slots,
        "OUTPUTS": len(outputs),
        "STREAMS": f"{up}_STREAMS",
        "POOL": f"{name}_pool",
        "MEMORY": f"{up}_POOL_MEMORY(mine, SLOTS);",
        "INIT": f"{name}_pool_init",
        "RESET": f"{name}_pool_reset",
        "SELFTEST": f"{name}_pool_selftest",
        "BAD_MEMORY": f"{up}_BAD_MEMORY",
        "BAD_SLOT": f"{up}_BAD_SLOT",
        "TOO_MANY": f"{up}_TOO_MANY",
        "COUNTS": "{" + ", ".join(str(len(which)) for which in companies) + "}",
        "WHICH": "{" + ", ".join(str(slot) for which in companies for slot in which) + "}",
        "BUFFERS": buffers,
        "READ": " ".join(f'result |= transfer("in_{i}", {a.name}, sizeof {a.name}, 0);' for i, a in enumerate(inputs)),
        "STEP": f"result = {name}_pool_step(&pool, which + row, counts[call], {at});",
        "TRY(pool, slots, m)": f"{name}_pool_step(pool, slots, m, {first})",
        "WRITE": " ".join(f'transfer("out_{i}", {a.name}, sizeof {a.name}, 1);' for i, a in enumerate(outputs)),
    }
    return (
        "\n".join([f'#include "{name}.h"', *(f"#define {key} {value}" for key, value in values.items()), *weights_macro(built)])
        + "\n"
    )
