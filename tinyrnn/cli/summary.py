"""A summary of a loaded model, as figures and as a page of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.data.text import columns
from tinyrnn.graph.arrays import Port
from tinyrnn.graph.ir import Graph
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.loading.stages import doubts
from tinyrnn.runtime import Model

LONGEST_TEXT = 60


def summary(model: Model, path: Path) -> dict[str, Any]:
    """The figures of `tinyrnn inspect`: plain numbers, strings and lists."""
    layout, stages = model._layout, model._source
    compiled: Graph = stages.program.graph
    ends = {p.name: p for p in layout.state_outputs}
    pairs = {start: end for start, end in stages.program.states.items() if end in ends}
    rows = max(layout.chunk, 1)
    return {
        "name": model.name,
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": model.kind,
        "streams": not layout.refuses_stream,
        "refuses_stream": layout.refuses_stream or None,
        "inputs": [_port(p) for p in model.inputs],
        "outputs": [_port(p) for p in model.outputs],
        "states": [
            {"name": p.name, "shape": list(p.shape), "dtype": str(p.dtype), "output": pairs.get(p.name)} for p in model.states
        ],
        "nodes": {"file": len(stages.graph.nodes), "compiled": len(compiled.nodes)},
        "ops": dict(Counter(node.op for node in compiled.nodes).most_common()),
        "parameters": _parameters(compiled),
        "multiply_adds": layout.multiply_adds,
        "memory": {
            "weights": layout.weights.nbytes,
            "code": model._code.size,
            "state": layout.initial_state.nbytes,
            "arena": layout.arena_fixed + layout.arena_per_row * rows,
            "arena_fixed": layout.arena_fixed,
            "arena_per_row": layout.arena_per_row,
            "rows": layout.chunk,
        },
        "sizes": [str(rule) for rule in layout.sizes],
        "run_time_sizes": model.example if isinstance(model, DynamicShapeModel) else {},
        "doubts": list(doubts(stages.program, stages.graph.metadata)),
        "metadata": model.metadata,
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": str(port.dtype),
        "shape": list(port.shape),
        "per_frame": port.per_frame,
        "file_shape": list(port.file_shape),
        "roles": list(port.roles),
    }


def _parameters(graph: Graph) -> int:
    """The number of weights in the compiled model; those that several nodes share count once."""
    arrays = {
        id(a): a
        for a in (*graph.constants.values(), *(v for n in graph.nodes for v in n.attributes.values()))
        if isinstance(a, np.ndarray) and a.dtype.kind == "f"
    }
    return sum(a.size for a in arrays.values())


def page(found: dict[str, Any]) -> str:
    """The figures of `summary` as text."""
    memory = found["memory"]
    kind = {
        "whole": "a whole model: every call is a whole sequence",
        "step": "a step model: one frame a call, its state goes in and out",
        "sequence": "a sequence model: it runs along time",
        "static": "a static model: it has no state",
    }[found["kind"]]
    streams = "yes, frame by frame" if found["streams"] else f"no: {found['refuses_stream']}; it runs whole sequences"
    rows = f"{memory['rows']} rows at once" if memory["rows"] > 1 else "one row at once" if memory["rows"] else "all rows at once"
    arena = f"{memory['arena_fixed']:,} + {memory['arena_per_row']:,} per row, {rows}"
    lines: list[tuple[str, str]] = [("kind", kind), ("streams", streams)]
    at = ", ".join(f"{name!r} (shown at {n})" for name, n in found["run_time_sizes"].items())
    lines += _labelled("sizes", [f"at run time: {at}"] * bool(at) + found["sizes"]) if at or found["sizes"] else []
    for what in ("inputs", "outputs"):
        lines += _labelled(
            what,
            columns(
                [
                    [
                        p["name"],
                        f"{p['dtype']}{p['shape']}{'' if p['per_frame'] else ' per call'}",
                        f"in the file {_file_shape(p)}",
                    ]
                    for p in found[what]
                ]
            ),
        )
    lines += _labelled(
        "states",
        columns(
            [
                [s["name"], f"{s['dtype']}{s['shape']}", f"← {s['output']}" if s["output"] else "kept inside"]
                for s in found["states"]
            ]
        ),
    )
    lines += [
        ("ops", ", ".join(f"{n} {op}" for op, n in found["ops"].items()) or "none"),
        ("", f"{found['nodes']['compiled']} nodes compiled, of {found['nodes']['file']} in the file"),
        ("parameters", f"{found['parameters']:,}"),
        ("work", f"{found['multiply_adds']:,} multiply-adds per frame"),
        ("memory", f"{memory['weights']:,} bytes of weights, {memory['code']:,} of code, shared by all streams"),
        ("per stream", f"{memory['state']:,} bytes of state, {memory['arena']:,} of arena ({arena})"),
    ]
    lines += _labelled("beware", found["doubts"]) if found["doubts"] else []
    lines += _labelled("metadata", [f"{key}: {_short(value)}" for key, value in found["metadata"].items() if value])
    width = max(len(label) for label, _ in lines) + 2
    return "\n".join(
        [f"{found['name']}  ({found['file']}, {found['bytes']:,} bytes)", ""]
        + [f"{label:{width}}{text}".rstrip() for label, text in lines]
    )


def _labelled(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(label if i == 0 else "", text) for i, text in enumerate(texts or ["none"])]


def _file_shape(port: dict[str, Any]) -> str:
    """The file's shape, each size with the role of its axis."""
    sizes = [
        str(size) if role in (None, size) else f"{size} ({role})"
        for size, role in zip(port["file_shape"], port["roles"], strict=True)
    ]
    return f"[{', '.join(sizes)}]"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"
