"""LLVM text and the bitcode of kernels → a relocatable object for one machine.

Everything but the exported names is internal, inlined and optimised once for the machine. The object needs nothing
but memcpy and memset, so it cannot allocate, raise or call back into Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from tinyrnn.errors import TargetError
from tinyrnn.targets.machine import ALLOWED_EXTERNALS, Machine
from tinyrnn.targets.stack import WARNS, calls_in

_DEFINED = re.compile(r"^(define .*?)((?: #\d+)?)((?: prologue .*)?) \{$", re.M)
_ALONE = f'"no-builtins" {WARNS}'


class Emitted(NamedTuple):
    """An object; for one made `alone` also the calls between its functions."""

    data: bytes
    calls: dict[str, list[str]]


@cache
def target_machine(machine: Machine) -> Any:
    """LLVM's back end for a machine."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu,
        features=machine.features,
        opt=3,
        reloc=machine.reloc,
        codemodel="default",
        abiname=machine.abi,
    )


def emit(
    machine: Machine,
    texts: Sequence[str],
    kernels: Iterable[bytes],
    exports: Sequence[str],
    externals: Sequence[str] = (),
    shared: Iterable[str] = (),
    alone: bool = False,
) -> Emitted:
    """An object from LLVM texts, which may call each other, and from the kernels that they call.

    exports:   the names that the object exports
    externals: the names that it may call in other objects
    shared:    functions that are called too often for a copy at each call
    alone:     for an object that others link: names in it depend on its text only, nothing unwinds, and no loop becomes
               a call of memcpy or memset, and LLVM prints the frames of its functions
    Raises `TargetError` where the code calls anything else outside itself.
    """
    back_end = target_machine(machine)
    name = f'source_filename = "{exports[0]}"\n' if alone else ""
    layout = f'target triple="{machine.triple}"\ntarget datalayout="{back_end.target_data}"\n'
    module = llvm.parse_assembly(name + layout)
    for text in texts:
        module.link_in(llvm.parse_assembly(layout + text))
    parsed = [llvm.parse_bitcode(kernel) for kernel in kernels]
    for kernel in parsed:
        module.link_in(kernel)
    _internalise(module, set(exports))
    for each in shared:
        module.get_function(each).add_function_attribute("noinline")
    if alone:
        module = llvm.parse_assembly(_DEFINED.sub(rf"\1\2 nounwind {_ALONE}\3 {{", str(module)))
    _optimise(module, back_end, speed_level=2 if parsed or alone else 1)  # a page without kernels only counts and calls
    if alone:
        _rename(module, set(exports))
    outside = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
    outside -= {*ALLOWED_EXTERNALS, *externals}
    if outside:
        raise TargetError(
            f"the compiled step would call {', '.join(sorted(outside))}: "
            "a kernel uses something that is not in the kernel language"
        )
    calls = calls_in(module) if alone else {}
    data = back_end.emit_assembly(module).encode() if machine.warp else bytes(back_end.emit_object(module))
    return Emitted(data, calls)


def _internalise(module: Any, exports: set[str]) -> None:
    for function in module.functions:
        if not function.is_declaration and function.name not in exports and function.linkage.name != "weak_any":
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration and variable.linkage.name != "internal" and variable.name not in exports:
            variable.linkage = "internal"
    module.verify()


def _optimise(module: Any, back_end: Any, speed_level: int) -> None:
    """At level 3 loops are larger, and no faster."""
    tuning = llvm.create_pipeline_tuning_options(speed_level)
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    tuning.loop_unrolling = True
    builder = llvm.create_pass_builder(back_end, tuning)
    builder.getModulePassManager().run(module, builder)
    last = llvm.create_new_module_pass_manager()
    last.add_global_dead_code_eliminate_pass()
    last.add_strip_dead_prototype_pass()
    last.run(module, builder)
    module.verify()


def _rename(module: Any, exports: set[str]) -> None:
    """Rename internal functions to short, numbered names: Numba's contain paths of files."""
    values = [v for v in (*module.functions, *module.global_variables) if not v.is_declaration and v.name not in exports]
    inside = [v for v in values if not v.linkage.name.startswith("weak")]
    for number, value in enumerate(inside):
        value.name = f"part.{number}"
