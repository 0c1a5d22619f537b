"""Generation: an output of a model fed back as its next input, natively, without Python or allocation in the loop.

    decoder = tinyrnn.load("decoder.onnx")
    stream = decoder.stream()
    hand_over(stream, {"h": h, "c": c})                        # an encoder's result
    generate(stream, 0, 50, stop=1).tokens                     # the likeliest token each time
    generate(stream, 0, 50, method="sample", temperature=0.8, top_k=20, seed=7)
    beam(stream, 0, 50, width=4, stop=1)[0].tokens

    generate(decoder.pool(64), 0, 50, states=[{"h": h, "c": c}, …], stop=1)   # many at once: a list of what each gives alone

A token is an index into V scores, which are an output of the model: logits, log-probabilities or probabilities.
It goes back as itself into an integer input of one element, as a one into a float input of V zeros, or as its row
of a `table` [V, E] into a float input of E elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, overload

from tinyrnn.decode.choosing import Tokens, fitting
from tinyrnn.decode.decoder import Decoder, Generation, Hypothesis
from tinyrnn.decode.pool_decoder import PoolDecoder, Starts, item_seeds
from tinyrnn.errors import DecodeError
from tinyrnn.runtime import Model, Pool, Stream

__all__ = ["Decoder", "Generation", "Hypothesis", "PoolDecoder", "beam", "generate", "hand_over", "item_seeds", "tokens"]


def hand_over(stream: Stream, states: Mapping[str, Any]) -> None:
    """Reset a stream and set states by name, such as an encoder's results for a decoder.

    Leading axes of length 1 are accepted; other states take their initial values. Raises `ShapeError`
    or `DecodeError`, with the state unchanged.
    """
    model = stream.model
    views = stream.states
    unknown = [name for name in states if name not in views]
    if unknown:
        raise DecodeError(f"{model.name}: no state {', '.join(map(repr, unknown))}; there are {', '.join(views) or 'none'}")
    arrays = {name: fitting(model.name, name, views[name], value) for name, value in states.items()}
    stream.reset()
    for name, array in arrays.items():
        views[name][...] = array


@overload
def generate(stream: Stream | Model, start: Tokens, steps: int, **options: Any) -> Generation: ...
@overload
def generate(stream: Pool, start: Starts, steps: int, **options: Any) -> list[Generation]: ...
def generate(stream: Stream | Model | Pool, start: Starts, steps: int, **options: Any) -> Generation | list[Generation]:
    """`Decoder.generate` of a `Decoder` made for this call; `options` are those of either, by name.

    Of a pool: `PoolDecoder.generate`, for a list of starts.
    """
    if isinstance(stream, Pool):
        return _pool_decoder(stream, options).generate(start, steps, **options)
    return _decoder(stream, options).generate(start, steps, **options)  # type: ignore[arg-type]


def tokens(stream: Stream | Model, start: Tokens, steps: int, **options: Any) -> Iterator[int]:
    """`Decoder.tokens` of a `Decoder` made for this call; `options` are those of either, by name."""
    return _decoder(stream, options).tokens(start, steps, **options)


@overload
def beam(stream: Stream | Model, start: Tokens, steps: int, **options: Any) -> list[Hypothesis]: ...
@overload
def beam(stream: Pool, start: Starts, steps: int, **options: Any) -> list[list[Hypothesis]]: ...
def beam(stream: Stream | Model | Pool, start: Starts, steps: int, **options: Any) -> list[Hypothesis] | list[list[Hypothesis]]:
    """`Decoder.beam` of a `Decoder` made for this call; `options` are those of either, by name.

    Of a pool: `PoolDecoder.beam`, for a list of starts.
    """
    if isinstance(stream, Pool):
        return _pool_decoder(stream, options).beam(start, steps, **options)
    return _decoder(stream, options).beam(start, steps, **options)  # type: ignore[arg-type]


def _decoder(stream: Stream | Model, options: dict[str, Any]) -> Decoder:
    """A decoder; its options are removed from `options`."""
    names = {"output", "feed", "table", "scores", "inputs"} & options.keys()
    return Decoder(stream, **{name: options.pop(name) for name in names})


def _pool_decoder(pool: Pool, options: dict[str, Any]) -> PoolDecoder:
    """A decoder of many; its options are removed from `options`, the inputs of each item are left."""
    names = {"output", "feed", "table", "scores"} & options.keys()
    inputs = options.get("inputs")
    if inputs is None or isinstance(inputs, Mapping):
        options.pop("inputs", None)
        return PoolDecoder(pool, inputs=inputs, **{name: options.pop(name) for name in names})
    known = {p.name for p in pool.model._layout.inputs}
    named = {name: None for own in inputs if isinstance(own, Mapping) for name in own if name in known}
    made = PoolDecoder(pool, inputs=named, **{name: options.pop(name) for name in names})
    made.defaults.clear()
    return made
