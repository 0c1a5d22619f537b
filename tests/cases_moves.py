"""Test cases of operators that multiply matrices or move elements."""

from __future__ import annotations

from collections.abc import Iterator

from op_case import OpCase, case, w, x


def products() -> Iterator[OpCase]:
    yield case("MatMul run time", x(5, 7), x(7, 19))
    yield case("MatMul run time wide", x(6, 17), x(17, 131))
    yield case("MatMul run time column", x(33, 7), x(7, 1))
    yield case("MatMul run time tall", x(70, 7), x(7, 3))
    yield case("MatMul batch", x(2, 3, 5), x(2, 5, 17))
    yield case("MatMul two batches", x(2, 3, 4, 5), x(2, 3, 5, 7))
    yield case("MatMul batch broadcast", x(2, 1, 4, 5), x(3, 5, 7))
    yield case("MatMul batch broadcast left", x(4, 5), x(3, 1, 5, 18))
    yield case("MatMul vectors", x(19), x(19))
    yield case("MatMul vector left", x(5), x(2, 5, 7))
    yield case("MatMul vector right", x(2, 5, 7), x(7))
    yield case("MatMul of one", x(1, 1), x(1, 1))
    yield case("MatMul constant left", w(17, 5), x(5, 3))
    yield case("MatMul constant left column", w(17, 5), x(5, 1))
    yield case("MatMul constant left vector", w(17, 5), x(5))
    yield case("MatMul constant left batch", w(2, 17, 5), x(2, 5, 3))
    yield case("MatMul constant left broadcast", w(7, 5), x(3, 2, 5, 4))
    yield case("MatMul constant left many columns", w(3, 5), x(5, 40))
    yield case("MatMul constant right batch", x(2, 3, 5), w(2, 5, 17))
    yield case("MatMul constant right of ones", x(2, 3, 5), w(1, 5, 17))
    yield case("MatMul constant right more axes", x(3, 5), w(1, 5, 17))
    yield case("MatMul constant right vector", x(3, 5), w(5))
    yield case("MatMul constant vector left", w(5), x(2, 5, 17))
    for dtype in ("int32", "int64", "uint32", "float64"):
        yield case(f"MatMul {dtype}", x(2, 3, 5, dtype=dtype, low=0), x(5, 4, dtype=dtype, low=0))
    yield case("Gemm run time", x(3, 5), x(5, 17))
    yield case("Gemm run time bias", x(3, 5), x(5, 17), x(17))
    yield case("Gemm run time all", x(5, 3), x(17, 5), x(3, 1), transA=1, transB=1, alpha=0.5, beta=-2.0)
    yield case("Gemm run time transB", x(3, 5), x(17, 5), w(17), transB=1)
    yield case("Gemm constant right run time bias", x(3, 5), w(5, 17), x(3, 17), beta=0.5)
    yield case("Gemm constant right transA", x(5, 3), w(5, 17), w(17), transA=1)
    yield case("Gemm constant left", w(17, 5), x(5, 3), w(17, 1))
    yield case("Gemm matrix bias", x(3, 5), w(5, 4), w(3, 4))
    for equation, *shapes in EQUATIONS:
        yield case(f"Einsum {equation}", *(x(*shape) for shape in shapes), equation=equation)
    yield case("Einsum constant", x(2, 3, 5), w(5, 17), equation="bti,io->bto")
    yield case("Einsum constant left", w(17, 5), x(2, 5, 3), equation="oi,bit->bto")
    yield case("Einsum constant heads", x(2, 3, 5), w(5, 2, 4), equation="bti,ihd->bhtd")
    yield case("Einsum folded", w(3, 4), w(4, 2), equation="ij,jk")


EQUATIONS: tuple[tuple[object, ...], ...] = (
    ("ij,jk->ik", (3, 5), (5, 17)),
    ("ij,jk", (3, 5), (5, 4)),
    ("bij , bjk -> bik", (2, 3, 5), (2, 5, 4)),
    ("...ij,...jk->...ik", (2, 3, 5), (2, 5, 4)),
    ("...j,jk", (2, 3, 5), (5, 4)),
    ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 7, 5)),
    ("bihd,bjhd->bhij", (2, 4, 3, 5), (2, 7, 3, 5)),
    ("ij->ji", (3, 5)),
    ("ij->j", (3, 5)),
    ("ij->", (3, 5)),
    ("ii->i", (5, 5)),
    ("ii", (5, 5)),
    ("...i->i...", (2, 3, 5)),
    ("i,j->ij", (5,), (19,)),
    ("i,i->i", (19,), (19,)),
    ("i,i->", (19,), (19,)),
    ("bi,bi->b", (4, 19), (4, 19)),
    ("ijk,jil->kl", (2, 3, 5), (3, 2, 4)),
    ("ij,k->ik", (3, 5), (4,)),
    ("iij,jk->ki", (3, 3, 5), (5, 17)),
    ("ij,jk,kl->il", (3, 5), (5, 4), (4, 2)),
    ("abcd,ce->abde", (2, 2, 5, 3), (5, 4)),
)
