"""One to many: an icon's features in, words out until the end of its name."""

from __future__ import annotations

from tinyrnn.demo import About

ABOUT = About("one to many", "names of icons, in words", "an image of 32 x 32 pixels, 8-bit grey, bright on dark: .png or .npy")
