"""One to many, with attention: an icon in, its name out, and for each word where in the image it was read."""

from __future__ import annotations

from tinyrnn.demo import About

ABOUT = About(
    "one to many, with attention",
    "names of icons, and where each word was read",
    "an image of 32 x 32 pixels, 8-bit grey, bright on dark: .png or .npy",
)
