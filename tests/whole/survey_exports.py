"""What of PyTorch's exports runs today: `python -m tests.whole.survey_exports FOLDER`.

Exports every module of tests/whole/torch_architectures.py, and with --all every case of tests/whole/make_torch_models.py, by both of
PyTorch's exporters with time open and fixed, keeps the files in FOLDER, and prints a table of what tinyrnn does with
each: whether it agrees with PyTorch at the exported T and at another, whether it streams, and otherwise the reason.
Run again it exports only what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

import tinyrnn
from tests.whole.make_torch_models import (
    EXPORTERS,
    Case,
    cases,
    error_between,
    export,
    named,
    one_line,
    onnxruntime_outputs,
    outputs,
    strip,
    tensors,
)
from tests.whole.torch_architectures import ARCHITECTURES
from tests.whole.torch_cells import CELLS
from tinyrnn.check import within

STORED = (
    r"^(?!unrolled|loop|step)(?!norms|scripted|conditional).*_open_dynamo$|^[a-z]+step_legacy$|^step_(mingru|ligru|peephole)_dynamo$"
    r"|^unrolled_(lstm|gru|rnn)_(plain|stack|head|bi)_dynamo$|^unrolled_(lstm|gru|relu)_(last|into|layer|batch)_legacy$"
    r"|^unrolled_(lnlstm_(plain|batch)|slstm_(states|chain)|rwkv_bi|mingru_last)_legacy$"
    r"|^unrolled_(slstm_plain|lnlstm_(bi|write)|cfc_(batch|chain)|mingru_stack)_dynamo$"
    r"|^unrolled_(lstm|rnn)_states_dynamo$|^(norms|conditional)_open_dynamo$"
)
"""files kept beside the tests"""

AT, OTHER = {"T": 6, "B": 2}, {"T": 12, "B": 3}


def every() -> Iterator[Case]:
    for case in [*(Case(a.name, a.build, a.inputs, a.outputs) for a in (*ARCHITECTURES, *CELLS)), *cases()]:
        if "T" in case.dynamic:
            yield replace(case, name=f"{case.name}_open")
            fixed = {k: tuple(AT["T"] if n == "T" else n for n in shape) for k, shape in case.inputs.items()}
            yield replace(case, name=f"{case.name}_fixed", inputs=fixed)
        else:
            yield case


CASES = list(every())


def base(case: Case) -> str:
    """The name without what is said of time."""
    return re.sub("_(open|fixed)$", "", case.name)


def make(which: tuple[int, str, Path]) -> str:
    """Write the file and its arrays; a text where that failed."""
    index, exporter, folder = which
    case = CASES[index]
    torch.manual_seed(zlib.crc32(base(case).encode()))
    try:
        module = case.build().eval()
        values = tensors(case, AT)
        want = outputs(case, module, values)
        with contextlib.redirect_stdout(io.StringIO()):
            model = export(case, module, values, exporter)
        strip(model)
        error, good = error_between(onnxruntime_outputs(model, values), want)
        if not good:
            return f"onnxruntime differs from PyTorch by {error:.1e}"
        arrays = named("in", values) | named("out", want)
        longer = case
        if not case.dynamic and re.search("_fixed$|^unrolled|^loop", case.name):
            x = case.inputs["x"]
            axis = x.index(AT["T"])
            longer = replace(case, inputs=case.inputs | {"x": (*x[:axis], "T", *x[axis + 1 :])})
        at_other = tensors(longer, OTHER)
        with contextlib.suppress(Exception):
            arrays |= named("in2", at_other) | named("out2", outputs(case, module, at_other))
        onnx.save(model, folder / f"{case.name}_{exporter}.onnx")
        np.savez_compressed(folder / f"{case.name}_{exporter}.npz", **arrays)  # type: ignore[arg-type]
    except Exception as error:  # whatever an exporter raises is what the table says
        return one_line(error)
    return ""


def verdict(path: Path) -> tuple[str, str, str, str]:
    """(kind, at the exported sizes, at others, streaming or the reason)."""
    try:
        model = tinyrnn.load(path)
    except tinyrnn.TinyRNNError as error:
        text = " ".join(str(error).split())
        return "-", "refused", "", re.sub(r"^[^ ]+: (not supported: )?", "", text)[:170]
    stored, found = np.load(path.with_suffix(".npz")), []
    for tag in ("", "2"):
        inputs = {k.split(":", 1)[1]: stored[k] for k in stored.files if k.startswith(f"in{tag}:")}
        try:
            made = model.run(inputs) if inputs else None
        except tinyrnn.TinyRNNError as error:
            found.append(type(error).__name__)
            continue
        names = model._layout.file_outputs
        by_name = dict(zip(names, [made] if len(names) == 1 else made or [], strict=False))
        good = all(
            v.shape == stored[f"out{tag}:{k}"].shape and within("close", v, stored[f"out{tag}:{k}"]) for k, v in by_name.items()
        )
        found.append("" if not inputs else "agrees" if good else "DIFFERS")
    stream = model._layout.refuses_stream or {"sequence": "streams", "step": "steps"}.get(model.kind, "no time axis")
    return model.kind, found[0], found[1], stream[:170]


def judge(path: Path) -> tuple[str, str, str, str]:
    try:
        return verdict(path)
    except Exception as error:  # a defect is a line of the table too
        return "-", "DEFECT", "", one_line(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", "--only", default="", help="a regular expression")
    parser.add_argument("--stored", action="store_true", help="only the files that tests/whole/test_architectures.py reads")
    parser.add_argument("--all", action="store_true", help="the cases of make_torch_models.py too")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    kept = {a.name for a in (*ARCHITECTURES, *CELLS)}
    known = len(CASES) if chosen.all else sum(base(case) in kept for case in CASES)
    jobs = [(n, e) for n in range(known) for e in EXPORTERS if re.search(chosen.only, CASES[n].name)]
    if chosen.stored:
        jobs = [(n, e) for n, e in jobs if re.search(STORED, f"{CASES[n].name}_{e}")]
    counts: Counter[str] = Counter()
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for index, exporter in jobs:
            stem = f"{CASES[index].name}_{exporter}"
            path, failed = chosen.folder / f"{stem}.onnx", chosen.folder / f"{stem}.failed"
            if not path.exists() and not failed.exists():
                text = pool.apply(make, ((index, exporter, chosen.folder),))
                if text:
                    failed.write_text(text, encoding="utf-8")
            row = ("-", "no file", "", failed.read_text(encoding="utf-8")) if failed.exists() else judge(path)
            counts[row[1]] += 1
            print(f"{stem:42} {row[0]:9} {row[1]:8} {row[2]:10} {row[3]}", flush=True)
    print(dict(counts))


if __name__ == "__main__":
    main()
