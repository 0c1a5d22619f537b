"""NAME.py: the runtime's files in one, with the description of the model; it needs only NumPy, ctypes and libNAME.so."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Mapping
from inspect import getsource
from pathlib import Path
from typing import Any

from tinyrnn.native.interface import Interface

RUNTIME = (
    *("process_local", "memory", "crew", "driver", "pool_runner"),
    *("pool_driver", "pool", "prepared_call", "sequences", "model"),
)
PARTS = ("errors", "graph/clock", "graph/arrays", *(f"runtime/{part}" for part in RUNTIME), "runtime/built")
"""files of the package that the runtime needs, each after those that it imports"""


def dataclass(frozen: bool = False, eq: bool = True, repr: bool = True) -> Callable[[type], type]:
    """A replacement of `dataclasses.dataclass`, which compiles code for each class: half of the load time."""

    def made(cls: Any) -> Any:
        names = [name for base in reversed(cls.__mro__) for name in getattr(base, "__annotations__", ())]
        defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}

        def __init__(self: Any, *values: Any, **named: Any) -> None:
            given = {**defaults, **dict(zip(names, values)), **named}  # noqa: B905
            if len(values) > len(names) or given.keys() != set(names):
                raise TypeError(f"{cls.__name__} takes {', '.join(names)}")
            self.__dict__.update(given)

        def refuse(self: Any, name: str, value: Any) -> None:
            raise AttributeError(f"{cls.__name__} is immutable")

        cls.__init__ = __init__
        if frozen:
            cls.__setattr__ = refuse
        if eq:
            cls.__eq__ = lambda self, other: type(self) is type(other) and self.__dict__ == other.__dict__
            cls.__hash__ = lambda self: hash((cls, *(self.__dict__[name] for name in names)))
        return cls

    return made


def _body(text: str) -> str:
    """A module's text without its docstring, its imports of the package, the future and dataclasses, and those for types."""
    tree, lines = ast.parse(text), text.splitlines()
    for node in tree.body:
        docstring = node is tree.body[0] and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ours = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("tinyrnn", "__future__", "dataclasses")
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if docstring or ours or types:
            assert node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines).strip("\n")


def literal(value: Any) -> str:
    """A JSON value as a Python literal, with sorted keys."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {literal(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def compile_file(path: Path) -> None:
    """Write a file's bytecode where Python finds it, always the same bytes: compiling is most of the time of a first load."""
    command = [sys.executable, "-I", "-S", "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", path.name]
    subprocess.run(command, cwd=path.parent, env={"PYTHONHASHSEED": "0"}, capture_output=True)


def python_file(face: Interface, manifest: Mapping[str, Any]) -> str:
    """The text of NAME.py."""
    package = Path(__file__).parents[1]
    parts = [f"# --- tinyrnn/{part}.py\n\n{_body((package / f'{part}.py').read_text(encoding='utf-8'))}" for part in PARTS]
    usage = f'''"""{face.name}: a recurrent model as native code. Needs NumPy, and {manifest["library"]} beside it. MIT licence.

import {face.name}
stream = {face.name}.stream()
y = stream.step(x)            # one frame; run(xs): many; reset, fork, state, states, flush as in tinyrnn
{face.name}.selftest()        # True where this machine gives the bits that were built in (selftest.npz)
"""
'''
    tail = f'''# --- this model

MANIFEST = {literal(manifest)}
try:
    model = model_of(MANIFEST, Path(__file__).resolve().parent)
except TinyRNNError as error:
    if __name__ == "__main__":
        raise SystemExit(f"Error: {{error}}") from None
    raise
stream = model.stream
_same_bits = selftest


def selftest() -> bool:  # noqa: F811
    """Whether this machine gives the bits in selftest.npz."""
    return _same_bits(model, Path(__file__).resolve().parent)


if __name__ == "__main__":
    print(model)
    good = selftest()
    print("selftest", "passed" if good else "failed: the bits differ")
    raise SystemExit(not good)
'''
    return "\n\n\n".join([usage + "\nfrom __future__ import annotations", getsource(dataclass), *parts, tail])
