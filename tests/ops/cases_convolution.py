"""Test cases of convolutions, pools and resizing: written ones, and random ones of fixed seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.op_case import OpCase, case, f, k, v, w, x

COUNT = 20
"""random cases of each operator"""


def convolutions() -> Iterator[OpCase]:
    yield from _conv()
    yield from _transposed()
    yield from _pools()
    yield from _resizes()
    yield from _samples()
    rng = np.random.default_rng(20)
    for number in range(COUNT):
        yield from _random(rng, number)


def _conv() -> Iterator[OpCase]:
    small: dict[str, Any] = {"low": -1, "high": 1}
    yield case("Conv", x(1, 5, 1), w(17, 5, 1), w(17))
    yield case("Conv no bias", x(1, 5, 1), w(3, 5, 1), kernel_shape=[1], strides=[1], pads=[0, 0])
    yield case("Conv two axes", x(1, 5, 1, 1), w(3, 5, 1, 1), w(3))
    yield case("Conv one position", x(2, 3, 4, 5), w(7, 3, 4, 5), w(7))
    yield case("Conv one padded position", x(1, 3, 1, 2), w(7, 3, 3, 4), w(7), pads=[1, 1, 1, 1])
    yield case("Conv part of the input", x(1, 3, 7), w(18, 3, 3), strides=[5])
    yield case("Conv pointwise", x(1, 5, 3, 33), w(17, 5, 1, 1), w(17))
    yield case("Conv strided pointwise", x(2, 5, 7, 33), w(4, 5, 1, 1), strides=[2, 3])
    yield case("Conv 3x3", x(1, 3, 9, 20, **small), w(17, 3, 3, 3, **small), w(17), pads=[1, 1, 1, 1])
    yield case("Conv few positions", x(1, 19, 5, **small), w(70, 19, 3, **small), w(70), pads=[1, 1])
    yield case("Conv short runs", x(1, 5, 8, 8, **small), w(13, 5, 3, 3, **small), w(13), pads=[1, 1, 1, 1])
    yield case("Conv few positions, groups", x(1, 6, 7), w(34, 3, 2), w(34), group=2)
    yield case("Conv strides and dilations", x(2, 4, 15, 37), w(6, 2, 3, 4), w(6), group=2, strides=[2, 3], dilations=[3, 2])
    yield case("Conv depthwise", x(1, 19, 5, 33), w(19, 1, 3, 3), w(19), group=19, pads=[0, 1, 0, 1], dilations=[2, 1])
    yield case("Conv depthwise at one position", x(1, 35, 4), w(35, 1, 4), w(35), group=35)
    yield case("Conv depthwise multiplied", x(1, 3, 40), w(9, 1, 5), group=3, pads=[4, 0])
    yield case("Conv mostly padding", x(1, 2, 1, 3), w(5, 2, 5, 5), w(5), pads=[2, 2, 2, 2])
    yield case("Conv three axes", x(1, 2, 4, 5, 9), w(3, 2, 2, 3, 3), w(3), pads=[0, 1, 1, 1, 0, 2], strides=[1, 2, 2])
    yield case("Conv folded", w(1, 2, 5), w(3, 2, 3))
    for auto in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        yield case(f"Conv {auto}", x(1, 3, 8, 21), w(5, 3, 4, 3), w(5), auto_pad=auto, strides=[3, 2])
        yield case(f"ConvTranspose {auto}", x(1, 3, 4, 9), w(3, 5, 4, 5), w(5), auto_pad=auto, strides=[3, 2])


def _transposed() -> Iterator[OpCase]:
    yield case("ConvTranspose", x(1, 5, 33), w(5, 17, 1), w(17))
    yield case("ConvTranspose strided", x(2, 4, 33), w(4, 8, 5), w(16), strides=[2], pads=[2, 2], group=2)
    yield case("ConvTranspose to few channels", x(1, 16, 3, 9), w(16, 2, 1, 5), w(2), strides=[1, 2], pads=[0, 2, 0, 2])
    yield case("ConvTranspose depthwise", x(1, 7, 5, 19), w(7, 1, 3, 3), w(7), group=7, dilations=[2, 1], pads=[4, 1, 4, 1])
    yield case("ConvTranspose one position", x(1, 6, 1, 1), w(6, 5, 4, 3), w(5), strides=[2, 3], pads=[1, 0, 0, 1])
    yield case("ConvTranspose gaps", x(1, 3, 9), w(3, 4, 2), w(4), strides=[4])
    yield case("ConvTranspose dilated gaps", x(1, 3, 9), w(3, 4, 3), w(4), strides=[2], dilations=[2])
    yield case("ConvTranspose output_padding", x(1, 3, 4, 5), w(3, 4, 3, 3), strides=[3, 2], output_padding=[2, 1])
    yield case("ConvTranspose output_shape", x(1, 3, 4, 5), w(3, 4, 3, 3), w(4), strides=[3, 2], output_shape=[10, 9])
    yield case("ConvTranspose three axes", x(1, 2, 3, 2, 5), w(2, 3, 2, 3, 2), w(3), strides=[2, 1, 2], pads=[1, 0, 0, 0, 1, 1])
    yield case("ConvTranspose folded", w(1, 2, 5), w(2, 3, 3), strides=[2])


def _pools() -> Iterator[OpCase]:
    for op in ("MaxPool", "AveragePool", "LpPool"):
        opset = 19 if op == "AveragePool" else 18
        yield case(f"{op} one axis", x(2, 3, 35), opset=opset, kernel_shape=[3], strides=[2])
        yield case(f"{op} 2x2", x(1, 5, 8, 6), opset=opset, kernel_shape=[2, 2], strides=[2, 2])
        yield case(f"{op} padded", x(1, 3, 9, 20), opset=opset, kernel_shape=[3, 5], pads=[1, 2, 0, 2], strides=[2, 1])
        yield case(f"{op} ceil", x(1, 3, 8, 9), opset=opset, kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 1, 1], ceil_mode=1)
        yield case(f"{op} dilated", x(1, 2, 9, 21), opset=opset, kernel_shape=[3, 3], dilations=[2, 3])
        yield case(f"{op} three axes", x(1, 2, 4, 5, 6), opset=opset, kernel_shape=[2, 3, 2], strides=[2, 1, 2])
        yield case(f"{op} nothing", x(1, 2, 5), opset=opset, kernel_shape=[1])
        yield case(f"{op} SAME_UPPER", x(1, 2, 9, 6), opset=opset, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER")
        yield case(f"{op} SAME_LOWER", x(1, 2, 9, 6), opset=opset, kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_LOWER")
        yield case(f"{op} folded", w(1, 2, 9), opset=opset, kernel_shape=[3])
    yield case("MaxPool negative", x(1, 2, 9, low=-9, high=-1), kernel_shape=[3], pads=[1, 1])
    yield case("MaxPool old", x(1, 2, 9, 9), opset=7, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    yield case("AveragePool count_include_pad", x(1, 2, 9, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    yield case("LpPool 1", x(1, 2, 9), kernel_shape=[3], p=1)
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield case(f"{op} one axis", x(2, 3, 19))
        yield case(f"{op} two axes", x(1, 17, 3, 5))
        yield case(f"{op} folded", w(1, 2, 5))


def _resizes() -> Iterator[OpCase]:
    none = f([])
    for mode in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        for kind in ("nearest", "linear"):
            given: dict[str, Any] = {"mode": kind, "coordinate_transformation_mode": mode}
            scales = [1, 1, 2, 3] if mode == "align_corners" else [1, 1, 2.5, 2]
            yield case(f"Resize {kind} {mode} up", x(1, 3, 4, 9), none, f(scales), opset=13, **given)
            yield case(f"Resize {kind} {mode} sizes", x(1, 2, 8, 9), none, none, k([1, 2, 5, 21]), opset=13, **given)
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        yield case(f"Resize {nearest}", x(1, 2, 5, 7), none, f([1, 1, 2, 0.6]), opset=13, nearest_mode=nearest)
    yield case("Resize half_pixel_symmetric", x(1, 2, 5, 7), none, f([1, 1, 1, 0.6]), opset=19, mode="linear",
               coordinate_transformation_mode="half_pixel_symmetric")  # fmt: skip
    yield case("Resize tf_half_pixel_for_nn", x(1, 2, 5, 7), none, none, k([1, 2, 3, 9]), opset=11,
               coordinate_transformation_mode="tf_half_pixel_for_nn")  # fmt: skip
    yield case("Resize linear one axis", x(2, 3, 19), none, f([1, 1, 1.7]), opset=13, mode="linear")
    yield case("Resize to one", x(1, 2, 5), none, none, k([1, 2, 1]), opset=13, mode="linear",
               coordinate_transformation_mode="pytorch_half_pixel")  # fmt: skip
    for outside in (0, 1):
        yield case(
            f"Resize cubic {outside}", x(1, 2, 5, 7), none, f([1, 1, 2, 0.7]), opset=13, mode="cubic", exclude_outside=outside
        )
    yield case("Resize axes", x(1, 2, 5, 7), None, None, k([10, 7]), opset=18, axes=[2, 3])
    yield case("Resize nothing", x(1, 2, 5), none, f([1, 1, 1]), opset=13)
    yield case("Resize old", x(1, 2, 5, 7), f([1, 1, 2, 3]), opset=10)
    yield case("Resize folded", w(1, 2, 5), none, f([1, 1, 2]), opset=13)
    yield case("Upsample nearest", x(1, 2, 5, 7), f([1, 1, 2, 3]), opset=9)
    yield case("Upsample linear", x(1, 2, 5, 7), f([1, 1, 2, 3]), opset=9, mode="linear")
    yield case("Upsample attribute", x(1, 2, 5, 7), opset=8, scales=[1.0, 1.0, 2.0, 2.0])


def _samples() -> Iterator[OpCase]:
    for corners, (old, new) in enumerate((("nearest", "nearest"), ("bilinear", "linear"), ("bicubic", "cubic")) * 2):
        corners //= 3
        for padding in ("zeros", "border", "reflection"):
            given: dict[str, Any] = {"align_corners": corners, "padding_mode": padding}
            yield case(f"GridSample {old} {padding} {corners}", x(2, 3, 5, 7), x(2, 4, 6, 2), opset=16, mode=old, **given)
            if new != "cubic":
                yield case(f"GridSample {new} {padding} {corners} volume", x(1, 2, 3, 4, 5), x(1, 2, 3, 4, 3), opset=20, mode=new,
                           **given)  # fmt: skip
    yield case("GridSample constant grid", x(1, 2, 5, 7), w(1, 3, 4, 2, low=-1, high=1), opset=16)
    yield case("GridSample of a constant", w(1, 2, 5, 7), x(1, 3, 4, 2), opset=16)
    yield case("GridSample of one element", x(1, 2, 1, 1), x(1, 3, 4, 2), opset=16, padding_mode="border")
    yield case("GridSample far out", x(1, 1, 4, 4), v([[[[1e6, 0], [-1e6, 1e5]]]], "float32"), opset=16, padding_mode="border")
    yield case("GridSample folded", w(1, 2, 5, 7), w(1, 3, 4, 2), opset=16)


def _random(rng: np.random.Generator, number: int) -> Iterator[OpCase]:
    """A convolution, a transposed one and a pool."""

    def some(low: int, high: int, count: int) -> list[int]:
        return [int(n) for n in rng.integers(low, high + 1, count)]

    axes = int(rng.choice([1, 2, 2, 3]))
    group, inner, outer = int(rng.choice([1, 1, 2, 3])), some(1, 5, 1)[0], int(rng.choice([1, 2, 5, 17, 33]))
    if rng.random() < 0.2:
        group, inner, outer = some(2, 20, 1)[0], 1, 1
    kernel, sizes = some(1, 4, axes), some(*{1: (10, 50), 2: (10, 20), 3: (10, 12)}[axes], axes)
    attributes: dict[str, Any] = {"strides": some(1, 3, axes), "group": group}
    auto = str(rng.choice(["NOTSET"] * 3 + ["SAME_UPPER", "SAME_LOWER"]))
    if auto == "NOTSET":
        attributes |= {"pads": some(0, 2, 2 * axes), "dilations": some(1, 3, axes)}
    else:
        attributes["auto_pad"] = auto
    bias = [w(group * outer)] if rng.random() < 0.7 else []
    given = x(int(rng.choice([1, 2])), group * inner, *sizes)
    around = {"low": -1.0, "high": 1.0}
    yield case(f"Conv random {number}", given, w(group * outer, inner, *kernel, **around), *bias, **attributes)
    more = [int(rng.integers(0, s)) for s in attributes["strides"]]
    weights = w(group * inner, outer, *kernel, **around)
    yield case(f"ConvTranspose random {number}", given, weights, *bias, output_padding=more, **attributes)
    del attributes["group"]
    if "pads" in attributes:
        attributes["pads"] = [int(rng.integers(0, n)) if n > 1 else 0 for n in kernel * 2]
    attributes["strides"] = [min(pair) for pair in zip(attributes["strides"], kernel, strict=True)]
    op = ("MaxPool", "AveragePool")[number % 2]
    yield case(f"{op} random {number}", given, opset=19, kernel_shape=kernel, ceil_mode=int(rng.integers(0, 2)), **attributes)
