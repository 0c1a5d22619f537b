"""One to many: an icon's name by an LSTM that starts from the features of a CNN.

The CNN is trained first, to tell the words of the name; what it has before the softmax are the features, and stays as it is.

python -m tinyrnn_export.caption --data FOLDER -o DIR
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn.demo.icons import END

from .icons import DECAY, DROPOUT, EMBEDDING, HIDDEN, RATE, Eye, Icons, Pair, compare, export, recipe
from .recipe import Run, command

RECIPE = recipe("caption", epochs=48, report_every=4)
FEATURES = 128


class Classifier(nn.Module):
    """forward(image [N, 1, 32, 32]) -> logits [N, V], one for each word."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.eye = Eye(FEATURES)
        self.head = nn.Linear(FEATURES, words)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.eye(image)[1])
        return logits


class Encoder(nn.Module):
    """forward(image [N, 1, 32, 32]) -> h [N, HIDDEN], c [N, HIDDEN]."""

    def __init__(self, eye: Eye) -> None:
        super().__init__()
        self.eye = eye
        self.first = nn.Linear(FEATURES, 2 * HIDDEN)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.begun(self.eye(image)[1])

    def begun(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, c = self.first(features).chunk(2, 1)
        return torch.tanh(h), c


class Decoder(nn.Module):
    """One word: forward(token [N], h, c) -> scores [N, V], hn, cn.

    hn, cn = LSTM(embedding(token), h, c)
    scores = embedding (W_r hn + b_r) + b: the same embedding
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN)
        self.read = nn.Linear(HIDDEN, EMBEDDING)
        self.bias = nn.Parameter(torch.zeros(words))
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, token: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores, (hn, cn) = self.name(token[None], h, c)
        return scores[0], hn[0], cn[0]

    def name(
        self, tokens: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Scores [T, N, V] after each of tokens [T, N], and the states after the last."""
        y, after = self.lstm(self.embed(tokens), (h[None], c[None]))
        return F.linear(self.read(self.dropout(y)), self.embed.weight, self.bias), after


class Model(nn.Module):
    """Both, on features that stay as they are."""

    def __init__(self, icons: Icons, eye: Eye) -> None:
        super().__init__()
        self.icons = icons
        self.encoder, self.decoder = Encoder(eye), Decoder(len(icons.words))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the words of a batch, the longest name first."""
        icons, eye = self.icons, self.encoder.eye
        eye.eval()
        with torch.no_grad():
            _, features = eye(icons.changed(batch))
        lengths = icons.lengths[batch]
        wanted = icons.captions[batch, : int(lengths[0])].T
        fed = torch.cat([torch.full((1, len(batch)), icons.words.index[END]), wanted[:-1]])
        scores, _ = self.decoder.name(fed, *self.encoder.begun(F.dropout(features, DROPOUT)))
        counted = torch.arange(len(wanted))[:, None] < lengths
        return F.cross_entropy(scores[counted], wanted[counted])


def train(run: Run) -> None:
    """Train, export, and compare."""
    icons = Icons.read(run)
    run.say(f"  {len(icons.train):,} icons, {len(icons.words):,} words; {len(icons.held)} icons held out")
    classifier = Classifier(len(icons.words))
    held = torch.from_numpy(icons.held)

    def known() -> float:
        with torch.no_grad():
            likeliest = classifier(icons.images[held]).argmax(1)
        return float((icons.shares(held)[torch.arange(len(held)), likeliest] > 0).float().mean())

    run.say("  the classifier of words:")
    run.fit(
        classifier,
        icons.batches,
        lambda batch: F.cross_entropy(classifier(icons.changed(batch)), icons.shares(batch)),
        rate=RATE,
        decay=DECAY,
        heldout=lambda: f"{known():.1%} likeliest word in the name",
    )
    run.figure("likeliest_word", known(), f"{known():.1%} of {len(held)} held-out icons: the likeliest word is in the name")
    classifier.eye.fold()
    classifier.eye.requires_grad_(False)
    model = Model(icons, classifier.eye)
    pair = Pair(icons, model.encoder, model.decoder)
    run.say("  the decoder, on its features:")
    run.fit(model, icons.batches, model.loss, rate=RATE, decay=DECAY, heldout=lambda: f"{icons.exact(pair.greedy()):.1%} exact")
    run.half(model, pair.greedy)
    compare(run, pair, *export(run, pair, [], []))


main = command(RECIPE, train, "Train a CNN on the words of icons' names, an LSTM that writes them, and export both.")

if __name__ == "__main__":
    main()
