"""Models with dynamic shapes: their code depends on sizes that are known only at run time; one compiled page serves them all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError, StreamError, UnsupportedError
from tinyrnn.graph.arrays import Port, match_inputs
from tinyrnn.runtime import Model, Stream
from tinyrnn.runtime.crew import check_threads
from tinyrnn.runtime.driver import Driver, Progress

KEPT = 8
"""combinations of sizes that are kept ready; another one is prepared when it comes, without compiling"""


class DynamicShapeModel(Model):
    """A Model with dynamic shapes, such as the length of the encoder's memory that a decoder attends to.

    `inputs` and `outputs` describe it at one example size. It streams unless an open size is that of time or of its state.
    """

    def __init__(
        self,
        example: Model,
        shapes: Mapping[str, Sequence[int | str]],
        example_sizes: Mapping[str, int],
        batches: Collection[str],
        reason: str,
        specialise: Callable[[dict[str, int]], Model],
    ) -> None:
        """A model over `example`, which was compiled at `example_sizes`.

        shapes:     input → shape of the file, open sizes by name
        batches:    the open sizes of batch axes
        reason:     why it does not stream, where it does not
        specialise: makes the model of given sizes
        """
        super().__init__(example._layout, example._code, example._made_from)
        self._shapes, self._specialise = {name: tuple(shape) for name, shape in shapes.items()}, specialise
        self._described: dict[str, Any] = {
            "shapes": self._shapes,
            "example_sizes": dict(example_sizes),
            "batches": sorted(batches),
            "reason": reason,
        }
        self.open_sizes = tuple(example_sizes)
        """the names of the sizes that its code has to know"""
        self.example = dict(example_sizes)
        """the sizes at which `inputs` and `outputs` describe it"""
        self._models: OrderedDict[tuple[int, ...], Model] = OrderedDict()
        timed = any(
            role and "time" in role and (size in self.open_sizes or size in batches)
            for name, shape in self._shapes.items()
            for size, role in zip(shape, self._port(name).roles, strict=True)
        )
        self._streams = example.kind == "step" or (
            example.kind == "sequence" and not timed and any(p.per_frame for p in example.inputs)
        )
        if not self._streams:
            self._layout = replace(self._layout, refuses_stream=self._layout.refuses_stream or reason)

    def through(self, specialise: Callable[[dict[str, int]], Model]) -> DynamicShapeModel:
        """The same model with another function `specialise`."""
        return DynamicShapeModel(self, **self._described, specialise=specialise)

    def _port(self, name: str) -> Port:
        return next(p for p in (*self._layout.inputs, *self._layout.state_inputs) if p.name == name)

    @property
    def _codes(self) -> list[Any]:
        return [self._code, *(model._code for model in self._models.values())]

    @property
    def kind(self) -> str:
        """'whole' where every call takes a whole sequence; otherwise as for any `Model`."""
        return self._layout.kind if self._streams else "whole"

    def specialised(self, sizes: Mapping[str, int]) -> Model:
        """The model for given sizes, by name. Raises `ShapeError` where the model cannot have them."""
        key = tuple(int(sizes[name]) for name in self.open_sizes)
        model = self._models.pop(key, None)
        if model is None:
            try:
                model = self._specialise(dict(zip(self.open_sizes, key, strict=True)))
            except UnsupportedError as error:
                shown = ", ".join(f"{name} = {n}" for name, n in zip(self.open_sizes, key, strict=True))
                raise ShapeError(f"{self.name}: it does not fit {shown}: {str(error).removeprefix(self.name + ': ')}") from None
        self._models[key] = model
        while len(self._models) > KEPT:
            self._models.popitem(last=False)
        return model

    def sizes_of(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The open sizes of arrays in the file's shapes, by input name. Raises `ShapeError` where they do not fit."""
        sizes: dict[str, int] = {}
        for name, shape in self._shapes.items():
            self._note(name, shape, np.shape(values[name]), sizes)
        return {name: sizes[name] for name in self.open_sizes}

    def frame_sizes(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The open sizes of a stream's arrays, by input name. Raises `ShapeError` where they do not agree."""
        sizes: dict[str, int] = {}
        for port in self.inputs:
            named, shape = self._shapes[port.name], np.shape(values[port.name])
            if len(shape) != len(named):
                named = tuple(size for size, role in zip(named, port.roles, strict=True) if role is None)
            for size, n in zip(named[::-1], shape[::-1], strict=False):
                if size in self.open_sizes and sizes.setdefault(str(size), n) != n:
                    raise ShapeError(
                        f"{self.name}: input {port.name!r} has {n} for {size!r}, the inputs before it {sizes[str(size)]}"
                    )
        missing = [name for name in self.open_sizes if name not in sizes]
        if missing:
            raise ShapeError(f"{self.name}: no input given tells the size {missing[0]!r}")
        return sizes

    def _note(self, name: str, shape: Sequence[int | str], found: Sequence[int], sizes: dict[str, int]) -> None:
        fits = len(found) == len(shape) and all(
            (sizes.setdefault(size, n) if isinstance(size, str) else size) == n or self._port(name).roles[axis]
            for axis, (size, n) in enumerate(zip(shape, found, strict=True))
        )
        if not fits:
            said = ", ".join(map(str, shape))
            raise ShapeError(f"{self.name}: input {name!r} has shape {list(found)}; the file says [{said}]")

    def _whole(self, inputs: Sequence[Any], named: Mapping[str, Any], threads: int) -> Any:
        """Run a whole sequence; new sizes are prepared first."""
        values = dict(zip(self._layout.file_inputs, self._values(inputs, named), strict=True))
        return self._at_size(inputs, named).run(values, threads=threads)

    def trace(self, *inputs: Any, entry: int = 0, **named: Any) -> Any:
        """As `Model.trace`; new sizes are prepared first."""
        values = dict(zip(self._layout.file_inputs, self._values(inputs, named), strict=True))
        return self._at_size(inputs, named).trace(values, entry=entry)

    def _values(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        return match_inputs(self.name, self._layout.file_inputs, inputs, named)

    def _at_size(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Model:
        return self.specialised(self.sizes_of(dict(zip(self._layout.file_inputs, self._values(inputs, named), strict=True))))

    def _at_frames(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Model:
        names = [p.name for p in self.inputs]
        sizes = self.frame_sizes(dict(zip(names, match_inputs(self.name, names, inputs, named), strict=True)))
        at_size = self.specialised(sizes)
        if at_size._layout.state_parts != self._layout.state_parts:
            raise StreamError(f"{self.name}: its state depends on {', '.join(map(repr, self.open_sizes))}: bind= fixes them")
        return at_size

    def stream(self, threads: int = 1) -> Stream:
        """A new live input, of one thread. Raises `StreamError` with the node that needs the whole sequence."""
        check_threads(self.name, threads)
        return super().stream() if self._layout.refuses_stream else DynamicShapeStream(self)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.kind} model, run-time sizes {', '.join(map(repr, self.open_sizes))}"]
        lines += [f"  input  {n}: [{', '.join(map(str, s))}]" for n, s in self._shapes.items()]
        lines += [f"  output {p}  at one size" for p in self.outputs]
        lines += [f"  state  {p}" for p in self.states] if self._streams else []
        reason = self._layout.refuses_stream
        return "\n".join([*lines, *([f"  cannot stream: {reason}"] if reason else [])])

    __repr__ = __str__


class DynamicShapeStream(Stream):
    """One live input of a `DynamicShapeModel`. Every call may bring other sizes; the state goes on."""

    model: DynamicShapeModel

    def __init__(self, model: DynamicShapeModel) -> None:
        super().__init__(model)
        self.__dict__.pop("step", None)  # a short step knows one size
        self._drivers: OrderedDict[Model, Driver] = OrderedDict()
        self._last: Driver | None = None
        """the driver for the sizes of the last step; it declines arrays of other sizes"""

    def fork(self) -> Stream:
        """A new stream of the same model that continues from this one's state."""
        other = DynamicShapeStream(self.model)
        other._context.state[:] = self._context.state
        return other

    def step(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        """As `Stream.step`, the inputs of any size that the file leaves open."""
        driver = self._last or self._at_size(inputs, named)
        return driver.step(inputs, out, named)

    def _declined(
        self, inputs: Sequence[Any], named: Mapping[str, Any], out: Any, frames: int | None, progress: Progress | None
    ) -> Any:
        """A frame that the compiled code of the last size did not take as it is."""
        driver = self._at_size(inputs, named)
        if driver is self._last:
            return driver.checked(inputs, named, out, frames, progress)
        self._last = driver
        return driver.step(tuple(inputs), out, named)

    def run(self, *inputs: Any, out: Any = None, progress: Progress | None = None, **named: Any) -> Any:
        """As `Stream.run`, the inputs of any size that the file leaves open."""
        return self._at_size(inputs, named).run_many(inputs, out, named, progress)

    def trace(self, *inputs: Any, end: bool = False, **named: Any) -> Any:
        """Raises `StreamError`: a trace is of one size."""
        raise StreamError(f"{self.model.name}: a stream of several sizes has no trace; fix them: load(..., bind={{...}})")

    def _at_size(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Driver:
        at_size = self.model._at_frames(inputs, named)
        driver = self._drivers.pop(at_size, None)
        if driver is None:
            driver = Driver(at_size._layout, at_size._code, at_size._result)
            driver.context.share(self._context.state)
            driver.otherwise = self._declined
        self._drivers[at_size] = driver
        while len(self._drivers) > KEPT:
            self._drivers.popitem(last=False)
        return driver
