"""Stream models as people write them, exported by PyTorch (tests/whole/torch_architectures.py), against PyTorch and onnxruntime.

`in2` is another number of steps than the file's, also where the exporter wrote a loop out for the T of its example.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import tinyrnn
from tests import MODELS
from tests.driving import agree, in_onnxruntime, whole

FOLDER = MODELS / "architectures"
EVERY = sorted(path.stem for path in FOLDER.glob("*.onnx"))
ALL = bool(os.environ.get("TINYRNN_ALL"))
CHOSEN = EVERY if ALL else EVERY[::3]
"""each file compiles for about a second"""

STATES = {"attentionstep_legacy": {"cache_k": "k_out", "cache_v": "v_out"}}
"""where names and shapes leave several ways to pair them"""

NOT_YET = {
    "stacked2_open_dynamo": "does not hold the",
}
"""file → what `load` says of it; a line that no longer holds fails"""


def _loaded(name: str) -> tinyrnn.Model:
    return tinyrnn.load(FOLDER / f"{name}.onnx", states=STATES.get(name))


def _arrays(name: str, kind: str) -> dict[str, np.ndarray]:
    stored = np.load(FOLDER / f"{name}.npz")
    return {key.split(":", 1)[1]: stored[key] for key in stored.files if key.startswith(f"{kind}:")}


@pytest.mark.parametrize("name", CHOSEN)
def test_equals_pytorch_and_onnxruntime(name: str) -> None:
    if name in NOT_YET:
        with pytest.raises(tinyrnn.TinyRNNError, match=NOT_YET[name]):
            _loaded(name)
        return
    model, inputs = _loaded(name), _arrays(name, "in")
    made = whole(model, inputs)
    agree("close", made, _arrays(name, "out"))
    agree("close", made, in_onnxruntime(FOLDER / f"{name}.onnx", inputs))
    if _arrays(name, "in2"):
        agree("close", whole(model, _arrays(name, "in2")), _arrays(name, "out2"), "at another length")


@pytest.mark.parametrize("name", [name for name in CHOSEN if name.startswith("unrolled")])
def test_a_loop_written_out_streams(name: str) -> None:
    model = _loaded(name)
    assert model.kind == "sequence"
    if "_bi_" in name:
        with pytest.raises(tinyrnn.StreamError, match="reverse|from its end"):
            model.stream()
        return
    rng = np.random.default_rng(7)
    xs = [rng.standard_normal((9, *p.shape)).astype(np.float32) for p in model.inputs]
    stream = model.stream()
    expected = stream.run(*xs)
    stream.reset()
    pieces = [stream.run(*(x[at : at + size] for x in xs)) for at, size in ((0, 2), (2, 4), (6, 3))]
    if model.outputs[0].per_frame:
        np.testing.assert_array_equal(np.concatenate(pieces), expected)
    else:
        np.testing.assert_array_equal(pieces[-1], expected)
