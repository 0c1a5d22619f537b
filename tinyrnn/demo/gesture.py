"""Many to many, per frame: the track of a fingertip in, what it is doing out, at every frame."""

from __future__ import annotations

from tinyrnn.demo import About

ABOUT = About(
    "many to many, per frame",
    "gestures in the track of a fingertip",
    "a track [T, 2] of positions (x, y), y downwards: .csv or .npy",
)
