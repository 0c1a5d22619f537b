"""Sound: framing, spectra, models on them, .wav, and `tinyrnn run` on all of it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tinyrnn
from tests import MODELS, SHARED
from tinyrnn import audio
from tinyrnn.audio.picture import plot_figures, plot_sounds
from tinyrnn.check import within
from tinyrnn.cli import main
from tinyrnn.data import files, wav
from tinyrnn.errors import LoadError, ShapeError, TinyRNNError

Array = np.ndarray[Any, Any]
RATE = 16000


def sound(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def pieces(array: Array, sizes: list[int]) -> list[Array]:
    """Pieces of these sizes over and over, until the array is used up."""
    found, at, turn = [], 0, 0
    while at < len(array):
        size = sizes[turn % len(sizes)]
        found.append(array[at : at + size])
        at, turn = at + size, turn + 1
    return found


def fed(block: Any, array: Array, sizes: list[int]) -> Array:
    return np.concatenate([*(block.push(piece) for piece in pieces(array, sizes)), block.finish()])


SIZES = st.lists(st.integers(0, 700), min_size=1, max_size=6).filter(any)


# --- models of our own -----------------------------------------------------------------------------------------------


def save(
    path: Path, nodes: list[Any], inputs: dict[str, list[Any]], outputs: list[str], constants: dict[str, Any], **more: str
) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(n, TensorProto.INT64 if n == "sr" else TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, more)
    path.write_bytes(model.SerializeToString())
    return path


def echo(path: Path, shape: list[int], gain: float = 0.5, feedback: float = 0.25, **more: str) -> Path:
    """y[t] = gain * x[t] + feedback * y[t - 1], frame by frame."""
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["a"]),
        helper.make_node("Mul", ["h", "feedback"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
        helper.make_node("Add", ["a", "b"], ["hn"]),
    ]
    constants = {"gain": np.float32(gain), "feedback": np.float32(feedback)}
    return save(path, nodes, {"x": shape, "h": shape}, ["y", "hn"], constants, **more)


def fixed_mask(path: Path, shape: list[int], mask: Array) -> Path:
    """Gives the same mask for every frame, whatever goes in."""
    nodes = [helper.make_node("Mul", ["x", "zero"], ["n"]), helper.make_node("Add", ["n", "mask"], ["y"])]
    return save(path, nodes, {"x": shape}, ["y"], {"zero": np.float32(0), "mask": mask.astype(np.float32).reshape(shape)})


def gained(path: Path, shape: list[int], gain: float = 1) -> Path:
    return save(path, [helper.make_node("Mul", ["x", "gain"], ["y"])], {"x": shape}, ["y"], {"gain": np.float32(gain)})


def loudness(path: Path, size: int = 576) -> Path:
    """The interface of a voice detector: input [1, size], state, sr; a figure from 0 to 1 that follows the mean |x|."""
    nodes = [
        helper.make_node("Abs", ["input"], ["a"]),
        helper.make_node("ReduceMean", ["a"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["m", "rate"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "factor"], ["now"]),
        helper.make_node("Mul", ["state", "half"], ["before"]),
        helper.make_node("Add", ["now", "before"], ["stateN"]),
        helper.make_node("Sigmoid", ["stateN"], ["s"]),
        helper.make_node("Mul", ["s", "two"], ["d"]),
        helper.make_node("Sub", ["d", "one"], ["output"]),
    ]
    constants = {"factor": np.float32(1 / RATE), "half": np.float32(0.5), "two": np.float32(2), "one": np.float32(1)}
    return save(path, nodes, {"input": [1, size], "state": [1, 1], "sr": []}, ["output", "stateN"], constants)


def loud(samples: Array, size: int, hop: int) -> Array:
    """What `loudness` should give, computed in float64."""
    padded = np.concatenate([np.zeros(size - hop), samples, np.zeros(-len(samples) % hop)])
    state, found = 0.0, []
    for at in range(0, len(padded) - size + 1, hop):
        state = np.abs(padded[at : at + size]).mean() + 0.5 * state
        found.append(2 / (1 + np.exp(-state)) - 1)
    return np.array(found)[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audio")


@pytest.fixture(scope="module")
def echo_model(folder: Path) -> tinyrnn.Model:
    return tinyrnn.load(echo(folder / "echo.onnx", [1, 160]))


@pytest.fixture(scope="module")
def masking(folder: Path) -> tinyrnn.Model:
    return tinyrnn.load(echo(folder / "masking.onnx", [1, 1, 257], 0.02, 0.9))


@pytest.fixture(scope="module")
def second(folder: Path) -> tinyrnn.Model:
    return tinyrnn.load(echo(folder / "second.onnx", [1, 1, 512], 0.25, 0.1))


# --- frames and spectra ----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 40), part=st.floats(0, 1), count=st.integers(0, 200), sizes=SIZES, channels=st.sampled_from([(), (2,)])
)
def test_framer_cuts_as_slices_do(size: int, part: float, count: int, sizes: list[int], channels: tuple[int, ...]) -> None:
    hop = max(round(size * part), 1)
    samples = sound(count * (2 if channels else 1)).reshape(count, *channels)
    framer = audio.Framer(size, hop, channels)
    found = fed(framer, samples, sizes)
    padded = np.concatenate([np.zeros((size - hop, *channels)), samples, np.zeros((-count % hop, *channels))])
    wanted = [padded[at : at + size] for at in range(0, len(padded) - size + 1, hop)]
    assert found.dtype == np.float32 and found.shape == (-(-count // hop), size, *channels)
    np.testing.assert_array_equal(found, np.reshape(wanted, found.shape))
    np.testing.assert_array_equal(fed(framer, samples, sizes), found)  # anew after finish


@pytest.mark.parametrize(
    ("block", "hop", "window"),
    [
        (512, 128, "none"),
        (512, 256, "sqrt-hann"),
        (64, 16, "hann"),
        (50, 20, "hamming"),
        (50, 7, "blackman"),
        (33, 33, None),
        (6, 1, "hann"),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 700])
def test_overlap_add_gives_back_what_was_cut(block: int, hop: int, window: str | None, count: int) -> None:
    samples = sound(count)
    stft = audio.Stft(block, hop, window)
    spectra = fed(stft, samples, [100])
    inverse = audio.InverseStft(block, hop, window)
    back = np.concatenate([inverse.push(spectra[:3]), inverse.push(spectra[3:]), inverse.finish()])[block - hop :]
    whole = max(len(back) - (block - hop), 0)  # what later frames would add to is not whole yet
    wanted = np.concatenate([samples, np.zeros(-count % hop, np.float32)])
    assert len(back) == len(wanted)
    assert within("close", back[:whole], wanted[:whole])


def test_spectra_are_those_of_the_definition() -> None:
    samples, window = sound(300), audio.make_window("hann", 64)
    np.testing.assert_allclose(window, np.sin(np.pi * np.arange(64) / 64) ** 2, atol=1e-15)
    found = fed(audio.Stft(64, 32, "hann"), samples, [9])
    padded = np.concatenate([np.zeros(32), samples, np.zeros(-300 % 32)])
    kernel = np.exp(-2j * np.pi * np.outer(np.arange(33), np.arange(64)) / 64)
    for t, spectrum in enumerate(found):
        np.testing.assert_allclose(spectrum, kernel @ (padded[32 * t : 32 * t + 64] * window), atol=1e-12)
    assert len(found) == 10


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman"])
def test_windows_are_those_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    wanted = getattr(torch, f"{name}_window")(48, dtype=torch.float64).numpy()
    np.testing.assert_allclose(audio.make_window(name, 48), wanted, atol=1e-12)


def test_blocks_refuse() -> None:
    for make, says in (
        (lambda: audio.Framer(8, 9), "frames of 8 samples every 9"),
        (lambda: audio.Framer(8, 0), "every 0"),
        (lambda: audio.Framer(8).push(np.zeros(3, np.int16)), "samples are float"),
        (lambda: audio.Framer(8).push(np.zeros((3, 2), np.float32)), "samples are float"),
        (lambda: audio.Framer(8).push(0.5), "samples are float"),
        (lambda: audio.make_window("kaiser", 8), "known are none, hann, sqrt-hann"),
        (lambda: audio.make_window(np.ones(7), 8), "a block has 8 samples"),
        (lambda: audio.OverlapAdd(8, 8, "hann"), "leave gaps"),
        (lambda: audio.OverlapAdd(8, 4).push(np.zeros((2, 7))), "[T, 8]"),
        (lambda: audio.InverseStft(8, 4).push(np.zeros((2, 4))), "[T, 5]"),
    ):
        with pytest.raises(ShapeError, match=says.replace("[", r"\[")):
            make()


# --- models on sound -------------------------------------------------------------------------------------------------


def echoed(samples: Array, frame: int, gain: float, feedback: float) -> Array:
    padded = np.concatenate([samples, np.zeros(-len(samples) % frame)]).reshape(-1, frame)
    made, before = [], np.zeros(frame)
    for x in padded:
        before = gain * x + feedback * before
        made.append(before)
    return np.concatenate(made)[: len(samples)]


def test_samples_to_samples(echo_model: tinyrnn.Model) -> None:
    samples = sound(1003)
    found = audio.SampleFilter(echo_model).run(samples)
    assert found.dtype == np.float32 and len(found) == 1003
    assert within("close", found, echoed(samples, 160, 0.5, 0.25))


def test_samples_to_samples_where_frames_overlap(folder: Path) -> None:
    model = tinyrnn.load(gained(folder / "gain.onnx", [1, 64], 2.0))
    samples = sound(333)
    for hop, window in ((32, "hann"), (32, "none"), (20, "sqrt-hann"), (64, None)):
        assert within("close", audio.SampleFilter(model, hop=hop, window=window).run(samples), 2 * samples)


@pytest.mark.parametrize("shape", [[1, 257, 1, 2], [1, 257, 2], [1, 2, 257], [1, 2, 257, 1], [257, 2]])
def test_complex_spectra_reconstruct_in_every_layout(folder: Path, shape: list[int]) -> None:
    model = tinyrnn.load(gained(folder / f"enhance{len(shape)}{shape[1]}.onnx", shape))
    assert audio.takes_of(model) == "complex"
    enhance = audio.SpectralMask(model)
    assert (enhance.block, enhance.hop, enhance.gives) == (512, 256, "spectrum")
    samples = sound(2001)
    assert within("close", enhance.run(samples), samples)


@pytest.mark.parametrize("gives", ["mask", "spectrum"])
def test_masks_and_spectra(folder: Path, gives: str) -> None:
    """A mask that is constant over time is a filter; compared with the same done by hand."""
    rng = np.random.default_rng(3)
    mask = rng.uniform(0, 1, 65)
    samples = sound(600)
    real = audio.SpectralMask(
        tinyrnn.load(fixed_mask(folder / "real.onnx", [1, 65], mask)), hop=32, window="sqrt-hann", gives=gives
    )
    assert real.front.takes == "magnitude" and real.block == 128
    wide = rng.uniform(-1, 1, (65, 2))
    path = fixed_mask(folder / "wide.onnx", [1, 65, 2], wide)
    pair = audio.SpectralMask(tinyrnn.load(path), hop=32, gives=gives)

    def by_hand(change: Callable[[Array], Array]) -> Array:
        window, total, weights = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(128) / 128)), np.zeros(1000), np.zeros(1000)
        padded = np.concatenate([np.zeros(96), samples, np.zeros(400)])
        for at in range(0, 800, 32):
            part = np.fft.irfft(change(np.fft.rfft(padded[at : at + 128] * window)), 128)
            total[at : at + 128] += part * window
            weights[at : at + 128] += window**2
        return (total / np.maximum(weights, 1e-9))[96:696]

    def magnitudes(z: Array) -> Array:
        return z * mask if gives == "mask" else mask * np.exp(1j * np.angle(z))

    def numbers(z: Array) -> Array:
        return (z if gives == "mask" else 1) * (wide[:, 0] + 1j * wide[:, 1])

    assert within("close", real.run(samples), by_hand(magnitudes))
    if gives == "mask":  # a spectrum that ignores what goes in would go on sounding where frames end
        assert within("close", pair.run(samples), by_hand(numbers))


def test_two_models_as_block_by_block(masking: tinyrnn.Model, second: tinyrnn.Model) -> None:
    """As the driver of DTLN does it: block, shift, add; the first block - hop samples are those before the start."""
    samples = sound(3000)
    one, two = masking.stream(), second.stream()
    padded = np.concatenate([samples, np.zeros(-3000 % 128 + 384)]).astype(np.float32)
    block, total, made = np.zeros(512), np.zeros(512), []
    for at in range(0, len(padded), 128):
        block = np.concatenate([block[128:], padded[at : at + 128]])
        spectrum = np.fft.rfft(block)
        part = np.fft.irfft(one.step(np.abs(spectrum).astype(np.float32)) * spectrum).astype(np.float32)
        total = np.concatenate([total[128:], np.zeros(128)]) + two.step(part)
        made.append(total[:128])
    found = audio.SpectralMask(masking, second).run(samples)
    assert len(found) == 3000
    assert within("close", found, np.concatenate(made)[384:3384])


@settings(max_examples=12, deadline=None)
@given(count=st.integers(0, 4000), sizes=SIZES)
def test_any_pieces_give_the_same_bits(
    masking: tinyrnn.Model, second: tinyrnn.Model, echo_model: tinyrnn.Model, count: int, sizes: list[int]
) -> None:
    samples = sound(count)
    for make in (
        lambda: audio.SpectralMask(masking, second),
        lambda: audio.SpectralMask(masking, window="hann", hop=100),
        lambda: audio.SampleFilter(echo_model),
        lambda: audio.SampleFilter(echo_model, hop=70, window="hann"),
    ):
        pipeline = make()
        wanted = pipeline.run(samples)
        assert len(wanted) == count
        np.testing.assert_array_equal(fed(pipeline, samples, sizes), wanted)
    listener = audio.Listener(echo_model, hop=70)
    wanted = listener.run(samples)["y"]
    found = [listener.push(piece)["y"] for piece in pieces(samples, sizes)]
    np.testing.assert_array_equal(np.concatenate([*found, listener.finish()["y"]]), wanted)


def test_listener_with_context(folder: Path) -> None:
    model = tinyrnn.load(loudness(folder / "vad.onnx"), bind={"sr": RATE})
    samples, seen = sound(70000), []
    listener = audio.Listener(model, hop=512)
    found = listener.run(samples, lambda done, total: seen.append((done, total)))
    assert within("close", found["output"], loud(samples, 576, 512))
    assert seen[-1] == (70000, 70000) and len(seen) > 1
    assert str(listener) == "frames of 576 samples every 512"


def test_what_belongs_to_a_call_covers_everything(tmp_path: Path) -> None:
    path = MODELS / "classify_gru_mean_dynT_legacy.onnx"
    model, samples = tinyrnn.load(path), sound(70000)
    assert not model.outputs[0].per_frame
    wanted = model.stream().run(samples.reshape(-1, 5))
    assert within("close", audio.Listener(model).run(samples)["y"], wanted)
    with pytest.raises(ShapeError, match="no value for output 'y'"):
        audio.Listener(model).run(samples[:0])
    files.write_array(tmp_path / "in.wav", samples, RATE, "float")
    call("run", path, tmp_path / "in.wav", "-o", tmp_path / "out.csv")
    assert within("close", files.read_array(tmp_path / "out.csv")[0].astype(np.float32), wanted)
    assert "is no sound" in refused("run", path, tmp_path / "in.wav", "-o", tmp_path / "out.wav")
    assert "not all outputs come frame by frame" in refused("run", path, tmp_path / "in.wav", "-o", "-")


def shifted(path: Path, values: int, ahead: int, step: int = 1) -> Path:
    """y[t] = |x[step * t + ahead]|, zeros after the end, over the frames of a sequence."""
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Slice", ["padded", "start", "end", "axis", "step"], ["later"]),
        helper.make_node("Abs", ["later"], ["y"]),
    ]
    constants = {
        "pads": np.array([0, 0, ahead, 0]),
        "start": np.array([ahead]),
        "end": np.array([np.iinfo(np.int64).max]),
        "axis": np.array([0]),
        "step": np.array([step]),
    }
    return save(path, nodes, {"x": ["T", values]}, ["y"], constants)


def test_a_mask_that_comes_late(folder: Path) -> None:
    """Masks of a model that looks two frames ahead meet the spectra that they are for."""
    model = tinyrnn.load(shifted(folder / "ahead.onnx", 65, 2))
    assert model.delay == 2
    samples = sound(1500)
    mask = audio.SpectralMask(model, hop=64, window="hann")
    stft = audio.Stft(128, 64, "hann")
    spectra = np.concatenate([stft.push(samples), stft.push(np.zeros(-1500 % 64 + 64, np.float32))])
    later = np.concatenate([np.abs(spectra)[2:], np.zeros((2, 65))])
    inverse = audio.InverseStft(128, 64, "hann")
    wanted = np.concatenate([inverse.push(spectra * later), inverse.finish()])[64:1564]
    found = mask.run(samples)
    assert within("close", found, wanted.astype(np.float32))
    for sizes in ([1], [64], [700, 3]):
        np.testing.assert_array_equal(fed(mask, samples, sizes), found)


def test_fewer_rows_than_frames(tmp_path: Path, folder: Path) -> None:
    samples = sound(3203)
    frames = np.concatenate([samples, np.zeros(-3203 % 160, np.float32)]).reshape(-1, 160)
    fewer = tinyrnn.load(shifted(folder / "fewer.onnx", 160, 1, 2))
    listener = audio.Listener(fewer)
    assert listener.hops() == {"y": 320}
    wanted = np.abs(np.concatenate([frames, np.zeros((1, 160))])[1::2])
    assert within("close", listener.run(samples)["y"], wanted)
    files.write_array(tmp_path / "in.wav", samples, RATE, "float")
    call("run", folder / "fewer.onnx", tmp_path / "in.wav", "-o", tmp_path / "out.csv", "--plot", tmp_path / "p.png")
    np.testing.assert_allclose(files.read_array(tmp_path / "out.csv")[:, 0], np.arange(len(wanted)) * 0.02)
    made = audio.SampleFilter(fewer).run(samples)
    assert within("close", made, wanted.ravel()[: -(-3203 // 2)])
    call("run", folder / "fewer.onnx", tmp_path / "in.wav", "-o", tmp_path / "out.wav")
    assert files.read_wav(tmp_path / "out.wav")[1] == 8000
    with pytest.raises(ShapeError, match="has 500 rows for 1000 frames"):
        audio.SpectralMask(tinyrnn.load(shifted(folder / "half.onnx", 65, 1, 2)))


def test_models_that_are_not_for_sound(folder: Path, echo_model: tinyrnn.Model, masking: tinyrnn.Model) -> None:
    two = save(folder / "two.onnx", [helper.make_node("Add", ["a", "b"], ["y"])], {"a": [1, 8], "b": [1, 8]}, ["y"], {})
    outs = save(
        folder / "outs.onnx",
        [helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Abs", ["a"], ["z"])],
        {"a": [1, 8]},
        ["y", "z"],
        {},
    )
    letters = tinyrnn.load(Path(tinyrnn.__file__).parent / "models" / "char_lm.onnx")
    for make, says in (
        (lambda: audio.Listener(tinyrnn.load(two)), "takes 2 inputs"),
        (lambda: audio.SampleFilter(tinyrnn.load(outs)), "gives 2 outputs"),
        (lambda: audio.Listener(letters), "takes no samples"),
        (lambda: audio.SpectralMask(echo_model), "takes samples"),
        (lambda: audio.SpectralMask(masking, echo_model), "no block of 512 samples"),
        (lambda: audio.SpectralMask(masking, block=256), "spectrum of a block of 256"),
        (lambda: audio.SpectralMask(masking, takes="complex"), "in complex form"),
        (lambda: audio.SpectralMask(masking, takes="cepstrum"), "takes is one of"),
        (lambda: audio.SpectralMask(masking, gives="gain"), "gives is one of"),
        (lambda: audio.SampleFilter(echo_model, hop=161), "every 161"),
        (lambda: audio.Listener(echo_model, block=100), "160 samples, not 100"),
        (lambda: audio.SampleFilter(echo_model, channels=2), "2 channels"),
        (lambda: audio.SpectralMask(masking).run(np.zeros((9, 2), np.float32)), "samples are float"),
    ):
        with pytest.raises(ShapeError, match=says):
            make()


# --- real models on real sound ---------------------------------------------------------------------------------------


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def load_shared(name: str, **how: Any) -> tinyrnn.Model:
    return tinyrnn.load(shared(f"models/{name}"), **how)


def si_snr(estimate: Array, target: Array) -> float:
    """Scale-invariant signal-to-noise ratio, dB (Le Roux et al., 2019)."""
    e, t = (np.asarray(v, np.float64) - np.mean(v, dtype=np.float64) for v in (estimate, target))
    part = (e @ t) / (t @ t) * t
    return float(10 * np.log10((part @ part) / ((e - part) @ (e - part))))


def test_dtln_cleans_a_file(tmp_path: Path) -> None:
    load_shared("dtln_model_2.onnx")
    noisy, clean = shared("data/ulunas_noisy_0119.wav"), shared("data/ulunas_clean_0119.wav")
    first, later = (shared(f"models/dtln_model_{i}.onnx") for i in (1, 2))
    found = json.loads(call("run", first, noisy, "--model2", later, "-o", tmp_path / "out.wav", "--json").stdout)
    assert found["frames"] == 1250 and found["audio_seconds"] == 10 and 0 < found["real_time_factor"] < 1
    made, rate = files.read_wav(tmp_path / "out.wav")
    (before, _), (target, _) = files.read_wav(noisy), files.read_wav(clean)
    assert rate == RATE and len(made) == len(target)
    assert round(si_snr(before, target), 1) == 7.5
    assert round(si_snr(made, target), 1) >= 13.5


def test_gtcrn_cleans_speech() -> None:
    model = load_shared("gtcrn_simple.onnx")
    samples, _ = files.read_wav(shared("data/gtcrn_mix_16k.wav"))
    made = audio.SpectralMask(model).run(samples)
    assert len(made) == len(samples) and np.isfinite(made).all()
    quiet = slice(np.argmin(np.convolve(np.abs(samples), np.ones(4000), "valid")), None)
    near = slice(quiet.start, quiet.start + 4000)
    assert np.std(made[near]) < 0.3 * np.std(samples[near])  # the noise goes, the speech stays
    assert np.corrcoef(made, samples)[0, 1] > 0.7


def test_silero_hears_speech() -> None:
    model = load_shared("silero_vad_16k_op15.onnx", bind={"sr": RATE, "batch": 1, "sequence": 576})
    samples, _ = files.read_wav(shared("data/silero_test_16k.wav"))
    found = audio.Listener(model, hop=512).run(samples)["output"]
    assert round(float(np.mean(found > 0.5)), 2) == 0.77


# --- .wav ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", wav.WRITTEN)
@pytest.mark.parametrize("shape", [(999,), (500, 2)])
def test_wav_in_every_format(tmp_path: Path, bits: str, shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    assert files.write_array(tmp_path / "a.wav", samples, 44100, bits) == 0
    found, rate = files.read_wav(tmp_path / "a.wav")
    assert rate == 44100
    step = 0.0 if bits == "float" else 2.0 ** (1 - int(bits))
    assert np.abs(found - samples).max() <= step
    assert (tmp_path / "a.wav").stat().st_size % 2 == 0
    if bits != "float":
        with wave.open(str(tmp_path / "a.wav")) as file:
            assert (file.getsampwidth() * 8, file.getnframes()) == (int(bits), len(samples))
    with pytest.raises(ShapeError, match="written are 16, 24"):
        files.write_array(tmp_path / "a.wav", samples, 44100, "12")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_wav_is_a_load_error_or_sound(folder: Path, data: st.DataObject) -> None:
    whole = bytearray(wav.to_wav(sound(50), RATE, data.draw(st.sampled_from(wav.WRITTEN)))[0])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 255)), max_size=4)):
        whole[at] = value
    path = folder / "damaged.wav"
    path.write_bytes(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    try:
        samples, rate = files.read_wav(path)
    except LoadError as error:
        assert str(path) in str(error)
    else:
        assert samples.dtype == np.float32 and rate > 0


# --- the command line ------------------------------------------------------------------------------------------------


def call(*arguments: Any, status: int = 0, given: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def refused(*arguments: Any, status: int = 1, given: bytes | None = None) -> str:
    result = call(*arguments, status=status, given=given)
    assert "Traceback" not in result.output and result.stderr.count("Error: ") == 1
    return str(result.stderr)


def test_run_from_sound_to_sound(tmp_path: Path, folder: Path, echo_model: tinyrnn.Model) -> None:
    files.write_array(tmp_path / "in.wav", sound(5003), RATE)
    samples, _ = files.read_wav(tmp_path / "in.wav")
    result = call(
        "run",
        folder / "echo.onnx",
        tmp_path / "in.wav",
        "-o",
        tmp_path / "out.wav",
        "--bits",
        "float",
        "--plot",
        tmp_path / "p.png",
    )
    assert "32 frames in" in result.stdout and "0.3127 s of sound" in result.stdout and "× real time" in result.stdout
    found, rate = files.read_wav(tmp_path / "out.wav")
    assert rate == RATE
    np.testing.assert_array_equal(found, audio.SampleFilter(echo_model).run(samples))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_run_from_sound_to_figures(tmp_path: Path, folder: Path) -> None:
    path = loudness(folder / "vad.onnx")
    files.write_array(tmp_path / "in.wav", sound(20000), RATE)
    samples, _ = files.read_wav(tmp_path / "in.wav")
    how = ("run", path, tmp_path / "in.wav", "--bind", f"sr={RATE}")
    wanted = loud(samples, 576, 512)
    assert "needs --context 64" in call(*how, "-o", tmp_path / "out.npy").stderr
    assert "--context" not in call(*how, "--context", 64, "--plot", tmp_path / "p.png").stderr
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    call(*how, "--context", 64, "-o", tmp_path / "out.npy")
    assert within("close", np.load(tmp_path / "out.npy"), wanted)
    call(*how, "--hop", 512, "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["output"], np.load(tmp_path / "out.npy"))
        np.testing.assert_allclose(found["seconds"], np.arange(40) * 0.032)
    call(*how, "--context", 64, "-o", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "seconds,output"
    table = files.read_array(tmp_path / "out.csv")
    np.testing.assert_allclose(table[:, 0], np.arange(40) * 0.032)
    np.testing.assert_array_equal(table[:, 1:].astype(np.float32), np.load(tmp_path / "out.npy"))
    assert "figures and no sound; write .csv" in refused(*how, "--context", 64, "-o", tmp_path / "out.wav")


def test_run_through_pipes(tmp_path: Path, folder: Path, echo_model: tinyrnn.Model) -> None:
    samples = sound(5003)
    raw, _ = wav.encode(samples)
    heard = wav.decode(raw, wav.Format(RATE))
    wanted, _ = wav.encode(audio.SampleFilter(echo_model).run(heard))
    for form in (raw, raw + b"\1", wav.to_wav(samples, RATE)[0]):  # half a sample at the end is dropped
        result = call("run", folder / "echo.onnx", "-", "-o", "-", given=form)
        assert result.stdout_bytes == wanted
        assert "32 frames in" in result.stderr
    call("run", folder / "echo.onnx", "-", "-o", tmp_path / "out.wav", "--rate", RATE, given=raw)
    assert files.read_wav(tmp_path / "out.wav")[0].shape == (5003,)
    assert "give --rate HZ" in refused("run", folder / "echo.onnx", "-", "-o", tmp_path / "out.wav", given=raw)
    assert "16000 Hz, the model expects 8000" in refused(
        "run", folder / "echo.onnx", "-", "-o", "-", "--rate", 8000, given=wav.to_wav(samples, RATE)[0]
    )
    lines = call(
        "run", loudness(folder / "vad.onnx"), "-", "-o", "-", "--bind", f"sr={RATE}", "--context", 64, given=raw
    ).stdout.splitlines()
    assert lines[0] == "seconds,output" and len(lines) == 1 + 10
    assert within("close", np.array([[line.split(",")[1]] for line in lines[1:]], np.float32), loud(heard, 576, 512))


def test_a_pipe_is_answered_as_sound_comes(folder: Path, echo_model: tinyrnn.Model) -> None:
    command = [sys.executable, "-m", "tinyrnn", "run", str(folder / "echo.onnx"), "-", "-o", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout
    try:
        process.stdin.write(bytes(2 * 330))
        process.stdin.flush()
        assert len(process.stdout.read(2 * 320)) == 2 * 320  # two frames are out before the third is in
        rest, _ = process.communicate(timeout=60)
        assert len(rest) == 2 * 10 and process.returncode == 0
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("options", "metadata", "says"),
    [
        (["--rate", 16000], {}, "16000 (--rate)"),
        (["--bind", "sr=16000"], {}, "16000 (--bind sr=16000)"),
        ([], {"sample_rate": "16000"}, "16000 (its metadata sample_rate=16000)"),
        ([], {"SampleRate": "48000"}, "48000"),
    ],
)
def test_another_sample_rate_is_refused(
    tmp_path: Path, folder: Path, options: list[Any], metadata: dict[str, str], says: str
) -> None:
    files.write_array(tmp_path / "in.wav", sound(900), 44100)
    path = loudness(folder / "vad.onnx") if "--bind" in options else echo(tmp_path / "model.onnx", [1, 160], **metadata)
    message = refused("run", path, tmp_path / "in.wav", "-o", tmp_path / "out.npy", *options)
    assert f"the file is 44100 Hz, the model expects {says}" in message
    assert f"resample it: ffmpeg -i {tmp_path / 'in.wav'} -ar " in message
    assert not (tmp_path / "out.npy").exists()


def test_channels(tmp_path: Path, folder: Path, echo_model: tinyrnn.Model) -> None:
    both = sound(2000).reshape(1000, 2)
    files.write_array(tmp_path / "in.wav", both, RATE, "float")
    how = ("run", folder / "echo.onnx", tmp_path / "in.wav", "-o", tmp_path / "out.npy")
    assert "2 channels of samples do not make input x: float32[160]. --channel takes one" in refused(*how)
    for channel, wanted in (("1", both[:, 0]), ("2", both[:, 1]), ("mean", both.mean(axis=1))):
        call(*how, "--channel", channel)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), audio.Listener(echo_model).run(wanted)["y"])
    for channel in ("0", "3", "left"):
        assert f"no channel '{channel}'; it has 1 to 2" in refused(*how, "--channel", channel)
    model = gained(tmp_path / "pair.onnx", [1, 64, 2], 0.5)
    call("run", model, tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--bits", "float")
    np.testing.assert_array_equal(files.read_wav(tmp_path / "out.wav")[0], both * np.float32(0.5))


def test_run_refuses_sound(tmp_path: Path, folder: Path, echo_model: tinyrnn.Model, masking: tinyrnn.Model) -> None:
    good, out = tmp_path / "in.wav", tmp_path / "out.wav"
    files.write_array(good, sound(900), RATE)
    (tmp_path / "text.wav").write_bytes(b"no sound at all, this")
    (tmp_path / "short.wav").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "header.wav").write_bytes(good.read_bytes()[:30])
    (tmp_path / "nan.wav").write_bytes(wav.to_wav(sound(9), RATE, "float")[0][:-4] + struct.pack("<f", np.nan))
    np.save(tmp_path / "in.npy", np.zeros((3, 160), np.float32))
    echoing = folder / "echo.onnx"
    letters = Path(tinyrnn.__file__).parent / "models" / "char_lm.onnx"
    for arguments, says in (
        ((echoing, tmp_path / "text.wav", "-o", out), "not a .wav file"),
        ((echoing, tmp_path / "short.wav", "-o", out), "truncated"),
        ((echoing, tmp_path / "header.wav", "-o", out), "truncated or damaged"),
        ((echoing, tmp_path / "nan.wav", "-o", out), "NaN"),
        ((echoing, tmp_path / "none.wav", "-o", out), "no such file"),
        ((letters, good, "-o", out), "takes no samples"),
        ((echoing, good, "-o", tmp_path / "none" / "out.wav"), "no folder"),
        ((echoing, good, "-o", good), "would be overwritten"),
        ((echoing, good, "-o", tmp_path / "out.mp3"), "unknown kind of file"),
        ((echoing, good, "--plot", tmp_path / "a.doc"), "unknown kind of picture"),
        ((echoing, good, "--plot", tmp_path / "none" / "a.png"), "no folder"),
        ((echoing, good, "-o", out, "--hop", 161), "every 161"),
        ((echoing, good, "-o", out, "--context", 160), "some of them new"),
        ((echoing, good, "-o", out, "--hop", 9, "--context", 9), "in place of --hop"),
        ((echoing, good, "-o", out, "--model2", echoing), "models of spectra"),
        ((echoing, good, "-o", out, "--bits", 12), "written are"),
        ((folder / "masking.onnx", good, "-o", out, "--model2", echoing), "no block of 512"),
        ((folder / "masking.onnx", good, "-o", out, "--window", "round"), "unknown window"),
        ((folder / "masking.onnx", good, "-o", tmp_path / "o.npy", "--model2", echoing), "for sound that comes out"),
    ):
        assert says in refused("run", *arguments)
    assert not out.exists()
    assert "Missing option '-o'" in refused("run", echoing, good, status=2)
    assert "--hop: for sound" in refused("run", echoing, tmp_path / "in.npy", "-o", out, "--hop", 9, status=2)
    assert "--plot: for sound" in refused("run", echoing, tmp_path / "in.npy", "-o", out, "--plot", tmp_path / "a.png", status=2)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="every folder can be written to")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, folder: Path, echo_model: tinyrnn.Model) -> None:
    files.write_array(tmp_path / "in.wav", sound(9), RATE)
    (tmp_path / "closed").mkdir(mode=0o500)
    for option, name in (("-o", "out.wav"), ("--plot", "a.png")):
        assert "cannot be written" in refused(
            "run", folder / "echo.onnx", tmp_path / "in.wav", option, tmp_path / "closed" / name
        )


def test_sound_of_no_samples(tmp_path: Path, folder: Path, masking: tinyrnn.Model, echo_model: tinyrnn.Model) -> None:
    files.write_array(tmp_path / "in.wav", sound(0), RATE)
    for name in ("echo", "masking"):
        assert call("run", folder / f"{name}.onnx", tmp_path / "in.wav", "-o", tmp_path / "out.wav").stdout.startswith("0 frames")
        assert len(files.read_wav(tmp_path / "out.wav")[0]) == 0
    assert call("run", folder / "echo.onnx", "-", "-o", "-", given=b"").stdout_bytes == b""


def test_check_takes_spectra_of_sound(tmp_path: Path, folder: Path, masking: tinyrnn.Model) -> None:
    files.write_array(tmp_path / "in.wav", sound(2000), RATE)
    assert "passed" in call("check", folder / "masking.onnx", tmp_path / "in.wav").stdout


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_of_all_kinds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    samples = sound(40000)
    figures = {
        "one": np.random.default_rng(0).random((80, 1)),
        "three": np.random.default_rng(1).normal(size=(80, 3)),
        "many": np.zeros((80, 40)),
    }
    plot_figures(tmp_path / "figures.svg", samples, figures, RATE, 500, "three outputs")
    plot_sounds(
        tmp_path / "sounds.png",
        {"in": (samples, RATE), "out": (samples[:7].reshape(7, 1), 2 * RATE), "none": (samples[:0], RATE)},
    )
    assert (tmp_path / "figures.svg").stat().st_size and (tmp_path / "sounds.png").stat().st_size
    with pytest.raises(TinyRNNError, match="nothing to draw"):
        plot_figures(tmp_path / "none.png", samples, {}, RATE, 500)


def test_without_matplotlib(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, echo_model: tinyrnn.Model) -> None:
    files.write_array(tmp_path / "in.wav", sound(900), RATE)
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    message = refused("run", folder / "echo.onnx", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--plot", tmp_path / "a.png")
    assert "drawing needs matplotlib: pip install tinyrnn[plot]" in message
    assert not (tmp_path / "out.wav").exists()


def test_sound_needs_numpy_alone() -> None:
    code = "import sys, tinyrnn.audio, tinyrnn.audio.picture; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numba", "llvmlite", "onnx", "matplotlib", "click", "tinyrnn.loading.stages"} & set(loaded)
