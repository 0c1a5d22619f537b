"""Dead code elimination, and the report of everything that is not supported."""

from __future__ import annotations

from tinyrnn.errors import UnsupportedError
from tinyrnn.graph.ir import Graph, Node, refresh_captures
from tinyrnn.graph.limits import UNSOUND
from tinyrnn.graph.op import Op, not_known, op_of


def remove_dead(graph: Graph) -> None:
    """Remove nodes whose results no output needs, and constants that no node reads."""
    needed = _remove_dead(graph)
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}


def _remove_dead(graph: Graph) -> set[str]:
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(name in needed for name in node.outputs):
            kept.append(node)
            node.outputs = tuple(name if name in needed else "" for name in node.outputs)
            _prune_nested(node)
            needed.update(name for name in node.inputs if name)
    graph.nodes = kept[::-1]
    return needed


def _prune_nested(node: Node) -> None:
    if not any(True for _ in node.nested()):
        return
    try:
        op = op_of(node)
    except UnsupportedError:
        return
    try:
        arguments = op.arguments(node)
        op.prune(node)
    except UNSOUND:
        return  # the node is refused, by name, where its shapes are asked for
    for _, inner in node.nested():
        _remove_dead(inner)
    refresh_captures(node, arguments)


def refuse_unsupported(graph: Graph) -> None:
    """Raise `UnsupportedError` listing every unsupported operator, attribute and number of inputs."""
    problems: dict[str, list[str]] = {}
    bad = {node.name for node in graph.nodes if _collect(node, "", problems)}
    if not problems:
        return
    lines = [
        f"  {text}: node {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for text, names in problems.items()
    ]
    rest = [name for name in graph.outputs if not _needs(graph, name, bad)]
    hint = (
        f"\nThe outputs {', '.join(map(repr, rest))} do not need them: outputs={rest!r}"
        if rest and len(rest) < len(graph.outputs)
        else ""
    )
    raise UnsupportedError(f"{graph.name}: not supported:\n" + "\n".join(lines) + hint)


def _collect(node: Node, path: str, problems: dict[str, list[str]]) -> bool:
    """Collect what is not supported in a node and its nested graphs; returns whether there is any."""
    text = _problem(node)
    if text:
        problems.setdefault(text, []).append(f"{node.name!r}{path}")
    inside = [
        _collect(inner, f" in {key} of {node.name!r}{path}", problems) for key, held in node.nested() for inner in held.nodes
    ]
    return text is not None or any(inside)


def _problem(node: Node) -> str | None:
    try:
        op = op_of(node)
    except UnsupportedError:
        return not_known(node)
    unknown = [k for k in node.attributes if k not in op.attributes]
    if unknown:
        known = ", ".join(k for k in op.attributes if k[0].islower()) or "none"
        value = node.attributes[unknown[0]]
        shown = "a graph" if isinstance(value, Graph) else repr(value)
        return f"{node.op} with attribute {unknown[0]}={shown} (supported: {known})"
    if not _count_fits(op, node):
        left_out = ", one of them left out" if not all(node.inputs) else ""
        return f"{node.op} with {len(node.inputs)} inputs{left_out} (supported: {', '.join(op.inputs) or 'none'})"
    return op.refuses(node)


def _count_fits(op: Op, node: Node) -> bool:
    if op.inputs and op.inputs[-1].endswith("*"):
        return len(node.inputs) >= 1 and (all(node.inputs) or any(True for _ in node.nested()))
    least = [index for index, name in enumerate(op.inputs) if not name.endswith("?")]
    return all(index < len(node.inputs) and node.inputs[index] for index in least) and len(node.inputs) <= len(op.inputs)


def _needs(graph: Graph, output: str, bad: set[str]) -> bool:
    producers, waiting, seen = graph.producers(), [output], set[str]()
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        if node.name in bad:
            return True
        seen.add(node.name)
        waiting += node.inputs
    return False
