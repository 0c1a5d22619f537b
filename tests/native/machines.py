"""Runs what `tinyrnn build` made on other machines: emulators, cross compilers and Node, and whether they are here."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.native import pc
from tinyrnn.native.builder import Built
from tinyrnn.native.interface import arguments_of
from tinyrnn.runtime.built import layout_from

HERE = Path(__file__).parent
TICK = 40
"""instructions of one tick of SysTick at 25 MHz where every instruction takes a nanosecond (-icount shift=0)"""
LEAST_STACK = 192
"""bytes that driver.c cannot tell from its own"""
GCC = ["-O1", "-Wall", "-Wextra", "-Werror", "-Wno-type-limits", "-std=c11"]
CORTEX = [
    "-mthumb",
    "-mfloat-abi=hard",
    "-nostartfiles",
    "--specs=nano.specs",
    "-DBOARD",
    "-Wno-int-to-pointer-cast",
    "-Wno-pointer-to-int-cast",
]


BOARDS = {
    "mps2-an386": ("0x0", "0x20000000, LENGTH = 4M", "0x21000000"),
    "mps2-an500": ("0x0", "0x20000000, LENGTH = 4M", "0x60000000"),
    "mps2-an505": ("0x10000000", "0x38000000, LENGTH = 2M", "0x80000000"),
}
"""where the boards have code, data, and their 16 MB of memory"""


@dataclass(frozen=True)
class Way:
    """How programs for a target are compiled and run here."""

    compiler: tuple[str, ...]
    runner: tuple[str, ...] = ()


WAYS = {
    "host": Way(("gcc",)),
    "x86-64-v2": Way(("gcc",)),
    "x86-64-v3": Way(("gcc",)),
    "x86-64-v4": Way(("gcc",)),
    "aarch64": Way(("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64", "-cpu", "cortex-a53")),
    "armv7": Way(("arm-linux-gnueabihf-gcc", "-static"), ("qemu-arm", "-cpu", "cortex-a7")),
    "riscv64": Way(("riscv64-linux-gnu-gcc", "-static"), ("qemu-riscv64", "-cpu", "rv64,v=false")),
    "riscv64-v": Way(("riscv64-linux-gnu-gcc", "-static"), ("qemu-riscv64", "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0")),
    "cortex-m4": Way(
        ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", *CORTEX), ("qemu-system-arm", "-M", "mps2-an386")
    ),
    "cortex-m7": Way(
        ("arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", *CORTEX), ("qemu-system-arm", "-M", "mps2-an500")
    ),
    "cortex-m33": Way(
        ("arm-none-eabi-gcc", "-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", *CORTEX), ("qemu-system-arm", "-M", "mps2-an505")
    ),
}
for _rpi in ("rpi3", "rpi4", "rpi5", "jetson-orin"):
    WAYS[_rpi] = Way(("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64", "-cpu", "max"))


def _processor_has(target: str) -> bool:
    """Whether this processor runs code of a level of x86-64."""
    flag = {"x86-64-v2": "sse4_2", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}[target]
    try:
        return f" {flag} " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def why_not(target: str) -> str:
    """Why programs for a target cannot run here; empty where they can."""
    if target == "wasm32":
        missing = [tool for tool in ("node", "wasm-ld") if not shutil.which(tool)]
    else:
        way = WAYS[target]
        missing = [tool for tool in (way.compiler[0], *way.runner[:1]) if not shutil.which(tool)]
    if missing:
        return f"{' and '.join(missing)}, which run {target} here, are not installed"
    if target.startswith("x86-64") and not _processor_has(target):
        return pc.why_not() if target == "x86-64-v4" else f"this processor cannot run {target}"
    return ""


def _calls(built: Built, frames: int, steps: int, chunk: int) -> str:
    """calls.h: what the driver cannot know of the model."""
    manifest = built.manifest
    name, up = manifest["name"], manifest["name"].upper()
    layout = layout_from(manifest["layout"], np.zeros(0, np.uint8))
    taken = {name, f"{name}_stream"}
    inputs, outputs = arguments_of(layout.inputs, taken), arguments_of(layout.outputs, taken)
    functions = manifest["functions"]
    counted = "frames" in [name for name, *_ in layout.state_parts]
    rate = {a.name: a.rate * (frames + 64 if counted else frames) if a.port.per_frame else 1 for a in (*inputs, *outputs)}
    lines = [f'#include "{name}.h"', f"#define FRAMES {frames}ul", f"#define STEPS {steps}ul", f"#define CHUNK {chunk}ul"]
    lines += [f"#define OUTPUTS {len(outputs)}", f"#define STREAM {name}_stream", f"#define MEMORY {up}_MEMORY(mine);"]
    lines += [f"#define INIT {name}_init", f"#define SELFTEST {name}_selftest"]
    buffers = "".join(
        f"static {a.c_type} BIG {a.name}[{rate[a.name]}][{up}_{a.name.upper()}_SIZE]; " for a in (*inputs, *outputs)
    )
    lines.append(f"#define BUFFERS {buffers}")
    size = {a.name: f"{frames if a.port.per_frame else 1} * sizeof {a.name}[0]" for a in inputs}
    lines.append(
        "#define READ " + " ".join(f'status |= transfer("in_{i}", {a.name}, {size[a.name]}, 0);' for i, a in enumerate(inputs))
    )

    def given(function: str) -> str:
        words = ["&stream", *(["n"] if function == "run" else [])]
        for a in inputs:
            if function != "flush" or not a.port.per_frame:
                words.append(f"{a.name}[frame]" if a.port.per_frame else f"{a.name}[0]")
        for i, a in enumerate(outputs):
            words.append(
                (f"{a.name}[result[{1 + i}]]" if counted else f"{a.name}[frame]") if a.port.per_frame else f"{a.name}[0]"
            )
        return ", ".join([*words, *(["rows"] if counted else [])])

    add = " ".join(f"result[{1 + i}] += rows[{i}];" for i in range(len(outputs))) if counted else ""
    step = f"status = {name}_step({given('step')}); {add}" if f"{name}_step" in functions else ""
    lines += [f"#define STEP {step}", f"#define RUN status = {name}_run({given('run')}); {add}"]
    lines.append(
        "#define FLUSH "
        + (f"if (!status) {{ status = {name}_flush({given('flush')}); {add} }}" if f"{name}_flush" in functions else "")
    )
    write = " ".join(
        f'transfer("out_{i}", {a.name}, {f"result[{1 + i}]" if counted and a.port.per_frame else (frames if a.port.per_frame else 1)} * sizeof {a.name}[0], 1);'
        for i, a in enumerate(outputs)
    )
    lines.append(f"#define WRITE (void)rows; {write}")
    return "\n".join([*lines, *weights_macro(built)]) + "\n"


def weights_macro(built: Built) -> list[str]:
    """What tells a driver the size of the file of weights, if there is one."""
    return [f"#define WEIGHTS {64 + built.manifest['sizes']['weights']}"] if built.manifest["weights"] else []


@dataclass(frozen=True)
class Run:
    """What a program gave."""

    outputs: list[np.ndarray[Any, Any]]
    rows: list[int]
    instructions: float
    """of one step, where the emulator counts them"""
    stack: int = 0
    """bytes that calls took, where that was measured, at least LEAST_STACK"""


def run_native(
    built: Built,
    inputs: list[np.ndarray[Any, Any]],
    work: Path,
    steps: int | None = None,
    chunk: int = 7,
    flags: list[str] | None = None,
) -> Run:
    """The model over frames [T, *frame]: half of them by step, the rest by run in chunks, from the initial state."""
    target, manifest = built.manifest["target"]["name"], built.manifest
    layout = layout_from(manifest["layout"], np.zeros(0, np.uint8))
    frames = next((len(x) for x, p in zip(inputs, layout.inputs, strict=True) if p.per_frame), 1)
    if steps is None:
        steps = frames // 2 if f"{manifest['name']}_step" in manifest["functions"] else 0
        chunk = chunk if steps else frames
    work.mkdir(parents=True, exist_ok=True)
    if target == "wasm32":
        return _node(built, inputs, work, steps, chunk)
    (work / "calls.h").write_text(_calls(built, frames, steps, chunk))
    for i, x in enumerate(inputs):
        (work / f"in_{i}").write_bytes(x.tobytes())
    executed(built, work, HERE / "driver.c", flags or [])
    return _run_of(built, work, steps)


def executed(built: Built, work: Path, driver: Path, flags: list[str]) -> None:
    """Compile a driver, whose files are in `work`, and run it there."""
    target, manifest = built.manifest["target"]["name"], built.manifest
    way = WAYS[target]
    if manifest["weights"]:
        (work / "weights").write_bytes((built.folder / manifest["weights"]).read_bytes())
    program = work / "program"
    if target == "x86-64-v4" and not _processor_has(target):
        pc.run([*GCC, *flags, "-I", str(work), "-I", str(built.folder)], driver, built.folder / f"lib{manifest['name']}.a", work)
        return
    bare = "-DBOARD" in way.compiler
    if bare:
        places = dict(zip(("CODE_AT", "DATA_AT", "LARGE_AT"), BOARDS[way.runner[-1]], strict=True))
        (work / "board.ld").write_text(
            re.sub("|".join(places), lambda match: places[match.group()], (HERE / "board.ld").read_text())
        )
    script = ["-T", str(work / "board.ld"), "-Wl,--no-warn-rwx-segments"] if bare else []
    line = [
        *way.compiler,
        *GCC,
        *flags,
        "-I",
        str(work),
        "-I",
        str(built.folder),
        str(driver),
        str(built.folder / f"lib{manifest['name']}.a"),
        *script,
        "-o",
        str(program),
    ]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = [*way.runner, str(program)]
    if bare:
        command = [
            *way.runner,
            "-nographic",
            "-monitor",
            "none",
            "-serial",
            "none",
            "-semihosting-config",
            "enable=on,target=native",
            "-icount",
            "shift=0",
            "-kernel",
            str(program),
        ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, timeout=600)
    assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}"


def _run_of(built: Built, work: Path, steps: int) -> Run:
    """What the driver wrote."""
    layout = layout_from(built.manifest["layout"], np.zeros(0, np.uint8))
    word = np.int32 if built.manifest["target"]["bits"] == 32 else np.int64
    result = np.fromfile(work / "result", word)
    assert result[0] == 0, f"status {result[0]}"
    count = len(layout.outputs)
    outputs = [np.fromfile(work / f"out_{i}", p.dtype).reshape(-1, *p.shape) for i, p in enumerate(layout.outputs)]
    outputs = [o if p.per_frame else o[0] for o, p in zip(outputs, layout.outputs, strict=True)]
    return Run(
        outputs, [int(n) for n in result[1 : 1 + count]], float(result[1 + count]) * TICK / max(steps, 1), int(result[2 + count])
    )


def _node(built: Built, inputs: list[np.ndarray[Any, Any]], work: Path, steps: int, chunk: int) -> Run:
    for i, x in enumerate(inputs):
        (work / f"in_{i}").write_bytes(x.tobytes())
    module = built.folder.resolve() / f"{built.manifest['name']}.mjs"
    done = subprocess.run(
        ["node", str(HERE / "run.mjs"), str(module), str(steps), str(chunk)],
        capture_output=True,
        text=True,
        cwd=work,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    layout = layout_from(built.manifest["layout"], np.zeros(0, np.uint8))
    outputs = [np.fromfile(work / f"out_{i}", p.dtype).reshape(-1, *p.shape) for i, p in enumerate(layout.outputs)]
    return Run([o if p.per_frame else o[0] for o, p in zip(outputs, layout.outputs, strict=True)], [len(o) for o in outputs], 0.0)
