"""Generation: an output of a model fed back as its next input, natively, without Python or allocation in the loop.

    decoder = tinyrnn.load("decoder.onnx")
    stream = decoder.stream()
    hand_over(stream, {"h": h, "c": c})                        # an encoder's result
    generate(stream, 0, 50, stop=1).tokens                     # the likeliest token each time
    generate(stream, 0, 50, method="sample", temperature=0.8, top_k=20, seed=7)
    beam(stream, 0, 50, width=4, stop=1)[0].tokens

A token is an index into V scores, which are an output of the model: logits, log-probabilities or probabilities.
It goes back as itself into an integer input of one element, as a one into a float input of V zeros, or as its row
of a `table` [V, E] into a float input of E elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinyrnn.decode.decoder import Decoder, Generation, Hypothesis, Tokens
from tinyrnn.errors import DecodeError
from tinyrnn.graph.arrays import Array, Port, frame_input
from tinyrnn.runtime import Model, Stream

__all__ = ["Decoder", "Generation", "Hypothesis", "beam", "generate", "hand_over", "tokens"]


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
    arrays = {name: _fitting(model.name, name, views[name], value) for name, value in states.items()}
    stream.reset()
    for name, array in arrays.items():
        views[name][...] = array


def _fitting(model: str, name: str, view: Array, value: Any) -> Array:
    """The value in the shape and dtype of a state's view."""
    if type(value) is np.ndarray and value.dtype == view.dtype and value.shape == view.shape:
        return value
    return frame_input(model, Port(name, view.shape, view.dtype), value, False)[0]


def generate(stream: Stream | Model, start: Tokens, steps: int, **options: Any) -> Generation:
    """`Decoder.generate` of a `Decoder` made for this call; `options` are those of either, by name."""
    return _decoder(stream, options).generate(start, steps, **options)


def tokens(stream: Stream | Model, start: Tokens, steps: int, **options: Any) -> Iterator[int]:
    """`Decoder.tokens` of a `Decoder` made for this call; `options` are those of either, by name."""
    return _decoder(stream, options).tokens(start, steps, **options)


def beam(stream: Stream | Model, start: Tokens, steps: int, **options: Any) -> list[Hypothesis]:
    """`Decoder.beam` of a `Decoder` made for this call; `options` are those of either, by name."""
    return _decoder(stream, options).beam(start, steps, **options)


def _decoder(stream: Stream | Model, options: dict[str, Any]) -> Decoder:
    """A decoder; its options are removed from `options`."""
    names = {"output", "feed", "table", "scores", "inputs"} & options.keys()
    return Decoder(stream, **{name: options.pop(name) for name in names})
