"""`Stream`: one live input, with its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.arrays import Array
from tinyrnn.errors import ShapeError
from tinyrnn.runtime.driver import Driver, Progress
from tinyrnn.runtime.memory import part_views

if TYPE_CHECKING:
    from tinyrnn.runtime.model import Model


class Stream:
    """One live input of a model: its state, carried from frame to frame. For one thread at a time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._driver = Driver(model._layout, model._code, model._result)
        self._context = self._driver.context
        if self._driver.single is not None and len(model.inputs) == len(model.outputs) == 1:
            short = self._driver.short_step()
            short.__doc__ = Stream.step.__doc__
            self.step = short  # type: ignore[method-assign]

    @property
    def state(self) -> Array:
        """The whole state, one flat float32 array: copy it to save, assign `state[...]` to restore."""
        return self._context.state

    @state.setter
    def state(self, value: Any) -> None:
        given = np.asarray(value, np.float32)
        if given.shape != self._context.state.shape:
            raise ShapeError(f"{self.model.name}: the state has shape {list(self._context.state.shape)}, not {list(given.shape)}")
        self._context.state[:] = given

    @property
    def states(self) -> dict[str, Array]:
        """Views of the state by name, each in its shape."""
        return part_views(self.model._layout, self._context.state)

    def reset(self) -> None:
        """Back to the initial state."""
        self._context.reset()

    def fork(self) -> Stream:
        """A new stream of the same model that continues from this one's state."""
        other = Stream(self.model)
        other._context.state[:] = self._context.state
        other._context.ended = self._context.ended
        other._driver.per_call = self._driver.per_call
        return other

    def flush(self) -> Any:
        """The tail: the rows that wait for frames to come, as if the sequence ended here; time first, as from `run`.

        Until `reset` the stream of a model that `has_tail` then takes no more frames. Where nothing waits there are no
        rows, and what belongs to a call is None: its last value stands. Raises `StreamError` where an input that
        belongs to a call was never given.
        """
        return self._driver.flush()

    def step(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        """One frame: inputs of the shapes of `model.inputs`, in order or by name; the outputs of `model.outputs`.

        `out` is an array (several outputs: a sequence of arrays) to write into, C-contiguous and of the right
        dtype; without it new arrays come back. Raises `ShapeError`, with the state unchanged.

        Of a model that looks ahead or has strides over time, an output that has no row yet is None; where one frame
        can make several rows, they come back as [rows, *frame].
        """
        return self._driver.step(inputs, out, named)

    def run(self, *inputs: Any, out: Any = None, progress: Progress | None = None, **named: Any) -> Any:
        """Many frames [T, *frame] in one native call, the GIL released; time first in every output.

        What belongs to a call, not to a frame (`per_frame` False), is given and comes back without the time axis.
        `progress(done, total)` is called between pieces. Raises `ShapeError`, with the state unchanged.
        """
        return self._driver.run_many(inputs, out, named, progress)

    def trace(self, *inputs: Any, end: bool = False, **named: Any) -> Any:
        """As `run`, seen from inside: a `tinyrnn.trace.Trace` with gates, cell and hidden state of every recurrent layer.

        The stream goes on as from `run`, outputs and state the same bits; with `end`, as from `flush` after it, the tail in
        the trace. The first trace of a model compiles it once more. Raises `ShapeError`, with the state unchanged.
        """
        return self.model.traced().stream(self, inputs, named, end)
