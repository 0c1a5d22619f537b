"""Why LSTM replaced the vanilla RNN: how large the gradient of a loss at the end is, step by step back in time.

    python -m tinyrnn_export.gradient_flow -o DIR [--steps T] [--hidden H] [--seed N] [--recall]

Backwards through a recurrent layer the gradient is multiplied by one Jacobian a step. In a vanilla RNN that is
diag(1 - h_t²) W_hh: below 1 the product vanishes, above it may explode, both exponentially (Hochreiter 1991; Bengio, Simard
and Frasconi 1994; Pascanu, Mikolov and Bengio 2013). An LSTM's cell is multiplied by its forget gate instead, which the
network can hold near 1 (Hochreiter and Schmidhuber 1997; the gate is Gers, Schmidhuber and Cummins 2000).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from tinyrnn.data import terminal as picture
from tinyrnn.errors import TinyRNNError

Array = np.ndarray[Any, Any]

TEXT = (
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate: Rough winds do shake the darling buds "
    "of May, And summer's lease hath all too short a date; Sometime too hot the eye of heaven shines, "
)
"""William Shakespeare, sonnet 18, in the public domain: read again and again, the inputs are its characters"""
PICTURE = "gradient_flow.png"
INPUT = 0.1
"""the standard deviation of a character's vector: small, so that the tanh of the RNN stays near its linear part"""
DISTANCES = (1, 10, 50, 100)
LARGEST_DIFFERENCE = 1e-9
"""between autograd and the product of Jacobians, both in float64, as a share of the gradient's norm"""
LONGEST = 400
"""steps: further back, vanished gradients leave float64"""

SYMBOLS, DELAY, UNITS, BATCH, UPDATES, RATE, FORGET = 4, 60, 32, 64, 1000, 5e-3, 3.0
"""of the recall task: symbols, steps over which one is kept, units, sequences an update, updates, learning rate, forget bias"""


@dataclass(frozen=True)
class Flow:
    """Norms of the gradient at each step.

    norms       [T], of ∂L/∂h_t or ∂L/∂c_t, the last entry at the last step
    difference  the largest difference between autograd and the product of Jacobians, as a share of the norm
    """

    name: str
    norms: Array
    difference: float

    def at(self, distance: int) -> float | None:
        """The norm so many steps before the end, None before the beginning."""
        return float(self.norms[-1 - distance]) if distance < len(self.norms) else None

    @property
    def factor(self) -> float:
        """By how much the norm changes per step back: the geometric mean over all but the last ten steps."""
        last = max(len(self.norms) - 11, 1)
        return float((self.norms[0] / self.norms[last]) ** (1 / last))


def characters(steps: int, hidden: int, rng: np.random.Generator) -> torch.Tensor:
    """The inputs [T, H], float64: a random vector for each character of TEXT."""
    codes = sorted(set(TEXT))
    table = INPUT * rng.standard_normal((len(codes), hidden))
    return torch.from_numpy(table[[codes.index(TEXT[t % len(TEXT)]) for t in range(steps)]])


def recurrent_matrix(kind: str, size: float, hidden: int, rng: np.random.Generator) -> Array:
    """W_hh [H, H]: "orthogonal", every singular value `size`, or "gaussian", its spectral radius `size`."""
    gaussian = rng.standard_normal((hidden, hidden))
    if kind == "orthogonal":
        gaussian = np.linalg.qr(gaussian)[0]
    else:
        gaussian /= np.abs(np.linalg.eigvals(gaussian)).max()
    return size * gaussian


def backwards(states: Sequence[torch.Tensor], loss: torch.Tensor) -> list[Array]:
    """∂loss/∂state by autograd for each state."""
    for state in states:
        state.retain_grad()
    torch.autograd.backward(loss)
    return [np.zeros(tuple(s.shape)) if s.grad is None else s.grad.numpy() for s in states]


def rnn_flow(name: str, w_hh: Array, x: torch.Tensor, readout: Array) -> Flow:
    """A vanilla RNN h_t = tanh(x_t + W_hh h_{t-1}), the loss readout · h_T."""
    weight = torch.from_numpy(w_hh)
    h = torch.zeros(len(w_hh), dtype=torch.float64)
    states = []
    for x_t in x:
        h = torch.tanh(x_t + weight @ h).requires_grad_()
        states.append(h)
    by_autograd = backwards(states, torch.from_numpy(readout) @ h)
    recorded = [state.detach().numpy() for state in states]

    product, by_jacobians = readout, [readout]
    for h_t in recorded[:0:-1]:
        product = product @ ((1 - h_t**2)[:, None] * w_hh)
        by_jacobians.append(product)
    return _flow(name, by_autograd, by_jacobians[::-1])


def lstm_flow(bias: float, x: torch.Tensor, readout: Array, rng: np.random.Generator) -> list[Flow]:
    """nn.LSTMCell as PyTorch initialises it, its forget gate's bias set: the gradients of h_t and of c_t."""
    hidden = len(readout)
    cell = nn.LSTMCell(hidden, hidden, dtype=torch.float64)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.from_numpy(rng.uniform(-1, 1, tuple(parameter.shape)) / np.sqrt(hidden)))
        cell.bias_hh[hidden : 2 * hidden] = 0.0
        cell.bias_ih[hidden : 2 * hidden] = bias
    h = c = torch.zeros(1, hidden, dtype=torch.float64)
    hs, cs = [], []
    for x_t in x:
        h, c = cell(x_t[None], (h, c))
        hs.append(h)
        cs.append(c)
    grads = backwards([*hs, *cs], torch.from_numpy(readout) @ h[0])
    by_autograd_h, by_autograd_c = ([g[0] for g in part] for part in (grads[: len(hs)], grads[len(hs) :]))

    w_ih, w_hh = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    bias_all = (cell.bias_ih + cell.bias_hh).detach().numpy()
    zero = np.zeros(hidden)
    states = [(zero, zero), *((a.detach().numpy()[0], b.detach().numpy()[0]) for a, b in zip(hs, cs, strict=True))]
    to_h, to_c = readout, zero
    by_jacobians_h, by_jacobians_c = [], []
    for t in range(len(hs), 0, -1):
        jacobian, o_times_slope = _lstm_jacobian(
            w_hh, w_ih @ x[t - 1].numpy() + w_hh @ states[t - 1][0] + bias_all, states[t - 1][1]
        )
        by_jacobians_h.append(to_h)
        by_jacobians_c.append(to_c + to_h * o_times_slope)
        back = np.concatenate([to_h, to_c]) @ jacobian
        to_h, to_c = back[:hidden], back[hidden:]
    return [
        _flow(f"LSTM, forget bias {bias:g}: h", by_autograd_h, by_jacobians_h[::-1]),
        _flow(f"LSTM, forget bias {bias:g}: c", by_autograd_c, by_jacobians_c[::-1]),
    ]


def _lstm_jacobian(w_hh: Array, gates: Array, c_before: Array) -> tuple[Array, Array]:
    """∂(h_t, c_t)/∂(h_{t-1}, c_{t-1}) [2H, 2H], and ∂h_t/∂c_t = o (1 - tanh² c_t) [H].

    gates [4H], before their activations, in PyTorch's order i, f, g, o:
    c_t = f c_{t-1} + i g, h_t = o tanh(c_t).
    """
    i, f, g, o = np.split(gates, 4)
    i, f, o, g = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-f)), 1 / (1 + np.exp(-o)), np.tanh(g)
    w_i, w_f, w_g, w_o = np.split(w_hh, 4)
    c = f * c_before + i * g
    slope = o * (1 - np.tanh(c) ** 2)
    c_by_h = (c_before * f * (1 - f))[:, None] * w_f + (g * i * (1 - i))[:, None] * w_i + (i * (1 - g**2))[:, None] * w_g
    h_by_h = slope[:, None] * c_by_h + (np.tanh(c) * o * (1 - o))[:, None] * w_o
    return np.block([[h_by_h, np.diag(slope * f)], [c_by_h, np.diag(f)]]), slope


def _flow(name: str, by_autograd: Sequence[Array], by_jacobians: Sequence[Array]) -> Flow:
    a, b = np.array(by_autograd), np.array(by_jacobians)
    return Flow(name, _norm(a), float((_norm(a - b) / _norm(b)).max()))


def _norm(rows: Array) -> Array:
    """[T] of [T, H], also where squares would underflow."""
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    norms: Array = largest[:, 0] * np.linalg.norm(rows / largest, axis=1)
    return norms


def flows(steps: int, hidden: int, seed: int) -> list[Flow]:
    """All curves, from `seed`: the same inputs and the same readout in each."""
    rng = np.random.default_rng(seed)
    x = characters(steps, hidden, rng)
    readout = rng.standard_normal(hidden)
    readout /= np.linalg.norm(readout)
    made = [
        rnn_flow(f"RNN, largest singular value {size:g}", recurrent_matrix("orthogonal", size, hidden, rng), x, readout)
        for size in (0.7, 1.0, 1.5)
    ]
    gaussian = recurrent_matrix("gaussian", 1.0, hidden, rng)
    largest = np.linalg.norm(gaussian, 2)
    made.append(rnn_flow(f"RNN, Gaussian, spectral radius 1 (largest singular value {largest:.2f})", gaussian, x, readout))
    for bias in (0.0, 1.0, 3.0):
        made += lstm_flow(bias, x, readout, rng)
    return made


def table(made: Sequence[Flow]) -> str:
    """Norms at DISTANCES from the end, the factor per step, and the difference from the Jacobians; one line a curve."""
    width = max(len(flow.name) for flow in made)
    lines = [
        f"{'norm of the gradient, steps before the end:':{width}}"
        + "".join(f"{d:10d}" for d in DISTANCES)
        + "  per step  difference"
    ]
    for flow in made:
        norms = ["-" if (norm := flow.at(d)) is None else f"{norm:.1e}" for d in DISTANCES]
        lines.append(
            f"{flow.name:{width}}" + "".join(f"{n:>10}" for n in norms) + f"{flow.factor:10.3f}  {flow.difference:10.1e}"
        )
    return "\n".join(lines)


def draw(made: Sequence[Flow], path: Path) -> None:
    """Every curve on a logarithmic scale, against the steps before the end."""
    figure = picture.figure(10, 7)
    axes = figure.subplots()
    for number, flow in enumerate(made):
        style = "--" if flow.name.endswith(": h") else "-"
        colour = f"C{number if number < 4 else 4 + (number - 4) // 2}"
        axes.semilogy(
            np.arange(len(flow.norms))[::-1], flow.norms, style, color=colour, label=f"{flow.name}   × {flow.factor:.3f} per step"
        )
    axes.invert_xaxis()
    axes.set(
        xlabel="steps before the end, where the loss is",
        ylabel="norm of ∂L/∂h (LSTM: also ∂L/∂c)",
        title=f"The gradient on its way back through {len(made[0].norms)} steps",
    )
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    picture.save(figure, path)


# ---------------------------------------------------------------------------------------------------- the consequence


def recall(cell: str, seed: int) -> tuple[float, float]:
    """Train one layer to name, after DELAY steps of noise, the symbol that came first. Its loss in nats, and seconds.

    Chance is ln SYMBOLS. The LSTM starts with a forget bias of FORGET.
    """
    torch.manual_seed(seed)
    layer: nn.LSTM | nn.RNN = nn.LSTM(SYMBOLS + 1, UNITS) if cell == "LSTM" else nn.RNN(SYMBOLS + 1, UNITS)
    head = nn.Linear(UNITS, SYMBOLS)
    if isinstance(layer, nn.LSTM):
        with torch.no_grad():
            layer.get_parameter("bias_ih_l0")[UNITS : 2 * UNITS] = FORGET
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    began, losses = time.process_time(), []
    for _ in range(UPDATES):
        symbols = torch.randint(0, SYMBOLS, (BATCH,))
        x = torch.zeros(1 + DELAY, BATCH, SYMBOLS + 1)
        x[0, torch.arange(BATCH), symbols] = 1
        x[1:, :, SYMBOLS] = torch.randn(DELAY, BATCH)
        loss = nn.functional.cross_entropy(head(layer(x)[0][-1]), symbols)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-UPDATES // 10 :])), time.process_time() - began


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help=f"Where {PICTURE} goes.")
@click.option(
    "--steps", type=click.IntRange(12, LONGEST), default=120, show_default=True, help="Steps through which gradients go."
)
@click.option("--hidden", type=click.IntRange(2), default=64, show_default=True, help="Recurrent units.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--recall", "train", is_flag=True, help="Also train an RNN and an LSTM on a task that needs the gradient.")
def main(output: Path, steps: int, hidden: int, seed: int, train: bool) -> None:
    """Norms of gradients through time in vanilla RNNs and LSTMs, by autograd and by products of Jacobians."""
    torch.set_num_threads(1)
    try:
        output.mkdir(parents=True, exist_ok=True)
        picture.check_picture(output / PICTURE)
    except OSError as error:
        raise click.ClickException(f"--output {output} cannot be made a folder: {error.strerror}") from None
    except TinyRNNError as error:
        raise click.ClickException(str(error)) from None
    made = flows(steps, hidden, seed)
    click.echo(
        f"{hidden} units, {steps} steps, seed {seed}; inputs: the characters of sonnet 18 as random vectors; loss: v · h_T"
    )
    click.echo(table(made))
    worst = max(made, key=lambda flow: flow.difference)
    if not worst.difference <= LARGEST_DIFFERENCE:
        raise click.ClickException(
            f"{worst.name}: autograd and the product of Jacobians differ by {worst.difference:.1e} of the norm; allowed is "
            f"{LARGEST_DIFFERENCE:g}"
        )
    click.echo(
        f"difference: autograd against the product of Jacobians in NumPy, at most {LARGEST_DIFFERENCE:g} of the norm: passed"
    )
    click.echo(
        "A vanilla RNN multiplies the gradient by diag(1 - h²) W_hh at each step, so that it vanishes or explodes exponentially; "
        "an LSTM multiplies that of its cell by the forget gate, which it can hold near 1."
    )
    draw(made, output / PICTURE)
    click.echo(f"picture: {output / PICTURE}")
    if train:
        click.echo(
            f"recall: which of {SYMBOLS} symbols came {DELAY} steps ago; {UPDATES} updates, chance {np.log(SYMBOLS):.3f} nats"
        )
        for cell in ("RNN", "LSTM"):
            loss, seconds = recall(cell, seed)
            click.echo(f"  {cell:4} {loss:.3f} nats at the end   {seconds:.0f} s")


if __name__ == "__main__":
    main()
