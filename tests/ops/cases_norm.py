"""Test cases of operators that normalise over axes of a frame, and of spectra."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ops.op_case import Input, OpCase, case, f, k, w, x


def normalizations() -> Iterator[OpCase]:
    yield from _soft()
    yield from _layers()
    yield from _channels()
    yield from _spectra()


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


def _spectra() -> Iterator[OpCase]:
    for opset, axis in ((17, {"axis": 1}), (20, {})):
        where: tuple[Input | None, ...] = () if axis else (None, k(1))
        yield case(f"DFT {opset}", x(2, 12, 1), *where, opset=opset, **axis)
        yield case(f"DFT {opset} complex", x(1, 9, 2), *where, opset=opset, **axis)
        yield case(f"DFT {opset} onesided", x(2, 17, 1), *where, opset=opset, onesided=1, **axis)
        yield case(f"DFT {opset} inverse", x(2, 16, 2), *where, opset=opset, inverse=1, **axis)
        yield case(f"DFT {opset} padded", x(1, 7, 1), k(12), *where[1:], opset=opset, **axis)
        yield case(f"DFT {opset} cut", x(2, 12, 2), k(8), *where[1:], opset=opset, **axis)
    yield case("DFT default", x(2, 3, 10, 1), opset=20, onesided=1)
    yield case("DFT middle axis", x(2, 8, 5, 1), None, k(1), opset=20)
    yield case("DFT first axis", x(2, 8, 5, 2), k(4), opset=17, axis=1, inverse=1)
    yield case("STFT", x(2, 40, 1, low=-1, high=1), k(5), f([0.05 * n for n in range(1, 13)]), k(12))
    yield case("STFT no window", x(1, 33, 1), k(4), None, k(16))
    yield case("STFT two sides", x(1, 30, 1), k(7), f([1.0, 2.0, 3.0, 2.5, 1.5]), onesided=0)
    yield case("STFT complex", x(1, 30, 2), k(6), f([1.0, 2.0, 3.0, 2.5, 1.5, 0.5, 0.25, 3.0]), onesided=0)
    yield case("STFT rank 2", x(2, 40, low=-1, high=1), k(5), f([0.05 * n for n in range(1, 13)]), k(12))
    yield case("STFT rank 2 no window", x(1, 33), k(4), None, k(16))
    for op in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        yield case(op, k(13))
        yield case(f"{op} symmetric", k(10), periodic=0)
        yield case(f"{op} double", k(7), output_datatype=11)
    yield case("MelWeightMatrix", k(8), k(64), k(16000), f(20.0), f(8000.0))
    yield case("MelWeightMatrix narrow", k(5), k(16), k(8192), f(0.0), f(4096.0), output_datatype=11)
