"""The folder of what was compiled: files under the hash of what they depend on, each with its own checksum."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

CACHE_VARIABLE = "TINYRNN_CACHE"
"""environment variable: the folder of the cache, or empty for none"""


def cache_folder() -> Path | None:
    """Where compiled objects are kept; None where the cache is switched off."""
    given = os.environ.get(CACHE_VARIABLE)
    if given is not None:
        return Path(given) if given else None
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    return (Path(base) if base else Path.home() / ".cache") / "tinyrnn"


def read(name: str) -> bytes | None:
    """The bytes of a file with its checksum verified; None where there is none or it is damaged."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        stored = (folder / name).read_bytes()
    except OSError:
        return None
    data, digest = stored[:-32], stored[-32:]
    return data if len(stored) > 32 and hashlib.sha256(data).digest() == digest else None


def write(name: str, data: bytes) -> None:
    """Keep bytes under a name. A cache that cannot be written is done without."""
    folder = cache_folder()
    if folder is None:
        return
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + hashlib.sha256(data).digest())
        os.replace(temporary, path)
    except OSError:
        pass
