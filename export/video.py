"""Many to many, per frame: letters named while they are being written, by a CNN and an LSTM.

python -m tinyrnn_export.video --data FOLDER -o DIR

First the CNN alone learns from single frames, with batch normalization, which is then folded into its convolutions;
then all of it learns from replays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn import load
from tinyrnn.demo.replay import FRAMES, RATE, SIZE, Ink, Track, inked, replay, replayed
from tinyrnn.demo.video import DRAWN, Watcher, fitted, written
from tinyrnn.graph.arrays import Array

from .pytorch import export_sequence, export_step
from .recipe import Recipe, Run, command, folded, session, shuffled

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
DROPOUT, SMOOTHING = 0.1, 0.05
HELD_OUT = 16
"""the first of the writers that are held out"""
ALONE = 3
"""epochs of the CNN alone for each one of all together"""
WAY, STAYS = 7, 6
"""frames of a letter on the way, from which all of it learns in an epoch: they differ little, and more letters are worth
more; for how many frames it then stays, which costs no convolution"""
RATE_ALONE, RATE_TOGETHER = 3e-3, 1e-3
BATCH = 32
CHECKED = 24
"""letters in `tinyrnn check`"""
BENT, MOVED, APART, WAVED = 0.14, 0.04, 0.02, 0.03
"""of a track: spread of affine changes, of its place, of its strokes' places; height of a wave that goes over it"""
HURRY, FLOW = 0.15, 0.15
"""spread of the logarithms of how time bends, and of the flow of ink"""


class Letters(NamedTuple):
    """Tracks, their labels, and who wrote them."""

    tracks: list[Track]
    labels: Array
    writers: Array
    names: list[str]


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
        self.features = nn.Sequential(nn.Linear(CHANNELS[-1] * side**2, FEATURES), nn.ReLU())
        self.dropout = nn.Dropout(DROPOUT)
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.from_frame, self.from_state = nn.Linear(FEATURES, labels), nn.Linear(HIDDEN, labels)

    def see(self, frames: torch.Tensor) -> torch.Tensor:
        """[N, T, features] of frames [N, T, 28, 28], each alone."""
        count, steps = frames.shape[:2]
        seen: torch.Tensor = self.features(self.convolutions(frames.reshape(-1, 1, SIZE, SIZE)).flatten(1))
        return self.dropout(seen).view(count, steps, FEATURES)

    def forward(
        self, frames: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        return self.follow(self.see(frames), state)

    def follow(
        self, seen: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """As `forward`, of what `see` gave."""
        y, state = self.lstm(seen, state)
        return self.from_frame(seen) + self.from_state(self.dropout(y)), state


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


def varied(ink: Sequence[Ink], ends: Array, random: np.random.Generator) -> Array:
    """Frames [letters, frames, 28, 28] at `ends` of letters, each bent, moved and written a little otherwise."""
    points, moments, strokes = (np.concatenate(part) for part in list(zip(*ink, strict=True))[:3])
    number = np.repeat(np.arange(len(ink)), [len(i.points) for i in ink])
    count, most = len(ink), int(strokes.max()) + 1
    bend = np.eye(2) + BENT * random.standard_normal((count, 2, 2))
    shift = 0.5 + MOVED * random.standard_normal((count, 2))
    apart = APART * random.standard_normal((count * most, 2))
    waves = 2 * np.pi * random.standard_normal((count, 2, 2)), 2 * np.pi * random.random((count, 2))
    points = np.einsum("ni,nij->nj", points - 0.5, bend[number])
    points += WAVED * np.sin(np.einsum("ni,nij->nj", points, waves[0][number]) + waves[1][number])
    points += shift[number] + apart[number * most + strokes]
    moments = moments ** np.exp(HURRY * random.standard_normal(count))[number]
    return replay(points, moments, number, ends, float(np.exp(FLOW * random.standard_normal())))


def alone(count: int, random: np.random.Generator) -> Array:
    """Moments of the frames from which the CNN learns, [count, 2]: one on the way, rather late, and the end."""
    return np.stack([np.sqrt(random.random(count)), np.ones(count)], axis=1)


def together(count: int, random: np.random.Generator) -> Array:
    """Moments of the frames from which all of it learns, [count, WAY + 1]: some on the way, and the end."""
    return np.concatenate([np.sort(random.random((count, WAY)), axis=1), np.ones((count, 1))], axis=1)


def train(run: Run) -> None:
    """Train, export, and compare."""
    letters = read(run)
    ours = run.first(np.flatnonzero(letters.writers < HELD_OUT))
    others = np.flatnonzero(letters.writers >= HELD_OUT)
    held_ink = [inked(letters.tracks[i]) for i in others]
    held, finished = torch.from_numpy(replayed(held_ink)), np.array([ink.finished for ink in held_ink])
    wanted = letters.labels[others]
    ink, labels = [inked(letters.tracks[i]) for i in ours], torch.from_numpy(letters.labels[ours])
    random = run.random()
    model = Video(len(letters.names))

    def decisions() -> Array:
        with torch.no_grad():
            found: Array = torch.cat([model(part)[0] for part in held.split(BATCH)]).argmax(2).numpy()
        return found

    def right() -> tuple[float, float, float]:
        """The shares of all frames, of those before a letter is finished, and of the first ones when it is."""
        found = decisions() == wanted[:, None]
        return found.mean(), found[np.arange(FRAMES) < finished[:, None]].mean(), found[np.arange(len(found)), finished].mean()

    def loss(logits: torch.Tensor, batch: Array) -> torch.Tensor:
        answers = labels[batch][:, None].expand(logits.shape[:2])
        return F.cross_entropy(logits.flatten(0, 1), answers.flatten(), label_smoothing=SMOOTHING)

    def learn_alone(batch: Array) -> torch.Tensor:
        video = varied([ink[i] for i in batch], alone(len(batch), random), random)
        return loss(model.from_frame(model.see(torch.from_numpy(video))), batch)

    def learn_together(batch: Array) -> torch.Tensor:
        video = varied([ink[i] for i in batch], together(len(batch), random), random)
        seen = model.see(torch.from_numpy(video))
        return loss(model.follow(torch.cat([seen, seen[:, -1:].expand(-1, STAYS, -1)], dim=1))[0], batch)

    run.say(f"  {len(ours):,} letters to train on, {len(others)} held out, {FRAMES} frames of each, {RATE} a second")
    run.say("  the CNN alone, from single frames")
    run.fit(
        model,
        lambda random: shuffled(random, len(ours), BATCH),
        learn_alone,
        rate=RATE_ALONE,
        epochs=ALONE * run.epochs,
    )
    model.convolutions = folded(model.convolutions)
    run.say("  the CNN and the LSTM")
    run.fit(
        model,
        lambda random: shuffled(random, len(ours), BATCH),
        learn_together,
        rate=RATE_TOGETHER,
        heldout=lambda: "{:.1%} of frames, {:.1%} on the way, {:.1%} at the end".format(*right()),
    )
    run.half(model, decisions)
    of_all, on_the_way, at_the_end = right()
    run.figure("accuracy", of_all, f"{of_all:.1%} of the {FRAMES} frames of {len(others)} held-out letters are right")
    run.figure("accuracy_at_the_end", at_the_end, f"{at_the_end:.1%} of the first frames that show the whole letter")
    run.figure("accuracy_on_the_way", on_the_way, f"{on_the_way:.1%} of the {finished.sum():,} frames before it")
    export(run, model, held, decisions(), letters.names)


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
