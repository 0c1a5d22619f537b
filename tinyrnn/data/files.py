"""Reading and writing arrays for the command line: .npy, .npz, .csv and .wav.

Files come from anywhere: nothing is unpickled, sizes are checked before memory is taken, and every
problem is one `LoadError` that names the file, what was found and what is supported. Output is written
beside its place and moved there when it is complete.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinyrnn.data import wav
from tinyrnn.data.table import Table, read_table
from tinyrnn.errors import LoadError, ShapeError, TinyRNNError
from tinyrnn.frontends.archive import first_line, read_archive

Array = np.ndarray[Any, Any]

KINDS = (".npy", ".npz", ".csv", ".wav")
LARGEST_DATA = 1 << 31
"""most bytes of unpacked arrays in one file"""


def kind_of(path: Path) -> str:
    """The suffix of a path, one of `KINDS`. Raises `LoadError`."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise LoadError(f"{path}: unknown kind of file {kind!r}; supported are {', '.join(KINDS)}")
    return kind


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file by name; a single array without a name has the empty name."""
    return _read_npz(path) if kind_of(path) == ".npz" else {"": read_array(path)}


def read_array(path: Path) -> Array:
    """The only array of a file: .csv gives float64 [rows, columns], .wav float32 [samples] or [samples, channels]."""
    kind = kind_of(path)
    if kind == ".npz":
        arrays = _read_npz(path)
        if len(arrays) != 1:
            raise LoadError(f"{path}: {len(arrays)} arrays ({', '.join(arrays)}); one is needed here")
        return next(iter(arrays.values()))
    return read_wav(path)[0] if kind == ".wav" else read_csv(path).values if kind == ".csv" else _read_npy(path)


def _size(path: Path) -> int:
    """The size in bytes of an existing, non-empty regular file. Raises `LoadError` for others."""
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


def read_csv(path: Path, drop: tuple[str, ...] = ()) -> Table:
    """A table of numbers, see `tinyrnn.data.table`."""
    _size(path)
    return read_table(path, drop)


def read_wav(path: Path) -> tuple[Array, int]:
    """Samples, float32 in [-1, 1], [samples] or [samples, channels], and the sample rate in Hz.

    PCM of 8, 16, 24 and 32 bits and float of 32 and 64 bits (RIFF WAVE, also WAVE_FORMAT_EXTENSIBLE).
    """
    _size(path)
    with path.open("rb") as file:
        form, length = wav.read_header(file, str(path))
        data = file.read() if length is None else file.read(length)
    if length is not None and len(data) < length:
        raise LoadError(f"{path}: truncated: its samples take {length:,} bytes, {len(data):,} are there")
    if len(data) % form.block:
        raise LoadError(f"{path}: a damaged .wav file: {len(data):,} bytes of samples in blocks of {form.block}")
    return wav.decode(data, form), form.rate


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise `TinyRNNError`, before any work is done, if `path` cannot be written or is one of the inputs."""
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


def write_arrays(path: Path, arrays: Mapping[str, Array], rate: int | None = None, bits: str = "16") -> int:
    """Write named arrays: several need .npz, the other kinds hold one. Otherwise as `write_array`."""
    if kind_of(path) == ".npz":
        replace_file(path, lambda file: _write_npz(file, arrays))
        return 0
    if len(arrays) == 1:
        return write_array(path, next(iter(arrays.values())), rate, bits)
    raise TinyRNNError(
        f"{path}: {len(arrays)} outputs ({', '.join(arrays)}) need an .npz file, or choose one with --outputs NAME"
    )


def write_array(path: Path, array: Array, rate: int | None = None, bits: str = "16") -> int:
    """Write one array; .npz calls it y, .csv takes up to two axes, .wav [samples] or [samples, channels] and a rate in Hz.

    .wav is PCM of 16, 24 or 32 `bits`, where what is beyond [-1, 1) is clipped and the number of such samples comes back (0
    for other kinds), or "float".
    Raises `ShapeError` where the kind cannot hold the array and `TinyRNNError` where the file cannot be written.
    """
    kind = kind_of(path)
    if kind == ".npz":
        return write_arrays(path, {"y": array})
    if kind == ".npy":
        replace_file(path, lambda file: np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False))
        return 0
    if kind == ".csv":
        _write_csv(path, array)
        return 0
    data, clipped = _wav(path, array, rate, bits)
    replace_file(path, lambda file: file.write(data))
    return clipped


def write_table(path: Path, columns: Mapping[str, Array]) -> None:
    """Write columns of numbers, all of one length, under a line of their names, as .csv."""
    table = np.stack([np.asarray(c, np.float64) for c in columns.values()], axis=1)
    names = ",".join(name.replace(",", ";") for name in columns)
    replace_file(path, lambda file: np.savetxt(file, table, "%.9g", ",", header=names, comments="", encoding="utf-8"))


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
    replace_file(path, lambda file: np.savetxt(file, table, form, delimiter=","))


def _wav(path: Path, array: Array, rate: int | None, bits: str) -> tuple[bytes, int]:
    if rate is None:
        raise TinyRNNError(f"{path}: a .wav file needs a sample rate; give --rate HZ, or .wav input")
    try:
        return wav.to_wav(array, rate, bits)
    except ShapeError as error:
        raise ShapeError(f"{path}: {error}") from None


def replace_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a new file beside `path` and move it there when it is complete; until then an old file stays."""
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
