"""Sound in pieces, from .wav or from a pipe, of one channel or several, at the model's sample rate."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyrnn.errors import LoadError, ShapeError

if TYPE_CHECKING:
    from tinyrnn.runtime import Model

PIPE = "-"
LIVE_BYTES = 1 << 16
"""most bytes read from a pipe at once"""
RATE_NAMES = ("sr", "rate", "fs", "samplerate", "samplingrate")
"""names of inputs and of metadata that hold a sample rate, in lower case and without underscores"""


def is_sound(path: Path) -> bool:
    return str(path) == PIPE or path.suffix.lower() == ".wav"


@dataclass
class Source:
    """Sound in pieces of float32 samples, and their total number (0: unknown)."""

    name: str
    rate: int | None
    channels: int
    total: int
    pieces: Iterator[Any]
    live: bool = False


def open_source(path: Path, channel: str | None) -> Source:
    """A .wav file, or raw samples (s16le, mono) or .wav from standard input. Raises `LoadError`."""
    from tinyrnn.audio.pipelines import PIECE
    from tinyrnn.data.files import read_wav

    if str(path) == PIPE:
        return _piped(channel)
    samples, rate = read_wav(path)
    samples = _chosen(str(path), samples, channel)
    pieces = (_finite(str(path), samples[at : at + PIECE]) for at in range(0, len(samples), PIECE))
    return Source(str(path), rate, 1 if samples.ndim == 1 else samples.shape[1], len(samples), pieces)


def _piped(channel: str | None) -> Source:
    from tinyrnn.data import wav

    name: str = "standard input"
    file: Any = sys.stdin.buffer
    if file.isatty():
        raise LoadError(f"{name}: no sound comes in; pipe samples into it, as arecord -t raw -f S16_LE -r 16000 | tinyrnn run …")
    first = file.read(4)
    form, start = wav.Format(0), first
    if first == b"RIFF":
        form, start = wav.read_header(_Prefixed(first, file), name)[0], b""

    def pieces() -> Iterator[Any]:
        held = start
        try:
            while True:
                whole = len(held) - len(held) % form.block
                if whole:
                    yield _finite(name, _chosen(name, wav.decode(held[:whole], form), channel))
                piece = file.read1(LIVE_BYTES)
                if not piece:
                    return
                held = held[whole:] + piece
        except KeyboardInterrupt:  # the end of a recording
            return

    channels = 1 if channel else form.channels
    return Source(name, form.rate or None, channels, 0, pieces(), live=True)


class _Prefixed:
    """A file that can only be read forward, preceded by bytes that were already read from it."""

    def __init__(self, first: bytes, file: Any) -> None:
        self._first, self._file = first, file

    def read(self, count: int) -> bytes:
        first, self._first = self._first[:count], self._first[count:]
        rest: bytes = self._file.read(count - len(first))
        return first + rest


def _chosen(name: str, samples: Any, channel: str | None) -> Any:
    if channel is None:
        return samples
    wide = samples.reshape(len(samples), -1)
    if channel == "mean":
        return wide.mean(axis=1, dtype=wide.dtype)
    if not channel.isdecimal() or not 1 <= int(channel) <= wide.shape[1]:
        raise ShapeError(f"{name}: there is no channel {channel!r}; it has 1 to {wide.shape[1]}, or take their mean")
    return wide[:, int(channel) - 1]


def _finite(name: str, samples: Any) -> Any:
    import numpy as np

    if not np.isfinite(samples).all():
        raise LoadError(f"{name}: some samples are NaN or infinite")
    return samples


def check_rate(model: Model, source: Source, bind: Mapping[str, Any] | None, rate: int | None) -> int | None:
    """The sample rate of the sound. Raises `ShapeError` if it is known to differ from that of the model."""
    known: dict[str, int] = {} if rate is None else {"--rate": rate}
    for what, values in (("--bind", bind or {}), ("its metadata", model.metadata)):
        for name, value in values.items():
            if name.lower().replace("_", "") in RATE_NAMES:
                try:
                    known[f"{what} {name}={value}"] = int(value)
                except (TypeError, ValueError):
                    continue
    if source.rate is None:
        rates = set(known.values())
        if len(rates) > 1:
            raise ShapeError(f"{model.name}: {', '.join(known)} say different sample rates")
        return next(iter(rates), None)
    for said, wanted in known.items():
        if wanted != source.rate:
            raise ShapeError(
                f"{source.name}: the file is {source.rate} Hz, the model expects {wanted} ({said}); resample it: "
                f"ffmpeg -i {'in.wav' if source.live else source.name} -ar {wanted} resampled.wav"
            )
    return source.rate
