"""`load`: a model from the cache, or read and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tinyrnn import model_cache
from tinyrnn.errors import LoadError
from tinyrnn.frontends.source import ModelSource, label
from tinyrnn.limits import one_load
from tinyrnn.progress import READING, Listener, loading, tell
from tinyrnn.runtime import Model

if TYPE_CHECKING:
    from tinyrnn.compiler import Stages
    from tinyrnn.passes import Time


def load(
    path: ModelSource,
    *,
    bind: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    time: Time | None = None,
    layers: Sequence[Any] | None = None,
    names: Mapping[str, str | None] | None = None,
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

    progress: is called with the stage that the load is in, what is done of it and of how much (0, 0 where that is not known)

    What a load may cost is bounded by what the file holds (`tinyrnn.limits`): a file of less than a megabyte is loaded or
    refused within ten seconds, compiling apart, and 2 GiB. Raises `LoadError`, `UnsupportedError` or `TargetError`.
    """
    options = {"bind": bind, "states": states, "outputs": outputs, "time": time, "layers": layers, "names": names}
    with loading(progress), one_load(label(path)):
        tell(READING)
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
    from tinyrnn.compiler import compile_file

    with loading(progress), one_load(label(path)):
        tell(READING)
        return compile_file(path, **options)


def _compiled(name: str, path: ModelSource, options: Mapping[str, Any]) -> tuple[Model, Sequence[str]]:
    from tinyrnn.compiler import compile_file, warnings_of

    model = compile_file(path, **options)
    said = [*warnings_of(model)]
    if type(model) is Model and model_cache.file_name(path, options) == name:
        model_cache.keep(name, path, model._layout, model._code, said, model._source.graph.beside)
    return model, said


def _model(kept: model_cache.Kept, name: str, path: ModelSource, options: Mapping[str, Any]) -> Model:
    """The model, which goes through the compiler's stages when somebody asks for them."""

    @cache
    def stages() -> Stages:
        from tinyrnn.compiler import stages_of

        if model_cache.file_name(path, options) != name:
            raise LoadError(f"{label(path)}: the file has changed since the model was loaded; load it again")
        return stages_of(path, **options)

    def tracer() -> Any:
        from tinyrnn.compiler import tracer_of

        return tracer_of(stages())

    return Model(kept.layout, kept.code, stages, cache(tracer))
