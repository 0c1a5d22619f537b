"""Numba's pipeline for the kernel language: only the passes that it needs, and cached lookups."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from numba.core import compiler, typed_passes, types, untyped_passes
from numba.core.compiler_machinery import PassManager
from numba.core.errors import TypingError
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
        except TypingError:
            if not any(isinstance(each, Omitted) for each in args):
                raise
            known[args] = None
    if known[args] is None:
        raise TypingError("nothing takes an operand left out")
    return known[args]


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """A context in which kernels are compiled with these caches, under Numba's lock."""
    collecting = gc.isenabled()
    _FUNCTIONS.get_call_type = _remembered
    gc.disable()  # all that is made lives until the kernel is
    try:
        yield
    finally:
        _FUNCTIONS.get_call_type = _resolve
        if collecting:
            gc.enable()
