"""The folder of a build: it holds one build, and no other file is touched."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyrnn.errors import TargetError

MANIFEST = "manifest.json"


def prepare(folder: Path) -> None:
    """Create the folder if needed. Raises `TargetError` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TargetError(f"{folder}: cannot be written ({error.strerror})") from None


def write(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write the files, `manifest` last, and remove files of an older build of the same name that this one lacks.

    A file is replaced as a whole: a running program keeps the old one. Raises `TargetError` before anything is
    written where there is a file that no build of this name made.
    """
    before = _before(folder, manifest["name"])
    text = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    strange = [name for name in files if name not in before and os.path.lexists(folder / name)]
    if strange:
        raise TargetError(
            f"{folder}: {', '.join(strange)}: not made by tinyrnn build, and not replaced. Give another folder or --name"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=".tinyrnn-", dir=folder) as made:
            for name, data in {**files, MANIFEST: text}.items():
                (Path(made) / name).write_bytes(data)
                os.replace(Path(made) / name, folder / name)
        for name, digest in before.items():
            old = folder / name
            if name not in files and old.is_file() and hashlib.sha256(old.read_bytes()).hexdigest() == digest:
                old.unlink()
    except OSError as error:
        raise TargetError(f"{folder}: cannot be written ({error.strerror})") from None


def _before(folder: Path, name: str) -> dict[str, str]:
    """File → hash of the build in the folder. Raises `TargetError` if the build has another name."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        older, files = found["name"], {str(file): str(digest) for file, digest in found["files"].items()}
        ours = found["made_by"].startswith("tinyrnn ")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        ours = False
    if not ours:
        raise TargetError(f"{path}: not made by tinyrnn build, and not replaced. Give another folder")
    if older != name:
        raise TargetError(f"{folder}: holds the build {older!r}; {name!r} needs a folder of its own")
    return {file: digest for file, digest in files.items() if Path(file).name == file}
