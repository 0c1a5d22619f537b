"""Pools of native code: rows with the bits of lone streams, from C, Python and JavaScript; files and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import tinyrnn
from tests import MODELS, ROOT
from tests.native.machines import why_not
from tests.native.pools import agree_in_pool
from tests.pools import agree_in_pool as agree_in_python
from tinyrnn.cli import main
from tinyrnn.errors import TargetError, UnsupportedError
from tinyrnn.native import builder
from tinyrnn.native.builder import Built
from tinyrnn.native.link import on_this_machine
from tinyrnn.runtime.built import selftest
from tinyrnn.targets.target_table import find_target

GRU = MODELS / "linear_relu_gru_residual_dynT_legacy.onnx"
LSTM = MODELS / "lm_lstm_l2_states_dynT_legacy.onnx"
STEP = MODELS / "lm_gru_states_softmax_step_legacy.onnx"
TWO_INPUTS = MODELS / "architectures" / "conditioned_open_dynamo.onnx"
LOOKAHEAD = MODELS / "architectures" / "lookahead_open_dynamo.onnx"
CHAR_LM = ROOT / "tinyrnn" / "models" / "char_lm.onnx"
LINKED = pytest.mark.skipif(
    not on_this_machine(find_target("host")) or not (shutil.which("cc") or shutil.which("ld.lld")),
    reason="no linker, or no Linux",
)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tinyrnn.build(LSTM, tmp_path_factory.mktemp("pooled"), name="lm", streams=6)


CASES: list[tuple[Path, str, dict[str, Any]]] = [
    (STEP, "cortex-m4", {"streams": 20}),
    (TWO_INPUTS, "wasm32", {"streams": 9, "emulate_fma": True}),
    (CHAR_LM, "x86-64-v3", {"streams": 200, "weights": "file", "slots": 230, "calls": 4}),
]


@pytest.mark.parametrize(("path", "target", "how"), CASES, ids=["step", "two_inputs", "indices_and_file"])
def test_rows_have_the_bits_of_lone_streams(path: Path, target: str, how: dict[str, Any], tmp_path: Path) -> None:
    """The last has more streams a call than a pass takes."""
    if reason := why_not(target):
        pytest.skip(reason)
    shape = {key: how[key] for key in ("slots", "calls") if key in how}
    built = tinyrnn.build(path, tmp_path / "built", target, **{key: value for key, value in how.items() if key not in shape})
    agree_in_pool(tinyrnn.load(path), built, tmp_path / "run", **shape)


def test_indices_and_states_in_c(pooled: Built, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    agree_in_pool(tinyrnn.load(LSTM), pooled, tmp_path / "run")


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_is_c_and_cpp(pooled: Built, language: str, tmp_path: Path) -> None:
    compiler = shutil.which("gcc" if language == "c" else "g++")
    if compiler is None:
        pytest.skip(f"no compiler of {language}")
    source = tmp_path / f"main.{'c' if language == 'c' else 'cpp'}"
    source.write_text("""
#include <string.h>
#include "lm.h"
LM_MEMORY(one);
LM_POOL_MEMORY(many, 9);
int main(void) {
  lm_stream stream;
  lm_pool pool;
  const int64_t tokens[3] = {4, 4, 9}, bad[3] = {4, 11, 9};
  const int64_t which[3] = {8, 0, 3};
  static float y[3 * LM_Y_SIZE], z[LM_Y_SIZE], before[9 * LM_STATE_STRIDE];
  if (lm_init(&stream, one_state, one_arena) || lm_pool_init(&pool, many_states, 9, many_arena)) return 1;
  if (lm_pool_init(&pool, many_states + 1, 9, many_arena) != LM_BAD_MEMORY || lm_pool_init(&pool, many_states, 9, many_arena)) return 2;
  if (lm_step(&stream, tokens, z) || lm_step(&stream, tokens + 2, z)) return 3;
  if (lm_pool_step(&pool, which, 1, tokens, y)) return 4;
  memcpy(before, many_states, sizeof before);
  if (lm_pool_step(&pool, which, 3, bad, y) != 1 || memcmp(before, many_states, sizeof before)) return 5;
  if (lm_pool_step(&pool, which, 1, tokens + 2, y) || memcmp(y, z, sizeof z)) return 6;
  memcpy(many_states + 2 * LM_STATE_STRIDE, one_state, LM_STATE_BYTES); /* into the third of the first three slots */
  if (lm_step(&stream, tokens, z) || lm_pool_step(&pool, 0, 3, tokens, y)) return 7;
  if (!memcmp(y + 2 * LM_Y_SIZE, z, sizeof z) || memcmp(y, y + LM_Y_SIZE, sizeof z)) return 8;
  if (lm_pool_reset(&pool, 8) || memcmp(many_states + 8 * LM_STATE_STRIDE, many_states + 5 * LM_STATE_STRIDE, LM_STATE_BYTES)) return 9;
  return lm_pool_selftest(&pool) || lm_selftest(&stream);
}
""")
    standard = "-std=c99" if language == "c" else "-std=c++11"
    options = ["-Wall", "-Wextra", "-Werror", *([] if language == "c" else ["-pedantic"]), standard, "-I", str(pooled.folder)]
    subprocess.run([compiler, *options, source, pooled.folder / "liblm.a", "-o", tmp_path / "program"], check=True)
    assert subprocess.run([tmp_path / "program"]).returncode == 0


@LINKED
def test_the_python_file_has_pools(pooled: Built) -> None:
    model = tinyrnn.load_built(pooled.folder)
    assert model._pooled(4).tick and selftest(model, pooled.folder)
    here, built = tinyrnn.load(LSTM).pool(30), model.pool(30)
    tokens = np.random.default_rng(0).integers(0, 11, (7, 30))
    assert built.run(tokens).tobytes() == here.run(tokens).tobytes()
    assert built.state.tobytes() == here.state.tobytes()
    agree_in_python(model)
    code = "import lm, sys; assert lm.selftest() and lm.model.pool(2).step([3, 4]).shape == (2, 11); assert not {'tinyrnn', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=pooled.folder, check=True, env={})


def test_a_wrong_bit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    made = builder.expected

    def wrong(*given: Any) -> Any:
        outputs = made(*given)
        outputs[0].view(np.uint32)[-1, -1] ^= 1
        return outputs

    monkeypatch.setattr(builder, "expected", wrong)
    built = tinyrnn.build(GRU, tmp_path, name="gru", streams=4)
    program = '#include "gru.h"\nGRU_POOL_MEMORY(mine, 4);\nint main(void) { gru_pool p; return gru_pool_init(&p, mine_states, 4, mine_arena) ? 9 : gru_pool_selftest(&p); }\n'
    (tmp_path / "main.c").write_text(program)
    subprocess.run(["gcc", tmp_path / "main.c", tmp_path / "libgru.a", "-o", tmp_path / "program"], check=True)
    assert subprocess.run([tmp_path / "program"]).returncode == 1
    if built.manifest["library"]:
        assert not selftest(tinyrnn.load_built(tmp_path), tmp_path)


def test_sizes_and_files(pooled: Built) -> None:
    manifest = json.loads((pooled.folder / "manifest.json").read_text())
    assert manifest == pooled.manifest and manifest["streams"] == 6
    sizes = manifest["sizes"]["pool"]
    header = (pooled.folder / "lm.h").read_text()
    assert f"#define LM_POOL_ARENA_BYTES {sizes['arena']}\n" in header and "#define LM_STREAMS 6 " in header
    assert sizes["ram"] == sizes["states"] + sizes["arena"]
    assert "6 streams a call" in str(pooled) and "lm_pool.o" in pooled.files
    assert {f"lm_pool_{name}" for name in ("init", "reset", "step", "selftest")} <= set(manifest["functions"])


def _refused(*words: str | Path) -> str:
    result = CliRunner().invoke(main, ["build", *map(str, words)])
    assert result.exit_code == 1 and result.output.startswith("Error: ") and "Traceback" not in result.output, result.output
    return result.output


def test_what_has_no_pools(tmp_path: Path) -> None:
    whole = next(p for p in sorted(MODELS.glob("gru*bi*_legacy.onnx")))
    assert "cannot stream (" in (text := _refused(whole, "-o", tmp_path, "--streams", "4")) and "without --streams" in text
    assert (
        "rows of its own number" in (text := _refused(LOOKAHEAD, "-o", tmp_path, "--streams", "4"))
        and "without --streams" in text
    )
    with pytest.raises(TargetError, match="streams 0: .*--streams 64"):
        tinyrnn.build(GRU, tmp_path, streams=0)
    with pytest.raises(UnsupportedError, match="looks ahead"):
        tinyrnn.build(LOOKAHEAD, tmp_path, streams=1)
    text = _refused(CHAR_LM, "-o", tmp_path, "--target", "cortex-m4", "--streams", "64", "--max-ram", "32k")
    assert "bytes of ram for 64 streams are more than --max-ram 32,768: states 49,152, arena " in text and "--streams 32" in text
    assert not list(tmp_path.iterdir())
