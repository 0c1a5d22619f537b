"""Cells that PyTorch has no layer for, called step by step: exporters write each step out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.whole.torch_architectures import Architecture, Shape

I, H, T = 5, 4, 6  # noqa: E741
IMAGE = (3, 5, 4)
"""channels, height and width of what a convolutional cell takes"""

States = tuple[Tensor, ...]


class Cell(nn.Module):
    """forward(x, states) → what the step gives, the states after it."""

    states = 1

    def start(self, x: Tensor) -> States:
        return tuple(torch.zeros(x.shape[0], H) for _ in range(self.states))


class LayerNormLSTM(Cell):
    states = 2

    def __init__(self, features: int) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(features, 4 * H, bias=False), nn.Linear(H, 4 * H, bias=False)
        self.norms = nn.ModuleList([nn.LayerNorm(4 * H), nn.LayerNorm(4 * H), nn.LayerNorm(H)])

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        h, c = states
        i, f, g, o = (self.norms[0](self.x(x)) + self.norms[1](self.h(h))).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * self.norms[2](c).tanh()
        return h, (h, c)


class MinGRU(Cell):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.z, self.new = nn.Linear(features, H), nn.Linear(features, H)

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        z = self.z(x).sigmoid()
        h = (1 - z) * states[0] + z * self.new(x)
        return h, (h,)


class SLSTM(Cell):
    """Exponential gates with a normaliser and a stabiliser (Beck et al., xLSTM, 2024)."""

    states = 4

    def __init__(self, features: int) -> None:
        super().__init__()
        self.w, self.r = nn.Linear(features, 4 * H), nn.Linear(H, 4 * H, bias=False)

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        h, c, n, m = states
        z, i, f, o = (self.w(x) + self.r(h)).chunk(4, -1)
        kept = F.logsigmoid(f) + m
        m = torch.maximum(kept, i)
        c = (kept - m).exp() * c + (i - m).exp() * z.tanh()
        n = (kept - m).exp() * n + (i - m).exp()
        h = o.sigmoid() * c / n.clamp(min=1e-6)
        return h, (h, c, n, m)


class CfC(Cell):
    """Closed-form continuous-time (Hasani et al., 2022)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(features + H, 8)
        self.heads = nn.ModuleList([nn.Linear(8, H) for _ in range(4)])

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        z = 1.7159 * torch.tanh(0.666 * self.backbone(torch.cat([x, states[0]], -1)))
        gate = torch.sigmoid(self.heads[2](z) + self.heads[3](z))
        h = self.heads[0](z).tanh() * (1 - gate) + gate * self.heads[1](z).tanh()
        return h, (h,)


class RWKV(Cell):
    """Time mixing with a token shift (Peng et al., RWKV-4, 2023)."""

    states = 4

    def __init__(self, features: int) -> None:
        super().__init__()
        self.into = nn.Linear(features, H)
        self.k, self.v, self.r = (nn.Linear(H, H, bias=False) for _ in range(3))
        self.w, self.u, self.mix = (nn.Parameter(torch.rand(H)) for _ in range(3))

    def start(self, x: Tensor) -> States:
        return (*super().start(x)[:3], torch.full((x.shape[0], H), -1e30))

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        last, a, b, most = states
        x = self.into(x)
        mixed = x * self.mix + last * (1 - self.mix)
        k, v = self.k(mixed), self.v(mixed)
        m = torch.maximum(most, self.u + k)
        y = ((most - m).exp() * a + (self.u + k - m).exp() * v) / ((most - m).exp() * b + (self.u + k - m).exp())
        decayed = most - self.w.exp()
        m = torch.maximum(decayed, k)
        a, b = (decayed - m).exp() * a + (k - m).exp() * v, (decayed - m).exp() * b + (k - m).exp()
        return self.r(mixed).sigmoid() * y, (x, a, b, m)


class NormedLSTMCell(Cell):
    """PyTorch's own cell, its output normalised before it goes on."""

    states = 2

    def __init__(self, features: int) -> None:
        super().__init__()
        self.cell, self.norm = nn.LSTMCell(features, H), nn.LayerNorm(H)

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        h, c = self.cell(x, states)
        h = self.norm(h)
        return h, (h, c)


class ConvLSTM(Cell):
    states = 2

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features + H, 4 * H, 3, padding=1)

    def start(self, x: Tensor) -> States:
        return tuple(torch.zeros(x.shape[0], H, *x.shape[2:]) for _ in range(2))

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        h, c = states
        i, f, o, g = self.conv(torch.cat([x, h], 1)).split(H, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)


class Walk(nn.Module):
    """Cells step by step, layer after layer."""

    def __init__(self, cell: Callable[[int], Cell], how: str, features: int = I) -> None:
        super().__init__()
        self.how, many = how, 2 if how == "bi" else 1
        self.cells = nn.ModuleList([cell(features), *([cell(H * many)] if how in ("stack", "bi") else [])])
        self.back = nn.ModuleList([cell(features), cell(2 * H)] if how == "bi" else [])
        self.head = nn.Linear(H, 3)

    def walk(self, cell: nn.Module, xs: list[Tensor], states: States) -> tuple[list[Tensor], States]:
        ys = []
        for x in xs:
            y, states = cell(x, states)
            ys.append(y)
        return ys, states

    def forward(self, x: Tensor, *given: Tensor) -> Tensor | States:
        ys, last = list(x.unbind(1)), given
        for n, cell in enumerate(self.cells):
            start = cell.start(ys[0])
            made, last = self.walk(cell, ys, given or start)
            if self.how == "bi":
                back, _ = self.walk(self.back[n], ys[::-1], start)
                made = [torch.cat(pair, -1) for pair in zip(made, back[::-1], strict=True)]
            ys = made
        if self.how == "last":
            return self.head(ys[-1])
        if self.how == "write":
            y = torch.zeros(x.shape[0], x.shape[1], H)
            for t, row in enumerate(ys):
                y[:, t] = row
            return y
        if self.how == "chain":
            y = ys[0].unsqueeze(1)
            for row in ys[1:]:
                y = torch.cat([y, row.unsqueeze(1)], 1)
            return y
        y = torch.stack(ys, 1)
        return (y, *last) if given else y


KINDS: dict[str, Callable[[int], Cell]] = {
    "lnlstm": LayerNormLSTM,
    "mingru": MinGRU,
    "slstm": SLSTM,
    "cfc": CfC,
    "rwkv": RWKV,
    "normed": NormedLSTMCell,
}
CELLS: list[Architecture] = []
for _kind, _cell in KINDS.items():
    for _how in ("plain", "stack", "bi", "write", "chain", "last"):
        _y: Shape = (1, 3) if _how == "last" else (1, T, 2 * H if _how == "bi" else H)
        CELLS.append(
            Architecture(f"unrolled_{_kind}_{_how}", lambda c=_cell, how=_how: Walk(c, how), {"x": (1, T, I)}, {"y": _y})
        )
    CELLS.append(
        Architecture(f"unrolled_{_kind}_batch", lambda c=_cell: Walk(c, "plain"), {"x": ("B", T, I)}, {"y": ("B", T, H)})
    )
    _states: dict[str, Shape] = {f"s{n}": (1, H) for n in range(_cell.states)}  # type: ignore[attr-defined]
    CELLS.append(
        Architecture(
            f"unrolled_{_kind}_states",
            lambda c=_cell: Walk(c, "states"),
            {"x": (1, T, I)} | _states,
            {"y": (1, T, H)} | {f"{name}n": shape for name, shape in _states.items()},
        )
    )
CELLS.append(
    Architecture(
        "unrolled_convlstm_plain",
        lambda: Walk(ConvLSTM, "plain", IMAGE[0]),
        {"x": (1, T, *IMAGE)},
        {"y": (1, T, H, *IMAGE[1:])},
    )
)
