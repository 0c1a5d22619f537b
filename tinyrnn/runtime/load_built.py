"""`load_built`: a Model from a folder of `tinyrnn build`, for this processor or for its GPU."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from tinyrnn.runtime.built import model_of, read_manifest
from tinyrnn.runtime.cuda_driver import Device
from tinyrnn.runtime.device_built import TARGET, device_model_of
from tinyrnn.runtime.model import Model


def load_built(folder: str | PathLike[str], device: Device | None = None) -> Model:
    """The model in a folder that `tinyrnn build` made for this machine.

    device: the GPU for what was built for one, by default the first
    Raises `LoadError` where a file is missing or damaged, and `TargetError` where the code is for another machine.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest["target"]["name"] == TARGET:
        return device_model_of(manifest, folder, device)
    return model_of(manifest, folder)
