"""Print the table of operators in the README, from the registry: `python bench/operators.py`."""

from __future__ import annotations

import tinyrnn.ops  # noqa: F401  (registers them)
from tinyrnn.op import REGISTRY, REQUIRED, Op


def note(op: Op) -> str:
    return (op.__doc__ or "").strip().splitlines()[0].removeprefix(f"ONNX {op.name}").strip(" :;,.")


def row(op: Op) -> str:
    attributes = [k if v in (None, REQUIRED) else f"{k}={v}" for k, v in op.attributes.items() if k[0].islower()]
    return f"| {op.name} | {', '.join(attributes)} | {note(op)} |"


def table() -> str:
    """Markdown: the operators with a note of their own, those exactly as specified, those known at load."""
    ops = sorted((op for (domain, _), op in REGISTRY.items() if not domain), key=lambda op: op.name)
    noted = [op for op in ops if not op.known_only and note(op)]
    plain = ", ".join(op.name for op in ops if not op.known_only and not note(op))
    known = ", ".join(op.name for op in ops if op.known_only)
    head = ["| operator | attributes (defaults) | |", "|---|---|---|"]
    return "\n".join(
        [*head, *map(row, noted), "", f"As specified: {plain}.", "", f"Where their inputs are known at load: {known}."]
    )


if __name__ == "__main__":
    print(table())
