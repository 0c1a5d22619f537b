"""Arrays from files and back, and every file that is none."""

import io
import os
import pickle
import struct
import wave
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyrnn.data import files
from tinyrnn.errors import LoadError, ShapeError, TinyRNNError

ARRAYS = {
    "float32": np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7),
    "float64": np.array([1 / 3, 1e300, -0.0, np.inf]),
    "int64": np.arange(12).reshape(2, 3, 2),
    "bool": np.array([True, False, True]),
    "scalar": np.float32(1.5),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_npy_round_trip(tmp_path, name):
    path = tmp_path / "a.npy"
    files.write_array(path, ARRAYS[name])
    found = files.read_array(path)
    assert found.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(found, ARRAYS[name])


def test_npz_round_trip_keeps_every_name(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {
        "file": np.ones(2),
        "lstm_4/Identity:0": np.arange(3),
        "allow_pickle": np.zeros((2, 2), np.float32),
        "x": np.float32(1),
    }
    files.write_arrays(path, arrays)
    found = files.read_arrays(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    with np.load(path) as loaded:
        np.testing.assert_array_equal(loaded["lstm_4/Identity:0"], np.arange(3))


def test_one_array_of_an_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(3))
    np.testing.assert_array_equal(files.read_array(path), np.arange(3))
    np.savez(path, x=np.arange(3), y=np.arange(3))
    with pytest.raises(LoadError, match=r"2 arrays \(x, y\)"):
        files.read_array(path)


@pytest.mark.parametrize(
    "array",
    [
        ARRAYS["float32"],
        ARRAYS["float64"],
        np.arange(6).reshape(3, 2),
        np.arange(4.0),
        ARRAYS["bool"],
    ],
    ids=["float32", "float64", "int", "one axis", "bool"],
)
def test_csv_round_trip_is_exact(tmp_path, array):
    path = tmp_path / "a.csv"
    files.write_array(path, array)
    found = files.read_array(path)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.astype(array.dtype).reshape(array.shape), array)


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3,4\n",
        "a,b\n1,2\n3,4",
        "\n\n1;2\n\n3;4\n",
        "x\ty\n1\t2\n3\t4\n",
        "1 2\n 3   4\n",
        "\ufeff1,2\r\n3,4\r\n",
        '"left","right"\n1.0, 2e0\n3,4\n',
    ],
)
def test_csv_forms(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(files.read_array(path), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"1,2\n3\n", "not a table of numbers"),
        (b"1,2\n3,x\n", "not a table of numbers"),
        (b"a,b\n", "no line of numbers"),
        (b"\n\n", "no line of numbers"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"", "empty"),
        (b"1,b\n2,3\n", "not a table of numbers"),
    ],
)
def test_csv_refused(tmp_path, data, says):
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=says) as caught:
        files.read_array(path)
    assert str(path) in str(caught.value)


def wav(code, channels, rate, bits, samples, before=b"", extra=b"", size=None):
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits) + extra
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + before
    body += b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_pcm(tmp_path, bits, channels):
    path = tmp_path / "a.wav"
    wanted = np.array([-1, -0.5, 0, 0.25, 0.5, 0.75], np.float32)
    whole = (wanted.astype(np.float64) * 2 ** (bits - 1)).astype(np.int64)
    raw = b"".join(int(n + 128 * (bits == 8)).to_bytes(bits // 8, "little", signed=bits != 8) for n in whole)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, bits // 8, 16000, 0, "NONE", ""))
        file.writeframes(raw)
    samples, rate = files.read_wav(path)
    assert (rate, samples.dtype) == (16000, np.float32)
    np.testing.assert_array_equal(samples, wanted if channels == 1 else wanted.reshape(3, 2))


def test_wav_float_extensible_and_other_chunks(tmp_path):
    path, wanted = tmp_path / "a.wav", np.array([0.1, -0.2, 0.3], np.float32)
    guid = struct.pack("<HHIH", 22, 32, 4, 3) + bytes.fromhex("000000001000800000aa00389b71")
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    for data in (
        wav(3, 1, 8000, 32, wanted.tobytes()),
        wav(3, 1, 8000, 64, wanted.astype(np.float64).tobytes()),
        wav(0xFFFE, 1, 8000, 32, wanted.tobytes(), extra=guid),
        wav(3, 1, 8000, 32, wanted.tobytes(), before=odd),
        wav(3, 1, 8000, 32, wanted.tobytes(), size=0xFFFFFFFF),
    ):
        path.write_bytes(data)
        samples, rate = files.read_wav(path)
        assert rate == 8000
        np.testing.assert_array_equal(samples, wanted)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (wav(1, 1, 8000, 16, bytes(100))[:-20], "truncated"),
        (b"OggS" + bytes(50), "not a .wav file"),
        (wav(7, 1, 8000, 8, bytes(8)), "format 0x0007"),
        (wav(1, 1, 8000, 12, bytes(8)), "with 12 bits"),
        (wav(1, 0, 8000, 16, bytes(8)), "damaged"),
        (wav(1, 2, 8000, 16, bytes(6)), "damaged"),
        (b"RIFF\4\0\0\0WAVE", "without samples"),
        (b"RIFF\4\0\0\0WAVEdata\2\0\0\0ab", "does not say its format"),
    ],
)
def test_wav_refused(tmp_path, data, says):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=says):
        files.read_array(path)


@pytest.mark.parametrize("shape", [(1000,), (500, 2)])
def test_wav_round_trip(tmp_path, shape):
    path = tmp_path / "a.wav"
    samples = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    assert files.write_array(path, samples, 44100) == 0
    found, rate = files.read_wav(path)
    assert rate == 44100
    assert np.abs(found - samples).max() <= 1 / (1 << 15)
    with wave.open(str(path)) as file:
        assert file.getnframes() == len(samples)
        assert file.getsampwidth() == 2


def test_wav_clips_and_says_how_much(tmp_path):
    path = tmp_path / "a.wav"
    assert files.write_array(path, np.array([-1.5, -1, 1, 1.01, 139], np.float32), 8000) == 3
    np.testing.assert_allclose(files.read_array(path), [-1, -1, 1, 1, 1], atol=1e-4)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_pickles_are_never_read(tmp_path, kind):
    path, trace = tmp_path / f"a.{kind}", tmp_path / "trace"
    array = np.array([Bomb(str(trace))], object)
    with path.open("wb") as file:
        if kind == "npy":
            np.save(file, array, allow_pickle=True)
        else:
            np.savez(file, x=array)
    with pytest.raises(LoadError, match="pickled"):
        files.read_arrays(path)
    path.write_bytes(pickle.dumps(Bomb(str(trace))))
    with pytest.raises(LoadError):
        files.read_arrays(path)
    assert not trace.exists()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (npy(np.ones(100))[:-8], "truncated"),
        (npy(np.ones(3)) + b"more", "truncated or damaged"),
        (npy(np.array(["a"])), "holds <U1"),
        (npy(np.ones(3, np.complex64)), "holds complex64"),
        (b"\x93NUMPY\x09\x00" + bytes(50), "version 9.0"),
        (b"garbage", "not a .npy array"),
        (npy(np.ones(3)).replace(b"(3,)", b"(3**9,)"), "not a .npy array|truncated"),
        (npy(np.zeros(1)).replace(b"(1,)", b"(-1,)"), "damaged"),
        (npy(np.zeros((1, 1))).replace(b"(1, 1)", b"(1<<40,)")[:200], "damaged"),
        (b"", "empty"),
        (npy(np.zeros(1, [("a", "<f4")])), r"holds \[\('a', '<f4'\)\]"),
    ],
)
def test_npy_refused(tmp_path, data, says):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=says) as caught:
        files.read_array(path)
    assert str(path) in str(caught.value)


def test_npz_refused(tmp_path):
    path = tmp_path / "a.npz"
    good = io.BytesIO()
    np.savez(good, x=np.arange(1000))
    for data, says in ((good.getvalue()[:-30], "damaged"), (b"PK\3\4garbage", "damaged"), (b"PK\5\6" + bytes(18), "no arrays")):
        path.write_bytes(data)
        with pytest.raises(LoadError, match=says):
            files.read_arrays(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 26))
    with pytest.raises(LoadError, match="zip bomb"):
        files.read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(LoadError, match="readme.txt"):
        files.read_arrays(path)


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "wav"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_load_errors(tmp_path, kind, data):
    path = tmp_path / f"a.{kind}"
    files.write_array(path, np.linspace(-1, 1, 20, dtype=np.float32), rate=8000)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        found = files.read_arrays(path)
    except LoadError as error:
        assert str(path) in str(error)
    else:
        assert all(a.dtype.kind in "fiub" for a in found.values())


def test_missing_folder_and_unknown_kind(tmp_path):
    with pytest.raises(LoadError, match="no such file"):
        files.read_arrays(tmp_path / "none.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(LoadError, match="a folder"):
        files.read_arrays(tmp_path / "folder.npy")
    for path in (tmp_path / "a.mp3", tmp_path / "a"):
        with pytest.raises(LoadError, match="supported are .npy, .npz, .csv, .wav"):
            files.read_arrays(path)


@pytest.mark.parametrize(
    ("name", "array", "error", "says"),
    [
        ("a.csv", np.zeros((2, 2, 2)), ShapeError, "rows and columns"),
        ("a.wav", np.zeros((2, 2, 2)), ShapeError, "float samples"),
        ("a.wav", np.arange(3), ShapeError, "float samples"),
        ("a.wav", np.array([np.nan]), ShapeError, "NaN"),
    ],
)
def test_arrays_that_a_kind_cannot_hold(tmp_path, name, array, error, says):
    with pytest.raises(error, match=says):
        files.write_array(tmp_path / name, array, 8000)
    assert not list(tmp_path.iterdir())


def test_wav_needs_a_rate_and_several_arrays_an_npz(tmp_path):
    with pytest.raises(TinyRNNError, match="--rate"):
        files.write_array(tmp_path / "a.wav", np.zeros(3, np.float32))
    with pytest.raises(TinyRNNError, match=r"2 outputs \(a, b\) need an .npz"):
        files.write_arrays(tmp_path / "a.npy", {"a": np.zeros(1), "b": np.zeros(1)})


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    files.write_array(path, np.arange(3))

    def full(*args, **rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(TinyRNNError, match="No space left"):
        files.write_array(path, np.arange(4))
    monkeypatch.undo()
    np.testing.assert_array_equal(files.read_array(path), np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_output_is_checked_before_any_work(tmp_path):
    given = tmp_path / "in.npy"
    files.write_array(given, np.zeros(3))
    (tmp_path / "link.npy").symlink_to(given)
    os.link(given, tmp_path / "hard.npy")
    (tmp_path / "folder.npy").mkdir()
    for name, says in {
        "in.npy": "overwritten",
        "link.npy": "overwritten",
        "hard.npy": "overwritten",
        "folder.npy": "a folder",
        "none/a.npy": "no folder",
        "in.npy/a.npy": "no folder",
        "a.txt": "supported are",
    }.items():
        with pytest.raises(TinyRNNError, match=says):
            files.check_output(tmp_path / name, [given])
    files.check_output(tmp_path / "out.npy", [given])
    files.check_output(tmp_path / "link.npy", [])
