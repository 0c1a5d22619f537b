"""The inputs and outputs of a model on sound: frames of samples, or spectra in one of two forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from tinyrnn.audio.frames import Array, Framer, make_window, spectra
from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Port
from tinyrnn.runtime import Model

if TYPE_CHECKING:
    from typing_extensions import Unpack

TAKES = ("samples", "magnitude", "complex")
"""what a frame of the model's input holds: samples, or the spectrum of a block as magnitudes or as complex numbers"""
FEWEST_BINS = 65
"""a frame with an odd number of values, at least this many, is taken for the spectrum of a block"""


def takes_of(model: Model) -> str:
    """What a frame of the model's only input holds, one of `TAKES`, judged by its shape.

    An odd number of values (65 and up, as 257) is N // 2 + 1 bins of a real FFT, "magnitude"; with an axis of length 2
    besides, "complex"; all else is "samples".
    """
    sizes = [n for n in model.inputs[0].shape if n != 1] if model.inputs else []
    bins = [n for n in sizes if n % 2 and n >= FEWEST_BINS]
    if len(bins) == 1 and sorted(sizes) in ([bins[0]], [2, bins[0]]):
        return "magnitude" if len(sizes) == 1 else "complex"
    return "samples"


def sound_input(model: Model) -> Port:
    ports = model.inputs
    if len(ports) != 1:
        raise ShapeError(
            f"{model.name}: takes {len(ports)} inputs ({'; '.join(map(str, ports)) or 'none'}), and sound goes into one. "
            f"load(…, bind={{name: value}}) fixes those that do not change"
        )
    port = ports[0]
    if not port.per_frame or port.dtype.kind != "f":
        raise ShapeError(f"{model.name}: input {port} takes no samples or spectra")
    return port


def sound_output(model: Model) -> Port:
    ports = model.outputs
    if len(ports) != 1:
        named = ", ".join(p.name for p in ports) or "none"
        raise ShapeError(f"{model.name}: gives {len(ports)} outputs ({named}); choose the sound: load(…, outputs=[name])")
    port = ports[0]
    if not port.per_frame or port.dtype.kind != "f":
        raise ShapeError(f"{model.name}: output {port} is no sound: it has no samples for each frame")
    return port


class Form:
    """The layout of a spectrum in a frame: magnitudes (or a real mask), or real and imaginary parts."""

    def __init__(self, model: Model, port: Port, bins: int) -> None:
        sizes = [n for n in port.shape if n != 1]
        self.complex = sorted(sizes) == sorted([bins, 2])
        if not self.complex and sizes != [bins]:
            raise ShapeError(
                f"{model.name}: {port} does not hold the spectrum of a block of {2 * (bins - 1)} samples: magnitudes have "
                f"{bins} values, real and imaginary parts an axis of 2 besides"
            )
        self.bins, self.shape, self.last = bins, port.shape, sizes[-1] == 2

    def parts(self, frames: Array) -> tuple[Array, Array]:
        """Real and imaginary parts [T, bins], float64, of frames in complex form."""
        wide = frames.reshape(-1, *((self.bins, 2) if self.last else (2, self.bins))).astype(np.float64)
        return (wide[..., 0], wide[..., 1]) if self.last else (wide[:, 0], wide[:, 1])

    def frames(self, spectrum: Array) -> Array:
        """Frames [T, *shape], float32, of spectra [T, bins]."""
        if self.complex:
            values = np.stack([spectrum.real, spectrum.imag], -1 if self.last else 1)
        else:
            values = magnitude(spectrum)
        return values.astype(np.float32).reshape(len(spectrum), *self.shape)


def magnitude(spectrum: Array) -> Array:
    """|z|, float64, by operations whose rounding does not depend on a value's place in the array."""
    size: Array = np.sqrt(spectrum.real**2 + spectrum.imag**2)
    return size


class Framing(TypedDict, total=False):
    """How samples become frames: what a frame holds (one of `TAKES`), its length and hop in samples, and the window.

    The window is a name of `WINDOWS` or an array; what is None or not given follows from the model.
    """

    takes: str | None
    block: int | None
    hop: int | None
    window: str | Array | None


class Front:
    """Samples → frames of a model's input. `spectrum`: the complex spectra of the last push, if the model takes spectra."""

    def __init__(
        self,
        model: Model,
        takes: str | None = None,
        block: int | None = None,
        hop: int | None = None,
        window: str | Array | None = None,
        channels: int = 1,
    ) -> None:
        port = sound_input(model)
        self.takes = takes = takes or takes_of(model)
        if takes not in TAKES:
            raise ShapeError(f"takes is one of {', '.join(TAKES)}, not {takes!r}")
        self.port, self.spectrum = port, np.empty((0, 0), np.complex128)
        self.form: Form | None = None
        if takes == "samples":
            if channels > 1 and port.shape[-1:] != (channels,):
                raise ShapeError(f"{channels} channels of samples do not make input {port}")
            self.block = port.size // channels
            if block not in (None, self.block):
                raise ShapeError(f"{model.name}: a frame of input {port} is {self.block} samples, not {block}")
        else:
            if channels > 1:
                raise ShapeError(f"{channels} channels: spectra are those of one channel")
            bins = max(port.shape, default=1)
            self.block = 2 * (bins - 1) if block is None else block
            self.form = Form(model, port, self.block // 2 + 1)
            if self.form.complex != (takes == "complex"):
                raise ShapeError(f"{model.name}: input {port} does not take spectra in {takes} form")
        hop = self.block // {"samples": 1, "magnitude": 4, "complex": 2}[takes] if hop is None else hop
        self.framer = Framer(self.block, hop, (channels,) if channels > 1 else ())
        self.hop = hop
        name = ("sqrt-hann" if takes == "complex" else "none") if window is None else window
        self.window_name = name if isinstance(name, str) else "given"
        self.window = make_window(name, self.block)

    def reset(self) -> None:
        self.framer.reset()

    def push(self, samples: Any) -> Array:
        return self._frames(self.framer.push(samples))

    def finish(self) -> Array:
        return self._frames(self.framer.finish())

    def _frames(self, cut: Array) -> Array:
        if self.form is None:
            if self.window_name != "none":
                cut = (cut * self.window.reshape(-1, *[1] * (cut.ndim - 2))).astype(np.float32)
            return cut.reshape(len(cut), *self.port.shape)
        self.spectrum = spectra(cut * self.window)
        return self.form.frames(self.spectrum)

    def __str__(self) -> str:
        step = "" if self.hop == self.block else f" every {self.hop}"
        under = "" if self.window_name == "none" else f" under a {self.window_name} window"
        what = {"samples": "frames", "magnitude": "magnitude spectra", "complex": "complex spectra"}[self.takes]
        return f"{what} of {self.block} samples{step}{under}"


def gives_sound(model: Model, takes: str, hop: int) -> bool:
    """Whether the output of a model over frames of sound seems to be sound again, rather than figures."""
    port = model.outputs[0] if len(model.outputs) == 1 else None
    if port is None or not port.per_frame or port.dtype.kind != "f" or len(model.inputs) != 1:
        return False
    size = model.inputs[0].size
    return (
        port.size == size
        or (takes == "samples" and port.size == hop)
        or (takes != "samples" and port.size in (size // 2, 2 * size))
    )


def frames_of(model: Model, samples: Array, channels: int = 1, **framing: Unpack[Framing]) -> Array:
    """The frames [T, *frame] of a model's input over a whole recording, with the options of `Front`."""
    front = Front(model, channels=channels, **framing)
    return np.concatenate([front.push(samples), front.finish()])
