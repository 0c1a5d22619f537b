"""Reading the arrays of an .npz file, safe against files that would run code, exhaust memory or hang.

Headers are parsed here, not evaluated; nothing is unpickled; every size is checked against the file and against
limits before memory is taken.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinyrnn.errors import LoadError
from tinyrnn.graph.limits import LARGEST_VALUE

Array = np.ndarray[Any, Any]

LARGEST_TOTAL = 1 << 31
"""most bytes of all arrays of a file together"""
LARGEST_DIRECTORY = 1 << 24
"""most bytes of the archive's directory"""
LARGEST_HEADER = 1 << 14
LARGEST_RATIO, RATIO_FROM = 250, 1 << 22
"""largest ratio of an array to its compressed bytes, checked for arrays of at least this many bytes"""
PIECE = 1 << 20
LARGEST_RANK = 32

DESCR = re.compile(r"""['"]descr['"]\s*:\s*(?:(['"])([<>|=]?[A-Za-z?]\d{0,12})\1|(\[))""")
ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([\d\sL,]*)\)""")


class _Bounded(io.BufferedReader):
    """A file with a bound on each read, since `zipfile` reads the whole directory at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"a table of contents of {size:,} bytes")
        return super().read(LARGEST_DIRECTORY if size is None or size < 0 else size)


def read_archive(path: Path, text: str = "", data: bytes | None = None) -> dict[str, Array]:
    """The arrays by name, in native byte order, C-contiguous, of real numbers or booleans.

    The array named `text` may be a 0-d Unicode string; `data` replaces the file. Raises `LoadError`.
    """
    try:
        raw: Any = io.FileIO(path) if data is None else io.BytesIO(data)
        with _Bounded(raw) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(path, members)
            return {member.filename.removesuffix(".npy"): _read(path, archive, member, text) for member in members}
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{path}: not an .npz file, or damaged ({first_line(error)}); save or download it again") from None


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if not members:
        raise LoadError(f"{path}: the archive holds no arrays")
    seen = set()
    for member in members:
        name = member.filename
        if not name.endswith(".npy"):
            raise LoadError(f"{path}: {name[:80]!r} is no array; an .npz file holds .npy members only")
        if name in seen:
            raise LoadError(f"{path}: array {name.removesuffix('.npy')!r} is there twice")
        seen.add(name)
        if member.flag_bits & 1:
            raise LoadError(f"{path}: {name!r} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise LoadError(
                f"{path}: {name!r} is compressed by method {member.compress_type}; supported are none and deflate, "
                f"as np.savez and np.savez_compressed write"
            )
        if member.file_size > RATIO_FROM and member.file_size > LARGEST_RATIO * member.compress_size:
            raise LoadError(
                f"{path}: {name!r} would grow from {member.compress_size:,} to {member.file_size:,} bytes, more than "
                f"{LARGEST_RATIO} times: a zip bomb, or weights that are all alike; store it with np.savez"
            )
    total = sum(member.file_size for member in members)
    if total > LARGEST_TOTAL:
        raise LoadError(f"{path}: {total:,} bytes when unpacked; the most that is read is {LARGEST_TOTAL:,}")


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, text: str) -> Array:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        header, length = _header(path, name, file)
        dtype, fortran, shape = _parse(path, name, header, name == text)
        there = member.file_size - length
        if any(n > LARGEST_VALUE for n in shape) or len(shape) > LARGEST_RANK or prod(shape) * dtype.itemsize != there:
            raise LoadError(
                f"{path}: array {name!r} of shape {list(shape)} and {dtype} needs {prod(shape) * dtype.itemsize:,} bytes, "
                f"but {there:,} are there"
            )
        data = np.empty(there, np.uint8)
        for place in _pieces(there):
            block = file.read(place.stop - place.start)
            if len(block) != place.stop - place.start:
                raise LoadError(f"{path}: array {name!r} ends early; the file is truncated")
            data[place] = np.frombuffer(block, np.uint8)
        file.read(1)
    values = data != 0 if dtype.kind == "b" else data.view(dtype)
    array = values.reshape(shape, order="F" if fortran else "C")
    return np.asarray(array, dtype.newbyteorder("="), order="C")


def _pieces(count: int) -> Iterator[slice]:
    for start in range(0, count, PIECE // 2):
        yield slice(start, min(start + PIECE // 2, count))


def _header(path: Path, name: str, file: IO[bytes]) -> tuple[str, int]:
    """(text of an .npy header, number of bytes before the data)."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise LoadError(f"{path}: {name!r} is no .npy array")
    width = 2 if start[6] == 1 else 4
    size = file.read(width)
    length = int.from_bytes(size, "little")
    if len(size) != width or length > LARGEST_HEADER:
        raise LoadError(f"{path}: array {name!r} has a header of {length:,} bytes")
    header = file.read(length)
    if len(header) != length:
        raise LoadError(f"{path}: array {name!r} ends early; the file is truncated")
    return header.decode("latin1"), 8 + width + length


def _parse(path: Path, name: str, header: str, is_text: bool) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """(dtype, whether in Fortran order, shape)."""
    descr, order, shape = DESCR.search(header), ORDER.search(header), SHAPE.search(header)
    if not descr or not order or not shape:
        raise LoadError(f"{path}: array {name!r} has a header that is not understood: {header[:120].strip()!r}")
    if descr[3]:
        raise LoadError(f"{path}: array {name!r} has named fields; only arrays of numbers are read")
    if descr[2].lstrip("<>|=").startswith("O"):
        raise LoadError(
            f"{path}: array {name!r} holds pickled Python objects, which could run code and are never read; "
            f"save plain arrays of numbers"
        )
    try:
        dtype = np.dtype(descr[2])
    except (TypeError, ValueError):
        raise LoadError(f"{path}: array {name!r} has the unknown dtype {descr[2]!r}") from None
    parts = [n.strip().rstrip("L") for n in shape[1].split(",") if n.strip()]
    if not all(n.isdigit() and len(n) < 20 for n in parts):
        raise LoadError(f"{path}: array {name!r} has the absurd shape ({shape[1][:80]})")
    sizes = tuple(int(n) for n in parts)
    if dtype.kind == "U" and is_text and not sizes:
        return dtype, False, sizes
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise LoadError(f"{path}: array {name!r} is {dtype}; only arrays of real numbers are read")
    return dtype, order[1] == "True", sizes
