"""`Model`: compiled code with its weights, for any number of streams. `Stream`: one live input, with its state."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError, StreamError
from tinyrnn.graph.arrays import Array, Port, check_outputs, pick, session_call, shape_text
from tinyrnn.runtime.crew import Crew, CrewCode, check_threads
from tinyrnn.runtime.driver import Driver, Progress
from tinyrnn.runtime.memory import Layout, part_views
from tinyrnn.runtime.pool import Pool
from tinyrnn.runtime.pool_runner import PoolCode
from tinyrnn.runtime.prepared_call import PreparedCall, Shapes
from tinyrnn.runtime.process_local import ProcessLocal
from tinyrnn.runtime.sequences import run_sequences


class Model(ProcessLocal):
    """A compiled model. Immutable; any number of streams and threads may share it.

    Made by `tinyrnn.load`. `inputs`, `outputs` and `states` describe one frame of a stream.
    """

    instead = (
        "threads and streams share a model as it is; another process loads the file itself, also one that `tinyrnn.save` wrote "
        "(compiled code comes from the cache)"
    )

    def __init__(
        self,
        layout: Layout,
        code: Any,
        source: Any = None,
        tracer: Callable[[], Any] | None = None,
        pooled: Callable[[int], PoolCode] | None = None,
    ) -> None:
        """`source` is what it was compiled from, or makes that when it is first asked for; `tracer` makes what `trace` uses,
        `pooled` what a pool of so many slots runs on."""
        self._layout, self._code = layout, code
        self._made_from, self._tracer = source, tracer
        self._pooled = pooled or (lambda slots: PoolCode(None, tick=False))
        self._crewed: Callable[[Layout], CrewCode | None] = lambda layout: None
        """makes what a stream with a crew runs on, for this layout; None where no call is large enough to be shared"""
        self._prepared: dict[Shapes, list[PreparedCall]] = {}
        self._result = _named(layout.name, [p.name for p in layout.outputs])
        self._file_result = _named(layout.name, list(layout.file_outputs))

    @property
    def _source(self) -> Any:
        """The stages of its compilation; None where the compiler is not available."""
        if callable(self._made_from):
            self._made_from = self._made_from()
        return self._made_from

    @property
    def _codes(self) -> list[Any]:
        """The compiled pages that it uses."""
        return [self._code]

    @property
    def name(self) -> str:
        return self._layout.name

    @property
    def kind(self) -> str:
        """'sequence' (over time), 'step' (one frame at a time, states in and out) or 'static' (no state)."""
        return self._layout.kind

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self._layout.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self._layout.outputs

    @property
    def states(self) -> tuple[Port, ...]:
        """The parts of `Stream.state`, in order."""
        return tuple(Port(name, shape, dtype) for name, _, shape, dtype in self._layout.state_parts)

    @property
    def has_tail(self) -> bool:
        """Whether a sequence can have rows after its last frame, which `Stream.flush` makes."""
        return bool(self._layout.waits)

    @property
    def delay(self) -> int:
        """Number of frames by which the outputs of a stream are delayed by look-ahead; `Stream.flush` makes the tail."""
        return max((clock.delay for clock in self._layout.waits), default=0)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file, as strings."""
        return dict(self._layout.metadata)

    def stream(self, threads: int = 1) -> Stream:
        """A new live input in its initial state.

        threads: native threads that share its large layers, with the same bits. Each then has its part of their weights in the
        caches of its own core; that is worth it where a step takes some 10 µs or more, and as many cores are free. The
        first stream of a model with several compiles it once more. Where no layer is large, or sizes are open, there is one.
        Raises `StreamError`, naming the node that forbids it, if the model needs the whole sequence.
        """
        self._check_streams()
        return Stream(self, check_threads(self.name, threads))

    def pool(self, slots: int, threads: int = 1) -> Pool:
        """Many new live inputs in their initial state, which step together: `slots` states in one array.

        threads: native threads over which the streams of a call are split, where it is long enough
        Raises `StreamError` where the model needs the whole sequence.
        """
        self._check_streams()
        return Pool(self, slots, threads)

    def _check_streams(self) -> None:
        if self._layout.refuses_stream:
            raise StreamError(f"{self.name} cannot stream: {self._layout.refuses_stream}. Run whole sequences with model.run(x)")

    def _at_frames(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Model:
        """The model for frames of these sizes: itself, where all are known."""
        return self

    def _stream_over(self, state: Array, ended: bool, per_call: list[Array | None] | None) -> Stream:
        """A stream whose state is a row of a pool; per_call: what its last call gave for inputs that belong to a call."""
        stream = self.stream()
        stream._context.share(state)
        stream._context.ended = ended
        if per_call is not None:
            stream._driver.per_call = per_call
        return stream

    def run(self, *inputs: Any, threads: int = 1, **named: Any) -> Any:
        """Run whole sequences, inputs and outputs in the file's own shapes; no state is kept.

        Inputs are positional in the file's order, by keyword, or one dict. One output comes back as an array,
        several as a named tuple. `run(None, {...})` and `run(["y"], {...})`, as onnxruntime has it, give a list of all or
        of the named outputs. The entries of a batch are streams of one native call, which `threads` share where there is
        enough to do. Raises `ShapeError`.
        """
        asked = session_call(inputs, named)
        if asked is None:
            return self._whole(inputs, named, threads)
        names, feed = asked
        check_outputs(self.name, names, self._layout.file_outputs)
        return pick(names, self._layout.file_outputs, self._whole((), feed, threads))

    def _whole(self, inputs: Sequence[Any], named: Mapping[str, Any], threads: int) -> Any:
        return run_sequences(self._layout, self._code, self._pooled, self._prepared, self._file_result, inputs, named, threads)

    def trace(self, *inputs: Any, entry: int = 0, **named: Any) -> Any:
        """As `run`, with everything that recurrent layers compute: a `tinyrnn.trace.Trace`; of a batch the sequence `entry`.

        The first trace compiles the model once more. Raises `ShapeError`.
        """
        return self.traced().whole(inputs, named, entry)

    def traced(self) -> Any:
        """The `tinyrnn.trace.Tracer` of this model. Raises `StreamError` if `tinyrnn.load` did not make it."""
        if self._tracer is None:
            raise StreamError(f"{self.name}: a model that was not made by tinyrnn.load has no trace")
        return self._tracer()

    def __str__(self) -> str:
        layout = self._layout
        lines = [
            f"{layout.name}: {layout.kind} model, {layout.multiply_adds:,} multiply-adds per frame, "
            f"{layout.weights.nbytes:,} bytes of weights"
        ]
        lines += [f"  input  {p}  (file {shape_text(p)})" for p in layout.inputs]
        lines += [f"  output {p}  (file {shape_text(p)})" for p in layout.outputs]
        lines += [f"  state  {p}" for p in self.states]
        if self.delay:
            lines.append(f"  delay  {self.delay} frames: it looks ahead")
        lines += [f"  {rule}" for rule in layout.sizes]
        if layout.refuses_stream:
            lines.append(f"  cannot stream: {layout.refuses_stream}")
        return "\n".join(lines)

    __repr__ = __str__


def _named(name: str, fields: Sequence[str]) -> Any:
    """A named tuple for several outputs; None for one."""
    if len(fields) == 1:
        return None
    return namedtuple("Outputs", fields, rename=True)  # type: ignore[misc]


class Stream(ProcessLocal):
    """One live input of a model: its state, carried from frame to frame. For one thread at a time."""

    instead = (
        "`stream.fork()` gives a second stream that continues from its state; another process loads the file itself and takes "
        "the state, an array: `stream.state.copy()`"
    )

    def __init__(self, model: Model, threads: int = 1) -> None:
        self.model, self._threads = model, threads
        made = model._crewed(model._layout) if threads > 1 else None
        if made is None:
            self._driver = Driver(model._layout, model._code, model._result)
        else:
            self._driver = Driver(made.layout, made.code, model._result, Crew(made.code, threads))
        self._context = self._driver.context
        short = self._driver.short_step()
        if short is not None:
            short.__doc__ = Stream.step.__doc__
            self.step = short  # type: ignore[method-assign]

    def _at_size(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Driver:
        """What drives it with inputs of these sizes."""
        return self._driver

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

    def close(self) -> None:
        """End the threads beside the caller's, as when the stream is no longer used; it goes on with one."""
        if self._driver.crew is not None:
            self._driver.crew.close()

    def fork(self) -> Stream:
        """A new stream of the same model that continues from this one's state."""
        other = Stream(self.model, self._threads)
        other._context.state[:] = self._context.state
        other._context.ended = self._context.ended
        other._driver.per_call = self._driver.per_call
        return other

    def flush(self) -> Any:
        """The tail: the rows that still wait for later frames, as if the sequence ended here; time first, as from `run`.

        If the model `has_tail`, the stream then takes no more frames until `reset`. If nothing waits there are no
        rows. An output with one value per call is None: its last value stays valid. Raises `StreamError` if an input with
        one value per call was never given.
        """
        return self._driver.flush()

    def rows(self, frames: int = 1) -> Any:
        """The number of rows of each output that the next `frames` frames make, in any number of calls; usually `frames`.

        None for an output with one value per call. `run(x, out=y[: stream.rows(len(x))])` writes into the start of y.
        Raises `ShapeError`, and `StreamError` after `flush`.
        """
        return self._driver.coming(frames)

    def step(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        """Process one frame: inputs in the shapes of `model.inputs`, in order or by name; returns the outputs of `model.outputs`.

        `out` is an array of `step_shape` of the output (several outputs: a sequence of arrays) to write into, C-contiguous
        and of the right dtype; without it new arrays are returned. Raises `ShapeError`, with the state unchanged.

        If a model looks ahead or has strides over time, an output without a row in this step is None, and its `out` is
        unchanged. If one frame can make several rows, they are returned as [rows, *frame]; `out` is then [n, *frame] with
        room for them, and the result is a view of its first rows.
        """
        return self._driver.step(inputs, out, named)

    def run(self, *inputs: Any, out: Any = None, progress: Progress | None = None, **named: Any) -> Any:
        """Process frames [T, *frame] in one native call with the GIL released; every output has time first.

        Inputs and outputs with one value per call (`per_frame` False) have no time axis.
        `out` is an array (several outputs: a sequence of arrays) of exactly the shape of the result without it; the
        number of rows of a model with delay or strides over time is `rows(T)`.
        `progress(done, total)` is called between pieces. Raises `ShapeError`, with the state unchanged.
        """
        return self._driver.run_many(inputs, out, named, progress)

    def trace(self, *inputs: Any, end: bool = False, **named: Any) -> Any:
        """As `run`, but returns a `tinyrnn.trace.Trace` with gates, cell and hidden states of every recurrent layer.

        The stream goes on as after `run`, with the same bits; with `end` as after `run` and `flush`, with the tail in
        the trace. The first trace compiles the model once more. Raises `ShapeError`, with the state unchanged.
        """
        return self.model.traced().stream(self, inputs, named, end)
