"""Sound in pieces of any size, cut into frames and put together again: framing, short-time spectra, overlap-add.

All classes stream: `push` takes any number of samples and returns what they complete, `finish` returns the rest and
starts anew. The results have the same bits however the samples are divided into pieces.

Frame t of N samples every H ends with sample (t + 1) * H - 1: its last H samples are new, and the N - H before them are
those of the frames before (zeros before the first sample). Transforms are computed in float64 (NumPy's real FFT).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError

Array = np.ndarray[Any, Any]

WINDOWS = ("none", "hann", "sqrt-hann", "hamming", "blackman")


def make_window(name: str | Array | None, size: int) -> Array:
    """The window, float64 [size]: periodic, by a name of `WINDOWS` (None or "none": all ones), or the given array.

    Periodic: as `torch.hann_window(size)` and `scipy.signal.get_window(name, size)`. Raises `ShapeError`.
    """
    if name is None or isinstance(name, str):
        turn = 2 * np.pi * np.arange(size) / size
        if name in (None, "none"):
            return np.ones(size)
        if name in ("hann", "sqrt-hann"):
            hann = 0.5 - 0.5 * np.cos(turn)
            return hann if name == "hann" else np.sqrt(hann)
        if name == "hamming":
            return 0.54 - 0.46 * np.cos(turn)
        if name == "blackman":
            return 0.42 - 0.5 * np.cos(turn) + 0.08 * np.cos(2 * turn)
        raise ShapeError(f"unknown window {name!r}; known are {', '.join(WINDOWS)}, or an array of {size} factors")
    given = np.asarray(name, np.float64)
    if given.shape != (size,) or not np.isfinite(given).all():
        raise ShapeError(f"the window has shape {list(given.shape)}; a block has {size} samples, all factors finite")
    return given


def _sizes(size: int, hop: int | None) -> tuple[int, int]:
    hop = size if hop is None else hop
    if not 1 <= hop <= size:
        raise ShapeError(f"frames of {size} samples every {hop}: a hop is 1 to {size} samples")
    return size, hop


class Framer:
    """Samples [n, *shape] → frames [T, size, *shape], float32, one every `hop` samples (by default `size`: no overlap).

    With a hop below the size each frame starts with the last samples of the frame before; the first starts with zeros.
    """

    def __init__(self, size: int, hop: int | None = None, shape: tuple[int, ...] = ()) -> None:
        self.size, self.hop = _sizes(size, hop)
        self.shape = shape
        self.reset()

    def reset(self) -> None:
        self._held = np.zeros((self.size - self.hop, *self.shape), np.float32)

    @property
    def waiting(self) -> int:
        """The number of samples that belong to no complete frame yet."""
        return len(self._held) - (self.size - self.hop)

    def push(self, samples: Any) -> Array:
        """The frames that these samples complete. Raises `ShapeError` unless they are floating samples of this shape."""
        given = np.asarray(samples)
        if given.dtype.kind != "f" or given.ndim == 0 or given.shape[1:] != self.shape:
            wanted = str(["n", *self.shape]).replace("'", "")
            raise ShapeError(f"samples are float{wanted} from -1 to 1, not {given.dtype}{list(given.shape)}")
        held = np.concatenate([self._held, given], dtype=np.float32, casting="same_kind")
        count = (len(held) - (self.size - self.hop)) // self.hop
        self._held = held[count * self.hop :].copy()
        if count == 0:
            return np.empty((0, self.size, *self.shape), np.float32)
        cut = np.lib.stride_tricks.sliding_window_view(held, self.size, axis=0)[:: self.hop][:count]
        return np.ascontiguousarray(np.moveaxis(cut, -1, 1))

    def finish(self) -> Array:
        """The last frame, padded with zeros, if samples are waiting; then starts anew."""
        missing = -self.waiting % self.hop
        last = self.push(np.zeros((missing, *self.shape), np.float32))
        self.reset()
        return last


class OverlapAdd:
    """Frames [T, size] → samples, float32: frames times `window`, each `hop` after the one before, summed.

    The frames are assumed to be made with the same window: with `normalize` (the default) the sums are divided by the sum
    of its squares, so that unchanged frames give their samples back. The first `size - hop` samples
    are those before the first new one of a `Framer`.
    """

    def __init__(self, size: int, hop: int, window: str | Array | None = None, normalize: bool = True) -> None:
        self.size, self.hop = _sizes(size, hop)
        self._window = make_window(window, size)
        self._pieces = -(-size // hop)
        self._scale = np.ones(hop)
        if normalize:
            squares = np.zeros(self._pieces * hop)
            squares[:size] = self._window**2
            total = squares.reshape(self._pieces, hop).sum(axis=0)
            if total.min() < 1e-8 * total.max():
                raise ShapeError(f"frames of {size} samples every {hop} under this window leave gaps; take a smaller hop")
            self._scale = 1 / total
        self.reset()

    def reset(self) -> None:
        self._open = np.zeros((self._pieces - 1, self.hop))

    def push(self, frames: Any) -> Array:
        """The samples to which no later frame adds, `hop` for each frame."""
        given = np.asarray(frames)
        if given.ndim != 2 or given.shape[1] != self.size:
            raise ShapeError(f"frames have shape {list(given.shape)}; these are [T, {self.size}]")
        count = len(given)
        padded = np.zeros((count, self._pieces * self.hop))
        padded[:, : self.size] = given * self._window
        pieces = padded.reshape(count, self._pieces, self.hop)
        total = np.concatenate([self._open, np.zeros((count, self.hop))])
        for piece in reversed(range(self._pieces)):  # the oldest frame first, at every sample
            total[piece : piece + count] += pieces[:, piece]
        self._open = total[count:].copy()
        return (total[:count] * self._scale).astype(np.float32).reshape(-1)

    def finish(self) -> Array:
        """The last `size - hop` samples; then starts anew."""
        rest = (self._open * self._scale).astype(np.float32).reshape(-1)[: self.size - self.hop]
        self.reset()
        return rest


class Stft:
    """Samples [n] → spectra [T, block // 2 + 1], complex128, of blocks under a window, one every `hop` samples.

    Blocks lie as those of a `Framer`. `torch.stft` with center=True and pad_mode="constant" gives the same ones, the
    first of them over block // 2 zeros, where the hop is half a block.
    """

    def __init__(self, block: int = 512, hop: int = 128, window: str | Array | None = None) -> None:
        self._framer, self._window = Framer(block, hop), make_window(window, block)

    def reset(self) -> None:
        self._framer.reset()

    def push(self, samples: Any) -> Array:
        """The spectra of the blocks that these samples complete."""
        return spectra(self._framer.push(samples) * self._window)

    def finish(self) -> Array:
        """The spectrum of the last block, padded with zeros, if samples are waiting; then starts anew."""
        return spectra(self._framer.finish() * self._window)


class InverseStft:
    """Spectra [T, block // 2 + 1] → samples, float32: the inverse of `Stft`, by `OverlapAdd`."""

    def __init__(self, block: int = 512, hop: int = 128, window: str | Array | None = None, normalize: bool = True) -> None:
        self._block, self._adder = block, OverlapAdd(block, hop, window, normalize)

    def reset(self) -> None:
        self._adder.reset()

    def push(self, spectra: Any) -> Array:
        """The samples to which no later block adds, `hop` for each spectrum; the first `block - hop` lie before the start."""
        return self._adder.push(blocks(spectra, self._block))

    def finish(self) -> Array:
        """The last `block - hop` samples; then starts anew."""
        return self._adder.finish()


def spectra(blocks: Array) -> Array:
    """The real FFT of each block [T, N] as complex128 [T, N // 2 + 1]."""
    return np.fft.rfft(blocks.astype(np.float64), axis=-1)


def blocks(spectra: Any, size: int) -> Array:
    """The blocks [T, size], float64, of spectra [T, size // 2 + 1]. Raises `ShapeError`."""
    given = np.asarray(spectra)
    if given.ndim != 2 or given.shape[1] != size // 2 + 1:
        raise ShapeError(f"spectra have shape {list(given.shape)}; those of blocks of {size} samples are [T, {size // 2 + 1}]")
    if len(given) == 0:
        return np.empty((0, size))
    return np.fft.irfft(given.astype(np.complex128), size, axis=-1)
