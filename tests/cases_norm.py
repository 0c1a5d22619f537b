"""Test cases of operators that normalise over axes of a frame."""

from __future__ import annotations

from collections.abc import Iterator

from op_case import OpCase, case, w, x


def normalizations() -> Iterator[OpCase]:
    for op in ("Softmax", "LogSoftmax"):
        for size in (1, 3, 16, 17, 40):
            yield case(f"{op} {size}", x(3, size), axis=-1)
        yield case(f"{op} default", x(2, 3, 5), opset=13)
        yield case(f"{op} middle of ones", x(2, 7, 1), axis=1)
        yield case(f"{op} far out", x(2, 17, low=-80, high=80))
        yield case(f"{op} old default", x(2, 3, 5), opset=11)
        yield case(f"{op} old last", x(2, 3, 17), opset=11, axis=-1)
        yield case(f"{op} old all", x(2, 3, 3), opset=11, axis=0)
        yield case(f"{op} folded", w(3, 4), axis=0)
    for size in (1, 3, 16, 17, 40):
        yield case(f"LayerNormalization {size}", x(3, size), w(size), w(size))
    yield case("LayerNormalization no bias", x(2, 3, 19), w(19))
    yield case("LayerNormalization two axes", x(2, 3, 7), w(3, 7), w(3, 7), axis=-2)
    yield case("LayerNormalization epsilon", x(3, 8, low=-0.02, high=0.02), w(8), w(8), epsilon=0.01)
    yield case("LayerNormalization offset", x(3, 17, low=99, high=101), w(17), w(17))
    yield case("LayerNormalization broadcast", x(2, 3, 7), w(7), w(3, 1), axis=1)
    yield case("LayerNormalization of one", x(2, 17), w(1), w(1, 17))
