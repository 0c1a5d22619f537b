"""One to many with attention: an icon's name, each word read off a grid of CNN features.

Xu et al., Show, attend and tell: neural image caption generation with visual attention, 2015, with its soft attention.

python -m tinyrnn_export.caption_attention --data FOLDER -o DIR
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn.demo.icons import END

from .icons import CHANNELS, DECAY, DROPOUT, EMBEDDING, GRID, HIDDEN, RATE, Eye, Icons, Pair, compare, export, recipe
from .recipe import Run, command

RECIPE = recipe("caption_attention", epochs=54, report_every=6)
FEATURES, ATTENTION = 64, 32
"""elements of what the whole image is seen as, and of a key"""
WORDS_SEEN = 0.3
"""the weight of the loss of a classifier of words on the features, beside that of the name"""


class Encoder(nn.Module):
    """forward(image [N, 1, 32, 32]) -> grid [N, G, C], keys [N, A, G], h [N, HIDDEN], c [N, HIDDEN], of G = 64 positions.

    keys = W_k grid + b + position, the part of the attention's scores that is the same at each word.
    """

    def __init__(self) -> None:
        super().__init__()
        self.eye = Eye(FEATURES)
        self.key = nn.Linear(CHANNELS[2], ATTENTION)
        self.position = nn.Parameter(0.02 * torch.randn(ATTENTION, GRID**2))
        self.first = nn.Linear(FEATURES, 2 * HIDDEN)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        grid, features = self.eye(image)
        return (*self.seen(grid), *self.begun(features))

    def seen(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = grid.flatten(2).transpose(1, 2)
        return rows, self.key(rows).transpose(1, 2) + self.position

    def begun(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, c = self.first(features).chunk(2, 1)
        return torch.tanh(h), c


class Decoder(nn.Module):
    """One word: forward(token [N], grid, keys, h, c) -> scores [N, V], attention [N, G], hn, cn.

    attention = softmax(v tanh(keys + W_q h))
    context   = attention grid
    hn, cn    = LSTM([embedding(token), context], h, c)
    scores    = embedding (W_r [hn, context] + b_r) + b: the same embedding
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        channels = CHANNELS[2]
        self.embed = nn.Embedding(words, EMBEDDING)
        self.query = nn.Linear(HIDDEN, ATTENTION, bias=False)
        self.score = nn.Parameter(torch.randn(1, ATTENTION) * ATTENTION**-0.5)
        self.lstm = nn.LSTM(EMBEDDING + channels, HIDDEN)
        self.read = nn.Linear(HIDDEN + channels, EMBEDDING)
        self.bias = nn.Parameter(torch.zeros(words))
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(
        self, token: torch.Tensor, grid: torch.Tensor, keys: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        attention = torch.softmax(torch.matmul(self.score, torch.tanh(keys + self.query(h)[:, :, None]))[:, 0], 1)
        context = torch.matmul(attention[:, None], grid)[:, 0]
        _, (hn, cn) = self.lstm(torch.cat([self.embed(token), context], 1)[None], (h[None], c[None]))
        read = self.read(self.dropout(torch.cat([hn[0], context], 1)))
        return F.linear(read, self.embed.weight, self.bias), attention, hn[0], cn[0]


class Model(nn.Module):
    """Both, and a classifier of words on the features, for the training alone."""

    def __init__(self, icons: Icons) -> None:
        super().__init__()
        self.icons = icons
        self.encoder, self.decoder = Encoder(), Decoder(len(icons.words))
        self.classify = nn.Linear(FEATURES, len(icons.words))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the words of a batch, the longest name first, and of its features' words."""
        icons, encoder = self.icons, self.encoder
        grid, features = encoder.eye(icons.changed(batch))
        (rows, keys), (h, c) = encoder.seen(grid), encoder.begun(features)
        lengths, captions = icons.lengths[batch], icons.captions[batch]
        token, losses = torch.full((len(batch),), icons.words.index[END]), []
        for t in range(int(lengths[0])):
            n = int((lengths > t).sum())
            scores, _, h, c = self.decoder(token[:n], rows[:n], keys[:n], h[:n], c[:n])
            token = captions[:n, t]
            losses.append(F.cross_entropy(scores, token, reduction="sum"))
        named = torch.stack(losses).sum() / lengths.sum()
        return named + WORDS_SEEN * F.cross_entropy(self.classify(features), icons.shares(batch))


def train(run: Run) -> None:
    """Train, export, and compare."""
    icons = Icons.read(run)
    run.say(f"  {len(icons.train):,} icons, {len(icons.words):,} words; {len(icons.held)} icons held out")
    model = Model(icons)
    pair = Pair(icons, model.encoder, model.decoder)
    run.fit(model, icons.batches, model.loss, rate=RATE, decay=DECAY, heldout=lambda: f"{icons.exact(pair.greedy()):.1%} exact")
    model.encoder.eye.fold()
    run.half(model, pair.greedy)
    compare(run, pair, *export(run, pair, ["grid", "keys"], ["attention"]))


main = command(RECIPE, train, "Train a model that names icons, with attention, and export it.")

if __name__ == "__main__":
    main()
