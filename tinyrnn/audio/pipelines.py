"""Models on live sound, in pieces of any size: from sound to sound, and from sound to figures.

All classes stream (`push`, `finish`, `reset`) and run over whole recordings (`run`), with the same bits however the
samples are divided into pieces. A model's state is carried from push to push; `reset` and `finish` start anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.audio.frames import Array, OverlapAdd, blocks
from tinyrnn.audio.front import Form, Framing, Front, magnitude, sound_input, sound_output
from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Port
from tinyrnn.runtime import Model, Progress, Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

GIVES = ("mask", "spectrum")
PIECE = 1 << 15
"""samples of a recording that are processed at once"""


def rows_per_frame(port: Port) -> Fraction:
    """The mean number of rows of an output for each input frame, over a long run."""
    many = port.clock.stride << 10
    return Fraction(port.clock.whole(2 * many) - port.clock.whole(many), many)


def _frame_for_frame(model: Model) -> None:
    port = model.outputs[0]
    if any(port.clock.whole(n) != n for n in (1, 1000, 1001)):
        raise ShapeError(
            f"{model.name}: output {port} has {port.clock.whole(1000)} rows for 1000 frames, and blocks are added frame by frame"
        )


def _run(stream: Stream, frames: Array, rest: tuple[int, ...]) -> Array:
    """The only output of a stream over these frames, [rows, *rest]."""
    return np.asarray(stream.run(frames)).reshape(-1, *rest) if len(frames) else np.empty((0, *rest), np.float32)


def _flush(stream: Stream, rest: tuple[int, ...]) -> Array:
    """The remaining rows of the only output of a stream, [rows, *rest]."""
    return np.asarray(stream.flush()).reshape(-1, *rest) if stream.model.has_tail else np.empty((0, *rest), np.float32)


class Pipeline(ABC):
    """Base of all pipelines."""

    front: Front

    @property
    def block(self) -> int:
        """The number of samples in one frame."""
        return self.front.block

    @property
    def hop(self) -> int:
        """The number of new samples in one frame."""
        return self.front.hop

    @abstractmethod
    def reset(self) -> None:
        """Return to the start: no samples, initial states."""

    @abstractmethod
    def push(self, samples: Any) -> Any:
        """The results that these samples complete. Raises `ShapeError`."""

    @abstractmethod
    def finish(self) -> Any:
        """The remaining results, when no more samples come; then starts anew."""

    @abstractmethod
    def join(self, parts: list[Any]) -> Any:
        """Concatenate the results of `push` and `finish`."""

    def run(self, samples: Any, progress: Progress | None = None) -> Any:
        """The result for a whole recording, from the start. `progress(done, total)` counts samples."""
        self.reset()
        given, parts = np.asarray(samples), []
        for start in range(0, len(given) if given.ndim else 1, PIECE):
            parts.append(self.push(given[start : start + PIECE]))
            if progress is not None:
                progress(min(start + PIECE, len(given)), len(given))
        return self.join([*parts, self.finish()])

    def __str__(self) -> str:
        return str(self.front)


class Listener(Pipeline):
    """Samples [n] → figures: every output of a model over frames of sound, by name, [T, *frame].

    `takes` says what a frame holds (`TAKES`; by default what `takes_of` finds), `block` its samples, `hop` how many of
    them are new: a model that takes 64 samples of the frame before and 512 new ones has a block of 576 and a hop of 512.
    By default a hop is the whole block of samples, a quarter of it for magnitudes and half of it for complex spectra;
    `window` is a name of `WINDOWS` or an array, by default "none", "sqrt-hann" for complex spectra. With `channels`
    the samples are [n, channels]. What belongs to a call (`per_frame` False) comes once, and covers all since the start.
    Raises `ShapeError` where the model takes no sound, or frames of other sizes.
    """

    def __init__(self, model: Model, *, channels: int = 1, **framing: Unpack[Framing]) -> None:
        self.model, self.front = model, Front(model, channels=channels, **framing)
        self.stream, self._heard = model.stream(), False

    def reset(self) -> None:
        self._heard = False
        self.front.reset()
        self.stream.reset()

    def push(self, samples: Any) -> dict[str, Array]:
        return self._figures(self.front.push(samples))

    def finish(self) -> dict[str, Array]:
        figures = self._figures(self.front.finish())
        if self._heard and self.model.has_tail:
            figures = self.join([figures, self._named(self.stream.flush())])
        self.reset()
        return figures

    def hops(self) -> dict[str, float]:
        """Output with rows → the number of samples from one row to the next."""
        return {p.name: float(self.hop / rows_per_frame(p)) for p in self.model.outputs if p.per_frame}

    def _figures(self, frames: Array) -> dict[str, Array]:
        ports = self.model.outputs
        if len(frames) == 0:
            return {p.name: np.empty((0, *p.shape), p.dtype) for p in ports if p.per_frame}
        self._heard = True
        return self._named(self.stream.run(frames))

    def _named(self, answer: Any) -> dict[str, Array]:
        names = [p.name for p in self.model.outputs]
        named = zip(names, [answer] if len(names) == 1 else answer, strict=True)
        return {name: array for name, array in named if array is not None}

    def join(self, parts: list[Any]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for port in self.model.outputs:
            given = [part[port.name] for part in parts if port.name in part]
            if not given:
                raise ShapeError(f"{self.model.name}: no samples, and so no value for output {port.name!r}")
            found[port.name] = np.concatenate(given) if port.per_frame else given[-1]
        return found


class SoundPipeline(Pipeline):
    """Base of pipelines from sound to sound: the output is aligned with the input and has its length."""

    model: Model

    def _lay_out(self, size: int, add: bool, window: str | Array | None, normalize: bool) -> None:
        """Prepare the output from frames of `size` samples: overlap-add (`add`), or concatenation."""
        hop = self.front.hop
        self._adder = OverlapAdd(size, hop, window, normalize) if add else None
        self._lead = size - hop if add else 0
        self._late = (-(-size // hop) - 1) * hop if add else 0
        self.made = Fraction(hop) if add else size * rows_per_frame(self.model.outputs[0])
        """output samples for each `hop` input samples"""
        self._restart()

    def _restart(self) -> None:
        self.front.reset()
        if self._adder is not None:
            self._adder.reset()
        self._taken, self._sent, self._skip = 0, 0, self._lead

    @abstractmethod
    def _frames(self, samples: Any) -> Array:
        """The output frames, [T, size] or [T, size, channels], that these samples complete."""

    @abstractmethod
    def _tail(self) -> Array:
        """The remaining output frames of models that look ahead."""

    def push(self, samples: Any) -> Array:
        """The output samples that are complete, each once: sample k needs inputs up to k + block - 1, and the models' delay."""
        frames = self._frames(samples)
        self._taken += len(samples)
        return self._deliver(frames)

    def _deliver(self, frames: Array) -> Array:
        made = frames.reshape(-1, *frames.shape[2:]) if self._adder is None else self._adder.push(frames)
        skipped = min(self._skip, len(made))
        self._skip -= skipped
        self._sent += len(made) - skipped
        return made[skipped:]

    def finish(self) -> Array:
        total, sent = -int(-self._taken * self.made // self.hop), self._sent
        rest: Array = np.empty((0, *self.front.framer.shape), np.float32)
        if self._taken:
            missing = -self._taken % self.hop + self._late
            last = self._frames(np.zeros((missing, *self.front.framer.shape), np.float32))
            rest = self._deliver(np.concatenate([last, self._tail()]))[: total - sent]
        self.reset()
        return rest

    def join(self, parts: list[Any]) -> Array:
        return np.concatenate(parts)


class SampleFilter(SoundPipeline):
    """Samples [n] → samples, through a model that takes frames of samples and gives frames of samples.

    Frames of N samples come every `hop` (by default N). Where they overlap and the model gives N samples, these are
    added under `window` (a name of `WINDOWS` or an array, by default "none"; the model's frames get it too), divided by
    the sum of its squares unless `normalize` is False; where it gives another number, these are the samples of the
    hop, joined. With `channels` the samples are [n, channels]. Raises `ShapeError` where the model takes or gives no sound.
    """

    def __init__(
        self,
        model: Model,
        *,
        hop: int | None = None,
        window: str | Array | None = None,
        normalize: bool = True,
        channels: int = 1,
    ) -> None:
        self.model = model
        self.front = Front(model, "samples", None, hop, window, channels)
        port = sound_output(model)
        several = channels > 1 and port.shape[-1:] == (channels,)
        self._shape = (port.size // channels, channels) if several else (port.size,)
        add = self._shape == (self.block,) and self.hop < self.block
        if add:
            _frame_for_frame(model)
        self._lay_out(self._shape[0], add, window, normalize)
        self.stream = model.stream()

    def reset(self) -> None:
        self._restart()
        self.stream.reset()

    def _frames(self, samples: Any) -> Array:
        return _run(self.stream, self.front.push(samples), self._shape)

    def _tail(self) -> Array:
        return _flush(self.stream, self._shape)


class SpectralMask(SoundPipeline):
    """Samples [n] → samples, through a model on short-time spectra and, if given, a second one on the resulting blocks.

    Each block of samples is transformed; `model` gets its magnitudes, or real and imaginary parts (`takes`, by default
    what `takes_of` finds), and gives a mask to multiply the spectrum with (real or complex, by its shape) or the new
    spectrum itself (magnitudes get the phase of the old one): `gives`, by default "spectrum" where complex spectra go in
    and come out, else "mask". The block goes back to samples, through `model2` if there is one (frames of a block of
    samples in and out), and blocks are added where they overlap.

    `block` follows from the model's shape; `hop` is by default a quarter of it for magnitudes and half of it for complex
    spectra; `window`, applied before the transform and after its inverse, is a name of `WINDOWS` or an array, by default
    "none" for magnitudes and "sqrt-hann" for complex spectra. Sums are divided by those of the squared window with
    `normalize`, by default where there is no `model2` (with one, its outputs are taken to be what is added).

    DTLN (Westhausen and Meyer, 2020) is `SpectralMask(model1, model2)`, GTCRN (Rong et al., 2024) `SpectralMask(model)`.

    Raises `ShapeError` where the models do not take or give these shapes.
    """

    def __init__(
        self,
        model: Model,
        model2: Model | None = None,
        *,
        gives: str | None = None,
        normalize: bool | None = None,
        **framing: Unpack[Framing],
    ) -> None:
        self.model, self.model2 = model, model2
        self.front = Front(model, **framing)
        if self.front.form is None:
            raise ShapeError(
                f"{model.name}: input {self.front.port} takes samples; spectra have an odd number of bins, N // 2 + 1"
            )
        self._out = Form(model, sound_output(model), self.block // 2 + 1)
        self.gives = gives or ("spectrum" if self._out.complex and self.front.form.complex else "mask")
        if self.gives not in GIVES:
            raise ShapeError(f"gives is one of {', '.join(GIVES)}, not {gives!r}")
        if model2 is not None:
            for port in (sound_input(model2), sound_output(model2)):
                if port.size != self.block:
                    raise ShapeError(f"{model2.name}: {port} is no block of {self.block} samples, as {model.name} needs")
        self.streams = [m.stream() for m in (model, model2) if m is not None]
        for stream in self.streams:
            _frame_for_frame(stream.model)
        self._lay_out(self.block, True, self.front.window, model2 is None if normalize is None else normalize)

    def _restart(self) -> None:
        super()._restart()
        self._waiting = np.empty((0, self.block // 2 + 1), np.complex128)

    def reset(self) -> None:
        self._restart()
        for stream in self.streams:
            stream.reset()

    def _frames(self, samples: Any) -> Array:
        frames = self.front.push(samples)
        self._waiting = np.concatenate([self._waiting, self.front.spectrum])
        return self._through(_run(self.streams[0], frames, self._out.shape))

    def _tail(self) -> Array:
        made = self._through(_flush(self.streams[0], self._out.shape))
        return made if self.model2 is None else np.concatenate([made, _flush(self.streams[1], (self.block,))])

    def _through(self, answer: Array) -> Array:
        """Output frames from the first model's results; its input spectra are kept until then if it looks ahead."""
        spectrum, self._waiting = self._waiting[: len(answer)], self._waiting[len(answer) :]
        made = blocks(self._changed(spectrum, answer), self.block)
        if self.model2 is None:
            return made
        second = made.astype(np.float32).reshape(len(made), *self.model2.inputs[0].shape)
        return _run(self.streams[1], second, (self.block,))

    def _changed(self, spectrum: Array, answer: Array) -> Array:
        """The new spectra, by real operations whose rounding does not depend on a value's place in the array."""
        old, new = spectrum, np.empty_like(spectrum)
        if self._out.complex:
            real, imag = self._out.parts(answer)
            if self.gives == "mask":
                real, imag = real * old.real - imag * old.imag, real * old.imag + imag * old.real
        else:
            factor = answer.reshape(spectrum.shape).astype(np.float64)
            if self.gives == "spectrum":
                size = magnitude(old)
                old = np.where(size > 0, old, 1)
                factor = factor / np.where(size > 0, size, 1)
            real, imag = factor * old.real, factor * old.imag
        new.real, new.imag = real, imag
        return new
