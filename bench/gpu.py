"""Models on a GPU: bits and times. `make` compiles here, where no GPU is needed; `run` needs a GPU, its driver and NumPy alone.

    python bench/gpu.py make FOLDER [MODEL[?{"bind": {…}}] …]
    python bench/gpu.py run FOLDER [--emulate] [--json FILE]

`make` also writes LSTM of I = H = 64, 128, 256. `run` compares the bits of every model with those of this machine's processor
(streams of a pool, of ragged lengths), measures a step of 64 to 16,384 streams, with rows on the GPU and with rows from the
host, and, where torch is there, its cuDNN on the same sizes. With --emulate the bits alone, on the emulated GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIZES = (64, 128, 256)
STREAMS = (64, 1024, 4096, 16384)
COMPARED, FRAMES = 6, 3
"""streams whose bits are compared, and their frames at most"""
MODELS = ("gesture", "digits", "char_lm", "sentiment", "video", "caption_decoder")


def lstm(folder: Path, hidden: int) -> Path:
    rng = np.random.default_rng(hidden)
    shapes = {"weight_ih_l0": (4 * hidden, hidden), "weight_hh_l0": (4 * hidden, hidden), "bias_ih_l0": (4 * hidden,)}
    arrays = {f"rnn.{n}": (rng.uniform(-1, 1, s) / hidden**0.5).astype(np.float32) for n, s in shapes.items()}
    arrays["rnn.bias_hh_l0"] = np.zeros(4 * hidden, np.float32)
    path = folder / f"lstm_{hidden}.npz"
    np.savez(path, **arrays)
    return path


def make(folder: Path, models: list[str]) -> None:
    import tinyrnn
    from tinyrnn.check.samples import random_sample

    folder.mkdir(exist_ok=True)
    given: list[tuple[Path, dict[str, Any]]] = [(lstm(folder, hidden), {"layers": [("LSTM", "rnn")]}) for hidden in SIZES]
    given += [(ROOT / "tinyrnn" / "models" / f"{name}.onnx", {}) for name in MODELS]
    for text in models:
        path, _, how = text.partition("?")
        given.append((Path(path), json.loads(how or "{}")))
    for path, how in given:
        started = time.perf_counter()
        model = tinyrnn.load(path, **how)
        if model._layout.refuses_stream:
            print(f"{path.stem}: left out, it cannot stream")
            continue
        tinyrnn.build(path, folder / path.stem, "cuda", **how)
        samples = [random_sample(model, FRAMES, seed=seed) for seed in range(COMPARED)]
        arrays: dict[str, Any] = {}
        for i, port in enumerate(model.inputs):
            arrays[f"x{i}"] = np.stack([s.inputs[port.name][0] for s in samples], 1 if port.per_frame else 0)
        lengths = np.array([FRAMES - i % FRAMES for i in range(COMPARED)])
        states = []
        for i, n in enumerate(lengths):
            stream = model.stream()
            inputs = [arrays[f"x{k}"][:n, i] if p.per_frame else arrays[f"x{k}"][i] for k, p in enumerate(model.inputs)]
            made = stream.run(*inputs)
            states.append(stream.state.copy())
            for k, rows in enumerate(made if isinstance(made, tuple) else (made,)):
                arrays[f"y{k}_{i}"] = rows
        np.savez(folder / path.stem / "expected.npz", lengths=lengths, states=np.stack(states), **arrays)
        print(f"{path.stem}: {time.perf_counter() - started:.1f} s", flush=True)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bits, but that any NaN equals any NaN: a GPU has only one."""
    if a.dtype.kind == "f":
        return a.shape == b.shape and bool(((a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))).all())
    return a.tobytes() == b.tobytes()


def bits(model: Any, stored: Any) -> bool:
    """Whether a pool and one stream on the GPU have the bits that were made on a processor."""
    lengths, pool = stored["lengths"], model.pool(COMPARED)
    xs = [stored[f"x{k}"] for k in range(len(model.inputs))]
    made = pool.run(*xs, lengths=lengths)
    good = True
    for i, n in enumerate(lengths):
        rows = made[i] if isinstance(made, list) else None
        for k, port in enumerate(model.outputs):
            expected = stored[f"y{k}_{i}"]
            if rows is not None:
                mine = (rows if isinstance(rows, tuple) else (rows,))[k]
            else:
                every = (made if isinstance(made, tuple) else (made,))[k]
                mine = every[:n, i] if port.per_frame else every[i]
            good = good and same(mine, expected)
    good = good and same(np.asarray(pool.state), stored["states"])
    pool.close()
    stream, n = model.stream(), int(lengths[0])
    alone = stream.run(*(x[:n, 0] if p.per_frame else x[0] for x, p in zip(xs, model.inputs, strict=True)))
    for k, mine in enumerate(alone if isinstance(alone, tuple) else (alone,)):
        good = good and same(mine, stored[f"y{k}_0"])
    return good and same(stream.state, stored["states"][0])


def times(model: Any, device: Any, count: int, stored: Any) -> dict[str, float]:
    """µs of one step of all streams: with rows on the GPU, and with rows from and to the host."""
    pool = model.pool(count)
    rng = np.random.default_rng(0)
    xs = [
        np.resize(stored[f"x{k}"][0] if p.per_frame else stored[f"x{k}"], (count, *p.shape)) for k, p in enumerate(model.inputs)
    ]
    xs = [x if x.dtype.kind != "f" else (x + 0.01 * rng.standard_normal(x.shape)).astype(x.dtype) for x in xs]
    found = {}
    runner = pool._driver_of.runner
    pool.step(*xs)
    if runner.page.tick:
        addresses = [runner.memory.sent(f"x{i}", x) for i, x in enumerate(xs)]
        addresses += [runner.memory.room(f"y{j}", 1) for j in range(len(model.outputs))]
        step = lambda: runner.launch(pool._all, addresses, [], 1, None)  # noqa: E731
        step()
        found["device"] = 1e6 * min(device.seconds(step, 50) for _ in range(3))
    found["host"] = 1e6 * best(lambda: pool.step(*xs), 10)
    pool.close()
    return found


def best(work: Callable[[], Any], times: int) -> float:
    measured = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(times):
            work()
        measured.append((time.perf_counter() - start) / times)
    return min(measured)


def of_torch() -> list[dict[str, Any]]:
    """cuDNN's LSTM, one step and a chunk, eager and as a CUDA graph, in float32 and TF32."""
    try:
        import torch
    except ImportError:
        return []
    found = []
    for tf32 in (False, True):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        for hidden in SIZES:
            for count, frames in ((1, 1), (64, 1), (1024, 1), (16384, 1), (1, 1000)):
                net = torch.nn.LSTM(hidden, hidden).cuda().eval()
                x = torch.randn(frames, count, hidden, device="cuda")
                with torch.inference_mode():
                    side = torch.cuda.Stream()
                    with torch.cuda.stream(side):
                        for _ in range(3):
                            net(x)
                    torch.cuda.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        net(x)
                    for name, work in (("eager", lambda: net(x)), ("graph", graph.replay)):  # noqa: B023
                        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                        work()
                        start.record()
                        for _ in range(20):
                            work()
                        end.record()
                        torch.cuda.synchronize()
                        took = start.elapsed_time(end) / 20 / frames * 1e3
                        how = {"numbers": "tf32" if tf32 else "fp32", "way": name}
                        found.append({**how, "hidden": hidden, "streams": count, "frames": frames, "us_a_step": took})
    return found


def run(folder: Path, emulate: bool, to: Path | None) -> int:
    from tinyrnn.errors import TargetError
    from tinyrnn.runtime.cuda_driver import first_gpu
    from tinyrnn.runtime.load_built import load_built

    def fresh() -> Any:
        if not emulate:
            return first_gpu()
        from tinyrnn.targets.emulator.device import Emulated

        return Emulated(1 << 27)

    results: dict[str, Any] = {"models": {}, "torch": []}
    started = time.perf_counter()
    try:
        device = fresh()
    except TargetError as error:
        print(error)
        return 2
    good = True
    for path in sorted(folder.iterdir()):
        if not (path / "expected.npz").is_file():
            continue
        device = fresh()
        before = time.perf_counter()
        model = load_built(path, device)
        stored = np.load(path / "expected.npz")
        equal = bits(model, stored)
        good &= equal
        entry: dict[str, Any] = {"bits": equal, "first_seconds": time.perf_counter() - before}
        print(f"{path.name:24s} bits {'equal' if equal else 'DIFFER'} ({entry['first_seconds']:.1f} s with loading)", flush=True)
        for count in () if emulate else STREAMS:
            took = times(model, device, count, stored)
            entry[str(count)] = took
            shown = ", ".join(f"rows on the {where} {us:9.1f} µs" for where, us in took.items())
            rate = count / min(took.values())
            print(f"{'':24s} {count:6d} streams: {shown}; {rate:.2f} M frames/s", flush=True)
        results["models"][path.name] = entry
    if not emulate:
        results["torch"] = of_torch()
        for row in results["torch"]:
            print("torch", row)
    results["seconds"] = time.perf_counter() - started
    if to is not None:
        to.write_text(json.dumps(results, indent=1))
    print(f"{results['seconds']:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.what == "make":
        make(given.folder, given.models)
    else:
        sys.exit(run(given.folder, given.emulate, given.json))
