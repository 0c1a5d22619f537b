"""Flash, RAM and instructions per frame of models on small processors: python bench/native.py [MODEL.onnx …]

Builds each model for Cortex-M4 and runs it on an emulated board (qemu-system-arm, arm-none-eabi-gcc), where every
instruction takes a nanosecond, so that the timer counts instructions. Without models: those of the project, LSTM and GRU
of 64 units, and those of ../shared/models that are there. Prints the table of export/NATIVE.md, or
with --weights in place of models that of small weights.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import tinyrnn  # noqa: E402
from tests.native import machines  # noqa: E402
from tinyrnn.check.samples import random_sample  # noqa: E402

SHARED = ROOT.parent / "shared" / "models"
FRAMES = 50
LONGEST = 20
"""frames of a model that cannot stream"""
TARGETS = ("cortex-m4", "aarch64")
TYPES = ("float32", "float16", "int8", "int8x8")
SMALL = ("LSTM_64", "GRU_64", "char_lm", "gesture")
"""models of the table of small weights"""


def cell(folder: Path, kind: str, hidden: int) -> Path:
    """Plain weights of a cell with as many inputs as units."""
    rng = np.random.default_rng(0)
    gates = {"LSTM": 4, "GRU": 3}[kind]
    shapes = {"weight_ih_l0": (gates * hidden, hidden), "weight_hh_l0": (gates * hidden, hidden)}
    shapes |= {"bias_ih_l0": (gates * hidden,), "bias_hh_l0": (gates * hidden,)}
    path = folder / f"{kind}_{hidden}.npz"
    np.savez(path, **{f"rnn.{n}": (rng.standard_normal(s) / hidden**0.5).astype(np.float32) for n, s in shapes.items()})
    return path


def models(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    if sys.argv[1:]:
        return [(Path(name), {}) for name in sys.argv[1:]]
    found: list[tuple[Path, dict[str, Any]]] = [(cell(folder, k, 64), {"layers": [(k, "rnn")]}) for k in ("LSTM", "GRU")]
    found += [(p, {}) for p in sorted((ROOT / "tinyrnn" / "models").glob("*.onnx"))]
    found += [(SHARED / "dtln_model_1.onnx", {}), (SHARED / "dtln_model_2.onnx", {})]
    found.append((SHARED / "silero_vad_16k_op15.onnx", {"bind": {"sr": 16000, "sequence": 576}}))
    return [(p, how) for p, how in found if p.is_file()]


def row(path: Path, how: dict[str, Any], folder: Path) -> str:
    model = tinyrnn.load(path, **how)
    whole = bool(model._layout.refuses_stream)
    settings = {"rows": LONGEST} if whole else {}
    built = [tinyrnn.build(path, folder / f"{path.stem}-{target}", target, **settings, **how) for target in TARGETS]
    small, sizes = built[0], built[0].sizes
    instructions = "–"
    if not whole and not machines.why_not("cortex-m4"):
        inputs = random_sample(model, FRAMES).inputs
        arrays = [np.ascontiguousarray(inputs[p.name][0]) for p in model.inputs]
        run = machines.run_native(small, arrays, folder / "run", steps=FRAMES)
        instructions = f"{run.instructions:,.0f}"
    return (
        f"| {path.stem}{f' (--rows {LONGEST})' * whole} | {sizes.flash:,} | {sizes.code:,} | {sizes.ram:,} | {sizes.stack:,} | "
        f"{small.manifest['multiply_adds']:,} | {instructions} | {built[1].sizes.code:,} |"
    )


def small(path: Path, how: dict[str, Any], folder: Path) -> str:
    """A row of the table of small weights: flash, RAM and instructions for each type."""
    cells = []
    for kind in TYPES:
        given = {**how, "weights": kind}
        built = tinyrnn.build(path, folder / f"{path.stem}-{kind}", "cortex-m4", **given)
        instructions = "–"
        if not machines.why_not("cortex-m4"):
            model = tinyrnn.load(path, **given)
            inputs = random_sample(model, FRAMES).inputs
            arrays = [np.ascontiguousarray(inputs[p.name][0]) for p in model.inputs]
            run = machines.run_native(built, arrays, folder / f"run-{kind}", steps=FRAMES)
            instructions = f"{run.instructions:,.0f}"
        cells.append(f"{built.sizes.flash:,} / {built.sizes.ram:,} / {instructions}")
    return f"| {path.stem} | {' | '.join(cells)} |"


def main() -> None:
    if sys.argv[1:] == ["--weights"]:
        del sys.argv[1:]
        print(f"| model | {' | '.join(TYPES)} |\n|---|{'---|' * len(TYPES)}")
        with tempfile.TemporaryDirectory() as name:
            for path, how in models(Path(name)):
                if path.stem in SMALL:
                    print(small(path, how, Path(name)), flush=True)
        return
    print("| model | flash | of it code | RAM of a stream | stack | multiply-adds | instructions per frame | code on aarch64 |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for path, how in models(Path(name)):
            print(row(path, how, Path(name)), flush=True)


if __name__ == "__main__":
    main()
