"""From typed Python to a relocatable object for one machine: Numba's front half, LLVM's back half.

Numba types and lowers kernels without optimising them; in the object of a page everything but the exported names
is internal, inlined and optimised once for the machine. The object needs nothing but memcpy and
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
_VERSION = re.compile(r"B\d+v\d+")
"""the part of Numba's names that counts what this process compiled before"""
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
    """Compiles kernels, and links them with the text of a page into an object. One machine per process."""

    def __init__(self, machine: Machine) -> None:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        self._codegen = _Codegen(machine)
        base = registry.cpu_target.target_context
        self._context = base.subtarget(_internal_codegen=self._codegen, aot_mode=True)
        self._context.__class__ = _Context

    @global_compiler_lock
    def kernel(self, function: Callable[..., Any], kinds: Sequence[str], symbol: str) -> bytes:
        """The bitcode of a kernel under a name, not yet optimised, with all that it calls.

        kinds: "i" or "d" for each argument: an integer as wide as an address, a float64
        Raises `TargetError` where it is not in the kernel language.
        """
        try:
            compiled = self._lower(function, [types.float64 if kind == "d" else types.intp for kind in kinds])
        except Exception as error:
            raise TargetError(f"{function.__name__} is no kernel for {self._codegen._machine}: {error}") from error
        module = llvm.parse_assembly(rewritten(str(compiled.library._final_module), self._codegen._machine))
        for inner in module.functions:
            if inner.name == compiled.fndesc.llvm_func_name:
                inner.name = symbol
            elif not inner.is_declaration:
                inner.name, inner.linkage = _VERSION.sub("", inner.name), "linkonce_odr"
        unused = llvm.create_new_module_pass_manager()
        unused.add_global_dead_code_eliminate_pass()
        unused.run(module, llvm.create_pass_builder(self._codegen._tm, llvm.create_pipeline_tuning_options(speed_level=0)))
        return bytes(module.as_bitcode())

    @global_compiler_lock
    def emit(
        self,
        text: str,
        kernels: Iterable[bytes],
        exports: Sequence[str],
        externals: Sequence[str] = (),
        alone: bool = False,
    ) -> Emitted:
        """An object of LLVM text and the kernels that it calls.

        exports:   the names that the object exports
        externals: the names that it may call in other objects
        alone:     for an object that others link: names in it depend on its text only, nothing unwinds, and no loop becomes
                   a call of memcpy or memset, and LLVM prints the frames of its functions
        Raises `TargetError` where the code calls anything else outside itself.
        """
        module = self._parse((f'source_filename = "{exports[0]}"\n' if alone else "") + text)
        for kernel in kernels:
            module.link_in(llvm.parse_bitcode(kernel))
        self._internalise(module, set(exports))
        if alone:
            module = llvm.parse_assembly(_DEFINED.sub(rf"\1\2 nounwind {_ALONE} {{", str(module)))
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

    def _lower(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
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
            compiled = compiler.compile_extra(typing, self._context, function, tuple(arguments), None, flags, {})
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
