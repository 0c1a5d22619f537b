"""A small file: the graph of a model with the weights of its layers as halves, or as integers and scales.

Where every row of a constant is a row of a layer's weights, the constant becomes what its storage holds behind Cast or
DequantizeLinear. Loading computes from it the weights that the storage has, rounds them again, which changes nothing, and
stores them as the metadata entry "tinyrnn.weights" says.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn.errors import TinyRNNError, UnsupportedError
from tinyrnn.frontends.npz import write_npz
from tinyrnn.graph.arrays import Array
from tinyrnn.graph.ir import Graph, Node
from tinyrnn.graph.op import op_of
from tinyrnn.graph.storage import HELD, STORAGE, Storage, Stored, as_rows, exact_in, parse, rounded
from tinyrnn.loading.stages import WEIGHTS
from tinyrnn.passes import Program, bound, prepare
from tinyrnn.passes.dead_code import remove_dead
from tinyrnn.passes.fold import fold
from tinyrnn.passes.weight_storage import layers_of

OPSET = 21
"""of DequantizeLinear with blocks"""
CODES = {"float32": 1, "int16": 5, "int32": 6, "int64": 7}
"""ONNX's numbers of types"""
MOST_AXES, MOST_TAPS = 5, 16
ATTEMPTS = 3
SHARED = "something else uses its constants too"
UNMATCHED = "its weights are no rows of one constant of the file"
MEMBER = 300
"""bytes that an array in a file takes beside its elements, with its part of the description"""
LEAST = 256
"""elements of a constant of no layer that is worth another node, where a smaller type holds the same numbers"""


@dataclass(frozen=True)
class Small:
    """A graph with small constants."""

    graph: Graph
    wide: dict[str, str]
    """layers whose weights are as wide in the file as they were, though not in memory → why"""


@dataclass(frozen=True)
class _Row:
    """One row of a layer's weights."""

    layer: str
    storage: Storage
    stored: Stored | None
    index: int


def small(graph: Graph, states: Mapping[str, str], weights: Any, sizes: Mapping[str, int]) -> Small:
    """The bound graph of a file with small constants, such that it is loaded as with the option `weights`.

    sizes: of open sizes that the code has to know, for a model with dynamic shapes
    """
    given = parse(weights, graph.name)
    before, wanted = (_program(graph, states, storage, sizes) for storage in ({}, given))
    rows = _rows(before, wanted)
    replaced = dict(_replacements(graph, rows, sizes))
    names, differing, made = set(replaced), set[str](), graph
    for attempt in range(ATTEMPTS):
        if attempt:  # without those that change what another layer has, and at last without any
            names = {n for n in names if not replaced[n][1] & differing} if attempt < ATTEMPTS - 1 else set()
        made = _with(graph, {name: chain for name, (chain, _) in replaced.items() if name in names})
        made.metadata = {**graph.metadata, WEIGHTS: json.dumps(weights)}
        differing = _differing(_program(made, states, given, sizes), wanted)
        if not differing:
            break
    assert not differing, f"{graph.name}: its graph is prepared in two ways"
    held = {layer for name in names for layer in replaced[name][1]}
    matched = {layer for _, found in replaced.values() for layer in found}
    large = [node for node, arrays in layers_of(wanted.graph) if max(a.size for a in arrays.values()) >= LEAST]
    stored = dict.fromkeys(node.name for node in large if _is_small(node))
    return Small(made, {layer: SHARED if layer in matched else UNMATCHED for layer in stored if layer not in held})


def _is_small(node: Node) -> bool:
    return STORAGE in node.attributes and node.attributes[STORAGE].kind != "float32"


def _program(graph: Graph, states: Mapping[str, str], storage: Mapping[str, Storage], sizes: Mapping[str, int]) -> Program:
    stored = bound(graph, sizes or None, None)
    stored.storage = storage
    return prepare(stored, states)


def _rows(before: Program, wanted: Program) -> dict[bytes, list[_Row]]:
    """float32 rows of layers, as bytes, and how they are stored."""
    found: dict[bytes, list[_Row]] = {}
    after = {(node.name, node.outputs): node for node, _ in layers_of(wanted.graph)}
    for node, weights in layers_of(before.graph):
        other = after.get((node.name, node.outputs))
        if other is None or not _is_small(other):
            continue
        held: Mapping[str, Stored] = other.attributes.get(HELD, {})
        for key, array in weights.items():
            rows = as_rows(array, op_of(node).summed(node)[key])
            flat = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]))
            for index, row in enumerate(flat):
                found.setdefault(row.tobytes(), []).append(_Row(node.name, other.attributes[STORAGE], held.get(key), index))
    return found


Chain = list[tuple[Node, dict[str, Array]]]
"""nodes that make a value, each with its constants"""
Replacement = tuple[Chain, set[str]]
"""what makes a value, and the layers whose weights are in it"""


def _replacements(
    graph: Graph, rows: Mapping[bytes, Sequence[_Row]], sizes: Mapping[str, int]
) -> Iterator[tuple[str, Replacement]]:
    """Value of the file's graph → what makes it small."""
    folded = fold(bound(graph, sizes or None, None), 0)[0].constants
    lengths = {len(row) // 4 for row in rows}
    for name, readers in _readers(graph, folded).items():
        array = folded[name]
        found: list[Replacement] = []
        if array.dtype == np.float32 and 2 <= array.ndim <= MOST_AXES:
            found = [*_matches(name, array, rows, lengths)] or [*_sliced(name, array, rows, lengths)]
        if found:
            best = next((each for each in found if each[1] & readers), found[0])
            if _bytes(constant for _, constants in best[0] for constant in constants.values()) < _bytes([array]):
                yield name, best
        elif name in graph.constants and array.size >= LEAST:
            same = _smaller(array)
            if same is not None:
                yield name, (_cast(name, same, array.dtype), set())


def _bytes(arrays: Iterable[Array]) -> int:
    """Bytes that arrays take in a file."""
    return sum(array.nbytes + MEMBER for array in arrays)


def _smaller(array: Array) -> Array | None:
    """The same numbers in a smaller type, or None."""
    if array.dtype == np.float32:
        return array.astype(np.float16) if exact_in([array]) == "f16" else None
    if array.dtype.kind != "i":
        return None
    kinds = [np.dtype(f"int{bits}") for bits in (8, 16, 32) if bits < 8 * array.dtype.itemsize]
    fitting = (k for k in kinds if np.iinfo(k).min <= array.min() and array.max() <= np.iinfo(k).max)
    return next((array.astype(kind) for kind in fitting), None)


def _readers(graph: Graph, constants: Mapping[str, Array]) -> dict[str, set[str]]:
    """Values known at load that other nodes read → the names of these."""
    found: dict[str, set[str]] = {}
    for node in graph.every_node():
        if not all(name in constants for name in node.outputs if name):
            for name in node.inputs:
                if name in constants:
                    found.setdefault(name, set()).add(node.name)
    return found


def _matches(name: str, array: Array, rows: Mapping[bytes, Sequence[_Row]], lengths: set[int]) -> Iterator[Replacement]:
    """The replacements of a value whose rows, in some order of its axes, are rows of layers that are stored alike."""
    for order in itertools.permutations(range(array.ndim)):
        turned = array.transpose(order)
        for split in range(1, array.ndim):
            size = int(np.prod(turned.shape[split:]))
            if size not in lengths or turned.reshape(-1, size)[0].tobytes() not in rows:
                continue
            flat = np.ascontiguousarray(turned.reshape(-1, size))
            found = [rows.get(row.tobytes(), [None])[0] for row in flat]
            known = [row for row in found if row is not None]
            if len(known) == len(found) and len({row.storage for row in known}) == 1:
                yield _chain(name, array, known, order, turned.shape), {row.layer for row in known}


def _sliced(name: str, array: Array, rows: Mapping[bytes, Sequence[_Row]], lengths: set[int]) -> Iterator[Replacement]:
    """The same for a value of which a part of one axis is used, as of a kernel whose other elements meet padding alone."""
    for axis, count in enumerate(array.shape):
        cuts = itertools.combinations(range(count + 1), 2) if count <= MOST_TAPS else ()
        for start, end in cuts:
            part = np.ascontiguousarray(np.take(array, range(start, end), axis))
            cut = f"{name}.part"
            for chain, layers in _matches(cut, part, rows, lengths):
                pads = np.zeros((2, array.ndim), np.int64)
                pads[:, axis] = start, count - end
                last = Node("Pad", name, (cut, f"{name}.pads"), (name,), {}, OPSET)
                yield [*chain, (last, {f"{name}.pads": pads.ravel()})], layers


def _chain(name: str, array: Array, rows: Sequence[_Row], order: Sequence[int], turned: Sequence[int]) -> Chain:
    storage = rows[0].storage
    if storage.kind in ("float16", "bfloat16"):
        return _cast(name, rounded(array, (0,), storage)[0].astype(_numpy(storage.kind)))
    stored = [_held(row.stored) for row in rows]
    q = np.stack([one.values.reshape(-1, one.values.shape[-1])[row.index] for row, one in zip(rows, stored, strict=True)])
    scales = np.stack([_scales(one)[row.index] for row, one in zip(rows, stored, strict=True)])
    blocks = {"block_size": stored[0].group} if scales.shape[1] > 1 else {}
    chain: Chain = []

    def add(op: str, inputs: Mapping[str, Array], **attributes: Any) -> None:
        """A node over the last value, if there is one, and these constants."""
        last = chain[-1][0].outputs if chain else ()
        made = f"{name}.{op}"
        chain.append((Node(op, made, (*last, *inputs), (made,), attributes, OPSET), dict(inputs)))

    constants = {f"{name}.q": q, f"{name}.scale": scales if blocks else scales[:, 0]}
    add("DequantizeLinear", constants, axis=len(blocks), **blocks)
    if tuple(turned) != q.shape:
        add("Reshape", {f"{name}.shape": np.array(turned, np.int64)})
    if list(order) != sorted(order):
        add("Transpose", {}, perm=np.argsort(order).tolist())
    chain[-1][0].outputs = (name,)
    return chain


def _held(stored: Stored | None) -> Stored:
    assert stored is not None
    return stored


def _scales(stored: Stored) -> Array:
    assert stored.scale is not None
    return stored.scale.reshape(-1, stored.scale.shape[-1])


def _cast(name: str, array: Array, to: Any = np.float32) -> Chain:
    less = f"{name}.{array.dtype}"
    return [(Node("Cast", name, (less,), (name,), {"to": CODES[np.dtype(to).name]}, OPSET), {less: array})]


def _numpy(kind: str) -> Any:
    if kind == "float16":
        return np.float16
    try:
        import ml_dtypes
    except ImportError:
        raise TinyRNNError("a file with bfloat16 needs ml_dtypes: pip install ml_dtypes") from None
    return ml_dtypes.bfloat16


def _with(graph: Graph, replaced: Mapping[str, Chain]) -> Graph:
    """A copy of the graph in which these values are made by other nodes."""
    made = graph.copy()
    for node in made.nodes:
        node.outputs = tuple(made.fresh(f"{name}.unused") if name in replaced else name for name in node.outputs)
    first: list[Node] = []
    for name, chain in replaced.items():
        made.constants.pop(name, None)
        for node, constants in chain:
            made.constants.update(constants)
            first.append(node)
    made.nodes = [*first, *made.nodes]
    remove_dead(made)
    return made


def _differing(program: Program, wanted: Program) -> set[str]:
    """The names of layers that two programs of one model have differently; "" where anything else differs."""
    found = set()
    pairs = itertools.zip_longest(layers_of(program.graph), layers_of(wanted.graph))
    for one, other in pairs:
        if one is None or other is None or one[0].name != other[0].name:
            return {""}
        same = one[0].attributes.get(STORAGE) == other[0].attributes.get(STORAGE) and one[1].keys() == other[1].keys()
        if not same or not all(_equal(array, other[1][key]) for key, array in one[1].items()):
            found.add(other[0].name)
        mine, theirs = (node.attributes.get(HELD, {}) for node in (one[0], other[0]))
        if mine.keys() != theirs.keys() or not all(_same(mine[key], theirs[key]) for key in mine):
            found.add(other[0].name)
    return found


def _same(a: Stored, b: Stored) -> bool:
    return a.group == b.group and _equal(a.values, b.values) and _equal(_scales(a), _scales(b))


def _equal(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_path(path: Path) -> None:
    """Raise `TinyRNNError`, before any work is done, where no .npz file can be written to `path`."""
    if path.suffix.lower() != ".npz":
        raise UnsupportedError(f"{path}: quantize writes .npz files; name it {path.with_suffix('.npz').name}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise TinyRNNError(f"{path}: cannot be written: there is no folder {path.parent}, or it cannot be written to")


def beside(path: Path) -> Path:
    """A path for a trial file in the same folder."""
    return path.with_name(f".{path.stem}.{os.getpid()}.{os.urandom(4).hex()}.npz")


def write(path: Path, made: Small, states: Mapping[str, str]) -> None:
    """Write the graph. Raises `TinyRNNError` where that is not possible."""
    try:
        write_npz(path, made.graph, states)
    except OSError as error:
        raise TinyRNNError(f"{path}: cannot be written ({error})") from None
