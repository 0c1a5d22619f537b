"""`load`: a model from the cache, or read and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypedDict

from tinyrnn.compile.progress import READING, Listener, loading, tell
from tinyrnn.errors import LoadError
from tinyrnn.frontends.source import ModelSource, label
from tinyrnn.graph.limits import one_load
from tinyrnn.loading import model_cache
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.runtime import Model

if TYPE_CHECKING:
    from tinyrnn.passes import Time


class LoadOptions(TypedDict, total=False):
    """The keyword arguments of every function that loads a model; `load` explains them."""

    bind: Mapping[str, Any] | None
    states: Mapping[str, str] | None
    outputs: Sequence[str] | None
    time: Time | None
    layers: Sequence[Any] | None
    names: Mapping[str, str | None] | None
    weights: str | Mapping[str, str] | None


def load(
    path: ModelSource,
    *,
    bind: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    time: Time | None = None,
    layers: Sequence[Any] | None = None,
    names: Mapping[str, str | None] | None = None,
    weights: str | Mapping[str, str] | None = None,
    target: str = "cpu",
    progress: Listener | None = None,
) -> Model:
    """Load a model from .onnx, .npz or .safetensors and compile it, or take it from the cache.

    path:    a path, the bytes of such a file, or an onnx.ModelProto; one in memory is called as its graph, and holds its
             weights itself
    bind:    values for inputs that become constants, or for sizes that the file leaves open
    states:  state input → state output of a step model, where they are not found by themselves; {} for none
    outputs: the outputs to keep; what they do not need is dropped
    time:    which axis of the inputs is time, where no recurrent operator and no open size tells: the axis of every
             input, the name of an open size, or {input: axis}
    layers:  for plain weights in .npz or .safetensors, what they belong to (see `frontends.npz`)
    names:   for plain weights, names of the file's arrays → those that layers expect, None to leave out: {"module.*": "*"}
    weights: the type in which the weights of layers are stored, or {layer: type, "*": type of all others}: "float32", "float16",
             "bfloat16", "int8" (with a scale for each output), "int8:64" (for each 64 elements of it), or "int8x8" (activations
             too). By default as the file has them
    target:  where it runs: "cpu", "cuda" (an NVIDIA GPU, with the same bits), or "cuda-emulated" (that GPU's code run by NumPy,
             slowly, to check it without one)

    progress: is called with the stage that the load is in, what is done of it and of how much (0, 0 where that is not known)

    What a load may cost is bounded by what the file holds (`tinyrnn.graph.limits`): a file of less than a megabyte is loaded or
    refused within ten seconds, compiling apart, and 2 GiB. Raises `LoadError`, `UnsupportedError` or `TargetError`.
    """
    options = {"bind": bind, "states": states, "outputs": outputs, "time": time, "layers": layers, "names": names}
    options["weights"] = weights
    with loading(progress), one_load(label(path)):
        tell(READING)
        if target != "cpu":
            from tinyrnn.loading.device import load_on_device

            return load_on_device(path, target, **options)
        name = model_cache.file_name(path, options)
        kept = model_cache.find(name, path)
        model, said = _compiled(name, path, options) if kept is None else (_model(kept, name, path, options), kept.said)
    for text in said:
        warnings.warn(text, stacklevel=2)
    return model


def compiled(path: ModelSource, progress: Listener | None = None, **options: Any) -> Model:
    """As `load`, through every stage of the compilation, whatever the cache has; without its warnings.

    `halves`, False, has float32 for half precision, as code for C and the web has it.
    """
    from tinyrnn.loading.stages import compile_file

    with loading(progress), one_load(label(path)):
        tell(READING)
        return compile_file(path, **options)


def _compiled(name: str, path: ModelSource, options: Mapping[str, Any]) -> tuple[Model, Sequence[str]]:
    from tinyrnn.loading.stages import compile_file, warnings_of

    model = compile_file(path, **options)
    said = [*warnings_of(model)]
    if model_cache.file_name(path, options) != name:
        return model, said  # the file has changed meanwhile
    model_cache.keep(name, path, model, said, model._source.graph.beside)
    if isinstance(model, DynamicShapeModel):
        return model.through(_AtSizes(name, path, lambda: model)), said
    model._pooled = model_cache.pooled(name, model.name, model._pooled)
    return model, said


def _model(kept: model_cache.Kept, name: str, path: ModelSource, options: Mapping[str, Any]) -> Model:
    """The model from the cache; it is compiled when its stages or a trace are asked for."""

    @cache
    def anew() -> Model:
        from tinyrnn.loading.stages import compile_file

        if model_cache.file_name(path, options) != name:
            raise LoadError(f"{label(path)}: the file has changed since the model was loaded, or is gone; load it again")
        with one_load(label(path)):
            return compile_file(path, **options)

    model = Model(kept.layout, kept.code, lambda: anew()._source, lambda: anew().traced())
    model._pooled = model_cache.pooled(name, model.name, lambda slots: anew()._pooled(slots))
    model._crewed = lambda layout: anew()._crewed(layout)
    return (
        model
        if kept.dynamic_shapes is None
        else DynamicShapeModel(model, **kept.dynamic_shapes, specialise=_AtSizes(name, path, anew))
    )


class _AtSizes:
    """Specialises a model with dynamic shapes, from the cache or by the compiler; the first sizes are kept in the cache."""

    def __init__(self, name: str, path: ModelSource, compiled: Callable[[], Model]) -> None:
        """name: the model's file in the cache; compiled: returns the compiled model."""
        self.name, self.path, self.compiled = name, path, compiled
        self.first = True

    def __call__(self, sizes: dict[str, int]) -> Model:
        first, self.first = self.first, False
        name = model_cache.at_sizes(self.name, sizes)
        kept = model_cache.find(name, self.path)
        if kept is not None:
            made = partial(self.made, sizes)
            return Model(kept.layout, kept.code, lambda: made()._source, lambda: made().traced(), lambda n: made()._pooled(n))
        model = self.made(sizes)
        if first:
            model_cache.keep(name, self.path, model, (), self.compiled()._source.graph.beside)
        return model

    def made(self, sizes: dict[str, int]) -> Model:
        model = self.compiled()
        assert isinstance(model, DynamicShapeModel)
        return model._specialise(sizes)
