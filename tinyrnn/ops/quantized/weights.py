"""MatMulNBits: weights of a few bits with scales of blocks, which become float32 at load: q · scale, in an ordinary product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyrnn.graph.ir import Node, Spec
from tinyrnn.graph.op import MICROSOFT, REQUIRED, Array, Refused, register
from tinyrnn.ops.quantized.written import Quantised, Written

BITS = (2, 4, 8)


def unpacked(packed: Array, bits: int) -> Array:
    """Numbers of some bits from bytes [..., n], the lowest bits first: [..., n * 8 / bits]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(parts.reshape(*packed.shape[:-1], -1))


@register
class MatMulNBits(Quantised):
    """A product with weights of 2, 4 or 8 bits in blocks, plus bias; in float32 whatever accuracy_level says."""

    name = "MatMulNBits"
    domain = MICROSOFT
    inputs = ("A", "B", "scales", "zero_points?", "g_idx?", "bias?")
    attributes: ClassVar[dict[str, Any]] = {
        "K": REQUIRED,
        "N": REQUIRED,
        "bits": 4,
        "block_size": REQUIRED,
        "accuracy_level": 0,
        "weight_prepacked": 0,
    }

    def refuses(self, node: Node) -> str | None:
        bits, block = self.attribute(node, "bits"), self.attribute(node, "block_size")
        if bits not in BITS:
            return f"{node.op} with bits={bits} (supported: {', '.join(map(str, BITS))})"
        if not isinstance(block, int) or block < 1 or block * bits % 8:
            return f"{node.op} with block_size={block} (supported: whole bytes)"
        if self.attribute(node, "weight_prepacked"):
            return f"{node.op} with weight_prepacked={node.attributes['weight_prepacked']} (supported: 0)"
        if len(node.inputs) > 4 and node.inputs[4]:
            return f"{node.op} with g_idx (supported: blocks in order)"
        return None

    def _sizes(self, node: Node) -> tuple[int, int, int, int, int]:
        """(K, N, bits, block size, blocks)."""
        k, n, bits, block = (int(self.attribute(node, key)) for key in ("K", "N", "bits", "block_size"))
        return k, n, bits, block, -(-k // block)

    def infer(self, node: Node, specs: Sequence[Spec | None]) -> list[Spec]:
        a, b, scales = specs[:3]
        assert a is not None and b is not None and scales is not None
        k, n, bits, block, blocks = self._sizes(node)
        if a.sizes[-1] != k or a.dtype != np.float32:
            raise Refused(f"A is {a}; with K={k} it would be float32[..., {k}]")
        if b.dtype != np.uint8 or b.elements != n * blocks * block * bits // 8:
            wanted = [n, blocks, block * bits // 8]
            raise Refused(f"B is {b}; with N={n}, K={k}, bits={bits}, block_size={block} it would be {wanted}")
        if scales.elements != n * blocks:
            raise Refused(f"scales are {scales}; with N={n} and {blocks} blocks they would be [{n}, {blocks}]")
        return [Spec(a.dtype, (*a.sizes[:-1], n))]

    def weights(self, node: Node, b: Array, scales: Array, zeros: Array | None) -> Array:
        """The weights [K, N] in float32: (q - zero) · scale."""
        k, n, bits, _, blocks = self._sizes(node)
        q = unpacked(b.reshape(n, blocks, -1), bits).astype(np.float32)
        if zeros is None:
            zero = np.full((n, blocks), 1 << (bits - 1), np.float32)
        elif zeros.dtype == np.uint8:
            flat = zeros.reshape(n, -1)
            wanted = -(-blocks * bits // 8)
            if flat.shape[1] != wanted:
                raise Refused(f"zero_points have the shape {list(zeros.shape)}; supported are [{n}, {wanted}]")
            zero = unpacked(flat, bits)[:, :blocks].astype(np.float32)
        else:
            zero = zeros.reshape(n, blocks).astype(np.float32)
        factor = scales.reshape(n, blocks).astype(np.float32)
        if not np.isfinite(factor).all():
            raise Refused(f"scales={factor[~np.isfinite(factor)][0]:g}; supported are finite numbers")
        return np.ascontiguousarray(((q - zero[..., None]) * factor[..., None]).reshape(n, -1)[:, :k].T)

    def reference(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        a, b, scales, zeros, _, bias = (*arrays, None, None, None)[:6]
        assert a is not None and b is not None and scales is not None
        y = a @ self.weights(node, b, scales, zeros).astype(a.dtype)
        return (y if bias is None else y + bias,)

    def write(self, node: Node, made: Written) -> None:
        b, scales, zeros = (made.known(place) for place in (1, 2, 3))
        if b is None or scales is None or (zeros is None and made.given(3)):
            raise Refused("its weights, scales or zero points depend on the input; supported are constants")
        bias = made.given(5)
        weights = self.weights(node, b, scales, zeros)
        word, output = ("product", "") if bias else ("", node.outputs[0])
        product = made.make("MatMul", [node.inputs[0], weights], word, output=output)
        if bias:
            made.make("Add", [product, bias], output=node.outputs[0])
