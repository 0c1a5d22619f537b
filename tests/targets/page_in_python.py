"""A page run by Python itself: only its kernels are compiled, one function each. What LLVM text says is held against it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from tinyrnn.compile.codegen import Source
from tinyrnn.runtime import Model
from tinyrnn.targets.code import load_objects
from tinyrnn.targets.kernels import Kernels
from tinyrnn.targets.machine import host
from tinyrnn.targets.page import read_page
from tinyrnn.targets.page_functions import translated
from tinyrnn.targets.page_values import ELEMENTS
from tinyrnn.targets.parallel_compilation import objects

TYPES: dict[str, Any] = {
    "f32": ctypes.c_float, "f64": ctypes.c_double, "i64": ctypes.c_int64, "u64": ctypes.c_uint64, "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32, "i16": ctypes.c_int16, "u16": ctypes.c_uint16, "i8": ctypes.c_int8, "u8": ctypes.c_uint8,
}  # fmt: skip


class Pointer(NamedTuple):
    address: int
    kind: Any

    def __getitem__(self, index: int) -> Any:
        return self.kind.from_address(self.address + index * ctypes.sizeof(self.kind))


def get(pointer: Pointer, index: int) -> Any:
    return pointer[index].value  # type: ignore[call-overload]


def put(pointer: Pointer, index: int, value: Any) -> None:
    pointer[index].value = value  # type: ignore[call-overload]


def in_python(source: Source) -> Callable[[int, int], int]:
    """The page's `run`, as Python runs it."""
    page = read_page(source.text)
    kernels = Kernels(page, host())
    translated(page, {"run": "run"}, 64, kernels)
    library = load_objects(objects(kernels), kernels.called)

    def native(symbol: str, kinds: tuple[str, ...]) -> Callable[..., None]:
        arguments = [ctypes.c_double if kind == "d" else ctypes.c_int64 for kind in kinds]
        function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *arguments)(library[symbol])
        result, raised = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)

        def call(*given: Any) -> None:
            assert library and function(ctypes.addressof(result), ctypes.addressof(raised), *given) == 0

        return call

    by_kinds = {(name, kinds): native(symbol, kinds) for symbol, (name, kinds) in kernels.called.items()}

    def kernel(name: str) -> Callable[..., None]:
        return lambda *given: by_kinds[name, tuple("d" if isinstance(g, float) else "i" for g in given)](*given)

    names: dict[str, Any] = {}
    exec(source.text, names)
    names |= {name: kernel(name) for name, _ in by_kinds}
    names |= {word: lambda address, kind=kind: Pointer(address, kind) for word, kind in TYPES.items()}
    names |= {"get": get, "put": put}
    assert set(TYPES) == set(ELEMENTS)
    run: Callable[[int, int], int] = names["run"]
    return run


def with_page_in_python(model: Model) -> Model:
    """The model, its page run by Python."""
    assert model._source is not None
    code = model._code
    run = in_python(model._source.source)

    class Interpreted:
        size, from_cache, calls = code.size, code.from_cache, ()

        def run(self, context: int, frames: int) -> int:
            return run(context, frames)

    return Model(model._layout, Interpreted(), model._source)
