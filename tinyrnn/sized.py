"""Models that run whole only, and whose open sizes their code has to know: compiled for each size that comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyrnn.arrays import match_inputs, shape_text
from tinyrnn.errors import ShapeError, StreamError
from tinyrnn.runtime import Model, Stream

KEPT = 8
"""sizes whose code is kept in memory; the cache on disk keeps all"""


class SizedModel(Model):
    """A Model that takes inputs of several sizes, each compiled when it first comes. It cannot stream.

    `inputs` and `outputs` describe it at one size.
    """

    def __init__(
        self,
        example: Model,
        shapes: Mapping[str, tuple[int | str, ...]],
        sizes: Sequence[str],
        reason: str,
        specialise: Callable[[dict[str, int]], Model],
    ) -> None:
        super().__init__(example._layout, example._code, example._source)
        self._shapes, self._reason, self._specialise = dict(shapes), reason, specialise
        self.open_sizes = tuple(sizes)
        """the names of the sizes for which code is made"""
        self._models: OrderedDict[tuple[int, ...], Model] = OrderedDict()

    @property
    def kind(self) -> str:
        """'whole': every call is a whole sequence."""
        return "whole"

    def sized(self, sizes: Mapping[str, int]) -> Model:
        """The model for given sizes, by name; compiled if it was not before."""
        key = tuple(int(sizes[name]) for name in self.open_sizes)
        model = self._models.pop(key, None) or self._specialise(dict(zip(self.open_sizes, key, strict=True)))
        self._models[key] = model
        while len(self._models) > KEPT:
            self._models.popitem(last=False)
        return model

    def sizes_of(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The open sizes of arrays by input name. Raises `ShapeError` where they do not fit."""
        sizes: dict[str, int] = {}
        for name, shape in self._shapes.items():
            found = np.shape(values[name])
            fits = len(found) == len(shape) and all(
                (sizes.setdefault(size, n) if isinstance(size, str) else size) == n for size, n in zip(shape, found, strict=True)
            )
            if not fits:
                said = ", ".join(map(str, shape))
                raise ShapeError(f"{self.name}: input {name!r} has shape {list(found)}; the file says [{said}]")
        return sizes

    def run(self, *inputs: Any, **named: Any) -> Any:
        """As `Model.run`; a size that comes for the first time is compiled first."""
        names = list(self._layout.file_inputs)
        values = dict(zip(names, match_inputs(self.name, names, inputs, named), strict=True))
        return self.sized(self.sizes_of(values)).run(values)

    def trace(self, *inputs: Any, entry: int = 0, **named: Any) -> Any:
        """As `Model.trace`; a size that comes for the first time is compiled first."""
        names = list(self._layout.file_inputs)
        values = dict(zip(names, match_inputs(self.name, names, inputs, named), strict=True))
        return self.sized(self.sizes_of(values)).trace(values, entry=entry)

    def stream(self) -> Stream:
        """Raises `StreamError` with the node that needs the whole sequence."""
        raise StreamError(f"{self.name} cannot stream: {self._reason}. Run whole sequences with model.run(x)")

    def __str__(self) -> str:
        lines = [f"{self.name}: whole sequences, compiled for each size of {', '.join(map(repr, self.open_sizes))}"]
        lines += [f"  input  {n}: [{', '.join(map(str, s))}]" for n, s in self._shapes.items()]
        lines += [f"  output {p.name}: {p.dtype}{shape_text(p)} at one size" for p in self.outputs]
        return "\n".join([*lines, f"  cannot stream: {self._reason}"])

    __repr__ = __str__
