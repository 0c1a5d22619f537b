"""Numba's pipeline for the kernel language: only the passes that it needs, and cached lookups."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from numba.core import (
    base,
    compiler,
    errors,
    interpreter,
    ir,
    lowering,
    postproc,
    ssa,
    transforms,
    typed_passes,
    typeinfer,
    types,
    untyped_passes,
)
from numba.core.compiler_machinery import PassManager
from numba.core.types.misc import Omitted


class Pipeline(compiler.CompilerBase):
    """The passes that the kernel language needs: it has nothing to rewrite, inline or prune."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("kernel")
        for each in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.NativeLowering,
            typed_passes.NoPythonBackend,
        ):
            passes.add_pass(each, each.__name__)
        passes.finalize()
        return [passes]


_FUNCTIONS: Any = types.functions.BaseFunction
_ERRORS: Any = errors
_resolve = _FUNCTIONS.get_call_type


def _remembered(self: Any, context: Any, args: tuple[Any, ...], kws: Any) -> Any:
    """The result type of a function for argument types, cached, as Numba resolves it anew at each call.

    Failures are cached too, since Numba tries operator variants that do not exist each time.
    """
    if kws:
        return _resolve(self, context, args, kws)
    known = self.__dict__.setdefault("_tinyrnn_known", {})
    if args not in known:
        try:
            known[args] = _resolve(self, context, args, kws)
        except errors.TypingError:
            if not any(isinstance(each, Omitted) for each in args):
                raise
            known[args] = None
    if known[args] is None:
        raise errors.TypingError("nothing takes an operand left out")
    return known[args]


def _post_processed(self: Any, emit_dels: bool = False, extend_lifetimes: bool = False) -> None:
    """Which variables live where only generators and reference counts ask."""
    self.func_ir.blocks = transforms.canonicalize_cfg(self.func_ir.blocks)
    self.func_ir.generator_info = None


def _block_rewritten(blocks: Mapping[int, Any], states: dict[str, Any], handler: Any) -> dict[int, Any]:
    """What makes static single assignments of one variable goes through the blocks that name it; Numba goes through all."""
    new: dict[int, Any] = {}
    for label, block in blocks.items():
        names = block.__dict__.get("_tinyrnn_names")
        if names is None:
            names = block._tinyrnn_names = {each.name for line in block.body for each in line.list_vars()}
        if states["varname"] not in names:
            new[label] = block
            continue
        states["label"], states["block"] = label, block
        new[label] = ir.Block(scope=block.scope, loc=block.loc)
        new[label].body = [*ssa._run_ssa_block_pass(states, block, handler)]
        new[label]._tinyrnn_names = names
    return new


def _without_with(self: Any, peepholes: list[Any], function: Any) -> Any:
    """The kernel language has no `with` and no dictionaries."""
    unneeded = ("peep_hole_delete_with_exit", "peep_hole_fuse_dict_add_updates")
    for peep in peepholes:
        if peep.__name__ not in unneeded:
            function = peep(function)
    return function


class _ErrorContext:
    """What adds to the text of an error what Numba was doing: its own is a generator, and is asked for at each line."""

    def __init__(self, fmt_: str, *args: Any, **kwargs: Any) -> None:
        self._text, self._args, self._kwargs = fmt_, args, kwargs

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, errors.NumbaError):
            error.add_context(_ERRORS._format_msg(self._text, self._args, self._kwargs))


_NOTHING = contextlib.nullcontext()


def _unwatched(self: Any, filename: Any = None, lineno: Any = None) -> Any:
    """Typing of the kernel language warns of nothing."""
    return _NOTHING


_MEANWHILE: list[tuple[Any, str, Any]] = [
    (_FUNCTIONS, "get_call_type", _remembered),
    (postproc.PostProcessor, "run", _post_processed),
    (ssa, "_run_block_rewrite", _block_rewritten),
    (interpreter.Interpreter, "post_process", _without_with),
    (_ERRORS.WarningsFixer, "catch_warnings", _unwatched),
    *((module, "new_error_context", _ErrorContext) for module in (errors, typeinfer, lowering)),
    (base, "_has_loc", lru_cache(1 << 12)(base._has_loc)),
]
"""what takes the place of Numba's own while kernels are compiled: an object, an attribute of it, and its value"""


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """A context in which kernels are compiled with these caches, under Numba's lock."""
    collecting = gc.isenabled()
    before = [getattr(owner, name) for owner, name, _ in _MEANWHILE]
    for owner, name, value in _MEANWHILE:
        setattr(owner, name, value)
    gc.disable()  # all that is made lives until the kernel is
    try:
        yield
    finally:
        for (owner, name, _), value in zip(_MEANWHILE, before, strict=True):
            setattr(owner, name, value)
        if collecting:
            gc.enable()
