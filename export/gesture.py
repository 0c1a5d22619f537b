"""Many to many, per frame: gestures in the track of a fingertip, by a GRU.

python -m tinyrnn_export.gesture --data FOLDER -o DIR
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn import load
from tinyrnn.demo.gesture import ASPECT, LABELS, RADIUS, TREMBLE, Watcher, circle, steps
from tinyrnn.graph.arrays import Array

from .pytorch import export_sequence, export_step
from .recipe import Recipe, Run, command, session

RECIPE = Recipe(
    name="gesture",
    folder="finger_gesture",
    file="point_history.csv.gz",
    source="tracks of a fingertip in webcam video (github Kazuhito00/hand-gesture-recognition-using-mediapipe)",
    made="circles, moves and rests drawn by the demo",
    license=(
        "MIT. Trained on point_history.csv of github Kazuhito00/hand-gesture-recognition-using-mediapipe by Kazuhito Takahashi "
        "(Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0), changed: windows put together to tracks."
    ),
    epochs=40,
    report_every=5,
)
HIDDEN, DROPOUT = 48, 0.2
RATE = 6e-3
WINDOW = 16
"""positions in a line of the file"""
MISSED = 2
"""windows lie so many frames apart, at most, where they belong to one track"""
HELD_OUT = 0.2
"""the share of each label's frames, the last ones"""
RUN = 40
"""frames of a held-out run, read from a zero state; every frame counts, the first too"""
LENGTH, TRACKS, BATCH = 96, 512, 32
"""frames of a training track, their number in an epoch, and in a batch"""
SHORTEST, LONGEST = 8, 64
"""frames of the pieces that a training track is joined from, which is how labels come to change"""


@dataclass(frozen=True)
class Track:
    """An unbroken track, positions [T, 2] in fractions of the picture, that does one thing."""

    label: int
    positions: Array


class Gesture(nn.Module):
    """Steps to the logits of the labels at each frame: forward(steps [N, T, 2], h [1, N, H]) -> (logits [N, T, 4], hn)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, HIDDEN, batch_first=True)
        self.drop = nn.Dropout(DROPOUT)
        self.head = nn.Linear(HIDDEN, len(LABELS))

    def forward(self, steps: torch.Tensor, h: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        y, hn = self.rnn(steps, h)
        return self.head(self.drop(y)), hn


def read(run: Run) -> list[Track]:
    """Unbroken tracks."""
    if run.data is None:
        return drawn(run.random(), 24)
    text = gzip.decompress((run.data / RECIPE.file).read_bytes()).decode()
    table = np.loadtxt(io.StringIO(text), delimiter=",")
    return put_together(table[:, 0].astype(int), table[:, 1:].reshape(len(table), -1, 2))


def put_together(labels: Array, windows: Array) -> list[Track]:
    """Tracks from windows [n, w, 2], each relative to its first position and most of them the one before, moved on.

    Windows that are one missing apart share all but two positions: they belong to one track, too.
    """
    tracks: list[Track] = []
    for i, (label, window) in enumerate(zip(labels, windows, strict=True)):
        moved = next(
            (k for k in range(1, MISSED + 1) if i and label == labels[i - 1] and _continues(windows[i - 1], window, k)), 0
        )
        if moved:
            before = tracks[-1].positions
            more = before[-1] + window[-moved:] - window[-moved - 1]
            tracks[-1] = Track(int(label), np.concatenate([before, more]))
        else:
            tracks.append(Track(int(label), window))
    return tracks


def _continues(before: Array, after: Array, moved: int) -> bool:
    return bool(np.allclose(np.diff(before[moved:], axis=0), np.diff(after[:-moved], axis=0), rtol=0, atol=1e-6))


def drawn(random: np.random.Generator, each: int) -> list[Track]:
    """Tracks of 100 frames, `each` of every label."""
    tracks = []
    for label, name in enumerate(LABELS):
        for _ in range(each):
            moved = np.zeros((100, 2))
            if name == "move":
                moved = np.repeat(random.normal(0, RADIUS / 4, (10, 2)), 10, axis=0)
            elif name != "stop":
                moved = circle(100, random.uniform(12, 24), name == "clockwise", random.random()) * random.uniform(0.6, 1.6)
            track = np.cumsum(moved, axis=0) + random.normal(0, TREMBLE, moved.shape)
            tracks.append(Track(label, track / (ASPECT, 1)))
    return tracks


def split(tracks: Sequence[Track]) -> tuple[list[Track], list[Track]]:
    """The first frames of each label, to train on, and the last, held out in runs: no frame is on both sides."""
    ours: list[Track] = []
    held: list[Track] = []
    for label in range(len(LABELS)):
        same = [track for track in tracks if track.label == label]
        left = round((1 - HELD_OUT) * sum(len(track.positions) for track in same))
        for track in same:
            cut = min(left, len(track.positions))
            left -= cut
            ours += [Track(label, track.positions[:cut])] if cut > 1 else []
            rest = track.positions[cut:]
            held += [Track(label, rest[start : start + RUN]) for start in range(0, len(rest), RUN)]
    return ours, held


def changed(track: Track, random: np.random.Generator) -> Track:
    """A piece of a track, faster or slower, larger or smaller, turned, and mirrored or backwards half of the time."""
    speed = random.uniform(0.75, 1.33)
    frames = min(int(random.integers(SHORTEST, LONGEST + 1)), int((len(track.positions) - 1) / speed))
    start = random.uniform(0, len(track.positions) - 1 - frames * speed)
    at = start + speed * np.arange(frames + 1)
    known = np.arange(len(track.positions))
    piece = np.stack([np.interp(at, known, axis) for axis in track.positions.T], axis=1) * (ASPECT, 1)
    label = track.label
    other = {1: 2, 2: 1}.get(label, label)
    if random.random() < 0.5:
        piece, label = piece * (-1, 1), other
        other = track.label
    if random.random() < 0.5:
        piece, label = piece[::-1], other
    angle = random.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Track(label, piece @ (turn * random.uniform(0.75, 1.33)) / (ASPECT, 1))


def joined(tracks: Sequence[Track], random: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Steps [N, T, 2] and labels [N, T] of an epoch's batches: each track goes on to do something else."""
    weights = [1 / sum(len(t.positions) for t in tracks if t.label == track.label) * len(track.positions) for track in tracks]
    chances = np.array(weights) / sum(weights)
    for _ in range(TRACKS // BATCH):
        x, y = np.zeros((BATCH, LENGTH, 2), np.float32), np.zeros((BATCH, LENGTH), np.int64)
        for row, labels in zip(x, y, strict=True):
            at = 0
            while at < LENGTH:
                piece = changed(tracks[random.choice(len(tracks), p=chances)], random)
                # the first frame of a track has no step; later pieces begin with one
                moved = steps(piece.positions)[0 if at == 0 else 1 :][: LENGTH - at]
                row[at : at + len(moved)], labels[at : at + len(moved)] = moved, piece.label
                at += len(moved)
        yield torch.from_numpy(x), torch.from_numpy(y)


def train(run: Run) -> None:
    """Train, export, and compare."""
    ours, held = split(read(run))
    ours = run.first(ours)
    wanted = np.concatenate([np.full(len(track.positions), track.label) for track in held])
    frame = np.concatenate([np.arange(len(track.positions)) for track in held])
    run.say(f"  {sum(len(t.positions) for t in ours):,} frames to train on, {len(wanted):,} in {len(held)} runs held out")
    model = Gesture()

    def decisions() -> Array:
        with torch.no_grad():
            found = [model(torch.from_numpy(steps(track.positions))[None])[0][0].argmax(1) for track in held]
        labels: Array = torch.cat(found).numpy()
        return labels

    def right(after: int = 0) -> float:
        return float(np.mean((decisions() == wanted)[frame >= after]))

    run.fit(
        model,
        lambda random: list(joined(ours, random)),
        lambda batch: F.cross_entropy(model(batch[0])[0].flatten(0, 1), batch[1].flatten()),
        rate=RATE,
        heldout=lambda: f"{right():.1%}",
    )
    run.half(model, decisions)
    run.figure("accuracy", right(), f"{right():.1%} of {len(wanted):,} held-out frames are right, of runs of {RUN} frames")
    run.figure("accuracy_after_window", right(WINDOW), f"{right(WINDOW):.1%} of those with {WINDOW} frames before them")
    for label, name in enumerate(LABELS):
        share = float(np.mean(decisions()[wanted == label] == label))
        run.figure(f"accuracy_{name}", share, f"{share:.1%} of {name}")
    export(run, model, held, decisions())


def export(run: Run, model: Gesture, held: Sequence[Track], wanted: Array) -> None:
    """gesture.onnx, its state explicit, and gesture_sequence.onnx, which starts from zero."""
    step, sequence = run.path("gesture.onnx"), run.path("gesture_sequence.onnx")
    metadata = run.metadata(labels=LABELS)
    full = np.stack([steps(track.positions) for track in held if len(track.positions) == RUN])
    export_step(
        model,
        [torch.from_numpy(full[:1]), torch.zeros(1, 1, HIDDEN)],
        step,
        input_names=["steps", "h"],
        output_names=["logits", "hn"],
        states={"h": "hn"},
        dynamic_axes={"steps": {1: "T"}, "logits": {1: "T"}},
        metadata=metadata,
        half=True,
    )
    export_sequence(
        model,
        [torch.from_numpy(full[:2])],
        sequence,
        input_names=["steps"],
        output_names=["logits", "hn"],
        dynamic_axes={"steps": {0: "N", 1: "T"}, "logits": {0: "N", 1: "T"}, "hn": {1: "N"}},
        metadata=metadata,
        half=True,
    )
    run.check(step, {"steps": np.concatenate([steps(track.positions) for track in held])})
    run.check(sequence, {"steps": full})
    engine, zero = session(step), np.zeros((1, 1, HIDDEN), np.float32)
    watcher = Watcher(load(step))
    run.agree(
        "labels of frames",
        PyTorch=wanted,
        onnxruntime=np.concatenate(
            [engine.run(["logits"], {"steps": steps(t.positions)[None], "h": zero})[0][0].argmax(1) for t in held]
        ),
        tinyrnn=np.concatenate([watcher.shares(track.positions).argmax(1) for track in held]),
    )


main = command(RECIPE, train, "Train a GRU on the tracks of a fingertip and export it.")

if __name__ == "__main__":
    main()
