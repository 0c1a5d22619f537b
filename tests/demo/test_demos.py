"""Every demo: from the packaged model, from a folder, as text, as JSON, as a picture; and what all of them share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyrnn
from tests.commands import demo
from tinyrnn.data.vocabulary import Words, listed, tokenize
from tinyrnn.demo import DEMOS, PACKAGED, Models, about, show
from tinyrnn.demo.drawing import arc, filled, ink
from tinyrnn.demo.images import as_text, read_image

LARGEST_PACKAGE = 10_000_000


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_prints_and_draws(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    result = demo(name, "-o", tmp_path / "out.png")
    assert len(result.stdout.splitlines()) > 3
    assert result.stdout.splitlines()[-1] == f"drawn to {tmp_path / 'out.png'}"
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads(demo(name, "--json").stdout)
    assert found.pop("demo") == name and found


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_refuses_a_folder_without_its_model(name: str, tmp_path: Path) -> None:
    assert f"there is no {name}" in demo(name, "--models", tmp_path, status=1).stderr


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_says_what_it_is(name: str) -> None:
    found = about(name)
    text = " ".join(demo(name, "--help").stdout.split())
    assert found.summary.split(",")[0] in text
    assert "--input" in text and "--json" in text and "--models" in text
    assert found.use.split(",")[0] in {"one to one", "one to many", "many to one", "many to many", "image and question to answer"}


def test_the_list_of_demos() -> None:
    text = demo("--help").stdout
    assert all(name in text for name in DEMOS)
    assert "No such command 'nothing'" in demo("nothing", status=2).stderr


def test_demos_need_neither_matplotlib_nor_pillow_nor_torch() -> None:
    code = (
        "import sys\nfor name in ('matplotlib', 'PIL', 'torch', 'scipy', 'sklearn'): sys.modules[name] = None\n"
        "from tinyrnn.demo import Models, show\nshow('digits', Models(), None, None, print)\n"
        "from tinyrnn.cli import main\nmain(['demo', 'digits', '-o', 'out.png'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert "(100%)" in done.stdout
    assert done.returncode == 1 and "pip install tinyrnn[plot]" in done.stderr


def test_the_packaged_models_are_small_and_say_their_licence() -> None:
    files = sorted(PACKAGED.glob("*.onnx"))
    assert sum(p.stat().st_size for p in files) < LARGEST_PACKAGE
    texts = "".join(p.read_text() for p in PACKAGED.glob("*.LICENSE.txt"))
    for path in files:
        assert path.name in texts, f"{path.name} has no licence"
        assert "license" in tinyrnn.load(path).metadata


# --- digits ----------------------------------------------------------------------------------------------------------


def test_drawn_digits_are_named() -> None:
    assert show("digits", Models(), None, None, lambda line: None)["digits"] == list(range(10))


def test_a_digit_from_a_file(tmp_path: Path) -> None:
    image = (ink([arc((0.5, 0.5), (0.24, 0.4), 0, 1, 24)], 8, 0.16) * 255).astype(np.uint8)
    np.save(tmp_path / "0.npy", image)
    assert "0 (" in demo("digits", "--input", tmp_path / "0.npy").stdout
    pillow = pytest.importorskip("PIL.Image", reason="images need Pillow")
    pillow.fromarray(image).save(tmp_path / "0.png")
    assert "0 (" in demo("digits", "--input", tmp_path / "0.png").stdout


# --- images and words ------------------------------------------------------------------------------------------------


def test_images_of_another_size_or_mode_are_refused(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="images need Pillow")
    for mode, size, says in (
        ("L", (9, 8), "9 x 8 pixels of mode L"),
        ("RGB", (8, 8), "mode RGB"),
        ("RGBA", (8, 8), "mode RGBA"),
        ("1", (8, 8), "mode 1"),
        ("I;16", (8, 8), "mode I;16"),
    ):
        pillow.new(mode, size).save(tmp_path / "image.png")
        with pytest.raises(tinyrnn.ShapeError, match=says) as refused:
            read_image(tmp_path / "image.png", 8, 8, 1)
        assert "8 x 8 pixels, 8-bit grey" in str(refused.value) and "convert image.png" in str(refused.value)
    pillow.new("L", (8, 8)).save(tmp_path / "grey.png")
    with pytest.raises(tinyrnn.ShapeError, match="8-bit RGB"):
        read_image(tmp_path / "grey.png", 8, 8, 3)
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.float32))
    with pytest.raises(tinyrnn.ShapeError, match=r"float32\[8, 8\]"):
        read_image(tmp_path / "a.npy", 8, 8, 1)


def test_files_that_are_no_image(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="images need Pillow")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    for name, says in (
        ("text.png", "cannot be read as an image"),
        ("cut.png", "cannot be read as an image"),
        ("none.png", "no such file"),
        (".", "a folder"),
    ):
        with pytest.raises(tinyrnn.LoadError, match=says):
            read_image(tmp_path / name, 8, 8, 1)


def test_ink_covers_what_a_pen_would() -> None:
    line = ink([[(0.0, 0.5), (1.0, 0.5)]], 10, 0.2)
    np.testing.assert_allclose(line[:, 5], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0], atol=1e-6)
    disc = ink([[(0.5, 0.5)]], 40, 0.5)
    assert abs(disc.mean() - np.pi * 0.25**2) < 0.005
    square = filled([[(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]], 8)
    np.testing.assert_array_equal(square[2:6, 2:6], 1)
    assert square.sum() == 16
    ring = filled([arc((0.5, 0.5), (0.4, 0.4), 0, 1, 64), arc((0.5, 0.5), (0.2, 0.2), 0, 1, 64)], 32)
    assert ring[16, 16] == 0 and abs(ring.mean() - np.pi * (0.4**2 - 0.2**2)) < 0.01
    assert as_text(np.array([[0, 255]], np.uint8)) == ["  ██"]


def test_words() -> None:
    assert tokenize("Don't stop, l’eau!") == ["don't", "stop", ",", "l'eau", "!"]
    words = Words(["<unk>", "stop", "go"])
    assert words.encode(["go", "stop"]).tolist() == [2, 1]
    assert words.encode(["went"], "<unk>").tolist() == [0]
    assert words.text([1, 2, 0], ["<unk>"]) == "stop go"
    with pytest.raises(tinyrnn.TinyRNNError, match=r"knows 3 words, not 'stap' \(but stop\); 'xyz'"):
        words.encode(["stap", "xyz", "stap"])


def test_a_model_without_a_list() -> None:
    with pytest.raises(tinyrnn.LoadError, match="no list 'words'; it has .*vocabulary"):
        listed(Models().load("char_lm"), "words")
