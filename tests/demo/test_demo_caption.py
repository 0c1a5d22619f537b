"""The demos of captions: their text, their attention, their pictures, and what they say of images that they cannot take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tinyrnn import ShapeError
from tinyrnn.check import within
from tinyrnn.cli import main
from tinyrnn.demo import Models
from tinyrnn.demo.caption_attention import Looker, side_by_side, smooth, words
from tinyrnn.demo.icons import END, STEPS, WIDTH, Captioner, drawn, named
from tinyrnn.demo.images import as_dots

NAMES = ("caption", "caption_attention")


@pytest.fixture(scope="module", params=NAMES)
def captioner(request: pytest.FixtureRequest) -> Captioner:
    return Looker(Models(), "caption_attention") if request.param == "caption_attention" else Captioner(Models(), "caption")


def demo(name: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["demo", name, *map(str, arguments)])


def test_some_of_the_drawn_icons_are_named(captioner: Captioner) -> None:
    found = {one.icon: one for one in named(captioner, drawn())}
    assert found["an arrow"].greedy == "arrow left"
    assert found["a tick"].greedy == "check"
    assert found["the outline of a heart"].greedy == "heart outline"
    for one in found.values():
        shares = [p for _, p in one.names]
        assert len(shares) == WIDTH and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
        assert END not in one.greedy
        assert len(one.tokens) <= STEPS


def test_an_image_before_changes_nothing(captioner: Captioner) -> None:
    images = list(drawn().values())
    first = captioner.see(images[0])
    before = captioner.greedy(first).tolist()
    captioner.beam(captioner.see(images[1]))
    assert captioner.greedy(first).tolist() == before


def test_many_images_at_once_have_the_names_of_each(captioner: Captioner) -> None:
    seen = [captioner.see(image) for image in drawn().values()] * 3
    assert [t.tolist() for t in captioner.greedies(seen)] == [captioner.greedy(s).tolist() for s in seen]
    for found, alone in zip(captioner.beams(seen, WIDTH), [captioner.beam(s, WIDTH) for s in seen], strict=True):
        assert [(h.tokens.tolist(), h.score) for h in found] == [(h.tokens.tolist(), h.score) for h in alone]


def test_the_likeliest_of_a_beam_is_as_likely_as_the_step_model_says(captioner: Captioner) -> None:
    one = named(captioner, {"": drawn()["a padlock"]})[0]
    stream = captioner.decoder.stream()
    for name, value in one.seen.states.items():
        stream.states[name][...] = value
    likely, token = 0.0, captioner.end
    for after in one.tokens:
        scores = stream.step(token=np.array(token), **one.seen.inputs).scores if one.seen.inputs else stream.step(np.array(token))
        wide = np.asarray(scores, np.float64).ravel()
        likely += wide[after] - wide.max() - np.log(np.exp(wide - wide.max()).sum())
        token = int(after)
    assert within("close", np.float32(one.names[0][1]), np.float32(np.exp(likely)))


def test_attention_is_a_share_of_each_place() -> None:
    looker = Looker(Models(), "caption_attention")
    one = named(looker, {"": drawn()["a plus in a disc"]})[0]
    shares = looker.attention(one)
    assert shares.shape == (len(one.tokens), 8, 8)
    assert within("close", shares.sum(axis=(1, 2)), np.ones(len(shares), np.float32))
    lines = side_by_side(one, words(looker, one), shares)
    assert len(lines) == 9 and lines[0].split() == one.names[0][0].split()


def test_a_map_between_the_centres_of_its_places() -> None:
    share = np.zeros((8, 8))
    share[2, 5] = 1
    wide = smooth(share)
    assert wide.shape == (32, 32) and wide.max() == 1
    assert set(zip(*np.nonzero(wide == 1), strict=True)) <= {(y, x) for y in (9, 10) for x in (21, 22)}
    assert not wide[:, :17].any() and not wide[14:].any()
    assert within("close", smooth(np.full((8, 8), 0.25)), np.ones((32, 32)))


def test_dots() -> None:
    image = np.zeros((8, 4))
    image[0, 0] = image[3, 1] = image[4:, 2:] = 1
    assert as_dots(image) == ["⢁⠀", "⠀⣿"]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_of_ones_own(name: str, tmp_path: Path) -> None:
    image = np.round(255 * drawn()["a tick"]).astype(np.uint8)
    np.save(tmp_path / "mine.npy", image)
    result = demo(name, "--input", tmp_path / "mine.npy")
    assert result.exit_code == 0, result.output
    assert "mine.npy" in result.output and "greedy  check" in result.output
    (found,) = json.loads(demo(name, "--json", "--input", tmp_path / "mine.npy").stdout)["captions"]
    assert found["icon"] == "mine.npy" and found["greedy"] == found["beam"][0]["name"] == "check"
    assert ("attention" in found) == (name == "caption_attention")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((24, 24), np.uint8), "uint8[24, 24]; the model takes 32 x 32 pixels, 8-bit grey: uint8[32, 32]"),
        (np.zeros((32, 32, 3), np.uint8), "uint8[32, 32, 3]; the model takes"),
        (np.zeros((32, 32), np.float32), "float32[32, 32]; the model takes"),
    ],
)
def test_images_it_cannot_take(name: str, array: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", array)
    result = demo(name, "--input", tmp_path / "bad.npy")
    assert result.exit_code == 1 and message in result.output


def test_images_of_another_mode(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="images are read with Pillow")
    image.new("RGBA", (32, 32)).save(tmp_path / "bad.png")
    result = demo("caption", "--input", tmp_path / "bad.png")
    assert result.exit_code == 1 and "32 x 32 pixels of mode RGBA" in result.output
    assert "no such file" in demo("caption", "--input", tmp_path / "none.png").output


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_decoder(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}_encoder.onnx").write_bytes(Models().path(f"{name}_encoder").read_bytes())
    result = demo(name, "--models", tmp_path)
    assert result.exit_code == 1 and f"there is no {name}_decoder.onnx" in result.output


def test_an_image_of_another_size_by_the_api(captioner: Captioner) -> None:
    with pytest.raises(ShapeError):
        captioner.see(np.zeros((31, 32), np.float32))
