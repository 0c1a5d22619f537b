"""Arrays from files and back: .npy, .npz, .csv and .wav, for the command line.

Files come from anywhere: nothing is unpickled, sizes are checked before memory is taken, and every
problem is one `LoadError` that names the file, what was found and what is supported. Output is written
beside its place and moved there when it is complete.
"""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinyrnn.errors import LoadError, ShapeError, TinyRNNError
from tinyrnn.frontends.archive import first_line, read_archive

Array = np.ndarray[Any, Any]

KINDS = (".npy", ".npz", ".csv", ".wav")
LARGEST_DATA = 1 << 31
"""bytes of arrays that one file may hold, unpacked"""
PCM, FLOAT, EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
"""WAVE_FORMAT_… of a .wav file's fmt chunk"""
WHOLE_FILE = (0, 0xFFFFFFFF)
"""sizes of a data chunk written to a pipe: it goes to the end of the file"""


def kind_of(path: Path) -> str:
    """The suffix of a path, one of `KINDS`. Raises `LoadError`."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise LoadError(f"{path}: unknown kind of file {kind!r}; supported are {', '.join(KINDS)}")
    return kind


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file by name; where a file holds one array without a name, its name is empty."""
    return _read_npz(path) if kind_of(path) == ".npz" else {"": read_array(path)}


def read_array(path: Path) -> Array:
    """The one array of a file: .csv gives float64 [rows, columns], .wav float32 [samples] or [samples, channels]."""
    kind = kind_of(path)
    if kind == ".npz":
        arrays = _read_npz(path)
        if len(arrays) != 1:
            raise LoadError(f"{path}: {len(arrays)} arrays ({', '.join(arrays)}); one is needed here")
        return next(iter(arrays.values()))
    return read_wav(path)[0] if kind == ".wav" else _read_csv(path) if kind == ".csv" else _read_npy(path)


def _size(path: Path) -> int:
    """The bytes of a file that is there, is a file, and holds something."""
    try:
        if not path.is_file():
            raise LoadError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({error.strerror})") from None
    if size == 0:
        raise LoadError(f"{path}: the file is empty")
    if size > LARGEST_DATA:
        raise LoadError(f"{path}: {size:,} bytes; the most that is read is {LARGEST_DATA:,}")
    return size


def _read_npy(path: Path) -> Array:
    size = _size(path)
    with path.open("rb") as file:
        return _npy(file, size, str(path))


def _npy(file: IO[bytes], size: int, what: str) -> Array:
    """One array in .npy form from a file of `size` bytes that can seek."""
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = header(file)
    except KeyError:
        raise LoadError(f"{what}: .npy of version {version[0]}.{version[1]}; supported are 1.0 and 2.0") from None
    except Exception as error:  # a damaged header raises whatever Python's parser does
        raise LoadError(f"{what}: not a .npy array, or damaged ({first_line(error)})") from None
    if dtype.hasobject:
        raise LoadError(
            f"{what}: pickled Python objects, which are never read; supported are plain numbers. "
            f"Save it again with np.asarray(x, np.float32)"
        )
    if dtype.kind not in "fiub":
        raise LoadError(f"{what}: holds {dtype}; supported are floats, integers and booleans")
    needed, found = prod(shape) * dtype.itemsize, size - file.tell()
    if any(n < 0 for n in shape) or needed != found:
        raise LoadError(f"{what}: truncated or damaged: {dtype}{list(shape)} takes {needed:,} bytes, {found:,} are there")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path) -> dict[str, Array]:
    _size(path)
    return read_archive(path)


def _read_csv(path: Path) -> Array:
    """A table of numbers [rows, columns]; a first line that holds none is a header."""
    _size(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            delimiter = next((d for d in ",;\t" if d in first), None)
            header = not any(_is_number(cell) for cell in first.split(delimiter))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                lines = file if header else chain([first], file)
                table = np.loadtxt(lines, np.float64, delimiter=delimiter, ndmin=2, comments=None)
    except UnicodeDecodeError:
        raise LoadError(f"{path}: not a text file; .csv holds numbers, one frame a line") from None
    except ValueError as error:
        raise LoadError(
            f"{path}: not a table of numbers ({first_line(error)}; rows count from 1 after any header); "
            f".csv holds one frame a line, all lines with as many numbers"
        ) from None
    if table.size == 0:
        raise LoadError(f"{path}: no line of numbers")
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_wav(path: Path) -> tuple[Array, int]:
    """Samples, float32 in [-1, 1], [samples] or [samples, channels], and the sample rate in Hz.

    PCM of 8, 16, 24 and 32 bits and float of 32 and 64 bits (RIFF WAVE, also WAVE_FORMAT_EXTENSIBLE).
    """
    size = _size(path)
    data = path.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise LoadError(f"{path}: not a .wav file: it starts with {data[:4]!r}, not b'RIFF'")
    form, at = b"", 12
    while at + 8 <= size:
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            form = data[at : at + length]
        elif name == b"data":
            if length in WHOLE_FILE:
                length = size - at
            if at + length > size:
                raise LoadError(f"{path}: truncated: its samples take {length:,} bytes, {size - at:,} are there")
            return _samples(path, form, data[at : at + length])
        at += length + length % 2
    raise LoadError(f"{path}: a .wav file without samples (no data chunk); it is truncated or damaged")


def _samples(path: Path, form: bytes, data: bytes) -> tuple[Array, int]:
    if len(form) < 16:
        raise LoadError(f"{path}: a .wav file that does not say its format before its samples; it is damaged")
    code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", form[:16])
    if code == EXTENSIBLE and len(form) >= 26:
        code = int.from_bytes(form[24:26], "little")
    if (code, bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
        raise LoadError(
            f"{path}: .wav of format {code:#06x} with {bits} bits; supported are PCM of 8, 16, 24 and 32 bits "
            f"and float of 32 and 64. ffmpeg -i in.wav -c:a pcm_s16le out.wav converts it"
        )
    if channels == 0 or rate == 0 or block != channels * bits // 8 or len(data) % block:
        raise LoadError(
            f"{path}: a damaged .wav file: {channels} channels, {rate} Hz, blocks of {block} bytes for {bits} bits, "
            f"{len(data):,} bytes of samples"
        )
    samples: Array
    if code == FLOAT:
        samples = np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
    elif bits == 8:
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = (wide.view("<i4")[:, 0] >> 8).astype(np.float32) / (1 << 23)
    else:
        samples = (np.frombuffer(data, f"<i{bits // 8}") / (1 << bits - 1)).astype(np.float32)
    return (samples if channels == 1 else samples.reshape(-1, channels)), rate


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise `TinyRNNError` where nothing can be written to `path`, or it is one of the inputs; before any work is done."""
    kind_of(path)
    for other in inputs:
        if path.exists() and other.exists() and path.samefile(other):
            raise TinyRNNError(f"{path}: is an input too, and would be overwritten; name another output")
    if path.is_dir():
        raise TinyRNNError(f"{path}: a folder, not a file")
    if not path.parent.is_dir():
        raise TinyRNNError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise TinyRNNError(f"{path}: the folder {path.parent} cannot be written to")


def write_arrays(path: Path, arrays: Mapping[str, Array], rate: int | None = None) -> int:
    """Write named arrays: several of them need .npz, the other kinds hold one. As `write_array` otherwise."""
    if kind_of(path) == ".npz":
        _replace(path, lambda file: _write_npz(file, arrays))
        return 0
    if len(arrays) == 1:
        return write_array(path, next(iter(arrays.values())), rate)
    raise TinyRNNError(
        f"{path}: {len(arrays)} outputs ({', '.join(arrays)}) need an .npz file, or choose one with --outputs NAME"
    )


def write_array(path: Path, array: Array, rate: int | None = None) -> int:
    """Write one array; .npz calls it y, .csv takes up to two axes, .wav [samples] or [samples, channels] and a rate in Hz.

    .wav is PCM of 16 bits: what is beyond [-1, 1) is clipped, and the number of such samples comes back (0 for other kinds).
    Raises `ShapeError` where the kind cannot hold the array and `TinyRNNError` where the file cannot be written.
    """
    kind = kind_of(path)
    if kind == ".npz":
        return write_arrays(path, {"y": array})
    if kind == ".npy":
        _replace(path, lambda file: np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False))
        return 0
    if kind == ".csv":
        _write_csv(path, array)
        return 0
    data, clipped = _wav(path, array, rate)
    _replace(path, lambda file: file.write(data))
    return clipped


def _write_npz(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """As np.savez, which cannot store an array called 'file'."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _write_csv(path: Path, array: Array) -> None:
    if array.ndim > 2:
        raise ShapeError(f"{path}: .csv holds rows and columns, not shape {list(array.shape)}; write .npy")
    whole = array.dtype.kind in "iub"
    table = np.atleast_1d(array.astype(np.int64) if array.dtype.kind == "b" else array)
    form = "%d" if whole else "%.9g" if array.dtype.itemsize <= 4 else "%.17g"
    _replace(path, lambda file: np.savetxt(file, table, form, delimiter=","))


def _wav(path: Path, array: Array, rate: int | None) -> tuple[bytes, int]:
    if rate is None:
        raise TinyRNNError(f"{path}: a .wav file needs a sample rate; give --rate HZ, or .wav input")
    if array.dtype.kind != "f" or array.ndim not in (1, 2):
        raise ShapeError(f"{path}: .wav holds float samples, not {array.dtype}{list(array.shape)}; write .npy")
    if not np.isfinite(array).all():
        raise ShapeError(f"{path}: .wav holds samples from -1 to 1, and some of these are NaN or infinite; write .npy")
    channels = 1 if array.ndim == 1 else array.shape[1]
    full = 1 << 15
    scaled = np.rint(array.astype(np.float64) * full)
    clipped = int(np.count_nonzero((scaled > full) | (scaled < -full)))
    data = np.clip(scaled, -full, full - 1).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", PCM, channels, rate, rate * 2 * channels, 2 * channels, 16)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks, clipped


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write beside `path`, then move there: what was there stays until the new file is complete."""
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            try:
                write(file)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TinyRNNError(f"{path}: cannot be written ({error.strerror or error})") from None
