"""A model of fixed windows over rows: one result for each position of the window."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyrnn.errors import ShapeError
from tinyrnn.graph.arrays import Port
from tinyrnn.runtime import Model, Progress

Array = np.ndarray[Any, Any]


def rows_of_window(model: Model, columns: int) -> int | None:
    """Rows in the window of a model that takes rows of `columns` numbers; None where it takes no fixed window of them."""
    if len(model.inputs) != 1 or model.kind == "step" or model._layout.state_inputs:
        return None
    port = model.inputs[0]
    if "time" in port.roles:
        size = port.file_shape[port.roles.index("time")]
        return size if isinstance(size, int) and port.size == columns else None
    inner = [n for n in port.shape if n != 1]
    if len(inner) == 1 and columns == 1:
        return inner[0]
    if len(inner) != 2 or columns not in inner:
        return None
    return inner[0] if inner[1] == columns else inner[1]


def slide(model: Model, rows: Array, size: int | None, progress: Progress) -> tuple[dict[str, Array], int]:
    """(outputs for every window of `size` rows, positions first; number of positions).

    rows: [rows, columns]; size: None is the one that the model has. Raises `ShapeError`.
    """
    rows = rows.reshape(len(rows), -1)
    columns = rows.shape[1]
    fixed = rows_of_window(model, columns)
    if fixed is None and not _takes_any(model, columns):
        raise ShapeError(
            f"{model.name}: --window slides over rows of {columns} numbers for a model whose one input is a window of them, "
            f"without states; it takes {', '.join(f'{p.name} {list(p.file_shape)}' for p in model.inputs)}"
        )
    if fixed is None and size is None:
        raise ShapeError(f"{model.name}: the file leaves the length open; say how many rows a window has: --window N")
    if fixed is not None and size not in (None, fixed):
        raise ShapeError(f"{model.name}: --window {size}: the file says {fixed} rows")
    width = fixed or size or 1
    count = len(rows) - width + 1
    if count < 1:
        raise ShapeError(f"{model.name}: a window has {width} rows, there are {len(rows)}")
    port = model.inputs[0]
    shape = _shape(port, width)
    columns_first = "time" not in port.roles and columns > 1 and [n for n in port.shape if n != 1][-1] != columns
    found: list[list[Array]] = []
    for at in range(count):
        window = rows[at : at + width]
        given = (window.T if columns_first else window).reshape(shape)
        found.append(model.run(None, {port.name: given}))
        if at % 64 == 63 or at == count - 1:
            progress(at + 1, count)
    names = model._layout.file_outputs
    return {name: np.stack([_bare(made[index]) for made in found]) for index, name in enumerate(names)}, count


def _takes_any(model: Model, columns: int) -> bool:
    """Whether a window may have any number of rows."""
    if len(model.inputs) != 1 or model.kind == "step" or model._layout.state_inputs:
        return False
    port = model.inputs[0]
    return port.size == columns and "time" in port.roles and isinstance(port.file_shape[port.roles.index("time")], str)


def _shape(port: Port, width: int) -> list[int]:
    known = {"time": width, "batch": 1}
    return [known[role] if role in known else int(size) for size, role in zip(port.file_shape, port.roles, strict=True)]


def _bare(array: Array) -> Array:
    """The array without leading axes of length 1."""
    lead = next((axis for axis, n in enumerate(array.shape) if n != 1), max(array.ndim - 1, 0))
    return array.reshape(array.shape[lead:])
