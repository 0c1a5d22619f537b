"""Many small models as one file: a compilation costs most of a second, and most of that once per model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import onnx
from onnx import compose, helper

T = TypeVar("T")


def opset_of(proto: onnx.ModelProto) -> int:
    return next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def joined(protos: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """One model of all, side by side; every name gets its key and "/" before it. All have one opset."""
    opsets = {opset_of(proto) for proto in protos.values()}
    assert len(opsets) == 1, opsets
    graph = onnx.GraphProto(name="joined")
    for key, proto in protos.items():
        part = compose.add_prefix(proto, f"{key}/").graph
        for field in ("node", "input", "output", "initializer"):
            getattr(graph, field).extend(getattr(part, field))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opsets.pop())])
    model.ir_version = max(proto.ir_version for proto in protos.values())
    return model


def in_groups(protos: Mapping[str, onnx.ModelProto], size: int) -> list[tuple[str, ...]]:
    """The keys in groups of one opset, of at most `size`."""
    by_opset: dict[int, list[str]] = {}
    for key, proto in protos.items():
        by_opset.setdefault(opset_of(proto), []).append(key)
    return [tuple(keys[i : i + size]) for _, keys in sorted(by_opset.items()) for i in range(0, len(keys), size)]


def part_of(values: Mapping[str, T], key: str) -> dict[str, T]:
    """What belongs to one model of a joined one, by its own names."""
    return {name.removeprefix(f"{key}/"): value for name, value in values.items() if name.startswith(f"{key}/")}
