"""Loading a build for processors: a Model from a folder of `tinyrnn build`, without Numba and ONNX. `NAME.py` has this package.

`manifest.json` says what the model takes and gives; the code, and the weights unless they are in a file of their own, are
in the shared library beside it.
"""

from __future__ import annotations

import ctypes
import platform
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.errors import LoadError, TargetError
from tinyrnn.graph.arrays import Array, Port
from tinyrnn.graph.clock import FRAMES, Clock, Meeting, Strided, Unfolded
from tinyrnn.runtime.memory import Context, Layout, aligned
from tinyrnn.runtime.model import Model
from tinyrnn.runtime.pool_runner import PoolCode

FORMAT = 2
"""version of the format of manifest.json"""
WEIGHTS_HEADER = 64
"""bytes of the header of a file of weights"""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that `tinyrnn build` made. Raises `LoadError`."""
    import json

    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        version = manifest["format"] if manifest["made_by"].startswith("tinyrnn") else None
    except OSError as error:
        raise LoadError(f"{folder}: no folder that tinyrnn build made: manifest.json cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise LoadError(f"{folder / 'manifest.json'}: not a manifest of tinyrnn build") from None
    if version != FORMAT:
        raise LoadError(f"{folder / 'manifest.json'}: format {version}; this version of tinyrnn reads {FORMAT}: build it again")
    return manifest


def model_of(manifest: Mapping[str, Any], folder: Path) -> Model:
    """The model described by a manifest, from the files in a folder."""
    name, target = manifest["name"], manifest["target"]
    if not manifest["library"]:
        raise LoadError(f"{folder}: built for {target['name']} without a shared library (no linker was found, or it has none)")
    path = folder / manifest["library"]
    _check_machine(path, target)
    try:
        found = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({error.strerror})") from None
    if zlib.crc32(found) != manifest["library_crc32"]:
        raise LoadError(f"{path}: not the file that was built with manifest.json; build it again")
    try:
        library = ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise TargetError(f"{path}: cannot be loaded on this machine ({error}); it is for {target['name']}") from None
    layout = manifest["layout"]
    size = manifest["sizes"]["weights"]
    if manifest["weights"]:
        weights = _weights(folder / manifest["weights"], size, manifest["weights_sha256"])
    else:
        weights = (
            np.frombuffer((ctypes.c_ubyte * size).in_dll(library, f"{name}_weights"), np.uint8) if size else np.zeros(0, np.uint8)
        )
    described = layout_from(layout, weights)
    code = _Code(library, name, len(found), layout["entries"])
    pools = None
    if "pool" in layout:
        tick = PoolCode(_Code(library, f"{name}.pool", len(found), []), True, **layout["pool"])
        pools = lambda slots: tick if slots else PoolCode(None, tick=False)  # noqa: E731
    model = Model(described, code, pooled=pools)
    _first_state(library, name, described)
    return model


def architecture() -> str:
    """The architecture of this machine, by its name in manifests."""
    names = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "armv7", "armv8l": "armv7"}
    return names.get(platform.machine().lower(), platform.machine().lower())


def _check_machine(path: Path, target: Mapping[str, Any]) -> None:
    """Raise `TargetError` for code that this processor cannot run, as far as its features are known."""
    here = architecture()
    if target["architecture"] != here:
        raise TargetError(f"{path}: for {target['name']} ({target['triple']}); this machine is {here}. Build it for this one")
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((set(line.split(":")[1].split()) for line in file if line.startswith("flags")), None)
    except OSError:
        flags = None
    missing = [flag for flag in target["needs"] if flags is not None and flag not in flags]
    if missing:
        raise TargetError(f"{path}: for {target['name']}; this processor lacks {', '.join(missing)}. Build it for this one")


def weights_header(weights: Array) -> bytes:
    """The header of a file of weights: b"tinyrnn", zeros, from byte 16 their length, from byte 24 their SHA-256, zeros."""
    import hashlib

    data = weights.tobytes()
    start = b"tinyrnn".ljust(16, b"\0") + len(data).to_bytes(8, "little") + hashlib.sha256(data).digest()
    return start.ljust(WEIGHTS_HEADER, b"\0")


def _weights(path: Path, size: int, digest: str) -> Array:
    import hashlib

    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: the weights cannot be read ({error.strerror})") from None
    if len(data) != WEIGHTS_HEADER + size or hashlib.sha256(data[WEIGHTS_HEADER:]).hexdigest() != digest:
        raise LoadError(f"{path}: not the weights of this build (their hash differs)")
    weights = aligned(size)
    weights[:] = np.frombuffer(data, np.uint8, size, WEIGHTS_HEADER)
    return weights


class _Stream(ctypes.Structure):
    _fields_ = [("state", ctypes.c_void_p), ("arena", ctypes.c_void_p), ("weights", ctypes.c_void_p)]


def _first_state(library: Any, name: str, layout: Layout) -> None:
    """The state after a reset, from the library."""
    state = aligned(max(layout.initial_state.size, 1), np.float32)
    stream = _Stream(state.ctypes.data, 0, 0)
    getattr(library, f"{name}_reset")(ctypes.byref(stream))
    layout.initial_state[:] = state[: layout.initial_state.size]


class _Code:
    """The entries of a library, in the form that `Model` needs."""

    from_cache = True

    def __init__(self, library: Any, name: str, size: int, entries: list[str]) -> None:
        self._library, self.size = library, size
        self.run = getattr(library, f"{name}.run")
        self.run.argtypes, self.run.restype = [ctypes.c_void_p, ctypes.c_ssize_t], ctypes.c_ssize_t
        self.calls: tuple[int, ...] = tuple(
            ctypes.cast(getattr(library, f"{name}.{n}"), ctypes.c_void_p).value or 0
            for n in ("call", "call_many")
            if n in entries
        )


def _clock(value: Any) -> Clock:
    kind, *rest = value
    if kind == "strided":
        return Strided(_clock(rest[0]), *rest[1:])
    if kind == "unfolded":
        return Unfolded(_clock(rest[0]), *rest[1:])
    if kind == "meeting":
        return Meeting(tuple(_clock(each) for each in rest))
    return FRAMES


def clock_value(clock: Clock) -> list[Any]:
    """A clock as a JSON value."""
    if isinstance(clock, Strided):
        return ["strided", clock_value(clock.of), clock.step, clock.last, clock.extra]
    if isinstance(clock, Unfolded):
        return ["unfolded", clock_value(clock.of), clock.times, clock.start, clock.extra]
    if isinstance(clock, Meeting):
        return ["meeting", *map(clock_value, clock.of)]
    return ["frames"]


def _port(value: Mapping[str, Any]) -> Port:
    return Port(
        value["name"],
        tuple(value["shape"]),
        np.dtype(value["dtype"]),
        value["per_frame"],
        tuple(value["file_shape"]),
        tuple(value["roles"]),
        _clock(value["clock"]),
    )


def port_value(port: Port) -> dict[str, Any]:
    """A port as a JSON value."""
    return {
        "name": port.name,
        "shape": list(port.shape),
        "dtype": port.dtype.name,
        "per_frame": port.per_frame,
        "file_shape": list(port.file_shape),
        "roles": list(port.roles),
        "clock": clock_value(port.clock),
    }


PORTS = ("inputs", "outputs", "state_inputs", "state_outputs")
PLAIN = ("name", "kind", "arena_fixed", "arena_per_row", "chunk", "lead", "refuses_stream", "multiply_adds", "header")


def layout_value(layout: Layout) -> dict[str, Any]:
    """A layout as a JSON value, without weights and initial state."""
    return {
        **{name: getattr(layout, name) for name in PLAIN},
        **{name: [port_value(p) for p in getattr(layout, name)] for name in PORTS},
        "file_inputs": list(layout.file_inputs),
        "file_outputs": list(layout.file_outputs),
        "state_parts": [[name, offset, list(shape), dtype.name] for name, offset, shape, dtype in layout.state_parts],
        "state_floats": int(layout.initial_state.size),
        "waits": [clock_value(clock) for clock in layout.waits],
        "metadata": dict(layout.metadata),
    }


def layout_from(value: Mapping[str, Any], weights: Array) -> Layout:
    """The layout from the result of `layout_value`, and the weights."""
    plain: dict[str, Any] = {name: value[name] for name in PLAIN}
    ports: dict[str, Any] = {name: tuple(_port(p) for p in value[name]) for name in PORTS}
    return Layout(
        **plain,
        **ports,
        file_inputs=tuple(value["file_inputs"]),
        file_outputs=tuple(value["file_outputs"]),
        state_parts=tuple((name, offset, tuple(shape), np.dtype(dtype)) for name, offset, shape, dtype in value["state_parts"]),
        initial_state=np.zeros(value["state_floats"], np.float32),
        weights=weights,
        waits=tuple(_clock(clock) for clock in value["waits"]),
        batches={},
        metadata=value["metadata"],
    )


def selftest(model: Model, folder: Path) -> bool:
    """Whether the model gives the bits in selftest.npz, in one run, frame by frame and, where it has code for them, in pools."""
    with np.load(folder / "selftest.npz", allow_pickle=False) as stored:
        inputs = [stored[f"input_{i}"] for i in range(len(model.inputs))]
        expected = [stored[f"output_{i}"] for i in range(len(model.outputs))]
        frames = int(stored["frames"])
    layout = model._layout
    context = Context(layout)
    made = [np.empty_like(e) for e in expected]
    end = frames if layout.waits and layout.refuses_stream else -1
    context.execute(model._code.run, [*inputs, *made], frames, end)
    good = all(a.tobytes() == b.tobytes() for a, b in zip(made, expected, strict=True))
    if not layout.refuses_stream and not layout.waits:
        stream = model.stream()
        for t in range(frames):
            given = [x[t] if p.per_frame else x for p, x in zip(model.inputs, inputs, strict=True)]
            result = stream.step(*given)
            rows = [result] if len(expected) == 1 else list(result)
            for port, row, whole in zip(model.outputs, rows, expected, strict=True):
                good = good and (not port.per_frame or row.tobytes() == whole[t].tobytes())
    return good and (not model._pooled(1).tick or _same_in_pool(model, frames, inputs, expected))


def _same_in_pool(model: Model, frames: int, inputs: list[Array], expected: list[Array]) -> bool:
    """Whether streams that begin one after the other in one pool have the bits of one alone."""
    pool, good = model.pool(frames), True
    for t in range(2 * frames - 1):
        which = np.arange(max(0, t - frames + 1), min(t, frames - 1) + 1)[::-1]
        first, last = t - which[0], t - which[-1]
        now = slice(first, last + 1)
        given = [x[now] if p.per_frame else np.stack([x] * len(which)) for p, x in zip(model.inputs, inputs, strict=True)]
        result = pool.step(*given, which=which)
        for port, rows, whole in zip(model.outputs, [result] if len(expected) == 1 else result, expected, strict=True):
            if port.per_frame:
                good = good and rows.tobytes() == whole[now].tobytes()
            elif last == frames - 1:
                good = good and rows[-1].tobytes() == whole.tobytes()
    return good
