"""Writes the table of operators in the guide, from the registry: `python bench/operators.py`."""

from __future__ import annotations

from pathlib import Path

import onnx

import tinyrnn.ops  # noqa: F401  (registers them)
from tinyrnn.graph.op import MICROSOFT, REGISTRY, REQUIRED, Op

WRITTEN_OUT = {
    "AffineGrid": "its size known at load",
    "Attention": "masked, causal, of grouped heads, with past and present: a past of fixed length that the file cuts is state, "
    "and streams; over the whole of time it runs whole",
    "CausalConvWithState": "streams: its past is state",
    "CenterCropPad": "its shape known at load",
    "LinearAttention": "all four rules; streams: its past is state",
    "NegativeLogLikelihoodLoss": "",
    "RotaryEmbedding": "streams, with places of each frame",
    "SoftmaxCrossEntropyLoss": "",
    "SwiGLU": "",
}
"""operators that are none of ours and that ONNX defines by others → what to know of them"""


def note(op: Op) -> str:
    return (op.__doc__ or "").strip().splitlines()[0].removeprefix(f"ONNX {op.name}").strip(" :;,.")


def row(op: Op) -> str:
    attributes = [k if v in (None, REQUIRED) else f"{k}={v}" for k, v in op.attributes.items() if k[0].islower()]
    return f"| {op.name} | {', '.join(attributes)} | {note(op)} |"


def written_out(name: str) -> str:
    """The row of an operator that is read as those that define it."""
    schema = onnx.defs.get_schema(name)
    defaults = {n: a.default_value for n, a in sorted(schema.attributes.items())}
    values = {n: onnx.helper.get_attribute_value(d) if d.name else None for n, d in defaults.items()}
    attributes = [n if v is None else f"{n}={v.decode() if isinstance(v, bytes) else f'{v:g}'}" for n, v in values.items()]
    return f"| {name} | {', '.join(attributes)} | {WRITTEN_OUT[name]} |"


def table() -> str:
    """Markdown: the operators with a note of their own, those exactly as specified, those known at load."""
    ops = sorted((op for (domain, _), op in REGISTRY.items() if not domain), key=lambda op: op.name)
    noted = [op for op in ops if not op.known_only and note(op)]
    plain = ", ".join(op.name for op in ops if not op.known_only and not note(op))
    known = ", ".join(op.name for op in ops if op.known_only)
    head = ["| operator | attributes (defaults) | |", "|---|---|---|"]
    lines = [*head, *map(row, noted), "", f"As specified: {plain}.", "", f"Where their inputs are known at load: {known}.", ""]
    lines += ["Read as the operators by which ONNX defines them:", "", *head, *map(written_out, WRITTEN_OUT), ""]
    theirs = sorted((op for (domain, _), op in REGISTRY.items() if domain == MICROSOFT), key=lambda op: op.name)
    return "\n".join([*lines, f"Of {MICROSOFT}, onnxruntime's own operator set:", "", *head, *map(row, theirs)])


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "tinyrnn" / "guide" / "operators.md"
    begin, end = "<!-- operators -->\n", "\n<!-- end of operators -->"
    before, _, rest = page.read_text("utf-8").partition(begin)
    page.write_text(before + begin + table() + end + rest.partition(end)[2], "utf-8")
