"""Test cases of operators that multiply matrices or move elements."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ops.op_case import MICROSOFT, OPSET, Input, OpCase, case, f, k, v, w, x


def products() -> Iterator[OpCase]:
    yield case("FusedMatMul", x(5, 7), x(7, 19), domain=MICROSOFT)
    yield case("FusedMatMul alpha", x(2, 5, 7), x(7, 19), domain=MICROSOFT, alpha=0.3)
    yield case("FusedMatMul transA", x(2, 7, 5), x(2, 7, 3), domain=MICROSOFT, transA=1, alpha=-2.0)
    yield case("FusedMatMul transB", x(2, 5, 7), x(2, 3, 7), domain=MICROSOFT, transB=1)
    yield case("FusedMatMul constant", x(5, 7), w(19, 7), domain=MICROSOFT, transB=1, alpha=0.5)
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


TYPES = ("float32", "float64", "int64", "int32", "uint8", "int16", "bool")


def _given(dtype: str, *shape: int) -> Input:
    return x(*shape, dtype=dtype, low=0, high=1 if dtype == "bool" else 9)


def lookups() -> Iterator[OpCase]:
    for dtype in TYPES:
        given = _given(dtype, 4, 7)
        yield case(f"Gather run time {dtype}", given, v([[3, -1], [0, -4]], "int64"), axis=1)
        yield case(f"Gather irregular {dtype}", given, k([3, 0, 0, 2, 1, 1, 3, 0, 2, 2, 0, 3, 1, 0, 3]), axis=0)
        yield case(f"GatherElements {dtype}", given, x(4, 3, dtype="int64", low=-7, high=6), axis=1)
        yield case(f"GatherElements constant {dtype}", given, k([[0, 3, -1], [2, -4, 1]]), axis=0)
        yield case(f"GatherND {dtype}", given, v([[0], [-3], [3], [2]], "int64"))
        yield case(f"ScatterND {dtype}", given, v([[1, 2], [0, -1], [3, 0]], "int64"), _given(dtype, 3))
        yield case(f"ScatterND constant {dtype}", given, k([[3], [1]]), _given(dtype, 2, 7))
        yield case(f"ScatterElements {dtype}", given, v([[1, 0, -1, 3, 1, 2, 0]], "int32"), _given(dtype, 1, 7))
        yield case(f"ScatterElements constant {dtype}", given, k([[6, 0], [2, -2]]), _given(dtype, 2, 2), axis=1)
    yield case("Gather run time middle", x(2, 5, 19), x(3, dtype="int32", low=-5, high=4), axis=1)
    yield case("Gather run time scalar", x(2, 5, 3), v(-2, "int64"), axis=-1)
    yield case("Gather run time constant data", w(2, 5, 3), x(2, 2, dtype="int64", low=0, high=4), axis=1)
    yield case("Gather windows", x(2, 9), k([[0, 1, 2], [2, 3, 4], [4, 5, 6]]), axis=1)
    yield case("Gather backwards", x(2, 9), k([8, 6, 4, 2]), axis=1)
    yield case("GatherElements last", x(2, 3, 17), x(2, 3, 17, dtype="int64", low=-17, high=16), axis=-1)
    yield case("GatherElements part", x(4, 3, 5), x(2, 2, 5, dtype="int64", low=-3, high=2), axis=1)
    yield case("GatherElements constant data", w(4, 5), x(2, 5, dtype="int64", low=0, high=3))
    yield case("GatherND tuples", x(3, 4, 5), v([[[0, 1], [2, -1]], [[1, 3], [-3, 0]]], "int64"))
    yield case("GatherND elements", x(3, 4), v([[0, 1], [2, -1]], "int64"))
    yield case("GatherND batch", x(2, 3, 19), v([[1], [-3]], "int64"), batch_dims=1)
    yield case("GatherND batch tuples", x(2, 3, 4, 5), v([[[1, 3]], [[0, -1]]], "int64"), batch_dims=1)
    yield case("GatherND constant", x(3, 4, 5), k([[2, 0], [0, 3]]))
    yield case("ScatterND rows", x(4, 3, 17), v([[[1], [-1]]], "int64"), x(1, 2, 3, 17))
    yield case("ScatterND region", x(3, 6), k(REGION), x(2, 4))
    yield case("ScatterND constant data", w(3, 6), v([[1]], "int64"), x(1, 6))
    yield case("Scatter", x(3, 5), v([[1, 0, 2, 1, 2]], "int64"), x(1, 5), opset=9)
    for reduction in ("add", "mul", "max", "min"):
        for dtype in ("float32", "int64"):
            given = _given(dtype, 4, 7)
            name = f"{reduction} {dtype}"
            yield case(
                f"ScatterElements {name}",
                given,
                v([[0, 3, 0]], "int64"),
                _given(dtype, 1, 3),
                opset=18,
                axis=1,
                reduction=reduction,
            )
            yield case(f"ScatterND {name}", given, k([[2], [0], [2]]), _given(dtype, 3, 7), opset=18, reduction=reduction)


REGION = [[[row, column] for column in (1, 2, 3, 4)] for row in (0, 2)]


def rearrangements() -> Iterator[OpCase]:
    for mode in ("reflect", "edge", "wrap"):
        opset = 19 if mode == "wrap" else OPSET
        yield case(f"Pad {mode}", x(3, 19), k([0, 2, 0, 3]), opset=opset, mode=mode)
        yield case(f"Pad {mode} several axes", x(2, 5, 7), k([0, 2, 1, 0, 3, 2]), opset=opset, mode=mode)
        yield case(f"Pad {mode} int64", _given("int64", 4, 5), k([1, 0, 2, 1]), opset=opset, mode=mode)
    yield case("Pad edge crop", x(4, 9), k([-1, 2, 0, -3]), mode="edge")
    yield case("Pad infinite", x(2, 3), k([0, 1, 0, 1]), f(float("-inf")))
    for dtype in ("float64", "int64", "int32", "uint8", "bool"):
        yield case(f"Pad {dtype}", _given(dtype, 2, 3), k([0, 1, 1, 0]), k(1, dtype))
        yield case(f"Tile {dtype}", _given(dtype, 2, 3), k([2, 2]))
        yield case(f"Expand columns {dtype}", _given(dtype, 3, 1), k([2, 1, 4]))
    yield case("Tile last", x(2, 17), k([1, 3]))
    yield case("Tile first", x(1, 5), k([4, 1]))
    yield case("Tile nothing", x(2, 5), k([1, 1]))
    yield case("Tile three axes", x(2, 3, 5), k([2, 1, 2]))
    yield case("Transpose six axes", x(2, 3, 2, 2, 3, 2), perm=[5, 2, 4, 0, 3, 1])
    yield case("Transpose eight axes", x(2, 2, 2, 2, 2, 2, 2, 3), perm=[7, 5, 6, 3, 4, 1, 2, 0])
    yield case("Transpose six axes int64", _given("int64", 2, 3, 2, 2, 3, 2), perm=[5, 2, 4, 0, 3, 1])
    for mode in ("DCR", "CRD"):
        yield case(f"DepthToSpace {mode}", x(1, 8, 2, 3), blocksize=2, mode=mode)
    yield case("DepthToSpace default", x(2, 9, 2, 1), blocksize=3)
    yield case("SpaceToDepth", x(2, 3, 4, 6), blocksize=2)
    for upper in (0, 1):
        yield case(f"Trilu {upper}", x(2, 4, 5), upper=upper)
        yield case(f"Trilu {upper} offset", x(4, 5), k(1), upper=upper)
        yield case(f"Trilu {upper} int64", _given("int64", 3, 3), k(-1), upper=upper)
    yield case("EyeLike", x(3, 4), k=1)
    yield case("EyeLike type", x(3, 3), dtype=7)
    yield case("Compress", x(3, 4), k([False, True, True], "bool"), axis=0)
    yield case("Compress flat", x(3, 2), k([False, True, False, False, True], "bool"))
    yield case("ReverseSequence", x(4, 3, 5), v([1, 4, 3], "int64"))
    yield case("ReverseSequence batch first", x(3, 4), v([4, 2, 1], "int64"), batch_axis=0, time_axis=1)
    yield case("ReverseSequence int64", _given("int64", 4, 2), k([2, 3]))


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
