"""Every command, as a user types it: what it prints, what it writes, how it ends."""

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module

import click
import numpy as np
import pytest
from click.testing import CliRunner

import tinyrnn
from tests import MODELS, ROOT
from tinyrnn.cli import Commands, main

STEP = MODELS / "packed_state_lstm_step_legacy.onnx"
SEQUENCE = MODELS / "lstm_layernorm_lstm_dynT_legacy.onnx"
BACKWARD = MODELS / "lstm_l1_bi_sf_zero_fixT_b2_legacy.onnx"
STATES = MODELS / "lstm_l2_uni_sf_states_dynT_dynB_legacy.onnx"
LANGUAGE = ROOT / "tinyrnn" / "models" / "char_lm.onnx"
COMMANDS = ("inspect", "run", "trace", "check", "bench", "generate", "demo")


def call(*arguments, status=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def refused(*arguments, status=1):
    """The one message of a call that fails."""
    result = call(*arguments, status=status)
    assert "Traceback" not in result.output
    assert "Error: " in result.stderr
    return result.stderr


def frames(path, count=40, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (count, *tinyrnn.load(path).inputs[0].shape)).astype(np.float32)


def streamed(path, xs):
    return tinyrnn.load(path).stream().run(xs)


def python(*arguments):
    """A fresh process in the root of the repository."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )


# All commands


def test_a_package_that_is_missing_is_named():
    @click.group(cls=Commands)
    def program():
        pass

    @program.command()
    @click.argument("package")
    def needs(package):
        import_module(package)

    result = CliRunner().invoke(program, ["needs", "no_such_package.part"])
    assert result.exit_code == 1 and result.stderr == "Error: this needs no_such_package, which is not installed\n"
    assert isinstance(CliRunner().invoke(program, ["needs", "tinyrnn.no_such_part"]).exception, ModuleNotFoundError)


@pytest.mark.parametrize("arguments", [(), *((c,) for c in COMMANDS)])
def test_help(arguments):
    text = call(*arguments, "--help").stdout
    assert text.startswith(f"Usage: main {' '.join(arguments)}".rstrip())
    assert all(option in text for option in ("--bind", "--states", "--outputs", "--layers")) == (arguments not in ((), ("demo",)))
    assert all(c in text for c in COMMANDS if not arguments)
    if arguments not in ((), ("demo",)):  # a group: its commands have theirs
        assert "--json" in text


def test_version():
    assert call("--version").stdout == f"tinyrnn, version {tinyrnn.__version__}\n"


def test_help_loads_neither_compiler_nor_onnx():
    code = (
        "import sys, tinyrnn.cli\ntry: tinyrnn.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in "
        "('numpy', 'numba', 'llvmlite', 'onnx', 'onnxruntime', 'matplotlib', 'torch') if m in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "[]"


def test_as_a_module(tmp_path):
    done = python("-m", "tinyrnn", "inspect", STEP, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["kind"] == "step"
    done = python("-m", "tinyrnn", "inspect", tmp_path / "none.onnx")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    done = python("-m", "tinyrnn", "inspect")
    assert done.returncode == 2
    assert "Missing argument 'MODEL'" in done.stderr


@pytest.mark.parametrize("command", ["inspect", "check", "bench"])
def test_files_that_are_no_models(tmp_path, command):
    for name, content, says in (
        ("none.onnx", None, "no such file"),
        ("empty.onnx", b"", "empty"),
        ("text.onnx", b"no model", "not an ONNX file"),
        ("model.h5", b"no model", "an HDF5 file"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        message = refused(command, path)
        assert says in message
        assert str(path) in message


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--bind", "x"], 2, "takes NAME=VALUE"),
        (["--bind", "x=1,a"], 2, "takes a number"),
        (["--bind", "x=[1,"], 2, "takes a number"),
        (["--bind", "x=1", "--bind", "x=2"], 2, "given twice"),
        (["--bind", "nothing=1"], 1, "'nothing'"),
        (["--bind", "x=@none.npy"], 1, "none.npy"),
        (["--states", "a"], 2, "IN=OUT"),
        (["--states", "a=b"], 1, "'a'"),
        (["--outputs", "nothing"], 1, "'nothing'"),
        (["--outputs", ""], 1, "empty"),
        (["--layers", "{"], 2, "not JSON"),
        (["--layers", "{}"], 2, "JSON list"),
        (["--layers", "[]"], 1, ".npz"),
        (["--nothing"], 2, "No such option"),
    ],
)
def test_load_options_refused(options, status, says):
    assert says in refused("inspect", STEP, *options, status=status)


# inspect


@pytest.mark.parametrize(
    ("path", "kind", "streams"),
    [
        (STEP, "step", True),
        (SEQUENCE, "sequence", True),
        (BACKWARD, "sequence", False),
        (LANGUAGE, "sequence", True),
    ],
    ids=lambda v: getattr(v, "stem", str(v)),
)
def test_inspect(path, kind, streams):
    model = tinyrnn.load(path)
    found = json.loads(call("inspect", path, "--json").stdout)
    assert (found["kind"], found["streams"], found["name"]) == (kind, streams, path.stem)
    assert [p["name"] for p in found["inputs"]] == [p.name for p in model.inputs]
    assert [p["shape"] for p in found["outputs"]] == [list(p.shape) for p in model.outputs]
    assert [s["name"] for s in found["states"]] == [s.name for s in model.states]
    assert found["parameters"] > 0
    assert found["multiply_adds"] > 0
    assert sum(found["ops"].values()) == found["nodes"]["compiled"]
    assert all(isinstance(n, int) and n >= 0 for n in found["memory"].values())
    text = call("inspect", path).stdout
    for port in (*model.inputs, *model.outputs, *model.states):
        assert port.name in text
    if streams:
        assert "yes, frame by frame" in text
    else:
        assert "/core/LSTM" in found["refuses_stream"]
        assert "bidirectional" in text


def test_inspect_counts_the_parameters_of_the_file():
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(LANGUAGE).graph
    floats = [a for a in map(numpy_helper.to_array, proto.initializer) if a.dtype.kind == "f" and a.size > 1]
    assert json.loads(call("inspect", LANGUAGE, "--json").stdout)["parameters"] == sum(a.size for a in floats)


def test_inspect_stages():
    assert "LSTM" in call("inspect", STEP, "--graph").stdout
    assert call("inspect", STEP, "--plan").stdout.startswith("plan of ")
    compile(call("inspect", STEP, "--source").stdout, "step", "exec")
    found = json.loads(call("inspect", STEP, "--graph", "--plan", "--source", "--json").stdout)
    assert {"graph", "plan", "source", "kind"} <= found.keys()


def test_inspect_states_none_makes_them_inputs():
    found = json.loads(call("inspect", STEP, "--states", "none", "--json").stdout)
    assert found["states"] == []
    assert len(found["inputs"]) == 2


# run


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
@pytest.mark.parametrize("out", ["npy", "npz", "csv"])
def test_run_in_every_format(tmp_path, kind, out):
    from tinyrnn.data import files

    xs, given, made = frames(SEQUENCE), tmp_path / f"in.{kind}", tmp_path / f"out.{out}"
    files.write_array(given, xs)
    text = call("run", SEQUENCE, given, "-o", made).stdout
    assert text.startswith("40 frames in ")
    np.testing.assert_array_equal(files.read_array(made).astype(np.float32), streamed(SEQUENCE, xs))


@pytest.mark.parametrize("out", ["npy", "npz", "csv"])
def test_run_over_no_frames(tmp_path, out):
    np.save(tmp_path / "in.npy", frames(SEQUENCE, 0))
    assert call("run", SEQUENCE, tmp_path / "in.npy", "-o", tmp_path / f"out.{out}").stdout.startswith("0 frames")


def test_run_json(tmp_path):
    np.save(tmp_path / "in.npy", frames(STEP))
    found = json.loads(call("run", STEP, tmp_path / "in.npy", "-o", tmp_path / "out.npz", "--json").stdout)
    assert found["frames"] == 40
    assert found["seconds"] > 0
    assert next(iter(found["arrays"].values()))["shape"][0] == 40


def test_run_wav(tmp_path):
    from tinyrnn.data import files

    model = tinyrnn.load(SEQUENCE)
    size, out = model.inputs[0].size, model.outputs[0].size
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 40 * size - 2).astype(np.float32)
    files.write_array(tmp_path / "in.wav", samples, 16000)
    samples = files.read_array(tmp_path / "in.wav")
    wanted = streamed(SEQUENCE, np.append(samples, np.zeros(2, np.float32)).reshape(40, size))
    call("run", SEQUENCE, tmp_path / "in.wav", "-o", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)
    result = call("run", SEQUENCE, tmp_path / "in.wav", "-o", tmp_path / "out.wav")
    found, rate = files.read_wav(tmp_path / "out.wav")
    assert rate == 16000 * out // size  # as many seconds
    assert len(found) == -(-len(samples) * out // size)
    np.testing.assert_allclose(found, np.clip(wanted.ravel()[: len(found)], -1, 1), atol=1e-4)
    assert ("were clipped" in result.stderr) == bool(np.abs(wanted).max() > 1)
    assert "the model expects 8000" in refused("run", SEQUENCE, tmp_path / "in.wav", "-o", tmp_path / "o.wav", "--rate", 8000)
    files.write_array(tmp_path / "stereo.wav", np.zeros((100, 2), np.float32), 16000)
    assert "2 channels" in refused("run", SEQUENCE, tmp_path / "stereo.wav", "-o", tmp_path / "out.npy")


def test_run_tokens(tmp_path):
    codes = np.arange(20) % 65
    np.save(tmp_path / "in.npy", codes)
    np.savetxt(tmp_path / "in.csv", codes, "%d")
    call("run", LANGUAGE, tmp_path / "in.npy", "-o", tmp_path / "a.npy")
    call("run", LANGUAGE, tmp_path / "in.csv", "-o", tmp_path / "b.npy")
    wanted = streamed(LANGUAGE, codes)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), wanted)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), wanted)
    np.savetxt(tmp_path / "in.csv", codes + 0.5)
    assert "whole numbers" in refused("run", LANGUAGE, tmp_path / "in.csv", "-o", tmp_path / "c.npy")
    np.save(tmp_path / "in.npy", codes + 60)
    assert "out of range" in refused("run", LANGUAGE, tmp_path / "in.npy", "-o", tmp_path / "c.npy")
    assert not (tmp_path / "c.npy").exists()


def test_run_starts_from_states_in_the_npz_and_names_what_it_does_not_use(tmp_path):
    xs, model = frames(STATES, 9), tinyrnn.load(STATES)
    stream, parts = model.stream(), {}
    for name, view in stream.states.items():
        parts[name] = np.random.default_rng(2).standard_normal(view.shape).astype(np.float32)
        view[...] = parts[name]
    np.savez(tmp_path / "in.npz", **{model.inputs[0].name: xs}, **parts, other=np.ones(3))
    result = call("run", STATES, tmp_path / "in.npz", "-o", tmp_path / "out.npy")
    assert "'other' is not used" in result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), stream.run(xs))


def test_run_whole(tmp_path):
    model, xs = tinyrnn.load(BACKWARD), frames(BACKWARD, 6)
    np.save(tmp_path / "in.npy", xs)
    np.savetxt(tmp_path / "in.csv", xs, "%.9g", ",")
    message = refused("run", BACKWARD, tmp_path / "in.npy", "-o", tmp_path / "out.npy")
    assert "cannot stream" in message
    assert "--whole" in message
    wanted = model.run(xs[:, None])
    for given in ("in.npy", "in.csv"):
        assert call("run", BACKWARD, tmp_path / given, "-o", tmp_path / "out.npy", "--whole").stdout.startswith("6 frames")
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)
    call("run", BACKWARD, tmp_path / "in.npy", "-o", tmp_path / "out.csv", "--whole")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "out.csv", np.float32, delimiter=","), wanted[:, 0])
    two = np.stack([xs, xs[::-1]], 1)
    np.save(tmp_path / "two.npy", two)
    call("run", BACKWARD, tmp_path / "two.npy", "-o", tmp_path / "out.npy", "--whole")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.run(two))
    assert "2 sequences" in refused("run", BACKWARD, tmp_path / "two.npy", "-o", tmp_path / "out.csv", "--whole")


def test_run_whole_writes_the_states_to_npz_only(tmp_path):
    model, xs = tinyrnn.load(STATES), frames(STATES, 9)
    np.save(tmp_path / "in.npy", xs)
    call("run", STATES, tmp_path / "in.npy", "-o", tmp_path / "out.npz", "--whole")
    call("run", STATES, tmp_path / "in.npy", "-o", tmp_path / "out.npy", "--whole")
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == {p.name for p in (*model.outputs, *model._layout.state_outputs)}
        np.testing.assert_array_equal(found[model.outputs[0].name], np.load(tmp_path / "out.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy").reshape(9, -1), streamed(STATES, xs).reshape(9, -1))


def test_run_step_model_whole_is_one_call(tmp_path):
    xs = frames(STEP, 1)
    np.savetxt(tmp_path / "in.csv", xs, "%.9g", ",")
    assert call("run", STEP, tmp_path / "in.csv", "-o", tmp_path / "out.npy", "--whole").stdout.startswith("1 frame in")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy").ravel(), streamed(STEP, xs).ravel())
    np.savetxt(tmp_path / "in.csv", frames(STEP, 3), "%.9g", ",")
    assert "shape [3," in refused("run", STEP, tmp_path / "in.csv", "-o", tmp_path / "out.npy", "--whole")


def test_run_without_outputs_but_states_gives_these_frame_by_frame(tmp_path):
    model, xs = tinyrnn.load(STEP), frames(STEP)
    end = model._layout.state_outputs[0].name
    np.save(tmp_path / "in.npy", xs)
    call("run", STEP, tmp_path / "in.npy", "-o", tmp_path / "out.npy", "--outputs", end)
    stream = model.stream()
    stream.run(xs)
    written = np.load(tmp_path / "out.npy")
    assert len(written) == len(xs)
    shape = model._layout.state_outputs[0].shape
    np.testing.assert_array_equal(written[-1].ravel(), stream.state[: int(np.prod(shape))])


def test_run_refuses(tmp_path):
    given, out = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(given, frames(STEP))
    np.save(tmp_path / "shape.npy", np.zeros((4, 3, 2), np.float32))
    np.savetxt(tmp_path / "columns.csv", np.zeros((4, 3)), delimiter=",")
    np.save(tmp_path / "complex.npy", np.zeros((4, 5), complex))
    np.savez(tmp_path / "names.npz", a=np.zeros(3), b=np.zeros(3))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    model = tmp_path / STEP.name
    model.write_bytes(STEP.read_bytes())
    for name, target, says in (
        ("none.npy", out, "no such file"),
        ("shape.npy", out, "shape [4, 3, 2]"),
        ("columns.csv", out, "rows of 3 numbers"),
        ("complex.npy", out, "complex"),
        ("names.npz", out, "holds 'a', 'b'"),
        ("pickle.npy", out, "pickled"),
        ("in.npy", given, "would be overwritten"),
        ("in.npy", tmp_path / "none" / "out.npy", "no folder"),
        ("in.npy", tmp_path / "out.mp3", "unknown kind"),
        ("in.npy", tmp_path / "out.wav", "--rate"),
        ("in.npy", given / "out.npy", "no folder"),
        (STEP.name, out, "unknown kind of file '.onnx'"),
    ):
        assert says in refused("run", model, tmp_path / name, "-o", target)
    assert not out.exists()
    np.testing.assert_array_equal(np.load(given), frames(STEP))
    assert "Missing option '-o'" in refused("run", model, given, status=2)


# check, bench, demo


@pytest.mark.parametrize("path", [STEP, BACKWARD], ids=["step", "backward"])
def test_check(path):
    result = call("check", path, "--frames", 12, "--chunk", "1,5")
    assert result.stdout.splitlines()[-1] == "passed"
    found = json.loads(call("check", path, "--frames", 12, "--seed", 3, "--json").stdout)
    assert found["passed"] is True


def test_check_on_data(tmp_path):
    xs = frames(SEQUENCE, 30)
    np.save(tmp_path / "in.npy", xs)
    np.savetxt(tmp_path / "in.csv", xs, "%.9g", ",")
    for name in ("in.npy", "in.csv"):
        assert json.loads(call("check", SEQUENCE, tmp_path / name, "--json").stdout)["frames"] == 30
    assert json.loads(call("check", SEQUENCE, tmp_path / "in.npy", "--frames", 7, "--json").stdout)["frames"] == 7
    assert "no such file" in refused("check", SEQUENCE, tmp_path / "none.npy")


def test_check_that_fails_ends_with_1(monkeypatch):
    from tinyrnn import check

    monkeypatch.setitem(check.TOLERANCES, "close", {})
    result = call("check", STEP, "--frames", 12, status=1)
    assert result.stdout.splitlines()[-1] == "FAILED"
    assert json.loads(call("check", STEP, "--frames", 12, "--json", status=1).stdout)["passed"] is False


@pytest.mark.parametrize("chunk", ["0", "1,x", "", "-3"])
def test_check_refuses_chunks(chunk):
    assert "frames in a chunk" in refused("check", STEP, "--chunk", chunk, status=2)


def test_bench(tmp_path):
    pytest.importorskip("matplotlib")
    result = call(
        "bench",
        STEP,
        "--seconds",
        0.05,
        "--frames",
        50,
        "--rate",
        100,
        "--vs",
        "onnxruntime",
        "--json",
        "--plot",
        tmp_path / "p.png",
    )
    found = json.loads(result.stdout)
    assert found["latency"]["p50"] > 0
    assert found["versus"]["step_ratio"] > 0
    assert found["deadline"]["rate"] == 100
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    for options in (["--vs", "nothing"], ["--rate", 0], ["--frames", 0], ["--seconds", 0]):
        refused("bench", STEP, *options, status=2)
    assert "needs a MODEL" in refused("bench", "--rate", 3, status=2)


def test_bench_help_tells_the_defaults():
    from tinyrnn import bench

    given, text = inspect.signature(bench.bench).parameters, " ".join(call("bench", "--help").stdout.split())
    assert f"Frames of a whole run. [default: {given['frames'].default}]" in text
    assert f"About how long to measure. [default: {given['seconds'].default:g}]" in text


def test_bench_without_a_model_is_a_table(monkeypatch):
    from tinyrnn import bench

    small = bench.table
    monkeypatch.setattr(bench, "table", lambda **rest: small(cells=("RNN",), sizes=(16,), **rest))
    assert "RNN" in call("bench", "--frames", 20).stdout
    assert json.loads(call("bench", "--frames", 20, "--json").stdout)["rows"][0]["hidden"] == 16


def test_generate_writes_text_and_figures():
    from tinyrnn import decode
    from tinyrnn.data.vocabulary import encode, vocabulary_of

    model = tinyrnn.load(LANGUAGE)
    vocabulary = vocabulary_of(model)
    start = encode("ROMEO:", vocabulary)
    wanted = decode.generate(model, start, 50, method="sample", temperature=0.7, top_k=20, seed=4)
    text = "".join(vocabulary[t] for t in wanted.tokens)
    options = ("--start", "ROMEO:", "--steps", 50, "--temperature", 0.7, "--top-k", 20, "--seed", 4)
    assert call("generate", LANGUAGE, *options).stdout == f"ROMEO:{text}\n"
    found = json.loads(call("generate", LANGUAGE, *options, "--json").stdout)
    assert found["tokens"] == wanted.tokens.tolist() and found["text"] == text and not found["stopped"]
    assert call("generate", LANGUAGE, "--start", "A", "--steps", 300, "--stop", ",\n").stdout[-2] in ",\n"
    best = decode.beam(model, start, 20, width=3, n_best=2)
    found = json.loads(
        call("generate", LANGUAGE, "--start", "ROMEO:", "--steps", 20, "--width", 3, "--n-best", 2, "--json").stdout
    )
    assert [h["tokens"] for h in found["hypotheses"]] == [h.tokens.tolist() for h in best]
    assert call("generate", LANGUAGE, "--start", "A", "--steps", 5, "--method", "beam").stdout.startswith("-")


def test_generate_refuses():
    assert "does not know 'é'" in refused("generate", LANGUAGE, "--start", "\u00e9")
    assert "takes a token chosen by" in refused("generate", STEP, "--start", 0)
    for options in (
        [],
        ["--start", "A", "--method", "greedy", "--top-k", 3],
        ["--start", "A", "--width", 2, "--top-p", 0.5],
        ["--start", "A", "--top-p", 0],
        ["--start", "A", "--temperature", -1],
        ["--start", "A", "--input", "x"],
    ):
        refused("generate", LANGUAGE, *options, status=2)


def text_of(*arguments):
    return json.loads(call("demo", "--length", 60, "--json", *arguments).stdout)["text"]


def test_demo_is_seeded():
    first = text_of("--seed", 5)
    assert len(first) == 60
    assert text_of("--seed", 5) == first
    assert text_of("--seed", 6) != first
    assert text_of("--seed", 5, "--temperature", 0) == text_of("--seed", 6, "--temperature", 0)
    assert text_of("--seed", 5, "--prompt", "ROMEO:") != first


def test_demo_prints_prompt_text_speed_and_check():
    result = call("demo", "--length", 60, "--prompt", "ROMEO:", "--seed", 5)
    assert result.stdout.startswith("ROMEO:" + text_of("--seed", 5, "--prompt", "ROMEO:") + "\n\n60 characters, ")
    assert result.stdout.splitlines()[-1].startswith("against onnxruntime")
    assert result.stdout.endswith("passed\n")


def test_demo_refuses():
    assert "does not know 'é@'" in refused("demo", "--prompt", "caf\u00e9 @")
    assert "temperature of nan" in refused("demo", "--temperature", "nan")
    for options in (["--temperature", -1], ["--length", 0], ["--seed", -1], ["nothing"]):
        refused("demo", *options, status=2)


def test_demo_needs_neither_matplotlib_nor_torch():
    code = (
        "import sys\nfor name in ('matplotlib', 'torch', 'scipy'): sys.modules[name] = None\n"
        "from tinyrnn.cli import main\nmain(['demo', '--length', '20'])"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
