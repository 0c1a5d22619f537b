"""What both recipes of captions share: the icons, how they are split, the CNN, decisions of every engine.

Held out are icons: one in ten of those that have a name of known words, drawn at random, and with each of them every icon
with the very same picture. No name is on both sides, as no name occurs twice. Other variants of the same base icon are: what
is asked is to compose a name that was never seen ("account arrow left outline") from words that were. With whole groups
of variants held out, three names in ten have a word that no training name has.
"""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyrnn.data.vocabulary import Words
from tinyrnn.demo import Models
from tinyrnn.demo.icons import END, STEPS, WIDTH, Captioner, scaled

from . import decoding, toy_icons
from .pytorch import export_sequence, export_step
from .recipe import Array, Recipe, Run, bent, session, shuffled

CAPTIONS = "captions.tsv.gz"
FREQUENT = 5
"""how often each word of a name is in all names, at least"""
HELD_OUT = 0.1
BATCH, RATE, DECAY, DROPOUT = 64, 3e-3, 0.05, 0.2
BENT, MOVED = 0.04, 0.07
"""spread of the random affine changes of training icons, in half widths of the icon"""
CHANNELS = (16, 32, 48, 64)
"""of the convolutions: to 16 x 16, to the grid of 8 x 8, on it, to 4 x 4"""
GRID, COARSE = 8, 4
"""positions a side"""
EMBEDDING, HIDDEN = 48, 96
"""elements of a word, LSTM units"""
STATES = {"h": "hn", "c": "cn"}
MADE = 1200
CHECKED = 40
"""held-out icons whose names the decoder reads in `tinyrnn check`"""


def recipe(name: str, epochs: int, report_every: int) -> Recipe:
    """A recipe on icons."""
    return Recipe(
        name=name,
        folder="mdi_icons",
        file="icons_32x32.npz",
        source="4,804 Material Design Icons of 32 x 32 pixels with the names that people gave them",
        made="icons and names made from a few shapes",
        license=(
            "MIT. Trained on Material Design Icons by Pictogrammers (GitHub: Templarian/MaterialDesign; "
            "icons Apache License 2.0, names MIT; Pictogrammers Free License)."
        ),
        epochs=epochs,
        report_every=report_every,
    )


@dataclass
class Icons:
    """Icons, their names, and which of them are for what."""

    images: torch.Tensor
    """float32 [n, 1, 32, 32] from 0 to 1"""
    names: list[list[str]]
    words: Words
    train: Array
    held: Array
    captions: torch.Tensor
    """int64 [n, longest]: words, then ends"""
    lengths: torch.Tensor
    """int64 [n], one end included"""

    @classmethod
    def read(cls, run: Run) -> Icons:
        """Of the data set, or made. Raises `click.ClickException` for a folder without the names."""
        images, texts = toy_icons.icons(run.random(), MADE) if run.data is None else _stored(run.data, run.recipe)
        names = [text.split() for text in texts]
        words = Words([END, *sorted({word for name in names for word in name})])
        captions = np.full((len(names), max(map(len, names)) + 1), words.index[END])
        for row, name in zip(captions, names, strict=True):
            row[: len(name)] = words.encode(name)
        train, held = split(images, run.random())
        lengths = torch.tensor([len(name) + 1 for name in names])
        tensor = torch.from_numpy(scaled(images))[:, None]
        return cls(tensor, names, words, run.first(train), held, torch.from_numpy(captions), lengths)

    def batches(self, random: np.random.Generator) -> list[torch.Tensor]:
        """Numbers of training icons in a new order, those of a batch with the longest name first."""
        found = (torch.from_numpy(self.train[b]) for b in shuffled(random, len(self.train), BATCH))
        return [batch[torch.argsort(self.lengths[batch], descending=True)] for batch in found]

    def changed(self, batch: torch.Tensor) -> torch.Tensor:
        """The images of a batch, each under a random affine change."""
        return bent(self.images[batch], BENT, MOVED)

    def shares(self, batch: torch.Tensor) -> torch.Tensor:
        """[batch, V]: the words of each name, as a distribution."""
        found = torch.zeros(len(batch), len(self.words))
        found.scatter_(1, self.captions[batch], 1.0)
        found[:, self.words.index[END]] = 0
        return found / found.sum(1, keepdim=True)

    def exact(self, captions: Array) -> float:
        """The share of held-out icons whose name [held, STEPS] is right in every word."""
        wanted = self.captions[torch.from_numpy(self.held)].numpy()
        width = min(wanted.shape[1], captions.shape[1])
        return float(np.mean((captions[:, :width] == wanted[:, :width]).all(axis=1)))


def _stored(folder: Path, recipe: Recipe) -> tuple[Array, list[str]]:
    """Icons of the data set whose names are made of frequent words."""
    if not (folder / CAPTIONS).is_file():
        raise click.ClickException(f"{folder / CAPTIONS} is not there: the names of the icons in {recipe.file}")
    names = [line.split("\t")[0] for line in gzip.decompress((folder / CAPTIONS).read_bytes()).decode().splitlines()]
    count = Counter(word for name in names for word in name.split())
    kept = [i for i, name in enumerate(names) if all(count[word] >= FREQUENT for word in name.split())]
    with np.load(folder / recipe.file) as stored:
        images = stored["images"]
    return images[kept], [names[i] for i in kept]


def split(images: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Numbers of the icons to train on, and of those held out: equal pictures are on one side."""
    alike: dict[bytes, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        alike[image.tobytes()].append(number)
    groups = list(alike.values())
    held: list[int] = []
    for place in random.permutation(len(groups)):
        if len(held) >= HELD_OUT * len(images):
            break
        held += groups[place]
    train = np.setdiff1d(np.arange(len(images)), held)
    return train, np.sort(np.array(held))


def block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class Eye(nn.Module):
    """forward(image [N, 1, 32, 32]) -> grid [N, C, 8, 8], features [N, F] with F = `features`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        a, b, c, d = CHANNELS
        self.near = nn.Sequential(block(1, a, 2), block(a, b, 2), block(b, c, 1))
        self.far = block(c, d, 2)
        self.features = nn.Linear(d * COARSE**2, features)
        self.dropout = nn.Dropout(DROPOUT)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid: torch.Tensor = self.near(image)
        return grid, self.dropout(torch.relu(self.features(self.dropout(self.far(grid).flatten(1)))))

    def fold(self) -> None:
        """Make each normalisation part of its convolution. In evaluation mode, after training."""
        for part in (*self.near, self.far):
            part[0], part[1] = fuse_conv_bn_eval(part[0], part[1]), nn.Identity()
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class Pair(NamedTuple):
    """encoder(image [N, 1, 32, 32]) -> constants, h, c; decoder(token [N], constants, h, c) -> scores [N, V], ..., hn, cn."""

    icons: Icons
    encoder: nn.Module
    decoder: nn.Module

    @property
    def held(self) -> torch.Tensor:
        """The held-out images."""
        return self.icons.images[torch.from_numpy(self.icons.held)]

    def greedy(self) -> Array:
        """[held, STEPS]: the likeliest word each time, for all held-out images at once; ends behind the first."""
        end = self.icons.words.index[END]
        with torch.no_grad():
            *constant, h, c = self.encoder(self.held)
            token, found = torch.full((len(h),), end), []
            for _ in range(STEPS):
                scores, *_, h, c = self.decoder(token, *constant, h, c)
                token = scores.argmax(1)
                found.append(token)
        tokens = torch.stack(found, 1).numpy()
        return np.where(np.cumsum(tokens == end, axis=1) > 0, end, tokens)

    def engine(self, image: Array) -> tuple[decoding.Step, Any]:
        """PyTorch, an image and a word at a time."""
        *constant, h, c = self.encoder(torch.from_numpy(image[None, None]))

        def step(token: int, state: Any) -> tuple[Array, Any]:
            scores, *_, h, c = self.decoder(torch.tensor([token]), *constant, *state)
            return scores.numpy(), (h, c)

        return step, (h, c)


def export(run: Run, pair: Pair, constants: Sequence[str], shown: Sequence[str]) -> tuple[Path, Path]:
    """NAME_encoder.onnx, an image to what its name is made of, and NAME_decoder.onnx, a word a step.

    constants, shown: what the encoder makes besides the first states, and the decoder besides scores and states
    """
    encoder, decoder = (run.path(f"{run.recipe.name}_{part}.onnx") for part in ("encoder", "decoder"))
    made = [*constants, *STATES]
    images = pair.held[:3]
    export_sequence(
        pair.encoder,
        [images],
        encoder,
        input_names=["image"],
        output_names=made,
        dynamic_axes={name: {0: "N"} for name in ("image", *made)},
        metadata=run.metadata(),
        half=True,
    )
    with torch.no_grad():
        seen = pair.encoder(images[:1])
    export_step(
        pair.decoder,
        [torch.ones(1, dtype=torch.int64), *seen],
        decoder,
        input_names=["token", *made],
        output_names=["scores", *shown, *STATES.values()],
        states=STATES,
        metadata=run.metadata(words=pair.icons.words.words),
        half=True,
    )
    return encoder, decoder


Engine = Callable[[Array], tuple[decoding.Step, Any]]
"""an image [32, 32] to the decoder's step, and the state that it starts from"""


def around_onnxruntime(encoder: Path, decoder: Path) -> Engine:
    """onnxruntime, an image and a word at a time."""
    seeing, writing = session(encoder), session(decoder)
    made = [o.name for o in seeing.get_outputs()]
    constant = [i.name for i in writing.get_inputs() if i.name not in ("token", *STATES)]

    def engine(image: Array) -> tuple[decoding.Step, Any]:
        found = dict(zip(made, seeing.run(None, {"image": image[None, None]}), strict=True))
        kept = {name: found[name] for name in constant}

        def step(token: int, state: Any) -> tuple[Array, Any]:
            fed = {"token": np.array([token]), **kept, **dict(zip(STATES, state, strict=True))}
            scores, *after = writing.run(["scores", *STATES.values()], fed)
            return scores, after

        return step, [found[name] for name in STATES]

    return engine


def compare(run: Run, pair: Pair, encoder: Path, decoder: Path) -> None:
    """Both files against onnxruntime; the names of all held-out icons, greedy and by beam search, of three engines."""
    icons, images = pair.icons, pair.held[:, 0].numpy()
    run.check(encoder, {"image": images[:, None]})
    captioner = Captioner(Models(run.output), run.recipe.name)
    seen = [captioner.see(image) for image in images]
    run.check(decoder, _forced(icons, [s.inputs for s in seen[:CHECKED]]))
    searches: dict[str, tuple[Callable[[Any], list[Array]], Callable[..., list[int]]]] = {
        "greedy": (captioner.greedies, decoding.greedy),
        "beam search": (
            lambda seen: [best[0].tokens for best in captioner.beams(seen)],
            partial(decoding.beam, width=WIDTH, length_penalty=0.0),
        ),
    }
    engines: tuple[Engine, Engine] = pair.engine, around_onnxruntime(encoder, decoder)
    for name, (native, search) in searches.items():
        found = [tokens.tolist() for tokens in native(seen)]
        right = icons.exact(padded(found))
        run.figure(f"exact_{name.split()[0]}", right, f"{right:.1%} of {len(found)} held-out names are exact, {name}")
        with torch.no_grad():
            theirs = [[search(*engine(image), captioner.end, captioner.end, STEPS) for image in images] for engine in engines]
        run.agree(f"names by {name}", PyTorch=theirs[0], onnxruntime=theirs[1], tinyrnn=found)


def padded(captions: Sequence[Sequence[int]]) -> Array:
    """[n, STEPS]: ends behind each caption."""
    found = np.zeros((len(captions), STEPS), np.int64)
    for row, tokens in zip(found, captions, strict=True):
        row[: len(tokens)] = tokens
    return found


def _forced(icons: Icons, inputs: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The decoder's inputs word by word for the names of the first held-out icons, one after the other."""
    frames: dict[str, list[Array]] = defaultdict(list)
    for number, constant in zip(icons.held, inputs, strict=False):
        for token in [icons.words.index[END], *icons.words.encode(icons.names[number])]:
            for name, value in {"token": np.array([token]), **constant}.items():
                frames[name].append(value)
    return {name: np.stack(rows) for name, rows in frames.items()}
