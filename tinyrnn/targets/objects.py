"""From typed Python to a relocatable object for one machine: Numba's front half, LLVM's back half.

Numba types and lowers the functions without optimising them; everything but the exported names is
then internal, inlined and optimised once for the machine. The object needs nothing but memcpy and
memset, so it cannot allocate, raise or call back into Python. Numba takes the width of its integers from the
process: for machines of 32 bits see `tinyrnn.targets.worker`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, compiler, cpu, fastmathpass, registry, types
from numba.core.codegen import AOTCodeLibrary, AOTCPUCodegen
from numba.core.compiler_lock import global_compiler_lock

from tinyrnn.errors import TargetError
from tinyrnn.targets.arithmetic import rewritten
from tinyrnn.targets.machine import ALLOWED_EXTERNALS, Machine
from tinyrnn.targets.stack import WARNS, calls_in

_DEFINED = re.compile(r"^(define .*?)((?: #\d+)?) \{$", re.M)
_ALONE = f'"no-builtins" {WARNS}'


class Emitted(NamedTuple):
    """An object; and of one made `alone` which of its functions calls which."""

    data: bytes
    calls: dict[str, list[str]]


class _Library(AOTCodeLibrary):
    """Keeps the module as lowered: nothing is optimised for the compiling process."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _Codegen(AOTCPUCodegen):
    _library_class = _Library

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        super().__init__("tinyrnn", machine.cpu)

    def _init(self, llvm_module: Any) -> None:
        machine = self._machine
        self._tm_features = machine.features
        self._tm = llvm.Target.from_triple(machine.triple).create_target_machine(
            cpu=machine.cpu,
            features=machine.features,
            opt=3,
            reloc=machine.reloc,
            codemodel=machine.code_model,
            jit=machine.code_model == "jitdefault",
            abiname=machine.abi,
        )
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)
        self._engine = None
        self._loopvect = False
        self._opt_level = 0

    def _create_empty_module(self, name: str) -> ir.Module:
        module = ir.Module(cgutils.normalize_ir_text(name))
        module.triple = self._machine.triple
        if self._data_layout:
            module.data_layout = self._data_layout
        return module

    def set_env(self, env_name: str, env: Any) -> None:
        pass


class _Context(cpu.CPUContext):
    def post_lowering(self, mod: Any, library: Any) -> None:
        if self.fastmath:
            fastmathpass.rewrite_module(mod, self.fastmath)

    def get_executable(self, library: Any, fndesc: Any, env: Any) -> Any:
        return [].append  # never called; Numba keys user functions on it, so it must be unique


@contextlib.contextmanager
def _toplevel(context: Any) -> Iterator[None]:
    """Callees compile through `context` too."""
    target = registry.cpu_target
    before = target.target_context
    target.__dict__["_toplevel_target_context"] = context
    try:
        yield
    finally:
        target.__dict__["_toplevel_target_context"] = before


class Compiler:
    """Compiles Python functions over integers as wide as an address into one object. One machine per process."""

    def __init__(self, machine: Machine) -> None:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        self._codegen = _Codegen(machine)
        base = registry.cpu_target.target_context
        self._context = base.subtarget(_internal_codegen=self._codegen, aot_mode=True)
        self._context.__class__ = _Context

    @global_compiler_lock
    def emit(
        self,
        functions: dict[str, tuple[Callable[..., Any], int]],
        around: str = "",
        exports: Sequence[str] = (),
        externals: Sequence[str] = (),
        alone: bool = False,
    ) -> Emitted:
        """An object with each function: name → function and its number of integer arguments. Every function returns an integer.

        around:    LLVM text that is compiled with them and may call them
        exports:   the names that the object exports, by default those of the functions
        externals: the names that it may call in other objects
        alone:     for an object that others link: names in it depend on its text only, nothing unwinds, and no loop becomes
                   a call of memcpy or memset, and LLVM prints the frames of its functions
        Raises `TargetError` where the code calls anything else outside itself.
        """
        module = self._parse(f'source_filename = "{exports[0]}"' if alone else "")
        for name, (function, arity) in functions.items():
            compiled = self._lower(function, arity)
            inner, machine = compiled.fndesc.llvm_func_name, self._codegen._machine
            text = rewritten(str(compiled.library._final_module), machine)
            caller = _c_function(name, inner, arity, machine.bits)
            if alone:
                text = _DEFINED.sub(rf"\1\2 nounwind {_ALONE} {{", text)
                caller = _DEFINED.sub(rf"\1\2 {_ALONE} noinline {{", caller)
            module.link_in(llvm.parse_assembly(text))
            module.link_in(self._parse(caller))
        if around:
            module.link_in(self._parse(_DEFINED.sub(rf"\1\2 nounwind {_ALONE} {{", around)))
        self._internalise(module, set(exports or functions))
        self._optimise(module)
        if alone:
            _rename(module, set(exports))
        outside = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
        outside -= {*ALLOWED_EXTERNALS, *externals}
        if outside:
            raise TargetError(
                f"the compiled step would call {', '.join(sorted(outside))}: "
                f"a kernel uses something that is not in the kernel language"
            )
        calls = calls_in(module) if alone else {}
        return Emitted(bytes(self._codegen._tm.emit_object(module)), calls)

    def _parse(self, text: str) -> Any:
        machine = self._codegen._machine
        return llvm.parse_assembly(f'target triple="{machine.triple}"\ntarget datalayout="{self._codegen._data_layout}"\n{text}')

    def _lower(self, function: Callable[..., Any], arity: int) -> Any:
        flags = compiler.Flags()
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.no_compile = True
        flags.error_model = "numpy"
        flags.nrt = False
        flags.boundscheck = False
        typing = registry.cpu_target.typing_context
        typing.refresh()
        self._context.refresh()
        with _toplevel(self._context):
            compiled = compiler.compile_extra(typing, self._context, function, (types.intp,) * arity, types.intp, flags, {})
            compiled.library.finalize()
        return compiled

    def _internalise(self, module: Any, exports: set[str]) -> None:
        for function in module.functions:
            if not function.is_declaration and function.name not in exports and not function.linkage.name.startswith("weak"):
                function.linkage = "internal"
        for variable in module.global_variables:
            if variable.linkage.name != "internal" and variable.name not in exports:
                variable.linkage = "internal"
        module.verify()

    def _optimise(self, module: Any) -> None:
        tuning = llvm.create_pipeline_tuning_options(speed_level=3)
        tuning.loop_vectorization = False
        tuning.slp_vectorization = False
        tuning.loop_unrolling = True
        builder = llvm.create_pass_builder(self._codegen._tm, tuning)
        builder.getModulePassManager().run(module, builder)
        last = llvm.create_new_module_pass_manager()
        last.add_global_dead_code_eliminate_pass()
        last.add_strip_dead_prototype_pass()
        last.run(module, builder)
        module.verify()


def _rename(module: Any, exports: set[str]) -> None:
    """Short names in order for what stays inside: Numba's hold the paths of files."""
    values = [v for v in (*module.functions, *module.global_variables) if not v.is_declaration and v.name not in exports]
    inside = [v for v in values if not v.linkage.name.startswith("weak")]
    for number, value in enumerate(inside):
        value.name = f"part.{number}"


def _c_function(name: str, inner: str, arity: int, bits: int) -> str:
    """LLVM text of a C function around one in Numba's calling convention (status, result pointer, arguments)."""
    kinds = ", ".join([f"i{bits}"] * arity)
    named = ", ".join(f"i{bits} %a{i}" for i in range(arity))
    return (
        f'declare i32 @"{inner}"(ptr, ptr, {kinds})\n'
        f"define i{bits} @{name}({named}) nounwind {{\n %r = alloca i{bits}\n %e = alloca ptr\n"
        f' %s = call i32 @"{inner}"(ptr %r, ptr %e, {named})\n %v = load i{bits}, ptr %r\n ret i{bits} %v\n}}\n'
    )
