"""Many to many, per frame: letters named while they are being written, by a CNN and an LSTM.

python -m tinyrnn_export.video --data FOLDER -o DIR

First the CNN alone learns from single frames, with batch normalization, which is then folded into its convolutions;
then all of it learns from replays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyrnn import load
from tinyrnn.demo.replay import FRAMES, MOMENTS, SIZE, Array, Ink, Track, inked, replay, replayed
from tinyrnn.demo.video import DRAWN, Watcher, fitted, written

from .pytorch import export_sequence, export_step
from .recipe import Recipe, Run, command, session, shuffled

RECIPE = Recipe(
    name="video",
    folder="omniglot_strokes",
    file="strokes_small1.npz",
    source="pen tracks of 136 letters by 20 writers, of Omniglot (B. Lake), replayed",
    made="letters drawn by the demo, replayed",
    license="MIT. Trained on pen tracks of Omniglot (GitHub: brendenlake/omniglot, MIT, (c) 2015 Brenden Lake).",
    epochs=30,
    report_every=5,
)
GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
CHANNELS = (16, 32, 64)
"""of the convolutions, each of which halves the sides"""
FEATURES, HIDDEN = 128, 128
DROPOUT, SMOOTHING = 0.2, 0.05
HELD_OUT = 16
"""the first of the writers that are held out"""
ALONE = 3
"""epochs of the CNN alone for each one of all together"""
FRAMES_ALONE, FRAMES_TOGETHER = 2, 8
"""of each letter in an epoch: frames differ little, and letters anew are worth more"""
RATE_ALONE, RATE_TOGETHER = 3e-3, 1e-3
BATCH_ALONE, BATCH = 64, 32
CHECKED = 24
"""letters in `tinyrnn check`"""
BENT, MOVED, APART = 0.12, 0.04, 0.02
"""spread of random affine changes of a track, of its place, and of its strokes' places"""
HURRY, FLOW = 0.15, 0.15
"""spread of the logarithms of how time bends, and of the flow of ink"""


class Letters(NamedTuple):
    """Tracks, their labels, and who wrote them."""

    tracks: list[Track]
    labels: Array
    writers: Array
    names: list[str]


class Ways(NamedTuple):
    """The ink of several letters, one after the other."""

    ink: Ink
    starts: Array
    """[letters + 1]"""

    def of(self, letters: Array) -> tuple[Ink, Array]:
        """The ink of some letters, and to which of them each point belongs."""
        counts = self.starts[letters + 1] - self.starts[letters]
        number = np.repeat(np.arange(len(letters)), counts)
        at = np.arange(len(number)) + np.repeat(self.starts[letters] - (np.cumsum(counts) - counts), counts)
        return Ink(*(part[at] for part in self.ink)), number


class Video(nn.Module):
    """forward(frames [N, T, 28, 28], (h, c) each [1, N, H]) -> (logits [N, T, labels], (hn, cn))."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side = SIZE
        for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            side = -(-side // 2)
        self.convolutions = nn.Sequential(*layers)
        self.features = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(CHANNELS[-1] * side**2, FEATURES), nn.ReLU())
        self.dropout = nn.Dropout(DROPOUT)
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.from_frame, self.from_state = nn.Linear(FEATURES, labels), nn.Linear(HIDDEN, labels)

    def see(self, frames: torch.Tensor) -> torch.Tensor:
        """[N, T, features] of each frame alone."""
        count, steps = frames.shape[:2]
        seen: torch.Tensor = self.features(self.convolutions(frames.reshape(-1, 1, SIZE, SIZE)).flatten(1))
        return self.dropout(seen).view(count, steps, FEATURES)

    def forward(
        self, frames: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        seen = self.see(frames)
        y, state = self.lstm(seen, state)
        return self.from_frame(seen) + self.from_state(self.dropout(y)), state

    def fold(self) -> None:
        """Batch normalization into the convolutions before it: the same results in evaluation."""
        self.eval()
        layers = list(self.convolutions)
        folded: list[nn.Module] = []
        for convolution, normalization, activation in zip(layers[::3], layers[1::3], layers[2::3], strict=True):
            folded += [fuse_conv_bn_eval(convolution, normalization), activation]
        self.convolutions = nn.Sequential(*folded)


class Whole(nn.Module):
    """Frames [N, T, 28, 28] to logits [N, T, labels], from a zero state."""

    def __init__(self, model: Video) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(frames)[0]
        return logits


class Step(nn.Module):
    """One frame [1, 28, 28] and the state (h, c), each [1, 1, H], to logits [1, labels] and the next state."""

    def __init__(self, model: Video) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, (hn, cn) = self.model(frame[:, None], (h, c))
        return logits[:, 0], hn, cn


def read(run: Run) -> Letters:
    """All letters."""
    if run.data is None:
        return made(run.random(), 20)
    data = np.load(run.data / RECIPE.file)
    points = np.stack([data["x10"], data["y10"]], axis=1) / (10 * 105)
    seconds, cuts = data["t_ms"] / 1000, data["start"][1:-1]
    parts = zip(np.split(points, cuts), np.split(seconds, cuts), np.split(data["stroke"], cuts), strict=True)
    names = [named(name) for name in data["names"]]
    return Letters([Track(*part) for part in parts], data["cls"].astype(np.int64), data["drawer"], names)


def named(name: str) -> str:
    """A letter, where its alphabet is in order and everybody can read it; else what the data set calls it, shorter."""
    alphabet, number = name.split("/character")
    if alphabet in ("Latin", "Greek"):
        return ("abcdefghijklmnopqrstuvwxyz" if alphabet == "Latin" else GREEK)[int(number) - 1]
    return f"{alphabet.split('_')[-1]} {int(number)}"


def made(random: np.random.Generator, writers: int) -> Letters:
    """The demo's letters, as so many writers would write them."""
    tracks, labels, who = [], [], []
    for label, strokes in enumerate(DRAWN.values()):
        for writer in range(writers):
            track = written(strokes)
            bend = np.eye(2) + random.normal(0, 0.12, (2, 2))
            points = fitted(track.points @ bend) + random.normal(0, 0.01, track.points.shape)
            tracks.append(track._replace(points=points, seconds=track.seconds * random.uniform(0.6, 1.6)))
            labels.append(label)
            who.append(writer + 1)
    return Letters(tracks, np.array(labels), np.array(who), list(DRAWN))


def ways(tracks: Sequence[Track]) -> Ways:
    ink = [inked(track) for track in tracks]
    return Ways(
        Ink(*(np.concatenate(part) for part in zip(*ink, strict=True))), np.cumsum([0, *(len(i.points) for i in ink)])
    )


def varied(ink: Ink, number: Array, ends: Array, random: np.random.Generator) -> Array:
    """Frames [letters, frames, 28, 28] at `ends` of letters, each bent, moved and written a little otherwise."""
    count, most = len(ends), int(ink.strokes.max()) + 1
    bend = np.eye(2) + BENT * random.standard_normal((count, 2, 2))
    shift = 0.5 + MOVED * random.standard_normal((count, 2))
    apart = APART * random.standard_normal((count * most, 2))
    points = np.einsum("ni,nij->nj", ink.points - 0.5, bend[number]) + shift[number] + apart[number * most + ink.strokes]
    moments = ink.moments ** np.exp(HURRY * random.standard_normal(count))[number]
    return replay(points, moments, number, ends, float(np.exp(FLOW * random.standard_normal())))


def late(count: int, random: np.random.Generator) -> Array:
    """Moments of frames to learn from alone, [count, 2]: late ones more often, early ones could be any letter's."""
    from_the_end = FRAMES * 0.9 * random.random((count, FRAMES_ALONE)) ** 2
    return np.sort(MOMENTS[FRAMES - 1 - from_the_end.astype(np.int64)], axis=1)


def some(count: int, random: np.random.Generator) -> Array:
    """Moments of frames to learn from together, [count, 8]."""
    return MOMENTS[np.sort(np.argsort(random.random((count, FRAMES)), axis=1)[:, :FRAMES_TOGETHER], axis=1)]


def train(run: Run) -> None:
    """Train, export, and compare."""
    letters = read(run)
    ours = run.first(np.flatnonzero(letters.writers < HELD_OUT))
    others = np.flatnonzero(letters.writers >= HELD_OUT)
    held = torch.from_numpy(replayed([letters.tracks[i] for i in others]))
    wanted = letters.labels[others][:, None]
    ink, labels = ways([letters.tracks[i] for i in ours]), torch.from_numpy(letters.labels[ours])
    random = run.random()
    model = Video(len(letters.names))

    def decisions() -> Array:
        with torch.no_grad():
            found: Array = torch.cat([model(part)[0] for part in held.split(BATCH)]).argmax(2).numpy()
        return found

    def right(found: Array) -> str:
        return f"{np.mean(found == wanted):.1%} of frames, {np.mean(found[:, -1:] == wanted):.1%} at the end"

    def loss(batch: Array, ends: Array, forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        logits = forward(torch.from_numpy(varied(*ink.of(batch), ends, random)))
        answers = labels[batch][:, None].expand(logits.shape[:2])
        return F.cross_entropy(logits.flatten(0, 1), answers.flatten(), label_smoothing=SMOOTHING)

    run.say("  the CNN alone")
    run.fit(
        model,
        lambda random: shuffled(random, len(ours), BATCH_ALONE),
        lambda batch: loss(batch, late(len(batch), random), lambda video: model.from_frame(model.see(video))),
        rate=RATE_ALONE,
        epochs=ALONE * run.epochs,
    )
    model.fold()
    run.say("  the CNN and the LSTM")
    run.fit(
        model,
        lambda random: shuffled(random, len(ours), BATCH),
        lambda batch: loss(batch, some(len(batch), random), lambda video: model(video)[0]),
        rate=RATE_TOGETHER,
        heldout=lambda: right(decisions()),
    )
    run.half(model, decisions)
    found = decisions()
    run.figure("accuracy", float(np.mean(found == wanted)), f"{right(found)}, of {len(wanted)} held-out letters")
    run.figures["accuracy_at_the_end"] = float(np.mean(found[:, -1:] == wanted))
    export(run, model, held, found, letters.names)


def export(run: Run, model: Video, held: torch.Tensor, wanted: Array, names: list[str]) -> None:
    """video.onnx, which starts from zero, and video_step.onnx, one frame a call and its state explicit."""
    whole, step = run.path("video.onnx"), run.path("video_step.onnx")
    metadata = run.metadata(labels=names)
    export_sequence(
        Whole(model),
        [held[:3]],
        whole,
        input_names=["frames"],
        output_names=["logits"],
        dynamic_axes={"frames": {0: "N", 1: "T"}, "logits": {0: "N", 1: "T"}},
        metadata=metadata,
        half=True,
    )
    zero = torch.zeros(1, 1, HIDDEN)
    export_step(
        Step(model),
        [held[0, :1], zero, zero],
        step,
        input_names=["frame", "h", "c"],
        output_names=["logits", "hn", "cn"],
        states={"h": "hn", "c": "cn"},
        metadata=metadata,
        half=True,
    )
    videos = held.numpy()
    run.check(whole, {"frames": videos[:CHECKED]})
    run.check(step, {"frame": videos[:CHECKED].reshape(-1, SIZE, SIZE)})
    engine, watcher = session(whole), Watcher(load(whole))
    scores = [engine.run(None, {"frames": part})[0] for part in np.array_split(videos, 20)]
    run.agree(
        "letters of frames",
        PyTorch=wanted.ravel(),
        onnxruntime=np.concatenate(scores).argmax(2).ravel(),
        tinyrnn=np.concatenate([watcher.scores(video).argmax(1) for video in videos]),
    )
    stream = load(step).stream()

    def by_step(video: Array) -> Array:
        stream.reset()
        return np.array([stream.step(frame).argmax() for frame in video])

    run.agree("letters of frames, by step", PyTorch=wanted.ravel(), tinyrnn=np.concatenate([by_step(video) for video in videos]))


main = command(RECIPE, train, "Train a CNN and an LSTM to name letters while they are being written and export them.")

if __name__ == "__main__":
    main()
