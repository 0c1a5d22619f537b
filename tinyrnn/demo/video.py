"""Many to many, frame by frame: a letter as it is being written, named in every frame."""

from __future__ import annotations

from tinyrnn.demo import About

ABOUT = About(
    "many to many, frame by frame",
    "letters named while they are being written",
    "a pen's track: .npy or .csv with columns x, y (downwards), seconds and, if the pen was lifted, number of the stroke",
)
