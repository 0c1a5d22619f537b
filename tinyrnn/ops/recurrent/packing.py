"""Packing: the weights of a recurrent kernel in the order in which it reads them."""

from __future__ import annotations

import numpy as np

from tinyrnn.graph.op import Array
from tinyrnn.ops.recurrent.kernel_text import Cell, panels_together


def pack_input(cell: Cell, W: Array, B: Array | None, lanes: int) -> tuple[Array, Array]:
    """The projection as a matrix [I, panels·gates·LANES] and its bias, columns in the order [panel][gate][lane]."""
    G, H = cell.gates, cell.H
    panels = -(-H // lanes)
    wide = np.zeros((G, panels * lanes, W.shape[1]), np.float32)
    wide[:, :H] = W.reshape(G, H, -1)
    bias = input_bias(cell, B, panels * lanes)
    matrix = wide.reshape(G, panels, lanes, -1).transpose(3, 1, 0, 2).reshape(W.shape[1], -1)
    return matrix, bias.reshape(G, panels, lanes).transpose(1, 0, 2).ravel()


def input_bias(cell: Cell, B: Array | None, padded: int) -> Array:
    """Bias [gates, padded]: Wb + Rb, except for the candidate of linear_before_reset, whose Rb belongs to the sum over h."""
    G, H = cell.gates, cell.H
    bias = np.zeros((G, padded), np.float32)
    if B is not None:
        halves = B.reshape(2, G, H)
        bias[:, :H] = halves[0] + halves[1]
        if cell.linear_before_reset:
            bias[2, :H] = halves[0, 2]
    return bias


def pack_state(cell: Cell, W: Array, R: Array, B: Array | None, P: Array | None, lanes: int, registers: int) -> Array:
    """Weights for the kernel: for each phase groups of panels, each [k][panel][gate][lane] with k over x, where the
    kernel takes it, and h; then Rbh, the peepholes i, o, f, and the bias of each gate's sum over x."""
    G, H = cell.gates, cell.H
    panels = -(-H // lanes)
    both = np.concatenate([W, R], axis=1) if cell.inputs else R
    wide = np.zeros((G, panels * lanes, both.shape[1]), np.float32)
    wide[:, :H] = both.reshape(G, H, -1)
    cut = wide.reshape(G, panels, lanes, -1)
    parts = []
    for gates in cell.phases:
        together = panels_together(len(gates), panels, registers, 4 * cell.gates * cell.H * cell.H, lanes)
        for first in range(0, panels, together):
            block = cut[list(gates), first : first + together]
            parts.append(block.transpose(3, 1, 0, 2).ravel())
    extra = np.zeros((4, panels * lanes), np.float32)
    if cell.linear_before_reset and B is not None:
        extra[0, :H] = B.reshape(2, G, H)[1, 2]
    if P is not None:
        extra[1:, :H] = P.reshape(3, H)
    bias = input_bias(cell, B, panels * lanes) if cell.inputs else np.zeros(0, np.float32)
    return np.concatenate([*parts, extra.ravel(), bias.ravel()])
