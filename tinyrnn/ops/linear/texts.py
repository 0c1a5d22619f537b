"""Texts of kernels with constant weights: one text for all types in which weights are stored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinyrnn.lanes import at, bf16, f16, f32, fma, get, i8, i32, kernel, lanes, load, load_part, splat, store, store_part
from tinyrnn.lanes.chains import chain12, chain12_bf16, chain12_f16, chain12_i8

WORDS = ("f32", "f16", "bf16", "i8")
"""words that make pointers to weights: the types in which they are stored"""
_USED: tuple[Callable[..., Any], ...] = (
    *(at, bf16, f16, f32, fma, get, i32, i8, lanes, load, load_part, splat, store, store_part),
    *(chain12, chain12_bf16, chain12_f16, chain12_i8),
)


def suffix(word: str) -> str:
    """The end of the name of a kernel for weights of a type."""
    return "" if word == "f32" else f"_{word}"


def written(module: str, name: str, text: str) -> Callable[..., Any]:
    """The kernel of a text, as a function of a module."""
    words = {word.__name__: word for word in _USED}
    exec(text, words)
    function = words[name]
    function.__module__ = module
    return kernel(function)


def written_later(module: str, name: str, texts: Mapping[str, Callable[[str, str], str]]) -> Callable[..., Any]:
    """The kernel of a module for weights that are not float32, when its name is first asked for; few processes need them.

    texts: kernel for float32 → function of a name and a storage type that writes it
    Raises `AttributeError` for other names.
    """
    base, _, word = name.rpartition("_")
    if word not in WORDS or base not in texts:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    kernel = vars(sys.modules[module])[name] = written(module, name, texts[base](name, word))
    return kernel


def chained(word: str, products: Sequence[str], sums: Sequence[str], size: str, factor: str, each: str = "") -> list[str]:
    """Lines that do `products` for every k < size, after which sums over int8 weights are multiplied by a factor.

    factor: text of the factor of sum {n}
    each:   how many k each factor belongs to, if there are several; that after group q is for q
    """
    if word != "i8" or not each:
        after = [f"{name} = {name} * {factor.format(n=n)}" for n, name in enumerate(sums)] if word == "i8" else []
        return [f"for k in range({size}):", *("    " + line for line in products), *after]
    return [
        f"for q in range(({size} + {each} - 1) // {each}):",
        f"    for k in range(q * {each}, min({size}, q * {each} + {each})):",
        *("        " + line for line in products),
        *(f"    {name} = {name} * {factor.format(n=n)}" for n, name in enumerate(sums)),
    ]
