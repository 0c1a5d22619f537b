"""Packing: the weights of a recurrent kernel in the order in which it reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyrnn.graph.op import Array
from tinyrnn.graph.storage import Stored, ratios
from tinyrnn.ops.recurrent.kernel_text import Cell, GateSums


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one direction: W [gates·H, I], R [gates·H, H] and the scales of both in their storage type; B, P float32."""

    W: Array
    R: Array
    B: Array | None
    P: Array | None
    W_scale: Array | None = None
    """[gates·H, groups] of int8 weights"""
    R_scale: Array | None = None
    table: Stored | None = None
    """[entries, I], where X holds indices of its rows"""


def columns(cell: Cell, rows: Array, lanes: int) -> Array:
    """An array [gates·H, …] in the order [panel][gate][lane] of the columns of the input's share, zero-padded."""
    G, H = cell.gates, cell.H
    panels = -(-H // lanes)
    wide = np.zeros((G, panels * lanes, *rows.shape[1:]), rows.dtype)
    wide[:, :H] = rows.reshape(G, H, *rows.shape[1:])
    cut = wide.reshape(G, panels, lanes, *rows.shape[1:]).swapaxes(0, 1)
    return cut.reshape(G * panels * lanes, *rows.shape[1:])


def input_bias(cell: Cell, B: Array | None) -> Array:
    """Bias [gates·H]: Wb + Rb, except for the candidate of linear_before_reset, whose Rb belongs to the sum over h."""
    G, H = cell.gates, cell.H
    if B is None:
        return np.zeros(G * H, np.float32)
    halves = B.reshape(2, G, H)
    bias: Array = halves[0] + halves[1]
    if cell.linear_before_reset:
        bias[2] = halves[0, 2]
    return bias.ravel()


def units(cell: Cell, weights: Weights) -> Array:
    """[gates·H]: the units of sums over x when those over h begin, the first scale of R; of a sum that ends with x, 1."""
    assert weights.R_scale is not None
    made: Array = weights.R_scale[:, 0].copy()
    if cell.linear_before_reset:
        made[2 * cell.H :] = 1
    return made


def pack_state(sums: GateSums, weights: Weights) -> Array:
    """The matrices for the kernel: for each phase groups of panels, each [k][panel][gate][lane] with k over x, where the
    kernel takes it, and h."""
    cell, lanes, panels = sums.cell, sums.lanes, sums.panels
    G, H = cell.gates, cell.H
    both = np.concatenate([weights.W, weights.R], axis=1) if cell.inputs and not cell.quantiser else weights.R
    wide = np.zeros((G, panels * lanes, both.shape[1]), both.dtype)
    wide[:, :H] = both.reshape(G, H, -1)
    cut = wide.reshape(G, panels, lanes, -1)
    parts = []
    for gates in cell.phases:
        together = sums.together(len(gates))
        for first in range(0, panels, together):
            block = cut[list(gates), first : first + together]
            parts.append(sums.arranged(block.transpose(3, 1, 0, 2).reshape(both.shape[1], -1)))
    return np.concatenate(parts)


def pack_extra(cell: Cell, weights: Weights, lanes: int) -> Array:
    """float32 rows of the padded H, in the order of `Cell.row`: Rbh, the peepholes i, o, f, the bias of each gate's sum over x
    where the kernel takes it, and of int8 weights the factors of the sums after each group of x and of h."""
    G, H = cell.gates, cell.H
    extra = np.zeros((4, H), np.float32)
    if cell.linear_before_reset and weights.B is not None:
        extra[0] = weights.B.reshape(2, G, H)[1, 2]
    if weights.P is not None:
        extra[1:] = weights.P.reshape(3, H)
    rows = [extra]
    bias = input_bias(cell, weights.B)
    if cell.quantiser:
        assert weights.R_scale is not None
        rows.append(weights.R_scale.reshape(G, H))
    elif weights.W_scale is not None and weights.R_scale is not None:
        if cell.linear_before_reset:
            extra[0] = ratios(extra[0], weights.R_scale[2 * H :, 0])
        bias = ratios(bias, weights.W_scale[:, 0])
        if cell.inputs:
            rows.append(bias.reshape(G, H))
            rows.append(_factors(weights.W_scale, units(cell, weights)).reshape(-1, H))
        rows.append(_factors(weights.R_scale, np.ones(G * H, np.float32)).reshape(-1, H))
    elif cell.inputs:
        rows.append(bias.reshape(G, H))
    every = np.concatenate(rows)
    padded = np.zeros((len(every), -(-H // lanes) * lanes), np.float32)
    padded[:, :H] = every
    return padded.ravel()


def _factors(scale: Array, then: Array) -> Array:
    """[groups, gates·H]: what sums are multiplied by after each group."""
    following = [*scale.T[1:], then]
    return np.stack([ratios(each, after) for each, after in zip(scale.T, following, strict=True)])
