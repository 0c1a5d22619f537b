"""Modules as people write them for streams, small: what tests/whole/make_torch_models.py exports beside plain layers.

`ARCHITECTURES` names each with its inputs and outputs; "T" and "B" are axes that may be left open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

I, H = 5, 6  # noqa: E741

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Architecture:
    name: str
    build: Callable[[], nn.Module]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


ARCHITECTURES: list[Architecture] = []

X: dict[str, Shape] = {"x": (1, "T", I)}


def arch(
    inputs: dict[str, Shape] | None = None, outputs: dict[str, Shape] | int = H, name: str = ""
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a module; an int stands for y of so many features per frame."""

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        given: dict[str, Shape] = {"y": (1, "T", outputs)} if isinstance(outputs, int) else outputs
        ARCHITECTURES.append(Architecture(name or cls.__name__.lower(), cls, inputs or X, given))
        return cls

    return add


# ---------------------------------------------------------------- convolution over time


class Causal(nn.Module):
    """Conv1d over [B, C, T] that sees nothing ahead: zeros in front, or too much at both ends and the end cut off."""

    def __init__(self, a: int, b: int, kernel: int = 3, dilation: int = 1, chomp: bool = False, **options: int) -> None:
        super().__init__()
        self.left, self.chomp = (kernel - 1) * dilation, chomp
        self.conv = nn.Conv1d(a, b, kernel, dilation=dilation, padding=self.left if chomp else 0, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, : -self.left] if self.chomp else self.conv(F.pad(x, (self.left, 0)))


@arch()
class Tcn(nn.Module):
    """Dilated causal convolutions with residuals (Bai et al., 2018)."""

    chomp = False

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(I, H, 1)
        self.blocks = nn.ModuleList([Causal(H, H, 3, 2**n, self.chomp) for n in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x.transpose(1, 2))
        for block in self.blocks:
            y = torch.relu(y + torch.relu(block(y)))
        return y.transpose(1, 2)


@arch()
class TcnChomp(Tcn):
    chomp = True


@arch()
class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip paths."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(I, H, 1)
        self.gated = nn.ModuleList([Causal(H, 2 * H, 2, 2**n) for n in range(2)])
        self.residual = nn.ModuleList([nn.Conv1d(H, H, 1) for _ in range(2)])
        self.skip = nn.ModuleList([nn.Conv1d(H, H, 1) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x.transpose(1, 2))
        total = torch.zeros_like(y)
        for gated, residual, skip in zip(self.gated, self.residual, self.skip, strict=True):
            a, b = gated(y).chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            y, total = y + residual(z), total + skip(z)
        return torch.relu(total).transpose(1, 2)


@arch({"x": (1, 1, "T", 8)}, 4)
class Crnn(nn.Module):
    """Conv2d over time and frequency, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, (2, 3), stride=(1, 2), padding=(0, 1))
        self.norm, self.act = nn.BatchNorm2d(3), nn.PReLU(3)
        self.conv2 = nn.Conv2d(3, 4, (1, 3), stride=(1, 2), padding=(0, 1))
        self.gru, self.linear = nn.GRU(8, H, batch_first=True), nn.Linear(H, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv1(F.pad(x, (0, 0, 1, 0)))))
        y = torch.relu(self.conv2(y)).permute(0, 2, 1, 3).flatten(2)
        return torch.sigmoid(self.linear(self.gru(y)[0]))


@arch(X, {"y": (1, "T2", H)})
class StrideLstm(nn.Module):
    """Every second frame goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(I, H, 2, stride=2), nn.LSTM(H, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))[0]


@arch()
class Separable(nn.Module):
    """Depthwise and pointwise convolution with BatchNorm and PReLU, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(I, H)
        self.deep, self.point = Causal(H, H, 3, groups=H), nn.Conv1d(H, H, 1)
        self.norm, self.act = nn.BatchNorm1d(H), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x).transpose(1, 2)
        return (y + self.point(self.act(self.norm(self.deep(y))))).transpose(1, 2)


@arch()
class WeightNormConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(I, H, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv(F.pad(x.transpose(1, 2), (2, 0)))).transpose(1, 2)


@arch()
class LookAhead(nn.Module):
    """Convolution that sees one frame ahead, then a GRU: a delay of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(I, H, 3, padding=1), nn.GRU(H, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))[0]


@arch(X, {"y": (1, "Tm1", H)})
class ConvValid(nn.Module):
    """Convolution without padding: fewer frames come out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(I, H, 2), nn.LSTM(H, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


@arch(X, {"y": (1, "2T", H)})
class TransposedOverTime(nn.Module):
    """A GRU, then two frames out for each."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.up = nn.GRU(I, H, batch_first=True), nn.ConvTranspose1d(H, H, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.gru(x)[0].transpose(1, 2)).transpose(1, 2)


@arch({"x": (1, 1, "T", 8)}, {"y": (1, 1, "T", 8)})
class UNet(nn.Module):
    """Down and up over frequency by Conv2d and ConvTranspose2d, with a skip and a GRU between."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, (1, 4), stride=(1, 2), padding=(0, 1))
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.up = nn.ConvTranspose2d(8, 1, (1, 4), stride=(1, 2), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        down = F.elu(self.down(x))
        B, C, T, K = down.shape
        y = self.gru(down.permute(0, 2, 1, 3).reshape(B, T, C * K))[0].reshape(B, T, C, K).permute(0, 2, 1, 3)
        return torch.sigmoid(self.up(torch.cat([y, down], 1)))


@arch({"x": (1, 1, "T", 8)}, {"y": (1, 1, "T", 8)})
class Upsampled(nn.Module):
    """Down by a stride, up by nearest neighbours over frequency."""

    mode = "nearest"

    def __init__(self) -> None:
        super().__init__()
        self.down, self.out = nn.Conv2d(1, 3, (1, 2), stride=(1, 2)), nn.Conv2d(3, 1, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.interpolate(torch.relu(self.down(x)), scale_factor=(1.0, 2.0), mode=self.mode))


@arch({"x": (1, 1, "T", 8)}, {"y": (1, 1, "T", 8)})
class SubPixel(nn.Module):
    """Up over frequency by channels (sub-pixel convolution)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, (1, 2), stride=(1, 2)), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(torch.relu(self.down(x)))
        B, C, T, K = y.shape
        return y.permute(0, 2, 3, 1).reshape(B, 1, T, K * C)


@arch({"x": (1, "T", 8)}, {"y": (1, "T", H)})
class FrequencyAttention(nn.Module):
    """Squeeze and excitation inside a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(1, 4, (1, 3), padding=(0, 1)), nn.Linear(4, 2), nn.Linear(2, 4)
        self.gru = nn.GRU(32, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x[:, None])
        gate = torch.sigmoid(self.b(torch.relu(self.a(y.mean(3).transpose(1, 2))))).transpose(1, 2)
        return self.gru((y * gate[..., None]).permute(0, 2, 1, 3).flatten(2))[0]


# ---------------------------------------------------------------- around recurrent layers


@arch()
class Norms(nn.Module):
    """BatchNorm, LayerNorm and RMSNorm between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.layer, self.rms = nn.BatchNorm1d(I), nn.LayerNorm(H), nn.RMSNorm(H)
        self.a, self.b = nn.GRU(I, H, batch_first=True), nn.LSTM(H, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(self.batch(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.rms(self.b(self.layer(y))[0])


@arch(X, {"y": (1, 4)})
class AttentionPool(nn.Module):
    """Weights over all frames: sequence to one."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.score, self.out = nn.GRU(I, H, batch_first=True), nn.Linear(H, 1), nn.Linear(H, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gru(x)[0]
        return self.out((torch.softmax(self.score(y), 1) * y).sum(1))


@arch(X, {"y": (1, "T", 4), "v": (1, "T", 1), "k": (1, "T")})
class Heads(nn.Module):
    """Several heads: probabilities, a number and the likeliest class."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.a, self.b = nn.GRU(I, H, batch_first=True), nn.Linear(H, 4), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.gru(x)[0]
        scores = self.a(y)
        return torch.softmax(scores, -1), self.b(y), scores.argmax(-1)


@arch()
class Deltas(nn.Module):
    """Differences from frame to frame beside the features."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * I, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        d = x[:, 1:] - x[:, :-1]
        return self.gru(torch.cat([x, F.pad(d, (0, 0, 1, 0))], -1))[0]


@arch(X, {"y": (1, "Tm1", H)})
class DeltasShort(nn.Module):
    """Differences alone: one frame fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(I, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x[:, 1:] - x[:, :-1])[0]


@arch(X, {"y": (1, "Tm2", H)})
class Spliced(nn.Module):
    """Three neighbouring frames side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3 * I, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], -1))[0]


@arch(X, {"y": (1, "T2", H)})
class Stacked2(nn.Module):
    """Two frames become one, by reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2 * I, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.reshape(1, -1, 2 * I))[0]


@arch()
class Compressed(nn.Module):
    """Features by logarithm, clamp and mean over the frame, as before a spectral model."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(I, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.log10(x.abs().clamp(min=1e-4) ** 2 + 1e-6)
        y = (y - y.mean(-1, keepdim=True)) / (y.std(-1, keepdim=True, unbiased=False) + 1e-3)
        return self.lstm(y)[0]


@arch()
class RunningMean(nn.Module):
    """The mean of all frames so far is taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(I, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        count = torch.cumsum(torch.ones_like(x[..., :1]), 1)
        return self.gru(x - torch.cumsum(x, 1) / count)[0]


@arch()
class GatedLinear(nn.Module):
    """GLU, highway and SiLU layers around an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h, self.t = nn.Linear(I, 2 * H), nn.Linear(H, H), nn.Linear(H, H)
        self.lstm, self.end = nn.LSTM(H, H, batch_first=True), nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.a(x), -1)
        t = torch.sigmoid(self.t(y))
        y = t * torch.relu(self.h(y)) + (1 - t) * y
        return F.silu(self.end(self.lstm(y)[0])) + F.hardswish(y)


@arch()
class CausalAttention(nn.Module):
    """Self-attention with a causal mask over the whole sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(I, 3 * H), nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / H**0.5
        mask = torch.ones_like(scores[0]).tril() == 0
        return self.out(torch.softmax(scores.masked_fill(mask, -1e9), -1) @ v)


@arch({"x": (1, "T", I), "h": (1, 1, H)}, {"y": (1, "T", H), "hn": (1, 1, H), "mean": (1, H)})
class StatesAndMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(I, H, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        y, hn = self.gru(x, h)
        return y, hn, y.mean(1)


@arch({"x": (1, "T", I), "speaker": (1, 3)})
class Conditioned(nn.Module):
    """A vector that belongs to the stream, beside every frame and as its initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.gru = nn.Linear(3, H), nn.GRU(I + 3, H, batch_first=True)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        beside = speaker[:, None].expand(-1, x.shape[1], -1)
        return self.gru(torch.cat([x, beside], -1), torch.tanh(self.start(speaker))[None])[0]


# ---------------------------------------------------------------- step models


@arch({"x": (1, 1, 8), "state": (2, 1, 1, H, 2)}, {"y": (1, 1, 8), "state_out": (2, 1, 1, H, 2)})
class DtlnStep(nn.Module):
    """Mask by two LSTM layers whose states are packed in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LSTM(8, H, batch_first=True), nn.LSTM(H, H, batch_first=True)
        self.mask = nn.Linear(H, 8)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, new = x, []
        for n, layer in enumerate((self.a, self.b)):
            y, (h, c) = layer(y, (state[n, ..., 0].contiguous(), state[n, ..., 1].contiguous()))
            new.append(torch.stack([h, c], -1))
        return torch.sigmoid(self.mask(y)) * x, torch.stack(new)


@arch(
    {"x": (1, I, 1), "cache": (1, I, 2), "cache2": (1, H, 4)}, {"y": (1, H, 1), "cache_out": (1, I, 2), "cache2_out": (1, H, 4)}
)
class ConvCacheStep(nn.Module):
    """Convolutions over time that keep the frames they need."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(I, H, 3), nn.Conv1d(H, H, 3, dilation=2)

    def forward(self, x: Tensor, cache: Tensor, cache2: Tensor) -> tuple[Tensor, ...]:
        wide = torch.cat([cache, x], 2)
        y = torch.relu(self.a(wide))
        wide2 = torch.cat([cache2, y], 2)
        return self.b(wide2), wide[:, :, 1:], wide2[:, :, 1:]


@arch(
    {"x": (1, 8, 1, 2), "conv_cache": (1, 2, 1, 8), "inter_cache": (1, 4, H)},
    {"y": (1, 8, 1, 2), "conv_cache_out": (1, 2, 1, 8), "inter_cache_out": (1, 4, H)},
)
class GtcrnStep(nn.Module):
    """Conv2d with a cache, a GRU along frequency both ways, a GRU along time for each band, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, H, (2, 4), stride=(1, 2), padding=(0, 1))
        self.norm, self.act = nn.BatchNorm2d(H), nn.PReLU()
        self.intra, self.inter = nn.GRU(H, H // 2, bidirectional=True, batch_first=True), nn.GRU(H, H, batch_first=True)
        self.layer = nn.LayerNorm((4, H))
        self.up = nn.ConvTranspose2d(H, 2, (1, 4), stride=(1, 2), padding=(0, 1))

    def forward(self, x: Tensor, conv_cache: Tensor, inter_cache: Tensor) -> tuple[Tensor, ...]:
        spec = x.permute(0, 3, 2, 1)
        wide = torch.cat([conv_cache, spec], 2)
        y = self.act(self.norm(self.conv(wide)))
        rows = y[:, :, 0].transpose(1, 2)
        rows = self.layer(rows + self.intra(rows)[0])
        z, h = self.inter(rows.transpose(0, 1), inter_cache)
        y = (rows + z.transpose(0, 1)).transpose(1, 2)[:, :, None]
        mask = torch.tanh(self.up(y))
        real = spec[:, :1] * mask[:, :1] - spec[:, 1:] * mask[:, 1:]
        imag = spec[:, :1] * mask[:, 1:] + spec[:, 1:] * mask[:, :1]
        return torch.cat([real, imag], 1).permute(0, 3, 2, 1), wide[:, :, 1:], h


@arch({"x": (1, 24), "state": (2, 1, H), "context": (1, 8)}, {"y": (1, 1), "state_out": (2, 1, H), "context_out": (1, 8)})
class VadStep(nn.Module):
    """Speech or not: a Fourier transform by Conv1d, magnitudes, an encoder, an LSTM cell."""

    def __init__(self) -> None:
        super().__init__()
        self.basis, self.enc = nn.Conv1d(1, 10, 16, stride=8, bias=False), nn.Conv1d(5, H, 3, stride=2, padding=1)
        self.cell, self.out = nn.LSTMCell(H, H), nn.Linear(H, 1)

    def forward(self, x: Tensor, state: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        z = self.basis(torch.cat([context, x], 1)[:, None])
        y = torch.relu(self.enc(torch.sqrt(z[:, :5] ** 2 + z[:, 5:] ** 2)))
        h, c = self.cell(y.mean(2), (state[0], state[1]))
        return torch.sigmoid(self.out(torch.relu(h))), torch.stack([h, c]), x[:, -8:]


@arch({"x": (1, 1, H), "cache_k": (1, 4, H), "cache_v": (1, 4, H)}, {"y": (1, 1, H), "k_out": (1, 4, H), "v_out": (1, 4, H)})
class AttentionStep(nn.Module):
    """Attention over the last frames, two heads, with caches of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(H, 3 * H), nn.Linear(H, H), nn.LayerNorm(H)

    def forward(self, x: Tensor, cache_k: Tensor, cache_v: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        k, v = torch.cat([cache_k, k], 1)[:, 1:], torch.cat([cache_v, v], 1)[:, 1:]

        def heads(a: Tensor) -> Tensor:
            return a.reshape(1, -1, 2, H // 2).transpose(1, 2)

        scores = heads(q) @ heads(k).transpose(2, 3) / (H // 2) ** 0.5
        y = (torch.softmax(scores, -1) @ heads(v)).transpose(1, 2).reshape(1, 1, H)
        return x + self.out(y), k, v


@arch(
    {"x": (1, I), "a": (1, H), "b": (1, H), "p": (1, H), "s": (1, I)},
    {"y": (1, I), "a1": (1, H), "b1": (1, H), "p1": (1, H), "s1": (1, I)},
)
class RwkvStep(nn.Module):
    """Time mixing of RWKV-4 with its stable sums, and the shift of the frame before."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.decay, self.bonus = (nn.Parameter(torch.rand(n)) for n in (I, H, H))
        self.k, self.v, self.r, self.o = nn.Linear(I, H), nn.Linear(I, H), nn.Linear(I, H), nn.Linear(H, I)

    def forward(self, x: Tensor, a: Tensor, b: Tensor, p: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        m = x * self.mix + s * (1 - self.mix)
        k, v, r = self.k(m), self.v(m), torch.sigmoid(self.r(m))
        q = torch.maximum(p, self.bonus + k)
        e1, e2 = torch.exp(p - q), torch.exp(self.bonus + k - q)
        y = self.o(r * (e1 * a + e2 * v) / (e1 * b + e2))
        w = p - torch.exp(self.decay)
        q = torch.maximum(w, k)
        e1, e2 = torch.exp(w - q), torch.exp(k - q)
        return y, e1 * a + e2 * v, e1 * b + e2, q, x


@arch({"x": (1, I), "conv": (1, H, 3), "ssm": (1, H, 4)}, {"y": (1, I), "conv_out": (1, H, 3), "ssm_out": (1, H, 4)})
class MambaStep(nn.Module):
    """Selective state space, one step (Gu and Dao, 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.dt = nn.Linear(I, 2 * H), nn.Linear(2, H)
        self.w, self.b = nn.Parameter(torch.randn(H, 4)), nn.Parameter(torch.randn(H))
        self.proj, self.A, self.D = nn.Linear(H, 10, bias=False), nn.Parameter(torch.rand(H, 4)), nn.Parameter(torch.ones(H))
        self.out = nn.Linear(H, I)

    def forward(self, x: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, ...]:
        u, z = self.into(x).chunk(2, -1)
        wide = torch.cat([conv, u[:, :, None]], 2)
        u = F.silu((wide * self.w).sum(2) + self.b)
        dt, B, C = self.proj(u).split([2, 4, 4], -1)
        dt = F.softplus(self.dt(dt))
        ssm = ssm * torch.exp(-dt[:, :, None] * torch.exp(self.A)) + (dt * u)[:, :, None] * B[:, None]
        y = ((ssm @ C[:, :, None])[:, :, 0] + self.D * u) * F.silu(z)
        return self.out(y), wide[:, :, 1:], ssm


# ---------------------------------------------------------------- cells of one's own


class MinGru(nn.Module):
    """h = (1 - z) h + z n, both from x alone (Feng et al., 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.n = nn.Linear(I, H), nn.Linear(I, H)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(self.z(x))
        return (1 - z) * h + z * self.n(x)


class LiGru(nn.Module):
    """A GRU without reset, ReLU and LayerNorm instead (Ravanelli et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.norm = nn.Linear(I, 2 * H, bias=False), nn.Linear(H, 2 * H, bias=False), nn.LayerNorm(2 * H)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        a, z = (self.norm(self.w(x)) + self.u(h)).chunk(2, -1)
        z = torch.sigmoid(z)
        return z * h + (1 - z) * torch.relu(a)


class IndRnn(nn.Module):
    """Each unit sees itself alone (Li et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(I, H), nn.Parameter(torch.rand(H))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.relu(self.w(x) + self.u * h)


class Peephole(nn.Module):
    """c and h in one tensor, coupled gates, the gates see c: written out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.o, self.g = (nn.Linear(I + H // 2, H // 2) for _ in range(3))
        self.p = nn.Parameter(torch.rand(H // 2))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        h, c = h.chunk(2, -1)
        both = torch.cat([x, h], -1)
        f = torch.sigmoid(self.f(both) + self.p * c)
        c = f * c + (1 - f) * torch.tanh(self.g(both))
        return torch.cat([torch.sigmoid(self.o(both)) * torch.tanh(c), c], -1)


class OwnGru(nn.Module):
    """A GRU out of six products, the reset gate before the product."""

    def __init__(self) -> None:
        super().__init__()
        self.xz, self.xr, self.xn = (nn.Linear(I, H) for _ in range(3))
        self.hz, self.hr, self.hn = (nn.Linear(H, H, bias=False) for _ in range(3))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z, r = torch.sigmoid(self.xz(x) + self.hz(h)), torch.sigmoid(self.xr(x) + self.hr(h))
        return z * h + (1 - z) * torch.tanh(self.xn(x) + self.hn(r * h))


OWN: dict[str, Callable[[], nn.Module]] = {
    "mingru": MinGru,
    "ligru": LiGru,
    "indrnn": IndRnn,
    "peephole": Peephole,
    "owngru": OwnGru,
}


class OwnStep(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.out = cell, nn.Linear(H, 2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return self.out(h), h


class OwnLoop(nn.Module):
    """A loop over time in Python: exporters write it out for the T of the example."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], H), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


for _name, _cell in OWN.items():
    ARCHITECTURES += [
        Architecture(
            f"step_{_name}", lambda cell=_cell: OwnStep(cell()), {"x": (1, I), "h": (1, H)}, {"y": (1, 2), "h_out": (1, H)}
        ),
        Architecture(f"loop_{_name}", lambda cell=_cell: OwnLoop(cell()), {"x": (1, 6, I)}, {"y": (1, 6, H)}),
    ]


class ScriptedLoop(nn.Module):
    """A loop that TorchScript keeps as one."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 6)
        ys: list[Tensor] = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


def scripted() -> nn.Module:
    return torch.jit.script(ScriptedLoop())  # type: ignore[no-any-return]


ARCHITECTURES.append(Architecture("scripted_grucell", scripted, X, {"y": (1, "T", H)}))


@arch({"x": (1, "T", I), "on": (1,)})
class Conditional(nn.Module):
    """torch.cond between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.a, self.b = nn.GRU(I, H, batch_first=True), nn.Linear(H, H), nn.Linear(H, H)

    def forward(self, x: Tensor, on: Tensor) -> Tensor:
        y = self.gru(x)[0]
        return torch.cond(on.sum() > 0, self.a, self.b, (y,))


# ---------------------------------------------------------------- loops over PyTorch's cells


class CellLoop(nn.Module):
    """Cells called step by step, in the ways people write it."""

    def __init__(self, kind: str, how: str) -> None:
        super().__init__()
        cells: dict[str, Callable[[int, int], nn.Module]] = {
            "lstm": nn.LSTMCell,
            "gru": nn.GRUCell,
            "rnn": nn.RNNCell,
            "relu": lambda a, b: nn.RNNCell(a, b, nonlinearity="relu"),
        }
        self.kind, self.how = kind, how
        self.into = nn.Linear(I, I)
        self.cells = nn.ModuleList([cells[kind](I, H)] + ([cells[kind](H, H)] if how == "stack" else []))
        self.back = cells[kind](I, H) if how == "bi" else None
        self.head = nn.Linear(H, 3)
        self.start = nn.Parameter(torch.zeros(1, H), requires_grad=False)

    def step(self, cell: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(cell(x, state)) if self.kind == "lstm" else (cell(x, state[0]),)

    def walk(self, cells: list[nn.Module], xs: list[Tensor], states: list[tuple[Tensor, ...]]) -> list[Tensor]:
        ys = []
        for x in xs:
            y = x
            for n, cell in enumerate(cells):
                states[n] = self.step(cell, y, states[n])
                y = states[n][0]
            ys.append(y)
        return ys

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        zero = x.new_zeros(x.shape[0], H) if self.how != "expand" else self.start.expand(x.shape[0], -1)
        start: tuple[Tensor, ...] = (zero, zero) if self.kind == "lstm" else (zero,)
        if h is not None:
            start = (h, c) if c is not None else (h,)
        xs = list(x.unbind(1)) if self.how in ("unbind", "bi") else [x[:, t] for t in range(x.shape[1])]
        if self.how == "narrow":
            xs = [x.narrow(1, t, 1).squeeze(1) for t in range(x.shape[1])]
        if self.how == "into":
            xs = [torch.relu(self.into(x)) for x in xs]
        states = [start for _ in self.cells]
        ys = self.walk(list(self.cells), xs, states)
        if self.how == "last":
            return self.head(ys[-1])
        if self.how == "head":
            return torch.cat([torch.sigmoid(self.head(y)).unsqueeze(1) for y in ys], 1)
        if self.how == "bi" and self.back is not None:
            back = self.walk([self.back], xs[::-1], [start])[::-1]
            return torch.cat([torch.stack(ys, 1), torch.stack(back, 1)], -1)
        if h is not None:
            return (torch.stack(ys, 1), *states[-1])
        return torch.stack(ys, 1)


T = 6
HOWS = {"plain": H, "unbind": H, "narrow": H, "expand": H, "into": H, "stack": H, "head": 3, "bi": 2 * H}
for _kind in ("lstm", "gru", "rnn", "relu"):
    for _how, _features in HOWS.items():
        ARCHITECTURES.append(
            Architecture(
                f"unrolled_{_kind}_{_how}",
                lambda kind=_kind, how=_how: CellLoop(kind, how),
                {"x": (1, T, I)},
                {"y": (1, T, _features)},
            )
        )
    _states: dict[str, Shape] = {"h": (1, H)} | ({"c": (1, H)} if _kind == "lstm" else {})
    ARCHITECTURES += [
        Architecture(f"unrolled_{_kind}_last", lambda kind=_kind: CellLoop(kind, "last"), {"x": (1, T, I)}, {"y": (1, 3)}),
        Architecture(
            f"unrolled_{_kind}_batch", lambda kind=_kind: CellLoop(kind, "plain"), {"x": ("B", T, I)}, {"y": ("B", T, H)}
        ),
        Architecture(
            f"unrolled_{_kind}_states",
            lambda kind=_kind: CellLoop(kind, "states"),
            {"x": (1, T, I)} | _states,
            {"y": (1, T, H)} | {f"{s}n": shape for s, shape in _states.items()},
        ),
    ]


class LayerLoop(nn.Module):
    """nn.LSTM or nn.GRU called with one frame at a time."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.core = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](I, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        state, ys = None, []
        for t in range(x.shape[1]):
            y, state = self.core(x[:, t : t + 1], state)
            ys.append(y)
        return torch.cat(ys, 1)


for _kind in ("lstm", "gru"):
    ARCHITECTURES.append(
        Architecture(f"unrolled_{_kind}_layer", lambda kind=_kind: LayerLoop(kind), {"x": (1, T, I)}, {"y": (1, T, H)})
    )
