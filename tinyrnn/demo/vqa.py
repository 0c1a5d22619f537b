"""An image and a question, word by word, to an answer."""

from __future__ import annotations

from tinyrnn.demo import About

ABOUT = About(
    "image and question to answer",
    "questions about a picture of a coloured shape",
    "a question; or IMAGE, or IMAGE?QUESTION, where IMAGE is a .png or .npy of 64 x 64 pixels, 8-bit RGB",
)
