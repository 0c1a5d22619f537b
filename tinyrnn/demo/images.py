"""Small images from files, and onto the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyrnn.data.files import read_array
from tinyrnn.errors import LoadError, ShapeError, TinyRNNError
from tinyrnn.graph.arrays import Array

SHADES = " ░▒▓█"
DOTS = ((0, 3), (1, 4), (2, 5), (6, 7))
"""bits of a Braille character's dots, by row and column"""


def read_image(path: Path, height: int, width: int, channels: int) -> Array:
    """An image, uint8 [height, width] where channels is 1, else [height, width, 3]: .npy, or what Pillow reads.

    Raises `LoadError` for a file that is no image, `ShapeError` for another size or mode, `TinyRNNError` without Pillow.
    """
    wanted = f"{width} x {height} pixels, {'8-bit grey' if channels == 1 else '8-bit RGB'}"
    shape = (height, width) if channels == 1 else (height, width, channels)
    advice = (
        f"convert it, as with ImageMagick: convert {path.name} -resize {width}x{height}! "
        f"{'-colorspace gray' if channels == 1 else '-background white -flatten -type TrueColor'} -depth 8 small.png"
    )
    if path.suffix.lower() == ".npy":
        array = read_array(path)
        if array.shape != shape or array.dtype != np.uint8:
            raise ShapeError(f"{path}: {array.dtype}{list(array.shape)}; the model takes {wanted}: uint8{list(shape)}")
        return array
    if not path.is_file():
        raise LoadError(f"{path}: {'a folder, not an image' if path.is_dir() else 'no such file'}")
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise TinyRNNError(f"{path}: reading images needs Pillow: pip install tinyrnn[plot]; .npy files need nothing") from None
    try:
        with Image.open(path) as image:
            if image.size != (width, height) or image.mode != ("L" if channels == 1 else "RGB"):
                raise ShapeError(
                    f"{path}: {image.size[0]} x {image.size[1]} pixels of mode {image.mode}; the model takes {wanted}; {advice}"
                )
            return np.asarray(image, np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ShapeError):
            raise
        raise LoadError(f"{path}: cannot be read as an image ({error})") from None


def as_text(image: Array) -> list[str]:
    """Lines of a grey image, uint8 or float from 0 to 1: two characters a pixel, darker ones for larger values."""
    level = image.astype(np.float64) / (255 if image.dtype.kind == "u" else 1)
    shades = np.clip((level * len(SHADES)).astype(int), 0, len(SHADES) - 1)
    return ["".join(2 * SHADES[s] for s in row).rstrip() for row in shades]


def as_dots(image: Array) -> list[str]:
    """Lines of a grey image, float from 0 to 1, as Braille characters of 2 x 4 pixels: a dot where it is above a half."""
    height, width = (-(-image.shape[0] // 4) * 4, -(-image.shape[1] // 2) * 2)
    dark = np.zeros((height, width), np.int64)
    dark[: image.shape[0], : image.shape[1]] = image > 0.5
    cells = dark.reshape(height // 4, 4, width // 2, 2).transpose(0, 2, 1, 3)
    codes = (cells << np.array(DOTS)).sum(axis=(2, 3))
    return ["".join(chr(0x2800 + code) for code in row) for row in codes]
