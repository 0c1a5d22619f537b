"""RNN, GRU and LSTM of ONNX in plain float64 NumPy: the oracle for every kernel.

Written from the operator documents (opsets 7 to 22; they differ only in `layout`, added in 14, and in types),
one frame of one sequence at a time. T is the number of frames, N the batch, I the input size, H the hidden
size, D the number of directions: 2 if bidirectional, else 1.

What the specification leaves open is done as onnxruntime 1.32 does it:

- A sequence of length 0 gives zeros in Y, Y_h and Y_c, whatever its initial state (all three operators, all
  directions, also when every sequence has length 0). T = 0 is treated so too; onnxruntime cannot run it.
- Beyond a sequence's own length Y is zero and X is not read. Y_h and Y_c are the state at the sequence's own
  end: its last frame, or frame 0 in the backward direction, which starts at the sequence's own last frame.
- `clip` bounds the pre-activations of the gates, biases and peepholes included. The input of the LSTM's h,
  Ct, is not clipped, although the text says "the input of activations" without exception.
- `input_forget` = 1 couples the gates as ft = 1 - it; Wf, Rf, their biases and Pf are then unused.

Differences from onnxruntime 1.32: those of ThresholdedRelu, see `activations.ACTIVATIONS`; `hidden_size` may
be missing here, as the specification allows (it is the last axis of R); `layout` = 1 is implemented; names of
RNN's activations may be in any case; clip = 0 is accepted and clips all to 0, a negative clip is an error
(onnxruntime: both are errors for GRU and LSTM; for RNN a negative clip means none).

Differences from `onnx.reference` 1.23: that one ignores `sequence_lens`, `clip`, `input_forget` and the
activations of GRU and LSTM, knows only Tanh and Affine for RNN, and uses the first of them for both
directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tinyrnn.ops.elementwise.activations import Array, BoundActivation, bind_activations

if TYPE_CHECKING:
    from typing_extensions import Unpack

Floats = NDArray[np.floating[Any]]

State = tuple[Array, ...]
"""(Ht,) of RNN and GRU, (Ht, Ct) of LSTM; each [H]."""

Cell = Callable[[Array, State], State]
"""One step: Xt [I] and the state before it, to the state after it."""

Gates = tuple[Sequence[Array], Sequence[Array], Sequence[Array]]
"""W, R and B of one direction, split by gates; B has those of W, then those of R."""

CellMaker = Callable[[int, Gates, Sequence[BoundActivation], Callable[[Array], Array]], Cell]
"""The cell of a direction (0, 1), of its weights, its activation functions, and the bound that `clip` sets."""


class Attributes(TypedDict, total=False):
    """The attributes that RNN, GRU and LSTM share; a missing one has ONNX's default."""

    activations: Sequence[str] | None
    activation_alpha: Sequence[float] | None
    activation_beta: Sequence[float] | None
    clip: float | None
    direction: str
    hidden_size: int | None
    layout: int


def rnn(
    X: Floats,
    W: Floats,
    R: Floats,
    B: Floats | None = None,
    sequence_lens: NDArray[np.integer[Any]] | None = None,
    initial_h: Floats | None = None,
    **attributes: Unpack[Attributes],
) -> tuple[Array, Array]:
    """ONNX RNN: Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi), by default f = Tanh.

    X [T, N, I], W [D, H, I], R [D, H, H], B [D, 2*H] = [Wbi, Rbi], sequence_lens [N], initial_h [D, N, H]
    give Y [T, D, N, H] and Y_h [D, N, H]. With layout 1 they are X [N, T, I], initial_h and Y_h [N, D, H],
    Y [N, T, D, H].

    Two activations are accepted for one direction and the first is taken: the schema's default is a list of
    two. Raises ValueError where a shape, a name or a length does not fit.
    """
    names = attributes.get("activations")
    if names is not None and attributes.get("direction") != "bidirectional" and len(names) == 2:
        attributes["activations"] = names[:1]

    def cell_of(d: int, gates: Gates, functions: Sequence[BoundActivation], clip: Callable[[Array], Array]) -> Cell:
        (Wi,), (Ri,), (Wbi, Rbi) = gates
        (f,) = functions

        def cell(Xt: Array, state: State) -> State:
            (Ht_1,) = state
            # Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi)
            return (f(clip(Xt @ Wi.T + Ht_1 @ Ri.T + Wbi + Rbi)),)

        return cell

    Y, (Y_h,) = _scan(X, W, R, B, sequence_lens, {"initial_h": initial_h}, cell_of, 1, ("Tanh",), **attributes)
    return Y, Y_h


def gru(
    X: Floats,
    W: Floats,
    R: Floats,
    B: Floats | None = None,
    sequence_lens: NDArray[np.integer[Any]] | None = None,
    initial_h: Floats | None = None,
    *,
    linear_before_reset: int = 0,
    **attributes: Unpack[Attributes],
) -> tuple[Array, Array]:
    """ONNX GRU, gates in the order z, r, h; by default f = Sigmoid, g = Tanh.

        zt = f(Xt*(Wz^T) + Ht-1*(Rz^T) + Wbz + Rbz)
        rt = f(Xt*(Wr^T) + Ht-1*(Rr^T) + Wbr + Rbr)
        ht = g(Xt*(Wh^T) + (rt (.) Ht-1)*(Rh^T) + Rbh + Wbh)      linear_before_reset = 0
        ht = g(Xt*(Wh^T) + (rt (.) (Ht-1*(Rh^T) + Rbh)) + Wbh)    linear_before_reset != 0
        Ht = (1 - zt) (.) ht + zt (.) Ht-1

    X [T, N, I], W [D, 3*H, I], R [D, 3*H, H], B [D, 6*H] = [Wb[zrh], Rb[zrh]], sequence_lens [N],
    initial_h [D, N, H] give Y [T, D, N, H] and Y_h [D, N, H]; layout 1 as in `rnn`. `activations` are (f, g)
    for each direction. Raises ValueError where a shape, a name or a length does not fit.
    """

    def cell_of(d: int, gates: Gates, functions: Sequence[BoundActivation], clip: Callable[[Array], Array]) -> Cell:
        (Wz, Wr, Wh), (Rz, Rr, Rh), (Wbz, Wbr, Wbh, Rbz, Rbr, Rbh) = gates
        f, g = functions

        def cell(Xt: Array, state: State) -> State:
            (Ht_1,) = state
            # zt = f(Xt*(Wz^T) + Ht-1*(Rz^T) + Wbz + Rbz)
            zt = f(clip(Xt @ Wz.T + Ht_1 @ Rz.T + Wbz + Rbz))
            # rt = f(Xt*(Wr^T) + Ht-1*(Rr^T) + Wbr + Rbr)
            rt = f(clip(Xt @ Wr.T + Ht_1 @ Rr.T + Wbr + Rbr))
            if linear_before_reset:
                # ht = g(Xt*(Wh^T) + (rt (.) (Ht-1*(Rh^T) + Rbh)) + Wbh)
                ht = g(clip(Xt @ Wh.T + rt * (Ht_1 @ Rh.T + Rbh) + Wbh))
            else:
                # ht = g(Xt*(Wh^T) + (rt (.) Ht-1)*(Rh^T) + Rbh + Wbh)
                ht = g(clip(Xt @ Wh.T + (rt * Ht_1) @ Rh.T + Rbh + Wbh))
            # Ht = (1 - zt) (.) ht + zt (.) Ht-1
            return ((1.0 - zt) * ht + zt * Ht_1,)

        return cell

    initial = {"initial_h": initial_h}
    Y, (Y_h,) = _scan(X, W, R, B, sequence_lens, initial, cell_of, 3, ("Sigmoid", "Tanh"), **attributes)
    return Y, Y_h


def lstm(
    X: Floats,
    W: Floats,
    R: Floats,
    B: Floats | None = None,
    sequence_lens: NDArray[np.integer[Any]] | None = None,
    initial_h: Floats | None = None,
    initial_c: Floats | None = None,
    P: Floats | None = None,
    *,
    input_forget: int = 0,
    **attributes: Unpack[Attributes],
) -> tuple[Array, Array, Array]:
    """ONNX LSTM, gates in the order i, o, f, c and peepholes i, o, f; by default f = Sigmoid, g = h = Tanh.

        it = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Pi (.) Ct-1 + Wbi + Rbi)
        ft = f(Xt*(Wf^T) + Ht-1*(Rf^T) + Pf (.) Ct-1 + Wbf + Rbf)    input_forget = 0
        ft = 1 - it                                                  input_forget != 0
        ct = g(Xt*(Wc^T) + Ht-1*(Rc^T) + Wbc + Rbc)
        Ct = ft (.) Ct-1 + it (.) ct
        ot = f(Xt*(Wo^T) + Ht-1*(Ro^T) + Po (.) Ct + Wbo + Rbo)
        Ht = ot (.) h(Ct)

    X [T, N, I], W [D, 4*H, I], R [D, 4*H, H], B [D, 8*H] = [Wb[iofc], Rb[iofc]], sequence_lens [N], initial_h
    and initial_c [D, N, H], P [D, 3*H] give Y [T, D, N, H], Y_h and Y_c [D, N, H]; layout 1 as in `rnn`,
    initial_c and Y_c as initial_h. `activations` are (f, g, h) for each direction. Raises ValueError where a
    shape, a name or a length does not fit.
    """
    D, _, H = np.shape(R)
    P = _array("P", P, (D, 3 * H))

    def cell_of(d: int, gates: Gates, functions: Sequence[BoundActivation], clip: Callable[[Array], Array]) -> Cell:
        (Wi, Wo, Wf, Wc), (Ri, Ro, Rf, Rc), (Wbi, Wbo, Wbf, Wbc, Rbi, Rbo, Rbf, Rbc) = gates
        Pi, Po, Pf = np.split(P[d], 3)
        f, g, h = functions

        def cell(Xt: Array, state: State) -> State:
            Ht_1, Ct_1 = state
            # it = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Pi (.) Ct-1 + Wbi + Rbi)
            it = f(clip(Xt @ Wi.T + Ht_1 @ Ri.T + Pi * Ct_1 + Wbi + Rbi))
            if input_forget:
                ft = 1.0 - it
            else:
                # ft = f(Xt*(Wf^T) + Ht-1*(Rf^T) + Pf (.) Ct-1 + Wbf + Rbf)
                ft = f(clip(Xt @ Wf.T + Ht_1 @ Rf.T + Pf * Ct_1 + Wbf + Rbf))
            # ct = g(Xt*(Wc^T) + Ht-1*(Rc^T) + Wbc + Rbc)
            ct = g(clip(Xt @ Wc.T + Ht_1 @ Rc.T + Wbc + Rbc))
            # Ct = ft (.) Ct-1 + it (.) ct
            Ct = ft * Ct_1 + it * ct
            # ot = f(Xt*(Wo^T) + Ht-1*(Ro^T) + Po (.) Ct + Wbo + Rbo)
            ot = f(clip(Xt @ Wo.T + Ht_1 @ Ro.T + Po * Ct + Wbo + Rbo))
            # Ht = ot (.) h(Ct)
            return ot * h(Ct), Ct

        return cell

    initial = {"initial_h": initial_h, "initial_c": initial_c}
    Y, (Y_h, Y_c) = _scan(X, W, R, B, sequence_lens, initial, cell_of, 4, ("Sigmoid", "Tanh", "Tanh"), **attributes)
    return Y, Y_h, Y_c


def _scan(
    X: Floats,
    W: Floats,
    R: Floats,
    B: Floats | None,
    sequence_lens: NDArray[np.integer[Any]] | None,
    initial: dict[str, Floats | None],
    cell_of: CellMaker,
    gates: int,
    default: tuple[str, ...],
    *,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Array, tuple[Array, ...]]:
    """Run the cell of every direction over every sequence: Y and the final value of each part of the state.

    `initial` holds the initial value of each part of the state by the name of the input, None for zeros; the
    first part is Ht, which Y collects. `default` names the activations of one direction. W [D, gates*H, I],
    R [D, gates*H, H], B [D, 2*gates*H]; H is the last axis of R where `hidden_size` is missing.
    """
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"direction must be forward, reverse or bidirectional, not {direction!r}")
    if clip is not None and clip < 0:
        raise ValueError(f"clip must not be negative, it is {clip!r}")
    D = 2 if direction == "bidirectional" else 1
    H = np.shape(R)[-1] if hidden_size is None else hidden_size
    W = _array("W", W, (D, gates * H, np.shape(W)[-1]))
    R = _array("R", R, (D, gates * H, H))
    B = _array("B", B, (D, 2 * gates * H))
    functions = _functions(activations, activation_alpha, activation_beta, default, D)
    if layout not in (0, 1):
        raise ValueError(f"layout must be 0 or 1, not {layout!r}")
    X = np.asarray(X, np.float64)
    if X.ndim != 3:
        raise ValueError(f"X must have 3 axes, not shape {X.shape}")
    if layout == 1:
        X = X.swapaxes(0, 1)  # [N, T, I] -> [T, N, I]
    T, N, _ = X.shape

    lengths = np.full(N, T) if sequence_lens is None else np.asarray(sequence_lens)
    if lengths.shape != (N,) or not np.all((lengths >= 0) & (lengths <= T)):
        raise ValueError(f"sequence_lens must be {N} lengths of 0 to {T}, not {lengths.tolist()}")
    states = []
    for name, value in initial.items():
        state = _array(name, value, (D, N, H) if layout == 0 else (N, D, H))
        states.append(state if layout == 0 else state.swapaxes(0, 1))

    Y = np.zeros((T, D, N, H))
    finals = tuple(np.zeros((D, N, H)) for _ in states)
    for d in range(D):
        split = np.split(W[d], gates), np.split(R[d], gates), np.split(B[d], 2 * gates)
        cell = cell_of(d, split, functions[d], lambda x: x if clip is None else np.clip(x, -clip, clip))
        backward = direction == "reverse" or d == 1
        for n in range(N):
            if lengths[n] == 0:
                continue
            frames = range(lengths[n])
            current: State = tuple(state[d, n] for state in states)
            for t in reversed(frames) if backward else frames:
                current = cell(X[t, n], current)
                Y[t, d, n] = current[0]
            for final, value in zip(finals, current, strict=True):
                final[d, n] = value

    if layout == 1:
        Y = Y.transpose(2, 0, 1, 3)  # [T, D, N, H] -> [N, T, D, H]
        finals = tuple(final.swapaxes(0, 1) for final in finals)  # [D, N, H] -> [N, D, H]
    return Y, finals


def _functions(
    activations: Sequence[str] | None,
    activation_alpha: Sequence[float] | None,
    activation_beta: Sequence[float] | None,
    default: tuple[str, ...],
    D: int,
) -> list[tuple[BoundActivation, ...]]:
    """The activations of each direction, `len(default)` of them each, with their parameters."""
    names = default * D if activations is None else tuple(activations)
    count = len(default)
    if len(names) != count * D:
        raise ValueError(f"activations must be {count * D} names, {count} for each direction, not {names}")
    bound = bind_activations(names, activation_alpha, activation_beta)
    return [bound[d * count : (d + 1) * count] for d in range(D)]


def _array(name: str, value: Floats | None, shape: tuple[int, ...]) -> Array:
    """`value` in float64, zeros where it is None; ValueError if it has another shape."""
    if value is None:
        return np.zeros(shape)
    array = np.asarray(value, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    return array
