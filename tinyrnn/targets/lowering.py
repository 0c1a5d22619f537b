"""Kernel in Python → bitcode for one machine: Numba types and lowers it, without optimising.

Numba takes the width of its integers from the process: for machines of 32 bits see `tinyrnn.targets.worker`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, compiler, cpu, fastmathpass, registry, types
from numba.core.codegen import AOTCodeLibrary, AOTCPUCodegen
from numba.core.compiler_lock import global_compiler_lock

from tinyrnn.errors import TargetError
from tinyrnn.lanes.pipeline import Pipeline, remembering
from tinyrnn.targets.arithmetic import rewritten
from tinyrnn.targets.machine import Machine
from tinyrnn.targets.objects import target_machine

_VERSION = re.compile(r"B\d+v\d+")
"""the part of Numba's names that numbers the functions compiled by this process"""


class _Library(AOTCodeLibrary):
    """A library that keeps modules as lowered, without optimising them for this process."""

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
        self._tm = target_machine(machine)
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

    def _check_llvm_bugs(self) -> None:
        """That LLVM's numbers are right is tested by the bits of kernels."""


class _Context(cpu.CPUContext):
    def load_additional_registries(self) -> None:
        """Numbers, ranges and tuples; the rest of Python and NumPy, which takes long to load, is not in the kernel language."""
        from numba.cpython import builtins, iterators, numbers, rangeobj, tupleobj  # noqa: F401

    def get_abi_sizeof(self, ty: Any) -> int:
        """Asked for by debuggers' tables, which are not made; it parses a module for each variable."""
        return 0

    def post_lowering(self, mod: Any, library: Any) -> None:
        if self.fastmath:
            fastmathpass.rewrite_module(mod, self.fastmath)

    def create_cfunc_wrapper(self, library: Any, fndesc: Any, env: Any, call_helper: Any) -> None:
        pass

    def get_executable(self, library: Any, fndesc: Any, env: Any) -> Any:
        return [].append  # never called; Numba keys user functions on it, so it must be unique


def _without_answer(symbol: str, kinds: Sequence[str]) -> str:
    """LLVM text of a kernel around Numba's function `symbol`.body, whose answers in memory nobody reads: for a GPU they would be
    in a thread's slow memory of its own."""
    given = ", ".join(f"{'double' if kind == 'd' else 'i64'} %a{n}" for n, kind in enumerate(kinds))
    return f"""
define void @{symbol}({given}) {{
  %result = alloca i64
  %raised = alloca ptr
  %status = call i32 @{symbol}.body({", ".join(["ptr %result", "ptr %raised", *([given] if given else [])])})
  ret void
}}
"""


@contextlib.contextmanager
def _toplevel(context: Any) -> Iterator[None]:
    """A context in which callees are compiled through `context` too."""
    target = registry.cpu_target
    before = target.target_context
    target.__dict__["_toplevel_target_context"] = context
    try:
        with remembering():
            yield
    finally:
        target.__dict__["_toplevel_target_context"] = before


class Compiler:
    """The compiler of kernels, for one machine per process."""

    def __init__(self, machine: Machine) -> None:
        self._codegen = _Codegen(machine)
        base = registry.cpu_target.target_context
        self._context = base.subtarget(_internal_codegen=self._codegen, aot_mode=True)
        self._context.__class__ = _Context

    @global_compiler_lock
    def kernel(self, function: Callable[..., Any], kinds: Sequence[str], symbol: str) -> bytes:
        """The unoptimised bitcode of a kernel and of all that it calls, under the name `symbol`.

        kinds: "i" or "d" for each argument: an integer as wide as an address, a float64
        Raises `TargetError` if it is not in the kernel language.
        """
        try:
            compiled = self._lower(function, [types.float64 if kind == "d" else types.intp for kind in kinds])
        except Exception as error:
            raise TargetError(f"{function.__name__} is no kernel for {self._codegen._machine}: {error}") from error
        module, machine = compiled.library._final_module, self._codegen._machine
        if machine.lacking or machine.thumb:
            module = llvm.parse_assembly(rewritten(str(module), machine))
        body = f"{symbol}.body" if machine.warp else symbol
        for inner in module.functions:
            if inner.name == compiled.fndesc.llvm_func_name:
                inner.name = body
            elif not inner.is_declaration and not inner.linkage.name.startswith("weak"):
                inner.name, inner.linkage = _VERSION.sub("", inner.name), "linkonce_odr"
        if machine.warp:
            module.get_function(body).linkage = "internal"
            module.get_function(body).add_function_attribute("alwaysinline")
            module = llvm.parse_assembly(str(module) + _without_answer(symbol, kinds))
        unused = llvm.create_new_module_pass_manager()
        unused.add_global_dead_code_eliminate_pass()
        unused.run(module, llvm.create_pass_builder(self._codegen._tm, llvm.create_pipeline_tuning_options(speed_level=0)))
        return bytes(module.as_bitcode())

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
            compiled = compiler.compile_extra(
                typing, self._context, function, tuple(arguments), None, flags, {}, pipeline_class=Pipeline
            )
            compiled.library.finalize()
        return compiled
