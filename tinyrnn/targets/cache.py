"""The cache of compiled code: a folder of files named by a hash of what they depend on, each with a checksum.

It holds machine code, so that a folder that others may write to is not used. Its size is bounded: the least recently used
files are removed first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tinyrnn.errors import TargetError

CACHE_VARIABLE = "TINYRNN_CACHE"
"""environment variable: the folder of the cache, or empty for none"""
SIZE_VARIABLE = "TINYRNN_CACHE_BYTES"
"""environment variable: largest size of the cache in bytes"""
LARGEST = 1 << 30
"""default of that variable"""
KERNELS, MODELS = "kernels", "models"
"""folders in the cache"""
FILE = re.compile(rf"[0-9a-f]{{32}}\.o|{KERNELS}/[0-9a-f]{{32}}\.(?:o|bc)|{MODELS}/[0-9a-f]{{32}}\.model")
"""names of its files: code of pages, kernels from which it is linked, whole models"""
MACHINE = "machine.txt"
"""name in an archive: the machine on which it was made"""
LOOK = 16
"""the files of the cache are counted again when this part of it, one in LOOK, is new"""
DIGEST = 32
"""bytes of the checksum at the end of a file"""


class Entry(NamedTuple):
    """A file of the cache."""

    name: str
    nbytes: int
    used: float
    """time of the last use, in seconds since the epoch"""


def cache_folder() -> Path | None:
    """The folder of the cache; None if the cache is switched off, or others may write to the folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given is not None:
        folder = Path(given) if given else None
    else:
        base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
        folder = (Path(base) if base else Path.home() / ".cache") / "tinyrnn"
    return folder if folder is not None and _is_ours(folder) else None


@cache
def _is_ours(folder: Path) -> bool:
    reason = _reason(folder)
    if reason:
        warnings.warn(
            f"the cache {folder} is not used: {reason}. It holds machine code; set {CACHE_VARIABLE} to a folder of your own, "
            f"or take the right to write there from others (chmod go-w)",
            stacklevel=5,
        )
    return not reason


def _reason(folder: Path) -> str:
    """Why the folder must not be used, because another user could put code there; empty if it may be used."""
    if os.name != "posix":
        return ""
    for place in (folder, folder / KERNELS, folder / MODELS):
        try:
            found = place.stat()
        except OSError:
            continue  # not there yet: it will be ours
        if found.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"others may write to {place}"
    return ""


def read(name: str) -> bytes | None:
    """The contents of a file, with the checksum verified; None if it is missing or damaged."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        stored = (folder / name).read_bytes()
    except OSError:
        return None
    data = _verified(stored)
    if data is not None:
        with contextlib.suppress(OSError):
            os.utime(folder / name)
    return data


def write(name: str, data: bytes) -> None:
    """Store bytes under a name. Nothing happens if the cache cannot be written."""
    folder = cache_folder()
    if folder is None:
        return
    import tempfile

    path = folder / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for place in (folder, path.parent):
            place.mkdir(mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data + hashlib.sha256(data).digest())
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        _grown(len(data))
    except OSError:
        pass


def entries() -> list[Entry]:
    """The files of the cache, the most recently used first."""
    folder = cache_folder()
    if folder is None:
        return []
    found = []
    for path in (*folder.glob("*.o"), *folder.glob(f"{KERNELS}/*"), *folder.glob(f"{MODELS}/*.model")):
        name = path.relative_to(folder).as_posix()
        try:
            status = path.lstat()
        except OSError:
            continue  # another process has taken it away
        if FILE.fullmatch(name) and stat.S_ISREG(status.st_mode):
            found.append(Entry(name, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def largest() -> int:
    """The largest size of the cache in bytes. Raises `TargetError` if the variable is not a number."""
    given = os.environ.get(SIZE_VARIABLE, "")
    if given and not given.isdigit():
        raise TargetError(f"{SIZE_VARIABLE}={given}: takes a number of bytes")
    return int(given or LARGEST)


_room: dict[Path, int] = {}
"""bytes that this process may write to a cache before its files are counted again"""


def _grown(count: int) -> None:
    """Count `count` new bytes; when a part of the cache is new, remove the least recently used files to make room for another."""
    folder, limit = cache_folder() or Path(), largest()
    room = limit // LOOK
    _room[folder] = min(_room.get(folder, 0), room) - count
    if _room[folder] >= 0:
        return
    kept = 0
    for entry in entries():
        kept += entry.nbytes
        if kept > limit - room:
            remove([entry])
    _room[folder] = room


def remove(unwanted: Iterable[Entry]) -> None:
    """Remove files; files that another process removed before are ignored."""
    folder = cache_folder()
    if folder is not None:
        for entry in unwanted:
            with contextlib.suppress(OSError):
                (folder / entry.name).unlink()


def packed(names: Iterable[str], machine: str) -> bytes:
    """Files of the cache as one archive for another machine of this kind. Raises `TargetError` for a missing file."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MACHINE, machine)
        for name in names:
            data = read(name)
            if data is None:
                raise TargetError(f"{name} is not in the cache; it is switched off, or cannot be written")
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def unpack(archive: bytes, machine: str) -> list[str]:
    """Put an archive made by `packed` into the cache; returns the names of its files.

    It is machine code that runs when a model needs it: take it only from somebody from whom you would take a program.
    Raises `TargetError` for anything but such an archive for this machine.
    """
    import zipfile
    import zlib

    folder = cache_folder()
    if folder is None:
        raise TargetError(f"there is no cache to unpack into: {CACHE_VARIABLE} is empty, or others may write to the folder")
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            made_for = opened.read(MACHINE).decode()
            names = [name for name in opened.namelist() if name != MACHINE]
            if any(not FILE.fullmatch(name) for name in names) or sum(i.file_size for i in opened.infolist()) > LARGEST:
                raise ValueError("it holds other files")
            files = {name: opened.read(name) for name in names}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise TargetError(f"this is nothing that `tinyrnn cache pack` wrote: {error}") from None
    if made_for != machine:
        raise TargetError(f"it was packed for another machine: {made_for}; this one is {machine}")
    for name, data in files.items():
        write(name, data)
        if read(name) != data:
            raise TargetError(f"the cache {folder} cannot be written")
    return names


def _verified(stored: bytes) -> bytes | None:
    data, digest = stored[:-DIGEST], stored[-DIGEST:]
    return data if len(stored) > DIGEST and hashlib.sha256(data).digest() == digest else None
