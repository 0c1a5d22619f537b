"""`build`, from a model's file to a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tinyrnn
from tinyrnn.check.samples import random_sample
from tinyrnn.compile.codegen import generate
from tinyrnn.compile.plan import Plan
from tinyrnn.compile.pool_page import generate_pool
from tinyrnn.errors import TargetError, UnsupportedError
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.loading.load import LoadOptions, compiled
from tinyrnn.loading.stages import layout_of, plan_for
from tinyrnn.native import interface, pool, pool_selftest, selftest
from tinyrnn.native.archive import archive
from tinyrnn.native.bundle import compile_file, python_file
from tinyrnn.native.folder import prepare, write
from tinyrnn.native.header import header
from tinyrnn.native.interface import POOL_WORDS, Interface, PoolInterface, arguments_of, c_name, check_name
from tinyrnn.native.link import link, shared_linker, wasm_linker
from tinyrnn.native.manifest import describe
from tinyrnn.native.objects import contents
from tinyrnn.native.page import native_page
from tinyrnn.native.selftest import SelfTest, expected, selftest_file
from tinyrnn.native.sizes import Sizes, check_limits, sizes_of
from tinyrnn.native.web import module_file, page_file
from tinyrnn.runtime import Model
from tinyrnn.runtime.built import weights_header
from tinyrnn.runtime.memory import ALIGNMENT
from tinyrnn.targets.code import Code
from tinyrnn.targets.machine import ALLOWED_EXTERNALS, Machine, host
from tinyrnn.targets.target_table import Target, find_target
from tinyrnn.targets.worker import Unit, compile_for

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tinyrnn.native.gpu import BuiltForGpu

Say = Callable[[str], None]

SELFTEST_FRAMES = 16
SELFTEST_BYTES = 1 << 16
"""most bytes of inputs and outputs of the self-test, which has fewer frames if needed"""


@dataclass(frozen=True)
class Built:
    """The result of `build`."""

    folder: Path
    manifest: Mapping[str, Any]
    sizes: Sizes

    @property
    def files(self) -> list[str]:
        return sorted(self.manifest["files"])

    def __str__(self) -> str:
        target, sizes = self.manifest["target"], self.sizes
        where = "in the object" if sizes.weights_in_object else f"in {self.manifest['weights']}"
        stack = "" if sizes.stack is None else f"; {sizes.stack:,} of stack in a call"
        lines = [
            f"{self.manifest['name']} for {target['name']} ({target['triple']}, lanes: {target['lanes']})",
            f"  code     {sizes.code:,} bytes, constants {sizes.constants:,}, weights {sizes.weights:,} {where}: "
            f"flash {sizes.flash:,}",
            f"  RAM      {sizes.ram:,} bytes a stream: state {sizes.state:,}, arena {sizes.arena:,} ({self.manifest['rows']} "
            f"row{'s' * (self.manifest['rows'] > 1)} at once){stack}",
            *([f"  pool     {sizes.pool}"] if sizes.pool else []),
            f"  work     {self.manifest['multiply_adds']:,} multiply-adds per frame",
            f"  files    {', '.join(self.files)}",
        ]
        lines += [f"  note     {note}" for note in self.manifest["notes"]]
        return "\n".join(lines)


def build(
    path: str | PathLike[str],
    folder: str | PathLike[str],
    target: str = "host",
    *,
    name: str | None = None,
    cpu: str | None = None,
    features: str | None = None,
    emulate_fma: bool = False,
    weights_in: str = "object",
    rows: int | None = None,
    streams: int | None = None,
    max_ram: int | None = None,
    max_flash: int | None = None,
    say: Say | None = None,
    **options: Unpack[LoadOptions],
) -> Built | BuiltForGpu:
    """Compile a model (.onnx or .npz) for a target and write it to a folder, which is created if needed.

    target:      a name in `tinyrnn.targets.target_table.targets()`; `cpu` and `features` are LLVM's names in the place of its own
    name:        the prefix of files and C names, by default the model's
    emulate_fma: on a target without fused multiply-add, compute the same bits as machines that have it
    weights_in:  "object", or "file": in NAME.weights, which the program has to load
    rows:        frames of one pass: more take more RAM and make `run` faster; by default 1 without an operating system.
                 For a model that cannot stream, the longest sequence
    streams:     also make functions that step many streams in one call, at most so many
    max_ram, max_flash: most bytes that the build may take
    say:         called with the name of each step
    options:     those of `tinyrnn.load`: bind, states, outputs, time, layers, names, weights; "object" or "file" for `weights`
                 is taken for `weights_in`

    Raises `TargetError` where the target cannot have the model, `LoadError` and `UnsupportedError` as `load` does.
    """
    if target == "cuda":
        from tinyrnn.native.gpu import build_for_gpu

        asked = {"cpu": cpu, "features": features, "rows": rows, "streams": streams, "max_ram": max_ram, "max_flash": max_flash}
        strange = [key for key, value in asked.items() if value is not None] + ["emulate_fma"] * emulate_fma
        if strange:
            raise TargetError(f"target 'cuda' takes no {', '.join(strange)}: a GPU's driver decides, and pools have any size")
        return build_for_gpu(path, Path(folder), name, **options)
    chosen = find_target(target, cpu, features, emulate_fma)
    tell: Say = say or (lambda _: None)
    if (given := options.get("weights")) in ("object", "file"):
        options["weights"], weights_in = None, str(given)
    if weights_in not in ("object", "file"):
        raise TargetError(f"weights_in {weights_in!r}: they are in the 'object' or in a 'file' of their own")
    place = Path(folder)
    prepare(place)
    tell("loading")
    model = compiled(path, halves=False, **options)
    plan = _plan(path, model, chosen, options)
    tick = made_for = None
    if streams is not None:
        tick = pool.tick_of(model.name, plan, chosen, _alignment(chosen), streams)
        plan, made_for = replace(plan, weights=tick.weights), pool.pool_interface(tick, streams)
    rows = _rows(model, plan, chosen, rows)
    face = _interface(check_name(name or c_name(model.name)), model, plan, chosen, rows, weights_in == "file", made_for)
    tell("compiling")
    test = _selftest(model, chosen, rows if _needs_whole_sequences(plan) else SELFTEST_FRAMES)
    units = _units(plan, tick, face, chosen, test)
    made = compile_for(chosen.machine, units)
    for unit, (data, _) in zip(units, made, strict=True):
        _check_symbols(data, unit, chosen, f"{face.name}_weights")
    sizes = sizes_of(made, plan, face, weights_in == "object")
    check_limits(f"{model.name} for {chosen.name}", sizes, plan, rows, {"ram": max_ram, "flash": max_flash})
    tell("writing")
    objects = [data for data, _ in made]
    files = _object_files(face, objects, units, plan, sizes)
    notes = [chosen.note] if chosen.note else []
    if chosen.machine.fma == "split":
        notes.append("no fused multiply-add: results differ in the last bits from those of machines that have it (--emulate-fma)")
    library = _link(files, face, chosen, objects, notes)
    manifest = describe(face, chosen, plan, tick, sizes, layout_of(plan), library, files, _entries_for(units, face), notes)
    files["selftest.npz"] = selftest_file(test)
    if library.endswith(".so"):
        files[f"{face.name}.py"] = python_file(face, manifest).encode()
    if library.endswith(".wasm"):
        module = module_file(face, library)
        files[f"{face.name}.mjs"] = module.encode()
        files[f"{face.name}.html"] = page_file(face, module, files[library], files.get(f"{face.name}.weights", b"")).encode()
    manifest["files"] = {file: hashlib.sha256(data).hexdigest() for file, data in sorted(files.items())}
    write(place, manifest, files)
    if library.endswith(".so"):
        compile_file(place / f"{face.name}.py")
    return Built(place, manifest, sizes)


def _plan(path: str | PathLike[str], model: Model, target: Target, options: LoadOptions) -> Plan:
    if isinstance(model, DynamicShapeModel):
        sizes = ", ".join(f"--bind {size}=16" for size in model.open_sizes)
        raise UnsupportedError(f"{model.name}: its code has to know its sizes. Fix them: {sizes}, for instance")
    if model._layout.batches:
        names = ", ".join(model._layout.batches)
        raise UnsupportedError(f"{model.name}: the constants {names} have a batch axis, which build does not support")
    return plan_for(path, target.machine, _alignment(target), 0 if target.small else target.cache, **options)


def _needs_whole_sequences(plan: Plan) -> bool:
    """Whether every call takes a whole sequence. Without time, a call takes one frame."""
    return bool(plan.program.refuses_stream) and plan.program.kind != "static"


def _rows(model: Model, plan: Plan, target: Target, rows: int | None) -> int:
    if rows is not None and rows < 1:
        raise TargetError(f"rows {rows}: a pass has at least one frame")
    if plan.program.kind == "step":
        if rows not in (None, 1):
            raise TargetError(f"{model.name}: a step model has one frame a pass, not {rows}")
        return 1
    if _needs_whole_sequences(plan):
        if plan.program.waits:
            raise UnsupportedError(f"{model.name}: cannot stream ({plan.program.refuses_stream}), and its rows come late")
        if rows is None:
            raise TargetError(
                f"{model.name}: cannot stream ({plan.program.refuses_stream}). Built, it takes whole sequences: give the "
                f"frames of the longest, --rows 100"
            )
        return rows
    return rows or (1 if target.small else plan.chunk)


def _alignment(target: Target) -> int:
    return max(8, 4 * target.machine.lanes) if target.system in ("none", "web") else ALIGNMENT


def _interface(
    name: str, model: Model, plan: Plan, target: Target, rows: int, file: bool, made_for: PoolInterface | None
) -> Interface:
    layout, taken = model._layout, {name, f"{name}_stream", *(POOL_WORDS if made_for else [])}
    inputs, outputs = arguments_of(layout.inputs, taken), arguments_of(layout.outputs, taken)
    capacity = rows + plan.lead
    return Interface(
        name=name,
        model=model.name,
        target=target.name,
        bits=target.machine.bits,
        inputs=inputs,
        outputs=outputs,
        state_floats=plan.state_size,
        arena_bytes=plan.arena_bytes(capacity),
        weights_bytes=len(plan.weights),
        alignment=8,
        preferred=8 if target.small else 16 if target.system == "web" else ALIGNMENT,
        rows=rows,
        lead=plan.lead,
        streams=not _needs_whole_sequences(plan),
        counted=bool(plan.clocks),
        waits=bool(plan.program.waits),
        tail=tuple(_tail(port.clock, layout) for port in layout.outputs),
        weights_header=weights_header(plan.weights) if file else b"",
        zeros=not plan.initial_state().any(),
        pool=made_for,
    )


def _tail(clock: Any, layout: Any) -> int:
    """The largest number of rows that a flush can make."""
    longest = 2 * clock.stride + clock.delay + 2
    return max(clock.count(layout.last(n), n) - clock.count(n) for n in range(1, longest + 1)) if layout.waits else 0


def _selftest(model: Model, target: Target, most: int) -> SelfTest:
    """Random frames, at most `most` and those of a delay, with the outputs of this machine's code, fma split as on the target."""
    layout = model._layout
    frame = sum(prod(p.shape) * p.dtype.itemsize for p in (*model.inputs, *model.outputs) if p.per_frame)
    frames = min(most, SELFTEST_FRAMES, max(2, SELFTEST_BYTES // max(frame, 1))) + (model.delay if layout.waits else 0)
    sample = random_sample(model, frames, seed=0)
    inputs = [np.ascontiguousarray(sample.inputs[p.name][0]) for p in model.inputs]
    runs = model
    if target.machine.fma == "split":
        plan = model._source.plan
        source = generate(plan)
        (made,) = compile_for(_split(host()), [Unit("expected", source.text, source.entries, exports=tuple(source.entries))])
        runs = Model(layout_of(plan), Code("", [made.data], source.entries, False))
    return SelfTest(frames, tuple(inputs), tuple(expected(runs, inputs, frames)))


def _split(machine: Machine) -> Machine:
    return replace(machine, fma="split")


def _units(plan: Plan, tick: Plan | None, face: Interface, target: Target, test: SelfTest) -> list[Unit]:
    """The compilation units: the model, its pools, its self-test and, for shared libraries, the entries for Python."""
    page, functions = native_page(plan, face)
    initial = plan.initial_state()
    weights = face.weights_header or plan.weights.tobytes()
    data = {"weights.bin": weights, **({} if face.zeros else {"initial.bin": initial.tobytes()})}
    if not weights:
        del data["weights.bin"]
    shown = [f"{face.name}_{f}" for f in face.functions]
    shown += [f"{face.name}_weights"] if face.weights_bytes and not face.weights_header else []
    units = [
        Unit(face.name, page, functions, interface.around(face, initial, "weights.bin"), shown, (), data),
        *([_pool_unit(tick, face, face.pool)] if tick and face.pool else []),
        _selftest_unit(face, test),
    ]
    if target.shared:
        source = generate(plan)
        entries = {f"{face.name}.{entry}": arity for entry, arity in _entries(source.entries, face).items()}
        units.append(Unit(f"{face.name}_python", source.text, entries, exports=tuple(entries)))
    if target.shared and tick:
        source = generate_pool(plan, tick)
        entries = {f"{face.name}.pool.{entry}": arity for entry, arity in source.entries.items()}
        units.append(Unit(f"{face.name}_pool_python", source.text, entries, exports=tuple(entries)))
    return units


def _pool_unit(tick: Plan, face: Interface, made_for: PoolInterface) -> Unit:
    page, functions = pool.pool_page(tick, made_for)
    shown = [f"{face.name}_{f}" for f in face.pool_functions]
    called = [f"{face.name}_init", f"{face.name}_reset"]
    return Unit(f"{face.name}_pool", page, functions, pool.around(face, made_for), shown, called)


def _selftest_unit(face: Interface, test: SelfTest) -> Unit:
    text, data = selftest.around(face, test)
    shown, called = ["selftest"], ["reset", "run", "step"]
    if face.pool:
        more, stored = pool_selftest.around_pool(face, face.pool, test)
        text, data, shown, called = text + more, {**data, **stored}, [*shown, "pool_selftest"], [*called, *face.pool_functions]
    exports, externals = ([f"{face.name}_{f}" for f in each] for each in (shown, called))
    return Unit(f"{face.name}_selftest", around=text, exports=exports, externals=externals, data=data)


def _entries_for(units: Sequence[Unit], face: Interface) -> list[str]:
    """The entries for Python of one stream, as the manifest names them."""
    unit = next((unit for unit in units if unit.name == f"{face.name}_python"), None)
    return [entry.rpartition(".")[2] for entry in unit.functions] if unit else []


def _entries(entries: Mapping[str, int], face: Interface) -> dict[str, int]:
    """The entries for Python; those that read array headers exist for 64-bit Python only."""
    return dict(entries) if face.bits == 64 else {"run": entries["run"]}


def _check_symbols(data: bytes, unit: Unit, target: Target, weights: str) -> None:
    """Raise `TargetError` for an object with undefined symbols: LLVM calls functions for instructions that a processor lacks."""
    wanted = set(contents(data).needed) - {*unit.externals, weights, *ALLOWED_EXTERNALS, "__linear_memory", "__stack_pointer"}
    wanted -= {"_GLOBAL_OFFSET_TABLE_", "__indirect_function_table"}
    if wanted:
        raise TargetError(
            f"{unit.name} cannot be built for {target.name}: the processor has no instruction for a part of it, which would "
            f"need {', '.join(sorted(wanted))} (float64, or a conversion of int64). A target with them, or --features, may do"
        )


def _object_files(face: Interface, made: Sequence[bytes], units: Sequence[Unit], plan: Plan, sizes: Sizes) -> dict[str, bytes]:
    name = face.name
    for_python = (f"{name}_python", f"{name}_pool_python")
    own = [(unit, data) for unit, data in zip(units, made, strict=True) if unit.name not in for_python]
    members = {f"{unit.name}.o": data for unit, data in own}
    symbols = {f"{unit.name}.o": list(unit.exports) for unit, _ in own}
    files = {**members, f"lib{name}.a": archive(members, symbols)}
    files[f"{name}.h"] = header(face, sizes, f"tinyrnn {tinyrnn.__version__}").encode()
    if face.weights_header:
        files[f"{name}.weights"] = face.weights_header + plan.weights.tobytes()
    return files


def _link(files: dict[str, bytes], face: Interface, target: Target, made: Sequence[bytes], notes: list[str]) -> str:
    """The name of the linked file; empty if there is none."""
    if target.shared:
        command = shared_linker(target)
        if not command:
            notes.append(f"no lib{face.name}.so and {face.name}.py: no linker was found (cc, ld.lld, or pip install ziglang)")
            return ""
        library = f"lib{face.name}.so"  # without lib, Python would take it for the module
        files[library] = link(command, made)
        return library
    if target.system == "web":
        command = wasm_linker()
        if not command:
            notes.append(f"no {face.name}.wasm, .mjs and .html: no wasm-ld was found (lld, or pip install ziglang)")
            return ""
        shown = [*(f"{face.name}_{f}" for f in face.all_functions), "__heap_base"]
        files[f"{face.name}.wasm"] = link(command, made, [f"--export={symbol}" for symbol in shown])
        return f"{face.name}.wasm"
    return ""
