"""From a caller's arrays to those of compiled code: names, dtypes, frames and the file's shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.clock import FRAMES, Clock

Array = np.ndarray[Any, Any]


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a type is floating, including bfloat16, which NumPy lacks."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether a type has half precision: float16 or bfloat16."""
    return dtype == np.float16 or dtype.name == "bfloat16"


@dataclass(frozen=True)
class Port:
    """An input, output or state as its user sees it."""

    name: str
    shape: tuple[int, ...]
    """shape of one frame, or of the value of one call if `per_frame` is False"""
    dtype: np.dtype[Any]
    per_frame: bool = True
    file_shape: tuple[int | str, ...] = ()
    roles: tuple[str | None, ...] = ()
    """role of each axis of the file's shape: 'time', 'batch', 'batch+time', or None"""
    clock: Clock = FRAMES
    """number of rows after a number of input frames"""

    @property
    def several(self) -> bool:
        """Whether one input frame can make more than one row."""
        return self.clock.most(1) > 1

    @property
    def step_shape(self) -> tuple[int, ...]:
        """The shape of an array with room for the result of any step: the frame, or [most rows of one frame, *frame]."""
        return (self.clock.most(1), *self.shape) if self.per_frame and self.several else self.shape

    def __str__(self) -> str:
        notes = [] if self.per_frame else ["per call"]
        if self.per_frame and self.clock.stride > 1:
            notes.append(f"every {self.clock.stride} frames")
        if self.per_frame and self.clock.delay:
            notes.append(f"{self.clock.delay} frames late")
        return f"{self.name}: {self.dtype}{list(self.shape)}{' ' if notes else ''}{', '.join(notes)}"

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class SizeRule:
    """The values that an open size of the file can have."""

    name: str
    number: int
    exact: bool
    """whether the size equals `number`; otherwise it is a multiple of it"""
    why: str

    def allows(self, size: int) -> bool:
        return size == self.number if self.exact else size % self.number == 0

    def __str__(self) -> str:
        return f"size {self.name!r} must be {'' if self.exact else 'a multiple of '}{self.number}: {self.why}"


def shape_text(port: Port) -> str:
    return (
        "["
        + ", ".join(
            f"{size}={role}" if role and isinstance(size, str) and size != role else str(size)
            for size, role in zip(port.file_shape, port.roles, strict=True)
        )
        + "]"
    )


def describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}{'' if value.flags.c_contiguous else ' (not contiguous)'}"
    return type(value).__name__


def match_inputs(model: str, names: Sequence[str], inputs: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """The inputs in order, from positional and keyword arguments, or one dict. Raises `ShapeError`."""
    if len(inputs) == 1 and isinstance(inputs[0], Mapping) and not named:
        named, inputs = inputs[0], ()
    if not named and len(inputs) == len(names):
        return list(inputs)
    if not inputs and len(named) == len(names) and all([name in named for name in names]):
        return [named[name] for name in names]
    if len(inputs) > len(names):
        raise ShapeError(f"{model}: {len(inputs)} inputs given; it takes {len(names)}: {', '.join(names)}")
    values = dict(zip(names, inputs, strict=False))
    for name, value in named.items():
        if name not in names:
            raise ShapeError(f"{model}: no input {name!r}; it takes {', '.join(names)}")
        if name in values:
            raise ShapeError(f"{model}: input {name!r} is given twice")
        values[name] = value
    missing = [name for name in names if name not in values]
    if missing:
        raise ShapeError(f"{model}: input {', '.join(map(repr, missing))} missing; it takes {', '.join(names)}")
    return [values[name] for name in names]


def session_call(inputs: Sequence[Any], named: Mapping[str, Any]) -> tuple[list[str] | None, Mapping[str, Any]] | None:
    """(output names or None for all, feeds) of a call in onnxruntime's form, `run(output_names, input_feed)`; else None."""
    if set(named) == {"output_names", "input_feed"} and not inputs:
        inputs = (named["output_names"], named["input_feed"])
    elif named or len(inputs) != 2:
        return None
    names, feed = inputs
    if not isinstance(feed, Mapping) or not (
        names is None or (isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names))
    ):
        return None
    return list(names or ()) or None, feed


def pick(names: Sequence[str] | None, outputs: Sequence[str], answer: Any) -> list[Any]:
    """The result of onnxruntime's `run`: a list of the named outputs, or of all."""
    found = dict(zip(outputs, [answer] if len(outputs) == 1 else answer, strict=True))
    return [found[name] for name in (outputs if names is None else names)]


def check_outputs(model: str, names: Sequence[str] | None, outputs: Sequence[str]) -> None:
    """Raise `ShapeError` for a name that is not that of an output."""
    unknown = [name for name in names or () if name not in outputs]
    if unknown:
        raise ShapeError(f"{model}: no output {', '.join(map(repr, unknown))}; it makes {', '.join(outputs)}")


def as_dtype(model: str, port: Port, value: Any) -> Array:
    """The value as an array of the port's dtype; only conversions that preserve values are allowed."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ShapeError(f"{model}: input {port.name!r} is no array ({error})") from None
    if array.dtype == port.dtype:
        return np.asarray(array, order="C")
    floating = is_floating(port.dtype) and (is_floating(array.dtype) or array.dtype.kind in "iub")
    whole = port.dtype.kind in "iu" and array.dtype.kind in "iub"
    if not floating and not whole and array.size:
        raise ShapeError(f"{model}: input {port.name!r} is {array.dtype}; it takes {port.dtype}")
    with np.errstate(over="ignore"):
        converted = array.astype(port.dtype)
    if whole and not np.array_equal(converted, array):
        raise ShapeError(f"{model}: input {port.name!r} has values that {port.dtype} cannot hold")
    return np.asarray(converted, order="C")


def frame_input(model: str, port: Port, value: Any, timed: bool) -> tuple[Array, int | None]:
    """The array as one frame or [T, *frame]; the file's leading axes of length 1 are accepted and dropped."""
    array = as_dtype(model, port, value)
    count: int | None = None
    shape = array.shape
    if timed and port.per_frame:
        lead = len(shape) - len(port.shape)
        if lead >= 1 and shape[lead:] == port.shape and all(n == 1 for n in shape[1:lead]):
            count = shape[0]
        elif lead > 1 and shape[lead:] == port.shape and sum(n != 1 for n in shape[:lead]) == 1:
            count = max(shape[:lead])
        else:
            raise ShapeError(
                f"{model}: input {port.name!r} has shape {list(shape)}; run takes {['T', *port.shape]}: "
                f"T frames, time first".replace("'", "")
            )
        return array.reshape(count, *port.shape), count
    lead = len(shape) - len(port.shape)
    if lead >= 0 and shape[lead:] == port.shape and all(n == 1 for n in shape[:lead]):
        return array.reshape(port.shape), None
    rows = [n for n, role in zip(shape, port.roles, strict=False) if role]
    if (
        len(shape) == len(port.roles)
        and all(n == 1 for n in rows)
        and prod(shape) == port.size
        and shape_without_ones(n for n, role in zip(shape, port.roles, strict=True) if not role) == shape_without_ones(port.shape)
    ):
        return array.reshape(port.shape), None
    more = "; run takes many frames" if lead == 1 and shape[1:] == port.shape else ""
    raise ShapeError(f"{model}: input {port.name!r} has shape {list(shape)}; one frame is {list(port.shape)}{more}")


def shape_without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def check_file_shape(model: str, port: Port, array: Array, sizes: dict[str, int]) -> None:
    wanted = port.file_shape
    fits = array.ndim == len(wanted)
    if fits:
        for size, role, n in zip(wanted, port.roles, array.shape, strict=True):
            if role is not None:
                fits = fits and sizes.setdefault(role, n) == n
            else:
                fits = fits and n == size
    if not fits:
        known = f" with {', '.join(f'{role} = {n}' for role, n in sizes.items())}" if sizes else ""
        raise ShapeError(f"{model}: input {port.name!r} has shape {list(array.shape)}; the file says {shape_text(port)}{known}")


def check_sizes(model: str, port: Port, array: Array, rules: Sequence[SizeRule]) -> None:
    """Raise `ShapeError` where an array in the file's shape has a size that the model does not take."""
    for axis, (size, n) in enumerate(zip(port.file_shape, array.shape, strict=True)):
        for rule in rules:
            if rule.name == size and not rule.allows(n):
                raise ShapeError(f"{model}: input {port.name!r} has {n} on axis {axis}; {rule}")


def full_shape(port: Port, batch: int, frames: int) -> tuple[int, ...]:
    known = {"batch": batch, "time": port.clock.whole(frames)}
    shape = []
    for size, role in zip(port.file_shape, port.roles, strict=True):
        shape.append(int(size) if role is None else prod(known[r] for r in role.split("+")))
    return tuple(shape)


def rows_order(port: Port) -> list[int]:
    """The axes of the file's shape with the batch first, then time, then the frame's axes."""
    order = [a for a, r in enumerate(port.roles) if r == "batch"] + [a for a, r in enumerate(port.roles) if r == "time"]
    return order + [a for a in range(len(port.roles)) if a not in order]


def rows_first(array: Array, port: Port) -> Array:
    """A view with the batch axis first, then time, then the frame's axes."""
    return array.transpose(rows_order(port))


def batch_entry(array: Array, port: Port, entry: int) -> Array:
    """One batch entry of an input, with time first, then the frame's axes."""
    moved = rows_first(array, port)
    return np.asarray(moved[entry, ...] if "batch" in port.roles else moved, order="C")


def put_batch_entry(result: Array, port: Port, entry: int, value: Array) -> None:
    if any(r == "batch+time" or r == "time+batch" for r in port.roles):
        axis = next(a for a, r in enumerate(port.roles) if r and "+" in r)
        moved = np.moveaxis(result, axis, 0)
        frames = value.shape[0]
        first = port.roles[axis] == "batch+time"
        place = slice(entry * frames, (entry + 1) * frames) if first else slice(entry, None, len(moved) // frames)
        moved[place] = value.reshape(moved[place].shape)
        return
    moved = rows_first(result, port)
    target = moved[entry, ...] if "batch" in port.roles else moved
    target[...] = value.reshape(target.shape)
