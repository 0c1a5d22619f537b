"""One to one: handwritten digits by a multilayer perceptron.

python -m tinyrnn_export.digits --data FOLDER -o DIR
"""

from __future__ import annotations

import gzip
import io

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn import load
from tinyrnn.demo.digits import BRIGHTEST, DRAWN, PEN, SIZE, scaled
from tinyrnn.demo.drawing import ink
from tinyrnn.graph.arrays import Array

from .pytorch import export_sequence
from .recipe import Recipe, Run, bent, command, session, shuffled

RECIPE = Recipe(
    name="digits",
    folder="sklearn_digits",
    file="digits.csv.gz",
    source="1,797 handwritten digits of 8 x 8 pixels (UCI's Optical Recognition of Handwritten Digits, from scikit-learn)",
    made="scikit-learn's digits where it is installed, else digits drawn from strokes",
    license="MIT. Trained on the digits that scikit-learn ships (BSD-3-Clause; UCI, E. Alpaydin and C. Kaynak, CC BY 4.0).",
    epochs=240,
    report_every=20,
)
HIDDEN = 128
BATCH = 32
HELD_OUT = 360
"""the last of the set, by other writers than the first: a split at random would have each writer on both sides"""
BENT, MOVED = 0.1, 0.15
"""spread of the random affine changes of training images, in half widths of the image"""


class Digits(nn.Module):
    """Images to the logits of their classes: forward(x [N, 64]) -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(SIZE * SIZE, HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def read(run: Run) -> tuple[Array, Array]:
    """Images [n, 8, 8] with pixels from 0 to 16, and their classes [n]."""
    if run.data is not None:
        text = gzip.decompress((run.data / RECIPE.file).read_bytes()).decode()
        table = np.loadtxt(io.StringIO(text), delimiter=",")
        return table[:, :-1].reshape(-1, SIZE, SIZE), table[:, -1].astype(np.int64)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return drawn(run.random(), 1800)
    found = load_digits()
    return found.images, found.target


def drawn(random: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Digits from strokes, each moved, slanted and scaled a little."""
    classes = random.integers(0, 10, count)
    images = []
    for digit in classes:
        turn = np.eye(2) + random.normal(0, 0.12, (2, 2))
        shift = 0.5 + random.normal(0, 0.03, 2)
        strokes = [(np.asarray(s) - 0.5) @ turn + shift for s in DRAWN[digit]]
        images.append(ink(strokes, SIZE, PEN * random.uniform(0.8, 1.2)) * BRIGHTEST)
    return np.stack(images), classes


def train(run: Run) -> None:
    """Train, export, and compare."""
    images, classes = read(run)
    x, y = torch.from_numpy(scaled(images)), torch.from_numpy(classes)
    held_x, held_y = x[-HELD_OUT:], y[-HELD_OUT:]
    x, y = run.first(x[:-HELD_OUT]), run.first(y[:-HELD_OUT])
    model = Digits()

    def decisions() -> Array:
        with torch.no_grad():
            found: Array = model(held_x).argmax(1).numpy()
        return found

    def right() -> float:
        return float(np.mean(decisions() == held_y.numpy()))

    run.fit(
        model,
        lambda random: shuffled(random, len(x), BATCH),
        lambda batch: F.cross_entropy(model(bent(x[batch].view(-1, 1, SIZE, SIZE), BENT, MOVED).flatten(1)), y[batch]),
        rate=3e-3,
        heldout=lambda: f"{right():.1%}",
    )
    run.half(model, decisions)
    run.figure("accuracy", right(), f"{right():.1%} of {len(held_y)} held-out digits are right")
    file = run.path("digits.onnx")
    axes = {"image": {0: "N"}, "logits": {0: "N"}}
    export_sequence(
        model,
        [x[:3]],
        file,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes=axes,
        metadata=run.metadata(),
        half=True,
    )
    held = held_x.numpy()
    run.check(file, {"image": held})
    run.agree(
        "classes",
        PyTorch=decisions(),
        onnxruntime=session(file).run(None, {"image": held})[0].argmax(1),
        tinyrnn=load(file).run(held).argmax(1),
    )


main = command(RECIPE, train, "Train a multilayer perceptron on handwritten digits and export it.")

if __name__ == "__main__":
    main()
