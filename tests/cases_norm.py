"""Test cases of operators that normalise over axes of a frame."""

from __future__ import annotations

from collections.abc import Iterator

from op_case import OpCase, case, w, x


def normalizations() -> Iterator[OpCase]:
    yield from _soft()
    yield from _layers()
    yield from _channels()


def _soft() -> Iterator[OpCase]:
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        for size in (1, 3, 16, 17, 40):
            yield case(f"{op} {size}", x(3, size), axis=-1)
        yield case(f"{op} default", x(2, 3, 5), opset=13)
        yield case(f"{op} middle", x(2, 7, 19), axis=1)
        yield case(f"{op} middle of few", x(2, 5, 3), axis=-2)
        yield case(f"{op} first", x(4, 2, 3), axis=0)
        yield case(f"{op} middle of ones", x(2, 7, 1), axis=1)
        yield case(f"{op} far out", x(2, 17, low=-80, high=80))
        yield case(f"{op} old default", x(2, 3, 5), opset=11)
        yield case(f"{op} old last", x(2, 3, 17), opset=11, axis=-1)
        yield case(f"{op} old all", x(2, 3, 3), opset=11, axis=0)
        yield case(f"{op} folded", w(3, 4), axis=0)
    for p in (1, 2):
        yield case(f"LpNormalization {p}", x(3, 19), p=p)
        yield case(f"LpNormalization {p} middle", x(2, 5, 18), p=p, axis=1)
        yield case(f"LpNormalization {p} zero", x(2, 5, low=0, high=0), p=p, axis=1)
    yield case("LpNormalization default", x(2, 3, 4))


def _layers() -> Iterator[OpCase]:
    for size in (1, 3, 16, 17, 40):
        yield case(f"LayerNormalization {size}", x(3, size), w(size), w(size))
    yield case("LayerNormalization no bias", x(2, 3, 19), w(19))
    yield case("LayerNormalization two axes", x(2, 3, 7), w(3, 7), w(3, 7), axis=-2)
    yield case("LayerNormalization epsilon", x(3, 8, low=-0.02, high=0.02), w(8), w(8), epsilon=0.01)
    yield case("LayerNormalization offset", x(3, 17, low=99, high=101), w(17), w(17))
    yield case("LayerNormalization broadcast", x(2, 3, 7), w(7), w(3, 1), axis=1)
    yield case("LayerNormalization of one", x(2, 17), w(1), w(1, 17))
    yield case("LayerNormalization statistics", x(2, 3, 17), w(17), w(17), outputs=3)
    yield case("LayerNormalization by row", x(2, 3, 7), w(3, 7), w(3, 1))
    for size in (1, 17, 40):
        yield case(f"RMSNormalization {size}", x(3, size), w(size), opset=23)
    yield case("RMSNormalization two axes", x(2, 3, 7), w(3, 7), opset=23, axis=1)
    yield case("RMSNormalization by one", x(2, 3, 7), w(1), opset=23, epsilon=0.1)


def _channels() -> Iterator[OpCase]:
    yield case("InstanceNormalization", x(2, 3, 19), w(3), w(3))
    yield case("InstanceNormalization image", x(1, 5, 4, 3), w(5), w(5), epsilon=0.01)
    yield case("GroupNormalization", x(2, 6, 17), w(6), w(6), opset=21, num_groups=3)
    yield case("GroupNormalization image", x(2, 4, 3, 5), w(4), w(4), opset=21, num_groups=1, epsilon=0.01)
    yield case("GroupNormalization per channel", x(1, 4, 18), w(4), w(4), opset=21, num_groups=4)
    for opset in (8, 9, 14, 15):
        yield case(f"BatchNormalization {opset}", x(2, 5, 7), w(5), w(5), w(5), w(5, low=0.1, high=4), opset=opset)
    yield case("BatchNormalization image", x(2, 3, 4, 17), w(3), w(3), w(3), w(3, low=0.1, high=4), epsilon=0.1)
    yield case("BatchNormalization flat", x(4, 17), w(17), w(17), w(17), w(17, low=0.1, high=4), momentum=0.5)
    yield case("MeanVarianceNormalization", x(1, 3, 4, 7))
    yield case("MeanVarianceNormalization batch", x(2, 3, 4, 7))
    yield case("MeanVarianceNormalization channels", x(2, 5, 17), axes=[1])
    yield case("LRN", x(2, 7, 3, 5), size=3)
    yield case("LRN wide", x(1, 5, 2, 17), size=5, alpha=0.5, beta=0.6, bias=1.5)
