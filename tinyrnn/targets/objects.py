"""From typed Python to a relocatable object for one machine: Numba's front half, LLVM's back half.

Numba types and lowers the functions without optimising them; everything but the exported names is
then internal, inlined and optimised once for the machine. The object needs nothing but memcpy and
memset, so it cannot allocate, raise or call back into Python.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, compiler, cpu, fastmathpass, registry, types
from numba.core.codegen import AOTCodeLibrary, AOTCPUCodegen
from numba.core.compiler_lock import global_compiler_lock

from tinyrnn.errors import TargetError
from tinyrnn.targets.machine import Machine

ALLOWED_EXTERNALS = frozenset({"memcpy", "memset", "memmove"})


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
            cpu=machine.cpu, features=machine.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
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
    """Compiles Python functions over int64 arguments into one object. One machine per process."""

    def __init__(self, machine: Machine) -> None:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        self._codegen = _Codegen(machine)
        base = registry.cpu_target.target_context
        self._context = base.subtarget(_internal_codegen=self._codegen, aot_mode=True)
        self._context.__class__ = _Context

    @global_compiler_lock
    def emit(self, exports: dict[str, tuple[Callable[..., Any], int]]) -> bytes:
        """An object that exports each function (name → function and its number of int64 arguments).

        Every function returns int64. Raises `TargetError` where the code calls anything outside itself.
        """

        module = self._parse("")
        for name, (function, arity) in exports.items():
            compiled = self._lower(function, arity)
            module.link_in(llvm.parse_assembly(str(compiled.library._final_module)))
            module.link_in(self._parse(_c_function(name, compiled.fndesc.llvm_func_name, arity)))
        self._internalise(module, set(exports))
        self._optimise(module)
        externals = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
        if externals - ALLOWED_EXTERNALS:
            raise TargetError(
                f"the compiled step would call {', '.join(sorted(externals - ALLOWED_EXTERNALS))}: "
                f"a kernel uses something that is not in the kernel language"
            )
        return bytes(self._codegen._tm.emit_object(module))

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
            compiled = compiler.compile_extra(typing, self._context, function, (types.int64,) * arity, types.int64, flags, {})
            compiled.library.finalize()
        return compiled

    def _internalise(self, module: Any, exports: set[str]) -> None:
        for function in module.functions:
            if not function.is_declaration and function.name not in exports:
                function.linkage = "internal"
        for variable in module.global_variables:
            if variable.linkage.name != "internal":
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


def _c_function(name: str, inner: str, arity: int) -> str:
    """LLVM text of a C function around one in Numba's calling convention (status, result pointer, arguments)."""
    kinds = ", ".join(["i64"] * arity)
    named = ", ".join(f"i64 %a{i}" for i in range(arity))
    return (
        f'declare i32 @"{inner}"(ptr, ptr, {kinds})\n'
        f"define i64 @{name}({named}) nounwind {{\n %r = alloca i64\n %e = alloca ptr\n"
        f' %s = call i32 @"{inner}"(ptr %r, ptr %e, {named})\n %v = load i64, ptr %r\n ret i64 %v\n}}\n'
    )
