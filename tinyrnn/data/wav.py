"""RIFF WAVE in memory: from bytes to float32 samples and back, and the sample format.

Bytes come from anywhere: sizes are checked before memory is taken, and every problem is one `LoadError` that names
the source, what was found and what is supported.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyrnn.errors import LoadError, ShapeError

Array = np.ndarray[Any, Any]

PCM, FLOAT, EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
"""WAVE_FORMAT_… of a fmt chunk"""
WHOLE_FILE = (0, 0xFFFFFFFF)
"""sizes of a data chunk that was written to a pipe and extends to the end of the file"""
LARGEST_FORMAT = 64
"""most bytes of a fmt chunk that are read"""
LARGEST_BODY = (1 << 32) - 1 - 64
"""most bytes of samples in a file"""
WRITTEN = ("16", "24", "32", "float")
"""sample formats for writing: PCM by the number of bits, and float of 32 bits"""


class Readable(Protocol):
    """A file that is read forward."""

    def read(self, count: int, /) -> bytes: ...


@dataclass(frozen=True)
class Format:
    """How samples are stored: the sample rate in Hz, channels, bits of one sample, and whether it is float or PCM."""

    rate: int
    channels: int = 1
    bits: int = 16
    floating: bool = False

    @property
    def block(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * self.bits // 8


def read_header(file: Readable, name: str) -> tuple[Format, int | None]:
    """(format, bytes of samples that follow; None: all of them); reads a file up to its samples.

    `file` is read forward only, so it may be a pipe. Raises `LoadError` that starts with `name`.
    """
    start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        raise LoadError(f"{name}: not a .wav file: it starts with {start[:4]!r}, not b'RIFF'")
    form = b""
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return _format(name, form), None if length in WHOLE_FILE else length
        skipped = length + length % 2
        if head[:4] == b"fmt ":
            form = file.read(min(length, LARGEST_FORMAT))
            skipped -= len(form)
        while skipped and (piece := file.read(min(skipped, 1 << 16))):
            skipped -= len(piece)
    raise LoadError(f"{name}: a .wav file without samples (no data chunk); it is truncated or damaged")


def _format(name: str, form: bytes) -> Format:
    if len(form) < 16:
        raise LoadError(f"{name}: a .wav file that does not say its format before its samples; it is damaged")
    code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", form[:16])
    if code == EXTENSIBLE and len(form) >= 26:
        code = int.from_bytes(form[24:26], "little")
    if (code, bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
        raise LoadError(
            f"{name}: .wav of format {code:#06x} with {bits} bits; supported are PCM of 8, 16, 24 and 32 bits "
            f"and float of 32 and 64. ffmpeg -i in.wav -c:a pcm_s16le out.wav converts it"
        )
    if channels == 0 or rate == 0 or block != channels * bits // 8:
        raise LoadError(f"{name}: a damaged .wav file: {channels} channels, {rate} Hz, blocks of {block} bytes for {bits} bits")
    return Format(rate, channels, bits, code == FLOAT)


def decode(data: bytes, form: Format) -> Array:
    """Samples, float32, PCM in [-1, 1): [samples], or [samples, channels] where there are several."""
    bits = form.bits
    samples: Array
    if form.floating:
        with np.errstate(over="ignore"):
            samples = np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
    elif bits == 8:
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = (wide.view("<i4")[:, 0] >> 8).astype(np.float32) / (1 << 23)
    else:
        samples = (np.frombuffer(data, f"<i{bits // 8}") / (1 << bits - 1)).astype(np.float32)
    return samples if form.channels == 1 else samples.reshape(-1, form.channels)


def encode(samples: Array, bits: str = "16") -> tuple[bytes, int]:
    """(bytes of samples in one of the formats `WRITTEN`, number of samples beyond [-1, 1] that were clipped).

    Float is written as it is. Raises `ShapeError` for what is not sound.
    """
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2):
        raise ShapeError(f".wav holds float samples, not {samples.dtype}{list(samples.shape)}; write .npy")
    if bits not in WRITTEN:
        raise ShapeError(f".wav of {bits!r} bits; written are {', '.join(WRITTEN)}")
    if not np.isfinite(samples).all():
        raise ShapeError(".wav holds samples from -1 to 1, and some of these are NaN or infinite; write .npy")
    if bits == "float":
        return samples.astype("<f4").tobytes(), 0
    full = 1 << int(bits) - 1
    scaled = np.rint(samples.astype(np.float64) * full)
    clipped = int(np.count_nonzero((scaled > full) | (scaled < -full)))
    whole = np.clip(scaled, -full, full - 1).astype("<i4")
    if bits == "24":
        return np.ascontiguousarray(whole.reshape(-1, 1).view(np.uint8)[:, :3]).tobytes(), clipped
    return whole.astype(f"<i{int(bits) // 8}").tobytes(), clipped


def to_wav(samples: Array, rate: int, bits: str = "16") -> tuple[bytes, int]:
    """(bytes of a .wav file of samples [samples] or [samples, channels], number of clipped samples). Raises as `encode`."""
    data, clipped = encode(samples, bits)
    if len(data) > LARGEST_BODY:
        raise ShapeError(f"{len(data):,} bytes of samples; .wav holds up to {LARGEST_BODY:,}")
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    size = 4 if bits == "float" else int(bits) // 8
    form = struct.pack(
        "<HHIIHH", FLOAT if bits == "float" else PCM, channels, rate, rate * size * channels, size * channels, 8 * size
    )
    chunks = b""
    if bits == "float":  # formats other than PCM have an extension, here an empty one, and a fact chunk
        form += struct.pack("<H", 0)
        chunks = b"fact" + struct.pack("<II", 4, len(data) // (size * channels))
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + chunks + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(data) + len(data) % 2) + b"WAVE" + chunks + data + bytes(
        len(data) % 2
    ), clipped
