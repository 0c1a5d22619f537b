"""What is cut, or padded, to the length of another value: how much that is follows from the length's remainder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import tinyrnn
from tests.driving import agree, in_onnxruntime, loaded, whole
from tests.whole.families import Maker
from tinyrnn.cli import main


def trimmed(kernel: int, stride: int, way: str) -> onnx.ModelProto:
    """A strided convolution and its transpose over x [N, 2, T]; added to x, which is cut to it, or to which it is padded."""
    m = Maker(np.random.default_rng(1))
    weights = [m.constant((m.rng.standard_normal((2, 2, kernel)) / 3).astype(np.float32)) for _ in range(2)]
    made = m.add("ConvTranspose", m.add("Tanh", m.add("Conv", "x", weights[0], strides=[stride])), weights[1], strides=[stride])
    two, three = m.constant(np.array([2])), m.constant(np.array([3]))
    length = {name: m.add("Slice", m.add("Shape", name), two, three) for name in ("x", made)}
    if way == "cut":
        y = m.add("Add", made, m.add("Slice", "x", m.constant(np.array([0])), length[made], two))
    else:
        missing = m.add("Sub", length["x"], length[made])
        y = m.add("Add", "x", m.add("Pad", made, m.add("Concat", m.constant(np.zeros(5, np.int64)), missing, axis=0)))
    return m.model({"x": ["N", 2, "T"]}, [m.add("Identity", y)])


@pytest.mark.parametrize("way", ["cut", "padded"])
@pytest.mark.parametrize("kernel, stride", [(4, 2), (3, 2), (3, 3), (8, 4)])
def test_every_length_runs(kernel: int, stride: int, way: str, tmp_path: Path) -> None:
    proto = trimmed(kernel, stride, way)
    model = loaded(proto, tmp_path)
    for frames in (20, 21, 22, 23, 300):
        x = np.random.default_rng(frames).standard_normal((1, 2, frames)).astype(np.float32)
        agree("close", whole(model, {"x": x}), in_onnxruntime(proto, {"x": x}), f"{frames} frames")
    with pytest.raises(tinyrnn.StreamError, match="depends on a size that the file leaves open"):
        model.stream()
    onnx.save(proto, tmp_path / "cut.onnx")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "cut.onnx"), "--json"])
    assert json.loads(shown.output)["streams"] is False
    assert "passed" in CliRunner().invoke(main, ["check", str(tmp_path / "cut.onnx")]).output
