"""What all recipes share: their command, where data is found, training with progress, figures, checks, the report.

A recipe is a module here with a `Recipe` and a function that takes a `Run`. It goes the same way each time: data,
model, training, weights rounded to half precision, figures on held-out data, export, `tinyrnn check` on held-out
data, and the decisions of PyTorch, onnxruntime and tinyrnn compared on all of it.
"""

from __future__ import annotations

import gzip
import json
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyrnn.check import check
from tinyrnn.errors import TinyRNNError

from .pytorch import round_to_half

Array = np.ndarray[Any, Any]
WARM_UP = 0.02
"""the share of the training in which the learning rate rises"""
CLIP = 1.0
"""the largest norm of the gradient of all parameters together"""
WEIGHT_DECAY = 0.01
CHUNKS = (1, 7, 64)


DAMAGED = (EOFError, UnicodeDecodeError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)
"""what is raised where a data set's file is cut off or is none"""


@dataclass(frozen=True)
class Recipe:
    """What a recipe trains, and on what."""

    name: str
    """of its files, and of the demo that runs them"""
    folder: str
    """of its data set, in the folder of all sets"""
    file: str
    """of the set, by which its folder is known"""
    source: str
    """what the set is, and where it comes from"""
    made: str
    """what it is trained on where there is no data set"""
    license: str
    """of the trained model and of the data, with the attribution that it asks for"""
    epochs: int
    seed: int = 1
    report_every: int = 1
    """epochs between two lines of progress"""


@dataclass
class Run:
    """One run of a recipe: what was asked, and what was found."""

    recipe: Recipe
    data: Path | None
    """the data set's folder; None: make data"""
    output: Path
    epochs: int
    limit: int | None
    """training examples, at most: for a trial"""
    seed: int
    figures: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.process_time)
    trained: float = 0.0
    """processor seconds of training so far: on one thread, what a core of its own would take"""

    def say(self, text: str) -> None:
        click.echo(text)

    def figure(self, name: str, value: float, text: str) -> None:
        """A figure of the report, and the line that tells it."""
        self.figures[name] = value
        self.say(f"  {text}")

    def random(self) -> np.random.Generator:
        """A generator that is the same each time."""
        return np.random.default_rng(self.seed)

    def first(self, items: Any) -> Any:
        """The training examples that are used."""
        return items if self.limit is None else items[: self.limit]

    def metadata(self, **lists: Sequence[str] | str) -> dict[str, str]:
        """The metadata of a file: the licence, and lists of strings as JSON."""
        return {"license": self.recipe.license} | {name: json.dumps(value, ensure_ascii=False) for name, value in lists.items()}

    def path(self, name: str) -> Path:
        return self.output / name

    def fit(
        self,
        model: nn.Module,
        batches: Callable[[np.random.Generator], Sequence[Any]],
        loss: Callable[[Any], torch.Tensor],
        *,
        rate: float,
        epochs: int | None = None,
        heldout: Callable[[], str] | None = None,
        decay: float = WEIGHT_DECAY,
        clip: float = CLIP,
    ) -> float:
        """Train in place: AdamW, the learning rate rising shortly, then falling as half a cosine. The last epoch's mean loss.

        batches  the batches of one epoch, in their order
        loss     of one batch
        rate     the largest learning rate
        epochs   how many, where it is not the number that was asked for
        heldout  called after each epoch, with the model in evaluation mode, for what its line shows
        """
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        random, mean = self.random(), math.nan
        epochs = self.epochs if epochs is None else epochs
        self.say(f"  {sum(p.numel() for p in model.parameters()):,} parameters, {epochs} epochs")
        for epoch in range(epochs):
            began = time.process_time()
            model.train()
            losses = []
            chosen = batches(random)
            for number, batch in enumerate(chosen):
                for group in optimizer.param_groups:
                    group["lr"] = rate * learning_rate((epoch + number / len(chosen)) / epochs)
                value = loss(batch)
                optimizer.zero_grad()
                torch.autograd.backward(value)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                losses.append(value.item())
            model.eval()
            self.trained += time.process_time() - began
            mean = float(np.mean(losses))
            if (epoch + 1) % self.recipe.report_every and epoch + 1 < epochs:
                continue
            shown = "" if heldout is None else f"   held out {heldout()}"
            self.say(f"  epoch {epoch + 1:3d}   loss {mean:.4f}{shown}   {self.trained:5.0f} s")
        model.eval()
        return mean

    def half(self, model: nn.Module, decisions: Callable[[], Array]) -> None:
        """Round the weights to half precision, in which they are stored, and tell how many held-out decisions change."""
        before = decisions()
        round_to_half(model)
        changed = int(np.sum(before != decisions()))
        self.figure("changed_by_half", changed, f"weights rounded to float16: {changed} of {before.size:,} decisions changed")

    def check(self, file: Path, data: Mapping[str, Any], **how: Any) -> None:
        """`tinyrnn check` of a file on data: by frame, in chunks, whole. Raises where it fails."""
        report = check(file, data=data, chunks=CHUNKS, **how)
        if not report.passed:
            raise click.ClickException(f"{file.name} differs from {report.oracle}:\n{report}")
        worst = max(row.difference.absolute for row in report.rows)
        ways = ", ".join(dict.fromkeys(row.way for row in report.rows))
        self.say(f"  tinyrnn check {file.name}: {report.frames:,} frames, within {worst:.1e} of {report.oracle}; passed ({ways})")

    def agree(self, what: str, **decisions: Sequence[Any] | Array) -> None:
        """Compare decisions by engine, one entry each; the first is PyTorch's. Raises where one differs."""
        (first, wanted), *others = decisions.items()
        for engine, found in others:
            wrong = [i for i, (a, b) in enumerate(zip(wanted, found, strict=True)) if not np.array_equal(a, b)]
            if wrong:
                i = wrong[0]
                raise click.ClickException(
                    f"{len(wrong)} of {len(wanted)} {what} differ between {first} and {engine}; the first, number {i}: "
                    f"{wanted[i]!r} and {found[i]!r}"
                )
        self.figures[f"equal_{what.replace(' ', '_')}"] = len(wanted)
        self.say(f"  {len(wanted):,} {what}: the same in {', '.join(decisions)}")

    def finish(self) -> None:
        """Write the report beside the models."""
        seconds = time.process_time() - self.began
        files = {p.name: p.stat().st_size for p in sorted(self.output.glob(f"{self.recipe.name}*.*")) if p.suffix != ".json"}
        report = {
            "recipe": self.recipe.name,
            "data": self.recipe.source if self.data else self.recipe.made,
            "seed": self.seed,
            "epochs": self.epochs,
            **self.figures,
            "training_seconds": round(self.trained, 1),
            "seconds": round(seconds, 1),
            "files": files,
        }
        self.path(f"{self.recipe.name}.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
        self.say("  " + ", ".join(f"{name} {size:,} bytes" for name, size in files.items()))
        self.say(
            f"{self.recipe.name}: {seconds:.0f} s of one core, {self.trained:.0f} of them training; written to {self.output}"
        )


def learning_rate(progress: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: a short linear rise, then half a cosine to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def shuffled(random: np.random.Generator, count: int, size: int) -> list[Array]:
    """Indices of `count` examples in a new order, in batches of `size`."""
    return np.array_split(random.permutation(count), max(-(-count // size), 1))


def bent(images: torch.Tensor, spread: float, moved: float) -> torch.Tensor:
    """Images [N, C, h, w], each under a random affine change: what is around them is zero."""
    change = torch.zeros(len(images), 2, 3)
    change[:, :, :2] = torch.eye(2) + spread * torch.randn(len(images), 2, 2)
    change[:, :, 2] = moved * torch.randn(len(images), 2)
    grid = nn.functional.affine_grid(change, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def folded(layers: nn.Sequential) -> nn.Sequential:
    """The layers with each batch normalization folded into the convolution before it: the same results in evaluation."""
    kept: list[nn.Module] = []
    for layer in layers.eval():
        if isinstance(layer, nn.BatchNorm2d):
            kept.append(fuse_conv_bn_eval(kept.pop(), layer))
        else:
            kept.append(layer)
    return nn.Sequential(*kept)


def session(file: Path) -> Any:
    """An onnxruntime session of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def find_data(recipe: Recipe, folder: Path | None) -> Path | None:
    """The folder of the data set: `folder` itself, or the one of its name in it. Raises where it is neither."""
    if folder is None:
        return None
    for place in (folder, folder / recipe.folder):
        if (place / recipe.file).is_file():
            return place
    raise click.ClickException(
        f"--data {folder}: neither {recipe.file} nor {recipe.folder}/{recipe.file} is there. It is the folder of "
        f"{recipe.source}. Without --data the recipe is trained on {recipe.made}"
    )


def command(recipe: Recipe, train: Callable[[Run], None], help: str) -> click.Command:
    """The command line of a recipe."""

    @click.command(recipe.name, help=help)
    @click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help=f"Holds {recipe.folder}/{recipe.file}, or that file: {recipe.source}. Without it: {recipe.made}.",
    )
    @click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the files go.")
    @click.option("--epochs", type=click.IntRange(1), default=recipe.epochs, show_default=True)
    @click.option("--limit", type=click.IntRange(1), metavar="N", help="Train on the first N examples: a trial.")
    @click.option("--seed", type=click.IntRange(0), default=recipe.seed, show_default=True)
    def main(data: Path | None, output: Path, epochs: int, limit: int | None, seed: int) -> None:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        found = find_data(recipe, data)
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.ClickException(f"--output {output} cannot be made a folder: {error.strerror}") from None
        run = Run(recipe, found, output, epochs, limit, seed)
        run.say(f"{recipe.name}, on {recipe.source if found else recipe.made}")
        if found is None and data is None:
            run.say("  no --data: the data is made here, and the figures say nothing of real data")
        try:
            train(run)
        except TinyRNNError as error:
            raise click.ClickException(str(error)) from None
        except DAMAGED as error:
            raise click.ClickException(f"the data in {found} cannot be read ({type(error).__name__}: {error})") from None
        run.finish()

    return main
